//! What an agent leaves in its clone for whoever works there from outside the wall: links to files of the developer's, pipes, files without
//! end. Each trap has its control: what a plain write, or git itself, would do there.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use sentrely::git::{Bring, Checkout, CloneRequest, Collected, GitError, Workspace, collect, lay_over, remove_clone, reopen};

use super::{WIP, at, commit};
use crate::support::git::{BRANCH, Lab, photograph};

const GATE: &str = "http://127.0.0.1:9/n0nce/repo.git";
/// A collector that waits for a pipe waits for ever.
const SOON: Duration = Duration::from_mins(1);

fn pipe(path: &Path) {
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
}

/// The developer's home, with what an agent would like to write to.
fn victim(lab: &Lab, name: &str) -> PathBuf {
    let home = lab.path(name);
    fs::create_dir(&home).unwrap();
    for (file, content) in [(".gitconfig", "[user]\n\tname = Ada\n"), (".bashrc", "# mine\n"), ("HEAD", "ref: refs/heads/mine\n")] {
        fs::write(home.join(file), content).unwrap();
    }
    home
}

fn resumed(lab: &Lab, plant: impl Fn(&Path, &Path)) -> (Workspace, PathBuf, [String; 2]) {
    let root = lab.repository("tool", &[]);
    lab.ok(&root, &["remote", "add", "origin", "https://example.org/tool.git"]);
    let (checkout, workspace) = lab.session(&root);
    let done = commit(lab, &workspace.root, ".bashrc", "echo evil\n");
    fs::write(workspace.root.join("later.txt"), "uncommitted\n").unwrap();
    let home = victim(lab, "victim");
    let before = (photograph(&home), untouched(&root));
    plant(&workspace.root, &home);
    let dir = workspace.state.parent().unwrap();
    let bring = Bring::default();
    let request = CloneRequest { dir, branch: BRANCH, base: None, gate_url: Some(GATE), bring, session: workspace.session };
    let again = reopen(&checkout, &request, &workspace).unwrap();
    assert_eq!((photograph(&home), untouched(&root)), before, "nothing of the developer's changed: {:?}", again.notices);
    for path in [again.root.clone(), again.root.join(".git"), again.root.join(".git/config")] {
        assert!(!path.symlink_metadata().unwrap().is_symlink(), "{}", path.display());
    }
    assert_eq!(lab.agent_ok(&again.root, &["remote", "get-url", "--push", "origin"]), GATE);
    let tip = lab.agent_ok(&again.root, &["log", "-1", "--format=%H", "--", ".bashrc"]);
    (again, root, [done, tip])
}

/// What of the developer's repository no session may change.
fn untouched(root: &Path) -> Vec<Option<String>> {
    let files = ["HEAD", "config", "index", "refs/heads/main", "packed-refs", "objects/info/alternates"];
    let read = |file: &str| fs::read(root.join(".git").join(file)).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    files.into_iter().map(read).chain([fs::read_to_string(root.join("README.md")).ok()]).collect()
}

