//! The bearer token: 256 random bits in `<state>/serve-token`, readable by this account alone, the same from one `serve` to the next.

use std::fs::{OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use uuid::Uuid;

/// The file's name in the state directory.
const FILE_NAME: &str = "serve-token";
/// A shorter one could be guessed.
const SHORTEST: usize = 32;
/// What is read of the file at most.
const LONGEST: u64 = 4096;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file system refused.
    #[error("use the token file {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others may read or write it, or it belongs to somebody else.
    #[error("use the token file {}: it is not private to you", path.display())]
    NotPrivate {
        /// Which.
        path: PathBuf,
    },
    /// It holds no token.
    #[error("use the token file {}: it holds no token of at least {SHORTEST} printable characters", path.display())]
    NoToken {
        /// Which.
        path: PathBuf,
    },
}

impl TokenError {
    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io { .. } => None,
            Self::NotPrivate { path } | Self::NoToken { path } => Some(format!("rm {}; a new one is made then", path.display())),
        }
    }
}

/// Where the token of this state directory is.
pub(super) fn path(state: &Path) -> PathBuf {
    state.join(FILE_NAME)
}

/// The token of this state directory, made if there is none.
pub(super) fn load_or_create(state: &Path) -> Result<SecretString, TokenError> {
    let path = path(state);
    match create(state, &path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(TokenError::Io { path, source: error }),
        // Read back, whoever made it: two that begin at once have one token.
        _ => load(&path),
    }
}

/// Whole or not at all, and never over one that is there.
fn create(state: &Path, path: &Path) -> io::Result<()> {
    if path.symlink_metadata().is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let mut file = tempfile::Builder::new().prefix(".new-").permissions(Permissions::from_mode(0o600)).tempfile_in(state)?;
    // Version 4: 122 random bits each, from the system.
    writeln!(file, "{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())?;
    file.persist_noclobber(path).map(drop).map_err(|error| error.error)
}

fn load(path: &Path) -> Result<SecretString, TokenError> {
    let failed = |source| TokenError::Io { path: path.to_owned(), source };
    // No link is followed and no FIFO waited for.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() || meta.uid() != nix::unistd::geteuid().as_raw() || meta.mode() & 0o077 != 0 {
        return Err(TokenError::NotPrivate { path: path.to_owned() });
    }
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text).map_err(failed)?;
    let token = text.trim();
    if token.len() < SHORTEST || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(TokenError::NoToken { path: path.to_owned() });
    }
    Ok(token.into())
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn the_token_is_made_once_private_and_long() {
        let dir = tempfile::tempdir().unwrap();
        let first = load_or_create(dir.path()).unwrap();
        assert_eq!(first.expose_secret().len(), 64);
        assert_eq!(load_or_create(dir.path()).unwrap().expose_secret(), first.expose_secret());
        assert_eq!(std::fs::metadata(path(dir.path())).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_token_that_others_may_read_or_that_is_none_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path());
        std::fs::write(&path, "x".repeat(64)).unwrap();
        for (mode, refused) in [(0o644, true), (0o660, true), (0o600, false)] {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert_eq!(load_or_create(dir.path()).is_err(), refused, "{mode:o}");
        }
        for content in ["", "short", "two words of more than thirty-two characters"] {
            std::fs::write(&path, content).unwrap();
            assert!(matches!(load_or_create(dir.path()), Err(TokenError::NoToken { .. })), "{content}");
        }
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", &path).unwrap();
        assert!(load_or_create(dir.path()).is_err(), "no link is followed");
    }
}
