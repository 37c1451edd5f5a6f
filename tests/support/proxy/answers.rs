//! Answers and requests of the Messages API.

use super::{Step, send};

/// A piece of text in an answer's stream.
pub(crate) fn text_delta(text: &str) -> String {
    format!(
        "event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{{\"type\":\"text_delta\",\"text\":\"{text}\"}}}}\n\n"
    )
}

/// An answer of the Messages API as a stream, whose text comes in `pieces`.
pub(crate) fn sse_events(id: &str, input: u64, output: u64, pieces: &[&str]) -> String {
    let mut text = format!(
        "event: message_start\ndata: {{\"type\":\"message_start\",\"message\":{{\"id\":\"{id}\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"claude-opus-5-5\",\"content\":[],\"stop_reason\":null,\"usage\":{{\"input_tokens\":{input},\"output_tokens\":1}}}}}}\n\n\
         event: content_block_start\ndata: {{\"type\":\"content_block_start\",\"index\":0,\"content_block\":{{\"type\":\"text\",\"text\":\"\"}}}}\n\n"
    );
    for piece in pieces {
        text.push_str(&text_delta(piece));
    }
    text + &format!(
        "event: content_block_stop\ndata: {{\"type\":\"content_block_stop\",\"index\":0}}\n\n\
         event: message_delta\ndata: {{\"type\":\"message_delta\",\"delta\":{{\"stop_reason\":\"end_turn\",\"stop_sequence\":null}},\"usage\":{{\"output_tokens\":{output}}}}}\n\n\
         event: message_stop\ndata: {{\"type\":\"message_stop\"}}\n\n"
    )
}

pub(crate) const SSE_HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\nrequest-id: req_up\r\n\r\n";

pub(crate) fn chunk(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    chunk
}

pub(crate) const LAST_CHUNK: &str = "0\r\n\r\n";

/// A whole stream: the head, each event as a chunk, the end.
pub(crate) fn sse_answer(events: &str) -> Vec<Step> {
    let mut steps = vec![send(SSE_HEAD)];
    steps.extend(events.split_inclusive("\n\n").map(|event| send(chunk(event))));
    steps.push(send(LAST_CHUNK));
    steps
}

pub(crate) fn json_answer(status: &str, body: &str) -> Vec<Step> {
    vec![send(format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len()))]
}

/// A request of the Messages API whose forecast is small.
pub(crate) fn ask(stream: bool, max_tokens: u64) -> String {
    format!(r#"{{"model":"claude-opus-5-5","max_tokens":{max_tokens},"stream":{stream},"messages":[{{"role":"user","content":"hi"}}]}}"#)
}
