//! Limits that sessions share: who is stopped by them, what is said of them, and that they hold whatever is killed when.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sentrely::meter::ledger::{Ledger, Member};
use sentrely::model::{Period, Scope, SessionId, Share, Usd, utc_day};
use sentrely::simulated::{Answer, Upstream};
use sentrely::store::{StateDir, read_ledger};
use serde_json::{Value, json};

use crate::crash::{Dice, seed};
use crate::support::components::PYTHON;
use crate::support::env::TestEnv;
use crate::support::namespace;
use crate::support::proxy::{Generated, Told, Truth, kinds, truthful};
use crate::support::run::{Output, is_alive, wait_until};

const SOON: Duration = Duration::from_mins(1);
const DEVELOPER: &str = "dev@example.com";

/// Says which session it is, asks so many times, and ends with the first refusal.
const AGENT: &str = r#"
import http.client, json, os, sys, urllib.error, urllib.request
print(os.environ["SENTRELY_RUN_ID"], flush=True)
for turn in range(int(sys.argv[1])):
    body = {"model": "claude-opus-5-5", "max_tokens": 1000, "stream": sys.argv[2] == "stream", "messages": [{"role": "user", "content": f"turn {turn}"}]}
    headers = {"x-api-key": "sk-ant-test", "anthropic-version": "2023-06-01", "content-type": "application/json"}
    request = urllib.request.Request(os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request) as answer:
            answer.read()
        print("ok", flush=True)
    except urllib.error.HTTPError as error:
        print(error.code, json.load(error)["error"]["message"], flush=True)
        break
    except (OSError, http.client.HTTPException):
        break
"#;

/// A world in which this stands in the user's configuration.
fn world(config: &str) -> TestEnv {
    let env = TestEnv::new();
    let folder = env.home().join(".config/sentrely");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("config.toml"), config).unwrap();
    env
}

fn configure(env: &TestEnv, config: &str) {
    fs::write(env.home().join(".config/sentrely/config.toml"), config).unwrap();
}

/// Runs the agent for so many turns, in a folder of its own.
fn turns(env: &TestEnv, upstream: &Upstream, flags: &[&str], turns: &str) -> Output {
    let run = ["run", "--workspace", "none", "--wall", "off", "--budget", "100usd"];
    let args: Vec<&str> = run.iter().chain(flags).copied().chain(["--", "python3", "-c", AGENT, turns, "whole"]).collect();
    env.sentrely(&args).upstream(upstream).run()
}

fn ledger_of(env: &TestEnv) -> Ledger {
    read_ledger(&StateDir::open(&env.state_dir()).unwrap(), utc_day(Timestamp::now())).unwrap()
}

/// What the developer's sessions have spent this month, as the ledger says.
fn booked(env: &TestEnv) -> Usd {
    let member = Member { session: SessionId::new(), developer: DEVELOPER.into(), project: String::new(), host: String::new() };
    ledger_of(env).spent(&member, Share { scope: Scope::Developer, period: Period::Month }, utc_day(Timestamp::now()))
}

/// What all sessions have cost, as their own records say.
fn cost(env: &TestEnv) -> Usd {
    let all = env.ls_json();
    all["sessions"].as_array().unwrap().iter().map(|session| session["cost_usd"].as_str().unwrap().parse::<Usd>().unwrap()).sum()
}

fn shared(budgets: &Value) -> Vec<Value> {
    budgets.as_array().unwrap().iter().filter(|budget| budget.get("shared").is_some()).cloned().collect()
}

