//! Who is compared, each as a process of its own.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::sys::time::TimeValLike;
use nix::unistd::Pid;
use sentrely::meter::anatomy::Anatomy;
use sentrely::meter::price::PriceTable;
use sentrely::meter::{Booked, Meter, Rules};
use sentrely::model::SessionId;
use sentrely::proxy::{Credential, Proxy, ProxyConfig, ProxyEnv, RefusalStyle, Timeouts, Upstream};
use sentrely::session::anatomist::Anatomist;
use sentrely::store::SessionDir;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use crate::load::{self, Begin, Load};

const NGINX: &str = "/usr/sbin/nginx";
const TOKEN: &str = "bench";

/// A way from the client to the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Contender {
    /// No process between.
    Direct,
    /// Copies bytes.
    Tcp,
    Nginx,
    Sentrely,
    /// Ours, on a path that costs nothing and is not metered.
    SentrelyUnmetered,
    /// Ours, taking every body apart for `show --context`.
    SentrelyLooking,
    /// Ours, to an upstream behind TLS.
    SentrelyTls,
}

/// The upstream's process.
pub(crate) struct Upstreams {
    _child: Running,
    plain: SocketAddr,
    tls_port: u16,
    pem: PathBuf,
    directory: tempfile::TempDir,
}

impl Upstreams {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pem = directory.path().join("upstream.pem");
        let (child, line) = Running::role(&["role-upstream", pem.to_str().unwrap()]);
        let (plain, tls) = line.split_once(' ').unwrap();
        let plain = SocketAddr::from(([127, 0, 0, 1], plain.parse().unwrap()));
        Self { _child: child, plain, tls_port: tls.trim().parse().unwrap(), pem, directory }
    }
}

/// A contender's process.
pub(crate) struct Running {
    child: Option<Child>,
    address: SocketAddr,
}

/// What it took.
pub(crate) struct Used {
    pub(crate) cpu_seconds: f64,
    pub(crate) peak_mb: f64,
}

impl Contender {
    pub(crate) const ALL: [Self; 6] = [Self::Direct, Self::Tcp, Self::Nginx, Self::Sentrely, Self::SentrelyLooking, Self::SentrelyTls];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Tcp => "tcp copy",
            Self::Nginx => "nginx",
            Self::Sentrely => "sentrely",
            Self::SentrelyUnmetered => "meter off",
            Self::SentrelyLooking => "with --context",
            Self::SentrelyTls => "sentrely, TLS",
        }
    }

    pub(crate) fn is_installed(self) -> bool {
        self != Self::Nginx || Path::new(NGINX).exists()
    }

    /// Where requests are posted to.
    pub(crate) fn path(self) -> String {
        match self {
            Self::Direct | Self::Tcp | Self::Nginx => "/v1/messages".to_owned(),
            Self::Sentrely | Self::SentrelyLooking | Self::SentrelyTls => format!("/s/{TOKEN}/v1/messages"),
            Self::SentrelyUnmetered => format!("/s/{TOKEN}/v1/files"),
        }
    }

    pub(crate) fn start(self, upstreams: &Upstreams) -> Running {
        let plain = upstreams.plain.to_string();
        let tls = format!("https://localhost:{}", upstreams.tls_port);
        match self {
            Self::Direct => Running { child: None, address: upstreams.plain },
            Self::Tcp => Running::role(&["role-tcp", &plain]).0,
            Self::Nginx => Running::nginx(&plain, upstreams.directory.path()),
            Self::Sentrely | Self::SentrelyUnmetered => Running::role(&["role-sentrely", &format!("http://{plain}")]).0,
            Self::SentrelyLooking => {
                Running::role(&["role-looking", &format!("http://{plain}"), upstreams.directory.path().to_str().unwrap()]).0
            }
            Self::SentrelyTls => Running::role(&["role-sentrely", &tls, upstreams.pem.to_str().unwrap()]).0,
        }
    }
}

impl Running {
    /// This program again; gives the line it prints first, which begins with its port.
    fn role(words: &[&str]) -> (Self, String) {
        let mut child =
            Command::new(std::env::current_exe().unwrap()).args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.split_whitespace().next().unwrap().parse().unwrap();
        (Self { child: Some(child), address: SocketAddr::from(([127, 0, 0, 1], port)) }, line)
    }

    fn nginx(upstream: &str, directory: &Path) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let shown = directory.display();
        let config = format!(
            "daemon off; master_process off; pid {shown}/nginx.pid; error_log {shown}/error.log; events {{ worker_connections 1024; }}\n\
             http {{ access_log off; client_body_temp_path {shown}/b; proxy_temp_path {shown}/p; client_max_body_size 64m; client_body_buffer_size 2m;\n\
             upstream u {{ server {upstream}; keepalive 64; }} server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://u; proxy_http_version 1.1;\n\
             proxy_set_header Connection \"\"; proxy_buffering off; proxy_request_buffering off; }} }} }}\n"
        );
        let path = directory.join("nginx.conf");
        std::fs::write(&path, config).unwrap();
        let child =
            Command::new(NGINX).arg("-p").arg(directory).arg("-c").arg(&path).stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        while std::net::TcpStream::connect(address).is_err() {
            std::thread::yield_now();
        }
        Self { child: Some(child), address }
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it and says what it took.
    pub(crate) fn stop(mut self) -> Used {
        let Some(mut child) = self.child.take() else { return Used { cpu_seconds: 0.0, peak_mb: 0.0 } };
        let peak_mb = peak_mb(child.id());
        let before = children_seconds();
        end(&mut child);
        Used { cpu_seconds: children_seconds() - before, peak_mb }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            end(child);
        }
    }
}

