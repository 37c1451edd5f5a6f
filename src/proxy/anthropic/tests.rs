//! What the decoder promises.

use proptest::prelude::*;

use super::*;
use crate::meter::price::PartKind;
use crate::model::{Speed, Usage};

fn decode(bytes: &[u8], chunk: usize) -> Vec<Signal> {
    let mut decoder = Decoder::default();
    let mut signals = Vec::new();
    for piece in bytes.chunks(chunk.max(1)) {
        decoder.feed(piece, &mut |signal| signals.push(signal));
    }
    decoder.finish(&mut |signal| signals.push(signal));
    signals
}

fn usage(json: &str) -> UsageFields {
    serde_json::from_str(json).unwrap()
}

const ANSWER: &str = r#"event: message_start
data: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude-opus-5-5","content":[],"usage":{"input_tokens":10,"cache_read_input_tokens":5,"output_tokens":1}}}

event: ping
data: {"type": "ping"}

: a comment

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"hm"}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"AAAABBBB"}}

event: content_block_stop
data: {"type":"content_block_stop","index":0}

event: content_block_start
data: {"type":"content_block_start","index":1,"content_block":{"type":"text","text":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"a\nb\"c"}}

event: content_block_stop
data: {"type":"content_block_stop","index":1}

event: content_block_start
data: {"type":"content_block_start","index":12,"content_block":{"type":"tool_use","id":"toolu_1","name":"Bash","input":{}}}

event: content_block_delta
data: {"type":"content_block_delta","index":12,"delta":{"type":"input_json_delta","partial_json":"{\"a\":1}"}}

event: content_block_stop
data: {"type":"content_block_stop","index":12}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"output_tokens":77}}

event: message_stop
data: {"type":"message_stop"}

"#;

