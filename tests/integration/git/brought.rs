//! What comes along into the clone besides commits, and what of it does not come home again.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use sentrely::git::{Bring, Checkout, CloneRequest, Workspace, collect, create_clone, remove_clone};
use sentrely::model::SessionId;

use super::{WIP, commit};
use crate::support::components::Component;
use crate::support::disk::Disk;
use crate::support::git::{BRANCH, Lab, executable, photograph};

fn session(lab: &Lab, root: &Path, base: Option<&str>, bring: Bring<'_>) -> (Checkout, Workspace) {
    let checkout = lab.checkout(root);
    let directory = lab.session_directory();
    let request = CloneRequest { dir: &directory, branch: BRANCH, base, gate_url: None, bring, session: SessionId::new() };
    let workspace = create_clone(&checkout, &request).unwrap();
    (checkout, workspace)
}

fn with_changes<'a>() -> Bring<'a> {
    Bring { uncommitted: true, ..Bring::default() }
}

/// Every state that git knows a path in, at once.
fn make_a_mess(lab: &Lab, root: &Path) {
    let file = |name: &str| root.join(name);
    fs::create_dir_all(file("was-folder")).unwrap();
    for (name, text) in [
        ("edited", "1\n"),
        ("staged", "1\n"),
        ("both", "1\n"),
        ("gone", "1\n"),
        ("gone-staged", "1\n"),
        ("untracked-now", "1\n"),
        ("old-name", "a\nb\nc\nd\ne\n"),
        ("binary", "1\0\n"),
        ("was-file", "1\n"),
        ("was-folder/one", "1\n"),
        ("was-folder/two", "1\n"),
        ("to-link", "1\n"),
        ("ü \"quoted\" \n line", "1\n"),
    ] {
        fs::write(file(name), text).unwrap();
    }
    executable(&file("script"), "#!/bin/sh\n");
    symlink("edited", file("link")).unwrap();
    symlink("elsewhere", file("link-to-folder")).unwrap();
    lab.ok(root, &["add", "-A"]);
    lab.ok(root, &["commit", "--quiet", "-m", "before"]);

    fs::write(file("edited"), "2\n").unwrap();
    fs::write(file("staged"), "2\n").unwrap();
    fs::write(file("both"), "2\n").unwrap();
    lab.ok(root, &["add", "staged", "both"]);
    fs::write(file("both"), "3\n").unwrap();
    fs::remove_file(file("gone")).unwrap();
    lab.ok(root, &["rm", "--quiet", "gone-staged"]);
    lab.ok(root, &["rm", "--quiet", "--cached", "untracked-now"]);
    lab.ok(root, &["mv", "old-name", "new-name"]);
    fs::write(file("binary"), [0, 255, 1, 254]).unwrap();
    fs::remove_file(file("was-file")).unwrap();
    fs::create_dir(file("was-file")).unwrap();
    fs::write(file("was-file/inside"), "2\n").unwrap();
    fs::remove_dir_all(file("was-folder")).unwrap();
    fs::write(file("was-folder"), "2\n").unwrap();
    fs::remove_file(file("to-link")).unwrap();
    symlink("edited", file("to-link")).unwrap();
    fs::remove_file(file("link")).unwrap();
    symlink("staged", file("link")).unwrap();
    fs::remove_file(file("link-to-folder")).unwrap();
    fs::create_dir(file("link-to-folder")).unwrap();
    fs::write(file("link-to-folder/inside"), "2\n").unwrap();
    fs::write(file("ü \"quoted\" \n line"), "2\n").unwrap();
    fs::set_permissions(file("script"), fs::Permissions::from_mode(0o644)).unwrap();
    executable(&file("edited"), "2\n");
    fs::write(file("intended"), "2\n").unwrap();
    lab.ok(root, &["add", "-N", "intended"]);
    fs::create_dir_all(file("new/folder")).unwrap();
    fs::write(file("new/folder/file"), "2\n").unwrap();
    fs::write(file("added"), "2\n").unwrap();
    fs::write(file("added-and-gone"), "2\n").unwrap();
    fs::write(file("forced.log"), "ignored by rule, staged all the same\n").unwrap();
    lab.ok(root, &["add", "-f", "added", "added-and-gone", "forced.log"]);
    fs::remove_file(file("added-and-gone")).unwrap();
    fs::write(file("ignored.log"), "x").unwrap();
}

/// What a person sees: status, both diffs, and the files themselves.
fn seen(said: impl Fn(&[&str]) -> String) -> Vec<String> {
    let status = said(&["status", "--porcelain=v2", "--untracked-files=all", "--no-renames"]);
    vec![status, said(&["diff", "--binary"]), said(&["diff", "--cached", "--binary"]), said(&["ls-files", "--stage"])]
}

