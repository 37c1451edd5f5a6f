//! What is left of a session whose supervisor and guardian are gone: found by what its processes cannot easily shed, and ended.
//!
//! The marks: the session's id in the environment; the command itself by number and start time; a mount namespace of the session's wall,
//! whose mounts carry the session's id, also in the copies that nested sandboxes make of it; and descent from any of these. Behind the full
//! wall that finds every process. Without it, one that cleared its environment and that an ended process left to init is not found.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::model::{SessionId, Survivor, SurvivorReason};
use crate::system::{Process, newest, pids};

/// The variable that marks the processes of a session; its value is the session's full id.
pub const MARKER: &str = "SENTRELY_RUN_ID";

/// How long it goes on without a new process appearing or a known one going.
const PATIENCE: Duration = Duration::from_secs(3);
/// However much progress there is.
const UTMOST: Duration = Duration::from_secs(30);
/// The same where none of those that are left may be signalled.
const PATIENCE_WITH_REFUSALS: Duration = Duration::from_millis(200);
/// New processes are looked at for this long after the last one of the session's ...
const QUIET: Duration = Duration::from_millis(100);
/// ... and so often ...
const QUIET_LOOKS: u32 = 200;
/// ... and for this long at most before all are looked at again.
const LONGEST_CHASE: Duration = Duration::from_secs(5);
/// How often there may be a new one.
const BETWEEN_LOOKS: Duration = Duration::from_micros(100);
/// How often it is looked for meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What a session's processes are known by.
pub(super) struct Marks {
    id: String,
    /// The number and start time of the last attempt's command, where they are known.
    command: Option<(i32, u64)>,
    /// It ran behind the full wall.
    walled: bool,
}

impl Marks {
    pub(super) fn new(id: SessionId, command: Option<(i32, u64)>, walled: bool) -> Self {
        Self { id: id.to_string(), command, walled }
    }

    /// Ends every process that belongs to the session; returns how many went, and those that did not.
    pub(super) fn end_all(&self) -> (u32, Vec<Survivor>) {
        end(|visit| {
            let from = newest();
            self.find(visit);
            self.chase(from, visit);
        })
    }

    /// Visits the processes that carry a mark, and everything below these; not this process itself.
    fn find(&self, visit: &mut dyn FnMut(Process)) {
        let me = i32::try_from(std::process::id()).unwrap_or(0);
        let own_mounts = own_mounts();
        let (mut above, mut others) = (HashSet::new(), Vec::new());
        for process in pids().filter(|pid| *pid != me).filter_map(Process::read).filter(|process| !process.is_dead()) {
            if self.mark(&process, own_mounts.as_deref()) {
                above.insert(process.pid);
                visit(process);
            } else {
                others.push(process);
            }
        }
        while !above.is_empty() {
            let (below, rest) = others.into_iter().partition::<Vec<_>, _>(|process| above.contains(&process.parent));
            others = rest;
            // The same process as when it was looked at: not one that has its number now.
            let below: Vec<Process> = below.into_iter().filter(Process::lives).collect();
            above = below.iter().map(|process| process.pid).collect();
            below.into_iter().for_each(&mut *visit);
        }
    }

