//! The git program, for what libgit2 cannot do: the user's own credentials, and repositories that libgit2 cannot read.
//!
//! It is run only where the agent has no say over the configuration: in the developer's checkout, in repositories that the
//! supervisor owns, and in a clone that no agent has seen yet. Every run has a deadline; a run that is cut takes its whole process
//! group with it. Callers are on a blocking thread: the supervisor's reaper owns the children of the main thread.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::GitError;

/// How long a purely local git command may take.
pub(super) const LOCAL: Duration = Duration::from_mins(5);
/// How long a git command that speaks to the upstream may take (a person may have to touch a key).
pub(super) const REMOTE: Duration = Duration::from_mins(10);

const STDERR_KEPT: u64 = 64 * 1024;

/// The environment git runs in: the user's own, less what would point git at another repository.
#[derive(Clone)]
pub struct GitEnv(Arc<Vec<(OsString, OsString)>>);

impl GitEnv {
    /// The environment of this process.
    pub fn inherit() -> Self {
        Self::from_vars(std::env::vars_os())
    }

    /// An environment of the caller's making. Variables that say *which* repository are dropped, those that say *how* to reach a
    /// remote (`GIT_SSH_COMMAND`, `GIT_ASKPASS`, `GIT_CONFIG_*`, `SSH_AUTH_SOCK`) are kept.
    pub fn from_vars(vars: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        Self(Arc::new(vars.into_iter().filter(|(name, _)| !locates_a_repository(name)).collect()))
    }

    pub(super) fn get(&self, name: &str) -> Option<&OsStr> {
        self.0.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_os_str())
    }
}

impl std::fmt::Debug for GitEnv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GitEnv({} variables)", self.0.len()) // values may be secrets
    }
}

fn locates_a_repository(name: &OsStr) -> bool {
    const LOCATING: [&str; 17] = [
        "GIT_DIR",
        "GIT_WORK_TREE",
        "GIT_COMMON_DIR",
        "GIT_INDEX_FILE",
        "GIT_OBJECT_DIRECTORY",
        "GIT_ALTERNATE_OBJECT_DIRECTORIES",
        "GIT_NAMESPACE",
        "GIT_PREFIX",
        "GIT_QUARANTINE_PATH",
        "GIT_SHALLOW_FILE",
        "GIT_GRAFT_FILE",
        "GIT_REPLACE_REF_BASE",
        "GIT_PROTOCOL",
        "GIT_TEMPLATE_DIR",
        "GIT_DEFAULT_HASH",
        "GIT_DEFAULT_REF_FORMAT",
        "GIT_EXTERNAL_DIFF",
    ];
    let name = name.to_string_lossy();
    LOCATING.contains(&name.as_ref())
        || name.starts_with("GIT_PUSH_OPTION")
        || name.starts_with("GIT_TRACE")
        || (name.starts_with("GIT_") && name.ends_with("_PATHSPECS"))
}

/// The git commands now running for one owner, so that all can be cut at once.
#[derive(Debug, Clone, Default)]
pub(super) struct Running(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    closed: bool,
    next: u64,
    alarms: HashMap<u64, mpsc::Sender<Alarm>>,
}

#[derive(Debug)]
enum Alarm {
    Finished,
    Cut,
}

impl Running {
    /// Kills what runs and lets nothing start any more.
    pub(super) fn close(&self) {
        let mut table = lock(&self.0);
        table.closed = true;
        for alarm in table.alarms.values() {
            let _ = alarm.send(Alarm::Cut);
        }
    }

    fn enter(&self, alarm: mpsc::Sender<Alarm>) -> Option<u64> {
        let mut table = lock(&self.0);
        if table.closed {
            return None;
        }
        table.next += 1;
        let ticket = table.next;
        table.alarms.insert(ticket, alarm);
        Some(ticket)
    }

    fn leave(&self, ticket: u64) {
        lock(&self.0).alarms.remove(&ticket);
    }
}

/// One run of git, being put together.
pub(super) struct Git<'a> {
    doing: String,
    command: Command,
    env: &'a GitEnv,
    stdin: Option<File>,
    deadline: Duration,
    running: Running,
}

/// How a run ended.
pub(super) struct Ended {
    pub(super) success: bool,
    pub(super) code: Option<i32>,
    pub(super) stdout: Vec<u8>,
    /// The first 64 KiB.
    pub(super) stderr: String,
}

impl<'a> Git<'a> {
    /// `doing` completes "failed to ..".
    pub(super) fn new(doing: impl Into<String>, env: &'a GitEnv, directory: &Path) -> Self {
        Self::program(doing, "git", env, directory)
    }

    /// A command of the developer's configuration, as git would have run it: by the shell.
    pub(super) fn shell(doing: impl Into<String>, env: &'a GitEnv, directory: &Path, script: &str) -> Self {
        Self::program(doing, "/bin/sh", env, directory).args(["-c", script])
    }

