//! The last words of a record whose supervisor cannot write them: its guardian writes them, or whoever sweeps up after both.

use std::io;
use std::path::PathBuf;

use jiff::Timestamp;

use super::kill_file::{KillRequest, paths_for};
use super::{Journal, JournalError, LedgerError, SessionDir, append_to_index, book_ended};
use crate::model::{EXIT_FAILED_PROMISE, Event, Outcome, Record, SessionView, StopReason};

/// Who closes the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closer {
    /// The session's guardian.
    Guardian,
    /// The next command, after guardian and supervisor had both died.
    Sweep,
}

impl Closer {
    /// As it stands in the record.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Guardian => "guardian",
            Self::Sweep => "sweep",
        }
    }

    /// Whether a stop was recorded by one of them: then nobody brought the work home.
    pub fn wrote(by: &str) -> bool {
        [Self::Guardian, Self::Sweep].iter().any(|closer| closer.name() == by)
    }
}

/// What is to be told.
#[derive(Debug)]
pub struct Closing {
    /// Who tells it.
    pub by: Closer,
    /// What was found: `the supervisor died`.
    pub note: String,
    /// Processes that were ended.
    pub processes_ended: u32,
    /// How, and what is left.
    pub outcome: Outcome,
}

/// Why a record could not be closed.
#[derive(Debug, thiserror::Error)]
pub enum ClosingError {
    /// The journal could not be written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// What it has spent could not be booked in the ledger of shared limits. The next session that shares them does it.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The snapshot or the index could not.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The kill file that stands for this session: its own, or the one for all.
pub fn standing_kill_file(dir: &SessionDir) -> Option<PathBuf> {
    // Whatever it is: a dangling link kills too.
    paths_for(dir.path()).into_iter().find(|path| path.symlink_metadata().is_ok())
}

impl Closing {
    /// Writes the end of the last attempt; returns the session as it is then, `None` where there is none in the journal. Whoever calls holds
    /// the session's lock.
    ///
    /// With a kill that somebody asked for, the session was killed, and by whom stands in the kill file unless the supervisor wrote it down.
    ///
    /// # Errors
    /// [`ClosingError`]; the session's processes are what they are all the same.
    pub fn write(
        self,
        dir: &SessionDir,
        journal: &mut Journal,
        records: &[Record],
        now: Timestamp,
    ) -> Result<Option<SessionView>, ClosingError> {
        let Some(mut view) = SessionView::fold(records) else { return Ok(None) };
        let asked = |record: &Record| matches!(record.event, Event::StopRequested { reason: StopReason::Killed, .. });
        let of_attempt = |record: &&Record| !matches!(record.event, Event::AttemptStarted { .. });
        let is_recorded = records.iter().rev().take_while(of_attempt).any(asked);
        let file = standing_kill_file(dir);
        let reason = if is_recorded || file.is_some() { StopReason::Killed } else { StopReason::Crashed };
        let mut events = Vec::new();
        if let Some(file) = file.filter(|_| !is_recorded) {
            let request = KillRequest::read(&file);
            let by = request.by.unwrap_or_else(|| "whoever made the kill file".to_owned());
            let from = request.from.or_else(|| Some(file.display().to_string()));
            events.push(Event::StopRequested { reason, by, from, note: request.reason });
        }
        events.push(Event::StopRequested { reason, by: self.by.name().to_owned(), from: None, note: Some(self.note) });
        events.push(Event::AttemptEnded {
            reason,
            exit_code: reason.exit_code().unwrap_or(EXIT_FAILED_PROMISE),
            processes_ended: self.processes_ended,
            survivors: self.outcome.survivors.iter().map(ToString::to_string).collect(),
            outcome: self.outcome,
        });
        let mut records = records.to_vec();
        for event in events {
            let record = journal.append(event, now)?;
            view.apply(&record);
            records.push(record);
        }
        journal.sync()?;
        dir.write_status(&view)?;
        append_to_index(dir.state(), &view)?;
        book_ended(dir, &records)?;
        Ok(Some(view))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Survivor, SurvivorReason};
    use crate::store::{StateDir, kill_file, read_journal};

    fn created(dir: &SessionDir) -> Event {
        crate::model::fixture::created(dir.id())
    }

    fn closed(prepare: impl FnOnce(&SessionDir) -> Vec<Event>, survivors: Vec<Survivor>) -> (SessionView, Vec<Event>) {
        let temp = tempfile::tempdir().unwrap();
        let dir = StateDir::open(temp.path()).unwrap().session(crate::model::SessionId::new());
        dir.create().unwrap();
        let (mut journal, _) = Journal::open(&dir.journal_file()).unwrap();
        for event in [created(&dir)].into_iter().chain(prepare(&dir)) {
            journal.append(event, Timestamp::UNIX_EPOCH).unwrap();
        }
        let records = read_journal(&dir.journal_file()).unwrap();
        let outcome = Outcome { survivors, ..Outcome::default() };
        let closing = Closing { by: Closer::Guardian, note: "the supervisor died".into(), processes_ended: 1, outcome };
        let view = closing.write(&dir, &mut journal, &records, Timestamp::UNIX_EPOCH).unwrap().unwrap();
        (view, read_journal(&dir.journal_file()).unwrap().into_iter().skip(records.len()).map(|record| record.event).collect())
    }

    fn asked_by(event: &Event) -> Option<&str> {
        if let Event::StopRequested { reason: StopReason::Killed, by, .. } = event { Some(by) } else { None }
    }

    #[test]
    fn without_a_kill_it_crashed_and_the_record_says_of_what() {
        let (view, events) = closed(|_| Vec::new(), Vec::new());
        assert_eq!((view.stop_reason, view.stop_note.as_deref()), (Some(StopReason::Crashed), Some("the supervisor died")));
        assert_eq!((view.exit_code, events.len()), (Some(EXIT_FAILED_PROMISE), 2));
    }

    #[test]
    fn a_kill_file_makes_it_killed_by_whoever_wrote_it_also_with_something_left() {
        let left = Survivor { pid: 7, comm: "sudo".into(), start: Some(1), why: SurvivorReason::Setuid };
        let ask = |dir: &SessionDir| {
            let request = KillRequest { by: Some("ana".into()), reason: Some("runaway".into()), ..KillRequest::default() };
            kill_file::write(&dir.kill_file(), &request).unwrap();
            Vec::new()
        };
        let (view, events) = closed(ask, vec![left]);
        assert_eq!((view.stop_reason, view.exit_code), (Some(StopReason::Killed), Some(122)));
        assert_eq!((view.survivors.len(), view.is_current()), (1, true));
        assert_eq!(events.iter().filter_map(asked_by).collect::<Vec<_>>(), ["ana", "guardian"]);
    }

    #[test]
    fn a_kill_that_the_supervisor_wrote_down_is_not_written_down_again() {
        let stop = Event::StopRequested { reason: StopReason::Killed, by: "bea".into(), from: None, note: None };
        let ask = |dir: &SessionDir| {
            kill_file::write(&dir.kill_file(), &KillRequest { by: Some("ana".into()), ..KillRequest::default() }).unwrap();
            vec![stop]
        };
        let (view, events) = closed(ask, Vec::new());
        assert_eq!(view.stop_reason, Some(StopReason::Killed));
        assert_eq!(events.iter().filter_map(asked_by).collect::<Vec<_>>(), ["guardian"]);
    }
}
