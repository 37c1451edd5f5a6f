//! Configuration: the one typed, final [`Config`] that a session uses, and how it came to be.
//!
//! Layers, later over earlier (DESIGN section 6): built-in defaults, the policy file, the user's file, the project's file,
//! `SENTRELY_*` variables, flags. Policy clamps at the end, and the project's file, which lies within the agent's reach, can
//! set only what neither the user nor the policy set and otherwise only tighten. [`schema::KEYS`] is the one table behind unknown-key checks,
//! `sentrely config` and its `--schema`.
//!
//! What is promised: a loaded `Config` is whole and checked, every value's origin is known, and no secret is in it, only
//! [`SecretRef`]s.

mod choices;
mod error;
mod file;
mod hidden;
mod layers;
pub mod schema;
mod secret;
mod setting;
mod values;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub use choices::{Delivery, Network, OnBudget, OnContext, OnCredentialsLost, Payer, Push, Slug, UnknownModels, WallMode, Workspace};
pub use error::{ConfigError, Place};
pub use hidden::Hidden;
pub use layers::{Clamp, Flag, Loaded, Loader, Origin, Origins, Sourced, role_matches};
pub use secret::{SecretError, SecretRef};

use crate::model::{Limit, Usd};

/// The final configuration of a session. `Config::default()` is what holds when nobody configures anything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// `[run]`: who, where and how long.
    pub run: Run,
    /// `[budget]`: what a session may spend.
    pub budget: Budget,
    /// `[context]`: what happens when a conversation fills its window.
    pub context: Context,
    /// `[loops]`: when a session that goes round in circles is stopped.
    pub loops: Loops,
    /// `[billing]`: who is to pay.
    pub billing: Billing,
    /// `[alerts]`: who is told outside the machine.
    pub alerts: Alerts,
    /// `[slack]`: the same in Slack.
    pub slack: Slack,
    /// `[aws]`: the identity a session gets.
    pub aws: Aws,
    /// `[git]`: branches.
    pub git: Git,
    /// `[wall]`: what the child can see of the machine.
    pub wall: Wall,
    /// `[env]`: the child's environment.
    pub env: Env,
    /// `[upstream]`: the model API behind the proxy.
    pub upstream: Upstream,
    /// `[prices."model"]`: rates that go before the built-in ones, by model name. Default: none.
    pub prices: BTreeMap<String, Price>,
    /// `[store]`: records on disk.
    pub store: Store,
}

/// `[run]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Who the session works for. Default: who STS says is calling, in CI the actor, else git's `user.email`.
    pub developer: Option<String>,
    /// The project's name in records and tags. Default: the remote's name, else the folder's.
    pub project: Option<String>,
    /// Where the session works. Default: a clone of its own.
    pub workspace: Workspace,
    /// How long a session may run, by the wall clock. Default: no limit.
    pub timeout: Option<Duration>,
    /// The readable part of the branch's name. Default: made from the command.
    pub name: Option<Slug>,
    /// Between TERM and KILL. Default: 2 s.
    pub grace: Duration,
    /// Executables that go on running after a normal exit, never after a stop. Default: gradle, bazel, sccache, watchman.
    pub keep: Vec<String>,
}

/// `[budget]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// At most one limit of each unit. Default: none, and then the session decides by who pays (5 USD where tokens are billed).
    pub limits: Vec<Limit>,
    /// What happens at the limit. Default: stop.
    pub on_budget: OnBudget,
    /// Percent of a limit at which people are told, ascending, 1 to 100. Default: 50, 80, 100.
    pub alert_at: Vec<u32>,
    /// What a model without a known price costs. Default: estimate.
    pub unknown_models: UnknownModels,
    /// What all sessions together may spend a day. Default: no limit.
    pub day: SharedLimits,
    /// What all sessions together may spend a month. Default: no limit.
    pub month: SharedLimits,
}

/// `budget.day` and `budget.month`: what sessions share. Unset is unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SharedLimits {
    /// All sessions of the developer.
    pub developer: Option<Usd>,
    /// All sessions on the project.
    pub project: Option<Usd>,
    /// All sessions on the machine.
    pub machine: Option<Usd>,
}

