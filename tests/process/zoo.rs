//! The zoo: processes that take every way out that is known, each beating a file. killpg(2) alone leaves them beating; after
//! `sentrely kill`, through a real session, none is left: as root and as an ordinary user, with a cgroup and without.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use sentrely::model::{Event, Outcome, Rung, SurvivorReason};
use sentrely::store::{SessionLock, read_journal};
use tempfile::TempDir;

use crate::needs;
use crate::run::{script, wait_for};
use crate::support::components::{CGROUP, Component, FREEZER, PYTHON, TMUX};

tests![
    killing_the_group_alone_leaves_the_zoo_beating,
    nothing_of_the_zoo_outlives_a_kill_as_root_without_a_cgroup,
    nothing_of_the_zoo_outlives_a_kill_as_root_with_a_cgroup,
    nothing_of_the_zoo_outlives_a_kill_as_a_user_without_a_cgroup,
    nothing_of_the_zoo_outlives_a_kill_as_a_user_with_a_cgroup,
    nothing_of_the_zoo_outlives_a_kill_behind_the_full_wall_as_root,
    nothing_of_the_zoo_outlives_a_kill_behind_the_full_wall_as_a_user,
    nothing_of_the_zoo_outlives_a_kill_behind_the_degraded_wall_as_root,
    nothing_of_the_zoo_outlives_a_kill_behind_the_degraded_wall_as_a_user,
    nothing_of_the_zoo_outlives_the_death_of_both_behind_the_full_wall_as_a_user,
    nothing_of_the_zoo_outlives_a_kill_in_a_process_namespace_as_root,
    nothing_of_the_zoo_outlives_a_kill_in_a_process_namespace_as_a_user,
    nothing_of_the_zoo_outlives_the_death_of_both_in_a_process_namespace_as_a_user,
    what_waits_in_the_kernel_is_named_until_it_is_gone_and_so_is_its_cgroup,
    a_setuid_program_is_named_where_it_may_not_be_ended_and_ended_by_the_cgroup,
    the_next_command_ends_the_cgroup_of_a_session_whose_guardian_and_supervisor_died_at_once,
    build_daemons_are_kept_after_a_normal_exit_and_not_after_a_kill,
];

/// What escapes killpg(2), whatever the user.
const ESCAPE: [&str; 14] = [
    "pgrp",
    "setsid",
    "daemon",
    "nohup",
    "ignoreall",
    "envclear",
    "stopped",
    "chain",
    "swarm",
    "subreaper",
    "late",
    "leaderless",
    "newns",
    "tmux",
];
/// An ordinary user that nothing else on a machine runs as.
const USER: u32 = 61_943;

/// A place for a zoo and a session, of which no process is left when it is dropped.
struct Zoo {
    root: TempDir,
    user: Option<u32>,
    /// Where it runs, if it may make cgroups.
    cgroup: Option<PathBuf>,
    wall: Wall,
    sentrely: PathBuf,
}

/// What stands around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wall {
    Off,
    Degraded,
    Full,
    /// The full one, with processes of its own (`[wall] pid_namespace`).
    Alone,
}

impl Zoo {
    fn new(user: Option<u32>) -> Self {
        let root = tempfile::tempdir().unwrap();
        let binary = Path::new(env!("CARGO_BIN_EXE_sentrely"));
        let mut zoo = Self { root, user, cgroup: None, wall: Wall::Off, sentrely: binary.to_owned() };
        for dir in ["beat", "home", "work", "state", "layers"] {
            fs::create_dir(zoo.path(dir)).unwrap();
        }
        fs::copy(script("zoo.py"), zoo.path("zoo.py")).unwrap();
        if let Some(user) = user {
            // The build directory may be closed to others.
            zoo.sentrely = zoo.path("sentrely");
            fs::hard_link(binary, &zoo.sentrely).or_else(|_| fs::copy(binary, &zoo.sentrely).map(drop)).unwrap();
            fs::set_permissions(zoo.root.path(), PermissionsExt::from_mode(0o755)).unwrap();
            for dir in ["", "beat", "home", "work", "state", "layers"] {
                chown(zoo.path(dir), Some(user), Some(user)).unwrap();
            }
            fs::set_permissions(zoo.path("state"), PermissionsExt::from_mode(0o700)).unwrap();
        }
        zoo
    }

