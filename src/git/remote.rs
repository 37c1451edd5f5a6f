//! Remotes and the spellings of their URLs.

use std::path::{Path, PathBuf};

/// A configured remote, as the developer spelled it (it may hold a credential: never shown, never handed to the agent).
#[derive(Clone, PartialEq, Eq)]
pub struct Remote {
    /// `origin`, usually.
    pub name: String,
    /// Where it fetches from.
    pub url: String,
    /// Where it pushes to, when that differs.
    pub push_url: Option<String>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote").field("name", &self.name).field("url", &without_credentials(&self.url)).finish_non_exhaustive()
    }
}

impl Remote {
    /// `text` in one line without this remote's credentials, should git or the server repeat them.
    pub(super) fn redact(&self, text: &str) -> String {
        let secrets = std::iter::once(&self.url).chain(&self.push_url).filter_map(|url| credentials_in(url));
        let cleaned = secrets.fold(text.to_owned(), |text, secret| {
            let password = secret.split_once(':').map_or(secret, |(_, password)| password);
            let text = text.replace(secret, "***");
            if password.len() > 3 { text.replace(password, "***") } else { text }
        });
        one_line(&cleaned)
    }

    /// Where it pushes to.
    pub fn push_target(&self) -> &str {
        self.push_url.as_deref().unwrap_or(&self.url)
    }
}

/// Text fit for a terminal: one line, no control characters, not endless.
pub(super) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect::<String>().trim().to_owned()
}

/// The URL without user, password, query and fragment: fit to be shown.
pub fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = rest.split_once('/').map_or((rest, None), |(authority, path)| (authority, Some(path)));
    let host = authority.rsplit('@').next().unwrap_or_default();
    path.map_or_else(|| format!("{scheme}://{host}"), |path| format!("{scheme}://{host}/{path}"))
}

/// The user part of the URL (`user:password`), which must not appear in messages.
fn credentials_in(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    authority.rsplit_once('@').map(|(user, _)| user).filter(|user| !user.is_empty())
}

/// The last part of the URL's path without `.git`, in any of git's spellings.
pub(super) fn project_of(url: &str) -> Option<String> {
    let path = match url.split_once("://") {
        Some((_, rest)) => rest.split(['?', '#']).next()?.split_once('/').map(|(_, path)| path)?,
        // The scp form `host:path`, unless a slash comes first (then it is a path).
        None => match url.split_once(':') {
            Some((host, path)) if !host.contains('/') => path,
            _ => url,
        },
    };
    let path = path.trim_end_matches('/');
    let path = path.strip_suffix("/.git").unwrap_or(path);
    let last = path.rsplit('/').next().unwrap_or(path);
    let last = last.strip_suffix(".git").unwrap_or(last);
    (!last.is_empty() && last != "." && last != "..").then(|| last.to_owned())
}

/// The folder that a URL names, if it is one of this machine.
pub(super) fn local_path(url: &str, root: &Path) -> Option<PathBuf> {
    let path = match url.strip_prefix("file://") {
        Some(path) => path.to_owned(),
        None => absolute(url, root),
    };
    path.starts_with('/').then(|| PathBuf::from(path))
}

/// The URL as seen from any directory: a relative path is taken from `root`.
pub(super) fn absolute(url: &str, root: &Path) -> String {
    let scp = url.split_once(':').is_some_and(|(host, _)| !host.contains('/'));
    if url.contains("://") || scp || url.starts_with('/') || url.starts_with('~') {
        return url.to_owned();
    }
    root.join(url).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_url_gives_the_project() {
        for url in [
            "git@github.com:acme/shop.git",
            "github.com:shop.git",
            "ssh://git@host:22/acme/shop.git",
            "https://u:p@host/acme/shop",
            "https://host/acme/shop.git/",
            "/srv/git/shop.git",
            "../shop",
            "file:///srv/shop/.git",
            "https://host/shop.git?x=1#y",
            "host:shop",
        ] {
            assert_eq!(project_of(url).as_deref(), Some("shop"), "{url}");
        }
        assert_eq!(project_of("https://host"), None);
        assert_eq!(project_of(".."), None);
    }

    #[test]
    fn a_url_is_shown_without_its_credentials() {
        let url = "https://user:s3cret@host:8443/a/b.git?token=x";
        assert_eq!(without_credentials(url), "https://host:8443/a/b.git");
        assert_eq!(credentials_in(url), Some("user:s3cret"));
        let remote = Remote { name: "origin".into(), url: url.into(), push_url: None };
        assert!(!format!("{remote:?}").contains("s3cret"));
    }

    #[test]
    fn a_folder_of_this_machine_is_known_in_its_spellings() {
        let place = |url: &str| local_path(url, Path::new("/work/shop"));
        assert_eq!(place("../o.git"), Some("/work/shop/../o.git".into()));
        assert_eq!((place("/srv/o"), place("file:///srv/o")), (Some("/srv/o".into()), Some("/srv/o".into())));
        assert_eq!([place("https://h/o"), place("git@h:o"), place("ssh://h/o"), place("file://h/o")], [None, None, None, None]);
    }

    #[test]
    fn only_relative_paths_are_made_absolute() {
        let root = Path::new("/work/shop");
        assert_eq!(absolute("../origin.git", root), "/work/shop/../origin.git");
        for same in ["/srv/x", "https://h/x", "git@h:x", "~/x"] {
            assert_eq!(absolute(same, root), same);
        }
    }
}
