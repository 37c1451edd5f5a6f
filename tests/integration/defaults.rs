//! What holds where nobody says otherwise: the budget, and who is accountable.

use serde_json::json;

use crate::support::claude::DUMMY_KEY;
use crate::support::env::TestEnv;
use crate::support::run::{Output, Run};

fn run<'e>(env: &'e TestEnv, flags: &[&str]) -> Run<'e> {
    env.sentrely(&[&["run"], flags, &["--", "true"]].concat())
}

fn session(env: &TestEnv) -> serde_json::Value {
    env.ls_json()["sessions"][0].clone()
}

#[test]
fn what_is_billed_has_five_dollars_and_the_banner_says_that_nobody_asked_for_it() {
    let budget =
        |output: &Output| output.stderr.lines().find_map(|line| line.trim().strip_prefix("budget    ").map(str::to_owned)).unwrap();
    let env = TestEnv::new();
    let output = run(&env, &[]).var("ANTHROPIC_API_KEY", DUMMY_KEY).run().success();
    assert_eq!(budget(&output), "$5.00 (the default; --budget changes it)");
    assert_eq!(session(&env)["budgets"], json!([{ "kind": "usd", "limit": "5", "used": "0", "percent": 0 }]));

    let env = TestEnv::new();
    let output = run(&env, &["--budget", "7usd"]).var("ANTHROPIC_API_KEY", DUMMY_KEY).run().success();
    assert_eq!(budget(&output), "$7.00");
    assert_eq!(session(&env)["budgets"][0]["limit"], "7");
}

#[test]
fn in_ci_the_actor_is_accountable_as_asserted_and_only_there() {
    let github = [("GITHUB_ACTIONS", "true"), ("GITHUB_ACTOR", "octocat")];
    let gitlab = [("GITLAB_CI", "true"), ("GITLAB_USER_LOGIN", "tanuki")];
    for (variables, name) in [(github, "octocat"), (gitlab, "tanuki")] {
        let env = TestEnv::new();
        let ci = variables.iter().fold(run(&env, &[]), |run, (variable, value)| run.var(variable, value)).run().success();
        assert!(ci.stderr.contains(&format!(" · {name} (asserted by CI) · ")), "{}", ci.stderr);
        let view = session(&env);
        assert_eq!((&view["developer"], &view["developer_source"]), (&json!(name), &json!("asserted")));
        assert!(view["branch"].as_str().unwrap().starts_with(&format!("sentrely/{name}/")), "{view}");

        // The name alone is anybody's to set: outside of CI git's own is taken.
        let env = TestEnv::new();
        let (variable, value) = variables[1];
        let _ = run(&env, &[]).var(variable, value).run().success();
        let view = session(&env);
        assert_eq!((&view["developer"], &view["developer_source"]), (&json!("dev@example.com"), &json!("self-declared")));
    }
}
