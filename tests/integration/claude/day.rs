//! A developer's day: the interactive client in a checkout as they are, dirty, with ignored files, a submodule, a server of its own and signed
//! commits. What would be noticed is a question, a missing file, a failing commit or a changed checkout.

use std::fs;

use sentrely::simulated::{Answer, Upstream};
use serde_json::json;

use super::familiar::{SERVER, note};
use super::{SOON, directory, running, supervised, the_view, upstream, world};
use crate::session::snapshot;
use crate::support::claude::{Claude, at_the_prompt};
use crate::support::components::{Component, PYTHON};
use crate::support::env::TestEnv;
use crate::support::pty::{Key, Terminal};

/// What the model has its Bash tool do, in one go; each line's result is in the answer's text.
const WORK: &str = "cat .env node_modules/left-pad/index.js lib/inside.txt; git status --short; git log --oneline | wc -l; \
    echo feature > feature.txt; git add feature.txt; git commit -qm Feature; echo committed $?; git log -1 --format=signed:%GK:; \
    git push -q origin HEAD; echo pushed $?; git push origin HEAD:main; echo main $?; echo half > half-done.txt";

/// The checkout of somebody in the middle of something.
fn in_the_middle_of_something(env: &TestEnv) {
    let inside = env.root().join("inside");
    env.git(&["init", "-q", "-b", "main", inside.to_str().unwrap()]);
    fs::write(inside.join("inside.txt"), "IN-THE-SUBMODULE\n").unwrap();
    env.git_in(&inside, &["add", "-A"]);
    env.git_in(&inside, &["commit", "-q", "-m", "Inside"]);
    env.git(&["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", inside.to_str().unwrap(), "lib"]);
    fs::write(env.project().join(".gitignore"), "node_modules\n.env\n").unwrap();
    fs::write(env.project().join(".worktreeinclude"), ".env\nnode_modules\n").unwrap();
    let started = env.root().join("started");
    let server = json!({ "command": "python3", "args": ["-c", SERVER, started] });
    fs::write(env.project().join(".mcp.json"), json!({ "mcpServers": { "one": server } }).to_string()).unwrap();
    note(env, |project| project["enabledMcpjsonServers"] = json!(["one"]));
    fs::write(env.project().join("kept.txt"), "as committed\n").unwrap();
    env.git(&["add", "-A"]);
    env.git(&["commit", "-q", "-m", "A submodule and a server"]);
    env.git(&["push", "-q", "origin", "main"]);
    // From here on it is theirs alone: a change, a staged file, an untracked one, and what git ignores.
    fs::write(env.project().join("kept.txt"), "as I am writing it\n").unwrap();
    fs::write(env.project().join("staged.txt"), "staged\n").unwrap();
    env.git(&["add", "staged.txt"]);
    fs::write(env.project().join("notes.txt"), "untracked\n").unwrap();
    fs::write(env.project().join(".env"), "SECRET-OF-THE-PROJECT=1\n").unwrap();
    fs::create_dir_all(env.project().join("node_modules/left-pad")).unwrap();
    fs::write(env.project().join("node_modules/left-pad/index.js"), "// LEFT-PAD\n").unwrap();
    // A key that only its owner's agent has: a commit that tried to sign with it would fail.
    env.git(&["config", "commit.gpgsign", "true"]);
    env.git(&["config", "user.signingkey", "0123456789ABCDEF"]);
}

/// What the tool printed, as the model was told it.
fn told(upstream: &Upstream) -> String {
    let seen = upstream.messages();
    let body =
        seen.iter().rev().find(|record| record.json()["messages"].to_string().contains("committed ")).expect("the tool's result").json();
    body["messages"].to_string()
}

fn is_not_disturbed(claude: &Claude) {
    crate::needs!(PYTHON, Component::Namespaces);
    let env = world();
    in_the_middle_of_something(&env);
    let before = snapshot(&env.project());
    let upstream = upstream([Answer::bash(WORK), Answer::text("All done for today.")]);
    let mut terminal = Terminal::spawn(&supervised(&env, claude, &[], &["--dangerously-skip-permissions"]).upstream(&upstream));
    // No question of trust or of the server: the checkout's answers hold.
    let asks = |screen: &str| screen.contains("MCP server found") || screen.contains("trust this folder");
    let screen = terminal.wait_for_screen(SOON, "a prompt or a question", |screen| at_the_prompt(screen) || asks(screen));
    assert!(!asks(&screen), "{screen}");
    let id = running(&env);
    let copy = directory(&env, &id);
    assert_ne!(copy, env.project());
    terminal.type_text("work");
    terminal.wait_for_text(SOON, "work");
    terminal.press(Key::Enter);
    terminal.wait_for_text(SOON, "All done for today.");
    let told = told(&upstream);
    for text in ["SECRET-OF-THE-PROJECT", "LEFT-PAD", "IN-THE-SUBMODULE"] {
        assert!(told.contains(text), "{text} is there: {told}");
    }
    // What was staged is staged, what was not is not.
    for text in [" M kept.txt", "A  staged.txt", "?? notes.txt"] {
        assert!(told.contains(text), "{text}: {told}");
    }
    assert!(told.contains("committed 0") && told.contains("signed::"), "a commit works, unsigned: {told}");
    assert!(told.contains("pushed 0") && told.contains("main 1") && told.contains("protected branch"), "{told}");
    terminal.type_text("/exit");
    terminal.wait_for_text(SOON, "/exit");
    terminal.press(Key::Enter);
    assert!(terminal.wait(SOON).success(), "{}", terminal.screen());
    assert!(env.root().join("started").exists(), "its server ran");

    let view = the_view(&env);
    let branch = view["branch"].as_str().unwrap().to_owned();
    let after = snapshot(&env.project());
    let ours = |path: &str| path.contains("sentrely") || path.starts_with(".git/objects/") || path.starts_with(".git/modules/lib/");
    let changed: Vec<&String> =
        before.keys().chain(after.keys()).filter(|path| before.get(*path) != after.get(*path) && !ours(path)).collect();
    assert_eq!(changed, Vec::<&String>::new(), "the checkout is as it was left in the morning");
    // The branch has the agent's work and none of the developer's.
    assert_eq!(env.git(&["show", &format!("{branch}:feature.txt")]), "feature");
    assert_eq!(env.git(&["show", &format!("{branch}:half-done.txt")]), "half");
    assert_eq!(env.git(&["show", &format!("{branch}:kept.txt")]), "as committed");
    let files = env.git(&["ls-tree", "-r", "--name-only", &branch]);
    for file in ["notes.txt", ".env", "node_modules"] {
        assert!(!files.contains(file), "{file} stays with its owner: {files}");
    }
    // On a terminal a push waits for `sentrely pr`.
    assert!(!env.git_in(&env.origin(), &["branch", "--list", "sentrely/*"]).contains("sentrely/"));
    assert_eq!(env.git_in(&env.origin(), &["rev-parse", "main"]), env.git(&["rev-parse", "main"]));
}

#[test]
fn a_day_with_claude_2_1_330_in_a_dirty_checkout_is_not_disturbed() {
    let Some(claude) = Claude::v330() else { return };
    is_not_disturbed(&claude);
}

#[test]
fn a_day_with_claude_2_1_197_in_a_dirty_checkout_is_not_disturbed() {
    let Some(claude) = Claude::v197() else { return };
    is_not_disturbed(&claude);
}
