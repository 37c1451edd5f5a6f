//! The session's wall: how high it is, of what, and what is said of it.
//!
//! [`decide`] tries the whole wall on this machine before anything is made; [`raise`] builds the one that the command enters.

mod needs;

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use self::needs::{config_dir, make_claude_data, needs};
pub(super) use self::needs::{kept_sockets, named_by_variables};
use super::claude::running::Outside;
use super::environment::{Env, text};
use super::network;
use super::prepare::Prepared;
use super::workplace::Workplace;
use super::{RunError, RunRequest, home, same_path};
use crate::config::{self, Hidden, WallMode};
use crate::git::Checkout;
use crate::model::{StopReason, Workspace};
use crate::process::PreExec;
use crate::wall::{Arriving, HostList, Layer, Refused, Request, Scope, Wall};

/// How high the wall is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Height {
    /// Namespaces, and all that stands on them.
    Full,
    /// A Landlock domain over files.
    Files,
    /// Signals and tracing only.
    Scope,
    /// None.
    Off,
}

/// What was decided.
#[derive(Debug, Clone)]
pub(super) struct Decision {
    pub(super) height: Height,
    /// For the banner and the record.
    pub(super) words: String,
    /// What stays open at this height, for the record.
    pub(super) open: String,
    /// What cannot be read behind it.
    pub(super) hidden: Vec<PathBuf>,
    /// What lies behind the filter, where the network is cut down to services.
    pub(super) hosts: Option<HostList>,
}

impl Decision {
    /// Whether the checkout and remotes that are folders are kept from being changed.
    pub(super) fn keeps_files(&self) -> bool {
        matches!(self.height, Height::Full | Height::Files)
    }
}

/// The wall that is raised.
pub(super) struct Raised {
    pub(super) hook: Option<PreExec>,
    /// Where what happens in the home directory lies.
    pub(super) layer: Option<Layer>,
    /// What cannot be read.
    pub(super) hidden: Vec<PathBuf>,
    /// The doors in the command's own network, if it gets one.
    pub(super) doors: Option<Arriving>,
    /// Where the number of the process is read that becomes the command, if it gets a process namespace of its own.
    pub(super) successor: Option<OwnedFd>,
    /// The words before the command, where it is a program that puts the wall up.
    pub(super) launcher: Vec<OsString>,
}

pub(super) const OPEN_FULL: &str = "files outside your home that your account may change; secrets that no list names, such as a .env; credential files and sockets made later; renice of sentrely";
pub(super) const OPEN_FILES: &str = "sockets and shared memory of other programs (ssh agent, docker); files outside your home that your account may change; secrets that no list names, such as a .env; renice of sentrely; new names in your home are refused";
pub(super) const OPEN_SCOPE: &str = "every file of your account";

/// What this machine allows of what is asked for.
///
/// # Errors
/// `--wall require` where the full wall does not stand; any wall where not even its lowest does.
pub(super) fn decide(request: &RunRequest, workspace: Workspace, checkout: Option<&Checkout>) -> Result<Decision, RunError> {
    let hosts = network::hosts(request)?;
    let decided = decide_height(request, workspace, checkout, hosts.as_ref())?;
    if hosts.is_some() && decided.height != Height::Full {
        return Err(RunError::words(
            format!("cut the network down to services: that needs the full wall, and the wall is {}", decided.words),
            Some("`sentrely doctor` says what this machine allows; [wall] network = \"open\" runs without it"),
        ));
    }
    if request.config.wall.pid_namespace && decided.height != Height::Full {
        return Err(RunError::words(
            format!("give the session a process namespace of its own: that needs the full wall, and the wall is {}", decided.words),
            Some("[wall] pid_namespace = false runs without it; `sentrely doctor` says what this machine allows"),
        ));
    }
    if workspace == Workspace::SamePath && decided.height != Height::Full {
        return Err(RunError::words(
            format!("show the session its clone at the checkout's path: that needs the full wall, and the wall is {}", decided.words),
            Some("--workspace clone works behind every wall; `sentrely doctor` says what this machine allows"),
        ));
    }
    let network = hosts.as_ref().map_or("the network", |_| "the hosts of wall.hosts");
    let is_open = match decided.height {
        Height::Full if hosts.is_none() => "; open: the network (`sentrely show` lists all)",
        Height::Files => "; the network is open (`sentrely show` lists all)",
        Height::Full | Height::Scope | Height::Off => "",
    };
    let words = format!("{}{is_open}", decided.words);
    Ok(Decision { words, open: format!("open: {network}; {}", decided.open), hosts, ..decided })
}

