//! What reading along promises: the same result in any chunking, hidden output by the clock, the truth at the end.

use std::fmt::Write;
use std::sync::Mutex;

use http::HeaderValue;
use jiff::ToSpan;
use proptest::prelude::*;

use super::*;
use crate::meter::price::{Place, PriceTable};
use crate::meter::{Ask, Booked, Content, Meter, Outline, Rules, Settlement, Shape};
use crate::model::{Speed, Thread, Usage};
use crate::proxy::{Credential, ProxyConfig, ProxyEnv, RefusalStyle, Timeouts, Upstream};

const START: Timestamp = Timestamp::UNIX_EPOCH;

/// A tee over a fresh meter with this limit, and what becomes of its request.
struct Bench {
    tee: Tee,
    settled: Arc<Mutex<Vec<Settlement>>>,
    events: Arc<Mutex<Vec<ProxyEvent>>>,
}

fn bench(limit: &str) -> Bench {
    let settled: Arc<Mutex<Vec<Settlement>>> = Arc::default();
    let events: Arc<Mutex<Vec<ProxyEvent>>> = Arc::default();
    let (settled_sink, events_sink) = (Arc::clone(&settled), Arc::clone(&events));
    let rules = Rules { limits: vec![limit.parse().unwrap()], alert_at: vec![], refuse_unknown_models: false };
    let observer = Arc::new(move |settlement: &Settlement| settled_sink.lock().unwrap().push(settlement.clone()));
    let meter = Meter::new(PriceTable::built_in().unwrap(), rules, Booked::default(), observer);
    let ask = Ask {
        thread: Thread::Main,
        model: "claude-opus-5-5".into(),
        shape: Shape {
            content: Content { text_bytes: 100, ..Content::default() },
            outline: Outline::default(),
            caches: false,
            caches_1h: false,
            speed: Speed::Standard,
        },
        place: Place::FirstParty,
        streamed: true,
        max_tokens: 32_000,
        betas: String::new(),
    };
    let reservation = meter.reserve(ask, START).unwrap();
    let config = ProxyConfig {
        token: "t".into(),
        upstream: Upstream::new("http://127.0.0.1:9", None, ProxyEnv::default()).unwrap(),
        credential: Credential::None,
        refusal: RefusalStyle::Plain,
        meter,
        sentinel: None,
        timeouts: Timeouts::default(),
        body_tap: None,
        refuse_compaction: false,
        sink: Arc::new(move |event| {
            events_sink.lock().unwrap().push(event);
            Ok(())
        }),
    };
    let shared = Arc::new(Shared::new(([127, 0, 0, 1], 9).into(), config));
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    Bench { tee: Tee::metered(shared, reservation, StatusCode::OK, &headers), settled, events }
}

impl Bench {
    fn feed(&mut self, kind: &str, rest: &str, seconds: i64) -> Verdict {
        let event = format!("event: {kind}\ndata: {{\"type\":\"{kind}\"{rest}}}\n\n");
        self.tee.feed(event.as_bytes(), START + seconds.seconds());
        self.tee.verdict(START + seconds.seconds())
    }

