//! What goes wrong upstream, how the client hears of it and how it is booked.

use std::sync::Arc;
use std::time::Duration;

use sentrely::model::{Event, Usd};
use sentrely::proxy::Timeouts;
use tokio::sync::Notify;

use super::{digest, usd};
use crate::support::proxy::{LAST_CHUNK, Peer, Plan, SSE_HEAD, Step, ask, chunk, json_answer, send, soon, sse_answer, sse_events};

#[tokio::test]
async fn a_malformed_stream_passes_unchanged_is_booked_and_flagged() {
    let good = sse_events("msg_bad", 1_000, 50, &["text"]);
    let cases = [
        (good.replace("\"usage\":{\"input_tokens\"", "\"usage\":{{\"input_tokens\""), "a message_start that is not JSON"),
        (good.replace("\"usage\":{\"output_tokens\":50}", "\"usage\":[]"), "a message_delta that cannot be read"),
        (
            good.replace("event: message_delta", "event: other").replace("\"type\":\"message_delta\"", "\"type\":\"other\""),
            "a message_stop before the usage was complete",
        ),
        (good[..good.find("event: message_delta").unwrap()].to_owned(), "an event stream that ends without message_stop"),
        ("<html>busy</html>".to_owned(), "an event stream that ends without message_stop"),
    ];
    for (events, what) in cases {
        let answer = events.clone();
        let upstream = Peer::start(move |_| vec![send(SSE_HEAD), send(chunk(&answer)), send(LAST_CHUNK)]).await;
        let rig = Plan::to(&upstream.url()).start().await;
        let got = rig.client().await.messages(&ask(true, 100)).await;
        assert_eq!((got.text(), got.complete), (events, true));
        let settled = rig.settled();
        assert!(settled[0].lost && settled[0].cost > Usd::ZERO, "{what}: {settled:?}");
        let request = settled[0].request;
        assert_eq!(rig.journal().last(), Some(&Event::Malformed { request, what: what.into() }));
    }
}

#[tokio::test]
async fn an_answer_that_nobody_can_read_is_booked_with_all_its_output_and_what_a_crash_books_holds_it_too() {
    for head in ["content-type: text/event-stream\r\ncontent-encoding: gzip", "content-type: text/plain", "content-type: text/event-stream"]
    {
        let answer = format!("HTTP/1.1 200 OK\r\n{head}\r\ncontent-length: 9\r\n\r\n\u{1f}12345678");
        let upstream = Peer::start(move |_| vec![send(&answer)]).await;
        let rig = Plan::to(&upstream.url()).start().await;
        rig.client().await.messages(&ask(true, 10_000)).await;
        let settled = rig.until_settled(1).await;
        assert!(settled[0].lost && settled[0].usage.output == 10_000 && settled[0].cost >= usd("0.2"), "{head}: {settled:?}");
        let Event::RequestAdmitted { ceiling, ceiling_tokens, .. } = rig.journal()[0].clone() else { panic!("{:?}", rig.journal()) };
        assert!(ceiling >= settled[0].cost && ceiling_tokens >= settled[0].usage.total(), "{head}: {ceiling} {ceiling_tokens}");
    }
}

#[tokio::test]
async fn a_known_usage_counts_even_if_the_stream_lacks_its_end() {
    let events = sse_events("m", 1_000, 50, &[]);
    let events = events[..events.find("event: message_stop").unwrap()].to_owned();
    let upstream = Peer::start(move |_| vec![send(SSE_HEAD), send(chunk(&events)), send(LAST_CHUNK)]).await;
    let rig = Plan::to(&upstream.url()).start().await;
    rig.client().await.messages(&ask(true, 100)).await;
    assert_eq!((rig.settled()[0].usage.output, rig.settled()[0].lost), (50, false));
    assert!(matches!(rig.journal().last(), Some(Event::Malformed { .. })));
}

