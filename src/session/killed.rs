//! A kill sticks: what was killed is not gone on with unless a person says so with `--force`, neither as a session of ours nor as a
//! conversation of Claude Code's that a killed session held.

use std::path::Path;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::claude::arguments::SessionArgs;
use super::claude::places::Places;
use super::claude::transcripts::newest;
use super::{RunError, RunRequest};
use crate::model::{Event, SessionView, StopReason};
use crate::store::{Closer, StateDir, read_journal};

/// Refuses to go on with a killed session.
pub(super) fn refuse_to_resume(request: &RunRequest, earlier: &SessionView) -> Result<(), RunError> {
    if request.force || earlier.stop_reason != Some(StopReason::Killed) {
        return Ok(());
    }
    let id = &earlier.short_id;
    let error = format!("resume session {id}: it was {}", how(&request.state, earlier));
    let hint = format!("sentrely run --resume {id} --force -- …  goes on with it all the same");
    Err(RunError::words(error, Some(&hint)))
}

/// Refuses to take up, in another session, the conversation of a killed one.
pub(super) fn refuse_the_conversation(request: &RunRequest, args: &SessionArgs, places: &Places) -> Result<(), RunError> {
    let named = args.resume.as_ref().and_then(Option::as_ref);
    if request.force || request.resume.is_some() || (named.is_none() && !args.continues) {
        return Ok(());
    }
    let sessions = request.state.sessions().map_err(|error| {
        let hint = error.hint();
        RunError::new(error, hint)
    })?;
    // Real paths name the client's folders.
    let cwd = places.cwd.canonicalize().unwrap_or_else(|_| places.cwd.clone());
    let found = match named.cloned().or_else(|| newest(&places.config_dir, &cwd)) {
        Some(id) => sessions.iter().find(|view| view.claude_sessions.contains(&id)),
        // The newest comes first.
        None => sessions.iter().find(|view| Path::new(&view.directory) == cwd && !view.claude_sessions.is_empty()),
    };
    let Some(view) = found.filter(|view| view.stop_reason == Some(StopReason::Killed)) else { return Ok(()) };
    let error = format!("go on with the conversation of session {}: it was {}", view.short_id, how(&request.state, view));
    Err(RunError::words(error, Some("sentrely run --force -- …  takes it up all the same, with a budget and a branch of its own")))
}

/// `killed by ana from pts/3 at 2026-11-24 13:05:10: wrong branch`.
fn how(state: &StateDir, view: &SessionView) -> String {
    // Of a session whose directory was cleared away, the index has only that it was killed, and when it ended.
    let records = read_journal(&state.session(view.id).journal_file()).unwrap_or_default();
    let call = records.iter().rev().find_map(|record| match &record.event {
        // Not who carried it out when the supervisor could not.
        Event::StopRequested { reason: StopReason::Killed, by, from, note } if !Closer::wrote(by) => Some((record.at, by, from, note)),
        _ => None,
    });
    let Some((at, by, from, note)) = call else {
        return format!("killed{}", view.ended_at.map(|at| format!(" at {}", clock(at))).unwrap_or_default());
    };
    let from = from.as_ref().map(|from| format!(" from {from}")).unwrap_or_default();
    let note = note.as_ref().map(|note| format!(": {note}")).unwrap_or_default();
    format!("killed by {by}{from} at {}{note}", clock(at))
}

fn clock(at: Timestamp) -> String {
    at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}
