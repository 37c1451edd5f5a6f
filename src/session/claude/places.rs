//! Where Claude Code keeps its things, for a given environment and working directory.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::Env;

/// The directories and files the client reads and writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The user's home directory.
    pub home: PathBuf,
    /// `$CLAUDE_CONFIG_DIR`, else `~/.claude`: settings, login file, transcripts.
    pub config_dir: PathBuf,
    /// The working directory the client is started in.
    pub cwd: PathBuf,
    /// The administrator's directory (`managed-settings.json`, `managed-settings.d`).
    pub managed_dir: PathBuf,
    /// The client's own state file: `$CLAUDE_CONFIG_DIR/.claude.json`, else `~/.claude.json`.
    pub state_file: PathBuf,
}

impl Places {
    /// The places for this environment. An environment without `HOME` gives `/`, as the client's own lookup of relative paths would fail as well.
    pub fn new(env: &Env, cwd: &Path) -> Self {
        let set = |name: &str| env.get(OsStr::new(name)).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = set("HOME").unwrap_or_else(|| PathBuf::from("/"));
        let configured = set("CLAUDE_CONFIG_DIR");
        let state_file = configured.clone().unwrap_or_else(|| home.clone()).join(".claude.json");
        let config_dir = configured.unwrap_or_else(|| home.join(".claude"));
        Self { home, config_dir, cwd: cwd.to_path_buf(), managed_dir: managed_dir(), state_file }
    }
}

fn managed_dir() -> PathBuf {
    if cfg!(target_os = "macos") { PathBuf::from("/Library/Application Support/ClaudeCode") } else { PathBuf::from("/etc/claude-code") }
}
