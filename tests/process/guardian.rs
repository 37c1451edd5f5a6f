//! Guardian and supervisor: whichever dies, the tree ends.

use nix::sys::signal::Signal;

use crate::run::{Place, Run, stat, wait_for};

tests![
    a_killed_supervisor_is_cleaned_up_after_by_the_guardian,
    a_killed_guardian_makes_the_supervisor_end_the_session,
    a_stopped_supervisor_does_not_save_the_agent_from_a_kill,
    a_stopped_job_is_woken_by_the_kill_file_and_ends,
    the_file_that_kills_everything_counts_too,
    a_kill_that_is_acknowledged_but_not_carried_out_is_carried_out_by_the_guardian,
    a_kill_after_the_trees_end_leaves_the_supervisor_its_time_to_deliver,
    a_stopped_delivery_is_woken_by_a_kill_also_when_one_was_there_before,
    signals_that_the_supervisor_does_not_read_any_more_take_nothing_from_its_end,
    signals_to_the_guardian_reach_the_supervisor,
    a_supervisor_that_dies_before_it_has_a_session_is_no_crash,
    the_agent_is_offered_to_the_oom_killer_before_its_supervisor,
];

const WAYS: [&str; 5] = ["plain", "setsid", "daemon", "ignoreall", "stopped"];

fn a_killed_supervisor_is_cleaned_up_after_by_the_guardian() {
    let mut run = Run::escape("-", "STAY", &WAYS);
    run.signal("supervisor", Signal::SIGKILL);
    assert_eq!(run.finish(), (125, "guardian: the supervisor died\n".into()));
    assert_eq!(run.place.living(), Vec::<String>::new());
    let expected = "signal=Some(9) some=true survivors=0 killed=false stuck=false lock=held";
    assert_eq!(run.place.orphaned().unwrap(), expected);
    std::fs::File::open(run.place.session().join("lock")).unwrap().try_lock().unwrap();
}

fn a_killed_guardian_makes_the_supervisor_end_the_session() {
    let mut run = Run::escape("-", "STAY", &WAYS);
    let lock = std::fs::File::open(run.place.session().join("lock")).unwrap();
    assert!(lock.try_lock().is_err());
    run.signal("guardian", Signal::SIGKILL);
    assert_eq!(run.finish().0, 1009);
    run.place.event("guardian says Gone");
    run.place.event("ended some=true survivors=[] left=0");
    assert_eq!(run.place.living(), Vec::<String>::new());
    wait_for("the lock to be free", || lock.try_lock().ok());
}

fn a_stopped_supervisor_does_not_save_the_agent_from_a_kill() {
    let mut run = Run::escape("-", "STAY", &WAYS);
    // The watchman would wake it: so it is one that does not look.
    let mut deaf = Run::escape("deaf", "STAY", &WAYS);
    for run in [&mut run, &mut deaf] {
        run.signal("supervisor", Signal::SIGSTOP);
        wait_for("the stop", || stat(run.pid("supervisor")).filter(|(state, _)| state == "T"));
        run.place.kill();
    }
    // Woken, it carries the kill out itself.
    assert_eq!(run.finish().0, 128 + 9);
    assert_eq!(run.place.orphaned(), None);
    assert_eq!(run.place.living(), Vec::<String>::new());
    assert_eq!(deaf.finish(), (122, "guardian: the supervisor died\n".into()));
    assert_eq!(deaf.place.living(), Vec::<String>::new());
    let expected = "signal=Some(9) some=true survivors=0 killed=true stuck=true lock=held";
    assert_eq!(deaf.place.orphaned().unwrap(), expected);
}

fn a_stopped_job_is_woken_by_the_kill_file_and_ends() {
    let mut run = Run::escape("-", "STAY", &WAYS);
    for who in ["supervisor", "guardian"] {
        run.signal(who, Signal::SIGSTOP);
    }
    for who in ["supervisor", "guardian"] {
        wait_for("the stop", || stat(run.pid(who)).filter(|(state, _)| state == "T"));
    }
    run.place.kill();
    assert_eq!(run.finish().0, 128 + 9);
    assert_eq!(run.place.living(), Vec::<String>::new());
}

