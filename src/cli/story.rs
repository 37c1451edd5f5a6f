//! The journal in words: one calm line an event. What the agent chose (branches, refs, models) is made safe to print.

use super::words::{clean, command_line, millis, tokens};
use crate::model::{BudgetView, Event, LimitKind, Share, Thread, billing_changed, limits_set};

/// Every kind of event, as `--kind` and the journal's `kind` name it.
pub(super) const KINDS: [&str; 37] = [
    "session_created",
    "attempt_started",
    "child_started",
    "paused",
    "continued",
    "aws_minted",
    "aws_lost",
    "claude_session",
    "request_admitted",
    "ceiling_raised",
    "request_settled",
    "limits_set",
    "shared_limits_seen",
    "billing_changed",
    "quota_seen",
    "quota_threshold",
    "request_refused",
    "threshold",
    "compaction",
    "compacted",
    "context_threshold",
    "context_thrash",
    "malformed",
    "push_accepted",
    "push_kept",
    "push_refused",
    "host_refused",
    "protected_moved",
    "pull_request",
    "meter_bypass",
    "stop_requested",
    "stage",
    "work_saved",
    "work_not_saved",
    "notice",
    "attempt_ended",
    "survivors_gone",
];

/// The event's kind.
pub(super) const fn kind(event: &Event) -> &'static str {
    match event {
        Event::SessionCreated { .. } => "session_created",
        Event::AttemptStarted { .. } => "attempt_started",
        Event::ChildStarted { .. } => "child_started",
        Event::Paused => "paused",
        Event::Continued => "continued",
        Event::AwsMinted { .. } => "aws_minted",
        Event::AwsLost { .. } => "aws_lost",
        Event::ClaudeSession { .. } => "claude_session",
        Event::RequestAdmitted { .. } => "request_admitted",
        Event::CeilingRaised { .. } => "ceiling_raised",
        Event::RequestSettled { .. } => "request_settled",
        Event::LimitsSet { .. } => "limits_set",
        Event::SharedLimitsSeen { .. } => "shared_limits_seen",
        Event::BillingChanged { .. } => "billing_changed",
        Event::QuotaSeen { .. } => "quota_seen",
        Event::QuotaThreshold { .. } => "quota_threshold",
        Event::RequestRefused { .. } => "request_refused",
        Event::Threshold { .. } => "threshold",
        Event::Compaction { .. } => "compaction",
        Event::Compacted { .. } => "compacted",
        Event::ContextThreshold { .. } => "context_threshold",
        Event::ContextThrash { .. } => "context_thrash",
        Event::Malformed { .. } => "malformed",
        Event::PushAccepted { .. } => "push_accepted",
        Event::PushKept { .. } => "push_kept",
        Event::PushRefused { .. } => "push_refused",
        Event::HostRefused { .. } => "host_refused",
        Event::ProtectedMoved { .. } => "protected_moved",
        Event::PullRequest { .. } => "pull_request",
        Event::MeterBypass { .. } => "meter_bypass",
        Event::StopRequested { .. } => "stop_requested",
        Event::Stage { .. } => "stage",
        Event::WorkSaved { .. } => "work_saved",
        Event::WorkNotSaved { .. } => "work_not_saved",
        Event::Notice { .. } => "notice",
        Event::AttemptEnded { .. } => "attempt_ended",
        Event::SurvivorsGone { .. } => "survivors_gone",
    }
}

