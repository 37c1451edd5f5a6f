//! The real Claude Code with five background commands, each in a session of its own, and one in the foreground; killed by `kill --now`, against
//! one kill(2) for each of the same processes without sentrely: killpg(2) would leave the commands alive. Measured where the integration tests have installed it, against a simulated upstream.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::bail;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sentrely::simulated::{Answer, Script, Upstream};
use sentrely::store::kill_file::{self, KillRequest};
use serde_json::json;

use crate::support::{Place, Samples, Table, after};
use crate::{Fifo, Running, SETTLE, asked_at, children, quantiles, stage};

const VERSION: &str = "2.1.330";
/// It starts slowly.
const PATIENCE: Duration = Duration::from_mins(1);
const COMMANDS: usize = 5;

fn program() -> Option<PathBuf> {
    // target/<profile>/deps/<this>
    let target = std::env::current_exe().ok()?.ancestors().nth(3)?.to_owned();
    let package = format!("claude-code/{VERSION}/node_modules/@anthropic-ai/claude-code-linux-x64/claude");
    Some(target.join(package)).filter(|path| path.is_file())
}

pub(crate) fn measure(rounds: usize) -> anyhow::Result<()> {
    let Some(claude) = program().filter(|_| rounds > 0) else {
        println!("Claude Code {VERSION}: not measured");
        return Ok(());
    };
    let mut times = Times::default();
    for _ in 0..rounds {
        floor(&Place::new()?, &claude, &mut times.floor)?;
        round(&Place::new()?, &claude, &mut times)?;
    }
    println!("Claude Code {VERSION} with {COMMANDS} background commands, `kill --now`, kill file written until ..., ms, p50/p99/max");
    let mut table = Table::new(&["kills", "processes (p50)", "gate closed", "signal sent", "last process gone", "kill(2) of each alone"]);
    table.row(vec![
        times.gone.count().to_string(),
        format!("{:.0}", times.members.p50()),
        quantiles(&times.gate),
        quantiles(&times.sent),
        quantiles(&times.gone),
        quantiles(&times.floor),
    ]);
    table.print();
    Ok(())
}

#[derive(Default)]
struct Times {
    floor: Samples,
    gate: Samples,
    sent: Samples,
    gone: Samples,
    members: Samples,
}

/// An upstream that has the client hold `fifo` by [`COMMANDS`] background commands and one more.
fn upstream(fifo: &Fifo) -> anyhow::Result<Upstream> {
    let hold = format!("exec 3>{}; printf . >&3; sleep 600", fifo.path.display());
    let background = json!({ "command": hold, "description": "Hold", "run_in_background": true });
    let mut answers: Vec<Answer> = (0..COMMANDS).map(|_| Answer::tool("Bash", background.clone())).collect();
    answers.push(Answer::bash(hold));
    Ok(Upstream::start_on_thread(Script::of(answers))?)
}

/// What the client needs to start work at once, and to reach nothing but `upstream`.
fn prepare(place: &Place, command: &mut Command, upstream: &Upstream) -> anyhow::Result<()> {
    let home = place.work().join("../home");
    fs::write(home.join(".claude.json"), json!({ "hasCompletedOnboarding": true, "bypassPermissionsModeAccepted": true }).to_string())?;
    command.env("ANTHROPIC_BASE_URL", upstream.url()).env("ANTHROPIC_API_KEY", "sk-ant-api03-sentrely-bench-0000000000000000000000");
    command.env("IS_SANDBOX", "1").env("DISABLE_AUTOUPDATER", "1").env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1");
    Ok(())
}

const WORDS: [&str; 3] = ["-p", "work", "--dangerously-skip-permissions"];

/// The same without sentrely.
fn floor(place: &Place, claude: &Path, times: &mut Samples) -> anyhow::Result<()> {
    let fifo = Fifo::make(place)?;
    let upstream = upstream(&fifo)?;
    let mut command = place.command(claude);
    command.args(WORDS).process_group(0);
    prepare(place, &mut command, &upstream)?;
    let running = Running::start(command)?;
    fifo.wait_within(COMMANDS + 1, PATIENCE)?;
    std::thread::sleep(SETTLE);
    let mut pids = vec![Pid::from_raw(running.pid()?)];
    let mut next = 0;
    while let Some(pid) = pids.get(next) {
        pids.extend(children(*pid)?);
        next += 1;
    }
    let begin = Instant::now();
    for pid in pids {
        // Its parent may have taken it along.
        let _ = kill(pid, Signal::SIGKILL);
    }
    // The client holds no FIFO, and its own end takes the longest.
    running.reap()?;
    times.add(begin.elapsed());
    Ok(())
}

fn round(place: &Place, claude: &Path, times: &mut Times) -> anyhow::Result<()> {
    let fifo = Fifo::make(place)?;
    let upstream = upstream(&fifo)?;
    let words: Vec<&OsStr> = std::iter::once(claude.as_os_str()).chain(WORDS.map(OsStr::new)).collect();
    let mut command = place.run("none", &words);
    prepare(place, &mut command, &upstream)?;
    let running = Running::start(command)?;
    fifo.wait_within(COMMANDS + 1, PATIENCE)?;
    std::thread::sleep(SETTLE);
    let sessions = place.sessions()?;
    let [dir] = sessions.as_slice() else { bail!("{} sessions instead of one", sessions.len()) };
    let (begin, begin_wall) = (Instant::now(), std::time::SystemTime::now());
    kill_file::write(&dir.join(kill_file::FILE_NAME), &KillRequest { now: true, ..KillRequest::default() })?;
    fifo.wait_for_end()?;
    let held = begin.elapsed();
    running.reap()?;
    let journal = place.journal()?;
    let acted = after(begin_wall, asked_at(&journal)?).as_secs_f64() * 1_000.0;
    times.gate.add_ms(acted + stage(&journal, "gate_closed")?);
    times.sent.add_ms(acted + stage(&journal, "signal_sent")?);
    // Claude itself does not hold the FIFO: the journal says when the last was gone.
    times.gone.add_ms((acted + stage(&journal, "last_process_gone")?).max(held.as_secs_f64() * 1_000.0));
    let ended = journal.iter().rev().find_map(|record| match &record.event {
        sentrely::model::Event::AttemptEnded { processes_ended, .. } => Some(*processes_ended),
        _ => None,
    });
    times.members.add_ms(f64::from(ended.unwrap_or(0)));
    Ok(())
}
