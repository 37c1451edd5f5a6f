//! A small supervisor: what `sentrely run` is to the process part, without anything else. It writes what happens to DIR/events, a
//! line each, and the guardian's last words to DIR/orphaned.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::process::parent_id;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use sentrely::process::{Agent, AgentEvent, AgentRequest, Forked, GuardianLink, Orphaned, guardian};
use sentrely::store::kill_file::{KillFileWatch, paths_for};
use tokio::signal::unix::{SignalKind, signal};

/// `supervise DIR OPTIONS PROGRAM [ARGS]`; options are separated by commas: `grace=MS`, `deaf` (sees no kill file), `idle`
/// (acknowledges a kill and does nothing), `helpers` (runs 200 helper programs beside the agent), `deliver` (after the tree's end runs a
/// slow helper program, and reads no kill file and no message meanwhile), `-` (none).
pub(crate) fn main(args: &[OsString]) -> ExitCode {
    let dir = PathBuf::from(&args[0]);
    match guardian::fork(|orphaned, session| last_words(&dir, orphaned, session)) {
        Err(error) => panic!("{error}"),
        Ok(Forked::GuardianEnded(code)) => ExitCode::from(code),
        Ok(Forked::Supervisor(link)) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let code = runtime.block_on(supervise(&dir, &args[1].to_string_lossy(), &args[2..], &link));
            link.finished();
            ExitCode::from(code)
        }
    }
}

fn last_words(dir: &Path, orphaned: &Orphaned, session: Option<&Path>) -> String {
    assert_eq!(session, Some(dir));
    let lock = File::open(dir.join("lock")).unwrap();
    let locked = if lock.try_lock().is_err() { "held" } else { "free" };
    let Orphaned { supervisor_status, processes_ended, outcome, kill_file, supervisor_was_stuck } = orphaned;
    let text = format!(
        "signal={:?} some={} survivors={} killed={} stuck={supervisor_was_stuck} lock={locked}",
        supervisor_status.signal,
        *processes_ended > 0,
        outcome.survivors.len(),
        kill_file.is_some(),
    );
    std::fs::write(dir.join("orphaned"), text).unwrap();
    "guardian: the supervisor died".into()
}

async fn supervise(dir: &Path, options: &str, command: &[OsString], link: &GuardianLink) -> u8 {
    let events = OpenOptions::new().create(true).append(true).open(dir.join("events")).unwrap();
    let note = |text: String| (&events).write_all((text + "\n").as_bytes()).unwrap();
    let has = |option: &str| options.split(',').any(|given| given == option);
    let grace = options.split(',').find_map(|given| given.strip_prefix("grace="));
    let grace = grace.map(|ms| Duration::from_millis(ms.parse().unwrap()));

    let lock = File::create(dir.join("lock")).unwrap();
    lock.lock().unwrap();
    link.session(dir, &lock).unwrap();
    drop(lock);
    let watch = KillFileWatch::new(&paths_for(dir)).unwrap();
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    let mut interrupt = signal(SignalKind::interrupt()).unwrap();

    let request = AgentRequest {
        program: PathBuf::from(&command[0]),
        args: command[1..].to_vec(),
        env: std::env::vars_os().collect(),
        cwd: std::env::current_dir().unwrap(),
        cgroup: if has("cgroup") { sentrely::process::Cgroup::make("test") } else { None },
        pre_exec: None,
        successor: None,
    };
    let mut agent = Agent::spawn(request).unwrap();
    link.agent(agent.pid(), agent.cgroup().map(sentrely::process::Cgroup::path)).unwrap();
    #[cfg(target_os = "linux")]
    assert!(!nix::sys::prctl::get_dumpable().unwrap() && nix::sys::prctl::get_child_subreaper().unwrap());
    note(format!("guardian={} supervisor={} agent={}", parent_id(), std::process::id(), agent.pid()));
    if has("helpers") {
        for number in 0..200 {
            let output = tokio::task::spawn_blocking(|| Command::new("sh").args(["-c", "echo out; exit 7"]).output());
            let output = output.await.unwrap().unwrap();
            assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(7), b"out\n".as_slice()), "{number}");
        }
        note("helpers ok".into());
    }

    let mut kill_seen = has("deaf");
    loop {
        tokio::select! {
            event = agent.event() => match event {
                AgentEvent::Exited(exit) => {
                    note(format!("exited code={:?} signal={:?}", exit.code, exit.signal));
                    break;
                }
                AgentEvent::Stopped => note("stopped".into()),
                AgentEvent::Continued => note("continued".into()),
            },
            event = link.next() => {
                note(format!("guardian says {event:?}"));
                break;
            },
            _ = watch.wait(), if !kill_seen => {
                kill_seen = true;
                link.kill_seen();
                note("kill seen".into());
                if !has("idle") {
                    break;
                }
            },
            _ = terminate.recv() => note("got TERM".into()),
            _ = interrupt.recv() => note("got INT".into()),
        }
    }
    let ended = agent.end(grace).await;
    let zombies = agent.processes();
    note(format!(
        "ended some={} survivors={:?} left={zombies} exit={:?}",
        ended.processes > 0,
        ended.outcome.survivors,
        ended.exit.map(|exit| (exit.code, exit.signal)),
    ));
    note(format!("took {:?} for {}", ended.gone_at - ended.signalled_at, ended.processes));
    if has("deliver") {
        link.tree_gone();
        // It takes until the test says so.
        let go_on = dir.join("go-on");
        nix::unistd::mkfifo(&go_on, nix::sys::stat::Mode::S_IRWXU).unwrap();
        note("delivering".into());
        let wait = move || Command::new("sh").arg("-c").arg("read -r _ < \"$1\"").arg("sh").arg(go_on).status();
        let delivered = tokio::task::spawn_blocking(wait).await.unwrap().unwrap();
        note(format!("delivered {}", delivered.success()));
    }
    ended.exit.map_or(99, sentrely::process::Exit::shell_code)
}
