//! The session's clone, its gate and the way home, with real repositories and the system's git.

mod brought;
mod filters;
mod held;
mod large;
mod lfs;
mod planted;
mod settled;
mod submodules;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::{Engine, prelude::BASE64_STANDARD};
use sentrely::git::{
    Bring, Checkout, CloneRequest, GateEvent, GitError, Head, Oddity, ProtectedRefs, Workspace, branch_name, collect, commits_since_base,
    create_clone, in_place, remove_clone, reopen, undo_in_place,
};
use sentrely::model::SessionId;

use crate::support::git::{BRANCH, Gated, Lab, Origin, PASSWORD, executable, photograph};

const WIP: &str = "WIP: uncommitted work of the session";

fn commit(lab: &Lab, root: &Path, file: &str, text: &str) -> String {
    fs::write(root.join(file), text).unwrap();
    lab.agent_ok(root, &["add", "-A", "--", file]);
    lab.agent_ok(root, &["-c", "user.name=Agent", "-c", "user.email=a@b", "commit", "--quiet", "-m", &format!("change {file}")]);
    lab.agent_ok(root, &["rev-parse", "HEAD"])
}

fn at(lab: &Lab, root: &Path, name: &str) -> Option<String> {
    let said = lab.git(root, &["rev-parse", "--verify", "--quiet", name]);
    said.ok.then(|| said.out.trim().to_owned())
}

// ---- the checkout ------------------------------------------------------------------------------------------------------------------

#[test]
fn a_checkout_is_found_from_a_subdirectory_with_everything_the_session_needs() {
    let lab = Lab::new();
    let (root, origin) = lab.shop();
    fs::write(root.join("notes.txt"), "x").unwrap();
    fs::write(root.join("ignored.log"), "x").unwrap();
    fs::write(root.join("README.md"), "changed\n").unwrap();
    let checkout = lab.checkout(&root.join("src"));
    assert_eq!((checkout.root.clone(), checkout.subdirectory.clone()), (root.clone(), PathBuf::from("src")));
    assert_eq!(checkout.head, Head::Branch { name: "main".into(), commit: at(&lab, &root, "HEAD").unwrap() });
    assert_eq!(checkout.user_email().as_deref(), Some("Ada@example.org"));
    assert_eq!(checkout.remote().unwrap().url, origin.url);
    assert_eq!(checkout.project(), "shop");
    assert_eq!(checkout.dirty().unwrap(), 2);
    assert_eq!(checkout.oddities, []);
}

#[test]
fn no_repository_and_a_bare_one_are_refused_with_a_hint() {
    let lab = Lab::new();
    let nothing = lab.path("state");
    let error = Checkout::discover_with(&nothing, lab.env()).unwrap_err();
    assert!(matches!(error, GitError::NotARepository(_)), "{error:?}");
    assert_eq!(error.hint().as_deref(), Some("git init, or --workspace none"));
    lab.ok(&nothing, &["init", "--quiet", "--bare", "b.git"]);
    let error = Checkout::discover_with(&nothing.join("b.git"), lab.env()).unwrap_err();
    assert!(matches!(error, GitError::Bare(_)), "{error:?}");
    assert!(error.hint().is_some());
}

#[test]
fn without_a_remote_the_folder_names_the_project_and_the_session_is_told() {
    let lab = Lab::new();
    let root = lab.repository("tool", &[]);
    let checkout = lab.checkout(&root);
    assert_eq!((checkout.remote(), checkout.project()), (None, "tool".to_owned()));
    let (_, workspace) = lab.session(&root);
    assert!(workspace.notices.iter().any(|notice| notice.contains("no remote")), "{:?}", workspace.notices);
    assert_eq!(lab.agent_ok(&workspace.root, &["remote"]), "");
}

// ---- the clone ---------------------------------------------------------------------------------------------------------------------

#[test]
fn the_clone_is_a_repository_of_its_own_on_its_branch_in_the_same_subdirectory() {
    let lab = Lab::new();
    let (root, _origin) = lab.shop();
    lab.ok(&root, &["config", "commit.gpgsign", "true"]);
    lab.ok(&root, &["config", "http.extraheader", "Authorization: secret"]);
    executable(&root.join(".git/hooks/pre-commit"), "#!/bin/sh\nexit 0\n");
    fs::write(root.join("README.md"), "changed\n").unwrap();
    let directory = lab.session_directory();
    let checkout = lab.checkout(&root.join("src"));
    let session = SessionId::new();
    let gate_url = "http://127.0.0.1:9/n/repo.git";
    let workspace = create_clone(
        &checkout,
        &CloneRequest { dir: &directory, branch: BRANCH, base: None, gate_url: Some(gate_url), bring: Bring::default(), session },
    )
    .unwrap();
    assert_eq!(workspace.root, directory.join("work/shop"));
    assert_eq!(workspace.cwd, directory.join("work/shop/src"));
    assert_eq!((workspace.base.as_str(), workspace.base_commit.clone()), ("main", at(&lab, &root, "main")));
    assert_eq!(workspace.dirty_left_behind, 1);
    assert!(workspace.notices.iter().any(|n| n == "1 uncommitted file is not in the session's copy"), "{:?}", workspace.notices);
    assert!(workspace.notices.iter().any(|n| n.contains("not signed")), "{:?}", workspace.notices);
    assert_eq!(lab.agent_ok(&workspace.root, &["symbolic-ref", "HEAD"]), format!("refs/heads/{BRANCH}"));
    assert_eq!(lab.agent_ok(&workspace.root, &["status", "--porcelain"]), "");
    assert_eq!(lab.agent_ok(&workspace.root, &["rev-list", "--count", "HEAD"]), "2");
    assert_eq!(lab.agent_ok(&workspace.root, &["rev-parse", "origin/main"]), at(&lab, &root, "main").unwrap());
    assert_eq!(lab.agent_ok(&workspace.root, &["rev-parse", "main", "v1"]).lines().count(), 2);
    assert_eq!(lab.agent_ok(&workspace.root, &["config", "user.email"]), "Ada@example.org");
    assert_eq!(lab.agent_ok(&workspace.root, &["remote", "get-url", "--push", "origin"]), gate_url);
    assert!(workspace.root.join(".git/hooks/pre-commit").is_file());
    let config = fs::read_to_string(workspace.root.join(".git/config")).unwrap();
    assert!(!config.contains("secret") && !config.contains("shop.git"), "{config}");
    assert_eq!(at(&lab, &root, &format!("refs/sentrely/keep/{session}")), workspace.base_commit);
    assert!(!workspace.root.join(".git/objects/pack").read_dir().unwrap().any(|_| true), "objects are shared, not copied");
    let said = lab.agent(&workspace.root, &["fsck", "--strict"]);
    assert!(said.ok, "{}", said.err);
}

#[test]
fn a_base_can_be_named_and_a_wrong_one_leaves_nothing_behind() {
    let lab = Lab::new();
    let root = lab.repository("tool", &[]);
    let checkout = lab.checkout(&root);
    let directory = lab.session_directory();
    let before = photograph(&root);
    let mut request = CloneRequest {
        dir: &directory,
        branch: BRANCH,
        base: Some("no-such"),
        gate_url: None,
        bring: Bring::default(),
        session: SessionId::new(),
    };
    assert!(matches!(create_clone(&checkout, &request), Err(GitError::NoSuchBase(_))));
    assert_eq!(photograph(&root), before);
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
    request.base = Some("HEAD~1");
    let workspace = create_clone(&checkout, &request).unwrap();
    assert_eq!((workspace.base.as_str(), workspace.base_commit.clone()), ("HEAD~1", at(&lab, &root, "HEAD~1")));
    assert!(!workspace.root.join("src").exists());
    lab.ok(&root, &["branch", BRANCH]);
    assert!(matches!(create_clone(&checkout, &request), Err(GitError::BranchExists(_))));
}

#[test]
fn two_sessions_never_meet() {
    let lab = Lab::new();
    let root = lab.repository("tool", &[]);
    let checkout = lab.checkout(&root);
    let session = |branch: &'static str| {
        let directory = lab.session_directory();
        create_clone(
            &checkout,
            &CloneRequest { dir: &directory, branch, base: None, gate_url: None, bring: Bring::default(), session: SessionId::new() },
        )
        .unwrap()
    };
    let (one, two) = (session("sentrely/ada/one-1"), session("sentrely/ada/two-2"));
    let tips = [commit(&lab, &one.root, "a", "1"), commit(&lab, &two.root, "b", "2")];
    for workspace in [&one, &two] {
        assert_eq!(collect(&checkout, workspace, Some(WIP)).unwrap().commits, 1);
    }
    assert_eq!([at(&lab, &root, "sentrely/ada/one-1").unwrap(), at(&lab, &root, "sentrely/ada/two-2").unwrap()], tips);
}

