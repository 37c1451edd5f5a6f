//! What is said of the wall, and that what it says of sockets, of a machine without namespaces and of Claude Code's state file is so.

use super::*;
use crate::support::components::PYTHON;

fn whos() -> impl Iterator<Item = Who> {
    [Who::Root, Who::User].into_iter().filter(|who| full_wall(*who))
}

/// Serves every path it is given, and is heard with CANARY.
const SERVE: &str = r"
import os, socket, sys, threading
def serve(path):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    s = socket.socket(socket.AF_UNIX); s.bind(path); os.chmod(path, 0o666); s.listen()
    def answer():
        while True: s.accept()[0].sendall(b'CANARY')
    threading.Thread(target=answer, daemon=True).start()
for path in sys.argv[1:]: serve(path)
print('ready', flush=True)
sys.stdin.read()
";

/// Prints every path at which somebody is heard.
const HEAR: &str = r"
import os, socket, sys
for path in sys.argv[1:]:
    s = socket.socket(socket.AF_UNIX); s.settimeout(5)
    try:
        s.connect(path)
        if s.recv(9): print(path)
    except OSError: pass
";

/// Servers in a runtime directory, of the user's own or somebody else's, and in a `/run`: at whose sockets the session is heard, without a grant
/// and with docker's. All of them, and those of the directory: docker's, the bus, and others.
struct Heard {
    in_runtime: [String; 5],
    of_machine: [String; 3],
    bare: Vec<String>,
    granted: Vec<String>,
}

fn hear(who: Who, foreign: bool) -> Heard {
    let world = World::new(who);
    let runtime = world.env.root().join("runtime");
    let in_runtime = ["docker.sock", "bus", "gnupg/S.gpg-agent", "systemd/private", "other/named-nowhere"]
        .map(|name| runtime.join(name).display().to_string());
    let of_machine = ["/run/docker.sock", "/run/dbus/system_bus_socket", "/run/systemd/private"].map(str::to_owned);
    fs::create_dir(&runtime).unwrap();
    let mode = if foreign { 0o755 } else { 0o700 };
    fs::set_permissions(&runtime, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    let sockets = [&in_runtime[..], &of_machine[..]].concat();
    write(&world.env.root().join("serve.py"), SERVE);
    world.give_away();
    // A /run of the test's own, with servers in it that live as long as the session's command is waited for.
    let script = "mount -t tmpfs -o mode=755 t /run && mkfifo \"$R/ready\" \"$R/hold\" && { python3 \"$R/serve.py\" $SOCKETS <\"$R/hold\" >\"$R/ready\" & } \
                      && exec 9>\"$R/hold\" && read -r _ <\"$R/ready\" && chown -R \"$OWNER\" \"$R/runtime\" && exec \"$@\"";
    let heard = |flags: &[&str]| -> Vec<String> {
        for pipe in ["ready", "hold"] {
            let _ = fs::remove_file(world.env.root().join(pipe));
        }
        for path in &in_runtime {
            let _ = fs::remove_file(path);
        }
        let mut words: Vec<String> = ["unshare", "-m", "sh", "-c", script, "sh"].map(str::to_owned).to_vec();
        words.extend(world.as_who());
        words.extend([world.sentrely.display().to_string(), "run".to_owned(), "--workspace".to_owned(), "none".to_owned()]);
        words.extend(flags.iter().map(|flag| (*flag).to_owned()));
        words.extend(["--", "python3", "-c", HEAR].map(str::to_owned));
        words.extend(sockets.iter().cloned());
        let run = world.env.command(&words[0], &words[1..]).var("PATH", PATH).var("R", world.env.root()).var("SOCKETS", sockets.join(" "));
        let run = run
            .var("OWNER", if world.changes_user() == foreign { "0".to_owned() } else { UID.to_string() })
            .var("XDG_RUNTIME_DIR", &runtime);
        let run = run
            .var("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={}", in_runtime[1]))
            .var("DOCKER_HOST", format!("unix://{}", in_runtime[0]));
        run.run().success().stdout.lines().map(str::to_owned).collect()
    };
    let bare = heard(&["--wall", "require"]);
    let granted = heard(&["--wall", "require", "--config", "wall.docker=true"]);
    assert_eq!(heard(&["--wall", "off"]), sockets, "{who:?}: the control");
    Heard { in_runtime, of_machine, bare, granted }
}

#[test]
fn sockets_of_docker_the_bus_and_the_users_runtime_are_gone_and_docker_alone_comes_back_when_granted() {
    crate::needs!(PYTHON, Component::Root);
    for who in whos() {
        let Heard { in_runtime, of_machine, bare, granted } = hear(who, false);
        assert_eq!(bare, Vec::<String>::new(), "{who:?}");
        assert_eq!(granted, [in_runtime[0].clone(), of_machine[0].clone()], "{who:?}");
    }
}

/// As after `su`, which leaves the variable as it was: nobody but root may put something in the place of another user's directory.
#[test]
fn in_somebody_elses_runtime_directory_what_variables_name_is_gone_and_a_grant_of_docker_works_all_the_same() {
    crate::needs!(PYTHON, Component::Root);
    for who in whos() {
        let Heard { in_runtime, of_machine, bare, granted } = hear(who, true);
        let others = if who == Who::Root { &[][..] } else { &in_runtime[2..] };
        assert_eq!(bare, others, "{who:?}");
        assert_eq!(granted, [&in_runtime[..1], others, &of_machine[..1]].concat(), "{who:?}");
    }
}

