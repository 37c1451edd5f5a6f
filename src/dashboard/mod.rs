//! The HTTP face of the state directory: the sessions, one session, and the kill switch, for programs on this machine.
//!
//! It is for what cannot type `sentrely kill`: a script, an editor, an on-call tool behind an ssh tunnel. It keeps no state and owns no
//! session: it reads what `ls` and `show` read, and kills by writing the kill file that `kill` writes.
//!
//! # Who is heard
//!
//! Whoever knows the token ([`token`]), from this machine, under a name of ours. A web page that the developer looks at can send requests
//! to loopback ports, and can get here under a name of its own (DNS rebinding): it has no token, its `Host` is not ours, its `Origin` is
//! not ours, and no answer carries a CORS header. Every wait has an end: for a head, for a body, for a session to go.
//!
//! The token is a file of this account. A process of this account that may read it, the agent's where no wall hides the state
//! directory, may do here what it could do by writing kill files itself.

mod answer;
mod guard;
mod killing;
mod routes;
mod server;
mod token;

pub use server::{Dashboard, DashboardError};
pub use token::TokenError;

/// The description of this interface, as it is served under `/openapi.json`.
pub const OPENAPI: &str = include_str!("openapi.json");
