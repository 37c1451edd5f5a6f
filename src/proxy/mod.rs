//! The child's only way to the model: a metering reverse proxy on loopback.
//!
//! One request: [`auth`] (session token in the URL path, loopback `Host`) -> [`admission`] (what is asked, one scan of the body,
//! a reservation of the meter, the journal) -> [`refusal`] in the API's own form, or [`forward`] to the [`upstream`] with the
//! real credential -> [`tee`]: the answer's frames go on unchanged and at once, a copy feeds the decoder of [`anthropic`], and
//! the request is settled before its last frame is handed on.
//!
//! What it promises: no byte of a body is changed (I1); nothing that uses the model goes upstream without a permit (I2); an answer that is
//! lost is booked at what it may have cost (I3); after [`Proxy::close`] returns nothing more is sent or received (I4); prompts and
//! answers are never stored (I6). Answers pass in constant memory; every wait has its timeout.
//!
//! It relies on a tokio runtime being current in [`Proxy::start`] and on the sink answering quickly: it is called in line.

mod admission;
mod agents;
mod anthropic;
mod auth;
mod body;
mod compaction;
mod dialect;
mod forward;
mod frames;
mod hooks;
mod io;
mod look;
mod memory;
mod payer;
mod quota;
mod refusal;
mod scan;
mod serve;
mod shared;
mod tee;
mod trust;
mod upstream;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub use self::agents::AgentLimits;
pub use self::dialect::Dialect;
pub use self::hooks::HookAnswerer;
pub use self::io::IoCalls;
pub use self::memory::SentBody;
pub use self::payer::PayerWatch;
pub use self::quota::QuotaWatch;
pub use self::refusal::RefusalStyle;
use self::shared::Shared;
pub use self::upstream::{ProxyEnv, Upstream, UpstreamError};
use crate::meter::Meter;
use crate::model::{Billing, Event, RequestId, StopReason, Thread};

/// What the proxy is started with.
pub struct ProxyConfig {
    /// The session's secret: the first part of every path that the child may ask for. It never goes upstream.
    pub token: SecretString,
    /// Where requests go.
    pub upstream: Upstream,
    /// What the proxy puts on them.
    pub credential: Credential,
    /// How a refusal looks.
    pub refusal: RefusalStyle,
    /// Who decides.
    pub meter: Meter,
    /// The value of `x-sentrely-run` that shows that our settings were applied; the header is stripped before the upstream.
    pub sentinel: Option<String>,
    /// How long things are waited for.
    pub timeouts: Timeouts,
    /// Told of everything that happens. Called in line and in order; an error means that the journal is lost, and then
    /// the request at hand is not sent.
    pub sink: Sink,
    /// Given each body of the main conversation once its answer has begun, if anybody wants them. Called in line: it must only put
    /// the body aside.
    pub body_tap: Option<BodyTap>,
    /// Refuse the main conversation's requests for a summary, so that it is never compacted.
    pub refuse_compaction: bool,
}

/// How long the proxy waits, on either side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For the rest of a request's head, from its first byte.
    pub request_head: Duration,
    /// For the next piece of a request's body.
    pub request_body: Duration,
    /// For the next request on an open connection.
    pub idle_client: Duration,
    /// For a client that takes nothing of its answer.
    pub stalled_client: Duration,
    /// For a connection to the upstream: TCP, the company's proxy and TLS together.
    pub connect: Duration,
    /// For the head of an answer.
    pub answer_head: Duration,
    /// For the next piece of an answer.
    pub silent_upstream: Duration,
    /// For another credential in place of a rejected one, after which a request to the model is sent once more. Zero: nobody renews it.
    pub credential_renewal: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            request_head: Duration::from_secs(30),
            request_body: Duration::from_mins(1),
            // A person may think about the next prompt.
            idle_client: Duration::from_hours(1),
            // It may have been suspended with Ctrl-Z.
            stalled_client: Duration::from_mins(15),
            connect: Duration::from_secs(20),
            // An unstreamed answer with much thinking takes minutes. Claude Code itself gives up after 300 to 600 s.
            answer_head: Duration::from_mins(15),
            silent_upstream: Duration::from_mins(15),
            credential_renewal: Duration::ZERO,
        }
    }
}

/// Where the main conversation's bodies go, to be looked at off the path.
pub type BodyTap = Arc<dyn Fn(RequestId, SentBody) + Send + Sync>;

/// Where the bodies of all conversations go that were let through, to be looked at off the path. Called in line: it must not wait.
pub type TurnTap = Arc<dyn Fn(&Thread, SentBody) + Send + Sync>;

/// Where the proxy's events go.
pub type Sink = Arc<dyn Fn(ProxyEvent) -> std::io::Result<()> + Send + Sync>;

/// The real credential. Unless it is [`Credential::PassThrough`], whatever the child sent in `x-api-key` and
/// `authorization` is taken off first.
#[derive(Debug, Clone)]
pub enum Credential {
    /// Goes into `x-api-key`.
    ApiKey(SecretString),
    /// Goes into `authorization: Bearer`.
    Bearer(SecretString),
    /// Both headers, as Claude Code sends them where a token and a key are set, or a helper's answer.
    Both {
        /// Goes into `authorization: Bearer`.
        bearer: SecretString,
        /// Goes into `x-api-key`.
        api_key: SecretString,
    },
    /// What the child sends goes on unchanged: the user's own login file.
    PassThrough,
    /// Nothing is put on, and what the child sends is taken off.
    None,
}

