//! `sentrely run` from end to end with commands that are not Claude Code.

use serde_json::json;

use sentrely::simulated::{Answer, Options, Script, Upstream};

use crate::support::claude::DUMMY_KEY;
use crate::support::components::{PYTHON, VENV};
use crate::support::env::TestEnv;
use crate::support::{namespace, python};

/// An agent as the SDKs make them: it reads the two variables, posts, and prints what it hears.
const AGENT: &str = r#"
import json, os, sys, urllib.error, urllib.request
for turn in range(int(sys.argv[1])):
    body = {"model": "claude-opus-5-5", "max_tokens": 1024, "messages": [{"role": "user", "content": f"turn {turn}"}]}
    headers = {"x-api-key": os.environ["ANTHROPIC_API_KEY"], "anthropic-version": "2023-06-01", "content-type": "application/json"}
    request = urllib.request.Request(os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request) as answer:
            print(json.load(answer)["content"][0]["text"], flush=True)
    except urllib.error.HTTPError as error:
        print(error.code, json.load(error)["error"]["message"], flush=True)
        sys.exit(3)
"#;

fn upstream(script: impl Into<Script>) -> Upstream {
    Upstream::start_on_thread_with(script, Options { keep_bodies: true, ..Options::default() }).unwrap()
}

fn view(env: &TestEnv) -> serde_json::Value {
    env.ls_json()["sessions"][0].take()
}

#[test]
fn a_python_agent_is_metered_and_the_real_key_is_put_on_for_it() {
    crate::needs!(PYTHON);
    let env = TestEnv::new();
    let upstream = upstream(Answer::turn("0.10".parse().unwrap()));
    let output = env.sentrely(&["run", "--", "python3", "-c", AGENT, "3"]).upstream(&upstream).run().success();
    assert_eq!(output.stdout, "ok\nok\nok\n", "{}", output.stderr);
    let seen = upstream.messages();
    assert!(seen.len() == 3 && seen.iter().all(|record| record.header("x-api-key") == Some(DUMMY_KEY)), "{seen:?}");
    assert!(seen.iter().all(|record| record.path == "/v1/messages" && !record.stream));
    let view = view(&env);
    assert_eq!((&view["cost_usd"], &view["requests"], &view["cost_estimated"]), (&json!("0.3"), &json!(3), &json!(false)));
}

/// The same with Anthropic's own SDK: whole answers and streams.
const SDK_AGENT: &str = r#"
import sys, anthropic
client = anthropic.Anthropic()
ask = dict(model="claude-opus-5-5", max_tokens=1024, messages=[{"role": "user", "content": "hello"}])
try:
    print(client.messages.create(**ask).content[0].text, flush=True)
    with client.messages.stream(**ask) as stream:
        print("".join(stream.text_stream), flush=True)
    client.messages.create(**ask)
except anthropic.APIStatusError as error:
    print(error.status_code, error.body["error"]["message"], flush=True)
    sys.exit(3)
"#;

#[test]
fn an_agent_on_anthropics_own_sdk_is_metered_streaming_or_not_and_refused_at_its_budget() {
    crate::needs!(VENV);
    // First: to install it may take longer than anything else here.
    let python = python::program("python");
    let env = TestEnv::new();
    let upstream = upstream(Answer::turn("0.10".parse().unwrap()));
    let words = ["run", "--budget", "0.25usd", "--", python.to_str().unwrap(), "-c", SDK_AGENT];
    let output = env.sentrely(&words).upstream(&upstream).run().exits(121);
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert!(lines[..2] == ["ok", "ok"] && lines[2].starts_with("402 sentrely: "), "{}{}", output.stdout, output.stderr);
    let seen = upstream.messages();
    assert!(seen.iter().all(|record| record.header("x-api-key") == Some(DUMMY_KEY)), "{seen:?}");
    assert!(seen.iter().all(|record| record.header("user-agent").is_some_and(|agent| agent.starts_with("Anthropic/Python"))), "{seen:?}");
    assert_eq!(seen.iter().map(|record| record.stream).collect::<Vec<_>>(), [false, true]);
    let view = view(&env);
    assert_eq!((&view["cost_usd"], &view["requests"]), (&json!("0.2"), &json!(2)));
}