#[test]
fn doctor_names_what_is_in_force_every_hidden_file_and_what_stays_open() {
    crate::needs!(PYTHON);
    for who in whos() {
        let world = World::new(who);
        write(&world.env.root().join("no_namespaces.py"), include_str!("no_namespaces.py"));
        world.give_away();
        let doctor = |before: &[&str]| {
            let mut words = world.as_who();
            words.extend(before.iter().map(|word| (*word).to_owned()));
            words.extend([world.sentrely.display().to_string(), "doctor".to_owned(), "--json".to_owned()]);
            let output = world.env.command(&words[0], &words[1..]).var("PATH", PATH).run();
            let document: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
            let check = document["checks"].as_array().unwrap().iter().find(|check| check["name"] == "wall").unwrap().clone();
            (check["status"].as_str().unwrap().to_owned(), check["what"].as_str().unwrap().to_owned())
        };
        let home = world.env.home();
        let hidden = [".aws", ".ssh/id_ed25519", ".git-credentials", ".config/gh", ".npmrc", ".netrc", ".docker/config.json"]
            .map(|name| home.join(name).display().to_string());
        let script = world.env.root().join("no_namespaces.py").display().to_string();
        let heights = [(&[][..], "ok", "full: "), (&["python3", script.as_str()][..], "warn", "degraded (make namespaces: ")];
        for (before, status, begin) in heights {
            let (is, what) = doctor(before);
            assert!(is == status && what.starts_with(begin), "{who:?}: {is}: {what}");
            for part in hidden.iter().map(String::as_str).chain(["open: the network", "files outside your home", "hidden: "]) {
                assert!(what.contains(part), "{who:?}: {part}: {what}");
            }
        }
    }
}

#[test]
fn require_refuses_to_run_where_namespaces_are_refused_and_auto_says_what_it_is() {
    crate::needs!(PYTHON);
    for who in whos() {
        let world = World::new(who);
        write(&world.env.root().join("no_namespaces.py"), include_str!("no_namespaces.py"));
        world.give_away();
        let script = world.env.root().join("no_namespaces.py").display().to_string();
        let run = |wall: &str| {
            let mut words = world.as_who();
            words.extend(["python3", &script].map(str::to_owned));
            words.extend([world.sentrely.display().to_string()]);
            words.extend(["run", "--wall", wall, "--", "true"].map(str::to_owned));
            world.env.command(&words[0], &words[1..]).var("PATH", PATH).run()
        };
        let output = run("require").exits(125);
        assert!(output.stderr.contains("put up the full wall: make namespaces: ") && output.stderr.contains("hint:"), "{}", output.stderr);
        assert_eq!(world.env.sessions(), ["other"], "nothing was made");
        let output = run("auto").success();
        assert!(output.stderr.contains("wall      degraded (no namespaces here: make namespaces: "), "{}", output.stderr);
        let id = world.env.sessions().into_iter().find(|id| id != "other").unwrap();
        let notices: String =
            world.env.events(&id, "notice").iter().map(|event| event["what"].as_str().unwrap().to_owned() + "\n").collect();
        assert!(
            notices.contains("wall: hidden: ") && notices.contains(".aws") && notices.contains("wall: open: the network; "),
            "{notices}"
        );
    }
}

#[test]
fn of_claude_codes_state_file_only_what_lets_nothing_run_comes_back() {
    crate::needs!(PYTHON);
    for who in whos() {
        let world = World::new(who);
        let file = world.env.home().join(".claude.json");
        let project = world.env.project().display().to_string();
        let before = serde_json::json!({ "theme": "dark", "numStartups": 1, "mine": 1, "projects": { &project: { "hasTrustDialogAccepted": true, "allowedTools": ["Read"], "lastCost": 1 } } });
        write(&file, &before.to_string());
        world.give_away();
        let script = r#"
import json, os
path = os.path.expanduser("~/.claude.json")
state = json.load(open(path))
state.update(theme="light", numStartups=2, mine=2, mcpServers={"x": {"command": "evil"}}, bypassPermissionsModeAccepted=True)
state["projects"][os.getcwd()].update(lastCost=2, lastSessionId="s", allowedTools=["Bash(*)"], enabledMcpjsonServers=["x"], mcpServers={"x": {}})
state["projects"]["/elsewhere"] = {"hasTrustDialogAccepted": True, "lastCost": 9}
json.dump(state, open(path + ".tmp", "w"))
os.rename(path + ".tmp", path)
assert json.load(open(path))["theme"] == "light"
"#;
        let _ = world.run(&["--wall", "require", "--workspace", "none"], &["python3", "-c", script]).run().success();
        let after: serde_json::Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        let kept = serde_json::json!({ "theme": "light", "numStartups": 2, "mine": 1, "projects": { &project: {
            "hasTrustDialogAccepted": true, "allowedTools": ["Read"], "lastCost": 2, "lastSessionId": "s" } } });
        assert_eq!(after, kept, "{who:?}");
    }
}
