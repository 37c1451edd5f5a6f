//! The session's own AWS identity: who the developer is, a role session that carries the session's id, and the way its
//! credentials reach the child.
//!
//! [`caller`] asks STS who is calling. [`Lease::start`] assumes the configured role with the session's tags and keeps the
//! credentials fresh; the child fetches them from a loopback endpoint that stops answering the moment the lease is
//! closed. [`scrub`] takes every other AWS route out of the child's environment and [`child_variables`] adds ours.
//!
//! Everything that speaks to AWS runs on threads of its own with runtimes of their own: `credential_process` starts
//! programs, and the children of the main thread belong to the session's reaper.
//!
//! The environment is a way of delivery, not a boundary: a child that can read `~/.aws` can use it. The wall hides it.

mod assume_role;
mod client;
mod endpoint;
mod environment;
mod error;
mod identity;
mod lease;
mod names;
mod schedule;
mod thread;
mod vault;

pub use client::Source;
pub use environment::{Delivery, StaticCredentials, child_variables, scrub};
pub use error::AwsError;
pub use identity::{ArnError, Caller, CallerKind, caller};
pub use lease::{DeliveryKind, Lease, LeaseEvent, LeaseRequest};
pub use names::{TAG_DEVELOPER, TAG_PROJECT, TAG_SESSION, role_session_name, source_identity, tag_value};