/// `[aws]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aws {
    /// ARN of the role that the session assumes. Default: none, the session has no AWS at all.
    pub role: Option<String>,
    /// Patterns (`*`, `?`) of roles a project file may name. Default: none.
    pub allowed_roles: Vec<String>,
    /// The session's region. Default: what the AWS configuration says.
    pub region: Option<String>,
    /// Profile whose credentials assume the role. Default: the AWS default chain.
    pub profile: Option<String>,
    /// How the child gets its credentials. Default: from the session's credentials endpoint.
    pub delivery: Delivery,
    /// Lifetime of one set of credentials, 15 min to 12 h; they are renewed while the session lives. Default: 1 h.
    pub duration: Duration,
    /// External id that the role's trust policy asks for. Default: none.
    pub external_id: Option<String>,
    /// What happens when the credentials cannot be renewed. Default: stop.
    pub on_credentials_lost: OnCredentialsLost,
}

/// `[context]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// What happens when the main conversation fills [`stop_at`](Self::stop_at). Default: warn.
    pub on_limit: OnContext,
    /// Percent of the main conversation's window that is its limit. Default: 75, which is below where Claude Code compacts by itself.
    pub stop_at: Percent,
    /// Whether the session is stopped when its main conversation is to be compacted. Default: false.
    pub stop_on_compaction: Strict,
}

/// `[loops]`. The model is told at each count, and the session is stopped at twice as much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loops {
    /// Identical tool calls within [`within`](Self::within), without a new edit between. Default: 20, so a command that is run every
    /// fifteen seconds to look after something is warned about but never stopped.
    pub same_call: u32,
    /// The time that identical calls are counted in. Default: 10 min.
    pub within: Duration,
    /// Failing tool calls in a row. Default: 12.
    pub failures: u32,
    /// What may be spent without any change of the working copy, if it also takes [`idle_time`](Self::idle_time). Default: 10 USD, which the
    /// default budget never reaches: reading and asking is work too.
    pub idle_spend: Usd,
    /// The time that this must also take. Default: 1 h.
    pub idle_time: Duration,
    /// Subagents at work at the same time. Default: as many as Claude Code allows.
    pub subagents: Option<u32>,
    /// How deep subagents may start one another. Default: as Claude Code allows.
    pub subagent_depth: Option<u32>,
}

/// `[billing]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Billing {
    /// Who is to pay; a session that somebody else would pay for does not start, or is stopped. Default: whoever does.
    pub expect: Option<Payer>,
}

/// `[alerts]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Alerts {
    /// The address that each alert is posted to as JSON, by reference, since it is a secret as a rule. Default: none.
    pub webhook: Option<SecretRef>,
}

/// `[slack]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slack {
    /// The address of an incoming webhook of Slack, by reference. Default: none.
    pub webhook: Option<SecretRef>,
}

/// A percent from 1 to 100; the lower is the stricter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent(pub u32);

/// A switch whose being on is the stricter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Strict(pub bool);

/// `[git]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches")]
pub struct Git {
    /// Branch patterns that no session may push to: those of every layer together, beginning with main, master, release/*.
    pub protected: Vec<String>,
    /// Revision that the session's branch starts from. Default: what is checked out.
    pub base: Option<String>,
    /// Whether uncommitted work is saved as one commit at the end. Default: true.
    pub wip_commit: bool,
    /// How often a running session's work is brought into the developer's repository. Default: three minutes.
    pub collect_every: Duration,
    /// Ignored files that come along, written as in a `.gitignore`. Default: none but those of `.worktreeinclude`.
    pub include: Vec<String>,
    /// Path patterns whose changes a person looks at before they are pushed. Default: `.github/workflows/**`.
    pub held: Vec<String>,
    /// Whether what the session pushes goes on at once. Default: not where a person sits at a terminal.
    pub push: Push,
    /// Whether a remote over a network is asked at the start and at the end where its protected branches stand. Default: true.
    pub watch_remote: bool,
    /// Whether the session may rewrite its own branch. Default: false.
    pub force: bool,
    /// Whether the end of a run opens a pull request. Default: false.
    pub pr: bool,
    /// The address of a GitHub API. Default: by the remote's host.
    pub api_url: Option<String>,
    /// The forge's token. Default: the login of `gh` or `glab`.
    pub token: Option<SecretRef>,
}

