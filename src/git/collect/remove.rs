//! The end of a clone, once its work is at home.

use std::path::Path;

use super::super::{Checkout, GitError, Workspace, WorkspaceKind, snapshot, submodules};
use super::place::Place;
use super::{Collected, Work, collect, collect_at, is_directory, known_commits, open, view};

/// Removes the clone, the collector and the keep-ref, after a last [`collect`]; refused where anything would be lost.
pub fn remove_clone(checkout: &Checkout, workspace: &Workspace, wip_message: &str) -> Result<Collected, GitError> {
    if workspace.kind == WorkspaceKind::InPlace {
        let collected = collect(checkout, workspace, Some(wip_message))?;
        checkout.set_ref(&snapshot::snapshot_ref(workspace.session), None)?;
        return Ok(collected);
    }
    let collected = all_at_home(checkout, workspace, &Place::of(workspace)?, wip_message)?;
    // With its submodules: where one was, a link may lead by now.
    remove_tree(&workspace.root)?;
    forget(checkout, workspace)?;
    Ok(collected)
}

/// Collects for the last time; an error where anything would be lost with the clone.
fn all_at_home(checkout: &Checkout, workspace: &Workspace, place: &Place, wip_message: &str) -> Result<Collected, GitError> {
    let collected = collect_at(checkout, workspace, place, Some(wip_message))?;
    let kept = |tip: &str| GitError::NotCollected { clone: workspace.root.clone(), tip: tip.to_owned() };
    if let Some(path) = collected.left_out.first() {
        return Err(kept(path));
    }
    let (collector, refs) = open(checkout, workspace, place)?;
    let known = known_commits(checkout, workspace, collector.as_ref())?;
    let work = Work::find(collector.as_ref(), workspace, place, refs)?;
    for tip in work.tip.iter().chain(collected.tip.iter()).chain(work.others.iter().map(|(_, id)| id)) {
        if collector.own_commits(tip, &known)? > 0 {
            return Err(kept(tip));
        }
    }
    if let Some(missing) = work.missing {
        return Err(kept(&missing));
    }
    if let Some(aside) = workspace.set_aside.iter().find(|aside| aside.exists()) {
        return Err(GitError::NotCollected { clone: aside.clone(), tip: "and what could not be read in it".to_owned() });
    }
    for submodule in &workspace.submodules {
        let inner = place.of_submodule(&submodule.path)?;
        if !inner.is_empty {
            let own = submodules::developers(checkout, &submodule.path).ok_or_else(|| kept(&submodule.path))?;
            all_at_home(&own, &submodule.workspace, &inner, wip_message)?;
        }
    }
    Ok(collected)
}

/// Removes what lies beside a clone that has gone.
fn forget(checkout: &Checkout, workspace: &Workspace) -> Result<(), GitError> {
    for submodule in &workspace.submodules {
        if let Some(own) = submodules::developers(checkout, &submodule.path) {
            forget(&own, &submodule.workspace)?;
        }
    }
    view::folders(&workspace.state).iter().try_for_each(|folder| remove_tree(folder))?;
    view::forget_large(&workspace.state)?;
    remove_tree(&workspace.collector())?;
    checkout.set_ref(&workspace.keep_ref(), None)
}

/// Removes a tree in which the agent may have taken away its own write permission.
fn remove_tree(root: &Path) -> Result<(), GitError> {
    fn unlock(directory: &Path) {
        use std::os::unix::fs::PermissionsExt;
        let _ = fs_err::set_permissions(directory, std::fs::Permissions::from_mode(0o700));
        for entry in fs_err::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                unlock(&entry.path());
            }
        }
    }
    match fs_err::remove_dir_all(root) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied && is_directory(root) => {
            unlock(root);
            fs_err::remove_dir_all(root).map_err(GitError::io("remove", root))
        }
        done => done.map_err(GitError::io("remove", root)),
    }
}
