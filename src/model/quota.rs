//! A subscription's allowance, as the API told it last.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

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
