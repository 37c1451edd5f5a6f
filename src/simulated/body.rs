//! The body of an answer as it is played: bytes, waits, and ends that come too early.
//!
//! How it works
//!
//! 1. Bytes that need no wait between them are gathered up to [`BURST`] and handed on as one frame: few system calls, so that a bench
//!    measures the proxy and not this.
//! 2. A piece, or a cut, must not overtake the bytes before it. hyper throws away what it has not written when a body fails, so
//!    [`Wire`] counts the flushes of the connection, and the body stays pending until one has come after its last frame.
//! 3. A reset is asked of the socket (linger zero) just before the body fails; hyper then drops the connection.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::answer::{Answer, Cut};
use super::log::{Entry, Outcome};
use super::service::ResetHandle;
use super::sse::{self, Step};

/// The most bytes in one frame.
const BURST: usize = 64 * 1024;

/// A body that plays the steps of an answer.
pub(super) struct AnswerBody {
    steps: VecDeque<Step>,
    /// What the head says about the length; `None` for a stream.
    length: Option<u64>,
    event_pause: Duration,
    ping_every: Option<Duration>,
    ping: Bytes,
    pieces: Vec<usize>,
    pieces_sent: usize,
    buffer: BytesMut,
    wait: Wait,
    /// Whether what came before the cut has left.
    flushed_for_cut: bool,
    wire: Arc<Wire>,
    entry: Entry,
}

enum Wait {
    Nothing,
    Until(Pin<Box<Sleep>>),
    /// For a flush after this many; `None` until hyper holds the bytes in question.
    Flush(Option<u64>),
    Forever,
}

/// The body ends here on purpose.
#[derive(Debug, thiserror::Error)]
#[error("cut by the script")]
pub(super) struct CutByScript;

impl AnswerBody {
    pub(super) fn new(steps: VecDeque<Step>, length: Option<usize>, answer: &Answer, wire: Arc<Wire>, mut entry: Entry) -> Self {
        if length == Some(0) {
            // hyper asks for no bytes of an empty body, so nothing later could note the end.
            entry.end(Outcome::Completed);
        }
        Self {
            steps,
            length: length.map(|length| length as u64),
            event_pause: Duration::from_millis(answer.pace.event_ms),
            ping_every: (answer.pace.ping_ms > 0).then(|| Duration::from_millis(answer.pace.ping_ms)),
            ping: sse::ping(answer.line_end),
            pieces: answer.pieces.iter().copied().filter(|bytes| *bytes > 0).collect(),
            pieces_sent: 0,
            buffer: BytesMut::new(),
            wait: Wait::Nothing,
            flushed_for_cut: false,
            wire,
            entry,
        }
    }

    /// Gathers what can be sent without a wait. A single event when events are paced.
    fn gather(&mut self) {
        while self.buffer.len() < BURST {
            let counted = match self.steps.pop_front() {
                Some(Step::Part(bytes)) => {
                    self.buffer.extend_from_slice(&bytes);
                    continue;
                }
                Some(Step::Event(bytes)) => bytes,
                Some(Step::Repeat(_, 0)) => continue,
                Some(Step::Repeat(bytes, times)) => {
                    self.steps.push_front(Step::Repeat(bytes.clone(), times - 1));
                    bytes
                }
                Some(other @ (Step::Hold(_) | Step::Cut(_))) => {
                    self.steps.push_front(other);
                    return;
                }
                None => return,
            };
            self.buffer.extend_from_slice(&counted);
            if !self.event_pause.is_zero() {
                return;
            }
        }
    }

    /// What to hand to the connection now, if anything.
    fn next_frame(&mut self) -> Option<Bytes> {
        if self.buffer.is_empty() {
            self.gather();
        }
        if self.buffer.is_empty() {
            return None;
        }
        let frame = if self.pieces.is_empty() {
            self.buffer.split().freeze()
        } else {
            let size = self.pieces[self.pieces_sent % self.pieces.len()].min(self.buffer.len());
            self.pieces_sent += 1;
            self.wait = Wait::Flush(None);
            self.buffer.split_to(size).freeze()
        };
        if self.buffer.is_empty() && !self.event_pause.is_zero() && !self.steps.is_empty() {
            self.wait = Wait::Until(Box::pin(tokio::time::sleep(self.event_pause)));
        }
        self.entry.sending(&frame);
        if self.is_end_stream() {
            self.entry.end(Outcome::Completed);
        }
        Some(frame)
    }

