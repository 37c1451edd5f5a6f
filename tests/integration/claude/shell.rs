//! The real interactive client under sentrely in a real bash and a real zsh: whatever happens to it, the shell has its terminal back as it was.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sentrely::simulated::{Answer, Script, Upstream};
use serde_json::json;

use super::{SOON, pids, running, the_view, upstream, usd, world};
use crate::support::claude::{Claude, at_the_prompt};
use crate::support::components::{Component, ZSH};
use crate::support::env::TestEnv;
use crate::support::pty::Key;
use crate::support::run::{is_alive, wait_until};
use crate::support::shell::{Kind, Shell};

/// The client at its prompt under `sentrely run FLAGS`, started by hand in this shell; the session's id.
fn at_work(kind: Kind, env: &TestEnv, claude: &Claude, upstream: &Upstream, flags: &str) -> (Shell, String) {
    let mut shell = Shell::start(kind, env, |run| run.upstream(upstream));
    shell.line(&format!("{} run {flags} -- {} --model claude-opus-5-5", env!("CARGO_BIN_EXE_sentrely"), claude.path().display()));
    shell.terminal.wait_for_screen(SOON, "the client's prompt", at_the_prompt);
    (shell, running(env))
}

fn submit(shell: &mut Shell, text: &str) {
    shell.terminal.type_text(text);
    shell.terminal.wait_for_text(SOON, text);
    shell.terminal.press(Key::Enter);
}

fn answering() -> Upstream {
    upstream(Answer::text("The answer is forty-two."))
}

/// The job is stopped and the shell knows it.
fn wait_for_stop(shell: &mut Shell, env: &TestEnv, id: &str, times: usize) {
    wait_until(SOON, "the record of the stop", || env.events(id, "paused").len() == times);
    wait_until(SOON, "the shell to have seen it", || !shell.ask("jobs").to_lowercase().contains("running"));
}

fn keys(kind: Kind, flags: &str) {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    let upstream = answering();
    let (mut shell, id) = at_work(kind, &env, &claude, &upstream, flags);

    // One Ctrl-C is the client's, and ends nothing.
    shell.terminal.press(Key::Ctrl('c'));
    shell.terminal.wait_for_screen(SOON, "the client's word on Ctrl-C", |screen| screen.contains("again to exit"));
    submit(&mut shell, "what is it");
    shell.terminal.wait_for_text(SOON, "The answer is forty-two.");

    shell.terminal.press(Key::Ctrl('z'));
    wait_for_stop(&mut shell, &env, &id, 1);
    assert_eq!(the_view(&env)["state"], json!("paused"));
    shell.expect_order();
    shell.line("fg");
    shell.terminal.wait_for_screen(SOON, "the client's prompt", at_the_prompt);
    // It does not set its mode again by itself: typing would be echoed by the terminal, and Return not read.
    submit(&mut shell, "and once more");
    wait_until(SOON, "the second answer", || upstream.messages().len() == 2);

    shell.terminal.press(Key::Ctrl('z'));
    wait_for_stop(&mut shell, &env, &id, 2);
    // In the background it goes on; it reads nothing there, so nothing stops it.
    shell.line("bg");
    wait_until(SOON, "it to go on", || env.events(&id, "continued").len() == 2 && the_view(&env)["state"] == json!("running"));
    shell.line("fg");
    // To a job that runs the shell sends no signal with it.
    wait_until(SOON, "it to have the terminal", || shell.terminal.foreground() == Some(pids(&env, &id).1));
    shell.terminal.wait_for_screen(SOON, "the client's prompt", at_the_prompt);

    shell.terminal.resize(30, 70);
    let rule = "─".repeat(70);
    shell.terminal.wait_for_screen(SOON, "its line in the new width", |screen| screen.lines().any(|line| line == rule));
    submit(&mut shell, "a third time");
    wait_until(SOON, "the third answer", || upstream.messages().len() == 3);
    shell.terminal.wait_for_screen(SOON, "the third answer on the screen", |screen| {
        screen.split("a third time").nth(1).is_some_and(|after| after.contains("forty-two") && at_the_prompt(after))
    });
    submit(&mut shell, "/exit");
    wait_until(SOON, "the end", || !env.events(&id, "attempt_ended").is_empty());
    shell.expect_order();
    assert_eq!(the_view(&env)["stop_reason"], json!("child_exited"));
}

#[test]
fn in_bash_claude_takes_ctrl_c_ctrl_z_fg_bg_and_another_size() {
    crate::needs!(Component::Proc);
    keys(Kind::Bash, "");
}

#[test]
fn in_zsh_claude_takes_ctrl_c_ctrl_z_fg_bg_and_another_size() {
    crate::needs!(Component::Proc, ZSH);
    keys(Kind::Zsh, "");
}

#[test]
fn with_processes_of_its_own_claude_takes_them_too() {
    crate::needs!(Component::Proc, Component::Namespaces);
    keys(Kind::Bash, "--wall require --config wall.pid_namespace=true");
}

/// What ends a session from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Kill,
    KillWhileStopped,
    Term,
    Claude,
    Supervisor,
    Guardian,
}

