//! From an answer to the steps that send it: events, waits, and what goes wrong in between. Pure.

use std::collections::VecDeque;
use std::fmt::Write as _;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::answer::{Answer, ApiError, Block, Cut, Fault, Garbage, LineEnd, Place};
use super::usage;

/// One step of sending an answer's body.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    /// An event: counted, and followed by the pause between events.
    Event(Bytes),
    /// The same event so many times.
    Repeat(Bytes, u64),
    /// Bytes that are no event of their own.
    Part(Bytes),
    /// Silence for so many milliseconds (`None`: for good), broken by pings where the answer has some.
    Hold(Option<u64>),
    /// The end, before the end.
    Cut(Cut),
}

/// The steps of a streamed answer.
pub(super) fn stream(answer: &Answer, id: &str, model: &str) -> VecDeque<Step> {
    let end = answer.line_end;
    let mut steps = VecDeque::new();
    if answer.pace.first_event_ms > 0 {
        steps.push_back(Step::Hold(Some(answer.pace.first_event_ms)));
    }
    let message = json!({
        "id": id, "type": "message", "role": "assistant", "model": model, "content": [],
        "stop_reason": null, "stop_sequence": null, "usage": usage::at_start(&answer.usage, answer.report),
    });
    steps.push_back(Step::Event(event("message_start", &[("message", message)], end)));
    for (index, block) in answer.content.iter().enumerate() {
        push_block(&mut steps, block, index, end);
    }
    let mut delta = answer.delta_extra.clone();
    delta.insert("stop_reason".into(), answer.reason_to_stop().into());
    delta.insert("stop_sequence".into(), Value::Null);
    let mut fields = vec![("delta", Value::Object(delta))];
    fields.extend(usage::at_end(&answer.usage, answer.report).map(|told| ("usage", with(told, &answer.usage_extra))));
    steps.push_back(Step::Event(event("message_delta", &fields, end)));
    steps.push_back(Step::Event(event("message_stop", &[], end)));
    answer.faults.iter().fold(steps, |steps, fault| with_fault(steps, fault, end))
}

/// The same answer as one JSON message.
pub(super) fn message(answer: &Answer, id: &str, model: &str) -> Value {
    let content: Vec<Value> = answer.content.iter().map(whole_block).collect();
    json!({
        "id": id, "type": "message", "role": "assistant", "model": model, "content": content,
        "stop_reason": answer.reason_to_stop(), "stop_sequence": null, "usage": with(usage::whole(&answer.usage, answer.report), &answer.usage_extra),
    })
}

/// An object with more fields.
fn with(mut object: Value, more: &Map<String, Value>) -> Value {
    if let Value::Object(fields) = &mut object {
        fields.extend(more.clone());
    }
    object
}

/// The steps of a body that is one document, with the answer's faults, and its length where the head should tell one.
pub(super) fn document(answer: &Answer, body: &Bytes) -> (VecDeque<Step>, usize) {
    let mut steps = VecDeque::from([Step::Part(body.clone())]);
    let mut length = body.len();
    for fault in &answer.faults {
        let place = |at: Place| {
            Place::Bytes(match at {
                Place::Events(_) => body.len() as u64 / 2,
                Place::Bytes(bytes) => bytes,
            })
        };
        match fault {
            Fault::Drop { .. } | Fault::Error { .. } => {}
            Fault::Cut { at, how } => {
                steps = insert(steps, place(*at), [Step::Cut(*how)]);
                if *how == Cut::End {
                    length = steps.iter().take_while(|step| !matches!(step, Step::Cut(_))).map(bytes_of).sum();
                }
            }
            Fault::Stall { at, ms } => steps = insert(steps, place(*at), [Step::Hold(*ms)]),
            Fault::Garbage { .. } => {
                let half = body.slice(..body.len() / 2);
                length = half.len();
                steps = VecDeque::from([Step::Part(half)]);
            }
        }
    }
    (steps, length)
}

