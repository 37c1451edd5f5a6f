//! Which pushes pass: a pure decision over the command list.

use super::super::Protected;
use super::pkt::{Commands, Report, Update};

/// What one session may push.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    /// Without `refs/heads/`.
    pub(super) allowed_branch: String,
    /// Only for the wording.
    pub(super) protected: Protected,
}

/// A push that does not pass.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// What was asked for, each with why it is refused.
    pub(super) refs: Vec<(String, String)>,
    /// In one line, for the journal.
    pub(super) reason: String,
}

impl Rules {
    /// The one update that may go on, or why none may. A push with anything else in it is refused as a whole.
    pub(super) fn judge(&self, asked: &Commands) -> Result<Update, Refusal> {
        let allowed = format!("refs/heads/{}", self.allowed_branch);
        if let [update] = &asked.updates[..]
            && update.name == allowed
            && !update.is_delete()
        {
            return Ok(update.clone());
        }
        let refs: Vec<(String, String)> = asked.updates.iter().map(|update| (update.name.clone(), self.why(update, &allowed))).collect();
        let reason = refs.iter().map(|(_, why)| why).find(|why| !why.starts_with("sentrely: refused together")).cloned();
        Err(Refusal { reason: reason.unwrap_or_else(|| "sentrely: more than one update of the same branch".to_owned()), refs })
    }

    fn why(&self, update: &Update, allowed: &str) -> String {
        let only = format!("this session may only push {}", self.allowed_branch);
        if update.name == allowed {
            return if update.is_delete() {
                "sentrely: a session does not delete its branch".to_owned()
            } else {
                "sentrely: refused together with the rest of this push".to_owned()
            };
        }
        let what = match update.name.strip_prefix("refs/heads/") {
            Some(branch) if self.protected.covers(branch) => "protected branch",
            Some(_) => "not this session's branch",
            None if update.name.starts_with("refs/tags/") => "tags are not pushed from a session",
            None => "not a branch",
        };
        format!("sentrely: {what}; {only}")
    }

    /// What the agent's git is to print for a refusal.
    pub(super) fn report(&self, refusal: &Refusal) -> Report {
        Report {
            refs: refusal.refs.iter().map(|(name, why)| (name.clone(), Some(why.clone()))).collect(),
            remarks: vec![
                "sentrely: this push was refused; nothing was sent to the remote".to_owned(),
                format!("sentrely: push your work with: git push origin HEAD:{}", self.allowed_branch),
                "sentrely: a person merges it from there, usually by a pull request".to_owned(),
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "1111111111111111111111111111111111111111";
    const ZERO: &str = "0000000000000000000000000000000000000000";

    fn judge(updates: &[(&str, &str)]) -> Result<Update, Refusal> {
        let protected = Protected::new(vec!["main".into(), "release/*".into()]);
        let rules = Rules { allowed_branch: "sentrely/ada/fix-9f3a".into(), protected };
        let updates = updates.iter().map(|(new, name)| Update { old: ZERO.into(), new: (*new).into(), name: (*name).into() }).collect();
        rules.judge(&Commands { updates, report_status: true, side_band: true })
    }

    #[test]
    fn only_the_sessions_branch_alone_passes() {
        let own = "refs/heads/sentrely/ada/fix-9f3a";
        assert_eq!(judge(&[(A, own)]).unwrap().name, own);
        for refused in [
            &[(A, "refs/heads/main")][..],
            &[(A, "refs/heads/sentrely/ada/fix-9f3a2")],
            &[(A, "refs/heads/sentrely/ada/fix-9f3a/x")],
            &[(A, "refs/heads/Sentrely/ada/fix-9f3a")],
            &[(A, "refs/tags/sentrely/ada/fix-9f3a")],
            &[(ZERO, own)],
            &[(A, own), (A, "refs/heads/main")],
            &[(A, own), (A, own)],
            &[],
        ] {
            assert!(judge(refused).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn a_refusal_names_each_ref_with_its_reason() {
        let refusal = judge(&[(A, "refs/heads/release/1"), (A, "refs/heads/sentrely/ada/fix-9f3a")]).unwrap_err();
        assert_eq!(refusal.refs[0].1, "sentrely: protected branch; this session may only push sentrely/ada/fix-9f3a");
        assert_eq!(refusal.refs[1].1, "sentrely: refused together with the rest of this push");
        assert_eq!(refusal.reason, refusal.refs[0].1);
    }
}
