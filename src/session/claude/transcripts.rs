//! The client's transcripts, followed to find answers that did not pass our proxy.
//!
//! Every answer of the model is written as rows of type `assistant` that carry the API's message id, within a tenth of a second
//! after its end (`facts/CLAUDE_CODE.md` B9): main thread in `projects/<folder>/<session>.jsonl`, subagents and workflows below
//! `projects/<folder>/<session>/`. Compactions, web searches and other auxiliary requests leave no such row, so the check is
//! one-way: each id found here must be known to the proxy; the proxy may know more.
//!
//! [`TranscriptWatch::poll`] is meant to be called every 100 ms: directories are listed again only when their modification
//! time changed, of files only new bytes are read, and half a line waits for its other half. Memory is bounded whatever the
//! files hold: they are read in steps, at most [`A_POLL`] of each in one poll, and a line longer than [`LONGEST_LINE`] is skipped.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use memchr::{memchr_iter, memmem};
use nix::fcntl::OFlag;
use serde::Deserialize;

/// Which transcripts are looked at from the start. Sessions learned later are added to either.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Everything the client writes for this working directory, and for git worktrees it makes below it (`-w`).
    Directory(PathBuf),
    /// These Claude session ids, wherever they lie.
    Sessions(Vec<String>),
}

/// An answer of the model that a transcript records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenMessage {
    /// The API's message id: the proxy must know it.
    pub message_id: String,
    /// The file.
    pub transcript: PathBuf,
    /// Claude's session id.
    pub session_id: String,
}

/// Follows the transcripts of one run.
#[derive(Debug)]
pub struct TranscriptWatch {
    projects: PathBuf,
    slug: Option<String>,
    /// And from when on they are ours.
    sessions: BTreeMap<String, Timestamp>,
    /// Sessions whose project folder is known.
    placed: BTreeMap<String, PathBuf>,
    started_at: Timestamp,
    shared: Option<Shared>,
    dirs: BTreeMap<PathBuf, Listing>,
    files: BTreeMap<PathBuf, Progress>,
    told: HashSet<String>,
}

/// Folders of transcripts that others write as well: there a row is ours by the directory that it names.
#[derive(Debug)]
struct Shared {
    folders: BTreeSet<PathBuf>,
    own: PathBuf,
    /// Where other sessions have theirs.
    all: PathBuf,
}

/// How far a transcript was read.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    /// Where the line begins that has no end yet.
    line: u64,
    /// There is no line's end between there and here.
    scanned: u64,
}

/// What a directory held when it was last listed.
#[derive(Debug, Default)]
struct Listing {
    modified: Option<SystemTime>,
    listed_at: Option<SystemTime>,
    dirs: BTreeSet<PathBuf>,
    transcripts: BTreeSet<PathBuf>,
}

/// Modification times are that coarse: within it a directory may change twice and show it once.
const COARSE: Duration = Duration::from_millis(100);
/// Session folders are three levels deep (`subagents/workflows/wf_*`).
const DEPTH: usize = 6;
/// Bytes in memory at a time.
const STEP: usize = 1 << 20;
/// Bytes of one file in one poll: what is longer is not to keep the others waiting.
pub const A_POLL: u64 = 16 << 20;
/// Bytes of a line that is still looked at.
pub const LONGEST_LINE: u64 = 64 << 20;

impl TranscriptWatch {
    /// Follows what is written below `config_dir` from `started_at` on.
    pub fn new(config_dir: impl AsRef<Path>, scope: Scope, started_at: Timestamp) -> Self {
        let (slug, sessions) = match scope {
            // The client works with the resolved path.
            Scope::Directory(cwd) => (Some(slug(&fs::canonicalize(&cwd).unwrap_or(cwd))), BTreeMap::new()),
            Scope::Sessions(ids) => (None, ids.into_iter().filter(|id| is_id(id)).map(|id| (id, started_at)).collect()),
        };
        Self {
            projects: config_dir.as_ref().join("projects"),
            slug,
            sessions,
            placed: BTreeMap::new(),
            started_at,
            shared: None,
            dirs: BTreeMap::new(),
            files: BTreeMap::new(),
            told: HashSet::new(),
        }
    }

    /// Follows these folders of `projects` too, which hold conversations of others. What a client wrote there while it worked in `own` is
    /// ours, and what it wrote of a session of ours while it worked elsewhere, but not in another one's directory below `all`.
    #[must_use]
    pub fn sharing(mut self, folders: &[String], own: &Path, all: &Path) -> Self {
        let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if !folders.is_empty() {
            let folders = folders.iter().map(|folder| self.projects.join(folder)).collect();
            self.shared = Some(Shared { folders, own: real(own), all: real(all) });
        }
        self
    }

    /// A Claude session id seen at the proxy belongs to this run.
    pub fn learn_session(&mut self, id: &str) {
        self.learn_session_since(id, self.started_at);
    }

    /// What this session holds from `since` on belongs to this run. What was said of it first stays.
    pub fn learn_session_since(&mut self, id: &str, since: Timestamp) {
        if is_id(id) && !self.sessions.contains_key(id) {
            self.sessions.insert(id.to_owned(), since);
        }
    }

