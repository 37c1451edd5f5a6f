//! Linux: the tree below one thread of ours, read from `/proc` downwards.
//!
//! `/proc/PID/task/TID/children` gives a thread's children. The kernel may leave some out while others are ending. Where it has no such
//! files (`CONFIG_PROC_CHILDREN`), `/proc` is listed instead.
//!
//! Orphans come back to us: supervisor and guardian are subreapers. So whoever has no child left has no tree left.

#![expect(clippy::unused_self, reason = "where a tree begins is asked in the same words on every system")]

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::system::{Process, pids};

/// Whose children a walk begins with: those of one thread. The thread itself is not part of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::process) struct Root {
    process: i32,
    thread: i32,
}

impl Root {
    /// The calling thread's children. In the supervisor that has to be the main thread.
    pub(in crate::process) fn here() -> Self {
        Self { process: std::process::id().cast_signed(), thread: nix::unistd::gettid().as_raw() }
    }

    /// The children of the main thread of `process`.
    pub(in crate::process) fn of(process: Pid) -> Self {
        Self { process: process.as_raw(), thread: process.as_raw() }
    }

    /// Whether there is any child at all, a zombie too.
    pub(in crate::process) fn has_children(self) -> bool {
        thread_children(self.process, self.thread).map_or_else(|| !self.walk(|_| {}).is_empty(), |found| !found.is_empty())
    }

    /// Visits every process below, parents before their children, and returns them. A process's children are read *after* it
    /// was visited: once SIGKILL is posted it forks no more, so a visitor that kills leaves no gap.
    pub(in crate::process) fn walk(self, mut visit: impl FnMut(&Process)) -> Vec<Process> {
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

    /// Sends `signals` to exactly this process, found by a walk from here. To be called by the root's own thread.
    ///
    /// # Errors
    /// ESRCH if it is gone, EPERM if it runs as another user.
    pub(in crate::process) fn signal(self, process: &Process, signals: &[Signal]) -> io::Result<()> {
        if process.parent == self.process {
            // Nobody but this thread reaps it, and here it does not, so the number is still its own.
            return signals.iter().try_for_each(|signal| Ok(nix::sys::signal::kill(Pid::from_raw(process.pid), *signal)?));
        }
        super::signal(process, signals)
    }

    /// From here on its orphans count as ours: the kernel sees to that here.
    pub(in crate::process) const fn watch_over(self, _agent: Pid, _mark: Option<&str>) {}

    /// To be called before a signal may tear the tree apart: it cannot here.
    pub(in crate::process) const fn remember(self) {}

    /// Whether this is a process of the tree though it does not descend from the root: there is none such here.
    pub(in crate::process) const fn has_adopted(self, _pid: i32) -> bool {
        false
    }

    /// Whether anything of the tree lives that is no child of ours: here it is all below our children.
    pub(in crate::process) const fn has_orphans(self) -> bool {
        false
    }

    /// Whether it ended and somebody else reaped it: whatever is left comes to us here.
    pub(in crate::process) const fn was_reaped_by_others(self, _process: &Process) -> bool {
        false
    }
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
        for pid in pids() {
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
}
