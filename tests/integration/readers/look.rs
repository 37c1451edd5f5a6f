//! `ls`, `show` and `log`.

use std::fs;
use std::process::{Command, Stdio};

use insta::assert_snapshot;
use jiff::Timestamp;
use sentrely::model::{Event, StopReason};
use sentrely::store::verify_journal;
use serde_json::{Value, json};

use super::MINUTES;
use crate::support::state::{Home, Obeys, ago, read_until};

#[test]
fn ls_shows_what_lives_and_what_crashed_and_with_all_what_ended_the_newest_first() {
    let home = Home::new();
    let mut running = home.session("9f3a12cd", ago(MINUTES * 12));
    running.started().spent();
    let _alive = running.live(Obeys::Well);
    home.session("aaaa1111", ago(MINUTES * 125)).started();
    home.session("bbbb2222", ago(MINUTES * 3000)).started().spent().ended(StopReason::BudgetReached, 121);
    let ran = home.run(&["ls"]);
    assert_snapshot!(ran.stdout, @"
    ID        STATE    ENDED                                  DEVELOPER        PROJECT  BRANCH                           PAYS       COST            CONTEXT  AGE     COMMAND
    9f3a12cd  running                                         ana@example.org  shop     sentrely/ana/fix-login-9f3a12cd  key …a1b2  $0.40 of $5.00  10%      12m     claude -p 'fix the login'
    aaaa1111  crashed  supervisor and guardian had died, 125  ana@example.org  shop     sentrely/ana/fix-login-aaaa1111  key …a1b2  $0.00 of $5.00  -        2h 05m  claude -p 'fix the login'
    ");
    assert_eq!(
        (ran.code, ran.stderr.as_str()),
        (
            0,
            "session aaaa1111 had crashed: no process of it was left; it had neither the full wall nor a cgroup: a process that cleared its environment may still run\n"
        )
    );
    assert_snapshot!(home.run(&["ls", "-a"]).stdout, @"
    ID        STATE    ENDED                                  DEVELOPER        PROJECT  BRANCH                           PAYS       COST            CONTEXT  AGE     COMMAND
    9f3a12cd  running                                         ana@example.org  shop     sentrely/ana/fix-login-9f3a12cd  key …a1b2  $0.40 of $5.00  10%      12m     claude -p 'fix the login'
    aaaa1111  crashed  supervisor and guardian had died, 125  ana@example.org  shop     sentrely/ana/fix-login-aaaa1111  key …a1b2  $0.00 of $5.00  -        2h 05m  claude -p 'fix the login'
    bbbb2222  stopped  stopped at its budget, 121             ana@example.org  shop     sentrely/ana/fix-login-bbbb2222  key …a1b2  $0.40 of $5.00  10%      2d 2h   claude -p 'fix the login'
    ");
    assert_eq!(home.run(&["ls", "-aq"]).stdout, "9f3a12cd\naaaa1111\nbbbb2222\n");
}

#[test]
fn ls_of_nothing_is_one_calm_line_on_stderr() {
    let home = Home::new();
    let ran = home.run(&["ls"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""));
    assert_eq!(ran.stderr, "no sessions are running (`sentrely ls -a` lists ended ones)\n");
    assert_eq!(home.run(&["ls", "--json"]).stdout, "{\n  \"schema_version\": 1,\n  \"sessions\": []\n}\n");
}

#[test]
fn ls_json_has_exactly_the_documented_fields() {
    let home = Home::new();
    let mut session = home.session("9f3a12cd", ago(MINUTES * 12));
    session.started().tell(Event::AwsMinted {
        role_arn: "arn:aws:iam::123456789012:role/agent".into(),
        role_session_name: "ana-9f3a12cd".into(),
        access_key_id: "ASIAEXAMPLE".into(),
        delivery: "endpoint".into(),
        expires_at: "2026-11-23T10:00:00Z".parse().unwrap(),
    });
    session.later(MINUTES * 11).spent();
    let _alive = session.live(Obeys::Well);
    let document: Value = serde_json::from_slice(&home.command(&["ls", "--json"]).output().unwrap().stdout).unwrap();
    let mut row = document["sessions"][0].clone();
    // Time goes on between the snapshot and now, so the rate only has bounds: 0.40 USD in the last ten minutes is 2.40 an hour.
    assert_eq!(row["burn_usd_per_hour"], "2.4");
    let started = row["started_at"].take();
    assert!(started.as_str().unwrap().parse::<Timestamp>().is_ok());
    let expected = json!({
        "id": "9f3a12cd-0000-4000-8000-000000000001", "short_id": "9f3a12cd", "state": "running", "command": ["claude", "-p", "fix the login"],
        "developer": "ana@example.org", "developer_source": "self-declared", "project": "shop", "branch": "sentrely/ana/fix-login-9f3a12cd",
        "base": "main", "workspace": "clone", "pid": 4711, "host": "ci-7", "attempts": 1, "started_at": null, "ended_at": null,
        "billing": { "kind": "key", "last4": "a1b2" }, "cost_usd": "0.4", "cost_estimated": false,
        "budgets": [{ "kind": "usd", "limit": "5", "used": "0.4", "percent": 8 }], "time_limit_s": null, "burn_usd_per_hour": "2.4",
        "tokens": { "input": 1000, "output": 20000, "cache_write_5m": 0, "cache_write_1h": 0, "cache_read": 99000 }, "requests": 1,
        "context": { "tokens": 100_000, "window": 1_000_000, "percent": 10, "peak_percent": 10, "compactions": 0 },
        "aws": { "role_arn": "arn:aws:iam::123456789012:role/agent", "role_session_name": "ana-9f3a12cd", "delivery": "endpoint",
            "expires_at": "2026-11-23T10:00:00Z" },
        "pr_url": null, "stop_reason": null, "exit_code": null,
    });
    assert_eq!(row, expected);
    assert_eq!(document["schema_version"], 1);
}

#[test]
fn the_burn_rate_is_the_one_of_now_not_of_the_last_settlement() {
    let home = Home::new();
    let mut session = home.session("9f3a12cd", ago(MINUTES * 60));
    session.started().spent();
    let _alive = session.live(Obeys::Well);
    let document: Value = serde_json::from_str(&home.run(&["ls", "--json"]).stdout).unwrap();
    assert_eq!(document["sessions"][0]["burn_usd_per_hour"], "0");
}

#[test]
fn filters_must_all_hold_and_an_unknown_one_is_a_usage_error() {
    let home = Home::new();
    home.session("aaaa1111", ago(MINUTES)).started();
    home.session("bbbb2222", ago(MINUTES * 2)).started().ended(StopReason::Killed, 122);
    let ids = |filters: &[&str]| {
        let words: Vec<&str> = ["ls", "-q"].into_iter().chain(filters.iter().flat_map(|filter| ["--filter", filter])).collect();
        home.run(&words).stdout
    };
    assert_eq!(ids(&["state=crashed"]), "aaaa1111\n");
    assert_eq!(ids(&["stop-reason=killed", "project=shop"]), "bbbb2222\n");
    assert_eq!(ids(&["developer=ben"]), "");
    let ran = home.run(&["ls", "--filter", "colour=red"]);
    assert_eq!(ran.code, 2);
    assert_snapshot!(ran.stderr, @"
    failed to understand --filter: filter by `colour`: expected state, developer, project, branch, workspace, host, billing or stop-reason

    hint: `sentrely ls --help` lists what it takes
    ");
}

#[test]
fn a_session_in_the_index_is_listed_without_its_directory() {
    let home = Home::new();
    let mut session = home.session("bbbb2222", ago(MINUTES * 3));
    session.started().spent().ended(StopReason::ChildExited, 0);
    fs::remove_dir_all(session.dir.path()).unwrap();
    assert_eq!(home.run(&["ls", "-aq"]).stdout, "bbbb2222\n");
    assert!(home.run(&["show", "bbbb"]).stdout.contains("its journal was cleared away"));
    let ran = home.run(&["log", "bbbb"]);
    assert_eq!(ran.code, 1);
    assert_snapshot!(ran.stderr, @"
    failed to read the journal of bbbb2222: it was cleared away

    hint: `sentrely show bbbb2222` tells what is kept of it
    ");
}

#[test]
fn show_tells_a_killed_session_from_its_branch_to_its_end() {
    let home = Home::new();
    let checkout = home.path().join("shop");
    let git = |words: &[&str]| assert!(Command::new("git").arg("-C").arg(&checkout).args(words).output().unwrap().status.success());
    fs::create_dir(&checkout).unwrap();
    git(&["init", "-q"]);
    git(&["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "first"]);
    git(&["branch", "sentrely/ana/fix-login-9f3a12cd"]);
    let mut session = home.session_of("9f3a12cd", ago(MINUTES * 125), Some(checkout.display().to_string()));
    session.started().tell(Event::AwsMinted {
        role_arn: "arn:aws:iam::123456789012:role/agent".into(),
        role_session_name: "ana-9f3a12cd".into(),
        access_key_id: "ASIAEXAMPLE".into(),
        delivery: "endpoint".into(),
        expires_at: "2026-11-23T10:00:00Z".parse().unwrap(),
    });
    session.later(MINUTES).spent();
    session.tell(Event::PushRefused { refs: vec!["refs/heads/main".into()], why: "only the session's branch passes".into() });
    session.tell(Event::PushAccepted { branch: "sentrely/ana/fix-login-9f3a12cd".into(), commit: "9".repeat(40) });
    session.tell(Event::Notice { what: "the wall is lower than asked for".into() });
    session.later(MINUTES).tell(Event::StopRequested {
        reason: StopReason::Killed,
        by: "ana".into(),
        from: Some("/dev/pts/3 on ci-7".into()),
        note: Some("wrong branch".into()),
    });
    for (stage, ms) in [("gate_closed", 0.4), ("signal_sent", 0.9), ("last_process_gone", 212.25)] {
        session.tell(Event::Stage { stage: stage.into(), ms });
    }
    session.tell(Event::WorkSaved {
        branch: "sentrely/ana/fix-login-9f3a12cd".into(),
        commit: Some("8".repeat(40)),
        commits: 3,
        wip: false,
    });
    session.ended(StopReason::Killed, 122);
    let ran = home.run(&["show", "9f3a"]);
    assert_snapshot!(ran.stdout, @"
    session 9f3a12cd stopped
      id          9f3a12cd-0000-4000-8000-000000000001
      command     claude -p 'fix the login'
      developer   ana@example.org (self-declared)
      project     shop
      works in    /work/shop (clone)
      started     <time>, 2h 05m ago, on ci-7 (pid 4711)
      branch      sentrely/ana/fix-login-9f3a12cd, from main at 1a2b3c4d5e6f, 3 commits
                  see it:       git -C <home>/shop log -p 1a2b3c4d5e6f..sentrely/ana/fix-login-9f3a12cd
                  take it over: git -C <home>/shop switch sentrely/ana/fix-login-9f3a12cd
      paid by     API key …a1b2
      cost        $0.40
      budget      $0.40 of $5.00 (8%)
      requests    1 answered
      tokens      1k in, 20k out, cache: 0 written, 99k read
      models      claude-sonnet-5-5
      context     100k of 1M tokens (10%)
      AWS         arn:aws:iam::123456789012:role/agent as ana-9f3a12cd
                  delivered by endpoint, valid until <time>
                  what it did:  aws cloudtrail lookup-events --lookup-attributes AttributeKey=Username,AttributeValue=ana-9f3a12cd
      wall        full
      pushed      sentrely/ana/fix-login-9f3a12cd at 999999999999, <time>
      refused     push to refs/heads/main: only the session's branch passes
      stopped by  ana from /dev/pts/3 on ci-7, <time>: wrong branch
                  gate closed 0.4 ms · signal sent 0.9 ms · last process gone 212 ms · 7 processes ended
                  nothing of it was left after 212 ms
                  it had spent $0.40; its last request was let through at <time>, 1m before
                  its work is sentrely/ana/fix-login-9f3a12cd at 888888888888
      ended       killed (exit code 122), <time>, 2h 03m ago
      note        the wall is lower than asked for
    ");
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));

    let document: Value = serde_json::from_str(&home.run(&["show", "9f3a", "--json"]).stdout).unwrap();
    assert_eq!(document["session"]["stop_reason"], "killed");
    assert_eq!(document["details"]["commits"], 3);
    let journal = &document["details"]["journal"];
    assert_eq!(journal["stop"]["note"], "wrong branch");
    assert_eq!(journal["stages"][2], json!({ "stage": "last_process_gone", "ms": 212.25 }));
    assert_eq!(journal["pushes_refused"][0]["refs"], json!(["refs/heads/main"]));
    assert_eq!(journal["attempts"][0]["exit_code"], 122);
}

#[test]
fn show_clears_up_after_a_crash_and_says_so() {
    let home = Home::new();
    home.session("9f3a12cd", ago(MINUTES * 12)).started();
    assert_snapshot!(home.run(&["show", "9f3a"]).stdout, @"
    session 9f3a12cd crashed
      id          9f3a12cd-0000-4000-8000-000000000001
      command     claude -p 'fix the login'
      developer   ana@example.org (self-declared)
      project     shop
      works in    /work/shop (clone)
      started     <time>, 12m ago, on ci-7 (pid 4711)
      branch      sentrely/ana/fix-login-9f3a12cd, from main at 1a2b3c4d5e6f, 0 commits
      paid by     API key …a1b2
      cost        $0.00
      budget      $0.00 of $5.00 (0%)
      requests    0 answered
      tokens      0 in, 0 out, cache: 0 written, 0 read
      context     nothing yet
      AWS         none
      wall        full
      stopped by  sweep, <time>: supervisor and guardian had died
                  0 processes ended
                  nothing of it was left
                  it had spent $0.00; it had made no request
      ended       crashed: its supervisor died (exit code 125), <time>, 0s ago
    ");
}

#[test]
fn log_tells_a_session_in_words_and_all_of_them_in_the_order_of_time() {
    let home = Home::new();
    let mut first = home.session("aaaa1111", ago(MINUTES * 9));
    first.started().spent();
    first.tell(Event::PushRefused { refs: vec!["refs/heads/main".into()], why: "only the session's branch passes".into() });
    first.later(MINUTES * 2).ended(StopReason::BudgetReached, 121);
    home.session("bbbb2222", ago(MINUTES * 8));
    assert_snapshot!(home.run(&["log", "aaaa"]).stdout, @"
    <time>  session created for ana@example.org in shop on sentrely/ana/fix-login-aaaa1111
    <time>  attempt 1 on ci-7 (pid 4711): claude -p 'fix the login'; paid by API key …a1b2; wall: full
    <time>  the command runs (pid 4712)
    <time>  request #1 let through: claude-sonnet-5-5, at most $0.90
    <time>  request #1 cost $0.40: claude-sonnet-5-5, 100k tokens in, 20k tokens out
    <time>  push refused: refs/heads/main: only the session's branch passes
    <time>  ended: stopped at its budget (exit code 121, 7 processes ended)
    ");
    let order = |words: &[&str]| -> Vec<String> {
        home.run(words).stdout.lines().map(|line| line.split("  ").nth(1).unwrap().to_owned()).collect()
    };
    let all = order(&["log"]);
    assert_eq!(all.first().map(String::as_str), Some("aaaa1111"));
    assert_eq!(all[all.len() - 2..], ["bbbb2222", "aaaa1111"]);
    assert_eq!(order(&["log", "--kind", "session_created,attempt_ended"]), ["aaaa1111", "bbbb2222", "aaaa1111"]);
    assert_eq!(order(&["log", "--since", "510s"]), ["bbbb2222", "aaaa1111"]);
}

#[test]
fn log_json_gives_the_records_as_they_stand_in_the_journal() {
    let home = Home::new();
    let session = home.session("aaaa1111", ago(MINUTES));
    let output = home.command(&["log", "aaaa", "--json"]).output().unwrap();
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    let record: Value = serde_json::from_slice(&fs::read(session.dir.journal_file()).unwrap()).unwrap();
    assert_eq!(line, json!({ "schema_version": 1, "session": session.id(), "record": record }));
}

#[test]
fn an_unknown_kind_or_a_bad_duration_is_a_usage_error() {
    let home = Home::new();
    for (words, said) in [(["log", "--kind", "pushes"], "push_accepted"), (["log", "--since", "soon"], "expected something like 90s")] {
        let ran = home.run(&words);
        assert_eq!(ran.code, 2);
        assert!(ran.stderr.contains(said), "{}", ran.stderr);
    }
}

#[test]
fn log_follow_shows_what_comes_and_ends_with_the_session() {
    let home = Home::new();
    let mut session = home.session("9f3a12cd", ago(MINUTES));
    session.started();
    let alive = session.live(Obeys::Never);
    let mut child = home.command(&["log", "9f3a", "-f"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    read_until(&mut out, "the command runs");
    session.tell(Event::Notice { what: "something new".into() });
    read_until(&mut out, "something new");
    session.tell(Event::Notice { what: "the last word".into() });
    drop(alive);
    read_until(&mut out, "the last word");
    assert!(child.wait().unwrap().success());
}

#[test]
fn log_verify_gives_the_head_of_a_whole_chain_and_the_line_where_one_is_broken() {
    let home = Home::new();
    let whole = home.session("aaaa1111", ago(MINUTES));
    let (count, head) = verify_journal(&fs::read(whole.dir.journal_file()).unwrap()).unwrap();
    let ran = home.run(&["log", "aaaa", "--verify"]);
    assert_eq!((ran.code, ran.stdout), (0, format!("aaaa1111  intact, {count} record, head {head}\n")));
    let mut changed = home.session("bbbb2222", ago(MINUTES));
    changed.started();
    let text = fs::read_to_string(changed.dir.journal_file()).unwrap();
    fs::write(changed.dir.journal_file(), text.replacen("shop", "shed", 1)).unwrap();
    let ran = home.run(&["log", "--verify"]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.stdout.ends_with("bbbb2222  BROKEN: line 2 does not follow the line before it: the journal was changed after it was written\n"),
        "{}",
        ran.stdout
    );
    let ran = home.run(&["log", "bbbb", "--verify", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&ran.stdout).unwrap()["intact"], false);
}
