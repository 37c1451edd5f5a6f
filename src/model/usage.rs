//! What one answer used, as the API reports it.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// Tokens of one answer by kind (the Messages API's `usage` block), plus what changes their price.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Prompt tokens neither read from nor written to the cache.
    pub input: u64,
    /// Generated tokens, thinking included.
    pub output: u64,
    /// Tokens written to the five-minute cache. A total without a split counts here (facts/PRICES.md rule 1).
    pub cache_write_5m: u64,
    /// Tokens written to the one-hour cache.
    pub cache_write_1h: u64,
    /// Tokens read from the cache.
    pub cache_read: u64,
    /// Server-side web searches.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub web_searches: u64,
    /// `usage.speed`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub speed: Speed,
    /// `usage.inference_geo == "us"`: tokens cost 1.1 times as much (facts/PRICES.md rule 3).
    #[serde(default, skip_serializing_if = "is_default")]
    pub us_only: bool,
    /// Prompt tokens among the above that never stood in the conversation's context together with the others: earlier turns of the same
    /// answer, a compaction on the server's side, an advisor's.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub outside_context: u64,
}

/// Which rate table applies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Speed {
    /// The ordinary one.
    #[default]
    Standard,
    /// Fast mode has a table of its own (facts/PRICES.md rule 5).
    Fast,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Usage {
    /// Tokens of the prompt.
    pub const fn prompt(&self) -> u64 {
        self.input.saturating_add(self.cache_write_5m).saturating_add(self.cache_write_1h).saturating_add(self.cache_read)
    }

    /// Tokens of the prompt that filled the context window.
    pub const fn context(&self) -> u64 {
        self.prompt().saturating_sub(self.outside_context)
    }

    /// All tokens, in and out.
    pub const fn total(&self) -> u64 {
        self.prompt().saturating_add(self.output)
    }
}

impl AddAssign for Usage {
    /// Adds the counts; speed and place belong to single answers and stay.
    fn add_assign(&mut self, other: Self) {
        self.input = self.input.saturating_add(other.input);
        self.output = self.output.saturating_add(other.output);
        self.cache_write_5m = self.cache_write_5m.saturating_add(other.cache_write_5m);
        self.cache_write_1h = self.cache_write_1h.saturating_add(other.cache_write_1h);
        self.cache_read = self.cache_read.saturating_add(other.cache_read);
        self.web_searches = self.web_searches.saturating_add(other.web_searches);
        self.outside_context = self.outside_context.saturating_add(other.outside_context);
    }
}

/// Which conversation of the session a request belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Thread {
    /// The conversation the person sees.
    #[default]
    Main,
    /// A subagent, by the client's `x-claude-code-agent-id`.
    Agent(String),
    /// Auxiliary requests (web search, classifier): they say little about the next one.
    Auxiliary,
}
