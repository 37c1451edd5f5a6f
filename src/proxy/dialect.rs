//! The forms in which a model is asked: the Messages API itself, or as a cloud writes it.
//!
//! The clouds name the model in the path. A session speaks one of them, and only one: a path of another form would go to a server that
//! reads it as something else.

use http::Method;

use super::admission::Route;
use crate::meter::price::Place;

/// What the upstream speaks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Dialect {
    /// The Messages API.
    #[default]
    Anthropic,
    /// Google Vertex AI: `…/projects/P/locations/R/publishers/anthropic/models/M:streamRawPredict`, server-sent events.
    Vertex {
        /// The upstream serves this location alone; `None`: whatever the path names.
        location: Option<String>,
    },
    /// Amazon Bedrock: `/model/M/invoke-with-response-stream`, events in binary frames. Requests are passed on as they are signed.
    Bedrock,
}

/// What a cloud's path asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    /// The model.
    pub(super) model: String,
    /// Whether the answer may be streamed.
    pub(super) streamed: bool,
    /// Where it is answered.
    pub(super) place: Place,
}

/// A request's path, read in the upstream's dialect.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// As the Messages API has it.
    Plain(Route),
    /// As a cloud has it.
    Cloud(Asked),
    /// Not passed on, for this reason.
    Refused(String),
}

impl Dialect {
    pub(super) fn read(&self, method: &Method, path: &str) -> Reading {
        let plain = Route::of(method, path);
        if *self == Self::Anthropic || matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
            return Reading::Plain(plain);
        }
        // What no client writes is not guessed at.
        let written = path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-_.:@~%".contains(&byte));
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        if *method != Method::POST || !written || parts.iter().any(|part| matches!(*part, "" | "." | "..")) {
            return Reading::Refused(format!("{} {path} cannot be metered, so it is not available in this session", method.as_str()));
        }
        let read = match self {
            Self::Anthropic => None,
            Self::Vertex { location } => vertex(&parts, location.as_deref()),
            Self::Bedrock => bedrock(&parts),
        };
        read.unwrap_or_else(|| Reading::Refused("only the model's own paths are available in this session".to_owned()))
    }
}

fn vertex(parts: &[&str], served: Option<&str>) -> Option<Reading> {
    let at = parts.iter().position(|part| *part == "projects").filter(|at| *at <= 1)?;
    let [_, _project, "locations", location, "publishers", "anthropic", "models", last] = parts[at..] else { return None };
    let (model, verb) = last.rsplit_once(':')?;
    if location.contains('%') || model.contains(['%', ':']) || model.is_empty() {
        return None;
    }
    let streamed = match (model, verb) {
        ("count-tokens", "rawPredict") => return Some(Reading::Plain(Route::Counting)),
        (_, "streamRawPredict") => true,
        (_, "rawPredict") => false,
        _ => return None,
    };
    if let Some(served) = served.filter(|served| *served != location) {
        let why = format!(
            "this session reaches Vertex in {served} and {model} was asked for in {location}: set ANTHROPIC_VERTEX_BASE_URL to an endpoint for both"
        );
        return Some(Reading::Refused(why));
    }
    Some(Reading::Cloud(Asked { model: model.to_owned(), streamed, place: Place::Vertex { regional: location != "global" } }))
}

fn bedrock(parts: &[&str]) -> Option<Reading> {
    let ["model", model, verb] = parts else { return None };
    let streamed = match *verb {
        "invoke-with-response-stream" => true,
        "invoke" => false,
        _ => return None,
    };
    // `%3A` of `-v1:0`, `%2F` of an ARN: once, as the server does.
    let mut name = String::with_capacity(model.len());
    let mut rest = *model;
    while let Some((before, after)) = rest.split_once('%') {
        let (digits, behind) = after.split_at_checked(2)?;
        let byte = u8::from_str_radix(digits, 16).ok().filter(|byte| matches!(byte, b':' | b'/'))?;
        name.push_str(before);
        name.push(char::from(byte));
        rest = behind;
    }
    name.push_str(rest);
    Some(Reading::Cloud(Asked { model: name, streamed, place: Place::Bedrock }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(dialect: &Dialect, path: &str) -> Reading {
        dialect.read(&Method::POST, path)
    }

    fn cloud(model: &str, streamed: bool, place: Place) -> Reading {
        Reading::Cloud(Asked { model: model.into(), streamed, place })
    }

    #[test]
    fn vertex_names_model_place_and_form_in_the_path() {
        let vertex = Dialect::Vertex { location: None };
        let models = "/projects/p/locations/us-east5/publishers/anthropic/models";
        let (regional, global) = (Place::Vertex { regional: true }, Place::Vertex { regional: false });
        assert_eq!(post(&vertex, &format!("{models}/claude-opus-5-5:streamRawPredict")), cloud("claude-opus-5-5", true, regional));
        assert_eq!(
            post(&vertex, &format!("/v1{models}/claude-haiku-4-5@20251001:rawPredict")),
            cloud("claude-haiku-4-5@20251001", false, regional)
        );
        let path = "/v1/projects/p/locations/global/publishers/anthropic/models/claude-opus-5-5:streamRawPredict";
        assert_eq!(post(&vertex, path), cloud("claude-opus-5-5", true, global));
        assert_eq!(post(&vertex, &format!("{models}/count-tokens:rawPredict")), Reading::Plain(Route::Counting));
        let elsewhere = Dialect::Vertex { location: Some("global".into()) };
        assert!(
            matches!(post(&elsewhere, &format!("{models}/claude-opus-5-5:streamRawPredict")), Reading::Refused(why) if why.contains("us-east5"))
        );
    }

    #[test]
    fn bedrock_names_the_model_in_the_path_once_encoded() {
        let path = "/model/us.anthropic.claude-haiku-4-5-20251001-v1%3A0/invoke-with-response-stream";
        assert_eq!(post(&Dialect::Bedrock, path), cloud("us.anthropic.claude-haiku-4-5-20251001-v1:0", true, Place::Bedrock));
        assert_eq!(
            post(&Dialect::Bedrock, "/model/anthropic.claude-opus-5-5/invoke"),
            cloud("anthropic.claude-opus-5-5", false, Place::Bedrock)
        );
    }

    #[test]
    fn whatever_else_is_posted_to_a_cloud_is_refused() {
        for dialect in [Dialect::Vertex { location: None }, Dialect::Bedrock] {
            for path in [
                "/v1/messages",
                "/v1/projects/p/locations/l/publishers/google/models/gemini:generateContent",
                "/v1/projects/p/locations/l/publishers/anthropic/models/claude:predict",
                "/v1/projects/p/locations/l/publishers/anthropic/models/x/../claude:rawPredict",
                "/v1/projects/p/locations/%6c/publishers/anthropic/models/claude:rawPredict",
                "/v1/projects/p/locations/l/endpoints/7:rawPredict",
                "/v1/projects//locations/l/publishers/anthropic/models/claude:rawPredict",
                "/model/x/converse",
                "/model/x/async-invoke",
                "/model/a%25b/invoke",
                "/v1/complete",
                "/api/event_logging/batch",
                "/",
            ] {
                assert!(matches!(post(&dialect, path), Reading::Refused(_)), "{dialect:?} {path}");
            }
            assert_eq!(dialect.read(&Method::GET, "/inference-profiles"), Reading::Plain(Route::Free));
            assert!(matches!(dialect.read(&Method::PUT, "/x"), Reading::Refused(_)));
        }
    }
}
