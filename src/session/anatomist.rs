//! Takes the main conversation's bodies apart, on a thread of its own, and leaves what it finds in `context.json`.
//!
//! Only the last body waits: one that comes while another is looked at takes the place of the one before it. After each the thread rests for
//! [`REST`] times as long as that took, so it uses a twentieth of a processor at most, however many requests there are. The thread begins with the first
//! body and ends with [`Anatomist::finish`], which lets the last one be looked at.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::meter::anatomy::Anatomy;
use crate::model::RequestId;
use crate::proxy::{BodyTap, SentBody};
use crate::store::{ContextFile, SessionDir};

/// See the module's words.
const REST: u32 = 20;
/// The end of a session waits so long for the last body at most; 32 MB take a tenth of a second.
const LAST_LOOK: Duration = Duration::from_secs(2);

/// The thread's handle. Dropped, it ends the thread.
pub struct Anatomist(Arc<Shared>);

struct Shared {
    dir: SessionDir,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Option<(RequestId, SentBody)>,
    thread: Thread,
    over: bool,
}

#[derive(Default, PartialEq, Eq)]
enum Thread {
    #[default]
    None,
    Runs,
    Ended,
}

impl Anatomist {
    /// For the session with this directory.
    pub fn new(dir: SessionDir) -> Self {
        Self(Arc::new(Shared { dir, state: Mutex::default(), changed: Condvar::new() }))
    }

    /// What the proxy calls.
    pub fn tap(&self) -> BodyTap {
        let shared = Arc::clone(&self.0);
        Arc::new(move |request, body| {
            let mut state = shared.lock();
            if state.over {
                return;
            }
            state.waiting = Some((request, body));
            if state.thread == Thread::None {
                state.thread = Thread::Runs;
                let worker = Arc::clone(&shared);
                if std::thread::Builder::new().name("context".to_owned()).spawn(move || worker.work()).is_err() {
                    // No thread, no picture of the context: the session goes on.
                    state.thread = Thread::Ended;
                }
            }
            drop(state);
            shared.changed.notify_all();
        })
    }

    /// Waits until the last body was looked at, for a moment at most.
    pub fn finish(&self) {
        let mut state = self.0.lock();
        state.over = true;
        self.0.changed.notify_all();
        let runs = |state: &mut State| state.thread == Thread::Runs;
        let _ = self.0.changed.wait_timeout_while(state, LAST_LOOK, runs);
    }
}

impl Drop for Anatomist {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.over = true;
        drop(state);
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn work(&self) {
        // An earlier attempt's.
        let mut last = self.dir.read_context().ok().flatten().and_then(|file| file.anatomy);
        loop {
            let state = self.lock();
            let mut state =
                self.changed.wait_while(state, |state| state.waiting.is_none() && !state.over).unwrap_or_else(PoisonError::into_inner);
            let Some((request, body)) = state.waiting.take() else {
                state.thread = Thread::Ended;
                drop(state);
                self.changed.notify_all();
                return;
            };
            drop(state);
            let begin = Instant::now();
            self.look(request, &body, &mut last);
            drop(body);
            let rest = begin.elapsed().saturating_mul(REST);
            let _ = self.changed.wait_timeout_while(self.lock(), rest, |state| !state.over);
        }
    }

    fn look(&self, request: RequestId, body: &SentBody, last: &mut Option<Anatomy>) {
        let found = Anatomy::of(body.as_ref()).map(|anatomy| match last.take() {
            Some(last) => anatomy.after(&last),
            None => anatomy,
        });
        let unknown = found.as_ref().err().map(ToString::to_string);
        *last = found.ok();
        let file = ContextFile { schema_version: 1, request, at: Timestamp::now(), anatomy: last.clone(), unknown };
        // A full disk is told by the journal.
        let _ = self.dir.write_context(&file);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
