//! One request's hold: it follows the answer, and is settled or booked at what the answer may have cost.

use jiff::Timestamp;

use super::Meter;
use super::books::Held;
use super::estimate::LastPrompt;
use super::price::{Bill, ModelPrice, Reported};
use super::request::{Ask, Reach, Settlement, Verdict};
use super::running::Running;
use super::weigh::Text;
use crate::model::{RequestId, Thread, Usage, Usd};

/// Tokens that an answer grows by between two looks at it, at most.
const LOOK: u64 = 200;

/// The hold of one request. Settle it with what the API reports; dropped, it is [given up](Reservation::abandon).
#[must_use = "a reservation that is dropped is booked at what its answer may have cost"]
pub struct Reservation {
    pub(super) meter: Meter,
    pub(super) request: RequestId,
    pub(super) ask: Ask,
    /// The model as asked for; `ask.model` becomes the one that answered.
    pub(super) asked: String,
    pub(super) price: ModelPrice,
    pub(super) estimated: bool,
    /// The answer's events are seen as they come. If not, it is held at its ceiling until it is settled, and lost it is booked so.
    pub(super) followed: bool,
    /// The prompt's forecast and all of `max_tokens`.
    pub(super) ceiling: Held,
    /// What a crash books: as it was written down.
    pub(super) told: Held,
    pub(super) running: Running,
    pub(super) last_seen: Timestamp,
    /// What was held when somebody looked last.
    pub(super) last_held: Usd,
    pub(super) message_id: Option<String>,
    pub(super) done: bool,
}

impl Reservation {
    /// The request's number.
    pub const fn request(&self) -> RequestId {
        self.request
    }

    /// Its conversation.
    pub const fn thread(&self) -> &Thread {
        &self.ask.thread
    }

    /// The model asked for.
    pub fn model(&self) -> &str {
        &self.ask.model
    }

    /// The prompt's forecast and all of `max_tokens`, and the tokens of it.
    pub const fn ceiling(&self) -> (Usd, u64) {
        (self.ceiling.cost, self.ceiling.tokens)
    }

    /// What a crash books, which cannot know how much came of the answer: the prompt as dear as it can be and all of `max_tokens`, and the
    /// tokens of it.
    pub const fn crash_ceiling(&self) -> (Usd, u64) {
        (self.told.cost, self.told.tokens)
    }

    /// A higher [`Reservation::crash_ceiling`], if what is `reported` so far asks for one: a prompt of more than could be told from the
    /// request, what another turn or a search added. To be written down before more of the answer goes on.
    pub fn higher_ceiling(&mut self, reported: &Reported) -> Option<(Usd, u64)> {
        let whole = self.running.usage_at_most();
        let tokens = whole.total().saturating_add(self.running.tokens_before_pause());
        let bill = reported.bill(&self.price, &self.meter.0.prices, self.ask.place);
        let most = Held::sure(self.running.cost_of(&self.price, &whole), tokens).max(Held::sure(bill.cost, bill.usage.total()));
        if !most.exceeds(self.told) {
            return None;
        }
        self.told = self.told.max(most);
        Some(self.crash_ceiling())
    }

    /// Whether more of it was read than its `max_tokens`: its [ceiling](Reservation::higher_ceiling) is to be looked at again.
    pub const fn outgrew(&self) -> bool {
        self.running.outgrew()
    }

    /// `message_start` came: the prompt's true usage, and the answer's id.
    pub fn started(&mut self, usage: &Usage, message_id: Option<&str>, now: Timestamp) -> Verdict {
        self.running.prompt_known(&self.price, usage);
        self.message_id = message_id.map(str::to_owned);
        self.update(now)
    }

    /// The answer names the model that gives it: its price counts from here on. A cloud's answers name it bare, so what the place costs
    /// more is told by the id that was asked for; and a name of the user's own with a price of its own keeps that.
    pub fn answered_by(&mut self, model: &str) {
        if self.ask.model == model {
            return;
        }
        model.clone_into(&mut self.ask.model);
        let Some(mut found) = self.meter.0.prices.find_at(model, self.ask.place) else { return };
        self.running.answered_by(&found.price);
        if self.price.overridden && !found.price.overridden {
            return;
        }
        if !found.price.overridden {
            found.price.percent = found.price.percent.max(self.price.percent);
        }
        (self.price, self.estimated) = (found.price, found.estimated);
    }

    /// It leaves now. If nothing is ever heard of it, all that can be generated until it is given up may have been.
    pub fn sent(&mut self, now: Timestamp) {
        self.running.sent(now);
    }

    /// So much more generated text went by.
    pub fn visible(&mut self, text: Text, now: Timestamp) -> Verdict {
        self.running.visible(text);
        self.update(now)
    }

    /// What is generated is not seen from here on (`true`), or is seen again.
    pub fn hidden(&mut self, open: bool, now: Timestamp) -> Verdict {
        self.running.hidden(open, now);
        self.update(now)
    }

    /// A block of the answer ended: what it was counted as stays.
    pub fn block_ended(&mut self, now: Timestamp) -> Verdict {
        self.running.block_ended(now);
        self.update(now)
    }

    /// The answer paused, with this usage for itself; what follows is reported apart.
    pub fn paused(&mut self, usage: &Usage) {
        self.running.paused(&self.price, usage);
    }

