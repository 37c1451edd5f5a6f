//! Files that are larger than anybody wants in memory: uncommitted they are named, committed they come home, and nobody reads them whole.

use std::time::Duration;

use sentrely::git::{collect, remove_clone};

use super::{WIP, commit};
use crate::support::components::Component;
use crate::support::env::TestEnv;
use crate::support::git::Lab;

/// Of what a process of the session may have, in KiB; and the file, in MiB.
const MEMORY: u64 = 1_500_000;
const FILE: u64 = 2_000;

#[test]
fn a_committed_file_that_is_larger_than_the_memory_comes_home() {
    crate::needs!(Component::Proc);
    let env = TestEnv::new();
    // The control: who reads it whole has no memory for it.
    let script = format!(
        "truncate -s {FILE}M large && git add large && git commit -q -m large && ! git -c core.bigFileThreshold=8g cat-file blob HEAD:large | cmp - large"
    );
    let limited = format!("ulimit -v {MEMORY}; exec \"$@\"");
    let sentrely = env!("CARGO_BIN_EXE_sentrely");
    let words = ["-c", &limited, "sh", sentrely, "run", "--wall", "off", "--name", "big", "--", "sh", "-c", &script];
    let output = env.command("sh", &words).timeout(Duration::from_mins(3)).run().success();
    let branch = env.git(&["for-each-ref", "--format=%(refname:short)", "refs/heads/sentrely"]);
    assert_eq!(env.git(&["cat-file", "-s", &format!("{branch}:large")]), (FILE << 20).to_string(), "{}", output.stderr);
}

#[test]
fn what_was_large_is_forgotten_with_the_clone() {
    let lab = Lab::new();
    let root = lab.repository("tool", &[]);
    let (checkout, workspace) = lab.session(&root);
    let marker = workspace.state.join("large-objects");
    let large = "x".repeat(17 << 20);
    let id = commit(&lab, &workspace.root, "large", &large);
    let collected = collect(&checkout, &workspace, Some(WIP)).unwrap();
    assert!(marker.exists() && collected.tip == Some(id), "{collected:?}");
    remove_clone(&checkout, &workspace, WIP).unwrap();
    assert!(!marker.exists());
    assert_eq!(lab.ok(&root, &["cat-file", "-s", &format!("{}:large", collected.branch)]), large.len().to_string());
}
