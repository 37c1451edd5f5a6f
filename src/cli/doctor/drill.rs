//! `doctor --drill`: the kill switch, tested before it is needed.
//!
//! A harmless runaway is run as a real session, in a state directory and a terminal of its own, and killed the way a person would: with
//! `sentrely kill`. It ignores TERM, forks twice out of every group and session, asks a simulated model without end, spoils the terminal,
//! and each of its processes beats a file every 10 ms. What is claimed is read from the beats, the journal, /proc and the terminal.
//!
//! Nothing is left behind: the drill's directories are temporary, the signals that would end it early are held back until it is over,
//! and its session has a time limit, so that even a drill that is killed outright leaves nothing that goes on.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, sleep};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::openpty;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::termios::{Termios, tcgetattr};
use serde::Serialize;
use tempfile::TempDir;

use super::machine::{self, Offer};
use super::runaway::{BEAT, micros};
use super::{Check, Status, Surroundings, tell};
use crate::cli::failure::{EXIT_FAILED, Failure};
use crate::cli::ui::{self, Tone, paint};
use crate::cli::words::millis;
use crate::model::{Details, EXIT_KILLED, Event, Record, Rung, SCHEMA_VERSION, SessionId, SessionView, StopReason, Usd};
use crate::simulated::{Answer, Script, Upstream};
use crate::store::kill_file::KillRequest;
use crate::store::sweep::marked_processes;
use crate::store::{SessionDir, StateDir, read_journal};

/// No step takes longer, on a slow machine too.
const PATIENCE: Duration = Duration::from_secs(30);
/// The session ends by itself then, whatever became of the drill.
const TIME_LIMIT: &str = "120s";
/// How long files are watched that nobody should beat any more.
const SILENCE: Duration = Duration::from_millis(300);
/// The runaway and its two orphans.
const BEATERS: usize = 3;
/// What ignores TERM and its like: the shell sets that for itself and all below it.
const STUBBORN: &str = "trap '' TERM INT HUP QUIT; exec \"$0\" doctor --play runaway";

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    ok: bool,
    drill: &'a Findings,
    checks: &'a [Check],
    rungs: Vec<Offer>,
}

/// What was measured. Times are in milliseconds after the trip: the moment that `sentrely kill` wrote down.
#[derive(Debug, Serialize)]
struct Findings {
    session: SessionId,
    /// What `sentrely kill` printed, and exited with.
    kill: String,
    kill_exit_code: Option<i32>,
    run_exit_code: Option<i32>,
    /// Requests that reached the simulated model in all.
    requests: usize,
    /// Of those, let through after the stop was recorded.
    requests_after: usize,
    /// Processes that beat before the trip.
    beating: usize,
    last_beat_ms: f64,
    /// Files that were beaten after `sentrely kill` had returned.
    beating_after: usize,
    survivors: Vec<String>,
    /// The rungs of the kill ladder that were used.
    rungs_used: Vec<Rung>,
    terminal_spoiled: bool,
    terminal_restored: bool,
}

/// Holds the drill and says what it found.
pub(super) fn run(json: bool, at: &Surroundings) -> Result<u8, Failure> {
    let failed = |error: anyhow::Error| Failure::command(error.context("hold the drill"), None);
    let held = hold_signals().map_err(failed)?;
    let found = drill(json);
    // Whoever wanted to end it has waited for this.
    let restored = held.thread_set_mask();
    let found = found.map_err(failed)?;
    restored.map_err(|error| failed(error.into()))?;
    let checks = judge(&found);
    let ok = checks.iter().all(|check| check.status != Status::Fail);
    let rungs = machine::rungs(at);
    if json {
        ui::print_json(&Document { schema_version: SCHEMA_VERSION, ok, drill: &found, checks: &checks, rungs })?;
    } else {
        let offers: Vec<String> = rungs.iter().map(Offer::tell).collect();
        let rungs = format!("      {:<17}  {}\n", "this machine has", offers.join("; "));
        ui::print(&(checks.iter().map(tell).collect::<String>() + &rungs))?;
        let (words, tone) =
            if ok { ("drill: the kill switch works", Tone::Good) } else { ("drill: the kill switch does NOT work here", Tone::Bad) };
        ui::say(&paint(words, tone));
    }
    Ok(if ok { 0 } else { EXIT_FAILED })
}

