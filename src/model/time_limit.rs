//! The time that counts towards a session's time limit, over all its attempts.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{Event, Record, StopReason};

/// How long the session's command ran before the shell or a stop took it out of play, added up over its attempts. Of an attempt that
/// crashed it is the time until its last record: nobody knows more.
pub fn time_used<'a>(records: impl IntoIterator<Item = &'a Record>) -> Duration {
    let (mut used, mut since, mut last): (SignedDuration, Option<Timestamp>, Option<Timestamp>) = (SignedDuration::ZERO, None, None);
    let mut limit = SignedDuration::ZERO;
    let records: Vec<&Record> = records.into_iter().collect();
    for (place, record) in records.iter().enumerate() {
        if let Event::AttemptStarted { time_limit_s: Some(seconds), .. } = &record.event {
            limit = SignedDuration::from_secs(i64::try_from(*seconds).unwrap_or(i64::MAX));
        }
        let ends_at = match &record.event {
            // An attempt whose end nobody recorded.
            Event::AttemptStarted { .. } | Event::AttemptEnded { reason: StopReason::Crashed, .. } => last,
            // Written by whoever came by later.
            Event::StopRequested { .. } if records[place..].iter().take(2).any(|record| is_late(&record.event)) => last,
            Event::Paused | Event::StopRequested { .. } | Event::AttemptEnded { .. } => Some(record.at),
            _ => None,
        };
        if let (Some(end), Some(begin)) = (ends_at, since) {
            // The wall clock may have been set back.
            used += end.duration_since(begin).max(SignedDuration::ZERO);
            since = None;
        }
        if matches!(record.event, Event::StopRequested { reason: StopReason::Deadline, .. }) {
            // The clock that counts while it runs begins a moment before the command is recorded.
            used = used.max(limit);
        }
        if matches!(record.event, Event::ChildStarted { .. } | Event::Continued) {
            since = Some(record.at);
        }
        last = Some(record.at);
    }
    used.unsigned_abs()
}

/// The sweep's word on a session that nobody had ended.
fn is_late(event: &Event) -> bool {
    matches!(event, Event::StopRequested { by, .. } if by == "sweep")
}

/// `1h 30m`: a time limit, exactly, as it can be typed.
pub fn show_time_limit(limit: Duration) -> String {
    SignedDuration::try_from(limit).map_or_else(|_| format!("{}s", limit.as_secs()), |limit| format!("{limit:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Outcome;

    fn used(events: Vec<(i64, Event)>) -> u64 {
        let record = |(second, event)| Record { v: 1, seq: 1, at: Timestamp::from_second(second).unwrap(), prev: String::new(), event };
        let records: Vec<Record> = events.into_iter().map(record).collect();
        time_used(&records).as_secs()
    }

    fn started() -> Event {
        Event::ChildStarted { pid: 1, start: None, cgroup: None, mounts: None }
    }

    fn ended(reason: StopReason) -> Event {
        Event::AttemptEnded { reason, exit_code: 0, processes_ended: 0, survivors: vec![], outcome: Outcome::default() }
    }

    fn stop() -> Event {
        Event::StopRequested { reason: StopReason::Deadline, by: "deadline".into(), from: None, note: None }
    }

    #[test]
    fn all_attempts_count_and_the_time_in_which_the_shell_had_stopped_the_job_does_not() {
        let first = vec![(100, started()), (110, Event::Paused), (5_000, Event::Continued), (5_020, ended(StopReason::ChildExited))];
        assert_eq!(used(first.clone()), 30);
        let second = vec![(9_000, started()), (9_007, stop()), (9_050, ended(StopReason::Deadline))];
        assert_eq!(used(first.into_iter().chain(second).collect()), 37, "saving the work is not running");
    }

    #[test]
    fn a_crashed_attempt_counts_until_its_last_record() {
        let notice = || Event::Notice { what: "x".into() };
        assert_eq!(used(vec![(100, started()), (140, notice()), (90_000, ended(StopReason::Crashed))]), 40);
        let stop = |by: &str| Event::StopRequested { reason: StopReason::Killed, by: by.into(), from: None, note: None };
        let swept = vec![(90_000, stop("ana")), (90_000, stop("sweep")), (90_000, ended(StopReason::Killed))];
        assert_eq!(used([(100, started()), (140, notice())].into_iter().chain(swept).collect()), 40, "ended by the sweep with a kill file");
        assert_eq!(used(vec![(100, started()), (140, notice())]), 0, "one that still runs is no earlier one");
    }

    #[test]
    fn a_clock_that_was_set_back_takes_nothing_away() {
        assert_eq!(used(vec![(100, started()), (40, ended(StopReason::ChildExited)), (50, started()), (53, stop())]), 3);
    }
}
