//! Whether an agent goes round in circles: pure logic over its tool calls, as digests only (invariant I6).
//!
//! Two patterns count here, each per conversation; [a third](super::idle) looks at the money and the working copy. **The same call**: one tool with one input, again and again within a time. **Failures**: tool
//! results that are errors, with no success between them. At the configured count the model is told once; at twice that the session is
//! stopped. Honest work is told from this by what it changes: an edit that was not made before starts the counts of its conversation
//! afresh, so a test suite that is run after each fix never adds up.
//!
//! [`calls_of`] reads the calls from a request's body, where the client must repeat them whatever its hooks and settings say.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::model::{Thread, Usd};

/// Calls that are remembered, so that none is counted twice: every request repeats the whole conversation.
const MAX_KNOWN: usize = 200_000;
/// Conversations that are followed; a client with more subagents than that has forgotten the first.
const MAX_THREADS: usize = 1_000;
/// Calls within the time that are kept for one conversation.
const MAX_RECENT: usize = 2_000;
/// Different calls in one round of a loop, at most: a command that stands among more than that many others is part of work.
const LONGEST_LOOP: usize = 4;
/// The tools whose input says all that they change.
const EDITS: [&str; 4] = ["Write", "Edit", "MultiEdit", "NotebookEdit"];

/// How much is too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Identical calls within [`within`](Self::within) at which the model is told; twice as many stop the session.
    pub same_call: u32,
    /// The time that identical calls are counted in.
    pub within: Duration,
    /// Failing calls in a row at which the model is told; twice as many stop the session.
    pub failures: u32,
}

/// One tool call with its result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The client's id of it, as a digest.
    pub id: u64,
    /// The tool's name.
    pub tool: String,
    /// A digest of its name and input.
    pub digest: u64,
    /// Its result was an error.
    pub failed: bool,
}

/// What goes round in circles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// The same call, so many times.
    SameCall {
        /// The tool.
        tool: String,
        /// How often.
        times: u32,
        /// In how many minutes, rounded up.
        minutes: u64,
    },
    /// So many failing calls in a row.
    Failures {
        /// The last of the tools.
        tool: String,
        /// How many.
        times: u32,
    },
    /// Money went while the work stood still.
    Idle {
        /// How much.
        spent: Usd,
        /// In how many minutes.
        minutes: u64,
    },
}

/// What is to be done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Tell the model.
    Warn(Pattern),
    /// Stop the session.
    Stop(Pattern),
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SameCall { tool, times, minutes } => {
                let unit = if *minutes == 1 { "minute" } else { "minutes" };
                write!(f, "the same {tool} call was made {times} times within {minutes} {unit}, without a new edit between")
            }
            Self::Idle { spent, minutes } => {
                let unit = if *minutes == 1 { "minute" } else { "minutes" };
                write!(f, "{} was spent in {minutes} {unit} without any change of the working copy", spent.show())
            }
            Self::Failures { tool, times } => write!(f, "{times} tool calls failed in a row, the last of {tool}"),
        }
    }
}

/// The calls so far.
#[derive(Debug)]
pub struct Loops {
    rules: Rules,
    known: HashSet<u64>,
    threads: HashMap<Thread, Recent>,
}

#[derive(Debug, Default)]
struct Recent {
    /// Time and digest of calls since the last new edit, the oldest first.
    calls: VecDeque<(Timestamp, u64)>,
    /// Digests of all edits.
    edits: HashSet<u64>,
    failures: u32,
    /// Digests of calls that were warned about, and whether failures were.
    warned: HashSet<u64>,
    warned_of_failures: bool,
}

impl Loops {
    /// Nothing was called yet.
    pub fn new(rules: Rules) -> Self {
        Self { rules, known: HashSet::new(), threads: HashMap::new() }
    }

    /// Whether a call was counted already.
    pub fn knows(&self, id: u64) -> bool {
        self.known.contains(&id)
    }

    /// Takes in a call, unless it was counted already.
    pub fn on(&mut self, thread: &Thread, call: &Call, now: Timestamp) -> Vec<Finding> {
        if self.known.len() >= MAX_KNOWN {
            self.known.clear();
        }
        if !self.known.insert(call.id) {
            return Vec::new();
        }
        if self.threads.len() >= MAX_THREADS && !self.threads.contains_key(thread) {
            self.threads.clear();
        }
        let recent = self.threads.entry(thread.clone()).or_default();
        let mut findings = Vec::new();
        findings.extend(recent.same(&self.rules, call, now));
        findings.extend(recent.failure(&self.rules, call));
        findings
    }
}

