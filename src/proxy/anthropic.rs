//! The Messages API as answers speak it: server-sent events and usage.
//!
//! The decoder takes any chunking, `\n` and `\r\n`, comments and data over several lines, holds one event at most and parses only
//! the few events that carry usage; the others are recognised by their first bytes and counted.

use memchr::memmem;
use serde::Deserialize;

use crate::meter::price::{Part, PartKind, Reported};
use crate::meter::{Text, Weigher};
use crate::model::{Speed, Usage};

/// The longest event that is held; of a longer one only the beginning is looked at.
const MAX_EVENT: usize = 256 * 1024;

/// What an event means for the meter.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Signal {
    /// `message_start`.
    Started { id: Option<String>, model: Option<String>, usage: Option<UsageFields> },
    /// A block began; `hidden` output of so many bytes came with it, whole.
    BlockStarted { kind: BlockKind, bytes: u64 },
    /// Generated text.
    Delta(Text),
    /// A block ended.
    BlockStopped,
    /// `message_delta`; `last` when it says why the model stopped. `resumed`: what came so far is one answer, and with this usage begins
    /// what goes on after the pause.
    Usage { usage: UsageFields, resumed: Option<UsageFields>, last: bool },
    /// `message_stop`.
    Stopped,
    /// `error`: the answer ends here.
    Failed,
    /// An event that should carry usage cannot be read.
    Malformed(&'static str),
}

/// How a block's content comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BlockKind {
    /// As it is generated.
    Visible,
    /// Perhaps not at all: thinking, and kinds that we do not know.
    Hidden,
    /// As it is generated or late, in one piece: tool inputs.
    Late,
}

/// A push parser for server-sent events.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// The line that has not ended yet.
    line: Vec<u8>,
    /// The event's data so far.
    data: Vec<u8>,
    name: Vec<u8>,
    /// Bytes of the event that were not kept.
    dropped: u64,
    in_event: bool,
    /// What generated text weighs goes on from one event to the next.
    weigher: Weigher,
}

impl Decoder {
    /// Reads some more bytes.
    pub(super) fn feed(&mut self, mut bytes: &[u8], out: &mut impl FnMut(Signal)) {
        // The empty line after an event is seen without a search.
        while let Some(end) = if bytes.first() == Some(&b'\n') { Some(0) } else { memchr::memchr(b'\n', bytes) } {
            if self.line.is_empty() {
                self.end_line(&bytes[..end], out);
            } else {
                self.keep(&bytes[..end]);
                let mut line = std::mem::take(&mut self.line);
                self.end_line(&line, out);
                line.clear();
                self.line = line;
            }
            bytes = &bytes[end + 1..];
        }
        self.keep(bytes);
    }

    /// The stream is over: what stands there without its empty line counts, as clients read it too.
    pub(super) fn finish(&mut self, out: &mut impl FnMut(Signal)) {
        let line = std::mem::take(&mut self.line);
        if !line.is_empty() {
            self.end_line(&line, out);
        }
        self.end_line(b"", out);
    }

    /// Whether the bytes so far end within an event.
    pub(super) fn within_event(&self) -> bool {
        self.in_event || !self.line.is_empty()
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = MAX_EVENT.saturating_sub(self.line.len());
        let kept = bytes.len().min(room);
        self.line.extend_from_slice(&bytes[..kept]);
        self.dropped += (bytes.len() - kept) as u64;
    }