    fn program(doing: impl Into<String>, program: &str, env: &'a GitEnv, directory: &Path) -> Self {
        let mut command = Command::new(program);
        command.env_clear().envs(env.0.iter().map(|(k, v)| (k, v))).current_dir(directory).process_group(0);
        // LC_ALL: reasons are read and handed on. OPTIONAL_LOCKS: looking must not write the developer's index.
        command.env("LC_ALL", "C").env("GIT_TERMINAL_PROMPT", "0").env("GIT_OPTIONAL_LOCKS", "0");
        Self { doing: doing.into(), command, env, stdin: None, deadline: LOCAL, running: Running::default() }
    }

    pub(super) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    pub(super) fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub(super) fn config(mut self, config: &CarriedConfig) -> Self {
        config.apply(self.env, &mut self.command);
        self
    }

    pub(super) fn stdin(mut self, file: File) -> Self {
        self.stdin = Some(file);
        self
    }

    pub(super) fn input(self, bytes: &[u8]) -> Result<Self, GitError> {
        let write = || -> io::Result<File> {
            let mut file = tempfile::tempfile()?;
            io::Write::write_all(&mut file, bytes)?;
            file.rewind()?;
            Ok(file)
        };
        let file = write().map_err(GitError::io("write a temporary file in", std::env::temp_dir()))?;
        Ok(self.stdin(file))
    }

    pub(super) fn within(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    pub(super) fn cut_by(mut self, running: &Running) -> Self {
        self.running = running.clone();
        self
    }

    /// Runs to the end, keeping up to `limit` bytes of output.
    pub(super) fn run_limited(self, limit: usize) -> Result<Ended, GitError> {
        let mut kept = Vec::new();
        let mut ended = self.stream(|bytes| {
            if kept.len() + bytes.len() > limit {
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, "too much output"));
            }
            kept.extend_from_slice(bytes);
            Ok(())
        })?;
        ended.stdout = kept;
        Ok(ended)
    }

    /// Runs to the end; a non-zero exit is a value, not an error.
    pub(super) fn run(self) -> Result<Ended, GitError> {
        self.run_limited(256 * 1024 * 1024)
    }

    /// Runs to the end and gives its output; a non-zero exit is an error.
    pub(super) fn output(self) -> Result<Vec<u8>, GitError> {
        let doing = self.doing.clone();
        let ended = self.run()?;
        if ended.success { Ok(ended.stdout) } else { Err(GitError::Git { doing, said: telling_line(&ended.stderr) }) }
    }

    /// As [`Git::output`], as text without the newline at its end.
    pub(super) fn text(self) -> Result<String, GitError> {
        Ok(String::from_utf8_lossy(&self.output()?).trim_end_matches('\n').to_owned())
    }

    /// Runs to the end, handing output to `sink` as it comes. An error of `sink` ends git.
    pub(super) fn stream(mut self, mut sink: impl FnMut(&[u8]) -> io::Result<()>) -> Result<Ended, GitError> {
        // A file, not a pipe: an ssh master that outlives git would keep a pipe open for ever.
        let mut stderr = tempfile::tempfile().map_err(GitError::io("create a temporary file in", std::env::temp_dir()))?;
        let stderr_end = stderr.try_clone().map_err(GitError::io("duplicate a file in", std::env::temp_dir()))?;
        self.command.stdin(self.stdin.take().map_or_else(Stdio::null, Stdio::from)).stdout(Stdio::piped()).stderr(stderr_end);
        let (alarm, alarms) = mpsc::channel();
        let Some(ticket) = self.running.enter(alarm.clone()) else { return Err(GitError::Closed { doing: self.doing }) };
        let spawned = self.command.spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(source) => {
                self.running.leave(ticket);
                return Err(GitError::NoGit(source));
            }
        };
        let mut stdout = child.stdout.take();
        let group = child.id();
        let child = Arc::new(Mutex::new(child));
        let watchdog = std::thread::spawn({
            let (child, deadline) = (child.clone(), self.deadline);
            move || watch(&alarms, &child, group, deadline)
        });
        let pumped = stdout.as_mut().map_or(Ok(()), |stdout| pump(stdout, &mut sink));
        drop(stdout);
        if pumped.is_err() {
            kill(&mut lock(&child), group);
        }
        let status = wait(&child);
        self.running.leave(ticket);
        let _ = alarm.send(Alarm::Finished);
        let verdict = watchdog.join().unwrap_or(Verdict::Finished);
        let mut said = Vec::new();
        let _ = stderr.rewind().and_then(|()| stderr.take(STDERR_KEPT).read_to_end(&mut said));
        let status = status.map_err(GitError::io("wait for git in", self.command.get_current_dir().unwrap_or(Path::new("."))))?;
        match verdict {
            Verdict::Late => return Err(GitError::Timeout { doing: self.doing, seconds: self.deadline.as_secs() }),
            Verdict::Cut => return Err(GitError::Closed { doing: self.doing }),
            Verdict::Finished => {}
        }
        pumped.map_err(GitError::io("hand on git's output in", self.command.get_current_dir().unwrap_or(Path::new("."))))?;
        Ok(Ended {
            success: status.success(),
            code: status.code(),
            stdout: Vec::new(),
            stderr: String::from_utf8_lossy(&said).into_owned(),
        })
    }
}

