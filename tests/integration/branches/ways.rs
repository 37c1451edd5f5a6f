//! The table of `ways.sh`: each row is run inside a session behind the full wall, where it must change nothing, and, as the control, without
//! sentrely, where it must work. A judge outside looks after every row, and puts back what the control changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::rest::Rest;
use crate::support::components::{Component, NPM, PYTHON, SSHD, target_dir};
use crate::support::env::TestEnv;
use crate::support::git::{Lab, Origin, PASSWORD};
use crate::support::run::wait_until;
use crate::support::sshd;

/// What programs of the system every user may run.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";
/// An ordinary user whom every system knows (`www-data`).
const UID: u32 = 33;

/// What anybody who reaches a git daemon may do: it asks for no credential, so only rules on the server help.
const OPEN_AT_A_DAEMON: &[&str] = &[
    "dulwich by the URL",
    "libgit2 by the URL",
    "push by a changed remote",
    "push by a push URL",
    "push by a rewritten URL",
    "push by plumbing",
    "push by the URL",
    "push from a clone elsewhere",
    "push from the developer's checkout",
    "push with the developer's repository as ours",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Http,
    Ssh,
    File,
    Daemon,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Root,
    User,
}

/// Ended and reaped when dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Row {
    name: String,
    body: String,
}

fn rows(transport: Transport) -> Vec<Row> {
    let own = match transport {
        Transport::Http => ["all", "http", "local"],
        Transport::Ssh => ["all", "ssh", "-"],
        Transport::File => ["all", "file", "-"],
        Transport::Daemon => ["all", "daemon", "-"],
    };
    let rows = include_str!("ways.sh").split("\n## ").skip(1).filter_map(|row| {
        let (head, body) = row.split_once('\n').unwrap();
        let (name, of) = head.split_once(" | ").unwrap();
        of.split(' ').any(|of| own.contains(&of)).then(|| Row { name: name.into(), body: body.into() })
    });
    rows.collect()
}

/// Clients that are not git, installed once under `target/`; the whole folder is copied into each world.
fn clients() -> PathBuf {
    let home = target_dir().join("git-clients");
    fs::create_dir_all(&home).unwrap();
    let lock = fs::File::create(home.join("lock")).unwrap();
    lock.lock().unwrap();
    let pins = ["dulwich==0.24.10", "pygit2==1.18.2", "isomorphic-git@1.34.0"];
    if fs::read_to_string(home.join("installed")).is_ok_and(|found| found == pins.join("\n")) {
        return home;
    }
    let run = |command: &mut Command| {
        let done = command.env("PATH", format!("{PATH}:{}", std::env::var("PATH").unwrap())).output().unwrap();
        assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    };
    // For the system's Python, which ordinary users have too.
    run(Command::new("python3").args(["-m", "venv"]).arg(home.join("venv")));
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"];
    run(Command::new(home.join("venv/bin/python")).args(pip).arg(home.join("python")).args(&pins[..2]));
    run(Command::new("npm")
        .args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"])
        .arg(home.join("node"))
        .arg(pins[2]));
    fs::write(home.join("installed"), pins.join("\n")).unwrap();
    home
}

/// A developer's machine, and the remote's.
struct World {
    env: TestEnv,
    who: Who,
    transport: Transport,
    url: String,
    bare: PathBuf,
    port: u16,
    _server: Option<Server>,
    _lab: Lab,
    origin: Origin,
    rest: Rest,
}

impl World {
    fn new(who: Who, transport: Transport) -> Self {
        let env = TestEnv::new();
        let lab = Lab::new();
        let (_, origin) = lab.shop();
        let port = free_port();
        let served = origin.bare.clone();
        let (url, bare) = match transport {
            Transport::Http => (origin.url.clone(), served),
            Transport::Ssh => (format!("ssh://{}@127.0.0.1:{port}{}", login(), served.display()), served),
            Transport::File => (env.origin().display().to_string(), env.origin()),
            Transport::Daemon => (format!("git://127.0.0.1:{port}/shop.git"), served),
        };
        env.git_in(&bare, &["-c", "safe.directory=*", "config", "receive.denyDeleteCurrent", "ignore"]);
        let rest = Rest::start(bare.clone());
        let world = Self { _server: serve(transport, &lab, &env, port), env, who, transport, url, bare, port, _lab: lab, origin, rest };
        world.furnish();
        world
    }

