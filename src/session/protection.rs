//! Which branches no session may change: what is configured (everybody's lists together), the remote's default branch, and what the forge
//! protects.
//!
//! The forge is asked beside the session's start, at most once an hour for each project, and only where a token is at hand without asking
//! anybody; its answer is kept for the next sessions. Nothing waits for it, and nothing fails by it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::task::{JoinHandle, spawn_blocking};

use super::prepare::Prepared;
use super::pull_request::token_of_login;
use crate::config::{Config, SecretRef};
use crate::forge::{ForgeError, GitHub, GitLab, GitLabGuard, Guard, Kind, Place};
use crate::git::{self, Checkout, Protected};
use crate::store::replace;

/// How long the forge's answer is good.
const FRESH: Duration = Duration::from_hours(1);
/// The forge gets so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// The forge's last answer.
#[derive(Serialize, Deserialize)]
struct Kept {
    at: Timestamp,
    branches: Vec<String>,
}

/// The list as it is known now, and the task that completes it, if there is something to ask.
pub(super) fn of(prepared: &Prepared) -> (Protected, Option<JoinHandle<()>>) {
    let config = &prepared.request.config;
    let protected = Protected::new(config.git.protected.clone());
    let Some((checkout, remote)) = prepared.checkout.as_ref().and_then(|checkout| Some((checkout, checkout.remote()?))) else {
        return (protected, None);
    };
    protected.add(git::known_default_branch(checkout, &remote));
    let api = config.git.api_url.clone();
    let Some(place) = Place::of(remote.push_target(), api.as_deref()).filter(|place| place.kind != Kind::Other) else {
        return (protected, None);
    };
    let file = kept_in(prepared, &place, api.as_deref());
    let kept = fs::read(&file).ok().and_then(|content| serde_json::from_slice::<Kept>(&content).ok());
    let is_fresh = kept.as_ref().is_some_and(|kept| Timestamp::now().duration_since(kept.at).unsigned_abs() < FRESH);
    protected.add(kept.into_iter().flat_map(|kept| kept.branches));
    // A command may ask for a finger.
    if is_fresh || matches!(config.git.token, Some(SecretRef::Command(_))) {
        return (protected, None);
    }
    let (reference, extra_ca, list) = (config.git.token.clone(), config.upstream.extra_ca.clone(), protected.clone());
    let asking = async move {
        let Some(token) = token(&place, reference).await else { return };
        match tokio::time::timeout(PATIENCE, protected_at(&place, api.as_deref(), extra_ca.as_deref(), token)).await {
            Ok(Ok(branches)) => {
                list.add(branches.iter().cloned());
                let kept = serde_json::to_vec(&Kept { at: Timestamp::now(), branches }).unwrap_or_default();
                let _ = file.parent().map(fs::create_dir_all);
                let _ = replace(&file, &kept);
            }
            Ok(Err(error)) => tracing::debug!(%error, "the forge does not say what it protects"),
            Err(_) => tracing::debug!("the forge does not say in time what it protects"),
        }
    };
    (protected, Some(tokio::spawn(asking)))
}

/// The forge's token, by the configured reference or from its own command line's login.
async fn token(place: &Place, reference: Option<SecretRef>) -> Option<SecretString> {
    let place = place.clone();
    let found = spawn_blocking(move || reference.map_or_else(|| token_of_login(&place), |reference| reference.resolve().ok()));
    found.await.ok().flatten()
}

async fn protected_at(place: &Place, api: Option<&str>, extra_ca: Option<&Path>, token: SecretString) -> Result<Vec<String>, ForgeError> {
    if place.kind == Kind::GitLab {
        let branches = GitLab::new(place, api, extra_ca, token)?.protected_branches().await?;
        return Ok(branches.into_iter().map(|branch| branch.name).collect());
    }
    GitHub::new(place, api, extra_ca, token)?.protected_branches().await
}

/// What `doctor` says of the remote.
pub struct Survey {
    /// In words.
    pub what: String,
    /// What to switch on; `None`: all is well, or nothing can be said.
    pub hint: Option<String>,
}

