//! The context gauge on the real client: its subagents, its compactions, what fills its context, and the limit.

use std::path::{Path, PathBuf};

use sentrely::model::Usage;
use sentrely::simulated::{Answer, Script, Upstream, When, WhenThread};
use serde_json::{Value, json};

use super::{SOON, running, supervised, the_view, upstream, world};
use crate::support::claude::{Claude, at_the_prompt};
use crate::support::components::Component;
use crate::support::env::TestEnv;
use crate::support::pty::{Key, Terminal};
use crate::support::run::wait_until;

const AUTO: &str = "--dangerously-skip-permissions";
/// A model with a window of 200,000 tokens.
const SONNET: &str = "claude-sonnet-4-6";
const SUMMARY: &str = "<analysis>All of it.</analysis>\n<summary>The user asked for work, and it was begun.</summary>";

/// A prompt of so many tokens, mostly from the cache.
fn prompt(tokens: u64) -> Usage {
    Usage { input: 100, cache_read: tokens - 300, cache_write_5m: 200, output: 20, ..Usage::default() }
}

/// The request for a summary is answered with one; the rest as told.
fn compacting(answers: impl IntoIterator<Item = Answer>) -> Script {
    let summary = Answer::text(SUMMARY).usage(prompt(165_000));
    Script::default().whenever(When::prompt("CRITICAL: Respond with TEXT ONLY"), summary).then(answers)
}

fn show(env: &TestEnv, args: &[&str]) -> Value {
    let id = env.the_session();
    env.sentrely(&[&["show", &id, "--json"], args].concat()).run().success().json()
}

/// `kind` and what matters of each event of the gauge.
fn told(env: &TestEnv) -> Vec<Value> {
    let events = env.journal(&env.the_session()).into_iter().map(|mut line| line["event"].take());
    let of_the_gauge =
        |event: &Value| ["compaction", "compacted", "context_threshold", "context_thrash"].contains(&event["kind"].as_str().unwrap());
    events.filter(of_the_gauge).collect()
}

/// An MCP server in Python with two tools, and the configuration that names it.
fn shop(env: &TestEnv) -> PathBuf {
    let server = env.root().join("shop.py");
    std::fs::write(&server, SHOP).unwrap();
    let config = env.root().join("mcp.json");
    let servers = json!({ "mcpServers": { "shop": { "command": "python3", "args": [server] } } });
    std::fs::write(&config, servers.to_string()).unwrap();
    config
}

const SHOP: &str = r#"
import json, sys
schema = {"type": "object", "properties": {"sql": {"type": "string", "description": "the question " * 300}}}
tools = [{"name": name, "description": "Asks the shop. " * 20, "inputSchema": schema} for name in ("find", "sell")]
for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message: continue
    method, answer = message["method"], {}
    if method == "initialize":
        answer = {"protocolVersion": message["params"]["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": {"name": "shop", "version": "1"}}
    elif method == "tools/list": answer = {"tools": tools}
    elif method == "tools/call": answer = {"content": [{"type": "text", "text": "forty-two rows"}]}
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": answer}), flush=True)
"#;

/// A file to be read, and a memory file in the project.
fn files(env: &TestEnv) -> String {
    std::fs::write(env.project().join("CLAUDE.md"), "# Rules\nBe kind to the shop.\n".repeat(40)).unwrap();
    env.git(&["add", "-A"]);
    env.git(&["commit", "-qm", "rules"]);
    let big = env.root().join("package-lock.json");
    std::fs::write(&big, "a line of the lock file\n".repeat(1_500)).unwrap();
    big.to_str().unwrap().to_owned()
}

fn part<'a>(context: &'a Value, kind: &str, name: &str) -> &'a Value {
    let parts = context["parts"].as_array().unwrap();
    parts.iter().find(|part| part["kind"] == kind && part["name"] == name).unwrap_or_else(|| panic!("no {kind} {name} in {parts:#?}"))
}

