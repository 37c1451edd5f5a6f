//! Output that nobody sees: 30,000 tokens thought in silence, through the real proxy, to an upstream that reports what it truly generates.
//!
//! The clock counts such output at the speed that no model of its family exceeds. Where the upstream is as fast, the budget is passed by no
//! more than what comes between two looks, a quarter of a second, and what fits is not stopped. At the highest speed that is assumed of any
//! model, 1,000 tokens a second, 30,000 tokens take half a minute.

use std::sync::Arc;
use std::time::Duration;

use sentrely::model::Usd;
use tokio::io::AsyncReadExt as _;

use super::usd;
use crate::support::proxy::{Client, Generated, Model, Plan, Rig, Truth, ask, truthful};

const TOKENS: u64 = 30_000;
/// A request to the model that is the fastest there is.
const ASK: &str =
    r#"{"model":"claude-haiku-5-5","max_tokens":64000,"stream":true,"speed":"fast","messages":[{"role":"user","content":"think"}]}"#;

/// All of the answer, however long it is silent.
async fn answer(client: &mut Client) -> String {
    client.request("POST", "/v1/messages", &[], ASK.as_bytes()).await;
    let mut text = Vec::new();
    let whole = async {
        while !text.ends_with(b"0\r\n\r\n") {
            assert!(client.stream.read_buf(&mut text).await.unwrap() > 0, "the connection ended: {}", String::from_utf8_lossy(&text));
        }
    };
    tokio::time::timeout(Duration::from_mins(2), whole).await.expect("the end of the answer");
    String::from_utf8(text).unwrap()
}

/// How it came out.
struct Outcome {
    rig: Arc<Rig>,
    truth: Arc<Truth>,
    cut: usize,
}

/// So many streams at once that think all their tokens, each asked on a connection of its own.
async fn think(streams: usize, limit: &'static str) -> Outcome {
    let truth = Arc::new(Truth::default());
    let generated = Generated { prompt: 10, silence: Some((TOKENS, 1_000)), model: Model::FASTEST, ..Generated::default() };
    let url = truthful(&truth, move |_, _| generated.clone()).await;
    let rig = Arc::new(Plan { limits: vec![limit], ..Plan::to(&url) }.start().await);
    let clients: Vec<_> = (0..streams)
        .map(|_| {
            let rig = Arc::clone(&rig);
            tokio::spawn(async move { answer(&mut rig.client().await).await })
        })
        .collect();
    let mut cut = 0;
    for client in clients {
        cut += usize::from(client.await.unwrap().contains("this answer was cut"));
    }
    rig.proxy.drained().await;
    Outcome { rig, truth, cut }
}

#[tokio::test]
async fn thirty_thousand_silent_tokens_are_cut_at_the_limit_and_left_alone_with_a_fifth_to_spare() {
    // 0.0150 each, with a prompt of 0.000001. Ten have room for 10,000 tokens each; four have all they need and a quarter of that.
    let (stopped, roomy) = tokio::join!(think(10, "0.05001usd"), think(4, "0.075005usd"));

    let Outcome { rig, truth, cut } = stopped;
    let (spent, booked) = (truth.cost(), rig.meter.booked().0);
    assert_eq!(cut, 10, "spent {spent}, booked {booked}");
    // A quarter of a second of each stream is 0.00125; another second for a busy machine is 0.005.
    assert!(spent <= usd("0.05626") && spent >= usd("0.04"), "spent {spent}, booked {booked}");
    assert!(booked >= spent.saturating_sub(usd("0.005")), "spent {spent}, booked {booked}");
    // From there on nothing goes upstream, neither as a stream nor as the client's repeat without one.
    for body in [ASK.to_owned(), ask(true, 10), ask(false, 10), ASK.replace("true", "false")] {
        assert_eq!(rig.client().await.messages(&body).await.status, 402, "{body}");
    }
    assert_eq!((truth.all().len(), rig.proxy.requests_upstream()), (10, 10));

    let Outcome { rig, truth, cut } = roomy;
    let all: Vec<(u64, bool)> = truth.all().iter().map(|told| (told.output, told.reported)).collect();
    assert_eq!((cut, all), (0, vec![(TOKENS, true); 4]));
    assert_eq!(rig.meter.booked().0, truth.cost());
}

#[tokio::test]
async fn silent_streams_of_a_model_of_common_speed_are_cut_within_the_bound_too() {
    let run = |streams: usize, tokens: u64, limit: &'static str| async move {
        let truth = Arc::new(Truth::default());
        let url = truthful(&truth, move |_, _| Generated { prompt: 10, silence: Some((tokens, 150)), ..Generated::default() }).await;
        let rig = Arc::new(Plan { limits: vec![limit], ..Plan::to(&url) }.start().await);
        let clients: Vec<_> = (0..streams)
            .map(|_| {
                let rig = Arc::clone(&rig);
                tokio::spawn(async move { rig.client().await.messages(&ask(true, 64_000)).await })
            })
            .collect();
        let mut cut = 0;
        for client in clients {
            cut += usize::from(client.await.unwrap().text().contains("event: error"));
        }
        rig.proxy.drained().await;
        (truth.cost(), rig.meter.booked().0, cut)
    };
    // As fast as is assumed of Opus: 200 s each if they were left alone, for 12 dollars.
    let (spent, booked, cut): (Usd, Usd, usize) = run(20, TOKENS, "0.1usd").await;
    assert_eq!(cut, 20);
    // A quarter of a second of each is 0.015; a second of grace for a busy machine is 0.06.
    assert!(spent <= usd("0.175") && spent >= usd("0.08"), "spent {spent}, booked {booked}");
    assert!(booked >= spent.saturating_sub(usd("0.01")), "spent {spent}, booked {booked}");
    // With room enough none is: the clock counts no more than was thought at that speed.
    let (spent, booked, cut) = run(4, 300, "0.05usd").await;
    assert_eq!((cut, booked), (0, spent));
}
