//! Who a session belongs to, and how that is known.

use crate::model::DeveloperSource;

/// The developer of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Developer {
    /// The name: an e-mail address or a login.
    pub(super) name: String,
    /// How it is known.
    pub(super) source: DeveloperSource,
}

/// Where the name can come from, the surest last that is asked first.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    /// `--developer` or `[run] developer`.
    pub(super) configured: Option<String>,
    /// What STS says, where a role is configured.
    pub(super) sts: Option<String>,
    /// `GITHUB_ACTOR` or `GITLAB_USER_LOGIN`, in CI.
    pub(super) ci_actor: Option<String>,
    /// git's `user.email`.
    pub(super) git_email: Option<String>,
    /// The login name on this machine.
    pub(super) login: Option<String>,
}

impl Developer {
    /// Decides. In CI the role belongs to the pipeline, so the actor is taken, as asserted; else STS goes before words.
    pub(super) fn decide(known: Known) -> Self {
        let given = |name: Option<String>, source| name.filter(|name| !name.trim().is_empty()).map(|name| Self { name, source });
        given(known.configured, DeveloperSource::SelfDeclared)
            .or_else(|| given(known.ci_actor, DeveloperSource::Asserted))
            .or_else(|| given(known.sts, DeveloperSource::Sts))
            .or_else(|| given(known.git_email, DeveloperSource::SelfDeclared))
            .or_else(|| given(known.login, DeveloperSource::SelfDeclared))
            .unwrap_or_else(|| Self { name: "unknown".to_owned(), source: DeveloperSource::SelfDeclared })
    }

    /// For the banner: the name and how it is known.
    pub(super) fn describe(&self) -> String {
        let how = match self.source {
            DeveloperSource::Sts => "says STS",
            DeveloperSource::Asserted => "asserted by CI",
            DeveloperSource::SelfDeclared => "self-declared",
        };
        format!("{} ({how})", self.name)
    }
}

/// The CI system's word for who started the job.
pub(super) fn ci_actor(var: impl Fn(&str) -> Option<String>) -> Option<String> {
    if var("GITHUB_ACTIONS").is_some() {
        return var("GITHUB_ACTOR");
    }
    if var("GITLAB_CI").is_some() { var("GITLAB_USER_LOGIN") } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(known: Known) -> (String, DeveloperSource) {
        let developer = Developer::decide(known);
        (developer.name, developer.source)
    }

    #[test]
    fn sts_goes_before_git_and_the_ci_actor_before_the_pipelines_role() {
        let git = Known { git_email: Some("ana@example.com".into()), login: Some("ana".into()), ..Known::default() };
        assert_eq!(decided(git.clone()), ("ana@example.com".into(), DeveloperSource::SelfDeclared));
        let sts = Known { sts: Some("ana@corp".into()), ..git };
        assert_eq!(decided(sts.clone()), ("ana@corp".into(), DeveloperSource::Sts));
        let ci = Known { ci_actor: Some("ana-gh".into()), ..sts };
        assert_eq!(decided(ci), ("ana-gh".into(), DeveloperSource::Asserted));
        assert_eq!(decided(Known::default()), ("unknown".into(), DeveloperSource::SelfDeclared));
    }

    #[test]
    fn the_actor_counts_only_in_ci() {
        let env = |vars: &'static [(&str, &str)]| move |name: &str| vars.iter().find(|v| v.0 == name).map(|v| v.1.to_owned());
        assert_eq!(ci_actor(env(&[("GITHUB_ACTOR", "ana")])), None);
        assert_eq!(ci_actor(env(&[("GITHUB_ACTIONS", "true"), ("GITHUB_ACTOR", "ana")])), Some("ana".into()));
        assert_eq!(ci_actor(env(&[("GITLAB_CI", "true"), ("GITLAB_USER_LOGIN", "bo")])), Some("bo".into()));
    }
}
