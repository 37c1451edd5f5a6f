//! What can go wrong between sentrely and AWS, and what the user can do about it.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use super::identity::ArnError;

type Cause = Box<dyn Error + Send + Sync>;

/// Why AWS could not be used.
#[derive(Debug, thiserror::Error)]
pub enum AwsError {
    /// The whole chain of providers (environment, profile, SSO, web identity, container, instance) found nothing.
    #[error("find AWS credentials of the developer")]
    NoCredentials {
        /// What the last provider said.
        #[source]
        source: Cause,
    },
    /// A provider was configured but failed: an expired login, a broken profile, a `credential_process` that exits 1.
    #[error("load the developer's AWS credentials")]
    Credentials {
        /// What the provider said.
        #[source]
        source: Cause,
    },
    /// STS refused for want of a permission.
    #[error("call sts:{operation}: {} is not allowed: {message}", .action.as_deref().unwrap_or("the call"))]
    Denied {
        /// The API operation.
        operation: &'static str,
        /// The permission STS names as missing, for example `sts:TagSession`.
        action: Option<String>,
        /// The role asked for; empty for calls that name none.
        role: String,
        /// What STS said, word for word.
        message: String,
    },
    /// STS refused for another reason.
    #[error("call sts:{operation}: {code}: {message}")]
    Refused {
        /// The API operation.
        operation: &'static str,
        /// The error code of the API.
        code: String,
        /// What STS said, word for word.
        message: String,
    },
    /// No answer, or one that is not STS's.
    #[error("reach STS for sts:{operation}")]
    Unreachable {
        /// The API operation.
        operation: &'static str,
        /// What the connection said.
        #[source]
        source: Cause,
    },
    /// The answer lacks what it must have.
    #[error("read the answer of sts:{operation}: it has no {missing}")]
    Incomplete {
        /// The API operation.
        operation: &'static str,
        /// The absent element.
        missing: &'static str,
    },
    /// An ARN that cannot be read.
    #[error(transparent)]
    Arn(#[from] ArnError),
    /// Credentials and role were not there in time.
    #[error("get AWS credentials within {seconds} s")]
    TimedOut {
        /// How long we waited.
        seconds: u64,
    },
    /// The loopback endpoint, the thread or the runtime could not be set up.
    #[error("set up the credentials endpoint")]
    Setup(#[source] io::Error),
    /// A file of ours could not be written, or `AWS_CA_BUNDLE` not read.
    #[error("use `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The AWS thread ended without an answer.
    #[error("get an answer from the AWS thread: it ended early")]
    ThreadEnded,
}

impl AwsError {
    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoCredentials { .. } => {
                Some("sign in (`aws sso login`), set AWS_PROFILE, or remove `role` from [aws] to run without AWS".to_owned())
            }
            Self::Credentials { .. } => {
                Some("check `aws sts get-caller-identity`; an expired login is renewed with `aws sso login`".to_owned())
            }
            Self::Denied { action, role, .. } => denied_hint(action.as_deref(), role),
            Self::Refused { code, message, .. } => refused_hint(code, message),
            Self::Unreachable { .. } => Some("check the network, HTTPS_PROXY, AWS_CA_BUNDLE and AWS_ENDPOINT_URL_STS".to_owned()),
            Self::Arn(error) => Some(error.hint()),
            Self::TimedOut { .. } => Some(
                "a `credential_process` that asks for input, or no route to STS, takes this long: try `aws sts get-caller-identity`"
                    .to_owned(),
            ),
            Self::Incomplete { .. } | Self::Setup(_) | Self::File { .. } | Self::ThreadEnded => None,
        }
    }

    /// The message with all its causes in one line, for events.
    pub fn chain(&self) -> String {
        // The SDK lists what it tried on lines of its own.
        let line = |error: &dyn Error| error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        let mut text = line(self);
        let mut cause = self.source();
        while let Some(error) = cause {
            let part = line(error);
            // The SDK's wrappers often repeat what they wrap.
            if !text.ends_with(&part) {
                text.push_str(": ");
                text.push_str(&part);
            }
            cause = error.source();
        }
        text
    }

