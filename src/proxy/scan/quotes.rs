//! Where strings begin and end: the quotes of a body that are not escaped, found 64 bytes at a time.
//!
//! Code in JSON has an escaped quote or line end every few words. Looking for the next quote from each of them costs more than looking at
//! every byte once.

use wide::u8x64;

const BLOCK: usize = 64;

/// The quotes of one body, in their order. A backslash escapes what follows it, wherever it stands: JSON has it in strings only.
#[derive(Default)]
pub(super) struct Quotes {
    /// Where the block begins that comes next.
    next: usize,
    /// The quotes of the block before it that were not given yet.
    bits: u64,
    /// The block before it ends with a backslash that escapes.
    escapes: bool,
}

impl Quotes {
    /// The first quote at `from` or behind. What lies before it is not given any more.
    pub(super) fn next_from(&mut self, body: &[u8], from: usize) -> Option<usize> {
        loop {
            while self.bits != 0 {
                let at = self.next - BLOCK + self.bits.trailing_zeros() as usize;
                self.bits &= self.bits - 1;
                if at >= from {
                    return Some(at);
                }
            }
            self.read_block(body.get(self.next..).filter(|rest| !rest.is_empty())?);
        }
    }

    fn read_block(&mut self, rest: &[u8]) {
        let mut padded = [0; BLOCK];
        let block = rest.first_chunk().unwrap_or_else(|| {
            padded[..rest.len()].copy_from_slice(rest);
            &padded
        });
        let bytes = u8x64::new(*block);
        let quotes = bytes.simd_eq(u8x64::splat(b'"')).to_bitmask();
        let backslashes = bytes.simd_eq(u8x64::splat(b'\\')).to_bitmask();
        self.bits = quotes & !self.escaped(backslashes);
        self.next += BLOCK;
    }

    /// What these backslashes escape: the byte behind each run of them, if their number is odd. (As simdjson does it: runs are carried
    /// over by an addition, apart for those that begin at an even and at an odd place.)
    const fn escaped(&mut self, backslashes: u64) -> u64 {
        const EVEN: u64 = 0x5555_5555_5555_5555;
        let first = self.escapes as u64;
        if backslashes == 0 {
            self.escapes = false;
            return first;
        }
        let escaping = backslashes & !first;
        let behind = escaping << 1 | first;
        let (ends, carried) = (escaping & !EVEN & !behind).overflowing_add(escaping);
        self.escapes = carried;
        (EVEN ^ (ends << 1)) & behind
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same, byte by byte.
    fn quotes(body: &[u8]) -> Vec<usize> {
        let mut escaped = false;
        let is_quote = |byte: &u8| {
            let quote = *byte == b'"' && !escaped;
            escaped = *byte == b'\\' && !escaped;
            quote
        };
        let found: Vec<bool> = body.iter().map(is_quote).collect();
        found.iter().enumerate().filter(|(_, found)| **found).map(|(at, _)| at).collect()
    }

    proptest! {
        #[test]
        fn every_quote_that_is_not_escaped_is_found(
            parts in prop::collection::vec(prop_oneof![r#"[a-z\\"]{0,9}"#, r"\\{0,150}", "[a-zé]{0,150}", r#"(\\"){0,70}"#], 0..20),
            from in 0_usize..300,
        ) {
            let body = parts.concat().into_bytes();
            let mut all = Quotes::default();
            let found: Vec<usize> = std::iter::from_fn(|| all.next_from(&body, 0)).collect();
            let expected = quotes(&body);
            prop_assert_eq!(Quotes::default().next_from(&body, from), expected.iter().copied().find(|at| *at >= from));
            prop_assert_eq!(found, expected);
        }
    }
}
