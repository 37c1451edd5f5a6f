//! The context gauge at work: what follows from each event is recorded and told, and the configured limit acts.
//!
//! The main conversation's limit is a share of its window (`[context] stop_at`). With `on_limit = "stop"` the session is stopped there,
//! with its work saved; with `stop_on_compaction` it is stopped when the client asks for the summary, before that is written.
//!
//! What is recorded is also said inside the client: to the person each share and compaction, to the model once, at the limit (or
//! [`AHEAD`] points before it, where that ends the session), that it should finish, commit and hand over.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc::UnboundedSender;

use super::chronicle::Chronicle;
use super::lifecycle::{Input, StopCall};
use super::notices::{Audience, Notice, Notices};
use super::report::{Report, Reporter};
use crate::config::{self, OnContext};
use crate::meter::context::Gauge;
use crate::model::{Event, Limit, Record, StopReason, Thread, ThreadView, bare_count, thrash_words};

/// Who asks for the stop, in the record.
pub(super) const BY: &str = "context";

/// So many points before the end the model is told, if the limit ends the session.
const AHEAD: u32 = 10;
/// The notice to the model.
const LIMIT: &str = "context limit";

/// A cheap handle on the session's gauge.
#[derive(Clone)]
pub(super) struct ContextWatch(Arc<Shared>);

struct Shared {
    gauge: Mutex<Gauge>,
    rules: config::Context,
    chronicle: Chronicle,
    inputs: UnboundedSender<Input>,
    reporter: Reporter,
    inside: Notices,
    stopped: AtomicBool,
}

impl ContextWatch {
    /// Goes on where the records of earlier attempts ended.
    pub(super) fn new(
        rules: config::Context,
        earlier: &[Record],
        chronicle: Chronicle,
        inputs: UnboundedSender<Input>,
        reporter: Reporter,
        inside: Notices,
    ) -> Self {
        let gauge = Mutex::new(Gauge::of(earlier.iter().map(|record| &record.event)));
        Self(Arc::new(Shared { gauge, rules, chronicle, inputs, reporter, inside, stopped: AtomicBool::new(false) }))
    }

    /// Whether it has asked for the session's end.
    pub(super) fn has_stopped_it(&self) -> bool {
        self.0.stopped.load(Ordering::SeqCst)
    }

    /// Takes in an event that was recorded. Others than those of the gauge mean nothing to it.
    pub(super) fn see(&self, event: &Event) {
        let shared = &*self.0;
        let mut gauge = shared.gauge.lock().unwrap_or_else(PoisonError::into_inner);
        let mut following = VecDeque::from(gauge.on(event));
        while let Some(event) = following.pop_front() {
            following.extend(gauge.on(&event));
            if let Some(words) = words(&event) {
                let text = format!("sentrely: {words}");
                (shared.reporter)(Report::Notice(words));
                shared.inside.post(Notice { audience: Audience::Person, once_key: text.clone(), text });
            }
            // A lost journal has told the session already.
            let _ = shared.chronicle.record(event);
        }
        let main = gauge.main();
        drop(gauge);
        if let (Event::RequestSettled { thread: Thread::Main, .. }, Some(main)) = (event, &main) {
            shared.tell_model(main);
        }
        match event {
            Event::Compaction { thread: Thread::Main, .. } if shared.rules.stop_on_compaction.0 => {
                shared.stop("the main conversation was about to be compacted".to_owned());
            }
            Event::RequestSettled { thread: Thread::Main, .. } if shared.rules.on_limit == OnContext::Stop => {
                if let Some((percent, window)) = main.as_ref().and_then(|main| Some((main.percent?, main.window?)))
                    && percent >= shared.rules.stop_at.0
                {
                    let limit = shared.rules.stop_at.0;
                    shared.stop(format!("the context is {percent} % full, its limit is {limit} % of {}", Limit::Tokens(window)));
                }
            }
            _ => {}
        }
    }
}

impl Shared {
    /// Tells the model once that its context is nearly full, and again after there was room.
    fn tell_model(&self, main: &ThreadView) {
        let (Some(percent), Some(window)) = (main.percent, main.window) else { return };
        let limit = self.rules.stop_at.0;
        let ends = self.rules.on_limit == OnContext::Stop;
        let from = if ends { limit.saturating_sub(AHEAD).max(1) } else { limit };
        if percent < from {
            self.inside.rearm(LIMIT);
            return;
        }
        let left = main.turns_left.map(|left| format!(", room for about {left} more requests like the last ones")).unwrap_or_default();
        let then = if ends { format!(" At {limit} % this session is stopped.") } else { String::new() };
        let text = format!(
            "sentrely: the context of this conversation is {percent} % full ({} of {}{left}).{then} Finish the step you are at, commit it, and hand \
             over: say in a few lines what is done, what is left and what you have learned, so that a new conversation can go on from this branch.",
            bare_count(main.tokens),
            Limit::Tokens(window)
        );
        self.inside.post(Notice { audience: Audience::Model(Some(Thread::Main)), text, once_key: LIMIT.to_owned() });
    }

    fn stop(&self, note: String) {
        self.stopped.store(true, Ordering::SeqCst);
        let _ = self.inputs.send(Input::Stop(StopCall::own(StopReason::PolicyStop, BY, Some(note))));
    }
}

/// What a person is told, where the terminal is ours. Subagents come and go: of their contexts only the journal tells.
fn words(event: &Event) -> Option<String> {
    match event {
        Event::ContextThreshold { thread: Thread::Main, percent, tokens, window } => {
            Some(format!("{percent} % of the context is full: {} of {}", bare_count(*tokens), Limit::Tokens(*window)))
        }
        Event::Compacted { thread: Thread::Main, before, after } => {
            let before = before.map(|before| format!("from {} ", bare_count(before))).unwrap_or_default();
            Some(format!("the context was compacted {before}to {}", Limit::Tokens(*after)))
        }
        Event::ContextThrash { compactions, requests } => Some(thrash_words(*compactions, *requests)),
        _ => None,
    }
}
