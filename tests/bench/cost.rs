//! What a piece of work costs: time by the wall and of the processors, its finished children's with it.

use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

use super::support::Samples;

/// One variant's times.
#[derive(Default)]
pub(crate) struct Cost {
    pub(crate) cpu: Samples,
    pub(crate) wall: Samples,
}

impl Cost {
    /// Does `work` and adds what it took.
    pub(crate) fn measure(&mut self, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
        let (before, start) = (cpu()?, Instant::now());
        work()?;
        self.wall.add(start.elapsed());
        self.cpu.add(cpu()?.saturating_sub(before));
        Ok(())
    }
}

/// User and system time of this process and of all children that were waited for.
fn cpu() -> anyhow::Result<Duration> {
    let time = |time: TimeVal| Duration::new(time.tv_sec().unsigned_abs(), u32::try_from(time.tv_usec()).unwrap_or(0) * 1_000);
    let mut sum = Duration::ZERO;
    for who in [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN] {
        let usage = getrusage(who)?;
        sum += time(usage.user_time()) + time(usage.system_time());
    }
    Ok(sum)
}
