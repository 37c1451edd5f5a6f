//! The review gate: a session's branch becomes a pull request, by hand (`sentrely pr`) or at the end of a run (`--pr`).
//!
//! The branch goes out by the developer's own git; then GitHub is asked by its API, GitLab by push options, and elsewhere a page is
//! named. What a person has to look at first (`[git] held`) does not go out unseen. Nothing is ever merged.

use std::path::Path;

use anyhow::Context;
use secrecy::SecretString;
use tokio::task::spawn_blocking;

use crate::config::Config;
use crate::forge::summary::{Facts, section};
use crate::forge::{GitHub, Kind, Place, Wanted, gitlab_options};
use crate::git::{self, Changes, Checkout, GitError, Remote};
use crate::model::{Event, Record, SessionView, StopReason, unbilled};

/// A title is cut after so many characters.
const LONGEST_TITLE: usize = 120;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The session, ended or ending.
    pub view: SessionView,
    /// Its journal.
    pub records: Vec<Record>,
    /// The hash of the journal's last line: it leaves the machine, so that later changes can be found (invariant I5).
    pub journal_head: String,
    /// The branch to merge into; `None`: what the session started from if the remote has it, else the remote's default.
    pub base: Option<String>,
    /// The title; `None`: the only commit's subject, else the session's name.
    pub title: Option<String>,
    /// As a draft.
    pub draft: bool,
    /// A person has looked at the changes that are held.
    pub held_seen: bool,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivered {
    /// For the journal.
    pub event: Event,
    /// In words, for a person.
    pub said: String,
}

/// Why the branch did not become a pull request.
#[derive(Debug)]
pub struct NotDelivered {
    /// What failed, on what, and why.
    pub error: anyhow::Error,
    /// What the user can do.
    pub hint: Option<String>,
    /// Paths that a person has to look at first.
    pub held: Vec<String>,
    /// What happened before it failed: the branch went out.
    pub event: Option<Box<Event>>,
}

impl NotDelivered {
    fn new(error: impl Into<anyhow::Error>, hint: Option<&str>) -> Self {
        Self { error: error.into(), hint: hint.map(str::to_owned), held: Vec::new(), event: None }
    }

    fn words(text: String, hint: Option<&str>) -> Self {
        Self::new(anyhow::Error::msg(text), hint)
    }
}

impl From<GitError> for NotDelivered {
    fn from(error: GitError) -> Self {
        let hint = error.hint();
        Self { error: error.into(), hint, held: Vec::new(), event: None }
    }
}

/// What git knows before anything leaves the machine.
struct Ready {
    checkout: Checkout,
    remote: Remote,
    branch: String,
    base: String,
    changes: Changes,
}

/// Pushes the branch and opens the pull request, or brings the open one up to date. Doing it twice is doing it once.
pub async fn deliver(ask: Ask, config: &Config) -> Result<Delivered, NotDelivered> {
    let (asked, patterns) = (ask.clone(), config.git.held.clone());
    let ready = blocking(move || make_ready(&asked, &patterns)).await?;
    let place = Place::of(ready.remote.push_target(), config.git.api_url.as_deref());
    let over = last_sent(&ask.records).filter(|_| config.git.force);
    let title = ask.title.clone().unwrap_or_else(|| title_of(&ask.view, &ready.changes));
    match place {
        Some(place) if place.kind == Kind::GitHub => on_github(ask, ready, place, title, over, config).await,
        Some(place) if place.kind == Kind::GitLab => {
            let options = gitlab_options(&title, &ready.base, ask.draft);
            // For a branch that has a merge request the options change nothing, and GitLab names the one there is.
            let known = git::is_on_remote(&ready.checkout, &ready.remote, &ready.branch);
            let (ready, said) = push(ready, options, over).await?;
            match said.iter().find_map(|line| merge_request_in(line)) {
                Some(url) => Ok(opened(&ready, &url, None, !known, ask.draft)),
                None if known => Ok(by_hand(&ready, Some(&place), "it was there already; a merge request that is open has what is new")),
                None => Ok(by_hand(&ready, Some(&place), "GitLab did not open a merge request")),
            }
        }
        place => {
            let (ready, _) = push(ready, Vec::new(), over).await?;
            Ok(by_hand(&ready, place.as_ref(), "the remote's host has no API that sentrely knows"))
        }
    }
}

