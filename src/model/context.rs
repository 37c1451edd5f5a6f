//! How full a conversation's context is, as readers see it.

use serde::{Deserialize, Serialize};

use super::Thread;

/// How full the main conversation's context is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextView {
    /// Prompt tokens of the last request.
    pub tokens: u64,
    /// The model's window; absent where unknown.
    pub window: Option<u64>,
    /// Percent of the window.
    pub percent: Option<u32>,
    /// The highest percent so far.
    pub peak_percent: Option<u32>,
    /// How often the conversation was compacted.
    pub compactions: u32,
}

impl ContextView {
    /// Takes in the prompt of one more answered request.
    pub(super) fn filled(&mut self, prompt: u64, window: Option<u64>) {
        let window = believable_window(prompt, window);
        let percent = percent_of_window(prompt, window);
        *self = Self { tokens: prompt, window, percent, peak_percent: self.peak_percent.max(percent), ..*self };
    }
}

/// The window, unless a prompt that the API took is larger: then the price table is wrong about it, and it counts as unknown.
pub fn believable_window(prompt: u64, window: Option<u64>) -> Option<u64> {
    window.filter(|window| *window > 0 && prompt <= *window)
}

/// Percent of the window, rounded down; `None` where the window is unknown.
pub fn percent_of_window(prompt: u64, window: Option<u64>) -> Option<u32> {
    let window = window.filter(|window| *window > 0)?;
    Some(u32::try_from(prompt.saturating_mul(100) / window).unwrap_or(u32::MAX))
}

/// What is said of a context that no longer holds the work.
pub fn thrash_words(compactions: u32, requests: u64) -> String {
    let within = if requests == 1 { "1 request".to_owned() } else { format!("{requests} requests") };
    format!("the context was compacted {compactions} times within {within}: it no longer holds the work")
}

/// How a compaction was noticed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeenBy {
    /// The client's hint headers said so.
    #[default]
    Headers,
    /// The words that its summary, or its request for one, begin with.
    Summary,
    /// The request became much smaller.
    Size,
}

/// One conversation of a session: the main one, or a subagent's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ThreadView {
    /// Which.
    pub thread: Thread,
    /// The model that answered last.
    pub model: String,
    /// Prompt tokens of the last request, as the API reported them: input, cache reads and cache writes.
    pub tokens: u64,
    /// The model's window with the request's beta headers; `None` where unknown.
    pub window: Option<u64>,
    /// Percent of the window.
    pub percent: Option<u32>,
    /// The largest prompt so far.
    pub peak_tokens: u64,
    /// The highest percent so far.
    pub peak_percent: Option<u32>,
    /// Tokens that a request adds, by the last ones since the conversation began or was compacted; `None` before the second, and
    /// where it does not grow.
    pub growth_per_turn: Option<u64>,
    /// How many more requests fit the window if it goes on like that.
    pub turns_left: Option<u64>,
    /// Requests answered.
    pub requests: u64,
    /// How often it was compacted.
    pub compactions: u32,
}
