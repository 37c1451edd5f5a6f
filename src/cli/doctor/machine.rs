//! What the kernel offers for the wall. A session runs without it too, behind a lower wall, so nothing here fails.

#[cfg(target_os = "linux")]
use std::fs;

use serde::Serialize;

use super::{Check, Status, Surroundings};
use crate::session::survey::survey;

/// Tried out whole: what a session would get.
pub(super) fn wall(at: &Surroundings) -> Check {
    const NAME: &str = "wall";
    let config = crate::cli::load_config(Vec::new()).map(|loaded| loaded.config.wall).unwrap_or_default();
    let state = crate::cli::open_state().map_or_else(|_| at.places.home.join(".local/state/sentrely"), |state| state.path().to_owned());
    let survey = survey(&at.env, &at.cwd, &config, &state);
    if survey.full {
        return Check::ok(NAME, survey.tell());
    }
    Check::warn(
        NAME,
        survey.tell(),
        "README, The wall: what each height leaves open; --wall require refuses to run behind less than the full one",
    )
}

/// A rung that the kill ladder may stand on, beside the signals that are everywhere.
#[derive(Debug, Serialize)]
pub(super) struct Offer {
    name: &'static str,
    available: bool,
    what: String,
}

impl Offer {
    /// `guardian: yes`.
    pub(super) fn tell(&self) -> String {
        let answer = if self.available { "yes" } else { "no" };
        if self.available { format!("{}: {answer}", self.name) } else { format!("{}: {answer} ({})", self.name, self.what) }
    }
}

/// What this machine offers.
pub(super) fn rungs(at: &Surroundings) -> Vec<Offer> {
    let of = |name, check: Check| Offer { name, available: check.status == Status::Ok, what: check.what };
    let guardian = cfg!(target_os = "linux");
    let what = if guardian { "it outlives the supervisor and ends what that leaves" } else { "not on this system" };
    vec![
        Offer { name: "guardian", available: guardian, what: what.to_owned() },
        of("cgroup", cgroup(at)),
        of("Landlock scope", landlock(at)),
        of("namespaces", user_namespaces(at)),
    ]
}

#[cfg(target_os = "linux")]
pub(super) fn user_namespaces(_at: &Surroundings) -> Check {
    const NAME: &str = "user namespaces";
    let hint = "without them the wall is lower; the banner of each session says how high it is";
    let number = |path: &str| fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok());
    if !std::path::Path::new("/proc/self/ns/user").exists() || number("/proc/sys/user/max_user_namespaces") == Some(0) {
        return Check::warn(NAME, "not available", hint);
    }
    if nix::unistd::geteuid().is_root() {
        return Check::ok(NAME, "available");
    }
    if number("/proc/sys/kernel/unprivileged_userns_clone") == Some(0) {
        return Check::warn(NAME, "only for root (kernel.unprivileged_userns_clone is 0)", hint);
    }
    if number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1) {
        return Check::warn(NAME, "restricted by AppArmor (kernel.apparmor_restrict_unprivileged_userns is 1)", hint);
    }
    Check::ok(NAME, "available")
}

#[cfg(target_os = "linux")]
pub(super) fn landlock(_at: &Surroundings) -> Check {
    const NAME: &str = "Landlock";
    match landlock_abi() {
        0 => {
            Check::warn(NAME, "not available", "without it the wall is lower; it needs Linux 5.13 with landlock among the security modules")
        }
        abi @ 1..6 => Check::warn(NAME, format!("ABI {abi}"), "signals and abstract sockets are walled off from ABI 6 on (Linux 6.12)"),
        _ => Check::ok(NAME, "ABI 6 or newer"),
    }
}

/// The newest generation whose rules the kernel takes; rule sets are made and dropped, nothing is restricted.
#[cfg(target_os = "linux")]
fn landlock_abi() -> u32 {
    use landlock::{ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, Scope};
    let strict = || Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let files = move |abi| strict().handle_access(AccessFs::from_all(abi)).and_then(Ruleset::create).is_ok();
    let newest: [(u32, Box<dyn Fn() -> bool>); 6] = [
        (6, Box::new(move || strict().scope(Scope::Signal).and_then(Ruleset::create).is_ok())),
        (5, Box::new(move || files(ABI::V5))),
        (4, Box::new(move || strict().handle_access(AccessNet::ConnectTcp).and_then(Ruleset::create).is_ok())),
        (3, Box::new(move || files(ABI::V3))),
        (2, Box::new(move || files(ABI::V2))),
        (1, Box::new(move || files(ABI::V1))),
    ];
    newest.iter().find(|(_, taken)| taken()).map_or(0, |(abi, _)| *abi)
}

/// Made and removed again: that a directory may be written to says little about cgroups.
#[cfg(target_os = "linux")]
pub(super) fn cgroup(_at: &Surroundings) -> Check {
    const NAME: &str = "cgroup v2";
    let hidden = crate::config::Hidden::here().cgroups;
    let Some(made) = (!hidden).then(|| crate::process::Cgroup::make("doctor")).flatten() else {
        return Check::warn(NAME, "none can be made for a session", "sessions are ended process by process instead");
    };
    let above = made.path().parent().map(|dir| dir.display().to_string()).unwrap_or_default();
    let limit = match made.task_limit() {
        Some(limit) => format!("at most {limit} tasks in one (pids.max)"),
        None => "no limit on its tasks (the pids controller cannot be had)".to_owned(),
    };
    made.remove();
    Check::ok(NAME, format!("one for each session, below {above}; {limit}"))
}

#[cfg(target_os = "macos")]
pub(super) fn user_namespaces(_at: &Surroundings) -> Check {
    Check::warn("user namespaces", "not on this system", "the wall is lower here; the banner of each session says how high it is")
}

#[cfg(target_os = "macos")]
pub(super) fn landlock(_at: &Surroundings) -> Check {
    Check::warn("Landlock", "not on this system", "the wall is lower here; the banner of each session says how high it is")
}

#[cfg(target_os = "macos")]
pub(super) fn cgroup(_at: &Surroundings) -> Check {
    Check::warn("cgroup v2", "not on this system", "sessions are ended process by process instead")
}
