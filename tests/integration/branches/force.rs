//! `[git] force`: a session may rewrite its own branch on the remote, and nothing else there, nor what others put on it.

use std::time::Duration;

use crate::support::env::TestEnv;
use crate::support::run::{Output, wait_until};

const FORCE: [&str; 2] = ["--config", "git.force=true"];
const AMENDED: &str = "echo 1 > work; git add work; git commit -q -m first; git push -q origin HEAD; git commit -q --amend -m second";

fn run(env: &TestEnv, flags: &[&str], script: &str) -> Output {
    let words = [&["run", "--wall", "off"][..], flags, &["--", "sh", "-c", script]].concat();
    env.sentrely(&words).run().success()
}

/// The subject of the session's branch at the remote.
fn there(env: &TestEnv) -> String {
    let branch = env.git_in(&env.origin(), &["for-each-ref", "--format=%(refname)", "refs/heads/sentrely"]);
    env.git_in(&env.origin(), &["log", "-1", "--format=%s", &branch])
}

#[test]
fn a_session_rewrites_its_own_branch_only_where_that_is_configured() {
    let script = format!(
        "{AMENDED}; git push --force origin HEAD 2>&1; git push --force origin HEAD:main 2>&1; git push origin :$(git branch --show-current) 2>&1; true"
    );
    for (flags, expected) in [(&FORCE[..], "second"), (&[], "first")] {
        let env = TestEnv::new();
        let before = env.git_in(&env.origin(), &["rev-parse", "main"]);
        let output = run(&env, flags, &script);
        assert_eq!(there(&env), expected, "{}", output.stdout);
        assert_eq!(output.stdout.contains("non-fast-forward"), flags.is_empty(), "{}", output.stdout);
        for refused in ["HEAD -> main (sentrely: protected branch", "(sentrely: a session does not delete its branch)"] {
            assert!(output.stdout.contains(refused), "{}", output.stdout);
        }
        assert_eq!(env.git_in(&env.origin(), &["rev-parse", "main"]), before);
    }
}

#[test]
fn what_somebody_else_put_on_the_branch_is_not_rewritten() {
    let env = TestEnv::new();
    let (up, go) = (env.root().join("up"), env.root().join("go"));
    let wait = format!("touch {}; until test -e {}; do sleep 0.05; done", up.display(), go.display());
    let script = format!("{AMENDED}; {wait}; git push --force origin HEAD 2>&1; true");
    let words = [&["run", "--wall", "off"][..], &FORCE, &["--", "sh", "-c", &script]].concat();
    let running = env.sentrely(&words).spawn();
    wait_until(Duration::from_mins(1), "the first push", || up.exists());
    let branch = env.git_in(&env.origin(), &["for-each-ref", "--format=%(refname)", "refs/heads/sentrely"]);
    let tree = env.git_in(&env.origin(), &["rev-parse", &format!("{branch}^{{tree}}")]);
    let next = env.git_in(&env.origin(), &["commit-tree", "-p", &branch, "-m", "a colleague's", &tree]);
    env.git_in(&env.origin(), &["update-ref", &branch, &next]);
    std::fs::write(&go, "").unwrap();
    let output = running.wait(Duration::from_mins(1)).success();
    assert_eq!(there(&env), "a colleague's", "{}", output.stdout);
    assert!(output.stdout.contains("[remote rejected]") && output.stdout.contains("stale info"), "{}", output.stdout);
}
