//! A subscription's allowance against the shares that people are told of. Pure: "now" is an argument.
//!
//! Of each window a share is told once, and again when the window has begun anew: it names another end, and either the old end has passed
//! or less is used than was told. Either alone would not do: an end that creeps on by seconds is no new window, and a new one
//! may be as full as the last (others use the same subscription). Of several shares passed at once only the highest is news.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::model::{Event, Quota, QuotaWindow};

/// Windows that are told of at most: their names are the upstream's.
const MAX_WINDOWS: usize = 16;
/// By so much an end is another one.
const ANOTHER_END: SignedDuration = SignedDuration::from_secs(60);

/// What was told of each window.
#[derive(Debug, Clone)]
pub struct QuotaShares {
    /// In percent, from the least on.
    alert_at: Vec<u32>,
    told: BTreeMap<String, Told>,
}

#[derive(Debug, Clone, Copy)]
struct Told {
    percent: u32,
    resets_at: Option<Timestamp>,
}

impl QuotaShares {
    /// Shares to tell of, going on where these events ended.
    pub fn new<'e>(alert_at: &[u32], events: impl IntoIterator<Item = &'e Event>) -> Self {
        let mut alert_at = alert_at.to_vec();
        alert_at.sort_unstable();
        let mut told = BTreeMap::new();
        for event in events {
            if let Event::QuotaThreshold { window, percent, resets_at, .. } = event {
                told.insert(window.clone(), Told { percent: *percent, resets_at: *resets_at });
            }
        }
        Self { alert_at, told }
    }

    /// Takes the allowance in as the API has just told it; returns what to record and to tell of it.
    pub fn on(&mut self, quota: &Quota, now: Timestamp) -> Vec<Event> {
        quota.windows.iter().filter_map(|window| self.look(window, now)).collect()
    }

    fn look(&mut self, seen: &QuotaWindow, now: Timestamp) -> Option<Event> {
        let used = seen.percent?;
        if self.told.get(&seen.window).is_some_and(|told| told.is_over(seen, used, now)) {
            self.told.remove(&seen.window);
        }
        let percent = *self.alert_at.iter().rev().find(|share| **share <= used)?;
        let known = self.told.get(&seen.window);
        if known.is_some_and(|told| told.percent >= percent) || (known.is_none() && self.told.len() >= MAX_WINDOWS) {
            return None;
        }
        let resets_at = seen.resets_at;
        self.told.insert(seen.window.clone(), Told { percent, resets_at });
        Some(Event::QuotaThreshold { window: seen.window.clone(), percent, used, resets_at })
    }
}

impl Told {
    /// Whether the window that this was told of is over.
    fn is_over(self, seen: &QuotaWindow, used: u32, now: Timestamp) -> bool {
        match (self.resets_at, seen.resets_at) {
            (Some(old), Some(new)) => new.duration_since(old) >= ANOTHER_END && (now >= old || used < self.percent),
            // Nobody says when it ends: it has if most of it is free again.
            _ => used.saturating_mul(2) < self.percent,
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan;
    use proptest::prelude::*;

    use super::*;

    const START: Timestamp = Timestamp::UNIX_EPOCH;

    /// What is told when one window is seen so: minutes from the start, percent used, and minutes until its end.
    fn play(shares: &mut QuotaShares, looks: &[(i64, u32, Option<i64>)]) -> Vec<Option<u32>> {
        let one = |(minute, percent, end): &(i64, u32, Option<i64>)| {
            let resets_at = end.map(|end| START + end.minutes());
            let window = QuotaWindow { window: "5h".into(), status: None, percent: Some(*percent), resets_at };
            let told = shares.on(&Quota { windows: vec![window], ..Quota::default() }, START + minute.minutes());
            told.first().map(|event| if let Event::QuotaThreshold { percent, .. } = event { *percent } else { panic!("{event:?}") })
        };
        looks.iter().map(one).collect()
    }

    fn shares() -> QuotaShares {
        QuotaShares::new(&[80, 50, 100], [])
    }

    #[test]
    fn each_share_of_a_window_is_told_once_and_of_several_only_the_highest() {
        let end = Some(300);
        let looks = [(0, 49, end), (1, 50, end), (2, 61, end), (3, 49, end), (4, 50, end), (5, 100, end), (6, 104, end)];
        assert_eq!(play(&mut shares(), &looks), [None, Some(50), None, None, None, Some(100), None]);
    }

    #[test]
    fn a_window_that_begins_anew_is_told_anew_however_full_it_is() {
        let (first, second) = (Some(300), Some(600));
        let looks = [(0, 82, first), (299, 90, first), (299, 3, second), (320, 55, second), (400, 81, second)];
        assert_eq!(play(&mut shares(), &looks), [Some(80), None, None, Some(50), Some(80)]);
        let by_others = [(0, 82, first), (301, 85, second), (302, 85, second)];
        assert_eq!(play(&mut shares(), &by_others), [Some(80), Some(80), None]);
    }

    #[test]
    fn an_end_that_creeps_on_or_is_not_named_is_no_new_window() {
        let creeping: Vec<_> = (0..200).map(|minute| (minute, 82, Some(300 + minute))).collect();
        assert_eq!(play(&mut shares(), &creeping).into_iter().flatten().collect::<Vec<_>>(), [80]);
        let unnamed = [(0, 82, None), (1, 79, None), (2, 82, None), (3, 12, None), (4, 82, None)];
        assert_eq!(play(&mut shares(), &unnamed), [Some(80), None, None, None, Some(80)]);
    }

    #[test]
    fn what_an_earlier_attempt_told_is_not_told_again() {
        let end = START + 300.minutes();
        let told = Event::QuotaThreshold { window: "5h".into(), percent: 80, used: 82, resets_at: Some(end) };
        let mut shares = QuotaShares::new(&[50, 80, 100], [&told]);
        assert_eq!(play(&mut shares, &[(10, 85, Some(300)), (20, 100, Some(300))]), [None, Some(100)]);
    }

    #[test]
    fn windows_are_told_of_apart_and_only_so_many() {
        let mut shares = shares();
        let window = |name: String| QuotaWindow { window: name, percent: Some(90), ..QuotaWindow::default() };
        let quota = Quota { windows: (0..100).map(|number| window(format!("w{number}"))).collect(), ..Quota::default() };
        assert_eq!(shares.on(&quota, START).len(), MAX_WINDOWS);
        assert_eq!(shares.on(&quota, START), []);
    }

    proptest! {
        /// Within one window each share is told at most once, in rising order, and never before it is reached.
        #[test]
        fn within_one_window_shares_only_rise(uses in proptest::collection::vec(0_u32..130, 0..60)) {
            let looks: Vec<_> = uses.iter().map(|used| (1, *used, Some(300))).collect();
            let told: Vec<u32> = play(&mut shares(), &looks).into_iter().flatten().collect();
            prop_assert!(told.windows(2).all(|pair| pair[0] < pair[1]), "{told:?}");
            let most = uses.iter().max().copied().unwrap_or(0);
            prop_assert_eq!(told.last().copied(), [100, 80, 50].into_iter().find(|share| *share <= most));
        }
    }
}
