//! Digests of parts of a body. They are keyed anew in every process, so nobody can look for two texts with the same one.

use std::borrow::Cow;
use std::hash::BuildHasher;
use std::ops::Range;
use std::sync::LazyLock;

use foldhash::quality::RandomState;

static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::default);

/// The parts of a body that are digested as one text, as if nothing stood between them.
#[derive(Default)]
pub(super) struct Digest {
    ranges: Vec<Range<usize>>,
}

impl Digest {
    pub(super) fn add(&mut self, range: Range<usize>) {
        match self.ranges.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.ranges.push(range),
        }
    }

    /// The digest, and how many bytes of it belong to characters outside ASCII.
    pub(super) fn finish(self, body: &[u8]) -> (u64, u64) {
        let parts = || self.ranges.iter().filter_map(|range| body.get(range.clone()));
        // Nearly always one part: only those with cache marks have several.
        let text = match self.ranges.as_slice() {
            [_] => parts().next().map_or(Cow::default(), Cow::Borrowed),
            _ => Cow::Owned(parts().collect::<Vec<_>>().concat()),
        };
        (KEY.hash_one(&*text), wide_bytes(&text))
    }
}

/// How many bytes belong to characters outside ASCII.
pub(super) fn wide_bytes(bytes: &[u8]) -> u64 {
    // Most parts have none, which is seen sooner than counted.
    if bytes.is_ascii() {
        return 0;
    }
    // In chunks whose count fits a byte, so that the compiler can count many at once.
    let count = |chunk: &[u8]| u64::from(chunk.iter().map(|byte| byte >> 7).sum::<u8>());
    bytes.chunks(255).map(count).sum()
}