    fn furnish(&self) {
        let env = &self.env;
        write(&env.home().join(".git-credentials"), &format!("http://ada:{PASSWORD}@127.0.0.1:{}\n", self.origin.port));
        env.git(&["config", "--global", "credential.helper", "store"]);
        let config = env.home().join(".ssh/config");
        env.git(&["config", "--global", "core.sshCommand", &format!("ssh -F {}", config.display())]);
        env.git(&["remote", "set-url", "origin", &self.url]);
        env.git(&["push", "-q", "--force", "origin", "main"]);
        env.git(&["fetch", "-q", "--prune", "origin"]);
        write(&env.project().join("notes.txt"), "not in git\n");
        let readme = fs::read_to_string(env.project().join("README.md")).unwrap();
        write(&env.project().join("README.md"), &format!("{readme}uncommitted\n"));
        let clients = clients();
        let own = env.root().join("clients");
        fs::create_dir(&own).unwrap();
        let copied = Command::new("cp").arg("-r").arg(clients.join("python")).arg(clients.join("node")).arg(&own).status().unwrap();
        assert!(copied.success());
        self.rest.furnish(env);
        write(&own.join("push.py"), include_str!("push.py"));
        write(&own.join("push.js"), include_str!("push.js"));
        let built = Path::new(env!("CARGO_BIN_EXE_sentrely"));
        if fs::hard_link(built, env.root().join("sentrely")).is_err() {
            fs::copy(built, env.root().join("sentrely")).unwrap();
        }
        fs::create_dir(env.root().join("layers")).unwrap();
        fs::set_permissions(env.root().join("layers"), fs::Permissions::from_mode(0o700)).unwrap();
    }

    fn script(&self, judge: u16) -> PathBuf {
        let dir = self.env.root().join("ways");
        let mut all = format!(
            "exec 2>&1; export GATE=$(git remote get-url origin) base=$(git rev-parse HEAD)\n\
             judge() {{ exec 3<>/dev/tcp/127.0.0.1/{judge}; echo \"$1\" >&3; read -r _ <&3; exec 3>&-; }}\n\
             judge start\n"
        );
        for (number, row) in rows(self.transport).iter().enumerate() {
            let file = dir.join(format!("{number:03}.sh"));
            write(&file, &row.body);
            write!(
                all,
                "git switch -q --discard-changes -C work $base; git clean -qfd; git branch -q -f main $base\n\
                 [ \"$PWD\" = \"$P\" ] && {{ echo uncommitted >> README.md; echo 'not in git' > notes.txt; }}\n\
                 export w=$(git commit-tree HEAD^{{tree}} -p HEAD -m x) T=$(mktemp -d); git commit -q --allow-empty -m mine\n\
                 judge prepare; echo '=== {}'; timeout -k 1 30 bash {} </dev/null; judge '{}'\n",
                row.name.replace('\'', r"'\''"),
                file.display(),
                row.name.replace('\'', r"'\''"),
            )
            .unwrap();
        }
        write(&dir.join("all"), &all);
        dir.join("all")
    }

    fn changes_user(&self) -> bool {
        self.who == Who::User && nix::unistd::getuid().is_root()
    }

    /// The words before a program that make it the user's.
    fn as_who(&self) -> Vec<String> {
        if !self.changes_user() {
            return Vec::new();
        }
        let id = UID.to_string();
        ["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"].map(str::to_owned).to_vec()
    }

