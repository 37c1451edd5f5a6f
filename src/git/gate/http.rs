//! The gate's HTTP side: who may speak, which question is which, and answers that git prints as they are meant.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use hyper::body::{Body, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HOST};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use subtle::ConstantTimeEq;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::task::{JoinSet, spawn_blocking};
use tokio_util::sync::CancellationToken;

use super::super::GitError;
use super::pkt::{self, Commands};
use super::quarantine::{Quarantine, Service};
use super::rules::Rules;
use super::{GateEvent, lfs, spool};

/// The last part of the gate's URL.
pub(super) const REPOSITORY: &str = "repo.git";

const MOST_CONNECTIONS: usize = 64;
/// The largest push (bytes), unpacked from gzip.
pub(super) const LARGEST_PUSH: u64 = 4 * 1024 * 1024 * 1024;
/// The largest list of wants and haves (bytes).
const LARGEST_FETCH_REQUEST: u64 = 64 * 1024 * 1024;
/// How much of a push its command list may take: some ten thousand refs.
const LONGEST_COMMANDS: u64 = 1024 * 1024;
const HEADER_WAIT: Duration = Duration::from_secs(30);
/// How long a client may leave an answer unread.
const UNREAD: Duration = Duration::from_mins(2);
/// How long a request waits for its turn behind others.
const QUEUE: Duration = Duration::from_mins(15);

/// What every connection shares.
pub(super) struct Server {
    pub(super) nonce: String,
    pub(super) rules: Rules,
    pub(super) quarantine: Quarantine,
    pub(super) on_event: Arc<dyn Fn(GateEvent) + Send + Sync>,
    /// Whoever changes the quarantine holds it.
    pub(super) turn: Mutex<()>,
}

/// Accepts until `closing`; then drops every connection.
pub(super) async fn serve(listener: TcpListener, server: Arc<Server>, closing: CancellationToken) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let place = tokio::select! {
            () = closing.cancelled() => break,
            place = places.clone().acquire_owned() => place,
        };
        let accepted = tokio::select! {
            () = closing.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        while connections.try_join_next().is_some() {}
        let (Ok(place), Ok((stream, _))) = (place, accepted) else {
            tokio::time::sleep(Duration::from_millis(50)).await; // out of descriptors: let some go first
            continue;
        };
        let server = server.clone();
        connections.spawn(async move {
            converse(stream, server).await;
            drop(place);
        });
    }
    connections.shutdown().await;
}

async fn converse(stream: TcpStream, server: Arc<Server>) {
    let service = service_fn(move |request| {
        let server = server.clone();
        async move { Ok::<_, Infallible>(answer(&server, request).await) }
    });
    let connection =
        http1::Builder::new().timer(TokioTimer::new()).header_read_timeout(HEADER_WAIT).serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection to the gate ended early");
    }
}

async fn answer(server: &Arc<Server>, request: Request<Incoming>) -> Response<GateBody> {
    if !speaks_to_loopback(&request) {
        return plain(StatusCode::FORBIDDEN, "this server is for the loopback only\n");
    }
    let path = request.uri().path().to_owned();
    let mut parts = path.trim_start_matches('/').splitn(3, '/');
    let (nonce, repository, rest) = (parts.next().unwrap_or_default(), parts.next(), parts.next().unwrap_or_default());
    if !bool::from(nonce.as_bytes().ct_eq(server.nonce.as_bytes())) || repository != Some(REPOSITORY) {
        return plain(StatusCode::NOT_FOUND, "no such repository\n");
    }
    let service = request.uri().query().and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("service=")));
    match (request.method(), rest, service) {
        (&Method::GET, "info/refs", Some("git-receive-pack")) => advertise(server, Service::ReceivePack, &request).await,
        (&Method::GET, "info/refs", Some("git-upload-pack")) => advertise(server, Service::UploadPack, &request).await,
        (&Method::POST, "git-receive-pack", _) => receive(server, request).await,
        (&Method::POST, "git-upload-pack", _) => upload(server, request).await,
        (_, rest, _) if rest.starts_with("info/lfs/") => lfs::answer(server, &rest["info/lfs/".len()..], request).await,
        _ => plain(StatusCode::NOT_FOUND, "the gate speaks git's smart HTTP protocol only\n"),
    }
}

