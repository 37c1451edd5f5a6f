//! After the last process: the work is brought home, the record closed, and the person told how it was.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;
use tokio::task::spawn_blocking;

use super::chronicle::Chronicle;
use super::claude::schedule;
use super::context::ContextWatch;
use super::home;
use super::prepare::Prepared;
use super::pull_request::{Ask, deliver};
use super::report::{Report, Reporter, Summary};
use super::resume::{more_budget, more_time, resume_line, shell_word};
use super::saving;
use super::sharing::Sharing;
use super::workplace::Workplace;
use crate::git::{self, Far, FarLook, Moved};
use crate::model::{BudgetView, Event, SCHEMA_VERSION, SessionJson, SessionView, StopReason, Workspace};
use crate::process::{Ended, Exit};
use crate::store::{append_to_index, book_session, read_journal, replace, verify_journal};

/// A remote over a network has so long to tell where its branches stand at the end; and so long where a person waits.
const FAR: Duration = Duration::from_secs(10);
const FAR_BY_HAND: Duration = Duration::from_secs(3);
/// So many moved branches are recorded.
const MOST_MOVED: usize = 50;

/// What the ending needs of the beginning.
pub(super) struct Ending {
    prepared: Prepared,
    context: ContextWatch,
    sharing: Option<Sharing>,
}

/// `--result-file`: the session as `ls --json` has it.
#[derive(Serialize)]
struct ResultFile<'a> {
    schema_version: u32,
    session: SessionJson<'a>,
}

impl Ending {
    pub(super) const fn new(prepared: Prepared, context: ContextWatch, sharing: Option<Sharing>) -> Self {
        Self { prepared, context, sharing }
    }

    /// Closes the session; returns what `run` exits with.
    #[expect(clippy::too_many_arguments, reason = "the whole story of a session comes together here")]
    pub(super) async fn finish(
        &self,
        workplace: &mut Workplace,
        reporter: &Reporter,
        reason: StopReason,
        exit: Option<Exit>,
        ended: &Ended,
        note: Option<String>,
        stopped_at: Option<Instant>,
    ) -> u8 {
        sweep_schedule(workplace, reporter).await;
        workplace.links.remove();
        let far = self.look_again(workplace, reason);
        let chronicle = &workplace.chronicle;
        let work = self.save(workplace, reporter).await;
        self.look_at_protected(workplace, reporter, far).await;
        home::settle(&self.prepared, workplace, reporter);
        if let Some(at) = stopped_at.filter(|_| work.is_some() && reason > StopReason::ChildExited) {
            let ms = at.elapsed().as_secs_f64() * 1_000.0;
            let _ = chronicle.record(Event::Stage { stage: "work_saved".to_owned(), ms });
        }
        if let Some(at) = stopped_at.filter(|_| reason > StopReason::ChildExited) {
            // The way down itself is on the disk before it is called recorded; the end below is synced once more.
            let _ = chronicle.sync();
            let ms = at.elapsed().as_secs_f64() * 1_000.0;
            let _ = chronicle.record(Event::Stage { stage: "recorded".to_owned(), ms });
        }
        self.see_shared_limits(chronicle);
        let exit_code = reason.exit_code().unwrap_or_else(|| exit.map_or(1, Exit::shell_code));
        let survivors: Vec<String> = ended.outcome.survivors.iter().map(ToString::to_string).collect();
        // The agent itself is no leftover when it ended by itself.
        let closed = chronicle.record(Event::AttemptEnded {
            reason,
            exit_code,
            processes_ended: ended.processes,
            survivors,
            outcome: ended.outcome.clone(),
        });
        if self.prepared.request.config.git.pr && self.prepared.checkout.is_some() {
            self.open_pull_request(workplace, reporter, reason).await;
        }
        if workplace.kept.load(Ordering::Relaxed) && !self.prepared.request.config.git.pr {
            let id = self.prepared.id.short();
            reporter(Report::Notice(format!("what it pushed is kept on this machine; sentrely pr {id} sends it on")));
        }
        let synced = chronicle.sync();
        let _ = chronicle.publish();
        let view = chronicle.view();
        if let Err(error) = append_to_index(self.prepared.request.state.path(), &view) {
            reporter(Report::Alarm(format!("the index of sessions could not be written: {error}")));
        }
        if let Err(error) = book_session(&workplace.dir) {
            reporter(Report::Alarm(format!(
                "what it spent is not in the ledger of shared limits: failed to {:#}",
                anyhow::Error::new(error)
            )));
        }
        if let Err(error) = self.leave_result(&view) {
            reporter(Report::Alarm(error));
        }
        let hands_over = self.context.has_stopped_it() && view.stop_reason == Some(StopReason::PolicyStop);
        let files = if hands_over { self.touched(&view).await } else { Vec::new() };
        let next = if hands_over { Some(self.smaller_session(&view)) } else { self.next_command(&view) };
        reporter(Report::Summary(Box::new(Summary {
            view,
            processes_ended: ended.processes,
            outcome: ended.outcome.clone(),
            work,
            files,
            note,
            next,
        })));
        if closed.is_err() || synced.is_err() {
            return StopReason::JournalLost.exit_code().unwrap_or(exit_code).max(exit_code);
        }
        exit_code
    }

