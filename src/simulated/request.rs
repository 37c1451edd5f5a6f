//! A request as the script sees it.

use bytes::Bytes;
use http::HeaderMap;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::model::Thread;

/// One `POST /v1/messages`. What the script does not ask for is not parsed.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its number among the message requests, from 1.
    pub number: usize,
    /// Path and query.
    pub path: String,
    /// All headers.
    pub headers: HeaderMap,
    /// The body as it came.
    pub body: Bytes,
    /// `model` of the body; empty where there is none.
    pub model: String,
    /// `stream` of the body.
    pub stream: bool,
}

/// The two fields every answer needs. `messages` and the like are skipped, not built.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Head {
    model: String,
    stream: bool,
}

#[derive(Deserialize)]
struct Messages<'a> {
    #[serde(borrow)]
    messages: Vec<&'a RawValue>,
}

impl Request {
    /// From its parts; a body that cannot be read asks for no model and no stream.
    pub(super) fn new(number: usize, path: String, headers: HeaderMap, body: Bytes) -> Self {
        let head: Head = serde_json::from_slice(&body).unwrap_or_default();
        // Vertex names the model in the path.
        let in_path = path.rsplit_once("/models/").and_then(|(_, rest)| Some(rest.split_once(':')?.0.to_owned()));
        Self { number, path, headers, body, model: in_path.unwrap_or(head.model), stream: head.stream }
    }

    /// A header's value, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Which conversation it belongs to, by the client's headers (`facts/CLAUDE_CODE.md` section 2).
    pub fn thread(&self) -> Thread {
        match (self.header("x-claude-code-agent-id"), self.header("x-claude-code-request-class")) {
            (Some(agent), _) => Thread::Agent(agent.to_owned()),
            (None, Some("auxiliary")) => Thread::Auxiliary,
            (None, _) => Thread::Main,
        }
    }

    /// The whole body, parsed; null where it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The content of the last message of the user, as blocks.
    pub fn last_user_blocks(&self) -> Vec<Value> {
        let Ok(Messages { messages }) = serde_json::from_slice(&self.body) else { return Vec::new() };
        let parsed = messages.iter().rev().filter_map(|raw| serde_json::from_str::<Value>(raw.get()).ok());
        let Some(mut last) = parsed.into_iter().find(|message| message["role"] == "user") else { return Vec::new() };
        match last["content"].take() {
            Value::Array(blocks) => blocks,
            Value::String(text) => vec![serde_json::json!({ "type": "text", "text": text })],
            _ => Vec::new(),
        }
    }

    /// The texts of the tool results in the user's last message, with whether each is an error; empty when it holds none.
    pub fn tool_results(&self) -> Vec<(String, bool)> {
        let results = self.last_user_blocks().into_iter().filter(|block| block["type"] == "tool_result");
        results.map(|block| (text_of(&block["content"]), block["is_error"] == true)).collect()
    }

    /// The text of the user's last message.
    pub fn prompt(&self) -> String {
        text_of(&Value::Array(self.last_user_blocks()))
    }
}

/// The text in a content: a string, or the text blocks of a list, one a line.
fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => blocks.iter().filter_map(|block| block["text"].as_str()).collect::<Vec<_>>().join("\n"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(body: &Value) -> Request {
        Request::new(1, "/v1/messages".into(), HeaderMap::new(), body.to_string().into())
    }

    #[test]
    fn tool_results_are_those_of_the_last_user_message_even_before_a_system_message() {
        let body = serde_json::json!({"model": "m", "stream": true, "messages": [
            {"role": "user", "content": "do it"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "Bash", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "is_error": true,
                                          "content": [{"type": "text", "text": "no such file"}]}]},
            {"role": "system", "content": "note"},
        ]});
        let request = request(&body);
        assert_eq!((request.model.as_str(), request.stream), ("m", true));
        assert_eq!(request.tool_results(), [("no such file".to_owned(), true)]);
    }

    #[test]
    fn a_plain_prompt_holds_no_tool_results_and_a_body_that_is_no_json_holds_nothing() {
        let plain = request(&serde_json::json!({"messages": [{"role": "user", "content": "hello"}]}));
        assert_eq!((plain.prompt(), plain.tool_results()), ("hello".to_owned(), vec![]));
        let broken = Request::new(1, "/".into(), HeaderMap::new(), Bytes::from_static(b"{"));
        assert_eq!((broken.model.as_str(), broken.stream, broken.prompt().as_str()), ("", false, ""));
    }
}
