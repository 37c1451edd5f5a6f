//! What a person sees of a run: steps, one banner, nothing while the child has the terminal, one summary.

use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::{ProgressBar, ProgressStyle};

use super::step::StepLine;
use super::ui::{Tone, can_redraw, paint, say, say_over};
use super::words::{clean, counted};
use crate::model::{Outcome, SessionView};
use crate::session::report::{Banner, Report, Summary};

/// Names of ended processes that are shown.
const NAMES: usize = 6;
/// Width of the labels.
const LABEL: usize = 9;

/// The view of one run.
pub(super) struct RunUi(Mutex<State>);

#[expect(clippy::struct_excessive_bools, reason = "independent facts about one terminal")]
struct State {
    redraw: bool,
    bar: Option<ProgressBar>,
    step: Option<StepLine>,
    /// The child has the terminal: nothing is written.
    silent: bool,
    running: bool,
    /// The command was started.
    began: bool,
    /// A step was drawn, and nothing of the command's can stand on the terminal's last line yet.
    may_be_smeared: bool,
}

impl RunUi {
    /// For this process's stderr.
    pub(super) fn new() -> Self {
        Self(Mutex::new(State {
            redraw: can_redraw(),
            bar: None,
            step: None,
            silent: false,
            running: false,
            began: false,
            may_be_smeared: false,
        }))
    }

    /// One line of talk.
    pub(super) fn say(&self, line: &str) {
        self.lock().line(line);
    }

    /// Shows a report.
    pub(super) fn show(&self, report: Report) {
        let mut state = self.lock();
        match report {
            Report::Step(what) => state.step(&what),
            Report::StepDone => state.clear(),
            Report::Banner(banner) => {
                state.clear();
                draw_banner(&banner);
            }
            Report::ChildRuns { owns_terminal } => {
                state.clear();
                state.silent = owns_terminal;
                state.running = true;
                (state.began, state.may_be_smeared) = (true, false);
            }
            Report::TerminalBack => {
                state.clear();
                state.silent = false;
                state.running = false;
            }
            Report::Spent(view) => state.spent(&view),
            Report::Threshold { percent, amount } => {
                let tone = if percent >= 80 { Tone::Warn } else { Tone::Plain };
                state.line(&paint(&format!("sentrely: {percent} % of the budget is used: {amount}"), tone));
            }
            Report::Notice(what) => state.line(&format!("sentrely: {what}")),
            Report::Alarm(what) => state.line(&paint(&format!("sentrely: {what}"), Tone::Bad)),
            Report::Summary(summary) => {
                state.clear();
                draw_summary(&summary);
            }
        }
    }

    /// Takes away whatever is drawn.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn step(&mut self, what: &str) {
        self.clear();
        if self.silent {
            return;
        }
        if self.redraw {
            self.step = Some(StepLine::draw(what));
            self.may_be_smeared |= !self.began;
        } else {
            say(&paint(&format!("sentrely: {what}"), Tone::Dim));
        }
    }

    fn spent(&mut self, view: &SessionView) {
        if self.silent || !self.redraw || !self.running {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{msg}") {
                bar.set_style(style);
            }
            bar
        });
        bar.set_message(paint(&format!("sentrely: {} · {}", view.spent_words(true), plural(view.requests, "request")), Tone::Dim));
        bar.tick();
    }

    fn line(&self, line: &str) {
        if self.silent {
            return;
        }
        match &self.bar {
            Some(bar) => bar.suspend(|| say(line)),
            // In front of the step, which goes on below it.
            None if self.step.is_some() => say_over(line),
            None => say(line),
        }
    }

    fn clear(&mut self) {
        drop(self.step.take());
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        if self.may_be_smeared {
            // A typed signal makes the terminal throw away what was written and not yet drawn, the clearing of a step too.
            let _ = std::io::Write::write_all(&mut std::io::stderr(), b"\r\x1b[2K");
        }
    }
}

/// `/home/ana/x` as `~/x`: shorter, and still what a shell takes.
fn tilde(text: &str) -> String {
    match std::env::var("HOME") {
        Ok(home) if home.len() > 1 => text.replace(&format!("{home}/"), "~/"),
        _ => text.to_owned(),
    }
}

fn row(label: &str, text: &str) -> String {
    let text = tilde(text);
    format!("  {} {text}", paint(&format!("{label:<LABEL$}"), Tone::Dim))
}

