//! How many tokens a text is, told from its bytes as they stream: about, and rather more than fewer.
//!
//! A tokenizer's vocabulary is not at hand for the models that are metered. But all of them cut text at the same places: a common word is
//! one token with the space before it, digits go in twos and threes, what mixes letters and digits goes byte by byte or nearly so. So this
//! walks over the bytes, sees where words, numbers and signs begin, and counts each by its kind.
//!
//! The weights are fitted to 104 texts of 5 to 12 kB (prose, documentation, nine programming languages, JSON, logs, tables, numbers, hex,
//! base64, 30 natural languages, emoji) as the one vocabulary counts them that Anthropic has published (npm `@anthropic-ai/tokenizer`
//! 0.0.4, of Claude 2). Bytes per token there: English 4.0, Rust 3.0 to 4.0, JSON 3.4 to 4.0, lock files 2.3, logs 2.3, CSV 2.0, digits 2.4,
//! numbers in lists 2.0, hex 1.7, UUIDs 1.5, base64 1.4, random ASCII 1.3, Chinese 3.4, Japanese 2.9, Korean 2.6, Russian 3.7, Arabic 2.1,
//! Thai 1.6, emoji 1.6. What is weighed here is 0.99 to 1.33 times that count for 85 of them and more for 10 (capitals, hex dumps, bits: up to
//! 1.76). 9 weigh less: natural languages without accents that are not English (Latin 0.64 to 0.81, Indonesian 0.7, Dutch and Italian 0.77), lists of
//! technical words (0.89), rows of blanks or dashes. How newer models cut text is learnt from what the API reports of them
//! ([`super::memory`]).
//!
//! [`Weigher::byte`] says what each byte weighs. Most text is weighed 64 bytes at once, to the same end ([`block`]).

mod block;

/// Weights are in hundredths of a token.
pub(super) const TOKEN: u64 = 100;

/// A letter or a digit of what is no word but a code.
const CODE: u64 = 77;
/// Letters after which a word may be more than one token, and after which it is.
const WORD: (u32, u32) = (5, 8);
const LONG_WORD: u64 = 30;
const LONGER_WORD: u64 = 53;
/// The first letter of a word: after a space, and after anything else.
const BEGIN: (u64, u64) = (116, 107);
/// The first of some capitals, and of a number: after a space, and after anything else. Then each that follows.
const BEGIN_CAPITALS: (u64, u64) = (90, 82);
const CAPITAL: u64 = 58;
const BEGIN_NUMBER: (u64, u64) = (82, 119);
const DIGIT: u64 = 50;
/// The first of some signs, and one after it: the same again, or another.
const SIGN: u64 = 97;
const SIGN_AGAIN: u64 = 3;
const SIGN_NEXT: u64 = 71;
/// A space after another; the first line end and those that follow.
const SPACE: u64 = 2;
const LINE: (u64, u64) = (30, 20);

/// Generated text: how much, and about how many tokens that is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Text {
    /// Its bytes.
    pub bytes: u64,
    /// Hundredths of a token.
    weight: u64,
    /// Those of them that are beyond doubt the model's own words: they count even past the `max_tokens` that was asked for.
    read: u64,
}

impl Text {
    /// Bytes that nobody has read, at three a token.
    pub const fn unread(bytes: u64) -> Self {
        Self { bytes, weight: bytes.saturating_mul(TOKEN) / 3, read: 0 }
    }

    /// A text that stands for itself.
    pub fn of(text: &str) -> Self {
        Weigher::default().read(text.as_bytes())
    }

    /// Bytes of any kind that nobody has read: there are hardly fewer in a token.
    pub const fn dense(bytes: u64) -> Self {
        Self { bytes, weight: bytes.saturating_mul(80), read: 0 }
    }

    /// The same, where it may be something else than the model's words.
    #[must_use]
    pub const fn unsure(self) -> Self {
        Self { read: 0, ..self }
    }

    /// Whole tokens, upwards.
    pub const fn tokens(self) -> u64 {
        self.weight.div_ceil(TOKEN)
    }

