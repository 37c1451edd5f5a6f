//! What a prompt may cost before it is sent: a simple estimator, on the dear side.

use jiff::{SignedDuration, Timestamp};

use super::outline::Outline;
use crate::model::{Speed, Usage};

/// Bytes of a JSON request body per prompt token. Claude Code's first request (49 kB) is about 13,000 tokens; 3.2 leaves a margin.
const BODY_BYTES_PER_TOKEN_X10: u64 = 32;
/// The same for bytes of characters outside ASCII: of three bytes and about a token each (Chinese, Japanese, emoji).
const WIDE_BYTES_PER_TOKEN_X10: u64 = 24;
/// Tokens of one image at most (about 1.15 megapixels).
const TOKENS_PER_IMAGE: u64 = 1_600;
/// Tokens of a document that the API fetches itself, so that its length is not seen here: 100 pages of 3,000 tokens.
const TOKENS_PER_REMOTE_DOCUMENT: u64 = 300_000;
/// How many times as many tokens as estimated new text is counted as at most, where the last prompt was that dense.
const MAX_DENSITY: u64 = 2;
/// How many times its estimate a text is at most: less than a byte a token, which no tokenizer makes.
const MOST_PER_ESTIMATED: u64 = 4;
/// A shorter prompt says nothing about density: what the API adds of its own is too much of it.
const MIN_DENSITY_TOKENS: u64 = 5_000;
/// How long a five-minute cache entry is counted on: less than it lives, as the answer itself takes time.
const CACHE_TTL_5M: SignedDuration = SignedDuration::from_secs(270);
const CACHE_TTL_1H: SignedDuration = SignedDuration::from_secs(3_480);

/// How much content there is, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Content {
    /// Bytes of text: all but images, and without the spaces between values, which cost nothing.
    pub text_bytes: u64,
    /// Bytes among them that belong to characters outside ASCII.
    pub wide_bytes: u64,
    /// Images and documents, a long document once for each page.
    pub images: u64,
    /// Documents of which there is only the address or the name.
    pub remote_documents: u64,
}

/// What is known of a request before it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Its size.
    pub content: Content,
    /// What it is made of.
    pub outline: Outline,
    /// It marks parts for the cache, so new text is priced as a cache write.
    pub caches: bool,
    /// The cache marks ask for an hour.
    pub caches_1h: bool,
    /// `speed: "fast"` is asked for.
    pub speed: Speed,
}

impl Content {
    /// What it is estimated to be in tokens.
    pub fn tokens(&self) -> u64 {
        let wide = self.wide_bytes.min(self.text_bytes);
        (self.text_bytes - wide).saturating_mul(10) / BODY_BYTES_PER_TOKEN_X10
            + wide.saturating_mul(10) / WIDE_BYTES_PER_TOKEN_X10
            + self.images.saturating_mul(TOKENS_PER_IMAGE)
            + self.remote_documents.saturating_mul(TOKENS_PER_REMOTE_DOCUMENT)
    }

    /// What came to `earlier` since.
    #[must_use]
    pub const fn since(&self, earlier: &Self) -> Self {
        Self {
            text_bytes: self.text_bytes.saturating_sub(earlier.text_bytes),
            wide_bytes: self.wide_bytes.saturating_sub(earlier.wide_bytes),
            images: self.images.saturating_sub(earlier.images),
            remote_documents: self.remote_documents.saturating_sub(earlier.remote_documents),
        }
    }
}

/// The last answered prompt of a conversation: the best forecast of the next.
#[derive(Debug, Clone)]
pub(super) struct LastPrompt {
    pub(super) usage: Usage,
    pub(super) shape: Shape,
    pub(super) at: Timestamp,
}