    /// In a cgroup whose children belong to its user, as systemd delegates them.
    fn with_cgroup(mut self) -> Self {
        let dir = cgroup2().unwrap().join(format!("zoo-{}", self.root.path().file_name().unwrap().to_str().unwrap().replace('.', "")));
        fs::create_dir(&dir).unwrap();
        // Where `cgmove` goes.
        fs::create_dir(dir.join("away")).unwrap();
        for file in ["", "cgroup.procs", "cgroup.subtree_control", "away", "away/cgroup.procs"] {
            chown(dir.join(file), self.user, self.user).unwrap();
        }
        self.cgroup = Some(dir);
        self
    }

    /// Behind a wall.
    fn behind(mut self, wall: Wall) -> Self {
        self.wall = wall;
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.root.path().to_owned() } else { self.root.path().join(name) }
    }

    /// `program`, as the zoo's user, in its cgroup or with all cgroups hidden.
    fn command(&self, program: &Path) -> Command {
        let mut command = if let Some(cgroup) = &self.cgroup {
            let mut enter = Command::new("sh");
            let user = self.user.map_or(String::new(), |user| format!("setpriv --reuid {user} --regid {user} --clear-groups "));
            enter.arg("-c").arg(format!("echo $$ > {}/cgroup.procs && exec {user}\"$@\"", cgroup.display())).arg("sh").arg(program);
            enter.env("ZOO_CGROUP", cgroup.join("away"));
            enter
        } else {
            let mut plain = Command::new(program);
            if let Some(user) = self.user {
                plain.uid(user).gid(user);
            }
            plain
        };
        let hidden_by_wall = match self.wall {
            Wall::Off => "landlock,namespaces",
            Wall::Degraded => "namespaces",
            Wall::Full | Wall::Alone => "",
        };
        let cgroups = if self.cgroup.is_none() { "cgroups" } else { "" };
        let hidden: Vec<&str> = [cgroups, hidden_by_wall].into_iter().filter(|part| !part.is_empty()).collect();
        if !hidden.is_empty() {
            command.env("SENTRELY_TEST_HIDE", hidden.join(","));
        }
        command.env("SENTRELY_WALL_DIR", self.path("layers"));
        command.env_remove("TMUX").env("HOME", self.path("home")).env("SENTRELY_STATE_DIR", self.path("state"));
        command.current_dir(self.path("work")).stdin(Stdio::null());
        command
    }

    fn zoo_py(&self, animals: &[&str]) -> Vec<String> {
        let words = ["python3".to_owned(), self.path("zoo.py").display().to_string(), self.path("").display().to_string()];
        words.into_iter().chain(animals.iter().map(ToString::to_string)).collect()
    }

    /// `sentrely run` on this.
    fn run(&self, words: &[String]) -> Child {
        let mut command = self.command(&self.sentrely);
        let wall = match self.wall {
            Wall::Off => "off",
            Wall::Degraded => "auto",
            Wall::Full | Wall::Alone => "require",
        };
        command.args(["run", "--workspace", "none", "--wall", wall]);
        if self.wall == Wall::Alone {
            command.args(["--config", "wall.pid_namespace=true"]);
        }
        command.arg("--").args(words);
        let log = |name: &str| fs::File::create(self.path(name)).unwrap();
        command.stdout(log("out")).stderr(log("err")).spawn().unwrap()
    }

    /// Runs the animals in a session until all of them beat.
    fn session(&self, animals: &[&str]) -> Child {
        let run = self.run(&self.zoo_py(animals));
        for animal in animals.iter().chain(&["agent"]) {
            wait_for(&format!("{animal} to beat: {}", fs::read_to_string(self.path("err")).unwrap()), || {
                (self.beats(animal) > 0).then_some(())
            });
        }
        run
    }

    fn sentrely(&self, words: &[&str]) -> Output {
        self.command(&self.sentrely).args(words).output().unwrap()
    }

    /// The id of the only session.
    fn id(&self) -> String {
        let mut sessions = fs::read_dir(self.path("state/sessions")).unwrap();
        sessions.next().unwrap().unwrap().file_name().into_string().unwrap()
    }

    /// Kills the session as a person does; returns the exit code, what was said, and what the record says.
    fn kill(&self) -> (i32, String, Outcome) {
        let id = self.id();
        let output = self.sentrely(&["kill", &id]);
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.code().unwrap(), said, self.outcome())
    }

    /// SIGKILL to guardian and supervisor at once.
    fn kill_both(&self, mut run: Child) {
        let view = self.sentrely(&["show", "--json", &self.id()]).stdout;
        let view: serde_json::Value = serde_json::from_slice(&view).unwrap();
        let supervisor = i32::try_from(view["session"]["pid"].as_i64().unwrap()).unwrap();
        // Stopped first, so that neither sees the other die.
        let both = [supervisor, run.id().cast_signed()];
        for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
            for pid in both {
                kill(Pid::from_raw(pid), signal).unwrap();
            }
        }
        run.wait().unwrap();
        // The supervisor may take longer than that to close its files.
        let lock = self.path("state/sessions").join(self.id()).join("lock");
        wait_for("the lock of the session being free", || (!SessionLock::is_held(&lock).unwrap()).then_some(()));
    }

    /// The cgroups that sentrely made in the zoo's own.
    fn own_cgroups(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.cgroup.as_ref().unwrap()).unwrap().flatten().map(|entry| entry.path());
        entries.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("sentrely-")).collect()
    }

    fn outcome(&self) -> Outcome {
        let journal = read_journal(&self.path("state/sessions").join(self.id()).join("journal.jsonl")).unwrap();
        let ended = journal.into_iter().rev().find_map(|record| match record.event {
            Event::AttemptEnded { outcome, .. } => Some(outcome),
            _ => None,
        });
        ended.unwrap()
    }

    fn beats(&self, animal: &str) -> u64 {
        fs::metadata(self.path("beat").join(animal)).map_or(0, |meta| meta.len())
    }

    /// Waits until it beats again.
    fn expect_beat(&self, animal: &str) {
        let before = self.beats(animal);
        wait_for(&format!("{animal} to beat again"), || (self.beats(animal) > before).then_some(()));
    }

    /// Every process that has the zoo's directory in its command line, but not those that only run `sentrely` there.
    fn living(&self) -> Vec<(i32, String)> {
        let wanted = self.path("").display().to_string();
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter_map(|pid: i32| {
            let line = String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/cmdline")).ok()?).replace('\0', " ");
            // A process whose main thread has exited shows no command line.
            let beats = fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten().any(|task| {
                let line = fs::read(task.path().join("cmdline")).unwrap_or_default();
                String::from_utf8_lossy(&line).contains(&wanted)
            });
            (line.contains(&wanted) || beats).then_some((pid, line))
        })
        .collect()
    }

    fn expect_nobody(&self) {
        assert_eq!(self.living(), []);
        // A beat needs a process; should one have hidden from the look above, its file would still grow.
        let now = || -> Vec<(String, u64)> {
            let files = fs::read_dir(self.path("beat")).unwrap().flatten();
            files.map(|file| (file.file_name().into_string().unwrap(), file.metadata().unwrap().len())).collect()
        };
        let before: BTreeSet<_> = now().into_iter().collect();
        std::thread::park_timeout(std::time::Duration::from_millis(60));
        assert_eq!(now().into_iter().collect::<BTreeSet<_>>(), before, "something still beats");
    }
}

