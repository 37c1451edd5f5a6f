//! How long a budget lasts at the pace of the last ten minutes.

use std::time::Duration;

use super::{LimitKind, SessionView, Usd};

/// Beyond this nobody plans: it is told as no end at all.
const FAR: u64 = 100 * 3_600;

/// When the first of the session's dollar limits is reached, if it goes on as in the last ten minutes; `None` where nothing was spent in
/// them, there is no such limit, or that is more than 100 hours away. Zero once it is reached.
pub fn time_to_limit(view: &SessionView) -> Option<Duration> {
    let per_hour = u128::from(view.burn_usd_per_hour.pico());
    if per_hour == 0 {
        return None;
    }
    let lasts = |left: u64| u64::try_from(u128::from(left) * 3_600 / per_hour).ok();
    let limits = view.budgets.iter().filter(|budget| budget.kind == LimitKind::Usd && budget.shared.is_none());
    let left = limits.filter_map(|budget| {
        let (limit, used): (Usd, Usd) = (budget.limit.parse().ok()?, budget.used.parse().ok()?);
        lasts(limit.pico().saturating_sub(used.pico()))
    });
    left.min().filter(|seconds| *seconds <= FAR).map(Duration::from_secs)
}

/// `40 s`, `36 min`, `5 h`: for people, rounded down.
pub fn show_duration(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..7_200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BudgetView, Spent, fixture};

    #[test]
    fn the_time_to_the_limit_is_what_is_left_at_the_pace_of_the_last_ten_minutes() {
        let view = |burn: &str, budgets: &[(&str, &str)]| {
            let mut view = fixture::session();
            view.burn_usd_per_hour = burn.parse().unwrap();
            view.budgets = budgets
                .iter()
                .map(|(limit, used)| {
                    BudgetView::of(limit.parse().unwrap(), &Spent { cost: used.parse().unwrap(), tokens: 1_000, requests: 0 })
                })
                .collect();
            view
        };
        let minutes = |burn: &str, budgets: &[(&str, &str)]| time_to_limit(&view(burn, budgets)).map(|left| left.as_secs() / 60);
        assert_eq!(minutes("2", &[("5usd", "4")]), Some(30));
        assert_eq!(minutes("2", &[("5usd", "5")]), Some(0));
        assert_eq!(minutes("2", &[("5usd", "6")]), Some(0), "passed is reached");
        assert_eq!(minutes("0", &[("5usd", "4")]), None, "nothing is spent");
        assert_eq!(minutes("2", &[]), None);
        assert_eq!(minutes("2", &[("2Mtok", "4")]), None, "the pace is in dollars");
        assert_eq!(minutes("0.009", &[("5usd", "4")]), None, "111 hours are no forecast");
        assert_eq!(minutes("0.01", &[("5usd", "4")]), Some(6_000));
    }

    #[test]
    fn times_are_shown_in_the_unit_that_fits() {
        let shown = [0, 59, 60, 7_199, 7_200].map(|seconds| show_duration(Duration::from_secs(seconds)));
        assert_eq!(shown, ["0 s", "59 s", "1 min", "119 min", "2 h"]);
    }
}
