//! Where inputs come from besides the child itself: kill files, signals, the client's transcripts, the AWS lease.
//!
//! Each source is a task (or a thread, where it blocks) that sends [`Input`]s; they all end with the session.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::task::JoinHandle;

use super::chronicle::Chronicle;
use super::claude::running::{Outside, RunningClients};
use super::claude::transcripts::{Scope, TranscriptWatch};
use super::lifecycle::{Input, StopCall};
use crate::aws::LeaseEvent;
use crate::model::{Event, StopReason};
use crate::process::{GuardianEvent, GuardianLink, Signal};
use crate::proxy::Proxy;
use crate::store::kill_file::{KillFileError, KillFileWatch, KillRequest, paths_for};

/// How often transcripts are looked at: a bypass is found within a second (issue 2).
/// And a client that answers at once still has its session's file for a fifth of one.
const TRANSCRIPT_LOOK: Duration = Duration::from_millis(100);
/// What asks sentrely itself to end.
const SIGNALS: [Signal; 4] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT];

/// Watches the session's kill file and the one that stops all sessions.
pub(super) fn kill_file(
    session_dir: &Path,
    guardian: Arc<GuardianLink>,
    inputs: UnboundedSender<Input>,
) -> Result<JoinHandle<()>, KillFileError> {
    let watch = KillFileWatch::new(&paths_for(session_dir))?;
    Ok(tokio::spawn(async move {
        let path = watch.wait().await;
        let request = KillRequest::read(&path);
        let _ = inputs.send(Input::Stop(StopCall {
            reason: StopReason::Killed,
            by: request.by.unwrap_or_else(|| "whoever made the kill file".to_owned()),
            from: request.from.or_else(|| Some(path.display().to_string())),
            note: request.reason,
            now: request.now,
        }));
        // After what that sets off. During set-up nothing does so: a step may take its time, and then the guardian must know that
        // somebody has seen the kill.
        tokio::task::yield_now().await;
        guardian.kill_seen();
    }))
}

/// Our own signals. Those that were ignored when the program began stay ignored.
pub(super) fn signals(guardian: &GuardianLink, inputs: &UnboundedSender<Input>) -> std::io::Result<Vec<JoinHandle<()>>> {
    let mut tasks = Vec::new();
    for signal in SIGNALS.into_iter().filter(|signal| !guardian.was_ignored(*signal)) {
        let mut stream = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::from_raw(signal as i32))?;
        let inputs = inputs.clone();
        tasks.push(tokio::spawn(async move {
            while stream.recv().await.is_some() {
                let _ = inputs.send(signal_input(signal));
            }
        }));
    }
    Ok(tasks)
}

/// What the guardian tells.
pub(super) fn guardian(guardian: Arc<GuardianLink>, inputs: UnboundedSender<Input>) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            match guardian.next().await {
                GuardianEvent::Signal(signal) => {
                    let _ = inputs.send(signal_input(signal));
                }
                GuardianEvent::AboveGone => {
                    let note = Some("the process that started sentrely is gone".to_owned());
                    let _ = inputs.send(Input::Stop(StopCall::own(StopReason::Terminated, "the guardian", note)));
                }
                GuardianEvent::Gone => {
                    let note = Some("the guardian process is gone".to_owned());
                    // Without grace: from now on nobody would end the tree after us, and the shell is back at its prompt already, into
                    // which the command would go on drawing.
                    let call = StopCall { now: true, ..StopCall::own(StopReason::Crashed, "guardian", note) };
                    let _ = inputs.send(Input::Stop(call));
                    return;
                }
            }
        }
    })
}

fn signal_input(signal: Signal) -> Input {
    Input::Signal(signal as i32, signal.as_str().strip_prefix("SIG").unwrap_or(signal.as_str()))
}

/// What becomes of the AWS identity.
pub(super) fn lease(
    mut events: UnboundedReceiver<LeaseEvent>,
    chronicle: Chronicle,
    minted: impl Fn(String, jiff::Timestamp) -> Event + Send + 'static,
    stop_when_lost: bool,
    inputs: UnboundedSender<Input>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            let recorded = match event {
                LeaseEvent::Minted { access_key_id, expires_at } => chronicle.record(minted(access_key_id, expires_at)),
                LeaseEvent::RenewalFailed { why, until } => chronicle
                    .record(Event::Notice { what: format!("the AWS credentials could not be renewed, they hold until {until}: {why}") }),
                LeaseEvent::Lost { why } => {
                    if stop_when_lost {
                        let call = StopCall::own(StopReason::CredentialsLost, "AWS lease", Some(why.clone()));
                        let _ = inputs.send(Input::Stop(call));
                    }
                    chronicle.record(Event::AwsLost { why })
                }
            };
            // A lost journal has told the session already.
            drop(recorded);
        }
    })
}

/// Compares the client's transcripts with what the proxy saw: an unknown message id is spending past the meter (facts B9).
///
/// Besides what it is told to follow it follows each session that a client below the supervisor writes, in whatever folder and
/// configuration directory, from that client's start on. Clients that others run meanwhile are no concern of it.
pub(super) struct BypassWatch {
    over: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl BypassWatch {
    /// Starts looking, on a thread of its own: transcripts can be many and large. `watch` follows `config_dir`.
    pub(super) fn start(
        config_dir: PathBuf,
        watch: TranscriptWatch,
        outside: Outside,
        proxy: Arc<Proxy>,
        chronicle: Chronicle,
        inputs: UnboundedSender<Input>,
    ) -> std::io::Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let asked_to_end = Arc::clone(&over);
        let mut clients = RunningClients::new(std::process::id(), outside);
        let mut watches = BTreeMap::from([(config_dir.clone(), watch)]);
        let thread = thread::Builder::new().name("transcripts".to_owned()).spawn(move || {
            loop {
                // Read before looking: what was written before the end was asked for is still looked at.
                let last = asked_to_end.load(Ordering::Acquire);
                for client in clients.look() {
                    let fresh = || TranscriptWatch::new(&client.config_dir, Scope::Sessions(Vec::new()), client.since);
                    let watch = watches.entry(client.config_dir.clone()).or_insert_with(fresh);
                    watch.learn_session_since(&client.session_id, client.since);
                }
                if let Some(watch) = watches.get_mut(&config_dir) {
                    chronicle.claude_sessions().iter().for_each(|id| watch.learn_session(id));
                }
                for seen in watches.values_mut().flat_map(TranscriptWatch::poll) {
                    if proxy.knows(&seen.message_id) {
                        continue;
                    }
                    let event = bypass(seen.message_id.clone(), &seen.transcript);
                    let note = Some(format!("answer {} in {} did not pass the proxy", seen.message_id, seen.transcript.display()));
                    let _ = chronicle.record(event);
                    // Closing our gate does not stop this spending: only the end of the processes does, so they get no grace.
                    let call = StopCall { now: true, ..StopCall::own(StopReason::MeterBypassed, "transcript check", note) };
                    let _ = inputs.send(Input::Stop(call));
                    return;
                }
                if last {
                    return;
                }
                thread::park_timeout(TRANSCRIPT_LOOK);
            }
        })?;
        Ok(Self { over, thread: Some(thread) })
    }

    /// Looks a last time and ends. Blocks for that look.
    pub(super) fn finish(&mut self) {
        self.over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

fn bypass(message_id: String, transcript: &Path) -> Event {
    Event::MeterBypass { message_id, transcript: transcript.display().to_string() }
}
