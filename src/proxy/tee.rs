//! Reads along while an answer passes, and settles its request.
//!
//! Nothing is held back and nothing changed here: bytes are looked at, and the reservation follows. An answer that ends as it should is
//! settled with what the API reports; any other is given up, which books what was seen or may have been (I3). What nobody can read, because
//! it is compressed, is not the event stream that was asked for, or begins with garbage, counts at its whole ceiling from then on.

use std::sync::Arc;

use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use jiff::{SignedDuration, Timestamp};

use super::ProxyEvent;
use super::anthropic::{Answer, BlockKind, Decoder, Signal, UsageFields};
use super::frames::Frames;
use super::shared::Shared;
use crate::meter::price::{Part, PartKind, Reported};
use crate::meter::{Reservation, Text, Verdict};
use crate::model::{Event, RequestId};

/// What is kept of an answer that comes whole, to read its usage at the end.
const MAX_WHOLE: usize = 32 * 1024 * 1024;
/// What is kept of an error.
const MAX_ERROR: usize = 64 * 1024;
/// A stream that does not tell its prompt's usage within so many bytes is not one that can be read.
const MAX_BEFORE_START: u64 = 16 * 1024;
/// Tokens of text that the meter is told of at once at most: far less than a cent.
const MUCH: u64 = 200;
/// A tool's input that pauses for so long is being generated out of sight.
const PAUSE: SignedDuration = SignedDuration::from_secs(1);

/// What reads along.
pub(super) struct Tee {
    shared: Arc<Shared>,
    /// Gone once settled, and never there for what costs nothing.
    reservation: Option<Reservation>,
    request: RequestId,
    form: Form,
}

enum Form {
    /// Not metered.
    Free,
    /// Server-sent events.
    Stream { decoder: Reader, state: Box<StreamState> },
    /// JSON in one piece.
    Whole { copy: Vec<u8>, status: StatusCode, too_long: bool },
    /// A success that is compressed although we asked for it plain.
    Opaque,
}

/// What takes a stream apart.
enum Reader {
    /// Server-sent events.
    Lines(Decoder),
    /// Bedrock's.
    Frames(Frames),
}

impl Reader {
    fn feed(&mut self, bytes: &[u8], out: &mut impl FnMut(Signal)) {
        match self {
            Self::Lines(decoder) => decoder.feed(bytes, out),
            Self::Frames(frames) => frames.feed(bytes, out),
        }
    }

    fn tell_generated(&mut self, out: &mut impl FnMut(Signal)) {
        match self {
            Self::Lines(decoder) => decoder.tell_generated(out),
            Self::Frames(frames) => frames.tell_generated(out),
        }
    }

    fn finish(&mut self, out: &mut impl FnMut(Signal)) {
        match self {
            Self::Lines(decoder) => decoder.finish(out),
            Self::Frames(frames) => frames.tell_generated(out),
        }
    }

    fn within_event(&self) -> bool {
        match self {
            Self::Lines(decoder) => decoder.within_event(),
            Self::Frames(frames) => frames.within_event(),
        }
    }
}

#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about one stream")]
struct StreamState {
    usage: UsageFields,
    /// What was reported of the answer before it paused and went on.
    before_pauses: Vec<Part>,
    /// Bytes that came before the prompt's usage was known.
    before_start: u64,
    model: Option<String>,
    id: Option<String>,
    /// The output's count was reported.
    reported: bool,
    /// It was the last report.
    final_report: bool,
    malformed: Option<&'static str>,
    block: Option<BlockKind>,
    hidden: bool,
    last_delta: Timestamp,
    /// Generated text that the reservation does not know of yet.
    visible: Text,
    /// The meter has said that a limit is reached.
    over_limit: bool,
}

impl Tee {
    /// For an answer that costs nothing.
    pub(super) fn free(shared: Arc<Shared>) -> Self {
        Self { shared, reservation: None, request: RequestId(0), form: Form::Free }
    }

