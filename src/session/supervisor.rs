//! The supervisor: takes inputs one by one, asks the lifecycle what to do, and does it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::pin;
use tokio::task::JoinHandle;

use super::alerting::{self, Alarms};
use super::anatomist::Anatomist;
use super::clock::Deadline;
use super::ending::Ending;
use super::lifecycle::{Action, Input, Lifecycle, StopCall};
use super::report::{Report, Reporter};
use super::sources::BypassWatch;
use super::workplace::Workplace;
use crate::alerts::Posting;
use crate::aws::Lease;
use crate::model::{Event, LAST_PROCESS_GONE, StopReason};
use crate::process::{Agent, AgentEvent, Ended, Exit, GuardianEvent, GuardianLink, Keep};
use crate::proxy::{Closed, Proxy};

/// How often the snapshot for readers is brought up to date.
const PUBLISH_EVERY: Duration = Duration::from_millis(250);

/// The tree is to be ended: TERM, this long, KILL; at once without a grace.
struct End {
    grace: Option<Duration>,
}

/// A running session.
pub(super) struct Supervisor {
    pub(super) agent: Agent,
    pub(super) life: Lifecycle,
    pub(super) proxy: Arc<Proxy>,
    pub(super) lease: Option<Lease>,
    pub(super) bypass: Option<BypassWatch>,
    pub(super) guardian: Arc<GuardianLink>,
    pub(super) tasks: Vec<JoinHandle<()>>,
    /// The time limit.
    pub(super) deadline: Deadline,
    pub(super) reporter: Reporter,
    pub(super) anatomist: Anatomist,
    pub(super) alarms: Alarms,
    pub(super) posting: Posting,
    pub(super) ending: Ending,
    pub(super) workplace: Workplace,
    /// How the child's own process ended.
    pub(super) exit: Option<Exit>,
    /// When the way down began: stages are counted from here.
    pub(super) stopped_at: Option<Instant>,
    /// When the push gate was closed, which lends the developer's git credentials.
    pub(super) pushes_ended_at: Option<Instant>,
    /// What goes on running after a normal exit.
    pub(super) keep: Keep,
    /// What the gravest stop said.
    pub(super) note: Option<String>,
}

impl Supervisor {
    /// Watches until nothing is left of the session; returns what `run` exits with.
    pub(super) async fn run(mut self) -> u8 {
        let end = self.watch().await;
        let mut ended = self.end(end).await;
        // With survivors a kill stays due.
        if ended.outcome.survivors.is_empty() {
            self.guardian.tree_gone();
        }
        // The lease told for itself; else the push gate's end was that of the last credential.
        if let Some(at) = self.pushes_ended_at.filter(|_| self.lease.is_none()) {
            self.stage("credentials_withheld", at);
        }
        self.stage("signal_sent", ended.signalled_at);
        self.stage(if ended.outcome.survivors.is_empty() { LAST_PROCESS_GONE } else { "given_up" }, ended.gone_at);
        (self.reporter)(Report::TerminalBack);
        if self.agent.shell_went_ahead() {
            let what = "the shell was back before its terminal was in order: if it misbehaves, type `stty sane`";
            (self.reporter)(Report::Notice(what.to_owned()));
        }
        self.proxy.drained().await;
        self.anatomist.finish();
        if let Some(bypass) = &mut self.bypass {
            // The last rows may have been written a moment ago; what they say still counts.
            bypass.finish();
            self.late_inputs();
        }
        if self.life.reason() > StopReason::ChildExited && !ended.outcome.kept.is_empty() {
            // It was stopped after all, while it ended by itself: then nothing is kept.
            ended.followed_by(self.agent.end(None).await);
        }
        for task in &self.tasks {
            task.abort();
        }
        let reason = self.life.reason();
        let exit = self.exit.or(ended.exit);
        // Nothing is spent and nothing runs any more: it is posted while the work is saved.
        self.alarms.stopped(reason, self.note.as_deref());
        let finished = self.ending.finish(&mut self.workplace, &self.reporter, reason, exit, &ended, self.note.take(), self.stopped_at);
        let code = tokio::select! {
            code = finished => code,
            never = deaf(&self.guardian) => match never {},
        };
        if !self.posting.drain(alerting::DRAIN).await {
            let what = format!("alerts were not all delivered within {} s of the end, and given up", alerting::DRAIN.as_secs());
            let _ = self.workplace.chronicle.record(Event::Notice { what });
        }
        code
    }

