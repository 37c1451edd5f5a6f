//! Connections of the child, and each request's way through the proxy.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING,
    UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::admission::{self, Permit, Route};
use super::body::{AnswerBody, Relay, RequestBody};
use super::dialect::Reading;
use super::forward::Link;
use super::io::{ClientSocket, ClientState};
use super::memory::SentBody;
use super::refusal::ApiError;
use super::shared::Shared;
use super::{ProxyEvent, auth, forward, hooks, payer, quota};

/// What the Messages API takes at most.
const MAX_BODY: usize = 32 * 1024 * 1024;
/// A body that is too large is read so far before it is refused: a client that is still sending would not see the answer.
const MAX_DISCARDED: usize = 4 * MAX_BODY;
/// How long connections have to take the last word once the proxy is closed.
const CLOSING_TIME: Duration = Duration::from_secs(1);
/// A request's or an answer's head. Claude Code's is about 2 kB.
pub(super) const MAX_HEAD: usize = 64 * 1024;
/// What is read from a client at once. hyper would take up to 400 kB for each connection; larger reads are hardly cheaper.
const READ_SIZE: usize = 64 * 1024;
/// Connections at a time. More wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 512;
/// After an error of `accept`: there are no descriptors left, and asking again at once would not help.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections until it is dropped, and all connections with it.
pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, peer)) => {
                    connections.spawn(connection(stream, peer, Arc::clone(&shared)));
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
            Some(_ended) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, shared: Arc<Shared>) {
    // Without it events wait for acknowledgements; it cannot fail on an open socket.
    let _ = stream.set_nodelay(true);
    let client = Arc::new(ClientState::default());
    let io = TokioIo::new(ClientSocket::new(stream, Arc::clone(&shared.client_counts), Arc::clone(&client), shared.timeouts));
    let service = service_fn(|request| {
        let (shared, client) = (Arc::clone(&shared), Arc::clone(&client));
        async move { Ok::<_, Infallible>(answer(shared, client, peer, request).await) }
    });
    // The socket has the timeouts: hyper's own would also end connections that are only idle.
    let connection = http1::Builder::new()
        .auto_date_header(false)
        .header_read_timeout(None)
        .max_header_size(MAX_HEAD)
        .max_buf_size(READ_SIZE)
        .writev(false)
        .serve_connection(io, service);
    tokio::pin!(connection);
    if !shared.is_closed() {
        tokio::select! {
            biased;
            // How a connection ended is the client's affair; what it meant for a request was booked by its body.
            _ = connection.as_mut() => return,
            () = shared.closing.cancelled() => connection.as_mut().graceful_shutdown(),
        }
    }
    let _ = tokio::time::timeout(CLOSING_TIME, connection).await;
}

async fn answer(shared: Arc<Shared>, client: Arc<ClientState>, peer: SocketAddr, request: Request<Incoming>) -> Response<AnswerBody> {
    client.begin();
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
    let response = match auth::check(&shared.token, shared.port, peer, &parts.headers, path) {
        Ok(path) if hooks::is_question(&parts.method, path) => hooks::answer(&shared, body).await,
        Ok(path) => {
            let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
            Box::pin(pass(&shared, &client, &parts, &path, body)).await.unwrap_or_else(|error| error.into_response(Timestamp::now()))
        }
        Err(status) => {
            let mut response = Response::new(AnswerBody::whole(Bytes::new()));
            *response.status_mut() = status;
            response
        }
    };
    if let AnswerBody::Whole(_) = response.body() {
        client.end();
    }
    response
}

