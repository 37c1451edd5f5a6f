//! Runs the simulated Messages API by itself, to try sentrely or Claude Code against without an account.
//!
//! ```text
//! cargo run --example simulated_upstream -- --script script.json --log requests.jsonl
//! ANTHROPIC_BASE_URL=http://127.0.0.1:PORT ANTHROPIC_API_KEY=sk-ant-dummy claude -p hello
//! ```

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;
use sentrely::simulated::{Options, Script, Upstream};

/// Answer Messages API requests from a script, on loopback
///
/// Prints its address on stdout and runs until it is interrupted.
#[derive(Parser)]
#[command(after_long_help = SCRIPT_HELP)]
struct Args {
    /// Read the script from this file; without one, answer `ok` to everything
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    /// Listen on this port of 127.0.0.1; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Append each request, when it is over, as a line of JSON to this file
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Keep the bodies of requests in the log
    #[arg(long)]
    keep_bodies: bool,
    /// Serve /PREFIX/v1/messages instead of /v1/messages
    #[arg(long, default_value = "")]
    prefix: String,
    /// Do not digest bodies and answers
    #[arg(long)]
    no_digests: bool,
}

const SCRIPT_HELP: &str = r#"The script is JSON: a list of answers, given one a request, or an object:

  {"rules": [{"when": {...}, "answers": [...], "repeat": false}, ...], "otherwise": ANSWER}

The first rule whose condition fits and that has an answer left gives it; then `otherwise`.

when     thread: main|subagent|auxiliary, tool_result: true|false, stream: true|false,
         model: PART, prompt: PART
answer   content: [BLOCK, ...]
         usage: {input, output, cache_write_5m, cache_write_1h, cache_read, web_searches,
                 speed: standard|fast, us_only: true|false}
         report: {in_start: true, in_delta: full|output_only|none, split: true}
         status, error: {type, message}, headers: {NAME: VALUE}, raw_body, model,
         stop_reason, delta_extra: {...}
         pace: {first_byte_ms, first_event_ms, event_ms, ping_ms}
         pieces: [BYTES, ...], line_end: lf|crlf|cr, faults: [FAULT, ...]
block    {"type": "text", "text": "hi", "events": 1}
         {"type": "filler", "events": 200, "bytes": 40}
         {"type": "thinking", "text": "", "hold_ms": 2000}
         {"type": "tool_use", "name": "Bash", "input": {"command": "ls"}, "hold_ms": 0}
fault    {"kind": "drop", "how": "reset"|"close"}                (before the head)
         {"kind": "cut", "at": AT, "how": "reset"|"close"|"end"}
         {"kind": "stall", "at": AT, "ms": 5000}                 (without ms: for good)
         {"kind": "error", "at": AT, "error": {"type": "overloaded_error", "message": "busy"}}
         {"kind": "garbage", "at": AT,
          "bytes": "noise"|"half_json"|"unknown_event"|{"text": "..."}}
at       {"events": 3} or {"bytes": 100}

Example:
  [{"content": [{"type": "tool_use", "name": "Bash", "input": {"command": "date"}}],
    "usage": {"input": 100000, "output": 10}},
   {"content": [{"type": "text", "text": "done"}]}]"#;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let script = match &args.script {
        Some(path) => {
            let text = fs_err::read_to_string(path)?;
            Script::from_json(&text).with_context(|| path.display().to_string())?
        }
        None => Script::default(),
    };
    let options = Options {
        port: args.port,
        log_file: args.log,
        keep_bodies: args.keep_bodies,
        prefix: args.prefix,
        digests: !args.no_digests,
        ..Options::default()
    };
    let upstream = Upstream::start_with(script, options).await?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{}", upstream.url())?;
    stdout.flush()?;
    tokio::signal::ctrl_c().await?;
    Ok(())
}
