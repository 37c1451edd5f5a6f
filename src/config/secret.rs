//! Secrets by reference: the configuration says where a secret lies, never what it is.
//!
//! Resolving reads a variable or a file, or runs a command; it blocks, so it belongs on a blocking thread. The value goes straight into
//! a [`SecretString`], which no `Debug` prints and which is wiped when dropped; no error carries it.

use std::fmt;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use secrecy::SecretString;

/// How long a command may take to print a secret.
const COMMAND_LIMIT: Duration = Duration::from_secs(10);
/// More than this is no secret.
const MAX_BYTES: u64 = 64 * 1024;

/// Where a secret lies. Shown (`Display`) as it is written in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretRef {
    /// `{ env = "NAME" }`: a variable of sentrely's own environment.
    Env(String),
    /// `{ file = "path" }`: the first and only line of a file that nobody but its owner can read.
    File(PathBuf),
    /// `{ command = ["program", "argument"] }`: what a program prints, run without a shell.
    Command(Vec<String>),
}

/// Why a secret could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The variable is unset.
    #[error("read the secret from ${0}: it is not set")]
    Unset(String),
    /// The file or the command gave nothing.
    #[error("read the secret from {0}: it is empty")]
    Empty(String),
    /// Not text, more than one line, or more than 64 KiB.
    #[error("read the secret from {0}: it is not one line of text")]
    NotALine(String),
    /// The file cannot be read.
    #[error("read the secret file {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others than its owner can read the file.
    #[error("read the secret file {}: its mode {mode:03o} lets others read it", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The command cannot be started.
    #[error("run `{program}` for a secret")]
    Start {
        /// The program.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// The command failed; what it wrote to stderr is quoted.
    #[error("run `{program}` for a secret: {status}{}{stderr}", if stderr.is_empty() { "" } else { ": " })]
    Failed {
        /// The program.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// Its stderr, trimmed, at most 2,000 characters.
        stderr: String,
    },
    /// The command did not end in time.
    #[error("run `{program}` for a secret: no answer within {} s", limit.as_secs())]
    Slow {
        /// The program.
        program: String,
        /// How long it had.
        limit: Duration,
    },
}

impl SecretError {
    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unset(name) => Some(format!("export {name} before starting sentrely")),
            Self::Open { path, .. } => Some(format!("chmod 600 {}", path.display())),
            Self::Start { .. } | Self::Failed { .. } | Self::Slow { .. } => {
                Some("try the command by hand: it must print the secret, ask nothing and exit 0".to_owned())
            }
            Self::Empty(_) | Self::NotALine(_) | Self::File { .. } => None,
        }
    }
}

impl SecretRef {
    /// The secret. Blocks, up to 10 s for a command; call it on a blocking thread (sentrely reaps its main thread's children itself).
    pub fn resolve(&self) -> Result<SecretString, SecretError> {
        match self {
            Self::Env(name) => match std::env::var_os(name) {
                None => Err(SecretError::Unset(name.clone())),
                Some(value) => one_line(value.into_encoded_bytes(), &format!("${name}")),
            },
            Self::File(path) => one_line(read_private(path)?, &path.display().to_string()),
            Self::Command(words) => run(words, COMMAND_LIMIT),
        }
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "{{ env = {} }}", quote(name)),
            Self::File(path) => write!(f, "{{ file = {} }}", quote(&path.display().to_string())),
            Self::Command(words) => {
                let words: Vec<String> = words.iter().map(|word| quote(word)).collect();
                write!(f, "{{ command = [{}] }}", words.join(", "))
            }
        }
    }
}

fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// The one line that `bytes` is, without the line end.
fn one_line(bytes: Vec<u8>, from: &str) -> Result<SecretString, SecretError> {
    let text = String::from_utf8(bytes).map(SecretString::from).map_err(|_| SecretError::NotALine(from.to_owned()))?;
    let line = secrecy::ExposeSecret::expose_secret(&text).trim();
    if line.is_empty() {
        return Err(SecretError::Empty(from.to_owned()));
    }
    if line.contains(char::is_control) || line.len() as u64 > MAX_BYTES {
        return Err(SecretError::NotALine(from.to_owned()));
    }
    Ok(SecretString::from(line))
}

