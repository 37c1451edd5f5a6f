//! Bedrock's form of answers through the proxy: binary frames pass unchanged, are settled at the region's price, and are cut at the budget.

use std::sync::Arc;

use sentrely::proxy::Dialect;

use super::usd;
use crate::support::proxy::{LAST_CHUNK, Peer, Plan, Step, chunk, event_frame, frame, json_answer, kinds, send};

const STREAM: &str = "/model/us.anthropic.claude-haiku-4-5-20251001-v1%3A0/invoke-with-response-stream";
const WHOLE: &str = "/model/us.anthropic.claude-haiku-4-5-20251001-v1%3A0/invoke";
const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/vnd.amazon.eventstream\r\ntransfer-encoding: chunked\r\n\r\n";

/// A request as Claude Code writes it for Bedrock: the model and the wish to stream stand in the path alone.
fn ask(max_tokens: u64) -> String {
    format!(r#"{{"anthropic_version":"bedrock-2023-05-31","max_tokens":{max_tokens},"messages":[{{"role":"user","content":"hi"}}]}}"#)
}

fn start(input: u64) -> Vec<u8> {
    let message =
        format!(r#"{{"id":"msg_bdrk_1","model":"claude-haiku-4-5-20251001","usage":{{"input_tokens":{input},"output_tokens":1}}}}"#);
    let begin = event_frame(&format!(r#"{{"type":"message_start","message":{message}}}"#));
    [begin, event_frame(r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#)].concat()
}

fn delta(text: &str) -> Vec<u8> {
    let text = serde_json::to_string(text).unwrap();
    event_frame(&format!(r#"{{"type":"content_block_delta","index":0,"delta":{{"type":"text_delta","text":{text}}}}}"#))
}

fn end(output: u64) -> Vec<u8> {
    [
        event_frame(r#"{"type":"content_block_stop","index":0}"#),
        event_frame(&format!(r#"{{"type":"message_delta","delta":{{"stop_reason":"end_turn"}},"usage":{{"output_tokens":{output}}}}}"#)),
        event_frame(r#"{"type":"message_stop","amazon-bedrock-invocationMetrics":{"inputTokenCount":1,"outputTokenCount":1}}"#),
    ]
    .concat()
}

fn plan(upstream: &Peer, limit: &'static str) -> Plan {
    Plan { limits: vec![limit], dialect: Dialect::Bedrock, ..Plan::to(&upstream.url()) }
}

#[tokio::test]
async fn frames_pass_byte_for_byte_in_any_pieces_and_are_settled_at_the_regions_price() {
    let frames = [start(100_000), delta("hello, "), delta("wörld"), end(1_000)].concat();
    for size in [1, 7, 64, 1_000, frames.len()] {
        let answer = frames.clone();
        let upstream = Peer::start(move |_| {
            let mut steps = vec![send(HEAD)];
            steps.extend(answer.chunks(size).map(|piece| send(chunk(piece))));
            steps.push(send(LAST_CHUNK));
            steps
        })
        .await;
        let rig = plan(&upstream, "5usd").start().await;
        let mut client = rig.client().await;
        client.request("POST", STREAM, &[], ask(2_000).as_bytes()).await;
        let got = client.answer().await;
        assert!(got.complete && got.body == frames, "pieces of {size}: {} of {} bytes", got.body.len(), frames.len());
        assert_eq!((upstream.seen()[0].line().split(' ').nth(1), upstream.seen()[0].body.clone()), (Some(STREAM), ask(2_000).into_bytes()));
        let settled = rig.settled();
        // 100,000 x $1 and 1,000 x $5 a million, 1.1 times as much in a region.
        assert_eq!((settled[0].cost, settled[0].lost, settled[0].estimated), (usd("0.1155"), false, false), "{settled:?}");
        assert!(rig.proxy.knows("msg_bdrk_1"));
    }
}

#[tokio::test]
async fn frames_are_cut_where_they_reach_the_budget_and_nothing_is_put_among_them() {
    let kind = kinds().into_iter().find(|kind| kind.name == "rs1").unwrap();
    // 120,000 bytes are some 30,000 tokens or 0.17; 0.01 is left after the prompt.
    let pieces = kind.pieces(120_000, 200);
    let all = [vec![start(100_000)], pieces.iter().map(|(text, _)| delta(text)).collect()].concat().concat();
    let answer = all.clone();
    let upstream = Peer::start(move |_| {
        let mut steps = vec![send(HEAD)];
        steps.extend(answer.chunks(1_500).map(|piece| send(chunk(piece))));
        steps.push(Step::UntilClosed(Arc::default()));
        steps
    })
    .await;
    let rig = plan(&upstream, "0.12usd").start().await;
    let mut client = rig.client().await;
    client.request("POST", STREAM, &[], ask(64_000).as_bytes()).await;
    let got = client.answer().await;
    // A client sees that frames break off: an event of ours would be none to it.
    assert!(!got.complete && all.starts_with(&got.body) && !got.body.is_empty(), "{} of {} bytes", got.body.len(), all.len());
    let settled = rig.until_settled(1).await;
    assert!(settled[0].lost && settled[0].cost >= usd("0.12") && settled[0].cost < usd("0.135"), "{settled:?}");
    let mut again = rig.client().await;
    again.request("POST", STREAM, &[], ask(64_000).as_bytes()).await;
    assert_eq!((again.answer().await.status, upstream.seen().len()), (402, 1));
}

#[tokio::test]
async fn an_exception_among_the_frames_and_an_answer_in_one_piece_are_booked() {
    let broken = [start(100_000), delta("hel"), frame("exception", "throttlingException", br#"{"message":"slow down"}"#)].concat();
    let json =
        r#"{"id":"msg_bdrk_2","type":"message","model":"claude-haiku-4-5-20251001","usage":{"input_tokens":1000000,"output_tokens":0}}"#;
    let frames = broken.clone();
    let upstream = Peer::start(move |seen| {
        if seen.line().contains("invoke-with") {
            vec![send(HEAD), send(chunk(&frames)), send(LAST_CHUNK)]
        } else {
            json_answer("200 OK", json)
        }
    })
    .await;
    let rig = plan(&upstream, "50usd").start().await;
    let mut client = rig.client().await;
    client.request("POST", STREAM, &[], ask(1_000).as_bytes()).await;
    assert_eq!(client.answer().await.body, broken);
    client.request("POST", WHOLE, &[], ask(1_000).replace("hi", "ho").as_bytes()).await;
    assert_eq!(client.answer().await.text(), json);
    let settled = rig.until_settled(2).await;
    assert!(settled[0].lost && settled[0].cost >= usd("0.11") && settled[0].cost < usd("0.111"), "{settled:?}");
    assert_eq!((settled[1].cost, settled[1].lost), (usd("1.1"), false));
}
