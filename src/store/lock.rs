//! The lock of a session: held by guardian and supervisor, so it is free only when both are gone.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Readers hold the lock, shared, for the moment of a look: whoever finds it taken looks again until this is over.
const A_LOOK: Duration = Duration::from_millis(300);

/// The held lock. The guardian gets the same open file description, so dropping this alone does not free it.
#[derive(Debug)]
pub struct SessionLock(File);

impl SessionLock {
    /// Takes the lock at `path`; `None` if somebody holds it. Blocks for a third of a second at most.
    pub fn take(path: &Path) -> io::Result<Option<Self>> {
        let file = open(path)?;
        let started = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(Self(file))),
                Err(TryLockError::WouldBlock) if started.elapsed() < A_LOOK => std::thread::sleep(Duration::from_millis(5)),
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }

    /// Whether a session lives: whether anybody holds the lock. A missing lock file is not held.
    pub fn is_held(path: &Path) -> io::Result<bool> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Waits, blocking, until nobody holds the lock.
    pub fn wait_until_free(path: &Path) -> io::Result<()> {
        match File::open(path) {
            Ok(file) => file.lock_shared(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The locked file, to be shared with the guardian.
    pub const fn file(&self) -> &File {
        &self.0
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).read(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_until_its_last_holder_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert!(!SessionLock::is_held(&path).unwrap());
        let lock = SessionLock::take(&path).unwrap().unwrap();
        let shared = lock.file().try_clone().unwrap();
        assert!(SessionLock::take(&path).unwrap().is_none());
        drop(lock);
        assert!(SessionLock::is_held(&path).unwrap());
        drop(shared);
        assert!(!SessionLock::is_held(&path).unwrap());
    }
}
