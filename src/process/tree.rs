//! The process tree below one thread of ours, read from `/proc` downwards.
//!
//! `/proc/PID/task/TID/children` gives a thread's children. The kernel may leave some out while others are ending, so one walk
//! is a glimpse, not a proof: whoever needs a proof walks again until waitpid says ECHILD ([`super::sweep`]).
//! Where the kernel has no such files (`CONFIG_PROC_CHILDREN`), `/proc` is listed instead.
//!
//! A process is known by its number *and* its start time, so a number that is used again is never taken for the old one.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::spawn::signal_exactly;

/// Whose children a walk begins with: those of one thread. The thread itself is not part of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Root {
    process: i32,
    thread: i32,
}

/// A process as `/proc/PID/stat` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) comm: String,
    /// `R`, `S`, `D`, `T`, `Z` ... A `Z` may be a group leader whose other threads still run: it counts as living.
    pub(super) state: char,
    pub(super) parent: i32,
    pub(super) group: i32,
    pub(super) session: i32,
    pub(super) threads: u32,
    /// In clock ticks since boot.
    pub(super) start: u64,
}

/// A process of the session, for whoever only looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Below {
    /// Its number.
    pub pid: i32,
    /// In clock ticks since boot: with the number it names the process.
    pub start: u64,
    /// The first 15 bytes of its program's name.
    pub comm: String,
}

/// A glimpse of the processes below the main thread of `supervisor`, from any thread. Empty where there is no `/proc`.
pub fn processes_below(supervisor: u32) -> Vec<Below> {
    let thread = supervisor.cast_signed();
    let found = Root { process: thread, thread }.walk(|_| {});
    found.into_iter().map(|Process { pid, start, comm, .. }| Below { pid, start, comm }).collect()
}

impl Root {
    /// The calling thread's children. In the supervisor that has to be the main thread.
    pub(super) fn here() -> Self {
        let process = std::process::id().cast_signed();
        #[cfg(target_os = "linux")]
        let thread = nix::unistd::gettid().as_raw();
        #[cfg(not(target_os = "linux"))]
        let thread = process;
        Self { process, thread }
    }

    /// The children of the main thread of `process`.
    #[cfg(target_os = "linux")]
    pub(super) fn of(process: Pid) -> Self {
        Self { process: process.as_raw(), thread: process.as_raw() }
    }

    /// Whether there is any child at all, a zombie too.
    #[cfg(target_os = "linux")]
    pub(super) fn has_children(self) -> bool {
        thread_children(self.process, self.thread).map_or_else(|| !self.walk(|_| {}).is_empty(), |found| !found.is_empty())
    }

    /// Visits every process below, parents before their children, and returns them. A process's children are read *after* it
    /// was visited: once SIGKILL is posted it forks no more, so a visitor that kills leaves no gap.
    pub(super) fn walk(self, mut visit: impl FnMut(&Process)) -> Vec<Process> {
        let listing = if thread_children(self.process, self.thread).is_none() { Some(Listing::read()) } else { None };
        let children_of = |parent: Option<&Process>| match (&listing, parent) {
            (Some(listing), parent) => listing.children(parent.map_or(self.process, |process| process.pid)),
            (None, None) => thread_children(self.process, self.thread).unwrap_or_default(),
            // Most processes have one thread, and listing the threads costs more than all the rest.
            (None, Some(process)) if process.threads == 1 => thread_children(process.pid, process.pid).unwrap_or_default(),
            (None, Some(process)) => process_children(process.pid),
        };

        let mut known = HashSet::from([self.process]);
        let mut found: Vec<Process> = Vec::new();
        let mut children = children_of(None);
        let mut next = 0;
        loop {
            for pid in children {
                // The parent may have changed since the listing, but only to somebody in the tree; anybody else's child has
                // merely been given the number.
                if let Some(process) = Process::read(pid)
                    && known.contains(&process.parent)
                    && known.insert(pid)
                {
                    visit(&process);
                    found.push(process);
                }
            }
            let Some(process) = found.get(next) else { return found };
            children = children_of(Some(process));
            next += 1;
        }
    }
}

impl Root {
    /// Sends `signals` to exactly this process, found by a walk from here. To be called by the root's own thread.
    ///
    /// # Errors
    /// ESRCH if it is gone, EPERM if it runs as another user.
    pub(super) fn signal(self, process: &Process, signals: &[Signal]) -> io::Result<()> {
        if process.parent == self.process {
            // Nobody but this thread reaps it, and here it does not, so the number is still its own.
            return signals.iter().try_for_each(|signal| Ok(nix::sys::signal::kill(Pid::from_raw(process.pid), *signal)?));
        }
        process.signal(signals)
    }
}

