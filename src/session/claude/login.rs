//! Which credential Claude Code would use, found the way it finds it.
//!
//! Measured on both versions. The header `authorization` comes from `ANTHROPIC_AUTH_TOKEN`, else `apiKeyHelper`; `x-api-key`
//! from `ANTHROPIC_API_KEY`, else `apiKeyHelper`. Only when all three are missing: `CLAUDE_CODE_OAUTH_TOKEN`, then the login file,
//! then the key in the client's state file. A settings layer's variable hides the environment's, even when it is empty.
//! The interactive client asks once whether it may use a key that it finds, and keeps the answer: a "no" counts here too.

use std::path::Path;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::Env;
use super::arguments::SessionArgs;
pub use super::helper::run_helper;
use super::places::Places;
use super::settings::{Origin, Settings, Source, is_true};
use crate::model::{Billing, BillingKind};

/// The credential the client would use.
#[derive(Debug, Clone)]
pub enum Login {
    /// `ANTHROPIC_AUTH_TOKEN`, sent as `Authorization: Bearer`.
    AuthToken {
        /// The token.
        token: SecretString,
        /// A key that stands beside it: the client sends both.
        api_key: Option<SecretString>,
        /// Where it stands.
        origin: Origin,
    },
    /// `ANTHROPIC_API_KEY`, or the key in the client's state file, sent as `x-api-key`.
    ApiKey {
        /// The key.
        key: SecretString,
        /// Where it stands.
        origin: Origin,
    },
    /// `CLAUDE_CODE_OAUTH_TOKEN`, sent as `Authorization: Bearer`: a subscription.
    OauthToken {
        /// The token.
        token: SecretString,
        /// Where it stands.
        origin: Origin,
    },
    /// `apiKeyHelper`: a command that prints the key.
    Helper {
        /// How to get it.
        helper: Helper,
        /// A key that stands beside it and takes its place in `x-api-key`.
        api_key: Option<SecretString>,
        /// A token that stands beside it and takes its place in `Authorization: Bearer`.
        token: Option<SecretString>,
        /// Where the helper stands.
        origin: Origin,
    },
    /// `claude /login`: the client's own login file (or the macOS keychain); the client refreshes it itself.
    LoginFile,
    /// Vertex mode: the client gets a token of Google's itself, with whatever login `gcloud` left on this machine.
    Vertex {
        /// `CLOUD_ML_REGION`, as the client reads it.
        location: String,
        /// `ANTHROPIC_VERTEX_BASE_URL`, without a slash at its end, and where it stands.
        base_url: Option<(String, Origin)>,
    },
    /// Nothing found: the client will ask to log in.
    None,
}

/// An `apiKeyHelper`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Helper {
    /// The shell command.
    pub command: String,
    /// For how long its answer is good (`CLAUDE_CODE_API_KEY_HELPER_TTL_MS`, default five minutes).
    pub ttl: Duration,
}

/// Why there is no credential to supervise.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// Bedrock, Vertex or the like: sentrely does not meter it yet.
    #[error("meter Claude Code's {mode} mode ({variable} is set in {place})")]
    NotMetered {
        /// `Bedrock`, `Vertex`, ...
        mode: &'static str,
        /// The switch.
        variable: &'static str,
        /// Where it stands.
        place: Origin,
    },
    /// An administrator's setting decides the route or the credential.
    #[error("supervise Claude Code: the managed setting `{key}` in {place} decides where its requests go or who pays")]
    Managed {
        /// Such as `env.ANTHROPIC_BASE_URL`.
        key: String,
        /// The file.
        place: Origin,
    },
    /// The helper failed, was too slow or printed nothing.
    #[error("run apiKeyHelper `{command}`: {why}")]
    Helper {
        /// The command.
        command: String,
        /// What went wrong.
        why: String,
    },
}

