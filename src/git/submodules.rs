//! Submodules of the clone: repositories of their own, made as the clone is, from the developer's own, and collected as it is.
//!
//! One that the developer has not checked out stays empty, as there.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::cli::Git;
use super::collect::Collected;
use super::remote::without_credentials;
use super::within::Within;
use super::workspace::build_at;
use super::{Checkout, CloneRequest, GitError, Workspace, bring, seed};

/// A submodule of a session's clone.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Submodule {
    /// Where it lies in the clone, and in the checkout.
    pub path: String,
    /// Its own clone.
    pub workspace: Workspace,
}

/// Makes those that the developer has checked out. `workspace` is the clone that they lie in, with its files.
pub(super) fn build(checkout: &Checkout, request: &CloneRequest<'_>, workspace: &mut Workspace) -> Result<(), GitError> {
    let mut empty = Vec::new();
    for (number, (path, recorded)) in gitlinks(checkout, workspace)?.into_iter().enumerate() {
        match one(checkout, request, workspace, number, &path, &recorded)? {
            Some(built) => workspace.submodules.push(Submodule { path, workspace: built }),
            None => empty.push(path),
        }
    }
    if !empty.is_empty() {
        workspace.notices.push(format!("submodules that are empty in the session: {}", empty.join(", ")));
    }
    Ok(())
}

/// Path and recorded commit of every submodule.
fn gitlinks(checkout: &Checkout, workspace: &Workspace) -> Result<Vec<(String, String)>, GitError> {
    if !workspace.root.join(".gitmodules").is_file() {
        return Ok(Vec::new());
    }
    let git = Git::new("list submodules", &checkout.env, &workspace.root).args(["-c", "core.fsmonitor=false"]);
    let listed = git.args(["ls-tree", "-r", "-z", "--full-tree", "HEAD"]).output()?;
    // `160000 commit <id>\t<path>`; a path that is no text is no path of ours.
    let entries = listed.split(|byte| *byte == 0).filter_map(|entry| std::str::from_utf8(entry).ok());
    Ok(entries
        .filter_map(|entry| entry.strip_prefix("160000 commit ")?.split_once('\t'))
        .map(|(id, path)| (path.to_owned(), id.to_owned()))
        .collect())
}

/// `None` where the developer has no such repository, or not the commit.
fn one(
    checkout: &Checkout,
    request: &CloneRequest<'_>,
    workspace: &Workspace,
    number: usize,
    path: &str,
    recorded: &str,
) -> Result<Option<Workspace>, GitError> {
    let (theirs, root) = (checkout.root.join(path), workspace.root.join(path));
    let Some(own) = own_repository(checkout, &theirs) else { return Ok(None) };
    let brings = workspace.brings_uncommitted && own.head.commit().is_some() && own.in_progress().is_none();
    // On a terminal it is where the developer has it, else where the commit says.
    let base = if brings { own.head.commit().unwrap_or(recorded) } else { recorded }.to_owned();
    if !is_nothing(&root) || own.resolve(&base).is_err() {
        return Ok(None);
    }
    // Of a clone that is made again, what was collected.
    let start = own.resolve(&format!("refs/heads/{}", workspace.branch)).unwrap_or_else(|_| base.clone());
    let changes = if brings { bring::changes(&own)? } else { Vec::new() };
    let mut built = Workspace {
        root: root.clone(),
        cwd: root,
        base: base.chars().take(12).collect(),
        base_commit: Some(base.clone()),
        notices: Vec::new(),
        dirty_left_behind: 0,
        brought: None,
        brought_large: Vec::new(),
        submodules: Vec::new(),
        set_aside: Vec::new(),
        state: workspace.state.join("modules").join(number.to_string()),
        ..workspace.clone()
    };
    let inner = CloneRequest { gate_url: None, ..request.clone() };
    let made = build_at(&own, &inner, &mut built, Some(&start), &changes);
    // What is to be said of it was said of the clone around it.
    built.notices.clear();
    let made = made.and_then(|()| introduce(&own, workspace, &built, path));
    if made.is_err() {
        let _ = own.set_ref(&built.keep_ref(), None);
    }
    made.map(|()| Some(built))
}

