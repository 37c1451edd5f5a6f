//! The terminal: who is in its foreground, in which mode it is, and how it gets back to the shell in working order.
//!
//! The agent has a process group of its own, which is the terminal's foreground group while it runs, so that Ctrl-C, Ctrl-Z
//! and window changes reach it straight from the kernel and no byte passes through us. Guardian and supervisor stay in the
//! group of the shell's job.
//!
//! * We take part only if standard input is our controlling terminal; the agent starts in the foreground only if we are.
//! * SIGTTOU is blocked, so that a call from the background does not stop us.
//! * When the agent stops, its terminal mode is kept and the shell's restored; on `fg` the agent's mode is put back, as Claude
//!   Code does not set raw mode again by itself.
//! * When it died of a signal, the modes that it may have left on are switched off, and answers and mouse reports still on
//!   their way are read away before the shell could take them for typing.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::termios::{FlowArg, LocalFlags, SetArg, Termios, cfmakeraw, tcflow, tcgetattr, tcsetattr};
use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};

use super::Exit;
use crate::system::Process;

/// Brings any terminal back from what a full-screen program may have left on, in any state of a half-sent sequence, without
/// clearing the screen and without moving the cursor of one that was not in the alternate screen:
///
/// CAN and ST end a half sequence; `?2026l` unfreezes the screen; the kitty keyboard stack is one per screen, so it is popped
/// on both sides of leaving the alternate screen; ESC 7 stands before `?1049l` so that a terminal that was not there does not
/// jump; DECSTBM homes the cursor, so it is within ESC 7 and ESC 8. Not RIS (it clears), not DECSTR.
const RESET: &[u8] = b"\x18\x1b\\\x1b[?2026l\x1b[<99u\x1b[>4;0m\x1b7\x1b[?1049l\x1b[<99u\x1b[?9l\x1b[?1000l\x1b[?1002l\x1b[?1003l\
\x1b[?1004l\x1b[?1005l\x1b[?1006l\x1b[?1015l\x1b[?1016l\x1b[?2004l\x1b[?2031l\x1b[?2048l\x1b[?1l\x1b>\x1b[4l\x1b[?7h\
\x1b7\x1b[?6l\x1b[r\x1b8\x1b[?25h\x1b[0 q\x1b[0m\x1b(B\x0f\x1b]8;;\x1b\\\x1b]9;4;0\x1b\\";

/// What may be sent after a clean end too: keyboard, mouse, focus and paste reports off. Where they are off it does nothing.
const POPS: &[u8] = b"\x1b[<99u\x1b[>4;0m\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1004l\x1b[?1006l\x1b[?2004l";

/// Primary device attributes: every terminal answers it, after everything that it had to say before.
const ASK: &[u8] = b"\x1b[c";
/// How long to wait for that answer.
const ANSWER_TIME: Duration = Duration::from_millis(200);

/// Our controlling terminal, if standard input is it.
pub(super) struct Terminal {
    /// A description of its own, non-blocking: a terminal held by Ctrl-S must not hold us, and nobody else's flags change.
    tty: File,
    /// The mode to give back to the shell.
    own: libc::termios,
}

