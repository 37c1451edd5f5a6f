//! What sentrely says inside Claude Code: notices for the person and for the model, and tool calls that are answered with a reason.
//!
//! Other parts of the session [`post`](Notices::post) notices and put [rules](Notices::set_rule) in force; the client's hooks ask
//! ([`Notices::ask`]) and each notice is given out once. Pure but for its lock: what a hook's JSON looks like is `claude::hooks`'s affair.
//!
//! It informs, it protects nothing. Hooks can be switched off, and a process of the session may ask in the client's place and so swallow a
//! notice; what must hold is held by the proxy, and every notice stands in the journal, the status line or the summary too.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::Thread;

/// Notices that wait at most, the oldest go first: hooks may be off, and then nobody ever asks.
const MAX_WAITING: usize = 64;

/// Who is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audience {
    /// The person: a grey line in the conversation that the model does not see.
    Person,
    /// The model of one conversation, or of whichever calls a tool next.
    Model(Option<Thread>),
}

/// One thing to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// To whom.
    pub audience: Audience,
    /// What, as a sentence that says who speaks: `sentrely: 80 % of the budget is used ...`.
    pub text: String,
    /// Said once for each key, until it is [re-armed](Notices::rearm).
    pub once_key: String,
}

/// When a hook asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The person has sent a prompt.
    Prompt,
    /// A tool is about to be called.
    BeforeTool,
    /// A tool was called, whatever came of it.
    AfterTool,
    /// The model has come to the end of its turn.
    TurnEnd,
}

/// A tool call that is about to be made, as the client tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ToolCall {
    /// `Bash`, `Write`, `mcp__server__tool`.
    pub name: String,
    /// The command of a `Bash` call.
    pub command: Option<String>,
}

/// What a hook asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// When.
    pub moment: Moment,
    /// In which conversation.
    pub thread: Thread,
    /// Which tool; only [before](Moment::BeforeTool) it is called.
    pub call: Option<ToolCall>,
}

/// What it is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// For the person.
    pub person: Option<String>,
    /// For the model.
    pub model: Option<String>,
    /// The call shall not be made, and why.
    pub deny: Option<String>,
}

/// What a rule makes of a tool call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// Nothing is to be said.
    Pass,
    /// It may be made; the model is told this.
    Advise(String),
    /// It is not to be made; the model is told why.
    Deny(String),
}

/// Looks at each tool call before it is made. Called in line: quick, without waiting, and without calling [`Notices`].
pub type Rule = Arc<dyn Fn(&ToolCall, &Thread) -> Judgement + Send + Sync>;

