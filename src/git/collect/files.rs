//! The agent's files, looked at without git and without libgit2.
//!
//! Both open what lies in a work tree by its name (`.gitignore`, `.gitattributes`, what is in a nested `.git`), wait for ever for a pipe in
//! its place, and read what has no end. So neither ever has the clone as its work tree: the files are walked here, those that changed are
//! put into a folder of ours (the [`Shadow`]) one after the other, opened by no link and only if they are regular files of a bearable
//! size, and git or libgit2 take them from there. In the shadow lie the files of rules too, as far as they are plain: what is ignored is
//! asked of git with the shadow before it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::fs::{DirEntry, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;

use super::super::GitError;
use super::super::within::{Within, is_gone};
use super::LARGEST_FILE;

/// Files that git opens by their name, wherever they lie.
const OPENED_BY_NAME: [&[u8]; 3] = [b".gitignore", b".gitattributes", b".gitmodules"];
/// Those of them that say how other files are treated.
const RULES: [&[u8]; 2] = [b".gitignore", b".gitattributes"];
/// No project has so many rules; each is held against each file.
const LARGEST_RULES: u64 = 1024 * 1024;

/// An entry of the index.
#[derive(Debug, Clone)]
pub(super) struct Tracked {
    pub(super) kind: Kind,
    /// What tells whether the file was touched since; `None`: it is to be compared by content.
    pub(super) stat: Option<Stat>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Submodule,
    InConflict,
    /// Not checked out: its absence says nothing.
    NotHere,
}

/// What an index keeps of a file, as far as it is compared.
#[derive(Debug, Clone)]
pub(super) struct Stat {
    pub(super) size: u32,
    pub(super) inode: u32,
    pub(super) modified: (i64, i64),
    pub(super) changed: (i64, i64),
    pub(super) executable: bool,
    pub(super) link: bool,
}

impl Stat {
    #[expect(clippy::cast_possible_truncation, reason = "an index keeps the lower half")]
    fn of(meta: &Metadata) -> Self {
        Self {
            size: meta.len() as u32,
            inode: meta.ino() as u32,
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
            executable: meta.is_file() && meta.permissions().mode() & 0o100 != 0,
            link: meta.is_symlink(),
        }
    }

    /// Whether it was known before the index was written, as finely as it was kept: some write no nanoseconds. A file as young as the index
    /// may have changed since.
    fn is_older_than(&self, written: (i64, i64)) -> bool {
        if self.modified.1 == 0 { self.modified.0 < written.0 } else { self.modified < written }
    }

    fn is_still(&self, now: &Self) -> bool {
        let same = |known: (i64, i64), now: (i64, i64)| known.0 == now.0 && (known.1 == 0 || known.1 == now.1);
        let times = same(self.modified, now.modified) && same(self.changed, now.changed);
        times && (self.size, self.inode, self.executable, self.link) == (now.size, now.inode, now.executable, now.link)
    }
}

/// The entries of an index, by path, and when it was written: a file as young as it is looked at again.
pub(super) type Index = BTreeMap<Vec<u8>, Tracked>;

/// What there is to be taken.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// Changed, or new and not ignored.
    pub(super) changed: Vec<Vec<u8>>,
    pub(super) removed: Vec<Vec<u8>>,
    /// Named, and left as they are.
    pub(super) left_out: Vec<String>,
}

/// Which of these paths are ignored; those of folders end in a slash.
pub(super) type Ignored<'a> = dyn Fn(&[Vec<u8>]) -> Result<HashSet<Vec<u8>>, GitError> + 'a;

/// The folder that git or libgit2 have as their work tree. Removed when dropped.
pub(super) struct Shadow<'a> {
    root: &'a Within,
    path: PathBuf,
    within: Within,
    rules: BTreeSet<Vec<u8>>,
}

/// What became of a file that was to be put into the shadow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Put {
    Done,
    /// It is this link, which may not lie there.
    Link(PathBuf),
    /// It is gone.
    Gone,
    /// It is not to be taken: too large, unreadable, not even to be looked at, or of an odd kind.
    Refused,
}

