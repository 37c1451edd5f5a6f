//! The developer's checkout: what it is, found once and never written.
//!
//! libgit2 reads it where it can. What libgit2 cannot read, or cannot check out faithfully, is named as an [`Oddity`] and is read by
//! the developer's own git, in the developer's own checkout.

use std::path::{Path, PathBuf};

use git2::{ErrorCode, Repository, RepositoryState, StatusOptions};

use super::cli::{Git, GitEnv};
use super::remote::{self, Remote};
use super::{GitError, oddity};

pub use super::oddity::Oddity;

/// Where the developer works.
#[derive(Debug, Clone)]
pub struct Checkout {
    /// The top of the working tree, without symbolic links.
    pub root: PathBuf,
    /// Its git directory (of a linked worktree: its own).
    pub git_dir: PathBuf,
    /// The git directory that holds objects and branches (of a linked worktree: the main one).
    pub common_dir: PathBuf,
    /// Where the caller stands, relative to `root`; empty at the top.
    pub subdirectory: PathBuf,
    /// What is checked out.
    pub head: Head,
    /// What keeps libgit2 from doing everything here.
    pub oddities: Vec<Oddity>,
    pub(super) env: GitEnv,
}

/// What a repository's HEAD says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Head {
    /// A branch, by its short name, and the commit at its tip.
    Branch {
        /// Without `refs/heads/`.
        name: String,
        /// Full hex id.
        commit: String,
    },
    /// No branch: a commit by itself.
    Detached {
        /// Full hex id.
        commit: String,
    },
    /// A branch without a commit: an empty repository.
    Unborn {
        /// Without `refs/heads/`.
        name: String,
    },
}

impl Head {
    /// The commit, unless there is none yet.
    pub fn commit(&self) -> Option<&str> {
        match self {
            Self::Branch { commit, .. } | Self::Detached { commit } => Some(commit),
            Self::Unborn { .. } => None,
        }
    }

    /// The branch, unless detached.
    pub fn branch(&self) -> Option<&str> {
        match self {
            Self::Branch { name, .. } | Self::Unborn { name } => Some(name),
            Self::Detached { .. } => None,
        }
    }
}

/// git's `user.email` outside any repository.
pub fn default_email() -> Option<String> {
    git2::Config::open_default().ok()?.get_string("user.email").ok().filter(|email| !email.is_empty())
}

impl Checkout {
    /// Finds the checkout that holds `cwd`. Blocking; may run git, so not on the supervisor's main thread.
    pub fn discover(cwd: &Path) -> Result<Self, GitError> {
        Self::discover_with(cwd, GitEnv::inherit())
    }

    /// As [`Checkout::discover`], with the environment that git is to run in.
    pub fn discover_with(cwd: &Path, env: GitEnv) -> Result<Self, GitError> {
        let cwd = fs_err::canonicalize(cwd).map_err(GitError::io("enter", cwd))?;
        match Repository::discover(&cwd) {
            Ok(repo) => Self::by_library(&repo, &cwd, env),
            Err(error) if error.code() == ErrorCode::NotFound => Err(GitError::NotARepository(cwd)),
            Err(error) if error.code() == ErrorCode::Owner => Err(GitError::NotOwned(cwd)),
            Err(error) => Self::by_git(&cwd, env, &error),
        }
    }

    /// How many files differ from the last commit, untracked ones included, ignored ones not.
    pub fn dirty(&self) -> Result<usize, GitError> {
        if self.needs_git() {
            let listed = self
                .git("list changed files")
                .args(["status", "--porcelain=v1", "-z", "--untracked-files=all", "--ignore-submodules=all", "--no-renames"])
                .output()?;
            return Ok(listed.split(|byte| *byte == 0).filter(|entry| !entry.is_empty()).count());
        }
        let repo = self.open()?;
        let mut options = StatusOptions::new();
        options.include_untracked(true).recurse_untracked_dirs(true).exclude_submodules(true);
        let listed = repo.statuses(Some(&mut options)).map_err(GitError::library("list changed files"))?;
        Ok(listed.len())
    }

    /// The developer's `user.email`, as git sees it here.
    pub fn user_email(&self) -> Option<String> {
        self.config_text("user.email")
    }

    /// The remote that work goes to: `origin`, else the current branch's, else the only one.
    pub fn remote(&self) -> Option<Remote> {
        let names = self.remote_names();
        let upstream = self.head.branch().and_then(|branch| self.config_text(&format!("branch.{branch}.remote")));
        let name = names.iter().find(|name| *name == "origin").or_else(|| names.iter().find(|name| Some(*name) == upstream.as_ref()));
        let name = name.or(if names.len() == 1 { names.first() } else { None })?;
        let url = self.config_text(&format!("remote.{name}.url"))?;
        let push_url = self.config_text(&format!("remote.{name}.pushurl"));
        Some(Remote { name: name.clone(), url, push_url })
    }

