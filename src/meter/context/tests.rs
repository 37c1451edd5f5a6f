use proptest::prelude::*;

use super::*;
use crate::model::{RequestId, SeenBy, Usd};

const WINDOW: Option<u64> = Some(200_000);

fn settled(thread: &Thread, prompt: u64, window: Option<u64>) -> Event {
    request(1, thread, prompt, window)
}

fn request(number: u64, thread: &Thread, prompt: u64, window: Option<u64>) -> Event {
    let usage = Usage { input: prompt.min(1), cache_read: prompt.saturating_sub(1), output: 50, ..Usage::default() };
    Event::RequestSettled {
        request: RequestId(number),
        thread: thread.clone(),
        model: "claude-sonnet-4-6".into(),
        usage,
        cost: Usd::ZERO,
        estimated: false,
        lost: false,
        message_id: Some("msg".into()),
        window,
    }
}

fn compaction(thread: &Thread) -> Event {
    Event::Compaction { thread: thread.clone(), trigger: None, request: None, seen_by: SeenBy::Headers }
}

/// As the session does it: what follows is recorded and taken in.
fn take(gauge: &mut Gauge, event: &Event) -> Vec<Event> {
    let mut told = Vec::new();
    let mut pending = VecDeque::from([event.clone()]);
    while let Some(event) = pending.pop_front() {
        let more = gauge.on(&event);
        told.extend(more.iter().cloned());
        pending.extend(more);
    }
    told
}

/// The shares told after each of these prompts.
fn shares(gauge: &mut Gauge, prompts: &[u64]) -> Vec<Vec<u32>> {
    let share = |event| if let Event::ContextThreshold { percent, .. } = event { Some(percent) } else { None };
    prompts.iter().map(|prompt| take(gauge, &settled(&Thread::Main, *prompt, WINDOW)).into_iter().filter_map(share).collect()).collect()
}

#[test]
fn each_share_is_told_once_when_it_is_crossed_and_again_after_a_compaction() {
    let mut gauge = Gauge::default();
    assert_eq!(
        shares(&mut gauge, &[99_999, 100_000, 120_000, 151_000, 149_000, 151_000, 181_000]),
        [vec![], vec![50], vec![], vec![75], vec![], vec![], vec![90]]
    );
    take(&mut gauge, &compaction(&Thread::Main));
    // The request for the summary, then the first one after it.
    assert_eq!(shares(&mut gauge, &[182_000, 30_000, 100_000]), [vec![], vec![], vec![50]]);
}

#[test]
fn another_conversation_is_told_of_anew_and_the_same_one_in_another_attempt_is_not() {
    let mut gauge = Gauge::default();
    let session = |id: &str| Event::ClaudeSession { id: id.into() };
    take(&mut gauge, &session("a"));
    assert_eq!(shares(&mut gauge, &[100_000]), [vec![50]]);
    take(&mut gauge, &session("a"));
    assert_eq!(shares(&mut gauge, &[101_000]), [Vec::<u32>::new()]);
    take(&mut gauge, &session("b"));
    assert_eq!(shares(&mut gauge, &[101_000]), [vec![50]]);
}

#[test]
fn a_jump_tells_every_share_it_passes() {
    let mut gauge = Gauge::default();
    assert_eq!(shares(&mut gauge, &[10_000, 190_000]), [vec![], vec![50, 75, 90]]);
}

#[test]
fn a_conversation_that_was_rewound_can_be_told_again_and_one_that_wavers_is_not() {
    let mut gauge = Gauge::default();
    assert_eq!(shares(&mut gauge, &[100_000, 98_000, 100_000, 20_000, 100_000]), [vec![50], vec![], vec![], vec![], vec![50]]);
}

#[test]
fn a_compaction_tells_what_was_before_and_after_whatever_came_between() {
    let mut gauge = Gauge::default();
    for prompt in [150_000, 160_000] {
        take(&mut gauge, &settled(&Thread::Main, prompt, WINDOW));
    }
    take(&mut gauge, &compaction(&Thread::Main));
    // Two requests for a summary.
    for prompt in [161_500, 161_600] {
        assert_eq!(take(&mut gauge, &settled(&Thread::Main, prompt, WINDOW)), []);
    }
    let told = take(&mut gauge, &settled(&Thread::Main, 31_000, WINDOW));
    assert_eq!(told, [Event::Compacted { thread: Thread::Main, before: Some(160_000), after: 31_000 }]);
    let main = gauge.main().unwrap();
    assert_eq!((main.tokens, main.percent, main.peak_tokens, main.peak_percent), (31_000, Some(15), 161_600, Some(80)));
    assert_eq!((main.compactions, main.growth_per_turn, main.requests), (1, None, 5));
}

