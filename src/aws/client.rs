//! The developer's own credentials and the connection to STS made with them.
//!
//! TLS is rustls with ring and the system's roots plus `AWS_CA_BUNDLE`; `HTTPS_PROXY` and `NO_PROXY` are honoured. Every
//! wait is bounded.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sdk_sts::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_http_client::Connector;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{self, TlsContext, TrustStore};
use aws_smithy_runtime_api::client::http::{SharedHttpClient, SharedHttpConnector, http_client_fn};

use super::error::AwsError;

/// Providers may ask a program or a login server; longer than this is a prompt that nobody sees.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_mins(1);
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Credentials of the developer with less than this left are asked for again.
const REFRESH_BEFORE: Duration = Duration::from_mins(5);

/// Where the developer's own credentials come from. The default is what the AWS CLI would use.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// A profile of `~/.aws`; it beats keys in the environment, as `aws --profile` does.
    pub profile: Option<String>,
    /// The region; else the environment's, the profile's or the instance's.
    pub region: Option<String>,
    /// Where STS is; else `AWS_ENDPOINT_URL_STS`, `AWS_ENDPOINT_URL` or the profile says, else AWS.
    pub endpoint_url: Option<String>,
    /// Credentials that are already there, instead of the chain's.
    pub credentials: Option<Credentials>,
}

/// STS with the developer's own credentials.
pub(super) struct Sts {
    config: SdkConfig,
    provider: SharedCredentialsProvider,
    known: Option<Credentials>,
    region: Option<Region>,
}

impl Sts {
    /// Reads the machine's AWS configuration. `fallback_region` is for STS alone, when the machine names no region.
    pub(super) async fn connect(source: &Source, fallback_region: Option<&'static str>) -> Result<Self, AwsError> {
        let http = http_client()?;
        let timeouts = TimeoutConfig::builder().operation_attempt_timeout(ATTEMPT_TIMEOUT).operation_timeout(CALL_TIMEOUT).build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(http.clone()).timeout_config(timeouts);
        if let Some(profile) = &source.profile {
            loader = loader.profile_name(profile);
        }
        if let Some(region) = &source.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(url) = &source.endpoint_url {
            loader = loader.endpoint_url(url);
        }
        if let Some(credentials) = &source.credentials {
            loader = loader.credentials_provider(credentials.clone());
        }
        let config = loader.load().await;
        let region = config.region().cloned();
        let provider = match &source.profile {
            // The chain would look at the environment first, whatever profile it is told.
            Some(profile) if source.credentials.is_none() => {
                let settings = ProviderConfig::without_region().with_http_client(http).with_region(region.clone());
                SharedCredentialsProvider::new(ProfileFileCredentialsProvider::builder().configure(&settings).profile_name(profile).build())
            }
            _ => config
                .credentials_provider()
                .ok_or_else(|| AwsError::NoCredentials { source: Box::new(CredentialsError::not_loaded_no_source()) })?,
        };
        let home = Region::from_static(fallback_region.unwrap_or("us-east-1"));
        let config = config.into_builder().region(region.clone().unwrap_or(home)).build();
        Ok(Self { config, provider, known: None, region })
    }

    /// The region the machine's configuration names.
    pub(super) fn region(&self) -> Option<&str> {
        self.region.as_ref().map(AsRef::as_ref)
    }

    /// The developer's credentials, asked for again when they are about to end.
    pub(super) async fn credentials(&mut self) -> Result<Credentials, AwsError> {
        let fresh = |c: &Credentials| c.expiry().is_none_or(|end| end > SystemTime::now() + REFRESH_BEFORE);
        if let Some(known) = self.known.as_ref().filter(|c| fresh(c)) {
            return Ok(known.clone());
        }
        let asked = tokio::time::timeout(CREDENTIALS_TIMEOUT, self.provider.provide_credentials()).await;
        let found = asked.map_err(|_| AwsError::TimedOut { seconds: CREDENTIALS_TIMEOUT.as_secs() })?.map_err(no_credentials)?;
        self.known = Some(found.clone());
        Ok(found)
    }

    /// The next call asks the providers again: the developer may have signed in anew.
    pub(super) fn forget_credentials(&mut self) {
        self.known = None;
    }

    /// A client that signs with exactly these credentials.
    pub(super) fn client(&self, credentials: Credentials) -> aws_sdk_sts::Client {
        aws_sdk_sts::Client::from_conf(aws_sdk_sts::config::Builder::from(&self.config).credentials_provider(credentials).build())
    }

    /// The ARN of the developer.
    pub(super) async fn caller_arn(mut self) -> Result<String, AwsError> {
        const OPERATION: &str = "GetCallerIdentity";
        let credentials = self.credentials().await?;
        let answer = self.client(credentials).get_caller_identity().send().await;
        let answer = answer.map_err(|error| call_failed(OPERATION, "", error))?;
        answer.arn.ok_or(AwsError::Incomplete { operation: OPERATION, missing: "Arn" })
    }
}

/// Sorts a failed call by what the user can do about it.
pub(super) fn call_failed<E, R>(operation: &'static str, role: &str, error: SdkError<E, R>) -> AwsError
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    R: std::fmt::Debug + Send + Sync + 'static,
{
    if let Some(service) = error.as_service_error() {
        return AwsError::from_service(
            operation,
            role,
            service.code().unwrap_or("UnknownError"),
            service.message().unwrap_or("no message"),
        );
    }
    let source = error.into_source().unwrap_or_else(|error| Box::new(error));
    AwsError::Unreachable { operation, source }
}

fn no_credentials(error: CredentialsError) -> AwsError {
    match error {
        CredentialsError::CredentialsNotLoaded(_) => AwsError::NoCredentials { source: Box::new(error) },
        CredentialsError::ProviderTimedOut(_) => AwsError::TimedOut { seconds: CREDENTIALS_TIMEOUT.as_secs() },
        _ => AwsError::Credentials { source: Box::new(error) },
    }
}

/// The SDK's own client would ignore the proxy variables and `AWS_CA_BUNDLE`.
fn http_client() -> Result<SharedHttpClient, AwsError> {
    let mut roots = TrustStore::default().with_native_roots(true);
    if let Some(path) = std::env::var_os("AWS_CA_BUNDLE").filter(|path| !path.is_empty()).map(PathBuf::from) {
        let pem = std::fs::read(&path).map_err(|source| AwsError::File { path, source })?;
        roots = roots.with_pem_certificate(pem);
    }
    let context = TlsContext::builder().with_trust_store(roots).build().map_err(|error| AwsError::Setup(std::io::Error::other(error)))?;
    Ok(http_client_fn(move |settings, components| {
        let mut connector = Connector::builder().connector_settings(settings.clone()).proxy_config(ProxyConfig::from_env());
        connector.set_sleep_impl(components.sleep_impl());
        let tls = tls::Provider::Rustls(CryptoMode::Ring);
        SharedHttpConnector::new(connector.tls_provider(tls).tls_context(context.clone()).build())
    }))
}