    fn hold(&mut self, until: Option<Instant>) {
        let now = Instant::now();
        if until.is_some_and(|until| until <= now) {
            return;
        }
        let ping_at = self.ping_every.and_then(|every| now.checked_add(every)).filter(|at| until.is_none_or(|until| *at < until));
        let Some(wake) = ping_at.or(until) else {
            self.wait = Wait::Forever;
            return;
        };
        if ping_at.is_some() {
            let left = until.map(|until| u64::try_from(until.duration_since(wake).as_millis()).unwrap_or(u64::MAX));
            self.steps.push_front(Step::Hold(left));
            self.steps.push_front(Step::Part(self.ping.clone()));
        }
        self.wait = Wait::Until(Box::pin(tokio::time::sleep_until(wake)));
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = CutByScript;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutByScript>>> {
        let this = self.get_mut();
        loop {
            match &mut this.wait {
                Wait::Nothing => {}
                Wait::Until(sleep) => ready!(sleep.as_mut().poll(cx)),
                Wait::Flush(since) => ready!(this.wire.poll_flushed_after(*since.get_or_insert(this.wire.flushes()), cx)),
                Wait::Forever => return Poll::Pending,
            }
            this.wait = Wait::Nothing;
            if let Some(frame) = this.next_frame() {
                return Poll::Ready(Some(Ok(Frame::data(frame))));
            }
            match this.steps.pop_front() {
                Some(Step::Hold(ms)) => this.hold(match ms {
                    Some(ms) => Instant::now().checked_add(Duration::from_millis(ms)),
                    None => None,
                }),
                Some(Step::Cut(Cut::End)) => {
                    this.entry.end(Outcome::Cut);
                    this.steps.clear();
                    return Poll::Ready(None);
                }
                Some(Step::Cut(how)) if !std::mem::replace(&mut this.flushed_for_cut, true) => {
                    this.steps.push_front(Step::Cut(how));
                    this.wait = Wait::Flush(None);
                }
                Some(Step::Cut(how)) => {
                    if how == Cut::Reset {
                        this.wire.reset();
                    }
                    this.entry.end(Outcome::Cut);
                    this.steps.clear();
                    return Poll::Ready(Some(Err(CutByScript)));
                }
                Some(Step::Event(_) | Step::Repeat(..) | Step::Part(_)) => {}
                None => {
                    this.entry.end(Outcome::Completed);
                    return Poll::Ready(None);
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.buffer.is_empty() && self.steps.iter().all(|step| matches!(step, Step::Repeat(_, 0)))
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// What the body and the connection it is written to tell one another.
pub(super) struct Wire {
    state: Mutex<(u64, Option<Waker>)>,
    reset: Option<ResetHandle>,
}

impl Wire {
    pub(super) fn new(reset: Option<ResetHandle>) -> Self {
        Self { state: Mutex::new((0, None)), reset }
    }

    /// Asks for a TCP reset instead of a close.
    pub(super) fn reset(&self) {
        if let Some(Err(error)) = self.reset.as_ref().map(ResetHandle::arm) {
            tracing::warn!(%error, "could not ask for a reset of a connection");
        }
    }

    fn flushes(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    fn flushed(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 += 1;
        if let Some(waker) = state.1.take() {
            waker.wake();
        }
    }

    fn poll_flushed_after(&self, since: u64, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0 > since {
            return Poll::Ready(());
        }
        state.1 = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// A connection that tells its [`Wire`] when hyper has written all it had: hyper flushes only then.
pub(super) struct Watched<T> {
    pub(super) io: T,
    pub(super) wire: Arc<Wire>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, parts: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.wire.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
