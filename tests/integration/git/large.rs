//! Files that are larger than anybody wants in memory: uncommitted they are named, committed they come home, and nobody reads them whole.

use std::time::Duration;

use crate::support::components::Component;
use crate::support::env::TestEnv;

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
