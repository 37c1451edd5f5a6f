//! Raising the full wall: namespaces and mounts, done by the forked child before it becomes the command.
//!
//! The order was found by trying (and each step has an attack that shows why it is there): what is to be mounted is taken first, from
//! the view of the outside, and placed second, the outer places before the inner ones; a path resolved later would lead to what was just
//! mounted over it. Between fork and exec only system calls are made: every path and text is a C string from before the fork.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use libc::{AT_FDCWD, CLONE_NEWIPC, CLONE_NEWNS, CLONE_NEWUSER};

use super::doors::Doors;
use super::{processes, syscall};

/// What comes to lie at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// The same place copy-on-write: changes go to `upper`. `work` belongs to the file system.
    CopyOnWrite { upper: CString, work: CString },
    /// Another place, or the same one, with everything mounted below it.
    Tree { source: CString, read_only: bool },
    /// Nothing: an empty directory or file.
    Nothing { directory: bool },
    /// A fresh directory in memory in which these are made, directories in order of their depth.
    Scratch { shared: bool, read_only: bool, dirs: Vec<CString>, files: Vec<CString> },
}

/// One mount. A place or source that is gone by then is passed over if it is `optional`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) target: CString,
    pub(super) what: What,
    pub(super) optional: bool,
}

/// Who the command is in its user namespace: who it is outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Identity {
    /// An ordinary user writes its own two lines.
    User { uid_map: Vec<u8>, gid_map: Vec<u8> },
    /// All ids are kept; only a process outside may write that. A second pair of namespaces then locks the mounts, which root inside could
    /// take off otherwise.
    Root { uid_map: Vec<u8>, gid_map: Vec<u8> },
}

/// Everything the child has to know. `taken` has as many places as `steps`.
#[derive(Debug)]
pub(super) struct Sequence {
    pub(super) identity: Identity,
    pub(super) steps: Vec<Step>,
    /// Where the empty things are made; covered at the end.
    pub(super) empty: CString,
    pub(super) cwd: CString,
    /// A network of the command's own, if it gets one.
    pub(super) doors: Option<Doors>,
    /// Where the command's number goes, if it gets a process namespace of its own.
    pub(super) number: Option<OwnedFd>,
    pub(super) taken: Vec<Option<OwnedFd>>,
}

/// Where it failed, as a number that survives an exit code or a pipe.
pub(super) type At = u16;

pub(super) const AT_NAMESPACES: At = 0;
pub(super) const AT_IDENTITY: At = 1;
pub(super) const AT_PROPAGATION: At = 2;
pub(super) const AT_EMPTY: At = 3;
pub(super) const AT_LOCK: At = 4;
pub(super) const AT_DIRECTORY: At = 5;
pub(super) const AT_NETWORK: At = 6;
pub(super) const AT_PROCESSES: At = 7;
/// From here on the steps: taking and placing each.
pub(super) const AT_STEPS: At = 16;

impl Sequence {
    /// Does it all. `at` says where it is when it fails.
    pub(super) fn run(&mut self, at: &mut At) -> io::Result<()> {
        *at = AT_NAMESPACES;
        // Root outside of containers needs no user namespace to mount, and then keeps what is mounted below its home movable.
        let mounts_alone = matches!(self.identity, Identity::Root { .. }) && syscall::unshare(CLONE_NEWNS).is_ok();
        if !mounts_alone {
            self.enter_namespaces(at)?;
        }
        *at = AT_PROCESSES;
        if let Some(number) = &self.number {
            processes::enter(number)?;
        }
        *at = AT_PROPAGATION;
        syscall::receive_mounts_only()?;
        if self.number.is_some() {
            // Before anything covers parts of it: over a covered one nobody may mount another.
            *at = AT_PROCESSES;
            let fs = syscall::new_filesystem(c"proc")?;
            let proc = syscall::mount_of(fs.as_raw_fd(), syscall::NO_SUID | syscall::NO_DEV)?;
            syscall::place(proc.as_raw_fd(), c"/proc")?;
        }
        *at = AT_EMPTY;
        self.make_empty()?;
        let numbered = |n: usize| AT_STEPS + At::try_from(n).unwrap_or(At::MAX - AT_STEPS);
        for (n, (step, slot)) in self.steps.iter().zip(&mut self.taken).enumerate() {
            *at = numbered(n);
            match step.take(&self.empty) {
                Ok(tree) => *slot = Some(tree),
                Err(error) if step.may_miss(&error) => {}
                Err(error) => return Err(error),
            }
        }
        for (n, (step, slot)) in self.steps.iter().zip(&mut self.taken).enumerate() {
            *at = numbered(n);
            let Some(tree) = slot.take() else { continue };
            match syscall::place(tree.as_raw_fd(), &step.target) {
                Err(error) if !step.may_miss(&error) => return Err(error),
                _ => {}
            }
        }
        *at = AT_LOCK;
        if let Identity::Root { .. } = &self.identity {
            self.enter_namespaces(at)?;
        }
        *at = AT_NETWORK;
        if let Some(doors) = &self.doors {
            doors.open()?;
        }
        *at = AT_DIRECTORY;
        // The working directory was opened before all this, below what is covered now.
        syscall::change_dir(&self.cwd)
    }

