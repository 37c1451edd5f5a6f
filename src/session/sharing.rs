//! The limits that a session shares with others: what it may have under way is drawn from the ledger before it is spent.
//!
//! The meter asks ([`Sharing::cover`]) for each request and for each word of an answer; nearly always what the ledger granted last covers that
//! too, and no file is touched. What is settled goes to the journal first and then to the ledger ([`Sharing::settle`]), and with it goes back
//! what was granted and not used. Whatever fails in between, the session holds more there than it has spent, never less.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use jiff::civil::Date;
use tokio::sync::mpsc::UnboundedSender;

use super::lifecycle::{Input, StopCall};
use super::workplace::Workplace;
use super::{RunError, RunRequest, hinted};
use crate::config::{Budget, SharedLimits};
use crate::meter::ledger::{Entry, Lack, Ledger, Member, Need, spent_by_day};
use crate::meter::{Cover, Reach, Uncovered};
use crate::model::{BudgetView, EXIT_BUDGET, Period, Record, Scope, Share, SharedLimit, StopReason, Usd, utc_day};
use crate::store::{LedgerError, LedgerFile, StateDir, open_ledger, read_ledger, settle_stale};

/// The limits of a session to be, and what is spent of them.
#[derive(Debug, Clone)]
pub(super) struct Shares {
    member: Member,
    limits: Vec<SharedLimit>,
    /// What is spent of each.
    used: Vec<Usd>,
}

impl Shares {
    /// Looks them up; a limit that is used up starts nothing. Nothing is written, and where no limit is shared nothing is read.
    pub(super) fn look(request: &RunRequest, member: Member, now: Timestamp) -> Result<Self, RunError> {
        let limits = shared_limits(&request.config.budget);
        let mut used = Vec::new();
        if !limits.is_empty() {
            let day = utc_day(now);
            let ledger = read_ledger(&request.state, day).map_err(|error| hinted!(error))?;
            used = limits.iter().map(|limit| ledger.spent(&member, limit.share, day)).collect();
            if let Some((limit, used)) = limits.iter().zip(&used).find(|(limit, used)| **used >= limit.amount) {
                let lack = Lack { limit: *limit, used: *used, free_on: limit.share.period.end(day) };
                let key = match limit.share.period {
                    Period::Day => "budget.day",
                    Period::Month => "budget.month",
                };
                let error =
                    RunError::words(format!("start a session: {lack}"), Some(&format!("`sentrely config` shows where {key} is set")));
                return Err(RunError { code: EXIT_BUDGET, ..error });
            }
        }
        Ok(Self { member, limits, used })
    }

    /// The limits with what is spent of them.
    pub(super) fn views(&self) -> Vec<BudgetView> {
        self.limits.iter().zip(&self.used).map(|(limit, used)| limit.view(*used)).collect()
    }

    /// For the banner: `; of the limits shared with other sessions $3.10 of the developer's $20.00 a day`.
    pub(super) fn words(&self) -> String {
        let words: Vec<String> = self.views().iter().map(BudgetView::words).collect();
        if words.is_empty() { String::new() } else { format!("; shared: {}", words.join(", ")) }
    }
}

fn shared_limits(budget: &Budget) -> Vec<SharedLimit> {
    let of = |period, limits: &SharedLimits| {
        let scopes = [(Scope::Developer, limits.developer), (Scope::Project, limits.project), (Scope::Machine, limits.machine)];
        scopes.into_iter().filter_map(move |(scope, amount)| Some(SharedLimit { share: Share { scope, period }, amount: amount? }))
    };
    of(Period::Day, &budget.day).chain(of(Period::Month, &budget.month)).collect()
}

/// A cheap handle on the session's part in the ledger.
#[derive(Clone)]
pub(super) struct Sharing(Arc<Shared>);

struct Shared {
    state: StateDir,
    member: Member,
    limits: Vec<SharedLimit>,
    alert_at: Vec<u32>,
    inputs: UnboundedSender<Input>,
    books: Mutex<Books>,
}

struct Books {
    file: LedgerFile,
    /// The first day of the file's month.
    month: Date,
    /// What the session has spent, by days.
    days: BTreeMap<Date, Usd>,
    /// The same in all.
    settled: Usd,
    /// What the ledger grants it beyond that.
    held: Usd,
    /// The highest share that was told of each limit, by the day on which its period began.
    told: BTreeMap<(Share, Date), u32>,
    /// Limits that refused something since somebody asked.
    met: BTreeSet<Share>,
    /// The percents that were shown last.
    shown: Vec<u32>,
    /// The session was told that the ledger cannot be used.
    lost: bool,
}

