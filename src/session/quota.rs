//! What is left of a subscription, as the API tells it with each answer: recorded whenever it is another, and told at the shares that
//! a budget is told at (`[budget] alert_at`), in the same places: the journal, the terminal where it is ours, inside the client, the alerts.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

use super::alerting::Alarms;
use super::chronicle::Chronicle;
use super::notices::{Audience, Notice, Notices};
use super::report::{Report, Reporter};
use crate::meter::quota::QuotaShares;
use crate::model::{Event, Record, quota_used};
use crate::proxy::QuotaWatch;

/// Goes on where the records of earlier attempts ended.
pub(super) fn watch(
    alert_at: &[u32],
    earlier: &[Record],
    chronicle: Chronicle,
    reporter: Reporter,
    inside: Notices,
    alarms: Alarms,
) -> QuotaWatch {
    let shares = QuotaShares::new(alert_at, earlier.iter().map(|record| &record.event));
    let state = Mutex::new((chronicle.view().quota, shares));
    Arc::new(move |quota| {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, shares) = &mut *state;
        let now = Timestamp::now();
        let passed = shares.on(&quota, now);
        if last.as_ref() != Some(&quota) {
            // A lost journal has told the session already.
            let _ = chronicle.record(Event::QuotaSeen { quota: quota.clone() });
            *last = Some(quota);
        }
        for event in passed {
            if let Event::QuotaThreshold { window, percent, used, resets_at } = &event {
                let what = quota_used(window, *used, *resets_at, now);
                alarms.quota(*percent, &what);
                reporter(Report::Notice(what.clone()));
                let once_key = format!("quota {window} {percent}");
                // What a window before this one was told is no longer true.
                inside.rearm(&once_key);
                inside.post(Notice { audience: Audience::Person, text: format!("sentrely: {what}"), once_key });
            }
            let _ = chronicle.record(event);
        }
    })
}
