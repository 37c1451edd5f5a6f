//! Joining meter and proxy to the session: what is settled goes to the journal and the person, what the proxy tells becomes an input.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tokio::sync::Notify;

use super::alerting::Alarms;
use super::context::ContextWatch;
use super::grace::LastPart;
use super::lifecycle::{Input, StopCall};
use super::notices::{Audience, Notice};
use super::prepare::Prepared;
use super::report::{Report, Reporter};
use super::sharing::Sharing;
use super::workplace::Workplace;
use crate::config::{OnBudget, UnknownModels};
use crate::meter::{Booked, Crossing, Meter, Rules, Settlement};
use crate::model::{Event, Limit, LimitKind, SessionView, StopReason, show_duration, time_to_limit};
use crate::proxy::{ProxyEvent, Sink};

/// Called when a request was refused for a limit or an answer cut at it, with what the client was told.
pub(super) type Reached = Arc<dyn Fn(&str) + Send + Sync>;

/// The meter goes on where the journal ended; what an earlier attempt lost sight of is booked at its ceiling.
/// A settlement that goes above a limit stops the session there and then: nobody need ask for more first.
pub(super) fn meter(
    prepared: &Prepared,
    workplace: &Workplace,
    reporter: &Reporter,
    alarms: Alarms,
    context: ContextWatch,
    sharing: Option<Sharing>,
) -> (Meter, Reached) {
    let (chronicle, earlier) = (&workplace.chronicle, &workplace.earlier);
    let view = chronicle.view();
    let mut booked = Booked { cost: view.cost_usd, tokens: view.total_tokens(), requests: view.requests, ..Booked::default() };
    for record in earlier {
        match &record.event {
            Event::RequestAdmitted { request, .. } => booked.last_request = booked.last_request.max(request.0),
            Event::Threshold { limit, percent, shared: None } => {
                let told = booked.told.entry(*limit).or_insert(0);
                *told = (*told).max(*percent);
            }
            _ => {}
        }
    }
    let config = &prepared.request.config.budget;
    let rules = Rules {
        limits: prepared.limits.clone(),
        alert_at: config.alert_at.clone(),
        refuse_unknown_models: config.unknown_models == UnknownModels::Refuse,
    };
    let refuses = config.on_budget == OnBudget::Refuse;
    let told = (chronicle.clone(), Arc::clone(reporter), workplace.inside.clone(), alarms.clone(), sharing.clone());
    let cover = sharing.as_ref().map(Sharing::cover);
    let (chronicle, inputs, reporter) = (chronicle.clone(), workplace.inputs.clone(), Arc::clone(reporter));
    let inside = workplace.inside.clone();
    let last_part = Mutex::new(LastPart::default());
    let observer = move |settlement: &Settlement| {
        // A lost journal has told the session already.
        let (event, now) = (settled(settlement), Timestamp::now());
        let _ = chronicle.record_at(event.clone(), now);
        context.see(&event);
        let shared = sharing.as_ref().map(|sharing| sharing.settle(settlement.cost, settlement.under_way, now)).unwrap_or_default();
        if let Some(budgets) = shared.seen {
            let _ = chronicle.record(Event::SharedLimitsSeen { budgets });
        }
        let view = chronicle.view();
        for crossing in &settlement.crossed {
            let _ = chronicle.record(Event::Threshold { limit: crossing.limit, percent: crossing.percent, shared: None });
            let notice = alert(&view, *crossing);
            alarms.budget(crossing.percent, notice.text.trim_start_matches("sentrely: "));
            inside.post(notice);
            reporter(Report::Threshold { percent: crossing.percent, amount: amount(&view, crossing.limit) });
        }
        for (budget, percent) in &shared.crossed {
            let _ = chronicle.record(Event::Threshold { limit: budget.kind, percent: *percent, shared: budget.shared });
            let text = format!("{percent} % of the budget is used: {}", view.budget_words(budget));
            alarms.budget(*percent, &text);
            inside.post(Notice { audience: Audience::Person, text: format!("sentrely: {text}"), once_key: format!("{text} {now}") });
            reporter(Report::Threshold { percent: *percent, amount: view.budget_words(budget) });
        }
        if let Some(what) = last_part.lock().unwrap_or_else(PoisonError::into_inner).begins(&view.budgets) {
            let text = format!("sentrely: {what}");
            inside.post(Notice { audience: Audience::Person, once_key: text.clone(), text });
            reporter(Report::Notice(what.clone()));
            let _ = chronicle.record(Event::Notice { what });
        }
        if let Some(limit) = settlement.limit_passed {
            let note = format!("the budget of {limit} is used up: {} spent", used(&view, limit));
            let _ = inputs.send(Input::Stop(StopCall::own(StopReason::BudgetReached, "budget", Some(note))));
        }
        if let Some(note) = shared.passed {
            let _ = inputs.send(Input::Stop(StopCall::own(StopReason::BudgetReached, "budget", Some(note))));
        }
        reporter(Report::Spent(Box::new(view)));
    };
    let meter = Meter::new(prepared.prices.clone(), rules, booked, Arc::new(observer));
    // A raised limit re-arms the shares below it.
    meter.set_limits(prepared.limits.clone());
    if let Some(cover) = cover {
        meter.share(cover);
    }
    let (chronicle, reporter, inside, alarms, sharing) = told;
    let asked = meter.clone();
    // A stop tells for itself.
    let reached: Reached = Arc::new(move |why| {
        for Crossing { limit, percent } in if refuses { asked.met() } else { Vec::new() } {
            let _ = chronicle.record(Event::Threshold { limit, percent, shared: None });
            let view = chronicle.view();
            let text = format!("{why}; sentrely budget {} +… raises it", view.short_id);
            alarms.budget(percent, &text);
            reporter(Report::Alarm(text.clone()));
            let once_key = once_key(&view, limit, percent);
            inside.post(Notice { audience: Audience::Person, text: format!("sentrely: {text}"), once_key });
        }
        let now = Timestamp::now();
        for budget in sharing.iter().filter(|_| refuses).flat_map(|sharing| sharing.met(now)) {
            let _ = chronicle.record(Event::Threshold { limit: budget.kind, percent: 100, shared: budget.shared });
            alarms.budget(100, why);
            reporter(Report::Alarm(why.to_owned()));
            inside.post(Notice { audience: Audience::Person, text: format!("sentrely: {why}"), once_key: format!("{why} {now}") });
        }
    });
    (meter, reached)
}

