//! Claude Code's own sandbox (`sandbox.enabled`, with bubblewrap and socat) inside the wall.

use sentrely::simulated::Answer;
use serde_json::json;

use super::{supervised, upstream, world};
use crate::support::claude::Claude;
use crate::support::components::Component;

/// What the Bash tool could write: in the folder, and in the home.
fn written(claude: &Claude, enabled: bool) -> String {
    let env = world();
    // As root it needs the weaker form: behind the wall /proc/sys is read-only for good, and nobody mounts a second /proc then.
    let weaker = nix::unistd::getuid().is_root();
    let sandbox = json!({ "enabled": enabled, "autoAllowBashIfSandboxed": true, "enableWeakerNestedSandbox": weaker });
    env.claude_settings(&json!({ "sandbox": sandbox }));
    let script = "echo x > inside && echo FOLDER; echo x > ~/outside && echo HOME; true";
    let upstream = upstream([Answer::bash(script), Answer::text("done")]);
    let args = ["-p", "work", "--dangerously-skip-permissions"];
    let output = supervised(&env, claude, &["--wall", "require"], &args).upstream(&upstream).run().success();
    assert_eq!((output.stdout.as_str(), upstream.messages().len()), ("done\n", 2), "{}", output.stderr);
    let body = upstream.messages()[1].json();
    let result = body["messages"].as_array().unwrap().iter().flat_map(|message| message["content"].as_array().cloned().unwrap_or_default());
    result.filter(|part| part["type"] == "tool_result").map(|part| part["content"].to_string()).collect()
}

fn works_inside(claude: &Claude) {
    crate::needs!(Component::Namespaces, Component::Program("bwrap"), Component::Program("socat"));
    let said = written(claude, true);
    assert!(said.contains("FOLDER") && !said.contains("HOME"), "{}: {said}", claude.name());
    let said = written(claude, false);
    assert!(said.contains("FOLDER\\nHOME"), "{}, the control: {said}", claude.name());
}

#[test]
fn the_sandbox_of_claude_2_1_330_works_inside_the_wall() {
    let Some(claude) = Claude::v330() else { return };
    works_inside(&claude);
}

#[test]
fn the_sandbox_of_claude_2_1_197_works_inside_the_wall() {
    let Some(claude) = Claude::v197() else { return };
    works_inside(&claude);
}
