//! What a session may spend: `5usd`, `$5`, `2Mtok`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Usd, UsdError};

/// One limit of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// US dollars at list price.
    Usd(Usd),
    /// Tokens of every kind, added up.
    Tokens(u64),
    /// Requests answered or lost; those that are under way count too.
    Requests(u64),
}

/// What counts towards limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// Cost.
    pub cost: Usd,
    /// Tokens.
    pub tokens: u64,
    /// Requests.
    pub requests: u64,
}

impl Spent {
    /// What of it a limit of this unit counts, in the form that limit is shown in.
    pub fn of(&self, kind: LimitKind) -> Limit {
        match kind {
            LimitKind::Usd => Limit::Usd(self.cost),
            LimitKind::Tokens => Limit::Tokens(self.tokens),
            LimitKind::Requests => Limit::Requests(self.requests),
        }
    }
}

/// A change of one of a session's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitChange {
    /// `+5usd`: the limit of this unit is raised by so much.
    Raise(Limit),
    /// `10usd`: the limit of this unit is this.
    Set(Limit),
}

/// A limit's unit; its name in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitKind {
    /// US dollars.
    Usd,
    /// Tokens.
    Tokens,
    /// Requests.
    Requests,
}

/// Why a text is not a limit.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LimitError {
    /// The amount of money cannot be read.
    #[error(transparent)]
    Amount(#[from] UsdError),
    /// A negative number of tokens or requests, or one that is no number.
    #[error("read `{0}` as a number of {unit}: expected a number like 500k or 2M", unit = .1.plural())]
    Count(String, LimitKind),
    /// A unit that is none of ours.
    #[error("read `{0}` as a budget: expected dollars like 5usd, tokens like 2Mtok or requests like 200req")]
    Unit(String),
}

impl Limit {
    /// The limit's unit.
    pub const fn kind(self) -> LimitKind {
        match self {
            Self::Usd(_) => LimitKind::Usd,
            Self::Tokens(_) => LimitKind::Tokens,
            Self::Requests(_) => LimitKind::Requests,
        }
    }

    /// The smaller of two limits of one unit; this one if the units differ.
    #[must_use]
    pub fn tighter(self, other: Self) -> Self {
        match (self, other) {
            (Self::Usd(this), Self::Usd(other)) => Self::Usd(this.min(other)),
            (Self::Tokens(this), Self::Tokens(other)) => Self::Tokens(this.min(other)),
            (Self::Requests(this), Self::Requests(other)) => Self::Requests(this.min(other)),
            _ => self,
        }
    }

    /// Both added up; this one if the units differ.
    #[must_use]
    pub fn plus(self, more: Self) -> Self {
        match (self, more) {
            (Self::Usd(this), Self::Usd(more)) => Self::Usd(this + more),
            (Self::Tokens(this), Self::Tokens(more)) => Self::Tokens(this.saturating_add(more)),
            (Self::Requests(this), Self::Requests(more)) => Self::Requests(this.saturating_add(more)),
            _ => self,
        }
    }

    /// As it is typed, exactly: `10usd`, `2000000tok`.
    pub fn typed(self) -> String {
        match self {
            Self::Usd(amount) => format!("{amount}usd"),
            Self::Tokens(count) => format!("{count}tok"),
            Self::Requests(count) => format!("{count}req"),
        }
    }
}

impl LimitKind {
    /// What it counts, in the plural.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Usd => "dollars",
            Self::Tokens => "tokens",
            Self::Requests => "requests",
        }
    }
}

impl LimitChange {
    /// The unit that it changes.
    pub const fn kind(self) -> LimitKind {
        match self {
            Self::Raise(limit) | Self::Set(limit) => limit.kind(),
        }
    }

    /// The limit that it makes of the one there is; `None` where there is none to raise.
    pub fn apply(self, own: Option<Limit>) -> Option<Limit> {
        match self {
            Self::Set(limit) => Some(limit),
            Self::Raise(more) => own.map(|own| own.plus(more)),
        }
    }
}

impl fmt::Display for LimitChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Raise(more) => write!(f, "+{}", more.typed()),
            Self::Set(limit) => f.write_str(&limit.typed()),
        }
    }
}

impl FromStr for LimitChange {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        match text.trim().strip_prefix('+') {
            Some(more) => more.parse().map(Self::Raise),
            None => text.parse().map(Self::Set),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usd(amount) => f.write_str(&amount.show()),
            Self::Tokens(count) => write!(f, "{} tokens", show_count(*count)),
            Self::Requests(1) => f.write_str("1 request"),
            Self::Requests(count) => write!(f, "{count} requests"),
        }
    }
}

