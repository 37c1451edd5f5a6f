//! Protected branches by way of the forge's REST API, with the agent's own HTTP client: past git, and so past the gate. What keeps the session
//! from it is that it holds no token.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::support::components::{Component, PYTHON};
use crate::support::env::TestEnv;
use crate::support::forge::{Asked, read, send};

/// A small GitHub in front of a bare repository, as far as its REST API changes branches: whoever has the token may do all of it.
pub(super) struct Rest {
    pub(super) url: String,
    pub(super) token: String,
}

impl Rest {
    /// Its thread ends with the test process.
    pub(super) fn start(bare: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let rest =
            Self { url: format!("http://{}", listener.local_addr().unwrap()), token: format!("ghp_{}", uuid::Uuid::new_v4().simple()) };
        let bearer = format!("Bearer {}", rest.token);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                answer(stream, &bare, &bearer);
            }
        });
        rest
    }

    /// The login of `gh` in the developer's home, and the agent's client beside it.
    pub(super) fn furnish(&self, env: &TestEnv) {
        let hosts = format!("github.com:\n    oauth_token: {}\n    user: ada\n", self.token);
        for (path, content) in
            [(env.home().join(".config/gh/hosts.yml"), hosts.as_str()), (env.root().join("clients/api.py"), include_str!("api.py"))]
        {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
    }
}

fn answer(stream: TcpStream, bare: &Path, bearer: &str) {
    let Some(asked) = read(&stream) else { return };
    let refused = || (401, Vec::new(), json!({ "message": "Bad credentials" }));
    let answer = if asked.header("authorization") == Some(bearer) { done(bare, &asked) } else { None };
    send(stream, answer.map_or_else(refused, |answer| (200, Vec::new(), answer)));
}

/// docs.github.com: "Git database", "Repository contents", "Merge a branch".
fn done(bare: &Path, asked: &Asked) -> Option<Value> {
    let git = |args: &[&str], input: &[u8]| {
        let mut command = Command::new("git");
        command.args(["-c", "safe.directory=*", "-c", "user.name=x", "-c", "user.email=x@y", "-C", bare.to_str()?]).args(args);
        let mut child = command.env("HOME", "/nonexistent").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
        child.stdin.take()?.write_all(input).ok()?;
        let output = child.wait_with_output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let set = |branch: &str, sha: &str| git(&["update-ref", &format!("refs/heads/{branch}"), sha], b"");
    let (text, path) = (|name: &str| asked.body[name].as_str(), asked.path.strip_prefix("/repos/acme/shop/")?);
    match (asked.method.as_str(), path) {
        ("GET", "git/ref/heads/main") => Some(json!({ "object": { "sha": git(&["rev-parse", "main"], b"")? } })),
        ("GET", path) => {
            let sha = path.strip_prefix("git/commits/")?;
            Some(json!({ "tree": { "sha": git(&["rev-parse", &format!("{sha}^{{tree}}")], b"")? } }))
        }
        ("POST", "git/commits") => {
            let parent = asked.body["parents"][0].as_str()?;
            Some(json!({ "sha": git(&["commit-tree", text("tree")?, "-p", parent, "-m", text("message")?], b"")? }))
        }
        ("PATCH", "git/refs/heads/main") => set("main", text("sha")?).map(|_| json!({ "ref": "refs/heads/main" })),
        ("POST", "merges") => set(text("base")?, text("head")?).map(|_| json!({ "sha": text("head") })),
        ("PUT", path) => {
            let (name, branch) = (path.strip_prefix("contents/")?, text("branch")?);
            let blob = git(&["hash-object", "-w", "--stdin"], &BASE64_STANDARD.decode(text("content")?).ok()?)?;
            let listed = git(&["ls-tree", branch], b"")? + &format!("\n100644 blob {blob}\t{name}\n");
            let tree = git(&["mktree"], listed.as_bytes())?;
            let commit = git(&["commit-tree", &tree, "-p", branch, "-m", text("message")?], b"")?;
            set(branch, &commit).map(|_| json!({ "commit": { "sha": commit } }))
        }
        _ => None,
    }
}

/// Looks for a token where a developer has one: the variables, the file of gh's login, what git stored.
const SEARCH: &str = r#"
for token in "$GH_TOKEN" "$GITHUB_TOKEN" "$(sed -n 's/.*oauth_token: //p' "$HOME/.config/gh/hosts.yml" 2>/dev/null)"; do
  [ -n "$token" ] && python3 "$API_CLIENT" move "$token"
done; true"#;

/// A developer's machine with the token in a variable or a file, and the forge beside it.
fn world() -> (TestEnv, Rest) {
    let env = TestEnv::new();
    let rest = Rest::start(env.origin());
    rest.furnish(&env);
    (env, rest)
}

fn main_of(env: &TestEnv) -> String {
    env.git_in(&env.origin(), &["rev-parse", "main"])
}

/// Runs `script` in a session; whether main moved.
fn moves(wall: &str, in_environment: bool, in_file: bool, script: &str) -> bool {
    let (env, rest) = world();
    if !in_file {
        std::fs::remove_file(env.home().join(".config/gh/hosts.yml")).unwrap();
    }
    let before = main_of(&env);
    let mut run = env.sentrely(&["run", "--wall", wall, "--", "sh", "-c", script]).var("API", &rest.url);
    run = run.var("API_CLIENT", env.root().join("clients/api.py")).var("TOKEN_OF_THE_TEST", &rest.token);
    if in_environment {
        run = run.var("GH_TOKEN", &rest.token).var("GITHUB_TOKEN", &rest.token);
    }
    let _ = run.run().success();
    main_of(&env) != before
}

#[test]
fn the_forge_moves_main_for_whoever_holds_the_token_and_for_nobody_else() {
    crate::needs!(PYTHON);
    let (env, rest) = world();
    let call = |what: &str, token: &str| {
        let before = main_of(&env);
        let done =
            Command::new("python3").arg(env.root().join("clients/api.py")).args([what, token]).env("API", &rest.url).output().unwrap();
        (done.status.success(), main_of(&env) != before)
    };
    for what in ["move", "contents", "merge"] {
        assert_eq!(call(what, &rest.token), (true, true), "{what}");
        assert_eq!(call(what, "ghp_wrong"), (false, false), "{what}");
    }
}

#[test]
fn a_session_behind_the_wall_finds_no_token_and_with_one_it_would_get_through() {
    crate::needs!(PYTHON, Component::Namespaces);
    assert!(!moves("require", true, true, SEARCH));
    // The control: the network is open, and nothing but the token is missing.
    assert!(moves("require", true, true, r#"python3 "$API_CLIENT" move "$TOKEN_OF_THE_TEST""#));
}

#[test]
fn without_a_wall_the_variables_are_withheld_and_the_login_of_gh_lies_open() {
    crate::needs!(PYTHON);
    assert!(!moves("off", true, false, SEARCH), "variables");
    assert!(moves("off", false, true, SEARCH), "the file: README says so");
}
