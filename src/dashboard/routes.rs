//! The paths: an exact match of what is sent, nothing decoded, nothing normalised.

use std::net::SocketAddr;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, StatusCode};
use jiff::Timestamp;

use super::answer::{Answer, Refusal, json, whole};
use super::server::Shared;
use super::{OPENAPI, guard, killing};
use crate::meter::context::Gauge;
use crate::model::{Details, Proof, SessionDocument, SessionList, SessionView};
use crate::store::{FindError, StateDir, read_journal};

/// Where a path leads.
#[derive(Debug, PartialEq, Eq)]
enum Route<'a> {
    OpenApi,
    Sessions,
    Session(&'a str),
    Kill(&'a str),
}

impl<'a> Route<'a> {
    fn of(path: &'a str) -> Option<Self> {
        match path.strip_prefix('/')?.split('/').collect::<Vec<_>>().as_slice() {
            ["openapi.json"] => Some(Self::OpenApi),
            ["sessions"] => Some(Self::Sessions),
            ["sessions", id] if is_id(id) => Some(Self::Session(id)),
            ["sessions", id, "kill"] if is_id(id) => Some(Self::Kill(id)),
            _ => None,
        }
    }

    const fn method(&self) -> (Method, &'static str) {
        match self {
            Self::OpenApi | Self::Sessions | Self::Session(_) => (Method::GET, "GET"),
            Self::Kill(_) => (Method::POST, "POST"),
        }
    }
}

/// An id or its first digits. Four at least: who kills by a single digit has not looked.
fn is_id(text: &str) -> bool {
    (4..=36).contains(&text.len()) && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Answers one request that the guard let through.
pub(super) async fn answer<B>(shared: &Shared, parts: &Parts, peer: SocketAddr, body: B) -> Result<Answer, Refusal>
where
    B: hyper::body::Body<Data = Bytes> + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let not_found = || Refusal::new(StatusCode::NOT_FOUND, "not_found", "there is nothing here; GET /openapi.json describes what there is");
    let route = Route::of(parts.uri.path()).ok_or_else(not_found)?;
    let (method, allow) = route.method();
    if parts.method != method {
        return Err(Refusal::method(allow));
    }
    let all = query(&route, parts.uri.query())?;
    match route {
        Route::OpenApi => Ok(whole(StatusCode::OK, Bytes::from_static(OPENAPI.as_bytes()))),
        Route::Sessions => {
            let now = Timestamp::now();
            let views = shared.state.sessions().map_err(Refusal::internal)?;
            let views: Vec<SessionView> = views.into_iter().filter(|view| all || view.is_current()).map(|view| view.at(now)).collect();
            Ok(json(StatusCode::OK, &SessionList::of(&views)))
        }
        Route::Session(id) => show(&shared.state, &find(&shared.state, id)?),
        Route::Kill(id) => {
            let body = guard::read_json(&parts.headers, body, shared.patience).await?;
            let view = find(&shared.state, id)?;
            killing::kill(&shared.state, &view, &body, format!("sentrely serve, {peer}")).await
        }
    }
}

/// Whether ended sessions are wanted too. Anything else in a query is a mistake, and said to be one.
fn query(route: &Route<'_>, query: Option<&str>) -> Result<bool, Refusal> {
    match (route, query) {
        (_, None) | (Route::Sessions, Some("all=false")) => Ok(false),
        (Route::Sessions, Some("all=true")) => Ok(true),
        _ => Err(Refusal::new(StatusCode::BAD_REQUEST, "bad_request", "the only query there is: GET /sessions?all=true")),
    }
}

fn find(state: &StateDir, id: &str) -> Result<SessionView, Refusal> {
    state.find(id).map_err(|error| match error {
        FindError::Unknown(_) => Refusal::new(StatusCode::NOT_FOUND, "no_such_session", format!("no session begins with {id}")),
        FindError::Ambiguous { candidates, .. } => {
            Refusal::new(StatusCode::CONFLICT, "ambiguous", format!("several sessions begin with {id}: {}", candidates.join(", ")))
        }
        FindError::State(error) => Refusal::internal(error),
    })
}

/// As `show --json`.
fn show(state: &StateDir, view: &SessionView) -> Result<Answer, Refusal> {
    let file = state.session(view.id).journal_file();
    let records = if file.exists() { Some(read_journal(&file).map_err(Refusal::internal)?) } else { None };
    let view = view.clone().at(Timestamp::now());
    let details = records.as_deref().map(Details::of);
    let proof = records.as_deref().zip(details.as_ref()).and_then(|(records, details)| Proof::of(records, &view, details));
    let threads = Gauge::of(records.iter().flatten().map(|record| &record.event)).threads();
    Ok(json(StatusCode::OK, &SessionDocument::of(&view, &threads, proof.as_ref(), details.as_ref())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_as_they_are_sent() {
        assert_eq!(Route::of("/sessions"), Some(Route::Sessions));
        assert_eq!(Route::of("/sessions/9f3a12cd"), Some(Route::Session("9f3a12cd")));
        assert_eq!(Route::of("/sessions/9f3a12cd/kill"), Some(Route::Kill("9f3a12cd")));
        for trick in [
            "",
            "/",
            "*",
            "//sessions",
            "/sessions/",
            "/sessions//",
            "/Sessions",
            "/sessions/..",
            "/sessions/../kill",
            "/sessions/%39f3a12cd",
            "/sessions/9f3a12cd/",
            "/sessions/9f3a12cd/kill/",
            "/sessions/9f3a12cd/kill/x",
            "/sessions/9F3A12CD",
            "/sessions/9f3",
            "/sessions/./kill",
            "/sessions/9f3a12cd%2fkill",
            "/sessions/9f3a12cd;x=1",
            "/sessions/..%2f..%2fetc%2fpasswd",
            "/serve-token",
            "/openapi.json/",
        ] {
            assert_eq!(Route::of(trick), None, "{trick}");
        }
    }
}