fn once_key(view: &SessionView, limit: LimitKind, percent: u32) -> String {
    let of = view.budgets.iter().find(|budget| budget.kind == limit).map(|budget| budget.limit.as_str()).unwrap_or_default();
    format!("budget {percent} {limit:?} {of}")
}

/// What the person is told inside Claude Code. A raised limit is another one, whose shares are told again.
fn alert(view: &SessionView, crossing: Crossing) -> Notice {
    let Crossing { limit, percent } = crossing;
    let amount = amount(view, limit);
    let once_key = once_key(view, limit, percent);
    let pace = match time_to_limit(view) {
        Some(left) if percent < 100 => format!("; at this pace the limit is reached in {}", show_duration(left)),
        _ => String::new(),
    };
    Notice { audience: Audience::Person, text: format!("sentrely: {percent} % of the budget is used: {amount}{pace}"), once_key }
}

fn amount(view: &SessionView, kind: LimitKind) -> String {
    view.budgets.iter().find(|budget| budget.kind == kind).map(|budget| view.budget_words(budget)).unwrap_or_default()
}

fn used(view: &SessionView, limit: Limit) -> String {
    match limit {
        Limit::Usd(_) => view.cost_words(),
        _ => view.spent().of(limit.kind()).to_string(),
    }
}

fn settled(settlement: &Settlement) -> Event {
    Event::RequestSettled {
        request: settlement.request,
        thread: settlement.thread.clone(),
        model: settlement.model.clone(),
        usage: settlement.usage,
        cost: settlement.cost,
        estimated: settlement.estimated,
        lost: settlement.lost,
        message_id: settlement.message_id.clone(),
        window: settlement.window,
    }
}

/// What the proxy's events mean for the session.
pub(super) fn sink(
    workplace: &Workplace,
    reached: Reached,
    helper_wanted: Arc<Notify>,
    expects_sentinel: bool,
    context: ContextWatch,
) -> Sink {
    let (chronicle, inputs) = (workplace.chronicle.clone(), workplace.inputs.clone());
    Arc::new(move |event| match event {
        ProxyEvent::Journal(event @ (Event::Compaction { .. } | Event::ClaudeSession { .. })) => {
            chronicle.record(event.clone())?;
            context.see(&event);
            Ok(())
        }
        ProxyEvent::Journal(event) => chronicle.record(event),
        ProxyEvent::BudgetReached { why } => {
            reached(&why);
            let _ = inputs.send(Input::Stop(StopCall::own(StopReason::BudgetReached, "budget", Some(why))));
            Ok(())
        }
        ProxyEvent::CredentialRejected { .. } => {
            helper_wanted.notify_one();
            Ok(())
        }
        ProxyEvent::FirstRequest { custom_headers: false } if expects_sentinel => chronicle
            .record(Event::Notice { what: "the client did not apply sentrely's settings; it came to the proxy all the same".to_owned() }),
        ProxyEvent::FirstRequest { .. } => Ok(()),
    })
}