    /// While it ran they were told by whole percents.
    fn see_shared_limits(&self, chronicle: &Chronicle) {
        let budgets = self.sharing.as_ref().map(|sharing| sharing.views(Timestamp::now())).unwrap_or_default();
        if budgets.iter().any(|budget| !chronicle.view().budgets.contains(budget)) {
            let _ = chronicle.record(Event::SharedLimitsSeen { budgets });
        }
    }

    /// Brings the work into the developer's repository; returns where it is, in words.
    async fn save(&self, workplace: &Workplace, reporter: &Reporter) -> Option<String> {
        let (copy, checkout) = (workplace.copy.clone()?, self.prepared.checkout.clone()?);
        let wip = self.prepared.request.config.git.wip_commit.then(|| saving::message(self.prepared.id));
        let in_place = self.prepared.workspace() == Workspace::InPlace;
        reporter(Report::Step("bringing the work home".to_owned()));
        let (path, root) = (copy.root.display().to_string(), checkout.root.display().to_string());
        let saver = workplace.saver.clone();
        let collected = spawn_blocking(move || saver.save(&checkout, &copy, wip.as_deref())).await;
        reporter(Report::StepDone);
        let why = match collected {
            Ok(Ok(collected)) if collected.unchanged => {
                for notice in &collected.notices {
                    let _ = workplace.chronicle.record(Event::WorkNotSaved { why: notice.clone(), path: path.clone() });
                    reporter(Report::Alarm(notice.clone()));
                }
                return Some(match (collected.notices.is_empty(), in_place) {
                    (true, true) => format!("no commit on {}, which is checked out in {root}", collected.branch),
                    (true, false) => "nothing was changed".to_owned(),
                    (false, _) => "no work was found".to_owned(),
                });
            }
            Ok(Ok(collected)) => {
                let _ = workplace.chronicle.record(saving::saved(&collected));
                for notice in &collected.notices {
                    reporter(Report::Notice(notice.clone()));
                }
                if !collected.others.is_empty() {
                    reporter(Report::Notice(format!("further branches of the session: {}", collected.others.join(", "))));
                }
                if !collected.left_out.is_empty() {
                    reporter(Report::Notice(format!("not in the last commit, still in {path}: {}", collected.left_out.join(", "))));
                }
                return Some(describe(&collected, &root, in_place));
            }
            Ok(Err(error)) => format!("{:#}", anyhow::Error::new(error)),
            Err(error) => error.to_string(),
        };
        let _ = workplace.chronicle.record(Event::WorkNotSaved { why: why.clone(), path: path.clone() });
        reporter(Report::Alarm(format!("the work could not be brought into your repository, it lies in {path}: {why}")));
        Some(format!("in {path}"))
    }

