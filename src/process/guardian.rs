//! The guardian: the process above the supervisor, which outlives it and ends what it leaves behind.
//!
//! [`fork`] is called first thing in `main`, before any thread exists. The process that the shell started becomes the guardian
//! and stays within `fork` until all is over; the child goes on as the supervisor with a [`GuardianLink`]. Both are subreapers,
//! in one process group, and not dumpable: nobody may attach to them or read their memory.
//!
//! * Supervisor gone without [`GuardianLink::finished`]: the guardian ends the tree, restores the terminal, lets the session
//!   write down what happened, prints one line and exits with 125 (122 if a kill was due and nothing is left).
//! * Supervisor gone before it had announced a session: nothing was started, so the guardian exits as it did.
//! * A kill file that the supervisor does not acknowledge within 1 s (5 s while it only waits for a processor), or whose tree is still
//!   there after 15 s: the guardian kills the supervisor and ends the tree. A set-up that a kill finds under way has those 15 s too. Once
//!   nothing is left of the tree ([`GuardianLink::tree_gone`]) a kill has been carried out, and the supervisor delivers the work undisturbed.
//!   A stopped supervisor does not save the agent; nor does a stopped guardian, as a watchman in a process group of its own continues both
//!   when the kill file appears.
//! * Guardian gone: [`GuardianLink::next`] says so, and the session ends itself.
//! * The process above gone (a CI step's shell that was killed, a terminal that was closed): [`GuardianEvent::AboveGone`], unless it
//!   had put us into the background on purpose: `nohup`, `setsid`, a shell's `&`.
//!
//! TERM, INT, HUP and QUIT sent to the guardian are forwarded. What the *terminal* sends goes to the whole group, so the
//! supervisor gets one Ctrl-C twice, by its own handler and from here, within milliseconds: the session must take
//! signals of one kind that come so close together for one.

use std::fs::File;
use std::future::pending;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::{Pid, getpid, getppid, getsid};
use tokio::net::UnixDatagram;

use super::terminal::Terminal;
use super::{Exit, Outcome};

/// Which of the two processes this is.
pub enum Forked {
    /// The supervisor: go on with the program.
    Supervisor(GuardianLink),
    /// The guardian, after all is over: return this exit code from `main` at once.
    GuardianEnded(u8),
}

/// What the guardian found when the supervisor died; for the closure given to [`fork`].
#[derive(Debug, Clone)]
pub struct Orphaned {
    /// How the supervisor ended.
    pub supervisor_status: Exit,
    /// How many processes of the session the guardian ended, without the supervisor.
    pub processes_ended: u32,
    /// The rungs used; who was ended; and what could not be ended.
    pub outcome: Outcome,
    /// The kill file that was there, if one was: the session ended by a kill, whatever became of the supervisor.
    pub kill_file: Option<PathBuf>,
    /// Whether it was the guardian that killed the supervisor, because it did not carry out that kill.
    pub supervisor_was_stuck: bool,
}

/// What the guardian tells the supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardianEvent {
    /// It got this signal: TERM, INT, HUP or QUIT.
    Signal(Signal),
    /// The process that started sentrely is gone, and had not put us into the background: nobody waits for the session any more.
    AboveGone,
    /// It is gone. End the session: nobody would after us.
    Gone,
}

/// Why there is no guardian.
#[derive(Debug, thiserror::Error)]
pub enum GuardianError {
    /// [`fork`] came too late: a fork copies one thread only, and whatever the others held.
    #[error("fork the guardian: the process has {0} threads already")]
    Threads(usize),
    /// A system call failed.
    #[error("{what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl GuardianError {
    pub(super) fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System { what, source: source.into() }
    }
}

/// Forks into guardian and supervisor. Returns in both, in the guardian only when all is over.
///
/// `on_orphaned` runs in the guardian if the supervisor died: it gets what was found and the session's directory, may write the
/// journal (the lock is still held), and returns the line for stderr.
///
/// Where there is no guardian (macOS), this is the supervisor at once, and the link has nobody at its other end.
///
/// # Errors
/// [`GuardianError`], in the only process there is.
#[cfg(target_os = "linux")]
pub fn fork(on_orphaned: impl FnOnce(&Orphaned, Option<&Path>) -> String) -> Result<Forked, GuardianError> {
    super::guard_loop::fork(on_orphaned)
}