#[test]
fn uncommitted_work_lies_in_the_clone_as_in_the_checkout_which_is_not_touched() {
    for (name, init) in [("plain", &[][..]), ("hashes", &["--object-format=sha256"][..]), ("filtered", &[][..])] {
        let lab = Lab::new();
        let root = lab.repository(name, init);
        if name == "filtered" {
            lab.ok(&root, &["config", "filter.up.clean", "tr a-z A-Z"]);
            lab.ok(&root, &["config", "filter.up.smudge", "tr A-Z a-z"]);
            fs::write(root.join(".gitattributes"), "edited filter=up\n").unwrap();
        }
        make_a_mess(&lab, &root);
        // Of objects git and libgit2 note that they are in use.
        let look = || {
            let mut seen = photograph(&root);
            seen.retain(|path, _| !path.starts_with(".git/objects/") && !path.starts_with(".git/refs/sentrely"));
            seen
        };
        let before = look();
        let (checkout, workspace) = session(&lab, &root, None, with_changes());
        let after = look();
        let differs = |path: &&String| before.get(*path) != after.get(*path);
        assert_eq!(before.keys().chain(after.keys()).filter(differs).collect::<Vec<_>>(), Vec::<&String>::new(), "{name}");
        assert_eq!(seen(|args| lab.agent_ok(&workspace.root, args)), seen(|args| lab.ok(&root, args)), "{name}");
        assert!(!workspace.root.join("ignored.log").exists());
        assert!(workspace.notices.iter().any(|notice| notice.contains("uncommitted files of yours")), "{:?}", workspace.notices);
        assert_eq!(workspace.dirty_left_behind, 0);

        // The developer goes on: what was staged may go away there.
        lab.ok(&root, &["reset", "--quiet", "--hard"]);
        lab.ok(&root, &["gc", "--quiet", "--prune=now"]);
        assert!(lab.agent_ok(&workspace.root, &["show", ":both"]) == "2", "{name}");

        // Nothing was done: nothing comes home.
        let collected = collect(&checkout, &workspace, Some(WIP)).unwrap();
        assert!(collected.unchanged && !collected.wip, "{name}: {collected:?}");
        assert_eq!((collected.left_out, collected.notices), (Vec::<String>::new(), Vec::<String>::new()));

        // Something new and something on top: those, and no more.
        fs::write(workspace.root.join("agents"), "x\n").unwrap();
        fs::write(workspace.root.join("both"), "3\nand more\n").unwrap();
        fs::write(workspace.root.join("gone"), "again\n").unwrap();
        fs::remove_file(workspace.root.join("added")).unwrap();
        fs::write(workspace.root.join("link-to-folder/second"), "x\n").unwrap();
        let collected = collect(&checkout, &workspace, Some(WIP)).unwrap();
        assert_eq!(
            lab.ok(&root, &["diff", "--name-status", "--no-renames", "main", BRANCH]),
            "A\tagents\nM\tboth\nM\tgone\nD\tlink-to-folder\nA\tlink-to-folder/second",
            "{name}"
        );
        assert_eq!(collected.notices, ["the work holds uncommitted changes of yours too, in both, gone, link-to-folder"], "{name}");
        assert!(remove_clone(&checkout, &workspace, WIP).is_ok(), "{name}");
    }
}

#[test]
fn what_the_agent_commits_of_it_is_said_and_what_it_undoes_is_not() {
    let lab = Lab::new();
    let root = lab.repository("tool", &[]);
    fs::write(root.join("README.md"), "mine\n").unwrap();
    fs::write(root.join("src/main.rs"), "mine\n").unwrap();
    let (checkout, workspace) = session(&lab, &root, None, with_changes());
    commit(&lab, &workspace.root, "a", "1");
    let own = collect(&checkout, &workspace, Some(WIP)).unwrap();
    assert_eq!((own.commits, own.wip, own.notices), (1, false, Vec::new()));
    lab.agent_ok(&workspace.root, &["checkout", "--quiet", "--", "README.md"]);
    let undone = collect(&checkout, &workspace, Some(WIP)).unwrap();
    assert_eq!((undone.commits, undone.wip, undone.notices), (1, false, Vec::new()));
    commit(&lab, &workspace.root, "src/main.rs", "mine\n");
    let all = collect(&checkout, &workspace, Some(WIP)).unwrap();
    assert_eq!((all.commits, all.wip), (2, false));
    assert_eq!(all.notices, ["the work holds uncommitted changes of yours too, in src/main.rs"]);
    assert_eq!(fs::read_to_string(root.join("README.md")).unwrap(), "mine\n");
}

