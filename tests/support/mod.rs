//! What the tests share.

#![expect(dead_code, reason = "a helper may have its users in another branch of the work")]

pub(crate) mod aws;
pub(crate) mod claude;
pub(crate) mod components;
pub(crate) mod disk;
pub(crate) mod env;
pub(crate) mod forge;
pub(crate) mod git;
pub(crate) mod lfs;
pub(crate) mod namespace;
pub(crate) mod proxy;
pub(crate) mod pty;
pub(crate) mod python;
pub(crate) mod run;
pub(crate) mod shell;
pub(crate) mod sshd;
pub(crate) mod state;
