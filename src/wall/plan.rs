//! From what a session needs to the mounts that give it that and no more. Everything is resolved here, before the fork: a symbolic link's
//! target is protected, not the link, and so is every other name that a mount gives to a protected place.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::layer::Layer;
use super::mounts::{Mounts, same_file};
use super::raise::{Identity, Sequence, Step, What};
use super::request::{Over, PlanError, Request};
use super::secrets;

/// The order of what comes to lie at one place: the later covers the earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    Scratch,
    Copy,
    ReadOnly,
    ReadWrite,
    Hidden,
}

struct Placed {
    target: PathBuf,
    turn: Turn,
    what: What,
    optional: bool,
}

/// The mounts, and what they hide.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) sequence: Sequence,
    pub(super) hidden: Vec<PathBuf>,
}

impl Plan {
    pub(super) fn make(request: &Request, layer: &Layer) -> Result<Self, PlanError> {
        let mounts = Mounts::read();
        let mut placed = Vec::new();
        let homes = homes(request)?;
        let hidden = hidden(request, &homes[0], &mounts);
        let as_path = |path: &Path| layer.dir().join(path);

        for (n, home) in homes.iter().enumerate() {
            let (upper, work) = layer.pair(n).map_err(|source| PlanError::Layer { path: layer.dir().to_owned(), source })?;
            placed.push(Placed::new(home, Turn::Copy, What::CopyOnWrite { upper: c(&upper)?, work: c(&work)? }));
            // What is mounted in there is not part of the copy.
            for below in mounts.below(home) {
                placed.push(Placed { optional: true, ..Placed::new(&below, Turn::ReadOnly, tree(&below, true)?) });
            }
        }
        if let Some(over) = &request.over {
            lay_over(over, &homes, layer, &mounts, &mut placed)?;
        }
        for (source, target) in &request.read_only_at {
            let source = source.canonicalize().unwrap_or_else(|_| source.clone());
            placed.push(Placed::new(target, Turn::ReadWrite, tree(&source, true)?));
        }
        let read_write: Vec<PathBuf> = resolved(&request.read_write).filter(|path| !homes.contains(path)).collect();
        let read_only: Vec<PathBuf> = resolved(&request.read_only).filter(|path| !read_write.contains(path)).collect();
        for path in homes.iter().chain(&read_only).flat_map(|path| mounts.aliases(path)).chain(read_only.iter().cloned()) {
            placed.push(Placed::new(&path, Turn::ReadOnly, tree(&path, true)?));
        }
        for path in &read_write {
            placed.push(Placed { optional: true, ..Placed::new(path, Turn::ReadWrite, tree(path, false)?) });
        }
        state(request, &mounts, &mut placed)?;
        scratches(request, &mut placed)?;
        shared_elsewhere(&mounts, &mut placed);
        for path in &hidden {
            let directory = path.is_dir();
            placed.push(Placed { optional: true, ..Placed::new(path, Turn::Hidden, What::Nothing { directory }) });
        }
        for (n, granted) in secrets::granted(&request.allow_read).into_iter().enumerate() {
            let Some(text) = granted.instead else { continue };
            let copy = as_path(Path::new(&format!("redacted.{n}")));
            let written =
                fs::write(&copy, text).and_then(|()| fs::set_permissions(&copy, std::os::unix::fs::PermissionsExt::from_mode(0o600)));
            written.map_err(|source| PlanError::Layer { path: copy.clone(), source })?;
            for name in mounts.aliases(&granted.path).into_iter().chain([granted.path]) {
                placed.push(Placed::new(&name, Turn::Hidden, tree_of(&copy, true)?));
            }
        }
        if nix::unistd::getuid().is_root() {
            kernel_places(&mut placed)?;
        } else if let Some(copy) = ssh_config(&as_path(Path::new("ssh"))) {
            placed.push(Placed::new(Path::new("/etc/ssh"), Turn::ReadOnly, tree_of(&copy, true)?));
        }
        for base in mounts.aliases(layer.base_dir()).into_iter().chain([layer.base_dir().to_owned()]) {
            // Behind a private /var/tmp it is gone already.
            placed.push(Placed { optional: true, ..Placed::new(&base, Turn::Hidden, What::Nothing { directory: true }) });
        }

        placed.sort_by_key(|placed| (placed.target.components().count(), placed.turn));
        make_room(&mut placed)?;
        let steps: Vec<Step> = placed.into_iter().map(Placed::step).collect::<Result<_, _>>()?;
        let taken = steps.iter().map(|_| None).collect();
        let cwd = request.cwd.canonicalize().unwrap_or_else(|_| request.cwd.clone());
        let sequence = Sequence {
            identity: identity(),
            steps,
            empty: c(&layer.dir().join("empty"))?,
            cwd: c(&cwd)?,
            doors: None,
            number: None,
            taken,
        };
        Ok(Self { sequence, hidden })
    }
}

