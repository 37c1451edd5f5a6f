//! What is remembered of each conversation between its requests.

use std::collections::HashMap;

use jiff::SignedDuration;

use super::estimate::LastPrompt;
use crate::model::Thread;

/// Conversations that are remembered at most: their names are of the client's making.
const MAX_CONVERSATIONS: usize = 512;

/// By how much more than it weighs a model's text may be in tokens, in percent, while little is known of the model. Newer vocabularies
/// than the published one are said to make up to a third more tokens of a text, and some languages weigh too little ([`super::weigh`]).
const UNKNOWN_DOUBT: u64 = 60;
/// Tokens of text after which something is known.
const ENOUGH: u64 = 2_000;
/// A shorter answer says little: what the API adds of its own is too much of it.
const MIN_ANSWER: u64 = 100;
/// What is always doubted of a model that is known: its next text may be of another kind.
const MARGIN: u64 = 10;
const MAX_DOUBT: u64 = 100;
/// A shorter answer says nothing of a model's speed: it may have come out of a buffer.
const MIN_TIME: SignedDuration = SignedDuration::from_secs(3);
/// What a model may be faster, in percent, than its fastest answer was as a whole, from the first byte sent to the last received.
const FASTER: u64 = 125;

/// How the tokens that the API has reported compare to what text was weighed as.
#[derive(Debug, Clone, Copy, Default)]
struct Density {
    tokens: u64,
    /// The most of late, in percent.
    percent: u64,
}

/// See the module.
#[derive(Default)]
pub(super) struct Memory {
    /// By conversation and model: a client asks a small model about the same conversation now and then (measured on 2.1.197).
    prompts: HashMap<(Thread, String), LastPrompt>,
    /// The digest of what was asked in the stream that was lost last.
    lost: HashMap<Thread, u64>,
    densities: HashMap<String, Density>,
    /// Tokens a second, of the fastest answer of each model.
    paces: HashMap<String, u64>,
}

impl Memory {
    /// The last prompt that the API has counted.
    pub(super) fn last_prompt(&self, thread: &Thread, model: &str) -> Option<&LastPrompt> {
        self.prompts.get(&(thread.clone(), model.to_owned()))
    }

    /// The API has counted a prompt. Auxiliary ones say nothing about the next.
    pub(super) fn answered(&mut self, thread: &Thread, model: &str, prompt: LastPrompt) {
        if *thread == Thread::Auxiliary || prompt.usage.context() == 0 {
            return;
        }
        let conversation = (thread.clone(), model.to_owned());
        if self.prompts.len() >= MAX_CONVERSATIONS && !self.prompts.contains_key(&conversation) {
            let oldest = self.prompts.iter().min_by_key(|(_, prompt)| prompt.at).map(|(conversation, _)| conversation.clone());
            oldest.and_then(|oldest| self.prompts.remove(&oldest));
        }
        self.prompts.insert(conversation, prompt);
    }

    /// An answer of this model, all of it text that weighed so much, was reported with this output.
    pub(super) fn weighed(&mut self, model: &str, weighed: u64, reported: u64) {
        if weighed < MIN_ANSWER || (self.densities.len() >= MAX_CONVERSATIONS && !self.densities.contains_key(model)) {
            return;
        }
        let percent = reported.saturating_mul(100) / weighed;
        let known = self.densities.entry(model.to_owned()).or_default();
        known.tokens = known.tokens.saturating_add(reported);
        // A dense text is remembered for some answers.
        known.percent = percent.max(known.percent - known.percent.saturating_sub(percent) / 8);
    }

    /// By how much more than it weighs a text of this model may be in tokens, in percent.
    pub(super) fn doubt_percent(&self, model: &str) -> u64 {
        match self.densities.get(model) {
            Some(known) if known.tokens >= ENOUGH => (known.percent.saturating_sub(100) + MARGIN).min(MAX_DOUBT),
            _ => UNKNOWN_DOUBT,
        }
    }

    /// An answer of this model was reported with this output, so long after it was asked for. `percent`: how fast it is beside what it
    /// usually is.
    pub(super) fn generated(&mut self, model: &str, output: u64, time: SignedDuration, percent: u64) {
        if time < MIN_TIME || output < MIN_ANSWER || (self.paces.len() >= MAX_CONVERSATIONS && !self.paces.contains_key(model)) {
            return;
        }
        let pace = u64::try_from(u128::from(output) * 100_000 / (time.as_millis().unsigned_abs() * u128::from(percent)));
        let known = self.paces.entry(model.to_owned()).or_default();
        *known = (*known).max(pace.unwrap_or(u64::MAX));
    }

    /// Tokens a second that this model has shown to be able to generate; zero where nothing is known.
    pub(super) fn pace(&self, model: &str) -> u64 {
        self.paces.get(model).map_or(0, |pace| pace.saturating_mul(FASTER) / 100)
    }

    /// The answer to what was asked with this digest was lost; or, with `None`, the conversation was answered.
    pub(super) fn lost(&mut self, thread: &Thread, asked: Option<u64>) {
        let Some(asked) = asked else {
            self.lost.remove(thread);
            return;
        };
        if self.lost.len() >= MAX_CONVERSATIONS {
            self.lost.clear();
        }
        self.lost.insert(thread.clone(), asked);
    }

    /// Whether this was asked last, and its answer was lost.
    pub(super) fn repeats_lost(&self, thread: &Thread, asked: u64) -> bool {
        self.lost.get(thread) == Some(&asked)
    }
}
