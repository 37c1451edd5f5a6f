//! The session's working copy: a repository of its own, sharing only objects with the developer's (by alternates, read only).
//!
//! Under the session's directory:
//! - `work/<folder>`: the clone, named as the checkout's folder. The agent may do anything to it. (Not directly in the session's
//!   directory: a checkout called `kill` or `lock` would meet the session's own files.)
//! - `git/collect.git`: the supervisor's own bare repository, through which work is collected without reading the clone's configuration.
//!
//! In the developer's repository only `refs/sentrely/keep/<id>` is written: without it, `git gc --prune=now` after a rewrite of
//! history takes objects from under the session. All functions here block and may run git: not for the main thread.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::bring::{self, Bring, Change};
use super::checkout::Target;
use super::collect::photograph;
use super::submodules::{self, Submodule};
use super::within::Within;
use super::{Checkout, GitError, Head, Oddity, base, collect, seed, snapshot};
use crate::model::SessionId;

/// What a clone is to be.
#[derive(Debug, Clone)]
pub struct CloneRequest<'a> {
    /// The session's own directory; exists already.
    pub dir: &'a Path,
    /// The session's branch, from [`super::branch_name`].
    pub branch: &'a str,
    /// Where to begin: any revision of the developer's repository. Default: its HEAD.
    pub base: Option<&'a str>,
    /// The gate's URL: becomes the only URL of the clone's remote. `None`: the clone gets no remote.
    pub gate_url: Option<&'a str>,
    /// What comes along besides commits.
    pub bring: Bring<'a>,
    /// Whose clone it is.
    pub session: SessionId,
}

/// Where the agent works.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Workspace {
    /// Own clone, or the developer's checkout itself.
    pub kind: WorkspaceKind,
    /// Top of the working tree.
    pub root: PathBuf,
    /// Where the child starts: the same subdirectory the developer stood in, or `root` where the base does not have it.
    pub cwd: PathBuf,
    /// The session's branch, without `refs/heads/`.
    pub branch: String,
    /// The base's name to show: a branch, or the first 12 digits of a commit.
    pub base: String,
    /// The base's commit; `None` in an empty repository.
    pub base_commit: Option<String>,
    /// What the user should know, a sentence each.
    pub notices: Vec<String>,
    /// How many changed or untracked files of the checkout the session does not see.
    pub dirty_left_behind: usize,
    /// The state of the files as the session began, as a tree in the collector, where that is not the base's: the developer's own
    /// uncommitted work.
    #[serde(default)]
    pub brought: Option<String>,
    /// Files of it that are too large for a tree, with what tells whether they were touched since.
    #[serde(default)]
    pub brought_large: Vec<Untouched>,
    /// Whether uncommitted work came along.
    #[serde(default)]
    pub brings_uncommitted: bool,
    /// Repositories of their own within it.
    #[serde(default)]
    pub submodules: Vec<Submodule>,
    /// Earlier clones that were moved away with something in them that could not be brought home.
    #[serde(default)]
    pub set_aside: Vec<PathBuf>,
    /// Where the supervisor keeps its own repositories for this session (`<dir>/git`).
    pub state: PathBuf,
    /// Whose it is.
    pub session: SessionId,
}

/// A file as it was left: size and time of the last change, which nobody can set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Untouched {
    path: String,
    size: u64,
    changed: (i64, i64),
}

impl Untouched {
    pub(super) fn of(root: &Path, path: &str) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        let meta = root.join(path).symlink_metadata().ok()?;
        Some(Self { path: path.to_owned(), size: meta.len(), changed: (meta.ctime(), meta.ctime_nsec()) })
    }
}

/// The kinds of workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkspaceKind {
    /// A clone of its own.
    Clone,
    /// The developer's checkout, on a fresh branch.
    InPlace,
}

impl Workspace {
    /// The supervisor's repository through which work is collected.
    pub(super) fn collector(&self) -> PathBuf {
        self.state.join("collect.git")
    }