#[test]
fn uncommitted_work_in_a_repository_without_commits_and_large_files_come_along_too() {
    let lab = Lab::new();
    let root = lab.path("empty");
    fs::create_dir(&root).unwrap();
    lab.ok(&root, &["init", "--quiet", "-b", "trunk"]);
    fs::write(root.join("staged"), "1\n").unwrap();
    lab.ok(&root, &["add", "staged"]);
    fs::write(root.join("loose"), "1\n").unwrap();
    fs::File::create(root.join("huge")).unwrap().set_len(51 << 20).unwrap();
    let (checkout, workspace) = session(&lab, &root, None, with_changes());
    assert_eq!(lab.agent_ok(&workspace.root, &["status", "--porcelain"]), "A  staged\n?? huge\n?? loose");
    let collected = collect(&checkout, &workspace, Some(WIP)).unwrap();
    assert!(collected.unchanged && collected.left_out.is_empty(), "{collected:?}");
    fs::write(workspace.root.join("huge"), "small now\n").unwrap();
    collect(&checkout, &workspace, Some(WIP)).unwrap();
    assert_eq!(lab.ok(&root, &["ls-tree", "-r", "--name-only", BRANCH]), "huge");
    fs::File::create(workspace.root.join("huge")).unwrap().set_len(52 << 20).unwrap();
    assert_eq!(collect(&checkout, &workspace, Some(WIP)).unwrap().left_out, ["huge"]);
}

#[test]
fn uncommitted_work_stays_behind_where_it_would_not_fit_or_nobody_sits_at_it() {
    let lab = Lab::new();
    let root = lab.repository("tool", &[]);
    fs::write(root.join("README.md"), "mine\n").unwrap();
    let said = |workspace: &Workspace| {
        assert_eq!(lab.agent_ok(&workspace.root, &["status", "--porcelain"]), "");
        assert_eq!((workspace.dirty_left_behind, workspace.brought.clone()), (1, None));
        workspace.notices.clone()
    };
    let unattended = said(&session(&lab, &root, None, Bring::default()).1);
    assert!(unattended.contains(&"1 uncommitted file is not in the session's copy".to_owned()), "{unattended:?}");
    said(&session(&lab, &root, Some("HEAD~1"), with_changes()).1);
    fs::write(root.join(".git/MERGE_HEAD"), lab.ok(&root, &["rev-parse", "HEAD"])).unwrap();
    let merging = said(&session(&lab, &root, None, with_changes()).1);
    assert!(merging.iter().any(|notice| notice.starts_with("a merge is in progress")), "{merging:?}");
}

#[test]
fn what_the_wall_hides_is_not_copied_past_it() {
    let lab = Lab::new();
    let root = lab.repository("dotfiles", &[]);
    fs::create_dir(root.join(".ssh")).unwrap();
    fs::write(root.join(".ssh/id_ed25519"), "secret").unwrap();
    fs::write(root.join("key.log"), "secret").unwrap();
    fs::write(root.join("plain"), "x").unwrap();
    let never = [root.join(".ssh"), root.join("key.log")];
    let include = ["*.log".to_owned()];
    let hidden = Bring { uncommitted: true, include: &include, never: &never, laid_over: false };
    let (_, workspace) = session(&lab, &root, None, hidden);
    assert!(workspace.root.join("plain").exists());
    assert!(!workspace.root.join(".ssh").exists() && !workspace.root.join("key.log").exists());
    assert!(workspace.notices.iter().any(|notice| notice == "not brought along: .ssh/id_ed25519"), "{:?}", workspace.notices);
    assert!(workspace.notices.iter().any(|notice| notice == "ignored, and not brought along: key.log"), "{:?}", workspace.notices);
    let (_, open) = session(&lab, &root, None, Bring { never: &[], ..hidden });
    assert!(open.root.join(".ssh/id_ed25519").exists() && open.root.join("key.log").exists(), "without the wall's list it is copied");
}

