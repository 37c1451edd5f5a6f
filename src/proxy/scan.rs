//! What a request asks for, from one pass over its body that parses nothing.
//!
//! The body is walked with a depth counter; strings are skipped many bytes at a time, so a megabyte of conversation costs little. Only
//! the keys of the outermost object decide: the same words inside a message, a tool's schema or a tool's input do not count.
//! What two parsers could read differently (a key that stands twice, text after the object) is an error, never a guess.

mod digest;
mod parts;
mod quotes;
mod text;

use std::borrow::Cow;

use memchr::memchr;

use self::digest::Digest;
#[cfg(test)]
use self::digest::wide_bytes;
use self::parts::{Found, Kind, Media, Object, Source};
use self::quotes::Quotes;
use self::text::{is_space, skip_space, unescape};
use crate::meter::{Content, Outline, Part, Shape};
use crate::model::Speed;

/// `max_tokens` where a request names none: the most that any model gives (facts/PRICES.md).
const MAX_TOKENS_OF_ANY_MODEL: u64 = 128_000;
/// Objects and lists in one another: more than any parser of JSON takes without being told.
const MAX_DEPTH: usize = 512;
/// A cache mark is `{"type":"ephemeral","ttl":"1h"}`; what is longer is content like any other.
const MAX_MARK: usize = 200;
/// A page of a PDF: this much base64 at least, as a rule, and as many tokens as an image and its text.
const PDF_BASE64_BYTES_PER_PAGE: u64 = 40_000;

/// What the request for a compaction's summary says (measured on 2.1.197 and 2.1.330).
const SUMMARY_REQUEST: &[u8] = b"CRITICAL: Respond with TEXT ONLY. Do NOT call any tools.";
/// What a conversation begins with after its compaction.
const SUMMARY: &[u8] = b"This session is being continued from a previous conversation";

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scanned<'a> {
    /// `model`.
    pub(super) model: Cow<'a, str>,
    /// `max_tokens`.
    pub(super) max_tokens: u64,
    /// `stream`.
    pub(super) stream: bool,
    /// It has `tools`, and some in it.
    pub(super) tools: bool,
    /// A text in it begins with the words that ask for the summary of a compaction.
    pub(super) asks_for_summary: bool,
    /// What follows the words that a summary begins with, in the first text that does.
    pub(super) summary: Option<&'a [u8]>,
    /// Size and kind of its content.
    pub(super) shape: Shape,
}

/// Why a body cannot be metered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum ScanError {
    #[error("the body is not one JSON object")]
    NotAnObject,
    #[error("the body ends within a string or object")]
    Unfinished,
    #[error("the body names `{0}` twice")]
    Twice(&'static str),
    #[error("the body's `{0}` cannot be read")]
    Unreadable(&'static str),
    #[error("the body is nested too deep")]
    TooDeep,
    #[error("the body names no model")]
    NoModel,
}

/// Reads what `body` asks for. The model of the path, where it names one, goes before the body's.
pub(super) fn scan<'a>(body: &'a [u8], in_path: Option<&'a str>) -> Result<Scanned<'a>, ScanError> {
    let mut walk = Walk {
        body,
        quotes: Quotes::default(),
        at: 0,
        space: 0,
        outer: Vec::new(),
        found: Found::default(),
        object: Object::default(),
        next: Kind::Other,
        base: Digest::default(),
        base_from: None,
        message: None,
        mark: None,
        messages: Vec::new(),
    };
    walk.skip_to(skip_space(body, 0));
    if body.get(walk.at) != Some(&b'{') {
        return Err(ScanError::NotAnObject);
    }
    walk.run()?;
    let mut content = walk.content();
    let in_messages = walk.messages.iter().map(|message| message.part.tokens).sum::<u64>();
    let (base, base_wide) = walk.base.finish(body);
    content.wide_bytes = walk.messages.iter().map(|message| message.wide).sum::<u64>() + base_wide;
    let Found { model, max_tokens, stream, tools, speed, caches, caches_1h, marks_end, base_marked, asks_for_summary, summary, .. } =
        walk.found;
    let mut messages: Vec<Part> = walk.messages.into_iter().map(|message| message.part).collect();
    if let Some(last) = messages.last_mut() {
        last.marked |= marks_end;
    }
    let base = Part { digest: base, tokens: content.tokens().saturating_sub(in_messages), marked: base_marked };
    Ok(Scanned {
        model: in_path.map(Cow::Borrowed).or(model).ok_or(ScanError::NoModel)?,
        max_tokens: max_tokens.unwrap_or(MAX_TOKENS_OF_ANY_MODEL),
        stream: stream.unwrap_or(false),
        tools,
        asks_for_summary,
        summary,
        shape: Shape {
            content,
            outline: Outline { base, messages },
            caches,
            caches_1h,
            speed: if speed.as_deref() == Some("fast") { Speed::Fast } else { Speed::Standard },
        },
    })
}

struct Walk<'a> {
    body: &'a [u8],
    quotes: Quotes,
    at: usize,
    /// Blank bytes between values.
    space: u64,
    /// The objects and lists around the innermost.
    outer: Vec<Object>,
    found: Found<'a>,
    object: Object,
    /// What the key before it makes of the object or list that begins next.
    next: Kind,
    /// Everything but the messages.
    base: Digest,
    /// Where the member of the outermost object begins that belongs to the base and was not digested yet.
    base_from: Option<usize>,
    /// The message that the walk is in.
    message: Option<Message>,
    /// The cache mark that the walk is in: where its key begins, and how deep.
    mark: Option<(usize, usize)>,
    messages: Vec<Counted>,
}