#[test]
fn a_limit_of_the_developers_day_stops_the_session_that_meets_it_and_starts_no_other() {
    crate::needs!(PYTHON);
    let env = world("[budget.day]\ndeveloper = '1usd'\n");
    let upstream = Upstream::start_on_thread(Answer::turn("0.30".parse().unwrap())).unwrap();
    let first = turns(&env, &upstream, &[], "2").success();
    assert!(first.stderr.contains("budget    $100.00; shared: $0.00 of the developer's $1.00 a day"), "{}", first.stderr);
    assert!(first.stderr.contains("50 % of the budget is used: $0.60 of the developer's $1.00 a day"), "{}", first.stderr);

    let second = turns(&env, &upstream, &[], "3");
    assert!(second.stderr.contains("shared: $0.60 of the developer's $1.00 a day"), "{}", second.stderr);
    let refused = "the developer's limit of $1.00 a day does not cover this request: $0.90 spent or held; it is free again on ";
    assert!(second.stdout.contains(&format!("402 sentrely: {refused}")), "{}", second.stdout);
    assert_eq!(second.code(), 121, "{}", second.stderr);
    assert!(second.stderr.contains(&format!("stopped at its budget: {refused}")), "{}", second.stderr);
    assert_eq!(upstream.messages().len(), 3);

    let id = second.stdout.lines().next().unwrap().to_owned();
    let thresholds = env.events(&id, "threshold");
    let day = json!({"scope": "developer", "period": "day"});
    let told: Vec<_> = thresholds.iter().map(|event| (event["percent"].clone(), event["shared"].clone())).collect();
    assert_eq!(told, [(json!(80), day.clone())], "what was passed before is not told again");
    let sessions = env.ls_json();
    let session = sessions["sessions"].as_array().unwrap().iter().find(|session| session["id"] == id.as_str()).unwrap().clone();
    assert_eq!(shared(&session["budgets"]), [json!({"kind": "usd", "limit": "1", "used": "0.9", "percent": 90, "shared": day})]);
    for (command, line) in
        [("show", "budget      $0.90 of the developer's $1.00 a day (90%)"), ("budget", "$0.90 of the developer's $1.00 a day (90 %)")]
    {
        let shown = env.sentrely(&[command, &id[..8]]).run().success();
        assert!(shown.stdout.contains(line), "{}", shown.stdout);
    }
    let log = env.sentrely(&["log", &id[..8]]).run().success();
    assert!(log.stdout.contains("shared limits: $0.90 of the developer's $1.00 a day"), "{}", log.stdout);
    assert!(log.stdout.contains("80% of the limit of the developer a day used"), "{}", log.stdout);

    // Somebody else has a day of their own, and the third turn passes what is left of the developer's.
    let other = turns(&env, &upstream, &["--developer", "bea"], "1").success();
    assert!(other.stderr.contains("shared: $0.00 of the developer's $1.00 a day"), "{}", other.stderr);
    let third = turns(&env, &upstream, &[], "1");
    assert_eq!(third.code(), 121, "{}", third.stderr);
    assert!(third.stderr.contains("the developer's limit of $1.00 a day is used up: $1.20 spent"), "{}", third.stderr);
    let sessions = env.sessions().len();
    let fourth = turns(&env, &upstream, &[], "1");
    assert_eq!((fourth.code(), env.sessions().len()), (121, sessions), "{}", fourth.stderr);
    let words = "start a session: the developer's limit of $1.00 a day is used up: $1.20 spent or held; it is free again on ";
    assert!(
        fourth.stderr.contains(words) && fourth.stderr.contains("hint: `sentrely config` shows where budget.day is set"),
        "{}",
        fourth.stderr
    );
    assert_eq!((booked(&env), cost(&env)), ("1.2".parse().unwrap(), "1.5".parse().unwrap()));
}

#[test]
fn a_limit_that_is_configured_later_knows_what_was_spent_before_and_without_one_there_is_no_ledger() {
    crate::needs!(PYTHON);
    let env = world("");
    let upstream = Upstream::start_on_thread(Answer::turn("0.30".parse().unwrap())).unwrap();
    let before = turns(&env, &upstream, &[], "2").success();
    assert!(!before.stderr.contains("shared"), "{}", before.stderr);
    let ledgers = || {
        fs::read_dir(env.state_dir())
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with("ledger-"))
            .count()
    };
    assert_eq!(ledgers(), 0);
    configure(&env, "[budget.month]\nproject = '5usd'\nmachine = '9usd'\n");
    let dry = turns(&env, &upstream, &["--dry-run"], "1").success();
    assert!(dry.stderr.contains("shared: $0.60 of the project's $5.00 a month, $0.60 of the machine's $9.00 a month"), "{}", dry.stderr);
    assert_eq!(ledgers(), 0, "a dry run writes nothing");
    let _ = turns(&env, &upstream, &[], "1").success();
    assert_eq!((ledgers(), booked(&env)), (1, "0.9".parse().unwrap()));
    // From then on sessions without a limit count when they end.
    configure(&env, "");
    let _ = turns(&env, &upstream, &[], "1").success();
    assert_eq!(booked(&env), "1.2".parse().unwrap());
}

