//! What a session's journal tells beyond its view: how it was stopped, what the gate did, what was worth noting.

use jiff::Timestamp;
use serde::Serialize;

use super::{BudgetView, Event, Outcome, Record, StopReason};

/// The stage that is recorded once nothing of the tree is left, and only then (invariant I10).
pub const LAST_PROCESS_GONE: &str = "last_process_gone";

/// The journal's particulars. `stop`, `stages` and what follows from them are the last attempt's.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Details {
    /// Every time it was run.
    pub attempts: Vec<Attempt>,
    /// Where requests went.
    pub upstream: Option<String>,
    /// When a request was last let through.
    pub last_request_at: Option<Timestamp>,
    /// Who asked it to stop.
    pub stop: Option<Stop>,
    /// The steps of the way down.
    pub stages: Vec<Stage>,
    /// Processes that were ended.
    pub processes_ended: Option<u32>,
    /// What is left of it.
    pub survivors: Vec<String>,
    /// When it was seen that some of what was left had gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub survivors_gone_at: Option<Timestamp>,
    /// How its processes were ended, and which.
    #[serde(skip_serializing_if = "Outcome::is_empty")]
    pub outcome: Outcome,
    /// The branch's tip when the work was saved.
    pub commit: Option<String>,
    /// Why the work could not be saved, and where it lies.
    pub work_not_saved: Option<String>,
    /// Pushes that the gate let through.
    pub pushes_accepted: Vec<Push>,
    /// Pushes that it refused.
    pub pushes_refused: Vec<Refusal>,
    /// What was weaker than asked for, or worth knowing.
    pub notices: Vec<String>,
}

/// One `run`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Attempt {
    /// From 1.
    pub number: u32,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended, if it did.
    pub ended_at: Option<Timestamp>,
    /// What was run.
    pub command: Vec<String>,
    /// Why it ended.
    pub reason: Option<StopReason>,
    /// What `run` exited with.
    pub exit_code: Option<u8>,
}

/// What set the end off; of several requests the gravest.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stop {
    /// When.
    pub at: Timestamp,
    /// Why.
    pub reason: StopReason,
    /// Who.
    pub by: String,
    /// From where.
    pub from: Option<String>,
    /// What they said.
    pub note: Option<String>,
}

/// One step down.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stage {
    /// Its name: `gate_closed` ...
    pub stage: String,
    /// Milliseconds since the stop was asked for.
    pub ms: f64,
}

/// A push that went through.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Push {
    /// When.
    pub at: Timestamp,
    /// The branch.
    pub branch: String,
    /// Its new commit.
    pub commit: String,
}

/// A push that did not.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Refusal {
    /// When.
    pub at: Timestamp,
    /// What it was for.
    pub refs: Vec<String>,
    /// Why it was refused.
    pub why: String,
}

impl Details {
    /// Gathers them from a whole journal.
    pub fn of(records: &[Record]) -> Self {
        let mut details = Self::default();
        for record in records {
            details.apply(record);
        }
        details
    }

