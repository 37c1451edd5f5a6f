//! Nothing of the tree survives, whatever way it took.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::run::{Place, Run, script, wait_for};

tests![
    killing_the_group_alone_leaves_the_escaped_alive,
    nothing_survives_a_kill,
    nothing_survives_a_kill_with_a_grace_period_not_even_what_is_born_in_it,
    a_respawner_is_caught,
    what_is_left_at_a_normal_exit_is_ended_and_the_code_is_the_agents,
    orphans_are_reaped_at_once_while_helpers_of_other_threads_keep_their_status,
    what_runs_as_another_user_is_named_as_a_survivor,
];

const WAYS: [&str; 9] = ["plain", "setsid", "daemon", "nohup", "ignoreall", "envclear", "stopped", "late", "leaderless"];

/// The positive control: the ways do lead out.
fn killing_the_group_alone_leaves_the_escaped_alive() {
    let place = Place::new();
    let mut agent = Command::new("python3")
        .arg(script("escape.py"))
        .arg(place.hidden())
        .arg("STAY")
        .args(WAYS)
        .process_group(0)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    place.wait_until_hidden();
    killpg(Pid::from_raw(agent.id().cast_signed()), Signal::SIGKILL).unwrap();
    agent.wait().unwrap();
    let living = || {
        let mut living = place.living();
        living.sort();
        living
    };
    let out = ["daemon", "envclear", "ignoreall", "late", "leaderless", "setsid", "stopped"];
    wait_for("the rest of the group to end", || (living().len() <= out.len()).then_some(()));
    assert_eq!(living(), out);
}

fn nothing_survives_a_kill() {
    let mut run = Run::escape("-", "STAY", &WAYS);
    assert_eq!(run.place.living().len(), WAYS.len() + 1);
    run.place.kill();
    assert_eq!(run.finish(), (128 + 9, String::new()));
    assert_eq!(run.place.living(), Vec::<String>::new());
    run.place.event("ended some=true survivors=[] left=0 exit=Some((None, Some(9)))");
}

fn nothing_survives_a_kill_with_a_grace_period_not_even_what_is_born_in_it() {
    let mut run = Run::escape("grace=300", "STAY", &WAYS);
    run.place.kill();
    assert_eq!(run.finish(), (128 + 15, String::new()));
    assert!(run.place.registered().iter().any(|(name, ..)| name == "born-late"), "{:?}", run.place.registered());
    assert_eq!(run.place.living(), Vec::<String>::new());
    run.place.event("ended some=true survivors=[] left=0 exit=Some((None, Some(15)))");
}

fn a_respawner_is_caught() {
    let mut run = Run::escape("-", "STAY", &["respawner", "respawner", "respawner"]);
    run.place.kill();
    assert_eq!(run.finish(), (128 + 9, String::new()));
    run.place.event("ended some=true survivors=[] left=0");
}

fn what_is_left_at_a_normal_exit_is_ended_and_the_code_is_the_agents() {
    let mut run = Run::escape("grace=100", "LEAVE", &WAYS);
    assert_eq!(run.finish(), (0, String::new()));
    assert_eq!(run.place.living(), Vec::<String>::new());
    run.place.event("ended some=true survivors=[] left=0 exit=Some((Some(0), None))");
    let place = Place::new();
    let mut run = Run::start(place, "-", &["sh", "-c", "exit 42"]);
    assert_eq!(run.finish(), (42, String::new()));
    run.place.event("ended some=false survivors=[] left=0 exit=Some((Some(42), None))");
}

fn orphans_are_reaped_at_once_while_helpers_of_other_threads_keep_their_status() {
    // Orphans come from grandchildren whose parent ends first, for as long as the helpers run.
    let orphans = "while :; do (sh -c ':' & ) ; done";
    let mut run = Run::start(Place::new(), "helpers", &["sh", "-c", orphans]);
    run.place.event("helpers ok");
    run.place.kill();
    assert_eq!(run.finish().0, 128 + 9);
    run.place.event("ended some=true survivors=[] left=0");
}

/// Needs root, to make a program that becomes root as sudo does; there is nothing to show otherwise.
fn what_runs_as_another_user_is_named_as_a_survivor() {
    const NOBODY: u32 = 65_534;
    if !nix::unistd::geteuid().is_root() || std::path::Path::new("/usr/bin/sudo").exists() {
        return;
    }
    let place = Place::new();
    for dir in [place.state().to_owned(), place.session(), place.hidden()] {
        chown(dir, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let python = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output().unwrap().stdout;
    let setuid = place.state().join("setuid-python");
    std::fs::copy(String::from_utf8(python).unwrap().trim(), &setuid).unwrap();
    std::fs::set_permissions(&setuid, PermissionsExt::from_mode(0o4755)).unwrap();
    let become_root = "import os, time, sys\nos.setuid(0)\nopen(sys.argv[1] + '/ready', 'w').close()\ntime.sleep(60)";
    let hidden = place.hidden();
    let program = [setuid.to_str().unwrap(), "-c", become_root, hidden.to_str().unwrap()];
    let mut run = Run::start_as(Some(NOBODY), place, "-", &program);
    run.place.wait_until_hidden();
    run.place.kill();
    let agent = run.pid("agent");
    let ended = run.place.event("ended ");
    let start = crate::run::stat(agent).unwrap().1;
    let survivor = format!("Survivor {{ pid: {agent}, comm: \"setuid-python\", start: Some({start}), why: Setuid }}");
    assert_eq!(ended, format!("ended some=false survivors=[{survivor}] left=1 exit=None"));
    run.signal("agent", Signal::SIGKILL);
    assert_eq!(run.finish().0, 99);
}