    fn end_line(&mut self, line: &[u8], out: &mut impl FnMut(Signal)) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            if !self.data.is_empty() {
                let signal = if self.dropped > 0 { self.read_cut_event() } else { self.read_event() };
                if let Some(signal) = signal {
                    out(signal);
                }
            }
            self.data.clear();
            self.name.clear();
            self.dropped = 0;
            self.in_event = false;
            return;
        }
        self.in_event = true;
        if let Some(value) = line.strip_prefix(b"data:") {
            if !self.data.is_empty() {
                self.data.push(b'\n');
            }
            let value = value.strip_prefix(b" ").unwrap_or(value);
            let kept = value.len().min(MAX_EVENT.saturating_sub(self.data.len()));
            self.data.extend_from_slice(&value[..kept]);
            self.dropped += (value.len() - kept) as u64;
        } else if let Some(value) = line.strip_prefix(b"event:") {
            self.name.clear();
            self.name.extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
        }
    }

    /// What kind of event this is: by its own words, else by the name before it.
    fn kind(&self) -> &[u8] {
        const TYPE: &[u8] = br#"{"type":""#;
        if let Some(rest) = self.data.strip_prefix(TYPE) {
            let end = memchr::memchr(b'"', rest).unwrap_or(rest.len());
            return &rest[..end];
        }
        &self.name
    }

    fn read_event(&mut self) -> Option<Signal> {
        match self.kind() {
            b"content_block_delta" => Some(Signal::Delta(delta_text(&self.data, &mut self.weigher))),
            b"content_block_start" => {
                self.weigher = Weigher::default();
                Some(block_started(&self.data))
            }
            b"content_block_stop" => Some(Signal::BlockStopped),
            b"message_start" => Some(message_start(&self.data)),
            b"message_delta" => Some(message_delta(&self.data)),
            b"message_stop" => Some(Signal::Stopped),
            b"error" => Some(Signal::Failed),
            b"" | b"message" => self.read_unnamed(),
            // A ping, or something that is not known yet.
            _ => None,
        }
    }

    /// Neither a name nor a type at its usual place: the one case where an event is parsed to know what it is.
    fn read_unnamed(&mut self) -> Option<Signal> {
        #[derive(Deserialize)]
        struct Typed {
            r#type: String,
        }
        let Ok(typed) = serde_json::from_slice::<Typed>(&self.data) else { return Some(Signal::Malformed("an event that is not JSON")) };
        let mut named = Self { data: self.data.clone(), name: typed.r#type.into_bytes(), weigher: self.weigher, ..Self::default() };
        let signal = if named.name.is_empty() || named.name == b"message" { None } else { named.read_event() };
        self.weigher = named.weigher;
        signal
    }

    fn read_cut_event(&mut self) -> Option<Signal> {
        match self.kind() {
            b"content_block_delta" => {
                let mut text = self.weigher.read(&self.data).unsure();
                text += Text::dense(self.dropped);
                Some(Signal::Delta(text))
            }
            b"message_start" | b"message_delta" => Some(Signal::Malformed("an event too long to read")),
            _ => self.read_event(),
        }
    }
}

impl Decoder {
    /// What an event means that comes without lines around it.
    pub(super) fn read_bare(&mut self, data: &[u8]) -> Option<Signal> {
        self.data.clear();
        self.data.extend_from_slice(data);
        self.read_event()
    }
}

/// The generated text in a `content_block_delta`.
fn delta_text(data: &[u8], weigher: &mut Weigher) -> Text {
    const DELTA: &[u8] = br#""delta":{"type":""#;
    // `"}}` after the text.
    const TAIL: usize = 3;
    // Found at once: it stands right after the type and the index.
    let Some(at) = find_near_start(data, DELTA) else { return parsed_delta(data, weigher) };
    let delta = &data[at + DELTA.len()..];
    let head: &[u8] = match delta {
        _ if delta.starts_with(br#"text_delta","text":""#) => br#"text_delta","text":""#,
        _ if delta.starts_with(br#"input_json_delta","partial_json":""#) => br#"input_json_delta","partial_json":""#,
        _ if delta.starts_with(br#"thinking_delta","thinking":""#) => br#"thinking_delta","thinking":""#,
        // Not generated by the model.
        _ if delta.starts_with(b"signature_delta\"") || delta.starts_with(b"citations_delta\"") => return Text::default(),
        _ => return weigher.read(delta).unsure(),
    };
    let text = &delta[head.len()..delta.len().saturating_sub(TAIL).max(head.len())];
    weigher.read_json(text)
}

/// The same where the fields stand in another order than the API writes them in, as behind some gateways.
fn parsed_delta(data: &[u8], weigher: &mut Weigher) -> Text {
    type Field<'a> = Option<std::borrow::Cow<'a, str>>;
    #[derive(Deserialize)]
    struct Event<'a> {
        #[serde(borrow)]
        delta: Delta<'a>,
    }
    #[derive(Deserialize)]
    struct Delta<'a> {
        #[serde(borrow)]
        r#type: Field<'a>,
        #[serde(borrow)]
        text: Field<'a>,
        #[serde(borrow)]
        partial_json: Field<'a>,
        #[serde(borrow)]
        thinking: Field<'a>,
    }
    let Ok(Event { delta }) = serde_json::from_slice(data) else { return weigher.read(data).unsure() };
    let text = match delta.r#type.as_deref() {
        Some("text_delta") => delta.text,
        Some("input_json_delta") => delta.partial_json,
        Some("thinking_delta") => delta.thinking,
        Some("signature_delta" | "citations_delta") => return Text::default(),
        _ => None,
    };
    match text {
        Some(text) => weigher.read(text.as_bytes()),
        None => weigher.read(data).unsure(),
    }
}

