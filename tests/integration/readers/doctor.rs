//! `doctor`.

use std::fs;
use std::net::TcpListener;

use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::support::state::{Home, script};

/// A home whose programs are ours, so that doctor says the same everywhere; the kernel's lines are left out.
fn examined(home: &Home, claude: &str, git: &str, upstream: &str) -> (i32, String) {
    let bin = home.path().join("bin");
    script(&bin.join("claude"), &format!("echo '{claude}'"));
    script(&bin.join("git"), &format!("echo '{git}'"));
    let output = home.command(&["doctor"]).env("PATH", &bin).env("ANTHROPIC_BASE_URL", upstream).output().unwrap();
    let ran = home.ran(output);
    let kernel = ["wall ", "user namespaces", "Landlock", "cgroup v2"];
    let mut lines: Vec<&str> = Vec::new();
    for line in ran.stdout.lines() {
        if kernel.iter().any(|name| line.contains(name)) {
            break;
        }
        lines.push(line);
    }
    let text: Vec<String> = lines
        .iter()
        .map(|line| match line.split_once("private, ") {
            Some((before, _)) => format!("{before}private, <space> free"),
            None => (*line).to_owned(),
        })
        .collect();
    (ran.code, text.join("\n"))
}

#[test]
fn doctor_is_content_with_a_good_machine() {
    let home = Home::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = format!("http://{}", listener.local_addr().unwrap());
    let (code, text) = examined(&home, "2.1.330 (Claude Code)", "git version 2.39.5", &upstream);
    let text = text.replace(&listener.local_addr().unwrap().port().to_string(), "<port>");
    assert_snapshot!(text, @"
    ok    state directory    <state>, private, <space> free
    ok    configuration      no files, the defaults hold
    ok    git                git version 2.39.5
    ok    claude             2.1.330 (Claude Code) at <home>/bin/claude
    ok    managed settings   none
    ok    upstream           http://127.0.0.1:<port>: 127.0.0.1:<port> answers
    ok    prices             29 models, as of 2026-11-22
    ok    AWS                no role configured and no credentials here: sessions have no AWS
    ");
    assert_eq!(code, 0);
}

#[test]
fn doctor_fails_on_what_no_session_can_do_without_and_says_what_to_do() {
    let home = Home::new();
    fs::write(home.state.kill_all_file(), "").unwrap();
    fs::create_dir(home.path().join(".aws")).unwrap();
    fs::write(home.path().join(".aws/credentials"), "").unwrap();
    fs::write(home.path().join("sentrely.toml"), "[budget]\nlimts = \"5usd\"\n").unwrap();
    // Bound and let go: nobody listens there.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (code, text) = examined(&home, "2.1.100 (Claude Code)", "git version 2.20.1", &format!("http://127.0.0.1:{port}"));
    assert_snapshot!(text.replace(&port.to_string(), "<port>"), @"
    warn  state directory    <state>/kill exists: it stops every session and refuses new ones
                             hint: rm <state>/kill
    fail  configuration      read <home>/sentrely.toml:2:1: unknown key `budget.limts`
                             hint: did you mean `budget.limits`?
    fail  git                git version 2.20.1 is too old
                             hint: install git 2.30 or newer
    fail  claude             2.1.100 (Claude Code) at <home>/bin/claude is too old
                             hint: npm install -g @anthropic-ai/claude-code (2.1.197 or newer)
    ok    managed settings   none
    warn  upstream           http://127.0.0.1:<port>: 127.0.0.1:<port> cannot be reached: Connection refused (os error 111)
                             hint: check the network, or HTTPS_PROXY
    ok    prices             29 models, as of 2026-11-22
    ok    AWS                no role configured: sessions have no AWS, what is here (<home>/.aws/credentials) is withheld
    ");
    assert_eq!(code, 1);
}

#[test]
fn doctor_json_says_the_same() {
    let home = Home::new();
    let output =
        home.command(&["doctor", "--json"]).env("ANTHROPIC_BASE_URL", "http://127.0.0.1:1").env("PATH", "/nowhere").output().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((document["ok"].clone(), output.status.code()), (json!(false), Some(1)));
    let check = |name: &str| document["checks"].as_array().unwrap().iter().find(|check| check["name"] == name).unwrap().clone();
    assert_eq!(check("git"), json!({ "name": "git", "status": "fail", "what": "not found on PATH", "hint": "install git 2.30 or newer" }));
    assert_eq!(check("claude")["status"], "warn");
}
