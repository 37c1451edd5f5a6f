//! Verifies a request's signature by making it anew with the secret that belongs to its key.

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use http::request::Parts;
use jiff::{SignedDuration, Timestamp, civil, tz::TimeZone};

use super::rules::Refusal;

/// The `Authorization` header, read.
pub(super) struct Claim<'a> {
    pub(super) access_key_id: &'a str,
    pub(super) token: Option<&'a str>,
    date: &'a str,
    region: &'a str,
    signed_headers: Vec<&'a str>,
    signature: &'a str,
}

impl<'a> Claim<'a> {
    /// Reads what the request claims, without believing it.
    pub(super) fn read(parts: &'a Parts) -> Result<Self, Refusal> {
        let missing = || Refusal(403, "MissingAuthenticationToken", "Request is missing Authentication Token".to_owned());
        let incomplete = || Refusal(400, "IncompleteSignature", "the Authorization header cannot be read".to_owned());
        let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let fields = header("authorization").ok_or_else(missing)?.strip_prefix("AWS4-HMAC-SHA256 ").ok_or_else(incomplete)?;
        let field =
            |name: &str| fields.split(',').find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('=')).ok_or_else(incomplete);
        let scope: Vec<&str> = field("Credential")?.split('/').collect();
        let [access_key_id, day, region, "sts", "aws4_request"] = scope[..] else { return Err(incomplete()) };
        let date = header("x-amz-date").filter(|date| date.starts_with(day)).ok_or_else(incomplete)?;
        let signed_headers: Vec<&str> = field("SignedHeaders")?.split(';').collect();
        let token = header("x-amz-security-token");
        let signs = |name: &str| signed_headers.contains(&name);
        if !signs("host") || !signs("x-amz-date") || (token.is_some() && !signs("x-amz-security-token")) {
            return Err(incomplete());
        }
        Ok(Self { access_key_id, token, date, region, signed_headers, signature: field("Signature")? })
    }

    /// Whether the signature is the one that `secret` makes, now.
    pub(super) fn verify(&self, parts: &Parts, body: &[u8], secret: &str) -> Result<(), Refusal> {
        let wrong = |why: &str| {
            Refusal(
                403,
                "SignatureDoesNotMatch",
                format!("The request signature we calculated does not match the signature you provided. {why}"),
            )
        };
        let time = civil::DateTime::strptime("%Y%m%dT%H%M%SZ", self.date).ok().and_then(|at| at.to_zoned(TimeZone::UTC).ok());
        let time = time.ok_or_else(|| wrong("The date cannot be read."))?.timestamp();
        if time.duration_since(Timestamp::now()).abs() > SignedDuration::from_mins(15) {
            return Err(wrong("Signature expired."));
        }
        let identity = Credentials::new(self.access_key_id, secret, self.token.map(str::to_owned), None, "double").into();
        let settings = v4::SigningParams::builder().identity(&identity).region(self.region).name("sts");
        let settings = settings.time(SystemTime::from(time)).settings(SigningSettings::default()).build().unwrap().into();
        let made_by_signing = ["x-amz-date", "x-amz-security-token"];
        let headers = parts
            .headers
            .iter()
            .filter(|(name, _)| self.signed_headers.contains(&name.as_str()) && !made_by_signing.contains(&name.as_str()));
        let headers = headers.map(|(name, value)| (name.as_str(), value.to_str().unwrap()));
        let uri = format!("http://{}{}", parts.headers["host"].to_str().unwrap(), parts.uri.path());
        let request = SignableRequest::new(parts.method.as_str(), uri, headers, SignableBody::Bytes(body)).unwrap();
        let (_, signature) = sign(request, &settings).unwrap().into_parts();
        if signature == self.signature { Ok(()) } else { Err(wrong("Check your key.")) }
    }
}
