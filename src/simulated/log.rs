//! What the simulated upstream was sent and what became of its answers: in memory, and as JSON lines in a file.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method};
use jiff::Timestamp;
use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;

use crate::model::{Thread, Usage};

/// One request and its answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Record {
    /// The request's number among all, from 1.
    pub number: usize,
    /// The number of the connection it came on, from 1: the same number twice is a connection kept alive.
    pub connection: u64,
    /// The HTTP method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// All headers in order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Bytes of the body that arrived.
    pub body_bytes: usize,
    /// SHA-256 of the body in hex, unless digests are off.
    pub body_sha256: Option<String>,
    /// The body, where bodies are kept; in JSON as text.
    #[serde(serialize_with = "as_text", skip_serializing_if = "Option::is_none")]
    pub body: Option<Bytes>,
    /// The conversation it belongs to.
    pub thread: Thread,
    /// `model` of a message request.
    pub model: String,
    /// Whether a stream was asked for.
    pub stream: bool,
    /// The answer's status; `None` before the head, and when the connection was dropped.
    pub status: Option<u16>,
    /// The header `request-id` of the answer.
    pub request_id: Option<String>,
    /// The id of the message, in an answer that is one.
    pub message_id: Option<String>,
    /// What the answer claims to have used, in an answer that is a message, whether or not it was sent to the end.
    pub usage: Option<Usage>,
    /// Bytes of the answer's body handed to the connection.
    pub answer_bytes: u64,
    /// SHA-256 of those bytes in hex, unless digests are off; at the end.
    pub answer_sha256: Option<String>,
    /// When the request had arrived whole.
    pub arrived_at: Timestamp,
    /// When the first bytes of the answer's body were handed to the connection.
    pub first_byte_at: Option<Timestamp>,
    /// When it was over.
    pub ended_at: Option<Timestamp>,
    /// How it ended; `None` while it runs.
    pub outcome: Option<Outcome>,
}

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The whole answer was handed to the connection.
    Completed,
    /// The script cut it short.
    Cut,
    /// The client went away first, or the upstream was shut down.
    ClientGone,
}

/// A wait that was too long.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("wait for the simulated upstream: not within {waited:?}; it has seen {}", describe(.seen))]
pub struct TimedOut {
    /// How long.
    pub waited: Duration,
    /// What had been seen by then.
    pub seen: Vec<Record>,
}

impl Record {
    /// The first value of a header; `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether it is a `POST` of a message, not one of the small requests around it.
    pub fn is_message(&self) -> bool {
        self.method == "POST" && self.path.split('?').next().is_some_and(|path| path.ends_with("/v1/messages"))
    }

    /// The kept body as JSON; null where it was not kept or is none.
    pub fn json(&self) -> serde_json::Value {
        self.body.as_ref().and_then(|body| serde_json::from_slice(body).ok()).unwrap_or_default()
    }
}

fn describe(seen: &[Record]) -> String {
    if seen.is_empty() {
        return "no request".into();
    }
    let line = |record: &Record| {
        let outcome = match record.outcome {
            None => "running",
            Some(Outcome::Completed) => "completed",
            Some(Outcome::Cut) => "cut",
            Some(Outcome::ClientGone) => "client gone",
        };
        let status = record.status.map_or("-".into(), |status| status.to_string());
        format!("{} {} -> {status} {outcome}", record.method, record.path)
    };
    seen.iter().map(line).collect::<Vec<_>>().join(", ")
}

#[expect(clippy::ref_option, reason = "serde's signature")]
fn as_text<S: Serializer>(body: &Option<Bytes>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&String::from_utf8_lossy(body.as_deref().unwrap_or_default()))
}

/// The log: shared by the connections that write it and the tests that wait on it.
pub(super) struct Log {
    state: Mutex<State>,
    changed: Condvar,
    notify: Notify,
    digests: bool,
    keep_bodies: bool,
}

struct State {
    records: Vec<Record>,
    file: Option<File>,
}

/// What is known of a request when it has arrived.
pub(super) struct Arrived<'a> {
    pub(super) connection: u64,
    pub(super) method: &'a Method,
    pub(super) path: &'a str,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a Bytes,
    pub(super) thread: Thread,
    pub(super) model: &'a str,
    pub(super) stream: bool,
}

impl Log {
    pub(super) fn new(file: Option<&Path>, digests: bool, keep_bodies: bool) -> std::io::Result<Self> {
        let file = file.map(|path| File::options().create(true).append(true).open(path)).transpose()?;
        let state = Mutex::new(State { records: Vec::new(), file });
        Ok(Self { state, changed: Condvar::new(), notify: Notify::new(), digests, keep_bodies })
    }

