//! Weighs up to 64 bytes at once: a bit for each of them says of what class it is, and shifted bits say what it follows.
//!
//! It gives what [`Weigher::byte`] gives of each in turn, and leaves to that what is rare in most texts: characters outside ASCII with the
//! words soon after them, and words that mix letters and digits more than once.

use wide::i8x64;

use super::{
    BEGIN, BEGIN_CAPITALS, BEGIN_NUMBER, CAPITAL, Class, DIGIT, LINE, LONG_WORD, LONGER_WORD, SIGN, SIGN_AGAIN, SIGN_NEXT, SPACE, WORD,
    Weigher,
};

/// So many bytes at most.
pub(super) const LENGTH: usize = 64;

/// Bits of the bytes that are of a class.
struct Bits {
    /// All bytes that there are.
    all: u64,
    lower: u64,
    upper: u64,
    digit: u64,
    space: u64,
    line: u64,
    sign: u64,
}

impl Bits {
    /// `None` if not all of it is ASCII.
    fn of(text: &[u8]) -> Option<Self> {
        let mut bytes = [0; LENGTH];
        bytes[..text.len()].copy_from_slice(text);
        let bytes = i8x64::new(bytes.map(u8::cast_signed));
        if bytes.to_bitmask() != 0 {
            return None;
        }
        let all = u64::MAX >> (LENGTH - text.len());
        let above = |least: u8| bytes.simd_gt(i8x64::splat((least - 1).cast_signed()));
        let between = |least: u8, most: u8| (above(least) & !above(most + 1)).to_bitmask() & all;
        let (lower, upper, digit) = (between(b'a', b'z'), between(b'A', b'Z'), between(b'0', b'9'));
        let space = bytes.simd_eq(i8x64::splat(b' '.cast_signed())).to_bitmask() & all;
        let line = !above(b' ').to_bitmask() & all;
        Some(Self { all, lower, upper, digit, space, line, sign: all & !(lower | upper | digit | space | line) })
    }

    const fn get(&self, class: Class) -> u64 {
        match class {
            Class::Lower => self.lower,
            Class::Upper => self.upper,
            Class::Digit => self.digit,
            Class::Space => self.space,
            Class::Line => self.line,
            Class::Sign => self.sign,
            Class::Wide => 0,
        }
    }
}

/// What a text weighs that is not empty and not longer than [`LENGTH`], and the weigher after it; `None` where bytes must be weighed one by one.
pub(super) fn weigh(before: Weigher, text: &[u8]) -> Option<(u64, Weigher)> {
    if before.foreign > 0 {
        return None;
    }
    let bits = Bits::of(text)?;
    // The bytes that stand `distance` after one of a class, with those before the text.
    let after = |class: Class, distance: u32| {
        let run = if before.class == class { before.run.clamp(1, 63) } else { 0 };
        bits.get(class) << distance | (!(u64::MAX >> run)) >> (64 - distance)
    };
    let after_lower = after(Class::Lower, 1);
    let after_three = after_lower & after(Class::Lower, 2) & after(Class::Lower, 3);
    let (after_upper, after_digit, after_space) = (after(Class::Upper, 1), after(Class::Digit, 1), after(Class::Space, 1));
    let letter = bits.lower | bits.upper;
    let mixes = (letter & after_digit) | (bits.digit & (after_lower | after_upper)) | (bits.upper & after_lower & !after_three);
    let mixed = mixed(before.mixed, mixes, bits.all & !(letter | bits.digit))?;

    let weight_of = |bits: u64, weight: u64| u64::from(bits.count_ones()) * weight;
    let begins = |bits: u64, (spaced, other): (u64, u64)| weight_of(bits & after_space, spaced) + weight_of(bits & !after_space, other);
    let after_capital = after_upper & !after(Class::Upper, 2);
    let long = bits.lower & after_three & after(Class::Lower, 4) & after(Class::Lower, WORD.0);
    let longer = long & after(Class::Lower, 6) & after(Class::Lower, 7) & after(Class::Lower, WORD.1);
    let mut weight = begins(bits.lower & !after_lower & !after_capital, BEGIN)
        + weight_of(long & !longer, LONG_WORD)
        + weight_of(longer, LONGER_WORD)
        + weight_of(bits.space & after_space, SPACE);
    if bits.upper != 0 {
        weight += begins(bits.upper & !after_upper, BEGIN_CAPITALS) + weight_of(bits.upper & after_upper, CAPITAL);
    }
    if bits.digit != 0 {
        weight += begins(bits.digit & !after_digit, BEGIN_NUMBER) + weight_of(bits.digit & after_digit, DIGIT);
    }
    if bits.line != 0 {
        let after_line = after(Class::Line, 1);
        weight += weight_of(bits.line & !after_line, LINE.0) + weight_of(bits.line & after_line, LINE.1);
    }
    if bits.sign != 0 {
        let next = bits.sign & after(Class::Sign, 1);
        weight += weight_of(bits.sign & !next, SIGN);
        weight += positions(next)
            .map(|at| {
                let last = at.checked_sub(1).map_or(before.last, |at| text[at]);
                if text[at] == last { SIGN_AGAIN } else { SIGN_NEXT }
            })
            .sum::<u64>();
    }

    let last = *text.last()?;
    let class = Class::of(last);
    let ends = (bits.get(class) << (LENGTH - text.len())).leading_ones();
    let goes_on = ends as usize == text.len() && class == before.class;
    let run = if goes_on { before.run.saturating_add(ends) } else { ends };
    Some((weight, Weigher { class, run, last, mixed, foreign: 0 }))
}

/// How often the word at the end mixes, if no word does more than once. Words end at `ends`.
fn mixed(before: u8, mixes: u64, ends: u64) -> Option<u8> {
    if before >= 2 && ends & 1 == 0 {
        return None;
    }
    let (mut mixed, mut seen) = (before, 0);
    for at in positions(mixes) {
        let until = !(u64::MAX << at);
        mixed = if ends & until & !seen == 0 { mixed + 1 } else { 1 };
        if mixed >= 2 {
            return None;
        }
        seen = until;
    }
    Some(if ends & !seen == 0 { mixed } else { 0 })
}

fn positions(mut bits: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let at = bits.trailing_zeros();
        bits &= bits.wrapping_sub(1);
        (at < u64::BITS).then_some(at as usize)
    })
}
