//! SIGKILL at random moments, five hundred times: what is booked afterwards is no less than what the upstream reported, and nothing that a
//! client had whole is lost.
//!
//! Most rounds kill a small process that holds meter, journal and proxy alone, because it starts in a few milliseconds; some kill
//! the real `sentrely run`, its supervisor, its guardian or both. Both are loaded from here, over loopback, and both ask the same upstream.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sentrely::meter::price::PriceTable;
use sentrely::meter::{Booked, Meter, Rules, Settlement};
use sentrely::model::{DeveloperSource, Event, Outcome, Record, SessionId, SessionView, StopReason, Usd, Workspace};
use sentrely::proxy::{Credential, Proxy, ProxyConfig, ProxyEnv, ProxyEvent, RefusalStyle, Timeouts, Upstream};
use sentrely::store::{Journal, read_journal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::env::TestEnv;
use crate::support::proxy::{Generated, Kind, Told, Truth, kinds, soon, truthful};
use crate::support::run::{is_alive, wait_for, wait_until};

/// Of the small process and of the real program.
const SMALL_ROUNDS: u64 = 470;
const REAL_ROUNDS: u64 = 30;
const AT_ONCE: usize = 6;
const SOON: Duration = Duration::from_secs(30);
/// What the small process needs to know; its presence makes it one.
const UPSTREAM: &str = "SENTRELY_TEST_CRASH_UPSTREAM";
const JOURNAL: &str = "SENTRELY_TEST_CRASH_JOURNAL";
const TOKEN: &str = "crash";

/// Numbers that look random and come again with the same seed.
#[derive(Clone)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, below: u64) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below
    }
}