#[test]
fn a_request_for_a_summary_may_be_smaller_than_what_was_before() {
    let mut gauge = Gauge::default();
    take(&mut gauge, &settled(&Thread::Main, 160_000, WINDOW));
    let asks =
        Event::Compaction { thread: Thread::Main, trigger: Some("auto".into()), request: Some(RequestId(2)), seen_by: SeenBy::Headers };
    take(&mut gauge, &asks);
    assert_eq!(take(&mut gauge, &request(2, &Thread::Main, 140_000, WINDOW)), [], "without its images, say");
    let told = take(&mut gauge, &request(3, &Thread::Main, 30_000, WINDOW));
    assert_eq!(told, [Event::Compacted { thread: Thread::Main, before: Some(160_000), after: 30_000 }]);
}

#[test]
fn a_compaction_that_fails_leaves_the_conversation_as_it_was() {
    let mut gauge = Gauge::default();
    take(&mut gauge, &settled(&Thread::Main, 90_000, WINDOW));
    take(&mut gauge, &compaction(&Thread::Main));
    assert_eq!(shares(&mut gauge, &[110_000, 110_000, 110_000, 110_000]), [vec![], vec![], vec![], vec![50]]);
}

#[test]
fn a_compaction_before_anything_is_known_takes_its_own_request_for_what_was_before() {
    let mut gauge = Gauge::default();
    take(&mut gauge, &compaction(&Thread::Main));
    assert_eq!(take(&mut gauge, &settled(&Thread::Main, 90_000, WINDOW)), []);
    let told = take(&mut gauge, &settled(&Thread::Main, 20_000, WINDOW));
    assert_eq!(told, [Event::Compacted { thread: Thread::Main, before: Some(90_000), after: 20_000 }]);
}

#[test]
fn growth_and_turns_left_are_those_since_the_conversation_began_or_was_compacted() {
    let mut gauge = Gauge::default();
    for prompt in [50_000, 60_000, 75_000, 80_000] {
        take(&mut gauge, &settled(&Thread::Main, prompt, WINDOW));
    }
    let main = gauge.main().unwrap();
    assert_eq!((main.growth_per_turn, main.turns_left), (Some(10_000), Some(12)));
    take(&mut gauge, &Event::ClaudeSession { id: "after /clear".into() });
    take(&mut gauge, &settled(&Thread::Main, 20_000, WINDOW));
    assert_eq!(gauge.main().unwrap().growth_per_turn, None);
    take(&mut gauge, &settled(&Thread::Main, 20_000, WINDOW));
    assert_eq!(gauge.main().unwrap().turns_left, None, "it does not grow");
}

#[test]
fn every_subagent_has_a_dial_of_its_own() {
    let mut gauge = Gauge::default();
    let agent = Thread::Agent("a7".into());
    take(&mut gauge, &settled(&Thread::Main, 120_000, WINDOW));
    assert_eq!(take(&mut gauge, &settled(&agent, 110_000, WINDOW)).len(), 1);
    take(&mut gauge, &settled(&Thread::Auxiliary, 1_000, WINDOW));
    take(&mut gauge, &compaction(&agent));
    let threads: Vec<_> = gauge.threads().into_iter().map(|view| (view.thread, view.tokens, view.compactions)).collect();
    assert_eq!(threads, [(Thread::Main, 120_000, 0), (agent, 110_000, 1)]);
}

#[test]
fn an_unknown_window_stays_unknown_and_one_that_a_prompt_exceeds_becomes_so() {
    let mut gauge = Gauge::default();
    assert_eq!(take(&mut gauge, &settled(&Thread::Main, 900_000, None)), []);
    let main = gauge.main().unwrap();
    assert_eq!((main.tokens, main.window, main.percent, main.turns_left), (900_000, None, None, None));
    take(&mut gauge, &settled(&Thread::Main, 250_000, WINDOW));
    assert_eq!(gauge.main().unwrap().window, None, "the API took it, so the window is larger");
}

