//! The collector by libgit2: runs no program whatever the files say.

use std::collections::HashSet;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use git2::{AttrCheckFlags, AttrValue, DiffFile, DiffOptions, Index, IndexEntry, IndexTime, Oid, Repository, Signature, Tree};

use super::super::filters::{Cleaned, Filters, open_beneath};
use super::super::within::Within;
use super::super::{Checkout, GitError};
use super::files::{self, Kind, Put, Shadow, Stat, Tracked, os_path};
use super::{Collector, Difference, Entry, Snapshot};

const GITLINK: u32 = 0o160_000;
const FILE: u32 = 0o100_644;
const EXECUTABLE: u32 = 0o100_755;
const LINK: u32 = 0o120_000;
/// In the extended flags of an index entry.
const SKIP_WORKTREE: u16 = 1 << 14;

/// A repository of the supervisor's, opened by libgit2.
pub(super) struct Library {
    repo: Repository,
    filters: Filters,
    /// Where what is looked at is put.
    shadow: PathBuf,
}

impl Library {
    pub(super) fn open(at: &Path, filters: Filters) -> Result<Self, GitError> {
        let repo = Repository::open(at).map_err(GitError::library(format!("open {}", at.display())))?;
        Ok(Self { repo, filters, shadow: at.with_file_name("shadow") })
    }

    fn index(&self, file: Option<&Path>, parent: Option<&str>) -> Result<Index, git2::Error> {
        if let Some(index) = file.and_then(|file| Index::open(file).ok()) {
            return Ok(index);
        }
        // None, or one with features libgit2 does not know: all files are compared by content then.
        let mut index = Index::new()?;
        if let Some(parent) = parent {
            index.read_tree(&self.repo.find_commit(Oid::from_str(parent)?)?.tree()?)?;
        }
        Ok(index)
    }

    /// What the index says of each file, and when it was written, if it is one of the clone's.
    pub(super) fn known(index: &Index) -> files::Index {
        let stage = |entry: &IndexEntry| (entry.flags >> 12) & 3;
        let entries = index.iter().map(|entry| {
            let kind = match &entry {
                entry if stage(entry) > 0 => Kind::InConflict,
                entry if entry.mode == GITLINK => Kind::Submodule,
                entry if entry.flags_extended & SKIP_WORKTREE != 0 => Kind::NotHere,
                _ => Kind::File,
            };
            let time = |time: &IndexTime| (i64::from(time.seconds()), i64::from(time.nanoseconds()));
            let stat = Stat {
                size: entry.file_size,
                inode: entry.ino,
                modified: time(&entry.mtime),
                changed: time(&entry.ctime),
                executable: entry.mode == EXECUTABLE,
                link: entry.mode == LINK,
            };
            (entry.path, Tracked { kind, stat: Some(stat) })
        });
        entries.collect()
    }

    fn ignored(&self, paths: &[Vec<u8>]) -> Result<HashSet<Vec<u8>>, GitError> {
        let mut ignored = HashSet::new();
        for path in paths {
            if self.repo.is_path_ignored(os_path(path)).map_err(GitError::library("ask what is ignored"))? {
                ignored.insert(path.clone());
            }
        }
        Ok(ignored)
    }

    /// The filter that is set for a file; libgit2 would store it unfiltered.
    fn filter_of(&self, shadow: &Shadow<'_>, path: &Path) -> Option<String> {
        let is_file = shadow.path().join(path).symlink_metadata().is_ok_and(|meta| meta.is_file());
        let value = if is_file { self.repo.get_attr(path, "filter", AttrCheckFlags::FILE_THEN_INDEX).ok()? } else { None };
        match AttrValue::from_string(value) {
            AttrValue::String(name) => Some(name.to_owned()),
            _ => None,
        }
    }

