//! The upper layer of the copy-on-write home: where what the command makes and changes there comes to lie, and what it was.
//!
//! It lies in a directory of the user's own below `/var/tmp`, which the command cannot see. Whiteouts stand for what was removed.

use std::fs::{self, DirBuilder, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The layer of one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    base: PathBuf,
    dir: PathBuf,
}

/// What became of something in the home directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HomeChange {
    /// Relative to the home directory.
    pub path: PathBuf,
    /// What was done.
    pub kind: HomeChangeKind,
    /// Something that runs, or that others run, without being asked for.
    pub runs: bool,
    /// Files in a directory that was made; 1 for a file.
    pub files: u64,
}

/// See [`HomeChange`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HomeChangeKind {
    /// It was not there before.
    Made,
    /// It was there.
    Changed,
    /// It is hidden inside, and still there outside.
    Removed,
}

/// Below the home directory, what comes back by itself or is of no use to anybody: caches, and Claude Code's own notes.
const OF_NO_WORTH: &[&str] = &[
    ".cache",
    ".npm/_cacache",
    ".npm/_logs",
    ".npm/_update-notifier-last-checked",
    ".cargo/registry",
    ".cargo/.package-cache",
    ".cargo/.package-cache-mutate",
    ".cargo/.global-cache",
    ".cargo/git",
    ".rustup/tmp",
    // Claude Code's handler of its own links, which it puts there at every start.
    ".local/share/applications/claude-code-url-handler.desktop",
    ".claude.json",
    ".claude/backups",
    ".claude/cache",
    ".claude/debug",
    ".claude/session-env",
    ".claude/shell-snapshots",
    ".claude/statsig",
    ".claude/telemetry",
    ".claude/paste-cache",
    ".claude/.last-cleanup",
    ".claude/stats-cache.json",
    ".claude/ide",
    ".claude/downloads",
    ".claude/uploads",
    ".claude/plugins/blocklist.json",
    ".claude/plugins/known_marketplaces.json",
    ".claude/policy-limits.json",
    ".claude/remote-settings.json",
    ".claude/mcp-needs-auth-cache.json",
    ".claude/.cc-writes",
    ".local/share/claude",
    ".local/state/claude",
    ".node_repl_history",
    ".python_history",
    ".bash_history",
    ".zsh_history",
    ".lesshst",
    ".viminfo",
    ".wget-hsts",
    ".config/configstore",
];

/// Below the home directory, what is run or read as instructions without being asked for.
const START_UP: &[&str] = &[
    ".bashrc",
    ".bash_profile",
    ".bash_login",
    ".bash_logout",
    ".profile",
    ".zshrc",
    ".zshenv",
    ".zprofile",
    ".zlogin",
    ".zlogout",
    ".kshrc",
    ".tcshrc",
    ".cshrc",
    ".login",
    ".inputrc",
    ".xinitrc",
    ".xprofile",
    ".xsession",
    ".pam_environment",
    ".envrc",
    ".direnvrc",
    ".gitconfig",
    ".config/git",
    ".config/fish",
    ".config/autostart",
    ".config/systemd",
    ".config/environment.d",
    ".config/direnv",
    ".config/nvim",
    ".vimrc",
    ".vim",
    ".emacs",
    ".emacs.d",
    ".tmux.conf",
    ".config/tmux",
    ".screenrc",
    ".cargo/config.toml",
    ".cargo/config",
    ".cargo/env",
    ".npmrc",
    ".yarnrc",
    ".config/pip",
    ".pip",
    ".pythonrc.py",
    ".pdbrc",
    ".gdbinit",
    ".ssh",
    ".gnupg",
    ".docker",
    ".kube",
    ".aws",
    ".config/Code/User",
    ".vscode",
    ".local/bin",
    "bin",
    ".cargo/bin",
    ".local/share/applications",
    ".local/share/systemd",
    ".config/plasma-workspace",
    ".local/lib/python",
    ".claude/settings.json",
    ".claude/settings.local.json",
    ".claude/agents",
    ".claude/commands",
    ".claude/skills",
    ".claude/hooks",
    ".claude/plugins",
    ".claude/CLAUDE.md",
    ".claude/output-styles",
    ".claude/rules",
    ".claude/local",
    ".claude/statusline",
    ".mcp.json",
];

