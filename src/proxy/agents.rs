//! How many subagents ask at the same time, and how deep they were started by one another: by the client's own headers.
//!
//! A subagent that is refused fails, the main conversation is told and goes on (`facts/CLAUDE_CODE.md` section 4). A client that sends no
//! such headers, or wrong ones, is not held to this; the budget holds it.

use std::collections::HashMap;

/// Subagents whose depth is remembered; with more, the oldest knowledge is given up.
const MAX_KNOWN: usize = 1_000;

/// The limits; `None` is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AgentLimits {
    /// Subagents with an answer under way at the same time.
    pub at_once: Option<u32>,
    /// 1: the main conversation's subagents may start none.
    pub depth: Option<u32>,
}

/// The subagents so far.
#[derive(Debug, Default)]
pub(super) struct Agents {
    /// Answers under way.
    open: HashMap<String, u32>,
    depth: HashMap<String, u32>,
}

impl Agents {
    /// A request of a subagent came; why it may not pass. One that may has to [leave](Self::leave).
    pub(super) fn enter(&mut self, limits: AgentLimits, agent: &str, parent: Option<&str>) -> Result<(), String> {
        let above = parent.map_or(0, |parent| self.depth.get(parent).copied().unwrap_or(1));
        let depth = self.depth.get(agent).copied().unwrap_or(0).max(above.saturating_add(1));
        if let Some(limit) = limits.depth.filter(|limit| depth > *limit) {
            return Err(format!(
                "subagents may start one another {limit} deep at most (loops.subagent_depth), and this one is {depth} deep"
            ));
        }
        let others = self.open.keys().filter(|open| *open != agent).count();
        if let Some(limit) = limits.at_once.filter(|limit| others >= *limit as usize) {
            return Err(format!(
                "{limit} subagents at work at the same time are the limit (loops.subagents): start it again when one has ended"
            ));
        }
        if self.depth.len() >= MAX_KNOWN {
            self.depth.clear();
        }
        self.depth.insert(agent.to_owned(), depth);
        *self.open.entry(agent.to_owned()).or_insert(0) += 1;
        Ok(())
    }

    /// The answer to one of its requests has ended.
    pub(super) fn leave(&mut self, agent: &str) {
        if let Some(count) = self.open.get_mut(agent) {
            *count -= 1;
            if *count == 0 {
                self.open.remove(agent);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_subagents_may_ask_at_a_time_and_a_place_is_free_again_when_one_ends() {
        let limits = AgentLimits { at_once: Some(2), depth: None };
        let mut agents = Agents::default();
        for agent in ["a", "b", "a"] {
            assert_eq!(agents.enter(limits, agent, None), Ok(()));
        }
        assert!(agents.enter(limits, "c", None).unwrap_err().contains("2 subagents"));
        agents.leave("a");
        assert!(agents.enter(limits, "c", None).is_err(), "it still has an answer under way");
        agents.leave("a");
        assert_eq!(agents.enter(limits, "c", None), Ok(()));
        assert_eq!(agents.enter(AgentLimits::default(), "d", None), Ok(()));
    }

    #[test]
    fn depth_is_counted_from_the_main_conversation_and_leaving_out_the_parent_later_changes_nothing() {
        let limits = AgentLimits { at_once: None, depth: Some(2) };
        let mut agents = Agents::default();
        assert_eq!(agents.enter(limits, "a", None), Ok(()));
        assert_eq!(agents.enter(limits, "b", Some("a")), Ok(()));
        assert!(agents.enter(limits, "c", Some("b")).unwrap_err().contains("2 deep at most"));
        assert_eq!(agents.enter(limits, "b", None), Ok(()));
        assert!(agents.enter(limits, "c", Some("b")).is_err());
        assert_eq!(agents.enter(limits, "d", Some("never seen")), Ok(()));
    }
}
