//! `[wall] pid_namespace`: the session sees no processes but its own and can act on none; for the supervisor all is as ever.

use super::*;
use crate::support::components::PYTHON;
use crate::support::run::{is_alive, wait_for, wait_until};

const OWN: [&str; 4] = ["--wall", "require", "--config", "wall.pid_namespace=true"];

fn whos() -> impl Iterator<Item = Who> {
    [Who::Root, Who::User].into_iter().filter(|who| full_wall(*who))
}

/// Ways to act on a process outside, or to see it.
const REACH: &str = r#"
import os
out = int(os.environ["OUT"])
ways = {
    "renice": lambda: os.setpriority(os.PRIO_PROCESS, out, os.getpriority(os.PRIO_PROCESS, out) + 1),
    "affinity": lambda: os.sched_setaffinity(out, os.sched_getaffinity(out)),
    "see": lambda: os.stat(f"/proc/{out}"),
}
for name, way in ways.items():
    try:
        way()
        print(name)
    except OSError:
        pass
"#;

#[test]
fn nothing_outside_is_seen_or_slowed_down_and_exit_codes_are_the_commands_own() {
    crate::needs!(PYTHON);
    for who in whos() {
        let world = World::new(who);
        let outside = Outside::start(&world, &["sleep", "600"]);
        let reached = |flags: &[&str]| {
            let run =
                world.run(&[flags, &["--workspace", "none"]].concat(), &["python3", "-c", REACH]).var("OUT", outside.pid().to_string());
            run.run().success().stdout
        };
        assert_eq!(reached(&OWN), "", "{who:?}");
        assert_eq!(reached(&["--wall", "require"]), "renice\naffinity\nsee\n", "{who:?}: the control");

        let run = |script: &str| world.run(&[&OWN[..], &["--workspace", "none"]].concat(), &["bash", "-c", script]).run();
        assert_eq!(run("exit 7").exits(7).stdout, "");
        let _ = run("kill -9 $$").exits(137);
        // Its own processes, and the one that reaps them; orphans do not stay.
        let script = "for n in $(seq 20); do (true &); done; while [ $(cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z ') != 0 ]; do :; done; cat /proc/1/comm; echo $$";
        let output = run(script).success();
        assert_eq!(output.stdout, "sentrely-init\n2\n", "{}", output.stderr);
        assert!(output.stderr.contains("processes of its own") && !output.stderr.contains("\n  ended"), "{}", output.stderr);
        // A session inside is refused though no environment names the one around it.
        let inner = format!("env -u SENTRELY_RUN_ID SENTRELY_STATE_DIR=$HOME/s {} run -- true", world.sentrely.display());
        assert!(run(&inner).exits(125).stderr.contains("start a session inside session"));
    }
}

#[test]
fn a_kill_ends_whatever_escaped_within_it_and_so_does_a_normal_end() {
    crate::needs!(PYTHON, Component::Program("setsid"));
    for who in whos() {
        for ending in ["kill", "exit"] {
            let world = World::new(who);
            // In sessions of their own, orphaned, deaf to TERM, stopped: they tell the numbers that only the outside has.
            let script = "for how in 'trap \"\" TERM HUP INT; sleep 600' 'kill -STOP $$' 'setsid setsid sleep 600'; do setsid sh -c \"$how\" & (setsid sh -c \"$how\" &); done; \
                          echo up; test \"$1\" = exit || sleep 600";
            let flags = [&OWN[..], &["--workspace", "none"]].concat();
            let running = world.run(&flags, &["sh", "-c", script, "sh", ending]).spawn();
            let id = wait_for(Duration::from_mins(1), "the session", || world.env.sessions().into_iter().find(|id| id != "other"));
            if ending == "kill" {
                wait_until(Duration::from_mins(1), "the command's word", || running.stdout().contains("up"));
                let child = world.env.events(&id, "child_started")[0]["pid"].as_i64().unwrap();
                let mut words = world.as_who();
                words.extend([world.sentrely.display().to_string(), "kill".to_owned(), "--now".to_owned(), id.clone()]);
                let _ = world.env.command(&words[0], &words[1..]).var("PATH", PATH).run().success();
                assert!(!is_alive(i32::try_from(child).unwrap()));
            }
            let output = running.wait(Duration::from_mins(2)).exits(if ending == "kill" { 122 } else { 0 });
            assert!(world.env.processes().is_empty(), "{who:?} {ending}: {}", output.stderr);
            assert_eq!(world.env.events(&id, "attempt_ended")[0]["survivors"], serde_json::json!([]));
        }
    }
}

#[test]
fn without_the_full_wall_there_is_no_session_with_processes_of_its_own() {
    let world = World::new(if nix::unistd::getuid().is_root() { Who::Root } else { Who::User });
    let run = world.run(&["--config", "wall.pid_namespace=true"], &["true"]).var("SENTRELY_TEST_HIDE", "namespaces");
    let output = run.run().exits(125);
    assert!(output.stderr.contains("a process namespace of its own") && output.stderr.contains("hint:"), "{}", output.stderr);
    assert_eq!(world.env.sessions(), ["other"]);
}
