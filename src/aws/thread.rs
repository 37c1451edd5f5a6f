//! A thread with a runtime of its own for everything that speaks to AWS.
//!
//! `credential_process` starts programs through tokio; on the main thread the session's reaper would collect them first
//! and the SDK would never learn how they ended.

use std::io;
use std::thread;

use tokio::sync::oneshot;

use super::error::AwsError;

/// Runs `work` to its end on a new thread and gives back its answer. Dropping the future abandons the answer, not the work.
pub(super) async fn on_own_thread<T, F, Fut>(name: &str, work: F) -> Result<T, AwsError>
where
    T: Send + 'static,
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = Result<T, AwsError>>,
{
    let (tell, told) = oneshot::channel();
    start(name, async move || {
        // Nobody waits any more: nothing to tell.
        let _ = tell.send(work().await);
    })?;
    told.await.map_err(|_| AwsError::ThreadEnded)?
}

/// Starts `work` on a new thread; the thread ends when the work does.
pub(super) fn start<F>(name: &str, work: F) -> Result<(), AwsError>
where
    F: AsyncFnOnce() + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(AwsError::Setup)?;
    let run = move || runtime.block_on(work());
    thread::Builder::new().name(name.to_owned()).spawn(run).map(drop).map_err(|e: io::Error| AwsError::Setup(e))
}
