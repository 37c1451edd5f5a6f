//! `sentrely demo`: the self-test of an installation.

use std::time::Duration;

use crate::support::env::TestEnv;
use crate::support::namespace;
use crate::support::run::Output;

fn demo(args: &[&str]) -> Output {
    let env = TestEnv::new();
    let output = env.sentrely(&[&["demo"], args].concat()).timeout(Duration::from_secs(90)).run().success();
    assert!(env.sessions().is_empty(), "it has a state directory of its own");
    let home: Vec<_> = std::fs::read_dir(env.home()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(home, [".gitconfig"], "and leaves the home alone");
    assert!(env.processes().is_empty());
    output
}

#[test]
fn it_shows_every_promise_and_checks_them() {
    let output = demo(&["--check"]);
    assert_eq!(output.stdout, "");
    let (shown, checks): (Vec<&str>, Vec<&str>) =
        output.stderr.lines().filter(|line| !line.is_empty()).partition(|line| line.starts_with("simulated │ "));
    assert!(shown.len() > 20, "{}", output.stderr);
    let passed = checks.iter().filter(|line| line.starts_with("ok ")).count();
    assert!(passed >= 10, "{}", output.stderr);
    // Beside the checks only the last word and the next step.
    let rest: Vec<&&str> = checks.iter().filter(|line| !line.starts_with("ok ")).collect();
    assert!(
        rest.len() == 2 && rest[0].starts_with(&format!("demo: {passed} checks passed")) && rest[1].contains("sentrely run"),
        "{rest:?}"
    );
}

#[test]
fn it_passes_in_a_network_that_has_nothing_but_loopback() {
    if namespace::entered(module_path!(), "it_passes_in_a_network_that_has_nothing_but_loopback") {
        let _ = demo(&["--check"]);
    }
}
