//! What a request is, and whether it may go upstream.
//!
//! Every way to make a model generate is metered or refused; what is left costs nothing and is passed on. The meter's permit is a value:
//! [`Permit`] holds the reservation, and one that is dropped unsent gives it back.

use std::borrow::Cow;
use std::sync::Arc;

use http::{HeaderMap, Method, StatusCode};
use jiff::Timestamp;
use memchr::memmem;
use secrecy::ExposeSecret;

use super::compaction::Look;
use super::dialect::Asked;
use super::refusal::ApiError;
use super::scan::{Scanned, scan};
use super::shared::{Active, Shared};
use super::{ProxyEvent, tee::Tee};
use crate::meter::price::Place;
use crate::meter::{Ask, Refusal, Reservation, Uncovered};
use crate::model::{Event, RequestId, Thread};

/// The header that shows that our settings were applied.
pub(super) const SENTINEL: &str = "x-sentrely-run";
/// A name of the child's making is kept to this length.
const MAX_NAME: usize = 128;

/// What a path means for the meter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// Generates, and is metered.
    Metered,
    /// Counts tokens for the client: free, but a question to the model's API all the same.
    Counting,
    /// Generates in a form that is not metered.
    Refused(&'static str),
    /// Costs nothing.
    Free,
}

/// Ways to spend that we do not meter: the last part of the path, and its name. `POST` to them is refused.
const UNMETERED: [(&str, &str); 15] = [
    ("complete", "text completions"),
    ("completions", "the OpenAI-compatible API"),
    ("responses", "the OpenAI-compatible API"),
    ("embeddings", "the OpenAI-compatible API"),
    ("batches", "message batches"),
    ("generate_prompt", "the prompt tools"),
    ("improve_prompt", "the prompt tools"),
    ("templatize_prompt", "the prompt tools"),
    ("invoke", "the Bedrock format"),
    ("invoke-with-response-stream", "the Bedrock format"),
    ("invoke-with-bidirectional-stream", "the Bedrock format"),
    ("converse", "the Bedrock format"),
    ("converse-stream", "the Bedrock format"),
    ("sessions", "managed agents"),
    ("events", "managed agents"),
];

/// Parts of words that stand in the path of everything that generates. A `POST` whose path holds one and that is nothing we know is
/// refused: a server may read it in more ways than we can think of.
const COSTLY: [&str; 7] = ["message", "complet", "generat", "batch", "invoke", "converse", "predict"];
/// Parts of a path that stand only where other APIs generate.
const COSTLY_PARTS: [&str; 2] = ["images", "audio"];
/// What is said of such a path.
const UNCLEAR: &str = "a path that may generate";
/// How often a path is decoded at most. A server decodes once, one with another before it twice.
const MAX_DECODINGS: usize = 4;

impl Route {
    /// Looks at the path as any server may read it: percent signs decoded as often as there are some, backslashes taken for slashes,
    /// parameters and whatever else is odd cut off, empty and dot parts gone, in lower case.
    pub(super) fn of(method: &Method, path: &str) -> Self {
        let reads = *method == Method::GET || *method == Method::HEAD || *method == Method::OPTIONS;
        if reads {
            return Self::Free;
        }
        if path == "/v1/messages" {
            return Self::Metered;
        }
        let Some(decoded) = decode_fully(path) else { return Self::Refused(UNCLEAR) };
        let mut parts: Vec<&str> = Vec::new();
        let mut odd = false;
        for part in decoded.split(['/', '\\']) {
            let plain = part.find(is_odd).map_or(part, |at| &part[..at]);
            odd |= plain.len() < part.len();
            match plain {
                "" | "." => {}
                ".." => {
                    parts.pop();
                }
                plain => parts.push(plain),
            }
        }
        odd |= decoded.contains('\\');
        match parts.as_slice() {
            // Metered, whatever the server makes of the oddities: it is settled with what it answers.
            [.., "messages"] => return Self::Metered,
            [.., "count_tokens"] if !odd => return Self::Counting,
            // The client's telemetry; the end of a batch that somebody else began.
            [.., "event_logging", "batch"] | [.., "event_logging", _, "batch"] | [.., "messages", "batches", _, "cancel"] if !odd => {
                return Self::Free;
            }
            _ => {}
        }
        if let Some(last) = parts.last()
            && last.contains(':')
        {
            return Self::Refused("the Vertex format");
        }
        // Whether what follows an oddity counts is up to the server.
        let known = if odd { parts.as_slice() } else { parts.split_at(parts.len().saturating_sub(1)).1 };
        if let Some((_, name)) = UNMETERED.iter().find(|(part, _)| known.contains(part)) {
            return Self::Refused(name);
        }
        let costly = COSTLY.iter().any(|word| decoded.contains(word)) || COSTLY_PARTS.iter().any(|part| parts.contains(part));
        if costly { Self::Refused(UNCLEAR) } else { Self::Free }
    }
}

