//! Noticing that the client compacts a conversation.
//!
//! With hint headers (`CLAUDE_CODE_GATEWAY_HINT_HEADERS`, from 2.1.273) the client says so: in the request for the summary, and in the first
//! one that begins with it. Without them, the words that both begin with tell, as the beginning of a text ([`super::scan`]): quoted
//! anywhere inside a message they do not count. What has neither is noticed by the size: a request of the same conversation and model that is less than half of the one before.
//!
//! One compaction shows itself in several requests, and in their repetitions; it is told once.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use http::HeaderMap;

use crate::model::{Event, RequestId, SeenBy, Thread};

/// Says that a request came from a client that gives hints.
const HINTED: &str = "x-claude-code-request-class";
/// On the request that writes the summary; its value says what set the compaction off.
const WRITES: &str = "x-claude-code-compaction";
/// On the first request that begins with the summary.
const BEGINS: &str = "x-claude-code-context-compacted";
/// So much of a summary tells it from others. It begins with the same words always.
const SUMMARY_BYTES: usize = 8 * 1024;
/// A request must be smaller by so many bytes (some 20,000 tokens) for its size to tell.
const MUCH: u64 = 80_000;
/// Conversations that are remembered at most: their names are of the client's making.
const MAX_THREADS: usize = 1_000;

/// What is known of the conversations.
#[derive(Default)]
pub(super) struct Compactions(HashMap<Thread, Seen>);

/// A request to the model, as far as it matters here.
pub(super) struct Look<'a> {
    pub(super) request: RequestId,
    pub(super) thread: &'a Thread,
    pub(super) headers: &'a HeaderMap,
    /// Its words ask for a summary.
    pub(super) asks_for_summary: bool,
    /// The summary that it begins with by its words, without them.
    pub(super) summary: Option<&'a [u8]>,
    pub(super) model: &'a str,
    /// Bytes of its text.
    pub(super) bytes: u64,
    /// It brings tools along.
    pub(super) tools: bool,
}

/// The last request of one conversation.
#[derive(Default)]
struct Seen {
    stage: Option<Stage>,
    /// The summary that it begins with.
    summary: Option<u64>,
    session: u64,
    model: u64,
    bytes: u64,
    tools: bool,
}

/// How far a compaction has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The request that writes the summary was seen.
    Writes,
    /// The first request that begins with the summary was seen.
    Begins,
}

/// Whether the request comes from a client that says what its requests are for.
fn is_hinted(headers: &HeaderMap) -> bool {
    [HINTED, WRITES, BEGINS].iter().any(|hint| headers.contains_key(*hint))
}

impl Compactions {
    /// Whether this is a question beside the conversation: a small request without tools in one that has them. 2.1.197, which gives no
    /// hints, asks another model such things.
    pub(super) fn is_aside(&self, thread: &Thread, headers: &HeaderMap, tools: bool) -> bool {
        *thread == Thread::Main && !tools && !is_hinted(headers) && self.0.get(thread).is_some_and(|seen| seen.tools)
    }

    /// Takes in a request that goes upstream; gives the event of a compaction, once for each.
    pub(super) fn look(&mut self, look: &Look<'_>) -> Option<Event> {
        if *look.thread == Thread::Auxiliary || (self.0.len() >= MAX_THREADS && !self.0.contains_key(look.thread)) {
            return None;
        }
        let session = digest(look.headers.get("x-claude-code-session-id").map_or(&[][..], |id| id.as_bytes()));
        let model = digest(look.model.as_bytes());
        let before = self.0.remove(look.thread).filter(|seen| seen.session == session);
        let (stage, summary, seen_by) = if is_hinted(look.headers) { hinted(look) } else { unhinted(look, before.as_ref(), model) };
        let known = before.as_ref().and_then(|seen| seen.stage);
        let is_new = match stage {
            // Said by a header it may be the same request again; seen by words or size it is another one than before.
            Some(Stage::Begins) if seen_by == SeenBy::Headers => known.is_none(),
            Some(Stage::Writes | Stage::Begins) => known != Some(Stage::Writes),
            None => false,
        };
        let seen = Seen { stage, summary, session, model, bytes: look.bytes, tools: look.tools || before.is_some_and(|seen| seen.tools) };
        self.0.insert(look.thread.clone(), seen);
        let request = (stage == Some(Stage::Writes)).then_some(look.request);
        is_new.then(|| Event::Compaction { thread: look.thread.clone(), trigger: trigger(look.headers), request, seen_by })
    }
}

