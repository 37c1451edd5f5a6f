//! The status line from its start until its output, and until its end: `cargo bench --bench run -- statusline`.
//!
//! Claude Code runs it again and again, with the user's own command behind it where there is one.

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::bail;

use crate::support::{Place, Samples, Table, ms};

/// Milliseconds that it may take.
const AIM: f64 = 20.0;

/// Until a program has written something (or ended), and until it has ended.
#[derive(Default)]
struct Times {
    output: Samples,
    end: Samples,
}

impl Times {
    fn measure(&mut self, mut command: Command) -> anyhow::Result<()> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let start = Instant::now();
        let mut child = command.spawn()?;
        let mut said = Vec::new();
        if let Some(mut stdout) = child.stdout.take() {
            let mut first = [0; 256];
            let count = stdout.read(&mut first)?;
            self.output.add(start.elapsed());
            said.extend_from_slice(&first[..count]);
            stdout.read_to_end(&mut said)?;
        }
        let status = child.wait()?;
        self.end.add(start.elapsed());
        let expected = command.get_program() == "true" || String::from_utf8_lossy(&said).contains("sentrely");
        if !status.success() || !expected {
            bail!("{} ended with {status} and said {:?}", command.get_program().display(), String::from_utf8_lossy(&said));
        }
        Ok(())
    }
}

pub(crate) fn run(rounds: usize) -> anyhow::Result<()> {
    let place = Place::new()?;
    if !place.run("none", &["true".as_ref()]).stdout(Stdio::null()).stderr(Stdio::null()).status()?.success() {
        bail!("no session to show");
    }
    let [session] =
        place.sessions()?.try_into().map_err(|sessions: Vec<_>| anyhow::anyhow!("{} sessions instead of one", sessions.len()))?;
    let line = || {
        let mut command = place.command(env!("CARGO_BIN_EXE_sentrely"));
        command.arg("statusline").arg(&session);
        command
    };
    let [mut floor, mut alone, mut chained] = [(); 3].map(|()| Times::default());
    for round in 0..=rounds {
        if round == 1 {
            // The first of each read the programs from the disk.
            [floor, alone, chained] = [(); 3].map(|()| Times::default());
        }
        floor.measure(place.command("true"))?;
        alone.measure(line())?;
        let mut theirs = line();
        theirs.arg("echo mine");
        chained.measure(theirs)?;
    }
    println!("The status line from its start on, ms ({rounds} interleaved rounds)");
    let mut table = Table::new(&["", "output p50", "p99", "end p50", "p99", "max"]);
    for (name, times) in [("true", &floor), ("sentrely statusline", &alone), ("the same, before the user's own `echo`", &chained)] {
        let cells = [times.output.p50(), times.output.p99(), times.end.p50(), times.end.p99(), times.end.max()];
        table.row(std::iter::once(name.to_owned()).chain(cells.map(ms)).collect());
    }
    table.print();
    let p99 = alone.end.p99();
    println!("{} status line, p99: {} ms, aim {AIM} ms\n", if p99 < AIM { "met " } else { "open" }, ms(p99));
    Ok(())
}
