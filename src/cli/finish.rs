//! `sentrely finish`: what crashed sessions left behind, cleared up, and their work brought home. CI's always-step.
//!
//! At the start of every run the same is cleared up, and the work of the last crashes brought home: little of it can be missing, since a
//! running session's is brought home every few minutes.

use std::time::Duration;

use jiff::Timestamp;

use super::failure::Failure;
use super::words::{clean, counted};
use super::{crashed, inside_session, load_config, open_state, ui};
use crate::config::Config;
use crate::model::{StopReason, Survivor};
use crate::process::clear_up_after_a_crash;
use crate::store::prune::{Keep, is_pruning_due, prune};
use crate::store::sweep::{Rechecked, Swept, boot_id, recheck, sweep};
use crate::store::{SessionDir, StateDir};

/// How far back a start looks for crashed sessions whose work nobody brought home, and for how many.
const LATELY: Duration = Duration::from_hours(24);
const CRASHES_AT_START: usize = 3;
/// How many working copies a start looks at for removal.
const COPIES_AT_START: u32 = 3;

/// Clear up after crashed sessions, bring their work home and remove old records
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

/// Clears up, and says what was done.
pub(super) fn run(_args: &Args) -> Result<u8, Failure> {
    if inside_session().is_some() {
        return Err(Failure::inside("clear up"));
    }
    let (state, now, config) = (open_state()?, Timestamp::now(), load_config(Vec::new())?.config);
    let mut rechecked = Vec::new();
    for dir in state.session_dirs()? {
        rechecked.extend(recheck(&dir, now, &boot_id())?);
    }
    rechecked.sort_by_key(|session| session.id);
    for session in &rechecked {
        ui::say(&tell_again(session));
    }
    let swept = sweep(&state, now, &boot_id())?;
    put_terminal_in_order(&swept);
    for session in &swept {
        ui::say(&tell(&state, session));
    }
    // Not only of those: a start may have cleared up after a crash before us, or the guardian.
    let (mut delivered, mut failed) = (0, 0);
    for dir in state.session_dirs()? {
        match crashed::deliver(&state, &dir, config.git.wip_commit) {
            Ok(None) => {}
            Ok(Some(line)) => {
                delivered += 1;
                ui::say(&line);
            }
            Err(error) => {
                failed += 1;
                ui::report(&Failure::command(error, None));
            }
        }
    }
    let keep = keep(&config);
    let mut kept = 0_u64;
    let pruned = prune(&state, now, keep, |dir, view| {
        let home = crashed::let_go(dir, view);
        kept += u64::from(!home);
        home
    })?;
    if !pruned.is_empty() {
        let count = counted(pruned.len() as u64, "ended session", "ended sessions");
        let Keep { days, sessions } = keep;
        ui::say(&format!("removed the records of {count} (kept: {days} days, at most {sessions}); their summaries stay"));
    }
    if kept > 0 {
        let count = counted(kept, "old session", "old sessions");
        ui::say(&format!("kept {count} whose work is not all in your repository: sentrely show ID tells where it lies"));
    }
    if swept.is_empty() && rechecked.is_empty() && pruned.is_empty() && delivered + failed == 0 {
        ui::say("nothing to clear up");
    }
    let left = swept.iter().map(|swept| &swept.survivors).chain(rechecked.iter().map(|session| &session.left));
    Ok(u8::from(failed > 0 || left.into_iter().any(|left| !left.is_empty())))
}

/// The same for the commands that look: nothing of a session that nobody holds any more runs on behind what they show. Returns what was swept.
pub(super) fn at_look(state: &StateDir) -> Vec<Swept> {
    if inside_session().is_some() {
        return Vec::new();
    }
    match sweep(state, Timestamp::now(), &boot_id()) {
        Ok(swept) => {
            put_terminal_in_order(&swept);
            for swept in &swept {
                ui::say(&tell(state, swept));
            }
            swept
        }
        Err(error) => {
            ui::report(&error.into());
            Vec::new()
        }
    }
}

