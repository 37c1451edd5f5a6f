//! The gate's bare repository, and what git does there. Everything here blocks.
//!
//! `refs/heads/*` and `refs/tags/*` mirror the upstream as last seen. `refs/sentrely/pushed` holds the session branch's commit that the
//! upstream is known to have: if we die between receiving and pushing on, the next start goes back to it.

use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::super::checkout::Target;
use super::super::cli::{CarriedConfig, Git, REMOTE, Running, telling_line};
use super::super::names::{concerns, raw_paths};
use super::super::remote::one_line;
use super::super::{Checkout, GitError, Oddity, Remote, lfs_push, remote, seed};
use super::pkt::{Commands, Report, Update};

const PUSHED: &str = "refs/sentrely/pushed";
/// What was pushed here and waits for a person.
const KEPT: &str = "refs/sentrely/kept";
const LONGEST_ANSWER: usize = 4 * 1024 * 1024;
const MOST_REMARKS: usize = 40;

/// The gate's repository.
pub(super) struct Quarantine {
    pub(super) path: PathBuf,
    pub(super) checkout: Checkout,
    pub(super) upstream: Remote,
    pub(super) branch: String,
    pub(super) held: Vec<String>,
    pub(super) base_commit: Option<String>,
    /// Nothing goes on to the upstream: the words that tell the agent's git who sends it on.
    pub(super) keep: Option<String>,
    /// The session may rewrite its branch.
    pub(super) force: bool,
    pub(super) running: Running,
    /// Whether this gate has made it ready.
    pub(super) prepared: Mutex<bool>,
}

/// The two sides of git's protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    ReceivePack,
    UploadPack,
}

impl Service {
    pub(super) fn command(self) -> &'static str {
        match self {
            Self::ReceivePack => "receive-pack",
            Self::UploadPack => "upload-pack",
        }
    }
}

impl Quarantine {
    /// Makes the repository, or takes up the one of an earlier attempt.
    pub(super) fn prepare(&self) -> Result<(), GitError> {
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        if *prepared {
            return Ok(());
        }
        if !self.path.join("HEAD").is_file() {
            seed::bare_repository(&self.checkout, &self.path)?;
            seed::write_refs(&self.path, &self.refs_as_last_seen()?)?;
        }
        seed::lend_objects(&self.path, &[&self.checkout.common_dir.join("objects")])?;
        self.configure()?;
        self.install_hook()?;
        let kept = if self.keep.is_some() { self.ref_value(KEPT)? } else { None };
        let known = if kept.is_some() { kept } else { self.ref_value(PUSHED)? };
        self.set_branch(known.as_deref())?;
        *prepared = true;
        Ok(())
    }

    /// What a client is told first: the refs and what the server can do.
    pub(super) fn advertise(&self, service: Service, protocol: Option<&str>) -> Result<Vec<u8>, GitError> {
        let git = self.git(format!("list refs for {}", service.command())).env("GIT_PROTOCOL", protocol.unwrap_or_default());
        git.args([service.command(), "--stateless-rpc", "--advertise-refs"]).args([&self.path]).output()
    }

    /// Brings heads and tags up to date from the upstream, by the developer's git.
    pub(super) fn fetch(&self) -> Result<(), GitError> {
        let doing = format!("fetch from {}", self.upstream.name);
        let url = remote::absolute(&self.upstream.url, &self.checkout.root);
        let git = self.with_credentials(&doing)?.args([
            "fetch",
            "--quiet",
            "--prune",
            "--force",
            "--no-tags",
            "--no-write-fetch-head",
            "--no-recurse-submodules",
        ]);
        let ended = git.args(["--end-of-options", &url, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]).within(REMOTE).run()?;
        if ended.success {
            let there = self.ref_value(&format!("refs/heads/{}", self.branch))?;
            self.set_ref(PUSHED, there.as_deref())?;
            return match self.ref_value(KEPT)?.filter(|_| self.keep.is_some()) {
                Some(kept) => self.set_branch(Some(&kept)), // not the upstream's to take away
                None => Ok(()),
            };
        }
        Err(GitError::Git { doing, said: self.upstream.redact(&telling_line(&ended.stderr)) })
    }

