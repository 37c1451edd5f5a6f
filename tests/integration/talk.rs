//! What a run says on a terminal: without escapes where they are not understood, and without leaving anything half drawn.

use std::time::Duration;

use sentrely::simulated::{Answer, Script, Upstream};

use crate::support::components::PYTHON;
use crate::support::env::TestEnv;
use crate::support::pty::Terminal;
use crate::support::run::wait_until;

const SOON: Duration = Duration::from_mins(1);

/// Whether these bytes set a colour or a weight: `ESC [ numbers m`.
fn has_colour(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let mut sequences = text.split("\x1b[").skip(1);
    sequences.any(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';').starts_with('m'))
}

#[test]
fn nothing_is_coloured_or_drawn_where_that_is_not_wanted() {
    // The last is the control.
    for (variable, escapes, colour) in [(Some(("TERM", "dumb")), false, false), (Some(("NO_COLOR", "1")), true, false), (None, true, true)]
    {
        let env = TestEnv::new();
        let run = |env| {
            let run = TestEnv::sentrely(env, &["run", "--", "sh", "-c", "exit 3"]);
            match variable {
                Some((name, value)) => run.var(name, value),
                None => run,
            }
        };
        let mut terminal = Terminal::spawn(&run(&env));
        assert_eq!(terminal.wait(SOON).exit_code(), 3, "{}", terminal.screen());
        let (raw, screen) = (terminal.raw(), terminal.screen());
        assert!(screen.contains("budget") && screen.contains("the command ended · exit 3"), "{screen}");
        assert_eq!((raw.contains(&0x1b), has_colour(&raw)), (escapes, colour), "{variable:?}: {}", raw.escape_ascii());
        let piped = run(&env).run().exits(3);
        assert!(piped.stderr.contains("the command ended · exit 3") && !piped.stderr.contains('\x1b'), "{variable:?}: {}", piped.stderr);
    }
}

/// Asks twice, ignores what asks it to end, and stays.
const AGENT: &str = r#"
import json, os, signal, time, urllib.request
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for turn in range(2):
    body = {"model": "claude-opus-5-5", "max_tokens": 20000, "stream": turn > 0, "messages": [{"role": "user", "content": f"turn {turn}"}]}
    headers = {"x-api-key": os.environ["ANTHROPIC_API_KEY"], "anthropic-version": "2023-06-01", "content-type": "application/json"}
    request = urllib.request.Request(os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages", json.dumps(body).encode(), headers)
    try:
        urllib.request.urlopen(request).read()
    except Exception:
        pass
while True:
    time.sleep(60)
"#;

#[test]
fn beside_a_command_without_the_terminal_the_cost_is_a_live_line_and_a_word_during_a_step_leaves_nothing_of_either() {
    crate::needs!(PYTHON);
    let env = TestEnv::new();
    // The second is cut by the kill; what it has cost until then is brings it past a half of the budget.
    let long = Answer::filler(4_000, 200).event_every(Duration::from_millis(2));
    let upstream = Upstream::start_on_thread(Script::of([Answer::turn("0.30".parse().unwrap())]).otherwise(long)).unwrap();
    std::fs::write(env.root().join("agent.py"), AGENT).unwrap();
    let line = format!(
        "{} run --wall off --budget 1usd --config run.grace=2s -- python3 {} </dev/null; echo code $?",
        env!("CARGO_BIN_EXE_sentrely"),
        env.root().join("agent.py").display()
    );
    let mut terminal = Terminal::spawn(&env.command("bash", &["--norc", "-c", &line]).upstream(&upstream));
    let is_live =
        |screen: &str| screen.lines().any(|line| line.starts_with("sentrely: $0.30 of $1.00") && line.trim_end().ends_with("1 request"));
    terminal.wait_for_screen(SOON, "the live line", is_live);
    wait_until(SOON, "enough of the second answer", || upstream.messages().get(1).is_some_and(|record| record.answer_bytes > 80_000));
    let id = env.the_session();
    let _ = env.sentrely(&["kill", &id[..8]]).run().success();
    let screen = terminal.wait_for_text(SOON, "code 122");
    let raw = String::from_utf8_lossy(&terminal.raw()).into_owned();
    assert!(raw.contains("⠋ ending its processes ..."), "it was drawn: {}", raw.escape_debug());
    assert!(screen.lines().any(|line| line.starts_with("sentrely: 50 % of the budget is used: ")), "{screen}");
    let residue = |line: &&str| line.contains("ending its processes") || is_live(line) || line.contains("making the working copy");
    assert_eq!(screen.lines().filter(residue).collect::<Vec<_>>(), Vec::<&str>::new(), "{screen}");
}
