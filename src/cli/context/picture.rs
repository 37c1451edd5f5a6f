//! `show ID --context`: what fills the main conversation's context, as a picture in bars and as JSON.
//!
//! The parts' sizes come from the body of the last request, the whole from what the API reported for it: the parts are estimates that add up
//! to the truth.

use std::cmp::Reverse;

use jiff::Timestamp;
use serde::Serialize;

use super::super::ui::{Tone, paint};
use super::super::words::{clean, clock, counted, cut, tokens};
use super::bare;
use super::hints::hints;
use crate::meter::anatomy::{Anatomy, Kind, Part};
use crate::model::{Event, Record, RequestId, SessionView, ThreadView, percent_of_window};
use crate::store::ContextFile;

/// Characters of the longest bar.
const BAR: u64 = 30;
/// Parts that are named.
const LARGEST: usize = 10;
/// Bytes of text a token, where the API has not told the prompt's size.
const BYTES_PER_TOKEN: u64 = 4;
/// Characters of a name.
const NAME: usize = 56;

/// What is shown, and the `context` of the JSON.
#[derive(Debug, Serialize)]
pub(in super::super) struct Picture {
    /// The request.
    request: RequestId,
    /// When its body was looked at.
    at: Timestamp,
    /// Prompt tokens as the API reported them; `None` before the answer, or where it was lost.
    pub(super) prompt_tokens: Option<u64>,
    /// The model's window.
    pub(super) window: Option<u64>,
    /// Percent of it.
    percent: Option<u32>,
    /// The parts' tokens are estimated from their bytes.
    estimated: bool,
    /// Why the body could not be taken apart.
    unknown: Option<String>,
    /// The kinds of parts, in a fixed order.
    groups: Vec<Group>,
    /// All parts, the largest first.
    pub(super) parts: Vec<Sized>,
    /// Files that were read more than once.
    read_again: Vec<Again>,
    /// What one could do about it.
    hints: Vec<String>,
}

/// Parts of one kind together.
#[derive(Debug, Serialize)]
struct Group {
    name: String,
    tokens: u64,
    percent: u64,
}

/// A part and its share.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Sized {
    pub(super) kind: Kind,
    pub(super) name: String,
    pub(super) path: Option<String>,
    pub(super) bytes: u64,
    pub(super) count: u64,
    pub(super) calls: u64,
    pub(super) tokens: u64,
    pub(super) percent: u64,
}

/// A file that was read more than once.
#[derive(Debug, Serialize)]
struct Again {
    path: String,
    count: u64,
    tokens: u64,
}

impl Picture {
    /// Of what the session's directory and journal tell.
    pub(in super::super) fn of(file: &ContextFile, records: &[Record], view: &SessionView) -> Self {
        let settled = records.iter().rev().find_map(|record| match &record.event {
            Event::RequestSettled { request, usage, window, lost, message_id, .. }
                if *request == file.request && usage.context() > 0 && (!*lost || message_id.is_some()) =>
            {
                Some((usage.context(), crate::model::believable_window(usage.context(), *window)))
            }
            _ => None,
        });
        let (prompt_tokens, window) = settled.map_or((None, None), |(prompt, window)| (Some(prompt), window));
        let anatomy = file.anatomy.clone().unwrap_or_default();
        let whole = prompt_tokens.unwrap_or_else(|| guess(&anatomy));
        let mut parts: Vec<Sized> =
            anatomy.parts.iter().zip(anatomy.tokens(whole)).map(|(part, tokens)| sized(part, tokens, whole, &view.directory)).collect();
        parts.sort_by_key(|part| Reverse(part.tokens));
        let mut picture = Self {
            request: file.request,
            at: file.at,
            prompt_tokens,
            window,
            percent: prompt_tokens.and_then(|prompt| percent_of_window(prompt, window)),
            estimated: true,
            unknown: file.unknown.clone(),
            groups: groups(&parts, whole),
            read_again: read_again(&parts),
            hints: Vec::new(),
            parts,
        };
        picture.hints = hints(&picture.parts);
        picture
    }

    /// As `show` prints it.
    pub(in super::super) fn tell(&self, view: &SessionView, main: Option<&ThreadView>) -> String {
        let mut out = format!("{}\n", paint(&format!("context of {}", view.short_id), Tone::Bold));
        let mut line = |text: String| out.extend([text.as_str(), "\n"]);
        line(format!("  {}", self.heading(main)));
        if let Some(why) = &self.unknown {
            line(format!("  what fills it is unknown: {}", clean(why)));
            return out;
        }
        line(String::new());
        let longest = self.groups.iter().map(|group| group.tokens).max().unwrap_or(0).max(1);
        for group in self.groups.iter().filter(|group| group.tokens > 0) {
            let bar = "█".repeat(usize::try_from((group.tokens * BAR).div_ceil(longest)).unwrap_or(0));
            line(format!("  {:<28} {:>7} {:>4}  {bar}", cut(&clean(&group.name), 28), bare(group.tokens), format!("{}%", group.percent)));
        }
        line(format!("\n{}", paint("the largest", Tone::Bold)));
        for part in self.parts.iter().filter(|part| part.tokens > 0).take(LARGEST) {
            line(format!("  {:>7} {:>4}  {}", bare(part.tokens), format!("{}%", part.percent), part.words()));
        }
        if !self.read_again.is_empty() {
            line(format!("\n{}", paint("read more than once", Tone::Bold)));
            for again in self.read_again.iter().take(LARGEST) {
                line(format!("  {:>7} {:>4}  {}", bare(again.tokens), format!("{}x", again.count), cut(&clean(&again.path), NAME)));
            }
        }
        if !self.hints.is_empty() {
            line(String::new());
            self.hints.iter().for_each(|hint| line(format!("hint: {}", clean(hint))));
        }
        line(paint("\nThe whole is the API's own number; what each part has of it is estimated from its bytes.", Tone::Dim));
        out
    }