    /// Serves the rest of a fetch from what is here.
    pub(super) fn upload(&self, request: File, protocol: Option<&str>, sink: impl FnMut(&[u8]) -> io::Result<()>) -> Result<(), GitError> {
        // Of a partial clone what is missing is fetched when it is asked for, by the developer's git; upload-pack does so only if told to.
        let git =
            if self.promisor() { self.with_credentials("serve a fetch")?.env("GIT_NO_LAZY_FETCH", "0") } else { self.git("serve a fetch") };
        let git = git.env("GIT_PROTOCOL", protocol.unwrap_or_default()).stdin(request).within(REMOTE);
        let ended = git.args(["upload-pack", "--stateless-rpc"]).args([&self.path]).stream(sink)?;
        // 128 is git's answer to a client that hangs up or asks for what is not there; the client has been told.
        if ended.success || ended.code == Some(128) {
            Ok(())
        } else {
            Err(GitError::Git { doing: "serve a fetch".to_owned(), said: telling_line(&ended.stderr) })
        }
    }

    /// Receives a push that the rules let through, and pushes it on. The report says what the *upstream* made of it.
    pub(super) fn push(&self, request: File, asked: &Commands, update: &Update) -> Result<Report, GitError> {
        let before = self.ref_value(&update.name)?;
        let git = self.git("receive a push").stdin(request).within(REMOTE);
        let ended = git.args(["receive-pack", "--stateless-rpc"]).args([&self.path]).run_limited(LONGEST_ANSWER)?;
        let received = Report::decode(&ended.stdout, asked).unwrap_or_default();
        let accepted = self.ref_value(&update.name)?.as_deref() == Some(&update.new);
        if !accepted {
            let reason = received.refs.iter().find_map(|(_, refused)| refused.clone());
            let reason = reason.unwrap_or_else(|| telling_line(&ended.stderr));
            return Ok(Report { refs: vec![(update.name.clone(), Some(explain(&reason)))], remarks: received.remarks });
        }
        if let Some(who) = &self.keep {
            self.set_ref(KEPT, Some(&update.new))?;
            let here = format!("sentrely: kept on this machine; nothing was sent to {}", self.upstream.name);
            return Ok(Report { refs: vec![(update.name.clone(), None)], remarks: vec![here, who.clone()] });
        }
        let held = self.held_paths(&update.new);
        if !held.as_ref().is_ok_and(Vec::is_empty) {
            self.set_branch(before.as_deref())?;
        }
        if let Some(path) = held?.first() {
            let reason = format!("sentrely: held for a person to look at: it changes {}", one_line(path));
            let remarks = vec!["sentrely: commit as usual; at the end a person sends it on with `sentrely pr --held`".to_owned()];
            return Ok(Report { refs: vec![(update.name.clone(), Some(reason))], remarks });
        }
        let report = self.push_on(update);
        let done = report.as_ref().is_ok_and(|report| report.refs.iter().all(|(_, refused)| refused.is_none()));
        if done {
            self.set_ref(PUSHED, Some(&update.new))?;
        } else {
            self.set_branch(before.as_deref())?;
        }
        report
    }

    /// Held paths that the session's own commits touch; what merged branches of the upstream bring along is not the session's.
    fn held_paths(&self, new: &str) -> Result<Vec<String>, GitError> {
        if self.held.is_empty() {
            return Ok(Vec::new());
        }
        // --cc: of a merge, what differs from all its parents.
        let git = self.git("look at what a push changes").args(["log", "--cc", "--raw", "--no-renames", "--format=", "-z"]);
        let git = git.args(["--no-show-signature", new, "--not"]).args(&self.base_commit);
        let listed = git.args([format!("--exclude={}", self.branch), "--branches".to_owned(), "--".to_owned()]).output()?;
        let listed = String::from_utf8_lossy(&listed);
        let held = |(path, leads): &(&str, bool)| self.held.iter().any(|pattern| concerns(pattern, path, *leads));
        let mut paths: Vec<String> = raw_paths(&listed, |_| ()).into_iter().filter(held).map(|(path, _)| path.to_owned()).collect();
        paths.dedup();
        Ok(paths)
    }