    pub(super) fn records(&self) -> Vec<Record> {
        self.lock().records.clone()
    }

    pub(super) fn arrive(self: &Arc<Self>, arrived: Arrived<'_>) -> Entry {
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let body_sha256 = self.digests.then(|| hex(&Sha256::digest(arrived.body)));
        let mut state = self.lock();
        let index = state.records.len();
        state.records.push(Record {
            number: index + 1,
            connection: arrived.connection,
            method: arrived.method.to_string(),
            path: arrived.path.to_owned(),
            headers: arrived.headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect(),
            body_bytes: arrived.body.len(),
            body_sha256,
            body: self.keep_bodies.then(|| arrived.body.clone()),
            thread: arrived.thread,
            model: arrived.model.to_owned(),
            stream: arrived.stream,
            status: None,
            request_id: None,
            message_id: None,
            usage: None,
            answer_bytes: 0,
            answer_sha256: None,
            arrived_at: Timestamp::now(),
            first_byte_at: None,
            ended_at: None,
            outcome: None,
        });
        drop(state);
        self.announce();
        Entry { log: Arc::clone(self), index, digest: self.digests.then(Sha256::new), ended: false }
    }

    /// Waits without blocking the runtime.
    pub(super) async fn wait(&self, timeout: Duration, enough: impl Fn(&[Record]) -> bool) -> Result<Vec<Record>, TimedOut> {
        let arrival = async {
            loop {
                let changed = self.notify.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                {
                    let state = self.lock();
                    if enough(&state.records) {
                        return state.records.clone();
                    }
                }
                changed.await;
            }
        };
        let arrived = tokio::time::timeout(timeout, arrival).await;
        arrived.map_err(|_| TimedOut { waited: timeout, seen: self.records() })
    }

    /// Waits on this thread.
    pub(super) fn wait_blocking(&self, timeout: Duration, enough: impl Fn(&[Record]) -> bool) -> Result<Vec<Record>, TimedOut> {
        let started = Instant::now();
        let mut state = self.lock();
        while !enough(&state.records) {
            let left = timeout.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Err(TimedOut { waited: timeout, seen: state.records.clone() });
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(state.records.clone())
    }

    fn announce(&self) {
        self.changed.notify_all();
        self.notify.notify_waiters();
    }

    /// A panic elsewhere must not hide the log from the test that wants to say why.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One exchange in the log while it runs. Dropped before its end, it is booked as [`Outcome::ClientGone`].
pub(super) struct Entry {
    log: Arc<Log>,
    index: usize,
    digest: Option<Sha256>,
    ended: bool,
}

impl Entry {
    /// Notes what is being answered.
    pub(super) fn answering(&self, status: u16, request_id: &str, message: Option<(String, Usage)>) {
        let mut state = self.log.lock();
        if let Some(record) = state.records.get_mut(self.index) {
            record.status = Some(status);
            record.request_id = Some(request_id.to_owned());
            (record.message_id, record.usage) = message.unzip();
        }
    }

    /// Notes bytes of the body that are handed to the connection.
    pub(super) fn sending(&mut self, bytes: &[u8]) {
        if let Some(record) = self.log.lock().records.get_mut(self.index) {
            record.first_byte_at.get_or_insert_with(Timestamp::now);
            record.answer_bytes += bytes.len() as u64;
        }
        if let Some(digest) = &mut self.digest {
            digest.update(bytes);
        }
    }

    /// Notes the end; only the first one counts.
    pub(super) fn end(&mut self, outcome: Outcome) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let sha256 = self.digest.take().map(|digest| hex(&digest.finalize()));
        let mut state = self.log.lock();
        let State { records, file } = &mut *state;
        if let Some(record) = records.get_mut(self.index) {
            record.answer_sha256 = sha256;
            record.ended_at = Some(Timestamp::now());
            record.outcome = Some(outcome);
            if let (Some(file), Ok(mut line)) = (file, serde_json::to_vec(record)) {
                line.push(b'\n');
                if let Err(error) = file.write_all(&line) {
                    tracing::warn!(%error, "could not write the simulated upstream's log");
                }
            }
        }
        drop(state);
        self.log.announce();
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.end(Outcome::ClientGone);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(digit.into(), 16).unwrap_or('?'));
        }
        text
    })
}