#[test]
fn the_session_survives_a_rewrite_and_gc_in_the_developers_repository() {
    let lab = Lab::new();
    let root = lab.repository("tool", &[]);
    let (checkout, workspace) = lab.session(&root);
    lab.ok(&root, &["commit", "--quiet", "--amend", "-m", "rewritten"]);
    lab.ok(&root, &["reflog", "expire", "--expire=now", "--all"]);
    lab.ok(&root, &["gc", "--quiet", "--prune=now"]);
    commit(&lab, &workspace.root, "a", "1");
    lab.agent_ok(&workspace.root, &["fsck"]);
    assert_eq!(collect(&checkout, &workspace, None).unwrap().commits, 1);
}

#[test]
fn generated_hooks_of_a_relative_hooks_path_come_along_and_run() {
    let lab = Lab::new();
    let root = lab.repository("tool", &[]);
    lab.ok(&root, &["config", "core.hooksPath", "target/hooks"]);
    executable(&root.join("target/hooks/commit-msg"), "#!/bin/sh\necho checked >> \"$1\"\n");
    let (_, workspace) = lab.session(&root);
    commit(&lab, &workspace.root, "a", "1");
    assert!(lab.agent_ok(&workspace.root, &["log", "-1", "--format=%B"]).contains("checked"));
}

// ---- odd repositories --------------------------------------------------------------------------------------------------------------

/// Commits once, leaves one change uncommitted, collects, and looks at it from the developer's side.
fn works_end_to_end(lab: &Lab, root: &Path) -> (Checkout, Workspace) {
    let (checkout, workspace) = lab.session(root);
    assert_eq!(lab.agent_ok(&workspace.root, &["status", "--porcelain"]), "", "a fresh clone is clean");
    let committed = commit(lab, &workspace.root, "committed.txt", "one\n");
    fs::write(workspace.root.join("uncommitted.txt"), "two\n").unwrap();
    let before = lab.ok(root, &["status", "--porcelain"]);
    let collected = collect(&checkout, &workspace, Some(WIP)).unwrap();
    assert!(collected.wip && !collected.unchanged, "{collected:?}");
    assert_eq!(collected.left_out, Vec::<String>::new());
    assert_eq!(at(lab, root, &format!("{BRANCH}~1")), Some(committed));
    assert_eq!(lab.ok(root, &["diff", "--name-status", &format!("{BRANCH}~1"), BRANCH]), "A\tuncommitted.txt");
    assert_eq!(lab.ok(root, &["show", &format!("{BRANCH}:uncommitted.txt")]), "two");
    assert_eq!(lab.ok(root, &["status", "--porcelain"]), before);
    let again = collect(&checkout, &workspace, Some(WIP)).unwrap();
    assert_eq!((again.commits, again.wip), (collected.commits, true));
    (checkout, workspace)
}

#[test]
fn an_ordinary_repository_works() {
    let lab = Lab::new();
    let root = lab.repository("tool", &[]);
    let (checkout, workspace) = works_end_to_end(&lab, &root);
    assert_eq!(commits_since_base(&checkout, &workspace).unwrap(), 1);
}

#[test]
fn a_detached_head_works() {
    let lab = Lab::new();
    let root = lab.repository("tool", &[]);
    lab.ok(&root, &["checkout", "--quiet", "--detach"]);
    let (_, workspace) = works_end_to_end(&lab, &root);
    assert_eq!(workspace.base, at(&lab, &root, "HEAD").unwrap()[..12]);
}

#[test]
fn an_empty_repository_works() {
    let lab = Lab::new();
    let root = lab.path("empty");
    fs::create_dir(&root).unwrap();
    lab.ok(&root, &["init", "--quiet", "-b", "trunk"]);
    let (checkout, workspace) = lab.session(&root);
    assert_eq!((checkout.head.branch(), workspace.base.as_str(), workspace.base_commit.clone()), (Some("trunk"), "trunk", None));
    assert!(collect(&checkout, &workspace, Some(WIP)).unwrap().unchanged);
    assert_eq!(lab.agent_ok(&workspace.root, &["symbolic-ref", "HEAD"]), format!("refs/heads/{BRANCH}"));
    fs::write(workspace.root.join("a.txt"), "1\n").unwrap();
    let first = collect(&checkout, &workspace, Some(WIP)).unwrap();
    assert_eq!((first.commits, first.wip), (1, true));
    commit(&lab, &workspace.root, "a.txt", "1\n");
    let second = collect(&checkout, &workspace, Some(WIP)).unwrap();
    assert_eq!((second.commits, second.wip, second.branch.as_str()), (1, false, BRANCH));
    assert_eq!(lab.ok(&root, &["show", &format!("{BRANCH}:a.txt")]), "1");
    assert_eq!(lab.ok(&root, &["symbolic-ref", "HEAD"]), "refs/heads/trunk");
}

#[test]
fn a_shallow_clone_works() {
    let lab = Lab::new();
    let source = lab.repository("source", &[]);
    let root = lab.path("tool");
    lab.ok(&lab.path("state"), &["clone", "--quiet", "--depth=1", &format!("file://{}", source.display()), root.to_str().unwrap()]);
    assert_eq!(lab.ok(&root, &["rev-list", "--count", "HEAD"]), "1");
    let (_, workspace) = works_end_to_end(&lab, &root);
    assert_eq!(lab.agent_ok(&workspace.root, &["rev-parse", "--is-shallow-repository"]), "true");
}

#[test]
fn a_linked_worktree_works() {
    let lab = Lab::new();
    let main = lab.repository("source", &[]);
    let root = lab.path("linked");
    lab.ok(&main, &["worktree", "add", "--quiet", "-b", "topic", root.to_str().unwrap()]);
    let (checkout, workspace) = works_end_to_end(&lab, &root);
    assert_eq!((checkout.common_dir.clone(), workspace.base.as_str()), (main.join(".git"), "topic"));
}

#[test]
fn a_submodule_that_is_empty_in_the_checkout_is_so_in_the_session_and_named() {
    let lab = Lab::new();
    let library = lab.repository("library", &[]);
    let root = lab.repository("tool", &[]);
    lab.ok(&root, &["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", library.to_str().unwrap(), "lib"]);
    lab.ok(&root, &["commit", "--quiet", "-m", "submodule"]);
    lab.ok(&root, &["submodule", "--quiet", "deinit", "lib"]);
    let (_, workspace) = works_end_to_end(&lab, &root);
    assert!(workspace.notices.iter().any(|notice| notice == "submodules that are empty in the session: lib"), "{:?}", workspace.notices);
    assert_eq!(lab.ok(&root, &["ls-tree", BRANCH, "lib"]), lab.ok(&root, &["ls-tree", "main", "lib"]));
}

#[test]
fn a_sha256_repository_works() {
    let lab = Lab::new();
    let root = lab.repository("tool", &["--object-format=sha256"]);
    let (checkout, workspace) = works_end_to_end(&lab, &root);
    assert_eq!(checkout.oddities, [Oddity::Sha256]);
    let directory = workspace.root.parent().unwrap().parent().unwrap();
    assert_eq!(remove_clone(&checkout, &workspace, WIP).unwrap().commits, 2);
    assert!(!directory.join("work/tool").exists());
    assert_eq!(lab.ok(&root, &["for-each-ref", "refs/sentrely"]), "");
}

#[test]
fn a_reftable_repository_works() {
    let lab = Lab::new();
    if !lab.git(&lab.path("state"), &["init", "--quiet", "--ref-format=reftable", "probe"]).ok {
        return; // git older than 2.45 knows no reftable, so there is nothing to support
    }
    let root = lab.repository("tool", &["--ref-format=reftable"]);
    let (checkout, _) = works_end_to_end(&lab, &root);
    assert!(matches!(&checkout.oddities[..], [Oddity::Extension(_)]), "{:?}", checkout.oddities);
}

#[test]
fn filters_run_in_the_clone_and_clean_what_is_collected() {
    let lab = Lab::new();
    let root = lab.repository("tool", &[]);
    lab.ok(&root, &["config", "filter.shout.clean", "tr A-Z a-z"]);
    lab.ok(&root, &["config", "filter.shout.smudge", "tr a-z A-Z"]);
    fs::write(root.join(".gitattributes"), "*.loud filter=shout\n").unwrap();
    fs::write(root.join("word.loud"), "HELLO\n").unwrap();
    lab.ok(&root, &["add", "-A"]);
    lab.ok(&root, &["commit", "--quiet", "-m", "loud"]);
    assert_eq!(lab.ok(&root, &["show", "HEAD:word.loud"]), "hello");
    let (checkout, workspace) = works_end_to_end(&lab, &root);
    assert_eq!(checkout.oddities, [Oddity::Filters]);
    assert_eq!(fs::read_to_string(workspace.root.join("word.loud")).unwrap(), "HELLO\n");
    fs::write(workspace.root.join("word.loud"), "BYE\n").unwrap();
    collect(&checkout, &workspace, Some(WIP)).unwrap();
    assert_eq!(lab.ok(&root, &["show", &format!("{BRANCH}:word.loud")]), "bye");
}

