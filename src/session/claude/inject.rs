//! What the client is started with so that every request passes our proxy and the credential stays with the supervisor.
//!
//! # How it holds
//!
//! A settings file beats the process environment, so `ANTHROPIC_BASE_URL` alone is not enough. Two ways hold against every
//! settings layer but the administrator's (trial matrix: `tests/integration/routing.rs`):
//!
//! - **Host-managed** (`CLAUDE_CODE_PROVIDER_MANAGED_BY_HOST=1`), for every credential that is known to us: the client then
//!   takes route, credential and models from the process environment alone. The child gets a placeholder; the proxy puts the
//!   real credential on. What of a user's settings that mode ignores (models, custom headers) is lifted into the environment.
//! - **Settings**, for a login file, which the host-managed mode would not read: one merged `--settings` file beats user, project
//!   and local settings. A sentinel header that stands only in it tells the proxy on the first request that it was applied.
//!
//! Both set the merged file too: older clients read more from it, and the hooks live there. [`plan`] is pure.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;
use serde_json::{Map, Value};

use super::Env;
use super::arguments::SessionArgs;
use super::hooks;
use super::login::{Login, VERTEX, spares_loopback};
use super::merge::merge;
use super::placeholder;
use super::schema;
use super::settings::{Origin, Settings};
use crate::model::SessionId;

/// What goes in.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about the run")]
pub struct Wanted<'a> {
    /// The session.
    pub session: SessionId,
    /// The proxy's base URL for this session, token in its path, as the child shall use it.
    pub base_url: &'a str,
    /// The secret in that path; the placeholder credential is derived from it.
    pub token: &'a SecretString,
    /// Where the merged settings file will lie (in the session's directory).
    pub settings_path: &'a Path,
    /// The credential found.
    pub login: &'a Login,
    /// The user's arguments.
    pub args: &'a SessionArgs,
    /// The environment of the `sentrely` command.
    pub env: &'a Env,
    /// The layers read.
    pub settings: &'a Settings,
    /// Whether stdout of the child is a terminal.
    pub stdout_is_terminal: bool,
    /// The session's first attempt: only then its id may become the conversation's (the client refuses an id that is in use).
    pub first_attempt: bool,
    /// Whether the upstream is the public API, where the client would have used tool search.
    pub first_party: bool,
    /// The user has trusted the folder that the session works in a copy of: the client shall not ask again for the copy.
    pub trusted: bool,
    /// Variables of the session (AWS, git) that a settings file of the user's must not replace.
    pub hold: Vec<(String, String)>,
    /// Settings of sentrely's own to add (hooks, permissions, statusLine); empty for none.
    pub additions: Map<String, Value>,
}

/// What the caller does.
#[derive(Debug)]
pub struct Plan {
    /// The whole argument list for the client.
    pub args: Vec<OsString>,
    /// Changes to the child's environment: set, or unset. They must come last.
    pub env: Vec<(String, Option<String>)>,
    /// The merged `--settings` file: to be written with mode 0600 before the start.
    pub settings: Option<(PathBuf, Vec<u8>)>,
    /// What the proxy puts on each request.
    pub credential: Credential,
    /// Whether a refusal in the unified form (`facts/CLAUDE_CODE.md` B3) prints our sentence alone; else the plain 402.
    pub refusal_unified: bool,
    /// The value that every request must carry in `x-sentrely-run`; a request without it shows that the settings were not applied.
    pub sentinel: Option<String>,
    /// The conversation id given to the client.
    pub session_id: Option<String>,
    /// What is switched off in the client, for the banner.
    pub off: Vec<String>,
    /// What the user should know.
    pub notices: Vec<String>,
}

/// What the proxy puts on a request in place of what the child sent.
#[derive(Debug, Clone)]
pub enum Credential {
    /// `x-api-key`.
    ApiKey(SecretString),
    /// `authorization: Bearer`.
    Bearer(SecretString),
    /// Both (token and key stand side by side; the client sends both).
    Both {
        /// `authorization: Bearer`.
        bearer: SecretString,
        /// `x-api-key`.
        api_key: SecretString,
    },
    /// Both headers; what is not given here is the helper's answer. Run it with [`super::helper::run_helper`], again after its time to live or a 401.
    Helper {
        /// The shell command.
        command: String,
        /// How long an answer is good.
        ttl: Duration,
        /// `authorization: Bearer`, if not the helper's.
        bearer: Option<SecretString>,
        /// `x-api-key`, if not the helper's.
        api_key: Option<SecretString>,
    },
    /// The client's own header goes through unchanged (login file, or a `/login` inside).
    PassThrough,
}

