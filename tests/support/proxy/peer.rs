//! An upstream that answers byte for byte what a test says, plain or behind TLS.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::wire::{headers_of, read_body, read_head};

/// A request as it arrived at the upstream.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// Request line and headers.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    pub(crate) fn line(&self) -> &str {
        self.head.lines().next().unwrap_or("")
    }

    pub(crate) fn headers(&self, name: &str) -> Vec<&str> {
        headers_of(&self.head, name)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers(name).first().copied()
    }
}

/// One step of an upstream's answer.
pub(crate) enum Step {
    /// These bytes, in one write.
    Send(Vec<u8>),
    /// This piece so many times over.
    Repeat(Vec<u8>, usize),
    /// Until the test says so.
    Wait(Arc<Notify>),
    /// Until the other side closes, then tells the test.
    UntilClosed(Arc<Notify>),
    /// Closes the connection.
    Close,
}

pub(crate) fn send(bytes: impl AsRef<[u8]>) -> Step {
    Step::Send(bytes.as_ref().to_vec())
}

type Script = Arc<dyn Fn(&Seen) -> Vec<Step> + Send + Sync>;

/// A server that answers as its script says.
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    accepted: Arc<Mutex<usize>>,
}

impl Peer {
    pub(crate) async fn start(script: impl Fn(&Seen) -> Vec<Step> + Send + Sync + 'static) -> Self {
        Self::start_with(script, |stream| Box::pin(async move { Ok(Box::new(stream) as Box<dyn Io>) })).await
    }

    /// The same behind TLS.
    pub(crate) async fn start_tls(tls: Arc<rustls::ServerConfig>, script: impl Fn(&Seen) -> Vec<Step> + Send + Sync + 'static) -> Self {
        let acceptor = tokio_rustls::TlsAcceptor::from(tls);
        Self::start_with(script, move |stream| {
            let acceptor = acceptor.clone();
            Box::pin(async move { Ok(Box::new(acceptor.accept(stream).await?) as Box<dyn Io>) })
        })
        .await
    }

    async fn start_with(
        script: impl Fn(&Seen) -> Vec<Step> + Send + Sync + 'static,
        wrap: impl Fn(TcpStream) -> Wrapping + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = Self { address: listener.local_addr().unwrap(), seen: Arc::default(), accepted: Arc::default() };
        let (seen, accepted, script): (_, _, Script) = (Arc::clone(&peer.seen), Arc::clone(&peer.accepted), Arc::new(script));
        let wrap = Arc::new(wrap);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                *accepted.lock().unwrap() += 1;
                let (seen, script, wrap) = (Arc::clone(&seen), Arc::clone(&script), Arc::clone(&wrap));
                tokio::spawn(async move {
                    if let Ok(stream) = wrap(stream).await {
                        // A connection that the proxy cuts ends with an error; the test looks at what was seen.
                        let _ = serve(stream, &seen, &script).await;
                    }
                });
            }
        });
        peer
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn connections(&self) -> usize {
        *self.accepted.lock().unwrap()
    }
}

pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

type Wrapping = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>>;

async fn serve(mut stream: Box<dyn Io>, seen: &Mutex<Vec<Seen>>, script: &Script) -> io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let Some(head) = read_head(&mut stream, &mut buffer).await? else { return Ok(()) };
        let mut request = Seen { head, body: Vec::new() };
        // A script may answer before the body was read; it sees the request without it then.
        if request.header("x-test-early").is_none() {
            request.body = read_body(&mut stream, &mut buffer, &request.head, false).await?.0;
        }
        seen.lock().unwrap().push(request.clone());
        for step in script(&request) {
            match step {
                Step::Send(bytes) => stream.write_all(&bytes).await?,
                Step::Repeat(piece, times) => {
                    for _ in 0..times {
                        stream.write_all(&piece).await?;
                    }
                }
                Step::Wait(notify) => notify.notified().await,
                Step::UntilClosed(notify) => {
                    let mut sink = [0; 1024];
                    while stream.read(&mut sink).await.is_ok_and(|count| count > 0) {}
                    notify.notify_one();
                    return Ok(());
                }
                Step::Close => return Ok(()),
            }
        }
    }
}
