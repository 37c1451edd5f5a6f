//! The messages of a request and their blocks.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer as _, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Call, Kind, MAX_CALLS, TOKENS_PER_IMAGE, Taking, cut, memory};

/// A page of a PDF has this much base64 at least, as a rule.
const BASE64_BYTES_PER_PAGE: u64 = 40_000;
/// What a page of a document fills: its text and its image.
const TOKENS_PER_PAGE: u64 = 2_000;

/// One message.
#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    role: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
}

/// The fields of a block that matter; whatever cannot be read is absent.
#[expect(clippy::struct_field_names, reason = "named as in the API")]
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Content<'a> {
    #[serde(rename = "type", borrow)]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) text: Option<&'a RawValue>,
    #[serde(borrow)]
    thinking: Option<&'a RawValue>,
    #[serde(borrow)]
    signature: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<&'a str>,
    #[serde(borrow)]
    tool_use_id: Option<&'a str>,
    #[serde(borrow)]
    name: Option<&'a str>,
    #[serde(borrow)]
    tool_name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    source: Option<&'a RawValue>,
}

impl<'a> Content<'a> {
    pub(super) fn of(raw: &'a RawValue) -> Self {
        serde_json::from_str(raw.get()).unwrap_or_default()
    }
}

/// A tool's definition.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Definition<'a> {
    #[serde(borrow)]
    pub(super) name: Option<Cow<'a, str>>,
    #[serde(rename = "defer_loading")]
    pub(super) deferred: bool,
}

impl<'a> Definition<'a> {
    pub(super) fn of(raw: &'a RawValue) -> Self {
        serde_json::from_str(raw.get()).unwrap_or_default()
    }
}

/// The input of a call, as far as it names a file.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Input<'a> {
    #[serde(borrow)]
    file_path: Option<Cow<'a, str>>,
    #[serde(borrow)]
    notebook_path: Option<Cow<'a, str>>,
    #[serde(borrow)]
    path: Option<Cow<'a, str>>,
}

/// Where an image or a document is.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Source<'a> {
    #[serde(rename = "type", borrow)]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

impl<'a> Taking<'a> {
    pub(super) fn messages(&mut self, messages: &'a RawValue) -> Result<(), serde_json::Error> {
        each(messages, |raw: &'a RawValue| {
            let Ok(message) = serde_json::from_str::<Message<'a>>(raw.get()) else {
                self.add(Kind::User, "", None, weight(raw));
                return;
            };
            let role = match message.role.as_deref() {
                Some("assistant") => Kind::Assistant,
                Some("system") => Kind::System,
                _ => Kind::User,
            };
            let Some(content) = message.content else { return };
            if !content.get().starts_with('[') {
                self.text(role, content);
            } else if each(content, |block: &'a RawValue| self.block(role, block)).is_err() {
                self.other(role, content);
            }
        })
    }

    fn block(&mut self, role: Kind, raw: &'a RawValue) {
        let block = Content::of(raw);
        match block.kind.as_deref() {
            Some("text") if block.text.is_some() => block.text.into_iter().for_each(|text| self.text(role, text)),
            Some("thinking" | "redacted_thinking") => {
                let bytes = block.thinking.map_or(0, weight) + block.signature.map_or(0, weight);
                self.add(Kind::Assistant, "thinking", None, if bytes == 0 { weight(raw) } else { bytes });
            }
            Some("tool_use" | "server_tool_use" | "mcp_tool_use") => self.call(raw, &block),
            Some("tool_result") => self.result(raw, &block),
            Some("image" | "document") => self.picture(role, None, raw, &block),
            _ => self.other(role, raw),
        }
    }

    fn call(&mut self, raw: &'a RawValue, block: &Content<'a>) {
        let tool = block.name.unwrap_or_default();
        let input = block.input.and_then(|input| serde_json::from_str::<Input<'_>>(input.get()).ok()).unwrap_or_default();
        let path = input.file_path.or(input.notebook_path).or(input.path).map(|path| cut(&path));
        self.add(Kind::ToolCall, tool, path.as_deref(), block.input.map_or_else(|| weight(raw), weight));
        if self.called.len() < super::MAX_PARTS || self.called.contains_key(tool) {
            *self.called.entry(tool.to_owned()).or_default() += 1;
        }
        if let Some(id) = block.id
            && self.calls.len() < MAX_CALLS
        {
            self.calls.insert(id, Call { tool, path });
        }
    }

    fn result(&mut self, raw: &'a RawValue, block: &Content<'a>) {
        let call = block.tool_use_id.and_then(|id| self.calls.get(id)).cloned().unwrap_or(Call { tool: "(unknown tool)", path: None });
        let path = call.path.as_deref();
        let Some(content) = block.content else {
            self.add(Kind::ToolResult, call.tool, path, 0);
            return;
        };
        if !content.get().starts_with('[') {
            self.add(Kind::ToolResult, call.tool, path, weight(content));
            return;
        }
        let mut bytes = 0;
        let read = each(content, |part: &'a RawValue| {
            let inner = Content::of(part);
            match (inner.kind.as_deref(), inner.text) {
                (Some("text"), Some(text)) => bytes += weight(text),
                (Some("image" | "document"), _) => self.picture(Kind::ToolResult, path, part, &inner),
                (Some("tool_reference"), _) => {
                    bytes += weight(part);
                    if let Some(name) = inner.tool_name.filter(|_| self.loaded.len() < super::MAX_PARTS) {
                        self.loaded.insert(name.into_owned());
                    }
                }
                _ => bytes += weight(part),
            }
        });
        self.add(Kind::ToolResult, call.tool, path, if read.is_ok() { bytes } else { weight(raw) });
    }

    /// An image or a document. `role` is who brought it.
    fn picture(&mut self, role: Kind, path: Option<&str>, raw: &'a RawValue, block: &Content<'a>) {
        let source: Source<'_> = block.source.and_then(|source| serde_json::from_str(source.get()).ok()).unwrap_or_default();
        let is_document = block.kind.as_deref() == Some("document");
        match (source.kind.as_deref(), source.data) {
            (Some("base64"), Some(data)) if is_document => {
                self.image(path, (data.get().len() as u64 / BASE64_BYTES_PER_PAGE).max(1) * TOKENS_PER_PAGE);
            }
            (Some("base64"), Some(data)) => self.image(path, png_tokens(data.get()).unwrap_or(TOKENS_PER_IMAGE)),
            // A document of plain text.
            (Some("text"), Some(data)) if is_document => {
                self.add(if role == Kind::ToolResult { Kind::User } else { role }, "documents", path, weight(data));
            }
            // Elsewhere: its size is not seen here.
            (Some("url" | "file"), _) => self.image(path, if is_document { TOKENS_PER_PAGE } else { TOKENS_PER_IMAGE }),
            _ => self.other(role, raw),
        }
    }

    /// A text of a message: mostly what was said, but Claude Code puts much of its own beside it.
    fn text(&mut self, role: Kind, text: &'a RawValue) {
        match role {
            Kind::Assistant => {
                self.add(Kind::Assistant, "text", None, weight(text));
            }
            _ => memory::take(self, role, text),
        }
    }

    /// What is of no kind we know.
    fn other(&mut self, role: Kind, raw: &'a RawValue) {
        let role = if role == Kind::ToolResult { Kind::User } else { role };
        self.add(role, "other", None, weight(raw));
    }
}

