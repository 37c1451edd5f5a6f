//! What one pass over a body finds.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::scan as scan_in;
use super::*;

fn scan(body: &[u8]) -> Result<Scanned<'_>, ScanError> {
    scan_in(body, None)
}

fn scan_value(value: &Value) -> Result<(String, u64, bool), ScanError> {
    let body = value.to_string();
    scan(body.as_bytes()).map(|found| (found.model.into_owned(), found.max_tokens, found.stream))
}

#[test]
fn the_outermost_keys_are_found_wherever_they_stand() {
    let body = br#" { "messages":[{"role":"user","content":"hi"}], "max_tokens" : 32000 ,"stream":true,"model":"claude-opus-5-5" } "#;
    let found = scan(body).unwrap();
    assert_eq!((found.model.as_ref(), found.max_tokens, found.stream), ("claude-opus-5-5", 32_000, true));
    assert_eq!(found.shape.content.text_bytes, body.iter().filter(|byte| **byte != b' ').count() as u64);
}

#[test]
fn blanks_between_values_are_not_text_and_blanks_in_strings_are() {
    let tight = r#"{"model":"m","messages":[{"role":"user","content":"a  b"},{"n":[1,2]}]}"#;
    let body: String = tight.split_inclusive([':', ',', '{', '[']).map(|part| [" \n", part, "\t\r "].concat()).collect();
    let padded = format!("{}  ", body.replace('}', "   }"));
    assert_eq!(scan(padded.as_bytes()).unwrap().shape.content.text_bytes, tight.len() as u64);
}

#[test]
fn documents_that_are_elsewhere_are_told_from_those_that_are_here() {
    let remote = |blocks: Value| {
        scan(json!({"model": "m", "messages": [{"content": blocks}]}).to_string().as_bytes()).unwrap().shape.content.remote_documents
    };
    let elsewhere = json!({"type": "url", "url": "https://example.com/a.pdf"});
    assert_eq!(remote(json!([{"type": "document", "source": elsewhere}])), 1);
    assert_eq!(
        remote(json!([{"source": {"file_id": "f", "type": "file"}, "title": "x", "type": "document", "citations": {"enabled": true}}])),
        1
    );
    assert_eq!(remote(json!([{"type": "image", "source": elsewhere}, {"type": "document", "source": {"type": "text", "data": "x"}}])), 0);
    let first =
        br#"{"model":"m","messages":[{"content":[{"source":{"type":"url"},"type":"document"},{"type":"document","source":{"type":"file"}}]}]}"#;
    assert_eq!(scan(first).unwrap().shape.content.remote_documents, 2);
}

#[test]
fn a_body_without_end_of_depth_is_an_error() {
    let body = format!("{{\"model\":\"m\",\"x\":{}", "[".repeat(100_000));
    assert_eq!(scan(body.as_bytes()), Err(ScanError::TooDeep));
}

#[test]
fn the_same_words_inside_a_message_a_schema_or_an_input_do_not_count() {
    let body = json!({
        "model": "claude-haiku-5-5",
        "messages": [
            {"role": "user", "content": "{\"model\":\"claude-opus-5-5\",\"stream\":true,\"max_tokens\":1}"},
            {"role": "assistant", "content": [{"type": "tool_use", "input": {"model": "x", "stream": true, "max_tokens": 2}}]},
        ],
        "tools": [{"input_schema": {"properties": {"model": {"type": "string"}, "stream": {"type": "boolean"}}}}],
        "metadata": {"stream": true},
    });
    assert_eq!(scan_value(&body), Ok(("claude-haiku-5-5".into(), MAX_TOKENS_OF_ANY_MODEL, false)));
}

#[test]
fn a_value_that_reads_like_a_key_is_a_value() {
    let body = json!({"a": "model", "b": "stream", "model": "stream", "c": "max_tokens"});
    assert_eq!(scan_value(&body), Ok(("stream".into(), MAX_TOKENS_OF_ANY_MODEL, false)));
}

#[test]
fn quotes_and_backslashes_in_strings_do_not_end_them() {
    let body = br#"{"x":"a\\\"\"","y":"\\","z":"\\\\\"}{","model":"m\"\u0041"}"#;
    assert_eq!(scan(body).unwrap().model, "m\"A");
}

