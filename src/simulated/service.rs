//! The HTTP side: one connection at a time, over any byte stream, so that tests can put TLS underneath.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};

use super::answer::{Answer, ApiError, Cut, Fault};
use super::body::{AnswerBody, Watched, Wire};
use super::log::{Arrived, Entry, Log, Outcome};
use super::request::Request;
use super::script::Script;
use super::sse::{self, Step};
use crate::model::Thread;

/// How a simulated upstream works, apart from its script.
#[derive(Debug, Clone)]
pub struct Options {
    /// The port on 127.0.0.1; 0: any free one.
    pub port: u16,
    /// Where each ended request is appended as a line of JSON ([`super::Record`]).
    pub log_file: Option<PathBuf>,
    /// Whether the bodies of requests are kept in the log.
    pub keep_bodies: bool,
    /// Whether bodies and answers are digested; benches switch it off.
    pub digests: bool,
    /// What stands before `/v1/messages` in the path: `""`, or `/gateway`.
    pub prefix: String,
    /// Bodies over this many bytes are refused with 413 as soon as that is known.
    pub max_body_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        let max_body_bytes = 32 * 1024 * 1024;
        Self { port: 0, log_file: None, keep_bodies: false, digests: true, prefix: String::new(), max_body_bytes }
    }
}

/// A script, a log and what serves them: cheap to clone. [`super::Upstream`] puts it behind a TCP listener.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
}

struct Shared {
    script: Mutex<Script>,
    log: Arc<Log>,
    options: Options,
    connections: AtomicU64,
    messages: AtomicUsize,
}

/// Makes the close of a TCP connection a reset. It keeps the socket open, so it must not outlive the connection.
#[derive(Debug)]
pub struct ResetHandle(OwnedFd);

/// No answer, by the script.
#[derive(Debug, thiserror::Error)]
#[error("dropped by the script")]
struct Dropped;

impl ResetHandle {
    /// For this socket.
    pub fn of(socket: &impl AsFd) -> std::io::Result<Self> {
        socket.as_fd().try_clone_to_owned().map(Self)
    }

    pub(super) fn arm(&self) -> std::io::Result<()> {
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        Ok(nix::sys::socket::setsockopt(&self.0, nix::sys::socket::sockopt::Linger, &linger)?)
    }
}

impl Server {
    /// A server of this script.
    ///
    /// # Errors
    ///
    /// The log file cannot be opened.
    pub fn new(script: impl Into<Script>, options: Options) -> std::io::Result<Self> {
        let log = Arc::new(Log::new(options.log_file.as_deref(), options.digests, options.keep_bodies)?);
        let script = Mutex::new(script.into());
        Ok(Self { shared: Arc::new(Shared { script, log, options, connections: AtomicU64::new(0), messages: AtomicUsize::new(0) }) })
    }

    /// Replaces the script for the requests to come.
    pub fn set_script(&self, script: impl Into<Script>) {
        *self.shared.script.lock().unwrap_or_else(PoisonError::into_inner) = script.into();
    }

    pub(super) fn log(&self) -> &Log {
        &self.shared.log
    }

    pub(super) fn options(&self) -> &Options {
        &self.shared.options
    }

    /// Serves one connection to its end. Without a `reset`, [`Cut::Reset`] is a plain close.
    pub async fn serve_connection<IO>(&self, io: IO, reset: Option<ResetHandle>)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let connection = self.shared.connections.fetch_add(1, Ordering::Relaxed) + 1;
        let wire = Arc::new(Wire::new(reset));
        let service = service_fn(|request: http::Request<Incoming>| {
            let (shared, wire) = (Arc::clone(&self.shared), Arc::clone(&wire));
            async move { shared.handle(request, connection, wire).await }
        });
        let io = TokioIo::new(Watched { io, wire: Arc::clone(&wire) });
        if let Err(error) = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await {
            tracing::debug!(%error, connection, "a connection to the simulated upstream ended");
        }
    }
}

impl Shared {
    async fn handle(&self, request: http::Request<Incoming>, connection: u64, wire: Arc<Wire>) -> Result<Response<AnswerBody>, Dropped> {
        let (parts, incoming) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let (body, end) = self.collect(incoming).await;
        let arrived = |thread: Thread, model: &str, stream: bool| {
            let (method, headers) = (&parts.method, &parts.headers);
            self.log.arrive(Arrived { connection, method, path: &path, headers, body: &body, thread, model, stream })
        };
        match end {
            Upload::Whole => {}
            Upload::TooLarge => {
                let error = Answer::error(413, "request_too_large", "Request exceeds the maximum size").header("connection", "close");
                return Ok(reply(&error, arrived(Thread::Main, "", false), wire, None));
            }
            Upload::Broken => {
                arrived(Thread::Main, "", false).end(Outcome::ClientGone);
                return Err(Dropped);
            }
        }
        match self.route(&parts) {
            Route::Message => {
                let number = self.messages.fetch_add(1, Ordering::Relaxed) + 1;
                let asked = Request::new(number, path.clone(), parts.headers.clone(), body.clone());
                let answer = self.script.lock().unwrap_or_else(PoisonError::into_inner).answer(&asked);
                let entry = arrived(asked.thread(), &asked.model, asked.stream);
                message(&answer, &asked, entry, wire).await
            }
            Route::Document(document) => {
                Ok(reply(&Answer::raw(200, "application/json", document), arrived(Thread::Main, "", false), wire, None))
            }
            Route::CountTokens => {
                let document = json!({ "input_tokens": body.len() / 4 }).to_string();
                Ok(reply(&Answer::raw(200, "application/json", document), arrived(Thread::Main, "", false), wire, None))
            }
            Route::Unknown => {
                let error = Answer::error(404, "not_found_error", format!("no such path: {} {path}", parts.method));
                Ok(reply(&error, arrived(Thread::Main, "", false), wire, None))
            }
        }
    }