/// How long an answer that is not streamed takes longer than its head would: as long as the stream would have taken, in milliseconds.
pub(super) fn time_to_write(answer: &Answer) -> u64 {
    let pace = answer.pace;
    let blocks = answer.content.iter().map(|block| match block {
        Block::Text { events, .. } | Block::Filler { events, .. } => (events + 2, 0),
        Block::Thinking { hold_ms, .. } => (3, *hold_ms),
        Block::ToolUse { hold_ms, events, .. } => (events + 2, *hold_ms),
    });
    let around = pace.first_event_ms.saturating_add(pace.event_ms.saturating_mul(3));
    blocks.fold(around, |sum, (events, hold_ms)| sum.saturating_add(pace.event_ms.saturating_mul(events)).saturating_add(hold_ms))
}

/// An error document in the API's form.
pub(super) fn error_document(error: &ApiError, request_id: &str) -> Value {
    json!({ "type": "error", "error": error, "request_id": request_id })
}

/// The bytes of a ping.
pub(super) fn ping(end: LineEnd) -> Bytes {
    event("ping", &[], end)
}

fn push_block(steps: &mut VecDeque<Step>, block: &Block, index: usize, end: LineEnd) {
    let start = |content: Value| Step::Event(event("content_block_start", &[("index", index.into()), ("content_block", content)], end));
    let delta = |delta: Value| event("content_block_delta", &[("index", index.into()), ("delta", delta)], end);
    match block {
        Block::Text { text, events } => {
            steps.push_back(start(json!({ "type": "text", "text": "" })));
            steps.extend(split(text, *events).map(|part| Step::Event(delta(json!({ "type": "text_delta", "text": part })))));
        }
        Block::Filler { events, bytes } => {
            steps.push_back(start(json!({ "type": "text", "text": "" })));
            steps.push_back(Step::Repeat(delta(json!({ "type": "text_delta", "text": filler(*bytes) })), *events));
        }
        Block::Thinking { text, hold_ms } => {
            steps.push_back(start(json!({ "type": "thinking", "thinking": "", "signature": "" })));
            push_hold(steps, *hold_ms);
            if !text.is_empty() {
                steps.push_back(Step::Event(delta(json!({ "type": "thinking_delta", "thinking": text }))));
            }
            steps.push_back(Step::Event(delta(json!({ "type": "signature_delta", "signature": signature() }))));
        }
        Block::ToolUse { name, input, id, hold_ms, events } => {
            let id = id.clone().unwrap_or_else(|| unique("toolu_01"));
            steps.push_back(start(json!({ "type": "tool_use", "id": id, "name": name, "input": {} })));
            push_hold(steps, *hold_ms);
            let input = input.to_string();
            let parts = split(&input, *events);
            steps.extend(parts.map(|part| Step::Event(delta(json!({ "type": "input_json_delta", "partial_json": part })))));
        }
    }
    steps.push_back(Step::Event(event("content_block_stop", &[("index", index.into())], end)));
}

fn push_hold(steps: &mut VecDeque<Step>, ms: u64) {
    if ms > 0 {
        steps.push_back(Step::Hold(Some(ms)));
    }
}

fn whole_block(block: &Block) -> Value {
    match block {
        Block::Text { text, .. } => json!({ "type": "text", "text": text }),
        Block::Filler { events, bytes } => {
            json!({ "type": "text", "text": filler(*bytes).repeat(usize::try_from(*events).unwrap_or(usize::MAX)) })
        }
        Block::Thinking { text, .. } => json!({ "type": "thinking", "thinking": text, "signature": signature() }),
        Block::ToolUse { name, input, id, .. } => {
            json!({ "type": "tool_use", "id": id.clone().unwrap_or_else(|| unique("toolu_01")), "name": name, "input": input })
        }
    }
}

