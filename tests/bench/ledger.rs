//! What a line of the shared ledger costs while twelve sessions write to it: a look at what the others spent, a decision and an append under
//! the file's lock, against twelve processes that take a lock and append a line as long without reading anything.
//!
//! `cargo bench --bench ledger [-- LINES]`. Both take turns; within a turn all twelve processes begin together and write as fast as they
//! can, which no session does: a request is two or three lines. A time is that of one line, the wait for the lock included.

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

#[expect(dead_code, reason = "what other benches share")]
mod support;

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use sentrely::meter::ledger::{Entry, Member, Need};
use sentrely::model::{Period, Scope, SessionId, Share, SharedLimit, Usd};
use sentrely::store::LedgerFile;

use support::{Samples, Table, is_bench, ms, print_machine};

const WRITERS: usize = 12;
const LINES: usize = 1_000;
const TURNS: usize = 3;
/// Set for a writer, which is this very program: what it does, and where.
const WRITER: &str = "SENTRELY_BENCH_LEDGER";

fn main() -> anyhow::Result<()> {
    if let Some(words) = std::env::var_os(WRITER) {
        let words = words.into_string().ok().context("read what to do")?;
        let [what, lines, dir] = words.splitn(3, ' ').collect::<Vec<_>>()[..] else { bail!("read `{words}`") };
        return write(what, lines.parse()?, Path::new(dir));
    }
    let lines = match std::env::args().skip(1).find_map(|word| word.parse().ok()) {
        Some(lines) => lines,
        None if is_bench() => LINES,
        None => 3,
    };
    print_machine("ledger");
    let (mut floor, mut ledger) = (Samples::default(), Samples::default());
    for _ in 0..if is_bench() { TURNS } else { 1 } {
        turn("floor", lines, &mut floor)?;
        turn("ledger", lines, &mut ledger)?;
    }
    println!("One line, {WRITERS} processes at once, ms");
    let mut table = Table::new(&["", "lines", "p50", "p99", "max"]);
    for (name, samples) in [("flock and append alone", &floor), ("ledger append under 12 sessions", &ledger)] {
        table.row(vec![name.to_owned(), samples.count().to_string(), ms(samples.p50()), ms(samples.p99()), ms(samples.max())]);
    }
    table.print();
    println!("ledger over floor: p50 {:.2} x, p99 {:.2} x", ledger.p50() / floor.p50(), ledger.p99() / floor.p99());
    Ok(())
}

/// All writers once, in a directory of their own.
fn turn(what: &str, lines: usize, samples: &mut Samples) -> anyhow::Result<()> {
    let dir = tempfile::Builder::new().prefix("sentrely-bench-").tempdir()?;
    let mut writers = Vec::new();
    for _ in 0..WRITERS {
        let mut command = Command::new(std::env::current_exe()?);
        command.env(WRITER, format!("{what} {lines} {}", dir.path().display()));
        writers.push(Writer(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?));
    }
    for writer in &mut writers {
        writer.is_ready()?;
    }
    for writer in &mut writers {
        drop(writer.0.stdin.take());
    }
    for writer in &mut writers {
        for nanos in writer.times()? {
            samples.add(Duration::from_nanos(nanos));
        }
    }
    Ok(())
}

/// A writer, ended when this is dropped.
struct Writer(Child);

impl Writer {
    fn is_ready(&mut self) -> anyhow::Result<()> {
        let mut ready = [0];
        self.0.stdout.as_mut().context("it has no output")?.read_exact(&mut ready).context("a writer did not begin")
    }

    fn times(&mut self) -> anyhow::Result<Vec<u64>> {
        let mut text = String::new();
        self.0.stdout.as_mut().context("it has no output")?.read_to_string(&mut text)?;
        let status = self.0.wait()?;
        if !status.success() {
            bail!("a writer ended with {status}");
        }
        text.split_whitespace().map(|nanos| Ok(nanos.parse()?)).collect()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// In a writer: says that it is ready, begins when its input ends, and prints what each line took.
fn write(what: &str, lines: usize, dir: &Path) -> anyhow::Result<()> {
    let mut line = match what {
        "floor" => floor(dir)?,
        _ => ledger(dir)?,
    };
    let mut out = std::io::stdout();
    out.write_all(b".")?;
    out.flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    let mut times = Vec::with_capacity(lines);
    for number in 0..lines {
        let begin = Instant::now();
        line(number as u64)?;
        times.push(begin.elapsed().as_nanos().to_string());
    }
    out.write_all(times.join("\n").as_bytes())?;
    Ok(())
}

type Line = Box<dyn FnMut(u64) -> anyhow::Result<()>>;

fn floor(dir: &Path) -> anyhow::Result<Line> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(dir.join("floor.jsonl"))?;
    let mut line = vec![b'x'; 130];
    line.push(b'\n');
    Ok(Box::new(move |_| {
        file.lock()?;
        (&file).write_all(&line)?;
        Ok(file.unlock()?)
    }))
}

fn ledger(dir: &Path) -> anyhow::Result<Line> {
    let day = jiff::civil::date(2026, 11, 29);
    let member = Member { session: SessionId::new(), developer: "ana".into(), project: "shop".into(), host: "vm".into() };
    let of = |scope, period| SharedLimit { share: Share { scope, period }, amount: Usd::MAX };
    let limits = [of(Scope::Developer, Period::Day), of(Scope::Project, Period::Month), of(Scope::Machine, Period::Month)];
    let mut file = LedgerFile::open(dir, day)?;
    file.update(|_| (vec![Entry::Member(member.clone())], ()))?;
    Ok(Box::new(move |number| {
        let spent = Usd::from_pico(number * 1_234_567_891);
        let need = Need { under_way: Usd::from_pico(400_000_000_000), margin: Usd::from_pico(4_000_000_000) };
        let granted = file.update(|ledger| match ledger.grant(&member, &limits, day, need) {
            Ok(_) => (vec![Entry::At { session: member.session, day, spent, held: need.under_way }], true),
            Err(_) => (Vec::new(), false),
        })?;
        anyhow::ensure!(granted, "the limit was reached");
        Ok(())
    }))
}
