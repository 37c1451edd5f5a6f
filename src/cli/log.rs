//! `sentrely log`: the journal in words, as it is, or as it grows; and whether anybody changed it.

use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Context, anyhow};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;

use super::failure::{EXIT_FAILED, Failure};
use super::open_state;
use super::story::{KINDS, kind, tell};
use super::ui::{self, Tone, paint};
use super::words::{clock, counted, parse_duration};
use crate::model::{BillingKind, Event, SCHEMA_VERSION, SessionId, unbilled};
use crate::store::{Line, SessionDir, StateDir, Tail, verify_journal};

/// How often a growing journal is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Show what happened in one session, or in all of them
///
/// The journal never holds prompts or answers, only counts, names and digests. Its lines are chained by hashes: --verify finds any
/// change of what is followed by a hash you noted down earlier.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The session's id, or its first digits; all sessions if left out
    id: Option<String>,

    /// Go on as more happens, until the session has ended
    #[arg(short, long, conflicts_with = "verify")]
    follow: bool,

    /// Print one JSON document a line
    #[arg(long)]
    json: bool,

    /// Show only events of these kinds, as the journal names them: `stage,push_refused`
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = KINDS, hide_possible_values = true)]
    kind: Vec<String>,

    /// Show only what is younger than this: 10m, 2h, 1d
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    since: Option<Duration>,

    /// Check the chain of hashes and print the last one
    #[arg(long, conflicts_with_all = ["kind", "since"])]
    verify: bool,
}

/// One line of `log --json`.
#[derive(Debug, Serialize)]
struct Document<'a> {
    schema_version: u32,
    session: SessionId,
    record: &'a RawValue,
}

/// One line of `log --verify --json`.
#[derive(Debug, Serialize)]
struct Verdict {
    schema_version: u32,
    session: SessionId,
    intact: bool,
    records: Option<u64>,
    head: Option<String>,
    error: Option<String>,
}

/// Shows the journal, or checks it.
pub(super) fn run(args: &Args) -> Result<u8, Failure> {
    let state = open_state()?;
    let only = args.id.as_ref().map(|id| state.find(id)).transpose()?.map(|view| state.session(view.id));
    if let Some(dir) = only.as_ref().filter(|dir| !dir.journal_file().exists()) {
        let error = anyhow!("read the journal of {}: it was cleared away", dir.id().short());
        return Err(Failure::command(error, Some(format!("`sentrely show {}` tells what is kept of it", dir.id().short()))));
    }
    if args.verify {
        return verify(&state, only, args.json);
    }
    let mut reader =
        Reader { args, since: since(args)?, tails: Vec::new(), known: HashSet::new(), payers: HashMap::new(), named: only.is_none() };
    loop {
        // Asked before reading: what a session wrote before it ended is then read for certain.
        let over = only.as_ref().is_some_and(|dir| !dir.is_alive().unwrap_or(false));
        match &only {
            Some(dir) => reader.know(dir),
            None => state.session_dirs()?.iter().for_each(|dir| reader.know(dir)),
        }
        if reader.show_new()?.is_break() || over || !args.follow {
            return Ok(0);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn since(args: &Args) -> Result<Timestamp, Failure> {
    let Some(since) = args.since else { return Ok(Timestamp::MIN) };
    Timestamp::now().checked_sub(since).map_err(|error| Failure::command(anyhow!(error).context("look so far back"), None))
}

/// Several journals read as one.
struct Reader<'a> {
    args: &'a Args,
    since: Timestamp,
    tails: Vec<(SessionId, Tail)>,
    known: HashSet<SessionId>,
    /// Who pays in each session, as far as it was read.
    payers: HashMap<SessionId, BillingKind>,
    /// Lines say which session they belong to.
    named: bool,
}

impl Reader<'_> {
    fn know(&mut self, dir: &SessionDir) {
        if self.known.insert(dir.id()) {
            self.tails.push((dir.id(), Tail::new(&dir.journal_file())));
        }
    }

    /// Prints what is new, in the order of time; `Break` once nobody reads any more.
    fn show_new(&mut self) -> Result<ControlFlow<()>, Failure> {
        let mut lines: Vec<(SessionId, Line)> = Vec::new();
        for (id, tail) in &mut self.tails {
            lines.extend(tail.read_new()?.into_iter().map(|line| (*id, line)));
        }
        // Before some are left out: who pays is told by others than those that cost.
        let priced = lines.into_iter().map(|(id, line)| {
            let price = self.price(id, &line.record.event);
            (id, line, price)
        });
        let mut lines: Vec<(SessionId, Line, String)> = priced.collect();
        lines.retain(|(_, line, _)| self.wanted(line));
        // Stable: the order within a journal is the journal's own.
        lines.sort_by_key(|(_, line, _)| line.record.at);
        for (id, line, price) in lines {
            if ui::print_more(&self.show(id, &line, &price)?)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// What stands after an amount in the words of this event.
    fn price(&mut self, session: SessionId, event: &Event) -> String {
        match event {
            Event::AttemptStarted { billing, .. } | Event::BillingChanged { billing, .. } => {
                self.payers.insert(session, billing.kind);
            }
            Event::RequestAdmitted { .. } | Event::RequestSettled { .. } => {
                return self.payers.get(&session).map(|kind| unbilled(*kind)).unwrap_or_default();
            }
            _ => {}
        }
        String::new()
    }

    fn wanted(&self, line: &Line) -> bool {
        let kinds = &self.args.kind;
        line.record.at >= self.since && (kinds.is_empty() || kinds.iter().any(|wanted| wanted == kind(&line.record.event)))
    }

    fn show(&self, id: SessionId, line: &Line, price: &str) -> Result<String, Failure> {
        if self.args.json {
            let record = RawValue::from_string(line.text.clone()).map_err(io::Error::from)?;
            let text = serde_json::to_string(&Document { schema_version: SCHEMA_VERSION, session: id, record: &record });
            return Ok(text.map_err(io::Error::from)? + "\n");
        }
        let time = paint(&clock(line.record.at), Tone::Dim);
        let name = if self.named { format!("  {}", id.short()) } else { String::new() };
        Ok(format!("{time}{name}  {}{price}\n", tell(&line.record.event)))
    }
}

fn verify(state: &StateDir, only: Option<SessionDir>, json: bool) -> Result<u8, Failure> {
    let mut dirs = match only {
        Some(dir) => vec![dir],
        None => state.session_dirs()?,
    };
    dirs.sort_by_key(SessionDir::id);
    let mut code = 0;
    for dir in dirs.iter().filter(|dir| dir.journal_file().exists()) {
        let path = dir.journal_file();
        let content = std::fs::read(&path).with_context(|| format!("read the journal {}", path.display()));
        let checked = verify_journal(&content.map_err(|error| Failure::command(error, None))?);
        if checked.is_err() {
            code = EXIT_FAILED;
        }
        let name = dir.id().short();
        let text = match (&checked, json) {
            (_, true) => {
                let (records, head) = checked.as_ref().ok().cloned().unzip();
                let (intact, error) = (checked.is_ok(), checked.err().map(|error| error.to_string()));
                let verdict = Verdict { schema_version: SCHEMA_VERSION, session: dir.id(), intact, records, head, error };
                serde_json::to_string(&verdict).map_err(io::Error::from)?
            }
            (Ok((count, head)), false) => {
                format!("{name}  {}, {} head {head}", paint("intact", Tone::Good), counted(*count, "record,", "records,"))
            }
            (Err(error), false) => format!("{name}  {}: {error}", paint("BROKEN", Tone::Bad)),
        };
        ui::print(&(text + "\n"))?;
    }
    Ok(code)
}