    /// Protected branches that moved meanwhile. People and colleagues move them too: it is told only where the session could have.
    async fn look_at_protected(&self, workplace: &Workplace, reporter: &Reporter, far: Option<(Far, FarLook)>) {
        let (Some(tripwire), Some(checkout)) = (workplace.tripwire.clone(), self.prepared.checkout.clone()) else { return };
        let moved = spawn_blocking(move || tripwire.moved(&checkout)).await.unwrap_or_default();
        let apart = matches!(self.prepared.workspace(), Workspace::Clone | Workspace::SamePath);
        let could = !apart || !self.prepared.wall.keeps_files();
        let mut told = Vec::new();
        for (place, Moved { name, before, after }) in moved.into_iter().take(MOST_MOVED) {
            told.extend(could.then(|| format!("{} of {place}", name.trim_start_matches("refs/heads/"))));
            let _ = workplace.chronicle.record(Event::ProtectedMoved { place, name, before, after });
        }
        if let Some((before, look)) = far
            && let Ok(Some(now)) = spawn_blocking(move || look.wait()).await
        {
            let mut elsewhere = Vec::new();
            let place = &before.remote;
            for Moved { name, before, after } in before.moved(&now).into_iter().take(MOST_MOVED) {
                elsewhere.push(format!("{} of {place}", name.trim_start_matches("refs/heads/")));
                let _ = workplace.chronicle.record(Event::ProtectedMoved { place: place.clone(), name, before, after });
            }
            if could || before.open {
                told.append(&mut elsewhere);
            } else if !elsewhere.is_empty() {
                let why = "most likely by somebody else, since the session was kept from credentials";
                reporter(Report::Notice(format!("moved during the session, {why}: {}", elsewhere.join(", "))));
            }
        }
        if !told.is_empty() {
            reporter(Report::Alarm(format!("moved during the session, by whom is not known: {}", told.join(", "))));
        }
    }

    /// A second look at a remote over a network, if the first one came to an end; made while the work is brought home.
    fn look_again(&self, workplace: &mut Workplace, reason: StopReason) -> Option<(Far, FarLook)> {
        let before = workplace.far.take()?.seen()?;
        // Whoever ends a session by hand wants an end.
        let by_hand = matches!(reason, StopReason::Killed | StopReason::Terminated | StopReason::MeterBypassed);
        let patience = if by_hand { FAR_BY_HAND } else { FAR };
        let look = FarLook::again(self.prepared.checkout.as_ref()?, &before, patience);
        Some((before, look))
    }

    /// `--pr`. A failed delivery never changes the child's code: it is told and recorded.
    async fn open_pull_request(&self, workplace: &Workplace, reporter: &Reporter, reason: StopReason) {
        let (chronicle, id) = (&workplace.chronicle, self.prepared.id.short());
        // Whoever ends a session by hand wants an end, not ten minutes of git and an answer from a forge.
        if matches!(reason, StopReason::Killed | StopReason::Terminated | StopReason::MeterBypassed) {
            reporter(Report::Notice(format!("no pull request was opened; sentrely pr {id} opens it")));
            return;
        }
        let file = workplace.dir.journal_file();
        let Ok(records) = read_journal(&file) else { return };
        let head = std::fs::read(&file).ok().and_then(|content| verify_journal(&content).ok()).map(|(_, head)| head);
        let view = chronicle.view();
        let journal_head = head.unwrap_or_else(|| "unknown: the journal is broken".to_owned());
        let ask = Ask { view, records, journal_head, base: None, title: None, draft: true, held_seen: false };
        reporter(Report::Step("opening a pull request".to_owned()));
        let done = Box::pin(deliver(ask, &self.prepared.request.config)).await;
        reporter(Report::StepDone);
        let event = match done {
            Ok(delivered) => {
                reporter(Report::Notice(delivered.said));
                Some(delivered.event)
            }
            Err(not) => {
                let why = format!("no pull request: failed to {:#}; once that is mended: sentrely pr {id}", not.error);
                let _ = chronicle.record(Event::Notice { what: why.clone() });
                reporter(Report::Alarm(why));
                not.event.map(|event| *event)
            }
        };
        if let Some(event) = event {
            let _ = chronicle.record(event);
        }
    }

    fn leave_result(&self, view: &SessionView) -> Result<(), String> {
        let Some(path) = &self.prepared.request.result_file else { return Ok(()) };
        let path = if path.is_absolute() { path.clone() } else { self.prepared.request.cwd.join(path) };
        let json = serde_json::to_vec(&ResultFile { schema_version: SCHEMA_VERSION, session: SessionJson::from(view) });
        let written = json.map_err(std::io::Error::other).and_then(|json| replace(&path, &json));
        written.map_err(|error| format!("the result could not be written to {}: {error}", path.display()))
    }

