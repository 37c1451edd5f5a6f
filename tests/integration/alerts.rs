//! Alerts outside the machine: what receivers get, and what happens when they do not take it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use sentrely::alerts::{Alert, Failed, Form, Receiving, start};
use sentrely::model::SessionId;
use sentrely::simulated::{Answer, Script, Upstream};
use serde_json::{Value, json};

use crate::support::claude::Claude;
use crate::support::env::TestEnv;
use crate::support::proxy::{Peer, send};

/// More than three tries and their pauses take.
const SOON: Duration = Duration::from_mins(1);

fn answer(status: &str) -> Vec<crate::support::proxy::Step> {
    vec![send(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"))]
}

fn alert(text: &str) -> Alert {
    Alert {
        schema_version: 1,
        kind: "budget",
        at: Timestamp::UNIX_EPOCH,
        session: SessionId::new(),
        developer: "ana".into(),
        project: "shop".into(),
        cost_usd: "2.5".parse().unwrap(),
        percent: Some(50),
        text: text.into(),
    }
}

/// Posts one alert to `url`; what failed.
async fn post(url: String, form: Form) -> Vec<String> {
    let failures: Arc<Mutex<Vec<String>>> = Arc::default();
    let told = Arc::clone(&failures);
    let failed: Failed = Arc::new(move |why| told.lock().unwrap().push(why));
    let (outbox, posting) = start(vec![Receiving { url: url.into(), form }], &failed);
    outbox.send(&alert("half is spent"));
    assert!(posting.drain(SOON).await, "in time");

    failures.lock().unwrap().clone()
}

#[tokio::test]
async fn a_webhook_gets_the_alert_as_json_and_slack_its_text() {
    let peer = Peer::start(|_| answer("200 OK")).await;
    assert_eq!(post(format!("{}/hook", peer.url()), Form::Json).await, Vec::<String>::new());
    assert_eq!(post(format!("{}/slack", peer.url()), Form::Slack).await, Vec::<String>::new());
    let seen = peer.seen();
    let bodies: Vec<Value> = seen.iter().map(|request| serde_json::from_slice(&request.body).unwrap()).collect();
    assert_eq!(seen[0].line(), "POST /hook HTTP/1.1");
    assert_eq!((&bodies[0]["kind"], &bodies[0]["cost_usd"], &bodies[0]["percent"]), (&json!("budget"), &json!("2.5"), &json!(50)));
    assert_eq!(bodies[1], json!({"text": "half is spent"}));
}

#[tokio::test]
async fn a_busy_receiver_is_asked_again_and_one_that_refuses_is_not() {
    let tries = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&tries);
    let busy = Peer::start(move |_| {
        let mut tries = counted.lock().unwrap();
        *tries += 1;
        answer(if *tries == 1 { "503 Service Unavailable" } else { "200 OK" })
    })
    .await;
    assert_eq!(post(busy.url(), Form::Json).await, Vec::<String>::new());
    assert_eq!(*tries.lock().unwrap(), 2);
    let strict = Peer::start(|_| answer("403 Forbidden")).await;
    let failures = post(format!("{}/secret-part", strict.url()), Form::Slack).await;
    assert_eq!(failures, ["the Slack webhook did not take the alert `half is spent`: it answered 403 Forbidden"]);
    assert_eq!(strict.seen().len(), 1);
}

#[tokio::test]
async fn an_address_that_leads_nowhere_is_given_up_without_being_shown() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    for url in [format!("http://{address}/secret-part"), "no address, secret-part".to_owned()] {
        let failures = post(url, Form::Json).await;
        assert!(failures.len() == 1 && !failures[0].contains("secret-part"), "{failures:?}");
    }
}

#[test]
fn a_session_tells_of_its_budget_and_its_end_and_a_receiver_that_is_not_there_is_a_notice() {
    let Some(claude) = Claude::v330() else { return };
    let env = TestEnv::new();
    env.prepare_claude();
    let (started, peer) = std::sync::mpsc::channel();
    // Ends with the test's process.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            started.send(Peer::start(|_| answer("200 OK")).await).unwrap();
            std::future::pending::<()>().await;
        });
    });
    let peer = peer.recv_timeout(SOON).unwrap();
    let upstream = Upstream::start_on_thread(Script::default().otherwise(Answer::bash("true").costing("0.30".parse().unwrap()))).unwrap();
    let config = env.home().join(".config/sentrely/config.toml");
    std::fs::create_dir_all(config.parent().unwrap()).unwrap();
    let tables =
        "[alerts]\nwebhook = { env = \"THE_HOOK\" }\n[slack]\nwebhook = { command = [\"echo\", \"http://127.0.0.1:9/secret-part\"] }\n";
    std::fs::write(&config, tables).unwrap();
    let args = ["run", "--budget", "1usd", "--", claude.path().to_str().unwrap(), "-p", "work", "--model", "claude-opus-5-5"];
    let run = env.sentrely(&args).args(&["--dangerously-skip-permissions"]).var("THE_HOOK", format!("{}/hook", peer.url()));
    let output = run.upstream(&upstream).run().exits(121);
    let told: Vec<Value> = peer.seen().iter().map(|request| serde_json::from_slice(&request.body).unwrap()).collect();
    let kinds: Vec<(Value, Value)> = told.iter().map(|alert| (alert["kind"].clone(), alert["percent"].clone())).collect();
    let expected = [(json!("budget"), json!(50)), (json!("budget"), json!(80)), (json!("stopped"), Value::Null)];
    assert_eq!(kinds, expected, "{}", output.stderr);
    let journal = env.journal(&env.the_session());
    let text = serde_json::to_string(&journal).unwrap();
    assert!(text.contains("the Slack webhook did not take the alert") || text.contains("alerts were not all delivered"), "{text}");
    assert!(!text.contains("secret-part") && !output.stderr.contains("secret-part"));
}
