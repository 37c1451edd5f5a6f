//! Which hosts the client looks for when nobody tells it not to: a run in a network with nothing but loopback.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use sentrely::simulated::{Answer, Upstream};

use super::{supervised, tell, upstream, world};
use crate::support::claude::Claude;
use crate::support::namespace;

/// A name server that knows no name and remembers each that it was asked for.
struct NameServer {
    asked: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl NameServer {
    /// On 127.0.0.1, and the only one of this mount namespace.
    fn start(scratch: &std::path::Path) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:53").unwrap();
        let resolv = scratch.join("resolv.conf");
        std::fs::write(&resolv, "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n").unwrap();
        let place = std::fs::canonicalize("/etc/resolv.conf").unwrap();
        namespace::command("mount", &["--bind", resolv.to_str().unwrap(), place.to_str().unwrap()]);
        let asked = Arc::new(Mutex::new(BTreeMap::new()));
        let seen = Arc::clone(&asked);
        thread::spawn(move || {
            let mut packet = [0; 512];
            while let Ok((length, peer)) = socket.recv_from(&mut packet) {
                let Some(name) = question(&packet[..length]) else { continue };
                *seen.lock().unwrap().entry(name).or_insert(0) += 1;
                // A response, recursion available, no such name.
                packet[2] = 0x81;
                packet[3] = 0x83;
                // The question alone: additional records of the request are not repeated.
                packet[10..12].fill(0);
                let end = 12 + packet[12..length].iter().position(|byte| *byte == 0).unwrap() + 5;
                let _ = socket.send_to(&packet[..end], peer);
            }
        });
        Self { asked }
    }

    fn names(&self) -> BTreeMap<String, usize> {
        self.asked.lock().unwrap().clone()
    }
}

/// The name of a packet's first question.
fn question(packet: &[u8]) -> Option<String> {
    let mut labels = Vec::new();
    let mut rest = packet.get(12..)?;
    while let Some((length @ 1..=u8::MAX, tail)) = rest.split_first() {
        let (label, tail) = tail.split_at_checked(usize::from(*length))?;
        labels.push(String::from_utf8_lossy(label).to_lowercase());
        rest = tail;
    }
    Some(labels.join("."))
}

fn without_the_switch(claude: &Claude) {
    let env = world();
    let names = NameServer::start(env.root());
    namespace::command("getent", &["hosts", "localhost"]);
    let control = std::process::Command::new("getent").args(["hosts", "control.example"]).output().unwrap();
    assert!(!control.status.success() && names.names().contains_key("control.example"), "the positive control");

    let upstream: Upstream = upstream([Answer::bash("true"), Answer::text("done")]);
    let run = supervised(&env, claude, &[], &["-p", "work", "--dangerously-skip-permissions"]).upstream(&upstream);
    let run = run.without_var("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC").without_var("DISABLE_AUTOUPDATER");
    let output = run.timeout(Duration::from_secs(50)).run().success();
    assert_eq!(output.stdout, "done\n", "{}", output.stderr);
    assert!(env.processes().is_empty());
    let mut asked = names.names();
    asked.remove("control.example");
    let times = asked.iter().map(|(name, count)| format!("{name} x{count}")).collect::<Vec<_>>().join(", ");
    let requests = upstream.requests().iter().map(|record| format!("{} {}", record.method, record.path)).collect::<Vec<_>>().join(", ");
    tell(&format!("claude {} without CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC looked for: {times}", claude.name()));
    tell(&format!("and asked the upstream: {requests}"));
    // What spends money goes to the proxy alone: the hosts are the client's housekeeping.
    assert_eq!(upstream.messages().iter().filter(|record| record.model == claude.default_model()).count(), 2);
}

#[test]
fn claude_2_1_330_without_the_switch_works_in_a_network_that_has_nothing_but_loopback() {
    let Some(claude) = Claude::v330() else { return };
    if namespace::entered(module_path!(), "claude_2_1_330_without_the_switch_works_in_a_network_that_has_nothing_but_loopback") {
        without_the_switch(&claude);
    }
}

#[test]
fn claude_2_1_197_without_the_switch_works_in_a_network_that_has_nothing_but_loopback() {
    let Some(claude) = Claude::v197() else { return };
    if namespace::entered(module_path!(), "claude_2_1_197_without_the_switch_works_in_a_network_that_has_nothing_but_loopback") {
        without_the_switch(&claude);
    }
}
