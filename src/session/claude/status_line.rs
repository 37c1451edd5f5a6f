//! The status line that sentrely puts into Claude Code for a session, with the user's own below it. Pure.

use std::path::Path;

use serde_json::{Map, Value};

use super::settings::{Settings, Source};

/// The key.
const KEY: &str = "statusLine";
/// Seconds between two drawings while nothing happens: subagents and the clock go on. The user's own choice goes before it.
const REFRESH: u32 = 5;

/// What is merged into the settings: our program, told where the session's directory is and which command of the user's comes after. Nothing where the
/// administrator has one, which would win, or where a path cannot be written in a command.
pub fn settings(program: &Path, session: &Path, settings: &Settings) -> Map<String, Value> {
    let theirs = settings.layers.iter().find(|layer| layer.values.contains_key(KEY));
    let (Some(program), Some(session)) = (program.to_str(), session.to_str()) else { return Map::new() };
    if theirs.is_some_and(|layer| layer.source == Source::Managed) {
        return Map::new();
    }
    let mut line = theirs.and_then(|layer| layer.values.get(KEY)).and_then(Value::as_object).cloned().unwrap_or_default();
    let mut command = format!("{} statusline {}", quoted(program), quoted(session));
    if let Some(theirs) = line.get("command").and_then(Value::as_str) {
        command = format!("{command} {}", quoted(theirs));
    }
    line.insert("type".to_owned(), Value::from("command"));
    line.insert("command".to_owned(), Value::from(command));
    line.entry("refreshInterval").or_insert_with(|| Value::from(REFRESH));
    Map::from_iter([(KEY.to_owned(), Value::Object(line))])
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::settings::Layer;
    use super::*;

    fn made(given: &[(Source, Value)]) -> Value {
        let layer = |(source, values): &(Source, Value)| Layer { source: *source, path: None, values: values.as_object().unwrap().clone() };
        let layers = Settings { layers: given.iter().map(layer).collect(), notices: Vec::new() };
        Value::Object(settings(Path::new("/bin/sentrely"), Path::new("/s"), &layers))
    }

    #[test]
    fn ours_comes_first_and_the_users_own_is_chained_with_its_choices() {
        let ours = "'/bin/sentrely' statusline '/s'";
        assert_eq!(made(&[]), json!({"statusLine": {"type": "command", "command": ours, "refreshInterval": 5}}));
        let theirs = json!({"statusLine": {"type": "command", "command": "echo 'x'", "padding": 1, "refreshInterval": 1}});
        let chained = format!(r"{ours} 'echo '\''x'\'''");
        assert_eq!(
            made(&[(Source::User, theirs.clone())]),
            json!({"statusLine": {"type": "command", "command": chained, "padding": 1, "refreshInterval": 1}})
        );
        assert_eq!(made(&[(Source::Managed, theirs)]), json!({}));
    }
}
