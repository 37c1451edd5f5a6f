//! One `AssumeRole` call: the role's credentials, with the session's name, source identity and tags on them.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sdk_sts::types::Tag;
use jiff::Timestamp;

use super::client::{Sts, call_failed};
use super::error::AwsError;
use super::names::{self, TAG_DEVELOPER, TAG_PROJECT, TAG_SESSION};
use crate::model::SessionId;

const OPERATION: &str = "AssumeRole";
const SHORTEST: Duration = Duration::from_mins(15);
const ONE_HOUR: Duration = Duration::from_hours(1);
const LONGEST: Duration = Duration::from_hours(12);

/// What is asked of STS, the same for every mint of a session.
pub(super) struct RoleSession {
    role_arn: String,
    name: String,
    source_identity: String,
    tags: [(&'static str, String); 3],
    external_id: Option<String>,
    duration: Option<Duration>,
}

/// Credentials of the role, fresh from STS.
pub(super) struct Minted {
    pub(super) credentials: Credentials,
    pub(super) expires_at: Timestamp,
    /// `arn:aws:sts::<account>:assumed-role/<role>/<session name>`.
    pub(super) arn: String,
}

impl RoleSession {
    pub(super) fn new(role_arn: String, session: SessionId, developer: &str, project: &str) -> Self {
        let source_identity = names::source_identity(developer);
        let tags = [
            // A trust policy may insist that tag and source identity are the same.
            (TAG_DEVELOPER, source_identity.clone()),
            (TAG_PROJECT, names::tag_value(project)),
            (TAG_SESSION, session.to_string()),
        ];
        let name = names::role_session_name(session, developer);
        Self { role_arn, name, source_identity, tags, external_id: None, duration: None }
    }

    pub(super) fn external_id(self, external_id: Option<String>) -> Self {
        Self { external_id, ..self }
    }

    pub(super) fn duration(self, duration: Option<Duration>) -> Self {
        Self { duration, ..self }
    }

    /// The role session's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Asks STS for credentials with the developer's own.
    pub(super) async fn mint(&self, sts: &mut Sts) -> Result<Minted, AwsError> {
        let own = sts.credentials().await?;
        // Only temporary credentials have a token, and a role assumed with them is a chained one.
        let chained = own.session_token().is_some();
        let mut call = sts
            .client(own)
            .assume_role()
            .role_arn(&self.role_arn)
            .role_session_name(&self.name)
            .source_identity(&self.source_identity)
            .set_external_id(self.external_id.clone())
            .duration_seconds(seconds(self.duration, chained));
        for (key, value) in &self.tags {
            let tag = Tag::builder().key(*key).value(value).build();
            let tag = tag.map_err(|error| AwsError::Unreachable { operation: OPERATION, source: Box::new(error) })?;
            call = call.tags(tag).transitive_tag_keys(*key);
        }
        let answer = match call.send().await {
            Ok(answer) => answer,
            Err(error) => {
                sts.forget_credentials();
                return Err(call_failed(OPERATION, &self.role_arn, error));
            }
        };
        let missing = |missing| AwsError::Incomplete { operation: OPERATION, missing };
        let given = answer.credentials.ok_or_else(|| missing("Credentials"))?;
        let user = answer.assumed_role_user.ok_or_else(|| missing("AssumedRoleUser"))?;
        let end = SystemTime::try_from(given.expiration).map_err(|_| missing("readable Expiration"))?;
        let expires_at = Timestamp::try_from(end).map_err(|_| missing("readable Expiration"))?;
        let credentials = Credentials::new(given.access_key_id, given.secret_access_key, Some(given.session_token), Some(end), "sentrely");
        Ok(Minted { credentials, expires_at, arn: user.arn })
    }
}

/// `DurationSeconds`: within STS's limits, and never more than an hour for a chained role (facts/AWS.md decision 5).
fn seconds(wanted: Option<Duration>, chained: bool) -> i32 {
    let longest = if chained { ONE_HOUR } else { LONGEST };
    let duration = wanted.unwrap_or(ONE_HOUR).clamp(SHORTEST, longest);
    i32::try_from(duration.as_secs()).unwrap_or(3600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chained_role_is_never_asked_for_more_than_an_hour() {
        let hours = |n: u64| Some(Duration::from_hours(n));
        assert_eq!(seconds(None, false), 3600);
        assert_eq!(seconds(hours(8), false), 8 * 3600);
        assert_eq!(seconds(hours(8), true), 3600);
        assert_eq!(seconds(hours(20), false), 12 * 3600);
        assert_eq!(seconds(Some(Duration::from_mins(1)), true), 900);
    }
}
