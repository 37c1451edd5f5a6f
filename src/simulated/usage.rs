//! Usage in a script and in an answer: how much, and in which of the API's places it is told.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::model::{Speed, Usage, Usd};

/// Where an answer tells its usage. The default is what the real API does: everything in both places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UsageReport {
    /// Whether `message_start` tells the prompt's tokens; without it they are zero there.
    pub in_start: bool,
    /// What `message_delta` tells.
    pub in_delta: DeltaUsage,
    /// Whether the cache writes are split into five-minute and one-hour ones; without it only their sum is told.
    pub split: bool,
}

impl Default for UsageReport {
    fn default() -> Self {
        Self { in_start: true, in_delta: DeltaUsage::Full, split: true }
    }
}

/// What `message_delta` tells of the usage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeltaUsage {
    /// Every kind, cumulative.
    #[default]
    Full,
    /// `output_tokens` alone.
    OutputOnly,
    /// No usage block.
    None,
}

/// Usage that costs `amount` (rounded down to 4 millionths of a dollar) at the list price of claude-opus-5-5, $4 and $20 a million
/// tokens (`facts/CLAUDE_CODE.md` section 9): nearly all of it input, with ten tokens of output where the amount allows it.
///
/// $0.40 is 99,950 tokens in and 10 out.
pub fn usage_costing(amount: Usd) -> Usage {
    const PICO_IN: u64 = 4_000_000;
    const PICO_OUT: u64 = 20_000_000;
    let output = if amount.pico() >= 10 * PICO_OUT { 10 } else { 0 };
    let input = (amount.pico() - output * PICO_OUT) / PICO_IN;
    Usage { input, output, ..Usage::default() }
}

/// The usage block of `message_start`: the prompt's tokens, and the first token of the answer.
pub(super) fn at_start(usage: &Usage, report: UsageReport) -> Value {
    let told = Usage { output: usage.output.min(1), web_searches: 0, ..*usage };
    if report.in_start {
        return whole(&told, report);
    }
    whole(&Usage { output: told.output, speed: usage.speed, us_only: usage.us_only, ..Usage::default() }, report)
}

/// The usage block of `message_delta`, if it has one.
pub(super) fn at_end(usage: &Usage, report: UsageReport) -> Option<Value> {
    match report.in_delta {
        DeltaUsage::Full => Some(whole(usage, report)),
        DeltaUsage::OutputOnly => Some(json!({ "output_tokens": usage.output })),
        DeltaUsage::None => None,
    }
}

/// The usage block of an answer that is not streamed.
pub(super) fn whole(usage: &Usage, report: UsageReport) -> Value {
    let mut block = Map::new();
    block.insert("input_tokens".into(), usage.input.into());
    block.insert("cache_creation_input_tokens".into(), (usage.cache_write_5m + usage.cache_write_1h).into());
    block.insert("cache_read_input_tokens".into(), usage.cache_read.into());
    if report.split {
        let split = json!({
            "ephemeral_5m_input_tokens": usage.cache_write_5m,
            "ephemeral_1h_input_tokens": usage.cache_write_1h,
        });
        block.insert("cache_creation".into(), split);
    }
    block.insert("output_tokens".into(), usage.output.into());
    block.insert("service_tier".into(), "standard".into());
    if usage.web_searches > 0 {
        block.insert("server_tool_use".into(), json!({ "web_search_requests": usage.web_searches }));
    }
    if usage.speed == Speed::Fast {
        block.insert("speed".into(), "fast".into());
    }
    if usage.us_only {
        block.insert("inference_geo".into(), "us".into());
    }
    Value::Object(block)
}

/// How a script's JSON spells [`Usage`]: every count may be left out.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Usage", deny_unknown_fields)]
pub(super) struct UsageForm {
    #[serde(default)]
    input: u64,
    #[serde(default)]
    output: u64,
    #[serde(default)]
    cache_write_5m: u64,
    #[serde(default)]
    cache_write_1h: u64,
    #[serde(default)]
    cache_read: u64,
    #[serde(default)]
    web_searches: u64,
    #[serde(default)]
    speed: Speed,
    #[serde(default)]
    us_only: bool,
    #[serde(default)]
    outside_context: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(usage: &Usage) -> Usd {
        Usd::from_pico(usage.input * 4_000_000 + usage.output * 20_000_000)
    }

    #[test]
    fn usage_made_for_an_amount_costs_that_amount_at_opus_prices() {
        for amount in ["0.40", "0.05", "2", "0.0002", "0.00004", "0"] {
            let amount: Usd = amount.parse().unwrap();
            assert_eq!(cost(&usage_costing(amount)), amount);
        }
    }

    #[test]
    fn usage_can_be_told_in_one_place_only_and_without_the_split() {
        let usage = Usage { input: 7, output: 5, cache_write_5m: 2, cache_write_1h: 3, cache_read: 4, ..Usage::default() };
        let late = UsageReport { in_start: false, split: false, ..UsageReport::default() };
        let tier = "standard";
        assert_eq!(
            at_start(&usage, late),
            json!({"input_tokens": 0, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 1, "service_tier": tier})
        );
        assert_eq!(
            at_end(&usage, late),
            Some(
                json!({"input_tokens": 7, "cache_creation_input_tokens": 5, "cache_read_input_tokens": 4, "output_tokens": 5, "service_tier": tier})
            )
        );
        let early = UsageReport { in_delta: DeltaUsage::OutputOnly, ..UsageReport::default() };
        assert_eq!(at_end(&usage, early), Some(json!({"output_tokens": 5})));
        assert_eq!(at_start(&usage, early)["cache_creation"]["ephemeral_1h_input_tokens"], 3);
    }
}
