//! A session that a Claude subscription pays for: tokens first, dollars marked, and the allowance that the API tells.

use sentrely::model::Usage;
use sentrely::simulated::{Answer, Script};
use serde_json::{Value, json};

use super::{SOON, supervised, the_view, upstream, world};
use crate::support::claude::{Claude, at_the_prompt};
use crate::support::pty::{Key, Terminal};

const LIST_PRICE: &str = "(list price, not billed)";

/// Uses 1.2k tokens, and tells an allowance of which the greater part is used.
fn answer(text: &str) -> Answer {
    let headers = [
        ("status", "allowed_warning"),
        ("representative-claim", "five_hour"),
        ("reset", "1999999000"),
        ("5h-status", "allowed_warning"),
        ("5h-utilization", "0.82"),
        ("5h-reset", "1999999000"),
        ("5h-surpassed-threshold", "0.75"),
        ("7d-status", "allowed"),
        ("7d-utilization", "0.13"),
        ("7d-reset", "2000000000"),
    ];
    let answer = Answer::text(text).usage(Usage { input: 1_000, output: 200, ..Usage::default() });
    headers.into_iter().fold(answer, |answer, (name, value)| answer.header(format!("anthropic-ratelimit-unified-{name}"), value))
}

#[test]
fn its_dollars_are_list_prices_everywhere_and_its_allowance_is_read_and_passed_on() {
    for claude in Claude::both() {
        let env = world();
        env.claude_login();
        let upstream = upstream([answer("That is all.")]);
        let args = ["-p", "work", "--output-format", "stream-json", "--verbose"];
        let output = supervised(&env, &claude, &[], &args).var("ANTHROPIC_BASE_URL", upstream.url()).run().success();
        assert!(output.stderr.contains("no limit in dollars on a subscription"), "{}", output.stderr);
        assert!(output.stderr.contains("cost      1.2k tokens, $0.0") && output.stderr.contains(LIST_PRICE), "{}", output.stderr);
        // The client makes an event of it: the headers reached it.
        let events = output.stdout.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let told = events.filter(|event| event["type"] == "rate_limit_event").map(|event| event["rate_limit_info"]["utilization"].clone());
        assert_eq!(told.collect::<Vec<_>>(), [json!(0.82)], "{}: {}", claude.name(), output.stdout);

        let id = env.the_session();
        let document = env.sentrely(&["show", "--json", &id[..8]]).run().success().json();
        let window = |window: &str, status: &str, percent: u32, resets_at: &str| json!({ "window": window, "status": status, "percent": percent, "resets_at": resets_at });
        let windows =
            json!([window("5h", "allowed_warning", 82, "2033-05-18T03:16:40Z"), window("7d", "allowed", 13, "2033-05-18T03:33:20Z"),]);
        let quota = json!({ "status": "allowed_warning", "claim": "five_hour", "resets_at": "2033-05-18T03:16:40Z", "windows": windows });
        assert_eq!(document["details"]["quota"], quota);
        let shown = env.sentrely(&["show", &id[..8]]).run().success().stdout;
        assert!(shown.contains("quota       5h: 82 % used (allowed_warning), until 2033-05-18 03:16:40"), "{shown}");
        assert!(shown.lines().any(|line| line.contains("cost  ") && line.contains(LIST_PRICE)), "{shown}");
        assert!(shown.contains("paid by     Claude subscription …0000 (prices are list price, not billed)"), "{shown}");
        let logged = env.sentrely(&["log", &id[..8]]).run().success().stdout;
        let costs = |line: &&str| line.contains("request #1 cost") || line.contains("request #1 let through");
        assert_eq!(logged.lines().filter(costs).filter(|line| line.ends_with(LIST_PRICE)).count(), 2, "{logged}");
        assert!(logged.contains("quota of the subscription: 5h 82 % (allowed_warning), 7d 13 %"), "{logged}");
        let listed = env.sentrely(&["ls", "-a"]).run().success().stdout;
        assert!(listed.contains("subscription …0000") && listed.contains("1.2k tokens, $0.0") && listed.contains(LIST_PRICE), "{listed}");
    }
}

#[test]
fn the_status_line_and_the_notices_mark_its_dollars_and_show_the_allowance() {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    env.claude_login();
    let upstream = upstream(Script::default().otherwise(answer("That is all.").costing("0.60".parse().unwrap())));
    // A limit in dollars is one at list price.
    let run = supervised(&env, &claude, &["--budget", "1usd"], &["--model", "claude-opus-5-5"]);
    let mut terminal = Terminal::spawn(&run.var("ANTHROPIC_BASE_URL", upstream.url()));
    terminal.wait_for_screen(SOON, "the prompt", at_the_prompt);
    terminal.type_text("first");
    terminal.wait_for_text(SOON, "first");
    terminal.press(Key::Enter);
    let _ = terminal.wait_for_text(SOON, "sentrely: 50 % of the budget is used: $0.60 of $1.00 (list price, not billed)");
    let _ = terminal.wait_for_text(SOON, "sentrely: 82 % of the subscription's 5h quota is used; it begins anew in");
    let _ = terminal.wait_for_text(SOON, "60 % · $0.60 of $1.00 (list price, not billed) · quota 5h 82 % (allowed_warning), 7d 13 %");
    assert_eq!(the_view(&env)["billing"]["kind"], "subscription");
}
