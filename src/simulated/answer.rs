//! One scripted answer: what it says, what it claims to have used, how fast it comes and how it goes wrong.
//!
//! Every field has a default, so a script's JSON names only what matters: `{"content": [{"type": "text", "text": "hi"}]}`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::usage::{UsageForm, UsageReport, usage_costing};
use crate::model::{Usage, Usd};

/// One answer. Build it with [`Answer::text`], [`Answer::tool`] and the like, and refine it with the methods that take `self`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Answer {
    /// The HTTP status; anything but 200 is sent as one JSON body with [`Answer::error`].
    pub status: u16,
    /// Headers added to the usual ones, replacing those of the same name.
    pub headers: BTreeMap<String, String>,
    /// The error to answer with, in the API's form.
    pub error: Option<ApiError>,
    /// A body sent as it stands instead of anything else: an HTML page of a gateway, say.
    pub raw_body: Option<String>,
    /// The model the answer claims to come from; the requested one by default.
    pub model: Option<String>,
    /// What it says, block by block.
    pub content: Vec<Block>,
    /// What it used; 100 tokens in and 10 out by default.
    #[serde(with = "UsageForm")]
    pub usage: Usage,
    /// Where the usage is told.
    pub report: UsageReport,
    /// More fields of the last usage block, such as `iterations`.
    pub usage_extra: Map<String, Value>,
    /// `tool_use` or `end_turn`, after the content, by default.
    pub stop_reason: Option<String>,
    /// More fields of `message_delta.delta`, such as `safeguard_results`.
    pub delta_extra: Map<String, Value>,
    /// How fast it comes.
    pub pace: Pace,
    /// Sizes in bytes of the pieces the body is written in, used in turn, each flushed before the next; empty: as few as possible.
    pub pieces: Vec<usize>,
    /// How lines of the event stream end.
    pub line_end: LineEnd,
    /// What goes wrong, and where.
    pub faults: Vec<Fault>,
}

impl Default for Answer {
    fn default() -> Self {
        Self {
            status: 200,
            headers: BTreeMap::new(),
            error: None,
            raw_body: None,
            model: None,
            content: Vec::new(),
            usage: Usage { input: 100, output: 10, ..Usage::default() },
            report: UsageReport::default(),
            usage_extra: Map::new(),
            stop_reason: None,
            delta_extra: Map::new(),
            pace: Pace::default(),
            pieces: Vec::new(),
            line_end: LineEnd::default(),
            faults: Vec::new(),
        }
    }
}

/// A part of what an answer says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Block {
    /// Text, cut into `events` deltas (one by default).
    Text {
        /// The words.
        text: String,
        /// How many deltas.
        #[serde(default = "one")]
        events: u64,
    },
    /// A text of `events` deltas of `bytes` bytes each, made up while it is sent: any length in constant memory.
    Filler {
        /// How many deltas.
        events: u64,
        /// Bytes of text in each.
        bytes: usize,
    },
    /// Thinking. With an empty `text` it is hidden, as the client asks for: the block opens, nothing comes for `hold_ms`, it closes.
    Thinking {
        /// The words that are shown.
        #[serde(default)]
        text: String,
        /// Milliseconds the block stays open in silence (pings as in [`Pace::ping_ms`]).
        #[serde(default)]
        hold_ms: u64,
    },
    /// A tool call.
    ToolUse {
        /// The tool's name.
        name: String,
        /// Its input.
        input: Value,
        /// The call's id; unique by default.
        #[serde(default)]
        id: Option<String>,
        /// Milliseconds between the block's start and its input: a long input that is delivered late.
        #[serde(default)]
        hold_ms: u64,
        /// How many deltas carry the input.
        #[serde(default = "one")]
        events: u64,
    },
}

const fn one() -> u64 {
    1
}

/// An error in the API's form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiError {
    /// `overloaded_error`, `billing_error` and so on.
    #[serde(rename = "type")]
    pub kind: String,
    /// For people.
    pub message: String,
}

