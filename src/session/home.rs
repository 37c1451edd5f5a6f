//! At the end of a session behind the full wall: what of the copy of the home directory is the user's, and what is said of the rest.
//!
//! A login that was made inside is kept; of Claude Code's state file only [`PROJECT_KEYS`] and [`OWN_KEYS`] come back, none of which lets anything
//! run: no permission, no server, no trust. Everything else stays in the layer, is named, and goes away with the session's records.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Map, Value};

use super::claude::Env;
use super::claude::places::Places;
use super::prepare::Prepared;
use super::report::{Report, Reporter};
use super::same_path;
use super::workplace::Workplace;

use crate::model::Event;
use crate::store::replace;
use crate::wall::{HomeChange, HomeChangeKind, Layer};

/// Of `projects[<folder>]`: what was and what it cost.
const PROJECT_KEYS: [&str; 12] = [
    "hasCompletedProjectOnboarding",
    "projectOnboardingSeenCount",
    "lastSessionId",
    "lastCost",
    "lastAPIDuration",
    "lastDuration",
    "lastLinesAdded",
    "lastLinesRemoved",
    "lastTotalInputTokens",
    "lastTotalOutputTokens",
    "lastTotalCacheCreationInputTokens",
    "lastTotalCacheReadInputTokens",
];
/// Of the file itself: the first questions, and who is logged in.
const OWN_KEYS: [&str; 6] = ["hasCompletedOnboarding", "lastOnboardingVersion", "theme", "numStartups", "oauthAccount", "hasSeenWelcome"];
/// Files that come back when there is none outside: a login made inside, and what was typed.
const KEPT_FILES: [&str; 2] = [".credentials.json", "history.jsonl"];
/// What the client takes for a lock that nobody holds any more.
const STALE: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(2);
/// So many changes are named on the screen.
const NAMED: usize = 12;

/// Settles it. Call when nothing of the session runs any more.
pub(super) fn settle(prepared: &Prepared, workplace: &Workplace, reporter: &Reporter) {
    let Some(layer) = &workplace.layer else { return };
    // What stays is swept later.
    let _ = same_path::clear(&workplace.dir);
    let places = Places::new(&prepared.request.env, &prepared.request.cwd);
    let Ok(Owner { home, config_dir }) = Owner::of(&prepared.request.env, &prepared.request.cwd) else { return };
    let inside = |path: &Path| inside(layer, &home, &config_dir, path);
    for (own, real, error) in keep_files(layer, &home, &config_dir) {
        reporter(Report::Alarm(format!("{} could not be kept, it lies in {}: {error}", real.display(), own.display())));
    }
    let state_file = match places.state_file.strip_prefix(&places.home) {
        Ok(relative) => home.join(relative),
        Err(_) => places.state_file.clone(),
    };
    // The copy is gone one day: what the client notes of it belongs to the folder that it is a copy of.
    let theirs = places.cwd.canonicalize().unwrap_or_else(|_| places.cwd.clone());
    let own = inside(&state_file);
    if is_within(layer, &own)
        && let Err(error) = merge_state(&own, &state_file, &workplace.cwd, &theirs)
    {
        reporter(Report::Notice(format!("{} was left as it is: {error}", state_file.display())));
    }
    let changes = layer.changes(&home);
    if changes.is_empty() {
        // What is left of it is swept by age.
        let _ = layer.remove();
        return;
    }
    let words = describe(&changes, layer);
    let _ = workplace.chronicle.record(Event::Notice { what: format!("home: {}", described(&changes, usize::MAX)) });
    reporter(Report::Notice(words));
}

/// Whose home and configuration folder a layer is of. Beside it, where the command sees nothing.
struct Owner {
    home: PathBuf,
    config_dir: PathBuf,
}

impl Owner {
    fn file(layer: &Layer) -> PathBuf {
        layer.dir().join("owner")
    }

    fn of(env: &Env, cwd: &Path) -> io::Result<Self> {
        let places = Places::new(env, cwd);
        let config_dir = places.config_dir.canonicalize().unwrap_or(places.config_dir);
        Ok(Self { home: places.home.canonicalize()?, config_dir })
    }
}

/// Notes with the layer whose it is, so that [`settle_crashed`] asks nobody else.
pub(super) fn note_owner(env: &Env, cwd: &Path, layer: &Layer) -> io::Result<()> {
    let Owner { home, config_dir } = Owner::of(env, cwd)?;
    // No path has a zero byte in it.
    replace(&Owner::file(layer), &[home.as_os_str().as_bytes(), config_dir.as_os_str().as_bytes()].join(&0))
}

/// Keeps the login that was made in a session which crashed: once, in the folder that was the session's, whatever this environment's is. Later
/// a login that is gone was taken away by the user.
pub(super) fn settle_crashed(layer: &Layer) {
    let note = Owner::file(layer);
    let Ok(text) = fs::read(&note) else { return };
    let mut paths = text.split(|byte| *byte == 0).map(|path| Path::new(OsStr::from_bytes(path)));
    let (Some(home), Some(config_dir)) = (paths.next(), paths.next()) else { return };
    // What could not be written is tried again at the next start.
    if keep_files(layer, home, config_dir).is_empty() {
        let _ = fs::remove_file(note);
    }
}

