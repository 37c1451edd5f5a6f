//! What all connections of one proxy share.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::agents::{AgentLimits, Agents};
use super::compaction::{Compactions, Look};
use super::dialect::Dialect;
use super::forward::Pool;
use super::hooks::HookAnswerer;
use super::io::{Counts, IoCalls, Sockets};
use super::look::Looks;
use super::memory::BodyMemory;
use super::payer::PayerWatch;
use super::quota::QuotaWatch;
use super::refusal::{ApiError, closed_message};
use super::upstream::Connector;
use super::{BodyTap, Closed, Credential, ProxyConfig, ProxyEvent, RefusalStyle, Sink, Timeouts, TurnTap, auth};
use crate::meter::Meter;
use crate::model::{Billing, Event, RequestId, Thread};

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// Names of the child's making that are remembered at most, so that it cannot fill our memory or the journal.
const MAX_NAMES: usize = 1_000;

/// One proxy.
pub(super) struct Shared {
    pub(super) token: SecretString,
    pub(super) port: u16,
    pub(super) refusal: RefusalStyle,
    pub(super) meter: Meter,
    pub(super) sentinel: Option<String>,
    pub(super) timeouts: Timeouts,
    pub(super) dialect: Dialect,
    pub(super) connector: Connector,
    pub(super) pool: Pool,
    pub(super) client_counts: Arc<Counts>,
    pub(super) body_memory: BodyMemory,
    /// Told of the main conversation's bodies.
    pub(super) body_tap: Option<BodyTap>,
    pub(super) refuse_compaction: bool,
    pub(super) looks: Looks,
    /// Fires when the proxy is closed.
    pub(super) closing: CancellationToken,
    host: String,
    sink: Sink,
    pub(super) hook_slots: Semaphore,
    hooks: OnceLock<HookAnswerer>,
    turn_tap: OnceLock<TurnTap>,
    payer_watch: OnceLock<PayerWatch>,
    quota_watch: OnceLock<QuotaWatch>,
    /// Who paid for the last request.
    payer: Mutex<Option<Billing>>,
    agent_limits: OnceLock<AgentLimits>,
    agents: Mutex<Agents>,
    credential: Mutex<Credential>,
    /// Changes with the credential.
    renewals: watch::Sender<u64>,
    /// How often an answer was cut for the budget, and whom to wake then.
    cuts: AtomicU64,
    running: Mutex<HashMap<RequestId, Waker>>,
    closed: Mutex<Option<Closed>>,
    is_closed: AtomicBool,
    sockets: Arc<Sockets>,
    known: Mutex<HashSet<String>>,
    seen: Mutex<Seen>,
    last_request_ms: AtomicI64,
    sent: AtomicU64,
    active: AtomicUsize,
    idle: Notify,
}

#[derive(Default)]
struct Seen {
    first_request: bool,
    claude_sessions: HashSet<String>,
    compactions: Compactions,
}

impl Shared {
    pub(super) fn new(address: SocketAddr, config: ProxyConfig) -> Self {
        let ProxyConfig { token, upstream, credential, refusal, meter, sentinel, timeouts, sink, body_tap, refuse_compaction } = config;
        let sockets = Arc::new(Sockets::default());
        Self {
            token,
            port: address.port(),
            refusal,
            meter,
            sentinel,
            timeouts,
            dialect: upstream.dialect().clone(),
            connector: Connector::new(upstream, timeouts.connect, Arc::clone(&sockets)),
            pool: Pool::default(),
            client_counts: Arc::default(),
            body_memory: BodyMemory::default(),
            body_tap,
            refuse_compaction,
            looks: Looks::default(),
            closing: CancellationToken::new(),
            host: address.to_string(),
            sink,
            hook_slots: Semaphore::new(super::hooks::MAX_AT_ONCE),
            hooks: OnceLock::new(),
            turn_tap: OnceLock::new(),
            payer_watch: OnceLock::new(),
            quota_watch: OnceLock::new(),
            payer: Mutex::default(),
            agent_limits: OnceLock::new(),
            agents: Mutex::default(),
            credential: Mutex::new(credential),
            renewals: watch::Sender::new(0),
            cuts: AtomicU64::new(0),
            running: Mutex::default(),
            closed: Mutex::new(None),
            is_closed: AtomicBool::new(false),
            sockets,
            known: Mutex::default(),
            seen: Mutex::default(),
            last_request_ms: AtomicI64::new(i64::MIN),
            sent: AtomicU64::new(0),
            active: AtomicUsize::new(0),
            idle: Notify::new(),
        }
    }

