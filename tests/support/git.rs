//! Real repositories for the tests: a developer's checkout, a bare origin behind smart HTTP with Basic auth, and an agent's git.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use sentrely::git::{Bring, Checkout, CloneRequest, Gate, GateConfig, GateEvent, GitEnv, Protected, Remote, Workspace, create_clone};
use sentrely::model::SessionId;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::lfs;

pub(crate) const PASSWORD: &str = "hunter2-of-the-developer";
pub(crate) const BRANCH: &str = "sentrely/ada/fix-9f3a12cd";

/// What a git command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) ok: bool,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A private home in a temporary directory, with git's world in it.
pub(crate) struct Lab {
    pub(crate) background: Background,
    directory: tempfile::TempDir,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("sentrely-git-").tempdir().unwrap();
        for name in ["home", "agent-home", "state"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        Self { background: Background::start(), directory }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().canonicalize().unwrap().join(name)
    }

    /// The environment of the developer's git.
    pub(crate) fn env(&self) -> GitEnv {
        GitEnv::from_vars(self.vars("home"))
    }

    fn vars(&self, home: &str) -> Vec<(OsString, OsString)> {
        let mut vars = vec![
            ("HOME".into(), self.path(home).into_os_string()),
            ("GIT_CONFIG_NOSYSTEM".into(), "1".into()),
            ("GIT_TERMINAL_PROMPT".into(), "0".into()),
        ];
        vars.push(("PATH".into(), std::env::var_os("PATH").unwrap()));
        vars
    }

    /// Git as the developer.
    pub(crate) fn git(&self, directory: &Path, args: &[&str]) -> Said {
        self.run("home", directory, "git", args)
    }

    /// Git as the developer; must succeed.
    pub(crate) fn ok(&self, directory: &Path, args: &[&str]) -> String {
        let said = self.git(directory, args);
        assert!(said.ok, "git {args:?}: {}", said.err);
        said.out.trim_end().to_owned()
    }

    /// Git as the agent: another home, no credential.
    pub(crate) fn agent(&self, directory: &Path, args: &[&str]) -> Said {
        self.run("agent-home", directory, "git", args)
    }

    pub(crate) fn agent_ok(&self, directory: &Path, args: &[&str]) -> String {
        let said = self.agent(directory, args);
        assert!(said.ok, "git {args:?}: {}", said.err);
        said.out.trim_end().to_owned()
    }

