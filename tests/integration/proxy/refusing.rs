//! What is refused, and that nothing of it goes upstream.

use sentrely::model::{Event, Usd};
use sentrely::proxy::{ProxyEvent, RefusalStyle};

use super::digest;
use crate::support::proxy::{Peer, Plan, ask, json_answer, sse_answer, sse_events};

#[tokio::test]
async fn a_request_over_the_budget_is_refused_and_no_byte_of_it_goes_upstream() {
    for (refusal, status) in [(RefusalStyle::Plain, 402), (RefusalStyle::Unified, 429)] {
        let upstream = Peer::start(|_| sse_answer(&sse_events("m", 95_000, 1_000, &[]))).await;
        let rig = Plan { limits: vec!["1usd"], refusal, ..Plan::to(&upstream.url()) }.start().await;
        let mut client = rig.client().await;
        for _ in 0..2 {
            assert_eq!(client.messages(&ask(true, 100)).await.status, 200);
        }
        let got = client.messages(&ask(true, 100)).await;
        assert_eq!((got.status, got.header("x-should-retry")), (status, Some("false")));
        assert!(got.header("request-id").is_some());
        assert!(got.message().starts_with("sentrely: the budget of $1.00 does not cover this request: $0.80 spent"), "{}", got.message());
        assert_eq!((upstream.seen().len(), upstream.connections(), rig.proxy.requests_upstream()), (2, 1, 2));
        let why = got.message().trim_start_matches("sentrely: ").to_owned();
        let events = rig.events();
        assert_eq!(
            events[events.len() - 2..],
            [ProxyEvent::Journal(Event::RequestRefused { why: why.clone() }), ProxyEvent::BudgetReached { why }]
        );
        // The session stays open: what costs nothing still passes.
        client.request("POST", "/v1/messages/count_tokens", &[], ask(true, 1).as_bytes()).await;
        assert_eq!(client.answer().await.status, 200);
    }
}

#[tokio::test]
async fn padded_bodies_do_not_make_the_next_ones_look_cheap() {
    // 1,000 tokens for what is padding, 300,000 for text.
    let upstream = Peer::start(|seen| {
        let text = String::from_utf8_lossy(&seen.body).matches('x').count() as u64;
        sse_answer(&sse_events("m", 1_000 + text * 10 / 32, 1, &[]))
    })
    .await;
    let between = ask(true, 10).replace(",\"messages\"", &format!(",{}\"messages\"", " ".repeat(960_000)));
    let within = ask(true, 10).replace("hi", &" ".repeat(960_000));
    let real = ask(true, 10).replace("hi", &"x".repeat(960_000));
    for padded in [between, within] {
        let before = upstream.seen().len();
        let rig = std::sync::Arc::new(Plan { limits: vec!["2usd"], ..Plan::to(&upstream.url()) }.start().await);
        let each = |body: &str| -> Vec<_> {
            (0..8)
                .map(|number| {
                    let (rig, body) = (std::sync::Arc::clone(&rig), body.to_owned());
                    tokio::spawn(async move {
                        let mut client = rig.client().await;
                        let agent = format!("a{number}");
                        client.request("POST", "/v1/messages", &[("x-claude-code-agent-id", &agent)], body.as_bytes()).await;
                        client.answer().await.status
                    })
                })
                .collect()
        };
        // One after another: each alone fits.
        for number in 0..8 {
            let mut client = rig.client().await;
            client.request("POST", "/v1/messages", &[("x-claude-code-agent-id", &format!("a{number}"))], padded.as_bytes()).await;
            assert_eq!(client.answer().await.status, 200);
        }
        let mut passed = 0;
        for status in each(&real) {
            passed += usize::from(status.await.unwrap() == 200);
        }
        // 1.20 each.
        assert_eq!((passed, upstream.seen().len() - before), (1, 9));
        assert!(rig.meter.booked().0 <= "2".parse().unwrap(), "{:?}", rig.meter.booked());
    }
}

#[tokio::test]
async fn ways_to_spend_that_are_not_metered_are_refused() {
    let upstream = Peer::start(|_| json_answer("200 OK", "{}")).await;
    let rig = Plan::to(&upstream.url()).start().await;
    for path in ["/v1/complete", "/v1/messages/batches", "/v1/chat/completions", "/model/x/invoke", "/v1/models/claude:streamRawPredict"] {
        let mut client = rig.client().await;
        client.request("POST", path, &[], ask(false, 1).as_bytes()).await;
        let got = client.answer().await;
        assert_eq!(got.status, 403, "{path}");
        assert!(got.message().ends_with("cannot be metered, so it is not available in this session"), "{}", got.message());
    }
    assert_eq!(upstream.connections(), 0);
    assert_eq!(rig.journal().len(), 5);
}

