//! How long the meter's decisions take while 50 streams run: `cargo bench --bench proxy -- decisions`.
//!
//! They are those of one session, whose proxy is one thread: 50 streams take turns, each with a conversation of 200 messages behind it,
//! under limits in dollars and in tokens. Timed is each call by itself, with the 49 others open: whether one more request may go out, its
//! answer's begin, one more event of 25 bytes, a look at the clock, the end with the API's report. What stands around it (the scan of the
//! body, the decoder, the journal) is not in it; two looks at the clock are.

use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use sentrely::meter::price::{Place, PriceTable};
use sentrely::meter::{Ask, Booked, Content, Meter, Outline, Part, Reservation, Rules, Shape, Verdict, Weigher};
use sentrely::model::{Speed, Thread, Usage};

const STREAMS: usize = 50;
/// Answers in all, and events of each.
const ANSWERS: usize = 20_000;
const EVENTS: usize = 20;
const MESSAGES: u64 = 200;

/// A conversation that has grown by one message since its last request.
fn ask(stream: usize, turn: u64) -> Ask {
    let digest = |message: u64| (stream as u64 + 1) * 1_000_000 + message;
    let messages: Vec<Part> = (0..MESSAGES + turn % 50)
        .map(|message| Part { digest: digest(message), tokens: 400, marked: message + 1 >= MESSAGES + turn % 50 })
        .collect();
    let base = Part { digest: digest(0), tokens: 15_000, marked: true };
    let content = Content { text_bytes: 48_000 + messages.len() as u64 * 1_280, ..Content::default() };
    Ask {
        thread: Thread::Agent(format!("agent-{stream}")),
        model: "claude-opus-5-5".into(),
        shape: Shape { content, outline: Outline { base, messages }, caches: true, caches_1h: false, speed: Speed::Standard },
        streamed: true,
        max_tokens: 64_000,
        betas: String::new(),
        place: Place::FirstParty,
    }
}

pub(crate) fn run() {
    let limits = vec!["1000000usd".parse().unwrap(), "900000Mtok".parse().unwrap()];
    let rules = Rules { limits, alert_at: vec![50, 80, 100], refuse_unknown_models: false };
    let meter = Meter::new(PriceTable::built_in().unwrap(), rules, Booked::default(), Arc::new(|_| {}));
    let [mut admit, mut begin, mut event, mut look, mut settle] = [(); 5].map(|()| Vec::new());
    let mut open: Vec<Option<Reservation>> = (0..STREAMS).map(|stream| Some(meter.reserve(ask(stream, 0), now()).unwrap())).collect();
    let prompt = Usage { input: 3, cache_write_5m: 500, cache_read: 95_000, ..Usage::default() };
    let mut weigher = Weigher::default();
    for answer in 0..ANSWERS {
        let (stream, turn) = (answer % STREAMS, (answer / STREAMS + 1) as u64);
        let before = open[stream].take().unwrap();
        let usage = Usage { output: 300, ..prompt };
        let start = Instant::now();
        drop(before.settle(usage, Some("claude-opus-5-5"), Some("msg"), now()));
        settle.push(us(start));
        // The one that ended is not open; the other 49 are.
        let ask = ask(stream, turn);
        let start = Instant::now();
        let reservation = meter.reserve(ask, now());
        admit.push(us(start));
        let mut reservation = reservation.unwrap();
        let start = Instant::now();
        let verdict = reservation.started(&prompt, Some("msg"), now());
        begin.push(us(start));
        assert_eq!(verdict, Verdict::Continue);
        open[stream] = Some(reservation);
        for number in 0..EVENTS {
            let turn = &mut open[(stream + number * 7) % STREAMS];
            let running = turn.as_mut().unwrap();
            let start = Instant::now();
            let verdict = running.visible(weigher.read(b" a piece of generated text"), now());
            event.push(us(start));
            let start = Instant::now();
            let ticked = running.tick(now());
            look.push(us(start));
            assert_eq!((verdict, ticked), (Verdict::Continue, Verdict::Continue));
        }
    }
    drop(open);
    println!("The meter's decisions with {STREAMS} streams open, us");
    println!("{:<45} {:>8} {:>8} {:>8} {:>8}", "", "n", "p50", "p99", "max");
    for (name, mut samples) in [
        ("admit a request", admit),
        ("its answer begins: the prompt's true cost", begin),
        ("one more event", event),
        ("a look at the clock", look),
        ("settle", settle),
    ] {
        samples.sort_by(f64::total_cmp);
        let at = |percent: usize| samples[(samples.len() * percent).div_ceil(100) - 1];
        println!("{name:<45} {:>8} {:>8.2} {:>8.2} {:>8.2}", samples.len(), at(50), at(99), at(100));
    }
    println!();
}

fn now() -> Timestamp {
    Timestamp::now()
}

/// Microseconds since.
fn us(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e6
}
