//! The session's own place: its directory with the lock, its working copy, the gate in front of its remote.

use std::fs;
use std::io::IsTerminal;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{JoinHandle, spawn_blocking};
use uuid::Uuid;

use super::chronicle::Chronicle;
use super::environment::text;
use super::familiar::Links;
use super::lifecycle::Input;
use super::notices::Notices;
use super::prepare::Prepared;
use super::report::{Report, Reporter};
use super::saving::Saver;
use super::{RunError, hinted, protection, same_path, sources};
use crate::config::Push;
use crate::git::{self, Bring, Checkout, CloneRequest, FarLook, Gate, GateConfig, GateEvent, Protected, Tripwire, WorkspaceKind};
use crate::model::{Event, Record, Workspace};
use crate::process::GuardianLink;
use crate::store::{SessionDir, SessionLock, replace};
use crate::wall::Layer;

/// A remote over a network has so long to tell where its branches stand.
const FAR: Duration = Duration::from_secs(20);

/// The made place. Dropping it frees the lock.
pub(super) struct Workplace {
    pub(super) dir: SessionDir,
    /// Held for the session's life; the guardian holds it too.
    #[expect(dead_code, reason = "held, not read")]
    pub(super) lock: SessionLock,
    pub(super) chronicle: Chronicle,
    /// What the journal held before this attempt.
    pub(super) earlier: Vec<Record>,
    /// Where the child starts.
    pub(super) cwd: PathBuf,
    /// The working copy with a branch of its own, if there is one.
    pub(super) copy: Option<git::Workspace>,
    pub(super) gate: Option<Gate>,
    /// Whether the gate holds a push back for a person.
    pub(super) kept: Arc<AtomicBool>,
    /// Branches that the session may not change.
    pub(super) protected: Protected,
    /// Where such branches stood before the command.
    pub(super) tripwire: Option<Tripwire>,
    /// The look at such branches of a remote over a network, which is made beside the start.
    pub(super) far: Option<FarLook>,
    pub(super) notices: Vec<String>,
    /// What is to be said inside Claude Code.
    pub(super) inside: Notices,
    /// Where what the command does to the home directory lies, once it runs.
    pub(super) layer: Option<Layer>,
    /// What leads Claude Code to the checkout's conversations, once it runs.
    pub(super) links: Links,
    pub(super) saver: Saver,
    /// The sources of inputs that run already.
    pub(super) tasks: Vec<JoinHandle<()>>,
    pub(super) inputs: UnboundedSender<Input>,
    pub(super) inputs_received: UnboundedReceiver<Input>,
}

/// `meta.json`: what a later attempt must know and the journal does not say.
#[derive(Serialize, Deserialize)]
struct Meta {
    schema_version: u32,
    copy: Option<git::Workspace>,
}

/// Makes the place, or for a resumed session finds it again. If it fails for a new session, nothing is left of it.
pub(super) async fn set_up(prepared: &Prepared, guardian: &Arc<GuardianLink>, reporter: &Reporter) -> Result<Workplace, RunError> {
    let dir = prepared.dir();
    let fresh = prepared.earlier.is_none();
    if fresh {
        dir.create().map_err(|error| failed(error, "make the session's directory", &dir))?;
    }
    let mut copy = None;
    let made = set_up_in(prepared, &dir, guardian, reporter, &mut copy).await;
    if made.is_err() && fresh {
        undo(prepared.checkout.clone(), copy, reporter).await;
        let _ = fs::remove_dir_all(dir.path());
    }
    made
}

