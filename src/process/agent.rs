//! The agent: the one process that a session runs, with everything below it, and its share of the terminal.
//!
//! [`Agent`] belongs to the main thread of the supervisor and its current-thread runtime: the kernel hands the tree's orphans to
//! that thread. There is one agent at a time.

mod ending;
mod job;

use std::future::pending;
use std::io::{self, IsTerminal};
use std::mem::replace;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{sleep, sleep_until};

use self::ending::Strike;
use super::reaper::Reaper;
use super::request::{AgentRequest, SpawnError, enterable, explain, resolve};
use super::spawn::{self, Change, Plan};
use super::terminal::{Terminal, shell_above};
use super::tree::{Root, signal_tree};
use super::{AgentEvent, Cgroup, Exit};
use crate::store::sweep::MARKER;
use crate::system::Process;

/// Added to the agent's OOM score, so that the kernel takes it before its supervisor.
const OOM_SCORE: i32 = 300;

/// How often is looked for the terminal while the agent runs in the background: a shell that says `fg` to a job that runs already gives it the
/// terminal and sends no signal.
const LOOK_FOR_TERMINAL: Duration = Duration::from_millis(100);

/// The running agent. Dropping it neither ends it nor waits for it: call [`Agent::end`].
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that has happened or is wanted, in any combination")]
pub struct Agent {
    pid: Pid,
    root: Root,
    cgroup: Option<Cgroup>,
    /// The first signal of an end that has not been called yet.
    strike: Option<Strike>,
    reaper: Reaper,
    changes: UnboundedReceiver<Change>,
    exit: Option<Exit>,
    terminal: Option<Terminal>,
    /// The group of the shell above us, if it does job control.
    shell: Option<Pid>,
    /// For the shell our job is over, and it is back at its prompt while we are still at work.
    shell_went_ahead: bool,
    /// Whether it shall have the terminal when our job is in the foreground.
    wants_terminal: bool,
    /// It runs in the background, and our job may be given the terminal for it.
    in_background: bool,
    /// The terminal mode it had when it stopped, to be put back on `fg`.
    mode: Option<libc::termios>,
    /// The one it was last seen at work with. Claude Code puts the terminal back before it stops itself, and takes it over on SIGCONT, but only
    /// once: continued in the background it never does so again in the foreground.
    mode_at_work: Option<libc::termios>,
    state: State,
    /// SIGTSTP came to us: the terminal's Ctrl-Z while the agent did not have it, or somebody's `kill -TSTP`.
    stop_was_asked: bool,
    continue_signals: tokio::signal::unix::Signal,
    stop_signals: tokio::signal::unix::Signal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Runs,
    Stopped,
    /// It is stopped, and the next call of `event` stops our job as well.
    StoppedAndWeFollow,
    /// It is stopped, but our job was continued without being given the terminal, and the agent follows at this time.
    WakesAt(Instant),
}

impl Agent {
    /// Starts the agent in a process group of its own; in the terminal's foreground if standard input and output are our
    /// terminal and our job has it. Blocks for the few milliseconds of fork and exec.
    ///
    /// Must be called on the main thread, within its current-thread runtime.
    ///
    /// # Errors
    /// [`SpawnError`]; nothing runs then, and the terminal is as it was.
    pub fn spawn(request: AgentRequest) -> Result<Self, SpawnError> {
        let AgentRequest { program, args, env, cwd, cgroup, pre_exec, successor } = request;
        let not_started = |source| SpawnError::Start { program: program.clone(), source };
        enterable(&cwd).map_err(|source| SpawnError::Directory { cwd: cwd.clone(), source })?;
        let path = env.iter().rev().find(|(name, _)| name == "PATH").map(|(_, value)| value.as_os_str());
        let file = resolve(&program, path, &cwd)?;

        // Handlers before the child: nothing that it does is missed.
        let reaper = Reaper::start().map_err(not_started)?;
        let handler =
            |signal: Signal| tokio::signal::unix::signal(tokio::signal::unix::SignalKind::from_raw(signal as i32)).map_err(not_started);
        let continue_signals = handler(Signal::SIGCONT)?;
        let stop_signals = handler(Signal::SIGTSTP)?;

        let terminal = Terminal::capture();
        let shell = terminal.as_ref().and_then(|_| shell_above());
        // With the output in a pipe the terminal may be the other end's (`| less`). If the agent reads from it nevertheless, it
        // stops on SIGTTIN and is given it then.
        let wants_terminal = terminal.is_some() && io::stdout().is_terminal();
        let foreground = terminal.as_ref().filter(|terminal| wants_terminal && terminal.is_ours());
        let in_background = wants_terminal && foreground.is_none();
        let plan = Plan {
            program: &file,
            arg0: program.as_os_str(),
            args: &args,
            env: &env,
            cwd: &cwd,
            entrance: cgroup.as_ref().and_then(|cgroup| cgroup.entrance().ok()),
            foreground: foreground.map(Terminal::raw_fd),
            pre_exec,
            successor,
        };
        let pid = match spawn::spawn(plan) {
            Ok(pid) => pid,
            Err(failure) => {
                if let Some(cgroup) = cgroup {
                    cgroup.remove();
                }
                // The child may have taken the foreground before it failed; its group is empty now.
                if let Some(terminal) = foreground {
                    terminal.take();
                }
                return Err(explain(failure, program, file));
            }
        };
        let changes = reaper.watch(pid);
        let root = Root::here();
        root.watch_over(pid, env.iter().find(|(name, _)| name == MARKER).and_then(|(_, value)| value.to_str()));
        raise_oom_score(pid);
        let cgroup = cgroup.and_then(|cgroup| {
            if cgroup.holds(pid.as_raw()) {
                return Some(cgroup);
            }
            cgroup.remove();
            None
        });
        Ok(Self {
            pid,
            root,
            cgroup,
            strike: None,
            reaper,
            changes,
            exit: None,
            terminal,
            shell,
            shell_went_ahead: false,
            wants_terminal,
            in_background,
            mode: None,
            mode_at_work: None,
            state: State::Runs,
            stop_was_asked: false,
            continue_signals,
            stop_signals,
        })
    }