async fn on_github(
    ask: Ask,
    ready: Ready,
    place: Place,
    title: String,
    over: Option<String>,
    config: &Config,
) -> Result<Delivered, NotDelivered> {
    let (host, reference) = (place.host.clone(), config.git.token.clone());
    let token = blocking(move || match reference {
        Some(reference) => reference.resolve().map(Some).map_err(|error| {
            let hint = error.hint();
            NotDelivered { error: error.into(), hint, held: Vec::new(), event: None }
        }),
        None => Ok(token_of_gh(&host)),
    })
    .await?;
    let (ready, _) = push(ready, Vec::new(), over).await?;
    let Some(token) = token else {
        return Ok(by_hand(&ready, Some(&place), "no token: log in with `gh auth login`, or set git.token"));
    };
    let failed = |error: crate::forge::ForgeError| {
        let hint = error.hint();
        let event = Some(Box::new(by_hand(&ready, Some(&place), "").event));
        NotDelivered { error: error.into(), hint, held: Vec::new(), event }
    };
    let github = GitHub::new(&place, config.git.api_url.as_deref(), config.upstream.extra_ca.as_deref(), token).map_err(failed)?;
    let wanted = Wanted {
        session: ask.view.id,
        title,
        head: ready.branch.clone(),
        base: ready.base.clone(),
        section: section(ask.view.id, &facts(&ask, &ready.changes)),
        draft: ask.draft,
    };
    let done = github.open_or_update(&wanted).await.map_err(failed)?;
    Ok(opened(&ready, &done.url, Some(done.number), done.new, done.draft))
}

fn make_ready(ask: &Ask, held: &[String]) -> Result<Ready, NotDelivered> {
    let view = &ask.view;
    let id = &view.short_id;
    let saved = ask.records.iter().rev().find_map(|record| match &record.event {
        Event::WorkSaved { branch, .. } => Some(branch.clone()),
        _ => None,
    });
    let Some(branch) = saved.filter(|branch| !branch.is_empty()) else {
        return Err(NotDelivered::words(format!("open a pull request for session {id}: no work of it was saved"), None));
    };
    let Some(path) = &view.checkout else {
        return Err(NotDelivered::words(format!("open a pull request for session {id}: it had no repository"), None));
    };
    let checkout = Checkout::discover(Path::new(path))?;
    let Some(remote) = checkout.remote() else {
        let hint = format!("the work is on {branch}, in {path}");
        return Err(NotDelivered::words(format!("push {branch}: the repository at {path} has no remote"), Some(&hint)));
    };
    let changes = git::changes(&checkout, &branch, view.base_commit.as_deref())?;
    if changes.count == 0 {
        return Err(NotDelivered::words(format!("open a pull request for session {id}: {branch} has no commit of its own"), None));
    }
    let looked_at = changes.held(held);
    if !ask.held_seen && !looked_at.is_empty() {
        let held: Vec<String> = looked_at.into_iter().map(str::to_owned).collect();
        let error = anyhow::anyhow!("push {branch}: a person has to look first at {}", held.join(", "));
        let hint = Some(format!("look with: git diff {}...{branch} -- {}; then: sentrely pr {id} --held", base_word(view), held[0]));
        return Err(NotDelivered { error, hint, held, event: None });
    }
    let base = match &ask.base {
        Some(base) => base.clone(),
        None => base_branch(&checkout, &remote, view)
            .with_context(|| format!("find the branch of {} to merge into", remote.name))
            .map_err(|error| NotDelivered::new(error, Some("name it with --base")))?,
    };
    Ok(Ready { checkout, remote, branch, base, changes })
}

fn base_word(view: &SessionView) -> &str {
    view.base_commit.as_deref().map_or("HEAD", |commit| &commit[..commit.len().min(12)])
}

fn base_branch(checkout: &Checkout, remote: &Remote, view: &SessionView) -> anyhow::Result<String> {
    let from = view.base.as_deref().map(|base| base.strip_prefix(&format!("{}/", remote.name)).unwrap_or(base));
    if let Some(base) = from.filter(|base| git::is_on_remote(checkout, remote, base)) {
        return Ok(base.to_owned());
    }
    git::default_branch(checkout, remote).ok_or_else(|| anyhow::anyhow!("it names no default branch"))
}

/// The commit of the session's branch that went to the remote last, as far as the session knows.
fn last_sent(records: &[Record]) -> Option<String> {
    records.iter().rev().find_map(|record| match &record.event {
        Event::PushAccepted { commit, .. } | Event::PullRequest { commit, .. } => Some(commit.clone()),
        _ => None,
    })
}

