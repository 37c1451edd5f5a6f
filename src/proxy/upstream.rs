//! Where requests go, and how to get there: plain or TLS, straight or through the company's proxy.
//!
//! TLS trusts what [`super::trust`] says, and speaks HTTP/1.1 only (facts/PROXY.md finding 7). The roots are read at the first TLS
//! connection, off the runtime's thread.

use std::error::Error;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Uri};
use hyper::rt::{Read, Write};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::sync::OnceCell;
use tower_service::Service;

use super::dialect::Dialect;
use super::io::{Sockets, UpstreamSocket};
use super::trust::Tls;

/// One address of the upstream; the next is tried after it.
const TCP_TIMEOUT: Duration = Duration::from_secs(10);

/// Where requests go.
#[derive(Debug, Clone)]
pub struct Upstream {
    scheme: Scheme,
    authority: Authority,
    /// Goes before every path; without a slash at its end.
    path: String,
    extra_ca: Option<PathBuf>,
    proxy_env: ProxyEnv,
    dialect: Dialect,
}

/// The variables that name the company's proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyEnv {
    /// `https_proxy` or `HTTPS_PROXY`.
    pub https: Option<String>,
    /// `http_proxy` or `HTTP_PROXY`.
    pub http: Option<String>,
    /// `all_proxy` or `ALL_PROXY`.
    pub all: Option<String>,
    /// `no_proxy` or `NO_PROXY`.
    pub no: Option<String>,
}

/// Why a base URL cannot be an upstream.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UpstreamError {
    /// It is no URL.
    #[error("use `{0}` as the upstream: it is not a URL")]
    NotAUrl(String),
    /// Neither http nor https.
    #[error("use `{0}` as the upstream: it does not begin with http:// or https://")]
    Scheme(String),
    /// It holds a query, a fragment, or a user name.
    #[error("use `{0}` as the upstream: it may only have a scheme, a host, a port and a path")]
    Extra(String),
}

impl UpstreamError {
    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        Some("set ANTHROPIC_BASE_URL or [upstream] base_url to something like https://api.anthropic.com".to_owned())
    }
}

impl ProxyEnv {
    /// Reads the variables as curl and Claude Code do: the lower-case name first. Empty ones count as unset.
    pub fn from_vars(var: impl Fn(&str) -> Option<String>) -> Self {
        let read = |name: &str| [name.to_lowercase(), name.to_owned()].iter().find_map(|name| var(name).filter(|value| !value.is_empty()));
        Self { https: read("HTTPS_PROXY"), http: read("HTTP_PROXY"), all: read("ALL_PROXY"), no: read("NO_PROXY") }
    }
}

impl Upstream {
    /// An upstream at `base_url`, which may carry a path; `extra_ca` is what `NODE_EXTRA_CA_CERTS` names.
    ///
    /// # Errors
    /// When `base_url` is not an http or https URL of scheme, host, port and path.
    pub fn new(base_url: &str, extra_ca: Option<PathBuf>, proxy_env: ProxyEnv) -> Result<Self, UpstreamError> {
        let parts = base_url.parse::<Uri>().map_err(|_| UpstreamError::NotAUrl(base_url.to_owned()))?.into_parts();
        let (Some(scheme), Some(authority)) = (parts.scheme, parts.authority) else {
            return Err(UpstreamError::NotAUrl(base_url.to_owned()));
        };
        if scheme != Scheme::HTTP && scheme != Scheme::HTTPS {
            return Err(UpstreamError::Scheme(base_url.to_owned()));
        }
        let path_and_query = parts.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
        // A user name would be a credential in logs; `Uri` drops a fragment silently.
        if path_and_query.query().is_some() || authority.as_str().contains('@') || base_url.contains('#') {
            return Err(UpstreamError::Extra(base_url.to_owned()));
        }
        let path = path_and_query.path().trim_end_matches('/').to_owned();
        Ok(Self { scheme, authority, path, extra_ca, proxy_env, dialect: Dialect::default() })
    }

