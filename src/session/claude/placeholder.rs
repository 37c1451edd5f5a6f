//! Credentials that open nothing: what the child holds in place of the real one.
//!
//! They are derived from the session's token, so that the same session shows the same one after a resume within a process, but
//! the token cannot be read back from them. The proxy takes them off and puts the real credential on.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use crate::model::SessionId;

/// 2100-01-01: the client would try to renew a token that is about to expire.
const FAR: u64 = 4_102_444_800;

/// For `ANTHROPIC_AUTH_TOKEN`: a JSON web token with the audience `claude-gateway`.
///
/// Only for such a token (and for a claude.ai login) the client prints a refusal in our own words alone (`facts/CLAUDE_CODE.md`
/// B3); the signature is not checked by the client and means nothing here.
pub(super) fn gateway_token(session: SessionId, token: &SecretString) -> String {
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = part(serde_json::json!({"alg": "HS256", "typ": "JWT"}));
    let payload = part(serde_json::json!({"aud": "claude-gateway", "iss": "sentrely", "sub": session.to_string(), "exp": FAR}));
    format!("{header}.{payload}.{}", URL_SAFE_NO_PAD.encode(digest("gateway", token)))
}

/// For `CLAUDE_CODE_OAUTH_TOKEN`: the shape of a real one.
pub(super) fn oauth_token(token: &SecretString) -> String {
    let body = [digest("oauth-1", token), digest("oauth-2", token), digest("oauth-3", token)].concat();
    let mut text = URL_SAFE_NO_PAD.encode(body);
    text.truncate(95);
    format!("sk-ant-oat01-{text}")
}

/// The sentinel's value: known to the merged settings file and the proxy alone.
pub(super) fn sentinel(token: &SecretString) -> String {
    URL_SAFE_NO_PAD.encode(&digest("sentinel", token)[..12])
}

fn digest(purpose: &str, token: &SecretString) -> [u8; 32] {
    Sha256::new().chain_update(b"sentrely ").chain_update(purpose).chain_update(b"\0").chain_update(token.expose_secret()).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shapes_are_those_the_client_knows_and_the_token_is_not_in_them() {
        let session: SessionId = "9f3a12cd-0000-4000-8000-000000000001".parse().unwrap();
        let token = SecretString::from("the-session-token".to_owned());
        let jwt = gateway_token(session, &token);
        let parts: Vec<&str> = jwt.split('.').collect();
        assert_eq!(parts.len(), 3);
        let payload: serde_json::Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
        assert_eq!(
            payload,
            serde_json::json!({"aud": "claude-gateway", "iss": "sentrely", "sub": "9f3a12cd-0000-4000-8000-000000000001", "exp": 4_102_444_800_u64})
        );
        let oauth = oauth_token(&token);
        assert_eq!((oauth.len(), oauth.starts_with("sk-ant-oat01-")), (108, true));
        assert_eq!(sentinel(&token).len(), 16);
        assert_ne!(sentinel(&token), sentinel(&SecretString::from("another".to_owned())));
    }
}
