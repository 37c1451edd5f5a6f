//! How long after the signal a session still does something: each of its processes writes the time into its own eight bytes of one file, again
//! and again without a pause; after a `kill --now` the newest of them is compared with when the signal was posted.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use sentrely::store::kill_file::{self, KillRequest};

use crate::support::{Place, Samples, Table};
use crate::{DEADLINE, Running, SETTLE, asked_at, has_cgroup, quantiles, stage};

/// How many processes beat.
const MEMBERS: usize = 10;
/// The word that makes this program a member.
const WORD: &str = "--beat";

/// The words after `--beat`, where this process is a member.
pub(crate) fn is_asked_for() -> Option<Vec<String>> {
    let mut words = std::env::args().skip(1);
    (words.next().as_deref() == Some(WORD)).then(|| words.collect())
}

/// `FILE APART`: starts the members, in sessions of their own if `APART` is `yes`, and is the first of them.
pub(crate) fn beat(words: &[String]) -> anyhow::Result<()> {
    let [path, rest @ ..] = words else { bail!("which file?") };
    if let [word, number] = rest
        && word == "member"
    {
        return member(path.into(), number.parse()?);
    }
    for number in 1..MEMBERS {
        let this = std::env::current_exe()?;
        std::process::Command::new("setsid").arg(this).args([WORD, path, "member", &number.to_string()]).spawn()?;
    }
    member(path.into(), 0)
}

fn member(path: PathBuf, number: u64) -> anyhow::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    let end = Instant::now() + DEADLINE;
    while Instant::now() < end {
        file.write_all_at(&now().to_ne_bytes(), number * 8)?;
    }
    Ok(())
}

/// Nanoseconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

pub(crate) fn measure(place: &Place, rounds: usize) -> anyhow::Result<()> {
    println!("Last beat of {MEMBERS} busy processes in sessions of their own after the signal of `kill --now`, ms, p50/p99/max");
    let mut table = Table::new(&["", "kills", "last beat"]);
    for cgroup in [true, false].into_iter().filter(|cgroup| !cgroup || has_cgroup()) {
        let mut samples = Samples::default();
        for _ in 0..rounds {
            samples.add_ms(round(place, cgroup)?);
        }
        let name = if cgroup { "with a cgroup" } else { "without a cgroup" };
        table.row(vec![name.to_owned(), samples.count().to_string(), quantiles(&samples)]);
    }
    table.print();
    Ok(())
}

fn round(place: &Place, cgroup: bool) -> anyhow::Result<f64> {
    place.forget();
    let path = place.work().join("beats");
    fs::write(&path, vec![0; MEMBERS * 8])?;
    let this = std::env::current_exe()?;
    let mut command = place.run("none", &[this.as_ref(), WORD.as_ref(), path.as_ref()]);
    if !cgroup {
        command.env("SENTRELY_TEST_HIDE", "cgroups");
    }
    let running = Running::start(command)?;
    let begin = Instant::now();
    while read(&path)?.contains(&0) {
        if begin.elapsed() > DEADLINE {
            bail!("the members did not start");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    std::thread::sleep(SETTLE);
    let sessions = place.sessions()?;
    let [dir] = sessions.as_slice() else { bail!("{} sessions instead of one", sessions.len()) };
    kill_file::write(&dir.join(kill_file::FILE_NAME), &KillRequest { now: true, ..KillRequest::default() })?;
    running.reap()?;
    let journal = place.journal()?;
    let asked = asked_at(&journal)?.duration_since(UNIX_EPOCH)?.as_secs_f64() * 1_000.0;
    #[expect(clippy::cast_precision_loss, reason = "a quarter of a microsecond is lost")]
    let last = read(&path)?.into_iter().max().context("nobody beat")? as f64 / 1_000_000.0;
    Ok(last - asked - stage(&journal, "signal_sent")?)
}

fn read(path: &std::path::Path) -> anyhow::Result<Vec<u64>> {
    let bytes = fs::read(path)?;
    Ok(bytes.as_chunks::<8>().0.iter().map(|chunk| u64::from_ne_bytes(*chunk)).collect())
}
