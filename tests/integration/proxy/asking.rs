//! Questions of the client's hooks, which end at the proxy.

use std::sync::Arc;

use sentrely::model::StopReason;
use sentrely::proxy::{AgentLimits, Closed};
use tokio::sync::Notify;

use crate::support::proxy::{Peer, Plan, Step, ask, sse_answer, sse_events};

const HOOK: &str = "/sentrely/hook";

#[tokio::test]
async fn a_question_is_answered_by_the_session_and_never_goes_upstream() {
    let upstream = Peer::start(|_| sse_answer(&sse_events("m", 1, 1, &[]))).await;
    let rig = Plan::to(&upstream.url()).start().await;
    let mut client = rig.client().await;
    client.request("POST", HOOK, &[], b"early").await;
    assert_eq!(client.answer().await.text(), "{}", "nobody answers yet");
    rig.proxy.answer_hooks(Arc::new(|question| if question == b"silence" { Vec::new() } else { question.to_ascii_uppercase() }));
    client.request("POST", HOOK, &[], b"say it").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.text().as_str(), answer.header("content-type")), (200, "SAY IT", Some("application/json")));
    client.request("POST", HOOK, &[], b"silence").await;
    assert_eq!(client.answer().await.text(), "{}");
    // Closed, whoever asks is still let go on.
    rig.proxy.close(Closed::because(StopReason::BudgetReached));
    let mut late = rig.client().await;
    late.request("POST", HOOK, &[], b"late").await;
    assert_eq!(late.answer().await.text(), "LATE");
    assert!(upstream.seen().is_empty() && rig.settled().is_empty() && rig.events().is_empty());
}

#[tokio::test]
async fn a_question_that_is_too_long_is_answered_with_nothing_and_without_the_token_there_is_none() {
    let upstream = Peer::start(|_| sse_answer(&sse_events("m", 1, 1, &[]))).await;
    let rig = Plan::to(&upstream.url()).start().await;
    rig.proxy.answer_hooks(Arc::new(<[u8]>::to_vec));
    let mut client = rig.client().await;
    client.request("POST", HOOK, &[], &vec![b'x'; 5 << 20]).await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "{}"));
    let mut stranger = rig.client().await;
    stranger.write(format!("POST /s/guess{HOOK} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\n\r\n", rig.address)).await;
    assert_eq!(stranger.answer().await.status, 404);
}

#[tokio::test]
async fn a_subagent_beyond_the_limit_is_refused_until_another_has_its_answer() {
    let go = Arc::new(Notify::new());
    let held = Arc::clone(&go);
    let upstream = Peer::start(move |seen| {
        let mut steps = sse_answer(&sse_events("m", 1, 1, &[]));
        if seen.header("x-claude-code-agent-id") == Some("first") {
            steps.insert(0, Step::Wait(Arc::clone(&held)));
        }
        steps
    })
    .await;
    let rig = Plan::to(&upstream.url()).start().await;
    rig.proxy.limit_agents(AgentLimits { at_once: Some(1), depth: None });
    let mut first = rig.client().await;
    first.request("POST", "/v1/messages", &[("x-claude-code-agent-id", "first")], ask(true, 10).as_bytes()).await;
    rig.until("the first", || (!rig.events().is_empty()).then_some(())).await;
    let mut second = rig.client().await;
    let agent = [("x-claude-code-agent-id", "second")];
    second.request("POST", "/v1/messages", &agent, ask(true, 10).as_bytes()).await;
    let refused = second.answer().await;
    assert_eq!(refused.status, 402);
    assert!(refused.message().contains("1 subagents at work at the same time are the limit"), "{}", refused.message());
    second.request("POST", "/v1/messages", &[], ask(true, 10).as_bytes()).await;
    assert_eq!(second.answer().await.status, 200, "the main conversation is no subagent");
    go.notify_one();
    assert_eq!(first.answer().await.status, 200);
    drop(first);
    // The place is free once the answer has gone out to its end.
    let mut tries = 0;
    loop {
        second.request("POST", "/v1/messages", &agent, ask(true, 10).as_bytes()).await;
        match second.answer().await.status {
            200 => break,
            402 if tries < 1_000 => tries += 1,
            other => panic!("{other}"),
        }
        tokio::task::yield_now().await;
    }
}