#[test]
fn a_sparse_checkout_stays_sparse_and_loses_no_file() {
    let lab = Lab::new();
    let root = lab.repository("tool", &[]);
    fs::create_dir(root.join("docs")).unwrap();
    fs::write(root.join("docs/a.md"), "a\n").unwrap();
    lab.ok(&root, &["add", "-A"]);
    lab.ok(&root, &["commit", "--quiet", "-m", "docs"]);
    lab.ok(&root, &["sparse-checkout", "set", "docs"]);
    let (checkout, workspace) = works_end_to_end(&lab, &root);
    assert_eq!(checkout.oddities, [Oddity::Sparse]);
    assert!(workspace.root.join("docs/a.md").exists() && !workspace.root.join("src").exists());
    assert_eq!(lab.ok(&root, &["show", &format!("{BRANCH}:src/main.rs")]), "fn main() {}");
}

#[test]
fn a_partial_clone_works_and_what_was_never_fetched_comes_when_it_is_needed() {
    let lab = Lab::new();
    let (full, origin) = lab.shop();
    for (text, message) in [("never checked out\n", "notes"), ("checked out\n", "other notes")] {
        fs::write(full.join("notes.txt"), text).unwrap();
        lab.ok(&full, &["add", "-A"]);
        lab.ok(&full, &["commit", "--quiet", "-m", message]);
    }
    lab.ok(&full, &["push", "--quiet", "origin", "main"]);
    let root = lab.path("partial");
    lab.ok(&full, &["clone", "--quiet", "--filter=blob:none", &origin.url, root.to_str().unwrap()]);
    let (checkout, workspace) = works_end_to_end(&lab, &root);
    assert_eq!(checkout.oddities, [Oddity::Partial]);
    assert!(workspace.notices.iter().any(|notice| notice.contains("partial clone")), "{:?}", workspace.notices);
    remove_clone(&checkout, &workspace, WIP).unwrap();
    lab.ok(&root, &["branch", "-D", BRANCH]);
    let earlier = lab.session_directory();
    let request = CloneRequest {
        dir: &earlier,
        branch: BRANCH,
        base: Some("HEAD~1"),
        gate_url: None,
        bring: Bring::default(),
        session: SessionId::new(),
    };
    let past = create_clone(&checkout, &request).unwrap();
    assert_eq!(fs::read_to_string(past.root.join("notes.txt")).unwrap(), "never checked out\n");
    assert!(!fs::read_to_string(past.root.join(".git/config")).unwrap().contains(&origin.url));
    let Gated { workspace, gate: _gate, .. } = lab.gated(&root);
    let tip = commit(&lab, &workspace.root, "a", "1");
    let said = lab.agent(&workspace.root, &["push"]);
    assert!(said.ok, "{}", said.err);
    assert_eq!(origin.tip(&lab, BRANCH), Some(tip));
    let said = lab.agent(&workspace.root, &["log", "-p", "--", "notes.txt"]);
    assert!(said.ok && said.out.contains("+never checked out"), "what was never fetched comes through the gate: {}", said.err);
    assert!(fs::read_to_string(workspace.root.join(".git/config")).unwrap().contains("promisor"));
}

#[test]
fn a_branch_in_the_way_of_the_sessions_name_is_named() {
    let lab = Lab::new();
    let root = lab.repository("tool", &[]);
    lab.ok(&root, &["branch", "sentrely"]);
    let directory = lab.session_directory();
    let request =
        CloneRequest { dir: &directory, branch: BRANCH, base: None, gate_url: None, bring: Bring::default(), session: SessionId::new() };
    let error = create_clone(&lab.checkout(&root), &request).unwrap_err();
    assert_eq!(error.to_string(), "create the branch `sentrely`: it exists already");
}

#[test]
fn a_checkout_named_like_one_of_our_own_files_does_not_meet_it() {
    let lab = Lab::new();
    let root = lab.repository("kill", &[]);
    let (_, workspace) = works_end_to_end(&lab, &root);
    let session = workspace.root.parent().unwrap().parent().unwrap();
    assert!(!session.join("kill").exists());
}

// ---- collecting --------------------------------------------------------------------------------------------------------------------

#[test]
fn the_developers_checkout_is_byte_identical_but_for_the_sessions_refs_and_objects() {
    let lab = Lab::new();
    let (root, _origin) = lab.shop();
    fs::write(root.join("README.md"), "the developer's own work\n").unwrap();
    fs::write(root.join("untracked.txt"), "x").unwrap();
    fs::write(root.join("ignored.log"), "x").unwrap();
    let before = photograph(&root);
    let Gated { checkout, workspace, gate: _gate, .. } = lab.gated(&root);
    commit(&lab, &workspace.root, "a.txt", "1");
    lab.agent_ok(&workspace.root, &["reset", "--quiet", "--hard", "HEAD~1"]);
    lab.agent_ok(&workspace.root, &["clean", "-fdxq"]);
    let kept = commit(&lab, &workspace.root, "b.txt", "2");
    lab.agent_ok(&workspace.root, &["push", "--quiet", "origin", "HEAD"]);
    lab.agent_ok(&workspace.root, &["fetch", "--quiet", "origin"]);
    lab.agent_ok(&workspace.root, &["gc", "--quiet"]);
    fs::write(workspace.root.join("c.txt"), "3").unwrap();
    collect(&checkout, &workspace, Some(WIP)).unwrap();
    let mut after = photograph(&root);
    let ours = |path: &String| {
        [".git/objects/", ".git/refs/sentrely", ".git/refs/heads/sentrely", ".git/logs/refs/heads/sentrely"]
            .iter()
            .any(|prefix| path.starts_with(prefix))
    };
    // Git renews the time of an object that it would write again, in borrowed stores too: of objects the content counts.
    let timeless = |path: &str, what: &str| {
        if path.starts_with(".git/objects/") { what.split(' ').next_back().map(str::to_owned) } else { Some(what.to_owned()) }
    };
    let same = |path: &String, what: &String| after.get(path).is_some_and(|now| timeless(path, now) == timeless(path, what));
    let gone: BTreeMap<_, _> = before.iter().filter(|(path, what)| !same(path, what)).collect();
    assert_eq!(gone, BTreeMap::new(), "changed or gone");
    after.retain(|path, _| !ours(path));
    let mut before_rest = before.clone();
    before_rest.retain(|path, _| !ours(path));
    assert_eq!(after, before_rest);
    assert_eq!(at(&lab, &root, &format!("{BRANCH}~1")), Some(kept));
}

#[test]
fn planted_configuration_and_hooks_execute_nothing_when_work_is_collected() {
    let lab = Lab::new();
    let root = lab.repository("tool", &[]);
    let (checkout, workspace) = lab.session(&root);
    commit(&lab, &workspace.root, "a.txt", "1\n");
    let canary = lab.path("canary");
    let trap = lab.path("trap");
    executable(&trap, &format!("#!/bin/sh\ntouch '{}'\ncat\n", canary.display()));
    let trap = trap.to_str().unwrap();
    let elsewhere = lab.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let plant = |settings: &[(&str, &str)]| {
        for (key, value) in settings {
            lab.agent_ok(&elsewhere, &["config", "--file", workspace.root.join(".git/config").to_str().unwrap(), key, value]);
        }
    };
    plant(&[
        ("core.fsmonitor", trap),
        ("core.hooksPath", lab.path("hooks").to_str().unwrap()),
        ("diff.external", trap),
        ("filter.evil.clean", trap),
        ("filter.evil.smudge", trap),
        ("core.sshCommand", trap),
        ("core.pager", trap),
        ("uploadpack.packObjectsHook", trap),
        ("core.alternateRefsCommand", trap),
    ]);
    for hook in
        ["pre-commit", "post-index-change", "reference-transaction", "post-checkout", "pre-auto-gc", "pre-push", "pre-receive", "update"]
    {
        for directory in [lab.path("hooks"), workspace.root.join(".git/hooks")] {
            executable(&directory.join(hook), &format!("#!/bin/sh\ntouch '{}'\n", canary.display()));
        }
    }
    lab.agent(&workspace.root, &["status"]);
    assert!(canary.exists(), "the traps are live: git itself, run in the clone, springs one");
    fs::remove_file(&canary).unwrap();
    plant(&[
        ("core.worktree", elsewhere.to_str().unwrap()),
        ("core.attributesFile", "/dev/zero"),
        ("extensions.nonsense", "true"),
        ("core.repositoryformatversion", "1"),
    ]);
    fs::write(workspace.root.join("b.evil"), "2\n").unwrap();
    fs::create_dir_all(workspace.root.join(".git/info")).unwrap();
    fs::write(workspace.root.join(".git/info/attributes"), "* filter=evil\n").unwrap();
    // Once by libgit2, and once, because a filter is named in the tree, by git's plumbing.
    for attributes in [None, Some("* filter=evil diff=evil\n")] {
        if let Some(text) = attributes {
            fs::write(workspace.root.join(".gitattributes"), text).unwrap();
        }
        let collected = collect(&checkout, &workspace, Some(WIP)).unwrap();
        assert!(collected.wip, "{collected:?}");
        assert_eq!(lab.ok(&root, &["show", &format!("{BRANCH}:b.evil")]), "2");
        assert!(!canary.exists(), "something ran");
    }
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    remove_clone(&checkout, &workspace, WIP).unwrap();
    assert!(!canary.exists() && !workspace.root.exists());
}

