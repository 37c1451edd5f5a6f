//! What goes through, and that nothing of it is changed.

use sentrely::model::{Event, Thread};

use super::{digest, noise, odd_body, usd};
use crate::support::proxy::{LAST_CHUNK, Peer, Plan, REAL_KEY, SSE_HEAD, Step, ask, chunk, json_answer, send, sse_answer, sse_events};

#[tokio::test]
async fn a_streamed_answer_passes_unchanged_and_is_settled_with_what_it_reports() {
    let events = sse_events("msg_stream", 95_000, 1_000, &["héllo", "a\\nb", "{}"])
        .replace("event: content_block_stop\n", ": note\r\nevent: content_block_stop\r\n");
    let answer = events.clone();
    let upstream = Peer::start(move |_| sse_answer(&answer)).await;
    let rig = Plan::to(&upstream.url()).start().await;
    let body = odd_body(1_000);
    let got = rig.client().await.messages(&body).await;

    assert_eq!((got.status, got.complete), (200, true));
    assert_eq!(digest(&got.body), digest(events.as_bytes()));
    assert_eq!(got.header("request-id"), Some("req_up"));
    let seen = upstream.seen();
    assert_eq!(digest(&seen[0].body), digest(body.as_bytes()));
    assert_eq!(seen[0].line(), "POST /v1/messages?beta=true HTTP/1.1");
    // The answer's last byte is here, so it is settled: nothing to wait for.
    let settled = rig.settled();
    assert_eq!(settled.len(), 1);
    assert_eq!((settled[0].cost, settled[0].lost, settled[0].message_id.as_deref()), (usd("0.4"), false, Some("msg_stream")));
    assert!(rig.proxy.knows("msg_stream") && !rig.proxy.knows("msg_other"));
    assert_eq!(rig.proxy.requests_upstream(), 1);
    let [Event::RequestAdmitted { model, thread: Thread::Main, .. }] = &rig.journal()[..] else { panic!("{:?}", rig.journal()) };
    assert_eq!(model, "claude-opus-5-5");
}

#[tokio::test]
async fn an_answer_in_one_piece_passes_unchanged_and_is_settled() {
    let json = r#"{"id":"msg_json","model":"claude-opus-5-5","content":[{"type":"text","text":"h\u00e9"}] , "usage":{"input_tokens":100,"output_tokens":10,"cache_creation_input_tokens":1000,"cache_creation":{"ephemeral_1h_input_tokens":400,"ephemeral_5m_input_tokens":600}}}"#;
    for chunked in [false, true] {
        let upstream = Peer::start(move |_| {
            if chunked {
                let (head, tail) = json.split_at(60);
                vec![
                    send("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"),
                    send(chunk(head)),
                    send(chunk(tail)),
                    send(LAST_CHUNK),
                ]
            } else {
                json_answer("200 OK", json)
            }
        })
        .await;
        let rig = Plan::to(&upstream.url()).start().await;
        let got = rig.client().await.messages(&ask(false, 1_000)).await;
        assert_eq!((got.status, got.text(), got.complete), (200, json.to_owned(), true));
        let settled = rig.settled();
        assert_eq!((settled[0].usage.cache_write_5m, settled[0].usage.cache_write_1h, settled[0].lost), (600, 400, false));
        assert!(rig.proxy.knows("msg_json"));
    }
}

#[tokio::test]
async fn any_chunking_gives_the_same_bytes_and_the_same_usage() {
    let events = sse_events("msg_c", 1_000, 50, &["one", "two", "three"]);
    for size in [1, 2, 5, 17, 100, 1_000, 100_000] {
        let answer = events.clone();
        let upstream = Peer::start(move |_| {
            // As many pieces in a write as fit a packet, so that chunks, events and reads never coincide.
            let framed: Vec<u8> = answer.as_bytes().chunks(size).flat_map(chunk).chain(LAST_CHUNK.bytes()).collect();
            std::iter::once(send(SSE_HEAD)).chain(framed.chunks(333).map(send)).collect()
        })
        .await;
        let rig = Plan::to(&upstream.url()).start().await;
        let got = rig.client().await.messages(&ask(true, 100)).await;
        assert_eq!((got.text(), got.complete), (events.clone(), true), "chunks of {size}");
        assert_eq!((rig.settled()[0].usage.input, rig.settled()[0].usage.output), (1_000, 50));
    }
}

