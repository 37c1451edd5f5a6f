//! `sentrely ls`: the sessions, as a table, as ids or as JSON.

use anyhow::anyhow;
use jiff::Timestamp;

use super::failure::Failure;
use super::words::{between, clean, command_line, cut, tone, word};
use super::{finish, open_state, ui};
use crate::model::{SessionList, SessionState, SessionView, StopReason};

/// How much of a command the table shows.
const COMMAND_WIDTH: usize = 40;

/// List sessions
///
/// Without options: the sessions that live, those that left something when they ended, and those that crashed and are cleared up after now.
/// Newest first.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// List ended sessions too
    #[arg(short, long)]
    all: bool,

    /// Print ids only
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// List only sessions whose field has this value; a state may be one that only -a lists
    ///
    /// Fields: state, developer, project, branch, workspace, host, billing, stop-reason. Several filters must all hold.
    #[arg(long, value_name = "FIELD=VALUE", value_parser = Filter::parse)]
    filter: Vec<Filter>,
}

/// Lists the sessions.
pub(super) fn run(args: &Args) -> Result<u8, Failure> {
    let now = Timestamp::now();
    let all = args.all || args.filter.iter().any(|filter| matches!(filter.field, Field::State | Field::StopReason));
    let state = open_state()?;
    let swept = finish::at_look(&state);
    let sessions: Vec<SessionView> = state
        .sessions()?
        .into_iter()
        .filter(|view| all || view.is_current() || swept.iter().any(|swept| swept.id == view.id))
        .filter(|view| args.filter.iter().all(|filter| filter.holds(view)))
        .map(|view| view.at(now))
        .collect();
    if args.json {
        ui::print_json(&SessionList::of(&sessions))?;
    } else if args.quiet {
        ui::print(&sessions.iter().flat_map(|view| [view.short_id.as_str(), "\n"]).collect::<String>())?;
    } else if sessions.is_empty() {
        ui::say(if all { "no sessions" } else { "no sessions are running (`sentrely ls -a` lists ended ones)" });
    } else {
        ui::print(&tell(&sessions, now))?;
    }
    Ok(0)
}

/// A table; how it ended is a column where anything has.
fn tell(sessions: &[SessionView], now: Timestamp) -> String {
    let rows = |view: &SessionView| (row(view, now), tone(view.state));
    let [id, state, developer, project, branch, pays, cost, context, age, command] =
        ["ID", "STATE", "DEVELOPER", "PROJECT", "BRANCH", "PAYS", "COST", "CONTEXT", "AGE", "COMMAND"];
    if sessions.iter().all(|view| ended(view).is_empty()) {
        let header = [id, state, developer, project, branch, pays, cost, context, age, command];
        return ui::table(header, sessions.iter().map(rows).collect(), 1);
    }
    let header = [id, state, "ENDED", developer, project, branch, pays, cost, context, age, command];
    let rows = sessions.iter().map(|view| {
        let ([id, state, developer, project, branch, pays, cost, context, age, command], tone) = rows(view);
        ([id, state, ended(view), developer, project, branch, pays, cost, context, age, command], tone)
    });
    ui::table(header, rows.collect(), 1)
}

/// Why, and with which exit code: `killed, 122`, `the supervisor died, 125`.
fn ended(view: &SessionView) -> String {
    let Some(reason) = view.stop_reason.filter(|_| matches!(view.state, SessionState::Stopped | SessionState::Crashed)) else {
        return String::new();
    };
    let why = match (reason, &view.stop_note) {
        (StopReason::Crashed, Some(note)) => clean(note),
        (StopReason::Crashed, None) => "its supervisor died".to_owned(),
        _ => reason.describe().to_owned(),
    };
    let code = view.exit_code.map(|code| format!(", {code}")).unwrap_or_default();
    let left = if view.survivors.is_empty() { "" } else { ", SOMETHING IS LEFT" };
    format!("{why}{code}{left}")
}

fn row(view: &SessionView, now: Timestamp) -> [String; 10] {
    let dash = || "-".to_owned();
    [
        view.short_id.clone(),
        word(&view.state),
        clean(&view.developer),
        clean(&view.project),
        view.branch.as_deref().map_or_else(dash, clean),
        payer(view),
        view.spent_words(false),
        view.context.percent.map_or_else(dash, |percent| format!("{percent}%")),
        between(view.started_at, now),
        cut(&command_line(&view.command), COMMAND_WIDTH),
    ]
}

/// `key …a1b2`.
fn payer(view: &SessionView) -> String {
    let last4 = view.billing.last4.as_ref().map(|last4| format!(" …{}", clean(last4))).unwrap_or_default();
    format!("{}{last4}", word(&view.billing.kind))
}

/// `field=value`.
#[derive(Debug, Clone)]
struct Filter {
    field: Field,
    value: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    State,
    Developer,
    Project,
    Branch,
    Workspace,
    Host,
    Billing,
    StopReason,
}

impl Filter {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let (name, value) = text.split_once('=').ok_or_else(|| anyhow!("read `{text}` as a filter: expected FIELD=VALUE"))?;
        let field = match name {
            "state" => Field::State,
            "developer" => Field::Developer,
            "project" => Field::Project,
            "branch" => Field::Branch,
            "workspace" => Field::Workspace,
            "host" => Field::Host,
            "billing" => Field::Billing,
            "stop-reason" | "stop_reason" => Field::StopReason,
            _ => {
                let known = "state, developer, project, branch, workspace, host, billing or stop-reason";
                return Err(anyhow!("filter by `{name}`: expected {known}"));
            }
        };
        Ok(Self { field, value: value.to_owned() })
    }

    fn holds(&self, view: &SessionView) -> bool {
        match self.field {
            Field::State => word(&view.state) == self.value,
            Field::Developer => view.developer == self.value,
            Field::Project => view.project == self.value,
            Field::Branch => view.branch.as_deref() == Some(&self.value),
            Field::Workspace => word(&view.workspace) == self.value,
            Field::Host => view.host == self.value,
            Field::Billing => word(&view.billing.kind) == self.value,
            Field::StopReason => view.stop_reason.is_some_and(|reason| word(&reason) == self.value),
        }
    }
}