/// A page in the user's browser could be made to speak to us under a name of its own (DNS rebinding).
fn speaks_to_loopback(request: &Request<Incoming>) -> bool {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, port)| if port.bytes().all(|b| b.is_ascii_digit()) { name } else { host });
    ["127.0.0.1", "localhost", "[::1]"].contains(&name)
}

async fn advertise(server: &Arc<Server>, service: Service, request: &Request<Incoming>) -> Response<GateBody> {
    let protocol = protocol_of(request);
    let Ok(_turn) = tokio::time::timeout(QUEUE, server.turn.lock()).await else {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "busy\n");
    };
    let listed = blocking(server, move |server| {
        server.quarantine.prepare()?;
        if service == Service::UploadPack {
            server.quarantine.fetch()?;
            (server.on_event)(GateEvent::Fetched);
        }
        server.quarantine.advertise(service, protocol.as_deref())
    });
    let mut body = Vec::new();
    pkt::line(&mut body, format!("# service=git-{}\n", service.command()).as_bytes());
    body.extend_from_slice(b"0000");
    match listed.await {
        Ok(refs) => body.extend_from_slice(&refs),
        // Shown by git as "fatal: remote error: ..".
        Err(error) => pkt::line(&mut body, format!("ERR sentrely: {}\n", in_words(&error)).as_bytes()),
    }
    git_answer(service, "advertisement", body)
}

async fn receive(server: &Arc<Server>, request: Request<Incoming>) -> Response<GateBody> {
    let mut request = match spooled(server, request, LARGEST_PUSH).await {
        Ok(file) => file,
        Err(refused) => return refused,
    };
    let asked = match spool::head(&mut request, LONGEST_COMMANDS)
        .map_err(|error| error.to_string())
        .and_then(|head| pkt::commands(&head).map_err(|error| error.to_string()))
    {
        Ok(asked) => asked,
        Err(reason) => {
            let reason = format!("sentrely: push not understood: {reason}");
            (server.on_event)(GateEvent::PushRefused { refs: Vec::new(), reason: reason.clone() });
            return plain(StatusCode::FORBIDDEN, &format!("{reason}\n"));
        }
    };
    if asked.updates.is_empty() {
        return git_answer(Service::ReceivePack, "result", Vec::new()); // git asks whether it may come, before a long body
    }
    let refs: Vec<String> = asked.updates.iter().map(|update| update.name.clone()).collect();
    let update = match server.rules.judge(&asked) {
        Ok(update) => update,
        Err(refusal) => {
            let report = server.rules.report(&refusal);
            (server.on_event)(GateEvent::PushRefused { refs, reason: refusal.reason });
            return report_answer(&asked, &report);
        }
    };
    let Ok(_turn) = tokio::time::timeout(QUEUE, server.turn.lock()).await else {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "busy\n");
    };
    let (commands, wanted) = (asked, update.clone());
    let pushed = blocking(server, move |server| {
        server.quarantine.prepare()?;
        let report = server.quarantine.push(request, &commands, &wanted)?;
        Ok((commands, report))
    });
    match pushed.await {
        Ok((asked, report)) => {
            (server.on_event)(match report.refs.iter().find_map(|(_, refused)| refused.clone()) {
                None if server.quarantine.keep.is_some() => {
                    GateEvent::PushKept { branch: server.rules.allowed_branch.clone(), commit: update.new }
                }
                None => GateEvent::PushAccepted { branch: server.rules.allowed_branch.clone(), commit: update.new },
                Some(reason) => GateEvent::PushRefused { refs, reason },
            });
            report_answer(&asked, &report)
        }
        Err(error) => {
            let reason = format!("sentrely: {}", in_words(&error));
            (server.on_event)(GateEvent::PushRefused { refs, reason: reason.clone() });
            plain(StatusCode::BAD_GATEWAY, &format!("{reason}\n"))
        }
    }
}

async fn upload(server: &Arc<Server>, request: Request<Incoming>) -> Response<GateBody> {
    let protocol = protocol_of(&request);
    let request = match spooled(server, request, LARGEST_FETCH_REQUEST).await {
        Ok(file) => file,
        Err(refused) => return refused,
    };
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(8);
    let (server, runtime) = (server.clone(), tokio::runtime::Handle::current());
    // Not awaited: it ends with its git, which has a deadline and is cut when the gate closes or the reader goes away.
    drop(spawn_blocking(move || {
        let send = |piece| match runtime.block_on(tokio::time::timeout(UNREAD, sender.send(piece))) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(io::Error::from(io::ErrorKind::BrokenPipe)),
        };
        let served = server
            .quarantine
            .prepare()
            .and_then(|()| server.quarantine.upload(request, protocol.as_deref(), |bytes| send(Ok(Bytes::copy_from_slice(bytes)))));
        if let Err(error) = served {
            // Cuts the answer short, which git notices; ending it properly would pass a broken pack off as whole.
            let _ = send(Err(io::Error::other(in_words(&error))));
        }
    }));
    git_response(Service::UploadPack, "result", GateBody::Stream(receiver))
}

