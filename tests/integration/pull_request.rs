//! `sentrely pr` and `run --pr`: the review gate.

mod github;
mod other;
mod published;

use crate::support::env::TestEnv;
use crate::support::forge::Forge;
use crate::support::run::{Output, Run};

/// In the form of a real one.
pub(crate) const TOKEN: &str = "ghp_sentrelyTest0000000000000000000000";
const ADDED: &str = "echo one > one.txt && git add one.txt && git commit -qm 'Add one'";

/// A world whose remote has a forge's name and lies on this disk.
fn world(url: &str) -> TestEnv {
    let env = TestEnv::new();
    env.git(&["remote", "set-url", "origin", url]);
    env.git(&["config", "--global", &format!("url.{}.insteadOf", env.origin().display()), url]);
    env
}

/// The same at GitHub, whose API is `forge`.
pub(crate) fn at_github(forge: &Forge) -> TestEnv {
    let env = world("https://github.com/acme/shop.git");
    configure(&env, &forge.url());
    env
}

/// The same at a GitLab of another name, whose API is `forge`.
pub(crate) fn at_gitlab(forge: &Forge) -> TestEnv {
    let env = world("https://git.corp.example/acme/shop.git");
    configure(&env, &format!("{}/api/v4", forge.url()));
    env
}

pub(crate) fn configure(env: &TestEnv, api: &str) {
    let dir = env.home().join(".config/sentrely");
    std::fs::create_dir_all(&dir).unwrap();
    let token = env.home().join("token");
    std::fs::write(&token, TOKEN).unwrap();
    std::fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let file = format!("[git]\napi_url = \"{api}\"\ntoken = {{ file = \"{}\" }}\n", token.display());
    std::fs::write(dir.join("config.toml"), file).unwrap();
}

/// A session that runs `script`, ended; its id.
fn session(env: &TestEnv, script: &str) -> String {
    let _ = run(env, &[], script).run().success();
    env.the_session()
}

fn run<'e>(env: &'e TestEnv, flags: &[&str], script: &str) -> Run<'e> {
    let words: Vec<&str> = [&["run"], flags, &["--", "sh", "-ec", script]].concat();
    env.sentrely(&words)
}

fn pr(env: &TestEnv, id: &str, flags: &[&str]) -> Output {
    env.sentrely(&[&["pr", id], flags].concat()).run()
}

/// The branch of the only session.
fn branch(env: &TestEnv) -> String {
    env.ls_json()["sessions"][0]["branch"].as_str().unwrap().to_owned()
}

/// The branches that the remote has.
fn pushed(env: &TestEnv) -> Vec<String> {
    let listed = env.git_in(&env.origin(), &["for-each-ref", "--format=%(refname:short)", "refs/heads"]);
    listed.lines().map(str::to_owned).collect()
}
