//! The loop breaker's third pattern at work: looks at the working copy from time to time, and at what was spent meanwhile.
//!
//! The look is made on a thread of its own: it takes as long as `git status`, and the agent can make it take for ever. One that does not come
//! back has seen no change, and no other is started then.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::loops::Breaker;
use crate::git;
use crate::meter::Meter;
use crate::meter::idle::{Idle, IdleRules};
use crate::model::Thread;

/// So many looks in the time that is too long.
const LOOKS: u32 = 6;
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_mins(10);
/// How long a look may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Watches the working copy at `root`.
pub(super) fn watch(rules: IdleRules, root: PathBuf, meter: Meter, breaker: Breaker) -> JoinHandle<()> {
    let every = (rules.time / LOOKS).clamp(SHORTEST, LONGEST);
    tokio::spawn(async move {
        let spent = || meter.booked().0;
        let (mut seen, mut blind) = match look(&root).await {
            Some(digest) => (digest, false),
            None => (0, true),
        };
        let mut idle = Idle::new(rules, seen, spent(), Timestamp::now());
        let mut before = spent();
        loop {
            sleep(every).await;
            let now = spent();
            // Nothing is decided by time alone.
            if now == before {
                continue;
            }
            before = now;
            if !blind {
                match look(&root).await {
                    Some(digest) => seen = digest,
                    None => blind = true,
                }
            }
            if let Some(finding) = idle.on(seen, now, Timestamp::now()) {
                breaker.act(&finding, &Thread::Main);
            }
        }
    })
}

/// The working copy's digest; `None` if the look does not come back. One that fails is a digest too: of a working copy that cannot be read.
async fn look(root: &Path) -> Option<u64> {
    let (tell, told) = oneshot::channel();
    let root = root.to_owned();
    let looking = std::thread::Builder::new().name("look".to_owned()).spawn(move || {
        // Nobody waits any more: then nobody wants to know.
        let _ = tell.send(git::pulse(&root).unwrap_or(0));
    });
    looking.ok()?;
    timeout(PATIENCE, told).await.ok()?.ok()
}