impl Placed {
    fn new(target: &Path, turn: Turn, what: What) -> Self {
        Self { target: target.to_owned(), turn, what, optional: false }
    }

    fn step(self) -> Result<Step, PlanError> {
        Ok(Step { target: c(&self.target)?, what: self.what, optional: self.optional })
    }
}

fn c(path: &Path) -> Result<CString, PlanError> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| PlanError::Name(path.to_owned()))
}

fn tree(path: &Path, read_only: bool) -> Result<What, PlanError> {
    tree_of(path, read_only)
}

fn tree_of(source: &Path, read_only: bool) -> Result<What, PlanError> {
    Ok(What::Tree { source: c(source)?, read_only })
}

/// Those that are there, without symbolic links, each once.
fn resolved(paths: &[PathBuf]) -> impl Iterator<Item = PathBuf> {
    let mut found: Vec<PathBuf> = paths.iter().filter_map(|path| path.canonicalize().ok()).collect();
    found.sort();
    found.dedup();
    found.into_iter()
}

/// The home directory and the others that are outside of it.
fn homes(request: &Request) -> Result<Vec<PathBuf>, PlanError> {
    let refused = || PlanError::Home(request.home.clone());
    let home = request.home.canonicalize().map_err(|_| refused())?;
    if !home.is_dir() || home.parent().is_none() || fs::read_dir(&home).is_err() {
        return Err(refused());
    }
    let mut homes = vec![home];
    for other in resolved(&request.copy_on_write) {
        if other.is_dir() && !homes.iter().any(|home| other.starts_with(home)) {
            homes.push(other);
        }
    }
    Ok(homes)
}

/// Every name of everything that is to be hidden; not what lies below another one of these.
fn hidden(request: &Request, home: &Path, mounts: &Mounts) -> Vec<PathBuf> {
    let allowed = secrets::ways(&request.allow_read);
    let mut listed = secrets::files(home);
    listed.extend(secrets::sockets(nix::unistd::getuid().as_raw()));
    let docker: Vec<PathBuf> = secrets::DOCKER_SOCKETS.iter().map(PathBuf::from).filter(|socket| socket.exists()).collect();
    let granted: Vec<PathBuf> =
        if request.docker { resolved(&docker).chain(resolved(&request.kept_sockets)).collect() } else { Vec::new() };
    listed.extend(docker);
    listed.extend(request.hidden.iter().cloned());
    let state = request.state.canonicalize().unwrap_or_else(|_| request.state.clone());
    let session = request.session.as_ref().and_then(|session| session.canonicalize().ok());
    let needed: Vec<PathBuf> = resolved(&request.read_write).chain(request.cwd.canonicalize()).collect();
    let foreign_state = |path: &PathBuf| path.starts_with(&state) && session.as_ref().is_none_or(|session| !path.starts_with(session));
    let replaced = replaced_runtime(request);
    let mut found: Vec<PathBuf> = resolved(&listed)
        .flat_map(|path| secrets::around(path, &allowed))
        .filter(|path| !granted.contains(path) && !foreign_state(path) && !home.starts_with(path) && path.parent().is_some())
        .filter(|path| !needed.iter().any(|needed| needed.starts_with(path)))
        .filter(|path| !replaced.as_ref().is_some_and(|dir| path.starts_with(dir)))
        .collect();
    let aliases: Vec<PathBuf> = found.iter().flat_map(|path| mounts.aliases(path)).collect();
    found.extend(aliases);
    found.sort();
    found.dedup();
    let mut outermost: Vec<PathBuf> = Vec::new();
    for path in found {
        if !outermost.last().is_some_and(|last| path.starts_with(last)) {
            outermost.push(path);
        }
    }
    outermost
}

/// The clone over the checkout. Its other names are read-only, and so is what is mounted in it.
fn lay_over(over: &Over, homes: &[PathBuf], layer: &Layer, mounts: &Mounts, placed: &mut Vec<Placed>) -> Result<(), PlanError> {
    let failed = |source| PlanError::Layer { path: layer.dir().to_owned(), source };
    let target = over.target.canonicalize().map_err(failed)?;
    if homes.iter().any(|home| home.starts_with(&target)) {
        return Err(PlanError::Over(target));
    }
    let (upper, work) = match &over.layer {
        Some((upper, work)) => (upper.canonicalize().map_err(failed)?, work.canonicalize().map_err(failed)?),
        None => layer.pair(homes.len()).map_err(failed)?,
    };
    for alias in mounts.aliases(&target) {
        placed.push(Placed::new(&alias, Turn::ReadOnly, tree(&alias, true)?));
    }
    placed.push(Placed::new(&target, Turn::Copy, What::CopyOnWrite { upper: c(&upper)?, work: c(&work)? }));
    for below in mounts.below(&target) {
        placed.push(Placed { optional: true, ..Placed::new(&below, Turn::ReadOnly, tree(&below, true)?) });
    }
    Ok(())
}