fn expected() -> Vec<Signal> {
    let started = usage(r#"{"input_tokens":10,"cache_read_input_tokens":5,"output_tokens":1}"#);
    vec![
        Signal::Started { id: Some("msg_1".into()), model: Some("claude-opus-5-5".into()), usage: Some(started) },
        Signal::BlockStarted { kind: BlockKind::Hidden, bytes: 0 },
        Signal::Delta(Text::of("hm")),
        Signal::BlockStopped,
        Signal::BlockStarted { kind: BlockKind::Visible, bytes: 0 },
        Signal::Delta(Text::of("a\nb\"c")),
        Signal::BlockStopped,
        Signal::BlockStarted { kind: BlockKind::Late, bytes: 0 },
        Signal::Delta(Text::of(r#"{"a":1}"#)),
        Signal::BlockStopped,
        Signal::Usage { usage: usage(r#"{"output_tokens":77}"#), resumed: None, last: true },
        Signal::Stopped,
    ]
}

#[test]
fn an_answer_is_read_in_any_chunking_and_with_either_line_end() {
    let with_crlf = ANSWER.replace('\n', "\r\n");
    for text in [ANSWER, &with_crlf] {
        for chunk in [1, 2, 3, 7, 64, 1_000, usize::MAX] {
            assert_eq!(decode(text.as_bytes(), chunk), expected(), "chunks of {chunk}");
        }
    }
}

#[test]
fn generated_text_counts_the_same_in_whatever_order_its_fields_stand() {
    // This serializer sorts them: the type comes last.
    let sorted = |line: &str| match line.strip_prefix("data: ") {
        Some(data) => format!("data: {}\n", serde_json::from_str::<serde_json::Value>(data).unwrap()),
        None => format!("{line}\n"),
    };
    let reordered: Vec<String> = ANSWER.lines().map(sorted).collect();
    assert!(reordered.concat().contains(r#""delta":{"text":"#));
    assert_eq!(decode(reordered.concat().as_bytes(), 64), expected());
}

#[test]
fn the_last_event_counts_without_its_empty_line() {
    let cut = ANSWER.trim_end();
    assert_eq!(decode(cut.as_bytes(), 50), expected());
}

#[test]
fn data_over_several_lines_is_one_event() {
    let text = "data: {\"type\":\ndata: \"message_stop\"}\n\n";
    assert_eq!(decode(text.as_bytes(), 5), vec![Signal::Stopped]);
}

#[test]
fn an_event_without_its_name_is_known_by_its_type() {
    let text = ANSWER.lines().filter(|line| !line.starts_with("event:")).collect::<Vec<_>>().join("\n") + "\n\n";
    assert_eq!(decode(text.as_bytes(), 100), expected());
    let reordered = "data: {\"index\":0,\"type\":\"content_block_stop\"}\n\n";
    assert_eq!(decode(reordered.as_bytes(), 100), vec![Signal::BlockStopped]);
}

#[test]
fn an_event_that_should_carry_usage_and_cannot_be_read_is_malformed() {
    for text in [
        "event: message_start\ndata: {\"type\":\"message_start\",\n\n",
        "event: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":7}\n\n",
        "data: hello\n\n",
    ] {
        let signals = decode(text.as_bytes(), 8);
        assert!(matches!(signals[..], [Signal::Malformed(_)]), "{signals:?}");
    }
}

#[test]
fn the_message_id_is_saved_even_if_the_usage_cannot_be_read() {
    let text = "data: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_9\",\"usage\":\"?\"}}\n\n";
    assert_eq!(decode(text.as_bytes(), 8), vec![Signal::Started { id: Some("msg_9".into()), model: None, usage: None }]);
}

#[test]
fn an_event_of_any_length_is_counted_in_constant_memory() {
    let text = "x".repeat(3_000_000);
    let event =
        format!("data: {{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{{\"type\":\"text_delta\",\"text\":\"{text}\"}}}}\n\n");
    for chunk in [4_096, usize::MAX] {
        let mut decoder = Decoder::default();
        let mut signals = Vec::new();
        for piece in event.as_bytes().chunks(chunk) {
            decoder.feed(piece, &mut |signal| signals.push(signal));
        }
        decoder.tell_generated(&mut |signal| signals.push(signal));
        let [Signal::Delta(bytes)] = signals[..] else { panic!("{signals:?}") };
        assert!((3_000_000..3_000_200).contains(&bytes.bytes), "{bytes:?}");
        assert!(decoder.line.capacity() + decoder.data.capacity() <= 4 * MAX_EVENT);
    }
}

#[test]
fn the_decoder_knows_whether_it_stands_within_an_event() {
    let mut decoder = Decoder::default();
    for (bytes, within) in [("data: a", true), ("\n", true), ("\n", false), ("event: x\n", true), ("\r\n", false), (": c", true)] {
        decoder.feed(bytes.as_bytes(), &mut |_| {});
        assert_eq!(decoder.within_event(), within, "{bytes:?}");
    }
}

#[test]
fn encrypted_thinking_that_comes_whole_counts_by_its_size() {
    let data = format!(
        r#"{{"type":"content_block_start","index":0,"content_block":{{"type":"redacted_thinking","data":"{}"}}}}"#,
        "A".repeat(4_000)
    );
    let Signal::BlockStarted { kind: BlockKind::Hidden, bytes } = block_started(data.as_bytes()) else { panic!() };
    assert!((3_000..3_200).contains(&bytes));
    let result = br#"{"type":"content_block_start","index":0,"content_block":{"type":"web_search_tool_result","content":[]}}"#;
    assert_eq!(block_started(result), Signal::BlockStarted { kind: BlockKind::Visible, bytes: 0 });
    let unknown = br#"{"content_block":{"x":1,"type":"dream"},"type":"content_block_start"}"#;
    assert_eq!(block_started(unknown), Signal::BlockStarted { kind: BlockKind::Hidden, bytes: 0 });
}

#[test]
fn later_usage_holds_and_silence_keeps_what_was_said() {
    let mut fields = usage(
        r#"{"input_tokens":3,"cache_creation_input_tokens":30,"cache_read_input_tokens":9,"cache_creation":{"ephemeral_5m_input_tokens":10,"ephemeral_1h_input_tokens":20},"output_tokens":1,"inference_geo":"us","speed":"fast"}"#,
    );
    fields.overlay(usage(
        r#"{"input_tokens":0,"cache_read_input_tokens":null,"output_tokens":40,"server_tool_use":{"web_search_requests":2}}"#,
    ));
    fields.overlay(usage(r#"{"output_tokens":41}"#));
    let expected = Usage {
        input: 3,
        output: 41,
        cache_write_5m: 10,
        cache_write_1h: 20,
        cache_read: 9,
        web_searches: 2,
        speed: Speed::Fast,
        us_only: true,
        outside_context: 0,
    };
    assert_eq!(fields.to_usage(), expected);
}

#[test]
fn a_cache_write_without_a_split_is_a_five_minute_one() {
    let written = |json| {
        let usage = usage(json).to_usage();
        (usage.cache_write_5m, usage.cache_write_1h)
    };
    assert_eq!(written(r#"{"cache_creation_input_tokens":30}"#), (30, 0));
    assert_eq!(written(r#"{"cache_creation_input_tokens":30,"cache_creation":{"ephemeral_1h_input_tokens":12}}"#), (18, 12));
    assert_eq!(written(r#"{"cache_creation":{"ephemeral_5m_input_tokens":5,"ephemeral_1h_input_tokens":12}}"#), (5, 12));
    assert_eq!(written(r#"{"cache_creation_input_tokens":null,"cache_creation":null,"server_tool_use":null}"#), (0, 0));
}

proptest! {
    #[test]
    fn no_bytes_make_it_fail_and_chunking_never_matters(
        lines in prop::collection::vec(prop_oneof![
            Just("data: {\"type\":\"message_stop\"}".to_owned()),
            Just(String::new()),
            "(data:|event:|:)?[ -~]{0,40}",
        ], 0..30),
        chunk in 1_usize..50,
    ) {
        let text = lines.join("\n");
        prop_assert_eq!(decode(text.as_bytes(), chunk), decode(text.as_bytes(), usize::MAX));
    }
}

#[test]
fn the_parts_of_an_answer_are_read_and_what_is_unknown_among_them_is_left_out() {
    let reported = usage(
        r#"{"input_tokens":30,"output_tokens":3,"iterations":[
            {"type":"message","input_tokens":10,"output_tokens":1,"cache_read_input_tokens":0,"cache_creation_input_tokens":0},
            {"type":"advisor_message","model":"claude-opus-5-5","input_tokens":7,"output_tokens":5},
            {"type":"compaction","input_tokens":9},{"type":"fallback_message","model":"m"},{"type":"new"},null,7]}"#,
    )
    .to_report();
    let kinds: Vec<_> = reported.parts.iter().map(|part| (part.kind, part.model.as_deref(), part.usage.total())).collect();
    let expected = [
        (PartKind::Message, None, 11),
        (PartKind::Advisor, Some("claude-opus-5-5"), 12),
        (PartKind::Compaction, None, 9),
        (PartKind::Fallback, Some("m"), 0),
    ];
    assert_eq!(kinds, expected);
    assert_eq!(usage(r#"{"input_tokens":1,"iterations":"?"}"#).to_report().parts, []);
}
