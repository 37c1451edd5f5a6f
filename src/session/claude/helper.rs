//! Running an `apiKeyHelper` as the client does, but in the supervisor: the key never enters the child.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use secrecy::SecretString;

use super::Env;
use super::login::LoginError;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Runs the helper (`sh -c`) and gives what it prints. Blocks for up to ten seconds: call it from a blocking thread.
///
/// `env` is the environment as the client sees it ([`super::settings::Settings::applied`]). The key is what stands on stdout, blanks trimmed.
pub fn run_helper(command: &str, env: &Env, cwd: &Path) -> Result<SecretString, LoginError> {
    run_within(command, env, cwd, TIMEOUT)
}

fn run_within(command: &str, env: &Env, cwd: &Path, timeout: Duration) -> Result<SecretString, LoginError> {
    let fail = |why: String| LoginError::Helper { command: command.to_owned(), why };
    let output = output(command, env, cwd, timeout).map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => fail(format!("no answer within {} s", timeout.as_secs_f32())),
        _ => fail(error.to_string()),
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).map(|line| format!(": {}", line.trim())).unwrap_or_default();
        return Err(fail(format!("{}{last}", output.status)));
    }
    match String::from_utf8(output.stdout) {
        Ok(text) if !text.trim().is_empty() => Ok(text.trim().to_owned().into()),
        Ok(_) => Err(fail("it printed nothing".to_owned())),
        Err(_) => Err(fail("it printed no text".to_owned())),
    }
}

/// In a process group of its own, so that a helper that hangs goes with its children.
fn output(command: &str, env: &Env, cwd: &Path, timeout: Duration) -> io::Result<Output> {
    let child = Command::new("/bin/sh")
        .arg("-c")
        .arg(command)
        .env_clear()
        .envs(env)
        .current_dir(cwd)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let group = Pid::from_raw(child.id().cast_signed());
    let (done, wait) = mpsc::channel();
    let reader = thread::Builder::new().name("api-key-helper".to_owned()).spawn(move || {
        // The receiver is gone only after a timeout; then nobody wants the answer.
        let _ = done.send(child.wait_with_output());
    })?;
    let result = wait.recv_timeout(timeout).unwrap_or_else(|_| {
        // Still unreaped, so the number is still the group's. A group that ended in this moment is what we want.
        let _ = killpg(group, Signal::SIGKILL);
        Err(io::ErrorKind::TimedOut.into())
    });
    if result.is_ok() {
        let _ = reader.join();
    }
    result
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn run(command: &str) -> Result<String, String> {
        let env = Env::from([("PATH".into(), "/usr/bin:/bin".into()), ("WHO".into(), "me".into())]);
        run_within(command, &env, Path::new("/"), Duration::from_millis(700))
            .map(|key| key.expose_secret().to_owned())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_key_is_what_the_helper_prints_in_the_given_environment() {
        assert_eq!(run("echo; echo \"  key-$WHO-$PWD \""), Ok("key-me-/".to_owned()));
    }

    #[test]
    fn a_helper_that_fails_is_quoted_with_its_last_word() {
        assert_eq!(
            run("echo no vault >&2; exit 3"),
            Err("run apiKeyHelper `echo no vault >&2; exit 3`: exit status: 3: no vault".to_owned())
        );
        assert_eq!(run("true"), Err("run apiKeyHelper `true`: it printed nothing".to_owned()));
    }

    #[test]
    fn a_helper_that_hangs_is_ended_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let note = dir.path().join("pid");
        let said = run(&format!("sleep 600 & echo $! > {}; wait", note.display())).unwrap_err();
        assert!(said.ends_with("no answer within 0.7 s"), "{said}");
        let pid = Pid::from_raw(std::fs::read_to_string(&note).unwrap().trim().parse().unwrap());
        let stat = || std::fs::read_to_string(format!("/proc/{pid}/stat")).ok().filter(|stat| !stat.contains(") Z "));
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        while stat().is_some() {
            assert!(std::time::Instant::now() < deadline, "the helper's child lives on");
            thread::yield_now();
        }
    }
}