    /// For the answer to a request that has a reservation.
    pub(super) fn metered(shared: Arc<Shared>, reservation: Reservation, status: StatusCode, headers: &HeaderMap) -> Self {
        let value = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("").trim().to_ascii_lowercase();
        let encoding = value(CONTENT_ENCODING);
        // An error costs nothing, whether or not it can be read.
        let form = if status.is_success() && !encoding.is_empty() && encoding != "identity" {
            Form::Opaque
        } else if status.is_success() && value(CONTENT_TYPE).starts_with("text/event-stream") {
            Form::Stream { decoder: Reader::Lines(Decoder::default()), state: Box::default() }
        } else if status.is_success() && value(CONTENT_TYPE).starts_with("application/vnd.amazon.eventstream") {
            Form::Stream { decoder: Reader::Frames(Frames::default()), state: Box::default() }
        } else {
            Form::Whole { copy: Vec::new(), status, too_long: false }
        };
        let mut tee = Self { request: reservation.request(), shared, reservation: Some(reservation), form };
        if status.is_success() && !tee.is_stream() {
            tee.blind(Timestamp::now());
        }
        tee
    }

    /// Which request it is the answer to.
    pub(super) const fn request(&self) -> RequestId {
        self.request
    }

    /// Whether the answer is a stream, which may end earlier than it was to.
    pub(super) const fn is_stream(&self) -> bool {
        matches!(self.form, Form::Stream { .. })
    }

    /// Whether it can be ended by an event of ours. Frames have checksums that their client looks at: it sees that they break off.
    pub(super) const fn takes_events(&self) -> bool {
        matches!(self.form, Form::Stream { decoder: Reader::Lines(_), .. })
    }

    /// Whether what has passed ends within an event.
    pub(super) fn within_event(&self) -> bool {
        matches!(&self.form, Form::Stream { decoder, .. } if decoder.within_event())
    }

    /// Some more of the answer, before it is handed on. Ask for the [`Tee::verdict`] when nothing more lies ready, or when there is
    /// [much](Self::has_much_to_count) that the meter does not know.
    pub(super) fn feed(&mut self, bytes: &[u8], now: Timestamp) {
        match &mut self.form {
            Form::Free | Form::Opaque => {}
            Form::Whole { copy, status, too_long } => {
                let limit = if status.is_success() { MAX_WHOLE } else { MAX_ERROR };
                if copy.len() + bytes.len() > limit {
                    *too_long = true;
                    *copy = Vec::new();
                } else if !*too_long {
                    copy.extend_from_slice(bytes);
                }
            }
            Form::Stream { decoder, state } => {
                let (reservation, shared) = (&mut self.reservation, &self.shared);
                if !state.usage.has_input() {
                    state.before_start += bytes.len() as u64;
                }
                decoder.feed(bytes, &mut |signal| state.on(signal, reservation, shared, now));
                if !state.usage.has_input()
                    && (state.malformed.is_some() || state.before_start > MAX_BEFORE_START)
                    && let Some(running) = reservation
                {
                    state.over_limit |= running.blind(now) == Verdict::Cut;
                }
                if reservation.is_none()
                    && let Some(what) = state.malformed.take()
                {
                    self.tell_malformed(what);
                }
            }
        }
    }

    /// Whether so much text went by since the last verdict that it matters to the budget.
    pub(super) fn has_much_to_count(&self) -> bool {
        matches!(&self.form, Form::Stream { state, .. } if state.visible.tokens() >= MUCH)
    }

    /// Whether the answer may go on after what was fed.
    pub(super) fn verdict(&mut self, now: Timestamp) -> Verdict {
        self.count(now);
        let (Form::Stream { state, .. }, Some(reservation)) = (&mut self.form, &mut self.reservation) else { return Verdict::Continue };
        let visible = std::mem::take(&mut state.visible);
        let over = state.over_limit | (visible.bytes > 0 && reservation.visible(visible, now) == Verdict::Cut);
        if reservation.outgrew() {
            state.tell_ceiling(reservation, &self.shared);
        }
        // Once its last usage is reported, an answer is paid for: nothing is left to save by cutting it.
        if over && !state.is_final() { Verdict::Cut } else { Verdict::Continue }
    }

    /// Counts what was generated and not counted yet.
    fn count(&mut self, now: Timestamp) {
        if let Form::Stream { decoder, state } = &mut self.form {
            decoder.tell_generated(&mut |signal| state.on(signal, &mut self.reservation, &self.shared, now));
        }
    }

    /// Time passes while nothing comes.
    pub(super) fn tick(&mut self, now: Timestamp) -> Verdict {
        let Some(reservation) = &mut self.reservation else { return Verdict::Continue };
        if let Form::Stream { state, .. } = &self.form
            && state.is_final()
        {
            return Verdict::Continue;
        }
        if let Form::Stream { state, .. } = &mut self.form
            && state.block == Some(BlockKind::Late)
            && !state.hidden
            && now.duration_since(state.last_delta) >= PAUSE
        {
            state.hidden = true;
            return reservation.hidden(true, now);
        }
        reservation.tick(now)
    }

