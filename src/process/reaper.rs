//! The one reaper of the supervisor: whatever child of the main thread ends is reaped at once, on every SIGCHLD.
//!
//! It relies on two rules of the kernel. Orphans of a subreaper's tree are given to its first living thread, which is the main
//! one; and `__WNOTHREAD` lets a thread wait for its own children only. So the reaper sees the agent and every orphan, and
//! never a helper program that another thread started with `std::process`.
//!
//! macOS has neither: there it reaps the agent alone, and orphans go to the first process of the system.
//!
//! A subreaper that reaps late is a fork bomb's friend: zombies fill the pid table in seconds. Hence a task of its own.

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use super::spawn::{Change, Waited, wait_any};

/// How often is looked whether orphans are gone.
#[cfg(target_os = "macos")]
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(10);

/// Reaps from the thread that started it. Stops when dropped.
pub(super) struct Reaper {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    state: Mutex<State>,
    /// One permit after every pass that a SIGCHLD caused.
    passed: Notify,
}

#[derive(Default)]
struct State {
    watched: Option<(Pid, mpsc::UnboundedSender<Change>)>,
    /// Who was reaped since [`Reaper::count`]; `None` while nobody asks, so that a long session does not gather pids.
    reaped: Option<HashSet<i32>>,
}

impl Reaper {
    /// Must be called on the main thread, within its current-thread runtime, before the child that matters is started.
    pub(super) fn start() -> io::Result<Self> {
        let mut child_changed = signal(SignalKind::child())?;
        let shared = Arc::new(Shared { state: Mutex::default(), passed: Notify::new() });
        let of_task = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            while child_changed.recv().await.is_some() {
                of_task.pass();
                of_task.passed.notify_one();
            }
        });
        Ok(Self { shared, task })
    }

    /// Delivers every change of `pid` from now on. Nothing is missed if `pid` was spawned on this thread without an await
    /// in between.
    pub(super) fn watch(&self, pid: Pid) -> mpsc::UnboundedReceiver<Change> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.shared.lock().watched = Some((pid, sender));
        receiver
    }

    /// Reaps all there is. Returns whether any child is left.
    pub(super) fn reap(&self) -> bool {
        self.shared.pass()
    }

    /// Waits until a SIGCHLD was handled since the last call. Cancel-safe.
    ///
    /// On macOS orphans are reaped by others, and nobody tells us: there it waits for a moment at most.
    pub(super) async fn passed(&self) {
        let passed = self.shared.passed.notified();
        #[cfg(target_os = "linux")]
        passed.await;
        #[cfg(target_os = "macos")]
        let _ = tokio::time::timeout(LOOK_EVERY, passed).await;
    }

    /// Begins to note who is reaped, if it has not begun.
    pub(super) fn count(&self) {
        self.shared.lock().reaped.get_or_insert_default();
    }

    /// What `is_it` says of those who were reaped since [`Self::count`].
    pub(super) fn has_reaped(&self, is_it: impl FnOnce(&HashSet<i32>) -> bool) -> bool {
        self.shared.lock().reaped.as_ref().is_some_and(is_it)
    }

    /// Who was reaped since [`Self::count`]; ends the counting.
    pub(super) fn counted(&self) -> HashSet<i32> {
        self.shared.lock().reaped.take().unwrap_or_default()
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pass(&self) -> bool {
        loop {
            let watched = self.lock().watched.as_ref().map(|(pid, _)| *pid);
            match wait_any(watched) {
                Waited::Nothing => return true,
                Waited::NoChild => return false,
                Waited::Changed(pid, change) => self.note(pid, change),
            }
        }
    }

    fn note(&self, pid: Pid, change: Change) {
        let mut state = self.lock();
        if let Some((watched, changes)) = &state.watched
            && *watched == pid
        {
            // The agent may have been dropped; then nobody wants to know.
            let _ = changes.send(change);
            if matches!(change, Change::Ended(_)) {
                // From here on the number is free, and may come back as somebody else's.
                state.watched = None;
            }
        }
        if matches!(change, Change::Ended(_))
            && let Some(reaped) = &mut state.reaped
        {
            reaped.insert(pid.as_raw());
        }
    }
}
