//! What answers cost, against the number that Claude Code itself shows.

use std::fmt::Write;

use sentrely::model::{Speed, Usage, Usd};
use sentrely::simulated::{Answer, DeltaUsage, Script, UsageReport};
use serde_json::{Value, json};

use super::{tell, upstream, usd, world};
use crate::support::claude::{Claude, DUMMY_KEY};
use crate::support::proxy::Plan;

/// Every model in the catalogue of 2.1.330. Some are asked for under another name on the wire: that one is priced.
const MODELS: [&str; 24] = [
    "claude-3-5-haiku",
    "claude-3-5-sonnet",
    "claude-3-7-sonnet",
    "claude-fable-5",
    "claude-fable-5-1",
    "claude-fable-5-2",
    "claude-haiku-4-5",
    "claude-haiku-5-5",
    "claude-mythos-5",
    "claude-mythos-5-1",
    "claude-mythos-5-2",
    "claude-opus-4-0",
    "claude-opus-4-1",
    "claude-opus-4-5",
    "claude-opus-4-6",
    "claude-opus-4-7",
    "claude-opus-4-8",
    "claude-opus-5",
    "claude-opus-5-5",
    "claude-sonnet-4-0",
    "claude-sonnet-4-5",
    "claude-sonnet-4-6",
    "claude-sonnet-5",
    "claude-sonnet-5-5",
];
/// Answers of one run.
const TURNS: u64 = 9;

/// The same numbers in every run: what fails can be looked at again.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// An answer whose usage has, in turn, everything that changes a price.
fn answer(turn: u64, numbers: &mut Numbers, model: &str) -> Answer {
    let mut usage = Usage {
        input: numbers.below(30_000) + 1,
        output: numbers.below(4_000) + 1,
        cache_write_5m: numbers.below(20_000),
        cache_write_1h: numbers.below(20_000),
        cache_read: numbers.below(25_000),
        ..Usage::default()
    };
    let mut report = UsageReport::default();
    let answer = if turn + 1 == TURNS { Answer::text("Done.") } else { Answer::bash(format!("true {turn}")) };
    let mut iterations = Value::Null;
    match turn {
        0 => {}
        1 => usage.web_searches = numbers.below(5) + 1,
        2 => usage.us_only = true,
        3 => usage.speed = Speed::Fast,
        // Without the split everything was written for five minutes.
        4 => (report.split, usage.cache_write_1h) = (false, 0),
        5 => report.in_delta = DeltaUsage::OutputOnly,
        6 => (usage.speed, usage.us_only, usage.web_searches) = (Speed::Fast, true, 2),
        7 => {
            // Two turns in one answer; where a window has room, together they are a long prompt and apart they are not.
            let wide = !["claude-3", "-4-"].iter().any(|narrow| model.contains(narrow));
            let read = if wide { 90_000 } else { 30_000 };
            usage = Usage { input: 3_000, output: 1_001, cache_write_5m: 10_000, cache_read: read + 500, ..Usage::default() };
            iterations = json!([
                {"type": "message", "input_tokens": 1_000, "output_tokens": 501, "cache_read_input_tokens": 500,
                 "cache_creation_input_tokens": 10_000, "cache_creation": {"ephemeral_5m_input_tokens": 10_000, "ephemeral_1h_input_tokens": 0}},
                {"type": "message", "input_tokens": 2_000, "output_tokens": 500, "cache_read_input_tokens": read, "cache_creation_input_tokens": 0},
                {"type": "advisor_message", "model": "claude-opus-5-5", "input_tokens": 4_321, "output_tokens": 77,
                 "cache_read_input_tokens": 11, "cache_creation_input_tokens": 13},
            ]);
        }
        // A long prompt, where that has a price of its own.
        _ if model.contains("haiku-5-5") => usage.cache_read = 90_000 + numbers.below(50_000),
        _ => {}
    }
    let answer = answer.usage(usage).report(report);
    if iterations.is_null() { answer } else { answer.usage_field("iterations", iterations) }
}

#[tokio::test]
async fn two_hundred_usage_records_cost_what_claude_code_says_on_every_model_it_knows() {
    let Some(claude) = Claude::v330() else { return };
    let mut numbers = Numbers(5);
    let (mut records, mut wrong, mut on_the_wire) = (0, String::new(), std::collections::BTreeSet::new());
    for model in MODELS {
        let answers: Vec<Answer> = (0..TURNS).map(|turn| answer(turn, &mut numbers, model)).collect();
        let upstream = upstream(Script::of(answers).otherwise(Answer::error(400, "invalid_request_error", "more than the script has")));
        let rig = Plan { limits: vec!["1000usd"], ..Plan::to(&upstream.url()) }.start().await;
        let (claude, base_url) = (claude.clone(), rig.proxy.base_url());
        let result = tokio::task::spawn_blocking(move || {
            let env = world();
            let args = ["-p", "work", "--output-format", "json", "--model", model, "--dangerously-skip-permissions"];
            claude.command(&env, &args).var("ANTHROPIC_BASE_URL", base_url).var("ANTHROPIC_API_KEY", DUMMY_KEY).run().json()
        });
        let result = result.await.unwrap();
        let settled = rig.settled();
        let ours: Usd = settled.iter().map(|settlement| settlement.cost).sum();
        // The client adds in binary fractions: its sum is rounded to the twelve places that ours has.
        let theirs = usd(&format!("{:.12}", result["total_cost_usd"].as_f64().unwrap()));
        if ours != theirs || settled.iter().any(|settlement| settlement.estimated) {
            let each: Vec<String> = settled.iter().map(|settlement| format!("{} {}", settlement.model, settlement.cost)).collect();
            writeln!(wrong, "{model}: ours {ours}, Claude's {theirs}: {} {}", each.join(", "), result["modelUsage"]).unwrap();
        }
        records += settled.len();
        on_the_wire.extend(settled.into_iter().map(|settlement| settlement.model));
    }
    tell(&format!("{records} records on {on_the_wire:?}"));
    assert!(wrong.is_empty(), "{wrong}");
    assert!(records >= 200, "{records}");
    assert!(on_the_wire.len() >= 20, "{on_the_wire:?}");
}
