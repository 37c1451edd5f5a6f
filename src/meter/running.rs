//! An answer under way: what it has used so far, at most.
//!
//! Text that streams as it is generated is counted by its bytes ([`super::weigh`]). Output that is not seen (thinking, of which a summary streams at most; a
//! tool's input that is delivered late) is counted by the clock, at the speed that no model of the family exceeds, while such a block is open; what then
//! comes of it in one piece is not counted twice. Both are the dear side of the truth, which the API tells at the end.
//!
//! What is only assumed ends at the `max_tokens` that was asked for, as the API's answers do. What was read does not: an upstream that goes on
//! past it is counted by what comes.

use jiff::{SignedDuration, Timestamp};

use super::price::ModelPrice;
use super::weigh::Text;
use crate::model::{Speed, Usage, Usd};

/// Tokens a second that models of a family generate at most: twice what is publicly measured of them (not by us). Whatever is not named
/// here may be as fast as the fastest; and a model that an answer proves to be faster counts at that from then on ([`super::memory`]).
const TOKENS_PER_SECOND: [(&str, u64); 5] = [("opus", 150), ("fable", 150), ("mythos", 150), ("sonnet", 200), ("haiku", 400)];
const TOKENS_PER_SECOND_OF_ANY: u64 = 400;
/// What a model is believed to be faster than that at most, whatever its answers say: one may have come from elsewhere (a gateway's cache).
const FASTER_AT_MOST: u64 = 4;
/// Fast mode is up to two and a half times as fast.
const FAST_PERCENT: u64 = 250;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Running {
    prompt: Usage,
    prompt_cost: Usd,
    prompt_known: bool,
    /// When it left us; nothing came back until the prompt is known.
    sent: Option<Timestamp>,
    /// What the answer cost before it paused.
    paused: (Usd, u64),
    reported_output: u64,
    /// Tokens of the blocks that ended.
    ended: u64,
    text: Text,
    /// Tokens of blocks that ended and were counted by their text.
    ended_text: u64,
    /// All text since the last pause.
    seen: Text,
    /// Something was counted by the clock.
    clocked: bool,
    /// By how much more than its weight text may be, in percent.
    doubt_percent: u64,
    /// How long the block that is open was out of sight.
    clock: SignedDuration,
    clock_since: Option<Timestamp>,
    output_cap: u64,
    tokens_per_second: u64,
    /// Another model answers than was asked, one that is as fast as others.
    other_speed: bool,
    asked_speed: u64,
}

impl Running {
    /// `pace`: tokens a second that the model has shown to be able to generate.
    pub(super) fn new(price: &ModelPrice, prompt: Usage, output_cap: u64, doubt_percent: u64, pace: u64) -> Self {
        Self {
            prompt_cost: price.cost(&prompt),
            prompt,
            prompt_known: false,
            sent: None,
            paused: (Usd::ZERO, 0),
            reported_output: 0,
            ended: 0,
            text: Text::default(),
            ended_text: 0,
            seen: Text::default(),
            clocked: false,
            doubt_percent,
            clock: SignedDuration::ZERO,
            clock_since: None,
            output_cap,
            tokens_per_second: ceiling_speed(price).max(pace.min(ceiling_speed(price) * FASTER_AT_MOST)),
            other_speed: false,
            asked_speed: ceiling_speed(price),
        }
    }

    /// This model answers, which may be a faster one than was asked.
    pub(super) fn answered_by(&mut self, price: &ModelPrice) {
        let speed = ceiling_speed(price);
        self.other_speed |= self.asked_speed != speed;
        self.tokens_per_second = self.tokens_per_second.max(speed);
    }

    pub(super) fn sent(&mut self, now: Timestamp) {
        self.sent.get_or_insert(now);
    }

    pub(super) fn prompt_known(&mut self, price: &ModelPrice, usage: &Usage) {
        self.prompt = Usage { output: 0, ..*usage };
        self.prompt_cost = price.cost(&self.prompt);
        self.prompt_known = true;
        self.reported_output = self.reported_output.max(usage.output);
    }

    /// Whether the prompt is more than a forecast.
    pub(super) const fn knows_prompt(&self) -> bool {
        self.prompt_known
    }

    /// What came so far is an answer by itself, reported in full; another one follows it in the same stream.
    pub(super) fn paused(&mut self, price: &ModelPrice, usage: &Usage) {
        self.paused.0 += price.cost(usage);
        self.paused.1 = self.paused.1.saturating_add(usage.total());
        self.reported_output = 0;
        self.ended = 0;
        self.ended_text = 0;
        self.text = Text::default();
        self.seen = Text::default();
        self.clock = SignedDuration::ZERO;
    }

    pub(super) fn visible(&mut self, text: Text) {
        self.text += text;
        self.seen += text;
    }

