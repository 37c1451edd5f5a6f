//! The kill file: `sessions/<id>/kill` ends one session, `<state>/kill` all of them. That it exists is the whole message; what
//! it holds only says by whom and why, so `touch` kills as well.
//!
//! A [`KillFileWatch`] has an inotify on the directories, so that it trips within a fraction of a millisecond. It is level
//! triggered: whatever wakes it, it looks whether the file is there, so a lost or overflowed event costs at most the slow look
//! (1 s) beside it. Where inotify cannot be had (macOS; and its instances are few for each user) the look is made every 50 ms instead.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
#[cfg(target_os = "linux")]
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
#[cfg(target_os = "linux")]
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde::Serialize;
use tokio::net::unix::pipe::Receiver;

/// The file's name, in a session's directory and in the state directory.
pub const FILE_NAME: &str = "kill";
/// How often the file is looked for beside inotify.
const SLOW_LOOK: Duration = Duration::from_secs(1);
/// How often it is looked for where there is no inotify.
const QUICK_LOOK: Duration = Duration::from_millis(50);
/// What is read of a kill file at most.
const MAX_SIZE: u64 = 64 * 1024;

/// The kill files which concern a session: its own, and the one that stops everything.
pub fn paths_for(session_dir: &Path) -> Vec<PathBuf> {
    let mut paths = vec![session_dir.join(FILE_NAME)];
    // <state>/sessions/<id>
    paths.extend(session_dir.parent().and_then(Path::parent).map(|state| state.join(FILE_NAME)));
    paths
}

/// Who runs this program: by the user id, never by a variable, which anybody may set.
pub fn asker() -> String {
    let uid = nix::unistd::geteuid();
    nix::unistd::User::from_uid(uid).ok().flatten().map_or_else(|| format!("uid {uid}"), |user| user.name)
}

/// Who asked for the kill, and how. Every part may be missing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct KillRequest {
    /// The user who asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// From where: a command, a host, a program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// Without a grace period.
    pub now: bool,
}

impl KillRequest {
    /// What the file at `path` says. Nothing in it can fail: an empty, torn or strange file is a request without particulars.
    pub fn read(path: &Path) -> Self {
        // Anybody who may write here may put anything here: no link is followed, no FIFO waited for.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let Ok(file) = OpenOptions::new().read(true).custom_flags(flags).open(path) else { return Self::default() };
        if !file.metadata().is_ok_and(|meta| meta.is_file()) {
            return Self::default();
        }
        let mut bytes = Vec::new();
        let _ = file.take(MAX_SIZE).read_to_end(&mut bytes);
        Self::parse(&bytes)
    }

    /// See [`Self::read`]. A field of the wrong type is left out, the others count.
    pub fn parse(bytes: &[u8]) -> Self {
        let Ok(value) = serde_json::from_slice::<serde_json::Value>(bytes) else { return Self::default() };
        let text = |name: &str| value.get(name).and_then(|field| field.as_str()).map(str::to_owned);
        Self {
            by: text("by"),
            from: text("from"),
            reason: text("reason"),
            at: text("at").and_then(|at| at.parse().ok()),
            now: value.get("now").and_then(serde_json::Value::as_bool).unwrap_or(false),
        }
    }
}

