//! A small GitHub: pull requests in memory, with the refusals and delays that the real one is known for.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

/// A request that arrived.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// With its query.
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Value,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// An answer that goes before what the forge would say: status, headers, body.
pub(crate) type Instead = (u16, Vec<(&'static str, String)>, Value);

#[derive(Default)]
struct State {
    asked: Vec<Asked>,
    /// Requests about branches, which sessions make beside their start.
    of_branches: Vec<Asked>,
    branches: Option<Instead>,
    /// Permissions, kinds of rules, and whether `main` is protected.
    guard: Option<(Value, Vec<String>, bool)>,
    /// At GitLab: the project, and its protected branches.
    gitlab: Option<(Value, Value)>,
    pulls: Vec<Value>,
    /// Answers to the next requests of a method.
    instead: VecDeque<(&'static str, Instead)>,
}

/// The running forge. Its threads end with the test process.
pub(crate) struct Forge {
    state: Arc<Mutex<State>>,
    address: std::net::SocketAddr,
}

impl Forge {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || answer(stream, &shared));
            }
        });
        Self { state, address }
    }

    /// The API's address.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next request of this method gets this instead.
    pub(crate) fn next(&self, method: &'static str, status: u16, headers: &[(&'static str, &str)], body: Value) {
        let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        self.state.lock().unwrap().instead.push_back((method, (status, headers, body)));
    }

    /// As if somebody had opened it: without a request.
    pub(crate) fn open(&self, head: &str, body: &str) {
        let mut state = self.state.lock().unwrap();
        let number = state.pulls.len() + 1;
        state.pulls.push(pull(number, head, &json!({ "title": "By hand", "body": body, "base": "main", "draft": false })));
    }

    /// Writes to the text of a pull request, as people do.
    pub(crate) fn edit(&self, number: usize, change: impl Fn(&str) -> String) {
        let mut state = self.state.lock().unwrap();
        let body = change(state.pulls[number - 1]["body"].as_str().unwrap());
        state.pulls[number - 1]["body"] = json!(body);
    }

    /// These branches are protected.
    pub(crate) fn protect(&self, names: &[&str]) {
        let listed = names.iter().map(|name| json!({ "name": name, "protected": true })).collect();
        self.state.lock().unwrap().branches = Some((200, Vec::new(), Value::Array(listed)));
    }

    /// What protects `main`.
    pub(crate) fn guard(&self, permissions: Value, rules: &[&str], protected: bool) {
        let rules = rules.iter().map(|rule| (*rule).to_owned()).collect();
        self.state.lock().unwrap().guard = Some((permissions, rules, protected));
    }

    /// What a GitLab says: the level of the token's owner, and the protected branches as its documentation shows them.
    pub(crate) fn gitlab(&self, level: u64, branches: Value) {
        let project = json!({
            "id": 7, "path_with_namespace": "acme/shop", "default_branch": "main",
            "permissions": { "project_access": { "access_level": level, "notification_level": 3 }, "group_access": null },
        });
        self.state.lock().unwrap().gitlab = Some((project, branches));
    }

    /// Who asks for branches gets this.
    pub(crate) fn refuse_branches(&self, status: u16, body: Value) {
        self.state.lock().unwrap().branches = Some((status, Vec::new(), body));
    }

    pub(crate) fn asked_for_branches(&self) -> Vec<Asked> {
        self.state.lock().unwrap().of_branches.clone()
    }

    pub(crate) fn pulls(&self) -> Vec<Value> {
        self.state.lock().unwrap().pulls.clone()
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.state.lock().unwrap().asked.clone()
    }

    /// `GET POST` ...
    pub(crate) fn methods(&self) -> String {
        self.asked().iter().map(|asked| asked.method.clone()).collect::<Vec<_>>().join(" ")
    }
}