/// One request of the child that has the right token.
async fn pass(
    shared: &Arc<Shared>,
    client: &Arc<ClientState>,
    parts: &Parts,
    path: &str,
    body: Incoming,
) -> Result<Response<AnswerBody>, ApiError> {
    let mut active = shared.begin();
    shared.note_request(Timestamp::now());
    shared.refuse_closed().map_err(|error| admission::refuse(shared, error))?;
    if admission::holds_token(shared, path.as_bytes()) {
        return Err(ApiError::invalid(StatusCode::BAD_REQUEST, "the session's token stands in the path or query".to_owned()));
    }
    let target =
        shared.connector.target(path).map_err(|_| ApiError::invalid(StatusCode::BAD_REQUEST, "the path cannot be passed on".to_owned()))?;
    let (route, asked) = match shared.dialect.read(&parts.method, path.split('?').next().unwrap_or(path)) {
        Reading::Plain(route) => (route, None),
        Reading::Cloud(asked) => (Route::Metered, Some(asked)),
        Reading::Refused(why) => return Err(admission::refuse(shared, ApiError::invalid(StatusCode::FORBIDDEN, why))),
    };
    if let Route::Metered | Route::Counting = route {
        admission::introduce(shared, &parts.headers);
    }
    let mut looked_at = None;
    let (mut permit, body) = match route {
        Route::Metered => {
            let (body, sent) = read_body(shared, &parts.headers, body).await?;
            // The body may have taken its time.
            shared.refuse_closed().map_err(|error| admission::refuse(shared, error))?;
            admission::enter_agent(shared, &mut active, &parts.headers)?;
            let permit = admission::admit(shared, &parts.headers, &body, asked.as_ref(), Timestamp::now())?;
            if let (Some(tap), Some(thread)) = (shared.turn_tap(), permit.thread()) {
                tap(thread, sent.clone());
            }
            looked_at = shared.body_tap.is_some().then(|| permit.main_request()).flatten().map(|request| shared.looks.hold(request, sent));
            (permit, RequestBody::Whole(Some(body)))
        }
        Route::Refused(what) => {
            let why = format!("{what} cannot be metered, so it is not available in this session");
            return Err(admission::refuse(shared, ApiError::invalid(StatusCode::FORBIDDEN, why)));
        }
        Route::Counting | Route::Free => (Permit::free(), RequestBody::Streamed(body)),
    };
    let (response, link) = forward_with_renewal(shared, parts, &target, route, body, &mut permit).await?;
    let (answered, incoming) = response.into_parts();
    // From here on the model is at work, and nobody waits for us.
    if let (Some(held), Some(tap)) = (looked_at, &shared.body_tap)
        && answered.status.is_success()
        && let Some((request, body)) = held.take()
    {
        tap(request, body);
    }
    if route == Route::Metered
        && let Some(watch) = shared.quota_watch()
        && let Some(quota) = quota::read(&answered.headers)
    {
        watch(quota);
    }
    let tee = permit.into_tee(shared, answered.status, &answered.headers);
    let mut headers = headers_downstream(&answered.headers);
    if tee.is_stream() {
        // It may have to end earlier, with an event of ours.
        headers.remove(CONTENT_LENGTH);
    }
    let relay = Relay::new(incoming, link, tee, Arc::clone(client), Arc::clone(shared), active);
    let mut response = Response::new(AnswerBody::Relayed(Box::new(relay)));
    *response.status_mut() = answered.status;
    *response.headers_mut() = headers;
    Ok(response)
}

/// Sends the request; where the credential is rejected and somebody renews it, once more with the new one.
async fn forward_with_renewal(
    shared: &Shared,
    parts: &Parts,
    target: &Uri,
    route: Route,
    mut body: RequestBody,
    permit: &mut Permit,
) -> Result<(Response<Incoming>, Link), ApiError> {
    let mut renewals = shared.renewals();
    loop {
        // What streams through cannot be sent again.
        let again = match &body {
            RequestBody::Whole(bytes) if renewals.is_some() => bytes.clone(),
            RequestBody::Whole(_) | RequestBody::Streamed(_) => None,
        };
        let mut request = Request::new(body);
        *request.method_mut() = parts.method.clone();
        *request.uri_mut() = target.clone();
        *request.headers_mut() = headers_upstream(shared, &parts.headers, route == Route::Metered);
        if route == Route::Metered {
            payer::check(shared, request.headers())?;
        }
        let (response, link) = match forward::send(shared, request, || permit.mark_sent()).await {
            Ok(answered) => answered,
            Err(failure) => {
                if !failure.sent {
                    permit.mark_unsent();
                }
                return Err(failure.error);
            }
        };
        if !rejects_credential(response.status(), route) || !shared.credential_is_ours() {
            return Ok((response, link));
        }
        shared.note(ProxyEvent::CredentialRejected { status: response.status().as_u16() });
        let (Some(again), Some(mut renewed)) = (again, renewals.take()) else { return Ok((response, link)) };
        let renewed = tokio::time::timeout(shared.timeouts.credential_renewal, renewed.changed()).await;
        if !matches!(renewed, Ok(Ok(()))) {
            return Ok((response, link));
        }
        body = RequestBody::Whole(Some(again));
    }
}

