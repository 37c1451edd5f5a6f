//! Job control and the terminal's state, seen by a real bash on a pseudo terminal.

use std::io::{Read, Write};
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use nix::unistd::Pid;
use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};

use crate::run::{PATIENCE, Place, script};

tests![
    ctrl_z_stops_the_job_and_fg_brings_it_back_in_its_own_mode,
    a_late_sigcont_does_not_undo_the_next_ctrl_z,
    bg_and_then_fg_gives_the_terminal_back,
    a_job_started_in_the_background_gets_the_terminal_on_fg,
    ctrl_c_reaches_the_agent_alone,
    a_clean_exit_leaves_the_terminal_to_the_shell_with_the_agents_code,
    a_killed_agent_leaves_a_terminal_in_order,
    a_killed_supervisor_leaves_a_terminal_in_order,
    a_stopped_session_is_killed_by_its_file_without_fg,
    a_stop_where_no_shell_could_continue_it_does_not_hang,
    an_agent_whose_output_is_piped_does_not_take_the_terminal_from_the_pipes_other_end,
];

/// A terminal with a shell in it.
struct Shell {
    place: Place,
    child: Box<dyn Child + Send + Sync>,
    writer: Arc<Mutex<Box<dyn Write + Send>>>,
    seen: Arc<(Mutex<Seen>, Condvar)>,
    master: Box<dyn MasterPty + Send>,
}

struct Seen {
    text: String,
    /// Up to where `expect` has read.
    read: usize,
    screen: vt100::Parser,
}

impl Shell {
    /// With `r` as the way to start a supervised agent.
    fn new() -> Self {
        let mut bash = CommandBuilder::new("bash");
        bash.args(["--norc", "--noprofile", "-i"]);
        let mut shell = Self::with(bash, Place::new());
        let this = std::env::current_exe().unwrap();
        let tui = script("tui.py");
        shell.line("PS1='PROMPT''> '; bind 'set enable-bracketed-paste off'");
        shell.line(&format!("r() {{ {} supervise {} - \"$@\"; }}", this.display(), shell.place.session().display()));
        shell.line(&format!("tui='python3 {}'; echo SET''UP", tui.display()));
        shell.expect("SETUP");
        shell.expect("PROMPT> ");
        shell
    }

