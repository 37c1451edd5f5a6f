//! The session's copy is as good as the checkout to Claude Code: trust, approvals, memory, conversations.

use std::fs;
use std::path::Path;

use sentrely::simulated::Answer;
use serde_json::{Value, json};

use super::{SOON, supervised, the_view, upstream, world};
use crate::support::claude::{Claude, at_the_prompt};
use crate::support::env::TestEnv;
use crate::support::pty::Terminal;

/// The client's folder for this directory.
fn folder(env: &TestEnv, dir: &Path) -> std::path::PathBuf {
    let name = dir.canonicalize().unwrap().to_str().unwrap().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    env.home().join(".claude/projects").join(name)
}

/// Whether anything in `projects` is a link.
fn links(env: &TestEnv) -> usize {
    let entries = fs::read_dir(env.home().join(".claude/projects")).unwrap();
    entries.filter(|entry| entry.as_ref().unwrap().file_type().unwrap().is_symlink()).count()
}

/// Changes the project's entry in `~/.claude.json`.
pub(super) fn note(env: &TestEnv, change: impl Fn(&mut Value)) {
    let file = env.home().join(".claude.json");
    let mut state: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let project = env.project().canonicalize().unwrap();
    change(&mut state["projects"][project.to_str().unwrap()]);
    fs::write(file, state.to_string()).unwrap();
}

#[test]
fn memory_of_the_checkout_and_of_the_folders_above_it_is_the_sessions_too() {
    for claude in Claude::both() {
        for wall in ["auto", "off"] {
            // Where no folder above the checkout is one above the copy.
            let env = world();
            let shop = env.root().join("team/shop");
            fs::create_dir(env.root().join("team")).unwrap();
            env.git(&["clone", "-q", env.origin().to_str().unwrap(), shop.to_str().unwrap()]);
            let memory = folder(&env, &shop).join("memory");
            fs::create_dir_all(&memory).unwrap();
            fs::write(memory.join("MEMORY.md"), "# Index\nAUTO-MEMORY\n").unwrap();
            fs::write(env.root().join("team/CLAUDE.md"), "MEMORY-ABOVE\n").unwrap();
            fs::write(shop.join("CLAUDE.md"), "MEMORY-INSIDE\n").unwrap();
            env.git_in(&shop, &["add", "CLAUDE.md"]);
            env.git_in(&shop, &["commit", "-q", "-m", "Memory"]);
            fs::write(shop.join("CLAUDE.local.md"), "MEMORY-OF-ONE\n").unwrap();
            let upstream = upstream(Answer::text("done"));
            let run = supervised(&env, &claude, &["--wall", wall], &["-p", "hello"]).cwd(&shop);
            let output = run.upstream(&upstream).run().success();
            let body = upstream.messages()[0].json().to_string();
            for text in ["AUTO-MEMORY", "MEMORY-ABOVE", "MEMORY-INSIDE", "MEMORY-OF-ONE"] {
                assert_eq!(body.matches(text).count(), 1, "{} {wall} {text}: {}", claude.name(), output.stderr);
            }
            assert_eq!(links(&env), 0);
            assert!(
                !env.git_in(&shop, &["branch", "--list", "sentrely/*"]).contains("sentrely/"),
                "local memory is no work of the session's"
            );
        }
    }
}

#[test]
fn conversations_go_on_in_the_session_and_after_it_in_the_checkout() {
    for claude in Claude::both() {
        let env = world();
        let upstream = upstream(Answer::text("done"));
        let ask = |args: &[&str]| {
            let output = supervised(&env, &claude, &[], args).upstream(&upstream).run().success();
            (upstream.messages().last().unwrap().json()["messages"].to_string(), output)
        };
        let alone = |args: &[&str]| {
            let run = claude.command(&env, args).cwd(env.project()).upstream(&upstream);
            let _ = run.var("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1").run().success();
            upstream.messages().last().unwrap().json()["messages"].to_string()
        };
        alone(&["-p", "word-of-the-checkout"]);
        let (said, output) = ask(&["-c", "-p", "word-of-the-session"]);
        assert!(said.contains("word-of-the-checkout"), "{}: {}", claude.name(), output.stderr);
        let (said, _) = ask(&["-c", "-p", "word-of-another"]);
        assert!(said.contains("word-of-the-checkout") && said.contains("word-of-the-session"), "{}", claude.name());
        assert_eq!(links(&env), 0);
        let said = alone(&["-c", "-p", "back again"]);
        assert!(said.contains("word-of-another"), "{}", claude.name());
        let listed = env.ls_json();
        let ended = listed["sessions"].as_array().unwrap().iter().map(|view| view["stop_reason"].clone()).collect::<Vec<_>>();
        assert_eq!(ended, [json!("child_exited"), json!("child_exited")], "nobody took another's answers for a bypass");
    }
}

