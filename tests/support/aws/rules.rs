//! What STS allows: parameters, trust, chaining, expiry. No wire format here.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::{SignedDuration, Timestamp};

use super::{ACCOUNT, Seen};

/// All the double knows.
pub(super) struct World {
    /// By access key id.
    pub(super) principals: HashMap<String, Principal>,
    /// By ARN.
    pub(super) roles: HashMap<String, Role>,
    pub(super) clock_ahead: SignedDuration,
    pub(super) life: Option<SignedDuration>,
    pub(super) seen: Vec<Seen>,
    minted: u32,
}

/// Somebody with a key.
#[derive(Clone)]
pub(super) struct Principal {
    pub(super) arn: String,
    pub(super) secret: String,
    pub(super) token: Option<String>,
    pub(super) expires_at: Option<Timestamp>,
    pub(super) is_role_session: bool,
    pub(super) inherited_tags: BTreeMap<String, String>,
    pub(super) source_identity: Option<String>,
}

impl Principal {
    pub(super) fn user(arn: &str, secret: &str) -> Self {
        Self {
            arn: arn.to_owned(),
            secret: secret.to_owned(),
            token: None,
            expires_at: None,
            is_role_session: false,
            inherited_tags: BTreeMap::new(),
            source_identity: None,
        }
    }
}

/// A role and what its trust policy allows everybody in the account.
pub(super) struct Role {
    pub(super) allowed: BTreeSet<String>,
    pub(super) external_id: Option<String>,
    pub(super) max_session_seconds: i64,
}

impl Default for Role {
    fn default() -> Self {
        let allowed = ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"].map(str::to_owned).into();
        Self { allowed, external_id: None, max_session_seconds: 3600 }
    }
}

