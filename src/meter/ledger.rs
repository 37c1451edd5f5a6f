//! The ledger of the limits that sessions share: what each session has spent on which day and what it holds, folded from lines. Pure.
//!
//! A line says where one session stands, not what changed: read twice, or written once more after a crash, it says the same. What a session
//! holds is the most that its requests under way may come to; it is raised before they pass it, so what all have spent and hold together is
//! never above a limit by more than a session's own forecasts are short of the truth.
//!
//! A request counts on the day (UTC) on which it is settled, one that a crash lost on the day on which it was let through.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::model::{Event, Period, Record, Scope, SessionId, Share, SharedLimit, Usd, utc_day};

/// What a session takes ahead of its need is one part in so many of what is left: 40 sessions hold no more than a tenth of it idle.
const AHEAD: u64 = 400;
/// It takes at least so much ahead: $0.0002, ten tokens of a dear model.
const LEAST_AHEAD: Usd = Usd::from_pico(200_000_000);

/// A session as the ledger knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Which.
    pub session: SessionId,
    /// Who is accountable for it.
    pub developer: String,
    /// What it works on.
    pub project: String,
    /// Where it runs.
    pub host: String,
}

impl Member {
    fn name(&self, scope: Scope) -> &str {
        match scope {
            Scope::Developer => &self.developer,
            Scope::Project => &self.project,
            Scope::Machine => &self.host,
        }
    }
}

/// One line of `ledger-2026-11.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Entry {
    /// A session takes part; before anything else of it.
    Member(Member),
    /// Where it stands: all that it has spent on this day, and what it holds beyond that now.
    At {
        /// Which.
        session: SessionId,
        /// The day.
        day: Date,
        /// Spent on it so far.
        spent: Usd,
        /// Held for what is under way.
        held: Usd,
    },
    /// What had been spent in the month before the ledger was begun is in it.
    Complete,
}

/// A line of a session that the ledger does not know.
#[derive(Debug, PartialEq, Eq)]
pub struct Stranger;

/// The folded lines of a month.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    accounts: HashMap<SessionId, Account>,
    sums: HashMap<(Scope, String), Sum>,
    complete: bool,
}

#[derive(Debug, Clone)]
struct Account {
    member: Member,
    sum: Sum,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Sum {
    days: BTreeMap<Date, Usd>,
    held: Usd,
}

impl Sum {
    fn spent(&self, period: Period, day: Date) -> Usd {
        match period {
            Period::Day => self.days.get(&day).copied().unwrap_or_default(),
            Period::Month => self.days.values().copied().sum(),
        }
    }

    fn add(&mut self, day: Date, spent: Usd) {
        *self.days.entry(day).or_default() += spent;
    }

    fn take(&mut self, day: Date, spent: Usd) {
        let known = self.days.entry(day).or_default();
        *known = known.saturating_sub(spent);
    }
}

/// What a session asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// What its requests under way come to.
    pub under_way: Usd,
    /// What they may come to before it looks again.
    pub margin: Usd,
}

/// A shared limit does not cover what is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lack {
    /// Which.
    pub limit: SharedLimit,
    /// What all its sessions have spent and the others hold.
    pub used: Usd,
    /// The first day on which it is free again.
    pub free_on: Date,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limit, used, free_on } = self;
        if *used >= limit.amount {
            write!(f, "{} is used up: {} spent or held; it is free again on {free_on} (UTC)", limit.named(), used.show())
        } else {
            let named = limit.named();
            write!(f, "{named} does not cover this request: {} spent or held; it is free again on {free_on} (UTC)", used.show())
        }
    }
}

impl Ledger {
    /// One more line.
    pub fn apply(&mut self, entry: Entry) -> Result<(), Stranger> {
        match entry {
            Entry::Complete => self.complete = true,
            Entry::Member(member) => {
                let known = self.accounts.remove(&member.session);
                let sum = known.map_or_else(Sum::default, |account| {
                    self.withdraw(&account);
                    account.sum
                });
                let account = Account { member, sum };
                self.deposit(&account);
                self.accounts.insert(account.member.session, account);
            }
            Entry::At { session, day, spent, held } => {
                let account = self.accounts.get_mut(&session).ok_or(Stranger)?;
                let (spent_before, held_before) = (account.sum.spent(Period::Day, day), account.sum.held);
                account.sum.days.insert(day, spent);
                account.sum.held = held;
                for scope in SCOPES {
                    let sum = self.sums.entry((scope, account.member.name(scope).to_owned())).or_default();
                    sum.take(day, spent_before);
                    sum.add(day, spent);
                    sum.held = sum.held.saturating_sub(held_before) + held;
                }
            }
        }
        Ok(())
    }

    fn withdraw(&mut self, account: &Account) {
        for scope in SCOPES {
            let sum = self.sums.entry((scope, account.member.name(scope).to_owned())).or_default();
            account.sum.days.iter().for_each(|(day, spent)| sum.take(*day, *spent));
            sum.held = sum.held.saturating_sub(account.sum.held);
        }
    }

    fn deposit(&mut self, account: &Account) {
        for scope in SCOPES {
            let sum = self.sums.entry((scope, account.member.name(scope).to_owned())).or_default();
            account.sum.days.iter().for_each(|(day, spent)| sum.add(*day, *spent));
            sum.held += account.sum.held;
        }
    }

