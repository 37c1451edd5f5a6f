//! The bodies of both directions.
//!
//! # How the answer's body works
//! 1. It holds the upstream's connection and polls it itself ([`super::forward`]), takes all that lies ready, at most [`BATCH`], and hands
//!    it on as one frame: one write to the client however many events came together.
//! 2. Each piece goes through the [`Tee`] before it is handed on, so the last one leaves after the request is settled.
//! 3. If the meter says cut, the connection is dropped there and then, and the client's stream ends with an error event.
//! 4. If the upstream breaks off, so do we: but hyper throws away what it has not written yet when a body fails, so the failure is held
//!    back until the client has taken everything before it.
//! 5. When the answer has come to its end, the connection goes back to the pool. hyper does not poll a body whose length it knows to
//!    its end, so this happens with the last piece.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use jiff::Timestamp;
use tokio::time::{Instant, Sleep};

use super::forward::Link;
use super::io::ClientState;
use super::refusal::error_event;
use super::shared::{Active, Shared};
use super::tee::Tee;
use crate::meter::Verdict;

/// A frame at most, give or take the last piece.
const BATCH: usize = 64 * 1024;
/// How often hidden output is counted while nothing comes.
const TICK: Duration = Duration::from_millis(250);
/// How often to look whether an answer that is not counted by the clock still comes.
const FREE_TICK: Duration = Duration::from_secs(5);
/// How often to look whether the client has taken what was written.
const FLUSH_CHECK: Duration = Duration::from_millis(5);

/// A request's body on its way to the upstream.
pub(super) enum RequestBody {
    /// Read and metered.
    Whole(Option<Bytes>),
    /// Passed on as it comes.
    Streamed(Incoming),
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Streamed(incoming) => Pin::new(incoming).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Self::Streamed(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Streamed(incoming) => incoming.size_hint(),
        }
    }
}

/// Why an answer ends before its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum BrokenAnswer {
    #[error("the upstream broke its answer off")]
    Upstream,
    #[error("the upstream was silent for too long")]
    Silent,
    #[error("the session is over")]
    Closed,
}

/// What the client gets.
pub(super) enum AnswerBody {
    /// An answer of our own.
    Whole(Option<Bytes>),
    /// The upstream's.
    Relayed(Box<Relay>),
}

impl AnswerBody {
    pub(super) const fn whole(bytes: Bytes) -> Self {
        Self::Whole(Some(bytes))
    }