/// See the Linux version: here there is no guardian, and the supervisor looks by itself whether the process above is gone.
///
/// # Errors
/// None.
#[cfg(target_os = "macos")]
pub fn fork(_on_orphaned: impl FnOnce(&Orphaned, Option<&Path>) -> String) -> Result<Forked, GuardianError> {
    let ignored_at_start = crate::system::ignored_signals(std::process::id().cast_signed());
    let above = Mutex::new(above_us(ignored_at_start, Terminal::capture().as_ref()));
    Ok(Forked::Supervisor(GuardianLink { above, ignored_at_start, ..GuardianLink::unguarded() }))
}

/// The process above us, whose end means the session's. `None` where somebody put us into the background on purpose: `nohup`, `setsid`, a
/// script's or a shell's `&`, a service manager.
pub(super) fn above_us(ignored: u64, terminal: Option<&Terminal>) -> Option<Pid> {
    let above = getppid();
    let in_background = ignored & (bit(Signal::SIGHUP) | bit(Signal::SIGINT)) != 0
        || getsid(None) == Ok(getpid())
        || terminal.is_some_and(|terminal| !terminal.is_ours());
    // 0 is a parent outside our PID namespace, 1 the system's own first process.
    (!in_background && above.as_raw() > 1).then_some(above)
}

/// How often the supervisor looks for the process above, where no guardian does.
const LOOK_ABOVE: Duration = Duration::from_secs(1);

// The messages: one datagram each, a tag and its data.
pub(super) const SESSION: u8 = b's';
pub(super) const AGENT: u8 = b'a';
pub(super) const KILL_SEEN: u8 = b'k';
pub(super) const TREE_GONE: u8 = b't';
pub(super) const FINISHED: u8 = b'f';
pub(super) const SIGNAL: u8 = b'S';
pub(super) const ABOVE_GONE: u8 = b'P';

/// A guardian that is gone is an error, not a SIGPIPE. macOS has no such flag, and no guardian.
#[cfg(target_os = "linux")]
const NO_SIGNAL: MsgFlags = MsgFlags::MSG_NOSIGNAL;
#[cfg(target_os = "macos")]
const NO_SIGNAL: MsgFlags = MsgFlags::empty();

/// The supervisor's end of the socket to the guardian. All methods take `&self`.
pub struct GuardianLink {
    /// Made at the first `next`, as `fork` runs before any runtime.
    listener: OnceLock<UnixDatagram>,
    socket: Option<OwnedFd>,
    /// The process above us, where there is no guardian that looks after it.
    above: Mutex<Option<Pid>>,
    /// Bit n-1 stands for signal n.
    ignored_at_start: u64,
}

impl GuardianLink {
    /// A link without a guardian: it takes every word and never says one. For tests, and where there is none.
    pub fn unguarded() -> Self {
        Self { listener: OnceLock::new(), socket: None, above: Mutex::new(None), ignored_at_start: 0 }
    }

    #[cfg(target_os = "linux")]
    pub(super) fn new(socket: OwnedFd, ignored_at_start: u64) -> Self {
        Self { socket: Some(socket), ignored_at_start, ..Self::unguarded() }
    }

    /// Announces the session: from here on the guardian watches its kill files ([`crate::store::kill_file::paths_for`]), shares
    /// the open file description of `lock`, so that the lock is free only when both processes are gone, and treats the
    /// supervisor's death as a crash.
    ///
    /// # Errors
    /// [`GuardianError::System`] if the guardian is gone.
    pub fn session(&self, dir: &Path, lock: &File) -> Result<(), GuardianError> {
        use std::os::unix::ffi::OsStrExt;
        let fds = [lock.as_raw_fd()];
        self.send(SESSION, dir.as_os_str().as_bytes(), &[ControlMessage::ScmRights(&fds)])
            .map_err(GuardianError::system("announce the session to the guardian"))
    }

    /// Tells the agent's process id, so that the guardian knows whose the terminal is, and the directory of its cgroup.
    ///
    /// # Errors
    /// [`GuardianError::System`] if the guardian is gone.
    pub fn agent(&self, pid: i32, cgroup: Option<&Path>) -> Result<(), GuardianError> {
        use std::os::unix::ffi::OsStrExt;
        let mut data = pid.to_ne_bytes().to_vec();
        data.extend(cgroup.into_iter().flat_map(|dir| dir.as_os_str().as_bytes()));
        self.send(AGENT, &data, &[]).map_err(GuardianError::system("tell the guardian of the agent"))
    }

