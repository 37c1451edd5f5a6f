//! Job control and the terminal's state under the built program, seen from a real bash and a real zsh. The command is a small full-screen
//! program; the real Claude Code is in `claude/shell.rs`.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::support::components::{Component, ZSH};
use crate::support::env::TestEnv;
use crate::support::pty::Key;
use crate::support::run::{is_alive, wait_for, wait_until};
use crate::support::shell::{Kind, Shell};

const SOON: Duration = Duration::from_mins(1);

/// `sentrely run FLAGS -- the full-screen program`, in this shell; once it is drawn.
fn full_screen(kind: Kind, env: &TestEnv, flags: &str) -> (Shell, String) {
    let mut shell = Shell::start(kind, env, |run| run);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/process/tui.py");
    shell.line(&format!("{} run --workspace none {flags} -- python3 {script}", env!("CARGO_BIN_EXE_sentrely")));
    shell.terminal.wait_for_text(SOON, "TUI-READY");
    let id = env.the_session();
    wait_until(SOON, "the record of its start", || !env.events(&id, "child_started").is_empty());
    (shell, id)
}

fn pid(env: &TestEnv, id: &str, kind: &str) -> Pid {
    Pid::from_raw(i32::try_from(env.events(id, kind)[0]["pid"].as_i64().unwrap()).unwrap())
}

/// The process above the supervisor.
fn guardian(env: &TestEnv, id: &str) -> Pid {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid(env, id, "attempt_started"))).unwrap();
    Pid::from_raw(stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().parse().unwrap())
}

fn state(env: &TestEnv) -> Value {
    env.ls_json()["sessions"][0]["state"].clone()
}

fn stopped_and_continued(kind: Kind, flags: &str) {
    let env = TestEnv::new();
    let (mut shell, id) = full_screen(kind, &env, flags);
    shell.terminal.press(Key::Ctrl('z'));
    shell.wait_for_prompt();
    wait_until(SOON, "the record of the stop", || state(&env) == json!("paused"));
    shell.expect_order();
    // In the background it is stopped as soon as it reads from the terminal.
    shell.line("bg");
    wait_until(SOON, "the second stop", || env.events(&id, "paused").len() == 2);
    wait_until(SOON, "the shell to have seen it", || !shell.ask("jobs").to_lowercase().contains("running"));
    shell.line("fg");
    wait_until(SOON, "it to run again", || state(&env) == json!("running"));
    shell.terminal.wait_for_text(SOON, "TUI-CONTINUED mode=RAW.");
    shell.terminal.resize(30, 90);
    shell.terminal.type_text("x");
    shell.terminal.wait_for_text(SOON, "TUI-KEY 120.");
    shell.terminal.type_text("q");
    assert_eq!(env.events(&id, "continued").len(), 2);
    shell.wait_for_prompt();
    shell.expect_order();
}

#[test]
fn in_bash_a_job_is_stopped_and_continued_and_the_record_says_so() {
    crate::needs!(Component::Proc);
    stopped_and_continued(Kind::Bash, "");
}

#[test]
fn in_zsh_a_job_is_stopped_and_continued_and_the_record_says_so() {
    crate::needs!(Component::Proc, ZSH);
    stopped_and_continued(Kind::Zsh, "");
}

fn killed(kind: Kind, who: &str, flags: &str) {
    let env = TestEnv::new();
    let (mut shell, id) = full_screen(kind, &env, flags);
    let (agent, supervisor) = (pid(&env, &id, "child_started"), pid(&env, &id, "attempt_started"));
    let victim = match who {
        "agent" => agent,
        "supervisor" => supervisor,
        _ => guardian(&env, &id),
    };
    if who == "agent" {
        // In flight when the program dies: the mouse moved and the window got the focus. None of it is for the shell.
        shell.terminal.answer_as_a_terminal(b"\x1b[<35;10;4M\x1b[I");
    }
    kill(victim, Signal::SIGKILL).unwrap();
    wait_until(SOON, "the end of all of them", || !is_alive(agent.as_raw()) && !is_alive(supervisor.as_raw()));
    wait_for(SOON, "the record of the end", || env.events(&id, "attempt_ended").pop());
    if who == "guardian" {
        // The shell was back before the session had ended: what that said stands behind the prompt.
        shell.terminal.wait_for_text(SOON, "if it misbehaves, type `stty sane`");
        shell.terminal.press(Key::Enter);
        shell.wait_for_prompt();
        if kind == Kind::Zsh {
            // It takes the terminal's mode for its own as it finds it, and may be faster than we are in putting that in order.
            shell.restore_mode();
        }
    }
    shell.expect_order();
    if who != "guardian" {
        // What no emulator of ours knows: focus, the keyboard's levels, the colour scheme, synchronised output.
        let raw = shell.terminal.raw();
        for off in ["\x1b[?1004l", "\x1b[<99u", "\x1b[?2031l", "\x1b[?2026l"] {
            assert!(raw.windows(off.len()).any(|window| window == off.as_bytes()), "{off:?}");
        }
    }
}

#[test]
fn in_bash_the_terminal_is_in_order_after_the_command_was_killed() {
    crate::needs!(Component::Proc);
    killed(Kind::Bash, "agent", "");
}

#[test]
fn in_bash_the_terminal_is_in_order_after_the_supervisor_was_killed() {
    crate::needs!(Component::Proc);
    killed(Kind::Bash, "supervisor", "");
}

#[test]
fn in_bash_the_terminal_is_in_order_after_the_guardian_was_killed() {
    crate::needs!(Component::Proc);
    killed(Kind::Bash, "guardian", "");
}

#[test]
fn in_zsh_the_terminal_is_in_order_after_the_command_was_killed() {
    crate::needs!(Component::Proc, ZSH);
    killed(Kind::Zsh, "agent", "");
}

#[test]
fn in_zsh_the_terminal_is_in_order_after_the_supervisor_was_killed() {
    crate::needs!(Component::Proc, ZSH);
    killed(Kind::Zsh, "supervisor", "");
}

#[test]
fn in_zsh_the_terminal_is_in_order_after_the_guardian_was_killed() {
    crate::needs!(Component::Proc, ZSH);
    killed(Kind::Zsh, "guardian", "");
}

/// In a process namespace of its own.
const OWN_PROCESSES: &str = "--wall require --config wall.pid_namespace=true";

#[test]
fn with_processes_of_its_own_a_job_is_stopped_and_continued_as_ever() {
    crate::needs!(Component::Proc, Component::Namespaces);
    stopped_and_continued(Kind::Bash, OWN_PROCESSES);
}

#[test]
fn with_processes_of_its_own_the_terminal_is_in_order_whoever_is_killed() {
    crate::needs!(Component::Proc, Component::Namespaces);
    for who in ["agent", "supervisor", "guardian"] {
        killed(Kind::Bash, who, OWN_PROCESSES);
    }
}
