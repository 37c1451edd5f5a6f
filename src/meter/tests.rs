//! What the meter promises.

mod clock;

use jiff::ToSpan;
use proptest::prelude::*;

use super::estimate::LastPrompt;
use super::price::Place;
use super::*;
use crate::model::{Speed, Thread};

const START: Timestamp = Timestamp::UNIX_EPOCH;

fn usd(text: &str) -> Usd {
    text.parse().unwrap()
}

/// A prompt of messages of so many bytes; the same number in the same place is the same message.
fn messages(bytes: &[u64]) -> Shape {
    let mut rows: Vec<Part> = bytes
        .iter()
        .enumerate()
        .map(|(index, bytes)| {
            let content = Content { text_bytes: *bytes, ..Content::default() };
            Part { digest: bytes * 1_000 + index as u64 + 1, tokens: content.tokens(), marked: false }
        })
        .collect();
    rows.last_mut().unwrap().marked = true;
    let content = Content { text_bytes: bytes.iter().sum(), ..Content::default() };
    let outline = Outline { base: Part::default(), messages: rows };
    Shape { content, outline, caches: false, caches_1h: false, speed: Speed::Standard }
}

fn shape(text_bytes: u64) -> Shape {
    messages(&[text_bytes])
}

fn ask(text_bytes: u64) -> Ask {
    Ask {
        thread: Thread::Main,
        model: "claude-opus-5-5".into(),
        shape: shape(text_bytes),
        streamed: true,
        max_tokens: 32_000,
        betas: String::new(),
        place: Place::FirstParty,
    }
}

fn meter_with(limits: Vec<Limit>) -> (Meter, Arc<Mutex<Vec<Settlement>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let observer: Observer = Arc::new(move |settlement| sink.lock().unwrap().push(settlement.clone()));
    let rules = Rules { limits, alert_at: vec![50, 80, 100], refuse_unknown_models: false };
    (Meter::new(PriceTable::built_in().unwrap(), rules, Booked::default(), observer), seen)
}

fn meter(limit: &str) -> (Meter, Arc<Mutex<Vec<Settlement>>>) {
    meter_with(vec![limit.parse().unwrap()])
}

/// Mostly input: 0.40 USD on opus-5-5.
fn forty_cents() -> Usage {
    Usage { input: 95_000, output: 1_000, ..Usage::default() }
}

#[test]
fn the_third_turn_of_forty_cents_does_not_fit_a_dollar() {
    let (meter, _) = meter("1usd");
    for _ in 0..2 {
        meter.reserve(ask(50_000), START).unwrap().settle(forty_cents(), None, None, START);
    }
    assert_eq!(meter.booked().0, usd("0.8"));
    let third = Ask { shape: messages(&[50_000, 100]), ..ask(0) };
    let Err(refusal) = meter.reserve(third, START) else { panic!("the third request was admitted") };
    assert_eq!(refusal.to_string(), "the budget of $1.00 does not cover this request: $0.80 spent, it needs about $0.38");
}

#[test]
fn a_dropped_reservation_is_booked_at_what_was_seen_and_the_observer_is_told() {
    let (meter, seen) = meter("5usd");
    let mut reservation = meter.reserve(ask(3_200), START).unwrap();
    reservation.started(&Usage { input: 100_000, output: 1, ..Usage::default() }, Some("msg_1"), START);
    reservation.visible(Text::unread(3_000), START);
    drop(reservation);
    let settlements = seen.lock().unwrap().clone();
    assert_eq!(settlements.len(), 1);
    assert!(settlements[0].lost && settlements[0].estimated);
    assert_eq!(settlements[0].cost, usd("0.42"));
    assert_eq!(meter.booked(), (usd("0.42"), 101_000));
}

#[test]
fn a_reservation_dropped_before_anything_came_costs_its_forecast() {
    let (meter, _) = meter("5usd");
    drop(meter.reserve(ask(320_000), START).unwrap());
    assert_eq!(meter.booked(), (usd("0.4"), 100_000));
}

#[test]
fn a_lost_unstreamed_answer_is_booked_with_all_its_max_tokens() {
    let (meter, _) = meter("5usd");
    drop(meter.reserve(Ask { streamed: false, max_tokens: 10_000, ..ask(0) }, START).unwrap());
    assert_eq!(meter.booked(), (usd("0.2"), 10_000));
}