impl LoginError {
    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotMetered { mode: "Bedrock", variable, .. } => format!(
                "Bedrock's requests are signed with your AWS keys for their host, and sentrely cannot sign them anew yet: unset {variable} to \
                 use the Anthropic API, or use Vertex"
            ),
            Self::NotMetered { variable, .. } => {
                format!("unset {variable} to use the Anthropic API, or run claude without sentrely; this mode is not metered yet")
            }
            Self::Managed { key, .. } if key == "env.NO_PROXY" || key == "env.no_proxy" => {
                "ask your administrator to add 127.0.0.1 to it: sentrely's proxy listens there".to_owned()
            }
            Self::Managed { .. } => {
                "sentrely does not get round an administrator; ask for an exception, or run claude without sentrely".to_owned()
            }
            Self::Helper { .. } => "run it by hand: it should print the key on stdout and exit 0 within ten seconds".to_owned(),
        })
    }
}

impl Login {
    /// Finds the credential; refuses the modes that are not metered and what an administrator has decided otherwise.
    ///
    /// `interactive`: the client will draw its interface ([`SessionArgs::interactive`]).
    pub fn find(places: &Places, env: &Env, settings: &Settings, args: &SessionArgs, interactive: bool) -> Result<Self, LoginError> {
        metered(env, settings)?;
        let login = match vertex(env, settings) {
            Some(vertex) => vertex,
            None => Self::read(places, env, settings, args, interactive)?,
        };
        managed(settings, &login)?;
        Ok(login)
    }

    fn read(places: &Places, env: &Env, settings: &Settings, args: &SessionArgs, interactive: bool) -> Result<Self, LoginError> {
        let bare = args.bare || settings.effective(env, "CLAUDE_CODE_SIMPLE").is_some_and(|(value, _)| is_true(&value));
        let state = json(&places.state_file);
        let logged_in = !bare && logged_in(places, &state);
        let secret = |name: &str| settings.effective(env, name).map(|(value, origin)| (SecretString::from(value), origin));
        let token = secret("ANTHROPIC_AUTH_TOKEN");
        let key = secret("ANTHROPIC_API_KEY").filter(|(key, _)| !interactive || may_use(key, &state, logged_in));
        let helper = settings
            .key("apiKeyHelper")
            .filter(|(_, origin)| !bare || matches!(origin, Origin::Settings(Source::Flag, _)))
            .and_then(|(command, origin)| Some((command.as_str()?.to_owned(), origin)))
            .filter(|(command, _)| !command.is_empty());
        let without_origin = |found: Option<(SecretString, Origin)>| found.map(|(secret, _)| secret);
        if let Some((command, origin)) = helper {
            let helper = Helper { command, ttl: ttl(env, settings) };
            return Ok(Self::Helper { helper, api_key: without_origin(key), token: without_origin(token), origin });
        }
        if let Some((token, origin)) = token {
            return Ok(Self::AuthToken { token, api_key: without_origin(key), origin });
        }
        if let Some((key, origin)) = key {
            return Ok(Self::ApiKey { key, origin });
        }
        if bare {
            return Ok(Self::None);
        }
        if let Some((token, origin)) = secret("CLAUDE_CODE_OAUTH_TOKEN") {
            return Ok(Self::OauthToken { token, origin });
        }
        for variable in ["ANTHROPIC_FEDERATION_RULE_ID", "ANTHROPIC_PROFILE"] {
            if let Some((_, place)) = settings.effective(env, variable) {
                return Err(LoginError::NotMetered { mode: "workload identity", variable, place });
            }
        }
        if logged_in {
            return Ok(Self::LoginFile);
        }
        Ok(match state.get("primaryApiKey").and_then(Value::as_str).filter(|key| !key.is_empty()) {
            Some(key) => Self::ApiKey { key: key.to_owned().into(), origin: Origin::State(places.state_file.clone()) },
            None => Self::None,
        })
    }

    /// What it is and where it stands, in words.
    pub fn origin_words(&self) -> String {
        match self {
            Self::AuthToken { origin, .. } => format!("an auth token in {origin}"),
            Self::ApiKey { origin, .. } => format!("an API key in {origin}"),
            Self::OauthToken { origin, .. } => format!("CLAUDE_CODE_OAUTH_TOKEN in {origin}"),
            Self::Helper { origin, .. } => format!("apiKeyHelper in {origin}"),
            Self::LoginFile => "the login of `claude /login`".to_owned(),
            Self::Vertex { .. } => "CLAUDE_CODE_USE_VERTEX".to_owned(),
            Self::None => "no credential".to_owned(),
        }
    }