    #[cfg(test)]
    pub(super) fn into_whole(self) -> Bytes {
        match self {
            Self::Whole(bytes) => bytes.unwrap_or_default(),
            Self::Relayed(_) => Bytes::new(),
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BrokenAnswer;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenAnswer>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Relayed(relay) => relay.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Self::Relayed(relay) => matches!(relay.stage, Stage::Ended) && relay.trailers.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Relayed(relay) => relay.length.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

/// An answer on its way from the upstream to the client.
pub(super) struct Relay {
    incoming: Incoming,
    /// Gone once it went back to the pool or was dropped.
    link: Option<Link>,
    tee: Tee,
    stage: Stage,
    trailers: Option<HeaderMap>,
    /// As the upstream said, where the client is told so too.
    length: Option<u64>,
    joined: BytesMut,
    timer: Pin<Box<Sleep>>,
    last_bytes: Instant,
    /// The task that is woken when another answer is cut for the budget, and the cuts that were seen.
    woken: Option<Waker>,
    cuts: u64,
    client: Arc<ClientState>,
    shared: Arc<Shared>,
    _active: Active,
}

enum Stage {
    Flowing,
    /// The failure waits until the client has taken what came before.
    Failing {
        cause: Option<BrokenAnswer>,
        flushed: bool,
    },
    Ended,
}

impl Relay {
    pub(super) fn new(incoming: Incoming, link: Link, tee: Tee, client: Arc<ClientState>, shared: Arc<Shared>, active: Active) -> Self {
        let now = Instant::now();
        let cuts = shared.cuts();
        // An event stream may have to end earlier than announced.
        let length = if tee.is_stream() { None } else { incoming.size_hint().exact() };
        let mut relay = Self {
            incoming,
            link: Some(link),
            tee,
            stage: Stage::Flowing,
            trailers: None,
            length,
            joined: BytesMut::new(),
            timer: Box::pin(tokio::time::sleep_until(now + TICK)),
            last_bytes: now,
            woken: None,
            cuts,
            client,
            shared,
            _active: active,
        };
        if relay.incoming.is_end_stream() {
            relay.end();
        }
        relay
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenAnswer>>> {
        match &mut self.stage {
            Stage::Flowing => self.flow(cx),
            Stage::Failing { cause, flushed } => {
                if !*flushed {
                    // hyper flushes when it is told to wait.
                    *flushed = true;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                if self.client.stalled() {
                    self.timer.as_mut().reset(Instant::now() + FLUSH_CHECK);
                    if self.timer.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
                let cause = cause.take();
                self.stage = Stage::Ended;
                Poll::Ready(cause.map(Err))
            }
            Stage::Ended => Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers)))),
        }
    }

    fn flow(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenAnswer>>> {
        if self.shared.is_closed() {
            self.cut_closed();
        } else if let Some(verdict) = self.on_timer(cx) {
            self.obey(verdict);
        } else {
            self.look_at_cuts(cx);
        }
        if matches!(self.stage, Stage::Flowing) && self.link.as_ref().is_some_and(|link| link.is_quiet(cx)) {
            return Poll::Pending;
        }
        let mut single: Option<Bytes> = None;
        // One look at the clock for all that lies ready.
        let mut now: Option<Timestamp> = None;
        let (mut waits, mut over) = (false, false);
        let taking = self.link.as_ref().map(|link| link.begin_taking(cx));
        while matches!(self.stage, Stage::Flowing) && self.joined.len() < BATCH {
            let (Some(link), Some(taking)) = (&mut self.link, &taking) else { break };
            match link.poll_frame(&mut self.incoming, taking) {
                Poll::Pending => {
                    waits = true;
                    break;
                }
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        let now = *now.get_or_insert_with(|| {
                            self.last_bytes = Instant::now();
                            Timestamp::now()
                        });
                        self.tee.feed(&data, now);
                        // One piece goes on as it is; only several are joined.
                        if self.joined.is_empty() && single.is_none() {
                            single = Some(data);
                        } else {
                            if let Some(first) = single.take() {
                                self.joined.extend_from_slice(&first);
                            }
                            self.joined.extend_from_slice(&data);
                        }
                        if self.tee.has_much_to_count() && self.tee.verdict(now) == Verdict::Cut {
                            over = true;
                            break;
                        }
                        if self.incoming.is_end_stream() {
                            self.end();
                        }
                        if single.as_ref().is_some_and(|data| data.len() >= BATCH) {
                            break;
                        }
                    }
                    Err(frame) => {
                        self.trailers = frame.into_trailers().ok();
                        self.end();
                    }
                },
                Poll::Ready(Some(Err(_))) => self.fail(BrokenAnswer::Upstream),
                Poll::Ready(None) => self.end(),
            }
        }
        if let Some(taking) = taking.filter(|_| waits) {
            taking.end(cx);
        }
        if let (Some(now), Stage::Flowing) = (now, &self.stage)
            && (over || self.tee.verdict(now) == Verdict::Cut)
        {
            // What came before the cut is paid for and goes on.
            if let Some(first) = single.take() {
                self.joined.extend_from_slice(&first);
            }
            self.obey(Verdict::Cut);
        }
        if let Some(data) = single {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if !self.joined.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(self.joined.split().freeze()))));
        }
        if waits {
            return Poll::Pending;
        }
        self.poll(cx)
    }

    /// What cut another answer may be the end of this one too.
    fn look_at_cuts(&mut self, cx: &Context<'_>) {
        if !self.tee.is_stream() {
            return;
        }
        if !self.woken.as_ref().is_some_and(|woken| woken.will_wake(cx.waker())) {
            self.woken = Some(cx.waker().clone());
            self.shared.wake_at_cuts(self.tee.request(), cx.waker().clone());
        }
        let cuts = self.shared.cuts();
        if std::mem::replace(&mut self.cuts, cuts) != cuts {
            let verdict = self.tee.tick(Timestamp::now());
            self.obey(verdict);
        }
    }

    /// Counts hidden output and gives up a silent upstream.
    fn on_timer(&mut self, cx: &mut Context<'_>) -> Option<Verdict> {
        let mut verdict = None;
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if now.duration_since(self.last_bytes) >= self.shared.timeouts.silent_upstream {
                self.fail(BrokenAnswer::Silent);
                return None;
            }
            verdict = Some(self.tee.tick(Timestamp::now()));
            self.timer.as_mut().reset(now + if self.tee.is_stream() { TICK } else { self.shared.timeouts.silent_upstream.min(FREE_TICK) });
        }
        verdict
    }

    fn end(&mut self) {
        self.stage = Stage::Ended;
        self.tee.end(Timestamp::now());
        if let Some(link) = self.link.take() {
            self.shared.pool.put(link);
        }
    }

    fn fail(&mut self, cause: BrokenAnswer) {
        self.link = None;
        self.tee.broken(Timestamp::now());
        self.stage = Stage::Failing { cause: Some(cause), flushed: false };
    }

    fn obey(&mut self, verdict: Verdict) {
        if verdict == Verdict::Cut {
            let message = self.tee.cut_for_budget(Timestamp::now());
            self.cut(&message);
        }
    }

    fn cut_closed(&mut self) {
        self.tee.give_up(Timestamp::now());
        self.cut(&self.shared.closed_message());
    }

    /// Drops the upstream's connection, then ends the client's stream.
    fn cut(&mut self, message: &str) {
        self.link = None;
        if !self.tee.takes_events() {
            self.stage = Stage::Failing { cause: Some(BrokenAnswer::Closed), flushed: false };
            return;
        }
        if self.tee.within_event() {
            self.joined.extend_from_slice(b"\n\n");
        }
        self.joined.extend_from_slice(&error_event(message));
        self.stage = Stage::Ended;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // The client has gone, if the answer was still on its way: what it cost is booked, and the connection is closed, which
        // tells the upstream to stop.
        self.tee.give_up(Timestamp::now());
        if self.woken.is_some() {
            self.shared.forget(self.tee.request());
        }
        self.client.end();
    }
}