/// Opened first and then looked at, so that the file that is judged is the file that is read.
fn read_private(path: &PathBuf) -> Result<Vec<u8>, SecretError> {
    use std::os::unix::fs::PermissionsExt as _;

    let failed = |source| SecretError::File { path: path.clone(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(SecretError::Open { path: path.clone(), mode });
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// Runs the program in a process group of its own, so that a helper that hangs goes with everything it started.
fn run(words: &[String], limit: Duration) -> Result<SecretString, SecretError> {
    use std::os::unix::process::CommandExt as _;

    let program = words.first().cloned().unwrap_or_default();
    let deadline = Instant::now() + limit;
    let mut child = Command::new(&program)
        .args(words.get(1..).unwrap_or_default())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|source| SecretError::Start { program: program.clone(), source })?;
    let stdout = child.stdout.take().map(drain);
    let stderr = child.stderr.take().map(drain);
    let result = collect(&mut child, stdout, stderr, deadline);
    if result.is_none() {
        end_group(&mut child);
    }
    let (status, stdout, stderr) = result.ok_or_else(|| SecretError::Slow { program: program.clone(), limit })?;
    if status.success() {
        return one_line(stdout, &format!("`{program}`"));
    }
    let stderr = String::from_utf8_lossy(&stderr).trim().chars().take(2_000).collect();
    Err(SecretError::Failed { program, status, stderr })
}

/// Reads a pipe to its end on a thread of its own and sends what it held, cut at [`MAX_BYTES`] and one.
fn drain(mut pipe: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // An unreadable pipe counts as ended: the exit status tells the rest.
        let _ = (&mut pipe).take(MAX_BYTES + 1).read_to_end(&mut bytes);
        let _ = io::copy(&mut pipe, &mut io::sink());
        let _ = sender.send(bytes);
    });
    receiver
}

/// How the child ended and what it wrote, or `None` when the deadline passed.
fn collect(
    child: &mut Child,
    stdout: Option<Receiver<Vec<u8>>>,
    stderr: Option<Receiver<Vec<u8>>>,
    deadline: Instant,
) -> Option<(ExitStatus, Vec<u8>, Vec<u8>)> {
    let rest = || deadline.saturating_duration_since(Instant::now());
    let read = |pipe: Option<Receiver<Vec<u8>>>| pipe.map_or_else(|| Some(Vec::new()), |pipe| pipe.recv_timeout(rest()).ok());
    let (stdout, stderr) = (read(stdout)?, read(stderr)?);
    loop {
        // Both pipes are closed, so the end is near: a program that closes its output and stays is the exception.
        match child.try_wait() {
            Ok(Some(status)) => return Some((status, stdout, stderr)),
            Ok(None) if !rest().is_zero() => std::thread::sleep(Duration::from_millis(2)),
            Ok(None) | Err(_) => return None,
        }
    }
}

fn end_group(child: &mut Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use secrecy::ExposeSecret as _;

    use super::*;

    fn shell(script: &str) -> Vec<String> {
        ["sh", "-c", script].map(str::to_owned).to_vec()
    }

    #[test]
    fn a_secret_comes_from_a_variable_a_private_file_or_a_command() {
        let path = std::env::var("PATH").unwrap();
        assert_eq!(SecretRef::Env("PATH".into()).resolve().unwrap().expose_secret(), path.trim());

        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        std::fs::write(&file, "sk-one\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(SecretRef::File(file).resolve().unwrap().expose_secret(), "sk-one");

        assert_eq!(SecretRef::Command(shell("echo sk-two; echo talk >&2")).resolve().unwrap().expose_secret(), "sk-two");
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_with_the_line_that_mends_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        std::fs::write(&file, "sk-one").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = SecretRef::File(file.clone()).resolve().unwrap_err();
        assert_eq!(error.to_string(), format!("read the secret file {}: its mode 640 lets others read it", file.display()));
        assert_eq!(error.hint(), Some(format!("chmod 600 {}", file.display())));
    }

    #[test]
    fn a_failing_command_shows_its_stderr_and_never_its_output() {
        let error = SecretRef::Command(shell("echo sk-leak; echo 'vault is sealed' >&2; exit 3")).resolve().unwrap_err();
        assert_eq!(error.to_string(), "run `sh` for a secret: exit status: 3: vault is sealed");
        let error = SecretRef::Command(shell("echo sk-leak; echo again")).resolve().unwrap_err();
        assert_eq!(error.to_string(), "read the secret from `sh`: it is not one line of text");
        assert!(!format!("{error:?}").contains("sk-leak"));
        assert!(SecretRef::Command(shell("true")).resolve().unwrap_err().to_string().ends_with("it is empty"));
        let missing = SecretRef::Command(vec!["/no/such/program".into()]).resolve().unwrap_err();
        assert_eq!(missing.to_string(), "run `/no/such/program` for a secret");
        assert!(SecretRef::Env("SENTRELY_NO_SUCH".into()).resolve().unwrap_err().to_string().contains("not set"));
    }

    #[test]
    fn a_command_that_hangs_is_ended_with_everything_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("pid");
        let script = format!("sleep 600 & echo $! > {}; wait", pid_file.display());
        let error = run(&shell(&script), Duration::from_millis(500)).unwrap_err();
        assert!(matches!(error, SecretError::Slow { .. }), "{error}");
        let pid: i32 = std::fs::read_to_string(pid_file).unwrap().trim().parse().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let gone = || {
            // An orphan may stay a zombie until its new parent reaps it: dead is dead.
            std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z"))
        };
        while !gone() {
            assert!(Instant::now() < deadline, "process {pid} is still there");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_reference_is_shown_as_it_is_written() {
        assert_eq!(SecretRef::Env("KEY".into()).to_string(), r#"{ env = "KEY" }"#);
        assert_eq!(SecretRef::Command(shell("a \"b\"")).to_string(), r#"{ command = ["sh", "-c", 'a "b"'] }"#);
    }
}
