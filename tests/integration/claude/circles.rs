//! The real client going round in circles: it is warned, then stopped, and its work is kept. And its status line.

use std::time::Duration;

use sentrely::model::Usage;
use sentrely::simulated::{Answer, Script};
use serde_json::json;

use super::{SOON, supervised, the_view, upstream, usd, world};
use crate::support::claude::{Claude, at_the_prompt};
use crate::support::pty::{Key, Terminal};

const AUTO: &str = "--dangerously-skip-permissions";

#[test]
fn a_loop_of_failing_calls_is_warned_about_then_stopped_and_its_work_is_saved() {
    for claude in Claude::both() {
        let env = world();
        let script = Script::of([Answer::bash("echo work > made.txt")]).otherwise(Answer::bash("cat no-such-file"));
        let upstream = upstream(script);
        let flags = ["--config", "loops.failures=4"];
        let output = supervised(&env, &claude, &flags, &["-p", "work", AUTO]).upstream(&upstream).run().exits(123);
        assert!(output.stderr.contains("8 tool calls failed in a row, the last of Bash"), "{}", output.stderr);
        let id = env.the_session();
        assert_eq!(env.events(&id, "stop_requested")[0]["by"], "loop breaker");
        assert!(env.events(&id, "notice").iter().any(|event| event["what"] == "a loop: 4 tool calls failed in a row, the last of Bash"));
        let last = upstream.messages().last().unwrap().json()["messages"].to_string();
        let warning = "sentrely: 4 tool calls failed in a row, the last of Bash. This looks like a loop";
        assert_eq!(last.matches(warning).count(), 1, "{}: the model is told once", claude.name());
        // The body that shows the eighth failure is the tenth; it may be cut before it leaves, and a few more may follow it.
        assert!((9..14).contains(&upstream.messages().len()), "{}", upstream.messages().len());
        let branch = the_view(&env)["branch"].as_str().unwrap().to_owned();
        assert_eq!(env.git(&["show", &format!("{branch}:made.txt")]), "work");
    }
}

#[test]
fn a_loop_is_stopped_with_hooks_switched_off_too_and_the_same_call_is_enough() {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    env.claude_settings(&json!({ "disableAllHooks": true }));
    let upstream = upstream(Script::default().otherwise(Answer::bash("git status")));
    let flags = ["--config", "loops.same_call=5"];
    let output = supervised(&env, &claude, &flags, &["-p", "work", AUTO]).upstream(&upstream).run().exits(123);
    assert!(output.stderr.contains("the same Bash call was made 10 times within 1 minute"), "{}", output.stderr);
}

/// Costs `amount` by what is generated, and takes a moment.
fn spending(answer: Answer, amount: &str) -> Answer {
    let usage = Usage { input: 100, output: usd(amount).pico() / 20_000_000, ..Usage::default() };
    answer.usage(usage).first_byte_after(Duration::from_millis(100))
}

const IDLE: [&str; 10] = [
    "--budget",
    "100usd",
    "--config",
    "loops.idle_spend=0.50usd",
    "--config",
    "loops.idle_time=1s",
    "--config",
    "loops.same_call=1000",
    "--config",
    "loops.failures=1000",
];

#[test]
fn money_that_goes_while_the_work_stands_still_is_warned_about_then_stopped() {
    for claude in Claude::both() {
        let env = world();
        let upstream = upstream(Script::default().otherwise(spending(Answer::bash("git log -1"), "0.10")));
        let args = ["-p", "work", "--model", "claude-opus-5-5", AUTO];
        let output = supervised(&env, &claude, &IDLE, &args).upstream(&upstream).run().exits(123);
        assert!(output.stderr.contains("without any change of the working copy"), "{}", output.stderr);
        let id = env.the_session();
        assert_eq!(env.events(&id, "stop_requested")[0]["by"], "loop breaker");
        let last = upstream.messages().last().unwrap().json()["messages"].to_string();
        let warning = "without any change of the working copy. This looks like a loop";
        assert_eq!(last.matches(warning).count(), 1, "{}: the model is told once", claude.name());
    }
}

#[test]
fn work_that_a_command_does_is_work_too() {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    // Twice as long and dear as what is stopped where nothing changes.
    let turns = (0..40).map(|_| spending(Answer::bash("date +%N >> made.txt"), "0.10"));
    let upstream = upstream(Script::of(turns.chain([Answer::text("done")])));
    let args = ["-p", "work", "--model", "claude-opus-5-5", AUTO];
    let output = supervised(&env, &claude, &IDLE, &args).upstream(&upstream).run().success();
    assert_eq!(output.stdout, "done\n", "{}", output.stderr);
    assert_eq!(env.events(&env.the_session(), "notice").iter().filter(|event| event["what"].to_string().contains("a loop")).count(), 0);
}

#[test]
fn the_status_line_shows_the_session_above_the_users_own() {
    for claude in Claude::both() {
        let env = world();
        env.claude_settings(
            &json!({ "statusLine": { "type": "command", "command": "echo THEIRS:$(grep -o '\"session_id\"' | head -1); exit 7" } }),
        );
        let upstream = upstream(Script::default().otherwise(Answer::text("That is all.").costing(usd("0.60"))));
        let run = supervised(&env, &claude, &["--budget", "1usd"], &["--model", "claude-opus-5-5"]).upstream(&upstream);
        let mut terminal = Terminal::spawn(&run);
        terminal.wait_for_screen(SOON, "the prompt", at_the_prompt);
        terminal.wait_for_text(SOON, "sentrely ░░░░░░░░░░ 0 % · $0.00 of $1.00");
        terminal.wait_for_text(SOON, "THEIRS:\"session_id\"");
        terminal.type_text("first");
        terminal.wait_for_text(SOON, "first");
        terminal.press(Key::Enter);
        let screen = terminal.wait_for_text(SOON, "sentrely ██████░░░░ 60 % · $0.60 of $1.00");
        let at = |text: &str| screen.find(text).unwrap_or_else(|| panic!("no {text:?}\n{screen}"));
        assert!(at("sentrely ██████") < at("THEIRS:"), "{screen}");
        terminal.type_text("/exit");
        terminal.wait_for_text(SOON, "/exit");
        terminal.press(Key::Enter);
        assert!(terminal.wait(SOON).success());
    }
}
