//! What an answer costs, exactly: a dated table in the binary ([`table`]), overridable, and the rules of facts/PRICES.md.
//!
//! The rules are those that Claude Code 2.1.330 reckons by, so that its `total_cost_usd` and ours are the same number, with three
//! additions where the API bills what the client does not count: a compaction on the server's side, what a cloud's regional endpoint
//! costs more, and long prompts of older models on the clouds.

mod ids;
mod table;
#[cfg(test)]
mod tests;

use std::ops::Deref;
use std::sync::{Arc, LazyLock};

pub use self::ids::Place;
pub use self::table::{PriceError, PriceTable};
use crate::model::{Speed, Usage, Usd};

/// Prices of one kind of request, per token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// Uncached prompt.
    pub input: Usd,
    /// Generated tokens.
    pub output: Usd,
    /// Five-minute cache write.
    pub cache_write_5m: Usd,
    /// One-hour cache write.
    pub cache_write_1h: Usd,
    /// Cache read.
    pub cache_read: Usd,
}

/// One model's prices and sizes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelPrice {
    /// The table's name for it.
    pub name: String,
    /// The ordinary rates.
    pub rates: Rates,
    /// Fast mode's own rates.
    pub fast: Option<Rates>,
    /// Rates of a prompt above so many tokens; they hold for the whole request.
    pub long: Option<(u64, Rates)>,
    /// Context window in tokens.
    pub window: Option<u64>,
    /// The beta `context-1m-2025-08-07` widens the window to a million tokens.
    pub window_1m_beta: bool,
    /// The user's own entry, from `[prices."model"]`.
    pub overridden: bool,
    /// What tokens cost where they are generated, in percent of the rates: 110 at a cloud's regional endpoints.
    pub percent: u64,
}

/// A price table that is made when the first price is asked for: reading it takes as long as all else at a start.
#[derive(Clone)]
pub struct Prices(Arc<LazyLock<PriceTable, Box<dyn FnOnce() -> PriceTable + Send>>>);

/// A model's price as found: by name, or as the dearest that it could be.
#[derive(Debug, Clone)]
pub struct Found {
    /// What it costs at the place that was asked for.
    pub price: ModelPrice,
    /// The model is not in the table; this is the dearest of its family, else of all (facts/PRICES.md rule 6).
    pub estimated: bool,
}

/// What the API reports of an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reported {
    /// The usage block's own counts.
    pub usage: Usage,
    /// `usage.iterations`, and what else was generated for the same answer.
    pub parts: Vec<Part>,
}

/// One of several things that were generated for one answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// What it was.
    pub kind: PartKind,
    /// The model, where it is named.
    pub model: Option<String>,
    /// What it used.
    pub usage: Usage,
}

/// How a part relates to the usage block's own counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartKind {
    /// A turn of the model itself: counted in them.
    Message,
    /// Another model took over: the parts are what was used.
    Fallback,
    /// The conversation was compacted by the server: not counted in them.
    Compaction,
    /// A second model was asked for advice: not counted in them.
    Advisor,
    /// The answer before a pause, which is reported by itself: not counted in them.
    BeforePause,
}

/// What was reported, as it is booked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bill {
    /// What it costs.
    pub cost: Usd,
    /// All that was used, whichever part it was.
    pub usage: Usage,
    /// The price of a part is a guess.
    pub estimated: bool,
}

/// One web search.
const WEB_SEARCH: Usd = Usd::from_pico(10_000_000_000);

impl Prices {
    /// What `make` will give. It runs once, at the first use, wherever that is.
    pub fn made_by(make: impl FnOnce() -> PriceTable + Send + 'static) -> Self {
        Self(Arc::new(LazyLock::new(Box::new(make))))
    }
}

impl From<PriceTable> for Prices {
    fn from(table: PriceTable) -> Self {
        Self::made_by(|| table)
    }
}

impl Deref for Prices {
    type Target = PriceTable;

    fn deref(&self) -> &PriceTable {
        &self.0
    }
}

impl Rates {
    /// From dollars per million tokens.
    pub fn per_million(input: Usd, output: Usd, cache_write_5m: Usd, cache_write_1h: Usd, cache_read: Usd) -> Self {
        Self { input, output, cache_write_5m, cache_write_1h, cache_read }.map(|amount| Usd::from_pico(amount.pico() / 1_000_000))
    }

    /// Every rate in another measure.
    #[must_use]
    pub fn map(self, change: impl Fn(Usd) -> Usd) -> Self {
        Self {
            input: change(self.input),
            output: change(self.output),
            cache_write_5m: change(self.cache_write_5m),
            cache_write_1h: change(self.cache_write_1h),
            cache_read: change(self.cache_read),
        }
    }

    /// These rates, as much dearer or cheaper as `tier` is than `base`, kind by kind.
    fn in_proportion(&self, base: &Self, tier: &Self) -> Self {
        let share = |own: Usd, base: Usd, tier: Usd| {
            if base == Usd::ZERO {
                return own.max(tier);
            }
            // Upwards, if it does not come out even.
            let scaled = (u128::from(own.pico()) * u128::from(tier.pico())).div_ceil(u128::from(base.pico()));
            Usd::from_pico(u64::try_from(scaled).unwrap_or(u64::MAX))
        };
        Self {
            input: share(self.input, base.input, tier.input),
            output: share(self.output, base.output, tier.output),
            cache_write_5m: share(self.cache_write_5m, base.cache_write_5m, tier.cache_write_5m),
            cache_write_1h: share(self.cache_write_1h, base.cache_write_1h, tier.cache_write_1h),
            cache_read: share(self.cache_read, base.cache_read, tier.cache_read),
        }
    }