/// What does not stand in the path of an API: some server may end the path, or a part of it, here.
const fn is_odd(character: char) -> bool {
    !matches!(character, 'a'..='z' | '0'..='9' | '_' | '.' | '~' | '-' | ':' | '@')
}

/// The path in lower case with nothing left to decode. `None` for what no client of an API writes: control characters, other than
/// ASCII (of which a server may make ASCII), or more layers than any server decodes.
fn decode_fully(path: &str) -> Option<String> {
    let mut text = path.to_owned();
    for _ in 0..MAX_DECODINGS {
        let Cow::Owned(decoded) = decode(&text) else { break };
        text = decoded;
    }
    let readable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) && matches!(decode(&text), Cow::Borrowed(_));
    readable.then(|| text.to_ascii_lowercase())
}

/// Decodes percent signs once; borrowed where there is nothing to decode.
fn decode(path: &str) -> Cow<'_, str> {
    let bytes = path.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let digits = bytes.get(at + 1..at + 3).filter(|digits| *byte == b'%' && digits.iter().all(u8::is_ascii_hexdigit));
        let value = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        decoded.push(value.unwrap_or(*byte));
        at += if value.is_some() { 3 } else { 1 };
    }
    if decoded.len() == bytes.len() { Cow::Borrowed(path) } else { Cow::Owned(String::from_utf8_lossy(&decoded).into_owned()) }
}

/// What goes upstream has one of these.
pub(super) struct Permit {
    /// `None` for what costs nothing.
    reservation: Option<Reservation>,
    sent: bool,
}

impl Permit {
    /// For a path that costs nothing.
    pub(super) const fn free() -> Self {
        Self { reservation: None, sent: false }
    }

    /// The conversation of a request that has a reservation.
    pub(super) fn thread(&self) -> Option<&Thread> {
        self.reservation.as_ref().map(Reservation::thread)
    }

    /// The request's number, if it belongs to the main conversation.
    pub(super) fn main_request(&self) -> Option<RequestId> {
        self.reservation.as_ref().filter(|reservation| *reservation.thread() == Thread::Main).map(Reservation::request)
    }

    /// From here on the request may cost, whatever becomes of it.
    pub(super) fn mark_sent(&mut self) {
        self.sent = true;
        if let Some(reservation) = &mut self.reservation {
            reservation.sent(Timestamp::now());
        }
    }

    /// The request never left us.
    pub(super) const fn mark_unsent(&mut self) {
        self.sent = false;
    }

