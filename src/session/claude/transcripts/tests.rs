//! What is told of transcripts, and what is not.

use std::io::Write;

use super::*;

const START: &str = "2026-11-23T09:00:00Z";

struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("work")).unwrap();
        Self { dir }
    }

    fn cwd(&self) -> PathBuf {
        fs::canonicalize(self.dir.path().join("work")).unwrap()
    }

    fn project(&self) -> PathBuf {
        self.dir.path().join("projects").join(slug(&self.cwd()))
    }

    fn watch(&self, scope: Scope) -> TranscriptWatch {
        TranscriptWatch::new(self.dir.path(), scope, START.parse().unwrap())
    }
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    OpenOptions::new().append(true).create(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

fn row(id: &str, at: &str) -> String {
    let row = serde_json::json!({
        "type": "assistant", "timestamp": at, "sessionId": "s1",
        "message": {"id": id, "model": "claude-opus-5-5", "role": "assistant", "content": [{"type": "text", "text": "hi"}]},
    });
    format!("{row}\n")
}

fn ids(watch: &mut TranscriptWatch) -> Vec<String> {
    watch.poll().into_iter().map(|seen| seen.message_id).collect()
}

const LATER: &str = "2026-11-23T09:00:01.500Z";

#[test]
fn new_answers_are_told_once_also_those_of_subagents_workflows_and_worktrees() {
    let world = World::new();
    let mut watch = world.watch(Scope::Directory(world.cwd()));
    assert_eq!(watch.poll(), []);
    let main = world.project().join("s1.jsonl");
    write(&main, &row("msg_1", LATER));
    write(&main, &row("msg_1", LATER));
    assert_eq!(watch.poll(), [SeenMessage { message_id: "msg_1".into(), transcript: main.clone(), session_id: "s1".into() }]);
    write(&main, &row("msg_2", LATER));
    write(&world.project().join("s1/subagents/agent-a.jsonl"), &row("msg_3", LATER));
    write(&world.project().join("s1/subagents/workflows/wf_1/agent-b.jsonl"), &row("msg_4", LATER));
    let worktree = PathBuf::from(format!("{}--claude-worktrees-fix", world.project().display()));
    write(&worktree.join("s2.jsonl"), &row("msg_5", LATER));
    write(&world.dir.path().join("projects/-somewhere-else/s3.jsonl"), &row("msg_6", LATER));
    assert_eq!(ids(&mut watch).into_iter().collect::<BTreeSet<_>>(), ["msg_2", "msg_3", "msg_4", "msg_5"].map(str::to_owned).into());
    assert_eq!(watch.poll(), []);
}

#[test]
fn in_a_folder_that_others_write_to_a_row_is_ours_by_where_its_client_worked() {
    let world = World::new();
    let (all, own, other) = (world.dir.path().join("all"), world.dir.path().join("all/one/work"), world.dir.path().join("all/two/work"));
    for dir in [&own, &other] {
        fs::create_dir_all(dir).unwrap();
    }
    let theirs = slug(&world.cwd());
    let mut watch = world.watch(Scope::Directory(own.clone())).sharing(std::slice::from_ref(&theirs), &own, &all);
    let own = own.canonicalize().unwrap();
    let place = |id: &str, session: &str, cwd: &Path| {
        let row = row(id, LATER).replace("\"s1\"", &format!("\"{session}\""));
        row.replacen('{', &format!("{{\"cwd\":{:?},", cwd.to_str().unwrap()), 1)
    };
    let transcript = |session: &str| world.project().join(format!("{session}.jsonl"));
    write(&transcript("s1"), &place("msg_developers", "s1", &world.cwd()));
    write(&transcript("s1"), &place("msg_ours", "s1", &own.join("sub")));
    write(&transcript("s1"), &place("msg_another_sessions", "s1", &other));
    write(&transcript("s2"), &place("msg_not_yet_ours", "s2", Path::new("/tmp")));
    write(&transcript("s2"), &row("msg_nowhere", LATER));
    assert_eq!(ids(&mut watch), ["msg_ours"]);
    watch.learn_session("s2");
    write(&transcript("s2"), &place("msg_elsewhere", "s2", Path::new("/tmp")));
    write(&transcript("s2"), &place("msg_another_sessions_too", "s2", &other));
    write(&transcript("s2"), &place("msg_before", "s2", Path::new("/tmp")).replace("09:00:01", "08:00:01"));
    write(&world.project().join("s3/subagents/agent-a.jsonl"), &place("msg_subagent", "s3", &own));
    assert_eq!(ids(&mut watch), ["msg_elsewhere", "msg_subagent"]);
}

#[test]
fn the_newest_conversation_of_a_directory_is_the_one_written_last() {
    let world = World::new();
    assert_eq!(newest(world.dir.path(), &world.cwd()), None);
    for (id, at) in [("new", "2026-11-23T10:00:00Z"), ("old", "2026-11-23T08:00:00Z")] {
        write(&world.project().join(format!("{id}.jsonl")), "{}\n");
        let file = File::options().append(true).open(world.project().join(format!("{id}.jsonl"))).unwrap();
        file.set_modified(at.parse::<Timestamp>().unwrap().into()).unwrap();
    }
    assert_eq!(newest(world.dir.path(), &world.cwd()).as_deref(), Some("new"));
}

#[test]
fn half_a_line_waits_for_its_other_half() {
    let world = World::new();
    let mut watch = world.watch(Scope::Directory(world.cwd()));
    let main = world.project().join("s1.jsonl");
    let line = row("msg_1", LATER);
    let (half, rest) = line.split_at(40);
    write(&main, half);
    assert_eq!(watch.poll(), []);
    write(&main, rest);
    assert_eq!(ids(&mut watch), ["msg_1"]);
}

#[test]
fn what_is_no_answer_of_the_model_since_the_start_is_not_told() {
    let world = World::new();
    let mut watch = world.watch(Scope::Directory(world.cwd()));
    let main = world.project().join("s1.jsonl");
    let edit = |change: fn(&mut serde_json::Value)| {
        let mut value: serde_json::Value = serde_json::from_str(&row("msg_x", LATER)).unwrap();
        change(&mut value);
        format!("{value}\n")
    };
    write(&main, &row("msg_old", "2026-11-23T08:59:59Z"));
    write(&main, &edit(|row| row["message"]["model"] = "<synthetic>".into()));
    write(&main, &edit(|row| row["isApiErrorMessage"] = true.into()));
    write(&main, &edit(|row| row["type"] = "user".into()));
    write(&main, "{\"type\":\"assistant\"\n\"assistant\"\n");
    assert_eq!(watch.poll(), []);
    write(&main, &edit(|row| row["timestamp"] = "soon".into()));
    assert_eq!(ids(&mut watch), ["msg_x"]);
}

#[test]
fn sessions_are_found_in_any_folder_when_they_are_learned() {
    let world = World::new();
    let mut watch = world.watch(Scope::Sessions(vec!["../escape".into(), "s1".into()]));
    let elsewhere = world.dir.path().join("projects/-elsewhere");
    write(&elsewhere.join("s1.jsonl"), &row("msg_1", LATER));
    write(&elsewhere.join("s2.jsonl"), &row("msg_2", LATER));
    write(&elsewhere.join("s2/subagents/agent-a.jsonl"), &row("msg_3", LATER));
    assert_eq!(ids(&mut watch), ["msg_1"]);
    watch.learn_session("s2");
    assert_eq!(ids(&mut watch), ["msg_2", "msg_3"]);
}

#[test]
fn a_long_transcript_from_before_is_not_read_again_but_what_is_appended_is() {
    let world = World::new();
    let main = world.project().join("s1.jsonl");
    write(&main, &row("msg_before", LATER));
    let before: Timestamp = "2026-11-23T08:00:00Z".parse().unwrap();
    File::options().append(true).open(&main).unwrap().set_modified(before.into()).unwrap();
    let mut watch = world.watch(Scope::Directory(world.cwd()));
    assert_eq!(watch.poll(), []);
    write(&main, &row("msg_after", LATER));
    assert_eq!(ids(&mut watch), ["msg_after"]);
}

#[test]
fn of_a_session_learned_later_only_what_is_written_from_then_on_is_told() {
    let world = World::new();
    let mut watch = world.watch(Scope::Sessions(Vec::new()));
    let main = world.dir.path().join("projects/-elsewhere/s1.jsonl");
    write(&main, &row("msg_before", LATER));
    watch.learn_session_since("s1", "2026-11-23T09:00:02Z".parse().unwrap());
    assert_eq!(watch.poll(), []);
    write(&main, &row("msg_after", "2026-11-23T09:00:03Z"));
    assert_eq!(ids(&mut watch), ["msg_after"]);
}

#[test]
fn a_gigabyte_of_nothing_is_skipped_in_steps_and_what_follows_is_told() {
    let world = World::new();
    let mut watch = world.watch(Scope::Directory(world.cwd()));
    let main = world.project().join("s1.jsonl");
    write(&main, &row("msg_1", LATER));
    File::options().write(true).open(&main).unwrap().set_len(1 << 30).unwrap();
    write(&main, &format!("\n{}", row("msg_2", LATER)));
    write(&world.project().join("s2.jsonl"), &row("msg_3", LATER));
    assert_eq!(ids(&mut watch), ["msg_1", "msg_3"], "the other file does not wait for it");
    let polls = (1..=80).find(|_| ids(&mut watch) == ["msg_2"]).unwrap();
    assert_eq!(polls, (1 << 30) / A_POLL);
    let peak = fs::read_to_string("/proc/self/status").unwrap();
    let peak = peak.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 512 << 10, "{peak} kB");
}

