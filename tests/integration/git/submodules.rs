//! Submodules of the session's clone: there from the start, and their work comes home to where it belongs.

use std::fs;
use std::path::{Path, PathBuf};

use sentrely::git::{Bring, CloneRequest, collect, create_clone, remove_clone};
use sentrely::model::SessionId;

use super::{WIP, at, commit};
use crate::support::git::{BRANCH, Lab, photograph};

const FILES: [&str; 2] = ["-c", "protocol.file.allow=always"];

/// A tool with a library in it, that has a part of its own in it.
fn nested(lab: &Lab) -> PathBuf {
    let (part, library, root) = (lab.repository("part", &[]), lab.repository("library", &[]), lab.repository("tool", &[]));
    for (outer, inner, path) in [(&library, &part, "vendor/part"), (&root, &library, "lib")] {
        lab.ok(outer, &[&FILES[..], &["submodule", "--quiet", "add", inner.to_str().unwrap(), path]].concat());
        lab.ok(outer, &["commit", "--quiet", "-m", "submodule"]);
    }
    lab.ok(&root, &[&FILES[..], &["submodule", "--quiet", "update", "--init", "--recursive"]].concat());
    for inner in ["lib", "lib/vendor/part"] {
        lab.ok(&root.join(inner), &["config", "user.name", "Ada Lovelace"]);
        lab.ok(&root.join(inner), &["config", "user.email", "Ada@example.org"]);
    }
    root
}

fn files(root: &Path) -> Vec<String> {
    let seen = photograph(root).into_iter().filter(|(path, what)| !path.contains(".git") && !what.ends_with("directory"));
    seen.map(|(path, _)| path).collect()
}

#[test]
fn submodules_are_there_in_the_session_and_unchanged_they_leave_nothing_behind() {
    let lab = Lab::new();
    let root = nested(&lab);
    let (checkout, workspace) = lab.session(&root);
    assert_eq!(files(&workspace.root), files(&root));
    assert_eq!(lab.agent_ok(&workspace.root, &["status", "--porcelain"]), "");
    let state = lab.agent_ok(&workspace.root, &["submodule", "status", "--recursive"]);
    assert!(state.lines().count() == 2 && state.lines().all(|line| line.starts_with(' ')), "{state}");
    lab.agent_ok(&workspace.root, &["submodule", "--quiet", "update", "--recursive"]);
    assert!(!workspace.notices.iter().any(|notice| notice.contains("submodule")), "{:?}", workspace.notices);
    let collected = collect(&checkout, &workspace, Some(WIP)).unwrap();
    assert!(collected.unchanged && collected.left_out.is_empty() && collected.notices.is_empty(), "{collected:?}");
    remove_clone(&checkout, &workspace, WIP).unwrap();
    for inner in ["", "lib", "lib/vendor/part"] {
        assert_eq!(lab.ok(&root.join(inner), &["for-each-ref", "refs/sentrely", "refs/heads/sentrely"]), "", "{inner}");
    }
}

#[test]
fn work_in_a_submodule_comes_home_to_its_own_repository_whether_the_tool_points_to_it_or_not() {
    let lab = Lab::new();
    let root = nested(&lab);
    let (checkout, workspace) = lab.session(&root);
    let lib = workspace.root.join("lib");
    let committed = commit(&lab, &lib, "new.rs", "1\n");
    lab.agent_ok(&workspace.root, &["-c", "user.name=A", "-c", "user.email=a@b", "commit", "--quiet", "-am", "point to it"]);
    let pointed = collect(&checkout, &workspace, Some(WIP)).unwrap();
    assert_eq!((pointed.commits, pointed.wip, pointed.left_out.len()), (1, false, 0), "{pointed:?}");
    assert_eq!(pointed.others, [format!("{BRANCH} in the submodule lib")]);
    assert_eq!(at(&lab, &root.join("lib"), BRANCH), Some(committed.clone()));
    assert!(lab.ok(&root, &["ls-tree", BRANCH, "lib"]).contains(&committed));
    fs::write(lib.join("vendor/part/README.md"), "uncommitted, and deep\n").unwrap();
    let more = commit(&lab, &lib, "more.rs", "2\n");
    let collected = collect(&checkout, &workspace, Some(WIP)).unwrap();
    assert_eq!(at(&lab, &root.join("lib"), BRANCH), Some(more), "{collected:?}");
    assert_eq!(lab.ok(&root.join("lib/vendor/part"), &["show", &format!("{BRANCH}:README.md")]), "uncommitted, and deep");
    lab.ok(&root.join("lib"), &["fsck", "--strict"]);
    let removed = remove_clone(&checkout, &workspace, WIP).unwrap();
    assert!(removed.left_out.is_empty() && !workspace.root.exists());
    assert_eq!(lab.ok(&root, &["status", "--porcelain"]), "", "the developer's own are where they were");
}

