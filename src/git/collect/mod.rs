//! Bringing the session's work into the developer's repository: as branches, never touching HEAD, index or files there.
//!
//! # How it works
//!
//! The clone belongs to the agent: its configuration, hooks, attributes and alternates may be traps, and any of its files a link or a pipe.
//! So no git ever runs with the clone as its repository or as its work tree, and its configuration is never read. The supervisor's own
//! repository beside it (the collector) borrows the clone's objects ([`view`]); refs are read as plain text; the state of the files
//! ([`files`]) is written as a tree *into the collector*; and what is new goes from the collector into the developer's repository. The
//! clone itself is not written, so that a stale `index.lock` does not matter, and collecting while the agent works does not disturb it.
//!
//! libgit2 does all of this. For repositories that it cannot read ([`super::Oddity`]) git's plumbing does, on the collector, and runs no
//! filter: those that the developer has are run by [`super::filters`], where the clone's files cannot reach them.
//!
//! # What it promises
//!
//! Work is added, never replaced: a branch of the developer's that we did not write last, or that is checked out, is left alone and
//! the work lands beside it. What could not be taken (huge files, nested repositories) is named.

mod brought;
mod clone_refs;
mod files;
mod library;
mod place;
mod program;
mod remove;
mod view;

use std::path::{Path, PathBuf};

use clone_refs::{CloneHead, CloneRefs};
use place::Place;
pub use remove::remove_clone;

use super::checkout::Target;
use super::filters::{self, Filters};
use super::within::Within;
use super::{Checkout, GitError, Oddity, Submodule, Workspace, WorkspaceKind, seed, submodules};

/// Files above this size (bytes) are not put into a work-in-progress commit; they are named instead.
const LARGEST_FILE: u64 = 50 * 1024 * 1024;
/// An index of some two million files; a larger one is not read.
const LARGEST_INDEX: u64 = 256 * 1024 * 1024;
/// How often work may be put beside a branch that may not be moved.
const MOST_SIBLINGS: u32 = 99;

/// What came home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collected {
    /// The branch in the developer's repository: the session's, or `<it>--2` where that one may not be moved.
    pub branch: String,
    /// Its last commit; `None` where there is no commit at all.
    pub tip: Option<String>,
    /// Commits since the base, a work-in-progress commit included.
    pub commits: usize,
    /// Whether the last of them holds uncommitted work.
    pub wip: bool,
    /// Nothing was done: no commit beyond the base on any branch, and no uncommitted work. No branch was made then.
    pub unchanged: bool,
    /// Further branches with commits of their own: `<branch>--<the agent's name for it>`.
    pub others: Vec<String>,
    /// Paths that are not in the work-in-progress commit: too large, or repositories of their own.
    pub left_out: Vec<String>,
    /// What the user should know, a sentence each.
    pub notices: Vec<String>,
}

/// What the collector can do; libgit2 and the git program each in their own way.
trait Collector {
    fn has_commit(&self, id: &str) -> bool;
    /// Those of `ids` that are commits and are there.
    fn commits_among(&self, ids: Vec<String>) -> Result<Vec<String>, GitError>;
    /// How many commits lead to `tip` that lead to none of `known`.
    fn own_commits(&self, tip: &str, known: &[String]) -> Result<usize, GitError>;
    /// Writes the state of the files as a tree.
    fn snapshot(&self, root: &Within, index: Option<&Path>, parent: Option<&str>) -> Result<Snapshot, GitError>;
    /// What differs between two commits or trees (`None`: the empty tree), by path.
    fn diff(&self, from: Option<&str>, to: Option<&str>) -> Result<Vec<Difference>, GitError>;
    /// `tree` with these paths set (mode and object) or removed; removals come first.
    fn with(&self, tree: &str, entries: &[(Vec<u8>, Option<Entry>)]) -> Result<String, GitError>;
    /// Whether `id` is a commit of this tree on this parent.
    fn is_commit_of(&self, id: &str, tree: &str, parent: Option<&str>) -> bool;
    fn commit(&self, tree: &str, parent: Option<&str>, message: &str, author: (&str, &str)) -> Result<String, GitError>;
    /// The commit that we last put at `refs/heads/<branch>` of the developer's repository.
    fn landed(&self, branch: &str) -> Option<String>;
    /// Copies what is new and sets `refs/heads/<branch>` of the developer's repository, if it still holds `current`.
    fn land(&self, checkout: &Checkout, id: &str, branch: &str, current: Option<&str>, known: &[String]) -> Result<(), GitError>;
}

