//! What git-lfs stores: pointers in commits, content by its SHA-256 beside them (git-lfs, docs/spec.md). No program runs here.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::super::Checkout;
use super::open_beneath;

/// A file of this size or more is no pointer (the specification's limit).
const LONGEST_POINTER: u64 = 1024;
const VERSION: &str = "version https://git-lfs.github.com/spec/v1";

/// What stands in a commit for a file's content.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) struct Pointer {
    /// SHA-256, in hex.
    pub(in super::super) oid: String,
    pub(in super::super) size: u64,
}

impl Pointer {
    pub(in super::super) fn parse(text: &[u8]) -> Option<Self> {
        if text.len() as u64 >= LONGEST_POINTER {
            return None;
        }
        let text = std::str::from_utf8(text).ok()?;
        let mut lines = text.lines();
        (lines.next()? == VERSION).then_some(())?;
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let oid = value("oid")?.strip_prefix("sha256:").filter(|oid| is_oid(oid))?;
        Some(Self { oid: oid.to_owned(), size: value("size")?.parse().ok()? })
    }

    pub(in super::super) fn text(&self) -> String {
        format!("{VERSION}\noid sha256:{}\nsize {}\n", self.oid, self.size)
    }
}

/// Whether it is a SHA-256 in the form that git-lfs writes.
pub(in super::super) fn is_oid(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// A folder of content: `objects/aa/bb/<oid>`.
#[derive(Debug, Clone)]
pub(in super::super) struct Store {
    root: PathBuf,
}

impl Store {
    /// The developer's repository's own.
    pub(in super::super) fn of(checkout: &Checkout) -> Self {
        let configured = checkout.config_text("lfs.storage").map(|path| checkout.common_dir.join(path));
        Self::at(&configured.unwrap_or_else(|| checkout.common_dir.join("lfs")))
    }

    pub(in super::super) fn at(directory: &Path) -> Self {
        Self { root: directory.join("objects") }
    }

    pub(in super::super) fn path(&self) -> &Path {
        &self.root
    }

    fn place(&self, oid: &str) -> PathBuf {
        self.root.join(&oid[..2]).join(&oid[2..4]).join(oid)
    }

    pub(in super::super) fn has(&self, pointer: &Pointer) -> bool {
        self.place(&pointer.oid).symlink_metadata().is_ok_and(|meta| meta.is_file() && meta.len() == pointer.size)
    }

    pub(in super::super) fn open(&self, pointer: &Pointer) -> Option<File> {
        self.has(pointer).then(|| File::open(self.place(&pointer.oid)).ok()).flatten()
    }

    /// Stores a file's content; what a commit is to hold for it. A pointer stays one, and an empty file is stored as it is.
    pub(in super::super) fn clean(&self, content: &mut File) -> io::Result<Vec<u8>> {
        let mut head = Vec::new();
        Read::by_ref(content).take(LONGEST_POINTER).read_to_end(&mut head)?;
        if head.is_empty() || Pointer::parse(&head).is_some() {
            return Ok(head);
        }
        content.rewind()?;
        Ok(self.put(content, None)?.map(|pointer| pointer.text().into_bytes()).unwrap_or_default())
    }

    /// Stores what `content` gives under its digest; nothing, if it is not the `expected` one.
    pub(in super::super) fn put(&self, content: &mut impl Read, expected: Option<&Pointer>) -> io::Result<Option<Pointer>> {
        fs_err::create_dir_all(&self.root)?;
        let mut file = tempfile::NamedTempFile::new_in(&self.root)?;
        let mut digest = Sha256::new();
        let mut size = 0;
        let mut buffer = vec![0; 128 * 1024];
        loop {
            let count = content.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            digest.update(&buffer[..count]);
            file.write_all(&buffer[..count])?;
            size += count as u64;
        }
        let oid = digest.finalize().iter().fold(String::new(), |mut hex, byte| {
            let _ = std::fmt::Write::write_fmt(&mut hex, format_args!("{byte:02x}"));
            hex
        });
        let pointer = Pointer { oid, size };
        if expected.is_some_and(|expected| *expected != pointer) {
            return Ok(None);
        }
        let place = self.place(&pointer.oid);
        if let Some(parent) = place.parent() {
            fs_err::create_dir_all(parent)?;
        }
        file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
        file.persist(&place).map_err(|error| error.error)?;
        Ok(Some(pointer))
    }

    /// Takes over what the agent's git-lfs stored in its clone, as far as each file is what its name says.
    pub(in super::super) fn take_over(&self, clone_git_dir: &Path) -> io::Result<()> {
        let objects = clone_git_dir.join("lfs/objects");
        for first in folders(&objects) {
            for second in folders(&objects.join(&first)) {
                let folder = Path::new("lfs/objects").join(&first).join(&second);
                for name in entries(&clone_git_dir.join(&folder)) {
                    if !is_oid(&name) || !name.starts_with(&format!("{first}{second}")) || self.place(&name).exists() {
                        continue;
                    }
                    let Some(mut file) = open_beneath(clone_git_dir, &folder.join(&name)) else { continue };
                    let size = file.metadata()?.len();
                    self.put(&mut file, Some(&Pointer { oid: name, size }))?;
                }
            }
        }
        Ok(())
    }
}

fn folders(directory: &Path) -> Vec<String> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    entries(directory).into_iter().filter(|name| name.len() == 2 && name.bytes().all(is_digit)).collect()
}

fn entries(directory: &Path) -> Vec<String> {
    if !directory.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
        return Vec::new();
    }
    let listed = fs_err::read_dir(directory).into_iter().flatten().flatten();
    listed.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file.rewind().unwrap();
        file
    }

    #[test]
    fn a_pointer_is_written_and_read_as_the_specification_shows_it() {
        let text = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";
        let pointer = Pointer::parse(text.as_bytes()).unwrap();
        assert_eq!((pointer.size, pointer.text().as_str()), (12345, text));
        for wrong in ["", "version x\n", &text.replace("sha256:4", "sha256:G"), &text.replace("size 12345", "size x")] {
            assert_eq!(Pointer::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn content_is_stored_once_under_its_digest_and_pointers_and_nothing_stay_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path());
        let pointer = store.clean(&mut file(b"content")).unwrap();
        let parsed = Pointer::parse(&pointer).unwrap();
        assert!(store.has(&parsed) && parsed.size == 7);
        assert_eq!(store.clean(&mut file(&pointer)).unwrap(), pointer);
        assert_eq!(store.clean(&mut file(b"")).unwrap(), b"");
        assert_eq!(store.put(&mut &b"other"[..], Some(&parsed)).unwrap(), None, "not what its name says");
    }

    #[test]
    fn of_the_clone_only_what_is_what_its_name_says_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let (theirs, ours) = (Store::at(&dir.path().join("clone/lfs")), Store::at(&dir.path().join("ours")));
        let good = Pointer::parse(&theirs.clean(&mut file(b"good")).unwrap()).unwrap();
        let forged = Pointer::parse(&theirs.clean(&mut file(b"forged")).unwrap()).unwrap();
        let linked = Pointer::parse(&theirs.clean(&mut file(b"linked")).unwrap()).unwrap();
        std::fs::write(theirs.place(&forged.oid), b"FORGED").unwrap();
        std::fs::rename(theirs.place(&linked.oid), dir.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), theirs.place(&linked.oid)).unwrap();
        ours.take_over(&dir.path().join("clone")).unwrap();
        assert_eq!([&good, &forged, &linked].map(|pointer| ours.has(pointer)), [true, false, false]);
    }
}
