//! Words in, words out: the commands, tables, colours and exit codes.
//!
//! One command is one file: its `Args`, whose doc comment is its help, and one function. The commands that only look use
//! [`crate::store`] alone and start no runtime.

mod budget;
pub mod config;
mod context;
mod crashed;
pub mod demo;
mod doctor;
pub mod failure;
mod finish;
mod kill;
mod log;
mod ls;
mod pr;
pub mod run;
mod run_ui;
mod serve;
mod show;
pub mod statusline;
mod step;
mod story;
pub mod ui;
mod usage;
pub mod words;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};

use self::failure::Failure;
use crate::config::{Flag, Loaded, Loader};
use crate::process::ancestry;
use crate::store::StateDir;

/// Run Claude Code on something real: its own identity, its own branch, a budget that holds, a kill switch that works
#[derive(Debug, Parser)]
#[command(name = "sentrely", version, arg_required_else_help = true, infer_subcommands = false, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::Args>),
    Ls(ls::Args),
    Show(show::Args),
    Log(log::Args),
    Kill(kill::Args),
    Budget(budget::Args),
    Pr(pr::Args),
    Serve(serve::Args),
    Config(config::Args),
    Doctor(doctor::Args),
    Demo(demo::Args),
    #[command(hide = true)]
    Finish(finish::Args),
    /// Print a completion script for a shell
    #[command(hide = true)]
    Completions {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
}

impl Cli {
    /// Reads the command line. `None`: help or the version was asked for, and has been shown.
    pub fn read(words: impl IntoIterator<Item = OsString>) -> Result<Option<Self>, Failure> {
        let words: Vec<OsString> = words.into_iter().collect();
        match Self::try_parse_from(&words) {
            Ok(cli) => Ok(Some(cli)),
            Err(error) => usage::judge(&error, &words).map(|()| None),
        }
    }

    /// Does what was asked and returns the exit code.
    pub fn perform(self) -> Result<u8, Failure> {
        match self.command {
            Command::Run(args) => run::run(&args),
            Command::Ls(args) => ls::run(&args),
            Command::Show(args) => show::run(&args),
            Command::Log(args) => log::run(&args),
            Command::Kill(args) => kill::run(&args),
            Command::Budget(args) => budget::run(&args),
            Command::Pr(args) => pr::run(&args),
            Command::Serve(args) => serve::run(&args),
            Command::Config(args) => show_config(&args),
            Command::Doctor(args) => doctor::run(&args),
            Command::Demo(args) => demo::run(&args),
            Command::Finish(args) => finish::run(&args),
            Command::Completions { shell } => completions(shell),
        }
    }
}

fn completions(shell: clap_complete::Shell) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut <Cli as clap::CommandFactory>::command(), "sentrely", &mut script);
    ui::print(&String::from_utf8_lossy(&script))?;
    Ok(0)
}

fn show_config(args: &config::Args) -> Result<u8, Failure> {
    let loaded = load_config(Vec::new())?;
    let mut text = Vec::new();
    config::run(args, &loaded, &mut text)?;
    ui::print(&String::from_utf8_lossy(&text))?;
    Ok(0)
}

/// The configuration that holds in this folder, with `flags` of the command line.
pub(crate) fn load_config(flags: Vec<Flag>) -> Result<Loaded, Failure> {
    let project = std::env::current_dir().ok().map(|cwd| project_dir(&cwd));
    Loader::new(project, flags).load().map_err(|error| {
        let hint = error.hint();
        Failure::command(error, hint)
    })
}

/// The folder whose `sentrely.toml` counts: the top of the working copy, else the folder itself.
fn project_dir(cwd: &Path) -> PathBuf {
    let repository = git2::Repository::discover(cwd).ok();
    repository.as_ref().and_then(git2::Repository::workdir).map_or_else(|| cwd.to_owned(), Path::to_owned)
}

/// The state directory of this environment, made if it does not exist, refused if it is not private.
fn open_state() -> Result<StateDir, Failure> {
    Ok(StateDir::open(&StateDir::locate(|name| std::env::var(name).ok())?)?)
}

/// The id of the session that this process runs in, if it does: by what it descends from, which the agent cannot change, else by its
/// environment, which it can, so that a name there counts only where descent says nothing.
fn inside_session() -> Option<String> {
    let named = std::env::var("SENTRELY_RUN_ID").ok().filter(|id| !id.is_empty());
    let Some(above) = i32::try_from(std::process::id()).ok().and_then(ancestry::session_above) else { return named };
    let sessions = open_state().ok().and_then(|state| state.sessions().ok()).unwrap_or_default();
    // Above the command is the supervisor; above that, should it be gone, the guardian, whose session has no other mark.
    let known = sessions.into_iter().find(|view| view.ended_at.is_none() && i32::try_from(view.pid).is_ok_and(|pid| pid == above));
    Some(known.map_or_else(|| "of unknown id".to_owned(), |view| view.id.to_string()))
}
