//! Filter drivers: what the developer configured holds for the session's work, and nothing of the agent's runs for it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use sentrely::git::{Bring, CloneRequest, Oddity, collect, reopen};

use super::{WIP, commit};
use crate::support::components::{Component, PYTHON};
use crate::support::env::TestEnv;
use crate::support::git::{BRANCH, Lab};

const LFS: Component = Component::Program("git-lfs");

/// A filter as nbstripout installs it: a module, looked for in the current folder first.
fn stripped(lab: &Lab, root: &Path) {
    lab.ok(root, &["config", "--global", "filter.strip.clean", "python3 -m stripit"]);
    lab.ok(root, &["config", "--global", "filter.strip.smudge", "python3 -m stripit"]);
    fs::write(root.join(".gitattributes"), "*.nb filter=strip\n").unwrap();
    fs::write(root.join("a.nb"), "cell\n").unwrap();
    lab.ok(root, &["add", "-A"]);
    lab.ok(root, &["commit", "--quiet", "-m", "notebook"]);
}

fn plant(clone: &Path, canary: &Path) {
    let text = format!("import sys\nopen({:?}, 'w').write('ran')\nsys.stdout.write(sys.stdin.read())\n", canary.to_str().unwrap());
    fs::write(clone.join("stripit.py"), text).unwrap();
}

#[test]
fn a_module_planted_for_a_filter_never_runs_when_work_is_collected_or_checked_out_again() {
    crate::needs!(PYTHON);
    for sparse in [false, true] {
        let lab = Lab::new();
        let root = lab.repository("tool", &[]);
        stripped(&lab, &root);
        if sparse {
            lab.ok(&root, &["sparse-checkout", "set", "src"]);
        }
        let (checkout, workspace) = lab.session(&root);
        assert_eq!(checkout.oddities.contains(&Oddity::Sparse), sparse);
        let canary = lab.path("canary");
        plant(&workspace.root, &canary);
        fs::write(workspace.root.join("a.nb"), "cell\nmore\n").unwrap();
        fs::write(workspace.root.join("b.nb"), "new\n").unwrap();
        let collected = collect(&checkout, &workspace, Some(WIP)).unwrap();
        assert!(collected.wip && !canary.exists(), "{collected:?}");
        assert_eq!(lab.ok(&root, &["show", &format!("{BRANCH}:a.nb")]), "cell\nmore");
        let told = "a.nb, one of 2 files, is saved as it is: the filter strip did not work outside the working copy";
        assert_eq!(collected.notices, [told]);

        // Again, from a branch that holds the trap.
        fs::remove_dir_all(&workspace.root).unwrap();
        let dir = workspace.state.parent().unwrap();
        let request = CloneRequest { dir, branch: BRANCH, base: None, gate_url: None, bring: Bring::default(), session: workspace.session };
        let again = reopen(&checkout, &request, &workspace).unwrap();
        assert!(again.root.join("stripit.py").exists() && !canary.exists());
        assert!(again.notices.iter().any(|notice| notice.contains("the filter strip did not work")), "{:?}", again.notices);

        // The control: git itself, with that folder as its work tree, springs the trap.
        fs::write(again.root.join("a.nb"), "cell\nonce more\n").unwrap();
        lab.ok(&again.root, &["add", "a.nb"]);
        assert!(canary.exists(), "the trap is live");
    }
}

#[test]
fn a_filter_behind_the_wall_reads_no_hidden_credential_by_way_of_the_collector() {
    crate::needs!(PYTHON, Component::Namespaces);
    let env = TestEnv::new();
    env.git(&["config", "--global", "filter.strip.clean", "python3 -m stripit"]);
    fs::create_dir(env.home().join(".aws")).unwrap();
    fs::write(env.home().join(".aws/credentials"), "aws_secret_access_key = CANARY\n").unwrap();
    let secret = env.home().join(".aws/credentials");
    let attack = format!(
        "printf '*.nb filter=strip\\n' > .gitattributes; echo x > x.nb\n\
         printf 'import sys\\nsys.stdout.write(open(\"{}\").read())\\n' > stripit.py\n\
         python3 -m stripit > inside.txt 2>&1 < /dev/null; true",
        secret.display()
    );
    let _ = env.sentrely(&["run", "--wall", "require", "--", "sh", "-c", &attack]).run().success();
    let id = env.the_session();
    let branch = env.ls_json()["sessions"][0]["branch"].as_str().unwrap().to_owned();
    let at = |file: &str| env.git(&["show", &format!("{branch}:{file}")]);
    assert!(!at("inside.txt").contains("CANARY"), "the wall hides it: {}", at("inside.txt"));
    assert_eq!(at("x.nb"), "x");
    // The control: what the collector must not do.
    let clone = env.session_dir(&id).join("work/project");
    env.git_in(&clone, &["add", "x.nb"]);
    assert!(env.git_in(&clone, &["show", ":x.nb"]).contains("CANARY"), "the attack works where git runs the filter");
}

