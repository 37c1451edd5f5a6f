//! What a prompt is made of, by digest: how much of one prompt another begins with.
//!
//! Only what is the same, byte for byte, as in a prompt that the API has confirmed can be counted on to be read from its cache. Anything
//! else may be as long as the last prompt and still be new.

use std::hash::Hasher;

/// A prompt as a row of parts: what stands before the messages (system, tools and everything else that the cache depends on), then each
/// message. Cache marks are no part of the digests: they move on with every request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outline {
    /// All but the messages.
    pub base: Part,
    /// The messages.
    pub messages: Vec<Part>,
}

/// One part of a prompt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Part {
    /// A keyed digest of its bytes, without cache marks.
    pub digest: u64,
    /// What it is estimated to hold.
    pub tokens: u64,
    /// It holds a cache mark: an entry of the cache ends in it.
    pub marked: bool,
}

impl Outline {
    /// Estimated tokens of all of it.
    pub fn tokens(&self) -> u64 {
        self.before(self.messages.len() + 1)
    }

    /// Estimated tokens of the first `count` parts.
    pub(super) fn before(&self, count: usize) -> u64 {
        self.parts().take(count).map(|part| part.tokens).sum()
    }

    /// How many parts the two begin with in common.
    pub(super) fn common(&self, other: &Self) -> usize {
        self.parts().zip(other.parts()).take_while(|(mine, theirs)| mine.digest == theirs.digest).count()
    }

    /// The number of parts up to the last of the first `count` that is marked; 0 if none is.
    pub(super) fn marked_before(&self, count: usize) -> usize {
        let marked = self.parts().take(count).enumerate().filter(|(_, part)| part.marked).last();
        marked.map_or(0, |(index, _)| index + 1)
    }

    /// Whether a mark stands in or after part `count - 1`.
    pub(super) fn marked_from(&self, count: usize) -> bool {
        self.parts().skip(count.saturating_sub(1)).any(|part| part.marked)
    }

    /// The messages in one digest: two requests with the same ask the same.
    pub(super) fn digest(&self) -> u64 {
        // The digests are keyed already; this only joins them.
        let mut hasher = std::hash::DefaultHasher::new();
        self.messages.iter().for_each(|part| hasher.write_u64(part.digest));
        hasher.finish()
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        std::iter::once(&self.base).chain(&self.messages)
    }
}
