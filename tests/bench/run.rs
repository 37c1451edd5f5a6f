//! What a session costs that does nothing: `sentrely run --workspace none --wall off -- true` against `true`.
//!
//! `cargo bench --bench run [-- ROUNDS]`; `-- statusline` measures that alone. All variants take turns within each round, so that whatever else the machine does falls on all
//! of them. CPU is user + system time of the program and everything below it, as wait4(2) accounts it to this process.
//!
//! The second table is the start: from before the fork of `sentrely` until its child exists (journal), and until a child that connects at
//! once has been accepted by the proxy. The same child started directly, with a listener of the bench's own, is the floor.

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

#[path = "run/statusline.rs"]
mod statusline;
mod support;

use std::ffi::OsStr;
use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use sentrely::model::Event;

use support::{Place, Samples, Table, after, is_bench, ms, print_machine};

const ROUNDS: usize = 100;
/// Set for the child that connects at once: this very program.
const CONNECT: &str = "SENTRELY_BENCH_CONNECT";
/// Where files cost no disk.
const MEMORY: &str = "/dev/shm";
/// How many ended sessions the state directory of a busy month holds.
const MANY_SESSIONS: usize = 200;

fn main() -> anyhow::Result<()> {
    if std::env::args().nth(1).as_deref() == Some(CONNECT) {
        return connect_at_once();
    }
    let rounds = match std::env::args().skip(1).find_map(|word| word.parse().ok()) {
        Some(rounds) => rounds,
        None if is_bench() => ROUNDS,
        None => 1,
    };
    print_machine("run");
    if std::env::args().any(|word| word == "statusline") {
        return statusline::run(rounds);
    }
    cost(rounds)?;
    start(rounds)?;
    statusline::run(rounds)
}

/// Wall and CPU time of a program.
#[derive(Default)]
struct Cost {
    wall: Samples,
    cpu: Samples,
}

impl Cost {
    /// Runs it to its end.
    fn measure(&mut self, mut command: Command) -> anyhow::Result<()> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let (cpu, start) = (children_cpu()?, Instant::now());
        let status = command.status()?;
        let (wall, cpu) = (start.elapsed(), children_cpu()?.saturating_sub(cpu));
        if !status.success() {
            bail!("{} ended with {status}", command.get_program().display());
        }
        self.wall.add(wall);
        self.cpu.add(cpu);
        Ok(())
    }
}

fn cost(rounds: usize) -> anyhow::Result<()> {
    let (fresh, busy) = (Place::new()?, Place::new()?);
    let in_memory = Some(Path::new(MEMORY)).filter(|path| path.is_dir()).map(Place::within).transpose()?;
    let words = [OsStr::new("true")];
    make_repository(&fresh)?;
    let before = if rounds > 1 { MANY_SESSIONS } else { 2 };
    for _ in 0..before {
        Cost::default().measure(busy.run("none", &words))?;
    }
    let status_of = busy.sessions()?.pop().context("no session on record")?;
    let [mut floor, mut version, mut status, mut none, mut memory, mut many, mut clone] = [(); 7].map(|()| Cost::default());
    for round in 0..=rounds {
        if round == 1 {
            // The first of each read the programs from the disk.
            for cost in [&mut floor, &mut version, &mut status, &mut none, &mut memory, &mut many, &mut clone] {
                *cost = Cost::default();
            }
        }
        floor.measure(fresh.command("true"))?;
        let mut print_version = fresh.command(env!("CARGO_BIN_EXE_sentrely"));
        print_version.arg("--version");
        version.measure(print_version)?;
        let mut line = fresh.command(env!("CARGO_BIN_EXE_sentrely"));
        line.arg("statusline").arg(&status_of);
        status.measure(line)?;
        fresh.forget();
        none.measure(fresh.run("none", &words))?;
        if let Some(place) = &in_memory {
            place.forget();
            memory.measure(place.run("none", &words))?;
        }
        many.measure(busy.run("none", &words))?;
        // A clone costs processes of git and files: every fifth time is enough to know what.
        if round < 2 || round % 5 == 1 {
            fresh.forget();
            clone.measure(fresh.run("clone", &words))?;
        }
    }
    println!("A session of `true`, ms ({rounds} interleaved rounds; + is the difference of medians to `true` alone)");
    let many_name = format!("the same, {before} ended sessions on record and more");
    let mut table = Table::new(&["", "n", "CPU p50", "p99", "+ CPU", "wall p50", "p99", "+ wall"]);
    for (name, cost) in [
        ("true", &floor),
        ("sentrely --version", &version),
        ("sentrely statusline", &status),
        ("sentrely run --workspace none", &none),
        ("the same, its files in memory (tmpfs)", &memory),
        (many_name.as_str(), &many),
        ("sentrely run --workspace clone", &clone),
    ] {
        table.row(vec![
            name.to_owned(),
            cost.wall.count().to_string(),
            ms(cost.cpu.p50()),
            ms(cost.cpu.p99()),
            ms(cost.cpu.p50() - floor.cpu.p50()),
            ms(cost.wall.p50()),
            ms(cost.wall.p99()),
            ms(cost.wall.p50() - floor.wall.p50()),
        ]);
    }
    table.print();
    verdict("session's CPU over `true`", none.cpu.p50() - floor.cpu.p50(), 3.0);
    println!();
    Ok(())
}

