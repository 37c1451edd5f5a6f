//! `POST /sessions/{id}/kill`: the kill file, written as `sentrely kill` writes it, and the stages of what follows.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::answer::{Answer, Refusal, json};
use crate::model::{SCHEMA_VERSION, SessionId, SessionView, Stage, StopReason};
use crate::store::kill_file::{KillRequest, asker};
use crate::store::sweep::{SweepError, boot_id, recheck, sweep_one};
use crate::store::{Killing, StateDir};

/// How often the journal is looked at for the next stage.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long an answer may be waited for.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// A reason is a sentence.
const LONGEST_REASON: usize = 1000;

/// The body.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// Why: it stands in the record.
    #[serde(default)]
    reason: Option<String>,
    /// Give the processes no time to end by themselves.
    #[serde(default)]
    now: bool,
    /// How long the answer may take, in milliseconds.
    #[serde(default)]
    wait_ms: Option<u32>,
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// It is over, and nothing of it is left.
    Ended,
    /// Nothing of it runs any more; its work is still being saved.
    Saving,
    /// It is over, and what is left is named.
    Survivors,
    /// Its kill file stands, but it is still there after the wait.
    Waiting,
}

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    session: SessionId,
    outcome: Outcome,
    stop_reason: Option<StopReason>,
    stages: &'a [Stage],
    processes_ended: Option<u32>,
    survivors: &'a [String],
}

/// Kills one session and answers when nothing of it runs, or when the wait is over.
pub(super) async fn kill(state: &StateDir, view: &SessionView, body: &Bytes, from: String) -> Result<Answer, Refusal> {
    let asked = read(body)?;
    let wait = asked.wait_ms.map_or(LONGEST_WAIT, |ms| Duration::from_millis(ms.into()));
    let request = KillRequest { by: Some(asker()), from: Some(from), reason: asked.reason, at: Some(Timestamp::now()), now: asked.now };
    let Some(mut killing) = Killing::ask(state.session(view.id), &request).map_err(Refusal::internal)? else {
        return clear_up(state, view).await;
    };
    let deadline = Instant::now() + wait;
    loop {
        // Asked before reading: what it wrote before it let go is then read for certain.
        let over = killing.is_over();
        killing.look().map_err(Refusal::internal)?;
        let details = killing.details();
        if over && !details.ended() {
            return clear_up(state, view).await;
        }
        let late = Instant::now() >= deadline;
        if over || late {
            let outcome = match (over, details.survivors.is_empty()) {
                (true, true) => Outcome::Ended,
                (true, false) => Outcome::Survivors,
                (false, _) if details.is_saving() => Outcome::Saving,
                (false, _) => Outcome::Waiting,
            };
            let status = if matches!(outcome, Outcome::Waiting) { StatusCode::ACCEPTED } else { StatusCode::OK };
            let document = Document {
                schema_version: SCHEMA_VERSION,
                session: view.id,
                outcome,
                stop_reason: details.stop.as_ref().map(|stop| stop.reason),
                stages: &details.stages,
                processes_ended: details.processes_ended,
                survivors: &details.survivors,
            };
            return Ok(json(status, &document));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn read(body: &Bytes) -> Result<Asked, Refusal> {
    let wrong = |what: String| Refusal::new(StatusCode::BAD_REQUEST, "bad_request", what);
    // To serde a list of the fields would be as good as an object of them.
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(wrong("a JSON object is expected".to_owned()));
    }
    let asked: Asked = serde_json::from_slice(body).map_err(|error| wrong(format!("the body is not what is expected: {error}")))?;
    if asked.reason.as_ref().is_some_and(|reason| reason.chars().count() > LONGEST_REASON) {
        return Err(wrong(format!("a reason of at most {LONGEST_REASON} characters is expected")));
    }
    if asked.wait_ms.is_some_and(|ms| Duration::from_millis(ms.into()) > LONGEST_WAIT) {
        return Err(wrong(format!("a wait_ms of at most {} is expected", LONGEST_WAIT.as_millis())));
    }
    Ok(asked)
}

/// Nobody holds it: it crashed and is cleared up after now, or it ended before, and what it left is tried once more.
async fn clear_up(state: &StateDir, view: &SessionView) -> Result<Answer, Refusal> {
    let (state, id) = (state.clone(), view.id);
    let (swept, rechecked) = tokio::task::spawn_blocking(move || {
        let (dir, now, boot) = (state.session(id), Timestamp::now(), boot_id());
        let swept = sweep_one(&dir, now, &boot)?;
        let rechecked = if swept.is_none() { recheck(&dir, now, &boot)? } else { None };
        Ok::<_, SweepError>((swept, rechecked))
    })
    .await
    .map_err(Refusal::internal)?
    .map_err(Refusal::internal)?;
    let (stop_reason, processes_ended, survivors) = match (swept, rechecked) {
        (Some(swept), _) => (Some(swept.reason), Some(swept.processes_ended), swept.survivors),
        (None, Some(rechecked)) if !rechecked.left.is_empty() => (view.stop_reason, None, rechecked.left),
        (None, _) => {
            return Err(Refusal::new(StatusCode::CONFLICT, "already_ended", format!("session {} had ended already", view.short_id)));
        }
    };
    let document = Document {
        schema_version: SCHEMA_VERSION,
        session: id,
        outcome: if survivors.is_empty() { Outcome::Ended } else { Outcome::Survivors },
        stop_reason,
        stages: &[],
        processes_ended,
        survivors: &survivors.iter().map(ToString::to_string).collect::<Vec<_>>(),
    };
    Ok(json(StatusCode::OK, &document))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_holds_what_is_known_and_nothing_else() {
        let read = |text: &str| read(&Bytes::copy_from_slice(text.as_bytes()));
        assert!(read("{}").is_ok_and(|asked| !asked.now));
        assert!(read(r#"{"reason":"x","now":true,"wait_ms":0}"#).is_ok_and(|asked| asked.now));
        let long = format!(r#"{{"reason":"{}"}}"#, "x".repeat(1001));
        for bad in
            ["", "[]", "null", "{", r#"{"nwo":true}"#, r#"{"now":"yes"}"#, r#"{"wait_ms":30001}"#, r#"{"wait_ms":-1}"#, "{} {}", &long]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