/// A refusal: HTTP status, code, message.
#[derive(Debug)]
pub(super) struct Refusal(pub(super) u16, pub(super) &'static str, pub(super) String);

/// What an `AssumeRole` gives.
pub(super) struct Granted {
    pub(super) access_key_id: String,
    pub(super) principal: Principal,
    pub(super) role_session_name: String,
}

type Params = BTreeMap<String, String>;

const KNOWN: [&str; 7] = ["RoleArn", "RoleSessionName", "SourceIdentity", "DurationSeconds", "ExternalId", "Tags.", "TransitiveTagKeys."];

impl World {
    pub(super) fn new(principals: HashMap<String, Principal>, roles: HashMap<String, Role>) -> Self {
        Self { principals, roles, clock_ahead: SignedDuration::ZERO, life: None, seen: Vec::new(), minted: 0 }
    }

    pub(super) fn now(&self) -> Timestamp {
        Timestamp::now() + self.clock_ahead
    }

    /// Whose key it is, if it is good at this time.
    pub(super) fn principal(&self, access_key_id: &str, token: Option<&str>) -> Result<Principal, Refusal> {
        let invalid = || Refusal(403, "InvalidClientTokenId", "The security token included in the request is invalid.".to_owned());
        let found = self.principals.get(access_key_id).ok_or_else(invalid)?;
        if found.token.as_deref() != token {
            return Err(invalid());
        }
        if found.expires_at.is_some_and(|end| end <= self.now()) {
            return Err(Refusal(403, "ExpiredToken", "The security token included in the request is expired".to_owned()));
        }
        Ok(found.clone())
    }

    pub(super) fn assume_role(&mut self, caller: &Principal, params: &Params) -> Result<Granted, Refusal> {
        check_parameters(params)?;
        let tags = tags(params);
        let arn = &params["RoleArn"];
        let denied = |action: &str| {
            Refusal(403, "AccessDenied", format!("User: {} is not authorized to perform: {action} on resource: {arn}", caller.arn))
        };
        let role = self.roles.get(arn).ok_or_else(|| denied("sts:AssumeRole"))?;
        let source_identity = params.get("SourceIdentity").cloned().or_else(|| caller.source_identity.clone());
        let needed = [
            ("sts:AssumeRole", true),
            ("sts:TagSession", !tags.is_empty() || !caller.inherited_tags.is_empty()),
            ("sts:SetSourceIdentity", source_identity.is_some()),
        ];
        for (action, _) in needed.into_iter().filter(|(_, needed)| *needed) {
            if !role.allowed.contains(action) {
                return Err(denied(action));
            }
        }
        if role.external_id.as_ref().is_some_and(|id| params.get("ExternalId") != Some(id)) {
            return Err(denied("sts:AssumeRole"));
        }
        if caller.source_identity.as_ref().is_some_and(|set| Some(set) != source_identity.as_ref()) {
            return Err(denied("sts:SetSourceIdentity"));
        }
        if let Some((key, _)) =
            tags.iter().find(|(key, _)| caller.inherited_tags.keys().any(|inherited| inherited.eq_ignore_ascii_case(key)))
        {
            return Err(invalid(format!(
                "One of the specified transitive tag keys can't be set because it conflicts with a transitive tag key from the calling session: {key}"
            )));
        }
        let seconds = duration(params)?;
        if caller.is_role_session && seconds > 3600 {
            return Err(invalid(
                "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining.".to_owned(),
            ));
        }
        if seconds > role.max_session_seconds {
            return Err(invalid("The requested DurationSeconds exceeds the MaxSessionDuration set for this role.".to_owned()));
        }
        Ok(self.mint(arn, params, tags, source_identity, caller, SignedDuration::from_secs(seconds)))
    }

    fn mint(
        &mut self,
        arn: &str,
        params: &Params,
        tags: Vec<(String, String)>,
        source_identity: Option<String>,
        caller: &Principal,
        asked: SignedDuration,
    ) -> Granted {
        self.minted += 1;
        let transitive = transitive_keys(params);
        let mut inherited_tags = caller.inherited_tags.clone();
        inherited_tags.extend(tags.into_iter().filter(|(key, _)| transitive.contains(key)));
        let role = arn.rsplit('/').next().unwrap();
        let role_session_name = params["RoleSessionName"].clone();
        let principal = Principal {
            arn: format!("arn:aws:sts::{ACCOUNT}:assumed-role/{role}/{role_session_name}"),
            secret: format!("minted-secret-{}", self.minted),
            token: Some(format!("minted-token-{}", self.minted)),
            expires_at: Some(self.now() + self.life.unwrap_or(asked)),
            is_role_session: true,
            inherited_tags,
            source_identity,
        };
        let access_key_id = format!("ASIAMINTED{:06}", self.minted);
        self.principals.insert(access_key_id.clone(), principal.clone());
        Granted { access_key_id, principal, role_session_name }
    }
}

pub(super) fn tags(params: &Params) -> Vec<(String, String)> {
    let part = |n: usize, part: &str| params.get(&format!("Tags.member.{n}.{part}")).cloned();
    (1..).map_while(|n| Some((part(n, "Key")?, part(n, "Value").unwrap_or_default()))).collect()
}

pub(super) fn transitive_keys(params: &Params) -> Vec<String> {
    (1..).map_while(|n: usize| params.get(&format!("TransitiveTagKeys.member.{n}")).cloned()).collect()
}

fn check_parameters(params: &Params) -> Result<(), Refusal> {
    if let Some(strange) =
        params.keys().find(|key| !KNOWN.iter().any(|known| key == known || (known.ends_with('.') && key.starts_with(known))))
    {
        return Err(invalid(format!("unexpected parameter {strange}")));
    }
    if !params.contains_key("RoleArn") {
        return Err(invalid(
            "1 validation error detected: Value null at 'roleArn' failed to satisfy constraint: Member must not be null".to_owned(),
        ));
    }
    let name = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c);
    check(params, "RoleSessionName", true, 2..=64, name)?;
    check(params, "SourceIdentity", false, 2..=64, name)?;
    check(params, "ExternalId", false, 2..=1224, |c| name(c) || ":/".contains(c))?;
    let tags = tags(params);
    let mut keys = BTreeSet::new();
    for (key, value) in &tags {
        let sized = (1..=128).contains(&key.chars().count()) && value.chars().count() <= 256;
        if !sized || !key.chars().chain(value.chars()).all(in_tag) {
            return Err(invalid(format!(
                "1 validation error detected: tag {key}={value} failed to satisfy constraint: [\\p{{L}}\\p{{Z}}\\p{{N}}_.:/=+\\-@]*"
            )));
        }
        if key.to_lowercase().starts_with("aws:") || value.to_lowercase().starts_with("aws:") {
            return Err(invalid("the prefix aws: is reserved".to_owned()));
        }
        if !keys.insert(key.to_lowercase()) {
            return Err(Refusal(
                400,
                "InvalidParameterValue",
                "Duplicate tag keys found. Please note that Tag keys are case insensitive.".to_owned(),
            ));
        }
    }
    if tags.len() > 50 {
        return Err(invalid("more than 50 session tags".to_owned()));
    }
    if let Some(stray) = transitive_keys(params).iter().find(|key| !keys.contains(&key.to_lowercase())) {
        return Err(invalid(format!("The specified transitive tag key {stray} must be included in the requested tags.")));
    }
    Ok(())
}

fn check(
    params: &Params,
    key: &str,
    required: bool,
    length: std::ops::RangeInclusive<usize>,
    allowed: impl Fn(char) -> bool,
) -> Result<(), Refusal> {
    let Some(value) = params.get(key) else {
        return if required { Err(invalid(format!("1 validation error detected: Value null at '{key}'"))) } else { Ok(()) };
    };
    if length.contains(&value.chars().count()) && value.chars().all(allowed) && !value.starts_with("aws:") {
        return Ok(());
    }
    Err(invalid(format!("1 validation error detected: Value '{value}' at '{key}' failed to satisfy constraint")))
}

