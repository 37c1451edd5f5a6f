//! Words that could not be understood: clap's errors in our form, with an exit code that depends on the command.
//!
//! `run` passes on the exit codes of what it runs, so its own usage errors are 125; all other commands use 2 as everybody does.

use std::error::Error;
use std::ffi::OsString;

use anyhow::anyhow;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::failure::{EXIT_USAGE, Failure};
use crate::model::EXIT_FAILED_PROMISE;

/// Shows help where that is what the error is; any other error becomes a failure.
pub(super) fn judge(error: &clap::Error, words: &[OsString]) -> Result<(), Failure> {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A reader that went away (`| head`) is not an error.
            let _ = error.print();
            Ok(())
        }
        _ => Err(failure(error, words)),
    }
}

fn failure(error: &clap::Error, words: &[OsString]) -> Failure {
    // No option before the command takes a value, so the first word that is no option is the command.
    let command = words.iter().skip(1).map(|word| word.to_string_lossy()).find(|word| !word.starts_with('-'));
    let is_run = command.as_deref() == Some("run");
    let code = if is_run { EXIT_FAILED_PROMISE } else { EXIT_USAGE };
    let help = match command.filter(|_| error.kind() != ErrorKind::InvalidSubcommand) {
        Some(command) => format!("`sentrely {command} --help` lists what it takes"),
        None => "`sentrely --help` lists the commands".to_owned(),
    };
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        super::ui::say(&error.render().ansi().to_string());
        return Failure { code, error: anyhow!("do anything: no command was given"), hint: None };
    }
    if is_run && error.kind() == ErrorKind::MissingRequiredArgument {
        let hint = "say what to run after two dashes: sentrely run -- claude".to_owned();
        return Failure { code, error: anyhow!("start a session: no command was given"), hint: Some(hint) };
    }
    if is_run && error.kind() == ErrorKind::UnknownArgument && words.iter().all(|word| word != "--") {
        let what = option(error).unwrap_or_default();
        if !what.starts_with('-') {
            let hint = format!("put two dashes before the command: sentrely run -- {what} ...");
            return Failure { code, error: anyhow!("understand the command line: `{what}` stands before the dashes"), hint: Some(hint) };
        }
    }
    if error.kind() == ErrorKind::ValueValidation
        && let Some(why) = error.source()
    {
        let error = match option(error) {
            Some(option) => anyhow!("understand {option}: {why}"),
            None => anyhow!("{why}"),
        };
        return Failure { code, error, hint: Some(help) };
    }
    let (message, tips) = read_rendered(&error.render().to_string());
    let hint = if tips.is_empty() { help } else { format!("{}; {help}", tips.join("; ")) };
    Failure { code, error: anyhow!("understand the command line: {message}"), hint: Some(hint) }
}

/// The option that a value was for: `--budget`.
fn option(error: &clap::Error) -> Option<String> {
    match error.get(ContextKind::InvalidArg)? {
        ContextValue::String(shown) => shown.split_whitespace().next().map(str::to_owned),
        _ => None,
    }
}

/// clap's text without its frame: the message on one line, and its tips.
fn read_rendered(text: &str) -> (String, Vec<String>) {
    let body = text.strip_prefix("error: ").unwrap_or(text);
    let body = body.split("\n\nUsage:").next().unwrap_or(body);
    let body = body.split("\n\nFor more information").next().unwrap_or(body);
    let (tips, message): (Vec<&str>, Vec<&str>) =
        body.lines().map(str::trim).filter(|line| !line.is_empty()).partition(|line| line.starts_with("tip: "));
    let tips = tips.iter().map(|tip| tip.trim_start_matches("tip: ").to_owned());
    // How to pass a misspelt option as a value helps nobody.
    (message.join(" "), tips.filter(|tip| !tip.starts_with("to pass ")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_that_clap_puts_around_its_message_is_taken_off() {
        let text = "error: unexpected argument '--jsn' found\n\n  tip: a similar argument exists: '--json'\n\nUsage: sentrely ls --json\n\nFor more information, try '--help'.\n";
        let (message, tips) = read_rendered(text);
        assert_eq!(message, "unexpected argument '--jsn' found");
        assert_eq!(tips, ["a similar argument exists: '--json'"]);
    }
}
