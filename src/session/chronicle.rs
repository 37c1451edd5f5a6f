//! The one writer of the journal within the supervisor, and the view that readers see.
//!
//! Every part of the session records through this. When a record cannot be written, what is spent can no longer be shown: the proxy
//! refuses the request at hand and the session stops with [`StopReason::JournalLost`].

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::mpsc::UnboundedSender;

use super::lifecycle::{Input, StopCall};
use crate::model::{Event, Record, SessionView, StopReason};
use crate::store::{Journal, JournalError, SessionDir};

/// A cheap handle on the journal and the view.
#[derive(Clone)]
pub struct Chronicle(Arc<Shared>);

struct Shared {
    dir: SessionDir,
    inputs: UnboundedSender<Input>,
    state: Mutex<State>,
}

struct State {
    journal: Journal,
    view: SessionView,
    dirty: bool,
    lost: bool,
}

/// Why nothing could be recorded.
#[derive(Debug, thiserror::Error)]
pub enum ChronicleError {
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// It holds something, but not the beginning of a session.
    #[error("read the journal of session {0}: it does not begin with the session's creation")]
    NoBeginning(String),
}

impl Chronicle {
    /// Opens the session's journal. For a new session `first` is its [`Event::SessionCreated`]; for a resumed one it is `None`.
    /// Also returns the records that were there.
    pub fn open(dir: SessionDir, first: Option<Event>, inputs: UnboundedSender<Input>) -> Result<(Self, Vec<Record>), ChronicleError> {
        let (mut journal, mut records) = Journal::open(&dir.journal_file())?;
        if let Some(first) = first {
            records.push(journal.append(first, Timestamp::now())?);
        }
        let view = SessionView::fold(&records).ok_or_else(|| ChronicleError::NoBeginning(dir.id().short()))?;
        let state = State { journal, view, dirty: true, lost: false };
        Ok((Self(Arc::new(Shared { dir, inputs, state: Mutex::new(state) })), records))
    }

    /// Writes an event down. An error has been told to the session already.
    pub fn record(&self, event: Event) -> io::Result<()> {
        self.record_at(event, Timestamp::now())
    }

    /// Writes down what happened at `at`, a moment ago.
    pub fn record_at(&self, event: Event, at: Timestamp) -> io::Result<()> {
        let mut state = self.lock();
        match state.journal.append(event.clone(), at) {
            Ok(record) => {
                state.view.apply(&record);
                state.dirty = true;
                Ok(())
            }
            Err(error) => {
                // Readers can no longer be told, but the person in front of it can.
                if matches!(event, Event::StopRequested { .. } | Event::AttemptEnded { .. }) {
                    state.view.apply(&Record { v: 1, seq: 0, at: Timestamp::now(), prev: String::new(), event });
                }
                if !std::mem::replace(&mut state.lost, true) {
                    let note = format!("{:#}", anyhow::Error::new(error));
                    let _ = self.0.inputs.send(Input::Stop(StopCall::own(StopReason::JournalLost, "journal", Some(note.clone()))));
                    return Err(io::Error::other(note));
                }
                Err(io::Error::other("the journal cannot be written"))
            }
        }
    }

    /// The session as it is now.
    pub fn view(&self) -> SessionView {
        self.lock().view.clone()
    }

    /// Claude Code's own session ids so far.
    pub fn claude_sessions(&self) -> Vec<String> {
        self.lock().view.claude_sessions.clone()
    }

    /// Brings `status.json` up to date if anything changed since the last time.
    pub fn publish(&self) -> io::Result<()> {
        let view = {
            let mut state = self.lock();
            if !std::mem::replace(&mut state.dirty, false) {
                return Ok(());
            }
            state.view.clone()
        };
        self.0.dir.write_status(&view)
    }

    /// Says once that the journal was deleted under the session: nothing shows any more what is spent, and no kill file can be made.
    pub fn look_for_the_journal(&self) {
        let mut state = self.lock();
        if !state.lost && !state.journal.is_there() {
            state.lost = true;
            let note = Some("the session's directory was deleted".to_owned());
            let _ = self.0.inputs.send(Input::Stop(StopCall::own(StopReason::JournalLost, "journal", note)));
        }
    }

    /// Brings the journal onto the disk itself.
    pub fn sync(&self) -> Result<(), JournalError> {
        self.lock().journal.sync()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
