//! The one table of keys: it reads them, shows them, limits them, suggests them and documents them.

use std::time::Duration;

use serde_json::Value as Json;

use super::setting::{Problem, Raw, Setting, Shape};
use super::{
    Config, Delivery, Network, OnBudget, OnContext, OnCredentialsLost, Payer, Percent, Price, Push, SecretRef, SharedLimits, Slug, Strict,
    UnknownModels, WallMode, Workspace,
};
use crate::model::{Limit, Usd};

/// What the project's file, which the agent can reach, may do with a key. A policy's value is a ceiling for [`Stricter`](Self::Stricter) keys
/// and final for all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProjectRule {
    /// Set it where neither the user nor the policy did.
    Free,
    /// Only make it stricter than what holds without the project, the default included.
    Stricter,
    /// Nothing.
    Never,
}

/// One key of the configuration.
#[derive(Debug)]
pub struct Key {
    /// The dotted name: `run.timeout`. `prices` alone is a whole table.
    pub name: &'static str,
    /// What its values look like.
    pub kind: &'static str,
    /// What it is for; ends without a period.
    pub doc: &'static str,
    /// What the project's file may do with it.
    pub project: ProjectRule,
    pub(super) shape: Shape,
    set: fn(&mut Config, Raw<'_>) -> Result<(), Problem>,
    show: fn(&Config) -> Json,
    tighten: fn(&mut Config, &Config),
    copy: fn(&mut Config, &Config),
    check: fn(&mut Config) -> Result<(), String>,
}

impl Key {
    /// The key called `name`.
    pub fn find(name: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// The table it stands in: `run` of `run.timeout`.
    pub fn table(&self) -> &'static str {
        self.name.split_once('.').map_or(self.name, |(table, _)| table)
    }

    /// The variable that sets it: `SENTRELY_RUN_TIMEOUT`.
    pub fn variable(&self) -> String {
        format!("SENTRELY_{}", self.name.replace('.', "_").to_uppercase())
    }

    /// Its value in `config`; null when unset. Secrets are shown as references, variables for the child by name.
    pub fn show(&self, config: &Config) -> Json {
        (self.show)(config)
    }

    /// What it is when nobody sets it.
    pub fn default(&self) -> Json {
        self.show(&Config::default())
    }

    /// Reads and checks one value. `config` is changed even when the check fails.
    pub(super) fn set(&self, config: &mut Config, raw: Raw<'_>) -> Result<(), Problem> {
        (self.set)(config, raw)?;
        (self.check)(config).map_err(|message| Problem { message, hint: None, span: raw.value.span() })
    }

    /// Whether every layer adds to the ones below it: nobody can take a name away.
    pub(super) fn adds_up(&self) -> bool {
        self.name == "git.protected"
    }

    /// Makes the value in `config` no looser than the one in `ceiling`.
    pub(super) fn limit(&self, config: &mut Config, ceiling: &Config) {
        match self.project {
            ProjectRule::Stricter => (self.tighten)(config, ceiling),
            ProjectRule::Free | ProjectRule::Never => (self.copy)(config, ceiling),
        }
    }
}

/// The known name that `name` was most likely meant to be.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known.map(|known| (strsim::normalized_damerau_levenshtein(&name.to_lowercase(), known), known));
    scored.filter(|(score, _)| *score >= 0.5).max_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, known)| known)
}

macro_rules! key {
    ($name:expr, [$($path:ident).+]: $type:ty, $project:ident, $check:expr, $doc:expr) => {
        Key {
            name: $name,
            kind: <$type as Setting>::KIND,
            doc: $doc,
            project: ProjectRule::$project,
            shape: <$type as Setting>::SHAPE,
            set: |config, raw| {
                config.$($path).+ = <$type as Setting>::read(raw)?;
                Ok(())
            },
            show: |config| Setting::show(&config.$($path).+),
            tighten: |config, ceiling| Setting::tighten(&mut config.$($path).+, &ceiling.$($path).+),
            copy: |config, other| config.$($path).+.clone_from(&other.$($path).+),
            check: $check,
        }
    };
    ($table:ident.$field:ident: $type:ty, $project:ident, $doc:expr $(, check = $check:expr)?) => {
        key!(concat!(stringify!($table), ".", stringify!($field)), [$table.$field]: $type, $project, key!(@check $($check)?), $doc)
    };
    (@check) => { |_| Ok(()) };
    (@check $check:expr) => { $check };
}