/// The request's body in a file, unpacked if it came packed.
pub(super) async fn spooled(server: &Arc<Server>, request: Request<Incoming>, limit: u64) -> Result<std::fs::File, Response<GateBody>> {
    let packed = match request.headers().get(CONTENT_ENCODING).map(|value| value.as_bytes().to_ascii_lowercase()) {
        None => false,
        Some(encoding) if encoding == b"gzip" || encoding == b"x-gzip" => true,
        Some(encoding) if encoding == b"identity" => false,
        Some(_) => return Err(plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, "only gzip is understood\n")),
    };
    let unusable = |error: &GitError| plain(StatusCode::BAD_GATEWAY, &format!("sentrely: {}\n", in_words(error)));
    blocking(server, |server| server.quarantine.prepare()).await.map_err(|error| unusable(&error))?;
    let directory = server.quarantine.spool_directory().to_owned();
    let taken = spool::take(request.into_body(), &directory, limit).await;
    let taken = match taken {
        Ok(file) if packed => {
            spawn_blocking(move || spool::gunzip(file, &directory, limit)).await.unwrap_or_else(|error| Err(io::Error::other(error).into()))
        }
        other => other,
    };
    taken.map_err(|error| {
        let status = if matches!(error, spool::SpoolError::TooLarge(_)) { StatusCode::PAYLOAD_TOO_LARGE } else { StatusCode::BAD_REQUEST };
        plain(status, &format!("sentrely: {error}\n"))
    })
}

/// The protocol version that the client asks for, if it is a sane text.
fn protocol_of(request: &Request<Incoming>) -> Option<String> {
    let text = request.headers().get("git-protocol")?.to_str().ok()?;
    let sane = text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'=' | b':' | b'-'));
    sane.then(|| text.to_owned())
}

pub(super) async fn blocking<T: Send + 'static>(
    server: &Arc<Server>,
    work: impl FnOnce(&Server) -> Result<T, GitError> + Send + 'static,
) -> Result<T, GitError> {
    let server = server.clone();
    let done = spawn_blocking(move || work(&server)).await;
    done.unwrap_or_else(|_| Err(GitError::Closed { doing: "answer at the gate".to_owned() }))
}

pub(super) fn in_words(error: &GitError) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    super::super::remote::one_line(&format!("failed to {error}{cause}"))
}

fn report_answer(asked: &Commands, report: &pkt::Report) -> Response<GateBody> {
    if !asked.report_status {
        // A client that does not listen must at least not take silence for success.
        if let Some(reason) = report.refs.iter().find_map(|(_, refused)| refused.as_ref()) {
            return plain(StatusCode::FORBIDDEN, &format!("{reason}\n"));
        }
    }
    git_answer(Service::ReceivePack, "result", report.encode(asked))
}

fn git_answer(service: Service, kind: &str, body: Vec<u8>) -> Response<GateBody> {
    git_response(service, kind, GateBody::Whole(Some(body.into())))
}

fn git_response(service: Service, kind: &str, body: GateBody) -> Response<GateBody> {
    let mut response = Response::new(body);
    let kind = format!("application/x-git-{}-{kind}", service.command());
    if let Ok(kind) = kind.parse() {
        response.headers_mut().insert(CONTENT_TYPE, kind);
    }
    response.headers_mut().insert(CACHE_CONTROL, hyper::header::HeaderValue::from_static("no-cache, max-age=0, must-revalidate"));
    response
}

pub(super) fn plain(status: StatusCode, text: &str) -> Response<GateBody> {
    let mut response = Response::new(GateBody::Whole(Some(Bytes::copy_from_slice(text.as_bytes()))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// An answer: at once, or as git produces it.
pub(super) enum GateBody {
    Whole(Option<Bytes>),
    Stream(mpsc::Receiver<io::Result<Bytes>>),
}

impl Body for GateBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().filter(|bytes| !bytes.is_empty()).map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(pieces) => pieces.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }
}