    fn heading(&self, main: Option<&ThreadView>) -> String {
        let size = match (self.prompt_tokens, self.window, self.percent) {
            (Some(prompt), Some(window), Some(percent)) => format!("{} of {} ({percent}%)", bare(prompt), tokens(window)),
            (Some(prompt), ..) => format!("{}, window unknown", tokens(prompt)),
            (None, ..) => "its size is not known yet: the answer has not come, or was lost; what follows is by bytes alone".to_owned(),
        };
        let growth = main.and_then(|main| main.growth_per_turn).map(|growth| format!(", +{} a turn", bare(growth))).unwrap_or_default();
        let left = main.and_then(|main| main.turns_left);
        let left = left.map(|left| format!(", about {} left", counted(left, "turn", "turns"))).unwrap_or_default();
        format!("{size}{growth}{left}; request {}, {}", self.request, clock(self.at))
    }
}

impl Sized {
    /// What it is, in words.
    fn words(&self) -> String {
        let name = cut(&clean(&self.name), NAME);
        let about = self.path.as_deref().map(|path| format!(" {}", cut(&clean(path), NAME))).unwrap_or_default();
        let times = match self.count {
            1 => String::new(),
            count => format!(" ({count} times)"),
        };
        match self.kind {
            Kind::System if name == "prompt" => "system prompt".to_owned(),
            Kind::System => "what Claude Code adds: environment, skills, reminders".to_owned(),
            Kind::Tools => format!("definitions of {} built in", counted(self.count, "tool", "tools")),
            Kind::Mcp => format!("definitions of {} of MCP server {name}", counted(self.count, "tool", "tools")),
            Kind::Memory => format!("memory file {name}"),
            Kind::User if name.is_empty() => "what the user said".to_owned(),
            Kind::User => name,
            Kind::Assistant if name == "thinking" => "thinking".to_owned(),
            Kind::Assistant => "what the model said".to_owned(),
            Kind::ToolCall => format!("calls of {name}{about}{times}"),
            Kind::ToolResult => format!("{name}{about}{times}"),
            Kind::Image => format!("images{about}{times}"),
        }
    }
}

fn guess(anatomy: &Anatomy) -> u64 {
    let (bytes, fixed) = anatomy.parts.iter().fold((0, 0), |(bytes, fixed), part| (bytes + part.bytes, fixed + part.fixed_tokens));
    bytes / BYTES_PER_TOKEN + fixed
}

fn sized(part: &Part, tokens: u64, whole: u64, directory: &str) -> Sized {
    let within = |path: &str| match path.strip_prefix(directory).and_then(|rest| rest.strip_prefix('/')) {
        Some(rest) if !directory.is_empty() => rest.to_owned(),
        _ => path.to_owned(),
    };
    let name = if part.kind == Kind::Memory { within(&part.name) } else { part.name.clone() };
    Sized {
        kind: part.kind,
        name,
        path: part.path.as_deref().map(within),
        bytes: part.bytes,
        count: part.count,
        calls: part.calls,
        tokens,
        percent: share(tokens, whole),
    }
}

pub(super) fn share(tokens: u64, whole: u64) -> u64 {
    tokens.saturating_mul(100).checked_div(whole).unwrap_or(0)
}

fn groups(parts: &[Sized], whole: u64) -> Vec<Group> {
    let sum = |kinds: &[Kind]| parts.iter().filter(|part| kinds.contains(&part.kind)).map(|part| part.tokens).sum::<u64>();
    let group = |name: &str, tokens: u64| Group { name: name.to_owned(), tokens, percent: share(tokens, whole) };
    let mut groups = vec![group("system", sum(&[Kind::System])), group("tool definitions", sum(&[Kind::Tools]))];
    let servers = parts.iter().filter(|part| part.kind == Kind::Mcp);
    groups.extend(servers.map(|server| group(&format!("MCP {} ({})", server.name, counted(server.count, "tool", "tools")), server.tokens)));
    groups.extend([
        group("memory files", sum(&[Kind::Memory])),
        group("user", sum(&[Kind::User])),
        group("assistant", sum(&[Kind::Assistant, Kind::ToolCall])),
        group("tool results", sum(&[Kind::ToolResult])),
        group("images", sum(&[Kind::Image])),
    ]);
    groups
}

fn read_again(parts: &[Sized]) -> Vec<Again> {
    let read = parts.iter().filter(|part| part.kind == Kind::ToolResult && part.name == "Read" && part.count > 1);
    read.filter_map(|part| Some(Again { path: part.path.clone()?, count: part.count, tokens: part.tokens })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_shown_from_where_the_session_works() {
        let part = |path: &str| Part {
            kind: Kind::ToolResult,
            name: "Read".into(),
            path: Some(path.into()),
            bytes: 1,
            fixed_tokens: 0,
            count: 1,
            calls: 0,
        };
        let shown = |path: &str| sized(&part(path), 1, 3, "/work/shop").path.unwrap();
        assert_eq!((shown("/work/shop/a/b.rs"), shown("/work/shopping/c")), ("a/b.rs".to_owned(), "/work/shopping/c".to_owned()));
        assert_eq!(sized(&part("/x"), 1, 3, "").percent, 33);
    }
}
