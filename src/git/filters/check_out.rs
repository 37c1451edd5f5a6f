//! Files as the developer's drivers make them, in a clone that git checked out without running any.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::super::{Checkout, GitError};
use super::lfs::Pointer;
use super::{Cleaned, Driver, Filters, NO_FILTERS, open_beneath, read};
use crate::git::cli::{Git, REMOTE};
use crate::git::seed;

/// Checks `branch` out in the fresh clone at `root`, with all filters but none run by git. What did not work is a notice. Gives the files
/// that are not as git wrote them.
///
/// The files may be an earlier agent's: so the drivers run where those files are not.
pub(in super::super) fn smudge(
    checkout: &Checkout,
    root: &Path,
    state: &Path,
    notices: &mut Vec<String>,
    check_out: impl FnOnce() -> Result<(), GitError>,
) -> Result<Vec<PathBuf>, GitError> {
    without(root, check_out)?;
    let filters = Filters::new(checkout, state);
    let mut work = Smudging { filters: &filters, root, changed: Vec::new(), failed: BTreeMap::new() };
    let mut missing: Vec<(PathBuf, Pointer)> = Vec::new();
    for (path, name) in filtered(checkout, root)? {
        let Some(driver) = filters.driver(&name)? else { continue };
        if driver.is_lfs {
            missing.extend(work.content_of(&path).map(|pointer| (path, pointer)));
        } else if !driver.smudge.is_empty() {
            work.by_driver(&name, driver, &path);
        }
    }
    if !missing.is_empty() && checkout.env.get("GIT_LFS_SKIP_SMUDGE").is_none_or(|value| value == "0") {
        fetch(checkout, root, notices);
        missing.retain(|(path, _)| work.content_of(path).is_some());
        if !missing.is_empty() {
            notices.push(format!("{} files of git-lfs are pointers: their content is not on this machine", missing.len()));
        }
    }
    for (name, count) in &work.failed {
        notices.push(format!("{count} files are as git stores them: the filter {name} did not work outside the working copy"));
    }
    Ok(work.changed)
}

/// Checks out with every filter switched off.
pub(in super::super) fn without(root: &Path, check_out: impl FnOnce() -> Result<(), GitError>) -> Result<(), GitError> {
    let attributes = root.join(".git/info/attributes");
    let own = fs_err::read(&attributes).ok();
    seed::write(&attributes, &[own.as_deref().unwrap_or_default(), NO_FILTERS.as_bytes()].concat())?;
    let done = check_out();
    match own {
        Some(own) => seed::write(&attributes, &own)?,
        None => fs_err::remove_file(&attributes).map_err(GitError::io("remove", &attributes))?,
    }
    done
}

struct Smudging<'a> {
    filters: &'a Filters,
    root: &'a Path,
    changed: Vec<PathBuf>,
    failed: BTreeMap<String, usize>,
}

impl Smudging<'_> {
    /// Puts the content in a pointer's place; the pointer, if its content is not here.
    fn content_of(&mut self, path: &Path) -> Option<Pointer> {
        let pointer = Pointer::parse(&read(open_beneath(self.root, path)?.take(1024)).ok()?)?;
        let Some(mut content) = self.filters.store.open(&pointer) else { return Some(pointer) };
        // A copy: a hard link (git-lfs makes one) would let the agent write to the developer's own.
        let written = File::create(self.root.join(path)).and_then(|mut file| io::copy(&mut content, &mut file));
        if written.is_ok() {
            self.changed.push(path.to_owned());
        }
        None
    }

    fn by_driver(&mut self, name: &str, driver: &Driver, path: &Path) {
        let Some(content) = open_beneath(self.root, path) else { return };
        let smudged = match self.filters.run(&driver.smudge, path.as_os_str().as_encoded_bytes(), content) {
            Cleaned::Bytes(bytes) => File::create(self.root.join(path)).and_then(|mut file| file.write_all(&bytes)).is_ok(),
            Cleaned::AsIs | Cleaned::Failed => false,
        };
        if smudged {
            self.changed.push(path.to_owned());
        } else {
            *self.failed.entry(name.to_owned()).or_default() += 1;
        }
    }
}

/// The tracked files that a filter is set for, with its name. No agent has seen the clone yet: git may run in it.
fn filtered(checkout: &Checkout, root: &Path) -> Result<Vec<(PathBuf, String)>, GitError> {
    let git = |doing| Git::new(doing, &checkout.env, root).args(["-c", "core.fsmonitor=false"]);
    let listed = git("list the files").args(["ls-files", "-z"]).output()?;
    let told = git("look for filters").args(["check-attr", "-z", "--stdin", "filter"]).input(&listed)?.output()?;
    Ok(named(&told))
}

/// What `check-attr -z filter` says: path, `filter`, value.
pub(in super::super) fn named(told: &[u8]) -> Vec<(PathBuf, String)> {
    use std::os::unix::ffi::OsStrExt;
    let fields: Vec<&[u8]> = told.split(|byte| *byte == 0).collect();
    let one = |triple: &[&[u8]]| {
        let value = String::from_utf8_lossy(triple[2]).into_owned();
        let is_name = !["unspecified", "unset", "set"].contains(&value.as_str());
        is_name.then(|| (PathBuf::from(std::ffi::OsStr::from_bytes(triple[0])), value))
    };
    fields.chunks_exact(3).filter_map(one).collect()
}

/// Content that a checkout of the developer's would have fetched now as well.
fn fetch(checkout: &Checkout, root: &Path, notices: &mut Vec<String>) {
    let Some(remote) = checkout.remote() else { return };
    let Ok(commit) = Git::new("find the commit", &checkout.env, root).args(["rev-parse", "HEAD"]).text() else { return };
    let git = checkout.git("fetch files of git-lfs").args(["lfs", "fetch", "--", &remote.name, &commit]).within(REMOTE);
    if let Err(error) = git.output() {
        notices.push(remote.redact(&format!("files of git-lfs could not be fetched: {error}")));
    }
}
