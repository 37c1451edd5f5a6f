//! The part of Claude Code's settings schema whose violation makes the client drop a whole file.
//!
//! Measured key by key on both versions. Unknown keys, unknown hook events and broken permission rules are let through, as
//! the client lets them through. A violation we do not know is found by the sentinel header (see `inject`).

use serde_json::{Map, Value};

/// Whether every version of the client takes these settings of a file of the user's; else what is wrong, with the key.
pub(super) fn check(values: &Map<String, Value>) -> Result<(), String> {
    for (key, value) in values {
        let (wanted, fits) = match key.as_str() {
            name if STRINGS.contains(&name) => ("a string", value.is_string()),
            name if BOOLEANS.contains(&name) => ("true or false", value.is_boolean()),
            name if OBJECTS.contains(&name) => ("an object", value.is_object()),
            "cleanupPeriodDays" => ("a whole number above 0", value.as_u64().is_some_and(|days| days > 0)),
            "statusLine" => ("{\"type\":\"command\",\"command\":\"...\"}", is_command(value)),
            _ => continue,
        };
        if !fits {
            return Err(format!("`{key}` should be {wanted}"));
        }
    }
    for list in ["allow", "deny", "ask"] {
        if values.get("permissions").and_then(|rules| rules.get(list)).is_some_and(|rules| !rules.is_array()) {
            return Err(format!("`permissions.{list}` should be a list"));
        }
    }
    if values.get("permissions").and_then(|rules| rules.get("defaultMode")).is_some_and(|mode| !mode.is_string()) {
        return Err("`permissions.defaultMode` should be a string".to_owned());
    }
    Ok(())
}

/// The stricter reading for `--settings`, into which ours are merged: also what only older versions (2.1.197) drop the file for.
pub(super) fn check_strictly(values: &Map<String, Value>) -> Result<(), String> {
    check(values)?;
    if values.get("extraKnownMarketplaces").is_some_and(|value| !value.is_object()) {
        return Err("`extraKnownMarketplaces` should be an object".to_owned());
    }
    for (event, matchers) in values.get("hooks").and_then(Value::as_object).into_iter().flatten() {
        for matcher in matchers.as_array().into_iter().flatten() {
            hooks(matcher).map_err(|why| format!("`hooks.{event}` {why}"))?;
        }
    }
    Ok(())
}

const STRINGS: &[&str] = &["apiKeyHelper", "awsAuthRefresh", "awsCredentialExport", "outputStyle", "model", "language"];
const BOOLEANS: &[&str] = &[
    "disableAllHooks",
    "includeCoAuthoredBy",
    "enableAllProjectMcpServers",
    "disableAgentView",
    "alwaysThinkingEnabled",
    "spinnerTipsEnabled",
];
const OBJECTS: &[&str] = &["env", "permissions", "enabledPlugins", "sandbox"];

fn hooks(matcher: &Value) -> Result<(), String> {
    if matcher.get("matcher").is_some_and(|pattern| !pattern.is_string()) {
        return Err("has a `matcher` that is no string".to_owned());
    }
    for hook in matcher.get("hooks").and_then(Value::as_array).ok_or("has an entry without a list `hooks`")? {
        let kind = hook.get("type").and_then(Value::as_str).unwrap_or_default();
        let needs = match kind {
            "command" => Some("command"),
            "prompt" | "agent" => Some("prompt"),
            "http" => Some("url"),
            "mcp_tool" => None,
            _ => return Err(format!("has a hook of type `{kind}`")),
        };
        if let Some(key) = needs.filter(|key| !hook.get(*key).is_some_and(Value::is_string)) {
            return Err(format!("has a {kind} hook without `{key}`"));
        }
        if hook.get("timeout").is_some_and(|timeout| !timeout.is_number()) {
            return Err("has a `timeout` that is no number".to_owned());
        }
    }
    Ok(())
}

fn is_command(value: &Value) -> bool {
    value.get("type").and_then(Value::as_str) == Some("command") && value.get("command").is_some_and(Value::is_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_the_client_tolerates_is_tolerated() {
        for text in [
            "{}",
            r#"{"unknownKey":[1],"env":{"A":1,"B":null,"C":{}}}"#,
            r#"{"hooks":{"NoSuchEvent":[{"hooks":[{"type":"command","command":"x","timeout":2}]}]}}"#,
            r#"{"hooks":{"Stop":{}}}"#,
            r#"{"hooks":[]}"#,
            r#"{"permissions":{"deny":["Not a rule((",1]},"statusLine":{"type":"command","command":"x"}}"#,
        ] {
            assert_eq!(check_strictly(&object(text)), Ok(()), "{text}");
        }
    }

    #[test]
    fn a_violation_that_every_version_drops_the_file_for_is_named_with_its_key() {
        for (text, key) in [
            (r#"{"cleanupPeriodDays":"bad"}"#, "cleanupPeriodDays"),
            (r#"{"cleanupPeriodDays":0}"#, "cleanupPeriodDays"),
            (r#"{"env":[]}"#, "env"),
            (r#"{"apiKeyHelper":1}"#, "apiKeyHelper"),
            (r#"{"permissions":{"allow":"Bash"}}"#, "permissions.allow"),
            (r#"{"permissions":[]}"#, "permissions"),
            (r#"{"statusLine":"x"}"#, "statusLine"),
            (r#"{"disableAllHooks":"x"}"#, "disableAllHooks"),
        ] {
            assert!(check(&object(text)).unwrap_err().contains(key), "{text}");
        }
    }

    #[test]
    fn broken_hooks_cost_a_file_of_the_user_nothing_but_settings_on_the_command_line_all() {
        for text in [
            r#"{"hooks":{"Stop":[{"hooks":[{"type":"nosuch"}]}]}}"#,
            r#"{"hooks":{"Stop":[{"hooks":[{"type":"command"}]}]}}"#,
            r#"{"hooks":{"Stop":[{"hooks":[{"type":"command","command":"x","timeout":"y"}]}]}}"#,
            r#"{"hooks":{"Stop":[{"hooks":[{"type":"http"}]}]}}"#,
            r#"{"hooks":{"Stop":[{}]}}"#,
            r#"{"extraKnownMarketplaces":[]}"#,
        ] {
            assert_eq!(check(&object(text)), Ok(()), "{text}");
            assert!(check_strictly(&object(text)).is_err(), "{text}");
        }
    }
}
