//! What the benches of start and kill share: numbers and their quantiles, the machine they were taken on, `sentrely` with a home and a
//! state directory of its own, and the table.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use sentrely::model::Record;
use sentrely::store::read_journal;
use tempfile::TempDir;

/// Measured values of one kind, in milliseconds.
#[derive(Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn add(&mut self, time: Duration) {
        self.add_ms(time.as_secs_f64() * 1_000.0);
    }

    pub(crate) fn add_ms(&mut self, ms: f64) {
        self.0.push(ms);
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn p50(&self) -> f64 {
        self.quantile(50)
    }

    pub(crate) fn p99(&self) -> f64 {
        self.quantile(99)
    }

    pub(crate) fn max(&self) -> f64 {
        self.quantile(100)
    }

    /// The smallest value that `percent` of all do not exceed; not a number if there is none.
    fn quantile(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
    }
}

/// Rows of words under headings, each column as wide as it must be.
pub(crate) struct Table(Vec<Vec<String>>);

impl Table {
    pub(crate) fn new(headings: &[&str]) -> Self {
        Self(vec![headings.iter().map(|heading| (*heading).to_owned()).collect()])
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.0.push(cells);
    }

    pub(crate) fn print(&self) {
        let columns = self.0.first().map_or(0, Vec::len);
        let width = |column: usize| self.0.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.0 {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let cell = if column == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") };
                line.push_str(&cell);
            }
            println!("{}", line.trim_end());
        }
        println!();
    }
}

/// A number of milliseconds for a table.
pub(crate) fn ms(value: f64) -> String {
    if value.is_nan() { "-".to_owned() } else { format!("{value:.2}") }
}

/// The machine, in one line: a number without it says nothing.
pub(crate) fn print_machine(bench: &str) {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let model = read("/proc/cpuinfo");
    let model = model.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default().trim_start_matches(['\t', ' ', ':']);
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default();
    println!("\ncargo bench --bench {bench}");
    println!("{cores} cores ({model}), Linux {}, load average at the start {load}\n", read("/proc/sys/kernel/osrelease"));
}

/// How much is measured: all of it under `cargo bench`, one round each where a bench is only shown to work (`cargo test --benches`).
pub(crate) fn is_bench() -> bool {
    std::env::args().any(|word| word == "--bench")
}

/// A home, a working directory and a state directory that nobody else has.
pub(crate) struct Place {
    root: TempDir,
    states: Cell<u32>,
}

impl Place {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Self::within(&std::env::temp_dir())
    }

    /// A place in `directory`.
    pub(crate) fn within(directory: &Path) -> anyhow::Result<Self> {
        let root = tempfile::Builder::new().prefix("sentrely-bench-").tempdir_in(directory)?;
        for name in ["home", "work"] {
            fs::create_dir(root.path().join(name))?;
        }
        Ok(Self { root, states: Cell::new(0) })
    }

    pub(crate) fn work(&self) -> PathBuf {
        self.root.path().join("work")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.root.path().join(format!("state-{}", self.states.get()))
    }

    /// A program in this place, with nothing of the caller's environment but its `PATH`.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.work()).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into()));
        command.env("HOME", self.root.path().join("home")).env("SENTRELY_STATE_DIR", self.state());
        command
    }

    /// `sentrely run --workspace <workspace> --wall off -- <words>`.
    pub(crate) fn run(&self, workspace: &str, words: &[&OsStr]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_sentrely"));
        command.args(["run", "--workspace", workspace, "--wall", "off", "--"]).args(words);
        command
    }

    /// The directories of the sessions that there were.
    pub(crate) fn sessions(&self) -> anyhow::Result<Vec<PathBuf>> {
        let sessions = self.state().join("sessions");
        let entries = match fs::read_dir(&sessions) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("list {}", sessions.display()))?,
        };
        entries.map(|entry| Ok(entry?.path())).collect()
    }

    /// The journal of the only session that there was.
    pub(crate) fn journal(&self) -> anyhow::Result<Vec<Record>> {
        let sessions = self.sessions()?;
        let [session] = sessions.as_slice() else { anyhow::bail!("{} sessions instead of one", sessions.len()) };
        Ok(read_journal(&session.join("journal.jsonl"))?)
    }

    /// Takes another state directory, so that the next session begins as the first did. The old one stays until the end: ext4 makes new
    /// files more slowly beside many that were just removed.
    pub(crate) fn forget(&self) {
        self.states.set(self.states.get() + 1);
    }
}

/// How long after `start` something was written down; negative clock steps count as nothing.
pub(crate) fn after(start: SystemTime, at: SystemTime) -> Duration {
    at.duration_since(start).unwrap_or_default()
}