/// Why no plan can be made.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InjectError {
    /// The client would drop the merged settings, and our route with them.
    #[error("merge sentrely's settings with --settings: {why}")]
    Settings {
        /// Which key.
        why: String,
    },
}

impl InjectError {
    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        Some("leave --settings out, or correct that key".to_owned())
    }
}

/// Other providers' base URLs: a switch to one of them that we did not see still ends at our proxy.
const OTHER_BASE_URLS: [&str; 6] = [
    "ANTHROPIC_BEDROCK_BASE_URL",
    "ANTHROPIC_VERTEX_BASE_URL",
    "ANTHROPIC_FOUNDRY_BASE_URL",
    "ANTHROPIC_AWS_BASE_URL",
    "ANTHROPIC_GOOGLE_CLOUD_BASE_URL",
    "ANTHROPIC_BEDROCK_MANTLE_BASE_URL",
];

/// The switches to those providers.
const OTHER_PROVIDERS: [&str; 7] = [
    "CLAUDE_CODE_USE_BEDROCK",
    "CLAUDE_CODE_USE_VERTEX",
    "CLAUDE_CODE_USE_FOUNDRY",
    "CLAUDE_CODE_USE_MANTLE",
    "CLAUDE_CODE_USE_ANTHROPIC_AWS",
    "CLAUDE_CODE_USE_ANTHROPIC_GOOGLE_CLOUD",
    "CLAUDE_CODE_USE_GATEWAY",
];

/// Ways to hand the client a credential or a route that would go before ours.
const REMOVED: [&str; 9] = [
    "ANTHROPIC_UNIX_SOCKET",
    "CLAUDE_CODE_OAUTH_TOKEN_FILE_DESCRIPTOR",
    "CLAUDE_CODE_API_KEY_FILE_DESCRIPTOR",
    "CLAUDE_CODE_GATEWAY_TOKEN_FILE_DESCRIPTOR",
    "CLAUDE_CODE_HOST_AUTH_ENV_VAR",
    "CLAUDE_CODE_HOST_CREDS_FILE",
    "CLAUDE_CODE_SDK_HAS_HOST_AUTH_REFRESH",
    "CLAUDE_CODE_HOST_AUTH_ASK_AT_START",
    "CLAUDE_CODE_LAUNCHER_RUNS_API_KEY_HELPER",
];

const CREDENTIALS: [&str; 3] = ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN"];

/// Variables that the host-managed mode takes from the process environment alone: what a user's settings say of them is lifted there.
const LIFTED: [&str; 14] = [
    "ANTHROPIC_CUSTOM_HEADERS",
    "ANTHROPIC_CUSTOM_MODEL_OPTION",
    "ANTHROPIC_CUSTOM_MODEL_OPTION_DESCRIPTION",
    "ANTHROPIC_CUSTOM_MODEL_OPTION_NAME",
    "ANTHROPIC_CUSTOM_MODEL_OPTION_SUPPORTED_CAPABILITIES",
    "ANTHROPIC_DEFAULT_MODEL",
    "ANTHROPIC_MODEL",
    "ANTHROPIC_SMALL_FAST_MODEL",
    "CLAUDE_CODE_AUTO_MODE_MODEL",
    "CLAUDE_CODE_BG_CLASSIFIER_MODEL",
    "CLAUDE_CODE_DISABLE_FEATURE_FLAGS",
    "CLAUDE_CODE_SUBAGENT_MODEL",
    "CLAUDE_CODE_SUBAGENT_MODEL_FORCE",
    "CLAUDE_CODE_WORKFLOW_SUBAGENT_MODEL",
];
const LIFTED_FAMILIES: [&str; 4] = ["FABLE", "HAIKU", "OPUS", "SONNET"];
const LIFTED_SUFFIXES: [&str; 4] = ["", "_DESCRIPTION", "_NAME", "_SUPPORTED_CAPABILITIES"];

/// The header that shows that the merged settings were applied.
pub const SENTINEL: &str = "x-sentrely-run";

