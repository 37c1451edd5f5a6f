//! The documented JSON of sessions: the fields of README, "JSON", and no others. What `ls --json` and `show --json` print, `serve` answers.
//!
//! Kept apart from [`SessionView`], which is also what `status.json` and the index hold: those may grow fields of their own.

use jiff::Timestamp;
use serde::Serialize;

use super::{
    AwsView, Billing, BudgetView, ContextView, Details, DeveloperSource, Proof, Quota, SessionId, SessionState, SessionView, StopReason,
    ThreadView, Tokens, Usd, Workspace,
};

/// The version of every JSON document of the commands that look.
pub const SCHEMA_VERSION: u32 = 1;

/// One session.
#[derive(Debug, Serialize)]
pub struct SessionJson<'a> {
    id: SessionId,
    short_id: &'a str,
    state: SessionState,
    command: &'a [String],
    developer: &'a str,
    developer_source: DeveloperSource,
    project: &'a str,
    branch: Option<&'a str>,
    base: Option<&'a str>,
    workspace: Workspace,
    pid: u32,
    host: &'a str,
    attempts: u32,
    started_at: Timestamp,
    ended_at: Option<Timestamp>,
    billing: &'a Billing,
    cost_usd: Usd,
    cost_estimated: bool,
    budgets: &'a [BudgetView],
    time_limit_s: Option<u64>,
    burn_usd_per_hour: Usd,
    tokens: Tokens,
    requests: u64,
    context: ContextView,
    aws: Option<&'a AwsView>,
    pr_url: Option<&'a str>,
    stop_reason: Option<StopReason>,
    exit_code: Option<u8>,
}

impl<'a> From<&'a SessionView> for SessionJson<'a> {
    fn from(view: &'a SessionView) -> Self {
        Self {
            id: view.id,
            short_id: &view.short_id,
            state: view.state,
            command: &view.command,
            developer: &view.developer,
            developer_source: view.developer_source,
            project: &view.project,
            branch: view.branch.as_deref(),
            base: view.base.as_deref(),
            workspace: view.workspace,
            pid: view.pid,
            host: &view.host,
            attempts: view.attempts,
            started_at: view.started_at,
            ended_at: view.ended_at,
            billing: &view.billing,
            cost_usd: view.cost_usd,
            cost_estimated: view.cost_estimated,
            budgets: &view.budgets,
            time_limit_s: view.time_limit_s,
            burn_usd_per_hour: view.burn_usd_per_hour,
            tokens: view.tokens,
            requests: view.requests,
            context: view.context,
            aws: view.aws.as_ref(),
            pr_url: view.pr_url.as_deref(),
            stop_reason: view.stop_reason,
            exit_code: view.exit_code,
        }
    }
}

/// `ls --json`.
#[derive(Debug, Serialize)]
pub struct SessionList<'a> {
    schema_version: u32,
    sessions: Vec<SessionJson<'a>>,
}

impl<'a> SessionList<'a> {
    /// These sessions, in this order.
    pub fn of(views: &'a [SessionView]) -> Self {
        Self { schema_version: SCHEMA_VERSION, sessions: views.iter().map(SessionJson::from).collect() }
    }
}

/// `show --json`.
#[derive(Debug, Serialize)]
pub struct SessionDocument<'a> {
    schema_version: u32,
    session: SessionJson<'a>,
    details: Particulars<'a>,
}

/// What `show --json` tells beyond the fields of `ls --json`.
#[derive(Debug, Serialize)]
struct Particulars<'a> {
    base_commit: Option<&'a str>,
    directory: &'a str,
    checkout: Option<&'a str>,
    boot_id: &'a str,
    /// A subscription's allowance, where it was told.
    quota: Option<&'a Quota>,
    refused: u64,
    models: &'a [String],
    wall: &'a str,
    claude_sessions: &'a [String],
    commits: u64,
    survivors: &'a [String],
    /// The context of each conversation: the main one, then the subagents'.
    threads: &'a [ThreadView],
    /// How it was stopped, if somebody or something did.
    proof_of_death: Option<&'a Proof>,
    /// Absent once the journal is gone and only the index's summary is left.
    journal: Option<&'a Details>,
}

impl<'a> SessionDocument<'a> {
    /// A session, the context of its conversations, how it was stopped, and its journal's particulars while there is one.
    pub fn of(view: &'a SessionView, threads: &'a [ThreadView], proof: Option<&'a Proof>, journal: Option<&'a Details>) -> Self {
        let details = Particulars {
            base_commit: view.base_commit.as_deref(),
            directory: &view.directory,
            checkout: view.checkout.as_deref(),
            boot_id: &view.boot_id,
            quota: view.quota.as_ref(),
            refused: view.refused,
            models: &view.models,
            wall: &view.wall,
            claude_sessions: &view.claude_sessions,
            commits: view.commits,
            survivors: &view.survivors,
            threads,
            proof_of_death: proof,
            journal,
        };
        Self { schema_version: SCHEMA_VERSION, session: SessionJson::from(view), details }
    }
}
