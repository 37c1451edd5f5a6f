//! The walls of Linux.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use landlock::{RulesetCreated, RulesetCreatedAttr};

use super::doors::{self, Arriving};
use super::layer::Layer;
use super::plan::Plan;
use super::raise::{self, At, Sequence};
use super::request::{PlanError, Request};
use super::scope::{Scope, ScopeError};
use super::{Refused, allow_list, filter, syscall};

/// Lets nothing show through a directory of what another one has at its place, once it is laid over that.
pub fn make_opaque(dir: &Path) -> io::Result<()> {
    let name = std::ffi::CString::new(dir.as_os_str().as_encoded_bytes()).map_err(io::Error::other)?;
    syscall::set_attribute(&name, c"user.overlay.opaque", b"y")
}

/// Mounts, domain and filter, ready to be entered.
pub struct Wall {
    mounts: Option<Sequence>,
    domain: Option<Domain>,
    filter: Vec<libc::sock_filter>,
    /// `sudo` and other setuid programs gain nothing inside.
    no_new_privileges: bool,
    /// As root where there are no namespaces.
    drops_capabilities: bool,
    hidden: Vec<PathBuf>,
}

enum Domain {
    Scope(Scope),
    Files(RulesetCreated),
}

impl Wall {
    /// What the lower wall's hold on files is.
    pub const LOWER: &'static str = "a Landlock list";

    /// The full wall, which writes to `layer`. `setuid`: programs like `sudo` keep their power, for root only.
    ///
    /// # Errors
    /// [`PlanError`]; whether the machine allows it, only [`Self::try_out`] tells.
    pub fn full(request: &Request, layer: &Layer, setuid: bool) -> Result<Self, PlanError> {
        let Plan { sequence, hidden } = Plan::make(request, layer)?;
        let scope = Scope::new().ok().map(Domain::Scope);
        Ok(Self {
            mounts: Some(sequence),
            domain: scope,
            filter: filter::program(false),
            no_new_privileges: !setuid,
            drops_capabilities: false,
            hidden,
        })
    }

