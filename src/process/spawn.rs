//! Spawn and waitpid, and in the system's room fork and pidfd, each wrapped so that nothing outside has to care about `unsafe` code. The only
//! other is in `system/macos.rs` and `wall/syscall.rs`.
//!
//! [`spawn`] is built on `std::process::Command`, which already does fork, exec and the pipe that carries an exec error back.
//! Its `Child` is dropped at once: only [`super::reaper`] may wait.

#![expect(unsafe_code, reason = "system calls that neither std nor nix wraps; every block says why it is sound")]

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Exit;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

#[cfg(target_os = "linux")]
pub(super) use linux::{adopt, end_of, fork, fork_for, signal_exactly, thread_count};
#[cfg(target_os = "macos")]
pub(super) use macos::signal_exactly;

/// Work of the wall, done in the child just before exec. It must be async-signal-safe: no allocation, no locks, system
/// calls only, because other threads of the supervisor may have held any lock at the fork.
pub type PreExec = Box<dyn FnMut() -> io::Result<()> + Send + Sync + 'static>;

/// What [`spawn`] starts. Paths are resolved already.
pub(super) struct Plan<'a> {
    pub(super) program: &'a Path,
    pub(super) arg0: &'a OsStr,
    pub(super) args: &'a [OsString],
    pub(super) env: &'a [(OsString, OsString)],
    pub(super) cwd: &'a Path,
    /// Where it enters its cgroup.
    pub(super) entrance: Option<File>,
    /// The terminal whose foreground the child takes, if it shall.
    pub(super) foreground: Option<RawFd>,
    pub(super) pre_exec: Option<PreExec>,
    /// The hook lets another child of ours go on in the forked one's place, and its number is read here.
    pub(super) successor: Option<OwnedFd>,
}

/// Where [`spawn`] failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// In our own preparation: process group, terminal, signals.
    Setup(io::Error),
    /// In the wall's hook.
    Hook(io::Error),
    /// fork or exec.
    Exec(io::Error),
}

const AT_SETUP: u8 = b's';
const AT_HOOK: u8 = b'h';

/// Starts the child in a process group of its own, with default signal dispositions, an empty signal mask and no file
/// descriptor but 0, 1 and 2. Returns after exec succeeded, so the group and the foreground are set by then.
pub(super) fn spawn(plan: Plan<'_>) -> Result<Pid, Failure> {
    let (mut failed_at, mut child_end) = io::pipe().map_err(Failure::Setup)?;

    let mut command = Command::new(plan.program);
    command.arg0(plan.arg0).args(plan.args).env_clear().current_dir(plan.cwd);
    command.envs(plan.env.iter().map(|(name, value)| (name, value)));

    let foreground = plan.foreground;
    let mut hook = plan.pre_exec;
    let entrance = plan.entrance;
    let in_child = move || {
        // First, so that whatever comes of this process is in there. If it is refused, we see that and do without.
        if let Some(mut entrance) = entrance.as_ref() {
            let _ = entrance.write(b"0");
        }
        if let Err(error) = prepare_child(foreground) {
            let _ = child_end.write(&[AT_SETUP]);
            return Err(error);
        }
        if let Some(hook) = hook.as_mut()
            && let Err(error) = hook()
        {
            let _ = child_end.write(&[AT_HOOK]);
            return Err(error);
        }
        Ok(())
    };
    // SAFETY: the closure runs between fork and exec. `prepare_child` makes system calls only; the hook is bound to the same
    // by the contract of `PreExec`. Neither allocates.
    unsafe { command.pre_exec(in_child) };

    match command.spawn() {
        // The one that was forked has ended then, and is reaped like an orphan.
        Ok(child) => match plan.successor {
            Some(number) => {
                let mut bytes = [0; 4];
                File::from(number).read_exact(&mut bytes).map_err(Failure::Setup)?;
                Ok(Pid::from_raw(i32::from_ne_bytes(bytes)))
            }
            None => Ok(Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX))),
        },
        Err(error) => {
            // Closes our copy of the child's end, so that the read below ends. The child itself is gone: std reaped it.
            drop(command);
            let mut place = [0];
            match failed_at.read(&mut place) {
                Ok(1) if place[0] == AT_SETUP => Err(Failure::Setup(error)),
                Ok(1) => Err(Failure::Hook(error)),
                _ => Err(Failure::Exec(error)),
            }
        }
    }
}

