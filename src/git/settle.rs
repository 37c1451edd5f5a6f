//! Makes a fresh checkout older than its index, so that git need not read its files again.
//!
//! git trusts what the index says of a file only if the file is older than the index, in whole seconds (git's
//! `Documentation/technical/racy-git`). After a checkout that takes less than a second no file is: the first `git status` reads them all,
//! and the first `git add` stores each once more, since behind the wall git cannot touch the developer's objects to keep them. So the files
//! are given a time before the checkout began. A change has a later one, and is seen.

use std::collections::HashSet;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use git2::{Index, IndexEntry, IndexTime, Repository};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use super::bring::os_path;

/// Seconds; one more than needed, as the kernel's time that files get lags a little behind the clock's.
const BEFORE: i64 = 2;

/// Settles the checkout at `root`, which began at `begun` and which nobody has changed since, but for the files of `rewritten`. The index
/// comes to know those as they are now. Does as much as it can: what it leaves is read again, as git always does.
pub(super) fn settle(root: &Path, begun: SystemTime, rewritten: &[PathBuf]) {
    let _ = settled(root, begun, rewritten);
}

fn settled(root: &Path, begun: SystemTime, rewritten: &[PathBuf]) -> Option<()> {
    let seconds = i64::try_from(begun.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()? - BEFORE;
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    let rewritten: HashSet<&Path> = rewritten.iter().map(PathBuf::as_path).collect();
    let mut index = Index::open(&root.join(".git/index")).ok()?;
    for mut entry in index.iter().collect::<Vec<_>>() {
        let path = os_path(&entry.path);
        let file = root.join(&path);
        let Ok(meta) = file.symlink_metadata() else { continue }; // not checked out
        let is_file = meta.is_file() || meta.is_symlink();
        if is_file && (is_known(&entry, &meta) || rewritten.contains(&*path)) {
            let aged = utimensat(CWD, &file, &times, AtFlags::SYMLINK_NOFOLLOW).ok().and_then(|()| file.symlink_metadata().ok());
            if aged.is_some_and(|meta| record(&mut entry, &meta).is_some()) {
                let _ = index.add(&entry);
            }
        }
    }
    // The ids of trees, which `add` forgets, and which make `git status` quick: computed again, where the library can.
    if let Ok(repository) = Repository::open(root) {
        let _ = index.write_tree_to(&repository);
    }
    index.write().ok()
}

/// Whether the file is the one that was checked out.
fn is_known(entry: &IndexEntry, meta: &Metadata) -> bool {
    i64::from(entry.mtime.seconds()) == meta.mtime() && (entry.ino, entry.file_size) == (low(meta.ino()), low(meta.size()))
}

fn record(entry: &mut IndexEntry, meta: &Metadata) -> Option<()> {
    let time = |seconds: i64, nanoseconds: i64| Some(IndexTime::new(i32::try_from(seconds).ok()?, u32::try_from(nanoseconds).ok()?));
    entry.mtime = time(meta.mtime(), meta.mtime_nsec())?;
    entry.ctime = time(meta.ctime(), meta.ctime_nsec())?;
    (entry.dev, entry.ino, entry.file_size) = (low(meta.dev()), low(meta.ino()), low(meta.size()));
    (entry.uid, entry.gid) = (meta.uid(), meta.gid());
    Some(())
}

/// As an index keeps numbers: the low 32 bits.
fn low(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).unwrap_or_default()
}