impl Drop for Zoo {
    fn drop(&mut self) {
        // Respawners need more than one look; a failing test leaves no other chance.
        for _ in 0..200 {
            let living = self.living();
            if living.is_empty() {
                break;
            }
            for (pid, _) in living {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        if let Some(cgroup) = &self.cgroup {
            let _ = fs::write(cgroup.join("cgroup.kill"), "1");
            let () = wait_for("the cgroup to be empty", || {
                for entry in fs::read_dir(cgroup).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
                    let _ = fs::remove_dir(entry.path());
                }
                fs::remove_dir(cgroup).ok()
            });
        }
    }
}

/// Where cgroup v2 is mounted.
fn cgroup2() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
    line.split(' ').nth(4).map(PathBuf::from)
}

/// The positive control: the ways do lead out.
fn killing_the_group_alone_leaves_the_zoo_beating() {
    needs!(PYTHON, TMUX, Component::Namespaces);
    let zoo = Zoo::new(None);
    let words = zoo.zoo_py(&[&["plain"], ESCAPE.as_slice()].concat());
    let mut agent = zoo.command(Path::new(&words[0])).args(&words[1..]).process_group(0).spawn().unwrap();
    for animal in ESCAPE.iter().chain(&["plain", "agent"]) {
        wait_for(&format!("{animal} to beat"), || (zoo.beats(animal) > 0).then_some(()));
    }
    killpg(Pid::from_raw(agent.id().cast_signed()), Signal::SIGKILL).unwrap();
    agent.wait().unwrap();
    for (pid, _) in zoo.living() {
        let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
    }
    for animal in ESCAPE {
        zoo.expect_beat(animal);
    }
}