/// An empty state directory with the own session in it.
fn state(request: &Request, mounts: &Mounts, placed: &mut Vec<Placed>) -> Result<(), PlanError> {
    let Ok(state) = request.state.canonicalize() else { return Ok(()) };
    let nothing = What::Scratch { shared: false, read_only: true, dirs: Vec::new(), files: Vec::new() };
    placed.push(Placed::new(&state, Turn::Scratch, nothing));
    for alias in mounts.aliases(&state) {
        placed.push(Placed::new(&alias, Turn::Hidden, What::Nothing { directory: true }));
    }
    if let Some(session) = request.session.as_ref().and_then(|session| session.canonicalize().ok()) {
        placed.push(Placed::new(&session, Turn::ReadOnly, tree(&session, true)?));
    }
    Ok(())
}

/// Fresh directories in memory in place of those where other programs' sockets and shared memory are.
fn scratches(request: &Request, placed: &mut Vec<Placed>) -> Result<(), PlanError> {
    let mut replaced = Vec::new();
    let mut scratch = |path: &Path, shared: bool| {
        if let Ok(path) = path.canonicalize() {
            let what = What::Scratch { shared, read_only: false, dirs: Vec::new(), files: Vec::new() };
            placed.push(Placed { optional: true, ..Placed::new(&path, Turn::Scratch, what) });
            replaced.push(path);
        }
    };
    scratch(Path::new(SHARED_MEMORY), true);
    if request.private_tmp {
        scratch(Path::new("/tmp"), true);
        scratch(Path::new("/var/tmp"), true);
    } else {
        // A terminal multiplexer of before would run anything outside.
        scratch(Path::new(&format!("/tmp/tmux-{}", nix::unistd::getuid())), false);
    }
    let runtime = replaced_runtime(request);
    if let Some(runtime) = &runtime {
        scratch(runtime, false);
    }
    for path in resolved(&request.kept_sockets).filter(|path| replaced.iter().any(|replaced| path.starts_with(replaced))) {
        placed.push(Placed { optional: true, ..Placed::new(&path, Turn::ReadWrite, tree(&path, false)?) });
    }
    let Some(runtime) = runtime else { return Ok(()) };
    // Pasting pictures asks the window system.
    for entry in fs::read_dir(&runtime).into_iter().flatten().flatten() {
        let is_display = entry.file_name().to_str().is_some_and(|name| name.starts_with("wayland-"));
        if is_display && entry.file_type().is_ok_and(|kind| kind.is_socket()) {
            placed.push(Placed { optional: true, ..Placed::new(&entry.path(), Turn::ReadWrite, tree(&entry.path(), false)?) });
        }
    }
    Ok(())
}

/// Where memory that is shared by POSIX's calls has its files.
const SHARED_MEMORY: &str = "/dev/shm";

/// Other names of the shared memory's directory as a whole, and where message queues can be seen as files: a mount made outside shows those of
/// the outside, whatever namespace looks at it.
fn shared_elsewhere(mounts: &Mounts, placed: &mut Vec<Placed>) {
    let memory = Path::new(SHARED_MEMORY).canonicalize().unwrap_or_default();
    let aliases = mounts.aliases(&memory).into_iter().filter(|alias| same_file(alias, &memory));
    for path in aliases.chain(mounts.of_kind("mqueue")) {
        placed.push(Placed { optional: true, ..Placed::new(&path, Turn::Hidden, What::Nothing { directory: true }) });
    }
}

/// The runtime directory, if an empty one takes its place: the user's own, or, for root, whosever it is.
fn replaced_runtime(request: &Request) -> Option<PathBuf> {
    let runtime = request.runtime_dir.as_ref()?.canonicalize().ok()?;
    let uid = nix::unistd::getuid();
    let own = fs::metadata(&runtime).is_ok_and(|meta| meta.is_dir() && (uid.is_root() || meta.uid() == uid.as_raw()));
    (own && runtime.parent().is_some() && !request.home.starts_with(&runtime)).then_some(runtime)
}

