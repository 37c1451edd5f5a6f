//! The system calls of the wall that neither std nor nix wraps: the second of the two files with `unsafe` in it.
//!
//! They are made between fork and exec, so nothing here allocates, locks or unwinds; each returns the error number as `io::Error`, which
//! does not allocate either. Paths come as C strings that were made before the fork.

#![expect(unsafe_code, reason = "system calls that neither std nor nix wraps; every block says why it is sound")]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use libc::{c_int, c_long, c_uint};

/// `open_tree` with everything that is mounted below.
const TREE: c_uint = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_RECURSIVE as c_uint;
const FSCONFIG_SET_STRING: c_uint = 1;
const FSCONFIG_SET_FLAG: c_uint = 0;
const FSCONFIG_CMD_CREATE: c_uint = 6;
const FSOPEN_CLOEXEC: c_uint = 1;
const FSMOUNT_CLOEXEC: c_uint = 1;
const MOVE_MOUNT_F_EMPTY_PATH: c_uint = 4;
const KEYCTL_JOIN_SESSION_KEYRING: c_int = 1;

/// Attributes of a mount (`MOUNT_ATTR_*`).
pub(super) const READ_ONLY: u64 = 0x1;
pub(super) const NO_SUID: u64 = 0x2;
pub(super) const NO_DEV: u64 = 0x4;

fn check(result: c_long) -> io::Result<c_long> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn descriptor(result: c_long) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(check(result)?).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: the kernel has just handed out this number, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// New namespaces for this process.
pub(super) fn unshare(flags: c_int) -> io::Result<()> {
    // SAFETY: unshare(2) takes flags. The calling process has one thread: it was just forked.
    check(unsafe { libc::unshare(flags) }.into()).map(drop)
}

/// Makes the files of this process in /proc its own, or not.
pub(super) fn set_dumpable(on: bool) -> io::Result<()> {
    // SAFETY: prctl(2) with integers.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, libc::c_ulong::from(on), 0, 0, 0) }.into()).map(drop)
}

/// Setuid programs gain nothing from now on.
pub(super) fn no_new_privileges() -> io::Result<()> {
    // SAFETY: prctl(2) with integers.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into()).map(drop)
}

/// No program that is started from now on gets this capability, root's neither.
pub(super) fn drop_capability(number: c_int) -> io::Result<()> {
    // SAFETY: prctl(2) with integers.
    match check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) }.into()) {
        // A kernel that does not know it grants nobody anything by it.
        Err(error) if error.raw_os_error() != Some(libc::EINVAL) => Err(error),
        _ => Ok(()),
    }
}

/// A session keyring of its own, empty.
pub(super) fn fresh_keyring() -> io::Result<()> {
    // SAFETY: a null name asks for an anonymous keyring.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, ptr::null::<libc::c_char>()) }).map(drop)
}

/// Mounts from now on stay in this namespace; those of the outside still arrive.
pub(super) fn receive_mounts_only() -> io::Result<()> {
    // SAFETY: the strings are static, and a change of propagation reads no data.
    let done = unsafe { libc::mount(ptr::null(), c"/".as_ptr(), ptr::null(), libc::MS_REC | libc::MS_SLAVE, ptr::null()) };
    check(done.into()).map(drop)
}

/// Opens a place, or only its name with `O_PATH`.
pub(super) fn open(path: &CStr, flags: c_int) -> io::Result<OwnedFd> {
    // SAFETY: a C string and flags; no mode is read without O_CREAT.
    descriptor(unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) }.into())
}

/// Writes a file of /proc in one piece.
pub(super) fn write_file(path: &CStr, content: &[u8]) -> io::Result<()> {
    let fd = open(path, libc::O_WRONLY)?;
    nix::unistd::write(&fd, content)?;
    Ok(())
}

pub(super) fn change_dir(path: &CStr) -> io::Result<()> {
    // SAFETY: a C string.
    check(unsafe { libc::chdir(path.as_ptr()) }.into()).map(drop)
}

/// A detached copy of what is at `path` below `dir`, with all that is mounted below it.
pub(super) fn open_tree(dir: RawFd, path: &CStr) -> io::Result<OwnedFd> {
    // SAFETY: integers and a C string.
    descriptor(unsafe { libc::syscall(libc::SYS_open_tree, dir, path.as_ptr(), TREE) })
}

/// Sets attributes on a detached tree and everything below it.
pub(super) fn set_attributes(tree: RawFd, attributes: u64) -> io::Result<()> {
    let wanted = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: `wanted` is a valid mount_attr and lives through the call; its size is passed.
    let done =
        unsafe { libc::syscall(libc::SYS_mount_setattr, tree, c"".as_ptr(), flags, &raw const wanted, size_of::<libc::mount_attr>()) };
    check(done).map(drop)
}