fn start(rounds: usize) -> anyhow::Result<()> {
    let place = Place::new()?;
    let own = std::env::current_exe()?;
    let words = [own.as_os_str(), OsStr::new(CONNECT)];
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let [mut floor, mut started, mut connected] = [(); 3].map(|()| Samples::default());
    for _ in 0..rounds {
        let mut direct = place.command(&own);
        direct.arg(CONNECT).env("ANTHROPIC_BASE_URL", format!("http://{}/", listener.local_addr()?));
        let begin = SystemTime::now();
        floor.add(after(begin, said(direct)?));
        // The connection waits in the backlog.
        drop(listener.accept()?);

        place.forget();
        let begin = SystemTime::now();
        connected.add(after(begin, said(place.run("none", &words))?));
        let journal = place.journal()?;
        let child = journal.iter().find(|record| matches!(record.event, Event::ChildStarted { .. })).context("no child was started")?;
        started.add(after(begin, child.at.into()));
    }
    println!("From the fork of `sentrely` on, ms ({rounds} rounds)");
    let mut table = Table::new(&["", "p50", "p99", "max"]);
    for (name, samples) in [
        ("until its child runs (journal)", &started),
        ("until a child that connects at once is connected to the proxy", &connected),
        ("the same child and a listener without sentrely", &floor),
    ] {
        table.row(vec![name.to_owned(), ms(samples.p50()), ms(samples.p99()), ms(samples.max())]);
    }
    table.print();
    // The child is started when the proxy accepts, so this is an upper bound.
    verdict("proxy accepting, at the latest when its child runs", started.p50(), 5.0);
    Ok(())
}

fn verdict(what: &str, value: f64, aim: f64) {
    println!("{what}: {} ms, aim {aim} ms: {}", ms(value), if value <= aim { "met" } else { "NOT met" });
}

/// Runs the program, which is [`connect_at_once`] in the end, and returns when it was connected.
fn said(mut command: Command) -> anyhow::Result<SystemTime> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut text = String::new();
    child.stdout.take().context("it has no output")?.read_to_string(&mut text)?;
    let status = child.wait()?;
    if !status.success() {
        bail!("the child that connects ended with {status}");
    }
    Ok(UNIX_EPOCH + Duration::from_nanos(text.trim().parse().with_context(|| format!("it said {text:?}"))?))
}

/// The child: connects to where the model is said to be and tells when.
fn connect_at_once() -> anyhow::Result<()> {
    let url = std::env::var("ANTHROPIC_BASE_URL")?;
    let address = url.strip_prefix("http://").and_then(|rest| rest.split('/').next()).context("no address in the URL")?;
    let _connection = TcpStream::connect(address)?;
    println!("{}", SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos());
    Ok(())
}

/// A small repository with one commit, as the working directory.
fn make_repository(place: &Place) -> anyhow::Result<()> {
    std::fs::write(place.work().join("README"), "a small repository\n")?;
    for words in [
        ["init", "--quiet", "--initial-branch=main"].as_slice(),
        &["config", "user.email", "bench@example.com"],
        &["config", "user.name", "Bench"],
        &["add", "."],
        &["commit", "--quiet", "--message=first"],
    ] {
        let status = place.command("git").args(words).status()?;
        if !status.success() {
            bail!("git {} ended with {status}", words.join(" "));
        }
    }
    Ok(())
}

/// User and system time of all children that were waited for, and of theirs.
fn children_cpu() -> anyhow::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let of = |time: TimeVal| -> anyhow::Result<Duration> {
        Ok(Duration::from_secs(time.tv_sec().try_into()?) + Duration::from_micros(time.tv_usec().try_into()?))
    };
    Ok(of(usage.user_time())? + of(usage.system_time())?)
}
