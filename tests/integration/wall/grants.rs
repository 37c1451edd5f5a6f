//! What a grant opens, and that nothing is open without it; what is there afterwards.

use super::*;

/// Runs a script behind the full wall with these words of configuration; what it printed.
fn printed(world: &World, config: &[&str], script: &str) -> String {
    let mut flags = vec!["--wall", "require", "--workspace", "none"];
    for value in config {
        flags.extend(["--config", *value]);
    }
    world.run(&flags, &["bash", "-c", script]).run().success().stdout
}

fn whos() -> impl Iterator<Item = Who> {
    [Who::Root, Who::User].into_iter().filter(|who| full_wall(*who))
}

#[test]
fn a_credential_file_is_readable_only_when_allowed_and_then_without_its_token() {
    for who in whos() {
        let world = World::new(who);
        let npmrc = format!("wall.allow_read={}", world.env.home().join(".npmrc").display());
        assert_eq!(printed(&world, &[], "cat ~/.npmrc"), "");
        assert_eq!(printed(&world, &[&npmrc], "cat ~/.npmrc"), "registry=https://r.example/\n");
        let netrc = format!("wall.allow_read={}", world.env.home().join(".netrc").display());
        assert_eq!(printed(&world, &[&netrc], "cat ~/.netrc; cat ~/.npmrc"), "CANARY");
    }
}

#[test]
fn a_grant_of_a_link_shows_no_token_and_one_of_a_file_in_a_hidden_folder_shows_that_file_alone() {
    for who in whos() {
        let world = World::new(who);
        let home = world.env.home();
        fs::create_dir(home.join("dotfiles")).unwrap();
        fs::rename(home.join(".npmrc"), home.join("dotfiles/npm")).unwrap();
        std::os::unix::fs::symlink("dotfiles/npm", home.join(".npmrc")).unwrap();
        write(&home.join(".aws/config"), "[profile x]\n");
        world.give_away();
        let grant = |name: &str| format!("wall.allow_read={}", home.join(name).display());
        let npm = "cat ~/.npmrc ~/dotfiles/npm; true";
        assert!(fs::read_to_string(home.join(".npmrc")).unwrap().contains("CANARY"), "the control");
        assert_eq!(printed(&world, &[&grant(".npmrc")], npm), "registry=https://r.example/\n".repeat(2), "{who:?}");
        let aws = "cat ~/.aws/config ~/.aws/credentials; true";
        assert_eq!(printed(&world, &[], aws), "");
        assert_eq!(printed(&world, &[&grant(".aws/config")], aws), "[profile x]\n", "{who:?}");
        // The file itself is elsewhere, and the grant has the name in the hidden folder. Another link there leads to the folder itself.
        fs::rename(home.join(".aws/config"), home.join("dotfiles/aws")).unwrap();
        std::os::unix::fs::symlink("../dotfiles/aws", home.join(".aws/config")).unwrap();
        std::os::unix::fs::symlink(".", home.join(".aws/self")).unwrap();
        world.give_away();
        assert_eq!(printed(&world, &[], aws), "", "{who:?}");
        assert_eq!(printed(&world, &[&grant(".aws/config")], aws), "[profile x]\n", "{who:?}");
        // A wall that can show no other content shows none, and what has no token is read as it is.
        let degraded = |name: &str, script: &str| {
            let words = ["--workspace", "none", "--config", &grant(name)];
            world.run(&words, &["bash", "-c", script]).var("SENTRELY_TEST_HIDE", "namespaces").run().success().stdout
        };
        assert_eq!(degraded(".npmrc", npm), "", "{who:?}");
        assert_eq!(degraded(".aws/config", aws), "[profile x]\n", "{who:?}");
    }
}

/// A server where X servers are, at a number of the test's own. Its folder is everybody's, as theirs is.
struct XServer(PathBuf);

impl XServer {
    fn start() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let folder = Path::new("/tmp/.X11-unix");
        if fs::create_dir(folder).is_ok() {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o1777)).unwrap();
        }
        let number = std::process::id();
        let (path, listener) = (0..100)
            .map(|n| folder.join(format!("X{number}{n}")))
            .find_map(|path| std::os::unix::net::UnixListener::bind(&path).ok().map(|listener| (path, listener)))
            .unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let _ = std::io::Write::write_all(&mut &client, b"CANARY");
            }
        });
        Self(path)
    }
}

