//! A subscription's allowance, as the API tells it with each answer: headers `anthropic-ratelimit-unified-*`.
//!
//! The names are those that the real API sends and Claude Code reads: `-status`, `-reset` and `-representative-claim` of the whole, and
//! `-<window>-status`, `-utilization` and `-reset` of each window (`5h`, `7d`, `7d_sonnet`, `overage` ...). They are only read here; the
//! client gets them unchanged.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderMap;
use jiff::Timestamp;

use crate::model::{Quota, QuotaWindow};

/// Told of the allowance whenever an answer tells another one.
pub type QuotaWatch = Arc<dyn Fn(Quota) + Send + Sync>;

const PREFIX: &str = "anthropic-ratelimit-unified-";
/// A gateway could name as many as it likes.
const MAX_WINDOWS: usize = 8;
/// Longer words are none of the API's.
const MAX_WORD: usize = 40;

/// The allowance that these headers tell of, if they do.
pub(super) fn read(headers: &HeaderMap) -> Option<Quota> {
    let mut quota = Quota::default();
    let mut windows: BTreeMap<String, QuotaWindow> = BTreeMap::new();
    for (name, value) in headers {
        let Some(name) = name.as_str().strip_prefix(PREFIX) else { continue };
        let Some(value) = value.to_str().ok().map(str::trim).filter(|value| !value.is_empty() && value.len() <= MAX_WORD) else { continue };
        match name {
            "status" => quota.status = Some(value.to_owned()),
            "reset" => quota.resets_at = time(value),
            "representative-claim" => quota.claim = Some(value.to_owned()),
            _ => {
                let Some((window, field)) = name.rsplit_once('-').filter(|(window, _)| is_window(window)) else { continue };
                if windows.len() >= MAX_WINDOWS && !windows.contains_key(window) {
                    continue;
                }
                let entry = windows.entry(window.to_owned()).or_default();
                match field {
                    "status" => entry.status = Some(value.to_owned()),
                    "utilization" => entry.percent = percent(value),
                    "reset" => entry.resets_at = time(value),
                    _ => {}
                }
            }
        }
    }
    windows.retain(|_, window| *window != QuotaWindow::default());
    quota.windows = windows.into_iter().map(|(window, read)| QuotaWindow { window, ..read }).collect();
    (quota != Quota::default()).then_some(quota)
}

/// `5h`, `7d_sonnet`, `overage`; not the parts of longer names, such as `slow-budget`.
fn is_window(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_WORD
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        && name != "slow"
}

/// `0.42` as 42.
fn percent(text: &str) -> Option<u32> {
    let share: f64 = text.parse().ok()?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within 0 and 1000")]
    (0.0..=10.0).contains(&share).then(|| (share * 100.0).round() as u32)
}

/// Seconds since 1970.
fn time(text: &str) -> Option<Timestamp> {
    Timestamp::from_second(text.parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn of(pairs: &[(&'static str, &'static str)]) -> Option<Quota> {
        read(&pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect())
    }

    #[test]
    fn the_headers_of_a_real_answer_are_read() {
        // As published from a live answer of a subscription.
        let quota = of(&[
            ("anthropic-ratelimit-unified-5h-reset", "1785182400"),
            ("anthropic-ratelimit-unified-5h-status", "allowed"),
            ("anthropic-ratelimit-unified-5h-utilization", "0.01"),
            ("anthropic-ratelimit-unified-7d-reset", "1785751200"),
            ("anthropic-ratelimit-unified-7d-status", "allowed_warning"),
            ("anthropic-ratelimit-unified-7d-surpassed-threshold", "0.75"),
            ("anthropic-ratelimit-unified-7d-utilization", "0.94"),
            ("anthropic-ratelimit-unified-fallback-percentage", "0.5"),
            ("anthropic-ratelimit-unified-overage-disabled-reason", "org_level_disabled"),
            ("anthropic-ratelimit-unified-overage-status", "rejected"),
            ("anthropic-ratelimit-unified-representative-claim", "five_hour"),
            ("anthropic-ratelimit-unified-reset", "1785182400"),
            ("anthropic-ratelimit-unified-status", "allowed"),
        ]);
        let at = |second| Timestamp::from_second(second).ok();
        let window = |window: &str, status: &str, percent, resets_at| QuotaWindow {
            window: window.into(),
            status: Some(status.into()),
            percent,
            resets_at,
        };
        let windows = vec![
            window("5h", "allowed", Some(1), at(1_785_182_400)),
            window("7d", "allowed_warning", Some(94), at(1_785_751_200)),
            window("overage", "rejected", None, None),
        ];
        let expected = Quota { status: Some("allowed".into()), claim: Some("five_hour".into()), resets_at: at(1_785_182_400), windows };
        assert_eq!(quota, Some(expected));
    }

    #[test]
    fn what_is_no_allowance_is_none_and_nonsense_is_left_out() {
        assert_eq!(of(&[("anthropic-ratelimit-requests-limit", "50"), ("request-id", "r")]), None);
        assert_eq!(of(&[("anthropic-ratelimit-unified-5h-utilization", "NaN"), ("anthropic-ratelimit-unified-reset", "soon")]), None);
        assert_eq!(of(&[("anthropic-ratelimit-unified-5h-utilization", "1e300")]), None);
    }
}
