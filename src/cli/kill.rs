//! `sentrely kill`: asks for the end of sessions and tells what became of them.
//!
//! It writes each session's kill file and signals nobody: the session ends itself, and its guardian ends it if it does not. That a
//! session is gone is told by its lock, which supervisor and guardian hold; "killed" is said only then (invariant I10).

use std::io::IsTerminal;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use jiff::Timestamp;

use super::failure::{EXIT_FAILED, EXIT_PARTLY, EXIT_USAGE, Failure};
use super::show::{last_step, step};
use super::ui::{self, Tone, paint};
use super::words::{between, clean, counted, parse_duration};
use super::{finish, inside_session, open_state};
use crate::model::{EXIT_FAILED_PROMISE, SessionView, StopReason};
use crate::store::kill_file::{KillRequest, asker};
use crate::store::sweep::{boot_id, left_of, recheck, sweep_one};
use crate::store::{FindError, Killing, SessionDir, SessionLock, StateDir};

/// How often the journal is looked at for the next stage.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Kill sessions and wait until nothing of them is left
///
/// Spending stops first, then credentials are withheld, then the processes are ended; the work is saved on the session's branch.
/// Exits 0 when nothing is left, 3 for an unknown session, 4 when something is left (it is named) or only some could be killed.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The sessions' ids, or their first digits
    #[arg(value_name = "ID", conflicts_with = "all")]
    ids: Vec<String>,

    /// Kill every session of this user
    #[arg(long)]
    all: bool,

    /// Give the processes no time to end by themselves
    #[arg(long)]
    now: bool,

    /// Why: it stands in the record
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,

    /// How long to wait for the end
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "30s", hide = true)]
    patience: Duration,
}

/// Kills them.
pub(super) fn run(args: &Args) -> Result<u8, Failure> {
    if args.ids.is_empty() && !args.all {
        let hint = "name a session (`sentrely ls` lists them), or all of them with --all".to_owned();
        return Err(Failure::command(anyhow!("kill anything: no session was named"), Some(hint)).with_code(EXIT_USAGE));
    }
    let state = open_state()?;
    let (targets, unknown) = targets(args, &state)?;
    allowed_from_here(&targets, args)?;
    if targets.is_empty() {
        ui::say("no sessions are running");
        return Ok(0);
    }
    if args.all && std::io::stdin().is_terminal() {
        let count = counted(targets.len() as u64, "session", "sessions");
        if !ui::confirm(&format!("kill {count}?")) {
            ui::say("nothing was killed");
            return Ok(EXIT_FAILED);
        }
    }
    let mut complete = unknown.is_empty();
    let mut waiting = Vec::new();
    for view in targets {
        match ask(&state, view, args)? {
            Asked::Over(clean) => complete &= clean,
            Asked::Waiting(watch) => waiting.push(*watch),
        }
    }
    complete &= wait(&state, waiting, args.patience)?;
    for error in unknown {
        ui::report(&error.into());
    }
    Ok(if complete { 0 } else { EXIT_PARTLY })
}

/// The sessions that are meant, and those of several ids that nobody knows. An ambiguous id means none at all.
fn targets(args: &Args, state: &StateDir) -> Result<(Vec<SessionView>, Vec<FindError>), Failure> {
    if args.all {
        let boot = boot_id();
        // Of those that ended with something left only those whose survivors still run.
        let is_meant =
            |view: &SessionView| view.is_current() && (view.survivors.is_empty() || !left_of(&state.session(view.id), &boot).is_empty());
        return Ok((state.sessions()?.into_iter().filter(is_meant).collect(), Vec::new()));
    }
    let (mut found, mut unknown): (Vec<SessionView>, Vec<FindError>) = (Vec::new(), Vec::new());
    for id in &args.ids {
        match state.find(id) {
            Ok(view) if found.iter().any(|known| known.id == view.id) => {}
            Ok(view) => found.push(view),
            // Behind the wall a session sees no records, its own neither.
            Err(FindError::Unknown(_)) if inside_session().is_some() => return Err(out_of_reach(id)),
            Err(error @ FindError::Unknown(_)) => unknown.push(error),
            Err(error) => return Err(error.into()),
        }
    }
    match (found.is_empty(), unknown.pop()) {
        (true, Some(error)) => Err(error.into()),
        (_, last) => {
            unknown.extend(last);
            Ok((found, unknown))
        }
    }
}