fn nothing_outlives_a_kill(zoo: &Zoo, more: &[&str]) -> Outcome {
    let mut run = zoo.session(&[&["plain"], ESCAPE.as_slice(), more].concat());
    let (code, said, outcome) = zoo.kill();
    zoo.expect_nobody();
    assert_eq!((code, &outcome.survivors), (0, &Vec::new()), "{said}");
    assert_eq!(run.wait().unwrap().code(), Some(122));
    assert!(outcome.rungs.contains(&Rung::Term), "{outcome:?}");
    // It was born of the SIGTERM.
    assert!(zoo.beats("born-late") > 0);
    outcome
}

fn nothing_of_the_zoo_outlives_a_kill_as_root_without_a_cgroup() {
    needs!(PYTHON, TMUX, Component::Root);
    let outcome = nothing_outlives_a_kill(&Zoo::new(None), &[]);
    assert!(!outcome.rungs.contains(&Rung::Cgroup) && outcome.rungs.contains(&Rung::Sweep), "{outcome:?}");
}

fn nothing_of_the_zoo_outlives_a_kill_as_root_with_a_cgroup() {
    needs!(PYTHON, TMUX, Component::Root, CGROUP);
    let outcome = nothing_outlives_a_kill(&Zoo::new(None).with_cgroup(), &["cgmove"]);
    assert!(outcome.rungs.contains(&Rung::Cgroup), "{outcome:?}");
}

fn nothing_of_the_zoo_outlives_a_kill_as_a_user_without_a_cgroup() {
    needs!(PYTHON, TMUX, Component::Root, Component::Namespaces);
    let outcome = nothing_outlives_a_kill(&Zoo::new(Some(USER)), &[]);
    assert!(!outcome.rungs.contains(&Rung::Cgroup) && outcome.rungs.contains(&Rung::Sweep), "{outcome:?}");
}

fn nothing_of_the_zoo_outlives_a_kill_as_a_user_with_a_cgroup() {
    needs!(PYTHON, TMUX, Component::Root, Component::Namespaces, CGROUP);
    let zoo = Zoo::new(Some(USER + 1)).with_cgroup();
    let outcome = nothing_outlives_a_kill(&zoo, &["cgmove"]);
    assert!(outcome.rungs.contains(&Rung::Cgroup), "{outcome:?}");
    let left: Vec<PathBuf> =
        fs::read_dir(zoo.cgroup.as_ref().unwrap()).unwrap().flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    assert_eq!(left, [zoo.cgroup.as_ref().unwrap().join("away")], "the session's own cgroup is gone");
}

fn behind(wall: Wall, user: Option<u32>) {
    let zoo = Zoo::new(user).behind(wall);
    let outcome = nothing_outlives_a_kill(&zoo, &[]);
    assert!(!outcome.rungs.contains(&Rung::Cgroup) && outcome.rungs.contains(&Rung::Sweep), "{outcome:?}");
    let banner = fs::read_to_string(zoo.path("err")).unwrap();
    let height = if wall == Wall::Full { "full" } else { "degraded" };
    assert!(banner.contains(&format!("  wall      {height}")), "{banner}");
}

