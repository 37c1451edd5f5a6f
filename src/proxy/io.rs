//! The sockets of both sides: their calls are counted, their waits end, and those to the upstream can be cut from outside.

use std::collections::HashMap;
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::Timeouts;

/// How often the sockets were read and written since the proxy's start. A call that found nothing to do is not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IoCalls {
    /// Reads from the child.
    pub client_reads: u64,
    /// Writes to the child.
    pub client_writes: u64,
    /// Reads from the upstream.
    pub upstream_reads: u64,
    /// Writes to the upstream.
    pub upstream_writes: u64,
}

impl IoCalls {
    /// All of them.
    pub const fn total(&self) -> u64 {
        self.client_reads + self.client_writes + self.upstream_reads + self.upstream_writes
    }
}

/// Counts of one side.
#[derive(Debug, Default)]
pub(super) struct Counts {
    reads: AtomicU64,
    writes: AtomicU64,
}

impl Counts {
    pub(super) fn get(&self) -> (u64, u64) {
        (self.reads.load(Ordering::Relaxed), self.writes.load(Ordering::Relaxed))
    }

    fn read<T>(&self, outcome: Poll<T>) -> Poll<T> {
        if outcome.is_ready() {
            self.reads.fetch_add(1, Ordering::Relaxed);
        }
        outcome
    }

    fn write<T>(&self, outcome: Poll<T>) -> Poll<T> {
        if outcome.is_ready() {
            self.writes.fetch_add(1, Ordering::Relaxed);
        }
        outcome
    }
}

/// What a client's connection and its requests know of each other.
#[derive(Debug, Default)]
pub(super) struct ClientState {
    /// A request is being answered: the connection's own timeouts rest.
    busy: AtomicBool,
    /// Requests so far, so that the socket sees one that came and went between two reads.
    requests: AtomicU64,
    /// The client took nothing when last written to, so bytes of ours still wait.
    stalled: AtomicBool,
}

impl ClientState {
    /// A request's head is complete.
    pub(super) fn begin(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.busy.store(true, Ordering::Relaxed);
    }

    /// Its answer is over.
    pub(super) fn end(&self) {
        self.busy.store(false, Ordering::Relaxed);
    }

    pub(super) fn stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }

    fn busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed)
    }
}

/// The child's connection.
pub(super) struct ClientSocket {
    stream: TcpStream,
    counts: Arc<Counts>,
    state: Arc<ClientState>,
    timeouts: Timeouts,
    waiting: Waiting,
    /// The requests that it knows of.
    requests: u64,
    /// Ends the wait for a request.
    read_deadline: Pin<Box<Sleep>>,
    /// Ends the wait for a client that does not read.
    write_deadline: Option<Pin<Box<Sleep>>>,
}

/// What the connection waits for, and so how long.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Nothing,
    FirstByte,
    RestOfHead,
}

impl ClientSocket {
    pub(super) fn new(stream: TcpStream, counts: Arc<Counts>, state: Arc<ClientState>, timeouts: Timeouts) -> Self {
        let read_deadline = Box::pin(tokio::time::sleep(timeouts.request_head));
        Self { stream, counts, state, timeouts, waiting: Waiting::RestOfHead, requests: 0, read_deadline, write_deadline: None }
    }

    fn wait_for(&mut self, what: Waiting) {
        if self.waiting == what {
            return;
        }
        self.waiting = what;
        match what {
            Waiting::Nothing => {}
            Waiting::FirstByte => self.read_deadline.as_mut().reset(Instant::now() + self.timeouts.idle_client),
            Waiting::RestOfHead => self.read_deadline.as_mut().reset(Instant::now() + self.timeouts.request_head),
        }
    }

    fn after_write<T>(&mut self, outcome: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let outcome = self.counts.write(outcome);
        self.state.stalled.store(outcome.is_pending(), Ordering::Relaxed);
        if outcome.is_ready() {
            self.write_deadline = None;
            return outcome;
        }
        let timeout = self.timeouts.stalled_client;
        let deadline = self.write_deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read its answer")))
    }
}

impl AsyncRead for ClientSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_read(cx, buf);
        let requests = this.state.requests.load(Ordering::Relaxed);
        if requests != this.requests {
            this.requests = requests;
            this.wait_for(Waiting::Nothing);
        }
        if this.state.busy() {
            return this.counts.read(outcome);
        }
        if outcome.is_ready() {
            this.wait_for(Waiting::RestOfHead);
            return this.counts.read(outcome);
        }
        if this.waiting == Waiting::Nothing {
            this.wait_for(Waiting::FirstByte);
        }
        ready!(this.read_deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not finish its request's head")))
    }
}

impl AsyncWrite for ClientSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.after_write(outcome, cx)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.after_write(outcome, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// All connections to the upstream, so that they can be shut down at once, whoever holds them.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    open: Mutex<Open>,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Open {
    closed: bool,
    next: u64,
    /// Duplicates: shutting one down shuts down the connection, not just the descriptor.
    handles: HashMap<u64, std::net::TcpStream>,
}

impl Sockets {
    /// Shuts down every connection there is, and every one that comes. The kernel sends and takes nothing more when this returns.
    pub(super) fn cut(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.closed = true;
        for (_, handle) in open.handles.drain() {
            // One that the other side has already reset cannot be shut down, and need not be.
            let _ = handle.shutdown(Shutdown::Both);
        }
    }

    pub(super) fn counts(&self) -> (u64, u64) {
        self.counts.get()
    }
}

/// A connection to the upstream.
pub(super) struct UpstreamSocket {
    stream: TcpStream,
    sockets: Arc<Sockets>,
    id: u64,
}

impl UpstreamSocket {
    /// # Errors
    /// When the connection cannot be duplicated, or the proxy is closed.
    pub(super) fn new(stream: TcpStream, sockets: Arc<Sockets>) -> io::Result<Self> {
        let handle = std::net::TcpStream::from(stream.as_fd().try_clone_to_owned()?);
        let mut open = sockets.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.closed {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the session is closed"));
        }
        open.next += 1;
        let id = open.next;
        open.handles.insert(id, handle);
        drop(open);
        Ok(Self { stream, sockets, id })
    }
}

impl Drop for UpstreamSocket {
    fn drop(&mut self) {
        self.sockets.open.lock().unwrap_or_else(PoisonError::into_inner).handles.remove(&self.id);
    }
}

impl Connection for UpstreamSocket {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for UpstreamSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.sockets.counts.read(Pin::new(&mut this.stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for UpstreamSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.sockets.counts.write(Pin::new(&mut this.stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.sockets.counts.write(Pin::new(&mut this.stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
