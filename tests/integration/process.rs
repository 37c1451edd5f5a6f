//! The agent as the session starts and ends it. What needs a supervisor of its own is in `tests/process`.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sentrely::process::{Agent, AgentEvent, AgentRequest, Exit, GuardianError, Signal, SpawnError, guardian};
use sentrely::store::kill_file::{self, KillFileWatch, KillRequest};

const PATIENCE: Duration = Duration::from_mins(1);

fn request(cwd: &Path, program: impl Into<PathBuf>, args: &[&str]) -> AgentRequest {
    AgentRequest {
        program: program.into(),
        args: args.iter().map(Into::into).collect(),
        env: vec![("PATH".into(), std::env::var_os("PATH").unwrap()), ("GREETING".into(), "hi there".into())],
        cwd: cwd.to_owned(),
        cgroup: None,
        pre_exec: None,
        successor: None,
    }
}

fn shell(cwd: &Path, script: &str) -> AgentRequest {
    request(cwd, "sh", &["-c", script])
}

async fn exit(agent: &mut Agent) -> Exit {
    loop {
        if let AgentEvent::Exited(exit) = tokio::time::timeout(PATIENCE, agent.event()).await.unwrap() {
            return exit;
        }
    }
}

fn error(request: AgentRequest) -> SpawnError {
    match Agent::spawn(request) {
        Ok(agent) => panic!("it runs as {}", agent.pid()),
        Err(error) => error,
    }
}

#[tokio::test]
async fn the_agent_gets_exactly_the_arguments_environment_and_directory_it_was_given() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::spawn(shell(dir.path(), "env -u PWD -u SHLVL -u _ -u OLDPWD >env; pwd >pwd; exit 3")).unwrap();
    assert_eq!(exit(&mut agent).await, Exit { code: Some(3), signal: None });
    let env = fs::read_to_string(dir.path().join("env")).unwrap();
    let mut env: Vec<&str> = env.lines().collect();
    env.sort_unstable();
    assert_eq!(env, ["GREETING=hi there", &format!("PATH={}", std::env::var("PATH").unwrap())]);
    let pwd = fs::read_to_string(dir.path().join("pwd")).unwrap();
    assert_eq!(Path::new(pwd.trim()), dir.path().canonicalize().unwrap());
    assert!(!agent.owns_terminal());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_agent_inherits_no_descriptor_no_mask_and_no_ignored_signal() {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    let dir = tempfile::tempdir().unwrap();
    let leaky = fs::File::create(dir.path().join("leaky")).unwrap();
    fcntl(&leaky, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    nix::sys::signal::SigSet::from(Signal::SIGUSR1).thread_block().unwrap();

    let look = "cat /proc/self/status >status; ls /proc/$$/fd >fds";
    let mut agent = Agent::spawn(shell(dir.path(), look)).unwrap();
    exit(&mut agent).await;
    let status = fs::read_to_string(dir.path().join("status")).unwrap();
    for mask in ["SigBlk", "SigIgn"] {
        let value = status.lines().find_map(|line| line.strip_prefix(mask)).unwrap();
        let value = u64::from_str_radix(value.trim_start_matches(':').trim(), 16).unwrap();
        // The C library keeps signals 32 and 33 to itself, and lets nobody set them.
        assert_eq!(value & !(0b11 << 31), 0, "{mask}: {value:x}");
    }
    // The shell's own redirections stand at 10 and above.
    let fds = fs::read_to_string(dir.path().join("fds")).unwrap();
    let low: Vec<u32> = fds.split_whitespace().filter_map(|fd| fd.parse().ok()).filter(|fd| *fd < 10).collect();
    assert_eq!(low, [0, 1, 2]);
}

#[tokio::test]
async fn what_cannot_be_started_says_why_and_exits_as_a_shell_would() {
    let dir = tempfile::tempdir().unwrap();
    let script = |name: &str, text: &str, mode: u32| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    let missing = error(request(dir.path(), "no-such-program-here", &[]));
    assert_eq!((missing.exit_code(), missing.to_string().as_str()), (127, "find the program no-such-program-here"));
    assert!(missing.hint().is_some());
    assert_eq!(error(request(dir.path(), "./missing", &[])).exit_code(), 127);

    let plain = script("plain", "#!/bin/sh\n", 0o644);
    let error_of_plain = error(request(dir.path(), &plain, &[]));
    assert_eq!(error_of_plain.exit_code(), 126);
    assert_eq!(error_of_plain.hint().unwrap(), format!("chmod +x {}", plain.display()));
    let interpreter = error(request(dir.path(), script("interpreter", "#!/nonexistent/sh\n", 0o755), &[]));
    assert_eq!(interpreter.exit_code(), 126);
    assert_eq!(interpreter.hint().unwrap(), "the interpreter in its first line does not exist");
    assert_eq!(error(request(dir.path(), dir.path(), &[])).exit_code(), 126);

    let mut on_path = request(dir.path(), "plain", &[]);
    on_path.env = vec![("PATH".into(), OsString::from(format!("/nonexistent:{}", dir.path().display())))];
    assert_eq!(error(on_path).exit_code(), 126);
    let nowhere = error(request(Path::new("/nonexistent/dir"), "sh", &[]));
    assert!(matches!(nowhere, SpawnError::Directory { .. }) && nowhere.exit_code() == 125, "{nowhere}");
}

#[tokio::test]
async fn a_wall_that_cannot_be_raised_stops_the_start_and_one_that_can_stands_before_the_program() {
    let dir = tempfile::tempdir().unwrap();
    let mut walled = shell(dir.path(), "exit 0");
    walled.pre_exec = Some(Box::new(|| Err(io::Error::from_raw_os_error(libc::EPERM))));
    let refused = error(walled);
    assert!(matches!(&refused, SpawnError::Wall { source, .. } if source.raw_os_error() == Some(libc::EPERM)), "{refused}");

    let mut walled = shell(dir.path(), "umask >umask");
    walled.pre_exec = Some(Box::new(|| {
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
        Ok(())
    }));
    let mut agent = Agent::spawn(walled).unwrap();
    exit(&mut agent).await;
    assert_eq!(fs::read_to_string(dir.path().join("umask")).unwrap().trim(), "0077");
}

#[tokio::test]
async fn a_signal_reaches_the_group_and_what_has_left_it_and_the_end_counts_them() {
    let dir = tempfile::tempdir().unwrap();
    let scripts = "trap 'exit 9' USR1; setsid sh -c 'trap \"echo >got; exit\" USR1; echo >away; for i in $(seq 3000); do sleep 0.01; done' & \
                   for i in $(seq 3000); do sleep 0.01; done";
    let mut agent = Agent::spawn(shell(dir.path(), scripts)).unwrap();
    let watch = KillFileWatch::new(&[dir.path().join("away")]).unwrap();
    tokio::time::timeout(PATIENCE, watch.wait()).await.unwrap();
    assert!(agent.processes() >= 2);
    agent.signal(Signal::SIGUSR1);
    assert_eq!(exit(&mut agent).await, Exit { code: Some(9), signal: None });
    let got = KillFileWatch::new(&[dir.path().join("got")]).unwrap();
    tokio::time::timeout(PATIENCE, got.wait()).await.unwrap();
    let ended = agent.end(None).await;
    assert_eq!((ended.outcome.survivors, ended.exit), (vec![], agent.exit()));
    assert_eq!(agent.processes(), 0);
}

#[tokio::test]
async fn an_agent_that_ignores_the_request_to_end_is_killed_when_the_grace_period_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::spawn(shell(dir.path(), "trap '' TERM; echo >set; for i in $(seq 3000); do sleep 0.01; done")).unwrap();
    let set = KillFileWatch::new(&[dir.path().join("set")]).unwrap();
    tokio::time::timeout(PATIENCE, set.wait()).await.unwrap();
    let grace = Duration::from_millis(200);
    let ended = tokio::time::timeout(PATIENCE, agent.end(Some(grace))).await.unwrap();
    assert!(ended.gone_at - ended.signalled_at >= grace);
    assert_eq!(ended.exit, Some(Exit { code: None, signal: Some(9) }));
    assert_eq!(ended.exit.unwrap().shell_code(), 137);
    assert!(ended.processes >= 1 && ended.outcome.survivors.is_empty());
    let again = agent.end(None).await;
    assert_eq!((again.processes, again.exit), (0, ended.exit));
}

