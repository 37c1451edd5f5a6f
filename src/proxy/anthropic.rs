//! The Messages API as answers speak it: server-sent events, and the [`usage`] in them.
//!
//! The decoder takes any chunking, `\n` and `\r\n`, comments and data over several lines, holds one event at most and parses only
//! the few events that carry usage; the others are recognised by their first bytes and counted. What is [`generated`] is gathered from many.

mod generated;
mod usage;

use memchr::memmem;
use serde::Deserialize;

use self::generated::Generated;
pub(super) use self::usage::{Answer, UsageFields};
use crate::meter::Text;

/// The longest event that is held; of a longer one only the beginning is looked at.
const MAX_EVENT: usize = 256 * 1024;

/// What an event means for the meter.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Signal {
    /// `message_start`.
    Started { id: Option<String>, model: Option<String>, usage: Option<UsageFields> },
    /// A block began; `hidden` output of so many bytes came with it, whole.
    BlockStarted { kind: BlockKind, bytes: u64 },
    /// Generated text, of some events or one.
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
    generated: Generated,
}

impl Decoder {
    /// Reads some more bytes. What they generate is told with the next other event, or when it is [asked](Self::tell_generated) for.
    pub(super) fn feed(&mut self, mut bytes: &[u8], out: &mut impl FnMut(Signal)) {
        loop {
            while !self.within_event()
                && let Some(rest) = self.generated.read_usual(bytes)
            {
                self.tell_much(out);
                bytes = rest;
            }
            if bytes.is_empty() {
                return;
            }
            // The empty line after an event is seen without a search.
            let Some(end) = (if bytes.first() == Some(&b'\n') { Some(0) } else { memchr::memchr(b'\n', bytes) }) else { break };
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

    /// Tells what was generated and not told yet.
    pub(super) fn tell_generated(&mut self, out: &mut impl FnMut(Signal)) {
        if let Some(text) = self.generated.take() {
            out(Signal::Delta(text));
        }
    }

    fn tell_much(&mut self, out: &mut impl FnMut(Signal)) {
        if self.generated.is_much() {
            self.tell_generated(out);
        }
    }

    fn tell(&mut self, signal: Option<Signal>, out: &mut impl FnMut(Signal)) {
        match signal {
            Some(signal) => {
                self.tell_generated(out);
                out(signal);
            }
            None => self.tell_much(out),
        }
    }

    /// The stream is over: what stands there without its empty line counts, as clients read it too.
    pub(super) fn finish(&mut self, out: &mut impl FnMut(Signal)) {
        let line = std::mem::take(&mut self.line);
        if !line.is_empty() {
            self.end_line(&line, out);
        }
        self.end_line(b"", out);
        self.tell_generated(out);
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
                self.tell(signal, out);
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
            b"content_block_delta" => {
                self.generated.read_delta(&self.data);
                None
            }
            b"content_block_start" => {
                self.generated.begin_block();
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
        let generated = std::mem::take(&mut self.generated);
        let mut named = Self { data: self.data.clone(), name: typed.r#type.into_bytes(), generated, ..Self::default() };
        let signal = if named.name.is_empty() || named.name == b"message" { None } else { named.read_event() };
        self.generated = named.generated;
        signal
    }

    fn read_cut_event(&mut self) -> Option<Signal> {
        match self.kind() {
            b"content_block_delta" => {
                self.generated.read_unsure(&self.data, self.dropped);
                None
            }
            b"message_start" | b"message_delta" => Some(Signal::Malformed("an event too long to read")),
            _ => self.read_event(),
        }
    }
}

impl Decoder {
    /// What an event means that comes without lines around it.
    pub(super) fn read_bare(&mut self, data: &[u8], out: &mut impl FnMut(Signal)) {
        self.data.clear();
        self.data.extend_from_slice(data);
        let signal = self.read_event();
        self.tell(signal, out);
    }
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
