//! The acts: what is done, what the person sees of it, what is checked.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use nix::sys::signal::Signal;

use super::stage::{BAIT_AWS_KEY, BAIT_MODEL_KEY, Stage};
use super::{Checks, tell};
use crate::cli::ui::can_redraw;
use crate::model::{EXIT_BUDGET, EXIT_KILLED, Event, LimitKind, Record, SessionState, SessionView, StopReason};
use crate::store::{SessionDir, read_journal};
use crate::system::{self, Process};

/// No act takes longer, on a slow machine too.
const PATIENCE: Duration = Duration::from_mins(1);
/// Ignores what asks it to end, as does its child, which is in a session of its own.
#[cfg(target_os = "linux")]
const STUBBORN: &str = "trap '' TERM INT HUP; setsid sleep 60 & sleep 60; wait";
/// As on Linux: macOS has no setsid(1), but Perl.
#[cfg(target_os = "macos")]
const STUBBORN: &str = "trap '' TERM INT HUP; perl -MPOSIX -e 'POSIX::setsid(); exec @ARGV' sleep 60 & sleep 60; wait";
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// Acts 1 to 3: the branch, the budget, the environment.
pub(super) fn spend_and_push(stage: &Stage, checks: &mut Checks) -> anyhow::Result<()> {
    let main_before = stage.origin_ref("refs/heads/main");
    tell("$ sentrely run --budget 1usd -- agent        (each turn costs $0.10)");
    let binary = stage.binary.to_string_lossy().into_owned();
    let mut run = Running::start(stage.sentrely(&["run", "--budget", "1usd", "--", &binary, "demo", "--play", "spender"]))?;
    let (view, dir) = Running::session(stage)?;
    let agent = Running::agent_pid(&dir)?;
    let environment = system::environment(agent).unwrap_or_default();
    let code = run.watch(&dir)?;

    let journal = journal_of(&dir)?;
    let view = SessionView::fold(&journal).unwrap_or(view);
    let upstream = stage.upstream.messages();
    let holds = |text: &str| environment.windows(text.len()).any(|window| window == text.as_bytes());
    checks.that(
        "the agent's environment holds neither the AWS key nor the model key of the developer",
        !environment.is_empty() && !holds(BAIT_AWS_KEY) && !holds(BAIT_MODEL_KEY) && holds("SENTRELY_RUN_ID="),
        format!("the environment of process {agent}, {} bytes", environment.len()),
    );
    let refused: Vec<&str> = journal
        .iter()
        .filter_map(|record| match &record.event {
            Event::PushRefused { refs, .. } => refs.first().map(String::as_str),
            _ => None,
        })
        .collect();
    checks.that(
        "git push origin HEAD:main was refused, and main of the origin did not move",
        refused == ["refs/heads/main"] && main_before.is_some() && stage.origin_ref("refs/heads/main") == main_before,
        format!("refused {refused:?}"),
    );
    let branch = view.branch.clone().unwrap_or_default();
    let pushed = journal.iter().find_map(|record| match &record.event {
        Event::PushAccepted { branch, commit } => Some((branch.clone(), commit.clone())),
        _ => None,
    });
    let arrived = stage.origin_ref(&format!("refs/heads/{branch}"));
    checks.that(
        "the session's own branch arrived in the origin",
        pushed.is_some() && pushed.map(|(_, commit)| commit) == arrived,
        format!("{branch} at {}", arrived.clone().unwrap_or_default()),
    );
    checks.that(
        "50 % and 80 % were told, each once",
        [50, 80].iter().all(|share| thresholds(&journal).iter().filter(|told| *told == share).count() == 1),
        format!("{:?}", thresholds(&journal)),
    );
    let settled = journal.iter().filter(|record| matches!(record.event, Event::RequestSettled { .. })).count();
    let arrived_bytes: usize = upstream.iter().map(|request| request.body_bytes).sum();
    let paid_bytes: usize = (1..).take(settled).map(super::agent::turn_bytes).sum();
    checks.that(
        "the request past the budget was refused before it left: bytes of it sent upstream: 0",
        view.refused >= 1 && upstream.len() == settled && arrived_bytes == paid_bytes && code == i32::from(EXIT_BUDGET),
        format!(
            "{} requests with {arrived_bytes} bytes at the upstream, {settled} with {paid_bytes} bytes paid, {} refused, exit {code}",
            upstream.len(),
            view.refused
        ),
    );
    let spent = view.cost_usd;
    checks.that(
        "no more was spent than the budget",
        spent > crate::model::Usd::ZERO && spent.percent_of("1".parse()?) <= 100 && view.stop_reason == Some(StopReason::BudgetReached),
        format!("${spent} of $1"),
    );
    checks.that(
        "the upstream got the real key, and never the session's token",
        !upstream.is_empty()
            && upstream.iter().all(|request| request.header("x-api-key") == Some(BAIT_MODEL_KEY) && request.path.starts_with("/v1/")),
        format!("{} requests", upstream.len()),
    );
    let home = stage.git(&stage.path("shop"), &["rev-parse", "--verify", "--quiet", &format!("refs/heads/{branch}")]).ok();
    checks.that("the work is in the developer's repository, on its branch", home.is_some() && home == arrived, branch);
    Ok(())
}

