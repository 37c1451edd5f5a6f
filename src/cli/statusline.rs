//! `sentrely statusline`: the session in one line, for Claude Code's status line; then the user's own.
//!
//! Claude Code runs it again and again, so it is quick (no clap, no runtime, one small file) and never fails: without a session, with a
//! missing or half-written file, it leaves our line out. The user's own command, if there was one, gets the standard input untouched and
//! prints below; what it exits with is no affair of the client's.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use jiff::Timestamp;

use super::words::clean;
use crate::model::{BillingKind, BudgetView, LimitKind, SessionView, show_duration, time_to_limit};
use crate::store::SessionDir;

/// What the client draws around the line.
const MARGIN: usize = 4;
/// Where the client does not say how wide its terminal is.
const DEFAULT_COLUMNS: usize = 100;
/// Cells of the bar.
const CELLS: u32 = 10;

/// Prints the line and gives way to the user's own command. `words` are those of the command line, from `statusline` on: the session's directory,
/// and the user's command. `None` if the command line is another one.
pub fn run(words: impl IntoIterator<Item = OsString>) -> Option<u8> {
    let mut words = words.into_iter().skip(1);
    if words.next()? != "statusline" {
        return None;
    }
    let (dir, theirs) = (words.next(), words.next());
    let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok()).unwrap_or(DEFAULT_COLUMNS);
    let color = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if let Some(view) = dir.as_ref().and_then(|dir| read(Path::new(dir))) {
        let mut out = std::io::stdout();
        // Nobody reads it any more: nothing to do about it.
        let _ = writeln!(out, "{}", line(&view, Timestamp::now(), columns, color)).and_then(|()| out.flush());
    }
    if let Some(command) = theirs.filter(|command| !command.is_empty()) {
        // In a shell of its own, so that its `exit` does not decide ours.
        let _ = Command::new("/bin/sh").args(["-c", "(eval \"$1\"); exit 0", "sh"]).arg(command).exec();
    }
    Some(0)
}

fn read(dir: &Path) -> Option<SessionView> {
    SessionDir::at(dir).ok()?.snapshot()
}

/// The line: what matters most first; what does not fit is left out from the end.
fn line(view: &SessionView, now: Timestamp, columns: usize, color: bool) -> String {
    let view = view.clone().at(now);
    let mut parts = vec![spent(&view)];
    parts.extend(
        view.quota.as_ref().map(|quota| clean(&quota.words())).filter(|words| !words.is_empty()).map(|words| format!("quota {words}")),
    );
    parts.extend(list_price(&view));
    parts.extend(view.context.percent.map(|percent| format!("context {percent} %")));
    parts.extend(pace(&view));
    parts.extend(view.aws.as_ref().map(|aws| {
        let left = u64::try_from(aws.expires_at.duration_since(now).as_secs()).unwrap_or(0);
        format!("AWS {}", show_duration(std::time::Duration::from_secs(left)))
    }));
    parts.extend(view.branch.as_deref().map(clean));
    let mut text = String::from("sentrely ");
    for (number, part) in parts.iter().enumerate() {
        let joint = if number == 0 { "" } else { " · " };
        if number > 0 && text.chars().count() + joint.chars().count() + part.chars().count() + MARGIN > columns {
            continue;
        }
        text.extend([joint, part]);
    }
    let code = match worst(&view).map(|budget| budget.percent) {
        Some(95..) => "31",
        Some(80..) => "33",
        _ => "2",
    };
    if color { format!("\x1b[{code}m{text}\x1b[0m") } else { text }
}

fn worst(view: &SessionView) -> Option<&BudgetView> {
    // Of several the first, which is one of its own.
    view.budgets.iter().rev().max_by_key(|budget| budget.percent)
}

fn spent(view: &SessionView) -> String {
    let Some(budget) = worst(view) else { return view.spent_words(false) };
    let full = (budget.percent.min(100) * CELLS / 100) as usize;
    let bar = format!("{}{}", "█".repeat(full), "░".repeat(CELLS as usize - full));
    format!("{bar} {} % · {}", budget.percent, view.budget_words(budget))
}

/// What a subscription's limit in tokens does not say.
fn list_price(view: &SessionView) -> Option<String> {
    let told = worst(view).is_none_or(|budget| budget.kind == LimitKind::Usd);
    (view.billing.kind == BillingKind::Subscription && !told).then(|| view.cost_words())
}

