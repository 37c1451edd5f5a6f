//! What is asked of a wall, on every system.

use std::io;
use std::path::PathBuf;

/// What a session needs of the machine, and what it may have of it.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The user's home directory: copy-on-write.
    pub home: PathBuf,
    /// Directories outside of it that are to be the same.
    pub copy_on_write: Vec<PathBuf>,
    /// To be seen, not changed: the checkout.
    pub read_only: Vec<PathBuf>,
    /// The real thing: the working copy, Claude Code's data. What is not there is passed over.
    pub read_write: Vec<PathBuf>,
    /// The state directory. Nothing of it is seen but the own session.
    pub state: PathBuf,
    /// The own session's directory below it, read-only, once it is there.
    pub session: Option<PathBuf>,
    /// Hidden besides the known credential files and sockets.
    pub hidden: Vec<PathBuf>,
    /// `$XDG_RUNTIME_DIR`: replaced by an empty one.
    pub runtime_dir: Option<PathBuf>,
    /// Where the command starts.
    pub cwd: PathBuf,
    /// Credential files that it may read all the same.
    pub allow_read: Vec<PathBuf>,
    /// Docker's sockets stay.
    pub docker: bool,
    /// `/tmp` and `/var/tmp` are replaced by empty ones.
    pub private_tmp: bool,
    /// Sockets, and keys to them, that stay in directories that are replaced by empty ones.
    pub kept_sockets: Vec<PathBuf>,
    /// A directory that is seen through another one.
    pub over: Option<Over>,
    /// To be seen, not changed, at another place: which is the first, where the second. The place must be there.
    pub read_only_at: Vec<(PathBuf, PathBuf)>,
}

/// What is laid over a directory.
#[derive(Debug, Clone)]
pub struct Over {
    /// Which directory; it is not changed.
    pub target: PathBuf,
    /// What goes before it and takes the changes, and the file system's own directory on the same disk; `None`: an empty one, to try it out.
    pub layer: Option<(PathBuf, PathBuf)>,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Not on this system.
    #[error("it needs Linux")]
    NotHere,
    /// Nothing to be kept.
    #[error("the home directory {0} cannot be made copy-on-write")]
    Home(PathBuf),
    /// A name that no system call takes.
    #[error("{0} holds a zero byte")]
    Name(PathBuf),
    /// The home directory would be under it.
    #[error("the home directory lies in {0}, which cannot be laid over then")]
    Over(PathBuf),
    /// The layer cannot be filled.
    #[error("prepare the layer in {path}")]
    Layer {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}
