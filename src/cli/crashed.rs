//! What a crashed session leaves besides processes: its work. Where that lies, how to go on with it, and how it comes home.
//!
//! The work of a session whose supervisor died was brought home by nobody; it lies in the session's copy. It is never lost: nothing
//! removes a copy that holds work.

use std::path::Path;

use anyhow::Context;
use jiff::Timestamp;
use serde::Deserialize;

use super::words::{clean, counted};
use crate::git::{self, Checkout};
use crate::model::{Event, Record, SessionView, StopReason};
use crate::session::claude::schedule;
use crate::store::{Closer, Journal, SessionDir, SessionLock, StateDir, append_to_index, read_journal};

/// What is read of the session's `meta.json`.
#[derive(Deserialize)]
struct Meta {
    copy: Option<git::Workspace>,
}

/// Where the session's work is and how to go on with it, in words; `None` where it had no copy or that is gone.
pub(super) fn where_its_work_is(dir: &SessionDir) -> Option<String> {
    let root = copy(dir)?.root;
    let (root, id) = (clean(&root.display().to_string()), dir.id().short());
    let force = if dir.view().is_some_and(|view| view.stop_reason == Some(StopReason::Killed)) { " --force" } else { "" };
    Some(format!("its work is in {root}; `sentrely run --resume {id}{force} -- …` goes on with it"))
}

/// Brings the work of one session home if it crashed and nobody did; returns what to say, `None` where there was nothing to do.
/// The session's lock is held meanwhile. Blocks, and may run git. Uncommitted work is committed if `wip`.
pub(super) fn deliver(state: &StateDir, dir: &SessionDir, wip: bool) -> anyhow::Result<Option<String>> {
    let Some(copy) = copy(dir) else { return Ok(None) };
    if !read_journal(&dir.journal_file()).is_ok_and(|records| lies_undelivered(&records)) {
        return Ok(None);
    }
    let id = dir.id().short();
    let doing = || format!("bring the work of session {id} home; it lies in {}", copy.root.display());
    let Some(_lock) = SessionLock::take(&dir.lock_file()).with_context(doing)? else { return Ok(None) };
    let (mut journal, records) = Journal::open(&dir.journal_file()).with_context(doing)?;
    // Somebody may have been here between the look and the lock.
    let Some(mut view) = SessionView::fold(&records).filter(|_| lies_undelivered(&records)) else { return Ok(None) };
    let Some(checkout) = view.checkout.clone() else { return Ok(None) };
    let checkout = Checkout::discover(Path::new(&checkout)).with_context(doing)?;
    if let Err(error) = schedule::sweep([copy.root.as_path(), &copy.cwd], &view.claude_sessions, view.started_at) {
        super::ui::say(&format!("sentrely: what session {id} scheduled could not be removed: {error}"));
    }
    let wip = wip.then(|| format!("WIP: uncommitted work of sentrely session {id}"));
    let collected = git::collect(&checkout, &copy, wip.as_deref()).with_context(doing)?;
    if collected.unchanged {
        return Ok(None);
    }
    let commits = collected.commits as u64;
    let saved = Event::WorkSaved { branch: collected.branch.clone(), commit: collected.tip, commits, wip: collected.wip };
    view.apply(&journal.append(saved, Timestamp::now())?);
    journal.sync()?;
    dir.write_status(&view)?;
    append_to_index(state.path(), &view)?;
    let mut text = format!("session {id}: its work is on {} ({})", collected.branch, counted(commits, "commit", "commits"));
    if !collected.others.is_empty() {
        text = format!("{text}; further branches: {}", collected.others.join(", "));
    }
    if !collected.left_out.is_empty() {
        text = format!("{text}; not in the last commit, still in {}: {}", copy.root.display(), collected.left_out.join(", "));
    }
    for notice in &collected.notices {
        text = format!("{text}; {notice}");
    }
    Ok(Some(clean(&text)))
}

/// Whether all work of an ended session is in the developer's repository; its copy and what belongs to it there are removed then.
/// Blocks, and may run git. In doubt it stays.
///
/// A branch that the developer deleted is not brought back: its commits may be wanted nowhere, or be nowhere else.
pub(super) fn let_go(dir: &SessionDir, view: &SessionView) -> bool {
    let Some(copy) = copy(dir) else { return false };
    let Some(checkout) = view.checkout.as_ref().and_then(|path| Checkout::discover(Path::new(path)).ok()) else { return false };
    if view.commits > 0 && !checkout.has_branch(&copy.branch) {
        return false;
    }
    let message = format!("WIP: uncommitted work of sentrely session {}", dir.id().short());
    git::remove_clone(&checkout, &copy, &message).is_ok()
}

fn copy(dir: &SessionDir) -> Option<git::Workspace> {
    let meta = std::fs::read(dir.path().join("meta.json")).ok()?;
    serde_json::from_slice::<Meta>(&meta).ok()?.copy.filter(|copy| copy.root.is_dir())
}

/// Whether the last attempt was ended by somebody else than its supervisor, and its work was not brought home since.
fn lies_undelivered(records: &[Record]) -> bool {
    let mut lies = false;
    for record in records {
        match &record.event {
            Event::AttemptStarted { .. } | Event::WorkSaved { .. } => lies = false,
            Event::AttemptEnded { reason: StopReason::Crashed, .. } => lies = true,
            Event::StopRequested { by, .. } if Closer::wrote(by) => lies = true,
            _ => {}
        }
    }
    lies
}
