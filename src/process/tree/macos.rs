//! macOS: the tree below the agent, from the table of processes and from what was seen before ([`super::adopted`]). **Untested.**
//!
//! It begins with the agent, not with us: who of our threads has started a child is not told here, and git is none of the session's.

#![expect(clippy::unused_self, reason = "where a tree begins is asked in the same words on every system")]

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::adopted::Adopted;
use crate::store::sweep::MARKER;
use crate::system::{self, Process};

/// What is forked and orphans another between two looks is not seen.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// There is one agent at a time, and all of this process's looks tell of it. On Linux it is the kernel that remembers.
static WATCHED: Mutex<Option<Watched>> = Mutex::new(None);

struct Watched {
    agent: (i32, u64),
    adopted: Adopted,
    /// An entry of the environment.
    mark: Option<Vec<u8>>,
}

/// The agent that this process watches over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::process) struct Root {
    process: i32,
}

impl Root {
    pub(in crate::process) fn here() -> Self {
        Self { process: std::process::id().cast_signed() }
    }

    /// Of another process than this one nothing is known.
    pub(in crate::process) fn of(process: Pid) -> Self {
        Self { process: process.as_raw() }
    }

    /// Everything of the session, parents before their children, as the table tells at one moment; each is visited.
    pub(in crate::process) fn walk(self, visit: impl FnMut(&Process)) -> Vec<Process> {
        if self != Self::here() {
            return Vec::new();
        }
        let found = watched().as_mut().map(Watched::look).unwrap_or_default();
        found.iter().for_each(visit);
        found
    }

    /// Sends `signals` to exactly this process, found by a walk from here.
    ///
    /// # Errors
    /// ESRCH if it is gone, EPERM if it runs as another user.
    pub(in crate::process) fn signal(self, process: &Process, signals: &[Signal]) -> io::Result<()> {
        super::signal(process, signals)
    }

    /// From here on its orphans count as ours, and it is looked at now and then; `mark` is the value of [`MARKER`] in its environment.
    pub(in crate::process) fn watch_over(self, agent: Pid, mark: Option<&str>) {
        // Nobody has reaped it, so it is in the table.
        let start = Process::read(agent.as_raw()).map_or(0, |process| process.start);
        let mark = mark.map(|mark| format!("{MARKER}={mark}").into_bytes());
        let agent = (agent.as_raw(), start);
        *watched() = Some(Watched { agent, adopted: Adopted::new(agent), mark });
        self.remember();
        // Without it less is seen, and what was seen is known all the same.
        let _ = std::thread::Builder::new().name("tree".to_owned()).spawn(move || {
            loop {
                std::thread::sleep(LOOK_EVERY);
                match watched().as_mut().filter(|watched| watched.agent == agent) {
                    Some(watched) => drop(watched.look()),
                    None => return,
                }
            }
        });
    }

    /// To be called before a signal may tear the tree apart: what is known now is known afterwards.
    pub(in crate::process) fn remember(self) {
        self.walk(|_| {});
    }

    /// Whether this is a process of the tree, though it may not descend from the root any more.
    pub(in crate::process) fn has_adopted(self, pid: i32) -> bool {
        self.walk(|_| {}).iter().any(|process| process.pid == pid)
    }

    /// Whether anything of the tree lives that is no child of ours.
    pub(in crate::process) fn has_orphans(self) -> bool {
        self.walk(|_| {}).iter().any(|process| !process.is_dead() && process.parent != self.process)
    }

    /// Whether it ended and somebody else reaped it.
    pub(in crate::process) fn was_reaped_by_others(self, process: &Process) -> bool {
        !process.lives()
    }
}

impl Watched {
    fn look(&mut self) -> Vec<Process> {
        let mark = &self.mark;
        let is_marked = |process: &Process| {
            let environment = mark.as_ref().and_then(|_| system::environment(process.pid)).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|entry| Some(entry) == mark.as_deref())
        };
        self.adopted.look(system::processes(), |process| system::lineage(process.pid), is_marked)
    }
}

fn watched() -> MutexGuard<'static, Option<Watched>> {
    WATCHED.lock().unwrap_or_else(PoisonError::into_inner)
}
