//! The control socket: how another terminal of the same user changes a running session.
//!
//! One JSON object a line, one answer a line. Only the session's own user is heard, and never a process of the session itself: the agent
//! cannot raise its own limits (invariant I9). What was changed, and by which process, goes to the journal.

use std::io::{self, BufRead, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::{Uid, User, geteuid};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::model::{BudgetView, LimitChange};
use crate::process::ancestry;

/// A request is one line of at most so many bytes.
const LONGEST_REQUEST: u64 = 4_096;
/// How long somebody may take over a request, or the session over its answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What can be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
enum Command {
    /// Tell the limits and what is used of them.
    Budgets,
    /// Change one limit, as on the command line: `+5usd`.
    ChangeLimit {
        /// The change.
        change: String,
        /// From where it is asked: a terminal, a host.
        from: Option<String>,
    },
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Answer {
    /// Whether it was done.
    ok: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// The limits now.
    budgets: Vec<BudgetView>,
}

/// A change that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wish {
    /// What is to become of which limit.
    pub(super) change: LimitChange,
    /// The login of who asks.
    pub(super) by: String,
    /// From where.
    pub(super) from: Option<String>,
}

/// Carries a change out, if there is one; returns the limits now or why not. Called for one asking at a time, so nothing comes between
/// its look at the limits and its change of them.
pub(super) type Handler = Arc<dyn Fn(Option<Wish>) -> Result<Vec<BudgetView>, String> + Send + Sync>;

/// Why a running session did not change a limit.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// It was asked and said no.
    #[error("{0}")]
    Refused(String),
    /// It cannot be asked.
    #[error("ask it at {}", path.display())]
    Unreachable {
        /// Its socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Asks the session behind `socket` for a change; returns its limits then. Blocks for a few seconds at most.
pub fn change_limit(socket: &Path, change: LimitChange, from: String) -> Result<Vec<BudgetView>, AskError> {
    let command = Command::ChangeLimit { change: change.to_string(), from: Some(from) };
    let answer = ask(socket, &command).map_err(|source| AskError::Unreachable { path: socket.to_owned(), source })?;
    if answer.ok { Ok(answer.budgets) } else { Err(AskError::Refused(answer.error.unwrap_or_default())) }
}

fn ask(socket: &Path, command: &Command) -> io::Result<Answer> {
    let (short, _way) = short(socket)?;
    let mut stream = std::os::unix::net::UnixStream::connect(short)?;
    // Others may be before us.
    stream.set_read_timeout(Some(3 * PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(command)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    io::BufReader::new(stream).read_line(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}

/// Binds the socket (0600). A stale one of an earlier attempt is replaced: the lock says that nobody else lives here.
pub(super) fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (short, _way) = short(path)?;
    let listener = UnixListener::bind(short)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// The same place by a path that does not grow with the directory's, good while the second value is kept: a socket's address has room for about
/// a hundred bytes, and a home or a temporary directory can be longer than that.
fn short(path: &Path) -> io::Result<(PathBuf, Way)> {
    let (parent, way) = way_to(path.parent().unwrap_or(Path::new("/")))?;
    Ok((parent.join(path.file_name().ok_or(io::ErrorKind::InvalidInput)?), way))
}

#[cfg(target_os = "linux")]
type Way = std::fs::File;

#[cfg(target_os = "linux")]
fn way_to(dir: &Path) -> io::Result<(PathBuf, Way)> {
    use std::os::fd::AsRawFd;
    let open = std::fs::File::open(dir)?;
    Ok((Path::new("/proc/self/fd").join(open.as_raw_fd().to_string()), open))
}

#[cfg(target_os = "macos")]
type Way = tempfile::TempDir;

/// A link to it, in a directory that nobody else may enter.
#[cfg(target_os = "macos")]
fn way_to(dir: &Path) -> io::Result<(PathBuf, Way)> {
    let way = tempfile::Builder::new().prefix("sentrely-").tempdir_in("/tmp")?;
    let link = way.path().join("d");
    std::os::unix::fs::symlink(dir.canonicalize()?, &link)?;
    Ok((link, way))
}

/// Serves until the task is aborted. `supervisor` is our own process id: its descendants are not heard.
pub(super) async fn serve(listener: UnixListener, supervisor: i32, handler: Handler) {
    while let Ok((stream, _)) = listener.accept().await {
        // One at a time: a command is one line and its answer, and nobody may hold the socket for long.
        let _ = tokio::time::timeout(PATIENCE, answer(stream, supervisor, &handler)).await;
    }
}

async fn answer(stream: UnixStream, supervisor: i32, handler: &Handler) -> io::Result<()> {
    let peer = stream.peer_cred()?;
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    // Read whoever asks: what is left unread would take the answer with it.
    BufReader::new(reader.take(LONGEST_REQUEST)).read_line(&mut line).await?;
    let answer = match (peer.uid() == geteuid().as_raw(), peer.pid()) {
        (false, _) => refused("only the session's own user is heard"),
        (true, None) => refused("the asking process is unknown"),
        (true, Some(pid)) if ancestry::is_below(pid, supervisor) => refused("a process of the session cannot change it"),
        (true, Some(pid)) => carry_out(&line, &login(peer.uid(), pid), handler),
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    writer.write_all(&text).await
}

/// Who asks: the login of the asking process's user, which it cannot choose; its number where that user has none.
fn login(uid: u32, pid: i32) -> String {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map_or_else(|| format!("pid {pid}"), |user| user.name)
}

fn carry_out(line: &str, by: &str, handler: &Handler) -> Answer {
    let wish = match serde_json::from_str::<Command>(line) {
        Err(error) => return refused(&format!("not a command: {error}")),
        Ok(Command::Budgets) => None,
        Ok(Command::ChangeLimit { change, from }) => match change.parse() {
            Ok(change) => Some(Wish { change, by: by.to_owned(), from }),
            Err(error) => return refused(&error.to_string()),
        },
    };
    match handler(wish) {
        Ok(budgets) => Answer { ok: true, error: None, budgets },
        Err(why) => refused(&why),
    }
}

fn refused(why: &str) -> Answer {
    Answer { ok: false, error: Some(why.to_owned()), budgets: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handler() -> Handler {
        Arc::new(|wish| {
            let limit = wish.and_then(|wish| wish.change.apply("1usd".parse().ok())).into_iter();
            Ok(limit.map(|limit| BudgetView::of(limit, &crate::model::Spent::default())).collect())
        })
    }

    #[test]
    fn a_change_is_read_as_on_the_command_line_and_nonsense_is_refused() {
        let ask = |change: &str| carry_out(&format!(r#"{{"do":"change_limit","change":"{change}","from":null}}"#), "ana", &handler());
        assert_eq!((ask("10usd").ok, ask("10usd").budgets[0].limit.as_str()), (true, "10"));
        assert_eq!(ask("+10usd").budgets[0].limit, "11");
        assert!(!ask("10eur").ok && !ask("-1usd").ok);
        assert!(!carry_out(r#"{"do":"rm -rf"}"#, "ana", &handler()).ok);
    }

    #[tokio::test]
    async fn a_process_of_the_session_is_not_heard() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("control.sock");
        let own = i32::try_from(std::process::id()).unwrap();
        let ask = |socket: PathBuf| move || change_limit(&socket, "+1usd".parse().unwrap(), "vm".to_owned());
        // The control: another process's number stands for the supervisor, and the same asking is heard.
        for (supervisor, heard) in [(own, false), (i32::MAX, true)] {
            let serving = tokio::spawn(serve(bind(&path).unwrap(), supervisor, handler()));
            let answer = tokio::task::spawn_blocking(ask(path.clone())).await.unwrap();
            assert_eq!(answer.is_ok(), heard, "{answer:?}");
            serving.abort();
        }
    }

    #[tokio::test]
    async fn a_socket_can_be_bound_in_a_directory_whose_path_is_longer_than_an_address() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("d".repeat(150));
        std::fs::create_dir(&dir).unwrap();
        let path = dir.join("control.sock");
        drop(bind(&path).unwrap());
        let _again = bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