    /// The ref in the developer's repository that keeps the base alive.
    pub(super) fn keep_ref(&self) -> String {
        keep_ref(self.session)
    }
}

/// Makes the session's own clone, on its branch, at the base. On an error nothing is left behind.
pub fn create_clone(checkout: &Checkout, request: &CloneRequest<'_>) -> Result<Workspace, GitError> {
    let mut notices = Vec::new();
    if request.bring.laid_over {
        submodules::none_checked_out(checkout)?;
    }
    let base_commit = match (request.base, checkout.head.commit()) {
        (Some(revision), _) => Some(base::find(checkout, revision)?),
        (None, head) => head.map(str::to_owned),
    };
    branch_is_free(checkout, request.branch)?;
    let changes = changes_to_bring(checkout, request, base_commit.as_deref(), &mut notices)?;
    let dirty_left_behind = if changes.is_none() { checkout.dirty()? } else { 0 };
    if dirty_left_behind > 0 {
        let files = if dirty_left_behind == 1 { "1 uncommitted file is" } else { &format!("{dirty_left_behind} uncommitted files are") };
        notices.push(format!("{files} not in the session's copy"));
    }
    let mut workspace = Workspace {
        kind: WorkspaceKind::Clone,
        root: clone_root(checkout, request.dir),
        cwd: PathBuf::new(),
        branch: request.branch.to_owned(),
        base: base_name(checkout, request.base, base_commit.as_deref()),
        base_commit,
        notices,
        dirty_left_behind,
        brought: None,
        brought_large: Vec::new(),
        brings_uncommitted: changes.is_some(),
        submodules: Vec::new(),
        set_aside: Vec::new(),
        state: request.dir.join("git"),
        session: request.session,
    };
    build(checkout, request, &mut workspace, &changes.unwrap_or_default())?;
    Ok(workspace)
}

/// Takes up the session's clone again, with a new gate. `earlier` is the workspace of the previous attempt.
///
/// The clone is the agent's: nothing in it is written through (a link in a file's place is replaced), and where it is no repository of
/// its own any more, or gone, it is made anew, from what was collected, or else from the base. What lies there is brought home first,
/// and then moved away as it is: a checkout over files that an agent left could end anywhere.
pub fn reopen(checkout: &Checkout, request: &CloneRequest<'_>, earlier: &Workspace) -> Result<Workspace, GitError> {
    let mut workspace = earlier.clone();
    workspace.notices.clear();
    if workspace.kind == WorkspaceKind::InPlace {
        return Ok(workspace);
    }
    if request.bring.laid_over {
        submodules::none_checked_out(checkout)?;
    }
    let mut why = "was gone".to_owned();
    if collect::has_repository(&workspace.root) {
        match take_up(checkout, request, &mut workspace) {
            Ok(()) => return Ok(workspace),
            Err(error) => why = format!("could not be taken up again ({:#})", anyhow::Error::new(error)),
        }
    }
    let mut branch = workspace.branch.clone();
    if workspace.root.symlink_metadata().is_ok() {
        let collected = collect(checkout, earlier, Some("WIP: found without its git directory"))?;
        let aside = set_aside(&workspace.root, request.dir)?;
        workspace.notices.extend(collected.notices.iter().cloned());
        workspace.notices.push(format!("what lay in its place is in {} now", aside.display()));
        if !collected.left_out.is_empty() || !collected.notices.is_empty() {
            workspace.set_aside.push(aside);
        }
        branch = collected.branch;
    }
    let collected = checkout.resolve(&format!("refs/heads/{branch}")).ok();
    let yours = if workspace.brought.is_some() { ", without the uncommitted work of yours that it began with" } else { "" };
    workspace.notices.push(format!("the session's clone {why}: made again from what was collected{yours}"));
    let start = collected.or_else(|| workspace.base_commit.clone());
    workspace.submodules.clear();
    build_at(checkout, request, &mut workspace, start.as_deref(), &[])?;
    Ok(workspace)
}

