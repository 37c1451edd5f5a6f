//! `sentrely run` end to end: the supervised command, its end, and what is left of it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::components::skip;
use crate::support::env::TestEnv;
use crate::support::pty::Terminal;
use crate::support::run::{Running, descendants, is_alive, wait_for, wait_until};

const SOON: Duration = Duration::from_mins(1);

/// Ignores what asks it to end, and has a child in a session of its own and an orphan that do too.
const STUBBORN: &str = "trap '' TERM INT HUP QUIT; setsid sleep 300 & (setsid sh -c 'sleep 300 & sleep 300' &) ; sleep 300; wait";

/// Starts a session and waits until its command runs with at least `processes` processes below it.
pub(crate) fn running(env: &TestEnv, script: &str, processes: usize) -> (Running, String, Vec<i32>) {
    let run = env.sentrely(&["run", "--", "sh", "-c", script]).spawn();
    let id = wait_for(SOON, "the session", || {
        env.sessions().into_iter().find(|id| status(env, id)["ended_at"].is_null() && agent_pid(env, id).is_some())
    });
    let pids = wait_for(SOON, "the command's processes", || {
        let pid = agent_pid(env, &id)?;
        // What was double-forked hangs below the supervisor, not below the agent.
        let supervisor = i32::try_from(status(env, &id)["pid"].as_i64()?).ok()?;
        let pids: Vec<i32> = descendants(supervisor).into_iter().filter(|pid| is_the_commands(*pid)).collect();
        (pids.contains(&pid) && pids.len() >= processes).then_some(pids)
    });
    (run, id, pids)
}

/// Not one of the supervisor's own helpers, which has git look at things beside the start.
fn is_the_commands(pid: i32) -> bool {
    let program = match fs::read_link(format!("/proc/{pid}/exe")) {
        Ok(program) => program,
        Err(error) => return error.kind() == std::io::ErrorKind::PermissionDenied,
    };
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    !name.starts_with("git") && program != Path::new(env!("CARGO_BIN_EXE_sentrely"))
}

fn agent_pid(env: &TestEnv, id: &str) -> Option<i32> {
    let started = env.events(id, "child_started");
    i32::try_from(started.first()?["pid"].as_i64()?).ok()
}

fn status(env: &TestEnv, id: &str) -> Value {
    let content = fs::read(env.session_dir(id).join("status.json")).unwrap_or_default();
    serde_json::from_slice::<Value>(&content).map(|status| status["session"].clone()).unwrap_or_default()
}

fn listed(env: &TestEnv, id: &str) -> Value {
    let all = env.sentrely(&["ls", "-a", "--json"]).run().success().json();
    all["sessions"].as_array().unwrap().iter().find(|session| session["id"] == id).cloned().unwrap()
}

/// Every file below `dir` with its content, but for what a session may add: its branch, its keep-ref, new objects.
pub(crate) fn snapshot(dir: &Path) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let mut pending = vec![dir.to_path_buf()];
    while let Some(next) = pending.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(dir).unwrap().to_string_lossy().into_owned();
            let added = [".git/refs/heads/sentrely", ".git/logs/refs/heads/sentrely", ".git/refs/sentrely", ".git/objects"];
            if added.iter().any(|prefix| name.starts_with(prefix)) || name.ends_with(".sample") {
                continue;
            }
            if path.is_dir() {
                pending.push(path);
            } else {
                files.insert(name, String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned());
            }
        }
    }
    files
}

#[test]
fn a_commands_own_exit_code_and_output_come_through() {
    let env = TestEnv::new();
    let output = env.sentrely(&["run", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]).run().exits(7);
    assert_eq!(output.stdout, "out\n");
    assert!(output.stderr.contains("err\n"));
    assert!(output.stderr.contains("the command ended · exit 7"), "{}", output.stderr);
    let killed = env.sentrely(&["run", "--", "sh", "-c", "kill -9 $$"]).run();
    assert_eq!(killed.code(), 128 + 9);
}

#[test]
fn a_command_that_is_not_there_or_cannot_be_executed_exits_127_and_126_and_leaves_no_session() {
    let env = TestEnv::new();
    let missing = env.sentrely(&["run", "--", "no-such-program"]).run().exits(127);
    assert!(missing.stderr.contains("no-such-program") && missing.stderr.contains("hint:"), "{}", missing.stderr);
    let file = env.project().join("data");
    fs::write(&file, "no program").unwrap();
    let _ = env.sentrely(&["run", "--", "./data"]).run().exits(126);
    assert_eq!(env.sessions(), Vec::<String>::new());
}