/// One event. Its `type` comes first, as the real API sends it.
fn event(kind: &str, fields: &[(&str, Value)], end: LineEnd) -> Bytes {
    let end = match end {
        LineEnd::Lf => "\n",
        LineEnd::Crlf => "\r\n",
        LineEnd::Cr => "\r",
    };
    let mut text = format!("event: {kind}{end}data: {{\"type\":\"{kind}\"");
    for (name, value) in fields {
        // Writing to a string cannot fail.
        let _ = write!(text, ",\"{name}\":{value}");
    }
    text.push('}');
    text.push_str(end);
    text.push_str(end);
    text.into()
}

fn with_fault(steps: VecDeque<Step>, fault: &Fault, end: LineEnd) -> VecDeque<Step> {
    match fault {
        Fault::Drop { .. } => steps,
        Fault::Cut { at, how } => insert(steps, *at, [Step::Cut(*how)]),
        Fault::Stall { at, ms } => insert(steps, *at, [Step::Hold(*ms)]),
        Fault::Error { at, error } => {
            insert(steps, *at, [Step::Part(event("error", &[("error", json!(error))], end)), Step::Cut(Cut::End)])
        }
        Fault::Garbage { at, bytes } => {
            let bytes = match bytes {
                Garbage::Noise => Bytes::from_static(b"\xff\xfe\x00\x80garbage\xc3\n\n"),
                Garbage::HalfJson => Bytes::from_static(b"event: content_block_delta\ndata: {\"type\":\"content_block_del\n\n"),
                Garbage::UnknownEvent => event("sentrely_unknown", &[("novelty", json!({ "depth": [1, 2] }))], end),
                Garbage::Text(text) => text.clone().into(),
            };
            insert(steps, *at, [Step::Part(bytes)])
        }
    }
}

/// Puts `inserted` into `steps` at a place, splitting the step that contains it.
fn insert<const N: usize>(mut steps: VecDeque<Step>, at: Place, inserted: [Step; N]) -> VecDeque<Step> {
    let mut before = VecDeque::new();
    let (mut left, in_bytes) = match at {
        Place::Events(events) => (events, false),
        Place::Bytes(bytes) => (bytes, true),
    };
    while left > 0 {
        let Some(step) = steps.pop_front() else { break };
        let size = if in_bytes { bytes_of(&step) as u64 } else { events_of(&step) };
        if size <= left {
            left -= size;
            before.push_back(step);
            continue;
        }
        let (first, rest) = cut_step(step, left, in_bytes);
        before.extend(first);
        for step in rest.into_iter().rev() {
            steps.push_front(step);
        }
        left = 0;
    }
    before.extend(inserted);
    before.extend(steps);
    before
}

/// A step in two, after `left` events or bytes; `left` is less than its size.
fn cut_step(step: Step, left: u64, in_bytes: bool) -> (Vec<Step>, Vec<Step>) {
    match step {
        Step::Repeat(bytes, times) if in_bytes => {
            let (whole, rest) = (left / bytes.len() as u64, usize::try_from(left % bytes.len() as u64).unwrap_or(0));
            let first = vec![Step::Repeat(bytes.clone(), whole), Step::Part(bytes.slice(..rest))];
            (first, vec![Step::Event(bytes.slice(rest..)), Step::Repeat(bytes, times - whole - 1)])
        }
        Step::Repeat(bytes, times) => (vec![Step::Repeat(bytes.clone(), left)], vec![Step::Repeat(bytes, times - left)]),
        Step::Event(bytes) => {
            let at = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
            (vec![Step::Part(bytes.slice(..at))], vec![Step::Event(bytes.slice(at..))])
        }
        Step::Part(bytes) => {
            let at = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
            (vec![Step::Part(bytes.slice(..at))], vec![Step::Part(bytes.slice(at..))])
        }
        whole @ (Step::Hold(_) | Step::Cut(_)) => (vec![whole], vec![]),
    }
}

