//! A folder that an agent had, or one that its files are put into, used from outside the wall: by no link on the way, never into a file
//! that is there.
//!
//! Each folder on the way is opened from the one before it, and only if it is one; what is written is a new file that is renamed into its
//! place. So a link that was planted is replaced or refused, never followed, and a file with a second name elsewhere keeps its content
//! there.

use std::ffi::OsStr;
use std::fs::{DirEntry, File, Metadata};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat};

use super::GitError;

const FOLDER: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// The folder, held open.
#[derive(Debug)]
pub(super) struct Within {
    folder: OwnedFd,
    path: PathBuf,
}

impl Within {
    /// Opens a folder that is one itself; what leads to it is ours.
    pub(super) fn open(path: &Path) -> Result<Self, GitError> {
        let opened = File::options().read(true).custom_flags(FOLDER.bits()).open(path);
        match opened {
            Ok(folder) => Ok(Self { folder: folder.into(), path: path.to_owned() }),
            Err(error) => Err(told(path, error)),
        }
    }

    /// A folder in it; `None` where there is none. A link is an error.
    pub(super) fn folder(&self, relative: &Path) -> Result<Option<Self>, GitError> {
        let path = self.path.join(relative);
        Ok(self.parent(&relative.join("x"), false)?.map(|(folder, _)| Self { folder, path }))
    }

    /// Where it was when it was opened: for words.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A path to this very folder, whatever lies where it was by now.
    pub(super) fn held(&self) -> PathBuf {
        held(&self.folder, &self.path)
    }

    /// What is in it.
    pub(super) fn entries(&self) -> io::Result<Vec<DirEntry>> {
        std::fs::read_dir(self.held())?.collect()
    }

    /// What a name in it stands for, a link for itself; `None` only if it is sure that nothing is there ([`is_gone`]).
    pub(super) fn look(&self, relative: &Path) -> io::Result<Option<Metadata>> {
        match self.at(relative, Path::symlink_metadata) {
            Err(error) if is_gone(&error) => Ok(None),
            looked => looked,
        }
    }

    /// Where a link leads.
    pub(super) fn target(&self, relative: &Path) -> Option<PathBuf> {
        self.at(relative, Path::read_link).ok().flatten()
    }

    fn at<T>(&self, relative: &Path, look: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<Option<T>> {
        let Some((folder, name)) = self.enter(relative, false)? else { return Ok(None) };
        let path = self.path.join(relative);
        look(&held(&folder, path.parent().unwrap_or(&path)).join(name)).map(Some)
    }

    /// A regular file in it, to be read; `None` where there is none.
    pub(super) fn open_file(&self, relative: &Path) -> Option<File> {
        let (folder, name) = self.parent(relative, false).ok()??;
        // NONBLOCK: a named pipe in the file's place must not hold us.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = File::from(openat(&folder, name, flags, Mode::empty()).ok()?);
        file.metadata().is_ok_and(|meta| meta.is_file()).then_some(file)
    }

    /// Gives what lies at `name` here a second name in `to`, a link itself and not what it leads to. An error where there is one already.
    pub(super) fn link_into(&self, name: &OsStr, to: &Self) -> io::Result<()> {
        Ok(linkat(&self.folder, name, &to.folder, name, AtFlags::empty())?)
    }

    /// The content of a regular file; `None` where there is none. A link, a pipe or a larger file is an error.
    pub(super) fn read(&self, relative: &str, limit: u64) -> Result<Option<Vec<u8>>, GitError> {
        let at = self.path.join(relative);
        let Some((folder, name)) = self.parent(Path::new(relative), false)? else { return Ok(None) };
        // NONBLOCK: a named pipe in the file's place must not hold us.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        match openat(&folder, name, flags, Mode::empty()) {
            Ok(file) => read_bounded(File::from(file), &at, limit).map(Some),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(told(&at, error.into())),
        }
    }

    /// Puts a file with this content in the place of whatever is there; only a folder is not replaced.
    pub(super) fn replace(&self, relative: &str, bytes: &[u8]) -> Result<(), GitError> {
        let at = self.path.join(relative);
        let Some((folder, name)) = self.parent(Path::new(relative), true)? else {
            return Err(GitError::Suspicious { path: at, found: "no place for a file" });
        };
        let fresh = [name.as_encoded_bytes(), b".sentrely"].concat();
        let _ = unlinkat(&folder, &fresh[..], UnlinkatFlags::NoRemoveDir);
        let mut file = create(&folder, &fresh, Mode::from_bits_truncate(0o644)).map_err(|error| told(&at, error))?;
        file.write_all(bytes).map_err(GitError::io("write", &at))?;
        renameat(&folder, &fresh[..], &folder, name).map_err(|error| told(&at, error.into()))
    }

