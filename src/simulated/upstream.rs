//! A [`Server`] behind a listener on 127.0.0.1: what tests, benches and the demo hold.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::log::{Record, TimedOut};
use super::script::Script;
use super::service::{Options, ResetHandle, Server};

/// A running simulated upstream. Dropped, it stops listening and drops its connections.
pub struct Upstream {
    server: Server,
    addr: SocketAddr,
    stop: CancellationToken,
    connections: std::sync::Arc<Mutex<CancellationToken>>,
    worker: Worker,
}

enum Worker {
    Task(AbortHandle),
    Thread(Option<JoinHandle<()>>),
}

/// Why a simulated upstream does not start.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The port is taken, or there is no loopback.
    #[error("listen on 127.0.0.1:{port} for the simulated upstream")]
    Listen {
        /// The port that was asked for.
        port: u16,
        /// Why.
        source: std::io::Error,
    },
    /// The log file cannot be opened.
    #[error("open the simulated upstream's log {}", .path.display())]
    Log {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No thread or no runtime.
    #[error("start the simulated upstream's thread")]
    Thread(#[source] std::io::Error),
}

impl Upstream {
    /// Starts on the current tokio runtime.
    pub async fn start(script: impl Into<Script>) -> Result<Self, UpstreamError> {
        Self::start_with(script, Options::default()).await
    }

    /// Starts on the current tokio runtime.
    #[expect(clippy::unused_async, reason = "it needs a runtime around it: being async says so in its type")]
    pub async fn start_with(script: impl Into<Script>, options: Options) -> Result<Self, UpstreamError> {
        let (server, listener, addr) = bind(script.into(), options)?;
        let (stop, connections) = (CancellationToken::new(), std::sync::Arc::default());
        let listener = tokio::net::TcpListener::from_std(listener).map_err(|source| UpstreamError::Listen { port: addr.port(), source })?;
        let task = tokio::spawn(accept(server.clone(), listener, stop.clone(), std::sync::Arc::clone(&connections)));
        Ok(Self { server, addr, stop, connections, worker: Worker::Task(task.abort_handle()) })
    }

    /// Starts on a thread of its own, for callers without a runtime.
    pub fn start_on_thread(script: impl Into<Script>) -> Result<Self, UpstreamError> {
        Self::start_on_thread_with(script, Options::default())
    }

    /// Starts on a thread of its own, for callers without a runtime.
    pub fn start_on_thread_with(script: impl Into<Script>, options: Options) -> Result<Self, UpstreamError> {
        let (server, listener, addr) = bind(script.into(), options)?;
        let (stop, connections) = (CancellationToken::new(), std::sync::Arc::<Mutex<CancellationToken>>::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(UpstreamError::Thread)?;
        let listener = {
            let _guard = runtime.enter();
            tokio::net::TcpListener::from_std(listener).map_err(|source| UpstreamError::Listen { port: addr.port(), source })?
        };
        let accepting = accept(server.clone(), listener, stop.clone(), std::sync::Arc::clone(&connections));
        let thread = std::thread::Builder::new().name("simulated-upstream".into());
        let worker = thread.spawn(move || runtime.block_on(accepting)).map_err(UpstreamError::Thread)?;
        Ok(Self { server, addr, stop, connections, worker: Worker::Thread(Some(worker)) })
    }

    /// What goes into `ANTHROPIC_BASE_URL`: `http://127.0.0.1:PORT`, with [`Options::prefix`].
    pub fn url(&self) -> String {
        format!("http://{}{}", self.addr, self.server.options().prefix)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The server itself: for connections that come another way, over TLS for one.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Replaces the script for the requests to come.
    pub fn set_script(&self, script: impl Into<Script>) {
        self.server.set_script(script);
    }

    /// Closes all connections, idle and busy; new ones are welcome.
    pub fn close_connections(&self) {
        let mut current = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *current).cancel();
    }

    /// Everything seen so far, in order of arrival, exchanges that still run too.
    pub fn requests(&self) -> Vec<Record> {
        self.server.log().records()
    }

    /// The message requests among [`Self::requests`].
    pub fn messages(&self) -> Vec<Record> {
        messages(&self.requests())
    }

    /// Waits until `count` message requests have arrived, and returns the message requests.
    pub async fn wait_for(&self, count: usize, timeout: Duration) -> Result<Vec<Record>, TimedOut> {
        self.wait_until(timeout, |seen| arrived(seen) >= count).await.map(|seen| messages(&seen))
    }

    /// Waits until what was seen is enough; returns all of it.
    pub async fn wait_until(&self, timeout: Duration, enough: impl Fn(&[Record]) -> bool) -> Result<Vec<Record>, TimedOut> {
        self.server.log().wait(timeout, enough).await
    }

    /// [`Self::wait_for`] for callers without a runtime.
    pub fn wait_for_blocking(&self, count: usize, timeout: Duration) -> Result<Vec<Record>, TimedOut> {
        self.wait_until_blocking(timeout, |seen| arrived(seen) >= count).map(|seen| messages(&seen))
    }

    /// [`Self::wait_until`] for callers without a runtime. It blocks: never call it on the runtime the upstream was started on.
    pub fn wait_until_blocking(&self, timeout: Duration, enough: impl Fn(&[Record]) -> bool) -> Result<Vec<Record>, TimedOut> {
        self.server.log().wait_blocking(timeout, enough)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.cancel();
        match &mut self.worker {
            Worker::Task(task) => task.abort(),
            Worker::Thread(thread) => {
                // The thread's panic has been printed; there is nobody to hand it to here.
                let _ = thread.take().map(JoinHandle::join);
            }
        }
    }
}

fn arrived(seen: &[Record]) -> usize {
    seen.iter().filter(|record| record.is_message()).count()
}

fn messages(seen: &[Record]) -> Vec<Record> {
    seen.iter().filter(|record| record.is_message()).cloned().collect()
}

fn bind(script: Script, options: Options) -> Result<(Server, TcpListener, SocketAddr), UpstreamError> {
    let port = options.port;
    let failed = |source| UpstreamError::Listen { port, source };
    let log = options.log_file.clone().unwrap_or_default();
    let server = Server::new(script, options).map_err(|source| UpstreamError::Log { path: log, source })?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let addr = listener.local_addr().map_err(failed)?;
    Ok((server, listener, addr))
}

async fn accept(
    server: Server,
    listener: tokio::net::TcpListener,
    stop: CancellationToken,
    open: std::sync::Arc<Mutex<CancellationToken>>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let closed = open.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let server = server.clone();
                connections.spawn(async move {
                    tokio::select! {
                        () = closed.cancelled() => {}
                        () = serve(&server, stream) => {}
                    }
                });
            }
        }
    }
}

async fn serve(server: &Server, stream: TcpStream) {
    // Without it each event of a paced stream could wait for the last one's acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "could not switch off Nagle's algorithm");
    }
    let reset = ResetHandle::of(&stream).ok();
    server.serve_connection(stream, reset).await;
}