    /// From an error code and message of STS.
    pub(super) fn from_service(operation: &'static str, role: &str, code: &str, message: &str) -> Self {
        if matches!(code, "AccessDenied" | "AccessDeniedException" | "UnauthorizedOperation") {
            return Self::Denied { operation, action: action_named_in(message), role: role.to_owned(), message: message.to_owned() };
        }
        Self::Refused { operation, code: code.to_owned(), message: message.to_owned() }
    }
}

/// `.. is not authorized to perform: sts:TagSession on resource: ..` names the action.
fn action_named_in(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("not authorized to perform: ")?;
    let action: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == ':').collect();
    (action.split(':').count() == 2).then_some(action)
}

fn denied_hint(action: Option<&str>, role: &str) -> Option<String> {
    let both = "in the role's trust policy and, where your own policies do not allow it yet, in yours (examples/iam/)";
    match action? {
        "sts:AssumeRole" => Some(format!(
            "check that `{role}` exists and allow sts:AssumeRole {both}; a condition of the trust policy that does not match answers the same"
        )),
        "sts:TagSession" => Some(format!("allow sts:TagSession beside sts:AssumeRole for `{role}` {both}: the session's id is a tag")),
        "sts:SetSourceIdentity" => {
            Some(format!("allow sts:SetSourceIdentity beside sts:AssumeRole for `{role}` {both}: CloudTrail names the developer by it"))
        }
        _ => None,
    }
}

fn refused_hint(code: &str, message: &str) -> Option<String> {
    match code {
        "ExpiredToken" | "ExpiredTokenException" => {
            Some("the developer's own login has expired: `aws sso login`, or sign in as you usually do".to_owned())
        }
        "InvalidClientTokenId" | "UnrecognizedClientException" => {
            Some("the developer's own access key is unknown to AWS: check AWS_PROFILE and the key".to_owned())
        }
        "SignatureDoesNotMatch" | "RequestExpired" => Some("check the secret access key and this machine's clock".to_owned()),
        "RegionDisabledException" => Some("STS is switched off in this region: set `region` in [aws] to another one".to_owned()),
        "ValidationError" if message.contains("DurationSeconds") => {
            Some("lower `duration` in [aws], or raise the role's maximum session duration; sentrely renews by itself".to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_names_the_missing_permission_in_its_hint() {
        for action in ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"] {
            let message = format!(
                "User: arn:aws:iam::111122223333:user/ana is not authorized to perform: {action} on resource: arn:aws:iam::111122223333:role/sentrely-agent"
            );
            let error = AwsError::from_service("AssumeRole", "arn:aws:iam::111122223333:role/sentrely-agent", "AccessDenied", &message);
            let hint = error.hint().unwrap();
            assert!(hint.contains(action) && hint.contains("role/sentrely-agent"), "{hint}");
            assert!(error.to_string().starts_with(&format!("call sts:AssumeRole: {action} is not allowed: User:")), "{error}");
        }
    }

    #[test]
    fn a_denial_in_other_words_is_still_a_denial() {
        let error = AwsError::from_service("AssumeRole", "r", "AccessDenied", "Access denied");
        assert_eq!(error.to_string(), "call sts:AssumeRole: the call is not allowed: Access denied");
        assert_eq!(error.hint(), None);
    }

    #[test]
    fn an_expired_login_says_how_to_sign_in() {
        let error =
            AwsError::from_service("GetCallerIdentity", "", "ExpiredToken", "The security token included in the request is expired");
        assert!(error.hint().unwrap().contains("aws sso login"));
    }

    #[test]
    fn the_chain_is_one_line_and_does_not_say_the_same_thing_twice() {
        let error = AwsError::Unreachable { operation: "AssumeRole", source: Box::new(io::Error::other("connection\n\t refused")) };
        assert_eq!(error.chain(), "reach STS for sts:AssumeRole: connection refused");
    }
}
