//! What makes Claude Code feel at home in the session's copy: the checkout's conversations and memory, the memory files of the folders
//! above it, the approvals that were given there.
//!
//! None of the user's files is edited. In the client's `projects` a symbolic link stands for the copy's folder while the session runs,
//! and leads to the checkout's; it is removed at the end, or by a later start. Memory files of folders above lie beside the copy, as
//! links that lead to them. Approvals go into the session's settings, and into its copy of the client's state file behind the full wall.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::claude::places::Places;
use super::claude::transcripts::folder_name;
use super::claude::trust;
use super::prepare::{Claude, Prepared};
use super::workplace::Workplace;
use crate::git;
use crate::model::{SessionId, Workspace};
use crate::store::{StateDir, replace};
use crate::wall::Layer;

/// How the client's memory file is called, and where beside the copy it finds one: as many as there are names.
const MEMORY_FILES: [&str; 3] = ["CLAUDE.md", ".claude/CLAUDE.md", "CLAUDE.local.md"];
/// Lists of servers of `.mcp.json` that somebody said yes or no to.
const APPROVALS: [&str; 2] = ["enabledMcpjsonServers", "disabledMcpjsonServers"];

/// The links that were made for a session. Dropped, they are removed.
#[derive(Debug, Default)]
pub(super) struct Links {
    made: Vec<PathBuf>,
    /// The folders in `projects` that the session shares with the checkout.
    pub(super) shared: Vec<String>,
}

impl Links {
    /// Removes them again; what they lead to stays.
    pub(super) fn remove(&mut self) {
        for link in self.made.drain(..) {
            remove_link(&link);
        }
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.remove();
    }
}

/// The copy's top and the folder the client starts in, each with its like in the checkout.
fn pairs(prepared: &Prepared, copy: &git::Workspace) -> Vec<(PathBuf, PathBuf)> {
    let Some(checkout) = prepared.checkout.as_ref().filter(|_| prepared.workspace() == Workspace::Clone) else { return Vec::new() };
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let (root, cwd) = (real(&copy.root), real(&copy.cwd));
    let own = cwd.strip_prefix(&root).map_or_else(|_| checkout.root.clone(), |below| joined(&checkout.root, below));
    let mut pairs = vec![(root, checkout.root.clone()), (cwd, own)];
    pairs.dedup();
    pairs
}

fn joined(root: &Path, below: &Path) -> PathBuf {
    if below.as_os_str().is_empty() { root.to_owned() } else { root.join(below) }
}

/// Lets the session go on with the conversations of the checkout, and find its memory.
pub(super) fn share_conversations(prepared: &Prepared, workplace: &Workplace) -> Links {
    let mut links = Links::default();
    let (Some(claude), Some(copy)) = (&prepared.claude, &workplace.copy) else { return links };
    let projects = claude.places.config_dir.join("projects");
    for (inside, outside) in pairs(prepared, copy) {
        // The client shortens long names in a way of its own.
        let (Some(own), Some(theirs)) = (folder_name(&inside), folder_name(&outside)) else { continue };
        let link = projects.join(&own);
        if lead(&projects.join(&theirs), Path::new(&theirs), &link).is_ok() {
            links.made.push(link);
            links.shared.push(theirs);
        }
    }
    links
}

fn lead(folder: &Path, name: &Path, link: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    match symlink(name, link) {
        // Of an earlier attempt that nobody ended.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && fs::read_link(link).is_ok_and(|to| to == name) => Ok(()),
        done => done,
    }
}

fn remove_link(link: &Path) {
    if link.symlink_metadata().is_ok_and(|meta| meta.is_symlink()) {
        let _ = fs::remove_file(link);
    }
}

/// Removes the links of sessions that were ended by nobody.
pub(super) fn sweep(places: &Places, state: &StateDir) {
    let sessions = state.path().join("sessions");
    let Some(prefix) = folder_name(&sessions.canonicalize().unwrap_or(sessions)) else { return };
    let entries = fs::read_dir(places.config_dir.join("projects")).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_symlink())) {
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.strip_prefix(&prefix)?.strip_prefix('-')?.get(..36)?.parse::<SessionId>().ok());
        if id.is_some_and(|id| !state.session(id).is_alive().unwrap_or(true)) {
            remove_link(&entry.path());
        }
    }
}

/// Memory files of the folders above the checkout, beside the copy, where the client looks for them. Gives what found no place.
pub(super) fn share_memory(prepared: &Prepared, workplace: &Workplace) -> Vec<PathBuf> {
    let (Some(claude), Some(copy), Some(checkout)) = (&prepared.claude, &workplace.copy, &prepared.checkout) else { return Vec::new() };
    let Some(beside) = copy.root.parent().filter(|_| prepared.workspace() == Workspace::Clone) else { return Vec::new() };
    let copys = copy.root.canonicalize().unwrap_or_else(|_| copy.root.clone());
    let home = claude.places.home.canonicalize().unwrap_or_else(|_| claude.places.home.clone());
    let above = checkout.root.ancestors().skip(1).filter(|folder| !copys.starts_with(folder));
    let found = above.flat_map(|folder| {
        // The user's own memory is found wherever the client starts.
        let users = |name: &str| folder == home && name.starts_with(".claude/");
        MEMORY_FILES.into_iter().filter(move |name| !users(name)).map(|name| folder.join(name)).collect::<Vec<_>>()
    });
    let hidden = |file: &Path| prepared.wall.hidden.iter().any(|hidden| file.starts_with(hidden));
    let mut names = MEMORY_FILES.into_iter();
    let mut left = Vec::new();
    for file in found.filter(|file| file.is_file() && !hidden(file)) {
        let placed = names.next().is_some_and(|name| {
            let link = beside.join(name);
            place(&file, &link).is_ok()
        });
        if !placed {
            left.push(file);
        }
    }
    left
}