#[test]
fn a_session_that_only_refuses_is_told_once_and_its_own_budget_raises_no_shared_limit() {
    crate::needs!(PYTHON);
    let env = world("[budget.day]\nmachine = '0.5usd'\n");
    let upstream = Upstream::start_on_thread(Answer::turn("0.30".parse().unwrap())).unwrap();
    let gate = env.root().join("gate");
    let agent = AGENT.replace(
        "        break\n    except (OSError",
        &format!("        while not os.path.exists('{}'): pass\n    except (OSError", gate.display()),
    );
    let args = [
        "run",
        "--workspace",
        "none",
        "--wall",
        "off",
        "--budget",
        "1usd",
        "--on-budget",
        "refuse",
        "--",
        "python3",
        "-c",
        &agent,
        "3",
        "whole",
    ];
    let run = env.sentrely(&args).upstream(&upstream).spawn();
    wait_until(SOON, "a refusal", || run.stdout().contains("402 sentrely: the machine's limit of $0.50 a day"));
    let id = env.the_session();
    let raised = env.sentrely(&["budget", &id[..8], "+5usd"]).run().success();
    assert!(
        raised.stdout.contains("$0.30 of $6.00") && raised.stdout.contains("$0.30 of the machine's $0.50 a day (60 %)"),
        "{}",
        raised.stdout
    );
    fs::write(&gate, "").unwrap();
    let output = run.wait(SOON).success();
    assert_eq!(output.stdout.lines().filter(|line| line.starts_with("402")).count(), 2, "{}", output.stdout);
    let told: Vec<_> = env.events(&id, "threshold").iter().map(|event| event["percent"].clone()).collect();
    assert_eq!(told, [50, 100]);
    assert_eq!(upstream.messages().len(), 1);
}

/// The ledger alone is on a file system of its own, which fills up while a session runs.
#[test]
fn a_session_whose_ledger_cannot_grow_is_stopped_before_the_request_that_it_does_not_hold() {
    crate::needs!(PYTHON);
    if !namespace::entered(module_path!(), "a_session_whose_ledger_cannot_grow_is_stopped_before_the_request_that_it_does_not_hold") {
        return;
    }
    let env = world("[budget.day]\ndeveloper = '100usd'\n");
    let upstream = Upstream::start_on_thread(Answer::turn("0.001".parse().unwrap())).unwrap();
    // The control: with room for it all requests pass.
    let _ = turns(&env, &upstream, &[], "30").success();
    assert_eq!(upstream.messages().len(), 30);
    let before = booked(&env);

    let of_ledger = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with("ledger-");
    let ledger = fs::read_dir(env.state_dir()).unwrap().map(Result::unwrap).find(of_ledger).unwrap().path();
    let full = env.home().join("full");
    fs::create_dir(&full).unwrap();
    namespace::command("mount", &["-t", "tmpfs", "-o", "size=64k", "tmpfs", full.to_str().unwrap()]);
    fs::copy(&ledger, full.join("ledger")).unwrap();
    while fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(full.join("filler"))
        .unwrap()
        .write(&[0; 4096])
        .is_ok_and(|written| written > 0)
    {}
    namespace::command("mount", &["--bind", full.join("ledger").to_str().unwrap(), ledger.to_str().unwrap()]);
    // What is left is the rest of the ledger's last page: some requests still fit.
    let output = turns(&env, &upstream, &[], "400");
    assert_eq!(output.code(), 125, "{}", output.stderr);
    let said = output.stderr.lines().find(|line| line.contains("shared ledger"));
    assert!(said.is_some_and(|line| line.contains("No space left on device")), "{}", output.stderr);
    let paid = upstream.messages().len() - 30;
    assert!(paid < 30, "{paid}");
    assert!(env.processes().is_empty());

    // With room again nothing that was spent is missing in it.
    fs::remove_file(full.join("filler")).unwrap();
    let _ = turns(&env, &upstream, &[], "1").success();
    assert_eq!(booked(&env), cost(&env));
    assert!(booked(&env) > before);
}

