//! What sessions that share a limit can rely on.

use proptest::prelude::*;
use serde::Deserialize;
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use crate::meter::price::{Place, PriceTable};
use crate::meter::{Ask, Booked, Content, Meter, Outline, Reservation, Rules, Settlement, Shape, Verdict, Weigher};
use crate::model::{Event, RequestId, SessionId, Speed, Thread, Usage};

fn usd(text: &str) -> Usd {
    text.parse().unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

const NOON: &str = "2026-11-29T12:00:00Z";

fn limit(scope: Scope, period: Period, amount: Usd) -> SharedLimit {
    SharedLimit { share: Share { scope, period }, amount }
}

fn a_day(amount: &str) -> Vec<SharedLimit> {
    vec![limit(Scope::Developer, Period::Day, usd(amount))]
}

fn state() -> (TempDir, StateDir) {
    let temp = tempfile::tempdir().unwrap();
    let state = StateDir::open(temp.path()).unwrap();
    (temp, state)
}

fn member(developer: &str) -> Member {
    Member { session: SessionId::new(), developer: developer.into(), project: "shop".into(), host: "vm".into() }
}

fn open(state: &StateDir, member: Member, limits: &[SharedLimit], now: Timestamp) -> (Sharing, UnboundedReceiver<Input>) {
    let (inputs, received) = unbounded_channel();
    let shares = Shares { member, limits: limits.to_vec(), used: Vec::new() };
    (Sharing::open(state.clone(), &shares, vec![50, 80, 100], inputs, &[], now).unwrap(), received)
}

fn asks(sharing: &Sharing, total: &str, now: &str) -> Result<(), Uncovered> {
    sharing.covers(Reach { total: usd(total), margin: Usd::ZERO, begins: true, now: at(now) })
}

fn spent(state: &StateDir, day: &str, member: &Member, share: Share) -> Usd {
    let day = day.parse().unwrap();
    read_ledger(state, day).unwrap().spent(member, share, day)
}

#[test]
fn two_sessions_draw_from_one_limit_and_what_was_not_used_goes_back() {
    let (_temp, state) = state();
    let limits = a_day("1");
    let (one, _) = open(&state, member("ana"), &limits, at(NOON));
    let (other, _) = open(&state, member("ana"), &limits, at(NOON));
    let (third, _) = open(&state, member("bea"), &limits, at(NOON));
    asks(&one, "0.7", NOON).unwrap();
    let Err(Uncovered::Lack(lack)) = asks(&other, "0.4", NOON) else { panic!("it is covered") };
    assert_eq!(lack.limit, limits[0]);
    asks(&third, "0.9", NOON).unwrap();
    let _ = one.settle(usd("0.5"), Usd::ZERO, at(NOON));
    asks(&other, "0.4", NOON).unwrap();
    // Of what the second has spent itself it needs no cover any more.
    let _ = other.settle(usd("0.3"), Usd::ZERO, at(NOON));
    asks(&other, "0.5", NOON).unwrap();
    assert!(asks(&other, "0.51", NOON).is_err());
}

#[test]
fn each_share_is_told_once_by_each_session_and_not_what_was_passed_before_it_began() {
    let (_temp, state) = state();
    let limits = a_day("10");
    let (one, _) = open(&state, member("ana"), &limits, at(NOON));
    let told = |settled: &Settled| settled.crossed.iter().map(|(_, percent)| *percent).collect::<Vec<_>>();
    assert_eq!(told(&one.settle(usd("4.9"), Usd::ZERO, at(NOON))), [0; 0]);
    assert_eq!(told(&one.settle(usd("0.2"), Usd::ZERO, at(NOON))), [50]);
    let (other, _) = open(&state, member("ana"), &limits, at(NOON));
    let settled = other.settle(usd("3"), Usd::ZERO, at(NOON));
    assert_eq!(told(&settled), [80]);
    assert_eq!(settled.seen.unwrap(), [limits[0].view(usd("8.1"))]);
    assert_eq!(told(&one.settle(usd("0.1"), Usd::ZERO, at(NOON))), [80]);
    let passed = one.settle(usd("2"), Usd::ZERO, at(NOON));
    assert_eq!(
        (told(&passed), passed.passed.as_deref()),
        (vec![100], Some("the developer's limit of $10.00 a day is used up: $10.20 spent"))
    );
    // The next day begins at nothing.
    let tomorrow = at("2026-11-30T12:00:00Z");
    assert_eq!(told(&one.settle(usd("6"), Usd::ZERO, tomorrow)), [50]);
    assert_eq!(one.views(tomorrow), [limits[0].view(usd("6"))]);
}

#[test]
fn what_runs_over_midnight_is_held_until_it_counts_on_the_day_on_which_it_ends() {
    let (_temp, state) = state();
    let limits = a_day("1");
    let (ana, other) = (member("ana"), member("ana"));
    let (one, _) = open(&state, ana.clone(), &limits, at("2026-11-29T23:59:00Z"));
    let (other, _) = open(&state, other, &limits, at("2026-11-29T23:59:00Z"));
    asks(&one, "0.8", "2026-11-29T23:59:00Z").unwrap();
    assert!(asks(&other, "0.3", "2026-11-30T00:00:01Z").is_err());
    let _ = one.settle(usd("0.8"), Usd::ZERO, at("2026-11-30T00:00:02Z"));
    assert!(asks(&other, "0.3", "2026-11-30T00:00:03Z").is_err());
    asks(&other, "0.2", "2026-11-30T00:00:03Z").unwrap();
    assert_eq!(spent(&state, "2026-11-29", &ana, limits[0].share), Usd::ZERO);
}

#[test]
fn what_runs_into_the_next_month_counts_there_and_is_held_in_the_old_one_no_more() {
    let (_temp, state) = state();
    let limits = [limit(Scope::Project, Period::Month, usd("5"))];
    let ana = member("ana");
    let (one, _) = open(&state, ana.clone(), &limits, at("2026-11-30T23:59:00Z"));
    asks(&one, "2", "2026-11-30T23:59:00Z").unwrap();
    let _ = one.settle(usd("1"), usd("1"), at("2026-11-30T23:59:10Z"));
    let _ = one.settle(usd("0.7"), Usd::ZERO, at("2026-12-01T00:00:10Z"));
    assert_eq!(spent(&state, "2026-11-30", &ana, limits[0].share), usd("1"));
    assert_eq!(spent(&state, "2026-12-01", &ana, limits[0].share), usd("0.7"));
    for month in ["2026-11-30", "2026-12-01"] {
        assert_eq!(read_ledger(&state, month.parse().unwrap()).unwrap().holders(), []);
    }
    // A clock that is set back books on the day that it tells, and nothing twice.
    let _ = one.settle(usd("0.1"), Usd::ZERO, at("2026-11-30T12:00:00Z"));
    assert_eq!(spent(&state, "2026-11-30", &ana, limits[0].share), usd("1.1"));
    assert_eq!(spent(&state, "2026-12-01", &ana, limits[0].share), usd("0.7"));
}

#[test]
fn a_session_that_is_resumed_brings_what_its_journal_says_of_this_month_and_no_more() {
    let (_temp, state) = state();
    let limits = [limit(Scope::Developer, Period::Month, usd("5"))];
    let ana = member("ana");
    let settled = |at: &str, request: u64, cost: &str| {
        let (request, cost) = (RequestId(request), usd(cost));
        let (thread, model, usage) = (Thread::Main, "m".to_owned(), Usage::default());
        let event =
            Event::RequestSettled { request, thread, model, usage, cost, estimated: false, lost: false, message_id: None, window: None };
        Record { v: 1, seq: request.0, at: self::at(at), prev: String::new(), event }
    };
    let earlier = [settled("2026-11-30T12:00:00Z", 1, "3"), settled("2026-12-01T09:00:00Z", 2, "1")];
    let (inputs, _received) = unbounded_channel();
    let shares = Shares { member: ana.clone(), limits: limits.to_vec(), used: Vec::new() };
    let one = Sharing::open(state.clone(), &shares, vec![], inputs, &earlier, at("2026-12-02T12:00:00Z")).unwrap();
    assert_eq!(one.views(at("2026-12-02T12:00:00Z")), [limits[0].view(usd("1"))]);
    // Of what it has booked in all, four dollars are no longer under way.
    asks(&one, "7.9", "2026-12-02T12:00:00Z").unwrap();
    assert!(asks(&one, "8.1", "2026-12-02T12:00:00Z").is_err());
}

#[test]
fn a_ledger_that_cannot_be_used_covers_nothing_and_stops_the_session_once() {
    let (temp, state) = state();
    let (one, mut inputs) = open(&state, member("ana"), &a_day("1"), at(NOON));
    asks(&one, "0.1", NOON).unwrap();
    std::fs::write(temp.path().join("ledger-2026-11.jsonl"), "what is this\n").unwrap();
    for _ in 0..2 {
        let error = asks(&one, "0.2", NOON).unwrap_err().to_string();
        assert!(error.starts_with("the limits shared with other sessions cannot be kept (read the shared ledger "), "{error}");
        assert!(error.ends_with("), so nothing more may be spent"), "{error}");
    }
    let Some(Input::Stop(call)) = inputs.try_recv().ok() else { panic!("it is not stopped") };
    assert_eq!(call.reason, StopReason::JournalLost);
    assert!(inputs.try_recv().is_err());
}

#[test]
fn a_ledger_that_was_moved_away_is_told_anew_what_a_session_has_spent() {
    let (temp, state) = state();
    let (limits, ana) = (a_day("5"), member("ana"));
    let (one, _) = open(&state, ana.clone(), &limits, at(NOON));
    let _ = one.settle(usd("2"), Usd::ZERO, at(NOON));
    std::fs::rename(temp.path().join("ledger-2026-11.jsonl"), temp.path().join("old")).unwrap();
    asks(&one, "3", NOON).unwrap();
    assert_eq!(spent(&state, "2026-11-29", &ana, limits[0].share), usd("2"));
}

/// A kind of text, with the number of tokens that the published vocabulary makes of it.
#[derive(Deserialize)]
struct Kind {
    tokens: u64,
    text: String,
}

fn kinds() -> Vec<Kind> {
    include_str!("../../meter/weigh_samples.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A session with its own limit out of reach, and one that it may share.
fn meter(sharing: Option<&Sharing>) -> Meter {
    let rules = Rules { limits: vec![], alert_at: vec![], refuse_unknown_models: false };
    let settles = sharing.cloned();
    let observer = move |settlement: &Settlement| {
        if let Some(sharing) = &settles {
            let _ = sharing.settle(settlement.cost, settlement.under_way, at(NOON));
        }
    };
    let meter = Meter::new(PriceTable::built_in().unwrap(), rules, Booked::default(), Arc::new(observer));
    if let Some(sharing) = sharing {
        meter.share(sharing.cover());
    }
    meter
}

fn ask() -> Ask {
    let content = Content { text_bytes: 300, ..Content::default() };
    Ask {
        thread: Thread::Main,
        model: "claude-opus-5-5".into(),
        shape: Shape { content, outline: Outline::default(), caches: false, caches_1h: false, speed: Speed::Standard },
        streamed: true,
        max_tokens: 64_000,
        betas: String::new(),
        place: Place::FirstParty,
    }
}

const PROMPT: u64 = 200;

/// A stream under way, and the truth of it.
struct Stream {
    reservation: Reservation,
    weigher: Weigher,
    kind: usize,
    came: usize,
    length: usize,
}

impl Stream {
    fn tokens(&self, kinds: &[Kind]) -> u64 {
        self.came as u64 * kinds[self.kind].tokens / kinds[self.kind].text.len() as u64
    }

    fn cost(&self, kinds: &[Kind]) -> Usd {
        Usd::from_pico(PROMPT * 4_000_000 + self.tokens(kinds) * 20_000_000)
    }

    fn next(&mut self, kinds: &[Kind], bytes: usize) -> Verdict {
        let bytes = bytes.min(self.length - self.came);
        let text = kinds[self.kind].text.as_bytes();
        let piece: Vec<u8> = text.iter().cycle().skip(self.came % text.len()).take(bytes).copied().collect();
        self.came += bytes;
        self.reservation.visible(self.weigher.read(&piece), at(NOON))
    }
}

/// What was spent, what the meters booked of it, and how many answers did not come to their end.
fn run(sessions: usize, limit: Option<Usd>, kinds: &[Kind], answers: &[(usize, usize)], turns: &[(usize, usize)]) -> (Usd, Usd, usize) {
    let (_temp, state) = state();
    let limits: Vec<SharedLimit> = limit.map(|amount| self::limit(Scope::Machine, Period::Day, amount)).into_iter().collect();
    let sharing: Vec<Option<Sharing>> =
        (0..sessions).map(|number| limit.map(|_| open(&state, member(["ana", "bea"][number % 2]), &limits, at(NOON)).0)).collect();
    let meters: Vec<Meter> = sharing.iter().map(|sharing| meter(sharing.as_ref())).collect();
    let mut open: Vec<Option<Stream>> = (0..sessions).map(|_| None).collect();
    let (mut waiting, mut spent, mut stopped) = (answers.iter().copied(), Usd::ZERO, 0);
    for (place, bytes) in turns.iter().copied().cycle() {
        if open[place].is_none() {
            match waiting.next() {
                Some((kind, length)) => match meters[place].reserve(ask(), at(NOON)) {
                    Ok(mut reservation) => {
                        let _ = reservation.started(&Usage { input: PROMPT, ..Usage::default() }, None, at(NOON));
                        open[place] = Some(Stream { reservation, weigher: Weigher::default(), kind: kind % kinds.len(), came: 0, length });
                    }
                    Err(_) => stopped += 1,
                },
                None if open.iter().all(Option::is_none) => break,
                None => {}
            }
        }
        let places = if waiting.len() == 0 { 0..sessions } else { place..place + 1 };
        for place in places {
            let Some(mut stream) = open[place].take() else { continue };
            match stream.next(kinds, bytes) {
                Verdict::Continue if stream.came < stream.length => open[place] = Some(stream),
                Verdict::Cut if stream.came < stream.length => {
                    stopped += 1;
                    spent += stream.cost(kinds);
                    stream.reservation.abandon(at(NOON));
                }
                Verdict::Continue | Verdict::Cut => {
                    spent += stream.cost(kinds);
                    let usage = Usage { input: PROMPT, output: stream.tokens(kinds), ..Usage::default() };
                    stream.reservation.settle(usage, None, None, at(NOON));
                }
            }
        }
    }
    (spent, meters.iter().map(|meter| meter.booked().0).sum(), stopped)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5))]

    #[test]
    fn forty_sessions_pass_a_shared_limit_by_a_hundredth_or_a_cent_at_most_and_none_that_fits_is_stopped(
        answers in prop::collection::vec((0_usize..100, 100_usize..20_000), 60..160),
        turns in prop::collection::vec((0_usize..40, 1_usize..600), 1..300),
        share in 10_u64..90,
    ) {
        const SESSIONS: usize = 40;
        let turns: Vec<(usize, usize)> = turns.into_iter().chain((0..SESSIONS).map(|place| (place, 300))).collect();
        let kinds = kinds();
        let (whole, booked, stopped) = run(SESSIONS, None, &kinds, &answers, &turns);
        prop_assert_eq!((stopped, booked), (0, whole));
        let limit = Usd::from_pico(whole.pico() / 100 * share);
        let (spent, booked, stopped) = run(SESSIONS, Some(limit), &kinds, &answers, &turns);
        let allowed = Usd::from_pico(limit.pico() / 100).max(usd("0.01"));
        prop_assert!(spent <= limit + allowed, "spent {spent} of {limit}, {booked} booked");
        prop_assert!(stopped > 0);
        // With a fifth to spare.
        let roomy = run(SESSIONS, Some(Usd::from_pico(whole.pico() / 4 * 5)), &kinds, &answers, &turns);
        prop_assert_eq!(roomy, (whole, whole, 0));
    }
}
