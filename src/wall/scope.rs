//! A Landlock domain with scopes only: the command and everything below it cannot signal or trace a process outside the session, nor reach an
//! abstract socket there. No file right is handled, so mounts, `bwrap` and Claude Code's own sandbox work as before
//! (facts/PROCESS.md section 6: 12-21 µs).
//!
//! It implies `no_new_privs`: `sudo` and other setuid programs gain nothing inside.

use std::io;

use landlock::{CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, Scope as Kept};

/// A domain that is ready to be entered.
pub struct Scope(RulesetCreated);

/// Why this kernel has none.
#[derive(Debug, thiserror::Error)]
#[error("make a Landlock domain with scopes (Linux 6.12 or newer)")]
pub struct ScopeError(#[from] landlock::RulesetError);

impl Scope {
    /// What it keeps the command from, in words.
    pub const KEEPS: &'static str = "no signals to or tracing of processes outside the session, no sudo";

    /// Makes the domain, whole or not at all. Does not yet restrict anybody.
    pub fn new() -> Result<Self, ScopeError> {
        let ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .scope(Kept::Signal)?
            .scope(Kept::AbstractUnixSocket)?
            .create()?;
        Ok(Self(ruleset))
    }

    /// Enters it: for the command's process between fork and exec. Only two system calls; nothing is allocated.
    pub fn enter(&self) -> io::Result<()> {
        let domain = self.0.try_clone()?;
        domain.no_new_privs(false).restrict_self().map(drop).map_err(|_| io::Error::from(io::ErrorKind::PermissionDenied))
    }
}
