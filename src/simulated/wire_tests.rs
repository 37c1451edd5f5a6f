//! The simulated upstream as a client sees it, byte by byte, through a bare socket.

use std::io::ErrorKind;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::model::Usage;

const SOON: Duration = Duration::from_secs(10);

/// What a client got before the connection ended.
struct Got {
    head: String,
    /// The HTTP chunks, or the one body of known length.
    chunks: Vec<Vec<u8>>,
    /// Whether the HTTP message ended properly.
    whole: bool,
    error: Option<ErrorKind>,
}

impl Got {
    fn body(&self) -> Vec<u8> {
        self.chunks.concat()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body()).into_owned()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body()).unwrap()
    }
}

async fn send(upstream: &Upstream, head: &str, body: &[u8]) -> Got {
    let mut socket = TcpStream::connect(upstream.addr()).await.unwrap();
    let length = body.len();
    let head = format!("{head} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\nx-api-key: dummy\r\n\r\n");
    socket.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
    read(&mut socket).await
}

async fn read(socket: &mut TcpStream) -> Got {
    let mut bytes = Vec::new();
    let error = tokio::time::timeout(SOON, socket.read_to_end(&mut bytes)).await.unwrap().err().map(|error| error.kind());
    let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Got { head: String::new(), chunks: vec![], whole: false, error };
    };
    let head = String::from_utf8(bytes[..at].to_vec()).unwrap().to_lowercase();
    let body = &bytes[at + 4..];
    if let Some(length) = head.lines().find_map(|line| line.strip_prefix("content-length: ")) {
        let whole = length.parse::<usize>().unwrap() == body.len();
        return Got { head, chunks: vec![body.to_vec()], whole, error };
    }
    let (chunks, whole) = dechunk(body);
    Got { head, chunks, whole, error }
}

fn dechunk(mut body: &[u8]) -> (Vec<Vec<u8>>, bool) {
    let mut chunks = Vec::new();
    while let Some(at) = body.windows(2).position(|window| window == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&body[..at]).unwrap(), 16).unwrap();
        let rest = &body[at + 2..];
        if size == 0 {
            return (chunks, true);
        }
        chunks.push(rest[..size.min(rest.len())].to_vec());
        body = rest.get(size + 2..).unwrap_or_default();
    }
    (chunks, false)
}

fn asked(stream: bool) -> Vec<u8> {
    json!({"model": "claude-opus-5-5", "stream": stream, "messages": [{"role": "user", "content": "hi"}]}).to_string().into()
}

async fn ask(upstream: &Upstream) -> Got {
    send(upstream, "POST /v1/messages?beta=true", &asked(true)).await
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|digit| char::from_digit(digit.into(), 16).unwrap()).collect()
}

#[tokio::test]
async fn a_streamed_answer_arrives_whole_and_the_log_knows_its_digest_and_its_ids() {
    let usage = Usage { input: 3, output: 4, cache_read: 5, ..Usage::default() };
    let upstream = Upstream::start(Answer::text("Hello").usage(usage)).await.unwrap();
    let got = ask(&upstream).await;
    assert!(got.whole && got.text().starts_with("event: message_start\n") && got.text().ends_with("\"message_stop\"}\n\n"));
    let [record] = &upstream.messages()[..] else { panic!("one request") };
    assert_eq!(record.answer_sha256, Some(hex(&got.body())));
    assert_eq!(record.answer_bytes, got.body().len() as u64);
    assert_eq!((record.body_bytes, record.body_sha256.clone()), (asked(true).len(), Some(hex(&asked(true)))));
    assert_eq!((record.status, record.outcome, record.usage), (Some(200), Some(Outcome::Completed), Some(usage)));
    assert_eq!((record.header("x-api-key"), record.model.as_str(), record.stream), (Some("dummy"), "claude-opus-5-5", true));
    assert!(got.text().contains(record.message_id.as_deref().unwrap()));
    assert!(got.head.contains(&format!("request-id: {}", record.request_id.as_deref().unwrap())));
    assert!(record.arrived_at <= record.first_byte_at.unwrap() && record.first_byte_at <= record.ended_at);
    assert_eq!(record.body, None, "bodies are kept on demand only");
}

