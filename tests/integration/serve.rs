//! `sentrely serve`: what a program on this machine may do with the token, and what nobody may without.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::session::running;
use crate::support::components::VENV;
use crate::support::env::TestEnv;
use crate::support::python;
use crate::support::run::{Running, is_alive, wait_for};

const SOON: Duration = Duration::from_mins(1);

/// A running `sentrely serve`.
struct Served {
    _run: Running,
    port: u16,
    token: String,
}

/// What came back.
#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

fn serve(env: &TestEnv) -> Served {
    // For as long as a test may take.
    let run = env.sentrely(&["serve"]).timeout(Duration::from_mins(10)).spawn();
    let url = wait_for(SOON, "the URL", || run.stdout().strip_suffix('\n').map(str::to_owned));
    let port = url.strip_prefix("http://127.0.0.1:").unwrap().parse().unwrap();
    let token = fs::read_to_string(env.state_dir().join("serve-token")).unwrap().trim().to_owned();
    Served { _run: run, port, token }
}

impl Served {
    /// Sends bytes as they are, and reads until the server closes.
    fn raw(&self, bytes: &[u8]) -> Reply {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(90))).unwrap();
        // It may have answered and closed before all was sent.
        let _ = stream.write_all(bytes);
        let mut text = Vec::new();
        let _ = stream.read_to_end(&mut text);
        let text = String::from_utf8_lossy(&text).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Reply { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    /// A request with the token under the right name, and further header lines.
    fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Reply {
        let (port, token) = (self.port, &self.token);
        let length = if method == "POST" { format!("Content-Length: {}\r\n", body.len()) } else { String::new() };
        let head = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n{length}{headers}\r\n");
        self.raw(format!("{head}{body}").as_bytes())
    }

    fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, "", "")
    }

    fn kill(&self, id: &str, body: &str) -> Reply {
        self.ask("POST", &format!("/sessions/{id}/kill"), "Content-Type: application/json\r\n", body)
    }
}

