//! Claude Code: the program, an administrator's settings that go before ours, and the way to the model.

use std::ffi::OsStr;
use std::fs;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::time::Duration;

use serde_json::Value;

use super::checks::{version, version_of};
use super::{Check, Surroundings};
use crate::cli::load_config;
use crate::session::claude::arguments::SessionArgs;
use crate::session::claude::settings::Settings;
use crate::session::claude::{program as programs, upstream as upstreams, variable};

/// The oldest client that is supported.
const OLDEST_CLAUDE: [u32; 3] = [2, 1, 197];
/// The public API.
const PUBLIC: &str = "https://api.anthropic.com";
/// How long a connection may take.
const CONNECT_TIME: Duration = Duration::from_secs(2);

pub(super) fn program(at: &Surroundings) -> Check {
    const NAME: &str = "claude";
    let update = "npm install -g @anthropic-ai/claude-code (2.1.197 or newer)";
    let found = match programs::resolve(OsStr::new("claude"), &at.env, &at.cwd) {
        Ok(found) => found,
        Err(error) => return Check::warn(NAME, "not found", error.hint().unwrap_or_else(|| update.to_owned())),
    };
    let path = found.path.display();
    match version_of(&found.path) {
        Ok(text) => match version(&text) {
            Some(known) if known < OLDEST_CLAUDE => Check::fail(NAME, format!("{text} at {path} is too old"), Some(update.to_owned())),
            Some(_) => Check::ok(NAME, format!("{text} at {path}")),
            None => Check::warn(NAME, format!("{path} calls itself `{text}`"), update),
        },
        Err(why) => Check::warn(NAME, format!("{path}: {why}"), update),
    }
}

/// An administrator's settings are never got round; what of them goes before what we inject is named (facts/`CLAUDE_CODE.md`, B6).
pub(super) fn managed_settings(at: &Surroundings) -> Check {
    const NAME: &str = "managed settings";
    let dir = &at.places.managed_dir;
    let mut files = vec![dir.join("managed-settings.json")];
    if let Ok(entries) = fs::read_dir(dir.join("managed-settings.d")) {
        let mut more: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        more.retain(|path| path.extension() == Some(OsStr::new("json")));
        more.sort();
        files.extend(more);
    }
    let mut present = Vec::new();
    for file in files {
        let Ok(content) = fs::read(&file) else { continue };
        let Ok(settings) = serde_json::from_slice::<Value>(&content) else {
            return Check::warn(NAME, format!("{} is not JSON: Claude Code ignores it", file.display()), "tell whoever keeps it");
        };
        let keys = stronger_keys(&settings);
        if !keys.is_empty() {
            let what = format!("{} sets {}", file.display(), keys.join(", "));
            return Check::warn(NAME, what, "these go before what sentrely injects; a session that they lead past the meter is stopped");
        }
        present.push(file.display().to_string());
    }
    match present.as_slice() {
        [] => Check::ok(NAME, "none"),
        files => Check::ok(NAME, format!("{}: nothing in our way", files.join(", "))),
    }
}

/// The keys of a managed settings file that go before ours.
fn stronger_keys(settings: &Value) -> Vec<String> {
    let mut keys = Vec::new();
    let Some(settings) = settings.as_object() else { return keys };
    for name in settings.get("env").and_then(Value::as_object).into_iter().flat_map(|env| env.keys()) {
        let upper = name.to_uppercase();
        let base_url = upper.starts_with("ANTHROPIC_") && upper.ends_with("_BASE_URL");
        if base_url || upper.ends_with("PROXY") || upper.starts_with("CLAUDE_CODE_USE_") {
            keys.push(format!("env.{name}"));
        }
    }
    let exact = ["apiKeyHelper", "allowManagedHooksOnly", "disableAllHooks"];
    // A switch that is off is in nobody's way.
    let on = |value: &Value| !matches!(value, Value::Bool(false) | Value::Null);
    let named = |name: &str| exact.contains(&name) || name.starts_with("forceLogin");
    keys.extend(settings.iter().filter(|(name, value)| named(name) && on(value)).map(|(name, _)| name.clone()));
    keys.sort();
    keys
}

