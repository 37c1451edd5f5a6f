//! When credentials are renewed, and how long to wait after a failure. Pure, but for the wait itself.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// A role that was taken away is noticed within this time, however long its credentials live.
const LONGEST: SignedDuration = SignedDuration::from_mins(30);
const FIRST_RETRY: SignedDuration = SignedDuration::from_secs(1);
const LONGEST_RETRY: SignedDuration = SignedDuration::from_mins(1);
/// Timers stand still while a machine sleeps; the wall clock, which AWS goes by, does not.
const TICK: Duration = Duration::from_secs(10);

/// At half of the credentials' life, after half an hour at most.
pub(super) fn renew_at(minted_at: Timestamp, expires_at: Timestamp) -> Timestamp {
    let half = (expires_at.duration_since(minted_at) / 2).max(SignedDuration::ZERO);
    minted_at.checked_add(half.min(LONGEST)).unwrap_or(expires_at)
}

/// The wait after failure number `failures` (from 1): 1 s, doubled up to a minute.
pub(super) fn retry_after(failures: u32) -> SignedDuration {
    let doublings = failures.saturating_sub(1).min(6);
    (FIRST_RETRY * (1 << doublings)).min(LONGEST_RETRY)
}

/// Waits until the wall clock shows `at`.
pub(super) async fn wait_until(at: Timestamp) {
    loop {
        let left = at.duration_since(Timestamp::now());
        match Duration::try_from(left) {
            Ok(left) if !left.is_zero() => tokio::time::sleep(left.min(TICK)).await,
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn credentials_are_renewed_at_half_of_their_life_but_every_half_hour() {
        let now = at("2026-11-22T07:00:00Z");
        assert_eq!(renew_at(now, at("2026-11-22T07:15:00Z")), at("2026-11-22T07:07:30Z"));
        assert_eq!(renew_at(now, at("2026-11-22T08:00:00Z")), at("2026-11-22T07:30:00Z"));
        assert_eq!(renew_at(now, at("2026-11-22T19:00:00Z")), at("2026-11-22T07:30:00Z"));
        assert_eq!(renew_at(now, at("2026-11-22T06:00:00Z")), now);
    }

    #[test]
    fn waits_double_up_to_a_minute() {
        let waits: Vec<i64> = [1, 2, 3, 6, 7, 8, u32::MAX].into_iter().map(|n| retry_after(n).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 32, 60, 60, 60]);
    }
}
