//! What comes along into a fresh clone besides commits: the developer's uncommitted work, and ignored files that were asked for.
//!
//! Files are read in the checkout and written in the clone; of the checkout nothing is written. It happens before the agent has seen
//! the clone. What is brought lies in the clone as it lay in the checkout: staged as staged, unstaged as unstaged, untracked as
//! untracked. What of it is unchanged when the work is collected stays out of the session's branch ([`super::collect`]).

mod copier;
mod ignored;
mod uncommitted;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use copier::Copier;
pub(super) use ignored::bring as bring_ignored;
pub(super) use uncommitted::{Change, bring as bring_uncommitted, changes};

/// What of the checkout comes along besides its commits.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bring<'a> {
    /// Uncommitted work.
    pub uncommitted: bool,
    /// Ignored files by these patterns, besides those of `.worktreeinclude`; written as in a `.gitignore`.
    pub include: &'a [String],
    /// Neither these files and folders nor what is in them, whatever the patterns say.
    pub never: &'a [PathBuf],
    /// The clone is seen at the checkout's own path ([`super::lay_over`]): what is ignored shows through, and submodules are the checkout's.
    pub laid_over: bool,
}

impl Bring<'_> {
    fn may_read(&self, path: &Path) -> bool {
        !self.never.iter().any(|never| path.starts_with(never))
    }
}

pub(super) fn os_path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

/// The first names of a list, and how many more there are.
fn named(paths: &[PathBuf]) -> String {
    const NAMED: usize = 5;
    let mut names: Vec<String> = paths.iter().take(NAMED).map(|path| path.display().to_string()).collect();
    if paths.len() > NAMED {
        names.push(format!("and {} more", paths.len() - NAMED));
    }
    names.join(", ")
}