/// `[wall]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent grants")]
pub struct Wall {
    /// How much wall is asked for. Default: auto.
    pub mode: WallMode,
    /// Directories that the command gets as they are, such as caches: what it leaves there stays, and others use it. Default: none.
    pub share: Vec<PathBuf>,
    /// Credential files that it may read; of known formats without their token lines. Default: none.
    pub allow_read: Vec<PathBuf>,
    /// `sudo` and other setuid programs work. For an ordinary user there is no wall then. Default: false.
    pub sudo: bool,
    /// Docker's socket stays, and whoever reaches it is root. Default: false.
    pub docker: bool,
    /// The X server stays within reach, and whoever reaches it reads and types in every window. Default: false.
    pub x11: bool,
    /// `/tmp` and `/var/tmp` are empty and the session's own. Default: false.
    pub private_tmp: bool,
    /// The session sees no processes but its own. Default: false.
    pub pid_namespace: bool,
    /// What of the network is within reach. Default: all of it.
    pub network: Network,
    /// With services alone: what lies behind them. Names, addresses and networks; `defaults` stands for the built-in list. Default: that list.
    pub hosts: Vec<String>,
}

/// `[env]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Env {
    /// Variables that reach the child although they would be scrubbed. Default: none.
    pub pass: Vec<String>,
    /// Variables set for the child. Default: none.
    pub set: BTreeMap<String, String>,
}

/// `[upstream]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Upstream {
    /// Base URL of the Messages API, without a trailing slash, where Claude's own settings name none. Default: the public API.
    pub base_url: Option<String>,
    /// The API key, by reference. Default: what Claude itself would have used.
    pub api_key: Option<SecretRef>,
    /// PEM file of certificates trusted besides the system's. Default: none.
    pub extra_ca: Option<PathBuf>,
}

/// One `[prices."model"]`: USD per million tokens, each a multiple of 1e-6 USD, so that a single token's price is a whole number
/// of pico-dollars. `None`: the built-in rate holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Price {
    /// Prompt tokens outside the cache.
    pub input: Option<Usd>,
    /// Generated tokens.
    pub output: Option<Usd>,
    /// Tokens written to the five-minute cache.
    pub cache_write_5m: Option<Usd>,
    /// Tokens written to the one-hour cache.
    pub cache_write_1h: Option<Usd>,
    /// Tokens read from the cache.
    pub cache_read: Option<Usd>,
}

/// `[store]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// How many days the records of ended sessions are kept, at least 1. Default: 30.
    pub keep_days: u32,
    /// How many ended sessions' records are kept at most.
    pub keep_sessions: u32,
}

impl Default for Run {
    fn default() -> Self {
        Self {
            developer: None,
            project: None,
            workspace: Workspace::default(),
            timeout: None,
            name: None,
            grace: Duration::from_secs(2),
            keep: ["gradle", "bazel", "sccache", "watchman"].map(str::to_owned).to_vec(),
        }
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            limits: Vec::new(),
            on_budget: OnBudget::default(),
            alert_at: vec![50, 80, 100],
            unknown_models: UnknownModels::default(),
            day: SharedLimits::default(),
            month: SharedLimits::default(),
        }
    }
}

impl Default for Context {
    fn default() -> Self {
        Self { on_limit: OnContext::default(), stop_at: Percent(75), stop_on_compaction: Strict(false) }
    }
}

impl Default for Loops {
    fn default() -> Self {
        Self {
            same_call: 20,
            within: Duration::from_mins(10),
            failures: 12,
            idle_spend: Usd::from_pico(10_000_000_000_000),
            idle_time: Duration::from_hours(1),
            subagents: None,
            subagent_depth: None,
        }
    }
}

impl Default for Aws {
    fn default() -> Self {
        Self {
            role: None,
            allowed_roles: Vec::new(),
            region: None,
            profile: None,
            delivery: Delivery::default(),
            duration: Duration::from_hours(1),
            external_id: None,
            on_credentials_lost: OnCredentialsLost::default(),
        }
    }
}

impl Default for Git {
    fn default() -> Self {
        Self {
            protected: ["main", "master", "release/*"].map(str::to_owned).to_vec(),
            base: None,
            wip_commit: true,
            collect_every: Duration::from_mins(3),
            include: Vec::new(),
            held: vec![".github/workflows/**".to_owned()],
            push: Push::Auto,
            watch_remote: true,
            force: false,
            pr: false,
            api_url: None,
            token: None,
        }
    }
}

impl Default for Wall {
    fn default() -> Self {
        Self {
            mode: WallMode::default(),
            share: Vec::new(),
            allow_read: Vec::new(),
            sudo: false,
            docker: false,
            x11: false,
            private_tmp: false,
            pid_namespace: false,
            network: Network::default(),
            hosts: vec!["defaults".to_owned()],
        }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self { keep_days: 30, keep_sessions: 500 }
    }
}