/// A link to `file`. An earlier attempt had the folder for its own: it may have left a link in the way, to anywhere.
fn place(file: &Path, link: &Path) -> io::Result<()> {
    let folder = link.parent().ok_or(io::ErrorKind::InvalidInput)?;
    if !folder.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
        fs::create_dir(folder)?;
    }
    match symlink(file, link) {
        Err(_) if fs::read_link(link).is_ok_and(|to| to == file) => Ok(()),
        done => done,
    }
}

/// What the client's state file says of the folder that the session works in a copy of.
fn project(claude: &Claude, dir: &Path) -> Map<String, Value> {
    let state = fs::read(&claude.places.state_file).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    let entry = dir.to_str().and_then(|dir| state.as_ref()?.get("projects")?.get(dir)?.as_object().cloned());
    entry.unwrap_or_default()
}

/// Servers of `.mcp.json` that were approved or refused in the checkout, as settings: the client would ask again for the copy.
pub(super) fn approvals(claude: &Claude, checkout: &git::Checkout) -> Map<String, Value> {
    let mut approvals = Map::new();
    let entry = project(claude, &checkout.root);
    for key in APPROVALS {
        // A list of ours replaces the one of the user's `--settings`.
        let lists = [claude.settings.flag().and_then(|flag| flag.get(key)), entry.get(key)];
        let names: Vec<Value> = lists.into_iter().flatten().filter_map(Value::as_array).flatten().cloned().collect();
        if !names.is_empty() {
            approvals.insert(key.to_owned(), Value::Array(names));
        }
    }
    approvals
}

/// The servers that somebody added for this folder alone (`claude mcp add`), as a file for `--mcp-config`.
pub(super) fn local_servers(claude: &Claude, checkout: &git::Checkout) -> Option<Vec<u8>> {
    let servers =
        project(claude, &checkout.root).remove("mcpServers").filter(|servers| servers.as_object().is_some_and(|all| !all.is_empty()));
    serde_json::to_vec(&Map::from_iter([("mcpServers".to_owned(), servers?)])).ok()
}

/// What the state file says of the checkout it says of the copy as well, in the session's own copy of that file.
pub(super) fn seed_state(prepared: &Prepared, workplace: &Workplace, layer: &Layer) -> io::Result<()> {
    let (Some(claude), Some(copy)) = (&prepared.claude, &workplace.copy) else { return Ok(()) };
    let Ok(home) = claude.places.home.canonicalize() else { return Ok(()) };
    // Elsewhere than at home it lies in a directory that the layer does not have yet.
    let own = match claude.places.state_file.strip_prefix(&claude.places.home) {
        Ok(relative) if relative.parent() == Some(Path::new("")) => layer.file(relative),
        _ => return Ok(()),
    };
    let file = home.join(own.file_name().unwrap_or_default());
    let source = if own.is_file() { &own } else { &file };
    let Ok(Value::Object(mut state)) = fs::read(source).and_then(|text| Ok(serde_json::from_slice(&text)?)) else { return Ok(()) };
    let Some(Value::Object(projects)) = state.get_mut("projects") else { return Ok(()) };
    let mut added = false;
    for (inside, outside) in pairs(prepared, copy) {
        let (Some(inside_name), Some(outside_name)) = (inside.to_str(), outside.to_str()) else { continue };
        let mut entry = projects.get(outside_name).and_then(Value::as_object).cloned().unwrap_or_default();
        // Servers come by `--mcp-config`, which works behind every wall.
        entry.remove("mcpServers");
        if trust::covers(&claude.places.state_file, &outside) {
            entry.insert("hasTrustDialogAccepted".to_owned(), Value::Bool(true));
        }
        if !entry.is_empty() && !projects.contains_key(inside_name) {
            projects.insert(inside_name.to_owned(), Value::Object(entry));
            added = true;
        }
    }
    if added { replace(&own, &serde_json::to_vec_pretty(&state)?) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_leads_to_the_checkouts_folder_and_never_replaces_one_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, link) = (dir.path().join("dev"), dir.path().join("clone"));
        lead(&folder, Path::new("dev"), &link).unwrap();
        lead(&folder, Path::new("dev"), &link).unwrap();
        fs::write(link.join("one.jsonl"), "x").unwrap();
        assert_eq!(fs::read_to_string(folder.join("one.jsonl")).unwrap(), "x");
        remove_link(&link);
        assert!(!link.exists() && folder.join("one.jsonl").exists());
        fs::create_dir(&link).unwrap();
        assert!(lead(&folder, Path::new("dev"), &link).is_err());
        remove_link(&link);
        assert!(link.is_dir());
    }
}