    /// Any program as the agent.
    pub(crate) fn run(&self, home: &str, directory: &Path, program: &str, args: &[&str]) -> Said {
        let output = Command::new(program)
            .args(args)
            .current_dir(directory)
            .env_clear()
            .envs(self.vars(home))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Said {
            ok: output.status.success(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// A repository with two commits on `main`, one in a subdirectory, and an ignore file.
    pub(crate) fn repository(&self, name: &str, init: &[&str]) -> PathBuf {
        let root = self.path(name);
        fs::create_dir_all(root.join("src")).unwrap();
        self.ok(&root, &[&["init", "--quiet", "-b", "main"][..], init].concat());
        for (key, value) in [("user.name", "Ada Lovelace"), ("user.email", "Ada@example.org")] {
            self.ok(&root, &["config", key, value]);
        }
        fs::write(root.join("README.md"), "hello\n").unwrap();
        fs::write(root.join(".gitignore"), "target/\n*.log\n").unwrap();
        self.ok(&root, &["add", "-A"]);
        self.ok(&root, &["commit", "--quiet", "-m", "first"]);
        fs::write(root.join("src/main.rs"), "fn main() {}\n").unwrap();
        self.ok(&root, &["add", "-A"]);
        self.ok(&root, &["commit", "--quiet", "-m", "second"]);
        root
    }

    /// A repository with a bare origin behind HTTP; the developer's credential lies in a file of the developer's home.
    pub(crate) fn shop(&self) -> (PathBuf, Origin) {
        let root = self.repository("shop", &[]);
        let origin = Origin::start(&self.background.handle, &self.path("srv"), &root, self);
        let credentials = self.path("home").join("credentials");
        fs::write(&credentials, format!("http://ada:{PASSWORD}@127.0.0.1:{}\n", origin.port)).unwrap();
        self.ok(&root, &["config", "--global", "credential.helper", &format!("store --file={}", credentials.display())]);
        self.ok(&root, &["remote", "add", "origin", &origin.url]);
        self.ok(&root, &["push", "--quiet", "-u", "origin", "main"]);
        self.ok(&root, &["tag", "v1"]);
        self.ok(&root, &["push", "--quiet", "origin", "v1"]);
        origin.requests.lock().unwrap().clear();
        (root, origin)
    }

    pub(crate) fn checkout(&self, root: &Path) -> Checkout {
        Checkout::discover_with(root, self.env()).unwrap()
    }

    /// A session's directory.
    pub(crate) fn session_directory(&self) -> PathBuf {
        let directory = self.path("state").join(SessionId::new().to_string());
        fs::create_dir_all(&directory).unwrap();
        directory
    }

    /// A clone of `root` without a gate.
    pub(crate) fn session(&self, root: &Path) -> (Checkout, Workspace) {
        let checkout = self.checkout(root);
        let directory = self.session_directory();
        let request = CloneRequest {
            dir: &directory,
            branch: BRANCH,
            base: None,
            gate_url: None,
            bring: Bring::default(),
            session: SessionId::new(),
        };
        let workspace = create_clone(&checkout, &request).unwrap();
        (checkout, workspace)
    }

    /// A clone of `root` with an open gate.
    pub(crate) fn gated(&self, root: &Path) -> Gated {
        let checkout = self.checkout(root);
        let directory = self.session_directory();
        let (gate, events) = self.gate(&checkout, &directory, "n0nce");
        let request = CloneRequest {
            dir: &directory,
            branch: BRANCH,
            base: None,
            gate_url: Some(gate.url()),
            bring: Bring::default(),
            session: SessionId::new(),
        };
        let workspace = create_clone(&checkout, &request).unwrap();
        self.agent_identity();
        Gated { checkout, workspace, gate, events, directory }
    }

    pub(crate) fn gate(&self, checkout: &Checkout, directory: &Path, nonce: &str) -> (Gate, Arc<Mutex<Vec<GateEvent>>>) {
        let events = Arc::new(Mutex::new(Vec::new()));
        let upstream: Remote = checkout.remote().unwrap();
        let config = GateConfig {
            nonce: nonce.to_owned(),
            quarantine: directory.join("git/quarantine.git"),
            checkout: checkout.clone(),
            upstream,
            allowed_branch: BRANCH.to_owned(),
            protected: Protected::new(vec!["main".to_owned(), "release/*".to_owned()]),
            held: vec![".github/workflows/**".to_owned()],
            keep: None,
            force: false,
            base_commit: checkout.head.commit().map(str::to_owned),
            on_event: {
                let events = events.clone();
                Arc::new(move |event| events.lock().unwrap().push(event))
            },
        };
        let gate = self.background.handle.block_on(async move {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            Gate::start(listener, config).unwrap()
        });
        (gate, events)
    }

    fn agent_identity(&self) {
        fs::write(self.path("agent-home").join(".gitconfig"), "[user]\n\tname = Agent\n\temail = agent@example.org\n").unwrap();
    }
}

/// A session behind a gate.
pub(crate) struct Gated {
    pub(crate) checkout: Checkout,
    pub(crate) workspace: Workspace,
    pub(crate) gate: Gate,
    pub(crate) events: Arc<Mutex<Vec<GateEvent>>>,
    pub(crate) directory: PathBuf,
}

/// A runtime on a thread of its own, so that tests may block.
pub(crate) struct Background {
    pub(crate) handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let _ = runtime.block_on(stopped);
            runtime.shutdown_background();
        });
        Self { handle, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A bare repository served by `git http-backend` to those who know the password.
pub(crate) struct Origin {
    pub(crate) bare: PathBuf,
    pub(crate) url: String,
    pub(crate) port: u16,
    /// Method and path of each request that had the right password.
    pub(crate) requests: Arc<Mutex<Vec<String>>>,
}

impl Origin {
    fn start(runtime: &Handle, directory: &Path, source: &Path, lab: &Lab) -> Self {
        let bare = directory.join("shop.git");
        fs::create_dir_all(&bare).unwrap();
        let format = lab.ok(source, &["rev-parse", "--show-object-format"]);
        lab.ok(&bare, &["init", "--quiet", "--bare", "-b", "main", &format!("--object-format={format}")]);
        lab.ok(&bare, &["config", "http.receivepack", "true"]);
        lab.ok(&bare, &["config", "uploadpack.allowFilter", "true"]);
        let requests = Arc::new(Mutex::new(Vec::new()));
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (root, log) = (directory.to_owned(), requests.clone());
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (root, log) = (root.clone(), log.clone());
                let service = service_fn(move |request| {
                    let (root, log) = (root.clone(), log.clone());
                    async move { Ok::<_, Infallible>(backend(request, root, log).await) }
                });
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { url: format!("http://127.0.0.1:{port}/shop.git"), bare, port, requests }
    }

    pub(crate) fn tip(&self, lab: &Lab, name: &str) -> Option<String> {
        let said = lab.git(&self.bare, &["rev-parse", "--verify", "--quiet", name]);
        said.ok.then(|| said.out.trim().to_owned())
    }

    /// A hook in the origin.
    pub(crate) fn hook(&self, name: &str, script: &str) {
        executable(&self.bare.join("hooks").join(name), script);
    }

    pub(crate) fn pushes(&self) -> usize {
        self.requests.lock().unwrap().iter().filter(|request| request.starts_with("POST") && request.ends_with("git-receive-pack")).count()
    }
}

pub(crate) fn executable(path: &Path, script: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, script).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

async fn backend(request: Request<Incoming>, root: PathBuf, log: Arc<Mutex<Vec<String>>>) -> Response<Full<Bytes>> {
    let expected = format!("Basic {}", BASE64_STANDARD.encode(format!("ada:{PASSWORD}")));
    let header = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let (given, kind, encoding, protocol) =
        (header("authorization"), header("content-type"), header("content-encoding"), header("git-protocol"));
    let (method, uri, host) = (request.method().clone(), request.uri().clone(), header("host"));
    let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    if given != Some(expected) {
        return Response::builder()
            .status(StatusCode::UNAUTHORIZED)
            .header("WWW-Authenticate", "Basic realm=\"git\"")
            .body(Full::default())
            .unwrap();
    }
    log.lock().unwrap().push(format!("{method} {}", uri.path()));
    if let Some(answer) = lfs::answer(&root, &host.unwrap_or_default(), &method, uri.path(), &body) {
        return answer;
    }
    let method = method.to_string();
    let answer = tokio::task::spawn_blocking(move || {
        let mut command = Command::new("git");
        command
            .arg("http-backend")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("HOME", &root);
        command
            .env("GIT_PROJECT_ROOT", &root)
            .env("GIT_HTTP_EXPORT_ALL", "1")
            .env("PATH_INFO", uri.path())
            .env("REMOTE_USER", "ada")
            .env("REMOTE_ADDR", "127.0.0.1");
        command
            .env("REQUEST_METHOD", method)
            .env("QUERY_STRING", uri.query().unwrap_or_default())
            .env("CONTENT_TYPE", kind.unwrap_or_default());
        command
            .env("CONTENT_LENGTH", body.len().to_string())
            .env("HTTP_CONTENT_ENCODING", encoding.unwrap_or_default())
            .env("GIT_PROTOCOL", protocol.unwrap_or_default());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let writer = std::thread::spawn(move || stdin.write_all(&body));
        let output = child.wait_with_output().unwrap();
        let _ = writer.join();
        output.stdout
    });
    let answer = answer.await.unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(answer.len());
    let mut response = Response::builder();
    for line in String::from_utf8_lossy(&answer[..end]).lines() {
        let Some((name, value)) = line.split_once(": ") else { continue };
        response = if name == "Status" { response.status(value[..3].parse::<u16>().unwrap()) } else { response.header(name, value) };
    }
    response.body(Full::from(answer[(end + 4).min(answer.len())..].to_vec())).unwrap()
}

/// Every file under `root` with its content's digest, mode and (of links) target.
pub(crate) fn photograph(root: &Path) -> std::collections::BTreeMap<String, String> {
    use sha2::{Digest, Sha256};
    use std::os::unix::fs::MetadataExt;
    let mut seen = std::collections::BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            let what = if meta.is_dir() {
                todo.push(path.clone());
                "directory".to_owned()
            } else if meta.is_symlink() {
                format!("link to {}", fs::read_link(&path).unwrap().display())
            } else {
                let digest: Vec<String> = Sha256::digest(fs::read(&path).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect();
                digest.concat()
            };
            seen.insert(
                path.strip_prefix(root).unwrap().to_string_lossy().into_owned(),
                format!("{:o} {} {what}", meta.mode(), meta.mtime_nsec() * i64::from(meta.is_file())),
            );
        }
    }
    seen
}