enum Verdict {
    Finished,
    Late,
    Cut,
}

fn watch(alarms: &mpsc::Receiver<Alarm>, child: &Mutex<Child>, group: u32, deadline: Duration) -> Verdict {
    let verdict = match alarms.recv_timeout(deadline) {
        Ok(Alarm::Finished) | Err(RecvTimeoutError::Disconnected) => return Verdict::Finished,
        Ok(Alarm::Cut) => Verdict::Cut,
        Err(RecvTimeoutError::Timeout) => Verdict::Late,
    };
    kill(&mut lock(child), group);
    verdict
}

/// Kills the group, but only while its leader is unreaped: afterwards the number could be somebody else's.
fn kill(child: &mut Child, group: u32) {
    if let (Ok(None), Ok(group)) = (child.try_wait(), i32::try_from(group)) {
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
}

fn wait(child: &Mutex<Child>) -> io::Result<std::process::ExitStatus> {
    // Its output is closed, so the end is near: a short poll leaves the lock free for the watchdog in between.
    let mut pause = Duration::from_micros(200);
    loop {
        if let Some(status) = lock(child).try_wait()? {
            return Ok(status);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn pump(stdout: &mut impl Read, sink: &mut impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match stdout.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => sink(&buffer[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The line of git's standard error that tells most: the first `fatal:` or `error:`, else the last.
pub(super) fn telling_line(stderr: &str) -> String {
    let lines = || stderr.lines().map(str::trim).filter(|line| !line.is_empty());
    lines()
        .find(|line| line.starts_with("fatal:") || line.starts_with("error:"))
        .or_else(|| lines().next_back())
        .unwrap_or("nothing")
        .to_owned()
}

/// How the developer's git reaches its remotes: credential helpers, headers, proxies, ssh commands, URL rewrites, as they hold *in
/// the developer's checkout*, for use from another repository (`includeIf "gitdir:.."` would not match there).
pub(super) struct CarriedConfig(Vec<(String, String)>);

impl CarriedConfig {
    pub(super) fn read(env: &GitEnv, root: &Path) -> Result<Self, GitError> {
        let listed = Git::new("read git's configuration", env, root).args(["config", "--list", "-z", "--includes"]).output()?;
        let mut carried: Vec<(String, String)> = Vec::new();
        for entry in String::from_utf8_lossy(&listed).split('\0').filter(|entry| !entry.is_empty()) {
            let (key, value) = entry.split_once('\n').unwrap_or((entry, "true"));
            if !reaches_remotes(key) {
                continue;
            }
            // These two add up, and the quarantine sees the global values by itself: an empty value first starts the list anew.
            let adds_up = key.starts_with("credential.") && key.ends_with(".helper") || key.ends_with(".extraheader");
            if adds_up && !carried.iter().any(|(seen, _)| seen == key) {
                carried.push((key.to_owned(), String::new()));
            }
            carried.push((key.to_owned(), value.to_owned()));
        }
        Ok(Self(carried))
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    fn apply(&self, env: &GitEnv, command: &mut Command) {
        let first: usize = env.get("GIT_CONFIG_COUNT").and_then(|n| n.to_str()).and_then(|n| n.parse().ok()).unwrap_or(0);
        for (offset, (key, value)) in self.0.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{}", first + offset), key);
            command.env(format!("GIT_CONFIG_VALUE_{}", first + offset), value);
        }
        command.env("GIT_CONFIG_COUNT", (first + self.0.len()).to_string());
        // The terminal belongs to the agent: ssh must not ask there. A graphical askpass may.
        if env.get("SSH_ASKPASS").is_some() {
            if env.get("SSH_ASKPASS_REQUIRE").is_none() {
                command.env("SSH_ASKPASS_REQUIRE", "force");
            }
        } else if env.get("GIT_SSH_COMMAND").is_none() && env.get("GIT_SSH").is_none() && self.get("core.sshcommand").is_none() {
            command.env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes");
        }
    }
}

fn reaches_remotes(key: &str) -> bool {
    ["credential.", "http.", "url.", "ssh.", "protocol."].iter().any(|prefix| key.starts_with(prefix))
        || ["core.sshcommand", "core.askpass", "core.gitproxy"].contains(&key)
}
