//! Files by which a look at the agent's repository could be held or filled up: what git opens by its name, and is no plain file of a
//! bearable size. Whoever plants one after the look finds the next look.

use std::io;
use std::path::{Path, PathBuf};

use super::within::Within;

/// In a work tree, anywhere.
const IN_TREE: [&str; 3] = [".gitignore", ".gitattributes", ".gitmodules"];
/// In a git directory.
const IN_GIT: [&str; 13] = [
    "HEAD",
    "config",
    "config.worktree",
    "commondir",
    "gitdir",
    "packed-refs",
    "index",
    "shallow",
    "info/exclude",
    "info/attributes",
    "info/grafts",
    "objects/info/alternates",
    "objects/info/commit-graph",
];
const LARGEST: u64 = 64 * 1024 * 1024;
/// A `.git` file is one line.
const LONGEST_LINE: u64 = 8 * 1024;
/// More files than this are too many for a look.
const MOST: usize = 2_000_000;

/// The first trap below `root`, or in its git directory.
///
/// # Errors
/// A folder cannot be listed.
pub(super) fn first(root: &Path) -> io::Result<Option<PathBuf>> {
    let mut folders = vec![root.to_owned()];
    let mut count = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            count += 1;
            let (name, kind) = (entry.file_name(), entry.file_type()?);
            let path = entry.path();
            if count > MOST || (IN_TREE.iter().any(|known| name == *known) && is_trap(&path)) {
                return Ok(Some(path));
            }
            if name == ".git" {
                if let Some(trap) = of_git(&path, kind.is_dir()) {
                    return Ok(Some(trap));
                }
            } else if kind.is_dir() {
                folders.push(path);
            }
        }
    }
    Ok(None)
}

fn of_git(path: &Path, is_folder: bool) -> Option<PathBuf> {
    if is_folder {
        return of_git_dir(path);
    }
    // What it leads to may be anything, so nothing else is looked at.
    let folder = Within::open(path.parent()?).ok()?;
    let line = folder.read(".git", LONGEST_LINE).ok().flatten();
    let Some(target) = line.as_deref().and_then(|line| std::str::from_utf8(line).ok()?.strip_prefix("gitdir:")) else {
        return Some(path.to_owned());
    };
    of_git_dir(&path.parent()?.join(target.trim()))
}

fn of_git_dir(git_dir: &Path) -> Option<PathBuf> {
    let named = IN_GIT.iter().map(|name| git_dir.join(name)).find(|file| is_trap(file));
    let includes = || {
        let content = Within::open(git_dir).ok()?.read("config", LARGEST).ok()??;
        let text = String::from_utf8_lossy(&content).to_ascii_lowercase();
        text.contains("[include").then(|| git_dir.join("config"))
    };
    named.or_else(includes).or_else(|| in_refs(&git_dir.join("refs")))
}

fn in_refs(folder: &Path) -> Option<PathBuf> {
    for entry in std::fs::read_dir(folder).ok()?.flatten() {
        let path = entry.path();
        let found = if entry.file_type().is_ok_and(|kind| kind.is_dir()) { in_refs(&path) } else { is_trap(&path).then_some(path) };
        if found.is_some() {
            return found;
        }
    }
    None
}

/// Opening it may take for ever, or reading it.
fn is_trap(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| !meta.is_dir() && (!meta.is_file() || meta.len() > LARGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipes_endless_files_and_inclusions_are_found_wherever_git_would_open_them() {
        type Plant<'a> = (&'a str, &'a dyn Fn(&Path));
        let dir = tempfile::tempdir().unwrap();
        git2::Repository::init(dir.path()).unwrap();
        git2::Repository::init(dir.path().join("nested")).unwrap();
        std::fs::create_dir(dir.path().join("deep")).unwrap();
        assert_eq!(first(dir.path()).unwrap(), None);
        let pipe = |path: &Path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let endless = |path: &Path| std::os::unix::fs::symlink("/dev/zero", path).unwrap();
        let huge = |path: &Path| std::fs::File::create(path).unwrap().set_len(1 << 40).unwrap();
        let includes = |path: &Path| std::fs::write(path, "[core]\n[Include]\n\tpath = /dev/zero\n").unwrap();
        let places: [Plant<'_>; 9] = [
            ("deep/.gitignore", &pipe),
            (".gitattributes", &endless),
            (".gitmodules", &huge),
            (".git/HEAD", &pipe),
            (".git/packed-refs", &huge),
            (".git/config", &includes),
            ("nested/.git/HEAD", &pipe),
            (".git/refs/heads/x", &pipe),
            ("deep/.git", &pipe),
        ];
        for (name, plant) in places {
            let path = dir.path().join(name);
            let before = std::fs::read(&path).ok();
            let _ = std::fs::remove_file(&path);
            plant(&path);
            assert_eq!(first(dir.path()).unwrap(), Some(path.clone()), "{name}");
            std::fs::remove_file(&path).unwrap();
            if let Some(content) = before {
                std::fs::write(&path, content).unwrap();
            }
        }
        assert_eq!(first(dir.path()).unwrap(), None);
    }
}
