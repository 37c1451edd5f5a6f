//! Limits that are raised while a session runs, by whom they can be, and what an ended session is told.

use std::fs;
use std::time::Duration;

use sentrely::simulated::{Answer, Script, Upstream};
use serde_json::{Value, json};

use crate::support::components::PYTHON;
use crate::support::env::TestEnv;
use crate::support::proxy::{Peer, on_a_thread, send};
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

/// An answer of a subscription of whose windows so much is used.
fn answer_with_quota(five_hours: (&str, i64), week: (&str, i64)) -> Answer {
    let headers = [("5h-utilization", five_hours.0), ("7d-utilization", week.0)].map(|(name, value)| (name, value.to_owned()));
    let resets = [("5h-reset", five_hours.1), ("7d-reset", week.1)].map(|(name, second)| (name, second.to_string()));
    let answer = Answer::text("ok");
    let told = headers.into_iter().chain(resets);
    told.fold(answer, |answer, (name, value)| answer.header(format!("anthropic-ratelimit-unified-{name}"), value))
}

#[test]
fn the_shares_of_a_subscriptions_quota_are_told_once_in_each_window_and_not_again_by_the_next_attempt() {
    crate::needs!(PYTHON);
    let env = TestEnv::new();
    let hook = on_a_thread(Peer::start(|_| vec![send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")]));
    let now = jiff::Timestamp::now().as_second();
    // The second five hours begin while the session runs: another end, and little is used.
    let (first, second, week) = (now + 3_000, now + 3_000 + 18_000, now + 400_000);
    let answers = [
        answer_with_quota(("0.49", first), ("0.10", week)),
        answer_with_quota(("0.83", first), ("0.11", week)),
        answer_with_quota(("0.84", first), ("0.50", week)),
        answer_with_quota(("0.02", second), ("0.51", week)),
        answer_with_quota(("0.55", second), ("0.52", week)),
    ];
    let upstream = Upstream::start_on_thread(Script::from(Vec::from(answers))).unwrap();
    let config = env.home().join(".config/sentrely/config.toml");
    fs::create_dir_all(config.parent().unwrap()).unwrap();
    fs::write(&config, "[alerts]\nwebhook = { env = \"THE_HOOK\" }\n").unwrap();
    let never = env.root().join("never");
    let args = ["run", "--budget", "9Mtok", "--wall", "off", "--", "python3", "-c", AGENT, "5"];
    let run = env.sentrely(&args).args(&[&never, &never]).var("THE_HOOK", hook.url());
    let output = run.upstream(&upstream).run().success();
    let id = env.the_session();
    let told = |id: &str| {
        let events = env.events(id, "quota_threshold");
        events.iter().map(|event| format!("{} {} {}", event["window"], event["percent"], event["used"])).collect::<Vec<_>>()
    };
    let expected = ["\"5h\" 80 83", "\"7d\" 50 50", "\"5h\" 50 55"];
    assert_eq!(told(&id), expected, "{}", output.stderr);
    assert!(output.stderr.contains("sentrely: 83 % of the subscription's 5h quota is used; it begins anew in 49 min"), "{}", output.stderr);
    let alerts: Vec<Value> = hook.seen().iter().map(|seen| serde_json::from_slice(&seen.body).unwrap()).collect();
    let kinds: Vec<_> = alerts.iter().filter(|alert| alert["kind"] == "quota").map(|alert| alert["percent"].clone()).collect();
    assert_eq!(kinds, [80, 50, 50], "{alerts:?}");
    let logged = env.sentrely(&["log", &id[..8]]).run().success().stdout;
    assert!(logged.contains("80% of the subscription's 5h quota used (83 %)"), "{logged}");

    upstream.set_script(Script::default().otherwise(answer_with_quota(("0.60", second), ("0.53", week))));
    let resumed = ["run", "--resume", &id[..8], "--budget", "9Mtok", "--wall", "off", "--", "python3", "-c", AGENT, "1"];
    let _ = env.sentrely(&resumed).args(&[&never, &never]).var("THE_HOOK", hook.url()).upstream(&upstream).run().success();
    assert_eq!(told(&id), expected);
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
