//! What a working copy costs: the session's own clone, clean and with uncommitted work brought along, against `git worktree add` of the
//! same commit, in repositories of 1,000, 20,000 and 50,000 files. And what it costs to look for work in it, every few minutes: with nothing
//! changed, and with 40 files changed or new, against `git status` there.
//!
//! `cargo bench --bench workspace [-- ROUNDS]`. The variants take turns within each round; CPU is that of this process and of every git that
//! it started, user and system time together.
//!
//! Nothing is removed before the end: for minutes ext4 passes over each inode that was freed (`recently_deleted`, 60 to 300 s), and whoever
//! makes files after a large removal pays for it (measured: 11 s instead of 0.5 s for 20,000 files, nearly all of it there).

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

mod cost;
#[expect(dead_code, reason = "shared with the other benches")]
mod support;

use std::fs;
use std::path::Path;

use anyhow::ensure;
use sentrely::git::{Bring, Checkout, CloneRequest, GitEnv, collect, create_clone};
use sentrely::model::SessionId;

use cost::Cost;
use support::{Place, Table, is_bench, ms, print_machine};

const ROUNDS: usize = 7;
const SIZES: [usize; 3] = [1_000, 20_000, 50_000];
const IN_A_FOLDER: usize = 100;
/// Files changed, and as many new ones, where uncommitted work comes along.
const CHANGED: usize = 20;

fn main() -> anyhow::Result<()> {
    let rounds = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(if is_bench() { ROUNDS } else { 1 });
    print_machine("workspace");
    let sizes = if is_bench() { &SIZES[..] } else { &SIZES[..1] };
    let mut table = Table::new(&["files", "what", "CPU p50 ms", "to git worktree add", "wall p50 ms"]);
    let mut looks = Table::new(&["files", "what", "CPU p50 ms", "to git status", "wall p50 ms"]);
    let mut places = Vec::new();
    for &files in sizes {
        let place = Place::new()?;
        let repository = place.work().join("shop");
        let git = |args: &[&str]| -> anyhow::Result<()> {
            let mut command = place.command("git");
            // No collection of git's own beside what is measured, or in the way of ours.
            command
                .current_dir(&repository)
                .args(["-c", "user.name=Bench", "-c", "user.email=bench@example.com", "-c", "gc.auto=0"])
                .args(args);
            ensure!(command.status()?.success(), "git {args:?} failed");
            Ok(())
        };
        fill(&repository, files)?;
        git(&["init", "--quiet", "-b", "main"])?;
        git(&["add", "--all"])?;
        git(&["commit", "--quiet", "-m", "Begin"])?;
        git(&["gc", "--quiet"])?;
        let home = place.work().with_file_name("home");
        let vars = [("PATH".into(), std::env::var_os("PATH").unwrap_or_default()), ("HOME".into(), home.into_os_string())];
        let env = GitEnv::from_vars(vars);
        let (mut worktree, mut clean, mut dirty) = (Cost::default(), Cost::default(), Cost::default());
        let (mut status, mut first, mut nothing, mut work) = (Cost::default(), Cost::default(), Cost::default(), Cost::default());
        for round in 0..rounds {
            let tree = place.work().join(format!("tree-{round}"));
            worktree.measure(|| git(&["worktree", "add", "--quiet", "--detach", &tree.to_string_lossy(), "main"]))?;
            let clone = |cost: &mut Cost, uncommitted: bool| {
                let session = SessionId::new();
                let dir = place.work().join(session.to_string());
                fs::create_dir(&dir)?;
                cost.measure(|| {
                    let checkout = Checkout::discover_with(&repository, env.clone())?;
                    let branch = format!("sentrely/bench/{session}");
                    let bring = Bring { uncommitted, ..Bring::default() };
                    let request = CloneRequest { dir: &dir, branch: &branch, base: None, gate_url: None, bring, session };
                    ensure!(create_clone(&checkout, &request)?.root.join("folder-0/file-1").is_file());
                    Ok(())
                })?;
                anyhow::Ok(())
            };
            clone(&mut clean, true)?;
            let session = SessionId::new();
            let dir = place.work().join(session.to_string());
            fs::create_dir(&dir)?;
            let checkout = Checkout::discover_with(&repository, env.clone())?;
            let branch = format!("sentrely/bench/{session}");
            let request = CloneRequest {
                dir: &dir,
                branch: &branch,
                base: None,
                gate_url: None,
                bring: Bring { uncommitted: true, ..Bring::default() },
                session,
            };
            let workspace = create_clone(&checkout, &request)?;
            status.measure(|| {
                let mut command = place.command("git");
                ensure!(command.current_dir(&workspace.root).args(["status", "--porcelain"]).output()?.stdout.is_empty());
                Ok(())
            })?;
            // Its repository is opened, and links to the clone's objects are made.
            first.measure(|| collect(&checkout, &workspace, Some("WIP")).map(drop).map_err(Into::into))?;
            nothing.measure(|| {
                ensure!(collect(&checkout, &workspace, Some("WIP"))?.unchanged);
                Ok(())
            })?;
            change(&workspace.root, files, round)?;
            work.measure(|| {
                ensure!(collect(&checkout, &workspace, Some("WIP"))?.wip);
                Ok(())
            })?;
            change(&repository, files, round)?;
            clone(&mut dirty, true)?;
            git(&["reset", "--quiet", "--hard"])?;
            git(&["clean", "--quiet", "-fd"])?;
        }
        for (what, cost) in [("git worktree add", &worktree), ("the session's clone", &clean), ("with 40 uncommitted files", &dirty)] {
            let ratio = format!("{:.2}x", cost.cpu.p50() / worktree.cpu.p50());
            table.row(vec![files.to_string(), what.to_owned(), ms(cost.cpu.p50()), ratio, ms(cost.wall.p50())]);
        }
        for (what, cost) in [
            ("git status", &status),
            ("the first look for work", &first),
            ("a look for work: none", &nothing),
            ("a look for work: 40 files", &work),
        ] {
            let ratio = format!("{:.2}x", cost.cpu.p50() / status.cpu.p50());
            looks.row(vec![files.to_string(), what.to_owned(), ms(cost.cpu.p50()), ratio, ms(cost.wall.p50())]);
        }
        places.push(place);
    }
    drop(places);
    println!("{rounds} rounds\n");
    table.print();
    looks.print();
    Ok(())
}

/// Changes files, and makes as many new ones.
fn change(root: &Path, files: usize, round: usize) -> anyhow::Result<()> {
    for n in 0..CHANGED {
        fs::write(root.join(format!("folder-{}/file-{n}", n % (files / IN_A_FOLDER))), format!("changed {round}\n"))?;
        fs::write(root.join(format!("new-{n}")), "new\n")?;
    }
    Ok(())
}

/// Files of half a kilobyte to four, a hundred to a folder.
fn fill(repository: &Path, files: usize) -> anyhow::Result<()> {
    for n in 0..files {
        let folder = repository.join(format!("folder-{}", n / IN_A_FOLDER));
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(format!("file-{}", n % IN_A_FOLDER)), format!("line {n} of a file\n").repeat(30 + n % 200))?;
    }
    Ok(())
}
