//! Whether a process runs inside a session: whether a `sentrely run` is above it.
//!
//! The environment says so too, but the agent can change that. It cannot change what it descends from: the supervisor is a subreaper, so
//! whatever is orphaned inside a session hangs below the supervisor again. On macOS there is no such thing: an orphan is known only to the
//! supervisor itself, which remembers it, and calls from anywhere else go by the environment.

use nix::unistd::Pid;

use super::tree::Root;
use crate::system::{Process, command_line};

/// What the wall calls the first process of a session's own process namespace.
pub(super) const NAMESPACE_INIT: &str = "sentrely-init";
/// A parent chain longer than this is taken for endless.
const DEEPEST: usize = 512;

/// The process id of the nearest `sentrely run` above `pid`, itself excepted.
pub fn session_above(pid: i32) -> Option<i32> {
    let own_name = comm(std::process::id().cast_signed()).unwrap_or_default();
    let above = ancestors(pid).find(|ancestor| {
        let comm = comm(*ancestor).unwrap_or_default();
        let is_sentrely = comm == "sentrely" || (!own_name.is_empty() && comm == own_name);
        is_sentrely && command_line(*ancestor).split(|byte| *byte == 0).nth(1) == Some(b"run")
    });
    // In a process namespace of its own a session's command has no parent, but the first process there is the session's.
    above.or_else(|| comm(1).is_some_and(|comm| comm == NAMESPACE_INIT).then_some(1))
}

/// Whether `pid` is `ancestor` or descends from it. What cannot be found out counts as yes.
pub fn is_below(pid: i32, ancestor: i32) -> bool {
    if pid == ancestor {
        return true;
    }
    let chain: Vec<i32> = ancestors(pid).collect();
    // A chain that does not lead to the first process could not be followed to its end.
    chain.contains(&ancestor) || chain.last().is_none_or(|last| *last > 1) || Root::of(Pid::from_raw(ancestor)).has_adopted(pid)
}

fn ancestors(pid: i32) -> impl Iterator<Item = i32> {
    std::iter::successors(parent_of(pid), |pid| parent_of(*pid)).take(DEEPEST)
}

fn parent_of(pid: i32) -> Option<i32> {
    if pid <= 1 { None } else { Process::read(pid).map(|process| process.parent) }
}

fn comm(pid: i32) -> Option<String> {
    Process::read(pid).map(|process| process.comm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descendant_is_below_and_the_rest_of_the_machine_is_not() {
        let own = i32::try_from(std::process::id()).unwrap();
        let parent = parent_of(own).unwrap();
        assert!(is_below(own, own));
        assert!(is_below(own, parent));
        assert!(!is_below(parent, own));
    }

    #[test]
    fn a_test_runs_in_no_session() {
        assert_eq!(session_above(i32::try_from(std::process::id()).unwrap()), None);
    }
}