    /// Puts a file into the index as the developer's filter makes it; `false` if only that filter would do and it could not be run.
    fn add_filtered(
        &self,
        shadow: &Shadow<'_>,
        index: &mut Index,
        path: &Path,
        name: &str,
        unfiltered: &mut Vec<(String, String)>,
    ) -> Result<bool, git2::Error> {
        let failed = |error: GitError| git2::Error::from_str(&format!("{:#}", anyhow::Error::new(error)));
        let Some(driver) = self.filters.driver(name).map_err(failed)? else { return index.add_path(path).map(|()| true) };
        let Some(content) = open_beneath(shadow.path(), path) else { return Ok(true) };
        let executable = content.metadata().is_ok_and(|meta| meta.permissions().mode() & 0o100 != 0);
        match self.filters.clean(driver, path.as_os_str().as_encoded_bytes(), content).map_err(failed)? {
            Cleaned::AsIs => index.add_path(path).map(|()| true),
            Cleaned::Failed if driver.required => Ok(false),
            Cleaned::Failed => {
                unfiltered.push((path.to_string_lossy().into_owned(), name.to_owned()));
                index.add_path(path).map(|()| true)
            }
            Cleaned::Bytes(bytes) => {
                let trusts_mode = self.repo.config().and_then(|config| config.get_bool("core.filemode")).unwrap_or(true);
                let known = index.get_path(path, 0).map(|entry| entry.mode).filter(|mode| [FILE, EXECUTABLE].contains(mode));
                let found = if executable { EXECUTABLE } else { FILE };
                let mode = if trusts_mode { found } else { known.unwrap_or(FILE) };
                let entry = IndexEntry { mode, ..nothing(path.as_os_str().as_encoded_bytes().to_vec()) };
                index.add_frombuffer(&entry, &bytes).map(|()| true)
            }
        }
    }

    /// Puts a file of the shadow into the index; `false` if it is not to be taken.
    fn add(
        &self,
        shadow: &Shadow<'_>,
        index: &mut Index,
        path: &Path,
        unfiltered: &mut Vec<(String, String)>,
    ) -> Result<bool, git2::Error> {
        match self.filter_of(shadow, path) {
            Some(name) => self.add_filtered(shadow, index, path, &name, unfiltered),
            None => index.add_path(path).map(|()| true),
        }
    }

    fn take(&self, root: &Within, file: Option<&Path>, parent: Option<&str>) -> Result<Snapshot, GitError> {
        let doing = || format!("save uncommitted work of {}", root.path().display());
        let failed = |error| GitError::library(doing())(error);
        let mut shadow = Shadow::new(root, self.shadow.clone())?;
        let mut index = self.index(file, parent).map_err(failed)?;
        let prepared = self.repo.set_workdir(shadow.path(), false).and_then(|()| self.repo.set_index(&mut index));
        prepared.map_err(failed)?;
        let look = shadow.look(&Self::known(&index), file.and_then(files::written), &|paths| self.ignored(paths))?;
        let (mut left_out, mut unfiltered) = (look.left_out, Vec::new());
        for path in &look.removed {
            index.remove_path(&os_path(path)).map_err(failed)?;
        }
        for path in &look.changed {
            // A name that no commit may hold is the file's own affair; a full disk is not.
            let or_not = |error: git2::Error| if error.class() == git2::ErrorClass::Os { Err(failed(error)) } else { Ok(false) };
            let taken = match shadow.put(path) {
                Put::Done => self.add(&shadow, &mut index, &os_path(path), &mut unfiltered).or_else(or_not)?,
                Put::Link(target) => {
                    let entry = IndexEntry { mode: LINK, ..nothing(path.clone()) };
                    index.add_frombuffer(&entry, target.as_os_str().as_bytes()).map(|()| true).or_else(or_not)?
                }
                Put::Gone => {
                    index.remove_path(&os_path(path)).map_err(failed)?;
                    true
                }
                Put::Refused => false,
            };
            if !taken {
                left_out.push(files::text(path));
            }
            shadow.clear(path);
        }
        settle_conflicts(&mut index).map_err(failed)?;
        let tree = index.write_tree_to(&self.repo).map_err(failed)?;
        let differs = || match parent {
            Some(parent) => Ok(self.repo.find_commit(Oid::from_str(parent)?)?.tree_id() != tree),
            None => Ok(!self.repo.find_tree(tree)?.is_empty()),
        };
        let differs = differs().map_err(failed)?;
        left_out.sort();
        left_out.dedup();
        Ok(Snapshot { tree: tree.to_string(), differs, left_out, unfiltered })
    }

