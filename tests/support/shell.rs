//! A real interactive shell in a terminal, as a person has it in front of sentrely.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::termios::Termios;

use super::env::TestEnv;
use super::pty::{Key, Modes, Terminal};
use super::run::{Run, wait_until};

/// The prompt of every shell here.
const PROMPT: &str = "READY> ";

/// More than anything here takes on a busy machine.
const SOON: Duration = Duration::from_mins(1);

/// Which shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// bash.
    Bash,
    /// zsh.
    Zsh,
}

/// A shell at its prompt.
pub(crate) struct Shell {
    /// Its terminal.
    pub(crate) terminal: Terminal,
    /// Where its answers are written.
    answers: PathBuf,
    asked: u32,
    /// How the terminal was at the first prompt.
    order: (Termios, Modes),
    /// And how it is while a command runs, in the words of `stty`.
    cooked: String,
}

impl Kind {
    /// Its interactive form without anybody's start files.
    fn command(self, env: &TestEnv) -> Run<'_> {
        let run = match self {
            Self::Bash => env.command("bash", &["--norc", "--noprofile", "-i"]),
            Self::Zsh => env.command("zsh", &["-f", "-i"]),
        };
        run.var("PS1", PROMPT)
    }
}

impl Shell {
    /// Starts it; `prepare` may add to its environment.
    pub(crate) fn start<'e>(kind: Kind, env: &'e TestEnv, prepare: impl FnOnce(Run<'e>) -> Run<'e>) -> Self {
        let mut terminal = Terminal::spawn(&prepare(kind.command(env)));
        terminal.wait_for_screen(SOON, "the shell's prompt", at_prompt);
        // The last that both of them set at a prompt, after they have drawn it.
        wait_until(SOON, "the prompt's modes", || terminal.modes().bracketed_paste);
        let order = (terminal.termios(), terminal.modes());
        let mut shell = Self { terminal, answers: env.tmp(), asked: 0, order, cooked: String::new() };
        shell.cooked = shell.ask("stty -g </dev/tty");
        shell
    }

    /// Types a line.
    pub(crate) fn line(&mut self, line: &str) {
        self.terminal.type_text(line);
        self.terminal.press(Key::Enter);
    }

    /// Runs a command at the prompt, waits until the shell is back there, and returns what the command printed.
    #[track_caller]
    pub(crate) fn ask(&mut self, command: &str) -> String {
        self.asked += 1;
        let (draft, answer) = (self.answers.join("draft"), self.answers.join(format!("answer{}", self.asked)));
        // Not through the screen, where long lines are broken.
        self.line(&format!("{{ {command}; }} >{} 2>&1; mv {} {}", draft.display(), draft.display(), answer.display()));
        self.terminal.wait_for_screen(SOON, command, |screen| answer.exists() && at_prompt(screen));
        std::fs::read_to_string(answer).unwrap().trim().to_owned()
    }

    /// Waits for the prompt: the last thing on the screen, with nothing behind it.
    #[track_caller]
    pub(crate) fn wait_for_prompt(&mut self) -> String {
        self.terminal.wait_for_screen(SOON, "the prompt", at_prompt)
    }

    /// What a person does with `stty sane`: sets the mode that commands had at the beginning.
    pub(crate) fn restore_mode(&mut self) {
        let restore = format!("stty {} </dev/tty", self.cooked);
        assert_eq!(self.ask(&restore), "");
    }

    /// The shell is at its prompt and its terminal as it was: attributes and modes there and under a command, and nothing typed into it.
    #[track_caller]
    pub(crate) fn expect_order(&mut self) {
        let screen = self.wait_for_prompt();
        // A mouse report, a device's answer or a key's release that had reached the shell would stand behind the prompt, or have been run.
        assert!(!screen.contains("command not found") && !screen.contains("^["), "{screen}");
        assert_eq!(self.ask("stty -g </dev/tty"), self.cooked);
        // The shell draws its prompt before it has set everything that belongs to it.
        let deadline = Instant::now() + SOON;
        loop {
            let now = (self.terminal.termios(), self.terminal.modes());
            if now == self.order {
                return;
            }
            assert!(Instant::now() < deadline, "{now:?} is not {:?}\n{}", self.order, self.terminal.screen());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Whether the last line is an empty prompt.
fn at_prompt(screen: &str) -> bool {
    screen.lines().rfind(|line| !line.trim().is_empty()).is_some_and(|line| line.trim_end() == PROMPT.trim_end())
}
