//! Which answer a request gets: the first rule that fits and has one left.
//!
//! # The JSON form
//!
//! A list of answers, or an object of rules:
//!
//! ```json
//! {
//!   "rules": [
//!     {"when": {"thread": "subagent"}, "answers": [{"content": [{"type": "text", "text": "done"}]}], "repeat": true},
//!     {"answers": [
//!       {"content": [{"type": "tool_use", "name": "Bash", "input": {"command": "ls"}}], "usage": {"input": 100000, "output": 10}},
//!       {"status": 529, "error": {"type": "overloaded_error", "message": "busy"}, "headers": {"retry-after": "2"}},
//!       {"content": [{"type": "filler", "events": 200, "bytes": 40}], "pace": {"event_ms": 20},
//!        "faults": [{"kind": "cut", "at": {"events": 100}, "how": "reset"}]}
//!     ]}
//!   ],
//!   "otherwise": {"content": [{"type": "text", "text": "ok"}]}
//! }
//! ```
//!
//! The fields are those of [`Script`], [`Rule`], [`When`] and [`Answer`]; unknown ones are errors.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::answer::Answer;
use super::request::Request;
use crate::model::Thread;

/// What the simulated upstream answers.
#[derive(Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Script {
    /// Tried in this order.
    pub rules: Vec<Rule>,
    /// For requests that no rule answers: `ok` by default.
    pub otherwise: Answer,
    /// Asked before the rules. Not part of the JSON form.
    #[serde(skip)]
    decide: Option<Decide>,
}

type Decide = Arc<dyn Fn(&Request) -> Option<Answer> + Send + Sync>;

/// Answers for the requests that fit a condition, in order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// Which requests; all by default.
    pub when: When,
    /// Their answers, in order.
    pub answers: VecDeque<Answer>,
    /// Whether the last answer is given again and again; otherwise the later rules take over.
    pub repeat: bool,
}

/// A condition on a request: everything that is named must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct When {
    /// The conversation it belongs to.
    pub thread: Option<WhenThread>,
    /// Whether the last message of the user holds a tool's result.
    pub tool_result: Option<bool>,
    /// A part of the model's name.
    pub model: Option<String>,
    /// A part of the text of the user's last message.
    pub prompt: Option<String>,
    /// Whether a stream is asked for.
    pub stream: Option<bool>,
}

/// A kind of conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenThread {
    /// The one the person sees.
    Main,
    /// A subagent's: the header `x-claude-code-agent-id`.
    Subagent,
    /// Neither: the header `x-claude-code-request-class: auxiliary`, which comes only with `CLAUDE_CODE_GATEWAY_HINT_HEADERS=1`.
    Auxiliary,
}

