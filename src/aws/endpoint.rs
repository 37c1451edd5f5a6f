//! The loopback endpoint from which the child's SDKs fetch the session's credentials (the container protocol of AWS).
//!
//! It answers one path, to GET, on a loopback host name (against DNS rebinding), to whoever has the session's token. The
//! expiry it tells is a minute away at most, whatever the credentials' true one is, so that SDKs come back soon and a
//! closed lease is felt at once (facts/AWS.md section 3). Errors have the form whose message the AWS CLI and SDKs print.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::{SignedDuration, Timestamp};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use subtle::ConstantTimeEq;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::error::AwsError;
use super::vault::{Shut, Vault};

const PATH: &str = "/credentials";
/// The expiry that is told is never further away.
const ADVERTISED: SignedDuration = SignedDuration::from_secs(60);
/// A whole exchange takes milliseconds; who needs longer holds a connection for nothing.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);
const MOST_CONNECTIONS: usize = 64;

/// The listening endpoint.
pub(super) struct Endpoint {
    listener: TcpListener,
    gate: Arc<Gate>,
}

impl Endpoint {
    /// Listens on a random port of 127.0.0.1 with a fresh token.
    pub(super) async fn bind(vault: Arc<Vault>) -> Result<Self, AwsError> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(AwsError::Setup)?;
        let address = listener.local_addr().map_err(AwsError::Setup)?;
        let gate = Gate { vault, token: fresh_token()?, address };
        Ok(Self { listener, gate: Arc::new(gate) })
    }

    /// What goes into `AWS_CONTAINER_CREDENTIALS_FULL_URI`.
    pub(super) fn uri(&self) -> String {
        format!("http://{}{PATH}", self.gate.address)
    }

    /// What goes into `AWS_CONTAINER_AUTHORIZATION_TOKEN`.
    pub(super) fn token(&self) -> SecretString {
        self.gate.token.clone()
    }

    /// Answers until dropped.
    pub(super) async fn serve(self) {
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            if connections.len() >= MOST_CONNECTIONS {
                connections.join_next().await;
            }
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    connections.spawn(converse(stream, Arc::clone(&self.gate)));
                }
                Err(error) => {
                    // Out of descriptors, most likely: they come back.
                    tracing::debug!(%error, "accept on the credentials endpoint");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

async fn converse(stream: TcpStream, gate: Arc<Gate>) {
    let answer = service_fn(|request: Request<Incoming>| {
        let response = gate.answer(request.method(), request.uri().path(), request.headers(), Timestamp::now());
        async move { Ok::<_, Infallible>(response) }
    });
    let exchange = http1::Builder::new().keep_alive(false).timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), answer);
    match tokio::time::timeout(EXCHANGE_TIMEOUT, exchange).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a credentials exchange broke off"),
        Err(_) => tracing::debug!("a credentials exchange took too long"),
    }
}

/// Who gets what.
struct Gate {
    vault: Arc<Vault>,
    token: SecretString,
    address: SocketAddr,
}

impl Gate {
    fn answer(&self, method: &Method, path: &str, headers: &HeaderMap, now: Timestamp) -> Response<Full<Bytes>> {
        match self.decide(method, path, headers, now) {
            Ok(vended) => respond(StatusCode::OK, &vended),
            Err((status, code, message)) => {
                let mut response = respond(status, &Refusal { code, message: &message });
                if status == StatusCode::METHOD_NOT_ALLOWED {
                    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
                }
                response
            }
        }
    }

    fn decide(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        now: Timestamp,
    ) -> Result<Vended, (StatusCode, &'static str, String)> {
        let refuse = |status, code, message: &str| Err((status, code, format!("sentrely: {message}")));
        if !self.is_our_host(headers) {
            return refuse(StatusCode::MISDIRECTED_REQUEST, "BadHost", "the Host header is not this endpoint's");
        }
        let given = headers.get(AUTHORIZATION).map_or(&b""[..], HeaderValue::as_bytes);
        if !bool::from(given.ct_eq(self.token.expose_secret().as_bytes())) {
            return refuse(StatusCode::UNAUTHORIZED, "BadToken", "AWS_CONTAINER_AUTHORIZATION_TOKEN is not this session's");
        }
        if path != PATH {
            return refuse(StatusCode::NOT_FOUND, "NotFound", "there is nothing at this path");
        }
        if method != Method::GET {
            return refuse(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "only GET is answered");
        }
        let (credentials, expires_at) = self.vault.read(now).map_err(|Shut { code, message }| (StatusCode::FORBIDDEN, code, message))?;
        let soon = now.checked_add(ADVERTISED).unwrap_or(expires_at);
        Ok(Vended {
            access_key_id: credentials.access_key_id().to_owned(),
            secret_access_key: credentials.secret_access_key().to_owned(),
            token: credentials.session_token().unwrap_or_default().to_owned(),
            // Whole seconds: older SDKs read no fractions.
            expiration: expires_at.min(soon).strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        })
    }

