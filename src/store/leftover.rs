//! A cgroup that outlived its session because supervisor and guardian died at once: whatever is in it is the session's, however it was
//! started and whatever it did to its environment.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long its processes may take to go.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often they are looked for meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Ends all that is in the cgroup at `dir` and removes it; returns how many there were at first. Does nothing where there is no such cgroup
/// of a session.
pub(super) fn end_cgroup(dir: &Path) -> u32 {
    let is_ours = dir.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("sentrely-"));
    let mut file = match OpenOptions::new().write(true).open(dir.join("cgroup.kill")) {
        Ok(file) if is_ours => file,
        _ => return 0,
    };
    let first = members(dir).len();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let _ = file.write_all(b"1");
        // One whose main thread has exited is not ended by that.
        for pid in members(dir) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        if fs::remove_dir(dir).is_ok() || Instant::now() >= deadline {
            return u32::try_from(first).unwrap_or(u32::MAX);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn members(dir: &Path) -> Vec<i32> {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    // 0 stands for a process of another PID namespace.
    text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_sessions_cgroup_is_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        let other = temp.path().join("user.slice");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("cgroup.kill"), "").unwrap();
        fs::write(other.join("cgroup.procs"), std::process::id().to_string()).unwrap();
        assert_eq!(end_cgroup(&other), 0);
        assert_eq!(fs::read_to_string(other.join("cgroup.kill")).unwrap(), "");
        assert_eq!(end_cgroup(&temp.path().join("sentrely-gone")), 0);
    }
}