impl Layer {
    /// Where all layers of this user lie: `configured`, else below `/var/tmp`.
    pub fn base(configured: Option<&Path>) -> PathBuf {
        configured.map_or_else(|| PathBuf::from(format!("/var/tmp/sentrely-{}", nix::unistd::getuid())), Path::to_owned)
    }

    /// Makes the layer of the session `name`, or finds the one of an earlier attempt.
    ///
    /// # Errors
    /// When the base is not the user's alone: `/var/tmp` is everybody's, and whoever owns the base reads and writes what lies in it.
    pub fn create(base: &Path, name: &str) -> io::Result<Self> {
        private_dir(base)?;
        let layer = Self { base: base.canonicalize()?, dir: base.canonicalize()?.join(name) };
        private_dir(&layer.dir)?;
        for dir in ["home", "home.work", "empty"] {
            private_dir(&layer.dir.join(dir))?;
        }
        Ok(layer)
    }

    /// The layer of a session that was made before; `None` if there is none.
    pub fn find(base: &Path, name: &str) -> Option<Self> {
        let dir = base.canonicalize().ok()?.join(name);
        dir.is_dir().then(|| Self { base: base.to_owned(), dir })
    }

    /// Where it lies.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    #[cfg(target_os = "linux")]
    pub(super) fn base_dir(&self) -> &Path {
        &self.base
    }

    /// A further copy-on-write directory's own place.
    #[cfg(target_os = "linux")]
    pub(super) fn pair(&self, n: usize) -> io::Result<(PathBuf, PathBuf)> {
        let name = if n == 0 { "home".to_owned() } else { format!("home.{n}") };
        let (upper, work) = (self.dir.join(&name), self.dir.join(format!("{name}.work")));
        private_dir(&upper)?;
        private_dir(&work)?;
        Ok((upper, work))
    }

    /// Where a changed or new file of the home directory lies; `relative` to it.
    pub fn file(&self, relative: &Path) -> PathBuf {
        self.dir.join("home").join(relative)
    }

    /// What was made, changed and removed in `home`, without what is of no worth. A directory that was made is one row.
    pub fn changes(&self, home: &Path) -> Vec<HomeChange> {
        let mut found = Vec::new();
        walk(&self.dir.join("home"), home, Path::new(""), &mut found);
        found.sort_by(|one, other| other.runs.cmp(&one.runs).then_with(|| one.path.cmp(&other.path)));
        found
    }

    /// Removes it.
    pub fn remove(&self) -> io::Result<()> {
        // The file system's own directory in there has no permissions at all.
        for entry in fs::read_dir(&self.dir)?.flatten() {
            let work = entry.path().join("work");
            if work.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
                let _ = fs::set_permissions(&work, Permissions::from_mode(0o700));
            }
        }
        fs::remove_dir_all(&self.dir)
    }

    /// Removes the layers in `base` that nobody has changed since `before`, except those that `lives` names.
    pub fn sweep(base: &Path, before: SystemTime, lives: impl Fn(&str) -> bool) {
        for entry in fs::read_dir(base).into_iter().flatten().flatten() {
            let (name, dir) = (entry.file_name(), entry.path());
            let old = newest(&dir, 3).is_some_and(|at| at < before);
            if old && !name.to_str().is_none_or(&lives) {
                let _ = Self { base: base.to_owned(), dir }.remove();
            }
        }
    }
}

/// The latest change down to `depth`.
fn newest(path: &Path, depth: u32) -> Option<SystemTime> {
    let meta = fs::symlink_metadata(path).ok()?;
    let own = meta.modified().ok()?;
    if depth == 0 || !meta.is_dir() {
        return Some(own);
    }
    fs::read_dir(path).into_iter().flatten().flatten().filter_map(|entry| newest(&entry.path(), depth - 1)).chain([own]).max()
}

/// Makes a directory that is the user's alone, or takes one that is.
fn private_dir(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let meta = fs::symlink_metadata(path)?;
    let own = meta.is_dir() && meta.uid() == nix::unistd::getuid().as_raw() && meta.mode() & 0o022 == 0;
    if own {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("{} is not a directory of yours alone", path.display())))
    }
}