/// Blocks what would end the drill half way; returns the mask that was.
fn hold_signals() -> anyhow::Result<SigSet> {
    let before = SigSet::thread_get_mask().context("read the signal mask")?;
    let held: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT].into_iter().collect();
    held.thread_block().context("hold signals back")?;
    Ok(before)
}

fn judge(found: &Findings) -> Vec<Check> {
    let check = |name, good: bool, what: String, hint: &str| {
        if good { Check::ok(name, what) } else { Check::fail(name, what, Some(hint.to_owned())) }
    };
    let report = "please report it, with the output of `sentrely doctor --drill --json`";
    let left = if found.survivors.is_empty() { "none".to_owned() } else { found.survivors.join(", ") };
    let used: Vec<&str> = found.rungs_used.iter().map(|rung| rung.name()).collect();
    let by = if used.is_empty() { String::new() } else { format!("; ended by {}", used.join(", ")) };
    let after = if found.beating_after == 0 { "none since".to_owned() } else { format!("{} still beat", found.beating_after) };
    vec![
        check("kill", found.kill_exit_code == Some(0) && found.run_exit_code == Some(EXIT_KILLED.into()), found.kill.clone(), report),
        check(
            "spending",
            found.requests > 0 && found.requests_after == 0,
            format!("{} requests before, {} let through after the trip", found.requests, found.requests_after),
            report,
        ),
        check(
            "last beat",
            found.beating >= BEATERS && found.beating_after == 0,
            format!("{} after the trip, of {} processes; {after}", millis(found.last_beat_ms), found.beating),
            report,
        ),
        check("survivors", found.survivors.is_empty(), format!("{left}{by}"), "end them by hand: kill -9 PID"),
        check(
            "terminal",
            found.terminal_spoiled && found.terminal_restored,
            match (found.terminal_spoiled, found.terminal_restored) {
                (true, true) => "raw mode, alternate screen and mouse reports are off again".to_owned(),
                (true, false) => "it was not put in order".to_owned(),
                (false, _) => "the runaway could not spoil it, so nothing was shown".to_owned(),
            },
            "type `stty sane` after a kill",
        ),
    ]
}

fn drill(quiet: bool) -> anyhow::Result<Findings> {
    let tell = |line: &str| {
        if !quiet {
            ui::say(&format!("{} {line}", paint("drill │", Tone::Dim)));
        }
    };
    let world = World::build()?;
    let terminal = Screen::open()?;
    tell("a runaway that ignores TERM, forks out of every group, spends without end and spoils its terminal");
    let mut session = Session::start(&world, &terminal)?;
    wait_for("the runaway", || {
        Ok((world.beats()?.len() >= BEATERS && world.upstream.messages().len() >= 3 && terminal.is_spoiled()?).then_some(()))
    })?;
    let (beating, terminal_spoiled) = (world.beats()?.len(), terminal.is_spoiled()?);
    tell(&format!("$ sentrely kill {}", session.view.short_id));
    let killed = world.sentrely(&["kill", &session.view.short_id, "--reason", "drill"]).output().context("run sentrely kill")?;
    let returned = micros(SystemTime::now());
    let kill = String::from_utf8_lossy(&[killed.stdout, killed.stderr].concat()).trim().to_owned();
    let run_exit_code = session.wait()?;
    // Twenty beats and more: who lives shows it.
    sleep(SILENCE);
    let beats = world.beats()?;
    let trip = KillRequest::read(&session.dir.kill_file()).at.context("read when the kill was asked for")?;
    let trip = u64::try_from(trip.as_microsecond()).unwrap_or(0);
    let records = read_journal(&session.dir.journal_file()).context("read the session's journal")?;
    let last_beat = beats.iter().copied().max().unwrap_or(0);
    Ok(Findings {
        session: session.view.id,
        kill,
        kill_exit_code: killed.status.code(),
        run_exit_code,
        requests: world.upstream.messages().len(),
        requests_after: admitted_after_the_stop(&records),
        beating,
        last_beat_ms: Duration::from_micros(last_beat.saturating_sub(trip)).as_secs_f64() * 1_000.0,
        // A beat that was under way when kill returned is none after it.
        beating_after: beats.iter().filter(|beat| **beat > returned).count(),
        survivors: survivors(&records, session.view.id),
        rungs_used: Details::of(&records).outcome.rungs,
        terminal_spoiled,
        terminal_restored: terminal.is_as_before()?,
    })
}