/// Writes a kill file, whole or not at all. One that is there already is replaced.
///
/// # Errors
/// [`KillFileError::Write`] if the directory does not exist or cannot be written.
pub fn write(path: &Path, request: &KillRequest) -> Result<(), KillFileError> {
    let failed = |source| KillFileError::Write { path: path.to_owned(), source };
    let directory = path.parent().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
    let contents = serde_json::to_vec(request).map_err(|error| failed(error.into()))?;
    let mut file = tempfile::Builder::new().prefix(".kill.").tempfile_in(directory).map_err(failed)?;
    file.write_all(&contents).map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

/// What can go wrong with kill files.
#[derive(Debug, thiserror::Error)]
pub enum KillFileError {
    /// The file could not be written.
    #[error("write the kill file {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The path has no directory to watch, or it does not exist.
    #[error("watch for the kill file {}", path.display())]
    Watch {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Watches for the first of several kill files to exist.
pub struct KillFileWatch {
    paths: Vec<PathBuf>,
    /// How often to look where there is no inotify.
    look: Duration,
    #[cfg(target_os = "linux")]
    inotify: Option<Inotify>,
}

impl KillFileWatch {
    /// Arms the watch. A file that exists already trips it: ask [`Self::tripped`] after this.
    ///
    /// # Errors
    /// [`KillFileError::Watch`] if a directory does not exist. Without inotify the watch still works, by looking often.
    pub fn new(paths: &[PathBuf]) -> Result<Self, KillFileError> {
        for path in paths {
            let directory = path.parent().unwrap_or(Path::new("/"));
            let failed = |source| KillFileError::Watch { path: path.clone(), source };
            if !fs::metadata(directory).map_err(failed)?.is_dir() {
                return Err(failed(io::ErrorKind::NotADirectory.into()));
            }
        }
        Ok(Self {
            paths: paths.to_vec(),
            look: QUICK_LOOK,
            #[cfg(target_os = "linux")]
            inotify: arm(paths),
        })
    }

    /// Only the slow look (1 s), for those whom somebody else wakes when the file appears: each inotify is woken by whatever
    /// is written beside the file, and the last one that is closed costs some 10 ms.
    pub fn slow(paths: &[PathBuf]) -> Self {
        Self {
            paths: paths.to_vec(),
            look: SLOW_LOOK,
            #[cfg(target_os = "linux")]
            inotify: None,
        }
    }

    /// The kill file that exists, if one does. Also empties the inotify queue, so that the descriptor is ready again only
    /// after the next change.
    pub fn tripped(&self) -> Option<PathBuf> {
        #[cfg(target_os = "linux")]
        self.empty_queue();
        // Whatever it is: a dangling link kills too.
        self.paths.iter().find(|path| path.symlink_metadata().is_ok()).cloned()
    }

    /// For poll(2): readable when a look is worth it. `None` where only looking helps.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        #[cfg(target_os = "linux")]
        return self.inotify.as_ref().map(AsFd::as_fd);
        #[cfg(target_os = "macos")]
        None
    }

    /// How often to look, beside waiting for [`Self::fd`].
    pub fn look_every(&self) -> Duration {
        if self.fd().is_some() { SLOW_LOOK } else { self.look }
    }

    /// Waits until a kill file exists, and says which. Cancel-safe. Must run within a tokio runtime with I/O and time.
    pub async fn wait(&self) -> PathBuf {
        let ready = self.fd().and_then(events);
        let mut scratch = [0; 4096];
        loop {
            if let Some(path) = self.tripped() {
                return path;
            }
            let look = tokio::time::sleep(if ready.is_some() { SLOW_LOOK } else { self.look });
            match &ready {
                None => look.await,
                Some(ready) => tokio::select! {
                    // Read until it would block, or the runtime does not wait for the next event.
                    _ = ready.readable() => while ready.try_read(&mut scratch).is_ok_and(|length| length > 0) {},
                    () = look => {}
                },
            }
        }
    }

    #[cfg(target_os = "linux")]
    fn empty_queue(&self) {
        if let Some(inotify) = &self.inotify {
            // Ends with EAGAIN. What the events say does not matter.
            while inotify.read_events().is_ok_and(|events| !events.is_empty()) {}
        }
    }
}

#[cfg(target_os = "linux")]
fn arm(paths: &[PathBuf]) -> Option<Inotify> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok()?;
    let mask = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_ONLYDIR;
    for directory in paths.iter().filter_map(|path| path.parent()) {
        inotify.add_watch(directory, mask).ok()?;
    }
    Some(inotify)
}

/// The descriptor as something that tokio waits for: a pipe's reading end is, to it, whatever poll(2) and read(2) work on.
/// (`AsyncFd` would be the name for this, but has no safe constructor.)
fn events(fd: BorrowedFd<'_>) -> Option<Receiver> {
    Receiver::from_owned_fd_unchecked(fd.try_clone_to_owned().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        let request = KillRequest {
            by: Some("ana".into()),
            from: Some("sentrely kill".into()),
            reason: Some("wrong branch".into()),
            at: Some("2026-11-23T09:00:00Z".parse().unwrap()),
            now: true,
        };
        write(&path, &request).unwrap();
        assert_eq!(KillRequest::read(&path), request);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn an_empty_torn_or_strange_file_is_a_request_without_particulars() {
        for contents in ["", "{\"by\":\"an", "[1]", "null", "stop it"] {
            assert_eq!(KillRequest::parse(contents.as_bytes()), KillRequest::default(), "{contents}");
        }
        let partly = KillRequest::parse(br#"{"by": 5, "reason": "cost", "at": "yesterday", "now": "yes", "more": {}}"#);
        assert_eq!(partly, KillRequest { reason: Some("cost".into()), ..KillRequest::default() });
    }

    #[test]
    fn neither_a_fifo_nor_a_link_is_waited_for_or_followed() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(KillRequest::read(&fifo), KillRequest::default());
        let target = dir.path().join("secret");
        fs::write(&target, r#"{"by":"x"}"#).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert_eq!(KillRequest::read(&link), KillRequest::default());
    }

    #[tokio::test]
    async fn a_file_that_was_there_before_the_watch_trips_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        fs::write(&path, "").unwrap();
        let watch = KillFileWatch::new(std::slice::from_ref(&path)).unwrap();
        assert_eq!(watch.tripped(), Some(path.clone()));
        assert_eq!(watch.wait().await, path);
    }

    #[tokio::test]
    async fn touching_either_file_trips_the_watch_and_other_files_do_not() {
        let state = tempfile::tempdir().unwrap();
        let session = state.path().join("sessions/9f3a");
        fs::create_dir_all(&session).unwrap();
        for wanted in paths_for(&session) {
            let watch = KillFileWatch::new(&paths_for(&session)).unwrap();
            fs::write(session.join("status.json"), "{}").unwrap();
            assert_eq!(watch.tripped(), None);
            let waiting = watch.wait();
            let touch = async {
                tokio::task::yield_now().await;
                fs::write(&wanted, "").unwrap();
            };
            let (found, ()) = tokio::join!(tokio::time::timeout(Duration::from_secs(10), waiting), touch);
            assert_eq!(found.unwrap(), wanted);
            fs::remove_file(&wanted).unwrap();
        }
    }

    #[tokio::test]
    async fn without_inotify_the_file_is_found_by_looking() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        let mut watch = KillFileWatch::new(std::slice::from_ref(&path)).unwrap();
        #[cfg(target_os = "linux")]
        {
            watch.inotify = None;
        }
        watch.paths = vec![path.clone()];
        assert_eq!(watch.look_every(), QUICK_LOOK);
        let touch = async { write(&path, &KillRequest::default()).unwrap() };
        let (found, ()) = tokio::join!(tokio::time::timeout(Duration::from_secs(10), watch.wait()), touch);
        assert_eq!(found.unwrap(), path);
    }

    #[test]
    fn a_directory_that_does_not_exist_is_an_error_that_names_the_file() {
        let Err(error) = KillFileWatch::new(&[PathBuf::from("/nonexistent/session/kill")]) else { panic!("it was watched") };
        assert_eq!(error.to_string(), "watch for the kill file /nonexistent/session/kill");
    }
}