    /// What hands itself on from process to process every few milliseconds has gone on by the end of any list of processes: the numbers
    /// that were given out since `from` are looked at as they come, until none of the session's has come for a while.
    fn chase(&self, from: Option<i32>, visit: &mut dyn FnMut(Process)) {
        let Some(mut from) = from else { return };
        let own_mounts = own_mounts();
        let (began, mut quiet_since) = (Instant::now(), Instant::now());
        // A number is given out before its process can be seen, and on a busy machine long before.
        let mut unseen: Vec<(i32, Instant)> = Vec::new();
        let mut quiet_looks = 0;
        // Time alone says nothing where others take the processor: it may pass between two looks.
        while (quiet_since.elapsed() < QUIET || quiet_looks < QUIET_LOOKS) && began.elapsed() < LONGEST_CHASE {
            quiet_looks += 1;
            // Past the greatest number it begins again from the lowest: the next list finds those.
            let Some(last) = newest().filter(|last| *last >= from) else { return };
            let now = Instant::now();
            // The newest first: those still live.
            unseen.splice(0..0, (from + 1..=last).rev().map(|pid| (pid, now)));
            unseen.retain(|(pid, since)| {
                let Some(process) = Process::read(*pid) else { return since.elapsed() < QUIET };
                if !process.is_dead() && self.mark(&process, own_mounts.as_deref()) {
                    visit(process);
                    (quiet_since, quiet_looks) = (Instant::now(), 0);
                }
                false
            });
            from = last;
            std::thread::sleep(BETWEEN_LOOKS);
        }
    }

    fn mark(&self, process: &Process, own_mounts: Option<&Path>) -> bool {
        self.command == Some((process.pid, process.start))
            || carries(process, &self.id)
            || (self.walled && is_behind_wall_of(process, &self.id, own_mounts))
    }
}

fn own_mounts() -> Option<PathBuf> {
    fs::read_link("/proc/self/ns/mnt").ok()
}

/// The processes of this user that carry the session's mark, each `pid name`: what is left of it, or runs of it.
pub fn marked_processes(id: SessionId) -> Vec<String> {
    let mut found = Vec::new();
    Marks::new(id, None, false).find(&mut |process| found.push(format!("{} {}", process.pid, process.comm)));
    found
}

/// Those of `survivors` that are still there. One whose start time was not recorded cannot be told from another with its number.
pub(super) fn still_there(survivors: &[Survivor]) -> Vec<Survivor> {
    survivors.iter().filter(|survivor| found(survivor).is_some()).cloned().collect()
}

/// Tries once more to end those of `survivors` that are still there; returns what is left of them.
pub(super) fn end_these(survivors: &[Survivor]) -> Vec<Survivor> {
    end(|visit| survivors.iter().filter_map(found).for_each(visit)).1
}

fn found(survivor: &Survivor) -> Option<Process> {
    Process::read(survivor.pid).filter(|now| Some(now.start) == survivor.start && !now.is_dead())
}

