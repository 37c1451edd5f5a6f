//! What the session is told of the requests it sees.

use sentrely::model::{Event, RequestId, SeenBy, Thread};
use sentrely::proxy::ProxyEvent;

use crate::support::proxy::{Peer, Plan, ask, sse_answer, sse_events};

#[tokio::test]
async fn the_first_request_shows_whether_our_settings_are_in_force() {
    for (value, applied) in [(Some("run-1"), true), (Some("run-2"), false), (None, false)] {
        let upstream = Peer::start(|_| sse_answer(&sse_events("m", 1, 1, &[]))).await;
        let rig = Plan { sentinel: Some("run-1".into()), ..Plan::to(&upstream.url()) }.start().await;
        let mut client = rig.client().await;
        client.request("HEAD", "/", &[], b"").await;
        client.answer_to("HEAD").await;
        let headers: Vec<(&str, &str)> = value.map(|value| ("X-Sentrely-Run", value)).into_iter().collect();
        for _ in 0..2 {
            client.request("POST", "/v1/messages", &headers, ask(true, 10).as_bytes()).await;
            client.answer().await;
        }
        let firsts: Vec<ProxyEvent> = rig.events().into_iter().filter(|event| matches!(event, ProxyEvent::FirstRequest { .. })).collect();
        assert_eq!(firsts, [ProxyEvent::FirstRequest { custom_headers: applied }]);
        assert_eq!(upstream.seen()[1].header("x-sentrely-run"), None);
    }
}

#[tokio::test]
async fn claudes_sessions_and_each_compaction_are_told_once() {
    let upstream = Peer::start(|_| sse_answer(&sse_events("m", 1, 1, &[]))).await;
    let rig = Plan::to(&upstream.url()).start().await;
    let mut client = rig.client().await;
    let (writes, begins) = (("x-claude-code-compaction", "auto"), ("x-claude-code-context-compacted", "auto"));
    let agent = ("x-claude-code-agent-id", "a7");
    let requests: [&[(&str, &str)]; 9] = [&[], &[writes], &[writes], &[begins], &[begins], &[], &[begins, agent], &[agent], &[writes]];
    for headers in requests {
        let mut headers = headers.to_vec();
        headers.push(("x-claude-code-session-id", "c0ffee"));
        client.request("POST", "/v1/messages", &headers, ask(true, 10).as_bytes()).await;
        client.answer().await;
    }
    let compaction = |thread, request: Option<u64>| Event::Compaction {
        thread,
        trigger: Some("auto".into()),
        request: request.map(RequestId),
        seen_by: SeenBy::Headers,
    };
    let told: Vec<Event> = rig.journal().into_iter().filter(|event| !matches!(event, Event::RequestAdmitted { .. })).collect();
    assert_eq!(
        told,
        [
            Event::ClaudeSession { id: "c0ffee".into() },
            compaction(Thread::Main, Some(2)),
            compaction(Thread::Agent("a7".into()), None),
            compaction(Thread::Main, Some(9)),
        ]
    );
}