#[test]
fn outside_a_repository_it_refuses_with_a_hint_unless_no_workspace_is_asked_for() {
    let env = TestEnv::new();
    let outside = env.root().join("elsewhere");
    fs::create_dir(&outside).unwrap();
    let refused = env.sentrely(&["run", "--", "true"]).cwd(&outside).run().exits(125);
    assert!(refused.stderr.contains("--workspace none"), "{}", refused.stderr);
    assert_eq!(env.sessions(), Vec::<String>::new());
    let _ = env.sentrely(&["run", "--workspace", "none", "--", "true"]).cwd(&outside).run().success();
}

#[test]
fn inside_a_session_another_one_is_refused() {
    let env = TestEnv::new();
    let binary = env!("CARGO_BIN_EXE_sentrely");
    let script = format!("{binary} run -- true; echo inner $?");
    let output = env.sentrely(&["run", "--", "sh", "-c", &script]).run().success();
    assert_eq!(output.stdout, "inner 125\n");
    assert!(output.stderr.contains("inside session"), "{}", output.stderr);
    assert_eq!(env.sessions().len(), 1);
}

#[test]
fn a_session_inside_a_session_is_refused_though_the_environment_was_cleared() {
    let env = TestEnv::new();
    let binary = env!("CARGO_BIN_EXE_sentrely");
    let state = env.state_dir();
    let script = format!(
        "env -i PATH=$PATH HOME=$HOME SENTRELY_STATE_DIR={0} {binary} run -- true; echo same state $?; \
         env -i PATH=$PATH HOME=$HOME {binary} run -- true; echo other state $?; \
         (setsid env -i PATH=$PATH HOME=$HOME sh -c '{binary} run -- true; echo orphan $?' &) | cat; \
         env -i PATH=$PATH HOME=$HOME SENTRELY_STATE_DIR={0} {binary} finish; echo finish $?",
        state.display()
    );
    let output = env.sentrely(&["run", "--", "sh", "-c", &script]).run().success();
    assert_eq!(output.stdout, "same state 125\nother state 125\norphan 125\nfinish 125\n");
    assert_eq!(env.sessions().len(), 1);
}

#[test]
fn a_command_that_deletes_its_session_directory_is_stopped() {
    let env = TestEnv::new();
    let started = std::time::Instant::now();
    let script = "rm -rf \"$SENTRELY_STATE_DIR/sessions/$SENTRELY_RUN_ID\"; sleep 300";
    // Behind the wall it cannot: there the directory is read-only.
    let output = env.sentrely(&["run", "--wall", "off", "--", "sh", "-c", script]).run().exits(125);
    assert!(started.elapsed() < SOON);
    assert!(output.stderr.contains("deleted"), "{}", output.stderr);
}

#[test]
fn a_resumed_session_keeps_its_limits_whatever_the_project_file_says() {
    let env = TestEnv::new();
    let _ = env.sentrely(&["run", "--budget", "1usd", "--budget", "1Mtok", "--", "true"]).run().success();
    let id = env.the_session();
    fs::write(env.project().join("sentrely.toml"), "[budget]\nlimits = [\"4usd\"]\n").unwrap();
    let limits = |env: &TestEnv| -> Vec<(String, String)> {
        let session = listed(env, &id);
        let of = |budget: &Value, field: &str| budget[field].as_str().unwrap().to_owned();
        let mut limits: Vec<_> = session["budgets"].as_array().unwrap().iter().map(|b| (of(b, "kind"), of(b, "limit"))).collect();
        limits.sort();
        limits
    };
    let both = |usd: &str| vec![("tokens".to_owned(), "1000000".to_owned()), ("usd".to_owned(), usd.to_owned())];
    let _ = env.sentrely(&["run", "--resume", &id, "--", "true"]).run().success();
    assert_eq!(limits(&env), both("1"));
    let _ = env.sentrely(&["run", "--resume", &id, "--budget", "2usd", "--", "true"]).run().success();
    assert_eq!(limits(&env), both("2"));
}

