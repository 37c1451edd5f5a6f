//! The end of a running client: killed by another process, or left behind by a supervisor or guardian that was killed itself.

use std::time::Duration;

use jiff::Timestamp;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sentrely::simulated::{Answer, Outcome, Script, Upstream, When, WhenThread};
use serde_json::{Value, json};

use super::{SOON, endless, pids, running, supervised, the_view, time_of, upstream, world};
use crate::support::claude::Claude;
use crate::support::components::Component;
use crate::support::env::TestEnv;
use crate::support::run::{Running, descendants, is_alive, wait_until};

const AUTO: &str = "--dangerously-skip-permissions";

/// What arrived upstream after that moment.
fn arrived_after(upstream: &Upstream, at: Timestamp) -> usize {
    upstream.requests().iter().filter(|record| record.arrived_at > at).count()
}

/// `sentrely kill` from a process of its own, and everything that must be so afterwards. `processes` ran in the session.
fn kill_and_look(env: &TestEnv, run: Running, upstream: &Upstream, processes: &[i32]) {
    let id = running(env);
    let killed = env.sentrely(&["kill", "--reason", "enough", &id[..8]]).run().success();
    assert!(killed.stdout.contains("last process gone") || killed.stderr.contains("last process gone"), "{killed:?}");
    let gone: Vec<i32> = processes.iter().copied().filter(|pid| is_alive(*pid)).collect();
    assert_eq!(gone, Vec::<i32>::new(), "killed is said when nothing is left");
    let output = run.wait(SOON).exits(122);
    assert!(output.stderr.contains("killed: enough"), "{}", output.stderr);
    assert_eq!(env.processes().len(), 0);
    let view = the_view(env);
    assert_eq!((&view["state"], &view["stop_reason"], &view["exit_code"]), (&json!("stopped"), &json!("killed"), &json!(122)));
    assert_eq!(env.events(&id, "attempt_ended")[0]["survivors"], json!([]));
    let stopped = time_of(env, &id, "stop_requested");
    assert_eq!(arrived_after(upstream, stopped), 0, "the upstream saw nothing afterwards");
    upstream.wait_until_blocking(SOON, |seen| seen.iter().all(|record| record.outcome.is_some())).unwrap();
}

fn killed_in_a_tool_call(claude: &Claude) {
    let env = world();
    let (command, started) = endless(&env);
    let upstream = upstream([Answer::bash(command), Answer::text("never said")]);
    let run = supervised(&env, claude, &[], &["-p", "work", AUTO]).upstream(&upstream).spawn();
    wait_until(SOON, "the tool's processes", || started.exists());
    let (supervisor, _) = pids(&env, &running(&env));
    let below = descendants(supervisor);
    // claude, its shell, cat, and the one in a session of its own with its cat.
    assert!(below.len() >= 4, "{below:?}");
    kill_and_look(&env, run, &upstream, &below);
    assert_eq!(upstream.messages().len(), 1);
}

#[test]
fn claude_2_1_330_killed_in_a_long_tool_call_leaves_nothing_behind() {
    crate::needs!(Component::Proc, Component::Program("setsid"));
    let Some(claude) = Claude::v330() else { return };
    killed_in_a_tool_call(&claude);
}

#[test]
fn claude_2_1_197_killed_in_a_long_tool_call_leaves_nothing_behind() {
    crate::needs!(Component::Proc, Component::Program("setsid"));
    let Some(claude) = Claude::v197() else { return };
    killed_in_a_tool_call(&claude);
}

#[test]
fn a_background_task_of_claude_is_gone_after_a_kill() {
    crate::needs!(Component::Proc, Component::Program("setsid"));
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    let (command, started) = endless(&env);
    let background = json!({ "command": command, "description": "Run in the background", "run_in_background": true });
    // The second one holds the turn, so that it is killed while the first one runs beside it.
    let hold = env.root().join("second");
    let second = format!("mkfifo {0}; cat {0}", hold.display());
    let upstream = upstream([Answer::tool("Bash", background), Answer::bash(second), Answer::text("never said")]);
    let run = supervised(&env, &claude, &[], &["-p", "work", AUTO]).upstream(&upstream).spawn();
    wait_until(SOON, "both tools' processes", || started.exists() && hold.exists());
    assert_eq!(upstream.messages().len(), 2, "it went on while its task ran");
    let (supervisor, _) = pids(&env, &running(&env));
    let below = descendants(supervisor);
    assert!(below.len() >= 5, "{below:?}");
    kill_and_look(&env, run, &upstream, &below);
}