    /// Who pays, for the banner and the journal. What a helper prints is not known before it ran, and the login file is not sentrely's to read.
    pub fn billing(&self) -> Billing {
        let (kind, secret) = match self {
            Self::AuthToken { token, api_key, .. } => (BillingKind::Key, Some(api_key.as_ref().unwrap_or(token))),
            Self::ApiKey { key, .. } => (BillingKind::Key, Some(key)),
            Self::Helper { api_key, token, .. } => (BillingKind::Key, api_key.as_ref().or(token.as_ref())),
            Self::OauthToken { token, .. } => (BillingKind::Subscription, Some(token)),
            Self::LoginFile => (BillingKind::Subscription, None),
            Self::Vertex { .. } => (BillingKind::Vertex, None),
            Self::None => (BillingKind::None, None),
        };
        Billing { kind, last4: secret.and_then(last4) }
    }
}

/// The last four characters of a secret that is long enough to spare them.
pub fn last4(secret: &SecretString) -> Option<String> {
    let text: Vec<char> = secret.expose_secret().chars().collect();
    (text.len() >= 16).then(|| text[text.len() - 4..].iter().collect())
}

/// The switch to Vertex, the one other provider that is metered.
pub(super) const VERTEX: &str = "CLAUDE_CODE_USE_VERTEX";

const MODES: [(&str, &str); 7] = [
    ("CLAUDE_CODE_USE_BEDROCK", "Bedrock"),
    ("CLAUDE_CODE_USE_FOUNDRY", "Foundry"),
    ("CLAUDE_CODE_USE_MANTLE", "Bedrock Mantle"),
    ("CLAUDE_CODE_USE_ANTHROPIC_AWS", "Anthropic on AWS"),
    ("CLAUDE_CODE_USE_ANTHROPIC_GOOGLE_CLOUD", "Anthropic on Google Cloud"),
    ("CLAUDE_CODE_USE_GATEWAY", "gateway login"),
    ("ANTHROPIC_UNIX_SOCKET", "Unix socket"),
];

/// Vertex mode, read as the client reads it (2.1.330: `us-east5` where no region is named).
fn vertex(env: &Env, settings: &Settings) -> Option<Login> {
    settings.effective(env, VERTEX).filter(|(value, _)| is_true(value))?;
    let text = |name: &str| settings.effective(env, name).map(|(value, origin)| (value.trim().to_owned(), origin));
    let location = text("CLOUD_ML_REGION").map_or_else(|| "us-east5".to_owned(), |(location, _)| location);
    let base_url = text("ANTHROPIC_VERTEX_BASE_URL").map(|(url, origin)| (url.trim_end_matches('/').to_owned(), origin));
    Some(Login::Vertex { location, base_url })
}

fn metered(env: &Env, settings: &Settings) -> Result<(), LoginError> {
    for (variable, mode) in MODES {
        // The socket is a path; the client itself (2.1.330) ignores it in settings, older ones do not.
        let on = |value: &str| is_true(value) || variable == "ANTHROPIC_UNIX_SOCKET";
        if let Some((_, place)) = settings.effective(env, variable).filter(|(value, _)| on(value)) {
            return Err(LoginError::NotMetered { mode, variable, place });
        }
    }
    Ok(())
}

