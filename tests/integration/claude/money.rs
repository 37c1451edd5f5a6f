//! What a session of the real client costs, and where that ends.

use std::time::Duration;

use sentrely::model::Usage;
use sentrely::simulated::{Answer, Block, Cut, Fault, Garbage, Outcome, Place, Script, Upstream, When};
use serde_json::json;

use super::{supervised, the_view, upstream, usd, world};
use crate::support::claude::{Claude, DUMMY_KEY};

const OPUS: &str = "claude-opus-5-5";

fn stops_at_the_budget(claude: &Claude) {
    let env = world();
    let answers = ["one", "two", "three", "four"].map(|word| Answer::bash(format!("echo {word} >> turns.txt")).costing(usd("0.40")));
    let upstream = upstream(answers);
    let args = ["-p", "work", "--model", OPUS, "--dangerously-skip-permissions"];
    let output = supervised(&env, claude, &["--budget", "1usd"], &args).upstream(&upstream).run().exits(121);

    assert_eq!(upstream.messages().len(), 2, "the third was refused before it left");
    assert!(output.stdout.contains("sentrely: ") && output.stdout.contains("$1.00"), "claude prints our message: {}", output.stdout);
    assert!(output.stderr.contains("stopped at its budget"), "{}", output.stderr);
    let id = env.the_session();
    let refused = env.events(&id, "request_refused");
    assert!(refused.len() == 1 && refused[0]["why"].as_str().unwrap().contains("$1.00"), "{refused:?}");
    assert_eq!(env.events(&id, "stop_requested")[0]["reason"], "budget_reached");
    let view = the_view(&env);
    assert_eq!((&view["cost_usd"], &view["cost_estimated"]), (&json!("0.8"), &json!(false)));
    assert_eq!((&view["stop_reason"], &view["exit_code"], &view["requests"]), (&json!("budget_reached"), &json!(121), &json!(2)));
    assert_eq!(env.git(&["show", &format!("{}:turns.txt", view["branch"].as_str().unwrap())]), "one\ntwo");
}

#[test]
fn claude_2_1_330_is_stopped_before_the_request_that_would_break_the_budget() {
    let Some(claude) = Claude::v330() else { return };
    stops_at_the_budget(&claude);
}

#[test]
fn claude_2_1_197_is_stopped_before_the_request_that_would_break_the_budget() {
    let Some(claude) = Claude::v197() else { return };
    stops_at_the_budget(&claude);
}

/// Runs three turns of this usage; `ls` and the client must agree to the last digit.
fn agrees_on_the_cost(claude: &Claude, model: &str, turns: [Usage; 3]) {
    let env = world();
    let [first, second, third] = turns;
    let answers = [Answer::bash("true").usage(first), Answer::bash("echo again").usage(second), Answer::text("Done.").usage(third)];
    let upstream = upstream(answers);
    let args = ["-p", "work", "--output-format", "json", "--model", model, "--dangerously-skip-permissions"];
    let result = supervised(&env, claude, &["--budget", "100usd"], &args).upstream(&upstream).run().success().json();
    let seen = upstream.messages();
    assert!(seen.len() == 3 && seen.iter().all(|record| record.model == model), "{seen:?}");
    let theirs = result["total_cost_usd"].as_f64().unwrap();
    let view = the_view(&env);
    // The client adds in binary fractions: its sum is rounded to the twelve places that ours has.
    assert_eq!(usd(view["cost_usd"].as_str().unwrap()), usd(&format!("{theirs:.12}")), "{model}: {theirs}");
    assert_eq!(view["cost_estimated"], false);
    let sum = |kind: fn(&Usage) -> u64| -> u64 { turns.iter().map(kind).sum() };
    let tokens = json!({
        "input": sum(|usage| usage.input),
        "output": sum(|usage| usage.output),
        "cache_write_5m": sum(|usage| usage.cache_write_5m),
        "cache_write_1h": sum(|usage| usage.cache_write_1h),
        "cache_read": sum(|usage| usage.cache_read),
    });
    assert_eq!(view["tokens"], tokens);
}

const TURNS: [Usage; 3] = [
    Usage { input: 1_237, output: 51, cache_write_5m: 203, cache_write_1h: 307, cache_read: 4_001, ..plain() },
    Usage { input: 13, output: 1_009, cache_write_5m: 1, cache_write_1h: 77, cache_read: 5_749, ..plain() },
    // More than 100,000 tokens of prompt: the other rate table of claude-haiku-5-5.
    Usage { input: 90_001, output: 7, cache_write_5m: 5_003, cache_write_1h: 6_007, cache_read: 33_333, web_searches: 1, ..plain() },
];

