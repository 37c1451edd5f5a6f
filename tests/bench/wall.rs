//! What the wall costs.
//!
//! - At the start, with a home that has thirty credential files: planning it, entering it in a forked process that ends at once (`fork`, every
//!   mount, domain, filter, and the end of the namespaces), and a whole `sentrely run -- true` behind it against one with `--wall off`.
//! - At work: `git status`, a commit, `npm ci` of local packages and `cargo build`, in a session behind the full wall against the same in a plain
//!   clone without sentrely. CPU of the commands alone, user and system.
//!
//! `cargo bench --bench wall [-- ROUNDS]`. All variants take turns within each round. Run it as root or as a user: the sequences differ.

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

#[expect(dead_code, reason = "shared with the other benches")]
mod support;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use sentrely::wall::{Layer, Request, Wall};

use support::{Place, Samples, Table, is_bench, ms, print_machine};

const ROUNDS: usize = 60;
/// Of the commands at work, which take seconds.
const WORK_ROUNDS: usize = 12;
const SECRETS: usize = 30;
/// Files of the repository in which git works.
const FILES: usize = 5_000;
/// Packages that npm installs.
const PACKAGES: usize = 40;
/// Modules of the program that cargo builds.
const MODULES: usize = 60;
/// The word by which this program is the one who works.
const WORKER: &str = "work";

fn main() -> anyhow::Result<()> {
    if std::env::args().nth(1).is_some_and(|word| word == WORKER) {
        return work();
    }
    let rounds = std::env::args().skip(1).find_map(|word| word.parse().ok());
    let rounds = |default| rounds.unwrap_or(if is_bench() { default } else { 1 });
    print_machine("wall");
    start(rounds(ROUNDS))?;
    at_work(rounds(WORK_ROUNDS))
}

fn start(rounds: usize) -> anyhow::Result<()> {
    let place = Place::new()?;
    let home = place.work().parent().context("a place has a parent")?.join("home");
    std::fs::create_dir_all(home.join(".ssh"))?;
    for n in 0..SECRETS {
        std::fs::write(home.join(format!(".ssh/key{n}")), "x")?;
    }
    let layers = home.with_file_name("layers");
    let request = Request {
        home: home.clone(),
        copy_on_write: vec![home.join(".claude")],
        read_only: vec![place.work()],
        state: place.state(),
        cwd: "/".into(),
        ..Request::default()
    };
    let (mut planned, mut entered) = (Samples::default(), Samples::default());
    let mut runs = [("off", Samples::default(), Samples::default()), ("require", Samples::default(), Samples::default())];
    let mut hidden = 0;
    for round in 0..rounds {
        let start = Instant::now();
        let layer = Layer::create(&layers, &format!("bench-{round}"))?;
        let mut wall = Wall::full(&request, &layer, false)?;
        planned.add(start.elapsed());
        hidden = wall.hidden().len();
        let start = Instant::now();
        wall.try_out().context("this machine does not allow the full wall")?;
        entered.add(start.elapsed());
        layer.remove()?;
        for (mode, wall, cpu) in &mut runs {
            let mut command: Command = place.command(env!("CARGO_BIN_EXE_sentrely"));
            command.args(["run", "--workspace", "none", "--wall", mode, "--", "true"]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let (before, start) = (children_cpu()?, Instant::now());
            ensure!(command.status()?.success(), "run --wall {mode} failed");
            wall.add(start.elapsed());
            cpu.add(children_cpu()?.saturating_sub(before));
        }
    }
    println!("{hidden} places hidden, {rounds} rounds, as {}\n", if nix::unistd::getuid().is_root() { "root" } else { "a user" });
    let mut table = Table::new(&["what", "p50 ms", "p99 ms", "CPU p50 ms"]);
    table.row(vec!["plan: resolve, list, write the layer".into(), ms(planned.p50()), ms(planned.p99()), String::new()]);
    table.row(vec!["enter: fork, mounts, domain, filter, end".into(), ms(entered.p50()), ms(entered.p99()), String::new()]);
    for (mode, wall, cpu) in &runs {
        table.row(vec![format!("run --wall {mode} -- true"), ms(wall.p50()), ms(wall.p99()), ms(cpu.p50())]);
    }
    table.print();
    Ok(())
}

/// What is measured at work, each with what precedes it and is not.
const TASKS: [(&str, &str, &str); 4] = [
    ("git status", "true", "git status --porcelain"),
    ("git commit", "date +%N > src/0/0.txt", "git -c user.name=b -c user.email=b@example.com commit -qam work"),
    ("npm ci", "rm -rf npm/node_modules", "cd npm && npm ci --offline --no-audit --no-fund --loglevel=error"),
    ("cargo build", "rm -rf cargo/target", "cd cargo && cargo build -q --offline"),
];

/// In a clone: does each task and prints what it cost.
fn work() -> anyhow::Result<()> {
    let run = |script: &str| Command::new("sh").args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::null()).status();
    for (name, before, task) in TASKS {
        ensure!(run(before)?.success(), "{before}");
        let cpu = children_cpu()?;
        ensure!(run(task)?.success(), "{task}");
        println!("{name}\t{}", children_cpu()?.saturating_sub(cpu).as_micros());
    }
    Ok(())
}

