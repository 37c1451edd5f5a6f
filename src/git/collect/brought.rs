//! The developer's own uncommitted work, which the session began with: what is unchanged of it is no work of the session's.

use std::collections::{BTreeMap, BTreeSet};

use super::super::workspace::Untouched;
use super::super::{GitError, Workspace};
use super::{Collector, Snapshot};

/// So many files are named.
const NAMED: usize = 20;

/// Takes out of the state of the files what the developer had changed before and nobody touched since, neither on disk nor in a commit.
pub(super) fn take_out(
    collector: &dyn Collector,
    workspace: &Workspace,
    parent: Option<&str>,
    snapshot: &mut Snapshot,
) -> Result<(), GitError> {
    let untouched = |path: &String| Untouched::of(&workspace.root, path).is_some_and(|now| workspace.brought_large.contains(&now));
    snapshot.left_out.retain(|path| !untouched(path));
    let Some(brought) = &workspace.brought else { return Ok(()) };
    let base = workspace.base_commit.as_deref();
    let (since, committed) = (collector.diff(Some(brought), Some(&snapshot.tree))?, collector.diff(base, parent)?);
    let touched: BTreeSet<&[u8]> = since.iter().chain(&committed).map(|difference| &difference.path[..]).collect();
    let mut back = collector.diff(base, Some(brought))?;
    // What the session has in place of a file, or around it, is its own.
    let kept: Vec<&[u8]> = since.iter().filter(|one| one.to.is_some()).map(|one| &one.path[..]).collect();
    let kept_too: Vec<Vec<u8>> =
        back.iter().filter(|one| one.to.is_some() && touched.contains(&one.path[..])).map(|one| one.path.clone()).collect();
    back.retain(|one| {
        let collides = |other: &[u8]| is_in(other, &one.path) || is_in(&one.path, other);
        let in_the_way = one.from.is_some() && (kept.iter().any(|path| collides(path)) || kept_too.iter().any(|path| collides(path)));
        !touched.contains(&one.path[..]) && !in_the_way
    });
    if back.is_empty() {
        return Ok(());
    }
    let entries: Vec<_> = back.into_iter().map(|one| (one.path, one.from)).collect();
    snapshot.tree = collector.with(&snapshot.tree, &entries)?;
    snapshot.differs = !collector.diff(parent, Some(&snapshot.tree))?.is_empty();
    Ok(())
}

/// Names the files in which the session's work stands on uncommitted work of the developer's.
pub(super) fn notice(collector: &dyn Collector, workspace: &Workspace, tip: &str) -> Result<Option<String>, GitError> {
    let Some(brought) = &workspace.brought else { return Ok(None) };
    let base = workspace.base_commit.as_deref();
    let delivered: BTreeMap<_, _> = collector.diff(base, Some(tip))?.into_iter().map(|one| (one.path.clone(), one)).collect();
    let yours = collector.diff(base, Some(brought))?.into_iter().filter(|one| delivered.contains_key(&one.path));
    let names: Vec<String> = yours.map(|one| String::from_utf8_lossy(&one.path).into_owned()).collect();
    Ok((!names.is_empty()).then(|| {
        let more = names.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("the work holds uncommitted changes of yours too, in {}{more}", names[..names.len().min(NAMED)].join(", "))
    }))
}

/// Whether `path` lies below the folder.
fn is_in(path: &[u8], folder: &[u8]) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.first() == Some(&b'/'))
}
