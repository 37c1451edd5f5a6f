//! Clearing up after sessions that nobody ended: supervisor and guardian both died, or the machine did; and after those that ended with
//! something left.
//!
//! A session is stale when its journal has no end and its lock is free; pids on disk prove nothing, for they are used again. What
//! its processes left behind is found and ended only in the boot that the session ran in: in its cgroup, and by its marks (`orphans`).
//!
//! The sweep holds the session's lock while it works, so it is the journal's one writer (invariant I5).

use std::io;
use std::path::Path;

use jiff::Timestamp;

use super::closing::{Closer, Closing, ClosingError};
use super::leftover::end_cgroup;
use super::orphans::{Marks, end_these, still_there};
use super::{
    Journal, JournalError, LedgerError, SessionDir, SessionLock, StateDir, StateError, append_to_index, last_record, read_journal,
};
use crate::model::{Event, Outcome, Record, SessionId, SessionState, SessionView, StopReason, Survivor};

pub use super::orphans::{MARKER, marked_processes};
pub use crate::system::boot_id;

/// A session that was cleared up after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swept {
    /// Which.
    pub id: SessionId,
    /// Processes that were still there and are gone now.
    pub processes_ended: u32,
    /// What could not be ended.
    pub survivors: Vec<Survivor>,
    /// What it is recorded as: crashed, or killed where somebody had asked for that.
    pub reason: StopReason,
    /// It had neither the full wall nor a cgroup of its own: an orphan that cleared its environment would not have been found.
    pub may_have_missed: bool,
}

/// A session that ended with something left, looked at again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rechecked {
    /// Which.
    pub id: SessionId,
    /// What is gone now.
    pub gone: Vec<Survivor>,
    /// What is still there.
    pub left: Vec<Survivor>,
}

/// Why clearing up failed.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// The state directory cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// A journal cannot be read or written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The ledger of shared limits cannot be read or written.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A file of a session cannot be used.
    #[error("clear up after session {}", session.short())]
    Io {
        /// Which session.
        session: SessionId,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl SweepError {
    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::State(error) => error.hint(),
            Self::Ledger(error) => error.hint(),
            Self::Journal(_) | Self::Io { .. } => None,
        }
    }
}

/// Clears up after every stale session and returns them. Blocks for a few seconds at most for each that left processes.
pub fn sweep(state: &StateDir, now: Timestamp, boot_id: &str) -> Result<Vec<Swept>, SweepError> {
    let mut swept = Vec::new();
    for dir in state.session_dirs()? {
        swept.extend(sweep_one(&dir, now, boot_id)?);
    }
    swept.sort_by_key(|swept| swept.id);
    Ok(swept)
}

/// Clears up after one session if it is stale; `None` if it lives, has ended or never began.
pub fn sweep_one(dir: &SessionDir, now: Timestamp, boot_id: &str) -> Result<Option<Swept>, SweepError> {
    let failed = |source| SweepError::Io { session: dir.id(), source };
    // The lock is touched only where there is work: a session that is just being made must find its lock free.
    if !looks_stale(dir) {
        return Ok(None);
    }
    let Some(_lock) = SessionLock::take(&dir.lock_file()).map_err(failed)? else { return Ok(None) };
    let (mut journal, records) = Journal::open(&dir.journal_file())?;
    // Somebody may have been here between the look and the lock.
    let Some(view) = SessionView::fold(&records).filter(|view| !has_ended(view)) else { return Ok(None) };
    let started = Started::of(&records);
    let (mut processes_ended, mut survivors, mut may_have_missed) = (0, Vec::new(), false);
    if is_of_boot(&view, boot_id) {
        let in_cgroup = started.cgroup.as_ref().map_or(0, |dir| end_cgroup(Path::new(dir)));
        let (ended, left) = Marks::new(dir.id(), started.command, started.walled).end_all();
        (processes_ended, survivors) = (in_cgroup + ended, left);
        may_have_missed = started.began && !started.walled && started.cgroup.is_none();
    }
    let outcome = Outcome { survivors: survivors.clone(), ..Outcome::default() };
    let note = "supervisor and guardian had died".to_owned();
    let closing = Closing { by: Closer::Sweep, note, processes_ended, outcome };
    let closed = closing.write(dir, &mut journal, &records, now).map_err(|error| match error {
        ClosingError::Journal(error) => SweepError::Journal(error),
        ClosingError::Ledger(error) => SweepError::Ledger(error),
        ClosingError::Io(source) => failed(source),
    })?;
    let reason = closed.and_then(|view| view.stop_reason).unwrap_or(StopReason::Crashed);
    Ok(Some(Swept { id: dir.id(), processes_ended, survivors, reason, may_have_missed }))
}

/// What is still there of a session that ended with something left. Nothing is signalled or written.
pub fn left_of(dir: &SessionDir, boot_id: &str) -> Vec<Survivor> {
    let Ok(records) = read_journal(&dir.journal_file()) else { return Vec::new() };
    let Some(view) = SessionView::fold(&records).filter(|view| is_of_boot(view, boot_id)) else { return Vec::new() };
    still_there(&recorded(&records, &view))
}

