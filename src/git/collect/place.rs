//! The agent's folders, opened once.

use std::io;
use std::path::Path;

use super::super::within::Within;
use super::super::{GitError, Workspace};

/// Where the agent worked, held open: whatever is put in the place of these folders while they are looked at is not looked at.
pub(super) struct Place {
    /// `None`: it is gone, or there is a link in its place or on the way to it.
    pub(super) root: Option<Within>,
    pub(super) git_dir: Option<Within>,
    /// Nothing lies there, or an empty folder.
    pub(super) is_empty: bool,
}

impl Place {
    pub(super) fn of(workspace: &Workspace) -> Result<Self, GitError> {
        match Within::open(&workspace.root) {
            Err(GitError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Self::at(Ok(None)),
            opened => Self::at(opened.map(Some)),
        }
    }

    /// A submodule's, in the one around it.
    pub(super) fn of_submodule(&self, path: &str) -> Result<Self, GitError> {
        Self::at(self.root.as_ref().map_or(Ok(None), |root| root.folder(Path::new(path))))
    }

    fn at(root: Result<Option<Within>, GitError>) -> Result<Self, GitError> {
        let (root, is_empty) = match root {
            Ok(Some(root)) => {
                let is_empty = root.entries().is_ok_and(|entries| entries.is_empty());
                (Some(root), is_empty)
            }
            Ok(None) => (None, true),
            Err(GitError::Suspicious { .. }) => (None, false),
            Err(error) => return Err(error),
        };
        let git_dir = root.as_ref().and_then(|root| root.folder(Path::new(".git")).ok().flatten());
        Ok(Self { root, git_dir, is_empty })
    }
}