/// By the journal, whose order is that of what happened.
fn admitted_after_the_stop(records: &[Record]) -> usize {
    let stop = records.iter().position(|record| matches!(record.event, Event::StopRequested { reason: StopReason::Killed, .. }));
    let after = stop.map_or(records, |place| &records[place..]);
    after.iter().filter(|record| matches!(record.event, Event::RequestAdmitted { .. })).count()
}

/// What the record names, and what /proc shows besides.
fn survivors(records: &[Record], id: SessionId) -> Vec<String> {
    let mut left = SessionView::fold(records).map(|view| view.survivors).unwrap_or_default();
    left.extend(marked_processes(id));
    left
}

/// The drill's temporary world; gone when dropped.
struct World {
    root: TempDir,
    upstream: Upstream,
    binary: PathBuf,
}

impl World {
    fn build() -> anyhow::Result<Self> {
        let root = tempfile::Builder::new().prefix("sentrely-drill-").tempdir().context("make a temporary directory")?;
        for dir in ["home", "state", "tmp", "beats"] {
            fs::create_dir(root.path().join(dir)).with_context(|| format!("make {dir}"))?;
        }
        let turn: Usd = "0.001".parse().context("read the price of a turn")?;
        let upstream = Upstream::start_on_thread(Script::always(Answer::turn(turn))).context("start the simulated model")?;
        Ok(Self { root, upstream, binary: std::env::current_exe().context("find the sentrely binary")? })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// The sentrely binary itself, in this world.
    fn sentrely(&self, words: &[&str]) -> Command {
        let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/local/bin:/usr/bin:/bin"));
        let mut command = Command::new(&self.binary);
        command.args(words).current_dir(self.path("beats")).stdin(Stdio::null()).env_clear().env("PATH", path);
        for (name, dir) in [("HOME", "home"), ("TMPDIR", "tmp"), ("SENTRELY_STATE_DIR", "state")] {
            command.env(name, self.path(dir));
        }
        command.env("LC_ALL", "C").env("TERM", "xterm-256color");
        command.env("ANTHROPIC_BASE_URL", self.upstream.url()).env("ANTHROPIC_API_KEY", "sk-ant-drill-0000000000-not-a-real-key");
        command
    }

    /// The last beat of each process that ever beat, in microseconds since 1970.
    fn beats(&self) -> anyhow::Result<Vec<u64>> {
        let mut beats = Vec::new();
        for entry in fs::read_dir(self.path("beats")).context("read the beats")? {
            let text = fs::read_to_string(entry.context("read the beats")?.path()).unwrap_or_default();
            beats.extend(text.parse::<u64>());
        }
        Ok(beats)
    }
}

/// The runaway's session. Dropped before its end, it is ended, and its processes with it.
struct Session {
    run: Child,
    view: SessionView,
    dir: SessionDir,
    over: bool,
}

impl Session {
    fn start(world: &World, terminal: &Screen) -> anyhow::Result<Self> {
        let tty = terminal.path.to_str().context("name the terminal")?;
        let binary = world.binary.to_str().context("name the sentrely binary")?;
        let words = [
            "doctor",
            "--play",
            "terminal",
            "--",
            tty,
            "run",
            "--workspace",
            "none",
            "--budget",
            "1000usd",
            "--timeout",
            TIME_LIMIT,
            "--",
            "sh",
            "-c",
            STUBBORN,
            binary,
        ];
        let mut command = world.sentrely(&words);
        let run = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("start the session")?;
        let mut unnamed = Some(run);
        let state = StateDir::open(&world.path("state")).context("read the drill's records")?;
        let found = wait_for("the session", || {
            let view = state.sessions().unwrap_or_default().into_iter().next();
            match view {
                Some(view) => Ok(Some(view)),
                None if unnamed.as_mut().is_none_or(|run| !matches!(run.try_wait(), Ok(None))) => {
                    bail!("start the session: {}", terminal.text())
                }
                None => Ok(None),
            }
        });
        let (Some(mut run), view) = (unnamed.take(), found) else { bail!("start the session") };
        match view {
            Ok(view) => Ok(Self { run, dir: state.session(view.id), view, over: false }),
            Err(error) => {
                // The guardian's end is the session's.
                let _ = run.kill();
                let _ = run.wait();
                Err(error)
            }
        }
    }