    fn route(&self, parts: &Parts) -> Route {
        let Some(path) = parts.uri.path().strip_prefix(self.options.prefix.as_str()) else { return Route::Unknown };
        match (&parts.method, path) {
            (&Method::POST, "/v1/messages") => Route::Message,
            (&Method::POST, "/v1/messages/count_tokens") => Route::CountTokens,
            (&Method::POST, path) if path.ends_with("/count-tokens:rawPredict") => Route::CountTokens,
            (&Method::POST, path) if path.ends_with(":streamRawPredict") || path.ends_with(":rawPredict") => Route::Message,
            (&Method::HEAD, "/" | "") => Route::Document(String::new()),
            (&Method::GET, "/v1/models") => Route::Document(models().to_string()),
            _ => Route::Unknown,
        }
    }

    /// The body, as far as it came.
    async fn collect(&self, mut incoming: Incoming) -> (Bytes, Upload) {
        let mut body = BytesMut::new();
        while let Some(frame) = incoming.frame().await {
            let Ok(frame) = frame else { return (body.freeze(), Upload::Broken) };
            if let Ok(data) = frame.into_data() {
                body.extend_from_slice(&data);
            }
            if body.len() > self.options.max_body_bytes {
                return (body.freeze(), Upload::TooLarge);
            }
        }
        (body.freeze(), Upload::Whole)
    }
}

enum Upload {
    Whole,
    TooLarge,
    Broken,
}

enum Route {
    Message,
    CountTokens,
    Document(String),
    Unknown,
}

/// Answers a message request as the script says.
async fn message(answer: &Answer, asked: &Request, mut entry: Entry, wire: Arc<Wire>) -> Result<Response<AnswerBody>, Dropped> {
    let id = sse::unique("msg_01");
    let model = answer.model.as_deref().unwrap_or(&asked.model);
    let plain = answer.error.is_none() && answer.raw_body.is_none() && answer.status == 200;
    let extra = if plain && !asked.stream { sse::time_to_write(answer) } else { 0 };
    let wait = answer.pace.first_byte_ms.saturating_add(extra);
    if wait > 0 {
        tokio::time::sleep(Duration::from_millis(wait)).await;
    }
    let dropped = answer.faults.iter().find_map(|fault| if let Fault::Drop { how } = fault { Some(*how) } else { None });
    if let Some(how) = dropped {
        if how == Cut::Reset {
            wire.reset();
        }
        entry.end(Outcome::Cut);
        return Err(Dropped);
    }
    if !plain {
        return Ok(reply(answer, entry, wire, None));
    }
    if asked.stream {
        let request_id = sse::unique("req_01");
        entry.answering(200, &request_id, Some((id.clone(), answer.usage)));
        let body = AnswerBody::new(sse::stream(answer, &id, model), None, answer, wire, entry);
        return Ok(response(StatusCode::OK, "text/event-stream; charset=utf-8", &request_id, answer, body));
    }
    let error = answer.faults.iter().find_map(|fault| if let Fault::Error { error, .. } = fault { Some(error) } else { None });
    if let Some(error) = error {
        return Ok(reply(&Answer::error(500, &error.kind, &error.message), entry, wire, None));
    }
    let document = Bytes::from(sse::message(answer, &id, model).to_string());
    Ok(reply(answer, entry, wire, Some((document, id))))
}

/// Answers with one document: a message, the raw body, or the error.
fn reply(answer: &Answer, entry: Entry, wire: Arc<Wire>, message: Option<(Bytes, String)>) -> Response<AnswerBody> {
    let request_id = sse::unique("req_01");
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let (document, id) = message.unzip();
    entry.answering(status.as_u16(), &request_id, id.map(|id| (id, answer.usage)));
    let document = document.unwrap_or_else(|| match (&answer.raw_body, &answer.error) {
        (Some(body), _) => body.clone().into(),
        (None, Some(error)) => sse::error_document(error, &request_id).to_string().into(),
        (None, None) => {
            let error = ApiError { kind: "api_error".into(), message: format!("status {status}") };
            sse::error_document(&error, &request_id).to_string().into()
        }
    });
    let (steps, length): (VecDeque<Step>, usize) = sse::document(answer, &document);
    // A document comes as fast as it can: its waits were before the head.
    let unpaced = Answer { pace: super::answer::Pace::default(), ..answer.clone() };
    let body = AnswerBody::new(steps, Some(length), &unpaced, wire, entry);
    response(status, "application/json", &request_id, answer, body)
}

fn response(status: StatusCode, content_type: &'static str, request_id: &str, answer: &Answer, body: AnswerBody) -> Response<AnswerBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    let ours = [("request-id", request_id), ("anthropic-organization-id", "00000000-0000-4000-8000-000000000000")];
    let scripted = answer.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in ours.into_iter().chain(scripted) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.insert(name, value);
        } else {
            tracing::warn!(name, value, "the script names a header that cannot be sent");
        }
    }
    response
}

fn models() -> Value {
    let model = |id: &str, name: &str| json!({ "type": "model", "id": id, "display_name": name, "created_at": "2026-09-01T00:00:00Z" });
    let data = [
        model("claude-opus-5-5", "Claude Opus 5.5"),
        model("claude-sonnet-5-5", "Claude Sonnet 5.5"),
        model("claude-haiku-5-5", "Claude Haiku 5.5"),
    ];
    json!({ "data": data, "has_more": false, "first_id": "claude-opus-5-5", "last_id": "claude-haiku-5-5" })
}
