//! The interactive client under sentrely, in a terminal.

use std::collections::BTreeSet;

use nix::sys::termios::Termios;
use sentrely::model::Usage;
use sentrely::simulated::{Answer, Script, Upstream};
use serde_json::{Value, json};

use super::{SOON, running, supervised, the_view, upstream, usd, world};
use crate::support::claude::{Claude, at_the_prompt};
use crate::support::env::TestEnv;
use crate::support::pty::{Key, Modes, Terminal};

/// The client at its prompt, and the terminal as it was before.
fn at_work(env: &TestEnv, claude: &Claude, upstream: &Upstream, flags: &[&str]) -> (Terminal, Termios) {
    let mut terminal = Terminal::spawn(&supervised(env, claude, flags, &["--model", "claude-opus-5-5"]).upstream(upstream));
    let cooked = terminal.termios();
    terminal.wait_for_screen(SOON, "the prompt", at_the_prompt);
    assert_ne!(terminal.termios(), cooked, "the client takes the terminal over");
    let (_, claude_pid) = super::pids(env, &running(env));
    assert_eq!(terminal.foreground(), Some(claude_pid), "and is in its foreground");
    (terminal, cooked)
}

fn ask(terminal: &mut Terminal, prompt: &str) {
    terminal.type_text(prompt);
    terminal.wait_for_text(SOON, prompt);
    terminal.press(Key::Enter);
}

/// The terminal is the shell's again: attributes, modes, and nothing was typed into it.
fn is_given_back(env: &TestEnv, terminal: &Terminal, cooked: &Termios) {
    assert_eq!((&terminal.termios(), terminal.modes()), (cooked, Modes::default()), "{}", terminal.screen());
    assert_eq!(env.processes().len(), 0);
}

fn killed_from_outside(claude: &Claude) {
    let env = world();
    let upstream = upstream(Answer::text("The answer is forty-two."));
    let (mut terminal, cooked) = at_work(&env, claude, &upstream, &[]);
    ask(&mut terminal, "what is it");
    terminal.wait_for_text(SOON, "The answer is forty-two.");
    let id = running(&env);
    let before = upstream.requests().len();
    let _ = env.sentrely(&["kill", &id[..8]]).run().success();
    let status = terminal.wait(SOON);
    assert_eq!(status.exit_code(), 122, "{}", terminal.screen());
    is_given_back(&env, &terminal, &cooked);
    // What the client asked of the terminal (its version, its colours) must not come back as typed text to the shell.
    let screen = terminal.screen();
    assert!(screen.contains("killed") && !screen.contains("^[") && !screen.contains("rgb:"), "{screen}");
    assert_eq!(upstream.requests().len(), before);
    let view = the_view(&env);
    assert_eq!((&view["state"], &view["exit_code"]), (&json!("stopped"), &json!(122)));
}

#[test]
fn claude_2_1_330_killed_at_its_prompt_gives_the_terminal_back() {
    let Some(claude) = Claude::v330() else { return };
    killed_from_outside(&claude);
}

#[test]
fn claude_2_1_197_killed_at_its_prompt_gives_the_terminal_back() {
    let Some(claude) = Claude::v197() else { return };
    killed_from_outside(&claude);
}

#[test]
fn a_shell_gets_a_clean_terminal_after_a_kill_and_nothing_is_typed_into_it() {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    let upstream = upstream(Answer::text("The answer is forty-two."));
    let program = claude.path().to_str().unwrap();
    let line = format!("{} run -- {program}; echo code $?; cat -v", env!("CARGO_BIN_EXE_sentrely"));
    let mut terminal = Terminal::spawn(&env.command("bash", &["--norc", "-c", &line]).upstream(&upstream));
    terminal.wait_for_screen(SOON, "the prompt", at_the_prompt);
    let id = running(&env);
    let _ = env.sentrely(&["kill", "--now", &id[..8]]).run().success();
    terminal.wait_for_text(SOON, "code 122");
    terminal.type_text("end of it\n");
    // The terminal echoes the line, and cat repeats it: whatever had been typed before it would stand there too.
    let screen = terminal.wait_for_screen(SOON, "the echo and the line", |screen| screen.matches("end of it").count() == 2);
    let after: Vec<&str> = screen.lines().skip_while(|line| !line.contains("code 122")).skip(1).filter(|line| !line.is_empty()).collect();
    assert_eq!(after, ["end of it", "end of it"], "{screen}");
    terminal.press(Key::Ctrl('d'));
    assert!(terminal.wait(SOON).success());
}

