//! What sentrely says inside the real client: to the person, to the model, and never at the price of the client's work.

use std::fs;

use sentrely::model::Usage;
use sentrely::simulated::{Answer, Script};
use serde_json::{Value, json};

use super::{SOON, supervised, the_view, upstream, usd, world};
use crate::support::claude::{Claude, at_the_prompt};
use crate::support::pty::{Key, Terminal};

const OPUS: &str = "claude-opus-5-5";
const AUTO: &str = "--dangerously-skip-permissions";

fn ask(terminal: &mut Terminal, words: &str) {
    terminal.type_text(words);
    terminal.wait_for_text(SOON, words);
    terminal.press(Key::Enter);
}

#[test]
fn the_person_in_the_client_sees_the_budget_go_once_for_each_share() {
    for claude in Claude::both() {
        let env = world();
        let script = Script::default().otherwise(Answer::text("That is all.").costing(usd("0.30")));
        let upstream = upstream(script);
        let mut terminal =
            Terminal::spawn(&supervised(&env, &claude, &["--budget", "1usd"], &["--model", "claude-opus-5-5"]).upstream(&upstream));
        terminal.wait_for_screen(SOON, "the prompt", at_the_prompt);
        ask(&mut terminal, "first");
        terminal.wait_for_text(SOON, "That is all.");
        ask(&mut terminal, "second");
        terminal.wait_for_text(SOON, "sentrely: 50 % of the budget is used: $0.60 of $1.00");
        ask(&mut terminal, "third");
        let screen = terminal.wait_for_text(SOON, "sentrely: 80 % of the budget is used: $0.90 of $1.00");
        assert_eq!(screen.matches("sentrely: 50 %").count(), 1, "{screen}");
        ask(&mut terminal, "/exit");
        assert!(terminal.wait(SOON).success());
        assert_eq!(upstream.messages().len(), 3, "{}: a notice costs no request", claude.name());
        let told = upstream.messages().iter().any(|record| record.json()["messages"].to_string().contains("sentrely: "));
        assert!(!told, "what is for the person is not told to the model");
        let id = env.the_session();
        let shares: Vec<Value> = env.events(&id, "threshold").into_iter().map(|event| event["percent"].clone()).collect();
        assert_eq!(shares, [json!(50), json!(80)]);
    }
}

/// Costs `amount` by what is generated, so that the next request is forecast at next to nothing.
fn spending(answer: Answer, amount: &str) -> Answer {
    answer.usage(Usage { input: 100, output: usd(amount).pico() / 20_000_000, ..Usage::default() })
}

#[test]
fn the_model_is_told_once_to_commit_and_the_last_part_of_the_budget_is_for_saving_the_work() {
    for claude in Claude::both() {
        let env = world();
        let upstream = upstream([
            spending(Answer::bash("echo one > one.txt"), "0.82"),
            spending(Answer::bash("echo two > two.txt"), "0.05"),
            spending(Answer::bash("echo three > three.txt"), "0.09"),
            spending(Answer::bash("git add -A && git commit -q -m saved"), "0.01"),
            spending(Answer::text("Saved."), "0.01"),
        ]);
        // Nobody else need be told at these shares.
        let flags = ["--budget", "1usd", "--config", "budget.alert_at=[50]"];
        let output = supervised(&env, &claude, &flags, &["-p", "work", "--model", OPUS, AUTO]).upstream(&upstream).run().success();
        assert_eq!(output.stdout, "Saved.\n", "{}", output.stderr);
        let bodies: Vec<String> = upstream.messages().iter().map(|record| record.json()["messages"].to_string()).collect();
        let told = "sentrely: 82 % of this session's budget is used ($0.82 of $1.00). Commit what you have now";
        let denied = "sentrely: 96 % of this session's budget is used ($0.96 of $1.00). What is left is for saving the work";
        let counts = |words: &str| bodies.iter().map(|body| body.matches(words).count()).collect::<Vec<_>>();
        assert_eq!(counts(told), [0, 1, 1, 1, 1], "{}: once, with the first tool's result", claude.name());
        assert_eq!(counts("sentrely: 87 %"), [0; 5]);
        assert_eq!(counts(denied), [0, 0, 0, 1, 1], "{}", claude.name());
        let branch = the_view(&env)["branch"].as_str().unwrap().to_owned();
        assert_eq!(env.git(&["log", "-1", "--format=%s", &branch]), "saved", "git was let through");
        assert_eq!(env.git(&["ls-tree", "--name-only", &branch]), "README.md\none.txt\ntwo.txt", "the third command never ran");
        let notices = env.events(&env.the_session(), "notice");
        let words = "96 % of the budget is used ($0.96 of $1.00): only git and tools that write files are let through";
        assert_eq!(notices.iter().filter(|event| event["what"] == words).count(), 1, "{notices:?}");
    }
}

