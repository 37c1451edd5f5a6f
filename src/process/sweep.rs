//! The last rungs of the kill ladder: SIGKILL to everything below a thread, again and again, until waitpid says that no child
//! is left; then `sudo -n kill` for what runs as root; then the names of what is left.
//!
//! [`Sweep`] decides and signals, and never waits: the supervisor drives it between SIGCHLDs on its runtime, the guardian with
//! poll(2). A process in D state is waited for with patience, not for ever.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::ancestry::NAMESPACE_INIT;
use super::tree::Root;
use super::{Keep, Kept, Outcome, Rung, Survivor, SurvivorReason};
use crate::system::Process;

/// How long a sweep goes on without a new process appearing or a known one going. The teardown of a large process (2.5 ms
/// for each 20 MB) has to fit.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same when all that is left waits in the kernel (D state): that is harmless, and may last for hours.
const PATIENCE_WITH_D_STATE: Duration = Duration::from_secs(2);
/// The same when all that is left may not be signalled and sudo has done what it could.
const PATIENCE_WITH_REFUSALS: Duration = Duration::from_millis(200);
/// However much progress there is: a tree that grows faster than we kill it is reported, not watched for ever.
const UTMOST: Duration = Duration::from_mins(1);
/// How often `sudo -n kill` is tried.
const SUDO_TRIES: u32 = 2;
/// How long one try may take.
const SUDO_TIME: Duration = Duration::from_secs(5);

pub(super) struct Sweep<'a> {
    root: Root,
    keep: &'a Keep,
    /// What the last walk found of it.
    kept: Vec<Kept>,
    /// How many walks in a row found nothing living but that.
    only_kept: u32,
    /// How many in a row found nothing to keep.
    none_kept: u32,
    /// Got its SIGKILL already: whoever of it may not be signalled is found by the second walk.
    struck: Option<Pid>,
    began: Instant,
    /// The last time that something new was seen or something known was gone.
    progress: Instant,
    /// Everything ever seen alive: number and start time, and its name.
    seen: HashMap<(i32, u64), String>,
    outcome: Outcome,
    /// What the last round found.
    left: Vec<Process>,
    refused: HashSet<i32>,
    unnamed: Option<i32>,
    sudo: Sudo,
    rounds: u32,
}

enum Sudo {
    /// Tries left.
    Ready(u32),
    Running {
        answer: Receiver<()>,
        since: Instant,
        tries: u32,
    },
}

impl<'a> Sweep<'a> {
    /// Below the calling thread.
    pub(super) fn new(keep: &'a Keep, now: Instant) -> Self {
        Self {
            root: Root::here(),
            keep,
            kept: Vec::new(),
            only_kept: 0,
            none_kept: 0,
            struck: None,
            began: now,
            progress: now,
            seen: HashMap::new(),
            outcome: Outcome::default(),
            left: Vec::new(),
            refused: HashSet::new(),
            unnamed: None,
            sudo: Sudo::Ready(SUDO_TRIES),
            rounds: 0,
        }
    }

    /// SIGTERM, and SIGCONT for what is stopped, to everything found outside `group`, which has it already; once each, because twice is an
    /// order to hurry for some programs.
    pub(super) fn ask_to_end(&mut self, group: Option<Pid>, rungs: &[Rung]) {
        self.was_struck(None, rungs);
        self.outcome.used(Rung::Term);
        let mut asked = HashSet::new();
        // Again, where a process that ended meanwhile may have handed others past the walk. Those would get no time to end.
        for _ in 0..2 {
            let found = self.walk();
            self.note(&found, Instant::now());
            let apart = found.iter().filter(|process| Some(process.group) != group.map(Pid::as_raw));
            let mut any = false;
            for process in apart.filter(|process| !process.is_dead() && asked.insert((process.pid, process.start))) {
                let _ = self.root.signal(process, &[Signal::SIGTERM, Signal::SIGCONT]);
                any = true;
            }
            if !any {
                return;
            }
        }
    }

    /// These rungs were used before, with SIGKILL to `group`.
    pub(super) fn was_struck(&mut self, group: Option<Pid>, rungs: &[Rung]) {
        self.struck = group;
        self.progress = Instant::now();
        for rung in rungs {
            self.outcome.used(*rung);
        }
    }

    /// Whether anything may be kept.
    pub(super) fn keeps(&self) -> bool {
        *self.keep != Keep::default()
    }

    /// Looks again: whether nothing lives but what is kept.
    pub(super) fn finds_only_the_kept(&mut self) -> bool {
        let found = self.walk();
        self.note(&found, Instant::now());
        !self.kept.is_empty() && found.iter().all(Process::is_dead)
    }

    /// Whether there is nothing to keep, by two walks: one may miss what an ended parent hands on meanwhile.
    pub(super) const fn has_none_to_keep(&self) -> bool {
        self.none_kept >= 2
    }

    /// Whether nothing lives but what is kept, by two walks: one may miss what is handed on meanwhile.
    pub(super) fn has_only_the_kept(&self) -> bool {
        self.only_kept >= 2
    }

