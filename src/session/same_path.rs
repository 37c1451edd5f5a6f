//! `--workspace same-path`: the session sees its clone at the checkout's own path, with what git does not track there showing through.
//!
//! One overlay: below the checkout, above the clone, mounted at the checkout's path in the session's own view. Claude Code is at home there: the
//! same trust, memory and conversations. What it writes comes to lie in the clone; the checkout is not changed.

use std::io;
use std::path::{Path, PathBuf};

use super::RunError;
use crate::git::{self, Checkout, GitError};
use crate::store::SessionDir;
use crate::wall;

/// The file system's own directory, beside the clone, since both must be on one disk.
pub(super) fn work(dir: &Path) -> PathBuf {
    dir.join("overlay")
}

/// Where the checkout's objects are inside; empty outside.
pub(super) fn objects(dir: &Path) -> PathBuf {
    dir.join("base-objects")
}

/// Prepares a clone that was made or found. Blocks.
pub(super) fn prepare(checkout: &Checkout, mut copy: git::Workspace, dir: &Path) -> Result<git::Workspace, GitError> {
    git::lay_over(checkout, &copy, &objects(dir), &work(dir))?;
    copy.notices.push("your editor and other terminals show the checkout at this path, not the session's work".to_owned());
    Ok(copy)
}

/// Lets nothing of the checkout's git directory show through the clone's.
pub(super) fn cover_git(copy: &git::Workspace) -> Result<(), RunError> {
    let git_dir = copy.root.join(".git");
    wall::make_opaque(&git_dir).map_err(|error| {
        let hint = "the state directory's file system has no extended attributes: set SENTRELY_STATE_DIR to another disk, or use --workspace clone";
        RunError::new(anyhow::Error::new(error).context(format!("mark {} as opaque", git_dir.display())), Some(hint.to_owned()))
    })
}

/// The command's place in the view.
pub(super) fn seen(checkout: &Checkout, copy: &git::Workspace) -> PathBuf {
    match copy.cwd.strip_prefix(&copy.root) {
        Ok(below) if !below.as_os_str().is_empty() => checkout.root.join(below),
        _ => checkout.root.clone(),
    }
}

/// Takes away what the file system left: a directory that its owner may not even list.
pub(super) fn clear(dir: &SessionDir) -> io::Result<()> {
    wall::remove_overlay_work(&work(dir.path()))
}