fn find_near_start(data: &[u8], needle: &[u8]) -> Option<usize> {
    const USUAL: usize = 40;
    if data.get(USUAL..USUAL + needle.len()) == Some(needle) {
        return Some(USUAL);
    }
    memmem::find(&data[..data.len().min(256)], needle)
}

fn block_started(data: &[u8]) -> Signal {
    #[derive(Deserialize)]
    struct Event<'a> {
        #[serde(borrow)]
        content_block: Block<'a>,
    }
    #[derive(Deserialize)]
    struct Block<'a> {
        #[serde(borrow)]
        r#type: std::borrow::Cow<'a, str>,
    }
    const BLOCK: &[u8] = br#""content_block":{"type":""#;
    let parsed;
    let kind = if let Some(at) = memmem::find(&data[..data.len().min(256)], BLOCK) {
        let rest = &data[at + BLOCK.len()..];
        &rest[..memchr::memchr(b'"', rest).unwrap_or(rest.len())]
    } else {
        match serde_json::from_slice::<Event<'_>>(data) {
            Ok(event) => {
                parsed = event.content_block.r#type.into_owned();
                parsed.as_bytes()
            }
            Err(_) => b"",
        }
    };
    match kind {
        b"text" => Signal::BlockStarted { kind: BlockKind::Visible, bytes: 0 },
        b"tool_use" | b"server_tool_use" | b"mcp_tool_use" => Signal::BlockStarted { kind: BlockKind::Late, bytes: 0 },
        // It comes whole and encrypted: its base64 is a third longer than what was thought.
        b"redacted_thinking" => Signal::BlockStarted { kind: BlockKind::Hidden, bytes: data.len() as u64 * 3 / 4 },
        // What a tool on the server's side found: not generated.
        _ if kind.ends_with(b"_tool_result") => Signal::BlockStarted { kind: BlockKind::Visible, bytes: 0 },
        _ => Signal::BlockStarted { kind: BlockKind::Hidden, bytes: 0 },
    }
}

fn message_start(data: &[u8]) -> Signal {
    #[derive(Deserialize)]
    struct Event {
        message: Answer,
    }
    if let Ok(Event { message: Answer { id, model, usage } }) = serde_json::from_slice(data) {
        return Signal::Started { id, model, usage };
    }
    // The id is worth saving even when the usage is not what we expect: it tells our traffic from traffic that went past us.
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(data) else { return Signal::Malformed("a message_start that is not JSON") };
    let text = |name: &str| value.pointer(name).and_then(|found| found.as_str()).map(str::to_owned);
    Signal::Started { id: text("/message/id"), model: text("/message/model"), usage: None }
}

fn message_delta(data: &[u8]) -> Signal {
    #[derive(Deserialize)]
    struct Event {
        usage: Option<UsageFields>,
        delta: Option<Delta>,
        resumed_usage: Option<UsageFields>,
    }
    #[derive(Deserialize)]
    struct Delta {
        stop_reason: Option<String>,
    }
    let Ok(event) = serde_json::from_slice::<Event>(data) else { return Signal::Malformed("a message_delta that cannot be read") };
    let last = event.delta.is_some_and(|delta| delta.stop_reason.is_some()) && event.usage.is_some();
    let last = last && event.resumed_usage.is_none();
    Signal::Usage { usage: event.usage.unwrap_or_default(), resumed: event.resumed_usage, last }
}

/// An answer that comes whole, or the message that a stream begins with.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Answer {
    /// The message's id.
    pub(super) id: Option<String>,
    /// The model that answered.
    pub(super) model: Option<String>,
    /// What it used.
    pub(super) usage: Option<UsageFields>,
}

impl Answer {
    /// Reads a whole answer; `None` when it is not one.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }
}

/// The `usage` block, with everything that an event may leave out.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub(super) struct UsageFields {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation: Option<CacheCreation>,
    server_tool_use: Option<ServerToolUse>,
    speed: Option<String>,
    inference_geo: Option<String>,
    iterations: Option<serde_json::Value>,
}