fn decide_height(
    request: &RunRequest,
    workspace: Workspace,
    checkout: Option<&Checkout>,
    hosts: Option<&HostList>,
) -> Result<Decision, RunError> {
    let wall = &request.config.wall;
    let decision = |height, words, open: &str, hidden| Decision { height, words, open: open.to_owned(), hidden, hosts: None };
    let off = |words: &str| decision(Height::Off, format!("{words}; files as your account"), OPEN_SCOPE, Vec::new());
    if wall.mode == WallMode::Off {
        return Ok(off("off"));
    }
    let setuid_needs_none = wall.sudo && !nix::unistd::getuid().is_root();
    if setuid_needs_none && wall.mode != WallMode::Require {
        return Ok(off("off (wall.sudo is granted, and sudo works only without a wall)"));
    }
    let tried = try_full(request, workspace, checkout);
    let hidden = tried.as_ref().map_or_else(|_| Vec::new(), |wall| wall.hidden().to_vec());
    let refused = match tried {
        Ok(wall) if wall.has_scope() && wall.has_filter() && !setuid_needs_none => {
            return Ok(decision(Height::Full, full_words(request, &wall, workspace, hosts), OPEN_FULL, hidden));
        }
        Ok(wall) if !wall.has_scope() => {
            Refused { step: "keep signals inside".to_owned(), why: "Landlock scopes need Linux 6.12".to_owned() }
        }
        Ok(_) => Refused { step: "filter system calls".to_owned(), why: "not for this machine, or not with wall.sudo".to_owned() },
        Err(refused) => refused,
    };
    if wall.mode == WallMode::Require {
        return Err(RunError::words(
            format!("put up the full wall: {refused}"),
            Some("--wall auto runs with what this machine offers; `sentrely doctor` says what that is"),
        ));
    }
    // Everything but what it does to signals can stand on an older kernel.
    if refused.step == "keep signals inside" {
        let words = format!("full but for signals ({}): home copy-on-write, checkout read-only, credential files hidden", refused.why);
        return Ok(decision(Height::Full, words, OPEN_FULL, hidden));
    }
    let why = format!("no namespaces here: {refused}");
    let has_landlock = !Hidden::here().landlock;
    let lower = || Wall::allow_list(&needs(request, workspace, checkout, None), &[config_dir(request)], wall.sudo);
    if let Some(Ok(lower)) = has_landlock.then(lower) {
        let words = format!("degraded ({why}): files by {}; sockets of other programs stay reachable", Wall::LOWER);
        return Ok(decision(Height::Files, words, OPEN_FILES, lower.hidden().to_vec()));
    }
    if has_landlock && Scope::new().is_ok() {
        let words = format!("lowest ({why}): {}; files as your account", Scope::KEEPS);
        return Ok(decision(Height::Scope, words, OPEN_SCOPE, Vec::new()));
    }
    Err(RunError::words(
        format!("put up a wall: {why}, and this kernel has no Landlock"),
        Some("--wall off runs without one: the command can then do whatever your account can"),
    ))
}

fn try_full(request: &RunRequest, workspace: Workspace, checkout: Option<&Checkout>) -> Result<Wall, Refused> {
    let hidden = Hidden::here();
    if hidden.namespaces || hidden.landlock {
        let why = format!("{} are hidden for a test", hidden.names().join(", "));
        return Err(Refused { step: "make namespaces".to_owned(), why });
    }
    tried(&request.env, &needs(request, workspace, checkout, None), &request.config.wall)
}