/// What of the administrator's settings beats `--settings` and the environment, or would be got round by the host-managed mode
/// (`facts/CLAUDE_CODE.md` B1, B6). A plain `HTTP_PROXY` or `HTTPS_PROXY` is held off by our `NO_PROXY` and used by our proxy upstream.
fn managed(settings: &Settings, login: &Login) -> Result<(), LoginError> {
    for layer in settings.managed() {
        let refuse = |key: String| LoginError::Managed { key, place: layer.origin() };
        for name in layer.values.get("env").and_then(Value::as_object).into_iter().flatten().map(|(name, _)| name) {
            let value = layer.env(name).unwrap_or_default();
            let upper = name.to_ascii_uppercase();
            let routes = match upper.as_str() {
                "NO_PROXY" => !spares_loopback(&value),
                "ALL_PROXY" => !value.is_empty(),
                "CLAUDE_CODE_PROVIDER_MANAGED_BY_HOST" => true,
                _ if upper.starts_with("ANTHROPIC_") && upper.ends_with("_BASE_URL") => !value.is_empty(),
                _ => {
                    upper.starts_with("CLAUDE_CODE_USE_")
                        && (upper == VERTEX || MODES.iter().any(|(mode, _)| *mode == upper))
                        && is_true(&value)
                }
            };
            if routes {
                return Err(refuse(format!("env.{name}")));
            }
        }
        if layer.values.get("apiKeyHelper").and_then(Value::as_str).is_some_and(|helper| !helper.is_empty()) {
            return Err(refuse("apiKeyHelper".to_owned()));
        }
        // The client enforces these itself for a login file, which we leave to it; any other credential they forbid.
        if !matches!(login, Login::LoginFile | Login::None)
            && let Some(key) = ["forceLoginMethod", "forceLoginOrgUUID"].into_iter().find(|key| layer.values.contains_key(*key))
        {
            return Err(refuse(key.to_owned()));
        }
    }
    Ok(())
}

/// Whether a `NO_PROXY` list covers 127.0.0.1.
pub(super) fn spares_loopback(list: &str) -> bool {
    list.split([',', ' ']).map(str::trim).any(|entry| matches!(entry, "*" | "127.0.0.1" | "127.0.0.0/8"))
}

fn ttl(env: &Env, settings: &Settings) -> Duration {
    settings
        .effective(env, "CLAUDE_CODE_API_KEY_HELPER_TTL_MS")
        .and_then(|(value, _)| value.trim().parse().ok())
        .map_or(Duration::from_mins(5), Duration::from_millis)
}

/// What the user answered when the interactive client asked about this key. Not asked yet: its default is no, so a login goes first.
fn may_use(key: &SecretString, state: &Value, logged_in: bool) -> bool {
    let text = key.expose_secret();
    // The client keeps the last twenty characters.
    let tail = text.char_indices().rev().nth(19).map_or(text, |(at, _)| &text[at..]);
    let answered = |how: &str| {
        let list = state.get("customApiKeyResponses").and_then(|answers| answers.get(how)).and_then(Value::as_array);
        list.is_some_and(|keys| keys.iter().any(|key| key.as_str() == Some(tail)))
    };
    answered("approved") || (!answered("rejected") && !logged_in)
}

fn logged_in(places: &Places, state: &Value) -> bool {
    let file = json(&places.config_dir.join(".credentials.json"));
    let token = file.pointer("/claudeAiOauth/accessToken").and_then(Value::as_str);
    // On macOS the token lies in the keychain; the account in the state file tells of it.
    token.is_some_and(|token| !token.is_empty()) || (cfg!(target_os = "macos") && state.get("oauthAccount").is_some_and(Value::is_object))
}