/// A clone that is a repository of its own still.
fn take_up(checkout: &Checkout, request: &CloneRequest<'_>, workspace: &mut Workspace) -> Result<(), GitError> {
    let git_dir = workspace.root.join(".git");
    let within = Within::open(&git_dir)?;
    for stale in ["index.lock", "HEAD.lock", "config.lock", "packed-refs.lock"] {
        within.remove(Path::new(stale))?; // of a git that was killed; no git runs here now
    }
    if !seed::renew_config(&git_dir, &workspace.state, &remote_name(checkout), request.gate_url)? {
        workspace
            .notices
            .push("the clone's git configuration could not be read as a plain file: it is as it was in the beginning".to_owned());
    }
    workspace.cwd = start_directory(&workspace.root, &checkout.subdirectory);
    Ok(())
}

/// Moves what lies in the clone's place out of the agent's reach.
fn set_aside(root: &Path, dir: &Path) -> Result<PathBuf, GitError> {
    let aside = dir.join("set-aside");
    fs_err::create_dir_all(&aside).map_err(GitError::io("create", &aside))?;
    let name = root.file_name().unwrap_or("repository".as_ref());
    let mut number = 1;
    loop {
        let place = aside.join(number.to_string());
        match fs_err::create_dir(&place) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(GitError::io("create", &place)(error)),
            Ok(()) => {
                let place = place.join(name);
                return fs_err::rename(root, &place).map(|()| place).map_err(GitError::io("move away", root));
            }
        }
    }
}

/// Switches the developer's own checkout to a fresh branch at `base`. Protects nothing: for those who insist.
///
/// Refused while a merge, rebase or the like is half done. Uncommitted work comes along, as `git switch -c` does it, and is put aside
/// first, in `refs/sentrely/snapshot/<id>`.
pub fn in_place(checkout: &Checkout, dir: &Path, branch: &str, base: Option<&str>, session: SessionId) -> Result<Workspace, GitError> {
    if let Some(state) = checkout.in_progress() {
        return Err(GitError::MidOperation { root: checkout.root.clone(), state });
    }
    branch_is_free(checkout, branch)?;
    let base_commit = match base {
        Some(revision) => Some(base::find(checkout, revision)?),
        None => checkout.head.commit().map(str::to_owned),
    };
    let mut notices = vec!["the session works in your checkout: nothing keeps it from your branches and files".to_owned()];
    if snapshot::take(checkout, session)?.is_some() {
        let name = snapshot::snapshot_ref(session);
        notices.push(format!("your uncommitted work was put aside first; to have it back: git restore --source={name} --worktree -- :/"));
    }
    let mut args = vec!["switch", "--quiet", "--no-track", "-c", branch];
    args.extend(base_commit.as_deref());
    // The developer's own git: it refuses where uncommitted work would be lost, and runs the developer's own hooks.
    let switched = checkout.git(format!("switch {} to {branch}", checkout.root.display())).args(args).output();
    if switched.is_err() {
        let _ = checkout.set_ref(&snapshot::snapshot_ref(session), None);
    }
    switched?;
    Ok(Workspace {
        kind: WorkspaceKind::InPlace,
        root: checkout.root.clone(),
        cwd: start_directory(&checkout.root, &checkout.subdirectory),
        branch: branch.to_owned(),
        base: base_name(checkout, base, base_commit.as_deref()),
        base_commit,
        notices,
        dirty_left_behind: 0,
        brought: None,
        brought_large: Vec::new(),
        brings_uncommitted: false,
        submodules: Vec::new(),
        set_aside: Vec::new(),
        state: dir.join("git"),
        session,
    })
}

