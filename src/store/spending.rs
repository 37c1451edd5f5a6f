//! Bringing journals and ledger together: what was spent before there was a ledger, and what sessions that ended have come to.
//!
//! The journals are the truth, the ledger their sum by developer, project and machine. So it can be made from them, and a line that was never
//! written, because a process died in between, is written by whoever finds that it is missing.

use std::collections::BTreeMap;
use std::time::SystemTime;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::{LedgerError, LedgerFile, SessionDir, StateDir, read_index, read_journal};
use crate::meter::ledger::{Entry, Ledger, Member, spent_by_day};
use crate::model::{Record, SessionId, SessionView, Usd, utc_day};

impl Member {
    fn of(view: &SessionView) -> Self {
        Self { session: view.id, developer: view.developer.clone(), project: view.project.clone(), host: view.host.clone() }
    }
}

/// The month's ledger with all that was spent in the month. Where it is only begun now, what was spent before is read from the journals, and
/// for sessions whose journals are gone from the index.
pub fn open_ledger(state: &StateDir, day: Date) -> Result<LedgerFile, LedgerError> {
    let mut file = LedgerFile::open(state.path(), day)?;
    if !file.ledger().is_complete() {
        let before = spent_before(state, day);
        file.update(|ledger| (lines_of(ledger, before), ()))?;
    }
    file.compact()?;
    Ok(file)
}

/// The same as it would be, with nothing written.
pub fn read_ledger(state: &StateDir, day: Date) -> Result<Ledger, LedgerError> {
    let mut ledger = LedgerFile::find(state.path(), day)?.map(|file| file.ledger().clone()).unwrap_or_default();
    let lines = lines_of(&ledger, if ledger.is_complete() { Vec::new() } else { spent_before(state, day) });
    for line in lines {
        // A member's line goes before its others.
        let _ = ledger.apply(line);
    }
    Ok(ledger)
}

type Spending = (Member, BTreeMap<Date, Usd>);

/// Of sessions that take part already the ledger knows better.
fn lines_of(ledger: &Ledger, before: Vec<Spending>) -> Vec<Entry> {
    if ledger.is_complete() {
        return Vec::new();
    }
    let others = before.into_iter().filter(|(member, _)| !ledger.knows(member.session));
    others.flat_map(|(member, days)| ledger.settle(&member, &days)).chain([Entry::Complete]).collect()
}

/// What each session has spent in the month of `day`.
fn spent_before(state: &StateDir, day: Date) -> Vec<Spending> {
    let mut found = Vec::new();
    let begin = day.first_of_month().to_zoned(TimeZone::UTC).map_or(SystemTime::UNIX_EPOCH, |begin| begin.timestamp().into());
    for dir in state.session_dirs().unwrap_or_default() {
        let written = std::fs::metadata(dir.journal_file()).and_then(|meta| meta.modified());
        // One that was not written to in this month has nothing of it.
        if written.is_ok_and(|at| at >= begin)
            && let Ok(records) = read_journal(&dir.journal_file())
            && let Some(view) = SessionView::fold(&records)
        {
            found.push((Member::of(&view), spent_by_day(&records)));
        }
    }
    for view in read_index(state.path()).unwrap_or_default() {
        // Only its sum is left: it counts on the day on which it ended.
        if let Some(ended) = view.ended_at.filter(|_| !state.session(view.id).journal_file().exists()) {
            found.push((Member::of(&view), BTreeMap::from([(utc_day(ended), view.cost_usd)])));
        }
    }
    for (_, days) in &mut found {
        days.retain(|spent, _| spent.first_of_month() == day.first_of_month());
    }
    found
}

/// Books what a session that has ended comes to, in each month's ledger that there is: those that take no part in it count too.
pub fn book_ended(dir: &SessionDir, records: &[Record]) -> Result<(), LedgerError> {
    let Some(view) = SessionView::fold(records) else { return Ok(()) };
    let days = spent_by_day(records);
    let mut months: Vec<Date> = days.keys().map(|day| day.first_of_month()).collect();
    // It may hold something and have spent nothing.
    months.extend(view.ended_at.map(|at| utc_day(at).first_of_month()));
    months.sort_unstable();
    months.dedup();
    for month in months {
        let Some(mut file) = LedgerFile::find(dir.state(), month)? else { continue };
        let of_month = days.iter().filter(|(day, _)| day.first_of_month() == month).map(|(day, spent)| (*day, *spent)).collect();
        settle(&mut file, &Member::of(&view), &of_month)?;
    }
    Ok(())
}

/// The same from the session's journal, which is read only where there is a ledger at all.
pub fn book_session(dir: &SessionDir) -> Result<(), LedgerError> {
    let names = std::fs::read_dir(dir.state()).into_iter().flatten().flatten().map(|entry| entry.file_name());
    if names.into_iter().any(|name| name.to_str().is_some_and(|name| name.starts_with("ledger-")))
        && let Ok(records) = read_journal(&dir.journal_file())
    {
        book_ended(dir, &records)?;
    }
    Ok(())
}

/// What all sessions have spent of the limits that those of these sessions share which live: their own records know it as of their last
/// request.
pub(super) fn refresh_shared(state: &StateDir, views: &mut [SessionView], now: Timestamp) {
    let day = utc_day(now);
    let living = views.iter_mut().filter(|view| view.ended_at.is_none() && view.budgets.iter().any(|budget| budget.shared.is_some()));
    let mut ledger = None;
    for view in living {
        let read = || LedgerFile::find(state.path(), day).ok().flatten().map(|file| file.ledger().clone());
        let Some(ledger) = ledger.get_or_insert_with(read) else { return };
        let member = Member::of(view);
        for budget in &mut view.budgets {
            if let Some(limit) = budget.as_shared() {
                *budget = limit.view(ledger.spent(&member, limit.share, day));
            }
        }
    }
}

/// Books what sessions come to that hold something and live no more: whoever ended them could not write to the ledger.
pub fn settle_stale(state: &StateDir, file: &mut LedgerFile) -> Result<(), LedgerError> {
    for (id, held) in file.ledger().holders() {
        let dir = state.session(id);
        // What cannot be told may live.
        if dir.is_alive().unwrap_or(true) {
            continue;
        }
        match read_journal(&dir.journal_file()) {
            Ok(records) if has_ended(&records) => book_ended(&dir, &records)?,
            // It never got an end: the sweep writes it.
            Ok(records) if !records.is_empty() => {}
            // Nothing is left but what it held.
            _ => book_held(file, id, held)?,
        }
    }
    file.catch_up()
}

fn has_ended(records: &[Record]) -> bool {
    SessionView::fold(records).is_some_and(|view| view.ended_at.is_some())
}

fn book_held(file: &mut LedgerFile, session: SessionId, held: Usd) -> Result<(), LedgerError> {
    file.update(|ledger| {
        let line = ledger.last_of(session).map(|(day, spent)| Entry::At { session, day, spent: spent + held, held: Usd::ZERO });
        (line.into_iter().collect(), ())
    })
}

fn settle(file: &mut LedgerFile, member: &Member, days: &BTreeMap<Date, Usd>) -> Result<(), LedgerError> {
    // Nearly always it stands there already.
    if file.ledger().settle(member, days).is_empty() {
        return Ok(());
    }
    file.update(|ledger| (ledger.settle(member, days), ()))
}
