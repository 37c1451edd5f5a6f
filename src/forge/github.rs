//! GitHub's REST API, as far as a pull request needs it: find the open one, open one, bring its text up to date.
//!
//! Requests are made one after the other and repeated where GitHub asks for it, within [`PATIENCE`]. The token goes to the configured
//! API and nowhere else: redirects to another host lose it. What GitHub says is shown, never the token.

use std::path::Path;
use std::time::Duration;

use reqwest::header::{ACCEPT, HeaderMap, RETRY_AFTER};
use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Place;
use super::summary::put;
use crate::model::SessionId;

/// One answer may take so long.
const ANSWER: Duration = Duration::from_secs(30);
/// All waiting that GitHub asks for (rate limits, server errors) together.
const PATIENCE: Duration = Duration::from_mins(1);
/// A request is repeated so often.
const MOST_TRIES: u32 = 4;
/// The API version that this was written for (docs.github.com, "API versions").
const API_VERSION: &str = "2022-11-28";

/// Why there is no pull request. The message fits after "failed to".
#[derive(Debug, thiserror::Error)]
pub enum ForgeError {
    /// The client could not be made.
    #[error("prepare a connection to {api}")]
    Client {
        /// The API's address.
        api: String,
        /// Why.
        source: reqwest::Error,
    },
    /// The configured certificates cannot be read.
    #[error("read the certificates in {path}")]
    Certificates {
        /// The file.
        path: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer.
    #[error("{doing}: no answer from {api}")]
    Unreachable {
        /// What was tried.
        doing: String,
        /// The API's address.
        api: String,
        /// Why.
        source: reqwest::Error,
    },
    /// GitHub said no.
    #[error("{doing}: {api} said {status}: {said}")]
    Refused {
        /// What was tried.
        doing: String,
        /// The API's address.
        api: String,
        /// The HTTP status.
        status: u16,
        /// GitHub's own words.
        said: String,
    },
    /// GitHub wants to be asked later.
    #[error("{doing}: {api} asks to come back in {seconds} s")]
    Later {
        /// What was tried.
        doing: String,
        /// The API's address.
        api: String,
        /// When.
        seconds: u64,
    },
    /// The answer is not what the forge's API answers.
    #[error("{doing}: {api} answered something else than it should")]
    Odd {
        /// What was tried.
        doing: String,
        /// The API's address.
        api: String,
    },
}

impl ForgeError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        let status = match self {
            Self::Refused { status, .. } => *status,
            Self::Later { .. } => return Some("the branch is pushed; run it again then".to_owned()),
            Self::Unreachable { .. } => return Some("the branch is pushed; run it again, or open the pull request by hand".to_owned()),
            _ => return None,
        };
        match status {
            401 => Some("the token is not valid (any more): `gh auth status`, or the reference in git.token".to_owned()),
            403 | 404 => Some("the token needs read and write access to pull requests of this repository".to_owned()),
            _ => None,
        }
    }
}

/// The pull request that is wanted.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The session: marks its section of the text.
    pub session: SessionId,
    /// The title of a new pull request; that of an open one stays.
    pub title: String,
    /// The pushed branch.
    pub head: String,
    /// The branch it is for.
    pub base: String,
    /// The section about the session ([`super::summary::section`]).
    pub section: String,
    /// As a draft, where the project allows drafts. An open one stays what it is.
    pub draft: bool,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The page.
    pub url: String,
    /// Its number.
    pub number: u64,
    /// It is new; else its text was brought up to date.
    pub new: bool,
    /// It is a draft.
    pub draft: bool,
}

/// GitHub's API for one project.
pub struct GitHub {
    api: String,
    project: String,
    owner: String,
    token: SecretString,
    client: reqwest::Client,
}

#[derive(Deserialize)]
struct PullRequest {
    html_url: String,
    number: u64,
    #[serde(default)]
    body: Option<String>,
    #[serde(default)]
    draft: Option<bool>,
}