#[test]
fn work_that_the_command_destroyed_is_not_called_unchanged() {
    let env = TestEnv::new();
    let output = env.sentrely(&["run", "--", "sh", "-c", "git commit -q --allow-empty -m x; cd /; rm -rf \"$OLDPWD\""]).run().success();
    assert!(!output.stderr.contains("nothing was changed"), "{}", output.stderr);
}

#[test]
fn the_developers_checkout_is_as_before_and_the_work_is_on_its_branch() {
    let env = TestEnv::new();
    fs::write(env.project().join("notes.txt"), "uncommitted work of the developer").unwrap();
    let before = snapshot(&env.project());
    let script =
        "echo work > new.txt && git add -A && git commit -qm work && git reset -q --hard HEAD && git clean -fdxq && echo more > later.txt";
    let _ = env.sentrely(&["run", "--", "sh", "-c", script]).run().success();
    let after = snapshot(&env.project());
    let changed: Vec<&String> = before.keys().chain(after.keys()).filter(|name| before.get(*name) != after.get(*name)).collect();
    assert_eq!(changed, Vec::<&String>::new());
    let session = listed(&env, &env.the_session());
    let branch = session["branch"].as_str().unwrap();
    assert_eq!(env.git(&["show", &format!("{branch}:new.txt")]), "work");
    assert_eq!(env.git(&["show", &format!("{branch}:later.txt")]), "more");
    assert_eq!(env.git(&["log", "-1", "--format=%s", &format!("{branch}~1")]), "work");
}

#[test]
fn on_a_terminal_uncommitted_work_comes_along_and_only_what_was_done_on_top_comes_home() {
    let env = TestEnv::new();
    fs::write(env.project().join("notes.txt"), "mine\n").unwrap();
    fs::write(env.project().join("plan.txt"), "mine\n").unwrap();
    env.git(&["add", "plan.txt"]);
    let before = snapshot(&env.project());
    let script = "git status --porcelain; echo more >> notes.txt; echo new > new.txt";
    let mut terminal = Terminal::spawn_sized(&env.sentrely(&["run", "--", "sh", "-c", script]), 50, 200);
    let screen = terminal.wait_for_text(SOON, "1 commit on");
    assert!(terminal.wait(SOON).success(), "{screen}");
    assert!(screen.contains("2 uncommitted files of yours are in the session's copy"), "{screen}");
    assert!(screen.contains("A  plan.txt") && screen.contains("?? notes.txt"), "{screen}");
    assert!(screen.contains("holds uncommitted changes of yours too, in notes.txt"), "{screen}");
    assert_eq!(snapshot(&env.project()), before);
    let branch = listed(&env, &env.the_session())["branch"].as_str().unwrap().to_owned();
    assert_eq!(env.git(&["diff", "--name-only", "main", &branch]), "new.txt\nnotes.txt");
}

#[test]
fn a_push_to_main_is_refused_and_the_sessions_branch_arrives() {
    let env = TestEnv::new();
    let main = env.git_in(&env.origin(), &["rev-parse", "main"]);
    let script = "git commit -q --allow-empty -m work; git push origin HEAD:main; echo main $?; git push -q origin HEAD; echo own $?";
    let output = env.sentrely(&["run", "--", "sh", "-c", script]).run().success();
    assert_eq!(output.stdout, "main 1\nown 0\n");
    assert!(output.stderr.contains("! [remote rejected] HEAD -> main (sentrely: protected branch"), "{}", output.stderr);
    assert_eq!(env.git_in(&env.origin(), &["rev-parse", "main"]), main);
    let branch = listed(&env, &env.the_session())["branch"].as_str().unwrap().to_owned();
    assert_eq!(env.git_in(&env.origin(), &["log", "-1", "--format=%s", &branch]), "work");
}

#[test]
fn the_childs_environment_holds_none_of_the_managed_credentials() {
    let env = TestEnv::new();
    let bait = [
        ("ANTHROPIC_API_KEY", "sk-ant-bait-000000000000"),
        ("AWS_ACCESS_KEY_ID", "AKIABAIT"),
        ("AWS_PROFILE", "bait"),
        ("GITHUB_TOKEN", "ghp_bait"),
        ("SSH_AUTH_SOCK", "/tmp/bait"),
        ("GIT_CONFIG_COUNT", "0"),
        ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "bait"),
    ];
    let control = env.command("env", &[] as &[&str]).var("ANTHROPIC_API_KEY", bait[0].1).run().success();
    assert!(control.stdout.contains("bait"), "the positive control");
    let run = bait.iter().fold(env.sentrely(&["run", "--", "env"]), |run, (name, value)| run.var(name, value));
    let output = run.run().success();
    assert!(!output.stdout.contains("bait"), "{}", output.stdout);
    assert!(output.stdout.contains("AWS_EC2_METADATA_DISABLED=true") && output.stdout.contains("SENTRELY_RUN_ID="));
}

