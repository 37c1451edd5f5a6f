//! The developer's uncommitted work, as git lists it, made uncommitted work of the clone.

use std::path::Path;

use super::super::cli::Git;
use super::super::seed::object_format;
use super::super::{Checkout, GitError};
use super::{Bring, Copier, named, os_path};

/// A file that differs from the last commit, in the index or on disk.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::git) struct Change {
    path: Vec<u8>,
    staged: Staged,
    on_disk: OnDisk,
}

#[derive(Debug, PartialEq, Eq)]
enum Staged {
    /// As in the last commit.
    No,
    /// Taken out of the index.
    Removed,
    /// Mode and object id.
    At(String, String),
    /// `git add -N`.
    Intended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnDisk {
    There,
    Gone,
    /// A submodule's folder: a repository of its own.
    Submodule,
}

/// Everything that differs from the last commit, untracked files included, ignored ones not.
pub(in crate::git) fn changes(checkout: &Checkout) -> Result<Vec<Change>, GitError> {
    let listing = ["status", "--porcelain=v2", "-z", "--untracked-files=all", "--no-renames", "--ignore-submodules=dirty"];
    let listed = checkout.git("list changed files").args(listing).output()?;
    Ok(listed.split(|byte| *byte == 0).filter_map(Change::parse).collect())
}

/// Brings them into the clone at `root`, which is at the commit they differ from.
pub(in crate::git) fn bring(
    checkout: &Checkout,
    root: &Path,
    changes: &[Change],
    what: &Bring<'_>,
    notices: &mut Vec<String>,
) -> Result<(), GitError> {
    let (mut copier, mut left) = (Copier::new(&checkout.root, root), Vec::new());
    let (allowed, forbidden): (Vec<&Change>, Vec<&Change>) =
        changes.iter().partition(|change| what.may_read(&checkout.root.join(os_path(&change.path))));
    left.extend(forbidden.iter().map(|change| os_path(&change.path)));
    // What is gone first: a folder may lie where a file was, and a file where a folder was.
    for change in allowed.iter().filter(|change| change.on_disk == OnDisk::Gone) {
        let path = os_path(&change.path);
        copier.remove(&path).map_err(GitError::io("remove", root.join(&path)))?;
    }
    let mut staged: Vec<&Change> = Vec::new();
    for change in allowed {
        let path = os_path(&change.path);
        if change.on_disk == OnDisk::There {
            match copier.put(&path) {
                Ok(true) => {}
                // A repository of its own, or a file that was changed or made unreadable meanwhile.
                Ok(false) => left.push(path),
                Err(error) if is_the_files_own(&error) => left.push(path),
                Err(error) => return Err(GitError::io("copy", checkout.root.join(&path))(error)),
            }
        }
        if change.staged != Staged::No {
            staged.push(change);
        }
    }
    stage(checkout, root, &staged)?;
    let brought = changes.len() - left.len();
    if brought > 0 {
        let (files, are) = if brought == 1 { ("1 uncommitted file", "is") } else { (&*format!("{brought} uncommitted files"), "are") };
        notices
            .push(format!("{files} of yours {are} in the session's copy, uncommitted; what it leaves unchanged stays out of its branch"));
    }
    if !left.is_empty() {
        notices.push(format!("not brought along: {}", named(&left)));
    }
    Ok(())
}

fn is_the_files_own(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied)
}

/// Makes the clone's index what the checkout's is.
fn stage(checkout: &Checkout, root: &Path, staged: &[&Change]) -> Result<(), GitError> {
    let git = || {
        let git = Git::new("stage what is staged in the checkout", &checkout.env, root).env("GIT_LITERAL_PATHSPECS", "1");
        git.args(["-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false"])
    };
    let (mut removed, mut set, mut intended, mut ids) = (Vec::new(), Vec::new(), Vec::new(), String::new());
    let none = "0".repeat(if object_format(checkout) == "sha256" { 64 } else { 40 });
    for change in staged {
        match &change.staged {
            Staged::No => {}
            Staged::Removed => removed.extend([format!("0 {none}\t").as_bytes(), &change.path, b"\0"].concat()),
            Staged::At(mode, id) => {
                set.extend([format!("{mode} {id}\t").as_bytes(), &change.path, b"\0"].concat());
                if mode != GITLINK {
                    ids.extend([id, "\n"]);
                }
            }
            Staged::Intended => intended.extend([&change.path[..], b"\0"].concat()),
        }
    }
    if !ids.is_empty() {
        own_objects(checkout, root, &ids)?;
    }
    removed.extend(set);
    if !removed.is_empty() {
        git().args(["update-index", "-z", "--index-info"]).input(&removed)?.output()?;
    }
    if !intended.is_empty() {
        git().args(["add", "--intent-to-add", "--force", "--pathspec-from-file=-", "--pathspec-file-nul"]).input(&intended)?.output()?;
    }
    Ok(())
}

