//! The session's hold on its role: credentials minted, renewed, vended, and withdrawn.
//!
//! # How it works
//!
//! [`Lease::start`] mints the first credentials before it returns, so a role that cannot be assumed refuses the session.
//! From then on a thread of the lease's own renews them at half of their life and serves the endpoint. A renewal that
//! fails is tried again until the credentials in hand expire; then the lease is lost, and says so. [`Lease::close`] turns
//! vending off before it returns; the endpoint goes on to say so until the lease is dropped.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::assume_role::{Minted, RoleSession};
use super::client::{Source, Sts};
use super::endpoint::Endpoint;
use super::environment::{Delivery, StaticCredentials};
use super::error::AwsError;
use super::identity::Arn;
use super::schedule::{renew_at, retry_after, wait_until};
use super::thread;
use super::vault::{Shut, Vault};
use crate::model::SessionId;

/// What a session asks for.
#[derive(Debug, Clone)]
pub struct LeaseRequest {
    /// The role to assume: `arn:aws:iam::<account>:role/<name>`.
    pub role_arn: String,
    /// The session whose id goes on every credential.
    pub session: SessionId,
    /// Who runs the session; sanitised here.
    pub developer: String,
    /// What it works on; sanitised here.
    pub project: String,
    /// How long one set of credentials shall live; an hour unless said, and never more when the role is chained.
    pub duration: Option<Duration>,
    /// What the role's trust policy may ask of third parties.
    pub external_id: Option<String>,
    /// How the child gets the credentials.
    pub delivery: DeliveryKind,
    /// The developer's own credentials and region.
    pub source: Source,
}

/// `[aws] delivery`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeliveryKind {
    /// The loopback endpoint.
    #[default]
    Endpoint,
    /// Static variables, for tools and containers that cannot reach 127.0.0.1.
    Env,
}

/// What happens to a lease after it began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseEvent {
    /// New credentials are vended. The first are told as well.
    Minted {
        /// `ASIA...`: with it `whois` finds the session from a CloudTrail event.
        access_key_id: String,
        /// Their true end.
        expires_at: Timestamp,
    },
    /// A renewal failed; the credentials in hand are good until `until`, and it is tried again. Told once a reason.
    RenewalFailed {
        /// What AWS said.
        why: String,
        /// The end of the credentials in hand.
        until: Timestamp,
    },
    /// The credentials expired and nothing is vended any more.
    Lost {
        /// What AWS said last.
        why: String,
    },
}

/// A role session that is kept alive. Dropping it closes it.
pub struct Lease {
    session: SessionId,
    vault: Arc<Vault>,
    /// Stops renewing.
    closed: CancellationToken,
    /// Ends the thread, and the endpoint with it.
    dropped: CancellationToken,
    delivery: Delivery,
    region: Option<String>,
    role_session_name: String,
    role_session_arn: String,
    events: Option<mpsc::UnboundedReceiver<LeaseEvent>>,
}