    /// The same, speaking another dialect than the Messages API's.
    #[must_use]
    pub fn speaking(self, dialect: Dialect) -> Self {
        Self { dialect, ..self }
    }

    /// What it speaks.
    pub(super) const fn dialect(&self) -> &Dialect {
        &self.dialect
    }

    /// Scheme, host and port: what may be shown and journaled.
    pub fn origin(&self) -> String {
        format!("{}://{}", self.scheme, self.authority)
    }
}

/// A connection to the upstream, whatever it is made of.
pub(super) trait Stream: Read + Write + Send + Unpin {}
impl<T: Read + Write + Send + Unpin> Stream for T {}

/// A connection and how requests must be written on it.
pub(super) struct Connected {
    pub(super) io: Box<dyn Stream>,
    /// Requests carry the whole URL: they go to a company's proxy.
    pub(super) absolute_form: bool,
}

/// Why the upstream cannot be reached.
#[derive(Debug)]
pub(super) struct Unreachable {
    /// In words, for the client.
    pub(super) message: String,
    /// Trying again may help.
    pub(super) retry: bool,
}

/// Makes connections to one upstream.
pub(super) struct Connector {
    upstream: Upstream,
    /// The upstream's origin as a URI, to connect to.
    destination: Uri,
    host_header: Option<HeaderValue>,
    tcp: Tcp,
    matcher: Matcher,
    timeout: Duration,
    tls: OnceCell<Tls>,
}

