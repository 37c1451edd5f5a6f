//! What is spent, in words: the one place that says how money and tokens are shown.

use super::{Billing, BillingKind, BudgetView, Limit, LimitKind, SessionView, Usd};

impl BillingKind {
    /// What pays, in words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Key => "API key",
            Self::Subscription => "Claude subscription",
            Self::Bedrock => "AWS account, through Bedrock",
            Self::Vertex => "Google Cloud project, through Vertex",
            Self::None => "nobody: no credential for the model was found",
        }
    }
}

impl Billing {
    /// Who pays: `API key …a1b2`, `Claude subscription`.
    pub fn words(&self) -> String {
        let last4 = self.last4.as_ref().map(|last4| format!(" …{last4}")).unwrap_or_default();
        format!("{}{last4}", self.kind.words())
    }

    /// Who pays, and what that means for the prices that are shown.
    pub fn long_words(&self) -> String {
        let meaning = if self.kind == BillingKind::Subscription { format!(" (prices are {NOT_BILLED})") } else { String::new() };
        format!("{}{meaning}", self.words())
    }
}

/// What a price is on a subscription.
pub const NOT_BILLED: &str = "list price, not billed";

impl BudgetView {
    /// What is used of the limit: `$0.40 of $5.00`, `1.2M of 2M tokens`.
    pub fn words(&self) -> String {
        if let Some(limit) = self.as_shared() {
            return format!("{} of {limit}", self.used.parse::<Usd>().map(Usd::show).unwrap_or_default());
        }
        let Some(limit) = self.as_limit() else { return format!("{} of {}", self.used, self.limit) };
        let used = match limit {
            Limit::Usd(_) => self.used.parse::<Usd>().map(Usd::show).unwrap_or_default(),
            Limit::Tokens(_) => bare_count(self.used.parse().unwrap_or(0)),
            Limit::Requests(_) => self.used.clone(),
        };
        format!("{used} of {limit}")
    }
}

impl SessionView {
    /// What it cost: `$0.40`, `~$0.40` where some of it is an estimate, `$0.40 (list price, not billed)` on a subscription.
    pub fn cost_words(&self) -> String {
        format!("{}{}", self.marked(&self.cost_usd.show()), self.unbilled())
    }

    /// What is used of one of its limits, with the same marks: `~$0.40 of $5.00`, `1.2M of 2M tokens`.
    pub fn budget_words(&self, budget: &BudgetView) -> String {
        match budget.kind {
            // Of other sessions it is not known how exact they are.
            LimitKind::Usd if budget.shared.is_some() => format!("{}{}", budget.words(), self.unbilled()),
            LimitKind::Usd => format!("{}{}", self.marked(&budget.words()), self.unbilled()),
            _ => budget.words(),
        }
    }

    /// What it cost and used of its own limits, what counts for whoever pays first: dollars, or on a subscription tokens. `share` makes of each limit its
    /// share too: `$0.40 of $5.00 (8 %), 1.2M of 2M tokens (60 %)`.
    pub fn spent_words(&self, share: bool) -> String {
        let own = || self.budgets.iter().filter(|budget| budget.shared.is_none());
        let of = |wanted: LimitKind| own().filter(move |budget| budget.kind == wanted);
        let told = |budget: &BudgetView| {
            let share = if share { format!(" ({} %)", budget.percent) } else { String::new() };
            format!("{}{share}", self.budget_words(budget))
        };
        let mut dollars: Vec<String> = of(LimitKind::Usd).map(told).collect();
        if dollars.is_empty() {
            dollars.push(self.cost_words());
        }
        let mut tokens: Vec<String> = of(LimitKind::Tokens).map(told).collect();
        let others = own().filter(|budget| !matches!(budget.kind, LimitKind::Usd | LimitKind::Tokens)).map(told);
        if self.billing.kind == BillingKind::Subscription {
            if tokens.is_empty() {
                tokens.push(Limit::Tokens(self.total_tokens()).to_string());
            }
            return tokens.into_iter().chain(dollars).chain(others).collect::<Vec<_>>().join(", ");
        }
        dollars.into_iter().chain(tokens).chain(others).collect::<Vec<_>>().join(", ")
    }

    fn marked(&self, words: &str) -> String {
        format!("{}{words}", if self.cost_estimated { "~" } else { "" })
    }

    fn unbilled(&self) -> String {
        unbilled(self.billing.kind)
    }
}

/// What stands after an amount that this pays for: on a subscription ` (list price, not billed)`.
pub fn unbilled(kind: BillingKind) -> String {
    if kind == BillingKind::Subscription { format!(" ({NOT_BILLED})") } else { String::new() }
}

/// `1.2M`.
pub fn bare_count(tokens: u64) -> String {
    Limit::Tokens(tokens).to_string().trim_end_matches(" tokens").to_owned()
}

/// `who pays changed: API key …wxyz instead of API key …a1b2`, or that it is known only now.
pub fn billing_changed(billing: &Billing, before: &Billing) -> String {
    if billing.kind == before.kind && before.last4.is_none() {
        return format!("paid by {}", billing.words());
    }
    format!("who pays changed: {} instead of {}", billing.words(), before.words())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixture;

    fn view(kind: BillingKind, limits: &[&str]) -> SessionView {
        let mut view = fixture::session();
        view.billing = Billing { kind, last4: None };
        view.cost_usd = "0.4".parse().unwrap();
        view.tokens.input = 1_200_000;
        view.budgets = limits.iter().map(|limit| BudgetView::of(limit.parse().unwrap(), &view.spent())).collect();
        view
    }

    #[test]
    fn what_is_billed_is_told_in_dollars_and_marked_where_it_is_an_estimate() {
        let mut view = view(BillingKind::Key, &["2Mtok", "5usd"]);
        assert_eq!(view.spent_words(false), "$0.40 of $5.00, 1.2M of 2M tokens");
        view.cost_estimated = true;
        assert_eq!(view.spent_words(true), "~$0.40 of $5.00 (8 %), 1.2M of 2M tokens (60 %)");
        assert_eq!(view.cost_words(), "~$0.40");
    }

    #[test]
    fn a_subscription_is_told_in_tokens_first_and_its_dollars_are_said_not_to_be_billed() {
        let of = |limits: &[&str]| view(BillingKind::Subscription, limits);
        assert_eq!(of(&[]).spent_words(false), "1.2M tokens, $0.40 (list price, not billed)");
        assert_eq!(of(&["2Mtok"]).spent_words(true), "1.2M of 2M tokens (60 %), $0.40 (list price, not billed)");
        assert_eq!(of(&["5usd"]).budget_words(&of(&["5usd"]).budgets[0]), "$0.40 of $5.00 (list price, not billed)");
    }
}
