//! A subscription's allowance, as the API told it last.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::show_duration;

/// The allowance. What the API did not say is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// `allowed`, `allowed_warning` or `rejected`.
    pub status: Option<String>,
    /// The window that decides: `five_hour`, `seven_day`, `overage` ...
    pub claim: Option<String>,
    /// When that one begins anew.
    pub resets_at: Option<Timestamp>,
    /// Each window, by name.
    pub windows: Vec<QuotaWindow>,
}

/// One window of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaWindow {
    /// `5h`, `7d`, `7d_sonnet`, `overage` ...
    pub window: String,
    /// `allowed`, `allowed_warning` or `rejected`.
    pub status: Option<String>,
    /// How much of it is used.
    pub percent: Option<u32>,
    /// When it begins anew.
    pub resets_at: Option<Timestamp>,
}

impl Quota {
    /// `5h 42 %, 7d 94 % (allowed_warning)`: the windows of which a share is known.
    pub fn words(&self) -> String {
        let known = self.windows.iter().filter_map(|window| Some((window, window.percent?)));
        known.map(|(window, percent)| format!("{} {percent} %{}", window.window, window.doubt())).collect::<Vec<_>>().join(", ")
    }
}

impl QuotaWindow {
    /// ` (allowed_warning)`; nothing where all is well.
    pub fn doubt(&self) -> String {
        self.status.as_deref().filter(|status| *status != "allowed").map(|status| format!(" ({status})")).unwrap_or_default()
    }
}

/// `82 % of the subscription's 5h quota is used; it begins anew in 40 min`: what people are told of a share that is used up.
pub fn quota_used(window: &str, used: u32, resets_at: Option<Timestamp>, now: Timestamp) -> String {
    let left = resets_at.and_then(|end| Duration::try_from(end.duration_since(now)).ok());
    let until = left.map(|left| format!("; it begins anew in {}", show_duration(left))).unwrap_or_default();
    format!("{used} % of the subscription's {window} quota is used{until}")
}