fn draw_banner(banner: &Banner) {
    let dry = if banner.dry_run { " · dry run: nothing is started" } else { "" };
    let head = format!("sentrely {} · {} · {}{dry}", banner.short_id, banner.developer, banner.project);
    let mut lines = vec![paint(&head, Tone::Bold)];
    lines.push(row("pays", &banner.pays));
    lines.push(row("budget", &banner.budget));
    lines.push(row("AWS", &banner.aws));
    lines.push(row("work", &banner.work));
    lines.push(row("wall", &banner.wall));
    if !banner.off.is_empty() {
        lines.push(row("off", &banner.off.join(", ")));
    }
    for notice in &banner.notices {
        lines.push(row("note", notice));
    }
    if !banner.dry_run {
        lines.push(row("stop", &format!("sentrely kill {}  or  touch {}", banner.short_id, banner.kill_file.display())));
    }
    say(&lines.join("\n"));
}

fn draw_summary(summary: &Summary) {
    let view = &summary.view;
    let reason = view.stop_reason.map_or("ended", |reason| reason.describe());
    let note = summary.note.as_ref().map(|note| format!(": {note}")).unwrap_or_default();
    let code = view.exit_code.map(|code| format!(" · exit {code}")).unwrap_or_default();
    let tone = match view.exit_code {
        Some(0) => Tone::Bold,
        _ => Tone::Warn,
    };
    let mut lines = vec![paint(&format!("sentrely {} · {reason}{note}{code}", view.short_id), tone)];
    lines.push(row("cost", &cost_summary(view)));
    if view.requests > 0 {
        lines.push(row("tokens", &tokens_line(view)));
    }
    if let Some(percent) = view.context.peak_percent {
        let compactions = match view.context.compactions {
            0 => String::new(),
            count => format!(", {}", plural(u64::from(count), "compaction")),
        };
        lines.push(row("context", &format!("{percent} % at its peak{compactions}")));
    }
    if let Some(work) = &summary.work {
        lines.push(row("work", work));
    }
    if let Some(ended) = ended_line(&summary.outcome) {
        lines.push(row("ended", &ended));
    }
    if !summary.outcome.kept.is_empty() {
        let kept: Vec<String> = summary.outcome.kept.iter().map(|kept| format!("{} (pid {})", kept.name, kept.pid)).collect();
        lines.push(row("kept", &format!("{}: still running", kept.join(", "))));
    }
    if !summary.files.is_empty() {
        lines.push(row("files", &files_line(&summary.files)));
    }
    if !view.survivors.is_empty() {
        lines.push(row("left", &paint(&view.survivors.join(", "), Tone::Bad)));
    }
    if let Some(next) = &summary.next {
        lines.push(row("next", next));
    }
    say(&lines.join("\n"));
}

/// `3 processes: node ×2, esbuild`, the most frequent first.
fn ended_line(outcome: &Outcome) -> Option<String> {
    let mut names: Vec<(&String, u32)> = outcome.ended.iter().map(|(name, count)| (name, *count)).collect();
    names.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), *name));
    let total: u32 = names.iter().map(|(_, count)| count).sum();
    let more = names.len().saturating_sub(NAMES);
    let mut shown: Vec<String> =
        names.iter().take(NAMES).map(|(name, count)| if *count == 1 { clean(name) } else { format!("{} ×{count}", clean(name)) }).collect();
    if more > 0 {
        shown.push(format!("{more} more names"));
    }
    (total > 0).then(|| format!("{}: {}", counted(u64::from(total), "process", "processes"), shown.join(", ")))
}

/// Files that are named.
const FILES: usize = 8;

/// `a.rs, b.rs and 12 more`.
fn files_line(files: &[String]) -> String {
    let named = files.iter().take(FILES).map(|file| clean(file)).collect::<Vec<_>>().join(", ");
    match files.len().saturating_sub(FILES) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

fn cost_summary(view: &SessionView) -> String {
    let mut parts = vec![view.spent_words(true)];
    if view.requests > 0 {
        parts.push(plural(view.requests, "request"));
        parts.push(view.models.join(", "));
    }
    if view.refused > 0 {
        parts.push(format!("{} refused", view.refused));
    }
    parts.join(" · ")
}

fn tokens_line(view: &SessionView) -> String {
    let t = &view.tokens;
    let parts = [(t.input, "in"), (t.output, "out"), (t.cache_write_5m + t.cache_write_1h, "cache written"), (t.cache_read, "cache read")];
    let shown: Vec<String> =
        parts.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{} {what}", thousands(count))).collect();
    shown.join(" · ")
}

fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn plural(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_files_are_counted() {
        let files: Vec<String> = (1..=10).map(|n| format!("{n}.rs")).collect();
        assert_eq!(files_line(&files), "1.rs, 2.rs, 3.rs, 4.rs, 5.rs, 6.rs, 7.rs, 8.rs and 2 more");
        assert_eq!(files_line(&files[..2]), "1.rs, 2.rs");
    }

    #[test]
    fn counts_are_readable() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(190_000), "190,000");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(plural(1, "request"), "1 request");
        assert_eq!(plural(2, "request"), "2 requests");
    }
}
