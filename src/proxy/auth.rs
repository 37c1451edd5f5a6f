//! Who may ask: whoever knows the session's token, from this machine, by a loopback name.
//!
//! The token stands in the path, `/s/<token>/...`. A web page that the developer looks at may send requests to loopback ports, and may
//! reach us under a name of its own (DNS rebinding); it knows no token, and its `Host` is not ours.

use std::net::SocketAddr;

use http::header::HOST;
use http::{HeaderMap, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

/// What stands before the token.
pub(super) const PREFIX: &str = "/s/";

/// The path as the upstream should see it, or what to answer: nothing else is said to a stranger.
pub(super) fn check<'a>(
    token: &SecretString,
    port: u16,
    peer: SocketAddr,
    headers: &HeaderMap,
    path_and_query: &'a str,
) -> Result<&'a str, StatusCode> {
    if !peer.ip().is_loopback() || !host_is_ours(headers, port) {
        return Err(StatusCode::FORBIDDEN);
    }
    let rest = path_and_query.strip_prefix(PREFIX).ok_or(StatusCode::NOT_FOUND)?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (given, path) = rest.split_at(end);
    if bool::from(given.as_bytes().ct_eq(token.expose_secret().as_bytes())) { Ok(path) } else { Err(StatusCode::NOT_FOUND) }
}

fn host_is_ours(headers: &HeaderMap, port: u16) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let Some((name, asked_port)) = host.to_str().ok().and_then(|host| host.rsplit_once(':')) else { return false };
    asked_port.parse() == Ok(port) && ["127.0.0.1", "localhost", "[::1]"].iter().any(|ours| name.eq_ignore_ascii_case(ours))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const PORT: u16 = 4711;

    fn ask(peer: &str, hosts: &[&str], path: &str) -> Result<String, u16> {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(HOST, HeaderValue::from_str(host).unwrap());
        }
        check(&SecretString::from("tok-123"), PORT, peer.parse().unwrap(), &headers, path)
            .map(str::to_owned)
            .map_err(|status| status.as_u16())
    }

    #[test]
    fn the_token_is_taken_off_the_path() {
        for host in ["127.0.0.1:4711", "localhost:4711", "LocalHost:4711", "[::1]:4711"] {
            assert_eq!(ask("127.0.0.1:9", &[host], "/s/tok-123/v1/messages?beta=true"), Ok("/v1/messages?beta=true".into()));
        }
        assert_eq!(ask("[::1]:9", &["[::1]:4711"], "/s/tok-123"), Ok(String::new()));
        assert_eq!(ask("127.0.0.1:9", &["127.0.0.1:4711"], "/s/tok-123?x=1"), Ok("?x=1".into()));
    }

    #[test]
    fn a_wrong_token_finds_nothing() {
        for path in ["/", "/v1/messages", "/s/", "/s/tok-12/v1", "/s/tok-1234/v1", "/s/TOK-123/v1", "/S/tok-123/v1", "//s/tok-123/v1", "*"]
        {
            assert_eq!(ask("127.0.0.1:9", &["127.0.0.1:4711"], path), Err(404), "{path}");
        }
    }

    #[test]
    fn another_host_name_or_another_machine_is_forbidden() {
        for hosts in [
            &["evil.example:4711"][..],
            &["127.0.0.1"],
            &["127.0.0.1:80"],
            &[],
            &["127.0.0.1:4711", "127.0.0.1:4711"],
            &["127.0.0.1.evil.example:4711"],
        ] {
            assert_eq!(ask("127.0.0.1:9", hosts, "/s/tok-123/v1"), Err(403), "{hosts:?}");
        }
        assert_eq!(ask("192.0.2.7:9", &["127.0.0.1:4711"], "/s/tok-123/v1"), Err(403));
    }
}