    /// Whole tokens of what was read of it, upwards.
    pub(super) const fn tokens_read(self) -> u64 {
        self.read.div_ceil(TOKEN)
    }
}

impl std::ops::AddAssign for Text {
    fn add_assign(&mut self, other: Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.weight = self.weight.saturating_add(other.weight);
        self.read = self.read.saturating_add(other.read);
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Class {
    #[default]
    Space,
    Line,
    Lower,
    Upper,
    Digit,
    Sign,
    Wide,
}

impl Class {
    const fn of(byte: u8) -> Self {
        match byte {
            b'a'..=b'z' => Self::Lower,
            b'A'..=b'Z' => Self::Upper,
            b'0'..=b'9' => Self::Digit,
            b' ' => Self::Space,
            0..b' ' => Self::Line,
            0x80.. => Self::Wide,
            _ => Self::Sign,
        }
    }
}

/// Weighs a text that comes in pieces: what a byte weighs depends on those before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Weigher {
    class: Class,
    /// Bytes of this class in a row.
    run: u32,
    last: u8,
    /// Changes between letters and digits within the word: from the second on it is a code and no word.
    mixed: u8,
    /// Bytes for which words are taken for those of a language with accents.
    foreign: u8,
}

impl Weigher {
    /// How many bytes are read at once where there are so many.
    pub const AT_ONCE: usize = block::LENGTH;

    /// Some more of the text.
    pub fn read(&mut self, text: &[u8]) -> Text {
        let mut weight = 0;
        for piece in text.chunks(block::LENGTH) {
            weight += match block::weigh(*self, piece) {
                Some((weighed, next)) => {
                    *self = next;
                    weighed
                }
                None => piece.iter().map(|byte| self.byte(*byte)).sum(),
            };
        }
        Text { bytes: text.len() as u64, weight, read: weight }
    }

    fn byte(&mut self, byte: u8) -> u64 {
        let class = Class::of(byte);
        if class == Class::Wide {
            return self.wide(byte);
        }
        self.foreign = self.foreign.saturating_sub(1);
        let goes_on = class == self.class;
        let weight = match class {
            Class::Lower | Class::Upper | Class::Digit => self.in_word(class, goes_on),
            Class::Sign if goes_on => {
                if byte == self.last {
                    SIGN_AGAIN
                } else {
                    SIGN_NEXT
                }
            }
            Class::Sign => SIGN,
            Class::Space if goes_on => SPACE,
            Class::Line if goes_on => LINE.1,
            Class::Line => LINE.0,
            // It belongs to the word after it.
            Class::Space | Class::Wide => 0,
        };
        if !matches!(class, Class::Lower | Class::Upper | Class::Digit) {
            self.mixed = 0;
        }
        self.went_on(class, goes_on, byte);
        weight
    }

    fn in_word(&mut self, class: Class, goes_on: bool) -> u64 {
        let before = self.class;
        let is_letter = |class| matches!(class, Class::Lower | Class::Upper);
        if (before == Class::Digit && is_letter(class))
            || (is_letter(before) && class == Class::Digit)
            || (before == Class::Lower && class == Class::Upper && self.run <= 2)
        {
            self.mixed = self.mixed.saturating_add(1);
        }
        let begin = |(after_space, else_): (u64, u64)| if before == Class::Space { after_space } else { else_ };
        let after_capital = before == Class::Upper && self.run == 1;
        match class {
            _ if self.mixed >= 2 => CODE,
            Class::Lower if self.foreign > 0 => {
                if goes_on || after_capital || before == Class::Wide {
                    30
                } else {
                    185
                }
            }
            Class::Lower if goes_on && self.run < WORD.0 => 0,
            Class::Lower if goes_on => {
                if self.run < WORD.1 {
                    LONG_WORD
                } else {
                    LONGER_WORD
                }
            }
            Class::Lower if after_capital => 0,
            Class::Lower => begin(BEGIN),
            Class::Upper if goes_on => CAPITAL,
            Class::Upper => begin(BEGIN_CAPITALS),
            _ if goes_on => DIGIT,
            _ => begin(BEGIN_NUMBER),
        }
    }

