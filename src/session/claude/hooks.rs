//! The hooks that sentrely adds to Claude Code for a session, and their JSON.
//!
//! They are the client's own `http` hooks, which ask the session's proxy: no process is started for a tool call, and where the model can be
//! reached (a network namespace, a mount namespace that hides our program) they can be too. Measured on 2.1.330 both kinds cost a tool call
//! the same 4 to 6 ms (facts B5), but a program would also cost a shell and our own start each time. A hook that fails, or takes longer
//! than its two seconds, lets the client go on.
//!
//! Pure: [`settings`] makes what is merged into `--settings`, [`read`] and [`write`] are the two directions of the wire.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::arguments::SessionArgs;
use super::settings::Settings;
use crate::model::Thread;
use crate::session::notices::{Answer, Moment, Question, ToolCall};

/// The events we ask at. A version that does not know one passes over it.
const EVENTS: [&str; 5] = ["UserPromptSubmit", "PreToolUse", "PostToolUse", "PostToolUseFailure", "Stop"];
/// Seconds. Only a stopped or overloaded supervisor needs that long, and then the client goes on.
const TIMEOUT: u32 = 2;

/// The hooks, each asking `url`, and what lets them through a user's own list of allowed addresses.
pub fn settings(url: &str, settings: &Settings) -> Map<String, Value> {
    let hook = json!([{ "hooks": [{ "type": "http", "url": url, "timeout": TIMEOUT }] }]);
    let hooks: Map<String, Value> = EVENTS.iter().map(|event| ((*event).to_owned(), hook.clone())).collect();
    let mut additions = Map::from_iter([("hooks".to_owned(), Value::Object(hooks))]);
    // The client joins the lists of all layers; without one everything is allowed, so none may be made.
    if settings.key(ALLOWED).is_some() {
        let of_flag = settings.flag().and_then(|flag| flag.get(ALLOWED)).and_then(Value::as_array).cloned().unwrap_or_default();
        let list = of_flag.into_iter().chain([Value::from(url)]).collect();
        additions.insert(ALLOWED.to_owned(), Value::Array(list));
    }
    additions
}

/// The user's or the administrator's list of addresses that `http` hooks may ask.
const ALLOWED: &str = "allowedHttpHookUrls";

/// Why none of these hooks will run, if it is known before the start.
pub fn switched_off(settings: &Settings, args: &SessionArgs) -> Option<String> {
    let is_on = |value: Option<&Value>| value == Some(&Value::Bool(true));
    if args.bare {
        return Some("--bare".to_owned());
    }
    let managed = settings.managed().find(|layer| is_on(layer.values.get("allowManagedHooksOnly")));
    if let Some(layer) = managed {
        return Some(format!("allowManagedHooksOnly in {}", layer.origin()));
    }
    let (_, origin) = settings.key("disableAllHooks").filter(|(value, _)| is_on(Some(*value)))?;
    Some(format!("disableAllHooks in {origin}"))
}

/// A hook's input, as far as it is looked at. Fields that come in other forms are none.
#[expect(clippy::struct_field_names, reason = "named as in the client's hooks")]
#[derive(Deserialize)]
struct Input {
    hook_event_name: String,
    #[serde(default)]
    agent_id: Option<String>,
    #[serde(default)]
    tool_name: Option<String>,
    #[serde(default)]
    tool_input: Option<ToolInput>,
}

#[derive(Deserialize)]
struct ToolInput {
    #[serde(default)]
    command: Option<Value>,
}

/// Reads a hook's question; `None` for one that is not ours to answer.
pub fn read(body: &[u8]) -> Option<(Question, String)> {
    let input: Input = serde_json::from_slice(body).ok()?;
    let moment = match input.hook_event_name.as_str() {
        "UserPromptSubmit" => Moment::Prompt,
        "PreToolUse" => Moment::BeforeTool,
        "PostToolUse" | "PostToolUseFailure" => Moment::AfterTool,
        "Stop" => Moment::TurnEnd,
        _ => return None,
    };
    let command = input.tool_input.and_then(|given| given.command).and_then(|command| command.as_str().map(str::to_owned));
    let call = input.tool_name.filter(|_| moment == Moment::BeforeTool).map(|name| ToolCall { name, command });
    let thread = input.agent_id.filter(|id| !id.is_empty()).map_or(Thread::Main, Thread::Agent);
    Some((Question { moment, thread, call }, input.hook_event_name))
}

