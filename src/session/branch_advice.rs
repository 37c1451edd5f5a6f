//! Polite words about branches, before a command is run: which branch is meant, and what is missing.
//!
//! Advice to the model and never a barrier: what a push may do is decided by the gate, whatever the command looks like. So it reads only
//! the plain forms, says nothing when in doubt, and says each thing once.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::notices::{Judgement, Rule, commands_of};
use crate::git::Protected;

/// A `HEAD` that names a branch is far shorter.
const MAX_HEAD: u64 = 1_024;
/// Branches that words were said about, at most.
const MAX_SAID: usize = 64;

/// What the advice is about.
#[derive(Debug, Clone)]
pub(super) struct BranchAdvice {
    /// The session's branch.
    pub(super) branch: String,
    /// Branches that no session may change.
    pub(super) protected: Protected,
    /// The working copy.
    pub(super) root: PathBuf,
}

/// What a command is about to do to a branch that is not the session's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Deed {
    Push(String),
    Commit(String),
}

impl BranchAdvice {
    /// The rule for the client's hooks.
    pub(super) fn rule(self) -> Rule {
        let said: Mutex<BTreeSet<Deed>> = Mutex::default();
        Arc::new(move |call, _thread| {
            let Some(command) = call.command.as_deref().filter(|command| call.name == "Bash" && command.contains("git")) else {
                return Judgement::Pass;
            };
            let Some(deed) = self.deed(command, || head(&self.root)) else { return Judgement::Pass };
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            if said.len() >= MAX_SAID || !said.insert(deed.clone()) {
                return Judgement::Pass;
            }
            Judgement::Advise(self.words(&deed))
        })
    }

    /// `head` is asked only where it matters.
    fn deed(&self, command: &str, head: impl Fn() -> Option<String>) -> Option<Deed> {
        // The branch that a command before this one on the same line has switched to.
        let mut switched: Option<String> = None;
        for words in commands_of(command) {
            let Some((verb, args)) = git_verb(&words) else { continue };
            let plain: Vec<&str> = args.iter().map(String::as_str).filter(|arg| !arg.starts_with('-')).collect();
            match verb {
                // The first is the remote.
                "push" => {
                    let targets = plain.iter().skip(1).filter_map(|refspec| target(refspec));
                    if let Some(branch) = targets.map(str::to_owned).find(|branch| self.is_protected(branch)) {
                        return Some(Deed::Push(branch));
                    }
                }
                // With `-b` a new branch is made of it.
                "checkout" | "switch" if args.len() == 1 => switched = plain.first().map(|branch| (*branch).to_owned()),
                "checkout" | "switch" => switched = Some(String::new()),
                "commit" => {
                    let branch = switched.clone().or_else(&head)?;
                    if self.is_protected(&branch) {
                        return Some(Deed::Commit(branch));
                    }
                }
                _ => {}
            }
        }
        None
    }

    fn is_protected(&self, branch: &str) -> bool {
        branch != self.branch && self.protected.covers(branch)
    }

    fn words(&self, deed: &Deed) -> String {
        let own = &self.branch;
        match deed {
            Deed::Push(branch) => format!(
                "sentrely: `{branch}` is a protected branch, and this session has no grant to push to it. It may push {own} alone \
                 (git push origin HEAD:{own}); a person merges it from there."
            ),
            Deed::Commit(branch) => format!(
                "sentrely: this commit would go on `{branch}`, a protected branch that this session has no grant to push to. \
                 The session's branch is {own}: git switch {own}"
            ),
        }
    }
}

/// `git -C sub -c a=b push origin main` as `push` and its arguments.
fn git_verb(words: &[String]) -> Option<(&str, &[String])> {
    let [git, rest @ ..] = words else { return None };
    if git != "git" && !git.ends_with("/git") {
        return None;
    }
    let mut at = 0;
    loop {
        match rest.get(at)?.as_str() {
            "-C" | "-c" | "--git-dir" | "--work-tree" => at += 2,
            option if option.starts_with('-') => at += 1,
            verb => return Some((verb, &rest[at + 1..])),
        }
    }
}