/// The full wall, entered once by a process that ended.
pub(super) fn tried(env: &Env, request: &Request, config: &config::Wall) -> Result<Wall, Refused> {
    let plan = |error: &dyn std::error::Error, step: &str| Refused { step: step.to_owned(), why: format!("{error}") };
    let name = format!("try-{}", std::process::id());
    let layer = Layer::create(&base(env), &name).map_err(|error| plan(&error, "make a place for changes of the home directory"))?;
    let tried = Wall::full(request, &layer, config.sudo).map_err(|error| plan(&error, "plan the wall")).and_then(|mut wall| {
        let arriving = match config.network {
            config::Network::Services => Some(wall.cut_network(&[]).map_err(|error| plan(&error, "plan a network of its own"))?),
            config::Network::Open => None,
        };
        let successor = config.pid_namespace.then(|| wall.own_processes()).transpose();
        let successor = successor.map_err(|error| plan(&error, "plan a process namespace"))?;
        wall.try_out()?;
        drop((arriving, successor));
        Ok(wall)
    });
    let _ = layer.remove();
    tried
}

fn full_words(request: &RunRequest, wall: &Wall, workspace: Workspace, hosts: Option<&HostList>) -> String {
    let config = &request.config.wall;
    let mut words = vec!["full".to_owned()];
    let checkout = match workspace {
        Workspace::Clone => ", checkout read-only",
        Workspace::SamePath => ", checkout copy-on-write",
        Workspace::InPlace | Workspace::None => "",
    };
    let hidden = match wall.hidden().len() {
        0 => String::new(),
        1 => ", 1 credential file or socket hidden".to_owned(),
        count => format!(", {count} credential files and sockets hidden"),
    };
    words.push(format!(": home copy-on-write{checkout}{hidden}"));
    if config.pid_namespace {
        words.push(", processes of its own".to_owned());
    }
    if let Some(hosts) = hosts {
        words.push(format!(", network cut down to services and {} hosts", hosts.len()));
    }
    let mut granted = Vec::new();
    if !config.share.is_empty() {
        granted.push(format!("shared: {}", listed(&config.share)));
    }
    if !config.allow_read.is_empty() {
        granted.push(format!("readable: {}", listed(&config.allow_read)));
    }
    if config.sudo {
        granted.push("sudo".to_owned());
    }
    if config.docker {
        granted.push("docker, which is root on this machine".to_owned());
    }
    if config.x11 {
        granted.push("the X server, which reads and types in every window".to_owned());
    }
    if !granted.is_empty() {
        words.push(format!("; granted: {}", granted.join(", ")));
    }
    words.concat()
}

pub(super) fn listed(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")
}

/// Where the layers of copy-on-write homes lie: `SENTRELY_WALL_DIR`, else a directory of the user's below `/var/tmp`.
pub(super) fn base(env: &Env) -> PathBuf {
    Layer::base(text(env, "SENTRELY_WALL_DIR").map(Path::new))
}

