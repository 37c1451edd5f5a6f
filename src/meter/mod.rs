//! The meter: what is spent, what is held, and whether one more request fits. Pure: no I/O, no clock; "now" is an argument.
//!
//! [`Meter::reserve`] gives a [`Reservation`] or a [`Refusal`]. A reservation follows its answer and is settled with what the API
//! reports. One that is lost books the most that it may have cost (invariant I3): of a stream that could be followed what was seen of it,
//! with the prompt's forecast until its truth is known and with hidden output counted by the clock; of any other answer its whole ceiling,
//! which is the prompt and all of `max_tokens`. Both ways the observer given to [`Meter::new`] is told, so nothing that was let through is ever forgotten.
//! A crash, after which nobody can say what was seen, books what was written down before the request left: [`Reservation::crash_ceiling`], the
//! prompt as dense as no text is and all of `max_tokens`. Where an answer turns out to cost more, that is written down before it goes on.

pub mod anatomy;
mod books;
pub mod context;
mod estimate;
pub mod idle;
pub mod ledger;
pub mod loops;
mod memory;
mod outline;
pub mod price;
pub mod quota;
mod request;
mod reservation;
mod running;
mod weigh;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use jiff::Timestamp;

pub use self::books::{Booked, Rules};
use self::books::{Held, State};
pub use self::estimate::{Content, Shape};
use self::estimate::{dearest_prompt, forecast_prompt};
use self::memory::Memory;
pub use self::outline::{Outline, Part};
use self::price::{PriceTable, Prices};
pub use self::request::{Ask, Crossing, Reach, Refusal, Settlement, Uncovered, Verdict};
pub use self::reservation::Reservation;
use self::running::Running;
pub use self::weigh::{Text, Weigher};
use crate::model::{BudgetView, Limit, RequestId, Spent, Usage, Usd};

/// More output than any model gives; a request that asks for more is refused by the API.
const MAX_OUTPUT: u64 = 10_000_000;

/// Told of every settlement, in order, before the next request is admitted.
pub type Observer = Arc<dyn Fn(&Settlement) + Send + Sync>;

/// Asked before more than ever is under way, where limits are shared with other sessions: whether they cover it.
pub type Cover = Arc<dyn Fn(Reach) -> Result<(), Uncovered> + Send + Sync>;

/// A cheap handle on the session's meter.
#[derive(Clone)]
pub struct Meter(Arc<Shared>);

struct Shared {
    prices: Prices,
    observer: Observer,
    cover: OnceLock<Cover>,
    state: Mutex<State>,
}

impl Meter {
    /// A meter that begins with what was booked before.
    pub fn new(prices: impl Into<Prices>, rules: Rules, booked: Booked, observer: Observer) -> Self {
        let state = State { rules, booked, open: HashMap::new(), met: BTreeSet::new(), uncovered: None, memory: Memory::default() };
        Self(Arc::new(Shared { prices: prices.into(), observer, cover: OnceLock::new(), state: Mutex::new(state) }))
    }

    /// From here on its requests must be covered by limits that other sessions share. The first counts.
    pub fn share(&self, cover: Cover) {
        let _ = self.0.cover.set(cover);
    }

    /// Holds what the request may cost, or says why it may not be sent.
    pub fn reserve(&self, mut ask: Ask, now: Timestamp) -> Result<Reservation, Refusal> {
        ask.max_tokens = ask.max_tokens.min(MAX_OUTPUT);
        let mut state = self.lock();
        let Some(found) = self.0.prices.find_at(&ask.model, ask.place) else { return Err(Refusal::UnknownModel(ask.model)) };
        if found.estimated && state.rules.refuse_unknown_models {
            return Err(Refusal::UnknownModel(ask.model));
        }
        if !ask.streamed && state.memory.repeats_lost(&ask.thread, ask.shape.outline.digest()) {
            return Err(Refusal::UnstreamedRepeat);
        }
        let price = found.price;
        let last = state.memory.last_prompt(&ask.thread, &ask.model);
        let (prompt, dearest) = (forecast_prompt(&ask.shape, last, now), dearest_prompt(&ask.shape, last));
        let running = Running::new(&price, prompt, ask.max_tokens, state.memory.doubt_percent(&ask.model), state.memory.pace(&ask.model));
        // A streamed answer is cut in time; one that comes whole must fit whole.
        let whole = Usage { output: ask.max_tokens, ..prompt };
        let ceiling = Held::sure(price.cost(&whole), whole.total());
        let most = Usage { output: ask.max_tokens, ..dearest };
        let told = Held::sure(price.cost(&most), most.total()).max(ceiling);
        let held = if ask.streamed { Held::sure(price.cost(&prompt), prompt.total()) } else { ceiling };
        state.fits(held)?;
        if let Some(cover) = self.0.cover.get() {
            let total = state.reached_with(held.cost);
            cover(Reach { total, margin: Usd::ZERO, begins: true, now }).map_err(Refusal::Uncovered)?;
        }
        state.booked.last_request += 1;
        let request = RequestId(state.booked.last_request);
        state.open.insert(request, held);
        drop(state);
        Ok(Reservation {
            meter: self.clone(),
            request,
            asked: ask.model.clone(),
            followed: ask.streamed,
            ask,
            price,
            estimated: found.estimated,
            ceiling,
            told,
            running,
            last_seen: now,
            last_held: held.cost,
            message_id: None,
            done: false,
        })
    }

    /// Booked cost and tokens.
    pub fn booked(&self) -> (Usd, u64) {
        let state = self.lock();
        (state.booked.cost, state.booked.tokens)
    }

    /// What is booked.
    pub fn spent(&self) -> Spent {
        self.lock().booked.spent()
    }

    /// The limits with what is booked of each.
    pub fn budgets(&self) -> Vec<BudgetView> {
        let state = self.lock();
        let spent = state.booked.spent();
        state.rules.limits.iter().map(|limit| BudgetView::of(*limit, &spent)).collect()
    }

    /// The limits in force.
    pub fn limits(&self) -> Vec<Limit> {
        self.lock().rules.limits.clone()
    }

    /// Puts other limits in force; shares already told are told again only above the new limit's share.
    pub fn set_limits(&self, limits: Vec<Limit>) {
        let mut state = self.lock();
        state.rules.limits = limits;
        let told: Vec<_> = state.rules.limits.iter().map(|limit| (limit.kind(), state.share(*limit))).collect();
        for (kind, share) in told {
            if let Some(known) = state.booked.told.get_mut(&kind) {
                *known = (*known).min(share);
            }
        }
    }

    /// Why answers are cut, where it is not for a limit of its own.
    pub fn uncovered(&self) -> Option<String> {
        self.lock().uncovered.clone()
    }

    /// Limits that refused a request or cut an answer, each once until it is raised: what is booked may stay below it for good.
    pub fn met(&self) -> Vec<Crossing> {
        self.lock().tell_met()
    }

    /// The prices in force.
    pub fn prices(&self) -> &PriceTable {
        &self.0.prices
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere must not free the budget: the numbers are whole after every statement.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod overshoot;
#[cfg(test)]
mod tests;