fn nothing_of_the_zoo_outlives_a_kill_behind_the_full_wall_as_root() {
    needs!(PYTHON, TMUX, Component::Root, Component::Namespaces);
    behind(Wall::Full, None);
}

fn nothing_of_the_zoo_outlives_a_kill_behind_the_full_wall_as_a_user() {
    needs!(PYTHON, TMUX, Component::Root, Component::Namespaces);
    behind(Wall::Full, Some(USER + 4));
}

fn nothing_of_the_zoo_outlives_a_kill_behind_the_degraded_wall_as_root() {
    needs!(PYTHON, TMUX, Component::Root, Component::Namespaces);
    behind(Wall::Degraded, None);
}

fn nothing_of_the_zoo_outlives_a_kill_behind_the_degraded_wall_as_a_user() {
    needs!(PYTHON, TMUX, Component::Root, Component::Namespaces);
    behind(Wall::Degraded, Some(USER + 5));
}

/// The wall's mounts are the one mark that no process of the zoo can shed: without cgroup, parents and environment it finds them.
fn nothing_of_the_zoo_outlives_the_death_of_both_behind_the_full_wall_as_a_user() {
    needs!(PYTHON, TMUX, Component::Root, Component::Namespaces);
    let zoo = Zoo::new(Some(USER + 6)).behind(Wall::Full);
    let run = zoo.session(&[&["plain"], ESCAPE.as_slice()].concat());
    zoo.kill_both(run);
    zoo.expect_beat("envclear");
    let said = zoo.sentrely(&["ls"]);
    let said = format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    assert!(said.contains("had crashed") && !said.contains("STILL THERE") && !said.contains("may still run"), "{said}");
    zoo.expect_nobody();
}

/// The zoo's own numbers are others than those outside, where it is killed.
fn in_a_process_namespace(user: Option<u32>) -> Outcome {
    let zoo = Zoo::new(user).behind(Wall::Alone);
    let mut run = zoo.session(&[&["plain"], ESCAPE.as_slice()].concat());
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).unwrap();
    let animals: Vec<i32> = zoo.living().into_iter().filter(|(_, line)| line.contains("zoo.py")).map(|(pid, _)| pid).collect();
    let inside = animals.iter().filter(|pid| namespace(&pid.to_string()) != namespace("self")).count();
    assert!(inside > ESCAPE.len(), "{inside} of {animals:?}");
    let (code, said, outcome) = zoo.kill();
    zoo.expect_nobody();
    assert_eq!((code, &outcome.survivors), (0, &Vec::new()), "{said}");
    assert_eq!(run.wait().unwrap().code(), Some(122));
    assert!(outcome.rungs.contains(&Rung::Term) && zoo.beats("born-late") > 0, "they are asked first: {outcome:?}");
    outcome
}

fn nothing_of_the_zoo_outlives_a_kill_in_a_process_namespace_as_root() {
    needs!(PYTHON, TMUX, Component::Root, Component::Namespaces);
    in_a_process_namespace(None);
}

fn nothing_of_the_zoo_outlives_a_kill_in_a_process_namespace_as_a_user() {
    needs!(PYTHON, TMUX, Component::Root, Component::Namespaces);
    in_a_process_namespace(Some(USER + 7));
}

/// The kernel ends a process namespace with the first of its processes, which goes with the supervisor.
fn nothing_of_the_zoo_outlives_the_death_of_both_in_a_process_namespace_as_a_user() {
    needs!(PYTHON, TMUX, Component::Root, Component::Namespaces);
    let zoo = Zoo::new(Some(USER + 8)).behind(Wall::Alone);
    let run = zoo.session(&[&["plain"], ESCAPE.as_slice()].concat());
    zoo.kill_both(run);
    let said = zoo.sentrely(&["ls"]);
    let said = format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    assert!(said.contains("had crashed") && !said.contains("STILL THERE") && !said.contains("may still run"), "{said}");
    zoo.expect_nobody();
}

