//! Delivery: what the session's branch holds, and its way from the developer's repository to the remote.
//!
//! Everything here runs in the developer's checkout, which no agent has touched, with the developer's own git, helpers and keys. It
//! blocks. Names and subjects come from the agent: they are data, never options.

use std::collections::HashSet;

use super::cli::{REMOTE, Running, telling_line};
use super::names::{concerns, raw_paths};
use super::{Checkout, GitError, Remote, lfs_push};
use crate::git::checkout::Target;

/// More commits than this are counted, not listed.
const MOST_COMMITS: usize = 100;
/// A diff of more text than this is not described file by file (about 100,000 files).
const LONGEST_DIFF: usize = 16 * 1024 * 1024;

/// What a branch has that its base has not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Full hex id of the branch's tip.
    pub tip: String,
    /// How many commits.
    pub count: usize,
    /// Short id and subject of the first hundred, the oldest first.
    pub commits: Vec<(String, String)>,
    /// Every file that differs.
    pub files: Vec<FileChange>,
}

/// One file of a diff.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChange {
    /// Its path in the repository.
    pub path: String,
    /// Lines added and removed; `None` for a binary file.
    pub lines: Option<(u64, u64)>,
    /// It is a symbolic link or a submodule now.
    pub leads_elsewhere: bool,
}

impl Changes {
    /// The changed paths that one of `patterns` (with `*` for any text) names: a person is to look at them first.
    pub fn held(&self, patterns: &[String]) -> Vec<&str> {
        let is_held = |file: &&FileChange| patterns.iter().any(|pattern| concerns(pattern, &file.path, file.leads_elsewhere));
        self.files.iter().filter(is_held).map(|file| file.path.as_str()).collect()
    }
}

/// What `branch` of the developer's repository has beyond `base` (a commit; `None`: everything).
pub fn changes(checkout: &Checkout, branch: &str, base: Option<&str>) -> Result<Changes, GitError> {
    let tip = checkout.resolve(&format!("refs/heads/{branch}"))?;
    let range = base.map_or_else(|| tip.clone(), |base| format!("{base}..{tip}"));
    let count = checkout.git("count the commits").args(["rev-list", "--count", "--end-of-options", &range, "--"]).text()?;
    let count: usize = count.parse().unwrap_or_default();
    let log = checkout.git("list the commits").args(["log", "-z", "--no-show-signature", "--no-color", "--format=%h%x09%s"]);
    let listed = log.args(["--reverse", "--end-of-options", &range, "--"]).text()?;
    let commits = listed.split('\0').filter_map(|line| line.split_once('\t'));
    let commits = commits.take(MOST_COMMITS).map(|(id, subject)| (id.to_owned(), subject.to_owned())).collect();
    // The empty tree, by content: its id depends on the repository's hash.
    let from = match base {
        Some(base) => base.to_owned(),
        None => checkout.git("find the empty tree").args(["hash-object", "-t", "tree", "/dev/null"]).text()?,
    };
    let diff = checkout.git("compare the branch with its base").args(["diff", "--raw", "--numstat", "-z", "--no-renames", "--no-ext-diff"]);
    let ended = diff.args(["--no-textconv", "--end-of-options", &from, &tip, "--"]).run_limited(LONGEST_DIFF)?;
    if !ended.success {
        return Err(GitError::Git { doing: "compare the branch with its base".to_owned(), said: telling_line(&ended.stderr) });
    }
    Ok(Changes { tip, count, commits, files: numstat(&String::from_utf8_lossy(&ended.stdout)) })
}

fn numstat(text: &str) -> Vec<FileChange> {
    let one = |line: &str| {
        let mut fields = line.splitn(3, '\t');
        let (added, removed, path) = (fields.next()?, fields.next()?, fields.next()?);
        Some(FileChange { path: path.to_owned(), lines: added.parse().ok().zip(removed.parse().ok()), leads_elsewhere: false })
    };
    let mut files = Vec::new();
    let leading: HashSet<&str> =
        raw_paths(text, |line| files.extend(one(line))).into_iter().filter(|(_, leads)| *leads).map(|(path, _)| path).collect();
    for file in &mut files {
        file.leads_elsewhere = leading.contains(file.path.as_str());
    }
    files
}

/// The branch that `remote` called its default when it was last asked: no network.
pub fn known_default_branch(checkout: &Checkout, remote: &Remote) -> Option<String> {
    let tracking = format!("refs/remotes/{}/", remote.name);
    let head = format!("{tracking}HEAD");
    checkout.refs().ok()?.into_iter().find_map(|(name, target)| match target {
        Target::Symbolic(target) if name == head => target.strip_prefix(&tracking).map(str::to_owned),
        _ => None,
    })
}

