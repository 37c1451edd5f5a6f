//! Whether anything in a working copy has changed: one number for its commit and its changed files.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use git2::{Repository, StatusOptions};

use super::{GitError, traps};

/// A digest of the working copy at `root`: the commit it is at, and of each file that differs from it or is new the name, what is different,
/// its size and its time. What git ignores does not count. Runs no program, whatever the files say; it may take as long as `git status`, or
/// for ever where somebody plants a pipe while it looks.
///
/// # Errors
/// It is no repository, libgit2 cannot read it, or a file that it would open is none (a pipe in place of a `.gitignore`).
pub fn pulse(root: &Path) -> Result<u64, GitError> {
    let failed = || GitError::library(format!("look at {}", root.display()));
    if let Some(path) = traps::first(root).map_err(GitError::io("look at", root))? {
        return Err(GitError::Suspicious { path, found: "nothing that can be opened and read in a bearable time" });
    }
    let repository = Repository::open(root).map_err(failed())?;
    let mut digest = DefaultHasher::new();
    repository.refname_to_id("HEAD").ok().map(|commit| commit.as_bytes().to_vec()).hash(&mut digest);
    let mut options = StatusOptions::new();
    options.include_untracked(true).recurse_untracked_dirs(true).exclude_submodules(true);
    for entry in repository.statuses(Some(&mut options)).map_err(failed())?.iter() {
        entry.path_bytes().hash(&mut digest);
        entry.status().bits().hash(&mut digest);
        let path = root.join(std::ffi::OsStr::new(&*String::from_utf8_lossy(entry.path_bytes())));
        let seen = path.symlink_metadata().ok().map(|meta| (meta.size(), meta.mtime(), meta.mtime_nsec()));
        seen.hash(&mut digest);
    }
    Ok(digest.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_new_files_and_commits_change_it_and_what_is_ignored_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let repository = Repository::init(dir.path()).unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let look = || pulse(dir.path()).unwrap();
        let mut seen = vec![look()];
        write(".gitignore", "build\n");
        seen.push(look());
        write("a.txt", "one");
        seen.push(look());
        write("a.txt", "another");
        seen.push(look());
        let mut index = repository.index().unwrap();
        index.add_all(["*"], git2::IndexAddOption::DEFAULT, None).unwrap();
        index.write().unwrap();
        let tree = repository.find_tree(index.write_tree().unwrap()).unwrap();
        let who = git2::Signature::now("a", "a@example.com").unwrap();
        repository.commit(Some("HEAD"), &who, &who, "work", &tree, &[]).unwrap();
        seen.push(look());
        std::fs::remove_file(dir.path().join("a.txt")).unwrap();
        seen.push(look());
        let last = look();
        std::fs::create_dir(dir.path().join("build")).unwrap();
        write("build/out", "x");
        assert_eq!(look(), last, "what is ignored is no work");
        seen.dedup();
        assert_eq!(seen.len(), 6, "{seen:?}");
        assert!(pulse(&dir.path().join("build/nowhere")).is_err());
        std::fs::remove_file(dir.path().join(".gitignore")).unwrap();
        nix::unistd::mkfifo(&dir.path().join(".gitignore"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(matches!(pulse(dir.path()), Err(GitError::Suspicious { .. })), "a pipe is not waited for");
    }
}