    /// The files that the session's branch changed, as far as they were saved.
    async fn touched(&self, view: &SessionView) -> Vec<String> {
        let (Some(checkout), Some(base), Some(branch)) = (&self.prepared.checkout, &view.base_commit, &view.branch) else {
            return Vec::new();
        };
        let (root, base, branch) = (checkout.root.clone(), base.clone(), branch.clone());
        spawn_blocking(move || git::touched(&root, &base, &branch)).await.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// The line that goes on with the work in a conversation that begins anew: same branch, same budget, empty context.
    fn smaller_session(&self, view: &SessionView) -> String {
        let program = view.command.first().map(|program| shell_word(program)).unwrap_or_default();
        let mut words = vec![format!("sentrely run --resume {} -- {program}", view.short_id)];
        let Some(claude) = &self.prepared.claude else {
            words.extend(view.command.iter().skip(1).map(|word| shell_word(word)));
            return words.join(" ");
        };
        words.extend(claude.args.model.iter().map(|model| format!("--model {}", shell_word(model))));
        if claude.args.print {
            words.push("-p".to_owned());
        }
        let done = match (&view.base_commit, view.commits) {
            (Some(base), 1..) => format!(": git log -p {}..HEAD shows what is done", &base[..base.len().min(12)]),
            _ => String::new(),
        };
        words.push(shell_word(&format!("Go on with the work on this branch{done}")));
        words.join(" ")
    }

    /// The line that goes on with this session, when there is something to go on with.
    fn next_command(&self, view: &SessionView) -> Option<String> {
        match view.stop_reason? {
            StopReason::ChildExited => {
                let (base, branch) = (view.base_commit.as_deref()?, view.branch.as_deref()?);
                return (view.commits > 0).then(|| format!("git log -p {}..{branch}", &base[..base.len().min(12)]));
            }
            StopReason::MeterBypassed => return Some("sentrely doctor".to_owned()),
            // Whoever killed it did not mean it to go on.
            StopReason::Killed => return Some(format!("sentrely show {}", view.short_id)),
            _ => {}
        }
        let flags = match view.stop_reason {
            // For a limit that sessions share no flag makes room.
            Some(StopReason::BudgetReached) if worst(view).is_some_and(|budget| budget.shared.is_some()) => Vec::new(),
            Some(StopReason::BudgetReached) => view.budgets.iter().filter_map(BudgetView::as_limit).map(more_budget).collect(),
            Some(StopReason::Deadline) => self.prepared.time_limit.map(more_time).into_iter().collect(),
            _ => Vec::new(),
        };
        Some(resume_line(view, &flags, self.prepared.claude.is_some()))
    }
}

/// The limit that is nearest to its end.
fn worst(view: &SessionView) -> Option<&BudgetView> {
    // Of several the first, which is one of its own.
    view.budgets.iter().rev().max_by_key(|budget| budget.percent)
}

/// What the session scheduled for after its end does not come home, and does not stay.
async fn sweep_schedule(workplace: &Workplace, reporter: &Reporter) {
    let view = workplace.chronicle.view();
    // At the checkout's path the session's were in its clone.
    let cwd = workplace.copy.as_ref().map_or(&workplace.cwd, |copy| &copy.cwd);
    let folders = [Some(cwd.clone()), workplace.copy.as_ref().map(|copy| copy.root.clone())];
    let swept = spawn_blocking(move || {
        let folders = folders.iter().flatten().map(PathBuf::as_path);
        schedule::sweep(folders, &view.claude_sessions, view.started_at)
    });
    let what = match swept.await {
        Ok(Ok(0)) => return,
        Ok(Ok(1)) => "1 scheduled prompt of the session was removed".to_owned(),
        Ok(Ok(count)) => format!("{count} scheduled prompts of the session were removed"),
        Ok(Err(error)) => format!("what the session scheduled could not be removed: {error}"),
        Err(error) => format!("what the session scheduled could not be removed: {error}"),
    };
    reporter(Report::Notice(what.clone()));
    let _ = workplace.chronicle.record(Event::Notice { what });
}

fn describe(collected: &git::Collected, root: &str, in_place: bool) -> String {
    if collected.commits == 0 {
        return format!("{}, in {root}", collected.others.join(", "));
    }
    let commits = match collected.commits {
        1 => "1 commit".to_owned(),
        count => format!("{count} commits"),
    };
    let wip = if collected.wip { ", the last with the uncommitted work" } else { "" };
    let place = if in_place { String::new() } else { format!(", in {root}") };
    format!("{commits} on {}{place}{wip}", collected.branch)
}
