//! Who looks at what the model and the agent do while they are at it: grace, loops, idle spending, payer, quota, and what the client's hooks ask.

use std::sync::Arc;

use jiff::Timestamp;

use super::super::alerting::Alarms;
use super::super::branch_advice::BranchAdvice;
use super::super::claude::hooks;
use super::super::loops::Breaker;
use super::super::notices::Notices;
use super::super::prepare::Prepared;
use super::super::report::Reporter;
use super::super::sharing::Sharing;
use super::super::workplace::Workplace;
use super::super::{RunError, grace, idle, payer, quota};
use super::record;
use crate::meter::idle::IdleRules;
use crate::meter::{Meter, loops};
use crate::model::{BillingKind, BudgetView, Event};
use crate::proxy::{AgentLimits, HookAnswerer, Proxy};

/// Sets them up, before the first request.
pub(super) fn watch(
    proxy: &Proxy,
    prepared: &Prepared,
    workplace: &mut Workplace,
    reporter: &Reporter,
    alarms: &Alarms,
    meter: &Meter,
    sharing: Option<&Sharing>,
) -> Result<(), RunError> {
    let chronicle = workplace.chronicle.clone();
    if let Some(copy) = &workplace.copy {
        let protected = workplace.protected.clone();
        let advice = BranchAdvice { branch: copy.branch.clone(), protected, root: copy.root.clone() };
        workplace.inside.set_rule("branches", Some(advice.rule()));
    }
    let budgets = all_budgets(meter, sharing);
    workplace.inside.set_rule("budget", Some(grace::rule(budgets)));
    let config = &prepared.request.config.loops;
    let rules = loops::Rules { same_call: config.same_call, within: config.within, failures: config.failures };
    let breaker = Breaker {
        inside: workplace.inside.clone(),
        chronicle: chronicle.clone(),
        alarms: alarms.clone(),
        inputs: workplace.inputs.clone(),
    };
    let turns = super::super::loops::watch(rules, breaker.clone());
    if let Some(copy) = &workplace.copy {
        let rules = IdleRules { spend: config.idle_spend, time: config.idle_time };
        workplace.tasks.push(idle::watch(rules, copy.root.clone(), meter.clone(), breaker));
    }
    proxy.limit_agents(AgentLimits { at_once: config.subagents, depth: config.subagent_depth });
    proxy.watch_turns(turns.map_err(|error| RunError::io(error, "start the loop breaker"))?);
    if prepared.billing.kind != BillingKind::Vertex {
        // Google's tokens come and go every hour, and say nothing about the project that pays.
        let expected = prepared.request.config.billing.expect;
        let watch = payer::watch(expected, chronicle.clone(), workplace.inputs.clone(), Arc::clone(reporter), meter.clone());
        proxy.watch_payer(watch);
        let (at, inside) = (&prepared.request.config.budget.alert_at, workplace.inside.clone());
        proxy.watch_quota(quota::watch(at, &workplace.earlier, chronicle.clone(), Arc::clone(reporter), inside, alarms.clone()));
    }
    proxy.answer_hooks(answerer(workplace.inside.clone()));
    if let Some(by) = prepared.claude.as_ref().and_then(|claude| hooks::switched_off(&claude.settings, &claude.args)) {
        record(&chronicle, Event::Notice { what: format!("nothing can be said inside Claude Code: its hooks are switched off ({by})") })?;
    }
    Ok(())
}

/// The session's own limits, and those that it shares with others.
pub(super) fn all_budgets(meter: &Meter, sharing: Option<&Sharing>) -> impl Fn() -> Vec<BudgetView> + Send + Sync + 'static {
    let (meter, sharing) = (meter.clone(), sharing.cloned());
    move || meter.budgets().into_iter().chain(sharing.iter().flat_map(|sharing| sharing.views(Timestamp::now()))).collect()
}

/// What the client's hooks are told.
fn answerer(inside: Notices) -> HookAnswerer {
    Arc::new(move |body| match hooks::read(body) {
        Some((question, event)) => hooks::write(&inside.ask(&question), &event),
        None => Vec::new(),
    })
}