    /// Waits until `run` has ended; its exit code.
    fn wait(&mut self) -> anyhow::Result<Option<i32>> {
        let run = &mut self.run;
        let status = wait_for("the end of the session", || run.try_wait().context("wait for the session"))?;
        self.over = true;
        Ok(status.code())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let request = KillRequest { reason: Some("the drill was broken off".to_owned()), now: true, ..KillRequest::default() };
        let _ = crate::store::kill_file::write(&self.dir.kill_file(), &request);
        if self.wait().is_err() {
            let _ = self.run.kill();
            let _ = self.run.wait();
        }
    }
}

/// A terminal of the drill's own: what is written into it is kept, and it answers when it is asked what it is.
struct Screen {
    slave: OwnedFd,
    path: PathBuf,
    before: Termios,
    written: Arc<Mutex<Vec<u8>>>,
}

impl Screen {
    fn open() -> anyhow::Result<Self> {
        let pty = openpty(None, None).context("open a terminal")?;
        // The session must have its terminal from its leader alone: who holds the other end keeps it from ever hanging up.
        for end in [&pty.master, &pty.slave] {
            fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).context("keep the terminal to ourselves")?;
        }
        let path = nix::unistd::ttyname(&pty.slave).context("name the terminal")?;
        let before = tcgetattr(&pty.slave).context("read the terminal's mode")?;
        let written = Arc::new(Mutex::new(Vec::new()));
        let master = File::from(pty.master);
        let keep = Arc::clone(&written);
        thread::spawn(move || attend(&master, &keep));
        Ok(Self { slave: pty.slave, path, before, written })
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.written.lock().unwrap_or_else(PoisonError::into_inner)).trim().to_owned()
    }

    fn is_spoiled(&self) -> anyhow::Result<bool> {
        let raw = tcgetattr(&self.slave).context("read the terminal's mode")? != self.before;
        Ok(raw && self.is_on("?1049") && self.is_on("?1002"))
    }

    fn is_as_before(&self) -> anyhow::Result<bool> {
        let same = tcgetattr(&self.slave).context("read the terminal's mode")? == self.before;
        Ok(same && ["?1049", "?1002", "?2004"].iter().all(|mode| !self.is_on(mode)))
    }

    /// Whether a mode was switched on after it was last switched off.
    fn is_on(&self, mode: &str) -> bool {
        let text = self.text();
        text.rfind(&format!("\x1b[{mode}h")) > text.rfind(&format!("\x1b[{mode}l"))
    }
}

/// Reads until nobody has the terminal any more.
fn attend(mut master: &File, keep: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = master.read(&mut buffer) {
        keep.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..count]);
        if buffer[..count].windows(3).any(|asked| asked == b"\x1b[c") {
            let _ = master.write_all(b"\x1b[?62;22c");
        }
    }
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!("wait for {what}: not within {} s", PATIENCE.as_secs());
        }
        sleep(BEAT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Findings {
        Findings {
            session: SessionId::new(),
            kill: String::new(),
            kill_exit_code: Some(0),
            run_exit_code: Some(EXIT_KILLED.into()),
            requests: 3,
            requests_after: 0,
            beating: BEATERS,
            last_beat_ms: 2003.0,
            beating_after: 0,
            survivors: Vec::new(),
            rungs_used: vec![Rung::Term, Rung::Sweep],
            terminal_spoiled: true,
            terminal_restored: true,
        }
    }

    #[test]
    fn each_thing_that_goes_wrong_fails_the_drill() {
        let works = |found: &Findings| judge(found).iter().all(|check| check.status != Status::Fail);
        assert!(works(&good()));
        let wrong: [fn(&mut Findings); 10] = [
            |found| found.kill_exit_code = Some(4),
            |found| found.run_exit_code = Some(125),
            |found| found.requests = 0,
            |found| found.requests_after = 1,
            |found| found.beating = 1,
            |found| found.beating_after = 1,
            |found| found.survivors.push("4711 python3".to_owned()),
            |found| found.terminal_spoiled = false,
            |found| found.terminal_restored = false,
            |found| found.kill_exit_code = None,
        ];
        for spoil in wrong {
            let mut found = good();
            spoil(&mut found);
            assert!(!works(&found), "{found:?}");
        }
    }
}