/// 403 may also mean that this one path is not allowed; on the paths of the model it means the credential.
fn rejects_credential(status: StatusCode, route: Route) -> bool {
    status == StatusCode::UNAUTHORIZED || (status == StatusCode::FORBIDDEN && matches!(route, Route::Metered | Route::Counting))
}

/// Reads a body to be metered, whole and once.
async fn read_body(shared: &Shared, headers: &HeaderMap, mut incoming: Incoming) -> Result<(Bytes, SentBody), ApiError> {
    if headers.get_all(CONTENT_ENCODING).iter().any(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        let why = "a compressed request cannot be metered: send it plain".to_owned();
        return Err(ApiError::invalid(StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
    }
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let expected = announced.filter(|length| *length <= MAX_BODY).unwrap_or(0);
    let mut body = shared.body_memory.take(expected).await;
    let mut total = 0_usize;
    loop {
        let next = tokio::time::timeout(shared.timeouts.request_body, incoming.frame()).await;
        let frame = match next {
            Ok(None) => break,
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => {
                return Err(ApiError::invalid(StatusCode::BAD_REQUEST, format!("the request's body broke off: {error}")));
            }
            Err(_) => return Err(ApiError::invalid(StatusCode::REQUEST_TIMEOUT, "the request's body did not come".to_owned())),
        };
        let Ok(data) = frame.into_data() else { continue };
        total = total.saturating_add(data.len());
        if total > MAX_DISCARDED {
            break;
        }
        if total > MAX_BODY {
            body.discard();
        } else {
            body.extend(&data);
        }
    }
    if total > MAX_BODY {
        let why = format!("the request is larger than {} MB", MAX_BODY / 1024 / 1024);
        return Err(ApiError::invalid(StatusCode::PAYLOAD_TOO_LARGE, why));
    }
    Ok(body.freeze())
}

/// Headers that belong to one connection, not to the message.
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

fn is_hop_by_hop(name: &HeaderName, all: &HeaderMap) -> bool {
    HOP_BY_HOP.contains(name)
        || all
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|named| named.trim().eq_ignore_ascii_case(name.as_str()))
}

/// The child's headers in their order, with our credential, and nothing of ours that is secret.
fn headers_upstream(shared: &Shared, from_child: &HeaderMap, metered: bool) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(from_child.len() + 2);
    let passes_credential = shared.passes_credential();
    for (name, value) in from_child {
        match name.as_str() {
            "host" => headers.extend(shared.connector.host().map(|host| (HOST, host.clone()))),
            // hyper has answered `Expect` itself. The sentinel is between the session and us.
            "expect" | admission::SENTINEL => {}
            "authorization" | "x-api-key" if !passes_credential => {}
            // What is compressed cannot be metered as it passes.
            "accept-encoding" if metered => {}
            _ if is_hop_by_hop(name, from_child) || admission::holds_token(shared, value.as_bytes()) => {}
            _ => {
                headers.append(name.clone(), value.clone());
            }
        }
    }
    if metered {
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
    shared.put_credential(&mut headers);
    headers
}

fn headers_downstream(from_upstream: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(from_upstream.len());
    for (name, value) in from_upstream {
        if !is_hop_by_hop(name, from_upstream) {
            headers.append(name.clone(), value.clone());
        }
    }
    headers
}