/// Builds the wall that was decided on, for the session as it is made.
///
/// # Errors
/// Its layer cannot be made: nothing is started then.
pub(super) fn raise(prepared: &Prepared, workplace: &Workplace, doors: Option<&[u16]>) -> Result<Raised, RunError> {
    let setuid = prepared.request.config.wall.sudo;
    let request = || needs(&prepared.request, prepared.workspace(), prepared.checkout.as_ref(), Some(workplace));
    let entered = |mut wall: Wall| Box::new(move || wall.enter()) as PreExec;
    match prepared.wall.height {
        Height::Off => Ok(Raised { hook: None, layer: None, hidden: Vec::new(), doors: None, successor: None, launcher: Vec::new() }),
        Height::Scope => {
            let scope = Scope::new().map_err(|error| RunError::new(error, None))?;
            Ok(Raised {
                hook: Some(Box::new(move || scope.enter())),
                layer: None,
                hidden: Vec::new(),
                doors: None,
                successor: None,
                launcher: Vec::new(),
            })
        }
        Height::Files => {
            make_claude_data(prepared);
            let wall =
                Wall::allow_list(&request(), &[config_dir(&prepared.request)], setuid).map_err(|error| RunError::new(error, None))?;
            Ok(Raised {
                hidden: wall.hidden().to_vec(),
                launcher: wall.launcher(),
                hook: Some(entered(wall)),
                layer: None,
                doors: None,
                successor: None,
            })
        }
        Height::Full => {
            make_claude_data(prepared);
            let base = base(&prepared.request.env);
            let layer = Layer::create(&base, &prepared.id.to_string())
                .map_err(|error| RunError::io(error, &format!("make a place for changes of the home directory in {}", base.display())))?;
            home::note_owner(&prepared.request.env, &prepared.request.cwd, &layer)
                .map_err(|error| RunError::io(error, &format!("note whose the changes in {} are", layer.dir().display())))?;
            let mut wall = Wall::full(&request(), &layer, setuid).map_err(|error| RunError::new(error, None))?;
            let doors = doors.map(|ports| wall.cut_network(ports)).transpose();
            let doors = doors.map_err(|error| RunError::io(error, "make the doors of a network of its own"))?;
            let successor = prepared.request.config.wall.pid_namespace.then(|| wall.own_processes()).transpose();
            let successor = successor.map_err(|error| RunError::io(error, "prepare a process namespace"))?;
            Ok(Raised {
                hidden: wall.hidden().to_vec(),
                launcher: wall.launcher(),
                hook: Some(entered(wall)),
                layer: Some(layer),
                doors,
                successor,
            })
        }
    }
}

/// Where what the command sees at a path lies for us: behind the full wall its home directory is a copy, but for what is the real thing.
pub(super) fn outside(prepared: &Prepared) -> Outside {
    let request = &prepared.request;
    let needs = needs(request, prepared.workspace(), prepared.checkout.as_ref(), None);
    let Some(home) = needs.home.canonicalize().ok().filter(|_| prepared.wall.height == Height::Full) else {
        return Box::new(Path::to_owned);
    };
    let own = config_dir(request);
    let over = match (prepared.workspace(), &prepared.checkout) {
        (Workspace::SamePath, Some(checkout)) => {
            let name = checkout.root.file_name().unwrap_or("repository".as_ref());
            Some((checkout.root.clone(), prepared.dir().path().join("work").join(name)))
        }
        _ => None,
    };
    let mut real: Vec<PathBuf> = needs.read_write.iter().chain(&needs.read_only).filter_map(|path| path.canonicalize().ok()).collect();
    real.push(prepared.dir().path().join("work"));
    let upper = base(&request.env).join(prepared.id.to_string()).join("home");
    let config = own.canonicalize().unwrap_or(own);
    Box::new(move |path| {
        if let Some(below) = over.as_ref().and_then(|(root, _)| path.strip_prefix(root).ok())
            && let Some((_, clone)) = &over
        {
            return clone.join(below);
        }
        // Of the configuration directory itself the data are real, and no more is looked for in it.
        let is_real = path == config || real.iter().any(|real| path.starts_with(real));
        match path.strip_prefix(&home) {
            Ok(relative) if !is_real => upper.join(relative),
            _ => path.to_owned(),
        }
    })
}

/// Removes what earlier sessions left of their homes, when nobody changed it for as long as records are kept.
pub(super) fn sweep(env: &Env, store: &config::Store, state: &crate::store::StateDir) {
    let Some(before) = SystemTime::now().checked_sub(Duration::from_hours(24 * u64::from(store.keep_days))) else { return };
    for view in state.sessions().unwrap_or_default() {
        let dir = state.session(view.id);
        // Of a session that crashed.
        if same_path::work(dir.path()).exists() && !dir.is_alive().unwrap_or(true) {
            let _ = same_path::clear(&dir);
        }
        if view.stop_reason == Some(StopReason::Crashed)
            && !dir.is_alive().unwrap_or(true)
            && let Some(layer) = Layer::find(&base(env), &view.id.to_string())
        {
            home::settle_crashed(&layer);
        }
    }
    Layer::sweep(&base(env), before, |name| name.parse().is_ok_and(|id| state.session(id).is_alive().unwrap_or(true)));
}