    pub(super) fn base_url(&self) -> String {
        base_url(&self.host, &self.token)
    }

    pub(super) fn knows(&self, message_id: &str) -> bool {
        lock(&self.known).contains(message_id)
    }

    pub(super) fn learn(&self, message_id: &str) {
        let mut known = lock(&self.known);
        if !known.contains(message_id) {
            known.insert(message_id.to_owned());
        }
    }

    pub(super) fn last_request_at(&self) -> Option<Timestamp> {
        Timestamp::from_millisecond(self.last_request_ms.load(Ordering::Relaxed)).ok()
    }

    pub(super) fn note_request(&self, now: Timestamp) {
        self.last_request_ms.store(now.as_millisecond(), Ordering::Relaxed);
    }

    pub(super) fn requests_upstream(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(super) fn note_sent(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn io_calls(&self) -> IoCalls {
        let (client_reads, client_writes) = self.client_counts.get();
        let (upstream_reads, upstream_writes) = self.sockets.counts();
        IoCalls { client_reads, client_writes, upstream_reads, upstream_writes }
    }

    /// Tells the session.
    pub(super) fn tell(&self, event: ProxyEvent) -> io::Result<()> {
        (self.sink)(event)
    }

    /// Tells the session something that is already so. If the journal is lost, the next request finds out and is refused.
    pub(super) fn note(&self, event: ProxyEvent) {
        let _ = (self.sink)(event);
    }

    /// The first counts.
    pub(super) fn answer_hooks(&self, answerer: HookAnswerer) {
        let _ = self.hooks.set(answerer);
    }

    /// The first counts.
    pub(super) fn limit_agents(&self, limits: AgentLimits) {
        let _ = self.agent_limits.set(limits);
    }

    /// The first counts.
    pub(super) fn watch_turns(&self, tap: TurnTap) {
        let _ = self.turn_tap.set(tap);
    }

    /// The first counts.
    pub(super) fn watch_payer(&self, watch: PayerWatch) {
        let _ = self.payer_watch.set(watch);
    }

    /// The first counts.
    pub(super) fn watch_quota(&self, watch: QuotaWatch) {
        let _ = self.quota_watch.set(watch);
    }

    pub(super) fn quota_watch(&self) -> Option<&QuotaWatch> {
        self.quota_watch.get()
    }

    pub(super) fn payer_watch(&self) -> Option<&PayerWatch> {
        self.payer_watch.get()
    }

    /// Who paid for the last request. Held while somebody is told, so that changes are told in order.
    pub(super) fn last_payer(&self) -> MutexGuard<'_, Option<Billing>> {
        lock(&self.payer)
    }

    pub(super) fn turn_tap(&self) -> Option<&TurnTap> {
        self.turn_tap.get()
    }

    pub(super) fn hook_answerer(&self) -> Option<&HookAnswerer> {
        self.hooks.get()
    }

    pub(super) fn set_credential(&self, credential: Credential) {
        *lock(&self.credential) = credential;
        self.renewals.send_modify(|count| *count += 1);
    }

    /// Sees every change of the credential from now on; `None` where nobody would replace a rejected one.
    pub(super) fn renewals(&self) -> Option<watch::Receiver<u64>> {
        (!self.timeouts.credential_renewal.is_zero()).then(|| self.renewals.subscribe())
    }

    /// Whether the credential on our requests is ours.
    pub(super) fn credential_is_ours(&self) -> bool {
        matches!(*lock(&self.credential), Credential::ApiKey(_) | Credential::Bearer(_) | Credential::Both { .. })
    }

    /// Whether the child's own credential goes on.
    pub(super) fn passes_credential(&self) -> bool {
        matches!(*lock(&self.credential), Credential::PassThrough)
    }

    /// Puts our credential on. An unusable one is left out: the upstream's answer says more than we could.
    pub(super) fn put_credential(&self, headers: &mut HeaderMap) {
        let (api_key, bearer) = match &*lock(&self.credential) {
            Credential::ApiKey(key) => (Some(key.clone()), None),
            Credential::Bearer(token) => (None, Some(token.clone())),
            Credential::Both { bearer, api_key } => (Some(api_key.clone()), Some(bearer.clone())),
            Credential::PassThrough | Credential::None => return,
        };
        let api_key = api_key.map(|key| (API_KEY, HeaderValue::from_str(key.expose_secret())));
        let bearer = bearer.map(|token| (AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {}", token.expose_secret()))));
        for (name, value) in [api_key, bearer].into_iter().flatten() {
            if let Ok(mut value) = value {
                value.set_sensitive(true);
                headers.insert(name, value);
            }
        }
    }

    /// How often an answer was cut for the budget.
    pub(super) fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::Relaxed)
    }

    /// An answer was cut for the budget: all others look at theirs there and then, rather than with the next event.
    pub(super) fn note_cut(&self) {
        self.cuts.fetch_add(1, Ordering::Relaxed);
        lock(&self.running).values().for_each(Waker::wake_by_ref);
    }

    /// Whom to wake when an answer is cut.
    pub(super) fn wake_at_cuts(&self, request: RequestId, waker: Waker) {
        lock(&self.running).insert(request, waker);
    }

    /// The request's answer is over.
    pub(super) fn forget(&self, request: RequestId) {
        lock(&self.running).remove(&request);
    }

    pub(super) fn close(&self, why: Closed) {
        let mut closed = lock(&self.closed);
        if closed.as_ref().is_none_or(|known| known.reason < why.reason) {
            *closed = Some(why);
        }
        drop(closed);
        self.is_closed.store(true, Ordering::SeqCst);
        self.sockets.cut();
        self.pool.clear();
        self.closing.cancel();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::SeqCst)
    }