    /// One walk with SIGKILL to everything found. The caller reaps afterwards, and is done when there is no child left.
    pub(super) fn kill_round(&mut self, now: Instant) {
        self.outcome.used(Rung::Sweep);
        if self.rounds == 0 {
            // What used its whole grace to tidy up has had no time yet to be gone.
            self.progress = now;
        }
        let (mut refused, mut kept) = (HashSet::new(), Vec::new());
        let (root, keep, struck) = (self.root, self.keep, self.struck.take().map(Pid::as_raw));
        let mut found = root.walk(|process| {
            if process.is_dead() || Some(process.group) == struck {
                return;
            }
            if let Some(name) = keep.matching(process) {
                kept.push(Kept { pid: process.pid, name: name.to_owned() });
            } else if let Err(error) = root.signal(process, &[Signal::SIGKILL])
                && error.raw_os_error() == Some(libc::EPERM)
            {
                refused.insert(process.pid);
            }
        });
        found.retain(|process| !kept.iter().any(|kept| kept.pid == process.pid));
        self.rounds += 1;
        self.refused = refused;
        self.only_kept = if !kept.is_empty() && found.iter().all(Process::is_dead) { self.only_kept + 1 } else { 0 };
        self.none_kept = if kept.is_empty() { self.none_kept + 1 } else { 0 };
        self.kept = kept;
        self.note(&found, now);
        self.ask_sudo(now);
    }

    /// What is found, without what is kept.
    fn walk(&mut self) -> Vec<Process> {
        let (keep, mut kept) = (self.keep, Vec::new());
        let mut found = self.root.walk(|_| {});
        found.retain(|process| match keep.matching(process).filter(|_| !process.is_dead()) {
            Some(name) => {
                kept.push(Kept { pid: process.pid, name: name.to_owned() });
                false
            }
            None => true,
        });
        self.kept = kept;
        found
    }

    /// How long to wait before walking again, if what was found is not gone sooner.
    pub(super) fn pause(&self) -> Duration {
        match self.rounds {
            0..=20 => Duration::from_millis(2),
            21..=60 => Duration::from_millis(10),
            _ => Duration::from_millis(50),
        }
    }

    /// Whether everything that the last round found is among `reaped`, or gone without that.
    pub(super) fn knows_only(&self, reaped: &HashSet<i32>) -> bool {
        self.left.iter().all(|process| reaped.contains(&process.pid) || self.root.was_reaped_by_others(process))
    }

    /// What is left, once there is no hope that waiting helps. `None`: go on.
    pub(super) fn give_up(&self, now: Instant) -> Option<Vec<Survivor>> {
        let living: Vec<&Process> = self.left.iter().filter(|process| !process.is_dead()).collect();
        let all = |what: &dyn Fn(&Process) -> bool| !living.is_empty() && living.iter().all(|process| what(process));
        let sudo_is_done = matches!(self.sudo, Sudo::Ready(0));
        let quiet = now.saturating_duration_since(self.progress);
        let hopeless = (sudo_is_done && quiet >= PATIENCE_WITH_REFUSALS && all(&|process| self.refused.contains(&process.pid)))
            || (quiet >= PATIENCE_WITH_D_STATE && all(&|process| process.state == 'D'))
            || quiet >= PATIENCE
            || now.saturating_duration_since(self.began) >= UTMOST;
        hopeless.then(|| living.into_iter().map(|process| self.survivor(process)).collect())
    }

    /// How many processes have ended, given who was reaped and who survived. At least: a child that died before its parent did, of the same
    /// signal, and was reaped by it (wait4(2) looks at children before it looks at signals) was seen by nobody unless a walk came first.
    pub(super) fn ended(&self, reaped: &HashSet<i32>, survivors: &[Survivor]) -> u32 {
        let by_number: HashMap<i32, u32> = self.seen.keys().fold(HashMap::new(), |mut count, (pid, _)| {
            *count.entry(*pid).or_default() += 1;
            count
        });
        let seen: u32 = by_number.values().sum();
        let unseen = reaped.iter().filter(|pid| !by_number.contains_key(pid)).count();
        (seen + u32::try_from(unseen).unwrap_or(u32::MAX)).saturating_sub(u32::try_from(survivors.len()).unwrap_or(u32::MAX))
    }

    /// A process that is counted elsewhere: its name is not listed.
    #[cfg(target_os = "linux")]
    pub(super) fn forget_name(&mut self, pid: Pid) {
        self.unnamed = Some(pid.as_raw());
    }

    /// What was done, and with whom. `survivors` are those of [`Self::give_up`].
    pub(super) fn outcome(&self, survivors: Vec<Survivor>) -> Outcome {
        let mut outcome = self.outcome.clone();
        for ((pid, _), name) in &self.seen {
            // The first process of a session's own namespace is none that the command started.
            let is_ours = self.unnamed == Some(*pid) || name == NAMESPACE_INIT;
            if !is_ours && !survivors.iter().any(|survivor| survivor.pid == *pid) {
                *outcome.ended.entry(name.clone()).or_default() += 1;
            }
        }
        outcome.survivors = survivors;
        outcome.kept.clone_from(&self.kept);
        outcome
    }