    /// Removes a file, a link or a pipe, if there is one.
    pub(super) fn remove(&self, relative: &Path) -> Result<(), GitError> {
        let Some((folder, name)) = self.parent(relative, false)? else { return Ok(()) };
        match unlinkat(&folder, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(told(&self.path.join(relative), error.into())),
        }
    }

    /// A new, empty file; an error where anything is there.
    pub(super) fn create(&self, relative: &Path, mode: Mode) -> io::Result<File> {
        let place = self.parent(relative, true).map_err(|error| io::Error::other(error.to_string()))?;
        let (folder, name) = place.ok_or(io::ErrorKind::InvalidInput)?;
        create(&folder, name.as_encoded_bytes(), mode)
    }

    /// A new symbolic link; an error where anything is there.
    pub(super) fn link(&self, relative: &Path, target: &Path) -> io::Result<()> {
        let place = self.parent(relative, true).map_err(|error| io::Error::other(error.to_string()))?;
        let (folder, name) = place.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(symlinkat(target, &folder, name)?)
    }

    /// Makes a folder, and those that lead to it.
    pub(super) fn make_folder(&self, relative: &Path) -> Result<(), GitError> {
        self.parent(&relative.join("x"), true).map(drop)
    }

    /// The folder that `relative` lies in, and its name there; `None` where there is no such folder and none is made.
    fn parent<'p>(&self, relative: &'p Path, make: bool) -> Result<Option<(OwnedFd, &'p OsStr)>, GitError> {
        self.enter(relative, make).map_err(|error| told(&self.path.join(relative), error))
    }

    fn enter<'p>(&self, relative: &'p Path, make: bool) -> io::Result<Option<(OwnedFd, &'p OsStr)>> {
        let mut folder = self.folder.try_clone()?;
        let mut parts = relative.components().peekable();
        while let Some(part) = parts.next() {
            let Component::Normal(name) = part else { return Err(io::ErrorKind::InvalidInput.into()) };
            if parts.peek().is_none() {
                return Ok(Some((folder, name)));
            }
            folder = match openat(&folder, name, FOLDER, Mode::empty()) {
                Ok(folder) => folder,
                Err(Errno::ENOENT) if !make => return Ok(None),
                Err(Errno::ENOENT) => {
                    mkdirat(&folder, name, Mode::from_bits_truncate(0o755))?;
                    openat(&folder, name, FOLDER, Mode::empty())?
                }
                Err(error) => return Err(error.into()),
            };
        }
        Ok(None)
    }
}

/// Whether it says that nothing is there, or only by way of a link or a file. Any other error (no permission, no more descriptors) leaves it
/// open: what cannot be looked at is not gone.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP))
}

/// As [`Within::held`]. Only Linux has such paths.
fn held(folder: &OwnedFd, path: &Path) -> PathBuf {
    if cfg!(target_os = "linux") { PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())) } else { path.to_owned() }
}

fn create(folder: &OwnedFd, name: &[u8], mode: Mode) -> io::Result<File> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(File::from(openat(folder, name, flags, mode)?))
}

