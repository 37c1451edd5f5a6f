//! The listener and its connections: few, short, one request each.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use secrecy::SecretString;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::answer::Answer;
use super::{TokenError, guard, routes, token};
use crate::store::StateDir;

/// Connections at a time; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;
/// How long a request's head may take, and then its body.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a connection may last, however slowly it takes its answer. Longer than the longest wait for a kill.
const LONGEST_CONNECTION: Duration = Duration::from_mins(1);
/// A request's head.
const MAX_HEAD: usize = 16 * 1024;
/// After an error of `accept`: there are no descriptors left, and asking again at once would not help.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The bound server.
pub struct Dashboard {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// What all requests share.
pub(super) struct Shared {
    pub(super) state: StateDir,
    pub(super) patience: Duration,
    token: SecretString,
    port: u16,
}

/// Why it cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum DashboardError {
    /// The token file cannot be used.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The port cannot be had.
    #[error("listen on 127.0.0.1:{port}")]
    Listen {
        /// Which.
        port: u16,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl DashboardError {
    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Token(error) => error.hint(),
            Self::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse => {
                Some("leave --port out: a free one is taken then".to_owned())
            }
            Self::Listen { .. } => None,
        }
    }
}

impl Dashboard {
    /// Listens on `port` of 127.0.0.1 (0: a random one); the token is made if there is none.
    ///
    /// # Errors
    /// [`DashboardError`].
    pub async fn bind(state: StateDir, port: u16) -> Result<Self, DashboardError> {
        let token = token::load_or_create(state.path())?;
        let listen = |source| DashboardError::Listen { port, source };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let shared = Shared { state, patience: PATIENCE, token, port: address.port() };
        Ok(Self { listener, address, shared: Arc::new(shared) })
    }

    /// Its URL, without a trailing slash.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The file that holds the token.
    pub fn token_file(&self) -> PathBuf {
        token::path(self.shared.state.path())
    }

    /// Serves until it is dropped, and all connections with it.
    pub async fn serve(self) -> Infallible {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                    Ok((stream, peer)) => {
                        connections.spawn(connection(stream, peer, Arc::clone(&self.shared)));
                    }
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                },
                Some(_ended) = connections.join_next() => {}
            }
        }
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, shared: Arc<Shared>) {
    let service = service_fn(|request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(answer(&shared, peer, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .keep_alive(false)
        .max_header_size(MAX_HEAD)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    // How it ended is the client's affair.
    let _ = tokio::time::timeout(LONGEST_CONNECTION, connection).await;
}

async fn answer(shared: &Shared, peer: SocketAddr, request: Request<Incoming>) -> Answer {
    let (parts, body) = request.into_parts();
    let answered = match guard::check(&parts, peer, shared.port, &shared.token) {
        Ok(()) => routes::answer(shared, &parts, peer, body).await,
        Err(refusal) => Err(refusal),
    };
    answered.unwrap_or_else(super::answer::Refusal::into_answer)
}
