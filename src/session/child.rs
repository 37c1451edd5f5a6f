//! What the child is started with: its arguments, its environment, and the credential that stays with the proxy.

use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_blocking};

use super::claude::helper;
use super::claude::hooks;
use super::claude::inject::{self, Credential as Injected, Wanted};
use super::claude::login::Login;
use super::claude::settings::{Settings, Source};
use super::claude::status_line;
use super::claude::trust;
use super::environment::{self, Env};
use super::familiar;
use super::network;
use super::prepare::{Claude, Prepared};
use super::workplace::Workplace;
use super::{RunError, hinted};
use crate::aws::{self, Lease};
use crate::config::SecretRef;
use crate::git;
use crate::model::Workspace;
use crate::proxy::{Credential, Proxy, RefusalStyle};
use crate::store::replace;

/// How the child is to be started.
pub(super) struct Start {
    pub(super) args: Vec<OsString>,
    pub(super) env: Env,
    pub(super) credential: Credential,
    pub(super) helper: Option<Helper>,
    pub(super) refusal: RefusalStyle,
    pub(super) sentinel: Option<String>,
    pub(super) claude_session: Option<String>,
    pub(super) off: Vec<String>,
    pub(super) notices: Vec<String>,
}

/// The child's arguments and environment.
pub(super) fn child(
    prepared: &Prepared,
    workplace: &Workplace,
    base_url: &str,
    lease: Option<&Lease>,
    attempt: u32,
) -> Result<Start, RunError> {
    let parent = &prepared.request.env;
    let config = &prepared.request.config;
    let mut env = environment::scrub(parent, aws::scrub(parent.clone()), &config.env.pass);
    // Whoever has the address of a webhook may post there.
    for reference in [&config.alerts.webhook, &config.slack.webhook].into_iter().flatten() {
        if let SecretRef::Env(name) = reference {
            env.remove(OsStr::new(name));
        }
    }
    if let (Some(checkout), Workspace::Clone | Workspace::SamePath) = (&prepared.checkout, prepared.workspace()) {
        environment::own_containers(&mut env, &checkout.folder(), prepared.id);
    }
    environment::of_session(&mut env, prepared.id, &workplace.cwd, &config.env);
    let delivery = lease.map_or(&aws::Delivery::None, Lease::delivery);
    let region = lease.and_then(Lease::region);
    let network = if prepared.wall.hosts.is_some() { network::variables() } else { Vec::new() };
    let aws = aws::child_variables(delivery, workplace.dir.path(), region).map_err(|error| hinted!(error))?;
    env.extend(aws.iter().cloned());
    let mut start = match &prepared.claude {
        Some(claude) => {
            let mut hold = network.clone();
            hold.extend([("SENTRELY_RUN_ID".to_owned(), prepared.id.to_string())]);
            // The client keeps to them by itself where it knows them; the proxy holds every version to them.
            let of_agents = [("CONCURRENT_SUBAGENTS", config.loops.subagents), ("SUBAGENT_SPAWN_DEPTH", config.loops.subagent_depth)];
            for (name, limit) in
                of_agents.into_iter().filter_map(|(name, limit)| Some((format!("CLAUDE_CODE_MAX_{name}"), limit?.to_string())))
            {
                env.insert(OsString::from(&name), OsString::from(&limit));
                hold.push((name, limit));
            }
            hold.extend(aws.into_iter().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))));
            let wanted = Wanted {
                session: prepared.id,
                base_url,
                token: &prepared.token,
                settings_path: &workplace.dir.path().join("claude-settings.json"),
                login: &prepared.login,
                args: &claude.args,
                env: parent,
                settings: &claude.settings,
                stdout_is_terminal: std::io::stdout().is_terminal(),
                first_attempt: attempt == 1,
                first_party: prepared.is_first_party(),
                trusted: trusted(prepared, claude),
                hold,
                additions: additions(prepared, workplace, claude, base_url),
            };
            let mut start = claude_code(&wanted, prepared, env)?;
            let strict = claude.args.rest.iter().any(|word| word == "--strict-mcp-config");
            let servers =
                checkout_if_trusted(prepared, claude).filter(|_| !strict).and_then(|checkout| familiar::local_servers(claude, checkout));
            if let Some(servers) = servers {
                let path = workplace.dir.path().join("claude-mcp.json");
                replace(&path, &servers).map_err(|error| RunError::io(error, "write Claude Code's servers"))?;
                // It takes words up to the next option, which is ours.
                start.args.splice(0..0, [OsString::from("--mcp-config"), path.into_os_string()]);
            }
            start
        }
        None => any_command(prepared, base_url, env),
    };
    if !network.is_empty() {
        network::set_in(&mut start.env);
    }
    Ok(start)
}

/// The session's copy of a folder is as good as that folder, which the user has trusted or not.
fn trusted(prepared: &Prepared, claude: &Claude) -> bool {
    prepared.workspace() == Workspace::Clone && trust::covers(&claude.places.state_file, &prepared.request.cwd)
}

/// The checkout, where the session works in a copy of it and the user has trusted it.
fn checkout_if_trusted<'p>(prepared: &'p Prepared, claude: &Claude) -> Option<&'p git::Checkout> {
    prepared.checkout.as_ref().filter(|_| trusted(prepared, claude))
}