/// What comes of a settlement.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Settled {
    /// Shares that were passed.
    pub(super) crossed: Vec<(BudgetView, u32)>,
    /// All limits, where a percent is another one than before.
    pub(super) seen: Option<Vec<BudgetView>>,
    /// A limit that all together are above.
    pub(super) passed: Option<String>,
}

impl Sharing {
    /// Takes part in the ledger; `None` where no limit is shared. What earlier attempts have spent is brought up to their journal.
    pub(super) fn join(shares: &Shares, request: &RunRequest, workplace: &Workplace, now: Timestamp) -> Result<Option<Self>, RunError> {
        if shares.limits.is_empty() {
            return Ok(None);
        }
        let alert_at = request.config.budget.alert_at.clone();
        let inputs = workplace.inputs.clone();
        let joined = Self::open(request.state.clone(), shares, alert_at, inputs, &workplace.earlier, now);
        joined.map(Some).map_err(|error| hinted!(error))
    }

    fn open(
        state: StateDir,
        shares: &Shares,
        alert_at: Vec<u32>,
        inputs: UnboundedSender<Input>,
        earlier: &[Record],
        now: Timestamp,
    ) -> Result<Self, LedgerError> {
        let day = utc_day(now);
        let (member, limits) = (shares.member.clone(), shares.limits.clone());
        let mut file = open_ledger(&state, day)?;
        settle_stale(&state, &mut file)?;
        let days = spent_by_day(earlier);
        file.update(|ledger| (introduction(&member, ledger, &days, day), ()))?;
        let percents = percents(file.ledger(), &member, &limits, day);
        // What was passed before this session began is not its news.
        let told = limits.iter().zip(&percents).map(|(limit, percent)| ((limit.share, limit.share.period.begin(day)), *percent)).collect();
        let books = Books {
            file,
            month: day.first_of_month(),
            settled: days.values().copied().sum(),
            days,
            held: Usd::ZERO,
            told,
            met: BTreeSet::new(),
            shown: percents,
            lost: false,
        };
        Ok(Self(Arc::new(Shared { state, member, limits, alert_at, inputs, books: Mutex::new(books) })))
    }

    /// What the meter asks.
    pub(super) fn cover(&self) -> Cover {
        let sharing = self.clone();
        Arc::new(move |reach| sharing.covers(reach))
    }

    fn covers(&self, reach: Reach) -> Result<(), Uncovered> {
        let mut books = self.lock();
        let need = Need { under_way: reach.total.saturating_sub(books.settled), margin: reach.margin };
        if !reach.begins && need.under_way + need.margin <= books.held {
            return Ok(());
        }
        match self.draw(&mut books, need, utc_day(reach.now)) {
            Ok(Ok(held)) => {
                books.held = held;
                Ok(())
            }
            Ok(Err(lack)) => {
                books.met.insert(lack.limit.share);
                Err(Uncovered::Lack(lack))
            }
            Err(error) => Err(Uncovered::Unknown(self.failed(&mut books, error, reach.begins))),
        }
    }

    fn draw(&self, books: &mut Books, need: Need, day: Date) -> Result<Result<Usd, Lack>, LedgerError> {
        self.turn_to(books, day)?;
        let Books { file, days, .. } = books;
        file.update(|ledger| match ledger.grant(&self.0.member, &self.0.limits, day, need) {
            Ok(held) => (self.lines(ledger, days, day, held), Ok(held)),
            Err(lack) => (Vec::new(), Err(lack)),
        })
    }

    /// Books what a request came to, and holds what the others still come to.
    pub(super) fn settle(&self, cost: Usd, under_way: Usd, now: Timestamp) -> Settled {
        let mut books = self.lock();
        let day = utc_day(now);
        books.settled += cost;
        *books.days.entry(day).or_default() += cost;
        books.held = under_way;
        if let Err(error) = self.write(&mut books, day) {
            // The file says that more is held than was spent: nothing is lost but what others could have had.
            self.failed(&mut books, error, false);
            return Settled::default();
        }
        self.told(&mut books, day, cost > Usd::ZERO)
    }

    fn write(&self, books: &mut Books, day: Date) -> Result<(), LedgerError> {
        self.turn_to(books, day)?;
        let Books { file, days, held, .. } = books;
        file.update(|ledger| (self.lines(ledger, days, day, *held), ()))
    }

