//! Where a session begins: the commit that `--base` names, fetched where only the remote has it.

use super::cli::REMOTE;
use super::{Checkout, GitError};

/// The commit of `revision`. A branch that this repository does not know is fetched by the developer's own git, as a remote-tracking
/// branch.
pub(super) fn find(checkout: &Checkout, revision: &str) -> Result<String, GitError> {
    match checkout.resolve(revision) {
        Err(GitError::NoSuchBase(_)) => {}
        found => return found,
    }
    let missing = || GitError::NoSuchBase(revision.to_owned());
    let (remote, branch) = remote_branch(checkout, revision).ok_or_else(missing)?;
    let tracking = format!("refs/remotes/{remote}/{branch}");
    let git = checkout.git(format!("fetch {branch} of {remote}")).within(REMOTE);
    let git = git.args(["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--end-of-options"]);
    match git.args([remote, format!("+refs/heads/{branch}:{tracking}")]).output() {
        Err(GitError::Git { said, .. }) if said.contains("couldn't find remote ref") => Err(missing()),
        Err(error) => Err(error),
        Ok(_) => checkout.resolve(&tracking),
    }
}

/// The remote and its branch that `revision` may mean: `origin/topic`, or `topic` of the remote that work goes to.
fn remote_branch(checkout: &Checkout, revision: &str) -> Option<(String, String)> {
    let named = checkout.remote_names().into_iter().find_map(|remote| {
        let branch = revision.strip_prefix(&remote)?.strip_prefix('/')?.to_owned();
        Some((remote, branch))
    });
    let found = named.or_else(|| Some((checkout.remote()?.name, revision.to_owned())))?;
    // Neither an option, nor `HEAD~1`, nor an id that is not here.
    let is_id = found.1.len() >= 7 && found.1.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_name = !found.1.starts_with('-') && git2::Reference::is_valid_name(&format!("refs/heads/{}", found.1));
    (is_name && !is_id && found.1 != "HEAD").then_some(found)
}