/// A message that was begun.
struct Message {
    digest: Digest,
    /// What was not digested yet begins here.
    from: usize,
    /// What was counted before it began.
    before: Content,
    marked: bool,
}

/// A message that was read.
struct Counted {
    part: Part,
    wide: u64,
}

impl<'a> Walk<'a> {
    fn run(&mut self) -> Result<(), ScanError> {
        while let Some(byte) = self.body.get(self.at) {
            match byte {
                b'"' => self.string()?,
                b'{' | b'[' => {
                    if self.outer.len() >= MAX_DEPTH {
                        return Err(ScanError::TooDeep);
                    }
                    self.begin(*byte == b'{');
                    self.at += 1;
                }
                b'}' | b']' => {
                    if self.outer.len() == 1 {
                        self.end_member(self.at);
                    }
                    self.end_object();
                    self.at += 1;
                    self.after_object();
                    if self.outer.is_empty() {
                        // Another object after the first: whoever reads the last one would read a request that we did not see.
                        self.skip_to(skip_space(self.body, self.at));
                        return if self.at == self.body.len() { Ok(()) } else { Err(ScanError::NotAnObject) };
                    }
                }
                // It would escape the quote behind it, or not, as one likes to read it.
                b'\\' => return Err(ScanError::NotAnObject),
                byte => {
                    self.space += u64::from(is_space(*byte));
                    self.at += 1;
                }
            }
        }
        Err(ScanError::Unfinished)
    }

    fn string(&mut self) -> Result<(), ScanError> {
        let start = self.at;
        let text = self.take_string()?;
        // Most strings are neither short nor keys; a key that matters is one of few lengths, unless it is written with escapes.
        if !(self.outer.len() == 1 || matches!(text.len(), 3 | 4 | 6 | 7 | 10 | 13)) {
            return Ok(());
        }
        let next = skip_space(self.body, self.at);
        if self.body.get(next) != Some(&b':') {
            return Ok(());
        }
        self.skip_to(next);
        self.at += 1;
        self.skip_to(skip_space(self.body, self.at));
        if self.outer.len() == 1 { self.top_level(start, text) } else { self.nested(start, text) }
    }