    /// Runs until the lifecycle says that the tree is to be ended, and with which grace.
    async fn watch(&mut self) -> End {
        let mut publish = tokio::time::interval(PUBLISH_EVERY);
        publish.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let input = tokio::select! {
                biased;
                Some(input) = self.workplace.inputs_received.recv() => input,
                event = self.agent.event() => match event {
                    AgentEvent::Exited(exit) => {
                        self.exit = Some(exit);
                        Input::ChildExited
                    }
                    AgentEvent::Stopped => {
                        self.stops();
                        continue;
                    }
                    AgentEvent::Continued => {
                        self.goes_on();
                        continue;
                    }
                },
                limit = self.deadline.reached() => {
                    self.deadline.lift();
                    let note = Some(format!("the time limit of {} s is over", limit.as_secs()));
                    Input::Stop(StopCall::own(StopReason::Deadline, "deadline", note))
                }
                _ = publish.tick() => {
                    self.agent.note_mode();
                    self.publish();
                    continue;
                }
            };
            if let Some(end) = self.act(input) {
                return end;
            }
        }
    }

    /// The agent stopped; where it takes our job along, this is the last that is done before.
    fn stops(&mut self) {
        if self.agent.job_is_about_to_stop() {
            self.deadline.pause();
            let _ = self.workplace.chronicle.record(Event::Paused);
        }
        self.publish();
    }

    fn goes_on(&mut self) {
        if self.deadline.go_on() {
            let _ = self.workplace.chronicle.record(Event::Continued);
        }
        self.publish();
    }

    /// Ends the tree, and listens on: a second asking hastens it.
    async fn end(&mut self, End { mut grace }: End) -> Ended {
        if self.life.reason() > StopReason::ChildExited {
            (self.reporter)(Report::Step("ending its processes".to_owned()));
        }
        let mut published = false;
        let mut guardian_is_gone = false;
        loop {
            if guardian_is_gone {
                self.agent.guardian_is_gone();
            }
            let keep = if self.life.reason() > StopReason::ChildExited { Keep::default() } else { self.keep.clone() };
            let ending = self.agent.end_but(grace, &keep);
            pin!(ending);
            let hastened = loop {
                let input = tokio::select! {
                    biased;
                    ended = &mut ending => return ended,
                    // By now the first signal is posted: readers come after it.
                    () = std::future::ready(()), if !published => {
                        published = true;
                        let _ = self.workplace.chronicle.publish();
                        continue;
                    }
                    Some(input) = self.workplace.inputs_received.recv() => input,
                };
                let mut hastened = None;
                for action in self.life.on(input, Timestamp::now()) {
                    match action {
                        Action::Record(call) => {
                            guardian_is_gone |= call.reason == StopReason::Crashed;
                            record_stop(&self.workplace, &mut self.note, call, Timestamp::now());
                        }
                        Action::End(grace) => hastened = Some(End { grace }),
                        // Closed and withheld long ago.
                        Action::CloseGate(_) | Action::WithholdCredentials | Action::Wait(_) => {}
                    }
                }
                if let Some(End { grace }) = hastened {
                    break grace;
                }
            };
            grace = hastened;
        }
    }

    /// Does what the lifecycle says; `Some` when the tree is to be ended.
    fn act(&mut self, input: Input) -> Option<End> {
        let mut end = None;
        // Nothing is written down before the first signal is posted: the record can wait, the processes do not.
        let now = Timestamp::now();
        let (mut call_to_record, mut stages) = (None, Vec::new());
        for action in self.life.on(input, now) {
            match action {
                Action::Record(call) => {
                    self.stopped_at.get_or_insert_with(Instant::now);
                    self.proxy.close(Closed { reason: call.reason, note: call.note.clone() });
                    if call.reason == StopReason::Crashed {
                        self.agent.guardian_is_gone();
                    }
                    call_to_record = Some(call);
                }
                Action::CloseGate(reason) => {
                    self.stopped_at.get_or_insert_with(Instant::now);
                    self.proxy.close(Closed::because(reason));
                    stages.push(("gate_closed", Instant::now()));
                }
                Action::WithholdCredentials => {
                    if let Some(lease) = &self.lease {
                        lease.close();
                        stages.push(("credentials_withheld", Instant::now()));
                    }
                }
                Action::Wait(patience) => {
                    let inputs = self.workplace.inputs.clone();
                    self.tasks.push(tokio::spawn(async move {
                        tokio::time::sleep(patience).await;
                        let _ = inputs.send(Input::PatienceOver);
                    }));
                }
                Action::End(grace) => {
                    if let Some(gate) = &self.workplace.gate {
                        gate.close();
                        self.pushes_ended_at = Some(Instant::now());
                    }
                    self.agent.strike(grace.is_none());
                    end = Some(End { grace });
                }
            }
        }
        if let Some(call) = call_to_record {
            if call.reason == StopReason::Killed {
                // At once: on a machine that is at its limit all the rest may take long.
                self.guardian.kill_seen();
            }
            record_stop(&self.workplace, &mut self.note, call, now);
        }
        for (stage, at) in stages {
            self.stage(stage, at);
        }
        if end.is_none() {
            self.publish();
        }
        end
    }

    /// Inputs that came while the tree was ended can still make the reason graver.
    fn late_inputs(&mut self) {
        while let Ok(input) = self.workplace.inputs_received.try_recv() {
            for action in self.life.on(input, Timestamp::now()) {
                if let Action::Record(call) = action {
                    record_stop(&self.workplace, &mut self.note, call, Timestamp::now());
                }
            }
        }
    }

    /// One step of the way down, for the record. A plain end of the child is no stop and has no stages.
    fn stage(&self, stage: &str, at: Instant) {
        let Some(since) = self.stopped_at.filter(|_| self.life.reason() > StopReason::ChildExited) else { return };
        let ms = at.saturating_duration_since(since).as_secs_f64() * 1_000.0;
        let _ = self.workplace.chronicle.record(Event::Stage { stage: stage.to_owned(), ms });
    }

    fn publish(&self) {
        self.workplace.chronicle.look_for_the_journal();
        // Readers fall back to the journal; a full disk is told by the journal itself.
        let _ = self.workplace.chronicle.publish();
    }
}

/// Reads what the guardian forwards and heeds none of it: nothing runs that a signal could end, and the work is to come home however
/// impatient somebody is. Our own handlers stay for the life of the process, so what is sent to us alone does nothing either.
async fn deaf(guardian: &GuardianLink) -> Infallible {
    while guardian.next().await != GuardianEvent::Gone {}
    std::future::pending().await
}

fn record_stop(workplace: &Workplace, note: &mut Option<String>, call: StopCall, at: Timestamp) {
    if call.note.is_some() {
        note.clone_from(&call.note);
    }
    let StopCall { reason, by, from, note, now: _ } = call;
    let _ = workplace.chronicle.record_at(Event::StopRequested { reason, by, from, note }, at);
}
