//! The commands that look, and kill, through the built program, on state directories made by hand.

mod doctor;
mod end;
mod look;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;
use std::time::Duration;

use insta::assert_snapshot;
use sentrely::model::Event;

use crate::support::state::{Home, ago, read_until};

const MINUTES: Duration = Duration::from_mins(1);

#[test]
fn colour_follows_no_color_and_clicolor_force() {
    let home = Home::new();
    home.session("aaaa1111", ago(MINUTES)).started();
    let colored = |vars: &[(&str, &str)]| {
        let output = home.command(&["ls", "-a"]).envs(vars.iter().copied()).output().unwrap();
        String::from_utf8(output.stdout).unwrap().contains("\u{1b}[")
    };
    assert!(!colored(&[]), "a pipe gets no colour");
    assert!(colored(&[("CLICOLOR_FORCE", "1")]));
    assert!(!colored(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]));
}

#[test]
fn a_dumb_terminal_gets_no_colour_and_a_clever_one_does() {
    let home = Home::new();
    home.session("aaaa1111", ago(MINUTES)).started();
    let shown = |term: &str| {
        let pair = portable_pty::native_pty_system().openpty(portable_pty::PtySize::default()).unwrap();
        let mut command = portable_pty::CommandBuilder::new(env!("CARGO_BIN_EXE_sentrely"));
        command.env_clear();
        command.args(["ls", "-a"]);
        for (name, value) in [("HOME", home.path()), ("SENTRELY_STATE_DIR", home.state.path()), ("TERM", term.as_ref())] {
            command.env(name, value);
        }
        let mut child = pair.slave.spawn_command(command).unwrap();
        drop(pair.slave);
        let mut reader = pair.master.try_clone_reader().unwrap();
        let text = read_until(&mut reader, "aaaa1111") + &read_until(&mut reader, "\n");
        assert!(child.wait().unwrap().success());
        text
    };
    assert!(!shown("dumb").contains('\u{1b}'));
    assert!(shown("xterm-256color").contains("\u{1b}["));
}

#[test]
fn a_reader_that_goes_away_is_not_an_error() {
    let home = Home::new();
    let mut session = home.session("9f3a12cd", ago(MINUTES));
    for number in 0..5000 {
        session.tell(Event::Notice { what: format!("note {number}") });
    }
    let mut command = Command::new("bash");
    command.args(["-c", "set -o pipefail; \"$0\" log | head -n 1", env!("CARGO_BIN_EXE_sentrely")]).env_clear();
    command.env("SENTRELY_STATE_DIR", home.state.path()).env("PATH", "/usr/bin:/bin");
    let ran = home.ran(command.output().unwrap());
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    assert_eq!(ran.stdout.lines().count(), 1);
}

#[test]
fn what_the_agent_named_cannot_command_the_terminal() {
    let home = Home::new();
    let mut session = home.session("9f3a12cd", ago(MINUTES));
    session.started().tell(Event::PushRefused { refs: vec!["refs/heads/\u{1b}[2Jx".into()], why: "no\u{7}".into() });
    for words in [&["log"][..], &["show", "9f3a"]] {
        let output = home.command(words).env("CLICOLOR_FORCE", "1").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(!text.contains("\u{1b}[2J") && !text.contains('\u{7}'), "{text:?}");
    }
}

#[test]
fn a_state_directory_that_others_may_write_to_or_own_is_refused() {
    let home = Home::new();
    let open = home.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o770)).unwrap();
    let ran = home.ran(home.command(&["ls"]).env("SENTRELY_STATE_DIR", &open).output().unwrap());
    assert_eq!(ran.code, 1);
    assert_snapshot!(ran.stderr, @"
    failed to use the state directory <home>/open: others may write to it (mode 770)

    hint: chmod 700 <home>/open
    ");
    // Only root can give a directory away; for everybody else the root directory is a foreign one.
    let foreign = home.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    let foreign = if chown(&foreign, Some(65534), None).is_ok() { foreign } else { "/".into() };
    let ran = home.ran(home.command(&["ls"]).env("SENTRELY_STATE_DIR", &foreign).output().unwrap());
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr.contains("not to you") && ran.stderr.contains("hint: set SENTRELY_STATE_DIR to a directory that you own"),
        "{}",
        ran.stderr
    );
}

#[test]
fn usage_errors_of_run_are_125_and_say_what_to_do() {
    let home = Home::new();
    let said = |words: &[&str]| {
        let ran = home.run(words);
        assert_eq!((ran.code, ran.stdout.as_str()), (125, ""), "{words:?}: {}", ran.stderr);
        ran.stderr
    };
    assert_snapshot!(said(&["run"]), @"
    failed to start a session: no command was given

    hint: say what to run after two dashes: sentrely run -- claude
    ");
    for (flag, value, wrong) in [("--timeout", "soon", "soon"), ("--budget", "-5usd", "negative"), ("--budget", "5eur", "5usd")] {
        let text = said(&["run", flag, value, "--", "true"]);
        assert!(text.contains(flag) && text.contains(wrong), "{text}");
    }
    assert_snapshot!(said(&["run", "--bugdet", "5usd", "--", "true"]), @"
    failed to understand the command line: unexpected argument '--bugdet' found

    hint: a similar argument exists: '--budget'; `sentrely run --help` lists what it takes
    ");
    assert!(home.state.session_dirs().unwrap().is_empty());
}

#[test]
fn usage_errors_of_other_commands_are_2() {
    let home = Home::new();
    let ran = home.run(&["shwo"]);
    assert_eq!(ran.code, 2);
    assert_snapshot!(ran.stderr, @"
    failed to understand the command line: unrecognized subcommand 'shwo'

    hint: a similar subcommand exists: 'show'; `sentrely --help` lists the commands
    ");
    let ran = home.run(&["ls", "--jsn"]);
    assert_eq!(ran.code, 2);
    assert_snapshot!(ran.stderr, @"
    failed to understand the command line: unexpected argument '--jsn' found

    hint: a similar argument exists: '--json'; `sentrely ls --help` lists what it takes
    ");
}

#[test]
fn an_unknown_session_exits_3_everywhere() {
    let home = Home::new();
    for words in [["show", "abcd"], ["log", "abcd"]] {
        let ran = home.run(&words);
        assert_eq!((ran.code, ran.stdout.as_str()), (3, ""));
        assert!(ran.stderr.contains("hint: `sentrely ls -a` lists all sessions"), "{}", ran.stderr);
    }
}