#[test]
fn a_resumed_clone_gets_its_gate_and_no_planted_configuration_is_written_through_or_waited_for() {
    type Plant = (&'static str, bool, fn(&Path, &Path));
    let plants: [Plant; 6] = [
        ("a link", false, |config, home| {
            fs::remove_file(config).unwrap();
            symlink(home.join(".gitconfig"), config).unwrap();
        }),
        ("a second name", true, |config, home| {
            fs::remove_file(config).unwrap();
            fs::hard_link(home.join(".gitconfig"), config).unwrap();
        }),
        ("a pipe", false, |config, _| {
            fs::remove_file(config).unwrap();
            pipe(config);
        }),
        ("no end", false, |config, _| {
            fs::remove_file(config).unwrap();
            symlink("/dev/zero", config).unwrap();
        }),
        ("an inclusion of a pipe", false, |config, home| {
            pipe(&config.with_file_name("pipe"));
            fs::write(config, format!("[InClude]\n\tpath = {}\n", config.with_file_name("pipe").display())).unwrap();
            assert!(home.is_dir());
        }),
        ("nonsense", false, |config, _| fs::write(config, "[[[\n").unwrap()),
    ];
    for (name, kept, plant) in plants {
        let lab = Lab::new();
        let (again, _, [done, tip]) = resumed(&lab, |root, home| plant(&root.join(".git/config"), home));
        assert_eq!(done, tip, "{name}");
        assert_eq!(fs::read_to_string(again.root.join("later.txt")).unwrap(), "uncommitted\n", "{name}");
        let told = again.notices.iter().any(|notice| notice.contains("as it was in the beginning"));
        assert_eq!(told, !kept, "{name}: {:?}", again.notices);
        // The agent's own settings stay where they could be read.
        let said = lab.agent(&again.root, &["config", "user.email"]);
        assert_eq!(said.out.trim(), if kept { "" } else { "Ada@example.org" }, "{name}");
    }
    // The control: libgit2 writes through such a link.
    let lab = Lab::new();
    let home = victim(&lab, "control");
    symlink(home.join(".gitconfig"), home.join("config")).unwrap();
    git2::Config::open(&home.join("config")).unwrap().set_str("remote.origin.url", GATE).unwrap();
    assert!(fs::read_to_string(home.join(".gitconfig")).unwrap().contains(GATE));
}

#[test]
fn a_resumed_session_makes_no_repository_where_a_link_in_its_clones_place_leads() {
    type Plant = (&'static str, fn(&Path, &Path));
    let away = |root: &Path| fs::rename(root, root.with_file_name("moved")).unwrap();
    let plants: [Plant; 5] = [
        ("the clone is a link to the home", |root, home| {
            fs::rename(root, root.with_file_name("moved")).unwrap();
            symlink(home, root).unwrap();
        }),
        ("the git directory is a link to the home", |root, home| {
            fs::rename(root.join(".git"), root.with_file_name("moved")).unwrap();
            symlink(home, root.join(".git")).unwrap();
        }),
        ("the git directory is a link to the developer's", |root, home| {
            fs::rename(root.join(".git"), root.with_file_name("moved")).unwrap();
            symlink(home.with_file_name("tool").join(".git"), root.join(".git")).unwrap();
        }),
        ("a file leads to the developer's", |root, home| {
            fs::rename(root.join(".git"), root.with_file_name("moved")).unwrap();
            fs::write(root.join(".git"), format!("gitdir: {}\n", home.with_file_name("tool").join(".git").display())).unwrap();
        }),
        ("a folder of the clone is a link to the home", |root, home| {
            fs::remove_dir_all(root.join(".git")).unwrap();
            fs::remove_dir_all(root.join("src")).unwrap();
            symlink(home, root.join("src")).unwrap();
        }),
    ];
    for (name, plant) in plants {
        let lab = Lab::new();
        let (again, _, _) = resumed(&lab, plant);
        assert!(again.notices.iter().any(|notice| notice.contains("what lay in its place is in")), "{name}: {:?}", again.notices);
        assert_eq!(lab.agent_ok(&again.root, &["symbolic-ref", "HEAD"]), format!("refs/heads/{BRANCH}"), "{name}");
        assert!(lab.agent(&again.root, &["fsck"]).ok, "{name}");
        // Its files were brought home, but for those behind the link.
        let saved = fs::read_to_string(again.root.join("later.txt")).ok();
        assert_eq!(saved.is_some(), !name.starts_with("the clone is"), "{name}");
    }
    // The control: a checkout of the same branch by way of such a link writes to the home.
    let lab = Lab::new();
    let root = lab.repository("tool", &[]);
    let (checkout, workspace) = lab.session(&root);
    commit(&lab, &workspace.root, ".bashrc", "echo evil\n");
    collect(&checkout, &workspace, None).unwrap();
    away(&workspace.root);
    let home = victim(&lab, "victim");
    symlink(&home, &workspace.root).unwrap();
    let planted = git2::Repository::init(&workspace.root).unwrap();
    planted.odb().unwrap().add_disk_alternate(root.join(".git/objects").to_str().unwrap()).unwrap();
    let tip = git2::Oid::from_str(&at(&lab, &root, BRANCH).unwrap()).unwrap();
    planted.reference("refs/heads/x", tip, true, "").unwrap();
    planted.set_head("refs/heads/x").unwrap();
    planted.checkout_head(Some(git2::build::CheckoutBuilder::new().force())).unwrap();
    assert_eq!(fs::read_to_string(home.join(".bashrc")).unwrap(), "echo evil\n");
}

#[test]
fn what_was_set_aside_with_work_that_could_not_be_read_keeps_the_session() {
    let lab = Lab::new();
    let (again, root, _) = resumed(&lab, |root, home| {
        fs::rename(root.join(".git"), home.with_file_name("elsewhere")).unwrap();
        fs::write(root.join(".git"), format!("gitdir: {}\n", home.with_file_name("elsewhere").display())).unwrap();
    });
    let checkout = lab.checkout(&root);
    let error = remove_clone(&checkout, &again, WIP).unwrap_err();
    assert!(error.to_string().contains("set-aside/1/tool"), "{error}");
    fs::remove_dir_all(again.set_aside.first().unwrap()).unwrap();
    remove_clone(&checkout, &again, WIP).unwrap();
}

/// The collector on a thread of its own: it comes back in time.
fn collected(checkout: &Checkout, workspace: &Workspace, what: &str) -> Collected {
    let (tell, told) = mpsc::channel();
    let (checkout, workspace) = (checkout.clone(), workspace.clone());
    std::thread::spawn(move || {
        let _ = tell.send(collect(&checkout, &workspace, Some(WIP))); // nobody waits any more
    });
    told.recv_timeout(SOON).unwrap_or_else(|_| panic!("{what}: the collector is held")).unwrap_or_else(|error| panic!("{what}: {error:?}"))
}

/// From now on this thread may read and enter only what the modes let the owner; the programs that it starts may do more.
fn as_an_ordinary_user() {
    #[cfg(target_os = "linux")]
    {
        use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
        let mut sets = capabilities(None).unwrap();
        sets.effective -= CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
        set_capabilities(None, sets).unwrap();
    }
}

/// A repository that libgit2 does all of, and one that git's plumbing is needed for.
fn both(lab: &Lab, sparse: bool) -> (PathBuf, Checkout, Workspace) {
    let root = lab.repository("tool", &[]);
    if sparse {
        lab.ok(&root, &["sparse-checkout", "set", "src"]);
    }
    let (checkout, workspace) = lab.session(&root);
    (root, checkout, workspace)
}

#[test]
fn whatever_lies_in_the_place_of_a_file_that_git_opens_the_work_is_saved_in_time_and_it_is_named() {
    type Plant = (&'static str, fn(&Path));
    let plants: [Plant; 4] = [
        ("a pipe", pipe),
        ("a link to a pipe", |path| {
            let target = path.ancestors().nth(4).unwrap().join("a-pipe");
            if !target.exists() {
                pipe(&target);
            }
            symlink(target, path).unwrap();
        }),
        ("a link to a device", |path| symlink("/dev/zero", path).unwrap()),
        ("a file without end", |path| fs::File::create(path).unwrap().set_len(1 << 40).unwrap()),
    ];
    // Whether it is named: what nobody reads is not.
    let places = [
        (".gitignore", true),
        (".gitattributes", true),
        (".gitmodules", true),
        ("src/.gitignore", true),
        ("new/.gitattributes", true),
        (".git/HEAD", true),
        (".git/packed-refs", true),
        (".git/refs/heads/other", true),
        (".git/logs/refs/stash", true),
        (".git/index", false),
        (".git/config", false),
        (".git/info/exclude", false),
        (".git/info/attributes", false),
        (".git/objects/info/alternates", false),
        (".git/shallow", false),
        (".git/commondir", false),
    ];
    for sparse in [false, true] {
        let lab = Lab::new();
        let (root, checkout, workspace) = both(&lab, sparse);
        fs::create_dir(workspace.root.join("new")).unwrap();
        fs::create_dir_all(workspace.root.join(".git/logs/refs")).unwrap();
        for (number, (name, named)) in places.iter().enumerate() {
            let path = workspace.root.join(name);
            let before = fs::read(&path).ok();
            for (planted, plant) in plants.into_iter().take(if sparse { 2 } else { plants.len() }) {
                let what = format!("{planted} as {name}, {}", if sparse { "by git" } else { "by libgit2" });
                let _ = fs::remove_file(&path);
                plant(&path);
                let content = format!("{number} {planted}\n");
                fs::write(workspace.root.join("src/work.txt"), &content).unwrap();
                let collected = collected(&checkout, &workspace, &what);
                assert_eq!(
                    lab.ok(&root, &["show", &format!("{}:src/work.txt", collected.branch)]) + "\n",
                    content,
                    "{what}: {collected:?}"
                );
                let short = name.strip_prefix(".git/").unwrap_or(name);
                let said = collected.left_out.iter().chain(&collected.notices).any(|line| line.contains(short));
                // As git itself does: it stores such a link, and takes no rules from it. One in the place of .gitmodules it refuses.
                let as_it_is = planted.starts_with("a link") && [".gitignore", ".gitattributes"].iter().any(|rules| name.ends_with(rules));
                assert_eq!(said, *named && !as_it_is, "{what}: {collected:?}");
                if as_it_is {
                    let stored = lab.ok(&root, &["ls-tree", &collected.branch, name]);
                    assert!(stored.starts_with("120000 "), "{what}: {stored}");
                    let target = fs::read_link(&path).unwrap().display().to_string();
                    assert_eq!(lab.ok(&root, &["show", &format!("{}:{name}", collected.branch)]), target, "{what}");
                }
                assert!(lab.git(&root, &["show", &format!("{}:README.md", collected.branch)]).ok, "{what}: nothing counts as removed");
            }
            fs::remove_file(&path).unwrap();
            if let Some(content) = before {
                fs::write(&path, content).unwrap();
            }
        }
        // The control: git, with the clone as its work tree, waits.
        fs::remove_file(workspace.root.join(".gitignore")).unwrap();
        pipe(&workspace.root.join(".gitignore"));
        let said = lab.run("agent-home", &workspace.root, "timeout", &["-k", "1", "2", "git", "status"]);
        assert!(!said.ok && said.out.is_empty(), "{said:?}");
    }
}

#[test]
fn a_pipe_that_comes_and_goes_holds_nobody() {
    let lab = Lab::new();
    let (root, checkout, workspace) = both(&lab, false);
    let over = Arc::new(AtomicBool::new(false));
    let agent = std::thread::spawn({
        let (over, file) = (Arc::clone(&over), workspace.root.join("src/.gitignore"));
        move || {
            while !over.load(Ordering::Relaxed) {
                pipe(&file);
                fs::remove_file(&file).unwrap();
                fs::write(&file, "*.log\n").unwrap();
                fs::remove_file(&file).unwrap();
            }
        }
    });
    for round in 0..30 {
        fs::write(workspace.root.join("src/work.txt"), format!("{round}\n")).unwrap();
        let collected = collected(&checkout, &workspace, "a pipe from time to time");
        assert_eq!(lab.ok(&root, &["show", &format!("{}:src/work.txt", collected.branch)]), round.to_string());
    }
    over.store(true, Ordering::Relaxed);
    agent.join().unwrap();
}

/// The agent swaps folders of its own for links while the collector is at work, as fast as it can.
#[test]
fn folders_that_come_and_go_as_links_bring_nothing_of_another_repository_home() {
    for sparse in [false, true] {
        let lab = Lab::new();
        let (root, checkout, workspace) = both(&lab, sparse);
        let secret = lab.repository("secret", &[]);
        symlink("a-password", secret.join("src/pointer")).unwrap();
        let hidden = commit(&lab, &secret, "secret.txt", "a secret of the developer's\n");
        lab.ok(&secret, &["gc", "--quiet"]);
        let loose = commit(&lab, &secret, "src/pointer", "another one\n");
        fs::remove_file(secret.join("src/pointer")).unwrap();
        symlink("a-password", secret.join("src/pointer")).unwrap();
        let git_dir = workspace.root.join(".git");
        for (name, id) in [("hidden", &hidden), ("loose", &loose)] {
            fs::write(git_dir.join("refs/heads").join(name), format!("{id}\n")).unwrap();
        }
        fs::create_dir_all(git_dir.join("objects/pack")).unwrap();
        let swapped = |from: &str, to: PathBuf| (workspace.root.join(from), to);
        let mut folders = vec![swapped("src", secret.join("src")), swapped(".git/objects/pack", secret.join(".git/objects/pack"))];
        for byte in [&hidden[..2], &loose[..2]] {
            let _ = fs::create_dir(git_dir.join("objects").join(byte));
            folders.push(swapped(&format!(".git/objects/{byte}"), secret.join(".git/objects").join(byte)));
        }
        folders.push(swapped(".git/refs/heads", secret.join(".git/refs/heads")));
        // The control: through these links everything is there.
        fs::rename(&folders[1].0, folders[1].0.with_extension("away")).unwrap();
        symlink(&folders[1].1, &folders[1].0).unwrap();
        assert!(lab.agent(&workspace.root, &["cat-file", "-e", &hidden]).ok);
        fs::remove_file(&folders[1].0).unwrap();
        fs::rename(folders[1].0.with_extension("away"), &folders[1].0).unwrap();

        let over = Arc::new(AtomicBool::new(false));
        let agent = std::thread::spawn({
            let over = Arc::clone(&over);
            move || {
                while !over.load(Ordering::Relaxed) {
                    for (folder, target) in &folders {
                        let away = folder.with_extension("away");
                        fs::rename(folder, &away).unwrap();
                        symlink(target, folder).unwrap();
                        fs::remove_file(folder).unwrap();
                        fs::rename(&away, folder).unwrap();
                    }
                }
            }
        });
        for round in 0..if sparse { 5 } else { 40 } {
            fs::write(workspace.root.join("work.txt"), format!("{round}\n")).unwrap();
            // A round may fail for what it finds; the next one is there for that.
            let _ = collect(&checkout, &workspace, Some(WIP));
        }
        over.store(true, Ordering::Relaxed);
        agent.join().unwrap();
        let collected = collected(&checkout, &workspace, "the last round");
        assert!(collected.wip && lab.git(&root, &["show", &format!("{}:work.txt", collected.branch)]).ok, "{collected:?}");
        for id in [&hidden, &loose] {
            assert!(!lab.git(&root, &["cat-file", "-e", id]).ok, "{id} is in the developer's repository");
        }
        let everything = lab.ok(&root, &["log", "--all", "-p", "--format=%B"]);
        for secret in ["a secret of the developer's", "another one", "a-password"] {
            assert!(!everything.contains(secret), "{everything}");
        }
    }
}

#[test]
fn names_that_no_commit_may_hold_are_named_and_the_rest_is_saved() {
    for sparse in [false, true] {
        let lab = Lab::new();
        let (root, checkout, workspace) = both(&lab, sparse);
        fs::write(workspace.root.join("src/git~1"), "x").unwrap();
        fs::write(workspace.root.join("src/work.txt"), "saved\n").unwrap();
        let collected = collected(&checkout, &workspace, "odd names");
        assert_eq!(lab.ok(&root, &["show", &format!("{BRANCH}:src/work.txt")]), "saved", "{collected:?}");
        assert!(sparse || collected.left_out.iter().any(|path| path == "src/git~1"), "{collected:?}");
    }
}

/// What comes home and whether the clone may go, where `closed` may not be looked at.
fn by_an_ordinary_user(checkout: &Checkout, workspace: &Workspace, closed: &Path) -> (Collected, Result<Collected, GitError>) {
    std::thread::scope(|scope| {
        let ordinary = scope.spawn(|| {
            as_an_ordinary_user();
            let control = closed.symlink_metadata().unwrap_err();
            assert_eq!(control.kind(), std::io::ErrorKind::PermissionDenied, "{}", closed.display());
            (collect(checkout, workspace, Some(WIP)).unwrap(), remove_clone(checkout, workspace, WIP))
        });
        ordinary.join().unwrap()
    })
}

#[test]
fn a_clone_that_may_be_listed_and_not_be_entered_does_not_count_as_emptied() {
    for sparse in [false, true] {
        let lab = Lab::new();
        let (root, checkout, workspace) = both(&lab, sparse);
        commit(&lab, &workspace.root, "src/work.txt", "committed\n");
        collect(&checkout, &workspace, Some(WIP)).unwrap();
        fs::write(workspace.root.join("README.md"), "changed\n").unwrap();
        fs::write(workspace.root.join("new.txt"), "new\n").unwrap();
        fs::set_permissions(&workspace.root, fs::Permissions::from_mode(0o644)).unwrap();
        let (collected, removed) = by_an_ordinary_user(&checkout, &workspace, &workspace.root.join("README.md"));
        fs::set_permissions(&workspace.root, fs::Permissions::from_mode(0o755)).unwrap();
        for path in ["README.md", "new.txt", "src"] {
            assert!(collected.left_out.iter().any(|left| left == path), "{path}: {collected:?}");
        }
        assert!(removed.is_err() && !collected.wip, "{collected:?}");
        let names = ["ls-tree", "-r", "--name-only"];
        let [before, after] = ["main", BRANCH].map(|branch| lab.ok(&root, &[&names[..], &[branch]].concat()));
        let gone: Vec<&str> = before.lines().filter(|path| !after.lines().any(|kept| kept == *path)).collect();
        assert!(gone.is_empty() && after.contains("src/work.txt"), "{gone:?} {after}");
        remove_clone(&checkout, &workspace, WIP).unwrap();
        assert_eq!(lab.ok(&root, &["show", &format!("{BRANCH}:README.md")]), "changed");
    }
}

#[test]
fn what_is_in_folders_that_may_not_be_listed_or_not_be_entered_is_named_and_counts_as_it_was() {
    for (sparse, mode) in [(false, 0o000), (false, 0o644), (true, 0o000), (true, 0o644)] {
        let lab = Lab::new();
        let (root, checkout, workspace) = both(&lab, sparse);
        let what = format!("{mode:o}, {}", if sparse { "by git" } else { "by libgit2" });
        let [closed, shut] = ["closed", "shut"].map(|name| workspace.root.join("src").join(name));
        for folder in [&closed, &shut] {
            fs::create_dir_all(folder.join("deep")).unwrap();
            fs::write(folder.join("deep/in"), "deep\n").unwrap();
        }
        symlink("in", closed.join("link")).unwrap();
        fs::write(closed.join("in"), "committed\n").unwrap();
        lab.agent_ok(&workspace.root, &["add", "src/closed"]);
        lab.agent_ok(&workspace.root, &["commit", "--quiet", "--message", "closed"]);
        fs::write(closed.join("in"), "changed\n").unwrap();
        fs::write(shut.join("in"), "new\n").unwrap();
        fs::write(workspace.root.join("src/work.txt"), "saved\n").unwrap();
        let close = |mode: u32| [&closed, &shut].map(|folder| fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap());
        close(mode);
        let (collected, removed) = by_an_ordinary_user(&checkout, &workspace, &closed.join("in"));
        close(0o755);
        assert_eq!(collected.left_out, ["src/closed", "src/shut"], "{what}");
        let saved = |path: &str| lab.git(&root, &["show", &format!("{BRANCH}:{path}")]).out;
        assert_eq!(saved("src/work.txt"), "saved\n", "{what}");
        for (path, content) in [("src/closed/in", "committed\n"), ("src/closed/link", "in"), ("src/closed/deep/in", "deep\n")] {
            assert_eq!(saved(path), content, "{what}: {path}");
        }
        assert!(removed.unwrap_err().to_string().contains("src/closed"), "{what}");
        // Once they are open everything comes home, and the clone goes.
        remove_clone(&checkout, &workspace, WIP).unwrap();
        for (path, content) in [("src/closed/in", "changed\n"), ("src/shut/in", "new\n"), ("src/shut/deep/in", "deep\n")] {
            assert_eq!(saved(path), content, "{what}: {path}");
        }
    }
}

#[test]
fn bringing_work_home_writes_nothing_into_the_clone_also_where_it_is_seen_at_the_checkouts_path() {
    let lab = Lab::new();
    let root = lab.repository("tool", &[]);
    let (checkout, workspace) = lab.session(&root);
    let done = commit(&lab, &workspace.root, "a", "1");
    let dir = workspace.state.parent().unwrap();
    lay_over(&checkout, &workspace, &dir.join("base-objects"), &dir.join("overlay")).unwrap();
    let before = photograph(&workspace.root);
    let _ = collected(&checkout, &workspace, "a clone that borrows twice");
    assert_eq!(photograph(&workspace.root), before);
    assert_eq!(at(&lab, &root, BRANCH), Some(done));

    // Where the folder of alternates is a link, what it leads to stays as it is; a plain write would go there.
    let home = victim(&lab, "victim");
    fs::write(home.join("alternates"), "mine\n").unwrap();
    let info = workspace.root.join(".git/objects/info");
    fs::remove_dir_all(&info).unwrap();
    symlink(&home, &info).unwrap();
    let before = photograph(&home);
    fs::write(workspace.root.join("b"), "2").unwrap();
    let collected = collected(&checkout, &workspace, "a link in the store");
    assert_eq!((photograph(&home), lab.ok(&root, &["show", &format!("{}:b", collected.branch)])), (before, "2".to_owned()));
    fs::write(info.join("alternates"), "written through\n").unwrap();
    assert_eq!(fs::read_to_string(home.join("alternates")).unwrap(), "written through\n", "the control");
}
