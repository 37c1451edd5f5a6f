//! The simulated agent: what `sentrely run` runs in the demo. It behaves as badly as the part asks for.

use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use clap::ValueEnum;
use serde_json::{Value, json};

use crate::cli::ui::say;

/// Time between two requests: slow enough to be watched.
const BETWEEN_TURNS: Duration = Duration::from_millis(450);
/// What the agent does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Part {
    /// Pushes to main, pushes its branch, then spends until it is refused.
    Spender,
    /// Asks once, for an answer without an end.
    Talker,
}

/// Plays a part; the exit code.
pub(super) fn play(part: Part) -> u8 {
    match part {
        Part::Spender => {
            push();
            spend((1..=50).map(|turn| (turn, request(turn))))
        }
        Part::Talker => spend([(1, ask(super::cut::PROMPT, 64_000))].into_iter()),
    }
}

fn push() {
    let steps: [&[&str]; 4] = [
        &["commit", "-q", "--allow-empty", "-m", "Work of the simulated agent"],
        &["push", "origin", "HEAD:main"],
        &["push", "origin", "HEAD"],
        &["log", "--oneline", "-1"],
    ];
    for step in steps {
        say(&format!("agent$ git {}", step.join(" ")));
        match Command::new("git").args(step).output() {
            Ok(output) => {
                let text = [output.stdout, output.stderr].concat();
                String::from_utf8_lossy(&text).lines().for_each(|line| say(&format!("  {}", line.trim_end())));
            }
            Err(error) => say(&format!("  git could not be run: {error}")),
        }
    }
}

/// Sends each request until one is refused.
fn spend(requests: impl Iterator<Item = (u32, Value)>) -> u8 {
    // Plain HTTP to loopback; the client wants a TLS provider all the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return 1 };
    runtime.block_on(async {
        let base = std::env::var("ANTHROPIC_BASE_URL").unwrap_or_default();
        let key = std::env::var("ANTHROPIC_API_KEY").unwrap_or_default();
        let client = reqwest::Client::builder().no_proxy().build();
        let Ok(client) = client else { return 1 };
        for (turn, request) in requests {
            let answer = client
                .post(format!("{base}/v1/messages"))
                .header("x-api-key", &key)
                .header("content-type", "application/json")
                .body(request.to_string())
                .send()
                .await;
            match answer {
                Ok(answer) if answer.status().is_success() => {
                    // The answer must be read to its end: that is when it is paid for.
                    let _ = answer.bytes().await;
                    sleep(BETWEEN_TURNS);
                }
                Ok(answer) => {
                    let status = answer.status().as_u16();
                    let body: Value = serde_json::from_slice(&answer.bytes().await.unwrap_or_default()).unwrap_or_default();
                    let message = body["error"]["message"].as_str().unwrap_or("no message").to_owned();
                    say(&format!("agent: turn {turn} was refused ({status}): {message}"));
                    return 1;
                }
                Err(error) => {
                    say(&format!("agent: turn {turn} failed: {error}"));
                    return 1;
                }
            }
        }
        0
    })
}

fn request(turn: u32) -> Value {
    ask(&format!("simulated turn {turn}"), 1024)
}

fn ask(prompt: &str, max_tokens: u32) -> Value {
    json!({
        "model": "claude-opus-5-5",
        "max_tokens": max_tokens,
        "stream": true,
        "messages": [{ "role": "user", "content": prompt }],
    })
}

/// How many bytes the spender's request of this turn has.
pub(super) fn turn_bytes(turn: u32) -> usize {
    request(turn).to_string().len()
}