/// The same at the start of every run: what cannot be cleared up is said and does not stop it.
pub(super) fn at_start(state: &StateDir, config: &Config, say: impl Fn(&str)) {
    let now = Timestamp::now();
    match sweep(state, now, &boot_id()) {
        Ok(swept) => {
            put_terminal_in_order(&swept);
            for swept in &swept {
                say(&tell(state, swept));
            }
        }
        Err(error) => say(&format!("could not {:#}", anyhow::Error::new(error))),
    }
    for dir in crashed_lately(state, now) {
        match crashed::deliver(state, &dir, config.git.wip_commit) {
            Ok(None) => {}
            Ok(Some(line)) => say(&line),
            Err(error) => say(&format!("could not {error:#}")),
        }
    }
    if !is_pruning_due(state) {
        return;
    }
    // To look whether the work of a copy came home takes git a while, and somebody waits for this start.
    let mut looks = COPIES_AT_START;
    let pruned = prune(state, now, keep(config), |dir, view| {
        let may_look = looks > 0;
        looks = looks.saturating_sub(1);
        may_look && crashed::let_go(dir, view)
    });
    if let Err(error) = pruned {
        say(&format!("could not {:#}", anyhow::Error::new(error)));
    }
}

/// This may be the terminal that one of them had, with neither its supervisor nor its guardian left to give it back.
fn put_terminal_in_order(swept: &[Swept]) {
    if !swept.is_empty() {
        clear_up_after_a_crash();
    }
}

/// The newest sessions that crashed within the last day.
fn crashed_lately(state: &StateDir, now: Timestamp) -> Vec<SessionDir> {
    let since = now - LATELY;
    let mut found: Vec<(Timestamp, SessionDir)> = state
        .session_dirs()
        .unwrap_or_default()
        .into_iter()
        .filter_map(|dir| {
            let view = dir.snapshot().filter(|view| view.stop_reason == Some(StopReason::Crashed))?;
            let ended = view.ended_at.unwrap_or(view.started_at);
            (ended > since).then_some((ended, dir))
        })
        .collect();
    found.sort_by_key(|(ended, _)| std::cmp::Reverse(*ended));
    found.into_iter().take(CRASHES_AT_START).map(|(_, dir)| dir).collect()
}

const fn keep(config: &Config) -> Keep {
    Keep { days: config.store.keep_days, sessions: config.store.keep_sessions }
}

/// One line on what is left of a session that had ended with something left.
fn tell_again(session: &Rechecked) -> String {
    let id = session.id.short();
    match session.left.as_slice() {
        [] => format!("session {id}: nothing of it is left any more"),
        left => format!("session {id} is {}", still_there(left)),
    }
}

/// `STILL THERE: 4711 (sudo): setuid ...`.
pub(super) fn still_there(left: &[Survivor]) -> String {
    let left: Vec<String> = left.iter().map(ToString::to_string).collect();
    format!("STILL THERE: {}", clean(&left.join(", ")))
}

/// One line on a session that had crashed, or been killed and had nobody left to say so.
pub(super) fn tell(state: &StateDir, swept: &Swept) -> String {
    let ended = match swept.processes_ended {
        0 => "no process of it was left".to_owned(),
        count => format!("{} ended", counted(u64::from(count), "process", "processes")),
    };
    let survivors = match swept.survivors.as_slice() {
        [] => String::new(),
        left => format!("; {}", still_there(left)),
    };
    let how = if swept.reason == StopReason::Killed { "was killed" } else { "had crashed" };
    let missed = if swept.may_have_missed {
        "; it had neither the full wall nor a cgroup: a process that cleared its environment may still run"
    } else {
        ""
    };
    let work = crashed::where_its_work_is(&state.session(swept.id)).map(|work| format!("; {work}")).unwrap_or_default();
    format!("session {} {how}: {ended}{survivors}{missed}{work}", swept.id.short())
}
