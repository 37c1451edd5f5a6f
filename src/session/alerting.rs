//! What a session tells the world outside: its alerts, by the receivers that the user or the policy configured.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::chronicle::Chronicle;
use super::{RunError, hinted};
use crate::alerts::{Alert, Failed, Form, Outbox, Posting, Receiving, start};
use crate::config::Config;
use crate::model::{Event, StopReason};

/// How long the end of a session waits for its alerts, once everything else is done.
pub(super) const DRAIN: Duration = Duration::from_secs(3);

/// The receivers, with their addresses. Blocks while a secret is read.
pub(super) fn receivers(config: &Config) -> Result<Vec<Receiving>, RunError> {
    let configured = [(&config.alerts.webhook, Form::Json), (&config.slack.webhook, Form::Slack)];
    let configured = configured.into_iter().filter_map(|(reference, form)| Some((reference.as_ref()?, form)));
    configured.map(|(reference, form)| Ok(Receiving { url: reference.resolve().map_err(|error| hinted!(error))?, form })).collect()
}

/// A cheap handle on what sends alerts.
#[derive(Clone)]
pub(super) struct Alarms {
    outbox: Outbox,
    chronicle: Chronicle,
}

impl Alarms {
    /// Starts posting. What is not delivered is a notice in the journal.
    pub(super) fn start(receivers: Vec<Receiving>, chronicle: Chronicle) -> (Self, Posting) {
        let failures = chronicle.clone();
        // A lost journal has told the session already.
        let failed: Failed = Arc::new(move |what| drop(failures.record(Event::Notice { what })));
        let (outbox, posting) = start(receivers, &failed);
        (Self { outbox, chronicle }, posting)
    }

    /// A share of a limit was passed.
    pub(super) fn budget(&self, percent: u32, text: &str) {
        self.send("budget", Some(percent), text);
    }

    /// A share of a subscription's quota was passed.
    pub(super) fn quota(&self, percent: u32, text: &str) {
        self.send("quota", Some(percent), text);
    }

    /// The agent goes round in circles.
    pub(super) fn circles(&self, text: &str) {
        self.send("loop", None, text);
    }

    /// It was stopped; a command that ended by itself is no news.
    pub(super) fn stopped(&self, reason: StopReason, note: Option<&str>) {
        if reason > StopReason::ChildExited {
            let note = note.map(|note| format!(": {note}")).unwrap_or_default();
            self.send("stopped", None, &format!("{}{note}", reason.describe()));
        }
    }

    fn send(&self, kind: &'static str, percent: Option<u32>, what: &str) {
        let view = self.chronicle.view();
        self.outbox.send(&Alert {
            schema_version: 1,
            kind,
            at: Timestamp::now(),
            session: view.id,
            cost_usd: view.cost_usd,
            percent,
            text: format!("sentrely {} ({}, {}): {what}", view.short_id, view.developer, view.project),
            developer: view.developer,
            project: view.project,
        });
    }
}