    fn push_on(&self, update: &Update) -> Result<Report, GitError> {
        let doing = format!("push to {}", self.upstream.name);
        let url = remote::absolute(self.upstream.push_url.as_ref().unwrap_or(&self.upstream.url), &self.checkout.root);
        let refspec = format!("{}:{}", update.new, update.name);
        if let Err(error) = self.push_lfs(update) {
            let reason = format!("sentrely: {error}");
            let remarks = error.hint().map(|hint| format!("sentrely: {hint}")).into_iter().collect();
            return Ok(Report { refs: vec![(update.name.clone(), Some(reason))], remarks });
        }
        // --no-verify: the agent's git has run the project's pre-push hook; here is no work tree for it.
        let git =
            self.with_credentials(&doing)?.args(["push", "--porcelain", "--no-verify", "--no-follow-tags", "--recurse-submodules=no"]);
        // Only over what is known to be the session's own.
        let lease = format!("--force-with-lease={}:{}", update.name, self.ref_value(PUSHED)?.unwrap_or_default());
        let git = if self.force { git.args([lease]) } else { git };
        let ended = git.args(["--end-of-options", &url, &refspec]).within(REMOTE).run_limited(LONGEST_ANSWER)?;
        let said = ended
            .stderr
            .lines()
            .filter_map(|line| line.strip_prefix("remote: "))
            .map(|line| self.upstream.redact(line))
            .filter(|line| !line.is_empty());
        let mut remarks: Vec<String> = said.take(MOST_REMARKS).collect();
        if ended.success {
            return Ok(Report { refs: vec![(update.name.clone(), None)], remarks });
        }
        let listed = String::from_utf8_lossy(&ended.stdout).into_owned();
        let verdict = listed.lines().find_map(|line| line.strip_prefix("!\t")).and_then(|line| line.rsplit('\t').next());
        let reason = self.upstream.redact(verdict.unwrap_or(&telling_line(&ended.stderr)));
        if verdict.is_none() {
            remarks.push(format!("sentrely: could not push to {} with the developer's git", self.upstream.name));
        }
        Ok(Report { refs: vec![(update.name.clone(), Some(format!("{} refused: {reason}", self.upstream.name)))], remarks })
    }

    /// The content of the pointers in a push goes to the upstream's LFS server first.
    fn push_lfs(&self, update: &Update) -> Result<(), GitError> {
        let mut known: Vec<String> = self.base_commit.iter().cloned().collect();
        known.extend(self.ref_value(PUSHED)?);
        known.extend([format!("--exclude={}", self.branch), "--branches".to_owned()]);
        let pointers = lfs_push::pointers(|| self.git("look for files of git-lfs"), &update.new, &known)?;
        if pointers.is_empty() {
            return Ok(());
        }
        self.hand_over_lfs(&pointers)?;
        lfs_push::upload(&self.checkout, &self.upstream, &pointers, &self.running)
    }

