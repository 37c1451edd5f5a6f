//! Linux: the guardian's fork, and pidfd.

#![expect(unsafe_code, reason = "system calls that neither std nor nix wraps; every block says why it is sound")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::signal::Signal;
use nix::unistd::{ForkResult, Pid};

/// Forks the whole process.
///
/// # Errors
/// `EBUSY` if this process has more than one thread, else what fork(2) says.
pub(in crate::process) fn fork() -> io::Result<ForkResult> {
    if thread_count().is_some_and(|threads| threads != 1) {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    // SAFETY: the process has one thread (checked above, and main calls this before it starts any), so no lock can be held
    // by a thread that does not exist in the child.
    Ok(unsafe { nix::unistd::fork() }?)
}

/// Forks a child that does `work` and ends, without running anything else of this program. For the guardian's watchman.
pub(in crate::process) fn fork_for(work: impl FnOnce()) -> io::Result<Pid> {
    match fork()? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            work();
            // SAFETY: _exit(2) ends the process at once; what it leaves behind belongs to the parent.
            unsafe { libc::_exit(0) }
        }
    }
}

/// How many threads this process has; `None` where /proc does not tell.
pub(in crate::process) fn thread_count() -> Option<usize> {
    Some(std::fs::read_dir("/proc/self/task").ok()?.count())
}

/// Sends `signals` in this order to the process that has `pid` *and* passes `is_it`: the process is pinned by a pidfd before it
/// is looked at, so no signal can reach another one that was given the same number in between.
///
/// # Errors
/// ESRCH if it is gone or is another one, EPERM if it may not be signalled.
pub(in crate::process) fn signal_exactly(pid: i32, signals: &[Signal], is_it: impl FnOnce() -> bool) -> io::Result<()> {
    // SAFETY: pidfd_open(2) takes two integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if let Ok(fd) = RawFd::try_from(fd)
        && fd >= 0
    {
        let fd = adopt(fd);
        if !is_it() {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        let no_info = std::ptr::null::<libc::siginfo_t>();
        for signal in signals {
            let number = *signal as libc::c_int;
            // SAFETY: the descriptor is open, and a null siginfo is allowed: the kernel fills one in as for kill(2).
            if unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd.as_raw_fd(), number, no_info, 0) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ESRCH) {
        return Err(error);
    }
    // No pidfd here (Linux before 5.3, or no descriptor left).
    super::look_and_signal(pid, signals, is_it)
}

/// A descriptor that becomes readable when the process ends. `None` where there are no pidfds (Linux before 5.3).
pub(in crate::process) fn end_of(pid: Pid) -> Option<OwnedFd> {
    // SAFETY: pidfd_open(2) takes two integers; what it returns is close-on-exec.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    RawFd::try_from(fd).ok().filter(|fd| *fd >= 0).map(adopt)
}

/// Takes ownership of a descriptor that the kernel has just handed to us and that nobody else owns: from `pidfd_open` or out of
/// an `SCM_RIGHTS` message.
pub(in crate::process) fn adopt(fd: RawFd) -> OwnedFd {
    // SAFETY: by the contract above the number is open and has no other owner.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
