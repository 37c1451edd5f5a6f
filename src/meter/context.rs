//! The context gauge: how full each conversation of a session is, how fast it fills, and what to record of it.
//!
//! A fold over the session's events: [`Gauge::on`] takes one in and gives the events that follow from it. Who records them takes them in as
//! well; who only reads a journal finds them there. So a gauge that is rebuilt from a journal knows what was told before, and
//! tells nothing twice. Sizes are the API's own (input, cache reads and cache writes of the usage), never the client's estimate.

use std::collections::{BTreeMap, VecDeque};

use crate::model::{Event, RequestId, Thread, ThreadView, Usage, believable_window, percent_of_window};

/// Shares of a window that are told of.
pub const THRESHOLDS: [u32; 3] = [50, 75, 90];
/// A share is told again when the conversation has become this many points emptier without a compaction (rewound, say).
const HYSTERESIS: u32 = 10;
/// Requests that the growth is measured over.
const GROWTH_OVER: usize = 8;
/// Compactions within [`THRASH_REQUESTS`] requests of the main conversation that are too many.
const THRASH_COMPACTIONS: usize = 3;
/// See [`THRASH_COMPACTIONS`]. Requests that write a summary do not count.
const THRASH_REQUESTS: u64 = 6;
/// A request for a summary may be repeated. After so many that were no smaller than what was before, the compaction has failed.
const MAX_ASKED: u32 = 3;
/// Names of conversations are of the client's making: so many are kept at most.
const MAX_THREADS: usize = 1_000;

/// How full the conversations of one session are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gauge {
    threads: BTreeMap<Thread, Dial>,
    /// Claude Code's own session that spoke last for the first time.
    session: Option<String>,
    /// Requests of the main conversation, without those that write a summary.
    main_requests: u64,
    /// The value of `main_requests` at the last compactions of the main conversation.
    main_compactions: VecDeque<u64>,
}

/// One conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Dial {
    model: String,
    tokens: u64,
    window: Option<u64>,
    peak_tokens: u64,
    peak_percent: Option<u32>,
    requests: u64,
    compactions: u32,
    /// Prompts since it began or was compacted, the last ones.
    sizes: VecDeque<u64>,
    /// The highest share that was told.
    told: u32,
    /// A compaction whose outcome is not known yet.
    compacting: Option<Compacting>,
}

/// A compaction under way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Compacting {
    /// The request for the summary, where it was seen.
    request: Option<RequestId>,
    /// The last prompt before it, if one is known.
    before: Option<u64>,
    /// Requests since that were no smaller: those for the summary.
    asked: u32,
}