#[test]
fn ignored_files_come_along_by_pattern_within_bounds_and_never_come_home() {
    let lab = Lab::new();
    let root = lab.repository("tool", &[]);
    fs::write(root.join(".gitignore"), ".env\nnode_modules/\nlocal/\nbig/\n*.key\nCLAUDE.local.md\n").unwrap();
    fs::write(root.join(".worktreeinclude"), "# what a session needs\n.env\n!/other/.env\nlocal/\nbig/\nREADME.md\nunignored\n").unwrap();
    lab.ok(&root, &["add", "-A"]);
    lab.ok(&root, &["commit", "--quiet", "-m", "ignore"]);
    let write = |name: &str, text: &str| {
        fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
        fs::write(root.join(name), text).unwrap();
    };
    for name in [".env", "packages/a/.env", "other/.env", "local/deep/settings.yml", "node_modules/x/index.js", "a.key", "unignored"] {
        write(name, "secret\n");
    }
    fs::set_permissions(root.join(".env"), fs::Permissions::from_mode(0o600)).unwrap();
    symlink("settings.yml", root.join("local/deep/link")).unwrap();
    write("big/one", "");
    fs::File::options().write(true).open(root.join("big/one")).unwrap().set_len(1 << 30).unwrap();
    write(".claude/settings.local.json", "{}\n");
    write("src/CLAUDE.local.md", "Prefer tabs.\n");
    let include = ["a.key".to_owned()];
    let (checkout, workspace) = session(&lab, &root.join("src"), None, Bring { include: &include, ..Bring::default() });
    let notices = workspace.notices.join("\n");
    // Where the file system shares blocks, a gigabyte is no matter.
    if fs::remove_dir_all(workspace.root.join("big")).is_err() {
        assert!(notices.contains("big/ was not copied into the session: 1 file, 1073 MB, too much for a file system"), "{notices}");
    }
    let files = photograph(&workspace.root).into_iter().filter(|(path, what)| !path.starts_with(".git/") && !what.ends_with("directory"));
    let found: Vec<String> = files.map(|(path, _)| path).collect();
    let expected = [
        ".claude/settings.local.json",
        ".env",
        ".gitignore",
        ".worktreeinclude",
        "README.md",
        "a.key",
        "local/deep/link",
        "local/deep/settings.yml",
        "packages/a/.env",
        "src/CLAUDE.local.md",
        "src/main.rs",
    ];
    assert_eq!(found, expected);
    assert_eq!(fs::metadata(workspace.root.join(".env")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_link(workspace.root.join("local/deep/link")).unwrap(), Path::new("settings.yml"));
    assert!(notices.contains("5 ignored files by .worktreeinclude or [git] include are in the session's copy"), "{notices}");
    fs::write(workspace.root.join("agents"), "x\n").unwrap();
    collect(&checkout, &workspace, Some(WIP)).unwrap();
    assert_eq!(lab.ok(&root, &["diff", "--name-only", "main", BRANCH]), "agents", "settings.local.json is not ignored here");
}

#[test]
fn where_files_can_share_blocks_ignored_ones_of_any_size_come_along_and_take_no_room() {
    const SIZE: usize = 300_000_000;
    crate::needs!(Component::Root, Component::Program("mkfs.xfs"));
    for shares in [true, false] {
        let lab = Lab::new();
        let Some(disk) = Disk::mount(&lab.path("disk"), shares) else { return };
        let root = lab.repository("disk/shop", &[]);
        fs::write(root.join(".worktreeinclude"), "target/\n").unwrap();
        fs::create_dir(root.join("target")).unwrap();
        fs::write(root.join("target/large"), vec![b'x'; SIZE]).unwrap();
        let directory = lab.path("disk/state");
        fs::create_dir(&directory).unwrap();
        let before = disk.used();
        let checkout = lab.checkout(&root);
        let bring = Bring::default();
        let request = CloneRequest { dir: &directory, branch: BRANCH, base: None, gate_url: None, bring, session: SessionId::new() };
        let workspace = create_clone(&checkout, &request).unwrap();
        let (copy, grown) = (workspace.root.join("target/large"), disk.used() - before);
        assert!(grown < 50_000_000, "{grown} bytes more, {:?}", workspace.notices);
        if !shares {
            // The control.
            assert!(!copy.exists() && workspace.notices.iter().any(|notice| notice.contains("cannot share blocks")), "{workspace:?}");
            continue;
        }
        assert_eq!(copy.metadata().unwrap().len(), SIZE as u64, "{workspace:?}");
        // What the session writes into its copy is its own.
        let mut file = fs::OpenOptions::new().write(true).open(&copy).unwrap();
        std::io::Write::write_all(&mut file, b"mine").unwrap();
        assert_eq!(&fs::read(&copy).unwrap()[..6], b"minexx");
        assert!(fs::read(root.join("target/large")).unwrap().iter().all(|byte| *byte == b'x'));
        assert!(disk.used() - before < 50_000_000);
    }
}