const fn plain() -> Usage {
    Usage {
        input: 0,
        output: 0,
        cache_write_5m: 0,
        cache_write_1h: 0,
        cache_read: 0,
        web_searches: 0,
        speed: sentrely::model::Speed::Standard,
        us_only: false,
        outside_context: 0,
    }
}

#[test]
fn the_cost_is_claudes_own_to_the_last_digit_on_sonnet_opus_and_haiku() {
    let Some(claude) = Claude::v330() else { return };
    for model in ["claude-sonnet-5-5", OPUS, "claude-haiku-5-5", "claude-haiku-4-5"] {
        agrees_on_the_cost(&claude, model, TURNS);
    }
}

#[test]
fn the_cost_is_claude_2_1_197s_own_on_the_models_it_knows() {
    let Some(claude) = Claude::v197() else { return };
    for model in ["claude-opus-4-8", "claude-sonnet-4-6"] {
        agrees_on_the_cost(&claude, model, TURNS);
    }
}

#[test]
fn an_upstream_that_cannot_be_reached_is_told_at_once_and_the_exit_code_is_claudes() {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    let gone = Upstream::start_on_thread(Answer::text("never")).unwrap();
    let url = gone.url();
    drop(gone);
    let run = supervised(&env, &claude, &[], &["-p", "hello"]);
    // At once: within the minute that a program may take here. All of the client's tries would take longer.
    let output = run.var("ANTHROPIC_BASE_URL", &url).var("ANTHROPIC_API_KEY", DUMMY_KEY).run().exits(1);
    let address = url.trim_start_matches("http://");
    assert!(output.stdout.contains(address) && output.stdout.contains("refused"), "the real error: {}", output.stdout);
    let view = the_view(&env);
    assert_eq!((&view["cost_usd"], &view["exit_code"], &view["stop_reason"]), (&json!("0"), &json!(1), &json!("child_exited")));
}

#[test]
fn an_answer_whose_usage_cannot_be_read_goes_on_unchanged_and_is_booked_at_its_ceiling() {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    // The half of an event, and then the end: what it used is never told.
    let broken = Answer::text("half of it").fault(Fault::Garbage { at: Place::Events(3), bytes: Garbage::HalfJson }).cut_after(3, Cut::End);
    let upstream = upstream([broken]);
    let run = supervised(&env, &claude, &[], &["-p", "hello", "--model", OPUS]).upstream(&upstream).run();
    let seen = upstream.messages();
    assert!(seen[0].outcome == Some(Outcome::Cut) && seen.len() == 2, "the client makes of it what it can, and asks again: {seen:?}");
    let id = env.the_session();
    let malformed = env.events(&id, "malformed");
    assert!(!malformed.is_empty() && malformed[0]["request"] == 1, "{malformed:?}\n{}\n{}", run.stdout, run.stderr);
    let settled = env.events(&id, "request_settled").swap_remove(0);
    assert_eq!((&settled["lost"], &settled["estimated"]), (&json!(true), &json!(true)));
    // The prompt, and the three tokens at least of all that came: `half of it`.
    assert!(usd(settled["cost"].as_str().unwrap()) >= usd("0.00046"), "{settled}");
    assert_eq!(the_view(&env)["cost_estimated"], true);
    assert_eq!(run.code(), i32::from(the_view(&env)["exit_code"] != 0));
}

#[test]
fn an_answer_that_is_cut_at_the_budget_is_not_asked_for_again_by_another_way() {
    for claude in Claude::both() {
        // Without a stop, so that the client is free to do what it likes.
        for (on_budget, code) in [("refuse", 1), ("stop", 121)] {
            let env = world();
            let long = Answer::filler(2_000, 200).event_every(Duration::from_millis(1));
            let upstream = upstream(Script::always(long));
            let flags = ["--budget", "0.50usd", "--on-budget", on_budget];
            let output = supervised(&env, &claude, &flags, &["-p", "work", "--model", OPUS]).upstream(&upstream).run().exits(code);
            let seen = upstream.messages();
            assert_eq!(seen.len(), 1, "{} {on_budget}: {seen:?}", claude.name());
            assert!(seen[0].stream && seen[0].outcome == Some(Outcome::ClientGone), "{seen:?}");
            let id = env.the_session();
            let view = the_view(&env);
            let spent = usd(view["cost_usd"].as_str().unwrap());
            assert!((usd("0.49")..=usd("0.51")).contains(&spent), "{spent}");
            let refused = env.events(&id, "request_refused");
            if on_budget == "refuse" {
                // Measured on both: with its repeat without streaming switched off, the client gives up after this one request.
                assert_eq!(refused.len(), 0, "{}: {refused:?}", claude.name());
                assert!(output.stdout.contains("sentrely: the budget of $0.50"), "{}", output.stdout);
                assert_eq!(view["stop_reason"], "child_exited");
            }
        }
    }
}