    fn with(mut command: CommandBuilder, place: Place) -> Self {
        command.env("TERM", "xterm-256color");
        let size = PtySize { rows: 24, cols: 200, pixel_width: 0, pixel_height: 0 };
        let pty = native_pty_system().openpty(size).unwrap();
        keep_output_at_signals(pty.master.as_raw_fd().unwrap());
        let child = pty.slave.spawn_command(command).unwrap();
        let writer = Arc::new(Mutex::new(pty.master.take_writer().unwrap()));
        let screen = vt100::Parser::new(24, 200, 0);
        let seen = Arc::new((Mutex::new(Seen { text: String::new(), read: 0, screen }), Condvar::new()));
        let mut reader = pty.master.try_clone_reader().unwrap();
        let (of_reader, answers) = (Arc::clone(&seen), Arc::clone(&writer));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..length]);
                if text.contains("\x1b[c") {
                    // A mouse report that was under way, and the answer that every terminal gives.
                    answers.lock().unwrap().write_all(b"\x1b[<35;10;4M\x1b[?62;22c").unwrap();
                }
                let mut seen = of_reader.0.lock().unwrap();
                seen.text.push_str(&text);
                seen.screen.process(&bytes[..length]);
                of_reader.1.notify_all();
            }
        });
        Self { place, child, writer, seen, master: pty.master }
    }

    fn send(&mut self, bytes: &str) {
        self.writer.lock().unwrap().write_all(bytes.as_bytes()).unwrap();
    }

    fn line(&mut self, line: &str) {
        self.send(&format!("{line}\r"));
    }

    /// Waits for `text` after what was expected last, and returns what came up to its end.
    fn expect(&self, text: &str) -> String {
        let start = Instant::now();
        let mut seen = self.seen.0.lock().unwrap();
        loop {
            if let Some(at) = seen.text[seen.read..].find(text) {
                let end = seen.read + at + text.len();
                let found = seen.text[seen.read..end].to_owned();
                seen.read = end;
                return found;
            }
            let left = PATIENCE.checked_sub(start.elapsed());
            let Some(left) = left else {
                let instead = seen.text[seen.read..].to_owned();
                drop(seen);
                panic!("{text:?} did not come, but {instead:?}; events: {:?}", self.place.events())
            };
            seen = self.seen.1.wait_timeout(seen, left).unwrap().0;
        }
    }

    /// The number in `name=123`, when the next one comes. Ends with a point, so that it is known to be whole.
    fn expect_number(&self, name: &str) -> i32 {
        self.expect(&format!("{name}="));
        self.expect(".").trim_end_matches('.').parse().unwrap()
    }

    fn tui(&mut self, arguments: &str) -> i32 {
        self.line(&format!("r $tui {arguments}"));
        self.expect("TUI-READY");
        self.expect_number("pid")
    }

    /// The shell is back, its terminal in order and nothing typed into it.
    fn expect_order(&mut self) {
        self.line("stty -a | grep -qw -- -icanon && echo R''AW || echo C''OOKED");
        let said = self.expect("COOKED");
        assert!(!said.contains("RAW") && !said.contains("35;10;4M") && !said.contains("62;22c"), "{said:?}");
        let seen = self.seen.0.lock().unwrap();
        let screen = seen.screen.screen();
        assert!(!screen.alternate_screen() && !screen.hide_cursor() && !screen.bracketed_paste());
        assert_eq!(screen.mouse_protocol_mode(), vt100::MouseProtocolMode::None);
    }

    fn pid(&self, who: &str) -> Pid {
        let line = self.place.event("guardian=");
        let found = line.split(' ').find_map(|part| part.strip_prefix(who)?.strip_prefix('='));
        Pid::from_raw(found.unwrap().parse().unwrap())
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        self.place.kill();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A typed signal flushes the terminal's output after the signal is sent (`n_tty`, `isig`): what the agent prints at once may be
/// thrown away with it. The tests want to see everything that was printed.
fn keep_output_at_signals(master: RawFd) {
    // SAFETY: the master is open as long as the pair that lent its number.
    #[expect(unsafe_code, reason = "portable_pty hands out a bare number")]
    let master = unsafe { BorrowedFd::borrow_raw(master) };
    let mut modes = tcgetattr(master).unwrap();
    modes.local_flags |= LocalFlags::NOFLSH;
    tcsetattr(master, SetArg::TCSANOW, &modes).unwrap();
}

fn ctrl_z_stops_the_job_and_fg_brings_it_back_in_its_own_mode() {
    let mut shell = Shell::new();
    shell.tui("");
    for _ in 0..3 {
        shell.send("\x1a");
        shell.expect("Stopped");
        shell.expect("PROMPT> ");
        shell.line("stty -a | grep -qw -- -icanon && echo R''AW || echo C''OOKED");
        assert!(!shell.expect("COOKED").contains("RAW"));
        shell.line("fg");
        shell.expect("TUI-CONTINUED mode=RAW.");
        shell.send("x");
        shell.expect("TUI-KEY 120.");
    }
    shell.send("q");
    shell.expect("PROMPT> ");
    let events = shell.place.events();
    assert_eq!(events[1..7], ["stopped", "continued", "stopped", "continued", "stopped", "continued"]);
    assert_eq!(events[7], "exited code=Some(7) signal=None");
}

/// The guardian passes the SIGCONT of `fg` on, so the supervisor gets it twice, and the second time as late as the machine is busy.
fn a_late_sigcont_does_not_undo_the_next_ctrl_z() {
    let mut shell = Shell::new();
    shell.tui("");
    let pids = shell.place.events().remove(0);
    let supervisor = pids.split_once("supervisor=").unwrap().1.split(' ').next().unwrap().parse().unwrap();
    for _ in 0..10 {
        kill(Pid::from_raw(supervisor), Signal::SIGCONT).unwrap();
        shell.send("\x1a");
        shell.expect("Stopped");
        shell.expect("PROMPT> ");
        shell.line("fg");
        shell.expect("TUI-CONTINUED mode=RAW.");
    }
    shell.send("q");
    shell.expect("PROMPT> ");
    shell.expect_order();
}

fn bg_and_then_fg_gives_the_terminal_back() {
    let mut shell = Shell::new();
    shell.tui("");
    shell.send("\x1a");
    shell.expect("Stopped");
    shell.expect("PROMPT> ");
    // In the background it says that it goes on, then reads, and is stopped for that.
    shell.line("bg");
    shell.place.event("continued");
    shell.expect("TUI-CONTINUED");
    shell.line("while jobs | grep -q Running; do :; done; jobs; echo STOPPED''-AGAIN");
    shell.expect("STOPPED-AGAIN");
    shell.line("fg");
    shell.place.event("continued");
    shell.send("x");
    shell.expect("TUI-KEY 120.");
    shell.send("q");
    shell.expect("PROMPT> ");
    shell.expect_order();
}

fn a_job_started_in_the_background_gets_the_terminal_on_fg() {
    let mut shell = Shell::new();
    shell.line("r bash -c 'read line; echo GOT=$line.' &");
    shell.place.event("stopped");
    shell.line("while jobs | grep -q Running; do :; done; jobs; echo STOPPED''-NOW");
    shell.expect("STOPPED-NOW");
    shell.line("fg");
    shell.place.event("continued");
    shell.line("hello");
    shell.expect("GOT=hello.");
    shell.expect("PROMPT> ");
}

fn ctrl_c_reaches_the_agent_alone() {
    let mut shell = Shell::new();
    // Waits for the signal instead of sleeping: a handler's signal that comes just before the sleep would be seen only after it.
    let waits = "from signal import *; pthread_sigmask(SIG_BLOCK, {SIGINT}); print(\"REA\" \"DY\", flush=True)";
    shell.line(&format!("r python3 -c '{waits}\nwhile sigwait({{SIGINT}}): print(\"TRAP\" \"PED\", flush=True)'"));
    shell.expect("READY");
    shell.send("\x03");
    shell.expect("TRAPPED");
    shell.send("\x03");
    shell.expect("TRAPPED");
    assert_eq!(shell.place.events().len(), 1, "{:?}", shell.place.events());
}

fn a_clean_exit_leaves_the_terminal_to_the_shell_with_the_agents_code() {
    let mut shell = Shell::new();
    shell.tui("");
    shell.send("q");
    shell.expect("PROMPT> ");
    shell.line("echo CODE=$?.");
    shell.expect("CODE=7.");
    shell.expect_order();
}

fn a_killed_agent_leaves_a_terminal_in_order() {
    let mut shell = Shell::new();
    let pid = shell.tui("");
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    shell.expect("PROMPT> ");
    shell.line("echo CODE=$?.");
    shell.expect("CODE=137.");
    shell.expect_order();
}

fn a_killed_supervisor_leaves_a_terminal_in_order() {
    let mut shell = Shell::new();
    shell.tui("");
    kill(shell.pid("supervisor"), Signal::SIGKILL).unwrap();
    shell.expect("guardian: the supervisor died");
    shell.expect("PROMPT> ");
    shell.line("echo CODE=$?.");
    shell.expect("CODE=125.");
    shell.expect_order();
}

fn a_stopped_session_is_killed_by_its_file_without_fg() {
    let mut shell = Shell::new();
    let pid = shell.tui("");
    shell.send("\x1a");
    shell.expect("Stopped");
    shell.expect("PROMPT> ");
    shell.place.kill();
    shell.place.event("ended some=true survivors=[] left=0");
    crate::run::wait_for("the agent to be gone", || crate::run::stat(pid).is_none().then_some(()));
    shell.line("wait; echo WAI''TED");
    shell.expect("WAITED");
    shell.expect_order();
}

fn a_stop_where_no_shell_could_continue_it_does_not_hang() {
    // The supervisor is the terminal's first process, as in a container or in a terminal window of its own.
    let place = Place::new();
    let mut command = CommandBuilder::new(std::env::current_exe().unwrap());
    command.arg("supervise");
    command.arg(place.session());
    command.args(["-", "python3"]);
    command.arg(script("tui.py"));
    let mut shell = Shell::with(command, place);
    shell.expect("TUI-READY");
    shell.send("\x1a");
    shell.expect("TUI-CONTINUED mode=RAW.");
    shell.send("q");
    assert_eq!(shell.child.wait().unwrap().exit_code(), 7);
    drop(shell.master.take_writer());
}

fn an_agent_whose_output_is_piped_does_not_take_the_terminal_from_the_pipes_other_end() {
    let mut shell = Shell::new();
    // The reader at the other end sets the terminal's mode, for which it must be in the foreground.
    shell.line("r sh -c 'echo one; read x </dev/null; echo two' | (stty -echo </dev/tty; stty echo </dev/tty; cat; echo REA''D)");
    shell.expect("two");
    shell.expect("READ");
    shell.expect("PROMPT> ");
    // And one that wants to read from the terminal after all is given it.
    shell.line("r bash -c 'echo ASK >&2; read line; echo GOT=$line.' | cat");
    shell.expect("ASK\r\n");
    shell.line("hello");
    shell.expect("GOT=hello.");
    shell.expect("PROMPT> ");
}