async fn set_up_in(
    prepared: &Prepared,
    dir: &SessionDir,
    guardian: &Arc<GuardianLink>,
    reporter: &Reporter,
    made: &mut Option<git::Workspace>,
) -> Result<Workplace, RunError> {
    let lock = SessionLock::take(&dir.lock_file())
        .map_err(|error| failed(error, "lock the session", dir))?
        .ok_or_else(|| RunError::words(format!("resume session {}: it is running", prepared.id.short()), None))?;
    // What killed the attempt before must not kill this one.
    match fs::remove_file(dir.kill_file()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error, "remove the old kill file", dir)),
        _ => {}
    }
    log_to(dir, text(&prepared.request.env, "SENTRELY_LOG"));
    let (inputs, inputs_received) = unbounded_channel();
    // From the announcement on our death counts as a crash: signals and kill files are listened to before it.
    let mut tasks = sources::signals(guardian, &inputs).map_err(|error| RunError::io(error, "listen for signals"))?;
    tasks.push(sources::kill_file(dir.path(), Arc::clone(guardian), inputs.clone()).map_err(|error| RunError::new(error, None))?);
    tasks.push(sources::guardian(Arc::clone(guardian), inputs.clone()));
    guardian.session(dir.path(), lock.file()).map_err(|error| RunError::new(error, None))?;
    let mut notices = Vec::new();
    let listener = if needs_gate(prepared) {
        Some(TcpListener::bind(("127.0.0.1", 0)).await.map_err(|error| failed(error, "open the push gate", dir))?)
    } else {
        None
    };
    let gate_secret = Uuid::new_v4().simple().to_string();
    let copy = make_copy(prepared, dir, listener.as_ref().map(|l| (l, gate_secret.as_str())), reporter).await?;
    made.clone_from(&copy);
    let cwd = match (&copy, &prepared.checkout) {
        (Some(copy), Some(checkout)) if prepared.workspace() == Workspace::SamePath => same_path::seen(checkout, copy),
        (Some(copy), _) => copy.cwd.clone(),
        (None, _) => prepared.request.cwd.clone(),
    };
    if let Some(copy) = &copy {
        notices.extend(copy.notices.iter().cloned());
    }
    let first = prepared.earlier.is_none().then(|| created(prepared, copy.as_ref(), &cwd));
    let (chronicle, earlier) =
        Chronicle::open(dir.clone(), first, inputs.clone()).map_err(|error| RunError::new(error, Some("free some disk space?".into())))?;
    let meta = Meta { schema_version: 1, copy: copy.clone() };
    let meta = serde_json::to_vec(&meta).map_err(|error| RunError::new(error, None))?;
    replace(&dir.path().join("meta.json"), &meta).map_err(|error| failed(error, "write the session's meta.json", dir))?;
    let kept = Arc::new(AtomicBool::new(false));
    let (protected, asking) = protection::of(prepared);
    tasks.extend(asking);
    let tripwire = set_tripwire(prepared, &protected).await;
    let watched = prepared.checkout.as_ref().filter(|_| prepared.request.config.git.watch_remote);
    let far = watched.map(|checkout| FarLook::start(checkout, &protected.patterns(), FAR));
    let gate = match (listener, &prepared.checkout, &copy) {
        (Some(listener), Some(checkout), Some(copy)) => {
            Some(start_gate(prepared, dir, (listener, gate_secret), checkout, copy, chronicle.clone(), (protected.clone(), &kept))?)
        }
        _ => None,
    };
    Ok(Workplace {
        dir: dir.clone(),
        lock,
        chronicle,
        earlier,
        cwd,
        copy,
        gate,
        kept,
        protected,
        tripwire,
        far,
        notices,
        inside: Notices::default(),
        layer: None,
        links: Links::default(),
        saver: Saver::default(),
        tasks,
        inputs,
        inputs_received,
    })
}

