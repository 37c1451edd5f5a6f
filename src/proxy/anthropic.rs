//! The Messages API as answers speak it: server-sent events, and the [`usage`] in them.
//!
//! The decoder takes any chunking, `\n` and `\r\n`, comments and data over several lines, holds one event at most and parses only
//! the few events that carry usage; the others are recognised by their first bytes and counted.

mod usage;

use memchr::memmem;
use serde::Deserialize;

pub(super) use self::usage::{Answer, UsageFields};
use crate::meter::{Text, Weigher};

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

#[cfg(test)]
mod tests;