/// Puts a detached tree at `path`.
pub(super) fn place(tree: RawFd, path: &CStr) -> io::Result<()> {
    // SAFETY: integers and C strings.
    let done = unsafe { libc::syscall(libc::SYS_move_mount, tree, c"".as_ptr(), libc::AT_FDCWD, path.as_ptr(), MOVE_MOUNT_F_EMPTY_PATH) };
    check(done).map(drop)
}

/// A file system that is being configured.
pub(super) fn new_filesystem(kind: &CStr) -> io::Result<OwnedFd> {
    // SAFETY: a C string and flags.
    descriptor(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) })
}

/// Sets a parameter of it: a string, or without a value a flag.
pub(super) fn configure(fs: RawFd, name: &CStr, value: Option<&CStr>) -> io::Result<()> {
    let (command, value) = value.map_or((FSCONFIG_SET_FLAG, ptr::null()), |value| (FSCONFIG_SET_STRING, value.as_ptr()));
    // SAFETY: integers and C strings, the value null where the command takes none.
    check(unsafe { libc::syscall(libc::SYS_fsconfig, fs, command, name.as_ptr(), value, 0) }).map(drop)
}

/// Makes the configured file system: a detached mount with these attributes.
pub(super) fn mount_of(fs: RawFd, attributes: u64) -> io::Result<OwnedFd> {
    let nothing = ptr::null::<libc::c_char>();
    // SAFETY: integers and null pointers, as this command takes them.
    check(unsafe { libc::syscall(libc::SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, nothing, nothing, 0) })?;
    // SAFETY: integers.
    descriptor(unsafe { libc::syscall(libc::SYS_fsmount, fs, FSMOUNT_CLOEXEC, attributes) })
}

/// Sets an extended attribute of a file or directory, not of what a link in its place leads to.
pub(super) fn set_attribute(path: &CStr, name: &CStr, value: &[u8]) -> io::Result<()> {
    // SAFETY: C strings, and as many bytes as `value` has, which the kernel only reads.
    check(unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) }.into()).map(drop)
}

pub(super) fn make_dir(dir: RawFd, path: &CStr) -> io::Result<()> {
    // SAFETY: integers and a C string.
    match check(unsafe { libc::mkdirat(dir, path.as_ptr(), 0o700) }.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EEXIST) => Err(error),
        _ => Ok(()),
    }
}

pub(super) fn make_file(dir: RawFd, path: &CStr) -> io::Result<()> {
    // SAFETY: integers, a C string and a mode.
    descriptor(unsafe { libc::openat(dir, path.as_ptr(), libc::O_CREAT | libc::O_WRONLY | libc::O_CLOEXEC, 0o600) }.into()).map(drop)
}

/// Switches the loopback of this process's network on.
pub(super) fn loopback_up() -> io::Result<()> {
    let name = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Datagram,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: an ifreq is plain old data, for which zeros are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP).unwrap_or(1);
    // SAFETY: the descriptor is a socket, and the request a valid ifreq that lives through the call.
    check(unsafe { libc::ioctl(name.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }.into()).map(drop)
}

/// Room for a control message with eight descriptors.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Hands descriptors to whoever has the other end of a datagram socket; at most eight.
pub(super) fn send_descriptors(to: RawFd, descriptors: &[RawFd]) -> io::Result<()> {
    let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
    let size = c_uint::try_from(size_of_val(descriptors)).map_err(|_| invalid())?;
    let mut control = Control([0; 64]);
    let mut byte = *b"d";
    let mut piece = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: byte.len() };
    // SAFETY: a msghdr is plain old data, for which zeros are a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut piece;
    message.msg_iovlen = 1;
    // SAFETY: arithmetic only.
    let (space, length) = unsafe { (libc::CMSG_SPACE(size), libc::CMSG_LEN(size)) };
    if space as usize > control.0.len() {
        return Err(invalid());
    }
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = space as _;
    // SAFETY: `control` is aligned, outlives the call, and has room for one header and these descriptors (checked above), so the first header
    // lies in it and its data takes as many bytes as `descriptors` has.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = length as _;
        ptr::copy_nonoverlapping(descriptors.as_ptr().cast::<u8>(), libc::CMSG_DATA(header), size as usize);
    }
    // SAFETY: `message` points to memory of this function only.
    check(unsafe { libc::sendmsg(to, &raw const message, libc::MSG_NOSIGNAL) } as c_long).map(drop)
}

