//! One request to the upstream and back.
//!
//! # How it works
//! hyper's client connection is a future that somebody must poll. Spawned as a task of its own, as is usual, each event of an answer costs a
//! hop between tasks and a write (facts/PROXY.md finding 1). Here nobody spawns it: a [`Link`] holds the connection, and whoever waits
//! for the answer polls it: [`send`] until the head is there, then the answer's body. So all that lies ready is taken in one go.
//!
//! Idle links wait in the [`Pool`], polled by nobody. Before one is used again it is polled once, which finds out whether the upstream
//! has closed it; one that is old is dropped. A request is repeated on another connection only if hyper hands it back unsent.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use tokio::time::Instant;

use super::body::RequestBody;
use super::refusal::ApiError;
use super::serve::MAX_HEAD;
use super::shared::Shared;
use super::upstream::{Connected, Stream};

/// Idle connections that are kept: one for each subagent that a session usually has, and some.
const MAX_IDLE: usize = 64;
/// Less than what common load balancers keep an idle connection for (60 s).
const MAX_IDLE_TIME: Duration = Duration::from_secs(45);
const MAX_AGE: Duration = Duration::from_mins(30);

/// How often a connection that calls for more is looked at before others have their turn: tokio, too, calls when a task had its share.
const LOOKS: usize = 2;

/// A connection to the upstream together with who polls it.
pub(super) struct Link {
    hush: Arc<Hush>,
    waker: Waker,
    sender: SendRequest<RequestBody>,
    connection: Pin<Box<Connection<Box<dyn Stream>, RequestBody>>>,
    ended: bool,
    born: Instant,
    idle_since: Instant,
    pub(super) absolute_form: bool,
}

impl Link {
    async fn new(connected: Connected) -> hyper::Result<Self> {
        let (sender, connection) = Builder::new().max_header_size(MAX_HEAD).handshake(connected.io).await?;
        let now = Instant::now();
        let hush = Arc::new(Hush::default());
        Ok(Self {
            waker: Waker::from(Arc::clone(&hush)),
            hush,
            sender,
            connection: Box::pin(connection),
            ended: false,
            born: now,
            idle_since: now,
            absolute_form: connected.absolute_form,
        })
    }

    /// Whether nothing can have changed since the task looked last and found nothing. hyper asks twice whenever it has flushed.
    pub(super) fn is_quiet(&self, cx: &Context<'_>) -> bool {
        !self.hush.heard.load(Ordering::SeqCst) && self.hush.waits(cx.waker())
    }

    /// Begins to take what lies ready, on behalf of the task that `cx` wakes.
    pub(super) fn begin_taking(&self, cx: &Context<'_>) -> Taking {
        self.hush.begin(cx.waker());
        Taking { waker: self.waker.clone(), hush: Arc::clone(&self.hush) }
    }

    /// The next piece of the answer that is read from this connection.
    pub(super) fn poll_frame(&mut self, incoming: &mut Incoming, taking: &Taking) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut hushed = Context::from_waker(&taking.waker);
        for _ in 0..LOOKS {
            taking.hush.heard.store(false, Ordering::SeqCst);
            self.drive(&mut hushed);
            let frame = Pin::new(&mut *incoming).poll_frame(&mut hushed);
            if frame.is_ready() || !taking.hush.heard.load(Ordering::SeqCst) {
                return frame;
            }
        }
        Poll::Pending
    }

    /// Lets the connection read and write as far as it can.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) {
        if !self.ended {
            // How it ended does not matter here: the request or the body under way is told by hyper.
            self.ended = self.connection.as_mut().poll(cx).is_ready();
        }
    }

    /// Whether it can take a request, after one poll to see what has happened meanwhile.
    fn is_usable(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        !self.ended && self.sender.is_ready()
    }
}

/// The time during which a task takes what lies ready on a link.
pub(super) struct Taking {
    waker: Waker,
    hush: Arc<Hush>,
}

impl Taking {
    /// Nothing lies ready any more: from here on the task is woken. It is at once, if somebody called after the last look.
    pub(super) fn end(self, cx: &Context<'_>) {
        if self.hush.end() {
            cx.waker().wake_by_ref();
        }
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        self.hush.at_work.store(false, Ordering::SeqCst);
    }
}

/// A waker that keeps quiet while the task is at work on the link anyway.
///
/// Handing a piece of an answer over, hyper wakes both sides of its channel. Both are in one task here, which would be polled once more
/// for each event, from the client's socket to the upstream's, to find nothing.
#[derive(Default)]
struct Hush {
    task: Mutex<Option<Waker>>,
    at_work: AtomicBool,
    heard: AtomicBool,
    waits: AtomicBool,
}

impl Hush {
    fn begin(&self, waker: &Waker) {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if !task.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *task = Some(waker.clone());
        }
        drop(task);
        self.waits.store(false, Ordering::SeqCst);
        self.at_work.store(true, Ordering::SeqCst);
    }

    /// Whether this task has looked, found nothing, and will be woken.
    fn waits(&self, waker: &Waker) -> bool {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        self.waits.load(Ordering::SeqCst) && task.as_ref().is_some_and(|known| known.will_wake(waker))
    }

    /// Whether somebody called since the last look.
    fn end(&self) -> bool {
        self.waits.store(true, Ordering::SeqCst);
        self.at_work.store(false, Ordering::SeqCst);
        self.heard.load(Ordering::SeqCst)
    }
}

