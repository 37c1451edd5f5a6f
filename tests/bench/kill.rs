//! How fast a kill is: from just before the kill file is written until the gate is closed, the first signal is posted, and the last process
//! of the session is gone, for 1, 10, 100 and 1000 processes, against killpg(2) on the same processes as the floor, in the same rounds.
//!
//! `cargo bench --bench kill [-- ROUNDS]`. Kinds: `sleeping` ends on SIGTERM and is killed by a kill file as `touch` makes it; `deaf`
//! ignores SIGTERM and is killed as `sentrely kill --now` does, with a cgroup of its own and without; `apart` is `deaf` with each process in
//! a session of its own, as Claude Code starts its commands, which no killpg reaches: its floor is one kill(2) for each process.
//! Then [`beats`]: how long after the signal the last member of a busy session did anything; [`cancel`]: CI's; and [`claude`]: the real one.
//!
//! A process is gone when it has let go of its descriptors: all hold the writing end of one FIFO, and the bench waits for its end. Every one
//! is reaped before the next round.

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

#[path = "kill/beats.rs"]
mod beats;
#[path = "kill/cancel.rs"]
mod cancel;
#[path = "kill/claude.rs"]
mod claude;
mod support;

use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use sentrely::model::{Event, Record, StopReason};
use sentrely::store::kill_file::{self, KillRequest};

use support::{Place, Samples, Table, after, is_bench, ms, print_machine};

/// How many processes a session has.
const SIZES: [usize; 4] = [1, 10, 100, 1000];
const ROUNDS: usize = 30;
/// A thousand processes take a while to start: of those only every so many-th round.
const SELDOM: usize = 5;
/// The processes have executed their programs and gone to sleep by then.
const SETTLE: Duration = Duration::from_millis(60);
/// A bench that hangs is broken.
const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sleeping,
    Deaf,
    DeafInCgroup,
    Apart,
    ApartInCgroup,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Sleeping => "sleeping",
            Self::Deaf => "deaf, --now",
            Self::DeafInCgroup => "deaf, --now, cgroup",
            Self::Apart => "apart, --now",
            Self::ApartInCgroup => "apart, --now, cgroup",
        }
    }

    /// Whether it is killed without grace.
    fn is_hard(self) -> bool {
        self != Self::Sleeping
    }

    const fn has_cgroup(self) -> bool {
        matches!(self, Self::DeafInCgroup | Self::ApartInCgroup)
    }

    const fn is_apart(self) -> bool {
        matches!(self, Self::Apart | Self::ApartInCgroup)
    }

    /// A shell that starts `count - 1` processes and becomes the last one. Each says `.` when it is about to execute its program.
    fn script(self, count: usize, fifo: &Path) -> String {
        let deaf = if self.is_hard() { "trap '' TERM; " } else { "" };
        let apart = if self.is_apart() { "setsid " } else { "" };
        let others = count - 1;
        format!(
            "exec 3>{}; {deaf}i=0; while [ $i -lt {others} ]; do i=$((i+1)); {apart}sh -c 'printf . >&3; exec sleep 600' & done; \
             printf . >&3; exec sleep 600",
            fifo.display()
        )
    }
}

/// The times of one kind and size.
#[derive(Default)]
struct Times {
    floor: Samples,
    gate: Samples,
    signalled: Samples,
    gone: Samples,
    over: Samples,
}