    /// The process id of the agent, which is its process group too.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// When it started: [`Process::start`]. `None` where that cannot be read.
    pub fn start(&self) -> Option<u64> {
        Process::read(self.pid()).map(|process| process.start)
    }

    /// Its mount namespace, where it has one of its own. `None` where `/proc` does not tell.
    pub fn mounts(&self) -> Option<u64> {
        mount_namespace(&self.pid.to_string()).filter(|number| mount_namespace("self") != Some(*number))
    }

    /// How it ended, once it has.
    pub fn exit(&self) -> Option<Exit> {
        self.exit
    }

    /// How many processes the session has now, the agent included.
    pub fn processes(&self) -> u32 {
        let living = self.root.walk(|_| {}).iter().filter(|process| !process.is_dead()).count();
        u32::try_from(living).unwrap_or(u32::MAX)
    }

    /// Waits for the next thing to happen to the agent, and does the job control meanwhile. Cancel-safe. After
    /// [`AgentEvent::Exited`], or once [`Self::end`] has seen the exit, it waits for ever.
    pub async fn event(&mut self) -> AgentEvent {
        if self.state == State::StoppedAndWeFollow {
            self.suspend();
            return AgentEvent::Continued;
        }
        loop {
            if self.exit.is_some() {
                return pending().await;
            }
            let wake_at = if let State::WakesAt(at) = self.state { Some(at) } else { None };
            tokio::select! {
                change = self.changes.recv() => {
                    let Some(change) = change else { return pending().await };
                    if let Some(event) = self.changed(change) {
                        return event;
                    }
                }
                _ = self.continue_signals.recv() => self.resume(),
                () = sleep_until(wake_at.unwrap_or_else(Instant::now).into()), if wake_at.is_some() => {
                    self.state = State::Runs;
                    let _ = killpg(self.pid, Signal::SIGCONT);
                }
                () = sleep(LOOK_FOR_TERMINAL), if self.in_background && self.state == State::Runs => {
                    if self.terminal.as_ref().is_some_and(Terminal::is_ours) {
                        self.resume();
                    }
                }
                _ = self.stop_signals.recv() => {
                    self.stop_was_asked = true;
                    let _ = killpg(self.pid, Signal::SIGTSTP);
                }
            }
        }
    }

    /// Sends a signal to the agent's group, and to everything else of the tree: Claude Code runs each command in a session of
    /// its own, which no signal to its group reaches.
    pub fn signal(&self, signal: Signal) {
        signal_tree(self.root, self.group(), &[signal]);
    }

    /// The agent's cgroup, if it has one.
    pub fn cgroup(&self) -> Option<&Cgroup> {
        self.cgroup.as_ref()
    }

    /// Takes in what the reaper has seen, where nobody waits for events.
    fn absorb(&mut self) {
        while let Ok(change) = self.changes.try_recv() {
            match change {
                Change::Ended(exit) => self.ended(exit),
                // It shall end, not stop.
                Change::Stopped(_) => {
                    let _ = killpg(self.pid, Signal::SIGCONT);
                }
                Change::Continued => self.state = State::Runs,
            }
        }
    }

    fn changed(&mut self, change: Change) -> Option<AgentEvent> {
        match change {
            Change::Ended(exit) => {
                self.ended(exit);
                Some(AgentEvent::Exited(exit))
            }
            Change::Stopped(signal) => self.stopped_by(signal),
            Change::Continued => {
                let before = replace(&mut self.state, State::Runs);
                matches!(before, State::Stopped | State::StoppedAndWeFollow).then_some(AgentEvent::Continued)
            }
        }
    }

    fn ended(&mut self, exit: Exit) {
        self.exit = Some(exit);
        if let Some(terminal) = &self.terminal {
            terminal.restore(self.pid, Some(exit));
        }
    }

    /// The agent's group, while the number is surely its own.
    fn group(&self) -> Option<Pid> {
        self.exit.is_none().then_some(self.pid)
    }
}

/// `4026532180` of `mnt:[4026532180]`.
fn mount_namespace(process: &str) -> Option<u64> {
    let name = std::fs::read_link(format!("/proc/{process}/ns/mnt")).ok()?;
    name.to_str()?.strip_prefix("mnt:[")?.strip_suffix(']')?.parse().ok()
}

fn raise_oom_score(pid: Pid) {
    // From outside: the child of a process that is not dumpable may not write its own before exec. Best effort; it may only
    // be raised, so an agent with a higher one keeps it.
    let path = format!("/proc/{pid}/oom_score_adj");
    let now: i32 = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let _ = std::fs::write(&path, (now + OOM_SCORE).min(1000).to_string());
}