/// What `tool` sets to work inside the client goes on while a tool holds the main conversation, and is gone after a kill.
fn works_beside_and_is_killed(tool: &str, input: Value) {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    let (hold, turns) = (env.root().join("hold"), env.root().join("turns"));
    // It asks again and again, and does so while the main conversation is held by a tool.
    let script = Script::default()
        .whenever(When::thread(WhenThread::Subagent), Answer::bash(format!("echo turn >> {}", turns.display())))
        .then([Answer::tool(tool, input), Answer::bash(format!("mkfifo {0}; cat {0}", hold.display()))])
        .otherwise(Answer::text("never said"));
    let upstream = upstream(script);
    let run = supervised(&env, &claude, &["--wall", "off", "--config", "loops.same_call=1000"], &["-p", "work", AUTO])
        .upstream(&upstream)
        .spawn();
    let of_the_agent = || upstream.messages().iter().filter(|record| record.header("x-claude-code-agent-id").is_some()).count();
    wait_until(SOON, "the main conversation to be held", || hold.exists());
    let before = of_the_agent();
    // The control: left alone, it goes on asking.
    wait_until(SOON, "the agent to go on beside it", || of_the_agent() >= before + 3);
    let (supervisor, _) = pids(&env, &running(&env));
    kill_and_look(&env, run, &upstream, &descendants(supervisor));
    let (asked, written) = (upstream.requests().len(), std::fs::read(&turns).unwrap());
    let _ = env.sentrely(&["ls"]).run().success();
    assert_eq!((upstream.requests().len(), std::fs::read(&turns).unwrap()), (asked, written), "nothing of it goes on");
    let settled = env.events(&env.the_session(), "request_settled");
    assert_eq!(settled.len(), upstream.messages().len(), "all of it is on the session's account");
}

#[test]
fn an_agent_that_works_in_the_background_inside_claude_is_gone_after_a_kill_and_asks_nothing_more() {
    crate::needs!(Component::Proc);
    let agent = json!({
        "description": "Work beside", "prompt": "the part beside", "subagent_type": "general-purpose", "run_in_background": true,
    });
    works_beside_and_is_killed("Agent", agent);
}

#[test]
fn a_workflow_of_several_agents_is_gone_after_a_kill_and_asks_nothing_more() {
    crate::needs!(Component::Proc);
    let script = "export const meta = { name: 'beside', description: 'Work beside', phases: [{ title: 'Work' }] }\n\
                  const done = await parallel(['one', 'two'].map(part => () => agent(`the part ${part}`, { label: part, phase: 'Work' })))\n\
                  return { done }";
    works_beside_and_is_killed("Workflow", json!({ "script": script }));
}

#[test]
fn the_conversation_of_a_killed_session_is_taken_up_by_another_only_by_force() {
    crate::needs!(Component::Proc);
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    let (command, started) = endless(&env);
    let upstream = upstream([Answer::bash(command), Answer::text("went on")]);
    let in_place = ["--workspace", "none"];
    let run = supervised(&env, &claude, &in_place, &["-p", "work", AUTO]).upstream(&upstream).spawn();
    wait_until(SOON, "the tool's processes", || started.exists());
    let id = running(&env);
    // What the client is given as settings holds the session's token.
    let settings = std::fs::metadata(env.session_dir(&id).join("claude-settings.json")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&settings.permissions()) & 0o777, 0o600);
    let _ = env.sentrely(&["kill", "--now", "--reason", "wrong bucket", &id]).run().success();
    let _ = run.wait(SOON).exits(122);
    let conversation = env.events(&id, "claude_session")[0]["id"].as_str().unwrap().to_owned();
    let asked = upstream.messages().len();
    for args in [&["--resume", &conversation][..], &["-c"], &["--continue"]] {
        let args = [args, &["-p", "go on", AUTO]].concat();
        let output = supervised(&env, &claude, &in_place, &args).upstream(&upstream).run().exits(125);
        let said = format!("go on with the conversation of session {}: it was killed by ", &id[..8]);
        assert!(output.stderr.contains(&said) && output.stderr.contains(": wrong bucket"), "{args:?}: {}", output.stderr);
        assert!(output.stderr.contains("hint: sentrely run --force"), "{}", output.stderr);
    }
    assert_eq!((upstream.messages().len(), env.sessions().len()), (asked, 1), "nothing was asked or made");
    let forced = [&in_place[..], &["--force"]].concat();
    let output = supervised(&env, &claude, &forced, &["--resume", &conversation, "-p", "go on", AUTO]).upstream(&upstream).run().success();
    assert_eq!(output.stdout, "went on\n", "{}", output.stderr);
}

