//! GitLab's REST API, as far as it is asked what a project protects. Nothing is written there: a merge request is opened by push options.
//!
//! The token goes to the configured API and nowhere else: redirects are not followed, since a header of GitLab's own would go along.

use std::path::Path;

use reqwest::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;

use super::Place;
use super::github::{ForgeError, builder, said};

/// A member's levels (docs.gitlab.com, "Members API").
const DEVELOPER: u64 = 30;
const ADMINISTRATOR: u64 = 60;

/// GitLab's API for one project.
pub struct GitLab {
    api: String,
    project: String,
    token: SecretString,
    client: reqwest::Client,
}

/// A protected branch, or a pattern of such (docs.gitlab.com, "Protected branches API").
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ProtectedBranch {
    /// Its name, with `*` for any text.
    pub name: String,
    #[serde(default)]
    push_access_levels: Vec<Access>,
    #[serde(default)]
    allow_force_push: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Access {
    #[serde(rename = "access_level")]
    level: Option<u64>,
    /// One person, group or key: who that is the API does not say in these words.
    #[serde(default)]
    user_id: Option<u64>,
    #[serde(default)]
    group_id: Option<u64>,
    #[serde(default)]
    deploy_key_id: Option<u64>,
}

/// What stands between a token and a branch at GitLab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitLabGuard {
    /// The level that the token's owner has in the project: 30 a developer, 40 a maintainer; `None`: not told.
    pub level: Option<u64>,
    /// The lowest level that may push to the branch; 0: nobody by a level; `None`: the branch is not protected.
    pub needs: Option<u64>,
    /// Single people, groups or keys may push too.
    pub exceptions: bool,
    /// Whoever may push may rewrite it.
    pub force: bool,
}

impl GitLabGuard {
    /// What the branches that cover one name come to: GitLab takes the most permissive.
    fn of(level: Option<u64>, covering: &[&ProtectedBranch]) -> Self {
        let levels = || covering.iter().flat_map(|branch| &branch.push_access_levels);
        let single = |access: &Access| access.user_id.is_some() || access.group_id.is_some() || access.deploy_key_id.is_some();
        let by_level = levels().filter(|access| !single(access)).filter_map(|access| access.level).filter(|level| *level > 0);
        Self {
            level,
            needs: (!covering.is_empty()).then(|| by_level.min().unwrap_or(0)),
            exceptions: levels().any(single),
            force: covering.iter().any(|branch| branch.allow_force_push),
        }
    }

    /// Whether the token's owner may push to the project at all.
    pub fn may_push(&self) -> bool {
        self.level.is_none_or(|level| level >= DEVELOPER)
    }

    /// Whether a plain push of the token's owner to the branch is refused.
    pub fn keeps_pushes_out(&self) -> bool {
        !self.may_push()
            || self.needs.is_some_and(|needs| needs == 0 || needs >= ADMINISTRATOR || self.level.is_some_and(|level| level < needs))
    }
}

impl GitLab {
    /// For the project at `place`, at `api` if one is configured, trusting the certificates in `extra_ca` too.
    pub fn new(place: &Place, api: Option<&str>, extra_ca: Option<&Path>, token: SecretString) -> Result<Self, ForgeError> {
        let api = api.map_or_else(|| format!("https://{}/api/v4", place.host), |api| api.trim_end_matches('/').to_owned());
        let client = builder(extra_ca)?.redirect(reqwest::redirect::Policy::none()).build();
        let client = client.map_err(|source| ForgeError::Client { api: api.clone(), source })?;
        Ok(Self { api, project: place.project.replace('/', "%2F"), token, client })
    }

    /// The branches that the project protects, the first hundred; patterns as they are.
    pub async fn protected_branches(&self) -> Result<Vec<ProtectedBranch>, ForgeError> {
        let doing = "ask for the protected branches";
        let answer = self.get(doing, "/protected_branches?per_page=100").await?;
        serde_json::from_value(answer).map_err(|_| self.odd(doing))
    }

    /// What keeps this token from changing a branch by a push. `covers`: whether a pattern names it.
    pub async fn guard(&self, branch: &str, covers: impl Fn(&str) -> bool) -> Result<GitLabGuard, ForgeError> {
        let doing = format!("ask what protects {branch}");
        let project = self.get(&doing, "").await?;
        let level = |of: &str| project["permissions"][of]["access_level"].as_u64();
        let protected = self.protected_branches().await?;
        let covering: Vec<&ProtectedBranch> = protected.iter().filter(|protected| covers(&protected.name)).collect();
        Ok(GitLabGuard::of(level("project_access").max(level("group_access")), &covering))
    }

    async fn get(&self, doing: &str, path: &str) -> Result<Value, ForgeError> {
        let url = format!("{}/projects/{}{path}", self.api, self.project);
        let token = self.token.expose_secret();
        // What a login of glab gets is 64 hex digits, and goes by another header than a token that a person made.
        let is_login = token.len() == 64 && token.bytes().all(|byte| byte.is_ascii_hexdigit());
        let request = self.client.get(url);
        let request = if is_login { request.bearer_auth(token) } else { request.header("PRIVATE-TOKEN", token) };
        let unreachable = |source: reqwest::Error| ForgeError::Unreachable {
            doing: doing.to_owned(),
            api: self.api.clone(),
            source: source.without_url(),
        };
        let answer = request.send().await.map_err(unreachable)?;
        if answer.status() == StatusCode::OK {
            return answer.json().await.map_err(|_| self.odd(doing));
        }
        let status = answer.status().as_u16();
        let said = said(&answer.bytes().await.unwrap_or_default());
        Err(ForgeError::Refused { doing: doing.to_owned(), api: self.api.clone(), status, said })
    }

    fn odd(&self, doing: &str) -> ForgeError {
        ForgeError::Odd { doing: doing.to_owned(), api: self.api.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From docs.gitlab.com, "List protected branches", with the fields of Premium.
    const DOCUMENTED: &str = r#"[{"id": 1, "name": "main", "push_access_levels": [
        {"id": 1, "access_level": 40, "access_level_description": "Maintainers"},
        {"id": 1001, "access_level": 40, "access_level_description": "Deploy key", "deploy_key_id": 1}],
        "merge_access_levels": [{"id": 2001, "access_level": 40, "access_level_description": "Maintainers"}],
        "allow_force_push": false, "code_owner_approval_required": false, "inherited": false},
        {"id": 1, "name": "release/*", "push_access_levels": [{"id": 1, "access_level": 0, "user_id": null, "group_id": null,
        "access_level_description": "No one"}], "merge_access_levels": [], "allow_force_push": false}]"#;

    #[test]
    fn the_documented_answer_is_understood_and_the_most_permissive_rule_counts() {
        let branches: Vec<ProtectedBranch> = serde_json::from_str(DOCUMENTED).unwrap();
        let [main, release] = &branches[..] else { panic!("{branches:?}") };
        let gate = |level, covering: &[&ProtectedBranch]| GitLabGuard::of(level, covering);
        assert_eq!(gate(Some(30), &[main]), GitLabGuard { level: Some(30), needs: Some(40), exceptions: true, force: false });
        assert!(gate(Some(30), &[main]).keeps_pushes_out() && !gate(Some(40), &[main]).keeps_pushes_out());
        assert!(gate(Some(50), &[release]).keeps_pushes_out() && !gate(Some(50), &[release, main]).keeps_pushes_out());
        assert!(!gate(Some(30), &[]).keeps_pushes_out() && gate(Some(20), &[]).keeps_pushes_out());
        assert!(!gate(None, &[main]).keeps_pushes_out(), "what is not known protects nobody");
    }
}
