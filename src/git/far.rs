//! The tripwire over a network: where protected branches of the remote stand, as it tells the developer's own git.
//!
//! It runs beside everything else, on a thread of its own, and in a time that is given: who is offline waits for nothing. Nobody is asked:
//! ssh asks for no passphrase and for no touch of a key, and the credential manager shows no window. A remote that does not answer then is not
//! watched.

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::cli::Running;
use super::tripwire::ProtectedRefs;
use super::{Checkout, Moved};

/// No listing of branches and tags is longer.
const LONGEST: usize = 16 * 1024 * 1024;
const SSH: &str = "ssh -o BatchMode=yes -o ConnectTimeout=10 -o PubkeyAcceptedKeyTypes=-sk-*";

/// What a remote told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Far {
    /// The remote's name.
    pub remote: String,
    /// It asks nobody who it is that pushes.
    pub open: bool,
    patterns: Vec<String>,
    refs: ProtectedRefs,
}

impl Far {
    /// What has moved between two looks. Tags that are new are everybody's daily work.
    pub fn moved(&self, now: &Self) -> Vec<Moved> {
        let mut moved = self.refs.moved(&now.refs);
        moved.retain(|moved| moved.before.is_some() || !moved.name.starts_with("refs/tags/"));
        moved
    }
}

/// A look that is being made. Dropped, it is broken off.
#[derive(Debug)]
pub struct FarLook {
    running: Running,
    answer: Receiver<Option<Far>>,
}

impl FarLook {
    /// Begins to look at the remote that work goes to, for at most so long.
    pub fn start(checkout: &Checkout, patterns: &[String], patience: Duration) -> Self {
        let (tell, answer) = channel();
        let running = Running::default();
        let (checkout, patterns, cut_by) = (checkout.clone(), patterns.to_vec(), running.clone());
        // If the thread cannot be made there is no answer.
        let _ = std::thread::Builder::new().name("far".to_owned()).spawn(move || {
            // Nobody waits any more: then nobody wants to know.
            let _ = tell.send(look(&checkout, &patterns, patience, &cut_by));
        });
        Self { running, answer }
    }

    /// Begins to look again at what was seen before.
    pub fn again(checkout: &Checkout, before: &Far, patience: Duration) -> Self {
        Self::start(checkout, &before.patterns, patience)
    }

    /// What was seen, if it was seen already.
    pub fn seen(&self) -> Option<Far> {
        self.answer.try_recv().ok().flatten()
    }

    /// Waits for the end of the look.
    pub fn wait(self) -> Option<Far> {
        self.answer.recv().ok().flatten()
    }
}

impl Drop for FarLook {
    fn drop(&mut self) {
        self.running.close();
    }
}

fn look(checkout: &Checkout, patterns: &[String], patience: Duration, running: &Running) -> Option<Far> {
    let remote = checkout.remote()?;
    // Those are looked at without a network.
    if checkout.local_remotes().iter().any(|(name, _)| *name == remote.name) {
        return None;
    }
    let env = |name: &str| checkout.env.get(name).is_some();
    let mut git = checkout.git("look at the remote's branches").within(patience).cut_by(running).env("GCM_INTERACTIVE", "never");
    if !env("GIT_SSH_COMMAND") && !env("GIT_SSH") && checkout.config_text("core.sshcommand").is_none() {
        git = git.env("GIT_SSH_COMMAND", SSH);
    }
    git = git.env("SSH_ASKPASS_REQUIRE", "never").args(["-c", "credential.interactive=false"]);
    let ended = git.args(["ls-remote", "--quiet", "--refs", "--heads", "--tags", "--end-of-options", &remote.name]);
    let ended = ended.run_limited(LONGEST).ok().filter(|ended| ended.success)?;
    let listed = String::from_utf8_lossy(&ended.stdout);
    let refs = listed.lines().filter_map(|line| line.split_once('\t')).map(|(id, name)| (name.to_owned(), id.to_owned()));
    let open = remote.push_target().starts_with("git://");
    Some(Far { open, patterns: patterns.to_vec(), refs: ProtectedRefs::among(refs, patterns), remote: remote.name })
}
