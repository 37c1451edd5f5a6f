//! The agent's processes: started, watched, stopped and ended to the last one; and the terminal that they use.
//!
//! # How it works
//!
//! ```text
//! shell ── guardian ── supervisor ── agent ── its tools, servers, daemons ...
//!          [guardian]  [reaper]      [agent]  [tree], [sweep]
//! ```
//!
//! * The process that the shell started forks before any thread exists. The parent stays as the [`guardian`]: one thread,
//!   next to no memory. The child is the supervisor. Both are subreapers, so whatever the agent leaves behind, however it
//!   forked, comes back to the supervisor, and to the guardian if the supervisor is gone. Either one's death ends the tree.
//! * [`Agent`] is the one door for the session: spawn, wait for events, signal, end. [`Agent::end`] is the kill ladder.
//! * The supervisor has exactly one reaper, and it reaps only children of the **main thread**: that is where the kernel puts
//!   orphans. Helper programs (git, credential helpers) are run with `std::process` from another thread and keep their status.
//! * Where our cgroup may have children, the agent gets one ([`Cgroup`]), which the ladder ends as a whole before it looks at the tree.
//! * The tree is read from `/proc/PID/task/*/children` downwards, never by listing `/proc`: in front of a fast respawner such
//!   a listing does not end.
//!
//! # What it promises
//!
//! After [`Agent::end`] nothing of the tree is left, or what is left is named as a [`Survivor`]. Work that a server does which
//! was running before the session (docker, at, systemd, an existing tmux) is no part of the tree.
//!
//! Linux is held to all of this. macOS is **untested**, and promises less. It has no guardian, no subreaper, no cgroup and no pidfd: the death
//! of the supervisor ends nothing, and of the orphans those are found that the tree's `macos` room remembers or recognises. The ladder
//! is the same: the agent's group, then everything of the tree by the table of processes, again and again until a look finds nothing.

pub mod agent;
pub mod ancestry;
mod cgroup;
#[cfg(target_os = "linux")]
mod guard_loop;
pub mod guardian;
mod keep;
mod reaper;
mod request;
mod spawn;
mod sweep;
mod terminal;
mod tree;

use std::time::Instant;

pub use agent::Agent;
pub use cgroup::Cgroup;
pub use guardian::{Forked, GuardianError, GuardianEvent, GuardianLink, Orphaned};
pub use keep::Keep;
pub use nix::sys::signal::Signal;
pub use request::{AgentRequest, SpawnError};
pub use spawn::PreExec;
pub use terminal::clear_up_after_a_crash;
pub use tree::{Below, processes_below};

pub use crate::model::{Kept, Outcome, Rung, Survivor, SurvivorReason};

/// How a process ended. Exactly one of the two is `Some`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// What it returned.
    pub code: Option<i32>,
    /// The number of the signal that ended it.
    pub signal: Option<i32>,
}

impl Exit {
    /// The exit code as a shell would give it: its own, or 128 + the signal.
    pub fn shell_code(self) -> u8 {
        let code = self.code.unwrap_or_else(|| 128 + self.signal.unwrap_or(0));
        u8::try_from(code & 0xff).unwrap_or(u8::MAX)
    }
}

/// What happened to the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentEvent {
    /// The agent's own process is gone; the terminal is restored. What it started may still run: call [`Agent::end`].
    Exited(Exit),
    /// The agent stopped (`Ctrl-Z`, SIGSTOP). Where a shell does job control, the *next* call of [`Agent::event`] stops the
    /// supervisor and the guardian too; so write down first what has to be written.
    Stopped,
    /// It runs again (`fg`, `bg`, SIGCONT).
    Continued,
}

/// What [`Agent::end`] did.
#[derive(Debug, Clone)]
pub struct Ended {
    /// When the first signal was posted: to the agent's group, and without a grace period to its cgroup. What is in neither got it within the
    /// next look at the tree.
    pub signalled_at: Instant,
    /// When nothing was left, or when what is left was given up.
    pub gone_at: Instant,
    /// How many processes ended between the call and `gone_at`, the agent included if it was still running.
    pub processes: u32,
    /// The rungs used; who was ended and kept; and what could not be ended. Without survivors nothing is left but what was kept.
    pub outcome: Outcome,
    /// How the agent's own process ended, whenever that was. `None` only if it is among the survivors.
    pub exit: Option<Exit>,
}

impl Ended {
    /// Takes in what another call did after this one.
    pub fn followed_by(&mut self, later: Self) {
        self.gone_at = later.gone_at;
        self.processes += later.processes;
        self.exit = self.exit.or(later.exit);
        let Outcome { rungs, ended, kept, survivors } = later.outcome;
        for rung in rungs {
            self.outcome.used(rung);
        }
        for (name, count) in ended {
            *self.outcome.ended.entry(name).or_default() += count;
        }
        (self.outcome.kept, self.outcome.survivors) = (kept, survivors);
    }
}
