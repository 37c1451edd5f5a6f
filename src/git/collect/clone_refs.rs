//! The clone's refs, read as plain text: no symbolic link is followed, nothing but regular files is opened, all sizes are bounded.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::OFlag;

use super::super::GitError;

const LARGEST_REF: u64 = 4096;
const LARGEST_PACKED: u64 = 64 * 1024 * 1024;
const LARGEST_STASH_LOG: u64 = 256 * 1024;
const MOST_BRANCHES: usize = 2000;
const DEEPEST: usize = 24;

/// What the clone's git directory says.
#[derive(Debug)]
pub(super) struct CloneRefs {
    pub(super) head: CloneHead,
    /// Without `refs/heads/`; hex ids. Stashes are among them, as `stash-1` (the oldest) and so on.
    pub(super) branches: BTreeMap<String, String>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum CloneHead {
    Branch(String),
    Detached(String),
    Unreadable,
}

impl CloneRefs {
    /// `None` where there is no git directory (any more).
    pub(super) fn read(git_dir: &Path) -> Result<Option<Self>, GitError> {
        if !is_directory(git_dir) {
            return Ok(None);
        }
        let mut branches = BTreeMap::new();
        let packed = read_plain(&git_dir.join("packed-refs"), LARGEST_PACKED)?.unwrap_or_default();
        for line in String::from_utf8_lossy(&packed).lines() {
            if let Some((id, name)) = line.split_once(' ')
                && let (Some(id), Some(name)) = (object_id(id), name.strip_prefix("refs/heads/"))
                && is_branch_name(name)
            {
                branches.insert(name.to_owned(), id);
            }
        }
        if is_directory(&git_dir.join("refs")) {
            loose(&git_dir.join("refs/heads"), "", 0, &mut branches)?;
        }
        for (number, id) in stashes(git_dir)?.into_iter().enumerate() {
            branches.insert(format!("stash-{}", number + 1), id);
        }
        let head = read_plain(&git_dir.join("HEAD"), LARGEST_REF)?.unwrap_or_default();
        let head = String::from_utf8_lossy(&head);
        let head = match (head.trim().strip_prefix("ref: refs/heads/"), object_id(head.trim())) {
            (Some(name), _) if is_branch_name(name) => CloneHead::Branch(name.to_owned()),
            (_, Some(id)) => CloneHead::Detached(id),
            _ => CloneHead::Unreadable,
        };
        Ok(Some(Self { head, branches }))
    }
}

/// Whether the clone's object store consists of real directories and files only: a link could lead to another repository's.
/// Where it does not, none of it is used.
pub(super) fn is_plain_store(git_dir: &Path) -> Result<bool, GitError> {
    let objects = git_dir.join("objects");
    if !is_directory(git_dir) || !is_directory(&objects) {
        return Ok(false);
    }
    for entry in fs_err::read_dir(&objects).map_err(GitError::io("list", &objects))?.flatten() {
        let path = entry.path();
        let kind = entry.file_type().map_err(GitError::io("look at", &path))?;
        if kind.is_symlink() {
            return Ok(false);
        }
        if !kind.is_dir() {
            continue;
        }
        for entry in fs_err::read_dir(&path).map_err(GitError::io("list", &path))?.flatten() {
            let kind = entry.file_type().map_err(GitError::io("look at", entry.path()))?;
            if !kind.is_file() && !kind.is_dir() {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// The content of a regular file; `None` where there is none. A link, a pipe or a larger file is an error.
pub(super) fn read_plain(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, GitError> {
    // NONBLOCK: a named pipe in the file's place must not hold us.
    let opened =
        std::fs::OpenOptions::new().read(true).custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).bits()).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => return Ok(None),
        Err(source) => return Err(GitError::io("open", path)(source)),
    };
    let meta = file.metadata().map_err(GitError::io("look at", path))?;
    if !meta.is_file() {
        return Err(GitError::Suspicious { path: path.to_owned(), found: "not a regular file" });
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(GitError::io("read", path))?;
    if bytes.len() as u64 > limit {
        return Err(GitError::Suspicious { path: path.to_owned(), found: "a file far larger than git would write" });
    }
    Ok(Some(bytes))
}

fn loose(directory: &Path, prefix: &str, depth: usize, branches: &mut BTreeMap<String, String>) -> Result<(), GitError> {
    if depth > DEEPEST || !is_directory(directory) {
        return Ok(());
    }
    for entry in fs_err::read_dir(directory).map_err(GitError::io("list", directory))?.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let Ok(kind) = entry.file_type() else { continue };
        let name = format!("{prefix}{name}");
        if kind.is_dir() {
            loose(&entry.path(), &format!("{name}/"), depth + 1, branches)?;
        } else if kind.is_file() && is_branch_name(&name) && branches.len() < MOST_BRANCHES {
            let text = read_plain(&entry.path(), LARGEST_REF)?.unwrap_or_default();
            if let Some(id) = object_id(String::from_utf8_lossy(&text).trim()) {
                branches.insert(name, id);
            }
        }
    }
    Ok(())
}

/// Stashed work is work: git keeps all but the last in the log of `refs/stash`.
fn stashes(git_dir: &Path) -> Result<Vec<String>, GitError> {
    if !is_directory(&git_dir.join("logs")) || !is_directory(&git_dir.join("logs/refs")) {
        return Ok(Vec::new());
    }
    let log = read_plain(&git_dir.join("logs/refs/stash"), LARGEST_STASH_LOG)?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&log).lines().filter_map(|line| object_id(line.split(' ').nth(1)?)).collect())
}

/// Itself, not by way of a symbolic link.
pub(super) fn is_directory(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|meta| meta.is_dir())
}

fn is_branch_name(name: &str) -> bool {
    git2::Reference::is_valid_name(&format!("refs/heads/{name}"))
}

fn object_id(text: &str) -> Option<String> {
    let hex = matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    (hex && text.bytes().any(|byte| byte != b'0')).then(|| text.to_ascii_lowercase())
}
