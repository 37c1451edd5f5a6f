//! Who may ask, and with what credential it goes upstream.

use sentrely::model::Usd;
use sentrely::proxy::{Credential, ProxyEvent};

use crate::support::proxy::{Peer, Plan, REAL_KEY, TOKEN, ask, json_answer, sse_answer, sse_events};

#[tokio::test]
async fn the_real_credential_is_put_on_and_what_the_child_sent_is_taken_off() {
    let upstream = Peer::start(|_| sse_answer(&sse_events("m", 1, 1, &[]))).await;
    let cases: [(Credential, &[&str], &[&str]); 4] = [
        (Credential::ApiKey(REAL_KEY.into()), &[REAL_KEY], &[]),
        (Credential::Bearer("real-token".into()), &[], &["Bearer real-token"]),
        (Credential::PassThrough, &["dummy-key"], &["Bearer dummy-token"]),
        (Credential::None, &[], &[]),
    ];
    for (credential, keys, bearers) in cases {
        let rig = Plan { credential, ..Plan::to(&upstream.url()) }.start().await;
        for path in ["/v1/messages", "/v1/messages/count_tokens", "/v1/files"] {
            let mut client = rig.client().await;
            client
                .request("POST", path, &[("x-api-key", "dummy-key"), ("authorization", "Bearer dummy-token")], ask(true, 10).as_bytes())
                .await;
            client.answer().await;
            let seen = upstream.seen().pop().unwrap();
            assert_eq!((seen.headers("x-api-key"), seen.headers("authorization")), (keys.to_vec(), bearers.to_vec()), "{path}");
        }
    }
}

#[tokio::test]
async fn the_sessions_token_never_goes_upstream() {
    let upstream = Peer::start(|_| sse_answer(&sse_events("m", 1, 1, &[]))).await;
    let rig = Plan { credential: Credential::PassThrough, ..Plan::to(&upstream.url()) }.start().await;
    let mut client = rig.client().await;
    let referer = format!("http://127.0.0.1/s/{TOKEN}/v1");
    let bearer = format!("Bearer {TOKEN}");
    client
        .request("POST", "/v1/messages", &[("referer", &referer), ("authorization", &bearer), ("x-safe", "1")], ask(true, 10).as_bytes())
        .await;
    assert_eq!(client.answer().await.status, 200);
    client.request("GET", &format!("/v1/models?token={TOKEN}"), &[], b"").await;
    assert_eq!(client.answer().await.status, 400);
    let seen = upstream.seen();
    assert_eq!(seen.len(), 1);
    assert!(!seen[0].head.contains(TOKEN) && seen[0].header("x-safe") == Some("1"), "{}", seen[0].head);
}

#[tokio::test]
async fn a_wrong_token_or_host_learns_nothing() {
    let upstream = Peer::start(|_| json_answer("200 OK", "{}")).await;
    let rig = Plan::to(&upstream.url()).start().await;
    let port = rig.address.port();
    for (target, host, status) in [
        ("/v1/messages", format!("127.0.0.1:{port}"), 404),
        ("/s/wrong/v1/messages", format!("127.0.0.1:{port}"), 404),
        ("/", format!("localhost:{port}"), 404),
        (&format!("/s/{TOKEN}/v1/messages"), format!("evil.example:{port}"), 403),
        (&format!("/s/{TOKEN}/v1/messages"), "127.0.0.1".to_owned(), 403),
    ] {
        let mut client = rig.client().await;
        client.write(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        let got = client.answer().await;
        assert_eq!((got.status, got.text()), (status, String::new()), "{target} {host}");
    }
    assert_eq!((upstream.connections(), rig.proxy.last_request_at()), (0, None));
    let mut client = rig.client().await;
    client.request("GET", "/v1/models", &[], b"").await;
    assert_eq!(client.answer().await.status, 200);
    assert!(rig.proxy.last_request_at().is_some());
}

#[tokio::test]
async fn a_rejected_credential_is_told_and_the_next_one_is_used() {
    let upstream = Peer::start(|seen| {
        if seen.header("x-api-key") == Some("fresh") {
            sse_answer(&sse_events("m", 1, 1, &[]))
        } else {
            json_answer("401 Unauthorized", r#"{"type":"error"}"#)
        }
    })
    .await;
    let rig = Plan::to(&upstream.url()).start().await;
    let mut client = rig.client().await;
    assert_eq!(client.messages(&ask(true, 10)).await.status, 401);
    assert!(rig.events().contains(&ProxyEvent::CredentialRejected { status: 401 }));
    assert_eq!(rig.settled()[0].cost, Usd::ZERO);
    rig.proxy.set_credential(Credential::ApiKey("fresh".into()));
    assert_eq!(client.messages(&ask(true, 10)).await.status, 200);
    // What the child sent itself is its own affair.
    let rig = Plan { credential: Credential::PassThrough, ..Plan::to(&upstream.url()) }.start().await;
    assert_eq!(rig.client().await.messages(&ask(true, 10)).await.status, 401);
    assert!(!rig.events().iter().any(|event| matches!(event, ProxyEvent::CredentialRejected { .. })));
}