    /// Runs every row; what each changed, and what it all said.
    fn attacked(&self, walled: bool) -> (BTreeMap<String, BTreeSet<&'static str>>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let script = self.script(listener.local_addr().unwrap().port()).display().to_string();
        if self.changes_user() {
            let given = Command::new("chown").args(["-R", "-h", &format!("{UID}:{UID}")]).arg(self.env.root()).status().unwrap();
            assert!(given.success());
        }
        let original = self.env.root().join("original");
        let _ = fs::remove_dir_all(&original);
        assert!(Command::new("cp").arg("-a").arg(self.env.project()).arg(&original).status().unwrap().success());
        fs::copy(self.env.home().join(".gitconfig"), self.env.root().join("gitconfig")).unwrap();
        let mut words = self.as_who();
        if walled {
            words.extend([self.env.root().join("sentrely").display().to_string()]);
            words.extend(["run", "--wall", "require", "--"].map(str::to_owned));
        }
        words.extend(["bash".to_owned(), script]);
        let clients = self.env.root().join("clients");
        let running = self.env.command(&words[0], &words[1..]).var("PATH", PATH).var("P", self.env.project()).var("URL", &self.url);
        let running =
            running.var("CLIENTS", &clients).var("PYTHONPATH", clients.join("python")).var("NODE_PATH", clients.join("node/node_modules"));
        let running = running.var("API", &self.rest.url).var("GH_TOKEN", &self.rest.token);
        let running = running.var("BARE", &self.bare).var("PORT", self.port.to_string()).var("SSH_USER", login());
        let mut running = running.timeout(Duration::from_mins(9)).spawn();
        let mut judge = Judge { world: self, before: self.state(), remote: self.state()["remote"].clone(), found: BTreeMap::new(), walled };
        listener.set_nonblocking(true).unwrap();
        while running.is_running() {
            match listener.accept() {
                Ok((stream, _)) => judge.hear(stream),
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
        let output = running.wait(Duration::from_mins(2));
        judge.look("after the end");
        (judge.found, format!("{}{}", output.stdout, output.stderr))
    }

    /// All that must not change, by kind.
    fn state(&self) -> BTreeMap<&'static str, String> {
        let git = |dir: &Path, args: &[&str]| {
            let words = [&["-c", "safe.directory=*", "-C", dir.to_str().unwrap()], args].concat();
            let output = Command::new("git").args(words).env("GIT_OPTIONAL_LOCKS", "0").env("HOME", "/nonexistent").output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.lines()
                .filter(|line| !line.contains("refs/heads/sentrely/") && !line.contains("refs/sentrely/"))
                .collect::<Vec<_>>()
                .join("\n")
        };
        let listing = ["for-each-ref", "--format=%(refname) %(objectname) %(symref)"];
        let project = self.env.project();
        let read = |path: &Path| fs::read_to_string(path).unwrap_or_else(|error| error.to_string());
        let mut hooks: Vec<_> = fs::read_dir(project.join(".git/hooks")).into_iter().flatten().flatten().map(|e| e.file_name()).collect();
        hooks.sort();
        let whole = ["-c", "safe.directory=*", "-C", project.to_str().unwrap(), "rev-list", "--objects", "--quiet", "--all"];
        let intact = Command::new("git").args(whole).env("HOME", "/nonexistent").stderr(Stdio::null()).status().unwrap().success();
        let mut files: Vec<_> = fs::read_dir(&project).unwrap().flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
        files.sort();
        let files: Vec<String> = files.iter().map(|path| format!("{} {}", path.display(), read(path))).collect();
        BTreeMap::from([
            ("remote", git(&self.bare, &listing)),
            ("local", git(&project, &listing) + &read(&project.join(".git/HEAD"))),
            ("work", format!("{files:?} {intact}")),
            ("config", read(&project.join(".git/config")) + &read(&self.env.home().join(".gitconfig")) + &format!("{hooks:?}")),
        ])
    }

    /// The developer's machine as it was.
    fn restore(&self) {
        let script = "cd \"$P\" && find . -mindepth 1 -delete; cp -a \"$R/original/.\" \"$P\"; cp -a \"$R/gitconfig\" \"$HOME/.gitconfig\"";
        self.shell(script, "");
    }

    /// The remote as it was.
    fn restore_remote(&self, remote: &str) {
        let script = "git -C \"$BARE\" for-each-ref --format='delete %(refname)' | git -C \"$BARE\" update-ref --no-deref --stdin\n\
                      rm -f \"$BARE/packed-refs\"; while read -r name id _; do git -C \"$BARE\" update-ref $name $id; done";
        self.shell(script, remote);
        if self.changes_user() && self.bare == self.env.origin() {
            self.shell("chown -R --reference=\"$R/original\" \"$BARE\"", "");
        }
    }

    fn shell(&self, script: &str, input: &str) {
        let mut command = Command::new("bash");
        command
            .args(["-c", script])
            .env("P", self.env.project())
            .env("R", self.env.root())
            .env("BARE", &self.bare)
            .env("HOME", self.env.home());
        command.env("GIT_CONFIG_COUNT", "1").env("GIT_CONFIG_KEY_0", "safe.directory").env("GIT_CONFIG_VALUE_0", "*");
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        // A script that reads nothing may be over already.
        let _ = child.stdin.take().unwrap().write_all(format!("{input}\n").as_bytes());
        assert!(child.wait().unwrap().success());
    }
}

struct Judge<'a> {
    world: &'a World,
    /// How it was before the row.
    before: BTreeMap<&'static str, String>,
    /// The remote's refs in the beginning.
    remote: String,
    found: BTreeMap<String, BTreeSet<&'static str>>,
    walled: bool,
}

