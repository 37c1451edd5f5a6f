//! A program in a terminal: what it draws is parsed into a screen, and the test types.

use std::fs::File;
use std::io::{Read as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use portable_pty::{Child, CommandBuilder, ExitStatus, MasterPty, PtySize, native_pty_system};

use super::run::{Run, kill_tree};

/// How a program asks a terminal what it is (DA1).
const QUESTION: &[u8] = b"\x1b[c";

/// A terminal with a program in it. Dropped, the program and all its descendants are killed.
pub(crate) struct Terminal {
    master: Box<dyn MasterPty + Send>,
    keyboard: Arc<Mutex<Box<dyn Write + Send>>>,
    child: Box<dyn Child + Send + Sync>,
    ended: Option<ExitStatus>,
    ended_at: Option<Instant>,
    shown: Arc<Mutex<Shown>>,
    tty: PathBuf,
}

struct Shown {
    parser: vt100::Parser,
    raw: Vec<u8>,
    /// What is sent when it is asked what it is.
    answer: Option<Vec<u8>>,
    closed: bool,
}

/// A key that is more than its character.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Key {
    /// Return.
    Enter,
    /// Escape.
    Escape,
    /// Tab.
    Tab,
    /// Arrows.
    Up,
    /// Arrows.
    Down,
    /// Arrows.
    Left,
    /// Arrows.
    Right,
    /// Control and a letter.
    Ctrl(char),
}

impl Key {
    fn bytes(self) -> Vec<u8> {
        match self {
            Self::Enter => b"\r".to_vec(),
            Self::Escape => b"\x1b".to_vec(),
            Self::Tab => b"\t".to_vec(),
            Self::Up => b"\x1b[A".to_vec(),
            Self::Down => b"\x1b[B".to_vec(),
            Self::Right => b"\x1b[C".to_vec(),
            Self::Left => b"\x1b[D".to_vec(),
            Self::Ctrl(letter) => vec![u8::try_from(letter.to_ascii_lowercase()).unwrap() & 0x1f],
        }
    }
}

impl Terminal {
    /// Runs it in a terminal of 40 lines of 120 columns.
    pub(crate) fn spawn(run: &Run<'_>) -> Self {
        Self::spawn_sized(run, 40, 120)
    }

