//! `sentrely show`: one session in words, or all that is known of it as JSON.

use std::io;
use std::path::Path;

use jiff::Timestamp;

use super::failure::Failure;
use super::open_state;
use super::story::{short, stage_name};
use super::ui::{self, Tone, paint};
use super::words::{between, clean, clock, command_line, counted, millis, tokens, tone, word};
use crate::meter::context::Gauge;
use crate::model::{
    Attempt, BillingKind, Details, Proof, Quota, Record, SessionDocument, SessionState, SessionView, Stage, ThreadView, show_duration,
    time_to_limit, unbilled,
};
use crate::store::{JournalError, StateDir, read_journal};

/// Show one session: what it is, what it did and how it ended
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The session's id, or its first digits
    id: String,

    /// Show what fills the context of its main conversation, and what stands out
    #[arg(long)]
    context: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Shows the session.
pub(super) fn run(args: &Args) -> Result<u8, Failure> {
    let now = Timestamp::now();
    let state = open_state()?;
    super::finish::at_look(&state);
    let view = state.find(&args.id)?.at(now);
    let records = records(&state, &view)?;
    if args.context {
        return super::context::show(&state, &view, records.as_deref().unwrap_or_default(), args.json);
    }
    let details = records.as_deref().map(Details::of);
    let proof = records.as_deref().zip(details.as_ref()).and_then(|(records, details)| Proof::of(records, &view, details));
    let threads = Gauge::of(records.iter().flatten().map(|record| &record.event)).threads();
    if args.json {
        ui::print_json(&SessionDocument::of(&view, &threads, proof.as_ref(), details.as_ref()))?;
    } else {
        ui::print(&tell(&view, details.as_ref(), proof.as_ref(), &threads, now))?;
    }
    Ok(0)
}