    /// The remotes that are folders of this machine: name and place, for fetching and for pushing.
    pub fn local_remotes(&self) -> Vec<(String, PathBuf)> {
        let mut found = Vec::new();
        for name in self.remote_names() {
            // As git reaches them: after `url.*.insteadOf`.
            let urls: Vec<String> = match self.library_can_open().then(|| self.open().ok()).flatten() {
                Some(repo) => repo.find_remote(&name).map_or_else(
                    |_| Vec::new(),
                    |remote| [remote.url().ok(), remote.pushurl().ok().flatten()].into_iter().flatten().map(str::to_owned).collect(),
                ),
                None => [&["remote", "get-url", "--all"][..], &["remote", "get-url", "--push", "--all"]]
                    .into_iter()
                    .filter_map(|args| self.git("look at a remote").args(args).args(["--end-of-options", &name]).text().ok())
                    .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
                    .collect(),
            };
            let places = urls.iter().filter_map(|url| remote::local_path(url, &self.root));
            found.extend(places.filter(|place| place.exists()).map(|place| (name.clone(), place)));
        }
        found.dedup();
        found
    }

    /// The project: the last part of the remote's URL without `.git`, else the folder's name.
    pub fn project(&self) -> String {
        self.remote().and_then(|remote| remote::project_of(&remote.url)).unwrap_or_else(|| self.folder())
    }

    /// The checkout folder's name.
    pub fn folder(&self) -> String {
        self.root.file_name().map_or_else(|| "repository".to_owned(), |name| name.to_string_lossy().into_owned())
    }