#[test]
fn what_a_crash_books_holds_all_output_that_was_asked_for() {
    let (meter, _) = meter("5usd");
    let mut reservation = meter.reserve(ask(320_000), START).unwrap();
    assert_eq!(reservation.ceiling(), (usd("1.04"), 132_000));
    assert_eq!(reservation.crash_ceiling(), (usd("2.24"), 432_000), "of a prompt that may be of a byte a token, or less");
    reservation.started(&Usage { input: 100_000, ..Usage::default() }, None, START);
    reservation.visible(Text::unread(3_000), START);
    assert_eq!(reservation.abandon(START).cost, usd("0.42"), "of a stream that was followed more is known than its ceiling");
}

#[test]
fn what_a_crash_books_holds_a_prompt_that_is_longer_than_it_could_be_and_what_came_to_it() {
    let (meter, _) = meter("50usd");
    let mut reservation = meter.reserve(ask(320), START).unwrap();
    let tell = |reservation: &mut Reservation, usage: Usage, parts: Vec<price::Part>| {
        reservation.started(&usage, None, START);
        reservation.higher_ceiling(&price::Reported { usage, parts })
    };
    // 32,000 tokens of output are 0.64.
    let prompt = Usage { input: 500_000, output: 1, ..Usage::default() };
    assert_eq!(tell(&mut reservation, prompt, vec![]), Some((usd("2.64"), 532_000)));
    assert_eq!(tell(&mut reservation, prompt, vec![]), None, "told once");
    let searched = Usage { web_searches: 5, output: 32_000, ..prompt };
    assert_eq!(tell(&mut reservation, searched, vec![]), Some((usd("2.69"), 532_000)));
    let compacted = price::Part { kind: price::PartKind::Compaction, model: None, usage: Usage { input: 250_000, ..Usage::default() } };
    assert_eq!(tell(&mut reservation, searched, vec![compacted]), Some((usd("3.69"), 782_000)));
    reservation.release(START);
}

#[test]
fn what_a_place_costs_more_holds_though_the_answer_names_the_model_bare() {
    let mut table = PriceTable::built_in().unwrap();
    let dollar = usd("1");
    table.set(
        "arn:aws:bedrock:us-east-1:1:application-inference-profile/abc",
        price::Rates::per_million(dollar, dollar, dollar, dollar, dollar),
    );
    let rules = Rules { limits: vec![], alert_at: vec![], refuse_unknown_models: false };
    let meter = Meter::new(table, rules, Booked::default(), Arc::new(|_| {}));
    let cost = |asked: &str| {
        let ask = Ask { model: asked.into(), place: Place::Bedrock, ..ask(0) };
        let usage = Usage { input: 1_000_000, ..Usage::default() };
        meter.reserve(ask, START).unwrap().settle(usage, Some("claude-haiku-4-5-20251001"), None, START).cost
    };
    assert_eq!(cost("us.anthropic.claude-haiku-4-5-20251001-v1:0"), usd("1.1"));
    assert_eq!(cost("global.anthropic.claude-haiku-4-5-20251001-v1:0"), usd("1"));
    assert_eq!(cost("arn:aws:bedrock:us-east-1:1:application-inference-profile/abc"), usd("1"), "the user's own price");
}

#[test]
fn what_the_api_has_counted_once_makes_the_ceiling_of_the_next_prompt() {
    let (meter, _) = meter("50usd");
    meter.reserve(cached(320_000), START).unwrap().settle(Usage { cache_write_5m: 100_000, ..Usage::default() }, None, None, START);
    let next = meter.reserve(Ask { max_tokens: 0, ..caching(&[320_000, 3_200]) }, START).unwrap();
    // 100,000 tokens that were counted and 1,000 that may be 4,000, none of them read from the cache.
    assert_eq!(next.crash_ceiling(), (usd("0.52"), 104_000));
    next.release(START);
}

#[test]
fn an_answer_that_cannot_be_followed_is_held_and_booked_at_its_whole_ceiling() {
    let (meter, _) = meter("2usd");
    let mut blind = meter.reserve(ask(320_000), START).unwrap();
    assert_eq!(blind.blind(START), Verdict::Continue);
    let Err(refusal) = meter.reserve(Ask { thread: Thread::Agent("a".into()), ..ask(960_000) }, START) else { panic!("admitted") };
    assert!(refusal.to_string().contains("$1.04 spent"), "{refusal}");
    drop(blind);
    assert_eq!(meter.booked(), (usd("1.04"), 132_000));
}