#[test]
fn a_ledger_that_cannot_be_read_starts_nothing_and_stops_what_runs() {
    crate::needs!(PYTHON);
    let env = world("[budget.day]\ndeveloper = '9usd'\n");
    let upstream = Upstream::start_on_thread(Answer::turn("0.30".parse().unwrap())).unwrap();
    let ledger = env.state_dir().join(utc_day(Timestamp::now()).strftime("ledger-%Y-%m.jsonl").to_string());
    let agent = format!(
        "import os\n{}",
        AGENT.replace("        print(\"ok\", flush=True)\n", &format!("        open('{}', 'a').write('noise\\n')\n", ledger.display()))
    );
    let args = ["run", "--workspace", "none", "--wall", "off", "--", "python3", "-c", &agent, "2", "whole"];
    let spoilt = env.sentrely(&args).upstream(&upstream).run();
    assert_eq!(spoilt.code(), 125, "{}{}", spoilt.stdout, spoilt.stderr);
    let words = format!("failed to read the shared ledger {}: line ", ledger.display());
    assert!(
        spoilt.stderr.contains(&format!("stopped: its records could not be written: the ledger of shared limits: {words}")),
        "{}",
        spoilt.stderr
    );
    assert_eq!(upstream.messages().len(), 1);
    let sessions = env.sessions().len();
    let next = turns(&env, &upstream, &[], "1");
    assert_eq!((next.code(), env.sessions().len()), (125, sessions), "{}", next.stderr);
    assert!(
        next.stderr.contains(&words) && next.stderr.contains("hint: a newer sentrely may have written it; moved away (mv "),
        "{}",
        next.stderr
    );
    // As the hint says: made anew from the journals.
    fs::rename(&ledger, env.root().join("old")).unwrap();
    let _ = turns(&env, &upstream, &[], "1").success();
    assert_eq!(booked(&env), "0.6".parse().unwrap());
}

/// What became of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Ended,
    Killed,
    Stopped,
    NotStarted,
}

