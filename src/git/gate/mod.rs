//! The push gate: the clone's only remote, a smart-HTTP server on the loopback.
//!
//! # How it works
//!
//! The agent's git speaks to the gate as to any server; it has no credential and does not know the real URL. What it pushes is
//! received by `git receive-pack` into a bare repository of the supervisor's (the quarantine), and from there the developer's own git
//! pushes it upstream, with the developer's helpers, ssh agent and keys. What it fetches, the developer's git fetched first.
//!
//! # What it promises
//!
//! One ref may be pushed: the session's branch, by its full name, forwards only. A push that contains anything else, or anything not
//! understood, is refused as a whole before git sees it, and once more by git's own `pre-receive` hook in the quarantine. Commits that change
//! a held path (what CI would run, say) wait for a person, or, where that is asked for, all that is pushed does. The agent's
//! git is told `ok` only after the upstream said so; files of git-lfs go up before it. After [`Gate::close`] nothing passes any more and running git is cut.

mod http;
mod lfs;
mod pkt;
mod quarantine;
mod rules;
mod spool;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::cli::Running;
use super::{Checkout, Protected, Remote};
use http::Server;
use quarantine::Quarantine;
use rules::Rules;

/// What a gate needs to know.
pub struct GateConfig {
    /// The secret part of the URL's path; URL-safe characters.
    pub nonce: String,
    /// Where the gate keeps its bare repository: outside the clone, out of the agent's reach. Made on first use, kept for a resume.
    pub quarantine: PathBuf,
    /// The developer's checkout: its objects, its git configuration, and the environment its git runs in.
    pub checkout: Checkout,
    /// The real remote.
    pub upstream: Remote,
    /// The one branch that may be pushed, without `refs/heads/`.
    pub allowed_branch: String,
    /// Protected branches, for the words of a refusal: everything but the allowed branch is refused anyway.
    pub protected: Protected,
    /// Patterns of paths: a push that changes one of them waits for a person.
    pub held: Vec<String>,
    /// Nothing goes on to the upstream, a person sends it later: the words for the agent's git that say so.
    pub keep: Option<String>,
    /// Whether the session may rewrite its own branch.
    pub force: bool,
    /// The commit that the session started from; what leads to it is not the session's.
    pub base_commit: Option<String>,
    /// Called for everything that happened; from any thread, must not block.
    pub on_event: Arc<dyn Fn(GateEvent) + Send + Sync>,
}

/// What happened at the gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GateEvent {
    /// The upstream has it.
    PushAccepted {
        /// Without `refs/heads/`.
        branch: String,
        /// Full hex id.
        commit: String,
    },
    /// It waits here for a person; the upstream knows nothing of it.
    PushKept {
        /// Without `refs/heads/`.
        branch: String,
        /// Full hex id.
        commit: String,
    },
    /// Nothing of this push reached the upstream.
    PushRefused {
        /// Full names of the refs that were asked for; empty where the request was not understood.
        refs: Vec<String>,
        /// Why, in one line.
        reason: String,
    },
    /// The quarantine was brought up to date from the upstream, for a fetch.
    Fetched,
}

/// An open gate; closed when dropped.
pub struct Gate {
    url: String,
    running: Running,
    closing: CancellationToken,
    serving: JoinHandle<()>,
}

impl Gate {
    /// Opens the gate on `listener`, which must be bound to the loopback. Must be called within a tokio runtime.
    pub fn start(listener: TcpListener, config: GateConfig) -> std::io::Result<Self> {
        let address: SocketAddr = listener.local_addr()?;
        if !address.ip().is_loopback() {
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, format!("open a gate on {address}: not a loopback address")));
        }
        let url = Self::url_for(address, &config.nonce);
        let running = Running::default();
        let closing = CancellationToken::new();
        let server = Server {
            nonce: config.nonce,
            rules: Rules { allowed_branch: config.allowed_branch.clone(), protected: config.protected },
            quarantine: Quarantine {
                path: config.quarantine,
                checkout: config.checkout,
                upstream: config.upstream,
                branch: config.allowed_branch,
                held: config.held,
                base_commit: config.base_commit,
                keep: config.keep,
                force: config.force,
                running: running.clone(),
                prepared: std::sync::Mutex::new(false),
            },
            on_event: config.on_event,
            turn: tokio::sync::Mutex::new(()),
        };
        let serving = tokio::spawn(http::serve(listener, Arc::new(server), closing.clone()));
        Ok(Self { url, running, closing, serving })
    }

    /// What [`Gate::url`] will be for a gate on `address`: a clone is made before its gate opens.
    pub fn url_for(address: SocketAddr, nonce: &str) -> String {
        format!("http://{address}/{nonce}/{}", http::REPOSITORY)
    }

    /// The URL for the clone's remote. It holds the nonce: good for this session only, dead once the gate is closed.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Refuses everything from now on, cuts open connections and kills running git. Returns at once.
    pub fn close(&self) {
        self.closing.cancel();
        self.running.close();
    }

    /// Closes the gate and waits until no connection is left.
    pub async fn closed(mut self) {
        self.close();
        let _ = (&mut self.serving).await; // ends with the token; an abort is as good
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.close();
    }
}