#[test]
fn what_was_lost_before_it_began_or_failed_says_nothing() {
    let mut gauge = Gauge::default();
    let mut lost = settled(&Thread::Main, 180_000, WINDOW);
    if let Event::RequestSettled { lost, message_id, .. } = &mut lost {
        (*lost, *message_id) = (true, None);
    }
    assert_eq!(take(&mut gauge, &lost), []);
    assert_eq!(take(&mut gauge, &settled(&Thread::Main, 0, WINDOW)), []);
    assert_eq!(gauge.main(), None);
}

#[test]
fn three_compactions_within_six_requests_are_thrash_and_told_once() {
    let round = |gauge: &mut Gauge, requests: u64| -> Vec<Event> {
        let mut told = take(gauge, &compaction(&Thread::Main));
        told.extend(take(gauge, &settled(&Thread::Main, 170_000, WINDOW)));
        for turn in 0..requests {
            told.extend(take(gauge, &settled(&Thread::Main, 30_000 + turn * 60_000, WINDOW)));
        }
        told.retain(|event| matches!(event, Event::ContextThrash { .. }));
        told
    };
    let mut gauge = Gauge::default();
    take(&mut gauge, &settled(&Thread::Main, 160_000, WINDOW));
    assert_eq!(round(&mut gauge, 3), []);
    assert_eq!(round(&mut gauge, 3), []);
    assert_eq!(round(&mut gauge, 3), [Event::ContextThrash { compactions: 3, requests: 6 }]);
    assert_eq!(round(&mut gauge, 1), [], "the same episode");

    let mut calm = Gauge::default();
    take(&mut calm, &settled(&Thread::Main, 160_000, WINDOW));
    assert_eq!((0..6).flat_map(|_| round(&mut calm, 4)).collect::<Vec<_>>(), [], "eight requests between the first and the third");
}

fn any_event() -> impl Strategy<Value = Event> {
    let thread = prop_oneof![Just(Thread::Main), Just(Thread::Agent("a".into())), Just(Thread::Auxiliary)];
    let window = prop_oneof![Just(None), Just(WINDOW), Just(Some(0)), any::<u64>().prop_map(Some)];
    let prompt = prop_oneof![0..250_000_u64, (0..4_000_000_000_000_u64)];
    prop_oneof![
        8 => (thread.clone(), prompt, window).prop_map(|(thread, prompt, window)| settled(&thread, prompt, window)),
        2 => thread.prop_map(|thread| compaction(&thread)),
        1 => prop_oneof![Just("a"), Just("b")].prop_map(|id| Event::ClaudeSession { id: id.into() }),
    ]
}

proptest! {
    /// Whoever rebuilds the gauge from the journal has the one that wrote it; and between two of the same share lies a smaller prompt.
    #[test]
    fn a_gauge_rebuilt_from_the_journal_is_the_one_that_wrote_it(events in prop::collection::vec(any_event(), 0..60)) {
        let (mut gauge, mut journal) = (Gauge::default(), Vec::new());
        for event in events {
            let mut pending = VecDeque::from([event]);
            while let Some(event) = pending.pop_front() {
                pending.extend(gauge.on(&event));
                journal.push(event);
            }
        }
        prop_assert_eq!(&Gauge::of(&journal), &gauge);
        let mut last: Option<u32> = None;
        for event in &journal {
            match event {
                Event::ContextThreshold { thread: Thread::Main, percent, .. } => {
                    prop_assert!(last.is_none_or(|last| last < *percent), "{percent} twice in a row");
                    last = Some(*percent);
                }
                // Anything that makes room, or a new conversation.
                Event::Compacted { thread: Thread::Main, .. } | Event::ClaudeSession { .. } => last = None,
                Event::RequestSettled { thread: Thread::Main, usage, window, .. } => {
                    let percent = percent_of_window(usage.prompt(), believable_window(usage.prompt(), *window));
                    if percent.is_some_and(|percent| last.is_some_and(|last| percent + HYSTERESIS < last)) {
                        last = None;
                    }
                }
                _ => {}
            }
        }
    }
}
