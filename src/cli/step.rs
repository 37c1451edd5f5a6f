//! The line that shows a step of the start or the end while it takes.
//!
//! It is drawn without filling the terminal's width: a typed Ctrl-C is echoed where the cursor stands, and on a full line that would be the
//! next one, so that what is cleared afterwards would not be the line that was drawn.

use std::io::{self, Write};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// A step that takes less is not worth a line on a terminal; and how often it is drawn.
const TICK: Duration = Duration::from_millis(80);
const FRAMES: [char; 10] = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];

/// A line that is being drawn; dropped, it is cleared.
pub(super) struct StepLine {
    over: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl StepLine {
    /// Draws `what` on stderr, a terminal that can redraw, once it has taken a while.
    pub(super) fn draw(what: &str) -> Self {
        let (over, told) = channel::<()>();
        let text: String = what.chars().take(60).collect();
        let thread = Builder::new().name("step".to_owned()).spawn(move || {
            let mut drawn = false;
            for frame in FRAMES.iter().cycle() {
                match told.recv_timeout(TICK) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
                }
                drawn = true;
                let _ = io::stderr().write_all(format!("\r{frame} {text} ...").as_bytes());
            }
            if drawn {
                let _ = io::stderr().write_all(b"\r\x1b[2K");
            }
        });
        // Without a thread there is no line, and nothing else is missing.
        Self { over: Some(over), thread: thread.ok() }
    }
}

impl Drop for StepLine {
    fn drop(&mut self) {
        drop(self.over.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
