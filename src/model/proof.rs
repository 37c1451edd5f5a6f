//! Proof of death: what can be said of a session that was stopped, from its journal alone.

use jiff::Timestamp;
use serde::Serialize;

use super::{Details, Event, LAST_PROCESS_GONE, Record, SessionView, Stage, StopReason, Usd};

/// Who stopped a session, how fast it was gone, what it had done by then and what is left.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Proof {
    /// Why it was stopped.
    pub reason: StopReason,
    /// Who asked.
    pub by: String,
    /// From where.
    pub from: Option<String>,
    /// Why, in their words.
    pub note: Option<String>,
    /// When the stop was recorded.
    pub at: Timestamp,
    /// Milliseconds from there until nothing of it ran any more; `None` if that was not seen.
    pub latency_ms: Option<f64>,
    /// Each step down, in milliseconds from there.
    pub stages: Vec<Stage>,
    /// What it had spent when it was stopped, at list price.
    pub cost_usd: Usd,
    /// When a request was last let through.
    pub last_request_at: Option<Timestamp>,
    /// Its branch.
    pub branch: Option<String>,
    /// The branch's tip as it came home.
    pub commit: Option<String>,
    /// How many processes were ended; `None` while it goes down.
    pub processes_ended: Option<u32>,
    /// What is left, each with its process id and why.
    pub survivors: Vec<String>,
    /// The AWS keys that it held then, the newest first; what they did is in CloudTrail.
    pub aws_keys: Vec<HeldKey>,
}

/// An AWS key that had not expired when the session was stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HeldKey {
    /// The key's id.
    pub access_key_id: String,
    /// From when it was good.
    pub from: Timestamp,
    /// Until when it is, whoever may have copied it.
    pub until: Timestamp,
    /// The command that asks CloudTrail for all that was done with it, word for word.
    pub query: Vec<String>,
}

impl Proof {
    /// The proof for the last attempt; `None` if nobody stopped it.
    pub fn of(records: &[Record], view: &SessionView, details: &Details) -> Option<Self> {
        let stop = details.stop.clone()?;
        let attempt = records.iter().rposition(|record| matches!(record.event, Event::AttemptStarted { .. })).unwrap_or(0);
        let asked =
            |record: &Record| record.at == stop.at && matches!(record.event, Event::StopRequested { reason, .. } if reason == stop.reason);
        let then = records[attempt..].iter().position(asked).map_or(records.len(), |place| attempt + place + 1);
        let spent = SessionView::fold(&records[..then]).map_or(view.cost_usd, |view| view.cost_usd);
        let latency_ms = details.stages.iter().find(|stage| stage.stage == LAST_PROCESS_GONE).map(|stage| stage.ms);
        let mut aws_keys: Vec<HeldKey> = records[attempt..].iter().filter_map(|record| held(record, stop.at)).collect();
        aws_keys.reverse();
        Some(Self {
            reason: stop.reason,
            by: stop.by,
            from: stop.from,
            note: stop.note,
            at: stop.at,
            latency_ms,
            stages: details.stages.clone(),
            cost_usd: spent,
            last_request_at: details.last_request_at,
            branch: view.branch.clone(),
            commit: details.commit.clone(),
            processes_ended: details.processes_ended,
            survivors: details.survivors.clone(),
            aws_keys,
        })
    }
}

fn held(record: &Record, stopped_at: Timestamp) -> Option<HeldKey> {
    let Event::AwsMinted { access_key_id, expires_at, .. } = &record.event else { return None };
    if *expires_at <= stopped_at || record.at > stopped_at {
        return None;
    }
    let attribute = format!("AttributeKey=AccessKeyId,AttributeValue={access_key_id}");
    let (from, until) = (seconds(record.at), seconds(*expires_at));
    let words = ["aws", "cloudtrail", "lookup-events", "--lookup-attributes", &attribute, "--start-time", &from, "--end-time", &until]
        .map(str::to_owned);
    Some(HeldKey { access_key_id: access_key_id.clone(), from: record.at, until: *expires_at, query: words.to_vec() })
}

/// As the AWS command takes it.
fn seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "9f3a12cd-0000-4000-8000-000000000001";

    fn journal(events: Vec<(i64, Event)>) -> Vec<Record> {
        let records = events.into_iter().zip(1..).map(|((second, event), seq)| {
            let at = Timestamp::from_second(second).unwrap();
            Record { v: 1, seq, at, prev: String::new(), event }
        });
        records.collect()
    }

    fn created() -> Event {
        crate::model::fixture::created(ID.parse().unwrap())
    }

    fn minted(key: &str, expires: i64) -> Event {
        Event::AwsMinted {
            role_arn: "arn:aws:iam::1:role/a".into(),
            role_session_name: "ana".into(),
            access_key_id: key.into(),
            delivery: "endpoint".into(),
            expires_at: Timestamp::from_second(expires).unwrap(),
        }
    }

    fn stop(reason: StopReason, by: &str) -> Event {
        Event::StopRequested { reason, by: by.into(), from: None, note: None }
    }

    fn proof(events: Vec<(i64, Event)>) -> Option<Proof> {
        let records = journal(events);
        Proof::of(&records, &SessionView::fold(&records).unwrap(), &Details::of(&records))
    }

    #[test]
    fn the_keys_are_those_that_were_good_when_it_was_stopped_with_their_whole_life_as_the_window() {
        let proof = proof(vec![
            (0, created()),
            (1, minted("ASIAOLD", 50)),
            (40, minted("ASIAONE", 4000)),
            (90, minted("ASIATWO", 5000)),
            (100, stop(StopReason::Killed, "ana")),
            (101, Event::Stage { stage: LAST_PROCESS_GONE.into(), ms: 12.5 }),
        ])
        .unwrap();
        let keys: Vec<&str> = proof.aws_keys.iter().map(|key| key.access_key_id.as_str()).collect();
        assert_eq!(keys, ["ASIATWO", "ASIAONE"]);
        let query = "aws cloudtrail lookup-events --lookup-attributes AttributeKey=AccessKeyId,AttributeValue=ASIATWO \
                     --start-time 1970-01-01T00:01:30Z --end-time 1970-01-01T01:23:20Z";
        assert_eq!(proof.aws_keys[0].query.join(" "), query);
        assert_eq!((proof.latency_ms, proof.by.as_str()), (Some(12.5), "ana"));
    }

    #[test]
    fn a_session_that_ended_by_itself_has_none_and_the_gravest_stop_counts() {
        assert_eq!(proof(vec![(0, created())]), None);
        let events = vec![(0, created()), (1, stop(StopReason::BudgetReached, "budget")), (2, stop(StopReason::Killed, "ana"))];
        assert_eq!(proof(events).unwrap().by, "ana");
    }
}