/// Makes the plan.
pub fn plan(wanted: &Wanted<'_>) -> Result<Plan, InjectError> {
    let interactive = wanted.args.interactive(wanted.stdout_is_terminal);
    let (credential, placeholder) = credential(wanted);
    let mut off = vec!["background sessions (--bg, /background, the left arrow)".to_owned()];
    let mut notices = wanted.settings.notices.clone();
    let mut additions = wanted.additions.clone();

    let mut common = common(wanted, interactive);
    if interactive {
        off.push("scheduled prompts beyond the session's end".to_owned());
    } else {
        off.push("scheduled prompts (CronCreate)".to_owned());
    }
    additions.insert("disableAgentView".to_owned(), Value::Bool(true));
    // The supervisor runs the helper, never the child: empty is none (measured on both versions).
    additions.insert("apiKeyHelper".to_owned(), Value::from(""));
    let panes = wanted.settings.key("teammateMode").is_some_and(|(mode, _)| mode.as_str() != Some("in-process"));
    if panes {
        additions.insert("teammateMode".to_owned(), Value::from("in-process"));
        off.push("teammates in terminal panes".to_owned());
    }

    let mut env: Vec<(String, Option<String>)> = REMOVED.iter().map(|name| ((*name).to_owned(), None)).collect();
    let mut sentinel = None;
    if let Some((variable, value)) = placeholder {
        env.extend(CREDENTIALS.iter().filter(|name| **name != variable).map(|name| ((*name).to_owned(), None)));
        env.push(("CLAUDE_CODE_PROVIDER_MANAGED_BY_HOST".to_owned(), Some("1".to_owned())));
        env.push((variable.to_owned(), Some(value)));
        env.extend(lifted(wanted.settings));
    } else {
        env.push(("CLAUDE_CODE_PROVIDER_MANAGED_BY_HOST".to_owned(), None));
        // Such as a key that the user told the client not to use: found again, it would be asked about again.
        env.extend(CREDENTIALS.iter().map(|name| ((*name).to_owned(), None)));
        // Empty is none, and hides what a settings file says later in the session: the login stays who pays (measured on both versions).
        common.in_settings.extend(CREDENTIALS.iter().map(|name| ((*name).to_owned(), String::new())));
        let by_administrator = wanted.settings.managed().any(|layer| layer.env("ANTHROPIC_CUSTOM_HEADERS").is_some());
        if !by_administrator {
            let value = placeholder::sentinel(wanted.token);
            let theirs =
                wanted.settings.effective(wanted.env, "ANTHROPIC_CUSTOM_HEADERS").map(|(lines, _)| lines + "\n").unwrap_or_default();
            common.in_settings.insert("ANTHROPIC_CUSTOM_HEADERS".to_owned(), format!("{theirs}{SENTINEL}: {value}"));
            sentinel = Some(value);
        }
    }
    if wanted.trusted {
        // About trust in the working directory and nothing else (read in both versions' programs).
        env.push(("CLAUDE_CODE_SANDBOXED".to_owned(), Some("1".to_owned())));
    }
    env.extend(common.in_environment.into_iter().map(|(name, value)| (name, Some(value))));

    if let Some(by) = hooks::switched_off(wanted.settings, wanted.args).filter(|_| wanted.additions.contains_key("hooks")) {
        notices.push(format!("hooks are switched off in Claude Code ({by}), sentrely's own too: no notices inside the conversation"));
    }
    notices.extend(readable(wanted.login));

    let merged = merge(wanted.settings.flag(), common.in_settings, additions);
    schema::check_strictly(&merged).map_err(|why| InjectError::Settings { why })?;
    let session_id = (wanted.args.fresh() && wanted.first_attempt).then(|| wanted.session.to_string());
    Ok(Plan {
        args: arguments(wanted, session_id.as_deref()),
        env,
        settings: Some((wanted.settings_path.to_path_buf(), Value::Object(merged).to_string().into_bytes())),
        credential,
        refusal_unified: !matches!(wanted.login, Login::Vertex { .. } | Login::None),
        sentinel,
        session_id,
        off,
        notices,
    })
}

fn arguments(wanted: &Wanted<'_>, session_id: Option<&str>) -> Vec<OsString> {
    let mut args = vec![OsString::from("--settings"), wanted.settings_path.as_os_str().to_owned()];
    if let Some(id) = session_id {
        args.extend([OsString::from("--session-id"), OsString::from(id)]);
    }
    args.extend(wanted.args.rest.iter().cloned());
    args
}

/// What the proxy puts on, and the variable that holds the child's placeholder; none where the client's own header goes through.
fn credential(wanted: &Wanted<'_>) -> (Credential, Option<(&'static str, String)>) {
    let gateway = || Some(("ANTHROPIC_AUTH_TOKEN", placeholder::gateway_token(wanted.session, wanted.token)));
    match wanted.login {
        Login::ApiKey { key, .. } => (Credential::ApiKey(key.clone()), gateway()),
        Login::AuthToken { token, api_key: None, .. } => (Credential::Bearer(token.clone()), gateway()),
        Login::AuthToken { token, api_key: Some(api_key), .. } => {
            (Credential::Both { bearer: token.clone(), api_key: api_key.clone() }, gateway())
        }
        Login::Helper { helper, api_key, token, .. } => {
            let (bearer, api_key) = (token.clone(), api_key.clone());
            (Credential::Helper { command: helper.command.clone(), ttl: helper.ttl, bearer, api_key }, gateway())
        }
        Login::OauthToken { token, .. } => {
            (Credential::Bearer(token.clone()), Some(("CLAUDE_CODE_OAUTH_TOKEN", placeholder::oauth_token(wanted.token))))
        }
        Login::LoginFile | Login::Vertex { .. } | Login::None => (Credential::PassThrough, None),
    }
}

