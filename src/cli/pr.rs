//! `sentrely pr`: an ended session's branch becomes a pull request.

use std::io::IsTerminal;

use anyhow::anyhow;
use jiff::Timestamp;

use super::failure::{EXIT_PARTLY, Failure};
use super::words::clean;
use super::{inside_session, load_config, open_state, ui};
use crate::model::SCHEMA_VERSION;
use crate::model::{Event, SessionView};
use crate::session::pull_request::{Ask, NotDelivered, deliver};
use crate::store::{Journal, SessionDir, SessionLock, StateDir, append_to_index, verify_journal};

/// Push an ended session's branch and open a pull request, or bring the open one up to date
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The session's id, or its first digits
    id: String,

    /// The branch to merge into [default: what the session started from, else the remote's default]
    #[arg(long, value_name = "BRANCH")]
    base: Option<String>,

    /// The title [default: the only commit's subject, else the session's name]
    #[arg(long)]
    title: Option<String>,

    /// Ready for review, not a draft
    #[arg(long)]
    ready: bool,

    /// Push changes that are held for a person, too: you have looked at them
    #[arg(long)]
    held: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct Document<'a> {
    schema_version: u32,
    session: String,
    branch: &'a str,
    commit: &'a str,
    url: Option<&'a str>,
    number: Option<u64>,
    new: bool,
}

/// Delivers.
pub(super) fn run(args: &Args) -> Result<u8, Failure> {
    if inside_session().is_some() {
        let error = anyhow!("open a pull request: this is the inside of a session");
        return Err(Failure::run(error, Some("git push sends this session's branch; a person opens the pull request".to_owned())));
    }
    let state = open_state()?;
    let view = state.find(&args.id)?;
    let config = load_config(Vec::new())?.config;
    let dir = state.session(view.id);
    let running = || {
        let error = anyhow!("open a pull request for session {}: it is still running", view.short_id);
        Failure::command(error, Some(format!("its work comes home at its end; `sentrely kill {}` ends it now", view.short_id)))
    };
    let doing = |error: std::io::Error| Failure::command(anyhow!(error).context(format!("lock session {}", view.short_id)), None);
    let _lock = SessionLock::take(&dir.lock_file()).map_err(doing)?.ok_or_else(running)?;
    let (mut journal, records) = Journal::open(&dir.journal_file())?;
    let head = std::fs::read(dir.journal_file()).ok().and_then(|content| verify_journal(&content).ok()).map(|(_, head)| head);
    let ask = Ask {
        view: view.clone(),
        records,
        journal_head: head.unwrap_or_else(|| "unknown: the journal is broken".to_owned()),
        base: args.base.clone(),
        title: args.title.clone(),
        draft: !args.ready,
        held_seen: args.held,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::command(anyhow!(error).context("start a runtime"), None))?;
    let once = runtime.block_on(deliver(ask.clone(), &config));
    let done = match once {
        Err(held) if !held.held.is_empty() && std::io::stdin().is_terminal() && confirmed(&held) => {
            runtime.block_on(deliver(Ask { held_seen: true, ..ask }, &config))
        }
        done => done,
    };
    match done {
        Ok(delivered) => {
            record(&state, &dir, &mut journal, view, &delivered.event)?;
            if args.json {
                print_json(&dir, &delivered.event)?;
            } else {
                ui::print(&format!("{}\n", clean(&delivered.said)))?;
            }
            Ok(0)
        }
        Err(NotDelivered { error, hint, event, held: _ }) => {
            let pushed = event.is_some();
            if let Some(event) = event {
                record(&state, &dir, &mut journal, view, &event)?;
            }
            let failure = Failure::command(error, hint);
            Err(if pushed { failure.with_code(EXIT_PARTLY) } else { failure })
        }
    }
}

fn confirmed(held: &NotDelivered) -> bool {
    for path in &held.held {
        ui::say(&format!("changed: {}", clean(path)));
    }
    ui::confirm("These are held for a person to look at. Push them?")
}

fn record(state: &StateDir, dir: &SessionDir, journal: &mut Journal, mut view: SessionView, event: &Event) -> Result<(), Failure> {
    view.apply(&journal.append(event.clone(), Timestamp::now())?);
    journal.sync()?;
    let written = dir.write_status(&view).and_then(|()| append_to_index(state.path(), &view));
    written.map_err(|error| Failure::command(anyhow!(error).context("record the pull request"), None))
}

fn print_json(dir: &SessionDir, event: &Event) -> Result<(), Failure> {
    if let Event::PullRequest { url, number, branch, commit, new } = event {
        let session = dir.id().to_string();
        let (url, number, new) = (url.as_deref(), *number, *new);
        ui::print_json(&Document { schema_version: SCHEMA_VERSION, session, branch, commit, url, number, new })?;
    }
    Ok(())
}