/// A cheap handle on what is to be said.
#[derive(Clone, Default)]
pub struct Notices(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    waiting: VecDeque<Notice>,
    /// Keys of what was posted and not re-armed since.
    said: BTreeSet<String>,
    rules: Vec<(&'static str, Rule)>,
}

impl Notices {
    /// Says it at the next occasion; false if it was said already.
    pub fn post(&self, notice: Notice) -> bool {
        let mut state = self.lock();
        if !state.said.insert(notice.once_key.clone()) {
            return false;
        }
        if state.waiting.len() >= MAX_WAITING {
            state.waiting.pop_front();
        }
        state.waiting.push_back(notice);
        true
    }

    /// The key may be said again, as when a limit was raised. What still waits under it is no longer true and is dropped.
    pub fn rearm(&self, once_key: &str) {
        let mut state = self.lock();
        state.said.remove(once_key);
        state.waiting.retain(|notice| notice.once_key != once_key);
    }

    /// Puts a rule in force under a name, in place of an earlier one; `None` takes it back.
    pub fn set_rule(&self, name: &'static str, rule: Option<Rule>) {
        let mut state = self.lock();
        state.rules.retain(|(known, _)| *known != name);
        state.rules.extend(rule.map(|rule| (name, rule)));
    }

    /// What a hook is told. What is told does not wait any longer.
    pub fn ask(&self, question: &Question) -> Answer {
        let mut answer = Answer::default();
        let mut state = self.lock();
        if let Some(call) = question.call.as_ref().filter(|_| question.moment == Moment::BeforeTool) {
            for (_, rule) in &state.rules {
                match rule(call, &question.thread) {
                    Judgement::Pass => {}
                    Judgement::Advise(text) => add(&mut answer.model, text),
                    Judgement::Deny(why) => add(&mut answer.deny, why),
                }
            }
        }
        let heard = state.waiting.iter().filter(|notice| question.reaches(&notice.audience)).cloned().collect::<Vec<_>>();
        state.waiting.retain(|notice| !question.reaches(&notice.audience));
        for notice in heard {
            match notice.audience {
                Audience::Person => add(&mut answer.person, notice.text),
                Audience::Model(_) => add(&mut answer.model, notice.text),
            }
        }
        answer
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is whole after each statement.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Question {
    /// Whether the audience hears the answer. Lines of a subagent are not drawn, and the end of a turn is not fed back to a model without
    /// costing it another one.
    fn reaches(&self, audience: &Audience) -> bool {
        let to_model = matches!(self.moment, Moment::AfterTool | Moment::Prompt);
        match audience {
            Audience::Person => self.thread == Thread::Main && self.moment != Moment::BeforeTool,
            Audience::Model(None) => to_model,
            Audience::Model(Some(thread)) => to_model && *thread == self.thread,
        }
    }
}

fn add(said: &mut Option<String>, text: String) {
    match said {
        Some(said) => {
            said.push('\n');
            said.push_str(&text);
        }
        None => *said = Some(text),
    }
}

/// Whether a call only writes work down: a tool that edits files, or a git command that no other command stands beside. What is left when
/// the budget is nearly gone.
pub fn only_saves_work(call: &ToolCall) -> bool {
    match call.name.as_str() {
        "Write" | "Edit" | "MultiEdit" | "NotebookEdit" | "TodoWrite" => true,
        "Bash" => call.command.as_deref().is_some_and(|command| {
            let mut commands = commands_of(command).peekable();
            let blank = |words: &[String]| words.first().is_none_or(|word| word == "cd");
            commands.peek().is_some() && commands.all(|words| blank(&words) || words.first().is_some_and(|word| word == "git"))
        }),
        _ => false,
    }
}

/// The simple commands of a shell line, as words. Quotes are honoured, everything else of the shell's grammar is not: for advice, never
/// for a barrier.
pub(crate) fn commands_of(line: &str) -> impl Iterator<Item = Vec<String>> {
    let mut commands = Vec::new();
    let mut words: Vec<String> = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(open), close) if open == close => quote = None,
            (Some('\''), inside) => word.get_or_insert_default().push(inside),
            (None | Some(_), '\\') => match characters.next() {
                Some('\n') | None => {}
                Some(escaped) => word.get_or_insert_default().push(escaped),
            },
            (Some(_), inside) => word.get_or_insert_default().push(inside),
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, ';' | '&' | '|' | '\n' | '(' | ')' | '`') => {
                words.extend(word.take());
                commands.push(std::mem::take(&mut words));
            }
            (None, space) if space.is_whitespace() => words.extend(word.take()),
            (None, other) => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word.take());
    commands.push(words);
    commands.into_iter().map(without_assignments).filter(|words| !words.is_empty())
}

