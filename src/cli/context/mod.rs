//! The context gauge in words: what the journal tells of it, the conversations of a session, and what fills the main one.

mod hints;
mod picture;

use serde::Serialize;

use self::picture::Picture;
use super::failure::Failure;
use super::story::of_thread;
use super::ui;
use super::words::{clean, counted, tokens};
use crate::meter::context::Gauge;
use crate::model::{Event, Record, SCHEMA_VERSION, SeenBy, SessionId, SessionView, Thread, ThreadView, thrash_words};
use crate::store::StateDir;

/// Subagents that `show` names; the rest are counted.
const SHOWN_AGENTS: usize = 5;

/// `show --context --json`.
#[derive(Debug, Serialize)]
struct Document {
    schema_version: u32,
    session: SessionId,
    /// Absent before the first answer of the main conversation.
    context: Option<Picture>,
}

/// `show ID --context`.
pub(super) fn show(state: &StateDir, view: &SessionView, records: &[Record], json: bool) -> Result<u8, Failure> {
    let dir = state.session(view.id);
    let path = dir.path().join("context.json");
    let failed = |error| Failure::command(anyhow::Error::new(error).context(format!("read {}", path.display())), None);
    let picture = dir.read_context().map_err(failed)?.map(|file| Picture::of(&file, records, view));
    if json {
        ui::print_json(&Document { schema_version: SCHEMA_VERSION, session: view.id, context: picture })?;
        return Ok(0);
    }
    let main = Gauge::of(records.iter().map(|record| &record.event)).main();
    let nothing = "nothing is known of its context: its main conversation was not answered yet, or its records were cleared away\n";
    ui::print(&picture.map_or_else(|| nothing.to_owned(), |picture| picture.tell(view, main.as_ref())))?;
    Ok(0)
}

/// An event of the gauge, as `log` tells it; `None` for any other.
pub(super) fn tell(event: &Event) -> Option<String> {
    Some(match event {
        Event::Compaction { thread, trigger, seen_by, .. } => {
            let trigger = trigger.as_ref().map(|trigger| format!(" ({})", clean(trigger))).unwrap_or_default();
            let how = match seen_by {
                SeenBy::Headers => "",
                SeenBy::Summary => ", seen by its summary",
                SeenBy::Size => ", seen by the size of its requests",
            };
            format!("conversation compacted{trigger}{}{how}", of_thread(thread))
        }
        Event::Compacted { thread, before, after } => {
            let before = before.map_or_else(|| "an unknown size".to_owned(), bare);
            format!("compaction brought the context from {before} to {}{}", tokens(*after), of_thread(thread))
        }
        Event::ContextThreshold { thread, percent, tokens: used, window } => {
            format!("{percent}% of the context is full: {} of {}{}", bare(*used), tokens(*window), of_thread(thread))
        }
        Event::ContextThrash { compactions, requests } => thrash_words(*compactions, *requests),
        _ => return None,
    })
}

/// The lines of `show` about the context: the main conversation, and its subagents.
pub(super) fn lines(threads: &[ThreadView]) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    let main = threads.iter().find(|view| view.thread == Thread::Main);
    lines.push(("context", main.map_or_else(|| "nothing yet".to_owned(), main_line)));
    let mut agents: Vec<(&String, &ThreadView)> =
        threads.iter().filter_map(|view| if let Thread::Agent(id) = &view.thread { Some((id, view)) } else { None }).collect();
    agents.sort_by_key(|(_, view)| std::cmp::Reverse(view.peak_tokens));
    let hidden = agents.len().saturating_sub(SHOWN_AGENTS);
    lines.extend(agents.into_iter().take(SHOWN_AGENTS).map(|(id, view)| ("", format!("subagent {}: {}", clean(id), used(view)))));
    if hidden > 0 {
        lines.push(("", format!("and {} more", counted(hidden as u64, "subagent", "subagents"))));
    }
    lines
}

fn main_line(view: &ThreadView) -> String {
    let peak = view.peak_percent.filter(|peak| Some(*peak) > view.percent).map(|peak| format!(", {peak}% at its peak")).unwrap_or_default();
    let growth = view.growth_per_turn.map(|growth| format!(", +{} a turn", bare(growth))).unwrap_or_default();
    let left = view.turns_left.map(|left| format!(", about {} left", counted(left, "turn", "turns"))).unwrap_or_default();
    let compactions = match view.compactions {
        0 => String::new(),
        count => format!(", {}", counted(u64::from(count), "compaction", "compactions")),
    };
    format!("{}{peak}{growth}{left}{compactions}", used(view))
}

/// `52k of 200k tokens (26%)`; `52k tokens, window unknown`.
fn used(view: &ThreadView) -> String {
    match (view.window, view.percent) {
        (Some(window), Some(percent)) => format!("{} of {} ({percent}%)", bare(view.tokens), tokens(window)),
        _ => format!("{}, window unknown", tokens(view.tokens)),
    }
}

/// `52k`.
pub(super) fn bare(count: u64) -> String {
    tokens(count).trim_end_matches(" tokens").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(thread: Thread, tokens: u64, window: Option<u64>) -> ThreadView {
        ThreadView {
            thread,
            model: "m".into(),
            tokens,
            window,
            percent: window.map(|window| u32::try_from(tokens * 100 / window).unwrap()),
            peak_tokens: tokens,
            peak_percent: None,
            growth_per_turn: None,
            turns_left: None,
            requests: 1,
            compactions: 0,
        }
    }

    #[test]
    fn the_main_conversation_comes_first_and_only_the_largest_subagents_are_named() {
        let agents = (1..=7).map(|n| view(Thread::Agent(format!("a{n}")), n * 1_000, None));
        let main = ThreadView {
            peak_percent: Some(81),
            growth_per_turn: Some(9_000),
            turns_left: Some(14),
            compactions: 1,
            ..view(Thread::Main, 70_000, Some(200_000))
        };
        let threads: Vec<ThreadView> = agents.chain([main]).collect();
        let lines: Vec<String> = lines(&threads).into_iter().map(|(name, text)| format!("{name}|{text}")).collect();
        assert_eq!(
            lines,
            [
                "context|70k of 200k tokens (35%), 81% at its peak, +9k a turn, about 14 turns left, 1 compaction",
                "|subagent a7: 7k tokens, window unknown",
                "|subagent a6: 6k tokens, window unknown",
                "|subagent a5: 5k tokens, window unknown",
                "|subagent a4: 4k tokens, window unknown",
                "|subagent a3: 3k tokens, window unknown",
                "|and 2 subagents more"
            ]
        );
    }
}