impl Judge<'_> {
    fn hear(&mut self, mut stream: TcpStream) {
        stream.set_nonblocking(false).unwrap();
        let mut name = String::new();
        BufReader::new(&stream).read_line(&mut name).unwrap();
        self.look(name.trim());
        let _ = stream.write_all(b"seen\n");
    }

    fn look(&mut self, name: &str) {
        let now = self.world.state();
        // In the control the folder is the developer's: what is prepared there for the next row is no attack.
        if name == "start" || (name == "prepare" && !self.walled) {
            self.before = now;
            return;
        }
        let changed: BTreeSet<&'static str> = self.before.iter().filter(|(kind, was)| now[*kind] != **was).map(|(kind, _)| *kind).collect();
        if now["remote"] != self.remote {
            self.world.restore_remote(&self.remote);
        }
        if self.walled {
            self.before = self.world.state();
        } else {
            self.world.restore();
        }
        if name != "prepare" {
            self.found.insert(name.to_owned(), changed);
        } else if !changed.is_empty() {
            self.found.insert("between two rows".to_owned(), changed);
        }
    }
}

fn serve(transport: Transport, lab: &Lab, env: &TestEnv, port: u16) -> Option<Server> {
    let quiet = |command: &mut Command| Server(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let server = match transport {
        Transport::Http | Transport::File => return None,
        Transport::Daemon => {
            let base = format!("--base-path={}", lab.path("srv").display());
            let options = ["--reuseaddr", "--listen=127.0.0.1", "--export-all", "--enable=receive-pack", &base];
            // Itself: `git daemon` would start it as a child, which is left when that is killed.
            let programs = Command::new("git").arg("--exec-path").output().unwrap().stdout;
            let daemon = Path::new(String::from_utf8_lossy(&programs).trim()).join("git-daemon");
            quiet(Command::new(daemon).args(options).arg(format!("--port={port}")))
        }
        Transport::Ssh => return Some(Server(sshd::serve(&lab.path("state"), &env.home(), port, ""))),
    };
    wait_until(Duration::from_mins(1), "the server", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    Some(server)
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn login() -> String {
    nix::unistd::User::from_uid(nix::unistd::getuid()).unwrap().unwrap().name
}

fn write(path: &Path, content: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn holds(who: Who, transport: Transport, open: &[&str]) {
    crate::needs!(PYTHON, NPM, SSHD, Component::Namespaces, Component::Program("setpriv"), Component::Program("node"));
    if who == Who::Root && !nix::unistd::getuid().is_root() {
        return crate::support::components::skip("not root");
    }
    let world = World::new(who, transport);
    let (walled, said) = world.attacked(true);
    let rows = rows(transport);
    assert!(rows.iter().all(|row| walled.contains_key(&row.name)), "{said}");
    let changed: Vec<&str> = walled.iter().filter(|(_, changed)| !changed.is_empty()).map(|(name, _)| name.as_str()).collect();
    assert_eq!(changed, open, "{walled:#?}\n{said}");
    let session = world.env.the_session();
    let own = world.env.events(&session, "push_refused");
    assert!(own.len() >= 10, "the gate refused what came to it: {own:?}");

    let world = World::new(who, transport);
    let (bare, said) = world.attacked(false);
    let failed: Vec<&str> =
        rows.iter().map(|row| row.name.as_str()).filter(|name| bare.get(*name).is_none_or(BTreeSet::is_empty)).collect();
    assert_eq!(failed, Vec::<&str>::new(), "these must work without sentrely\n{said}");
}

#[test]
fn over_http_with_a_password_every_way_of_root_is_closed_and_works_without_sentrely() {
    holds(Who::Root, Transport::Http, &[]);
}

#[test]
fn over_http_with_a_password_every_way_of_a_user_is_closed_and_works_without_sentrely() {
    holds(Who::User, Transport::Http, &[]);
}

#[test]
fn over_ssh_every_way_of_root_is_closed_and_works_without_sentrely() {
    holds(Who::Root, Transport::Ssh, &[]);
}

#[test]
fn over_ssh_every_way_of_a_user_is_closed_and_works_without_sentrely() {
    holds(Who::User, Transport::Ssh, &[]);
}

#[test]
fn to_a_folder_every_way_of_root_is_closed_and_works_without_sentrely() {
    holds(Who::Root, Transport::File, &[]);
}

#[test]
fn to_a_folder_every_way_of_a_user_is_closed_and_works_without_sentrely() {
    holds(Who::User, Transport::File, &[]);
}

#[test]
fn a_git_daemon_asks_for_no_credential_so_that_only_its_own_rules_help_against_root() {
    holds(Who::Root, Transport::Daemon, OPEN_AT_A_DAEMON);
}

#[test]
fn a_git_daemon_asks_for_no_credential_so_that_only_its_own_rules_help_against_a_user() {
    holds(Who::User, Transport::Daemon, OPEN_AT_A_DAEMON);
}
