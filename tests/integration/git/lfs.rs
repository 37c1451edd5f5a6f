//! git-lfs: the content goes where the pointers go, or the push is refused. The server asks for the developer's credential.

use std::fs;
use std::path::Path;

use sentrely::git::GateEvent;

use super::commit;
use crate::support::components::Component;
use crate::support::env::TestEnv;
use crate::support::git::{BRANCH, Gated, Lab};

const LFS: Component = Component::Program("git-lfs");

fn installed(lab: &Lab) {
    for home in ["home", "agent-home"] {
        let said = lab.run(home, &lab.path("state"), "git", &["lfs", "install", "--skip-repo"]);
        assert!(said.ok, "{}", said.err);
    }
}

fn large(lab: &Lab, clone: &Path, file: &str, text: &str) {
    lab.agent_ok(clone, &["lfs", "track", "*.bin"]);
    lab.agent_ok(clone, &["lfs", "install", "--local"]);
    lab.agent_ok(clone, &["add", ".gitattributes"]);
    commit(lab, clone, file, text);
}

/// What the server has.
fn held(bare: &Path) -> Vec<String> {
    let listed = fs::read_dir(bare.join("content")).into_iter().flatten().flatten();
    listed.map(|entry| fs::read_to_string(entry.path()).unwrap()).collect()
}

#[test]
fn content_goes_up_with_the_push_by_the_developers_git_lfs_and_comes_down_through_the_gate() {
    crate::needs!(LFS);
    let lab = Lab::new();
    let (root, origin) = lab.shop();
    installed(&lab);
    // A colleague's, of which this machine has neither pointer nor content.
    let colleague = lab.path("colleague");
    lab.ok(&lab.path("state"), &["clone", "--quiet", &origin.url, colleague.to_str().unwrap()]);
    lab.ok(&colleague, &["lfs", "track", "*.bin"]);
    fs::write(colleague.join("theirs.bin"), "of a colleague\n").unwrap();
    lab.ok(&colleague, &["add", "-A"]);
    lab.ok(&colleague, &["-c", "user.name=C", "-c", "user.email=c@d", "commit", "--quiet", "-m", "Theirs"]);
    lab.ok(&colleague, &["push", "--quiet", "origin", "HEAD:feature"]);
    assert_eq!(held(&origin.bare), ["of a colleague\n"]);

    let Gated { workspace, gate: _gate, .. } = lab.gated(&root);
    let clone = &workspace.root;
    large(&lab, clone, "mine.bin", "made inside\n");
    let said = lab.agent(clone, &["push"]);
    assert!(said.ok, "{}", said.err);
    assert!(!said.err.contains("locking"), "nothing is said of locks: {}", said.err);
    assert!(held(&origin.bare).contains(&"made inside\n".to_owned()));
    let again = lab.path("again");
    lab.ok(&lab.path("state"), &["clone", "--quiet", "--branch", BRANCH, &origin.url, again.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(again.join("mine.bin")).unwrap(), "made inside\n");

    lab.agent_ok(clone, &["fetch", "--quiet"]);
    lab.agent_ok(clone, &["checkout", "--quiet", "origin/feature"]);
    assert_eq!(fs::read_to_string(clone.join("theirs.bin")).unwrap(), "of a colleague\n");
}

#[test]
fn a_pointer_without_its_content_is_refused_and_forged_content_is_not_taken() {
    crate::needs!(LFS);
    let lab = Lab::new();
    let (root, origin) = lab.shop();
    installed(&lab);
    let Gated { workspace, gate, events, .. } = lab.gated(&root);
    let clone = &workspace.root;
    let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 3\n", "ab".repeat(32));
    commit(&lab, clone, "x.bin", &pointer);
    let said = lab.agent(clone, &["push", "--no-verify"]);
    assert!(!said.ok && said.err.contains("[remote rejected]") && said.err.contains("is not on this machine"), "{}", said.err);
    assert_eq!(origin.tip(&lab, BRANCH), None);
    let refused = |event: &GateEvent| matches!(event, GateEvent::PushRefused { reason, .. } if reason.contains("git-lfs"));
    assert!(events.lock().unwrap().iter().any(refused));
    let put = |digest: &str, body: &str| {
        let url = format!("{}/info/lfs/objects/{digest}/{}", gate.url(), body.len());
        lab.run("agent-home", clone, "curl", &["-s", "-o", "/dev/null", "-w", "%{http_code}", "-X", "PUT", "--data-binary", body, &url]).out
    };
    assert_eq!(put(&"ab".repeat(32), "abc"), "422");
    // The control: what is what its name says.
    assert_eq!(put("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "abc"), "200");
    // A pointer of a file that is at home already needs nothing.
    lab.agent_ok(clone, &["reset", "--quiet", "--hard", "HEAD~1"]);
    let pointer =
        "version https://git-lfs.github.com/spec/v1\noid sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\nsize 3\n";
    commit(&lab, clone, "x.bin", pointer);
    lab.agent_ok(clone, &["push", "--no-verify", "--quiet"]);
    assert_eq!(held(&origin.bare), ["abc"]);
}

#[test]
fn a_pull_request_takes_the_content_along_or_fails() {
    crate::needs!(LFS);
    let env = TestEnv::new();
    let _ = env.command("git", &["lfs", "install", "--skip-repo"]).run().success();
    let script =
        "git lfs install --local && git lfs track '*.bin' && printf large > a.bin && git add -A && git commit -qm 'Add a large file'";
    let _ = env.sentrely(&["run", "--", "sh", "-ec", script]).run().success();
    let id = env.the_session();
    let branch = env.ls_json()["sessions"][0]["branch"].as_str().unwrap().to_owned();
    let pointer = env.git(&["show", &format!("{branch}:a.bin")]);
    let digest = pointer.lines().find_map(|line| line.strip_prefix("oid sha256:")).unwrap();
    let place = |git_dir: &Path| git_dir.join("lfs/objects").join(&digest[..2]).join(&digest[2..4]).join(digest);
    let (ours, theirs) = (place(&env.project().join(".git")), place(&env.origin()));
    assert_eq!(fs::read_to_string(&ours).unwrap(), "large");

    fs::rename(&ours, env.tmp().join("away")).unwrap();
    let said = env.sentrely(&["pr", &id]).run().exits(1).stderr;
    assert!(said.contains("files of git-lfs") && said.contains("is not on this machine"), "{said}");
    assert!(!env.git_in(&env.origin(), &["branch", "--list", "sentrely/*"]).contains("sentrely"), "no pointer to nothing");

    fs::rename(env.tmp().join("away"), &ours).unwrap();
    let _ = env.sentrely(&["pr", &id]).run().success();
    assert_eq!(fs::read_to_string(theirs).unwrap(), "large");
    assert_eq!(env.git_in(&env.origin(), &["rev-parse", &branch]), env.git(&["rev-parse", &branch]));
}
