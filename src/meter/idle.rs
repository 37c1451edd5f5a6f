//! Whether money goes while the work stands still: the third pattern of a loop. Pure: the working copy comes as a digest.
//!
//! An agent that reads and asks without end makes other calls each time and no errors; what gives it away is that nothing comes of it.
//! Both must be so, an amount spent and a time passed since the working copy changed: at that much the model is told once, at twice the
//! amount and the time the session is stopped. Any change starts both afresh, whoever made it, an edit or a command.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::loops::{Finding, Pattern};
use crate::model::Usd;

/// How much is too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdleRules {
    /// What may be spent without a change ...
    pub spend: Usd,
    /// ... if it also takes so long.
    pub time: Duration,
}

/// The working copy's last change, and what was spent by then.
#[derive(Debug)]
pub struct Idle {
    rules: IdleRules,
    digest: u64,
    changed_at: Timestamp,
    spent_by_then: Usd,
    warned: bool,
}

impl Idle {
    /// Begins with the working copy as it is.
    pub const fn new(rules: IdleRules, digest: u64, spent: Usd, now: Timestamp) -> Self {
        Self { rules, digest, changed_at: now, spent_by_then: spent, warned: false }
    }

    /// Takes in a look at the working copy, with all that is spent by now.
    pub fn on(&mut self, digest: u64, spent: Usd, now: Timestamp) -> Option<Finding> {
        if digest != self.digest {
            *self = Self::new(self.rules, digest, spent, now);
            return None;
        }
        let since = now.duration_since(self.changed_at).max(SignedDuration::ZERO);
        let idle = spent.saturating_sub(self.spent_by_then);
        let reached = |times: u32| {
            let time = SignedDuration::try_from(self.rules.time.saturating_mul(times)).unwrap_or(SignedDuration::MAX);
            since >= time && idle.pico() >= self.rules.spend.pico().saturating_mul(u64::from(times))
        };
        let pattern = Pattern::Idle { spent: idle, minutes: u64::try_from(since.as_secs()).unwrap_or(0) / 60 };
        // Looks can be far apart; a stop without a word before it is none.
        if self.warned {
            return reached(2).then_some(Finding::Stop(pattern));
        }
        self.warned = reached(1);
        self.warned.then_some(Finding::Warn(pattern))
    }
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan;
    use proptest::prelude::*;

    use super::*;

    const RULES: IdleRules = IdleRules { spend: Usd::from_pico(1_000_000_000_000), time: Duration::from_mins(10) };
    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn cents(count: u64) -> Usd {
        Usd::from_pico(count * 10_000_000_000)
    }

    /// Looks once a minute; each look is the digest and the cents spent since the last one.
    fn play(looks: impl IntoIterator<Item = (u64, u64)>) -> Vec<(i64, Finding)> {
        let (mut idle, mut spent) = (Idle::new(RULES, 0, Usd::ZERO, NOW), 0);
        let mut found = Vec::new();
        for (minute, (digest, cost)) in (1..).zip(looks) {
            spent += cost;
            found.extend(idle.on(digest, cents(spent), NOW + minute.minutes()).map(|finding| (minute, finding)));
        }
        found
    }

    #[test]
    fn money_without_work_is_warned_about_once_and_stopped_at_twice_the_amount_and_the_time() {
        let pattern = |cost, minutes| Pattern::Idle { spent: cents(cost), minutes };
        let found = play((0..20).map(|_| (0, 20)));
        assert_eq!(found, [(10, Finding::Warn(pattern(200, 10))), (20, Finding::Stop(pattern(400, 20)))]);
        assert_eq!(pattern(200, 10).to_string(), "$2.00 was spent in 10 minutes without any change of the working copy");
        // Slow money counts by the amount, not by the time.
        let found = play((0..50).map(|_| (0, 4)));
        assert_eq!(found, [(25, Finding::Warn(pattern(100, 25))), (50, Finding::Stop(pattern(200, 50)))]);
    }

    #[test]
    fn any_change_starts_it_afresh_and_neither_time_nor_money_alone_is_a_loop() {
        assert_eq!(play((0..200).map(|minute| (minute / 9, 100))), [], "a change every nine minutes");
        assert_eq!(play((0..600).map(|_| (0, 0))), [], "waiting costs nothing");
        assert_eq!(play((0..9).map(|_| (0, 500))), [], "dear, but nine minutes");
        let again = play((0..30).map(|minute| (u64::from(minute >= 15), 20)));
        assert_eq!(again.iter().map(|(minute, _)| *minute).collect::<Vec<_>>(), [10, 26], "and of the second time it is told again");
    }

    proptest! {
        /// It is never stopped without having been warned, nor before both are twice reached.
        #[test]
        fn a_warning_comes_first(looks in proptest::collection::vec((0_u64..2, 0_u64..60), 0..120)) {
            let found = play(looks);
            let mut warned = false;
            for (_, finding) in found {
                match finding {
                    Finding::Warn(_) => warned = true,
                    Finding::Stop(Pattern::Idle { spent, minutes }) => {
                        prop_assert!(warned && minutes >= 20 && spent >= cents(200));
                    }
                    Finding::Stop(other) => prop_assert!(false, "{other}"),
                }
            }
        }
    }
}
