//! How a command fails: an error with its causes, what the user can do about it, and the exit code.

use std::fmt;

use crate::model::EXIT_FAILED_PROMISE;

/// Commands other than `run`: it failed.
pub const EXIT_FAILED: u8 = 1;
/// Commands other than `run`: the words could not be understood.
pub const EXIT_USAGE: u8 = 2;
/// No such session.
pub const EXIT_NO_SESSION: u8 = 3;
/// Some of it was done.
pub const EXIT_PARTLY: u8 = 4;

/// A failed command.
#[derive(Debug)]
pub struct Failure {
    /// What the process exits with.
    pub code: u8,
    /// What failed, on what, and why.
    pub error: anyhow::Error,
    /// What the user can do.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure of `run`: nothing was started, or a promise was not kept.
    pub fn run(error: impl Into<anyhow::Error>, hint: Option<String>) -> Self {
        Self { code: EXIT_FAILED_PROMISE, error: error.into(), hint }
    }

    /// A failure of any other command.
    pub fn command(error: impl Into<anyhow::Error>, hint: Option<String>) -> Self {
        Self { code: EXIT_FAILED, error: error.into(), hint }
    }

    /// From inside a session only that session itself can be killed; all else that changes something is refused.
    pub fn inside(what: &str) -> Self {
        let error = anyhow::anyhow!("{what}: this is the inside of a session");
        Self { code: EXIT_FAILED_PROMISE, error, hint: Some("run it outside".to_owned()) }
    }

    /// The same with another exit code.
    #[must_use]
    pub const fn with_code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }
}

impl fmt::Display for Failure {
    /// `failed to read x: because`, then the hint on a line of its own.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "failed to {:#}", self.error)?;
        match &self.hint {
            Some(hint) => write!(f, "\n\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl From<crate::store::StateError> for Failure {
    fn from(error: crate::store::StateError) -> Self {
        let hint = error.hint();
        Self::command(error, hint)
    }
}

impl From<crate::store::FindError> for Failure {
    fn from(error: crate::store::FindError) -> Self {
        let hint = error.hint();
        let code = if matches!(error, crate::store::FindError::State(_)) { EXIT_FAILED } else { EXIT_NO_SESSION };
        Self::command(error, hint).with_code(code)
    }
}

impl From<crate::store::JournalError> for Failure {
    fn from(error: crate::store::JournalError) -> Self {
        Self::command(error, None)
    }
}

impl From<std::io::Error> for Failure {
    /// What the commands write themselves, they write to stdout.
    fn from(error: std::io::Error) -> Self {
        Self::command(anyhow::Error::new(error).context("write to stdout"), None)
    }
}

impl From<crate::store::sweep::SweepError> for Failure {
    fn from(error: crate::store::sweep::SweepError) -> Self {
        let hint = error.hint();
        Self::command(error, hint)
    }
}
