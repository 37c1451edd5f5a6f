//! Forges without an API of ours: GitLab by push options, others by their page, plain servers by the push alone.

use super::{ADDED, branch, pr, pushed, session, world};
use crate::support::env::TestEnv;
use crate::support::git::executable;

const GITLAB: &str = "https://gitlab.com/acme/shop.git";

fn hook(env: &TestEnv, script: &str) {
    executable(&env.origin().join("hooks/post-receive"), script);
}

#[test]
fn gitlab_opens_a_merge_request_for_push_options() {
    let env = world(GITLAB);
    env.git_in(&env.origin(), &["config", "receive.advertisePushOptions", "true"]);
    let log = env.tmp().join("options");
    let print = r#"for i in 0 1 2 3 4; do eval echo \"\$GIT_PUSH_OPTION_$i\"; done"#;
    let url = "https://gitlab.com/acme/shop/-/merge_requests/7";
    hook(&env, &format!("#!/bin/sh\n{print} > {}\necho 'View merge request:'\necho '  {url}'\n", log.display()));
    let id = session(&env, ADDED);
    let said = pr(&env, &id, &[]).success().stdout;
    assert!(said.contains(url), "{said}");
    let options = std::fs::read_to_string(&log).unwrap();
    let expected = ["merge_request.create", "merge_request.target=main", "merge_request.title=Add one", "merge_request.draft"];
    assert_eq!(options.lines().take(4).collect::<Vec<_>>(), expected);
    assert_eq!(env.ls_json()["sessions"][0]["pr_url"], serde_json::json!(url));
}

#[test]
fn a_merge_request_that_is_open_is_told_as_brought_up_to_date() {
    let env = world(GITLAB);
    env.git_in(&env.origin(), &["config", "receive.advertisePushOptions", "true"]);
    let url = "https://gitlab.com/acme/shop/-/merge_requests/7";
    hook(&env, &format!("#!/bin/sh\necho 'View merge request:'\necho '  {url}'\n"));
    let id = session(&env, ADDED);
    let said = pr(&env, &id, &[]).success().stdout;
    assert!(said.contains(&format!("draft pull request: {url}")), "{said}");
    let said = pr(&env, &id, &[]).success().stdout;
    assert!(said.contains("it was there already; a merge request that is open has what is new"), "{said}");
    let _ = env.sentrely(&["run", "--resume", &id, "--", "sh", "-ec", "git commit -q --allow-empty -m more"]).run().success();
    let said = pr(&env, &id, &[]).success().stdout;
    assert!(said.contains(&format!("brought up to date: {url}")), "{said}");
}

#[test]
fn a_gitlab_without_push_options_gets_the_branch_and_names_the_page() {
    let env = world(GITLAB);
    let id = session(&env, ADDED);
    let said = pr(&env, &id, &[]).success().stdout;
    assert!(said.contains("https://gitlab.com/acme/shop/-/merge_requests/new?"), "{said}");
    assert!(pushed(&env).contains(&branch(&env)));
}

#[test]
fn a_plain_server_gets_the_branch() {
    let env = TestEnv::new();
    let id = session(&env, ADDED);
    let said = pr(&env, &id, &[]).success().stdout;
    assert!(said.contains("is at origin"), "{said}");
    assert!(pushed(&env).contains(&branch(&env)));
}

#[test]
fn a_server_that_refuses_is_told_in_its_words() {
    let env = TestEnv::new();
    executable(&env.origin().join("hooks/pre-receive"), "#!/bin/sh\necho 'closed on Sundays' >&2\nexit 1\n");
    let id = session(&env, ADDED);
    let said = pr(&env, &id, &[]).exits(1).stderr;
    assert!(said.contains("pre-receive hook declined"), "{said}");
    assert_eq!(pushed(&env), ["main"]);
}
