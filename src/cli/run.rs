//! `sentrely run`: from words to a request, the guardian's fork, and what the person sees.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::crashed;
use super::failure::Failure;
use super::run_ui::RunUi;
use crate::config::{Flag, Loaded};
use crate::process::{Forked, Orphaned, guardian};
use crate::session::claude::arguments::{self, Use};
use crate::session::claude::program::{self, Kind, Program};
use crate::session::environment::Env;
use crate::session::{self, RunError, RunRequest};
use crate::store::{Closer, Closing, Journal, SessionDir};

/// Run a command as a supervised session
///
/// The command gets a working copy on a branch of its own, an AWS identity of its own where a role is configured, a budget that is
/// enforced before money is spent, and a kill switch.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// What the session may spend: dollars like 5usd, tokens like 2Mtok, requests like 200req [default: 5usd where tokens are billed]
    #[arg(long, value_name = "LIMIT", allow_hyphen_values = true)]
    budget: Vec<String>,

    /// How long the session may take: 90s, 30m, 2h
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    timeout: Option<String>,

    /// What happens when the budget is used up [default: stop]
    #[arg(long, value_name = "stop|refuse", value_parser = ["stop", "refuse"])]
    on_budget: Option<String>,

    /// The readable part of the branch's name
    #[arg(long, value_name = "SLUG")]
    name: Option<String>,

    /// What the branch starts from [default: what is checked out]
    #[arg(long, value_name = "REV")]
    base: Option<String>,

    /// The AWS role that the session assumes
    #[arg(long, value_name = "ARN")]
    role: Option<String>,

    /// Who is accountable
    #[arg(long, value_name = "WHO")]
    developer: Option<String>,

    /// The project it works on
    #[arg(long, value_name = "NAME")]
    project: Option<String>,

    /// Where it works: a clone of its own, the same seen at the checkout's path, a fresh branch in the checkout, the folder as it is [default: clone]
    #[arg(long, value_name = "clone|same-path|in-place|none", value_parser = ["clone", "same-path", "in-place", "none"])]
    workspace: Option<String>,

    /// How much wall is put around it: what the machine offers, the full wall or no session, none [default: auto]
    #[arg(long, value_name = "auto|require|off", value_parser = ["auto", "require", "off"])]
    wall: Option<String>,

    /// Go on with an ended session, on its branch and its budget
    #[arg(long, value_name = "ID")]
    resume: Option<String>,

    /// Go on with a session, or a conversation of one, that was killed
    #[arg(long)]
    force: bool,

    /// Push the branch and open a pull request at the end
    #[arg(long)]
    pr: bool,

    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,

    /// Write the result as JSON to this file
    #[arg(long, value_name = "PATH")]
    result_file: Option<PathBuf>,

    /// Set any configuration key
    #[arg(long, value_name = "KEY=VALUE")]
    config: Vec<String>,

    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Runs; returns the exit code of the session, or why there was none.
pub fn run(args: &Args) -> Result<u8, Failure> {
    let cwd = env::current_dir().map_err(|error| Failure::run(anyhow::Error::new(error).context("find the current folder"), None))?;
    if let Some(id) = super::inside_session() {
        let error = anyhow::anyhow!("start a session inside session {id}: its own limits would not hold");
        return Err(Failure::run(error, Some("run the command as it is; it is supervised already".to_owned())));
    }
    let env: Env = env::vars_os().collect();
    let loaded = load(args)?;
    let program = program::resolve(&args.command[0], &env, &cwd).map_err(|error| {
        let hint = error.hint();
        let code = u8::try_from(error.exit_code()).unwrap_or(1);
        Failure::run(error, hint).with_code(code)
    })?;
    if program.kind == Kind::Claude
        && let Use::PassThrough { why } = arguments::classify(&args.command[1..])
    {
        return Err(pass_through(&program, args, &why));
    }
    let state = super::open_state().map_err(as_run_failure)?;
    let resume = match &args.resume {
        Some(prefix) => Some(state.find(prefix).map_err(|error| as_run_failure(error.into()))?.id),
        None => None,
    };
    let ui = Arc::new(RunUi::new());
    // Before any thread exists: the guardian stays single-threaded (facts/PROCESS.md section 3).
    let link = match guardian::fork(on_orphaned) {
        Ok(Forked::Supervisor(link)) => link,
        Ok(Forked::GuardianEnded(code)) => return Ok(code),
        Err(error) => return Err(Failure::run(error, None)),
    };
    super::finish::at_start(&state, &loaded.config, |line| ui.say(line));
    let request = RunRequest {
        command: args.command.clone(),
        program,
        config: loaded.config,
        asked: loaded.asked,
        asked_by: loaded.asked_origins,
        policy: loaded.policy,
        resume,
        force: args.force,
        dry_run: args.dry_run,
        result_file: args.result_file.clone(),
        env,
        cwd,
        state,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::run(anyhow::Error::new(error).context("start the runtime"), None))?;
    let reporter = {
        let ui = Arc::clone(&ui);
        Arc::new(move |report| ui.show(report))
    };
    let link = Arc::new(link);
    let result = runtime.block_on(session::run(request, Arc::clone(&link), reporter));
    ui.clear();
    // A helper thread that still waits for a program must not hold the exit.
    runtime.shutdown_background();
    // Written before the guardian is released: it exits as soon as we do.
    let code = match &result {
        Ok(code) => *code,
        Err(error) => error.code,
    };
    if let Err(error) = result {
        super::ui::report(&Failure::from(error));
    }
    link.finished();
    Ok(code)
}