/// Whether the remote itself keeps sessions, or whoever has this machine's credentials, from its default branch. Asks the forge.
pub async fn survey(checkout: &Checkout, config: &Config) -> Survey {
    let Some(remote) = checkout.remote() else {
        return Survey { what: "no remote: branches stay on this machine".to_owned(), hint: None };
    };
    let branch = git::known_default_branch(checkout, &remote).unwrap_or_else(|| "main".to_owned());
    let place = Place::of(remote.push_target(), config.git.api_url.as_deref());
    let unknown = |why: &str, hint: &str| Survey {
        what: format!("whether {} protects {branch} cannot be told: {why}", remote.name),
        hint: Some(hint.to_owned()),
    };
    let place = match place {
        Some(place) if place.kind != Kind::Other => place,
        Some(place) => return unknown(&format!("{} is asked by hand", place.host), "look at the project's branch protection"),
        None if !checkout.local_remotes().is_empty() => {
            let what = format!("{} is a folder: whoever may write there may move {branch}", remote.name);
            return Survey {
                what,
                hint: Some(
                    "behind the wall a session only reads it; receive.denyNonFastForwards and a pre-receive hook guard it".to_owned(),
                ),
            };
        }
        None => return unknown("it is no forge that sentrely knows", "a pre-receive hook on the server can refuse pushes"),
    };
    let is_gitlab = place.kind == Kind::GitLab;
    let Some(token) = token(&place, config.git.token.clone()).await else {
        let login = if is_gitlab { "glab" } else { "gh" };
        return unknown("there is no token to ask with", &format!("log in with `{login} auth login`, or set git.token"));
    };
    let (api, extra_ca) = (config.git.api_url.as_deref(), config.upstream.extra_ca.as_deref());
    if is_gitlab {
        let asked = async {
            let covers = |pattern: &str| Protected::new(vec![pattern.to_owned()]).covers(&branch);
            GitLab::new(&place, api, extra_ca, token)?.guard(&branch, covers).await
        };
        let asked = tokio::time::timeout(PATIENCE, asked).await.map_err(|_| "no answer in time".to_owned());
        return match asked.and_then(|gate| gate.map_err(|error| error.to_string())) {
            Ok(gate) => judge_gitlab(&gate, &branch, &format!("{} at {}", place.project, place.host)),
            Err(why) => unknown(&why, "look at Settings, Repository, Protected branches"),
        };
    }
    let github = GitHub::new(&place, api, extra_ca, token);
    let asked = match github {
        Ok(github) => tokio::time::timeout(PATIENCE, github.guard(&branch)).await.map_err(|_| "no answer in time".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    match asked.and_then(|guard| guard.map_err(|error| error.to_string())) {
        Ok(guard) => judge(&guard, &branch, &format!("{} at {}", place.project, place.host)),
        Err(why) => unknown(&why, "look at Settings, Rules"),
    }
}

fn judge(guard: &Guard, branch: &str, project: &str) -> Survey {
    let rules = if guard.rules.is_empty() { "a branch protection".to_owned() } else { guard.rules.join(", ") };
    let survey = |what: String, hint: Option<&str>| Survey { what, hint: hint.map(str::to_owned) };
    if !guard.may_push {
        return survey(format!("{branch} of {project}: your token may not push"), None);
    }
    if !guard.keeps_pushes_out() {
        let what = format!("{branch} of {project} takes direct pushes from your token");
        let hint =
            format!("switch on a rule for {branch} (Settings, Rules): require a pull request, block force pushes, restrict deletions");
        return Survey { what, hint: Some(hint) };
    }
    if guard.administers {
        let what = format!("{branch} of {project} is protected by {rules}, but your token is an administrator's");
        return survey(what, Some("let nobody bypass the rules, administrators included, or work with a token that does not administer"));
    }
    let missing = !guard.rules.is_empty() && !guard.rules.iter().any(|rule| rule == "non_fast_forward");
    survey(format!("{branch} of {project} is protected by {rules}"), missing.then_some("block force pushes too"))
}

fn judge_gitlab(gate: &GitLabGuard, branch: &str, project: &str) -> Survey {
    let survey = |what: String, hint: Option<String>| Survey { what, hint };
    if !gate.may_push() {
        return survey(format!("{branch} of {project}: your token may not push"), None);
    }
    let place = "Settings, Repository, Protected branches";
    if !gate.keeps_pushes_out() {
        let what = match gate.needs {
            None => format!("{branch} of {project} is not protected and takes direct pushes from your token"),
            Some(_) => format!("{branch} of {project} takes direct pushes from your token"),
        };
        let force = if gate.force { ", and switch off force pushes" } else { "" };
        return survey(what, Some(format!("{place}: protect {branch} and allow nobody to push{force}; merge requests stay")));
    }
    let force = gate.force.then(|| format!("{place}: switch off force pushes to {branch}"));
    let single = if gate.exceptions { " (single people, groups or deploy keys may)" } else { "" };
    survey(format!("{branch} of {project} is protected: you may not push to it{single}"), force)
}

fn kept_in(prepared: &Prepared, place: &Place, api: Option<&str>) -> PathBuf {
    let whole = Sha256::digest(format!("{}\n{}\n{}", place.host, place.project, api.unwrap_or_default()));
    let name = whole.iter().take(8).fold(0_u64, |name, byte| name << 8 | u64::from(*byte));
    prepared.request.state.path().join("protected").join(format!("{name:016x}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_remote_lacks_is_what_is_to_be_switched_on() {
        let judged = |may_push, administers, rules: &[&str], protected| {
            let guard = Guard { may_push, administers, rules: rules.iter().map(|rule| (*rule).to_owned()).collect(), protected };
            judge(&guard, "main", "acme/shop").hint.unwrap_or_else(|| "fine".to_owned())
        };
        assert_eq!(judged(false, false, &[], false), "fine");
        assert!(judged(true, false, &[], false).contains("require a pull request"));
        assert!(judged(true, false, &["deletion", "non_fast_forward"], true).contains("require a pull request"));
        assert_eq!(judged(true, false, &["non_fast_forward", "pull_request"], true), "fine");
        assert_eq!(judged(true, false, &["pull_request"], true), "block force pushes too");
        assert_eq!(judged(true, false, &[], true), "fine");
        assert!(judged(true, true, &["non_fast_forward", "pull_request"], true).contains("bypass"));
    }
}
