//! A cgroup (v2) of the session's own, as a child of the one that sentrely runs in, where that may have children: as root, or where
//! the user's part of the hierarchy was delegated (systemd does for desktop sessions and `systemd-run --user --scope`).
//!
//! The agent's process enters it by itself between fork and exec, so nothing of it is ever outside, and `cgroup.kill` then reaches all of
//! it at once, setuid programs too. It is a rung, never the whole ladder: a process may move itself to another cgroup that the user may
//! write, and `cgroup.kill` does not end a process whose main thread has exited (facts/PROCESS.md section 1). The sweep finds those.
//!
//! The number of its tasks is limited where the pids controller can be had for it, so that a fork bomb fills it and not the machine.
//! It is never put anywhere but below our own, as the limits that somebody set for us are the session's too.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

/// What our cgroups' names begin with.
const PREFIX: &str = "sentrely-";
/// How deep cgroups that the agent made in its own are removed.
const DEEPEST: u32 = 8;

/// The session's cgroup. It outlives this value: call [`Cgroup::remove`].
#[derive(Debug)]
pub struct Cgroup {
    dir: PathBuf,
    /// Opened beforehand, so that the kill is one write. `None` before Linux 5.14.
    kill: Option<File>,
    limit: Option<u64>,
}

impl Cgroup {
    /// Makes one that nobody else has. `None` where there is no cgroup v2, or ours may have no children, or it has no `cgroup.kill`.
    pub fn make(name: &str) -> Option<Self> {
        let own = own()?;
        let dir = own.join(format!("{PREFIX}{name}-{}", std::process::id()));
        fs::create_dir(&dir).ok()?;
        let mut made = Self::at(dir);
        if made.kill.is_none() || made.entrance().is_err() {
            made.remove();
            return None;
        }
        made.limit = limit_tasks(&own, &made.dir);
        Some(made)
    }

    /// The one that somebody made in this directory.
    pub(super) fn at(dir: PathBuf) -> Self {
        let kill = for_writing(&dir.join("cgroup.kill")).ok();
        Self { dir, kill, limit: None }
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// How many tasks it may have, if there is a limit.
    pub fn task_limit(&self) -> Option<u64> {
        self.limit
    }

    /// Where a process writes `0` to enter.
    pub(super) fn entrance(&self) -> io::Result<File> {
        for_writing(&self.dir.join("cgroup.procs"))
    }

    /// Whether the process is in it.
    pub(super) fn holds(&self, pid: i32) -> bool {
        let Some(name) = self.dir.file_name().and_then(|name| name.to_str()) else { return false };
        let memberships = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        memberships.lines().filter_map(|line| line.strip_prefix("0::")).any(|path| path.split('/').any(|part| part == name))
    }

    /// SIGKILL to everything in it and below it, at once. Returns whether that was possible.
    pub(super) fn kill(&self) -> bool {
        self.kill.as_ref().is_some_and(|mut file| file.write_all(b"1").is_ok())
    }

    /// Whether no process is in it or below it.
    pub(super) fn is_empty(&self) -> bool {
        let events = fs::read_to_string(self.dir.join("cgroup.events")).unwrap_or_default();
        !events.lines().any(|line| line == "populated 1")
    }

    /// Lets a process go on in the cgroup above, where sentrely itself is.
    pub(super) fn release(&self, pid: i32) {
        if let Some(above) = self.dir.parent() {
            let _ = for_writing(&above.join("cgroup.procs")).and_then(|mut file| file.write_all(pid.to_string().as_bytes()));
        }
    }

    /// Removes it, if nothing is in it any more.
    pub fn remove(&self) {
        remove(&self.dir, DEEPEST);
    }
}

/// With the cgroups that the agent made in it.
fn remove(dir: &Path, depth: u32) {
    if fs::remove_dir(dir).is_ok() || depth == 0 {
        return;
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path(), depth - 1);
        }
    }
    let _ = fs::remove_dir(dir);
}

/// Half of what the machine has room for, where the pids controller can be had: by itself for children of our cgroup, or, where processes
/// and controllers may share one (the root), by asking.
fn limit_tasks(own: &Path, dir: &Path) -> Option<u64> {
    let file = dir.join("pids.max");
    if !file.exists() {
        for_writing(&own.join("cgroup.subtree_control")).and_then(|mut file| file.write_all(b"+pids")).ok()?;
    }
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let room = number("/proc/sys/kernel/pid_max")?.min(number("/proc/sys/kernel/threads-max")?);
    let limit = (room / 2).max(1);
    for_writing(&file).and_then(|mut file| file.write_all(limit.to_string().as_bytes())).ok()?;
    Some(limit)
}

/// Nothing is created: in a cgroup's directory only the kernel makes files.
fn for_writing(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).open(path)
}

/// The directory of the cgroup that we are in.
fn own() -> Option<PathBuf> {
    let memberships = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = memberships.lines().find_map(|line| line.strip_prefix("0::"))?;
    directory_of(Path::new(path), &fs::read_to_string("/proc/self/mountinfo").ok()?)
}

/// Where `path` of the v2 hierarchy is mounted.
fn directory_of(path: &Path, mounts: &str) -> Option<PathBuf> {
    // Of a namespace that does not reach up to us.
    if path.components().any(|part| part == Component::ParentDir) {
        return None;
    }
    mounts.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        if filesystem.split(' ').next() != Some("cgroup2") {
            return None;
        }
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        // A blank in a mount point is written as \040: nobody mounts it there.
        (!point.contains('\\')).then_some(())?;
        Some(Path::new(point).join(path.strip_prefix(root).ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "25 30 0:23 / /proc rw,nosuid - proc proc rw\n\
        34 30 0:29 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";

    #[test]
    fn our_cgroup_is_found_below_its_mount_and_not_outside() {
        let found = directory_of(Path::new("/user.slice/a.scope"), MOUNTS);
        assert_eq!(found, Some("/sys/fs/cgroup/unified/user.slice/a.scope".into()));
        let inside = MOUNTS.replace("0:29 /", "0:29 /docker/7");
        assert_eq!(directory_of(Path::new("/docker/7/x"), &inside), Some("/sys/fs/cgroup/unified/x".into()));
        assert_eq!(directory_of(Path::new("/other"), &inside), None);
        assert_eq!(directory_of(Path::new("/../x"), MOUNTS), None);
    }

    #[test]
    fn the_limit_is_written_where_there_is_a_controller_and_asked_for_where_there_is_none() {
        let (own, without) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let dir = own.path().join("sentrely-x");
        fs::create_dir(&dir).unwrap();
        assert_eq!(limit_tasks(without.path(), &dir), None);
        fs::write(dir.join("pids.max"), "max").unwrap();
        let limit = limit_tasks(own.path(), &dir).unwrap();
        assert_eq!(fs::read_to_string(dir.join("pids.max")).unwrap(), limit.to_string());
        assert!(limit > 100);
    }
}
