//! Which limits hold for a session: those that were asked for, its own from before, the policy's over all of them.
//!
//! Pure. Whatever is asked for by whomever and whenever, the result is never above the policy (invariant I9).

use std::time::Duration;

use crate::config::Origin;
use crate::model::{Limit, LimitChange, Usd};

/// What a session may spend when nobody says otherwise and tokens are billed.
pub(super) const DEFAULT_BUDGET: Usd = Usd::from_pico(5_000_000_000_000);

/// What the limits are decided from.
pub(super) struct Claims<'a> {
    /// What was configured, before the policy clamped it.
    pub(super) asked: &'a [Limit],
    /// Who asked for it.
    pub(super) by: &'a Origin,
    /// What the session began with, when it is resumed.
    pub(super) own: Option<&'a [Limit]>,
    /// What holds where nobody says anything.
    pub(super) default: &'a [Limit],
    /// The machine's policy.
    pub(super) policy: &'a [Limit],
}

impl Claims<'_> {
    /// The limits, and whether they are the default. A resumed session keeps its own; a flag replaces the one of its unit, the project only
    /// tightens, and the policy has the last word.
    pub(super) fn decide(&self) -> (Vec<Limit>, bool) {
        let (limits, default) = match (self.asked, self.by, self.own) {
            ([], _, Some(own)) | (_, Origin::User(_), Some(own)) => (own.to_vec(), false),
            ([], _, None) => (self.default.to_vec(), self.policy.is_empty()),
            (asked, Origin::Flag(_) | Origin::Env(_), Some(own)) => (replaced(own, asked), false),
            (asked, _, Some(own)) => (tightest(asked, own), false),
            (asked, Origin::Project(_), None) => (tightest(asked, self.default), false),
            (asked, _, None) => (asked.to_vec(), false),
        };
        (tightest(&limits, self.policy), default)
    }
}

/// The time limit: a resumed session keeps its own unless a flag gives another, the project only tightens, the policy has the last word.
pub(super) fn time_limit(asked: Option<Duration>, by: &Origin, own: Option<Duration>, policy: Option<Duration>) -> Option<Duration> {
    let tighter = |one: Option<Duration>, other: Option<Duration>| [one, other].into_iter().flatten().min();
    let limit = match (by, own) {
        (Origin::Flag(_) | Origin::Env(_), _) | (_, None) => asked,
        (Origin::User(_), own) => own,
        (_, own) => tighter(asked, own),
    };
    tighter(limit, policy)
}

/// The limits of a running session after a change: the others stay, and nothing goes above the policy.
pub(super) fn changed(own: &[Limit], change: LimitChange, policy: &[Limit]) -> Result<Vec<Limit>, String> {
    let of_its_kind = |limits: &[Limit]| limits.iter().find(|limit| limit.kind() == change.kind()).copied();
    let unit = change.kind().plural();
    let limit = change.apply(of_its_kind(own)).ok_or_else(|| format!("it has no limit of {unit} that could be raised"))?;
    match of_its_kind(policy) {
        Some(bound) if limit.tighter(bound) != limit => Err(format!("{limit} is above the policy's limit of {bound}")),
        _ => Ok(replaced(own, &[limit])),
    }
}

/// `own`, with the limits of `given` in place of those of the same unit.
pub(super) fn replaced(own: &[Limit], given: &[Limit]) -> Vec<Limit> {
    let kept = own.iter().filter(|limit| given.iter().all(|new| new.kind() != limit.kind()));
    given.iter().chain(kept).copied().collect()
}