    /// The fewest lines that say the same.
    pub fn lines(&self) -> Vec<Entry> {
        let of = |account: &Account| {
            let Account { member, sum } = account;
            let (session, held) = (member.session, sum.held);
            let days = sum.days.iter().map(|(day, spent)| Entry::At { session, day: *day, spent: *spent, held });
            [Entry::Member(member.clone())].into_iter().chain(days).collect::<Vec<_>>()
        };
        self.accounts.values().flat_map(of).chain(self.complete.then_some(Entry::Complete)).collect()
    }

    /// Whether what had been spent before it was begun is in it.
    pub const fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether a session takes part.
    pub fn knows(&self, session: SessionId) -> bool {
        self.accounts.contains_key(&session)
    }

    /// The sessions that hold something, each with what that is.
    pub fn holders(&self) -> Vec<(SessionId, Usd)> {
        let holding = self.accounts.values().filter(|account| account.sum.held > Usd::ZERO);
        holding.map(|account| (account.member.session, account.sum.held)).collect()
    }

    /// The last day that a session has a line of, and what it had spent on it.
    pub fn last_of(&self, session: SessionId) -> Option<(Date, Usd)> {
        self.accounts.get(&session)?.sum.days.last_key_value().map(|(day, spent)| (*day, *spent))
    }

    /// What all sessions that share a limit with this one have spent of it.
    pub fn spent(&self, member: &Member, share: Share, day: Date) -> Usd {
        self.sums.get(&(share.scope, member.name(share.scope).to_owned())).map_or(Usd::ZERO, |sum| sum.spent(share.period, day))
    }

    /// What a session may hold, which covers its need; or the limit that does not.
    ///
    /// It is a little more than the need while there is plenty, so that not every word of an answer is a line, and less and less of it the
    /// less is left.
    pub fn grant(&self, member: &Member, limits: &[SharedLimit], day: Date, need: Need) -> Result<Usd, Lack> {
        let own = self.accounts.get(&member.session).map_or(Usd::ZERO, |account| account.sum.held);
        let asked = need.under_way + need.margin;
        let mut granted = Usd::MAX;
        for limit in limits {
            let Share { scope, period } = limit.share;
            let sum = self.sums.get(&(scope, member.name(scope).to_owned()));
            let used = sum.map_or(Usd::ZERO, |sum| sum.spent(period, day) + sum.held.saturating_sub(own));
            let left = limit.amount.saturating_sub(used);
            if left == Usd::ZERO || asked > left {
                return Err(Lack { limit: *limit, used, free_on: period.end(day) });
            }
            let ahead = Usd::from_pico(left.saturating_sub(asked).pico() / AHEAD).max(LEAST_AHEAD);
            granted = granted.min((asked + ahead).min(left));
        }
        Ok(granted)
    }

    /// The lines that bring a session up to what its journal says of the days of this month, with nothing held. None where it stands there.
    pub fn settle(&self, member: &Member, days: &BTreeMap<Date, Usd>) -> Vec<Entry> {
        let session = member.session;
        let sum = self.accounts.get(&session).map(|account| account.sum.clone()).unwrap_or_default();
        // What was booked is not taken back.
        let differing = days.iter().filter(|(day, spent)| sum.spent(Period::Day, **day) < **spent);
        let mut lines: Vec<Entry> =
            differing.map(|(day, spent)| Entry::At { session, day: *day, spent: *spent, held: Usd::ZERO }).collect();
        if lines.is_empty()
            && sum.held > Usd::ZERO
            && let Some((day, spent)) = sum.days.last_key_value()
        {
            lines.push(Entry::At { session, day: *day, spent: *spent, held: Usd::ZERO });
        }
        if !lines.is_empty() && !self.knows(session) {
            lines.insert(0, Entry::Member(member.clone()));
        }
        lines
    }
}

const SCOPES: [Scope; 3] = [Scope::Developer, Scope::Project, Scope::Machine];

/// What a journal comes to by days: what was settled on the day of that, what an attempt that ended lost sight of at its ceiling (invariant
/// I3) on the day on which it was let through. What is under way in an attempt that goes on is not in it.
pub fn spent_by_day<'a>(records: impl IntoIterator<Item = &'a Record>) -> BTreeMap<Date, Usd> {
    let mut days: BTreeMap<Date, Usd> = BTreeMap::new();
    let mut open: HashMap<u64, (Date, Usd)> = HashMap::new();
    for record in records {
        match &record.event {
            Event::RequestAdmitted { request, ceiling, .. } => {
                open.insert(request.0, (utc_day(record.at), *ceiling));
            }
            Event::CeilingRaised { request, ceiling, .. } => {
                if let Some(open) = open.get_mut(&request.0) {
                    open.1 = *ceiling;
                }
            }
            Event::RequestSettled { request, cost, .. } => {
                open.remove(&request.0);
                *days.entry(utc_day(record.at)).or_default() += *cost;
            }
            Event::AttemptStarted { .. } | Event::AttemptEnded { .. } => {
                for (day, ceiling) in std::mem::take(&mut open).into_values() {
                    *days.entry(day).or_default() += ceiling;
                }
            }
            _ => {}
        }
    }
    days
}

#[cfg(test)]
#[path = "ledger/tests.rs"]
mod tests;
