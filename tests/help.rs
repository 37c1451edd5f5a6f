//! What `--help` says: the list of commands, the house style of every line, and the help of the commands that look.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up should fail loudly")]

use std::process::Command;

use clap::CommandFactory;
use insta::assert_snapshot;
use sentrely::cli::Cli;

fn help(words: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_sentrely")).args(words).arg("--help").env_clear().output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_commands_are_listed() {
    let text = help(&[]);
    assert!(
        text.starts_with("Run Claude Code on something real: its own identity, its own branch, a budget that holds, a kill\nswitch"),
        "{text}"
    );
    let commands: Vec<&str> =
        text.lines().skip_while(|line| *line != "Commands:").skip(1).map_while(|line| line.split_whitespace().next()).collect();
    assert_eq!(commands, ["run", "ls", "show", "log", "kill", "budget", "pr", "serve", "config", "doctor", "demo"]);
}

#[test]
fn without_a_command_the_help_is_named_and_the_exit_code_is_2() {
    let output = Command::new(env!("CARGO_BIN_EXE_sentrely")).env_clear().output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_snapshot!(String::from_utf8(output.stderr).unwrap(), @"
    Run Claude Code on something real: its own identity, its own branch, a budget that holds, a kill
    switch that works

    Usage: sentrely <COMMAND>

    Commands:
      run     Run a command as a supervised session
      ls      List sessions
      show    Show one session: what it is, what it did and how it ended
      log     Show what happened in one session, or in all of them
      kill    Kill sessions and wait until nothing of them is left
      budget  Show what a session may spend, or change it while it runs
      pr      Push an ended session's branch and open a pull request, or bring the open one up to date
      serve   Serve the sessions and their kill switch over HTTP on this machine
      config  Show the configuration and where each value comes from
      doctor  Check this machine: what sessions need, and what would get in their way
      demo    Show every promise at work, simulated: no key, no network, fifteen seconds

    Options:
      -h, --help     Print help
      -V, --version  Print version

    failed to do anything: no command was given
    ");
}

#[test]
fn the_commands_that_look_explain_themselves() {
    assert_snapshot!(help(&["ls"]), @"
    List sessions

    Without options: the sessions that live, those that left something when they ended, and those that
    crashed and are cleared up after now. Newest first.

    Usage: sentrely ls [OPTIONS]

    Options:
      -a, --all
              List ended sessions too

      -q, --quiet
              Print ids only

          --json
              Print JSON

          --filter <FIELD=VALUE>
              List only sessions whose field has this value; a state may be one that only -a lists
              
              Fields: state, developer, project, branch, workspace, host, billing, stop-reason. Several
              filters must all hold.

      -h, --help
              Print help (see a summary with '-h')
    ");
    assert_snapshot!(help(&["log"]), @"
    Show what happened in one session, or in all of them

    The journal never holds prompts or answers, only counts, names and digests. Its lines are chained by
    hashes: --verify finds any change of what is followed by a hash you noted down earlier.

    Usage: sentrely log [OPTIONS] [ID]

    Arguments:
      [ID]
              The session's id, or its first digits; all sessions if left out

    Options:
      -f, --follow
              Go on as more happens, until the session has ended

          --json
              Print one JSON document a line

          --kind <KIND>
              Show only events of these kinds, as the journal names them: `stage,push_refused`

          --since <DURATION>
              Show only what is younger than this: 10m, 2h, 1d

          --verify
              Check the chain of hashes and print the last one

      -h, --help
              Print help (see a summary with '-h')
    ");
    assert_snapshot!(help(&["kill"]), @"
    Kill sessions and wait until nothing of them is left

    Spending stops first, then credentials are withheld, then the processes are ended; the work is saved
    on the session's branch. Exits 0 when nothing is left, 3 for an unknown session, 4 when something is
    left (it is named) or only some could be killed.

    Usage: sentrely kill [OPTIONS] [ID]...

    Arguments:
      [ID]...
              The sessions' ids, or their first digits

    Options:
          --all
              Kill every session of this user

          --now
              Give the processes no time to end by themselves

          --reason <TEXT>
              Why: it stands in the record

      -h, --help
              Print help (see a summary with '-h')
    ");
}

#[test]
fn first_lines_are_in_the_imperative_and_end_without_a_period() {
    for command in Cli::command().get_subcommands() {
        let name = command.get_name();
        let about = command.get_about().unwrap_or_else(|| panic!("{name} has no help")).to_string();
        assert!(!about.ends_with('.') && !about.contains('\n'), "{name}: {about}");
        let verb = about.split(' ').next().unwrap();
        assert!(verb.starts_with(char::is_uppercase) && !verb.ends_with('s'), "{name}: {about}");
        for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
            let help = argument.get_help().unwrap_or_else(|| panic!("{name} {} has no help", argument.get_id())).to_string();
            assert!(!help.ends_with('.'), "{name} {}: {help}", argument.get_id());
        }
    }
}

#[test]
fn there_is_a_completion_script_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = Command::new(env!("CARGO_BIN_EXE_sentrely")).args(["completions", shell]).env_clear().output().unwrap();
        assert!(output.status.success());
        assert!(String::from_utf8(output.stdout).unwrap().contains("doctor"), "{shell}");
    }
}