/// The state of the files.
struct Snapshot {
    tree: String,
    /// Whether `tree` is another one than the parent's.
    differs: bool,
    left_out: Vec<String>,
    /// Stored as they are, because a filter could not be run: path and filter.
    unfiltered: Vec<(String, String)>,
}

/// Mode and object id of a file in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    mode: u32,
    id: String,
}

/// A path that two trees do not agree about.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Difference {
    path: Vec<u8>,
    from: Option<Entry>,
    to: Option<Entry>,
}

/// Collects the session's work. With `wip_message` uncommitted work becomes one commit on the branch it was done on (in the
/// developer's repository only; the clone keeps it uncommitted). May be called as often as one likes.
pub fn collect(checkout: &Checkout, workspace: &Workspace, wip_message: Option<&str>) -> Result<Collected, GitError> {
    if workspace.kind == WorkspaceKind::InPlace {
        return in_place(checkout, workspace);
    }
    collect_at(checkout, workspace, &Place::of(workspace)?, wip_message)
}

fn collect_at(checkout: &Checkout, workspace: &Workspace, place: &Place, wip_message: Option<&str>) -> Result<Collected, GitError> {
    let (collector, refs) = open(checkout, workspace, place)?;
    let mut work = Work::find(collector.as_ref(), workspace, place, refs)?;
    bring_lfs(checkout, place, &mut work.notices);
    let mut collected = Collected {
        branch: workspace.branch.clone(),
        tip: None,
        commits: 0,
        wip: false,
        unchanged: false,
        others: Vec::new(),
        left_out: Vec::new(),
        notices: std::mem::take(&mut work.notices),
    };
    if let Some(message) = wip_message {
        collected.wip = commit_uncommitted(collector.as_ref(), checkout, (workspace, place), &mut work, message, &mut collected.left_out)?;
        collected.notices.append(&mut work.notices);
    }
    let known = known_commits(checkout, workspace, collector.as_ref())?;
    let base: Vec<String> = workspace.base_commit.iter().cloned().collect();
    collected.tip.clone_from(&work.tip);
    if let Some(tip) = &work.tip {
        collected.commits = collector.own_commits(tip, &base)?;
        let exists = checkout.resolve(&format!("refs/heads/{}", workspace.branch)).is_ok();
        if collected.commits > 0 || exists {
            collected.branch = land(collector.as_ref(), checkout, &workspace.branch, tip, &known)?;
        }
    }
    // Anew: the session's branch may have gone back, and what it led to before is now another branch's own.
    let known = if work.others.is_empty() { known } else { known_commits(checkout, workspace, collector.as_ref())? };
    for (name, id) in &work.others {
        if collector.own_commits(id, &known)? > 0 {
            let beside = format!("{}--{name}", workspace.branch);
            collected.others.push(land(collector.as_ref(), checkout, &beside, id, &known)?);
        } else if collector.landed(&format!("{}--{name}", workspace.branch)).as_ref() == Some(id) {
            collected.others.push(format!("{}--{name}", workspace.branch)); // brought home earlier
        }
    }
    if collected.branch != workspace.branch {
        collected.notices.push(format!("{} was changed or is checked out: the work is on {}", workspace.branch, collected.branch));
    }
    collected.left_out.retain(|path| !workspace.submodules.iter().any(|submodule| submodule.path == *path));
    let inner = |own: &Checkout, submodule: &Submodule| {
        let place = place.of_submodule(&submodule.path)?;
        // Taken out by the session.
        if place.is_empty { Ok(None) } else { collect_at(own, &submodule.workspace, &place, wip_message).map(Some) }
    };
    submodules::collect_all(checkout, workspace, inner, &mut collected)?;
    collected.unchanged = collected.commits == 0 && collected.others.is_empty();
    if let (Some(tip), false) = (&collected.tip, collected.unchanged) {
        collected.notices.extend(brought::notice(collector.as_ref(), workspace, tip)?);
    }
    Ok(collected)
}

/// The state of a fresh clone's files, where it is not the base's, and the files that are too large for it.
pub(super) fn photograph(checkout: &Checkout, workspace: &Workspace) -> Result<(Option<String>, Vec<String>), GitError> {
    let place = Place::of(workspace)?;
    let (collector, _) = open(checkout, workspace, &place)?;
    let index = copy_index(workspace, &place)?;
    let Some(root) = &place.root else { return Ok((None, Vec::new())) };
    let snapshot = collector.snapshot(root, index.as_deref(), workspace.base_commit.as_deref())?;
    Ok((snapshot.differs.then_some(snapshot.tree), snapshot.left_out))
}