#[tokio::test]
async fn any_other_path_passes_both_ways_byte_for_byte() {
    let payload = noise(300_000);
    let echo = payload.clone();
    let upstream = Peer::start(move |_| {
        vec![
            send(format!("HTTP/1.1 207 Odd\r\ncontent-length: {}\r\nx-twice: a\r\nx-twice: b\r\nset-cookie: c=1\r\n\r\n", echo.len())),
            send(&echo),
        ]
    })
    .await;
    let rig = Plan::to(&format!("{}/base/path/", upstream.url())).start().await;
    for (method, path) in [
        ("GET", "/v1/models?limit=1000"),
        ("POST", "/v1/files?x=%20"),
        ("PUT", "/a//b"),
        ("DELETE", "/v1/files/1"),
        ("POST", "/v1/messages/count_tokens"),
    ] {
        let mut client = rig.client().await;
        client.request(method, path, &[("content-type", "application/octet-stream"), ("content-encoding", "br")], &payload).await;
        let got = client.answer().await;
        assert_eq!((got.status, digest(&got.body)), (207, digest(&payload)), "{method} {path}");
        assert!(got.head.contains("x-twice: a\r\nx-twice: b\r\n"), "{}", got.head);
        let seen = upstream.seen().pop().unwrap();
        assert_eq!(seen.line(), format!("{method} /base/path{path} HTTP/1.1"));
        assert_eq!(digest(&seen.body), digest(&payload));
        assert_eq!(seen.header("x-api-key"), Some(REAL_KEY));
    }
    assert_eq!(rig.settled(), vec![]);
}

#[tokio::test]
async fn headers_pass_as_an_open_list_in_their_order_except_those_of_one_connection() {
    let upstream = Peer::start(|_| sse_answer(&sse_events("m", 1, 1, &[]))).await;
    let rig = Plan::to(&upstream.url()).start().await;
    let mut client = rig.client().await;
    let sent = [
        ("anthropic-version", "2023-06-01"),
        ("anthropic-beta", "a,b"),
        ("anthropic-beta", "c"),
        ("x-new-thing", "1"),
        ("accept-encoding", "gzip, br"),
        ("connection", "keep-alive, x-hop"),
        ("x-hop", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-authorization", "Basic abc"),
        ("x-last", "z"),
    ];
    client.request("POST", "/v1/messages", &sent, ask(true, 10).as_bytes()).await;
    client.answer().await;
    let seen = upstream.seen().remove(0);
    let names: Vec<&str> = seen.head.lines().skip(1).filter_map(|line| line.split_once(':')).map(|(name, _)| name).collect();
    assert_eq!(
        names,
        [
            "host",
            "anthropic-version",
            "anthropic-beta",
            "anthropic-beta",
            "x-new-thing",
            "x-last",
            "content-length",
            "accept-encoding",
            "x-api-key"
        ]
    );
    assert_eq!(seen.header("host"), Some(upstream.address.to_string().as_str()));
    assert_eq!(seen.header("accept-encoding"), Some("identity"));
}

#[tokio::test]
async fn one_connection_to_the_upstream_serves_request_after_request() {
    let upstream =
        Peer::start(
            |seen| if seen.line().starts_with("GET") { json_answer("200 OK", "{}") } else { sse_answer(&sse_events("m", 1, 1, &["x"])) },
        )
        .await;
    let rig = Plan::to(&upstream.url()).start().await;
    let mut client = rig.client().await;
    for _ in 0..3 {
        assert!(client.messages(&ask(true, 10)).await.complete);
        client.request("GET", "/v1/models", &[], b"").await;
        assert!(client.answer().await.complete);
    }
    assert_eq!((upstream.seen().len(), upstream.connections()), (6, 1));
}

#[tokio::test]
async fn a_connection_that_the_upstream_has_closed_meanwhile_is_replaced() {
    let upstream = Peer::start(|_| {
        let mut steps = sse_answer(&sse_events("m", 1, 1, &["x"]));
        steps.push(Step::Close);
        steps
    })
    .await;
    let rig = Plan::to(&upstream.url()).start().await;
    let mut client = rig.client().await;
    for _ in 0..5 {
        assert_eq!(client.messages(&ask(true, 10)).await.status, 200);
    }
    assert_eq!(rig.settled().iter().filter(|settled| settled.lost).count(), 0);
    assert_eq!(upstream.connections(), 5);
}
