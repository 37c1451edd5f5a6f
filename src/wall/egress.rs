//! The only way out when the network is cut down to services: an HTTP proxy that lets `CONNECT`, and plain HTTP as package managers of
//! systems still speak it, through to the hosts of a list.
//!
//! It looks names up itself and connects to the very addresses that it judged: what the command believes of a name does not matter. It
//! reads nothing of what is inside a tunnel. What it refuses is told, so that it can be written down.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::uri::Authority;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::hosts::{Denied, HostList, address};

/// Connections at a time; more wait in the kernel's queue.
const MOST_CONNECTIONS: usize = 256;
const HEAD_TIME: Duration = Duration::from_secs(30);
const LOOKUP_TIME: Duration = Duration::from_secs(10);
const CONNECT_TIME: Duration = Duration::from_secs(10);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// A tunnel that carries nothing for so long is dead.
const IDLE_TIME: Duration = Duration::from_hours(2);

/// Of one connection, not of the message (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [HeaderName; 5] = [PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];

type Body = BoxBody<Bytes, hyper::Error>;

/// Somebody who is told which host was refused and why.
pub type OnDenied = Arc<dyn Fn(&str, Denied) + Send + Sync>;

/// The filter.
pub struct Egress {
    hosts: HostList,
    on_denied: OnDenied,
}

/// Why a request goes nowhere.
enum Refusal {
    Denied(Denied),
    Unreachable(String),
    NotAProxyRequest,
}

impl Egress {
    /// With these hosts.
    pub fn new(hosts: HostList, on_denied: OnDenied) -> Arc<Self> {
        Arc::new(Self { hosts, on_denied })
    }

    /// Serves until dropped, and all connections with it.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept(), if connections.len() < MOST_CONNECTIONS => match accepted {
                    Ok((stream, _)) => {
                        connections.spawn(Arc::clone(&self).converse(stream));
                    }
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                },
                Some(_ended) = connections.join_next() => {}
            }
        }
    }

    async fn converse(self: Arc<Self>, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        // Its tunnels end with this connection's task.
        let tunnels = Arc::new(std::sync::Mutex::new(None));
        let service = service_fn(|request| {
            let (filter, tunnels) = (Arc::clone(&self), Arc::clone(&tunnels));
            async move { Ok::<_, Infallible>(filter.answer(request, &tunnels).await) }
        });
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).auto_date_header(false);
        let _ = http.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
        let tunnel = tunnels.lock().ok().and_then(|mut tunnel| tunnel.take());
        if let Some((upgrade, upstream)) = tunnel {
            tunnel_between(upgrade, upstream).await;
        }
    }

    async fn answer(&self, request: Request<Incoming>, tunnel: &std::sync::Mutex<Option<Tunnel>>) -> Response<Body> {
        let target = target(&request);
        let answered = match &target {
            None => Err(Refusal::NotAProxyRequest),
            Some((host, port)) => match self.connect(host, *port).await {
                Err(refusal) => Err(refusal),
                Ok(upstream) if request.method() == Method::CONNECT => {
                    if let Ok(mut tunnel) = tunnel.lock() {
                        *tunnel = Some((hyper::upgrade::on(request), upstream));
                    }
                    Ok(Response::new(empty()))
                }
                Ok(upstream) => forward(request, upstream).await,
            },
        };
        let name = target.map(|(host, port)| format!("{host}:{port}")).unwrap_or_default();
        let (status, words) = match answered {
            Ok(response) => return response,
            Err(Refusal::Denied(denied)) => {
                (self.on_denied)(&name, denied);
                (StatusCode::FORBIDDEN, format!("sentrely: {name} is out of this session's reach: {denied}\n"))
            }
            Err(Refusal::Unreachable(why)) => (StatusCode::BAD_GATEWAY, format!("sentrely: {name} cannot be reached: {why}\n")),
            Err(Refusal::NotAProxyRequest) => (StatusCode::BAD_REQUEST, "sentrely: this is a proxy\n".to_owned()),
        };
        let mut response = Response::new(Full::new(Bytes::from(words)).map_err(|never| match never {}).boxed());
        *response.status_mut() = status;
        response
    }

    async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, Refusal> {
        self.hosts.allows(host, port).map_err(Refusal::Denied)?;
        let unreachable = |why: &str| Refusal::Unreachable(why.to_owned());
        let addresses: Vec<SocketAddr> = match address(host) {
            Some(address) => vec![(address, port).into()],
            None => match timeout(LOOKUP_TIME, tokio::net::lookup_host((host, port))).await {
                Ok(Ok(found)) => found.collect(),
                Ok(Err(error)) => return Err(Refusal::Unreachable(error.to_string())),
                Err(_) => return Err(unreachable("its name was not resolved in time")),
            },
        };
        let allowed: Vec<SocketAddr> = addresses.iter().filter(|to| self.hosts.allows_address(to.ip(), port).is_ok()).copied().collect();
        if allowed.is_empty() {
            return Err(if addresses.is_empty() { unreachable("its name has no address") } else { Refusal::Denied(Denied::NotPublic) });
        }
        let mut why = "no answer in time".to_owned();
        for to in allowed {
            match timeout(CONNECT_TIME, TcpStream::connect(to)).await {
                Ok(Ok(stream)) => {
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Ok(Err(error)) => why = error.to_string(),
                Err(_) => {}
            }
        }
        Err(Refusal::Unreachable(why))
    }
}

