//! Session and request ids.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The one id that runs through STS tag, branch, ledger, journal, kill handle and pull request (DESIGN section 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(Uuid);

/// Why a text is not a session id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("read `{0}` as a session id: expected a UUID")]
pub struct IdError(String);

impl SessionId {
    /// A fresh random (version 4) id.
    #[expect(clippy::new_without_default, reason = "two defaults that differ would surprise")]
    pub fn new() -> Self {
        Self(Uuid::new_v4())
    }

    /// What people see and type: the first 8 hex digits.
    pub fn short(&self) -> String {
        let mut text = self.0.simple().to_string();
        text.truncate(8);
        text
    }

    /// Whether `prefix` (hex digits, dashes allowed) begins this id.
    pub fn starts_with(&self, prefix: &str) -> bool {
        let wanted: String = prefix.chars().filter(|c| *c != '-').collect::<String>().to_lowercase();
        !wanted.is_empty() && self.0.simple().to_string().starts_with(&wanted)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for SessionId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        Uuid::try_parse(text).map(Self).map_err(|_| IdError(text.to_owned()))
    }
}

/// A request's number within its session, from 1, never reused across attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub u64);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_id_is_the_first_eight_hex_digits_and_a_prefix_of_the_id() {
        let id: SessionId = "9f3a12cd-0000-4000-8000-000000000001".parse().unwrap();
        assert_eq!(id.short(), "9f3a12cd");
        for prefix in ["9", "9f3a", "9F3A12", "9f3a12cd-0000"] {
            assert!(id.starts_with(prefix), "{prefix}");
        }
        assert!(!id.starts_with("9f3b"));
        assert!(!id.starts_with(""));
    }
}