/// What happened, in words.
pub(super) fn tell(event: &Event) -> String {
    match event {
        Event::SessionCreated { developer, project, branch, .. } => {
            let branch = branch.as_ref().map(|branch| format!(" on {}", clean(branch))).unwrap_or_default();
            format!("session created for {} in {}{branch}", clean(developer), clean(project))
        }
        Event::AttemptStarted { attempt, pid, host, command, billing, wall, .. } => {
            let (host, command, payer) = (clean(host), command_line(command), clean(&billing.words()));
            format!("attempt {attempt} on {host} (pid {pid}): {command}; paid by {payer}; wall: {}", clean(wall))
        }
        Event::ChildStarted { pid, .. } => format!("the command runs (pid {pid})"),
        Event::Paused => "stopped by the shell: the time limit pauses".to_owned(),
        Event::Continued => "continued".to_owned(),
        Event::AwsMinted { role_arn, access_key_id, expires_at, .. } => {
            format!("AWS identity {} ({access_key_id}) until {}", clean(role_arn), super::words::clock(*expires_at))
        }
        Event::AwsLost { why } => format!("AWS identity lost: {}", clean(why)),
        Event::ClaudeSession { id } => format!("Claude Code speaks as session {}", clean(id)),
        Event::RequestAdmitted { request, thread, model, ceiling, .. } => {
            format!("request {request} let through: {}{}, at most {}", clean(model), of_thread(thread), ceiling.show())
        }
        Event::CeilingRaised { request, ceiling, .. } => {
            format!("request {request} may cost more than was known: at most {}", ceiling.show())
        }
        Event::RequestSettled { request, thread, model, usage, cost, estimated, lost, .. } => {
            let doubt = match (lost, estimated) {
                (true, _) => " (answer lost: booked at what it may have cost)",
                (false, true) => " (estimated)",
                (false, false) => "",
            };
            let (prompt, output) = (tokens(usage.prompt()), tokens(usage.output));
            format!("request {request} cost {}{doubt}: {}{}, {prompt} in, {output} out", cost.show(), clean(model), of_thread(thread))
        }
        Event::LimitsSet { budgets, by, from } => clean(&limits_set(budgets, by, from.as_deref())),
        Event::SharedLimitsSeen { budgets } => {
            format!("shared limits: {}", budgets.iter().map(BudgetView::words).collect::<Vec<_>>().join(", "))
        }
        Event::BillingChanged { billing, before } => clean(&billing_changed(billing, before)),
        Event::QuotaSeen { quota } => clean(&format!("quota of the subscription: {}", quota.words())),
        Event::QuotaThreshold { window, percent, used, .. } => {
            format!("{percent}% of the subscription's {} quota used ({used} %)", clean(window))
        }
        Event::RequestRefused { why } => format!("request refused: {}", clean(why)),
        Event::Threshold { percent, shared: Some(Share { scope, period }), .. } => {
            format!("{percent}% of the limit of the {} a {} used", super::words::word(scope), super::words::word(period))
        }
        Event::Threshold { limit, percent, shared: None } => format!("{percent}% of the {} budget used", unit(*limit)),
        Event::Compaction { .. } | Event::Compacted { .. } | Event::ContextThreshold { .. } | Event::ContextThrash { .. } => {
            super::context::tell(event).unwrap_or_default()
        }
        Event::Malformed { request, what } => format!("the answer to request {request} could not be read: {}", clean(what)),
        Event::PullRequest { url: Some(url), new, .. } => {
            format!("pull request {}: {}", if *new { "opened" } else { "brought up to date" }, clean(url))
        }
        Event::PullRequest { url: None, branch, .. } => format!("{} was pushed; no pull request was opened", clean(branch)),
        Event::PushAccepted { branch, commit } => format!("push accepted: {} at {}", clean(branch), short(commit)),
        Event::PushKept { branch, commit } => format!("push kept on this machine: {} at {}", clean(branch), short(commit)),
        Event::PushRefused { refs, why } => {
            format!("push refused: {}: {}", refs.iter().map(|name| clean(name)).collect::<Vec<_>>().join(", "), clean(why))
        }
        Event::HostRefused { host, why } => format!("{} is out of reach: {}", clean(host), clean(why)),
        Event::ProtectedMoved { place, name, before, after } => {
            let at = |commit: &Option<String>| commit.as_deref().map_or_else(|| "nothing".to_owned(), short);
            format!("{} of {} moved during the session: from {} to {}", clean(name), clean(place), at(before), at(after))
        }
        Event::MeterBypass { message_id, .. } => format!("message {} never passed the meter", clean(message_id)),
        Event::StopRequested { reason, by, from, note } => {
            let from = from.as_ref().map(|from| format!(" from {}", clean(from))).unwrap_or_default();
            let note = note.as_ref().map(|note| format!(": {}", clean(note))).unwrap_or_default();
            format!("stop asked for by {}{from} ({}){note}", clean(by), reason.describe())
        }
        Event::Stage { stage, ms } => format!("{} after {}", stage_name(stage), millis(*ms)),
        Event::WorkSaved { branch, commit, commits, wip } => {
            let at = commit.as_ref().map(|commit| format!(" at {}", short(commit))).unwrap_or_default();
            let wip = if *wip { ", uncommitted work in a commit of its own" } else { "" };
            format!("work saved: {}{at}, {}{wip}", clean(branch), super::words::counted(*commits, "commit", "commits"))
        }
        Event::WorkNotSaved { why, path } => format!("work not saved: {}; it lies in {}", clean(why), clean(path)),
        Event::Notice { what } => format!("note: {}", clean(what)),
        Event::AttemptEnded { reason, exit_code, processes_ended, survivors, .. } => {
            let ended = super::words::counted(u64::from(*processes_ended), "process", "processes");
            let left = if survivors.is_empty() { String::new() } else { format!("; STILL THERE: {}", clean(&survivors.join(", "))) };
            format!("ended: {} (exit code {exit_code}, {ended} ended){left}", reason.describe())
        }
        Event::SurvivorsGone { gone, left } => {
            let left = if left.is_empty() { String::new() } else { format!("; STILL THERE: {}", clean(&left.join(", "))) };
            format!("of what was left is gone: {}{left}", clean(&gone.join(", ")))
        }
    }
}

