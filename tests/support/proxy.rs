//! Real, small peers for the proxy: an upstream that answers byte for byte what a test says, a client that shows every byte it
//! gets, a company's proxy, and a proxy between them whose events and bookings can be waited for.

mod answers;
mod client;
mod company;
mod frames;
mod peer;
mod rig;
mod truthful;
mod wire;

use std::future::Future;
use std::time::Duration;

pub(crate) use self::answers::{LAST_CHUNK, SSE_HEAD, ask, chunk, json_answer, sse_answer, sse_events, text_delta};
pub(crate) use self::client::{Answer, Client};
pub(crate) use self::company::{certificate, certificate_with, company_proxy, on_a_thread, tls_before};
pub(crate) use self::frames::{event_frame, frame};
pub(crate) use self::peer::{Peer, Step, send};
pub(crate) use self::rig::{Plan, Rig};
pub(crate) use self::truthful::{Generated, Kind, Model, Told, Truth, kinds, truthful};

/// Anything that is waited for comes within this time, or the test fails.
const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) const TOKEN: &str = "t0ken-of-the-session-9f3a12cd";
pub(crate) const REAL_KEY: &str = "sk-ant-api03-the-real-one";

/// Waits for `what`, but not for ever.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("{what} did not come within {DEADLINE:?}"))
}