#[tokio::test]
async fn an_answer_that_is_not_streamed_is_one_message_of_known_length() {
    let upstream = Upstream::start(Answer::text("Hello").and_tool("Bash", json!({"command": "ls"}))).await.unwrap();
    let got = send(&upstream, "POST /v1/messages", &asked(false)).await;
    assert!(got.whole && got.head.contains("content-type: application/json"));
    let message = got.json();
    assert_eq!((&message["type"], &message["stop_reason"]), (&json!("message"), &json!("tool_use")));
    assert_eq!((&message["content"][0]["text"], &message["content"][1]["input"]), (&json!("Hello"), &json!({"command": "ls"})));
    assert_eq!((&message["usage"]["input_tokens"], &message["usage"]["output_tokens"]), (&json!(100), &json!(10)));
    assert_eq!(upstream.messages()[0].outcome, Some(Outcome::Completed));
}

#[tokio::test]
async fn two_hundred_events_in_a_burst_leave_in_one_chunk() {
    let upstream = Upstream::start(Answer::filler(200, 100)).await.unwrap();
    let got = ask(&upstream).await;
    assert_eq!((got.text().matches("text_delta").count(), got.chunks.len(), got.whole), (200, 1, true));
}

#[tokio::test]
async fn a_body_in_pieces_is_written_in_pieces_of_those_sizes() {
    let upstream = Upstream::start(Answer::text("Hello").in_pieces([1, 2, 50])).await.unwrap();
    let got = ask(&upstream).await;
    let sizes: Vec<usize> = got.chunks.iter().map(Vec::len).collect();
    let (last, all) = sizes.split_last().unwrap();
    let expected: Vec<usize> = [1, 2, 50].into_iter().cycle().take(all.len()).collect();
    assert_eq!((all, *last <= 50, got.whole), (&expected[..], true, true));
    assert_eq!(upstream.messages()[0].answer_sha256, Some(hex(&got.body())));
}

#[tokio::test]
async fn a_cut_connection_ends_as_asked_after_exactly_the_bytes_before_the_cut() {
    let reset = Some(ErrorKind::ConnectionReset);
    for (how, events, whole, error) in [(Cut::Reset, 100, false, reset), (Cut::Close, 10_000, false, None), (Cut::End, 10_000, true, None)]
    {
        let upstream = Upstream::start(Answer::filler(20_000, 100).cut_after(events + 2, how)).await.unwrap();
        let got = ask(&upstream).await;
        assert_eq!((got.whole, got.error), (whole, error), "{how:?}");
        assert_eq!(got.text().matches("text_delta").count() as u64, events, "{how:?}");
        let record = &upstream.messages()[0];
        assert_eq!((record.outcome, record.answer_sha256.clone()), (Some(Outcome::Cut), Some(hex(&got.body()))), "{how:?}");
    }
}

#[tokio::test]
async fn a_cut_before_the_first_event_leaves_the_head() {
    let upstream = Upstream::start(Answer::text("x").cut_after(0, Cut::Close)).await.unwrap();
    let got = ask(&upstream).await;
    assert!(got.head.starts_with("http/1.1 200") && got.chunks.is_empty() && !got.whole);
}

#[tokio::test]
async fn a_dropped_connection_says_nothing_at_all() {
    for (how, error) in [(Cut::Close, None), (Cut::Reset, Some(ErrorKind::ConnectionReset))] {
        let upstream = Upstream::start(Answer::dropped(how)).await.unwrap();
        let got = ask(&upstream).await;
        assert_eq!((got.head.as_str(), got.error), ("", error));
        assert_eq!((upstream.messages()[0].status, upstream.messages()[0].outcome), (None, Some(Outcome::Cut)));
    }
}

#[tokio::test]
async fn a_cut_message_that_is_not_streamed_announces_more_than_comes() {
    let upstream = Upstream::start(Answer::text("Hello").cut_after(2, Cut::Close)).await.unwrap();
    let got = send(&upstream, "POST /v1/messages", &asked(false)).await;
    assert!(got.head.starts_with("http/1.1 200") && !got.whole && !got.body().is_empty());
}

