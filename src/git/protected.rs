//! The branches that no session may change.

use std::sync::{Arc, PoisonError, RwLock};

use super::names::matches;

/// Patterns of branch names, `*` for any text; all clones are one list, which only grows.
///
/// For words, advice and the tripwire: what a push may do is decided by the one branch that is the session's.
#[derive(Debug, Clone, Default)]
pub struct Protected(Arc<RwLock<Vec<String>>>);

impl Protected {
    /// A list that begins with these.
    pub fn new(patterns: Vec<String>) -> Self {
        Self(Arc::new(RwLock::new(patterns)))
    }

    /// Adds what is not there yet.
    pub fn add(&self, patterns: impl IntoIterator<Item = String>) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for pattern in patterns {
            if !known.contains(&pattern) {
                known.push(pattern);
            }
        }
    }

    /// The list as it is now.
    pub fn patterns(&self) -> Vec<String> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a branch is among them.
    pub fn covers(&self, branch: &str) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).iter().any(|pattern| matches(pattern, branch))
    }
}
