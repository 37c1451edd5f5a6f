//! What the walk over a body keeps in mind.

use std::borrow::Cow;

/// What an object or a list is, by the way to it. The same words on any other way are text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Kind {
    #[default]
    Other,
    Root,
    /// The list of messages.
    Messages,
    Message,
    /// A list of blocks: of a message, of a tool's result, the system's, the tools.
    Content,
    Block,
    /// Where an image or a document is.
    Source,
}

#[expect(clippy::struct_excessive_bools, reason = "each is one thing seen or not seen")]
#[derive(Default)]
pub(super) struct Found<'a> {
    pub(super) model: Option<Cow<'a, str>>,
    pub(super) max_tokens: Option<u64>,
    pub(super) stream: Option<bool>,
    pub(super) tools: bool,
    pub(super) speed: Option<Cow<'a, str>>,
    pub(super) images: u64,
    pub(super) remote_documents: u64,
    pub(super) base64_bytes: u64,
    pub(super) caches: bool,
    pub(super) caches_1h: bool,
    /// `cache_control` of the request itself: the last block is marked.
    pub(super) marks_end: bool,
    pub(super) base_marked: bool,
    pub(super) has_messages: bool,
    pub(super) asks_for_summary: bool,
    pub(super) summary: Option<&'a [u8]>,
}

/// What is known of an object, to tell an image's data from text.
#[derive(Default, Clone, Copy)]
pub(super) struct Object {
    pub(super) kind: Kind,
    /// A block's: what it is, by the last word on it.
    pub(super) media: Option<Media>,
    pub(super) source: Option<Source>,
    pub(super) is_pdf: bool,
    pub(super) data_bytes: u64,
}

/// Blocks that are not text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Media {
    Image,
    Document,
}

/// Where the content of an image or a document is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// In the body.
    Base64,
    /// Where the API fetches it: `{"type":"url"}` or `{"type":"file"}`.
    Remote,
}