/// One entry of `usage.iterations`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Iteration {
    r#type: String,
    model: Option<String>,
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation: Option<CacheCreation>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
struct CacheCreation {
    ephemeral_5m_input_tokens: Option<u64>,
    ephemeral_1h_input_tokens: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
struct ServerToolUse {
    web_search_requests: Option<u64>,
}

impl UsageFields {
    /// A later report: its values hold, what it is silent about stays. A prompt count of zero is silence, as Claude Code reads it.
    pub(super) fn overlay(&mut self, later: Self) {
        fn some_unless_zero(slot: &mut Option<u64>, later: Option<u64>) {
            if later.is_some_and(|count| count > 0 || slot.is_none()) {
                *slot = later;
            }
        }
        some_unless_zero(&mut self.input_tokens, later.input_tokens);
        some_unless_zero(&mut self.cache_creation_input_tokens, later.cache_creation_input_tokens);
        some_unless_zero(&mut self.cache_read_input_tokens, later.cache_read_input_tokens);
        if later.cache_creation.is_some_and(|split| split.total() > 0) {
            self.cache_creation = later.cache_creation;
        }
        self.output_tokens = later.output_tokens.or(self.output_tokens);
        self.server_tool_use = later.server_tool_use.or(self.server_tool_use);
        self.speed = later.speed.or_else(|| self.speed.take());
        self.inference_geo = later.inference_geo.or_else(|| self.inference_geo.take());
        self.iterations = later.iterations.or_else(|| self.iterations.take());
    }

    /// Whether the prompt's size is known.
    pub(super) const fn has_input(&self) -> bool {
        self.input_tokens.is_some()
    }

    /// Whether the output's size is known.
    pub(super) const fn has_output(&self) -> bool {
        self.output_tokens.is_some()
    }

    /// As the meter counts it (facts/PRICES.md rules 1, 3, 4 and 5).
    pub(super) fn to_usage(&self) -> Usage {
        let (cache_write_5m, cache_write_1h) = written(self.cache_creation_input_tokens, self.cache_creation);
        Usage {
            input: self.input_tokens.unwrap_or(0),
            output: self.output_tokens.unwrap_or(0),
            cache_write_5m,
            cache_write_1h,
            cache_read: self.cache_read_input_tokens.unwrap_or(0),
            web_searches: self.server_tool_use.and_then(|used| used.web_search_requests).unwrap_or(0),
            speed: if self.speed.as_deref() == Some("fast") { Speed::Fast } else { Speed::Standard },
            us_only: self.inference_geo.as_deref() == Some("us"),
            outside_context: 0,
        }
    }

    /// Everything that is billed for the answer (rule 2, and what the block's own counts leave out).
    pub(super) fn to_report(&self) -> Reported {
        let listed = self.iterations.as_ref().and_then(serde_json::Value::as_array);
        // What cannot be read counts nothing: the block's own counts are there all the same.
        let parts = listed.into_iter().flatten().filter_map(|part| Iteration::deserialize(part).ok()?.to_part()).collect();
        Reported { usage: self.to_usage(), parts }
    }
}

impl Iteration {
    fn to_part(&self) -> Option<Part> {
        let kind = match self.r#type.as_str() {
            "message" => PartKind::Message,
            "fallback_message" => PartKind::Fallback,
            "compaction" => PartKind::Compaction,
            "advisor_message" => PartKind::Advisor,
            // Whether something that is not known yet is in the counts: as turns are.
            _ => return None,
        };
        let (cache_write_5m, cache_write_1h) = written(self.cache_creation_input_tokens, self.cache_creation);
        let usage = Usage {
            input: self.input_tokens.unwrap_or(0),
            output: self.output_tokens.unwrap_or(0),
            cache_write_5m,
            cache_write_1h,
            cache_read: self.cache_read_input_tokens.unwrap_or(0),
            ..Usage::default()
        };
        Some(Part { kind, model: self.model.clone(), usage })
    }
}

/// Cache writes for five minutes and for an hour. A total without a split is for five minutes (rule 1).
fn written(total: Option<u64>, split: Option<CacheCreation>) -> (u64, u64) {
    let split = split.unwrap_or_default();
    let hour = split.ephemeral_1h_input_tokens.unwrap_or(0);
    (total.unwrap_or(0).max(split.total()).saturating_sub(hour), hour)
}

impl CacheCreation {
    fn total(self) -> u64 {
        self.ephemeral_5m_input_tokens.unwrap_or(0).saturating_add(self.ephemeral_1h_input_tokens.unwrap_or(0))
    }
}

#[cfg(test)]
mod tests;
