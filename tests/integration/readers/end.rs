//! `kill` and `finish`.

use std::fs;
use std::io::Write;
use std::time::Duration;

use insta::assert_snapshot;
use sentrely::model::{SessionState, StopReason};
use sentrely::store::kill_file::KillRequest;
use sentrely::store::sweep::boot_id;
use sentrely::store::{SessionLock, verify_journal};

use super::MINUTES;
use crate::support::state::{Home, Obeys, ago, left_behind, read_until, with_input};

#[test]
fn kill_writes_the_kill_file_tells_the_stages_and_returns_when_nothing_is_left() {
    let home = Home::new();
    let mut session = home.session("9f3a12cd", ago(MINUTES * 12));
    session.started();
    let _alive = session.live(Obeys::Well);
    let ran = home.run(&["kill", "9f3a", "--now", "--reason", "wrong branch"]);
    assert_snapshot!(ran.stdout, @"
    9f3a12cd  gate closed 0.4 ms · credentials withheld 0.6 ms · signal sent 0.9 ms · last process gone 212 ms · 7 processes ended
    ");
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    assert!(!SessionLock::is_held(&session.dir.lock_file()).unwrap());
    let asked = KillRequest::read(&session.dir.kill_file());
    assert_eq!((asked.reason.as_deref(), asked.now), (Some("wrong branch"), true));
    assert!(asked.by.is_some() && asked.from.is_some() && asked.at.is_some());
    let again = home.run(&["kill", "9f3a"]);
    assert_eq!(again.code, 0);
    assert!(again.stdout.starts_with("session 9f3a12cd had ended already: killed, "), "{}", again.stdout);
}

#[test]
fn kill_of_several_waits_for_all_and_tells_each_on_a_line() {
    let home = Home::new();
    let mut lives = Vec::new();
    for id in ["aaaa1111", "bbbb2222"] {
        let mut session = home.session(id, ago(MINUTES));
        session.started();
        lives.push(session.live(Obeys::Well));
    }
    let ran = home.run(&["kill", "--all"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    let mut lines: Vec<&str> = ran.stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines.len(), 2, "{}", ran.stdout);
    assert!(lines[0].starts_with("aaaa1111  gate closed 0.4 ms · ") && lines[0].ends_with(" · 7 processes ended"), "{}", ran.stdout);
    assert!(lines[1].starts_with("bbbb2222  gate closed 0.4 ms · "));
    let ran = home.run(&["kill", "--all"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, "no sessions are running\n"));
}

#[test]
fn kill_names_what_is_left_and_exits_4() {
    let home = Home::new();
    let mut session = home.session("9f3a12cd", ago(MINUTES));
    session.started();
    let _alive = session.live(Obeys::Partly);
    let ran = home.run(&["kill", "9f3a"]);
    assert_eq!(ran.code, 4);
    assert!(ran.stdout.contains("STILL THERE: 4720 sudo (it runs as another user and may not be signalled)"), "{}", ran.stdout);
}

#[test]
fn kill_says_so_when_a_session_does_not_end_in_time() {
    let home = Home::new();
    let mut session = home.session("9f3a12cd", ago(MINUTES));
    session.started();
    let _alive = session.live(Obeys::Never);
    let ran = home.run(&["kill", "9f3a", "--patience", "1s"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (4, ""));
    assert_snapshot!(ran.stderr, @"
    failed to kill session 9f3a12cd: it is still there after 1 s

    hint: its kill file stands; `sentrely kill --now 9f3a12cd` waits again, `sentrely show 9f3a12cd` tells its pid
    ");
    assert!(session.dir.kill_file().exists());
}

#[test]
fn kill_calls_a_session_killed_whose_processes_are_gone_though_its_work_is_still_being_saved() {
    let home = Home::new();
    let mut session = home.session("9f3a12cd", ago(MINUTES));
    session.started();
    let _alive = session.live(Obeys::BySavingLong);
    let ran = home.run(&["kill", "9f3a", "--patience", "5s"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{}", ran.stdout);
    assert!(ran.stdout.ends_with(" · last process gone 212 ms · killed; still saving the work\n"), "{}", ran.stdout);
}

#[test]
fn kill_clears_up_after_a_session_whose_supervisor_dies_of_it() {
    let home = Home::new();
    let mut session = home.session("9f3a12cd", ago(MINUTES));
    session.started();
    let _alive = session.live(Obeys::ByVanishing);
    let ran = home.run(&["kill", "9f3a"]);
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (
            0,
            "session 9f3a12cd was killed: no process of it was left; it had neither the full wall nor a cgroup: a process that cleared its environment may still run\n"
        )
    );
    let view = session.view();
    assert_eq!((view.state, view.stop_reason), (SessionState::Stopped, Some(StopReason::Killed)));
}

#[test]
fn kill_of_an_unknown_session_exits_3_and_one_of_several_exits_4() {
    let home = Home::new();
    home.session("9f3a12cd", ago(MINUTES)).started().ended(StopReason::ChildExited, 0);
    let ran = home.run(&["kill", "abcd"]);
    assert_eq!(ran.code, 3);
    assert_snapshot!(ran.stderr, @"
    failed to find a session `abcd`

    hint: `sentrely ls -a` lists all sessions
    ");
    let ran = home.run(&["kill", "9f3a", "abcd"]);
    assert_eq!(ran.code, 4);
    assert!(ran.stdout.contains("9f3a12cd had ended already") && ran.stderr.contains("find a session `abcd`"));
}

#[test]
fn an_ambiguous_prefix_lists_the_candidates_and_nothing_is_killed() {
    let home = Home::new();
    for id in ["9f3a12cd", "9f3b0000", "aaaa1111"] {
        home.session(id, ago(MINUTES)).started();
    }
    let ran = home.run(&["kill", "aaaa", "9f3"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (3, ""));
    assert_snapshot!(ran.stderr, @"
    failed to find the session `9f3`: 2 sessions begin with it: 9f3a12cd, 9f3b0000

    hint: type more digits of the id
    ");
    for dir in home.state.session_dirs().unwrap() {
        assert!(!dir.kill_file().exists());
        assert_eq!(dir.view().unwrap().ended_at, None);
    }
}

#[test]
fn an_unknown_or_ambiguous_session_is_not_resumed_and_nothing_is_made() {
    let home = Home::new();
    for id in ["9f3a12cd", "9f3b0000"] {
        home.session(id, ago(MINUTES)).started().ended(StopReason::ChildExited, 0);
    }
    for (prefix, said, hint) in [
        ("abcd", "find a session `abcd`", "`sentrely ls -a` lists all sessions"),
        ("9f3", "find the session `9f3`: 2 sessions begin with it: 9f3a12cd, 9f3b0000", "type more digits of the id"),
    ] {
        let ran = home.run(&["run", "--resume", prefix, "--workspace", "none", "--", "true"]);
        assert_eq!((ran.code, ran.stdout.as_str()), (125, ""));
        assert!(ran.stderr.contains(said) && ran.stderr.contains(&format!("hint: {hint}")), "{}", ran.stderr);
    }
    assert_eq!(home.state.session_dirs().unwrap().len(), 2);
}

#[test]
fn kill_without_a_session_is_a_usage_error() {
    let home = Home::new();
    let ran = home.run(&["kill"]);
    assert_eq!(ran.code, 2);
    assert_snapshot!(ran.stderr, @"
    failed to kill anything: no session was named

    hint: name a session (`sentrely ls` lists them), or all of them with --all
    ");
}

#[test]
fn from_inside_a_session_only_that_session_can_be_killed() {
    let home = Home::new();
    let own = home.session("aaaa1111", ago(MINUTES)).started().ended(StopReason::ChildExited, 0).id().to_string();
    home.session("bbbb2222", ago(MINUTES)).started();
    let inside = |words: &[&str]| home.ran(home.command(words).env("SENTRELY_RUN_ID", &own).output().unwrap());
    for words in [&["kill", "bbbb"][..], &["kill", "--all"]] {
        let ran = inside(words);
        assert_eq!((ran.code, ran.stdout.as_str()), (125, ""));
        assert!(ran.stderr.contains("kill bbbb2222: this is the inside of another session"), "{}", ran.stderr);
        assert!(
            ran.stderr.contains("hint: from inside a session only that session can be killed: sentrely kill aaaa1111"),
            "{}",
            ran.stderr
        );
    }
    assert_eq!(inside(&["kill", "aaaa"]).code, 0);
    assert_eq!(inside(&["finish"]).code, 125);
    assert!(home.state.session_dirs().unwrap().iter().all(|dir| !dir.kill_file().exists()));
}

#[test]
fn kill_all_asks_on_a_terminal_and_takes_only_yes() {
    let home = Home::new();
    let mut session = home.session("9f3a12cd", ago(MINUTES));
    session.started();
    let _alive = session.live(Obeys::Well);
    let answer = |word: &str| {
        let pair = portable_pty::native_pty_system().openpty(portable_pty::PtySize::default()).unwrap();
        let mut command = portable_pty::CommandBuilder::new(env!("CARGO_BIN_EXE_sentrely"));
        command.env_clear();
        command.args(["kill", "--all"]);
        for (name, value) in [("HOME", home.path()), ("SENTRELY_STATE_DIR", home.state.path()), ("TERM", "dumb".as_ref())] {
            command.env(name, value);
        }
        let mut child = pair.slave.spawn_command(command).unwrap();
        drop(pair.slave);
        let (mut reader, mut writer) = (pair.master.try_clone_reader().unwrap(), pair.master.take_writer().unwrap());
        read_until(&mut reader, "kill 1 session? [y/N] ");
        writer.write_all(word.as_bytes()).unwrap();
        let end = if word == "y\n" { "7 processes ended" } else { "nothing was killed" };
        read_until(&mut reader, end);
        child.wait().unwrap().exit_code()
    };
    assert_eq!(answer("\n"), 1);
    assert!(!session.dir.kill_file().exists());
    assert_eq!(answer("y\n"), 0);
    let ran = with_input(&home, home.command(&["kill", "--all"]), "");
    assert_eq!(ran.code, 0);
}

#[test]
fn finish_ends_what_a_crashed_session_left_and_records_it() {
    let home = Home::new();
    let mut session = home.session("9f3a12cd", ago(MINUTES * 12));
    session.started_in(&boot_id()).spent();
    let mut left = left_behind(session.id());
    // It is our child, so it must be reaped for it to be gone; as an orphan it would be init's.
    let reaped = std::thread::spawn(move || left.wait().unwrap());
    let ran = home.run(&["finish"]);
    assert_eq!(
        (ran.code, ran.stderr.as_str()),
        (
            0,
            "session 9f3a12cd had crashed: 1 process ended; it had neither the full wall nor a cgroup: a process that cleared its environment may still run\n"
        )
    );
    assert!(!reaped.join().unwrap().success());
    assert_eq!(home.run(&["ls", "-q"]).stdout, "");
    let index = sentrely::store::read_index(home.state.path()).unwrap();
    assert_eq!(index.iter().map(|view| (view.id, view.exit_code)).collect::<Vec<_>>(), [(session.id(), Some(125))]);
    verify_journal(&fs::read(session.dir.journal_file()).unwrap()).unwrap();
    assert_eq!(home.run(&["finish"]).stderr, "nothing to clear up\n");
}

#[test]
fn finish_ends_no_process_of_another_boot_and_touches_no_living_session() {
    let home = Home::new();
    let mut rebooted = home.session("aaaa1111", ago(MINUTES));
    rebooted.started_in("another boot");
    let mut unrelated = left_behind(rebooted.id());
    let mut living = home.session("bbbb2222", ago(MINUTES));
    living.started();
    let _alive = living.live(Obeys::Never);
    let ran = home.run(&["finish"]);
    assert_eq!(ran.stderr, "session aaaa1111 had crashed: no process of it was left\n");
    assert!(unrelated.try_wait().unwrap().is_none());
    unrelated.kill().unwrap();
    unrelated.wait().unwrap();
    assert_eq!(living.view().ended_at, None);
}

#[test]
fn finish_removes_old_records_but_no_work() {
    let home = Home::new();
    let days = |days: u64| ago(Duration::from_hours(24 * days));
    let mut old = home.session("aaaa1111", days(31));
    old.started().ended(StopReason::ChildExited, 0);
    let mut young = home.session("bbbb2222", days(29));
    young.started().ended(StopReason::ChildExited, 0);
    let mut holding = home.session("cccc3333", days(40));
    holding.started().ended(StopReason::ChildExited, 0);
    fs::create_dir(holding.dir.path().join("work")).unwrap();
    let mut bare = home.session("dddd4444", days(40));
    bare.started().ended(StopReason::ChildExited, 0);
    for part in ["objects", "refs"] {
        fs::create_dir_all(bare.dir.path().join("gate").join(part)).unwrap();
    }
    fs::write(bare.dir.path().join("gate/HEAD"), "ref: refs/heads/main\n").unwrap();
    let ran = home.run(&["finish"]);
    assert_eq!(
        ran.stderr,
        "removed the records of 1 ended session (kept: 30 days, at most 500); their summaries stay\n\
         kept 2 old sessions whose work is not all in your repository: sentrely show ID tells where it lies\n"
    );
    let there = [&old, &young, &holding, &bare].map(|session| session.dir.path().exists());
    assert_eq!(there, [false, true, true, true]);
    assert!(home.run(&["show", "aaaa"]).stdout.contains("its journal was cleared away"));
}
