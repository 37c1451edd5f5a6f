//! Words for people: states, durations, times, command lines, and text made safe to print.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{Span, SpanRelativeTo, Timestamp};
use serde::Serialize;

use super::ui::Tone;
use crate::model::SessionState;

/// The name that a value without data has in JSON.
pub fn word<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(other) => other.to_string(),
        Err(_) => String::new(),
    }
}

/// What a state's colour is.
pub const fn tone(state: SessionState) -> Tone {
    match state {
        SessionState::Running => Tone::Good,
        SessionState::Starting | SessionState::Stopping | SessionState::Paused => Tone::Warn,
        SessionState::Crashed => Tone::Bad,
        SessionState::Stopped => Tone::Dim,
    }
}

/// `text` without anything that a terminal would obey: much of what is shown was chosen by the agent.
pub fn clean(text: &str) -> String {
    // Bidirectional overrides reorder what stands around them.
    let unsafe_char = |c: char| c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if unsafe_char(c) { '\u{fffd}' } else { c }).collect()
}

/// At most `width` characters of `text`.
pub fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// A command as one could type it into a shell.
pub fn command_line(words: &[String]) -> String {
    words.iter().map(|word| quoted(&clean(word))).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

/// A moment in the machine's time zone: `2026-11-23 09:00:00`.
pub fn clock(at: Timestamp) -> String {
    at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// How long it is from `then` to `now`: `45s`, `12m`, `3h 05m`, `2d 4h`; nothing less than zero.
pub fn between(then: Timestamp, now: Timestamp) -> String {
    let seconds = u64::try_from(now.as_second() - then.as_second()).unwrap_or(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m"),
        3600..86_400 => format!("{hours}h {:02}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

/// Milliseconds: `0.4 ms`, `212 ms`, `12.3 s`.
pub fn millis(ms: f64) -> String {
    if ms < 10.0 {
        format!("{ms:.1} ms")
    } else if ms < 10_000.0 {
        format!("{ms:.0} ms")
    } else {
        format!("{:.1} s", ms / 1000.0)
    }
}

/// `1 process`, `2 processes`.
pub fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// `1.2M tokens`.
pub fn tokens(count: u64) -> String {
    crate::model::Limit::Tokens(count).to_string()
}

/// Reads `90s`, `10m`, `1h 30m`, `2d` (of 24 hours).
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let malformed = || format!("read `{text}` as a duration: expected something like 90s, 10m or 2h");
    let span: Span = text.trim().parse().map_err(|_| malformed())?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| malformed())?;
    if duration.is_negative() {
        return Err(format!("read `{text}` as a duration: it is negative"));
    }
    if duration.is_zero() {
        return Err(format!("read `{text}` as a duration: it is zero"));
    }
    Duration::try_from(duration).map_err(|_| malformed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_bad_ones_say_what_was_expected() {
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("1h 30m"), Ok(Duration::from_mins(90)));
        assert_eq!(parse_duration("2d"), Ok(Duration::from_hours(48)));
        assert_eq!(parse_duration("-5m"), Err("read `-5m` as a duration: it is negative".to_owned()));
        assert_eq!(parse_duration("0s"), Err("read `0s` as a duration: it is zero".to_owned()));
        for bad in ["", "5", "soon", "5 parsecs", "1mo"] {
            assert!(parse_duration(bad).unwrap_err().contains("expected something like 90s"), "{bad}");
        }
    }

    #[test]
    fn what_a_terminal_would_obey_is_made_visible() {
        assert_eq!(clean("a\u{1b}[2Jb\u{202e}c\n"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}");
    }

    #[test]
    fn a_command_line_can_be_typed_again() {
        let words = ["claude", "-p", "don't stop", ""].map(str::to_owned);
        assert_eq!(command_line(&words), r"claude -p 'don'\''t stop' ''");
    }

    #[test]
    fn spans_are_told_in_two_units_at_most() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let told = [5, 720, 11_100, 187_200].map(|seconds| between(at(0), at(seconds)));
        assert_eq!(told, ["5s", "12m", "3h 05m", "2d 4h"]);
        assert_eq!(between(at(5), at(0)), "0s");
    }
}
