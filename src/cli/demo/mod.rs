//! `sentrely demo`: the whole machine at work in fifteen seconds, on loopback, without a key and without a network.
//!
//! What runs is the installed binary itself: `sentrely run` with a simulated agent against a simulated upstream, in a temporary home and
//! repository, and `sentrely kill`. [`stage`] builds the temporary world, [`agent`] is the simulated agent, [`acts`] and [`cut`] are the five acts. What is
//! claimed is checked against the journal, the upstream's own log, git and /proc, never against what was printed.

mod acts;
mod agent;
mod cut;
mod stage;

use std::time::Instant;

use serde::Serialize;

use self::agent::Part;
use self::stage::Stage;
use super::failure::{EXIT_FAILED, Failure};
use super::ui::{self, Tone, paint};

/// Show every promise at work, simulated: no key, no network, fifteen seconds
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Assert all of it and exit 0 or 1: the self-test of an installation
    #[arg(long)]
    pub check: bool,
    /// Play a part of the simulated agent (used by the demo itself)
    #[arg(long, hide = true, value_enum)]
    play: Option<Part>,
}

/// One claim and what it rests on.
#[derive(Debug, Clone, Serialize)]
struct Check {
    what: String,
    ok: bool,
    evidence: String,
}

/// The checks of an act, as they come.
#[derive(Debug, Default)]
struct Checks(Vec<Check>);

impl Checks {
    fn that(&mut self, what: &str, ok: bool, evidence: impl Into<String>) {
        self.0.push(Check { what: what.to_owned(), ok, evidence: evidence.into() });
    }
}

/// Plays the demo, or a part in it.
pub fn run(args: &Args) -> Result<u8, Failure> {
    if let Some(part) = args.play {
        return Ok(agent::play(part));
    }
    let started = Instant::now();
    let failed = |error: anyhow::Error| Failure::command(error.context("play the demo"), None);
    let mut checks = Checks::default();
    let stage = Stage::build().map_err(failed)?;
    tell(
        "A temporary repository, a bare origin and a simulated Messages API on loopback. Everything below is simulated but sentrely itself.",
    );
    acts::spend_and_push(&stage, &mut checks).map_err(failed)?;
    cut::cut(&stage, &mut checks).map_err(failed)?;
    acts::kill(&stage, &mut checks).map_err(failed)?;
    let broken = checks.0.iter().filter(|check| !check.ok).count();
    report(&checks, args.check || broken > 0);
    let seconds = started.elapsed().as_secs();
    if broken > 0 {
        ui::say(&paint(&format!("demo: {broken} of {} checks failed, in {seconds} s", checks.0.len()), Tone::Bad));
        return Ok(EXIT_FAILED);
    }
    ui::say(&paint(&format!("demo: {} checks passed, in {seconds} s", checks.0.len()), Tone::Good));
    ui::say("");
    ui::say("For real, in a repository of yours:  sentrely run --budget 5usd -- claude");
    Ok(0)
}

fn report(checks: &Checks, all: bool) {
    ui::say("");
    for check in &checks.0 {
        let (word, tone) = if check.ok { ("ok  ", Tone::Good) } else { ("FAIL", Tone::Bad) };
        let evidence = if all { paint(&format!("  ({})", check.evidence), Tone::Dim) } else { String::new() };
        ui::say(&format!("{} {}{evidence}", paint(word, tone), check.what));
    }
}

/// A line of the demo, tagged.
fn tell(line: &str) {
    ui::say(&format!("{} {line}", paint("simulated │", Tone::Dim)));
}
