//! Who may ask, and what a request must look like before its path is read.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, ORIGIN};
use http::request::Parts;
use http::{HeaderMap, HeaderName, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body;
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

use super::answer::Refusal;

const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// A request's body is a few words: the longest reason, each of its characters escaped, and what stands around it.
pub(super) const MAX_BODY: usize = 16 * 1024;

/// Whether this request is heard at all: from this machine, under a name of ours, not from a foreign page, with the token.
pub(super) fn check(parts: &Parts, peer: SocketAddr, port: u16, token: &SecretString) -> Result<(), Refusal> {
    let ours = [format!("127.0.0.1:{port}"), format!("localhost:{port}")];
    let forbidden = |what: &str| Refusal::new(StatusCode::FORBIDDEN, "forbidden", what);
    if !peer.ip().is_loopback() {
        return Err(forbidden("only this machine is heard"));
    }
    let host = only(&parts.headers, &HOST).ok_or_else(|| forbidden("exactly one Host is expected"))?;
    // The absolute form of a request names a host too.
    let authority = parts.uri.authority().map(http::uri::Authority::as_str);
    if !ours.iter().any(|name| name == host) || authority.is_some_and(|authority| !ours.iter().any(|name| name == authority)) {
        return Err(forbidden("this Host is not ours"));
    }
    if parts.headers.contains_key(ORIGIN) {
        let origin = only(&parts.headers, &ORIGIN).and_then(|origin| origin.strip_prefix("http://"));
        if !origin.is_some_and(|origin| ours.iter().any(|name| name == origin)) {
            return Err(forbidden("requests of other origins are not heard"));
        }
    }
    if parts.headers.get_all(SITE).iter().any(|site| site != "same-origin" && site != "none") {
        return Err(forbidden("requests of other sites are not heard"));
    }
    let unauthorized = || {
        let message = "the token of `sentrely serve` is expected: Authorization: Bearer <token>";
        Refusal::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    };
    let given = only(&parts.headers, &AUTHORIZATION).and_then(bearer).ok_or_else(unauthorized)?;
    if bool::from(given.as_bytes().ct_eq(token.expose_secret().as_bytes())) { Ok(()) } else { Err(unauthorized()) }
}

/// The one value of a header that may stand there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_matches(' '))
}

/// The JSON body of a request, whole, within its bounds of size and time.
pub(super) async fn read_json<B>(headers: &HeaderMap, body: B, patience: Duration) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes> + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let kind = only(headers, &CONTENT_TYPE).map(|kind| kind.split(';').next().unwrap_or(kind).trim().to_ascii_lowercase());
    if kind.as_deref() != Some("application/json") {
        return Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "Content-Type: application/json is expected",
        ));
    }
    let too_large = || Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", format!("a body of at most {MAX_BODY} bytes is expected"));
    let announced = only(headers, &CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
    if announced.is_some_and(|length| length > MAX_BODY as u64) {
        return Err(too_large());
    }
    match tokio::time::timeout(patience, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Refusal::new(StatusCode::BAD_REQUEST, "bad_request", "the body broke off")),
        Err(_) => Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "timeout", "the body did not come in time")),
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    const PORT: u16 = 4711;
    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    fn ask(peer: &str, uri: &str, headers: &[(&str, &str)]) -> u16 {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        check(&parts, peer.parse().unwrap(), PORT, &TOKEN.into()).map_or_else(|refusal| refusal.status.as_u16(), |()| 200)
    }

    fn with(host: &str, authorization: &str) -> u16 {
        ask("127.0.0.1:9", "/sessions", &[("host", host), ("authorization", authorization)])
    }

    #[test]
    fn the_token_is_heard_under_our_names_only() {
        let right = format!("Bearer {TOKEN}");
        for host in ["127.0.0.1:4711", "localhost:4711"] {
            assert_eq!(with(host, &right), 200, "{host}");
        }
        for host in [
            "evil.example:4711",
            "evil.example",
            "127.0.0.1",
            "127.0.0.1:80",
            "127.0.0.1:4711.evil.example",
            "LOCALHOST:4711",
            "[::1]:4711",
            "",
        ] {
            assert_eq!(with(host, &right), 403, "{host}");
        }
        let twice = [("host", "127.0.0.1:4711"), ("host", "127.0.0.1:4711"), ("authorization", right.as_str())];
        assert_eq!(ask("127.0.0.1:9", "/sessions", &twice), 403);
        assert_eq!(ask("127.0.0.1:9", "http://evil.example/sessions", &[twice[0], twice[2]]), 403);
        assert_eq!(ask("192.0.2.7:9", "/sessions", &[twice[0], twice[2]]), 403);
        assert_eq!(ask("127.0.0.1:9", "/sessions", &[twice[2]]), 403);
    }

    #[test]
    fn anything_but_the_token_is_unauthorized() {
        let cases = [
            "",
            "Bearer",
            "Bearer ",
            TOKEN,
            "Basic eDp5",
            &format!("Bearer {}", &TOKEN[1..]),
            &format!("Bearer {TOKEN}0"),
            &format!("Bearer {}", TOKEN.to_uppercase()),
        ];
        for given in cases {
            assert_eq!(with("127.0.0.1:4711", given), 401, "{given}");
        }
        assert_eq!(ask("127.0.0.1:9", "/", &[("host", "127.0.0.1:4711")]), 401);
    }

    #[test]
    fn a_foreign_page_is_forbidden_even_with_the_token() {
        let right = format!("Bearer {TOKEN}");
        let asked = |name, value| ask("127.0.0.1:9", "/sessions", &[("host", "127.0.0.1:4711"), ("authorization", &right), (name, value)]);
        for origin in
            ["https://evil.example", "null", "http://127.0.0.1:80", "https://127.0.0.1:4711", "http://127.0.0.1:4711.evil.example"]
        {
            assert_eq!(asked("origin", origin), 403, "{origin}");
        }
        assert_eq!(asked("origin", "http://127.0.0.1:4711"), 200);
        assert_eq!(asked("sec-fetch-site", "cross-site"), 403);
        assert_eq!(asked("sec-fetch-site", "same-site"), 403);
        assert_eq!(asked("sec-fetch-site", "none"), 200);
    }
}