/// `[\p{L}\p{Z}\p{N}_.:/=+\-@]`; the vowel signs and marks that the standard library counts as letters are none.
fn in_tag(c: char) -> bool {
    let mark = matches!(c, '\u{300}'..='\u{36F}' | '\u{591}'..='\u{5C7}' | '\u{610}'..='\u{61A}' | '\u{64B}'..='\u{65F}' | '\u{900}'..='\u{903}' | '\u{93A}'..='\u{94F}');
    let separator =
        matches!(c, ' ' | '\u{A0}' | '\u{1680}' | '\u{2000}'..='\u{200A}' | '\u{2028}' | '\u{2029}' | '\u{202F}' | '\u{205F}' | '\u{3000}');
    "_.:/=+-@".contains(c) || separator || (c.is_alphanumeric() && !mark)
}

fn duration(params: &Params) -> Result<i64, Refusal> {
    let Some(text) = params.get("DurationSeconds") else { return Ok(3600) };
    match text.parse() {
        Ok(seconds) if (900..=43_200).contains(&seconds) => Ok(seconds),
        _ => Err(invalid(format!("1 validation error detected: Value '{text}' at 'durationSeconds' failed to satisfy constraint"))),
    }
}

fn invalid(message: String) -> Refusal {
    Refusal(400, "ValidationError", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::aws::{DEVELOPER, ROLE};

    fn world() -> World {
        World::new(HashMap::new(), HashMap::from([(ROLE.to_owned(), Role::default())]))
    }

    fn params(more: &[(&str, &str)]) -> Params {
        let good = [
            ("RoleArn", ROLE),
            ("RoleSessionName", "session"),
            ("SourceIdentity", "ana"),
            ("Tags.member.1.Key", "sentrely:session"),
            ("Tags.member.1.Value", "x"),
            ("TransitiveTagKeys.member.1", "sentrely:session"),
        ];
        good.iter().chain(more).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn refusal(caller: &Principal, more: &[(&str, &str)]) -> Option<&'static str> {
        world().assume_role(caller, &params(more)).err().map(|refusal| refusal.1)
    }

    #[test]
    fn the_double_refuses_what_sts_refuses() {
        let ana = Principal::user(DEVELOPER, "secret");
        assert_eq!(refusal(&ana, &[]), None);
        let long = "x".repeat(257);
        for (key, value) in [
            ("RoleSessionName", "x"),
            ("RoleSessionName", &long[..65]),
            ("RoleSessionName", "ana smith"),
            ("RoleSessionName", "Größe"),
            ("SourceIdentity", "a"),
            ("SourceIdentity", "ana:x"),
            ("SourceIdentity", &long[..65]),
            ("Tags.member.1.Value", &long),
            ("Tags.member.1.Value", "shop#1"),
            ("Tags.member.1.Value", "\u{94d}"),
            ("Tags.member.1.Value", "aws:x"),
            ("TransitiveTagKeys.member.2", "other"),
            ("DurationSeconds", "899"),
            ("DurationSeconds", "3601"),
            ("ExternalId", "#"),
            ("Polcy", "x"),
        ] {
            assert_eq!(refusal(&ana, &[(key, value)]), Some("ValidationError"), "{key}={value}");
        }
        assert_eq!(
            refusal(&ana, &[("Tags.member.2.Key", "Sentrely:Session"), ("Tags.member.2.Value", "y")]),
            Some("InvalidParameterValue")
        );
        assert_eq!(refusal(&ana, &[("RoleArn", "arn:aws:iam::111122223333:role/other")]), Some("AccessDenied"));
    }

    #[test]
    fn the_double_hands_source_identity_and_transitive_tags_on_along_a_chain() {
        let ana = Principal::user(DEVELOPER, "secret");
        let mut world = world();
        let first = world.assume_role(&ana, &params(&[])).unwrap().principal;
        assert_eq!(
            (first.source_identity.as_deref(), first.inherited_tags.keys().next().map(String::as_str)),
            (Some("ana"), Some("sentrely:session"))
        );
        assert_eq!(refusal(&first, &[]), Some("ValidationError"), "a transitive tag cannot be set again");
        let other = [("Tags.member.1.Key", "other"), ("TransitiveTagKeys.member.1", "other")];
        assert_eq!(refusal(&first, &other), None);
        assert_eq!(refusal(&first, &[other[0], other[1], ("SourceIdentity", "bob")]), Some("AccessDenied"));
    }
}