impl Wake for Hush {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.heard.store(true, Ordering::SeqCst);
        if self.at_work.load(Ordering::SeqCst) {
            return;
        }
        if let Some(task) = &*self.task.lock().unwrap_or_else(PoisonError::into_inner) {
            task.wake_by_ref();
        }
    }
}

/// Idle connections.
#[derive(Default)]
pub(super) struct Pool(Mutex<Vec<Link>>);

impl Pool {
    /// Puts a connection back whose answer was read to its end.
    pub(super) fn put(&self, mut link: Link) {
        if !link.is_usable() {
            return;
        }
        let now = Instant::now();
        link.idle_since = now;
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|link| link.is_fresh(now));
        if idle.len() < MAX_IDLE && link.is_fresh(now) {
            idle.push(link);
        }
    }

    /// The connection that was used last, if it still works.
    fn take(&self) -> Option<Link> {
        let now = Instant::now();
        loop {
            let mut link = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            if link.is_fresh(now) && link.is_usable() {
                return Some(link);
            }
        }
    }

    pub(super) fn clear(&self) {
        let links = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        drop(links);
    }
}

impl Link {
    fn is_fresh(&self, now: Instant) -> bool {
        now.duration_since(self.idle_since) < MAX_IDLE_TIME && now.duration_since(self.born) < MAX_AGE
    }
}

/// Why there is no answer.
pub(super) struct Failure {
    /// What the client is told.
    pub(super) error: ApiError,
    /// Whether the upstream may have got the request.
    pub(super) sent: bool,
}

impl Failure {
    fn unsent(error: ApiError) -> Self {
        Self { error, sent: false }
    }
}

/// Sends the request that `build` makes for a connection. `on_send` is called when the first byte may leave.
pub(super) async fn send(
    shared: &Shared,
    request: Request<RequestBody>,
    on_send: impl FnOnce(),
) -> Result<(Response<Incoming>, Link), Failure> {
    let mut on_send = Some(on_send);
    let mut request = request;
    loop {
        let pooled = shared.pool.take();
        let reused = pooled.is_some();
        let mut link = match pooled {
            Some(link) => link,
            None => connect(shared).await.map_err(Failure::unsent)?,
        };
        // The last look before money can be spent: the proxy may have been closed during the wait for a connection.
        shared.refuse_closed().map_err(Failure::unsent)?;
        prepare(shared, &mut request, &link)?;
        if let Some(on_send) = on_send.take() {
            shared.note_sent();
            on_send();
        }
        let answer = tokio::time::timeout(shared.timeouts.answer_head, exchange(&mut link, request)).await;
        match answer {
            Ok(Ok(response)) => return Ok((response, link)),
            Ok(Err(mut failed)) => match failed.take_message() {
                // Unsent as a whole: the upstream had closed the idle connection.
                Some(unsent) if reused => request = unsent,
                unsent => return Err(broken(shared, &failed.into_error(), unsent.is_none())),
            },
            Err(_) => {
                let message = format!("{} has not answered for {} s", shared.connector.origin(), shared.timeouts.answer_head.as_secs());
                return Err(Failure { error: ApiError::unreachable(StatusCode::GATEWAY_TIMEOUT, message, true), sent: true });
            }
        }
    }
}

async fn connect(shared: &Shared) -> Result<Link, ApiError> {
    let connected = shared.connector.connect().await.map_err(|failed| {
        // A closed proxy cuts connections that are being made; the client should hear why.
        shared.refuse_closed().err().unwrap_or_else(|| ApiError::unreachable(StatusCode::BAD_GATEWAY, failed.message, failed.retry))
    })?;
    Link::new(connected).await.map_err(|error| ApiError::unreachable(StatusCode::BAD_GATEWAY, error.to_string(), true))
}

/// Writes the request for the kind of connection it goes out on.
fn prepare(shared: &Shared, request: &mut Request<RequestBody>, link: &Link) -> Result<(), Failure> {
    if !link.absolute_form || request.uri().authority().is_some() {
        return Ok(());
    }
    let target = shared.connector.absolute(request.uri());
    *request.uri_mut() = target.map_err(|error| Failure::unsent(ApiError::invalid(StatusCode::BAD_REQUEST, error.to_string())))?;
    if let Some(value) = shared.connector.proxy_authorization() {
        request.headers_mut().insert(http::header::PROXY_AUTHORIZATION, value);
    }
    Ok(())
}

type TrySend = hyper::client::conn::TrySendError<Request<RequestBody>>;

async fn exchange(link: &mut Link, request: Request<RequestBody>) -> Result<Response<Incoming>, TrySend> {
    let answer = link.sender.try_send_request(request);
    tokio::pin!(answer);
    std::future::poll_fn(|cx| {
        link.drive(cx);
        // What the connection has just read is seen here; an answer that came before is seen too.
        match answer.as_mut().poll(cx) {
            Poll::Ready(outcome) => Poll::Ready(outcome),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

fn broken(shared: &Shared, error: &hyper::Error, sent: bool) -> Failure {
    if let Err(error) = shared.refuse_closed() {
        return Failure { error, sent };
    }
    let why = if error.is_incomplete_message() {
        "closed the connection before it answered".to_owned()
    } else if error.is_parse() {
        format!("answered something that is not HTTP/1.1 ({error})")
    } else {
        let cause = std::error::Error::source(error).map_or_else(String::new, |cause| format!(": {cause}"));
        format!("broke the connection off ({error}{cause})")
    };
    let message = format!("{} {why}", shared.connector.origin());
    Failure { error: ApiError::unreachable(StatusCode::BAD_GATEWAY, message, true), sent }
}