/// Every key there is, by table.
pub static KEYS: &[Key] = &[
    key!(run.developer: Option<String>, Never, "who the session works for, instead of who AWS, CI or git say you are"),
    key!(run.project: Option<String>, Free, "the project's name in records and tags, instead of the remote's or the folder's name"),
    key!(run.workspace: Workspace, Stricter, "where the session works: a clone of its own, the same seen at the checkout's path, a branch in the checkout, or the folder as it is"),
    key!(run.timeout: Option<Duration>, Stricter, "how long a session may run", check = |config| {
        if config.run.timeout == Some(Duration::ZERO) { Err("expected a time limit above zero".to_owned()) } else { Ok(()) }
    }),
    key!(run.name: Option<Slug>, Free, "the readable part of the branch's name"),
    key!(run.grace: Duration, Stricter, "time between TERM and KILL when a session is stopped, at most 10s", check = |config| {
        // The guardian ends a supervisor whose tree is still there 15 s after a kill.
        if config.run.grace <= Duration::from_secs(10) { Ok(()) } else { Err("expected at most 10s".to_owned()) }
    }),
    key!(run.keep: Vec<String>, Never, "programs that go on running after a normal exit, by executable; a stop keeps nothing", check = |config| {
        match config.run.keep.iter().find(|name| name.is_empty() || name.contains('/')) {
            Some(name) => Err(format!("`{name}` is no program's name: expected one like sccache, without its folder")),
            None => Ok(()),
        }
    }),
    key!(budget.limits: Vec<Limit>, Stricter, "what a session may spend, one limit a unit; without any, 5usd where tokens are billed"),
    key!(budget.on_budget: OnBudget, Stricter, "at the limit, stop the session or refuse its requests"),
    key!(budget.alert_at: Vec<u32>, Stricter, "percents of a limit at which people are told"),
    key!(budget.unknown_models: UnknownModels, Stricter, "a model without a known price is charged at the dearest that could apply, or refused"),
    key!(budget.day: SharedLimits, Stricter, "what all sessions together may spend on one day (UTC), by developer, project and machine"),
    key!(budget.month: SharedLimits, Stricter, "the same for a month"),
    key!(context.on_limit: OnContext, Stricter, "when the main conversation fills stop_at, warn (people and the model) or stop the session"),
    key!(context.stop_at: Percent, Stricter, "percent of the main conversation's window that is its limit"),
    key!(context.stop_on_compaction: Strict, Stricter, "stop the session when its main conversation is about to be compacted"),
    key!(loops.same_call: u32, Stricter, "identical tool calls, without a new edit between, at which the model is told; twice as many stop the session", check = |config| {
        if config.loops.same_call >= 3 { Ok(()) } else { Err("expected at least 3".to_owned()) }
    }),
    key!(loops.within: Duration, Never, "the time in which identical tool calls are counted"),
    key!(loops.failures: u32, Stricter, "failing tool calls in a row at which the model is told; twice as many stop the session", check = |config| {
        if config.loops.failures >= 3 { Ok(()) } else { Err("expected at least 3".to_owned()) }
    }),
    key!(loops.idle_spend: Usd, Stricter, "what may be spent without any change of the working copy before the model is told, if it also takes idle_time; twice of both stop the session"),
    key!(loops.idle_time: Duration, Stricter, "the time that spending without a change must also take", check = |config| {
        if config.loops.idle_time.is_zero() { Err("expected a time above zero".to_owned()) } else { Ok(()) }
    }),
    key!(loops.subagents: Option<u32>, Stricter, "subagents at work at the same time"),
    key!(loops.subagent_depth: Option<u32>, Stricter, "how deep subagents may start one another"),
    key!(billing.expect: Option<Payer>, Free, "who is to pay; a session that somebody else would pay for is not started, or is stopped"),
    key!(alerts.webhook: Option<SecretRef>, Never, "address that each alert is posted to as JSON, by reference"),
    key!(slack.webhook: Option<SecretRef>, Never, "address of Slack's incoming webhook, by reference"),
    key!(aws.role: Option<String>, Free, "ARN of the role that a session assumes; without one it has no AWS", check = |config| {
        match &config.aws.role {
            Some(role) if !is_role(role) => Err(format!("`{role}` is no role: expected an ARN like arn:aws:iam::123456789012:role/name")),
            _ => Ok(()),
        }
    }),
    key!(aws.allowed_roles: Vec<String>, Never, "patterns of role ARNs that a project's file may name"),
    key!(aws.region: Option<String>, Free, "the session's AWS region", check = |config| {
        // It becomes part of a host name.
        match &config.aws.region {
            Some(region) if !region.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') => {
                Err(format!("`{region}` is no region: expected one like eu-central-1"))
            }
            _ => Ok(()),
        }
    }),
    key!(aws.profile: Option<String>, Never, "the AWS profile whose credentials assume the role"),
    key!(aws.delivery: Delivery, Stricter, "credentials come from an endpoint that renews them, or fixed in variables"),
    key!(aws.duration: Duration, Stricter, "lifetime of one set of credentials, 15m to 12h", check = |config| {
        let range = Duration::from_mins(15)..=Duration::from_hours(12);
        if range.contains(&config.aws.duration) { Ok(()) } else { Err("expected a duration from 15m to 12h".to_owned()) }
    }),
    key!(aws.external_id: Option<String>, Free, "external id that the role's trust policy asks for"),
    key!(aws.on_credentials_lost: OnCredentialsLost, Stricter, "when credentials cannot be renewed, stop the session or let it go on without AWS"),
    key!(git.protected: Vec<String>, Stricter, "branch patterns that no session may push to, added to main, master, release/*, the remote's default and what GitHub protects"),
    key!(git.base: Option<String>, Free, "revision that the session's branch starts from, instead of what is checked out", check = |config| {
        // git would take it for an option.
        match &config.git.base {
            Some(base) if base.starts_with('-') => Err(format!("`{base}` is no revision")),
            _ => Ok(()),
        }
    }),
    key!(git.wip_commit: bool, Free, "save uncommitted work as one commit at the end"),
    key!(git.collect_every: Duration, Stricter, "how often a running session's work is brought into the developer's repository, 1s to 1h", check = |config| {
        let range = Duration::from_secs(1)..=Duration::from_hours(1);
        if range.contains(&config.git.collect_every) { Ok(()) } else { Err("expected a duration from 1s to 1h".to_owned()) }
    }),
    key!(git.include: Vec<String>, Free, "ignored files that a session gets a copy of, written as in a .gitignore, besides those of .worktreeinclude"),
    key!(git.held: Vec<String>, Stricter, "path patterns whose changes a person looks at before they are pushed"),
    key!(git.push: Push, Stricter, "what the session pushes goes to the remote at once (direct), waits for `sentrely pr` (hold), or waits on a terminal and not in CI (auto)"),
    key!(git.watch_remote: bool, Never, "ask a remote over a network, with your own git, where its protected branches stand, at the start and at the end"),
    key!(git.force: bool, Never, "let a session rewrite its own branch on the remote"),
    key!(git.pr: bool, Never, "push the branch and open a pull request at the end of a run"),
    key!(git.api_url: Option<String>, Never, "address of a GitHub Enterprise API, like https://github.example.com/api/v3, or of a GitLab's, which ends in /api/v4", check = |config| {
        config.git.api_url.as_mut().map_or(Ok(()), base_url)
    }),
    key!(git.token: Option<SecretRef>, Never, "the forge's token, by reference, instead of the login of gh or glab"),
    key!(wall.mode: WallMode, Stricter, "as much wall as the machine offers, the full wall or no session, or none"),
    key!(wall.share: Vec<std::path::PathBuf>, Never, "directories, such as caches, that a session gets as they are and not as a copy"),
    key!(wall.allow_read: Vec<std::path::PathBuf>, Never, "credential files that a session may read, without token lines where the format is known"),
    key!(wall.sudo: bool, Never, "let sudo work inside: for an ordinary user that takes the wall away"),
    key!(wall.docker: bool, Never, "leave docker's socket, which makes whoever reaches it root"),
    key!(wall.x11: bool, Never, "leave the X server, for pictures from the clipboard: whoever reaches it reads and types in every window"),
    key!(wall.private_tmp: bool, Never, "give a session an empty /tmp of its own"),
    key!(wall.pid_namespace: bool, Never, "let a session see no processes but its own, and act on none: needs the full wall"),
    key!(wall.network: Network, Stricter, "leave the network open, or only sentrely's services and, through a filter, wall.hosts: needs the full wall"),
    key!(wall.hosts: Vec<String>, Never, "what the filter lets through: names, *.names, addresses and networks, each with a port if you like; defaults are package registries and forges"),
    key!(env.pass: Vec<String>, Never, "variables that reach the child although they look like credentials", check = |config| {
        config.env.pass.iter().try_for_each(|name| variable_name(name))
    }),
    key!(env.set: std::collections::BTreeMap<String, String>, Never, "variables set for the child", check = |config| {
        config.env.set.keys().try_for_each(|name| variable_name(name))
    }),
    key!(upstream.base_url: Option<String>, Never, "base URL of the Messages API where Claude's own settings name none", check = |config| {
        config.upstream.base_url.as_mut().map_or(Ok(()), base_url)
    }),
    key!(upstream.api_key: Option<SecretRef>, Never, "the API key, by reference, where Claude's own settings have none"),
    key!(upstream.extra_ca: Option<std::path::PathBuf>, Never, "PEM file of certificates to trust besides the system's"),
    key!("prices", [prices]: std::collections::BTreeMap<String, Price>, Never, |_| Ok(()), "prices that go before the built-in ones, in USD per million tokens"),
    key!(store.keep_days: u32, Never, "days to keep the records of ended sessions", check = |config| {
        if config.store.keep_days == 0 { Err("expected at least 1 day".to_owned()) } else { Ok(()) }
    }),
    key!(store.keep_sessions: u32, Never, "how many ended sessions to keep the records of at most", check = |config| {
        if config.store.keep_sessions == 0 { Err("expected at least 1 session".to_owned()) } else { Ok(()) }
    }),
];

