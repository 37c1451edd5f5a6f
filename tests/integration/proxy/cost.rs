//! Reads, writes and memory that a request takes.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::support::proxy::{LAST_CHUNK, Peer, Plan, SSE_HEAD, Step, ask, chunk, send, sse_events, text_delta};

#[tokio::test]
async fn a_burst_of_events_takes_few_reads_and_writes() {
    const EVENTS: usize = 200;
    let events = sse_events("m", 100, 5, &["a piece of text"; EVENTS]);
    let upstream = Peer::start(move |_| {
        let framed: Vec<u8> = events.split_inclusive("\n\n").flat_map(chunk).collect();
        vec![send([SSE_HEAD.as_bytes(), &framed, LAST_CHUNK.as_bytes()].concat())]
    })
    .await;
    let rig = Plan::to(&upstream.url()).start().await;
    let mut client = rig.client().await;
    let body = ask(true, 10).replace("hi", &"x".repeat(100_000));
    // The first request also finds out how much to read at once.
    client.messages(&body).await;
    let before = rig.proxy.io_calls();
    client.messages(&body).await;
    let after = rig.proxy.io_calls();
    let calls = after.total() - before.total();
    assert!(calls <= 15, "{calls} calls: {before:?} -> {after:?}");
}

#[tokio::test]
async fn a_paced_event_takes_one_read_and_one_write() {
    const EVENTS: u64 = 50;
    let step = Arc::new(Notify::new());
    let wait = Arc::clone(&step);
    let upstream = Peer::start(move |_| {
        let events = sse_events("m", 100, 5, &["first"]);
        let (before, after) = events.split_at(events.find("event: content_block_stop").unwrap());
        let mut steps = vec![send(SSE_HEAD), send(chunk(before))];
        for number in 0..EVENTS {
            steps.extend([Step::Wait(Arc::clone(&wait)), send(chunk(text_delta(&format!("n{number};"))))]);
        }
        steps.extend([send(chunk(after)), send(LAST_CHUNK)]);
        steps
    })
    .await;
    let rig = Plan::to(&upstream.url()).start().await;
    let mut client = rig.client().await;
    client.request("POST", "/v1/messages", &[], ask(true, 1_000).as_bytes()).await;
    client.read_until("first").await;
    let before = rig.proxy.io_calls();
    for number in 0..EVENTS - 1 {
        step.notify_one();
        client.read_until(&format!("n{number};")).await;
    }
    let after = rig.proxy.io_calls();
    // The third call of an event is the wait for it.
    assert!(after.total() - before.total() <= 2 * (EVENTS - 1) + 3, "{before:?} -> {after:?}");
    step.notify_one();
    assert!(client.answer().await.complete);
}

/// Runs in a process of its own, where nothing else takes memory.
#[test]
fn an_answer_of_200_mb_takes_no_more_memory_than_a_small_one() {
    const CHILD: &str = "SENTRELY_TEST_PROXY_MEMORY";
    if std::env::var_os(CHILD).is_none() {
        let test = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "proxy::cost::an_answer_of_200_mb_takes_no_more_memory_than_a_small_one", "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        assert!(test.status.success(), "{}\n{}", String::from_utf8_lossy(&test.stdout), String::from_utf8_lossy(&test.stderr));
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let piece = chunk(text_delta(&"z".repeat(60_000)));
        let upstream = Peer::start(move |seen| {
            let times = if seen.body.len() > 200 { 3_500 } else { 10 };
            let events = sse_events("m", 100, 5, &[]);
            let (before, after) = events.split_at(events.find("event: content_block_stop").unwrap());
            vec![send(SSE_HEAD), send(chunk(before)), Step::Repeat(piece.clone(), times), send(chunk(after)), send(LAST_CHUNK)]
        })
        .await;
        let rig = Plan { limits: vec![], ..Plan::to(&upstream.url()) }.start().await;
        let mut peaks = Vec::new();
        for body in [ask(true, 10), ask(true, 10).replace("hi", &"x".repeat(1_000))] {
            let mut client = rig.client().await;
            client.request("POST", "/v1/messages", &[("connection", "close")], body.as_bytes()).await;
            let mut total = 0;
            loop {
                let count = client.read_some().await.len();
                if count == 0 {
                    break;
                }
                total += count;
            }
            peaks.push((total, peak_kb()));
        }
        assert!(peaks[1].0 > 200_000_000, "{peaks:?}");
        assert!(peaks[1].1 < peaks[0].1 + 4_000, "{peaks:?}");
        assert_eq!(rig.settled().len(), 2);
    });
}

/// The process's peak resident memory.
fn peak_kb() -> u64 {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).unwrap();
    let kilobytes = usage.max_rss() / if cfg!(target_os = "macos") { 1_024 } else { 1 };
    u64::try_from(kilobytes).unwrap()
}
