//! Our requests against GitHub's own published description (npm `@octokit/openapi`), judged by Prism.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::{ADDED, configure, pr, session, world};
use crate::needs;
use crate::support::components::{NPM, target_dir};
use crate::support::forge::Forge;
use crate::support::run::{kill_tree, wait_until};

const PINS: [&str; 2] = ["@octokit/openapi@23.0.2", "@stoplight/prism-cli@5.14.2"];
const PATHS: [&str; 2] = ["/repos/{owner}/{repo}/pulls", "/repos/{owner}/{repo}/pulls/{pull_number}"];

/// Installed once under `target/`: one test process installs, others wait.
fn installed() -> PathBuf {
    let home = target_dir().join("prism");
    fs::create_dir_all(&home).unwrap();
    let lock = File::create(home.join("lock")).unwrap();
    lock.lock().unwrap();
    let (done, pins) = (home.join("installed"), PINS.join("\n"));
    if !fs::read_to_string(&done).is_ok_and(|found| found == pins) {
        let install = Command::new("npm").args(["install", "--no-audit", "--no-fund", "--prefix"]).arg(&home).args(PINS).output().unwrap();
        assert!(install.status.success(), "{}", String::from_utf8_lossy(&install.stderr));
        fs::write(done, pins).unwrap();
    }
    home
}

/// The description of pull requests and all it refers to: the whole one takes Prism minutes.
fn sliced(whole: &Value) -> Value {
    let mut slice =
        json!({ "openapi": whole["openapi"], "info": whole["info"], "servers": whole["servers"], "paths": {}, "components": {} });
    let mut wanted: Vec<String> = Vec::new();
    for path in PATHS {
        slice["paths"][path] = whole["paths"][path].clone();
        refer(&whole["paths"][path], &mut wanted);
    }
    let mut seen = 0;
    while seen < wanted.len() {
        let parts: Vec<&str> = wanted[seen].trim_start_matches("#/components/").splitn(2, '/').collect();
        let found = whole["components"][parts[0]][parts[1]].clone();
        slice["components"][parts[0]][parts[1]] = found.clone();
        seen += 1;
        refer(&found, &mut wanted);
    }
    slice
}

fn refer(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(name)) = map.get("$ref")
                && !found.contains(name)
            {
                found.push(name.clone());
            }
            map.values().for_each(|value| refer(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| refer(value, found)),
        _ => {}
    }
}

struct Prism {
    child: Child,
    log: PathBuf,
    url: String,
}

impl Prism {
    fn start(home: &Path, dir: &Path) -> Self {
        let whole = fs::read(home.join("node_modules/@octokit/openapi/generated/api.github.com.json")).unwrap();
        let description = dir.join("github.json");
        fs::write(&description, serde_json::to_vec(&sliced(&serde_json::from_slice(&whole).unwrap())).unwrap()).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let log = dir.join("prism.log");
        let mut command = Command::new("node");
        command.arg(home.join("node_modules/@stoplight/prism-cli/dist/index.js")).args([
            "mock",
            "-h",
            "127.0.0.1",
            "-p",
            &port.to_string(),
        ]);
        let output = File::create(&log).unwrap();
        let child = command.arg(&description).stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output).spawn().unwrap();
        let started = Self { child, log, url: format!("http://127.0.0.1:{port}") };
        wait_until(Duration::from_mins(3), "Prism to listen", || started.said().contains("Prism is listening"));
        started
    }

    /// A request to open a pull request; the answer, with its head.
    fn post(&self, body: &str) -> String {
        let address = self.url.trim_start_matches("http://");
        let head = format!("POST /repos/acme/shop/pulls HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer x\r\nconnection: close\r\n");
        let head = format!("{head}content-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        std::io::Write::write_all(&mut stream, format!("{head}{body}").as_bytes()).unwrap();
        std::io::read_to_string(stream).unwrap()
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Prism {
    fn drop(&mut self) {
        kill_tree(i32::try_from(self.child.id()).unwrap());
        let _ = self.child.wait();
    }
}

#[test]
fn what_we_ask_is_what_github_describes() {
    needs!(NPM);
    let home = installed();
    let env = world("https://github.com/acme/shop.git");
    let prism = Prism::start(&home, &env.tmp());
    configure(&env, &prism.url);
    let id = session(&env, ADDED);
    // Prism answers with GitHub's examples: a list with one pull request, so ours is an update of number 1347.
    let said = pr(&env, &id, &[]).success().stdout;
    assert!(said.contains("/pull/1347"), "{said}");
    // Its answers break its own rules (GitHub's examples do); the requests do not.
    let log = prism.said();
    assert!(!log.contains("Violation: request") && log.matches("passed the validation rules").count() == 2, "{log}");

    // What opens a new one, as our own server gets it, word for word.
    let forge = Forge::start();
    configure(&env, &forge.url());
    let _ = pr(&env, &id, &[]).success();
    let created = prism.post(&forge.asked()[1].body.to_string());
    assert!(created.starts_with("HTTP/1.1 201"), "{created}");

    // A control: a request that GitHub's description does not allow is found.
    let refused = prism.post(r#"{"title":"x","head":"y"}"#);
    assert!(refused.starts_with("HTTP/1.1 422") && refused.contains("base"), "{refused}");
}
