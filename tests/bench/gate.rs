//! What a push costs through the gate, against a direct one of the same commits to the same kind of remote: a bare repository on this disk.
//!
//! `cargo bench --bench gate [-- ROUNDS]`. The two take turns; CPU is that of this process, in which the gate is served, and of every git that
//! either started, user and system time together. A small push is one commit of one line, a large one brings four megabytes that do not
//! compress.

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

mod cost;
#[expect(dead_code, reason = "shared with the other benches")]
mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use sentrely::git::{Bring, Checkout, CloneRequest, Gate, GateConfig, GitEnv, Protected, create_clone};
use sentrely::model::SessionId;

use cost::Cost;
use support::{Place, Table, is_bench, ms, print_machine};

const ROUNDS: usize = 15;
const LARGE: usize = 4 * 1024 * 1024;

fn main() -> anyhow::Result<()> {
    let rounds = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(if is_bench() { ROUNDS } else { 1 });
    print_machine("gate");
    let place = Place::new()?;
    let (work, session) = (place.work(), SessionId::new());
    let git = |at: &Path, args: &[&str]| -> anyhow::Result<()> {
        let mut command = place.command("git");
        command.current_dir(at).args(["-c", "user.name=Bench", "-c", "user.email=bench@example.com", "-c", "gc.auto=0"]).args(args);
        ensure!(command.status()?.success(), "git {args:?} failed");
        Ok(())
    };
    for bare in ["gated.git", "direct.git"] {
        git(&work, &["init", "--quiet", "--bare", "-b", "main", bare])?;
    }
    let shop = work.join("shop");
    git(&work, &["init", "--quiet", "-b", "main", "shop"])?;
    fs::write(shop.join("README.md"), "# Shop\n")?;
    git(&shop, &["add", "--all"])?;
    git(&shop, &["commit", "--quiet", "-m", "Begin"])?;
    git(&shop, &["remote", "add", "origin", &work.join("gated.git").to_string_lossy()])?;
    for remote in ["gated.git", "direct.git"] {
        git(&shop, &["push", "--quiet", &work.join(remote).to_string_lossy(), "main"])?;
    }
    git(&work, &["clone", "--quiet", "direct.git", "direct"])?;
    let home = work.with_file_name("home");
    let vars = [("PATH".into(), std::env::var_os("PATH").unwrap_or_default()), ("HOME".into(), home.into_os_string())];
    let checkout = Checkout::discover_with(&shop, GitEnv::from_vars(vars))?;
    let dir = work.join(session.to_string());
    fs::create_dir(&dir)?;
    let branch = format!("sentrely/bench/{session}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (handle, (stop, stopped)) = (runtime.handle().clone(), tokio::sync::oneshot::channel::<()>());
    let serving = std::thread::spawn(move || runtime.block_on(stopped));
    let config = GateConfig {
        nonce: "bench".to_owned(),
        quarantine: dir.join("gate.git"),
        checkout: checkout.clone(),
        upstream: checkout.remote().context("find the remote again")?,
        allowed_branch: branch.clone(),
        protected: Protected::new(vec!["main".to_owned()]),
        held: vec![".github/workflows/**".to_owned()],
        base_commit: checkout.head.commit().map(str::to_owned),
        keep: None,
        force: false,
        on_event: Arc::new(|_| {}),
    };
    let gate = handle.block_on(async { Gate::start(tokio::net::TcpListener::bind("127.0.0.1:0").await?, config) })?;
    let request = CloneRequest { dir: &dir, branch: &branch, base: None, gate_url: Some(gate.url()), bring: Bring::default(), session };
    let clone = create_clone(&checkout, &request)?.root;
    let direct = work.join("direct");
    git(&direct, &["switch", "--quiet", "-c", &branch])?;

    let mut table = Table::new(&["push", "what", "CPU p50 ms", "to direct", "wall p50 ms", "to direct"]);
    for (what, size) in [("one line", 16), ("4 MB", LARGE)] {
        let (mut straight, mut through) = (Cost::default(), Cost::default());
        // The first through a gate makes its repository; every session pays that once.
        for round in 0..=rounds {
            for (at, cost) in [(&direct, &mut straight), (&clone, &mut through)] {
                fs::write(at.join("file"), noise(size, round as u64))?;
                git(at, &["add", "file"])?;
                git(at, &["commit", "--quiet", "-m", "Change"])?;
                let mut discarded = Cost::default();
                let cost = if round == 0 { &mut discarded } else { cost };
                cost.measure(|| git(at, &["push", "--quiet", "origin", "HEAD"]))?;
            }
        }
        for (name, cost) in [("direct", &straight), ("through the gate", &through)] {
            let ratio = |of: f64, to: f64| format!("{:.2}x", of / to);
            table.row(vec![
                what.to_owned(),
                name.to_owned(),
                ms(cost.cpu.p50()),
                ratio(cost.cpu.p50(), straight.cpu.p50()),
                ms(cost.wall.p50()),
                ratio(cost.wall.p50(), straight.wall.p50()),
            ]);
        }
    }
    println!("{rounds} rounds\n");
    table.print();
    handle.block_on(gate.closed());
    drop(stop);
    let _ = serving.join(); // ends with the word that it waits for
    Ok(())
}

/// Bytes that do not compress, others each round (xorshift64).
fn noise(size: usize, round: u64) -> Vec<u8> {
    let mut state = (round + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(size).collect()
}
