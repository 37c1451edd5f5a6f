//! GitHub: by its API, with what it is known to refuse and to delay.

use serde_json::json;

use super::{ADDED, TOKEN, at_github, branch, configure, pr, pushed, run, session, world};
use crate::support::forge::Forge;
use crate::support::git::executable;
use crate::support::run::wait_until;
use std::time::Duration;

#[test]
fn a_session_becomes_a_draft_with_its_story_and_doing_it_twice_is_doing_it_once() {
    let forge = Forge::start();
    let env = at_github(&forge);
    let id = session(&env, &format!("{ADDED}; git push -q origin HEAD:main || true"));
    let said = pr(&env, &id, &[]).success().stdout;
    assert!(said.contains("https://github.com/acme/shop/pull/1"), "{said}");

    let branch = branch(&env);
    assert_eq!(env.git_in(&env.origin(), &["rev-parse", &branch]), env.git(&["rev-parse", &branch]), "the branch is there as it is here");
    let asked = forge.asked();
    assert_eq!(forge.methods(), "GET POST");
    assert_eq!(asked[1].header("authorization"), Some(format!("Bearer {TOKEN}").as_str()));
    assert_eq!(asked[1].header("x-github-api-version"), Some("2022-11-28"));
    let request = &asked[1].body;
    assert_eq!((&request["draft"], &request["base"], &request["title"]), (&json!(true), &json!("main"), &json!("Add one")));
    assert_eq!(request["head"], json!(branch));
    let body = request["body"].as_str().unwrap();
    let records = env.journal(&id);
    let hash = env.sentrely(&["log", &id, "--verify", "--json"]).run().json();
    for part in [id.as_str(), "dev@example.com", "one.txt | +1 -0", "1 commit, 1 file", "push of refs/heads/main", "child exited, exit 0"] {
        assert!(body.contains(part), "{part} is not in {body}");
    }
    // The hash that left is that of the journal as it was: the line before the one that records the pull request.
    let told = records.last().unwrap();
    assert_eq!(told["event"]["kind"], "pull_request");
    assert!(body.contains(told["prev"].as_str().unwrap()), "{body}");
    assert_eq!(hash["intact"], json!(true));
    assert_eq!(env.ls_json()["sessions"][0]["pr_url"], json!("https://github.com/acme/shop/pull/1"));

    forge.edit(1, |body| format!("Please look at one.txt.\n\n{body}\n\nLooks good."));
    let _ = pr(&env, &id, &[]).success();
    assert_eq!(forge.methods(), "GET POST GET PATCH");
    let body = forge.pulls()[0]["body"].as_str().unwrap().to_owned();
    assert!(body.starts_with("Please look at one.txt.") && body.ends_with("Looks good."), "{body}");
    assert_eq!(body.matches("sentrely:begin").count(), 1, "{body}");
    assert_eq!(forge.pulls().len(), 1);
}

#[test]
fn somebody_who_was_faster_and_a_project_without_drafts_are_no_errors() {
    let forge = Forge::start();
    let env = at_github(&forge);
    let id = session(&env, ADDED);
    forge.next("POST", 422, &[], json!({"message": "Draft pull requests are not supported in this repository."}));
    let _ = pr(&env, &id, &[]).success();
    assert_eq!(forge.pulls()[0]["draft"], json!(false));

    let forge = Forge::start();
    configure(&env, &forge.url());
    forge.open(&branch(&env), "Opened by hand.");
    forge.next("GET", 200, &[], json!([]));
    let exists = json!({"message": "Validation Failed", "errors": [{"message": "A pull request already exists for acme:x."}]});
    forge.next("POST", 422, &[], exists);
    let _ = pr(&env, &id, &["--ready"]).success();
    assert_eq!(forge.methods(), "GET POST GET PATCH");
    assert!(forge.pulls()[0]["body"].as_str().unwrap().starts_with("Opened by hand."));
}

#[test]
fn a_conflict_that_is_an_open_pull_request_is_brought_up_to_date_and_another_one_is_told() {
    let forge = Forge::start();
    let env = at_github(&forge);
    let id = session(&env, ADDED);
    forge.open(&branch(&env), "By hand.");
    forge.next("GET", 200, &[], json!([]));
    forge.next("POST", 409, &[], json!({ "message": "Conflict" }));
    let _ = pr(&env, &id, &[]).success();
    assert_eq!((forge.methods(), forge.pulls().len()), ("GET POST GET PATCH".to_owned(), 1));

    let forge = Forge::start();
    configure(&env, &forge.url());
    forge.next("POST", 409, &[], json!({ "message": "Conflict" }));
    let said = pr(&env, &id, &[]).exits(4).stderr;
    assert!(said.contains("said 409: Conflict"), "{said}");
}

#[test]
fn the_login_of_gh_gives_the_token_of_the_remotes_host_and_goes_before_variables() {
    let forge = Forge::start();
    let env = at_github(&forge);
    let id = session(&env, ADDED);
    let file = env.home().join(".config/sentrely/config.toml");
    std::fs::write(file, format!("[git]\napi_url = \"{}\"\n", forge.url())).unwrap();
    let bin = env.tmp().join("bin");
    executable(&bin.join("gh"), "#!/bin/sh\n[ \"$*\" = 'auth token --hostname github.com' ] && echo gho_of_gh\n");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let _ = env.sentrely(&["pr", &id]).var("PATH", path).var("GH_TOKEN", "ghp_variable").run().success();
    let _ = env.sentrely(&["pr", &id]).var("GH_TOKEN", "ghp_variable").run().success();
    let tokens: Vec<_> = forge.asked().iter().map(|asked| asked.header("authorization").unwrap().to_owned()).collect();
    assert_eq!(tokens, ["Bearer gho_of_gh", "Bearer gho_of_gh", "Bearer ghp_variable", "Bearer ghp_variable"]);
}