/// A commit's first digits.
pub(super) fn short(commit: &str) -> String {
    clean(commit).chars().take(12).collect()
}

/// A stage for people: `gate closed`.
pub(super) fn stage_name(stage: &str) -> String {
    clean(stage).replace('_', " ")
}

pub(super) fn of_thread(thread: &Thread) -> String {
    match thread {
        Thread::Main => String::new(),
        Thread::Agent(id) => format!(" for subagent {}", clean(id)),
        Thread::Auxiliary => " for an auxiliary request".to_owned(),
    }
}

const fn unit(limit: LimitKind) -> &'static str {
    match limit {
        LimitKind::Usd => "dollar",
        LimitKind::Tokens => "token",
        LimitKind::Requests => "request",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_event_can_be_asked_for() {
        // serde lists all variants when it knows none of that name.
        let error = serde_json::from_str::<Event>(r#"{"kind":"?"}"#).unwrap_err().to_string();
        let listed: Vec<&str> = error.split('`').skip(3).step_by(2).collect();
        assert_eq!(listed, KINDS);
    }

    #[test]
    fn a_stop_is_told_with_who_where_and_why() {
        let event = Event::StopRequested {
            reason: crate::model::StopReason::Killed,
            by: "ana".into(),
            from: Some("ci-7".into()),
            note: Some("wrong branch".into()),
        };
        assert_eq!((kind(&event), tell(&event).as_str()), ("stop_requested", "stop asked for by ana from ci-7 (killed): wrong branch"));
    }

    #[test]
    fn what_is_left_is_told_loudly() {
        let survivors = vec!["4720 sudo (setuid)".to_owned()];
        let event = Event::AttemptEnded {
            reason: crate::model::StopReason::Killed,
            exit_code: 122,
            processes_ended: 1,
            survivors,
            outcome: crate::model::Outcome::default(),
        };
        assert_eq!(tell(&event), "ended: killed (exit code 122, 1 process ended); STILL THERE: 4720 sudo (setuid)");
    }
}