fn at_work(rounds: usize) -> anyhow::Result<()> {
    let place = Place::new()?;
    let repository = place.work();
    let toolchain = PathBuf::from(env!("CARGO"));
    let path = format!("{}:{}", toolchain.parent().unwrap_or(Path::new("/")).display(), std::env::var("PATH").unwrap_or_default());
    prepare(&place, &repository, &path)?;
    let plain = repository.with_file_name("plain");
    let cloned = place.command("git").args(["clone", "-q"]).args([&repository, &plain]).status()?;
    ensure!(cloned.success(), "clone the repository");
    let me = std::env::current_exe()?;
    let mut samples: Vec<(Samples, Samples)> = TASKS.iter().map(|_| Default::default()).collect();
    // The first of each fills caches, and is not counted.
    for round in 0..=rounds {
        for inside in [false, true] {
            let mut command = place.command(if inside { Path::new(env!("CARGO_BIN_EXE_sentrely")) } else { &me });
            if inside {
                command.args(["run", "--wall", "require", "--"]).arg(&me);
            } else {
                command.current_dir(&plain);
            }
            let output = command.arg(WORKER).env("PATH", &path).stdin(Stdio::null()).stderr(Stdio::piped()).output()?;
            ensure!(output.status.success(), "inside {inside}: {}", String::from_utf8_lossy(&output.stderr));
            let text = String::from_utf8(output.stdout)?;
            for (line, (outside_of, inside_of)) in text.lines().zip(&mut samples) {
                let micros: u64 = line.split('\t').nth(1).context("a line without a number")?.parse()?;
                if round > 0 || rounds == 0 {
                    if inside { inside_of } else { outside_of }.add(Duration::from_micros(micros));
                }
            }
        }
    }
    println!("{FILES} files, {PACKAGES} packages, {MODULES} modules; {rounds} rounds\n");
    let mut table = Table::new(&["CPU p50 ms", "outside", "inside", "ratio"]);
    for ((name, ..), (outside, inside)) in TASKS.iter().zip(&samples) {
        table.row(vec![(*name).to_owned(), ms(outside.p50()), ms(inside.p50()), format!("{:.3}", inside.p50() / outside.p50())]);
    }
    table.print();
    Ok(())
}

/// A repository with files, packages and a program.
fn prepare(place: &Place, repository: &Path, path: &str) -> anyhow::Result<()> {
    for n in 0..FILES {
        let dir = repository.join(format!("src/{}", n / 100));
        std::fs::create_dir_all(&dir)?;
        std::fs::write(dir.join(format!("{n}.txt")), format!("file {n}\n").repeat(20))?;
    }
    let cargo = repository.join("cargo/src");
    std::fs::create_dir_all(&cargo)?;
    std::fs::write(repository.join("cargo/Cargo.toml"), "[package]\nname = \"bench\"\nversion = \"0.1.0\"\nedition = \"2024\"\n")?;
    let mut main = String::new();
    let mut calls = String::new();
    for n in 0..MODULES {
        let functions = (0..20).map(|f| format!("pub fn f{f}(x: u64) -> u64 {{ format!(\"{{x}}\").len() as u64 + {n} }}\n"));
        std::fs::write(cargo.join(format!("m{n}.rs")), functions.collect::<Vec<_>>().concat())?;
        writeln!(main, "mod m{n};")?;
        writeln!(calls, "    sum += {};", (0..20).map(|f| format!("m{n}::f{f}(sum)")).collect::<Vec<_>>().join(" + "))?;
    }
    std::fs::write(cargo.join("main.rs"), format!("{main}fn main() {{\n    let mut sum = 0u64;\n{calls}    println!(\"{{sum}}\");\n}}\n"))?;
    let script = format!(
        "set -e; printf '/npm/node_modules\n/cargo/target\n' > .gitignore; mkdir -p npm/tar; cd npm
        for n in $(seq {PACKAGES}); do
            mkdir -p package/lib; for f in $(seq 25); do echo \"module.exports = $f\" > package/lib/$f.js; done
            echo '{{\"name\":\"p'$n'\",\"version\":\"1.0.0\"}}' > package/package.json; tar czf tar/p$n.tgz package; rm -r package
        done
        echo '{{\"name\":\"bench\",\"version\":\"1.0.0\"}}' > package.json
        npm install --offline --no-audit --no-fund --loglevel=error --ignore-scripts $(for n in $(seq {PACKAGES}); do echo ./tar/p$n.tgz; done)
        cd ..; git init -q -b main; git add -A; git -c user.name=b -c user.email=b@example.com commit -qm all"
    );
    let done = place
        .command("sh")
        .args(["-c", &script])
        .env("PATH", path)
        .current_dir(repository)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()?;
    ensure!(done.success(), "prepare the repository");
    Ok(())
}

/// User and system time of all children that were waited for.
fn children_cpu() -> anyhow::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let time = |time: TimeVal| Duration::new(time.tv_sec().unsigned_abs(), u32::try_from(time.tv_usec()).unwrap_or(0) * 1_000);
    Ok(time(usage.user_time()) + time(usage.system_time()))
}
