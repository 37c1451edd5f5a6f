//! What became of a session's processes: which rungs of the kill ladder were used, what was ended, kept, and what is left.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The end of an attempt's processes. Empty in records of earlier versions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The rungs of the ladder that were used, each once, in the order of their first use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rungs: Vec<Rung>,
    /// The names of those that were ended, and how many had each. Who was gone before a look at it has no name here, so this may
    /// add up to less than the number of processes ended.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ended: BTreeMap<String, u32>,
    /// What was left running on purpose after a normal exit (`run.keep`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<Kept>,
    /// What could not be ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub survivors: Vec<Survivor>,
}

impl Outcome {
    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Notes the use of a rung.
    pub fn used(&mut self, rung: Rung) {
        if !self.rungs.contains(&rung) {
            self.rungs.push(rung);
        }
    }
}

/// One rung of the kill ladder, below the closed gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rung {
    /// SIGTERM to everything, and time to end.
    Term,
    /// `cgroup.kill` on the session's cgroup.
    Cgroup,
    /// SIGKILL to the agent's process group.
    Group,
    /// SIGKILL to whatever the tree below the supervisor holds, again and again until nothing is left.
    Sweep,
    /// `sudo -n kill` for what runs as another user.
    Sudo,
}

impl Rung {
    /// As it is shown: `SIGTERM`, `cgroup.kill` ...
    pub const fn name(self) -> &'static str {
        match self {
            Self::Term => "SIGTERM",
            Self::Cgroup => "cgroup.kill",
            Self::Group => "killpg",
            Self::Sweep => "sweep",
            Self::Sudo => "sudo kill",
        }
    }
}

/// A process that was left running on purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Its process id.
    pub pid: i32,
    /// The entry of `run.keep` that it matches.
    pub name: String,
}

/// A process that could not be ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survivor {
    /// Its process id.
    pub pid: i32,
    /// Its short name (`comm`, 15 bytes at most, chosen by the process itself).
    pub comm: String,
    /// When it started, in clock ticks since boot: with the number it names the process. `None` where `/proc` did not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<u64>,
    /// Why it is still there.
    pub why: SurvivorReason,
}

impl fmt::Display for Survivor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.pid, self.comm, self.why)
    }
}

/// Why a process survived SIGKILL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SurvivorReason {
    /// It runs as another user, and we may not signal it.
    Setuid,
    /// It waits in the kernel. It will execute nothing more, and ends when the kernel lets it.
    DState,
    /// SIGKILL is posted, but it was not gone when the patience was.
    StillExiting,
}

impl fmt::Display for SurvivorReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Setuid => "setuid: it runs as another user and may not be signalled",
            Self::DState => "D state: it waits in the kernel and executes nothing more",
            Self::StillExiting => "SIGKILL is posted but it has not ended yet",
        })
    }
}