/// Takes [`in_place`] back when nothing was run since: the checkout is where it was, and the session's branch is gone. `checkout` is as it was
/// found before. Does nothing, and says so by `false`, if somebody went elsewhere meanwhile or the branch has moved.
pub fn undo_in_place(checkout: &Checkout, workspace: &Workspace) -> Result<bool, GitError> {
    let doing = || format!("take {} back to where it was", checkout.root.display());
    let now = checkout.git(doing()).args(["symbolic-ref", "--quiet", "HEAD"]).output()?;
    let branch = format!("refs/heads/{}", workspace.branch);
    let untouched = now.trim_ascii() == branch.as_bytes() && checkout.resolve(&branch).ok() == workspace.base_commit;
    if !untouched {
        return Ok(false);
    }
    match &checkout.head {
        Head::Branch { name, .. } => checkout.git(doing()).args(["switch", "--quiet", name]).output()?,
        Head::Detached { commit } => checkout.git(doing()).args(["switch", "--quiet", "--detach", commit]).output()?,
        Head::Unborn { name } => checkout.git(doing()).args(["symbolic-ref", "HEAD", &format!("refs/heads/{name}")]).output()?,
    };
    if workspace.base_commit.is_some() {
        checkout.git(doing()).args(["branch", "--quiet", "-D", &workspace.branch]).output()?;
    }
    checkout.set_ref(&snapshot::snapshot_ref(workspace.session), None)?;
    Ok(true)
}

/// The uncommitted work that comes along: `None` where none is to, or where it would not fit what the session begins from.
fn changes_to_bring(
    checkout: &Checkout,
    request: &CloneRequest<'_>,
    base: Option<&str>,
    notices: &mut Vec<String>,
) -> Result<Option<Vec<Change>>, GitError> {
    if let Some(state) = checkout.in_progress() {
        notices.push(format!("{state} is in progress in your checkout: the session begins from the last commit"));
        return Ok(None);
    }
    let wanted = request.bring.uncommitted && base == checkout.head.commit();
    wanted.then(|| bring::changes(checkout)).transpose()
}

/// A branch must not exist, nor one called like the beginning of its name (git keeps them as files and folders).
fn branch_is_free(checkout: &Checkout, branch: &str) -> Result<(), GitError> {
    let parts = branch.match_indices('/').map(|(at, _)| &branch[..at]).chain([branch]);
    match parts.into_iter().find(|name| checkout.resolve(&format!("refs/heads/{name}")).is_ok()) {
        Some(taken) => Err(GitError::BranchExists(taken.to_owned())),
        None => Ok(()),
    }
}

/// Keeps the base of a session alive in the developer's repository.
pub(super) fn keep_ref(session: SessionId) -> String {
    format!("refs/sentrely/keep/{session}")
}

pub(super) fn remote_name(checkout: &Checkout) -> String {
    checkout.remote().map_or_else(|| "origin".to_owned(), |remote| remote.name)
}

fn build(checkout: &Checkout, request: &CloneRequest<'_>, workspace: &mut Workspace, changes: &[Change]) -> Result<(), GitError> {
    let start = workspace.base_commit.clone();
    let built = build_at(checkout, request, workspace, start.as_deref(), changes);
    if built.is_err() {
        let _ = fs_err::remove_dir_all(&workspace.root);
        let _ = fs_err::remove_dir_all(&workspace.state);
        let _ = checkout.set_ref(&workspace.keep_ref(), None);
    }
    built
}