    /// Gives the command of a full wall a network of its own, with nothing in it but doors at these ports of 127.0.0.1 (at most eight). Sockets
    /// that no network holds are refused.
    ///
    /// # Errors
    /// There are no descriptors left, or this is no full wall.
    pub fn cut_network(&mut self, ports: &[u16]) -> io::Result<Arriving> {
        let mounts = self.mounts.as_mut().ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))?;
        let (doors, arriving) = doors::doors(ports)?;
        mounts.doors = Some(doors);
        self.filter = filter::program(true);
        Ok(arriving)
    }

    /// The wall of a machine that refuses namespaces. `config_dirs` are Claude Code's.
    ///
    /// # Errors
    /// This kernel has no Landlock.
    pub fn allow_list(request: &Request, config_dirs: &[PathBuf], setuid: bool) -> Result<Self, ScopeError> {
        let (rules, hidden) = allow_list::allow_list(request, config_dirs)?;
        Ok(Self {
            mounts: None,
            domain: Some(Domain::Files(rules)),
            filter: filter::program(false),
            no_new_privileges: !setuid,
            drops_capabilities: nix::unistd::getuid().is_root(),
            hidden,
        })
    }

    /// Whether signals to, and tracing of, processes outside are kept from it (Linux 6.12).
    pub fn has_scope(&self) -> bool {
        matches!(self.domain, Some(Domain::Scope(_))) || Scope::new().is_ok()
    }

    /// Whether the filter knows this machine's system calls.
    pub const fn has_filter(&self) -> bool {
        filter::is_known()
    }

    /// Gives the command of a full wall a process namespace of its own. What enters the wall is then another process than the one that was forked for
    /// it: its number is read here, four bytes in the machine's order.
    ///
    /// # Errors
    /// There are no descriptors left, or this is no full wall.
    pub fn own_processes(&mut self) -> io::Result<OwnedFd> {
        let mounts = self.mounts.as_mut().ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))?;
        let (number, there) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        mounts.number = Some(there);
        Ok(number)
    }

    /// What is there and cannot be read, by every name.
    pub fn hidden(&self) -> &[PathBuf] {
        &self.hidden
    }

    /// The program that puts it up around the command, with its arguments: none, it is entered.
    pub fn launcher(&self) -> Vec<OsString> {
        Vec::new()
    }

    /// Enters it: for the command's process between fork and exec. System calls only; nothing is allocated.
    pub fn enter(&mut self) -> io::Result<()> {
        self.enter_at(&mut 0)
    }

    fn enter_at(&mut self, at: &mut At) -> io::Result<()> {
        if let Some(mounts) = &mut self.mounts {
            mounts.run(at)?;
        }
        *at = AT_KEYRING;
        match syscall::fresh_keyring() {
            // A kernel without keyrings has none to be kept from.
            Err(error) if error.raw_os_error() != Some(libc::ENOSYS) => return Err(error),
            _ => {}
        }
        if self.drops_capabilities {
            *at = AT_CAPABILITIES;
            PAST_LANDLOCK.into_iter().try_for_each(syscall::drop_capability)?;
        }
        *at = AT_DOMAIN;
        if self.no_new_privileges {
            syscall::no_new_privileges()?;
        }
        match &self.domain {
            Some(Domain::Scope(scope)) => scope.enter()?,
            Some(Domain::Files(rules)) => {
                let refused = |_| io::Error::from(io::ErrorKind::PermissionDenied);
                rules.try_clone()?.no_new_privs(false).restrict_self().map_err(refused)?;
            }
            None => {}
        }
        *at = AT_FILTER;
        if self.filter.is_empty() { Ok(()) } else { syscall::filter(&self.filter) }
    }

    /// Enters it in a process that ends at once. Blocks for some milliseconds.
    ///
    /// # Errors
    /// What this machine does not allow.
    pub fn try_out(&mut self) -> Result<(), Refused> {
        let could_not = |error: io::Error| Refused { step: "start a process to try the wall".to_owned(), why: error.to_string() };
        let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|error| could_not(error.into()))?;
        let pid = syscall::fork_for(|| {
            let mut at = 0;
            let entered = self.enter_at(&mut at);
            if let Err(error) = &entered {
                let code = error.raw_os_error().unwrap_or(libc::EIO);
                let _ = nix::unistd::write(&write, &Failure { at, code }.to_bytes());
            }
            // In a namespace of its own this is another process than the one that is waited for: what was written counts.
            Ok(())
        });
        let pid = pid.map_err(could_not)?;
        drop(write);
        let failure = Failure::read(read);
        syscall::wait(pid).map_err(could_not)?;
        match failure {
            None => Ok(()),
            Some(Failure { at, code }) => Err(Refused { step: self.step(at), why: io::Error::from_raw_os_error(code).to_string() }),
        }
    }

    fn step(&self, at: At) -> String {
        let place = |n: usize| {
            self.mounts
                .as_ref()
                .and_then(|mounts| mounts.steps.get(n))
                .map(|step| Path::new(step.target.to_str().unwrap_or("?")).display().to_string())
        };
        match at {
            raise::AT_NAMESPACES => "make namespaces".to_owned(),
            raise::AT_IDENTITY => "keep the user's ids in a namespace".to_owned(),
            raise::AT_PROPAGATION => "set the propagation of mounts".to_owned(),
            raise::AT_EMPTY => "make a file system in memory".to_owned(),
            raise::AT_LOCK => "lock the mounts".to_owned(),
            raise::AT_PROCESSES => "make a process namespace with a /proc of its own".to_owned(),
            raise::AT_NETWORK => "make a network of its own".to_owned(),
            raise::AT_DIRECTORY => "enter the working directory".to_owned(),
            AT_KEYRING => "join a keyring of its own".to_owned(),
            AT_DOMAIN => "enter a Landlock domain".to_owned(),
            AT_FILTER => "filter system calls".to_owned(),
            AT_CAPABILITIES => "drop capabilities".to_owned(),
            at => format!("mount at {}", place(usize::from(at.saturating_sub(raise::AT_STEPS))).unwrap_or_else(|| "?".to_owned())),
        }
    }
}

/// With these root reads other processes' memory, disks and files whatever Landlock says: `CAP_DAC_READ_SEARCH`, `CAP_SYS_MODULE`, `CAP_SYS_RAWIO`,
/// `CAP_SYS_PTRACE`, `CAP_SYS_ADMIN`, `CAP_SYS_BOOT`, `CAP_MKNOD`, `CAP_PERFMON`, `CAP_BPF`, `CAP_CHECKPOINT_RESTORE`.
const PAST_LANDLOCK: [libc::c_int; 10] = [2, 16, 17, 19, 21, 22, 27, 38, 39, 40];

const AT_KEYRING: At = 10;
const AT_DOMAIN: At = 11;
const AT_FILTER: At = 12;
const AT_CAPABILITIES: At = 13;

/// Where it failed and what the kernel said.
struct Failure {
    at: At,
    code: i32,
}

impl Failure {
    fn to_bytes(&self) -> [u8; 6] {
        let mut bytes = [0; 6];
        bytes[..2].copy_from_slice(&self.at.to_ne_bytes());
        bytes[2..].copy_from_slice(&self.code.to_ne_bytes());
        bytes
    }

    /// What comes until nobody holds the other end any more; nothing if all went well.
    fn read(pipe: OwnedFd) -> Option<Self> {
        let (mut pipe, mut at, mut code) = (File::from(pipe), [0; 2], [0; 4]);
        pipe.read_exact(&mut at).and_then(|()| pipe.read_exact(&mut code)).ok()?;
        Some(Self { at: At::from_ne_bytes(at), code: i32::from_ne_bytes(code) })
    }
}