    /// The answer has come to its end.
    pub(super) fn end(&mut self, now: Timestamp) {
        match &mut self.form {
            Form::Free => {}
            Form::Opaque => self.lose("an answer in an encoding that was not asked for", now),
            Form::Whole { copy, status, too_long } => {
                let (answer, status, too_long) = (Answer::read(&std::mem::take(copy)), *status, *too_long);
                self.end_whole(answer, status, too_long, now);
            }
            Form::Stream { decoder, state } => {
                let (reservation, shared) = (&mut self.reservation, &self.shared);
                // Even an empty answer is one that does not tell its usage.
                state.before_start += 1;
                decoder.finish(&mut |signal| state.on(signal, reservation, shared, now));
                let what = state.malformed.take();
                if self.reservation.is_some() {
                    self.lose(what.unwrap_or("an event stream that ends without message_stop"), now);
                } else if let Some(what) = what {
                    self.tell_malformed(what);
                }
            }
        }
    }

    /// The upstream broke the answer off.
    pub(super) fn broken(&mut self, now: Timestamp) {
        match &self.form {
            // An error that we could not read to its end is an error all the same.
            Form::Whole { status, .. } if !status.is_success() => {
                if let Some(reservation) = self.reservation.take() {
                    reservation.release(now);
                }
            }
            Form::Free | Form::Opaque | Form::Whole { .. } | Form::Stream { .. } => self.lose("an answer that breaks off", now),
        }
    }

    /// A limit is reached: gives the answer up, tells the session, and says what the client is told.
    pub(super) fn cut_for_budget(&mut self, now: Timestamp) -> String {
        self.give_up(now);
        let own = || {
            let used_up = self.shared.meter.budgets().into_iter().max_by_key(|budget| budget.percent);
            let limit = used_up.and_then(|budget| budget.as_limit()).map_or_else(String::new, |limit| format!(" of {limit}"));
            format!("the budget{limit} is used up")
        };
        let why = format!("{}: this answer was cut", self.shared.meter.uncovered().unwrap_or_else(own));
        self.shared.note(ProxyEvent::BudgetReached { why: why.clone() });
        self.shared.note_cut();
        why
    }

    /// The rest of the answer does not come through here any more: books what is known, or what it may have cost.
    pub(super) fn give_up(&mut self, now: Timestamp) {
        self.count(now);
        let Some(reservation) = self.reservation.take() else { return };
        if let Form::Stream { state, .. } = &mut self.form {
            if state.is_final() {
                state.settle(reservation, now);
                return;
            }
            state.abandon(reservation, now);
        } else {
            reservation.abandon(now);
        }
    }

    fn blind(&mut self, now: Timestamp) {
        if let Some(reservation) = &mut self.reservation {
            reservation.blind(now);
        }
    }

    fn lose(&mut self, what: &'static str, now: Timestamp) {
        if self.reservation.is_some() {
            self.give_up(now);
            self.tell_malformed(what);
        }
    }

    fn tell_malformed(&self, what: &str) {
        self.shared.note(ProxyEvent::Journal(Event::Malformed { request: self.request, what: what.to_owned() }));
    }

    fn end_whole(&mut self, answer: Option<Answer>, status: StatusCode, too_long: bool, now: Timestamp) {
        let Answer { id, model, usage } = answer.unwrap_or_default();
        if let Some(id) = &id {
            self.shared.learn(id);
        }
        match usage {
            Some(usage) => {
                if let Some(reservation) = self.reservation.take() {
                    reservation.settle(usage.to_report(), model.as_deref(), id.as_deref(), now);
                }
            }
            None if status.is_success() => {
                self.lose(if too_long { "an answer too long to read" } else { "an answer without a readable usage" }, now);
            }
            None => {
                if let Some(reservation) = self.reservation.take() {
                    reservation.release(now);
                }
            }
        }
    }
}

