//! Why a session ended, ordered by gravity, and the exit codes of `run` (DESIGN sections 3 and 8).

use serde::{Deserialize, Serialize};

/// The budget was reached.
pub const EXIT_BUDGET: u8 = 121;
/// The session was killed.
pub const EXIT_KILLED: u8 = 122;
/// A policy stopped the session: loop, context, billing, branch.
pub const EXIT_POLICY: u8 = 123;
/// The time limit was reached.
pub const EXIT_TIME_LIMIT: u8 = 124;
/// sentrely could not start or keep its promise.
pub const EXIT_FAILED_PROMISE: u8 = 125;

/// Why a session ended. The order is gravity: when several come together, the greatest wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The child ended by itself.
    ChildExited,
    /// A signal asked sentrely to end: TERM, INT, HUP or QUIT.
    Terminated,
    /// The time limit of the session.
    Deadline,
    /// The session's AWS identity could not be kept.
    CredentialsLost,
    /// A policy: loop, context, billing, branch.
    PolicyStop,
    /// The budget is spent.
    BudgetReached,
    /// The child spoke to the model past the proxy.
    MeterBypassed,
    /// The journal, or the ledger of shared limits, could not be written: what is spent can no longer be recorded.
    JournalLost,
    /// The supervisor died and the guardian ended the session.
    Crashed,
    /// A person, or another program, killed the session.
    Killed,
}

impl StopReason {
    /// What `run` exits with for this reason; `None` means the child's own code counts.
    pub const fn exit_code(self) -> Option<u8> {
        match self {
            Self::ChildExited | Self::Terminated => None,
            Self::Deadline => Some(EXIT_TIME_LIMIT),
            Self::PolicyStop => Some(EXIT_POLICY),
            Self::BudgetReached => Some(EXIT_BUDGET),
            Self::CredentialsLost | Self::MeterBypassed | Self::JournalLost | Self::Crashed => Some(EXIT_FAILED_PROMISE),
            Self::Killed => Some(EXIT_KILLED),
        }
    }

    /// How it ended, for the summary.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::ChildExited => "the command ended",
            Self::Terminated => "stopped by a signal",
            Self::Deadline => "stopped at its time limit",
            Self::CredentialsLost => "stopped: its AWS identity was lost",
            Self::PolicyStop => "stopped by policy",
            Self::BudgetReached => "stopped at its budget",
            Self::MeterBypassed => "stopped: it spoke to the model past the meter",
            Self::JournalLost => "stopped: its records could not be written",
            Self::Crashed => "crashed: its supervisor died",
            Self::Killed => "killed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gravest_reason_wins() {
        let seen = [StopReason::BudgetReached, StopReason::ChildExited, StopReason::Killed, StopReason::Deadline];
        assert_eq!(seen.into_iter().max(), Some(StopReason::Killed));
        assert!(StopReason::MeterBypassed > StopReason::BudgetReached);
    }
}
