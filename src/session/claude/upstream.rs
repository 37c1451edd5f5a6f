//! Where Claude Code's requests would have gone without sentrely.

use http::Uri;

use super::Env;
use super::settings::{Origin, Settings};

/// The base URL the client would have used, and who said so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// `http(s)://host[:port][/path]`, without a trailing slash.
    pub url: String,
    /// For the banner. A project's file ([`Origin::is_project`]) decides here who gets to see the credential: worth saying.
    pub origin: Origin,
}

/// Why what is configured cannot be an upstream.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("use {variable} `{url}` of {origin} as upstream: {why}")]
pub struct UpstreamError {
    /// Which variable says so.
    pub variable: &'static str,
    /// As found.
    pub url: String,
    /// Where.
    pub origin: Origin,
    /// What is wrong.
    pub why: &'static str,
}

impl UpstreamError {
    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        Some(format!("correct or remove {} in {}", self.variable, self.origin))
    }
}

const BASE_URL: &str = "ANTHROPIC_BASE_URL";
const SOCKET: &str = "ANTHROPIC_UNIX_SOCKET";
/// Sessions' paths at sentrely's proxy begin like this.
const OWN_PATH: &str = "/s/";

/// The base URL of the settings layers, else of the environment; none when neither has one.
pub fn find(settings: &Settings, env: &Env) -> Result<Option<Upstream>, UpstreamError> {
    // 2.1.197 listens to the settings' socket whatever we say (measured), so it is refused rather than taken away.
    if let Some((url, origin)) = settings.effective(env, SOCKET) {
        return Err(UpstreamError { variable: SOCKET, url, origin, why: "requests through a socket of its own cannot be metered" });
    }
    let Some((url, origin)) = settings.effective(env, BASE_URL) else { return Ok(None) };
    match check(&url) {
        Ok(()) => Ok(Some(Upstream { url: url.trim_end_matches('/').to_owned(), origin })),
        Err(why) => Err(UpstreamError { variable: BASE_URL, url, origin, why }),
    }
}

/// Where Vertex is reached. The client builds the same addresses (read in 2.1.330); one that is configured has to be usable.
pub fn of_vertex(location: &str, configured: Option<&(String, Origin)>) -> Result<Upstream, UpstreamError> {
    if let Some((url, origin)) = configured {
        let fail = |why| UpstreamError { variable: "ANTHROPIC_VERTEX_BASE_URL", url: url.clone(), origin: origin.clone(), why };
        check(url).map_err(fail)?;
        return Ok(Upstream { url: url.clone(), origin: origin.clone() });
    }
    let host = match location {
        "global" => "aiplatform.googleapis.com".to_owned(),
        "us" | "eu" => format!("aiplatform.{location}.rep.googleapis.com"),
        _ => format!("{location}-aiplatform.googleapis.com"),
    };
    let url = format!("https://{host}/v1");
    if !location.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        let why = "the region is none";
        return Err(UpstreamError { variable: "CLOUD_ML_REGION", url, origin: Origin::Environment, why });
    }
    Ok(Upstream { url, origin: Origin::Environment })
}

fn check(url: &str) -> Result<(), &'static str> {
    let uri: Uri = url.parse().map_err(|_| "it is not a URL")?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err("it should begin with https:// or http://");
    }
    let authority = uri.authority().ok_or("it names no host")?;
    if authority.as_str().contains('@') {
        return Err("it holds a user name or a password");
    }
    if uri.query().is_some() {
        return Err("it holds a query");
    }
    let loopback = matches!(authority.host(), "127.0.0.1" | "localhost" | "[::1]");
    if loopback && uri.path().starts_with(OWN_PATH) {
        return Err("it is the proxy of a sentrely session");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(url: &str) -> Result<Option<String>, &'static str> {
        let env = Env::from([("ANTHROPIC_BASE_URL".into(), url.into())]);
        find(&Settings::default(), &env).map(|found| found.map(|upstream| upstream.url)).map_err(|error| error.why)
    }

    #[test]
    fn a_base_url_keeps_its_path_and_loses_its_trailing_slash() {
        assert_eq!(at("https://gw.example/anthropic/"), Ok(Some("https://gw.example/anthropic".to_owned())));
        assert_eq!(at("http://localhost:4000"), Ok(Some("http://localhost:4000".to_owned())));
        assert_eq!(at(""), Ok(None));
        assert_eq!(find(&Settings::default(), &Env::new()), Ok(None));
    }

    #[test]
    fn a_socket_is_refused_and_named() {
        let env = Env::from([("ANTHROPIC_UNIX_SOCKET".into(), "/run/api.sock".into())]);
        let error = find(&Settings::default(), &env).unwrap_err();
        assert!(error.to_string().starts_with("use ANTHROPIC_UNIX_SOCKET `/run/api.sock` of the environment"), "{error}");
        assert_eq!(error.hint().unwrap(), "correct or remove ANTHROPIC_UNIX_SOCKET in the environment");
    }

    #[test]
    fn what_cannot_be_an_upstream_is_refused_with_a_reason() {
        for url in [
            "gw.example",
            "ftp://gw.example",
            "https://",
            "https://u:p@gw.example",
            "https://gw.example/?x=1",
            "http://127.0.0.1:4711/s/token",
        ] {
            assert!(at(url).is_err(), "{url}");
        }
    }
}