/// What is set whatever the credential: in the process environment, and in the merged settings, which beat the user's files.
struct Common {
    in_environment: BTreeMap<String, String>,
    in_settings: BTreeMap<String, String>,
}

fn common(wanted: &Wanted<'_>, interactive: bool) -> Common {
    let mut both = BTreeMap::new();
    let mut set = |name: &str, value: &str| both.insert(name.to_owned(), value.to_owned());
    set("ANTHROPIC_BASE_URL", wanted.base_url);
    for name in OTHER_BASE_URLS {
        set(name, wanted.base_url);
    }
    for name in OTHER_PROVIDERS {
        let on = name == VERTEX && matches!(wanted.login, Login::Vertex { .. });
        set(name, if on { "1" } else { "0" });
    }
    for (name, other) in [("NO_PROXY", "no_proxy"), ("no_proxy", "NO_PROXY")] {
        let theirs = wanted.settings.effective(wanted.env, name).or_else(|| wanted.settings.effective(wanted.env, other));
        set(name, &without_proxy(theirs.map(|(list, _)| list).as_deref()));
    }
    set("CLAUDE_CODE_GATEWAY_HINT_HEADERS", "1");
    set("CLAUDE_CODE_DISABLE_AGENT_VIEW", "1");
    set("CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK", "1");
    // A tool's input then streams as it is generated, and is counted by its bytes.
    set("CLAUDE_CODE_ENABLE_FINE_GRAINED_TOOL_STREAMING", "1");
    if !interactive {
        set("CLAUDE_CODE_DISABLE_CRON", "1");
    }
    set("SENTRELY_RUN_ID", &wanted.session.to_string());
    set("SENTRELY_SESSION", &wanted.session.short());
    if wanted.first_party && wanted.settings.effective(wanted.env, "ENABLE_TOOL_SEARCH").is_none() {
        // Behind a base URL that is not Anthropic's, older clients load every tool up front (2.1.197: 76 kB instead of 48).
        set("ENABLE_TOOL_SEARCH", "true");
    }
    let mut in_settings = both.clone();
    in_settings.extend(wanted.hold.iter().cloned());
    Common { in_environment: both, in_settings }
}

/// A `NO_PROXY` list that spares loopback: a proxy variable sends even `http://127.0.0.1` through the proxy.
fn without_proxy(theirs: Option<&str>) -> String {
    match theirs {
        None => "127.0.0.1,localhost".to_owned(),
        // `*` means all only while it stands alone.
        Some(list) if list.trim() == "*" || (spares_loopback(list) && list.contains("localhost")) => list.to_owned(),
        Some(list) => format!("{list},127.0.0.1,localhost"),
    }
}

/// What the settings say about variables that the host-managed mode would not take from them, also that one is empty.
fn lifted(settings: &Settings) -> Vec<(String, Option<String>)> {
    let families = LIFTED_FAMILIES
        .iter()
        .flat_map(|family| LIFTED_SUFFIXES.iter().map(move |suffix| format!("ANTHROPIC_DEFAULT_{family}_MODEL{suffix}")));
    LIFTED
        .iter()
        .map(|name| (*name).to_owned())
        .chain(families)
        .filter_map(|name| settings.env(&name).map(|(value, _)| (name, Some(value))))
        .collect()
}

/// A credential that lies in a file stays where the agent can read it (invariant I7): said, not hidden.
fn readable(login: &Login) -> Option<String> {
    let (what, origin) = match login {
        Login::ApiKey { origin, .. } => ("the API key", origin),
        Login::AuthToken { origin, .. } => ("the auth token", origin),
        Login::OauthToken { origin, .. } => ("the OAuth token", origin),
        Login::Helper { origin, .. } => ("the command that prints the API key", origin),
        Login::LoginFile => return Some("claude's own login stays with claude: its tools can read it".to_owned()),
        Login::Vertex { .. } => {
            return Some("your Google login stays with claude: its tools can use it, and it opens all that it opens elsewhere".to_owned());
        }
        Login::None => return None,
    };
    match origin {
        Origin::Environment | Origin::Config(_) => None,
        Origin::Settings(..) | Origin::State(_) => Some(format!("{what} stands in {origin}, where the agent can read it")),
    }
}

#[cfg(test)]
mod tests;
