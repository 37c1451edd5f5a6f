//! What can be wrong with a configuration, and where exactly it stands.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Where a value was written. Shown as `file:line:column`, as the variable's or as the flag's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a file; line and column (in characters) count from 1.
    File {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// The column.
        column: usize,
    },
    /// In an environment variable.
    Env(String),
    /// In a flag of the command line.
    Flag(String),
}

/// Why there is no configuration. Nothing has been created when this is returned.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file is there and cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not TOML.
    #[error("read {place}: {message}")]
    Syntax {
        /// Where the parser gave up.
        place: Place,
        /// What it expected.
        message: String,
    },
    /// A key, table or variable that sentrely does not know.
    #[error("read {place}: unknown {what} `{name}`")]
    Unknown {
        /// Where it stands.
        place: Place,
        /// `key`, `table` or `variable`.
        what: &'static str,
        /// As it was written, with the table's name.
        name: String,
        /// The known name that is nearest, if one is near.
        suggestion: Option<String>,
    },
    /// A value of the wrong type or out of range.
    #[error("read {place}: {message}")]
    Invalid {
        /// Where the value stands.
        place: Place,
        /// The dotted key.
        key: &'static str,
        /// What is wrong with it.
        message: String,
        /// What to write instead, if that is clear.
        hint: Option<String>,
    },
    /// The project's file sets what only people and policies may set.
    #[error("read {place}: `{key}` cannot be set by the project, whose file is within the agent's reach")]
    NotForProject {
        /// Where it stands.
        place: Place,
        /// The dotted key.
        key: &'static str,
    },
    /// A role that may not be assumed.
    #[error("read {place}: the role {role} is not in [aws] allowed_roles")]
    RoleNotAllowed {
        /// Where the role is named.
        place: Place,
        /// Its ARN.
        role: String,
        /// Whether the policy set the list, so that the user cannot extend it.
        by_policy: bool,
    },
}

impl ConfigError {
    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown { suggestion: Some(name), .. } => Some(format!("did you mean `{name}`?")),
            Self::Unknown { suggestion: None, .. } => Some("`sentrely config --schema` lists what can be set".to_owned()),
            Self::Invalid { hint, .. } => hint.clone(),
            Self::NotForProject { .. } => Some("set it in ~/.config/sentrely/config.toml, or by a flag".to_owned()),
            Self::RoleNotAllowed { by_policy: true, .. } => Some("ask whoever keeps the policy file, or name another role".to_owned()),
            Self::RoleNotAllowed { role, .. } => Some(format!(
                "if you trust it, add allowed_roles = [\"{role}\"] under [aws] in ~/.config/sentrely/config.toml, or pass --role"
            )),
            Self::Read { .. } | Self::Syntax { .. } => None,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Self::Env(name) | Self::Flag(name) => f.write_str(name),
        }
    }
}

/// `text` with control characters spelled out: a file in the agent's reach must not be able to write on the terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut clean, c| {
        if c.is_control() {
            clean.extend(c.escape_default());
        } else {
            clean.push(c);
        }
        clean
    })
}