/// What stands between a token and a branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// The token may push to the project at all.
    pub may_push: bool,
    /// It belongs to an administrator, whom rules may let through.
    pub administers: bool,
    /// The kinds of rules in force for the branch, in order: `non_fast_forward`, `pull_request` ...
    pub rules: Vec<String>,
    /// Rules or a branch protection are in force.
    pub protected: bool,
}

impl Guard {
    /// Whether a plain push to the branch is refused.
    pub fn keeps_pushes_out(&self) -> bool {
        // With no rule among them it is a branch protection, whose content only administrators see.
        let by_rules = ["pull_request", "update"].iter().any(|rule| self.rules.iter().any(|known| known == rule));
        !self.may_push || by_rules || (self.protected && self.rules.is_empty())
    }
}

#[derive(Deserialize)]
struct Branch {
    name: String,
}

impl GitHub {
    /// For the project at `place`, at `api` if one is configured, trusting the certificates in `extra_ca` too.
    pub fn new(place: &Place, api: Option<&str>, extra_ca: Option<&Path>, token: SecretString) -> Result<Self, ForgeError> {
        let api = api.map_or_else(|| place.github_api(), |api| api.trim_end_matches('/').to_owned());
        let client = builder(extra_ca)?.build().map_err(|source| ForgeError::Client { api: api.clone(), source })?;
        let owner = place.project.split('/').next().unwrap_or_default().to_owned();
        Ok(Self { api, project: place.project.clone(), owner, token, client })
    }

    /// Opens the pull request, or brings the open one of the same branch up to date. Doing it twice is doing it once.
    pub async fn open_or_update(&self, wanted: &Wanted) -> Result<Opened, ForgeError> {
        if let Some(open) = self.find(wanted).await? {
            return self.update(wanted, &open).await;
        }
        match self.create(wanted, wanted.draft).await {
            // Private projects of a free plan have no drafts.
            Err(ForgeError::Refused { status: 422, said, .. }) if wanted.draft && said.to_lowercase().contains("draft") => {
                self.create(wanted, false).await
            }
            // Somebody was faster.
            Err(error @ ForgeError::Refused { status: 409 | 422, .. }) => match self.find(wanted).await? {
                Some(open) => self.update(wanted, &open).await,
                None => Err(error),
            },
            done => done,
        }
    }

    /// The branches that the project protects (branch protection or rules), the first hundred.
    pub async fn protected_branches(&self) -> Result<Vec<String>, ForgeError> {
        let doing = "ask for the protected branches";
        let answer = self.send(doing, Method::GET, "branches", &[("protected", "true"), ("per_page", "100")], None).await?;
        let branches: Vec<Branch> = serde_json::from_value(answer).map_err(|_| self.odd(doing))?;
        Ok(branches.into_iter().map(|branch| branch.name).collect())
    }

    /// What keeps this token from changing a branch by a push.
    ///
    /// Rules are told for names that do not exist yet and without administration (docs.github.com, "Get rules for a branch"); the older
    /// branch protection shows as no more than `protected`.
    pub async fn guard(&self, branch: &str) -> Result<Guard, ForgeError> {
        let doing = format!("ask what protects {branch}");
        let project = self.send(&doing, Method::GET, "", &[], None).await?;
        let may = |what: &str| project["permissions"][what].as_bool().unwrap_or(false);
        let rules = self.send(&doing, Method::GET, &format!("rules/branches/{branch}"), &[], None).await?;
        let rules = rules.as_array().ok_or_else(|| self.odd(&doing))?;
        let mut rules: Vec<String> = rules.iter().filter_map(|rule| rule["type"].as_str().map(str::to_owned)).collect();
        rules.sort();
        rules.dedup();
        let protected = match self.send(&doing, Method::GET, &format!("branches/{branch}"), &[], None).await {
            Ok(answer) => answer["protected"].as_bool().unwrap_or(false),
            Err(ForgeError::Refused { status: 404, .. }) => false,
            Err(error) => return Err(error),
        };
        Ok(Guard { may_push: may("push"), administers: may("admin"), rules, protected })
    }