#[test]
fn a_kill_ends_everything_though_it_ignores_every_signal_and_ls_agrees() {
    let env = TestEnv::new();
    let (run, id, pids) = running(&env, STUBBORN, 5);
    let killed = env.sentrely(&["kill", "--reason", "enough", &id[..8]]).run().success();
    assert!(killed.stdout.contains("last process gone") || killed.stderr.contains("last process gone"), "{}", killed.stderr);
    let output = run.wait(SOON).exits(122);
    assert!(output.stderr.contains("killed: enough"), "{}", output.stderr);
    assert_eq!(pids.iter().filter(|pid| is_alive(**pid)).count(), 0);
    let session = listed(&env, &id);
    assert_eq!((&session["state"], &session["stop_reason"], &session["exit_code"]), (&json!("stopped"), &json!("killed"), &json!(122)));
    // Twice is harmless.
    let _ = env.sentrely(&["kill", &id[..8]]).run().success();
}

#[test]
fn a_kill_file_made_by_hand_kills_and_the_one_for_all_refuses_new_sessions() {
    let env = TestEnv::new();
    let (run, id, _) = running(&env, "sleep 300", 1);
    fs::write(env.session_dir(&id).join("kill"), "").unwrap();
    let _ = run.wait(SOON).exits(122);

    let (run, _, _) = running(&env, "sleep 300", 1);
    let all = env.state_dir().join("kill");
    fs::write(&all, "").unwrap();
    let _ = run.wait(SOON).exits(122);
    let refused = env.sentrely(&["run", "--", "true"]).run().exits(125);
    assert!(refused.stderr.contains(&format!("hint: rm {}", all.display())), "{}", refused.stderr);
    fs::remove_file(&all).unwrap();
    let _ = env.sentrely(&["run", "--", "true"]).run().success();
}

#[test]
fn what_the_command_leaves_behind_is_swept_at_its_end() {
    let env = TestEnv::new();
    let output = env.sentrely(&["run", "--", "sh", "-c", "setsid sleep 300 & echo $!"]).run().success();
    let left: i32 = output.stdout.trim().parse().unwrap();
    assert!(!is_alive(left));
}

#[test]
fn the_time_limit_holds() {
    let env = TestEnv::new();
    let _ = env.sentrely(&["run", "--timeout", "1s", "--", "sleep", "300"]).run().exits(124);
    assert_eq!(listed(&env, &env.the_session())["stop_reason"], json!("deadline"));
}

#[test]
fn a_resumed_session_goes_on_within_the_time_limit_it_began_with() {
    let env = TestEnv::new();
    let stopped = env.sentrely(&["run", "--timeout", "1s", "--", "sleep", "300"]).run().exits(124);
    let id = env.the_session();
    assert!(stopped.stderr.contains(&format!("sentrely run --resume {} --timeout 2s -- sleep 300", &id[..8])), "{}", stopped.stderr);
    let used_up = env.sentrely(&["run", "--resume", &id, "--", "true"]).run().exits(124);
    assert!(used_up.stderr.contains("its time limit of 1s is used up") && used_up.stderr.contains("--timeout"), "{}", used_up.stderr);
    let banner = env.sentrely(&["run", "--resume", &id, "--timeout", "1h", "--", "true"]).run().success().stderr;
    assert!(banner.contains("time limit 1h, ") && banner.contains(" of it used before"), "{banner}");
    let _ = env.sentrely(&["run", "--resume", &id, "--", "true"]).run().success();
    let limits: Vec<Value> = env.events(&id, "attempt_started").iter().map(|attempt| attempt["time_limit_s"].clone()).collect();
    assert_eq!(limits, [1, 3600, 3600], "kept, and nothing came of the one that was refused");
    assert_eq!(listed(&env, &id)["time_limit_s"], 3600);
}

