//! The agent's end: a first signal, the time to go by itself, and then whatever it takes until nothing is left.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::time::timeout_at;

use super::super::sweep::Sweep;
use super::super::{Cgroup, Ended, Keep, Rung, Survivor};
use super::Agent;

/// How long a cgroup that was killed is waited for before the tree is looked at: a process whose main thread has exited stays in it.
const CGROUP_TIME: Duration = Duration::from_millis(25);

/// A first signal.
pub(super) struct Strike {
    at: Instant,
    /// SIGKILL, not SIGTERM.
    hard: bool,
    /// The group that got it.
    group: Option<Pid>,
    rungs: Vec<Rung>,
}

impl Agent {
    /// Posts the first signal of an end, before anything is looked at or written down: SIGTERM to the agent's group, or (`hard`) SIGKILL to its
    /// cgroup and its group. [`Self::end`] must follow, and goes on from there.
    pub fn strike(&mut self, hard: bool) {
        // What was reaped may have been the agent, and then its number is free.
        self.absorb();
        self.root.remember();
        // From here on processes die of it, and the first can be reaped before the end goes on.
        self.reaper.count();
        let group = self.group();
        let mut rungs = Vec::new();
        if hard && self.cgroup.as_ref().is_some_and(Cgroup::kill) {
            rungs.push(Rung::Cgroup);
        }
        if let Some(group) = group {
            if hard {
                let _ = killpg(group, Signal::SIGKILL);
                rungs.push(Rung::Group);
            } else {
                let _ = killpg(group, Signal::SIGTERM);
                let _ = killpg(group, Signal::SIGCONT);
                rungs.push(Rung::Term);
            }
        }
        self.strike = Some(Strike { at: Instant::now(), hard, group, rungs });
    }

    /// [`Self::end_but`], and nothing is kept.
    pub async fn end(&mut self, grace: Option<Duration>) -> Ended {
        self.end_but(grace, &Keep::default()).await
    }

    /// Ends everything but `keep`: SIGTERM (only with a grace period), then SIGKILL until nothing is left, then `sudo -n kill` for what
    /// runs as root. To be used after the agent's own exit as well: what it left behind is ended, and so are its daemons.
    /// The terminal is in order when this returns.
    ///
    /// Returns within the grace period and a few milliseconds; with processes that do not go, at most some seconds later,
    /// and they are named. May be called again.
    pub async fn end_but(&mut self, grace: Option<Duration>, keep: &Keep) -> Ended {
        let mut sweep = Sweep::new(keep, Instant::now());
        self.reaper.count();
        let mut left = self.is_anything_left();
        self.absorb();
        let mut signalled_at = self.strike.as_ref().map(|strike| strike.at);
        if left && let Some(grace) = grace {
            let strike = self.struck(false);
            sweep.ask_to_end(strike.group, &strike.rungs);
            signalled_at = signalled_at.or(Some(strike.at));
            left = self.wait_until_gone(&mut sweep, grace).await;
        }
        let mut survivors = Vec::new();
        if left {
            let strike = if sweep.keeps() { None } else { Some(self.struck(true)) };
            signalled_at = signalled_at.or(strike.as_ref().map(|strike| strike.at));
            survivors = self.kill(&mut sweep, strike).await;
            signalled_at = signalled_at.or(Some(Instant::now()));
        }
        let gone_at = Instant::now();
        self.strike = None;
        self.absorb();
        if let Some(terminal) = &self.terminal {
            match self.shell.filter(|_| self.shell_went_ahead) {
                Some(shell) => terminal.clear_up_behind(shell),
                // Again, because a job of the agent's may have had the foreground when the agent itself went.
                None => {
                    terminal.restore(self.pid, self.exit);
                }
            }
        }
        let processes = sweep.ended(&self.reaper.counted(), &survivors);
        let outcome = sweep.outcome(survivors);
        if let Some(cgroup) = &self.cgroup {
            outcome.kept.iter().for_each(|kept| cgroup.release(kept.pid));
            cgroup.remove();
        }
        Ended { signalled_at: signalled_at.unwrap_or(gone_at), gone_at, processes, outcome, exit: self.exit }
    }

    /// The first signal, which may have been posted already.
    fn struck(&mut self, hard: bool) -> Strike {
        if self.strike.as_ref().is_none_or(|strike| strike.hard != hard) {
            self.strike(hard);
        }
        self.strike.take().unwrap_or(Strike { at: Instant::now(), hard, group: None, rungs: Vec::new() })
    }

    /// Returns whether anything is left when the grace period is over, or nothing but what is kept.
    async fn wait_until_gone(&mut self, sweep: &mut Sweep<'_>, grace: Duration) -> bool {
        let deadline = tokio::time::Instant::now() + grace;
        loop {
            let left = self.is_anything_left();
            self.absorb();
            if !left || (sweep.keeps() && self.reaper.has_reaped(|reaped| sweep.knows_only(reaped)) && sweep.finds_only_the_kept()) {
                return left;
            }
            if timeout_at(deadline, self.reaper.passed()).await.is_err() {
                return left;
            }
        }
    }

    async fn kill(&self, sweep: &mut Sweep<'_>, strike: Option<Strike>) -> Vec<Survivor> {
        // With a cgroup all of it is dying already: what is left once that is empty is found by a shorter walk.
        let mut waits = match strike {
            Some(Strike { rungs, group, .. }) => {
                sweep.was_struck(group, &rungs);
                self.cgroup.as_ref().filter(|_| rungs.contains(&Rung::Cgroup))
            }
            None => None,
        };
        loop {
            if waits.is_none() {
                sweep.kill_round(Instant::now());
                if sweep.keeps() && sweep.has_none_to_keep() && self.cgroup.as_ref().is_some_and(Cgroup::kill) {
                    sweep.was_struck(None, &[Rung::Cgroup]);
                }
            }
            if !self.is_anything_left() {
                return Vec::new();
            }
            if sweep.has_only_the_kept() {
                return Vec::new();
            }
            if let Some(survivors) = sweep.give_up(Instant::now()) {
                return survivors;
            }
            if !self.wait_for_the_known(sweep, waits.take()).await {
                return Vec::new();
            }
        }
    }

    /// Until all that the last walk found is reaped, or the cgroup is empty, so that whatever is left is new; or until it is time to walk
    /// anyway: a walk for every one that ends would look at each of the others again and again. Returns whether anything is left.
    async fn wait_for_the_known(&self, sweep: &Sweep<'_>, cgroup: Option<&Cgroup>) -> bool {
        let until = tokio::time::Instant::now() + if cgroup.is_some() { CGROUP_TIME } else { sweep.pause() };
        while timeout_at(until, self.reaper.passed()).await.is_ok() {
            if !self.is_anything_left() {
                return false;
            }
            let known_are_gone = || self.reaper.has_reaped(|reaped| sweep.knows_only(reaped));
            if cgroup.map_or_else(known_are_gone, Cgroup::is_empty) {
                break;
            }
        }
        true
    }

    /// Reaps all there is. Returns whether anything of the tree is left, dead or alive.
    fn is_anything_left(&self) -> bool {
        let has_children = self.reaper.reap();
        has_children || self.root.has_orphans()
    }
}