    fn enter_namespaces(&self, at: &mut At) -> io::Result<()> {
        match &self.identity {
            Identity::User { uid_map, gid_map } => {
                unshare_all()?;
                *at = AT_IDENTITY;
                // The supervisor's memory is nobody's business, so its files in /proc, and ours until exec, belong to root.
                syscall::set_dumpable(true)?;
                syscall::write_file(c"/proc/self/setgroups", b"deny")?;
                syscall::write_file(c"/proc/self/uid_map", uid_map)?;
                syscall::write_file(c"/proc/self/gid_map", gid_map)
            }
            Identity::Root { uid_map, gid_map } => {
                // Whoever writes more than its own line must be outside the new namespace: a process forked before.
                let (ready, go) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
                let parent = nix::unistd::getpid().as_raw();
                let mut path = ProcPath::new(parent);
                let go_raw = go.as_raw_fd();
                let writer = syscall::fork_for(|| {
                    // Ours would keep the pipe open if the parent died.
                    nix::unistd::close(go_raw)?;
                    let mut byte = [0];
                    if nix::unistd::read(&ready, &mut byte)? != 1 {
                        return Err(io::Error::from_raw_os_error(libc::EPIPE));
                    }
                    syscall::write_file(path.file(b"uid_map"), uid_map)?;
                    syscall::write_file(path.file(b"gid_map"), gid_map)
                })?;
                drop(ready);
                let entered = unshare_all().and_then(|()| {
                    *at = AT_IDENTITY;
                    syscall::set_dumpable(true)?;
                    Ok(nix::unistd::write(&go, b"g").map(drop)?)
                });
                drop(go);
                match (entered, syscall::wait(writer)?) {
                    (Ok(()), 0) => Ok(()),
                    (Ok(()), code) => Err(io::Error::from_raw_os_error(code)),
                    (Err(error), _) => Err(error),
                }
            }
        }
    }

    /// A file system in memory with an empty file and an empty directory, owned by the user: `ssh` for one refuses what is not.
    fn make_empty(&self) -> io::Result<()> {
        let fs = syscall::new_filesystem(c"tmpfs")?;
        syscall::configure(fs.as_raw_fd(), c"mode", Some(c"0700"))?;
        let mount = syscall::mount_of(fs.as_raw_fd(), syscall::NO_SUID | syscall::NO_DEV)?;
        syscall::make_dir(mount.as_raw_fd(), c"directory")?;
        syscall::make_file(mount.as_raw_fd(), c"file")?;
        syscall::set_attributes(mount.as_raw_fd(), syscall::READ_ONLY)?;
        // Older kernels copy only what is attached somewhere.
        syscall::place(mount.as_raw_fd(), &self.empty)
    }
}

/// System V's shared memory and the message queues are found by numbers and names that are no paths: the session has its own. What of such things
/// are files (`/dev/shm`, a mounted `mqueue`) is the plan's.
fn unshare_all() -> io::Result<()> {
    match syscall::unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWIPC) {
        // A kernel that has neither.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => syscall::unshare(CLONE_NEWUSER | CLONE_NEWNS),
        done => done,
    }
}