impl StreamState {
    fn on(&mut self, signal: Signal, reservation: &mut Option<Reservation>, shared: &Shared, now: Timestamp) {
        if let Signal::Started { id: Some(id), .. } = &signal {
            shared.learn(id);
        }
        let Some(running) = reservation else { return };
        let verdict = match signal {
            Signal::Delta(text) => {
                self.visible += text;
                self.last_delta = now;
                // Only text shows that a tool's input is not hidden. What streams of thinking may be a summary of it.
                if text.bytes > 0 && self.block != Some(BlockKind::Hidden) {
                    self.set_hidden(false, running, now)
                } else {
                    Verdict::Continue
                }
            }
            Signal::Started { id, model, usage } => {
                (self.id, self.model) = (id, model);
                let Some(usage) = usage else {
                    self.malformed = Some("a message_start without a readable usage");
                    return;
                };
                self.usage.overlay(usage);
                if let Some(model) = &self.model {
                    running.answered_by(model);
                }
                let verdict = running.started(&self.usage.to_usage(), self.id.as_deref(), now);
                self.tell_ceiling(running, shared);
                verdict
            }
            Signal::BlockStarted { kind, bytes } => {
                self.visible += Text::unread(bytes);
                self.block = Some(kind);
                self.last_delta = now;
                self.set_hidden(kind == BlockKind::Hidden && bytes == 0, running, now)
            }
            Signal::BlockStopped => {
                self.block = None;
                self.hidden = false;
                let _ = running.visible(std::mem::take(&mut self.visible), now);
                running.block_ended(now)
            }
            Signal::Usage { usage, resumed, last } => {
                self.reported |= usage.has_output();
                self.final_report |= last;
                self.usage.overlay(usage);
                if let Some(resumed) = resumed {
                    let Reported { usage, parts } = self.usage.to_report();
                    running.paused(&usage);
                    self.before_pauses.push(Part { kind: PartKind::BeforePause, model: None, usage });
                    self.before_pauses.extend(parts.into_iter().filter(|part| part.kind != PartKind::Message));
                    self.usage = resumed;
                    self.reported = false;
                }
                let verdict = running.started(&self.usage.to_usage(), self.id.as_deref(), now);
                self.tell_ceiling(running, shared);
                verdict
            }
            Signal::Stopped => {
                if self.malformed.is_none() && !(self.reported && self.usage.has_input()) {
                    self.malformed = Some("a message_stop before the usage was complete");
                }
                if let Some(running) = reservation.take() {
                    if self.malformed.is_none() {
                        self.settle(running, now);
                    } else {
                        self.abandon(running, now);
                    }
                }
                Verdict::Continue
            }
            Signal::Failed => {
                // It can be read, and says that it failed: what came before is all that there is.
                self.before_start = 0;
                if let Some(running) = reservation.take() {
                    self.abandon(running, now);
                }
                Verdict::Continue
            }
            Signal::Malformed(what) => {
                self.malformed.get_or_insert(what);
                Verdict::Continue
            }
        };
        self.over_limit |= verdict == Verdict::Cut;
    }

    fn set_hidden(&mut self, hidden: bool, running: &mut Reservation, now: Timestamp) -> Verdict {
        if self.hidden == hidden {
            return Verdict::Continue;
        }
        self.hidden = hidden;
        running.hidden(hidden, now)
    }

    /// Whether the usage so far is the whole answer's.
    fn is_final(&self) -> bool {
        self.final_report && self.malformed.is_none() && self.usage.has_input()
    }

    /// Books what was seen, or the ceiling if something came and nothing of it told what it costs.
    fn abandon(&mut self, mut reservation: Reservation, now: Timestamp) {
        reservation.visible(std::mem::take(&mut self.visible), now);
        if self.before_start > 0 && !self.usage.has_input() {
            reservation.blind(now);
        }
        reservation.abandon(now);
    }

    fn settle(&self, reservation: Reservation, now: Timestamp) {
        reservation.settle(self.report(), self.model.as_deref(), self.id.as_deref(), now);
    }

    /// All that was reported so far.
    fn report(&self) -> Reported {
        let mut reported = self.usage.to_report();
        reported.parts.extend(self.before_pauses.iter().cloned());
        reported
    }

    /// Writes down that it may cost more than was known, before the client sees more of it: what a crash books holds what was reported.
    fn tell_ceiling(&self, running: &mut Reservation, shared: &Shared) {
        if let Some((ceiling, ceiling_tokens)) = running.higher_ceiling(&self.report()) {
            shared.note(ProxyEvent::Journal(Event::CeilingRaised { request: running.request(), ceiling, ceiling_tokens }));
        }
    }
}

#[cfg(test)]
mod tests;