impl Recent {
    fn same(&mut self, rules: &Rules, call: &Call, now: Timestamp) -> Option<Finding> {
        if EDITS.contains(&call.tool.as_str()) && !call.failed && self.edits.len() < MAX_RECENT && self.edits.insert(call.digest) {
            self.calls.clear();
            self.warned.clear();
        }
        let within = SignedDuration::try_from(rules.within).unwrap_or(SignedDuration::MAX);
        while self.calls.front().is_some_and(|(at, _)| now.duration_since(*at) > within) || self.calls.len() >= MAX_RECENT {
            self.calls.pop_front();
        }
        self.calls.push_back((now, call.digest));
        let same = self.calls.iter().filter(|(_, digest)| *digest == call.digest);
        let first = same.clone().next().map_or(now, |(at, _)| *at);
        let times = u32::try_from(same.count()).unwrap_or(u32::MAX);
        let minutes = u64::try_from(now.duration_since(first).as_secs()).unwrap_or(0).div_ceil(60).max(1);
        let pattern = || Pattern::SameCall { tool: call.tool.clone(), times, minutes };
        let since_first = self.calls.iter().skip_while(|(_, digest)| *digest != call.digest).count();
        if since_first > (times as usize).saturating_mul(LONGEST_LOOP) {
            return None;
        }
        if times >= rules.same_call.saturating_mul(2) {
            return Some(Finding::Stop(pattern()));
        }
        (times >= rules.same_call && self.warned.insert(call.digest)).then(|| Finding::Warn(pattern()))
    }

    fn failure(&mut self, rules: &Rules, call: &Call) -> Option<Finding> {
        if !call.failed {
            (self.failures, self.warned_of_failures) = (0, false);
            return None;
        }
        self.failures = self.failures.saturating_add(1);
        let pattern = || Pattern::Failures { tool: call.tool.clone(), times: self.failures };
        if self.failures >= rules.failures.saturating_mul(2) {
            return Some(Finding::Stop(pattern()));
        }
        (self.failures >= rules.failures && !std::mem::replace(&mut self.warned_of_failures, true)).then(pattern).map(Finding::Warn)
    }
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    messages: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    content: &'a RawValue,
}

#[derive(Deserialize)]
struct Block<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    tool_use_id: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default, borrow)]
    input: Option<&'a RawValue>,
    #[serde(default)]
    is_error: Option<bool>,
}

#[derive(Deserialize)]
struct BashInput {
    command: String,
}

/// The finished tool calls that a request's body repeats and that are not `known`, in their order; none of a body that cannot be read.
pub fn calls_of(body: &[u8], known: impl Fn(u64) -> bool) -> Vec<Call> {
    let Ok(Body { messages }) = serde_json::from_slice::<Body<'_>>(body) else { return Vec::new() };
    // From the end, where what is new stands.
    let mut results: HashMap<u64, bool> = HashMap::new();
    let mut calls = Vec::new();
    'messages: for message in messages.iter().rev() {
        let Ok(Message { content }) = serde_json::from_str::<Message<'_>>(message.get()) else { continue };
        // A plain text has no calls.
        let Ok(blocks) = serde_json::from_str::<Vec<Block<'_>>>(content.get()) else { continue };
        for block in blocks.iter().rev() {
            match (block.kind.as_str(), &block.id, &block.tool_use_id, &block.name) {
                ("tool_result", _, Some(id), _) => {
                    results.insert(digest(&[id.as_bytes()]), block.is_error.unwrap_or(false));
                }
                ("tool_use", Some(id), _, Some(tool)) => {
                    let id = digest(&[id.as_bytes()]);
                    if known(id) {
                        break 'messages;
                    }
                    if let Some(failed) = results.get(&id) {
                        calls.push(Call { id, tool: tool.clone(), digest: input_digest(tool, block.input), failed: *failed });
                    }
                }
                _ => {}
            }
        }
    }
    calls.reverse();
    calls
}

/// Of a shell command only the command counts: its description is new each time.
fn input_digest(tool: &str, input: Option<&RawValue>) -> u64 {
    let text = input.map_or("", RawValue::get);
    match serde_json::from_str::<BashInput>(text).ok().filter(|_| tool == "Bash") {
        Some(BashInput { command }) => digest(&[tool.as_bytes(), b"\0", command.as_bytes()]),
        None => digest(&[tool.as_bytes(), b"\0", text.as_bytes()]),
    }
}

