//! What the proxy costs, against a direct connection, a plain TCP copy and nginx (when it is installed), in one interleaved run.
//!
//! `cargo bench --bench proxy` runs all loads; words after `--` select some of them: `-- burst`, `-- paced`, `-- 1mb`, `-- 1mb-paced`.
//! `-- meter` runs what the meter costs, CPU and memory, `-- decisions` how long it takes to decide, and nothing else.
//!
//! Each contender is a process of its own (this program again, in another role), fresh for each measurement, so that its CPU time and its
//! peak memory are its own. Load generator and upstream are two more processes. Ratios are the finding, not absolute times.
#![expect(clippy::print_stdout, reason = "the table is what a bench is for")]
#![expect(clippy::cast_precision_loss, reason = "times and counts are far below 2^52")]
#![expect(clippy::unwrap_used, reason = "a bench that cannot be set up should fail loudly")]

#[path = "proxy/contender.rs"]
mod contender;
#[path = "proxy/decisions.rs"]
mod decisions;
#[path = "proxy/load.rs"]
mod load;
#[path = "proxy/metering.rs"]
mod metering;
#[path = "proxy/upstream.rs"]
mod upstream;

use std::collections::BTreeMap;

use contender::{Contender, Upstreams};
use load::{Load, Outcome};

const ROUNDS: usize = 3;
const CONNECTIONS: [usize; 3] = [1, 12, 64];

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if contender::play_role(&words) {
        return;
    }
    let loads: Vec<Load> =
        Load::ALL.into_iter().filter(|load| words.is_empty() || words.iter().any(|word| load.name().contains(word.as_str()))).collect();
    let asks_for = |name: &str| words.is_empty() || words.iter().any(|word| word == name);
    if asks_for("decisions") {
        decisions::run();
    }
    if asks_for("meter") {
        metering::run(&Upstreams::start());
    }
    if loads.is_empty() {
        return;
    }
    let upstreams = Upstreams::start();
    let contenders: Vec<Contender> = Contender::ALL.into_iter().filter(|contender| contender.is_installed()).collect();
    for contender in Contender::ALL.into_iter().filter(|contender| !contender.is_installed()) {
        println!("{} is not installed and is left out", contender.name());
    }
    let idle_cpu: BTreeMap<Contender, f64> =
        contenders.iter().map(|contender| (*contender, median((0..3).map(|_| contender.start(&upstreams).stop().cpu_seconds)))).collect();
    let mut results = Results::new();
    for _ in 0..ROUNDS {
        for load in &loads {
            for connections in CONNECTIONS {
                for contender in &contenders {
                    let running = contender.start(&upstreams);
                    let outcome = load::run(*load, connections, running.address(), &contender.path());
                    let used = running.stop();
                    let cpu = (used.cpu_seconds - idle_cpu[contender]).max(0.0) * 1_000.0 / outcome.requests as f64;
                    results.entry((*load, connections, *contender)).or_default().push(Sample { cpu, peak_mb: used.peak_mb, outcome });
                }
            }
        }
    }
    println!(
        "CPU seconds of the process under test per 1,000 requests, as a ratio to the TCP copy; added time against direct, medians of {ROUNDS} rounds\n"
    );
    for load in &loads {
        print_load(*load, &contenders, &results);
    }
    print_aims(&results);
}

/// What we aim at (facts on the proxy, last section), and where we are.
fn print_aims(results: &Results) {
    let of = |load, connections, contender, field: &dyn Fn(&Sample) -> f64| {
        results.get(&(load, connections, contender)).map(|samples| median(samples.iter().map(field)))
    };
    let ratio = |load| Some(of(load, 12, Contender::Sentrely, &|sample| sample.cpu)? / of(load, 12, Contender::Tcp, &|sample| sample.cpu)?);
    let added =
        |load, field: &dyn Fn(&Sample) -> f64| Some(of(load, 1, Contender::Sentrely, field)? - of(load, 1, Contender::Direct, field)?);
    for (what, limit, unit, found) in [
        ("CPU, burst, 12 connections", 1.5, "x tcp", ratio(Load::Burst)),
        ("CPU, 1 MB, 12 connections", 0.87, "x tcp", ratio(Load::Megabyte)),
        ("CPU, paced, 12 connections", 1.3, "x tcp", ratio(Load::Paced)),
        ("added first byte, burst, 1 connection", 0.20, "ms", added(Load::Burst, &|sample| sample.outcome.first_byte_ms)),
        ("added time of an event, 1 connection", 0.10, "ms", added(Load::Paced, &|sample| sample.outcome.event_ms)),
        ("peak memory, 1 MB, 12 connections", 15.0, "MB", of(Load::Megabyte, 12, Contender::Sentrely, &|sample| sample.peak_mb)),
    ] {
        if let Some(found) = found {
            println!("{} {what}: {found:.2} {unit}, aim {limit} {unit}", if found <= limit { "met " } else { "open" });
        }
    }
}

/// All rounds of each load, number of connections and contender.
type Results = BTreeMap<(Load, usize, Contender), Vec<Sample>>;

struct Sample {
    cpu: f64,
    peak_mb: f64,
    outcome: Outcome,
}

/// One load's table.
fn print_load(load: Load, contenders: &[Contender], results: &Results) {
    println!("{}", load.describe());
    println!(
        "{:>12}  {:<14} {:>10} {:>7} {:>16} {:>12} {:>8}",
        "connections", "contender", "CPU s/1000", "x tcp", "first byte + ms", "event + ms", "peak MB"
    );
    for connections in CONNECTIONS {
        let of = |contender: Contender, field: &dyn Fn(&Sample) -> f64| median(results[&(load, connections, contender)].iter().map(field));
        let tcp = of(Contender::Tcp, &|sample| sample.cpu);
        for contender in contenders {
            let added = |field: &dyn Fn(&Sample) -> f64| of(*contender, field) - of(Contender::Direct, field);
            let first_byte = added(&|sample| sample.outcome.first_byte_ms);
            let event = if load.is_paced() { format!("{:.3}", added(&|sample| sample.outcome.event_ms)) } else { "-".to_owned() };
            if *contender == Contender::Direct {
                let first_byte = of(*contender, &|sample| sample.outcome.first_byte_ms);
                let event =
                    if load.is_paced() { format!("({:.3})", of(*contender, &|sample| sample.outcome.event_ms)) } else { "-".to_owned() };
                println!(
                    "{connections:>12}  {:<14} {:>10} {:>7} {:>16} {event:>12} {:>8}",
                    contender.name(),
                    "-",
                    "-",
                    format!("({first_byte:.3})"),
                    "-"
                );
                continue;
            }
            let cpu = of(*contender, &|sample| sample.cpu);
            let peak = of(*contender, &|sample| sample.peak_mb);
            println!(
                "{connections:>12}  {:<14} {cpu:>10.3} {:>7.2} {first_byte:>16.3} {event:>12} {peak:>8.1}",
                contender.name(),
                cpu / tcp
            );
        }
    }
    println!();
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