/// What sentrely adds to the settings.
fn additions(prepared: &Prepared, workplace: &Workplace, claude: &Claude, base_url: &str) -> Map<String, Value> {
    let mut additions = hooks::settings(&Proxy::hook_url(base_url), &claude.settings);
    if let Ok(program) = std::env::current_exe() {
        additions.extend(status_line::settings(&program, workplace.dir.path(), &claude.settings));
    }
    if let Some(checkout) = checkout_if_trusted(prepared, claude) {
        additions.extend(permissions(&claude.settings));
        additions.extend(familiar::approvals(claude, checkout));
    }
    additions
}

/// The permission rules of a trusted checkout. The client would pass over those that the copy's own files allow, since it never asked
/// about the copy, and never see those of an untracked `settings.local.json`.
fn permissions(settings: &Settings) -> Map<String, Value> {
    let mut rules: Map<String, Value> = Map::new();
    for layer in settings.layers.iter().filter(|layer| matches!(layer.source, Source::Project | Source::Local)) {
        for kind in ["allow", "deny", "ask"] {
            let Some(given) = layer.values.get("permissions").and_then(|own| own.get(kind)).and_then(Value::as_array) else { continue };
            if let Value::Array(known) = rules.entry(kind).or_insert_with(|| Value::Array(Vec::new())) {
                known.extend(given.iter().filter(|rule| rule.is_string()).cloned());
            }
        }
    }
    if rules.is_empty() { rules } else { Map::from_iter([("permissions".to_owned(), Value::Object(rules))]) }
}

fn claude_code(wanted: &Wanted<'_>, prepared: &Prepared, mut env: Env) -> Result<Start, RunError> {
    let plan = inject::plan(wanted).map_err(|error| hinted!(error))?;
    if let Some((path, content)) = &plan.settings {
        replace(path, content).map_err(|error| RunError::io(error, "write Claude Code's settings"))?;
    }
    for (name, value) in plan.env {
        match value {
            Some(value) => env.insert(name.into(), value.into()),
            None => env.remove(OsStr::new(&name)),
        };
    }
    let (credential, helper) = proxy_credential(plan.credential, prepared);
    Ok(Start {
        args: plan.args,
        env,
        credential,
        helper,
        refusal: if plan.refusal_unified { RefusalStyle::Unified } else { RefusalStyle::Plain },
        sentinel: plan.sentinel,
        claude_session: plan.session_id,
        off: plan.off,
        notices: plan.notices,
    })
}

/// Any other command: an SDK that honours `ANTHROPIC_BASE_URL`.
fn any_command(prepared: &Prepared, base_url: &str, mut env: Env) -> Start {
    env.insert("ANTHROPIC_BASE_URL".into(), base_url.into());
    // The SDKs refuse to start without a credential: the session's token stands in its place.
    let (name, credential) = match &prepared.login {
        Login::ApiKey { key, .. } => ("ANTHROPIC_API_KEY", Credential::ApiKey(key.clone())),
        Login::AuthToken { token, .. } => ("ANTHROPIC_AUTH_TOKEN", Credential::Bearer(token.clone())),
        _ => ("ANTHROPIC_API_KEY", Credential::None),
    };
    env.insert(name.into(), prepared.token.expose_secret().into());
    Start {
        args: prepared.request.command[1..].to_vec(),
        env,
        credential,
        helper: None,
        refusal: RefusalStyle::Plain,
        sentinel: None,
        claude_session: None,
        off: Vec::new(),
        notices: Vec::new(),
    }
}

fn proxy_credential(injected: Injected, prepared: &Prepared) -> (Credential, Option<Helper>) {
    match injected {
        Injected::ApiKey(key) => (Credential::ApiKey(key), None),
        Injected::Bearer(token) => (Credential::Bearer(token), None),
        Injected::Both { bearer, api_key } => (Credential::Both { bearer, api_key }, None),
        Injected::Helper { command, ttl, bearer, api_key } => {
            let (env, cwd) = (&prepared.request.env, prepared.request.cwd.clone());
            // As the client would run it: with the variables of its settings.
            let env = prepared.claude.as_ref().map_or_else(|| env.clone(), |claude| claude.settings.applied(env));
            (Credential::None, Some(Helper { command, ttl, bearer, api_key, env, cwd }))
        }
        Injected::PassThrough => (Credential::PassThrough, None),
    }
}

/// The user's apiKeyHelper: run here, never in the child.
#[derive(Clone)]
pub(super) struct Helper {
    command: String,
    ttl: Duration,
    /// What goes into the headers in place of the helper's answer.
    bearer: Option<SecretString>,
    api_key: Option<SecretString>,
    env: Env,
    cwd: PathBuf,
}

impl Helper {
    /// Asks the helper.
    pub(super) async fn run(&self) -> Result<Credential, RunError> {
        let helper = self.clone();
        let key = spawn_blocking(move || helper::run_helper(&helper.command, &helper.env, &helper.cwd))
            .await
            .map_err(|error| RunError::new(error, None))?
            .map_err(|error| hinted!(error))?;
        let bearer = self.bearer.clone().unwrap_or_else(|| key.clone());
        let api_key = self.api_key.clone().unwrap_or(key);
        Ok(Credential::Both { bearer, api_key })
    }

    /// Asks again after the answer's time to live, and when the upstream refused it.
    pub(super) fn keep_fresh(self, proxy: Arc<Proxy>, wanted: Arc<Notify>) -> JoinHandle<()> {
        tokio::spawn(async move {
            loop {
                let _ = tokio::time::timeout(self.ttl, wanted.notified()).await;
                // One that fails is asked at the next occasion; until then the upstream's own refusal tells the user.
                if let Ok(credential) = self.run().await {
                    proxy.set_credential(credential);
                }
                // At most once a second, whatever the upstream says.
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        })
    }
}
