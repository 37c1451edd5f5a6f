//! The time that counts against a session's time limit.
//!
//! It is the wall clock's time as the boot clock tells it: while the *machine* is suspended it runs on, and nobody can set it back. While
//! the shell has stopped the whole *job* (`Ctrl-Z`) it stands still, as nextest's does: a person has taken the session out of play, and
//! every process that could spend through us stands still with us. A command that stops only itself pauses nothing.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::time::sleep;

/// How long at most is slept towards the limit in one go: a sleep counts no time in which the machine is suspended, so it would end late by as much.
const NAP: Duration = Duration::from_secs(1);

/// Since the boot, time in suspension included. Off Linux: the monotonic clock (macOS counts its sleep there).
pub(super) fn now() -> Duration {
    #[cfg(target_os = "linux")]
    const CLOCK: ClockId = ClockId::CLOCK_BOOTTIME;
    #[cfg(target_os = "macos")]
    const CLOCK: ClockId = ClockId::CLOCK_MONOTONIC;
    // It cannot fail for a clock that every kernel has.
    clock_gettime(CLOCK).map(Duration::from).unwrap_or_default()
}

/// Counts a session's time. Pure: every moment is an argument, and comes from [`now`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stopwatch {
    started: Duration,
    /// Since when the job is stopped.
    paused_since: Option<Duration>,
    /// How long it was stopped before that.
    paused: Duration,
}

impl Stopwatch {
    const fn started(now: Duration) -> Self {
        Self { started: now, paused_since: None, paused: Duration::ZERO }
    }

    fn pause(&mut self, now: Duration) {
        self.paused_since.get_or_insert(now);
    }

    fn go_on(&mut self, now: Duration) {
        if let Some(since) = self.paused_since.take() {
            self.paused += now.saturating_sub(since);
        }
    }

    fn elapsed(&self, now: Duration) -> Duration {
        let until = self.paused_since.unwrap_or(now);
        until.saturating_sub(self.started).saturating_sub(self.paused)
    }
}

/// The session's time limit.
#[derive(Debug)]
pub(super) struct Deadline {
    limit: Option<Duration>,
    /// What earlier attempts took of it.
    used: Duration,
    watch: Stopwatch,
}

impl Deadline {
    /// Begins to count now; so much of it is used already.
    pub(super) fn starts(limit: Option<Duration>, used: Duration) -> Self {
        Self { limit, used, watch: Stopwatch::started(now()) }
    }

    /// The shell is about to stop the job.
    pub(super) fn pause(&mut self) {
        self.watch.pause(now());
    }

    /// The job goes on. Returns whether it was paused.
    pub(super) fn go_on(&mut self) -> bool {
        let was_paused = self.watch.paused_since.is_some();
        self.watch.go_on(now());
        was_paused
    }

    /// Waits until the limit is reached, and says which it was; for ever where there is none. Cancel-safe.
    pub(super) async fn reached(&self) -> Duration {
        let Some(limit) = self.limit else { return std::future::pending().await };
        loop {
            let left = limit.saturating_sub(self.used).saturating_sub(self.watch.elapsed(now()));
            if left.is_zero() {
                return limit;
            }
            sleep(left.min(NAP)).await;
        }
    }

    /// It was acted on: it is not reached again.
    pub(super) fn lift(&mut self) {
        self.limit = None;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn time_in_which_the_machine_is_suspended_counts() {
        let watch = Stopwatch::started(at(100));
        // The boot clock jumps by what the machine slept.
        assert_eq!(watch.elapsed(at(100 + 5 + 36_000)), at(36_005));
    }

    #[test]
    fn time_in_which_the_shell_has_stopped_the_job_does_not_count() {
        let mut watch = Stopwatch::started(at(100));
        watch.pause(at(110));
        assert_eq!(watch.elapsed(at(5_000)), at(10));
        watch.go_on(at(5_000));
        assert_eq!(watch.elapsed(at(5_020)), at(30));
        // The machine was suspended while the job was stopped: still the person's time.
        watch.pause(at(5_020));
        watch.go_on(at(90_000));
        assert_eq!(watch.elapsed(at(90_001)), at(31));
    }

    #[test]
    fn a_stop_told_twice_counts_from_the_first_and_a_continuation_without_a_stop_is_nothing() {
        let mut watch = Stopwatch::started(at(0));
        watch.go_on(at(3));
        watch.pause(at(10));
        watch.pause(at(20));
        watch.go_on(at(30));
        watch.go_on(at(40));
        assert_eq!(watch.elapsed(at(50)), at(30));
    }

    proptest! {
        /// Whatever is stopped and continued when: what counts and what does not add up to the wall clock, and time never runs back.
        #[test]
        fn counted_and_paused_time_add_up(steps in prop::collection::vec((0_u64..1000, any::<bool>()), 0..20)) {
            let (mut watch, mut now, mut counted, mut paused) = (Stopwatch::started(at(7)), at(7), Duration::ZERO, false);
            for (seconds, pause) in steps {
                now += at(seconds);
                if !paused {
                    counted += at(seconds);
                }
                prop_assert_eq!(watch.elapsed(now), counted);
                if pause { watch.pause(now) } else { watch.go_on(now) }
                paused = pause;
            }
        }
    }

    #[test]
    fn the_boot_clock_runs() {
        let before = now();
        assert!(before > Duration::ZERO && now() >= before);
    }
}