fn what_waits_in_the_kernel_is_named_until_it_is_gone_and_so_is_its_cgroup() {
    needs!(PYTHON, Component::Root, CGROUP, FREEZER);
    let zoo = Zoo::new(None).with_cgroup();
    let mut run = zoo.session(&["setsid"]);
    let frozen = Frozen::new(zoo.living().iter().find(|(pid, line)| line.contains("zoo.py") && is_leader(*pid)).unwrap().0);
    let (code, said, outcome) = zoo.kill();
    assert_eq!(code, 4, "{said}");
    let [survivor] = outcome.survivors.as_slice() else { panic!("{outcome:?}") };
    assert_eq!((survivor.pid, survivor.why), (frozen.pid, SurvivorReason::DState));
    assert!(said.contains(&format!("STILL THERE: {}", frozen.pid)) && said.contains("D state"), "{said}");
    assert_eq!(run.wait().unwrap().code(), Some(122));
    assert_eq!(zoo.own_cgroups().len(), 1, "it is in it");
    let again = zoo.kill();
    assert_eq!(again.0, 4, "{}", again.1);
    assert!(again.1.contains("STILL THERE"), "{}", again.1);
    frozen.thaw();
    let finished = zoo.sentrely(&["finish"]);
    let finished = String::from_utf8_lossy(&finished.stderr).into_owned();
    assert!(finished.contains("nothing of it is left any more"), "{finished}");
    assert_eq!(zoo.own_cgroups(), Vec::<PathBuf>::new());
    zoo.expect_nobody();
    let over = zoo.kill();
    assert_eq!(over.0, 0, "{}", over.1);
}

/// A process that the v1 freezer holds: SIGKILL is posted to it and does not act, as for one that waits in the kernel.
struct Frozen {
    dir: PathBuf,
    pid: i32,
}

impl Frozen {
    fn new(pid: i32) -> Self {
        let dir = Path::new("/sys/fs/cgroup/freezer").join(format!("sentrely-zoo-{pid}"));
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("cgroup.procs"), pid.to_string()).unwrap();
        fs::write(dir.join("freezer.state"), "FROZEN").unwrap();
        wait_for("the freezer", || (fs::read_to_string(dir.join("freezer.state")).unwrap() == "FROZEN\n").then_some(()));
        Self { dir, pid }
    }

    fn thaw(&self) {
        fs::write(self.dir.join("freezer.state"), "THAWED").unwrap();
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.thaw();
        let () = wait_for("the freezer to be empty", || fs::remove_dir(&self.dir).ok());
    }
}

fn a_setuid_program_is_named_where_it_may_not_be_ended_and_ended_by_the_cgroup() {
    needs!(PYTHON, Component::Root, CGROUP);
    let python = Command::new("python3").args(["-c", "import os, sys; print(os.path.realpath(sys.executable))"]).output().unwrap().stdout;
    let python = String::from_utf8(python).unwrap();
    let become_root = |zoo: &Zoo| {
        fs::copy(python.trim(), zoo.path("become")).unwrap();
        fs::set_permissions(zoo.path("become"), PermissionsExt::from_mode(0o4755)).unwrap();
    };
    let zoo = Zoo::new(Some(USER + 2));
    become_root(&zoo);
    let mut run = zoo.session(&["suid"]);
    let (code, said, outcome) = zoo.kill();
    assert_eq!(code, 4, "{said}");
    let [survivor] = outcome.survivors.as_slice() else { panic!("{outcome:?}") };
    assert_eq!((survivor.comm.as_str(), survivor.why), ("become", SurvivorReason::Setuid));
    assert!(said.contains(&format!("STILL THERE: {}", survivor.pid)) && said.contains("setuid"), "{said}");
    zoo.expect_beat("suid");
    assert_eq!(run.wait().unwrap().code(), Some(122));
    // Twice is harmless, but it is no lie either: it is still there, whoever asks and how often.
    let id = zoo.id();
    for words in [&["kill", &id][..], &["kill", "--all"], &["ls"], &["show", &id]] {
        let output = zoo.sentrely(words);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let expected = if words[0] == "kill" { 4 } else { 0 };
        assert_eq!(output.status.code(), Some(expected), "{words:?}: {said}");
        let loud = if words[0] == "ls" { "SOMETHING IS LEFT".to_owned() } else { survivor.pid.to_string() };
        assert!(said.contains(&loud), "{words:?}: {said}");
    }
    kill(Pid::from_raw(survivor.pid), Signal::SIGKILL).unwrap();
    wait_for("its end", || zoo.living().is_empty().then_some(()));
    let again = zoo.kill();
    assert_eq!(again.0, 0, "{}", again.1);
    assert!(again.1.contains("had ended already: killed") && !again.1.contains("STILL THERE"), "{}", again.1);
    assert_eq!(zoo.sentrely(&["kill", "--all"]).status.code(), Some(0));

    let zoo = Zoo::new(Some(USER + 3)).with_cgroup();
    become_root(&zoo);
    let mut run = zoo.session(&["suid"]);
    let (code, said, outcome) = zoo.kill();
    zoo.expect_nobody();
    assert_eq!((code, outcome.survivors), (0, Vec::new()), "{said}");
    run.wait().unwrap();
}

