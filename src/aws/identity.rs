//! Who is calling: the developer behind the AWS credentials of the machine, as STS names them.

use std::str::FromStr;

use super::client::{self, Source};
use super::error::AwsError;
use super::thread::on_own_thread;

/// Asks STS who the developer is, with the developer's own credentials (the whole default chain of the SDK).
pub async fn caller(source: &Source) -> Result<Caller, AwsError> {
    let source = source.clone();
    on_own_thread("aws-identity", move || async move {
        let client = client::Sts::connect(&source, None).await?;
        client.caller_arn().await?.parse().map_err(AwsError::from)
    })
    .await
}

/// Who STS says is calling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The whole ARN.
    pub arn: String,
    /// The twelve digits of the account.
    pub account: String,
    /// The name of the person or of the role's session; none for an account's root user.
    pub name: Option<String>,
    /// What kind of principal it is.
    pub kind: CallerKind,
}

/// What kind of principal is calling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallerKind {
    /// A person through IAM Identity Center: AWS vouches for the session's name.
    IdentityCenter {
        /// The permission set.
        permission_set: String,
    },
    /// An IAM user.
    User,
    /// Any other role: whoever assumed it chose the session's name.
    Role {
        /// The role's name.
        role: String,
    },
    /// A federated user of `GetFederationToken`.
    FederatedUser,
    /// The account's root user.
    Root,
}

/// Why a text is not an ARN that we can use.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ArnError {
    /// Not the ARN of a principal.
    #[error("read `{0}` as the ARN of an AWS principal")]
    Caller(String),
    /// Not the ARN of a role.
    #[error("read `{0}` as the ARN of a role")]
    Role(String),
}

impl ArnError {
    /// What was expected.
    pub(super) fn hint(&self) -> String {
        match self {
            Self::Caller(_) => {
                "expected arn:aws:iam::<account>:user/<name> or arn:aws:sts::<account>:assumed-role/<role>/<session>".to_owned()
            }
            Self::Role(_) => "expected arn:aws:iam::<account of 12 digits>:role/<name>".to_owned(),
        }
    }
}

impl Caller {
    /// The developer's name: the Identity Center session's, the IAM user's, else the role session's.
    pub fn developer(&self) -> Option<&str> {
        self.name.as_deref()
    }
}

impl FromStr for Caller {
    type Err = ArnError;

    fn from_str(arn: &str) -> Result<Self, ArnError> {
        let bad = || ArnError::Caller(arn.to_owned());
        let parts = Arn::read(arn).ok_or_else(bad)?;
        let (name, kind) = match (parts.service, parts.resource.split_once('/')) {
            ("iam", None) if parts.resource == "root" => (None, CallerKind::Root),
            // A user may have a path: user/division/team/ana.
            ("iam", Some(("user", path))) => (path.rsplit('/').next(), CallerKind::User),
            ("sts", Some(("federated-user", name))) => (Some(name), CallerKind::FederatedUser),
            ("sts", Some(("assumed-role", rest))) => {
                let (role, session) = rest.rsplit_once('/').ok_or_else(bad)?;
                (Some(session), role_kind(role))
            }
            _ => return Err(bad()),
        };
        if name == Some("") {
            return Err(bad());
        }
        Ok(Self { arn: arn.to_owned(), account: parts.account.to_owned(), name: name.map(str::to_owned), kind })
    }
}

/// Permission set `Developer` becomes the role `AWSReservedSSO_Developer_<16 hex digits>`.
fn role_kind(role: &str) -> CallerKind {
    match role.strip_prefix("AWSReservedSSO_").and_then(|rest| rest.rsplit_once('_')) {
        Some((permission_set, suffix)) if suffix.len() == 16 && suffix.bytes().all(|b| b.is_ascii_hexdigit()) => {
            CallerKind::IdentityCenter { permission_set: permission_set.to_owned() }
        }
        _ => CallerKind::Role { role: role.to_owned() },
    }
}

/// `arn:<partition>:<service>:<region>:<account>:<resource>`.
pub(super) struct Arn<'a> {
    pub(super) partition: &'a str,
    pub(super) service: &'a str,
    pub(super) account: &'a str,
    pub(super) resource: &'a str,
}