#[test]
fn an_answer_that_cannot_be_followed_is_settled_with_its_usage_if_that_comes() {
    let (meter, _) = meter("2usd");
    let mut blind = meter.reserve(ask(320_000), START).unwrap();
    blind.blind(START);
    assert_eq!(blind.settle(forty_cents(), None, None, START).cost, usd("0.4"));
}

#[test]
fn no_count_of_tokens_is_too_large_to_reckon_with() {
    let (meter, _) = meter("2usd");
    let reservation = meter.reserve(Ask { max_tokens: u64::MAX, ..ask(100) }, START).unwrap();
    assert!(reservation.ceiling().0 > usd("100"));
    reservation.release(START);
}

#[test]
fn an_unstreamed_request_must_fit_whole() {
    let (meter, _) = meter("1usd");
    assert!(meter.reserve(Ask { streamed: false, max_tokens: 50_001, ..ask(0) }, START).is_err());
    meter.reserve(Ask { streamed: false, max_tokens: 50_000, ..ask(0) }, START).unwrap().release(START);
}

#[test]
fn visible_output_is_counted_while_it_streams_and_cut_at_the_limit() {
    let (meter, _) = meter("1usd");
    let mut reservation = meter.reserve(ask(100), START).unwrap();
    assert_eq!(reservation.started(&Usage { input: 100_000, ..Usage::default() }, None, START), Verdict::Continue);
    assert_eq!(reservation.visible(Text::unread(89_000), START), Verdict::Continue);
    assert_eq!(reservation.visible(Text::unread(1_000), START), Verdict::Cut);
}

#[test]
fn text_past_its_max_tokens_counts_and_what_nobody_reads_does_not() {
    let short = || Ask { max_tokens: 1_000, ..ask(0) };
    let ((text, _), (hidden, _)) = (meter("1usd"), meter("1usd"));
    let mut long = text.reserve(short(), START).unwrap();
    let page = Text::of(&"words and more words, ".repeat(100));
    for _ in 0..50_000 / page.tokens() {
        assert_eq!(long.visible(page, START), Verdict::Continue);
    }
    assert_eq!(long.visible(page, START), Verdict::Cut);
    let booked = long.abandon(START).usage.output;
    assert!((50_000..=50_000 + page.tokens()).contains(&booked), "{booked}");
    let mut unseen = hidden.reserve(short(), START).unwrap();
    unseen.visible(Text::unread(1_000_000), START);
    unseen.hidden(true, START);
    assert_eq!(unseen.abandon(START + 1.hour()).usage.output, 1_000);
}

#[test]
fn all_open_streams_count_together() {
    let (meter, _) = meter("1usd");
    let mut first = meter.reserve(ask(100), START).unwrap();
    let mut second = meter.reserve(Ask { thread: Thread::Agent("a".into()), ..ask(100) }, START).unwrap();
    let prompt = Usage { input: 125_000, ..Usage::default() };
    assert_eq!(first.started(&prompt, None, START), Verdict::Continue);
    assert_eq!(second.started(&prompt, None, START), Verdict::Cut);
}

#[test]
fn a_number_of_requests_is_a_limit_and_the_last_one_comes_to_its_end() {
    let (meter, seen) = meter("2req");
    meter.reserve(ask(100), START).unwrap().release(START);
    meter.reserve(ask(100), START).unwrap().settle(forty_cents(), None, None, START);
    let mut second = meter.reserve(ask(100), START).unwrap();
    assert_eq!(second.visible(Text::unread(300_000), START), Verdict::Continue);
    let Err(refusal) = meter.reserve(Ask { thread: Thread::Agent("a".into()), ..ask(1) }, START) else { panic!("a third was admitted") };
    assert_eq!(refusal.to_string(), "the budget of 2 requests is used up");
    drop(second);
    assert_eq!(meter.spent().requests, 2, "an upstream error is no request, a lost answer is one");
    let crossed: Vec<Vec<u32>> = seen.lock().unwrap().iter().map(|s| s.crossed.iter().map(|c| c.percent).collect()).collect();
    assert_eq!(crossed, vec![vec![], vec![50], vec![80, 100]]);
    assert_eq!(seen.lock().unwrap().iter().find_map(|settlement| settlement.limit_passed), None);
}

