//! What is booked and what is held, against the limits.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::memory::Memory;
use super::request::{Crossing, Refusal};
use crate::model::{BudgetView, Limit, LimitKind, RequestId, Spent, Usd};

/// What was booked before, when a session is resumed.
#[derive(Debug, Clone, Default)]
pub struct Booked {
    /// Cost.
    pub cost: Usd,
    /// Tokens.
    pub tokens: u64,
    /// Requests.
    pub requests: u64,
    /// The last request's number.
    pub last_request: u64,
    /// The highest share already told, per limit.
    pub told: BTreeMap<LimitKind, u32>,
}

/// How the meter decides.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The session's limits.
    pub limits: Vec<Limit>,
    /// Shares of a limit to tell of, in percent.
    pub alert_at: Vec<u32>,
    /// Refuse models without a price.
    pub refuse_unknown_models: bool,
}

/// The meter's numbers.
pub(super) struct State {
    pub(super) rules: Rules,
    pub(super) booked: Booked,
    pub(super) open: HashMap<RequestId, Held>,
    /// Limits at which something was refused or cut since somebody asked.
    pub(super) met: BTreeSet<LimitKind>,
    /// Why answers were cut last, if it was for a limit that sessions share.
    pub(super) uncovered: Option<String>,
    pub(super) memory: Memory,
}

#[derive(Clone, Copy)]
pub(super) struct Held {
    /// What is held for it, or what it has cost so far if that is more.
    pub(super) cost: Usd,
    pub(super) tokens: u64,
    /// By how much more it may have cost: text that streams may be denser than it was counted.
    pub(super) doubt: Usd,
    pub(super) doubt_tokens: u64,
}

/// Doubts count up to this share of what is booked, which is exact. So, with text that weighs up to a quarter more than it is, nothing is
/// stopped that would have fitted with a fifth of the limit to spare.
const DOUBT_SHARE: u64 = 5;

impl Held {
    /// So much, beyond doubt.
    pub(super) const fn sure(cost: Usd, tokens: u64) -> Self {
        Self { cost, tokens, doubt: Usd::ZERO, doubt_tokens: 0 }
    }

    /// The more of both.
    pub(super) fn max(self, other: Self) -> Self {
        Self::sure(self.cost.max(other.cost), self.tokens.max(other.tokens))
    }

    /// Whether it is more of either.
    pub(super) const fn exceeds(self, other: Self) -> bool {
        self.cost.pico() > other.cost.pico() || self.tokens > other.tokens
    }
}

impl Booked {
    pub(super) const fn spent(&self) -> Spent {
        Spent { cost: self.cost, tokens: self.tokens, requests: self.requests }
    }
}

impl State {
    /// What is booked and what is held.
    pub(super) fn held(&self) -> Held {
        let booked = Held::sure(self.booked.cost, self.booked.tokens);
        self.open.values().fold(booked, |sum, open| Held {
            cost: sum.cost + open.cost,
            tokens: sum.tokens.saturating_add(open.tokens),
            doubt: sum.doubt + open.doubt,
            doubt_tokens: sum.doubt_tokens.saturating_add(open.doubt_tokens),
        })
    }

    /// What is to be reckoned with of it: with its doubts, as far as they count.
    fn reckoned(&self, held: Held) -> Held {
        let doubt = held.doubt.min(Usd::from_pico(self.booked.cost.pico() / DOUBT_SHARE));
        let doubt_tokens = held.doubt_tokens.min(self.booked.tokens / DOUBT_SHARE);
        Held::sure(held.cost + doubt, held.tokens.saturating_add(doubt_tokens))
    }

    /// What is booked and under way, with its doubts, and with so much more.
    pub(super) fn reached_with(&self, more: Usd) -> Usd {
        self.reckoned(self.held()).cost + more
    }

    /// Whether one more request fits, which needs this.
    pub(super) fn fits(&mut self, more: Held) -> Result<(), Refusal> {
        let held = self.reckoned(self.held());
        let requests = self.booked.requests.saturating_add(self.open.len() as u64);
        let held = Spent { cost: held.cost, tokens: held.tokens, requests };
        let more = Spent { cost: more.cost, tokens: more.tokens, requests: 1 };
        for limit in &self.rules.limits {
            let fits = match *limit {
                Limit::Usd(amount) => held.cost < amount && held.cost + more.cost <= amount,
                Limit::Tokens(count) => held.tokens < count && held.tokens.saturating_add(more.tokens) <= count,
                Limit::Requests(count) => held.requests < count,
            };
            if !fits {
                self.met.insert(limit.kind());
                let (used, forecast) = (held.of(limit.kind()).to_string(), more.of(limit.kind()).to_string());
                return Err(Refusal::Budget { limit: *limit, used, forecast });
            }
        }
        Ok(())
    }

    /// Whether running answers must be cut. The last request of a number comes to its end.
    pub(super) fn reached(&mut self, held: Held) -> bool {
        let held = self.reckoned(held);
        let reached = self.rules.limits.iter().find(|limit| match **limit {
            Limit::Usd(amount) => held.cost >= amount,
            Limit::Tokens(count) => held.tokens >= count,
            Limit::Requests(_) => false,
        });
        self.met.extend(reached.map(|limit| limit.kind()));
        reached.is_some()
    }

    /// The last share of the limits that were met, where it was not told yet.
    pub(super) fn tell_met(&mut self) -> Vec<Crossing> {
        let met = std::mem::take(&mut self.met);
        let told = &mut self.booked.told;
        let first = met.into_iter().filter(|kind| told.insert(*kind, 100).is_none_or(|known| known < 100));
        let crossings: Vec<_> = first.map(|limit| Crossing { limit, percent: 100 }).collect();
        if self.rules.alert_at.contains(&100) { crossings } else { Vec::new() }
    }

    /// A limit that what is booked is above.
    pub(super) fn passed(&self) -> Option<Limit> {
        self.rules.limits.iter().copied().find(|limit| match *limit {
            Limit::Usd(amount) => self.booked.cost > amount,
            Limit::Tokens(count) => self.booked.tokens > count,
            Limit::Requests(count) => self.booked.requests > count,
        })
    }

    pub(super) fn share(&self, limit: Limit) -> u32 {
        BudgetView::of(limit, &self.booked.spent()).percent
    }

    /// Books a request's end; one that `counts` is one of the requests.
    pub(super) fn book(&mut self, request: RequestId, cost: Usd, tokens: u64, counts: bool) -> Vec<Crossing> {
        self.open.remove(&request);
        self.booked.cost += cost;
        self.booked.tokens = self.booked.tokens.saturating_add(tokens);
        self.booked.requests += u64::from(counts);
        let mut crossed = Vec::new();
        for limit in self.rules.limits.clone() {
            let (kind, share) = (limit.kind(), self.share(limit));
            let told = self.booked.told.entry(kind).or_insert(0);
            let mut passed: Vec<u32> = self.rules.alert_at.iter().copied().filter(|at| *at > *told && *at <= share).collect();
            passed.sort_unstable();
            if let Some(highest) = passed.last() {
                *told = *highest;
            }
            crossed.extend(passed.into_iter().map(|percent| Crossing { limit: kind, percent }));
        }
        crossed
    }
}
