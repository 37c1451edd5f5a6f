//! What the guardian does between fork and exit: one thread, one poll(2) over signals, the supervisor's socket and the kill
//! files. See [`super::guardian`] for what it promises.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::{self, IoSliceMut, IsTerminal, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, pthread_sigmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, send, socketpair};
use nix::unistd::{ForkResult, Pid, getpid, getppid, pipe2, setpgid};

use super::guardian::{
    ABOVE_GONE, AGENT, FINISHED, Forked, GuardianError, GuardianLink, KILL_SEEN, Orphaned, SESSION, SIGNAL, TREE_GONE, above_us, bit,
};
use super::spawn::{self, Change, Waited, wait_any};
use super::sweep::Sweep;
use super::terminal::{Terminal, understands_escapes};
use super::tree::Root;
use super::{Cgroup, Exit, Keep, Outcome, Rung};
use crate::model::{EXIT_FAILED_PROMISE, EXIT_KILLED};
use crate::store::kill_file::{KillFileWatch, paths_for};
use crate::system::{Process, ignored_signals};

/// Within this the supervisor acknowledges a kill.
const ACKNOWLEDGE_TIME: Duration = Duration::from_secs(1);
/// The same where it is ready to run and only waits for a processor: a session that needs to be killed may well be what takes them all.
const ACKNOWLEDGE_TIME_WHEN_READY: Duration = Duration::from_secs(5);
/// Within this it has ended the tree, or given up what it was setting up. Delivering what was done may take longer: that endangers nothing.
const END_TIME: Duration = Duration::from_secs(15);

/// How long after a kill file the watchman wakes a job that may be stopped.
const HEAD_START: Duration = Duration::from_millis(5);

const FORWARDED: [Signal; 4] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT];
/// Blocked and read. The stop signals are only blocked: the supervisor decides when the job stops, with SIGSTOP.
const READ: [Signal; 6] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGCHLD, Signal::SIGCONT];
const BLOCKED: [Signal; 3] = [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU];

pub(super) fn fork(on_orphaned: impl FnOnce(&Orphaned, Option<&Path>) -> String) -> Result<Forked, GuardianError> {
    let threads = spawn::thread_count().unwrap_or(1);
    if threads != 1 {
        return Err(GuardianError::Threads(threads));
    }
    let ignored = ignored_signals(getpid().as_raw());
    let terminal = Terminal::capture();
    let above = Above::of_us(ignored, terminal.as_ref());
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (upper, below) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).map_err(GuardianError::system("make the guardian's socket"))?;
    let read: SigSet = READ.into_iter().collect();
    let blocked: SigSet = READ.into_iter().chain(BLOCKED).collect();
    let signals = SignalFd::with_flags(&read, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(GuardianError::system("make the guardian's signalfd"))?;
    become_keeper()?;

    // Before the fork, so that no signal falls between.
    let mut mask = SigSet::empty();
    pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&blocked), Some(&mut mask))
        .map_err(GuardianError::system("block the guardian's signals"))?;
    let forked = spawn::fork();
    if !matches!(forked, Ok(ForkResult::Parent { .. })) {
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&mask), None).map_err(GuardianError::system("restore the supervisor's signals"))?;
    }
    match forked.map_err(GuardianError::system("fork the guardian"))? {
        ForkResult::Child => {
            // Being a subreaper is not inherited; not being dumpable is.
            become_keeper()?;
            drop((upper, signals, terminal, above));
            Ok(Forked::Supervisor(GuardianLink::new(below, ignored)))
        }
        ForkResult::Parent { child } => {
            drop(below);
            let _ = prctl::set_name(c"sentrely-guard");
            let guard = Guard {
                supervisor: child,
                signals,
                socket: Some(upper),
                above,
                terminal,
                ignored,
                session: None,
                agent: None,
                cgroup: None,
                progress: Progress::Runs,
                kill: None,
                stuck: false,
                watchman: None,
                tree_lives: None,
                watchman_is_dismissed: false,
            };
            Ok(Forked::GuardianEnded(guard.run(on_orphaned)))
        }
    }
}