impl Drop for XServer {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn the_x_server_and_the_key_to_it_are_gone_unless_they_are_granted_and_the_session_may_start_one() {
    crate::needs!(crate::support::components::PYTHON);
    let server = XServer::start();
    let script = format!(
        "import os, socket\ns = socket.socket(socket.AF_UNIX)\ntry:\n s.connect('{0}')\n print(s.recv(6).decode())\nexcept OSError: print('nobody')\n\
         print(open(os.path.expanduser('~/.Xauthority')).read())\n\
         o = socket.socket(socket.AF_UNIX); o.bind('{0}own'); os.unlink('{0}own')\nprint('own')",
        server.0.display()
    );
    for who in whos() {
        let world = World::new(who);
        write(&world.env.home().join(".Xauthority"), "COOKIE");
        world.give_away();
        let said = |flags: &[&str]| {
            let run = world.run(&[&["--workspace", "none"], flags].concat(), &["python3", "-c", &script]);
            run.run().success().stdout
        };
        assert_eq!(said(&["--wall", "off"]), "CANARY\nCOOKIE\nown\n", "{who:?}: the control");
        assert_eq!(said(&["--wall", "require"]), "nobody\n\nown\n", "{who:?}");
        let granted = ["--wall", "require", "--config", "wall.x11=true"];
        assert_eq!(said(&granted), "CANARY\nCOOKIE\nown\n", "{who:?}");
        // In a /tmp of its own too, and the key where a display manager puts it.
        let private = [&granted[..], &["--config", "wall.private_tmp=true"]].concat();
        assert_eq!(said(&private), "CANARY\nCOOKIE\nown\n", "{who:?}");
        let key = world.env.root().join("xauth_1");
        write(&key, "COOKIE");
        world.give_away();
        let shown = |flags: &[&str]| {
            let run = world.run(&[&["--workspace", "none"], flags].concat(), &["bash", "-c", "cat $XAUTHORITY; true"]);
            run.var("XAUTHORITY", &key).run().success().stdout
        };
        assert_eq!(shown(&private), "COOKIE", "{who:?}");
        assert_eq!(shown(&["--wall", "require", "--config", "wall.private_tmp=true"]), "", "{who:?}");
    }
}

#[test]
fn credential_files_that_a_variable_puts_elsewhere_are_hidden_there() {
    let places = [
        ("XDG_CONFIG_HOME", "cfg", "cfg/gh/hosts.yml"),
        ("XDG_CONFIG_HOME", "cfg", "cfg/containers/auth.json"),
        ("CARGO_HOME", "rust", "rust/credentials.toml"),
        ("GNUPGHOME", "gnu", "gnu/private-keys-v1.d/k.key"),
        ("DOCKER_CONFIG", "containers", "containers/config.json"),
        ("TF_CLI_CONFIG_FILE", "terraform", "terraform"),
        ("NPM_CONFIG_USERCONFIG", "npm", "npm"),
    ];
    for who in whos() {
        let world = World::new(who);
        for (_, _, file) in places {
            let content =
                if file.contains(".json") { r#"{"auths":{"r.example":{"auth":"CANARY"}}}"# } else { "//r.example/:_authToken=CANARY\n" };
            write(&world.env.home().join(file), content);
        }
        world.give_away();
        for (name, value, file) in places {
            let script = format!("cat ~/{file} 2>/dev/null; true");
            let run = || world.run(&["--wall", "require", "--workspace", "none"], &["bash", "-c", &script]);
            let said = |run: Run<'_>| run.run().success().stdout.contains("CANARY");
            assert!(said(run()), "{who:?}: the control: nobody says that {file} is a secret");
            assert!(!said(run().var(name, world.env.home().join(value))), "{who:?}: {name} {file}");
        }
    }
}

#[test]
fn kerberos_tickets_are_hidden_where_they_are_by_themselves_and_where_a_variable_says() {
    for who in whos() {
        let world = World::new(who);
        let uid = if world.changes_user() { UID } else { nix::unistd::getuid().as_raw() };
        let usual = tempfile::Builder::new().prefix(&format!("krb5cc_{uid}_")).tempfile_in("/tmp").unwrap();
        write(usual.path(), "CANARY");
        write(&world.env.home().join("tickets"), "CANARY");
        world.give_away();
        std::os::unix::fs::chown(usual.path(), Some(uid), None).unwrap();
        let script = format!("cat ~/tickets {}; true", usual.path().display());
        let said = |wall: &str| {
            let run = world.run(&["--wall", wall, "--workspace", "none"], &["bash", "-c", &script]);
            run.var("KRB5CCNAME", format!("FILE:{}", world.env.home().join("tickets").display())).run().success().stdout
        };
        assert_eq!(said("off"), "CANARYCANARY", "{who:?}: the control");
        assert_eq!(said("require"), "", "{who:?}");
    }
}

#[test]
fn a_shared_directory_is_the_real_one_and_no_other_is() {
    for who in whos() {
        let world = World::new(who);
        for name in [".npm", ".other"] {
            fs::create_dir(world.env.home().join(name)).unwrap();
        }
        world.give_away();
        let share = format!("wall.share={}", world.env.home().join(".npm").display());
        printed(&world, &[&share], "echo x > ~/.npm/kept; echo x > ~/.other/kept");
        assert!(world.env.home().join(".npm/kept").exists() && !world.env.home().join(".other/kept").exists());
    }
}

#[test]
fn a_private_tmp_is_empty_and_leaves_nothing_and_the_session_works_all_the_same() {
    for who in whos() {
        let world = World::new(who);
        // The whole world is below /tmp: what the session needs of it is put into the new one.
        let said = printed(&world, &["wall.private_tmp=true"], "ls -A /tmp; echo x > /tmp/planted; pwd; cat ~/.bashrc; echo x > here");
        let folder = world.env.root().file_name().unwrap().to_str().unwrap();
        assert_eq!(said, format!("{folder}\n{}\n# mine\n", world.env.project().display()));
        assert!(!Path::new("/tmp/planted").exists() && world.env.project().join("here").exists());
    }
}

#[test]
fn shared_memory_is_the_sessions_own_and_the_real_one_where_it_is_shared() {
    for who in whos() {
        let world = World::new(who);
        let outside = tempfile::Builder::new().prefix("sentrely-wall-").tempfile_in("/dev/shm").unwrap();
        let own = format!("{}-own", outside.path().display());
        let script = format!("ls -A /dev/shm; echo x > {own} && cat {own} && rm {own}");
        assert_eq!(printed(&world, &[], &script), "x\n", "{who:?}");
        let said = printed(&world, &["wall.share=/dev/shm"], &script);
        assert!(said.contains(outside.path().file_name().unwrap().to_str().unwrap()) && said.ends_with("x\n"), "{who:?}: {said}");
    }
}

#[test]
fn setuid_programs_gain_nothing_unless_sudo_is_granted_and_for_a_user_that_is_no_wall() {
    for who in whos() {
        let world = World::new(who);
        let privileges = "grep NoNewPrivs /proc/self/status";
        assert_eq!(printed(&world, &[], privileges), "NoNewPrivs:\t1\n");
        let granted = world.run(&["--config", "wall.sudo=true", "--workspace", "none"], &["bash", "-c", privileges]).run().success();
        assert_eq!(granted.stdout, "NoNewPrivs:\t0\n");
        assert_eq!(granted.stderr.contains("wall      off (wall.sudo is granted"), who == Who::User, "{}", granted.stderr);
        if who == Who::User {
            let output = world.run(&["--wall", "require", "--config", "wall.sudo=true"], &["true"]).run().exits(125);
            assert!(output.stderr.contains("hint:"), "{}", output.stderr);
        }
    }
}

#[test]
fn the_end_names_what_was_left_in_the_copy_of_the_home_and_the_line_brings_it_back() {
    for who in whos() {
        let world = World::new(who);
        let script = "mkdir -p ~/bin ~/.cache/x; echo 'true' > ~/bin/tool; chmod +x ~/bin/tool; echo x > ~/.zshenv; rm ~/.netrc; echo y > ~/.cache/x/y";
        let output = world.run(&["--workspace", "none"], &["bash", "-c", &format!("rm -f ~/.bashrc; {script}")]).run().success();
        let said = output.stderr.lines().find(|line| line.contains("copy of your home")).unwrap();
        for part in ["made .zshenv (runs", "made bin (runs", "removed .bashrc"] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(!said.contains(".cache") && world.env.home().join(".bashrc").exists(), "{said}");
        let (_, line) = said.split_once("cp -a ").unwrap();
        let done = Command::new("sh").args(["-c", &format!("cp -a {line}")]).env("HOME", world.env.home()).status().unwrap();
        assert!(done.success() && world.env.home().join(".zshenv").exists());
    }
}

#[test]
fn a_copy_of_the_home_in_which_nothing_of_worth_was_left_goes_away() {
    for who in whos() {
        let world = World::new(who);
        let _ = world.run(&["--workspace", "none"], &["bash", "-c", "mkdir -p ~/.cache; echo x > ~/.cache/y"]).run().success();
        assert_eq!(fs::read_dir(world.env.root().join("layers")).unwrap().count(), 0);
    }
}

#[test]
fn a_login_made_inside_outlives_the_session_and_a_renewed_one_is_the_real_file() {
    for who in whos() {
        let world = World::new(who);
        let file = world.env.home().join(".claude/.credentials.json");
        let script = |token: &str| format!("echo '{{\"token\":\"{token}\"}}' > ~/.claude/.credentials.json");
        let _ = world.run(&["--workspace", "none"], &["bash", "-c", &script("first")]).run().success();
        assert_eq!(fs::read_to_string(&file).unwrap().trim(), r#"{"token":"first"}"#);
        // As the client does it: beside it and renamed, or in place where that is refused.
        let renew = "echo '{\"token\":\"second\"}' > ~/.claude/new; mv -T ~/.claude/new ~/.claude/.credentials.json 2>/dev/null || cat ~/.claude/new > ~/.claude/.credentials.json";
        let _ = world.run(&["--workspace", "none"], &["bash", "-c", renew]).run().success();
        assert_eq!(fs::read_to_string(&file).unwrap().trim(), r#"{"token":"second"}"#);
    }
}

#[test]
fn a_login_made_inside_outlives_a_session_that_crashed_and_no_link_of_the_commands_leads_to_another() {
    use crate::support::run::wait_until;
    use nix::sys::signal::{Signal, kill};
    for who in whos() {
        for moved in [false, true] {
            let world = World::new(who);
            let file = world.env.home().join(".claude/.credentials.json");
            // Another login of the user's, to which the command would like its own folder to lead.
            write(&world.env.home().join("work-profile/.credentials.json"), "another");
            world.give_away();
            let login = if moved {
                "mv ~/.claude ~/away 2>/dev/null && ln -s ~/work-profile ~/.claude; test -e ~/.claude/.credentials.json"
            } else {
                "echo made-inside > ~/.claude/.credentials.json"
            };
            let script = format!("{login}; touch here; exec sleep 600");
            let running = world.run(&["--wall", "require", "--workspace", "none"], &["bash", "-c", &script]).spawn();
            wait_until(Duration::from_mins(1), "the login", || world.env.project().join("here").exists());
            let id = world.env.sessions().into_iter().find(|id| id != "other").unwrap();
            let status: serde_json::Value =
                serde_json::from_slice(&fs::read(world.env.session_dir(&id).join("status.json")).unwrap()).unwrap();
            let both = [i32::try_from(status["session"]["pid"].as_i64().unwrap()).unwrap(), running.pid()];
            for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
                for pid in both {
                    kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
                }
            }
            let _ = running.wait(Duration::from_mins(1));
            world.env.wait_until_nobody_holds(&id);
            assert!(!file.exists(), "the control: it lies in the session's copy");
            let _ = world.run(&["--workspace", "none"], &["true"]).run().success();
            let kept = fs::read_to_string(&file).ok();
            assert_eq!(kept.as_deref(), (!moved).then_some("made-inside\n"), "{who:?}");
            assert_eq!(fs::read_to_string(world.env.home().join("work-profile/.credentials.json")).unwrap(), "another");
        }
    }
}
