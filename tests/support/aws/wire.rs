//! The double's HTTP: the query protocol in, XML out. And a client for the credentials endpoint.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::rules::{Granted, Refusal, World};
use super::sigv4::Claim;
use super::{ACCOUNT, Seen};

/// Ends the server's thread when dropped.
pub(super) struct Server(#[expect(dead_code, reason = "held for its drop")] DropGuard);

impl Server {
    /// Serves on a thread of its own: tests may block theirs.
    pub(super) fn start(world: Arc<Mutex<World>>) -> (Self, String) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        std::thread::spawn(move || runtime.block_on(stopped.run_until_cancelled(serve(listener, world))));
        (Self(stop.drop_guard()), url)
    }
}

async fn serve(listener: std::net::TcpListener, world: Arc<Mutex<World>>) {
    let listener = TcpListener::from_std(listener).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let world = Arc::clone(&world);
        tokio::spawn(async move {
            let answer = service_fn(|request: Request<Incoming>| {
                let world = Arc::clone(&world);
                async move {
                    let (parts, body) = request.into_parts();
                    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
                    Ok::<_, Infallible>(answer(&world, &parts, &body))
                }
            });
            // A client that goes away is none of our business.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

fn answer(world: &Mutex<World>, parts: &Parts, body: &[u8]) -> Response<Full<Bytes>> {
    let mut params = read_form(body);
    let action = params.remove("Action").unwrap_or_default();
    let version = params.remove("Version").unwrap_or_default();
    let mut world = world.lock().unwrap();
    let claim = Claim::read(parts);
    let access_key_id = claim.as_ref().map_or("", |claim| claim.access_key_id).to_owned();
    let outcome = claim.and_then(|claim| decide(&mut world, &claim, parts, body, (&action, &version), &params));
    let refused = outcome.as_ref().err().map(|refusal| refusal.1.to_owned());
    world.seen.push(Seen { action, access_key_id, params, refused });
    let (status, xml) = match outcome {
        Ok(xml) => (200, xml),
        Err(Refusal(status, code, message)) => (
            status,
            format!(
                r#"<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>{code}</Code><Message>{}</Message></Error><RequestId>00000000-0000-4000-8000-000000000000</RequestId></ErrorResponse>"#,
                escape(&message)
            ),
        ),
    };
    Response::builder().status(status).header("content-type", "text/xml").body(Full::new(xml.into())).unwrap()
}

fn decide(
    world: &mut World,
    claim: &Claim<'_>,
    parts: &Parts,
    body: &[u8],
    (action, version): (&str, &str),
    params: &BTreeMap<String, String>,
) -> Result<String, Refusal> {
    let caller = world.principal(claim.access_key_id, claim.token)?;
    claim.verify(parts, body, &caller.secret)?;
    match (action, version) {
        ("GetCallerIdentity", "2011-06-15") => {
            Ok(result(action, &format!("<Arn>{}</Arn><UserId>AIDAEXAMPLE</UserId><Account>{ACCOUNT}</Account>", escape(&caller.arn))))
        }
        ("AssumeRole", "2011-06-15") => world.assume_role(&caller, params).map(|granted| result(action, &describe(&granted))),
        _ => Err(Refusal(400, "InvalidAction", format!("Could not find operation {action} for version {version}"))),
    }
}

fn describe(granted: &Granted) -> String {
    let principal = &granted.principal;
    let source =
        principal.source_identity.as_ref().map_or(String::new(), |name| format!("<SourceIdentity>{}</SourceIdentity>", escape(name)));
    format!(
        "<Credentials><AccessKeyId>{}</AccessKeyId><SecretAccessKey>{}</SecretAccessKey><SessionToken>{}</SessionToken><Expiration>{}</Expiration></Credentials>\
         <AssumedRoleUser><Arn>{}</Arn><AssumedRoleId>AROAEXAMPLE:{}</AssumedRoleId></AssumedRoleUser>{source}",
        granted.access_key_id,
        principal.secret,
        principal.token.as_deref().unwrap_or_default(),
        principal.expires_at.unwrap_or(Timestamp::MAX),
        escape(&principal.arn),
        escape(&granted.role_session_name),
    )
}

fn result(action: &str, inner: &str) -> String {
    format!(
        r#"<{action}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><{action}Result>{inner}</{action}Result><ResponseMetadata><RequestId>00000000-0000-4000-8000-000000000000</RequestId></ResponseMetadata></{action}Response>"#
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn read_form(body: &[u8]) -> BTreeMap<String, String> {
    let body = String::from_utf8_lossy(body);
    body.split('&').filter_map(|pair| pair.split_once('=')).map(|(key, value)| (decode(key), decode(value))).collect()
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let hex = |b: Option<u8>| char::from(b.unwrap_or_default()).to_digit(16).unwrap();
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => u8::try_from(hex(rest.next()) * 16 + hex(rest.next())).unwrap(),
            other => other,
        });
    }
    String::from_utf8(bytes).unwrap()
}

/// One GET as an SDK sends it: status and body.
pub(super) fn get(uri: &str, token: &str) -> io::Result<(u16, String)> {
    let (host, path) = uri.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: {token}\r\nAccept: application/json\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    Ok((status, body.to_owned()))
}
