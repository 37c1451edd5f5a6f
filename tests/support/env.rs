//! A private world for a test: a home, a state directory, a repository with a remote, and programs run in it with nothing inherited.
//!
//! Whatever a program started in it leaves running is ended when the [`TestEnv`] is dropped: found by the private home in its
//! environment and by its parents, never by name.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sentrely::store::SessionLock;
use serde_json::Value;

use super::run::{Run, all_pids, kill_tree, wait_until};

/// A private world. Dropped, it is removed with everything that still runs in it.
pub(crate) struct TestEnv {
    dir: tempfile::TempDir,
}

impl TestEnv {
    /// A home, a state directory, a bare `origin.git`, and a `project` cloned from it with one commit on `main`.
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("sentrely-").tempdir().unwrap();
        let env = Self { dir };
        for sub in ["home", "tmp", "state"] {
            std::fs::create_dir(env.root().join(sub)).unwrap();
        }
        let identity = "[user]\n\tname = Dev Eloper\n\temail = dev@example.com\n[init]\n\tdefaultBranch = main\n[gc]\n\tauto = 0\n";
        std::fs::write(env.home().join(".gitconfig"), identity).unwrap();
        env.git_in(env.root(), &["init", "-q", "--bare", "-b", "main", "origin.git"]);
        env.git_in(env.root(), &["init", "-q", "-b", "main", "project"]);
        env.git(&["remote", "add", "origin", env.origin().to_str().unwrap()]);
        std::fs::write(env.project().join("README.md"), "# A project\n").unwrap();
        env.git(&["add", "."]);
        env.git(&["commit", "-q", "-m", "Begin"]);
        env.git(&["push", "-q", "-u", "origin", "main"]);
        env
    }

    /// The directory everything below is in.
    pub(crate) fn root(&self) -> &Path {
        self.dir.path()
    }

    /// `$HOME`.
    pub(crate) fn home(&self) -> PathBuf {
        self.root().join("home")
    }

    /// `$TMPDIR`.
    pub(crate) fn tmp(&self) -> PathBuf {
        self.root().join("tmp")
    }

    /// `$SENTRELY_STATE_DIR`.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.root().join("state")
    }

    /// The repository programs are started in.
    pub(crate) fn project(&self) -> PathBuf {
        self.root().join("project")
    }

    /// Its remote, a bare repository.
    pub(crate) fn origin(&self) -> PathBuf {
        self.root().join("origin.git")
    }

    /// The built `sentrely` with these arguments.
    pub(crate) fn sentrely<S: AsRef<OsStr>>(&self, args: &[S]) -> Run<'_> {
        self.command(env!("CARGO_BIN_EXE_sentrely"), args)
    }

    /// A program with these arguments: in the project, with an environment of its own, for at most a minute.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, program: impl AsRef<OsStr>, args: &[S]) -> Run<'_> {
        let own = |name: &str, path: PathBuf| (OsString::from(name), path.into_os_string());
        let home = self.home();
        let mut vars = BTreeMap::from([
            own("PATH", std::env::var_os("PATH").unwrap_or_default().into()),
            own("HOME", home.clone()),
            own("XDG_CONFIG_HOME", home.join(".config")),
            own("XDG_STATE_HOME", home.join(".local/state")),
            own("XDG_DATA_HOME", home.join(".local/share")),
            own("XDG_CACHE_HOME", home.join(".cache")),
            own("TMPDIR", self.tmp()),
            own("SENTRELY_STATE_DIR", self.state_dir()),
            own("SENTRELY_WALL_DIR", self.root().join("layers")),
        ]);
        let fixed = [
            ("LANG", "C.UTF-8"),
            ("TZ", "UTC"),
            ("TERM", "xterm-256color"),
            ("SHELL", "/bin/bash"),
            ("USER", "dev"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_TERMINAL_PROMPT", "0"),
            // What the real client needs to stay on loopback, and to accept being root.
            ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
            ("DISABLE_AUTOUPDATER", "1"),
            ("IS_SANDBOX", "1"),
        ];
        vars.extend(fixed.map(|(name, value)| (name.into(), value.into())));
        let args = args.iter().map(|arg| arg.as_ref().to_owned()).collect();
        Run::new(self, program.as_ref(), args, vars, self.project())
    }

    /// git in the project; what it prints, trimmed.
    pub(crate) fn git<S: AsRef<OsStr>>(&self, args: &[S]) -> String {
        self.command("git", args).run().success().stdout.trim().to_owned()
    }

    /// git in any repository; what it prints, trimmed.
    pub(crate) fn git_in<S: AsRef<OsStr>>(&self, dir: &Path, args: &[S]) -> String {
        self.command("git", args).cwd(dir).run().success().stdout.trim().to_owned()
    }

    /// `sentrely ls -a --json`.
    pub(crate) fn ls_json(&self) -> Value {
        let output = self.sentrely(&["ls", "-a", "--json"]).run().success();
        serde_json::from_str(&output.stdout).unwrap()
    }

    /// The ids of all sessions in the state directory, in no order that matters.
    pub(crate) fn sessions(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.state_dir().join("sessions")) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// The id of the only session there is.
    pub(crate) fn the_session(&self) -> String {
        let sessions = self.sessions();
        assert_eq!(sessions.len(), 1, "expected one session: {sessions:?}");
        sessions.into_iter().next().unwrap()
    }

    /// The directory of a session, by its id.
    pub(crate) fn session_dir(&self, id: &str) -> PathBuf {
        self.state_dir().join("sessions").join(id)
    }

    /// Waits until guardian and supervisor have both let go of the session's lock. The last thread of a killed process closes its files, and
    /// an inotify among them takes its time: after waitpid(2) or a look at the process's main thread the lock may still be held.
    pub(crate) fn wait_until_nobody_holds(&self, id: &str) {
        let lock = self.session_dir(id).join("lock");
        wait_until(Duration::from_mins(1), "the lock of the session being free", || !SessionLock::is_held(&lock).unwrap());
    }

    /// The lines of a session's journal, whole ones only: it may be read while it is written.
    pub(crate) fn journal(&self, id: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.session_dir(id).join("journal.jsonl")).unwrap_or_default();
        text.split_inclusive('\n').filter(|line| line.ends_with('\n')).map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The events of one kind in a session's journal, oldest first.
    pub(crate) fn events(&self, id: &str, kind: &str) -> Vec<Value> {
        let events = self.journal(id).into_iter().map(|mut line| line["event"].take());
        events.filter(|event| event["kind"] == kind).collect()
    }

    /// The process ids of everything that runs in this world.
    pub(crate) fn processes(&self) -> BTreeSet<i32> {
        let marker = [b"HOME=", self.home().as_os_str().as_encoded_bytes(), b"\0"].concat();
        let lives_here = |pid: &i32| {
            let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.windows(marker.len()).any(|window| window == marker)
        };
        all_pids().into_iter().filter(lives_here).collect()
    }
}

