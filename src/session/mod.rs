//! One run of `sentrely run`: the only place where the parts meet.
//!
//! [`run`] is the whole story: [`prepare`] decides everything and changes nothing, [`workplace`] makes the session's directory, working copy and
//! gate, [`wiring`] starts proxy and child, [`supervisor`] watches until nothing is left of it, [`ending`] saves the work and says how it was.
//!
//! # What it relies on
//!
//! It runs on the supervisor's main thread inside a current-thread runtime; the guardian was forked before any thread existed.

mod alerting;
pub mod anatomist;
mod branch_advice;
mod child;
pub mod chronicle;
pub mod claude;
mod clock;
mod context;
pub mod control;
mod developer;
mod ending;
pub mod environment;
mod familiar;
mod grace;
mod home;
mod idle;
mod killed;
pub mod lifecycle;
mod limits;
mod loops;
mod metering;
mod network;
pub mod notices;
mod payer;
mod prepare;
pub mod protection;
pub mod pull_request;
mod quota;
pub mod report;
pub mod resume;
mod same_path;
mod saving;
mod sharing;
mod sources;
mod supervisor;
pub mod survey;
pub mod wall;
mod wiring;
mod workplace;

pub use self::prepare::price_table;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use self::claude::program::Program;
use self::environment::Env;
use self::report::Reporter;
use crate::config::{Config, Origins};
use crate::model::{EXIT_FAILED_PROMISE, SessionId};
use crate::process::GuardianLink;
use crate::store::StateDir;

/// What is to be run, and how.
pub struct RunRequest {
    /// The command and its arguments, as typed.
    pub command: Vec<OsString>,
    /// The program that the command means.
    pub program: Program,
    /// The configuration, all layers merged.
    pub config: Config,
    /// The same before the policy clamped it.
    pub asked: Config,
    /// Who asked for what in it.
    pub asked_by: Origins,
    /// The policy alone: its limits are above everything that a session gets.
    pub policy: Config,
    /// The session to go on with.
    pub resume: Option<SessionId>,
    /// Though it was killed.
    pub force: bool,
    /// Say what would be done, and do nothing.
    pub dry_run: bool,
    /// Where to leave the result as JSON.
    pub result_file: Option<PathBuf>,
    /// The environment of the `sentrely` command.
    pub env: Env,
    /// The folder it was called in.
    pub cwd: PathBuf,
    /// The state directory.
    pub state: StateDir,
}

/// Why nothing was run.
#[derive(Debug)]
pub struct RunError {
    /// What failed, on what, and why.
    pub error: anyhow::Error,
    /// What the user can do.
    pub hint: Option<String>,
    /// What `run` exits with: 125, or 126 and 127 for a command that cannot be run or found.
    pub code: u8,
}

impl RunError {
    /// sentrely could not start.
    pub fn new(error: impl Into<anyhow::Error>, hint: Option<String>) -> Self {
        Self { error: error.into(), hint, code: EXIT_FAILED_PROMISE }
    }

    /// The file system or the network refused.
    pub fn io(error: std::io::Error, what: &str) -> Self {
        let hint = (error.kind() == std::io::ErrorKind::StorageFull).then(|| "free some disk space".to_owned());
        Self::new(anyhow::Error::new(error).context(what.to_owned()), hint)
    }

    /// The same from words.
    pub fn words(error: impl Into<String>, hint: Option<&str>) -> Self {
        Self::new(anyhow::Error::msg(error.into()), hint.map(str::to_owned))
    }
}

/// Turns a part's error, which knows its own hint, into a [`RunError`].
macro_rules! hinted {
    ($error:expr) => {{
        let error = $error;
        let hint = error.hint();
        $crate::session::RunError::new(error, hint)
    }};
}
use hinted;

/// Runs the command under supervision until nothing is left of it; returns what `sentrely run` exits with.
pub async fn run(request: RunRequest, guardian: Arc<GuardianLink>, reporter: Reporter) -> Result<u8, RunError> {
    let prepared = Box::pin(prepare::prepare(request, &reporter)).await?;
    if prepared.request.dry_run {
        reporter(report::Report::Banner(Box::new(prepared.dry_banner())));
        return Ok(0);
    }
    wall::sweep(&prepared.request.env, &prepared.request.config.store, &prepared.request.state);
    if let Some(claude) = &prepared.claude {
        familiar::sweep(&claude.places, &prepared.request.state);
    }
    let workplace = workplace::set_up(&prepared, &guardian, &reporter).await?;
    let supervisor = Box::pin(wiring::start(prepared, workplace, guardian, reporter)).await?;
    Ok(Box::pin(supervisor.run()).await)
}