fn names_what_fills_it(claude: &Claude, load_the_tools: Option<Answer>) {
    crate::needs!(Component::Program("python3"));
    let env = world();
    let big = files(&env);
    let config = shop(&env);
    let read = |limit: u64| Answer::tool("Read", json!({"file_path": big, "offset": 1, "limit": limit}));
    let answers = [read(1_500), read(900)].into_iter().chain(load_the_tools).chain([Answer::bash("seq 100"), Answer::text("done")]);
    let upstream = upstream(Script::default().then(answers.map(|answer| answer.usage(prompt(40_000)))));
    let args = ["-p", "work on it", AUTO, "--model", SONNET, "--mcp-config", config.to_str().unwrap()];
    let _ = supervised(&env, claude, &[], &args).upstream(&upstream).run().success();

    let document = show(&env, &["--context"]);
    let context = &document["context"];
    assert_eq!((&context["prompt_tokens"], &context["window"], &context["percent"]), (&json!(40_000), &json!(200_000), &json!(20)));
    let parts = context["parts"].as_array().unwrap();
    assert_eq!(parts.iter().map(|part| part["tokens"].as_u64().unwrap()).sum::<u64>(), 40_000, "the parts add up to the API's number");
    let lock = parts.iter().find(|part| part["path"] == json!(big)).unwrap_or_else(|| panic!("{context:#}"));
    let reads = parts.iter().find(|part| part["kind"] == "tool_result" && part["path"] == json!(big)).unwrap();
    assert_eq!((&reads["name"], &reads["count"]), (&json!("Read"), &json!(2)), "{lock}");
    assert!(reads["bytes"].as_u64().unwrap() > 2_400 * 24, "{reads}");
    let server = part(context, "mcp", "shop");
    assert_eq!((&server["count"], &server["calls"]), (&json!(2), &json!(0)));
    let memory = part(context, "memory", "CLAUDE.md");
    assert!(memory["bytes"].as_u64().unwrap() >= 40 * 29, "{memory}");
    for (kind, name) in
        [("system", "prompt"), ("system", "reminders"), ("tools", ""), ("user", ""), ("tool_result", "Bash"), ("tool_call", "Read")]
    {
        assert!(part(context, kind, name)["bytes"].as_u64().unwrap() > 0, "{kind} {name}");
    }
    assert_eq!(context["read_again"][0]["path"], json!(big));
    let hints: Vec<&str> = context["hints"].as_array().unwrap().iter().map(|hint| hint.as_str().unwrap()).collect();
    assert!(
        hints.iter().any(|hint| hint.starts_with(&format!("{big} is ")) && hint.ends_with("of the context, read 2 times")),
        "{hints:?}"
    );
    assert!(
        hints.iter().any(|hint| hint.starts_with("2 MCP tool definitions of shop cost ") && hint.ends_with("were never called")),
        "{hints:?}"
    );

    // Nothing of what was said is kept, and nobody else can read what is.
    let file = env.session_dir(&env.the_session()).join("context.json");
    let kept = std::fs::read_to_string(&file).unwrap();
    for said in ["work on it", "a line of the lock", "Be kind", "Asks the shop", "seq 100"] {
        assert!(!kept.contains(said), "{said} is in {kept}");
    }
    assert_eq!(mode(&file), 0o600);
    let told = env.sentrely(&["show", &env.the_session(), "--context"]).run().success().stdout;
    super::tell(&told);
    assert!(told.contains("40k of 200k tokens (20%)") && told.contains("MCP shop (2 tools)") && told.contains("hint: "), "{told}");
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn what_fills_the_context_of_claude_2_1_330_is_named_tools_loaded_later_too() {
    let Some(claude) = Claude::v330() else { return };
    let load = Answer::tool("ToolSearch", json!({"query": "select:mcp__shop__find,mcp__shop__sell"}));
    names_what_fills_it(&claude, Some(load));
}

#[test]
fn what_fills_the_context_of_claude_2_1_197_is_named() {
    let Some(claude) = Claude::v197() else { return };
    names_what_fills_it(&claude, None);
}

#[test]
fn a_subagents_context_is_not_the_main_ones() {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    let sub = Answer::text("I have looked.").usage(prompt(110_000));
    let script = Script::default()
        .whenever(When::thread(WhenThread::Subagent), sub)
        .then([Answer::agent("look around").usage(prompt(30_000)), Answer::text("Well.").usage(prompt(31_000))])
        .otherwise(Answer::text("Done.").usage(prompt(32_000)));
    let upstream = upstream(script);
    let _ = supervised(&env, &claude, &[], &["-p", "work", AUTO, "--model", SONNET]).upstream(&upstream).run().success();
    let threads = show(&env, &[])["details"]["threads"].take();
    let threads = threads.as_array().unwrap();
    let agent = upstream.messages().iter().find_map(|record| record.header("x-claude-code-agent-id").map(str::to_owned)).unwrap();
    assert_eq!(threads.len(), 2, "{threads:?}");
    assert_eq!((&threads[0]["thread"], &threads[0]["peak_tokens"]), (&json!("main"), &threads[0]["tokens"]));
    assert!((30_000..=32_000).contains(&threads[0]["tokens"].as_u64().unwrap()), "{threads:?}");
    assert_eq!(
        (&threads[1]["thread"], &threads[1]["tokens"], &threads[1]["percent"]),
        (&json!({"agent": agent}), &json!(110_000), &json!(55))
    );
    assert_eq!(
        told(&env),
        [json!({"kind": "context_threshold", "thread": {"agent": agent}, "percent": 50, "tokens": 110_000, "window": 200_000})]
    );
    assert_eq!(the_view(&env)["context"]["peak_percent"], 16, "ls tells of the main conversation only");
}

/// The client compacts by itself, as the API tells it how full it is.
fn compacts_by_itself(claude: &Claude, trigger: &Value, seen_by: &str) {
    let env = world();
    // It does not compact what has had fewer than three turns.
    let begun = [20_000, 25_000].map(|tokens| Answer::bash("echo begun").usage(prompt(tokens)));
    let full = Answer::bash("echo one").usage(prompt(172_000));
    let upstream = upstream(compacting(begun.into_iter().chain([
        full,
        Answer::bash("echo two").usage(prompt(30_000)),
        Answer::text("Done.").usage(prompt(31_000)),
    ])));
    let _ = supervised(&env, claude, &[], &["-p", "work", AUTO, "--model", SONNET]).upstream(&upstream).run().success();
    let threshold =
        |percent: u32| json!({"kind": "context_threshold", "thread": "main", "percent": percent, "tokens": 172_000, "window": 200_000});
    let mut compaction = json!({"kind": "compaction", "thread": "main", "request": 4, "seen_by": seen_by});
    if !trigger.is_null() {
        compaction["trigger"] = trigger.clone();
    }
    let compacted = json!({"kind": "compacted", "thread": "main", "before": 172_000, "after": 30_000});
    assert_eq!(told(&env), [threshold(50), threshold(75), compaction, compacted]);
    let context = the_view(&env)["context"].clone();
    assert_eq!(context, json!({"tokens": 31_000, "window": 200_000, "percent": 15, "peak_percent": 86, "compactions": 1}));
    let main = show(&env, &[])["details"]["threads"][0].clone();
    assert_eq!((&main["growth_per_turn"], &main["turns_left"], &main["peak_tokens"]), (&json!(1_000), &json!(169), &json!(172_000)));
}

#[test]
fn a_compaction_of_claude_2_1_330_is_seen_by_its_hints_with_what_was_before_and_after() {
    let Some(claude) = Claude::v330() else { return };
    compacts_by_itself(&claude, &json!("auto"), "headers");
}

#[test]
fn a_compaction_of_claude_2_1_197_which_gives_no_hints_is_seen_by_its_words() {
    let Some(claude) = Claude::v197() else { return };
    compacts_by_itself(&claude, &Value::Null, "summary");
}

#[test]
fn a_context_that_is_compacted_again_and_again_is_told_once() {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    let turns = [20_000, 25_000, 172_000, 173_000, 174_000, 175_000, 176_000].map(|tokens| Answer::bash("echo on").usage(prompt(tokens)));
    let upstream = upstream(compacting(turns));
    let output = supervised(&env, &claude, &[], &["-p", "work", AUTO, "--model", SONNET]).upstream(&upstream).run();
    let thrash = env.events(&env.the_session(), "context_thrash");
    assert_eq!(thrash.len(), 1, "{:?}", told(&env));
    assert_eq!(thrash[0]["compactions"], 3);
    assert!(output.stderr.contains("the context was compacted 3 times within"), "{}", output.stderr);
    let shown = env.sentrely(&["show", &env.the_session()]).run().success().stdout;
    assert!(shown.contains("compacted 3 times within"), "{shown}");
}

#[test]
fn a_compaction_asked_for_in_one_attempt_is_measured_in_the_next() {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    let upstream = upstream(
        compacting([Answer::bash("echo one").usage(prompt(50_000)), Answer::text("Done.").usage(prompt(60_000))])
            .otherwise(Answer::text("On.").usage(prompt(20_000))),
    );
    let claude_session = "11111111-1111-4111-8111-111111111111";
    let first = ["-p", "work", AUTO, "--model", SONNET, "--session-id", claude_session];
    let _ = supervised(&env, &claude, &[], &first).upstream(&upstream).run().success();
    let id = env.the_session();
    for words in ["/compact", "go on"] {
        let args = ["-p", words, AUTO, "--model", SONNET, "--resume", claude_session];
        let _ = supervised(&env, &claude, &["--resume", &id], &args).upstream(&upstream).run().success();
    }
    let compacted: Vec<Value> = told(&env);
    assert_eq!(
        compacted,
        [
            json!({"kind": "compaction", "thread": "main", "trigger": "manual", "request": 3, "seen_by": "headers"}),
            json!({"kind": "compacted", "thread": "main", "before": 60_000, "after": 20_000}),
        ]
    );
}

#[test]
fn a_compaction_in_the_interactive_client_is_seen() {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    let upstream = upstream(
        compacting([Answer::text("The answer is forty-two.").usage(prompt(80_000))])
            .otherwise(Answer::text("Still forty-two.").usage(prompt(21_000))),
    );
    let mut terminal = Terminal::spawn(&supervised(&env, &claude, &[], &["--model", SONNET]).upstream(&upstream));
    terminal.wait_for_screen(SOON, "the prompt", at_the_prompt);
    let id = running(&env);
    let ask = |terminal: &mut Terminal, words: &str| {
        terminal.type_text(words);
        terminal.wait_for_text(SOON, words);
        terminal.press(Key::Enter);
    };
    ask(&mut terminal, "what is it");
    terminal.wait_for_text(SOON, "The answer is forty-two.");
    ask(&mut terminal, "/compact");
    wait_until(SOON, "the compaction", || !env.events(&id, "compaction").is_empty());
    terminal.wait_for_text(SOON, "Compacted");
    ask(&mut terminal, "and now");
    terminal.wait_for_text(SOON, "Still forty-two.");
    wait_until(SOON, "its measure", || !env.events(&id, "compacted").is_empty());
    let compacted = &env.events(&id, "compacted")[0];
    assert_eq!((&compacted["before"], &compacted["after"]), (&json!(80_000), &json!(21_000)));
    let _ = env.sentrely(&["kill", "--now", &id[..8]]).run().success();
}

/// The texts of the messages that the client sent with its last request.
fn last_messages(upstream: &Upstream) -> String {
    upstream.messages().pop().unwrap().json()["messages"].to_string()
}

#[test]
fn at_the_limit_the_model_is_told_once_to_finish_commit_and_hand_over_and_the_session_goes_on() {
    for claude in Claude::both() {
        let env = world();
        let turns = [60_000, 152_000, 154_000].map(|tokens| Answer::bash("echo on").usage(prompt(tokens)));
        let upstream = upstream(Script::of(turns).otherwise(Answer::text("Done.").usage(prompt(155_000))));
        let _ = supervised(&env, &claude, &[], &["-p", "work", AUTO, "--model", SONNET]).upstream(&upstream).run().success();
        let said = last_messages(&upstream);
        let told = "sentrely: the context of this conversation is 76 % full (152k of 200k tokens";
        assert_eq!(said.matches("sentrely: the context of this conversation").count(), 1, "{}: {said}", claude.name());
        assert!(said.contains(told) && said.contains("commit it, and hand over"), "{}: {said}", claude.name());
        let before = upstream.messages()[1].json()["messages"].to_string();
        assert!(!before.contains("sentrely: the context"), "not before it is so");
    }
}

#[test]
fn before_a_limit_that_ends_the_session_the_model_is_told_too() {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    let turns = [60_000, 121_000, 125_000].map(|tokens| Answer::bash("echo on").usage(prompt(tokens)));
    let upstream = upstream(Script::of(turns).otherwise(Answer::text("never").usage(prompt(141_000))));
    let flags = ["--config", "context.on_limit=stop", "--config", "context.stop_at=70"];
    let _ = supervised(&env, &claude, &flags, &["-p", "work", AUTO, "--model", SONNET]).upstream(&upstream).run().exits(123);
    let said = last_messages(&upstream);
    assert!(said.contains("is 60 % full (121k of 200k tokens") && said.contains("At 70 % this session is stopped."), "{said}");
}

#[test]
fn at_the_limit_the_session_is_stopped_with_its_work_saved_and_handed_over() {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    let answers = [Answer::bash("echo one > one.txt").usage(prompt(100_000)), Answer::bash("echo two > two.txt").usage(prompt(141_000))];
    let upstream = upstream(Script::of(answers).otherwise(Answer::text("never").usage(prompt(150_000))));
    let flags = ["--config", "context.on_limit=stop", "--config", "context.stop_at=70"];
    let output = supervised(&env, &claude, &flags, &["-p", "work", AUTO, "--model", SONNET]).upstream(&upstream).run().exits(123);
    super::tell(&output.stderr);
    assert_eq!(upstream.messages().len(), 2, "nothing is sent after the limit");
    let stop = &env.events(&env.the_session(), "stop_requested")[0];
    assert_eq!((&stop["reason"], &stop["by"]), (&json!("policy_stop"), &json!("context")));
    assert!(output.stderr.contains("the context is 70 % full, its limit is 70 % of 200k tokens"), "{}", output.stderr);
    let view = the_view(&env);
    let branch = view["branch"].as_str().unwrap();
    assert_eq!(env.git(&["show", &format!("{branch}:one.txt")]), "one");
    // The hand-off: what was touched, where it is, what it cost, and the line that goes on.
    for line in ["  cost      $0.", "  files     one.txt", branch] {
        assert!(output.stderr.contains(line), "{line}: {}", output.stderr);
    }
    let next = output.stderr.lines().find_map(|line| line.trim_start().strip_prefix("next ")).unwrap().trim().to_owned();
    assert!(next.contains("git log -p") && !next.contains("-- --resume"), "{next}");
    // Typed as it stands, it is a session with the branch and the budget, and an empty conversation.
    let program = env!("CARGO_BIN_EXE_sentrely");
    let line = next.replace("sentrely run", &format!("{program} run"));
    let _ = env.command("sh", &["-c", &line]).upstream(&upstream).run().success();
    let last = upstream.messages().pop().unwrap().json()["messages"].to_string();
    assert!(last.contains("Go on with the work on this branch") && !last.contains("echo one"), "{last}");
    assert_eq!(the_view(&env)["attempts"], 2);
}

#[test]
fn before_a_compaction_the_session_is_stopped_if_that_is_asked_for_and_the_client_has_compacted_nothing() {
    for claude in Claude::both() {
        let env = world();
        let turns = [20_000, 25_000, 172_000].map(|tokens| Answer::bash("echo one > one.txt").usage(prompt(tokens)));
        let upstream: Upstream = upstream(compacting(turns));
        let args = ["-p", "work", AUTO, "--model", SONNET];
        let output =
            supervised(&env, &claude, &["--config", "context.stop_on_compaction=true"], &args).upstream(&upstream).run().exits(123);
        assert!(output.stderr.contains("about to be compacted"), "{}", output.stderr);
        assert_eq!(env.events(&env.the_session(), "compacted"), Vec::<Value>::new());
        let answered = upstream.messages().into_iter().filter(|record| record.outcome == Some(sentrely::simulated::Outcome::Completed));
        assert_eq!(answered.count(), 3, "{}: no summary was written", claude.name());
        assert_eq!(env.git(&["show", &format!("{}:one.txt", the_view(&env)["branch"].as_str().unwrap())]), "one");
    }
}