/// The branch of `remote` that work is meant for: its `HEAD` as last fetched, else as it says now.
pub fn default_branch(checkout: &Checkout, remote: &Remote) -> Option<String> {
    known_default_branch(checkout, remote).or_else(|| {
        let asked = checkout.git("ask for the default branch").within(REMOTE);
        let said = asked.args(["ls-remote", "--symref", "--end-of-options", &remote.name, "HEAD"]).text().ok()?;
        let line = said.lines().find_map(|line| line.strip_prefix("ref: refs/heads/"))?;
        line.split('\t').next().map(str::to_owned)
    })
}

/// Whether the remote had this branch when it was last fetched.
pub fn is_on_remote(checkout: &Checkout, remote: &Remote, branch: &str) -> bool {
    let tracking = format!("refs/remotes/{}/{branch}", remote.name);
    checkout.refs().is_ok_and(|refs| refs.iter().any(|(name, _)| *name == tracking))
}

/// Pushes `branch` to the branch of the same name, forwards, by the developer's git; returns what the remote said.
///
/// `options` are push options (`git push -o`). Hooks do not run: a pre-push hook would test the developer's checkout, which holds
/// something else. `over` is the commit that a rewritten branch may replace there. What git-lfs's would do is done here: the content of pointers goes to the LFS server before them.
pub fn push_branch(
    checkout: &Checkout,
    remote: &Remote,
    branch: &str,
    options: &[String],
    over: Option<&str>,
) -> Result<Vec<String>, GitError> {
    let doing = format!("push {branch} to {}", remote.name);
    let known = [format!("--remotes={}", remote.name)];
    let looking = || checkout.git("look for files of git-lfs");
    let pointers = lfs_push::pointers(looking, &format!("refs/heads/{branch}"), &known)?;
    if !pointers.is_empty() {
        lfs_push::upload(checkout, remote, &pointers, &Running::default())?;
    }
    let git = checkout.git(&doing).args(["push", "--porcelain", "--no-verify", "--no-follow-tags", "--recurse-submodules=no"]);
    let git = git.args(options.iter().flat_map(|option| ["-o", option.as_str()]));
    let git = git.args(over.map(|commit| format!("--force-with-lease=refs/heads/{branch}:{commit}")));
    let refspec = format!("refs/heads/{branch}:refs/heads/{branch}");
    let ended = git.args(["--end-of-options", &remote.name, &refspec]).within(REMOTE).run_limited(1024 * 1024)?;
    if ended.success {
        let said = ended.stderr.lines().filter_map(|line| line.strip_prefix("remote:"));
        return Ok(said.map(|line| remote.redact(line.trim())).filter(|line| !line.is_empty()).collect());
    }
    let listed = String::from_utf8_lossy(&ended.stdout).into_owned();
    let verdict = listed.lines().find_map(|line| line.strip_prefix("!\t")).and_then(|line| line.rsplit('\t').next());
    Err(GitError::Git { doing, said: remote.redact(verdict.unwrap_or(&telling_line(&ended.stderr))) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diff_is_read_with_binaries_and_odd_names() {
        let files = numstat("3\t1\tsrc/a b.rs\0-\t-\tlogo.png\x0000\t2\twith\ttab\0");
        assert_eq!(files[0], FileChange { path: "src/a b.rs".into(), lines: Some((3, 1)), leads_elsewhere: false });
        assert_eq!(files[1].lines, None);
        assert_eq!(files[2].path, "with\ttab");
    }

    #[test]
    fn workflows_are_held_at_any_depth_and_nothing_else_is() {
        let file = |path: &str| FileChange { path: path.to_owned(), lines: None, leads_elsewhere: false };
        let mut files: Vec<_> =
            [".github/workflows/ci.yml", ".github/workflows/a/b.yml", "docs/.github/workflows", "x.rs"].map(file).into();
        // Links or submodules.
        files.extend([".github/workflows", ".github", ".git", ".github/work"].map(file));
        let changes = Changes { files, ..Changes::default() };
        let held = changes.held(&[".github/workflows/**".to_owned()]);
        assert_eq!(held, [".github/workflows/ci.yml", ".github/workflows/a/b.yml", ".github/workflows", ".github"]);
        assert!(changes.held(&[]).is_empty());
    }
}
