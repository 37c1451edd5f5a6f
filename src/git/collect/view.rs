//! The clone's objects, seen without what the agent may have put beside them.
//!
//! A git directory's `objects/info` leads to further stores (`alternates`) and answers for them (`commit-graph`). So the clone's is not borrowed
//! from as it is, nor mended, which would be a write where the agent can put a link: a folder of ours holds a link to each of its folders of
//! objects, and nothing else.

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::super::GitError;
use super::clone_refs;

/// The folder to borrow from; `None` where something in the clone's store leads elsewhere, or is no store.
pub(super) fn of_clone(root: &Path, state: &Path) -> Result<Option<PathBuf>, GitError> {
    if !clone_refs::has_repository(root) || !clone_refs::is_plain_store(&root.join(".git/objects")) {
        return Ok(None);
    }
    let view = state.join("objects");
    let last = view.join("pack");
    if last.symlink_metadata().is_ok() {
        return Ok(Some(view));
    }
    fs_err::create_dir_all(&view).map_err(GitError::io("create", &view))?;
    // Also those that are not there yet.
    for name in (0..=u8::MAX).map(|first| format!("{first:02x}")).chain(["pack".to_owned()]) {
        match symlink(root.join(".git/objects").join(&name), view.join(&name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(GitError::io("link to", view.join(&name))(error)),
            _ => {}
        }
    }
    Ok(Some(view))
}