/// The session's journal; `None` once only its summary is kept.
pub(super) fn records(state: &StateDir, view: &SessionView) -> Result<Option<Vec<Record>>, JournalError> {
    match read_journal(&state.session(view.id).journal_file()) {
        Ok(records) => Ok(Some(records)),
        Err(JournalError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Lines of a name and what stands under it.
struct Page(String);

impl Page {
    fn line(&mut self, name: &str, text: impl AsRef<str>) {
        self.toned(name, text, Tone::Plain);
    }

    fn toned(&mut self, name: &str, text: impl AsRef<str>, tone: Tone) {
        let (name, text) = (paint(&format!("{name:<11}"), Tone::Dim), paint(text.as_ref(), tone));
        self.0.extend(["  ", &name, " ", &text, "\n"]);
    }
}

fn tell(view: &SessionView, details: Option<&Details>, proof: Option<&Proof>, threads: &[ThreadView], now: Timestamp) -> String {
    let heading = format!("{} {}\n", paint(&format!("session {}", view.short_id), Tone::Bold), paint(&word(&view.state), tone(view.state)));
    let mut page = Page(heading);
    page.line("id", view.id.to_string());
    page.line("command", command_line(&view.command));
    page.line("developer", format!("{} ({})", clean(&view.developer), word(&view.developer_source)));
    page.line("project", clean(&view.project));
    page.line("works in", format!("{} ({})", clean(&view.directory), word(&view.workspace)));
    page.line("started", started(view, now));
    tell_branch(&mut page, view, details);
    tell_spending(&mut page, view);
    match details {
        Some(_) => super::context::lines(threads).iter().for_each(|(name, text)| page.line(name, text)),
        None => page.line("context", context(view)),
    }
    tell_identity(&mut page, view);
    page.line("wall", if view.wall.is_empty() { "unknown".to_owned() } else { clean(&view.wall) });
    if let Some(details) = details {
        tell_attempts(&mut page, &details.attempts);
        tell_gate(&mut page, details);
        tell_pull_request(&mut page, view);
    }
    tell_end(&mut page, view, details, proof, now);
    match details {
        Some(details) => details.notices.iter().for_each(|notice| page.line("note", clean(notice))),
        None => page.line("note", "its journal was cleared away; this is its summary"),
    }
    page.0
}

fn started(view: &SessionView, now: Timestamp) -> String {
    let place = if view.pid == 0 { String::new() } else { format!(", on {} (pid {})", clean(&view.host), view.pid) };
    format!("{}, {} ago{place}", clock(view.started_at), between(view.started_at, now))
}

fn tell_branch(page: &mut Page, view: &SessionView, details: Option<&Details>) {
    let Some(branch) = &view.branch else { return page.line("branch", "none") };
    let base = view.base.as_ref().map(|base| format!(", from {}", clean(base))).unwrap_or_default();
    let at = view.base_commit.as_ref().map(|commit| format!(" at {}", short(commit))).unwrap_or_default();
    // Work is brought home now and then: of a session under way there may be more.
    let so_far = if matches!(view.state, SessionState::Stopped | SessionState::Crashed) { "" } else { " brought home so far" };
    page.line("branch", format!("{}{base}{at}, {}{so_far}", clean(branch), counted(view.commits, "commit", "commits")));
    if let Some(why) = details.and_then(|details| details.work_not_saved.as_ref()) {
        page.toned("", format!("NOT SAVED: {}", clean(why)), Tone::Bad);
    }
    let Some(checkout) = view.checkout.as_deref().filter(|checkout| has_branch(Path::new(checkout), branch)) else { return };
    let git = |words: &[&str]| {
        let words: Vec<String> = ["git", "-C", checkout].iter().chain(words).map(|word| (*word).to_owned()).collect();
        command_line(&words)
    };
    if let Some(base) = &view.base_commit {
        page.line("", format!("see it:       {}", git(&["log", "-p", &format!("{}..{branch}", short(base))])));
    }
    page.line("", format!("take it over: {}", git(&["switch", branch])));
}

fn has_branch(checkout: &Path, branch: &str) -> bool {
    git2::Repository::open(checkout).is_ok_and(|repository| repository.find_branch(branch, git2::BranchType::Local).is_ok())
}

fn tell_spending(page: &mut Page, view: &SessionView) {
    page.line("paid by", clean(&view.billing.long_words()));
    let burn = if view.ended_at.is_none() && view.state != SessionState::Crashed {
        let limit = time_to_limit(view).map(|left| format!(", the limit in {}", show_duration(left))).unwrap_or_default();
        format!(", {} an hour now{limit}", view.burn_usd_per_hour.show())
    } else {
        String::new()
    };
    let estimate = if view.cost_estimated { " (partly estimated)" } else { "" };
    page.line("cost", format!("{}{estimate}{burn}", view.cost_words()));
    for budget in &view.budgets {
        let tone = if budget.percent >= 100 {
            Tone::Bad
        } else if budget.percent >= 80 {
            Tone::Warn
        } else {
            Tone::Plain
        };
        page.toned("budget", format!("{} ({}%)", view.budget_words(budget), budget.percent), tone);
    }
    if let Some(quota) = &view.quota {
        tell_quota(page, quota);
    }
    let refused = if view.refused == 0 { String::new() } else { format!(", {} refused", view.refused) };
    page.line("requests", format!("{} answered{refused}", view.requests));
    let count = |count: u64| tokens(count).trim_end_matches(" tokens").to_owned();
    let t = &view.tokens;
    let (input, output, read) = (count(t.input), count(t.output), count(t.cache_read));
    let writes = count(t.cache_write_5m + t.cache_write_1h);
    page.line("tokens", format!("{input} in, {output} out, cache: {writes} written, {read} read"));
    if !view.models.is_empty() {
        page.line("models", clean(&view.models.join(", ")));
    }
}

/// `5h: 42 % used, until 2026-11-23 14:00:00`, the window that decides first.
fn tell_quota(page: &mut Page, quota: &Quota) {
    for window in &quota.windows {
        let used = window.percent.map_or_else(|| "share unknown".to_owned(), |percent| format!("{percent} % used"));
        let until = window.resets_at.map(|at| format!(", until {}", clock(at))).unwrap_or_default();
        page.line("quota", clean(&format!("{}: {used}{}{until}", window.window, window.doubt())));
    }
    let claim = quota.claim.as_ref().map(|claim| format!("{claim} decides")).unwrap_or_default();
    let status = quota.status.as_ref().filter(|status| *status != "allowed").map(|status| format!(" ({status})")).unwrap_or_default();
    if !claim.is_empty() || !status.is_empty() {
        page.line("", clean(&format!("{claim}{status}")));
    }
}

/// What is left of it once the journal is gone.
fn context(view: &SessionView) -> String {
    let context = &view.context;
    let of_window = context.window.map(|window| format!(" of {}", tokens(window))).unwrap_or_default();
    let used = tokens(context.tokens);
    let used = if of_window.is_empty() { used.as_str() } else { used.trim_end_matches(" tokens") };
    let share = context.percent.map(|percent| format!(" ({percent}%)")).unwrap_or_default();
    let peak = context.peak_percent.map(|percent| format!(", at most {percent}%")).unwrap_or_default();
    let compactions = if context.compactions == 0 {
        String::new()
    } else {
        format!(", {}", counted(u64::from(context.compactions), "compaction", "compactions"))
    };
    format!("{used}{of_window}{share}{peak}{compactions}")
}

fn tell_identity(page: &mut Page, view: &SessionView) {
    let Some(aws) = &view.aws else { return page.line("AWS", "none") };
    page.line("AWS", format!("{} as {}", clean(&aws.role_arn), clean(&aws.role_session_name)));
    page.line("", format!("delivered by {}, valid until {}", clean(&aws.delivery), clock(aws.expires_at)));
    let attribute = format!("AttributeKey=Username,AttributeValue={}", aws.role_session_name);
    let words = ["aws", "cloudtrail", "lookup-events", "--lookup-attributes", &attribute].map(str::to_owned);
    page.line("", format!("what it did:  {}", command_line(&words)));
}

fn tell_attempts(page: &mut Page, attempts: &[Attempt]) {
    // One attempt is what the other lines tell already.
    for attempt in attempts.iter().filter(|_| attempts.len() > 1) {
        let end = match (attempt.ended_at, attempt.reason) {
            (Some(at), Some(reason)) => format!("{} after {}", reason.describe(), between(attempt.started_at, at)),
            _ => "no end recorded".to_owned(),
        };
        page.line("attempt", format!("{}: {}, {end}", attempt.number, clock(attempt.started_at)));
    }
}

fn tell_gate(page: &mut Page, details: &Details) {
    for push in &details.pushes_accepted {
        page.line("pushed", format!("{} at {}, {}", clean(&push.branch), short(&push.commit), clock(push.at)));
    }
    for refusal in &details.pushes_refused {
        page.toned("refused", format!("push to {}: {}", clean(&refusal.refs.join(", ")), clean(&refusal.why)), Tone::Warn);
    }
}

fn tell_pull_request(page: &mut Page, view: &SessionView) {
    if let Some(url) = &view.pr_url {
        page.line("review", clean(url));
    }
}

fn tell_end(page: &mut Page, view: &SessionView, details: Option<&Details>, proof: Option<&Proof>, now: Timestamp) {
    if let (Some(proof), Some(details)) = (proof, details) {
        tell_proof(page, proof, details, view.billing.kind);
    }
    if let Some(reason) = view.stop_reason {
        let code = view.exit_code.map(|code| format!(" (exit code {code})")).unwrap_or_default();
        let when = view.ended_at.map(|at| format!(", {}, {} ago", clock(at), between(at, now))).unwrap_or_default();
        let bad = view.state == SessionState::Crashed;
        page.toned("ended", format!("{}{code}{when}", reason.describe()), if bad { Tone::Bad } else { Tone::Plain });
        if bad && view.ended_at.is_none() {
            page.line("", format!("clear up after it: sentrely kill {}", view.short_id));
        }
    }
    for survivor in &view.survivors {
        page.toned("STILL THERE", clean(survivor), Tone::Bad);
    }
}

/// Who stopped it, how fast it was gone, what it had done by then and what is left.
fn tell_proof(page: &mut Page, proof: &Proof, details: &Details, billing: BillingKind) {
    let from = proof.from.as_ref().map(|from| format!(" from {}", clean(from))).unwrap_or_default();
    let note = proof.note.as_ref().map(|note| format!(": {}", clean(note))).unwrap_or_default();
    page.line("stopped by", format!("{}{from}, {}{note}", clean(&proof.by), clock(proof.at)));
    if !proof.stages.is_empty() || proof.processes_ended.is_some() {
        page.line("", stages(details));
    }
    if let Some(at) = details.survivors_gone_at.filter(|_| details.survivors.is_empty()) {
        page.line("", format!("something was left; it was gone by {}", clock(at)));
    } else if details.is_gone() {
        let after = proof.latency_ms.map(|ms| format!(" after {}", millis(ms))).unwrap_or_default();
        page.line("", format!("nothing of it was left{after}"));
    }
    let last = proof.last_request_at.map_or("it had made no request".to_owned(), |at| {
        format!("its last request was let through at {}, {} before", clock(at), between(at, proof.at))
    });
    page.line("", format!("it had spent {}{}; {last}", proof.cost_usd.show(), unbilled(billing)));
    if let (Some(branch), Some(commit)) = (&proof.branch, &proof.commit) {
        page.line("", format!("its work is {} at {}", clean(branch), short(commit)));
    }
    for key in &proof.aws_keys {
        page.line("", format!("what it did last:  {}", command_line(&key.query)));
    }
}

/// The way down on one line: `gate closed 0.4 ms · … · 7 processes ended`.
fn stages(details: &Details) -> String {
    details.stages.iter().map(step).chain(last_step(details)).collect::<Vec<_>>().join(" · ")
}

/// One step of it: `gate closed 0.4 ms`.
pub(super) fn step(stage: &Stage) -> String {
    format!("{} {}", stage_name(&stage.stage), millis(stage.ms))
}

/// The last one: `7 processes ended`.
pub(super) fn last_step(details: &Details) -> Option<String> {
    details.processes_ended.map(|count| format!("{} ended", counted(u64::from(count), "process", "processes")))
}