#[tokio::test]
async fn without_job_control_a_stop_is_reported_and_so_is_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::spawn(request(dir.path(), "sleep", &["60"])).unwrap();
    agent.signal(Signal::SIGSTOP);
    assert_eq!(tokio::time::timeout(PATIENCE, agent.event()).await.unwrap(), AgentEvent::Stopped);
    agent.signal(Signal::SIGCONT);
    assert_eq!(tokio::time::timeout(PATIENCE, agent.event()).await.unwrap(), AgentEvent::Continued);
    agent.signal(Signal::SIGSTOP);
    assert_eq!(tokio::time::timeout(PATIENCE, agent.event()).await.unwrap(), AgentEvent::Stopped);
    // What continues us continues the agent.
    nix::sys::signal::kill(nix::unistd::getpid(), Signal::SIGCONT).unwrap();
    assert_eq!(tokio::time::timeout(PATIENCE, agent.event()).await.unwrap(), AgentEvent::Continued);
    agent.signal(Signal::SIGSTOP);
    // Stopped again: it ends within the grace period nevertheless.
    let ended = agent.end(Some(PATIENCE)).await;
    assert_eq!(ended.exit, Some(Exit { code: None, signal: Some(15) }));
}

#[test]
fn no_guardian_is_forked_where_threads_exist() {
    let Err(error) = guardian::fork(|_, _| String::new()) else { panic!("it forked") };
    assert!(matches!(error, GuardianError::Threads(2..)), "{error}");
}

#[tokio::test]
async fn a_kill_written_by_another_thread_wakes_the_watch_and_says_who_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let session = dir.path().join("sessions/9f3a");
    fs::create_dir_all(&session).unwrap();
    let paths = kill_file::paths_for(&session);
    let watch = KillFileWatch::new(&paths).unwrap();
    assert_eq!(watch.tripped(), None);
    let request = KillRequest { by: Some("ana".into()), now: true, ..KillRequest::default() };
    let (path, written) = (paths[0].clone(), request.clone());
    let writer = std::thread::spawn(move || kill_file::write(&path, &written));
    let found = tokio::time::timeout(PATIENCE, watch.wait()).await.unwrap();
    writer.join().unwrap().unwrap();
    assert_eq!((KillRequest::read(&found), found), (request, paths[0].clone()));
}
