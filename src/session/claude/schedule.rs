//! Prompts that the client schedules beyond its own end: `CronCreate` with `durable` writes them into `.claude/scheduled_tasks.json` below
//! the folder it works in, where any later session may run them (2.1.330: for 30 days). A session that is over has no business left, and
//! one that was killed least of all: its own are removed, those that were there before stay.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::Value;

use crate::store::replace;

const FOLDER: &str = ".claude";
const TASKS: &str = "scheduled_tasks.json";
const LOCK: &str = "scheduled_tasks.lock";
/// A schedule has a few kilobytes.
const LARGEST: u64 = 1 << 20;

/// Removes what the conversations `sessions` scheduled since `since` below these folders and their worktrees; returns how many prompts.
/// Nothing may run there any more. Blocks.
pub fn sweep<'a>(folders: impl IntoIterator<Item = &'a Path>, sessions: &[String], since: Timestamp) -> io::Result<usize> {
    let mut places: Vec<PathBuf> = folders.into_iter().flat_map(places).collect();
    places.sort();
    places.dedup();
    places.iter().map(|folder| sweep_one(folder, sessions, since)).sum()
}

/// The folder itself, and the client's worktrees below it.
fn places(folder: &Path) -> Vec<PathBuf> {
    if !is_folder(folder) {
        return Vec::new();
    }
    let (own, worktrees) = (folder.join(FOLDER), folder.join(FOLDER).join("worktrees"));
    let listed = (is_folder(&own) && is_folder(&worktrees)).then(|| fs::read_dir(&worktrees).ok()).flatten();
    let trees = listed.into_iter().flatten().flatten().map(|entry| entry.path()).filter(|tree| is_folder(tree));
    trees.chain([folder.to_owned()]).collect()
}

/// Itself, not by way of a link, which may lead anywhere.
fn is_folder(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|meta| meta.is_dir())
}

fn sweep_one(folder: &Path, sessions: &[String], since: Timestamp) -> io::Result<usize> {
    let dir = folder.join(FOLDER);
    let path = dir.join(TASKS);
    // A link may lead anywhere: what is not of the folder is none of ours.
    let plain = |path: &Path| path.symlink_metadata().ok();
    if !plain(&dir).is_some_and(|meta| meta.is_dir()) {
        return Ok(0);
    }
    let Some(meta) = plain(&path).filter(|meta| meta.is_file() && meta.len() <= LARGEST) else { return Ok(0) };
    let Ok(mut schedule) = serde_json::from_slice::<Value>(&fs::read(&path)?) else { return Ok(0) };
    let Some(tasks) = schedule.get_mut("tasks").and_then(Value::as_array_mut) else { return Ok(0) };
    let before = tasks.len();
    tasks.retain(|task| !is_of(task, sessions, since));
    let removed = before - tasks.len();
    if removed == 0 {
        return Ok(0);
    }
    if tasks.is_empty() {
        fs::remove_file(&path)?;
        // Its holder is dead; it would only be in the way of a commit.
        if plain(&dir.join(LOCK)).is_some_and(|meta| meta.is_file()) {
            fs::remove_file(dir.join(LOCK))?;
        }
        // Fails where anything else is in it, as it should.
        let _ = fs::remove_dir(&dir);
    } else {
        replace(&path, &serde_json::to_vec_pretty(&schedule)?)?;
        fs::set_permissions(&path, meta.permissions())?;
    }
    Ok(removed)
}

fn is_of(task: &Value, sessions: &[String], since: Timestamp) -> bool {
    match task["createdBySessionId"].as_str() {
        Some(session) => sessions.iter().any(|own| own == session),
        // Older clients do not say whose it is.
        None => task["createdAt"].as_i64().is_some_and(|at| at >= since.as_millisecond()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use serde_json::json;

    use super::*;

    fn write(folder: &Path, tasks: &Value) -> PathBuf {
        fs::create_dir_all(folder.join(FOLDER)).unwrap();
        let path = folder.join(FOLDER).join(TASKS);
        fs::write(&path, json!({ "tasks": tasks }).to_string()).unwrap();
        path
    }

    fn swept(folder: &Path) -> usize {
        sweep([folder, folder], &["mine".to_owned()], Timestamp::from_millisecond(1000).unwrap()).unwrap()
    }

    #[test]
    fn a_sessions_own_prompts_go_and_those_of_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let theirs = json!({ "id": "1", "createdBySessionId": "theirs", "createdAt": 2000 });
        let old = json!({ "id": "2", "createdAt": 999 });
        let tasks = json!([{ "id": "3", "createdBySessionId": "mine", "createdAt": 1 }, theirs, { "id": "4", "createdAt": 1000 }, old]);
        let path = write(dir.path(), &tasks);
        assert_eq!(swept(dir.path()), 2);
        let left: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(left, json!({ "tasks": [theirs, old] }));
        assert_eq!(swept(dir.path()), 0);
    }

    #[test]
    fn a_schedule_that_is_empty_afterwards_goes_with_its_lock_also_in_a_worktree() {
        let dir = tempfile::tempdir().unwrap();
        let worktree = dir.path().join(".claude/worktrees/x");
        for folder in [dir.path(), &worktree] {
            write(folder, &json!([{ "createdBySessionId": "mine" }]));
            fs::write(folder.join(FOLDER).join(LOCK), "").unwrap();
        }
        assert_eq!(swept(dir.path()), 2);
        assert!(!worktree.join(FOLDER).exists() && fs::read_dir(dir.path().join(FOLDER)).unwrap().count() == 1);
    }

    #[test]
    fn what_is_not_a_schedule_is_left_alone_and_no_link_is_followed() {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = write(elsewhere.path(), &json!([{ "createdBySessionId": "mine" }]));
        symlink(elsewhere.path().join(FOLDER), dir.path().join(FOLDER)).unwrap();
        assert_eq!((swept(dir.path()), path.exists()), (0, true));
        fs::remove_file(dir.path().join(FOLDER)).unwrap();
        fs::create_dir_all(dir.path().join(".claude/worktrees")).unwrap();
        symlink(elsewhere.path(), dir.path().join(".claude/worktrees/x")).unwrap();
        assert_eq!((swept(dir.path()), path.exists()), (0, true));
        fs::write(&path, "{").unwrap();
        assert_eq!((swept(elsewhere.path()), path.exists()), (0, true));
    }
}