#[test]
fn each_share_is_told_once_and_again_after_the_limit_was_raised() {
    let (meter, seen) = meter("1usd");
    for _ in 0..2 {
        meter.reserve(ask(100), START).unwrap().settle(forty_cents(), None, None, START);
    }
    meter.set_limits(vec!["2usd".parse().unwrap()]);
    for _ in 0..2 {
        meter.reserve(ask(100), START).unwrap().settle(forty_cents(), None, None, START);
    }
    let crossed: Vec<Vec<u32>> = seen.lock().unwrap().iter().map(|s| s.crossed.iter().map(|c| c.percent).collect()).collect();
    assert_eq!(crossed, vec![vec![], vec![50, 80], vec![50], vec![80]]);
}

#[test]
fn a_limit_that_is_met_below_its_last_share_is_told_once_and_again_after_it_was_raised() {
    let (meter, _) = meter("1usd");
    let refused = |meter: &Meter| meter.reserve(Ask { shape: messages(&[50_000, 1_000_000]), ..ask(0) }, START).is_err();
    let last = vec![Crossing { limit: crate::model::LimitKind::Usd, percent: 100 }];
    assert_eq!(meter.met(), vec![]);
    assert!(refused(&meter) && refused(&meter));
    assert_eq!(meter.met(), last);
    assert!(refused(&meter));
    assert_eq!(meter.met(), vec![]);
    meter.set_limits(vec!["1.1usd".parse().unwrap()]);
    assert!(refused(&meter));
    assert_eq!(meter.met(), last);
}

/// What a request of this shape is forecast to cost for its prompt alone.
fn forecast(meter: &Meter, ask: Ask, now: Timestamp) -> Usd {
    let reservation = meter.reserve(Ask { max_tokens: 0, ..ask }, now).unwrap();
    let cost = reservation.ceiling().0;
    reservation.release(now);
    cost
}

fn cached(text_bytes: u64) -> Ask {
    caching(&[text_bytes])
}

fn caching(bytes: &[u64]) -> Ask {
    Ask { shape: Shape { caches: true, ..messages(bytes) }, ..ask(0) }
}

#[test]
fn what_was_written_to_the_cache_a_moment_ago_is_forecast_as_read() {
    let (meter, _) = meter("100usd");
    let written = Usage { cache_write_5m: 100_000, ..Usage::default() };
    meter.reserve(cached(380_000), START).unwrap().settle(written, None, None, START);
    assert_eq!(forecast(&meter, cached(380_000), START + 1.minute()), usd("0.02"));
    // 3,200 bytes more are 1,000 tokens to write.
    assert_eq!(forecast(&meter, caching(&[380_000, 3_200]), START + 1.minute()), usd("0.025"));
    assert_eq!(forecast(&meter, cached(380_000), START + 10.minutes()), usd("0.5"));
    assert_eq!(forecast(&meter, ask(380_000), START + 1.minute()), usd("0.4"), "without marks nothing is read from the cache");
}

#[test]
fn a_body_of_padding_does_not_make_the_next_one_cheap() {
    let (meter, _) = meter("2usd");
    let threads: Vec<Thread> = (0..8).map(|number| Thread::Agent(number.to_string())).collect();
    for thread in &threads {
        let padded = meter.reserve(Ask { thread: thread.clone(), ..cached(960_000) }, START).unwrap();
        padded.settle(Usage { cache_write_5m: 1_000, ..Usage::default() }, None, None, START);
    }
    // 300,000 tokens to write are 1.50: one of them fits.
    let open: Vec<_> = threads.iter().map(|thread| meter.reserve(Ask { thread: thread.clone(), ..cached(960_001) }, START)).collect();
    assert_eq!(open.iter().filter(|open| open.is_ok()).count(), 1);
}

#[test]
fn another_text_of_the_same_length_is_not_taken_for_a_cache_read() {
    let (meter, _) = meter("2usd");
    let threads: Vec<Thread> = (0..8).map(|number| Thread::Agent(number.to_string())).collect();
    for thread in &threads {
        let primed = meter.reserve(Ask { thread: thread.clone(), ..caching(&[320_000, 640_000]) }, START).unwrap();
        primed.settle(Usage { cache_read: 300_000, ..Usage::default() }, None, None, START);
    }
    // The same again is read for 0.06; 300,000 tokens to write are 1.50, of which one fits beside what was spent.
    let same = meter.reserve(Ask { thread: threads[0].clone(), ..caching(&[320_000, 640_000]) }, START).unwrap();
    assert_eq!(same.ceiling().0.saturating_sub(usd("0.64")), usd("0.06"));
    same.release(START);
    let open: Vec<_> =
        threads.iter().map(|thread| meter.reserve(Ask { thread: thread.clone(), ..caching(&[320_000, 639_999]) }, START)).collect();
    assert_eq!(open.iter().filter(|open| open.is_ok()).count(), 1);
}

