//! The client's AWS identity and its branch: whose they are, and what they cannot do.

use std::collections::BTreeMap;

use sentrely::simulated::Answer;
use serde_json::{Value, json};

use super::{supervised, the_view, upstream, world};
use crate::session::snapshot;
use crate::support::aws::{ROLE, StrictSts};
use crate::support::claude::Claude;
use crate::support::components::{Component, VENV};
use crate::support::python;

const AUTO: &str = "--dangerously-skip-permissions";

#[test]
fn the_aws_cli_in_claudes_bash_tool_is_the_session_and_the_developers_key_is_nowhere() {
    crate::needs!(VENV);
    let Some(claude) = Claude::v330() else { return };
    let aws = python::program("aws");
    let (env, sts) = (world(), StrictSts::start());
    let spy = format!(
        "env > env.txt; tr '\\0' '\\n' < /proc/$PPID/environ >> env.txt; AWS_MAX_ATTEMPTS=1 {} sts get-caller-identity --output json > who.json 2>&1",
        aws.display()
    );
    let upstream = upstream([Answer::bash(spy), Answer::bash("cat who.json"), Answer::text("done")]);
    let mut run = supervised(&env, &claude, &["--role", ROLE], &["-p", "work", AUTO]).upstream(&upstream);
    for (name, value) in sts.environment() {
        run = run.var(name, value);
    }
    // A second way to the same key, in the home: the child must not find that one either.
    let aws_dir = env.home().join(".aws");
    std::fs::create_dir_all(&aws_dir).unwrap();
    std::fs::write(aws_dir.join("credentials"), "[default]\naws_access_key_id = AKIADEVELOPER\naws_secret_access_key = developer-secret\n")
        .unwrap();
    let output = run.run().success();
    assert_eq!(output.stdout, "done\n", "{}", output.stderr);

    let id = env.the_session();
    let mints = sts.mints();
    let [mint] = &mints[..] else { panic!("{mints:?}") };
    let name = format!("{id}-ana");
    assert_eq!((mint.params["RoleSessionName"].as_str(), mint.params["SourceIdentity"].as_str()), (name.as_str(), "ana"));
    let view = the_view(&env);
    let project = view["project"].as_str().unwrap().to_owned();
    let tags = [("sentrely:developer", "ana"), ("sentrely:project", project.as_str()), ("sentrely:session", id.as_str())];
    assert_eq!(mint.tags(), BTreeMap::from(tags.map(|(key, value)| (key.to_owned(), value.to_owned()))));

    let branch = view["branch"].as_str().unwrap();
    let who = env.git(&["show", &format!("{branch}:who.json")]);
    let who: Value = serde_json::from_str(&who).unwrap_or_else(|error| panic!("{error}: {who}"));
    let arn = format!("arn:aws:sts::111122223333:assumed-role/sentrely-agent/{name}");
    assert_eq!(who["Arn"], arn);
    assert!(output.stderr.contains(&arn), "the banner names it: {}", output.stderr);
    let last = upstream.messages().pop().unwrap();
    assert!(last.json()["messages"].to_string().contains(&arn), "claude itself has read it");
    let spied = env.git(&["show", &format!("{branch}:env.txt")]);
    assert!(!spied.contains("AKIADEVELOPER") && !spied.contains("developer-secret"), "{spied}");
    assert!(spied.contains("AWS_CONTAINER_CREDENTIALS_FULL_URI=http://127.0.0.1:"), "{spied}");

    assert_eq!((&view["developer"], &view["developer_source"]), (&json!("ana"), &json!("sts")));
    let listed = &view["aws"];
    assert_eq!((&listed["role_arn"], &listed["role_session_name"], &listed["delivery"]), (&json!(ROLE), &json!(name), &json!("endpoint")));
    assert!(listed["expires_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap() > jiff::Timestamp::now());
    assert!(branch.starts_with("sentrely/ana/"), "{branch}");
}

#[test]
fn without_a_role_the_client_has_no_aws_at_all() {
    crate::needs!(VENV);
    let Some(claude) = Claude::v330() else { return };
    let aws = python::program("aws");
    let (env, sts) = (world(), StrictSts::start());
    let spy = format!("AWS_MAX_ATTEMPTS=1 {} --region eu-central-1 sts get-caller-identity > who.txt 2>&1; true", aws.display());
    let upstream = upstream([Answer::bash(spy), Answer::text("done")]);
    let mut run = supervised(&env, &claude, &[], &["-p", "work", AUTO]).upstream(&upstream);
    for (name, value) in sts.environment() {
        run = run.var(name, value);
    }
    let output = run.run().success();
    assert!(output.stderr.contains("none (yours withheld)"), "{}", output.stderr);
    let view = the_view(&env);
    let who = env.git(&["show", &format!("{}:who.txt", view["branch"].as_str().unwrap())]);
    assert!(who.contains("Unable to locate credentials"), "{who}");
    assert_eq!((sts.requests().len(), &view["aws"]), (0, &Value::Null));
}

fn work_stays_on_its_branch(claude: &Claude) {
    let env = world();
    std::fs::write(env.project().join("notes.txt"), "uncommitted work of the developer").unwrap();
    std::fs::write(env.project().join("README.md"), "# A project, changed and not committed\n").unwrap();
    env.git(&["add", "README.md"]);
    let before = snapshot(&env.project());
    let main = env.git_in(&env.origin(), &["rev-parse", "main"]);
    let answers = [
        Answer::bash("echo work > new.txt && git add -A && git commit -qm 'Work of claude' && git rev-parse HEAD"),
        Answer::bash(
            "git reset -q --hard HEAD~1; git reset -q --hard ORIG_HEAD; git clean -fdxq; git stash list; git gc -q --prune=now; git log --oneline",
        ),
        Answer::bash(
            "git push origin HEAD:main; git push --force origin HEAD:main; git push origin :main; git push -q origin HEAD; echo pushed $?",
        ),
        Answer::write("later.txt", "not committed by claude\n"),
        Answer::text("done"),
    ];
    let upstream = upstream(answers);
    let run = supervised(&env, claude, &["--name", "fix-login"], &["-p", "work", AUTO]).upstream(&upstream).run().success();
    assert_eq!(upstream.messages().len(), 5, "{}", run.stderr);

    let after = snapshot(&env.project());
    let changed: Vec<&String> = before.keys().chain(after.keys()).filter(|name| before.get(*name) != after.get(*name)).collect();
    assert_eq!(changed, Vec::<&String>::new(), "the checkout and its .git are as before");
    assert_eq!(env.git_in(&env.origin(), &["rev-parse", "main"]), main, "main of the origin has not moved");
    let view = the_view(&env);
    let branch = view["branch"].as_str().unwrap();
    assert!(branch.starts_with("sentrely/dev") && branch.contains("fix-login"), "{branch}");
    assert_eq!(env.git(&["show", &format!("{branch}:new.txt")]), "work");
    assert_eq!(env.git(&["show", &format!("{branch}:later.txt")]), "not committed by claude");
    assert!(env.git(&["log", "--format=%s", branch]).contains("Work of claude"));
    assert_eq!(env.git_in(&env.origin(), &["log", "-1", "--format=%s", branch]), "Work of claude", "its own branch arrived");
    let id = env.the_session();
    assert!(!env.events(&id, "push_refused").is_empty() && env.events(&id, "push_accepted").len() == 1);
    let said = upstream.messages()[3].json()["messages"].to_string();
    assert!(said.contains("remote rejected") && said.contains("sentrely") && said.contains("pushed 0"), "claude reads why: {said}");
}

#[test]
fn claude_2_1_330_commits_resets_cleans_and_pushes_and_the_developers_repository_is_as_before() {
    let Some(claude) = Claude::v330() else { return };
    work_stays_on_its_branch(&claude);
}

#[test]
fn claude_2_1_197_commits_resets_cleans_and_pushes_and_the_developers_repository_is_as_before() {
    let Some(claude) = Claude::v197() else { return };
    work_stays_on_its_branch(&claude);
}

#[test]
fn claude_deletes_its_git_directory_and_plants_hooks_and_the_work_comes_home_while_no_hook_runs_outside() {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    std::fs::write(env.project().join("notes.txt"), "uncommitted work of the developer").unwrap();
    let ran = env.root().join("ran");
    let before = snapshot(&env.project());
    // As a hook, a filter, a file system monitor: whatever git would run there for whoever calls it.
    let plant = format!(
        "rm -rf .git && git init -q -b main . && printf '#!/bin/sh\\necho \"$0 inside=$SENTRELY_RUN_ID\" >> {ran}\\nexit 0\\n' > .git/hook && chmod +x .git/hook \
         && mkdir -p .git/hooks && for name in pre-commit post-commit commit-msg prepare-commit-msg post-checkout post-index-change \
         reference-transaction pre-push post-rewrite pre-auto-gc push-to-checkout; do cp .git/hook .git/hooks/$name; done \
         && git config core.fsmonitor \"$PWD/.git/hook\" && git config filter.planted.clean \"$PWD/.git/hook; cat\" \
         && echo '*.dat filter=planted' > .gitattributes && echo work > new.txt && echo data > new.dat && echo planted",
        ran = ran.display()
    );
    let commit = "git -c user.name=a -c user.email=a@example.com add -A; git -c user.name=a -c user.email=a@example.com commit -qm 'On the ruins'; echo committed $?";
    let answers =
        [Answer::bash(plant), Answer::bash(commit), Answer::write("later.txt", "not committed by claude\n"), Answer::text("done")];
    let upstream = upstream(answers);
    // Without the wall: a hook could write wherever it liked, and would be seen.
    let output = supervised(&env, &claude, &["--wall", "off"], &["-p", "work", AUTO]).upstream(&upstream).run().success();
    let said = upstream.messages()[2].json()["messages"].to_string();
    assert!(said.contains("planted") && said.contains("committed 0"), "{said}");
    let _ = env.sentrely(&["finish"]).run().success();

    // The control: inside, the hooks do run.
    let runs = std::fs::read_to_string(&ran).unwrap();
    let outside: Vec<&str> = runs.lines().filter(|line| line.ends_with("inside=")).collect();
    assert!(runs.contains("pre-commit inside=") && outside.is_empty(), "{runs}");
    let after = snapshot(&env.project());
    let changed: Vec<&String> = before.keys().chain(after.keys()).filter(|name| before.get(*name) != after.get(*name)).collect();
    assert_eq!(changed, Vec::<&String>::new(), "the checkout and its .git are as before");
    let view = the_view(&env);
    // What it made is on a branch of its own name beside the session's, which is gone.
    let branch = format!("{}--main", view["branch"].as_str().unwrap());
    assert!(output.stderr.contains(&branch), "{}", output.stderr);
    for (file, content) in [("new.txt", "work"), ("later.txt", "not committed by claude")] {
        assert_eq!(env.git(&["show", &format!("{branch}:{file}")]), content, "{}", output.stderr);
    }
}

fn works_with_services_alone(claude: &Claude) {
    let env = world();
    let answers = [
        Answer::bash("curl -sS -m 5 https://denied.example/ 2>&1; curl -sS -m 5 --noproxy '*' http://127.0.0.1:9/ 2>&1"),
        Answer::bash("echo work > new.txt && git add -A && git commit -qm 'Work of claude' && git push -q origin HEAD; echo pushed $?"),
        Answer::text("done"),
    ];
    let upstream = upstream(answers);
    let flags = ["--wall", "require", "--config", "wall.network=services"];
    // What a user's settings say of proxies would lead nowhere.
    env.claude_settings(&serde_json::json!({ "env": { "HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "denied.example" } }));
    let output = supervised(&env, claude, &flags, &["-p", "work", AUTO]).upstream(&upstream).run().success();
    assert_eq!((output.stdout.as_str(), upstream.messages().len()), ("done\n", 3), "{}", output.stderr);
    let id = env.the_session();
    let said = upstream.messages()[2].json()["messages"].to_string();
    assert!(said.contains("403") && said.contains("pushed 0"), "{said}");
    assert_eq!(env.events(&id, "push_accepted").len(), 1);
    let refused: Vec<String> = env.events(&id, "host_refused").iter().map(|event| event["host"].as_str().unwrap().to_owned()).collect();
    assert!(refused.contains(&"denied.example:443".to_owned()), "{refused:?}");
}

#[test]
fn claude_2_1_330_works_and_pushes_in_a_network_of_services_alone() {
    let Some(claude) = Claude::v330() else { return };
    crate::needs!(Component::Namespaces, Component::Program("curl"));
    works_with_services_alone(&claude);
}

#[test]
fn claude_2_1_197_works_and_pushes_in_a_network_of_services_alone() {
    let Some(claude) = Claude::v197() else { return };
    crate::needs!(Component::Namespaces, Component::Program("curl"));
    works_with_services_alone(&claude);
}
