//! What clients do that a proxy must stand.

use std::sync::Arc;
use std::time::Duration;

use sentrely::proxy::Timeouts;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;

use super::{digest, noise, usd};
use crate::support::proxy::{Peer, Plan, SSE_HEAD, Step, TOKEN, ask, chunk, json_answer, send, soon, sse_answer, sse_events};

#[tokio::test]
async fn a_client_that_goes_away_ends_the_upstreams_connection_and_is_booked() {
    let gone = Arc::new(Notify::new());
    let closed = Arc::clone(&gone);
    let upstream = Peer::start(move |_| {
        let events = sse_events("msg_left", 100_000, 1_000, &["x".repeat(3_000).as_str(), "marker"]);
        let begin = &events[..events.find("event: content_block_stop").unwrap()];
        vec![send(SSE_HEAD), send(chunk(begin)), Step::UntilClosed(Arc::clone(&closed))]
    })
    .await;
    let rig = Plan::to(&upstream.url()).start().await;
    let mut client = rig.client().await;
    client.request("POST", "/v1/messages", &[], ask(true, 32_000).as_bytes()).await;
    client.read_until("marker").await;
    drop(client);
    soon("the end of the upstream's connection", gone.notified()).await;
    let settled = rig.until_settled(1).await;
    assert!(settled[0].lost && settled[0].cost >= usd("0.42"), "{settled:?}");
    soon("the end of the request", rig.proxy.drained()).await;
    assert_eq!(rig.journal().len(), 1, "the client's leaving is no fault of the upstream");
}

#[tokio::test]
async fn a_client_that_goes_away_before_anything_was_sent_costs_nothing() {
    // An address that takes connections but never finishes them would need a network; an upload that never ends does as well.
    let upstream = Peer::start(|_| json_answer("200 OK", "{}")).await;
    let rig = Plan::to(&upstream.url()).start().await;
    let mut client = rig.client().await;
    client.write(format!("POST /s/{TOKEN}/v1/messages HTTP/1.1\r\nHost: {}\r\nContent-Length: 1000\r\n\r\n{{\"model\"", rig.address)).await;
    client.stream.shutdown().await.unwrap();
    client.rest().await;
    soon("the end of the request", rig.proxy.drained()).await;
    assert_eq!((upstream.connections(), rig.settled().len()), (0, 0));
}

