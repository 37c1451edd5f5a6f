//! The kill on the whole program at awkward times: while the session is being set up, and with guardian and supervisor dying themselves.

use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::session::running;
use crate::support::claude::{Claude, DUMMY_KEY};
use crate::support::components::Component;
use crate::support::env::TestEnv;
use crate::support::run::{descendants, is_alive, wait_for, wait_until};

const SOON: Duration = Duration::from_mins(1);

#[test]
fn a_kill_during_a_long_step_of_the_set_up_ends_it_in_order_and_not_by_the_guardian() {
    let Some(claude) = Claude::v330() else { return };
    let env = TestEnv::new();
    // The helper that prints the key waits until it is told to go on; it is asked when the session has announced itself.
    let (helper, marker, go_on) = (env.root().join("helper"), env.root().join("waits"), env.root().join("go-on"));
    nix::unistd::mkfifo(&go_on, nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::write(&helper, format!("#!/bin/sh\nmkdir {}\nread -r _ <{}\necho {DUMMY_KEY}\n", marker.display(), go_on.display())).unwrap();
    fs::set_permissions(&helper, PermissionsExt::from_mode(0o755)).unwrap();
    env.prepare_claude();
    env.claude_settings(&json!({ "apiKeyHelper": helper }));
    let run = env.sentrely(&["run", "--", claude.path().to_str().unwrap(), "-p", "never asked"]).without_var("ANTHROPIC_API_KEY").spawn();
    wait_until(SOON, "the slow step", || marker.exists());
    let id = env.the_session();
    fs::write(env.session_dir(&id).join("kill"), "").unwrap();
    let written = jiff::Timestamp::now();
    // What the guardian gives a supervisor that has not heard of a kill.
    wait_until(SOON, "the guardian's patience to be over", || {
        jiff::Timestamp::now().duration_since(written) > jiff::SignedDuration::from_millis(1_500)
    });
    // Fails where nobody waits any more, because the guardian has ended it.
    let mut told = fs::OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&go_on).unwrap();
    told.write_all(b"\n").unwrap();
    let output = run.wait(SOON).exits(122);
    assert!(output.stderr.contains("the session was stopped before its command began"), "{}", output.stderr);
    assert!(!output.stderr.contains("guardian"), "{}", output.stderr);
    let view = &env.ls_json()["sessions"][0];
    assert_eq!((&view["state"], &view["stop_reason"]), (&json!("stopped"), &json!("killed")));
    assert!(env.events(&id, "child_started").is_empty());
    assert_eq!(env.processes().len(), 0);
}

/// SIGKILL to supervisor and guardian, in this order or the other, the second as soon as the first is gone.
fn one_after_the_other(guardian_first: bool) {
    let env = TestEnv::new();
    let address = env.root().join("address");
    let command = format!("echo $ANTHROPIC_BASE_URL > {}; trap '' TERM; setsid sleep 300 & sleep 300", address.display());
    let (run, id, pids) = running(&env, &command, 3);
    let supervisor = i32::try_from(env.events(&id, "attempt_started")[0]["pid"].as_i64().unwrap()).unwrap();
    let proxy: SocketAddr = wait_for(SOON, "the proxy's address", || {
        let url = fs::read_to_string(&address).ok()?;
        url.strip_prefix("http://")?.split('/').next()?.trim().parse().ok()
    });
    assert!(TcpStream::connect(proxy).is_ok());
    let order = if guardian_first { [run.pid(), supervisor] } else { [supervisor, run.pid()] };
    for pid in order {
        // The second may have ended by itself, all its work done.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        wait_until(SOON, "its end", || !is_alive(pid));
    }
    let code = run.wait(SOON).code();
    assert!(code == 137 || code == 125, "{code}");
    // A killed process's main thread can be gone a moment before its last thread lets go of the socket.
    wait_until(SOON, "the end of its proxy: nothing can be spent", || TcpStream::connect(proxy).is_err());
    env.wait_until_nobody_holds(&id);
    let finished = env.sentrely(&["finish"]).run();
    wait_until(SOON, "the end of its processes", || pids.iter().all(|pid| !is_alive(*pid)));
    let view = &env.ls_json()["sessions"][0];
    assert_eq!((&view["state"], &view["stop_reason"]), (&json!("crashed"), &json!("crashed")), "{}", finished.stderr);
    let listed = env.sentrely(&["ls", "-a"]).run().success().stdout;
    assert!(listed.contains("crashed"), "{listed}");
    assert_eq!(env.processes().len(), 0);
}

#[test]
fn supervisor_and_guardian_killed_one_after_the_other_leave_no_process_no_proxy_and_a_crashed_session() {
    one_after_the_other(false);
}

#[test]
fn guardian_and_supervisor_killed_one_after_the_other_leave_no_process_no_proxy_and_a_crashed_session() {
    one_after_the_other(true);
}

/// Both stopped first, so that neither sees the other die. Returns the session and all that it left running.
fn both_at_once(env: &TestEnv, wall: &str, sleepers: usize, command: &str) -> (String, Vec<i32>) {
    let run = env.sentrely(&["run", "--wall", wall, "--", "sh", "-c", command]).var("SENTRELY_TEST_HIDE", "cgroups").spawn();
    let id = wait_for(SOON, "the session", || env.sessions().pop());
    // When its last processes sleep; what it started before may be on its way out.
    let supervisor = wait_for(SOON, "its command", || {
        env.root().join("began").exists().then(|| i32::try_from(env.events(&id, "attempt_started")[0]["pid"].as_i64().unwrap()).unwrap())
    });
    let is_asleep = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n");
    wait_until(SOON, "its sleep", || descendants(supervisor).iter().filter(|pid| is_asleep(pid)).count() == sleepers);
    let both = |signal| {
        for pid in [supervisor, run.pid()] {
            kill(Pid::from_raw(pid), signal).unwrap();
        }
    };
    both(Signal::SIGSTOP);
    let pids = descendants(supervisor);
    both(Signal::SIGKILL);
    let _ = run.wait(SOON).exits(128 + 9);
    env.wait_until_nobody_holds(&id);
    (id, pids.into_iter().filter(|pid| is_alive(*pid)).collect())
}

