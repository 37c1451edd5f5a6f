//! `sentrely doctor`: what of this machine a session would stand on, checked one by one.

mod checks;
mod claude;
mod drill;
mod machine;
mod remote;
mod runaway;

use std::ffi::OsString;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::Serialize;

use super::failure::{EXIT_FAILED, Failure};
use super::ui::{self, Tone, paint};
use super::words::{clean, word};
use crate::model::SCHEMA_VERSION;
use crate::session::claude::Env;
use crate::session::claude::places::Places;

/// Check this machine: what sessions need, and what would get in their way
///
/// Exits 1 if something is missing that no session can do without. With --drill the kill switch is tried instead: it takes some
/// seconds, spends nothing, and leaves nothing behind.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Kill a harmless runaway that is run as a real session, and say whether the kill switch works
    #[arg(long)]
    drill: bool,

    /// Play a part in the drill (used by the drill itself)
    #[arg(long, hide = true, value_enum)]
    play: Option<runaway::Part>,

    /// The words of the part
    #[arg(last = true, hide = true)]
    words: Vec<OsString>,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Check {
    name: &'static str,
    status: Status,
    what: String,
    hint: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    Ok,
    Warn,
    Fail,
}

/// What the checks look at.
struct Surroundings {
    env: Env,
    cwd: PathBuf,
    places: Places,
    now: Timestamp,
}

#[derive(Debug, Serialize)]
struct Document {
    schema_version: u32,
    ok: bool,
    checks: Vec<Check>,
}

/// All checks, in the order in which they are shown.
const CHECKS: [fn(&Surroundings) -> Check; 13] = [
    checks::state_directory,
    checks::configuration,
    checks::git,
    claude::program,
    claude::managed_settings,
    claude::upstream,
    checks::prices,
    checks::aws,
    machine::wall,
    machine::user_namespaces,
    machine::landlock,
    machine::cgroup,
    remote::protection,
];

/// Checks.
pub(super) fn run(args: &Args) -> Result<u8, Failure> {
    if let Some(part) = args.play {
        return runaway::play(part, &args.words).map(|()| 0).map_err(|error| Failure::command(error, None));
    }
    if args.drill && super::inside_session().is_some() {
        return Err(Failure::inside("hold a drill"));
    }
    let env: Env = std::env::vars_os().collect();
    let cwd = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let surroundings = Surroundings { places: Places::new(&env, &cwd), env, cwd, now: Timestamp::now() };
    if args.drill {
        return drill::run(args.json, &surroundings);
    }
    let checks: Vec<Check> = CHECKS.iter().map(|check| check(&surroundings)).collect();
    let ok = checks.iter().all(|check| check.status != Status::Fail);
    if args.json {
        ui::print_json(&Document { schema_version: SCHEMA_VERSION, ok, checks })?;
    } else {
        ui::print(&checks.iter().map(tell).collect::<String>())?;
    }
    Ok(if ok { 0 } else { EXIT_FAILED })
}

fn tell(check: &Check) -> String {
    let tone = match check.status {
        Status::Ok => Tone::Good,
        Status::Warn => Tone::Warn,
        Status::Fail => Tone::Bad,
    };
    let status = paint(&format!("{:<4}", word(&check.status)), tone);
    let hint = check.hint.as_ref().map(|hint| format!("{:<6}{:<19}{} {}\n", "", "", paint("hint:", Tone::Bold), clean(hint)));
    format!("{status}  {:<17}  {}\n{}", check.name, clean(&check.what), hint.unwrap_or_default())
}

impl Check {
    fn ok(name: &'static str, what: impl Into<String>) -> Self {
        Self { name, status: Status::Ok, what: what.into(), hint: None }
    }

    fn warn(name: &'static str, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { name, status: Status::Warn, what: what.into(), hint: Some(hint.into()) }
    }

    fn fail(name: &'static str, what: impl Into<String>, hint: Option<String>) -> Self {
        Self { name, status: Status::Fail, what: what.into(), hint }
    }
}