/// What may only tighten: of each unit the smaller limit holds, and no limit goes away.
fn tightest(limits: &[Limit], ceiling: &[Limit]) -> Vec<Limit> {
    let mut limits = limits.to_vec();
    for bound in ceiling {
        match limits.iter_mut().find(|known| known.kind() == bound.kind()) {
            Some(known) => *known = known.tighter(*bound),
            None => limits.push(*bound),
        }
    }
    limits
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::*;

    fn limits(texts: &[&str]) -> Vec<Limit> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn flag() -> Origin {
        Origin::Flag("--budget".to_owned())
    }

    fn user() -> Origin {
        Origin::User(PathBuf::from("config.toml"))
    }

    fn project() -> Origin {
        Origin::Project(PathBuf::from("sentrely.toml"))
    }

    fn resumed(asked: &[&str], by: &Origin, own: &[&str], policy: &[&str]) -> Vec<Limit> {
        let (asked, own, policy) = (limits(asked), limits(own), limits(policy));
        Claims { asked: &asked, by, own: Some(&own), default: &limits(&["5usd"]), policy: &policy }.decide().0
    }

    fn fresh(asked: &[&str], by: &Origin, policy: &[&str]) -> Vec<Limit> {
        let (asked, policy) = (limits(asked), limits(policy));
        Claims { asked: &asked, by, own: None, default: &limits(&["5usd"]), policy: &policy }.decide().0
    }

    #[test]
    fn a_projects_limit_only_tightens_the_default() {
        assert_eq!(fresh(&["1000usd"], &project(), &[]), limits(&["5usd"]));
        assert_eq!(fresh(&["1usd"], &project(), &[]), limits(&["1usd"]));
        assert_eq!(fresh(&["9Mtok"], &project(), &[]), limits(&["9Mtok", "5usd"]));
        assert_eq!(fresh(&["9usd"], &user(), &[]), limits(&["9usd"]));
    }

    #[test]
    fn a_flag_replaces_the_limit_of_its_unit_alone() {
        assert_eq!(resumed(&["2usd"], &flag(), &["1usd", "1Mtok"], &[]), limits(&["2usd", "1Mtok"]));
        assert_eq!(resumed(&["2usd"], &project(), &["1usd", "1Mtok"], &[]), limits(&["1usd", "1Mtok"]));
        assert_eq!(resumed(&["2usd"], &user(), &["1usd", "1Mtok"], &[]), limits(&["1usd", "1Mtok"]));
    }

    #[test]
    fn a_session_begun_above_a_later_policy_is_resumed_within_it() {
        // The control: without a policy it keeps what it began with.
        assert_eq!(resumed(&["20usd"], &user(), &["10usd"], &[]), limits(&["10usd"]));
        assert_eq!(resumed(&["20usd"], &user(), &["10usd"], &["5usd"]), limits(&["5usd"]));
        assert_eq!(resumed(&[], &Origin::Default, &["10usd"], &["5usd"]), limits(&["5usd"]));
        assert_eq!(resumed(&["7usd"], &flag(), &["3usd"], &["5usd"]), limits(&["5usd"]));
        assert_eq!(resumed(&["1Mtok"], &flag(), &["3usd"], &["5usd"]), limits(&["1Mtok", "3usd"]), "what was not asked for stays");
    }

    #[test]
    fn a_change_touches_its_own_unit_and_stays_within_the_policy() {
        let change = |own: &[&str], change: &str, policy: &[&str]| changed(&limits(own), change.parse().unwrap(), &limits(policy));
        assert_eq!(change(&["1usd", "1Mtok"], "+5usd", &[]), Ok(limits(&["6usd", "1Mtok"])));
        assert_eq!(change(&["1usd", "1Mtok"], "2Mtok", &["6usd"]), Ok(limits(&["2Mtok", "1usd"])));
        assert_eq!(change(&["1usd"], "+5usd", &["6usd"]), Ok(limits(&["6usd"])));
        assert_eq!(change(&["1usd"], "+6usd", &["6usd"]), Err("$7.00 is above the policy's limit of $6.00".to_owned()));
        assert_eq!(change(&["1usd"], "+1Mtok", &[]), Err("it has no limit of tokens that could be raised".to_owned()));
        assert_eq!(change(&["1usd"], "1Mtok", &[]), Ok(limits(&["1Mtok", "1usd"])));
    }

    #[test]
    fn a_resumed_session_keeps_its_time_limit_within_the_policy() {
        let hours = |hours: u64| (hours > 0).then(|| Duration::from_hours(hours));
        let decide = |asked, by: &Origin, own, policy| time_limit(hours(asked), by, hours(own), hours(policy));
        assert_eq!(decide(0, &Origin::Default, 2, 0), hours(2));
        assert_eq!(decide(3, &user(), 2, 0), hours(2));
        assert_eq!(decide(3, &flag(), 2, 0), hours(3));
        assert_eq!(decide(3, &project(), 2, 0), hours(2));
        assert_eq!(decide(1, &project(), 2, 0), hours(1));
        assert_eq!(decide(3, &user(), 0, 0), hours(3));
        assert_eq!(decide(9, &flag(), 8, 4), hours(4));
        assert_eq!(decide(0, &Origin::Default, 8, 4), hours(4));
    }

    fn any_limits() -> impl Strategy<Value = Vec<Limit>> {
        let usd = prop::option::of((0_u64..20).prop_map(|n| Limit::Usd(Usd::from_pico(n * 1_000_000_000_000))));
        let tokens = prop::option::of((0_u64..20).prop_map(Limit::Tokens));
        let requests = prop::option::of((0_u64..20).prop_map(Limit::Requests));
        (usd, tokens, requests).prop_map(|(usd, tokens, requests)| usd.into_iter().chain(tokens).chain(requests).collect())
    }

    proptest! {
        #[test]
        fn nothing_is_above_the_policy(
            asked in any_limits(),
            own in prop::option::of(any_limits()),
            policy in any_limits(),
            by in prop::sample::select(vec![Origin::Default, flag(), user(), project(), Origin::Env("X".to_owned())]),
        ) {
            let (decided, _) = Claims { asked: &asked, by: &by, own: own.as_deref(), default: &limits(&["5usd"]), policy: &policy }.decide();
            for bound in &policy {
                let limit = decided.iter().find(|limit| limit.kind() == bound.kind()).unwrap();
                prop_assert_eq!(limit.tighter(*bound), *limit);
            }
        }
    }
}
