//! What can go wrong with repositories, and what the user can do about it.

use std::io;
use std::path::{Path, PathBuf};

/// Why an operation on a repository failed. The message fits after "failed to"; [`GitError::hint`] says what to do.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// No repository at or above the directory.
    #[error("find a git repository at {0}")]
    NotARepository(PathBuf),
    /// A repository without a working tree.
    #[error("use {0}: a bare repository has no files to work on")]
    Bare(PathBuf),
    /// The repository belongs to another user.
    #[error("use {0}: it belongs to another user")]
    NotOwned(PathBuf),
    /// A revision that names no commit.
    #[error("find the base `{0}` in the repository")]
    NoSuchBase(String),
    /// The branch exists already and is not this session's.
    #[error("create the branch `{0}`: it exists already")]
    BranchExists(String),
    /// A merge, rebase or the like is half done.
    #[error("switch branches in {root}: {state} is in progress")]
    MidOperation {
        /// The checkout.
        root: PathBuf,
        /// "a merge", "a rebase", ..
        state: &'static str,
    },
    /// Submodules of a checkout that the session is to be laid over.
    #[error("work at the checkout's path: it has submodules there ({0}), and what the session does in them would not come home")]
    SubmodulesAtOnePath(String),
    /// Something in the session's clone is not as git would leave it; it is not followed.
    #[error("read {path}: {found}")]
    Suspicious {
        /// What was looked at.
        path: PathBuf,
        /// What was found there.
        found: &'static str,
    },
    /// The clone holds work that the developer's repository does not have.
    #[error("remove {clone}: its commit {tip} is not in the developer's repository")]
    NotCollected {
        /// The clone, left as it is.
        clone: PathBuf,
        /// The commit that would be lost.
        tip: String,
    },
    /// The git program is missing.
    #[error("start the git program")]
    NoGit(#[source] io::Error),
    /// The git program said no.
    #[error("{doing}: git said: {said}")]
    Git {
        /// What was tried.
        doing: String,
        /// The last telling line of its standard error.
        said: String,
    },
    /// A file of git-lfs did not get where it has to be.
    #[error("{doing}: {said}")]
    Lfs {
        /// What was tried.
        doing: String,
        /// Why not.
        said: String,
    },
    /// The git program did not finish in time and was ended.
    #[error("{doing}: git did not finish within {seconds} s")]
    Timeout {
        /// What was tried.
        doing: String,
        /// The limit, in seconds.
        seconds: u64,
    },
    /// The gate was closed while git was at work.
    #[error("{doing}: the session is ending")]
    Closed {
        /// What was tried.
        doing: String,
    },
    /// libgit2 said no.
    #[error("{doing}")]
    Library {
        /// What was tried.
        doing: String,
        /// libgit2's own words.
        #[source]
        source: git2::Error,
    },
    /// The file system said no.
    #[error("{doing} {path}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's own words.
        #[source]
        source: io::Error,
    },
}

const FREE_SPACE: &str = "free some disk space";

impl GitError {
    /// What the user can do about it, where there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotARepository(_) => Some("git init, or --workspace none".to_owned()),
            Self::Bare(_) => Some("run from a checkout of it (git worktree add), or --workspace none".to_owned()),
            Self::NotOwned(path) => Some(format!("git config --global --add safe.directory '{}'", path.display())),
            Self::NoSuchBase(_) => Some("git fetch, or name another --base".to_owned()),
            Self::BranchExists(_) => Some("choose another --name, or rename that branch".to_owned()),
            Self::MidOperation { .. } => Some("finish or abort it first, or use --workspace clone".to_owned()),
            Self::SubmodulesAtOnePath(_) => Some("--workspace clone: there they come along, and come home".to_owned()),
            Self::NotCollected { clone, .. } => Some(format!("look at it with: git -C '{}' log", clone.display())),
            Self::Lfs { said, .. } if said.contains("not a git command") => {
                Some("install git-lfs: the branch holds files that it manages".to_owned())
            }
            Self::NoGit(_) => Some("install git, version 2.34 or newer".to_owned()),
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => Some(FREE_SPACE.to_owned()),
            // libgit2 hands on the system's words alone.
            Self::Library { source, .. } if source.message().contains("No space left on device") => Some(FREE_SPACE.to_owned()),
            _ => None,
        }
    }

    pub(super) fn io(doing: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io { doing, path, source }
    }

    pub(super) fn library(doing: impl Into<String>) -> impl FnOnce(git2::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Library { doing, source }
    }
}