#[test]
fn a_nested_repository_with_traps_is_named_and_not_entered() {
    let lab = Lab::new();
    let root = lab.repository("tool", &[]);
    let (checkout, workspace) = lab.session(&root);
    let nested = workspace.root.join("vendor/nested");
    fs::create_dir_all(&nested).unwrap();
    lab.agent_ok(&nested, &["init", "--quiet"]);
    let (canary, trap) = (lab.path("canary"), lab.path("trap"));
    executable(&trap, &format!("#!/bin/sh\ntouch '{}'\n", canary.display()));
    lab.agent_ok(&nested, &["config", "core.fsmonitor", trap.to_str().unwrap()]);
    fs::write(nested.join("f"), "x").unwrap();
    fs::write(workspace.root.join("mine"), "x").unwrap();
    for attributes in [false, true] {
        if attributes {
            fs::write(workspace.root.join(".gitattributes"), "*.bin filter=lfs\n").unwrap();
        }
        let collected = collect(&checkout, &workspace, Some(WIP)).unwrap();
        assert_eq!((collected.wip, collected.left_out), (true, vec!["vendor/nested".to_owned()]));
        assert_eq!(lab.ok(&root, &["show", &format!("{BRANCH}:mine")]), "x");
    }
    assert!(!canary.exists());
    assert!(matches!(remove_clone(&checkout, &workspace, WIP), Err(GitError::NotCollected { .. })));
    assert!(nested.join("f").exists());
}