fn out_of_reach(id: &str) -> Failure {
    let hint = format!("end the command itself, or from another terminal: sentrely kill {id}");
    Failure::command(anyhow!("kill {id}: from inside this session no such session can be reached"), Some(hint))
        .with_code(EXIT_FAILED_PROMISE)
}

/// From inside a session only that session itself may be killed: an agent must not end another's work.
fn allowed_from_here(targets: &[SessionView], args: &Args) -> Result<(), Failure> {
    let Some(own) = inside_session() else { return Ok(()) };
    if !args.all && targets.iter().all(|view| view.id.to_string() == own) {
        return Ok(());
    }
    let what = targets.iter().find(|view| view.id.to_string() != own).map_or("all sessions".to_owned(), |view| view.short_id.clone());
    let hint = format!("from inside a session only that session can be killed: sentrely kill {}", own.get(..8).unwrap_or(&own));
    Err(Failure::command(anyhow!("kill {what}: this is the inside of another session"), Some(hint)).with_code(EXIT_FAILED_PROMISE))
}

enum Asked {
    /// There was nothing to wait for; whether nothing is left.
    Over(bool),
    /// Its kill file is written.
    Waiting(Box<Watch>),
}

fn ask(state: &StateDir, view: SessionView, args: &Args) -> Result<Asked, Failure> {
    let request =
        KillRequest { by: Some(asker()), from: Some(origin()), reason: args.reason.clone(), at: Some(Timestamp::now()), now: args.now };
    match Killing::ask(state.session(view.id), &request).map_err(|error| Failure::command(error, None))? {
        Some(killing) => Ok(Asked::Waiting(Box::new(Watch { view, killing, told: false }))),
        None => Ok(Asked::Over(clear_up(state, &state.session(view.id), &view)?)),
    }
}

/// Says how a session ended that nobody holds any more, after clearing up if nobody had, and after another try where something was left.
/// Whether nothing of it is left.
fn clear_up(state: &StateDir, dir: &SessionDir, view: &SessionView) -> Result<bool, Failure> {
    let now = Timestamp::now();
    if let Some(swept) = sweep_one(dir, now, &boot_id())? {
        ui::print(&format!("{}\n", finish::tell(state, &swept)))?;
        return Ok(swept.survivors.is_empty());
    }
    let ended = dir.view().unwrap_or_else(|| view.clone());
    let how = ended.stop_reason.map_or("", StopReason::describe);
    let when = ended.ended_at.map(|at| format!(", {} ago", between(at, now))).unwrap_or_default();
    let left = recheck(dir, now, &boot_id())?.map(|rechecked| rechecked.left).unwrap_or_default();
    let left_now = left.iter().map(|left| still_there(&ended.short_id, &left.to_string())).collect::<String>();
    ui::print(&format!("session {} had ended already: {how}{when}\n{left_now}", ended.short_id))?;
    Ok(left.is_empty())
}

fn still_there(id: &str, survivor: &str) -> String {
    paint(&format!("{id}  STILL THERE: {}\n", clean(survivor)), Tone::Bad)
}

/// A session on its way down, and what was said of it.
struct Watch {
    view: SessionView,
    killing: Killing,
    told: bool,
}

impl Watch {
    /// Stages that came since the last look.
    fn news(&mut self) -> Result<String, Failure> {
        let new: Vec<String> = self.killing.look()?.iter().map(step).collect();
        let between = if self.told && !new.is_empty() { " · " } else { "" };
        self.told |= !new.is_empty();
        Ok(format!("{between}{}", new.join(" · ")))
    }