    fn tree(&self, id: Option<&str>) -> Result<Option<Tree<'_>>, git2::Error> {
        id.map(|id| self.repo.find_object(Oid::from_str(id)?, None)?.peel_to_tree()).transpose()
    }

    fn differences(&self, from: Option<&str>, to: Option<&str>) -> Result<Vec<Difference>, git2::Error> {
        let mut options = DiffOptions::new();
        options.include_typechange(true);
        let diff = self.repo.diff_tree_to_tree(self.tree(from)?.as_ref(), self.tree(to)?.as_ref(), Some(&mut options))?;
        let entry = |file: DiffFile<'_>| file.exists().then(|| Entry { mode: file.mode().into(), id: file.id().to_string() });
        let difference = |delta: git2::DiffDelta<'_>| {
            let path = delta.new_file().path_bytes().or_else(|| delta.old_file().path_bytes()).unwrap_or_default().to_vec();
            Difference { path, from: entry(delta.old_file()), to: entry(delta.new_file()) }
        };
        Ok(diff.deltas().map(difference).collect())
    }

    fn changed(&self, tree: &str, entries: &[(Vec<u8>, Option<Entry>)]) -> Result<Oid, git2::Error> {
        let mut index = Index::new()?;
        if let Some(tree) = self.tree(Some(tree))? {
            index.read_tree(&tree)?;
        }
        for (path, _) in entries.iter().filter(|(_, entry)| entry.is_none()) {
            index.remove_path(Path::new(std::ffi::OsStr::from_bytes(path)))?;
        }
        for (path, entry) in entries {
            let Some(entry) = entry else { continue };
            index.add(&IndexEntry { mode: entry.mode, id: Oid::from_str(&entry.id)?, ..nothing(path.clone()) })?;
        }
        index.write_tree_to(&self.repo)
    }

    fn walk_own(&self, tip: &str, known: &[String]) -> Result<git2::Revwalk<'_>, git2::Error> {
        let mut walk = self.repo.revwalk()?;
        walk.push(Oid::from_str(tip)?)?;
        for id in known {
            if let Ok(id) = Oid::from_str(id)
                && self.repo.find_commit(id).is_ok()
            {
                walk.hide(id)?;
            }
        }
        Ok(walk)
    }

    fn copy_objects(&self, to: &Repository, id: &str, known: &[String]) -> Result<(), git2::Error> {
        let mut walk = self.walk_own(id, known)?;
        let mut pack = self.repo.packbuilder()?;
        pack.insert_walk(&mut walk)?;
        if pack.object_count() == 0 {
            return Ok(());
        }
        let odb = to.odb()?;
        let mut writer = odb.packwriter()?;
        let mut failed = None;
        pack.foreach(|bytes| match writer.write_all(bytes) {
            Ok(()) => true,
            Err(error) => {
                failed = Some(error);
                false
            }
        })
        .map_err(|error| failed.take().map_or(error, |io| git2::Error::from_str(&io.to_string())))?;
        writer.commit()?;
        Ok(())
    }
}

impl Collector for Library {
    fn has_commit(&self, id: &str) -> bool {
        Oid::from_str(id).and_then(|id| self.repo.find_commit(id)).is_ok()
    }

    fn commits_among(&self, mut ids: Vec<String>) -> Result<Vec<String>, GitError> {
        ids.retain(|id| self.has_commit(id));
        Ok(ids)
    }

    fn own_commits(&self, tip: &str, known: &[String]) -> Result<usize, GitError> {
        let count = || self.walk_own(tip, known)?.try_fold(0, |count, id| id.map(|_| count + 1));
        count().map_err(GitError::library(format!("count the commits of {tip}")))
    }