async fn push(ready: Ready, options: Vec<String>, over: Option<String>) -> Result<(Ready, Vec<String>), NotDelivered> {
    blocking(move || {
        let pushed = git::push_branch(&ready.checkout, &ready.remote, &ready.branch, &options, over.as_deref());
        // An older server, or something that only looks like a GitLab.
        let pushed = match pushed {
            Err(GitError::Git { said, .. }) if !options.is_empty() && said.contains("push options") => {
                git::push_branch(&ready.checkout, &ready.remote, &ready.branch, &[], over.as_deref())
            }
            other => other,
        };
        Ok((pushed.map_err(NotDelivered::from)?, ready))
    })
    .await
    .map(|(said, ready)| (ready, said))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, NotDelivered> + Send + 'static) -> Result<T, NotDelivered> {
    spawn_blocking(work).await.unwrap_or_else(|error| Err(NotDelivered::new(error, None)))
}

/// The token of the GitHub command line's login, which also knows `GH_TOKEN` and its like; without that program the variable itself.
pub(super) fn token_of_gh(host: &str) -> Option<SecretString> {
    let asked = std::process::Command::new("gh").args(["auth", "token", "--hostname", host]).stdin(std::process::Stdio::null()).output();
    let told = asked.ok().filter(|output| output.status.success()).and_then(|output| String::from_utf8(output.stdout).ok());
    let names: &[&str] = if host == "github.com" { &["GH_TOKEN", "GITHUB_TOKEN"] } else { &["GH_ENTERPRISE_TOKEN"] };
    let told = told.or_else(|| names.iter().find_map(|name| std::env::var(name).ok()));
    told.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()).map(SecretString::from)
}

/// The token of the login of the forge's own command line, or of its variable.
pub(super) fn token_of_login(place: &Place) -> Option<SecretString> {
    if place.kind == Kind::GitLab { token_of_glab(&place.host) } else { token_of_gh(&place.host) }
}

/// As [`token_of_gh`], of GitLab's.
fn token_of_glab(host: &str) -> Option<SecretString> {
    let variable = ["GITLAB_TOKEN", "GITLAB_ACCESS_TOKEN", "GL_TOKEN"].iter().find_map(|name| std::env::var(name).ok());
    let told = variable.or_else(|| {
        let mut glab = std::process::Command::new("glab");
        let asked = glab.args(["config", "get", "token", "--host", host]).stdin(std::process::Stdio::null()).output();
        let asked = asked.ok().filter(|output| output.status.success())?;
        String::from_utf8(asked.stdout).ok()
    });
    told.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()).map(SecretString::from)
}

/// The address of a merge request in what GitLab says to a push.
fn merge_request_in(line: &str) -> Option<String> {
    line.split_whitespace()
        .find(|word| word.starts_with("http") && word.contains("/merge_requests/") && !word.contains("/new"))
        .map(str::to_owned)
}

fn opened(ready: &Ready, url: &str, number: Option<u64>, new: bool, draft: bool) -> Delivered {
    let what = if draft { "draft pull request" } else { "pull request" };
    let said = if new { format!("{what}: {url}") } else { format!("brought up to date: {url}") };
    let event =
        Event::PullRequest { url: Some(url.to_owned()), number, branch: ready.branch.clone(), commit: ready.changes.tip.clone(), new };
    Delivered { event, said }
}

fn by_hand(ready: &Ready, place: Option<&Place>, why: &str) -> Delivered {
    let page = place.map(|place| format!("; open a pull request at {}", place.compare_url(&ready.base, &ready.branch))).unwrap_or_default();
    let said = format!("{} is at {}{page} ({why})", ready.branch, ready.remote.name);
    let event = Event::PullRequest { url: None, number: None, branch: ready.branch.clone(), commit: ready.changes.tip.clone(), new: false };
    Delivered { event, said }
}

fn title_of(view: &SessionView, changes: &Changes) -> String {
    let title = match changes.commits.as_slice() {
        [(_, subject)] if !subject.trim().is_empty() => subject.clone(),
        _ => {
            let last = view.branch.as_deref().and_then(|branch| branch.rsplit('/').next()).unwrap_or(&view.short_id);
            let name = last.strip_suffix(&view.short_id).unwrap_or(last).trim_end_matches('-').replace('-', " ");
            format!("{}: {} commits of session {}", if name.is_empty() { "sentrely" } else { &name }, changes.count, view.short_id)
        }
    };
    title.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_TITLE).collect()
}