    /// What is left to tell once its lock is free.
    fn end(&self) -> String {
        let details = self.killing.details();
        let between = if self.told { " · " } else { "" };
        let mut text = last_step(details).map(|step| format!("{between}{step}")).unwrap_or_default();
        // It may have been ending for another reason when the kill came.
        let reason = details.attempts.last().and_then(|attempt| attempt.reason);
        if let Some(reason) = reason.filter(|reason| *reason != StopReason::Killed) {
            text.extend([" (", reason.describe(), ")"]);
        }
        text.push('\n');
        for survivor in &details.survivors {
            text.push_str(&still_there(&self.view.short_id, survivor));
        }
        text
    }
}

/// Waits for all of them and tells the stages as they come. Whether nothing is left of any.
fn wait(state: &StateDir, mut waiting: Vec<Watch>, patience: Duration) -> Result<bool, Failure> {
    let freed = await_locks(&waiting);
    let deadline = Instant::now() + patience;
    // One session's line grows as it goes down; those of several would mix, so each is written when it is whole.
    let (single, mut complete) = (waiting.len() == 1, true);
    let mut lines: Vec<String> = waiting.iter().map(|watch| format!("{}  ", watch.view.short_id)).collect();
    let mut open: Vec<bool> = vec![true; waiting.len()];
    while open.contains(&true) {
        let free = match freed.recv_timeout(LOOK_EVERY) {
            Ok(place) => Some(place),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                thread::sleep(LOOK_EVERY);
                None
            }
        };
        for (place, watch) in waiting.iter_mut().enumerate().filter(|(place, _)| open[*place]) {
            lines[place].push_str(&watch.news()?);
            if single && watch.told {
                ui::print(&std::mem::take(&mut lines[place]))?;
            }
        }
        if let Some(place) = free {
            open[place] = false;
            let watch = &mut waiting[place];
            // What it wrote before it let go of the lock.
            let mut line = std::mem::take(&mut lines[place]);
            line.push_str(&watch.news()?);
            if watch.killing.details().ended() {
                ui::print(&(line + &watch.end()))?;
                complete &= watch.killing.details().survivors.is_empty();
            } else {
                if watch.told {
                    ui::print(&(line + "\n"))?;
                }
                complete &= clear_up(state, watch.killing.dir(), &watch.view)?;
            }
        }
        if Instant::now() >= deadline {
            break;
        }
    }
    for (place, watch) in waiting.iter().enumerate().filter(|(place, _)| open[*place]) {
        let line = std::mem::take(&mut lines[place]);
        if watch.killing.details().is_saving() {
            // Killed is killed: only the delivery of the work goes on, and that may take as long as it takes.
            ui::print(&format!("{line}{}\n", paint(" · killed; still saving the work", Tone::Good)))?;
            continue;
        }
        complete = false;
        if watch.told {
            ui::print(&(line + "\n"))?;
        }
        give_up(watch, patience);
    }
    Ok(complete)
}

fn give_up(watch: &Watch, patience: Duration) {
    let id = &watch.view.short_id;
    let error = anyhow!("kill session {id}: it is still there after {} s", patience.as_secs());
    let hint = format!("its kill file stands; `sentrely kill --now {id}` waits again, `sentrely show {id}` tells its pid");
    ui::report(&Failure::command(error, Some(hint)));
}

/// Tells the place of each session whose lock has become free. A thread each, since that wait cannot be broken off.
fn await_locks(waiting: &[Watch]) -> Receiver<usize> {
    let (tell, freed) = channel();
    for (place, watch) in waiting.iter().enumerate() {
        let (tell, lock) = (tell.clone(), watch.killing.dir().lock_file());
        thread::spawn(move || {
            if SessionLock::wait_until_free(&lock).is_ok() {
                // The command may have lost its patience.
                let _ = tell.send(place);
            }
        });
    }
    freed
}

/// From where: the terminal, if there is one, and the machine.
pub(super) fn origin() -> String {
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| "unknown host".to_owned());
    let terminal = nix::unistd::ttyname(std::io::stdin()).ok();
    match terminal {
        Some(terminal) => format!("{} on {host}", terminal.display()),
        None => host,
    }
}
