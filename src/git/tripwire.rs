//! A tripwire over protected branches, the developer's and those of remotes on this machine: it prevents nothing, it notices. Over a network:
//! [`super::far`].

use std::collections::BTreeMap;
use std::path::PathBuf;

use git2::Repository;

use super::checkout::Target;
use super::names::matches;
use super::{Checkout, GitError};

/// So many remotes are watched.
const MOST_REMOTES: usize = 8;

/// Where protected branches and tags of one repository stood at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProtectedRefs(BTreeMap<String, String>);

/// A protected ref that is not where it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// The full name of the ref.
    pub name: String,
    /// The commit before; `None`: it did not exist.
    pub before: Option<String>,
    /// The commit now; `None`: it is gone.
    pub after: Option<String>,
}

/// The protected refs of every repository that can be looked at without a network.
#[derive(Debug, Clone)]
pub struct Tripwire {
    patterns: Vec<String>,
    developers: Option<ProtectedRefs>,
    /// Name, place, and what was there.
    remotes: Vec<(String, PathBuf, ProtectedRefs)>,
}

impl Tripwire {
    /// Looks at everything as it is now; what cannot be read is not watched.
    pub fn set(checkout: &Checkout, patterns: Vec<String>) -> Self {
        let developers = ProtectedRefs::read(checkout, &patterns).ok();
        let remotes = checkout.local_remotes().into_iter().take(MOST_REMOTES);
        let remotes = remotes.filter_map(|(name, path)| {
            let refs = ProtectedRefs::of_repository(&path, &patterns)?;
            Some((name, path, refs))
        });
        Self { remotes: remotes.collect(), developers, patterns }
    }

    /// What has moved since, each with whose it is: `your checkout`, or the remote's name.
    pub fn moved(&self, checkout: &Checkout) -> Vec<(String, Moved)> {
        let mut all = Vec::new();
        let now = ProtectedRefs::read(checkout, &self.patterns).ok();
        if let (Some(before), Some(now)) = (&self.developers, now) {
            all.extend(before.moved(&now).into_iter().map(|moved| ("your checkout".to_owned(), moved)));
        }
        for (name, path, before) in &self.remotes {
            let now = ProtectedRefs::of_repository(path, &self.patterns);
            all.extend(now.into_iter().flat_map(|now| before.moved(&now)).map(|moved| (name.clone(), moved)));
        }
        all
    }
}

impl ProtectedRefs {
    /// Local branches that match one of `patterns` (`main`, `release/*`), and all tags.
    pub fn read(checkout: &Checkout, patterns: &[String]) -> Result<Self, GitError> {
        let id = |target| match target {
            Target::Id(text) | Target::Symbolic(text) => text,
        };
        let refs = checkout.refs()?.into_iter().filter(|(name, _)| is_watched(name, patterns));
        Ok(Self(refs.map(|(name, target)| (name, id(target))).collect()))
    }

    /// Those of a listing that are watched.
    pub(super) fn among(refs: impl Iterator<Item = (String, String)>, patterns: &[String]) -> Self {
        Self(refs.filter(|(name, _)| is_watched(name, patterns)).collect())
    }

    fn of_repository(path: &std::path::Path, patterns: &[String]) -> Option<Self> {
        let repository = Repository::open(path).ok()?;
        let references = repository.references().ok()?.filter_map(Result::ok);
        let found = references.filter_map(|reference| {
            let name = reference.name().ok().filter(|name| is_watched(name, patterns))?.to_owned();
            Some((name, reference.target()?.to_string()))
        });
        Some(Self(found.collect()))
    }

    /// What has moved since. The developer may have moved it: report it, do not undo it.
    pub fn moved(&self, now: &Self) -> Vec<Moved> {
        let mut names: Vec<&String> = self.0.keys().chain(now.0.keys()).collect();
        names.sort();
        names.dedup();
        let moved = names.into_iter().filter(|name| self.0.get(*name) != now.0.get(*name));
        moved.map(|name| Moved { name: name.clone(), before: self.0.get(name).cloned(), after: now.0.get(name).cloned() }).collect()
    }
}

fn is_watched(name: &str, patterns: &[String]) -> bool {
    name.starts_with("refs/tags/")
        || name.strip_prefix("refs/heads/").is_some_and(|branch| patterns.iter().any(|pattern| matches(pattern, branch)))
}
