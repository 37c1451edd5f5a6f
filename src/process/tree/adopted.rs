//! Which processes are the session's where orphans do not come back to us (macOS): the kernel gives them to its first process, and nothing
//! then says whose they were.
//!
//! So it is remembered. The agent is ours; so is whatever descends from what is ours, whatever one of ours has forked before it was orphaned,
//! whatever is in a process group or a session that one of ours has founded, and an orphan that carries the session's mark in its environment.
//! What is older than the agent and does not descend from it is never ours, whatever group it is in.
//!
//! What escapes: a process that founded a session of its own and was orphaned by a parent that nobody saw, as it was forked and ended between
//! two looks, and whose environment cannot be read (macOS hides that of its own programs) or was cleared.

use std::collections::{HashMap, HashSet};

use crate::system::{Lineage, Process};

/// The first process, which gets the orphans.
const INIT: i32 = 1;

/// What is known of one agent's tree.
#[derive(Debug)]
pub(super) struct Adopted {
    agent: (i32, u64),
    /// Ours, by number and start time, when last looked, and the lineage of each. What was orphaned since then was forked since then: had it been
    /// there, it would have been looked at. So these are all that can have forked it and were seen.
    known: HashMap<(i32, u64), Option<Lineage>>,
    groups: HashSet<i32>,
    sessions: HashSet<i32>,
    /// Orphans that were looked at and are not ours.
    strangers: HashSet<(i32, u64)>,
}

impl Adopted {
    pub(super) fn new(agent: (i32, u64)) -> Self {
        Self {
            agent,
            known: HashMap::from([(agent, None)]),
            groups: HashSet::from([agent.0]),
            sessions: HashSet::new(),
            strangers: HashSet::new(),
        }
    }

    /// What of this listing is ours, parents before their children. `lineage` is asked once of each of ours and of every orphan, `is_marked` once
    /// of every orphan that nothing else tells.
    pub(super) fn look(
        &mut self,
        listing: Vec<Process>,
        lineage: impl Fn(&Process) -> Option<Lineage>,
        mut is_marked: impl FnMut(&Process) -> bool,
    ) -> Vec<Process> {
        self.forget_the_refounded(&listing);
        let began = self.agent.1;
        let ours_before: HashSet<u64> = self.known.values().flatten().map(|lineage| lineage.own).collect();
        let forked_by_ours = |process: &Process| lineage(process).is_some_and(|lineage| ours_before.contains(&lineage.parent));
        let (mut ours, mut others): (Vec<Process>, Vec<Process>) = (Vec::new(), Vec::new());
        let mut strangers = HashSet::new();
        for process in listing.into_iter().filter(|process| process.pid > INIT) {
            let identity = (process.pid, process.start);
            let is_orphan = process.parent == INIT && process.start >= began;
            let is_ours = self.knows(&process)
                || (process.start >= began && (self.groups.contains(&process.group) || self.sessions.contains(&process.session)))
                || (is_orphan && !self.strangers.contains(&identity) && (forked_by_ours(&process) || is_marked(&process)));
            if is_ours {
                ours.push(process);
            } else {
                if is_orphan {
                    strangers.insert(identity);
                }
                others.push(process);
            }
        }
        self.strangers = strangers;
        descendants_of(&mut ours, others);
        for Process { pid, group, session, .. } in &ours {
            if pid == group {
                self.groups.insert(*group);
            }
            if pid == session {
                self.sessions.insert(*session);
            }
        }
        let of = |process: &Process| self.known.get(&(process.pid, process.start)).copied().flatten().or_else(|| lineage(process));
        self.known = ours.iter().map(|process| ((process.pid, process.start), of(process))).collect();
        parents_first(ours)
    }

    fn knows(&self, process: &Process) -> bool {
        self.known.contains_key(&(process.pid, process.start))
    }

    /// A number is given again only once no process, group or session has it. Then its new process is one that we do not know.
    fn forget_the_refounded(&mut self, listing: &[Process]) {
        let strangers: HashSet<i32> = listing.iter().filter(|process| !self.knows(process)).map(|process| process.pid).collect();
        self.groups.retain(|group| !strangers.contains(group) && listing.iter().any(|process| process.group == *group));
        self.sessions.retain(|session| !strangers.contains(session) && listing.iter().any(|process| process.session == *session));
    }
}

/// Takes the descendants of `ours` over from `others`.
fn descendants_of(ours: &mut Vec<Process>, mut others: Vec<Process>) {
    let mut above: HashSet<i32> = ours.iter().map(|process| process.pid).collect();
    while !above.is_empty() {
        let (below, rest) = others.into_iter().partition::<Vec<_>, _>(|process| above.contains(&process.parent));
        above = below.iter().map(|process| process.pid).collect();
        ours.extend(below);
        others = rest;
    }
}

