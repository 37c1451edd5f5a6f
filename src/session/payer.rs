//! Who is to pay, and who does: `[billing] expect` before the start, and every change while the session runs.

use std::sync::Arc;

use tokio::sync::mpsc::UnboundedSender;

use super::RunError;
use super::chronicle::Chronicle;
use super::lifecycle::{Input, StopCall};
use super::limits::DEFAULT_BUDGET;
use super::report::{Report, Reporter};
use crate::config::Payer;
use crate::meter::Meter;
use crate::model::{Billing, BillingKind, BudgetView, Event, Limit, LimitKind, StopReason, billing_changed};
use crate::proxy::PayerWatch;

/// Who asks for the stop, in the record.
const BY: &str = "billing";

/// Nothing is started where somebody else would pay than is expected. `from` says where the credential at hand comes from.
pub(super) fn refuse_another(expected: Option<Payer>, billing: &Billing, from: &str) -> Result<(), RunError> {
    match mismatch(expected, billing) {
        None => Ok(()),
        Some(why) => {
            let hint =
                format!("what is there is {from}; log in as expected, or change [billing] expect (`sentrely config` says who set it)");
            Err(RunError::words(format!("start: {why}"), Some(&hint)))
        }
    }
}

/// Records each change of who pays; one that is not expected is refused and stops the session.
pub(super) fn watch(
    expected: Option<Payer>,
    chronicle: Chronicle,
    inputs: UnboundedSender<Input>,
    reporter: Reporter,
    meter: Meter,
) -> PayerWatch {
    Arc::new(move |billing| {
        let before = chronicle.view().billing;
        if *billing != before {
            if billing.kind != before.kind || before.last4.is_some() {
                reporter(Report::Alarm(billing_changed(billing, &before)));
            }
            // A lost journal has told the session already.
            let _ = chronicle.record(Event::BillingChanged { billing: billing.clone(), before: before.clone() });
            limit_what_is_billed(&chronicle, &meter, before.kind, billing.kind);
        }
        let Some(why) = mismatch(expected, billing) else { return Ok(()) };
        let _ = inputs.send(Input::Stop(StopCall::own(StopReason::PolicyStop, BY, Some(why.clone()))));
        Err(why)
    })
}

/// A subscription has no limit in dollars; what is billed from now on has the default one.
fn limit_what_is_billed(chronicle: &Chronicle, meter: &Meter, before: BillingKind, now: BillingKind) {
    let budgets = meter.budgets();
    if before != BillingKind::Subscription || now == before || budgets.iter().any(|budget| budget.kind == LimitKind::Usd) {
        return;
    }
    let spent = meter.spent();
    let mut limits: Vec<Limit> = budgets.iter().filter_map(BudgetView::as_limit).collect();
    limits.push(Limit::Usd(spent.cost + DEFAULT_BUDGET));
    let budgets = limits.iter().map(|limit| BudgetView::of(*limit, &spent)).collect();
    // A lost journal has told the session already.
    let _ =
        chronicle.record(Event::LimitsSet { budgets, by: format!("{BY}: what was on a subscription is billed from here on"), from: None });
    meter.set_limits(limits);
}

fn mismatch(expected: Option<Payer>, billing: &Billing) -> Option<String> {
    let expected = expected.map(kind).filter(|expected| *expected != billing.kind)?;
    let found = match billing.kind {
        BillingKind::None => "no credential was found".to_owned(),
        _ => format!("{} would", with_article(&billing.words())),
    };
    Some(format!("[billing] expect wants {} to pay, and {found}", with_article(expected.words())))
}

const fn kind(payer: Payer) -> BillingKind {
    match payer {
        Payer::Key => BillingKind::Key,
        Payer::Subscription => BillingKind::Subscription,
        Payer::Bedrock => BillingKind::Bedrock,
        Payer::Vertex => BillingKind::Vertex,
    }
}

fn with_article(words: &str) -> String {
    format!("{} {words}", if words.starts_with('A') { "an" } else { "a" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_payer_than_expected_is_named_with_what_is_there() {
        let key = Billing { kind: BillingKind::Key, last4: Some("wxyz".into()) };
        assert!(refuse_another(None, &key, "").is_ok() && refuse_another(Some(Payer::Key), &key, "").is_ok());
        let error = refuse_another(Some(Payer::Subscription), &key, "ANTHROPIC_API_KEY in the environment").unwrap_err();
        let words = "start: [billing] expect wants a Claude subscription to pay, and an API key …wxyz would";
        assert_eq!((error.error.to_string().as_str(), error.code), (words, 125));
        assert!(error.hint.unwrap().starts_with("what is there is ANTHROPIC_API_KEY in the environment"));
        let nobody = Billing { kind: BillingKind::None, last4: None };
        let words = mismatch(Some(Payer::Key), &nobody).unwrap();
        assert_eq!(words, "[billing] expect wants an API key to pay, and no credential was found");
    }
}
