//! The collector by libgit2: runs no program whatever the files say.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use git2::{
    AttrCheckFlags, AttrValue, DiffFile, DiffOptions, Index, IndexAddOption, IndexEntry, IndexTime, Oid, Repository, Signature, Tree,
};

use super::super::filters::{Cleaned, Filters, open_beneath};
use super::super::{Checkout, GitError};
use super::{Collector, Difference, Entry, Snapshot, admit, name_submodule};

const GITLINK: u32 = 0o160_000;
const FILE: u32 = 0o100_644;
const EXECUTABLE: u32 = 0o100_755;

/// A repository of the supervisor's, opened by libgit2.
pub(super) struct Library {
    repo: Repository,
    filters: Filters,
}

impl Library {
    pub(super) fn open(at: &Path, filters: Filters) -> Result<Self, GitError> {
        let repo = Repository::open(at).map_err(GitError::library(format!("open {}", at.display())))?;
        Ok(Self { repo, filters })
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

    /// The filter that is set for a file there; libgit2 would store it unfiltered.
    fn filter_of(&self, root: &Path, path: &Path) -> Option<String> {
        let is_file = root.join(path).symlink_metadata().is_ok_and(|meta| meta.is_file());
        let value = if is_file { self.repo.get_attr(path, "filter", AttrCheckFlags::FILE_THEN_INDEX).ok()? } else { None };
        match AttrValue::from_string(value) {
            AttrValue::String(name) => Some(name.to_owned()),
            _ => None,
        }
    }

    /// Puts a file into the index as the developer's filter makes it; `false` if only that filter would do and it could not be run.
    fn add_filtered(
        &self,
        root: &Path,
        index: &mut Index,
        path: &Path,
        name: &str,
        unfiltered: &mut Vec<(String, String)>,
    ) -> Result<bool, git2::Error> {
        let failed = |error: GitError| git2::Error::from_str(&format!("{:#}", anyhow::Error::new(error)));
        let Some(driver) = self.filters.driver(name).map_err(failed)? else { return index.add_path(path).map(|()| true) };
        let Some(content) = open_beneath(root, path) else { return Ok(true) };
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
                let never = IndexTime::new(0, 0);
                let path = path.as_os_str().as_encoded_bytes().to_vec();
                let (id, zero) = (Oid::ZERO_SHA1, 0);
                let entry = IndexEntry {
                    ctime: never,
                    mtime: never,
                    dev: zero,
                    ino: zero,
                    mode,
                    uid: zero,
                    gid: zero,
                    file_size: zero,
                    id,
                    flags: 0,
                    flags_extended: 0,
                    path,
                };
                index.add_frombuffer(&entry, &bytes).map(|()| true)
            }
        }
    }

    fn take(&self, root: &Path, file: Option<&Path>, parent: Option<&str>) -> Result<Snapshot, git2::Error> {
        self.repo.set_workdir(root, false)?;
        let mut index = self.index(file, parent)?;
        self.repo.set_index(&mut index)?;
        let submodules: Vec<Vec<u8>> = index.iter().filter(|entry| entry.mode == GITLINK).map(|entry| entry.path).collect();
        let mut left_out = Vec::new();
        let mut filtered: Vec<(PathBuf, String)> = Vec::new();
        let mut choose = |path: &Path, _: &[u8]| {
            let name = path.as_os_str().as_encoded_bytes();
            let name = name.strip_suffix(b"/").unwrap_or(name);
            if submodules.iter().any(|submodule| submodule == name) {
                name_submodule(root, name, &mut left_out);
                return 1; // stays at the commit it is at
            }
            if !admit(root, path, &mut left_out) {
                return 1;
            }
            let filter = self.filter_of(root, path);
            filtered.extend(filter.iter().map(|name| (path.to_owned(), name.clone())));
            i32::from(filter.is_some())
        };
        index.add_all(["*"], IndexAddOption::DEFAULT, Some(&mut choose))?;
        settle_conflicts(root, &mut index, &mut left_out)?;
        let mut unfiltered = Vec::new();
        for (path, name) in filtered {
            if !self.add_filtered(root, &mut index, &path, &name, &mut unfiltered)? {
                left_out.push(path.to_string_lossy().into_owned());
            }
        }
        let tree = index.write_tree_to(&self.repo)?;
        let differs = match parent {
            Some(parent) => self.repo.find_commit(Oid::from_str(parent)?)?.tree_id() != tree,
            None => !self.repo.find_tree(tree)?.is_empty(),
        };
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
            let never = IndexTime::new(0, 0);
            index.add(&IndexEntry {
                ctime: never,
                mtime: never,
                dev: 0,
                ino: 0,
                mode: entry.mode,
                uid: 0,
                gid: 0,
                file_size: 0,
                id: Oid::from_str(&entry.id)?,
                flags: 0,
                flags_extended: 0,
                path: path.clone(),
            })?;
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

    fn snapshot(&self, root: &Path, index: Option<&Path>, parent: Option<&str>) -> Result<Snapshot, GitError> {
        // An index may name objects that are nowhere to be read; without it every file is stored anew.
        let taken =
            self.take(root, index, parent).or_else(|error| if index.is_some() { self.take(root, None, parent) } else { Err(error) });
        taken.map_err(GitError::library(format!("save uncommitted work of {}", root.display())))
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

/// Takes the file as it lies there, conflict markers and all, for every path still in conflict.
fn settle_conflicts(root: &Path, index: &mut Index, left_out: &mut Vec<String>) -> Result<(), git2::Error> {
    if !index.has_conflicts() {
        return Ok(());
    }
    let sides =
        |conflict: git2::IndexConflict| [conflict.our, conflict.their, conflict.ancestor].into_iter().flatten().map(|entry| entry.path);
    let paths: Vec<Vec<u8>> = index.conflicts()?.filter_map(Result::ok).flat_map(sides).collect();
    for path in paths {
        let text = String::from_utf8_lossy(&path).into_owned();
        let path = Path::new(&text);
        index.remove_path(path)?;
        if root.join(path).symlink_metadata().is_ok_and(|meta| !meta.is_dir()) && admit(root, path, left_out) {
            index.add_path(path)?;
        }
    }
    Ok(())
}
