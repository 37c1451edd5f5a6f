//! What happens to a session, and what is done about it: a pure state machine.
//!
//! Everything that happens is an [`Input`]; [`Lifecycle::on`] turns it into [`Action`]s in the order in which they must be done. Money stops
//! before processes do (invariant I4): every way down begins with [`Action::CloseGate`].

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::model::StopReason;

/// How long a child may print its last words after the budget's refusal before it is asked to end.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// The grace after a signal to sentrely, or the end of the process above it, at most: whoever does that may soon do worse. GitHub's cancel
/// is INT, 7.5 s, TERM, 2.5 s, KILL; by then the agent must be dead and its work saved.
const HURRIED_GRACE: Duration = Duration::from_millis(1_500);
/// A terminal's Ctrl-C reaches guardian and supervisor both, and the guardian hands its own on: within this time it is one.
const SAME_SIGNAL: SignedDuration = SignedDuration::from_millis(400);

/// Who or what asked for a stop, for the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopCall {
    /// Why.
    pub reason: StopReason,
    /// Who.
    pub by: String,
    /// From where.
    pub from: Option<String>,
    /// What they said.
    pub note: Option<String>,
    /// Without grace.
    pub now: bool,
}

impl StopCall {
    /// A stop that sentrely itself decides on.
    pub fn own(reason: StopReason, by: &str, note: Option<String>) -> Self {
        Self { reason, by: by.to_owned(), from: None, note, now: false }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A stop is asked for: kill file, budget, deadline, bypass, lost credentials or journal.
    Stop(StopCall),
    /// sentrely itself got a signal: its number and name.
    Signal(i32, &'static str),
    /// The child's own process is gone.
    ChildExited,
    /// The patience of [`Action::Wait`] is over.
    PatienceOver,
}

/// What is to be done, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Write the stop down.
    Record(StopCall),
    /// Refuse every further request and cut the running answers.
    CloseGate(StopReason),
    /// Answer no further question for credentials.
    WithholdCredentials,
    /// Let the child end by itself for so long, then say [`Input::PatienceOver`].
    Wait(Duration),
    /// End the whole tree: TERM, this long, KILL; `None`: KILL at once. Said again while it is under way, it is hastened.
    End(Option<Duration>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    /// The gate is closed, the child has the last word.
    LastWords,
    Ending {
        hard: bool,
    },
}

/// The state of one attempt.
#[derive(Debug)]
pub struct Lifecycle {
    phase: Phase,
    grace: Duration,
    reason: StopReason,
    stop_on_budget: bool,
    last_signal: Option<(i32, Timestamp)>,
}

impl Lifecycle {
    /// A running attempt. `stop_on_budget` is false for `--on-budget refuse`: then a used-up budget only refuses.
    pub const fn new(grace: Duration, stop_on_budget: bool) -> Self {
        Self { phase: Phase::Running, grace, reason: StopReason::ChildExited, stop_on_budget, last_signal: None }
    }

    /// The gravest reason so far.
    pub const fn reason(&self) -> StopReason {
        self.reason
    }

    /// Takes an input and says what to do about it.
    pub fn on(&mut self, input: Input, now: Timestamp) -> Vec<Action> {
        match input {
            Input::Stop(call) if call.reason == StopReason::BudgetReached && !self.stop_on_budget => Vec::new(),
            Input::Stop(call) => self.stop(call),
            Input::Signal(number, name) => self.signal(number, name, now),
            Input::ChildExited => self.child_exited(),
            Input::PatienceOver if self.phase == Phase::LastWords => self.end(Some(self.grace)),
            Input::PatienceOver => Vec::new(),
        }
    }

    fn stop(&mut self, call: StopCall) -> Vec<Action> {
        let graver = call.reason > self.reason;
        self.reason = self.reason.max(call.reason);
        let (reason, hard) = (call.reason, call.now);
        let hurried = reason == StopReason::Terminated;
        let grace = match (hard, hurried) {
            (true, _) => None,
            (false, true) => Some(self.grace.min(HURRIED_GRACE)),
            (false, false) => Some(self.grace),
        };
        let record = Action::Record(call);
        match self.phase {
            Phase::Running => {
                let mut actions = vec![record, Action::CloseGate(reason), Action::WithholdCredentials];
                if reason == StopReason::BudgetReached {
                    self.phase = Phase::LastWords;
                    actions.push(Action::Wait(LAST_WORDS));
                } else {
                    actions.extend(self.end(grace));
                }
                actions
            }
            // A person's Ctrl-C, or a machine's, ends the last words too.
            Phase::LastWords if graver || hurried => {
                let mut actions = vec![record, Action::CloseGate(reason)];
                actions.extend(self.end(grace));
                actions
            }
            Phase::Ending { hard: false } if hard => {
                let mut actions = vec![record];
                actions.extend(self.end(None));
                actions
            }
            _ if graver => vec![record],
            _ => Vec::new(),
        }
    }

    fn signal(&mut self, number: i32, name: &'static str, now: Timestamp) -> Vec<Action> {
        if let Some((known, at)) = self.last_signal
            && known == number
            && now.duration_since(at) < SAME_SIGNAL
        {
            return Vec::new();
        }
        // The second asking is impatience.
        let again = self.last_signal.is_some();
        self.last_signal = Some((number, now));
        self.stop(StopCall { reason: StopReason::Terminated, by: format!("signal {name}"), from: None, note: None, now: again })
    }

    fn child_exited(&mut self) -> Vec<Action> {
        match self.phase {
            Phase::Ending { .. } => Vec::new(),
            Phase::LastWords => self.end(Some(self.grace)),
            Phase::Running => {
                let mut actions = vec![Action::CloseGate(self.reason), Action::WithholdCredentials];
                actions.extend(self.end(Some(self.grace)));
                actions
            }
        }
    }

    fn end(&mut self, grace: Option<Duration>) -> Vec<Action> {
        self.phase = Phase::Ending { hard: grace.is_none() };
        vec![Action::End(grace)]
    }
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan;
    use proptest::prelude::*;

    use super::*;

    const GRACE: Duration = Duration::from_secs(2);
    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn running() -> Lifecycle {
        Lifecycle::new(GRACE, true)
    }

    fn call(reason: StopReason) -> StopCall {
        StopCall::own(reason, "test", None)
    }

    #[test]
    fn a_kill_closes_the_gate_then_withholds_credentials_then_ends_the_tree() {
        let kill = call(StopReason::Killed);
        let actions = running().on(Input::Stop(kill.clone()), NOW);
        let expected =
            vec![Action::Record(kill), Action::CloseGate(StopReason::Killed), Action::WithholdCredentials, Action::End(Some(GRACE))];
        assert_eq!(actions, expected);
    }

    #[test]
    fn a_used_up_budget_leaves_the_child_its_last_words() {
        let mut life = running();
        let actions = life.on(Input::Stop(call(StopReason::BudgetReached)), NOW);
        assert_eq!(actions[1..], [Action::CloseGate(StopReason::BudgetReached), Action::WithholdCredentials, Action::Wait(LAST_WORDS)]);
        assert_eq!(life.on(Input::ChildExited, NOW), vec![Action::End(Some(GRACE))]);
        assert_eq!(life.on(Input::PatienceOver, NOW), vec![]);
        assert_eq!(life.reason(), StopReason::BudgetReached);
    }

    #[test]
    fn a_child_that_stays_after_its_last_words_is_ended() {
        let mut life = running();
        life.on(Input::Stop(call(StopReason::BudgetReached)), NOW);
        assert_eq!(life.on(Input::PatienceOver, NOW), vec![Action::End(Some(GRACE))]);
    }

    #[test]
    fn on_budget_refuse_goes_on() {
        let mut life = Lifecycle::new(GRACE, false);
        assert_eq!(life.on(Input::Stop(call(StopReason::BudgetReached)), NOW), vec![]);
        assert_eq!(life.reason(), StopReason::ChildExited);
    }

    #[test]
    fn one_ctrl_c_seen_twice_is_one_and_a_second_one_is_impatience() {
        let mut life = running();
        assert!(!life.on(Input::Signal(2, "INT"), NOW).is_empty());
        assert_eq!(life.on(Input::Signal(2, "INT"), NOW + 5.milliseconds()), vec![]);
        let actions = life.on(Input::Signal(2, "INT"), NOW + 1.second());
        assert_eq!(actions.last(), Some(&Action::End(None)));
    }

    #[test]
    fn a_kill_during_the_last_words_of_a_budget_stop_counts_as_killed() {
        let mut life = running();
        life.on(Input::Stop(call(StopReason::BudgetReached)), NOW);
        let actions = life.on(Input::Stop(StopCall { now: true, ..call(StopReason::Killed) }), NOW);
        assert_eq!(actions.last(), Some(&Action::End(None)));
        assert_eq!(life.reason(), StopReason::Killed);
    }

    #[test]
    fn a_signal_leaves_less_grace_than_the_machine_that_sent_it() {
        let mut life = Lifecycle::new(Duration::from_secs(10), true);
        assert_eq!(life.on(Input::Signal(15, "TERM"), NOW).last(), Some(&Action::End(Some(HURRIED_GRACE))));
        let mut life = Lifecycle::new(Duration::from_millis(300), true);
        assert_eq!(life.on(Input::Signal(15, "TERM"), NOW).last(), Some(&Action::End(Some(Duration::from_millis(300)))));
    }

    #[test]
    fn a_signal_ends_the_last_words_of_a_budget_stop_which_stays_the_reason() {
        let mut life = running();
        life.on(Input::Stop(call(StopReason::BudgetReached)), NOW);
        assert_eq!(life.on(Input::Signal(2, "INT"), NOW).last(), Some(&Action::End(Some(HURRIED_GRACE))));
        assert_eq!(life.on(Input::Signal(2, "INT"), NOW + 1.second()).last(), Some(&Action::End(None)));
        assert_eq!(life.reason(), StopReason::BudgetReached);
    }

    fn any_input() -> impl Strategy<Value = Input> {
        let reasons = prop::sample::select(vec![
            StopReason::Terminated,
            StopReason::Deadline,
            StopReason::CredentialsLost,
            StopReason::BudgetReached,
            StopReason::MeterBypassed,
            StopReason::Killed,
        ]);
        prop_oneof![
            (reasons, any::<bool>()).prop_map(|(reason, now)| Input::Stop(StopCall { now, ..call(reason) })),
            Just(Input::Signal(15, "TERM")),
            Just(Input::Signal(2, "INT")),
            Just(Input::ChildExited),
            Just(Input::PatienceOver),
        ]
    }

    proptest! {
        /// Invariant I4, whatever comes in whatever order: no process is signalled before spending has stopped; and reasons only get graver.
        #[test]
        fn spending_stops_before_processes_are_signalled(inputs in prop::collection::vec(any_input(), 1..12)) {
            let (mut life, mut closed, mut reason) = (running(), false, StopReason::ChildExited);
            for input in inputs {
                for action in life.on(input, NOW) {
                    match action {
                        Action::CloseGate(_) => closed = true,
                        Action::End(_) => prop_assert!(closed),
                        _ => {}
                    }
                }
                prop_assert!(life.reason() >= reason);
                reason = life.reason();
            }
        }
    }
}