    fn start(&mut self, input: u64) -> Verdict {
        self.feed(
            "message_start",
            &format!(r#","message":{{"id":"msg","model":"claude-opus-5-5","usage":{{"input_tokens":{input},"output_tokens":1}}}}"#),
            0,
        )
    }

    fn block(&mut self, kind: &str, seconds: i64) -> Verdict {
        self.feed("content_block_start", &format!(r#","index":0,"content_block":{{"type":"{kind}"}}"#), seconds)
    }

    fn delta(&mut self, kind: &str, field: &str, text: &str, seconds: i64) -> Verdict {
        self.feed("content_block_delta", &format!(r#","index":0,"delta":{{"type":"{kind}","{field}":"{text}"}}"#), seconds)
    }

    /// What the session was told, but for ceilings: prompts here are longer than their bodies could be.
    fn told(&self) -> Vec<ProxyEvent> {
        let events = self.events.lock().unwrap().clone();
        events.into_iter().filter(|event| !matches!(event, ProxyEvent::Journal(Event::CeilingRaised { .. }))).collect()
    }

    fn settlement(&self) -> Settlement {
        let settled = self.settled.lock().unwrap();
        assert_eq!(settled.len(), 1);
        settled[0].clone()
    }
}

#[test]
fn thinking_counts_by_the_clock_whatever_is_shown_of_it() {
    let mut bench = bench("1usd");
    bench.start(100_000);
    // 0.60 is left: 30,000 tokens, or 200 s at the ceiling.
    assert_eq!(bench.block("thinking", 0), Verdict::Continue);
    assert_eq!(bench.tee.tick(START + 99.seconds()), Verdict::Continue);
    assert_eq!(bench.delta("thinking_delta", "thinking", "so", 99), Verdict::Continue);
    assert_eq!(bench.tee.tick(START + 199.seconds()), Verdict::Continue);
    bench.delta("signature_delta", "signature", "AAAA", 199);
    bench.feed("content_block_stop", r#","index":0"#, 199);
    assert_eq!(bench.block("redacted_thinking", 199), Verdict::Continue);
    assert_eq!(bench.tee.tick(START + 300.seconds()), Verdict::Continue, "it came whole");
    bench.block("thinking", 300);
    assert_eq!(bench.tee.tick(START + 302.seconds()), Verdict::Cut, "what is shown may be a summary");
}

#[test]
fn a_tools_input_counts_by_the_clock_only_while_it_pauses() {
    let mut bench = bench("1usd");
    bench.start(100_000);
    bench.block("tool_use", 0);
    for second in 0..200 {
        assert_eq!(bench.delta("input_json_delta", "partial_json", "abc", second), Verdict::Continue);
        assert_eq!(bench.tee.tick(START + second.seconds() + 900.milliseconds()), Verdict::Continue);
    }
    // A pause: from its first second on it is counted.
    assert_eq!(bench.tee.tick(START + 201.seconds()), Verdict::Continue);
    assert_eq!(bench.tee.tick(START + 399.seconds()), Verdict::Continue);
    assert_eq!(bench.tee.tick(START + 402.seconds()), Verdict::Cut);
}

#[test]
fn text_that_pauses_is_not_generated_out_of_sight() {
    let mut bench = bench("1usd");
    bench.start(100_000);
    bench.block("text", 0);
    bench.delta("text_delta", "text", "a", 0);
    assert_eq!(bench.tee.tick(START + 1_000.seconds()), Verdict::Continue);
}

#[test]
fn what_the_client_abandons_is_booked_at_what_was_seen() {
    let mut bench = bench("5usd");
    bench.start(100_000);
    bench.block("text", 0);
    bench.delta("text_delta", "text", &"x".repeat(3_000), 1);
    bench.tee.give_up(START + 1.second());
    let settlement = bench.settlement();
    assert_eq!((settlement.usage.output, settlement.lost), (Text::of(&"x".repeat(3_000)).tokens(), true));
    assert!(bench.told().is_empty());
}

#[test]
fn an_abandoned_answer_whose_last_usage_came_is_booked_exactly() {
    let mut bench = bench("5usd");
    bench.start(100);
    bench.feed("message_delta", r#","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":7}"#, 1);
    bench.tee.give_up(START + 1.second());
    assert_eq!((bench.settlement().usage.output, bench.settlement().lost), (7, false));
}

#[test]
fn a_cut_names_the_limit_and_is_told() {
    let mut bench = bench("0.4usd");
    assert_eq!(bench.start(100_000), Verdict::Cut);
    let why = bench.tee.cut_for_budget(START);
    assert_eq!(why, "the budget of $0.40 is used up: this answer was cut");
    assert_eq!(bench.told(), [ProxyEvent::BudgetReached { why }]);
    assert!(bench.settlement().lost);
}

#[derive(Debug, Clone)]
enum Piece {
    Text(String),
    Ping,
    Comment,
    Tool(String),
}

fn piece() -> impl Strategy<Value = Piece> {
    prop_oneof![
        r#"[a-z \\"é:{}]{0,30}"#.prop_map(Piece::Text),
        Just(Piece::Ping),
        Just(Piece::Comment),
        r#"[a-z"{}]{0,30}"#.prop_map(Piece::Tool),
    ]
}

/// A tee for an answer with this status and these headers, instead of that of an event stream.
fn bench_for(limit: &str, status: u16, pairs: &[(http::HeaderName, &'static str)]) -> Bench {
    let Bench { mut tee, settled, events } = bench(limit);
    let headers = pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect();
    let reservation = tee.reservation.take().unwrap();
    Bench { tee: Tee::metered(Arc::clone(&tee.shared), reservation, StatusCode::from_u16(status).unwrap(), &headers), settled, events }
}

const STREAM: (http::HeaderName, &str) = (CONTENT_TYPE, "text/event-stream");

#[test]
fn what_cannot_be_read_is_booked_with_all_its_max_tokens() {
    for (pairs, body) in [
        (vec![STREAM, (CONTENT_ENCODING, "gzip")], "\x1f..."),
        (vec![(CONTENT_TYPE, "text/plain")], "so it goes"),
        (vec![(CONTENT_TYPE, "application/json")], r#"{"content":[]}"#),
        (vec![STREAM], "<html>busy</html>"),
        (vec![STREAM], ""),
        (vec![STREAM], "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{}}\n\nevent: message_stop\ndata: {}\n\n"),
    ] {
        for ending in [Tee::end as fn(&mut Tee, Timestamp), Tee::broken, Tee::give_up] {
            let mut bench = bench_for("5usd", 200, &pairs);
            bench.tee.feed(body.as_bytes(), START);
            if body.is_empty() {
                bench.tee.end(START);
            } else {
                ending(&mut bench.tee, START);
            }
            let settlement = bench.settlement();
            assert_eq!((settlement.usage.output, settlement.lost), (32_000, true), "{pairs:?} {body}");
        }
    }
}

#[test]
fn an_error_costs_nothing_even_if_it_is_compressed() {
    let mut bench = bench_for("5usd", 529, &[(CONTENT_ENCODING, "gzip")]);
    bench.tee.feed(b"\x1f...", START);
    bench.tee.end(START);
    assert_eq!((bench.settlement().usage.total(), bench.settlement().lost), (0, false));
}

#[test]
fn a_stream_that_never_begins_is_held_at_its_ceiling_while_it_runs() {
    let mut bench = bench_for("0.6usd", 200, &[STREAM]);
    bench.tee.feed(&b": nothing\n".repeat(1_000), START);
    assert_eq!(bench.tee.verdict(START), Verdict::Continue);
    bench.tee.feed(&b": nothing\n".repeat(1_000), START);
    assert_eq!(bench.tee.verdict(START), Verdict::Cut);
}

proptest! {
    #[test]
    fn any_chunking_gives_the_same_settlement(
        pieces in prop::collection::vec(piece(), 0..20),
        cuts in prop::collection::vec(1_usize..200, 1..40),
        crlf in any::<bool>(),
        complete in any::<bool>(),
        output in 0_u64..30_000,
    ) {
        let mut text = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"usage\":{\"input_tokens\":9}}}\n\n".to_owned();
        for piece in &pieces {
            let delta = |index: u32, delta: serde_json::Value| serde_json::json!({"type": "content_block_delta", "index": index, "delta": delta});
            match piece {
                Piece::Text(piece) => {
                    let data = delta(0, serde_json::json!({"type": "text_delta", "text": piece}));
                    write!(text, "event: content_block_delta\ndata: {data}\n\n").unwrap();
                }
                Piece::Tool(piece) => {
                    let data = delta(1, serde_json::json!({"type": "input_json_delta", "partial_json": piece}));
                    write!(text, "data: {data}\n\n").unwrap();
                }
                Piece::Ping => text.push_str("event: ping\ndata: {\"type\": \"ping\"}\n\n"),
                Piece::Comment => text.push_str(": nothing\n"),
            }
        }
        if complete {
            let data = serde_json::json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": output}});
            write!(text, "event: message_delta\ndata: {data}\n\nevent: message_stop\ndata: {{\"type\":\"message_stop\"}}\n\n").unwrap();
        }
        if crlf {
            text = text.replace('\n', "\r\n");
        }
        let run = |sizes: &mut dyn Iterator<Item = usize>| {
            let mut bench = bench("500usd");
            let mut rest = text.as_bytes();
            while !rest.is_empty() {
                let (now, later) = rest.split_at(sizes.next().unwrap_or(usize::MAX).min(rest.len()));
                bench.tee.feed(now, START);
                bench.tee.verdict(START);
                rest = later;
            }
            bench.tee.end(START);
            let events = bench.events.lock().unwrap().clone();
            (bench.settlement(), events)
        };
        let whole = run(&mut std::iter::empty());
        prop_assert_eq!(&run(&mut cuts.iter().copied().cycle()), &whole);
        prop_assert_eq!(whole.0.lost, !complete);
        if complete {
            prop_assert_eq!(whole.0.usage, Usage { input: 9, output, ..Usage::default() });
        }
    }
}

#[test]
fn a_prompt_longer_than_was_told_raises_the_ceiling_before_it_goes_on_and_only_once() {
    let mut bench = bench("50usd");
    bench.start(20);
    assert_eq!(*bench.events.lock().unwrap(), [], "no more than the request's size had told");
    bench.feed("message_delta", r#","delta":{},"usage":{"input_tokens":500000,"output_tokens":1}"#, 0);
    // 500,000 tokens of prompt and 32,000 of output.
    let raised = Event::CeilingRaised { request: RequestId(1), ceiling: "2.64".parse().unwrap(), ceiling_tokens: 532_000 };
    assert_eq!(*bench.events.lock().unwrap(), [ProxyEvent::Journal(raised.clone())]);
    bench.feed("message_delta", r#","delta":{},"usage":{"input_tokens":500000,"output_tokens":9}"#, 0);
    assert_eq!(bench.events.lock().unwrap().len(), 1);
    let searched = r#","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":9,"server_tool_use":{"web_search_requests":3}}"#;
    bench.feed("message_delta", searched, 0);
    let raised = Event::CeilingRaised { request: RequestId(1), ceiling: "2.67".parse().unwrap(), ceiling_tokens: 532_000 };
    assert_eq!(bench.events.lock().unwrap().last(), Some(&ProxyEvent::Journal(raised)));
}

#[test]
fn an_answer_of_a_dearer_model_counts_at_its_price_from_its_first_event() {
    let mut bench = bench("50usd");
    let start = r#","message":{"id":"msg","model":"claude-opus-4-1","usage":{"input_tokens":100000,"output_tokens":1}}"#;
    bench.feed("message_start", start, 0);
    // 1.50 and 2.40 instead of 0.40 and 0.64.
    let raised = Event::CeilingRaised { request: RequestId(1), ceiling: "3.9".parse().unwrap(), ceiling_tokens: 132_000 };
    assert_eq!(*bench.events.lock().unwrap(), [ProxyEvent::Journal(raised)]);
    bench.tee.give_up(START);
    assert_eq!(bench.settlement().cost.to_string(), "1.500075");
}

#[test]
fn an_answer_that_goes_on_past_its_max_tokens_is_counted_and_cut_and_raises_its_ceiling_in_few_steps() {
    let mut bench = bench("4usd");
    bench.start(20);
    bench.block("text", 0);
    // Asked for were 32,000 tokens; the budget holds 200,000.
    let page = "words and more words, ".repeat(200);
    let mut pages = 0;
    while bench.delta("text_delta", "text", &page, 0) == Verdict::Continue {
        pages += 1;
        assert!(pages < 1_000, "it is never cut");
    }
    bench.tee.cut_for_budget(START);
    let settlement = bench.settlement();
    let counted = Text::of(&page).tokens() * (pages + 1);
    assert!(settlement.usage.output.abs_diff(counted) <= 1 + pages && settlement.cost >= "4".parse().unwrap(), "{settlement:?}");
    let ceilings = bench
        .events
        .lock()
        .unwrap()
        .iter()
        .filter_map(|event| match event {
            ProxyEvent::Journal(Event::CeilingRaised { ceiling, .. }) => Some(*ceiling),
            _ => None,
        })
        .collect::<Vec<_>>();
    assert!((2..=4).contains(&ceilings.len()) && *ceilings.last().unwrap() >= settlement.cost, "{ceilings:?}");
}
