//! One supervised run: started, followed by what it writes, and cleaned up by number whatever happens.

use std::collections::HashMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/process").join(name)
}

/// Looks until `look` finds something.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// The directories of a run: `sessions/x` is the session's, `hidden` where the escaping processes register.
pub(crate) struct Place {
    state: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let state = tempfile::tempdir().unwrap();
        fs::create_dir_all(state.path().join("sessions/x")).unwrap();
        fs::create_dir_all(state.path().join("hidden")).unwrap();
        Self { state }
    }

    pub(crate) fn state(&self) -> &Path {
        self.state.path()
    }

    pub(crate) fn session(&self) -> PathBuf {
        self.state.path().join("sessions/x")
    }

    pub(crate) fn hidden(&self) -> PathBuf {
        self.state.path().join("hidden")
    }

    /// Waits for a line of the supervisor that contains `part`, and returns it.
    pub(crate) fn event(&self, part: &str) -> String {
        wait_for(part, || self.events().into_iter().find(|line| line.contains(part)))
    }

    pub(crate) fn events(&self) -> Vec<String> {
        let text = fs::read_to_string(self.session().join("events")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub(crate) fn kill(&self) {
        fs::write(self.session().join("kill"), "").unwrap();
    }

    /// The processes of `escape.py`: name, number and start time.
    pub(crate) fn registered(&self) -> Vec<(String, i32, String)> {
        let entries = fs::read_dir(self.hidden()).unwrap().flatten();
        entries
            .filter_map(|entry| {
                let file = entry.file_name().into_string().ok()?;
                let (name, pid) = file.split_once('.')?;
                Some((name.to_owned(), pid.parse().ok()?, fs::read_to_string(entry.path()).ok()?))
            })
            .collect()
    }

    /// The names of those that live.
    pub(crate) fn living(&self) -> Vec<String> {
        self.registered().into_iter().filter(|(_, pid, start)| is_alive(*pid, start)).map(|(name, ..)| name).collect()
    }

    pub(crate) fn wait_until_hidden(&self) {
        wait_for("all to hide", || self.hidden().join("ready").exists().then_some(()));
    }

    /// Lets the delivery of `deliver` come to its end. The first to open the pipe waits for the other.
    pub(crate) fn go_on(&self) {
        fs::write(self.session().join("go-on"), "\n").unwrap();
    }

    /// The guardian ends a supervisor that does not react within a second: this much later it has let that pass.
    pub(crate) fn outwait_the_guardian() {
        let since = Instant::now();
        wait_for("the guardian's patience to be over", || (since.elapsed() > Duration::from_millis(1_500)).then_some(()));
    }

    pub(crate) fn orphaned(&self) -> Option<String> {
        fs::read_to_string(self.session().join("orphaned")).ok()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for (_, pid, start) in self.registered() {
            if is_alive(pid, &start) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

/// The state letter and start time of a process.
pub(crate) fn stat(pid: i32) -> Option<(String, String)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some((fields[0].to_owned(), fields[19].to_owned()))
}

fn is_alive(pid: i32, start: &str) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    // A zombie with one thread only waits for its parent; with more, its leader has ended and it runs.
    stat(pid).is_some_and(|(state, started)| started == start && (state != "Z" || threads > 1))
}

/// A supervisor with its guardian, as the shell would start it.
pub(crate) struct Run {
    pub(crate) place: Place,
    pub(crate) guardian: Child,
    pids: HashMap<String, i32>,
}

impl Run {
    /// Starts `command` under `options`; see [`crate::supervisor::main`].
    pub(crate) fn start(place: Place, options: &str, command: &[&str]) -> Self {
        Self::start_as(None, place, options, command)
    }

    /// As another user, if root runs the tests.
    pub(crate) fn start_as(user: Option<u32>, place: Place, options: &str, command: &[&str]) -> Self {
        // A shell that runs the tests in the background (or nohup) has them ignore these, and the guardian passes on nothing that was ignored before it.
        let mut supervise = Command::new("env");
        supervise.arg("--default-signal=HUP,INT,QUIT").arg(std::env::current_exe().unwrap());
        if let Some(user) = user {
            supervise.uid(user).gid(user);
        }
        let guardian = supervise
            .arg("supervise")
            .arg(place.session())
            .arg(options)
            .args(command)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut run = Self { place, guardian, pids: HashMap::new() };
        let line = run.place.event("guardian=");
        run.pids = line.split(' ').filter_map(|part| part.split_once('=')).map(|(k, v)| (k.into(), v.parse().unwrap())).collect();
        run
    }

    /// Runs `escape.py` by these ways and waits until all of them are taken.
    pub(crate) fn escape(options: &str, stay: &str, ways: &[&str]) -> Self {
        let place = Place::new();
        let (script, hidden) = (script("escape.py"), place.hidden());
        let mut command = vec!["python3", script.to_str().unwrap(), hidden.to_str().unwrap(), stay];
        command.extend(ways);
        let run = Self::start(place, options, &command);
        run.place.wait_until_hidden();
        run
    }

    pub(crate) fn pid(&self, who: &str) -> i32 {
        self.pids[who]
    }

    pub(crate) fn signal(&self, who: &str, signal: Signal) {
        kill(Pid::from_raw(self.pid(who)), signal).unwrap();
    }

    /// Waits for the guardian to end: its exit code (or 1000 + signal) and what it wrote to stderr.
    pub(crate) fn finish(&mut self) -> (i32, String) {
        use std::io::Read;
        use std::os::unix::process::ExitStatusExt;
        let guardian = &mut self.guardian;
        let status = wait_for("the guardian to end", || guardian.try_wait().unwrap());
        let mut said = String::new();
        // The agent's processes hold stderr too; they are gone, or this test is about to fail anyway.
        if self.place.living().is_empty() {
            self.guardian.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        }
        (status.code().unwrap_or_else(|| 1000 + status.signal().unwrap()), said)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.guardian.kill();
        let _ = self.guardian.wait();
    }
}