/// `GIT_EDITOR=true git commit` is `git commit`.
fn without_assignments(mut words: Vec<String>) -> Vec<String> {
    let is_assignment = |word: &String| {
        word.split_once('=').is_some_and(|(name, _)| {
            !name.is_empty()
                && !name.starts_with(|c: char| c.is_ascii_digit())
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        })
    };
    let command = words.iter().position(|word| !is_assignment(word)).unwrap_or(words.len());
    words.split_off(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(audience: Audience, text: &str) -> Notice {
        Notice { audience, text: text.to_owned(), once_key: text.to_owned() }
    }

    fn at(moment: Moment, thread: &Thread) -> Question {
        Question { moment, thread: thread.clone(), call: None }
    }

    fn bash(command: &str) -> ToolCall {
        ToolCall { name: "Bash".to_owned(), command: Some(command.to_owned()) }
    }

    #[test]
    fn a_notice_is_said_once_to_whom_it_is_for() {
        let notices = Notices::default();
        assert!(notices.post(notice(Audience::Person, "half")));
        assert!(notices.post(notice(Audience::Model(None), "finish")));
        assert!(!notices.post(notice(Audience::Person, "half")), "once");
        let subagent = Thread::Agent("a".into());
        assert_eq!(notices.ask(&at(Moment::BeforeTool, &Thread::Main)), Answer::default());
        let heard = notices.ask(&at(Moment::AfterTool, &subagent));
        assert_eq!(heard, Answer { model: Some("finish".into()), ..Answer::default() });
        let heard = notices.ask(&at(Moment::TurnEnd, &Thread::Main));
        assert_eq!(heard, Answer { person: Some("half".into()), ..Answer::default() });
        assert_eq!(notices.ask(&at(Moment::AfterTool, &Thread::Main)), Answer::default());
        assert!(!notices.post(notice(Audience::Person, "half")), "still once");
        notices.rearm("half");
        assert!(notices.post(notice(Audience::Person, "half")));
    }

    #[test]
    fn what_waits_for_one_conversation_is_not_told_to_another_and_is_dropped_when_rearmed() {
        let notices = Notices::default();
        let subagent = Thread::Agent("a".into());
        notices.post(notice(Audience::Model(Some(subagent.clone())), "loop"));
        assert_eq!(notices.ask(&at(Moment::AfterTool, &Thread::Main)), Answer::default());
        assert_eq!(notices.ask(&at(Moment::AfterTool, &subagent)).model.as_deref(), Some("loop"));
        notices.post(notice(Audience::Person, "80 %"));
        notices.rearm("80 %");
        assert_eq!(notices.ask(&at(Moment::TurnEnd, &Thread::Main)), Answer::default());
    }

    #[test]
    fn nobody_asking_does_not_fill_the_memory() {
        let notices = Notices::default();
        for n in 0..1_000 {
            notices.post(notice(Audience::Person, &n.to_string()));
        }
        let said = notices.ask(&at(Moment::TurnEnd, &Thread::Main)).person.unwrap();
        assert_eq!((said.lines().count(), said.lines().last()), (MAX_WAITING, Some("999")));
    }

    #[test]
    fn rules_advise_and_deny_until_they_are_taken_back() {
        let notices = Notices::default();
        notices.set_rule("advice", Some(Arc::new(|_, _| Judgement::Advise("mind".into()))));
        let rule: Rule = Arc::new(|call, _| if only_saves_work(call) { Judgement::Pass } else { Judgement::Deny("no budget".into()) });
        notices.set_rule("budget", Some(rule));
        let ask = |call: ToolCall| notices.ask(&Question { call: Some(call), ..at(Moment::BeforeTool, &Thread::Main) });
        assert_eq!(ask(bash("git commit -m x")), Answer { model: Some("mind".into()), ..Answer::default() });
        assert_eq!(ask(bash("make")).deny.as_deref(), Some("no budget"));
        notices.set_rule("budget", None);
        notices.set_rule("advice", None);
        assert_eq!(ask(bash("make")), Answer::default());
    }

    #[test]
    fn saving_work_is_git_and_writing_and_nothing_beside_it() {
        for command in ["git status", "git add -A && git commit -m 'a; b'", "cd sub && git push", "GIT_EDITOR=true git commit --amend"] {
            assert!(only_saves_work(&bash(command)), "{command}");
        }
        for command in ["make", "git status; make", "git log | head", "echo $(git push) && rm x", "", "gitk", "cd /tmp; ./run"] {
            assert!(!only_saves_work(&bash(command)), "{command}");
        }
        let tool = |name: &str| ToolCall { name: name.to_owned(), command: None };
        assert!(only_saves_work(&tool("Edit")) && !only_saves_work(&tool("WebSearch")) && !only_saves_work(&tool("Bash")));
    }
}