impl Drop for TestEnv {
    fn drop(&mut self) {
        // Each round may find what the processes of the last one had just started.
        for _ in 0..50 {
            let left = self.processes();
            if left.is_empty() {
                break;
            }
            left.into_iter().for_each(kill_tree);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::support::components::Component;
    use crate::support::run::{descendants, wait_until};

    #[test]
    fn a_dropped_program_leaves_no_descendant_behind_not_even_one_in_a_session_of_its_own() {
        crate::needs!(Component::Proc, Component::Program("setsid"));
        let env = TestEnv::new();
        let running = env.command("sh", &["-c", "setsid sh -c 'echo started; read never < fifo' & wait"]);
        nix::unistd::mkfifo(&env.project().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let running = running.spawn();
        wait_until(Duration::from_secs(10), "the grandchild's word", || running.stdout() == "started\n");
        let below = descendants(running.pid());
        assert!(!below.is_empty() && env.processes().len() >= 2);
        drop(running);
        wait_until(Duration::from_secs(10), "the end of all of them", || env.processes().is_empty());
    }

    #[test]
    fn a_program_sees_nothing_of_the_environment_it_was_not_given() {
        let env = TestEnv::new();
        let output = env.command("env", &[] as &[&str]).var("MINE", "1").run().success();
        let names: BTreeSet<&str> = output.stdout.lines().filter_map(|line| line.split('=').next()).collect();
        assert!(names.contains("MINE") && names.contains("SENTRELY_STATE_DIR") && !names.contains("CARGO_MANIFEST_DIR"), "{names:?}");
        assert_eq!(env.git(&["rev-parse", "main"]), env.git_in(&env.origin(), &["rev-parse", "main"]));
    }
}
