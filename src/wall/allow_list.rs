//! The lower wall, for machines that refuse namespaces: a Landlock domain that allows everything but what is protected.
//!
//! Landlock only allows. To protect a place, its neighbours are allowed one by one along the way, as they are at the start: what appears
//! there later, and new names in those directories, the home directory among them, are denied. Sockets and other processes' files it does not know.

use std::fs;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetError, Scope,
};

use super::mounts::Mounts;
use super::request::Request;
use super::secrets;

/// Below the home directory, what tools write all the time and nobody runs.
const WRITABLE_IN_HOME: &[&str] = &[".cache", ".npm", ".cargo/registry", ".cargo/git", ".claude.json", ".local/share/pnpm/store"];
/// Below Claude Code's configuration directory, besides its data.
const WRITABLE_OF_CLAUDE: &[&str] =
    &["shell-snapshots", "session-env", "backups", "statsig", "debug", "cache", "telemetry", "paste-cache", "plugins"];
/// Devices that root may write to; others are disks.
const DEVICES: &[&str] = &["null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "mqueue", "fuse", "kvm"];

/// Makes the domain. Returns it with what it hides.
///
/// # Errors
/// When this kernel has no Landlock at all.
pub(super) fn allow_list(request: &Request, config_dirs: &[PathBuf]) -> Result<(RulesetCreated, Vec<PathBuf>), RulesetError> {
    let all = AccessFs::from_all(ABI::V5);
    let reads = AccessFs::from_read(ABI::V5);
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .scope(Scope::Signal)?
        .scope(Scope::AbstractUnixSocket)?
        .create()?;

    let home = request.home.canonicalize().unwrap_or_else(|_| request.home.clone());
    let mut hidden = secrets::files(&home);
    hidden.extend(request.hidden.iter().cloned());
    // No other content can be shown here: what would be read without its secrets is not read.
    let granted = secrets::granted(&request.allow_read);
    let granted = secrets::ways(granted.iter().filter(|granted| granted.instead.is_none()).map(|granted| &granted.name));
    let there = hidden.iter().filter_map(|path| path.canonicalize().ok());
    let mut hidden: Vec<PathBuf> = there.flat_map(|path| secrets::around(path, &granted)).collect();
    let state: Option<PathBuf> = request.state.canonicalize().ok();
    // A rule is about a directory itself, whatever name led to it: another mount of the home, allowed as a neighbour, would allow the home.
    let mounts = Mounts::read();
    let with_aliases = |paths: &[PathBuf]| -> Vec<PathBuf> {
        let aliases = paths.iter().flat_map(|path| mounts.aliases(path));
        paths.iter().cloned().chain(aliases).collect()
    };
    hidden = with_aliases(&hidden);
    let mut unread = hidden.clone();
    unread.extend(with_aliases(state.as_slice()));
    rules = allow(rules, Path::new("/"), AccessFs::ReadDir.into())?;
    rules = allow_except(rules, Path::new("/"), &unread, reads)?;
    if let Some(session) = request.session.as_ref().and_then(|session| session.canonicalize().ok()) {
        rules = allow_except(rules, &session, &hidden, reads)?;
    }

    let root = nix::unistd::getuid().is_root();
    let mut unwritten = unread;
    let kept: Vec<PathBuf> = request.copy_on_write.iter().chain(&request.read_only).filter_map(|path| path.canonicalize().ok()).collect();
    unwritten.extend(with_aliases(std::slice::from_ref(&home)));
    unwritten.extend(with_aliases(&kept));
    if root {
        unwritten.extend(["/proc", "/sys", "/dev"].map(PathBuf::from));
        for device in DEVICES {
            rules = allow(rules, &Path::new("/dev").join(device), all)?;
        }
    }
    rules = allow_except(rules, Path::new("/"), &unwritten, all)?;
    let in_home = WRITABLE_IN_HOME.iter().map(|name| home.join(name));
    let of_claude = config_dirs.iter().flat_map(|dir| WRITABLE_OF_CLAUDE.iter().map(|name| dir.join(name)));
    for path in in_home.chain(of_claude).chain(request.read_write.iter().cloned()) {
        if let Ok(path) = path.canonicalize() {
            rules = allow_except(rules, &path, &hidden, all)?;
        }
    }
    hidden.sort();
    hidden.dedup();
    Ok((rules, hidden))
}

/// `access` to everything in and below `at` but `denied`.
fn allow_except(
    mut rules: RulesetCreated,
    at: &Path,
    denied: &[PathBuf],
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    if denied.iter().any(|denied| denied == at) {
        return Ok(rules);
    }
    let below: Vec<PathBuf> = denied.iter().filter(|denied| denied.starts_with(at)).cloned().collect();
    if below.is_empty() {
        return allow(rules, at, access);
    }
    for entry in fs::read_dir(at).into_iter().flatten().flatten() {
        // A link's target is allowed where it lies.
        if !entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
            rules = allow_except(rules, &entry.path(), &below, access)?;
        }
    }
    Ok(rules)
}

/// What cannot be opened cannot be allowed, nor does it have to be.
fn allow(rules: RulesetCreated, path: &Path, access: BitFlags<AccessFs>) -> Result<RulesetCreated, RulesetError> {
    let Ok(fd) = PathFd::new(path) else { return Ok(rules) };
    let access = if path.is_dir() { access } else { access & AccessFs::from_file(ABI::V5) };
    if access.is_empty() {
        return Ok(rules);
    }
    rules.add_rule(PathBeneath::new(fd, access))
}
