//! How a refusal looks: in the API's own form, so that Claude Code prints our sentence, once, and does not try again
//! (facts, sections 4 and B3 of `CLAUDE_CODE.md`).

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use jiff::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use super::Closed;
use super::body::AnswerBody;

/// An hour: more than the 60 s up to which the client would wait and ask again.
const RETRY_AFTER_SECONDS: i64 = 3_600;
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");

/// Which form a refusal for the budget or for a closed session takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalStyle {
    /// `402 billing_error`: for keys and tokens.
    Plain,
    /// `429 billing_error` with the headers of a used-up allowance: with a claude.ai login, Claude Code prints our sentence alone.
    Unified,
}

/// An answer of our own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiError {
    status: StatusCode,
    kind: &'static str,
    message: String,
    retry: Retry,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Retry {
    /// The client's own rules.
    Unsaid,
    Never,
    /// Never, with the headers of [`RefusalStyle::Unified`].
    Allowance,
}

impl ApiError {
    /// A refusal of the session: budget used up, session closed.
    pub(super) fn refused(style: RefusalStyle, message: String) -> Self {
        let (status, retry) = match style {
            RefusalStyle::Plain => (StatusCode::PAYMENT_REQUIRED, Retry::Never),
            RefusalStyle::Unified => (StatusCode::TOO_MANY_REQUESTS, Retry::Allowance),
        };
        Self { status, kind: "billing_error", message, retry }
    }

    /// A request that we do not pass on as it is.
    pub(super) fn invalid(status: StatusCode, message: String) -> Self {
        let kind = match status {
            StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
            StatusCode::FORBIDDEN => "permission_error",
            _ => "invalid_request_error",
        };
        Self { status, kind, message, retry: Retry::Never }
    }

    /// The journal cannot be written: nothing may be spent that cannot be recorded.
    pub(super) fn journal_lost(cause: &std::io::Error) -> Self {
        let message = format!("the session's journal cannot be written ({cause}), so nothing more may be spent");
        Self { status: StatusCode::SERVICE_UNAVAILABLE, kind: "api_error", message, retry: Retry::Never }
    }

    /// What other sessions spend of the limits that they share cannot be told. The client may ask again.
    pub(super) fn ledger_lost(message: String) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, kind: "api_error", message, retry: Retry::Unsaid }
    }

    /// The upstream did not answer.
    pub(super) fn unreachable(status: StatusCode, message: String, retry: bool) -> Self {
        let kind = if status == StatusCode::GATEWAY_TIMEOUT { "timeout_error" } else { "api_error" };
        Self { status, kind, message, retry: if retry { Retry::Unsaid } else { Retry::Never } }
    }

    /// What the client is told, without our name before it.
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    pub(super) fn into_response(self, now: Timestamp) -> Response<AnswerBody> {
        let body = error_object(self.kind, &self.message);
        let mut response = Response::new(AnswerBody::whole(Bytes::from(body)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let id = format!("req_sentrely_{}", Uuid::new_v4().simple());
        headers.extend(HeaderValue::from_str(&id).ok().map(|id| (REQUEST_ID, id)));
        match self.retry {
            Retry::Unsaid => {}
            Retry::Never => {
                headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
            }
            Retry::Allowance => {
                headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
                headers.insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
                for (name, value) in ALLOWANCE {
                    headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
                }
                let reset = HeaderValue::from(now.as_second() + RETRY_AFTER_SECONDS);
                headers.insert(HeaderName::from_static("anthropic-ratelimit-unified-reset"), reset);
            }
        }
        response
    }
}

/// A used-up allowance, without `representative-claim` and `overage-status`: with those the client prints a sentence of its own.
const ALLOWANCE: [(&str, &str); 4] = [
    ("anthropic-ratelimit-unified-status", "rejected"),
    ("anthropic-ratelimit-unified-overage-disabled-reason", "org_spend_cap_reached"),
    ("anthropic-ratelimit-unified-overage-utilization", "1"),
    ("anthropic-ratelimit-unified-overage-surpassed-threshold", "1"),
];

/// The end of a stream that is cut: an error event, which ends the answer for the client as a plain end would not.
pub(super) fn error_event(message: &str) -> Bytes {
    Bytes::from(format!("event: error\ndata: {}\n\n", error_object("billing_error", message)))
}

/// What is said when the session is closed.
pub(super) fn closed_message(closed: &Closed) -> String {
    let why = closed.reason.describe();
    match &closed.note {
        Some(note) => format!("this session is over ({why}: {note})"),
        None => format!("this session is over ({why})"),
    }
}

fn error_object(kind: &str, message: &str) -> String {
    let message = Value::from(format!("sentrely: {message}"));
    format!(r#"{{"type":"error","error":{{"type":"{kind}","message":{message}}}}}"#)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::StopReason;

    fn show(error: ApiError) -> String {
        let response = error.into_response(Timestamp::UNIX_EPOCH);
        let mut lines = vec![response.status().as_u16().to_string()];
        for (name, value) in response.headers() {
            let value = if name == "request-id" { "<id>" } else { value.to_str().unwrap() };
            lines.push(format!("{name}: {value}"));
        }
        lines.push(String::from_utf8(response.into_body().into_whole().to_vec()).unwrap());
        lines.join("\n")
    }

    #[test]
    fn a_plain_refusal_is_a_402_that_is_not_tried_again() {
        insta::assert_snapshot!(show(ApiError::refused(RefusalStyle::Plain, "the budget of $1.00 is used up".into())), @r#"
        402
        content-type: application/json
        request-id: <id>
        x-should-retry: false
        {"type":"error","error":{"type":"billing_error","message":"sentrely: the budget of $1.00 is used up"}}
        "#);
    }

    #[test]
    fn a_unified_refusal_looks_like_a_used_up_allowance() {
        insta::assert_snapshot!(show(ApiError::refused(RefusalStyle::Unified, "used \"up\"".into())), @r#"
        429
        content-type: application/json
        request-id: <id>
        x-should-retry: false
        retry-after: 3600
        anthropic-ratelimit-unified-status: rejected
        anthropic-ratelimit-unified-overage-disabled-reason: org_spend_cap_reached
        anthropic-ratelimit-unified-overage-utilization: 1
        anthropic-ratelimit-unified-overage-surpassed-threshold: 1
        anthropic-ratelimit-unified-reset: 3600
        {"type":"error","error":{"type":"billing_error","message":"sentrely: used \"up\""}}
        "#);
    }

    #[test]
    fn a_cut_stream_ends_with_an_error_event() {
        let event = error_event("the budget of $1.00 is used up");
        insta::assert_snapshot!(String::from_utf8_lossy(&event), @r#"
        event: error
        data: {"type":"error","error":{"type":"billing_error","message":"sentrely: the budget of $1.00 is used up"}}
        "#);
        assert!(event.ends_with(b"\n\n"));
    }

    #[test]
    fn a_closed_session_says_why() {
        assert_eq!(closed_message(&Closed::because(StopReason::Killed)), "this session is over (killed)");
        let noted = Closed { reason: StopReason::Killed, note: Some("by alice".into()) };
        assert_eq!(closed_message(&noted), "this session is over (killed: by alice)");
    }
}
