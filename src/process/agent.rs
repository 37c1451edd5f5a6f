//! The agent: the one process that a session runs, with everything below it, and its share of the terminal.
//!
//! [`Agent`] belongs to the main thread of the supervisor and its current-thread runtime: the kernel hands the tree's orphans to
//! that thread. There is one agent at a time.

use std::future::pending;
use std::io::{self, IsTerminal};
use std::mem::replace;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{sleep, sleep_until, timeout_at};

use super::reaper::Reaper;
use super::request::{AgentRequest, SpawnError, enterable, explain, resolve};
use super::spawn::{self, Change, Plan};
use super::sweep::Sweep;
use super::terminal::{Terminal, job_control, shell_above};
use super::tree::{Root, signal_tree};
use super::{AgentEvent, Cgroup, Ended, Exit, Keep, Rung, Survivor};
use crate::store::sweep::MARKER;
use crate::system::Process;

/// Added to the agent's OOM score, so that the kernel takes it before its supervisor.
const OOM_SCORE: i32 = 300;

/// How long after `bg` the agent is continued. Our job is woken by a kill file as well, and then the agent shall be ended
/// without having written into the screen of a shell that does not expect it.
const WAKE_TIME: Duration = Duration::from_millis(50);

/// How often is looked for the terminal while the agent runs in the background: a shell that says `fg` to a job that runs already gives it the
/// terminal and sends no signal.
const LOOK_FOR_TERMINAL: Duration = Duration::from_millis(100);

/// How long a cgroup that was killed is waited for before the tree is looked at: a process whose main thread has exited stays in it.
const CGROUP_TIME: Duration = Duration::from_millis(25);

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

/// A first signal.
struct Strike {
    at: Instant,
    /// SIGKILL, not SIGTERM.
    hard: bool,
    /// The group that got it.
    group: Option<Pid>,
    rungs: Vec<Rung>,
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

    /// Whether the agent has the terminal: what we print then goes into its screen.
    pub fn owns_terminal(&self) -> bool {
        self.exit.is_none() && self.terminal.as_ref().is_some_and(|terminal| terminal.is_held_by(self.pid))
    }

    /// Whether the next call of [`Self::event`] stops our whole job.
    pub fn job_is_about_to_stop(&self) -> bool {
        self.state == State::StoppedAndWeFollow
    }

    /// To be called as soon as the guardian is known to be gone: for the shell it was the job, so the terminal is put in order now, if the shell
    /// was not faster, and the agent is out of it.
    pub fn guardian_is_gone(&mut self) {
        self.shell_went_ahead = self.shell.is_some() && self.terminal.is_some();
        if let (Some(terminal), Some(shell)) = (&self.terminal, self.shell) {
            terminal.hand_back(self.pid, shell);
        }
    }

    /// Whether the shell was back at its prompt before the session was over, and may have taken the agent's terminal mode for its own.
    pub fn shell_went_ahead(&self) -> bool {
        self.shell_went_ahead
    }