impl Terminal {
    /// `None` if standard input is no terminal or not our controlling one. Blocks SIGTTOU for the calling thread and those it
    /// starts.
    pub(super) fn capture() -> Option<Self> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return None;
        }
        // Fails with ENOTTY on a terminal that does not control us.
        tcgetpgrp(&stdin).ok()?;
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        // macOS cannot poll(2) /dev/tty, only the terminal that it stands for.
        let device = if cfg!(target_os = "macos") { nix::unistd::ttyname(&stdin).ok()? } else { "/dev/tty".into() };
        let tty = OpenOptions::new().read(true).write(true).custom_flags(flags).open(device).ok()?;
        let own = tcgetattr(&tty).ok()?.into();
        SigSet::from(Signal::SIGTTOU).thread_block().ok()?;
        Some(Self { tty, own })
    }

    /// For the child's side of taking the foreground.
    pub(super) fn raw_fd(&self) -> RawFd {
        self.tty.as_raw_fd()
    }

    /// Whether the job we belong to is in the foreground.
    pub(super) fn is_ours(&self) -> bool {
        self.foreground() == Some(getpgrp())
    }

    /// Whether `group` is in the foreground.
    pub(super) fn is_held_by(&self, group: Pid) -> bool {
        self.foreground() == Some(group)
    }

    /// The mode that it is in now.
    pub(super) fn mode(&self) -> Option<libc::termios> {
        tcgetattr(&self.tty).ok().map(Into::into)
    }

    /// Lets `group` have the foreground, in its own mode if that is known.
    pub(super) fn give(&self, group: Pid, mode: Option<libc::termios>) {
        if let Some(mode) = mode {
            let _ = tcsetattr(&self.tty, SetArg::TCSADRAIN, &Termios::from(mode));
        }
        let _ = tcsetpgrp(&self.tty, group);
    }

    /// Takes the foreground and restores the shell's mode; for a stop.
    pub(super) fn take(&self) {
        let _ = tcsetpgrp(&self.tty, getpgrp());
        self.set_own(SetArg::TCSADRAIN);
    }

    /// After the agent, whose group was `group`, ended: takes the foreground back and puts the terminal in order, as far as
    /// `exit` makes that necessary (`None`: unknown, so as if it was killed). Takes 200 ms at most.
    ///
    /// Does nothing, and returns false, if another living group has the foreground: another job of the shell, or one that
    /// the agent put there.
    pub(super) fn restore(&self, group: Pid, exit: Option<Exit>) -> bool {
        let Some(holder) = self.foreground() else { return false };
        if holder != group && (holder == getpgrp() || killpg(holder, None).is_ok()) {
            return false;
        }
        let _ = tcsetpgrp(&self.tty, getpgrp());
        match exit.and_then(|exit| exit.code) {
            // `stty` run as the agent shall have its effect.
            Some(0) => self.write(POPS),
            Some(_) => {
                self.write(POPS);
                self.set_own(SetArg::TCSADRAIN);
            }
            None => self.reset(),
        }
        true
    }

    /// As [`Self::restore`] after a kill, also if our job has the foreground already: the supervisor may have died between
    /// taking it and putting it in order.
    #[cfg(target_os = "linux")]
    pub(super) fn rescue(&self, group: Pid) {
        if !self.restore(group, None) && self.is_ours() {
            self.reset();
        }
    }

    /// The guardian is gone, and for the shell our whole job with it: it goes back to its prompt, whatever still runs here. So the terminal
    /// is put in order before the agent is ended, and `shell` is its foreground again. Does nothing if the shell was faster.
    pub(super) fn hand_back(&self, group: Pid, shell: Pid) {
        if self.is_held_by(group) {
            self.set_own(SetArg::TCSANOW);
            self.write(RESET);
            let _ = tcsetpgrp(&self.tty, shell);
        }
    }

    /// After [`Self::hand_back`], when the agent is gone: switches off what it had left on or drew meanwhile. The mode is the shell's own by
    /// now, and no answer is asked for, since the shell would take it for typing.
    pub(super) fn clear_up_behind(&self, shell: Pid) {
        if self.is_held_by(shell) {
            self.write(RESET);
        }
    }

    fn reset(&self) {
        // A terminal stopped by Ctrl-S would hold tcsetattr as well.
        let _ = tcflow(&self.tty, FlowArg::TCOON);
        let mut raw = Termios::from(self.own);
        cfmakeraw(&mut raw);
        raw.local_flags.remove(LocalFlags::ECHO);
        let _ = tcsetattr(&self.tty, SetArg::TCSANOW, &raw);
        self.write(RESET);
        if understands_escapes() {
            self.write(ASK);
            self.drain();
        }
        self.set_own(SetArg::TCSAFLUSH);
    }

    /// Reads until the answer to [`ASK`] has come: `ESC [ ? ... c`.
    fn drain(&self) {
        let deadline = Instant::now() + ANSWER_TIME;
        let mut answer = DeviceAttributes::default();
        let mut buffer = [0; 1024];
        while self.wait(PollFlags::POLLIN, deadline) {
            match (&self.tty).read(&mut buffer) {
                Ok(0) => return,
                Ok(count) if answer.ends_in(&buffer[..count]) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock || error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    /// Best effort: a terminal that takes nothing for 200 ms is left alone.
    fn write(&self, mut bytes: &[u8]) {
        if !understands_escapes() {
            return;
        }
        let deadline = Instant::now() + ANSWER_TIME;
        while !bytes.is_empty() && self.wait(PollFlags::POLLOUT, deadline) {
            match (&self.tty).write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock || error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    fn wait(&self, for_what: PollFlags, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(self.tty.as_fd(), for_what)], timeout) {
            Ok(ready) => ready > 0,
            Err(error) => error == nix::errno::Errno::EINTR,
        }
    }

    fn set_own(&self, when: SetArg) {
        let _ = tcsetattr(&self.tty, when, &Termios::from(self.own));
    }

    fn foreground(&self) -> Option<Pid> {
        tcgetpgrp(&self.tty).ok()
    }
}

/// Whether a shell above us could continue our job after a stop. In a container, a terminal window or a CI step of its own there is none,
/// and to stop would be to hang.
pub(super) fn job_control() -> bool {
    shell_above().is_some()
}

/// The process group of the shell above us that does job control: of the first ancestor outside our group, if it is in our session.
pub(super) fn shell_above() -> Option<Pid> {
    let me = Process::read(std::process::id().cast_signed())?;
    let mut parent = me.parent;
    while parent > 0 {
        let process = Process::read(parent)?;
        if process.session != me.session {
            return None;
        }
        if process.group != me.group {
            return Some(Pid::from_raw(process.group));
        }
        parent = process.parent;
    }
    None
}

/// Switches off on the terminal behind standard error what the screen program of a crashed session may have left on: nobody was there to do
/// it when it ended. Does nothing to a terminal that was left alone.
pub fn clear_up_after_a_crash() {
    let mut terminal = io::stderr();
    if terminal.is_terminal() && understands_escapes() {
        // A closed terminal needs no order.
        let _ = terminal.write_all(RESET);
    }
}

/// Whether escapes may be sent to a terminal at all.
pub(super) fn understands_escapes() -> bool {
    std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb")
}

/// Finds `ESC [ ? digits ; ... c` in a stream of pieces.
#[derive(Default)]
enum DeviceAttributes {
    #[default]
    Nothing,
    Escape,
    Bracket,
    Inside,
}

impl DeviceAttributes {
    fn ends_in(&mut self, piece: &[u8]) -> bool {
        for byte in piece {
            *self = match (&self, byte) {
                (_, 0x1b) => Self::Escape,
                (Self::Escape, b'[') => Self::Bracket,
                (Self::Bracket, b'?') | (Self::Inside, b'0'..=b'9' | b';') => Self::Inside,
                (Self::Inside, b'c') => return true,
                _ => Self::Nothing,
            };
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_found_in_pieces_and_between_mouse_reports() {
        let mut answer = DeviceAttributes::default();
        assert!(!answer.ends_in(b"\x1b[<35;10;4M\x1b[?1"));
        assert!(!answer.ends_in(b";2"));
        assert!(answer.ends_in(b"c\x1b[I"));
        assert!(!DeviceAttributes::default().ends_in(b"typed c \x1b[3c"));
    }

    #[test]
    fn the_reset_leaves_the_alternate_screen_at_the_old_cursor_with_all_modes_off() {
        let mut screen = vt100::Parser::new(10, 40, 0);
        screen.process(b"one\r\ntwo");
        screen.process(b"\x1b[?1049h\x1b[?1002h\x1b[?1006h\x1b[?2004h\x1b[?25l\x1b[?1h\x1b[5;5Hfull screen\x1b[38;5");
        screen.process(RESET);
        assert!(!screen.screen().alternate_screen());
        assert_eq!(screen.screen().cursor_position(), (1, 3));
        assert_eq!(screen.screen().mouse_protocol_mode(), vt100::MouseProtocolMode::None);
        assert!(!screen.screen().bracketed_paste() && !screen.screen().hide_cursor() && !screen.screen().application_cursor());
        assert_eq!(screen.screen().contents(), "one\ntwo");
    }

    #[test]
    fn the_reset_does_not_move_the_cursor_of_a_terminal_that_was_left_alone() {
        let mut screen = vt100::Parser::new(10, 40, 0);
        screen.process(b"one\r\ntwo");
        screen.process(RESET);
        screen.process(POPS);
        assert_eq!(screen.screen().cursor_position(), (1, 3));
        assert_eq!(screen.screen().contents(), "one\ntwo");
    }
}