fn main() -> anyhow::Result<()> {
    if let Some(words) = beats::is_asked_for() {
        return beats::beat(&words);
    }
    let rounds = match std::env::args().skip(1).find_map(|word| word.parse().ok()) {
        Some(rounds) => rounds,
        None if is_bench() => ROUNDS,
        None => 1,
    };
    // Orphans come to us, to be reaped.
    prctl::set_child_subreaper(true)?;
    print_machine("kill");
    let mut kinds = vec![Kind::Sleeping, Kind::Deaf, Kind::Apart];
    if has_cgroup() {
        kinds.extend([Kind::DeafInCgroup, Kind::ApartInCgroup]);
    } else {
        println!("no cgroup v2 may be made here: those rows are left out\n");
    }
    let cases: Vec<(Kind, usize)> = kinds.iter().flat_map(|kind| SIZES.map(|size| (*kind, size))).collect();
    let mut times: Vec<Times> = cases.iter().map(|_| Times::default()).collect();
    let place = Place::new()?;
    for round in 0..rounds {
        for ((kind, size), times) in cases.iter().zip(&mut times).filter(|((_, size), _)| *size < 1000 || round % SELDOM == 0) {
            floor(&place, *kind, *size, &mut times.floor)?;
            session(&place, *kind, *size, times)?;
        }
    }
    println!("Kill file written until ..., ms, p50/p99/max");
    let mut table = Table::new(&[
        "",
        "processes",
        "kills",
        "gate closed",
        "signal sent",
        "last process gone",
        "killpg alone",
        "over killpg (p50)",
        "sentrely ended",
    ]);
    for ((kind, size), times) in cases.iter().zip(&times) {
        table.row(vec![
            kind.name().to_owned(),
            size.to_string(),
            times.gone.count().to_string(),
            quantiles(&times.gate),
            quantiles(&times.signalled),
            quantiles(&times.gone),
            quantiles(&times.floor),
            ms(times.gone.p50() - times.floor.p50()),
            quantiles(&times.over),
        ]);
    }
    table.print();
    for ((kind, size), times) in cases.iter().zip(&times) {
        let (gone, floor) = (times.gone.p50(), times.floor.p50());
        let sent = times.signalled.p50();
        let met = |met: bool| if met { "met" } else { "NOT met" };
        let aim = if kind.has_cgroup() {
            format!("gone {:.2} x killpg (aim 2: {})", gone / floor, met(gone <= 2.0 * floor))
        } else if *size <= 100 {
            format!("gone {} ms over killpg (aim 25: {})", ms(gone - floor), met(gone - floor <= 25.0))
        } else {
            format!("gone {} ms over killpg", ms(gone - floor))
        };
        println!("{:<20} {size:>4}: signal sent {} ms (aim 0.5: {}), {aim}", kind.name(), ms(sent), met(sent <= 0.5));
    }
    println!();
    beats::measure(&place, rounds)?;
    cancel::measure(rounds.div_ceil(SELDOM))?;
    claude::measure(if is_bench() { rounds.div_ceil(SELDOM) } else { 0 })
}

/// Whether a session gets a cgroup of its own here.
pub(crate) fn has_cgroup() -> bool {
    sentrely::process::Cgroup::make("probe").is_some_and(|cgroup| {
        cgroup.remove();
        true
    })
}

fn quantiles(samples: &Samples) -> String {
    format!("{}/{}/{}", ms(samples.p50()), ms(samples.p99()), ms(samples.max()))
}

/// The same processes without sentrely, and the shortest way to end them.
fn floor(place: &Place, kind: Kind, size: usize, times: &mut Samples) -> anyhow::Result<()> {
    let fifo = Fifo::make(place)?;
    let mut command = place.command("sh");
    command.args(["-c", &kind.script(size, &fifo.path)]).process_group(0);
    let running = Running::start(command)?;
    fifo.wait_for(size)?;
    std::thread::sleep(SETTLE);
    let signal = if kind.is_hard() { Signal::SIGKILL } else { Signal::SIGTERM };
    let group = Pid::from_raw(running.pid()?);
    let apart = if kind.is_apart() { children(group)? } else { Vec::new() };
    let begin = Instant::now();
    for pid in apart {
        kill(pid, signal)?;
    }
    killpg(group, signal)?;
    fifo.wait_for_end()?;
    times.add(begin.elapsed());
    running.reap()
}

/// A session of them, killed by its kill file.
fn session(place: &Place, kind: Kind, size: usize, times: &mut Times) -> anyhow::Result<()> {
    place.forget();
    let fifo = Fifo::make(place)?;
    let script = kind.script(size, &fifo.path);
    let mut command = place.run("none", &["sh".as_ref(), "-c".as_ref(), script.as_ref()]);
    if !kind.has_cgroup() {
        command.env("SENTRELY_TEST_HIDE", "cgroups");
    }
    let running = Running::start(command)?;
    fifo.wait_for(size)?;
    std::thread::sleep(SETTLE);
    let sessions = place.sessions()?;
    let [dir] = sessions.as_slice() else { bail!("{} sessions instead of one", sessions.len()) };
    let request = KillRequest { now: kind.is_hard(), ..KillRequest::default() };

    let (begin, begin_wall) = (Instant::now(), SystemTime::now());
    kill_file::write(&dir.join(kill_file::FILE_NAME), &request)?;
    fifo.wait_for_end()?;
    times.gone.add(begin.elapsed());
    running.reap()?;
    times.over.add(begin.elapsed());

    let journal = place.journal()?;
    let acted = after(begin_wall, asked_at(&journal)?).as_secs_f64() * 1_000.0;
    times.gate.add_ms(acted + stage(&journal, "gate_closed")?);
    times.signalled.add_ms(acted + stage(&journal, "signal_sent")?);
    check_all_ended(&journal, size)
}

/// When the supervisor took the kill.
fn asked_at(journal: &[Record]) -> anyhow::Result<SystemTime> {
    let asked = journal.iter().find(|record| matches!(&record.event, Event::StopRequested { reason: StopReason::Killed, .. }));
    Ok(asked.context("the journal knows of no kill")?.at.into())
}