#[test]
fn a_cache_mark_that_moved_away_does_not_read_what_stood_before_it() {
    let (meter, _) = meter("100usd");
    meter.reserve(cached(320_000), START).unwrap().settle(Usage { cache_write_5m: 100_000, ..Usage::default() }, None, None, START);
    let mut moved = caching(&[320_000]);
    moved.shape.outline.messages[0].marked = false;
    assert_eq!(forecast(&meter, moved, START), usd("0.5"));
}

#[test]
fn the_unstreamed_repeat_of_a_lost_stream_is_refused_and_any_other_is_not() {
    let (meter, _) = meter("5usd");
    meter.reserve(ask(320), START).unwrap().abandon(START);
    let repeat = Ask { streamed: false, max_tokens: 1_000, ..ask(320) };
    assert_eq!(meter.reserve(repeat.clone(), START).err(), Some(Refusal::UnstreamedRepeat));
    meter.reserve(Ask { streamed: false, max_tokens: 1_000, ..ask(321) }, START).unwrap().release(START);
    meter.reserve(ask(320), START).unwrap().settle(forty_cents(), None, None, START);
    meter.reserve(repeat, START).unwrap().release(START);
}

#[test]
fn an_answer_that_pauses_and_goes_on_is_booked_with_both_halves() {
    let (meter, _) = meter("5usd");
    let mut paused = meter.reserve(ask(0), START).unwrap();
    paused.started(&Usage { input: 100_000, output: 1, ..Usage::default() }, None, START);
    paused.paused(&forty_cents());
    paused.started(&Usage { input: 100_000, ..Usage::default() }, None, START);
    paused.visible(Text::unread(3_000), START);
    let settlement = paused.abandon(START);
    assert_eq!((settlement.cost, settlement.usage.total(), settlement.usage.context()), (usd("0.82"), 197_000, 100_000));
}

#[test]
fn a_request_that_was_lost_before_its_prompt_was_known_says_nothing_about_the_next() {
    let (meter, _) = meter("100usd");
    drop(meter.reserve(cached(320_000), START).unwrap());
    assert_eq!(forecast(&meter, cached(320_000), START), usd("0.5"));
}

#[test]
fn a_document_that_the_api_fetches_itself_counts_as_a_long_one() {
    let (meter, _) = meter("100usd");
    let content = Content { remote_documents: 1, ..Content::default() };
    let remote = Ask { shape: Shape { content, ..shape(0) }, ..ask(0) };
    assert_eq!(forecast(&meter, remote, START), usd("1.2"));
}

#[test]
fn a_limit_is_passed_by_what_goes_above_it_and_not_by_what_just_uses_it_up() {
    let (meter, _) = meter_with(vec!["0.8usd".parse().unwrap(), "1Mtok".parse().unwrap()]);
    let open: Vec<_> = (0..4).map(|_| meter.reserve(ask(100), START).unwrap()).collect();
    let mut passed = Vec::new();
    for (number, reservation) in open.into_iter().enumerate() {
        let settlement = if number == 3 { reservation.release(START) } else { reservation.settle(forty_cents(), None, None, START) };
        passed.push(settlement.limit_passed.map(|limit| limit.to_string()));
    }
    assert_eq!(passed, [None, None, Some("$0.80".to_owned()), None]);
    assert!(meter.reserve(ask(0), START).is_err());
}

#[test]
fn a_lost_request_can_pass_a_limit() {
    let (meter, _) = meter("1usd");
    let mut reservation = meter.reserve(ask(100), START).unwrap();
    reservation.blind(START);
    let mut second = meter.reserve(ask(100), START).unwrap();
    second.started(&Usage { input: 200_000, ..Usage::default() }, None, START);
    assert_eq!(second.abandon(START).limit_passed, None);
    assert_eq!(reservation.abandon(START).limit_passed, Some("1usd".parse().unwrap()));
}

#[test]
fn tokens_are_a_limit_too() {
    let (meter, _) = meter("100ktok");
    meter.reserve(ask(100), START).unwrap().settle(forty_cents(), None, None, START);
    let Err(refusal) = meter.reserve(ask(100), START) else { panic!("admitted") };
    assert!(refusal.to_string().contains("100k tokens"), "{refusal}");
}