/// How fast an answer comes, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pace {
    /// Until the response's head.
    pub first_byte_ms: u64,
    /// Between the head and the first event.
    pub first_event_ms: u64,
    /// After each event.
    pub event_ms: u64,
    /// Between pings in a silence: in `first_event_ms`, `hold_ms` and stalls; 0: no pings.
    pub ping_ms: u64,
}

/// The end of a line in the event stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LineEnd {
    /// `\n`, as the real API.
    #[default]
    Lf,
    /// `\r\n`.
    Crlf,
    /// `\r`.
    Cr,
}

/// Something that goes wrong.
///
/// In an answer that is not streamed, places are those of its one body: a place in events is its half, an `error` is answered with
/// status 500, garbage leaves half a JSON document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// The connection ends before the response's head; [`Cut::End`] is taken as [`Cut::Close`].
    Drop {
        /// How it ends.
        how: Cut,
    },
    /// The answer ends early.
    Cut {
        /// Where.
        at: Place,
        /// How.
        how: Cut,
    },
    /// Silence, then the rest.
    Stall {
        /// Where.
        at: Place,
        /// How long, in milliseconds; without end by default.
        #[serde(default)]
        ms: Option<u64>,
    },
    /// An `error` event, after which the stream ends.
    Error {
        /// Where.
        at: Place,
        /// What it says.
        error: ApiError,
    },
    /// Bytes that do not belong there; the answer goes on after them.
    Garbage {
        /// Where.
        at: Place,
        /// Which.
        bytes: Garbage,
    },
}

/// A place in an answer. Beyond its end means at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// After that many events; `message_start` is the first, pings do not count.
    Events(u64),
    /// After that many bytes of the body.
    Bytes(u64),
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cut {
    /// A TCP reset. As in life, bytes that the client's socket had no room for are lost with it.
    Reset,
    /// The connection is closed (FIN) in the middle of the HTTP message.
    Close,
    /// The HTTP message ends properly, but the event stream in it lacks its end.
    End,
}

/// Bytes that do not belong into an event stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Garbage {
    /// Bytes that are not UTF-8, ended by an empty line.
    Noise,
    /// An event whose data is the first half of a JSON document.
    HalfJson,
    /// A well-formed event of a type nobody knows.
    UnknownEvent,
    /// This, as it stands.
    Text(String),
}

impl Answer {
    /// A sentence, ending the turn.
    pub fn text(text: impl Into<String>) -> Self {
        Self::default().and_text(text)
    }

    /// A call of the tool `name`.
    pub fn tool(name: impl Into<String>, input: Value) -> Self {
        Self::default().and_tool(name, input)
    }

    /// A call of the Bash tool.
    pub fn bash(command: impl Into<String>) -> Self {
        Self::tool("Bash", json!({ "command": command.into(), "description": "Run a command" }))
    }

    /// A call of the Write tool.
    pub fn write(path: impl Into<String>, content: impl Into<String>) -> Self {
        Self::tool("Write", json!({ "file_path": path.into(), "content": content.into() }))
    }

    /// A call of the Agent tool: a general-purpose subagent that is given `prompt`.
    pub fn agent(prompt: impl Into<String>) -> Self {
        let prompt = prompt.into();
        Self::tool("Agent", json!({ "description": "Do a part", "prompt": prompt, "subagent_type": "general-purpose" }))
    }

    /// A sentence that costs `amount` at the list price of claude-opus-5-5 ([`usage_costing`]).
    pub fn turn(amount: Usd) -> Self {
        Self::text("ok").costing(amount)
    }

    /// A text of `events` deltas of `bytes` bytes each, with four bytes a token of output.
    pub fn filler(events: u64, bytes: usize) -> Self {
        let mut answer = Self { content: vec![Block::Filler { events, bytes }], ..Self::default() };
        answer.usage.output = (events * bytes as u64 / 4).max(1);
        answer
    }

    /// An error: status, the API's type of error, and its message.
    pub fn error(status: u16, kind: impl Into<String>, message: impl Into<String>) -> Self {
        Self { status, error: Some(ApiError { kind: kind.into(), message: message.into() }), ..Self::default() }
    }