impl Connector {
    pub(super) fn new(upstream: Upstream, timeout: Duration, sockets: Arc<Sockets>) -> Self {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(TCP_TIMEOUT));
        http.set_keepalive(Some(Duration::from_mins(1)));
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let env = &upstream.proxy_env;
        let matcher = Matcher::builder().all(text(&env.all)).http(text(&env.http)).https(text(&env.https)).no(text(&env.no)).build();
        let mut destination = http::uri::Parts::default();
        destination.scheme = Some(upstream.scheme.clone());
        destination.authority = Some(upstream.authority.clone());
        destination.path_and_query = Some(PathAndQuery::from_static("/"));
        Self {
            destination: Uri::from_parts(destination).unwrap_or_default(),
            host_header: HeaderValue::from_str(upstream.authority.as_str()).ok(),
            tcp: Tcp { http, sockets },
            matcher,
            timeout,
            tls: OnceCell::new(),
            upstream,
        }
    }

    /// `Host` for the upstream.
    pub(super) fn host(&self) -> Option<&HeaderValue> {
        self.host_header.as_ref()
    }

    /// Scheme, host and port.
    pub(super) fn origin(&self) -> String {
        self.upstream.origin()
    }

    /// The target of a request for `path_and_query`, behind the base URL's path.
    pub(super) fn target(&self, path_and_query: &str) -> Result<Uri, http::Error> {
        Uri::builder().path_and_query(format!("{}{path_and_query}", self.upstream.path)).build()
    }

    /// The same target with scheme and authority, as a company's proxy wants it.
    pub(super) fn absolute(&self, target: &Uri) -> Result<Uri, http::Error> {
        let builder = Uri::builder().scheme(self.upstream.scheme.clone()).authority(self.upstream.authority.clone());
        builder.path_and_query(target.path_and_query().map_or("/", PathAndQuery::as_str)).build()
    }

    /// `Proxy-Authorization` for requests in absolute form.
    pub(super) fn proxy_authorization(&self) -> Option<HeaderValue> {
        self.matcher.intercept(&self.destination)?.basic_auth().cloned()
    }

    /// A fresh connection.
    pub(super) async fn connect(&self) -> Result<Connected, Unreachable> {
        let via = self.matcher.intercept(&self.destination);
        let shown = match &via {
            None => self.upstream.origin(),
            Some(via) => format!("{} through the proxy {}", self.upstream.origin(), via.uri().authority().map_or("", Authority::as_str)),
        };
        let mut extra = None;
        let outcome = tokio::time::timeout(self.timeout, async {
            let tls = self.tls().await;
            extra = tls.and_then(|tls| tls.extra_ca_problem.as_deref());
            self.open(via.as_ref(), tls.map(|tls| &tls.config)).await
        });
        match outcome.await {
            Ok(Ok(connected)) => Ok(connected),
            Ok(Err(error)) => {
                let (mut why, retry) = in_words(&*error);
                if let Some(problem) = extra {
                    why = format!("{why} ({problem})");
                }
                Err(Unreachable { message: format!("cannot reach {shown}: {why}"), retry })
            }
            Err(_) => Err(Unreachable {
                message: format!("cannot reach {shown}: no connection within {} s", self.timeout.as_secs()),
                retry: true,
            }),
        }
    }

    /// Loads the roots when the upstream or the way there speaks TLS.
    async fn tls(&self) -> Option<&Tls> {
        let via_tls = self.matcher.intercept(&self.destination).is_some_and(|via| via.uri().scheme_str() == Some("https"));
        if self.upstream.scheme != Scheme::HTTPS && !via_tls {
            return None;
        }
        let extra_ca = self.upstream.extra_ca.clone();
        self.tls
            .get_or_try_init(|| async {
                // Some hundred files to read and parse: not on the thread that forwards answers.
                tokio::task::spawn_blocking(move || Tls::load(extra_ca.as_deref())).await.map_err(drop)?
            })
            .await
            .ok()
    }

    async fn open(&self, via: Option<&Intercept>, tls: Option<&Arc<ClientConfig>>) -> Result<Connected, BoxError> {
        let destination = self.destination.clone();
        let Some(via) = via else {
            return secure(self.tcp.clone(), destination, tls).await;
        };
        let proxy = via.uri().clone();
        match proxy.scheme_str() {
            Some("http" | "https") if self.upstream.scheme == Scheme::HTTP => {
                let connected = secure(self.tcp.clone(), proxy, tls).await?;
                Ok(Connected { absolute_form: true, ..connected })
            }
            Some("http") => secure(tunnel(proxy, self.tcp.clone(), via), destination, tls).await,
            Some("https") => {
                let config = tls.ok_or("TLS could not be set up")?;
                let to_proxy = HttpsConnector::from((self.tcp.clone(), Arc::clone(config)));
                secure(tunnel(proxy, to_proxy, via), destination, tls).await
            }
            Some(scheme @ ("socks5" | "socks5h")) => {
                let local_dns = scheme == "socks5";
                let mut socks = SocksV5::new(proxy, self.tcp.clone()).local_dns(local_dns);
                if let Some((user, password)) = via.raw_auth() {
                    socks = socks.with_auth(user.to_owned(), password.to_owned());
                }
                secure(socks, destination, tls).await
            }
            scheme => Err(format!("a proxy of kind {} is not supported", scheme.unwrap_or("unknown")).into()),
        }
    }
}

type BoxError = Box<dyn Error + Send + Sync>;

fn tunnel<C>(proxy: Uri, connector: C, via: &Intercept) -> Tunnel<C> {
    let tunnel = Tunnel::new(proxy, connector);
    match via.basic_auth() {
        Some(auth) => tunnel.with_auth(auth.clone()),
        None => tunnel,
    }
}

/// Connects by `connector`, and speaks TLS on top when the destination is https.
async fn secure<C>(mut connector: C, destination: Uri, tls: Option<&Arc<ClientConfig>>) -> Result<Connected, BoxError>
where
    C: Service<Uri> + Send,
    C::Response: Read + Write + hyper_util::client::legacy::connect::Connection + Send + Unpin + 'static,
    C::Future: Send + 'static,
    C::Error: Into<BoxError>,
{
    let io: Box<dyn Stream> = if destination.scheme() == Some(&Scheme::HTTPS) {
        let config = tls.ok_or("TLS could not be set up")?;
        Box::new(HttpsConnector::from((connector, Arc::clone(config))).call(destination).await?)
    } else {
        Box::new(connector.call(destination).await.map_err(Into::into)?)
    };
    Ok(Connected { io, absolute_form: false })
}