/// Where the session's own of a file lies.
fn inside(layer: &Layer, home: &Path, config_dir: &Path, path: &Path) -> PathBuf {
    match path.strip_prefix(home) {
        Ok(relative) => layer.file(relative),
        Err(_) => layer.dir().join("home.1").join(path.strip_prefix(config_dir).unwrap_or(path)),
    }
}

/// Those that could not be kept: where each lies, where it belongs, and why.
fn keep_files(layer: &Layer, home: &Path, config_dir: &Path) -> Vec<(PathBuf, PathBuf, io::Error)> {
    let one = |name: &str| {
        let real = config_dir.join(name);
        let own = inside(layer, home, config_dir, &real);
        is_within(layer, &own).then(|| keep_file(&own, &real).err()).flatten().map(|error| (own, real, error))
    };
    KEPT_FILES.iter().filter_map(|name| one(name)).collect()
}

/// Whether no folder on the way is a link that leads out of the layer: the command made them.
fn is_within(layer: &Layer, own: &Path) -> bool {
    let real = |path: Option<&Path>| path.and_then(|path| path.canonicalize().ok());
    real(own.parent()).zip(real(Some(layer.dir()))).is_some_and(|(folder, layer)| folder.starts_with(layer))
}

/// What changed, and how to have it.
fn describe(changes: &[HomeChange], layer: &Layer) -> String {
    let upper = layer.file(Path::new(""));
    let upper = upper.display().to_string();
    let upper = upper.trim_end_matches('/');
    let first = changes.iter().find(|change| change.kind != HomeChangeKind::Removed);
    let line = first.map(|change| {
        let path = shell_quoted(&change.path);
        format!("; to have one in your home: cp -a {upper}/{path} ~/{path}")
    });
    format!("left in the session's copy of your home: {}{}", described(changes, NAMED), line.unwrap_or_default())
}

fn described(changes: &[HomeChange], most: usize) -> String {
    let one = |change: &HomeChange| {
        let kind = match change.kind {
            HomeChangeKind::Made => "made",
            HomeChangeKind::Changed => "changed",
            HomeChangeKind::Removed => "removed",
        };
        let files = if change.files > 1 { format!(" ({} files)", change.files) } else { String::new() };
        let runs = if change.runs { " (runs by itself or as a program)" } else { "" };
        format!("{kind} {}{files}{runs}", change.path.display())
    };
    let mut rows: Vec<String> = changes.iter().take(most).map(one).collect();
    if changes.len() > most {
        rows.push(format!("and {} more", changes.len() - most));
    }
    rows.join(", ")
}

fn shell_quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./+,@".contains(&byte);
    if text.bytes().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// A regular file that was made inside and is not there outside. The command wrote it, so nothing but its being a file is taken for granted.
fn keep_file(own: &Path, real: &Path) -> io::Result<()> {
    let is_file = fs::symlink_metadata(own).is_ok_and(|meta| meta.is_file() && meta.len() > 0);
    if !is_file || real.symlink_metadata().is_ok() {
        return Ok(());
    }
    replace(real, &fs::read(own)?)?;
    fs::remove_file(own)
}

/// Takes the harmless keys of the inside state file over into the real one, under the client's own lock.
fn merge_state(own: &Path, real: &Path, cwd: &Path, theirs: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(own).is_ok_and(|meta| meta.is_file()) {
        return Ok(());
    }
    let Ok(Value::Object(inside)) = serde_json::from_slice(&fs::read(own)?) else { return Ok(()) };
    let lock = ClientLock::take(real)?;
    let before = match fs::read(real) {
        Ok(content) => serde_json::from_slice(&content).map_err(io::Error::other)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Value::Object(Map::new()),
        Err(error) => return Err(error),
    };
    let after = merged(before.clone(), &inside, &cwd.to_string_lossy(), &theirs.to_string_lossy());
    if after != before {
        replace(real, &serde_json::to_vec_pretty(&after)?)?;
    }
    drop(lock);
    Ok(())
}

/// `cwd` is where the client worked, `theirs` the user's own folder for it.
fn merged(mut real: Value, inside: &Map<String, Value>, cwd: &str, theirs: &str) -> Value {
    let Value::Object(own) = &mut real else { return real };
    for key in OWN_KEYS {
        if let Some(value) = inside.get(key) {
            own.insert(key.to_owned(), value.clone());
        }
    }
    if let Some(project) = inside.get("projects").and_then(|projects| projects.get(cwd)).and_then(Value::as_object) {
        let kept = PROJECT_KEYS.iter().filter_map(|key| Some(((*key).to_owned(), project.get(*key)?.clone())));
        let kept: Map<String, Value> = kept.collect();
        if !kept.is_empty() {
            let projects = own.entry("projects").or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(projects) = projects
                && let Value::Object(known) = projects.entry(theirs).or_insert_with(|| Value::Object(Map::new()))
            {
                known.extend(kept);
            }
        }
    }
    real
}