    /// Remembers the terminal mode that the agent works in. To be called now and then.
    pub fn note_mode(&mut self) {
        if let Some(terminal) = self.terminal.as_ref().filter(|terminal| self.state == State::Runs && terminal.is_held_by(self.pid)) {
            self.mode_at_work = terminal.mode();
        }
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

    /// Posts the first signal of an end, before anything is looked at or written down: SIGTERM to the agent's group, or (`hard`) SIGKILL to its
    /// cgroup and its group. [`Self::end`] must follow, and goes on from there.
    pub fn strike(&mut self, hard: bool) {
        // What was reaped may have been the agent, and then its number is free.
        self.absorb();
        self.root.remember();
        // From here on processes die of it, and the first can be reaped before the end goes on.
        self.reaper.count();
        let group = self.group();
        let mut rungs = Vec::new();
        if hard && self.cgroup.as_ref().is_some_and(Cgroup::kill) {
            rungs.push(Rung::Cgroup);
        }
        if let Some(group) = group {
            if hard {
                let _ = killpg(group, Signal::SIGKILL);
                rungs.push(Rung::Group);
            } else {
                let _ = killpg(group, Signal::SIGTERM);
                let _ = killpg(group, Signal::SIGCONT);
                rungs.push(Rung::Term);
            }
        }
        self.strike = Some(Strike { at: Instant::now(), hard, group, rungs });
    }

    /// [`Self::end_but`], and nothing is kept.
    pub async fn end(&mut self, grace: Option<Duration>) -> Ended {
        self.end_but(grace, &Keep::default()).await
    }

    /// Ends everything but `keep`: SIGTERM (only with a grace period), then SIGKILL until nothing is left, then `sudo -n kill` for what
    /// runs as root. To be used after the agent's own exit as well: what it left behind is ended, and so are its daemons.
    /// The terminal is in order when this returns.
    ///
    /// Returns within the grace period and a few milliseconds; with processes that do not go, at most some seconds later,
    /// and they are named. May be called again.
    pub async fn end_but(&mut self, grace: Option<Duration>, keep: &Keep) -> Ended {
        let mut sweep = Sweep::new(keep, Instant::now());
        self.reaper.count();
        let mut left = self.is_anything_left();
        self.absorb();
        let mut signalled_at = self.strike.as_ref().map(|strike| strike.at);
        if left && let Some(grace) = grace {
            let strike = self.struck(false);
            sweep.ask_to_end(strike.group, &strike.rungs);
            signalled_at = signalled_at.or(Some(strike.at));
            left = self.wait_until_gone(&mut sweep, grace).await;
        }
        let mut survivors = Vec::new();
        if left {
            let strike = if sweep.keeps() { None } else { Some(self.struck(true)) };
            signalled_at = signalled_at.or(strike.as_ref().map(|strike| strike.at));
            survivors = self.kill(&mut sweep, strike).await;
            signalled_at = signalled_at.or(Some(Instant::now()));
        }
        let gone_at = Instant::now();
        self.strike = None;
        self.absorb();
        if let Some(terminal) = &self.terminal {
            match self.shell.filter(|_| self.shell_went_ahead) {
                Some(shell) => terminal.clear_up_behind(shell),
                // Again, because a job of the agent's may have had the foreground when the agent itself went.
                None => {
                    terminal.restore(self.pid, self.exit);
                }
            }
        }
        let processes = sweep.ended(&self.reaper.counted(), &survivors);
        let outcome = sweep.outcome(survivors);
        if let Some(cgroup) = &self.cgroup {
            outcome.kept.iter().for_each(|kept| cgroup.release(kept.pid));
            cgroup.remove();
        }
        Ended { signalled_at: signalled_at.unwrap_or(gone_at), gone_at, processes, outcome, exit: self.exit }
    }

    /// The first signal, which may have been posted already.
    fn struck(&mut self, hard: bool) -> Strike {
        if self.strike.as_ref().is_none_or(|strike| strike.hard != hard) {
            self.strike(hard);
        }
        self.strike.take().unwrap_or(Strike { at: Instant::now(), hard, group: None, rungs: Vec::new() })
    }

    /// Returns whether anything is left when the grace period is over, or nothing but what is kept.
    async fn wait_until_gone(&mut self, sweep: &mut Sweep<'_>, grace: Duration) -> bool {
        let deadline = tokio::time::Instant::now() + grace;
        loop {
            let left = self.is_anything_left();
            self.absorb();
            if !left || (sweep.keeps() && self.reaper.has_reaped(|reaped| sweep.knows_only(reaped)) && sweep.finds_only_the_kept()) {
                return left;
            }
            if timeout_at(deadline, self.reaper.passed()).await.is_err() {
                return left;
            }
        }
    }

    async fn kill(&self, sweep: &mut Sweep<'_>, strike: Option<Strike>) -> Vec<Survivor> {
        // With a cgroup all of it is dying already: what is left once that is empty is found by a shorter walk.
        let mut waits = match strike {
            Some(Strike { rungs, group, .. }) => {
                sweep.was_struck(group, &rungs);
                self.cgroup.as_ref().filter(|_| rungs.contains(&Rung::Cgroup))
            }
            None => None,
        };
        loop {
            if waits.is_none() {
                sweep.kill_round(Instant::now());
                if sweep.keeps() && sweep.has_none_to_keep() && self.cgroup.as_ref().is_some_and(Cgroup::kill) {
                    sweep.was_struck(None, &[Rung::Cgroup]);
                }
            }
            if !self.is_anything_left() {
                return Vec::new();
            }
            if sweep.has_only_the_kept() {
                return Vec::new();
            }
            if let Some(survivors) = sweep.give_up(Instant::now()) {
                return survivors;
            }
            if !self.wait_for_the_known(sweep, waits.take()).await {
                return Vec::new();
            }
        }
    }

    /// Until all that the last walk found is reaped, or the cgroup is empty, so that whatever is left is new; or until it is time to walk
    /// anyway: a walk for every one that ends would look at each of the others again and again. Returns whether anything is left.
    async fn wait_for_the_known(&self, sweep: &Sweep<'_>, cgroup: Option<&Cgroup>) -> bool {
        let until = tokio::time::Instant::now() + if cgroup.is_some() { CGROUP_TIME } else { sweep.pause() };
        while timeout_at(until, self.reaper.passed()).await.is_ok() {
            if !self.is_anything_left() {
                return false;
            }
            let known_are_gone = || self.reaper.has_reaped(|reaped| sweep.knows_only(reaped));
            if cgroup.map_or_else(known_are_gone, Cgroup::is_empty) {
                break;
            }
        }
        true
    }

    /// Reaps all there is. Returns whether anything of the tree is left, dead or alive.
    fn is_anything_left(&self) -> bool {
        let has_children = self.reaper.reap();
        has_children || self.root.has_orphans()
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

    fn stopped_by(&mut self, signal: i32) -> Option<AgentEvent> {
        let can_suspend = job_control();
        if let Some(terminal) = &self.terminal {
            let wants_it = signal == Signal::SIGTTIN as i32 || signal == Signal::SIGTTOU as i32;
            if wants_it && terminal.is_ours() {
                self.wants_terminal = true;
                self.in_background = false;
                terminal.give(self.pid, self.mode_at_work.or(self.mode.take()));
                let _ = killpg(self.pid, Signal::SIGCONT);
                return None;
            }
            if !can_suspend && terminal.is_held_by(self.pid) {
                // No shell is there that could take the terminal and say `fg`: a stop would be for ever.
                let _ = killpg(self.pid, Signal::SIGCONT);
                return None;
            }
        }
        let follow = can_suspend && (self.terminal.is_some() || self.stop_was_asked);
        self.state = if follow { State::StoppedAndWeFollow } else { State::Stopped };
        Some(AgentEvent::Stopped)
    }

    /// Gives the terminal back to the shell, stops the whole job, and goes on here when the shell continues it.
    fn suspend(&mut self) {
        if let Some(terminal) = &self.terminal {
            if terminal.is_held_by(self.pid) {
                self.mode = terminal.mode();
                terminal.take();
            } else if terminal.is_ours() && !self.stop_was_asked {
                // It stopped in the background, for the terminal; `fg` came meanwhile, and has brought it.
                self.resume();
                return;
            }
        }
        // SIGSTOP, because SIGTSTP is dropped in an orphaned group and has a handler here. It takes effect before kill(2)
        // returns to this thread; guardian and supervisor stop as one job.
        let _ = kill(Pid::from_raw(0), Signal::SIGSTOP);
        self.resume();
    }

    /// SIGCONT came: `fg`, `bg`, or `fg` after `bg`.
    fn resume(&mut self) {
        self.stop_was_asked = false;
        if self.exit.is_some() {
            return;
        }
        let gets_terminal = self.wants_terminal && self.terminal.as_ref().is_some_and(Terminal::is_ours);
        if let Some(terminal) = &self.terminal {
            if gets_terminal {
                let at_stop = self.mode.take();
                terminal.give(self.pid, if self.state == State::Runs { self.mode_at_work.or(at_stop) } else { at_stop });
            }
            self.in_background = self.wants_terminal && !gets_terminal && !terminal.is_held_by(self.pid);
        }
        match self.state {
            State::StoppedAndWeFollow if !gets_terminal => self.state = State::WakesAt(Instant::now() + WAKE_TIME),
            State::StoppedAndWeFollow | State::WakesAt(_) if gets_terminal => {
                self.state = State::Runs;
                let _ = killpg(self.pid, Signal::SIGCONT);
            }
            // We did not follow, so waitpid tells when it goes on.
            State::Stopped => {
                let _ = killpg(self.pid, Signal::SIGCONT);
            }
            // It may wait for the terminal that it got.
            State::Runs if gets_terminal => {
                let _ = killpg(self.pid, Signal::SIGCONT);
            }
            // A SIGCONT comes from the shell and once more from the guardian, as late as the machine is busy. The agent may have been stopped
            // again by then, which waitpid is still to tell: that `Ctrl-Z` must not be undone.
            State::Runs | State::StoppedAndWeFollow | State::WakesAt(_) => {}
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
