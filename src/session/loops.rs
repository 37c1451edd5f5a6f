//! The loop breaker at work: reads each request's tool calls on a thread of its own, tells the model, and stops the session.
//!
//! The calls are read from the bodies that pass the proxy, so neither switched-off hooks nor settings keep anything from it; only the
//! warning needs a hook. A body that comes while others are looked at may be left out: the next one of that conversation repeats its calls.

use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use jiff::Timestamp;
use tokio::sync::mpsc::UnboundedSender;

use super::alerting::Alarms;
use super::chronicle::Chronicle;
use super::lifecycle::{Input, StopCall};
use super::notices::{Audience, Notice, Notices};
use crate::meter::loops::{Finding, Loops, Rules, calls_of};
use crate::model::{Event, StopReason, Thread};
use crate::proxy::{SentBody, TurnTap};

/// Who asks for the stop, in the record.
pub(super) const BY: &str = "loop breaker";
/// Bodies that wait at most: they are as large as the conversation.
const MAX_WAITING: usize = 2;

/// What the loop breaker does about a loop. A cheap handle.
#[derive(Clone)]
pub(super) struct Breaker {
    pub(super) inside: Notices,
    pub(super) chronicle: Chronicle,
    pub(super) alarms: Alarms,
    pub(super) inputs: UnboundedSender<Input>,
}

/// Starts it; what it returns is what the proxy calls. The thread ends with the last handle on that.
pub(super) fn watch(rules: Rules, breaker: Breaker) -> std::io::Result<TurnTap> {
    let (bodies, waiting): (SyncSender<(Thread, SentBody)>, _) = sync_channel(MAX_WAITING);
    std::thread::Builder::new().name("loops".to_owned()).spawn(move || {
        let mut loops = Loops::new(rules);
        while let Ok((thread, body)) = waiting.recv() {
            for call in calls_of(body.as_ref(), |id| loops.knows(id)) {
                for finding in loops.on(&thread, &call, Timestamp::now()) {
                    breaker.act(&finding, &thread);
                }
            }
        }
    })?;
    Ok(std::sync::Arc::new(move |thread, body| match bodies.try_send((thread.clone(), body)) {
        Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
    }))
}

impl Breaker {
    /// Tells the model and the people, or stops the session.
    pub(super) fn act(&self, finding: &Finding, thread: &Thread) {
        match finding {
            Finding::Warn(pattern) => {
                // A lost journal has told the session already.
                let _ = self.chronicle.record(Event::Notice { what: format!("a loop: {pattern}") });
                self.alarms.circles(&format!("{pattern}; if it goes on, the session is stopped"));
                let text = format!(
                    "sentrely: {pattern}. This looks like a loop; if it goes on, the session is stopped. Change the approach, \
                     or say what is in the way and end your turn."
                );
                let once_key = format!("loop {thread:?} {pattern}");
                self.inside.post(Notice { audience: Audience::Model(Some(thread.clone())), text, once_key: once_key.clone() });
                let text = format!("sentrely: {pattern}; if it goes on, the session is stopped");
                self.inside.post(Notice { audience: Audience::Person, text, once_key: format!("{once_key} person") });
            }
            Finding::Stop(pattern) => {
                let call = StopCall::own(StopReason::PolicyStop, BY, Some(format!("a loop: {pattern}")));
                let _ = self.inputs.send(Input::Stop(call));
            }
        }
    }
}