    /// The answers recorded since the last call, each id once. What cannot be read is tried again next time.
    pub fn poll(&mut self) -> Vec<SeenMessage> {
        let mut seen = Vec::new();
        let projects = self.list(&self.projects.clone()).0;
        for dir in &projects {
            if self.is_ours(dir) {
                self.project(dir, &mut seen);
            }
        }
        self.place(&projects);
        for (id, dir) in self.placed.clone() {
            if !self.is_ours(&dir) {
                let since = self.sessions.get(&id).copied().unwrap_or(self.started_at);
                self.follow(&dir.join(format!("{id}.jsonl")), since, &mut seen);
                self.walk(&dir.join(&id), DEPTH - 1, since, &mut seen);
            }
        }
        seen
    }

    /// Whether this project folder is of our working directory or of a worktree below it.
    fn is_ours(&self, dir: &Path) -> bool {
        if self.shared.as_ref().is_some_and(|shared| shared.folders.contains(dir)) {
            return true;
        }
        let (Some(slug), Some(name)) = (&self.slug, dir.file_name().and_then(|name| name.to_str())) else { return false };
        let worktree = format!("{slug}--claude-worktrees-");
        name == slug
            || name.starts_with(&worktree[..worktree.len().min(LONGEST)])
            || (slug.len() > LONGEST && name.strip_prefix(&slug[..LONGEST]).is_some_and(|hash| hash.starts_with('-')))
    }

    /// Looks for the folders of sessions that have none yet.
    fn place(&mut self, projects: &BTreeSet<PathBuf>) {
        let missing: Vec<String> = self.sessions.keys().filter(|id| !self.placed.contains_key(*id)).cloned().collect();
        for id in missing {
            let holds = |dir: &&PathBuf| dir.join(format!("{id}.jsonl")).exists() || dir.join(&id).exists();
            if let Some(dir) = projects.iter().find(holds) {
                self.placed.insert(id, dir.clone());
            }
        }
    }

    /// Directories and transcripts in `dir`; from memory while its modification time says that nothing came or went.
    fn list(&mut self, dir: &Path) -> (BTreeSet<PathBuf>, BTreeSet<PathBuf>) {
        let Ok(modified) = fs::metadata(dir).and_then(|meta| meta.modified()) else { return Default::default() };
        let known = self.dirs.entry(dir.to_path_buf()).or_default();
        let settled = known.listed_at.is_some_and(|at| at > modified + COARSE);
        if known.modified != Some(modified) || !settled {
            let listed_at = SystemTime::now();
            let Ok(entries) = fs::read_dir(dir) else { return Default::default() };
            let mut listing = Listing { modified: Some(modified), listed_at: Some(listed_at), ..Listing::default() };
            for entry in entries.flatten() {
                let path = entry.path();
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    listing.dirs.insert(path);
                } else if path.extension().is_some_and(|extension| extension == "jsonl") {
                    listing.transcripts.insert(path);
                }
            }
            *known = listing;
        }
        (known.dirs.clone(), known.transcripts.clone())
    }

    /// A project folder: its transcripts, and the folders of the sessions that wrote since the start. A folder may hold thousands
    /// of old sessions, and a subagent never writes before its session does.
    fn project(&mut self, dir: &Path, seen: &mut Vec<SeenMessage>) {
        let (dirs, transcripts) = self.list(dir);
        let mut idle = HashSet::new();
        for transcript in transcripts {
            if !self.follow(&transcript, self.started_at, seen) {
                idle.insert(transcript.with_extension(""));
            }
        }
        for session in dirs.iter().filter(|session| !idle.contains(*session)) {
            self.walk(session, DEPTH, self.started_at, seen);
        }
    }

    fn walk(&mut self, dir: &Path, depth: usize, since: Timestamp, seen: &mut Vec<SeenMessage>) {
        let (dirs, transcripts) = self.list(dir);
        for transcript in transcripts {
            self.follow(&transcript, since, seen);
        }
        if depth > 0 {
            for dir in dirs {
                self.walk(&dir, depth - 1, since, seen);
            }
        }
    }

    /// Reads the new lines of a transcript. Gives whether it was written to since then.
    fn follow(&mut self, path: &Path, since: Timestamp, seen: &mut Vec<SeenMessage>) -> bool {
        let Ok(meta) = fs::metadata(path) else { return true };
        if !meta.is_file() {
            return true;
        }
        let written = meta.modified().map_or(true, |at| at >= SystemTime::from(since));
        let mut progress = match self.files.get(path) {
            Some(&progress) if progress.scanned <= meta.len() => progress,
            // What was written before is not ours.
            None if !written => Progress { line: meta.len(), scanned: meta.len() },
            // New, or replaced by a shorter one.
            None | Some(_) => Progress::default(),
        };
        if progress.scanned < meta.len() {
            // What was read before an error stays read.
            let _ = self.read(path, &mut progress, since, seen);
        }
        self.files.insert(path.to_path_buf(), progress);
        written
    }

    /// Reads on, and looks at each line that ends.
    fn read(&mut self, path: &Path, progress: &mut Progress, since: Timestamp, seen: &mut Vec<SeenMessage>) -> io::Result<()> {
        // It may have become something else, on which opening would wait.
        let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
        let until = progress.scanned + A_POLL;
        let mut step = vec![0; STEP];
        while progress.scanned < until {
            let begin = progress.scanned;
            let read = file.read_at(&mut step, begin)?;
            if read == 0 {
                break;
            }
            for end in memchr_iter(b'\n', &step[..read]) {
                let end_at = begin + end as u64;
                match usize::try_from(progress.line.wrapping_sub(begin)) {
                    Ok(start) if progress.line >= begin => self.line(&step[start..end], path, since, seen),
                    _ if end_at - progress.line > LONGEST_LINE => {}
                    _ => self.line(&long_line(&file, progress.line, end_at)?, path, since, seen),
                }
                progress.line = end_at + 1;
            }
            progress.scanned = begin + read as u64;
        }
        Ok(())
    }

    fn line(&mut self, line: &[u8], path: &Path, since: Timestamp, seen: &mut Vec<SeenMessage>) {
        if let Some(Answer { message_id, session_id, directory }) = answer(line, since)
            && self.wrote_it(line, path, &session_id, &directory)
            && self.told.insert(message_id.clone())
        {
            seen.push(SeenMessage { message_id, transcript: path.to_path_buf(), session_id });
        }
    }

    /// Whether a row of this file was written by us: always, unless it lies in a folder that others write to.
    fn wrote_it(&self, line: &[u8], path: &Path, session: &str, directory: &Path) -> bool {
        let Some(shared) = self.shared.as_ref().filter(|shared| shared.folders.iter().any(|folder| path.starts_with(folder))) else {
            return true;
        };
        let learned = || self.sessions.get(session).is_some_and(|since| answer(line, *since).is_some());
        directory.starts_with(&shared.own) || (!directory.starts_with(&shared.all) && learned())
    }
}

