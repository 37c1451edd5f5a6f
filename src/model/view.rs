//! A session as readers see it: the JSON of `ls --json`, rebuilt from the journal by folding its events.

mod parts;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::parts::{AwsView, Billing, BillingKind, BudgetView, DeveloperSource, SessionState, Tokens, Workspace};
use super::{ContextView, Event, Quota, Record, SessionId, Spent, StopReason, Thread, Usage, Usd};

/// One session: the JSON object of `ls --json` and `show --json` (field list: README, "JSON").
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionView {
    /// The session's id.
    pub id: SessionId,
    /// Its first 8 hex digits.
    pub short_id: String,
    /// What it is doing.
    pub state: SessionState,
    /// The command of the last attempt.
    pub command: Vec<String>,
    /// Who is accountable.
    pub developer: String,
    /// How that is known.
    pub developer_source: DeveloperSource,
    /// The project.
    pub project: String,
    /// The session's branch.
    pub branch: Option<String>,
    /// What it starts from, as shown.
    pub base: Option<String>,
    /// The commit it starts from.
    pub base_commit: Option<String>,
    /// The kind of working copy.
    pub workspace: Workspace,
    /// The folder it works in.
    pub directory: String,
    /// The developer's checkout.
    pub checkout: Option<String>,
    /// The supervisor's process id.
    pub pid: u32,
    /// The machine.
    pub host: String,
    /// The boot it runs in.
    pub boot_id: String,
    /// How often it was started.
    pub attempts: u32,
    /// When the first attempt began.
    pub started_at: Timestamp,
    /// When the last attempt ended.
    pub ended_at: Option<Timestamp>,
    /// Who pays.
    pub billing: Billing,
    /// A subscription's allowance, as it was told last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<Quota>,
    /// Cost at list price, exact.
    pub cost_usd: Usd,
    /// Some of that is an estimate.
    pub cost_estimated: bool,
    /// The limits.
    pub budgets: Vec<BudgetView>,
    /// Its time limit over all attempts, in seconds.
    #[serde(default)]
    pub time_limit_s: Option<u64>,
    /// Spending of the last ten minutes, per hour.
    pub burn_usd_per_hour: Usd,
    /// Tokens by kind.
    pub tokens: Tokens,
    /// Requests answered.
    pub requests: u64,
    /// Requests refused by us.
    pub refused: u64,
    /// Models that answered, in order of appearance.
    pub models: Vec<String>,
    /// The main conversation's context.
    pub context: ContextView,
    /// The AWS identity.
    pub aws: Option<AwsView>,
    /// The wall in force.
    pub wall: String,
    /// Claude Code's own session ids, oldest first.
    pub claude_sessions: Vec<String>,
    /// Commits on the branch since its base, when it was last saved.
    pub commits: u64,
    /// The pull request.
    pub pr_url: Option<String>,
    /// Why it ended.
    pub stop_reason: Option<StopReason>,
    /// What was said of that: `the supervisor died`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_note: Option<String>,
    /// What `run` exited with.
    pub exit_code: Option<u8>,
    /// What was left of it, if anything was.
    pub survivors: Vec<String>,
    /// Settlements of the last ten minutes, for the burn rate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    recent: Vec<(Timestamp, Usd)>,
    /// Requests under way and what is held for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    open: Vec<(u64, Usd, u64)>,
}

/// Minutes that the burn rate looks back over.
const BURN_WINDOW_SECONDS: i64 = 600;