/// Act 5: a process that ignores TERM, and its escaped child, are killed.
pub(super) fn kill(stage: &Stage, checks: &mut Checks) -> anyhow::Result<()> {
    let before = stage.upstream.messages().len();
    tell("$ sentrely run -- agent        (ignores TERM, and so does a process it puts into a session of its own)");
    let mut run = Running::start(stage.sentrely(&["run", "--", "sh", "-c", STUBBORN]))?;
    let (view, dir) = Running::session(stage)?;
    let agent = Running::agent_pid(&dir)?;
    let pids = wait_for("the agent's child", || {
        let pids = tree(agent);
        (pids.len() >= 3 && pids.iter().all(|pid| ignores_term(*pid))).then_some(pids)
    })?;
    tell(&format!("processes of the session before: {pids:?}"));
    tell(&format!("$ sentrely kill {}", view.short_id));
    let killed = stage.sentrely(&["kill", &view.short_id]).env_remove("ANTHROPIC_API_KEY").output().context("run sentrely kill")?;
    for line in String::from_utf8_lossy(&[killed.stdout, killed.stderr].concat()).lines() {
        tell(line);
    }
    let code = run.wait()?;
    let left: Vec<i32> = pids.iter().copied().filter(|pid| is_alive(*pid)).collect();
    tell(&format!("processes of the session after: {left:?}"));

    let journal = journal_of(&dir)?;
    let stages: Vec<(String, f64)> = journal
        .iter()
        .filter_map(|record| match &record.event {
            Event::Stage { stage, ms } => Some((stage.clone(), *ms)),
            _ => None,
        })
        .collect();
    let at = |name: &str| stages.iter().find(|(stage, _)| stage == name).map(|(_, ms)| *ms);
    let view = SessionView::fold(&journal).unwrap_or(view);
    checks.that(
        "after the kill no process of the session is left, though they ignored TERM",
        left.is_empty() && view.survivors.is_empty() && view.state == SessionState::Stopped,
        format!("before {pids:?}, after {left:?}"),
    );
    checks.that(
        "spending was stopped before the first signal",
        at("gate_closed").zip(at("signal_sent")).is_some_and(|(gate, signal)| gate <= signal) && stage.upstream.messages().len() == before,
        stages.iter().map(|(stage, ms)| format!("{stage} {ms:.1} ms")).collect::<Vec<_>>().join(", "),
    );
    checks.that(
        "run and kill agree on how it ended",
        code == i32::from(EXIT_KILLED) && killed.status.success() && view.stop_reason == Some(StopReason::Killed),
        format!("run exits {code}, kill exits {}", killed.status.code().unwrap_or(-1)),
    );
    Ok(())
}

pub(super) fn journal_of(dir: &SessionDir) -> anyhow::Result<Vec<Record>> {
    read_journal(&dir.journal_file()).context("read the session's journal")
}