/// What root inside may write without any capability: the kernel's settings, and disks.
fn kernel_places(placed: &mut Vec<Placed>) -> Result<(), PlanError> {
    for path in ["/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/sys"].map(Path::new) {
        if path.exists() {
            placed.push(Placed { optional: true, ..Placed::new(path, Turn::ReadOnly, tree(path, true)?) });
        }
    }
    let terminal = fs::read_link("/proc/self/fd/0").unwrap_or_default();
    let mut nodes = Vec::new();
    devices(Path::new("/dev"), &mut nodes);
    for node in nodes.into_iter().filter(|node| *node != terminal) {
        placed.push(Placed { optional: true, ..Placed::new(&node, Turn::Hidden, What::Nothing { directory: false }) });
    }
    Ok(())
}

/// Nodes that programs may have: nothing in them is anybody's.
const HARMLESS: &[&str] = &[
    "null", "zero", "full", "random", "urandom", "tty", "ptmx", "fuse", "kvm", "kfd", "net/tun", "console", "udmabuf", "dri/", "nvidia",
    "accel/", "snd/", "video",
];

fn devices(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
        let name = path.strip_prefix("/dev").ok().and_then(Path::to_str).unwrap_or_default();
        if kind.is_dir() && !matches!(name, "pts" | "shm" | "mqueue" | "hugepages") {
            devices(&path, found);
        } else if kind.is_block_device() || kind.is_char_device() {
            let harmless = HARMLESS.iter().any(|known| name == *known || (name.starts_with(known) && !matches!(*known, "tty" | "console")));
            if !harmless {
                found.push(path);
            }
        }
    }
}

/// `/etc/ssh` with the user as owner: to an ordinary user in a namespace of its own root is nobody, and `ssh` refuses files of nobody.
fn ssh_config(copy: &Path) -> Option<PathBuf> {
    fn readable(from: &Path, to: &Path, depth: u32) -> io::Result<()> {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)?.flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            if path.is_dir() && depth > 0 {
                readable(&path, &to.join(name), depth - 1)?;
            } else if let (true, Ok(content)) = (path.is_file(), fs::read(&path)) {
                fs::write(to.join(name), content)?;
            }
        }
        Ok(())
    }
    let from = Path::new("/etc/ssh");
    (from.is_dir() && readable(from, copy, 2).is_ok()).then(|| copy.to_owned())
}

/// Gives every fresh directory what is mounted into it later.
fn make_room(placed: &mut [Placed]) -> Result<(), PlanError> {
    let wanted: Vec<(PathBuf, bool)> = placed
        .iter()
        .filter(|placed| !matches!(placed.what, What::Nothing { .. }))
        .map(|placed| (placed.target.clone(), placed.target.is_dir()))
        .collect();
    let scratches: Vec<PathBuf> =
        placed.iter().filter(|placed| matches!(placed.what, What::Scratch { .. })).map(|placed| placed.target.clone()).collect();
    for own in placed.iter_mut() {
        let Placed { target: scratch, what: What::Scratch { dirs, files, .. }, .. } = own else { continue };
        let scratch: &Path = scratch;
        for (target, is_dir) in &wanted {
            let Ok(rest) = target.strip_prefix(scratch) else { continue };
            let innermost =
                scratches.iter().filter(|other| target.starts_with(other) && *other != target).max_by_key(|other| other.as_os_str().len());
            if rest.as_os_str().is_empty() || innermost.is_some_and(|other| other != scratch) {
                continue;
            }
            let mut ancestors: Vec<&Path> =
                rest.ancestors().skip(usize::from(!is_dir)).filter(|path| !path.as_os_str().is_empty()).collect();
            ancestors.reverse();
            for dir in ancestors {
                let dir = c(dir)?;
                if !dirs.contains(&dir) {
                    dirs.push(dir);
                }
            }
            if !is_dir {
                files.push(c(rest)?);
            }
        }
    }
    Ok(())
}

fn identity() -> Identity {
    let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
    if uid.is_root() {
        return Identity::Root { uid_map: same_ids("/proc/self/uid_map"), gid_map: same_ids("/proc/self/gid_map") };
    }
    Identity::User { uid_map: format!("{uid} {uid} 1\n").into_bytes(), gid_map: format!("{gid} {gid} 1\n").into_bytes() }
}

/// The ids that this process knows, each to itself.
fn same_ids(map: &str) -> Vec<u8> {
    let text = fs::read_to_string(map).unwrap_or_default();
    let lines = text.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        Some(format!("{0} {0} {1}\n", fields.first()?, fields.get(2)?))
    });
    lines.collect::<String>().into_bytes()
}