#[tokio::test]
async fn malformed_bytes_reach_the_client_as_they_are() {
    let garbage = Fault::Garbage { at: Place::Events(2), bytes: Garbage::Noise };
    let half = Fault::Garbage { at: Place::Bytes(10), bytes: Garbage::Text("data: {\"half".into()) };
    let upstream = Upstream::start(Answer::text("x").fault(garbage).fault(half)).await.unwrap();
    let body = ask(&upstream).await.body();
    assert_eq!(&body[..22], b"event: mesdata: {\"half".as_slice());
    assert!(body.windows(4).any(|window| window == b"\xff\xfe\x00\x80"));
}

#[tokio::test]
async fn a_client_that_leaves_a_stalled_answer_is_noticed() {
    let upstream = Upstream::start(Answer::text("x").stalled_after(2)).await.unwrap();
    let mut socket = TcpStream::connect(upstream.addr()).await.unwrap();
    let body = asked(true);
    let head = format!("POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    socket.write_all(&[head.as_bytes(), &body].concat()).await.unwrap();
    let started = upstream.wait_until(SOON, |seen| seen.iter().any(|record| record.answer_bytes > 0)).await.unwrap();
    assert_eq!(started[0].outcome, None);
    drop(socket);
    let ended = upstream.wait_until(SOON, |seen| seen[0].outcome.is_some()).await.unwrap();
    assert_eq!(ended[0].outcome, Some(Outcome::ClientGone));
}

#[tokio::test]
async fn a_client_that_leaves_before_the_head_is_noticed() {
    let upstream = Upstream::start(Answer::text("x").first_byte_after(Duration::from_mins(10))).await.unwrap();
    let mut socket = TcpStream::connect(upstream.addr()).await.unwrap();
    socket.write_all(b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
    upstream.wait_for(1, SOON).await.unwrap();
    drop(socket);
    let ended = upstream.wait_until(SOON, |seen| seen[0].outcome.is_some()).await.unwrap();
    assert_eq!((ended[0].outcome, ended[0].status), (Some(Outcome::ClientGone), None));
}

#[tokio::test]
async fn a_silence_is_broken_by_pings() {
    let quiet = Duration::from_millis(100);
    let answer = Answer::text("x").after_hidden_thinking(quiet, 50).ping_every(Duration::from_millis(10));
    let upstream = Upstream::start(answer).await.unwrap();
    let started = std::time::Instant::now();
    let text = ask(&upstream).await.text();
    assert!(started.elapsed() >= quiet);
    let (_, silence) = text.split_once(r#""type":"thinking"}}"#).unwrap();
    let (silence, _) = silence.split_once("signature_delta").unwrap();
    assert!(silence.matches("data: {\"type\":\"ping\"}\n\n").count() >= 3, "{silence}");
}

#[tokio::test]
async fn paced_events_arrive_one_by_one() {
    let upstream = Upstream::start(Answer::filler(5, 10).event_every(Duration::from_millis(4))).await.unwrap();
    let got = ask(&upstream).await;
    assert_eq!((got.chunks.len(), got.whole), (10, true));
}

#[tokio::test]
async fn an_error_keeps_its_status_type_message_and_headers() {
    let answer = Answer::error(529, "overloaded_error", "busy").header("retry-after", "7").header("request-id", "req_mine");
    let upstream = Upstream::start(answer).await.unwrap();
    let got = ask(&upstream).await;
    assert!(got.head.starts_with("http/1.1 529") && got.head.contains("retry-after: 7") && got.head.contains("request-id: req_mine"));
    assert_eq!(got.json()["error"], json!({"type": "overloaded_error", "message": "busy"}));
    let record = &upstream.messages()[0];
    assert_eq!((record.status, record.message_id.as_ref(), record.usage), (Some(529), None, None));
}

#[tokio::test]
async fn the_small_requests_around_messages_are_answered_and_unknown_ones_are_not_found() {
    let options = Options { prefix: "/gateway".into(), ..Options::default() };
    let upstream = Upstream::start_with(Answer::text("x"), options).await.unwrap();
    assert!(send(&upstream, "HEAD /gateway/", b"").await.head.starts_with("http/1.1 200"));
    assert_eq!(send(&upstream, "GET /gateway/v1/models?limit=1000", b"").await.json()["data"][0]["id"], "claude-opus-5-5");
    assert_eq!(send(&upstream, "POST /gateway/v1/messages/count_tokens?beta=true", &[b' '; 400]).await.json()["input_tokens"], 100);
    let missing = send(&upstream, "POST /v1/messages", &asked(true)).await;
    assert!(missing.head.starts_with("http/1.1 404"));
    assert_eq!(missing.json()["error"]["type"], "not_found_error");
    let seen = upstream.requests();
    assert_eq!(seen.iter().map(|record| record.outcome).collect::<Vec<_>>(), [Some(Outcome::Completed); 4]);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let upstream = Upstream::start_with(Answer::text("x"), Options { max_body_bytes: 100, ..Options::default() }).await.unwrap();
    let got = send(&upstream, "POST /v1/messages", &[b'x'; 101]).await;
    assert!(got.head.starts_with("http/1.1 413"));
    assert_eq!(got.json()["error"]["type"], "request_too_large");
}

#[tokio::test]
async fn a_connection_is_kept_alive_until_it_is_closed_for_everyone() {
    let upstream = Upstream::start(Answer::text("x")).await.unwrap();
    let mut socket = TcpStream::connect(upstream.addr()).await.unwrap();
    let body = asked(false);
    let head = format!("POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    for count in 1..=2 {
        socket.write_all(&[head.as_bytes(), &body].concat()).await.unwrap();
        upstream.wait_until(SOON, |seen| seen.iter().filter(|record| record.outcome.is_some()).count() == count).await.unwrap();
    }
    assert_eq!(upstream.messages().iter().map(|record| record.connection).collect::<Vec<_>>(), [1, 1]);
    upstream.close_connections();
    let mut rest = Vec::new();
    let end = tokio::time::timeout(SOON, socket.read_to_end(&mut rest)).await.unwrap();
    assert!(end.is_ok() && !rest.is_empty());
    assert!(ask(&upstream).await.whole, "new connections are welcome");
}

#[tokio::test]
async fn any_byte_stream_will_do_for_a_connection() {
    let server = Server::new(Answer::text("Hello"), Options::default()).unwrap();
    let (mut client, served) = tokio::io::duplex(64);
    let request = b"POST /v1/messages HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}";
    let exchange = async {
        client.write_all(request).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let (answer, ()) = tokio::join!(exchange, server.serve_connection(served, None));
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"text\":\"Hello\""), "{answer}");
}

#[test]
fn it_runs_on_a_thread_of_its_own_and_writes_its_log_as_json_lines() {
    use std::io::{Read as _, Write as _};
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("log.jsonl");
    let options = Options { log_file: Some(file.clone()), keep_bodies: true, ..Options::default() };
    let upstream = Upstream::start_on_thread_with([Answer::text("once")], options).unwrap();
    for _ in 0..2 {
        let mut socket = std::net::TcpStream::connect(upstream.addr()).unwrap();
        let head = "POST /v1/messages HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 13\r\n\r\n{\"model\":\"m\"}";
        socket.write_all(head.as_bytes()).unwrap();
        socket.read_to_end(&mut Vec::new()).unwrap();
    }
    let seen = upstream.wait_for_blocking(2, SOON).unwrap();
    assert_eq!(seen[0].json(), json!({"model": "m"}));
    drop(upstream);
    let lines: Vec<Value> = std::fs::read_to_string(file).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), &lines[0]["outcome"], &lines[1]["body"]), (2, &json!("completed"), &json!("{\"model\":\"m\"}")));
}

#[test]
fn waiting_too_long_says_what_was_seen() {
    let upstream = Upstream::start_on_thread(Answer::text("x")).unwrap();
    let error = upstream.wait_for_blocking(1, Duration::from_millis(20)).unwrap_err();
    assert_eq!(error.to_string(), "wait for the simulated upstream: not within 20ms; it has seen no request");
}