#[test]
fn leaving_the_client_ends_the_session_with_its_own_code_and_the_terminal_as_before() {
    for claude in Claude::both() {
        let env = world();
        let upstream = upstream(Answer::text("The answer is forty-two."));
        let (mut terminal, cooked) = at_work(&env, &claude, &upstream, &[]);
        ask(&mut terminal, "what is it");
        terminal.wait_for_text(SOON, "The answer is forty-two.");
        ask(&mut terminal, "/exit");
        assert!(terminal.wait(SOON).success(), "{}", terminal.screen());
        is_given_back(&env, &terminal, &cooked);
        assert!(terminal.screen().contains("the command ended"), "{}", terminal.screen());
        assert_eq!(the_view(&env)["exit_code"], json!(0));
    }
}

#[test]
fn a_budget_that_is_used_up_is_said_inside_the_client_and_ends_it() {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    let script = Script::default().otherwise(Answer::text("That was dear.").costing(usd("0.98")));
    let upstream = upstream(script);
    let (mut terminal, cooked) = at_work(&env, &claude, &upstream, &["--budget", "1usd"]);
    ask(&mut terminal, "what is it");
    terminal.wait_for_text(SOON, "That was dear.");
    ask(&mut terminal, "and now");
    terminal.wait_for_text(SOON, "sentrely: ");
    let status = terminal.wait(SOON);
    assert_eq!(status.exit_code(), 121, "{}", terminal.screen());
    is_given_back(&env, &terminal, &cooked);
    let raw = String::from_utf8_lossy(&terminal.raw()).into_owned();
    assert!(raw.contains("stopped at its budget"), "{}", terminal.screen());
    assert_eq!(upstream.messages().iter().filter(|record| record.model == "claude-opus-5-5").count(), 1);
}

#[test]
fn a_cleared_conversation_goes_on_in_the_same_ledger() {
    for claude in Claude::both() {
        let env = world();
        let upstream = upstream(Script::default().otherwise(Answer::text("That is all.").costing(usd("0.30"))));
        let (mut terminal, _) = at_work(&env, &claude, &upstream, &["--budget", "9usd"]);
        ask(&mut terminal, "the first");
        terminal.wait_for_text(SOON, "That is all.");
        ask(&mut terminal, "/clear");
        terminal.wait_for_screen(SOON, "an empty conversation", |screen| !screen.contains("That is all.") && at_the_prompt(screen));
        ask(&mut terminal, "the second");
        terminal.wait_for_text(SOON, "That is all.");
        ask(&mut terminal, "/exit");
        assert!(terminal.wait(SOON).success());
        let messages = upstream.messages();
        let spoken: BTreeSet<_> = messages.iter().filter_map(|record| record.header("x-claude-code-session-id")).collect();
        let document = env.sentrely(&["show", "--json", &env.the_session()[..8]]).run().success().json();
        let known: BTreeSet<_> = document["details"]["claude_sessions"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        assert!(spoken.len() == 2 && spoken.is_subset(&known), "{}: {spoken:?} {known:?}", claude.name());
        let session = &document["session"];
        let count = messages.len() as u64;
        assert_eq!(usd(session["cost_usd"].as_str().unwrap()), usd("0.30").times(count));
        assert_eq!((&session["requests"], &session["attempts"], env.sessions().len()), (&json!(count), &json!(1), 1));
    }
}

#[test]
fn a_budget_that_is_raised_from_another_terminal_lets_the_client_go_on() {
    for claude in Claude::both() {
        let env = world();
        // By what is generated: a prompt of that price would make the older client compact.
        let usage = Usage { input: 100, output: 51_000, ..Usage::default() };
        let upstream = upstream(Script::default().otherwise(Answer::text("That was dear.").usage(usage)));
        let (mut terminal, _) = at_work(&env, &claude, &upstream, &["--budget", "1usd", "--on-budget", "refuse"]);
        ask(&mut terminal, "the first");
        terminal.wait_for_text(SOON, "That was dear.");
        ask(&mut terminal, "the second");
        terminal.wait_for_text(SOON, "sentrely: the budget of $1.00 does not cover this request");
        let before = upstream.messages().len();
        let id = running(&env);
        let raised = env.sentrely(&["budget", &id[..8], "+5usd"]).run().success();
        assert!(raised.stdout.contains("of $6.00"), "{}", raised.stdout);
        ask(&mut terminal, "the third");
        terminal.wait_for_text(SOON, "$2.04 of $6.00");
        assert_eq!((before, upstream.messages().len()), (1, 2), "{}: what was refused never left", claude.name());
        assert_eq!(env.events(&id, "limits_set").len(), 1);
        ask(&mut terminal, "/exit");
        assert!(terminal.wait(SOON).success(), "{}", terminal.screen());
    }
}