fn facts(ask: &Ask, changes: &Changes) -> Facts {
    let view = &ask.view;
    let mut lines = vec![("session", view.id.to_string()), ("developer", format!("{} ({})", view.developer, source(view)))];
    lines.push(("project", view.project.clone()));
    if let Some(aws) = &view.aws {
        lines.push(("AWS identity", format!("{} as {}", aws.role_arn, aws.role_session_name)));
    }
    let estimated = if view.cost_estimated { ", partly estimated" } else { "" };
    lines.push(("spent", format!("${}{}, {} requests{estimated}", view.cost_usd, unbilled(view.billing.kind), view.requests)));
    if !view.models.is_empty() {
        lines.push(("models", view.models.join(", ")));
    }
    let peak = view.context.peak_percent.map_or_else(|| "unknown".to_owned(), |percent| format!("{percent} %"));
    lines.push(("context at its peak", format!("{peak}, compacted {} times", view.context.compactions)));
    lines.push(("ended", ending(view)));
    lines.push(("journal", format!("{} records, the last with SHA-256 {}", ask.records.len(), ask.journal_head)));
    let stopped = view.stop_reason.filter(|reason| *reason != StopReason::ChildExited).map(|_| {
        let note = ask.records.iter().rev().find_map(|record| match &record.event {
            Event::StopRequested { note, .. } => Some(note.clone()),
            _ => None,
        });
        note.flatten().map_or_else(|| ending(view), |note| format!("{}: {note}", ending(view)))
    });
    Facts {
        stopped,
        lines,
        denials: denials(&ask.records),
        commit_count: changes.count,
        commits: changes.commits.clone(),
        files: changes.files.iter().map(|file| (file.path.clone(), file.lines)).collect(),
    }
}

fn source(view: &SessionView) -> String {
    serde_json::to_value(view.developer_source).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn ending(view: &SessionView) -> String {
    let reason = view.stop_reason.and_then(|reason| serde_json::to_value(reason).ok());
    let reason = reason.and_then(|value| value.as_str().map(|text| text.replace('_', " "))).unwrap_or_else(|| "still running".to_owned());
    view.exit_code.map_or_else(|| reason.clone(), |code| format!("{reason}, exit {code}"))
}

fn denials(records: &[Record]) -> Vec<String> {
    let mut told: Vec<(String, usize)> = Vec::new();
    for record in records {
        let line = match &record.event {
            Event::PushRefused { refs, why } => format!("push of {}: {why}", refs.join(", ")),
            Event::RequestRefused { why } => format!("request: {why}"),
            Event::HostRefused { host, why } => format!("connection to {host}: {why}"),
            _ => continue,
        };
        match told.iter_mut().find(|(known, _)| *known == line) {
            Some((_, count)) => *count += 1,
            None => told.push((line, 1)),
        }
    }
    told.into_iter().map(|(line, count)| if count == 1 { line } else { format!("{line} ({count} times)") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixture::{self, record};

    #[test]
    fn the_text_names_identity_models_peak_and_compactions() {
        let mut view = fixture::session();
        view.developer = "ana@example.com".into();
        let compaction = |trigger: &str| Event::Compaction {
            thread: crate::model::Thread::Main,
            trigger: Some(trigger.into()),
            request: None,
            seen_by: crate::model::SeenBy::default(),
        };
        let settled = |request, model: &str, input| Event::RequestSettled {
            request: crate::model::RequestId(request),
            thread: crate::model::Thread::Main,
            model: model.into(),
            usage: crate::model::Usage { input, output: 10, ..crate::model::Usage::default() },
            cost: "0.25".parse().unwrap(),
            estimated: false,
            lost: false,
            message_id: None,
            window: Some(200_000),
        };
        let events = [
            Event::AwsMinted {
                role_arn: "arn:aws:iam::123456789012:role/agents".into(),
                role_session_name: "9f3a12cd-ana".into(),
                access_key_id: "ASIAX".into(),
                delivery: "endpoint".into(),
                expires_at: jiff::Timestamp::UNIX_EPOCH,
            },
            settled(1, "claude-opus-5-5", 150_000),
            compaction("auto"),
            settled(2, "claude-haiku-4-5", 20_000),
            compaction("manual"),
        ];
        for event in events {
            view.apply(&record(event));
        }
        let ask = Ask { view, records: Vec::new(), journal_head: "ab12".into(), base: None, title: None, draft: true, held_seen: false };
        let text = section(ask.view.id, &facts(&ask, &Changes::default()));
        for part in [
            "ana@example.com (self-declared)",
            "arn:aws:iam::123456789012:role/agents as 9f3a12cd-ana",
            "claude-opus-5-5, claude-haiku-4-5",
            "75 %, compacted 2 times",
            "$0.5, 2 requests",
            "SHA-256 ab12",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }

    #[test]
    fn gitlab_names_its_merge_request_in_what_it_says_to_a_push() {
        let said = ["View merge request for x:", "  https://gitlab.com/a/b/-/merge_requests/7"];
        assert_eq!(said.iter().find_map(|line| merge_request_in(line)).as_deref(), Some("https://gitlab.com/a/b/-/merge_requests/7"));
        assert_eq!(merge_request_in("https://gitlab.com/a/b/-/merge_requests/new?x=1"), None);
    }
}