    /// The name must be a loopback one and the port ours.
    fn is_our_host(&self, headers: &HeaderMap) -> bool {
        let port = self.address.port();
        let ours = [format!("127.0.0.1:{port}"), format!("localhost:{port}")];
        let mut given = headers.get_all(HOST).iter();
        match (given.next(), given.next()) {
            (Some(host), None) => ours.iter().any(|name| host.as_bytes().eq_ignore_ascii_case(name.as_bytes())),
            _ => false,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Vended {
    access_key_id: String,
    secret_access_key: String,
    token: String,
    expiration: String,
}

#[derive(Serialize)]
struct Refusal<'a> {
    code: &'static str,
    message: &'a str,
}

fn respond(status: StatusCode, body: &impl Serialize) -> Response<Full<Bytes>> {
    // Structs of strings always serialise.
    let body = serde_json::to_vec(body).unwrap_or_default();
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// 256 random bits as text.
fn fresh_token() -> Result<SecretString, AwsError> {
    let mut bytes = [0_u8; 32];
    let random = rustls::crypto::ring::default_provider().secure_random;
    random.fill(&mut bytes).map_err(|_| AwsError::Setup(std::io::Error::other("the system gives no random numbers")))?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode(bytes).into())
}

#[cfg(test)]
mod tests {
    use aws_credential_types::Credentials;

    use super::*;

    const NOW: &str = "2026-11-22T07:00:00Z";

    fn gate(expires_at: &str) -> Gate {
        let credentials = Credentials::new("ASIAEXAMPLE", "secret", Some("token".to_owned()), None, "test");
        let vault = Arc::new(Vault::new(credentials, expires_at.parse().unwrap()));
        Gate { vault, token: "0123".to_owned().into(), address: "127.0.0.1:4000".parse().unwrap() }
    }

    fn headers(host: &'static str, token: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static(host));
        headers.insert(AUTHORIZATION, HeaderValue::from_static(token));
        headers
    }

    fn ask(gate: &Gate, headers: &HeaderMap) -> Result<Vended, (StatusCode, &'static str, String)> {
        gate.decide(&Method::GET, PATH, headers, NOW.parse().unwrap())
    }

    fn refusal(answer: Result<Vended, (StatusCode, &'static str, String)>) -> (StatusCode, &'static str) {
        answer.map(|_| ()).map_err(|(status, code, _)| (status, code)).unwrap_err()
    }

    #[test]
    fn the_told_expiry_is_a_minute_away_or_the_true_one_if_that_comes_first() {
        let good = headers("127.0.0.1:4000", "0123");
        let far = ask(&gate("2026-11-22T08:00:00Z"), &good).unwrap();
        assert_eq!((far.access_key_id.as_str(), far.expiration.as_str()), ("ASIAEXAMPLE", "2026-11-22T07:01:00Z"));
        assert_eq!(ask(&gate("2026-11-22T07:00:10.5Z"), &good).unwrap().expiration, "2026-11-22T07:00:10Z");
    }

    #[test]
    fn only_the_token_on_a_loopback_host_opens() {
        let gate = gate("2026-11-22T08:00:00Z");
        assert!(ask(&gate, &headers("LocalHost:4000", "0123")).is_ok());
        for token in ["", "0124", "012", "01234", "Bearer 0123"] {
            assert_eq!(refusal(ask(&gate, &headers("127.0.0.1:4000", token))), (StatusCode::UNAUTHORIZED, "BadToken"), "{token}");
        }
        for host in ["attacker.example:4000", "127.0.0.1:4001", "127.0.0.1", "127.0.0.1.attacker.example:4000"] {
            assert_eq!(refusal(ask(&gate, &headers(host, "0123"))), (StatusCode::MISDIRECTED_REQUEST, "BadHost"), "{host}");
        }
        let mut twice = headers("127.0.0.1:4000", "0123");
        twice.append(HOST, HeaderValue::from_static("127.0.0.1:4000"));
        assert_eq!(refusal(ask(&gate, &twice)), (StatusCode::MISDIRECTED_REQUEST, "BadHost"));
    }

    #[test]
    fn other_methods_and_paths_are_refused() {
        let (gate, good, now) = (gate("2026-11-22T08:00:00Z"), headers("127.0.0.1:4000", "0123"), NOW.parse().unwrap());
        for method in [Method::POST, Method::PUT, Method::HEAD, Method::OPTIONS] {
            let response = gate.answer(&method, PATH, &good, now);
            assert_eq!(
                (response.status(), response.headers()[ALLOW].as_bytes()),
                (StatusCode::METHOD_NOT_ALLOWED, &b"GET"[..]),
                "{method}"
            );
        }
        for path in ["/", "/credentials/", "/role-arn/arn:aws:iam::111122223333:role/admin"] {
            assert_eq!(refusal(gate.decide(&Method::GET, path, &good, now)), (StatusCode::NOT_FOUND, "NotFound"), "{path}");
        }
    }

    #[test]
    fn a_closed_lease_is_refused_with_its_reason() {
        let gate = gate("2026-11-22T08:00:00Z");
        gate.vault.shut(Shut { code: "SessionEnded", message: "the session has ended".to_owned() });
        let response = gate.answer(&Method::GET, PATH, &headers("127.0.0.1:4000", "0123"), NOW.parse().unwrap());
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
    }

    #[test]
    fn tokens_have_256_bits_and_differ() {
        let (one, two) = (fresh_token().unwrap(), fresh_token().unwrap());
        assert_eq!(one.expose_secret().len(), 43);
        assert_ne!(one.expose_secret(), two.expose_secret());
    }
}
