//! Copying single files into a clone: sharing their blocks where the file system can.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path};

/// Copies below one folder into another. Whether blocks can be shared is found out with the first file.
#[derive(Debug)]
pub(in crate::git) struct Copier<'a> {
    from: &'a Path,
    to: &'a Path,
    shares: Option<bool>,
}

impl<'a> Copier<'a> {
    pub(in crate::git) const fn new(from: &'a Path, to: &'a Path) -> Self {
        Self { from, to, shares: None }
    }

    /// Makes `path` in the target what it is in the source, in place of whatever is there. `false` where it is neither a file nor a
    /// symbolic link.
    pub(in crate::git) fn put(&mut self, path: &Path) -> io::Result<bool> {
        let (source, target) = (self.from.join(path), self.to.join(path));
        let meta = source.symlink_metadata()?;
        if !meta.is_file() && !meta.is_symlink() {
            return Ok(false);
        }
        self.make_way(path)?;
        if meta.is_symlink() {
            symlink(std::fs::read_link(&source)?, &target)?;
        } else {
            self.copy(&source, &target, meta.permissions().mode())?;
        }
        Ok(true)
    }

    /// Removes `path` from the target, and folders that are empty without it.
    pub(in crate::git) fn remove(&self, path: &Path) -> io::Result<()> {
        if !self.has_real_parents(path) {
            return Ok(());
        }
        match std::fs::remove_file(self.to.join(path)) {
            Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::IsADirectory) => return Err(error),
            _ => {}
        }
        for folder in path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()) {
            if std::fs::remove_dir(self.to.join(folder)).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Whether the target's file system shares the blocks of `path`'s copy. Tried once.
    pub(in crate::git) fn shares(&mut self, path: &Path) -> bool {
        if self.shares.is_none() {
            let tried = tempfile::Builder::new().prefix(".sentrely-").tempfile_in(self.to);
            let shared = File::open(self.from.join(path)).and_then(|from| share(&from, tried?.as_file()));
            self.shares = Some(shared.is_ok());
        }
        self.shares == Some(true)
    }

    fn copy(&mut self, source: &Path, target: &Path, mode: u32) -> io::Result<()> {
        let from = File::open(source)?;
        let mut to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(target)?;
        if self.shares != Some(false) {
            self.shares = Some(share(&from, &to).is_ok());
        }
        if self.shares == Some(false) {
            io::copy(&mut &from, &mut to)?;
        }
        to.set_permissions(std::fs::Permissions::from_mode(mode & 0o777))
    }

    /// Every folder on the way is a real one, never a link out of the clone, and nothing lies where the file is to be.
    fn make_way(&self, path: &Path) -> io::Result<()> {
        let mut at = self.to.to_owned();
        let parents = path.parent().into_iter().flat_map(Path::components);
        for part in parents {
            let Component::Normal(name) = part else { return Err(io::ErrorKind::InvalidInput.into()) };
            at.push(name);
            match at.symlink_metadata() {
                Ok(meta) if meta.is_dir() => continue,
                Ok(_) => std::fs::remove_file(&at)?,
                Err(_) => {}
            }
            std::fs::create_dir(&at)?;
        }
        let target = self.to.join(path);
        match target.symlink_metadata() {
            Ok(meta) if meta.is_dir() => std::fs::remove_dir(&target), // an empty one: a submodule's
            Ok(_) => std::fs::remove_file(&target),
            Err(_) => Ok(()),
        }
    }

    fn has_real_parents(&self, path: &Path) -> bool {
        let mut parents = path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty());
        parents.all(|folder| self.to.join(folder).symlink_metadata().is_ok_and(|meta| meta.is_dir()))
    }
}

#[cfg(target_os = "linux")]
fn share(from: &File, to: &File) -> io::Result<()> {
    Ok(rustix::fs::ioctl_ficlone(to, from)?)
}

#[cfg(target_os = "macos")]
fn share(_: &File, _: &File) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
