//! The line that goes on with an ended session, as a person types it.

use std::time::Duration;

use crate::model::{Limit, SessionView, StopReason, Usd, show_time_limit};

/// Goes on with the session, its branch and its budget, with these further flags of `run`. In Claude Code it goes on with the conversation,
/// any other command is run again.
pub fn resume_line(view: &SessionView, flags: &[String], is_claude: bool) -> String {
    let mut words = vec!["sentrely run --resume".to_owned(), view.short_id.clone()];
    if view.stop_reason == Some(StopReason::Killed) {
        words.push("--force".to_owned());
    }
    words.extend_from_slice(flags);
    words.push("--".to_owned());
    words.push(view.command.first().map(|program| shell_word(program)).unwrap_or_default());
    match view.claude_sessions.last().filter(|_| is_claude) {
        Some(session) => words.push(format!("--resume {session}")),
        None => words.extend(view.command.iter().skip(1).map(|word| shell_word(word))),
    }
    words.join(" ")
}

/// The flag for a limit that leaves room again: twice as much, and at least a dollar, 200,000 tokens or 10 requests more.
pub(super) fn more_budget(limit: Limit) -> String {
    format!("--budget {}", raised(limit))
}

/// The flag for twice the time.
pub(super) fn more_time(limit: Duration) -> String {
    format!("--timeout {}", shell_word(&show_time_limit(2 * limit)))
}

fn raised(limit: Limit) -> String {
    match limit {
        Limit::Usd(amount) => format!("{}usd", amount + amount.max(Usd::from_pico(1_000_000_000_000))),
        Limit::Tokens(count) => format!("{}ktok", (count + count.max(200_000)).div_ceil(1_000)),
        Limit::Requests(count) => format!("{}req", count + count.max(10)),
    }
}

/// A word as a shell takes it.
pub(super) fn shell_word(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./=:@%+,".contains(&byte);
    if !word.is_empty() && word.as_bytes().iter().copied().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_the_shell_where_they_must_be() {
        assert_eq!(shell_word("claude"), "claude");
        assert_eq!(shell_word("fix the tests"), "'fix the tests'");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
        assert_eq!(shell_word(""), "''");
    }

    #[test]
    fn a_raised_limit_is_typed_as_it_is_read() {
        let cases = [("0.5usd", "1.5usd"), ("5usd", "10usd"), ("30ktok", "230ktok"), ("2Mtok", "4Mtok"), ("5req", "15req")];
        for (limit, room) in cases {
            assert_eq!(raised(limit.parse().unwrap()).parse::<Limit>(), room.parse(), "{limit}");
        }
    }
}
