//! Linux: `/proc`.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag};
use nix::sys::stat::Mode;
use nix::unistd::{SysconfVar, sysconf};

use super::Process;

pub(super) fn read(pid: i32) -> Option<Process> {
    // Lossy: comm is 15 arbitrary bytes.
    let bytes = fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse(&String::from_utf8_lossy(&bytes))
}

fn parse(stat: &str) -> Option<Process> {
    // comm may hold parentheses and blanks; the fields begin after the *last* parenthesis.
    let (head, fields) = stat.rsplit_once(')')?;
    let (pid, comm) = head.split_once(" (")?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    // proc(5) counts from 1, and state is field 3.
    let field = |number: usize| fields.get(number - 3).copied();
    Some(Process {
        pid: pid.trim().parse().ok()?,
        comm: comm.to_owned(),
        state: field(3)?.chars().next()?,
        parent: field(4)?.parse().ok()?,
        group: field(5)?.parse().ok()?,
        session: field(6)?.parse().ok()?,
        threads: field(20)?.parse().ok()?,
        start: field(22)?.parse().ok()?,
    })
}

pub(super) fn pids() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc").into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

pub(super) fn newest() -> Option<i32> {
    fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().nth(4)?.parse().ok()
}

pub(super) fn ages() -> Option<impl Fn(u64) -> Duration> {
    let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten();
    let ticks_per_second = ticks.and_then(|ticks| u64::try_from(ticks).ok()).filter(|ticks| *ticks > 0).unwrap_or(100);
    let now = uptime()?;
    Some(move |start: u64| now.saturating_sub(Duration::from_millis(start.saturating_mul(1000) / ticks_per_second)))
}

/// Since the boot, suspended time included, as process starts are counted.
fn uptime() -> Option<Duration> {
    let text = fs::read_to_string("/proc/uptime").ok()?;
    Duration::try_from_secs_f64(text.split_ascii_whitespace().next()?.parse().ok()?).ok()
}

pub(super) fn executable(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe")).ok()
}

pub(super) fn command_line(pid: i32) -> Option<Vec<u8>> {
    fs::read(format!("/proc/{pid}/cmdline")).ok()
}

pub(super) fn environment(pid: i32) -> Option<Vec<u8>> {
    fs::read(format!("/proc/{pid}/environ")).ok()
}

pub(super) fn ignored_signals(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

pub(super) fn working_directory(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/cwd")).ok()
}

pub(super) fn resolved_for(pid: i32, path: &Path) -> Option<PathBuf> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let root = nix::fcntl::open(format!("/proc/{pid}/root").as_str(), flags, Mode::empty()).ok()?;
    // Links that begin at the root begin at the process's own.
    let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_IN_ROOT);
    let open = nix::fcntl::openat2(&root, path.strip_prefix("/").ok()?, how).ok()?;
    fs::read_link(format!("/proc/self/fd/{}", open.as_raw_fd())).ok()
}

pub(super) fn boot_id() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|id| id.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_begin_after_the_last_parenthesis() {
        let stat = "4242 (evil) R 1 (x) S 7 8 9 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 3 0 987654 0 0\n";
        let expected =
            Process { pid: 4242, comm: "evil) R 1 (x".into(), state: 'S', parent: 7, group: 8, session: 9, threads: 3, start: 987_654 };
        assert_eq!(parse(stat), Some(expected));
        assert_eq!(parse("4242 (cut off) S 7"), None);
    }
}