#[test]
fn what_a_required_filter_could_not_clean_is_left_out_and_named() {
    for sparse in [false, true] {
        let lab = Lab::new();
        let root = lab.repository("tool", &[]);
        lab.ok(&root, &["config", "filter.seal.clean", "./seal"]);
        lab.ok(&root, &["config", "filter.seal.required", "true"]);
        if sparse {
            lab.ok(&root, &["sparse-checkout", "set", "src"]);
        }
        let (checkout, workspace) = lab.session(&root);
        fs::write(workspace.root.join(".gitattributes"), "*.secret filter=seal\n").unwrap();
        crate::support::git::executable(&workspace.root.join("seal"), "#!/bin/sh\ncat\n");
        fs::write(workspace.root.join("x.secret"), "open\n").unwrap();
        let collected = collect(&checkout, &workspace, Some(WIP)).unwrap();
        assert_eq!((collected.wip, &collected.left_out[..]), (true, &["x.secret".to_owned()][..]));
        assert!(!lab.git(&root, &["show", &format!("{BRANCH}:x.secret")]).ok);
    }
}

#[test]
fn a_filter_with_a_key_in_the_developers_repository_works() {
    for sparse in [false, true] {
        let lab = Lab::new();
        let root = lab.repository("tool", &[]);
        // As git-crypt does it: the key lies in the repository.
        let crypt = |way: &str| format!("key=$(cat \"$(git rev-parse --git-dir)/crypt-key\") && tr {way}");
        lab.ok(&root, &["config", "filter.crypt.clean", &crypt("a-z \"$key\"")]);
        lab.ok(&root, &["config", "filter.crypt.smudge", &crypt("\"$key\" a-z")]);
        lab.ok(&root, &["config", "filter.crypt.required", "true"]);
        fs::write(root.join(".git/crypt-key"), "n-za-m").unwrap();
        fs::write(root.join(".gitattributes"), "src/*.key filter=crypt\n").unwrap();
        fs::write(root.join("src/a.key"), "hello\n").unwrap();
        lab.ok(&root, &["add", "-A"]);
        lab.ok(&root, &["commit", "--quiet", "-m", "key"]);
        if sparse {
            lab.ok(&root, &["sparse-checkout", "set", "src"]);
        }
        let (checkout, workspace) = lab.session(&root);
        assert_eq!(fs::read_to_string(workspace.root.join("src/a.key")).unwrap(), "hello\n");
        fs::write(workspace.root.join("src/a.key"), "goodbye\n").unwrap();
        let collected = collect(&checkout, &workspace, Some(WIP)).unwrap();
        assert!(collected.left_out.is_empty() && collected.notices.is_empty(), "{collected:?}");
        assert_eq!(lab.ok(&root, &["show", &format!("{BRANCH}:src/a.key")]), "tbbqolr");
    }
}

/// A repository with one file of git-lfs's.
fn large(lab: &Lab) -> std::path::PathBuf {
    for home in ["home", "agent-home"] {
        let said = lab.run(home, &lab.path("state"), "git", &["lfs", "install", "--skip-repo"]);
        assert!(said.ok, "{}", said.err);
    }
    let root = lab.repository("tool", &[]);
    lab.ok(&root, &["lfs", "track", "*.bin"]);
    fs::write(root.join("a.bin"), "large\n").unwrap();
    lab.ok(&root, &["add", "-A"]);
    lab.ok(&root, &["commit", "--quiet", "-m", "large"]);
    root
}

fn content(root: &Path, digest: &str) -> std::path::PathBuf {
    root.join(".git/lfs/objects").join(&digest[..2]).join(&digest[2..4]).join(digest)
}

#[test]
fn files_of_git_lfs_are_whole_in_the_session_and_come_home_as_pointers_with_their_content() {
    crate::needs!(LFS);
    for sparse in [false, true] {
        let lab = Lab::new();
        let root = large(&lab);
        if sparse {
            lab.ok(&root, &["sparse-checkout", "set", "src"]);
        }
        let (checkout, workspace) = lab.session(&root);
        let clone = &workspace.root;
        assert_eq!(fs::read_to_string(clone.join("a.bin")).unwrap(), "large\n");
        let ours = |digest: &str| fs::metadata(content(&root, digest)).unwrap();
        assert_eq!(lab.agent_ok(clone, &["status", "--porcelain"]), "", "the index knows how the files are");
        // The developer's content is not reached through the clone: no link to it.
        let linked = walk(&root.join(".git/lfs")).into_iter().map(|path| fs::metadata(path).unwrap()).filter(|meta| meta.nlink() > 1);
        assert_eq!(linked.count(), 0);

        // One that the agent commits with its own git-lfs, and one that it does not commit.
        commit(&lab, clone, "b.bin", "made inside\n");
        fs::write(clone.join("c.bin"), "left there\n").unwrap();
        let collected = collect(&checkout, &workspace, Some(WIP)).unwrap();
        assert!(collected.wip && collected.notices.is_empty() && collected.left_out.is_empty(), "{collected:?}");
        for (file, text) in [("b.bin", "made inside\n"), ("c.bin", "left there\n")] {
            let pointer = lab.ok(&root, &["show", &format!("{BRANCH}:{file}")]);
            let digest = pointer.lines().find_map(|line| line.strip_prefix("oid sha256:")).unwrap();
            assert_eq!(ours(digest).len(), text.len() as u64);
            assert_eq!(fs::read_to_string(content(&root, digest)).unwrap(), text);
        }
        lab.ok(&root, &["checkout", "--quiet", BRANCH]);
        assert_eq!(fs::read_to_string(root.join("b.bin")).unwrap(), "made inside\n");
        lab.ok(&root, &["lfs", "fsck", "--pointers", "HEAD"]);
    }
}

fn walk(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(walk(&path)) } else { found.push(path) }
    }
    found
}
