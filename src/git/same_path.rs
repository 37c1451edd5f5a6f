//! A clone that is laid over the developer's checkout, so that it is seen at the checkout's own path: what git has to know of that.
//!
//! The clone holds every tracked file, so these are the session's own; what only the checkout has (ignored folders, files that git does not
//! track) shows through. git in the session must not take the latter for the session's: they are excluded by name. And the clone borrows the
//! checkout's objects by a path at which, inside, its own lie: there is a second place for them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::within::Within;
use super::{Checkout, GitError, Workspace};

const BEGIN: &[u8] = b"# sentrely: what the checkout has and the session does not\n";

/// Prepares a clone for being laid over its checkout; again for a resumed one. `objects` is where the checkout's objects will be inside: an
/// empty directory outside; `work` the file system's own, on the clone's disk. Runs in a blocking thread while nothing of the session runs.
pub fn lay_over(checkout: &Checkout, workspace: &Workspace, objects: &Path, work: &Path) -> Result<(), GitError> {
    for dir in [objects, work] {
        fs_err::create_dir_all(dir).map_err(GitError::io("create", dir))?;
    }
    let git_dir = workspace.root.join(".git");
    let mut stores = Vec::new();
    for store in [&checkout.common_dir.join("objects"), objects] {
        stores.extend_from_slice(store.as_os_str().as_bytes());
        stores.push(b'\n');
    }
    // An agent had the clone before, if the session is resumed.
    let within = Within::open(&git_dir)?;
    within.replace("objects/info/alternates", &stores)?;
    let mut lines = fs_err::read(checkout.common_dir.join("info/exclude")).unwrap_or_default();
    if !lines.is_empty() && !lines.ends_with(b"\n") {
        lines.push(b'\n');
    }
    lines.extend_from_slice(BEGIN);
    for path in only_in_the_checkout(checkout, &workspace.root)? {
        lines.extend_from_slice(&pattern(&path));
        lines.push(b'\n');
    }
    within.replace("info/exclude", &lines)
}

/// What git in the session would call untracked: files that the checkout's git does not track, and tracked ones that the session's base does
/// not have. Folders as one, where nothing in them is tracked.
fn only_in_the_checkout(checkout: &Checkout, clone: &Path) -> Result<BTreeSet<PathBuf>, GitError> {
    let mut found = BTreeSet::new();
    let lists: [&[&str]; 2] = [&["--others", "--exclude-standard", "--directory", "--no-empty-directory"], &["--cached"]];
    for options in lists {
        let listed =
            checkout.git("list the checkout's files").args(["ls-files", "-z", "--full-name"]).args(options).args([":/"]).output()?;
        let paths = listed.split(|byte| *byte == 0).filter(|path| !path.is_empty()).map(|path| PathBuf::from(OsStr::from_bytes(path)));
        found.extend(paths.filter(|path| clone.join(path).symlink_metadata().is_err()));
    }
    Ok(found)
}

/// The line that excludes exactly this path.
fn pattern(path: &Path) -> Vec<u8> {
    let mut line = vec![b'/'];
    for byte in path.as_os_str().as_bytes() {
        // A name with a line break cannot be written; `?` stands for it.
        match byte {
            b'\n' | b'\r' => line.push(b'?'),
            b'\\' | b'*' | b'?' | b'[' | b' ' => line.extend_from_slice(&[b'\\', *byte]),
            byte => line.push(*byte),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_excluded_by_a_line_that_means_only_itself() {
        let line = |path: &str| String::from_utf8(pattern(Path::new(path))).unwrap();
        assert_eq!(line("a b/*.txt "), "/a\\ b/\\*.txt\\ ");
        assert_eq!(line("!#[x]/"), "/!#\\[x]/");
        assert_eq!(line("a\nb"), "/a?b");
    }
}
