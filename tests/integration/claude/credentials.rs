//! Every kind of credential reaches the upstream as the user has it; the child has a stand-in, the upstream never sees that.

use sentrely::simulated::{Answer, Record};
use serde_json::{Value, json};

use super::{supervised, upstream, world};
use crate::support::claude::{Claude, DUMMY_KEY, DUMMY_OAUTH};
use crate::support::env::TestEnv;
use crate::support::run::Run;

const TOKEN: &str = "tok-of-a-gateway-000000000000000000000000";
const HELPERS: &str = "sk-ant-api03-from-the-helper-000000000000000000";

/// Runs the client, whose Bash tool prints its whole environment and that of claude itself; returns what the upstream saw and that print.
fn run(env: &TestEnv, claude: &Claude, prepare: impl FnOnce(Run<'_>) -> Run<'_>) -> (Vec<Record>, String, String) {
    let spy = "cat /proc/$PPID/environ | tr '\\0' '\\n' > spied.txt; env >> spied.txt; tr '\\0' '\\n' < /proc/$PPID/cmdline >> spied.txt";
    let upstream = upstream([Answer::bash(spy), Answer::text("done")]);
    let run = supervised(env, claude, &[], &["-p", "work", "--model", "claude-opus-5-5", "--dangerously-skip-permissions"]);
    let output = prepare(run.var("ANTHROPIC_BASE_URL", upstream.url())).run().success();
    let seen = upstream.messages();
    assert_eq!((output.stdout.as_str(), seen.len()), ("done\n", 2), "{}", output.stderr);
    let branch = super::the_view(env)["branch"].as_str().unwrap().to_owned();
    let spied = env.git(&["show", &format!("{branch}:spied.txt")]);
    assert!(spied.contains("SENTRELY_RUN_ID=") && spied.contains("ANTHROPIC_BASE_URL=http://127.0.0.1:"), "{spied}");
    // The token in the base URL opens the proxy, and nothing of it goes on.
    let base = spied.lines().find_map(|line| line.strip_prefix("ANTHROPIC_BASE_URL=")).unwrap();
    let token = base.rsplit('/').find(|part| part.len() >= 32).unwrap_or_else(|| panic!("a token in {base}"));
    for record in upstream.requests() {
        let text = format!("{} {:?} {}", record.path, record.headers, record.json());
        assert!(!record.path.contains(token) && !format!("{:?}", record.headers).contains(token), "{text}");
        for (name, value) in &record.headers {
            let credential = name == "x-api-key" || name == "authorization";
            let real = [DUMMY_KEY, TOKEN, DUMMY_OAUTH, HELPERS].iter().any(|real| value.ends_with(real));
            assert!(!credential || real, "{name}: {value}");
        }
    }
    (seen, spied, output.stderr)
}

fn carried(record: &Record) -> (Option<&str>, Option<&str>) {
    (record.header("x-api-key"), record.header("authorization"))
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

#[test]
fn a_key_of_the_environment() {
    for claude in Claude::both() {
        let env = world();
        let (seen, spied, _) = run(&env, &claude, |run| run.var("ANTHROPIC_API_KEY", DUMMY_KEY));
        assert!(seen.iter().all(|record| carried(record) == (Some(DUMMY_KEY), None)), "{seen:?}");
        assert!(!spied.contains(DUMMY_KEY), "{spied}");
        assert_eq!(super::the_view(&env)["billing"], json!({ "kind": "key", "last4": &DUMMY_KEY[DUMMY_KEY.len() - 4..] }));
    }
}

#[test]
fn an_auth_token_of_the_environment_alone_and_beside_a_key() {
    for claude in Claude::both() {
        let env = world();
        let (seen, spied, _) = run(&env, &claude, |run| run.var("ANTHROPIC_AUTH_TOKEN", TOKEN));
        assert!(seen.iter().all(|record| carried(record) == (None, Some(&bearer(TOKEN)))), "{seen:?}");
        assert!(!spied.contains(TOKEN), "{spied}");
    }
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    let (seen, spied, _) = run(&env, &claude, |run| run.var("ANTHROPIC_AUTH_TOKEN", TOKEN).var("ANTHROPIC_API_KEY", DUMMY_KEY));
    assert!(seen.iter().all(|record| carried(record) == (Some(DUMMY_KEY), Some(&bearer(TOKEN)))), "{seen:?}");
    assert!(!spied.contains(TOKEN) && !spied.contains(DUMMY_KEY), "{spied}");
}

#[test]
fn an_oauth_token_of_the_environment() {
    for claude in Claude::both() {
        let env = world();
        let (seen, spied, _) = run(&env, &claude, |run| run.var("CLAUDE_CODE_OAUTH_TOKEN", DUMMY_OAUTH));
        assert!(seen.iter().all(|record| carried(record) == (None, Some(&bearer(DUMMY_OAUTH)))), "{seen:?}");
        assert!(
            seen.iter().all(|record| record.header("anthropic-beta").is_some_and(|betas| betas.contains("oauth-2025-04-20"))),
            "{seen:?}"
        );
        assert!(!spied.contains(DUMMY_OAUTH), "{spied}");
        assert_eq!(super::the_view(&env)["billing"]["kind"], "subscription");
    }
}

#[test]
fn a_login_file_is_passed_through_and_said_to_be_readable() {
    for claude in Claude::both() {
        let env = world();
        env.claude_login();
        let (seen, spied, banner) = run(&env, &claude, |run| run);
        assert!(seen.iter().all(|record| carried(record) == (None, Some(&bearer(DUMMY_OAUTH)))), "{seen:?}");
        assert!(!spied.contains("ANTHROPIC_API_KEY=s") && !spied.contains("ANTHROPIC_AUTH_TOKEN=e"), "{spied}");
        assert!(banner.contains("login") && banner.contains("subscription"), "{banner}");
        let view = super::the_view(&env);
        assert_eq!((&view["billing"]["kind"], &view["budgets"]), (&json!("subscription"), &json!([])));
    }
}

#[test]
fn a_key_that_stands_only_in_the_users_settings() {
    for claude in Claude::both() {
        let env = world();
        env.claude_settings(&json!({ "env": { "ANTHROPIC_API_KEY": DUMMY_KEY } }));
        let (seen, spied, banner) = run(&env, &claude, |run| run);
        assert!(seen.iter().all(|record| carried(record) == (Some(DUMMY_KEY), None)), "{seen:?}");
        assert!(banner.contains("settings.json, where the agent can read it"), "{banner}");
        assert!(!spied.contains(DUMMY_KEY), "{spied}");
    }
}

/// A helper that notes who ran it: its parent's name and whether it was inside the session.
fn helper(env: &TestEnv) -> (Value, std::path::PathBuf) {
    let note = env.root().join("helper-runs");
    let command = format!("echo \"inside=$SENTRELY_RUN_ID\" >> {}; echo {HELPERS}", note.display());
    (json!({ "apiKeyHelper": command }), note)
}

#[test]
fn a_key_helper_is_run_by_the_supervisor_and_never_in_the_child() {
    for claude in Claude::both() {
        let env = world();
        let (settings, note) = helper(&env);
        env.claude_settings(&settings);
        let (seen, spied, _) = run(&env, &claude, |run| run);
        assert!(seen.iter().all(|record| carried(record) == (Some(HELPERS), Some(&bearer(HELPERS)))), "{seen:?}");
        assert!(!spied.contains(HELPERS), "{spied}");
        assert_eq!(std::fs::read_to_string(note).unwrap(), "inside=\n", "once, and outside of the session");
    }
}

#[test]
fn a_key_helper_whose_answer_is_refused_is_asked_again() {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    let count = env.root().join("count");
    let command = format!("echo x >> {0}; test $(wc -l < {0}) = 1 && echo sk-ant-old-0000000000000000 || echo {HELPERS}", count.display());
    env.claude_settings(&json!({ "apiKeyHelper": command }));
    let decide = |request: &sentrely::simulated::Request| {
        let fresh = request.headers.get("x-api-key").is_some_and(|key| key.as_bytes() == HELPERS.as_bytes());
        (!fresh).then(|| Answer::error(401, "authentication_error", "the key has expired"))
    };
    let upstream = upstream(sentrely::simulated::Script::by(decide).otherwise(Answer::text("with the new key")));
    let run = supervised(&env, &claude, &[], &["-p", "hello"]).var("ANTHROPIC_BASE_URL", upstream.url());
    let output = run.run().success();
    assert_eq!(output.stdout, "with the new key\n");
    let keys: Vec<_> = upstream.messages().iter().map(|record| record.header("x-api-key").unwrap_or_default().to_owned()).collect();
    assert!(keys.len() >= 2 && keys[0].contains("old") && keys.last().unwrap() == HELPERS, "{keys:?}");
}

#[test]
fn a_key_helper_that_prints_another_key_is_a_change_of_who_pays_and_that_is_told() {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    let count = env.root().join("count");
    let command = format!("echo x >> {0}; test $(wc -l < {0}) = 1 && echo sk-ant-old-0000000000000000 || echo {HELPERS}1", count.display());
    env.claude_settings(&json!({ "apiKeyHelper": command }));
    let decide = |request: &sentrely::simulated::Request| {
        let old = request.headers.get("x-api-key").is_some_and(|key| key.as_bytes().starts_with(b"sk-ant-old"));
        old.then(|| Answer::error(401, "authentication_error", "the key has expired"))
    };
    let upstream = upstream(sentrely::simulated::Script::by(decide).otherwise(Answer::text("with the new key")));
    let output = supervised(&env, &claude, &[], &["-p", "hello"]).var("ANTHROPIC_BASE_URL", upstream.url()).run().success();
    assert!(output.stderr.contains("pays      API key …0000, to"), "the helper's first key: {}", output.stderr);
    let id = env.the_session();
    let key = |last4: &str| json!({ "kind": "key", "last4": last4 });
    let changes = env.events(&id, "billing_changed");
    assert_eq!(changes, [json!({ "kind": "billing_changed", "billing": key("0001"), "before": key("0000") })]);
    assert_eq!(super::the_view(&env)["billing"], key("0001"));
    let words = "who pays changed: API key …0001 instead of API key …0000";
    assert!(output.stderr.contains(words), "{}", output.stderr);
    for command in ["log", "show"] {
        let told = env.sentrely(&[command, &id[..8]]).run().success().stdout;
        assert!(told.contains(words), "{told}");
    }
    assert!(env.sentrely(&["ls", "-a"]).run().success().stdout.contains("  key …0001  "));
}

/// A program of the session's that asks the proxy with a key of its own, which a login file's session passes on.
const WITH_A_KEY: &str = r#"cat > ask.py <<'END'
import os, urllib.request
body = b'{"model":"claude-haiku-4-5","max_tokens":9,"stream":true,"messages":[{"role":"user","content":"a key pays this"}]}'
headers = {"x-api-key": "sk-ant-api03-found-somewhere-4321", "content-type": "application/json"}
try:
    urllib.request.urlopen(urllib.request.Request(os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages", body, headers)).read()
except Exception as error:
    print(error)
END
python3 ask.py"#;

#[test]
fn another_credential_in_the_middle_of_a_session_is_an_event_and_what_is_billed_then_has_a_limit() {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    env.claude_login();
    let script = sentrely::simulated::Script::default()
        .whenever(sentrely::simulated::When::prompt("a key pays this"), Answer::text("paid"))
        .then([Answer::bash(WITH_A_KEY), Answer::text("done")]);
    let upstream = upstream(script);
    let args = ["-p", "work", "--dangerously-skip-permissions"];
    let output = supervised(&env, &claude, &[], &args).var("ANTHROPIC_BASE_URL", upstream.url()).run().success();
    assert_eq!(output.stdout, "done\n", "{}", output.stderr);
    let id = env.the_session();
    let kinds: Vec<_> = env.events(&id, "billing_changed").iter().map(|event| event["billing"]["kind"].clone()).collect();
    // What the login file holds is learned from the first request.
    assert_eq!(kinds, [json!("subscription"), json!("key"), json!("subscription")]);
    let limits = env.events(&id, "limits_set");
    assert_eq!((limits.len(), &limits[0]["budgets"][0]["kind"]), (1, &json!("usd")), "{limits:?}");
}

#[test]
fn another_credential_than_expected_never_reaches_the_upstream_and_stops_the_session() {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    env.claude_login();
    let upstream = upstream([Answer::bash(WITH_A_KEY), Answer::text("done")]);
    let (flags, args) = (["--config", "billing.expect=subscription"], ["-p", "work", "--dangerously-skip-permissions"]);
    let output = supervised(&env, &claude, &flags, &args).var("ANTHROPIC_BASE_URL", upstream.url()).run().exits(123);
    let why = "[billing] expect wants a Claude subscription to pay, and an API key …4321 would";
    assert!(output.stderr.contains(why), "{}", output.stderr);
    assert!(upstream.messages().iter().all(|record| record.header("x-api-key").is_none()), "it never left");
    let id = env.the_session();
    let stop = env.events(&id, "stop_requested").swap_remove(0);
    assert_eq!((&stop["reason"], &stop["by"]), (&json!("policy_stop"), &json!("billing")));
    assert!(env.events(&id, "request_refused")[0]["why"].as_str().unwrap().contains("[billing] expect"));
}

#[test]
fn who_is_not_expected_to_pay_starts_nothing() {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    let upstream = upstream(Answer::text("never"));
    let run = supervised(&env, &claude, &["--config", "billing.expect=subscription"], &["-p", "work"]).upstream(&upstream);
    let output = run.run().exits(125);
    let why = format!("[billing] expect wants a Claude subscription to pay, and an API key …{} would", &DUMMY_KEY[DUMMY_KEY.len() - 4..]);
    assert!(output.stderr.contains(&why), "{}", output.stderr);
    assert!(output.stderr.contains("hint: what is there is an API key in the environment; log in as expected"), "{}", output.stderr);
    assert_eq!((env.sessions().len(), upstream.requests().len()), (0, 0), "nothing was created");
    let _ = supervised(&env, &claude, &["--config", "billing.expect=key"], &["-p", "work"]).upstream(&upstream).run().success();
}