impl<'a> Shadow<'a> {
    /// An empty one at `path`, for the files at `root`.
    pub(super) fn new(root: &'a Within, path: PathBuf) -> Result<Self, GitError> {
        match fs_err::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(GitError::io("empty", &path)(error)),
            _ => {}
        }
        fs_err::create_dir_all(&path).map_err(GitError::io("create", &path))?;
        Ok(Self { root, within: Within::open(&path)?, path, rules: BTreeSet::new() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Looks at all files. `written`: when the index was.
    pub(super) fn look(&mut self, index: &Index, written: Option<(i64, i64)>, ignored: &Ignored<'_>) -> Result<Look, GitError> {
        let mut look = Look::default();
        let (mut seen, mut unread): (HashSet<Vec<u8>>, Vec<Vec<u8>>) = (HashSet::new(), Vec::new());
        let mut level: Vec<Vec<u8>> = vec![Vec::new()];
        while !level.is_empty() {
            let (mut next, mut asked, mut nested) = (Vec::new(), Vec::new(), HashSet::new());
            for folder in &level {
                let opened = match self.root.folder(&os_path(folder)) {
                    Ok(Some(opened)) => opened.entries().map(|entries| (opened, entries)),
                    Ok(None) | Err(GitError::Suspicious { .. }) => continue,
                    Err(_) => Err(io::ErrorKind::PermissionDenied.into()),
                };
                let Ok((opened, entries)) = opened else {
                    // Else what is in it would count as removed.
                    look.left_out.push(text(folder));
                    unread.push([&folder[..], b"/"].concat());
                    continue;
                };
                self.take_rules(folder, &entries)?;
                for entry in entries {
                    let name = entry.file_name();
                    if name == ".git" {
                        continue;
                    }
                    let path = joined(folder, name.as_bytes());
                    let tracked = index.get(&path);
                    let kind = match entry.file_type() {
                        Ok(kind) => kind,
                        Err(error) if is_gone(&error) => continue,
                        Err(_) => {
                            // It is not gone, nor is what may be in it. Of a file that is not to be had it is told when it is taken.
                            if has_below(index, &path) {
                                look.left_out.push(text(&path));
                                unread.push([&path[..], b"/"].concat());
                            } else if tracked.is_some() {
                                look.changed.push(path.clone());
                                seen.insert(path);
                            } else {
                                asked.push(path);
                            }
                            continue;
                        }
                    };
                    if kind.is_dir() {
                        let repository = opened.look(&Path::new(&name).join(".git"));
                        if tracked.is_some_and(|tracked| tracked.kind == Kind::Submodule) {
                            // Not ours to collect, unless it is known: then it is taken from the list.
                            if !matches!(repository, Ok(None)) {
                                look.left_out.push(text(&path));
                            }
                        } else if repository.is_err() && has_below(index, &path) {
                            look.left_out.push(text(&path));
                            unread.push([&path[..], b"/"].concat());
                        } else if !matches!(repository, Ok(None)) {
                            // One of its own, or it cannot be known: named, unless it is ignored.
                            nested.insert(path.clone());
                            asked.push([&path[..], b"/"].concat());
                        } else if has_below(index, &path) {
                            next.push(path);
                        } else {
                            asked.push([&path[..], b"/"].concat());
                        }
                    } else if kind.is_file() || kind.is_symlink() {
                        match tracked {
                            Some(tracked) => {
                                if is_touched(&entry, tracked, written) {
                                    look.changed.push(path.clone());
                                }
                                seen.insert(path);
                            }
                            None => asked.push(path),
                        }
                    } else if is_whiteout(&entry) {
                        // Removed, at the checkout's path.
                    } else if tracked.is_some() || OPENED_BY_NAME.contains(&name.as_bytes()) {
                        look.left_out.push(text(&path));
                        seen.insert(path);
                    }
                }
            }
            self.make_folders(&asked)?;
            let ignored = if asked.is_empty() { HashSet::new() } else { ignored(&asked)? };
            for path in asked.into_iter().filter(|path| !ignored.contains(path)) {
                match path.strip_suffix(b"/") {
                    Some(folder) if nested.contains(folder) => look.left_out.push(text(folder)),
                    Some(folder) => next.push(folder.to_vec()),
                    None => look.changed.push(path),
                }
            }
            level = next;
        }
        let gone = index.iter().filter(|(path, tracked)| {
            matches!(tracked.kind, Kind::File | Kind::InConflict)
                && !seen.contains(*path)
                && !unread.iter().any(|folder| folder.len() == 1 || path.starts_with(folder))
        });
        look.removed = gone.map(|(path, _)| path.clone()).collect();
        Ok(look)
    }

    /// Puts a file or a link there as it is now.
    pub(super) fn put(&self, path: &[u8]) -> Put {
        let file = os_path(path);
        let meta = match self.root.look(&file) {
            Ok(Some(meta)) => meta,
            Ok(None) => return Put::Gone,
            Err(_) => return Put::Refused,
        };
        if self.rules.contains(path) {
            return Put::Done;
        }
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let opened_by_name = OPENED_BY_NAME.contains(&name);
        if meta.is_symlink() {
            return match self.root.target(&file) {
                // Older gits follow it, out of the shadow. Newer ones take no rules from it.
                Some(target) if RULES.contains(&name) => Put::Link(target),
                // No commit may hold that of submodules.
                Some(target) if !opened_by_name && self.within.link(&file, &target).is_ok() => Put::Done,
                _ => Put::Refused,
            };
        }
        let limit = if opened_by_name { LARGEST_RULES } else { LARGEST_FILE };
        if self.copy(&file, limit).is_ok_and(|done| done) { Put::Done } else { Put::Refused }
    }

    /// Takes it away again.
    pub(super) fn clear(&self, path: &[u8]) {
        if !self.rules.contains(path) {
            let _ = self.within.remove(&os_path(path));
        }
    }

    /// `false`: it is not to be taken.
    fn copy(&self, file: &Path, limit: u64) -> io::Result<bool> {
        let Some(content) = self.root.open_file(file) else { return Ok(false) };
        let meta = content.metadata()?;
        if meta.len() > limit {
            return Ok(false);
        }
        let mode = if meta.permissions().mode() & 0o100 == 0 { 0o644 } else { 0o755 };
        let mut to = self.within.create(file, Mode::from_bits_truncate(mode))?;
        // It may grow while it is read.
        let copied = io::copy(&mut content.take(limit + 1), &mut to)?;
        if copied > limit {
            let _ = self.within.remove(file);
        }
        Ok(copied <= limit)
    }

    fn take_rules(&mut self, folder: &[u8], entries: &[DirEntry]) -> Result<(), GitError> {
        self.within.make_folder(&os_path(folder))?;
        for name in entries.iter().map(DirEntry::file_name).filter(|name| RULES.contains(&name.as_bytes())) {
            let path = joined(folder, name.as_bytes());
            if self.copy(&os_path(&path), LARGEST_RULES).unwrap_or(false) {
                self.rules.insert(path);
            }
        }
        Ok(())
    }

    /// git looks whether what it is asked for is a folder.
    fn make_folders(&self, asked: &[Vec<u8>]) -> Result<(), GitError> {
        asked.iter().filter_map(|path| path.strip_suffix(b"/")).try_for_each(|folder| self.within.make_folder(&os_path(folder)))
    }
}

impl Drop for Shadow<'_> {
    fn drop(&mut self) {
        let _ = fs_err::remove_dir_all(&self.path);
    }
}

/// When a file was last written to.
pub(super) fn written(file: &Path) -> Option<(i64, i64)> {
    file.symlink_metadata().ok().map(|meta| (meta.mtime(), meta.mtime_nsec()))
}

fn is_touched(entry: &DirEntry, tracked: &Tracked, written: Option<(i64, i64)>) -> bool {
    let (Some(known), Some(written)) = (&tracked.stat, written) else { return true };
    let now = entry.metadata().map(|meta| Stat::of(&meta));
    tracked.kind == Kind::InConflict || !known.is_older_than(written) || now.map_or(true, |now| !known.is_still(&now))
}

/// What an overlay leaves of a file that was removed in it: the device 0/0.
fn is_whiteout(entry: &DirEntry) -> bool {
    entry.metadata().is_ok_and(|meta| meta.file_type().is_char_device() && meta.rdev() == 0)
}

/// Whether anything in the folder is tracked.
fn has_below(index: &Index, folder: &[u8]) -> bool {
    let first = [folder, b"/"].concat();
    index.range(first.clone()..).next().is_some_and(|(path, _)| path.starts_with(&first))
}

fn joined(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() }
}

pub(super) fn os_path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

pub(super) fn text(path: &[u8]) -> String {
    if path.is_empty() { ".".to_owned() } else { String::from_utf8_lossy(path).into_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_looked_at_again_if_anything_of_it_differs_or_it_is_as_young_as_the_index() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "x").unwrap();
        let stat = || Stat::of(&dir.path().join("a").symlink_metadata().unwrap());
        let (fine, coarse) = (stat(), Stat { modified: (stat().modified.0, 0), changed: (stat().changed.0, 0), ..stat() });
        for known in [&fine, &coarse] {
            assert!(known.is_still(&stat()));
            assert!(known.is_older_than((fine.modified.0 + 1, 0)) && !known.is_older_than((fine.modified.0, 0)));
        }
        assert!(fine.is_older_than((fine.modified.0, fine.modified.1 + 1)) && !coarse.is_older_than((fine.modified.0, 999_999_999)));
        let later = Stat { modified: (fine.modified.0, fine.modified.1 + 1), ..stat() };
        assert!(!fine.is_still(&later) && coarse.is_still(&later));
        assert!(!coarse.is_still(&Stat { size: 2, ..stat() }) && !coarse.is_still(&Stat { executable: true, ..stat() }));
    }
}