/// Takes what [`send_descriptors`] has sent, without waiting for it.
pub(super) fn receive_descriptors<const MOST: usize>(from: RawFd) -> io::Result<Vec<OwnedFd>> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    let mut byte = [0; 1];
    let mut pieces = [io::IoSliceMut::new(&mut byte)];
    let mut control = nix::cmsg_space!([RawFd; MOST]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<()>(from, &mut pieces, Some(&mut control), flags)?;
    let mut found = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = part {
            // SAFETY: the kernel has just put these numbers into our table, and nobody else knows them.
            found.extend(descriptors.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok(found)
}

/// Filters the system calls of this process and everything below it. `program` must have been built for this.
pub(super) fn filter(program: &[libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: `program` points to `len` instructions that outlive the call; the kernel copies and checks them.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) }).map(drop)
}

/// Forks without running anybody's fork handlers: `work` is done in the new process, which then ends with 0 or with the error number.
/// Returns its number. `work` may make system calls only.
pub(super) fn fork_for(work: impl FnOnce() -> io::Result<()>) -> io::Result<libc::pid_t> {
    // SAFETY: a plain fork: without CLONE_VM or a stack it takes none of our memory. What runs in the new process is bound to system
    // calls by the contract, because other threads may have held any lock.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) })?;
    if pid == 0 {
        let code = work().err().map_or(0, |error| error.raw_os_error().unwrap_or(libc::EIO));
        // SAFETY: _exit(2) ends the process at once.
        unsafe { libc::_exit(code) }
    }
    libc::pid_t::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::EAGAIN))
}

/// Forks once more, beside this process: the new one is a child of this one's parent. Returns 0 there. For a process of [`fork_for`] or one that
/// was forked to become the command, which has no other thread.
pub(super) fn fork_beside() -> io::Result<libc::pid_t> {
    let flags = libc::SIGCHLD | libc::CLONE_PARENT;
    // SAFETY: a plain fork but for the parent: without CLONE_VM or a stack it takes none of our memory.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) })?;
    libc::pid_t::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::EAGAIN))
}

/// Ends this process at once.
pub(super) fn exit(code: c_int) -> ! {
    // SAFETY: _exit(2) runs nothing of this program any more.
    unsafe { libc::_exit(code) }
}

/// Closes every descriptor but this one.
pub(super) fn close_all_but(kept: RawFd) {
    let Ok(kept) = c_uint::try_from(kept) else { return };
    let ranges = [(0, kept.checked_sub(1)), (kept + 1, Some(c_uint::MAX))];
    for (first, last) in ranges {
        if let Some(last) = last {
            // SAFETY: integers. Nothing of this process uses a descriptor afterwards but `kept`.
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
    }
}

/// Becomes readable when that process ends.
pub(super) fn end_of(pid: libc::pid_t) -> io::Result<OwnedFd> {
    // SAFETY: integers.
    descriptor(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// Blocks every signal that can be, and names this process.
pub(super) fn be_deaf_and_named(name: &CStr) {
    // SAFETY: a signal set on the stack, filled and handed to the kernel; prctl(2) copies the name.
    unsafe {
        let mut all = std::mem::zeroed::<libc::sigset_t>();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, ptr::null_mut());
        libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0);
    }
}

/// Reaps one child that has ended, or waits for one; `false` when there is none, or none that has ended.
pub(super) fn reap(wait: bool) -> bool {
    let options = libc::__WALL | if wait { 0 } else { libc::WNOHANG };
    loop {
        // SAFETY: a null status is allowed.
        match check(unsafe { libc::waitpid(-1, ptr::null_mut(), options) }.into()) {
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            Err(_) | Ok(0) => return false,
            Ok(_) => return true,
        }
    }
}

/// Makes this process's own group the foreground of the terminal on its standard input. A background process that asks is sent SIGTTOU, so that is
/// ignored for the moment.
pub(super) fn take_foreground() {
    // SAFETY: plain system calls; SIG_IGN and SIG_DFL are no pointers to code.
    unsafe {
        libc::signal(libc::SIGTTOU, libc::SIG_IGN);
        libc::tcsetpgrp(0, libc::getpgrp());
        libc::signal(libc::SIGTTOU, libc::SIG_DFL);
    }
}

/// Whether this process's group is the foreground of the terminal on its standard input.
pub(super) fn has_foreground() -> bool {
    // SAFETY: plain system calls.
    unsafe { libc::tcgetpgrp(0) == libc::getpgrp() }
}

/// Waits for a process of [`fork_for`]; its exit code.
pub(super) fn wait(pid: libc::pid_t) -> io::Result<c_int> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is a valid, writable c_int.
        match check(unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) }.into()) {
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            Err(error) => return Err(error),
            Ok(_) if libc::WIFEXITED(status) => return Ok(libc::WEXITSTATUS(status)),
            Ok(_) => return Ok(libc::EINTR),
        }
    }
}