/// A session that never ran leaves the developer's own checkout where it was; a clone goes with its directory.
pub(super) async fn undo(checkout: Option<Checkout>, copy: Option<git::Workspace>, reporter: &Reporter) {
    let (Some(checkout), Some(copy)) = (checkout, copy.filter(|copy| copy.kind == WorkspaceKind::InPlace)) else { return };
    let root = checkout.root.display().to_string();
    let branch = copy.branch.clone();
    let what = match spawn_blocking(move || git::undo_in_place(&checkout, &copy)).await {
        Ok(Ok(true)) => return,
        Ok(Ok(false)) => format!("{root} was left as it is: it is no longer where the session had put it"),
        Ok(Err(error)) => format!("{root} is still on {branch}: {:#}", anyhow::Error::new(error)),
        Err(error) => format!("{root} is still on {branch}: {error}"),
    };
    reporter(Report::Alarm(what));
}

/// `SENTRELY_LOG=debug`: what the parts have to say goes to the session's debug.log. It holds no bodies and no secrets.
fn log_to(dir: &SessionDir, filter: Option<&str>) {
    let Some(filter) = filter else { return };
    let options = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(dir.path().join("debug.log"));
    if let Ok(file) = options {
        let filter = tracing_subscriber::EnvFilter::new(filter);
        // A second session in one process (a test) goes on with the first one's log.
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::sync::Mutex::new(file)).try_init();
    }
}

fn failed(error: std::io::Error, what: &str, dir: &SessionDir) -> RunError {
    let hint = (error.kind() == std::io::ErrorKind::StorageFull).then(|| "free some disk space".to_owned());
    RunError::new(anyhow::Error::new(error).context(format!("{what} {}", dir.path().display())), hint)
}

/// Only a clone gets a gate: in place, the checkout's own remotes stay as they are, and the banner says so.
fn needs_gate(prepared: &Prepared) -> bool {
    matches!(prepared.workspace(), Workspace::Clone | Workspace::SamePath)
        && prepared.checkout.as_ref().is_some_and(|checkout| checkout.remote().is_some())
}

/// Needs no network; a look that fails is none.
async fn set_tripwire(prepared: &Prepared, protected: &Protected) -> Option<Tripwire> {
    let (checkout, patterns) = (prepared.checkout.clone()?, protected.patterns());
    spawn_blocking(move || Tripwire::set(&checkout, patterns)).await.ok()
}

async fn make_copy(
    prepared: &Prepared,
    dir: &SessionDir,
    gate: Option<(&TcpListener, &str)>,
    reporter: &Reporter,
) -> Result<Option<git::Workspace>, RunError> {
    let Some(checkout) = prepared.checkout.clone() else { return Ok(None) };
    let gate_url = match gate {
        Some((listener, secret)) => {
            let address = listener.local_addr().map_err(|error| failed(error, "open the push gate", dir))?;
            Some(Gate::url_for(address, secret))
        }
        None => None,
    };
    let branch = match prepared.earlier.as_ref().and_then(|view| view.branch.clone()) {
        Some(branch) => branch,
        None => git::branch_name(&prepared.developer.name, &prepared.slug(), &prepared.id.short()),
    };
    let base = prepared.request.config.git.base.clone();
    let (include, never) = (prepared.request.config.git.include.clone(), prepared.wall.hidden.clone());
    // Where nobody sits at it (CI), what is not committed is nobody's work.
    let uncommitted = std::io::stdin().is_terminal() || std::io::stderr().is_terminal();
    let (path, session, workspace, resumed) = (dir.path().to_owned(), prepared.id, prepared.workspace(), prepared.earlier.is_some());
    reporter(Report::Step("making the working copy".to_owned()));
    let made = spawn_blocking(move || {
        let bring = Bring { uncommitted, include: &include, never: &never, laid_over: workspace == Workspace::SamePath };
        let request = CloneRequest { dir: &path, branch: &branch, base: base.as_deref(), gate_url: gate_url.as_deref(), bring, session };
        match (workspace, resumed.then(|| read_meta(&path)).flatten()) {
            (Workspace::None, _) => Ok(None),
            (Workspace::Clone, Some(earlier)) => git::reopen(&checkout, &request, &earlier).map(Some),
            (Workspace::Clone, None) => git::create_clone(&checkout, &request).map(Some),
            (Workspace::SamePath, earlier) => {
                let made = match earlier {
                    Some(earlier) => git::reopen(&checkout, &request, &earlier),
                    None => git::create_clone(&checkout, &request),
                };
                made.and_then(|copy| same_path::prepare(&checkout, copy, &path)).map(Some)
            }
            (Workspace::InPlace, Some(earlier)) => Ok(Some(earlier)),
            (Workspace::InPlace, None) => git::in_place(&checkout, &path, &branch, base.as_deref(), session).map(Some),
        }
    })
    .await
    .map_err(|error| RunError::new(error, None))?
    .map_err(|error| hinted!(error));
    reporter(Report::StepDone);
    if let Some(copy) = made.as_ref().ok().and_then(Option::as_ref).filter(|_| workspace == Workspace::SamePath) {
        same_path::cover_git(copy)?;
    }
    made
}

