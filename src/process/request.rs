//! What the session asks to be run, and why it may not run: the errors keep apart what shells keep apart (127 not found, 126 not
//! executable), which execvp(3) alone does not.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use super::cgroup::Cgroup;
use super::spawn::{Failure, PreExec};

/// What to run.
pub struct AgentRequest {
    /// A path, or a name to look for in the `PATH` of `env`.
    pub program: PathBuf,
    /// Without the program's name.
    pub args: Vec<OsString>,
    /// The complete environment: nothing of ours is added.
    pub env: Vec<(OsString, OsString)>,
    /// Where it runs. Relative paths, `program` included, count from here.
    pub cwd: PathBuf,
    /// The cgroup that it enters. One that it cannot enter is removed.
    pub cgroup: Option<Cgroup>,
    /// The wall, raised in the child just before exec. See [`PreExec`] for what it may do.
    pub pre_exec: Option<PreExec>,
    /// Where the number of the process is read that the wall lets go on in the forked one's place, four bytes in the machine's order: a child of
    /// ours in a process group of its own.
    pub successor: Option<OwnedFd>,
}

/// Why the agent could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// There is no such program.
    #[error("find the program {}", program.display())]
    NotFound {
        /// As it was asked for.
        program: PathBuf,
    },
    /// It is there but cannot be executed.
    #[error("execute {}", program.display())]
    NotExecutable {
        /// The file that was found.
        program: PathBuf,
        /// What exec(2) said.
        source: io::Error,
    },
    /// The working directory cannot be used.
    #[error("enter the directory {}", cwd.display())]
    Directory {
        /// Which.
        cwd: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The wall's hook failed; the program was not started.
    #[error("raise the wall around {}", program.display())]
    Wall {
        /// What was to be walled in.
        program: PathBuf,
        /// What the hook said.
        source: io::Error,
    },
    /// The process could not be made: no memory, too many processes, no signal handler.
    #[error("start {}", program.display())]
    Start {
        /// What was to be started.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl SpawnError {
    /// What `run` exits with: 127 not found, 126 not executable, 125 otherwise, as env(1) and timeout(1) do.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotFound { .. } => 127,
            Self::NotExecutable { .. } => 126,
            Self::Directory { .. } | Self::Wall { .. } | Self::Start { .. } => crate::model::EXIT_FAILED_PROMISE,
        }
    }

    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound { program } if program.components().count() == 1 => {
                Some(format!("is {} installed, and on the PATH that the agent gets?", program.display()))
            }
            Self::NotExecutable { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Some("the interpreter in its first line does not exist".to_owned())
            }
            Self::NotExecutable { source, program } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some(format!("chmod +x {}", program.display()))
            }
            Self::Wall { .. } => Some("`sentrely doctor` tries the wall out; --wall off runs without one".to_owned()),
            _ => None,
        }
    }
}

/// std reports a failed chdir as if it was exec that failed.
pub(super) fn enterable(cwd: &Path) -> io::Result<()> {
    if !cwd.metadata()?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    Ok(access(cwd, AccessFlags::X_OK)?)
}

/// Finds the file to execute as execvp(3) would, but keeps "not there" and "not executable" apart, as shells do.
pub(super) fn resolve(program: &Path, path: Option<&OsStr>, cwd: &Path) -> Result<PathBuf, SpawnError> {
    let not_found = || SpawnError::NotFound { program: program.to_owned() };
    if program.as_os_str().is_empty() {
        return Err(not_found());
    }
    if program.as_os_str().as_bytes().contains(&b'/') {
        let file = cwd.join(program);
        return if file.exists() { Ok(file) } else { Err(not_found()) };
    }
    let mut not_executable = None;
    for directory in std::env::split_paths(path.unwrap_or(OsStr::new("/usr/local/bin:/usr/bin:/bin"))) {
        // An empty entry is the working directory; so is `cwd.join("")`.
        let file = cwd.join(directory).join(program);
        match file.metadata() {
            Ok(meta) if meta.is_file() && meta.permissions().mode() & 0o111 != 0 => return Ok(file),
            Ok(meta) if meta.is_file() => not_executable = not_executable.or(Some(file)),
            _ => {}
        }
    }
    let source = io::Error::from_raw_os_error(libc::EACCES);
    not_executable.map_or_else(|| Err(not_found()), |program| Err(SpawnError::NotExecutable { program, source }))
}

/// Which of our errors a failed start is.
pub(super) fn explain(failure: Failure, program: PathBuf, file: PathBuf) -> SpawnError {
    match failure {
        Failure::Setup(source) => SpawnError::Start { program, source },
        Failure::Hook(source) => SpawnError::Wall { program, source },
        Failure::Exec(source) => match source.raw_os_error() {
            // ENOENT: the file was there a moment ago, so it is the interpreter that is not.
            Some(libc::EACCES | libc::ENOEXEC | libc::ENOENT | libc::EISDIR | libc::ELOOP | libc::EPERM | libc::ENOTDIR) => {
                SpawnError::NotExecutable { program: file, source }
            }
            _ => SpawnError::Start { program, source },
        },
    }
}
