//! State directories made by hand, and the built program that reads them.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use jiff::Timestamp;
use sentrely::model::{
    Billing, BillingKind, BudgetView, DeveloperSource, Event, Limit, RequestId, SessionId, SessionView, Spent, StopReason, Thread, Usage,
    Workspace,
};
use sentrely::store::{Journal, SessionDir, StateDir, append_to_index, read_journal};

/// A private home with a state directory in it.
pub(crate) struct Home {
    dir: tempfile::TempDir,
    pub(crate) state: StateDir,
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Home {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(&dir.path().join("state")).unwrap();
        Self { dir, state }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The program in this home, with nothing else of the environment.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sentrely"));
        command.args(words).env_clear().current_dir(self.path()).stdin(Stdio::null());
        command.env("HOME", self.path()).env("SENTRELY_STATE_DIR", self.state.path()).env("TZ", "UTC");
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin");
        command
    }

    pub(crate) fn run(&self, words: &[&str]) -> Ran {
        self.ran(self.command(words).output().unwrap())
    }

    /// Its output, with what differs from run to run replaced: times, this home's path.
    pub(crate) fn ran(&self, output: Output) -> Ran {
        let text = |bytes: Vec<u8>| {
            let text = String::from_utf8(bytes).unwrap();
            scrub(&text.replace(self.state.path().to_str().unwrap(), "<state>").replace(self.path().to_str().unwrap(), "<home>"))
        };
        Ran { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// A session that has just been created; `id` is its first 8 hex digits.
    pub(crate) fn session(&self, id: &str, started: Timestamp) -> Session {
        self.session_of(id, started, None)
    }

    /// The same for a developer's checkout.
    pub(crate) fn session_of(&self, id: &str, started: Timestamp, checkout: Option<String>) -> Session {
        let id: SessionId = format!("{id}-0000-4000-8000-000000000001").parse().unwrap();
        let dir = self.state.session(id);
        dir.create().unwrap();
        let (journal, _) = Journal::open(&dir.journal_file()).unwrap();
        let creation = Event::SessionCreated {
            id,
            developer: "ana@example.org".into(),
            developer_source: DeveloperSource::SelfDeclared,
            project: "shop".into(),
            workspace: Workspace::Clone,
            directory: "/work/shop".into(),
            checkout,
            branch: Some(format!("sentrely/ana/fix-login-{}", id.short())),
            base: Some("main".into()),
            base_commit: Some("1a2b3c4d5e6f708192a3b4c5d6e7f80910111213".into()),
        };
        let mut session = Session { state: self.state.clone(), dir, journal, now: started };
        session.tell(creation);
        session
    }
}

/// A session written by hand.
pub(crate) struct Session {
    state: StateDir,
    pub(crate) dir: SessionDir,
    journal: Journal,
    now: Timestamp,
}

impl Session {
    pub(crate) fn id(&self) -> SessionId {
        self.dir.id()
    }

    pub(crate) fn tell(&mut self, event: Event) -> &mut Self {
        self.journal.append(event, self.now).unwrap();
        self
    }

    pub(crate) fn later(&mut self, by: Duration) -> &mut Self {
        self.now = self.now.checked_add(by).unwrap();
        self
    }

    /// It was started, with a budget of 5 USD.
    pub(crate) fn started(&mut self) -> &mut Self {
        self.started_in("")
    }

    /// The same in a boot of this id; an empty one is any.
    pub(crate) fn started_in(&mut self, boot_id: &str) -> &mut Self {
        let budget = Limit::Usd("5".parse().unwrap());
        self.tell(Event::AttemptStarted {
            attempt: 1,
            pid: 4711,
            host: "ci-7".into(),
            boot_id: boot_id.into(),
            command: ["claude", "-p", "fix the login"].map(str::to_owned).to_vec(),
            billing: Billing { kind: BillingKind::Key, last4: Some("a1b2".into()) },
            upstream: "https://api.anthropic.com".into(),
            budgets: vec![BudgetView::of(budget, &Spent::default())],
            time_limit_s: None,
            wall: "full".into(),
        });
        self.tell(Event::ChildStarted { pid: 4712, start: None, cgroup: None, mounts: None })
    }

    /// It paid 0.40 USD for one answer.
    pub(crate) fn spent(&mut self) -> &mut Self {
        let (request, thread, model) = (RequestId(1), Thread::Main, "claude-sonnet-5-5".to_owned());
        let usage = Usage { input: 1_000, output: 20_000, cache_read: 99_000, ..Usage::default() };
        let ceiling = "0.9".parse().unwrap();
        self.tell(Event::RequestAdmitted { request, thread: thread.clone(), model: model.clone(), ceiling, ceiling_tokens: 200_000 });
        self.tell(Event::RequestSettled {
            request,
            thread,
            model,
            usage,
            cost: "0.4".parse().unwrap(),
            estimated: false,
            lost: false,
            message_id: Some("msg_1".into()),
            window: Some(1_000_000),
        })
    }

    /// It has ended, as sentrely records it: journal, status, index.
    pub(crate) fn ended(&mut self, reason: StopReason, exit_code: u8) -> &mut Self {
        self.tell(Event::AttemptEnded {
            reason,
            exit_code,
            processes_ended: 7,
            survivors: Vec::new(),
            outcome: sentrely::model::Outcome::default(),
        });
        let view = self.view();
        self.dir.write_status(&view).unwrap();
        append_to_index(self.state.path(), &view).unwrap();
        self
    }

    /// What its journal says.
    pub(crate) fn view(&self) -> SessionView {
        SessionView::fold(&read_journal(&self.dir.journal_file()).unwrap()).unwrap()
    }

    /// A process that holds its lock as a living session does, and obeys its kill file in one of several ways.
    pub(crate) fn live(&self, obeys: Obeys) -> Living {
        self.dir.write_status(&self.view()).unwrap();
        let mut command = Command::new("python3");
        command.args(["-c", SUPERVISOR]).arg(self.dir.path()).arg(obeys.word()).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Living(child)
    }
}

/// How a living session reacts to its kill file.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Obeys {
    /// It ends, in stages.
    Well,
    /// It ends, but something is left.
    Partly,
    /// It does not react.
    Never,
    /// Its processes are gone, but it saves the work for longer than anybody waits.
    BySavingLong,
    /// It dies without a word.
    ByVanishing,
}

impl Obeys {
    const fn word(self) -> &'static str {
        match self {
            Self::Well => "well",
            Self::Partly => "partly",
            Self::Never => "never",
            Self::BySavingLong => "save",
            Self::ByVanishing => "vanish",
        }
    }
}

