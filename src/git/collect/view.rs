//! The clone's objects, as they are now, and as no link makes another repository's of them.
//!
//! The agent may put a link in the place of any file and folder of its store, at any moment, and `objects/info` leads to further stores. So
//! nothing is borrowed from the clone by a path. Each object, loose or packed, gets a second name in a folder of ours, by way of folders that
//! are held open, and stays there only if it is a regular file: git and libgit2 borrow from that folder. (The content is still the agent's to
//! spoil. An object is held against its name when it is read, and again when it is copied.)
//!
//! What is large is known by its first bytes before anything reads it whole: libgit2 would, git streams it.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{DirEntry, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};

use flate2::read::ZlibDecoder;
use git2::Odb;

use super::super::GitError;
use super::super::within::Within;

/// No larger object is read into memory.
pub(super) const LARGE: usize = 16 * 1024 * 1024;
/// The objects of a larger pack are not looked at one by one.
const LARGE_PACK: u64 = 64 * 1024 * 1024;
/// Where a second name is no way (another file system), a larger file is not taken.
const LARGEST_COPY: u64 = 4 * 1024 * 1024 * 1024;
/// In the session's state: see [`Large`].
const LARGE_ONES: &str = "large-objects";
/// Of a loose object so much tells its size: `blob 123\0`.
const HEADER: u64 = 32;
/// The files of a pack, in the order in which they are to appear: it is there once its index is.
const PACKED: [&str; 3] = [".promisor", ".pack", ".idx"];

/// The folder to borrow from.
pub(super) struct View {
    pub(super) objects: PathBuf,
    /// Something in it is not to be read into memory.
    pub(super) large: bool,
}

/// Takes what is in the clone's store now and was not taken before. What refs lead to is in it if they were read before.
pub(super) fn of_clone(git_dir: &Within, state: &Path) -> Result<Option<View>, GitError> {
    looked_at_twice(git_dir, state, || {})
}

/// The first time what the clone has no more is given up: packed anew, most likely, and the second look finds the pack. Whether anything is
/// large the second one says: the agent may store it `between` them.
fn looked_at_twice(git_dir: &Within, state: &Path, between: impl FnOnce()) -> Result<Option<View>, GitError> {
    let first = take_all(git_dir, state, true)?;
    between();
    Ok(take_all(git_dir, state, false)?.or(first))
}

fn take_all(git_dir: &Within, state: &Path, tidy: bool) -> Result<Option<View>, GitError> {
    let Ok(Some(store)) = git_dir.folder(Path::new("objects")) else { return Ok(None) };
    let view = state.join("objects");
    let stage = state.join("taking");
    make(&stage.join("pack"))?;
    let large = Large { list: state.join(LARGE_ONES), view: view.clone() };
    let taking = Taking { held: Within::open(&stage.join("pack"))?, stage, large, tidy };
    let mut seen = HashSet::new();
    for entry in store.entries().map_err(GitError::io("list", store.path()))? {
        let name = entry.file_name();
        let is_pack = name == "pack";
        if !is_pack && !is_hex(&name, &[2]) {
            continue;
        }
        // A link has no say in what was taken before.
        if let Ok(Some(folder)) = store.folder(Path::new(&name)) {
            taking.folder(&folder, &view.join(&name), is_pack)?;
        }
        seen.insert(name);
    }
    for gone in std::fs::read_dir(&view).into_iter().flatten().flatten().filter(|entry| tidy && !seen.contains(&entry.file_name())) {
        std::fs::remove_dir_all(gone.path()).map_err(GitError::io("remove", gone.path()))?;
    }
    make(&view)?;
    if tidy {
        taking.large.forget_those_gone().map_err(GitError::io("write", &taking.large.list))?;
    }
    Ok(Some(View { objects: view, large: taking.large.list.exists() }))
}

/// Forgets what was large, with the rest of what [`of_clone`] keeps.
pub(super) fn forget_large(state: &Path) -> Result<(), GitError> {
    let list = state.join(LARGE_ONES);
    remove(&list).map_err(GitError::io("remove", list))
}

/// What [`of_clone`] keeps on the disk.
pub(super) fn folders(state: &Path) -> [PathBuf; 2] {
    [state.join("objects"), state.join("taking")]
}

struct Taking {
    /// A store, in whose folder of packs files are looked at before they are taken.
    stage: PathBuf,
    held: Within,
    large: Large,
    tidy: bool,
}