impl Gauge {
    /// A gauge that has seen these events.
    pub fn of<'e>(events: impl IntoIterator<Item = &'e Event>) -> Self {
        let mut gauge = Self::default();
        for event in events {
            gauge.on(event);
        }
        gauge
    }

    /// Takes an event in; returns the events that follow from it, to be recorded and taken in as well.
    pub fn on(&mut self, event: &Event) -> Vec<Event> {
        match event {
            // Another conversation in the same place: `/clear`, `/resume`, a fork.
            Event::ClaudeSession { id } => {
                // The same id again is the same conversation, gone on with by another attempt.
                if self.session.as_deref() == Some(id) {
                    return Vec::new();
                }
                self.session = Some(id.clone());
                if let Some(main) = self.threads.get_mut(&Thread::Main) {
                    main.begin_anew();
                }
                Vec::new()
            }
            Event::Compaction { thread, request, .. } => self.compaction(thread, *request),
            Event::Compacted { thread, after, .. } => {
                if let Some(dial) = self.threads.get_mut(thread) {
                    dial.compacted(*after);
                }
                Vec::new()
            }
            Event::RequestSettled { request, thread, model, usage, lost, message_id, window, .. } => {
                // The prompt of an answer that was lost before it began is a forecast; one without usage was an error.
                let reported = usage.context() > 0 && (!*lost || message_id.is_some());
                if reported { self.settled(*request, thread, model, usage, *window) } else { Vec::new() }
            }
            Event::ContextThreshold { thread, percent, .. } => {
                if let Some(dial) = self.threads.get_mut(thread) {
                    dial.told = dial.told.max(*percent);
                }
                Vec::new()
            }
            Event::ContextThrash { .. } => {
                self.main_compactions.clear();
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// The main conversation; `None` before its first answer.
    pub fn main(&self) -> Option<ThreadView> {
        self.threads.get(&Thread::Main).filter(|dial| dial.requests > 0).map(|dial| dial.view(Thread::Main))
    }

    /// All conversations that were answered: the main one, then the subagents by name.
    pub fn threads(&self) -> Vec<ThreadView> {
        self.threads.iter().filter(|(_, dial)| dial.requests > 0).map(|(thread, dial)| dial.view(thread.clone())).collect()
    }

    fn dial(&mut self, thread: &Thread) -> Option<&mut Dial> {
        if *thread == Thread::Auxiliary || (self.threads.len() >= MAX_THREADS && !self.threads.contains_key(thread)) {
            return None;
        }
        Some(self.threads.entry(thread.clone()).or_default())
    }

    fn compaction(&mut self, thread: &Thread, request: Option<RequestId>) -> Vec<Event> {
        let Some(dial) = self.dial(thread) else { return Vec::new() };
        dial.compactions = dial.compactions.saturating_add(1);
        dial.compacting = Some(Compacting { request, before: (dial.tokens > 0).then_some(dial.tokens), asked: 0 });
        if *thread != Thread::Main {
            return Vec::new();
        }
        self.main_compactions.push_back(self.main_requests);
        if self.main_compactions.len() > THRASH_COMPACTIONS {
            self.main_compactions.pop_front();
        }
        let requests = self.main_requests - self.main_compactions.front().copied().unwrap_or(self.main_requests);
        if self.main_compactions.len() < THRASH_COMPACTIONS || requests > THRASH_REQUESTS {
            return Vec::new();
        }
        vec![Event::ContextThrash { compactions: u32::try_from(THRASH_COMPACTIONS).unwrap_or(u32::MAX), requests }]
    }

    fn settled(&mut self, request: RequestId, thread: &Thread, model: &str, usage: &Usage, window: Option<u64>) -> Vec<Event> {
        let prompt = usage.context();
        let Some(dial) = self.dial(thread) else { return Vec::new() };
        let phase = dial.phase(request, prompt);
        dial.settled(model, prompt, window, phase == Phase::Asks);
        let told = match phase {
            Phase::Asks => return Vec::new(),
            Phase::After(before) => vec![Event::Compacted { thread: thread.clone(), before: Some(before), after: prompt }],
            Phase::Plain => dial.crossed(thread),
        };
        if *thread == Thread::Main {
            self.main_requests += 1;
        }
        told
    }
}

/// What a request is to a compaction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It asks for the summary.
    Asks,
    /// It is the first one after it; before it, the prompt had so many tokens.
    After(u64),
    /// There is none.
    Plain,
}

impl Dial {
    /// A request that is not smaller than what was before the compaction asks for the summary once more.
    fn phase(&mut self, request: RequestId, prompt: u64) -> Phase {
        let Some(compacting) = &mut self.compacting else { return Phase::Plain };
        match compacting.before {
            Some(before) if prompt < before && compacting.request != Some(request) => return Phase::After(before),
            Some(_) => {}
            // Nothing was known before: this is the full conversation.
            None => compacting.before = Some(prompt),
        }
        compacting.asked += 1;
        if compacting.asked <= MAX_ASKED {
            return Phase::Asks;
        }
        self.compacting = None;
        Phase::Plain
    }

    fn settled(&mut self, model: &str, prompt: u64, window: Option<u64>, writes_summary: bool) {
        model.clone_into(&mut self.model);
        self.tokens = prompt;
        self.window = believable_window(prompt, window);
        self.peak_tokens = self.peak_tokens.max(prompt);
        self.peak_percent = self.peak_percent.max(percent_of_window(prompt, self.window));
        self.requests += 1;
        if writes_summary {
            return;
        }
        self.sizes.push_back(prompt);
        if self.sizes.len() > GROWTH_OVER + 1 {
            self.sizes.pop_front();
        }
        self.rearm();
    }

    /// Shares above what is filled now can be told again.
    fn rearm(&mut self) {
        if let Some(percent) = percent_of_window(self.tokens, self.window)
            && percent.saturating_add(HYSTERESIS) < self.told
        {
            self.told = percent;
        }
    }

    fn compacted(&mut self, after: u64) {
        self.compacting = None;
        self.sizes = VecDeque::from([after]);
        self.told = percent_of_window(after, self.window).unwrap_or(0);
    }

    fn begin_anew(&mut self) {
        self.compacting = None;
        self.sizes.clear();
        self.told = 0;
    }

    fn crossed(&self, thread: &Thread) -> Vec<Event> {
        let (Some(percent), Some(window)) = (percent_of_window(self.tokens, self.window), self.window) else { return Vec::new() };
        let passed = THRESHOLDS.into_iter().filter(|at| *at > self.told && *at <= percent);
        passed.map(|percent| Event::ContextThreshold { thread: thread.clone(), percent, tokens: self.tokens, window }).collect()
    }

    fn view(&self, thread: Thread) -> ThreadView {
        let growth = self.growth();
        let left = self.window.map(|window| window.saturating_sub(self.tokens));
        ThreadView {
            thread,
            model: self.model.clone(),
            tokens: self.tokens,
            window: self.window,
            percent: percent_of_window(self.tokens, self.window),
            peak_tokens: self.peak_tokens,
            peak_percent: self.peak_percent,
            growth_per_turn: growth,
            turns_left: left.zip(growth).map(|(left, growth)| left / growth),
            requests: self.requests,
            compactions: self.compactions,
        }
    }

    /// Above zero.
    fn growth(&self) -> Option<u64> {
        let (first, last) = (self.sizes.front()?, self.sizes.back()?);
        let turns = u64::try_from(self.sizes.len()).ok()?.checked_sub(1).filter(|turns| *turns > 0)?;
        Some(last.checked_sub(*first)? / turns).filter(|growth| *growth > 0)
    }
}

#[cfg(test)]
mod tests;
