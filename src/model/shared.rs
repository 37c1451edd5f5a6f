//! Limits that several sessions share: so many dollars a day or a month for a developer, a project or a machine.
//!
//! Days and months are UTC's.

use std::fmt;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::{BudgetView, LimitKind, Usd};

/// Whose sessions share a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// All of one developer.
    Developer,
    /// All on one project.
    Project,
    /// All on this machine that write to the same state directory.
    Machine,
}

/// How long what is spent counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    /// Until midnight.
    Day,
    /// Until the first of the next month.
    Month,
}

/// Which of the shared limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Share {
    /// Whose sessions.
    pub scope: Scope,
    /// For how long.
    pub period: Period,
}

/// A limit that sessions share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedLimit {
    /// Which.
    pub share: Share,
    /// At most so much.
    pub amount: Usd,
}

/// The day that a moment belongs to.
pub fn utc_day(at: Timestamp) -> Date {
    at.to_zoned(TimeZone::UTC).date()
}

impl Scope {
    /// As it stands in front of an amount.
    const fn whose(self) -> &'static str {
        match self {
            Self::Developer => "the developer's",
            Self::Project => "the project's",
            Self::Machine => "the machine's",
        }
    }
}

impl Period {
    const fn words(self) -> &'static str {
        match self {
            Self::Day => "a day",
            Self::Month => "a month",
        }
    }

    /// The first day of the period that `day` is in.
    pub fn begin(self, day: Date) -> Date {
        match self {
            Self::Day => day,
            Self::Month => day.first_of_month(),
        }
    }

    /// The first day after it.
    pub fn end(self, day: Date) -> Date {
        let last = match self {
            Self::Day => day,
            Self::Month => day.last_of_month(),
        };
        last.tomorrow().unwrap_or(last)
    }
}

impl SharedLimit {
    /// `the developer's limit of $20.00 a day`.
    pub fn named(&self) -> String {
        format!("{} limit of {} {}", self.share.scope.whose(), self.amount.show(), self.share.period.words())
    }

    /// What is used of it, as a session shows it.
    pub fn view(&self, used: Usd) -> BudgetView {
        BudgetView {
            kind: LimitKind::Usd,
            limit: self.amount.to_string(),
            used: used.to_string(),
            percent: used.percent_of(self.amount),
            shared: Some(self.share),
        }
    }
}

impl fmt::Display for SharedLimit {
    /// `the developer's $20.00 a day`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.share.scope.whose(), self.amount.show(), self.share.period.words())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_named_with_whose_it_is_and_for_how_long() {
        let limit = SharedLimit { share: Share { scope: Scope::Developer, period: Period::Day }, amount: "20".parse().unwrap() };
        assert_eq!(limit.named(), "the developer's limit of $20.00 a day");
        assert_eq!(limit.view("16.2".parse().unwrap()).words(), "$16.20 of the developer's $20.00 a day");
    }

    #[test]
    fn a_day_ends_at_midnight_and_a_month_on_the_first() {
        let day = utc_day("2026-12-31T23:59:59.9Z".parse().unwrap());
        assert_eq!((Period::Day.begin(day).to_string(), Period::Day.end(day).to_string()), ("2026-12-31".into(), "2027-01-01".into()));
        assert_eq!((Period::Month.begin(day).to_string(), Period::Month.end(day).to_string()), ("2026-12-01".into(), "2027-01-01".into()));
        assert_eq!(utc_day("2027-01-01T00:30:00+01:00".parse().unwrap()), day);
    }
}
