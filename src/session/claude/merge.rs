//! One `--settings` out of the user's and sentrely's: the client uses the last one alone.
//!
//! The user's goes first: variables of ours replace theirs, hooks and permission rules are added to theirs, any other key of
//! ours replaces theirs, everything else stays as it is. Pure.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// The merged settings: the user's `--settings`, if any, then `env` and `additions`.
pub(super) fn merge(user: Option<&Map<String, Value>>, env: BTreeMap<String, String>, additions: Map<String, Value>) -> Map<String, Value> {
    let mut merged = user.cloned().unwrap_or_default();
    for (key, ours) in additions {
        match key.as_str() {
            "env" => extend(&mut merged, "env", ours),
            "hooks" | "permissions" => append_lists(&mut merged, &key, ours),
            _ => {
                merged.insert(key, ours);
            }
        }
    }
    extend(&mut merged, "env", Value::Object(env.into_iter().map(|(name, value)| (name, Value::String(value))).collect()));
    merged
}

fn extend(settings: &mut Map<String, Value>, key: &str, ours: Value) {
    match (settings.get_mut(key), ours) {
        (Some(Value::Object(theirs)), Value::Object(ours)) => theirs.extend(ours),
        // What is there and is no object, the client ignores.
        (_, ours) => {
            settings.insert(key.to_owned(), ours);
        }
    }
}

/// Lists of the same name are joined, theirs first; other values of ours replace theirs.
fn append_lists(settings: &mut Map<String, Value>, key: &str, ours: Value) {
    match (settings.get_mut(key), ours) {
        (Some(Value::Object(theirs)), Value::Object(ours)) => {
            for (name, value) in ours {
                match (theirs.get_mut(&name), value) {
                    (Some(Value::Array(list)), Value::Array(more)) => list.extend(more),
                    (_, value) => {
                        theirs.insert(name, value);
                    }
                }
            }
        }
        (_, ours) => {
            settings.insert(key.to_owned(), ours);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn variables_are_ours_lists_are_joined_and_the_rest_is_theirs() {
        let user = json!({
            "model": "opus",
            "env": {"A": "theirs", "B": "theirs"},
            "hooks": {"Stop": [{"hooks": [{"type": "command", "command": "theirs"}]}], "Old": 1},
            "permissions": {"deny": ["Bash(rm *)"], "defaultMode": "plan"},
            "statusLine": {"type": "command", "command": "theirs"},
        });
        let additions = json!({
            "hooks": {"Stop": [{"hooks": [{"type": "command", "command": "ours"}]}], "PreToolUse": []},
            "permissions": {"deny": ["Bash(git push *)"], "ask": ["WebFetch"]},
            "statusLine": {"type": "command", "command": "ours"},
        });
        let Value::Object(additions) = additions else { unreachable!() };
        let merged = merge(user.as_object(), BTreeMap::from([("B".into(), "ours".into()), ("C".into(), "ours".into())]), additions);
        assert_eq!(
            Value::Object(merged),
            json!({
                "model": "opus",
                "env": {"A": "theirs", "B": "ours", "C": "ours"},
                "hooks": {
                    "Stop": [{"hooks": [{"type": "command", "command": "theirs"}]}, {"hooks": [{"type": "command", "command": "ours"}]}],
                    "Old": 1,
                    "PreToolUse": [],
                },
                "permissions": {"deny": ["Bash(rm *)", "Bash(git push *)"], "defaultMode": "plan", "ask": ["WebFetch"]},
                "statusLine": {"type": "command", "command": "ours"},
            })
        );
    }

    #[test]
    fn without_settings_of_the_user_ours_stand_alone() {
        let merged = merge(None, BTreeMap::from([("A".into(), "1".into())]), Map::new());
        assert_eq!(Value::Object(merged), json!({"env": {"A": "1"}}));
    }
}