#[test]
fn the_developers_own_client_in_the_checkout_is_no_bypass_of_a_session_that_runs_meanwhile() {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    let developers = upstream(Answer::text("mine"));
    let sessions = upstream([Answer::bash("while ! test -e go; do sleep 0.1; done"), Answer::text("done")]);
    let running = supervised(&env, &claude, &[], &["-p", "work", "--dangerously-skip-permissions"]).upstream(&sessions).spawn();
    let id = super::running(&env);
    let copy = super::directory(&env, &id);
    crate::support::run::wait_for(SOON, "its first answer", || (!sessions.messages().is_empty()).then_some(()));
    let alone = claude.command(&env, &["-p", "hello"]).cwd(env.project()).upstream(&developers);
    assert_eq!(alone.run().success().stdout, "mine\n");
    fs::write(copy.join("go"), "").unwrap();
    let output = running.wait(SOON).success();
    assert_eq!((output.stdout.as_str(), &the_view(&env)["stop_reason"]), ("done\n", &json!("child_exited")), "{}", output.stderr);
}

/// A copy of a checkout with a server in `.mcp.json`, at the client's first screen.
fn first_screen(claude: &Claude, wall: &str, prepare: impl Fn(&TestEnv)) -> String {
    let env = world();
    fs::write(env.project().join(".mcp.json"), json!({ "mcpServers": { "one": { "command": "true" } } }).to_string()).unwrap();
    env.git(&["add", "-A"]);
    env.git(&["commit", "-q", "-m", "A server"]);
    prepare(&env);
    let upstream = upstream(Answer::text("done"));
    let mut terminal = Terminal::spawn(&supervised(&env, claude, &["--wall", wall], &[]).upstream(&upstream));
    let asks = |screen: &str| screen.contains("MCP server found") || screen.contains("trust this folder");
    let screen = terminal.wait_for_screen(SOON, "a prompt or a question", |screen| at_the_prompt(screen) || asks(screen));
    let id = super::running(&env);
    let _ = env.sentrely(&["kill", "--now", &id[..8]]).run().success();
    let _ = terminal.wait(SOON);
    assert_eq!(links(&env), 0);
    screen
}

fn asks_as_the_checkout_would(claude: &Claude) {
    let approve = |env: &TestEnv| note(env, |project| project["enabledMcpjsonServers"] = json!(["one"]));
    let distrust = |env: &TestEnv| note(env, |project| project["hasTrustDialogAccepted"] = json!(false));
    for wall in ["auto", "off"] {
        let screen = first_screen(claude, wall, |_| {});
        assert!(screen.contains("MCP server found"), "not approved in the checkout either: {wall} {screen}");
        let screen = first_screen(claude, wall, approve);
        assert!(at_the_prompt(&screen), "approved in the checkout: {wall} {screen}");
        let screen = first_screen(claude, wall, distrust);
        assert!(screen.contains("trust this folder"), "not trusted in the checkout: {wall} {screen}");
    }
    let screen = first_screen(claude, "auto", |env| {
        fs::create_dir_all(env.project().join(".claude")).unwrap();
        fs::write(env.project().join(".claude/settings.local.json"), r#"{"enabledMcpjsonServers":["one"]}"#).unwrap();
    });
    assert!(at_the_prompt(&screen), "approved in the local settings: {screen}");
}

#[test]
fn claude_2_1_330_asks_in_the_session_what_it_would_ask_in_the_checkout() {
    let Some(claude) = Claude::v330() else { return };
    asks_as_the_checkout_would(&claude);
}

#[test]
fn claude_2_1_197_asks_in_the_session_what_it_would_ask_in_the_checkout() {
    let Some(claude) = Claude::v197() else { return };
    asks_as_the_checkout_would(&claude);
}

/// A small MCP server, which leaves a file when it is started.
pub(super) const SERVER: &str = r"
import json, pathlib, sys
pathlib.Path(sys.argv[1]).touch()
for line in sys.stdin:
    asked = json.loads(line)
    if 'id' not in asked: continue
    answers = {'initialize': {'protocolVersion': '2024-11-05', 'capabilities': {'tools': {}}, 'serverInfo': {'name': 'x', 'version': '1'}},
               'tools/list': {'tools': [{'name': 'tool_of_the_server', 'description': 'd', 'inputSchema': {'type': 'object'}}]}}
    print(json.dumps({'jsonrpc': '2.0', 'id': asked['id'], 'result': answers.get(asked['method'], {})}), flush=True)
";

#[test]
fn servers_that_were_added_for_the_checkout_are_the_sessions_too() {
    crate::needs!(crate::support::components::PYTHON);
    for claude in Claude::both() {
        let env = world();
        let (script, started) = (env.root().join("server.py"), env.root().join("started"));
        fs::write(&script, SERVER).unwrap();
        note(&env, |project| project["mcpServers"] = json!({ "own": { "command": "python3", "args": [&script, &started] } }));
        for (args, expected) in [(&["-p", "work"][..], true), (&["--strict-mcp-config", "-p", "work"][..], false)] {
            // The older client does not wait for its servers.
            let wait = format!("for _ in $(seq 100); do test -e {} && break; sleep 0.1; done", started.display());
            let upstream = upstream([Answer::bash(if expected { wait } else { "true".to_owned() }), Answer::text("done")]);
            let args = [args, &["--dangerously-skip-permissions"]].concat();
            let output = supervised(&env, &claude, &[], &args).upstream(&upstream).run().success();
            assert_eq!(started.exists(), expected, "{} {args:?} {}", claude.name(), output.stderr);
            let _ = fs::remove_file(&started);
        }
    }
}