    fn told(&self, books: &mut Books, day: Date, spends: bool) -> Settled {
        let Shared { member, limits, alert_at, .. } = &*self.0;
        let mut settled = Settled::default();
        let views = views(books.file.ledger(), member, limits, day);
        for (limit, view) in limits.iter().zip(&views) {
            let told = books.told.entry((limit.share, limit.share.period.begin(day))).or_insert(0);
            let mut passed: Vec<u32> = alert_at.iter().copied().filter(|at| *at > *told && *at <= view.percent).collect();
            passed.sort_unstable();
            *told = (*told).max(view.percent);
            settled.crossed.extend(passed.into_iter().map(|percent| (view.clone(), percent)));
            let used = books.file.ledger().spent(member, limit.share, day);
            if used > limit.amount && spends {
                settled.passed = Some(format!("{} is used up: {} spent", limit.named(), used.show()));
            }
        }
        let percents: Vec<u32> = views.iter().map(|view| view.percent).collect();
        if percents != books.shown {
            books.shown = percents;
            settled.seen = Some(views);
        }
        settled
    }

    /// The limits with what is spent of them now.
    pub(super) fn views(&self, now: Timestamp) -> Vec<BudgetView> {
        let mut books = self.lock();
        // What was read last is as good as it gets.
        let _ = books.file.catch_up();
        views(books.file.ledger(), &self.0.member, &self.0.limits, utc_day(now))
    }

    /// Limits that refused a request or cut an answer, each once in its period.
    pub(super) fn met(&self, now: Timestamp) -> Vec<BudgetView> {
        let met = std::mem::take(&mut self.lock().met);
        let views = self.views(now);
        let mut books = self.lock();
        let begin = |share: Share| share.period.begin(utc_day(now));
        let first = |share: &Share| books.told.insert((*share, begin(*share)), 100).is_none_or(|told| told < 100);
        let met: Vec<Share> = met.into_iter().filter(first).collect();
        views.into_iter().filter(|view| view.shared.is_some_and(|share| met.contains(&share))).collect()
    }

    /// Goes on in the ledger of the day's month.
    fn turn_to(&self, books: &mut Books, day: Date) -> Result<(), LedgerError> {
        if day.first_of_month() == books.month {
            return Ok(());
        }
        let session = self.0.member.session;
        // What is under way is held in the new one; the old one is history.
        let closed = books.file.update(|ledger| {
            let line = ledger.last_of(session).map(|(day, spent)| Entry::At { session, day, spent, held: Usd::ZERO });
            (line.into_iter().collect(), ())
        });
        drop(closed);
        books.file = open_ledger(&self.0.state, day)?;
        books.month = day.first_of_month();
        Ok(())
    }

    /// The lines that say where the session stands.
    fn lines(&self, ledger: &Ledger, days: &BTreeMap<Date, Usd>, day: Date, held: Usd) -> Vec<Entry> {
        let Member { session, .. } = self.0.member;
        // One that was moved away and begun anew does not know us.
        let mut lines = if ledger.knows(session) { Vec::new() } else { introduction(&self.0.member, ledger, days, day) };
        lines.push(Entry::At { session, day, spent: days.get(&day).copied().unwrap_or_default(), held });
        lines
    }

    /// Stops the session where that is not a matter of a moment; says why nothing may be spent.
    fn failed(&self, books: &mut Books, error: LedgerError, may_ask_again: bool) -> String {
        let may_ask_again = may_ask_again && error.is_busy();
        let why = format!("{:#}", anyhow::Error::new(error));
        if !may_ask_again && !std::mem::replace(&mut books.lost, true) {
            let note = Some(format!("the ledger of shared limits: failed to {why}"));
            let _ = self.0.inputs.send(Input::Stop(StopCall::own(StopReason::JournalLost, "ledger", note)));
        }
        format!("the limits shared with other sessions cannot be kept ({why})")
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.0.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a session says first in a month's ledger.
fn introduction(member: &Member, ledger: &Ledger, days: &BTreeMap<Date, Usd>, day: Date) -> Vec<Entry> {
    let of_month = days.iter().filter(|(spent, _)| spent.first_of_month() == day.first_of_month());
    let of_month = of_month.map(|(day, spent)| (*day, *spent)).collect();
    let mut lines = ledger.settle(member, &of_month);
    lines.retain(|line| !matches!(line, Entry::Member(_)));
    lines.insert(0, Entry::Member(member.clone()));
    lines
}

fn views(ledger: &Ledger, member: &Member, limits: &[SharedLimit], day: Date) -> Vec<BudgetView> {
    limits.iter().map(|limit| limit.view(ledger.spent(member, limit.share, day))).collect()
}

fn percents(ledger: &Ledger, member: &Member, limits: &[SharedLimit], day: Date) -> Vec<u32> {
    views(ledger, member, limits, day).iter().map(|view| view.percent).collect()
}

#[cfg(test)]
#[path = "sharing/tests.rs"]
mod tests;
