//! Ignored files that the session needs all the same (`.env`, local settings), by patterns, within bounds.
//!
//! `.worktreeinclude` means what it means to Claude Code: a file is copied if it matches a pattern *and* git ignores it.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::super::{Checkout, GitError};
use super::{Bring, Copier, named, os_path};

/// Claude Code's file of patterns.
const INCLUDE_FILE: &str = ".worktreeinclude";
/// What Claude Code keeps for one person in a project, in the folders from the top to where the person stands.
const LOCAL_FILES: [&str; 2] = [".claude/settings.local.json", "CLAUDE.local.md"];
/// So much is copied where blocks cannot be shared.
const MOST_BYTES: u64 = 256 * 1024 * 1024;
/// So many files are copied, shared or not.
const MOST_FILES: usize = 20_000;
const MOST_SHARED_FILES: usize = 100_000;

/// An ignored file, or an ignored folder with those of its files that are asked for.
#[derive(Debug, Default)]
struct Unit {
    files: Vec<PathBuf>,
    bytes: u64,
}

/// Copies them into the clone at `root`, never over a file that is there. Gives whether there was anything to copy.
pub(in crate::git) fn bring(checkout: &Checkout, root: &Path, what: &Bring<'_>, notices: &mut Vec<String>) -> Result<bool, GitError> {
    let mut copier = Copier::new(&checkout.root, root);
    let mut left = Vec::new();
    let local = local_files(checkout);
    for path in &local {
        copy(checkout, root, &mut copier, path, what, &mut left)?;
    }
    let mut units: Vec<(PathBuf, Unit)> = asked_for(checkout, what)?.into_iter().collect();
    // Small ones first: a large folder is not to keep an .env out.
    units.sort_by_key(|(_, unit)| unit.bytes);
    let (mut files, mut bytes) = (0, 0);
    for (name, unit) in units {
        let Some(first) = unit.files.iter().find(|path| checkout.root.join(path).is_file()) else {
            left.push(name);
            continue;
        };
        let shares = copier.shares(first);
        let (most_files, most_bytes) = if shares { (MOST_SHARED_FILES, u64::MAX) } else { (MOST_FILES, MOST_BYTES) };
        if files + unit.files.len() > most_files || bytes + unit.bytes > most_bytes {
            let megabytes = unit.bytes / 1_000_000;
            let count = if unit.files.len() == 1 { "1 file".to_owned() } else { format!("{} files", unit.files.len()) };
            let why = if shares { "too many files" } else { "too much for a file system that cannot share blocks" };
            notices.push(format!("{} was not copied into the session: {count}, {megabytes} MB, {why}", name.display()));
            continue;
        }
        files += unit.files.len();
        bytes += unit.bytes;
        for path in &unit.files {
            copy(checkout, root, &mut copier, path, what, &mut left)?;
        }
    }
    if files > 0 {
        let (files, are) = if files == 1 { ("1 ignored file".to_owned(), "is") } else { (format!("{files} ignored files"), "are") };
        notices.push(format!("{files} by {INCLUDE_FILE} or [git] include {are} in the session's copy"));
    }
    if !left.is_empty() {
        notices.push(format!("ignored, and not brought along: {}", named(&left)));
    }
    Ok(files > 0 || !local.is_empty())
}

fn copy(
    checkout: &Checkout,
    root: &Path,
    copier: &mut Copier<'_>,
    path: &Path,
    what: &Bring<'_>,
    left: &mut Vec<PathBuf>,
) -> Result<(), GitError> {
    if root.join(path).symlink_metadata().is_ok() {
        return Ok(());
    }
    let source = checkout.root.join(path);
    match what.may_read(&source).then(|| copier.put(path)) {
        Some(Ok(true)) => {}
        Some(Err(error)) if error.kind() == std::io::ErrorKind::StorageFull => return Err(GitError::io("copy", &source)(error)),
        // Hidden, a repository of its own, or gone or unreadable meanwhile.
        None | Some(Ok(false) | Err(_)) => left.push(path.to_owned()),
    }
    Ok(())
}

fn local_files(checkout: &Checkout) -> Vec<PathBuf> {
    let folders = checkout.subdirectory.ancestors();
    let files = folders.flat_map(|folder| LOCAL_FILES.map(|name| folder.join(name)));
    files.filter(|path| checkout.root.join(path).is_file()).collect()
}

/// What matches a pattern and is ignored, by the ignored folder it is in.
fn asked_for(checkout: &Checkout, what: &Bring<'_>) -> Result<BTreeMap<PathBuf, Unit>, GitError> {
    let mut units: BTreeMap<PathBuf, Unit> = BTreeMap::new();
    let mut patterns = fs_err::read(checkout.root.join(INCLUDE_FILE)).unwrap_or_default();
    for pattern in what.include {
        patterns.push(b'\n');
        patterns.extend_from_slice(pattern.as_bytes());
    }
    if patterns.split(|byte| *byte == b'\n').all(|line| line.trim_ascii().is_empty() || line.starts_with(b"#")) {
        return Ok(units);
    }
    let mut file = tempfile::NamedTempFile::new().map_err(GitError::io("create a temporary file in", std::env::temp_dir()))?;
    file.write_all(&patterns).map_err(GitError::io("write", file.path()))?;
    let list = |rules: &[&std::ffi::OsStr]| {
        let listed = checkout.git("list ignored files").args(["ls-files", "-z", "--others", "--ignored"]).args(rules).output()?;
        let paths: Vec<PathBuf> = listed.split(|byte| *byte == 0).filter(|path| !path.is_empty()).map(os_path).collect();
        Ok::<_, GitError>(paths)
    };
    for name in list(&["--exclude-standard".as_ref(), "--directory".as_ref()])? {
        units.insert(name, Unit::default());
    }
    for path in list(&["--exclude-from".as_ref(), file.path().as_os_str()])? {
        // A folder's name ends in a slash in the list, which makes no difference to a path.
        let Some(unit) = path.ancestors().find(|folder| units.contains_key(*folder)).map(Path::to_owned) else { continue };
        let bytes = checkout.root.join(&path).symlink_metadata().map_or(0, |meta| meta.len());
        if let Some(unit) = units.get_mut(&unit) {
            unit.files.push(path);
            unit.bytes += bytes;
        }
    }
    units.retain(|_, unit| !unit.files.is_empty());
    Ok(units)
}