fn digest(parts: &[&[u8]]) -> u64 {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().iter().take(8).fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const RULES: Rules = Rules { same_call: 20, within: Duration::from_mins(10), failures: 12 };
    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    /// Makes the calls, seconds apart; each is its tool, its input and whether it fails.
    fn play(calls: impl IntoIterator<Item = (&'static str, u64, bool)>, seconds: i64) -> Vec<Finding> {
        let mut loops = Loops::new(RULES);
        let mut found = Vec::new();
        for (number, (tool, digest, failed)) in calls.into_iter().enumerate() {
            let call = Call { id: number as u64, tool: tool.to_owned(), digest, failed };
            found.extend(loops.on(&Thread::Main, &call, NOW + (seconds * i64::try_from(number).unwrap()).seconds()));
        }
        found
    }

    #[test]
    fn the_same_call_is_warned_about_once_and_then_stopped() {
        let found = play((0..40).map(|_| ("Bash", 1, false)), 1);
        let pattern = |times| Pattern::SameCall { tool: "Bash".into(), times, minutes: 1 };
        assert_eq!(found, [Finding::Warn(pattern(20)), Finding::Stop(pattern(40))]);
        let words = "the same Bash call was made 20 times within 1 minute, without a new edit between";
        assert_eq!(pattern(20).to_string(), words);
    }

    #[test]
    fn failures_in_a_row_are_warned_about_once_and_then_stopped_and_a_success_clears_them() {
        let found = play((0..24).map(|n| ("Bash", n, true)), 1);
        let pattern = |times| Pattern::Failures { tool: "Bash".into(), times };
        assert_eq!(found, [Finding::Warn(pattern(12)), Finding::Stop(pattern(24))]);
        assert_eq!(play((0..200).map(|n| ("Bash", n, n % 12 != 0)), 1), []);
    }

    #[test]
    fn honest_work_is_no_loop() {
        // Looking after a pipeline every half minute for an hour.
        let polling = play((0..120).map(|_| ("Bash", 1, false)), 30);
        assert!(!polling.iter().any(|finding| matches!(finding, Finding::Stop(_))), "{polling:?}");
        // Looking every forty seconds is not even worth a word.
        assert_eq!(play((0..120).map(|_| ("Bash", 1, false)), 40), []);
        // A failing test suite after each of two hundred fixes.
        assert_eq!(play((0..400).map(|n| if n % 2 == 0 { ("Edit", 1_000 + n, false) } else { ("Bash", 1, true) }), 2), []);
        // `git status` between two hundred other commands.
        assert_eq!(play((0..200).map(|n| ("Bash", if n % 5 == 0 { 1 } else { 1_000 + n }, false)), 4), []);
    }

    #[test]
    fn the_same_edit_over_and_over_is_no_progress() {
        let found = play((0..80).map(|n| if n % 2 == 0 { ("Edit", 7, false) } else { ("Bash", 1, false) }), 1);
        assert!(found.iter().any(|finding| matches!(finding, Finding::Stop(_))), "{found:?}");
    }

    #[test]
    fn conversations_are_counted_apart() {
        let mut loops = Loops::new(RULES);
        for n in 0..60_u64 {
            let call = Call { id: n, tool: "Bash".into(), digest: 1, failed: false };
            assert_eq!(loops.on(&Thread::Agent((n % 4).to_string()), &call, NOW), []);
        }
    }

    fn body(turns: &[(&str, Value, bool)]) -> Vec<u8> {
        let mut messages = vec![json!({"role": "user", "content": "work"})];
        for (number, (tool, input, failed)) in turns.iter().enumerate() {
            let id = format!("toolu_{number}");
            messages.push(json!({"role": "assistant", "content": [{"type": "text", "text": "so"},
                {"type": "tool_use", "id": id, "name": tool, "input": input}]}));
            messages
                .push(json!({"role": "user", "content": [{"type": "tool_result", "tool_use_id": id, "content": "x", "is_error": failed}]}));
            messages.push(json!({"role": "system", "content": "a note"}));
        }
        json!({"model": "m", "messages": messages, "tools": []}).to_string().into_bytes()
    }

    #[test]
    fn calls_are_read_from_the_body_in_order_and_only_the_new_ones() {
        let ls = |why: &str| ("Bash", json!({"command": "ls", "description": why}), true);
        let body = body(&[ls("one"), ("Read", json!({"file_path": "a"}), false), ls("two")]);
        let calls = calls_of(&body, |_| false);
        assert_eq!(
            calls.iter().map(|call| (call.tool.as_str(), call.failed)).collect::<Vec<_>>(),
            [("Bash", true), ("Read", false), ("Bash", true)]
        );
        assert!(calls[0].digest == calls[2].digest && calls[0].digest != calls[1].digest && calls[0].id != calls[2].id);
        let second = calls[1].id;
        assert_eq!(calls_of(&body, |id| id == second), calls[2..]);
        let open = json!({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "Bash", "input": {}}]}]});
        assert_eq!(calls_of(open.to_string().as_bytes(), |_| false), [], "its result is not there yet");
    }

    proptest! {
        /// Whatever a body holds, reading it ends, and no call is counted twice however often it is repeated.
        #[test]
        fn nothing_is_counted_twice(text in "\\PC{0,200}", count in 1_usize..30) {
            calls_of(text.as_bytes(), |_| false);
            let turns: Vec<_> = (0..count).map(|n| ("Bash", json!({"command": n.to_string()}), false)).collect();
            let mut loops = Loops::new(RULES);
            for upto in 1..=count {
                let calls = calls_of(&body(&turns[..upto]), |id| loops.knows(id));
                prop_assert_eq!(calls.len(), 1);
                for call in calls { loops.on(&Thread::Main, &call, NOW); }
            }
        }
    }
}