fn pull(number: usize, head: &str, asked: &Value) -> Value {
    json!({
        "number": number, "html_url": format!("https://github.com/acme/shop/pull/{number}"), "state": "open",
        "title": asked["title"], "body": asked["body"], "draft": asked["draft"], "head": { "ref": head }, "base": { "ref": asked["base"] },
    })
}

fn answer(stream: TcpStream, state: &Mutex<State>) {
    let Some(asked) = read(&stream) else { return };
    let answer = {
        let mut state = state.lock().unwrap();
        if asked.path.starts_with("/repos/acme/shop/branches?") {
            state.of_branches.push(asked.clone());
            let answer = state.branches.clone().unwrap_or_else(|| (200, Vec::new(), json!([])));
            drop(state);
            return send(stream, answer);
        }
        if let Some(answer) = at_gitlab(&state, &asked).or_else(|| about_main(&state, &asked)) {
            state.of_branches.push(asked);
            drop(state);
            return send(stream, answer);
        }
        state.asked.push(asked.clone());
        let instead = state.instead.iter().position(|(method, _)| *method == asked.method);
        match instead.and_then(|at| state.instead.remove(at)) {
            Some((_, instead)) => instead,
            None => reply(&mut state, &asked),
        }
    };
    send(stream, answer);
}

fn at_gitlab(state: &State, asked: &Asked) -> Option<Instead> {
    let (project, branches) = state.gitlab.as_ref()?;
    match asked.path.as_str() {
        "/api/v4/projects/acme%2Fshop" => Some((200, Vec::new(), project.clone())),
        "/api/v4/projects/acme%2Fshop/protected_branches?per_page=100" => Some((200, Vec::new(), branches.clone())),
        _ => None,
    }
}

fn about_main(state: &State, asked: &Asked) -> Option<Instead> {
    let (permissions, rules, protected) = state.guard.as_ref()?;
    let answer = match asked.path.as_str() {
        "/repos/acme/shop" => json!({ "full_name": "acme/shop", "permissions": permissions }),
        "/repos/acme/shop/rules/branches/main" => rules.iter().map(|rule| json!({ "type": rule })).collect(),
        "/repos/acme/shop/branches/main" => json!({ "name": "main", "protected": protected }),
        _ => return None,
    };
    Some((200, Vec::new(), answer))
}

pub(crate) fn send(mut stream: TcpStream, (status, headers, body): Instead) {
    let body = body.to_string();
    let mut text =
        format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n", body.len());
    for (name, value) in headers {
        write!(text, "{name}: {value}\r\n").unwrap();
    }
    let _ = stream.write_all(format!("{text}\r\n{body}").as_bytes());
}

fn reply(state: &mut State, asked: &Asked) -> Instead {
    let list = "/repos/acme/shop/pulls";
    match (asked.method.as_str(), asked.path.split('?').next().unwrap()) {
        ("GET", path) if path == list => {
            let open = state.pulls.iter().filter(|pull| {
                let head = pull["head"]["ref"].as_str().unwrap().replace('/', "%2F");
                asked.path.contains(&format!("head=acme%3A{head}"))
            });
            (200, Vec::new(), Value::Array(open.cloned().collect()))
        }
        ("POST", path) if path == list => {
            let pull = pull(state.pulls.len() + 1, asked.body["head"].as_str().unwrap(), &asked.body);
            state.pulls.push(pull.clone());
            (201, Vec::new(), pull)
        }
        ("PATCH", path) => {
            let number: usize = path.rsplit('/').next().unwrap().parse().unwrap();
            state.pulls[number - 1]["body"] = asked.body["body"].clone();
            (200, Vec::new(), state.pulls[number - 1].clone())
        }
        _ => (404, Vec::new(), json!({ "message": "Not Found" })),
    }
}

pub(crate) fn read(stream: &TcpStream) -> Option<Asked> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let mut asked = Asked { method, path, headers, body: Value::Null };
    let length = asked.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    asked.body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    Some(asked)
}
