//! Which program a command names: `PATH` first, then, for `claude`, the places its installers use (a shell alias is
//! invisible to us).

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::Env;

/// What kind of program it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Claude Code: everything in this module applies.
    Claude,
    /// Anything else: it gets the proxy by `ANTHROPIC_BASE_URL` alone.
    Other,
}

/// A program that exists and may be executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Absolute path, symbolic links kept (an updater swaps the link's target).
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
}

/// Why a command cannot be run.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProgramError {
    /// Nothing by that name.
    #[error("find `{}`", command.display())]
    NotFound {
        /// The command as typed.
        command: OsString,
    },
    /// It is there but may not be executed, or is a directory.
    #[error("execute `{}`: it is not an executable file", path.display())]
    NotExecutable {
        /// What was found.
        path: PathBuf,
    },
}

impl ProgramError {
    /// The shell's exit code for this failure (DESIGN section 8).
    pub const fn exit_code(&self) -> i32 {
        match self {
            Self::NotFound { .. } => 127,
            Self::NotExecutable { .. } => 126,
        }
    }

    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound { command } if is_claude_name(command) => Some(
                "if `claude` is an alias in your shell, give the path behind it (`type claude` shows it), or put it on PATH; \
                 to install it: npm install -g @anthropic-ai/claude-code"
                    .to_owned(),
            ),
            Self::NotFound { command } => {
                Some(format!("check the spelling, or give the path; `type {}` shows what your shell would run", command.display()))
            }
            Self::NotExecutable { path } => Some(format!("chmod +x {}", path.display())).filter(|_| path.is_file()),
        }
    }
}

/// Finds the program `command` names, as a shell without aliases would, and for `claude` also where its installers put it.
pub fn resolve(command: &OsStr, env: &Env, cwd: &Path) -> Result<Program, ProgramError> {
    let found = |path: PathBuf| Program { kind: kind(command, &path), path };
    if command.as_encoded_bytes().contains(&b'/') {
        let path = cwd.join(command);
        return match look(&path) {
            Look::Runs => Ok(found(path)),
            Look::Blocked => Err(ProgramError::NotExecutable { path }),
            Look::Absent => Err(ProgramError::NotFound { command: command.to_owned() }),
        };
    }
    let search = env.get(OsStr::new("PATH")).cloned().unwrap_or_else(|| OsString::from("/usr/local/bin:/usr/bin:/bin"));
    let on_path = std::env::split_paths(&search).map(|dir| cwd.join(dir).join(command));
    let installed = if is_claude_name(command) { install_places(env) } else { Vec::new() };
    let mut blocked = None;
    for path in on_path.chain(installed) {
        match look(&path) {
            Look::Runs => return Ok(found(path)),
            Look::Blocked => blocked = blocked.or(Some(path)),
            Look::Absent => {}
        }
    }
    Err(match blocked {
        Some(path) => ProgramError::NotExecutable { path },
        None => ProgramError::NotFound { command: command.to_owned() },
    })
}

enum Look {
    Runs,
    Blocked,
    Absent,
}

fn look(path: &Path) -> Look {
    match fs::metadata(path) {
        Ok(meta) if meta.is_file() && meta.permissions().mode() & 0o111 != 0 => Look::Runs,
        Ok(_) => Look::Blocked,
        Err(_) => Look::Absent,
    }
}

fn is_claude_name(name: &OsStr) -> bool {
    name == "claude" || name == "claude.exe"
}

/// By the name it was called by; else by where its links lead: into a `claude-code` package.
fn kind(command: &OsStr, path: &Path) -> Kind {
    let called = Path::new(command).file_name().is_some_and(is_claude_name);
    let packaged = || {
        fs::canonicalize(path).is_ok_and(|real| {
            real.components()
                .any(|part| part.as_os_str().to_str().is_some_and(|name| name == "claude-code" || name.starts_with("claude-code-")))
        })
    };
    if called || packaged() { Kind::Claude } else { Kind::Other }
}