/// Plain connections whose sockets can be cut.
#[derive(Clone)]
struct Tcp {
    http: HttpConnector,
    sockets: Arc<Sockets>,
}

impl Service<Uri> for Tcp {
    type Response = TokioIo<UpstreamSocket>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.http.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, destination: Uri) -> Self::Future {
        let connecting = self.http.call(destination);
        let sockets = Arc::clone(&self.sockets);
        Box::pin(async move { Ok(TokioIo::new(UpstreamSocket::new(connecting.await?.into_inner(), sockets)?)) })
    }
}

/// The cause of a failed connection as a person says it, and whether trying again may help.
fn in_words(error: &(dyn Error + 'static)) -> (String, bool) {
    let mut innermost = error;
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            match io.kind() {
                io::ErrorKind::ConnectionRefused => return ("connection refused".to_owned(), false),
                io::ErrorKind::TimedOut => return ("connection timed out".to_owned(), true),
                io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => {
                    return ("the connection was closed while it was made".to_owned(), true);
                }
                _ => {}
            }
            // An `io::Error` hides the error that it wraps from `source`.
            if let Some(inner) = io.get_ref() {
                innermost = inner;
                next = Some(inner);
                continue;
            }
        }
        innermost = error;
        next = error.source();
    }
    (innermost.to_string(), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(url: &str) -> Result<Upstream, UpstreamError> {
        Upstream::new(url, None, ProxyEnv::default())
    }

    fn connector(url: &str) -> Connector {
        Connector::new(upstream(url).unwrap(), Duration::from_secs(1), Arc::default())
    }

    #[test]
    fn a_base_url_may_carry_a_path() {
        for (base, target) in [
            ("https://api.anthropic.com", "/v1/messages?beta=true"),
            ("https://api.anthropic.com/", "/v1/messages?beta=true"),
            ("http://gateway:8080/team/a/", "/team/a/v1/messages?beta=true"),
        ] {
            assert_eq!(connector(base).target("/v1/messages?beta=true").unwrap().to_string(), target);
        }
        let gateway = connector("http://gateway:8080/a");
        let absolute = gateway.absolute(&gateway.target("/v1?x").unwrap()).unwrap();
        assert_eq!(absolute.to_string(), "http://gateway:8080/a/v1?x");
    }

    #[test]
    fn what_is_shown_of_it_is_scheme_host_and_port() {
        assert_eq!(upstream("https://gateway:8443/secret-path/").unwrap().origin(), "https://gateway:8443");
    }

    #[test]
    fn a_url_that_cannot_be_an_upstream_is_named() {
        assert_eq!(upstream("api.anthropic.com").unwrap_err(), UpstreamError::NotAUrl("api.anthropic.com".into()));
        assert_eq!(upstream("ftp://x").unwrap_err(), UpstreamError::Scheme("ftp://x".into()));
        for url in ["https://user:pw@x", "https://x/?a=1", "https://x/#a"] {
            assert_eq!(upstream(url).unwrap_err(), UpstreamError::Extra(url.into()));
        }
    }

    #[test]
    fn the_lower_case_variable_goes_first_and_empty_ones_do_not_count() {
        let vars =
            [("HTTPS_PROXY", "http://upper:1"), ("https_proxy", "http://lower:2"), ("http_proxy", ""), ("HTTP_PROXY", "http://upper:3")];
        let env = ProxyEnv::from_vars(|name| vars.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()));
        assert_eq!(env, ProxyEnv { https: Some("http://lower:2".into()), http: Some("http://upper:3".into()), all: None, no: None });
    }
}