/// In the child: group, foreground, dispositions, descriptors. Async-signal-safe.
fn prepare_child(foreground: Option<RawFd>) -> io::Result<()> {
    nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
    // SAFETY: signal(2) with SIG_DFL touches no memory of ours. Unknown numbers are refused with EINVAL, which is harmless.
    for number in 1..=64 {
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
    if let Some(tty) = foreground {
        take_foreground(tty)?;
    }
    close_on_exec_from(3);
    Ok(())
}

/// Makes the calling process's own group the terminal's foreground group. A background process that asks for this is sent
/// SIGTTOU, so that is ignored for the moment.
fn take_foreground(tty: RawFd) -> io::Result<()> {
    // SAFETY: plain system calls on a descriptor that the parent keeps open across the fork; SIG_IGN and SIG_DFL are no
    // pointers to code.
    unsafe {
        libc::signal(libc::SIGTTOU, libc::SIG_IGN);
        let done = libc::tcsetpgrp(tty, libc::getpgrp());
        let error = io::Error::last_os_error();
        libc::signal(libc::SIGTTOU, libc::SIG_DFL);
        if done == 0 { Ok(()) } else { Err(error) }
    }
}

/// Marks every descriptor from `first` up close-on-exec. The pipe over which std reports an exec error stays usable.
fn close_on_exec_from(first: libc::c_uint) {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: close_range(2) takes three integers and touches no memory.
        let done = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
        if done == 0 {
            return;
        }
    }
    // Before Linux 5.11, and elsewhere: one by one.
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid, writable rlimit.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    let end = libc::c_int::try_from(limit.rlim_cur.min(65_536)).unwrap_or(65_536);
    for fd in libc::c_int::try_from(first).unwrap_or(3)..end {
        // SAFETY: fcntl(F_SETFD) on a number that may not be open fails with EBADF and does nothing.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

/// What waitpid(2) had to report on a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Ended(Exit),
    /// Stopped by this signal.
    Stopped(i32),
    Continued,
}

/// The answer of [`wait_any`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waited {
    Changed(Pid, Change),
    /// There are children, none has changed.
    Nothing,
    /// The calling thread has no child (ECHILD).
    NoChild,
}

/// Waits, without blocking, for any child *of the calling thread* (`__WNOTHREAD`), of whatever clone flavour (`__WALL`), to
/// end, stop or continue.
///
/// macOS knows no children of a thread: there it is only the `agent` that is waited for. Orphans do not come to us there, and
/// what other threads have started (git, helpers) is theirs to wait for.
pub(super) fn wait_any(agent: Option<Pid>) -> Waited {
    #[cfg(target_os = "linux")]
    const OPTIONS: libc::c_int = libc::WNOHANG | libc::WUNTRACED | libc::WCONTINUED | libc::__WALL | libc::__WNOTHREAD;
    #[cfg(target_os = "macos")]
    const OPTIONS: libc::c_int = libc::WNOHANG | libc::WUNTRACED | libc::WCONTINUED;
    let whom = if cfg!(target_os = "linux") { Some(-1) } else { agent.map(Pid::as_raw) };
    let Some(whom) = whom else { return Waited::NoChild };
    loop {
        let mut status = 0;
        // SAFETY: `status` is a valid, writable c_int.
        let pid = unsafe { libc::waitpid(whom, &raw mut status, OPTIONS) };
        return match pid {
            0 => Waited::Nothing,
            -1 if io::Error::last_os_error().raw_os_error() == Some(libc::EINTR) => continue,
            -1 => Waited::NoChild,
            pid => Waited::Changed(Pid::from_raw(pid), decode(status)),
        };
    }
}

/// By hand, because `nix::WaitStatus` refuses real-time signals, and a child chooses what it dies of.
fn decode(status: libc::c_int) -> Change {
    if libc::WIFEXITED(status) {
        Change::Ended(Exit { code: Some(libc::WEXITSTATUS(status)), signal: None })
    } else if libc::WIFSIGNALED(status) {
        Change::Ended(Exit { code: None, signal: Some(libc::WTERMSIG(status)) })
    } else if libc::WIFSTOPPED(status) {
        Change::Stopped(libc::WSTOPSIG(status))
    } else {
        Change::Continued
    }
}

/// Sends `signals` in this order to the process that has `pid` *and* passes `is_it`. Nothing pins the process in between: where that can be
/// had, `signal_exactly` of the system's room is better.
fn look_and_signal(pid: i32, signals: &[Signal], is_it: impl FnOnce() -> bool) -> io::Result<()> {
    if !is_it() {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    signals.iter().try_for_each(|signal| Ok(kill(Pid::from_raw(pid), *signal)?))
}