/// Again and again, as a process may fork between the look and the signal: until a look finds nothing, or waiting is of no use.
fn end(find: impl Fn(&mut dyn FnMut(Process))) -> (u32, Vec<Survivor>) {
    let (mut seen, mut refused): (Vec<Process>, HashSet<i32>) = (Vec::new(), HashSet::new());
    let began = Instant::now();
    let (mut progress, mut left_before, mut empty_looks) = (began, 0, 0);
    loop {
        let (mut found_any, known) = (false, seen.len());
        find(&mut |process| {
            found_any = true;
            if process.lives() && kill(Pid::from_raw(process.pid), Signal::SIGKILL) == Err(Errno::EPERM) {
                refused.insert(process.pid);
            }
            if !seen.iter().any(|known| known.is(&process)) {
                seen.push(process);
            }
        });
        let left: Vec<&Process> = seen.iter().filter(|process| process.lives()).collect();
        if seen.len() > known || left.len() < left_before {
            progress = Instant::now();
        }
        left_before = left.len();
        let hopeless = !left.is_empty() && left.iter().all(|process| refused.contains(&process.pid));
        let patience = if hopeless { PATIENCE_WITH_REFUSALS } else { PATIENCE };
        empty_looks = if left.is_empty() && !found_any { empty_looks + 1 } else { 0 };
        // One look may miss what is handed on meanwhile.
        let is_over = empty_looks > u32::from(!seen.is_empty());
        if is_over || progress.elapsed() >= patience || began.elapsed() >= UTMOST {
            let survivors = left.iter().map(|process| survivor(process, &refused)).collect();
            return (u32::try_from(seen.len() - left.len()).unwrap_or(u32::MAX), survivors);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The directories of a process's threads in `/proc`: the process itself, unless its main thread has ended.
fn threads(process: &Process) -> Vec<String> {
    let whole = format!("/proc/{}", process.pid);
    if process.state != 'Z' {
        return vec![whole];
    }
    let tasks = fs::read_dir(format!("{whole}/task")).into_iter().flatten().flatten();
    tasks.map(|task| task.path().display().to_string()).collect()
}

/// Whether it is a process of this user that has the session's id in its environment.
#[cfg(target_os = "linux")]
fn carries(process: &Process, id: &str) -> bool {
    use std::os::unix::fs::MetadataExt;
    let ours = |path: &str| fs::metadata(path).is_ok_and(|meta| meta.uid() == nix::unistd::geteuid().as_raw());
    threads(process).iter().filter(|path| ours(path)).any(|path| fs::read(format!("{path}/environ")).is_ok_and(|all| is_in(&all, id)))
}

/// Whether it is a process of this user that has the session's id in its environment. Of others' macOS does not tell it.
#[cfg(target_os = "macos")]
fn carries(process: &Process, id: &str) -> bool {
    crate::system::environment(process.pid).is_some_and(|all| is_in(&all, id))
}

fn is_in(environment: &[u8], id: &str) -> bool {
    let marker = format!("{MARKER}={id}");
    environment.split(|byte| *byte == 0).any(|variable| variable == marker.as_bytes())
}

/// Whether it sees the session's own mounts, from a mount namespace that is not ours. What hides from being looked at still shows these.
fn is_behind_wall_of(process: &Process, id: &str, own_mounts: Option<&Path>) -> bool {
    threads(process).iter().any(|path| {
        let elsewhere = fs::read_link(format!("{path}/ns/mnt")).map_or(true, |mounts| Some(mounts.as_path()) != own_mounts);
        elsewhere && fs::read_to_string(format!("{path}/mountinfo")).is_ok_and(|mounts| names(&mounts, id))
    })
}

fn survivor(process: &Process, refused: &HashSet<i32>) -> Survivor {
    let why = if refused.contains(&process.pid) {
        SurvivorReason::Setuid
    } else if Process::read(process.pid).is_some_and(|now| now.state == 'D') {
        SurvivorReason::DState
    } else {
        SurvivorReason::StillExiting
    };
    Survivor { pid: process.pid, comm: process.comm.clone(), start: Some(process.start), why }
}

/// Whether a mount of this list leads through a directory of the session's name.
fn names(mountinfo: &str, id: &str) -> bool {
    mountinfo.lines().any(|line| line.split(' ').skip(3).take(2).any(|path| path.split('/').any(|part| part == id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> Process {
        Process::read(i32::try_from(std::process::id()).unwrap()).unwrap()
    }

    #[test]
    fn a_survivor_is_the_process_of_its_start_time_and_no_other_with_its_number() {
        let of = |start| Survivor { pid: me().pid, comm: "x".into(), start, why: SurvivorReason::Setuid };
        let start = me().start;
        assert_eq!(still_there(&[of(Some(start)), of(Some(start + 1)), of(None)]), [of(Some(start))]);
    }

    #[test]
    fn the_mounts_of_a_wall_are_known_by_the_sessions_whole_id() {
        let id = "7e26c6e3-91d7-4687-a2e7-3f4db3c1f760";
        let line = |path: &str| format!("182 181 254:0 / / rw - ext4 /dev/vda rw\n309 182 0:39 / {path} ro,nosuid - tmpfs none rw\n");
        assert!(names(&line(&format!("/var/tmp/sentrely-0/{id}/empty")), id));
        assert!(names(&line(&format!("/state/sessions/{id}")), id));
        assert!(!names(&line(&format!("/state/sessions/{id}x")), id));
        assert!(!names(&line("/state/sessions"), id));
    }
}