    /// Time passed: hidden output counts by the clock.
    pub fn tick(&mut self, now: Timestamp) -> Verdict {
        self.update(now)
    }

    /// The answer is complete: books what the API reports. `model` is the one that answered.
    pub fn settle(mut self, reported: impl Into<Reported>, model: Option<&str>, message_id: Option<&str>, now: Timestamp) -> Settlement {
        if let Some(model) = model {
            self.answered_by(model);
        }
        if message_id.is_some() {
            self.message_id = message_id.map(str::to_owned);
        }
        let reported = reported.into();
        if let Some(time) = self.running.generated_in(now).filter(|_| reported.parts.is_empty()) {
            self.meter.lock().memory.generated(&self.asked, reported.usage.output, time, self.running.speed_percent());
        }
        if let Some(weighed) = self.running.seen_whole().filter(|_| reported.parts.is_empty()) {
            self.meter.lock().memory.weighed(&self.asked, weighed, reported.usage.output);
        }
        let Bill { cost, usage, estimated } = reported.bill(&self.price, &self.meter.0.prices, self.ask.place);
        self.estimated |= estimated;
        self.finish(usage, cost, false, now)
    }

    /// The upstream answered without any use of the model (an error, say): books nothing.
    pub fn release(mut self, now: Timestamp) -> Settlement {
        let usage = Usage::default();
        self.finish(usage, Usd::ZERO, false, now)
    }

    /// Nothing of the answer can be understood until it is settled, if ever: from here on it counts whole.
    pub fn blind(&mut self, now: Timestamp) -> Verdict {
        self.followed = false;
        self.update(now)
    }

    /// Gives the answer up: books what was seen of it and what may have been generated out of sight; all that it could have become if
    /// nobody could see it.
    pub fn abandon(mut self, now: Timestamp) -> Settlement {
        self.give_up(now)
    }

    fn give_up(&mut self, now: Timestamp) -> Settlement {
        let seen = self.running.usage_if_lost(now);
        let mut usage = if self.followed { seen } else { Usage { output: self.ask.max_tokens.max(seen.output), ..seen } };
        let cost = self.running.cost_of(&self.price, &usage);
        let earlier = self.running.tokens_before_pause();
        usage.input = usage.input.saturating_add(earlier);
        usage.outside_context = earlier;
        self.finish(usage, cost, true, now)
    }

    fn update(&mut self, now: Timestamp) -> Verdict {
        self.last_seen = now;
        let usage = self.running.usage(now);
        let tokens = usage.total().saturating_add(self.running.tokens_before_pause());
        let doubt_tokens = self.running.doubt(now);
        let doubt = self.price.output_cost(&usage, doubt_tokens);
        let held = Held { cost: self.running.cost_of(&self.price, &usage), tokens, doubt, doubt_tokens };
        let mut state = self.meter.lock();
        let held = if self.followed { held } else { held.max(self.ceiling) };
        state.open.insert(self.request, held);
        let sum = state.held();
        if state.reached(sum) {
            state.uncovered = None;
            return Verdict::Cut;
        }
        let grown = held.cost.saturating_sub(std::mem::replace(&mut self.last_held, held.cost));
        let Some(cover) = self.meter.0.cover.get() else { return Verdict::Continue };
        // As fast as it grew it may grow on; not as its prompt did, whose truth came at once.
        let margin = grown.min(self.price.output_cost(&usage, LOOK));
        match cover(Reach { total: state.reached_with(Usd::ZERO), margin, begins: false, now }) {
            Ok(()) => Verdict::Continue,
            Err(why) => {
                state.uncovered = Some(why.to_string());
                Verdict::Cut
            }
        }
    }

    fn finish(&mut self, usage: Usage, cost: Usd, lost: bool, now: Timestamp) -> Settlement {
        self.done = true;
        let mut state = self.meter.lock();
        let estimated = self.estimated || lost;
        // As the session's view counts them: an answer that used nothing is an upstream error.
        let crossed = state.book(self.request, cost, usage.total(), usage.total() > 0 || estimated);
        let under_way = state.reached_with(Usd::ZERO).saturating_sub(state.booked.cost);
        let limit_passed = state.passed().filter(|_| cost > Usd::ZERO || usage.total() > 0);
        // A forecast says nothing about the next prompt.
        let prompt_known = !lost || self.running.knows_prompt();
        let asked = (lost && self.ask.streamed).then(|| self.ask.shape.outline.digest());
        state.memory.lost(&self.ask.thread, asked);
        if prompt_known {
            state.memory.answered(&self.ask.thread, &self.asked, LastPrompt { usage, shape: self.ask.shape.clone(), at: now });
        }
        drop(state);
        let settlement = Settlement {
            request: self.request,
            thread: self.ask.thread.clone(),
            model: self.ask.model.clone(),
            usage,
            cost,
            under_way,
            estimated,
            lost,
            message_id: self.message_id.clone(),
            // A guessed price says nothing about the window.
            window: self.price.window_with(&self.ask.betas).filter(|_| !self.estimated),
            crossed,
            limit_passed,
        };
        (self.meter.0.observer)(&settlement);
        settlement
    }
}

impl Drop for Reservation {
    /// What we lost sight of is charged at what it may have cost, never at zero (invariant I3).
    fn drop(&mut self) {
        if !self.done {
            self.give_up(self.last_seen);
        }
    }
}
