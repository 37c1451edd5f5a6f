//! Whether a process runs inside a session: whether a `sentrely run` is above it.
//!
//! The environment says so too, but the agent can change that. It cannot change what it descends from: the supervisor is a subreaper, so
//! whatever is orphaned inside a session hangs below the supervisor again.

use std::fs;

/// What the wall calls the first process of a session's own process namespace.
pub(super) const NAMESPACE_INIT: &str = "sentrely-init";
/// A parent chain longer than this is taken for endless.
const DEEPEST: usize = 512;

/// The process id of the nearest `sentrely run` above `pid`, itself excepted. Linux only; elsewhere always `None`.
pub fn session_above(pid: i32) -> Option<i32> {
    let own_name = fs::read_to_string("/proc/self/comm").unwrap_or_default();
    let above = ancestors(pid).find(|ancestor| {
        let comm = fs::read_to_string(format!("/proc/{ancestor}/comm")).unwrap_or_default();
        let command_line = fs::read(format!("/proc/{ancestor}/cmdline")).unwrap_or_default();
        let is_sentrely = comm == "sentrely\n" || (!own_name.is_empty() && comm == own_name);
        is_sentrely && command_line.split(|byte| *byte == 0).nth(1) == Some(b"run")
    });
    // In a process namespace of its own a session's command has no parent, but the first process there is the session's.
    let first = || fs::read_to_string("/proc/1/comm").is_ok_and(|comm| comm.trim_end() == NAMESPACE_INIT).then_some(1);
    above.or_else(first)
}

/// Whether `pid` is `ancestor` or descends from it. What cannot be found out counts as yes.
pub fn is_below(pid: i32, ancestor: i32) -> bool {
    if pid == ancestor {
        return true;
    }
    let chain: Vec<i32> = ancestors(pid).collect();
    // A chain that does not lead to the first process could not be followed to its end.
    chain.contains(&ancestor) || chain.last().is_none_or(|last| *last > 1)
}

fn ancestors(pid: i32) -> impl Iterator<Item = i32> {
    std::iter::successors(parent_of(pid), |pid| parent_of(*pid)).take(DEEPEST)
}

fn parent_of(pid: i32) -> Option<i32> {
    if pid <= 1 {
        return None;
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may itself hold parentheses and spaces: take the fields after the last one.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
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