#[test]
fn a_key_written_with_escapes_is_the_same_key() {
    assert_eq!(scan(br#"{"mod\u0065l":"a"}"#).unwrap().model, "a");
    assert_eq!(scan(br#"{"model":"a","mod\u0065l":"b"}"#), Err(ScanError::Twice("model")));
}

#[test]
fn what_two_parsers_could_read_differently_is_an_error() {
    for (body, error) in [
        (&br#"{"model":"a","model":"b"}"#[..], ScanError::Twice("model")),
        (br#"{"model":"a","stream":false,"stream":true}"#, ScanError::Twice("stream")),
        (br#"{"model":"a","messages":[],"messages":[]}"#, ScanError::Twice("messages")),
        (br#"{"model":"a"}{"model":"b"}"#, ScanError::NotAnObject),
        (br#"[{"model":"a"}]"#, ScanError::NotAnObject),
        (b"", ScanError::NotAnObject),
        (b"hello", ScanError::NotAnObject),
        (br#"{"model":"a""#, ScanError::Unfinished),
        (br#"{"model":"a"#, ScanError::Unfinished),
        (br#"{"model":7}"#, ScanError::Unreadable("model")),
        (br#"{"model":"a","max_tokens":-1}"#, ScanError::Unreadable("max_tokens")),
        (br#"{"model":"a","max_tokens":1e9}"#, ScanError::Unreadable("max_tokens")),
        (br#"{"model":"a","stream":"true"}"#, ScanError::Unreadable("stream")),
        (br#"{"max_tokens":1}"#, ScanError::NoModel),
    ] {
        assert_eq!(scan(body), Err(error), "{}", String::from_utf8_lossy(body));
    }
}

#[test]
fn images_count_as_images_and_their_data_does_not_count_as_text() {
    let picture = "A".repeat(100_000);
    let body = json!({"model": "m", "messages": [{"content": [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": picture}},
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": picture}},
        {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
    ]}]});
    let text = body.to_string();
    let shape = scan(text.as_bytes()).unwrap().shape;
    assert_eq!(shape.content.images, 5);
    assert_eq!(shape.content.text_bytes, text.len() as u64 - 200_000);
}

#[test]
fn data_that_is_not_marked_as_base64_counts_as_text() {
    let body = json!({"model": "m", "x": {"data": "A".repeat(1_000)}}).to_string();
    assert_eq!(scan(body.as_bytes()).unwrap().shape.content.text_bytes, body.len() as u64);
}

#[test]
fn text_disguised_as_an_image_counts_as_text_wherever_it_is_none() {
    let data = "A".repeat(100_000);
    let disguise = json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}});
    let hidden = |messages: Value| {
        let body = json!({"model": "m", "messages": messages}).to_string();
        let content = scan(body.as_bytes()).unwrap().shape.content;
        (content.images, body.len() as u64 - content.text_bytes)
    };
    let block = |block: Value| json!([{"role": "user", "content": [block]}]);
    assert_eq!(
        hidden(block(json!({"type": "tool_result", "tool_use_id": "t", "content": [disguise]}))),
        (1, 100_000),
        "an image of a tool"
    );
    assert_eq!(hidden(block(json!({"type": "tool_use", "input": {"content": [disguise]}}))), (0, 0), "a tool's input");
    assert_eq!(hidden(block(json!({"type": "text", "source": disguise["source"]}))), (0, 0), "a block of another kind");
    assert_eq!(hidden(block(json!({"type": "tool_use", "input": disguise}))), (0, 0), "a tool's input that is one block");
    assert_eq!(hidden(json!([disguise])), (0, 0), "not in a message");
    let of_text = json!({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": data}});
    assert_eq!(hidden(block(of_text)), (1, 0), "a document of plain text");
}

/// The outline's digests and marks.
fn outline(body: &Value) -> (u64, Vec<u64>, Vec<bool>) {
    let outline = scan(body.to_string().as_bytes()).unwrap().shape.outline;
    let marks = std::iter::once(&outline.base).chain(&outline.messages).map(|part| part.marked).collect();
    (outline.base.digest, outline.messages.iter().map(|part| part.digest).collect(), marks)
}

#[test]
fn a_conversation_that_goes_on_begins_with_the_same_parts_though_its_marks_move() {
    let mark = json!({"type": "ephemeral"});
    let result = |mark: Option<&Value>| {
        let mut block = json!({"type": "tool_result", "tool_use_id": "t", "content": "42"});
        if let Some(mark) = mark {
            block["cache_control"] = mark.clone();
        }
        json!({"role": "user", "content": [block]})
    };
    let system = json!([{"type": "text", "text": "be good", "cache_control": mark}]);
    let ask = json!({"role": "user", "content": "what is it"});
    let answer = json!({"role": "assistant", "content": [{"type": "text", "text": "it is 42"}]});
    let first = json!({"model": "m", "stream": true, "max_tokens": 5, "system": system, "messages": [ask, result(Some(&mark))]});
    let second = json!({"model": "m", "stream": true, "max_tokens": 9, "system": system, "messages": [ask, result(None), answer, ask]});
    let ((base, messages, marks), (base2, messages2, marks2)) = (outline(&first), outline(&second));
    assert_eq!((base, &messages[..]), (base2, &messages2[..2]));
    assert_eq!((marks, marks2), (vec![true, false, true], vec![true, false, false, false, false]));
    assert_ne!(messages2[1], messages2[3]);
    let mut other = second;
    other["tools"] = json!([{"name": "x"}]);
    assert_ne!(outline(&other).0, base);
}

#[test]
fn what_only_looks_like_a_cache_mark_belongs_to_the_digest() {
    let with = |input: Value| {
        outline(&json!({"model": "m", "messages": [{"role": "assistant", "content": [{"type": "tool_use", "input": input}]}]}))
    };
    let (_, first, marks) = with(json!({"cache_control": {"text": "a"}}));
    assert_eq!(marks, [false, false]);
    assert_ne!(first, with(json!({"cache_control": {"text": "b"}})).1);
    let long = |text: &str| {
        outline(&json!({"model": "m", "messages": [{"content": [{"type": "text", "cache_control": {"x": text.repeat(300)}}]}]})).1
    };
    assert_ne!(long("a"), long("b"));
}

#[test]
fn characters_outside_ascii_are_counted() {
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "日本語 text"}], "system": "é"});
    let content = scan(body.to_string().as_bytes()).unwrap().shape.content;
    assert_eq!(content.wide_bytes, 9 + 2);
    assert_eq!(wide_bytes(&[0xff; 1_000]), 1_000);
}

#[test]
fn cache_marks_and_fast_mode_are_seen() {
    let plain = scan(br#"{"model":"m","messages":"\"cache_control\":{\"ttl\":\"1h\"}"}"#).unwrap().shape;
    assert!(!plain.caches && !plain.caches_1h);
    let five = scan(br#"{"model":"m","system":[{"cache_control":{"type":"ephemeral"}}]}"#).unwrap().shape;
    assert!(five.caches && !five.caches_1h);
    let hour = scan(br#"{"model":"m","speed":"fast","system":[{"cache_control":{"type":"ephemeral","ttl":"1h"}}]}"#).unwrap().shape;
    assert!(hour.caches && hour.caches_1h);
    assert_eq!(hour.speed, Speed::Fast);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        r#"[\x00-\x7f\\"{}:\[\],é]{0,20}"#.prop_map(Value::from),
        Just(Value::from("model")),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(r#"(model|stream|max_tokens|type|data|[a-z"\\]{0,6})"#, inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn it_reads_what_a_parser_reads(junk in any_json(), junk2 in any_json(), max in any::<u64>(), stream in any::<bool>(), model in r#"[a-z"\\é]{0,12}"#) {
        let body = json!({"aa": junk, "model": model, "mm": junk2, "max_tokens": max, "stream": stream});
        prop_assert_eq!(scan_value(&body), Ok((model, max, stream)));
    }

    #[test]
    fn it_never_fails_by_panic(bytes in prop::collection::vec(prop_oneof![Just(b'"'), Just(b'\\'), Just(b'{'), Just(b'}'), Just(b':'), any::<u8>()], 0..200)) {
        let _ = scan(&bytes);
        let _ = scan(&[b"{\"model\":", &bytes[..]].concat());
    }
}
