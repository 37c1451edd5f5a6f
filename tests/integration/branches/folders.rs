//! A remote that is a folder of this machine asks for no credential: behind the wall it is only read, and without one it is watched.

use crate::support::components::Component;
use crate::support::env::TestEnv;

/// A second remote besides `origin`, with the same `main`.
fn with_second() -> TestEnv {
    let env = TestEnv::new();
    env.git_in(env.root(), &["clone", "-q", "--bare", "origin.git", "second.git"]);
    env.git(&["remote", "add", "second", &format!("file://{}", env.root().join("second.git").display())]);
    env
}

fn mains(env: &TestEnv) -> [String; 2] {
    ["origin.git", "second.git"].map(|name| env.git_in(&env.root().join(name), &["rev-parse", "main"]))
}

/// Pushes past the gate, by path and by URL; commits what it could not.
fn attack(env: &TestEnv, wall: &str) -> crate::support::run::Output {
    let root = env.root().display();
    let script = format!(
        "git commit -q --allow-empty -m evil; git push {root}/origin.git HEAD:main; git push file://{root}/second.git HEAD:main; \
         echo $(git rev-parse HEAD) > {root}/second.git/refs/heads/main; git --git-dir={root}/origin.git tag evil; true"
    );
    env.sentrely(&["run", "--wall", wall, "--", "sh", "-c", &script]).run().success()
}

#[test]
fn behind_the_wall_a_remote_that_is_a_folder_keeps_its_branches() {
    crate::needs!(Component::Namespaces);
    let env = with_second();
    let before = mains(&env);
    let output = attack(&env, "require");
    assert_eq!(mains(&env), before, "{}", output.stderr);
    assert_eq!(env.events(&env.the_session(), "protected_moved"), Vec::<serde_json::Value>::new());
    // The way that is meant still leads there.
    let _ =
        env.sentrely(&["run", "--wall", "require", "--", "sh", "-ec", "git commit -q --allow-empty -m good; git push -q"]).run().success();
    assert!(env.git_in(&env.origin(), &["branch", "--list", "sentrely/*"]).contains("sentrely/"));
}

#[test]
fn without_a_wall_what_moved_is_in_the_record_and_in_the_summary() {
    let env = with_second();
    let before = mains(&env);
    let output = attack(&env, "off");
    let after = mains(&env);
    assert!(after[0] != before[0] && after[1] != before[1], "the control: the attack works without a wall");
    let moved = env.events(&env.the_session(), "protected_moved");
    let told: Vec<_> = moved.iter().map(|event| (event["place"].as_str().unwrap(), event["name"].as_str().unwrap())).collect();
    assert_eq!(told, [("origin", "refs/heads/main"), ("origin", "refs/tags/evil"), ("second", "refs/heads/main")]);
    assert_eq!((moved[0]["before"].as_str(), moved[0]["after"].as_str()), (Some(&*before[0]), Some(&*after[0])));
    assert_eq!(moved[1]["before"], serde_json::Value::Null);
    let words = "moved during the session, by whom is not known: main of origin, refs/tags/evil of origin, main of second";
    assert!(output.stderr.contains(words), "{}", output.stderr);
}
