//! What a test may need from the machine, and what happens when it is not there.
//!
//! A test asks with [`needs!`](crate::needs). With `SENTRELY_TEST_COMPONENTS=require` (CI) a missing component fails the test, with
//! `require-as-user` one that an ordinary user can have; otherwise the test is skipped, and says so: a row `test | why` goes to the terminal
//! past the test runner's capture, and into `target/skipped-tests.txt`, which holds the skips of each test's latest run. The last of the test
//! programs, `tests/skipped.rs`, prints that table.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Something a test needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Component {
    /// The tests run as root.
    Root,
    /// The tests run as an ordinary user.
    OrdinaryUser,
    /// Files in /proc: Linux.
    Proc,
    /// A user may make namespaces.
    Namespaces,
    /// A cgroup v2 in which we may make children.
    Cgroup,
    /// The freezer of cgroup v1, which holds a process as the kernel does in D state.
    Freezer,
    /// A `python3` that makes virtual environments, in which the programs of [`super::python`] are installed.
    Venv,
    /// A program in PATH.
    Program(&'static str),
}

/// A writable cgroup v2.
pub(crate) const CGROUP: Component = Component::Cgroup;
/// The v1 freezer.
pub(crate) const FREEZER: Component = Component::Freezer;
/// `npm`: installs the real Claude Code.
pub(crate) const NPM: Component = Component::Program("npm");
/// `python3`.
pub(crate) const PYTHON: Component = Component::Program("python3");
/// `python3` with venv (Debian: python3-venv).
pub(crate) const VENV: Component = Component::Venv;
/// `sshd`.
pub(crate) const SSHD: Component = Component::Program("sshd");
/// `nginx`.
pub(crate) const NGINX: Component = Component::Program("nginx");
/// `zsh`.
pub(crate) const ZSH: Component = Component::Program("zsh");
/// `tmux`.
pub(crate) const TMUX: Component = Component::Program("tmux");

/// Skips the calling test unless every [`Component`] is there: `needs!(NPM, Component::Root);`
#[macro_export]
macro_rules! needs {
    ($($component:expr),+ $(,)?) => {
        if !$crate::support::components::all_there(&[$($component),+]) {
            return;
        }
    };
}

/// Whether all are there; if not, the skip is recorded. Use [`needs!`](crate::needs).
pub(crate) fn all_there(components: &[Component]) -> bool {
    if let Some((component, why)) = components.iter().find_map(|component| Some((*component, component.missing()?))) {
        record(&why, component.is_for_root_alone());
        false
    } else {
        forget();
        true
    }
}

/// Records that the calling test is skipped; fails it where components are required.
pub(crate) fn skip(why: &str) {
    record(why, false);
}

/// Records that the calling test is skipped for what no package brings: a feature of the kernel's. It is listed wherever it runs.
pub(crate) fn skip_on_this_kernel(why: &str) {
    tell_skipped(why);
}

fn record(why: &str, for_root_alone: bool) {
    let required = match std::env::var("SENTRELY_TEST_COMPONENTS").as_deref() {
        Ok("require") => true,
        Ok("require-as-user") => !for_root_alone,
        _ => false,
    };
    assert!(!required, "a component is missing: {why}");
    tell_skipped(why);
}

fn tell_skipped(why: &str) {
    let row = format!("{} | {why}\n", this_test());
    // libtest captures what the print macros write, not the stream itself.
    let _ = std::io::stderr().write_all(format!("skipped | {row}").as_bytes());
    if let Err(error) = note(&table(), &this_test(), Some(&row)) {
        let _ = writeln!(std::io::stderr(), "could not note the skipped test: {error}");
    }
}

/// A test that was skipped before and is not now has no row any more.
fn forget() {
    let test = this_test();
    let is_noted = std::fs::read_to_string(table()).is_ok_and(|rows| rows.lines().any(|row| row.split(" | ").next() == Some(&test)));
    if is_noted {
        let _ = note(&table(), &test, None);
    }
}

