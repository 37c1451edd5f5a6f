//! macOS has neither namespaces nor Landlock: a Seatbelt profile stands for the lower wall. **Untested.**

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::layer::Layer;
use super::request::{PlanError, Request};
use super::{Refused, seatbelt, secrets};

/// The profile.
pub struct Wall {
    profile: String,
    hidden: Vec<PathBuf>,
}

/// Nothing here.
pub struct Scope;

/// There is none here.
#[derive(Debug, thiserror::Error)]
#[error("this system has no Landlock")]
pub struct ScopeError;

/// Nothing here.
#[derive(Debug)]
pub struct Arriving;

impl Arriving {
    /// There are none.
    pub fn take(self) -> io::Result<Vec<std::net::TcpListener>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Scope {
    /// Nothing.
    pub const KEEPS: &'static str = "nothing";

    /// There is none here.
    pub fn new() -> Result<Self, ScopeError> {
        Err(ScopeError)
    }

    /// Does nothing.
    pub fn enter(&self) -> io::Result<()> {
        Ok(())
    }
}

/// There are no overlays here.
pub fn make_opaque(_dir: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

impl Wall {
    /// What the lower wall's hold on files is.
    pub const LOWER: &'static str = "a Seatbelt profile, untested";

    /// There is no full wall here.
    pub fn full(_request: &Request, _layer: &Layer, _setuid: bool) -> Result<Self, PlanError> {
        Err(PlanError::NotHere)
    }

    /// The profile.
    pub fn allow_list(request: &Request, config_dirs: &[PathBuf], _setuid: bool) -> Result<Self, ScopeError> {
        let real = |paths: &[PathBuf]| -> Vec<PathBuf> { paths.iter().filter_map(|path| path.canonicalize().ok()).collect() };
        let home = request.home.canonicalize().unwrap_or_else(|_| request.home.clone());
        // No other content can be shown here: what would be read without its secrets is not read.
        let granted = secrets::granted(&request.allow_read);
        let granted = secrets::ways(granted.iter().filter(|granted| granted.instead.is_none()).map(|granted| &granted.name));
        let mut hidden = secrets::files(&home);
        hidden.extend(request.hidden.iter().cloned());
        let mut hidden: Vec<PathBuf> = real(&hidden).into_iter().flat_map(|path| secrets::around(path, &granted)).collect();
        hidden.sort();
        hidden.dedup();
        let mut sockets = secrets::sockets(nix::unistd::getuid().as_raw());
        if !request.docker {
            sockets.extend(secrets::DOCKER_SOCKETS.iter().map(PathBuf::from));
        }
        sockets.retain(|path| !request.kept_sockets.contains(path));
        let sockets = real(&sockets);
        let state = request.state.canonicalize().unwrap_or_else(|_| request.state.clone());
        let read_write = real(&request.read_write);
        let (work, mut writable): (Vec<PathBuf>, Vec<PathBuf>) = read_write.into_iter().partition(|path| path.starts_with(&state));
        writable.extend(seatbelt::WRITABLE_IN_HOME.iter().map(|name| home.join(name)));
        let of_claude = config_dirs.iter().flat_map(|dir| seatbelt::WRITABLE_OF_CLAUDE.iter().map(|name| dir.join(name)));
        writable.extend(of_claude);
        let policy = seatbelt::Policy {
            writable,
            read_only: real(&request.read_only),
            state,
            session: request.session.as_ref().and_then(|session| session.canonicalize().ok()),
            work,
            hidden: hidden.clone(),
            sockets,
        };
        Ok(Self { profile: seatbelt::profile(&policy), hidden })
    }

    /// There is no network of the command's own here.
    pub fn cut_network(&mut self, _ports: &[u16]) -> io::Result<Arriving> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// There are no process namespaces here.
    pub fn own_processes(&mut self) -> io::Result<std::os::fd::OwnedFd> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Not by this wall.
    pub const fn has_scope(&self) -> bool {
        false
    }

    /// There is no filter here.
    pub const fn has_filter(&self) -> bool {
        false
    }

    /// What is there and cannot be read.
    pub fn hidden(&self) -> &[PathBuf] {
        &self.hidden
    }

    /// The program that puts it up around the command, with its arguments.
    pub fn launcher(&self) -> Vec<OsString> {
        ["/usr/bin/sandbox-exec", "-p", &self.profile].map(OsString::from).to_vec()
    }

    /// It is not entered but put up by [`Self::launcher`].
    pub fn enter(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// It cannot be tried here.
    pub fn try_out(&mut self) -> Result<(), Refused> {
        Err(Refused { step: "make namespaces".to_owned(), why: "not on this system".to_owned() })
    }
}
