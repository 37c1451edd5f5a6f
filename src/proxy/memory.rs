//! Memory for the bodies of requests: bounded as a whole, and used again.
//!
//! A body that is metered is held whole until it is sent. With a dozen large ones at once, they are read one after the other, which takes
//! no longer, as one thread does all the work. A body that waits for others does so for a short time only: somebody who sends slowly
//! must not hold up the rest, so the bound is one of thrift, not of safety.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What memory is counted in, in bytes.
const UNIT: usize = 16 * 1024;
/// 4 MB.
const UNITS: usize = 256;
const MAX_WAIT: Duration = Duration::from_millis(250);
/// Buffers that are kept for the next requests: fresh memory costs a page fault for every 4 kB.
const MAX_SPARE: usize = 4;
const MAX_SPARE_BYTES: usize = 1024 * 1024 + 64 * 1024;

/// The memory of one proxy.
pub(super) struct BodyMemory {
    free: Arc<Semaphore>,
    spare: Arc<Spare>,
}

type Spare = Mutex<Vec<Vec<u8>>>;

impl Default for BodyMemory {
    fn default() -> Self {
        Self { free: Arc::new(Semaphore::new(UNITS)), spare: Arc::default() }
    }
}

impl BodyMemory {
    /// An empty buffer for a body of this length, once there is memory for it.
    pub(super) async fn take(&self, length: usize) -> Buffer {
        let units = u32::try_from(length.div_ceil(UNIT).min(UNITS)).unwrap_or(1);
        let share = tokio::time::timeout(MAX_WAIT, Arc::clone(&self.free).acquire_many_owned(units)).await;
        let mut bytes = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        bytes.reserve_exact(length);
        Buffer { bytes, spare: Arc::clone(&self.spare), share: share.ok().and_then(Result::ok) }
    }
}

/// A body that is being read.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    spare: Arc<Spare>,
    /// `None` for one that did not wait for its share.
    share: Option<OwnedSemaphorePermit>,
}

impl Buffer {
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Forgets what was read and frees its memory.
    pub(super) fn discard(&mut self) {
        self.bytes = Vec::new();
    }

    /// The whole body. Its share of the memory is free again once the last handle on the `Bytes` is gone, even if somebody still looks
    /// at the body; its buffer once nobody does.
    pub(super) fn freeze(self) -> (Bytes, SentBody) {
        let body = SentBody(Arc::new(Pooled { bytes: self.bytes, spare: self.spare }));
        (Bytes::from_owner(Sending { body: body.clone(), _share: self.share }), body)
    }
}

/// A request's body as it was sent, to be looked at off the path.
#[derive(Clone)]
pub struct SentBody(Arc<Pooled>);

impl AsRef<[u8]> for SentBody {
    fn as_ref(&self) -> &[u8] {
        &self.0.bytes
    }
}

struct Sending {
    body: SentBody,
    _share: Option<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Sending {
    fn as_ref(&self) -> &[u8] {
        self.body.as_ref()
    }
}

/// Memory that comes back when it is dropped.
struct Pooled {
    bytes: Vec<u8>,
    spare: Arc<Spare>,
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        if bytes.capacity() == 0 || bytes.capacity() > MAX_SPARE_BYTES {
            return;
        }
        bytes.clear();
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < MAX_SPARE {
            spare.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    #[test]
    fn a_buffer_is_used_again_and_comes_back_empty() {
        run(async {
            let memory = BodyMemory::default();
            let mut first = memory.take(100_000).await;
            first.extend(b"secret");
            let (body, look) = first.freeze();
            let address = body.as_ptr();
            drop(body);
            assert_eq!(look.as_ref(), b"secret");
            assert_ne!(memory.take(50).await.bytes.as_ptr(), address, "somebody looks at it");
            drop(look);
            let again = memory.take(50).await;
            assert_eq!((again.bytes.as_ptr(), again.bytes.as_slice()), (address, &b""[..]));
        });
    }

    #[test]
    fn a_body_that_is_looked_at_keeps_no_other_waiting() {
        run(async {
            let memory = BodyMemory::default();
            let (body, look) = memory.take(UNIT * UNITS).await.freeze();
            drop(body);
            assert!(memory.take(UNIT * UNITS).await.share.is_some());
            drop(look);
        });
    }

    #[test]
    fn large_bodies_wait_for_each_other_but_not_for_long() {
        run(async {
            let memory = BodyMemory::default();
            let held = memory.take(UNIT * UNITS).await;
            let (late, begin) = (memory.take(1).await, tokio::time::Instant::now());
            assert!(late.share.is_none(), "it goes on without its share");
            drop(held);
            assert!(memory.take(32 * 1024 * 1024).await.share.is_some());
            assert!(begin.elapsed() < MAX_WAIT);
        });
    }
}