pub(super) fn build_at(
    checkout: &Checkout,
    request: &CloneRequest<'_>,
    workspace: &mut Workspace,
    start: Option<&str>,
    changes: &[Change],
) -> Result<(), GitError> {
    let root = workspace.root.clone();
    let git_dir = root.join(".git");
    make_root(&root)?;
    if let Some(base) = &workspace.base_commit {
        checkout.set_ref(&workspace.keep_ref(), Some(base))?;
    }
    seed::init(checkout, &root, &workspace.branch)?;
    seed::share_objects(checkout, &git_dir)?;
    seed::write_refs(&git_dir, &starting_refs(checkout, workspace, start)?)?;
    seed::configure(checkout, &git_dir, &mut workspace.notices)?;
    seed::make_collector(checkout, &workspace.collector(), &git_dir)?;
    if start.is_some() {
        seed::check_out(checkout, &root, &workspace.branch, &workspace.state, &mut workspace.notices)?;
    } else {
        workspace.notices.push("the repository has no commit yet: a pull request needs a main branch first".to_owned());
    }
    let (local, notices) = (&request.bring, &mut workspace.notices);
    if !changes.is_empty() {
        bring::bring_uncommitted(checkout, &root, changes, local, notices)?;
    }
    let brought_more = !local.laid_over && bring::bring_ignored(checkout, &root, local, notices)?;
    // After the checkout: the developer's post-checkout hook is the agent's to run, inside.
    seed::copy_hooks(checkout, &root, &mut workspace.notices)?;
    seed::point_at_gate(&git_dir.join("config"), &remote_name(checkout), request.gate_url)?;
    if request.gate_url.is_none() {
        workspace.notices.push(match checkout.remote() {
            None => "the repository has no remote: the session's branch stays on this machine".to_owned(),
            Some(remote) => format!("the session cannot reach {}", remote.name),
        });
    }
    if workspace.submodules.is_empty() && !request.bring.laid_over {
        submodules::build(checkout, request, workspace)?;
    }
    seed::keep_config(&git_dir, &workspace.state)?;
    if checkout.oddities.contains(&Oddity::Partial) {
        let missing = if request.gate_url.is_some() { "are fetched when they are needed" } else { "are missing in the session" };
        workspace.notices.push(format!("the repository is a partial clone: objects that were never fetched {missing}"));
    }
    workspace.cwd = start_directory(&root, &checkout.subdirectory);
    if workspace.brought.is_none() && (brought_more || !changes.is_empty()) {
        let (tree, large) = photograph(checkout, workspace)?;
        workspace.brought = tree;
        workspace.brought_large = large.iter().filter_map(|path| Untouched::of(&root, path)).collect();
    }
    Ok(())
}

/// A folder of our own making, or an empty one: a submodule's.
fn make_root(root: &Path) -> Result<(), GitError> {
    if let Some(parent) = root.parent() {
        fs_err::create_dir_all(parent).map_err(GitError::io("create", parent))?;
    }
    match fs_err::create_dir(root) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && submodules::is_nothing(root) => Ok(()),
        made => made.map_err(GitError::io("create", root)),
    }
}

/// The session's branch, the branch it began from (so that `git diff main` works), remote-tracking branches and tags.
fn starting_refs(checkout: &Checkout, workspace: &Workspace, start: Option<&str>) -> Result<Vec<(String, Target)>, GitError> {
    let Some(start) = start else { return Ok(Vec::new()) };
    let begun_from = checkout.head.branch().map(|branch| format!("refs/heads/{branch}"));
    let session = format!("refs/heads/{}", workspace.branch);
    let mut refs = checkout.refs()?;
    refs.retain(|(name, _)| {
        (name.starts_with("refs/remotes/") || name.starts_with("refs/tags/") || Some(name) == begun_from.as_ref()) && *name != session
    });
    refs.push((session, Target::Id(start.to_owned())));
    Ok(refs)
}

fn clone_root(checkout: &Checkout, dir: &Path) -> PathBuf {
    dir.join("work").join(checkout.root.file_name().unwrap_or("repository".as_ref()))
}

fn base_name(checkout: &Checkout, base: Option<&str>, commit: Option<&str>) -> String {
    let named = base.filter(|base| *base != "HEAD").or_else(|| checkout.head.branch());
    named.map_or_else(|| commit.unwrap_or("nothing").chars().take(12).collect(), str::to_owned)
}

fn start_directory(root: &Path, subdirectory: &Path) -> PathBuf {
    // Joining an empty path would add a slash, and PWD would differ from what getcwd(3) says.
    let wanted = if subdirectory.as_os_str().is_empty() { root.to_owned() } else { root.join(subdirectory) };
    // The base may hold a symbolic link in its place: only a real directory inside the working copy will do.
    let inside = fs_err::canonicalize(&wanted).is_ok_and(|real| fs_err::canonicalize(root).is_ok_and(|root| real.starts_with(root)));
    if inside && wanted.is_dir() { wanted } else { root.to_owned() }
}
