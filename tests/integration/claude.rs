//! The real Claude Code: alone against the simulated upstream (what the other tests rely on), and under `sentrely run`.
//!
//! It has a private home and dummy credentials, speaks to loopback, and is ended with everything it started when its [`TestEnv`] goes.

mod alone;
mod circles;
mod clouds;
mod context;
mod cost;
mod credentials;
mod day;
mod ending;
mod escapes;
mod familiar;
mod identity;
mod invocation;
mod money;
mod network;
mod notices;
mod routing;
mod same_path;
mod sandbox;
mod shell;
mod subagents;
mod subscription;
mod terminal;
mod upstream;
mod users_own;

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use sentrely::model::Usd;
use sentrely::simulated::{Options, Script, Upstream};
use serde_json::Value;

use crate::support::claude::Claude;
use crate::support::env::TestEnv;
use crate::support::run::{Run, wait_for};

/// More than anything here takes on a busy machine.
const SOON: Duration = Duration::from_mins(1);

/// A home in which the client asks nothing.
fn world() -> TestEnv {
    let env = TestEnv::new();
    env.prepare_claude();
    env
}

/// An upstream that keeps the bodies it is sent.
fn upstream(script: impl Into<Script>) -> Upstream {
    Upstream::start_on_thread_with(script, Options { keep_bodies: true, ..Options::default() }).unwrap()
}

/// `sentrely run FLAGS -- claude ARGS`; the upstream and the credential are the caller's to name.
fn supervised<'e>(env: &'e TestEnv, claude: &Claude, flags: &[&str], args: &[&str]) -> Run<'e> {
    let program = claude.path().to_str().unwrap();
    env.sentrely(&[&["run"], flags, &["--", program], args].concat())
}

/// The only session, as `ls --json` tells it.
fn the_view(env: &TestEnv) -> Value {
    let listed = env.ls_json();
    let sessions = listed["sessions"].as_array().unwrap();
    assert_eq!(sessions.len(), 1, "{listed}");
    sessions[0].clone()
}

/// The id of the only session, once its command runs.
fn running(env: &TestEnv) -> String {
    let started = || env.sessions().into_iter().find(|id| !env.events(id, "child_started").is_empty());
    wait_for(SOON, "a session whose command runs", started)
}

/// Where the session works.
fn directory(env: &TestEnv, id: &str) -> PathBuf {
    PathBuf::from(env.events(id, "session_created")[0]["directory"].as_str().unwrap())
}

/// The process ids of the session's supervisor and of its command.
fn pids(env: &TestEnv, id: &str) -> (i32, i32) {
    let pid = |kind: &str| i32::try_from(env.events(id, kind)[0]["pid"].as_i64().unwrap()).unwrap();
    (pid("attempt_started"), pid("child_started"))
}

/// When the first event of a kind was recorded.
fn time_of(env: &TestEnv, id: &str, kind: &str) -> Timestamp {
    let record = env.journal(id).into_iter().find(|record| record["event"]["kind"] == kind);
    record.unwrap_or_else(|| panic!("no {kind} in the journal"))["at"].as_str().unwrap().parse().unwrap()
}

fn usd(amount: &str) -> Usd {
    amount.parse().unwrap()
}

/// A measurement, for who reads the test's output.
#[expect(clippy::print_stdout, reason = "captured with the test's output")]
fn tell(line: &str) {
    println!("{line}");
}

/// A command for the Bash tool that never ends, with a child in a session of its own that does not either. `started` appears when both run.
fn endless(env: &TestEnv) -> (String, PathBuf) {
    let (hold, started) = (env.root().join("hold"), env.root().join("started"));
    let (hold, mark) = (hold.display(), started.display());
    (format!("mkfifo {hold}; setsid sh -c 'trap \"\" TERM; echo $$ >> {mark}; cat {hold}; cat {hold}' & cat {hold}"), started)
}