impl Process {
    /// `None` if there is no such process (any more).
    pub(super) fn read(pid: i32) -> Option<Self> {
        // Lossy: comm is 15 arbitrary bytes.
        let bytes = fs::read(format!("/proc/{pid}/stat")).ok()?;
        Self::parse(&String::from_utf8_lossy(&bytes))
    }

    fn parse(stat: &str) -> Option<Self> {
        // comm may hold parentheses and blanks; the fields begin after the *last* parenthesis.
        let (head, fields) = stat.rsplit_once(')')?;
        let (pid, comm) = head.split_once(" (")?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        // proc(5) counts from 1, and state is field 3.
        let field = |number: usize| fields.get(number - 3).copied();
        Some(Self {
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

    /// Whether this very process is still there, as a zombie too.
    pub(super) fn is_there(&self) -> bool {
        Self::read(self.pid).is_some_and(|now| now.start == self.start)
    }

    /// Whether nothing of it can run any more: it only waits to be reaped.
    pub(super) fn is_dead(&self) -> bool {
        self.state == 'Z' && self.threads <= 1
    }

    /// Signals exactly this process.
    ///
    /// # Errors
    /// ESRCH if it is gone, EPERM if it runs as another user.
    fn signal(&self, signals: &[Signal]) -> io::Result<()> {
        signal_exactly(self.pid, signals, || self.is_there())
    }
}

/// Sends `signals`, in this order, to the group `group` (if given) and to everything below `root` that is not in it, once each, and
/// returns what was found. Refusals are left to the sweep to report.
pub(super) fn signal_tree(root: Root, group: Option<Pid>, signals: &[Signal]) -> Vec<Process> {
    // Looked at before the group may end and its children move.
    let found = root.walk(|_| {});
    if let Some(group) = group {
        for signal in signals {
            let _ = nix::sys::signal::killpg(group, *signal);
        }
    }
    for process in found.iter().filter(|process| Some(process.group) != group.map(Pid::as_raw)) {
        let _ = root.signal(process, signals);
    }
    found
}

/// The children of one thread; `None` if the kernel does not tell (or the thread is gone).
fn thread_children(process: i32, thread: i32) -> Option<Vec<i32>> {
    let text = fs::read_to_string(format!("/proc/{process}/task/{thread}/children")).ok()?;
    Some(text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect())
}

/// The children of all threads of a process; none if it is gone.
fn process_children(process: i32) -> Vec<i32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else { return Vec::new() };
    threads
        .flatten()
        .filter_map(|thread| thread.file_name().to_str()?.parse().ok())
        .filter_map(|thread| thread_children(process, thread))
        .flatten()
        .collect()
}

/// Who is whose child, from listing all of `/proc`.
struct Listing(HashMap<i32, Vec<i32>>);

impl Listing {
    fn read() -> Self {
        let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
            if let Some(process) = Process::read(pid) {
                children.entry(process.parent).or_default().push(pid);
            }
        }
        Self(children)
    }

    fn children(&self, pid: i32) -> Vec<i32> {
        self.0.get(&pid).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_begin_after_the_last_parenthesis() {
        let stat = "4242 (evil) R 1 (x) S 7 8 9 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 3 0 987654 0 0\n";
        let expected =
            Process { pid: 4242, comm: "evil) R 1 (x".into(), state: 'S', parent: 7, group: 8, session: 9, threads: 3, start: 987_654 };
        assert_eq!(Process::parse(stat), Some(expected));
        assert_eq!(Process::parse("4242 (cut off) S 7"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_walk_finds_grandchildren_of_this_thread_and_nothing_of_other_threads() {
        use std::io::{BufRead, BufReader};
        use std::process::{Command, Stdio};

        let start = || {
            let mut child = Command::new("sh")
                .args(["-c", "sh -c 'echo $$; read x; :'; :"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut line = String::new();
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
            (child, line.trim().parse::<i32>().unwrap())
        };
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let other = std::thread::spawn(move || {
            let (mut child, grandchild) = start();
            tell.send(grandchild).unwrap();
            let _ = stopped.recv();
            drop(child.stdin.take());
            child.wait().unwrap();
        });
        let of_other = told.recv().unwrap();
        let (mut child, grandchild) = start();

        let found: HashSet<i32> = Root::here().walk(|_| {}).iter().map(|process| process.pid).collect();
        assert_eq!(found, HashSet::from([child.id().cast_signed(), grandchild]));
        assert!(Listing::read().children(child.id().cast_signed()).contains(&grandchild));

        drop(child.stdin.take());
        child.wait().unwrap();
        drop(stop);
        other.join().unwrap();
        assert!(Process::read(of_other).is_none_or(|process| process.is_dead()));
    }

    #[test]
    fn a_number_with_another_start_time_is_not_signalled() {
        let Some(mut me) = Process::read(std::process::id().cast_signed()) else { return };
        assert!(me.is_there());
        me.start += 1;
        let error = me.signal(&[Signal::SIGKILL]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
    }
}