/// Our own roles end with their input; nginx with a signal.
fn end(child: &mut Child) {
    if child.stdin.take().is_none() {
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
    }
    child.wait().unwrap();
}

/// CPU time of all children that have ended.
fn children_seconds() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    (usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64 / 1e6
}

/// Peak resident memory, where the system tells it of a running process.
fn peak_mb(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok()).map_or(f64::NAN, |kilobytes| kilobytes / 1_024.0)
}

/// Plays the role that the words name; false if they name none.
pub(crate) fn play_role(words: &[String]) -> bool {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match words[..] {
        ["role-upstream", pem] => runtime().block_on(crate::upstream::serve(Path::new(pem))),
        ["role-tcp", upstream] => runtime().block_on(tcp(upstream.parse().unwrap())),
        ["role-sentrely", upstream] => runtime().block_on(sentrely(upstream, None, None)),
        ["role-sentrely", upstream, pem] => runtime().block_on(sentrely(upstream, Some(PathBuf::from(pem)), None)),
        ["role-looking", upstream, directory] => {
            let dir = SessionDir::at(&Path::new(directory).join(SessionId::new().to_string())).unwrap();
            dir.create().unwrap();
            runtime().block_on(sentrely(upstream, None, Some(Anatomist::new(dir))));
        }
        ["anatomy"] => anatomy(&load::request(Load::Megabyte, SocketAddr::from(([127, 0, 0, 1], 1)), "/v1/messages")),
        ["anatomy", body] => anatomy(&std::fs::read(body).unwrap()),
        // For a profiler: `role-load paced 12 127.0.0.1:4711 /s/bench/v1/messages`, with the other roles started by hand.
        ["role-load", load, connections, address, path] | ["role-load", load, connections, address, path, "apart"] => {
            let load = Load::ALL.into_iter().chain([Load::Small, Load::SmallPaced]).find(|known| known.name() == load).unwrap();
            let begin = if words.len() > 5 { Begin::Apart } else { Begin::Together };
            let outcome = load::run_from(begin, load, connections.parse().unwrap(), address.parse().unwrap(), path);
            println!("{} requests, first byte {:.3} ms, event {:.3} ms", outcome.requests, outcome.first_byte_ms, outcome.event_ms);
        }
        _ => return false,
    }
    true
}

async fn listen() -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap().port());
    listener
}

async fn tcp(upstream: SocketAddr) {
    let listener = listen().await;
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            client.set_nodelay(true).unwrap();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(upstream).await.unwrap();
                server.set_nodelay(true).unwrap();
                // Ends with an error when the bench drops a connection.
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    until_stdin_ends().await;
}

async fn sentrely(upstream: &str, extra_ca: Option<PathBuf>, looks: Option<Anatomist>) {
    let rules = Rules { limits: vec!["100000usd".parse().unwrap()], alert_at: vec![50, 80, 100], refuse_unknown_models: false };
    let config = ProxyConfig {
        token: TOKEN.into(),
        upstream: Upstream::new(upstream, extra_ca, ProxyEnv::default()).unwrap(),
        credential: Credential::ApiKey("sk-ant-bench".into()),
        refusal: RefusalStyle::Plain,
        meter: Meter::new(PriceTable::built_in().unwrap(), rules, Booked::default(), Arc::new(|_| {})),
        sentinel: None,
        timeouts: Timeouts::default(),
        body_tap: looks.as_ref().map(Anatomist::tap),
        refuse_compaction: false,
        sink: Arc::new(|_| Ok(())),
    };
    let proxy = Proxy::start(listen().await, config).unwrap();
    until_stdin_ends().await;
    drop(proxy);
}

/// What it takes to take a request apart: `cargo bench --bench proxy -- anatomy`, or with a file that holds a body.
fn anatomy(request: &[u8]) {
    let body = memchr::memmem::find(request, b"\r\n\r\n").map_or(request, |at| &request[at + 4..]);
    let rounds = (200_000_000 / body.len()).max(1);
    let begin = cpu_seconds();
    let parts: usize = (0..rounds).map(|_| std::hint::black_box(Anatomy::of(body)).unwrap().parts.len()).sum();
    let ms = (cpu_seconds() - begin) * 1_000.0 / rounds as f64;
    println!("{} bytes, {} parts: {ms:.3} ms CPU, {:.3} ms a MB", body.len(), parts / rounds, ms * 1e6 / body.len() as f64);
}

fn cpu_seconds() -> f64 {
    let used = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    (used.user_time() + used.system_time()).num_microseconds() as f64 / 1e6
}

pub(crate) async fn until_stdin_ends() {
    let mut stdin =
        tokio::net::unix::pipe::Receiver::from_owned_fd(std::os::fd::AsFd::as_fd(&std::io::stdin()).try_clone_to_owned().unwrap()).unwrap();
    let mut sink = [0; 16];
    while stdin.read(&mut sink).await.is_ok_and(|count| count > 0) {}
}
