//! Claude Code against the simulated upstream, without sentrely: what the other tests rely on.

use std::collections::BTreeSet;
use std::time::Duration;

use sentrely::model::{Speed, Thread, Usage};
use sentrely::simulated::{Answer, Options, Outcome, Record, Script, Upstream, When, WhenThread};

use crate::support::claude::{Claude, DUMMY_KEY, DUMMY_OAUTH, at_the_prompt};
use crate::support::env::TestEnv;
use crate::support::pty::{Key, Modes, Terminal};

const SOON: Duration = Duration::from_mins(1);

const USAGE: Usage = Usage {
    input: 1_000,
    output: 50,
    cache_write_5m: 200,
    cache_write_1h: 300,
    cache_read: 4_000,
    web_searches: 0,
    speed: Speed::Standard,
    us_only: false,
    outside_context: 0,
};

/// What [`USAGE`] costs by the table of prices the client carries, in dollars.
fn cost(claude: &Claude) -> f64 {
    // Dollars a million tokens: in, out, cache write 5m, 1h, cache read.
    let rates = if claude.default_model() == "claude-opus-5-5" { [4.0, 20.0, 5.0, 8.0, 0.2] } else { [5.0, 25.0, 6.25, 10.0, 0.5] };
    let tokens = [1_000.0, 50.0, 200.0, 300.0, 4_000.0];
    rates.iter().zip(tokens).map(|(rate, tokens)| rate * tokens).sum::<f64>() / 1e6
}

fn close(a: &serde_json::Value, b: f64) -> bool {
    a.as_f64().is_some_and(|a| (a - b).abs() < 1e-9)
}

fn print_mode(claude: &Claude) {
    let env = TestEnv::new();
    env.prepare_claude();
    let answers = [Answer::bash("echo made by the tool | tee made.txt").usage(USAGE), Answer::text("All done here.").usage(USAGE)];
    let options = Options { keep_bodies: true, ..Options::default() };
    let upstream = Upstream::start_on_thread_with(answers, options).unwrap();
    let args = ["-p", "make the file", "--output-format", "json", "--dangerously-skip-permissions"];
    let result = claude.command(&env, &args).upstream(&upstream).run().success().json();
    assert_eq!(result["result"], "All done here.");
    assert!(close(&result["total_cost_usd"], 2.0 * cost(claude)), "{}", result["total_cost_usd"]);
    assert_eq!(std::fs::read_to_string(env.project().join("made.txt")).unwrap(), "made by the tool\n");

    let seen = upstream.messages();
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(seen.iter().all(|record| record.header("x-api-key") == Some(DUMMY_KEY) && record.outcome == Some(Outcome::Completed)));
    assert!(seen.iter().all(|record| record.model == claude.default_model() && record.stream));
    assert!(seen[1].json()["messages"].to_string().contains("made by the tool"));
    let sent: BTreeSet<String> = seen.into_iter().filter_map(|record| record.message_id).collect();
    assert_eq!(env.transcript_message_ids(), sent);
}

#[test]
fn claude_2_1_330_runs_a_tool_by_script_and_agrees_on_the_cost() {
    let Some(claude) = Claude::v330() else { return };
    print_mode(&claude);
}

#[test]
fn claude_2_1_197_runs_a_tool_by_script_and_agrees_on_the_cost() {
    let Some(claude) = Claude::v197() else { return };
    print_mode(&claude);
}

#[test]
fn a_subagents_requests_are_told_from_the_main_threads() {
    let Some(claude) = Claude::v330() else { return };
    let env = TestEnv::new();
    env.prepare_claude();
    let script = Script::default()
        .whenever(When::thread(WhenThread::Subagent), Answer::text("the part is done"))
        .then([Answer::agent("do the part")])
        .otherwise(Answer::text("everything is done"));
    let upstream = Upstream::start_on_thread(script).unwrap();
    let run = claude.command(&env, &["-p", "delegate", "--dangerously-skip-permissions"]);
    let output = run.upstream(&upstream).run().success();
    assert!(output.stdout.contains("everything is done"), "{}", output.stdout);
    let agents = upstream.messages().iter().filter(|record| matches!(record.thread, Thread::Agent(_))).count();
    assert_eq!(agents, 1);
}

#[test]
fn a_login_file_sends_its_token_and_no_key() {
    let Some(claude) = Claude::v330() else { return };
    let env = TestEnv::new();
    env.prepare_claude();
    env.claude_login();
    let upstream = Upstream::start_on_thread(Answer::text("hello")).unwrap();
    let output = claude.command(&env, &["-p", "hi"]).var("ANTHROPIC_BASE_URL", upstream.url()).run().success();
    assert_eq!(output.stdout, "hello\n");
    let seen = upstream.messages();
    assert_eq!(seen[0].header("authorization"), Some(format!("Bearer {DUMMY_OAUTH}").as_str()));
    assert_eq!(seen[0].header("x-api-key"), None);
}

/// Types a prompt, reads the answer, leaves. Returns what was sent upstream.
fn interactive_mode(claude: &Claude) -> Vec<Record> {
    let env = TestEnv::new();
    env.prepare_claude();
    let upstream = Upstream::start_on_thread(Answer::text("The answer is forty-two.")).unwrap();
    let mut terminal = Terminal::spawn(&claude.command(&env, &[]).upstream(&upstream));
    let cooked = terminal.termios();
    terminal.wait_for_screen(SOON, "the prompt", at_the_prompt);
    assert_ne!(terminal.termios(), cooked, "the client takes the terminal over");
    assert_eq!(terminal.foreground(), Some(terminal.pid()));
    terminal.type_text("what is it");
    terminal.wait_for_text(SOON, "what is it");
    terminal.press(Key::Enter);
    terminal.wait_for_text(SOON, "The answer is forty-two.");
    terminal.type_text("/exit");
    terminal.wait_for_text(SOON, "/exit");
    terminal.press(Key::Enter);
    let status = terminal.wait(SOON);
    assert!(status.success(), "{status:?}");
    assert_eq!((terminal.termios(), terminal.modes()), (cooked, Modes::default()), "and gives it back");
    upstream.messages()
}

#[test]
fn claude_2_1_330_reaches_its_prompt_prints_an_answer_and_leaves() {
    let Some(claude) = Claude::v330() else { return };
    let models: Vec<String> = interactive_mode(&claude).into_iter().map(|record| record.model).collect();
    assert_eq!(models, ["claude-opus-5-5"]);
}

#[test]
fn claude_2_1_197_reaches_its_prompt_prints_an_answer_and_leaves_and_has_its_title_made() {
    let Some(claude) = Claude::v197() else { return };
    let models: BTreeSet<String> = interactive_mode(&claude).into_iter().map(|record| record.model).collect();
    // Not switched off by CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC, and nothing in its headers says that it is auxiliary.
    assert_eq!(models, BTreeSet::from(["claude-haiku-4-5-20251001".to_owned(), "claude-opus-4-8".to_owned()]));
}
