//! Git: the session's own clone on its own branch, the push gate, and bringing the work home.
//!
//! - [`Checkout`]: the developer's repository; read, never written, except for the session's branch and `refs/sentrely/keep/<id>`.
//! - [`create_clone`], [`reopen`], [`in_place`]: the session's [`Workspace`].
//! - [`Gate`]: the loopback smart-HTTP server that is the clone's only remote. The real credential stays with the developer's own git.
//! - [`changes`], [`push_branch`]: what came home goes to the remote, by the developer's own git.
//! - [`collect`], [`remove_clone`]: the work comes home; the git program never runs in a clone that an agent has touched.
//!
//! Everything but the [`Gate`]'s server blocks and may run git: call it from a blocking thread, never from the supervisor's main
//! thread, whose reaper would take git's exit status.

mod base;
mod bring;
mod checkout;
mod cli;
mod collect;
mod deliver;
mod error;
mod far;
mod filters;
mod gate;
mod lfs_push;
mod names;
mod oddity;
mod protected;
mod pulse;
mod remote;
mod same_path;
mod seed;
mod settle;
mod snapshot;
mod submodules;
mod touched;
mod traps;
mod tripwire;
mod within;
mod workspace;

pub use bring::Bring;
pub use checkout::{Checkout, Head, Oddity, default_email};
pub use cli::GitEnv;
pub use collect::{Collected, collect, commits_since_base, remove_clone};
pub use deliver::{Changes, FileChange, changes, default_branch, is_on_remote, known_default_branch, push_branch};
pub use error::GitError;
pub use far::{Far, FarLook};
pub use gate::{Gate, GateConfig, GateEvent};
pub use names::branch_name;
pub use protected::Protected;
pub use pulse::pulse;
pub use remote::{Remote, without_credentials};
pub use same_path::lay_over;
pub use submodules::Submodule;
pub use touched::touched;
pub use tripwire::{Moved, ProtectedRefs, Tripwire};
pub use workspace::{CloneRequest, Workspace, WorkspaceKind, create_clone, in_place, reopen, undo_in_place};
