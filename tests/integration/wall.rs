//! The wall, attacked from inside: each row of `wall/attacks.sh` is run behind the full wall and, as its positive control, without one, where it
//! must work; and what people do every day, which must work behind it.

mod everyday;
mod grants;
mod named;
mod network;
mod processes;
mod same_path;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::components::Component;
use crate::support::env::TestEnv;
use crate::support::run::Run;

/// Who the session belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Root,
    User,
}

/// Programs that every user may run; the tests' own PATH may lead to root's.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// An ordinary user whom every system knows (`www-data`), with a home of the tests' own; tests that are run by a user use that one.
const UID: u32 = 33;

/// A world whose home has secrets in it, and which belongs to `who`.
struct World {
    env: TestEnv,
    who: Who,
    sentrely: PathBuf,
}

impl World {
    fn new(who: Who) -> Self {
        let env = TestEnv::new();
        let sentrely = env.root().join("sentrely");
        // Where the tests were built is nobody else's to read.
        let built = Path::new(env!("CARGO_BIN_EXE_sentrely"));
        if fs::hard_link(built, &sentrely).is_err() {
            fs::copy(built, &sentrely).unwrap();
        }
        let secrets = [
            (".aws/credentials", "CANARY"),
            (".ssh/id_ed25519", "CANARY"),
            (".git-credentials", "https://u:CANARY@example.com"),
            (".config/gh/hosts.yml", "CANARY"),
            (".npmrc", "registry=https://r.example/\n//r.example/:_authToken=CANARY\n"),
            (".netrc", "CANARY"),
            (".docker/config.json", r#"{"auths":{"r.example":{"auth":"CANARY"}}}"#),
            (".gnupg/private-keys-v1.d/k.key", "CANARY"),
            (".bashrc", "# mine\n"),
            (".claude/settings.json", "{}"),
            (".claude.json", "{}"),
        ];
        for (name, content) in secrets {
            write(&env.home().join(name), content);
        }
        write(&env.root().join("elsewhere/kube/config"), "CANARY");
        std::os::unix::fs::symlink(env.root().join("elsewhere/kube"), env.home().join(".kube")).unwrap();
        write(&env.state_dir().join("sessions/other/claude-settings.json"), "CANARY");
        for dir in [env.state_dir(), env.state_dir().join("sessions")] {
            fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        }
        for dir in ["alias", "queues"] {
            fs::create_dir(env.root().join(dir)).unwrap();
        }
        env.git(&["remote", "set-url", "--push", "origin", "https://u:CANARY@example.com/x.git"]);
        let world = Self { env, who, sentrely };
        world.give_away();
        world
    }

    /// Everything in it is the user's.
    fn give_away(&self) {
        if self.changes_user() {
            let done = Command::new("chown").args(["-R", "-h", &format!("{UID}:{UID}")]).arg(self.env.root()).status().unwrap();
            assert!(done.success());
        }
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

    /// `sentrely run <flags> -- <command>` of that user's.
    fn run(&self, flags: &[&str], command: &[&str]) -> Run<'_> {
        let mut words = self.as_who();
        words.push(self.sentrely.display().to_string());
        words.push("run".to_owned());
        words.extend(flags.iter().map(|flag| (*flag).to_owned()));
        words.push("--".to_owned());
        words.extend(command.iter().map(|word| (*word).to_owned()));
        self.env.command(&words[0], &words[1..]).var("PATH", PATH).timeout(Duration::from_mins(5))
    }
}

fn write(path: &Path, content: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// Ended and reaped when dropped.
struct Outside(Child);

impl Outside {
    fn start(world: &World, words: &[&str]) -> Self {
        let mut all = world.as_who();
        all.extend(words.iter().map(|word| (*word).to_owned()));
        let mut command = Command::new(&all[0]);
        command.args(&all[1..]).env("HOME", world.env.home()).env("R", world.env.root()).env("HELD", "CANARY").env("PATH", PATH);
        Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
    }

    fn pid(&self) -> i32 {
        self.0.id().cast_signed()
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether a session as `who` can have the full wall here; the skip is recorded if not.
fn full_wall(who: Who) -> bool {
    let components: &[Component] = match who {
        Who::Root => &[Component::Root, Component::Namespaces],
        Who::User => &[Component::Namespaces, Component::Program("setpriv")],
    };
    crate::support::components::all_there(components)
}
