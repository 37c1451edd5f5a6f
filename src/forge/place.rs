//! What a remote's URL means: which forge, which project, which page.

use std::fmt::Write as _;

/// The kind of forge behind a remote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// github.com, or an Enterprise server.
    GitHub,
    /// gitlab.com, or a host of that name.
    GitLab,
    /// A known page for pull requests but no way to open one: Bitbucket, Gitea and Forgejo's public hosts.
    Other,
}

/// A project on a forge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The kind.
    pub kind: Kind,
    /// The host, with its port where one is given for HTTP.
    pub host: String,
    /// `owner/name`, or deeper at GitLab.
    pub project: String,
}

impl Place {
    /// Reads a remote's URL in any of git's spellings; `None` where it names no host, or a host that is no known forge.
    ///
    /// `api` is the configured address of an API: with it every host is a GitHub, or, where it ends as GitLab's does (`/api/v4`), a GitLab.
    pub fn of(url: &str, api: Option<&str>) -> Option<Self> {
        let (host, path) = split(url)?;
        let project = path.trim_matches('/').trim_end_matches(".git").trim_matches('/').to_owned();
        let known = project.contains('/') && project.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./~".contains(c);
        if !known || !project.chars().all(plain) {
            return None;
        }
        let name = host.split(':').next().unwrap_or_default().to_ascii_lowercase();
        // GitHub serves ssh on its HTTPS port under this name.
        let host = if name == "ssh.github.com" { "github.com".to_owned() } else { host.to_ascii_lowercase() };
        let kind = match name.as_str() {
            _ if api.is_some_and(|api| api.trim_end_matches('/').ends_with("/api/v4")) => Kind::GitLab,
            _ if api.is_some() => Kind::GitHub,
            "github.com" | "ssh.github.com" => Kind::GitHub,
            _ if name.ends_with(".ghe.com") => Kind::GitHub,
            _ if name.split('.').any(|part| part == "gitlab") => Kind::GitLab,
            "bitbucket.org" | "codeberg.org" | "gitea.com" => Kind::Other,
            _ => return None,
        };
        Some(Self { kind, host, project })
    }

    /// GitHub's API for this project's host.
    pub fn github_api(&self) -> String {
        match self.host.as_str() {
            "github.com" => "https://api.github.com".to_owned(),
            host if host.ends_with(".ghe.com") => format!("https://api.{host}"),
            host => format!("https://{host}/api/v3"),
        }
    }

    /// The page where a person opens a pull request from `branch` to `base`.
    pub fn compare_url(&self, base: &str, branch: &str) -> String {
        let Self { kind, host, project } = self;
        let (base, branch) = (escape(base), escape(branch));
        match (kind, host.as_str()) {
            (Kind::GitHub, _) => format!("https://{host}/{project}/compare/{base}...{branch}?expand=1"),
            (Kind::GitLab, _) => format!(
                "https://{host}/{project}/-/merge_requests/new?merge_request%5Bsource_branch%5D={branch}&merge_request%5Btarget_branch%5D={base}"
            ),
            (Kind::Other, "bitbucket.org") => format!("https://{host}/{project}/pull-requests/new?source={branch}&dest={base}"),
            (Kind::Other, _) => format!("https://{host}/{project}/compare/{base}...{branch}"),
        }
    }
}

/// Host and path of a URL.
fn split(url: &str) -> Option<(String, String)> {
    if let Some((scheme, rest)) = url.split_once("://") {
        let rest = rest.split(['?', '#']).next()?;
        let (authority, path) = rest.split_once('/')?;
        let host = authority.rsplit('@').next()?;
        // The port of ssh is not the web's.
        let host = if matches!(scheme, "http" | "https") { host } else { host.split(':').next()? };
        return (scheme != "file" && !host.is_empty()).then(|| (host.to_owned(), path.to_owned()));
    }
    let (host, path) = url.split_once(':')?;
    (!host.contains('/')).then(|| (host.rsplit('@').next().unwrap_or(host).to_owned(), path.to_owned()))
}

/// Percent-encodes all but what a path component and a query value may hold; slashes stay.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(url: &str) -> Option<(Kind, String, String)> {
        Place::of(url, None).map(|place| (place.kind, place.host, place.project))
    }

    #[test]
    fn every_spelling_of_a_forges_url_is_understood() {
        for url in [
            "git@github.com:acme/shop.git",
            "https://x-access-token:t@github.com/acme/shop",
            "ssh://git@ssh.github.com:443/acme/shop.git",
            "ssh://git@github.com:22/acme/shop.git/",
            "github.com:acme/shop",
        ] {
            assert_eq!(place(url), Some((Kind::GitHub, "github.com".into(), "acme/shop".into())), "{url}");
        }
        let deep = Some((Kind::GitLab, "gitlab.example.org:8443".into(), "a/b/c".into()));
        assert_eq!(place("https://gitlab.example.org:8443/a/b/c.git"), deep);
        assert_eq!(place("https://codeberg.org/a/b").map(|place| place.0), Some(Kind::Other));
    }

    #[test]
    fn what_is_no_forge_is_not_taken_for_one() {
        for url in [
            "/srv/git/shop.git",
            "../shop",
            "file:///srv/shop.git",
            "https://git.example.org/a/b",
            "https://github.com/onlyowner",
            "https://github.com/a/../b",
        ] {
            assert_eq!(place(url), None, "{url}");
        }
    }

    #[test]
    fn an_enterprise_server_is_known_by_its_configured_api() {
        let place = Place::of("git@git.corp.example:acme/shop.git", Some("https://git.corp.example/api/v3")).unwrap();
        assert_eq!((place.kind, place.github_api().as_str()), (Kind::GitHub, "https://git.corp.example/api/v3"));
        let place = Place::of("git@git.corp.example:acme/shop.git", Some("https://git.corp.example/api/v4/")).unwrap();
        assert_eq!(place.kind, Kind::GitLab);
    }

    #[test]
    fn a_branch_name_cannot_change_the_page_it_is_compared_on() {
        let place = Place::of("git@github.com:acme/shop.git", None).unwrap();
        let url = place.compare_url("main", "sentrely/ana/x?y=1#z&w");
        assert_eq!(url, "https://github.com/acme/shop/compare/main...sentrely/ana/x%3Fy%3D1%23z%26w?expand=1");
    }
}
