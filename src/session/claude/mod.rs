//! What sentrely injects into Claude Code, and what it reads of it: the program, its arguments, its settings layers, its login,
//! its upstream, its transcripts, and which of them run.
//!
//! Nothing here touches the process environment or writes a file: the environment comes as an [`Env`], the merged settings
//! leave as bytes for the caller to write. Files of the user are read, never edited. The rules were measured on the real
//! client (2.1.330 and 2.1.197, `facts/CLAUDE_CODE.md`); where it differs between versions the stricter reading is taken.

pub mod arguments;
pub mod helper;
pub mod hooks;
pub mod inject;
pub mod login;
mod merge;
mod placeholder;
pub mod places;
pub mod program;
pub mod running;
pub mod schedule;
mod schema;
pub mod settings;
pub mod status_line;
pub mod transcripts;
pub mod trust;
pub mod upstream;

use std::collections::BTreeMap;
use std::ffi::OsString;

/// A process environment, passed as a value.
pub type Env = BTreeMap<OsString, OsString>;

/// The variable as text, when it is set and not empty (Claude Code treats empty as unset).
pub fn variable<'e>(env: &'e Env, name: &str) -> Option<&'e str> {
    env.get(std::ffi::OsStr::new(name)).and_then(|value| value.to_str()).filter(|value| !value.is_empty())
}