/// How many commits the session's branch has beyond its base, as it stands in the clone now.
pub fn commits_since_base(checkout: &Checkout, workspace: &Workspace) -> Result<usize, GitError> {
    if workspace.kind == WorkspaceKind::InPlace {
        return in_place(checkout, workspace).map(|collected| collected.commits);
    }
    let place = Place::of(workspace)?;
    let (collector, refs) = open(checkout, workspace, &place)?;
    let work = Work::find(collector.as_ref(), workspace, &place, refs)?;
    let base: Vec<String> = workspace.base_commit.iter().cloned().collect();
    work.tip.map_or(Ok(0), |tip| collector.own_commits(&tip, &base))
}

/// The clone's branches, sorted out.
#[derive(Debug, Default)]
struct Work {
    /// The session branch's commit.
    tip: Option<String>,
    /// Other branches (and a detached HEAD, as `detached`) with their commits.
    others: Vec<(String, String)>,
    /// Where uncommitted work belongs: `None` is the session's branch, else the name in `others`; and on which commit.
    uncommitted: (Option<String>, Option<String>),
    /// A commit that a ref of the clone names but that cannot be read.
    missing: Option<String>,
    notices: Vec<String>,
}

impl Work {
    /// `refs`: as [`open`] read them.
    fn find(collector: &dyn Collector, workspace: &Workspace, place: &Place, refs: Option<CloneRefs>) -> Result<Self, GitError> {
        let mut work = Self::default();
        let earlier = || collector.landed(&workspace.branch).or_else(|| workspace.base_commit.clone());
        let Some(refs) = refs else {
            work.notices.push("the clone's git directory is gone: its files were taken as they are".to_owned());
            // Elsewhere, perhaps, with commits that we do not see.
            let elsewhere = place.root.as_ref().map_or(!place.is_empty, |root| !matches!(root.look(Path::new(".git")), Ok(None)));
            work.missing = elsewhere.then(|| ".git".to_owned());
            work.tip = earlier();
            work.uncommitted = (None, work.tip.clone());
            return Ok(work);
        };
        for (name, why) in refs.unreadable {
            work.notices.push(format!("the clone's .git/{name} cannot be read: {why}"));
            work.missing = Some(name); // it may name commits that we do not see
        }
        for (name, id) in refs.branches {
            if !collector.has_commit(&id) {
                work.notices.push(format!("commit {id} of {name} cannot be read"));
                work.missing = Some(id);
            } else if name == workspace.branch {
                work.tip = Some(id);
            } else {
                work.others.push((name, id));
            }
        }
        if refs.head == CloneHead::Unreadable {
            work.notices.push("the clone's HEAD cannot be read".to_owned());
            work.missing = Some("HEAD".to_owned()); // in another format, perhaps, with branches that we do not see
        }
        if work.tip.is_none() {
            work.tip = earlier(); // deleted or renamed: what is gone is among the others
        }
        work.uncommitted = match refs.head {
            CloneHead::Branch(name) if name != workspace.branch => {
                let at = work.others.iter().find(|(other, _)| *other == name).map(|(_, id)| id.clone());
                (Some(name), at)
            }
            CloneHead::Detached(id) if collector.has_commit(&id) && work.tip.as_ref() != Some(&id) => {
                let tip: Vec<String> = work.tip.iter().cloned().collect();
                if collector.own_commits(&id, &tip)? > 0
                    && work.tip.as_ref().is_none_or(|tip| collector.own_commits(tip, std::slice::from_ref(&id)).is_ok_and(|n| n == 0))
                {
                    work.tip = Some(id.clone()); // went on from the branch without it
                    (None, Some(id))
                } else {
                    work.others.push(("detached".to_owned(), id.clone()));
                    (Some("detached".to_owned()), Some(id))
                }
            }
            CloneHead::Branch(_) | CloneHead::Detached(_) | CloneHead::Unreadable => (None, work.tip.clone()),
        };
        Ok(work)
    }
}