    pub(super) fn hidden(&mut self, open: bool, now: Timestamp) {
        if let Some(since) = self.clock_since.take() {
            self.clock += now.duration_since(since).max(SignedDuration::ZERO);
        }
        if open {
            self.clock_since = Some(now);
            self.clocked = true;
        }
    }

    pub(super) fn block_ended(&mut self, now: Timestamp) {
        self.hidden(false, now);
        self.ended = self.ended.saturating_add(self.block(now));
        self.ended_text = self.ended_text.saturating_add(self.block_text(now));
        self.text = Text::default();
        self.clock = SignedDuration::ZERO;
    }

    /// Tokens of the block that is open. What was generated out of sight and then came in one piece is the same.
    fn block(&self, now: Timestamp) -> u64 {
        let open = self.clock_since.map_or(SignedDuration::ZERO, |since| now.duration_since(since).max(SignedDuration::ZERO));
        self.text.tokens().max(self.out_of_sight(self.clock + open))
    }

    /// Those of them that were counted by their text.
    fn block_text(&self, now: Timestamp) -> u64 {
        let text = self.text.tokens();
        if self.block(now) == text { text } else { 0 }
    }

    /// By how many tokens more the output may be than is counted: text may be denser than it weighs.
    pub(super) fn doubt(&self, now: Timestamp) -> u64 {
        let counted = self.ended.saturating_add(self.block(now));
        if self.reported_output >= counted {
            return 0;
        }
        let text = self.ended_text.saturating_add(self.block_text(now));
        let doubt = text.saturating_mul(self.doubt_percent) / 100;
        // Once it is passed, the cap says nothing any more.
        if self.outgrew() { doubt } else { doubt.min(self.output_cap.saturating_sub(counted)) }
    }

    /// Whether more was read than `max_tokens` allows for.
    pub(super) const fn outgrew(&self) -> bool {
        self.seen.tokens_read() > self.output_cap
    }

    /// How many tokens the text of the whole answer weighs, if all of the answer was such text.
    pub(super) const fn seen_whole(&self) -> Option<u64> {
        if self.clocked || self.paused.1 > 0 { None } else { Some(self.seen.tokens()) }
    }

    /// How fast it is beside what its model usually is.
    pub(super) const fn speed_percent(&self) -> u64 {
        if matches!(self.prompt.speed, Speed::Fast) { FAST_PERCENT } else { 100 }
    }

    /// How long it took to generate, at most; `None` where that says nothing of the model that was asked.
    pub(super) fn generated_in(&self, now: Timestamp) -> Option<SignedDuration> {
        self.sent.filter(|_| !self.other_speed && self.paused.1 == 0).map(|sent| now.duration_since(sent))
    }

    fn out_of_sight(&self, time: SignedDuration) -> u64 {
        let percent = self.speed_percent();
        u64::try_from(time.as_millis()).unwrap_or(0).saturating_mul(self.tokens_per_second.saturating_mul(percent)) / 100_000
    }

    /// Tokens generated so far, at most.
    fn output(&self, now: Timestamp) -> u64 {
        let counted = self.ended.saturating_add(self.block(now)).min(self.output_cap);
        counted.max(self.reported_output).max(self.seen.tokens_read())
    }

    /// What it has used so far, at most.
    pub(super) fn usage(&self, now: Timestamp) -> Usage {
        Usage { output: self.output(now), ..self.prompt }
    }

    /// What it has used when all of its `max_tokens` have come. Past them it may become twice as long again: in such steps it is written down.
    pub(super) fn usage_at_most(&self) -> Usage {
        let seen = self.seen.tokens_read();
        let past = if self.outgrew() { seen.checked_next_power_of_two().unwrap_or(seen) } else { 0 };
        Usage { output: self.output_cap.max(self.reported_output).max(past), ..self.prompt }
    }

    /// What it may have used if nothing more is heard of it: before a first word, all that can be generated in the time since it was sent.
    pub(super) fn usage_if_lost(&self, now: Timestamp) -> Usage {
        let unheard = self.sent.filter(|_| !self.prompt_known).map_or(0, |sent| self.out_of_sight(now.duration_since(sent)));
        Usage { output: self.output(now).max(unheard.min(self.output_cap)), ..self.prompt }
    }

    /// What that much costs, with what came before a pause.
    pub(super) fn cost_of(&self, price: &ModelPrice, usage: &Usage) -> Usd {
        self.paused.0 + self.prompt_cost + price.output_cost(&self.prompt, usage.output)
    }

    /// Tokens of the answer before a pause.
    pub(super) const fn tokens_before_pause(&self) -> u64 {
        self.paused.1
    }
}

/// How fast it generates at most.
fn ceiling_speed(price: &ModelPrice) -> u64 {
    let known = TOKENS_PER_SECOND.iter().find(|(family, _)| price.name.contains(family));
    known.map_or(TOKENS_PER_SECOND_OF_ANY, |(_, speed)| *speed)
}