impl Step {
    fn may_miss(&self, error: &io::Error) -> bool {
        self.optional && matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR))
    }

    fn take(&self, empty: &CStr) -> io::Result<OwnedFd> {
        match &self.what {
            What::CopyOnWrite { upper, work } => self.copy_on_write(upper, work),
            What::Tree { source, read_only } => {
                let tree = syscall::open_tree(AT_FDCWD, source)?;
                if *read_only {
                    syscall::set_attributes(tree.as_raw_fd(), syscall::READ_ONLY)?;
                }
                Ok(tree)
            }
            What::Nothing { directory } => {
                let place = syscall::open(empty, libc::O_PATH | libc::O_DIRECTORY)?;
                syscall::open_tree(place.as_raw_fd(), if *directory { c"directory" } else { c"file" })
            }
            What::Scratch { shared, read_only, dirs, files } => {
                let fs = syscall::new_filesystem(c"tmpfs")?;
                syscall::configure(fs.as_raw_fd(), c"mode", Some(if *shared { c"1777" } else { c"0700" }))?;
                let mount = syscall::mount_of(fs.as_raw_fd(), syscall::NO_SUID | syscall::NO_DEV)?;
                dirs.iter().try_for_each(|dir| syscall::make_dir(mount.as_raw_fd(), dir))?;
                files.iter().try_for_each(|file| syscall::make_file(mount.as_raw_fd(), file))?;
                if *read_only {
                    syscall::set_attributes(mount.as_raw_fd(), syscall::READ_ONLY)?;
                }
                Ok(mount)
            }
        }
    }

    fn copy_on_write(&self, upper: &CStr, work: &CStr) -> io::Result<OwnedFd> {
        let lower = syscall::open(&self.target, libc::O_PATH | libc::O_DIRECTORY)?;
        let upper = syscall::open(upper, libc::O_PATH | libc::O_DIRECTORY)?;
        let work = syscall::open(work, libc::O_PATH | libc::O_DIRECTORY)?;
        let fs = syscall::new_filesystem(c"overlay")?;
        let set = |name: &CStr, fd: &OwnedFd| {
            // By number: a path could hold what separates options.
            let mut path = ProcPath::new_fd(fd.as_raw_fd());
            syscall::configure(fs.as_raw_fd(), name, Some(path.whole()))
        };
        set(c"lowerdir", &lower)?;
        set(c"upperdir", &upper)?;
        set(c"workdir", &work)?;
        syscall::configure(fs.as_raw_fd(), c"userxattr", None)?;
        syscall::mount_of(fs.as_raw_fd(), syscall::NO_SUID | syscall::NO_DEV)
    }
}

/// `/proc/<n>/…`, put together without allocating.
struct ProcPath {
    bytes: [u8; 48],
    len: usize,
}

impl ProcPath {
    /// `/proc/<pid>/`
    fn new(pid: i32) -> Self {
        let mut path = Self { bytes: [0; 48], len: 0 };
        path.push(b"/proc/");
        path.number(pid);
        path.push(b"/");
        path
    }

    /// `/proc/self/fd/<fd>`
    fn new_fd(fd: i32) -> Self {
        let mut path = Self { bytes: [0; 48], len: 0 };
        path.push(b"/proc/self/fd/");
        path.number(fd);
        path
    }

    fn push(&mut self, text: &[u8]) {
        for byte in text {
            if self.len < self.bytes.len() - 1 {
                self.bytes[self.len] = *byte;
                self.len += 1;
            }
        }
    }

    fn number(&mut self, number: i32) {
        let mut digits = [0; 10];
        let (mut n, mut at) = (number.unsigned_abs(), digits.len());
        loop {
            at -= 1;
            digits[at] = b'0' + u8::try_from(n % 10).unwrap_or(0);
            n /= 10;
            if n == 0 || at == 0 {
                break;
            }
        }
        self.push(&digits[at..]);
    }

    fn whole(&mut self) -> &CStr {
        self.bytes[self.len] = 0;
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or(c"")
    }

    /// With this name at its end, for this once.
    fn file(&mut self, name: &[u8]) -> &CStr {
        let dir = self.len;
        self.push(name);
        self.bytes[self.len] = 0;
        self.len = dir;
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or(c"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_below_proc_are_put_together_on_the_stack() {
        let mut path = ProcPath::new(i32::MAX);
        assert_eq!(path.file(b"uid_map"), c"/proc/2147483647/uid_map");
        assert_eq!(path.file(b"gid"), c"/proc/2147483647/gid");
        assert_eq!(ProcPath::new_fd(0).whole(), c"/proc/self/fd/0");
    }
}