fn ended_from_outside(kind: Kind, end: End) {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    let upstream = answering();
    let (mut shell, id) = at_work(kind, &env, &claude, &upstream, "");
    submit(&mut shell, "what is it");
    shell.terminal.wait_for_text(SOON, "The answer is forty-two.");
    let (supervisor, claude_pid) = pids(&env, &id);
    let guardian = guardian_of(supervisor);
    let signal = |pid: i32, signal: Signal| kill(Pid::from_raw(pid), signal).unwrap();
    match end {
        End::Kill => drop(env.sentrely(&["kill", &id[..8]]).run().success()),
        End::KillWhileStopped => {
            shell.terminal.press(Key::Ctrl('z'));
            wait_for_stop(&mut shell, &env, &id, 1);
            let _ = env.sentrely(&["kill", &id[..8]]).run().success();
        }
        End::Term => signal(guardian, Signal::SIGTERM),
        End::Claude => signal(claude_pid, Signal::SIGKILL),
        End::Supervisor => signal(supervisor, Signal::SIGKILL),
        End::Guardian => signal(guardian, Signal::SIGKILL),
    }
    wait_until(SOON, "the end of all of them", || [supervisor, claude_pid, guardian].iter().all(|pid| !is_alive(*pid)));
    match end {
        // The shell had its prompt before the session was over: what that said stands behind it.
        End::KillWhileStopped => {
            shell.terminal.press(Key::Enter);
        }
        End::Guardian => {
            shell.terminal.wait_for_text(SOON, "if it misbehaves, type `stty sane`");
            shell.terminal.press(Key::Enter);
            shell.wait_for_prompt();
            if kind == Kind::Zsh {
                // It takes the terminal's mode for its own as it finds it, and may be faster than we are in putting that in order.
                shell.restore_mode();
            }
        }
        _ => {}
    }
    shell.expect_order();
    let reason = match end {
        End::Kill | End::KillWhileStopped => "killed",
        End::Term => "terminated",
        End::Claude => "child_exited",
        End::Supervisor | End::Guardian => "crashed",
    };
    assert_eq!(the_view(&env)["stop_reason"], json!(reason));
}

fn guardian_of(supervisor: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{supervisor}/stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn bash_has_its_terminal_back_after_a_kill_and_a_signal() {
    crate::needs!(Component::Proc);
    for end in [End::Kill, End::KillWhileStopped, End::Term] {
        ended_from_outside(Kind::Bash, end);
    }
}

#[test]
fn bash_has_its_terminal_back_after_the_death_of_claude_supervisor_or_guardian() {
    crate::needs!(Component::Proc);
    for end in [End::Claude, End::Supervisor, End::Guardian] {
        ended_from_outside(Kind::Bash, end);
    }
}

#[test]
fn zsh_has_its_terminal_back_after_a_kill_and_a_signal() {
    crate::needs!(Component::Proc, ZSH);
    for end in [End::Kill, End::KillWhileStopped, End::Term] {
        ended_from_outside(Kind::Zsh, end);
    }
}

#[test]
fn zsh_has_its_terminal_back_after_the_death_of_claude_supervisor_or_guardian() {
    crate::needs!(Component::Proc, ZSH);
    for end in [End::Claude, End::Supervisor, End::Guardian] {
        ended_from_outside(Kind::Zsh, end);
    }
}

fn stopped_at_its_budget(kind: Kind) {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    let upstream = upstream(Script::default().otherwise(Answer::text("That was dear.").costing(usd("0.80"))));
    let (mut shell, id) = at_work(kind, &env, &claude, &upstream, "--budget 1usd");
    submit(&mut shell, "what is it");
    shell.terminal.wait_for_text(SOON, "That was dear.");
    submit(&mut shell, "and now");
    wait_until(SOON, "the end", || !env.events(&id, "attempt_ended").is_empty());
    shell.expect_order();
    assert_eq!(the_view(&env)["stop_reason"], json!("budget_reached"));
}

#[test]
fn bash_has_its_terminal_back_after_a_budget_stop() {
    crate::needs!(Component::Proc);
    stopped_at_its_budget(Kind::Bash);
}

#[test]
fn zsh_has_its_terminal_back_after_a_budget_stop() {
    crate::needs!(Component::Proc, ZSH);
    stopped_at_its_budget(Kind::Zsh);
}

/// Both are killed, the second as soon as the first is gone: nobody is left to put the terminal in order but the shell.
fn both_watchers_killed(kind: Kind, guardian_first: bool) {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    let upstream = answering();
    let (mut shell, id) = at_work(kind, &env, &claude, &upstream, "");
    submit(&mut shell, "what is it");
    shell.terminal.wait_for_text(SOON, "The answer is forty-two.");
    let (supervisor, claude_pid) = pids(&env, &id);
    let guardian = guardian_of(supervisor);
    for pid in if guardian_first { [guardian, supervisor] } else { [supervisor, guardian] } {
        // The second may have ended by itself, all its work done.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        wait_until(SOON, "its end", || !is_alive(pid));
    }
    env.wait_until_nobody_holds(&id);
    // What a person does who finds no prompt; and the next command of ours, typed in this very terminal, ends what is left.
    shell.terminal.press(Key::Ctrl('c'));
    shell.line("");
    shell.line(&format!("{} finish", env!("CARGO_BIN_EXE_sentrely")));
    wait_until(SOON, "the end of claude", || !is_alive(claude_pid));
    shell.wait_for_prompt();
    shell.restore_mode();
    assert_eq!(shell.ask("echo usable"), "usable");
    wait_until(SOON, "the terminal's modes being off", || {
        let modes = shell.terminal.modes();
        !modes.alternate_screen && !modes.mouse && !modes.hidden_cursor
    });
    wait_until(SOON, "the shell alone being left", || env.processes().len() == 1);
    assert_eq!(the_view(&env)["stop_reason"], json!("crashed"));
}

#[test]
fn bash_can_be_used_after_supervisor_and_guardian_were_killed_one_after_the_other() {
    crate::needs!(Component::Proc);
    for guardian_first in [false, true] {
        both_watchers_killed(Kind::Bash, guardian_first);
    }
}

#[test]
fn zsh_can_be_used_after_supervisor_and_guardian_were_killed_one_after_the_other() {
    crate::needs!(Component::Proc, ZSH);
    for guardian_first in [false, true] {
        both_watchers_killed(Kind::Zsh, guardian_first);
    }
}