#[tokio::test]
async fn head_and_answers_without_a_body_pass_and_keep_the_connection() {
    let upstream = Peer::start(|seen| match seen.line().split(' ').nth(1).unwrap() {
        "/204" => vec![send("HTTP/1.1 204 No Content\r\nx-a: 1\r\n\r\n")],
        "/304" => vec![send("HTTP/1.1 304 Not Modified\r\netag: \"a\"\r\ncontent-length: 7\r\n\r\n")],
        "/empty" => vec![send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")],
        _ => vec![send("HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n")],
    })
    .await;
    let rig = Plan::to(&upstream.url()).start().await;
    let mut client = rig.client().await;
    for (method, path, status) in
        [("HEAD", "/", 200), ("GET", "/204", 204), ("GET", "/304", 304), ("GET", "/empty", 200), ("HEAD", "/v1/messages", 200)]
    {
        client.request(method, path, &[], b"").await;
        let got = client.answer_to(method).await;
        assert_eq!((got.status, got.body.len()), (status, 0));
        if method == "HEAD" {
            assert_eq!(got.header("content-length"), Some("1234"));
        }
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_gets_it() {
    let upstream = Peer::start(|_| sse_answer(&sse_events("m", 1, 1, &[]))).await;
    let rig = Plan::to(&upstream.url()).start().await;
    for path in ["/v1/messages", "/v1/files"] {
        let mut client = rig.client().await;
        let body = ask(true, 10);
        client
            .write(format!(
                "POST /s/{TOKEN}{path} HTTP/1.1\r\nHost: {}\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
                rig.address,
                body.len()
            ))
            .await;
        assert!(client.head().await.starts_with("HTTP/1.1 100"));
        client.write(body).await;
        assert_eq!(client.answer().await.status, 200);
        assert_eq!(upstream.seen().pop().unwrap().header("expect"), None);
    }
}

#[tokio::test]
async fn interim_answers_chunk_extensions_and_trailers_do_no_harm() {
    let events = sse_events("msg_x", 10, 5, &["x"]);
    let (first, second) = events.split_at(100);
    let answer = format!(
        "HTTP/1.1 103 Early Hints\r\nlink: <a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n{}{:x};ext=\"1\"\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\nx-checksum: 1\r\n\r\n",
        SSE_HEAD.replace("request-id", "trailer: x-checksum\r\nrequest-id"),
        first.len(),
        second.len()
    );
    let upstream = Peer::start(move |_| vec![send(&answer)]).await;
    let rig = Plan::to(&upstream.url()).start().await;
    let mut client = rig.client().await;
    for _ in 0..2 {
        let got = client.messages(&ask(true, 10)).await;
        assert_eq!((got.status, got.text(), got.complete), (200, events.clone(), true));
    }
    assert_eq!((upstream.connections(), rig.settled()[1].usage.output), (1, 5));
}

#[tokio::test]
async fn requests_sent_together_are_answered_in_order() {
    let upstream = Peer::start(|seen| json_answer("200 OK", seen.line())).await;
    let rig = Plan::to(&upstream.url()).start().await;
    let mut client = rig.client().await;
    for number in 0..5 {
        client.request("GET", &format!("/v1/models/{number}"), &[], b"").await;
    }
    for number in 0..5 {
        assert_eq!(client.answer().await.text(), format!("GET /v1/models/{number} HTTP/1.1"));
    }
}

#[tokio::test]
async fn an_early_refusal_by_the_upstream_reaches_a_client_that_still_sends() {
    let upstream = Peer::start(|_| {
        let mut steps = json_answer("413 Payload Too Large", "too large");
        steps.push(Step::UntilClosed(Arc::default()));
        steps
    })
    .await;
    let rig = Plan::to(&upstream.url()).start().await;
    let mut client = rig.client().await;
    client.request("POST", "/v1/files", &[("x-test-early", "1")], &noise(200_000)).await;
    let got = client.answer().await;
    assert_eq!((got.status, got.text().as_str()), (413, "too large"));
}

#[tokio::test]
async fn a_client_that_reads_slowly_slows_the_upstream_down_and_loses_nothing() {
    const PIECES: usize = 400;
    let piece = noise(64 * 1024);
    let done = Arc::new(Notify::new());
    let (repeated, finished) = (piece.clone(), Arc::clone(&done));
    let upstream = Peer::start(move |_| {
        vec![
            send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", repeated.len() * PIECES)),
            Step::Repeat(repeated.clone(), PIECES),
            // Tells, by the connection's end, that everything was taken.
            Step::UntilClosed(Arc::clone(&finished)),
        ]
    })
    .await;
    let rig = Plan::to(&upstream.url()).start().await;
    let mut client = rig.client().await;
    client.request("GET", "/v1/files/1/content", &[], b"").await;
    client.head().await;
    let (reads_1, reads_2) = {
        // While the client reads nothing, the proxy fills its buffers and stops reading.
        let mut last = u64::MAX;
        let stalled = soon("a stall", async {
            loop {
                let reads = rig.proxy.io_calls().upstream_reads;
                if reads == last && reads > 0 {
                    return reads;
                }
                last = reads;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
        .await;
        (stalled, rig.proxy.io_calls().upstream_reads)
    };
    assert_eq!(reads_1, reads_2);
    let mut hash = Sha256::new();
    let mut total = 0;
    while total < piece.len() * PIECES {
        let bytes = client.read_some().await;
        assert!(!bytes.is_empty(), "the connection ended after {total} bytes");
        hash.update(&bytes);
        total += bytes.len();
    }
    assert_eq!(hash.finalize().to_vec(), digest(&piece.repeat(PIECES)));
    assert!(rig.proxy.io_calls().upstream_reads > reads_2);
}

#[tokio::test]
async fn heads_that_are_too_large_or_never_end_are_refused() {
    let upstream = Peer::start(|_| vec![send(format!("HTTP/1.1 200 OK\r\nx-big: {}\r\n\r\n", "a".repeat(70_000)))]).await;
    let timeouts = Timeouts { request_head: Duration::from_millis(200), request_body: Duration::from_millis(200), ..Timeouts::default() };
    let rig = Plan { timeouts, ..Plan::to(&upstream.url()) }.start().await;
    let mut client = rig.client().await;
    client.request("GET", "/v1/models", &[("x-big", &"a".repeat(60_000))], b"").await;
    assert_eq!(client.answer().await.status, 502, "the upstream's head is too large");
    let mut client = rig.client().await;
    // The write may meet the closed connection; the answer stands in the buffer all the same.
    let head = format!("GET /s/{TOKEN}/v1/models HTTP/1.1\r\nHost: {}\r\nx-big: {}\r\n", rig.address, "a".repeat(70_000));
    let _ = client.stream.write_all(head.as_bytes()).await;
    assert!(client.rest().await.starts_with(b"HTTP/1.1 431"));
    for begin in ["", "GET /s/", "GET / HTTP/1.1\r\nHost: a\r\n"] {
        let mut slow = rig.client().await;
        slow.write(begin).await;
        slow.rest().await;
    }
    // A connection that has served a request may rest for long, but not within the next head.
    let mut reused = rig.client().await;
    reused.write(format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", rig.address)).await;
    assert_eq!(reused.answer().await.status, 404);
    tokio::time::sleep(Duration::from_millis(400)).await;
    reused.write(format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", rig.address)).await;
    assert_eq!(reused.answer().await.status, 404);
    reused.write("GET").await;
    reused.rest().await;
    // A body that does not come.
    let mut stuck = rig.client().await;
    stuck.write(format!("POST /s/{TOKEN}/v1/messages HTTP/1.1\r\nHost: {}\r\nContent-Length: 10\r\n\r\n{{", rig.address)).await;
    assert_eq!(stuck.answer().await.status, 408);
}