/// The client's lock on its state file: a directory beside it.
struct ClientLock(PathBuf);

impl ClientLock {
    fn take(file: &Path) -> io::Result<Self> {
        let mut name = file.as_os_str().to_owned();
        name.push(".lock");
        let (path, deadline) = (PathBuf::from(name), Instant::now() + PATIENCE);
        loop {
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    let age = fs::metadata(&path)
                        .and_then(|meta| meta.modified())
                        .map(|at| SystemTime::now().duration_since(at).unwrap_or_default());
                    if age.is_ok_and(|age| age > STALE) {
                        let _ = fs::remove_dir(&path);
                    } else if Instant::now() > deadline {
                        return Err(io::Error::new(io::ErrorKind::WouldBlock, "a Claude Code is writing it"));
                    } else {
                        std::thread::sleep(Duration::from_millis(20));
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for ClientLock {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_the_state_file_nothing_comes_back_that_lets_anything_run() {
        let real = json!({ "theme": "dark", "mine": 1, "projects": { "/other": { "allowedTools": ["Bash"] } } });
        let inside = json!({
            "theme": "light", "mine": 2, "mcpServers": { "x": { "command": "evil" } }, "bypassPermissionsModeAccepted": true,
            "projects": {
                "/copy": { "lastCost": 2, "allowedTools": ["Bash(*)"], "mcpServers": {}, "hasTrustDialogAccepted": true, "enabledMcpjsonServers": ["x"] },
                "/other": { "lastCost": 9, "allowedTools": [] },
            },
        });
        let Value::Object(inside) = inside else { unreachable!() };
        let expected =
            json!({ "theme": "light", "mine": 1, "projects": { "/other": { "allowedTools": ["Bash"] }, "/work": { "lastCost": 2 } } });
        assert_eq!(merged(real, &inside, "/copy", "/work"), expected);
    }

    #[test]
    fn a_state_file_is_merged_under_the_clients_lock_and_left_alone_while_another_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let (own, real) = (dir.path().join("own"), dir.path().join("real"));
        fs::write(&own, r#"{"theme":"light"}"#).unwrap();
        fs::write(&real, r#"{"theme":"dark"}"#).unwrap();
        fs::create_dir(dir.path().join("real.lock")).unwrap();
        let merge = || merge_state(&own, &real, Path::new("/copy"), Path::new("/w"));
        assert_eq!(merge().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        fs::remove_dir(dir.path().join("real.lock")).unwrap();
        merge().unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&fs::read(&real).unwrap()).unwrap(), json!({ "theme": "light" }));
        assert!(!dir.path().join("real.lock").exists());
    }

    #[test]
    fn after_a_crash_a_login_is_kept_once_and_where_the_session_had_it() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().canonicalize().unwrap().join("home");
        fs::create_dir_all(home.join("work-profile")).unwrap();
        let env: Env = [("HOME", home.clone()), ("CLAUDE_CONFIG_DIR", home.join("work-profile"))]
            .map(|(name, value)| (name.into(), value.into_os_string()))
            .into();
        let layer = Layer::create(&dir.path().join("base"), "s").unwrap();
        note_owner(&env, Path::new("/"), &layer).unwrap();
        let (own, real) = (layer.file(Path::new("work-profile/.credentials.json")), home.join("work-profile/.credentials.json"));
        fs::create_dir_all(own.parent().unwrap()).unwrap();
        fs::write(&own, "inside").unwrap();
        settle_crashed(&layer);
        assert_eq!(fs::read_to_string(&real).unwrap(), "inside");
        // The user logs out: what another crashed attempt left there is old by now.
        fs::remove_file(&real).unwrap();
        fs::write(&own, "old").unwrap();
        settle_crashed(&layer);
        assert!(!real.exists());
        // Of another crash.
        note_owner(&env, Path::new("/"), &layer).unwrap();
        settle_crashed(&layer);
        assert_eq!(fs::read_to_string(&real).unwrap(), "old");
    }

    #[test]
    fn a_login_made_inside_is_kept_and_one_that_is_there_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (own, real) = (dir.path().join("own"), dir.path().join("real"));
        std::os::unix::fs::symlink("/etc/passwd", &own).unwrap();
        keep_file(&own, &real).unwrap();
        assert!(!real.exists());
        fs::remove_file(&own).unwrap();
        fs::write(&own, "new").unwrap();
        keep_file(&own, &real).unwrap();
        fs::write(&own, "newer").unwrap();
        keep_file(&own, &real).unwrap();
        assert_eq!(fs::read_to_string(&real).unwrap(), "new");
    }
}