impl SessionView {
    /// Starts a view from a journal's first record; `None` if that is not a [`Event::SessionCreated`].
    pub fn begin(record: &Record) -> Option<Self> {
        let Event::SessionCreated { id, developer, developer_source, project, workspace, directory, checkout, branch, base, base_commit } =
            &record.event
        else {
            return None;
        };
        Some(Self {
            id: *id,
            short_id: id.short(),
            state: SessionState::Starting,
            command: Vec::new(),
            developer: developer.clone(),
            developer_source: *developer_source,
            project: project.clone(),
            branch: branch.clone(),
            base: base.clone(),
            base_commit: base_commit.clone(),
            workspace: *workspace,
            directory: directory.clone(),
            checkout: checkout.clone(),
            pid: 0,
            host: String::new(),
            boot_id: String::new(),
            attempts: 0,
            started_at: record.at,
            ended_at: None,
            billing: Billing { kind: BillingKind::None, last4: None },
            quota: None,
            cost_usd: Usd::ZERO,
            cost_estimated: false,
            budgets: Vec::new(),
            time_limit_s: None,
            burn_usd_per_hour: Usd::ZERO,
            tokens: Tokens::default(),
            requests: 0,
            refused: 0,
            models: Vec::new(),
            context: ContextView::default(),
            aws: None,
            wall: String::new(),
            claude_sessions: Vec::new(),
            commits: 0,
            pr_url: None,
            stop_reason: None,
            stop_note: None,
            exit_code: None,
            survivors: Vec::new(),
            recent: Vec::new(),
            open: Vec::new(),
        })
    }