/// The configuration for a session in this folder, with the flags of `run`.
fn load(args: &Args) -> Result<Loaded, Failure> {
    let mut flags = Vec::new();
    let mut set = |key: &str, flag: &str, value: &str| {
        flags.push(Flag { key: key.to_owned(), value: value.to_owned(), flag: flag.to_owned() });
    };
    for limit in &args.budget {
        set("budget.limits", "--budget", limit);
    }
    let single = [
        ("run.timeout", "--timeout", &args.timeout),
        ("budget.on_budget", "--on-budget", &args.on_budget),
        ("run.name", "--name", &args.name),
        ("git.base", "--base", &args.base),
        ("aws.role", "--role", &args.role),
        ("run.developer", "--developer", &args.developer),
        ("run.project", "--project", &args.project),
        ("run.workspace", "--workspace", &args.workspace),
        ("wall.mode", "--wall", &args.wall),
    ];
    for (key, flag, value) in single {
        if let Some(value) = value {
            set(key, flag, value);
        }
    }
    if args.pr {
        set("git.pr", "--pr", "true");
    }
    for pair in &args.config {
        flags.push(Flag::parse(pair).map_err(|error| {
            let hint = error.hint();
            Failure::run(error, hint)
        })?);
    }
    // The project's file is read once, before the child exists.
    super::load_config(flags).map_err(as_run_failure)
}

fn as_run_failure(failure: Failure) -> Failure {
    failure.with_code(crate::model::EXIT_FAILED_PROMISE)
}

/// Becomes `claude` itself for what is no session: `claude mcp list`, `claude --version`.
fn pass_through(program: &Program, args: &Args, why: &str) -> Failure {
    use std::os::unix::process::CommandExt;
    super::ui::say(&format!("sentrely: {why}: passed through, nothing is supervised"));
    let error = std::process::Command::new(&program.path).args(&args.command[1..]).exec();
    let failed = anyhow::Error::new(error).context(format!("execute {}", program.path.display()));
    Failure::run(failed, None).with_code(126)
}

/// In the guardian, after it ended what a dead supervisor left behind: close the record, and say one line.
fn on_orphaned(orphaned: &Orphaned, dir: Option<&Path>) -> String {
    let what = match (orphaned.supervisor_was_stuck, &orphaned.kill_file) {
        (true, _) => "the supervisor did not react to a kill and was ended",
        (false, Some(_)) => "the supervisor died during a kill",
        (false, None) => "the supervisor died",
    };
    let ended = orphaned.processes_ended;
    let mut line = format!("sentrely: {what}; the guardian ended {ended} processes of the session");
    if !orphaned.outcome.survivors.is_empty() {
        let names: Vec<String> = orphaned.outcome.survivors.iter().map(ToString::to_string).collect();
        line = format!("{line}; still there: {}", names.join(", "));
    }
    if let Some(dir) = dir
        && let Err(error) = close_record(orphaned, dir, what)
    {
        line = format!("{line}; its record could not be closed: {error:#}");
    }
    if let Some(dir) = dir.and_then(|dir| SessionDir::at(dir).ok())
        && let Some(work) = crashed::where_its_work_is(&dir)
    {
        let how = if orphaned.kill_file.is_some() { "was killed" } else { "crashed" };
        line = format!("{line}\nsentrely: session {} {how}; {work}", dir.id().short());
    }
    line
}

fn close_record(orphaned: &Orphaned, path: &Path, what: &str) -> anyhow::Result<()> {
    let dir = SessionDir::at(path)?;
    let (mut journal, records) = Journal::open(&dir.journal_file())?;
    // It may have died after its last word.
    if crate::model::SessionView::fold(&records).is_some_and(|view| view.ended_at.is_some()) {
        return Ok(());
    }
    let (note, outcome) = (what.to_owned(), orphaned.outcome.clone());
    let closing = Closing { by: Closer::Guardian, note, processes_ended: orphaned.processes_ended, outcome };
    closing.write(&dir, &mut journal, &records, jiff::Timestamp::now())?;
    Ok(())
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        Self { code: error.code, error: error.error, hint: error.hint }
    }
}
