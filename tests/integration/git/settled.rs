//! A fresh clone's index is believed: git need not read the files again, and sees every change.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::support::git::Lab;

/// Files that git would read to know whether they changed: as young as the index, in whole seconds.
fn doubtful(clone: &Path, files: &[&str]) -> Vec<String> {
    let written = fs::metadata(clone.join(".git/index")).unwrap().mtime();
    let young = |file: &&&str| fs::symlink_metadata(clone.join(file)).unwrap().mtime() >= written;
    files.iter().filter(young).map(|file| (*file).to_owned()).collect()
}

/// Objects that the clone has of its own, besides those it borrows.
fn own_objects(lab: &Lab, clone: &Path) -> usize {
    let said = lab.agent_ok(clone, &["count-objects", "-v"]);
    said.lines().find_map(|line| line.strip_prefix("count: ")).unwrap().parse().unwrap()
}

#[test]
fn no_file_of_a_fresh_clone_is_read_or_stored_again_and_an_edit_of_the_same_size_is_seen_at_once() {
    let lab = Lab::new();
    let (root, _) = lab.shop();
    let files = ["README.md", "src/main.rs"];
    std::os::unix::fs::symlink("README.md", root.join("link")).unwrap();
    for file in &files {
        fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
        fs::write(root.join(file), "one\n").unwrap();
    }
    lab.ok(&root, &["add", "-A"]);
    lab.ok(&root, &["commit", "--quiet", "-m", "begin"]);
    // A plain repository, and one that only git can check out, with another format of index.
    for odd in [false, true] {
        if odd {
            lab.ok(&root, &["config", "index.version", "4"]);
            lab.ok(&root, &["sparse-checkout", "set", "src"]);
        }
        let (_, workspace) = lab.session(&root);
        let clone = &workspace.root;
        let there: Vec<&str> = files.into_iter().chain(["link"]).filter(|file| clone.join(file).symlink_metadata().is_ok()).collect();
        assert!(there.len() >= 2, "{there:?}");
        assert_eq!(doubtful(clone, &there), Vec::<String>::new());
        // Without refreshing the index first: it says how the files are.
        assert_eq!(lab.agent_ok(clone, &["diff-files", "--name-only"]), "");
        assert!(fs::read(clone.join(".git/index")).unwrap().windows(4).any(|part| part == b"TREE"), "git need not compare every folder");
        let before = own_objects(&lab, clone);
        lab.agent_ok(clone, &["add", "-A"]);
        assert_eq!(own_objects(&lab, clone), before);

        fs::write(clone.join("src/main.rs"), "two\n").unwrap();
        assert_eq!(lab.agent_ok(clone, &["status", "--porcelain"]).trim(), "M src/main.rs");
    }
}
