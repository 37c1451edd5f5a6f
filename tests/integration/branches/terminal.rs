//! Where a person sits at a terminal, nothing leaves the machine before that person says so.

use std::time::Duration;

use crate::support::env::TestEnv;
use crate::support::pty::Terminal;
use crate::support::run::Run;

const WORK: &str = "echo one > one.txt; git add one.txt; git commit -qm 'Add one'; git push 2>&1";

fn session<'e>(env: &'e TestEnv, flags: &[&str], script: &str) -> Run<'e> {
    env.sentrely(&[&["run"], flags, &["--", "sh", "-c", script]].concat())
}

fn branch(env: &TestEnv) -> String {
    env.ls_json()["sessions"][0]["branch"].as_str().unwrap().to_owned()
}

fn on_remote(env: &TestEnv, branch: &str) -> Option<String> {
    let listed = env.git_in(&env.origin(), &["for-each-ref", "--format=%(objectname)", &format!("refs/heads/{branch}")]);
    (!listed.is_empty()).then_some(listed)
}

/// Configuration of the user's own.
fn configure(env: &TestEnv, text: &str) {
    let dir = env.home().join(".config/sentrely");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("config.toml"), text).unwrap();
}

#[test]
fn a_push_that_is_held_says_so_survives_a_fetch_and_goes_out_with_the_pull_request() {
    let env = TestEnv::new();
    let script =
        format!("{WORK}; git fetch -q; git push 2>&1; echo two > two.txt; git add two.txt; git commit -qm 'Add two'; git push 2>&1");
    let output = session(&env, &["--config", "git.push=hold"], &script).run().success();
    let (id, branch) = (env.the_session(), branch(&env));
    let short = &id[..8];
    assert!(output.stdout.contains("sentrely: kept on this machine; nothing was sent to origin"), "{}", output.stdout);
    assert!(output.stdout.contains(&format!("sentrely: a person sends it on with: sentrely pr {short}")), "{}", output.stdout);
    assert!(output.stdout.contains("Everything up-to-date"), "the gate keeps it: {}", output.stdout);
    assert!(
        output.stderr.contains(&format!("what it pushed is kept on this machine; sentrely pr {short} sends it on")),
        "{}",
        output.stderr
    );
    assert_eq!((env.events(&id, "push_kept").len(), env.events(&id, "push_accepted").len(), on_remote(&env, &branch)), (2, 0, None));
    // main stays what it is, held or not.
    let refused = session(&env, &["--config", "git.push=hold"], "git commit -q --allow-empty -m x; git push origin HEAD:main 2>&1").run();
    assert!(refused.stdout.contains("protected branch"), "{}", refused.stdout);
    let _ = env.sentrely(&["pr", short]).run().success();
    assert_eq!(on_remote(&env, &branch), Some(env.git(&["rev-parse", &branch])));
}

#[test]
fn on_a_terminal_a_push_waits_by_itself_and_in_ci_or_by_configuration_it_does_not() {
    for (ci, file, arrives) in [(false, "", false), (true, "", true), (false, "[git]\npush = 'direct'\n", true)] {
        let env = TestEnv::new();
        configure(&env, file);
        let run = session(&env, &[], &format!("{WORK}; echo over; read word"));
        let run = if ci { run.var("CI", "true") } else { run };
        let mut terminal = Terminal::spawn(&run);
        let _ = terminal.wait_for_text(Duration::from_mins(2), "over");
        assert_eq!(on_remote(&env, &branch(&env)).is_some(), arrives, "{ci} {file}: {}", terminal.screen());
        terminal.type_text("x\r");
    }
}

#[test]
fn a_session_rewrites_its_own_branch_only_where_a_person_allowed_it() {
    let script =
        format!("{WORK}; git commit -q --amend -m 'Add it'; git push --force 2>&1; git push --force origin HEAD~1:main 2>&1; true");
    for allowed in [false, true] {
        let env = TestEnv::new();
        configure(&env, &format!("[git]\nforce = {allowed}\n"));
        let main = on_remote(&env, "main");
        let output = session(&env, &[], &script).run().success();
        let ours = env.git(&["rev-parse", &branch(&env)]);
        assert_eq!(on_remote(&env, &branch(&env)) == Some(ours), allowed, "{}", output.stdout);
        assert_eq!(on_remote(&env, "main"), main, "{}", output.stdout);
        assert_eq!(output.stdout.contains("not a fast-forward"), !allowed, "{}", output.stdout);
        // What was rewritten since goes out with the pull request, or not.
        let _ = session(&env, &["--resume", &env.the_session()], "git commit -q --amend -m 'Add it again'").run().success();
        let again = env.sentrely(&["pr", &env.the_session()]).run();
        assert_eq!(again.code() == 0, allowed, "{}", again.stderr);
    }
}