    /// A byte of a character outside ASCII: the first counts for all of it.
    fn wide(&mut self, byte: u8) -> u64 {
        // For the first of a row, and for those that follow it.
        let (first, next) = match byte {
            0..0xc0 => return 0,
            // Latin with accents, Greek, Cyrillic, Hebrew and Arabic.
            0xc0..0xcc => (120, 300),
            0xcc..0xd0 => (300, 98),
            0xd0..0xd4 => (300, 20),
            0xd4..0xe0 => (164, 90),
            // India and South-East Asia; signs, lines and arrows; Chinese and Japanese; Korean; the rest.
            0xe0..0xe2 => (100, 190),
            0xe2 => (140, 77),
            0xe3..0xea => (264, 103),
            0xea..0xee => (244, 90),
            0xee..0xf0 => (130, 300),
            0xf0.. => (300, 277),
        };
        let goes_on = self.class == Class::Wide;
        if byte < 0xe0 {
            self.foreign = 48;
        }
        self.mixed = 0;
        self.went_on(Class::Wide, goes_on, byte);
        if goes_on { next } else { first }
    }

    const fn went_on(&mut self, class: Class, goes_on: bool, byte: u8) {
        self.run = if goes_on { self.run.saturating_add(1) } else { 1 };
        self.class = class;
        self.last = byte;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    /// A text and how many tokens the published vocabulary makes of it.
    #[derive(Deserialize)]
    struct Sample {
        name: String,
        tokens: u64,
        text: String,
    }

    fn samples() -> Vec<Sample> {
        include_str!("weigh_samples.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_text_of_any_kind_weighs_what_it_is_in_tokens_or_somewhat_more() {
        let samples = samples();
        assert!(samples.len() > 35);
        for Sample { name, tokens, text } in samples {
            let percent = Text::of(&text).tokens() * 100 / tokens;
            // 900 bytes of each: the texts that the weights were fitted to were ten times as long.
            assert!((96..=150).contains(&percent), "{name}: {percent} % of {tokens} tokens");
        }
    }

    #[test]
    fn three_bytes_a_token_for_everything_would_be_short_of_numbers_by_half() {
        let samples = samples();
        let digits = samples.iter().find(|sample| sample.name == "nums").unwrap();
        assert!(Text::unread(digits.text.len() as u64).tokens() * 100 / digits.tokens < 75);
    }

    proptest! {
        #[test]
        fn the_weight_does_not_depend_on_where_a_text_is_cut(text in r#"[a-zA-Z0-9 \n"{}é中😀_-]{0,80}"#, cut in 0_usize..80) {
            let cut = (0..=cut.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap();
            let mut weigher = Weigher::default();
            let mut read = weigher.read(&text.as_bytes()[..cut]);
            read += weigher.read(&text.as_bytes()[cut..]);
            prop_assert_eq!(read, Text::of(&text));
        }

        #[test]
        fn a_text_read_at_once_weighs_what_its_bytes_do_one_by_one(
            words in prop::collection::vec(
                prop_oneof![
                    8 => "[a-z]{1,14} ?",
                    2 => "[A-Z][a-z]{0,9}",
                    2 => "[A-Z]{0,9}|[0-9]{0,9}",
                    1 => "[a-zA-Z0-9]{0,12}",
                    2 => r#"[ \n\x00\x7f."(){}=-]{0,4}"#,
                    1 => "[=_ \n]{0,70}",
                    1 => "[é中😀]",
                ],
                0..60,
            ),
            cuts in prop::collection::vec(0_usize..90, 1..20),
        ) {
            let text = words.concat();
            let (mut at_once, mut one_by_one) = (Weigher::default(), Weigher::default());
            let (mut rest, mut cuts) = (text.as_bytes(), cuts.into_iter().cycle());
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(cuts.next().unwrap_or(0).clamp(1, rest.len()));
                let weight: u64 = piece.iter().map(|byte| one_by_one.byte(*byte)).sum();
                prop_assert_eq!(at_once.read(piece).weight, weight);
                prop_assert_eq!(at_once, one_by_one);
                rest = after;
            }
        }
    }
}
