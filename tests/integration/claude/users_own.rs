//! What a user has set up in Claude Code keeps working under sentrely: hooks, permissions, the status line, `--settings`.

use std::fs;

use sentrely::simulated::Answer;
use serde_json::{Value, json};

use super::{SOON, supervised, upstream, world};
use crate::support::claude::{Claude, at_the_prompt};
use crate::support::env::TestEnv;
use crate::support::pty::{Key, Terminal};

const AUTO: &str = "--dangerously-skip-permissions";

/// A hook that notes that it ran.
fn hook(env: &TestEnv, event: &str, name: &str) -> Value {
    let command = format!("echo {name} >> {}/hooks-ran", env.root().display());
    json!({ event: [{ "matcher": "", "hooks": [{ "type": "command", "command": command }] }] })
}

fn ran(env: &TestEnv) -> Vec<String> {
    let mut names: Vec<String> = fs::read_to_string(env.root().join("hooks-ran")).unwrap_or_default().lines().map(str::to_owned).collect();
    names.sort();
    names
}

#[test]
fn hooks_of_the_user_the_project_and_the_command_line_all_run() {
    for claude in Claude::both() {
        let env = world();
        env.claude_settings(&json!({ "hooks": hook(&env, "PreToolUse", "user") }));
        env.project_claude_settings(&json!({ "hooks": hook(&env, "PostToolUse", "project") }));
        env.git(&["add", "-A"]);
        env.git(&["commit", "-q", "-m", "Hooks"]);
        let file = env.root().join("more.json");
        let of_file = json!({ "hooks": hook(&env, "Stop", "flag"), "env": { "OF_THE_FLAG": "yes" } });
        fs::write(&file, of_file.to_string()).unwrap();
        for settings in [file.to_str().unwrap().to_owned(), of_file.to_string()] {
            let upstream = upstream([Answer::bash("echo flag=$OF_THE_FLAG > seen.txt"), Answer::text("done")]);
            let args = ["-p", "work", AUTO, "--settings", &settings];
            let output = supervised(&env, &claude, &[], &args).upstream(&upstream).run().success();
            assert_eq!((output.stdout.as_str(), upstream.messages().len()), ("done\n", 2), "{}", output.stderr);
            assert_eq!(ran(&env), ["flag", "project", "user"], "{}", output.stderr);
            fs::remove_file(env.root().join("hooks-ran")).unwrap();
            let listed = env.ls_json();
            let newest =
                listed["sessions"].as_array().unwrap().iter().max_by_key(|view| view["started_at"].as_str().unwrap().to_owned()).unwrap();
            assert_eq!(env.git(&["show", &format!("{}:seen.txt", newest["branch"].as_str().unwrap())]), "flag=yes");
        }
    }
}

#[test]
fn a_hook_of_the_users_may_still_deny_and_so_may_their_permissions() {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    let deny = json!({ "hooks": { "PreToolUse": [{ "matcher": "Bash", "hooks": [
        { "type": "command", "command": "grep -q forbidden-by-hook && { echo not with me >&2; exit 2; }; exit 0" } ] }] },
        "permissions": { "deny": ["Bash(touch by-permission*)"] } });
    env.claude_settings(&deny);
    let answers = [
        Answer::bash("echo forbidden-by-hook > hooked"),
        Answer::bash("touch by-permission"),
        Answer::bash("touch allowed"),
        Answer::text("done"),
    ];
    let upstream = upstream(answers);
    let _ = supervised(&env, &claude, &[], &["-p", "work", AUTO]).upstream(&upstream).run().success();
    let bodies: Vec<String> = upstream.messages().iter().map(|record| record.json()["messages"].to_string()).collect();
    assert_eq!(bodies.len(), 4);
    assert!(bodies[1].contains("not with me") && bodies[2].contains("denied"), "{}", bodies[2]);
    let branch = super::the_view(&env)["branch"].as_str().unwrap().to_owned();
    assert_eq!(env.git(&["ls-tree", "--name-only", &branch]), "README.md\nallowed");
}

#[test]
fn the_users_status_line_is_drawn_and_their_hook_runs_in_the_interactive_client() {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    let mut settings = json!({ "hooks": hook(&env, "UserPromptSubmit", "prompted") });
    settings["statusLine"] = json!({ "type": "command", "command": "echo STATUS-OF-THE-USER" });
    env.claude_settings(&settings);
    let upstream = upstream(Answer::text("The answer is forty-two."));
    let mut terminal = Terminal::spawn(&supervised(&env, &claude, &[], &[]).upstream(&upstream));
    terminal.wait_for_screen(SOON, "the prompt", at_the_prompt);
    terminal.wait_for_text(SOON, "STATUS-OF-THE-USER");
    terminal.type_text("what is it");
    terminal.wait_for_text(SOON, "what is it");
    terminal.press(Key::Enter);
    terminal.wait_for_text(SOON, "The answer is forty-two.");
    assert_eq!(ran(&env), ["prompted"]);
    terminal.type_text("/exit");
    terminal.wait_for_text(SOON, "/exit");
    terminal.press(Key::Enter);
    assert!(terminal.wait(SOON).success());
}

#[test]
fn the_users_model_and_their_own_headers_are_used() {
    for claude in Claude::both() {
        let env = world();
        env.claude_settings(&json!({ "env": { "ANTHROPIC_MODEL": "claude-sonnet-4-6", "ANTHROPIC_CUSTOM_HEADERS": "x-team: shop" } }));
        let upstream = upstream(Answer::text("done"));
        let _ = supervised(&env, &claude, &[], &["-p", "hello"]).upstream(&upstream).run().success();
        let seen = upstream.messages();
        assert_eq!((seen[0].model.as_str(), seen[0].header("x-team")), ("claude-sonnet-4-6", Some("shop")), "{} {seen:?}", claude.name());
        assert!(seen[0].header("x-sentrely-run").is_none(), "ours stays here");
    }
}

#[test]
fn settings_that_the_client_would_drop_whole_are_refused_with_the_reason() {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    let upstream = upstream(Answer::text("never"));
    let args = ["-p", "hello", "--settings", r#"{"cleanupPeriodDays":"bad"}"#];
    let output = supervised(&env, &claude, &[], &args).upstream(&upstream).run().exits(125);
    assert!(output.stderr.contains("cleanupPeriodDays") && output.stderr.contains("hint:"), "{}", output.stderr);
    assert!(env.sessions().is_empty() && upstream.requests().is_empty());
}
