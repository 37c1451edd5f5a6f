//! The promise of the budget, over streams that run at once: passed by no more than a hundredth or a cent, and not stopped early.

use jiff::ToSpan;
use proptest::prelude::*;
use serde::Deserialize;

use super::price::Place;
use super::*;
use crate::model::{Speed, Thread};

const STREAMS: usize = 50;
const START: Timestamp = Timestamp::UNIX_EPOCH;

/// A kind of text, with the number of tokens that the published vocabulary makes of it.
#[derive(Deserialize)]
struct Kind {
    tokens: u64,
    text: String,
}

fn kinds() -> Vec<Kind> {
    include_str!("weigh_samples.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn meter(limit: Usd) -> Meter {
    let rules = Rules { limits: vec![Limit::Usd(limit)], alert_at: vec![], refuse_unknown_models: false };
    Meter::new(PriceTable::built_in().unwrap(), rules, Booked::default(), Arc::new(|_| {}))
}

fn ask(number: usize) -> Ask {
    Ask {
        thread: Thread::Agent(number.to_string()),
        model: "claude-opus-5-5".into(),
        shape: Shape {
            content: Content { text_bytes: 300, ..Content::default() },
            outline: Outline::default(),
            caches: false,
            caches_1h: false,
            speed: Speed::Standard,
        },
        streamed: true,
        max_tokens: 64_000,
        betas: String::new(),
        place: Place::FirstParty,
    }
}

/// A stream under way, and the truth of it.
struct Stream {
    reservation: Reservation,
    weigher: Weigher,
    kind: usize,
    /// Bytes that came, and that come in all.
    came: usize,
    length: usize,
}

const PROMPT: u64 = 200;

impl Stream {
    fn tokens(&self, kinds: &[Kind]) -> u64 {
        let kind = &kinds[self.kind];
        self.came as u64 * kind.tokens / kind.text.len() as u64
    }

    fn cost(&self, kinds: &[Kind]) -> Usd {
        Usd::from_pico(PROMPT * 4_000_000 + self.tokens(kinds) * 20_000_000)
    }

    /// The next bytes of it.
    fn next(&mut self, kinds: &[Kind], bytes: usize) -> Text {
        let bytes = bytes.min(self.length - self.came);
        let text = kinds[self.kind].text.as_bytes();
        let piece: Vec<u8> = text.iter().cycle().skip(self.came % text.len()).take(bytes).copied().collect();
        self.came += bytes;
        self.weigher.read(&piece)
    }
}

/// How it came out.
struct Outcome {
    spent: Usd,
    booked: Usd,
    stopped: usize,
}

/// Runs 50 streams at a time, of these kinds and lengths, one after the other on each place, in the order of `turns`.
fn run(limit: Usd, kinds: &[Kind], answers: &[(usize, usize)], turns: &[(usize, usize)]) -> Outcome {
    let meter = meter(limit);
    let mut waiting = answers.iter().copied();
    let mut open: Vec<Option<Stream>> = (0..STREAMS).map(|_| None).collect();
    let mut out = Outcome { spent: Usd::ZERO, booked: Usd::ZERO, stopped: 0 };
    let mut now = START;
    for (place, bytes) in turns.iter().copied().cycle() {
        now += 1.millisecond();
        if open[place].is_none() {
            match waiting.next() {
                Some((kind, length)) => match meter.reserve(ask(place), now) {
                    Ok(mut reservation) => {
                        assert!(meter.booked().0 < limit, "admitted after the limit");
                        let started = reservation.started(&Usage { input: PROMPT, ..Usage::default() }, None, now);
                        let stream = Stream { reservation, weigher: Weigher::default(), kind: kind % kinds.len(), came: 0, length };
                        if started == Verdict::Cut {
                            out.stopped += 1;
                            out.spent += stream.cost(kinds);
                            stream.reservation.abandon(now);
                        } else {
                            open[place] = Some(stream);
                        }
                    }
                    Err(_) => out.stopped += 1,
                },
                // Nothing more comes: each place has its turn until all are done.
                None if open.iter().all(Option::is_none) => break,
                None => {}
            }
        }
        let places = if waiting.len() == 0 { 0..STREAMS } else { place..place + 1 };
        for place in places {
            let Some(stream) = &mut open[place] else { continue };
            let text = stream.next(kinds, bytes);
            let verdict = stream.reservation.visible(text, now);
            if verdict == Verdict::Continue && stream.came < stream.length {
                continue;
            }
            let stream = open[place].take().unwrap();
            out.spent += stream.cost(kinds);
            if stream.came < stream.length {
                out.stopped += 1;
                stream.reservation.abandon(now);
                // The proxy wakes all others, and who is told to stop stops there and then.
                for place in &mut open {
                    if place.as_mut().is_some_and(|stream| stream.reservation.tick(now) == Verdict::Cut) {
                        let stream = place.take().unwrap();
                        out.stopped += 1;
                        out.spent += stream.cost(kinds);
                        stream.reservation.abandon(now);
                    }
                }
            } else {
                let usage = Usage { input: PROMPT, output: stream.tokens(kinds), ..Usage::default() };
                stream.reservation.settle(usage, None, None, now);
            }
        }
    }
    out.booked = meter.booked().0;
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn fifty_streams_pass_a_limit_by_a_hundredth_or_a_cent_at_most_and_none_that_fits_is_stopped(
        answers in prop::collection::vec((0_usize..100, 100_usize..20_000), 50..200),
        turns in prop::collection::vec((0..STREAMS, 1_usize..600), 1..300),
        share in 10_u64..90,
    ) {
        // Every place has a turn.
        let turns: Vec<(usize, usize)> = turns.into_iter().chain((0..STREAMS).map(|place| (place, 300))).collect();
        let kinds = kinds();
        let whole = run(Usd::from_pico(u64::MAX), &kinds, &answers, &turns);
        prop_assert_eq!((whole.stopped, whole.booked), (0, whole.spent));
        // A limit of a share of it.
        let limit = Usd::from_pico(whole.spent.pico() / 100 * share);
        let Outcome { spent, booked, stopped } = run(limit, &kinds, &answers, &turns);
        let allowed = Usd::from_pico(limit.pico() / 100).max("0.01".parse().unwrap());
        prop_assert!(spent <= limit + allowed, "spent {spent} of {limit}, {booked} booked");
        prop_assert!(stopped > 0);
        // A limit with a fifth to spare.
        let roomy = run(Usd::from_pico(whole.spent.pico() / 4 * 5), &kinds, &answers, &turns);
        prop_assert_eq!((roomy.stopped, roomy.booked), (0, whole.spent));
    }
}

/// Thinks 30,000 tokens in silence at this speed, looked at four times a second, with so much room; whether it was cut, and what it had
/// thought by then.
fn thinks(speed: u64, limit: Usd) -> (bool, u64) {
    const TOKENS: u64 = 30_000;
    let meter = meter(limit);
    let mut reservation = meter.reserve(ask(0), START).unwrap();
    let _ = reservation.started(&Usage::default(), None, START);
    let _ = reservation.hidden(true, START);
    for look in 1_u64.. {
        let now = START + i64::try_from(look * 250).unwrap().milliseconds();
        let thought = (look * 250 * speed / 1_000).min(TOKENS);
        if reservation.tick(now) == Verdict::Cut {
            reservation.abandon(now);
            return (true, thought);
        }
        if thought == TOKENS {
            break;
        }
    }
    let _ = reservation.settle(Usage { output: TOKENS, ..Usage::default() }, None, None, START);
    (false, TOKENS)
}

#[test]
fn thirty_thousand_silent_tokens_pass_a_limit_by_one_look_at_most_and_need_room_for_the_speed_that_is_assumed() {
    let cost = |tokens: u64| Usd::from_pico(tokens * 20_000_000);
    // As fast as is assumed, 150 a second: passed by no more than what is thought between two looks.
    for limit in [1_000, 7_777, 29_000] {
        let (cut, thought) = thinks(150, cost(limit));
        assert!(cut && thought >= limit && thought <= limit + 150 / 4 + 1, "{limit}: {thought}");
    }
    assert_eq!(thinks(150, cost(30_000 * 5 / 4)), (false, 30_000), "and with a fifth to spare not cut");
    // A third as fast: counted three times until it is reported, and cut if there is no room for that.
    assert_eq!(thinks(50, cost(30_000 * 3 + 200)), (false, 30_000));
    let (cut, thought) = thinks(50, cost(30_000));
    assert!(cut && (10_000..10_050).contains(&thought), "{thought}");
}
