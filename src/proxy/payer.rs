//! Who pays for a request, read from the credential that it goes out with: the one place where that is certain.
//!
//! A login can be another one in the middle of a session: a helper prints a new key, somebody logs in anew inside the client. What goes
//! upstream tells; whoever [asked to be told](super::Proxy::watch_payer) hears of each change before the request leaves, and may refuse it.

use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderMap, StatusCode};

use super::admission;
use super::refusal::ApiError;
use super::shared::Shared;
use crate::model::{Billing, BillingKind};

/// Told who pays when that is not who paid for the request before; an error is why the request may not go out.
pub type PayerWatch = Arc<dyn Fn(&Billing) -> Result<(), String> + Send + Sync>;

/// How tokens of a subscription begin.
const OAUTH: &str = "sk-ant-oat";
/// A secret that is shorter is not shown in part.
const SHOWN_FROM: usize = 16;

/// Tells the watch if somebody else pays than before, and refuses the request if it says so.
pub(super) fn check(shared: &Shared, headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(watch) = shared.payer_watch() else { return Ok(()) };
    let billing = of(headers);
    let mut last = shared.last_payer();
    if last.as_ref() == Some(&billing) {
        return Ok(());
    }
    watch(&billing).map_err(|why| admission::refuse(shared, ApiError::invalid(StatusCode::FORBIDDEN, why)))?;
    *last = Some(billing);
    Ok(())
}

/// Whose credential these headers hold. Of a key and a token the key: it is what the API takes.
fn of(headers: &HeaderMap) -> Billing {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim).filter(|text| !text.is_empty());
    let bearer = text(AUTHORIZATION.as_str()).map(|text| text.strip_prefix("Bearer ").unwrap_or(text));
    // The client says so of every login of a subscription.
    let oauth = headers.get_all("anthropic-beta").iter().any(|value| value.to_str().is_ok_and(|betas| betas.contains("oauth-")));
    match (text("x-api-key"), bearer) {
        (Some(key), _) => of_secret(key),
        (None, Some(token)) if oauth => Billing { kind: BillingKind::Subscription, ..of_secret(token) },
        (None, Some(token)) => of_secret(token),
        (None, None) => Billing { kind: BillingKind::None, last4: None },
    }
}

/// Who pays with this secret.
pub(super) fn of_secret(secret: &str) -> Billing {
    let kind = if secret.starts_with(OAUTH) { BillingKind::Subscription } else { BillingKind::Key };
    let characters: Vec<char> = secret.chars().collect();
    let last4 = (characters.len() >= SHOWN_FROM).then(|| characters[characters.len() - 4..].iter().collect());
    Billing { kind, last4 }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn the_credential_that_goes_out_says_who_pays() {
        let payer = |pairs: &[(&'static str, &'static str)]| {
            let headers = pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
            let Billing { kind, last4 } = of(&headers.collect());
            (kind, last4.unwrap_or_default())
        };
        let key = ("x-api-key", "sk-ant-api03-0123456789wxyz");
        assert_eq!(payer(&[key]), (BillingKind::Key, "wxyz".into()));
        assert_eq!(payer(&[("authorization", "Bearer sk-ant-oat01-0123456789abcd")]), (BillingKind::Subscription, "abcd".into()));
        assert_eq!(payer(&[key, ("authorization", "Bearer sk-ant-oat01-0123456789abcd")]), (BillingKind::Key, "wxyz".into()));
        assert_eq!(payer(&[("authorization", "Bearer token-of-a-gateway")]), (BillingKind::Key, "eway".into()));
        let beta = ("anthropic-beta", "claude-code-20250219,oauth-2025-04-20");
        assert_eq!(payer(&[("authorization", "Bearer of-another-form-too"), beta]), (BillingKind::Subscription, "-too".into()));
        assert_eq!(payer(&[("x-api-key", "short")]), (BillingKind::Key, String::new()));
        assert_eq!(payer(&[("x-api-key", "")]), (BillingKind::None, String::new()));
    }
}