    fn snapshot(&self, root: &Within, index: Option<&Path>, parent: Option<&str>) -> Result<Snapshot, GitError> {
        // An index may name objects that are nowhere to be read; without it every file is stored anew.
        self.take(root, index, parent).or_else(|error| if index.is_some() { self.take(root, None, parent) } else { Err(error) })
    }

    fn diff(&self, from: Option<&str>, to: Option<&str>) -> Result<Vec<Difference>, GitError> {
        self.differences(from, to).map_err(GitError::library("compare the state of the files"))
    }

    fn with(&self, tree: &str, entries: &[(Vec<u8>, Option<Entry>)]) -> Result<String, GitError> {
        let changed = self.changed(tree, entries).map(|id| id.to_string());
        changed.map_err(GitError::library("leave out what was there before"))
    }

    fn is_commit_of(&self, id: &str, tree: &str, parent: Option<&str>) -> bool {
        let commit = Oid::from_str(id).and_then(|id| self.repo.find_commit(id));
        commit.is_ok_and(|commit| {
            let parents: Vec<String> = commit.parent_ids().map(|id| id.to_string()).collect();
            commit.tree_id().to_string() == tree && parents.iter().map(String::as_str).eq(parent)
        })
    }

    fn commit(&self, tree: &str, parent: Option<&str>, message: &str, author: (&str, &str)) -> Result<String, GitError> {
        let write = || -> Result<Oid, git2::Error> {
            let author = Signature::now(author.0, author.1).or_else(|_| Signature::now("sentrely session", "session@sentrely.invalid"))?;
            let parent = parent.map(|id| Oid::from_str(id).and_then(|id| self.repo.find_commit(id))).transpose()?;
            let tree = self.repo.find_tree(Oid::from_str(tree)?)?;
            let parents: Vec<&git2::Commit<'_>> = parent.iter().collect();
            self.repo.commit(None, &author, &author, message, &tree, &parents)
        };
        write().map(|id| id.to_string()).map_err(GitError::library("commit uncommitted work"))
    }

    fn landed(&self, branch: &str) -> Option<String> {
        self.repo.refname_to_id(&record(branch)).ok().map(|id| id.to_string())
    }

    fn land(&self, checkout: &Checkout, id: &str, branch: &str, current: Option<&str>, known: &[String]) -> Result<(), GitError> {
        let developers = checkout.open()?;
        let bring = || -> Result<(), git2::Error> {
            self.copy_objects(&developers, id, known)?;
            let (name, target) = (format!("refs/heads/{branch}"), Oid::from_str(id)?);
            match current {
                None => developers.reference(&name, target, false, "sentrely: collected")?,
                Some(current) => developers.reference_matching(&name, target, true, Oid::from_str(current)?, "sentrely: collected")?,
            };
            self.repo.reference(&record(branch), target, true, "sentrely: collected").map(drop)
        };
        bring().map_err(GitError::library(format!("bring {branch} into {}", checkout.root.display())))
    }
}

/// Under `refs/sentrely/landed` of the collector: what we last wrote to a branch of the developer's repository.
fn record(branch: &str) -> String {
    format!("refs/sentrely/landed/{branch}")
}

/// A file in conflict that could not be taken is in no tree.
fn settle_conflicts(index: &mut Index) -> Result<(), git2::Error> {
    if !index.has_conflicts() {
        return Ok(());
    }
    let sides = |conflict: git2::IndexConflict| [conflict.our, conflict.their, conflict.ancestor].into_iter().flatten();
    let paths: Vec<Vec<u8>> = index.conflicts()?.filter_map(Result::ok).flat_map(sides).map(|entry| entry.path).collect();
    paths.iter().try_for_each(|path| index.remove_path(&os_path(path)))
}

/// An entry of an index that says nothing of a file on disk.
fn nothing(path: Vec<u8>) -> IndexEntry {
    let never = IndexTime::new(0, 0);
    IndexEntry {
        ctime: never,
        mtime: never,
        dev: 0,
        ino: 0,
        mode: 0,
        uid: 0,
        gid: 0,
        file_size: 0,
        id: Oid::ZERO_SHA1,
        flags: 0,
        flags_extended: 0,
        path,
    }
}