fn bytes_of(step: &Step) -> usize {
    match step {
        Step::Event(bytes) | Step::Part(bytes) => bytes.len(),
        Step::Repeat(bytes, times) => bytes.len().saturating_mul(usize::try_from(*times).unwrap_or(usize::MAX)),
        Step::Hold(_) | Step::Cut(_) => 0,
    }
}

fn events_of(step: &Step) -> u64 {
    match step {
        Step::Event(_) => 1,
        Step::Repeat(_, times) => *times,
        Step::Part(_) | Step::Hold(_) | Step::Cut(_) => 0,
    }
}

/// `text` in `parts` pieces of about the same number of characters; never none.
fn split(text: &str, parts: u64) -> impl Iterator<Item = String> {
    let characters: Vec<char> = text.chars().collect();
    let parts = usize::try_from(parts).unwrap_or(usize::MAX).clamp(1, characters.len().max(1));
    (0..parts).map(move |part| {
        let bound = |part: usize| characters.len() * part / parts;
        characters[bound(part)..bound(part + 1)].iter().collect()
    })
}

fn filler(bytes: usize) -> String {
    "lorem ipsum dolor sit amet ".chars().cycle().take(bytes).collect()
}

/// An id with the API's prefix that no other answer has.
pub(super) fn unique(prefix: &str) -> String {
    format!("{prefix}{}", Uuid::new_v4().simple())
}

