//! The wall around the command: what the kernel keeps it from.
//!
//! The full wall ([`Wall::full`]) is a user and mount namespace of the command's own, in which the home directory is copy-on-write, the checkout
//! read-only, credential files and sockets are empty, and the state directory holds only the own session; on top of it a Landlock domain
//! with scopes, a filter of three system calls, `no_new_privs` and an empty keyring. Where namespaces are refused there is
//! [`Wall::allow_list`], a Landlock domain over files, and below that only [`Scope`].
//!
//! A wall is made before the fork and entered between fork and exec. [`Wall::try_out`] enters it in a process that ends at once, which is the only
//! proof that a machine allows it: `unshare` alone succeeds where mounting is refused later.
//!
//! On macOS there is a Seatbelt profile instead (`macos`, `seatbelt`; untested).

#[cfg(target_os = "linux")]
mod allow_list;
#[cfg(target_os = "linux")]
mod doors;
mod egress;
#[cfg(target_os = "linux")]
mod filter;
mod hosts;
mod layer;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;
#[cfg(target_os = "linux")]
mod mounts;
#[cfg(target_os = "linux")]
mod plan;
#[cfg(target_os = "linux")]
mod processes;
#[cfg(target_os = "linux")]
mod raise;
mod request;
#[cfg(target_os = "linux")]
mod scope;
#[cfg(any(target_os = "macos", test))]
mod seatbelt;
mod secrets;
#[cfg(target_os = "linux")]
mod syscall;

use std::io;
use std::path::Path;

pub use egress::{Egress, OnDenied};
pub use hosts::{Denied, HostError, HostList};
pub use layer::{HomeChange, HomeChangeKind, Layer};
#[cfg(target_os = "macos")]
pub use macos::{Arriving, Scope, ScopeError, Wall, make_opaque};
pub use request::{Over, PlanError, Request};
pub use secrets::{config_holds_credential, named_by};
#[cfg(target_os = "linux")]
pub use {
    doors::Arriving,
    linux::{Wall, make_opaque},
    scope::{Scope, ScopeError},
};

/// Removes a directory that belonged to an overlay file system, which has one in it that nobody may list.
pub fn remove_overlay_work(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let inner = dir.join("work");
    if inner.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
        let _ = std::fs::set_permissions(&inner, std::fs::Permissions::from_mode(0o700));
    }
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Why a machine does not allow a wall.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{step}: {why}")]
pub struct Refused {
    /// What was being done.
    pub step: String,
    /// What the kernel said.
    pub why: String,
}