#[test]
fn it_lists_shows_and_kills_as_the_commands_do() {
    let env = TestEnv::new();
    let served = serve(&env);
    assert_eq!(served.get("/sessions").json(), json!({ "schema_version": 1, "sessions": [] }));
    let (run, id, pids) = running(&env, "trap '' TERM; sleep 300 & sleep 300", 3);
    let short = &id[..8];
    let listed = served.get("/sessions").json();
    let by_command = env.sentrely(&["ls", "--json"]).run().success().json();
    assert_eq!(listed["sessions"][0]["id"], by_command["sessions"][0]["id"]);
    assert_eq!(listed["sessions"][0]["state"], "running");
    assert_eq!(served.get(&format!("/sessions/{short}")).json()["session"]["id"], id.as_str());

    let killed = served.kill(short, r#"{"reason":"on call","now":true}"#);
    assert_eq!(killed.status, 200, "{killed:?}");
    let document = killed.json();
    assert_eq!((&document["outcome"], &document["session"], &document["survivors"]), (&json!("ended"), &json!(id), &json!([])));
    let stages: Vec<&str> = document["stages"].as_array().unwrap().iter().map(|stage| stage["stage"].as_str().unwrap()).collect();
    assert_eq!(stages[..4], ["gate_closed", "credentials_withheld", "signal_sent", "last_process_gone"]);
    assert!(pids.iter().all(|pid| !is_alive(*pid)));
    assert_eq!(run.wait(SOON).code(), 122);
    let proof = served.get(&format!("/sessions/{id}")).json()["details"]["proof_of_death"].clone();
    assert_eq!((&proof["note"], proof["from"].as_str().unwrap().starts_with("sentrely serve, 127.0.0.1:")), (&json!("on call"), true));
    // Again is harmless, and said to be late.
    let again = served.kill(short, "{}");
    assert_eq!((again.status, again.code()), (409, "already_ended".to_owned()));
    assert_eq!(served.get("/sessions").json()["sessions"], json!([]));
    assert_eq!(served.get("/sessions?all=true").json()["sessions"][0]["id"], id.as_str());
}

#[test]
fn a_wait_that_is_over_says_so_and_the_kill_stands() {
    let env = TestEnv::new();
    let served = serve(&env);
    let (run, id, _) = running(&env, "trap '' TERM; sleep 300 & sleep 300", 3);
    // It ignores TERM for the two seconds of its grace.
    let waiting = served.kill(&id, r#"{"wait_ms":0}"#);
    assert_eq!((waiting.status, &waiting.json()["outcome"]), (202, &json!("waiting")));
    assert_eq!(run.wait(SOON).code(), 122);
}

#[test]
fn without_the_token_nothing_is_said_and_nothing_is_killed() {
    let env = TestEnv::new();
    let served = serve(&env);
    let (run, id, _) = running(&env, "sleep 300", 1);
    let host = format!("Host: 127.0.0.1:{}\r\n", served.port);
    let flipped: String = served.token.chars().rev().collect();
    for authorization in
        ["", "Authorization: Bearer x\r\n", &format!("Authorization: Bearer {flipped}\r\n"), "Authorization: Basic eDp5\r\n"]
    {
        for (line, body) in [("GET /sessions", ""), ("GET /nothing", ""), (&*format!("POST /sessions/{id}/kill"), "{}")] {
            let head =
                format!("{line} HTTP/1.1\r\n{host}{authorization}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
            let reply = served.raw(format!("{head}{body}").as_bytes());
            assert_eq!((reply.status, reply.code()), (401, "unauthorized".to_owned()), "{line} {authorization}");
            assert!(reply.head.contains("www-authenticate: bearer"), "{reply:?}");
            assert!(!reply.body.contains(&id[..8]));
        }
    }
    assert!(!env.session_dir(&id).join("kill").exists());
    // The control: with the token the same request kills.
    assert_eq!(served.kill(&id, "{}").status, 200);
    assert_eq!(run.wait(SOON).code(), 122);
}

#[test]
fn a_page_in_a_browser_can_neither_read_nor_kill() {
    let env = TestEnv::new();
    let served = serve(&env);
    let (run, id, _) = running(&env, "sleep 300", 1);
    let (port, token) = (served.port, &served.token);
    let kill = |headers: &str| {
        let head = format!("POST /sessions/{id}/kill HTTP/1.1\r\n{headers}Content-Length: 2\r\n\r\n{{}}");
        served.raw(head.as_bytes())
    };
    let own = format!("Host: 127.0.0.1:{port}\r\n");
    let right = format!("Authorization: Bearer {token}\r\nContent-Type: application/json\r\n");
    // DNS rebinding: a name of the page's own leads here. Even with the token it is not ours.
    for host in [&format!("evil.example:{port}"), "evil.example", "127.0.0.1", &format!("127.0.0.1:{port}.evil.example"), "[::1]:1"] {
        assert_eq!(kill(&format!("Host: {host}\r\n{right}")).status, 403, "{host}");
    }
    assert_eq!(kill(&format!("{own}Host: evil.example\r\n{right}")).status, 403, "two names");
    assert_eq!(kill(&right).status, 403, "no name at all");
    // What a page may send without being asked first: a form's types, its Origin.
    let simple = format!("{own}Authorization: Bearer {token}\r\n");
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
        assert_eq!(kill(&format!("{simple}Content-Type: {kind}\r\n")).status, 415, "{kind}");
        assert_eq!(kill(&format!("{simple}Content-Type: {kind}\r\nOrigin: https://evil.example\r\n")).status, 403, "{kind}");
    }
    assert_eq!(kill(&simple).status, 415, "no type");
    assert_eq!(kill(&format!("{own}{right}Origin: https://evil.example\r\n")).status, 403);
    assert_eq!(kill(&format!("{own}{right}Origin: null\r\n")).status, 403);
    assert_eq!(kill(&format!("{own}{right}Sec-Fetch-Site: cross-site\r\n")).status, 403);
    // The question before it is not answered in its favour, and no answer shares anything.
    let preflight =
        format!("OPTIONS /sessions HTTP/1.1\r\n{own}Origin: https://evil.example\r\nAccess-Control-Request-Method: POST\r\n\r\n");
    assert_eq!(served.raw(preflight.as_bytes()).status, 403);
    for reply in [served.get("/sessions"), served.get("/nothing"), served.raw(preflight.as_bytes()), kill(&own)] {
        assert!(!reply.head.contains("access-control"), "{reply:?}");
        for header in [
            "content-type: application/json",
            "cache-control: no-store",
            "x-content-type-options: nosniff",
            "content-security-policy: default-src 'none'; frame-ancestors 'none'",
            "x-frame-options: deny",
            "referrer-policy: no-referrer",
            "cross-origin-resource-policy: same-origin",
        ] {
            assert!(reply.head.contains(header), "{header}: {reply:?}");
        }
    }
    assert!(!env.session_dir(&id).join("kill").exists());
    // The control: the same request as it should be.
    assert_eq!(kill(&format!("{own}{right}Origin: http://127.0.0.1:{port}\r\nSec-Fetch-Site: same-origin\r\n")).status, 200);
    assert_eq!(run.wait(SOON).code(), 122);
}

#[test]
fn what_is_asked_wrongly_is_refused_with_the_right_status() {
    let env = TestEnv::new();
    let served = serve(&env);
    let (_run, id, _) = running(&env, "sleep 300", 1);
    let json = "Content-Type: application/json\r\n";
    for path in [
        "/",
        "/sessions/",
        "//sessions",
        "/sessions/../sessions",
        "/sessions/%2e%2e/kill",
        "/serve-token",
        "/sessions/..%2f..%2fserve-token",
        "/sessions/ffff",
    ] {
        assert_eq!(served.get(path).status, 404, "{path}");
    }
    for path in ["/sessions?x=1", "/sessions?all=1", "/sessions?all=true&all=false", &format!("/sessions/{id}?all=true")] {
        assert_eq!(served.get(path).status, 400, "{path}");
    }
    for (method, path, allow) in
        [("DELETE", "/sessions", "get"), ("POST", "/sessions", "get"), ("GET", &*format!("/sessions/{id}/kill"), "post")]
    {
        let reply = served.ask(method, path, json, "");
        assert_eq!((reply.status, reply.head.contains(&format!("allow: {allow}"))), (405, true), "{method} {path}");
    }
    assert_eq!(served.kill("ffff", "{}").status, 404);
    for body in
        ["", "{", "[]", "null", "kill", r#"{"nwo":true}"#, r#"{"now":"yes"}"#, r#"{"wait_ms":999999}"#, r#"{"now":true,"now":true}"#]
    {
        assert_eq!(served.kill(&id, body).status, 400, "{body}");
    }
    assert!(!env.session_dir(&id).join("kill").exists());
}

#[test]
fn bodies_that_are_too_long_or_too_slow_are_cut_off() {
    let env = TestEnv::new();
    let served = serve(&env);
    let (_run, id, _) = running(&env, "sleep 300", 1);
    let huge = format!(r#"{{"reason":"{}"}}"#, "x".repeat(1_000_000));
    assert_eq!(served.kill(&id, &huge).status, 413);
    let (port, token) = (served.port, &served.token);
    let head = format!(
        "POST /sessions/{id}/kill HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n"
    );
    // Announced, never sent; and without a length, without an end.
    let announced = served.raw(format!("{head}Content-Length: 999999999999\r\n\r\n").as_bytes());
    assert_eq!(announced.status, 413);
    let chunk = format!("1000\r\n{}\r\n", " ".repeat(0x1000));
    let endless = served.raw(format!("{head}Transfer-Encoding: chunked\r\n\r\n{}", chunk.repeat(8)).as_bytes());
    assert_eq!(endless.status, 413);
    // A body, and a head, that never come: they end, and do not hold the others meanwhile.
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| served.raw(format!("{head}Content-Length: 2\r\n\r\n{{").as_bytes()).status);
        let silent = scope.spawn(|| {
            let started = Instant::now();
            let reply = served.raw(b"GET /sessions HTTP/1.1\r\n");
            (reply.status, started.elapsed())
        });
        assert_eq!(served.get("/sessions").status, 200);
        assert_eq!(slow.join().unwrap(), 408);
        let (status, took) = silent.join().unwrap();
        assert!(status == 408 || status == 0, "{status}");
        assert!(took < Duration::from_mins(1), "it is cut off: {took:?}");
    });
    assert!(!env.session_dir(&id).join("kill").exists());
}

#[test]
fn the_token_stays_is_private_and_a_public_one_is_refused() {
    let env = TestEnv::new();
    let first = serve(&env);
    let second = serve(&env);
    assert_eq!(first.token, second.token);
    assert_eq!((first.get("/sessions").status, second.get("/sessions").status), (200, 200));
    let file = env.state_dir().join("serve-token");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let taken = env.sentrely(&["serve", "--port", &first.port.to_string()]).run().exits(1);
    assert!(taken.stderr.contains("hint: leave --port out"), "{}", taken.stderr);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let refused = env.sentrely(&["serve"]).run().exits(1);
    assert!(refused.stderr.contains("not private to you") && refused.stderr.contains("hint: rm "), "{}", refused.stderr);
}

#[test]
fn inside_a_session_it_is_refused() {
    let env = TestEnv::new();
    let binary = env!("CARGO_BIN_EXE_sentrely");
    let script = format!("{binary} serve; echo $?; env -u SENTRELY_RUN_ID {binary} serve; echo $?");
    let output = env.sentrely(&["run", "--", "sh", "-c", &script]).run().success();
    assert_eq!(output.stdout, "125\n125\n");
    assert!(!env.state_dir().join("serve-token").exists());
}

#[test]
fn it_answers_as_its_openapi_document_says() {
    crate::needs!(VENV);
    // First: to install it may take longer than anything else here.
    let schemathesis = python::program("st");
    let env = TestEnv::new();
    let served = serve(&env);
    // One that can be shown, and killed over and over.
    let (_run, _id, _) = running(&env, "sleep 300", 1);
    let document = env.root().join("openapi.json");
    fs::write(&document, served.get("/openapi.json").body).unwrap();
    let mut command = Command::new(schemathesis);
    command.arg("run").arg(&document).args(["--url", &format!("http://127.0.0.1:{}", served.port)]);
    command.args(["--header", &format!("Authorization: Bearer {}", served.token)]);
    // The same cases each time, and few of them.
    command.args([
        "--seed",
        "4711",
        "--max-examples",
        "15",
        "--phases",
        "examples,coverage,fuzzing",
        "--no-color",
        "--request-timeout",
        "60",
    ]);
    command.current_dir(env.root()).env("HOME", env.home()).env("HYPOTHESIS_STORAGE_DIRECTORY", env.tmp().join("hypothesis"));
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{text}");
}