#[test]
fn a_short_wait_is_waited_and_a_long_one_is_told_with_the_branch_pushed() {
    let forge = Forge::start();
    let env = at_github(&forge);
    let id = session(&env, ADDED);
    forge.next("POST", 429, &[("retry-after", "1")], json!({"message": "slow down"}));
    forge.next("GET", 502, &[], json!({}));
    let _ = pr(&env, &id, &[]).success();
    assert_eq!(forge.methods(), "GET GET POST POST");

    let env = at_github(&forge);
    let id = session(&env, ADDED);
    forge.next("POST", 403, &[("retry-after", "3600")], json!({"message": "secondary rate limit"}));
    let said = pr(&env, &id, &[]).exits(4).stderr;
    assert!(said.contains("come back in 3600 s") && said.contains("hint: the branch is pushed"), "{said}");
    assert!(pushed(&env).contains(&branch(&env)));
    assert_eq!(env.events(&id, "pull_request").len(), 1, "that it went out is recorded");
}

#[test]
fn a_refusal_is_told_in_githubs_words_without_the_token() {
    let forge = Forge::start();
    let env = at_github(&forge);
    let id = session(&env, ADDED);
    forge.next("GET", 401, &[], json!({"message": "Bad credentials"}));
    let said = pr(&env, &id, &[]).exits(4).stderr;
    assert!(said.contains("said 401: Bad credentials") && said.contains("hint: the token is not valid"), "{said}");
    let journal = std::fs::read_to_string(env.session_dir(&id).join("journal.jsonl")).unwrap();
    assert!(!said.contains(TOKEN) && !journal.contains(TOKEN));
}

#[test]
fn changes_that_are_held_wait_for_a_person() {
    let forge = Forge::start();
    let env = at_github(&forge);
    let workflow = "mkdir -p .github/workflows && echo on: push > .github/workflows/ci.yml && git add . && git commit -qm 'Change CI'";
    let id = session(&env, &format!("{ADDED} && {workflow}"));
    let said = pr(&env, &id, &[]).exits(1).stderr;
    assert!(said.contains(".github/workflows/ci.yml") && said.contains("--held"), "{said}");
    assert_eq!(pushed(&env), ["main"], "nothing left the machine");
    assert_eq!(forge.methods(), "");
    let _ = pr(&env, &id, &["--held"]).success();
    assert_eq!(forge.pulls().len(), 1);
}

#[test]
fn without_a_token_the_branch_is_pushed_and_the_page_named() {
    let env = world("git@github.com:acme/shop.git");
    let id = session(&env, ADDED);
    let said = pr(&env, &id, &[]).success().stdout;
    let branch = branch(&env);
    assert!(said.contains(&format!("https://github.com/acme/shop/compare/main...{branch}?expand=1")), "{said}");
    assert!(pushed(&env).contains(&branch));
}

#[test]
fn a_run_opens_it_at_its_end_and_a_forge_that_fails_does_not_change_the_commands_code() {
    let forge = Forge::start();
    let env = at_github(&forge);
    let said = run(&env, &["--pr"], &format!("{ADDED}; exit 3")).run().exits(3).stderr;
    assert!(said.contains("draft pull request: https://github.com/acme/shop/pull/1"), "{said}");
    assert!(forge.pulls()[0]["body"].as_str().unwrap().contains("child exited, exit 3"));
    assert_eq!(env.ls_json()["sessions"][0]["pr_url"], json!("https://github.com/acme/shop/pull/1"));

    forge.next("GET", 401, &[], json!({"message": "Bad credentials"}));
    let said = run(&env, &["--pr"], ADDED).run().success().stderr;
    assert!(said.contains("no pull request: failed to") && said.contains("sentrely pr "), "{said}");
}

#[test]
fn a_stopped_session_says_so_first() {
    let forge = Forge::start();
    let env = at_github(&forge);
    let _ = run(&env, &["--pr", "--timeout", "3s"], &format!("{ADDED}; sleep 600")).run().exits(124);
    let body = forge.pulls()[0]["body"].as_str().unwrap().to_owned();
    let second = body.lines().nth(1).unwrap();
    assert!(second.starts_with("> **This session was stopped before it was done:** `deadline, exit 124"), "{body}");
}

#[test]
fn a_running_session_and_one_without_work_have_nothing_to_open() {
    let forge = Forge::start();
    let env = at_github(&forge);
    let ready = env.tmp().join("ready");
    let running = run(&env, &[], &format!("touch {}; exec sleep 600", ready.display())).spawn();
    wait_until(Duration::from_mins(1), "the session to run", || ready.exists());
    let id = env.the_session();
    assert!(pr(&env, &id, &[]).exits(1).stderr.contains("still running"));
    let _ = env.sentrely(&["kill", &id, "--now"]).run().success();
    let _ = running.wait(Duration::from_mins(1));
    assert!(pr(&env, &id, &[]).exits(1).stderr.contains("no work of it was saved"));
    assert_eq!((forge.methods(), pushed(&env)), (String::new(), vec!["main".to_owned()]));
}

#[test]
fn the_agent_opens_none() {
    let forge = Forge::start();
    let env = at_github(&forge);
    let id = session(&env, ADDED);
    let sentrely = env!("CARGO_BIN_EXE_sentrely");
    let said = run(&env, &[], &format!("{sentrely} pr {id}")).run().exits(125).stderr;
    assert!(said.contains("inside of a session"), "{said}");
    assert_eq!(forge.methods(), "");
}