fn install_places(env: &Env) -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    let home = env.get(OsStr::new("HOME")).map(PathBuf::from);
    if let Some(home) = &home {
        dirs.extend([".claude/local", ".local/bin", ".claude/bin", ".npm-global/bin"].map(|dir| home.join(dir)));
    }
    dirs.extend(["/usr/local/bin", "/opt/homebrew/bin"].map(PathBuf::from));
    if let Some(home) = &home {
        dirs.extend([".volta/bin", ".bun/bin"].map(|dir| home.join(dir)));
        dirs.extend(npm_prefix(home).map(|prefix| prefix.join("bin")));
    }
    dirs.into_iter().map(|dir| dir.join("claude")).collect()
}

/// `prefix=` of `~/.npmrc`, with `~` and `${HOME}` as npm expands them.
fn npm_prefix(home: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(home.join(".npmrc")).ok()?;
    let value = text.lines().rev().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "prefix").then(|| value.trim().trim_matches(['"', '\'']).to_owned())
    })?;
    let rest = value.strip_prefix("~/").or_else(|| value.strip_prefix("${HOME}/")).or_else(|| value.strip_prefix("$HOME/"));
    Some(rest.map_or_else(|| PathBuf::from(&value), |rest| home.join(rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn executable(path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn env(home: &Path, path: &str) -> Env {
        Env::from([("HOME".into(), home.into()), ("PATH".into(), path.into())])
    }

    #[test]
    fn the_first_executable_on_path_wins_and_a_blocked_one_is_skipped() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("a/tool"), "").unwrap();
        executable(&dir.path().join("b/tool"));
        let found = resolve("tool".as_ref(), &env(dir.path(), "a:b"), dir.path()).unwrap();
        assert_eq!(found, Program { path: dir.path().join("b/tool"), kind: Kind::Other });
        let blocked = resolve("tool".as_ref(), &env(dir.path(), "a"), dir.path()).unwrap_err();
        assert_eq!((blocked.exit_code(), blocked), (126, ProgramError::NotExecutable { path: dir.path().join("a/tool") }));
    }

    #[test]
    fn an_aliased_claude_is_found_where_its_installers_put_it() {
        for place in [".claude/local/claude", ".local/bin/claude", ".bun/bin/claude", "np/bin/claude"] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(".npmrc"), "registry=x\nprefix = ~/np\n").unwrap();
            executable(&dir.path().join(place));
            let found = resolve("claude".as_ref(), &env(dir.path(), "/nonexistent"), dir.path()).unwrap();
            assert_eq!(found, Program { path: dir.path().join(place), kind: Kind::Claude }, "{place}");
        }
    }

    #[test]
    fn a_claude_that_is_nowhere_is_127_with_a_hint_about_aliases() {
        let dir = tempfile::tempdir().unwrap();
        let error = resolve("claude-not-here".as_ref(), &env(dir.path(), ""), dir.path()).unwrap_err();
        assert_eq!(error.exit_code(), 127);
        let missing = ProgramError::NotFound { command: "claude".into() };
        assert!(missing.hint().unwrap().contains("alias"));
    }

    #[test]
    fn a_link_into_the_package_is_claude_under_any_name_and_a_namesake_is_too() {
        let dir = tempfile::tempdir().unwrap();
        let package = dir.path().join("node_modules/@anthropic-ai/claude-code/bin/claude.exe");
        executable(&package);
        std::os::unix::fs::symlink(&package, dir.path().join("cc")).unwrap();
        executable(&dir.path().join("python"));
        let at = |command: &str| resolve(command.as_ref(), &env(dir.path(), ""), dir.path()).unwrap().kind;
        assert_eq!(at("./cc"), Kind::Claude);
        assert_eq!(at("./node_modules/@anthropic-ai/claude-code/bin/claude.exe"), Kind::Claude);
        assert_eq!(at("./python"), Kind::Other);
    }
}