/// The process that stands for a living session; ended with the test.
pub(crate) struct Living(Child);

impl Drop for Living {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Holds the lock, waits for the kill file, writes the journal's last records, lets go of the lock by ending.
const SUPERVISOR: &str = r#"
import datetime, fcntl, hashlib, json, os, sys, time
folder, obeys = sys.argv[1:3]
lock = open(folder + "/lock", "a")
fcntl.flock(lock, fcntl.LOCK_EX)
print("ready", flush=True)
while not os.path.exists(folder + "/kill") or obeys == "never":
    time.sleep(0.002)
if obeys == "vanish":
    os._exit(1)
asked = json.load(open(folder + "/kill"))
journal = folder + "/journal.jsonl"
def tell(event):
    lines = open(journal, "rb").read().splitlines()
    record = {"v": 1, "seq": len(lines) + 1, "at": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
              "prev": hashlib.sha256(lines[-1]).hexdigest(), "event": event}
    with open(journal, "ab") as out:
        out.write(json.dumps(record).encode() + b"\n")
tell({"kind": "stop_requested", "reason": "killed", "by": asked["by"], "from": asked["from"], "note": asked.get("reason")})
for stage, ms in [("gate_closed", 0.4), ("credentials_withheld", 0.6), ("signal_sent", 0.9), ("last_process_gone", 212.25)]:
    tell({"kind": "stage", "stage": stage, "ms": ms})
if obeys == "save":
    while True:
        time.sleep(1)
left = ["4720 sudo (it runs as another user and may not be signalled)"] if obeys == "partly" else []
tell({"kind": "attempt_ended", "reason": "killed", "exit_code": 122, "processes_ended": 7, "survivors": left})
"#;

/// A process that carries a session's mark, as what a crashed session left behind does.
pub(crate) fn left_behind(id: SessionId) -> Child {
    let mut command = Command::new("python3");
    command.args(["-c", "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); signal.pause()"]);
    let mut child = command.env("SENTRELY_RUN_ID", id.to_string()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    child
}

/// Runs a command whose stdin is given; its output as [`Home::ran`] gives it.
pub(crate) fn with_input(home: &Home, mut command: Command, input: &str) -> Ran {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    home.ran(child.wait_with_output().unwrap())
}

/// Reads what is there until it contains `wanted`; fails after ten seconds without it.
pub(crate) fn read_until(out: &mut (impl Read + Send), wanted: &str) -> String {
    std::thread::scope(|scope| {
        let (tell, told) = std::sync::mpsc::channel();
        scope.spawn(move || {
            let (mut seen, mut byte) = (Vec::new(), [0; 1]);
            while !String::from_utf8_lossy(&seen).contains(wanted) && out.read(&mut byte).unwrap() == 1 {
                seen.push(byte[0]);
            }
            let _ = tell.send(String::from_utf8(seen).unwrap());
        });
        told.recv_timeout(Duration::from_secs(10)).unwrap()
    })
}

/// An executable script.
pub(crate) fn script(path: &Path, text: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.to_owned()
}

/// So long ago.
pub(crate) fn ago(duration: Duration) -> Timestamp {
    Timestamp::now().checked_sub(duration).unwrap()
}

/// Replaces every `2026-11-23 09:00:00` by `<time>`, and the same in its JSON form.
fn scrub(text: &str) -> String {
    const SHAPE: &[u8] = b"dddd-dd-ddsdd:dd:dd";
    let is_time = |window: &[u8]| {
        SHAPE.iter().zip(window).all(|(shape, byte)| match shape {
            b'd' => byte.is_ascii_digit(),
            b's' => matches!(byte, b' ' | b'T'),
            other => byte == other,
        })
    };
    let (mut clean, mut rest) = (String::new(), text);
    while let Some(at) = rest.as_bytes().windows(SHAPE.len()).position(is_time) {
        clean.push_str(&rest[..at]);
        clean.push_str("<time>");
        rest = rest[at + SHAPE.len()..].trim_start_matches(|c: char| c.is_ascii_digit() || c == '.' || c == 'Z');
    }
    clean + rest
}