#[test]
fn uncommitted_work_honours_ignore_files_and_names_what_is_too_large() {
    let lab = Lab::new();
    let root = lab.repository("tool", &[]);
    let (checkout, workspace) = lab.session(&root);
    let file = |name: &str| workspace.root.join(name);
    fs::create_dir(file("target")).unwrap();
    fs::write(file("target/big.o"), "x").unwrap();
    fs::write(file("debug.log"), "x").unwrap();
    fs::write(file("forced.log"), "staged against the rules\n").unwrap();
    lab.agent_ok(&workspace.root, &["add", "-f", "forced.log"]);
    fs::write(file("src/main.rs"), "fn main() { todo() }\n").unwrap();
    fs::remove_file(file("README.md")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", file("link")).unwrap();
    executable(&file("run.sh"), "#!/bin/sh\n");
    fs::File::create(file("huge.bin")).unwrap().set_len(51 * 1024 * 1024).unwrap();
    nix::unistd::mkfifo(&file("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::write(file(".git/index.lock"), "").unwrap();
    let collected = collect(&checkout, &workspace, Some(WIP)).unwrap();
    assert_eq!((collected.commits, collected.wip, collected.left_out), (1, true, vec!["huge.bin".to_owned()]));
    assert_eq!(
        lab.ok(&root, &["diff", "--name-status", "main", BRANCH]),
        "D\tREADME.md\nA\tforced.log\nA\tlink\nA\trun.sh\nM\tsrc/main.rs"
    );
    assert!(lab.ok(&root, &["ls-tree", BRANCH, "run.sh", "link"]).contains("120000 blob"));
    assert!(lab.ok(&root, &["ls-tree", BRANCH, "run.sh"]).starts_with("100755"));
    assert_eq!(lab.ok(&root, &["log", "-1", "--format=%s|%an|%ae", BRANCH]), format!("{WIP}|Ada Lovelace|Ada@example.org"));
    let status = lab.agent_ok(&workspace.root, &["status", "--porcelain"]);
    assert!(status.contains("D README.md") && status.contains("A  forced.log"), "the clone itself stays as it is: {status}");
    let without = collect(&checkout, &workspace, None).unwrap();
    assert_eq!((without.commits, without.wip), (0, false));
}

#[test]
fn a_merge_in_conflict_is_saved_with_its_markers() {
    let lab = Lab::new();
    let root = lab.repository("tool", &[]);
    let (checkout, workspace) = lab.session(&root);
    commit(&lab, &workspace.root, "README.md", "ours\n");
    lab.agent_ok(&workspace.root, &["checkout", "--quiet", "-b", "theirs", "HEAD~1"]);
    commit(&lab, &workspace.root, "README.md", "theirs\n");
    lab.agent_ok(&workspace.root, &["checkout", "--quiet", BRANCH]);
    assert!(!lab.agent(&workspace.root, &["merge", "theirs"]).ok);
    let collected = collect(&checkout, &workspace, Some(WIP)).unwrap();
    assert_eq!((collected.wip, collected.commits, collected.others), (true, 2, vec![format!("{BRANCH}--theirs")]));
    assert!(lab.ok(&root, &["show", &format!("{BRANCH}:README.md")]).contains("<<<<<<<"));
}

#[test]
fn other_branches_and_a_detached_head_come_home_beside_the_sessions_branch() {
    let lab = Lab::new();
    let root = lab.repository("tool", &[]);
    let (checkout, workspace) = lab.session(&root);
    let clone = &workspace.root;
    let own = commit(&lab, clone, "a", "1");
    lab.agent_ok(clone, &["branch", "same-as-base", "main"]);
    lab.agent_ok(clone, &["checkout", "--quiet", "-b", "feature/x"]);
    let feature = commit(&lab, clone, "b", "2");
    lab.agent_ok(clone, &["checkout", "--quiet", "main"]);
    let main = commit(&lab, clone, "c", "3");
    lab.agent_ok(clone, &["checkout", "--quiet", "--detach", "feature/x"]);
    commit(&lab, clone, "d", "4");
    fs::write(clone.join("e"), "5").unwrap();
    let before = at(&lab, &root, "main");
    let first = collect(&checkout, &workspace, Some(WIP)).unwrap();
    assert_eq!(first.branch, BRANCH);
    // The detached HEAD went on from the session's branch (by way of feature/x): it is the session's work.
    assert_eq!((first.commits, first.wip, first.others.clone()), (4, true, vec![format!("{BRANCH}--main")]));
    assert_eq!(at(&lab, &root, &format!("{BRANCH}--main")), Some(main.clone()));
    assert_eq!(at(&lab, &root, &format!("{BRANCH}~2")), Some(feature.clone()));
    assert_eq!(at(&lab, &root, "main"), before, "the developer's main is not touched");
    lab.agent_ok(clone, &["stash", "--quiet", "-u"]);
    lab.agent_ok(clone, &["checkout", "--quiet", "--detach", "main"]);
    let stray = commit(&lab, clone, "f", "6");
    let second = collect(&checkout, &workspace, Some(WIP)).unwrap();
    let beside = ["feature/x", "main", "stash-1", "detached"].map(|name| format!("{BRANCH}--{name}"));
    assert_eq!(second.others, beside);
    assert_eq!(lab.ok(&root, &["show", &format!("{BRANCH}--stash-1^3:e")]), "5");
    assert_eq!(second.tip, Some(own));
    assert_eq!(
        [at(&lab, &root, &format!("{BRANCH}--detached")), at(&lab, &root, &format!("{BRANCH}--feature/x"))],
        [Some(stray), Some(feature)]
    );
}

#[test]
fn a_branch_that_the_developer_changed_or_checked_out_is_left_alone() {
    let lab = Lab::new();
    let root = lab.repository("tool", &[]);
    let (checkout, workspace) = lab.session(&root);
    commit(&lab, &workspace.root, "a", "1");
    collect(&checkout, &workspace, None).unwrap();
    lab.ok(&root, &["checkout", "--quiet", BRANCH]);
    lab.ok(&root, &["commit", "--quiet", "--allow-empty", "-m", "the developer's own"]);
    let developers = at(&lab, &root, BRANCH);
    let session = commit(&lab, &workspace.root, "b", "2");
    let collected = collect(&lab.checkout(&root), &workspace, None).unwrap();
    assert_eq!(collected.branch, format!("{BRANCH}--2"));
    assert_eq!(collected.notices.len(), 1);
    assert_eq!([at(&lab, &root, BRANCH), at(&lab, &root, &collected.branch)], [developers, Some(session)]);
    assert_eq!(lab.ok(&root, &["status", "--porcelain"]), "");
    let amended = {
        lab.agent_ok(&workspace.root, &["-c", "user.name=A", "-c", "user.email=a@b", "commit", "--quiet", "--amend", "-m", "amended"]);
        lab.agent_ok(&workspace.root, &["rev-parse", "HEAD"])
    };
    let again = collect(&lab.checkout(&root), &workspace, None).unwrap();
    assert_eq!((again.branch, again.tip), (format!("{BRANCH}--2"), Some(amended)));
}

#[test]
fn work_survives_an_agent_that_deletes_its_git_directory() {
    let lab = Lab::new();
    let root = lab.repository("tool", &[]);
    let (checkout, workspace) = lab.session(&root);
    let first = commit(&lab, &workspace.root, "a", "1");
    collect(&checkout, &workspace, None).unwrap();
    fs::write(workspace.root.join("b"), "2").unwrap();
    fs::remove_dir_all(workspace.root.join(".git")).unwrap();
    let collected = collect(&checkout, &workspace, Some(WIP)).unwrap();
    assert_eq!((collected.wip, collected.commits), (true, 2));
    assert_eq!(at(&lab, &root, &format!("{BRANCH}~1")), Some(first));
    assert_eq!(lab.ok(&root, &["show", &format!("{BRANCH}:b")]), "2");
}

#[test]
fn links_and_alternates_to_another_repository_bring_nothing_of_it_home() {
    let lab = Lab::new();
    let root = lab.repository("tool", &[]);
    let secret = lab.repository("secret", &[]);
    let hidden = commit(&lab, &secret, "secret.txt", "s");
    let (checkout, workspace) = lab.session(&root);
    let git_dir = workspace.root.join(".git");
    fs::write(git_dir.join("objects/info/alternates"), format!("{}\n", secret.join(".git/objects").display())).unwrap();
    fs::write(git_dir.join("refs/heads/stolen"), format!("{hidden}\n")).unwrap();
    let collected = collect(&checkout, &workspace, Some(WIP)).unwrap();
    assert_eq!(collected.others, Vec::<String>::new());
    assert!(collected.notices.iter().any(|notice| notice.contains("cannot be read")), "{collected:?}");
    assert!(!lab.git(&root, &["cat-file", "-e", &hidden]).ok);
    std::os::unix::fs::symlink(secret.join(".git/objects/pack"), git_dir.join("objects/zz")).unwrap();
    fs::write(workspace.root.join("mine"), "x").unwrap();
    let collected = collect(&checkout, &workspace, Some(WIP)).unwrap();
    assert!(collected.wip, "the files are saved all the same: {collected:?}");
    assert_eq!(lab.ok(&root, &["show", &format!("{BRANCH}:mine")]), "x");
    assert!(!lab.git(&root, &["cat-file", "-e", &hidden]).ok);
    assert!(matches!(remove_clone(&checkout, &workspace, WIP), Err(GitError::NotCollected { .. })));
    fs::remove_file(workspace.root.join("mine")).unwrap();
    fs::rename(&git_dir, lab.path("moved")).unwrap();
    std::os::unix::fs::symlink(secret.join(".git"), &git_dir).unwrap();
    let collected = collect(&checkout, &workspace, Some(WIP)).unwrap();
    assert_eq!(collected.others, Vec::<String>::new());
    assert!(!lab.git(&root, &["cat-file", "-e", &hidden]).ok);
}

#[test]
fn a_clone_is_removed_only_with_its_work_at_home() {
    let lab = Lab::new();
    let root = lab.repository("tool", &[]);
    let (checkout, workspace) = lab.session(&root);
    let tip = commit(&lab, &workspace.root, "a", "1");
    fs::File::create(workspace.root.join("huge.bin")).unwrap().set_len(51 * 1024 * 1024).unwrap();
    let error = remove_clone(&checkout, &workspace, WIP).unwrap_err();
    assert!(error.to_string().contains("huge.bin") && error.hint().is_some(), "{error}");
    assert!(workspace.root.join("a").exists());
    fs::remove_file(workspace.root.join("huge.bin")).unwrap();
    let removed = remove_clone(&checkout, &workspace, WIP).unwrap();
    assert_eq!((removed.tip, at(&lab, &root, BRANCH)), (Some(tip.clone()), Some(tip)));
    assert!(!workspace.root.exists());
    assert_eq!(lab.ok(&root, &["for-each-ref", "refs/sentrely"]), "");
    lab.ok(&root, &["fsck", "--strict"]);
}

// ---- resuming, in place, tripwire --------------------------------------------------------------------------------------------------

#[test]
fn a_resumed_session_finds_its_clone_as_it_left_it_behind_a_new_gate() {
    let lab = Lab::new();
    let (root, origin) = lab.shop();
    let Gated { checkout, workspace, gate, directory, .. } = lab.gated(&root);
    commit(&lab, &workspace.root, "a", "1");
    lab.agent_ok(&workspace.root, &["push", "--quiet"]);
    fs::write(workspace.root.join("b"), "uncommitted").unwrap();
    fs::write(workspace.root.join(".git/index.lock"), "").unwrap();
    drop(gate);
    let (gate, _events) = lab.gate(&checkout, &directory, "another");
    let request = CloneRequest {
        dir: &directory,
        branch: BRANCH,
        base: None,
        gate_url: Some(gate.url()),
        bring: Bring::default(),
        session: workspace.session,
    };
    let again = reopen(&checkout, &request, &workspace).unwrap();
    assert_eq!((again.root.clone(), again.base_commit.clone()), (workspace.root.clone(), workspace.base_commit.clone()));
    assert_eq!(fs::read_to_string(again.root.join("b")).unwrap(), "uncommitted");
    let second = commit(&lab, &again.root, "c", "2");
    lab.agent_ok(&again.root, &["push", "--quiet"]);
    assert_eq!(origin.tip(&lab, BRANCH), Some(second.clone()));

    collect(&checkout, &again, Some(WIP)).unwrap();
    fs::remove_dir_all(&again.root).unwrap();
    let remade = reopen(&checkout, &request, &again).unwrap();
    assert_eq!(at(&lab, &remade.root, "HEAD~1"), Some(second));
    assert_eq!(fs::read_to_string(remade.root.join("b")).unwrap(), "uncommitted");
    assert_eq!(lab.agent_ok(&remade.root, &["status", "--porcelain"]), "");
    assert_eq!(collect(&checkout, &remade, Some(WIP)).unwrap().branch, BRANCH);
}

#[test]
fn in_place_switches_to_a_fresh_branch_and_refuses_in_the_middle_of_a_merge() {
    let lab = Lab::new();
    let root = lab.repository("tool", &[]);
    let checkout = lab.checkout(&root);
    let directory = lab.session_directory();
    fs::write(root.join("README.md"), "uncommitted\n").unwrap();
    let workspace = in_place(&checkout, &directory, BRANCH, None, SessionId::new()).unwrap();
    assert_eq!(lab.ok(&root, &["symbolic-ref", "--short", "HEAD"]), BRANCH);
    assert_eq!(fs::read_to_string(root.join("README.md")).unwrap(), "uncommitted\n");
    commit(&lab, &root, "a", "1");
    let checkout = lab.checkout(&root);
    assert_eq!(collect(&checkout, &workspace, Some(WIP)).unwrap().commits, 1);
    assert_eq!(lab.ok(&root, &["status", "--porcelain"]), " M README.md".to_owned());
    assert!(remove_clone(&checkout, &workspace, WIP).is_ok() && root.join("a").exists(), "the checkout is never removed");
    fs::write(root.join(".git/MERGE_HEAD"), at(&lab, &root, "main").unwrap()).unwrap();
    let refused = in_place(&checkout, &directory, "sentrely/ada/other", None, SessionId::new());
    assert!(matches!(refused, Err(GitError::MidOperation { state: "a merge", .. })), "{refused:?}");
}

#[test]
fn uncommitted_work_is_put_aside_before_a_session_works_in_the_checkout_itself() {
    let lab = Lab::new();
    let root = lab.repository("tool", &[]);
    let session = SessionId::new();
    let name = format!("refs/sentrely/snapshot/{session}");
    fs::write(root.join("README.md"), "mine\n").unwrap();
    lab.ok(&root, &["add", "README.md"]);
    fs::write(root.join("README.md"), "mine, further\n").unwrap();
    fs::write(root.join("new.txt"), "mine\n").unwrap();
    fs::write(root.join("build.log"), "ignored\n").unwrap();
    fs::remove_file(root.join("src/main.rs")).unwrap();
    let status = lab.ok(&root, &["status", "--porcelain"]);
    let checkout = lab.checkout(&root);
    let workspace = in_place(&checkout, &lab.session_directory(), BRANCH, None, session).unwrap();
    assert_eq!(lab.ok(&root, &["status", "--porcelain"]), status, "nothing of it was touched");
    let line = workspace.notices.iter().find_map(|notice| notice.split_once("to have it back: git ")).unwrap().1;
    assert_eq!(lab.ok(&root, &["diff", "--name-status", "main", &name]), "M\tREADME.md\nA\tnew.txt\nD\tsrc/main.rs");
    // The agent cleans up.
    lab.ok(&root, &["reset", "--quiet", "--hard"]);
    lab.ok(&root, &["clean", "--quiet", "-fdx"]);
    lab.ok(&root, &["gc", "--quiet", "--prune=now"]);
    lab.ok(&root, &line.split(' ').collect::<Vec<_>>());
    assert_eq!(fs::read_to_string(root.join("README.md")).unwrap(), "mine, further\n");
    assert!(root.join("new.txt").exists() && !root.join("src/main.rs").exists());
    assert!(undo_in_place(&checkout, &workspace).unwrap());
    assert_eq!(at(&lab, &root, &name), None);
    lab.ok(&root, &["reset", "--quiet", "--hard"]);
    lab.ok(&root, &["clean", "--quiet", "-fdx"]);
    let clean = in_place(&lab.checkout(&root), &lab.session_directory(), BRANCH, None, session).unwrap();
    assert_eq!((clean.notices.len(), at(&lab, &root, &name)), (1, None));
}

#[test]
fn a_base_that_only_the_remote_has_is_fetched_with_the_developers_credential() {
    let lab = Lab::new();
    let (root, origin) = lab.shop();
    lab.ok(&root, &["checkout", "--quiet", "-b", "topic/one"]);
    let tip = commit(&lab, &root, "topic.txt", "1\n");
    lab.ok(&root, &["push", "--quiet", "origin", "topic/one"]);
    lab.ok(&root, &["checkout", "--quiet", "main"]);
    lab.ok(&root, &["branch", "--quiet", "-D", "topic/one"]);
    lab.ok(&root, &["update-ref", "-d", "refs/remotes/origin/topic/one"]);
    let checkout = lab.checkout(&root);
    for base in ["origin/topic/one", "topic/one"] {
        origin.requests.lock().unwrap().clear();
        let directory = lab.session_directory();
        let branch = format!("sentrely/ada/{}", base.replace('/', "-"));
        let session = SessionId::new();
        let request = CloneRequest { dir: &directory, branch: &branch, base: Some(base), gate_url: None, bring: Bring::default(), session };
        let workspace = create_clone(&checkout, &request).unwrap();
        assert_eq!((workspace.base_commit.as_deref(), workspace.base.as_str()), (Some(&*tip), base));
        assert!(workspace.root.join("topic.txt").exists() && !origin.requests.lock().unwrap().is_empty());
        lab.ok(&root, &["update-ref", "-d", "refs/remotes/origin/topic/one"]);
    }
    for wrong in ["origin/nowhere", "nowhere", "HEAD~9", "--upload-pack=x", "0123456789abcdef0123456789abcdef01234567"] {
        let directory = lab.session_directory();
        let session = SessionId::new();
        let request = CloneRequest { dir: &directory, branch: BRANCH, base: Some(wrong), gate_url: None, bring: Bring::default(), session };
        assert!(matches!(create_clone(&checkout, &request), Err(GitError::NoSuchBase(_))), "{wrong}");
    }
}

#[test]
fn uncommitted_work_that_stays_the_same_stays_one_commit() {
    let lab = Lab::new();
    for init in [&[][..], &["--object-format=sha256"][..]] {
        let root = lab.repository(if init.is_empty() { "plain" } else { "hashes" }, init);
        let (checkout, workspace) = lab.session(&root);
        fs::write(workspace.root.join("a"), "1\n").unwrap();
        let first = collect(&checkout, &workspace, Some(WIP)).unwrap();
        std::thread::sleep(Duration::from_millis(1100)); // a commit made anew would have another time
        assert_eq!(collect(&checkout, &workspace, Some(WIP)).unwrap(), first);
        fs::write(workspace.root.join("a"), "2\n").unwrap();
        assert_ne!(collect(&checkout, &workspace, Some(WIP)).unwrap().tip, first.tip);
    }
}

#[test]
fn the_tripwire_names_protected_refs_that_moved() {
    let lab = Lab::new();
    let root = lab.repository("tool", &[]);
    let checkout = lab.checkout(&root);
    let patterns = ["main".to_owned(), "release/*".to_owned()];
    let before = ProtectedRefs::read(&checkout, &patterns).unwrap();
    lab.ok(&root, &["branch", "topic"]);
    assert_eq!(before.moved(&ProtectedRefs::read(&checkout, &patterns).unwrap()), []);
    lab.ok(&root, &["branch", "release/1"]);
    lab.ok(&root, &["reset", "--quiet", "--hard", "HEAD~1"]);
    let moved = before.moved(&ProtectedRefs::read(&checkout, &patterns).unwrap());
    let names: Vec<&str> = moved.iter().map(|moved| moved.name.as_str()).collect();
    assert_eq!(names, ["refs/heads/main", "refs/heads/release/1"]);
    assert_eq!(moved[1].before, None);
}

// ---- the gate ----------------------------------------------------------------------------------------------------------------------

#[test]
fn the_sessions_branch_arrives_with_the_developers_credential_and_the_agent_holds_none() {
    let lab = Lab::new();
    let (root, origin) = lab.shop();
    origin.hook("post-receive", "#!/bin/sh\necho 'Create a pull request at https://forge/x' >&2\n");
    let Gated { workspace, gate, events, .. } = lab.gated(&root);
    let tip = commit(&lab, &workspace.root, "a", "1");
    let main = origin.tip(&lab, "main");
    let said = lab.agent(&workspace.root, &["push"]);
    assert!(said.ok, "{}", said.err);
    assert!(said.err.contains("[new branch]") && said.err.contains("remote: Create a pull request"), "{}", said.err);
    assert_eq!([origin.tip(&lab, BRANCH), origin.tip(&lab, "main")], [Some(tip.clone()), main]);
    assert_eq!(*events.lock().unwrap(), [GateEvent::PushAccepted { branch: BRANCH.into(), commit: tip }]);
    assert!(lab.agent(&workspace.root, &["push"]).err.contains("Everything up-to-date"));
    let found = lab.run("agent-home", &workspace.root, "grep", &["-rl", "-e", PASSWORD, "-e", &format!("127.0.0.1:{}", origin.port), "."]);
    assert_eq!(found.out, "", "neither the password nor the real URL lies in the clone");
    assert!(gate.url().starts_with("http://127.0.0.1:"));
    let direct = lab.agent(&workspace.root, &["push", &origin.url, "HEAD:main"]);
    assert!(!direct.ok && direct.err.contains("could not read Username"), "{}", direct.err);
}

#[test]
fn everything_but_the_sessions_branch_is_refused_in_gits_own_words_and_nothing_goes_upstream() {
    let lab = Lab::new();
    let (root, origin) = lab.shop();
    let Gated { workspace, events, gate, .. } = lab.gated(&root);
    let clone = &workspace.root;
    let mine = commit(&lab, clone, "a", "1");
    lab.agent_ok(clone, &["push", "--quiet"]);
    origin.requests.lock().unwrap().clear();
    events.lock().unwrap().clear();
    let refs = |lab: &Lab| lab.ok(&origin.bare, &["for-each-ref"]);
    let before = refs(&lab);
    commit(&lab, clone, "b", "2");
    lab.agent_ok(clone, &["tag", "v9"]);
    let own_delete = format!(":{BRANCH}");
    let deeper = format!("HEAD:refs/heads/{BRANCH}-2");
    let mixed = ["push", "origin", "HEAD", "HEAD:main"];
    let attempts: [(&[&str], &str); 14] = [
        (
            &["push", "origin", "HEAD:main"],
            "HEAD -> main (sentrely: protected branch; this session may only push sentrely/ada/fix-9f3a12cd)",
        ),
        (&["push", "--no-verify", "origin", "HEAD:refs/heads/release/1"], "sentrely: protected branch"),
        (&["push", "--force", "origin", "HEAD~1:main"], "sentrely: protected branch"),
        (&["push", "origin", "HEAD:topic"], "sentrely: not this session's branch"),
        (&["push", "origin", &deeper], "sentrely: not this session's branch"),
        (&["push", "origin", "v9"], "sentrely: tags are not pushed from a session"),
        (&["push", "--tags", "--force", "origin"], "sentrely: tags are not pushed from a session"),
        (&["push", "origin", "HEAD:refs/notes/x"], "sentrely: not a branch"),
        (&["push", "origin", ":main"], "sentrely: protected branch"),
        (&["push", "origin", "--delete", "v1"], "sentrely: tags"),
        (&["push", "origin", &own_delete], "sentrely: a session does not delete its branch"),
        (&mixed, "refused together with the rest"),
        (&["push", "--mirror", "origin"], "refused together with the rest"),
        (&["push", "--atomic", "origin", "HEAD", "v9"], "refused together"),
    ];
    for (args, expected) in attempts {
        let said = lab.agent(clone, args);
        assert!(!said.ok, "{args:?} went through");
        assert!(said.err.contains("! [remote rejected]") && said.err.contains(expected), "{args:?}: {}", said.err);
        assert!(said.err.contains("remote: sentrely: push your work with"), "{args:?}: {}", said.err);
    }
    let path = std::env::var("PATH").unwrap();
    let bare_env = lab.run("agent-home", clone, "env", &["-i", &format!("PATH={path}"), "git", "push", "origin", "HEAD:main"]);
    assert!(!bare_env.ok && bare_env.err.contains("! [remote rejected]"), "{}", bare_env.err);
    let python = lab.run(
        "agent-home",
        clone,
        "env",
        &["-i", &format!("PATH={path}"), "git", "-c", "core.hooksPath=/dev/null", "push", gate.url(), "HEAD:refs/heads/main"],
    );
    assert!(!python.ok && python.err.contains("! [remote rejected]"), "{}", python.err);
    let guessed = lab.agent(clone, &["push", &gate.url().replace("n0nce", "guess"), "HEAD"]);
    assert!(!guessed.ok && guessed.err.contains("not found"), "{}", guessed.err);
    assert_eq!(refs(&lab), before);
    assert_eq!(origin.tip(&lab, BRANCH), Some(mine));
    assert_eq!(*origin.requests.lock().unwrap(), Vec::<String>::new(), "nothing was even asked of the upstream");
    let events = events.lock().unwrap();
    assert_eq!(events.len(), attempts.len() + 2);
    assert!(
        events.iter().all(|event| matches!(event, GateEvent::PushRefused { reason, .. } if reason.starts_with("sentrely: "))),
        "{events:?}"
    );
    assert_eq!(
        events[0],
        GateEvent::PushRefused {
            refs: vec!["refs/heads/main".into()],
            reason: format!("sentrely: protected branch; this session may only push {BRANCH}")
        }
    );
}

#[test]
fn a_remote_that_is_a_relative_path_is_reached_through_the_gate() {
    let lab = Lab::new();
    let root = lab.repository("tool", &[]);
    let bare = lab.path("bare.git");
    lab.ok(&lab.path("state"), &["init", "--quiet", "--bare", "-b", "main", bare.to_str().unwrap()]);
    lab.ok(&root, &["remote", "add", "upstream", "../bare.git"]);
    lab.ok(&root, &["push", "--quiet", "upstream", "main"]);
    let Gated { workspace, gate: _gate, .. } = lab.gated(&root);
    let tip = commit(&lab, &workspace.root, "a", "1");
    lab.agent_ok(&workspace.root, &["push", "--quiet"]);
    lab.agent_ok(&workspace.root, &["fetch", "--quiet", "upstream"]);
    assert_eq!(at(&lab, &bare, BRANCH), Some(tip));
    let said = lab.agent(&workspace.root, &["push", "upstream", "HEAD:main"]);
    assert!(said.err.contains("! [remote rejected]"), "{}", said.err);
}

#[test]
fn the_sessions_branch_only_goes_forwards() {
    let lab = Lab::new();
    let (root, origin) = lab.shop();
    let Gated { workspace, gate: _gate, .. } = lab.gated(&root);
    let pushed = commit(&lab, &workspace.root, "a", "1");
    lab.agent_ok(&workspace.root, &["push", "--quiet"]);
    lab.agent_ok(&workspace.root, &["commit", "--quiet", "--amend", "-m", "rewritten"]);
    for args in [&["push", "--force"][..], &["push", "--force-with-lease"]] {
        let said = lab.agent(&workspace.root, args);
        assert!(!said.ok && said.err.contains("! [remote rejected]") && said.err.contains("not a fast-forward"), "{}", said.err);
    }
    assert_eq!(origin.tip(&lab, BRANCH), Some(pushed));
}

#[test]
fn a_refusal_of_the_upstream_reaches_the_agent_and_can_be_tried_again() {
    let lab = Lab::new();
    let (root, origin) = lab.shop();
    let Gated { workspace, events, gate: _gate, .. } = lab.gated(&root);
    let tip = commit(&lab, &workspace.root, "a", "1");
    origin.hook("pre-receive", "#!/bin/sh\necho 'policy 17: no Mondays' >&2\nexit 1\n");
    let said = lab.agent(&workspace.root, &["push"]);
    assert!(!said.ok && said.err.contains("! [remote rejected]"), "{}", said.err);
    assert!(said.err.contains("origin refused: [remote rejected] (pre-receive hook declined)"), "{}", said.err);
    assert!(said.err.contains("remote: policy 17: no Mondays"), "{}", said.err);
    assert!(matches!(&events.lock().unwrap()[..], [GateEvent::PushRefused { .. }]));
    fs::remove_file(origin.bare.join("hooks/pre-receive")).unwrap();
    lab.agent_ok(&workspace.root, &["push"]);
    assert_eq!(origin.tip(&lab, BRANCH), Some(tip));
}

#[test]
fn a_lost_credential_is_said_without_saying_it() {
    let lab = Lab::new();
    let (root, origin) = lab.shop();
    let with_password = origin.url.replace("http://", "http://ada:not-the-password@");
    lab.ok(&root, &["remote", "set-url", "origin", &with_password]);
    fs::write(lab.path("home/credentials"), "").unwrap();
    let Gated { workspace, gate: _gate, .. } = lab.gated(&root);
    commit(&lab, &workspace.root, "a", "1");
    let push = lab.agent(&workspace.root, &["push"]);
    assert!(!push.ok && push.err.contains("! [remote rejected]") && push.err.contains("Authentication failed"), "{}", push.err);
    let fetch = lab.agent(&workspace.root, &["fetch"]);
    assert!(!fetch.ok && fetch.err.contains("remote error: sentrely: failed to fetch from origin"), "{}", fetch.err);
    assert!(!format!("{}{}", push.err, fetch.err).contains("not-the-password"));
}

#[test]
fn fetching_and_pulling_go_through_the_gate() {
    let lab = Lab::new();
    let (root, origin) = lab.shop();
    let Gated { workspace, events, gate: _gate, .. } = lab.gated(&root);
    let colleague = lab.path("colleague");
    lab.ok(&lab.path("state"), &["clone", "--quiet", &origin.url, colleague.to_str().unwrap()]);
    lab.ok(&colleague, &["-c", "user.name=C", "-c", "user.email=c@d", "commit", "--quiet", "--allow-empty", "-m", "colleague"]);
    lab.ok(&colleague, &["push", "--quiet", "origin", "HEAD:main", "HEAD:topic"]);
    let theirs = at(&lab, &colleague, "HEAD");
    let said = lab.agent(&workspace.root, &["fetch", "origin"]);
    assert!(said.ok, "{}", said.err);
    assert_eq!([at(&lab, &workspace.root, "origin/main"), at(&lab, &workspace.root, "origin/topic")], [theirs.clone(), theirs.clone()]);
    assert_eq!(*events.lock().unwrap(), [GateEvent::Fetched]);
    // Enough commits of its own that git packs its request.
    for number in 0..40 {
        lab.agent_ok(&workspace.root, &["commit", "--quiet", "--allow-empty", "-m", &number.to_string()]);
    }
    lab.ok(&colleague, &["-c", "user.name=C", "-c", "user.email=c@d", "commit", "--quiet", "--allow-empty", "-m", "more"]);
    lab.ok(&colleague, &["push", "--quiet", "origin", "HEAD:main", ":topic"]);
    for version in ["2", "1", "0"] {
        let said = lab.agent(&workspace.root, &["-c", &format!("protocol.version={version}"), "fetch", "--prune", "origin"]);
        assert!(said.ok, "version {version}: {}", said.err);
    }
    lab.agent_ok(&workspace.root, &["pull", "--quiet", "--no-rebase", "--no-edit", "origin", "main"]);
    assert_eq!(at(&lab, &workspace.root, "HEAD^2"), at(&lab, &colleague, "HEAD"));
    assert_eq!(at(&lab, &workspace.root, "origin/topic"), None);
    lab.agent_ok(&workspace.root, &["push", "--quiet"]);
    let fresh = lab.path("fresh");
    lab.agent_ok(
        &lab.path("state"),
        &["clone", "--quiet", &lab.agent_ok(&workspace.root, &["remote", "get-url", "origin"]), fresh.to_str().unwrap()],
    );
    assert_eq!(at(&lab, &fresh, "HEAD"), at(&lab, &colleague, "HEAD"), "a clone through the gate is on main");
    assert_eq!(at(&lab, &fresh, &format!("origin/{BRANCH}")), at(&lab, &workspace.root, "HEAD"));
}

#[test]
fn a_push_of_several_megabytes_arrives() {
    let lab = Lab::new();
    let (root, origin) = lab.shop();
    let Gated { workspace, gate: _gate, .. } = lab.gated(&root);
    let mut noise = vec![0; 5 << 20];
    fs::File::open("/dev/urandom").unwrap().read_exact(&mut noise).unwrap();
    fs::write(workspace.root.join("noise.bin"), &noise).unwrap();
    let tip = commit(&lab, &workspace.root, "small", "1");
    lab.agent_ok(&workspace.root, &["add", "noise.bin"]);
    lab.agent_ok(&workspace.root, &["commit", "--quiet", "-m", "noise"]);
    let refused = lab.agent(&workspace.root, &["push", "origin", "HEAD:main"]);
    assert!(!refused.ok && refused.err.contains("! [remote rejected]"), "{}", refused.err);
    let said = lab.agent(&workspace.root, &["push"]);
    assert!(said.ok, "{}", said.err);
    assert_eq!(origin.tip(&lab, &format!("{BRANCH}~1")), Some(tip));
    lab.ok(&origin.bare, &["fsck"]);
}

#[test]
fn sessions_of_shallow_and_sha256_repositories_push_and_fetch() {
    for shallow in [true, false] {
        let lab = Lab::new();
        let (root, origin) = if shallow {
            let (full, origin) = lab.shop();
            let root = lab.path("shallow");
            lab.ok(&full, &["clone", "--quiet", "--depth=1", &origin.url, root.to_str().unwrap()]);
            lab.ok(&root, &["config", "user.email", "ada@example.org"]);
            (root, origin)
        } else {
            sha256_shop(&lab)
        };
        let Gated { workspace, checkout, gate: _gate, .. } = lab.gated(&root);
        let tip = commit(&lab, &workspace.root, "a", "1");
        let said = lab.agent(&workspace.root, &["push"]);
        assert!(said.ok, "shallow {shallow}: {}", said.err);
        assert_eq!(origin.tip(&lab, BRANCH), Some(tip));
        let said = lab.agent(&workspace.root, &["push", "origin", "HEAD:main"]);
        assert!(said.err.contains("! [remote rejected]"), "{}", said.err);
        let said = lab.agent(&workspace.root, &["fetch", "origin"]);
        assert!(said.ok, "shallow {shallow}: {}", said.err);
        assert_eq!(collect(&checkout, &workspace, Some(WIP)).unwrap().commits, 1);
    }
}

fn sha256_shop(lab: &Lab) -> (PathBuf, Origin) {
    let (_, origin) = lab.shop();
    let root = lab.repository("shop256", &["--object-format=sha256"]);
    fs::remove_dir_all(&origin.bare).unwrap();
    fs::create_dir(&origin.bare).unwrap();
    lab.ok(&origin.bare, &["init", "--quiet", "--bare", "-b", "main", "--object-format=sha256"]);
    lab.ok(&origin.bare, &["config", "http.receivepack", "true"]);
    lab.ok(&root, &["remote", "add", "origin", &origin.url]);
    lab.ok(&root, &["push", "--quiet", "-u", "origin", "main"]);
    (root, origin)
}

#[test]
fn the_developers_local_settings_reach_the_upstream_but_hooks_and_pushed_tags_do_not() {
    let lab = Lab::new();
    let (root, origin) = lab.shop();
    // As actions/checkout does it: a header in the repository's own configuration, no helper; and a URL that only a rewrite explains.
    fs::write(lab.path("home/credentials"), "").unwrap();
    let header = format!("Authorization: Basic {}", BASE64_STANDARD.encode(format!("ada:{PASSWORD}")));
    lab.ok(&root, &["config", &format!("http.http://127.0.0.1:{}/.extraheader", origin.port), &header]);
    lab.ok(&root, &["config", &format!("url.http://127.0.0.1:{}/.insteadOf", origin.port), "forge:"]);
    lab.ok(&root, &["remote", "set-url", "origin", "forge:shop.git"]);
    lab.ok(&root, &["config", "push.followTags", "true"]);
    lab.ok(&root, &["config", "--global", "push.followTags", "true"]);
    let canary = lab.path("canary");
    executable(&lab.path("home/hooks/pre-push"), &format!("#!/bin/sh\ntouch '{}'\nexit 1\n", canary.display()));
    executable(&lab.path("home/hooks/pre-receive"), &format!("#!/bin/sh\ntouch '{}'\n", canary.display()));
    lab.ok(&root, &["config", "--global", "core.hooksPath", lab.path("home/hooks").to_str().unwrap()]);
    let Gated { workspace, gate: _gate, .. } = lab.gated(&root);
    let tip = commit(&lab, &workspace.root, "a", "1");
    lab.agent_ok(&workspace.root, &["-c", "user.name=A", "tag", "-a", "-m", "x", "v2"]);
    let said = lab.agent(&workspace.root, &["push"]);
    assert!(said.ok, "{}", said.err);
    assert_eq!([origin.tip(&lab, BRANCH), origin.tip(&lab, "v2")], [Some(tip), None]);
    assert!(!canary.exists());
    lab.agent_ok(&workspace.root, &["fetch"]);
}

#[test]
fn a_closed_gate_cuts_the_push_that_is_under_way_and_takes_no_other() {
    let lab = Lab::new();
    let (root, origin) = lab.shop();
    let Gated { workspace, gate, events, .. } = lab.gated(&root);
    commit(&lab, &workspace.root, "a", "1");
    let (begun, fifo) = (lab.path("begun"), lab.path("fifo"));
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    origin.hook("pre-receive", &format!("#!/bin/sh\necho > '{}'\nread x < '{}'\n", begun.display(), fifo.display()));
    std::thread::scope(|scope| {
        let pushing = scope.spawn(|| lab.agent(&workspace.root, &["push"]));
        let deadline = Instant::now() + Duration::from_mins(1);
        while !begun.exists() {
            assert!(Instant::now() < deadline, "the push did not reach the upstream");
            std::thread::yield_now();
        }
        let handle = lab.background.handle.clone();
        handle.block_on(gate.closed());
        let said = pushing.join().unwrap();
        assert!(!said.ok, "{}", said.err);
        // The upstream's hook still waits for its word, so it was no end of the push that ended it.
    });
    assert!(!events.lock().unwrap().iter().any(|event| matches!(event, GateEvent::PushAccepted { .. })));
    let later = lab.agent(&workspace.root, &["push"]);
    assert!(!later.ok, "{}", later.err);
    fs::OpenOptions::new().read(true).write(true).open(&fifo).unwrap().write_all(b"go\n").unwrap();
}

#[test]
fn the_gate_speaks_to_the_loopback_by_its_name_only() {
    let lab = Lab::new();
    let (root, origin) = lab.shop();
    let Gated { gate, .. } = lab.gated(&root);
    let address = gate.url().strip_prefix("http://").unwrap().split('/').next().unwrap().to_owned();
    let ask = |path: &str, host: &str| {
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
    };
    let refs = "/n0nce/repo.git/info/refs?service=git-receive-pack";
    assert_eq!(ask(refs, &address), "HTTP/1.1 200 OK");
    assert_eq!(ask(refs, "localhost"), "HTTP/1.1 200 OK");
    assert_eq!(ask(refs, "evil.example:80"), "HTTP/1.1 403 Forbidden");
    for path in [
        "/n0nc/repo.git/info/refs?service=git-receive-pack",
        "/",
        "//repo.git/info/refs",
        "/n0nce/other.git/info/refs?service=git-receive-pack",
        "/n0nce/repo.git/HEAD",
        "/n0nce/repo.git/config",
    ] {
        assert_eq!(ask(path, &address), "HTTP/1.1 404 Not Found", "{path}");
    }
    assert_eq!(origin.pushes(), 0);
}

#[test]
fn what_is_not_a_push_is_refused_whole() {
    let lab = Lab::new();
    let (root, origin) = lab.shop();
    let Gated { gate, events, .. } = lab.gated(&root);
    let address = gate.url().strip_prefix("http://").unwrap().split('/').next().unwrap().to_owned();
    let post = |body: &[u8], extra: &str| {
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        let head = format!(
            "POST /n0nce/repo.git/git-receive-pack HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n{extra}\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    };
    assert!(post(b"0000", "").starts_with("HTTP/1.1 200"), "git's probe");
    for body in [&b""[..], b"garbage", b"0015push-cert\0report-status", b"ffff"] {
        let answer = post(body, "");
        assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("push not understood"), "{answer}");
    }
    assert!(post(b"0000", "Content-Encoding: br\r\n").starts_with("HTTP/1.1 415"));
    // A client that asks for no report must not take the answer for consent.
    let line = format!("{} {} refs/heads/main\0agent=x", "0".repeat(40), "1".repeat(40));
    let body = format!("{:04x}{line}0000", line.len() + 4);
    assert!(post(body.as_bytes(), "").starts_with("HTTP/1.1 403"));
    let packed = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(body.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    assert!(post(&packed, "Content-Encoding: gzip\r\n").contains("protected branch"));
    assert_eq!(origin.pushes(), 0);
    assert_eq!(events.lock().unwrap().len(), 6);
}

#[test]
fn the_quarantines_own_hook_refuses_what_a_parser_could_miss() {
    let lab = Lab::new();
    let (root, _origin) = lab.shop();
    let Gated { workspace, directory, gate: _gate, .. } = lab.gated(&root);
    commit(&lab, &workspace.root, "a", "1");
    lab.agent_ok(&workspace.root, &["push", "--quiet"]);
    let quarantine = directory.join("git/quarantine.git");
    commit(&lab, &workspace.root, "b", "2");
    lab.ok(&workspace.root, &["push", "--quiet", quarantine.to_str().unwrap(), &format!("HEAD:{BRANCH}")]);
    // Straight into the repository behind the gate, as if the gate had not looked.
    for refspec in ["HEAD:refs/heads/main", "HEAD:refs/heads/new", "HEAD:refs/tags/x", ":refs/heads/main"] {
        let said = lab.git(&workspace.root, &["push", "--force", quarantine.to_str().unwrap(), refspec]);
        assert!(!said.ok && said.err.contains("! [remote rejected]"), "{refspec}: {}", said.err);
    }
}

#[test]
fn the_branchs_name_is_made_of_developer_slug_and_id() {
    assert_eq!(branch_name("ada@example.org", "fix", "9f3a12cd"), BRANCH);
}
