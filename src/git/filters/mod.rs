//! Filter drivers (`filter=` in `.gitattributes`: git-lfs, git-crypt, nbstripout), run where the agent has no say.
//!
//! git runs a driver in the top folder of the work tree. Of a session that folder is the agent's: `python3 -m stripit` would run the
//! agent's `stripit.py`, as the developer and outside the wall. So git runs none there (libgit2 has none), and what the *developer*
//! configured is run here: in an empty folder of ours, the content on its standard input, the developer's repository as its repository.
//! A driver that is a file of the project is not found there; what that means for a file is told. What git-lfs does needs no program.

mod check_out;
pub(super) mod lfs;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::fcntl::OFlag;

pub(super) use check_out::{named, smudge, without};

use super::cli::Git;
use super::{Checkout, GitError};

/// The line of an attributes file that keeps git from running any driver, whatever the files of the work tree say: `info/attributes`
/// goes before them.
pub(super) const NO_FILTERS: &str = "\n* -filter\n";

/// What a driver may make of one file, at most.
const LARGEST: usize = 256 * 1024 * 1024;

/// The developer's drivers.
pub(super) struct Filters {
    checkout: Checkout,
    /// Where they run.
    empty: PathBuf,
    /// What git-lfs has in the developer's repository.
    pub(super) store: lfs::Store,
    drivers: OnceLock<BTreeMap<String, Driver>>,
}

/// `filter.<name>.*` of the developer's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Driver {
    clean: String,
    smudge: String,
    /// Content that could not be filtered must not be stored.
    pub(super) required: bool,
    /// What git-lfs installs, with nothing added to it.
    pub(super) is_lfs: bool,
}

/// What became of a file's content.
#[derive(Debug)]
pub(super) enum Cleaned {
    /// The driver does nothing in this direction.
    AsIs,
    Bytes(Vec<u8>),
    /// It could not be run here.
    Failed,
}

impl Filters {
    /// `state` is the supervisor's own folder for the session.
    pub(super) fn new(checkout: &Checkout, state: &Path) -> Self {
        let store = lfs::Store::of(checkout);
        Self { checkout: checkout.clone(), empty: state.join("empty"), store, drivers: OnceLock::new() }
    }

    /// The driver of that name, if the developer has one.
    pub(super) fn driver(&self, name: &str) -> Result<Option<&Driver>, GitError> {
        if self.drivers.get().is_none() {
            let listed = self.checkout.git("read git's filters").args(["config", "--list", "-z", "--includes"]).output()?;
            let _ = self.drivers.set(drivers_in(&String::from_utf8_lossy(&listed)));
            // What a driver left there the last time is not for the next.
            let _ = fs_err::remove_dir_all(&self.empty);
        }
        Ok(self.drivers.get().and_then(|drivers| drivers.get(name)))
    }

    /// What is to be stored for a file of the work tree.
    pub(super) fn clean(&self, driver: &Driver, path: &[u8], mut content: File) -> Result<Cleaned, GitError> {
        if driver.is_lfs {
            let pointer = self.store.clean(&mut content).map_err(GitError::io("store what git-lfs would in", self.store.path()))?;
            return Ok(Cleaned::Bytes(pointer));
        }
        if driver.clean.is_empty() { Ok(Cleaned::AsIs) } else { Ok(self.run(&driver.clean, path, content)) }
    }

    fn run(&self, command: &str, path: &[u8], mut content: File) -> Cleaned {
        let run = || -> Result<Option<Vec<u8>>, GitError> {
            fs_err::create_dir_all(&self.empty).map_err(GitError::io("create", &self.empty))?;
            content.rewind().map_err(GitError::io("read again from", &self.checkout.root))?;
            let script = with_name(command, &String::from_utf8_lossy(path));
            let shell = Git::shell("run a filter", &self.checkout.env, &self.empty, &script);
            let shell = shell.env("GIT_DIR", &self.checkout.git_dir).env("GIT_WORK_TREE", &self.empty).env("PWD", &self.empty);
            let ended = shell.stdin(content).run_limited(LARGEST)?;
            Ok(ended.success.then_some(ended.stdout))
        };
        run().ok().flatten().map_or(Cleaned::Failed, Cleaned::Bytes)
    }
}