/// The answer on the wire for the event called `name`; empty if there is nothing to say.
pub fn write(answer: &Answer, name: &str) -> Vec<u8> {
    let Answer { person, model, deny } = answer;
    if *answer == Answer::default() {
        return Vec::new();
    }
    let mut output = Map::new();
    if let Some(text) = person {
        output.insert("systemMessage".to_owned(), Value::from(text.as_str()));
    }
    let mut specific = Map::from_iter([("hookEventName".to_owned(), Value::from(name))]);
    if let Some(text) = model {
        specific.insert("additionalContext".to_owned(), Value::from(text.as_str()));
    }
    if let Some(why) = deny {
        specific.insert("permissionDecision".to_owned(), Value::from("deny"));
        specific.insert("permissionDecisionReason".to_owned(), Value::from(why.as_str()));
    }
    if specific.len() > 1 {
        output.insert("hookSpecificOutput".to_owned(), Value::Object(specific));
    }
    Value::Object(output).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::super::settings::{Layer, Source};
    use super::*;

    fn layers(layers: &[(Source, Value)]) -> Settings {
        let layer = |(source, values): &(Source, Value)| Layer { source: *source, path: None, values: values.as_object().unwrap().clone() };
        Settings { layers: layers.iter().map(layer).collect(), notices: Vec::new() }
    }

    #[test]
    fn the_clients_questions_are_read_and_what_is_no_question_is_let_go() {
        let body =
            r#"{"session_id":"s","hook_event_name":"PreToolUse","agent_id":"a7","tool_name":"Bash","tool_input":{"command":"ls","x":1}}"#;
        let call = Some(ToolCall { name: "Bash".into(), command: Some("ls".into()) });
        let asked = Question { moment: Moment::BeforeTool, thread: Thread::Agent("a7".into()), call };
        assert_eq!(read(body.as_bytes()), Some((asked, "PreToolUse".into())));
        let after = r#"{"hook_event_name":"PostToolUseFailure","tool_name":"Bash","tool_input":{"command":["odd"]},"error":"x"}"#;
        let asked = Question { moment: Moment::AfterTool, thread: Thread::Main, call: None };
        assert_eq!(read(after.as_bytes()), Some((asked, "PostToolUseFailure".into())));
        for body in [&b""[..], b"{}", b"[1]", b"{\"hook_event_name\":\"SessionStart\"}", b"{\"hook_event_name\":7}", b"\xff"] {
            assert_eq!(read(body), None);
        }
    }

    #[test]
    fn an_answer_is_written_in_the_clients_words_and_nothing_to_say_is_nothing() {
        let text = |answer: Answer, name: &str| serde_json::from_slice::<Value>(&write(&answer, name)).unwrap();
        assert!(write(&Answer::default(), "Stop").is_empty());
        let said = Answer { person: Some("half".into()), model: Some("finish".into()), deny: None };
        let expected =
            json!({"systemMessage": "half", "hookSpecificOutput": {"hookEventName": "PostToolUse", "additionalContext": "finish"}});
        assert_eq!(text(said, "PostToolUse"), expected);
        assert_eq!(text(Answer { person: Some("half".into()), ..Answer::default() }, "Stop"), json!({"systemMessage": "half"}));
        let denied = Answer { deny: Some("no".into()), ..Answer::default() };
        let expected = json!({"hookEventName": "PreToolUse", "permissionDecision": "deny", "permissionDecisionReason": "no"});
        assert_eq!(text(denied, "PreToolUse")["hookSpecificOutput"], expected);
    }

    #[test]
    fn a_list_of_allowed_addresses_gets_ours_and_none_is_made_where_there_is_none() {
        let made = |given: &[(Source, Value)]| settings("http://p/h", &layers(given)).get(ALLOWED).cloned();
        assert_eq!(made(&[(Source::User, json!({}))]), None);
        assert_eq!(made(&[(Source::User, json!({"allowedHttpHookUrls": ["http://u"]}))]), Some(json!(["http://p/h"])));
        assert_eq!(made(&[(Source::Flag, json!({"allowedHttpHookUrls": ["http://f"]}))]), Some(json!(["http://f", "http://p/h"])));
    }

    #[test]
    fn who_switched_hooks_off_is_named() {
        let off = |given: &[(Source, Value)]| switched_off(&layers(given), &SessionArgs::default());
        assert_eq!(off(&[(Source::User, json!({"hooks": {}}))]), None);
        assert!(off(&[(Source::Flag, json!({"disableAllHooks": true}))]).unwrap().starts_with("disableAllHooks"));
        assert_eq!(off(&[(Source::Flag, json!({"disableAllHooks": false})), (Source::User, json!({"disableAllHooks": true}))]), None);
        assert!(off(&[(Source::Managed, json!({"allowManagedHooksOnly": true}))]).unwrap().starts_with("allowManagedHooksOnly"));
        assert!(switched_off(&Settings::default(), &SessionArgs { bare: true, ..SessionArgs::default() }).is_some());
    }
}
