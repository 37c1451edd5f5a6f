//! How CI's cancel ends a session: GitHub's runner sends SIGINT to the process that it started, 7.5 s later SIGTERM, and 2.5 s later it kills.
//! Measured from the SIGINT, for a command that ignores what asks it to end and has changed a file of its clone: until its last process is
//! gone (aim 2 s) and until the work is saved in the developer's repository (aim 7 s).

use std::fs;
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sentrely::model::{Event, Record, StopReason};

use crate::support::{Place, Samples, Table, after};
use crate::{Fifo, Running, SETTLE, quantiles, stage};

pub(crate) fn measure(rounds: usize) -> anyhow::Result<()> {
    let (mut gone, mut saved) = (Samples::default(), Samples::default());
    for _ in 0..rounds {
        round(&mut gone, &mut saved)?;
    }
    println!("CI's cancel (SIGINT) of a command that ignores it, signal sent until ..., ms, p50/p99/max");
    let mut table = Table::new(&["", "cancels", "last process gone", "work saved"]);
    table.row(vec!["in a clone".to_owned(), gone.count().to_string(), quantiles(&gone), quantiles(&saved)]);
    table.print();
    let met = |met: bool| if met { "met" } else { "NOT met" };
    println!("gone in 2 s: {}, saved in 7 s: {}\n", met(gone.max() <= 2_000.0), met(saved.max() <= 7_000.0));
    Ok(())
}

fn round(gone: &mut Samples, saved: &mut Samples) -> anyhow::Result<()> {
    let place = Place::new()?;
    repository(&place)?;
    // Outside the clone, and not in the checkout's way.
    let fifo = Fifo::make_at(place.work().join("../fifo"))?;
    let script = format!(
        "trap '' TERM INT HUP QUIT; echo work > work.txt; exec 3>{}; printf . >&3; sleep 600 & printf . >&3; sleep 600; wait",
        fifo.path.display()
    );
    let running = Running::start(place.run("clone", &["sh".as_ref(), "-c".as_ref(), script.as_ref()]))?;
    fifo.wait_for(2)?;
    std::thread::sleep(SETTLE);
    let sent = SystemTime::now();
    kill(Pid::from_raw(running.pid()?), Signal::SIGINT)?;
    fifo.wait_for_end()?;
    running.reap()?;
    let journal = place.journal()?;
    let acted = after(sent, cancelled_at(&journal)?).as_secs_f64() * 1_000.0;
    gone.add_ms(acted + stage(&journal, "last_process_gone")?);
    saved.add_ms(acted + stage(&journal, "work_saved")?);
    Ok(())
}

/// A repository of one commit, and a person.
fn repository(place: &Place) -> anyhow::Result<()> {
    fs::write(place.work().join("file"), "text\n")?;
    for words in [
        &["init", "-q", "-b", "main"][..],
        &["config", "user.name", "Bench"],
        &["config", "user.email", "bench@example.com"],
        &["add", "file"],
        &["commit", "-q", "-m", "base"],
    ] {
        if !place.command("git").args(words).status()?.success() {
            bail!("git {} failed", words.join(" "));
        }
    }
    Ok(())
}

/// When the supervisor took the signal.
fn cancelled_at(journal: &[Record]) -> anyhow::Result<SystemTime> {
    let asked = journal.iter().find(|record| matches!(&record.event, Event::StopRequested { reason: StopReason::Terminated, .. }));
    Ok(asked.context("the journal knows of no signal")?.at.into())
}