#[test]
fn commits_in_a_submodule_of_the_agents_own_making_keep_the_clone() {
    let lab = Lab::new();
    let root = nested(&lab);
    let (checkout, workspace) = lab.session(&root);
    lab.agent_ok(&workspace.root, &["submodule", "--quiet", "absorbgitdirs"]);
    commit(&lab, &workspace.root.join("lib"), "new.rs", "1\n");
    let collected = collect(&checkout, &workspace, Some(WIP)).unwrap();
    assert!(collected.notices.iter().any(|notice| notice.contains("git directory is gone")), "{collected:?}");
    assert!(remove_clone(&checkout, &workspace, WIP).is_err() && workspace.root.join("lib/new.rs").exists());
}

#[test]
fn on_a_terminal_a_submodule_is_where_the_developer_has_it_with_what_is_not_committed() {
    let lab = Lab::new();
    let root = nested(&lab);
    let moved = commit(&lab, &root.join("lib"), "developers.rs", "1\n");
    fs::write(root.join("lib/README.md"), "mine\n").unwrap();
    let checkout = lab.checkout(&root);
    let directory = lab.session_directory();
    let bring = Bring { uncommitted: true, ..Bring::default() };
    let request = CloneRequest { dir: &directory, branch: BRANCH, base: None, gate_url: None, bring, session: SessionId::new() };
    let workspace = create_clone(&checkout, &request).unwrap();
    assert_eq!(lab.agent_ok(&workspace.root.join("lib"), &["rev-parse", "HEAD"]), moved);
    for (at, expected) in [("", " M lib"), ("lib", " M README.md")] {
        let status = |root: &Path, said: &dyn Fn(&Path) -> String| said(&root.join(at));
        let inside = status(&workspace.root, &|dir| lab.agent_ok(dir, &["status", "--porcelain"]));
        assert_eq!((inside.as_str(), inside.clone()), (expected, status(&root, &|dir| lab.ok(dir, &["status", "--porcelain"]))), "{at}");
    }
    let collected = collect(&checkout, &workspace, Some(WIP)).unwrap();
    assert!(collected.unchanged && collected.left_out.is_empty(), "{collected:?}");
    let on_top = commit(&lab, &workspace.root.join("lib"), "agents.rs", "1\n");
    let collected = collect(&checkout, &workspace, Some(WIP)).unwrap();
    assert_eq!((collected.others, at(&lab, &root.join("lib"), BRANCH)), (vec![format!("{BRANCH} in the submodule lib")], Some(on_top)));
}

#[test]
fn at_the_checkouts_path_submodules_are_refused_with_what_to_do_and_empty_ones_are_not() {
    let lab = Lab::new();
    let root = nested(&lab);
    let directory = lab.session_directory();
    let bring = Bring { laid_over: true, ..Bring::default() };
    let request = CloneRequest { dir: &directory, branch: BRANCH, base: None, gate_url: None, bring, session: SessionId::new() };
    let error = create_clone(&lab.checkout(&root), &request).unwrap_err();
    assert!(error.to_string().contains("it has submodules there (lib)"), "{error}");
    assert!(error.hint().unwrap().starts_with("--workspace clone"));
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
    lab.ok(&root, &["submodule", "--quiet", "deinit", "--force", "--all"]);
    create_clone(&lab.checkout(&root), &request).unwrap();
}

/// The folder that a submodule lies in becomes a link to one of the developer's, where a repository has the submodule's name.
#[test]
fn a_link_on_the_way_to_a_submodule_brings_no_other_repository_home_and_removes_none() {
    let lab = Lab::new();
    let root = nested(&lab);
    let (checkout, workspace) = lab.session(&root);
    let others = lab.path("others");
    fs::create_dir(&others).unwrap();
    let precious = lab.repository("others/part", &[]);
    let hidden = commit(&lab, &precious, "secret.txt", "a secret of the developer's\n");
    let vendor = workspace.root.join("lib/vendor");
    let done = commit(&lab, &vendor.join("part"), "work.txt", "done\n");
    fs::rename(&vendor, workspace.root.join("lib/away")).unwrap();
    std::os::unix::fs::symlink(&others, &vendor).unwrap();
    // The control: by that path it is the developer's.
    assert_eq!(lab.agent_ok(&vendor.join("part"), &["rev-parse", "HEAD"]), hidden);
    let before = photograph(&precious);
    let collected = collect(&checkout, &workspace, Some(WIP)).unwrap();
    let own = root.join("lib/vendor/part");
    assert!(!lab.git(&own, &["cat-file", "-e", &hidden]).ok, "{collected:?}");
    assert!(collected.notices.iter().any(|notice| notice.contains("lib: vendor/part: the clone's folder is gone")), "{collected:?}");
    let kept = remove_clone(&checkout, &workspace, WIP).unwrap_err().to_string();
    assert!(kept.contains("is not in the developer's repository"), "{kept}");
    assert_eq!(photograph(&precious), before);
    // Put right, all of it comes home.
    fs::remove_file(&vendor).unwrap();
    fs::rename(workspace.root.join("lib/away"), &vendor).unwrap();
    remove_clone(&checkout, &workspace, WIP).unwrap();
    assert_eq!(at(&lab, &own, BRANCH), Some(done));
    assert!(!workspace.root.exists() && !workspace.state.join("objects").exists());
    assert_eq!(photograph(&precious), before);
}
