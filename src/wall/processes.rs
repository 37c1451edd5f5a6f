//! Processes of the command's own: a namespace in which it sees none but them, and whose first process ends all others when it is ended.
//!
//! Whoever makes such a namespace stays outside of it; only its children are inside. So the process that was forked to become the command makes
//! two: the namespace's first process, which reaps and does nothing else, and, as a child of the supervisor's, a second one, which goes on in its
//! place and becomes the command. Its number goes to the supervisor, for which everything is as ever: it waits for the command itself, which leads a
//! process group and has the terminal.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, poll};
use nix::unistd::Pid;

use super::syscall;

/// The command's number inside: the second process that there is.
const COMMAND: libc::pid_t = 2;
/// Orphans are reaped so often while the command lives, in milliseconds.
const REAP_EVERY: u16 = 500;

/// Goes on as the second process of a new namespace, whose number outside is written to `number`. System calls only.
pub(super) fn enter(number: &OwnedFd) -> io::Result<()> {
    // One that only tries the wall out is in our own group and leaves the terminal alone.
    let leads = nix::unistd::getpgrp() == nix::unistd::getpid();
    let foreground = leads && syscall::has_foreground();
    syscall::unshare(libc::CLONE_NEWPID)?;
    let (there, is_there) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    // The first process keeps our memory, and with it the supervisor's: nobody inside may look at it.
    syscall::set_dumpable(false)?;
    let writer = is_there.as_raw_fd();
    syscall::fork_for(|| {
        nix::unistd::close(writer)?;
        first(&there);
        Ok(())
    })?;
    let command = syscall::fork_beside()?;
    if command != 0 {
        // Read by whoever waits for it; a number fits in one piece.
        let _ = nix::unistd::write(number, &command.to_ne_bytes());
        let _ = nix::unistd::write(&is_there, b"c");
        syscall::exit(0);
    }
    syscall::set_dumpable(true)?;
    if leads {
        nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
    }
    if foreground {
        syscall::take_foreground();
    }
    Ok(())
}

/// The namespace's first process: what is orphaned there becomes its child. It ends when nothing else is left, and everything with it when it is
/// ended.
fn first(there: &OwnedFd) {
    syscall::be_deaf_and_named(c"sentrely-init");
    syscall::close_all_but(there.as_raw_fd());
    let mut byte = [0];
    let _ = nix::unistd::read(there, &mut byte);
    // One that is gone already has left its children to us.
    if let Ok(command) = syscall::end_of(COMMAND) {
        loop {
            let mut ends = [PollFd::new(command.as_fd(), PollFlags::POLLIN)];
            let ended = poll(&mut ends, REAP_EVERY).is_ok_and(|count| count > 0);
            while syscall::reap(false) {}
            if ended {
                break;
            }
        }
    }
    while syscall::reap(true) {}
}