/// What in the view is not to be read into memory, a path on each line of a file: to look at everything each time would take long.
struct Large {
    /// Its presence says that something is large.
    list: PathBuf,
    view: PathBuf,
}

impl Large {
    /// Before it is in the view.
    fn add(&self, place: &Path) -> io::Result<()> {
        let relative = place.strip_prefix(&self.view).unwrap_or(place);
        let mut list = File::options().create(true).append(true).open(&self.list)?;
        list.write_all(format!("{}\n", relative.display()).as_bytes())
    }

    fn forget_those_gone(&self) -> io::Result<()> {
        let listed = match std::fs::read_to_string(&self.list) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            listed => listed?,
        };
        // Earlier versions wrote nothing into it: then nothing is known.
        let gone = !listed.is_empty() && !listed.lines().any(|line| self.view.join(line).symlink_metadata().is_ok());
        if gone { remove(&self.list) } else { Ok(()) }
    }
}

impl Taking {
    fn folder(&self, from: &Within, place: &Path, is_pack: bool) -> Result<(), GitError> {
        let rank = |name: &OsStr| {
            if is_pack { PACKED.iter().position(|end| is_pack_file(name, end)) } else { is_hex(name, &[38, 62]).then_some(0) }
        };
        let entries = from.entries().map_err(GitError::io("list", from.path()))?;
        let mut wanted: Vec<(usize, OsString, &DirEntry)> =
            entries.iter().filter_map(|entry| Some((rank(&entry.file_name())?, entry.file_name(), entry))).collect();
        wanted.sort_by(|one, other| (one.0, &one.1).cmp(&(other.0, &other.1)));
        if place.is_symlink() {
            // Earlier versions linked to the clone's own folder.
            remove(place).map_err(GitError::io("remove", place))?;
        }
        make(place)?;
        let mut taken = listed(place)?;
        for (_, name, entry) in wanted {
            let known = taken.remove(&name);
            if !known.is_some_and(|known| known.is_still(entry)) {
                self.take(from, place, &name).map_err(GitError::io("take over", from.path().join(&name)))?;
            }
        }
        for gone in taken.into_keys().filter(|_| self.tidy) {
            std::fs::remove_file(place.join(&gone)).map_err(GitError::io("remove", place.join(&gone)))?;
        }
        Ok(())
    }

    fn take(&self, from: &Within, place: &Path, name: &OsStr) -> io::Result<()> {
        let packs = self.stage.join("pack");
        let file = packs.join(name);
        remove(&file)?;
        match from.link_into(name, &self.held) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(_) if !copy(from, name, &file)? => return Ok(()),
            _ => {}
        }
        // From here on it is ours, and what it is does not change.
        let meta = file.symlink_metadata()?;
        if !meta.is_file() {
            return remove(&file);
        }
        let is_large = if is_pack_file(name, ".idx") {
            let pack = Path::new(name).with_extension("pack");
            let Ok(packed) = place.join(&pack).symlink_metadata() else { return remove(&file) };
            packed.len() > LARGE_PACK || holds_large(&self.stage, &place.join(&pack), &packs.join(&pack))?
        } else {
            !is_pack_file(name, ".pack") && size_of_loose(&file).is_some_and(|size| size > LARGE)
        };
        if is_large {
            self.large.add(&place.join(name))?;
        }
        std::fs::rename(&file, place.join(name))
    }
}

/// A file as it was taken.
struct Taken {
    inode: u64,
    /// What there is of it in the clone is a second name for it, else it was copied.
    linked: bool,
    length: u64,
}

impl Taken {
    /// One that was spoiled and made again is another file.
    fn is_still(&self, now: &DirEntry) -> bool {
        self.inode == now.ino() || (!self.linked && now.metadata().is_ok_and(|meta| meta.is_file() && meta.len() == self.length))
    }
}

fn listed(place: &Path) -> Result<HashMap<OsString, Taken>, GitError> {
    let one = |entry: io::Result<DirEntry>| {
        let entry = entry?;
        let meta = entry.metadata()?;
        Ok((entry.file_name(), Taken { inode: meta.ino(), linked: meta.nlink() > 1, length: meta.len() }))
    };
    std::fs::read_dir(place).and_then(|entries| entries.map(one).collect()).map_err(GitError::io("list", place))
}

/// The uncompressed size that a loose object gives itself.
fn size_of_loose(file: &Path) -> Option<usize> {
    let mut header = Vec::new();
    ZlibDecoder::new(File::open(file).ok()?).take(HEADER).read_to_end(&mut header).ok()?;
    let text = header.split(|byte| *byte == 0).next()?;
    std::str::from_utf8(text).ok()?.split_once(' ')?.1.parse().ok()
}

