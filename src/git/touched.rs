//! Which files a session's branch changed.

use std::path::Path;

use git2::Repository;

use super::GitError;

/// The files that differ between `base` and `branch` in the repository at `root`, in order of name; of a renamed one its new name.
///
/// # Errors
/// One of the two is not there, or git cannot read them.
pub fn touched(root: &Path, base: &str, branch: &str) -> Result<Vec<String>, GitError> {
    let failed = || GitError::library(format!("compare {branch} with {base}"));
    let repository = Repository::open(root).map_err(failed())?;
    let tree = |revision: &str| repository.revparse_single(revision).and_then(|object| object.peel_to_tree());
    let (before, after) = (tree(base).map_err(failed())?, tree(&format!("refs/heads/{branch}")).map_err(failed())?);
    let diff = repository.diff_tree_to_tree(Some(&before), Some(&after), None).map_err(failed())?;
    let names = diff.deltas().filter_map(|delta| delta.new_file().path_bytes().or_else(|| delta.old_file().path_bytes()));
    Ok(names.map(|name| String::from_utf8_lossy(name).into_owned()).collect())
}
