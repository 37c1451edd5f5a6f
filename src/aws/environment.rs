//! The AWS part of the child's environment: every ambient route out, ours in.
//!
//! Every `AWS_*` variable goes but a short list of settings, so a variable AWS invents tomorrow is withheld as well.
//! Then ours: without private files an SDK would prefer the developer's own key in `~/.aws` to the endpoint, which is
//! last in every SDK's chain (facts/AWS.md section 3).

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aws_credential_types::Credentials;
use secrecy::{ExposeSecret, SecretString};

use super::error::AwsError;

/// Settings of the user that carry no identity.
const KEPT: [&str; 11] = [
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_CA_BUNDLE",
    "AWS_ENDPOINT_URL",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
    "AWS_USE_FIPS_ENDPOINT",
    "AWS_USE_DUALSTACK_ENDPOINT",
    "AWS_STS_REGIONAL_ENDPOINTS",
    "AWS_MAX_ATTEMPTS",
    "AWS_RETRY_MODE",
    "AWS_DEFAULTS_MODE",
];
const KEPT_PREFIX: &str = "AWS_ENDPOINT_URL_";

/// Tokens that CI systems give a job and that can be traded for an AWS role, and files of old SDKs.
const WITHHELD: [&str; 13] = [
    "ACTIONS_ID_TOKEN_REQUEST_URL",
    "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
    "BUILDKITE_AGENT_ACCESS_TOKEN",
    "CIRCLE_OIDC_TOKEN",
    "CIRCLE_OIDC_TOKEN_V2",
    "BITBUCKET_STEP_OIDC_TOKEN",
    "CI_JOB_JWT",
    "CI_JOB_JWT_V1",
    "CI_JOB_JWT_V2",
    "SYSTEM_ACCESSTOKEN",
    "TFC_WORKLOAD_IDENTITY_TOKEN",
    "BOTO_CONFIG",
    "BOTO_PATH",
];
const WITHHELD_PREFIXES: [&str; 4] = ["AWS_", "AWSUME_", "GRANTED_", "TF_TOKEN_"];

/// How the child gets credentials.
#[derive(Debug, Clone)]
pub enum Delivery {
    /// No role is configured: the session has no AWS at all.
    None,
    /// SDKs fetch them from our endpoint and stop when it says so.
    Endpoint {
        /// Where it is.
        uri: String,
        /// What opens it.
        token: SecretString,
    },
    /// As variables, for what cannot reach 127.0.0.1. They cannot be renewed or taken back.
    Static(StaticCredentials),
}

/// Credentials of the role session as plain values.
#[derive(Debug, Clone)]
pub struct StaticCredentials {
    /// `ASIA...`.
    pub access_key_id: String,
    /// Its secret.
    pub secret_access_key: SecretString,
    /// Its session token.
    pub session_token: SecretString,
}

impl From<&Credentials> for StaticCredentials {
    fn from(credentials: &Credentials) -> Self {
        Self {
            access_key_id: credentials.access_key_id().to_owned(),
            secret_access_key: credentials.secret_access_key().to_owned().into(),
            session_token: credentials.session_token().unwrap_or_default().to_owned().into(),
        }
    }
}

/// The variables without any route to AWS credentials.
pub fn scrub(vars: impl IntoIterator<Item = (OsString, OsString)>) -> Vec<(OsString, OsString)> {
    let vars: Vec<_> = vars.into_iter().collect();
    let gitlab = vars.iter().any(|(name, _)| name == "GITLAB_CI");
    vars.into_iter().filter(|(name, value)| !(is_withheld(name) || gitlab && is_jwt(value))).collect()
}