/// Whether a pack whose index lies in the stage has a large object.
fn holds_large(stage: &Path, pack: &Path, staged: &Path) -> io::Result<bool> {
    remove(staged)?;
    std::fs::hard_link(pack, staged)?;
    let look = || -> Result<bool, git2::Error> {
        let store = Odb::new()?;
        store.add_disk_alternate(&stage.to_string_lossy())?;
        let mut ids = Vec::new();
        store.foreach(|id| {
            ids.push(*id);
            true
        })?;
        // Of one that cannot be read nothing is read.
        Ok(ids.into_iter().any(|id| store.read_header(id).is_ok_and(|(size, _)| size > LARGE)))
    };
    let found = look().unwrap_or(false);
    remove(staged)?;
    Ok(found)
}

/// Takes a regular file that cannot have a second name here; `false` if there is none.
fn copy(from: &Within, name: &OsStr, to: &Path) -> io::Result<bool> {
    let Some(file) = from.open_file(Path::new(name)).filter(|file| file.metadata().is_ok_and(|meta| meta.len() <= LARGEST_COPY)) else {
        return Ok(false);
    };
    io::copy(&mut file.take(LARGEST_COPY), &mut File::create_new(to)?)?;
    Ok(true)
}

fn make(folder: &Path) -> Result<(), GitError> {
    fs_err::create_dir_all(folder).map_err(GitError::io("create", folder))
}

fn remove(file: &Path) -> io::Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn is_pack_file(name: &OsStr, end: &str) -> bool {
    name.as_bytes().starts_with(b"pack-") && name.as_bytes().ends_with(end.as_bytes())
}