impl<'a> Arn<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let mut parts = text.splitn(6, ':');
        let (arn, partition, service) = (parts.next()?, parts.next()?, parts.next()?);
        let (_region, account, resource) = (parts.next()?, parts.next()?, parts.next()?);
        let digits = account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
        (arn == "arn" && partition.starts_with("aws") && digits).then_some(Self { partition, service, account, resource })
    }

    /// Reads the ARN of an IAM role, paths allowed.
    pub(super) fn role(text: &'a str) -> Result<Self, ArnError> {
        let named = |arn: &Self| {
            let name = arn.resource.strip_prefix("role/").and_then(|path| path.rsplit('/').next());
            arn.service == "iam" && name.is_some_and(|name| !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic()))
        };
        Self::read(text).filter(named).ok_or_else(|| ArnError::Role(text.to_owned()))
    }

    /// A region of the ARN's partition in which STS is always on, for a machine that names none.
    pub(super) fn home_region(&self) -> &'static str {
        match self.partition {
            "aws-cn" => "cn-north-1",
            "aws-us-gov" => "us-gov-west-1",
            "aws-eusc" => "eusc-de-east-1",
            _ => "us-east-1",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arn: &str) -> (Option<String>, CallerKind) {
        let caller: Caller = arn.parse().unwrap();
        assert_eq!((caller.arn.as_str(), caller.account.as_str()), (arn, "111122223333"));
        (caller.name, caller.kind)
    }

    fn named(name: &str, kind: CallerKind) -> (Option<String>, CallerKind) {
        (Some(name.to_owned()), kind)
    }

    #[test]
    fn an_identity_center_session_names_the_person_in_every_partition() {
        for partition in ["aws", "aws-cn", "aws-us-gov"] {
            assert_eq!(
                read(&format!("arn:{partition}:sts::111122223333:assumed-role/AWSReservedSSO_Power_User_0123456789abcdef/ana@example.com")),
                named("ana@example.com", CallerKind::IdentityCenter { permission_set: "Power_User".into() }),
            );
        }
    }

    #[test]
    fn an_iam_user_is_named_without_its_path() {
        for partition in ["aws", "aws-cn", "aws-us-gov"] {
            assert_eq!(read(&format!("arn:{partition}:iam::111122223333:user/ana")), named("ana", CallerKind::User));
            assert_eq!(read(&format!("arn:{partition}:iam::111122223333:user/division/team/ana")), named("ana", CallerKind::User));
        }
    }

    #[test]
    fn any_other_role_is_named_by_its_session() {
        assert_eq!(
            read("arn:aws:sts::111122223333:assumed-role/ci-base/GitHubActions"),
            named("GitHubActions", CallerKind::Role { role: "ci-base".into() }),
        );
        assert_eq!(
            read("arn:aws:sts::111122223333:assumed-role/AWSReservedSSO_lookalike/bob"),
            named("bob", CallerKind::Role { role: "AWSReservedSSO_lookalike".into() }),
        );
        assert_eq!(read("arn:aws:sts::111122223333:federated-user/ana"), named("ana", CallerKind::FederatedUser));
    }

    #[test]
    fn the_root_user_is_nobody_in_particular() {
        assert_eq!(read("arn:aws:iam::111122223333:root"), (None, CallerKind::Root));
    }

    #[test]
    fn what_is_not_a_principal_is_refused() {
        for bad in [
            "",
            "ana",
            "arn:aws:iam::1111:user/ana",
            "arn:aws:iam::111122223333:user/",
            "arn:aws:s3:::bucket",
            "arn:aws:sts::111122223333:assumed-role/role",
            "arn:aws:sts::111122223333:assumed-role/role/",
            "arn:gcp:iam::111122223333:user/ana",
        ] {
            assert_eq!(bad.parse::<Caller>(), Err(ArnError::Caller(bad.to_owned())), "{bad}");
        }
    }

    #[test]
    fn a_role_is_read_with_its_path_and_partition() {
        assert_eq!(Arn::role("arn:aws:iam::111122223333:role/sentrely-agent").unwrap().home_region(), "us-east-1");
        assert_eq!(Arn::role("arn:aws-cn:iam::111122223333:role/team/agent").unwrap().home_region(), "cn-north-1");
        assert_eq!(Arn::role("arn:aws-us-gov:iam::111122223333:role/agent").unwrap().home_region(), "us-gov-west-1");
        for bad in [
            "sentrely-agent",
            "arn:aws:iam::111122223333:user/ana",
            "arn:aws:iam::111122223333:role/",
            "arn:aws:sts::111122223333:assumed-role/a/b",
        ] {
            assert!(Arn::role(bad).is_err(), "{bad}");
        }
    }
}