#[test]
fn an_unknown_model_is_refused_where_policy_says_so() {
    let rules = Rules { limits: vec![], alert_at: vec![], refuse_unknown_models: true };
    let meter = Meter::new(PriceTable::built_in().unwrap(), rules, Booked::default(), Arc::new(|_| {}));
    let Err(refusal) = meter.reserve(Ask { model: "claude-next".into(), ..ask(1) }, START) else { panic!("admitted") };
    assert_eq!(refusal, Refusal::UnknownModel("claude-next".into()));
}

proptest! {
    /// Whatever came before on a conversation: what was not there, byte for byte, is forecast by its bytes and as new; so is everything
    /// behind the last cache mark that the two have in common.
    #[test]
    fn only_what_the_api_has_confirmed_is_forecast_as_read(
        first in prop::collection::vec(1_u64..400_000, 1..6), kept in 0_usize..6, more in prop::collection::vec(400_000_u64..800_000, 0..4),
        true_tokens in 1_u64..700_000, minutes in 0_i64..90,
    ) {
        let (meter, _) = meter_with(vec![]);
        let usage = Usage { cache_read: true_tokens, ..Usage::default() };
        meter.reserve(caching(&first), START).unwrap().settle(usage, None, None, START);
        let next: Vec<u64> = first.iter().copied().take(kept).chain(more.iter().copied()).collect();
        prop_assume!(!next.is_empty());
        let last = LastPrompt { usage, shape: caching(&first).shape, at: START };
        let now = START + minutes.minutes();
        let forecast = forecast_prompt(&caching(&next).shape, Some(&last), now);
        // Only the last message of the first prompt is marked.
        let confirmed = kept >= first.len();
        let new: u64 = if confirmed { more.iter().sum() } else { next.iter().sum() };
        prop_assert!(forecast.cache_write_5m + forecast.cache_read + next.len() as u64 + 1 >= new * 10 / 32, "{forecast:?}");
        prop_assert_eq!(forecast.cache_read, if confirmed && minutes < 5 && minutes * 60 < 270 { true_tokens } else { 0 });
    }

    /// Any order of any events: what is held follows what was seen, and what is booked is what was reported.
    #[test]
    fn the_sum_of_what_is_held_and_booked_never_falls_while_streams_run(
        events in prop::collection::vec((0_usize..50, 1_u64..2_000, 0_i64..2_000), 1..400),
    ) {
        let (meter, _) = meter_with(vec![]);
        let mut streams: Vec<Reservation> = (0..50)
            .map(|number| meter.reserve(Ask { thread: Thread::Agent(number.to_string()), ..ask(100) }, START).unwrap())
            .collect();
        let mut now = START;
        for stream in &mut streams {
            stream.started(&Usage { input: 100, output: 1, ..Usage::default() }, None, now);
        }
        let mut before = meter.lock().held().cost;
        for (which, bytes, ms) in events {
            now += ms.milliseconds();
            match bytes % 5 {
                0 => streams[which].hidden(true, now),
                1 => streams[which].block_ended(now),
                _ => streams[which].visible(Text::unread(bytes), now),
            };
            let held = meter.lock().held().cost;
            prop_assert!(held >= before);
            before = held;
        }
    }

    /// However requests interleave and end, what is booked is the sum of what was settled and nothing stays held.
    #[test]
    fn everything_admitted_is_booked_exactly_once(ends in prop::collection::vec((0u8..4, 0u64..50_000), 1..40)) {
        let (meter, seen) = meter_with(vec![]);
        let mut open: Vec<Reservation> = Vec::new();
        for (how, tokens) in ends {
            open.push(meter.reserve(ask(tokens), START).unwrap());
            let usage = Usage { input: tokens, output: tokens / 10, ..Usage::default() };
            if open.len() > 3 || how > 0 {
                let first = open.remove(0);
                match how {
                    0 | 1 => { first.settle(usage, None, None, START); }
                    2 => drop(first),
                    _ => { first.release(START); }
                }
            }
        }
        drop(open);
        let settlements = seen.lock().unwrap();
        let (cost, tokens) = meter.booked();
        prop_assert_eq!(cost, settlements.iter().map(|s| s.cost).sum::<Usd>());
        prop_assert_eq!(tokens, settlements.iter().map(|s| s.usage.total()).sum::<u64>());
        prop_assert_eq!(meter.lock().open.len(), 0);
    }
}