    /// Takes one more record in.
    pub fn apply(&mut self, record: &Record) {
        let at = record.at;
        match &record.event {
            Event::AttemptStarted { attempt, command, upstream, .. } => {
                let attempt =
                    Attempt { number: *attempt, started_at: at, ended_at: None, command: command.clone(), reason: None, exit_code: None };
                self.attempts.push(attempt);
                self.upstream = Some(upstream.clone());
                (self.stop, self.processes_ended, self.work_not_saved) = (None, None, None);
                self.stages.clear();
                self.survivors.clear();
                self.survivors_gone_at = None;
                self.outcome = Outcome::default();
            }
            Event::RequestAdmitted { .. } => self.last_request_at = Some(at),
            Event::StopRequested { reason, by, from, note } => {
                if self.stop.as_ref().is_none_or(|known| known.reason < *reason) {
                    self.stop = Some(Stop { at, reason: *reason, by: by.clone(), from: from.clone(), note: note.clone() });
                }
            }
            Event::Stage { stage, ms } => self.stages.push(Stage { stage: stage.clone(), ms: *ms }),
            // The second is a delivery of sentrely's own, past the gate.
            Event::PushAccepted { branch, commit } | Event::PullRequest { branch, commit, .. } => {
                self.pushes_accepted.push(Push { at, branch: branch.clone(), commit: commit.clone() });
            }
            Event::PushRefused { refs, why } => self.pushes_refused.push(Refusal { at, refs: refs.clone(), why: why.clone() }),
            Event::HostRefused { host, why } => self.notices.push(format!("{host} was out of its reach: {why}")),
            Event::WorkSaved { commit, .. } => self.commit.clone_from(commit),
            Event::WorkNotSaved { why, path } => self.work_not_saved = Some(format!("{why}; it lies in {path}")),
            Event::Notice { what } => self.notices.push(what.clone()),
            Event::LimitsSet { budgets, by, from } => self.notices.push(limits_set(budgets, by, from.as_deref())),
            Event::BillingChanged { billing, before } if billing.kind != before.kind || before.last4.is_some() => {
                self.notices.push(super::billing_changed(billing, before));
            }
            Event::ContextThrash { compactions, requests } => self.notices.push(super::thrash_words(*compactions, *requests)),
            Event::AwsLost { why } => self.notices.push(format!("the AWS identity was lost: {why}")),
            Event::Malformed { request, what } => self.notices.push(format!("the answer to request {request} could not be read: {what}")),
            Event::ProtectedMoved { place, name, .. } => self.notices.push(format!("{name} of {place} moved during the session")),
            Event::MeterBypass { message_id, transcript } => {
                self.notices.push(format!("message {message_id} in {transcript} never passed the meter"));
            }
            Event::AttemptEnded { reason, exit_code, processes_ended, survivors, outcome } => {
                if let Some(attempt) = self.attempts.last_mut() {
                    (attempt.ended_at, attempt.reason, attempt.exit_code) = (Some(at), Some(*reason), Some(*exit_code));
                }
                self.processes_ended = Some(*processes_ended);
                self.survivors.clone_from(survivors);
                self.outcome.clone_from(outcome);
            }
            Event::SurvivorsGone { left, .. } => {
                self.survivors.clone_from(left);
                self.survivors_gone_at = Some(at);
            }
            Event::SessionCreated { .. }
            | Event::ChildStarted { .. }
            | Event::Paused
            | Event::Continued
            | Event::AwsMinted { .. }
            | Event::ClaudeSession { .. }
            | Event::CeilingRaised { .. }
            | Event::RequestSettled { .. }
            | Event::BillingChanged { .. }
            | Event::QuotaSeen { .. }
            | Event::QuotaThreshold { .. }
            | Event::SharedLimitsSeen { .. }
            | Event::RequestRefused { .. }
            | Event::PushKept { .. }
            | Event::Threshold { .. }
            | Event::Compaction { .. }
            | Event::Compacted { .. }
            | Event::ContextThreshold { .. } => {}
        }
    }

    /// Whether nothing of the last attempt runs any more. Its work may still be on its way home.
    pub fn is_gone(&self) -> bool {
        self.survivors.is_empty() && (self.ended() || self.stages.iter().any(|stage| stage.stage == LAST_PROCESS_GONE))
    }

    /// Whether nothing of the last attempt runs any more, but it is not over: its work is on its way home.
    pub fn is_saving(&self) -> bool {
        !self.ended() && self.is_gone()
    }

    /// Whether the last attempt is over.
    pub fn ended(&self) -> bool {
        self.processes_ended.is_some()
    }
}

/// `limits set to $10.00 by ana from /dev/pts/3 on vm`.
pub fn limits_set(budgets: &[BudgetView], by: &str, from: Option<&str>) -> String {
    let limits: Vec<String> = budgets.iter().filter_map(BudgetView::as_limit).map(|limit| limit.to_string()).collect();
    let from = from.map(|from| format!(" from {from}")).unwrap_or_default();
    format!("limits set to {} by {by}{from}", limits.join(" and "))
}