fn hinted(look: &Look<'_>) -> (Option<Stage>, Option<u64>, SeenBy) {
    let stage = if look.headers.contains_key(WRITES) {
        Some(Stage::Writes)
    } else if look.headers.contains_key(BEGINS) {
        Some(Stage::Begins)
    } else {
        None
    };
    (stage, None, SeenBy::Headers)
}

fn unhinted(look: &Look<'_>, before: Option<&Seen>, model: u64) -> (Option<Stage>, Option<u64>, SeenBy) {
    let summary = look.summary.map(|text| digest(&text[..text.len().min(SUMMARY_BYTES)]));
    if look.asks_for_summary {
        // The summary of the compaction before stays in it.
        return (Some(Stage::Writes), summary, SeenBy::Summary);
    }
    let Some(before) = before else { return (None, summary, SeenBy::Summary) };
    if summary.is_some() && summary != before.summary {
        return (Some(Stage::Begins), summary, SeenBy::Summary);
    }
    let shrunk = look.bytes < before.bytes / 2 && before.bytes - look.bytes > MUCH;
    let stage = (shrunk && before.model == model && before.stage.is_none()).then_some(Stage::Begins);
    (stage, summary, SeenBy::Size)
}

/// `auto`, `manual`, `reactive`: a word, whatever the client writes there.
fn trigger(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(WRITES).or_else(|| headers.get(BEGINS))?.to_str().ok()?;
    let is_word = (1..=16).contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_lowercase());
    is_word.then(|| value.to_owned())
}

fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use serde_json::{Value, json};

    use super::super::scan::scan;
    use super::*;

    const HINT: (&str, &str) = (HINTED, "main");

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    fn see(compactions: &mut Compactions, thread: &Thread, pairs: &[(&'static str, &'static str)], messages: &Value) -> Option<SeenBy> {
        let body = json!({"model": "m", "messages": messages, "tools": [{"name": "Bash"}]}).to_string();
        let headers = headers(pairs);
        let found = scan(body.as_bytes(), None).unwrap();
        let look = Look {
            request: RequestId(7),
            thread,
            headers: &headers,
            asks_for_summary: found.asks_for_summary,
            summary: found.summary,
            model: "m",
            bytes: body.len() as u64,
            tools: true,
        };
        match compactions.look(&look) {
            Some(Event::Compaction { thread: seen, seen_by, .. }) if seen == *thread => Some(seen_by),
            None => None,
            other => panic!("{other:?}"),
        }
    }

    fn user(text: &str) -> Value {
        json!({"role": "user", "content": [{"type": "text", "text": text}]})
    }

    fn summary(of: &str) -> Value {
        json!({"role": "user", "content": format!("This session is being continued from a previous conversation that ran out of context. {of}")})
    }

    const REQUEST: &str = "CRITICAL: Respond with TEXT ONLY. Do NOT call any tools.\n\n- Do NOT use Read";

    #[test]
    fn with_hints_only_the_headers_count() {
        let mut compactions = Compactions::default();
        let mut see = |pairs: &[_], messages| see(&mut compactions, &Thread::Main, pairs, &messages);
        assert_eq!(see(&[HINT], json!([user("hello")])), None);
        assert_eq!(see(&[HINT], json!([summary("x"), user(REQUEST)])), None);
        assert_eq!(see(&[HINT, (WRITES, "auto")], json!([user("hello")])), Some(SeenBy::Headers));
        assert_eq!(see(&[HINT, (WRITES, "auto")], json!([user("hello")])), None, "the same again");
        assert_eq!(see(&[HINT, (BEGINS, "auto")], json!([summary("x")])), None, "its other end");
        assert_eq!(see(&[HINT], json!([summary("x")])), None);
        assert_eq!(see(&[HINT, (BEGINS, "auto")], json!([summary("y")])), Some(SeenBy::Headers), "the next one");
    }

    #[test]
    fn without_hints_the_request_for_a_summary_and_the_summary_tell() {
        let mut compactions = Compactions::default();
        let mut see = |messages| see(&mut compactions, &Thread::Main, &[], &messages);
        assert_eq!(see(json!([user("hello")])), None);
        assert_eq!(see(json!([user("hello"), user(REQUEST)])), Some(SeenBy::Summary));
        assert_eq!(see(json!([summary("one")])), None, "its other end");
        assert_eq!(see(json!([summary("one"), user("on")])), None);
        // The request for the next summary was missed.
        assert_eq!(see(json!([summary("two"), user("on")])), Some(SeenBy::Summary));
    }

    #[test]
    fn a_conversation_that_began_with_a_summary_before_us_is_not_compacted_now() {
        let mut compactions = Compactions::default();
        assert_eq!(see(&mut compactions, &Thread::Main, &[], &json!([summary("one")])), None);
        assert_eq!(see(&mut compactions, &Thread::Main, &[("x-claude-code-session-id", "b")], &json!([summary("two")])), None);
    }

    #[test]
    fn a_text_about_compactions_is_none() {
        let mut compactions = Compactions::default();
        let mut see = |messages| see(&mut compactions, &Thread::Main, &[], &messages);
        assert_eq!(see(json!([user("hello")])), None);
        let quoted = json!([summary("x"), user(REQUEST)]).to_string();
        let result = json!({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": quoted}]});
        assert_eq!(see(json!([user("hello"), result])), None);
    }

    #[test]
    fn without_words_and_hints_a_request_of_less_than_half_tells() {
        let mut compactions = Compactions::default();
        let mut see = |bytes: usize| see(&mut compactions, &Thread::Main, &[], &json!([user(&"x".repeat(bytes))]));
        assert_eq!(see(300_000), None);
        assert_eq!(see(200_000), None);
        assert_eq!(see(90_000), Some(SeenBy::Size));
        assert_eq!(see(95_000), None);
        assert_eq!(see(30_000), None, "too little to be sure");
    }

    #[test]
    fn a_smaller_conversation_of_another_session_or_of_a_client_with_hints_is_none() {
        let mut compactions = Compactions::default();
        let big = json!([user(&"x".repeat(300_000))]);
        let small = json!([user("x")]);
        assert_eq!(see(&mut compactions, &Thread::Main, &[("x-claude-code-session-id", "a")], &big), None);
        assert_eq!(see(&mut compactions, &Thread::Main, &[("x-claude-code-session-id", "b")], &small), None, "after /clear");
        assert_eq!(see(&mut compactions, &Thread::Main, &[HINT], &big), None);
        assert_eq!(see(&mut compactions, &Thread::Main, &[HINT], &small), None, "rewound");
    }

    #[test]
    fn conversations_do_not_mix_and_asides_are_none() {
        let mut compactions = Compactions::default();
        let agent = Thread::Agent("a7".into());
        assert_eq!(see(&mut compactions, &Thread::Main, &[HINT, (WRITES, "manual")], &json!([])), Some(SeenBy::Headers));
        assert_eq!(see(&mut compactions, &agent, &[HINT, (WRITES, "auto")], &json!([])), Some(SeenBy::Headers));
        assert_eq!(see(&mut compactions, &Thread::Auxiliary, &[HINT, (WRITES, "auto")], &json!([])), None);
        let (plain, hinted) = (headers(&[]), headers(&[HINT]));
        assert!(compactions.is_aside(&Thread::Main, &plain, false));
        assert!(!compactions.is_aside(&Thread::Main, &plain, true) && !compactions.is_aside(&Thread::Main, &hinted, false));
        assert!(!Compactions::default().is_aside(&Thread::Main, &plain, false), "a client without any tools");
    }

    #[test]
    fn a_trigger_is_a_word_or_nothing() {
        assert_eq!(trigger(&headers(&[(WRITES, "reactive")])), Some("reactive".to_owned()));
        assert_eq!(trigger(&headers(&[(BEGINS, "Some thing")])), None);
        assert_eq!(trigger(&headers(&[])), None);
    }
}