fn the_file_that_kills_everything_counts_too() {
    let mut run = Run::escape("deaf", "STAY", &WAYS);
    std::fs::write(run.place.state().join("kill"), "").unwrap();
    assert_eq!(run.finish().0, 122);
    assert_eq!(run.place.living(), Vec::<String>::new());
}

fn a_kill_that_is_acknowledged_but_not_carried_out_is_carried_out_by_the_guardian() {
    let mut run = Run::escape("idle", "STAY", &WAYS);
    run.place.kill();
    run.place.event("kill seen");
    assert_eq!(run.finish().0, 122);
    assert_eq!(run.place.living(), Vec::<String>::new());
}

fn a_kill_after_the_trees_end_leaves_the_supervisor_its_time_to_deliver() {
    let mut run = Run::start(Place::new(), "deliver", &["sh", "-c", "exit 7"]);
    run.place.event("delivering");
    run.place.kill();
    Place::outwait_the_guardian();
    run.place.go_on();
    assert_eq!(run.finish(), (7, String::new()));
    run.place.event("delivered true");
    assert_eq!(run.place.orphaned(), None);
}

fn a_stopped_delivery_is_woken_by_a_kill_also_when_one_was_there_before() {
    for killed_before in [false, true] {
        let command: &[&str] = if killed_before { &["sleep", "60"] } else { &["sh", "-c", "exit 7"] };
        let mut run = Run::start(Place::new(), "deliver", command);
        if killed_before {
            run.place.kill();
        }
        run.place.event("delivering");
        let stopped = ["supervisor", "guardian"];
        for who in stopped {
            run.signal(who, Signal::SIGSTOP);
        }
        if !killed_before {
            for who in stopped {
                wait_for("the stop", || stat(run.pid(who)).filter(|(state, _)| state == "T"));
            }
            run.place.kill();
        }
        if killed_before {
            Place::outwait_the_guardian();
        }
        run.place.go_on();
        assert_eq!(run.finish(), (if killed_before { 128 + 9 } else { 7 }, String::new()));
        run.place.event("delivered true");
        assert_eq!(run.place.orphaned(), None);
    }
}

fn signals_that_the_supervisor_does_not_read_any_more_take_nothing_from_its_end() {
    let mut run = Run::start(Place::new(), "deliver", &["sh", "-c", "exit 7"]);
    run.place.event("delivering");
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        run.signal("guardian", signal);
    }
    // To it alone as well.
    run.signal("supervisor", Signal::SIGTERM);
    let guardian = run.pid("guardian");
    let status = || std::fs::read_to_string(format!("/proc/{guardian}/status")).unwrap();
    wait_for("the guardian to have forwarded them", || {
        let status = status();
        (status.contains("\nState:\tS") && status.contains("\nShdPnd:\t0000000000000000\n")).then_some(())
    });
    // So that it finds the socket closed before it has read the last word.
    run.signal("guardian", Signal::SIGSTOP);
    run.place.go_on();
    wait_for("the supervisor's end", || stat(run.pid("supervisor")).filter(|(state, _)| state == "Z"));
    run.signal("guardian", Signal::SIGCONT);
    assert_eq!(run.finish(), (7, String::new()));
    run.place.event("delivered true");
    assert_eq!(run.place.orphaned(), None);
}

fn signals_to_the_guardian_reach_the_supervisor() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        let mut run = Run::start(Place::new(), "-", &["sleep", "60"]);
        run.signal("guardian", signal);
        assert_eq!(run.finish(), (128 + 9, String::new()));
        run.place.event(&format!("guardian says Signal({signal:?})"));
    }
}

fn a_supervisor_that_dies_before_it_has_a_session_is_no_crash() {
    // Its directory does not exist, so it panics before it announces a session: that is its own exit code and message.
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["supervise", "/nonexistent/session", "-", "true"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(101));
    assert!(!String::from_utf8_lossy(&output.stderr).contains("guardian:"));
}

fn the_agent_is_offered_to_the_oom_killer_before_its_supervisor() {
    let run = Run::start(Place::new(), "-", &["sleep", "60"]);
    let score = |who| std::fs::read_to_string(format!("/proc/{}/oom_score_adj", run.pid(who))).unwrap();
    let number = |text: String| text.trim().parse::<i32>().unwrap();
    assert_eq!(number(score("agent")), (number(score("supervisor")) + 300).min(1000));
}
