//! Questions of the client's own hooks, asked over the connection that it has anyway.
//!
//! The address lies below the session's base URL, so whoever may ask for the model may ask here, and wherever the model can be reached
//! (a network namespace, say) this can be too. Nothing of it goes upstream, nothing is metered, and it is answered when the proxy is closed
//! as well: a client that says its last words is not to be held up by us. The answer is the session's; without one it is empty, which
//! lets the client go on.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::body::AnswerBody;
use super::shared::Shared;

/// Where hooks ask, below the base URL.
pub(super) const PATH: &str = "/sentrely/hook";
/// What is kept of a question. A tool's input is far smaller (an answer has 128,000 tokens); a tool's result may be larger, and is not
/// looked at.
const MAX_QUESTION: usize = 4 * 1024 * 1024;

/// Questions that are read at a time. Beyond that they are told nothing at once, so that nobody can fill our memory with them.
pub(super) const MAX_AT_ONCE: usize = 16;
/// A question comes from this machine and in one piece.
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers a hook's question, both in the client's JSON; nothing lets the client go on. Called in line: it must be quick, and must not wait.
pub type HookAnswerer = Arc<dyn Fn(&[u8]) -> Vec<u8> + Send + Sync>;

/// Whether this is such a question.
pub(super) fn is_question(method: &Method, path: &str) -> bool {
    *method == Method::POST && path == PATH
}

/// Answers it. Whatever is wrong with a question, the client goes on.
pub(super) async fn answer(shared: &Shared, body: Incoming) -> Response<AnswerBody> {
    let answer = match (shared.hook_answerer(), shared.hook_slots.try_acquire()) {
        (Some(answerer), Ok(_slot)) => match tokio::time::timeout(PATIENCE, read(body)).await {
            Ok(Some(question)) => answerer(&question),
            Ok(None) | Err(_) => Vec::new(),
        },
        _ => Vec::new(),
    };
    let answer = if answer.is_empty() { Bytes::from_static(b"{}") } else { Bytes::from(answer) };
    let mut response = Response::new(AnswerBody::whole(answer));
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The whole question; `None` if it broke off or is too long. One that is too long is read to its end all the same, since a client that is
/// still sending would not see the answer.
async fn read(mut body: Incoming) -> Option<BytesMut> {
    let mut question = BytesMut::new();
    let mut fits = true;
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.ok()?.into_data() {
            fits &= question.len() + data.len() <= MAX_QUESTION;
            if fits {
                question.extend_from_slice(&data);
            }
        }
    }
    fits.then_some(question)
}