/// Tells the clone that it has the submodule, and the submodule where it comes from: a commit that is not here may be there for everybody.
fn introduce(own: &Checkout, workspace: &Workspace, built: &Workspace, path: &str) -> Result<(), GitError> {
    let set = |root: &Path, key: &str, value: &str| {
        let file = root.join(".git/config");
        seed::open_config(&file)?.set_str(key, value).map_err(GitError::library(format!("set {key} in {}", file.display())))
    };
    let remote = own.remote();
    let url = remote.as_ref().map_or_else(|| own.root.display().to_string(), |remote| without_credentials(&remote.url));
    if let Some(remote) = &remote {
        set(&built.root, &format!("remote.{}.url", remote.name), &url)?;
    }
    if let Some(name) = name_of(workspace, path)? {
        set(&workspace.root, &format!("submodule.{name}.active"), "true")?;
        set(&workspace.root, &format!("submodule.{name}.url"), &url)?;
    }
    Ok(())
}

/// What `.gitmodules` calls it.
fn name_of(workspace: &Workspace, path: &str) -> Result<Option<String>, GitError> {
    // A commit may hold a link in its place.
    let Ok(Some(content)) = Within::open(&workspace.root)?.read(".gitmodules", LARGEST_MODULES) else { return Ok(None) };
    let file = workspace.state.join("gitmodules");
    seed::write(&file, &content)?;
    let config = seed::open_config(&file)?;
    let mut entries = config.entries(Some(r"submodule\..*\.path")).map_err(GitError::library(format!("read {}", file.display())))?;
    while let Some(entry) = entries.next() {
        if let Ok(entry) = entry
            && let (Ok(name), Ok(value)) = (entry.name(), entry.value())
            && value == path
        {
            return Ok(name.strip_prefix("submodule.").and_then(|name| name.strip_suffix(".path")).map(str::to_owned));
        }
    }
    Ok(None)
}

/// Refuses a checkout with submodules to a session that works at its path: their git directories lie in the one that the clone's covers.
pub(super) fn none_checked_out(checkout: &Checkout) -> Result<(), GitError> {
    let listed = checkout.git("list submodules").args(["ls-files", "-z", "--stage", "--full-name", ":/"]).output()?;
    let links = listed.split(|byte| *byte == 0).filter_map(|entry| std::str::from_utf8(entry).ok()?.strip_prefix("160000 "));
    let paths = links.filter_map(|entry| entry.split_once('\t')).map(|(_, path)| path.to_owned());
    let there: Vec<String> = paths.filter(|path| checkout.root.join(path).join(".git").exists()).collect();
    if there.is_empty() { Ok(()) } else { Err(GitError::SubmodulesAtOnePath(there.join(", "))) }
}

/// Nothing is there, or an empty folder.
pub(super) fn is_nothing(root: &Path) -> bool {
    match root.symlink_metadata() {
        Ok(meta) => meta.is_dir() && fs_err::read_dir(root).is_ok_and(|mut entries| entries.next().is_none()),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

/// The repository whose files lie at `top`, and not one around it.
fn own_repository(checkout: &Checkout, top: &Path) -> Option<Checkout> {
    let found = Checkout::discover_with(top, checkout.env.clone()).ok()?;
    (found.root == fs_err::canonicalize(top).ok()?).then_some(found)
}

/// A file with a few lines for each submodule.
const LARGEST_MODULES: u64 = 1024 * 1024;

/// The developer's own repository of a submodule.
pub(super) fn developers(checkout: &Checkout, path: &str) -> Option<Checkout> {
    own_repository(checkout, &checkout.root.join(path))
}

/// Collects the work in each, into the developer's repository of it, by `collect` (`None`: it is not there any more); what is to be said goes
/// into `collected`.
pub(super) fn collect_all(
    checkout: &Checkout,
    workspace: &Workspace,
    collect: impl Fn(&Checkout, &Submodule) -> Result<Option<Collected>, GitError>,
    collected: &mut Collected,
) -> Result<(), GitError> {
    for submodule in &workspace.submodules {
        let path = &submodule.path;
        let Some(own) = developers(checkout, path) else {
            collected.left_out.push(path.clone());
            continue;
        };
        let Some(inner) = collect(&own, submodule)? else { continue };
        collected.left_out.extend(inner.left_out.into_iter().map(|name| format!("{path}/{name}")));
        if !inner.unchanged {
            collected.others.push(format!("{} in the submodule {path}", inner.branch));
            collected.others.extend(inner.others.into_iter().map(|name| format!("{name} in the submodule {path}")));
        }
        collected.notices.extend(inner.notices.into_iter().map(|notice| format!("{path}: {notice}")));
    }
    Ok(())
}