    /// Runs it in a terminal of that size.
    pub(crate) fn spawn_sized(run: &Run<'_>, rows: u16, cols: u16) -> Self {
        let pair = native_pty_system().openpty(PtySize { rows, cols, pixel_width: 0, pixel_height: 0 }).unwrap();
        let tty = pair.master.tty_name().unwrap();
        keep_output_at_signals(&tty);
        let (program, args, vars, cwd) = run.parts();
        let mut command = CommandBuilder::new(program);
        command.args(args);
        command.env_clear();
        for (name, value) in vars {
            command.env(name, value);
        }
        command.cwd(cwd);
        let shown =
            Arc::new(Mutex::new(Shown { parser: vt100::Parser::new(rows, cols, 1000), raw: Vec::new(), answer: None, closed: false }));
        let keyboard = Arc::new(Mutex::new(pair.master.take_writer().unwrap()));
        let typing = Arc::clone(&keyboard);
        let mut reader = pair.master.try_clone_reader().unwrap();
        let child = pair.slave.spawn_command(command).unwrap();
        let seen = Arc::clone(&shown);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // The read fails when the last process has closed the terminal.
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                let mut shown = seen.lock().unwrap();
                // A question may come in two pieces.
                let from = shown.raw.len().saturating_sub(QUESTION.len() - 1);
                shown.raw.extend_from_slice(&buffer[..count]);
                shown.parser.process(&buffer[..count]);
                let asked = shown.raw[from..].windows(QUESTION.len()).any(|window| window == QUESTION);
                if let Some(answer) = shown.answer.as_ref().filter(|_| asked) {
                    let mut keyboard = typing.lock().unwrap();
                    // It may be closed by now.
                    let _ = keyboard.write_all(answer).and_then(|()| keyboard.flush());
                }
            }
            seen.lock().unwrap().closed = true;
        });
        Self { master: pair.master, keyboard, child, ended: None, ended_at: None, shown, tty }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> i32 {
        self.child.process_id().unwrap().cast_signed()
    }

    /// Types.
    pub(crate) fn type_text(&mut self, text: &str) {
        self.write(text.as_bytes());
    }

    /// Presses a key.
    pub(crate) fn press(&mut self, key: Key) {
        self.write(&key.bytes());
    }

    fn write(&mut self, bytes: &[u8]) {
        let mut keyboard = self.keyboard.lock().unwrap();
        keyboard.write_all(bytes).unwrap();
        keyboard.flush().unwrap();
    }

    /// From now on it answers, as terminals do, when it is asked what it is, and `in_flight` comes before that: what the mouse and the keyboard
    /// sent a moment ago.
    pub(crate) fn answer_as_a_terminal(&self, in_flight: &[u8]) {
        self.shown.lock().unwrap().answer = Some([in_flight, b"\x1b[?62;22c"].concat());
    }

    /// The text on the screen.
    pub(crate) fn screen(&self) -> String {
        self.shown.lock().unwrap().parser.screen().contents()
    }

    /// Every byte it has written so far.
    pub(crate) fn raw(&self) -> Vec<u8> {
        self.shown.lock().unwrap().raw.clone()
    }

    /// Whether the alternate screen, the hidden cursor, bracketed paste or a mouse mode is on.
    pub(crate) fn modes(&self) -> Modes {
        let shown = self.shown.lock().unwrap();
        let screen = shown.parser.screen();
        Modes {
            alternate_screen: screen.alternate_screen(),
            hidden_cursor: screen.hide_cursor(),
            bracketed_paste: screen.bracketed_paste(),
            mouse: screen.mouse_protocol_mode() != vt100::MouseProtocolMode::None,
        }
    }

    /// Waits until the screen shows `text`; returns the screen.
    #[track_caller]
    pub(crate) fn wait_for_text(&mut self, within: Duration, text: &str) -> String {
        self.wait_for_screen(within, text, |screen| screen.contains(text))
    }

    /// Waits until the screen is as wished; returns it. `what` names the wish when it fails.
    #[track_caller]
    pub(crate) fn wait_for_screen(&mut self, within: Duration, what: &str, wished: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + within;
        loop {
            let screen = self.screen();
            if wished(&screen) {
                return screen;
            }
            let late = Instant::now() >= deadline;
            let over = self.shown.lock().unwrap().closed && self.try_wait().is_some();
            assert!(!late && !over, "{what:?} is not shown {}\n{screen}", if over { "and the program has ended" } else { "in time" });
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Gives it another size.
    pub(crate) fn resize(&self, rows: u16, cols: u16) {
        self.shown.lock().unwrap().parser.screen_mut().set_size(rows, cols);
        self.master.resize(PtySize { rows, cols, pixel_width: 0, pixel_height: 0 }).unwrap();
    }

    /// The terminal's attributes now.
    pub(crate) fn termios(&self) -> Termios {
        tcgetattr(open(&self.tty)).unwrap()
    }

    /// The process group in the foreground.
    pub(crate) fn foreground(&self) -> Option<i32> {
        self.master.process_group_leader()
    }

    /// Waits for the program's end, and until what it wrote is on the screen. Death by a signal: see [`ExitStatus::signal`].
    #[track_caller]
    pub(crate) fn wait(&mut self, within: Duration) -> ExitStatus {
        let deadline = Instant::now() + within;
        loop {
            // The terminal closes when nobody holds it any more; a process that outlives the program may do so.
            let settled = self.shown.lock().unwrap().closed || self.ended_at.is_some_and(|at| at.elapsed() > Duration::from_secs(1));
            if let Some(status) = self.try_wait()
                && settled
            {
                return status;
            }
            assert!(Instant::now() < deadline, "still running after {within:?}\n{}", self.screen());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn try_wait(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().unwrap();
            self.ended_at = self.ended.as_ref().map(|_| Instant::now());
        }
        self.ended.clone()
    }
}

/// A typed signal flushes the terminal's output after the signal is sent (`n_tty`, `isig`): what a program prints at once may be thrown
/// away with it. The tests want to see everything that was printed.
fn keep_output_at_signals(tty: &Path) {
    let tty = open(tty);
    let mut modes = tcgetattr(&tty).unwrap();
    modes.local_flags |= LocalFlags::NOFLSH;
    tcsetattr(&tty, SetArg::TCSANOW, &modes).unwrap();
}

/// Opened anew each time: the slave's own handle would keep the terminal from ever closing.
fn open(tty: &Path) -> File {
    File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open(tty).unwrap()
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if self.try_wait().is_none() {
            kill_tree(self.pid());
            let _ = self.child.wait();
        }
    }
}

/// What a full-screen program switches on, and should switch off again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent switches of a terminal")]
pub(crate) struct Modes {
    /// `?1049`.
    pub(crate) alternate_screen: bool,
    /// `?25`.
    pub(crate) hidden_cursor: bool,
    /// `?2004`.
    pub(crate) bracketed_paste: bool,
    /// `?1000` and its kin.
    pub(crate) mouse: bool,
}
