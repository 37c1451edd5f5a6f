//! The state directory: `$SENTRELY_STATE_DIR`, else `$XDG_STATE_HOME/sentrely`, else `~/.local/state/sentrely`.
//!
//! It is private: a directory that others own or may write to is refused, since whoever writes there can kill sessions and forge records.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::spending::refresh_shared;
use super::{SessionDir, read_index};
use crate::model::{SessionId, SessionView};
use jiff::Timestamp;

/// The opened, checked state directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDir(PathBuf);

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Neither the variables nor HOME say where it is.
    #[error("find the state directory: neither SENTRELY_STATE_DIR, XDG_STATE_HOME nor HOME is set")]
    NoHome,
    /// The file system refused.
    #[error("use the state directory {path}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody else owns it.
    #[error("use the state directory {path}: it belongs to user {owner}, not to you")]
    Foreign {
        /// Which.
        path: PathBuf,
        /// The owner's user id.
        owner: u32,
    },
    /// Others may write to it.
    #[error("use the state directory {path}: others may write to it (mode {mode:o})")]
    Open {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is no directory.
    #[error("use the state directory {path}: it is not a directory")]
    NotADirectory {
        /// Which.
        path: PathBuf,
    },
}

impl StateError {
    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => Some("free some disk space".into()),
            Self::NoHome | Self::Io { .. } | Self::NotADirectory { .. } => Some("set SENTRELY_STATE_DIR to a directory of yours".into()),
            Self::Foreign { .. } => Some("set SENTRELY_STATE_DIR to a directory that you own".into()),
            Self::Open { path, .. } => Some(format!("chmod 700 {}", path.display())),
        }
    }
}

/// Why no session, or no single one, goes by a name.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// None does.
    #[error("find a session `{0}`")]
    Unknown(String),
    /// Several do.
    #[error("find the session `{prefix}`: {} sessions begin with it: {}", candidates.len(), candidates.join(", "))]
    Ambiguous {
        /// What was typed.
        prefix: String,
        /// The short ids.
        candidates: Vec<String>,
    },
    /// The records cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
}

impl FindError {
    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown(_) => Some("`sentrely ls -a` lists all sessions".into()),
            Self::Ambiguous { .. } => Some("type more digits of the id".into()),
            Self::State(error) => error.hint(),
        }
    }
}

impl StateDir {
    /// Where the state directory is for this environment; nothing is made or checked.
    pub fn locate(var: impl Fn(&str) -> Option<String>) -> Result<PathBuf, StateError> {
        let set = |name: &str| var(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        set("SENTRELY_STATE_DIR")
            .or_else(|| set("XDG_STATE_HOME").filter(|path| path.is_absolute()).map(|path| path.join("sentrely")))
            .or_else(|| set("HOME").map(|path| path.join(".local/state/sentrely")))
            .ok_or(StateError::NoHome)
    }

    /// Opens the directory at `path`, making it (0700) if it does not exist; refuses one that is not private.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let failed = |source| StateError::Io { path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => StateError::NotADirectory { path: path.to_owned() },
            _ => failed(source),
        })?;
        let meta = std::fs::metadata(path).map_err(failed)?;
        if !meta.is_dir() {
            return Err(StateError::NotADirectory { path: path.to_owned() });
        }
        if meta.uid() != nix::unistd::geteuid().as_raw() {
            return Err(StateError::Foreign { path: path.to_owned(), owner: meta.uid() });
        }
        if meta.mode() & 0o022 != 0 {
            return Err(StateError::Open { path: path.to_owned(), mode: meta.mode() & 0o777 });
        }
        let path = std::fs::canonicalize(path).map_err(failed)?;
        let sessions = path.join("sessions");
        DirBuilder::new().recursive(true).mode(0o700).create(&sessions).map_err(failed)?;
        Ok(Self(path))
    }

    /// Its path, absolute and without symbolic links.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The file whose presence stops all sessions and refuses new ones.
    pub fn kill_all_file(&self) -> PathBuf {
        self.0.join("kill")
    }

    /// The directory of one session, whether it exists or not.
    pub fn session(&self, id: SessionId) -> SessionDir {
        SessionDir::new(self.0.join("sessions").join(id.to_string()), id)
    }

    /// All session directories, in no order.
    pub fn session_dirs(&self) -> Result<Vec<SessionDir>, StateError> {
        let path = self.0.join("sessions");
        let failed = |source| StateError::Io { path: path.clone(), source };
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            if let Some(id) = name.to_str().and_then(|name| name.parse::<SessionId>().ok()) {
                found.push(self.session(id));
            }
        }
        Ok(found)
    }

    /// Every session that has a record, the newest first: from its directory while that exists, else from the index.
    pub fn sessions(&self) -> Result<Vec<SessionView>, StateError> {
        let mut views: Vec<SessionView> = self.session_dirs()?.iter().filter_map(SessionDir::view).collect();
        let ended = read_index(&self.0).map_err(|source| StateError::Io { path: self.0.join("index.jsonl"), source })?;
        for view in ended {
            if !views.iter().any(|known| known.id == view.id) {
                views.push(view);
            }
        }
        refresh_shared(self, &mut views, Timestamp::now());
        views.sort_by(|a, b| b.started_at.cmp(&a.started_at).then_with(|| a.id.cmp(&b.id)));
        Ok(views)
    }

    /// The one session whose id begins with `prefix`.
    pub fn find(&self, prefix: &str) -> Result<SessionView, FindError> {
        let mut found: Vec<SessionView> = self.sessions()?.into_iter().filter(|view| view.id.starts_with(prefix)).collect();
        match (found.len(), found.pop()) {
            (1, Some(view)) => Ok(view),
            (_, None) => Err(FindError::Unknown(prefix.to_owned())),
            (_, Some(last)) => {
                let mut candidates: Vec<String> = found.iter().chain([&last]).map(|view| view.short_id.clone()).collect();
                candidates.sort();
                Err(FindError::Ambiguous { prefix: prefix.to_owned(), candidates })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_variables_are_asked_in_order() {
        let locate = |vars: &[(&str, &str)]| {
            StateDir::locate(|name| vars.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())).ok()
        };
        let (own, xdg, home) = (("SENTRELY_STATE_DIR", "/s"), ("XDG_STATE_HOME", "/x"), ("HOME", "/h"));
        assert_eq!(locate(&[own, xdg, home]), Some("/s".into()));
        assert_eq!(locate(&[xdg, home]), Some("/x/sentrely".into()));
        assert_eq!(locate(&[home, ("XDG_STATE_HOME", "relative")]), Some("/h/.local/state/sentrely".into()));
        assert_eq!(locate(&[]), None);
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_refused_with_the_cure() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o770)).unwrap();
        let error = StateDir::open(dir.path()).unwrap_err();
        assert_eq!(error.to_string(), format!("use the state directory {}: others may write to it (mode 770)", dir.path().display()));
        assert_eq!(error.hint(), Some(format!("chmod 700 {}", dir.path().display())));
    }

    #[test]
    fn a_new_directory_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(&dir.path().join("a/b")).unwrap();
        assert_eq!(std::fs::metadata(state.path()).unwrap().mode() & 0o777, 0o700);
    }
}