fn json(path: &Path) -> Value {
    fs_err::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or(Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OAUTH: &str = r#"{"claudeAiOauth":{"accessToken":"sk-ant-oat01-file"}}"#;

    /// What is found without a terminal, in a word: kind, `authorization`, `x-api-key`.
    fn found(env: &[(&str, &str)], files: &[(&str, &str)], args: &SessionArgs) -> Result<String, String> {
        found_at(false, env, files, args)
    }

    fn found_at(interactive: bool, env: &[(&str, &str)], files: &[(&str, &str)], args: &SessionArgs) -> Result<String, String> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let env: Env = env.iter().map(|(name, value)| (name.into(), value.into())).collect();
        let places = Places {
            home: dir.path().into(),
            config_dir: dir.path().join(".claude"),
            cwd: dir.path().join("work"),
            managed_dir: dir.path().join("managed"),
            state_file: dir.path().join(".claude.json"),
        };
        let settings = Settings::read(&places, args).unwrap();
        let show = |secret: Option<SecretString>| secret.map_or("-".to_owned(), |secret| secret.expose_secret().to_owned());
        Login::find(&places, &env, &settings, args, interactive).map_err(|error| error.to_string()).map(|login| match login {
            Login::AuthToken { token, api_key, .. } => format!("token {} {}", show(Some(token)), show(api_key)),
            Login::ApiKey { key, .. } => format!("key {}", show(Some(key))),
            Login::OauthToken { token, .. } => format!("oauth {}", show(Some(token))),
            Login::Helper { helper, api_key, token, .. } => format!("helper {} {} {}", helper.command, show(token), show(api_key)),
            Login::LoginFile => "file".to_owned(),
            Login::Vertex { location, base_url } => format!("vertex {location} {:?}", base_url.as_ref().map(|(url, _)| url)),
            Login::None => "none".to_owned(),
        })
    }

    const KEY: (&str, &str) = ("ANTHROPIC_API_KEY", "k");
    const TOKEN: (&str, &str) = ("ANTHROPIC_AUTH_TOKEN", "t");
    const OAUTH_TOKEN: (&str, &str) = ("CLAUDE_CODE_OAUTH_TOKEN", "o");
    const FILE: (&str, &str) = (".claude/.credentials.json", OAUTH);
    const HELPER: (&str, &str) = (".claude/settings.json", r#"{"apiKeyHelper":"h"}"#);

    #[test]
    fn the_precedence_is_the_one_measured_on_the_real_client() {
        let plain = SessionArgs::default();
        for (env, files, expected) in [
            (&[KEY][..], &[FILE][..], "key k"),
            (&[TOKEN], &[FILE], "token t -"),
            (&[OAUTH_TOKEN], &[FILE], "oauth o"),
            (&[OAUTH_TOKEN, KEY], &[], "key k"),
            (&[OAUTH_TOKEN, TOKEN], &[], "token t -"),
            (&[KEY, TOKEN], &[], "token t k"),
            (&[], &[HELPER, FILE], "helper h - -"),
            (&[KEY], &[HELPER], "helper h - k"),
            (&[TOKEN], &[HELPER], "helper h t -"),
            (&[OAUTH_TOKEN], &[HELPER], "helper h - -"),
            (&[KEY], &[(".claude/settings.json", r#"{"env":{"ANTHROPIC_API_KEY":"s"}}"#)], "key s"),
            (&[KEY], &[(".claude/settings.json", r#"{"env":{"ANTHROPIC_API_KEY":""}}"#)], "none"),
            (&[], &[(".claude/settings.json", r#"{"env":{"CLAUDE_CODE_OAUTH_TOKEN":"s"}}"#)], "oauth s"),
            (&[], &[("work/.claude/settings.json", r#"{"apiKeyHelper":"p"}"#)], "helper p - -"),
            (&[], &[(".claude.json", r#"{"primaryApiKey":"p"}"#)], "key p"),
            (&[], &[(".claude.json", r#"{"primaryApiKey":"p"}"#), FILE], "file"),
            (&[], &[FILE], "file"),
            (&[], &[], "none"),
        ] {
            assert_eq!(found(env, files, &plain), Ok(expected.to_owned()), "{env:?} {files:?}");
        }
    }

    #[test]
    fn what_the_user_answered_about_a_key_counts_in_the_interactive_client() {
        const LONG: (&str, &str) = ("ANTHROPIC_API_KEY", "sk-ant-api03-0123456789abcdefghij");
        let answer = |how: &str| format!(r#"{{"customApiKeyResponses":{{"{how}":["0123456789abcdefghij"]}}}}"#);
        let (approved, rejected) = (answer("approved"), answer("rejected"));
        let plain = SessionArgs::default();
        let interactive = |files: &[(&str, &str)]| found_at(true, &[LONG], files, &plain).unwrap();
        let key = format!("key {}", LONG.1);
        assert_eq!(interactive(&[(".claude.json", &approved), FILE]), key);
        assert_eq!(interactive(&[(".claude.json", &rejected), FILE]), "file");
        assert_eq!(interactive(&[(".claude.json", &rejected)]), "none");
        assert_eq!(interactive(&[FILE]), "file");
        assert_eq!(interactive(&[]), key);
        assert_eq!(found(&[LONG], &[(".claude.json", &rejected), FILE], &plain), Ok(key));
    }

    #[test]
    fn the_bare_mode_knows_keys_and_the_helper_on_the_command_line_only() {
        let bare = SessionArgs { bare: true, ..SessionArgs::default() };
        let with_helper = SessionArgs { settings: vec![r#"{"apiKeyHelper":"flag"}"#.into()], ..bare.clone() };
        assert_eq!(found(&[KEY], &[], &bare), Ok("key k".into()));
        assert_eq!(found(&[OAUTH_TOKEN], &[FILE, HELPER], &bare), Ok("none".into()));
        assert_eq!(found(&[], &[HELPER], &with_helper), Ok("helper flag - -".into()));
    }

    #[test]
    fn modes_that_are_not_metered_are_refused_wherever_they_are_switched_on() {
        let plain = SessionArgs::default();
        let settings = |text| [("work/.claude/settings.local.json", text)];
        let bedrock = r#"{"env":{"CLAUDE_CODE_USE_BEDROCK":"true"}}"#;
        assert!(
            found(&[("CLAUDE_CODE_USE_MANTLE", "1"), KEY], &[], &plain)
                .unwrap_err()
                .contains("Bedrock Mantle mode (CLAUDE_CODE_USE_MANTLE is set in the environment)")
        );
        assert!(found(&[KEY], &settings(bedrock), &plain).unwrap_err().contains("settings.local.json"));
        assert!(found(&[KEY, ("ANTHROPIC_UNIX_SOCKET", "/s")], &[], &plain).is_err());
        assert_eq!(found(&[("CLAUDE_CODE_USE_BEDROCK", "0"), KEY], &[], &plain), Ok("key k".into()));
        assert_eq!(
            found(&[("CLAUDE_CODE_USE_BEDROCK", "1"), KEY], &settings(r#"{"env":{"CLAUDE_CODE_USE_BEDROCK":""}}"#), &plain),
            Ok("key k".into())
        );
    }

    #[test]
    fn an_administrator_s_route_or_credential_is_never_got_round() {
        let plain = SessionArgs::default();
        let with = |text: &str, env: &[(&str, &str)], files: &[(&str, &str)]| {
            let mut files = files.to_vec();
            files.push(("managed/managed-settings.json", text));
            found(env, &files, &plain)
        };
        for (text, key) in [
            (r#"{"env":{"ANTHROPIC_BASE_URL":"https://gw"}}"#, "env.ANTHROPIC_BASE_URL"),
            (r#"{"env":{"ANTHROPIC_VERTEX_BASE_URL":"https://gw"}}"#, "env.ANTHROPIC_VERTEX_BASE_URL"),
            (r#"{"env":{"no_proxy":"internal.example"}}"#, "env.no_proxy"),
            (r#"{"env":{"ALL_PROXY":"http://p"}}"#, "env.ALL_PROXY"),
            (r#"{"apiKeyHelper":"x"}"#, "apiKeyHelper"),
            (r#"{"forceLoginMethod":"claudeai"}"#, "forceLoginMethod"),
        ] {
            let said = with(text, &[KEY], &[]).unwrap_err();
            assert!(said.contains(&format!("`{key}`")) && said.contains("managed-settings.json"), "{said}");
        }
        assert_eq!(
            with(r#"{"env":{"HTTPS_PROXY":"http://p","NO_PROXY":"a, 127.0.0.1"},"disableAllHooks":true}"#, &[KEY], &[]),
            Ok("key k".into())
        );
        assert_eq!(with(r#"{"forceLoginMethod":"claudeai"}"#, &[], &[FILE]), Ok("file".into()));
        assert_eq!(with(r#"{"env":{"ANTHROPIC_API_KEY":"admin"}}"#, &[KEY], &[]), Ok("key admin".into()));
    }

    #[test]
    fn who_pays_is_said_with_the_last_four_characters_of_a_long_secret() {
        let origin = Origin::Environment;
        let key = |text: &str| Login::ApiKey { key: text.to_owned().into(), origin: origin.clone() }.billing();
        assert_eq!(key("sk-ant-api03-abcdefWXYZ"), Billing { kind: BillingKind::Key, last4: Some("WXYZ".into()) });
        assert_eq!(key("short"), Billing { kind: BillingKind::Key, last4: None });
        assert_eq!(Login::LoginFile.billing(), Billing { kind: BillingKind::Subscription, last4: None });
    }
}
