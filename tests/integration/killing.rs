//! `sentrely kill` on real sessions: who may, what it says, and what the record proves afterwards.

use std::fs;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::session::running;
use crate::support::env::TestEnv;
use crate::support::run::{descendants, is_alive, wait_until};

const SOON: Duration = Duration::from_mins(1);

fn proof(env: &TestEnv, id: &str) -> Value {
    let document = env.sentrely(&["show", id, "--json"]).run().success().json();
    document["details"]["proof_of_death"].clone()
}

fn stages(proof: &Value) -> Vec<&str> {
    proof["stages"].as_array().unwrap().iter().map(|stage| stage["stage"].as_str().unwrap()).collect()
}

#[test]
fn a_kill_is_told_in_stages_and_its_proof_stays_in_the_record() {
    let env = TestEnv::new();
    let (run, id, pids) = running(&env, "trap '' TERM; sleep 300 & sleep 300", 3);
    let killed = env.sentrely(&["kill", &id, "--now", "--reason", "wrong branch"]).run().success();
    for word in ["gate closed ", "credentials withheld ", "signal sent ", "last process gone ", "recorded ", " processes ended"] {
        assert!(killed.stdout.contains(word), "{word}: {}", killed.stdout);
    }
    assert!(pids.iter().all(|pid| !is_alive(*pid)), "killed is said only when nothing is left");
    assert_eq!(run.wait(SOON).code(), 122);
    let proof = proof(&env, &id);
    assert_eq!((proof["reason"].as_str(), proof["note"].as_str()), (Some("killed"), Some("wrong branch")));
    assert!(proof["by"].is_string() && proof["from"].is_string() && proof["latency_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(stages(&proof)[..4], ["gate_closed", "credentials_withheld", "signal_sent", "last_process_gone"]);
    assert!(stages(&proof).contains(&"recorded"));
    // The shell may still take in the end of the command that it waits for, while both die of the same kill.
    assert!(proof["processes_ended"].as_u64().unwrap() >= 2, "{proof}");
    assert!(proof["survivors"].as_array().unwrap().is_empty(), "{proof}");
    assert_eq!(
        (proof["cost_usd"].as_str(), &proof["aws_keys"], &proof["last_request_at"]),
        (Some("0"), &Value::Array(Vec::new()), &Value::Null)
    );
    let again = env.sentrely(&["kill", &id]).run().success();
    assert!(again.stdout.contains("had ended already: killed"), "{}", again.stdout);
    let _ = env.sentrely(&["kill", "ffffffff"]).run().exits(3);
}

#[test]
fn an_agent_cannot_kill_another_session_whatever_it_calls_itself() {
    let env = TestEnv::new();
    let (other, victim, _) = running(&env, "sleep 300", 1);
    let binary = env!("CARGO_BIN_EXE_sentrely");
    // The victim's name in the environment, none at all, and a process that was orphaned: all are below the agent's supervisor.
    let script = format!(
        "SENTRELY_RUN_ID={victim} {binary} kill {victim}; echo forged $?; \
         env -u SENTRELY_RUN_ID {binary} kill {victim}; echo nameless $?; \
         {binary} kill --all; echo all $?; \
         (SENTRELY_RUN_ID={victim} setsid sh -c '{binary} kill {victim}; echo orphan $?' &) | cat"
    );
    // With the wall it does not even see the other's records; without it only who asks is in the way.
    for wall in ["auto", "off"] {
        let output = env.sentrely(&["run", "--wall", wall, "--", "sh", "-c", &script]).run().success();
        assert_eq!(output.stdout, "forged 125\nnameless 125\nall 125\norphan 125\n", "{wall}: {}", output.stderr);
    }
    assert!(!env.session_dir(&victim).join("kill").exists());
    // The control: from outside the very same words do kill it.
    let _ = env.sentrely(&["kill", &victim]).var("SENTRELY_RUN_ID", &victim).run().success();
    assert_eq!(other.wait(SOON).code(), 122);
}

#[test]
fn an_agent_that_can_reach_its_own_session_may_kill_it() {
    let env = TestEnv::new();
    let binary = env!("CARGO_BIN_EXE_sentrely");
    let output = env.sentrely(&["run", "--wall", "off", "--", "sh", "-c", &format!("{binary} kill $SENTRELY_RUN_ID; sleep 300")]).run();
    assert_eq!(output.code(), 122, "{}", output.stderr);
}

#[test]
fn the_kill_file_of_the_state_directory_stops_everything_and_refuses_new_sessions_with_the_line_that_removes_it() {
    let env = TestEnv::new();
    let (run, id, _) = running(&env, "sleep 300", 1);
    let file = env.state_dir().join("kill");
    fs::write(&file, "").unwrap();
    assert_eq!(run.wait(SOON).code(), 122);
    assert_eq!(proof(&env, &id)["from"], file.to_str().unwrap());
    let refused = env.sentrely(&["run", "--", "true"]).run().exits(125);
    assert!(refused.stderr.contains(&format!("hint: rm {}", file.display())), "{}", refused.stderr);
    fs::remove_file(&file).unwrap();
    // It kills as a dangling link too, so it must refuse as one.
    std::os::unix::fs::symlink("/nowhere", &file).unwrap();
    let _ = env.sentrely(&["run", "--", "true"]).run().exits(125);
    fs::remove_file(&file).unwrap();
    let _ = env.sentrely(&["run", "--", "true"]).run().success();
}

#[test]
fn a_kill_that_the_guardian_carried_out_is_recorded_with_who_asked() {
    let env = TestEnv::new();
    let (run, id, pids) = running(&env, "sleep 300", 1);
    let status: Value = serde_json::from_slice(&fs::read(env.session_dir(&id).join("status.json")).unwrap()).unwrap();
    let supervisor = i32::try_from(status["session"]["pid"].as_i64().unwrap()).unwrap();
    // The guardian is stopped, so that it finds both at once: a dead supervisor and a kill file.
    run.signal(Signal::SIGSTOP);
    kill(Pid::from_raw(supervisor), Signal::SIGKILL).unwrap();
    fs::write(env.session_dir(&id).join("kill"), r#"{"by":"ana","from":"pager","reason":"runaway","now":true}"#).unwrap();
    run.signal(Signal::SIGCONT);
    assert_eq!(run.wait(SOON).code(), 122);
    wait_until(SOON, "the end of all of them", || pids.iter().all(|pid| !is_alive(*pid)));
    let proof = proof(&env, &id);
    assert_eq!((proof["by"].as_str(), proof["from"].as_str(), proof["note"].as_str()), (Some("ana"), Some("pager"), Some("runaway")));
}

/// The supervisor and, who would wake it, the guardian's watchman.
fn children_of(pid: i32) -> Vec<i32> {
    let is_child = |child: &i32| {
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok()) == Some(pid)
    };
    descendants(pid).into_iter().filter(is_child).collect()
}

#[test]
fn a_kill_of_a_session_whose_supervisor_is_stopped_is_carried_out_by_the_guardian_which_says_so_in_the_record() {
    let env = TestEnv::new();
    let (run, id, pids) = running(&env, "trap '' TERM; setsid sleep 300 & sleep 300", 3);
    let stopped = children_of(run.pid());
    assert!(!stopped.is_empty());
    for pid in &stopped {
        kill(Pid::from_raw(*pid), Signal::SIGSTOP).unwrap();
    }
    let killed = env.sentrely(&["kill", "--reason", "hung", &id[..8]]).run().success();
    assert!(pids.iter().chain(&stopped).all(|pid| !is_alive(*pid)), "{}", killed.stdout);
    let output = run.wait(SOON).exits(122);
    assert!(output.stderr.contains("the supervisor did not react to a kill and was ended"), "{}", output.stderr);
    let stops = env.events(&id, "stop_requested");
    assert_eq!((&stops[0]["reason"], &stops[0]["note"]), (&json!("killed"), &json!("hung")), "{stops:?}");
    let guardian = stops.iter().find(|stop| stop["by"] == "guardian").unwrap();
    assert_eq!(guardian["note"], "the supervisor did not react to a kill and was ended");
    let view = &env.ls_json()["sessions"][0];
    assert_eq!((&view["state"], &view["stop_reason"], &view["exit_code"]), (&json!("stopped"), &json!("killed"), &json!(122)));
}

#[test]
fn who_asked_is_the_user_that_the_system_knows_and_no_variable() {
    let env = TestEnv::new();
    let (run, id, _) = running(&env, "sleep 300", 1);
    let _ = env.sentrely(&["kill", &id]).var("USER", "somebody-else").var("LOGNAME", "somebody-else").run().success();
    let _ = run.wait(SOON).exits(122);
    let uid = nix::unistd::geteuid();
    let name = nix::unistd::User::from_uid(uid).unwrap().map_or_else(|| format!("uid {uid}"), |user| user.name);
    assert_eq!(proof(&env, &id)["by"], json!(name));
}