fn commit_uncommitted(
    collector: &dyn Collector,
    checkout: &Checkout,
    (workspace, place): (&Workspace, &Place),
    work: &mut Work,
    message: &str,
    left_out: &mut Vec<String>,
) -> Result<bool, GitError> {
    let Some(root) = &place.root else {
        work.notices.push("the clone's folder is gone".to_owned());
        return Ok(false); // else its absence would be committed as the deletion of every file
    };
    let index = copy_index(workspace, place)?;
    let (branch, parent) = work.uncommitted.clone();
    let mut snapshot = collector.snapshot(root, index.as_deref(), parent.as_deref())?;
    brought::take_out(collector, workspace, parent.as_deref(), &mut snapshot)?;
    left_out.extend(snapshot.left_out);
    if let Some((path, filter)) = snapshot.unfiltered.first() {
        let others = match snapshot.unfiltered.len() {
            1 => String::new(),
            count => format!(", one of {count} files,"),
        };
        work.notices.push(format!("{path}{others} is saved as it is: the filter {filter} did not work outside the working copy"));
    }
    if !snapshot.differs {
        return Ok(false);
    }
    let name = checkout.config_text("user.name").unwrap_or_else(|| "sentrely session".to_owned());
    let email = checkout.user_email().unwrap_or_else(|| "session@sentrely.invalid".to_owned());
    // What is brought home every few minutes is one commit for as long as it is the same.
    let beside = branch.as_ref().map(|name| format!("{}--{name}", workspace.branch));
    let before = collector.landed(beside.as_ref().unwrap_or(&workspace.branch));
    let id = match before.filter(|id| collector.is_commit_of(id, &snapshot.tree, parent.as_deref())) {
        Some(same) => same,
        None => collector.commit(&snapshot.tree, parent.as_deref(), message, (&name, &email))?,
    };
    match branch {
        None => work.tip = Some(id),
        Some(name) => match work.others.iter_mut().find(|(other, _)| *other == name) {
            Some(other) => other.1 = id,
            None => work.others.push((name, id)),
        },
    }
    Ok(true)
}

/// Puts `id` at `branch` of the developer's repository, or beside it where it may not be moved. Gives the name it got.
fn land(collector: &dyn Collector, checkout: &Checkout, branch: &str, id: &str, known: &[String]) -> Result<String, GitError> {
    for sibling in 1..=MOST_SIBLINGS {
        let name = if sibling == 1 { branch.to_owned() } else { format!("{branch}--{sibling}") };
        let current = checkout.resolve(&format!("refs/heads/{name}")).ok();
        if current.as_deref() == Some(id) {
            return Ok(name);
        }
        let free = match &current {
            None => true,
            Some(current) => {
                let ours = collector.landed(&name).as_ref() == Some(current)
                    || (collector.has_commit(current) && collector.own_commits(current, &[id.to_owned()])? == 0);
                ours && !is_checked_out(checkout, &name)
            }
        };
        if free {
            collector.land(checkout, id, &name, current.as_deref(), known)?;
            return Ok(name);
        }
    }
    Err(GitError::BranchExists(branch.to_owned()))
}

fn is_checked_out(checkout: &Checkout, branch: &str) -> bool {
    let mut heads = vec![checkout.git_dir.join("HEAD"), checkout.common_dir.join("HEAD")];
    let linked = fs_err::read_dir(checkout.common_dir.join("worktrees")).into_iter().flatten().flatten();
    heads.extend(linked.map(|entry| entry.path().join("HEAD")));
    let wanted = format!("ref: refs/heads/{branch}");
    checkout.head.branch() == Some(branch)
        || heads.iter().any(|head| fs_err::read_to_string(head).is_ok_and(|text| text.trim_end() == wanted))
}

/// Everything the developer's refs lead to: no need to copy it, and no loss if a clone goes that has no more than this.
fn known_commits(checkout: &Checkout, workspace: &Workspace, collector: &dyn Collector) -> Result<Vec<String>, GitError> {
    let mut known: Vec<String> =
        checkout.refs()?.into_iter().filter_map(|(_, target)| if let Target::Id(id) = target { Some(id) } else { None }).collect();
    known.extend(workspace.base_commit.clone());
    known.sort();
    known.dedup();
    collector.commits_among(known) // not annotated tags, which name a commit at one remove, nor what is missing
}