fn this_test() -> String {
    std::thread::current().name().unwrap_or("a test").to_owned()
}

fn table() -> PathBuf {
    target_dir().join("skipped-tests.txt")
}

/// Cargo's target directory.
pub(crate) fn target_dir() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().to_path_buf()
}

/// Whether a program is in PATH.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let sbin = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(sbin).map(|dir| dir.join(name)).find(|path| path.is_file())
}

impl Component {
    /// Whether no ordinary user has it.
    const fn is_for_root_alone(self) -> bool {
        matches!(self, Self::Root | Self::Cgroup | Self::Freezer)
    }

    /// Why it is not there.
    fn missing(self) -> Option<String> {
        let root = nix::unistd::Uid::effective().is_root();
        let (there, why) = match self {
            Self::Root => (root, "not root".into()),
            Self::OrdinaryUser => (!root, "root, and the test is about an ordinary user".into()),
            Self::Proc => (Path::new("/proc/self/task").exists(), "no /proc".into()),
            Self::Namespaces => (can_unshare(), "namespaces are not allowed here".into()),
            Self::Cgroup => (can_make_cgroups(), "no cgroup v2 that may be written".into()),
            Self::Venv => (can_make_venvs(), "no python3 with venv (Debian: python3-venv)".into()),
            Self::Freezer => (Path::new("/sys/fs/cgroup/freezer/cgroup.procs").exists(), "no v1 freezer".into()),
            Self::Program(name) => (find_program(name).is_some(), format!("no {name} in PATH")),
        };
        (!there).then_some(why)
    }
}

fn can_make_cgroups() -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let point = mounts.lines().find(|line| line.contains(" - cgroup2 ")).and_then(|line| line.split(' ').nth(4));
    let Some(point) = point else { return false };
    // From several tests at once.
    let probe = Path::new(point).join(format!("probe-{}-{:?}", std::process::id(), std::thread::current().id()).replace(['(', ')'], ""));
    let made = std::fs::create_dir(&probe).is_ok() && probe.join("cgroup.kill").exists();
    let _ = std::fs::remove_dir(&probe);
    made
}

/// `venv` alone is not enough: without `ensurepip` the environment has no pip.
fn can_make_venvs() -> bool {
    static CAN: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *CAN.get_or_init(|| {
        let mut python = Command::new("python3");
        python.args(["-c", "import venv, ensurepip"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        python.status().is_ok_and(|status| status.success())
    })
}

fn can_unshare() -> bool {
    let mut unshare = Command::new("unshare");
    unshare.args(["--user", "--map-root-user", "--mount", "true"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    unshare.status().is_ok_and(|status| status.success())
}

/// Adds the row to the table of skips, in place of an older one of the same test; without one that is only removed.
fn note(path: &Path, test: &str, row: Option<&str>) -> std::io::Result<()> {
    let mut file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
    file.lock()?;
    let mut table = String::new();
    file.read_to_string(&mut table)?;
    let others = table.lines().filter(|line| line.split(" | ").next() != Some(test));
    let mut rows: Vec<String> = others.map(|line| format!("{line}\n")).collect();
    rows.extend(row.map(str::to_owned));
    rows.sort();
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(rows.concat().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_skips_has_one_row_a_test_with_its_latest_reason() {
        let dir = tempfile::tempdir().unwrap();
        let table = dir.path().join("skipped-tests.txt");
        for (test, row) in [("b", "b | no npm\n"), ("a", "a | not root\n"), ("b", "b | no sshd\n")] {
            note(&table, test, Some(row)).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&table).unwrap(), "a | not root\nb | no sshd\n");
        note(&table, "a", None).unwrap();
        assert_eq!(std::fs::read_to_string(&table).unwrap(), "b | no sshd\n");
    }

    #[test]
    fn a_program_that_is_nowhere_is_missing_and_one_in_the_path_is_not() {
        assert_eq!(Component::Program("sentrely-nowhere").missing(), Some("no sentrely-nowhere in PATH".into()));
        assert_eq!(Component::Program("sh").missing(), None);
    }
}