#[test]
fn a_signal_during_set_up_is_the_reason_in_the_record_and_the_index() {
    let env = TestEnv::new();
    fs::write(env.project().join(".gitattributes"), "*.big filter=slow\n").unwrap();
    fs::write(env.project().join("a.big"), "large").unwrap();
    env.git(&["add", "."]);
    env.git(&["commit", "-q", "-m", "Attributes"]);
    let (begun, mut pipe) = (env.root().join("filtering"), pipe(&env));
    let wait = format!("read -r _ < {}", env.root().join("pipe").display());
    env.git(&["config", "filter.slow.smudge", &format!("touch {}; {wait}; cat", begun.display())]);
    let run = env.sentrely(&["run", "--", "sh", "-c", "echo it ran"]).spawn();
    wait_until(SOON, "the copy being made", || begun.exists());
    run.signal(Signal::SIGTERM);
    outwait(Duration::from_secs(1));
    pipe.write_all(b"go on\n").unwrap();
    let output = run.wait(SOON).exits(128 + 15);
    assert_eq!(output.stdout, "");
    let session = listed(&env, &env.the_session());
    assert_eq!((&session["stop_reason"], &session["exit_code"]), (&json!("terminated"), &json!(143)));
    let index = fs::read_to_string(env.state_dir().join("index.jsonl")).unwrap();
    assert!(index.lines().count() == 1 && index.contains("\"terminated\""), "{index}");
}

/// The pipe that a filter of git's reads a line from before it goes on. Open both ways, so that nobody waits for the other
/// to open it.
fn pipe(env: &TestEnv) -> fs::File {
    let path = env.root().join("pipe");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::OpenOptions::new().read(true).write(true).open(path).unwrap()
}

/// Lets a time pass in which something is to be heard, and nothing to happen.
fn outwait(time: Duration) {
    let since = std::time::Instant::now();
    wait_until(SOON, "the time to pass", || since.elapsed() > time);
}

/// Starts a session that exits with 7 and whose work takes until a line comes through the pipe to bring home; returns when that has begun.
fn delivering(env: &TestEnv) -> (Running, String, fs::File) {
    fs::write(env.project().join(".gitattributes"), "*.big filter=slow\n").unwrap();
    env.git(&["add", "."]);
    env.git(&["commit", "-q", "-m", "Attributes"]);
    let (begun, pipe_end) = (env.root().join("filtering"), pipe(env));
    let wait = format!("read -r _ < {}", env.root().join("pipe").display());
    env.git(&["config", "filter.slow.clean", &format!("touch {}; {wait}; cat", begun.display())]);
    let run = env.sentrely(&["run", "--", "sh", "-c", "echo work > a.big; exit 7"]).spawn();
    wait_until(SOON, "the work being brought home", || begun.exists());
    (run, env.the_session(), pipe_end)
}

fn is_delivered(env: &TestEnv, id: &str) {
    let session = listed(env, id);
    assert_eq!((&session["state"], &session["stop_reason"], &session["exit_code"]), (&json!("stopped"), &json!("child_exited"), &json!(7)));
    assert_eq!(env.git(&["show", &format!("{}:a.big", session["branch"].as_str().unwrap())]), "work");
}

#[test]
fn a_kill_that_comes_when_the_work_is_brought_home_waits_for_it() {
    let env = TestEnv::new();
    let (run, id, mut pipe) = delivering(&env);
    let killing = env.sentrely(&["kill", &id[..8]]).spawn();
    wait_until(SOON, "the kill file", || env.session_dir(&id).join("kill").exists());
    // What the guardian gives a supervisor that does not react, and more.
    outwait(Duration::from_secs(2));
    pipe.write_all(b"go on\n").unwrap();
    let killed = killing.wait(SOON).success();
    assert!(killed.stdout.contains("(the command ended)"), "{}", killed.stdout);
    let output = run.wait(SOON).exits(7);
    assert!(!output.stderr.contains("supervisor"), "{}", output.stderr);
    is_delivered(&env, &id);
}