fn read_meta(dir: &std::path::Path) -> Option<git::Workspace> {
    serde_json::from_slice::<Meta>(&fs::read(dir.join("meta.json")).ok()?).ok()?.copy
}

fn created(prepared: &Prepared, copy: Option<&git::Workspace>, cwd: &std::path::Path) -> Event {
    Event::SessionCreated {
        id: prepared.id,
        developer: prepared.developer.name.clone(),
        developer_source: prepared.developer.source,
        project: prepared.project.clone(),
        workspace: prepared.workspace(),
        directory: cwd.display().to_string(),
        checkout: prepared.checkout.as_ref().map(|checkout| checkout.root.display().to_string()),
        branch: copy.map(|copy| copy.branch.clone()),
        base: copy.map(|copy| copy.base.clone()),
        base_commit: copy.and_then(|copy| copy.base_commit.clone()),
    }
}

/// Where a person sits at the terminal, nothing leaves the machine unasked.
fn holds_pushes(prepared: &Prepared) -> bool {
    let in_ci = text(&prepared.request.env, "CI").is_some_and(|value| value != "false");
    match prepared.request.config.git.push {
        Push::Hold => true,
        Push::Direct => false,
        Push::Auto => std::io::stdin().is_terminal() && std::io::stdout().is_terminal() && !in_ci,
    }
}

fn start_gate(
    prepared: &Prepared,
    dir: &SessionDir,
    (listener, secret): (TcpListener, String),
    checkout: &Checkout,
    copy: &git::Workspace,
    chronicle: Chronicle,
    (protected, kept): (Protected, &Arc<AtomicBool>),
) -> Result<Gate, RunError> {
    let remote = checkout.remote().ok_or_else(|| RunError::words("find the checkout's remote again", None))?;
    let kept = Arc::clone(kept);
    let on_event = move |event: GateEvent| {
        let event = match event {
            GateEvent::PushAccepted { branch, commit } => Event::PushAccepted { branch, commit },
            GateEvent::PushKept { branch, commit } => {
                kept.store(true, Ordering::Relaxed);
                Event::PushKept { branch, commit }
            }
            GateEvent::PushRefused { refs, reason } => Event::PushRefused { refs, why: reason },
            GateEvent::Fetched => return,
        };
        // A lost journal has told the session already.
        let _ = chronicle.record(event);
    };
    let config = GateConfig {
        nonce: secret,
        quarantine: dir.path().join("gate.git"),
        checkout: checkout.clone(),
        upstream: remote,
        allowed_branch: copy.branch.clone(),
        protected,
        held: prepared.request.config.git.held.clone(),
        base_commit: copy.base_commit.clone(),
        keep: holds_pushes(prepared).then(|| format!("sentrely: a person sends it on with: sentrely pr {}", prepared.id.short())),
        force: prepared.request.config.git.force,
        on_event: Arc::new(on_event),
    };
    Gate::start(listener, config).map_err(|error| failed(error, "open the push gate of", dir))
}
