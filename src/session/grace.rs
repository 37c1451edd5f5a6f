//! The last part of a budget belongs to what is done so far (facts B4, the kindest order).
//!
//! From [`TELL`] percent of any limit on, the model of each conversation is told once to commit and finish; from [`SAVE`] percent on it is
//! answered with a reason whatever it calls, but for git and tools that write. At 100 % the proxy refuses. What is used is looked up at each
//! tool call, so a raised limit lifts both, and the shares of the new one are told anew.
//!
//! Like all that hooks do this informs and holds nothing: the proxy does, at 100 %.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use super::notices::{Judgement, Rule, ToolCall, only_saves_work};
use crate::model::{BudgetView, LimitKind, Thread};

/// Percent of a limit from which on the model is told. Whatever people are told at (`[budget] alert_at`) is another matter.
const TELL: u32 = 80;
/// Percent from which on only saving the work is let through.
const SAVE: u32 = 95;
/// Conversations that are remembered as told, at most.
const MAX_TOLD: usize = 1_000;

/// What a conversation was told of: a limit, as long as it is that one.
type Told = BTreeSet<(Thread, LimitKind, String)>;

/// The rule for the client's hooks. `budgets` is asked at each tool call.
pub(super) fn rule(budgets: impl Fn() -> Vec<BudgetView> + Send + Sync + 'static) -> Rule {
    let told = Mutex::<Told>::default();
    Arc::new(move |call, thread| judge(&budgets(), call, thread, &mut told.lock().unwrap_or_else(PoisonError::into_inner)))
}

fn judge(budgets: &[BudgetView], call: &ToolCall, thread: &Thread, told: &mut Told) -> Judgement {
    let Some(worst) = worst(budgets).filter(|budget| budget.percent >= TELL) else { return Judgement::Pass };
    let whose = if worst.shared.is_some() { "a budget that sessions share" } else { "this session's budget" };
    let used = format!("{} % of {whose} is used ({})", worst.percent, worst.words());
    if worst.percent >= SAVE && !only_saves_work(call) {
        return Judgement::Deny(format!(
            "sentrely: {used}. What is left is for saving the work: only git and tools that write files are let through. Commit what you have, \
             say in a line what is left to do, and end your turn."
        ));
    }
    if told.len() >= MAX_TOLD {
        told.clear();
    }
    if !told.insert((thread.clone(), worst.kind, worst.limit.clone())) {
        return Judgement::Pass;
    }
    Judgement::Advise(format!(
        "sentrely: {used}. Commit what you have now, then finish the step you are at. From {SAVE} % on only git and tools that write files are \
         let through, and at 100 % no request is."
    ))
}

/// Tells the people when the last part of a limit begins, once for each limit.
#[derive(Default)]
pub(super) struct LastPart(BTreeSet<(LimitKind, String)>);

impl LastPart {
    /// What to tell, if it has just begun.
    pub(super) fn begins(&mut self, budgets: &[BudgetView]) -> Option<String> {
        let worst = worst(budgets).filter(|budget| (SAVE..100).contains(&budget.percent))?;
        let words =
            format!("{} % of the budget is used ({}): only git and tools that write files are let through", worst.percent, worst.words());
        self.0.insert((worst.kind, worst.limit.clone())).then_some(words)
    }
}

fn worst(budgets: &[BudgetView]) -> Option<&BudgetView> {
    budgets.iter().max_by_key(|budget| budget.percent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Limit, Spent};

    fn dollars(used: &str, limit: &str) -> BudgetView {
        BudgetView::of(Limit::Usd(limit.parse().unwrap()), &Spent { cost: used.parse().unwrap(), ..Spent::default() })
    }

    fn bash(command: &str) -> ToolCall {
        ToolCall { name: "Bash".to_owned(), command: Some(command.to_owned()) }
    }

    #[test]
    fn each_conversation_is_told_once_and_of_a_raised_limit_again() {
        let mut told = Told::new();
        let mut ask = |budget: &BudgetView, thread: &Thread| judge(std::slice::from_ref(budget), &bash("make"), thread, &mut told);
        let subagent = Thread::Agent("a".into());
        assert_eq!(ask(&dollars("0.79", "1"), &Thread::Main), Judgement::Pass);
        let Judgement::Advise(words) = ask(&dollars("0.80", "1"), &Thread::Main) else { panic!("it is told") };
        assert!(words.starts_with("sentrely: 80 % of this session's budget is used ($0.80 of $1.00). Commit what you have now"), "{words}");
        assert_eq!(ask(&dollars("0.9", "1"), &Thread::Main), Judgement::Pass);
        assert!(matches!(ask(&dollars("0.9", "1"), &subagent), Judgement::Advise(_)));
        assert_eq!(ask(&dollars("0.9", "2"), &Thread::Main), Judgement::Pass);
        assert!(matches!(ask(&dollars("1.6", "2"), &Thread::Main), Judgement::Advise(_)));
    }

    #[test]
    fn the_last_part_of_any_limit_is_for_git_and_writing_until_it_is_raised() {
        let tokens = |used| BudgetView::of(Limit::Tokens(1_000), &Spent { tokens: used, ..Spent::default() });
        let ask = |budgets: &[BudgetView], call: &ToolCall| judge(budgets, call, &Thread::Main, &mut Told::new());
        let write = ToolCall { name: "Write".to_owned(), command: None };
        for last in [[dollars("0.95", "1"), tokens(10)], [dollars("0.1", "1"), tokens(950)]] {
            assert!(matches!(ask(&last, &bash("make")), Judgement::Deny(_)));
            assert!(!matches!(ask(&last, &bash("git commit -am x")), Judgement::Deny(_)));
            assert!(!matches!(ask(&last, &write), Judgement::Deny(_)));
        }
        assert!(!matches!(ask(&[dollars("0.94", "1"), tokens(949)], &bash("make")), Judgement::Deny(_)));
        assert_eq!(ask(&[dollars("0.95", "2")], &bash("make")), Judgement::Pass);
    }

    #[test]
    fn its_beginning_is_told_once_for_each_limit() {
        let mut last = LastPart::default();
        assert_eq!(last.begins(&[dollars("0.94", "1")]), None);
        let words = "96 % of the budget is used ($0.96 of $1.00): only git and tools that write files are let through";
        assert_eq!(last.begins(&[dollars("0.96", "1")]).as_deref(), Some(words));
        assert_eq!(last.begins(&[dollars("0.97", "1")]), None);
        assert_eq!(last.begins(&[dollars("1.00", "1")]), None, "refusing is told by whoever refuses");
        assert!(last.begins(&[dollars("1.95", "2")]).is_some());
    }
}