fn parents_first(mut left: Vec<Process>) -> Vec<Process> {
    let mut sorted = Vec::with_capacity(left.len());
    loop {
        let numbers: HashSet<i32> = left.iter().map(|process| process.pid).collect();
        let (below, top) = left.into_iter().partition::<Vec<_>, _>(|process| numbers.contains(&process.parent));
        let stuck = top.is_empty();
        sorted.extend(top);
        left = below;
        if stuck {
            // Nothing is left, or a ring, which a number that was given again in the midst of the listing can make.
            sorted.append(&mut left);
            return sorted;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The agent has the number 100 and started at 10, in the shell's session 50.
    fn process(pid: i32, parent: i32, group: i32, session: i32, start: u64) -> Process {
        Process { pid, comm: format!("p{pid}"), state: 'S', parent, group, session, threads: 1, start }
    }

    fn agent() -> Process {
        process(100, 90, 100, 50, 10)
    }

    fn numbers(found: &[Process]) -> Vec<i32> {
        found.iter().map(|process| process.pid).collect()
    }

    fn unmarked(_: &Process) -> bool {
        false
    }

    fn unforked(_: &Process) -> Option<Lineage> {
        None
    }

    #[test]
    fn the_tree_is_the_agent_and_what_descends_from_it_and_not_what_is_beside_it() {
        let mut adopted = Adopted::new((100, 10));
        let supervisor = process(90, 50, 90, 50, 5);
        // git, which the supervisor runs for itself, and a shell of the user's.
        let (helper, shell) = (process(105, 90, 90, 50, 20), process(50, 1, 50, 50, 1));
        let (below, deeper) = (process(101, 100, 100, 50, 11), process(99, 101, 99, 99, 12));
        let found = adopted.look(vec![deeper, below, supervisor, agent(), helper, shell], unforked, unmarked);
        assert_eq!(numbers(&found), [100, 101, 99]);
    }

    #[test]
    fn an_orphan_stays_ours_and_so_does_what_it_founded_and_starts() {
        let mut adopted = Adopted::new((100, 10));
        // As Claude Code runs its commands: each in a session of its own.
        adopted.look(vec![agent(), process(101, 100, 101, 101, 11), process(102, 101, 101, 101, 12)], unforked, unmarked);
        // The agent and the shell are gone; one that was never seen is in the shell's group, another one left that for a group of its own.
        let orphans = vec![
            process(102, 1, 101, 101, 12),
            process(103, 1, 101, 101, 13),
            process(104, 1, 104, 101, 13),
            process(105, 104, 105, 105, 14),
        ];
        assert_eq!(numbers(&adopted.look(orphans, unforked, unmarked)), [102, 103, 104, 105]);
        // Its group is known from then on, too.
        assert_eq!(numbers(&adopted.look(vec![process(106, 1, 105, 105, 15)], unforked, unmarked)), [106]);
    }

    #[test]
    fn an_orphan_that_nobody_saw_is_known_by_who_forked_it() {
        let mut adopted = Adopted::new((100, 10));
        // Unique numbers: a thousand and the process's; 300 was forked by 101, 301 by one that nobody saw, 302 by 300.
        let lineage = |process: &Process| {
            let parent = match process.pid {
                300 => 1101,
                301 => 1250,
                302 => 1300,
                _ => u64::try_from(process.parent).unwrap() + 1000,
            };
            Some(Lineage { own: u64::try_from(process.pid).unwrap() + 1000, parent })
        };
        adopted.look(vec![agent(), process(101, 100, 101, 101, 11)], lineage, unmarked);
        // Each in a session of its own.
        let orphans = || vec![process(300, 1, 300, 300, 20), process(301, 1, 301, 301, 20)];
        assert_eq!(numbers(&adopted.look(orphans(), lineage, unmarked)), [300]);
        // And what that one forks before it ends.
        assert_eq!(numbers(&adopted.look(vec![process(302, 1, 302, 302, 21)], lineage, unmarked)), [302]);
    }

    #[test]
    fn an_orphan_that_nobody_saw_is_known_by_its_mark_and_asked_once() {
        let mut adopted = Adopted::new((100, 10));
        let listing = || vec![agent(), process(200, 1, 200, 200, 20), process(201, 1, 201, 201, 21), process(202, 200, 202, 202, 22)];
        let mut asked = Vec::new();
        let found = adopted.look(listing(), unforked, |process| {
            asked.push(process.pid);
            process.pid == 200
        });
        assert_eq!((numbers(&found), asked), (vec![100, 200, 202], vec![200, 201]));
        let found = adopted.look(listing(), unforked, |process| panic!("{} is asked again", process.pid));
        assert_eq!(numbers(&found), [100, 200, 202]);
    }

    #[test]
    fn a_number_that_is_given_again_is_a_strangers() {
        let mut adopted = Adopted::new((100, 10));
        adopted.look(vec![agent(), process(101, 100, 101, 101, 11)], unforked, unmarked);
        // All are gone, and their numbers are those of other processes, groups and sessions.
        let strangers = vec![process(100, 50, 100, 50, 99), process(101, 50, 101, 101, 99), process(102, 101, 101, 101, 99)];
        assert_eq!(numbers(&adopted.look(strangers, unforked, unmarked)), Vec::<i32>::new());
    }

    #[test]
    fn what_is_older_than_the_agent_is_ours_only_by_descent() {
        let mut adopted = Adopted::new((100, 10));
        // A job of the shell's that somebody put into the agent's group; an orphan from before; a child, after the clock was set back.
        let older = vec![agent(), process(60, 50, 100, 50, 3), process(61, 1, 61, 61, 3), process(62, 100, 62, 62, 3)];
        assert_eq!(numbers(&adopted.look(older, unforked, |_| true)), [100, 62]);
    }

    #[test]
    fn a_ring_of_parents_ends() {
        let mut adopted = Adopted::new((100, 10));
        let mut found = numbers(&adopted.look(vec![process(101, 102, 100, 50, 11), process(102, 101, 100, 50, 12)], unforked, unmarked));
        found.sort_unstable();
        assert_eq!(found, [101, 102]);
    }
}