#[test]
fn a_fallback_model_is_metered_as_what_it_is() {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    let script = Script::default()
        .whenever(When::model("opus"), Answer::error(529, "overloaded_error", "Overloaded"))
        .otherwise(Answer::text("from the other").usage(Usage { input: 1_000, output: 100, ..plain() }));
    let upstream = upstream(script);
    let args = ["-p", "work", "--model", OPUS, "--fallback-model", "claude-sonnet-5-5", "--output-format", "json"];
    let run = supervised(&env, &claude, &["--budget", "1usd"], &args).upstream(&upstream).timeout(Duration::from_mins(4));
    let result = run.run().success().json();
    assert_eq!(result["result"], "from the other");
    let view = the_view(&env);
    let theirs = result["total_cost_usd"].as_f64().unwrap();
    assert_eq!(usd(view["cost_usd"].as_str().unwrap()), usd(&format!("{theirs:.12}")), "{view}");
    assert_eq!((&view["requests"], &view["cost_estimated"]), (&json!(1), &json!(false)), "what was overloaded cost nothing");
    let models: Vec<_> = upstream.messages().iter().map(|record| record.model.clone()).collect();
    assert!(models.len() > 1 && models.last().unwrap() == "claude-sonnet-5-5", "{models:?}");
}

#[test]
fn auto_mode_s_question_and_its_verdict_pass_unchanged() {
    let Some(claude) = Claude::v330() else { return };
    for outcome in ["not_flagged", "flagged"] {
        let env = world();
        let call = Block::ToolUse {
            name: "Bash".into(),
            input: json!({ "command": "echo checked > made.txt", "description": "Write a file" }),
            id: Some("toolu_checked".into()),
            hold_ms: 0,
            events: 1,
        };
        let mut answer = Answer::default().and(call);
        let evaluated = json!({ "toolu_checked": { "type": "evaluated", "outcome": outcome } });
        let results = json!([{ "type": "dangerous_tool_use", "status": { "type": "available", "tool_uses": evaluated } }]);
        answer.delta_extra.insert("safeguard_results".into(), results);
        let upstream = upstream([answer, Answer::text("done")]);
        let args = ["-p", "work", "--model", OPUS, "--permission-mode", "auto"];
        let output = supervised(&env, &claude, &[], &args).upstream(&upstream).run().success();
        let seen = upstream.messages();
        assert_eq!((output.stdout.as_str(), seen.len()), ("done\n", 2), "no question of its own is asked: {}", output.stderr);
        let asked = seen[0].json()["safeguards"].clone();
        assert_eq!(asked[0]["type"], "dangerous_tool_use", "{asked}");
        assert!(seen[0].header("anthropic-beta").is_some_and(|betas| betas.contains("dangerous-tool-use-")), "{:?}", seen[0].headers);
        let denied = seen[1].json()["messages"].to_string().contains("judged this action dangerous");
        let branch = the_view(&env)["branch"].as_str().unwrap().to_owned();
        // A branch on which nothing was done is not brought home.
        let made = env.command("git", &["ls-tree", "--name-only", &branch]).run().stdout.lines().any(|name| name == "made.txt");
        assert_eq!((denied, made), (outcome == "flagged", outcome == "not_flagged"), "{}", output.stderr);
    }
}

#[test]
fn the_client_is_told_not_to_repeat_unstreamed_and_to_stream_its_tools() {
    for claude in Claude::both() {
        let env = world();
        let upstream = upstream([Answer::bash("tr '\\0' '\\n' < /proc/$PPID/environ > theirs.txt; env > tools.txt"), Answer::text("done")]);
        let args = ["-p", "work", "--dangerously-skip-permissions"];
        let _ = supervised(&env, &claude, &[], &args).upstream(&upstream).run().success();
        let branch = the_view(&env)["branch"].as_str().unwrap().to_owned();
        for file in ["theirs.txt", "tools.txt"] {
            let seen = env.git(&["show", &format!("{branch}:{file}")]);
            for variable in ["CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK=1", "CLAUDE_CODE_ENABLE_FINE_GRAINED_TOOL_STREAMING=1"] {
                assert!(seen.lines().any(|line| line == variable), "{} {file}: {seen}", claude.name());
            }
        }
    }
}