    /// What reads along when the answer comes.
    pub(super) fn into_tee(mut self, shared: &Arc<Shared>, status: StatusCode, headers: &HeaderMap) -> Tee {
        match self.reservation.take() {
            Some(reservation) => Tee::metered(Arc::clone(shared), reservation, status, headers),
            None => Tee::free(Arc::clone(shared)),
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(reservation) = self.reservation.take() else { return };
        let now = Timestamp::now();
        if self.sent {
            reservation.abandon(now);
        } else {
            reservation.release(now);
        }
    }
}

/// Decides on a request that generates.
pub(super) fn admit(shared: &Shared, headers: &HeaderMap, body: &[u8], cloud: Option<&Asked>, now: Timestamp) -> Result<Permit, ApiError> {
    let found = scan(body, cloud.map(|cloud| cloud.model.as_str()));
    let Scanned { model, max_tokens, stream, tools, asks_for_summary, summary, shape } = found.map_err(|error| {
        let why = format!("the request cannot be metered and was not sent: {error}");
        refuse(shared, ApiError::invalid(StatusCode::BAD_REQUEST, why))
    })?;
    let mut thread = thread(headers);
    if shared.is_aside(&thread, headers, tools) {
        thread = Thread::Auxiliary;
    }
    let betas = headers.get_all("anthropic-beta").iter().filter_map(|value| value.to_str().ok()).collect::<Vec<_>>().join(",");
    let asked = model.clone();
    let bytes = shape.content.text_bytes;
    let (streamed, place) = cloud.map_or((stream, Place::FirstParty), |asked| {
        // Bedrock's bodies have no `stream`; on Vertex both must say so.
        (asked.streamed && (stream || asked.place == Place::Bedrock), asked.place)
    });
    let ask = Ask { thread: thread.clone(), model: model.into_owned(), shape, streamed, max_tokens, betas, place };
    let reservation = shared.meter.reserve(ask, now).map_err(|refusal| {
        let error = match &refusal {
            Refusal::Uncovered(Uncovered::Unknown(_)) => ApiError::ledger_lost(refusal.to_string()),
            _ => ApiError::refused(shared.refusal, refusal.to_string()),
        };
        let error = refuse(shared, error);
        if let Refusal::Budget { .. } | Refusal::Uncovered(Uncovered::Lack(_)) = refusal {
            shared.note(ProxyEvent::BudgetReached { why: error.message().to_owned() });
        }
        error
    })?;
    let (ceiling, ceiling_tokens) = reservation.crash_ceiling();
    let admitted = Event::RequestAdmitted {
        request: reservation.request(),
        thread: thread.clone(),
        model: reservation.model().to_owned(),
        ceiling,
        ceiling_tokens,
    };
    let request = reservation.request();
    let permit = Permit { reservation: Some(reservation), sent: false };
    // Dropped unsent, the permit gives the reservation back.
    shared.tell(ProxyEvent::Journal(admitted)).map_err(|error| ApiError::journal_lost(&error))?;
    let look = Look { request, thread: &thread, headers, asks_for_summary, summary, model: &asked, bytes, tools };
    if let Some(event) = shared.compaction(&look) {
        let asks_for_summary = matches!(event, Event::Compaction { thread: Thread::Main, request: Some(_), .. });
        shared.note(ProxyEvent::Journal(event));
        if asks_for_summary && shared.refuse_compaction {
            let why = "this session is stopped before its context is compacted".to_owned();
            return Err(refuse(shared, ApiError::refused(shared.refusal, why)));
        }
    }
    Ok(permit)
}

/// Holds a subagent's request to the limits on subagents.
pub(super) fn enter_agent(shared: &Shared, active: &mut Active, headers: &HeaderMap) -> Result<(), ApiError> {
    let Thread::Agent(agent) = thread(headers) else { return Ok(()) };
    let entered = active.enter(&agent, name(headers, "x-claude-code-parent-agent-id"));
    entered.map_err(|why| refuse(shared, ApiError::refused(shared.refusal, why)))
}

/// Journals a refusal.
pub(super) fn refuse(shared: &Shared, error: ApiError) -> ApiError {
    shared.note(ProxyEvent::Journal(Event::RequestRefused { why: error.message().to_owned() }));
    error
}

/// Tells the session what the first requests to the model show: whether our settings are in force, and Claude's own session.
pub(super) fn introduce(shared: &Shared, headers: &HeaderMap) {
    if shared.is_first_request() {
        let expected = shared.sentinel.as_deref();
        let custom_headers =
            expected.is_some_and(|expected| headers.get_all(SENTINEL).iter().any(|value| value.as_bytes() == expected.as_bytes()));
        shared.note(ProxyEvent::FirstRequest { custom_headers });
    }
    if let Some(event) = name(headers, "x-claude-code-session-id").and_then(|id| shared.claude_session(id)) {
        shared.note(ProxyEvent::Journal(event));
    }
}

/// Whether the session's token stands where it would go upstream.
pub(super) fn holds_token(shared: &Shared, text: &[u8]) -> bool {
    let token = shared.token.expose_secret().as_bytes();
    !token.is_empty() && memmem::find(text, token).is_some()
}

/// The conversation that a request belongs to. Auxiliary requests of a subagent say as little about its next one as others do.
fn thread(headers: &HeaderMap) -> Thread {
    if headers.get("x-claude-code-request-class").is_some_and(|class| class.as_bytes() == b"auxiliary") {
        return Thread::Auxiliary;
    }
    name(headers, "x-claude-code-agent-id").map_or(Thread::Main, |id| Thread::Agent(id.to_owned()))
}

fn name<'a>(headers: &'a HeaderMap, header: &str) -> Option<&'a str> {
    headers.get(header)?.to_str().ok().filter(|name| !name.is_empty() && name.len() <= MAX_NAME)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn route(path: &str) -> Route {
        Route::of(&Method::POST, path)
    }

    #[test]
    fn messages_are_metered_however_the_path_is_written() {
        for path in [
            "/v1/messages",
            "/v1/messages/",
            "//v1//messages",
            "/v1/./messages",
            "/v1/x/../messages",
            "/v1/%6dessages",
            "/V1/Messages",
            "/team/v1/messages",
            "/v1/messages;a=b",
            "/v1;a=b/messages;c",
            "/v1/messages%3Fx",
            "/v1/messages%23",
            "/v1/messages%20",
            "/v1/messages%2f",
            "/v1/mess%2561ges",
            "/v1/mess%252561ges",
            "/v1/messages\\",
            "/v1\\messages",
            "/v1%5Cmessages",
            "/v1/messages,x",
            "/v1/messages%25",
        ] {
            assert_eq!(route(path), Route::Metered, "{path}");
        }
        assert_eq!(Route::of(&Method::PUT, "/v1/messages"), Route::Metered);
    }

    #[test]
    fn other_ways_to_generate_are_refused() {
        for path in [
            "/v1/complete",
            "/v1/messages/batches",
            "/v1/messages/batches/",
            "/v1/messages/%62atches",
            "/v1/chat/completions",
            "/v1/responses",
            "/model/anthropic.claude/invoke",
            "/model/anthropic.claude/invoke-with-response-stream",
            "/v1/projects/p/locations/l/publishers/anthropic/models/claude:streamRawPredict",
            "/v1/projects/p/locations/l/publishers/anthropic/models/claude%3ArawPredict",
            "/v1/sessions",
            "/v1/sessions/abc/events",
            "/v1/images/generations",
            "/v1/images/edits",
            "/v1/audio/speech",
            "/v1/messages%00",
            "/v1/messages%0a",
            "/v1/me%C5%BFsages",
            "/v1/%EF%BC%8Dessages",
            "/v1/mess%25252525252561ges",
            "/v1/messages/x",
            "/v1/messages.json",
            "/v1/xmessages",
            "/v1/messages;/batches",
            "/v1/messages%2Fbatches",
            "/v1/complete;x=y",
            "/v1/%2563omplete",
            "/v1/responses;x/y",
            "/v1/messages/count_tokens;/../../messages%3f/x",
            "/v1/messages/count_tokens;x",
            "/api/event_logging/batch;x",
            "/v1/messages/batches/abc%3b/cancel",
            "/v1/models/gemini%253AgenerateContent",
        ] {
            assert!(matches!(route(path), Route::Refused(_)), "{path}");
        }
    }

    #[test]
    fn what_costs_nothing_is_passed_on() {
        assert_eq!(route("/v1/messages/count_tokens"), Route::Counting);
        for path in [
            "/v1/files",
            "/v1/models",
            "/api/event_logging/batch",
            "/api/event_logging/v2/batch",
            "/",
            "",
            "/v1/messages/batches/abc/cancel",
            "/v1/%zz",
            "/v1/files/a%20b;c",
            "/api/claude_code/metrics",
        ] {
            assert_eq!(route(path), Route::Free, "{path}");
        }
        for path in ["/v1/messages", "/v1/messages/batches", "/v1/models"] {
            assert_eq!(Route::of(&Method::GET, path), Route::Free, "{path}");
        }
    }

    #[test]
    fn the_headers_name_the_conversation() {
        let headers = |pairs: &[(&'static str, &'static str)]| -> HeaderMap {
            pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
        };
        assert_eq!(thread(&headers(&[])), Thread::Main);
        assert_eq!(thread(&headers(&[("x-claude-code-request-class", "compaction")])), Thread::Main);
        assert_eq!(thread(&headers(&[("x-claude-code-agent-id", "a7")])), Thread::Agent("a7".into()));
        assert_eq!(thread(&headers(&[("x-claude-code-agent-id", "a7"), ("x-claude-code-request-class", "auxiliary")])), Thread::Auxiliary);
    }
}