fn become_keeper() -> Result<(), GuardianError> {
    prctl::set_child_subreaper(true).map_err(GuardianError::system("become a subreaper"))?;
    prctl::set_dumpable(false).map_err(GuardianError::system("become undumpable"))
}

/// The process above us, while its end would mean the session's.
struct Above {
    pid: Pid,
    /// Readable when it ends; without one the slow look finds out.
    end: Option<OwnedFd>,
}

impl Above {
    fn of_us(ignored: u64, terminal: Option<&Terminal>) -> Option<Self> {
        let pid = above_us(ignored, terminal)?;
        let end = spawn::end_of(pid);
        // It may have ended before, and its number be another's.
        (getppid() == pid).then_some(Self { pid, end })
    }

    fn is_gone(&self) -> bool {
        getppid() != self.pid
    }
}

struct Guard {
    supervisor: Pid,
    signals: SignalFd,
    /// `None` once the supervisor has closed its end.
    socket: Option<OwnedFd>,
    terminal: Option<Terminal>,
    /// `None` once it is gone, too.
    above: Option<Above>,
    ignored: u64,
    session: Option<Session>,
    agent: Option<Pid>,
    cgroup: Option<Cgroup>,
    progress: Progress,
    kill: Option<Kill>,
    /// We had to kill the supervisor.
    stuck: bool,
    watchman: Option<Pid>,
    /// The watchman has the other end: closed, it tells it that nothing is left of the tree.
    tree_lives: Option<OwnedFd>,
    /// We ended it, or are about to.
    watchman_is_dismissed: bool,
}

/// What the supervisor has said.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Runs,
    /// Nothing is left of the tree: what the supervisor does now is deliver the work, and no kill may break that off.
    TreeGone,
    Finished,
}

struct Session {
    dir: PathBuf,
    /// Held until exit; never used.
    lock: Option<OwnedFd>,
    watch: Option<KillFileWatch>,
}

/// A kill that is due.
struct Kill {
    file: PathBuf,
    since: Instant,
    acknowledged: bool,
}

impl Guard {
    fn run(mut self, on_orphaned: impl FnOnce(&Orphaned, Option<&Path>) -> String) -> u8 {
        let (status, swept) = self.watch();
        // What the supervisor said last may still be in the socket.
        self.read_messages();
        self.dismiss_watchman();
        let nothing_was_started = self.session.is_none() && self.agent.is_none() && !Root::here().has_children();
        if !self.stuck && (self.progress == Progress::Finished || nothing_was_started) {
            if status.signal.is_some() && io::stderr().is_terminal() && understands_escapes() {
                // It may have died of a Ctrl-C while it drew a step of the start.
                let _ = io::stderr().write_all(b"\r\x1b[2K");
            }
            return status.shell_code();
        }
        let (processes_ended, outcome) = swept.unwrap_or_else(|| {
            let (_, ended, outcome) = self.sweep();
            (ended, outcome)
        });
        if let (Some(terminal), Some(agent)) = (&self.terminal, self.agent) {
            terminal.rescue(agent);
        }
        self.look_for_kill(Instant::now());
        let orphaned = Orphaned {
            supervisor_status: status,
            processes_ended,
            outcome,
            kill_file: self.kill.map(|kill| kill.file),
            supervisor_was_stuck: self.stuck,
        };
        let line = on_orphaned(&orphaned, self.session.as_ref().map(|session| session.dir.as_path()));
        if !line.is_empty() {
            // stderr may be gone with the terminal.
            let _ = writeln!(io::stderr(), "{line}");
        }
        if orphaned.kill_file.is_some() { EXIT_KILLED } else { EXIT_FAILED_PROMISE }
    }

