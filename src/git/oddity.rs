//! Repositories that libgit2 cannot read, or cannot check out as git would.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use git2::Repository;

/// Why the git program has to stand in for libgit2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Oddity {
    /// Objects are named by SHA-256.
    Sha256,
    /// An extension that libgit2 does not know (reftable is one); its words.
    Extension(String),
    /// `.gitattributes` names a filter (LFS, git-crypt, ..); libgit2 runs none.
    Filters,
    /// Only part of the tree is checked out.
    Sparse,
    /// Only part of the objects is here.
    Partial,
}

impl Oddity {
    /// Whether libgit2 cannot even open the repository.
    pub fn is_unreadable(&self) -> bool {
        matches!(self, Self::Sha256 | Self::Extension(_))
    }
}

impl fmt::Display for Oddity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256 => f.write_str("SHA-256 objects"),
            Self::Extension(said) => write!(f, "an extension ({said})"),
            Self::Filters => f.write_str("filters in .gitattributes"),
            Self::Sparse => f.write_str("a sparse checkout"),
            Self::Partial => f.write_str("a partial clone"),
        }
    }
}

/// The oddities of a repository that libgit2 did open.
pub(super) fn of(repo: &Repository, common_dir: &Path, root: &Path) -> Vec<Oddity> {
    let mut found = Vec::new();
    let Ok(config) = repo.config().and_then(|mut config| config.snapshot()) else { return found };
    if config.get_bool("core.sparsecheckout").unwrap_or(false) {
        found.push(Oddity::Sparse);
    }
    let promised = config.get_str("extensions.partialclone").is_ok() || has_entry(&config, "remote\\..*\\.promisor");
    if promised {
        found.push(Oddity::Partial);
    }
    let global = config.get_path("core.attributesfile").ok();
    let mut attribute_files: Vec<PathBuf> = vec![common_dir.join("info/attributes")];
    attribute_files.extend(global);
    if let Ok(index) = repo.index() {
        attribute_files.extend(index.iter().filter_map(|entry| attributes_path(root, &entry.path)));
    }
    if attribute_files.iter().any(|file| names_a_filter(file)) {
        found.push(Oddity::Filters);
    }
    found
}

/// Whether an attributes file sets a filter on anything.
pub(super) fn names_a_filter(file: &Path) -> bool {
    let regular = file.symlink_metadata().is_ok_and(|meta| meta.is_file());
    let mut text = Vec::new();
    regular && std::fs::File::open(file).and_then(|file| file.take(1 << 20).read_to_end(&mut text)).is_ok() && {
        let text = String::from_utf8_lossy(&text);
        text.lines()
            .filter(|line| !line.trim_start().starts_with('#'))
            .any(|line| line.split_whitespace().skip(1).any(|word| word.starts_with("filter=")))
    }
}

/// The path on disk of an index entry that is an attributes file.
pub(super) fn attributes_path(root: &Path, entry: &[u8]) -> Option<PathBuf> {
    let name = std::str::from_utf8(entry).ok()?;
    (name == ".gitattributes" || name.ends_with("/.gitattributes")).then(|| root.join(name))
}

fn has_entry(config: &git2::Config, pattern: &str) -> bool {
    config.entries(Some(pattern)).is_ok_and(|mut entries| entries.next().is_some())
}
