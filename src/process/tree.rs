//! The process tree of the session, read downwards. Where it begins and how it is read is a matter of the system: `linux`, `macos`.
//!
//! One walk is a glimpse, not a proof: whoever needs a proof walks again until nothing is left ([`super::sweep`]).

#[cfg(any(target_os = "macos", test))]
mod adopted;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

use std::io;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::spawn::signal_exactly;
use crate::system::Process;

#[cfg(target_os = "linux")]
pub(super) use linux::Root;
#[cfg(target_os = "macos")]
pub(super) use macos::Root;

/// A process of the session, for whoever only looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Below {
    /// Its number.
    pub pid: i32,
    /// With the number it names the process: [`Process::start`].
    pub start: u64,
    /// The first 15 bytes of its program's name.
    pub comm: String,
}

impl From<Process> for Below {
    fn from(Process { pid, start, comm, .. }: Process) -> Self {
        Self { pid, start, comm }
    }
}

/// A glimpse of the session's processes below the main thread of `supervisor`, from any thread.
pub fn processes_below(supervisor: u32) -> Vec<Below> {
    Root::of(Pid::from_raw(supervisor.cast_signed())).walk(|_| {}).into_iter().map(Below::from).collect()
}

/// Signals exactly this process.
///
/// # Errors
/// ESRCH if it is gone, EPERM if it runs as another user.
fn signal(process: &Process, signals: &[Signal]) -> io::Result<()> {
    signal_exactly(process.pid, signals, || process.is_there())
}

/// Sends `signals`, in this order, to the group `group` (if given) and to everything below `root` that is not in it, once each, and
/// returns what was found. Refusals are left to the sweep to report.
pub(super) fn signal_tree(root: Root, group: Option<Pid>, signals: &[Signal]) -> Vec<Process> {
    // Looked at before the group may end and its children move.
    let found = root.walk(|_| {});
    if let Some(group) = group {
        for signal in signals {
            let _ = nix::sys::signal::killpg(group, *signal);
        }
    }
    for process in found.iter().filter(|process| Some(process.group) != group.map(Pid::as_raw)) {
        let _ = root.signal(process, signals);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_with_another_start_time_is_not_signalled() {
        let mut me = Process::read(std::process::id().cast_signed()).unwrap();
        assert!(me.is_there());
        me.start += 1;
        let error = signal(&me, &[Signal::SIGKILL]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
    }
}