#[test]
fn a_python_agent_is_refused_at_its_budget_in_the_apis_own_form() {
    crate::needs!(PYTHON);
    let env = TestEnv::new();
    let upstream = upstream(Answer::turn("0.30".parse().unwrap()));
    let output = env.sentrely(&["run", "--budget", "0.50usd", "--", "python3", "-c", AGENT, "9"]).upstream(&upstream).run().exits(121);
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert!(lines[0] == "ok" && lines.last().unwrap().starts_with("402 sentrely: "), "{lines:?}");
    let paid: Vec<_> = upstream.messages();
    assert_eq!(paid.len(), lines.len() - 1);
    assert_eq!(view(&env)["requests"], paid.len());
}

#[test]
fn an_answer_that_goes_above_the_budget_stops_an_agent_that_asks_for_nothing_more() {
    crate::needs!(PYTHON);
    let script = "python3 -c \"$1\" 1 && exec sleep \"$2\"";
    // Used up exactly, nothing is passed: the command comes to its own end.
    for (budget, patience, code) in [("0.25usd", "300", 121), ("0.30usd", "0", 0)] {
        let env = TestEnv::new();
        let upstream = upstream(Answer::turn("0.30".parse().unwrap()));
        let output = env.sentrely(&["run", "--budget", budget, "--", "sh", "-c", script, "sh", AGENT, patience]).upstream(&upstream).run();
        let output = output.exits(code);
        assert_eq!((output.stdout.as_str(), upstream.messages().len()), ("ok\n", 1), "{}", output.stderr);
        let stops = env.events(&env.the_session(), "stop_requested");
        assert_eq!(stops.len(), usize::from(code != 0), "{stops:?}");
        if let Some(stop) = stops.first() {
            assert_eq!((&stop["reason"], &stop["note"]), (&json!("budget_reached"), &json!("the budget of $0.25 is used up: $0.30 spent")));
        }
    }
}

#[test]
fn a_full_disk_stops_the_session_and_says_so() {
    crate::needs!(PYTHON);
    if !namespace::entered(module_path!(), "a_full_disk_stops_the_session_and_says_so") {
        return;
    }
    let env = TestEnv::new();
    let state = env.state_dir();
    namespace::command("mount", &["-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs", state.to_str().unwrap()]);
    let upstream = upstream(Answer::turn("0.001".parse().unwrap()));
    // It fills the disk that its own working copy is on, and goes on asking: the journal's last page is soon full too.
    let script = "head -c 4M /dev/zero > filler; exec python3 -c \"$1\" 400";
    let output = env.sentrely(&["run", "--", "sh", "-c", script, "sh", AGENT]).upstream(&upstream).run().exits(125);
    let said = output.stderr.lines().find(|line| line.contains("journal"));
    assert!(said.is_some_and(|line| line.contains("No space left on device")), "{}", output.stderr);
    let refused = output.stdout.lines().last().unwrap_or_default();
    assert!(refused.is_empty() || refused == "ok" || refused.contains("sentrely: "), "{}", output.stdout);
    let paid = upstream.messages().len();
    assert!((1..400).contains(&paid), "{paid}: it was stopped on the way");
    assert!(env.processes().is_empty());

    // A new session is refused with the same reason, and nothing is left of it.
    let output = env.sentrely(&["run", "--", "true"]).upstream(&upstream).run().exits(125);
    assert!(output.stderr.contains("space") && output.stderr.contains("hint:"), "{}", output.stderr);
    let mut sessions = std::fs::read_dir(state.join("sessions")).unwrap().map(|entry| entry.unwrap().path());
    std::fs::remove_file(sessions.find_map(|dir| filler(&dir)).unwrap()).unwrap();
    let _ = env.sentrely(&["run", "--", "true"]).upstream(&upstream).run().success();
}

fn filler(session: &std::path::Path) -> Option<std::path::PathBuf> {
    let copies = std::fs::read_dir(session.join("work")).ok()?;
    copies.map(|copy| copy.unwrap().path().join("filler")).find(|path| path.exists())
}
