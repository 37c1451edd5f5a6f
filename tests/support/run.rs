//! Programs run in a [`TestEnv`]: prepared, started, waited for, ended with all their descendants.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sentrely::simulated::Upstream;
use serde_json::Value;

use super::env::TestEnv;

/// How long a program may run if the test says nothing.
const TIMEOUT: Duration = Duration::from_mins(1);

/// A program about to run.
#[must_use = "it has not been started"]
pub(crate) struct Run<'e> {
    env: &'e TestEnv,
    program: OsString,
    args: Vec<OsString>,
    vars: BTreeMap<OsString, OsString>,
    cwd: PathBuf,
    stdin: Vec<u8>,
    timeout: Duration,
}

impl<'e> Run<'e> {
    /// A program with these arguments and variables, in this directory.
    pub(super) fn new(env: &'e TestEnv, program: &OsStr, args: Vec<OsString>, vars: BTreeMap<OsString, OsString>, cwd: PathBuf) -> Self {
        Self { env, program: program.to_owned(), args, vars, cwd, stdin: Vec::new(), timeout: TIMEOUT }
    }

    /// Adds arguments.
    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: &[S]) -> Self {
        self.args.extend(args.iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable.
    pub(crate) fn var(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.vars.insert(name.as_ref().to_owned(), value.as_ref().to_owned());
        self
    }

    /// Removes a variable.
    pub(crate) fn without_var(mut self, name: impl AsRef<OsStr>) -> Self {
        self.vars.remove(name.as_ref());
        self
    }

    /// Points Claude Code, or sentrely in front of it, to this upstream, with a dummy key.
    pub(crate) fn upstream(self, upstream: &Upstream) -> Self {
        self.var("ANTHROPIC_BASE_URL", upstream.url()).var("ANTHROPIC_API_KEY", super::claude::DUMMY_KEY)
    }

    /// Starts it in this directory.
    pub(crate) fn cwd(mut self, dir: impl AsRef<Path>) -> Self {
        dir.as_ref().clone_into(&mut self.cwd);
        self
    }

    /// What it reads from its standard input; nothing by default.
    pub(crate) fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// How long [`Run::run`] lets it run.
    pub(crate) fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Runs it to its end; fails the test if that takes too long.
    pub(crate) fn run(self) -> Output {
        let timeout = self.timeout;
        self.spawn().wait(timeout)
    }

    /// Starts it.
    pub(crate) fn spawn(self) -> Running {
        // Files, not pipes: a process that outlives its parent would hold a pipe open, and the test would wait for it.
        let dir = tempfile::tempdir_in(self.env.root()).unwrap();
        let file = |name: &str| File::create_new(dir.path().join(name)).unwrap();
        std::fs::write(dir.path().join("stdin"), &self.stdin).unwrap();
        let mut command = Command::new(&self.program);
        command.args(&self.args).env_clear().envs(&self.vars).current_dir(&self.cwd);
        command.stdin(File::open(dir.path().join("stdin")).unwrap()).stdout(file("stdout")).stderr(file("stderr"));
        defaults_for_signals();
        let started = Instant::now();
        let child = command.spawn().unwrap_or_else(|error| panic!("start {}: {error}", self.program.display()));
        Running { child, started, ended: None, dir }
    }

    /// For [`super::pty`]: the parts of the command.
    pub(super) fn parts(&self) -> (&OsStr, &[OsString], &BTreeMap<OsString, OsString>, &Path) {
        (&self.program, &self.args, &self.vars, &self.cwd)
    }
}

/// What ignores signals hands that on to its children: under `nohup`, or in the background of a script, no interrupt would reach what is tested.
fn defaults_for_signals() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
            // SAFETY: the default action runs no code of ours.
            #[expect(unsafe_code, reason = "signal dispositions are the process's")]
            let _ = unsafe { nix::sys::signal::signal(signal, nix::sys::signal::SigHandler::SigDfl) };
        }
    });
}

