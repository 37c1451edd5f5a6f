//! The body of the main conversation's last request, kept until its answer begins: then it may be looked at.
//!
//! One at most is kept, whatever many requests are under way: the last. Who looks at it does so elsewhere ([`super::BodyTap`]).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::memory::SentBody;
use crate::model::RequestId;

/// The one body that is kept.
#[derive(Clone, Default)]
pub(super) struct Looks(Arc<Mutex<Option<(RequestId, SentBody)>>>);

/// The right to one body; dropped, the body is let go.
pub(super) struct Held {
    looks: Looks,
    request: RequestId,
}

impl Looks {
    /// Keeps this one in place of any other.
    pub(super) fn hold(&self, request: RequestId, body: SentBody) -> Held {
        *self.lock() = Some((request, body));
        Held { looks: self.clone(), request }
    }

    fn lock(&self) -> MutexGuard<'_, Option<(RequestId, SentBody)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// The body, if no later one took its place.
    pub(super) fn take(&self) -> Option<(RequestId, SentBody)> {
        self.looks.lock().take_if(|(request, _)| *request == self.request)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.take();
    }
}
