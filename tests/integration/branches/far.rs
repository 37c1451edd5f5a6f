//! A remote over a network is watched too, as it tells the developer's own git: at the start and at the end, and never waited for.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::components::{Component, SSHD};
use crate::support::env::TestEnv;
use crate::support::git::{Lab, Origin, PASSWORD, executable};
use crate::support::run::{Output, Run, wait_until};
use crate::support::sshd;

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
fn session(env: &TestEnv, origin: &Origin, wall: &str, script: &str, meanwhile: impl Fn()) -> Output {
    let looked =
        || origin.requests.lock().unwrap().iter().any(|request| request.starts_with("POST") && request.ends_with("git-upload-pack"));
    session_with(
        env,
        |run| run,
        (wall, script),
        || {
            wait_until(Duration::from_mins(1), "the first look", || looked() && nobody_looks(env));
            meanwhile();
        },
    )
}

/// A session that runs `script` behind `wall`, after `before`.
fn session_with(env: &TestEnv, with: impl Fn(Run<'_>) -> Run<'_>, (wall, script): (&str, &str), before: impl Fn()) -> Output {
    let go = env.root().join("go");
    let script = format!("until test -e {}; do sleep 0.05; done; {script}", go.display());
    let running = with(env.sentrely(&["run", "--wall", wall, "--", "sh", "-c", &script])).spawn();
    before();
    std::fs::write(go, "").unwrap();
    running.wait(Duration::from_mins(1))
}

/// Whether git has told what it saw: the server knows that it was asked a moment earlier.
fn nobody_looks(env: &TestEnv) -> bool {
    let looks = |pid: &i32| {
        std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| words.split(|byte| *byte == 0).any(|word| word == b"ls-remote"))
    };
    !env.processes().iter().any(looks)
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

#[test]
fn where_it_is_switched_off_the_remote_is_asked_nothing() {
    let (env, lab, origin) = world();
    let before = origin.tip(&lab, "main");
    let script = format!("git commit -q --allow-empty -m evil; git -c credential.helper=store push -q {} HEAD:main", origin.url);
    let words = ["run", "--wall", "off", "--config", "git.watch_remote=false", "--", "sh", "-c", &script];
    let output = env.sentrely(&words).run().success();
    assert_ne!(origin.tip(&lab, "main"), before, "the control: the attack works: {}", output.stderr);
    assert!(moved(&env).is_empty() && !output.stderr.contains("moved during the session"), "{}", output.stderr);
    assert!(!origin.requests.lock().unwrap().iter().any(|request| request.ends_with("git-upload-pack")));
}

/// The developer's project, with its remote behind a real sshd that writes down what it was asked for.
struct Ssh {
    env: TestEnv,
    server: Child,
    url: String,
    bin: PathBuf,
}

impl Ssh {
    fn new() -> Self {
        let env = TestEnv::new();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let log = env.root().join("asked");
        let options = format!("command=\"sh -c \\\"$SSH_ORIGINAL_COMMAND\\\"; echo $SSH_ORIGINAL_COMMAND >> {}\",restrict", log.display());
        let server = sshd::serve(&env.root().join("sshd"), &env.home(), port, &options);
        let login = nix::unistd::User::from_uid(nix::unistd::getuid()).unwrap().unwrap().name;
        let url = format!("ssh://{login}@127.0.0.1:{port}{}", env.origin().display());
        env.git(&["remote", "set-url", "origin", &url]);
        // ssh asks the system where the home is, not the variable.
        let bin = env.root().join("bin");
        let client =
            format!("#!/bin/sh\necho \"$@\" >> {0}/called\nexec /usr/bin/ssh -F {0}/home/.ssh/config \"$@\"\n", env.root().display());
        executable(&bin.join("ssh"), &client);
        Self { env, server, url, bin }
    }

    fn with_client<'a>(&self, run: Run<'a>) -> Run<'a> {
        let path = std::env::var("PATH").unwrap();
        run.var("PATH", format!("{}:{path}", self.bin.display()))
    }

    /// What was written down in this file, line by line.
    fn lines(&self, name: &str) -> Vec<String> {
        std::fs::read_to_string(self.env.root().join(name)).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    fn looks(&self) -> usize {
        self.lines("asked").iter().filter(|line| line.starts_with("git-upload-pack")).count()
    }

    fn session(&self, wall: &str, script: &str, meanwhile: impl Fn()) -> Output {
        session_with(
            &self.env,
            |run| self.with_client(run),
            (wall, script),
            || {
                wait_until(Duration::from_mins(1), "the first look", || self.looks() > 0 && nobody_looks(&self.env));
                meanwhile();
            },
        )
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

#[test]
fn over_ssh_a_branch_that_the_session_moved_past_its_gate_is_told_and_recorded_and_nothing_where_none_moved() {
    crate::needs!(SSHD);
    let ssh = Ssh::new();
    let before = ssh.env.git_in(&ssh.env.origin(), &["rev-parse", "main"]);
    let quiet = ssh.session("off", "git commit -q --allow-empty -m good", || {});
    assert!(moved(&ssh.env).is_empty() && !quiet.stderr.contains("moved during the session"), "{}", quiet.stderr);
    assert_eq!(ssh.looks(), 2, "at the start and at the end");
    assert!(ssh.lines("called").iter().all(|line| line.contains("BatchMode=yes") && line.contains("-sk-")), "{:?}", ssh.lines("called"));

    let ssh = Ssh::new();
    let output = ssh.session("off", &format!("git commit -q --allow-empty -m evil; git push -q {} HEAD:main", ssh.url), || {});
    let after = ssh.env.git_in(&ssh.env.origin(), &["rev-parse", "main"]);
    assert_eq!(moved(&ssh.env), [("origin".to_owned(), "refs/heads/main".to_owned())], "{}", output.stderr);
    let event = &ssh.env.events(&ssh.env.the_session(), "protected_moved")[0];
    assert_ne!(before, after, "the control: the attack works: {}", output.stderr);
    assert_eq!(event["after"].as_str(), Some(&*after));
    assert!(output.stderr.contains("moved during the session, by whom is not known: main of origin"), "{}", output.stderr);
}

#[test]
fn over_ssh_behind_the_wall_what_a_colleague_moved_is_said_to_be_somebody_elses() {
    crate::needs!(SSHD, Component::Namespaces);
    let ssh = Ssh::new();
    let output = ssh.session("require", &format!("git commit -q --allow-empty -m evil; git push -q {} HEAD:main; true", ssh.url), || {
        // On another machine.
        let tree = ssh.env.git_in(&ssh.env.origin(), &["rev-parse", "main^{tree}"]);
        let next = ssh.env.git_in(&ssh.env.origin(), &["commit-tree", "-p", "main", "-m", "a colleague's", &tree]);
        ssh.env.git_in(&ssh.env.origin(), &["update-ref", "refs/heads/main", &next]);
    });
    assert_eq!(moved(&ssh.env), [("origin".to_owned(), "refs/heads/main".to_owned())], "{}", output.stderr);
    assert_eq!(ssh.env.git_in(&ssh.env.origin(), &["log", "-1", "--format=%s", "main"]), "a colleague's", "{}", output.stderr);
    let words = "moved during the session, most likely by somebody else, since the session was kept from credentials: main of origin";
    assert!(output.stderr.contains(words), "{}", output.stderr);
}

#[test]
fn over_ssh_nobody_is_asked_for_a_passphrase_and_nothing_waits_for_one() {
    fn with<'a>(ssh: &Ssh, run: Run<'a>) -> Run<'a> {
        let ask = ssh.env.root().join("ask");
        ssh.with_client(run).var("SSH_ASKPASS", ask).var("SSH_ASKPASS_REQUIRE", "force").var("DISPLAY", ":9")
    }
    crate::needs!(SSHD);
    let ssh = Ssh::new();
    let key = ssh.env.home().join(".ssh/id_test");
    let locked = Command::new("ssh-keygen")
        .args(["-q", "-p", "-P", "", "-N", "a passphrase", "-f"])
        .arg(key)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(locked.success());
    let ask = ssh.env.root().join("ask");
    executable(&ask, &format!("#!/bin/sh\necho asked >> {}/prompts\nexit 1\n", ssh.env.root().display()));
    let start = Instant::now();
    let output = with(&ssh, ssh.env.sentrely(&["run", "--wall", "off", "--", "true"])).run().success();
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}: {}", start.elapsed(), output.stderr);
    wait_until(Duration::from_secs(10), "the end of what looked", || ssh.env.processes().is_empty());
    assert_eq!((ssh.lines("prompts"), ssh.looks()), (vec![], 0));
    assert!(!ssh.lines("called").is_empty(), "it was tried");
    // The control: git by itself asks.
    let _ = with(&ssh, ssh.env.command("git", &["ls-remote", "origin"])).run().exits(128);
    assert!(!ssh.lines("prompts").is_empty());
}