/// What the journal says of a stage, in milliseconds since the supervisor took the kill.
fn stage(journal: &[Record], name: &str) -> anyhow::Result<f64> {
    let found = journal.iter().find_map(|record| match &record.event {
        Event::Stage { stage, ms } if stage == name => Some(*ms),
        _ => None,
    });
    found.with_context(|| format!("the journal has no stage {name}"))
}

fn check_all_ended(journal: &[Record], size: usize) -> anyhow::Result<()> {
    match journal.iter().rev().find_map(|record| match &record.event {
        Event::AttemptEnded { processes_ended, survivors, .. } => Some((*processes_ended, survivors)),
        _ => None,
    }) {
        Some((ended, survivors)) if ended as usize >= size && survivors.is_empty() => Ok(()),
        ended => bail!("of {size} processes the journal says {ended:?}"),
    }
}

/// What all processes hold open.
struct Fifo {
    path: PathBuf,
    end: File,
}

impl Fifo {
    fn make(place: &Place) -> anyhow::Result<Self> {
        Self::make_at(place.work().join("fifo"))
    }

    fn make_at(path: PathBuf) -> anyhow::Result<Self> {
        let _ = fs::remove_file(&path);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU)?;
        let end = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path)?;
        Ok(Self { path, end })
    }

    /// Until so many processes have said that they are there.
    fn wait_for(&self, count: usize) -> anyhow::Result<()> {
        self.wait_within(count, DEADLINE)
    }

    /// The same for processes that take longer.
    pub(crate) fn wait_within(&self, mut count: usize, patience: Duration) -> anyhow::Result<()> {
        while count > 0 {
            count = count.saturating_sub(self.read("the processes to start", patience)?.context("they ended before they were killed")?);
        }
        Ok(())
    }

    /// Until nobody holds it any more.
    fn wait_for_end(&self) -> anyhow::Result<()> {
        while self.read("the last process to go", DEADLINE)?.is_some() {}
        Ok(())
    }

    /// How many bytes came; `None` at the end.
    fn read(&self, wanted: &str, patience: Duration) -> anyhow::Result<Option<usize>> {
        let begin = Instant::now();
        loop {
            let mut ready = [PollFd::new(self.end.as_fd(), PollFlags::POLLIN)];
            if begin.elapsed() > patience || poll(&mut ready, PollTimeout::try_from(patience)?)? == 0 {
                bail!("waited {} s for {wanted}", patience.as_secs());
            }
            let mut bytes = [0; 256];
            match (&self.end).read(&mut bytes) {
                // Before the first writer there is no POLLHUP, so this is the end and not the beginning.
                Ok(0) => return Ok(None),
                Ok(count) => return Ok(Some(count)),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// A program of which nothing is left when this is dropped.
struct Running(Option<Child>);

impl Running {
    fn start(mut command: Command) -> anyhow::Result<Self> {
        Ok(Self(Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)))
    }

    fn pid(&self) -> anyhow::Result<i32> {
        Ok(self.0.as_ref().context("it is over")?.id().try_into()?)
    }

    /// Waits for it, and for the orphans it left to us.
    fn reap(mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.0.take() {
            child.wait()?;
        }
        loop {
            match waitpid(None, None) {
                Err(Errno::ECHILD) => return Ok(()),
                Err(error) => return Err(error.into()),
                Ok(_) => {}
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Only after a failure: sentrely's guardian ends its session on SIGTERM, and what comes to us is killed.
        let Some(child) = self.0.take() else { return };
        let Ok(pid) = i32::try_from(child.id()).map(Pid::from_raw) else { return };
        let _ = kill(pid, Signal::SIGTERM);
        let _ = killpg(pid, Signal::SIGKILL);
        let begin = Instant::now();
        while begin.elapsed() < DEADLINE {
            for pid in children(Pid::this()).unwrap_or_default() {
                if begin.elapsed() > DEADLINE / 2 || pid != Pid::from_raw(child.id().cast_signed()) {
                    let _ = kill(pid, Signal::SIGKILL);
                }
            }
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Err(_) => return,
                Ok(WaitStatus::StillAlive) => std::thread::sleep(Duration::from_millis(1)),
                Ok(_) => {}
            }
        }
    }
}

/// The children of a process's main thread.
fn children(of: Pid) -> anyhow::Result<Vec<Pid>> {
    let text = fs::read_to_string(format!("/proc/{of}/task/{of}/children"))?;
    text.split_ascii_whitespace().map(|pid| Ok(Pid::from_raw(pid.parse()?))).collect()
}