/// The branch that a refspec is for, where it names one: `main`, `HEAD:main`, `+x:refs/heads/main`, `:main`.
fn target(refspec: &str) -> Option<&str> {
    let name = refspec.rsplit(':').next()?.trim_start_matches('+');
    let name = name.strip_prefix("refs/heads/").unwrap_or(name);
    (!name.is_empty() && name != "HEAD" && !name.contains(['$', '*'])).then_some(name)
}

/// The branch that is checked out. The folder is the agent's: what is no plain file there is not waited for.
fn head(root: &Path) -> Option<String> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(root.join(".git/HEAD")).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    file.take(MAX_HEAD).read_to_string(&mut text).ok()?;
    text.trim_end().strip_prefix("ref: refs/heads/").map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::super::notices::ToolCall;
    use super::*;
    use crate::model::Thread;

    fn advice(root: &Path) -> BranchAdvice {
        let protected = Protected::new(["main", "release/*"].map(str::to_owned).to_vec());
        BranchAdvice { branch: "sentrely/ana/fix-9f3a".to_owned(), protected, root: root.to_owned() }
    }

    fn deed(command: &str, head: &str) -> Option<Deed> {
        advice(Path::new("/nonexistent")).deed(command, || Some(head.to_owned()))
    }

    #[test]
    fn a_push_to_a_protected_branch_is_seen_in_its_plain_forms() {
        for command in [
            "git push origin main",
            "git push -u origin HEAD:main",
            "git add -A && git commit -m x && git push origin +HEAD:refs/heads/main",
            "git -C sub -c push.default=simple push --force origin main",
            "cd sub; GIT_SSH_COMMAND=ssh /usr/bin/git push origin :main",
        ] {
            assert_eq!(deed(command, "sentrely/ana/fix-9f3a"), Some(Deed::Push("main".into())), "{command}");
        }
        assert_eq!(deed("git push origin release/1.2", "x"), Some(Deed::Push("release/1.2".into())));
    }

    #[test]
    fn what_only_looks_like_one_is_let_pass() {
        for command in [
            "git push",
            "git push origin HEAD",
            "git push origin HEAD:sentrely/ana/fix-9f3a",
            "git push origin main-menu",
            "git push main feature",
            "echo 'git push origin main'",
            "grep -r 'git push origin main' docs",
            "git log origin/main",
            "git diff main",
            "git merge main",
            "git commit -m 'push to main'",
            "git push origin $BRANCH",
            "git checkout -b fix main && git commit -m x",
            "git checkout main -- file && git commit -m x",
            "git",
            "",
        ] {
            assert_eq!(deed(command, "sentrely/ana/fix-9f3a"), None, "{command}");
        }
    }

    #[test]
    fn a_commit_on_a_protected_branch_is_seen_by_head_and_by_a_switch_before_it() {
        assert_eq!(deed("git commit -am x", "main"), Some(Deed::Commit("main".into())));
        assert_eq!(deed("git switch main && git commit -am x", "sentrely/ana/fix-9f3a"), Some(Deed::Commit("main".into())));
        assert_eq!(deed("git switch other && git commit -am x", "main"), None);
    }

    #[test]
    fn each_thing_is_said_once_and_head_is_read_without_waiting_for_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(".git")).unwrap();
        let head = dir.path().join(".git/HEAD");
        let rule = advice(dir.path()).rule();
        let ask = |command: &str| rule(&ToolCall { name: "Bash".into(), command: Some(command.into()) }, &Thread::Main);
        nix::unistd::mkfifo(&head, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(ask("git commit -am x"), Judgement::Pass, "a pipe is not waited for");
        std::fs::remove_file(&head).unwrap();
        std::fs::write(&head, "ref: refs/heads/main\n").unwrap();
        let Judgement::Advise(words) = ask("git commit -am x") else { panic!("no advice") };
        assert!(words.contains("`main`") && words.contains("git switch sentrely/ana/fix-9f3a"), "{words}");
        assert_eq!(ask("git commit -am x"), Judgement::Pass, "once");
        assert!(matches!(ask("git push origin main"), Judgement::Advise(_)));
    }
}