    async fn find(&self, wanted: &Wanted) -> Result<Option<PullRequest>, ForgeError> {
        let head = format!("{}:{}", self.owner, wanted.head);
        let query = [("state", "open"), ("head", head.as_str()), ("base", wanted.base.as_str())];
        let doing = "look for an open pull request";
        let answer = self.send(doing, Method::GET, "pulls", &query, None).await?;
        let open: Vec<PullRequest> = serde_json::from_value(answer).map_err(|_| self.odd(doing))?;
        Ok(open.into_iter().next())
    }

    async fn create(&self, wanted: &Wanted, draft: bool) -> Result<Opened, ForgeError> {
        let body = put("", wanted.session, &wanted.section);
        let request = json!({ "title": wanted.title, "head": wanted.head, "base": wanted.base, "body": body, "draft": draft });
        let answer = self.send("open the pull request", Method::POST, "pulls", &[], Some(&request)).await?;
        self.read("open the pull request", answer, true)
    }

    async fn update(&self, wanted: &Wanted, open: &PullRequest) -> Result<Opened, ForgeError> {
        let body = put(open.body.as_deref().unwrap_or_default(), wanted.session, &wanted.section);
        let doing = format!("bring pull request {} up to date", open.number);
        let answer = self.send(&doing, Method::PATCH, &format!("pulls/{}", open.number), &[], Some(&json!({ "body": body }))).await?;
        self.read(&doing, answer, false)
    }

    fn read(&self, doing: &str, answer: Value, new: bool) -> Result<Opened, ForgeError> {
        let read: PullRequest = serde_json::from_value(answer).map_err(|_| self.odd(doing))?;
        Ok(Opened { url: read.html_url, number: read.number, new, draft: read.draft.unwrap_or(false) })
    }

    fn odd(&self, doing: &str) -> ForgeError {
        ForgeError::Odd { doing: doing.to_owned(), api: self.api.clone() }
    }

    /// Sends a request, again where that is asked for or sensible; the answer's JSON.
    async fn send(
        &self,
        doing: &str,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Value, ForgeError> {
        let url = format!("{}/repos/{}/{path}", self.api, self.project);
        let url = url.trim_end_matches('/');
        let mut patience = PATIENCE;
        let mut tries = 0;
        loop {
            tries += 1;
            let mut request = self.client.request(method.clone(), url).bearer_auth(self.token.expose_secret()).query(query);
            request = request.header(ACCEPT, "application/vnd.github+json, application/json").header("x-github-api-version", API_VERSION);
            if let Some(body) = body {
                request = request.json(body);
            }
            let unreachable = |source: reqwest::Error| ForgeError::Unreachable {
                doing: doing.to_owned(),
                api: self.api.clone(),
                source: source.without_url(),
            };
            let wait = match request.send().await {
                Ok(answer) if answer.status().is_success() => return answer.json().await.map_err(|_| self.odd(doing)),
                Ok(answer) => {
                    let (status, wait) = (answer.status(), asked_to_wait(answer.status(), answer.headers()));
                    let Some(wait) = wait else {
                        let said = said(&answer.bytes().await.unwrap_or_default());
                        return Err(ForgeError::Refused { doing: doing.to_owned(), api: self.api.clone(), status: status.as_u16(), said });
                    };
                    if tries == MOST_TRIES && status.is_server_error() {
                        let said = said(&answer.bytes().await.unwrap_or_default());
                        return Err(ForgeError::Refused { doing: doing.to_owned(), api: self.api.clone(), status: status.as_u16(), said });
                    }
                    wait
                }
                // A request that may have arrived is repeated only where that does no harm.
                Err(error) if tries < MOST_TRIES && (error.is_connect() || method != Method::POST) => Duration::from_millis(500) * tries,
                Err(error) => return Err(unreachable(error)),
            };
            if wait > patience || tries == MOST_TRIES {
                return Err(ForgeError::Later { doing: doing.to_owned(), api: self.api.clone(), seconds: wait.as_secs() });
            }
            patience -= wait;
            tokio::time::sleep(wait).await;
        }
    }
}

/// A client that has patience, a name, and the certificates in `extra_ca` besides the system's.
pub(super) fn builder(extra_ca: Option<&Path>) -> Result<reqwest::ClientBuilder, ForgeError> {
    let _ = rustls::crypto::ring::default_provider().install_default(); // installed already is as good
    let mut builder = reqwest::Client::builder().timeout(ANSWER).user_agent(concat!("sentrely/", env!("CARGO_PKG_VERSION")));
    if let Some(path) = extra_ca {
        let wrong = |source| ForgeError::Certificates { path: path.display().to_string(), source };
        let pem = std::fs::read(path).map_err(|error| wrong(error.into()))?;
        for certificate in reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| wrong(error.into()))? {
            builder = builder.add_root_certificate(certificate);
        }
    }
    Ok(builder)
}

