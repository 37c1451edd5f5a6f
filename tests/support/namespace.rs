//! A test that runs in namespaces of its own: a network with nothing but loopback, mounts that nobody else sees.
//!
//! The test process starts itself again under `unshare(1)` for that one test. Inside, the test is root of a user namespace: what it mounts
//! and listens on goes away with its last process.

use std::process::Command;

use super::components::{Component, all_there};

const INSIDE: &str = "SENTRELY_TEST_INSIDE";

/// Whether the body of the calling test is to run: true inside the namespaces. Outside it runs the test inside, fails with it, and is false.
///
/// `module` is the caller's `module_path!()`, `test` its function's name.
#[track_caller]
#[expect(clippy::print_stdout, reason = "captured with the test's output")]
pub(crate) fn entered(module: &str, test: &str) -> bool {
    let path = format!("{}::{test}", module.split_once("::").map_or(module, |(_, rest)| rest));
    if std::env::var(INSIDE).is_ok_and(|inside| inside == path) {
        command("ip", &["link", "set", "lo", "up"]);
        return true;
    }
    if !all_there(&[Component::Namespaces, Component::Program("unshare"), Component::Program("ip")]) {
        return false;
    }
    let mut unshare = Command::new("unshare");
    // The process namespace as well: when its first process is gone, nothing of the test is left.
    unshare.args(["--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    unshare.arg(std::env::current_exe().unwrap()).args([&path, "--exact", "--nocapture"]).env(INSIDE, &path);
    let output = unshare.output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    print!("{stdout}{stderr}");
    assert!(output.status.success() && stdout.contains("1 passed"), "{path} in namespaces: {}", output.status);
    false
}

/// Runs a program of the system; fails the test with it.
#[track_caller]
pub(crate) fn command(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}