/// What becomes of a connection once its `CONNECT` is answered.
type Tunnel = (hyper::upgrade::OnUpgrade, TcpStream);

async fn tunnel_between(upgrade: hyper::upgrade::OnUpgrade, mut upstream: TcpStream) {
    let Ok(upgraded) = upgrade.await else { return };
    let _ = timeout(IDLE_TIME, tokio::io::copy_bidirectional(&mut TokioIo::new(upgraded), &mut upstream)).await;
}

/// Where a request to a proxy wants to go.
fn target(request: &Request<Incoming>) -> Option<(String, u16)> {
    let uri = request.uri();
    let authority: &Authority = uri.authority()?;
    if request.method() != Method::CONNECT && uri.scheme_str() != Some("http") {
        return None;
    }
    let port = match authority.port_u16() {
        Some(port) => port,
        None if request.method() == Method::CONNECT => return None,
        None => 80,
    };
    Some((authority.host().to_owned(), port))
}

/// Plain HTTP: one request on a connection of its own, to the host that was judged and named as such.
async fn forward(request: Request<Incoming>, upstream: TcpStream) -> Result<Response<Body>, Refusal> {
    let broke = |error: &dyn std::error::Error| Refusal::Unreachable(error.to_string());
    let (mut parts, body) = request.into_parts();
    let host = parts.uri.authority().map(ToString::to_string).unwrap_or_default();
    parts.uri = parts.uri.path_and_query().map_or_else(|| Uri::from_static("/"), |path| Uri::from(path.clone()));
    for name in HOP_BY_HOP {
        parts.headers.remove(name);
    }
    parts.headers.remove("proxy-connection");
    parts.headers.insert(HOST, HeaderValue::from_str(&host).map_err(|error| broke(&error))?);
    parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    let (mut sender, connection) = timeout(CONNECT_TIME, hyper::client::conn::http1::handshake(TokioIo::new(upstream)))
        .await
        .map_err(|error| broke(&error))?
        .map_err(|error| broke(&error))?;
    let running = tokio::spawn(connection);
    let answered = sender.send_request(Request::from_parts(parts, body)).await;
    match answered {
        Ok(response) => Ok(response.map(BodyExt::boxed)),
        Err(error) => {
            running.abort();
            Err(broke(&error))
        }
    }
}

fn empty() -> Body {
    Full::new(Bytes::new()).map_err(|never| match never {}).boxed()
}
