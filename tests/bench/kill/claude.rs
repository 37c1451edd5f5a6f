//! The real Claude Code with five background commands, each in a session of its own, and one in the foreground; killed by `kill --now`.
//! Measured where the integration tests have installed it, against a simulated upstream.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::bail;
use sentrely::simulated::{Answer, Script, Upstream};
use sentrely::store::kill_file::{self, KillRequest};
use serde_json::json;

use crate::support::{Place, Samples, Table, after};
use crate::{Fifo, Running, SETTLE, asked_at, quantiles, stage};

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
    let (mut sent, mut gone, mut members) = (Samples::default(), Samples::default(), Samples::default());
    for _ in 0..rounds {
        let place = Place::new()?;
        round(&place, &claude, &mut sent, &mut gone, &mut members)?;
    }
    println!("Claude Code {VERSION} with {COMMANDS} background commands, `kill --now`, kill file written until ..., ms, p50/p99/max");
    let mut table = Table::new(&["kills", "processes (p50)", "signal sent", "last process gone"]);
    table.row(vec![gone.count().to_string(), format!("{:.0}", members.p50()), quantiles(&sent), quantiles(&gone)]);
    table.print();
    Ok(())
}

fn round(place: &Place, claude: &std::path::Path, sent: &mut Samples, gone: &mut Samples, members: &mut Samples) -> anyhow::Result<()> {
    let fifo = Fifo::make(place)?;
    let hold = format!("exec 3>{}; printf . >&3; sleep 600", fifo.path.display());
    let background = json!({ "command": hold, "description": "Hold", "run_in_background": true });
    let mut answers: Vec<Answer> = (0..COMMANDS).map(|_| Answer::tool("Bash", background.clone())).collect();
    answers.push(Answer::bash(hold));
    let upstream = Upstream::start_on_thread(Script::of(answers))?;
    let home = place.work().join("../home");
    fs::write(home.join(".claude.json"), json!({ "hasCompletedOnboarding": true, "bypassPermissionsModeAccepted": true }).to_string())?;
    let words = [claude.as_os_str(), "-p".as_ref(), "work".as_ref(), "--dangerously-skip-permissions".as_ref()];
    let mut command = place.run("none", &words);
    command.env("ANTHROPIC_BASE_URL", upstream.url()).env("ANTHROPIC_API_KEY", "sk-ant-api03-sentrely-bench-0000000000000000000000");
    command.env("IS_SANDBOX", "1").env("DISABLE_AUTOUPDATER", "1");
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
    sent.add_ms(acted + stage(&journal, "signal_sent")?);
    // Claude itself does not hold the FIFO: the journal says when the last was gone.
    gone.add_ms((acted + stage(&journal, "last_process_gone")?).max(held.as_secs_f64() * 1_000.0));
    let ended = journal.iter().rev().find_map(|record| match &record.event {
        sentrely::model::Event::AttemptEnded { processes_ended, .. } => Some(*processes_ended),
        _ => None,
    });
    members.add_ms(f64::from(ended.unwrap_or(0)));
    Ok(())
}