/// Tries once more to end what is left of a session that ended with something left, removes its cgroup, and records what is gone; `None`
/// where the record knows of nothing that is left.
pub fn recheck(dir: &SessionDir, now: Timestamp, boot_id: &str) -> Result<Option<Rechecked>, SweepError> {
    let failed = |source| SweepError::Io { session: dir.id(), source };
    // The snapshot tells at once that nearly every session left nothing.
    if dir.snapshot().is_some_and(|view| view.survivors.is_empty() || !has_ended(&view)) || !dir.journal_file().exists() {
        return Ok(None);
    }
    let Some(_lock) = SessionLock::take(&dir.lock_file()).map_err(failed)? else { return Ok(None) };
    let (mut journal, records) = Journal::open(&dir.journal_file())?;
    let Some(mut view) = SessionView::fold(&records).filter(|view| has_ended(view) && !view.survivors.is_empty()) else { return Ok(None) };
    let known = recorded(&records, &view);
    let mut left = Vec::new();
    if is_of_boot(&view, boot_id) {
        if known.is_empty() {
            return Ok(None);
        }
        if let Some(cgroup) = Started::of(&records).cgroup {
            end_cgroup(Path::new(&cgroup));
        }
        left = end_these(&known);
    }
    let gone: Vec<Survivor> = known.into_iter().filter(|known| !left.iter().any(|left| left.pid == known.pid)).collect();
    if left.is_empty() || !gone.is_empty() {
        let event = Event::SurvivorsGone {
            gone: gone.iter().map(|survivor| format!("{} ({})", survivor.pid, survivor.comm)).collect(),
            left: left.iter().map(ToString::to_string).collect(),
        };
        view.apply(&journal.append(event, now)?);
        journal.sync()?;
        dir.write_status(&view).map_err(failed)?;
        append_to_index(dir.state(), &view).map_err(failed)?;
    }
    Ok(Some(Rechecked { id: dir.id(), gone, left }))
}

/// The survivors of the last end, without those that are known to be gone.
fn recorded(records: &[Record], view: &SessionView) -> Vec<Survivor> {
    let ended = records.iter().rev().find_map(|record| match &record.event {
        Event::AttemptEnded { outcome, .. } => Some(&outcome.survivors),
        _ => None,
    });
    let is_left = |survivor: &&Survivor| view.survivors.iter().any(|left| left.starts_with(&format!("{} (", survivor.pid)));
    ended.into_iter().flatten().filter(is_left).cloned().collect()
}

fn is_of_boot(view: &SessionView, boot_id: &str) -> bool {
    view.boot_id == boot_id || view.boot_id.is_empty()
}

/// What the last attempt's command is known by.
#[derive(Default)]
struct Started {
    began: bool,
    command: Option<(i32, u64)>,
    cgroup: Option<String>,
    walled: bool,
}

impl Started {
    fn of(records: &[Record]) -> Self {
        let started = records.iter().rev().find_map(|record| match &record.event {
            Event::ChildStarted { pid, start, cgroup, mounts } => {
                Some(Self { began: true, command: i32::try_from(*pid).ok().zip(*start), cgroup: cgroup.clone(), walled: mounts.is_some() })
            }
            _ => None,
        });
        started.unwrap_or_default()
    }
}

fn looks_stale(dir: &SessionDir) -> bool {
    // Nearly every session has ended as it should, and the journal of one that lives may be long.
    let last = last_record(&dir.journal_file());
    if matches!(last, Ok(None | Some(Record { event: Event::AttemptEnded { .. }, .. }))) || dir.is_alive().unwrap_or(true) {
        return false;
    }
    let view = read_journal(&dir.journal_file()).ok().and_then(|records| SessionView::fold(&records));
    view.is_some_and(|view| !has_ended(&view))
}

/// Whether the journal tells an end, however it came.
const fn has_ended(view: &SessionView) -> bool {
    matches!(view.state, SessionState::Stopped | SessionState::Crashed) && view.ended_at.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::read_index;

    fn created(state: &StateDir) -> SessionDir {
        let dir = state.session(SessionId::new());
        dir.create().unwrap();
        let event = crate::model::fixture::created(dir.id());
        Journal::open(&dir.journal_file()).unwrap().0.append(event, Timestamp::UNIX_EPOCH).unwrap();
        dir
    }

    #[test]
    fn a_session_that_lives_or_is_just_being_made_is_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        let state = StateDir::open(temp.path()).unwrap();
        let lives = created(&state);
        let _lock = SessionLock::take(&lives.lock_file()).unwrap().unwrap();
        let young = state.session(SessionId::new());
        young.create().unwrap();
        assert_eq!(sweep(&state, Timestamp::UNIX_EPOCH, "boot").unwrap(), []);
        assert!(!young.lock_file().exists(), "its lock must be free for it");
    }

    #[test]
    fn a_stale_session_is_recorded_once() {
        let temp = tempfile::tempdir().unwrap();
        let state = StateDir::open(temp.path()).unwrap();
        let dir = created(&state);
        let swept = Swept { id: dir.id(), processes_ended: 0, survivors: Vec::new(), reason: StopReason::Crashed, may_have_missed: false };
        assert_eq!(sweep(&state, Timestamp::UNIX_EPOCH, "boot").unwrap(), [swept]);
        assert_eq!(sweep(&state, Timestamp::UNIX_EPOCH, "boot").unwrap(), []);
        assert_eq!(read_index(state.path()).unwrap().len(), 1);
        assert_eq!(dir.view().unwrap().stop_reason, Some(StopReason::Crashed));
    }
}