impl Lease {
    /// Assumes the role and begins to vend. Fails when the first credentials cannot be had.
    ///
    /// May be awaited from any runtime: all work is done on the lease's own thread. Dropping the future ends that thread.
    pub async fn start(request: LeaseRequest) -> Result<Self, AwsError> {
        Arn::role(&request.role_arn)?;
        let (mut ready, begun) = oneshot::channel();
        thread::start("aws-lease", async move || {
            let begun = tokio::select! {
                begun = begin(request) => begun,
                () = ready.closed() => return,
            };
            match begun {
                Ok((lease, keeper, endpoint)) => {
                    let dropped = lease.dropped.clone();
                    // When nobody waits any more the lease drops here, which ends what follows.
                    drop(ready.send(Ok(lease)));
                    Box::pin(dropped.run_until_cancelled(run(keeper, endpoint))).await;
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        })?;
        begun.await.map_err(|_| AwsError::ThreadEnded)?
    }

    /// What happens from now on, the first mint included. They can be taken once.
    pub fn events(&mut self) -> Option<mpsc::UnboundedReceiver<LeaseEvent>> {
        self.events.take()
    }

    /// Withdraws the credentials: when this returns, the endpoint answers 403 and they are forgotten.
    pub fn close(&self) {
        let message = format!("sentrely: session {} has ended and its AWS credentials are withdrawn", self.session.short());
        self.vault.shut(Shut { code: "SessionEnded", message });
        self.closed.cancel();
    }

    /// How the child gets the credentials: what `child_variables` wants.
    pub fn delivery(&self) -> &Delivery {
        &self.delivery
    }

    /// The region the machine's configuration or the request names, for the child.
    pub fn region(&self) -> Option<&str> {
        self.region.as_deref()
    }

    /// `<session id>-<developer>`, as CloudTrail shows it.
    pub fn role_session_name(&self) -> &str {
        &self.role_session_name
    }

    /// `arn:aws:sts::<account>:assumed-role/<role>/<role session name>`, as `aws sts get-caller-identity` prints it.
    pub fn role_session_arn(&self) -> &str {
        &self.role_session_arn
    }

    /// The true end of the credentials in hand; none when closed or lost.
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.vault.expires_at()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.close();
        self.dropped.cancel();
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("role_session_arn", &self.role_session_arn).finish_non_exhaustive()
    }
}

/// Mints the first credentials and sets up what vends and keeps them.
async fn begin(request: LeaseRequest) -> Result<(Lease, Keeper, Option<Endpoint>), AwsError> {
    let home = Arn::role(&request.role_arn)?.home_region();
    let mut sts = Sts::connect(&request.source, Some(home)).await?;
    let role = RoleSession::new(request.role_arn, request.session, &request.developer, &request.project)
        .external_id(request.external_id)
        .duration(request.duration);
    let (tell, events) = mpsc::unbounded_channel();
    let minted = role.mint(&mut sts).await?;
    let term = Term::begins(&minted, &tell);
    let keys = (request.delivery == DeliveryKind::Env).then(|| StaticCredentials::from(&minted.credentials));
    let vault = Arc::new(Vault::new(minted.credentials, minted.expires_at));
    let (endpoint, delivery) = if let Some(keys) = keys {
        (None, Delivery::Static(keys))
    } else {
        let endpoint = Endpoint::bind(Arc::clone(&vault)).await?;
        let delivery = Delivery::Endpoint { uri: endpoint.uri(), token: endpoint.token() };
        (Some(endpoint), delivery)
    };
    let closed = CancellationToken::new();
    let lease = Lease {
        session: request.session,
        vault: Arc::clone(&vault),
        closed: closed.clone(),
        dropped: CancellationToken::new(),
        delivery,
        region: sts.region().map(str::to_owned),
        role_session_name: role.name().to_owned(),
        role_session_arn: minted.arn,
        events: Some(events),
    };
    let renews = request.delivery == DeliveryKind::Endpoint;
    Ok((lease, Keeper { sts, role, vault, tell, closed, term, renews }, endpoint))
}

/// Renews and vends until cancelled.
async fn run(keeper: Keeper, endpoint: Option<Endpoint>) {
    let vend = async {
        match endpoint {
            Some(endpoint) => endpoint.serve().await,
            None => std::future::pending().await,
        }
    };
    tokio::join!(keeper.keep(), vend);
}

/// Keeps the vault filled.
struct Keeper {
    sts: Sts,
    role: RoleSession,
    vault: Arc<Vault>,
    tell: mpsc::UnboundedSender<LeaseEvent>,
    closed: CancellationToken,
    term: Term,
    /// Variables of a running process cannot be renewed.
    renews: bool,
}

/// The life of one set of credentials.
#[derive(Clone, Copy)]
struct Term {
    renew_at: Timestamp,
    expires_at: Timestamp,
}

impl Term {
    /// Now; and says so.
    fn begins(minted: &Minted, tell: &mpsc::UnboundedSender<LeaseEvent>) -> Self {
        let (access_key_id, expires_at) = (minted.credentials.access_key_id().to_owned(), minted.expires_at);
        // An owner that takes no events has nobody to tell.
        let _ = tell.send(LeaseEvent::Minted { access_key_id, expires_at });
        Self { renew_at: renew_at(Timestamp::now(), expires_at), expires_at }
    }
}

impl Keeper {
    /// Until the lease is closed or lost.
    async fn keep(mut self) {
        let closed = self.closed.clone();
        if let Some(why) = closed.run_until_cancelled(self.keep_until_lost()).await {
            let message = format!("sentrely: the session's AWS credentials expired and could not be renewed: {why}");
            self.vault.shut(Shut { code: "CredentialsLost", message });
            let _ = self.tell.send(LeaseEvent::Lost { why });
        }
    }

    async fn keep_until_lost(&mut self) -> String {
        if !self.renews {
            wait_until(self.term.expires_at).await;
            return "credentials given as variables (delivery = \"env\") cannot be renewed".to_owned();
        }
        loop {
            wait_until(self.term.renew_at).await;
            let mut why = "they expired while they were being renewed".to_owned();
            let end = self.term.expires_at;
            let renewed = tokio::select! {
                renewed = self.renew(&mut why) => renewed,
                () = wait_until(end) => None,
            };
            match renewed {
                Some(term) => self.term = term,
                None => return why,
            }
        }
    }

    /// Tries until it succeeds; none when the lease was closed meanwhile. `why` is kept at the last failure.
    async fn renew(&mut self, why: &mut String) -> Option<Term> {
        let mut failures = 0;
        loop {
            match self.role.mint(&mut self.sts).await {
                Ok(minted) => {
                    if !self.vault.put(minted.credentials.clone(), minted.expires_at) {
                        return None;
                    }
                    return Some(Term::begins(&minted, &self.tell));
                }
                Err(error) => {
                    failures += 1;
                    let said = error.chain();
                    if failures == 1 || said != *why {
                        why.clone_from(&said);
                        let _ = self.tell.send(LeaseEvent::RenewalFailed { why: said, until: self.term.expires_at });
                    }
                    let again = Timestamp::now().checked_add(retry_after(failures)).unwrap_or(self.term.expires_at);
                    wait_until(again).await;
                }
            }
        }
    }
}
