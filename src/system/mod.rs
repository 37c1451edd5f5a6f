//! What the kernel tells of processes: who there is, from whom they descend, what they run and in which environment. Only reading.
//!
//! One room for each system, with the same doors: `linux` reads `/proc`; `macos` asks sysctl(3) and libproc, and is **untested**: it was written
//! from Apple's headers and compiled, and has never been run. What it reads is taken apart in `kinfo`, which is tested everywhere.

#[cfg(any(target_os = "macos", test))]
mod kinfo;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

use std::path::{Path, PathBuf};
use std::time::Duration;

#[cfg(target_os = "linux")]
use linux as here;
#[cfg(target_os = "macos")]
use macos as here;

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
compile_error!("sentrely runs on Linux and macOS");

/// A process, known by its number *and* its start time, so that a number that is used again is never taken for the old one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// The first 15 (Linux) or 16 bytes of its program's name.
    pub comm: String,
    /// `R`, `S`, `D`, `T`, `Z` ... A `Z` may be a group leader whose other threads still run: see [`Process::is_dead`].
    pub state: char,
    /// The number of its parent.
    pub parent: i32,
    /// Its process group.
    pub group: i32,
    /// Its session.
    pub session: i32,
    /// How many threads it has; macOS does not tell, and has no zombies with living ones.
    pub threads: u32,
    /// In clock ticks since boot (Linux), in microseconds since 1970 (macOS).
    pub start: u64,
}

impl Process {
    /// `None` if there is no such process (any more).
    pub fn read(pid: i32) -> Option<Self> {
        here::read(pid)
    }

    /// Whether this very process is still there, as a zombie too.
    pub fn is_there(&self) -> bool {
        Self::read(self.pid).is_some_and(|now| now.is(self))
    }

    /// Whether this very process is still there, and not only waits to be reaped.
    pub fn lives(&self) -> bool {
        Self::read(self.pid).is_some_and(|now| now.is(self) && !now.is_dead())
    }

    /// Whether nothing of it can run any more. One whose main thread alone has ended shows as a zombie, and runs.
    pub const fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X') && self.threads <= 1
    }

    /// Whether the two are one process, seen twice.
    pub const fn is(&self, other: &Self) -> bool {
        self.pid == other.pid && self.start == other.start
    }
}

/// The numbers of all processes, as far as they can be seen.
pub fn pids() -> impl Iterator<Item = i32> {
    here::pids()
}

/// All processes at one moment, zombies too.
#[cfg(target_os = "macos")]
pub fn processes() -> Vec<Process> {
    here::processes()
}

/// Numbers that are given once in a boot.
#[cfg(any(target_os = "macos", test))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lineage {
    /// The process's own.
    pub own: u64,
    /// That of the process that forked it, whoever is its parent now.
    pub parent: u64,
}

/// By whom a process was forked.
#[cfg(target_os = "macos")]
pub fn lineage(pid: i32) -> Option<Lineage> {
    here::lineage(pid)
}

/// The number that was given to the newest process. `None` where that is not told (macOS).
pub fn newest() -> Option<i32> {
    here::newest()
}

/// How long before now a process with a given start time began.
pub fn ages() -> Option<impl Fn(u64) -> Duration> {
    here::ages()
}

/// The file that a process runs.
pub fn executable(pid: i32) -> Option<PathBuf> {
    here::executable(pid)
}

/// A process's arguments, the program's own name first, each ended by a NUL. Empty if they cannot be read.
pub fn command_line(pid: i32) -> Vec<u8> {
    here::command_line(pid).unwrap_or_default()
}

/// The environment that a process was started with, each `NAME=value` ended by a NUL. `None` if it may not be read.
pub fn environment(pid: i32) -> Option<Vec<u8>> {
    here::environment(pid)
}

/// The signals that a process ignores, bit n-1 for signal n. 0 if that cannot be read.
pub fn ignored_signals(pid: i32) -> u64 {
    here::ignored_signals(pid).unwrap_or(0)
}

/// Where a process works.
pub fn working_directory(pid: i32) -> Option<PathBuf> {
    here::working_directory(pid)
}

/// Where this absolute path leads a process, without symbolic links: on Linux it may have another root than we have. As it was if that cannot
/// be found out.
pub fn resolved_for(pid: i32, path: &Path) -> PathBuf {
    here::resolved_for(pid, path).unwrap_or_else(|| path.to_owned())
}

/// This boot's id, empty where the system tells none.
pub fn boot_id() -> String {
    here::boot_id().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_finds_itself_and_its_parent() {
        let me = Process::read(std::process::id().cast_signed()).unwrap();
        assert!(me.start > 0 && !me.comm.is_empty() && me.threads > 0);
        assert!(me.is_there() && me.lives() && pids().any(|pid| pid == me.pid));
        assert_eq!(me.parent, std::os::unix::process::parent_id().cast_signed());
        assert!(!Process { start: me.start + 1, ..me.clone() }.is_there());
        assert!(ages().unwrap()(me.start) < Duration::from_hours(24));
    }

    #[test]
    fn what_a_process_runs_and_where_is_read_back() {
        use std::io::{Read, Write};
        use std::process::{Command, Stdio};
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().canonicalize().unwrap();
        // cat, run by a shell that has it ignore SIGUSR1, which nobody else does.
        let mut child = Command::new("/bin/sh")
            .args(["-c", "trap '' USR1; echo here; exec /bin/cat -"])
            .env_clear()
            .env("MARK", "of the test")
            .current_dir(&place)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = child.id().cast_signed();
        // What it is asked it answers only once it runs.
        child.stdin.as_mut().unwrap().write_all(b"cat\n").unwrap();
        let mut said = [0; 9];
        child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
        assert_eq!(&said, b"here\ncat\n");
        assert_eq!(executable(pid), Path::new("/bin/cat").canonicalize().ok());
        let bit = |signal: i32| 1_u64 << (signal - 1);
        assert_eq!(ignored_signals(pid) & (bit(libc::SIGUSR1) | bit(libc::SIGUSR2)), bit(libc::SIGUSR1));
        assert_eq!(command_line(pid), b"/bin/cat\0-\0");
        let environment_of_child = environment(pid).unwrap();
        assert!(environment_of_child.split(|byte| *byte == 0).any(|entry| entry == b"MARK=of the test"));
        assert_eq!(working_directory(pid), Some(place.clone()));
        assert_eq!(resolved_for(pid, &place.join(".")), place);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!((executable(pid), environment(pid), working_directory(pid), ignored_signals(pid)), (None, None, None, 0));
    }
}