#[test]
fn signals_that_come_when_the_work_is_brought_home_do_not_break_it_off() {
    let env = TestEnv::new();
    let (run, id, mut pipe) = delivering(&env);
    let supervisor = nix::unistd::Pid::from_raw(i32::try_from(status(&env, &id)["pid"].as_i64().unwrap()).unwrap());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        run.signal(signal);
        nix::sys::signal::kill(supervisor, signal).unwrap();
    }
    outwait(Duration::from_secs(1));
    pipe.write_all(b"go on\n").unwrap();
    let output = run.wait(SOON).exits(7);
    assert!(!output.stderr.contains("supervisor"), "{}", output.stderr);
    is_delivered(&env, &id);
}

#[test]
fn a_signal_to_sentrely_ends_the_session_in_order() {
    let env = TestEnv::new();
    let (run, id, pids) = running(&env, "sleep 300", 1);
    run.signal(Signal::SIGTERM);
    let _ = run.wait(SOON).exits(128 + 15);
    assert!(pids.iter().all(|pid| !is_alive(*pid)));
    assert_eq!(listed(&env, &id)["stop_reason"], json!("terminated"));
}

#[test]
fn a_killed_supervisor_leaves_no_process_and_a_record_that_says_crashed() {
    let env = TestEnv::new();
    let (run, id, pids) = running(&env, STUBBORN, 5);
    let supervisor = nix::unistd::Pid::from_raw(i32::try_from(status(&env, &id)["pid"].as_i64().unwrap()).unwrap());
    nix::sys::signal::kill(supervisor, Signal::SIGKILL).unwrap();
    let _ = run.wait(SOON).exits(125);
    assert_eq!(pids.iter().filter(|pid| is_alive(**pid)).count(), 0);
    let session = listed(&env, &id);
    assert_eq!((&session["state"], &session["stop_reason"]), (&json!("crashed"), &json!("crashed")));
}

/// The copy that a session works in.
fn copy_of(env: &TestEnv, id: &str) -> String {
    let meta: Value = serde_json::from_slice(&fs::read(env.session_dir(id).join("meta.json")).unwrap()).unwrap();
    meta["copy"]["root"].as_str().unwrap().to_owned()
}

fn is_brought_home_by_finish(env: &TestEnv, id: &str) {
    let branch = listed(env, id)["branch"].as_str().unwrap().to_owned();
    let finished = env.sentrely(&["finish"]).run().success();
    assert!(finished.stderr.contains(&format!("session {}: its work is on {branch} (1 commit)", &id[..8])), "{}", finished.stderr);
    assert_eq!(env.git(&["show", &format!("{branch}:later.txt")]), "more");
    assert_eq!(listed(env, id)["state"], json!("crashed"));
    let _ = env.sentrely(&["log", "--verify", &id[..8]]).run().success();
    assert_eq!(env.sentrely(&["finish"]).run().success().stderr, "nothing to clear up\n");
}

#[test]
fn after_the_supervisors_death_the_guardian_says_where_the_work_is_and_finish_brings_it_home() {
    let env = TestEnv::new();
    let (run, id, _) = running(&env, "echo more > later.txt; sleep 300", 2);
    let work = format!("its work is in {}; `sentrely run --resume {} -- …` goes on with it", copy_of(&env, &id), &id[..8]);
    let supervisor = nix::unistd::Pid::from_raw(i32::try_from(status(&env, &id)["pid"].as_i64().unwrap()).unwrap());
    nix::sys::signal::kill(supervisor, Signal::SIGKILL).unwrap();
    let output = run.wait(SOON).exits(125);
    assert!(output.stderr.contains(&format!("session {} crashed; {work}", &id[..8])), "{}", output.stderr);
    is_brought_home_by_finish(&env, &id);
}

