//! The client at the checkout's own path: it is at home there, and the checkout is as before.

use sentrely::simulated::Answer;

use super::{SOON, supervised, the_view, upstream, world};
use crate::session::snapshot;
use crate::support::claude::{Claude, at_the_prompt};
use crate::support::components::Component;
use crate::support::pty::Terminal;

const FLAGS: [&str; 4] = ["--wall", "require", "--workspace", "same-path"];

fn at_home(claude: &Claude) {
    crate::needs!(Component::Namespaces);
    let env = world();
    std::fs::write(env.project().join("notes.txt"), "the developer's").unwrap();
    let upstream = upstream([
        Answer::text("the colour is noted"),
        Answer::bash("cat notes.txt; echo work > new.txt; git add -A; git commit -qm Work; git push -q origin HEAD; echo pushed $?"),
        Answer::text("done"),
        Answer::text("hello"),
    ]);
    // The developer's own conversation.
    let _ = claude.command(&env, &["-p", "the colour is vermilion"]).upstream(&upstream).run().success();
    let before = snapshot(&env.project());
    let args = ["-c", "-p", "go on", "--dangerously-skip-permissions"];
    let output = supervised(&env, claude, &FLAGS, &args).upstream(&upstream).run().success();
    assert_eq!(output.stdout, "done\n", "{}", output.stderr);
    let said = upstream.messages()[1].json()["messages"].to_string();
    assert!(said.contains("vermilion"), "it goes on with the developer's conversation: {said}");
    let did = upstream.messages()[2].json()["messages"].to_string();
    assert!(did.contains("the developer's") && did.contains("pushed 0"), "{did}");

    let after = snapshot(&env.project());
    let changed: Vec<&String> = before.keys().chain(after.keys()).filter(|name| before.get(*name) != after.get(*name)).collect();
    assert_eq!(changed, Vec::<&String>::new(), "the checkout and its .git are as before");
    let view = the_view(&env);
    let branch = view["branch"].as_str().unwrap();
    let pushed = env.git_in(&env.origin(), &["show", "--format=%s", "--name-only", branch]);
    assert_eq!(pushed, "Work\n\nnew.txt");
    assert_eq!(view["workspace"], "same-path");

    // The interactive client asks nothing: the folder is the one that was trusted.
    let mut terminal = Terminal::spawn(&supervised(&env, claude, &FLAGS, &[]).upstream(&upstream));
    let screen = terminal.wait_for_screen(SOON, "the prompt", at_the_prompt);
    drop(screen);
}

#[test]
fn claude_2_1_330_is_at_home_at_the_checkouts_path() {
    let Some(claude) = Claude::v330() else { return };
    at_home(&claude);
}

#[test]
fn claude_2_1_197_is_at_home_at_the_checkouts_path() {
    let Some(claude) = Claude::v197() else { return };
    at_home(&claude);
}
