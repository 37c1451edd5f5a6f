//! The parts of the drill that run elsewhere: the terminal's leader, and the runaway with its offspring.
//!
//! The runaway is harmless: it asks a simulated upstream, beats files in a temporary directory, and ends with its session's time limit.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use clap::ValueEnum;
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use serde_json::json;

/// How often a process shows that it lives.
pub(super) const BEAT: Duration = Duration::from_millis(10);
/// What a full-screen program switches on: the alternate screen, mouse reports, bracketed paste, no cursor.
const MODES_ON: &str = "\x1b[?1049h\x1b[?1002h\x1b[?2004h\x1b[?25l";

/// Who this process is in the drill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Part {
    /// Makes a terminal its own, then becomes `sentrely run`.
    Terminal,
    /// The session's command: spoils the terminal, has offspring, spends without end.
    Runaway,
    /// Beats a file, in a session of its own, below nobody.
    Orphan,
}

/// Plays a part; returns only if it could not.
pub(super) fn play(part: Part, words: &[OsString]) -> anyhow::Result<()> {
    match part {
        Part::Terminal => lead(words),
        Part::Runaway => run_away(),
        Part::Orphan => {
            // It ignores what its parent ignored. A session of its own: no signal to a group or a terminal reaches it.
            let _ = nix::unistd::setsid();
            beat()
        }
    }
}

/// `TTY run ...`: the leader of a new session, whose controlling terminal is the first that it opens.
fn lead(words: &[OsString]) -> anyhow::Result<()> {
    let [tty, words @ ..] = words else { bail!("lead a terminal: none was named") };
    nix::unistd::setsid().context("begin a session")?;
    let tty = OpenOptions::new().read(true).write(true).open(tty).context("open the terminal")?;
    let end = || tty.try_clone().map(Stdio::from).context("use the terminal");
    let mut command = Command::new(std::env::current_exe().context("find the sentrely binary")?);
    let error = command.args(words).stdin(end()?).stdout(end()?).stderr(end()?).exec();
    Err(error).context("become sentrely run")
}

/// TERM and its like are ignored already: the shell that became this process said so.
fn run_away() -> anyhow::Result<()> {
    spoil_the_terminal();
    let binary = std::env::current_exe().context("find the sentrely binary")?;
    // A double fork: the shell in between is gone at once.
    let mut shell = Command::new("sh");
    let script = "\"$0\" doctor --play orphan & \"$0\" doctor --play orphan &";
    shell.args(["-c", script]).arg(&binary).stdin(Stdio::null()).status().context("fork away")?;
    thread::spawn(beat);
    spend()
}

fn spoil_the_terminal() {
    let stdin = io::stdin();
    if let Ok(mut mode) = tcgetattr(&stdin) {
        cfmakeraw(&mut mode);
        let _ = tcsetattr(&stdin, SetArg::TCSANOW, &mode);
    }
    // As it is: this is no talk of ours, whose escapes might be taken out.
    let mut screen = io::stdout().lock();
    let _ = screen.write_all(MODES_ON.as_bytes()).and_then(|()| screen.flush());
}

/// Writes the time into a file of its own, again and again, until the drill's directory is gone.
fn beat() -> anyhow::Result<()> {
    let file = File::create(format!("beat-{}", std::process::id())).context("beat")?;
    while Path::new(".").join(format!("beat-{}", std::process::id())).exists() {
        file.write_all_at(format!("{:020}", micros(SystemTime::now())).as_bytes(), 0).context("beat")?;
        thread::sleep(BEAT);
    }
    Ok(())
}

/// Microseconds since 1970.
pub(super) fn micros(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Asks the model without end, refused or not.
fn spend() -> anyhow::Result<()> {
    // Plain HTTP to loopback; the client wants a TLS provider all the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let client = reqwest::Client::builder().no_proxy().build().context("build a client")?;
    let url = format!("{}/v1/messages", std::env::var("ANTHROPIC_BASE_URL").unwrap_or_default());
    let key = std::env::var("ANTHROPIC_API_KEY").unwrap_or_default();
    let body = json!({
        "model": "claude-haiku-5-5", "max_tokens": 64, "stream": true, "messages": [{ "role": "user", "content": "once more" }],
    });
    let body = body.to_string();
    let spender = || async {
        loop {
            let request = client.post(&url).header("x-api-key", &key).header("content-type", "application/json");
            match request.body(body.clone()).send().await {
                // Read to its end: that is when it is paid for.
                Ok(answer) if answer.status().is_success() => drop(answer.bytes().await),
                // Refused or cut: a runaway asks again.
                _ => tokio::time::sleep(BEAT).await,
            }
        }
    };
    runtime.block_on(async {
        tokio::join!(spender(), spender());
    });
    Ok(())
}
