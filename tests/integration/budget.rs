//! Limits that are raised while a session runs, by whom they can be, and what an ended session is told.

use std::fs;
use std::time::Duration;

use sentrely::simulated::{Answer, Upstream};
use serde_json::json;

use crate::support::components::PYTHON;
use crate::support::env::TestEnv;
use crate::support::run::wait_until;

const SOON: Duration = Duration::from_mins(1);

/// Asks so many times. Refused, it makes the first file and waits for the second before it goes on.
const AGENT: &str = r#"
import json, os, sys, time, urllib.error, urllib.request
for turn in range(int(sys.argv[1])):
    body = {"model": "claude-opus-5-5", "max_tokens": 1024, "messages": [{"role": "user", "content": f"turn {turn}"}]}
    headers = {"x-api-key": os.environ["ANTHROPIC_API_KEY"], "anthropic-version": "2023-06-01", "content-type": "application/json"}
    request = urllib.request.Request(os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request) as answer:
            print(json.load(answer)["content"][0]["text"], flush=True)
    except urllib.error.HTTPError as error:
        print(error.code, flush=True)
        open(sys.argv[2], "w").close()
        while not os.path.exists(sys.argv[3]):
            time.sleep(0.01)
"#;

fn upstream(cost: &str) -> Upstream {
    Upstream::start_on_thread(Answer::turn(cost.parse().unwrap())).unwrap()
}

#[test]
fn a_session_that_only_refuses_goes_on_when_its_budget_is_raised() {
    crate::needs!(PYTHON);
    let env = TestEnv::new();
    let upstream = upstream("0.30");
    let (refused, raised) = (env.root().join("refused"), env.root().join("raised"));
    let args =
        ["run", "--budget", "0.50usd", "--budget", "9Mtok", "--on-budget", "refuse", "--wall", "off", "--", "python3", "-c", AGENT, "4"];
    let run = env.sentrely(&args).args(&[&refused, &raised]).upstream(&upstream).spawn();
    wait_until(SOON, "a refusal", || refused.exists());
    let id = env.the_session();
    assert_eq!(upstream.messages().len(), 1);
    let shown = env.sentrely(&["budget", &id[..8]]).run().success();
    assert!(shown.stdout.contains("$0.50"), "{}", shown.stdout);

    let set = env.sentrely(&["budget", &id[..8], "+1usd", "--json"]).run().success().json();
    let limits: Vec<_> = set["budgets"].as_array().unwrap().iter().map(|budget| (&budget["kind"], &budget["limit"])).collect();
    assert!(limits.contains(&(&json!("usd"), &json!("1.5"))) && limits.contains(&(&json!("tokens"), &json!("9000000"))), "{limits:?}");
    fs::write(&raised, "").unwrap();
    let output = run.wait(SOON).success();
    assert_eq!(output.stdout, "ok\n402\nok\nok\n");
    assert_eq!(upstream.messages().len(), 3, "what was refused never left");

    // Met at 60 %, told as met, and told again in the shares of the new limit.
    let shares: Vec<_> = env.events(&id, "threshold").iter().map(|event| event["percent"].clone()).collect();
    assert_eq!(shares, [50, 100, 50], "{shares:?}");
    assert!(output.stderr.contains(&format!("sentrely budget {} +", &id[..8])), "{}", output.stderr);

    let changes = env.events(&id, "limits_set");
    let login = env.command("id", &["-un"]).run().success().stdout;
    assert_eq!((changes.len(), &changes[0]["by"]), (1, &json!(login.trim())));
    assert!(changes[0]["from"].as_str().is_some_and(|from| !from.is_empty()), "{changes:?}");

    let over = env.sentrely(&["budget", &id[..8], "+1usd"]).run().exits(1);
    assert!(over.stderr.contains("it has ended (the command ended"), "{}", over.stderr);
    assert!(over.stderr.contains(&format!("sentrely run --resume {} --budget 2.5usd -- python3 -c ", &id[..8])), "{}", over.stderr);
    let _ = env.sentrely(&["budget", "ffffffff"]).run().exits(3);
    let _ = env.sentrely(&["budget", &id[..8], "-1usd"]).run().exits(2);
}

/// Sends one line to a socket and prints what comes back.
const TALK: &str = r#"
import socket, sys
peer = socket.socket(socket.AF_UNIX)
peer.connect(sys.argv[1])
peer.sendall(b'{"do":"change_limit","change":"+5usd","from":null}\n')
print(peer.recv(65536).decode(), end="")
"#;

#[test]
fn an_agent_cannot_raise_its_own_budget() {
    crate::needs!(PYTHON);
    let env = TestEnv::new();
    let (asked, ended) = (env.root().join("asked"), env.root().join("ended"));
    // Without the wall, which would hide the socket.
    let script = format!(
        "{} budget $SENTRELY_RUN_ID +5usd; echo exit $?; python3 -c \"$1\" \"$2/$SENTRELY_RUN_ID/control.sock\"; \
         touch {asked}; until [ -e {ended} ]; do sleep 0.01; done",
        env!("CARGO_BIN_EXE_sentrely"),
        asked = asked.display(),
        ended = ended.display(),
    );
    let sessions = env.state_dir().join("sessions");
    let run = env.sentrely(&["run", "--budget", "1usd", "--wall", "off", "--", "sh", "-c", &script, "sh", TALK]).args(&[&sessions]).spawn();
    wait_until(SOON, "the attack", || asked.exists());
    let id = env.the_session();
    assert_eq!(env.ls_json()["sessions"][0]["budgets"][0]["limit"], "1");
    // The control: the same line from outside.
    let outside = env.command("python3", &["-c", TALK]).args(&[sessions.join(&id).join("control.sock")]).run().success();
    assert!(outside.stdout.starts_with("{\"ok\":true") && outside.stdout.contains("\"limit\":\"6\""), "{}", outside.stdout);
    fs::write(&ended, "").unwrap();
    let output = run.wait(SOON).success();
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(lines[0], "exit 125", "{}", output.stderr);
    assert!(lines[1].starts_with("{\"ok\":false,\"error\":\"a process of the session cannot change it\""), "{lines:?}");
}
