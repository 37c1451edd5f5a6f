//! One session's directory and its files.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{SessionLock, read_journal, replace};
use crate::model::{IdError, SessionId, SessionState, SessionView, StopReason};

/// The directory `sessions/<uuid>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionDir {
    path: PathBuf,
    id: SessionId,
}

/// `status.json`: a snapshot for readers, rebuildable from the journal.
#[derive(Serialize, Deserialize)]
struct Status {
    schema_version: u32,
    session: SessionView,
}

impl SessionDir {
    pub(super) const fn new(path: PathBuf, id: SessionId) -> Self {
        Self { path, id }
    }

    /// The session directory at `path`, whose last component is the session's id.
    pub fn at(path: &Path) -> Result<Self, IdError> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        Ok(Self::new(path.to_owned(), name.parse()?))
    }

    /// Makes the directory (0700); fails if it exists.
    pub fn create(&self) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(&self.path)
    }

    /// The session.
    pub const fn id(&self) -> SessionId {
        self.id
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The state directory that it is in.
    pub fn state(&self) -> &Path {
        // <state>/sessions/<id>
        self.path.ancestors().nth(2).unwrap_or(&self.path)
    }

    /// The lock that a living session holds.
    pub fn lock_file(&self) -> PathBuf {
        self.path.join("lock")
    }

    /// The journal.
    pub fn journal_file(&self) -> PathBuf {
        self.path.join("journal.jsonl")
    }

    /// The file whose presence kills the session.
    pub fn kill_file(&self) -> PathBuf {
        self.path.join("kill")
    }

    /// The control socket.
    pub fn control_socket(&self) -> PathBuf {
        self.path.join("control.sock")
    }

    /// Whether the session lives: whether guardian or supervisor hold its lock.
    pub fn is_alive(&self) -> io::Result<bool> {
        SessionLock::is_held(&self.lock_file())
    }

    /// Writes the snapshot that readers see.
    pub fn write_status(&self, view: &SessionView) -> io::Result<()> {
        let status = Status { schema_version: 1, session: view.clone() };
        replace(&self.path.join("status.json"), &serde_json::to_vec(&status)?)
    }

    /// The session as it is: the snapshot while it lives, the journal once it does not; `None` if it never got that far.
    ///
    /// A session that was not ended and that nobody holds any more has crashed.
    pub fn view(&self) -> Option<SessionView> {
        let alive = self.is_alive().unwrap_or(false);
        if alive && let Some(view) = self.snapshot() {
            return Some(view);
        }
        let mut view =
            read_journal(&self.journal_file()).ok().and_then(|records| SessionView::fold(&records)).or_else(|| self.snapshot())?;
        if !alive && !matches!(view.state, SessionState::Stopped | SessionState::Crashed) {
            view.state = SessionState::Crashed;
            view.stop_reason = Some(StopReason::Crashed);
        }
        Some(view)
    }

    /// The snapshot as it lies there, whether the session lives or not; `None` if it is missing or cannot be read.
    pub fn snapshot(&self) -> Option<SessionView> {
        let content = std::fs::read(self.path.join("status.json")).ok()?;
        serde_json::from_slice::<Status>(&content).ok().map(|status| status.session)
    }
}
