//! The table of attacks.

#![expect(clippy::print_stdout, reason = "what the machine has not is told in the test's output")]

use std::collections::BTreeMap;
use std::io::Read;

use super::*;
use crate::support::components::PYTHON;

/// Open behind the full wall too, and said so in the README: they slow the supervisor down or offer it to the memory killer, and can do no more.
const OPEN: &[(&str, &str)] = &[("slow the supervisor down", "root and user"), ("offer the supervisor to the memory killer", "root")];

/// What an ordinary user is denied without the wall too: by the kernel, or because the supervisor is not dumpable.
const NOT_THE_WALLS: &[(&str, &str)] = &[
    ("enter the namespaces of the outside", "user"),
    ("enter the namespaces of the supervisor", "user"),
    ("offer the supervisor to the memory killer", "user"),
    ("read a secret through the supervisor's root", "user"),
    ("read the supervisor's environment", "user"),
];

/// Denied without the wall as well on some machines (no such file, or a guest whose devices are kept from it): there their denial behind it says
/// nothing. All other rows must work without the wall.
const MAY_BE_VACUOUS: &[&str] = &[
    "make a device and read the disk",
    "pull the kernel's lever",
    "read the disk",
    "read the machine's memory",
    QUEUE,
    "type into the terminal",
    "type into the terminal with a longer number",
];

/// Queues are files only where they are mounted, which root alone does for the test.
const QUEUE: &str = "read the message queue of another program by its file";

/// One row of `attacks.sh`.
struct Attack {
    name: String,
    who: String,
    sign: String,
    body: String,
}

fn attacks(who: Who) -> Vec<Attack> {
    let rows = include_str!("attacks.sh").split("\n## ").skip(1).map(|row| {
        let (head, body) = row.split_once('\n').unwrap();
        let fields: Vec<&str> = head.split(" | ").collect();
        Attack { name: fields[0].into(), who: fields[1].into(), sign: fields[2].into(), body: body.into() }
    });
    rows.filter(|attack| attack.who == "both" || (attack.who == "root") == (who == Who::Root)).collect()
}

/// The process of `outsider.py`. It is let go, and takes away what would outlive it.
struct Outsider(Outside);

impl Drop for Outsider {
    fn drop(&mut self) {
        drop(self.0.0.stdin.take());
        let _ = self.0.0.wait();
    }
}

/// Runs all attacks of `who` in one session; which of them worked, with what each printed.
fn attacked(who: Who, flags: &[&str], namespaces: bool) -> BTreeMap<String, (bool, String)> {
    let world = World::new(who);
    let (env, attacks) = (&world.env, attacks(who));
    let dir = env.root().join("attacks");
    for (n, attack) in attacks.iter().enumerate() {
        write(&dir.join(format!("{n:03}.sh")), &attack.body);
    }
    write(
        &dir.join("all"),
        "export SUP=$PPID\nfor attack in $R/attacks/*.sh; do echo \"=== $attack\"; timeout -k 1 20 bash $attack 2>&1 </dev/null; done; true\n",
    );
    let scripts = [
        ("outsider.py", include_str!("outsider.py")),
        ("with_key.py", include_str!("with_key.py")),
        ("no_namespaces.py", include_str!("no_namespaces.py")),
    ];
    for (name, text) in scripts {
        write(&env.root().join(name), text);
    }
    fs::create_dir(env.root().join("layers")).unwrap();
    fs::set_permissions(env.root().join("layers"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    world.give_away();
    let script = |name: &str| env.root().join(name).display().to_string();
    let mut outside = Outsider(Outside::start(&world, &["python3", &script("outsider.py")]));
    let mut ready = [0; 6];
    outside.0.0.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    let mut victim = Outside::start(&world, &["sleep", "600"]);

    // The other name of the home, and the queues as files: mounts of the test's own, which end with it.
    let mut words: Vec<String> = Vec::new();
    if nix::unistd::getuid().is_root() {
        let mounts = "mount --bind \"$HOME\" \"$R/alias\" && mount -t mqueue queues \"$R/queues\" && exec \"$@\"";
        words.extend(["unshare", "-m", "sh", "-c", mounts, "sh"].map(str::to_owned));
    }
    words.extend(world.as_who());
    if !namespaces {
        words.extend(["python3".to_owned(), script("no_namespaces.py")]);
    }
    words.extend(["python3".to_owned(), script("with_key.py"), world.sentrely.display().to_string()]);
    words.push("run".to_owned());
    words.extend(flags.iter().map(|flag| (*flag).to_owned()));
    words.extend(["--", "bash", &script("attacks/all")].map(str::to_owned));
    let output = env
        .command(&words[0], &words[1..])
        .var("PATH", PATH)
        .var("R", env.root())
        .var("P", env.project())
        .var("OUT", outside.0.pid().to_string())
        .var("VICTIM", victim.pid().to_string())
        .var("SSH_AUTH_SOCK", env.root().join("tmp/ssh-x/agent.7"))
        .var("ANTHROPIC_API_KEY", "sk-ant-canary")
        .timeout(Duration::from_mins(10))
        .run()
        .success();

    let id = env.sessions().into_iter().find(|id| id != "other").unwrap();
    let said: Vec<&str> = output.stdout.split("=== ").skip(1).collect();
    assert_eq!(said.len(), attacks.len(), "{}", output.stdout);
    let dead = victim.0.try_wait().unwrap().is_some();
    let judged = attacks.iter().zip(said).map(|(attack, said)| {
        let worked = match attack.sign.split_once(' ') {
            Some(("file", path)) => {
                let path = env.root().join(path.replace("ID", &id));
                fs::read_to_string(path).is_ok_and(|content| content.contains("PWNED"))
            }
            _ if attack.sign == "dead" => dead,
            _ => said.contains("CANARY"),
        };
        (attack.name.clone(), (worked, said.to_owned()))
    });
    judged.collect()
}

fn named<'a>(list: &'a [(&'a str, &'a str)], who: Who) -> Vec<&'a str> {
    let own = if who == Who::Root { "root" } else { "user" };
    let mut names: Vec<&str> = list.iter().filter(|(_, of)| of.contains(own)).map(|(name, _)| *name).collect();
    names.sort_unstable();
    names
}

