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

/// As docs.gitlab.com shows a protected branch ("List protected branches").
fn protected(name: &str, push: &[u64], force: bool) -> Value {
    let access =
        |level: &u64| json!({ "id": 1, "access_level": level, "user_id": null, "group_id": null, "access_level_description": "x" });
    let levels: Vec<Value> = push.iter().map(access).collect();
    json!({ "id": 1, "name": name, "push_access_levels": levels, "merge_access_levels": [access(&40)],
            "allow_force_push": force, "code_owner_approval_required": false, "inherited": false })
}

#[test]
fn doctor_asks_a_gitlab_whether_it_protects_main_from_this_token() {
    let asked = |level: u64, branches: Value| {
        let forge = Forge::start();
        let env = super::super::pull_request::at_gitlab(&forge);
        forge.gitlab(level, branches);
        let check = told(&env);
        assert!(forge.asked_for_branches().iter().all(|asked| asked.header("private-token").is_some() && asked.method == "GET"));
        (check["what"].as_str().unwrap().to_owned(), check["hint"].as_str().unwrap_or("fine").to_owned())
    };
    let project = "main of acme/shop at git.corp.example";
    let (what, hint) = asked(40, json!([]));
    assert_eq!(what, format!("{project} is not protected and takes direct pushes from your token"));
    assert!(hint.contains("Protected branches: protect main and allow nobody to push"), "{hint}");
    let (what, hint) = asked(40, json!([protected("main", &[40], true)]));
    assert_eq!(what, format!("{project} takes direct pushes from your token"));
    assert!(hint.contains("switch off force pushes"), "{hint}");
    for branches in [json!([protected("main", &[0], false)]), json!([protected("ma*", &[0], false)])] {
        assert_eq!(asked(40, branches), (format!("{project} is protected: you may not push to it"), "fine".to_owned()));
    }
    assert_eq!(asked(30, json!([protected("main", &[40], false)])).1, "fine", "a developer");
    assert!(asked(30, json!([protected("other", &[40], false)])).0.contains("is not protected"));
    assert_eq!(asked(20, json!([])).0, format!("{project}: your token may not push"));
}

#[test]
fn where_the_remote_cannot_be_asked_doctor_says_that_it_cannot_know() {
    let said = |url: &str| {
        let env = TestEnv::new();
        env.git(&["remote", "set-url", "origin", url]);
        told(&env)["what"].as_str().unwrap().to_owned()
    };
    assert_eq!(said("https://gitlab.com/acme/shop.git"), "whether origin protects main cannot be told: there is no token to ask with");
    assert_eq!(said("https://codeberg.org/acme/shop.git"), "whether origin protects main cannot be told: codeberg.org is asked by hand");
    assert_eq!(said("https://github.com/acme/shop.git"), "whether origin protects main cannot be told: there is no token to ask with");
    assert_eq!(said("git@example.org:shop.git"), "whether origin protects main cannot be told: it is no forge that sentrely knows");
    let env = TestEnv::new();
    assert_eq!(told(&env)["what"], "origin is a folder: whoever may write there may move main");
}