/// Copies what is only staged: no ref of the developer's keeps it, so it could go away there.
fn own_objects(checkout: &Checkout, root: &Path, ids: &str) -> Result<(), GitError> {
    let doing = "copy what is staged";
    let pack = checkout.git(doing).args(["pack-objects", "--quiet", "--stdout"]).input(ids.as_bytes())?.output()?;
    Git::new(doing, &checkout.env, root).args(["index-pack", "--stdin"]).input(&pack)?.output().map(drop)
}

const GITLINK: &str = "160000";

impl Change {
    /// An entry of `status --porcelain=v2 -z` (git-status(1), "Porcelain Format Version 2"); none that is a rename.
    fn parse(entry: &[u8]) -> Option<Self> {
        let (kind, rest) = (entry.first()?, entry.get(2..)?);
        let fields = match kind {
            b'?' => return Some(Self { path: rest.to_vec(), staged: Staged::No, on_disk: OnDisk::There }),
            b'1' => 8,
            b'u' => 10,
            _ => return None,
        };
        let mut fields = rest.splitn(fields, |byte| *byte == b' ');
        let mut text = || fields.next().map(|field| String::from_utf8_lossy(field).into_owned());
        let (states, submodule) = (text()?, text()?);
        if *kind == b'u' {
            // In conflict without an operation that is half done: the file as it lies there.
            let (_, _, _, on_disk, _, _, _) = (text()?, text()?, text()?, text()?, text()?, text()?, text()?);
            return Some(Self { path: fields.next()?.to_vec(), staged: Staged::No, on_disk: OnDisk::of(&on_disk, &submodule) });
        }
        let (_, in_index, on_disk, _, id) = (text()?, text()?, text()?, text()?, text()?);
        let staged = match (states.as_bytes().first()?, states.as_bytes().get(1)?) {
            (b'.', b'A') => Staged::Intended,
            (b'.', _) => Staged::No,
            _ if is_none(&in_index) => Staged::Removed,
            _ => Staged::At(in_index, id),
        };
        Some(Self { path: fields.next()?.to_vec(), staged, on_disk: OnDisk::of(&on_disk, &submodule) })
    }
}

impl OnDisk {
    fn of(mode: &str, submodule: &str) -> Self {
        match (submodule.starts_with('S'), is_none(mode)) {
            (true, _) => Self::Submodule,
            (false, true) => Self::Gone,
            (false, false) => Self::There,
        }
    }
}

fn is_none(mode: &str) -> bool {
    mode.bytes().all(|byte| byte == b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_the_status_are_read_whatever_the_name() {
        let id = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391";
        let zero = "0".repeat(40);
        let read = |entry: String| Change::parse(entry.as_bytes()).unwrap();
        let change = |path: &str, staged, on_disk| Change { path: path.into(), staged, on_disk };
        let at = || Staged::At("100644".to_owned(), id.to_owned());
        assert_eq!(read("? a b\tc".to_owned()), change("a b\tc", Staged::No, OnDisk::There));
        assert_eq!(read(format!("1 .M N... 100644 100644 100755 {zero} {id} a b")), change("a b", Staged::No, OnDisk::There));
        assert_eq!(read(format!("1 AM N... 000000 100644 100644 {zero} {id} new")), change("new", at(), OnDisk::There));
        assert_eq!(read(format!("1 AD N... 000000 100644 000000 {zero} {id} new")), change("new", at(), OnDisk::Gone));
        assert_eq!(read(format!("1 D. N... 100644 000000 000000 {id} {zero} old")), change("old", Staged::Removed, OnDisk::Gone));
        assert_eq!(read(format!("1 .A N... 000000 000000 100644 {zero} {zero} soon")), change("soon", Staged::Intended, OnDisk::There));
        assert_eq!(read(format!("1 .M SC.. 160000 160000 160000 {id} {id} lib")), change("lib", Staged::No, OnDisk::Submodule));
        let conflict = format!("u UU N... 100644 100644 100644 100644 {id} {id} {id} a b");
        assert_eq!(read(conflict), change("a b", Staged::No, OnDisk::There));
        assert_eq!(Change::parse(b"# branch.oid x"), None);
    }
}
