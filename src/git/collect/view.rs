//! The clone's objects, seen without what the agent may have put beside them.
//!
//! A git directory's `objects/info` leads to further stores (`alternates`) and answers for them (`commit-graph`). So the clone's is not borrowed
//! from as it is, nor mended, which would be a write where the agent can put a link: a folder of ours holds a link to each of its folders of
//! objects, and nothing else.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::super::GitError;
use super::clone_refs;

/// The folder to borrow from, with what is there now: so it is made again after refs were read. `None` where something in the clone's store leads elsewhere, or is no store.
pub(super) fn of_clone(root: &Path, state: &Path) -> Result<Option<PathBuf>, GitError> {
    if !clone_refs::has_repository(root) || !clone_refs::is_plain_store(&root.join(".git/objects")) {
        return Ok(None);
    }
    let (objects, view) = (root.join(".git/objects"), state.join("objects"));
    fs_err::create_dir_all(&view).map_err(GitError::io("create", &view))?;
    let names = |folder: &Path| -> Result<HashSet<OsString>, GitError> {
        let entries = fs_err::read_dir(folder).and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect());
        entries.map_err(GitError::io("list", folder))
    };
    let there = names(&view)?;
    for name in names(&objects)?.into_iter().filter(|name| holds_objects(name) && !there.contains(name)) {
        match symlink(objects.join(&name), view.join(&name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(GitError::io("link to", view.join(&name))(error)),
            _ => {}
        }
    }
    Ok(Some(view))
}

/// `pack`, or the first byte of the names of what is in it.
fn holds_objects(name: &OsStr) -> bool {
    name == "pack" || name.to_str().is_some_and(|name| name.len() == 2 && name.bytes().all(|byte| byte.is_ascii_hexdigit()))
}