    /// Until the supervisor is gone. The second part is there if we had to end it ourselves.
    fn watch(&mut self) -> (Exit, Option<(u32, Outcome)>) {
        loop {
            self.wait();
            // In this order: a signal that came after the session was announced goes to the session.
            self.read_messages();
            self.read_signals();
            self.look_above();
            let mut swept = None;
            if self.kill_is_ignored(Instant::now()) {
                self.stuck = true;
                let (status, ended, outcome) = self.sweep();
                // The supervisor is counted by the sweep, but is no process of the session.
                swept = Some((ended.saturating_sub(1), outcome));
                if let Some(status) = status {
                    return (status, swept);
                }
            }
            if let Some(status) = self.reap(&mut HashSet::new()).1 {
                return (status, swept);
            }
            if swept.is_some() {
                // Not even SIGKILL ends it (D state). It is one of the survivors, and we are not to wait for ever.
                return (Exit { code: None, signal: Some(Signal::SIGKILL as i32) }, swept);
            }
        }
    }

    fn wait(&self) {
        let watch = self.session.as_ref().and_then(|session| session.watch.as_ref());
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.socket.as_ref().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)));
        fds.extend(watch.and_then(KillFileWatch::fd).map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        // Without a session its end is not waited for: until then we end as any program does.
        let above = self.above.as_ref().filter(|_| self.session.is_some()).and_then(|above| above.end.as_ref());
        fds.extend(above.map(|end| PollFd::new(end.as_fd(), PollFlags::POLLIN)));
        let timeout = match (watch, &self.kill) {
            (_, Some(_)) => PollTimeout::from(100_u8),
            (Some(watch), None) => PollTimeout::try_from(watch.look_every()).unwrap_or(PollTimeout::from(100_u8)),
            (None, None) => PollTimeout::NONE,
        };
        // EINTR cannot happen: what we handle is blocked, and what we do not ends us.
        let _ = poll(&mut fds, timeout);
    }

    fn read_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let Some(signal) = i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok()) else {
                continue;
            };
            if signal == Signal::SIGCONT {
                // To us alone it would leave the supervisor stopped.
                let _ = kill(self.supervisor, Signal::SIGCONT);
            } else if FORWARDED.contains(&signal) && self.ignored & bit(signal) == 0 {
                self.forward(signal);
            }
        }
    }

    fn forward(&self, signal: Signal) {
        // Until there is a session nobody reads the socket, and the signal may act as it does on any program.
        if let (Some(socket), Some(_)) = (&self.socket, &self.session) {
            let mut message = [SIGNAL; 5];
            message[1..].copy_from_slice(&(signal as i32).to_ne_bytes());
            if send(socket.as_raw_fd(), &message, MsgFlags::MSG_NOSIGNAL).is_ok() {
                return;
            }
        }
        let _ = kill(self.supervisor, signal);
    }

    /// Tells the supervisor once when the process above is gone.
    fn look_above(&mut self) {
        if self.session.is_none() || !self.above.as_ref().is_some_and(Above::is_gone) {
            return;
        }
        self.above = None;
        if let Some(socket) = &self.socket {
            let _ = send(socket.as_raw_fd(), &[ABOVE_GONE], MsgFlags::MSG_NOSIGNAL);
        }
        // Nobody is left who could say `fg`.
        let _ = kill(self.supervisor, Signal::SIGCONT);
    }

    fn read_messages(&mut self) {
        while let Some(socket) = &self.socket {
            // A path has 4096 bytes at most.
            let mut bytes = [0; 4200];
            let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
            let mut parts = [IoSliceMut::new(&mut bytes)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let (length, lock) = match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags) {
                Ok(message) => (message.bytes, message.cmsgs().ok().and_then(|mut controls| controls.find_map(first_fd))),
                // The supervisor closed its end without reading all that we had sent. What it had said is still there to be read: the
                // error is told once and comes before it.
                Err(Errno::EINTR | Errno::ECONNRESET) => continue,
                Err(Errno::EAGAIN) => return,
                Err(_) => (0, None),
            };
            match &bytes[..length] {
                [] => self.socket = None,
                [SESSION, dir @ ..] => self.begin(PathBuf::from(OsStr::from_bytes(dir)), lock),
                [AGENT, told @ ..] => {
                    let told = told.split_first_chunk();
                    self.agent = told.map(|(pid, _)| Pid::from_raw(i32::from_ne_bytes(*pid)));
                    let cgroup = told.map(|(_, dir)| PathBuf::from(OsStr::from_bytes(dir)));
                    self.cgroup = cgroup.filter(|dir| dir.is_absolute()).map(Cgroup::at);
                }
                [KILL_SEEN] => {
                    self.look_for_kill(Instant::now());
                    if let Some(kill) = &mut self.kill {
                        kill.acknowledged = true;
                    }
                }
                // The watchman gives its inotify up; that takes some 10 ms, which the supervisor has something to do with.
                [TREE_GONE] => {
                    self.progress = Progress::TreeGone;
                    self.tree_lives = None;
                }
                [FINISHED] => self.progress = Progress::Finished,
                _ => {}
            }
        }
    }

    fn begin(&mut self, dir: PathBuf, lock: Option<OwnedFd>) {
        // The watchman's SIGCONT wakes us when there is a kill file.
        let watch = Some(KillFileWatch::slow(&paths_for(&dir)));
        self.session = Some(Session { dir, lock, watch });
        self.dismiss_watchman();
        let guardian = getpid();
        let watchman = pipe2(OFlag::O_CLOEXEC).map_err(io::Error::from).and_then(|(tree_gone, tree_lives)| {
            self.tree_lives = Some(tree_lives);
            spawn::fork_for(|| self.keep_watch(guardian, &tree_gone))
        });
        match watchman {
            Ok(watchman) => self.watchman = Some(watchman),
            Err(_) => self.watch_ourselves(),
        }
    }

    /// Without a watchman a stopped job is killed only when it is continued.
    fn watch_ourselves(&mut self) {
        if let Some(session) = &mut self.session
            && let Ok(watch) = KillFileWatch::new(&paths_for(&session.dir))
        {
            session.watch = Some(watch);
        }
    }

    /// The watchman's whole life: while there is a kill file, wake both processes, which the shell may have stopped; also when nothing is
    /// left of the tree (`tree_gone` has ended) and the supervisor only delivers the work.
    fn keep_watch(&mut self, guardian: Pid, tree_gone: &OwnedFd) {
        // What the two share must end with them, not with us.
        (self.socket, self.tree_lives) = (None, None);
        let Some(session) = &mut self.session else { return };
        session.lock = None;
        // In a group of its own, or it would be stopped with the others.
        let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0));
        let _ = prctl::set_name(c"sentrely-watch");
        // The guardian has one thread, so this means its death. It may have died before.
        if prctl::set_pdeathsig(Signal::SIGKILL).is_err() || getppid() != guardian {
            return;
        }
        // A descriptor of its own: two readers of one inotify would take each other's events.
        let paths = paths_for(&session.dir);
        let Ok(mut watch) = KillFileWatch::new(&paths) else { return };
        let mut tree_lives = true;
        loop {
            if watch.tripped().is_some() {
                // A supervisor that runs is at it already, and shall have the processor.
                std::thread::sleep(HEAD_START);
                // Again at every look: what was stopped after the kill is woken as well.
                let _ = kill(self.supervisor, Signal::SIGCONT);
                let _ = kill(guardian, Signal::SIGCONT);
            }
            let mut fds: Vec<PollFd<'_>> = watch.fd().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).into_iter().collect();
            fds.extend(tree_lives.then(|| PollFd::new(tree_gone.as_fd(), PollFlags::POLLIN)));
            let timeout = PollTimeout::try_from(watch.look_every()).unwrap_or(PollTimeout::from(100_u8));
            let _ = poll(&mut fds, timeout);
            if tree_lives && fds.last().is_some_and(|end| end.any() == Some(true)) {
                tree_lives = false;
                // To close it takes some 10 ms, which nobody shall wait for at the end.
                watch = KillFileWatch::slow(&paths);
            }
        }
    }

    fn dismiss_watchman(&mut self) {
        self.end_watchman();
        if let Some(watchman) = self.watchman.take() {
            let _ = nix::sys::wait::waitpid(watchman, None);
        }
    }

    fn end_watchman(&mut self) {
        if let Some(watchman) = self.watchman {
            self.watchman_is_dismissed = true;
            // Our own child, not reaped yet: the number is still its own.
            let _ = kill(watchman, Signal::SIGKILL);
        }
    }

    fn look_for_kill(&mut self, now: Instant) {
        if self.kill.is_none()
            && let Some(file) = self.session.as_ref().and_then(|session| session.watch.as_ref()?.tripped())
        {
            self.kill = Some(Kill { file, since: now, acknowledged: false });
        }
    }

    /// Whether a kill is due that the supervisor does not carry out.
    fn kill_is_ignored(&mut self, now: Instant) -> bool {
        self.look_for_kill(now);
        let Some(kill) = &self.kill else { return false };
        if self.progress != Progress::Runs {
            return false;
        }
        let waited = now.saturating_duration_since(kill.since);
        let something_runs = || self.agent.is_none() || Root::of(self.supervisor).has_children();
        let is_ready = || Process::read(self.supervisor.as_raw()).is_some_and(|process| process.state == 'R');
        let unheard = waited >= ACKNOWLEDGE_TIME_WHEN_READY || (waited >= ACKNOWLEDGE_TIME && !is_ready());
        (!kill.acknowledged && unheard) || (waited >= END_TIME && something_runs())
    }

    /// Ends everything below us, the supervisor included if it still lives. Blocks until it is done or given up.
    fn sweep(&mut self) -> (Option<Exit>, u32, Outcome) {
        self.dismiss_watchman();
        let keep = Keep::default();
        let mut sweep = Sweep::new(&keep, Instant::now());
        if self.cgroup.as_ref().is_some_and(Cgroup::kill) {
            sweep.was_struck(None, &[Rung::Cgroup]);
        }
        let mut reaped = HashSet::new();
        let mut supervisor = None;
        let survivors = loop {
            sweep.kill_round(Instant::now());
            let (left, status) = self.reap(&mut reaped);
            supervisor = supervisor.or(status);
            if !left {
                break Vec::new();
            }
            if let Some(survivors) = sweep.give_up(Instant::now()) {
                break survivors;
            }
            let timeout = PollTimeout::try_from(sweep.pause()).unwrap_or(PollTimeout::from(2_u8));
            let _ = poll(&mut [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)], timeout);
            while matches!(self.signals.read_signal(), Ok(Some(_))) {}
        };
        if let Some(cgroup) = &self.cgroup {
            cgroup.remove();
        }
        sweep.forget_name(self.supervisor);
        (supervisor, sweep.ended(&reaped, &survivors), sweep.outcome(survivors))
    }

    /// Reaps all there is: whether a child is left, and how the supervisor ended if it did.
    fn reap(&mut self, reaped: &mut HashSet<i32>) -> (bool, Option<Exit>) {
        let mut supervisor = None;
        loop {
            match wait_any(None) {
                Waited::Nothing => return (true, supervisor),
                Waited::NoChild => return (false, supervisor),
                Waited::Changed(pid, Change::Ended(exit)) => {
                    reaped.insert(pid.as_raw());
                    if pid == self.supervisor {
                        supervisor = Some(exit);
                    } else if Some(pid) == self.watchman {
                        self.watchman = None;
                        self.look_for_kill(Instant::now());
                        if !self.watchman_is_dismissed && self.kill.is_none() {
                            self.watch_ourselves();
                        }
                    }
                }
                Waited::Changed(..) => {}
            }
        }
    }
}

fn first_fd(control: ControlMessageOwned) -> Option<OwnedFd> {
    // More than one is never sent, and there is room for one only.
    if let ControlMessageOwned::ScmRights(fds) = control { fds.first().copied().map(spawn::adopt) } else { None }
}