fn thresholds(journal: &[Record]) -> Vec<u32> {
    journal
        .iter()
        .filter_map(|record| match record.event {
            Event::Threshold { limit: LimitKind::Usd, percent, .. } => Some(percent),
            _ => None,
        })
        .collect()
}

/// A `sentrely run` under way, its output told line by line.
pub(super) struct Running {
    child: Child,
    tellers: Vec<JoinHandle<()>>,
}

impl Running {
    pub(super) fn start(mut command: Command) -> anyhow::Result<Self> {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("start sentrely run")?;
        let mut tellers = Vec::new();
        if let Some(out) = child.stdout.take() {
            tellers.push(thread::spawn(move || BufReader::new(out).lines().map_while(Result::ok).for_each(|line| tell(&line))));
        }
        if let Some(err) = child.stderr.take() {
            tellers.push(thread::spawn(move || BufReader::new(err).lines().map_while(Result::ok).for_each(|line| tell(&line))));
        }
        Ok(Self { child, tellers })
    }

    /// The session it started, once that has a record.
    pub(super) fn session(stage: &Stage) -> anyhow::Result<(SessionView, SessionDir)> {
        wait_for("the session's record", || {
            stage.newest_session().filter(|(view, _)| matches!(view.state, SessionState::Starting | SessionState::Running))
        })
    }

    fn agent_pid(dir: &SessionDir) -> anyhow::Result<i32> {
        wait_for("the agent", || {
            let records = read_journal(&dir.journal_file()).ok()?;
            records.iter().find_map(|record| match record.event {
                Event::ChildStarted { pid, .. } => i32::try_from(pid).ok(),
                _ => None,
            })
        })
    }

    /// Shows the cost climbing until it ends; its exit code.
    fn watch(&mut self, dir: &SessionDir) -> anyhow::Result<i32> {
        let bar = can_redraw().then(|| {
            let style = ProgressStyle::with_template("simulated │ {bar:40} {msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(100).with_style(style)
        });
        let started = Instant::now();
        while self.child.try_wait()?.is_none() {
            if started.elapsed() > PATIENCE {
                bail!("the session did not end");
            }
            if let (Some(bar), Some(view)) = (&bar, dir.view()) {
                let percent = view.budgets.first().map_or(0, |budget| budget.percent);
                bar.set_position(u64::from(percent));
                bar.set_message(format!("{} of $1.00", view.cost_usd.show()));
            }
            sleep(LOOK_EVERY);
        }
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        self.wait()
    }

    pub(super) fn wait(&mut self) -> anyhow::Result<i32> {
        let child = &mut self.child;
        let code = wait_for("the end of the session", || child.try_wait().ok().flatten())?.code().unwrap_or(-1);
        self.tellers.drain(..).for_each(|teller| drop(teller.join()));
        Ok(code)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After a failed act: TERM ends the session in order. Harmless when it has ended.
        if matches!(self.child.try_wait(), Ok(None)) {
            let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
            let _ = nix::sys::signal::kill(pid, Signal::SIGTERM);
            let _ = self.child.wait();
        }
    }
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> anyhow::Result<T> {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if started.elapsed() > PATIENCE {
            bail!("waited {} s in vain for {what}", PATIENCE.as_secs());
        }
        sleep(LOOK_EVERY);
    }
}

/// A process and everything below it.
fn tree(pid: i32) -> Vec<i32> {
    let all: Vec<Process> = system::pids().filter_map(Process::read).collect();
    let mut pids = vec![pid];
    let mut at = 0;
    while at < pids.len() {
        pids.extend(all.iter().filter(|process| process.parent == pids[at]).map(|process| process.pid).collect::<Vec<_>>());
        at += 1;
    }
    pids
}

fn ignores_term(pid: i32) -> bool {
    system::ignored_signals(pid) & (1 << (Signal::SIGTERM as i32 - 1)) != 0
}

fn is_alive(pid: i32) -> bool {
    Process::read(pid).is_some_and(|process| process.state != 'Z')
}