/// Starts the agent, or goes on with a session, and kills it or lets it be.
fn one(env: &TestEnv, upstream: &str, resume: Option<&str>, dice: &mut Dice) -> (Fate, Option<String>) {
    let mut args = vec!["run", "--workspace", "none", "--wall", "off", "--budget", "100usd"];
    args.extend(resume.map(|id| ["--resume", id]).into_iter().flatten());
    args.extend(["--", "python3", "-c", AGENT, "8", "stream"]);
    let mut run = env.sentrely(&args).var("ANTHROPIC_BASE_URL", upstream).var("ANTHROPIC_API_KEY", "sk-ant-test").spawn();
    wait_until(SOON, "the session or its end", || !run.is_running() || run.stdout().contains('\n'));
    let id = run.stdout().lines().next().map(str::to_owned);
    let Some(id) = id.filter(|_| dice.roll(2) == 0) else {
        let known = run.stdout().lines().next().map(str::to_owned);
        let output = run.wait(SOON);
        let fate = match (output.code(), &known) {
            (121, None) => Fate::NotStarted,
            (121, Some(_)) => Fate::Stopped,
            (0, _) => Fate::Ended,
            // Another start is clearing up after it just now.
            (125, None) if output.stderr.contains("it is still running") => return one(env, upstream, resume, dice),
            (code, _) => panic!("exit {code}: {}", output.stderr),
        };
        return (fate, known);
    };
    std::thread::sleep(Duration::from_micros(dice.roll(200_000)));
    let attempts = env.events(&id, "attempt_started");
    let supervisor = i32::try_from(attempts.last().unwrap()["pid"].as_i64().unwrap()).unwrap();
    let guardian = run.pid();
    // The guardian closes the record of a supervisor that died, whoever comes next that of both.
    let victims = if dice.roll(2) == 0 { vec![supervisor] } else { vec![guardian, supervisor] };
    for pid in victims {
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    wait_until(SOON, "the end of both", || !run.is_running() && !is_alive(supervisor));
    env.wait_until_nobody_holds(&id);
    (Fate::Killed, Some(id))
}

/// Forty of them, four at a time, against one limit.
#[tokio::test]
async fn forty_sessions_killed_and_repeated_at_random_keep_a_shared_limit() {
    const SESSIONS: usize = 40;
    const AT_ONCE: usize = 4;
    crate::needs!(PYTHON);
    let limit: Usd = "0.80".parse().unwrap();
    let dice = Dice(seed());
    let truth = Arc::new(Truth::default());
    let upstream = truthful(&truth, |number, body| {
        let mut dice = Dice(number as u64 * 31 + body.len() as u64);
        let kinds = kinds();
        let kind = &kinds[number % kinds.len()];
        let size = 100 + usize::try_from(dice.roll(700)).unwrap();
        let pieces = kind.pieces(size, 20 + usize::try_from(dice.roll(60)).unwrap());
        Generated {
            prompt: body.len() as u64 / (1 + dice.roll(4)),
            pieces,
            pace: Duration::from_micros(dice.roll(3) * 700),
            ..Generated::default()
        }
    })
    .await;
    let (env, fates) = tokio::task::spawn_blocking(move || {
        let env = world(&format!("[budget.day]\ndeveloper = '{limit}usd'\n[budget.month]\nmachine = '90usd'\n"));
        let number = AtomicUsize::new(0);
        let worker = |mut dice: Dice| {
            let (mut fates, mut resume) = (Vec::new(), None);
            while number.fetch_add(1, Ordering::Relaxed) < SESSIONS {
                let (fate, id) = one(&env, &upstream, resume.as_deref(), &mut dice);
                fates.push(fate);
                // Half of those that crashed go on.
                resume = id.filter(|_| fate == Fate::Killed && dice.roll(2) == 0);
            }
            fates
        };
        let mut dice = dice;
        let fates: Vec<Fate> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..AT_ONCE)
                .map(|_| {
                    let dice = Dice(dice.roll(u64::MAX));
                    scope.spawn(|| worker(dice))
                })
                .collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
        });
        // What died last is cleared up after, and booked.
        let _ = env.sentrely(&["finish"]).run();
        (env, fates)
    })
    .await
    .unwrap();
    check(&env, &truth, limit, &fates);
}

#[expect(clippy::print_stdout, reason = "the numbers of a run, with --nocapture")]
fn check(env: &TestEnv, truth: &Truth, limit: Usd, fates: &[Fate]) {
    let count = |fate: Fate| fates.iter().filter(|known| **known == fate).count();
    let (killed, stopped) = (count(Fate::Killed), count(Fate::Stopped) + count(Fate::NotStarted));
    let (told, booked, cost) = (truth.cost(), booked(env), cost(env));
    let told_all: Vec<Told> = truth.all();
    let story = format!("{told} of {limit} spent, {booked} booked, {} requests, {fates:?}", told_all.len());
    println!("{story}");
    assert_eq!(booked, cost, "the ledger is the sum of the journals: {story}");
    assert_eq!(ledger_of(env).holders(), [], "{story}");
    // What a cut answer had on its way to us nobody saw.
    let unseen = Usd::from_pico(20_000_000_000);
    assert!(booked + unseen >= told, "{story}");
    let allowed = limit + Usd::from_pico(limit.pico() / 100).max("0.01".parse().unwrap());
    assert!(told <= allowed, "{story}");
    // A crash books what its request could have cost at most: its thousand tokens and a prompt of a byte a token.
    let ceilings = Usd::from_pico(21_000_000_000).times(killed as u64);
    assert!(booked <= allowed + ceilings, "{story}");
    assert!(killed > 0 && stopped > 0, "{story}");
    assert!(is_whole(&env.state_dir()), "{story}");
}

/// Every line of the ledger can be read.
fn is_whole(state: &Path) -> bool {
    let month = utc_day(Timestamp::now()).strftime("ledger-%Y-%m.jsonl").to_string();
    let text = fs::read_to_string(state.join(month)).unwrap();
    text.ends_with('\n') && text.lines().all(|line| serde_json::from_str::<Value>(line).is_ok())
}