    /// A git command in the quarantine that reaches the upstream as it would from the developer's checkout.
    fn with_credentials(&self, doing: &str) -> Result<Git<'_>, GitError> {
        let carried = CarriedConfig::read(&self.checkout.env, &self.checkout.root)?;
        // From the checkout's root, because relative URLs and helper paths are meant from there.
        let git =
            Git::new(doing, &self.checkout.env, &self.checkout.root).env("GIT_DIR", &self.path).cut_by(&self.running).config(&carried);
        Ok(git.args(["-c", "gc.auto=0", "-c", "maintenance.auto=false", "-c", "push.gpgSign=false"]))
    }

    fn git(&self, doing: impl Into<String>) -> Git<'_> {
        Git::new(doing, &self.checkout.env, &self.path).env("GIT_DIR", &self.path).cut_by(&self.running)
    }

    fn ref_value(&self, name: &str) -> Result<Option<String>, GitError> {
        let ended = self.git("look at the quarantine").args(["rev-parse", "--verify", "--quiet", name]).run()?;
        Ok(ended.success.then(|| String::from_utf8_lossy(&ended.stdout).trim().to_owned()))
    }

    fn set_branch(&self, value: Option<&str>) -> Result<(), GitError> {
        self.set_ref(&format!("refs/heads/{}", self.branch), value)
    }

    fn set_ref(&self, name: &str, value: Option<&str>) -> Result<(), GitError> {
        let git = self.git(format!("set {name} in the quarantine")).args(["update-ref"]);
        value
            .map_or_else(|| vec!["-d", name], |value| vec![name, value])
            .into_iter()
            .fold(git, |git, arg| git.args([arg]))
            .output()
            .map(drop)
    }

    /// The upstream's branches and tags as the developer's repository last saw them: no need to ask before a push.
    fn refs_as_last_seen(&self) -> Result<Vec<(String, Target)>, GitError> {
        let tracking = format!("refs/remotes/{}/", self.upstream.name);
        let renamed = |(name, target): (String, Target)| {
            let Target::Id(_) = target else { return None };
            match name.strip_prefix(&tracking) {
                Some(branch) if branch != "HEAD" => Some((format!("refs/heads/{branch}"), target)),
                _ => name.starts_with("refs/tags/").then_some((name, target)),
            }
        };
        Ok(self.checkout.refs()?.into_iter().filter_map(renamed).collect())
    }

    fn configure(&self) -> Result<(), GitError> {
        let file = self.path.join("config");
        let mut config = seed::open_config(&file)?;
        let hooks = self.path.join("hooks").to_string_lossy().into_owned();
        let settings = [
            ("core.hooksPath", hooks.as_str()), // a global core.hooksPath must not take the barrier away
            ("receive.denyDeletes", "true"),
            ("receive.denyNonFastForwards", if self.force { "false" } else { "true" }),
            ("receive.autogc", "false"),
            ("gc.auto", "0"),
            ("maintenance.auto", "false"),
            ("transfer.hideRefs", "refs/sentrely"),
            ("uploadpack.allowFilter", "true"),
        ];
        for (key, value) in settings {
            config.set_str(key, value).map_err(GitError::library(format!("set {key} in {}", file.display())))?;
        }
        if self.promisor() {
            seed::promise(&file, "upstream", &remote::absolute(&self.upstream.url, &self.checkout.root))?;
        }
        Ok(())
    }

    /// Whether the upstream has objects that nobody here has.
    fn promisor(&self) -> bool {
        self.checkout.oddities.contains(&Oddity::Partial)
    }

    /// The barrier that does not depend on our reading of the protocol.
    fn install_hook(&self) -> Result<(), GitError> {
        let path = self.path.join("hooks/pre-receive");
        let allowed = format!("refs/heads/{}", self.branch).replace('\'', "'\\''");
        seed::write(&path, HOOK.replace("@ALLOWED@", &allowed).as_bytes())?;
        fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).map_err(GitError::io("make executable", &path))
    }

    pub(super) fn spool_directory(&self) -> &Path {
        &self.path
    }
}

const HOOK: &str = r#"#!/bin/sh
# Written by sentrely. Only the session's branch passes, whatever asks.
allowed='@ALLOWED@'
count=0
while read -r old new ref; do
  count=$((count + 1))
  case "$new" in
    *[!0]*) ;;
    *) echo "sentrely: a session deletes nothing" >&2; exit 1 ;;
  esac
  if [ "$ref" != "$allowed" ]; then
    echo "sentrely: only $allowed may be pushed, not $ref" >&2
    exit 1
  fi
done
[ "$count" -eq 1 ]
"#;

/// What git's own words mean here.
fn explain(reason: &str) -> String {
    match reason {
        "non-fast-forward" => "sentrely: not a fast-forward; a session does not rewrite what it pushed. Add a commit instead".to_owned(),
        other => one_line(other),
    }
}
