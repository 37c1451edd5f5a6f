//! The Claude Code clients that run below the supervisor, wherever they work and whatever their environment says.
//!
//! A running client keeps `<config dir>/sessions/<pid>.json`, which names the session that it writes (2.1.197 and 2.1.330: from
//! before its first request until it ends). So a process of ours is a client when such a file names it: the program's name does
//! not matter, and a client that somebody else runs in the same folder is never mistaken for one of ours.
//!
//! [`RunningClients::look`] is meant to be called every 100 ms. It cannot see a client whose environment cannot be read, one
//! that is told to keep no such file, or one in a process namespace that something in the session made.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use nix::fcntl::OFlag;
use serde_json::Value;

use crate::process::{Below, processes_below};
use crate::system;

/// A session that a process of ours writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningClient {
    /// Where it keeps its transcripts.
    pub config_dir: PathBuf,
    /// Claude's session id.
    pub session_id: String,
    /// When the process began: what the session holds from before is not its.
    pub since: Timestamp,
}

/// Where a path of the inside lies for us: behind the wall the home directory is another one.
pub type Outside = Box<dyn Fn(&Path) -> PathBuf + Send>;

/// Looks at the processes below one supervisor.
pub struct RunningClients {
    supervisor: u32,
    outside: Outside,
    /// By number and start time, what the last look found.
    known: HashMap<(i32, u64), Known>,
}

#[derive(Debug)]
struct Known {
    comm: String,
    config_dir: Option<PathBuf>,
}

/// A process starts another program mostly at once; later its environment is read again only when its name changes.
const SETTLED: Duration = Duration::from_secs(5);
/// The file has a kilobyte.
const LARGEST: u64 = 64 << 10;

impl RunningClients {
    /// Looks below the main thread of `supervisor`.
    pub fn new(supervisor: u32, outside: Outside) -> Self {
        Self { supervisor, outside, known: HashMap::new() }
    }

    /// The sessions that clients below the supervisor write now.
    pub fn look(&mut self) -> Vec<RunningClient> {
        let Some(age_of) = system::ages() else { return Vec::new() };
        let now = Timestamp::now();
        let mut before = std::mem::take(&mut self.known);
        let mut clients = Vec::new();
        for process in processes_below(self.supervisor) {
            let age = age_of(process.start);
            let known = match before.remove(&(process.pid, process.start)) {
                Some(known) if known.comm == process.comm && age > SETTLED => known,
                _ => Known {
                    config_dir: config_dir(process.pid).map(|dir| (self.outside)(&system::resolved_for(process.pid, &dir))),
                    comm: process.comm.clone(),
                },
            };
            let since = now.checked_sub(age).unwrap_or(now);
            if let Some(dir) = &known.config_dir
                && let Some(session_id) = session(dir, &process, since)
            {
                clients.push(RunningClient { config_dir: dir.clone(), session_id, since });
            }
            self.known.insert((process.pid, process.start), known);
        }
        clients
    }
}

/// Where a client with this process's environment keeps its things.
fn config_dir(pid: i32) -> Option<PathBuf> {
    let environ = system::environment(pid)?;
    let variable = |name: &str| {
        let value = environ.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
        value.filter(|value| !value.is_empty()).map(|value| PathBuf::from(OsStr::from_bytes(value)))
    };
    let at_home = || Some(variable("HOME").or_else(passwords_home)?.join(".claude"));
    let dir = variable("CLAUDE_CONFIG_DIR").or_else(at_home)?;
    if dir.is_absolute() {
        return Some(dir);
    }
    system::working_directory(pid).map(|cwd| cwd.join(dir))
}

/// Without `HOME` the client asks the system.
fn passwords_home() -> Option<PathBuf> {
    nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten().map(|user| user.dir)
}

/// The session that the client's own file says this process writes.
fn session(config_dir: &Path, process: &Below, since: Timestamp) -> Option<String> {
    [Some(process.pid), number_inside(process.pid)].into_iter().flatten().find_map(|number| named(config_dir, number, process, since))
}

/// The number of a process in the namespace of its own that it may be in.
fn number_inside(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    numbers.split_ascii_whitespace().next_back()?.parse().ok().filter(|inside| *inside != pid)
}

fn named(config_dir: &Path, number: i32, process: &Below, since: Timestamp) -> Option<String> {
    let path = config_dir.join("sessions").join(format!("{number}.json"));
    let meta = fs::metadata(&path).ok()?;
    if !meta.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    // It may have become something else, on which reading would wait.
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&path).ok()?;
    file.take(LARGEST).read_to_end(&mut bytes).ok()?;
    let value: Value = serde_json::from_slice(&bytes).ok()?;
    // The number may have been another process's, whose file stayed.
    let same = match &value["procStart"] {
        // In the unit of /proc; what it says elsewhere was not seen.
        Value::String(start) if cfg!(target_os = "linux") => start.parse() == Ok(process.start),
        _ => meta.modified().is_ok_and(|at| at >= SystemTime::from(since)),
    };
    same.then(|| value["sessionId"].as_str().map(str::to_owned))?
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A process with one child, which runs until its input ends.
    fn family(dir: &Path) -> (Child, i32) {
        let mut child = Command::new("sh")
            .args(["-c", "exec 3<&0; cat <&3 & echo $!; wait"])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("CLAUDE_CONFIG_DIR", "relative")
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        (child, line.trim().parse().unwrap())
    }

    #[test]
    fn a_process_is_a_client_when_its_own_file_names_it_and_not_when_the_file_is_of_an_earlier_one() {
        let dir = tempfile::tempdir().unwrap();
        let (mut parent, pid) = family(dir.path());
        let sessions = dir.path().join("relative/sessions");
        fs::create_dir_all(&sessions).unwrap();
        let mut clients = RunningClients::new(parent.id(), Box::new(Path::to_owned));
        assert_eq!(clients.look(), []);

        let start = processes_below(parent.id()).into_iter().find(|process| process.pid == pid).unwrap().start;
        let say = |start: u64| fs::write(sessions.join(format!("{pid}.json")), format!(r#"{{"sessionId":"s1","procStart":"{start}"}}"#));
        say(start).unwrap();
        let found = clients.look().swap_remove(0);
        assert_eq!(found.session_id, "s1");
        assert_eq!(fs::canonicalize(found.config_dir).unwrap(), fs::canonicalize(dir.path().join("relative")).unwrap());
        let age = Timestamp::now().duration_since(found.since);
        assert!(age.is_positive() && age < jiff::SignedDuration::from_secs(60), "{age}");
        say(start + 1).unwrap();
        assert_eq!(clients.look(), []);

        drop(parent.stdin.take());
        parent.wait().unwrap();
    }

    #[test]
    fn a_file_that_would_make_a_reader_wait_is_none() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sessions")).unwrap();
        nix::unistd::mkfifo(&dir.path().join("sessions/7.json"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let process = Below { pid: 7, start: 1, comm: "claude".into() };
        assert_eq!(session(dir.path(), &process, Timestamp::UNIX_EPOCH), None);
    }
}