    /// What is half done here: "a merge", "a rebase", ..
    pub fn in_progress(&self) -> Option<&'static str> {
        let marks = [
            ("MERGE_HEAD", "a merge"),
            ("rebase-merge", "a rebase"),
            ("rebase-apply", "a rebase"),
            ("CHERRY_PICK_HEAD", "a cherry-pick"),
            ("REVERT_HEAD", "a revert"),
            ("BISECT_LOG", "a bisect"),
        ];
        let state = self.open().map_or(RepositoryState::Clean, |repo| repo.state());
        let marked = marks.iter().find(|(file, _)| self.git_dir.join(file).exists()).map(|(_, what)| *what);
        marked.or((state != RepositoryState::Clean).then_some("an operation"))
    }

    /// Whether there is a branch of this name.
    pub fn has_branch(&self, name: &str) -> bool {
        self.resolve(&format!("refs/heads/{name}")).is_ok()
    }

    /// The commit that `revision` names.
    pub(super) fn resolve(&self, revision: &str) -> Result<String, GitError> {
        let missing = || GitError::NoSuchBase(revision.to_owned());
        if self.needs_git() {
            let wanted = format!("{revision}^{{commit}}");
            return self
                .git("find the base")
                .args(["rev-parse", "--verify", "--quiet", "--end-of-options", &wanted])
                .text()
                .map_err(|_| missing());
        }
        let repo = self.open()?;
        let commit = repo.revparse_single(revision).and_then(|object| object.peel_to_commit());
        commit.map(|commit| commit.id().to_string()).map_err(|_| missing())
    }

    /// Every ref with the id it holds (of a symbolic one: the ref it points to).
    pub(super) fn refs(&self) -> Result<Vec<(String, Target)>, GitError> {
        if self.needs_git() {
            let listed = self.git("list refs").args(["for-each-ref", "--format=%(objectname) %(refname) %(symref)"]).text()?;
            return Ok(listed.lines().filter_map(ref_line).collect());
        }
        let repo = self.open()?;
        let mut all = Vec::new();
        for reference in repo.references().map_err(GitError::library("list refs"))? {
            // A name that is not UTF-8 or a broken ref is the developer's business: it just does not come along.
            let Ok(reference) = reference else { continue };
            let Ok(name) = reference.name().map(str::to_owned) else { continue };
            match (reference.target(), reference.symbolic_target()) {
                (Some(id), _) => all.push((name, Target::Id(id.to_string()))),
                (None, Ok(Some(target))) => all.push((name, Target::Symbolic(target.to_owned()))),
                _ => {}
            }
        }
        Ok(all)
    }

    /// Sets (`Some`) or deletes (`None`) one of our own refs.
    pub(super) fn set_ref(&self, name: &str, id: Option<&str>) -> Result<(), GitError> {
        if self.needs_git() {
            let git = self.git(format!("set {name}")).args(["-c", "core.hooksPath=/dev/null", "update-ref"]);
            return match id {
                Some(id) => git.args([name, id]),
                None => git.args(["-d", name]),
            }
            .output()
            .map(drop);
        }
        let repo = self.open()?;
        let done = match id {
            Some(id) => git2::Oid::from_str(id).and_then(|id| repo.reference(name, id, true, "sentrely").map(drop)),
            None => match repo.find_reference(name) {
                Ok(mut reference) => reference.delete(),
                Err(error) if error.code() == ErrorCode::NotFound => Ok(()),
                Err(error) => Err(error),
            },
        };
        done.map_err(GitError::library(format!("set {name}")))
    }

    /// Whether only the git program can read this repository or check it out faithfully.
    pub(super) fn needs_git(&self) -> bool {
        !self.oddities.is_empty()
    }

    /// Whether libgit2 can open it at all.
    pub(super) fn library_can_open(&self) -> bool {
        !self.oddities.iter().any(Oddity::is_unreadable)
    }

    pub(super) fn open(&self) -> Result<Repository, GitError> {
        Repository::open(&self.git_dir).map_err(GitError::library(format!("open {}", self.git_dir.display())))
    }

    pub(super) fn git(&self, doing: impl Into<String>) -> Git<'_> {
        Git::new(doing, &self.env, &self.root)
    }

    pub(super) fn config_text(&self, key: &str) -> Option<String> {
        let value = if self.library_can_open() {
            self.open().ok()?.config().ok()?.snapshot().ok()?.get_str(key).ok()?.to_owned()
        } else {
            self.git("read the configuration").args(["config", "--get", key]).text().ok()?
        };
        Some(value).filter(|value| !value.is_empty())
    }

    pub(super) fn remote_names(&self) -> Vec<String> {
        if self.library_can_open() {
            let names = self.open().and_then(|repo| repo.remotes().map_err(GitError::library("list remotes")));
            return names
                .map_or_else(|_| Vec::new(), |names| names.iter().filter_map(|name| name.ok().flatten().map(str::to_owned)).collect());
        }
        self.git("list remotes").args(["remote"]).text().map_or_else(|_| Vec::new(), |text| text.lines().map(str::to_owned).collect())
    }

    fn by_library(repo: &Repository, cwd: &Path, env: GitEnv) -> Result<Self, GitError> {
        let root = repo.workdir().ok_or_else(|| GitError::Bare(repo.path().to_owned()))?;
        let root = fs_err::canonicalize(root).map_err(GitError::io("enter", root))?;
        let head = match repo.find_reference("HEAD").map_err(GitError::library("read HEAD"))? {
            head if head.kind() == Some(git2::ReferenceType::Symbolic) => {
                let name = head.symbolic_target().ok().flatten().unwrap_or("refs/heads/main").to_owned();
                let name = name.strip_prefix("refs/heads/").map_or(name.clone(), str::to_owned);
                match repo.head().and_then(|head| head.peel_to_commit()) {
                    Ok(commit) => Head::Branch { name, commit: commit.id().to_string() },
                    Err(_) => Head::Unborn { name },
                }
            }
            head => Head::Detached { commit: head.target().map(|id| id.to_string()).unwrap_or_default() },
        };
        let mut checkout = Self {
            subdirectory: cwd.strip_prefix(&root).unwrap_or(Path::new("")).to_owned(),
            git_dir: canonical(repo.path()),
            common_dir: canonical(repo.commondir()),
            root,
            head,
            oddities: Vec::new(),
            env,
        };
        checkout.oddities = oddity::of(repo, &checkout.common_dir, &checkout.root);
        Ok(checkout)
    }

    /// A repository that libgit2 refused with `refusal`.
    fn by_git(cwd: &Path, env: GitEnv, refusal: &git2::Error) -> Result<Self, GitError> {
        let ask = |args: &[&str]| Git::new("look at the repository", &env, cwd).args(args).text();
        let places =
            ask(&["rev-parse", "--path-format=absolute", "--is-bare-repository", "--git-dir", "--git-common-dir", "--show-object-format"])?;
        let mut lines = places.lines();
        let (bare, git_dir, common_dir, format) = (lines.next(), lines.next(), lines.next(), lines.next());
        let git_dir = canonical(Path::new(git_dir.unwrap_or_default()));
        if bare == Some("true") {
            return Err(GitError::Bare(git_dir));
        }
        let root = canonical(Path::new(&ask(&["rev-parse", "--path-format=absolute", "--show-toplevel"])?));
        let branch = ask(&["symbolic-ref", "--quiet", "--short", "HEAD"]).ok();
        let commit = ask(&["rev-parse", "--verify", "--quiet", "HEAD^{commit}"]).ok();
        let head = match (branch, commit) {
            (Some(name), Some(commit)) => Head::Branch { name, commit },
            (None, Some(commit)) => Head::Detached { commit },
            (name, None) => Head::Unborn { name: name.unwrap_or_else(|| "main".to_owned()) },
        };
        let odd = if format == Some("sha256") { Oddity::Sha256 } else { Oddity::Extension(refusal.message().to_owned()) };
        Ok(Self {
            subdirectory: cwd.strip_prefix(&root).unwrap_or(Path::new("")).to_owned(),
            common_dir: canonical(Path::new(common_dir.unwrap_or_default())),
            git_dir,
            root,
            head,
            oddities: vec![odd],
            env,
        })
    }
}

/// What a ref holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Id(String),
    Symbolic(String),
}

fn ref_line(line: &str) -> Option<(String, Target)> {
    let mut parts = line.splitn(3, ' ');
    let (id, name, symbolic) = (parts.next()?, parts.next()?, parts.next().unwrap_or_default());
    let target = if symbolic.is_empty() { Target::Id(id.to_owned()) } else { Target::Symbolic(symbolic.to_owned()) };
    Some((name.to_owned(), target))
}

fn canonical(path: &Path) -> PathBuf {
    fs_err::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}
