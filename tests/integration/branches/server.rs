//! `doctor`: does the remote itself protect its default branch from this identity, and what is to be switched on.

use serde_json::{Value, json};

use crate::support::env::TestEnv;
use crate::support::forge::Forge;

fn told(env: &TestEnv) -> Value {
    let output = env.sentrely(&["doctor", "--json"]).run();
    let document: Value = serde_json::from_str(&output.stdout).unwrap();
    document["checks"].as_array().unwrap().iter().find(|check| check["name"] == "branch protection").unwrap().clone()
}

fn at_github(permissions: Value, rules: &[&str], protected: bool) -> (Value, Forge) {
    let forge = Forge::start();
    let env = super::super::pull_request::at_github(&forge);
    forge.guard(permissions, rules, protected);
    (told(&env), forge)
}

#[test]
fn doctor_says_whether_the_remote_protects_main_from_this_token_and_what_to_switch_on() {
    let (open, forge) = at_github(json!({ "push": true, "admin": false }), &[], false);
    assert_eq!(open["what"], "main of acme/shop at github.com takes direct pushes from your token");
    assert!(open["status"] == "warn" && open["hint"].as_str().unwrap().contains("require a pull request"), "{open}");
    let bearer = format!("Bearer {}", super::super::pull_request::TOKEN);
    assert!(forge.asked_for_branches().iter().all(|asked| asked.header("authorization") == Some(&*bearer) && asked.method == "GET"));

    let (guarded, _) = at_github(json!({ "push": true, "admin": false }), &["pull_request", "non_fast_forward"], true);
    assert_eq!(guarded["what"], "main of acme/shop at github.com is protected by non_fast_forward, pull_request");
    assert_eq!((&guarded["status"], &guarded["hint"]), (&json!("ok"), &Value::Null));

    let (administered, _) = at_github(json!({ "push": true, "admin": true }), &["pull_request", "non_fast_forward"], true);
    assert!(administered["hint"].as_str().unwrap().contains("bypass"), "{administered}");

    let (reader, _) = at_github(json!({ "push": false }), &[], false);
    assert_eq!(reader["what"], "main of acme/shop at github.com: your token may not push");
}

#[test]
fn where_the_remote_cannot_be_asked_doctor_says_that_it_cannot_know() {
    let said = |url: &str| {
        let env = TestEnv::new();
        env.git(&["remote", "set-url", "origin", url]);
        told(&env)["what"].as_str().unwrap().to_owned()
    };
    assert_eq!(said("https://gitlab.com/acme/shop.git"), "whether origin protects main cannot be told: gitlab.com is asked by hand");
    assert_eq!(said("https://github.com/acme/shop.git"), "whether origin protects main cannot be told: there is no token to ask with");
    assert_eq!(said("git@example.org:shop.git"), "whether origin protects main cannot be told: it is no forge that sentrely knows");
    let env = TestEnv::new();
    assert_eq!(told(&env)["what"], "origin is a folder: whoever may write there may move main");
}
