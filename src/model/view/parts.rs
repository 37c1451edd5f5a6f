//! What a session's view is made of.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::super::{Limit, LimitKind, Share, SharedLimit, Spent, Usd};

/// What a session is doing (DESIGN section 10).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionState {
    /// Being set up.
    Starting,
    /// The command runs.
    Running,
    /// Stopped by the shell (`Ctrl-Z`), until `fg`, `bg` or a kill.
    Paused,
    /// On its way down.
    Stopping,
    /// Ended, and nothing of it is left.
    Stopped,
    /// Its supervisor and guardian are gone without having ended it.
    Crashed,
}

/// How the developer is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeveloperSource {
    /// STS said who is calling.
    Sts,
    /// The CI system's variable says so; anyone who edits the workflow can change it.
    Asserted,
    /// git's `user.email`, or a flag: taken at the developer's word.
    SelfDeclared,
}

/// The kind of working copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Workspace {
    /// A clone of its own.
    Clone,
    /// A clone of its own, seen at the checkout's path.
    SamePath,
    /// The developer's checkout, on a fresh branch.
    InPlace,
    /// The current folder, whatever it is.
    None,
}

/// Who pays for the requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Billing {
    /// By what.
    pub kind: BillingKind,
    /// The credential's last four characters, where it is known to sentrely.
    pub last4: Option<String>,
}

/// What pays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BillingKind {
    /// An Anthropic key, or a gateway's token.
    Key,
    /// A Claude subscription: list prices are shown but not billed.
    Subscription,
    /// An AWS account, through Bedrock.
    Bedrock,
    /// A Google Cloud project, through Vertex.
    Vertex,
    /// No credential was found.
    None,
}

/// One limit and how much of it is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetView {
    /// The unit.
    pub kind: LimitKind,
    /// The limit, as a decimal string.
    pub limit: String,
    /// What is used, as a decimal string.
    pub used: String,
    /// Percent, rounded down.
    pub percent: u32,
    /// Which of the limits that sessions share, if it is one: then what is used is what all of them have spent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<Share>,
}

/// Tokens by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// Uncached prompt tokens.
    pub input: u64,
    /// Generated tokens.
    pub output: u64,
    /// Written to the five-minute cache.
    pub cache_write_5m: u64,
    /// Written to the one-hour cache.
    pub cache_write_1h: u64,
    /// Read from the cache.
    pub cache_read: u64,
}

/// The session's AWS identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AwsView {
    /// The role.
    pub role_arn: String,
    /// The role session name: what `CloudTrail` shows.
    pub role_session_name: String,
    /// `endpoint` or `env`.
    pub delivery: String,
    /// When the credentials at hand expire.
    pub expires_at: Timestamp,
}

impl BudgetView {
    /// A limit with what is used of it.
    pub fn of(limit: Limit, spent: &Spent) -> Self {
        let percent = |used: u64, of: u64| Usd::from_pico(used).percent_of(Usd::from_pico(of));
        let (limit_text, used, percent) = match limit {
            Limit::Usd(amount) => (amount.to_string(), spent.cost.to_string(), spent.cost.percent_of(amount)),
            Limit::Tokens(count) => (count.to_string(), spent.tokens.to_string(), percent(spent.tokens, count)),
            Limit::Requests(count) => (count.to_string(), spent.requests.to_string(), percent(spent.requests, count)),
        };
        Self { kind: limit.kind(), limit: limit_text, used, percent, shared: None }
    }

    /// The session's own limit that it stands for; `None` for one that sessions share.
    pub fn as_limit(&self) -> Option<Limit> {
        if self.shared.is_some() {
            return None;
        }
        match self.kind {
            LimitKind::Usd => self.limit.parse().ok().map(Limit::Usd),
            LimitKind::Tokens => self.limit.parse().ok().map(Limit::Tokens),
            LimitKind::Requests => self.limit.parse().ok().map(Limit::Requests),
        }
    }

    /// The shared limit that it stands for.
    pub fn as_shared(&self) -> Option<SharedLimit> {
        Some(SharedLimit { share: self.shared?, amount: self.limit.parse().ok()? })
    }
}