#[tokio::test]
async fn a_path_written_oddly_is_metered_or_refused_and_never_free() {
    let upstream = Peer::start(|_| json_answer("200 OK", r#"{"id":"m","usage":{"input_tokens":100000,"output_tokens":1}}"#)).await;
    let rig = Plan { limits: vec!["1usd"], ..Plan::to(&upstream.url()) }.start().await;
    let mut metered = 0;
    for path in [
        "/v1/messages;a=b",
        "/v1/messages%3Fx",
        "/v1/messages%23",
        "/v1/messages%20",
        "/v1/messages%00",
        "/v1/mess%2561ges",
        "/v1/messages\\",
        "/v1\\messages",
        "/v1/images/generations",
        "/v1/messages/x",
    ] {
        let mut client = rig.client().await;
        client.request("POST", path, &[], ask(false, 1).as_bytes()).await;
        let status = client.answer().await.status;
        metered += usize::from(status == 200);
        assert!([200, 400, 402, 403].contains(&status), "{path}: {status}");
        let settled = rig.settled().iter().filter(|settled| settled.cost > Usd::ZERO).count();
        assert_eq!((settled, upstream.seen().len()), (metered, metered), "{path}");
    }
    // The third that costs 0.40 goes above the dollar, what comes then is refused.
    assert!((1..=3).contains(&metered), "{metered}");
}

#[tokio::test]
async fn a_request_that_cannot_be_metered_is_refused() {
    let upstream = Peer::start(|_| json_answer("200 OK", "{}")).await;
    let rig = Plan::to(&upstream.url()).start().await;
    for (path, headers, body, status, words) in [
        ("/v1/messages", vec![], "{}", 400, "names no model"),
        ("/v1/messages", vec![], "hello", 400, "not one JSON object"),
        ("//v1/./%6dessages/", vec![], r#"{"model":"a","model":"b"}"#, 400, "twice"),
        ("/v1/messages", vec![("content-encoding", "gzip")], "x", 415, "compressed"),
    ] {
        let mut client = rig.client().await;
        client.request("POST", path, &headers, body.as_bytes()).await;
        let got = client.answer().await;
        assert_eq!(got.status, status);
        assert!(got.message().starts_with("sentrely: ") && got.message().contains(words), "{}", got.message());
    }
    assert_eq!((upstream.connections(), rig.settled().len()), (0, 0));
}

#[tokio::test]
async fn a_body_of_32_mb_passes_and_one_byte_more_is_refused() {
    const LIMIT: usize = 32 * 1024 * 1024;
    let upstream = Peer::start(|_| sse_answer(&sse_events("m", 1, 1, &[]))).await;
    let rig = Plan { limits: vec![], ..Plan::to(&upstream.url()) }.start().await;
    let frame = ask(true, 10).len();
    for (length, status) in [(LIMIT, 200), (LIMIT + 1, 413), (LIMIT + 3_000_000, 413)] {
        let body = ask(true, 10).replace("hi", &"x".repeat(length - frame + 2));
        assert_eq!(body.len(), length);
        let mut client = rig.client().await;
        let got = client.messages(&body).await;
        assert_eq!(got.status, status);
        if status == 200 {
            assert_eq!(digest(&upstream.seen()[0].body), digest(body.as_bytes()));
        } else {
            assert!(got.message().contains("larger than 32 MB"), "{}", got.message());
            assert!(got.text().contains("request_too_large"));
        }
    }
    assert_eq!(upstream.seen().len(), 1);
}

#[tokio::test]
async fn without_a_journal_nothing_is_spent() {
    let upstream = Peer::start(|_| sse_answer(&sse_events("m", 1, 1, &[]))).await;
    let rig = Plan { journal_lost: true, ..Plan::to(&upstream.url()) }.start().await;
    let got = rig.client().await.messages(&ask(true, 10)).await;
    assert_eq!((got.status, got.header("x-should-retry")), (503, Some("false")));
    assert_eq!(got.message(), "sentrely: the session's journal cannot be written (no space left on device), so nothing more may be spent");
    assert_eq!((upstream.connections(), rig.proxy.requests_upstream(), rig.meter.booked()), (0, 0, (Usd::ZERO, 0)));
}
