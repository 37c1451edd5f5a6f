//! `doctor --drill`: the kill switch on a real session, and nothing left behind.

use std::fs;

use crate::support::env::TestEnv;

#[test]
fn the_drill_kills_a_runaway_and_leaves_nothing_behind() {
    let env = TestEnv::new();
    let ran = env.sentrely(&["doctor", "--drill", "--json"]).timeout(std::time::Duration::from_mins(3)).run();
    assert_eq!(ran.code(), 0, "{}{}", ran.stdout, ran.stderr);
    let document = ran.json();
    assert_eq!(document["ok"], true);
    let drill = &document["drill"];
    assert_eq!((drill["kill_exit_code"].as_i64(), drill["run_exit_code"].as_i64()), (Some(0), Some(122)));
    assert!(drill["requests"].as_u64().unwrap() >= 3 && drill["requests_after"] == 0, "{drill}");
    assert!(drill["beating"].as_u64().unwrap() >= 3 && drill["beating_after"] == 0, "{drill}");
    assert!(drill["survivors"].as_array().unwrap().is_empty() && drill["terminal_restored"] == true, "{drill}");
    let names: Vec<&str> = document["rungs"].as_array().unwrap().iter().map(|rung| rung["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["guardian", "cgroup", "Landlock scope", "namespaces"]);
    // Neither a session of the user's, nor a file, nor a process.
    assert_eq!(env.sessions(), Vec::<String>::new());
    assert_eq!(fs::read_dir(env.tmp()).unwrap().count(), 0);
    assert!(env.processes().is_empty());
}

#[test]
fn the_drill_says_in_words_what_it_saw() {
    let env = TestEnv::new();
    let ran = env.sentrely(&["doctor", "--drill"]).timeout(std::time::Duration::from_mins(3)).run().success();
    for word in ["kill", "spending", "last beat", "survivors", "terminal", "guardian: "] {
        assert!(ran.stdout.contains(word), "{word}: {}", ran.stdout);
    }
    assert!(ran.stderr.ends_with("drill: the kill switch works\n"), "{}", ran.stderr);
}

#[test]
fn inside_a_session_no_drill_is_held() {
    let env = TestEnv::new();
    let binary = env!("CARGO_BIN_EXE_sentrely");
    let output =
        env.sentrely(&["run", "--", "sh", "-c", &format!("env -u SENTRELY_RUN_ID {binary} doctor --drill; echo $?")]).run().success();
    assert_eq!(output.stdout, "125\n");
}