fn the_next_command_ends_the_cgroup_of_a_session_whose_guardian_and_supervisor_died_at_once() {
    needs!(PYTHON, TMUX, Component::Root, CGROUP);
    let zoo = Zoo::new(None).with_cgroup();
    let run = zoo.session(&[&["plain"], ESCAPE.as_slice()].concat());
    zoo.kill_both(run);
    zoo.expect_beat("envclear");
    let said = zoo.sentrely(&["finish"]);
    let said = format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    assert!(said.contains("had crashed"), "{said}");
    zoo.expect_nobody();
}

fn build_daemons_are_kept_after_a_normal_exit_and_not_after_a_kill() {
    needs!(Component::Proc);
    let sleep = fs::canonicalize("/bin/sleep").unwrap();
    for (killed, in_cgroup) in [(false, false), (true, false), (false, true)] {
        if in_cgroup {
            // What is kept goes on in the cgroup above.
            needs!(Component::Root, CGROUP);
        }
        let zoo = if in_cgroup { Zoo::new(None).with_cgroup() } else { Zoo::new(None) };
        // A daemon that is on the list, one that only calls itself so, and one that is not.
        fs::copy(&sleep, zoo.path("sccache")).unwrap();
        fs::copy(&sleep, zoo.path("other")).unwrap();
        let (dir, then) = (zoo.path("").display().to_string(), if killed { "exec sleep 60" } else { "" });
        // `sleep` adds its arguments up.
        let start = format!(
            "cd {dir}; setsid {dir}/sccache 60 & kept=$!; setsid {dir}/other 60 & other=$!; \
             setsid bash -c 'exec -a {dir}/sccache ./other 61' & \
             for pid in $kept $other $!; do until cmp -s /proc/$pid/exe {dir}/other; do :; done; done; echo . > beat/agent; {then}"
        );
        let mut run = zoo.run(&["bash".to_owned(), "-c".to_owned(), start]);
        if killed {
            wait_for("the agent", || (zoo.beats("agent") > 0).then_some(()));
            assert_eq!(zoo.kill().0, 0);
        }
        let code = run.wait().unwrap().code();
        let outcome = zoo.outcome();
        let living: Vec<(i32, String)> = zoo.living();
        if killed {
            assert_eq!((code, living, &outcome.kept), (Some(122), Vec::new(), &Vec::new()), "{outcome:?}");
            continue;
        }
        let [(pid, line)] = living.as_slice() else { panic!("{living:?}") };
        assert_eq!((code, line.trim_end()), (Some(0), format!("{dir}/sccache 60").as_str()));
        let [kept] = outcome.kept.as_slice() else { panic!("{outcome:?}") };
        assert_eq!((kept.pid, kept.name.as_str()), (*pid, "sccache"));
        assert_eq!(outcome.ended.get("other"), Some(&2), "{outcome:?}");
        let said = fs::read_to_string(zoo.path("err")).unwrap();
        assert!(said.contains(&format!("sccache (pid {pid}): still running")), "{said}");
        if in_cgroup {
            assert_eq!(zoo.own_cgroups(), Vec::<PathBuf>::new());
        }
        kill(Pid::from_raw(*pid), Signal::SIGKILL).unwrap();
    }
}

/// Whether the process leads a session of its own.
fn is_leader(pid: i32) -> bool {
    nix::unistd::getsid(Some(Pid::from_raw(pid))) == Ok(Pid::from_raw(pid))
}