/// How long to wait before the same request may be sent again; `None`: it would get the same answer.
///
/// Rules: docs.github.com, "Rate limits for the REST API" (`retry-after` in seconds, else `x-ratelimit-reset` in epoch seconds).
fn asked_to_wait(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    if matches!(status, StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS) {
        if let Some(seconds) = number(RETRY_AFTER.as_str()) {
            return Some(Duration::from_secs(seconds));
        }
        if number("x-ratelimit-remaining") == Some(0) {
            let now = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or_default();
            return Some(Duration::from_secs(number("x-ratelimit-reset")?.saturating_sub(now).max(1)));
        }
        return (status == StatusCode::TOO_MANY_REQUESTS).then_some(Duration::from_secs(5));
    }
    status.is_server_error().then(|| Duration::from_secs(number(RETRY_AFTER.as_str()).unwrap_or(1)))
}

/// GitHub's words for an error: its message and the messages below it.
pub(super) fn said(body: &[u8]) -> String {
    let Ok(value) = serde_json::from_slice::<Value>(body) else {
        return "something that is not JSON".to_owned();
    };
    let below = value["errors"].as_array().into_iter().flatten();
    let below = below.filter_map(|error| error["message"].as_str().or_else(|| error.as_str()).or_else(|| error["code"].as_str()));
    let words = value["message"].as_str().into_iter().chain(below).collect::<Vec<_>>().join("; ");
    let words: String = words.chars().map(|c| if c.is_control() { ' ' } else { c }).take(400).collect();
    if words.is_empty() { "nothing".to_owned() } else { words }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_rate_limit_is_waited_for_and_a_refusal_is_not() {
        let wait = |status: u16, pairs: &[(&'static str, &str)]| asked_to_wait(StatusCode::from_u16(status).unwrap(), &headers(pairs));
        assert_eq!(wait(403, &[("retry-after", "7")]), Some(Duration::from_secs(7)));
        assert_eq!(wait(403, &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1")]), Some(Duration::from_secs(1)));
        assert_eq!(wait(403, &[("x-ratelimit-remaining", "12")]), None);
        assert_eq!(wait(429, &[]), Some(Duration::from_secs(5)));
        assert_eq!(wait(502, &[]), Some(Duration::from_secs(1)));
        assert_eq!((wait(401, &[]), wait(422, &[])), (None, None));
    }

    #[test]
    fn githubs_words_are_told_with_what_stands_below_them() {
        let body = br#"{"message":"Validation Failed","errors":[{"resource":"PullRequest","code":"custom","message":"No commits between main and x"}]}"#;
        assert_eq!(said(body), "Validation Failed; No commits between main and x");
        assert_eq!(said(b"<html>"), "something that is not JSON");
    }
}