/// Leaves a process that no parent, group, session or environment leads to.
fn with_an_orphan(env: &TestEnv) -> String {
    let began = env.root().join("began");
    format!("(setsid env -i sh -c 'sleep 302; :' &); echo $ANTHROPIC_BASE_URL > {0}.tmp; mv {0}.tmp {0}; sleep 300", began.display())
}

#[test]
fn both_dead_at_once_behind_the_full_wall_can_spend_nothing_and_the_next_command_finds_the_last_orphan_and_says_so() {
    crate::needs!(Component::Proc, Component::Namespaces, Component::Program("setsid"));
    for next in [&["ls"][..], &["finish"], &["run", "--workspace", "none", "--", "true"], &["kill", "--all"]] {
        let env = TestEnv::new();
        let (id, pids) = both_at_once(&env, "require", 2, &with_an_orphan(&env));
        let url = fs::read_to_string(env.root().join("began")).unwrap();
        let proxy: SocketAddr = url.strip_prefix("http://").unwrap().split('/').next().unwrap().parse().unwrap();
        wait_until(SOON, "the end of its proxy: nothing can be spent", || TcpStream::connect(proxy).is_err());
        assert!(pids.len() >= 4 && pids.iter().all(|pid| is_alive(*pid)), "they outlive both: {pids:?}");
        let swept = env.sentrely(next).run().success();
        let said = format!("{}{}", swept.stdout, swept.stderr);
        assert!(said.contains(&format!("session {} had crashed: {} processes ended", &id[..8], pids.len())), "{next:?}: {said}");
        assert!(!said.contains("may still run"), "{said}");
        assert_eq!(pids.iter().filter(|pid| is_alive(**pid)).count(), 0, "{next:?}");
        let listed = env.sentrely(&["ls", "-a"]).run().success().stdout;
        assert!(listed.contains("supervisor and guardian had died, 125"), "{listed}");
    }
}

#[test]
fn both_dead_at_once_without_wall_and_cgroup_may_leave_an_orphan_without_a_mark_and_the_sweep_says_so() {
    crate::needs!(Component::Proc, Component::Program("setsid"));
    let env = TestEnv::new();
    let (id, pids) = both_at_once(&env, "off", 2, &with_an_orphan(&env));
    let said = env.sentrely(&["finish"]).run().success().stderr;
    assert!(said.contains(&format!("session {} had crashed", &id[..8])), "{said}");
    assert!(said.contains("it had neither the full wall nor a cgroup: a process that cleared its environment may still run"), "{said}");
    let left: Vec<i32> = pids.into_iter().filter(|pid| is_alive(*pid)).collect();
    assert_eq!(left.len(), 2, "the orphan and its child: the control of the test above");
    for pid in left {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

#[test]
fn a_kill_file_that_stands_when_both_are_dead_means_killed_by_whoever_wrote_it() {
    crate::needs!(Component::Proc);
    let env = TestEnv::new();
    let began = env.root().join("began");
    let (id, pids) = both_at_once(&env, "off", 1, &format!("echo more > later.txt; touch {}; sleep 300", began.display()));
    fs::write(env.session_dir(&id).join("kill"), r#"{"by":"ana","from":"pager","reason":"runaway"}"#).unwrap();
    let refused = env.sentrely(&["run", "--resume", &id[..8], "--", "true"]).run().exits(125);
    assert!(refused.stderr.contains(&format!("session {} was killed: ", &id[..8])), "{}", refused.stderr);
    assert!(refused.stderr.contains("it was killed by ana from pager at "), "{}", refused.stderr);
    assert!(pids.iter().all(|pid| !is_alive(*pid)));
    let view = &env.ls_json()["sessions"][0];
    assert_eq!((&view["state"], &view["stop_reason"], &view["exit_code"]), (&json!("stopped"), &json!("killed"), &json!(122)));
    // Its work comes home all the same.
    let finished = env.sentrely(&["finish"]).run().success();
    assert!(finished.stderr.contains(&format!("session {}: its work is on sentrely/", &id[..8])), "{}", finished.stderr);
    assert_eq!(env.git(&["show", &format!("{}:later.txt", view["branch"].as_str().unwrap())]), "more");
}

#[test]
fn what_is_hidden_of_the_machine_is_said_and_no_project_can_hide_it() {
    let env = TestEnv::new();
    fs::write(env.project().join("sentrely.toml"), "[env]\nset = { SENTRELY_TEST_HIDE = \"cgroups\" }\n").unwrap();
    let refused = env.sentrely(&["run", "--workspace", "none", "--", "true"]).run().exits(125);
    assert!(refused.stderr.contains("env.set"), "{}", refused.stderr);
    fs::write(env.project().join("sentrely.toml"), "").unwrap();
    let plain = env.sentrely(&["run", "--workspace", "none", "--", "true"]).run().success();
    assert!(!plain.stderr.contains("hides"), "{}", plain.stderr);
    let hidden =
        env.sentrely(&["run", "--workspace", "none", "--", "true"]).var("SENTRELY_TEST_HIDE", "cgroups,namespaces").run().success();
    assert!(hidden.stderr.contains("hides cgroups, namespaces of this machine"), "{}", hidden.stderr);
    assert!(!hidden.stderr.contains("full:"), "{}", hidden.stderr);
}