#[test]
fn a_push_to_main_is_advised_against_once_before_the_gate_refuses_it() {
    for claude in Claude::both() {
        let env = world();
        let push = || Answer::bash("git commit -q --allow-empty -m more; git push origin HEAD:main");
        let upstream = upstream([push(), push(), Answer::bash("echo git push is fine to talk about"), Answer::text("done")]);
        let output = supervised(&env, &claude, &[], &["-p", "work", AUTO]).upstream(&upstream).run().success();
        let bodies: Vec<String> = upstream.messages().iter().map(|record| record.json()["messages"].to_string()).collect();
        assert_eq!((output.stdout.as_str(), bodies.len()), ("done\n", 4), "{}", output.stderr);
        let branch = the_view(&env)["branch"].as_str().unwrap().to_owned();
        let advice = "sentrely: `main` is a protected branch, and this session has no grant to push to it";
        assert_eq!(bodies[3].matches(advice).count(), 1, "{}", claude.name());
        assert!(bodies[1].contains(&format!("git push origin HEAD:{branch}")));
        assert_eq!(bodies[3].matches("remote rejected").count(), 2, "advice is no barrier: git was run, and the gate refused");
    }
}

#[test]
fn hooks_that_are_switched_off_cost_the_notices_and_nothing_else_and_that_is_said() {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    env.claude_settings(&json!({ "disableAllHooks": true }));
    let upstream = upstream([Answer::bash("git push origin HEAD:main; echo work > f"), Answer::text("done")]);
    let output = supervised(&env, &claude, &[], &["-p", "work", AUTO]).upstream(&upstream).run().success();
    assert!(output.stderr.contains("hooks are switched off in Claude Code (disableAllHooks in "), "{}", output.stderr);
    let notices = env.events(&env.the_session(), "notice");
    assert!(notices.iter().any(|event| event["what"].as_str().unwrap().contains("nothing can be said inside Claude Code")), "{notices:?}");
    assert!(!upstream.messages()[1].json()["messages"].to_string().contains("sentrely: `main`"));
}

#[test]
fn a_users_list_of_allowed_addresses_keeps_their_own_hooks_out_and_lets_ours_through() {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    env.claude_settings(&json!({ "allowedHttpHookUrls": ["https://hooks.example.com/*"] }));
    let upstream = upstream([Answer::bash("git push origin HEAD:main"), Answer::text("done")]);
    let _ = supervised(&env, &claude, &[], &["-p", "work", AUTO]).upstream(&upstream).run().success();
    assert!(upstream.messages()[1].json()["messages"].to_string().contains("sentrely: `main` is a protected branch"));
}

#[test]
fn a_hook_is_answered_through_the_users_proxy_variables_too() {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    let nowhere = "http://127.0.0.1:9";
    env.claude_settings(&json!({ "env": { "HTTP_PROXY": nowhere, "HTTPS_PROXY": nowhere, "http_proxy": nowhere } }));
    fs::write(env.project().join("x"), "x").unwrap();
    let upstream = upstream([Answer::bash("git push origin HEAD:main"), Answer::text("done")]);
    let _ = supervised(&env, &claude, &[], &["-p", "work", AUTO]).var("NO_PROXY", "127.0.0.1").upstream(&upstream).run().success();
    assert!(upstream.messages()[1].json()["messages"].to_string().contains("sentrely: `main` is a protected branch"));
}
