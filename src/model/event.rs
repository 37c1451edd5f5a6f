//! What the journal records. One [`Record`] is one line; the line's `kind` names the [`Event`].
//!
//! Prompts and answers never appear here: only counts, names, digests and sizes (invariant I6).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::view::{Billing, BudgetView, DeveloperSource, Workspace};
use super::{LimitKind, Outcome, Quota, RequestId, SeenBy, SessionId, Share, StopReason, Thread, Usage, Usd};

/// One line of `journal.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Format version, 1.
    pub v: u32,
    /// Position in the journal, from 1 without gaps.
    pub seq: u64,
    /// When it was written.
    pub at: Timestamp,
    /// SHA-256 of the line before, in hex; 64 zeros for the first. This chains the journal (invariant I5).
    pub prev: String,
    /// What happened.
    pub event: Event,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// The session came to be; written once.
    SessionCreated {
        /// The session.
        id: SessionId,
        /// Who is accountable for it.
        developer: String,
        /// How that is known.
        developer_source: DeveloperSource,
        /// The project it works on.
        project: String,
        /// Where it works.
        workspace: Workspace,
        /// The folder it works in.
        directory: String,
        /// The developer's checkout, if there is one.
        checkout: Option<String>,
        /// The session's branch.
        branch: Option<String>,
        /// What the branch starts from, as shown.
        base: Option<String>,
        /// The commit it starts from.
        base_commit: Option<String>,
    },
    /// A `run` began: the first, or a resumed one.
    AttemptStarted {
        /// From 1.
        attempt: u32,
        /// The supervisor's process id.
        pid: u32,
        /// The machine's name.
        host: String,
        /// The boot it runs in (`/proc/sys/kernel/random/boot_id`), empty where there is none.
        boot_id: String,
        /// What was run.
        command: Vec<String>,
        /// Who pays.
        billing: Billing,
        /// Where requests go (scheme, host and port only).
        upstream: String,
        /// The limits in force.
        budgets: Vec<BudgetView>,
        /// The wall in force, in words.
        wall: String,
        /// The time limit over all attempts, in seconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        time_limit_s: Option<u64>,
    },
    /// The command runs.
    ChildStarted {
        /// Its process id.
        pid: u32,
        /// When it started, in clock ticks since boot: with the number it names the process.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        start: Option<u64>,
        /// The directory of its cgroup, where it has one of its own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cgroup: Option<String>,
        /// Its mount namespace, where it has one of its own (the full wall): every process of the session is in it or in a copy of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mounts: Option<u64>,
    },
    /// The shell stopped the whole job (`Ctrl-Z`): the time limit pauses with it.
    Paused,
    /// The job goes on (`fg`, `bg`, or a kill that wakes it).
    Continued,
    /// AWS credentials were minted for the session.
    AwsMinted {
        /// The role.
        role_arn: String,
        /// `RoleSessionName`.
        role_session_name: String,
        /// The key id; the secret is never recorded.
        access_key_id: String,
        /// `endpoint` or `env`.
        delivery: String,
        /// When STS lets it expire.
        expires_at: Timestamp,
    },
    /// The AWS identity could not be renewed in time.
    AwsLost {
        /// Why.
        why: String,
    },
    /// Claude Code spoke under a session id of its own that was not seen before.
    ClaudeSession {
        /// `x-claude-code-session-id`.
        id: String,
    },
    /// A request was let through; without a settlement, as after a crash, it counts at its ceiling (invariant I3).
    RequestAdmitted {
        /// Which.
        request: RequestId,
        /// Its conversation.
        thread: Thread,
        /// The model asked for.
        model: String,
        /// What it may cost at most, as far as can be told: the prompt as dear as one of its length can be, and all of `max_tokens`.
        ceiling: Usd,
        /// The tokens of that.
        ceiling_tokens: u64,
    },
    /// A request that was let through may cost more than was told before: its prompt, as the API counts it, or what came to it on the way.
    CeilingRaised {
        /// Which.
        request: RequestId,
        /// What it may cost at most.
        ceiling: Usd,
        /// The tokens of that.
        ceiling_tokens: u64,
    },
    /// A request's cost is known, or given up on.
    RequestSettled {
        /// Which.
        request: RequestId,
        /// Its conversation.
        thread: Thread,
        /// The model that answered.
        model: String,
        /// What it used.
        usage: Usage,
        /// What that costs at list price.
        cost: Usd,
        /// The price is a guess: unknown model, or the answer was lost.
        estimated: bool,
        /// The answer was lost (broken, cut, malformed): booked is what was seen of it and what may have been generated out of sight, or
        /// its ceiling if it could not be read.
        lost: bool,
        /// The answer's id.
        message_id: Option<String>,
        /// The model's context window in tokens, where known.
        window: Option<u64>,
    },
    /// Other limits were put in force while it ran.
    LimitsSet {
        /// The limits, with what is used of them.
        budgets: Vec<BudgetView>,
        /// Who asked.
        by: String,
        /// From where: a terminal, a host.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<String>,
    },
    /// What all sessions together have used of the limits that they share has come to be another share of one.
    SharedLimitsSeen {
        /// Those limits.
        budgets: Vec<BudgetView>,
    },
    /// Somebody else pays from here on, or what pays has come to be known.
    BillingChanged {
        /// Who pays now.
        billing: Billing,
        /// Who paid before.
        before: Billing,
    },
    /// A subscription's allowance is another one than before.
    QuotaSeen {
        /// As the API told it.
        quota: Quota,
    },
    /// A share of a window of the subscription's allowance was used up; once, until the window begins anew.
    QuotaThreshold {
        /// `5h`, `7d` ...
        window: String,
        /// The share: 50, 80, 100 ...
        percent: u32,
        /// What is used, in percent.
        used: u32,
        /// When the window begins anew, where that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        resets_at: Option<Timestamp>,
    },
    /// A request was refused and never sent.
    RequestRefused {
        /// Why, as the client was told.
        why: String,
    },
    /// A share of a limit was used up; once per share and limit.
    Threshold {
        /// Which limit.
        limit: LimitKind,
        /// 50, 80, 100 ...
        percent: u32,
        /// Which of the limits that sessions share, if it is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        shared: Option<Share>,
    },
    /// The client compacts a conversation, or has just done so; once for each compaction.
    Compaction {
        /// Which.
        thread: Thread,
        /// What set it off, as the client says: `auto`, `manual` or `reactive`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trigger: Option<String>,
        /// The request for the summary; absent where it was noticed only afterwards.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        request: Option<RequestId>,
        /// How it was noticed.
        #[serde(default)]
        seen_by: SeenBy,
    },
    /// The first request after a compaction was answered: what the compaction brought.
    Compacted {
        /// Which conversation.
        thread: Thread,
        /// Prompt tokens of the last request before it, if one is known.
        before: Option<u64>,
        /// Prompt tokens of the first request after it.
        after: u64,
    },
    /// A share of a conversation's window is filled; once per share, until it is compacted.
    ContextThreshold {
        /// Which conversation.
        thread: Thread,
        /// The share in percent: 50, 75, 90 ...
        percent: u32,
        /// Prompt tokens of the request that filled it.
        tokens: u64,
        /// The window.
        window: u64,
    },
    /// The main conversation is compacted again and again.
    ContextThrash {
        /// So many compactions ...
        compactions: u32,
        /// ... within so many requests.
        requests: u64,
    },
    /// The upstream answered something the meter could not read; it went on unchanged.
    Malformed {
        /// Which request.
        request: RequestId,
        /// What was wrong.
        what: String,
    },
    /// The gate let a push through.
    PushAccepted {
        /// The branch.
        branch: String,
        /// Its new commit.
        commit: String,
    },
    /// The gate took a push and keeps it on this machine until a person sends it on.
    PushKept {
        /// The branch.
        branch: String,
        /// Its new commit.
        commit: String,
    },
    /// The gate refused a push.
    PushRefused {
        /// The refs it was for.
        refs: Vec<String>,
        /// Why.
        why: String,
    },
    /// The network's filter refused a host; once for each host.
    HostRefused {
        /// Its name and port.
        host: String,
        /// Why.
        why: String,
    },
    /// A protected branch or a tag is not where it was when the attempt began; by whom is not known.
    ProtectedMoved {
        /// Whose: `your checkout`, or a remote's name.
        place: String,
        /// The full name of the ref.
        name: String,
        /// Its commit before; absent: it did not exist.
        before: Option<String>,
        /// Its commit now; absent: it is gone.
        after: Option<String>,
    },
    /// The branch went to the remote, and a pull request was opened or brought up to date.
    PullRequest {
        /// The page; `None`: a person opens it.
        url: Option<String>,
        /// Its number.
        number: Option<u64>,
        /// The branch.
        branch: String,
        /// Its commit.
        commit: String,
        /// It is new.
        new: bool,
    },
    /// A message id stands in the client's transcript that the proxy never saw.
    MeterBypass {
        /// The id.
        message_id: String,
        /// The transcript.
        transcript: String,
    },
    /// Somebody or something asked the session to stop.
    StopRequested {
        /// Why.
        reason: StopReason,
        /// Who: a login, `budget`, `signal TERM` ...
        by: String,
        /// From where: a terminal, host or file.
        from: Option<String>,
        /// What they said.
        note: Option<String>,
    },
    /// One step of the way down, with the time since the stop was asked for.
    Stage {
        /// `gate_closed`, `credentials_withheld`, `signal_sent`, `last_process_gone` (or `given_up` where something is left), `work_saved`,
        /// `recorded`.
        stage: String,
        /// Milliseconds.
        ms: f64,
    },
    /// The work was brought into the developer's repository.
    WorkSaved {
        /// The branch there.
        branch: String,
        /// Its tip.
        commit: Option<String>,
        /// Commits since the base.
        commits: u64,
        /// Uncommitted work was saved as a commit of its own.
        wip: bool,
    },
    /// The work could not be brought over; it still lies where `path` says.
    WorkNotSaved {
        /// Why.
        why: String,
        /// Where it is.
        path: String,
    },
    /// Something is weaker than asked for, or worth knowing later.
    Notice {
        /// What.
        what: String,
    },
    /// The attempt is over.
    AttemptEnded {
        /// Why.
        reason: StopReason,
        /// What `run` exits with.
        exit_code: u8,
        /// Processes that were ended.
        processes_ended: u32,
        /// What is left, each `pid (name): why`; empty when nothing is (invariant I10).
        survivors: Vec<String>,
        /// How the processes were ended, and which.
        #[serde(default, skip_serializing_if = "Outcome::is_empty")]
        outcome: Outcome,
    },
    /// Of what was left at the end something is gone since.
    SurvivorsGone {
        /// What is gone, each `pid (name)`.
        gone: Vec<String>,
        /// What is still there, each `pid (name): why`.
        left: Vec<String>,
    },
}
