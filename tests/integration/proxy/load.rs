//! Fifty streams at once against one budget, through the real proxy, to an upstream that reports what it truly generates.

use std::sync::Arc;
use std::time::Duration;

use sentrely::model::Usd;

use super::usd;
use crate::support::proxy::{Generated, Kind, Plan, Rig, Truth, ask, kinds, truthful};

const STREAMS: usize = 50;
const PROMPT: u64 = 200;

/// Asks `times` in a row on each of so many connections; how often the answer was whole, and how often it was refused or cut.
async fn load(rig: &Arc<Rig>, streams: usize, times: usize) -> (usize, usize) {
    let streams: Vec<_> = (0..streams)
        .map(|number| {
            let rig = Arc::clone(rig);
            tokio::spawn(async move {
                let (mut whole, mut stopped) = (0, 0);
                for _ in 0..times {
                    let mut client = rig.client().await;
                    let agent = format!("a{number}");
                    client.request("POST", "/v1/messages", &[("x-claude-code-agent-id", &agent)], ask(true, 100_000).as_bytes()).await;
                    let answer = client.answer().await;
                    let cut = answer.status != 200 || answer.text().contains("event: error");
                    whole += usize::from(!cut);
                    stopped += usize::from(cut);
                }
                (whole, stopped)
            })
        })
        .collect();
    let mut sum = (0, 0);
    for stream in streams {
        // A busy machine takes its time over thousands of events.
        let (whole, stopped) = tokio::time::timeout(Duration::from_mins(2), stream).await.unwrap().unwrap();
        sum = (sum.0 + whole, sum.1 + stopped);
    }
    sum
}

/// Answers of so many bytes, each of another of these kinds of text, as fast as no model is.
async fn upstream(truth: &Arc<Truth>, kinds: Vec<Kind>, bytes: usize, piece: usize) -> String {
    truthful(truth, move |number, _| Generated {
        prompt: PROMPT,
        pieces: kinds[number % kinds.len()].pieces(bytes, piece + number % 90),
        pace: Duration::from_millis(1),
        ..Generated::default()
    })
    .await
}

/// What was spent of a limit of one dollar, in streams whose answers would cost several times as much.
async fn spent_of_a_dollar(kinds: Vec<Kind>, streams: usize, bytes: usize, piece: usize) -> (Usd, Usd) {
    let truth = Arc::new(Truth::default());
    let url = upstream(&truth, kinds, bytes, piece).await;
    let rig = Arc::new(Plan { limits: vec!["1usd"], ..Plan::to(&url) }.start().await);
    let (whole, stopped) = load(&rig, streams, 2).await;
    assert!(stopped >= streams, "{whole} whole, {stopped} stopped");
    rig.proxy.drained().await;
    // What is over is over.
    let asked = truth.all().len();
    assert_eq!(load(&rig, streams, 1).await, (0, streams));
    assert_eq!(truth.all().len(), asked);
    (truth.cost(), rig.meter.booked().0)
}

#[tokio::test]
async fn fifty_streams_at_once_of_all_kinds_of_text_pass_the_budget_by_less_than_a_hundredth() {
    let (spent, booked) = spent_of_a_dollar(kinds(), STREAMS, 14_000, 20).await;
    assert!(spent <= usd("1.01"), "spent {spent}, booked {booked}");
    assert!(booked >= spent.saturating_sub(usd("0.01")), "spent {spent}, booked {booked}");
    assert!(spent >= usd("0.75"), "and are not stopped early: spent {spent}, booked {booked}");
}

#[tokio::test]
async fn the_densest_kinds_of_text_pass_the_budget_by_less_than_a_hundredth() {
    for name in ["digits", "uuid", "b64", "asciirnd", "zh", "emoji"] {
        let kind: Vec<Kind> = kinds().into_iter().filter(|kind| kind.name == name).collect();
        // One stream alone: nothing of the budget is booked exactly before its end.
        let (spent, booked) = spent_of_a_dollar(kind, 1, 220_000, 300).await;
        assert!(spent <= usd("1.01") && spent >= usd("0.7"), "{name}: spent {spent}, booked {booked}");
    }
}

#[tokio::test]
async fn nothing_is_refused_or_cut_that_fits_with_a_fifth_to_spare() {
    let (kinds, truth) = (kinds(), Arc::new(Truth::default()));
    // What 50 x 3 answers cost, and a fifth of the limit.
    let cost = |number: usize| {
        let output: u64 = kinds[number % kinds.len()].pieces(4_000, 60 + number % 90).iter().map(|(_, tokens)| tokens).sum();
        PROMPT * 4 + output * 20
    };
    let micro: u64 = (0..3 * STREAMS).map(cost).sum();
    let limit = Usd::from_pico(micro * 1_000_000 * 5 / 4).to_string() + "usd";
    let url = upstream(&truth, kinds, 4_000, 60).await;
    let rig = Arc::new(Plan { limits: vec![Box::leak(limit.into_boxed_str())], ..Plan::to(&url) }.start().await);
    assert_eq!(load(&rig, STREAMS, 3).await, (3 * STREAMS, 0));
    assert_eq!(truth.cost(), Usd::from_pico(micro * 1_000_000));
    assert_eq!(rig.meter.booked().0, truth.cost(), "settled with what the upstream reported");
}
