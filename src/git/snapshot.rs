//! The developer's uncommitted work, put aside as a commit of its own before a session works in the checkout itself.
//!
//! Branches, index and files stay as they are: the commit hangs on a ref that only we use.

use super::seed::write;
use super::{Checkout, GitError, bring};
use crate::model::SessionId;

/// Where the snapshot of a session hangs.
pub(super) fn snapshot_ref(session: SessionId) -> String {
    format!("refs/sentrely/snapshot/{session}")
}

/// Puts everything that differs from the last commit aside, untracked files included, ignored ones not. `None` where nothing differs.
pub(super) fn take(checkout: &Checkout, session: SessionId) -> Result<Option<String>, GitError> {
    if bring::changes(checkout)?.is_empty() {
        return Ok(None);
    }
    let doing = "save your uncommitted work first";
    let directory = tempfile::tempdir().map_err(GitError::io("create a temporary directory in", std::env::temp_dir()))?;
    let index = directory.path().join("index");
    if let Ok(bytes) = fs_err::read(checkout.git_dir.join("index")) {
        write(&index, &bytes)?;
    }
    let git = || {
        let git = checkout.git(doing).env("GIT_INDEX_FILE", &index);
        git.args([
            "-c",
            "core.hooksPath=/dev/null",
            "-c",
            "core.fsmonitor=false",
            "-c",
            "core.untrackedCache=false",
            "-c",
            "advice.addEmbeddedRepo=false",
        ])
    };
    git().args(["add", "--all", "--", ":/"]).output()?;
    let tree = git().args(["write-tree"]).text()?;
    let name = checkout.config_text("user.name").unwrap_or_else(|| "sentrely".to_owned());
    let email = checkout.user_email().unwrap_or_else(|| "session@sentrely.invalid".to_owned());
    let mut commit = git();
    for role in ["AUTHOR", "COMMITTER"] {
        commit = commit.env(format!("GIT_{role}_NAME"), &name).env(format!("GIT_{role}_EMAIL"), &email);
    }
    let message = format!("Uncommitted work before sentrely session {}", session.short());
    commit = commit.args(["commit-tree", "--no-gpg-sign", &tree, "-m", &message]);
    if let Some(head) = checkout.head.commit() {
        commit = commit.args(["-p", head]);
    }
    let id = commit.text()?;
    checkout.set_ref(&snapshot_ref(session), Some(&id))?;
    Ok(Some(id))
}
