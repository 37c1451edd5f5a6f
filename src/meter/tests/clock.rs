//! Output that is not seen counts by the clock.

use jiff::{SignedDuration, ToSpan};

use super::super::*;
use super::{START, ask, meter, usd};
use crate::model::Thread;

#[test]
fn hidden_output_is_counted_by_the_clock() {
    let (meter, _) = meter("1usd");
    let mut reservation = meter.reserve(ask(100), START).unwrap();
    reservation.started(&Usage { input: 100_000, ..Usage::default() }, None, START);
    assert_eq!(reservation.hidden(true, START), Verdict::Continue);
    assert_eq!(reservation.tick(START + 199.seconds()), Verdict::Continue);
    assert_eq!(reservation.tick(START + 201.seconds()), Verdict::Cut);
}

#[test]
fn a_faster_model_than_was_asked_counts_at_its_own_speed() {
    let (meter, _) = meter("1usd");
    let mut fallen_back = meter.reserve(ask(0), START).unwrap();
    fallen_back.answered_by("claude-haiku-5-5");
    fallen_back.hidden(true, START);
    assert_eq!(fallen_back.abandon(START + 10.seconds()).usage.output, 4_000);
}

#[test]
fn a_model_that_proves_faster_than_assumed_counts_at_that_from_then_on() {
    let hidden_for_ten_seconds = |meter: &Meter| {
        let mut hidden = meter.reserve(ask(0), START).unwrap();
        hidden.hidden(true, START);
        hidden.abandon(START + 10.seconds()).usage.output
    };
    let answers = |meter: &Meter, output, time: SignedDuration| {
        let mut answer = meter.reserve(ask(0), START).unwrap();
        answer.sent(START);
        answer.settle(Usage { output, ..Usage::default() }, None, None, START + time);
    };
    let (meter, _) = meter("100usd");
    assert_eq!(hidden_for_ten_seconds(&meter), 1_500);
    // Slower, and what may have come out of a buffer: nothing new.
    answers(&meter, 1_000, SignedDuration::from_secs(10));
    answers(&meter, 10_000, SignedDuration::from_millis(2_900));
    answers(&meter, 99, SignedDuration::from_secs(3));
    assert_eq!(hidden_for_ten_seconds(&meter), 1_500);
    // 400 a second as a whole: up to a quarter more while it generates.
    answers(&meter, 2_000, SignedDuration::from_secs(5));
    answers(&meter, 1_000, SignedDuration::from_secs(10));
    assert_eq!(hidden_for_ten_seconds(&meter), 5_000);
    // A gateway's cache: no model is that fast.
    answers(&meter, 100_000, SignedDuration::from_secs(4));
    assert_eq!(hidden_for_ten_seconds(&meter), 6_000);

    // Of another model that answered in its place nothing is learned.
    let (meter, _) = self::meter("100usd");
    let mut fallen_back = meter.reserve(ask(0), START).unwrap();
    fallen_back.sent(START);
    fallen_back.settle(Usage { output: 3_500, ..Usage::default() }, Some("claude-haiku-5-5"), None, START + 10.seconds());
    assert_eq!(hidden_for_ten_seconds(&meter), 1_500);
}

#[test]
fn a_streamed_request_of_which_nothing_came_back_may_have_generated_all_the_while() {
    let (meter, _) = meter("5usd");
    let mut unheard = meter.reserve(ask(320_000), START).unwrap();
    unheard.sent(START);
    assert_eq!(unheard.tick(START + 10.seconds()), Verdict::Continue);
    // 1,500 tokens at 150 a second, for 0.03, on top of the prompt.
    assert_eq!(unheard.abandon(START + 10.seconds()).cost, usd("0.43"));
    let mut long = meter.reserve(Ask { max_tokens: 1_000, ..ask(0) }, START).unwrap();
    long.sent(START);
    assert_eq!(long.abandon(START + 1.hour()).usage.output, 1_000, "never more than was asked for");
}

/// 50 streams think 30,000 tokens each, in silence, as fast as their model can; the proxy looks at each every 250 ms.
#[test]
fn fifty_streams_that_think_in_silence_pass_the_limit_by_no_more_than_one_look() {
    const STREAMS: i64 = 50;
    let (meter, _) = meter("5usd");
    let mut streams: Vec<Reservation> =
        (0..STREAMS).map(|number| meter.reserve(Ask { thread: Thread::Agent(number.to_string()), ..ask(0) }, START).unwrap()).collect();
    for stream in &mut streams {
        stream.started(&Usage::default(), None, START);
        stream.hidden(true, START);
    }
    // In time: every 5 ms it is another stream's turn. Who is told to stop stops there and then.
    let mut open: Vec<Option<Reservation>> = streams.into_iter().map(Some).collect();
    let mut tokens = 0;
    for turn in 1.. {
        let now = START + (turn * 5).milliseconds();
        let stream = &mut open[usize::try_from(turn % STREAMS).unwrap()];
        if stream.as_mut().is_some_and(|stream| stream.tick(now) == Verdict::Cut) {
            tokens += 150 * turn * 5 / 1_000;
            drop(stream.take().unwrap().abandon(now));
        }
        assert!(turn * 5 <= 30_000 / 150 * 1_000, "each is cut before it has thought it all");
        if open.iter().all(Option::is_none) {
            break;
        }
    }
    let truth = usd("0.00002").times(u64::try_from(tokens).unwrap());
    // 50 streams, a quarter of a second, 150 tokens a second: 0.0375.
    assert!(truth <= usd("5.0375") && truth >= usd("4.95"), "{truth}");
    assert_eq!(meter.booked().0.percent_of(truth), 100);
}

#[test]
fn what_was_generated_out_of_sight_and_then_comes_in_one_piece_is_counted_once() {
    let (meter, _) = meter("5usd");
    let mut late = meter.reserve(ask(0), START).unwrap();
    late.started(&Usage::default(), None, START);
    late.hidden(true, START);
    late.hidden(false, START + 10.seconds());
    late.visible(Text::unread(6_000), START + 10.seconds());
    late.block_ended(START + 10.seconds());
    late.visible(Text::unread(120), START + 10.seconds());
    assert_eq!(late.abandon(START + 20.seconds()).usage.output, 2_000 + 40);
}