    fn cost(&self, usage: &Usage) -> Usd {
        self.input.times(usage.input)
            + self.output.times(usage.output)
            + self.cache_write_5m.times(usage.cache_write_5m)
            + self.cache_write_1h.times(usage.cache_write_1h)
            + self.cache_read.times(usage.cache_read)
    }
}

impl ModelPrice {
    /// What `usage` costs with this model, as one request.
    pub fn cost(&self, usage: &Usage) -> Usd {
        self.tokens_cost(usage, usage.us_only) + WEB_SEARCH.times(usage.web_searches)
    }

    /// What so much output costs after a prompt of this kind and size.
    pub fn output_cost(&self, prompt: &Usage, tokens: u64) -> Usd {
        let rates = self.rates_for(prompt.speed, prompt.prompt());
        self.placed(rates.output.times(tokens), prompt.us_only)
    }

    /// The rates of a request of this speed with a prompt of so many tokens.
    pub fn rates_for(&self, speed: Speed, prompt_tokens: u64) -> &Rates {
        match (speed, &self.fast, &self.long) {
            (Speed::Fast, Some(fast), _) => fast,
            (_, _, Some((above, long))) if prompt_tokens > *above => long,
            _ => &self.rates,
        }
    }

    /// The context window with these `anthropic-beta` values.
    pub fn window_with(&self, betas: &str) -> Option<u64> {
        if self.window_1m_beta && betas.contains("context-1m-2025-08-07") { Some(1_000_000) } else { self.window }
    }

    fn tokens_cost(&self, usage: &Usage, us_only: bool) -> Usd {
        self.placed(self.rates_for(usage.speed, usage.prompt()).cost(usage), us_only)
    }

    /// What a cost at list rates is where it arises: `inference_geo: "us"` is 1.1 times as much (rule 3), and so is a region.
    fn placed(&self, cost: Usd, us_only: bool) -> Usd {
        if !us_only && self.percent == 100 {
            return cost;
        }
        let percent = u128::from(self.percent) * if us_only { 110 } else { 100 };
        // Upwards, if it does not come out even: a price of the user's own may have more places.
        Usd::from_pico(u64::try_from((u128::from(cost.pico()) * percent).div_ceil(10_000)).unwrap_or(u64::MAX))
    }

    /// The usage block's own counts: by the turns they were made of where a long prompt has rates of its own, as each turn has a prompt
    /// of its own (rule 2).
    fn own_cost(&self, reported: &Reported) -> Usd {
        let whole = &reported.usage;
        let turns: Vec<Usage> = reported.parts.iter().filter(|part| part.kind == PartKind::Message).map(|part| part.usage).collect();
        let sum = |kind: fn(&Usage) -> u64| turns.iter().map(kind).fold(0, u64::saturating_add);
        let adds_up = sum(|turn| turn.input) == whole.input
            && sum(|turn| turn.output) == whole.output
            && sum(|turn| turn.cache_read) == whole.cache_read
            && sum(written) == written(whole);
        if self.long.is_none() || turns.is_empty() || !adds_up {
            return self.cost(whole);
        }
        // Hours that no turn claims belong to the first ones that do not say how their writes are split.
        let mut hours = whole.cache_write_1h.saturating_sub(sum(|turn| turn.cache_write_1h));
        let mut cost = WEB_SEARCH.times(whole.web_searches);
        for turn in turns {
            let moved = hours.min(turn.cache_write_5m);
            hours -= moved;
            let turn = Usage {
                cache_write_5m: turn.cache_write_5m - moved,
                cache_write_1h: turn.cache_write_1h + moved,
                speed: whole.speed,
                ..turn
            };
            cost += self.tokens_cost(&turn, whole.us_only);
        }
        cost
    }
}

const fn written(usage: &Usage) -> u64 {
    usage.cache_write_5m.saturating_add(usage.cache_write_1h)
}

impl From<Usage> for Reported {
    fn from(usage: Usage) -> Self {
        Self { usage, parts: Vec::new() }
    }
}

impl Reported {
    /// What it costs with `price`, the model's that answered; other models that had a part in it are looked up.
    pub fn bill(&self, price: &ModelPrice, table: &PriceTable, place: Place) -> Bill {
        let mut bill = Bill { cost: price.own_cost(self), usage: self.usage, estimated: false };
        let mut parts_cost = Usd::ZERO;
        for part in &self.parts {
            // Only the answer's own counts have its speed.
            let own_turn = matches!(part.kind, PartKind::Message | PartKind::Fallback);
            let speed = if own_turn { self.usage.speed } else { part.usage.speed };
            let usage = Usage { speed, us_only: self.usage.us_only, ..part.usage };
            let other = part.model.as_deref().and_then(|model| table.find_at(model, place));
            let cost = other.as_ref().map_or(price, |found| &found.price).cost(&usage);
            bill.estimated |= other.is_some_and(|found| found.estimated);
            parts_cost += cost;
            if !own_turn {
                bill.cost += cost;
                bill.usage += usage;
                bill.usage.outside_context = bill.usage.outside_context.saturating_add(usage.prompt());
            }
        }
        if self.parts.iter().any(|part| part.kind == PartKind::Fallback) {
            // Which of them the API bills is not known: the dearer way to reckon.
            bill.cost = bill.cost.max(parts_cost + WEB_SEARCH.times(self.usage.web_searches));
        }
        let turns = || self.parts.iter().filter(|part| matches!(part.kind, PartKind::Message | PartKind::Fallback));
        if turns().count() > 1
            && let Some(last) = turns().next_back()
        {
            bill.usage.outside_context += self.usage.prompt().saturating_sub(last.usage.prompt());
        }
        bill
    }
}