/// A regular file of the agent's folder, by no link on the way; `None` where there is none.
pub(super) fn open_beneath(root: &Path, path: &Path) -> Option<File> {
    // NONBLOCK: a named pipe in the file's place must not hold us.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let opened = beneath(root, path, flags)
        .unwrap_or_else(|| std::fs::OpenOptions::new().read(true).custom_flags(flags.bits()).open(root.join(path)));
    opened.ok().filter(|file| file.metadata().is_ok_and(|meta| meta.is_file()))
}

#[cfg(target_os = "linux")]
fn beneath(root: &Path, path: &Path, flags: OFlag) -> Option<io::Result<File>> {
    use nix::fcntl::{OpenHow, ResolveFlag, openat2};
    let top = File::open(root).ok()?;
    let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    match openat2(&top, path, how) {
        Err(nix::errno::Errno::ENOSYS) => None,
        other => Some(other.map(File::from).map_err(io::Error::from)),
    }
}

#[cfg(target_os = "macos")]
fn beneath(_: &Path, _: &Path, _: OFlag) -> Option<io::Result<File>> {
    None
}

fn drivers_in(listed: &str) -> BTreeMap<String, Driver> {
    let mut drivers: BTreeMap<String, Driver> = BTreeMap::new();
    let mut extended = false;
    for entry in listed.split('\0') {
        let (key, value) = entry.split_once('\n').unwrap_or((entry, "true"));
        extended |= key.starts_with("lfs.extension.");
        let Some((name, variable)) = key.strip_prefix("filter.").and_then(|rest| rest.rsplit_once('.')) else { continue };
        let driver = drivers.entry(name.to_owned()).or_default();
        match variable {
            "clean" => value.clone_into(&mut driver.clean),
            "smudge" => value.clone_into(&mut driver.smudge),
            "required" => driver.required = !matches!(value.to_ascii_lowercase().as_str(), "" | "false" | "no" | "off" | "0"),
            _ => {}
        }
    }
    for driver in drivers.values_mut() {
        driver.is_lfs = !extended && driver.clean.starts_with("git-lfs clean");
    }
    drivers
}

/// The command with `%f` as git puts it in: the file's path, quoted.
fn with_name(command: &str, path: &str) -> String {
    let quoted = format!("'{}'", path.replace('\'', r"'\''"));
    command.split("%%").map(|part| part.replace("%f", &quoted)).collect::<Vec<_>>().join("%")
}

fn read(mut file: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map(|_| bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_are_read_as_git_reads_them() {
        let listed = "filter.a.b.clean\ntr a b\0filter.a.b.required\0filter.x.clean\nold\0filter.x.clean\nnew\0filter.x.required\nno\0";
        let drivers = drivers_in(listed);
        assert_eq!(drivers["a.b"], Driver { clean: "tr a b".into(), required: true, ..Driver::default() });
        assert_eq!(drivers["x"], Driver { clean: "new".into(), ..Driver::default() });
        let lfs = "filter.lfs.clean\ngit-lfs clean -- %f\0";
        assert!(drivers_in(lfs)["lfs"].is_lfs);
        assert!(!drivers_in(&format!("{lfs}lfs.extension.x.clean\ny\0"))["lfs"].is_lfs, "extensions are programs");
    }

    #[test]
    fn a_name_cannot_leave_its_quotes() {
        assert_eq!(with_name("c %f 100%%f", "a'; rm -rf ~ #"), r"c 'a'\''; rm -rf ~ #' 100%f");
    }

    #[test]
    fn a_link_on_the_way_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        std::fs::write(dir.path().join("real/file"), "x").unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink("real/file", dir.path().join("name")).unwrap();
        nix::unistd::mkfifo(&dir.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let opens = |path: &str| open_beneath(dir.path(), Path::new(path)).is_some();
        assert!(opens("real/file"));
        assert!(!opens("link/file") && !opens("name") && !opens("pipe") && !opens("real") && !opens("none"));
    }
}
