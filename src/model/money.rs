//! Money as an integer of pico-dollars: a haiku cache write x 1.1 is 137.5 nano-dollars, so nano is too coarse (DESIGN section 2).

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An amount of US dollars, in pico-dollars (1e-12 USD). Never negative; additions saturate.
///
/// In JSON it is a decimal string with every significant digit: `"0.4000015"`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Usd(u64);

/// Why a text is not an amount.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UsdError {
    /// A leading minus.
    #[error("read `{0}` as an amount: it is negative")]
    Negative(String),
    /// Anything else that is not a decimal number of dollars.
    #[error("read `{0}` as an amount of dollars: expected a number like 5 or 0.50")]
    Malformed(String),
}

const PICO: u64 = 1_000_000_000_000;

impl Usd {
    /// No money.
    pub const ZERO: Self = Self(0);
    /// More than any session can spend.
    pub const MAX: Self = Self(u64::MAX);

    /// From pico-dollars.
    pub const fn from_pico(pico: u64) -> Self {
        Self(pico)
    }

    /// In pico-dollars.
    pub const fn pico(self) -> u64 {
        self.0
    }

    /// `self - other`, or zero.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// What `count` units at this price each cost.
    #[must_use]
    pub const fn times(self, count: u64) -> Self {
        Self(self.0.saturating_mul(count))
    }

    /// How many percent of `limit` this is, rounded down; 100 for a limit of zero.
    pub fn percent_of(self, limit: Self) -> u32 {
        if limit.0 == 0 {
            return 100;
        }
        u32::try_from(u128::from(self.0) * 100 / u128::from(limit.0)).unwrap_or(u32::MAX)
    }

    /// For people: `$0.40`, or four digits under a cent: `$0.0012`. Rounded, only for show.
    pub fn show(self) -> String {
        if self.0 != 0 && self.0 < PICO / 100 {
            let units = (self.0 + PICO / 20_000) / (PICO / 10_000);
            return format!("${}.{:04}", units / 10_000, units % 10_000);
        }
        let cents = (u128::from(self.0) + u128::from(PICO / 200)) / u128::from(PICO / 100);
        format!("${}.{:02}", cents / 100, cents % 100)
    }
}

impl fmt::Display for Usd {
    /// The exact decimal number, without a sign or a currency.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / PICO, self.0 % PICO);
        if rest == 0 {
            return write!(f, "{whole}");
        }
        let digits = format!("{rest:012}");
        write!(f, "{whole}.{}", digits.trim_end_matches('0'))
    }
}

impl FromStr for Usd {
    type Err = UsdError;

    fn from_str(text: &str) -> Result<Self, UsdError> {
        let malformed = || UsdError::Malformed(text.to_owned());
        let number = text.trim().strip_prefix('$').unwrap_or(text.trim());
        if number.starts_with('-') {
            return Err(UsdError::Negative(text.to_owned()));
        }
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) || fraction.len() > 12 {
            return Err(malformed());
        }
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| malformed())? };
        let fraction: u64 = if fraction.is_empty() { 0 } else { format!("{fraction:0<12}").parse().map_err(|_| malformed())? };
        whole.checked_mul(PICO).and_then(|pico| pico.checked_add(fraction)).map(Self).ok_or_else(malformed)
    }
}

impl Add for Usd {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Usd {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for Usd {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

impl Serialize for Usd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Usd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn amounts_are_read_exactly_and_bad_ones_are_named() {
        assert_eq!("5".parse(), Ok(Usd::from_pico(5 * PICO)));
        assert_eq!("$0.40".parse(), Ok(Usd::from_pico(400_000_000_000)));
        assert_eq!(".5".parse(), Ok(Usd::from_pico(500_000_000_000)));
        assert_eq!("-1".parse::<Usd>(), Err(UsdError::Negative("-1".into())));
        for bad in ["", "five", "1.2.3", "1e9", "99999999999999999999"] {
            assert_eq!(bad.parse::<Usd>(), Err(UsdError::Malformed(bad.into())), "{bad}");
        }
    }

    #[test]
    fn amounts_are_shown_in_cents_and_small_ones_in_hundredths_of_a_cent() {
        assert_eq!(Usd::from_pico(400_000_000_000).show(), "$0.40");
        assert_eq!(Usd::from_pico(1_200_000_000).show(), "$0.0012");
        assert_eq!(Usd::ZERO.show(), "$0.00");
        assert_eq!(Usd::from_pico(12_345_000_000_000).show(), "$12.35");
    }

    proptest! {
        #[test]
        fn an_amount_survives_its_decimal_string(pico in any::<u64>()) {
            let amount = Usd::from_pico(pico);
            prop_assert_eq!(amount.to_string().parse(), Ok(amount));
        }
    }
}