/// A program that runs. Dropped, it and all its descendants are killed, and it is reaped.
pub(crate) struct Running {
    child: Child,
    started: Instant,
    ended: Option<(ExitStatus, Duration)>,
    dir: tempfile::TempDir,
}

impl Running {
    /// Its process id.
    pub(crate) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// What it has written to its standard output so far.
    pub(crate) fn stdout(&self) -> String {
        self.written("stdout")
    }

    /// What it has written to its standard error so far.
    pub(crate) fn stderr(&self) -> String {
        self.written("stderr")
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().unwrap().map(|status| (status, self.started.elapsed()));
        }
        self.ended.is_none()
    }

    /// Waits for its end; fails the test if that takes too long.
    pub(crate) fn wait(mut self, timeout: Duration) -> Output {
        let deadline = Instant::now() + timeout;
        while self.is_running() {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "still running after {timeout:?}\n{}{}", self.stdout(), self.stderr());
            std::thread::sleep(POLL.min(left));
        }
        let (status, elapsed) = self.ended.unwrap();
        Output { status, stdout: self.stdout(), stderr: self.stderr(), elapsed }
    }

    fn written(&self, name: &str) -> String {
        String::from_utf8_lossy(&std::fs::read(self.dir.path().join(name)).unwrap()).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.is_running() {
            kill_tree(self.pid());
            let _ = self.child.wait();
        }
    }
}

/// What a program left.
#[derive(Debug)]
#[must_use = "look at it, or call success()"]
pub(crate) struct Output {
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// Its standard output.
    pub(crate) stdout: String,
    /// Its standard error.
    pub(crate) stderr: String,
    /// How long it ran.
    pub(crate) elapsed: Duration,
}

impl Output {
    /// Its exit code; for a death by signal n, 128 + n, as a shell would say.
    pub(crate) fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// Fails the test unless it exited with 0.
    #[track_caller]
    pub(crate) fn success(self) -> Self {
        self.exits(0)
    }

    /// Fails the test unless it exited with `code`.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code(), code, "\n--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr);
        self
    }

    /// Its standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in {}\n--- stderr\n{}", self.stdout, self.stderr))
    }
}

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(5);

/// Waits until `holds`; fails the test, naming `what`, when it does not by the deadline.
#[track_caller]
pub(crate) fn wait_until(within: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    wait_for(within, what, || holds().then_some(()));
}

/// Waits until there is `something`; fails the test, naming `what`, when there is nothing by the deadline.
#[track_caller]
pub(crate) fn wait_for<T>(within: Duration, what: &str, mut something: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(thing) = something() {
            return thing;
        }
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        std::thread::sleep(POLL);
    }
}

/// Whether a process is there and not yet dead: a zombie is not alive, unless threads of it are still on their way out. They hold its files and
/// its locks for as long as a write to a slow disk takes.
pub(crate) fn is_alive(pid: i32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // proc_pid_stat(5): behind the name in parentheses come the state (field 3) and 17 fields later the number of threads (field 20).
    let Some((_, rest)) = stat.rsplit_once(')') else { return false };
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let threads = fields.get(17).and_then(|threads| threads.parse::<u32>().ok()).unwrap_or(0);
    fields.first().is_some_and(|state| !matches!(*state, "Z" | "X") || threads > 1)
}

/// All descendants of a process, nearest first.
pub(crate) fn descendants(pid: i32) -> Vec<i32> {
    let mut found = children(pid);
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        found.extend(children(*pid));
        next += 1;
    }
    found
}

/// Kills a process and all its descendants, also those that appear meanwhile.
pub(crate) fn kill_tree(pid: i32) {
    for _ in 0..50 {
        let below = descendants(pid);
        // The parents first: what is below would otherwise be replaced by them.
        for pid in std::iter::once(pid).chain(below.iter().copied()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        if below.is_empty() {
            break;
        }
    }
}

fn children(pid: i32) -> Vec<i32> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>()).collect()
}

/// The process ids of the machine.
pub(super) fn all_pids() -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}