/// The seed of this run, from the environment or the clock.
#[expect(clippy::print_stdout, reason = "shown with a failure: the same seed gives the same rounds")]
pub(crate) fn seed() -> u64 {
    let given = std::env::var("SENTRELY_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos().into());
    println!("SENTRELY_TEST_SEED={seed}");
    seed
}

/// What one client has got of its answer.
#[derive(Default, Clone)]
struct Got {
    bytes: Vec<u8>,
}

impl Got {
    /// The answer's body without its framing, as far as it has come.
    fn body(&self) -> String {
        let mut body = Vec::new();
        let mut rest = self.bytes.split_at(memchr::memmem::find(&self.bytes, b"\r\n\r\n").map_or(self.bytes.len(), |at| at + 4)).1;
        while let Some(end) = memchr::memmem::find(rest, b"\r\n") {
            let Ok(size) = usize::from_str_radix(&String::from_utf8_lossy(&rest[..end]), 16) else { break };
            rest = &rest[end + 2..];
            body.extend_from_slice(&rest[..size.min(rest.len())]);
            rest = rest.get(size + 2..).unwrap_or_default();
        }
        String::from_utf8_lossy(&body).into_owned()
    }

    /// The message's id, once all of its first event has come: before that nothing was reported to the client.
    fn id(&self) -> Option<String> {
        let body = self.body();
        let (start, _) = body.split_once("\n\n")?;
        Some(start.split_once("\"id\":\"")?.1.split('"').next()?.to_owned())
    }

    /// To its last byte.
    fn is_whole(&self) -> bool {
        self.bytes.ends_with(b"0\r\n\r\n") && self.body().contains("message_stop")
    }
}

/// The upstream of all rounds. A request says in its body how long its answer is; every fourth has a prompt of a size that no request can
/// show (what a search or a file brings), the others one of at most a token a byte.
async fn upstream(truth: &Arc<Truth>) -> String {
    let kinds = kinds();
    truthful(truth, move |number, body| {
        let mut dice = Dice(number as u64 * 31 + body.len() as u64);
        let kind: &Kind = &kinds[number % kinds.len()];
        let size = 60 + usize::try_from(dice.roll(2_000)).unwrap();
        Generated {
            prompt: if is_large(body) { 500_000 + dice.roll(100_000) } else { body.len() as u64 / (1 + dice.roll(4)) },
            pieces: kind.pieces(size, 50 + usize::try_from(dice.roll(400)).unwrap()),
            pace: Duration::from_micros(dice.roll(3) * 700),
            ..Generated::default()
        }
    })
    .await
}

fn is_large(body: &[u8]) -> bool {
    memchr::memmem::find(body, b"LARGE").is_some()
}

fn body(dice: &mut Dice) -> (String, bool) {
    let large = dice.roll(4) == 0;
    let filler = "a word of the prompt ".repeat(usize::try_from(1 + dice.roll(400)).unwrap());
    let mark = if large { "LARGE" } else { "" };
    let body = format!(
        r#"{{"model":"claude-opus-5-5","max_tokens":16000,"stream":true,"messages":[{{"role":"user","content":"{mark}{filler}"}}]}}"#
    );
    (body, large)
}

/// One client: asks again and again until the connection breaks.
async fn client(address: SocketAddr, path: String, agent: u64, mut dice: Dice, log: Arc<Mutex<Vec<(Got, bool)>>>) {
    let Ok(mut stream) = TcpStream::connect(address).await else { return };
    loop {
        let (body, large) = body(&mut dice);
        let head = format!(
            "POST {path}/v1/messages HTTP/1.1\r\nhost: {address}\r\nx-claude-code-agent-id: a{agent}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        if stream.write_all(format!("{head}{body}").as_bytes()).await.is_err() {
            return;
        }
        let index = {
            let mut log = log.lock().unwrap();
            log.push((Got::default(), large));
            log.len() - 1
        };
        loop {
            let mut piece = [0; 16 * 1024];
            match stream.read(&mut piece).await {
                Ok(count) if count > 0 => {
                    let mut log = log.lock().unwrap();
                    log[index].0.bytes.extend_from_slice(&piece[..count]);
                    if log[index].0.bytes.ends_with(b"0\r\n\r\n") && log[index].0.is_whole() {
                        break;
                    }
                }
                _ => return,
            }
        }
    }
}

/// Loads a proxy with some clients, calls `end` at a random moment, and waits until nothing comes any more; what the clients got.
async fn load(address: SocketAddr, path: &str, dice: &mut Dice, end: impl FnOnce()) -> Vec<(Got, bool)> {
    let log: Arc<Mutex<Vec<(Got, bool)>>> = Arc::default();
    let clients: Vec<_> = (0..=dice.roll(6))
        .map(|number| {
            let dice = Dice(dice.roll(u64::MAX));
            tokio::spawn(client(address, path.to_owned(), number, dice, Arc::clone(&log)))
        })
        .collect();
    tokio::time::sleep(Duration::from_micros(dice.roll(250_000))).await;
    end();
    for client in clients {
        soon("the end of a client's connection", client).await.unwrap();
    }
    let log = log.lock().unwrap();
    log.clone()
}

/// What the upstream told of the answers that these clients asked for, and what must be booked of it at least: of answers with a prompt that no
/// request can show, only what had reached the client; of others whatever the upstream wrote.
fn must_be_booked(told: &[Told], got: &[(Got, bool)]) -> Usd {
    let mut sum = 0;
    for told in told {
        let known = got.iter().find(|(got, _)| got.id().as_ref() == Some(&told.id));
        let large = told.prompt >= 500_000;
        if !large || known.is_some() {
            sum += told.pico();
        }
    }
    Usd::from_pico(sum)
}

fn settled_ids(journal: &[Record]) -> Vec<String> {
    let settled = journal.iter().filter_map(|record| match &record.event {
        Event::RequestSettled { message_id, lost: false, .. } => message_id.clone(),
        _ => None,
    });
    settled.collect()
}

fn nothing_acknowledged_is_lost(journal: &[Record], got: &[(Got, bool)], round: u64) {
    let settled = settled_ids(journal);
    for (got, _) in got.iter().filter(|(got, _)| got.is_whole()) {
        let id = got.id().unwrap();
        assert!(settled.contains(&id), "round {round}: {id} reached the client whole and is not settled");
    }
}

/// The small process: meter, journal and proxy, until it is killed.
#[tokio::test]
async fn a_process_to_be_killed() {
    let (Ok(upstream), Ok(path)) = (std::env::var(UPSTREAM), std::env::var(JOURNAL)) else { return };
    let (journal, _) = Journal::open(Path::new(&path)).unwrap();
    let journal = Arc::new(Mutex::new(journal));
    let record = {
        let journal = Arc::clone(&journal);
        move |event: Event| journal.lock().unwrap().append(event, Timestamp::now()).map(drop).map_err(std::io::Error::other)
    };
    record(Event::SessionCreated {
        id: SessionId::new(),
        developer: "dev".into(),
        developer_source: DeveloperSource::SelfDeclared,
        project: "crash".into(),
        workspace: Workspace::None,
        directory: "/".into(),
        checkout: None,
        branch: None,
        base: None,
        base_commit: None,
    })
    .unwrap();
    let settle = record.clone();
    let observer = move |settled: &Settlement| {
        let Settlement { request, thread, model, usage, cost, estimated, lost, message_id, window, .. } = settled.clone();
        settle(Event::RequestSettled { request, thread, model, usage, cost, estimated, lost, message_id, window }).unwrap();
    };
    let rules = Rules { limits: vec!["1000usd".parse().unwrap()], alert_at: vec![], refuse_unknown_models: false };
    let config = ProxyConfig {
        token: TOKEN.into(),
        upstream: Upstream::new(&upstream, None, ProxyEnv::default()).unwrap(),
        credential: Credential::ApiKey("sk-ant-test".into()),
        refusal: RefusalStyle::Plain,
        meter: Meter::new(PriceTable::built_in().unwrap(), rules, Booked::default(), Arc::new(observer)),
        sentinel: None,
        timeouts: Timeouts::default(),
        body_tap: None,
        refuse_compaction: false,
        sink: Arc::new(move |event| if let ProxyEvent::Journal(event) = event { record(event) } else { Ok(()) }),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let _proxy = Proxy::start(listener, config).unwrap();
    let ready = format!("{path}.address");
    fs::write(format!("{ready}.new"), address.to_string()).unwrap();
    fs::rename(format!("{ready}.new"), ready).unwrap();
    std::future::pending::<()>().await;
}

/// The small process of one round, ended with it.
struct Small(Child);

impl Small {
    fn start(upstream: &str, journal: &Path) -> Self {
        let name = format!("{}::a_process_to_be_killed", module_path!().split_once("::").unwrap().1);
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([&name, "--exact", "--test-threads=1"]).env(UPSTREAM, upstream).env(JOURNAL, journal);
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn kill(&self) {
        kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGKILL).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The cost that a session's journal comes to when its crash is cleared up.
fn booked(journal: &[Record]) -> Usd {
    let mut view = SessionView::fold(journal).unwrap();
    let event = Event::AttemptEnded {
        reason: StopReason::Crashed,
        exit_code: 125,
        processes_ended: 0,
        survivors: vec![],
        outcome: Outcome::default(),
    };
    view.apply(&Record { v: 1, seq: 0, at: Timestamp::now(), prev: String::new(), event });
    view.cost_usd
}

async fn small_round(dir: &Path, round: u64, mut dice: Dice) -> (usize, usize) {
    let truth = Arc::new(Truth::default());
    let upstream = upstream(&truth).await;
    let path = dir.join(format!("{round}.jsonl"));
    let small = Small::start(&upstream, &path);
    let address: SocketAddr = soon("the small process", async {
        loop {
            if let Ok(address) = fs::read_to_string(format!("{}.address", path.display())) {
                return address.parse().unwrap();
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    let got = load(address, &format!("/s/{TOKEN}"), &mut dice, || small.kill()).await;
    drop(small);
    let journal = read_journal(&path).unwrap();
    let (booked, must) = (booked(&journal), must_be_booked(&truth.all(), &got));
    assert!(booked >= must, "round {round}: {booked} booked, {must} reported\n{:#?}\n{journal:#?}", truth.all());
    nothing_acknowledged_is_lost(&journal, &got, round);
    let begun = got.iter().filter(|(got, _)| got.id().is_some()).count();
    let whole = got.iter().filter(|(got, _)| got.is_whole()).count();
    (whole, begun - whole)
}

#[tokio::test]
async fn a_process_killed_at_random_has_booked_no_less_than_was_reported_and_settled_all_that_was_whole() {
    let mut dice = Dice(seed());
    let dir = tempfile::tempdir().unwrap();
    let path: Arc<Path> = dir.path().into();
    let slots = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
    let rounds: Vec<_> = (0..SMALL_ROUNDS)
        .map(|round| {
            let (path, slots, dice) = (Arc::clone(&path), Arc::clone(&slots), Dice(dice.roll(u64::MAX)));
            tokio::spawn(async move {
                let _slot = slots.acquire().await.unwrap();
                small_round(&path, round, dice).await
            })
        })
        .collect();
    let (mut whole, mut broken) = (0, 0);
    for round in rounds {
        let round = round.await.unwrap();
        (whole, broken) = (whole + round.0, broken + round.1);
    }
    // The moments were those that matter: many answers had come whole, and many were under way.
    assert!(whole > 100 && broken > 100, "{whole} whole, {broken} broken off in {SMALL_ROUNDS} rounds");
}

/// Who is killed.
#[derive(Debug, Clone, Copy)]
enum Victims {
    Supervisor,
    Guardian,
    Both,
}

#[tokio::test]
async fn a_session_killed_at_random_has_booked_no_less_than_was_reported_and_settled_all_that_was_whole() {
    let mut dice = Dice(seed());
    let env = TestEnv::new();
    let mut rounds = Vec::new();
    for round in 0..REAL_ROUNDS {
        let truth = Arc::new(Truth::default());
        let upstream = upstream(&truth).await;
        let file = env.root().join(format!("url-{round}"));
        let script = format!("echo $ANTHROPIC_BASE_URL > {0}.new; mv {0}.new {0}; exec sleep 300", file.display());
        let before = env.sessions();
        let args = ["run", "--workspace", "none", "--wall", "off", "--budget", "1000usd", "--", "sh", "-c", &script];
        let run = env.sentrely(&args).var("ANTHROPIC_BASE_URL", &upstream).var("ANTHROPIC_API_KEY", "sk-ant-test").spawn();
        let url = wait_for(SOON, "the session's address", || fs::read_to_string(&file).ok());
        let id = env.sessions().into_iter().find(|id| !before.contains(id)).unwrap();
        let supervisor = i32::try_from(env.events(&id, "attempt_started")[0]["pid"].as_i64().unwrap()).unwrap();
        let guardian = run.pid();
        let (address, path) = url.trim().strip_prefix("http://").unwrap().split_once('/').unwrap();
        let victims = [Victims::Supervisor, Victims::Guardian, Victims::Both][usize::try_from(round % 3).unwrap()];
        let end = || {
            let pids = match victims {
                Victims::Supervisor => vec![supervisor],
                Victims::Guardian => vec![guardian],
                Victims::Both => vec![guardian, supervisor],
            };
            for pid in pids {
                // The second may have ended by itself.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        };
        let got = load(address.parse().unwrap(), &format!("/{path}"), &mut dice, end).await;
        wait_until(SOON, "the end of both", || !is_alive(supervisor) && !is_alive(guardian));
        env.wait_until_nobody_holds(&id);
        drop(run);
        rounds.push((id, victims, truth, got));
    }
    let _ = env.sentrely(&["finish"]).run();
    let all = env.ls_json();
    for (number, (id, victims, truth, got)) in rounds.into_iter().enumerate() {
        let session = all["sessions"].as_array().unwrap().iter().find(|session| session["id"] == id).unwrap();
        assert_eq!(session["state"], "crashed", "{victims:?}");
        let journal = read_journal(&env.session_dir(&id).join("journal.jsonl")).unwrap();
        let booked: Usd = session["cost_usd"].as_str().unwrap().parse().unwrap();
        // A supervisor that outlives its guardian ends in order: it cuts its answers and books them at what it has seen of them.
        let seen = |told: &Told| got.iter().find(|(got, _)| got.id().as_ref() == Some(&told.id)).map(|(got, _)| got.is_whole());
        let told: Vec<Told> = truth
            .all()
            .into_iter()
            .map(|told| match (victims, seen(&told)) {
                (Victims::Guardian, None) => Told { prompt: 0, output: 0, ..told },
                (Victims::Guardian, Some(false)) => Told { output: 0, ..told },
                _ => told,
            })
            .collect();
        let must = must_be_booked(&told, &got);
        assert!(booked >= must, "round {number}, {victims:?}: {booked} booked, {must} reported\n{told:#?}\n{journal:#?}");
        nothing_acknowledged_is_lost(&journal, &got, number as u64);
    }
}
