//! A remote over a network is watched too, as it tells the developer's own git: at the start and at the end, and never waited for.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::support::components::Component;
use crate::support::env::TestEnv;
use crate::support::git::{Lab, Origin, PASSWORD};
use crate::support::run::wait_until;

/// The developer's project, with its remote behind HTTP and the password in the home.
fn world() -> (TestEnv, Lab, Origin) {
    let (env, lab) = (TestEnv::new(), Lab::new());
    let (_, origin) = lab.shop();
    std::fs::write(env.home().join(".git-credentials"), format!("http://ada:{PASSWORD}@127.0.0.1:{}\n", origin.port)).unwrap();
    env.git(&["config", "--global", "credential.helper", "store"]);
    env.git(&["remote", "set-url", "origin", &origin.url]);
    env.git(&["push", "-q", "--force", "origin", "main"]);
    origin.requests.lock().unwrap().clear();
    (env, lab, origin)
}

/// A session that runs `script` once its remote was looked at, and `meanwhile`.
fn session(env: &TestEnv, origin: &Origin, wall: &str, script: &str, meanwhile: impl Fn()) -> crate::support::run::Output {
    let go = env.root().join("go");
    let script = format!("until test -e {}; do sleep 0.05; done; {script}", go.display());
    let running = env.sentrely(&["run", "--wall", wall, "--", "sh", "-c", &script]).spawn();
    let looked =
        || origin.requests.lock().unwrap().iter().any(|request| request.starts_with("POST") && request.ends_with("git-upload-pack"));
    wait_until(Duration::from_mins(1), "the first look", looked);
    meanwhile();
    std::fs::write(go, "").unwrap();
    running.wait(Duration::from_mins(1))
}

fn moved(env: &TestEnv) -> Vec<(String, String)> {
    let told = env.events(&env.the_session(), "protected_moved");
    told.iter().map(|event| (event["place"].as_str().unwrap().to_owned(), event["name"].as_str().unwrap().to_owned())).collect()
}

#[test]
fn without_a_wall_a_branch_that_the_session_moved_past_its_gate_is_told_and_recorded() {
    let (env, lab, origin) = world();
    let before = origin.tip(&lab, "main");
    let script =
        format!("git commit -q --allow-empty -m evil; git -c credential.helper=store push -q {} HEAD:main HEAD:refs/tags/new", origin.url);
    let output = session(&env, &origin, "off", &script, || {});
    assert_ne!(origin.tip(&lab, "main"), before, "the control: the attack works: {}", output.stderr);
    assert_eq!(moved(&env), [("origin".to_owned(), "refs/heads/main".to_owned())]);
    let event = &env.events(&env.the_session(), "protected_moved")[0];
    assert_eq!((event["before"].as_str(), event["after"].as_str()), (before.as_deref(), origin.tip(&lab, "main").as_deref()));
    assert!(output.stderr.contains("moved during the session, by whom is not known: main of origin"), "{}", output.stderr);
}

#[test]
fn behind_the_wall_what_somebody_else_moved_is_said_to_be_somebody_elses() {
    crate::needs!(Component::Namespaces);
    let (env, _lab, origin) = world();
    let output = session(&env, &origin, "require", "true", || {
        env.git(&["commit", "-q", "--allow-empty", "-m", "a colleague's"]);
        env.git(&["push", "-q", "origin", "main"]);
    });
    // The colleague works on this machine too.
    let main = |place: &str| (place.to_owned(), "refs/heads/main".to_owned());
    assert_eq!(moved(&env), [main("your checkout"), main("origin")], "{}", output.stderr);
    let words = "moved during the session, most likely by somebody else, since the session was kept from credentials: main of origin";
    assert!(output.stderr.contains(words) && !output.stderr.contains("by whom is not known"), "{}", output.stderr);
}

#[test]
fn where_nothing_moved_nothing_is_said() {
    let (env, _lab, origin) = world();
    let output = session(&env, &origin, "off", "git commit -q --allow-empty -m good; git push -q", || {});
    assert!(moved(&env).is_empty() && !output.stderr.contains("moved during the session"), "{}", output.stderr);
}

#[test]
fn a_remote_that_never_answers_or_is_not_there_holds_nobody() {
    // Takes connections, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for address in [silent.local_addr().unwrap(), closed] {
        let env = TestEnv::new();
        env.git(&["remote", "set-url", "origin", &format!("http://{address}/shop.git")]);
        let start = Instant::now();
        let output = env.sentrely(&["run", "--wall", "off", "--", "true"]).run().success();
        assert!(start.elapsed() < Duration::from_secs(15), "{:?}: {}", start.elapsed(), output.stderr);
        assert_eq!(moved(&env), []);
        wait_until(Duration::from_secs(10), "the end of what looked", || env.processes().is_empty());
    }
}