fn walk(upper: &Path, lower: &Path, at: &Path, found: &mut Vec<HomeChange>) {
    for entry in fs::read_dir(upper.join(at)).into_iter().flatten().flatten() {
        let path = at.join(entry.file_name());
        let Ok(meta) = entry.metadata() else { continue };
        if of_no_worth(&path) {
            continue;
        }
        let before = fs::symlink_metadata(lower.join(&path)).ok();
        if meta.is_dir() && before.as_ref().is_some_and(Metadata::is_dir) {
            walk(upper, lower, &path, found);
            continue;
        }
        let whiteout = meta.file_type().is_char_device() && meta.rdev() == 0;
        let kind = match (whiteout, &before) {
            // Made and removed again inside.
            (true, None) => continue,
            (true, Some(_)) => HomeChangeKind::Removed,
            (false, Some(_)) => HomeChangeKind::Changed,
            (false, None) => HomeChangeKind::Made,
        };
        let (files, runs) = if meta.is_dir() { contents(upper, &path) } else { (1, is_runnable(&meta) || is_start_up(&path)) };
        // An empty directory says nothing, except where its being there is the change.
        if meta.is_dir() && files == 0 && kind == HomeChangeKind::Made {
            continue;
        }
        let runs = runs && kind != HomeChangeKind::Removed;
        found.push(HomeChange { path, kind, runs, files });
    }
}

fn of_no_worth(path: &Path) -> bool {
    OF_NO_WORTH.iter().any(|known| path.starts_with(known)) || path.to_str().is_some_and(|path| path.starts_with(".claude.json"))
}

fn is_start_up(path: &Path) -> bool {
    START_UP.iter().any(|known| path.starts_with(known))
}

fn is_runnable(meta: &Metadata) -> bool {
    meta.is_file() && meta.mode() & 0o111 != 0
}

/// How many files of worth are in there, and whether one of them runs.
fn contents(upper: &Path, at: &Path) -> (u64, bool) {
    let (mut files, mut runs) = (0, false);
    for entry in fs::read_dir(upper.join(at)).into_iter().flatten().flatten() {
        let path = at.join(entry.file_name());
        let Ok(meta) = entry.metadata() else { continue };
        if of_no_worth(&path) {
            continue;
        }
        if meta.is_dir() {
            let (more, run) = contents(upper, &path);
            files += more;
            runs |= run;
        } else {
            files += 1;
            runs |= is_runnable(&meta) || is_start_up(&path);
        }
    }
    (files, runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_changed_and_removed_is_told_and_what_runs_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        let layer = Layer::create(&dir.path().join("base"), "s").unwrap();
        let put = |base: &Path, name: &str, mode: u32| {
            let path = base.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "x").unwrap();
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        };
        for name in ["notes.txt", ".bashrc", "keep/a"] {
            put(&home, name, 0o644);
        }
        let upper = layer.file(Path::new(""));
        for name in [
            "notes.txt",
            ".bashrc",
            "keep/b",
            "new/one",
            "new/two",
            ".cache/x",
            ".claude.json.backup",
            ".config/fish/config.fish",
            ".local/share/applications/claude-code-url-handler.desktop",
        ] {
            put(&upper, name, 0o644);
        }
        put(&upper, "tool", 0o755);
        let told: Vec<_> =
            layer.changes(&home).iter().map(|c| format!("{} {:?} {} {}", c.path.display(), c.kind, c.runs, c.files)).collect();
        assert_eq!(
            told,
            [
                ".bashrc Changed true 1",
                ".config Made true 1",
                "tool Made true 1",
                "keep/b Made false 1",
                "new Made false 2",
                "notes.txt Changed false 1"
            ]
        );
        layer.remove().unwrap();
        assert!(!layer.dir().exists());
    }

    #[test]
    fn a_base_that_others_may_write_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("base");
        fs::create_dir(&base).unwrap();
        fs::set_permissions(&base, Permissions::from_mode(0o777)).unwrap();
        assert_eq!(Layer::create(&base, "s").unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        std::os::unix::fs::symlink(dir.path(), dir.path().join("link")).unwrap();
        assert_eq!(Layer::create(&dir.path().join("link"), "s").unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
}