#[test]
fn after_the_death_of_both_the_next_start_brings_the_work_home_and_says_where_it_is() {
    let env = TestEnv::new();
    let (run, id, pids) = running(&env, "echo more > later.txt; sleep 300", 2);
    let work = format!("its work is in {}; `sentrely run --resume {} -- …` goes on with it", copy_of(&env, &id), &id[..8]);
    let supervisor = nix::unistd::Pid::from_raw(i32::try_from(status(&env, &id)["pid"].as_i64().unwrap()).unwrap());
    // Stopped first: it shall not see the guardian's death and end the session.
    nix::sys::signal::kill(supervisor, Signal::SIGSTOP).unwrap();
    run.signal(Signal::SIGKILL);
    nix::sys::signal::kill(supervisor, Signal::SIGKILL).unwrap();
    for pid in pids {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
    }
    let _ = run.wait(SOON).exits(128 + 9);
    env.wait_until_nobody_holds(&id);
    let next = env.sentrely(&["run", "--workspace", "none", "--", "true"]).run().success();
    let said = format!("session {} had crashed: no process of it was left; {work}", &id[..8]);
    assert!(next.stderr.contains(&said), "{}", next.stderr);
    let branch = listed(&env, &id)["branch"].as_str().unwrap().to_owned();
    assert!(next.stderr.contains(&format!("session {}: its work is on {branch} (1 commit)", &id[..8])), "{}", next.stderr);
    assert_eq!(env.git(&["show", &format!("{branch}:later.txt")]), "more");
    let after = env.sentrely(&["run", "--workspace", "none", "--", "true"]).run().success();
    assert!(!after.stderr.contains("its work is on"), "once is enough: {}", after.stderr);
    assert_eq!(env.sentrely(&["finish"]).run().success().stderr, "nothing to clear up\n");
}

#[test]
fn the_work_comes_home_while_the_session_goes_on_and_the_agents_git_never_waits() {
    let env = TestEnv::new();
    // A git of the agent's is half done all the time: its lock is neither waited for nor taken.
    let script = "echo 1 > one.txt; touch .git/index.lock; while ! test -e go; do sleep 0.1; done; \
                  echo 2 > two.txt; rm .git/index.lock; git add -A; git commit -qm both; echo committed; while ! test -e end; do sleep 0.1; done";
    let flags = ["run", "--config", "git.collect_every=1s", "--", "sh", "-c", script];
    let run = env.sentrely(&flags).spawn();
    let id = wait_for(SOON, "the session", || env.sessions().into_iter().find(|id| !env.events(id, "child_started").is_empty()));
    let branch = listed(&env, &id)["branch"].as_str().unwrap().to_owned();
    let at_home = |file: &str| {
        let said = env.command("git", &["show", &format!("{branch}:{file}")]).run();
        (said.code() == 0).then(|| said.stdout.trim().to_owned())
    };
    assert_eq!(wait_for(SOON, "the work so far", || at_home("one.txt")), "1");
    let first = env.git(&["rev-parse", &branch]);
    let copy = std::path::PathBuf::from(copy_of(&env, &id));
    assert!(copy.join(".git/index.lock").exists());
    let saved = env.events(&id, "work_saved").len();
    fs::write(copy.join("go"), "").unwrap();
    wait_for(SOON, "the commit", || env.git(&["log", "--format=%s", &branch]).contains("both").then_some(()));
    assert_ne!(env.git(&["rev-parse", &branch]), first);
    assert!(env.events(&id, "work_saved").len() > saved);
    fs::write(copy.join("end"), "").unwrap();
    let output = run.wait(SOON).success();
    assert_eq!(output.stdout, "committed\n");
    assert_eq!(env.git(&["show", &format!("{branch}:two.txt")]), "2");
}

#[test]
fn a_killed_guardian_leaves_no_process_and_a_record_that_says_crashed() {
    let env = TestEnv::new();
    let (run, id, pids) = running(&env, STUBBORN, 5);
    let supervisor = i32::try_from(status(&env, &id)["pid"].as_i64().unwrap()).unwrap();
    run.signal(Signal::SIGKILL);
    wait_until(SOON, "the end of the session", || !is_alive(supervisor) && pids.iter().all(|pid| !is_alive(*pid)));
    let session = listed(&env, &id);
    assert_eq!((&session["state"], &session["stop_reason"]), (&json!("crashed"), &json!("crashed")));
    drop(run);
}

#[test]
fn the_command_cannot_signal_its_supervisor_unless_the_wall_is_off() {
    let env = TestEnv::new();
    let attack = "read -r _ _ _ supervisor _ < /proc/$$/stat; kill -0 $supervisor && echo reached || echo kept off";
    let walled = env.sentrely(&["run", "--", "sh", "-c", attack]).run().success();
    if walled.stderr.contains("no Landlock scopes") {
        return skip("Landlock scopes (Linux 6.12)");
    }
    assert_eq!(walled.stdout, "kept off\n");
    let control = env.sentrely(&["run", "--wall", "off", "--", "sh", "-c", attack]).run().success();
    assert_eq!(control.stdout, "reached\n");
}