    fn top_level(&mut self, start: usize, raw_key: &[u8]) -> Result<(), ScanError> {
        let unescaped;
        let key = if memchr(b'\\', raw_key).is_some() {
            unescaped = unescape(raw_key).ok_or(ScanError::NotAnObject)?;
            unescaped.as_bytes()
        } else {
            raw_key
        };
        self.end_member(start);
        // What the cache does not depend on; the messages are parts of their own.
        if !matches!(key, b"model" | b"messages" | b"max_tokens" | b"stream" | b"metadata" | b"cache_control") {
            self.base_from = Some(start);
        }
        match key {
            b"messages" => {
                self.next = Kind::Messages;
                // Which of two is read is up to the server.
                if std::mem::replace(&mut self.found.has_messages, true) { Err(ScanError::Twice("messages")) } else { Ok(()) }
            }
            b"system" => {
                self.next = Kind::Content;
                Ok(())
            }
            b"model" => {
                let value = self.string_value("model")?;
                put(&mut self.found.model, Some(value), "model")
            }
            b"speed" => {
                let value = if self.literal(b"null") { Cow::Borrowed("") } else { self.string_value("speed")? };
                put(&mut self.found.speed, Some(value), "speed")
            }
            b"stream" => {
                let value = self.literal(b"true");
                if !value && !self.literal(b"false") && !self.literal(b"null") {
                    return Err(ScanError::Unreadable("stream"));
                }
                put(&mut self.found.stream, Some(value), "stream")
            }
            b"max_tokens" => {
                let value = self.number().ok_or(ScanError::Unreadable("max_tokens"))?;
                put(&mut self.found.max_tokens, Some(value), "max_tokens")
            }
            b"cache_control" => {
                let marks = self.body.get(self.at) == Some(&b'{');
                self.found.caches |= marks;
                self.found.marks_end |= marks;
                Ok(())
            }
            b"tools" => {
                self.next = Kind::Content;
                let first = self.body.get(self.at).filter(|byte| **byte == b'[').and(self.body.get(skip_space(self.body, self.at + 1)));
                self.found.tools |= first == Some(&b'{');
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn nested(&mut self, start: usize, key: &[u8]) -> Result<(), ScanError> {
        let kind = self.object.kind;
        match key {
            b"cache_control" if kind == Kind::Block && self.body.get(self.at) == Some(&b'{') => {
                self.found.caches = true;
                if let Some(message) = &mut self.message {
                    message.marked = true;
                } else {
                    self.found.base_marked = true;
                }
                self.mark.get_or_insert((start, self.outer.len()));
            }
            b"content" if matches!(kind, Kind::Message | Kind::Block | Kind::Source) => self.next = Kind::Content,
            b"source" if kind == Kind::Block => self.next = Kind::Source,
            b"ttl" | b"type" | b"media_type" | b"data" if self.body.get(self.at) == Some(&b'"') => {
                let value = self.take_string()?;
                match (kind, key, value) {
                    (_, b"ttl", b"1h") => self.found.caches_1h = true,
                    (Kind::Block, b"type", _) => {
                        self.object.media = match value {
                            b"image" => Some(Media::Image),
                            b"document" => Some(Media::Document),
                            _ => None,
                        }
                    }
                    (Kind::Source, b"type", _) => {
                        self.object.source = match value {
                            b"url" | b"file" => Some(Source::Remote),
                            b"base64" => Some(Source::Base64),
                            _ => None,
                        }
                    }
                    (Kind::Source, b"media_type", _) => self.object.is_pdf = value == b"application/pdf",
                    (Kind::Source, b"data", _) => self.object.data_bytes = value.len() as u64,
                    _ => {}
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn begin(&mut self, is_object: bool) {
        let next = std::mem::take(&mut self.next);
        let kind = match (self.object.kind, next, is_object) {
            (Kind::Other, _, _) if self.outer.is_empty() => Kind::Root,
            (Kind::Root, Kind::Messages | Kind::Content, false) | (_, Kind::Content, false) | (_, Kind::Source, true) => next,
            // A fetched page's result is an object in the place of a list.
            (Kind::Block, Kind::Content, true) | (Kind::Content, _, true) => Kind::Block,
            (Kind::Messages, _, true) => Kind::Message,
            _ => Kind::Other,
        };
        if kind == Kind::Message {
            self.message = Some(Message { digest: Digest::default(), from: self.at, before: self.content(), marked: false });
        }
        self.outer.push(std::mem::replace(&mut self.object, Object { kind, ..Object::default() }));
    }

    fn end_object(&mut self) {
        let outer = self.outer.pop().unwrap_or_default();
        let ended = std::mem::replace(&mut self.object, outer);
        match ended.kind {
            // What its block is may be said after it.
            Kind::Source => self.object = Object { kind: self.object.kind, media: self.object.media, ..ended },
            Kind::Block => {
                self.found.images += u64::from(ended.media.is_some());
                if ended.source == Some(Source::Base64) && ended.media.is_some() {
                    self.found.base64_bytes += ended.data_bytes;
                    if ended.is_pdf {
                        self.found.images += ended.data_bytes / PDF_BASE64_BYTES_PER_PAGE;
                    }
                }
                self.found.remote_documents += u64::from(ended.source == Some(Source::Remote) && ended.media == Some(Media::Document));
            }
            _ => {}
        }
    }

    /// Behind the end of an object or a list: of a cache mark, or of a message.
    fn after_object(&mut self) {
        if let Some((start, depth)) = self.mark
            && self.outer.len() <= depth
        {
            self.mark = None;
            if self.at - start <= MAX_MARK {
                self.leave_out(start);
            }
        }
        if self.outer.len() == 2
            && let Some(Message { mut digest, from, before, marked }) = self.message.take()
        {
            digest.add(from..self.at);
            let (digest, wide) = digest.finish(self.body);
            let content = Content { wide_bytes: wide, ..self.content().since(&before) };
            self.messages.push(Counted { part: Part { digest, tokens: content.tokens(), marked }, wide });
        }
    }

    /// A member of the outermost object ends before `end`.
    fn end_member(&mut self, end: usize) {
        if let Some(from) = self.base_from.take() {
            self.base.add(from..end);
        }
    }

    /// What lies between `start` and here does not belong to the digest, nor does the comma before it.
    fn leave_out(&mut self, start: usize) {
        let before = self.body[..start].trim_ascii_end();
        let (kept, after_comma) = before.strip_suffix(b",").map_or((before.len(), false), |kept| (kept.len(), true));
        let mut resume = self.at;
        if !after_comma {
            // It was the first member: the comma behind it goes with it.
            let next = skip_space(self.body, self.at);
            resume = if self.body.get(next) == Some(&b',') { next + 1 } else { self.at };
        }
        let (digest, from) = match (&mut self.message, &mut self.base_from) {
            (Some(message), _) => (&mut message.digest, &mut message.from),
            (None, Some(from)) => (&mut self.base, from),
            (None, None) => return,
        };
        digest.add(*from..kept.max(*from));
        *from = resume;
    }

    /// What was read so far, but for the wide characters.
    fn content(&self) -> Content {
        let text_bytes = (self.at as u64).saturating_sub(self.found.base64_bytes).saturating_sub(self.space);
        Content { text_bytes, wide_bytes: 0, images: self.found.images, remote_documents: self.found.remote_documents }
    }

    /// Goes to `at`; what is between is blank.
    fn skip_to(&mut self, at: usize) {
        self.space += (at - self.at) as u64;
        self.at = at;
    }

    /// The raw text of the string that begins here; stands behind its closing quote afterwards.
    fn take_string(&mut self) -> Result<&'a [u8], ScanError> {
        let start = self.at + 1;
        let end = self.quotes.next_from(self.body, start).ok_or(ScanError::Unfinished)?;
        self.at = end + 1;
        let text = &self.body[start..end];
        if let Some(b'C' | b'T') = text.first()
            && self.body[..self.at - text.len() - 2].last() == Some(&b':')
        {
            self.look_for_summary(text);
        }
        Ok(text)
    }

    /// Of a value, whether it is the words that a compaction goes with.
    fn look_for_summary(&mut self, value: &'a [u8]) {
        self.found.asks_for_summary |= value.starts_with(SUMMARY_REQUEST);
        if self.found.summary.is_none() {
            self.found.summary = value.strip_prefix(SUMMARY);
        }
    }

    fn string_value(&mut self, name: &'static str) -> Result<Cow<'a, str>, ScanError> {
        if self.body.get(self.at) != Some(&b'"') {
            return Err(ScanError::Unreadable(name));
        }
        let raw = self.take_string()?;
        if memchr(b'\\', raw).is_some() {
            return unescape(raw).map(Cow::Owned).ok_or(ScanError::Unreadable(name));
        }
        std::str::from_utf8(raw).map(Cow::Borrowed).map_err(|_| ScanError::Unreadable(name))
    }

    fn literal(&mut self, word: &[u8]) -> bool {
        let is = self.body[self.at..].starts_with(word);
        if is {
            self.at += word.len();
        }
        is
    }

    fn number(&mut self) -> Option<u64> {
        let rest = &self.body[self.at..];
        let length = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        // A fraction or an exponent is no count of tokens: the API refuses it, and so do we rather than guess.
        if length == 0 || matches!(rest.get(length), Some(b'.' | b'e' | b'E')) {
            return None;
        }
        self.at += length;
        std::str::from_utf8(&rest[..length]).ok()?.parse().ok()
    }
}

fn put<T>(slot: &mut Option<T>, value: Option<T>, name: &'static str) -> Result<(), ScanError> {
    if slot.is_some() {
        return Err(ScanError::Twice(name));
    }
    *slot = value;
    Ok(())
}

#[cfg(test)]
mod tests;
