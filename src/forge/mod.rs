//! Forges: where a pushed branch becomes a pull request.
//!
//! - [`Place`]: which forge and project a remote's URL means, and the page where a person opens a pull request by hand.
//! - [`GitHub`]: opens a pull request, or brings the one that is open up to date. Never merges, never approves.
//! - [`gitlab_options`]: GitLab opens a merge request for push options, without a token of ours.
//! - [`summary`]: what the pull request says about the session.

mod github;
mod gitlab;
mod place;
pub mod summary;

pub use github::{ForgeError, GitHub, Guard, Opened, Wanted};
pub use gitlab::{GitLab, GitLabGuard, ProtectedBranch};
pub use place::{Kind, Place};

/// The push options that make GitLab open a merge request (docs: "Push options for merge requests"); nothing happens where one is open.
pub fn gitlab_options(title: &str, target: &str, draft: bool) -> Vec<String> {
    let mut options =
        vec!["merge_request.create".to_owned(), format!("merge_request.target={target}"), format!("merge_request.title={title}")];
    if draft {
        options.push("merge_request.draft".to_owned());
    }
    options
}
