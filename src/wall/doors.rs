//! A network of the command's own in which nothing is but loopback, and on it the doors to the session's services.
//!
//! The child makes the network and listens in it before it becomes the command; the listening sockets go to the supervisor, which accepts
//! on them from outside. So no process of ours is inside, and nothing inside holds a way out.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, socket, socketpair};

use super::syscall;

/// More services than there are.
pub(super) const MOST: usize = 8;

/// The child's part.
#[derive(Debug)]
pub(super) struct Doors {
    ports: Vec<u16>,
    to: OwnedFd,
}

/// The supervisor's part: the listening sockets arrive here.
#[derive(Debug)]
pub struct Arriving(OwnedFd);

/// Doors for these ports of 127.0.0.1, at most eight.
pub(super) fn doors(ports: &[u16]) -> io::Result<(Doors, Arriving)> {
    let ports: Vec<u16> = ports.iter().copied().take(MOST).collect();
    let (here, there) = socketpair(AddressFamily::Unix, SockType::Datagram, None, SockFlag::SOCK_CLOEXEC)?;
    Ok((Doors { ports, to: there }, Arriving(here)))
}

impl Doors {
    /// Enters the new network, and hands the listening sockets over. System calls only.
    pub(super) fn open(&self) -> io::Result<()> {
        syscall::unshare(libc::CLONE_NEWNET)?;
        syscall::loopback_up()?;
        let mut made: [Option<OwnedFd>; MOST] = [const { None }; MOST];
        let mut raw = [-1; MOST];
        for ((port, slot), number) in self.ports.iter().zip(&mut made).zip(&mut raw) {
            let door = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
            bind(door.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, *port))?;
            listen(&door, Backlog::MAXCONN)?;
            *number = door.as_raw_fd();
            *slot = Some(door);
        }
        syscall::send_descriptors(self.to.as_raw_fd(), &raw[..self.ports.len().min(MOST)])
    }
}

impl Arriving {
    /// The listening sockets, in the order of the ports. Call when the child has become the command.
    pub fn take(self) -> io::Result<Vec<std::net::TcpListener>> {
        let doors: Vec<_> =
            syscall::receive_descriptors::<MOST>(self.0.as_raw_fd())?.into_iter().map(std::net::TcpListener::from).collect();
        doors.iter().try_for_each(|door| door.set_nonblocking(true))?;
        Ok(doors)
    }
}