    /// Acknowledges a kill file, at once: the guardian waits 1 s for it.
    pub fn kill_seen(&self) {
        // If the guardian is gone, `next` says so.
        let _ = self.send(KILL_SEEN, &[], &[]);
    }

    /// Says that nothing is left of the tree. From here on a kill file is not for the guardian to carry out: the supervisor delivers
    /// the work, however long that takes, and need not acknowledge it.
    pub fn tree_gone(&self) {
        let _ = self.send(TREE_GONE, &[], &[]);
    }

    /// Says that all is done. The guardian exits with our exit code, which must follow directly.
    pub fn finished(&self) {
        let _ = self.send(FINISHED, &[], &[]);
    }

    /// Whether `signal` was ignored when the program began (`nohup`, a script's `&`): then the user wants it ignored, and it
    /// should be given no handler. The guardian does not forward such a signal.
    pub fn was_ignored(&self, signal: Signal) -> bool {
        self.ignored_at_start & bit(signal) != 0
    }

    /// Waits for what the guardian has to say. Cancel-safe. Must run within a runtime, always the same one.
    pub async fn next(&self) -> GuardianEvent {
        let Some(socket) = &self.socket else { return self.above_gone().await };
        let Some(listener) = self.listener(socket) else { return GuardianEvent::Gone };
        loop {
            let mut message = [0; 8];
            match listener.recv(&mut message).await {
                Ok(5) if message[0] == SIGNAL => {
                    let number = i32::from_ne_bytes([message[1], message[2], message[3], message[4]]);
                    if let Ok(signal) = Signal::try_from(number) {
                        return GuardianEvent::Signal(signal);
                    }
                }
                Ok(1) if message[0] == ABOVE_GONE => return GuardianEvent::AboveGone,
                Ok(0) | Err(_) => return GuardianEvent::Gone,
                Ok(_) => {}
            }
        }
    }

    /// Waits, without a guardian, until the process above is gone; for ever where none is, or it was told already.
    async fn above_gone(&self) -> GuardianEvent {
        let above = || self.above.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pid) = *above() else { return pending().await };
        while getppid() == pid {
            tokio::time::sleep(LOOK_ABOVE).await;
        }
        *above() = None;
        GuardianEvent::AboveGone
    }

    fn listener(&self, socket: &OwnedFd) -> Option<&UnixDatagram> {
        if self.listener.get().is_none() {
            // Its messages have bounds, as a datagram socket's have; unlike one it has an end.
            let socket = std::os::unix::net::UnixDatagram::from(socket.try_clone().ok()?);
            let _ = self.listener.set(UnixDatagram::from_std(socket).ok()?);
        }
        self.listener.get()
    }

    fn send(&self, tag: u8, data: &[u8], control: &[ControlMessage<'_>]) -> io::Result<()> {
        let Some(socket) = &self.socket else { return Ok(()) };
        let tag = [tag];
        let parts = [io::IoSlice::new(&tag), io::IoSlice::new(data)];
        sendmsg::<()>(socket.as_raw_fd(), &parts, control, NO_SIGNAL, None)?;
        Ok(())
    }
}

pub(super) fn bit(signal: Signal) -> u64 {
    1 << (signal as i32 - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_a_guardian_the_end_of_the_process_above_is_told_once() {
        async fn told_at_once(link: &GuardianLink) -> Option<GuardianEvent> {
            tokio::select! {
                biased;
                told = link.next() => Some(told),
                () = std::future::ready(()) => None,
            }
        }
        let under = |above| GuardianLink { above: Mutex::new(above), ..GuardianLink::unguarded() };
        // What is not our parent was it once, as far as the link knows.
        let orphaned = under(Some(getpid()));
        assert_eq!(told_at_once(&orphaned).await, Some(GuardianEvent::AboveGone));
        assert_eq!(told_at_once(&orphaned).await, None);
        assert_eq!(told_at_once(&under(Some(getppid()))).await, None);
        assert_eq!(told_at_once(&under(None)).await, None);
    }
}
