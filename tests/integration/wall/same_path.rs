//! `--workspace same-path`: the clone at the checkout's path.

use super::*;
use crate::session::snapshot;

fn whos() -> impl Iterator<Item = Who> {
    [Who::Root, Who::User].into_iter().filter(|who| full_wall(*who))
}

/// A checkout in use: ignored folders, an untracked file, one that is changed and one that is added.
fn in_use(world: &World) -> PathBuf {
    let project = world.env.project();
    for (name, content) in [(".gitignore", "node_modules/\n.env\n"), ("tracked.txt", "tracked\n"), ("lib/a.txt", "a\n")] {
        write(&project.join(name), content);
    }
    // Before the world is the user's, git is not yet asked as another one.
    let git = |args: &[&str]| {
        let mut words = world.as_who();
        words.push("git".to_owned());
        words.extend(args.iter().map(|arg| (*arg).to_owned()));
        let _ = world.env.command(&words[0], &words[1..]).var("PATH", PATH).run().success();
    };
    world.give_away();
    git(&["add", "."]);
    git(&["commit", "-qm", "In use"]);
    let more = [
        ("node_modules/dep/index.js", "dep\n"),
        (".env", "KEY=1\n"),
        ("notes *.txt", "mine\n"),
        ("tracked.txt", "changed\n"),
        ("added.txt", "added\n"),
        ("drafts/one", "1\n"),
    ];
    for (name, content) in more {
        write(&project.join(name), content);
    }
    world.give_away();
    git(&["add", "added.txt"]);
    project
}

const WORK: &str = r"set -e
pwd; git rev-parse --abbrev-ref HEAD | cut -d/ -f1; git status --porcelain; cat tracked.txt .env node_modules/dep/index.js 'notes *.txt'
echo changed > node_modules/dep/index.js; rm 'notes *.txt'; rm -rf node_modules/dep; mkdir -p node_modules/other; echo more >> drafts/one
echo new > new.txt; git add -A; git commit -qm Work; git show --format= --name-only
mv lib lib2; mv lib2 lib; git gc -q; git fsck --no-progress --no-dangling; git tag t; git stash list
rm tracked.txt; echo later > later.txt
";

#[test]
fn the_session_works_at_the_checkouts_path_and_the_checkout_is_as_before() {
    for who in whos() {
        let world = World::new(who);
        let project = in_use(&world);
        let before = snapshot(&project);
        let run = world.run(&["--wall", "require", "--workspace", "same-path"], &["bash", "-c", WORK]).run().success();
        let expected = format!("{}\nsentrely\ntracked\nKEY=1\ndep\nmine\nnew.txt\n", project.display());
        assert_eq!(run.stdout, expected, "{who:?}: {}", run.stderr);
        let after = snapshot(&project);
        let changed: Vec<&String> = before.keys().chain(after.keys()).filter(|name| before.get(*name) != after.get(*name)).collect();
        assert_eq!(changed, Vec::<&String>::new(), "{who:?}: the checkout and its .git are as before");
        for said in ["checkout copy-on-write", "seen at your checkout's path"] {
            assert!(run.stderr.contains(said), "{said}: {}", run.stderr);
        }

        // What it did came home; of what was the developer's only what it changed.
        let id = world.env.sessions().into_iter().find(|id| id != "other").unwrap();
        let created = world.env.events(&id, "session_created")[0].clone();
        assert_eq!(created["workspace"], "same-path");
        let branch = created["branch"].as_str().unwrap();
        let safe = ["-c", "safe.directory=*"];
        let diff = world.env.git(&[&safe[..], &["diff", "--name-status", "HEAD", branch]].concat());
        assert_eq!(diff, "A\tdrafts/one\nA\tlater.txt\nA\tnew.txt\nD\ttracked.txt", "{who:?}");
        let dir = world.env.session_dir(&id);
        assert!(!dir.join("overlay").exists() && dir.join("work/project/new.txt").exists());

        let go_on = "git log -1 --format=%s; cat new.txt later.txt; git status --porcelain; test ! -e 'notes *.txt' && test ! -e tracked.txt && echo gone";
        let again = world.run(&["--resume", &id], &["bash", "-c", go_on]).run().success();
        assert_eq!(again.stdout, "Work\nnew\nlater\n D tracked.txt\n?? drafts/\n?? later.txt\ngone\n", "{who:?}: {}", again.stderr);
    }
}

#[test]
fn without_the_full_wall_there_is_no_session_at_the_checkouts_path() {
    let world = World::new(if nix::unistd::getuid().is_root() { Who::Root } else { Who::User });
    let same_path = ["--workspace", "same-path"];
    let refused = |run: Run<'_>| {
        let output = run.run().exits(125);
        assert!(output.stderr.contains("at the checkout's path") && output.stderr.contains("hint:"), "{}", output.stderr);
        assert_eq!(world.env.sessions(), ["other"]);
    };
    refused(world.run(&same_path, &["true"]).var("SENTRELY_TEST_HIDE", "namespaces"));
    refused(world.run(&[&same_path[..], &["--wall", "off"]].concat(), &["true"]));
}