    /// A body sent as it stands.
    pub fn raw(status: u16, content_type: impl Into<String>, body: impl Into<String>) -> Self {
        Self { status, raw_body: Some(body.into()), ..Self::default() }.header("content-type", content_type)
    }

    /// The connection ends without an answer.
    pub fn dropped(how: Cut) -> Self {
        Self::default().fault(Fault::Drop { how })
    }

    /// Adds text.
    #[must_use]
    pub fn and_text(self, text: impl Into<String>) -> Self {
        self.and(Block::Text { text: text.into(), events: 1 })
    }

    /// Adds a tool call.
    #[must_use]
    pub fn and_tool(self, name: impl Into<String>, input: Value) -> Self {
        self.and(Block::ToolUse { name: name.into(), input, id: None, hold_ms: 0, events: 1 })
    }

    /// Adds a block.
    #[must_use]
    pub fn and(mut self, block: Block) -> Self {
        self.content.push(block);
        self
    }

    /// Begins with hidden thinking: `hold` of silence, and `tokens` more of output.
    #[must_use]
    pub fn after_hidden_thinking(mut self, hold: Duration, tokens: u64) -> Self {
        self.content.insert(0, Block::Thinking { text: String::new(), hold_ms: millis(hold) });
        self.usage.output += tokens;
        self
    }

    /// Claims this usage.
    #[must_use]
    pub fn usage(mut self, usage: Usage) -> Self {
        self.usage = usage;
        self
    }

    /// Adds a field to the last usage block.
    #[must_use]
    pub fn usage_field(mut self, name: impl Into<String>, value: Value) -> Self {
        self.usage_extra.insert(name.into(), value);
        self
    }

    /// Claims usage that costs `amount` at the list price of claude-opus-5-5 ([`usage_costing`]).
    #[must_use]
    pub fn costing(self, amount: Usd) -> Self {
        self.usage(usage_costing(amount))
    }

    /// Tells its usage in these places.
    #[must_use]
    pub fn report(mut self, report: UsageReport) -> Self {
        self.report = report;
        self
    }

    /// Claims to come from `model`.
    #[must_use]
    pub fn model(mut self, model: impl Into<String>) -> Self {
        self.model = Some(model.into());
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// Waits before the response's head.
    #[must_use]
    pub fn first_byte_after(mut self, wait: Duration) -> Self {
        self.pace.first_byte_ms = millis(wait);
        self
    }

    /// Waits between the head and the first event.
    #[must_use]
    pub fn first_event_after(mut self, wait: Duration) -> Self {
        self.pace.first_event_ms = millis(wait);
        self
    }

    /// Waits after each event.
    #[must_use]
    pub fn event_every(mut self, wait: Duration) -> Self {
        self.pace.event_ms = millis(wait);
        self
    }

    /// Sends pings in silences.
    #[must_use]
    pub fn ping_every(mut self, wait: Duration) -> Self {
        self.pace.ping_ms = millis(wait);
        self
    }

    /// Writes the body in pieces of these sizes, in turn.
    #[must_use]
    pub fn in_pieces(mut self, bytes: impl Into<Vec<usize>>) -> Self {
        self.pieces = bytes.into();
        self
    }

    /// Ends its lines like this.
    #[must_use]
    pub fn line_end(mut self, line_end: LineEnd) -> Self {
        self.line_end = line_end;
        self
    }

    /// Goes wrong like this.
    #[must_use]
    pub fn fault(mut self, fault: Fault) -> Self {
        self.faults.push(fault);
        self
    }

    /// Ends after `events` events.
    #[must_use]
    pub fn cut_after(self, events: u64, how: Cut) -> Self {
        self.fault(Fault::Cut { at: Place::Events(events), how })
    }

    /// Falls silent for good after `events` events.
    #[must_use]
    pub fn stalled_after(self, events: u64) -> Self {
        self.fault(Fault::Stall { at: Place::Events(events), ms: None })
    }

    /// What it stops for.
    pub(super) fn reason_to_stop(&self) -> &str {
        let calls = || self.content.iter().any(|block| matches!(block, Block::ToolUse { .. }));
        self.stop_reason.as_deref().unwrap_or_else(|| if calls() { "tool_use" } else { "end_turn" })
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