    /// What to answer when the proxy is closed.
    pub(super) fn refuse_closed(&self) -> Result<(), ApiError> {
        if !self.is_closed() {
            return Ok(());
        }
        Err(ApiError::refused(self.refusal, self.closed_message()))
    }

    pub(super) fn closed_message(&self) -> String {
        lock(&self.closed).as_ref().map_or_else(|| "this session is over".to_owned(), closed_message)
    }

    /// True for the first request to the model only.
    pub(super) fn is_first_request(&self) -> bool {
        !std::mem::replace(&mut lock(&self.seen).first_request, true)
    }

    /// The event for a Claude session id that was not seen before.
    pub(super) fn claude_session(&self, id: &str) -> Option<Event> {
        let sessions = &mut lock(&self.seen).claude_sessions;
        if sessions.contains(id) || sessions.len() >= MAX_NAMES {
            return None;
        }
        sessions.insert(id.to_owned());
        Some(Event::ClaudeSession { id: id.to_owned() })
    }

    /// The event for a compaction, once for each.
    pub(super) fn compaction(&self, look: &Look<'_>) -> Option<Event> {
        lock(&self.seen).compactions.look(look)
    }

    /// Whether a request is a question beside its conversation.
    pub(super) fn is_aside(&self, thread: &Thread, headers: &HeaderMap, tools: bool) -> bool {
        lock(&self.seen).compactions.is_aside(thread, headers, tools)
    }

    /// Counts a request as under way until the guard is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Active {
        self.active.fetch_add(1, Ordering::SeqCst);
        Active { shared: Arc::clone(self), agent: None }
    }

    pub(super) async fn drained(&self) {
        loop {
            let idle = self.idle.notified();
            tokio::pin!(idle);
            // Registered before the count is read, so a request that ends in between is not missed.
            idle.as_mut().enable();
            if self.active.load(Ordering::SeqCst) == 0 {
                return;
            }
            idle.await;
        }
    }
}

/// A request under way.
pub(super) struct Active {
    shared: Arc<Shared>,
    /// The subagent whose request it is.
    agent: Option<String>,
}

impl Active {
    /// It is a subagent's; or why it may not pass.
    pub(super) fn enter(&mut self, agent: &str, parent: Option<&str>) -> Result<(), String> {
        let limits = self.shared.agent_limits.get().copied().unwrap_or_default();
        lock(&self.shared.agents).enter(limits, agent, parent)?;
        self.agent = Some(agent.to_owned());
        Ok(())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        if let Some(agent) = &self.agent {
            lock(&self.shared.agents).leave(agent);
        }
        if self.shared.active.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.shared.idle.notify_waiters();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change under these locks is one statement: after a panic elsewhere the value is still whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The child's base URL for a proxy at `host`.
pub(super) fn base_url(host: impl std::fmt::Display, token: &SecretString) -> String {
    format!("http://{host}{}{}", auth::PREFIX, token.expose_secret())
}
