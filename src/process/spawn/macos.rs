//! macOS: nothing pins a process there.

use std::io;

use nix::sys::signal::Signal;

/// Sends `signals` in this order to the process that has `pid` *and* passes `is_it`.
///
/// # Errors
/// ESRCH if it is gone or is another one, EPERM if it may not be signalled.
pub(in crate::process) fn signal_exactly(pid: i32, signals: &[Signal], is_it: impl FnOnce() -> bool) -> io::Result<()> {
    super::look_and_signal(pid, signals, is_it)
}
