//! The child's environment: the developer's, without the credentials that sentrely manages (invariant I7), plus ours.
//!
//! The environment is delivery, not a boundary: a child that can read the developer's files can read the credentials in them. The
//! wall is the boundary; README says what each leaves open.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use crate::config;
use crate::model::SessionId;

/// A process environment, by name.
pub type Env = BTreeMap<OsString, OsString>;

/// Variables through which git, forges and keys are reached. The session's git needs none of them: its only remote is the gate.
const GIT_CREDENTIALS: [&str; 18] = [
    "GH_TOKEN",
    "GITHUB_TOKEN",
    "GH_ENTERPRISE_TOKEN",
    "GITHUB_ENTERPRISE_TOKEN",
    "GITLAB_TOKEN",
    "GITLAB_ACCESS_TOKEN",
    "GL_TOKEN",
    "GITLAB_PRIVATE_TOKEN",
    "CI_JOB_TOKEN",
    "GITEA_TOKEN",
    "FORGEJO_TOKEN",
    "HOMEBREW_GITHUB_API_TOKEN",
    "BITBUCKET_TOKEN",
    "BITBUCKET_APP_PASSWORD",
    "GIT_ASKPASS",
    "SSH_ASKPASS",
    "SSH_AUTH_SOCK",
    "GIT_SSH_COMMAND",
];

/// Variables that would point the session's git somewhere else.
const GIT_PLACES: [&str; 8] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_NAMESPACE",
    "GIT_CEILING_DIRECTORIES",
];

/// The model's credentials; the child gets a token of the session's in their place.
const MODEL_CREDENTIALS: [&str; 6] = [
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_AUTH_TOKEN",
    "CLAUDE_CODE_OAUTH_TOKEN",
    "AWS_BEARER_TOKEN_BEDROCK",
    "ANTHROPIC_FOUNDRY_API_KEY",
    "ANTHROPIC_AWS_API_KEY",
];

const COMPOSE_PROJECT: &str = "COMPOSE_PROJECT_NAME";

/// A variable as text, if it is set and not empty.
pub fn text<'env>(env: &'env Env, name: &str) -> Option<&'env str> {
    env.get(OsStr::new(name)).and_then(|value| value.to_str()).filter(|value| !value.is_empty())
}

/// Takes the managed credentials out of `parent`. `aws` is what the AWS part leaves of it; `pass` names what stays all the same.
pub fn scrub(parent: &Env, aws: impl IntoIterator<Item = (OsString, OsString)>, pass: &[String]) -> Env {
    let managed = |name: &OsStr| {
        name.to_str().is_some_and(|name| {
            GIT_CREDENTIALS.contains(&name)
                || GIT_PLACES.contains(&name)
                || MODEL_CREDENTIALS.contains(&name)
                // GIT_CONFIG_COUNT, _KEY_0, _VALUE_0 can carry an authorization header.
                || name.starts_with("GIT_CONFIG_")
        })
    };
    let mut env: Env = aws.into_iter().filter(|(name, _)| !managed(name)).collect();
    for name in pass {
        if let Some((name, value)) = parent.get_key_value(OsStr::new(name)) {
            env.insert(name.clone(), value.clone());
        }
    }
    env
}

/// What every child of a session has: its id, and git that never asks.
pub fn of_session(env: &mut Env, id: SessionId, cwd: &Path, configured: &config::Env) {
    env.insert("SENTRELY_RUN_ID".into(), id.to_string().into());
    env.insert("SENTRELY_SESSION".into(), id.short().into());
    env.insert("GIT_TERMINAL_PROMPT".into(), "0".into());
    env.insert("PWD".into(), cwd.into());
    env.remove(OsStr::new("OLDPWD"));
    extend_no_proxy(env);
    env.extend(configured.set.iter().map(|(name, value)| (name.into(), value.into())));
}

/// Compose names containers and volumes after the folder, and the copy's is called as the checkout's: by another name the session starts
/// its own in place of replacing the developer's. A name that the developer set stays.
pub fn own_containers(env: &mut Env, folder: &str, id: SessionId) {
    if text(env, COMPOSE_PROJECT).is_none() {
        // Compose takes small letters, digits, dashes and underscores, with a letter or digit first.
        let kept = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let folder: String = folder.chars().filter(|c| kept(*c)).map(|c| c.to_ascii_lowercase()).collect();
        let folder = folder.trim_start_matches(['-', '_']);
        let name = if folder.is_empty() { format!("s-{}", id.short()) } else { format!("{folder}-{}", id.short()) };
        env.insert(COMPOSE_PROJECT.into(), name.into());
    }
}

/// Loopback must not go through the user's proxy: a session's proxy, gate and credentials endpoint are there.
fn extend_no_proxy(env: &mut Env) {
    for name in ["NO_PROXY", "no_proxy"] {
        let mut value = text(env, name).unwrap_or_default().to_owned();
        for host in ["127.0.0.1", "localhost"] {
            if !value.split(',').any(|known| known.trim() == host) {
                if !value.is_empty() {
                    value.push(',');
                }
                value.push_str(host);
            }
        }
        env.insert(name.into(), value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(vars: &[(&str, &str)]) -> Env {
        vars.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn managed_credentials_are_taken_out_and_the_rest_stays() {
        let parent = env(&[
            ("PATH", "/bin"),
            ("ANTHROPIC_API_KEY", "sk-1"),
            ("GH_TOKEN", "g"),
            ("GIT_CONFIG_COUNT", "1"),
            ("GIT_CONFIG_VALUE_0", "AUTHORIZATION: basic x"),
            ("GIT_AUTHOR_NAME", "Ana"),
            ("SSH_AUTH_SOCK", "/tmp/agent"),
        ]);
        assert_eq!(scrub(&parent, parent.clone(), &[]), env(&[("PATH", "/bin"), ("GIT_AUTHOR_NAME", "Ana")]));
        assert!(scrub(&parent, parent.clone(), &["GH_TOKEN".into()]).contains_key(OsStr::new("GH_TOKEN")));
    }

    #[test]
    fn containers_of_a_session_have_a_name_of_their_own_unless_the_developer_chose_one() {
        let id = SessionId::new();
        let named = |folder: &str, set: &[(&str, &str)]| {
            let mut vars = env(set);
            own_containers(&mut vars, folder, id);
            text(&vars, COMPOSE_PROJECT).unwrap().to_owned()
        };
        assert_eq!(named("My.Shop_2", &[]), format!("myshop_2-{}", id.short()));
        assert_eq!(named("_日本", &[]), format!("s-{}", id.short()));
        assert_eq!(named("shop", &[(COMPOSE_PROJECT, "mine")]), "mine");
    }

    #[test]
    fn loopback_never_goes_through_the_users_proxy() {
        let mut vars = env(&[("NO_PROXY", "corp.example,localhost")]);
        extend_no_proxy(&mut vars);
        assert_eq!(text(&vars, "NO_PROXY"), Some("corp.example,localhost,127.0.0.1"));
        assert_eq!(text(&vars, "no_proxy"), Some("127.0.0.1,localhost"));
    }
}