/// The prompt's forecast usage.
///
/// What it has in common with the last answered prompt of its conversation, byte for byte from the beginning, counts as what it truly was;
/// the rest by its bytes, as new. Of what it has in common, that is counted on to be read from the cache which the API said it had read
/// or written up to the last cache mark there, and only if this request has a mark at that place or after it, and the entry is still
/// warm. So neither another text of the same length, nor one with its marks moved, looks like a cache read; a conversation that goes on
/// as conversations do is forecast as it will be.
pub(super) fn forecast_prompt(shape: &Shape, last: Option<&LastPrompt>, now: Timestamp) -> Usage {
    let total = shape.content.tokens();
    let Some(last) = last else { return fresh(shape, total) };
    let (outline, earlier) = (&shape.outline, &last.shape.outline);
    let common = earlier.common(outline);
    let all = earlier.messages.len() + 1;
    // What the API counted for the parts before `count` of the last prompt, of which it told only the sum.
    let truth = |count: usize| share(last.usage.context(), earlier.before(count), earlier.tokens());
    let marked = earlier.marked_before(all);
    let boundary = earlier.marked_before(common);
    let warm = last.usage.cache_read.saturating_add(last.usage.cache_write_5m).saturating_add(last.usage.cache_write_1h);
    // New text is as dense as the last prompt was, if that was denser than the estimate.
    let estimated = earlier.tokens();
    let dense = |tokens: u64| {
        let truth = if estimated < MIN_DENSITY_TOKENS { estimated } else { last.usage.context() };
        share(tokens, truth.clamp(estimated, estimated.saturating_mul(MAX_DENSITY)), estimated)
    };
    if !shape.caches || boundary == 0 || warm == 0 || !outline.marked_from(boundary) {
        // A part of it may have been the dense one.
        let known = if common == all { truth(common) } else { truth(common).max(earlier.before(common)) };
        return fresh(shape, known.saturating_add(dense(total.saturating_sub(earlier.before(common)))));
    }
    // Where less was cached than stood before the last mark, only that share of it counts.
    let counted = earlier.before(boundary);
    let discounted = share(counted, warm.min(truth(marked)), truth(marked));
    let cached = |kind: u64| if boundary == marked { kind } else { kind.min(counted.max(share(kind, counted, earlier.before(marked)))) };
    let mut usage = fresh(shape, dense(total.saturating_sub(discounted)));
    // What was in the cache a moment ago is read from it again; what has gone cold is written again.
    let age = now.duration_since(last.at);
    let hour = last.usage.cache_write_1h > 0 || last.shape.caches_1h;
    let (held_5m, held_1h) = if hour {
        (cached(last.usage.cache_write_5m), cached(last.usage.cache_write_1h + last.usage.cache_read))
    } else {
        (cached(last.usage.cache_write_5m + last.usage.cache_read), 0)
    };
    if age < CACHE_TTL_5M {
        usage.cache_read += held_5m;
    } else {
        usage.cache_write_5m += held_5m;
    }
    if age < CACHE_TTL_1H {
        usage.cache_read += held_1h;
    } else {
        usage.cache_write_1h += held_1h;
    }
    usage
}

/// The prompt as dear as it can be: nothing of it is read from a cache, and what is new is as dense as no text is. Only what the API has
/// counted before is taken at its count. A document that the API fetches itself may be longer all the same.
pub(super) fn dearest_prompt(shape: &Shape, last: Option<&LastPrompt>) -> Usage {
    let most = |tokens: u64| tokens.saturating_mul(MOST_PER_ESTIMATED);
    let total = shape.content.tokens();
    let Some(last) = last else { return fresh(shape, most(total)) };
    let earlier = &last.shape.outline;
    let common = earlier.common(&shape.outline);
    let estimated = earlier.before(common);
    let counted = if common > earlier.messages.len() { last.usage.context() } else { last.usage.context().min(most(estimated)) };
    fresh(shape, counted.saturating_add(most(total.saturating_sub(estimated))))
}

/// `whole * part / of`; all of it where there is nothing to divide by.
fn share(whole: u64, part: u64, of: u64) -> u64 {
    if of == 0 {
        return whole;
    }
    u64::try_from(u128::from(whole) * u128::from(part) / u128::from(of)).unwrap_or(u64::MAX)
}

fn fresh(shape: &Shape, tokens: u64) -> Usage {
    let mut usage = Usage { speed: shape.speed, ..Usage::default() };
    match (shape.caches, shape.caches_1h) {
        (false, _) => usage.input = tokens,
        (true, false) => usage.cache_write_5m = tokens,
        (true, true) => usage.cache_write_1h = tokens,
    }
    usage
}