/// A connection to the API, or to the proxy on the way to it; nothing is sent.
pub(super) fn upstream(at: &Surroundings) -> Check {
    const NAME: &str = "upstream";
    let settings = Settings::read(&at.places, &SessionArgs::default()).unwrap_or_default();
    let claudes = match upstreams::find(&settings, &at.env) {
        Ok(found) => found.map(|found| found.url),
        Err(error) => return Check::warn(NAME, error.to_string(), "no session can use it"),
    };
    let configured = || load_config(Vec::new()).ok().and_then(|loaded| loaded.config.upstream.base_url);
    let url = claudes.or_else(configured).unwrap_or_else(|| PUBLIC.to_owned());
    let proxy = ["HTTPS_PROXY", "https_proxy"].iter().find_map(|name| variable(&at.env, name)).filter(|_| url.starts_with("https:"));
    let way = proxy.unwrap_or(&url);
    let by = if proxy.is_some() { " by the proxy" } else { "" };
    let Some((host, port)) = host_and_port(way) else {
        return Check::warn(NAME, format!("{way} is not an address"), "expected https://host or http://host:port");
    };
    match connect(host.clone(), port) {
        Ok(()) => Check::ok(NAME, format!("{url}: {host}:{port}{by} answers")),
        Err(why) => Check::warn(NAME, format!("{url}: {host}:{port}{by} cannot be reached: {why}"), "check the network, or HTTPS_PROXY"),
    }
}

/// In a thread: looking up a name has no time limit of its own.
fn connect(host: String, port: u16) -> Result<(), String> {
    let (tell, told) = channel();
    std::thread::spawn(move || {
        let mut outcome = Err("it has no address".to_owned());
        for address in (host.as_str(), port).to_socket_addrs().map_err(|error| error.to_string()).into_iter().flatten() {
            outcome = TcpStream::connect_timeout(&address, CONNECT_TIME).map(|_| ()).map_err(|error| error.to_string());
            if outcome.is_ok() {
                break;
            }
        }
        // Nobody may be waiting any more.
        let _ = tell.send(outcome);
    });
    told.recv_timeout(CONNECT_TIME).unwrap_or_else(|_| Err(format!("no answer within {} s", CONNECT_TIME.as_secs())))
}

fn host_and_port(url: &str) -> Option<(String, u16)> {
    let uri: http::Uri = url.parse().ok()?;
    let default = match uri.scheme_str() {
        Some("https") => 443,
        _ => 80,
    };
    let host = uri.host()?.trim_matches(['[', ']']).to_owned();
    Some((host, uri.port_u16().unwrap_or(default)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_managed_keys_that_beat_ours_are_named_and_harmless_ones_are_not() {
        let settings = serde_json::json!({
            "env": { "ANTHROPIC_BASE_URL": "https://gw", "ANTHROPIC_BEDROCK_BASE_URL": "x", "HTTPS_PROXY": "x", "no_proxy": "*", "CLAUDE_CODE_USE_BEDROCK": "1", "EDITOR": "vi" },
            "apiKeyHelper": "/bin/key", "forceLoginMethod": "console", "forceLoginOrgUUID": "o", "allowManagedHooksOnly": true, "disableAllHooks": false,
            "availableModels": ["sonnet"], "permissions": {}
        });
        let expected = [
            "allowManagedHooksOnly",
            "apiKeyHelper",
            "env.ANTHROPIC_BASE_URL",
            "env.ANTHROPIC_BEDROCK_BASE_URL",
            "env.CLAUDE_CODE_USE_BEDROCK",
            "env.HTTPS_PROXY",
            "env.no_proxy",
            "forceLoginMethod",
            "forceLoginOrgUUID",
        ];
        assert_eq!(stronger_keys(&settings), expected);
        assert!(stronger_keys(&serde_json::json!([1])).is_empty());
    }

    #[test]
    fn addresses_are_taken_from_urls() {
        assert_eq!(host_and_port("https://api.anthropic.com"), Some(("api.anthropic.com".into(), 443)));
        assert_eq!(host_and_port("http://[::1]:8080/v1"), Some(("::1".into(), 8080)));
        assert_eq!(host_and_port("not an address"), None);
    }
}
