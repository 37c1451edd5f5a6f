//! `finish` and the start of a run: what crashed sessions leave, and old records, on real sessions.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::session::running;
use crate::support::env::TestEnv;
use crate::support::run::{is_alive, wait_until};

const SOON: Duration = Duration::from_mins(1);

/// Runs a session that leaves a commit; its id and its branch.
fn with_work(env: &TestEnv, name: &str) -> (String, String) {
    let before = env.sessions();
    let script = format!("echo work > {name}.txt && git add -A && git commit -qm {name}; echo more > {name}-later.txt");
    let _ = env.sentrely(&["run", "--name", name, "--", "sh", "-c", &script]).run().success();
    let id = env.sessions().into_iter().find(|id| !before.contains(id)).unwrap();
    let shown = env.sentrely(&["show", &id, "--json"]).run().success().json();
    (id, shown["session"]["branch"].as_str().unwrap().to_owned())
}

#[test]
fn old_sessions_go_with_their_copies_once_their_work_is_in_the_repository_and_not_before() {
    let env = TestEnv::new();
    let (home, home_branch) = with_work(&env, "home");
    let (lost, lost_branch) = with_work(&env, "lost");
    let (young, _) = with_work(&env, "young");
    // Its work is nowhere else any more.
    env.git(&["branch", "-q", "-D", &lost_branch]);
    let finished = env.sentrely(&["finish"]).var("SENTRELY_STORE_KEEP_SESSIONS", "1").run().success();
    assert!(finished.stderr.contains("removed the records of 1 ended session"), "{}", finished.stderr);
    assert!(finished.stderr.contains("kept 1 old session whose work is not all in your repository"), "{}", finished.stderr);
    let there = [&home, &lost, &young].map(|id| env.session_dir(id).exists());
    assert_eq!(there, [false, true, true]);
    assert_eq!(env.git(&["show", &format!("{home_branch}:home.txt")]), "work");
    assert_eq!(env.git(&["show", &format!("{home_branch}:home-later.txt")]), "more");
    assert!(env.git(&["for-each-ref", "refs/sentrely"]).lines().all(|line| !line.contains(&home)), "nothing keeps its base alive");
    assert!(env.session_dir(&lost).join("work/project/lost.txt").exists());
    assert!(env.git(&["branch", "--list", &lost_branch]).is_empty(), "what the developer deleted is not brought back");
    // Its summary stays.
    assert!(env.sentrely(&["show", &home]).run().success().stdout.contains("its journal was cleared away"));
}

#[test]
fn after_both_watchers_died_the_next_run_ends_what_is_left_even_what_cleared_its_environment() {
    let env = TestEnv::new();
    let script = "trap '' TERM; env -i sh -c 'sleep 301 & sleep 302' & exec env -i sleep 300";
    let (run, id, pids) = running(&env, script, 4);
    // A neighbour that has nothing to do with it.
    let mut bystander = Command::new("sleep").arg("303").stdin(Stdio::null()).spawn().unwrap();
    let status: serde_json::Value = serde_json::from_slice(&fs::read(env.session_dir(&id).join("status.json")).unwrap()).unwrap();
    let supervisor = i32::try_from(status["session"]["pid"].as_i64().unwrap()).unwrap();
    // Stopped first, so that neither sees the other go.
    for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
        for pid in [run.pid(), supervisor] {
            kill(Pid::from_raw(pid), signal).unwrap();
        }
    }
    let _ = run.wait(SOON);
    env.wait_until_nobody_holds(&id);
    assert!(pids.iter().any(|pid| is_alive(*pid)), "the control: something is left");
    let next = env.sentrely(&["run", "--", "true"]).run().success();
    assert!(next.stderr.contains(&format!("session {} had crashed", &id[..8])), "{}", next.stderr);
    wait_until(SOON, "the end of all of them", || pids.iter().all(|pid| !is_alive(*pid)));
    assert!(bystander.try_wait().unwrap().is_none());
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}
