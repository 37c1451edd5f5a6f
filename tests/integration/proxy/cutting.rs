//! What is cut while it runs: by the budget, by closing.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sentrely::model::StopReason;
use sentrely::proxy::{Closed, ProxyEvent};
use tokio::sync::Notify;

use super::usd;
use crate::support::proxy::{
    Answer, Generated, Peer, Plan, SSE_HEAD, Step, Truth, ask, chunk, kinds, send, soon, sse_answer, sse_events, text_delta, truthful,
};

#[tokio::test]
async fn closing_cuts_what_runs_and_refuses_what_comes() {
    let gone: [Arc<Notify>; 3] = Default::default();
    let closed = gone.clone();
    let upstream = Peer::start(move |seen| {
        let events = sse_events("msg_running", 100_000, 1_000, &["marker"]);
        let begin = &events[..events.find("event: content_block_stop").unwrap()];
        let half = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf";
        match seen.line().split(' ').nth(1).unwrap() {
            "/v1/messages" => vec![send(SSE_HEAD), send(chunk(begin)), Step::UntilClosed(Arc::clone(&closed[0]))],
            "/v1/files/1" => vec![send(half), Step::UntilClosed(Arc::clone(&closed[1]))],
            _ => vec![Step::UntilClosed(Arc::clone(&closed[2]))],
        }
    })
    .await;
    let rig = Plan::to(&upstream.url()).start().await;
    let mut running = rig.client().await;
    running.request("POST", "/v1/messages", &[], ask(true, 1_000).as_bytes()).await;
    running.read_until("marker").await;
    let mut download = rig.client().await;
    download.request("GET", "/v1/files/1", &[], b"").await;
    download.read_until("half").await;
    let mut waiting = rig.client().await;
    waiting.request("GET", "/v1/models", &[], b"").await;
    soon("the third request", async {
        while upstream.seen().len() < 3 {
            tokio::task::yield_now().await;
        }
    })
    .await;

    rig.proxy.close(Closed { reason: StopReason::Deadline, note: None });
    rig.proxy.close(Closed { reason: StopReason::Killed, note: Some("by alice".into()) });
    rig.proxy.close(Closed { reason: StopReason::BudgetReached, note: None });

    // The upstream's connections are shut down although our runtime has not run since.
    soon("the end of the upstream's connections", async {
        for gone in &gone {
            gone.notified().await;
        }
    })
    .await;
    let text = running.answer().await.text();
    let error = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"billing_error\",\"message\":\"sentrely: this session is over (killed: by alice)\"}}\n\n";
    assert!(text.ends_with(error), "{text}");
    let answer = download.answer().await;
    assert_eq!((answer.text().as_str(), answer.complete), ("half", false));
    assert_eq!(waiting.answer().await.message(), "sentrely: this session is over (killed: by alice)");
    soon("the end of all requests", rig.proxy.drained()).await;
    let settled = rig.settled();
    assert!(settled[0].lost && settled[0].cost >= usd("0.4"), "{settled:?}");
    for path in ["/v1/messages", "/v1/models"] {
        let mut late = rig.client().await;
        late.request("POST", path, &[], ask(true, 10).as_bytes()).await;
        let got = late.answer().await;
        assert_eq!((got.status, got.message().as_str()), (402, "sentrely: this session is over (killed: by alice)"));
    }
    assert_eq!(upstream.seen().len(), 3);
}

#[tokio::test]
async fn an_answer_is_cut_where_it_reaches_the_budget() {
    let (resume, gone) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (wait, closed) = (Arc::clone(&resume), Arc::clone(&gone));
    let upstream = Peer::start(move |_| {
        // 0.40 for the prompt; each piece of 3,000 bytes weighs 870 tokens or 0.0174.
        let event = text_delta(&"abc ".repeat(750));
        let begin = sse_events("msg_cut", 100_000, 1, &[]);
        let begin = &begin[..begin.find("event: content_block_stop").unwrap()];
        let mut steps = vec![send(SSE_HEAD), send(chunk(begin))];
        steps.extend((0..5).map(|_| send(chunk(&event))));
        // The limit falls into this event, of which only a part comes.
        steps.extend([Step::Wait(Arc::clone(&wait)), send(chunk(&event[..1_000])), send(chunk(&event[1_000..2_900]))]);
        steps.extend((0..40).map(|_| send(chunk(&event))));
        steps.push(Step::UntilClosed(Arc::clone(&closed)));
        steps
    })
    .await;
    let rig = Plan { limits: vec!["0.5usd"], ..Plan::to(&upstream.url()) }.start().await;
    let mut client = rig.client().await;
    client.request("POST", "/v1/messages", &[], ask(true, 32_000).as_bytes()).await;
    client.read_until("content_block_start").await;
    resume.notify_one();
    let got = client.answer().await;
    assert!(got.complete);
    let error = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"billing_error\",\"message\":\"sentrely: the budget of $0.50 is used up: this answer was cut\"}}\n\n";
    assert!(got.text().ends_with(error), "{}", &got.text()[got.body.len().saturating_sub(400)..]);
    soon("the end of the upstream's connection", gone.notified()).await;
    let settled = rig.until_settled(1).await;
    assert!(settled[0].lost && settled[0].cost >= usd("0.5") && settled[0].cost < usd("0.62"), "{settled:?}");
    assert_eq!(rig.events().last(), Some(&ProxyEvent::BudgetReached { why: "the budget of $0.50 is used up: this answer was cut".into() }));
    // Claude sends the same request again, unstreamed: it is refused.
    let again = client.messages(&ask(false, 32_000)).await;
    assert_eq!((again.status, upstream.seen().len()), (402, 1));
}