/// Lets the collector see the clone's objects. Gives the clone's refs too, if it has a git directory: they are read before the objects,
/// so that what they lead to is there; and nothing comes to these objects once it was judged by them who may read them.
fn open(checkout: &Checkout, workspace: &Workspace, place: &Place) -> Result<(Box<dyn Collector>, Option<CloneRefs>), GitError> {
    let refs = place.git_dir.as_ref().map(CloneRefs::read);
    let view = place.git_dir.as_ref().map_or(Ok(None), |git_dir| view::of_clone(git_dir, &workspace.state))?;
    let mut stores = vec![checkout.common_dir.join("objects")];
    stores.extend(view.as_ref().map(|view| view.objects.clone()));
    let stores: Vec<&Path> = stores.iter().map(PathBuf::as_path).collect();
    seed::lend_objects(&workspace.collector(), &stores)?;
    // Of the attributes of the developer's own repository; git itself is to run no filter.
    let by_program = view.is_some_and(|view| view.large) || checkout.oddities.iter().any(|oddity| *oddity != Oddity::Filters);
    let mut attributes = fs_err::read(checkout.common_dir.join("info/attributes")).unwrap_or_default();
    if by_program {
        attributes.extend_from_slice(filters::NO_FILTERS.as_bytes());
    }
    seed::write(&workspace.collector().join("info/attributes"), &attributes)?;
    let filters = Filters::new(checkout, &workspace.state);
    if by_program {
        return Ok((Box::new(program::Program::new(checkout, workspace.collector(), filters)), refs));
    }
    Ok((Box::new(library::Library::open(&workspace.collector(), filters)?), refs))
}

/// What the agent's git-lfs stored: its commits hold only pointers.
fn bring_lfs(checkout: &Checkout, place: &Place, notices: &mut Vec<String>) {
    let Some(git_dir) = &place.git_dir else { return };
    let store = filters::lfs::Store::of(checkout);
    let brought = match git_dir.look(Path::new("lfs")) {
        Ok(Some(meta)) if meta.is_dir() => store.take_over(&git_dir.held()),
        looked => looked.map(drop),
    };
    if let Err(error) = brought {
        notices.push(format!("not all files of git-lfs could be brought to {}: {error}", store.path().display()));
    }
}

/// A copy of the clone's index: what is staged, and what is known to be unchanged. `None` where there is none that can be read.
fn copy_index(workspace: &Workspace, place: &Place) -> Result<Option<PathBuf>, GitError> {
    let copy = workspace.collector().join("wip.index");
    let _ = fs_err::remove_file(&copy);
    // The same time as the original, or an earlier one: entries as young as the index are looked at again, and must be.
    let modified = |git_dir: &Within| git_dir.look(Path::new("index")).ok()??.modified().ok();
    let Some((git_dir, modified)) = place.git_dir.as_ref().and_then(|git_dir| Some((git_dir, modified(git_dir)?))) else { return Ok(None) };
    // Without it nothing is lost: every file is compared by content.
    let Ok(Some(bytes)) = git_dir.read("index", LARGEST_INDEX) else { return Ok(None) };
    seed::write(&copy, &bytes)?;
    let file = fs_err::OpenOptions::new().write(true).open(&copy).map_err(GitError::io("open", &copy))?;
    file.into_parts().0.set_modified(modified).map_err(GitError::io("set the time of", &copy))?;
    Ok(Some(copy))
}

fn in_place(checkout: &Checkout, workspace: &Workspace) -> Result<Collected, GitError> {
    let tip = checkout.resolve(&format!("refs/heads/{}", workspace.branch)).ok();
    let commits = match &tip {
        None => 0,
        Some(tip) => {
            let base: Vec<String> = workspace.base_commit.iter().cloned().collect();
            let filters = Filters::new(checkout, &workspace.state);
            let counter: Box<dyn Collector> = if checkout.library_can_open() {
                Box::new(library::Library::open(&checkout.git_dir, filters)?)
            } else {
                Box::new(program::Program::new(checkout, checkout.git_dir.clone(), filters))
            };
            counter.own_commits(tip, &base)?
        }
    };
    Ok(Collected {
        branch: workspace.branch.clone(),
        tip,
        commits,
        wip: false,
        unchanged: commits == 0,
        others: Vec::new(),
        left_out: Vec::new(),
        notices: Vec::new(),
    })
}

/// Whether a working copy and its git directory are there, each itself and not by way of a link.
pub(super) fn has_repository(root: &Path) -> bool {
    is_directory(root) && is_directory(&root.join(".git"))
}

fn is_directory(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|meta| meta.is_dir())
}
