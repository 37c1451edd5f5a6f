//! Removing the records of sessions that ended long ago, by age and by count.
//!
//! A session's directory goes when it is too old or one of too many; its line in the index stays for [`KEEP_SUMMARIES`]. What was never
//! ended, or may hold work that is nowhere else, is never removed: a directory with a working copy goes only once whoever knows git
//! has said that the work is in the developer's repository.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use jiff::{SignedDuration, Timestamp};

use super::sweep::SweepError;
use super::{SessionDir, SessionLock, StateDir, StateError, compact_index, read_index, read_journal};
use crate::model::{SessionId, SessionView};

/// How long an ended session's summary stays in the index: a year and a month.
const KEEP_SUMMARIES: SignedDuration = SignedDuration::from_hours(400 * 24);
/// How often a start looks at all; `finish` always does.
const LOOK_EVERY: Duration = Duration::from_hours(24);

/// What is kept of ended sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// For so many days.
    pub days: u32,
    /// At most so many.
    pub sessions: u32,
}

/// Whether a start should call [`prune`]: once a day. One look at one file, which is renewed by it.
pub fn is_pruning_due(state: &StateDir) -> bool {
    let stamp = stamp(state);
    let looked = fs::metadata(&stamp).and_then(|meta| meta.modified());
    looked.map_or(true, |at| SystemTime::now().duration_since(at).is_ok_and(|age| age >= LOOK_EVERY))
}

fn stamp(state: &StateDir) -> std::path::PathBuf {
    state.path().join("pruned")
}

/// Removes what is to go, the oldest first, and returns it. `let_go` is asked for each session with a working copy or a repository in
/// its directory: whether its work is in the developer's repository, and nothing here is needed any more.
pub fn prune(
    state: &StateDir,
    now: Timestamp,
    keep: Keep,
    mut let_go: impl FnMut(&SessionDir, &SessionView) -> bool,
) -> Result<Vec<SessionId>, SweepError> {
    let ended = read_index(state.path()).map_err(|source| StateError::Io { path: state.path().join("index.jsonl"), source })?;
    let mut pruned = Vec::new();
    for (dir, ended_at) in due(state.session_dirs()?, &ended, now, keep) {
        let failed = |source| SweepError::Io { session: dir.id(), source };
        let Some(_lock) = SessionLock::take(&dir.lock_file()).map_err(failed)? else { continue };
        // It may have been resumed since; what cannot be read is not thrown away.
        let Ok(records) = read_journal(&dir.journal_file()) else { continue };
        let Some(view) = SessionView::fold(&records).filter(|view| view.ended_at == Some(ended_at)) else { continue };
        if !holds_work(dir.path()) || let_go(&dir, &view) {
            fs::remove_dir_all(dir.path()).map_err(failed)?;
            pruned.push(dir.id());
        }
    }
    if let Ok(oldest) = now.checked_sub(KEEP_SUMMARIES) {
        let failed = |source| StateError::Io { path: state.path().join("index.jsonl"), source };
        // Whose directory is still there is no memory alone.
        compact_index(state.path(), |view| view.ended_at.is_none_or(|at| at >= oldest) || state.session(view.id).path().exists())
            .map_err(failed)?;
    }
    // Only makes the next start look again if it cannot be written.
    let stamped = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(stamp(state));
    let _ = stamped.and_then(|file| file.set_modified(SystemTime::now()));
    Ok(pruned)
}

/// The directories of ended sessions that are too old or too many, the oldest first, each with the end that makes it so.
fn due(dirs: Vec<SessionDir>, index: &[SessionView], now: Timestamp, keep: Keep) -> Vec<(SessionDir, Timestamp)> {
    let ends: HashMap<SessionId, Timestamp> = index.iter().filter_map(|view| Some((view.id, view.ended_at?))).collect();
    let mut ended: Vec<(SessionDir, Timestamp)> = dirs.into_iter().filter_map(|dir| ends.get(&dir.id()).map(|at| (dir, *at))).collect();
    ended.sort_by_key(|(dir, at)| (*at, dir.id()));
    let too_many = ended.len().saturating_sub(keep.sessions as usize);
    let oldest = now.checked_sub(SignedDuration::from_hours(24 * i64::from(keep.days))).unwrap_or(Timestamp::MIN);
    let too_old = ended.iter().take_while(|(_, at)| *at < oldest).count();
    ended.truncate(too_many.max(too_old));
    ended
}