/// `arn:<partition>:iam::<account>:role/<path and name>`
fn is_role(text: &str) -> bool {
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    matches!(parts[..], ["arn", _, "iam", "", account, name]
        if account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit()) && name.len() > 5 && name.starts_with("role/"))
}

fn variable_name(name: &str) -> Result<(), String> {
    let shaped = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !name.starts_with(|c: char| c.is_ascii_digit());
    if shaped && !name.is_empty() { Ok(()) } else { Err(format!("`{name}` is no name of a variable")) }
}

/// Takes slashes off the end. Credentials in a URL end up in logs; they have `api_key`.
fn base_url(text: &mut String) -> Result<(), String> {
    text.truncate(text.trim_end_matches('/').len());
    let bad = |why: &str| Err(format!("read the base URL: {why}"));
    let Ok(uri) = text.parse::<http::Uri>() else { return bad("expected one like https://gateway.example.com") };
    match (uri.scheme_str(), uri.authority()) {
        (Some("https" | "http"), Some(authority)) if authority.as_str().contains('@') => bad("it holds credentials: use upstream.api_key"),
        (Some("https" | "http"), Some(_)) if uri.query().is_some() => bad("it holds a query"),
        (Some("https" | "http"), Some(_)) => Ok(()),
        _ => bad("expected one like https://gateway.example.com"),
    }
}
