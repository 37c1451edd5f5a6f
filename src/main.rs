//! The program in small: read the words, do what they ask, say what failed.

use std::process::ExitCode;

use sentrely::cli::{Cli, statusline, ui};

fn main() -> ExitCode {
    // Claude Code runs it every few seconds: the rest of the program is not woken for it.
    if let Some(code) = statusline::run(std::env::args_os()) {
        return ExitCode::from(code);
    }
    let code = match Cli::read(std::env::args_os()).and_then(|asked| asked.map_or(Ok(0), Cli::perform)) {
        Ok(code) => code,
        Err(failure) => {
            ui::report(&failure);
            failure.code
        }
    };
    ExitCode::from(code)
}
