//! What the meter costs: CPU with it and without, and memory with 64 streams open.
//!
//! Nothing goes through the proxy unmetered by a switch. But what costs nothing upstream (files, say) passes the same program without a
//! permit: no body is held, scanned or forecast, nothing of the answer is decoded, weighed or settled, no clock looks at it. So the same
//! requests with the same answers are posted to the one path and to the other; all else (authentication, headers, connections, timeouts,
//! copying) is the same. Paced streams that begin at one moment stay in step, so that one wake of the proxy serves many of them, and how
//! many depends on how soon after one another their requests got through: so streams that begin at different moments are measured too,
//! as agents' are. The meter here writes to no journal, as everywhere in this bench.

use crate::contender::{Contender, Upstreams};
use crate::load::{self, Begin, Load};
use crate::median;

const ROUNDS: usize = 7;
const CONNECTIONS: usize = 12;
/// The most that it may cost.
const AIM: f64 = 1.10;
const STREAMS: usize = 64;

pub(crate) fn run(upstreams: &Upstreams) {
    cpu(upstreams);
    memory(upstreams);
}

fn cpu(upstreams: &Upstreams) {
    const LOADS: [(Load, Begin); 7] = [
        (Load::Small, Begin::Together),
        (Load::SmallPaced, Begin::Apart),
        (Load::SmallPaced, Begin::Together),
        (Load::Burst, Begin::Together),
        (Load::Paced, Begin::Apart),
        (Load::Paced, Begin::Together),
        (Load::Megabyte, Begin::Together),
    ];
    const WAYS: [Contender; 2] = [Contender::Sentrely, Contender::SentrelyUnmetered];
    let idle = WAYS.map(|way| median((0..3).map(|_| way.start(upstreams).stop().cpu_seconds)));
    println!(
        "The same proxy with the meter on and off: CPU ms a request, medians of {ROUNDS} interleaved rounds, {CONNECTIONS} connections"
    );
    println!("{:<70} {:>8} {:>8} {:>7} {:>15}", "", "on", "off", "on/off", "of each round");
    for (load, begin) in LOADS {
        let mut rounds: Vec<[f64; 2]> = Vec::new();
        for round in 0..ROUNDS {
            let mut used = [0.0; 2];
            // Each goes first every other time.
            for turn in 0..2 {
                let which = (turn + round) % 2;
                let running = WAYS[which].start(upstreams);
                let outcome = load::run_from(begin, load, CONNECTIONS, running.address(), &WAYS[which].path());
                used[which] = (running.stop().cpu_seconds - idle[which]).max(0.0) * 1_000.0 / outcome.requests as f64;
            }
            rounds.push(used);
        }
        let [on, off] = [0, 1].map(|which| median(rounds.iter().map(|used| used[which])));
        let ratios = rounds.iter().map(|[on, off]| on / off);
        let spread = format!("{:.2} to {:.2}", ratios.clone().fold(f64::INFINITY, f64::min), ratios.fold(0.0, f64::max));
        let verdict = if on / off <= AIM { "met" } else { "open" };
        let describe = match begin {
            Begin::Apart => format!("{}, from different moments", load.describe()),
            Begin::Together => load.describe().to_owned(),
        };
        println!("{describe:<70} {on:>8.3} {off:>8.3} {:>7.2} {spread:>15}  {verdict}", on / off);
    }
    println!("aim: at most {AIM:.2}\n");
}

fn memory(upstreams: &Upstreams) {
    println!("Peak memory, MB; medians of 3 rounds. A stream: the difference of {STREAMS} open streams to one, divided by {}", STREAMS - 1);
    println!("{:<60} {:<10} {:>6} {:>10} {:>11} {:>12}", "", "", "idle", "one stream", "64 streams", "KB a stream");
    for load in [Load::SmallPaced, Load::Paced] {
        for way in [Contender::Tcp, Contender::SentrelyUnmetered, Contender::Sentrely] {
            let peak = |streams: Option<usize>| {
                median((0..3).map(|_| {
                    let running = way.start(upstreams);
                    if let Some(streams) = streams {
                        load::run(load, streams, running.address(), &way.path());
                    }
                    running.stop().peak_mb
                }))
            };
            let (idle, one, many) = (peak(None), peak(Some(1)), peak(Some(STREAMS)));
            let each = (many - one) * 1_024.0 / (STREAMS - 1) as f64;
            println!("{:<60} {:<10} {idle:>6.1} {one:>10.1} {many:>11.1} {each:>12.0}", load.describe(), way.name());
        }
    }
    println!();
}