/// Whether there is a working copy or a repository in here. What cannot be read might be one.
fn holds_work(dir: &Path) -> bool {
    let Ok(entries) = fs::read_dir(dir) else { return true };
    let mut names = Vec::new();
    for entry in entries {
        let Ok(entry) = entry else { return true };
        let name = entry.file_name();
        if name == "work" || name == ".git" {
            return true;
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && holds_work(&entry.path()) {
            return true;
        }
        names.push(name);
    }
    // A bare repository.
    ["HEAD", "objects", "refs"].iter().all(|part| names.iter().any(|name| name == part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Event, Outcome, StopReason};
    use crate::store::{Journal, append_to_index};

    fn state() -> (tempfile::TempDir, StateDir) {
        let temp = tempfile::tempdir().unwrap();
        let state = StateDir::open(temp.path()).unwrap();
        (temp, state)
    }

    /// A session that ended on this day.
    fn ended(state: &StateDir, day: i64) -> SessionDir {
        let (dir, at) = (state.session(SessionId::new()), Timestamp::from_second(day * 86_400).unwrap());
        dir.create().unwrap();
        let mut journal = Journal::open(&dir.journal_file()).unwrap().0;
        let created = crate::model::fixture::created(dir.id());
        journal.append(created, at).unwrap();
        let end = Event::AttemptEnded {
            reason: StopReason::ChildExited,
            exit_code: 0,
            processes_ended: 0,
            survivors: Vec::new(),
            outcome: Outcome::default(),
        };
        journal.append(end, at).unwrap();
        append_to_index(state.path(), &dir.view().unwrap()).unwrap();
        dir
    }

    fn day(day: i64) -> Timestamp {
        Timestamp::from_second(day * 86_400).unwrap()
    }

    const MANY: Keep = Keep { days: 1000, sessions: 1000 };

    #[test]
    fn the_oldest_go_by_age_or_by_count_whichever_takes_more() {
        let (_temp, state) = state();
        let dirs: Vec<SessionDir> = (1..=4).map(|day| ended(&state, day)).collect();
        let prune = |keep| prune(&state, day(10), keep, |_, _| panic!("there is no work")).unwrap();
        assert_eq!(prune(MANY), []);
        assert_eq!(prune(Keep { sessions: 3, ..MANY }), [dirs[0].id()]);
        assert_eq!(prune(Keep { days: 7, sessions: 2 }), [dirs[1].id()]);
        assert_eq!(prune(Keep { days: 6, sessions: 1000 }), [dirs[2].id()]);
        assert_eq!(read_index(state.path()).unwrap().len(), 4, "the summaries stay");
    }

    #[test]
    fn what_holds_work_goes_only_when_it_is_said_to_be_elsewhere() {
        let (_temp, state) = state();
        let dir = ended(&state, 1);
        fs::create_dir_all(dir.path().join("work/shop")).unwrap();
        let none = Keep { days: 1, sessions: 1 };
        assert_eq!(prune(&state, day(10), none, |_, _| false).unwrap(), []);
        assert!(dir.path().join("work/shop").exists());
        assert_eq!(prune(&state, day(10), none, |_, _| true).unwrap(), [dir.id()]);
    }

    #[test]
    fn what_lives_was_resumed_or_never_ended_stays() {
        let (_temp, state) = state();
        let (lives, resumed, torn) = (ended(&state, 1), ended(&state, 2), state.session(SessionId::new()));
        let _lock = SessionLock::take(&lives.lock_file()).unwrap().unwrap();
        let reopened = Event::Notice { what: "x".into() };
        Journal::open(&resumed.journal_file()).unwrap().0.append(reopened, day(9)).unwrap();
        torn.create().unwrap();
        let resumed_end = Event::AttemptEnded {
            reason: StopReason::ChildExited,
            exit_code: 0,
            processes_ended: 0,
            survivors: Vec::new(),
            outcome: Outcome::default(),
        };
        Journal::open(&resumed.journal_file()).unwrap().0.append(resumed_end, day(9)).unwrap();
        assert_eq!(prune(&state, day(100), Keep { days: 1, sessions: 1 }, |_, _| true).unwrap(), []);
    }

    #[test]
    fn the_index_keeps_one_line_a_session_and_forgets_after_a_year_and_a_month() {
        let (_temp, state) = state();
        let (old, young) = (ended(&state, 1), ended(&state, 300));
        append_to_index(state.path(), &young.view().unwrap()).unwrap();
        fs::remove_dir_all(old.path()).unwrap();
        prune(&state, day(500), MANY, |_, _| true).unwrap();
        let text = fs::read_to_string(state.path().join("index.jsonl")).unwrap();
        assert_eq!(text.lines().count(), 1);
        assert_eq!(read_index(state.path()).unwrap()[0].id, young.id());
    }

    #[test]
    fn a_start_looks_once_a_day() {
        let (_temp, state) = state();
        assert!(is_pruning_due(&state));
        prune(&state, Timestamp::now(), MANY, |_, _| true).unwrap();
        assert!(!is_pruning_due(&state));
        let yesterday = SystemTime::now() - LOOK_EVERY;
        fs::File::options().write(true).open(stamp(&state)).unwrap().set_modified(yesterday).unwrap();
        assert!(is_pruning_due(&state));
    }
}