/// What an opened file holds, if it is a regular one of at most this size.
pub(super) fn read_bounded(file: File, path: &Path, limit: u64) -> Result<Vec<u8>, GitError> {
    let meta = file.metadata().map_err(GitError::io("look at", path))?;
    if !meta.is_file() {
        return Err(GitError::Suspicious { path: path.to_owned(), found: "not a regular file" });
    }
    if meta.len() > limit {
        return Err(GitError::Suspicious { path: path.to_owned(), found: "a file far larger than git would write" });
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(GitError::io("read", path))?;
    if bytes.len() as u64 > limit {
        return Err(GitError::Suspicious { path: path.to_owned(), found: "a file far larger than git would write" });
    }
    Ok(bytes)
}

fn told(path: &Path, error: io::Error) -> GitError {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ELOOP | Errno::ENOTDIR | Errno::EISDIR | Errno::ENXIO) => {
            GitError::Suspicious { path: path.to_owned(), found: "something else than git would leave there" }
        }
        _ => GitError::io("open", path)(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_was_left_there_leads_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, target) = (dir.path().join("git"), dir.path().join("target"));
        std::fs::create_dir_all(folder.join("info")).unwrap();
        std::fs::create_dir(&target).unwrap();
        let mine = |name: &str| std::fs::write(target.join(name), "mine").unwrap();
        mine("linked");
        mine("hard");
        std::os::unix::fs::symlink(target.join("linked"), folder.join("info/exclude")).unwrap();
        std::fs::hard_link(target.join("hard"), folder.join("config")).unwrap();
        std::os::unix::fs::symlink(&target, folder.join("away")).unwrap();
        nix::unistd::mkfifo(&folder.join("pipe"), Mode::S_IRWXU).unwrap();
        let within = Within::open(&folder).unwrap();
        for file in ["info/exclude", "config", "pipe", "new/deep/file"] {
            within.replace(file, b"new").unwrap();
            assert_eq!(within.read(file, 10).unwrap().as_deref(), Some(&b"new"[..]), "{file}");
        }
        assert!(within.replace("away/linked", b"new").is_err() && within.create(Path::new("away/x"), Mode::empty()).is_err());
        assert!(within.read("away/linked", 10).is_err() && within.remove(Path::new("away/linked")).is_err());
        assert!(within.replace("../target/linked", b"new").is_err());
        for name in ["linked", "hard"] {
            assert_eq!(std::fs::read_to_string(target.join(name)).unwrap(), "mine");
        }
        assert_eq!(std::fs::read_dir(&target).unwrap().count(), 2);
        assert!(Within::open(&folder.join("away")).is_err(), "itself a link");
        assert!(within.folder(Path::new("away")).is_err() && within.folder(Path::new("none")).unwrap().is_none());
        assert_eq!((within.look(Path::new("away/linked")).unwrap().is_some(), within.target(Path::new("away"))), (false, Some(target)));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_folder_that_is_held_is_the_same_whatever_is_put_in_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, other) = (dir.path().join("folder"), dir.path().join("other"));
        for (place, name) in [(folder.join("in"), "mine"), (other.join("in"), "theirs")] {
            std::fs::create_dir_all(&place).unwrap();
            std::fs::write(place.join(name), name).unwrap();
        }
        let within = Within::open(&folder).unwrap();
        let inner = within.folder(Path::new("in")).unwrap().unwrap();
        std::fs::rename(&folder, dir.path().join("away")).unwrap();
        std::os::unix::fs::symlink(&other, &folder).unwrap();
        for held in [within.folder(Path::new("in")).unwrap().unwrap(), inner] {
            let names: Vec<_> = held.entries().unwrap().iter().map(DirEntry::file_name).collect();
            assert_eq!((names, held.read("mine", 9).unwrap().as_deref()), (vec!["mine".into()], Some(&b"mine"[..])));
        }
        assert!(within.look(Path::new("in/mine")).unwrap().is_some() && within.look(Path::new("in/theirs")).unwrap().is_none());
    }

    #[test]
    fn what_is_not_there_is_gone_and_what_cannot_be_looked_at_is_not() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "x").unwrap();
        std::os::unix::fs::symlink("file", dir.path().join("link")).unwrap();
        let within = Within::open(dir.path()).unwrap();
        for gone in ["none", "none/deeper", "file/deeper", "link/deeper"] {
            assert!(within.look(Path::new(gone)).unwrap().is_none(), "{gone}");
        }
        for there in ["file", "link"] {
            assert!(within.look(Path::new(there)).unwrap().is_some(), "{there}");
        }
        // Root may look anywhere, but at no name that is too long.
        assert!(within.look(Path::new(&"x".repeat(300))).is_err());
        assert!(within.look(&Path::new(&"x".repeat(300)).join("deeper")).is_err());
    }

    #[test]
    fn what_is_no_plain_file_is_not_read_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        nix::unistd::mkfifo(&dir.path().join("pipe"), Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink("/dev/zero", dir.path().join("endless")).unwrap();
        File::create(dir.path().join("huge")).unwrap().set_len(1 << 40).unwrap();
        std::fs::create_dir(dir.path().join("folder")).unwrap();
        let within = Within::open(dir.path()).unwrap();
        for name in ["pipe", "endless", "huge", "folder"] {
            assert!(matches!(within.read(name, 1 << 20), Err(GitError::Suspicious { .. })), "{name}");
        }
        assert_eq!(within.read("none", 1).unwrap(), None);
        assert_eq!(within.read("none/deeper", 1).unwrap(), None);
    }
}
