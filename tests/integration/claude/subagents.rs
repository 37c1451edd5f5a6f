//! Several conversations of the real client at once: one budget for all of them, and limits on how many and how deep.

use std::time::Duration;

use sentrely::simulated::{Answer, Outcome, Record, Script, When, WhenThread};
use serde_json::json;

use super::{supervised, the_view, upstream, usd, world};
use crate::support::claude::Claude;

const OPUS: &str = "claude-opus-5-5";
const AUTO: &str = "--dangerously-skip-permissions";

/// One turn that starts so many subagents.
fn parts(count: u32) -> Answer {
    let part = |n: u32| json!({ "description": "Do a part", "prompt": format!("do part {n}"), "subagent_type": "general-purpose" });
    (1..=count).fold(Answer::text("In parts."), |answer, n| answer.and_tool("Agent", part(n)))
}

fn of_subagents(records: &[Record]) -> Vec<&Record> {
    records.iter().filter(|record| record.header("x-claude-code-agent-id").is_some()).collect()
}

/// How many of these were answered at the same time, at most.
fn at_once(records: &[&Record]) -> usize {
    let under_way = |at| records.iter().filter(|other| other.arrived_at <= at && at < other.ended_at.unwrap()).count();
    records.iter().map(|record| under_way(record.arrived_at)).max().unwrap_or(0)
}

#[test]
fn parallel_subagents_spend_from_one_budget_and_are_all_cut_at_its_end() {
    for claude in Claude::both() {
        let env = world();
        // 120 kB at four bytes a token: $0.60 each, of which the budget has room for one and a half.
        let long = Answer::filler(600, 200).event_every(Duration::from_millis(4));
        let script = Script::default().whenever(When::thread(WhenThread::Subagent), long).then([parts(4), Answer::text("done")]);
        let upstream = upstream(script);
        let args = ["-p", "work", "--model", OPUS, AUTO];
        let output = supervised(&env, &claude, &["--budget", "1usd"], &args).upstream(&upstream).run().exits(121);
        let messages = upstream.messages();
        let subagents = of_subagents(&messages);
        assert!(at_once(&subagents) >= 2, "{}: they ran at once\n{}", claude.name(), output.stderr);
        assert!(subagents.iter().filter(|record| record.outcome == Some(Outcome::ClientGone)).count() >= 2, "{subagents:?}");
        // What was booked, and what went over the wire.
        let spent = usd(the_view(&env)["cost_usd"].as_str().unwrap());
        assert!((usd("0.90")..=usd("1.01")).contains(&spent), "{}: {spent}", claude.name());
        let sent: u64 = subagents.iter().map(|record| record.answer_bytes).sum();
        assert!(sent < 4 * 120_000, "none of it came whole four times: {sent}");
        let stop = super::time_of(&env, &env.the_session(), "stop_requested");
        assert!(messages.iter().all(|record| record.arrived_at <= stop), "nothing went out after it");
    }
}

#[test]
fn a_limit_on_subagents_at_once_is_held() {
    for claude in Claude::both() {
        // The control runs them together.
        for (flags, most) in [(&["--config", "loops.subagents=1"][..], 1), (&[], 3)] {
            let env = world();
            let answer = Answer::text("part done").first_byte_after(Duration::from_millis(700));
            let script =
                Script::default().whenever(When::thread(WhenThread::Subagent), answer).then([parts(3)]).otherwise(Answer::text("done"));
            let upstream = upstream(script);
            let output = supervised(&env, &claude, flags, &["-p", "work", AUTO]).upstream(&upstream).run().success();
            let messages = upstream.messages();
            let subagents = of_subagents(&messages);
            let seen = at_once(&subagents);
            assert!(
                !subagents.is_empty() && if flags.is_empty() { seen > 1 } else { seen == most },
                "{}: {seen}\n{}",
                claude.name(),
                output.stderr
            );
        }
    }
}

#[test]
fn a_limit_on_the_depth_of_subagents_is_held() {
    let Some(claude) = Claude::v330() else { return };
    for (flags, reached) in [(&["--config", "loops.subagent_depth=1"][..], false), (&[], true)] {
        let env = world();
        let inner = json!({ "description": "Go deeper", "prompt": "the inner part", "subagent_type": "general-purpose" });
        let script = Script::default()
            .whenever(When::prompt("the inner part"), Answer::text("inner done"))
            .when(When::thread(WhenThread::Subagent), [Answer::tool("Agent", inner)])
            .whenever(When::thread(WhenThread::Subagent), Answer::text("outer done"))
            .then([parts(1)])
            .otherwise(Answer::text("done"));
        let upstream = upstream(script);
        let output = supervised(&env, &claude, flags, &["-p", "work", AUTO]).upstream(&upstream).run().success();
        let messages = upstream.messages();
        let agents: std::collections::BTreeSet<_> = messages.iter().filter_map(|record| record.header("x-claude-code-agent-id")).collect();
        assert_eq!(agents.len(), 1 + usize::from(reached), "{flags:?}\n{}", output.stderr);
    }
}