fn killed_in_mid_stream(claude: &Claude) {
    let env = world();
    let endless = Answer::filler(100_000, 40).event_every(Duration::from_millis(10));
    let upstream = upstream(endless);
    let run = supervised(&env, claude, &[], &["-p", "tell a long story"]).upstream(&upstream).spawn();
    wait_until(SOON, "the middle of the answer", || upstream.messages().iter().any(|record| record.answer_bytes > 4_000));
    let (supervisor, _) = pids(&env, &running(&env));
    kill_and_look(&env, run, &upstream, &descendants(supervisor));
    let seen = upstream.messages();
    // 2.1.197 has its title made beside it.
    let cut: Vec<_> = seen.iter().filter(|record| record.outcome == Some(Outcome::ClientGone)).collect();
    assert!(!cut.is_empty(), "{seen:?}");
    let settled = env.events(&env.the_session(), "request_settled");
    assert_eq!(settled.len(), seen.len(), "what was cut is booked too: {settled:?}");
    assert!(settled.iter().any(|event| event["lost"] == true), "{settled:?}");
}

#[test]
fn claude_2_1_330_killed_in_mid_stream_is_cut_off_and_booked() {
    crate::needs!(Component::Proc);
    let Some(claude) = Claude::v330() else { return };
    killed_in_mid_stream(&claude);
}

#[test]
fn claude_2_1_197_killed_in_mid_stream_is_cut_off_and_booked() {
    crate::needs!(Component::Proc);
    let Some(claude) = Claude::v197() else { return };
    killed_in_mid_stream(&claude);
}

/// A client that streams while a background task of its Bash tool runs on.
fn busy(env: &TestEnv, claude: &Claude, upstream: &Upstream, started: &std::path::Path) -> (Running, String, i32, Vec<i32>) {
    let run = supervised(env, claude, &[], &["-p", "work", AUTO]).upstream(upstream).spawn();
    let streams = || upstream.messages().iter().any(|record| record.number > 1 && record.answer_bytes > 4_000);
    wait_until(SOON, "the background task and the stream", || started.exists() && streams());
    let id = running(env);
    let (supervisor, claude_pid) = pids(env, &id);
    let below = descendants(supervisor);
    assert!(below.contains(&claude_pid) && below.len() >= 4, "{below:?}");
    (run, id, supervisor, below)
}

fn two_answers(command: &str) -> Upstream {
    let background = json!({ "command": command, "description": "Run on", "run_in_background": true });
    let story = Answer::filler(100_000, 40).event_every(Duration::from_millis(10));
    upstream(Script::of([Answer::tool("Bash", background)]).otherwise(story))
}

fn is_recorded_as_crashed(env: &TestEnv, upstream: &Upstream, below: &[i32]) {
    wait_until(SOON, "the end of all processes", || below.iter().all(|pid| !is_alive(*pid)) && env.processes().is_empty());
    let count = upstream.requests().len();
    let view = the_view(env);
    assert_eq!((&view["state"], &view["stop_reason"]), (&json!("crashed"), &json!("crashed")), "{view}");
    upstream.wait_until_blocking(SOON, |seen| seen.iter().all(|record| record.outcome.is_some())).unwrap();
    assert_eq!(upstream.requests().len(), count, "the upstream saw nothing afterwards");
}

#[test]
fn a_supervisor_killed_under_claude_leaves_no_process_and_a_record_that_says_crashed() {
    crate::needs!(Component::Proc, Component::Program("setsid"));
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    let (command, started) = endless(&env);
    let upstream = two_answers(&command);
    let (run, _, supervisor, below) = busy(&env, &claude, &upstream, &started);
    kill(Pid::from_raw(supervisor), Signal::SIGKILL).unwrap();
    let output = run.wait(SOON).exits(125);
    assert!(output.stderr.contains("the supervisor died"), "{}", output.stderr);
    is_recorded_as_crashed(&env, &upstream, &below);
}

#[test]
fn a_guardian_killed_under_claude_leaves_no_process_and_a_record_that_says_crashed() {
    crate::needs!(Component::Proc, Component::Program("setsid"));
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    let (command, started) = endless(&env);
    let upstream = two_answers(&command);
    let (run, _, supervisor, mut below) = busy(&env, &claude, &upstream, &started);
    below.push(supervisor);
    run.signal(Signal::SIGKILL);
    let guardian = run.wait(SOON);
    assert_eq!(guardian.code(), 128 + 9);
    is_recorded_as_crashed(&env, &upstream, &below);
}