/// `1234567` as `1.2M`, `12345` as `12.3k`: for people.
fn show_count(count: u64) -> String {
    match count {
        0..1_000 => count.to_string(),
        1_000..1_000_000 => short(count, 1_000, 'k'),
        _ => short(count, 1_000_000, 'M'),
    }
}

fn short(count: u64, unit: u64, suffix: char) -> String {
    let tenths = count * 10 / unit;
    if tenths.is_multiple_of(10) { format!("{}{suffix}", tenths / 10) } else { format!("{}.{}{suffix}", tenths / 10, tenths % 10) }
}

impl FromStr for Limit {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        let lower = text.trim().to_lowercase();
        if let Some(amount) = lower.strip_suffix("usd") {
            return Ok(Self::Usd(amount.trim().parse()?));
        }
        for (suffix, make, kind) in COUNTED {
            if let Some(count) = lower.strip_suffix(suffix) {
                return read_count(count.trim()).map(make).ok_or_else(|| LimitError::Count(text.to_owned(), kind));
            }
        }
        let money = lower.starts_with('$') || lower.starts_with('-') || lower.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        if money && !lower.is_empty() { Ok(Self::Usd(lower.parse()?)) } else { Err(LimitError::Unit(text.to_owned())) }
    }
}

/// The units that are counted, as they are typed.
#[expect(clippy::type_complexity, reason = "what is typed and what it makes")]
const COUNTED: [(&str, fn(u64) -> Limit, LimitKind); 7] = [
    ("tokens", Limit::Tokens, LimitKind::Tokens),
    ("token", Limit::Tokens, LimitKind::Tokens),
    ("tok", Limit::Tokens, LimitKind::Tokens),
    ("requests", Limit::Requests, LimitKind::Requests),
    ("request", Limit::Requests, LimitKind::Requests),
    ("reqs", Limit::Requests, LimitKind::Requests),
    ("req", Limit::Requests, LimitKind::Requests),
];

fn read_count(text: &str) -> Option<u64> {
    let (number, unit) = match text.as_bytes().last()? {
        b'k' => (&text[..text.len() - 1], 1_000),
        b'm' => (&text[..text.len() - 1], 1_000_000),
        _ => (text, 1),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.len() > 6 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let millionths: u64 = if fraction.is_empty() { 0 } else { format!("{fraction:0<6}").parse().ok()? };
    whole.checked_mul(unit)?.checked_add(millionths * unit / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_in_dollars_and_tokens() {
        let dollars = |text: &str| Limit::Usd(text.parse().unwrap());
        assert_eq!("5usd".parse(), Ok(dollars("5")));
        assert_eq!("$0.5".parse(), Ok(dollars("0.5")));
        assert_eq!("5".parse(), Ok(dollars("5")));
        assert_eq!("2Mtok".parse(), Ok(Limit::Tokens(2_000_000)));
        assert_eq!("1.5k tokens".parse(), Ok(Limit::Tokens(1_500)));
        for text in ["200req", "200 requests", "0.2k reqs"] {
            assert_eq!(text.parse(), Ok(Limit::Requests(200)), "{text}");
        }
    }

    #[test]
    fn a_change_reads_back_as_it_is_written_and_touches_its_own_unit() {
        for text in ["+5usd", "10usd", "+2000000tok", "3tok", "+9req"] {
            assert_eq!(text.parse::<LimitChange>().unwrap().to_string(), text);
        }
        let own = "10usd".parse().ok();
        let apply = |text: &str, own| text.parse::<LimitChange>().unwrap().apply(own);
        assert_eq!(apply("+$5", own), "15usd".parse().ok());
        assert_eq!(apply("5usd", own), "5usd".parse().ok());
        assert_eq!(apply("+5usd", None), None);
        assert!("+-5usd".parse::<LimitChange>().is_err() && "++5usd".parse::<LimitChange>().is_err());
    }

    #[test]
    fn bad_limits_say_what_was_expected() {
        assert_eq!("-5usd".parse::<Limit>().unwrap_err().to_string(), "read `-5` as an amount: it is negative");
        assert_eq!("-5".parse::<Limit>().unwrap_err().to_string(), "read `-5` as an amount: it is negative");
        assert!("5eur".parse::<Limit>().unwrap_err().to_string().contains("expected dollars like 5usd"));
        assert!("xtok".parse::<Limit>().unwrap_err().to_string().contains("number of tokens"));
        assert!("".parse::<Limit>().is_err());
    }
}