/// The variables that give the child the session's identity, or none. Creates the private empty files in `dir`, which
/// must be a directory only this user can write to.
pub fn child_variables(delivery: &Delivery, dir: &Path, region: Option<&str>) -> Result<Vec<(OsString, OsString)>, AwsError> {
    let mut vars: Vec<(OsString, OsString)> = Vec::new();
    let mut set = |name: &str, value: OsString| vars.push((name.into(), value));
    for (name, file) in [("AWS_CONFIG_FILE", "aws-config"), ("AWS_SHARED_CREDENTIALS_FILE", "aws-credentials")] {
        set(name, private_empty_file(dir.join(file))?.into());
    }
    set("AWS_EC2_METADATA_DISABLED", "true".into());
    match delivery {
        Delivery::None => return Ok(vars),
        Delivery::Endpoint { uri, token } => {
            set("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri.into());
            set("AWS_CONTAINER_AUTHORIZATION_TOKEN", token.expose_secret().into());
        }
        Delivery::Static(keys) => {
            set("AWS_ACCESS_KEY_ID", keys.access_key_id.clone().into());
            set("AWS_SECRET_ACCESS_KEY", keys.secret_access_key.expose_secret().into());
            set("AWS_SESSION_TOKEN", keys.session_token.expose_secret().into());
        }
    }
    if let Some(region) = region {
        // boto3 reads only the second, the other SDKs only the first.
        set("AWS_REGION", region.into());
        set("AWS_DEFAULT_REGION", region.into());
    }
    Ok(vars)
}

fn is_withheld(name: &OsStr) -> bool {
    // A name that is no text is none that AWS or a CI system uses.
    let Some(name) = name.to_str() else { return false };
    let kept = KEPT.contains(&name) || name.starts_with(KEPT_PREFIX);
    !kept && (WITHHELD.contains(&name) || WITHHELD_PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
}

/// GitLab's `id_tokens` have names of the user's choice; their values are signed JSON Web Tokens.
fn is_jwt(value: &OsStr) -> bool {
    let Some(value) = value.to_str() else { return false };
    let base64url = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    let parts: Vec<&str> = value.trim().split('.').collect();
    parts.len() == 3 && parts[0].starts_with("eyJ") && parts.into_iter().all(base64url)
}

/// A file left by an earlier attempt, or a link somebody put there, is replaced and never followed.
fn private_empty_file(path: PathBuf) -> Result<PathBuf, AwsError> {
    let make = || -> io::Result<()> {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map(drop)
    };
    match make() {
        Ok(()) => Ok(path),
        Err(source) => Err(AwsError::File { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    fn vars(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect()
    }

    fn names(vars: &[(OsString, OsString)]) -> Vec<&str> {
        vars.iter().map(|(name, _)| name.to_str().unwrap()).collect()
    }

    #[test]
    fn every_route_to_credentials_is_withheld() {
        let routes = [
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "AWS_SECURITY_TOKEN",
            "AWS_CREDENTIAL_EXPIRATION",
            "AWS_ACCOUNT_ID",
            "AWS_PROFILE",
            "AWS_DEFAULT_PROFILE",
            "AWS_SDK_LOAD_CONFIG",
            "AWS_CONFIG_FILE",
            "AWS_SHARED_CREDENTIALS_FILE",
            "AWS_CREDENTIAL_FILE",
            "BOTO_CONFIG",
            "AWS_LOGIN_CACHE_DIRECTORY",
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "AWS_ROLE_ARN",
            "AWS_ROLE_SESSION_NAME",
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
            "AWS_EC2_METADATA_SERVICE_ENDPOINT",
            "AWS_BEARER_TOKEN_BEDROCK",
            "AWS_VAULT",
            "AWS_SSO_PROFILE",
            "AWSUME_PROFILE",
            "GRANTED_SSO",
            "ACTIONS_ID_TOKEN_REQUEST_URL",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
            "BUILDKITE_AGENT_ACCESS_TOKEN",
            "CIRCLE_OIDC_TOKEN",
            "CIRCLE_OIDC_TOKEN_V2",
            "TF_TOKEN_app_terraform_io",
            "AWS_SOMETHING_NEW",
        ];
        assert_eq!(scrub(routes.map(|name| (name.into(), "x".into()))), vars(&[]));
    }

    #[test]
    fn settings_without_identity_and_everything_else_are_kept_as_they_are() {
        let mut kept = vars(&[
            ("AWS_REGION", "eu-central-1"),
            ("AWS_DEFAULT_REGION", "eu-central-1"),
            ("AWS_CA_BUNDLE", "/etc/ca.pem"),
            ("AWS_ENDPOINT_URL", "http://127.0.0.1:1"),
            ("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:1"),
            ("AWS_MAX_ATTEMPTS", "2"),
            ("AWS_RETRY_MODE", "standard"),
            ("PATH", "/bin"),
            ("AWSOME", "1"),
            ("JWT", "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln"),
        ]);
        kept.push(("BYTES".into(), os(b"\xff")));
        assert_eq!(scrub(kept.clone()), kept);
    }

    fn os(bytes: &[u8]) -> OsString {
        use std::os::unix::ffi::OsStringExt;
        OsString::from_vec(bytes.to_vec())
    }

    #[test]
    fn an_id_token_of_a_gitlab_job_is_withheld_whatever_its_name() {
        let job = vars(&[("GITLAB_CI", "true"), ("MY_AWS_TOKEN", "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln"), ("VERSION", "1.2.3")]);
        assert_eq!(names(&scrub(job)), ["GITLAB_CI", "VERSION"]);
    }

    #[test]
    fn without_a_role_the_child_has_private_empty_files_and_no_endpoint() {
        let dir = tempfile::tempdir().unwrap();
        let given = child_variables(&Delivery::None, dir.path(), Some("eu-central-1")).unwrap();
        assert_eq!(names(&given), ["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_EC2_METADATA_DISABLED"]);
        for (_, path) in &given[..2] {
            let meta = fs::metadata(path).unwrap();
            assert_eq!((meta.len(), meta.mode() & 0o777), (0, 0o600));
        }
    }

    #[test]
    fn the_endpoint_is_told_with_both_region_variables() {
        let dir = tempfile::tempdir().unwrap();
        let delivery = Delivery::Endpoint { uri: "http://127.0.0.1:4000/credentials".into(), token: "0123".to_owned().into() };
        let given = child_variables(&delivery, dir.path(), Some("eu-central-1")).unwrap();
        assert_eq!(
            given[3..],
            vars(&[
                ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:4000/credentials"),
                ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "0123"),
                ("AWS_REGION", "eu-central-1"),
                ("AWS_DEFAULT_REGION", "eu-central-1"),
            ]),
        );
    }

    #[test]
    fn a_link_in_the_place_of_a_private_file_is_replaced_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        fs::write(&victim, "[default]").unwrap();
        symlink(&victim, dir.path().join("aws-config")).unwrap();
        child_variables(&Delivery::None, dir.path(), None).unwrap();
        child_variables(&Delivery::None, dir.path(), None).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "[default]");
        assert!(fs::symlink_metadata(dir.path().join("aws-config")).unwrap().is_file());
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let error = child_variables(&Delivery::None, Path::new("/nonexistent"), None).unwrap_err();
        assert_eq!(error.to_string(), "use `/nonexistent/aws-config`");
    }
}