fn pace(view: &SessionView) -> Option<String> {
    let left = time_to_limit(view)?;
    Some(format!("{}/h, limit in {}", view.burn_usd_per_hour.show(), show_duration(left)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AwsView, Event, Quota, QuotaWindow, Record, RequestId, Thread, Usage, fixture};

    fn view() -> SessionView {
        let mut view = fixture::session();
        view.branch = Some("sentrely/ana/fix-9f3a".into());
        view.billing.kind = BillingKind::Key;
        view.cost_usd = "4.1".parse().unwrap();
        view.budgets = vec![BudgetView { kind: LimitKind::Usd, limit: "5".into(), used: "4.1".into(), percent: 82, shared: None }];
        view.context.percent = Some(34);
        view
    }

    #[test]
    fn the_line_says_what_is_spent_and_the_rest_as_far_as_it_fits() {
        let line = |columns, color| line(&view(), Timestamp::UNIX_EPOCH, columns, color);
        let whole = "sentrely ████████░░ 82 % · $4.10 of $5.00 · context 34 % · sentrely/ana/fix-9f3a";
        assert_eq!(line(120, false), whole);
        assert_eq!(line(70, false), "sentrely ████████░░ 82 % · $4.10 of $5.00 · context 34 %");
        assert_eq!(line(10, false), "sentrely ████████░░ 82 % · $4.10 of $5.00");
        assert_eq!(line(120, true), format!("\x1b[33m{whole}\x1b[0m"));
    }

    #[test]
    fn an_estimate_is_marked_and_the_pace_and_the_role_s_time_are_told() {
        let mut view = view();
        (view.branch, view.cost_usd) = (None, "3.8".parse().unwrap());
        let now = Timestamp::from_second(3_600).unwrap();
        // 0.30 USD in the last ten minutes; 0.90 are left.
        let settled = Event::RequestSettled {
            request: RequestId(1),
            thread: Thread::Auxiliary,
            model: "new".into(),
            usage: Usage { output: 1, ..Usage::default() },
            cost: "0.3".parse().unwrap(),
            estimated: true,
            lost: false,
            message_id: None,
            window: None,
        };
        view.apply(&Record { v: 1, seq: 2, at: Timestamp::from_second(3_500).unwrap(), prev: String::new(), event: settled });
        view.aws = Some(AwsView {
            role_arn: "arn".into(),
            role_session_name: "ana".into(),
            delivery: "endpoint".into(),
            expires_at: Timestamp::from_second(3_600 + 42 * 60 + 5).unwrap(),
        });
        let expected = "sentrely ████████░░ 82 % · ~$4.10 of $5.00 · context 34 % · $1.80/h, limit in 30 min · AWS 42 min";
        assert_eq!(line(&view, now, 150, false), expected);
        // An hour later nothing was spent for long, and the role has run out.
        let later = Timestamp::from_second(7_200).unwrap();
        assert_eq!(line(&view, later, 150, false), "sentrely ████████░░ 82 % · ~$4.10 of $5.00 · context 34 % · AWS 0 s");
    }

    #[test]
    fn a_subscription_is_told_in_tokens_with_its_quota_and_its_dollars_as_not_billed() {
        let mut view = view();
        (view.billing.kind, view.branch, view.context.percent) = (BillingKind::Subscription, None, None);
        view.tokens.input = 1_200_000;
        let window = |window: &str, percent| QuotaWindow { window: window.into(), percent: Some(percent), ..QuotaWindow::default() };
        view.quota = Some(Quota { windows: vec![window("5h", 42), window("7d", 13)], ..Quota::default() });
        view.budgets.clear();
        let line = |view: &SessionView| line(view, Timestamp::UNIX_EPOCH, 150, false);
        assert_eq!(line(&view), "sentrely 1.2M tokens, $4.10 (list price, not billed) · quota 5h 42 %, 7d 13 %");
        view.budgets =
            vec![BudgetView { kind: LimitKind::Tokens, limit: "2000000".into(), used: "1200000".into(), percent: 60, shared: None }];
        let expected = "sentrely ██████░░░░ 60 % · 1.2M of 2M tokens · quota 5h 42 %, 7d 13 % · $4.10 (list price, not billed)";
        assert_eq!(line(&view), expected);
    }

    #[test]
    fn a_file_that_is_missing_or_half_written_is_no_line() {
        let root = tempfile::tempdir().unwrap();
        let view = view();
        let dir = SessionDir::at(&root.path().join(view.id.to_string())).unwrap();
        assert!(read(dir.path()).is_none());
        dir.create().unwrap();
        dir.write_status(&view).unwrap();
        assert!(read(dir.path()).is_some());
        let file = dir.path().join("status.json");
        let whole = std::fs::read(&file).unwrap();
        std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
        assert!(read(dir.path()).is_none());
    }

    #[test]
    fn another_command_is_not_ours() {
        let run = |words: &[&str]| run(words.iter().map(OsString::from));
        assert_eq!((run(&["sentrely", "ls"]), run(&["sentrely"])), (None, None));
        assert_eq!(run(&["sentrely", "statusline", "/nonexistent/status.json"]), Some(0));
        assert_eq!(run(&["sentrely", "statusline"]), Some(0));
    }
}