fn the_wall_holds(who: Who) {
    crate::needs!(PYTHON, Component::Program("setpriv"), Component::Program("unshare"), Component::Program("hostname"));
    if !full_wall(who) {
        return;
    }
    let walled = attacked(who, &["--wall", "require"], true);
    let open: Vec<&str> = walled.iter().filter(|(_, (worked, _))| *worked).map(|(name, _)| name.as_str()).collect();
    assert_eq!(open, named(OPEN, who), "open behind the wall\n{walled:#?}");

    let bare = attacked(who, &["--wall", "off"], true);
    let closed: Vec<&str> = bare.iter().filter(|(_, (worked, _))| !*worked).map(|(name, _)| name.as_str()).collect();
    let others = named(NOT_THE_WALLS, who);
    assert!(others.iter().all(|name| closed.contains(name)), "works without the wall: {others:?}");
    let unexpected: Vec<_> =
        closed.iter().filter(|name| !MAY_BE_VACUOUS.contains(name) && !others.contains(name)).map(|name| (name, &bare[*name].1)).collect();
    assert!(unexpected.is_empty(), "denied without the wall too\n{unexpected:#?}");
    for name in closed {
        println!("vacuous here: {name}");
    }
}

#[test]
fn every_attack_of_root_fails_behind_the_wall_and_works_without_it() {
    the_wall_holds(Who::Root);
}

#[test]
fn every_attack_of_an_ordinary_user_fails_behind_the_wall_and_works_without_it() {
    the_wall_holds(Who::User);
}

/// The controls are those of the other table: without the wall there is no such view.
fn the_view_holds(who: Who) {
    crate::needs!(PYTHON, Component::Program("setpriv"), Component::Program("unshare"), Component::Program("hostname"));
    if !full_wall(who) {
        return;
    }
    let walled = attacked(who, &["--wall", "require", "--workspace", "same-path"], true);
    let open: Vec<&str> = walled.iter().filter(|(_, (worked, _))| *worked).map(|(name, _)| name.as_str()).collect();
    assert_eq!(open, named(OPEN, who), "open at the checkout's path\n{walled:#?}");
}

#[test]
fn every_attack_of_root_fails_at_the_checkouts_path() {
    the_view_holds(Who::Root);
}

#[test]
fn every_attack_of_an_ordinary_user_fails_at_the_checkouts_path() {
    the_view_holds(Who::User);
}

/// What the lower wall leaves open, where namespaces are refused.
/// The control socket itself refuses processes of the session; layers there are none.
const OPEN_WITHOUT_NAMESPACES: &[(&str, &str)] = &[
    ("reach an editor's server by its path", "root and user"),
    ("reach the control socket", "root and user"),
    ("reach the ssh agent by its path", "root and user"),
    (QUEUE, "root and user"),
    ("read the shared memory of another program", "root and user"),
    ("read the shared memory of another program by its file", "root and user"),
    ("servers in Claude Code's state", "root and user"),
    ("slow the supervisor down", "root and user"),
    ("write into the layers", "root and user"),
];

fn the_lower_wall_holds_but_for_what_is_named(who: Who) {
    crate::needs!(PYTHON, Component::Program("setpriv"), Component::Program("unshare"), Component::Program("hostname"));
    if who == Who::Root && !nix::unistd::getuid().is_root() {
        return;
    }
    let walled = attacked(who, &["--wall", "auto"], false);
    let open: Vec<&str> = walled.iter().filter(|(_, (worked, _))| *worked).map(|(name, _)| name.as_str()).collect();
    let mut named = named(OPEN_WITHOUT_NAMESPACES, who);
    named.retain(|name| *name != QUEUE || nix::unistd::getuid().is_root());
    let said: Vec<_> = open.iter().map(|name| (name, &walled[*name].1)).collect();
    assert_eq!(open, named, "open behind the lower wall\n{said:#?}");
}

#[test]
fn where_namespaces_are_refused_root_meets_the_lower_wall() {
    the_lower_wall_holds_but_for_what_is_named(Who::Root);
}

#[test]
fn where_namespaces_are_refused_a_user_meets_the_lower_wall() {
    the_lower_wall_holds_but_for_what_is_named(Who::User);
}
