//! Pushes that a person has to look at first: what CI would run must not leave the machine unseen.

use super::commit;
use crate::support::git::{BRANCH, Gated, Lab};

const WORKFLOW: &str = ".github/workflows/ci.yml";

#[test]
fn a_push_that_changes_what_ci_runs_is_held_also_when_a_later_commit_takes_it_back() {
    let lab = Lab::new();
    let (root, origin) = lab.shop();
    let Gated { workspace, gate: _gate, .. } = lab.gated(&root);
    let clone = &workspace.root;
    commit(&lab, clone, "harmless", "1");
    lab.agent_ok(clone, &["push", "--quiet"]); // the control: what is not held goes on
    let harmless = origin.tip(&lab, BRANCH);
    assert!(harmless.is_some());
    std::fs::create_dir_all(clone.join(".github/workflows")).unwrap();
    commit(&lab, clone, WORKFLOW, "on: push");
    let said = lab.agent(clone, &["push"]);
    assert!(!said.ok && said.err.contains("[remote rejected]"), "{}", said.err);
    assert!(said.err.contains(&format!("held for a person to look at: it changes {WORKFLOW}")), "{}", said.err);
    assert!(said.err.contains("sentrely pr --held"), "{}", said.err);
    lab.agent_ok(clone, &["rm", "-q", WORKFLOW]);
    lab.agent_ok(clone, &["commit", "-q", "-m", "Take it back"]);
    assert!(!lab.agent(clone, &["push"]).ok, "the commit in between would still arrive");
    assert_eq!(origin.tip(&lab, BRANCH), harmless);
    lab.agent_ok(clone, &["reset", "-q", "--hard", "HEAD~2"]);
    // A link to a folder of the same content.
    let _ = std::fs::remove_dir_all(clone.join(".github"));
    std::fs::create_dir_all(clone.join("harmless-folder/workflows")).unwrap();
    commit(&lab, clone, "harmless-folder/workflows/ci.yml", "on: push");
    std::os::unix::fs::symlink("harmless-folder", clone.join(".github")).unwrap();
    lab.agent_ok(clone, &["add", "-A"]);
    lab.agent_ok(clone, &["commit", "-q", "-m", "By way of a link"]);
    assert!(lab.agent(clone, &["push"]).err.contains("held for a person to look at: it changes .github"));
    assert_eq!(origin.tip(&lab, BRANCH), harmless);
    lab.agent_ok(clone, &["reset", "-q", "--hard", "HEAD~2"]);
    commit(&lab, clone, "more", "2");
    lab.agent_ok(clone, &["push", "--quiet"]);
}

#[test]
fn what_others_changed_upstream_comes_along_in_a_merge_and_is_not_held() {
    let lab = Lab::new();
    let (root, origin) = lab.shop();
    let Gated { workspace, gate: _gate, .. } = lab.gated(&root);
    let clone = &workspace.root;
    std::fs::create_dir_all(root.join(".github/workflows")).unwrap();
    commit(&lab, &root, WORKFLOW, "on: push");
    lab.ok(&root, &["push", "--quiet", "origin", "HEAD:main"]);
    commit(&lab, clone, "mine", "1");
    lab.agent_ok(clone, &["fetch", "--quiet"]);
    lab.agent_ok(clone, &["merge", "--quiet", "--no-edit", "origin/main"]);
    assert!(clone.join(WORKFLOW).exists());
    lab.agent_ok(clone, &["push", "--quiet"]);
    // A merge that smuggles a change of its own in is the session's.
    lab.agent_ok(clone, &["checkout", "-q", "-b", "side", "HEAD~1"]);
    commit(&lab, clone, "side", "1");
    lab.agent_ok(clone, &["checkout", "-q", "-"]);
    lab.agent_ok(clone, &["merge", "--quiet", "--no-commit", "--no-ff", "side"]);
    std::fs::write(clone.join(WORKFLOW), "on: [push, evil]").unwrap();
    lab.agent_ok(clone, &["add", "."]);
    lab.agent_ok(clone, &["commit", "-q", "-m", "Merge"]);
    let tip = origin.tip(&lab, BRANCH);
    assert!(!lab.agent(clone, &["push"]).ok);
    assert_eq!(origin.tip(&lab, BRANCH), tip);
}