/// A line that began in an earlier step.
fn long_line(file: &File, start: u64, end: u64) -> io::Result<Vec<u8>> {
    let mut line = vec![0; usize::try_from(end - start).map_err(io::Error::other)?];
    file.read_exact_at(&mut line, start)?;
    Ok(line)
}

/// What a row says of an answer of the model.
struct Answer {
    message_id: String,
    session_id: String,
    /// Where the client worked.
    directory: PathBuf,
}

/// The answer of the model that a row records, given since then.
fn answer(line: &[u8], since: Timestamp) -> Option<Answer> {
    // Most rows are others, and long.
    memmem::find(line, b"\"assistant\"")?;
    let row: Row = serde_json::from_slice(line).ok()?;
    let message = row.message.filter(|_| row.kind == "assistant" && !row.is_api_error_message)?;
    if message.model.as_deref() == Some("<synthetic>") {
        return None;
    }
    // A row without a readable time counts as new: a doubt is not an excuse.
    let old = row.timestamp.and_then(|at| at.parse::<Timestamp>().ok()).is_some_and(|at| at < since);
    let answer = |message_id| Answer { message_id, session_id: row.session_id.unwrap_or_default(), directory: row.cwd.unwrap_or_default() };
    message.id.filter(|_| !old).map(answer)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    #[serde(rename = "type")]
    kind: String,
    timestamp: Option<String>,
    session_id: Option<String>,
    cwd: Option<PathBuf>,
    #[serde(default)]
    is_api_error_message: bool,
    message: Option<Message>,
}

#[derive(Deserialize)]
struct Message {
    id: Option<String>,
    model: Option<String>,
}

/// Longer folder names are cut here and get a hash.
const LONGEST: usize = 200;

/// The client's folder for the conversations of this directory, unless it shortens the name in its own way.
pub fn folder_name(cwd: &Path) -> Option<String> {
    Some(slug(cwd)).filter(|name| name.len() <= LONGEST)
}

/// The conversation that `claude -c` goes on with in this directory.
pub fn newest(config_dir: &Path, cwd: &Path) -> Option<String> {
    let folder = config_dir.join("projects").join(folder_name(cwd)?);
    let transcripts = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let dated = transcripts.filter(|path| path.extension().is_some_and(|extension| extension == "jsonl")).filter_map(|path| {
        let modified = fs::metadata(&path).and_then(|meta| meta.modified()).ok()?;
        Some((modified, path.file_stem()?.to_str()?.to_owned()))
    });
    dated.max().map(|(_, id)| id)
}

/// The client's name for a working directory: everything but ASCII letters and digits becomes a dash, one for each UTF-16 unit. Uncut.
fn slug(cwd: &Path) -> String {
    let text = cwd.to_string_lossy();
    text.chars().flat_map(|c| std::iter::repeat_n(if c.is_ascii_alphanumeric() { c } else { '-' }, c.len_utf16())).collect()
}

/// Whether it may be a session's file name: `--resume` takes names too, and a header is not ours.
fn is_id(id: &str) -> bool {
    !id.is_empty() && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

#[cfg(test)]
mod tests;
