//! The agent's share of the terminal, as a shell's job: `Ctrl-Z`, `fg`, `bg`.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::super::AgentEvent;
use super::super::terminal::{Terminal, job_control};
use super::{Agent, State};

/// How long after `bg` the agent is continued. Our job is woken by a kill file as well, and then the agent shall be ended
/// without having written into the screen of a shell that does not expect it.
const WAKE_TIME: Duration = Duration::from_millis(50);

impl Agent {
    /// Whether the agent has the terminal: what we print then goes into its screen.
    pub fn owns_terminal(&self) -> bool {
        self.exit.is_none() && self.terminal.as_ref().is_some_and(|terminal| terminal.is_held_by(self.pid))
    }

    /// Whether the next call of [`Self::event`] stops our whole job.
    pub fn job_is_about_to_stop(&self) -> bool {
        self.state == State::StoppedAndWeFollow
    }

    /// To be called as soon as the guardian is known to be gone: for the shell it was the job, so the terminal is put in order now, if the shell
    /// was not faster, and the agent is out of it.
    pub fn guardian_is_gone(&mut self) {
        self.shell_went_ahead = self.shell.is_some() && self.terminal.is_some();
        if let (Some(terminal), Some(shell)) = (&self.terminal, self.shell) {
            terminal.hand_back(self.pid, shell);
        }
    }

    /// Whether the shell was back at its prompt before the session was over, and may have taken the agent's terminal mode for its own.
    pub fn shell_went_ahead(&self) -> bool {
        self.shell_went_ahead
    }

    /// Remembers the terminal mode that the agent works in. To be called now and then.
    pub fn note_mode(&mut self) {
        if let Some(terminal) = self.terminal.as_ref().filter(|terminal| self.state == State::Runs && terminal.is_held_by(self.pid)) {
            self.mode_at_work = terminal.mode();
        }
    }

    pub(super) fn stopped_by(&mut self, signal: i32) -> Option<AgentEvent> {
        let can_suspend = job_control();
        if let Some(terminal) = &self.terminal {
            let wants_it = signal == Signal::SIGTTIN as i32 || signal == Signal::SIGTTOU as i32;
            if wants_it && terminal.is_ours() {
                self.wants_terminal = true;
                self.in_background = false;
                terminal.give(self.pid, self.mode_at_work.or(self.mode.take()));
                let _ = killpg(self.pid, Signal::SIGCONT);
                return None;
            }
            if !can_suspend && terminal.is_held_by(self.pid) {
                // No shell is there that could take the terminal and say `fg`: a stop would be for ever.
                let _ = killpg(self.pid, Signal::SIGCONT);
                return None;
            }
        }
        let follow = can_suspend && (self.terminal.is_some() || self.stop_was_asked);
        self.state = if follow { State::StoppedAndWeFollow } else { State::Stopped };
        Some(AgentEvent::Stopped)
    }

    /// Gives the terminal back to the shell, stops the whole job, and goes on here when the shell continues it.
    pub(super) fn suspend(&mut self) {
        if let Some(terminal) = &self.terminal {
            if terminal.is_held_by(self.pid) {
                self.mode = terminal.mode();
                terminal.take();
            } else if terminal.is_ours() && !self.stop_was_asked {
                // It stopped in the background, for the terminal; `fg` came meanwhile, and has brought it.
                self.resume();
                return;
            }
        }
        // SIGSTOP, because SIGTSTP is dropped in an orphaned group and has a handler here. It takes effect before kill(2)
        // returns to this thread; guardian and supervisor stop as one job.
        let _ = kill(Pid::from_raw(0), Signal::SIGSTOP);
        self.resume();
    }

    /// SIGCONT came: `fg`, `bg`, or `fg` after `bg`.
    pub(super) fn resume(&mut self) {
        self.stop_was_asked = false;
        if self.exit.is_some() {
            return;
        }
        let gets_terminal = self.wants_terminal && self.terminal.as_ref().is_some_and(Terminal::is_ours);
        if let Some(terminal) = &self.terminal {
            if gets_terminal {
                let at_stop = self.mode.take();
                terminal.give(self.pid, if self.state == State::Runs { self.mode_at_work.or(at_stop) } else { at_stop });
            }
            self.in_background = self.wants_terminal && !gets_terminal && !terminal.is_held_by(self.pid);
        }
        match self.state {
            State::StoppedAndWeFollow if !gets_terminal => self.state = State::WakesAt(Instant::now() + WAKE_TIME),
            State::StoppedAndWeFollow | State::WakesAt(_) if gets_terminal => {
                self.state = State::Runs;
                let _ = killpg(self.pid, Signal::SIGCONT);
            }
            // We did not follow, so waitpid tells when it goes on.
            State::Stopped => {
                let _ = killpg(self.pid, Signal::SIGCONT);
            }
            // It may wait for the terminal that it got.
            State::Runs if gets_terminal => {
                let _ = killpg(self.pid, Signal::SIGCONT);
            }
            // A SIGCONT comes from the shell and once more from the guardian, as late as the machine is busy. The agent may have been stopped
            // again by then, which waitpid is still to tell: that `Ctrl-Z` must not be undone.
            State::Runs | State::StoppedAndWeFollow | State::WakesAt(_) => {}
        }
    }
}