impl Credential {
    /// Who pays with it; `None` where it is the child's own, or none at all.
    pub fn billing(&self) -> Option<Billing> {
        match self {
            Self::ApiKey(secret) | Self::Bearer(secret) | Self::Both { api_key: secret, .. } => {
                Some(payer::of_secret(secret.expose_secret()))
            }
            Self::PassThrough | Self::None => None,
        }
    }
}

/// What the session must know.
#[derive(Debug, Clone, PartialEq)]
pub enum ProxyEvent {
    /// For the journal: `RequestAdmitted`, `CeilingRaised`, `RequestRefused`, `Malformed`, `Compaction`, `ClaudeSession`.
    /// `RequestSettled` is written by the meter's observer.
    Journal(Event),
    /// A request was refused for the budget, or a running answer was cut for it.
    BudgetReached {
        /// As the client was told.
        why: String,
    },
    /// The upstream answered 401 or 403 to the credential that we put on.
    CredentialRejected {
        /// Which of the two.
        status: u16,
    },
    /// The first request to the model came.
    FirstRequest {
        /// Whether it carried the sentinel header: the settings that we injected are in force.
        custom_headers: bool,
    },
}

/// Why the proxy is closed; the client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// Why. Of several the gravest is told.
    pub reason: StopReason,
    /// What was said, shown after the reason.
    pub note: Option<String>,
}

impl Closed {
    /// Closed for this reason, without a note.
    pub const fn because(reason: StopReason) -> Self {
        Self { reason, note: None }
    }
}

/// A running proxy. Dropped, it stops at once; what was under way is booked by the meter as lost.
pub struct Proxy {
    shared: Arc<Shared>,
    acceptor: JoinHandle<()>,
}

impl Proxy {
    /// Serves on `listener`, which must be bound to a loopback address. Answers from the moment it returns.
    ///
    /// # Errors
    /// When the listener has no address, or not one on loopback.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(listener: TcpListener, config: ProxyConfig) -> std::io::Result<Self> {
        let address = listener.local_addr()?;
        if !address.ip().is_loopback() {
            return Err(std::io::Error::new(
                std::io::ErrorKind::InvalidInput,
                format!("the proxy would listen on {address}, which is not a loopback address"),
            ));
        }
        let shared = Arc::new(Shared::new(address, config));
        let acceptor = tokio::spawn(serve::accept(listener, Arc::clone(&shared)));
        Ok(Self { shared, acceptor })
    }

    /// What [`Proxy::base_url`] will be for a proxy on `address`: the child's environment is made before the proxy starts.
    pub fn url_for(address: std::net::SocketAddr, token: &SecretString) -> String {
        shared::base_url(address, token)
    }

    /// The child's base URL. It holds the session's token: it belongs into the child's environment, not into logs.
    pub fn base_url(&self) -> String {
        self.shared.base_url()
    }

    /// Whether an answer with this message id went through here. True from before its first byte reaches the client.
    pub fn knows(&self, message_id: &str) -> bool {
        self.shared.knows(message_id)
    }

    /// When the child last asked for anything with the right token.
    pub fn last_request_at(&self) -> Option<Timestamp> {
        self.shared.last_request_at()
    }

    /// Requests of any kind that were sent upstream.
    pub fn requests_upstream(&self) -> u64 {
        self.shared.requests_upstream()
    }

    /// Reads and writes on the sockets of both sides since the start.
    pub fn io_calls(&self) -> IoCalls {
        self.shared.io_calls()
    }

    /// Puts another credential in force, for requests from now on.
    pub fn set_credential(&self, credential: Credential) {
        self.shared.set_credential(credential);
    }

    /// Where the client's hooks may ask, for a proxy with this base URL. It holds the session's token, as [`Proxy::base_url`] does.
    pub fn hook_url(base_url: &str) -> String {
        format!("{base_url}{}", hooks::PATH)
    }

    /// Who answers the client's hooks; the first counts. Until then, and without one, they are told nothing.
    pub fn answer_hooks(&self, answerer: HookAnswerer) {
        self.shared.answer_hooks(answerer);
    }

    /// How many subagents may ask at a time and how deep; the first counts.
    pub fn limit_agents(&self, limits: AgentLimits) {
        self.shared.limit_agents(limits);
    }

    /// Who is told of a change of who pays, and may refuse it; the first counts.
    pub fn watch_payer(&self, watch: PayerWatch) {
        self.shared.watch_payer(watch);
    }

    /// Who is told of a subscription's allowance with each answer that tells it; the first counts.
    pub fn watch_quota(&self, watch: QuotaWatch) {
        self.shared.watch_quota(watch);
    }

    /// Who looks at the tool calls that requests repeat; the first counts.
    pub fn watch_turns(&self, tap: TurnTap) {
        self.shared.watch_turns(tap);
    }

    /// Refuses every request from here on, for this reason, and cuts what is running: when this returns, the upstream's connections are
    /// shut down, so nothing is sent or received any more. Closing again with a graver reason changes what is said.
    pub fn close(&self, why: Closed) {
        self.shared.close(why);
    }

    /// Waits until no request is under way. After [`Proxy::close`] that is at most a second; everything is booked then.
    pub async fn drained(&self) {
        self.shared.drained().await;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.close(Closed::because(StopReason::Terminated));
        // The connections' tasks belong to the acceptor and end with it.
        self.acceptor.abort();
    }
}