#[test]
fn a_resumed_session_goes_on_on_its_branch() {
    let env = TestEnv::new();
    let _ = env.sentrely(&["run", "--", "sh", "-c", "git commit -q --allow-empty -m first"]).run().success();
    let id = env.the_session();
    let _ = env
        .sentrely(&["run", "--resume", &id[..8], "--", "sh", "-c", "git log -1 --format=%s; git commit -q --allow-empty -m second"])
        .run()
        .success();
    let session = listed(&env, &id);
    assert_eq!(session["attempts"], json!(2));
    let branch = session["branch"].as_str().unwrap();
    assert_eq!(env.git(&["log", "-2", "--format=%s", branch]), "second\nfirst");
    let _ = env.sentrely(&["log", "--verify", &id[..8]]).run().success();
}

#[test]
fn a_dry_run_says_what_would_be_done_and_makes_nothing() {
    let env = TestEnv::new();
    let output = env.sentrely(&["run", "--dry-run", "--budget", "3usd", "--", "true"]).run().success();
    assert!(output.stderr.contains("dry run") && output.stderr.contains("$3.00"), "{}", output.stderr);
    assert_eq!(env.sessions(), Vec::<String>::new());
}

#[test]
fn the_result_file_holds_the_session() {
    let env = TestEnv::new();
    let path = env.root().join("result.json");
    let _ = env.sentrely(&["run", "--result-file", &path.to_string_lossy(), "--", "sh", "-c", "exit 3"]).run().exits(3);
    let result: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!((&result["schema_version"], &result["session"]["exit_code"]), (&json!(1), &json!(3)));
    // Exactly what is documented of a session, and nothing of how it is kept on disk.
    let (mut in_file, mut in_list) = (result["session"].clone(), listed(&env, &env.the_session()));
    for session in [&mut in_file, &mut in_list] {
        // It falls with time.
        session.as_object_mut().unwrap().remove("burn_usd_per_hour").unwrap();
    }
    assert_eq!(in_file, in_list);
}

#[test]
fn bad_input_is_named_before_anything_is_made() {
    let env = TestEnv::new();
    let cases: [(&[&str], &str); 6] = [
        (&["run"], "command"),
        (&["run", "--budget", "-5usd", "--", "true"], "negative"),
        (&["run", "--budget", "5eur", "--", "true"], "5usd"),
        (&["run", "--timeout", "soon", "--", "true"], "soon"),
        (&["run", "--config", "run.timeou=2h", "--", "true"], "run.timeout"),
        (&["run", "--wall", "high", "--", "true"], "require"),
    ];
    for (args, said) in cases {
        let output = env.sentrely(args).run().exits(125);
        assert!(output.stderr.contains(said), "{args:?}: {}", output.stderr);
        assert!(output.stderr.contains("hint:") || output.stderr.contains("Usage"), "{args:?}: {}", output.stderr);
    }
    fs::write(env.project().join("sentrely.toml"), "[budget]\nlimit = [\"5usd\"]\n").unwrap();
    let output = env.sentrely(&["run", "--", "true"]).run().exits(125);
    assert!(output.stderr.contains("sentrely.toml:2:1") && output.stderr.contains("limits"), "{}", output.stderr);
    assert_eq!(env.sessions(), Vec::<String>::new());
}

#[test]
fn a_state_directory_that_others_can_write_to_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let env = TestEnv::new();
    let dir = env.root().join("open-state");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    let output = env.sentrely(&["run", "--", "true"]).var("SENTRELY_STATE_DIR", &dir).run().exits(125);
    assert!(output.stderr.contains("hint: chmod 700"), "{}", output.stderr);
}

#[test]
fn the_banner_tells_both_ways_to_stop_it_and_the_second_one_does() {
    let env = TestEnv::new();
    let (run, id, _) = running(&env, "sleep 300", 1);
    let kill_file = env.session_dir(&id).join("kill");
    let line = format!("  stop      sentrely kill {}  or  touch {}\n", &id[..8], kill_file.canonicalize().unwrap_or(kill_file).display());
    assert!(run.stderr().contains(&line), "{line}{}", run.stderr());
    let touch = line.split_once("  or  ").unwrap().1.trim();
    let _ = env.command("sh", &["-c", touch]).run().success();
    let _ = run.wait(SOON).exits(122);
}