#[test]
fn a_line_longer_than_a_step_is_still_read() {
    let world = World::new();
    let mut watch = world.watch(Scope::Directory(world.cwd()));
    let text = "x".repeat(3 * STEP);
    let long = row("msg_1", LATER).replace("\"hi\"", &format!("\"{text}\""));
    write(&world.project().join("s1.jsonl"), &format!("{long}{}", row("msg_2", LATER)));
    assert_eq!(ids(&mut watch), ["msg_1", "msg_2"]);
}

#[test]
fn a_pipe_in_place_of_a_transcript_does_not_make_it_wait() {
    let world = World::new();
    let mut watch = world.watch(Scope::Directory(world.cwd()));
    write(&world.project().join("s2.jsonl"), &row("msg_1", LATER));
    nix::unistd::mkfifo(&world.project().join("s1.jsonl"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(ids(&mut watch), ["msg_1"]);
}

#[test]
fn folders_are_named_as_the_client_names_them() {
    assert_eq!(slug(Path::new("/tmp/s_.g-4mp1s3l7/a b/c_d.é-日本")), "-tmp-s--g-4mp1s3l7-a-b-c-d-----");
    assert_eq!(slug(Path::new("/a/😀")), "-a---");
    let world = World::new();
    let deep = world.cwd().join("x".repeat(120)).join("y".repeat(120));
    fs::create_dir_all(&deep).unwrap();
    let mut watch = world.watch(Scope::Directory(deep.clone()));
    let folder = format!("{}-cnrjyt", &slug(&deep)[..LONGEST]);
    write(&world.dir.path().join("projects").join(folder).join("s1.jsonl"), &row("msg_1", LATER));
    assert_eq!(ids(&mut watch), ["msg_1"]);
}
