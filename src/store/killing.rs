//! A kill as whoever asks for it sees it: the kill file is written, then the journal is read until the session's lock is free.
//!
//! Nobody is signalled from here, and no process id on disk is believed: the session ends itself, and its guardian ends it if it does not.

use super::kill_file::{self, KillFileError, KillRequest};
use super::{JournalError, SessionDir, Tail};
use crate::model::{Details, Stage};

/// A session on its way down.
#[derive(Debug)]
pub struct Killing {
    dir: SessionDir,
    tail: Tail,
    details: Details,
    /// How many stages were handed out.
    told: usize,
}

impl Killing {
    /// Asks a session to end; `None` if nobody holds it, so that there is nobody to ask. May be asked again and again.
    ///
    /// # Errors
    /// [`KillFileError::Write`] if the file cannot be written.
    pub fn ask(dir: SessionDir, request: &KillRequest) -> Result<Option<Self>, KillFileError> {
        if !dir.is_alive().unwrap_or(true) {
            return Ok(None);
        }
        kill_file::write(&dir.kill_file(), request)?;
        let tail = Tail::new(&dir.journal_file());
        Ok(Some(Self { dir, tail, details: Details::default(), told: 0 }))
    }

    /// Reads what was written since the last look; returns the stages that came.
    ///
    /// # Errors
    /// [`JournalError::Read`].
    pub fn look(&mut self) -> Result<&[Stage], JournalError> {
        for line in self.tail.read_new()? {
            self.details.apply(&line.record);
        }
        // A resumed session begins anew.
        let from = self.told.min(self.details.stages.len());
        self.told = self.details.stages.len();
        Ok(&self.details.stages[from..])
    }

    /// Whose it is.
    pub const fn dir(&self) -> &SessionDir {
        &self.dir
    }

    /// What the journal told so far.
    pub const fn details(&self) -> &Details {
        &self.details
    }

    /// Whether guardian and supervisor have let go of it.
    pub fn is_over(&self) -> bool {
        !self.dir.is_alive().unwrap_or(true)
    }
}