/// What stands for the signature of a thinking block: the client only passes it back.
fn signature() -> String {
    unique("sig_").repeat(4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Usage;

    fn sent(steps: &VecDeque<Step>) -> String {
        let bytes = steps.iter().flat_map(|step| match step {
            Step::Event(bytes) | Step::Part(bytes) => bytes.to_vec(),
            Step::Repeat(bytes, times) => bytes.repeat(usize::try_from(*times).unwrap()),
            Step::Hold(ms) => format!("[hold {ms:?}]").into_bytes(),
            Step::Cut(cut) => format!("[cut {cut:?}]").into_bytes(),
        });
        String::from_utf8_lossy(&bytes.collect::<Vec<u8>>()).into_owned()
    }

    #[test]
    fn a_text_streams_as_the_api_sends_it() {
        let usage = Usage { input: 12, output: 5, cache_write_5m: 1, cache_write_1h: 2, cache_read: 3, ..Usage::default() };
        let answer = Answer::default().and(Block::Text { text: "Hello wörld".into(), events: 2 }).usage(usage);
        insta::assert_snapshot!(sent(&stream(&answer, "msg_1", "claude-opus-5-5")), @r#"
        event: message_start
        data: {"type":"message_start","message":{"content":[],"id":"msg_1","model":"claude-opus-5-5","role":"assistant","stop_reason":null,"stop_sequence":null,"type":"message","usage":{"cache_creation":{"ephemeral_1h_input_tokens":2,"ephemeral_5m_input_tokens":1},"cache_creation_input_tokens":3,"cache_read_input_tokens":3,"input_tokens":12,"output_tokens":1,"service_tier":"standard"}}}

        event: content_block_start
        data: {"type":"content_block_start","index":0,"content_block":{"text":"","type":"text"}}

        event: content_block_delta
        data: {"type":"content_block_delta","index":0,"delta":{"text":"Hello","type":"text_delta"}}

        event: content_block_delta
        data: {"type":"content_block_delta","index":0,"delta":{"text":" wörld","type":"text_delta"}}

        event: content_block_stop
        data: {"type":"content_block_stop","index":0}

        event: message_delta
        data: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"cache_creation":{"ephemeral_1h_input_tokens":2,"ephemeral_5m_input_tokens":1},"cache_creation_input_tokens":3,"cache_read_input_tokens":3,"input_tokens":12,"output_tokens":5,"service_tier":"standard"}}

        event: message_stop
        data: {"type":"message_stop"}

        "#);
    }

    #[test]
    fn hidden_thinking_is_an_open_block_a_silence_and_a_signature() {
        let answer = Answer::text("x").after_hidden_thinking(std::time::Duration::from_secs(2), 500);
        assert_eq!(answer.usage.output, 510);
        let text = sent(&stream(&answer, "msg_1", "m"));
        assert!(text.contains(r#""content_block":{"signature":"","thinking":"","type":"thinking"}}"#), "{text}");
        assert!(text.contains("[hold Some(2000)]event: content_block_delta\n"), "{text}");
        assert!(!text.contains("thinking_delta"), "{text}");
    }

    #[test]
    fn a_tool_input_arrives_whole_however_many_deltas_carry_it() {
        let input = json!({ "command": "echo 'ünï' | wc -c" });
        let call = Block::ToolUse { name: "Bash".into(), input: input.clone(), id: Some("toolu_1".into()), hold_ms: 0, events: 7 };
        let text = sent(&stream(&Answer::default().and(call), "msg_1", "m"));
        let data = text.lines().filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok());
        let parts: Vec<String> = data.filter_map(|event| Some(event["delta"]["partial_json"].as_str()?.to_owned())).collect();
        assert_eq!((parts.len(), serde_json::from_str(&parts.concat()).ok()), (7, Some(input)));
        assert!(text.contains(r#""stop_reason":"tool_use""#));
    }

    #[test]
    fn a_fault_after_any_number_of_bytes_leaves_exactly_those_bytes_before_it() {
        let answer = Answer::default().and_text("Hello").and(Block::Filler { events: 5, bytes: 7 });
        let whole = sent(&stream(&answer, "msg_1", "m"));
        for bytes in 0..=whole.len() as u64 {
            let cut = answer.clone().fault(Fault::Cut { at: Place::Bytes(bytes), how: Cut::Reset });
            let text = sent(&stream(&cut, "msg_1", "m"));
            let at = text.find("[cut Reset]").unwrap();
            assert_eq!((at as u64, text.replace("[cut Reset]", "")), (bytes, whole.clone()));
        }
    }

    #[test]
    fn a_fault_after_a_number_of_events_leaves_those_events_before_it() {
        let answer = Answer::filler(5, 3);
        for events in 0..12 {
            let text = sent(&stream(&answer.clone().cut_after(events, Cut::Close), "msg_1", "m"));
            let (before, _) = text.split_once("[cut Close]").unwrap();
            assert_eq!(before.matches("event: ").count() as u64, events.min(10));
        }
    }

    #[test]
    fn an_error_event_ends_the_stream_and_garbage_does_not() {
        let error = ApiError { kind: "overloaded_error".into(), message: "busy".into() };
        let text = sent(&stream(&Answer::text("x").fault(Fault::Error { at: Place::Events(1), error }), "msg_1", "m"));
        let expected =
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"message\":\"busy\",\"type\":\"overloaded_error\"}}\n\n[cut End]";
        assert!(text.contains(expected), "{text}");
        let text = sent(&stream(&Answer::text("x").fault(Fault::Garbage { at: Place::Events(1), bytes: Garbage::HalfJson }), "msg_1", "m"));
        assert!(text.contains("content_block_del\n\nevent: content_block_start") && text.ends_with("\"message_stop\"}\n\n"), "{text}");
    }

    #[test]
    fn lines_may_end_in_the_three_ways_the_standard_knows() {
        for (line_end, bytes) in [(LineEnd::Lf, "\n"), (LineEnd::Crlf, "\r\n"), (LineEnd::Cr, "\r")] {
            let text = sent(&stream(&Answer::text("x").line_end(line_end), "msg_1", "m"));
            assert!(text.ends_with(&format!("event: message_stop{bytes}data: {{\"type\":\"message_stop\"}}{bytes}{bytes}")), "{text:?}");
        }
    }
}
