//! Which branches are protected: what everybody's configuration names, the remote's default, and what the forge says.

use serde_json::json;

use crate::support::env::TestEnv;
use crate::support::forge::Forge;

const REFUSED: &str = "(sentrely: protected branch; this session may only push";

fn push(env: &TestEnv, script: &str, branch: &str) -> String {
    let script = format!("{script}\ngit commit -q --allow-empty -m x; git push origin HEAD:{branch}; true");
    env.sentrely(&["run", "--wall", "off", "--", "sh", "-c", &script]).run().success().stderr
}

#[test]
fn every_layer_and_the_remotes_default_add_up() {
    let env = TestEnv::new();
    env.git(&["push", "-q", "origin", "main:trunk"]);
    env.git(&["remote", "set-head", "origin", "trunk"]);
    let dir = env.home().join(".config/sentrely");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("config.toml"), "[git]\nprotected = ['prod']\n").unwrap();
    std::fs::write(env.project().join("sentrely.toml"), "[git]\nprotected = ['demo']\n").unwrap();
    for branch in ["main", "release/1", "trunk", "prod", "demo"] {
        let said = push(&env, "", branch);
        assert!(said.contains(REFUSED), "{branch}: {said}");
    }
    let said = push(&env, "", "feature");
    assert!(said.contains("(sentrely: not this session's branch"), "{said}");
}

#[test]
fn what_the_forge_protects_is_asked_for_once_an_hour_and_never_waited_for() {
    let forge = Forge::start();
    let env = super::super::pull_request::at_github(&forge);
    forge.protect(&["stable"]);
    let wait = format!("until ls {}/protected/*.json; do sleep 0.05; done >/dev/null 2>&1", env.state_dir().display());
    let said = push(&env, &wait, "stable");
    assert!(said.contains(REFUSED), "{said}");
    let said = push(&env, "", "stable");
    assert!(said.contains(REFUSED), "known from the last time: {said}");
    let asked = forge.asked_for_branches();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(asked[0].path, "/repos/acme/shop/branches?protected=true&per_page=100");
    assert_eq!(asked[0].header("authorization"), Some(&*format!("Bearer {}", super::super::pull_request::TOKEN)));
}

#[test]
fn what_a_gitlab_protects_is_asked_for_with_its_own_header_and_patterns_are_patterns() {
    let forge = Forge::start();
    let env = super::super::pull_request::at_gitlab(&forge);
    let nobody = json!([{ "id": 1, "access_level": 0, "access_level_description": "No one" }]);
    forge.gitlab(
        40,
        json!([{ "id": 1, "name": "prod/*", "push_access_levels": nobody, "merge_access_levels": [], "allow_force_push": false }]),
    );
    let wait = format!("until ls {}/protected/*.json; do sleep 0.05; done >/dev/null 2>&1", env.state_dir().display());
    let said = push(&env, &wait, "prod/eu");
    assert!(said.contains(REFUSED), "{said}");
    let asked = forge.asked_for_branches();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(asked[0].header("private-token"), Some(super::super::pull_request::TOKEN));
    assert_eq!(asked[0].header("authorization"), None);
}

#[test]
fn a_forge_that_refuses_or_is_not_there_changes_nothing() {
    let forge = Forge::start();
    forge.refuse_branches(403, json!({ "message": "Forbidden" }));
    let env = super::super::pull_request::at_github(&forge);
    let said = push(&env, "", "main");
    assert!(said.contains(REFUSED), "{said}");
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    super::super::pull_request::configure(&env, &format!("http://{nowhere}"));
    let said = push(&env, "", "main");
    assert!(said.contains(REFUSED), "{said}");
}