/// A script that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("read the script")]
pub struct ScriptError(#[from] serde_json::Error);

impl Default for Script {
    fn default() -> Self {
        Self { rules: Vec::new(), otherwise: Answer::text("ok"), decide: None }
    }
}

impl Script {
    /// These answers, one a request, then `ok`.
    pub fn of(answers: impl IntoIterator<Item = Answer>) -> Self {
        Self::default().then(answers)
    }

    /// The same answer to everything.
    pub fn always(answer: Answer) -> Self {
        Self { otherwise: answer, ..Self::default() }
    }

    /// Whatever `decide` says; where it says nothing, the rules.
    pub fn by(decide: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static) -> Self {
        Self { decide: Some(Arc::new(decide)), ..Self::default() }
    }

    /// From its JSON form.
    pub fn from_json(text: &str) -> Result<Self, ScriptError> {
        let value: Value = serde_json::from_str(text)?;
        if value.is_array() {
            return Ok(Self::of(serde_json::from_value::<Vec<Answer>>(value)?));
        }
        Ok(serde_json::from_value(value)?)
    }

    /// Adds answers for any request, after the rules so far.
    #[must_use]
    pub fn then(self, answers: impl IntoIterator<Item = Answer>) -> Self {
        self.when(When::default(), answers)
    }

    /// Adds answers for the requests that fit.
    #[must_use]
    pub fn when(mut self, when: When, answers: impl IntoIterator<Item = Answer>) -> Self {
        self.rules.push(Rule { when, answers: answers.into_iter().collect(), repeat: false });
        self
    }

    /// Adds one answer for all the requests that fit.
    #[must_use]
    pub fn whenever(mut self, when: When, answer: Answer) -> Self {
        self.rules.push(Rule { when, answers: VecDeque::from([answer]), repeat: true });
        self
    }

    /// What is answered when no rule does.
    #[must_use]
    pub fn otherwise(mut self, answer: Answer) -> Self {
        self.otherwise = answer;
        self
    }

    /// The answer to this request, taken from the script.
    pub(super) fn answer(&mut self, request: &Request) -> Answer {
        if let Some(answer) = self.decide.as_ref().and_then(|decide| decide(request)) {
            return answer;
        }
        let fitting = self.rules.iter_mut().filter(|rule| !rule.answers.is_empty() && rule.when.fits(request));
        for rule in fitting {
            let answer = if rule.repeat && rule.answers.len() == 1 { rule.answers.front().cloned() } else { rule.answers.pop_front() };
            if let Some(answer) = answer {
                return answer;
            }
        }
        self.otherwise.clone()
    }
}

impl When {
    /// Requests of this conversation.
    pub fn thread(thread: WhenThread) -> Self {
        Self { thread: Some(thread), ..Self::default() }
    }

    /// Requests whose last message does, or does not, hold a tool's result.
    pub fn tool_result(holds: bool) -> Self {
        Self { tool_result: Some(holds), ..Self::default() }
    }

    /// Requests for models with this in their name.
    pub fn model(part: impl Into<String>) -> Self {
        Self { model: Some(part.into()), ..Self::default() }
    }

    /// Requests whose last message holds this text.
    pub fn prompt(part: impl Into<String>) -> Self {
        Self { prompt: Some(part.into()), ..Self::default() }
    }

    fn fits(&self, request: &Request) -> bool {
        self.thread.is_none_or(|wanted| wanted == WhenThread::of(&request.thread()))
            && self.stream.is_none_or(|wanted| wanted == request.stream)
            && self.model.as_ref().is_none_or(|part| request.model.contains(part))
            && self.tool_result.is_none_or(|wanted| wanted != request.tool_results().is_empty())
            && self.prompt.as_ref().is_none_or(|part| request.prompt().contains(part))
    }
}

impl WhenThread {
    fn of(thread: &Thread) -> Self {
        match thread {
            Thread::Main => Self::Main,
            Thread::Agent(_) => Self::Subagent,
            Thread::Auxiliary => Self::Auxiliary,
        }
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Script")
            .field("rules", &self.rules)
            .field("otherwise", &self.otherwise)
            .field("decide", &self.decide.is_some())
            .finish()
    }
}

impl From<Answer> for Script {
    fn from(answer: Answer) -> Self {
        Self::always(answer)
    }
}

impl From<Vec<Answer>> for Script {
    fn from(answers: Vec<Answer>) -> Self {
        Self::of(answers)
    }
}

impl<const N: usize> From<[Answer; N]> for Script {
    fn from(answers: [Answer; N]) -> Self {
        Self::of(answers)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use serde_json::json;

    use super::*;

    fn request(prompt: &str, agent: Option<&str>) -> Request {
        let mut headers = HeaderMap::new();
        if let Some(agent) = agent {
            headers.insert("x-claude-code-agent-id", agent.parse().unwrap());
        }
        let body = json!({"model": "claude-opus-5-5", "stream": true, "messages": [{"role": "user", "content": prompt}]});
        Request::new(1, "/v1/messages".into(), headers, body.to_string().into())
    }

    #[test]
    fn answers_come_in_order_and_then_the_other_one() {
        let mut script = Script::of([Answer::text("one"), Answer::text("two")]).otherwise(Answer::text("more"));
        let given: Vec<Answer> = (0..4).map(|_| script.answer(&request("go", None))).collect();
        assert_eq!(given, ["one", "two", "more", "more"].map(Answer::text));
    }

    #[test]
    fn a_rule_for_subagents_leaves_the_main_threads_answers_alone() {
        let mut script = Script::default()
            .whenever(When::thread(WhenThread::Subagent), Answer::text("agent"))
            .then([Answer::text("main 1"), Answer::text("main 2")]);
        let given = [None, Some("a1"), Some("a2"), None].map(|agent| script.answer(&request("go", agent)));
        assert_eq!(given, ["main 1", "agent", "agent", "main 2"].map(Answer::text));
    }

    #[test]
    fn a_closure_decides_first_and_may_leave_it_to_the_rules() {
        let mut script = Script::by(|request| (request.prompt() == "ask").then(|| Answer::text("closure"))).then([Answer::text("rule")]);
        assert_eq!(script.answer(&request("ask", None)), Answer::text("closure"));
        assert_eq!(script.answer(&request("other", None)), Answer::text("rule"));
    }

    #[test]
    fn a_script_survives_its_json_form_and_the_documented_example_can_be_read() {
        let script = Script::of([Answer::bash("ls"), Answer::error(529, "overloaded_error", "busy").header("retry-after", "2")])
            .whenever(When::prompt("again"), Answer::filler(3, 4));
        let json = serde_json::to_string(&script).unwrap();
        let read = Script::from_json(&json).unwrap();
        assert_eq!((read.rules, read.otherwise), (script.rules, script.otherwise));
        let documented = include_str!("script.rs").lines().skip_while(|line| !line.starts_with("//! ```json")).skip(1);
        let example: String = documented.take_while(|line| !line.starts_with("//! ```")).map(|line| &line[3..]).collect();
        assert_eq!(Script::from_json(&example).unwrap().rules.len(), 2);
        assert_eq!(Script::from_json(r#"[{"status": 402}]"#).unwrap().rules[0].answers[0].status, 402);
    }

    #[test]
    fn the_faults_of_the_examples_help_can_be_read() {
        let faults = r#"[{"faults": [
            {"kind": "drop", "how": "reset"}, {"kind": "cut", "at": {"events": 3}, "how": "end"}, {"kind": "stall", "at": {"bytes": 9}},
            {"kind": "error", "at": {"events": 1}, "error": {"type": "overloaded_error", "message": "busy"}},
            {"kind": "garbage", "at": {"events": 2}, "bytes": "half_json"}, {"kind": "garbage", "at": {"events": 2}, "bytes": {"text": "x"}}
        ], "content": [{"type": "thinking", "hold_ms": 20}, {"type": "tool_use", "name": "Bash", "input": {}}], "line_end": "crlf"}]"#;
        assert_eq!(Script::from_json(faults).unwrap().rules[0].answers[0].faults.len(), 6);
    }

    #[test]
    fn a_misspelt_field_is_an_error_that_names_it() {
        let error = Script::from_json(r#"[{"contents": []}]"#).unwrap_err();
        assert!(std::error::Error::source(&error).unwrap().to_string().contains("contents"));
    }
}
