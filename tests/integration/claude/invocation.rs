//! The ways to call the client: what is a session, what is passed through, what is refused, and how one is gone on with.

use std::os::unix::fs::symlink;

use sentrely::simulated::Answer;
use serde_json::json;

use super::{supervised, the_view, upstream, usd, world};
use crate::support::claude::Claude;

const OPUS: &str = "claude-opus-5-5";

#[test]
fn what_is_no_session_is_passed_through_without_one() {
    for claude in Claude::both() {
        let env = world();
        let upstream = upstream(Answer::text("never"));
        let version = supervised(&env, &claude, &[], &["--version"]).upstream(&upstream).run().success();
        assert_eq!(version.stdout, format!("{} (Claude Code)\n", claude.name()));
        assert!(version.stderr.contains("passed through"), "{}", version.stderr);
        let servers = supervised(&env, &claude, &[], &["mcp", "list"]).upstream(&upstream).run().success();
        assert!(servers.stdout.contains("No MCP servers configured"), "{}", servers.stdout);
        assert!(env.sessions().is_empty() && upstream.messages().is_empty());
    }
}

#[test]
fn what_would_leave_the_session_is_refused_with_a_reason() {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    let upstream = upstream(Answer::text("never"));
    let cases: [&[&str]; 6] =
        [&["--bg", "do it"], &["--background", "do it"], &["agents"], &["-w", "x", "--tmux"], &["daemon", "run"], &["--cloud", "do it"]];
    for args in cases {
        let output = supervised(&env, &claude, &[], args).upstream(&upstream).run().exits(125);
        assert!(output.stderr.contains("sentrely") && output.stderr.contains("hint:"), "{args:?}: {}", output.stderr);
    }
    assert!(env.sessions().is_empty() && upstream.requests().is_empty());
    assert_eq!(env.processes().len(), 0);
}

#[test]
fn a_client_that_is_only_in_its_install_place_is_found() {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    let bin = env.home().join(".local/bin");
    std::fs::create_dir_all(&bin).unwrap();
    symlink(claude.path(), bin.join("claude")).unwrap();
    let upstream = upstream(Answer::text("hello"));
    let run =
        env.sentrely(&["run", "--", "claude", "-p", "hi"]).upstream(&upstream).var("PATH", "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin");
    assert_eq!(run.run().success().stdout, "hello\n");
    assert_eq!(the_view(&env)["command"], json!(["claude", "-p", "hi"]));
}

#[test]
fn nobody_logged_in_is_the_clients_own_word_and_code() {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    let upstream = upstream(Answer::text("never"));
    let output = supervised(&env, &claude, &[], &["-p", "hi"]).var("ANTHROPIC_BASE_URL", upstream.url()).run().exits(1);
    assert!(output.stdout.contains("Not logged in"), "{}", output.stdout);
    assert!(output.stderr.contains("no credential for the model was found"), "{}", output.stderr);
    assert_eq!(upstream.messages().len(), 0);
}

/// A first run, then `sentrely run --resume` with these arguments of the client's.
fn goes_on(claude: &Claude, how: impl Fn(&str) -> Vec<String>) {
    let env = world();
    let upstream = upstream([Answer::text("I shall remember.").costing(usd("0.40")), Answer::text("It was a heron.").costing(usd("0.20"))]);
    let first = ["-p", "remember the heron", "--model", OPUS];
    let _ = supervised(&env, claude, &["--budget", "1usd"], &first).upstream(&upstream).run().success();
    let id = env.the_session();
    let conversations =
        || -> Vec<String> { env.events(&id, "claude_session").iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect() };
    let conversation = conversations().remove(0);
    let mut second: Vec<String> = ["-p", "what was it", "--model", OPUS].map(str::to_owned).into();
    second.extend(how(&conversation));
    let second: Vec<&str> = second.iter().map(String::as_str).collect();
    let output = supervised(&env, claude, &["--resume", &id[..8]], &second).upstream(&upstream).run().success();
    assert_eq!(output.stdout, "It was a heron.\n", "{}", output.stderr);

    let seen = upstream.messages();
    assert_eq!(seen.len(), 2);
    assert!(seen[1].json()["messages"].to_string().contains("remember the heron"), "the conversation goes on");
    let view = the_view(&env);
    assert_eq!((&view["attempts"], &view["cost_usd"], &view["requests"]), (&json!(2), &json!("0.6"), &json!(2)), "one ledger");
    assert_eq!(view["budgets"], json!([{ "kind": "usd", "limit": "1", "used": "0.6", "percent": 60 }]));
    let spoke: Vec<&str> = seen.iter().filter_map(|record| record.header("x-claude-code-session-id")).collect();
    assert_eq!(conversations().last().unwrap(), spoke[1]);
    // Forked or not, the ledger is the session's: the next turn does not fit any more.
    let third = ["-p", "and again", "--model", OPUS, "-c"];
    upstream.set_script(Answer::text("never said").costing(usd("0.40")));
    let stopped = supervised(&env, claude, &["--resume", &id[..8], "--budget", "0.600001usd"], &third).upstream(&upstream).run().exits(121);
    assert_eq!(upstream.messages().len(), 2, "{}", stopped.stderr);
}

#[test]
fn a_resumed_session_continues_claudes_conversation_on_the_same_ledger() {
    for claude in Claude::both() {
        goes_on(&claude, |_| vec!["-c".to_owned()]);
    }
}

#[test]
fn a_conversation_named_by_its_id_is_continued_too() {
    let Some(claude) = Claude::v330() else { return };
    goes_on(&claude, |id| vec!["--resume".to_owned(), id.to_owned()]);
}

#[test]
fn a_forked_conversation_is_learned_and_stays_on_the_same_ledger() {
    let Some(claude) = Claude::v330() else { return };
    goes_on(&claude, |id| vec!["--resume".to_owned(), id.to_owned(), "--fork-session".to_owned()]);
}

#[test]
fn the_next_command_of_the_summary_goes_on_where_the_budget_ended_it() {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    let upstream = upstream([Answer::bash("true").costing(usd("0.80")), Answer::text("Now it is done.").costing(usd("0.10"))]);
    let args = ["-p", "work", "--model", OPUS, "--dangerously-skip-permissions"];
    let output = supervised(&env, &claude, &["--budget", "1usd"], &args).upstream(&upstream).run().exits(121);
    let next =
        output.stderr.lines().find_map(|line| line.trim().strip_prefix("next")).unwrap_or_else(|| panic!("{}", output.stderr)).trim();
    let sentrely = format!("{} ", env!("CARGO_BIN_EXE_sentrely"));
    let line = format!("{} -p 'go on' --model {OPUS}", next.replacen("sentrely ", &sentrely, 1));
    let resumed = env.command("sh", &["-c", &line]).upstream(&upstream).run().success();
    assert_eq!(resumed.stdout, "Now it is done.\n", "{line}\n{}", resumed.stderr);
    let view = the_view(&env);
    assert_eq!((&view["attempts"], &view["cost_usd"], &view["budgets"][0]["limit"]), (&json!(2), &json!("0.9"), &json!("2")));
}
