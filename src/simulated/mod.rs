//! A simulated Messages API on loopback: it plays a script and remembers what it was sent.
//!
//! The tests, the benches and `sentrely demo` speak to it instead of to the real service; `examples/simulated_upstream.rs`
//! runs it by itself. It promises three things:
//!
//! - **It answers as the real one does**: server-sent events or one JSON message, usage of every kind, unique message and
//!   request ids, errors in the API's form; plus `HEAD /`, `GET /v1/models`, `POST /v1/messages/count_tokens`, 404 for the rest.
//! - **It misbehaves on demand, exactly where the script says**: connections dropped or reset, silence, garbage, half events.
//! - **It keeps a log**: each request with its headers, size and digest, and what became of the answer.
//!
//! ```
//! use sentrely::simulated::{Answer, Script, Upstream};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let upstream = Upstream::start_on_thread(Script::of([Answer::bash("git status"), Answer::text("All clean.")]))?;
//! println!("ANTHROPIC_BASE_URL={}", upstream.url());
//! assert!(upstream.requests().is_empty());
//! # Ok(())
//! # }
//! ```

mod answer;
mod body;
mod log;
mod request;
mod script;
mod service;
mod sse;
mod upstream;
mod usage;
#[cfg(test)]
mod wire_tests;

pub use answer::{Answer, ApiError, Block, Cut, Fault, Garbage, LineEnd, Pace, Place};
pub use log::{Outcome, Record, TimedOut};
pub use request::Request;
pub use script::{Rule, Script, ScriptError, When, WhenThread};
pub use service::{Options, ResetHandle, Server};
pub use upstream::{Upstream, UpstreamError};
pub use usage::{DeltaUsage, UsageReport, usage_costing};
