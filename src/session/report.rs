//! What a run tells the person in front of it. The session says what; `cli` says how it looks.

use std::path::PathBuf;

use crate::model::{Outcome, SessionView};

/// One thing to tell.
#[derive(Debug, Clone)]
pub enum Report {
    /// A step of start-up or shut-down began.
    Step(String),
    /// The step is done.
    StepDone,
    /// Everything is ready; the child starts next.
    Banner(Box<Banner>),
    /// From here on the child may own the terminal: nothing is drawn until [`Report::TerminalBack`].
    ChildRuns {
        /// It does.
        owns_terminal: bool,
    },
    /// The child is gone and the terminal is as it was.
    TerminalBack,
    /// What is spent changed.
    Spent(Box<SessionView>),
    /// A share of a limit was passed.
    Threshold {
        /// Which share, in percent.
        percent: u32,
        /// `$2.51 of $5.00`.
        amount: String,
    },
    /// Something worth knowing, now.
    Notice(String),
    /// Something is wrong.
    Alarm(String),
    /// It is over.
    Summary(Box<Summary>),
}

/// What is said before the child starts. Each field is one line's text.
#[derive(Debug, Clone)]
pub struct Banner {
    /// The session's short id.
    pub short_id: String,
    /// Who, and how that is known.
    pub developer: String,
    /// The project.
    pub project: String,
    /// Who pays and where requests go.
    pub pays: String,
    /// The limits.
    pub budget: String,
    /// The AWS identity.
    pub aws: String,
    /// The branch, its base and where it is.
    pub work: String,
    /// The wall in force.
    pub wall: String,
    /// What is switched off in Claude Code.
    pub off: Vec<String>,
    /// What else to know.
    pub notices: Vec<String>,
    /// The kill file.
    pub kill_file: PathBuf,
    /// Nothing is started: `--dry-run`.
    pub dry_run: bool,
}

/// What is said at the end.
#[derive(Debug, Clone)]
pub struct Summary {
    /// The session.
    pub view: SessionView,
    /// Processes ended that the child had left behind.
    pub processes_ended: u32,
    /// How they were ended, which, and what was kept.
    pub outcome: Outcome,
    /// Where the work is, if there is any.
    pub work: Option<String>,
    /// The files that were changed, where somebody else is to go on.
    pub files: Vec<String>,
    /// Why it stopped, in the words of who stopped it.
    pub note: Option<String>,
    /// The command to type next.
    pub next: Option<String>,
}

/// Takes the reports. Called from the supervisor's thread only, never while the child owns the terminal except for [`Report::Spent`]
/// and [`Report::Threshold`], which it must then swallow.
pub type Reporter = std::sync::Arc<dyn Fn(Report) + Send + Sync>;
