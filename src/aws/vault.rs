//! The credentials that are vended right now, shared between who renews them, who vends them and who closes.
//!
//! Once shut it never opens again, whatever a renewal that was under way brings.

use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_credential_types::Credentials;
use jiff::Timestamp;

/// The place where the credentials are kept.
pub(super) struct Vault(Mutex<State>);

enum State {
    Open { credentials: Credentials, expires_at: Timestamp },
    Shut(Shut),
}

/// Why nothing is vended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shut {
    /// For programs.
    pub(super) code: &'static str,
    /// For people: SDKs and the CLI print it.
    pub(super) message: String,
}

impl Vault {
    pub(super) fn new(credentials: Credentials, expires_at: Timestamp) -> Self {
        Self(Mutex::new(State::Open { credentials, expires_at }))
    }

    /// The credentials and their true end, or why there are none.
    pub(super) fn read(&self, now: Timestamp) -> Result<(Credentials, Timestamp), Shut> {
        match &*self.lock() {
            State::Open { credentials, expires_at } if *expires_at > now => Ok((credentials.clone(), *expires_at)),
            State::Open { .. } => Err(Shut {
                code: "CredentialsExpired",
                message: "sentrely: the session's AWS credentials have expired and could not be renewed yet".to_owned(),
            }),
            State::Shut(reason) => Err(reason.clone()),
        }
    }

    /// Replaces the credentials; false when the vault is shut.
    pub(super) fn put(&self, fresh: Credentials, until: Timestamp) -> bool {
        match &mut *self.lock() {
            State::Open { credentials, expires_at } => {
                (*credentials, *expires_at) = (fresh, until);
                true
            }
            State::Shut(_) => false,
        }
    }

    /// Forgets the credentials for good. The first reason stays.
    pub(super) fn shut(&self, reason: Shut) {
        let mut state = self.lock();
        if matches!(*state, State::Open { .. }) {
            *state = State::Shut(reason);
        }
    }

    /// When the credentials end; none once shut.
    pub(super) fn expires_at(&self) -> Option<Timestamp> {
        match &*self.lock() {
            State::Open { expires_at, .. } => Some(*expires_at),
            State::Shut(_) => None,
        }
    }

    /// No code panics while it holds the lock, and if one did the state would still be whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> Credentials {
        Credentials::new(id, "secret", Some("token".to_owned()), None, "test")
    }

    #[test]
    fn a_shut_vault_stays_shut_whatever_a_late_renewal_brings() {
        let now: Timestamp = "2026-11-22T07:00:00Z".parse().unwrap();
        let later: Timestamp = "2026-11-22T08:00:00Z".parse().unwrap();
        let vault = Vault::new(key("ASIA1"), later);
        assert!(vault.put(key("ASIA2"), later));
        assert_eq!(vault.read(now).unwrap().0.access_key_id(), "ASIA2");
        let ended = Shut { code: "SessionEnded", message: "ended".to_owned() };
        vault.shut(ended.clone());
        vault.shut(Shut { code: "Other", message: "other".to_owned() });
        assert!(!vault.put(key("ASIA3"), later));
        assert_eq!(vault.read(now).unwrap_err(), ended);
        assert_eq!(vault.expires_at(), None);
    }

    #[test]
    fn expired_credentials_are_not_vended() {
        let end: Timestamp = "2026-11-22T07:00:00Z".parse().unwrap();
        assert_eq!(Vault::new(key("ASIA1"), end).read(end).unwrap_err().code, "CredentialsExpired");
    }
}