/// The first byte of objects' names, or the rest of one.
fn is_hex(name: &OsStr, lengths: &[usize]) -> bool {
    lengths.contains(&name.len()) && name.as_bytes().iter().all(u8::is_ascii_hexdigit)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use git2::{ObjectType, Oid, Repository};

    use super::*;

    struct World {
        dir: tempfile::TempDir,
        /// One that is loose in the secret repository, and one that is packed there.
        secrets: [Oid; 2],
        mine: Oid,
    }

    fn in_shell(folder: &Path, script: &str) {
        let output = Command::new("sh").current_dir(folder).args(["-c", script]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    fn world() -> World {
        let dir = tempfile::tempdir().unwrap();
        let repositories = ["secret", "clone"].map(|name| Repository::init(dir.path().join(name)).unwrap());
        let [secret, clone] = repositories.each_ref().map(|repository| repository.odb().unwrap());
        let packed = secret.write(ObjectType::Blob, b"packed secret").unwrap();
        in_shell(&dir.path().join("secret/.git/objects/pack"), &format!("echo {packed} | git pack-objects -q pack && git prune-packed"));
        let loose = secret.write(ObjectType::Blob, b"loose secret").unwrap();
        let mine = clone.write(ObjectType::Blob, b"mine").unwrap();
        std::fs::create_dir_all(dir.path().join("clone/.git/objects/pack")).unwrap();
        World { secrets: [loose, packed], mine, dir }
    }

    impl World {
        fn objects(&self, repository: &str) -> PathBuf {
            self.dir.path().join(repository).join(".git/objects")
        }

        fn look(&self) -> View {
            let git_dir = Within::open(&self.dir.path().join("clone/.git")).unwrap();
            of_clone(&git_dir, &self.dir.path().join("state")).unwrap().unwrap()
        }

        fn store(&self, content: &[u8]) -> Oid {
            Repository::open(self.dir.path().join("clone")).unwrap().odb().unwrap().write(ObjectType::Blob, content).unwrap()
        }

        /// Which of the secrets, and whether what is its own, can be read by way of a folder of objects.
        fn lent(&self, objects: &Path) -> ([bool; 2], bool) {
            let odb = Odb::new().unwrap();
            odb.add_disk_alternate(objects.to_str().unwrap()).unwrap();
            (self.secrets.map(|id| odb.read(id).is_ok()), odb.read(self.mine).is_ok())
        }

        /// Puts links to the secret repository's in the place of the clone's folders and files of objects.
        fn swap(&self, whole_folders: bool) {
            let (secret, clone) = (self.objects("secret"), self.objects("clone"));
            for folder in std::fs::read_dir(&secret).unwrap().flatten().filter(|entry| entry.file_name() != "info") {
                let place = clone.join(folder.file_name());
                let _ = std::fs::rename(&place, place.with_extension("away"));
                if whole_folders {
                    symlink(folder.path(), &place).unwrap();
                } else {
                    std::fs::create_dir(&place).unwrap();
                    for file in std::fs::read_dir(folder.path()).unwrap().flatten() {
                        symlink(file.path(), place.join(file.file_name())).unwrap();
                    }
                }
            }
        }
    }

    #[test]
    fn links_that_are_planted_before_or_after_the_look_lend_nothing_of_another_repository() {
        for whole_folders in [true, false] {
            let world = world();
            // The control: a folder of links to folders that were looked at, as it was here once.
            let links = world.dir.path().join("links");
            std::fs::create_dir(&links).unwrap();
            let folders = std::fs::read_dir(world.objects("secret")).unwrap().flatten().map(|entry| entry.file_name());
            for name in folders.chain([OsString::from(&world.mine.to_string()[..2])]) {
                let _ = symlink(world.objects("clone").join(&name), links.join(&name)); // two may begin with the same byte
            }
            let view = world.look();
            assert_eq!((world.lent(&view.objects), world.lent(&links)), (([false; 2], true), ([false; 2], true)));
            world.swap(whole_folders);
            assert_eq!((world.lent(&view.objects), world.lent(&links)), (([false; 2], true), ([true; 2], true)), "after the look");
            assert_eq!(world.lent(&world.look().objects), ([false; 2], true), "before another look");
        }
    }

    #[test]
    fn what_the_clone_packed_anew_is_not_kept_twice_and_a_spoiled_object_is_taken_again() {
        let world = world();
        let (name, view) = (world.mine.to_string(), world.look().objects);
        let (loose, kept) = (world.objects("clone").join(&name[..2]).join(&name[2..]), view.join(&name[..2]).join(&name[2..]));
        let content = std::fs::read(&loose).unwrap();
        std::fs::remove_file(&loose).unwrap();
        std::fs::write(&loose, "spoiled").unwrap();
        assert_eq!(world.lent(&world.look().objects), ([false; 2], false));
        std::fs::remove_file(&loose).unwrap();
        std::fs::write(&loose, content).unwrap();
        assert_eq!(world.lent(&world.look().objects), ([false; 2], true));
        std::fs::remove_dir_all(loose.parent().unwrap()).unwrap();
        world.look();
        assert!(!kept.exists());
    }

    #[test]
    fn what_is_large_is_known_loose_or_packed_and_nothing_else_is_taken_for_it() {
        let (world, big) = (world(), vec![b'x'; LARGE + 1]);
        assert!(!world.look().large);
        let id = world.store(&big);
        assert!(world.look().large && world.look().large, "also when it was taken before");
        let packs = world.objects("clone").join("pack");
        in_shell(&packs, &format!("echo {id} | git pack-objects -q pack && git prune-packed"));
        assert!(world.look().large);
        let kept = std::fs::read_to_string(world.dir.path().join("state/large-objects")).unwrap();
        assert!(kept.lines().last().unwrap().starts_with("pack/pack-"), "the pack was looked at, not only remembered: {kept}");
        assert_eq!(std::fs::read_dir(world.dir.path().join("state/taking/pack")).unwrap().count(), 0, "nothing is left on the stage");
    }

    #[test]
    fn what_becomes_large_between_the_two_looks_is_known_and_what_is_large_no_more_is_forgotten() {
        let (world, big) = (world(), vec![b'x'; LARGE + 1]);
        let git_dir = Within::open(&world.dir.path().join("clone/.git")).unwrap();
        let mut stored = None;
        let view = looked_at_twice(&git_dir, &world.dir.path().join("state"), || stored = Some(world.store(&big))).unwrap().unwrap();
        let name = stored.unwrap().to_string();
        let place = Path::new(&name[..2]).join(&name[2..]);
        assert!(view.large && view.objects.join(&place).exists());
        let loose = world.objects("clone").join(&place);
        std::fs::rename(&loose, world.dir.path().join("away")).unwrap();
        assert!(!world.look().large, "gone from the clone");
        std::fs::rename(world.dir.path().join("away"), &loose).unwrap();
        assert!(world.look().large, "and back");
        forget_large(&world.dir.path().join("state")).unwrap();
        assert!(!world.dir.path().join("state/large-objects").exists());
    }
}
