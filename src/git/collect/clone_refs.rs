//! The clone's refs, read as plain text: no symbolic link is followed, nothing but regular files is opened, all sizes are bounded.

use std::collections::BTreeMap;
use std::path::Path;

use super::super::GitError;
use super::super::within::Within;

const LARGEST_REF: u64 = 4096;
const LARGEST_PACKED: u64 = 64 * 1024 * 1024;
const LARGEST_STASH_LOG: u64 = 256 * 1024;
const MOST_BRANCHES: usize = 2000;
const DEEPEST: usize = 24;
/// So many unreadable files are named.
const MOST_NAMED: usize = 10;

/// What the clone's git directory says.
#[derive(Debug)]
pub(super) struct CloneRefs {
    pub(super) head: CloneHead,
    /// Without `refs/heads/`; hex ids. Stashes are among them, as `stash-1` (the oldest) and so on.
    pub(super) branches: BTreeMap<String, String>,
    /// Files that are not as git would leave them (a link, a pipe, one that does not end), and what is wrong with each.
    pub(super) unreadable: Vec<(String, String)>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum CloneHead {
    Branch(String),
    Detached(String),
    Unreadable,
}

impl CloneRefs {
    pub(super) fn read(git_dir: &Within) -> Self {
        let mut refs = Self { head: CloneHead::Unreadable, branches: BTreeMap::new(), unreadable: Vec::new() };
        let packed = refs.file(git_dir, "packed-refs", LARGEST_PACKED);
        for line in String::from_utf8_lossy(&packed).lines() {
            if let Some((id, name)) = line.split_once(' ')
                && let (Some(id), Some(name)) = (object_id(id), name.strip_prefix("refs/heads/"))
                && is_branch_name(name)
            {
                refs.branches.insert(name.to_owned(), id);
            }
        }
        refs.loose(git_dir, "", 0);
        for (number, id) in refs.stashes(git_dir).into_iter().enumerate() {
            refs.branches.insert(format!("stash-{}", number + 1), id);
        }
        let head = refs.file(git_dir, "HEAD", LARGEST_REF);
        let head = String::from_utf8_lossy(&head);
        refs.head = match (head.trim().strip_prefix("ref: refs/heads/"), object_id(head.trim())) {
            (Some(name), _) if is_branch_name(name) => CloneHead::Branch(name.to_owned()),
            (_, Some(id)) => CloneHead::Detached(id),
            _ => CloneHead::Unreadable,
        };
        refs
    }

    /// The content of a file of the git directory; nothing where it is not there or not to be read.
    fn file(&mut self, git_dir: &Within, name: &str, limit: u64) -> Vec<u8> {
        match git_dir.read(name, limit) {
            Ok(content) => content.unwrap_or_default(),
            Err(error) => {
                self.name(name, what(&error));
                Vec::new()
            }
        }
    }

    fn name(&mut self, file: &str, why: String) {
        if self.unreadable.len() < MOST_NAMED {
            self.unreadable.push((file.to_owned(), why));
        }
    }

    fn loose(&mut self, git_dir: &Within, prefix: &str, depth: usize) {
        let folder = format!("refs/heads/{prefix}");
        let opened = if depth > DEEPEST { Ok(None) } else { git_dir.folder(Path::new(&folder)) };
        let entries = match opened {
            Ok(None) => return,
            Ok(Some(opened)) => opened.entries().map_err(GitError::io("list", opened.path())),
            Err(error) => Err(error),
        };
        let entries = match entries {
            Ok(entries) => entries,
            Err(error) => return self.name(&folder, what(&error)),
        };
        for entry in entries {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let Ok(kind) = entry.file_type() else { continue };
            let name = format!("{prefix}{name}");
            if kind.is_dir() {
                self.loose(git_dir, &format!("{name}/"), depth + 1);
            } else if is_branch_name(&name) && self.branches.len() < MOST_BRANCHES {
                let content = self.file(git_dir, &format!("refs/heads/{name}"), LARGEST_REF);
                if let Some(id) = object_id(String::from_utf8_lossy(&content).trim()) {
                    self.branches.insert(name, id);
                }
            }
        }
    }

    /// Stashed work is work: git keeps all but the last in the log of `refs/stash`.
    fn stashes(&mut self, git_dir: &Within) -> Vec<String> {
        let log = self.file(git_dir, "logs/refs/stash", LARGEST_STASH_LOG);
        String::from_utf8_lossy(&log).lines().filter_map(|line| object_id(line.split(' ').nth(1)?)).collect()
    }
}

/// What is wrong with a file, without its name.
fn what(error: &GitError) -> String {
    match error {
        GitError::Suspicious { found, .. } => (*found).to_owned(),
        GitError::Io { source, .. } => source.to_string(),
        other => other.to_string(),
    }
}

fn is_branch_name(name: &str) -> bool {
    git2::Reference::is_valid_name(&format!("refs/heads/{name}"))
}

fn object_id(text: &str) -> Option<String> {
    let hex = matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    (hex && text.bytes().any(|byte| byte != b'0')).then(|| text.to_ascii_lowercase())
}
