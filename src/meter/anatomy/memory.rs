//! The texts of users and of the client: memory files, files that the user named, reminders, and what was really said.
//!
//! All of it stands in texts of user and system messages. They are looked at as they stand in the JSON, with their escapes.

use memchr::memmem;
use serde_json::value::RawValue;

use super::blocks::weight_of;
use super::{Kind, Taking, cut};

/// What the client's own texts begin with.
const REMINDER: &[u8] = b"<system-reminder>";
/// Stands before the memory files.
const MEMORY: &[u8] = b"Codebase and user instructions are shown below.";
/// Begins one memory file: `Contents of /path (project instructions, ..):`.
const CONTENTS: &[u8] = br"\n\nContents of ";
/// Stands behind them on 2.1.197.
const AFTER_MEMORY: &[u8] = br"\n# currentDate\n";
/// A file that the user named with `@`: the call that the client pretends, and its result.
const ATTACHED: &[u8] = b"Called the Read tool with the following input: ";
const ATTACHED_PATH: &[u8] = br#"\"file_path\":\""#;
const ATTACHED_RESULT: &[u8] = br"Result of calling the Read tool:\n";
/// A call with its input is not longer.
const MAX_LINE: usize = 4_096;
/// What a conversation begins with once it was compacted.
const SUMMARY: &[u8] = b"This session is being continued from a previous conversation";
/// What `@` uses.
const READ: &str = "Read";

/// Takes in a text of a message of the user or the system.
pub(super) fn take(taking: &mut Taking<'_>, role: Kind, text: &RawValue) {
    let raw = text.get().as_bytes();
    let inner = raw.strip_prefix(b"\"").and_then(|inner| inner.strip_suffix(b"\"")).unwrap_or(raw);
    let is_reminder = inner.starts_with(REMINDER);
    if is_reminder && memmem::find(inner, MEMORY).is_some() {
        return memory_files(taking, inner);
    }
    if is_reminder || role == Kind::System {
        return reminder(taking, inner);
    }
    let name = if inner.starts_with(SUMMARY) { "summary of what was before" } else { "" };
    taking.add(Kind::User, name, None, weight_of(inner));
}

/// Each file is from its heading to the next.
fn memory_files(taking: &mut Taking<'_>, text: &[u8]) {
    let end = memmem::rfind(text, AFTER_MEMORY).unwrap_or(text.len());
    let starts: Vec<usize> = memmem::find_iter(&text[..end], CONTENTS).collect();
    let mut counted = 0;
    for (at, start) in starts.iter().enumerate() {
        let section = &text[*start..starts.get(at + 1).copied().unwrap_or(end)];
        let heading = &section[CONTENTS.len()..];
        let path = &heading[..memmem::find(heading, b" (").or_else(|| memmem::find(heading, br":\n")).unwrap_or(heading.len().min(200))];
        let bytes = weight_of(section);
        counted += bytes;
        taking.add(Kind::Memory, &readable(path), None, bytes);
    }
    taking.add(Kind::System, "reminders", None, weight_of(text).saturating_sub(counted));
}

/// A text that the client added by itself, files of the user's naming within it taken out.
fn reminder(taking: &mut Taking<'_>, text: &[u8]) {
    let mut rest = weight_of(text);
    let calls: Vec<usize> = memmem::find_iter(text, ATTACHED).collect();
    // The result of a call in the text before.
    rest -= attachment(taking, &text[..calls.first().copied().unwrap_or(text.len())]).min(rest);
    for (number, start) in calls.iter().enumerate() {
        let section = &text[*start..calls.get(number + 1).copied().unwrap_or(text.len())];
        let line = &section[..section.len().min(MAX_LINE)];
        taking.attached = memmem::find(line, ATTACHED_PATH).map(|at| {
            let path = &line[at + ATTACHED_PATH.len()..];
            cut(&readable(&path[..memmem::find(path, br#"\""#).unwrap_or(path.len())]))
        });
        rest -= attachment(taking, section).min(rest);
    }
    taking.add(Kind::System, "reminders", None, rest);
}

/// Takes in the first file's content in the text, if one was announced; returns its bytes.
fn attachment(taking: &mut Taking<'_>, text: &[u8]) -> u64 {
    let Some(content) = memmem::find(text, ATTACHED_RESULT).map(|at| &text[at + ATTACHED_RESULT.len()..]) else { return 0 };
    let Some(path) = taking.attached.take() else { return 0 };
    let bytes = weight_of(&content[..numbered_lines(content)]);
    taking.add(Kind::ToolResult, READ, Some(&path), bytes);
    bytes
}

/// How far the lines go that begin with a number and a tab: so the client writes a file.
fn numbered_lines(text: &[u8]) -> usize {
    let mut at = 0;
    loop {
        let line = &text[at..];
        let digits = line.iter().skip_while(|byte| **byte == b' ').take_while(|byte| byte.is_ascii_digit()).count();
        let blanks = line.iter().take_while(|byte| **byte == b' ').count();
        let after = line.get(blanks + digits..).unwrap_or_default();
        if digits == 0 || !(after.starts_with(br"\t") || after.starts_with("→".as_bytes())) {
            return at;
        }
        match newline(line) {
            Some(end) => at += end + 2,
            None => return text.len(),
        }
    }
}

/// The first escaped newline: a backslash of the text itself stands there twice.
fn newline(raw: &[u8]) -> Option<usize> {
    memmem::find_iter(raw, br"\n").find(|at| raw[..*at].iter().rev().take_while(|byte| **byte == b'\\').count().is_multiple_of(2))
}

/// A path out of raw JSON. What is escaped in it stays so, but for quotes and backslashes.
fn readable(raw: &[u8]) -> String {
    String::from_utf8_lossy(raw).replace(r"\\", r"\")
}