#[tokio::test]
async fn an_answer_that_breaks_off_breaks_off_for_the_client_too_after_all_that_came() {
    let events = sse_events("msg_broken", 1_000, 50, &["x".repeat(500_000).as_str(), "marker"]);
    let half = events[..events.find("event: content_block_stop").unwrap()].to_owned();
    for chunked in [true, false] {
        let part = half.clone();
        let upstream = Peer::start(move |_| {
            if chunked {
                vec![send(SSE_HEAD), send(chunk(&part)), Step::Close]
            } else {
                vec![
                    send(format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", part.len() + 1)),
                    send(&part),
                    Step::Close,
                ]
            }
        })
        .await;
        let rig = Plan::to(&upstream.url()).start().await;
        let got = rig.client().await.messages(&ask(chunked, 100)).await;
        assert_eq!((digest(&got.body), got.complete), (digest(half.as_bytes()), false), "chunked: {chunked}, got {} bytes", got.body.len());
        let settled = rig.until_settled(1).await;
        assert!(settled[0].lost && settled[0].cost > Usd::ZERO);
        assert!(matches!(rig.journal().last(), Some(Event::Malformed { what, .. }) if what == "an answer that breaks off"));
    }
}

#[tokio::test]
async fn an_error_of_the_upstream_passes_unchanged_and_costs_nothing() {
    for (status, body) in [
        ("529 Overloaded", r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#),
        ("400 Bad Request", "not json"),
        ("500 Internal Server Error", ""),
        ("307 Temporary Redirect", ""),
    ] {
        let upstream = Peer::start(move |_| json_answer(status, body)).await;
        let rig = Plan::to(&upstream.url()).start().await;
        let got = rig.client().await.messages(&ask(true, 100)).await;
        assert_eq!((got.status.to_string().as_str(), got.text().as_str()), (&status[..3], body));
        assert_eq!((rig.settled()[0].cost, rig.settled()[0].lost), (Usd::ZERO, false));
        assert_eq!(rig.journal().len(), 1);
    }
}

#[tokio::test]
async fn an_error_within_the_stream_is_booked_at_what_was_seen() {
    let events = sse_events("m", 10_000, 50, &["text"]);
    let events = format!(
        "{}event: error\ndata: {{\"type\":\"error\",\"error\":{{\"type\":\"overloaded_error\"}}}}\n\n",
        &events[..events.find("event: content_block_stop").unwrap()]
    );
    let upstream = Peer::start(move |_| sse_answer(&events)).await;
    let rig = Plan::to(&upstream.url()).start().await;
    assert!(rig.client().await.messages(&ask(true, 100)).await.complete);
    assert!(rig.settled()[0].lost && rig.settled()[0].cost >= usd("0.04"));
    assert_eq!(rig.journal().len(), 1);
}

#[tokio::test]
async fn an_unreachable_upstream_is_answered_at_once_in_words_and_costs_nothing() {
    let free_port = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    for (upstream, words) in [
        (format!("http://{free_port}"), format!("sentrely: cannot reach http://{free_port}: connection refused")),
        (format!("https://{free_port}/gateway"), format!("sentrely: cannot reach https://{free_port}: connection refused")),
    ] {
        let rig = Plan::to(&upstream).start().await;
        let got = rig.client().await.messages(&ask(true, 100)).await;
        assert_eq!((got.status, got.header("x-should-retry"), got.message()), (502, Some("false"), words));
        assert_eq!((rig.settled()[0].cost, rig.proxy.requests_upstream()), (Usd::ZERO, 0));
    }
}

#[tokio::test]
async fn an_upstream_that_hangs_up_without_an_answer_is_booked() {
    for bytes in ["", "SSH-2.0-OpenSSH\r\n"] {
        let upstream = Peer::start(move |_| vec![send(bytes), Step::Close]).await;
        let rig = Plan::to(&upstream.url()).start().await;
        let got = rig.client().await.messages(&ask(true, 100)).await;
        assert_eq!((got.status, got.header("x-should-retry")), (502, None));
        assert!(got.message().starts_with(&format!("sentrely: {}", upstream.url())), "{}", got.message());
        assert!(rig.until_settled(1).await[0].lost);
    }
}

#[tokio::test]
async fn a_silent_upstream_is_given_up() {
    let timeouts = Timeouts { silent_upstream: Duration::from_millis(200), answer_head: Duration::from_millis(300), ..Timeouts::default() };
    for begin in [None, Some(SSE_HEAD), Some("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{")] {
        let gone = Arc::new(Notify::new());
        let closed = Arc::clone(&gone);
        let upstream = Peer::start(move |_| {
            let mut steps: Vec<Step> = begin.iter().map(send).collect();
            steps.push(Step::UntilClosed(Arc::clone(&closed)));
            steps
        })
        .await;
        let rig = Plan { timeouts, ..Plan::to(&upstream.url()) }.start().await;
        let got = rig.client().await.messages(&ask(true, 100)).await;
        if begin.is_none() {
            assert_eq!(got.status, 504);
        } else {
            assert!(!got.complete);
        }
        soon("the end of the upstream's connection", gone.notified()).await;
        assert!(rig.until_settled(1).await[0].lost);
    }
}
