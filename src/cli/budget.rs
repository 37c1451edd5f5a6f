//! `sentrely budget`: what a session may spend, shown and changed while it runs.

use std::path::Path;

use anyhow::anyhow;
use jiff::Timestamp;
use serde::Serialize;

use super::failure::Failure;
use super::kill::origin;
use super::words::between;
use super::{inside_session, open_state, ui};
use crate::model::{BudgetView, LimitChange, SCHEMA_VERSION, SessionId, SessionState, SessionView};
use crate::session::control::change_limit;
use crate::session::resume::resume_line;
use crate::store::StateDir;

/// Show what a session may spend, or change it while it runs
///
/// +5usd raises the limit of that unit, 10usd sets it; the limits of other units stay, and nothing goes above the policy. Shares of a raised
/// limit are told again. An ended session is resumed with another limit instead; the line for that is printed.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The session's id, or its first digits
    id: String,

    /// How much more, or the limit itself, in dollars, tokens or requests: +5usd, 10usd, +2Mtok, 300req
    #[arg(value_name = "+AMOUNT|AMOUNT", allow_hyphen_values = true)]
    amount: Option<LimitChange>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    session: SessionId,
    budgets: &'a [BudgetView],
}

/// Shows or changes the limits.
pub(super) fn run(args: &Args) -> Result<u8, Failure> {
    if args.amount.is_some() && inside_session().is_some() {
        return Err(Failure::inside("change a budget"));
    }
    let state = open_state()?;
    let view = state.find(&args.id)?;
    let budgets = match args.amount {
        Some(change) => changed(&state, &view, change)?,
        None => view.budgets.clone(),
    };
    if args.json {
        ui::print_json(&Document { schema_version: SCHEMA_VERSION, session: view.id, budgets: &budgets })?;
    } else if budgets.is_empty() {
        ui::print(&format!("{}  no limit\n", view.short_id))?;
    } else {
        for budget in &budgets {
            ui::print(&format!("{}  {} ({} %)\n", view.short_id, budget.words(), budget.percent))?;
        }
    }
    Ok(0)
}

fn changed(state: &StateDir, view: &SessionView, change: LimitChange) -> Result<Vec<BudgetView>, Failure> {
    let fail = |why: String, hint: Option<String>| Failure::command(anyhow!("change the budget of session {}: {why}", view.short_id), hint);
    match view.state {
        SessionState::Stopped | SessionState::Crashed => return Err(ended(view, change)),
        // Its supervisor stands still too, and hears nothing.
        SessionState::Paused => return Err(fail("it is paused".to_owned(), Some("continue it first, with fg".to_owned()))),
        SessionState::Starting | SessionState::Running | SessionState::Stopping => {}
    }
    change_limit(&state.session(view.id).control_socket(), change, origin()).map_err(|error| {
        let why = format!("{:#}", anyhow::Error::new(error));
        // It may have ended between the look and the asking.
        let now = state.find(&view.id.to_string()).ok().filter(|now| matches!(now.state, SessionState::Stopped | SessionState::Crashed));
        now.map_or_else(|| fail(why, None), |now| ended(&now, change))
    })
}

/// It has ended: how to go on with it under such a limit.
fn ended(view: &SessionView, change: LimitChange) -> Failure {
    let how = view.stop_reason.map_or("ended", |reason| reason.describe());
    let when = view.ended_at.map(|at| format!(", {} ago", between(at, Timestamp::now()))).unwrap_or_default();
    let own = view.budgets.iter().filter_map(BudgetView::as_limit).find(|limit| limit.kind() == change.kind());
    let flags: Vec<String> = change.apply(own).map(|limit| format!("--budget {}", limit.typed())).into_iter().collect();
    let is_claude = view.command.first().is_some_and(|program| Path::new(program).file_name().is_some_and(|name| name == "claude"));
    let error = anyhow!("change the budget of session {}: it has ended ({how}{when})", view.short_id);
    Failure::command(error, Some(resume_line(view, &flags, is_claude)))
}