    fn note(&mut self, found: &[Process], now: Instant) {
        let mut new = false;
        for process in found {
            if !process.is_dead() {
                new |= self.seen.insert((process.pid, process.start), process.comm.clone()).is_none();
            }
        }
        let still: HashSet<(i32, u64)> = found.iter().map(|process| (process.pid, process.start)).collect();
        let gone = self.left.iter().any(|process| !still.contains(&(process.pid, process.start)));
        if new || gone {
            self.progress = now;
        }
        self.left = found.to_vec();
    }

    fn survivor(&self, process: &Process) -> Survivor {
        let why = if self.refused.contains(&process.pid) {
            SurvivorReason::Setuid
        } else if process.state == 'D' {
            SurvivorReason::DState
        } else {
            SurvivorReason::StillExiting
        };
        Survivor { pid: process.pid, comm: process.comm.clone(), start: Some(process.start), why }
    }

    /// Where the agent could become root without a password, so can we.
    fn ask_sudo(&mut self, now: Instant) {
        match &mut self.sudo {
            Sudo::Running { answer, since, tries } => {
                let finished = !matches!(answer.try_recv(), Err(TryRecvError::Empty));
                if finished || now.saturating_duration_since(*since) >= SUDO_TIME {
                    self.sudo = Sudo::Ready(*tries);
                    self.progress = now;
                }
            }
            Sudo::Ready(0) => {}
            Sudo::Ready(tries) => {
                // The rest first: killing a setuid program's parent often ends it (its input closes).
                if self.refused.is_empty() || self.left.iter().any(|p| !p.is_dead() && !self.refused.contains(&p.pid)) {
                    return;
                }
                self.outcome.used(Rung::Sudo);
                self.sudo = match sudo_kill(&self.refused) {
                    Some(answer) => Sudo::Running { answer, since: now, tries: *tries - 1 },
                    None => Sudo::Ready(0),
                };
            }
        }
    }
}

/// Runs `sudo -n kill -9` from a thread of its own, so that neither the reaper nor the sweep takes it for the agent's.
/// `None` if there is no sudo that can be trusted.
fn sudo_kill(pids: &HashSet<i32>) -> Option<Receiver<()>> {
    // By absolute path: directories of PATH may be the agent's to write in.
    let sudo = ["/usr/bin/sudo", "/bin/sudo", "/usr/local/bin/sudo"]
        .into_iter()
        .find(|path| std::fs::metadata(path).is_ok_and(|meta| meta.uid() == 0 && meta.mode() & 0o4000 != 0))?;
    let kill = ["/usr/bin/kill", "/bin/kill"].into_iter().find(|path| Path::new(path).exists())?;
    let mut command = Command::new(sudo);
    command.args(["-n", "--", kill, "-9"]).args(pids.iter().map(ToString::to_string)).env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let (done, answer) = channel();
    let thread = std::thread::Builder::new().name("sudo-kill".into());
    thread
        .spawn(move || {
            let _ = command.status();
            let _ = done.send(());
        })
        .ok()?;
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, state: char) -> Process {
        Process { pid, comm: format!("p{pid}"), state, parent: 1, group: pid, session: pid, threads: 1, start: 7 }
    }

    #[test]
    fn d_state_is_given_up_early_and_named() {
        let start = Instant::now();
        let keep = Keep::default();
        let mut sweep = Sweep::new(&keep, start);
        sweep.note(&[process(5, 'D'), process(6, 'Z')], start);
        assert_eq!(sweep.give_up(start + Duration::from_secs(1)), None);
        let expected = Survivor { pid: 5, comm: "p5".into(), start: Some(7), why: SurvivorReason::DState };
        assert_eq!(sweep.give_up(start + PATIENCE_WITH_D_STATE), Some(vec![expected]));
    }

    #[test]
    fn patience_begins_anew_with_every_process_that_goes() {
        let start = Instant::now();
        let keep = Keep::default();
        let mut sweep = Sweep::new(&keep, start);
        sweep.note(&[process(5, 'R'), process(6, 'R')], start);
        sweep.note(&[process(6, 'R')], start + Duration::from_secs(4));
        assert_eq!(sweep.give_up(start + PATIENCE), None);
        let survivors = sweep.give_up(start + Duration::from_secs(4) + PATIENCE).unwrap();
        assert_eq!(survivors, [Survivor { pid: 6, comm: "p6".into(), start: Some(7), why: SurvivorReason::StillExiting }]);
        assert_eq!(sweep.ended(&HashSet::from([5]), &survivors), 1);
    }

    #[test]
    fn what_was_reaped_unseen_is_counted_too() {
        let keep = Keep::default();
        let mut sweep = Sweep::new(&keep, Instant::now());
        sweep.note(&[process(5, 'S')], Instant::now());
        assert_eq!(sweep.ended(&HashSet::from([5, 8, 9]), &[]), 3);
    }
}