    /// Folds a whole journal; `None` if it does not begin with the session's creation.
    pub fn fold<'a>(records: impl IntoIterator<Item = &'a Record>) -> Option<Self> {
        let mut records = records.into_iter();
        let mut view = Self::begin(records.next()?)?;
        records.for_each(|record| view.apply(record));
        Some(view)
    }

    /// Brings the view up to date with one more record.
    pub fn apply(&mut self, record: &Record) {
        match &record.event {
            Event::AttemptStarted { attempt, pid, host, boot_id, command, billing, budgets, wall, time_limit_s, .. } => {
                self.book_open();
                self.attempts = *attempt;
                (self.pid, self.host, self.boot_id) = (*pid, host.clone(), boot_id.clone());
                (self.command, self.billing, self.wall) = (command.clone(), billing.clone(), wall.clone());
                self.budgets.clone_from(budgets);
                self.refresh_budgets();
                self.time_limit_s = *time_limit_s;
                self.state = SessionState::Starting;
                (self.ended_at, self.stop_reason, self.stop_note, self.exit_code) = (None, None, None, None);
                self.survivors.clear();
            }
            Event::LimitsSet { budgets, .. } => self.replace_budgets(budgets, false),
            Event::SharedLimitsSeen { budgets } => self.replace_budgets(budgets, true),
            Event::ChildStarted { .. } => self.state = SessionState::Running,
            Event::Paused if self.state == SessionState::Running => self.state = SessionState::Paused,
            Event::Continued if self.state == SessionState::Paused => self.state = SessionState::Running,
            Event::AwsMinted { role_arn, role_session_name, delivery, expires_at, .. } => {
                self.aws = Some(AwsView {
                    role_arn: role_arn.clone(),
                    role_session_name: role_session_name.clone(),
                    delivery: delivery.clone(),
                    expires_at: *expires_at,
                });
            }
            Event::ClaudeSession { id } if !self.claude_sessions.contains(id) => self.claude_sessions.push(id.clone()),
            Event::RequestAdmitted { request, ceiling, ceiling_tokens, .. } => self.open.push((request.0, *ceiling, *ceiling_tokens)),
            Event::CeilingRaised { request, ceiling, ceiling_tokens } => {
                if let Some(open) = self.open.iter_mut().find(|(open, ..)| *open == request.0) {
                    (open.1, open.2) = (*ceiling, *ceiling_tokens);
                }
            }
            Event::RequestSettled { request, thread, model, usage, cost, estimated, lost, window, message_id } => {
                self.open.retain(|(open, ..)| *open != request.0);
                self.settled(record.at, model, usage, *cost, *estimated || *lost);
                // The prompt of an answer that was lost before it began is a forecast.
                if *thread == Thread::Main && usage.context() > 0 && (!*lost || message_id.is_some()) {
                    self.context.filled(usage.context(), *window);
                }
            }
            Event::RequestRefused { .. } => self.refused += 1,
            Event::QuotaSeen { quota } => self.quota = Some(quota.clone()),
            Event::BillingChanged { billing, .. } => self.billing.clone_from(billing),
            Event::Compaction { thread: Thread::Main, .. } => self.context.compactions += 1,
            Event::StopRequested { reason, note, .. } => {
                self.state = SessionState::Stopping;
                if self.stop_reason.is_none_or(|known| known < *reason) {
                    self.stop_note.clone_from(note);
                }
                self.stop_reason = Some(self.stop_reason.map_or(*reason, |known| known.max(*reason)));
            }
            Event::WorkSaved { branch, commits, .. } => {
                self.branch = Some(branch.clone());
                self.commits = *commits;
            }
            Event::AttemptEnded { reason, exit_code, survivors, .. } => {
                self.book_open();
                self.state = if *reason == StopReason::Crashed { SessionState::Crashed } else { SessionState::Stopped };
                self.ended_at = Some(record.at);
                if self.stop_reason != Some(*reason) {
                    self.stop_note = None;
                }
                self.stop_reason = Some(*reason);
                self.exit_code = Some(*exit_code);
                self.survivors.clone_from(survivors);
            }
            Event::SurvivorsGone { left, .. } => self.survivors.clone_from(left),
            Event::PullRequest { url, .. } => {
                if url.is_some() {
                    self.pr_url.clone_from(url);
                }
            }
            Event::SessionCreated { .. }
            | Event::ClaudeSession { .. }
            | Event::Paused
            | Event::Continued
            | Event::AwsLost { .. }
            | Event::Threshold { .. }
            | Event::QuotaThreshold { .. }
            | Event::Compaction { .. }
            | Event::Compacted { .. }
            | Event::ContextThreshold { .. }
            | Event::ContextThrash { .. }
            | Event::Malformed { .. }
            | Event::PushAccepted { .. }
            | Event::PushKept { .. }
            | Event::PushRefused { .. }
            | Event::HostRefused { .. }
            | Event::ProtectedMoved { .. }
            | Event::MeterBypass { .. }
            | Event::Stage { .. }
            | Event::WorkNotSaved { .. }
            | Event::Notice { .. } => {}
        }
    }

    /// Whether a session lives, or crashed and nobody has cleared up after it, or has left something that may still run.
    pub const fn is_current(&self) -> bool {
        match self.state {
            SessionState::Starting | SessionState::Running | SessionState::Paused | SessionState::Stopping => true,
            SessionState::Crashed => self.ended_at.is_none() || !self.survivors.is_empty(),
            SessionState::Stopped => !self.survivors.is_empty(),
        }
    }

    /// All tokens that count towards a token limit.
    pub const fn total_tokens(&self) -> u64 {
        let t = &self.tokens;
        t.input + t.output + t.cache_write_5m + t.cache_write_1h + t.cache_read
    }

    /// What counts towards its limits.
    pub const fn spent(&self) -> Spent {
        Spent { cost: self.cost_usd, tokens: self.total_tokens(), requests: self.requests }
    }

    /// The burn rate at `now`: it falls while nothing is spent.
    #[must_use]
    pub fn at(mut self, now: Timestamp) -> Self {
        self.refresh_burn(now);
        self
    }

    fn settled(&mut self, at: Timestamp, model: &str, usage: &Usage, cost: Usd, estimated: bool) {
        self.cost_usd += cost;
        self.cost_estimated |= estimated;
        self.tokens.input += usage.input;
        self.tokens.output += usage.output;
        self.tokens.cache_write_5m += usage.cache_write_5m;
        self.tokens.cache_write_1h += usage.cache_write_1h;
        self.tokens.cache_read += usage.cache_read;
        // An answer that used nothing is an upstream error, not an answered request. The meter counts in the same way.
        self.requests += u64::from(usage.total() > 0 || estimated);
        if usage.total() > 0 && !self.models.iter().any(|known| known == model) {
            self.models.push(model.to_owned());
        }
        self.refresh_budgets();
        self.recent.push((at, cost));
        self.refresh_burn(at);
    }

    /// What an attempt lost sight of counts at its ceiling (invariant I3).
    fn book_open(&mut self) {
        for (_, ceiling, tokens) in std::mem::take(&mut self.open) {
            self.cost_usd += ceiling;
            self.tokens.input += tokens;
            self.requests += 1;
            self.cost_estimated = true;
        }
        self.refresh_budgets();
    }

    /// Puts other limits in the place of its own, or of those that it shares.
    fn replace_budgets(&mut self, budgets: &[BudgetView], shared: bool) {
        let of_kind = |budget: &&BudgetView| budget.shared.is_some() == shared;
        self.budgets.retain(|budget| !of_kind(&budget));
        self.budgets.extend(budgets.iter().filter(of_kind).cloned());
        self.budgets.sort_by_key(|budget| budget.shared.is_some());
        self.refresh_budgets();
    }

    fn refresh_budgets(&mut self) {
        let spent = self.spent();
        for budget in &mut self.budgets {
            if let Some(limit) = budget.as_limit() {
                *budget = BudgetView::of(limit, &spent);
            }
        }
    }

    fn refresh_burn(&mut self, now: Timestamp) {
        self.recent.retain(|(at, _)| now.as_second() - at.as_second() < BURN_WINDOW_SECONDS);
        let spent: Usd = self.recent.iter().map(|(_, cost)| *cost).sum();
        let elapsed = (now.as_second() - self.started_at.as_second()).clamp(60, BURN_WINDOW_SECONDS);
        let per_hour = u128::from(spent.pico()) * 3600 / u128::from(elapsed.unsigned_abs());
        self.burn_usd_per_hour = Usd::from_pico(u64::try_from(per_hour).unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RequestId;
    use crate::model::fixture::{record, session};

    fn admitted(request: u64, ceiling: Usd) -> Record {
        record(Event::RequestAdmitted {
            request: RequestId(request),
            thread: Thread::Main,
            model: "claude-opus-5-5".into(),
            ceiling,
            ceiling_tokens: 10,
        })
    }

    #[test]
    fn what_a_crashed_attempt_lost_sight_of_is_booked_at_its_ceiling_once() {
        let mut view = session();
        let dollar: Usd = "1".parse().unwrap();
        view.apply(&admitted(1, dollar));
        let ended = Event::AttemptEnded {
            reason: StopReason::Crashed,
            exit_code: 125,
            processes_ended: 0,
            survivors: vec![],
            outcome: crate::model::Outcome::default(),
        };
        view.apply(&record(ended.clone()));
        view.apply(&record(ended));
        assert_eq!((view.cost_usd, view.tokens.input, view.requests, view.cost_estimated), (dollar, 10, 1, true));
    }

    #[test]
    fn a_ceiling_that_was_raised_is_what_a_crash_books() {
        let mut view = session();
        view.apply(&admitted(1, "1".parse().unwrap()));
        view.apply(&admitted(2, "1".parse().unwrap()));
        let raised = Event::CeilingRaised { request: RequestId(2), ceiling: "3".parse().unwrap(), ceiling_tokens: 30 };
        view.apply(&record(raised));
        view.book_open();
        assert_eq!((view.cost_usd, view.tokens.input), ("4".parse().unwrap(), 40));
    }

    #[test]
    fn a_settled_request_is_booked_at_its_cost_and_fills_the_context() {
        let mut view = session();
        view.apply(&admitted(1, "1".parse().unwrap()));
        let usage = Usage { input: 50_000, output: 10, ..Usage::default() };
        view.apply(&record(Event::RequestSettled {
            request: RequestId(1),
            thread: Thread::Main,
            model: "claude-opus-5-5".into(),
            usage,
            cost: "0.2002".parse().unwrap(),
            estimated: false,
            lost: false,
            message_id: None,
            window: Some(1_000_000),
        }));
        assert_eq!(view.cost_usd, "0.2002".parse().unwrap());
        assert_eq!((view.context.percent, view.context.peak_percent, view.requests), (Some(5), Some(5), 1));
        assert!(!view.cost_estimated);
    }
}
