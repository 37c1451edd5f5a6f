//! The work is brought home while the session goes on, every few minutes: whatever becomes of the machine or of the clone, little is lost.
//!
//! It happens beside the supervisor's loop, on a thread of its own, and reads the clone only: no lock is taken there, nothing that the
//! agent does has to wait for it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::{JoinHandle, spawn_blocking};

use super::chronicle::Chronicle;
use crate::git::{self, Checkout, Collected, GitError, WorkspaceKind};
use crate::model::{Event, SessionId};

/// Brings work home, one at a time: the supervisor's own repository beside the clone is used by one.
#[derive(Clone, Default)]
pub(super) struct Saver(Arc<Mutex<()>>);

impl Saver {
    /// Collects. Blocks, also for one that is at it.
    pub(super) fn save(&self, checkout: &Checkout, copy: &git::Workspace, wip: Option<&str>) -> Result<Collected, GitError> {
        let _alone = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        git::collect(checkout, copy, wip)
    }

    /// Collects again and again, for as long as the task lives.
    pub(super) fn often(
        &self,
        every: Duration,
        checkout: Checkout,
        copy: git::Workspace,
        wip: Option<String>,
        chronicle: Chronicle,
    ) -> Option<JoinHandle<()>> {
        // In the developer's own checkout the work is at home already.
        if copy.kind == WorkspaceKind::InPlace {
            return None;
        }
        let saver = self.clone();
        Some(tokio::spawn(async move {
            let mut before = None;
            loop {
                tokio::time::sleep(every).await;
                let (saver, checkout, copy, wip) = (saver.clone(), checkout.clone(), copy.clone(), wip.clone());
                let collected = spawn_blocking(move || saver.save(&checkout, &copy, wip.as_deref())).await;
                // A file that went away while it was read, a full disk: tried again, and told at the end if it is still so.
                let Ok(Ok(collected)) = collected else { continue };
                if collected.unchanged || before.as_ref() == Some(&collected) {
                    continue;
                }
                // A lost journal has told the session already.
                let _ = chronicle.record(saved(&collected));
                before = Some(collected);
            }
        }))
    }
}

/// What uncommitted work is called in the developer's repository.
pub(super) fn message(id: SessionId) -> String {
    format!("WIP: uncommitted work of sentrely session {}", id.short())
}

/// For the record.
pub(super) fn saved(collected: &Collected) -> Event {
    Event::WorkSaved {
        branch: collected.branch.clone(),
        commit: collected.tip.clone(),
        commits: collected.commits as u64,
        wip: collected.wip,
    }
}