/// Bytes of text: a JSON text without its quotes and the backslashes of its escapes; anything else as it stands.
pub(super) fn weight(raw: &RawValue) -> u64 {
    weight_of(raw.get().as_bytes())
}

/// The same for raw JSON.
pub(super) fn weight_of(raw: &[u8]) -> u64 {
    let inner = match raw {
        [b'"', inner @ .., b'"'] => inner,
        raw => raw,
    };
    (inner.len() - memchr::memchr_iter(b'\\', inner).count()) as u64
}

/// The server of `mcp__server__tool`.
pub(super) fn mcp_server(tool: &str) -> Option<&str> {
    let rest = tool.strip_prefix("mcp__")?;
    Some(rest.split_once("__").map_or(rest, |(server, _)| server))
}

/// What a PNG of this base64 fills: its pixels / 750, at most [`TOKENS_PER_IMAGE`] (the API makes larger ones smaller).
fn png_tokens(json_text: &str) -> Option<u64> {
    // Signature, length and `IHDR` of the first chunk, then width and height: 24 bytes.
    const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
    let head = json_text.get(1..33)?;
    let bytes = decode_base64(head.as_bytes())?;
    let size = bytes.strip_prefix(SIGNATURE)?.get(8..16)?;
    let number = |bytes: &[u8]| bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    let pixels = number(&size[..4]).saturating_mul(number(&size[4..]));
    Some((pixels / 750).clamp(1, TOKENS_PER_IMAGE))
}

fn decode_base64(text: &[u8]) -> Option<Vec<u8>> {
    let value = |byte: u8| -> Option<u32> {
        Some(u32::from(match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        }))
    };
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for four in text.chunks_exact(4) {
        let bits = four.iter().try_fold(0_u32, |bits, byte| Some(bits << 6 | value(*byte)?))?;
        bytes.extend_from_slice(&bits.to_be_bytes()[1..]);
    }
    Some(bytes)
}

/// Calls `take` with each item of a JSON list, one after the other: a list of millions is never held as a whole.
pub(super) fn each<'a, T: Deserialize<'a>>(list: &'a RawValue, take: impl FnMut(T)) -> Result<(), serde_json::Error> {
    struct Each<T, F>(F, PhantomData<T>);

    impl<'de, T: Deserialize<'de>, F: FnMut(T)> Visitor<'de> for Each<T, F> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
            while let Some(item) = items.next_element()? {
                (self.0)(item);
            }
            Ok(())
        }
    }

    serde_json::Deserializer::from_str(list.get()).deserialize_seq(Each(take, PhantomData))
}
