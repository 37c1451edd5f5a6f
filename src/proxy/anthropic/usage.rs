//! What an answer reports of itself: its id, its model and what it used.

use serde::Deserialize;

use crate::meter::price::{Part, PartKind, Reported};
use crate::model::{Speed, Usage};

/// An answer that comes whole, or the message that a stream begins with.
#[derive(Debug, Default, Deserialize)]
pub(in crate::proxy) struct Answer {
    /// The message's id.
    pub(in crate::proxy) id: Option<String>,
    /// The model that answered.
    pub(in crate::proxy) model: Option<String>,
    /// What it used.
    pub(in crate::proxy) usage: Option<UsageFields>,
}

impl Answer {
    /// Reads a whole answer; `None` when it is not one.
    pub(in crate::proxy) fn read(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }
}

/// The `usage` block, with everything that an event may leave out.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub(in crate::proxy) struct UsageFields {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation: Option<CacheCreation>,
    server_tool_use: Option<ServerToolUse>,
    speed: Option<String>,
    inference_geo: Option<String>,
    iterations: Option<serde_json::Value>,
}

/// One entry of `usage.iterations`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Iteration {
    r#type: String,
    model: Option<String>,
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation: Option<CacheCreation>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
struct CacheCreation {
    ephemeral_5m_input_tokens: Option<u64>,
    ephemeral_1h_input_tokens: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
struct ServerToolUse {
    web_search_requests: Option<u64>,
}

impl UsageFields {
    /// A later report: its values hold, what it is silent about stays. A prompt count of zero is silence, as Claude Code reads it.
    pub(in crate::proxy) fn overlay(&mut self, later: Self) {
        fn some_unless_zero(slot: &mut Option<u64>, later: Option<u64>) {
            if later.is_some_and(|count| count > 0 || slot.is_none()) {
                *slot = later;
            }
        }
        some_unless_zero(&mut self.input_tokens, later.input_tokens);
        some_unless_zero(&mut self.cache_creation_input_tokens, later.cache_creation_input_tokens);
        some_unless_zero(&mut self.cache_read_input_tokens, later.cache_read_input_tokens);
        if later.cache_creation.is_some_and(|split| split.total() > 0) {
            self.cache_creation = later.cache_creation;
        }
        self.output_tokens = later.output_tokens.or(self.output_tokens);
        self.server_tool_use = later.server_tool_use.or(self.server_tool_use);
        self.speed = later.speed.or_else(|| self.speed.take());
        self.inference_geo = later.inference_geo.or_else(|| self.inference_geo.take());
        self.iterations = later.iterations.or_else(|| self.iterations.take());
    }

    /// Whether the prompt's size is known.
    pub(in crate::proxy) const fn has_input(&self) -> bool {
        self.input_tokens.is_some()
    }

    /// Whether the output's size is known.
    pub(in crate::proxy) const fn has_output(&self) -> bool {
        self.output_tokens.is_some()
    }

    /// As the meter counts it (facts/PRICES.md rules 1, 3, 4 and 5).
    pub(in crate::proxy) fn to_usage(&self) -> Usage {
        let (cache_write_5m, cache_write_1h) = written(self.cache_creation_input_tokens, self.cache_creation);
        Usage {
            input: self.input_tokens.unwrap_or(0),
            output: self.output_tokens.unwrap_or(0),
            cache_write_5m,
            cache_write_1h,
            cache_read: self.cache_read_input_tokens.unwrap_or(0),
            web_searches: self.server_tool_use.and_then(|used| used.web_search_requests).unwrap_or(0),
            speed: if self.speed.as_deref() == Some("fast") { Speed::Fast } else { Speed::Standard },
            us_only: self.inference_geo.as_deref() == Some("us"),
            outside_context: 0,
        }
    }

    /// Everything that is billed for the answer (rule 2, and what the block's own counts leave out).
    pub(in crate::proxy) fn to_report(&self) -> Reported {
        let listed = self.iterations.as_ref().and_then(serde_json::Value::as_array);
        // What cannot be read counts nothing: the block's own counts are there all the same.
        let parts = listed.into_iter().flatten().filter_map(|part| Iteration::deserialize(part).ok()?.to_part()).collect();
        Reported { usage: self.to_usage(), parts }
    }
}

impl Iteration {
    fn to_part(&self) -> Option<Part> {
        let kind = match self.r#type.as_str() {
            "message" => PartKind::Message,
            "fallback_message" => PartKind::Fallback,
            "compaction" => PartKind::Compaction,
            "advisor_message" => PartKind::Advisor,
            // Whether something that is not known yet is in the counts: as turns are.
            _ => return None,
        };
        let (cache_write_5m, cache_write_1h) = written(self.cache_creation_input_tokens, self.cache_creation);
        let usage = Usage {
            input: self.input_tokens.unwrap_or(0),
            output: self.output_tokens.unwrap_or(0),
            cache_write_5m,
            cache_write_1h,
            cache_read: self.cache_read_input_tokens.unwrap_or(0),
            ..Usage::default()
        };
        Some(Part { kind, model: self.model.clone(), usage })
    }
}

/// Cache writes for five minutes and for an hour. A total without a split is for five minutes (rule 1).
fn written(total: Option<u64>, split: Option<CacheCreation>) -> (u64, u64) {
    let split = split.unwrap_or_default();
    let hour = split.ephemeral_1h_input_tokens.unwrap_or(0);
    (total.unwrap_or(0).max(split.total()).saturating_sub(hour), hour)
}

impl CacheCreation {
    fn total(self) -> u64 {
        self.ephemeral_5m_input_tokens.unwrap_or(0).saturating_add(self.ephemeral_1h_input_tokens.unwrap_or(0))
    }
}
