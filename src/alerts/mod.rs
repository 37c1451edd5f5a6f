//! Alerts that leave the machine: a JSON webhook, and Slack's incoming webhook.
//!
//! [`Outbox::send`] only queues; a task posts, tries again a few times where that can help, and gives up in the end. Nothing waits for it but
//! [`Outbox::drain`], which has a bound: an alert never holds up the end of a session. The addresses are secrets (whoever has one may
//! post), so no error shows them. Alerts hold numbers and names, never prompts or answers.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use tokio::sync::Notify;
use tokio::sync::mpsc::{Receiver, Sender, channel, error::TrySendError};
use tokio::task::JoinHandle;

use crate::model::{SessionId, Usd};

/// Alerts that wait at most; a session has a handful.
const MAX_WAITING: usize = 64;
/// One try.
const ANSWER: Duration = Duration::from_secs(5);
/// Pauses before the second and the third try.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(4)];

/// One alert: the JSON that a webhook gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Alert {
    /// 1.
    pub schema_version: u32,
    /// `budget`, `quota`, `loop`, `stopped`.
    pub kind: &'static str,
    /// When.
    pub at: Timestamp,
    /// The session.
    pub session: SessionId,
    /// Who is accountable for it.
    pub developer: String,
    /// What it works on.
    pub project: String,
    /// Spent so far, at list price.
    pub cost_usd: Usd,
    /// The share of a limit that was passed, for `budget`, or of a window's allowance, for `quota`.
    pub percent: Option<u32>,
    /// What happened, in words.
    pub text: String,
}

/// How a receiver wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The [`Alert`] as it is.
    Json,
    /// `{"text": ...}`: Slack's incoming webhook.
    Slack,
}

/// A receiver.
#[derive(Debug, Clone)]
pub struct Receiving {
    /// Its address, which is a secret.
    pub url: SecretString,
    /// How it wants its alerts.
    pub form: Form,
}

/// Told why an alert was not delivered, in words without the address.
pub type Failed = Arc<dyn Fn(String) + Send + Sync>;

/// Where alerts are put.
#[derive(Clone)]
pub struct Outbox(Vec<Sender<Alert>>);

/// What posts them.
pub struct Posting(Vec<(JoinHandle<()>, Arc<Notify>)>);

/// Starts posting to these receivers, within the current runtime; without any, alerts go nowhere.
pub fn start(receivers: Vec<Receiving>, failed: &Failed) -> (Outbox, Posting) {
    if receivers.is_empty() {
        return (Outbox(Vec::new()), Posting(Vec::new()));
    }
    let _ = rustls::crypto::ring::default_provider().install_default(); // installed already is as good
    let client = reqwest::Client::builder()
        .timeout(ANSWER)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("sentrely/", env!("CARGO_PKG_VERSION")))
        .build();
    let client = match client {
        Ok(client) => client,
        Err(error) => {
            failed(format!("alerts cannot be sent: {error}"));
            return (Outbox(Vec::new()), Posting(Vec::new()));
        }
    };
    // Each with a queue of its own: one that does not answer holds up none of the others.
    let started = receivers.into_iter().map(|receiver| {
        let (sender, waiting) = channel(MAX_WAITING);
        let closing = Arc::new(Notify::new());
        let task = tokio::spawn(post_all(client.clone(), receiver, waiting, Arc::clone(&closing), Arc::clone(failed)));
        (sender, (task, closing))
    });
    let (senders, tasks) = started.unzip();
    (Outbox(senders), Posting(tasks))
}

impl Outbox {
    /// Queues it. Beyond what may wait, alerts are dropped: the journal has them all.
    pub fn send(&self, alert: &Alert) {
        for sender in &self.0 {
            match sender.try_send(alert.clone()) {
                Ok(()) | Err(TrySendError::Full(_) | TrySendError::Closed(_)) => {}
            }
        }
    }
}

impl Posting {
    /// Takes no further alert and waits until what was queued is delivered or given up, but no longer than `within`; false if something was
    /// left.
    pub async fn drain(self, within: Duration) -> bool {
        self.0.iter().for_each(|(_, closing)| closing.notify_one());
        let deadline = tokio::time::Instant::now() + within;
        let mut delivered = true;
        for (mut task, _) in self.0 {
            delivered &= tokio::time::timeout_at(deadline, &mut task).await.is_ok();
            task.abort();
        }
        delivered
    }
}

async fn post_all(client: reqwest::Client, receiver: Receiving, mut waiting: Receiver<Alert>, closing: Arc<Notify>, failed: Failed) {
    loop {
        let alert = tokio::select! {
            biased;
            alert = waiting.recv() => alert,
            () = closing.notified() => {
                // What is queued is still handed out.
                waiting.close();
                continue;
            }
        };
        let Some(alert) = alert else { return };
        if let Err(why) = post(&client, &receiver, &alert).await {
            let name = match receiver.form {
                Form::Json => "webhook",
                Form::Slack => "Slack webhook",
            };
            failed(format!("the {name} did not take the alert `{}`: {why}", alert.text));
        }
    }
}

async fn post(client: &reqwest::Client, receiver: &Receiving, alert: &Alert) -> Result<(), String> {
    let mut pauses = PAUSES.iter();
    loop {
        let request = client.post(receiver.url.expose_secret());
        let request = match receiver.form {
            Form::Json => request.json(alert),
            Form::Slack => request.json(&serde_json::json!({ "text": alert.text })),
        };
        let (why, again) = match request.send().await {
            Ok(answer) if answer.status().is_success() => return Ok(()),
            Ok(answer) => {
                let status = answer.status();
                (format!("it answered {status}"), status.is_server_error() || status.as_u16() == 429)
            }
            // A builder's error is the address itself.
            Err(error) => {
                let again = !error.is_builder();
                (words(&error.without_url()), again)
            }
        };
        match pauses.next().filter(|_| again) {
            Some(pause) => tokio::time::sleep(*pause).await,
            None => return Err(why),
        }
    }
}

/// An error and what is behind it.
fn words(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