#[tokio::test]
async fn hidden_thinking_is_counted_by_the_clock_and_cut() {
    let gone = Arc::new(Notify::new());
    let closed = Arc::clone(&gone);
    let upstream = Peer::start(move |_| {
        let begin = sse_events("msg_hidden", 100_000, 1, &[])
            .replace(r#"{"type":"text","text":""}"#, r#"{"type":"thinking","thinking":"","signature":""}"#);
        let begin = begin[..begin.find("event: content_block_stop").unwrap()].to_owned();
        vec![send(SSE_HEAD), send(chunk(begin)), Step::UntilClosed(Arc::clone(&closed))]
    })
    .await;
    // After the prompt 0.003 is left: 150 tokens, or half a second at the ceiling.
    let rig = Plan { limits: vec!["0.403usd"], ..Plan::to(&upstream.url()) }.start().await;
    let got = rig.client().await.messages(&ask(true, 32_000)).await;
    assert!(got.text().contains("event: error"), "{}", got.text());
    soon("the end of the upstream's connection", gone.notified()).await;
    let settled = rig.until_settled(1).await;
    assert!(settled[0].cost >= usd("0.403") && settled[0].cost < usd("0.45"), "{settled:?}");
}

#[tokio::test]
async fn an_answer_that_has_reported_its_last_usage_is_not_cut() {
    let upstream = Peer::start(|_| sse_answer(&sse_events("m", 100_000, 10_000, &["x"]))).await;
    let rig = Plan { limits: vec!["0.5usd"], ..Plan::to(&upstream.url()) }.start().await;
    let got = rig.client().await.messages(&ask(true, 32_000)).await;
    assert!(got.text().ends_with("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"), "{}", got.text());
    assert_eq!((rig.settled()[0].cost, rig.settled()[0].lost), (usd("0.6"), false));
}

#[tokio::test]
async fn fifty_streams_at_once_share_one_budget() {
    let upstream = Peer::start(|_| sse_answer(&sse_events("m", 10_000, 100, &["x"; 20]))).await;
    let rig = Arc::new(Plan { limits: vec!["0.5usd"], ..Plan::to(&upstream.url()) }.start().await);
    let clients: Vec<_> = (0..50)
        .map(|_| {
            let rig = Arc::clone(&rig);
            tokio::spawn(async move { rig.client().await.messages(&ask(true, 200)).await })
        })
        .collect();
    let mut passed = 0;
    for client in clients {
        let got: Answer = client.await.unwrap();
        passed += usize::from(got.status == 200);
    }
    // 0.042 each: what is let through must end up within the limit, give or take one answer's prompt.
    assert!((10..=50).contains(&passed), "{passed}");
    let before = upstream.seen().len();
    assert_eq!(rig.client().await.messages(&ask(true, 200)).await.status, if rig.meter.booked().0 >= usd("0.5") { 402 } else { 200 });
    assert!(upstream.seen().len() - before <= 1);
    assert_eq!(rig.meter.booked().0, rig.settled().iter().map(|settled| settled.cost).sum());
}

/// A stream of text that stands still, and one that thinks in silence. Neither is looked at again before a quarter of a second has passed.
fn standing_still(gone: Arc<Notify>, block: &str) -> Vec<Step> {
    let begin = sse_events("msg_still", 10_000, 1, &[]).replace(r#"{"type":"text","text":""}"#, block);
    let begin = &begin[..begin.find("event: content_block_stop").unwrap()];
    vec![send(SSE_HEAD), send(chunk(begin)), Step::UntilClosed(gone)]
}

#[tokio::test]
async fn the_cut_of_one_stream_wakes_all_others_there_and_then() {
    const STILL: usize = 12;
    let resume = Arc::new(Notify::new());
    // One for each connection: a notification that nobody waits for yet is kept once.
    let gone: Arc<Mutex<Vec<Arc<Notify>>>> = Arc::default();
    let (wait, all) = (Arc::clone(&resume), Arc::clone(&gone));
    let upstream = Peer::start(move |seen| {
        let closed = Arc::new(Notify::new());
        all.lock().unwrap().push(Arc::clone(&closed));
        match seen.header("x-claude-code-agent-id") {
            Some("loud") => {
                let begin = sse_events("msg_loud", 10_000, 1, &["marker"]);
                let begin = &begin[..begin.find("event: content_block_stop").unwrap()];
                let mut steps = vec![send(SSE_HEAD), send(chunk(begin)), Step::Wait(Arc::clone(&wait))];
                steps.extend((0..100).map(|_| send(chunk(text_delta(&"abc ".repeat(750))))));
                steps.push(Step::UntilClosed(closed));
                steps
            }
            Some("thinks") => standing_still(closed, r#"{"type":"thinking","thinking":"","signature":""}"#),
            _ => standing_still(closed, r#"{"type":"text","text":""}"#),
        }
    })
    .await;
    // 13 prompts of 0.04; the rest is for the loud one.
    let rig = Plan { limits: vec!["1usd"], ..Plan::to(&upstream.url()) }.start().await;
    let mut clients = Vec::new();
    for number in 0..STILL {
        let mut client = rig.client().await;
        let name = if number == 0 { "thinks".to_owned() } else { format!("still-{number}") };
        client.request("POST", "/v1/messages", &[("x-claude-code-agent-id", &name)], ask(true, 64_000).as_bytes()).await;
        client.read_until("content_block_start").await;
        clients.push(client);
    }
    let mut loud = rig.client().await;
    loud.request("POST", "/v1/messages", &[("x-claude-code-agent-id", "loud")], ask(true, 64_000).as_bytes()).await;
    loud.read_until("marker").await;
    resume.notify_one();
    let first = rig.until_settled(1).await;
    assert!(first[0].lost && first[0].cost >= usd("0.4"), "the loud one is the first: {first:?}");
    // All that was woken has its turn before this task has its next but one: neither the clock nor a byte is waited for.
    for _ in 0..4 {
        tokio::task::yield_now().await;
    }
    assert_eq!(rig.settled().len(), STILL + 1);
    let gone = std::mem::take(&mut *gone.lock().unwrap());
    assert_eq!(gone.len(), STILL + 1);
    for gone in gone {
        soon("the end of the upstream's connection", gone.notified()).await;
    }
    clients.push(loud);
    for mut client in clients {
        let answer = client.answer().await;
        assert!(answer.complete && answer.text().contains("this answer was cut"), "{}", answer.text());
    }
    assert!(rig.meter.booked().0 < usd("1.02"), "{}", rig.meter.booked().0);
    let asked = upstream.seen().len();
    assert_eq!((rig.client().await.messages(&ask(true, 10)).await.status, upstream.seen().len()), (402, asked));
}

#[tokio::test]
async fn an_upstream_that_streams_past_max_tokens_is_cut_at_the_budget_all_the_same() {
    for name in ["readme", "nums", "zh"] {
        let truth = Arc::new(Truth::default());
        let kind = kinds().into_iter().find(|kind| kind.name == name).unwrap_or_else(|| panic!("no text of the kind {name}"));
        let url = truthful(&truth, move |_, _| Generated {
            prompt: 10,
            pieces: kind.pieces(300_000, 300),
            pace: Duration::from_micros(100),
            ..Generated::default()
        })
        .await;
        let rig = Plan { limits: vec!["0.5usd"], ..Plan::to(&url) }.start().await;
        // A thousand tokens, for two cents, were asked for.
        let mut client = rig.client().await;
        client.request("POST", "/v1/messages", &[], ask(true, 1_000).as_bytes()).await;
        let answer = client.answer().await;
        assert!(answer.text().contains("this answer was cut"), "{name}");
        rig.proxy.drained().await;
        let (spent, booked) = (truth.cost(), rig.meter.booked().0);
        assert!(spent <= usd("0.51") && spent >= usd("0.35") && booked >= usd("0.5"), "{name}: spent {spent}, booked {booked}");
        assert_eq!((rig.client().await.messages(&ask(true, 1_000)).await.status, truth.all().len()), (402, 1));
    }
}
