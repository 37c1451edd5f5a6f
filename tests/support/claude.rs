//! The real Claude Code: installed on first use, with a home of its own in which it asks no questions.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::components::{self, NPM};
use super::env::TestEnv;
use super::run::Run;

/// A key in the form of a real one that opens nothing.
pub(crate) const DUMMY_KEY: &str = "sk-ant-api03-sentrely-test-0000000000000000000000";
/// An OAuth access token in the form of a real one that opens nothing.
pub(crate) const DUMMY_OAUTH: &str = "sk-ant-oat01-sentrely-test-0000000000000000000000";

/// An installed version of Claude Code.
#[derive(Debug, Clone)]
pub(crate) struct Claude {
    version: &'static str,
    path: PathBuf,
}

impl Claude {
    /// 2.1.330, the version the facts were measured on. `None`: the calling test is to return, its skip is recorded.
    pub(crate) fn v330() -> Option<Self> {
        Self::version("2.1.330")
    }

    /// 2.1.197, what npm picks with node 20. `None`: the calling test is to return, its skip is recorded.
    pub(crate) fn v197() -> Option<Self> {
        Self::version("2.1.197")
    }

    /// Both versions, as far as they are there.
    pub(crate) fn both() -> Vec<Self> {
        [Self::v330(), Self::v197()].into_iter().flatten().collect()
    }

    /// The program.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// `2.1.330`.
    pub(crate) fn name(&self) -> &'static str {
        self.version
    }

    /// The model it asks for when nothing else is said and a key pays.
    pub(crate) fn default_model(&self) -> &'static str {
        if self.version == "2.1.330" { "claude-opus-5-5" } else { "claude-opus-4-8" }
    }

    /// It, with these arguments, in that world.
    pub(crate) fn command<'e>(&self, env: &'e TestEnv, args: &[&str]) -> Run<'e> {
        env.command(&self.path, args)
    }

    fn version(version: &'static str) -> Option<Self> {
        let dir = components::target_dir().join("claude-code").join(version);
        let path = binary(&dir);
        if !path.is_file() {
            if !components::all_there(&[NPM]) {
                return None;
            }
            if let Err(why) = install(version, &dir) {
                components::skip(&format!("Claude Code {version} cannot be installed: {why}"));
                return None;
            }
        }
        Some(Self { version, path })
    }
}

/// The native program inside an installation. It is started directly: npm 11 and later may refuse to run the install script that
/// links it to where npm's own `claude` expects it.
fn binary(dir: &Path) -> PathBuf {
    let system = if cfg!(target_os = "macos") { "darwin" } else { "linux" };
    let machine = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
    let musl = if cfg!(target_env = "musl") { "-musl" } else { "" };
    dir.join(format!("node_modules/@anthropic-ai/claude-code-{system}-{machine}{musl}/claude"))
}

/// Installs a version; under a lock, since the tests run in several processes, and beside the place it is moved to when complete.
fn install(version: &str, dir: &Path) -> Result<(), String> {
    let said = |error: std::io::Error| error.to_string();
    let parent = dir.parent().ok_or("no parent directory")?;
    std::fs::create_dir_all(parent).map_err(said)?;
    let lock = File::create(parent.join("lock")).map_err(said)?;
    lock.lock().map_err(said)?;
    if binary(dir).is_file() {
        return Ok(());
    }
    let fresh = tempfile::tempdir_in(parent).map_err(said)?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error", "--prefix"]);
    npm.arg(fresh.path()).arg(format!("@anthropic-ai/claude-code@{version}")).current_dir(fresh.path());
    let output = npm.output().map_err(said)?;
    if !output.status.success() || !binary(fresh.path()).is_file() {
        return Err(format!("npm: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()));
    }
    if dir.exists() {
        std::fs::remove_dir_all(dir).map_err(said)?;
    }
    std::fs::rename(fresh.keep(), dir).map_err(said)
}

/// What Claude Code finds in its home.
impl TestEnv {
    /// Answers its first questions beforehand: theme, trust in the project, approval of [`DUMMY_KEY`].
    pub(crate) fn prepare_claude(&self) {
        self.prepare_claude_for(&[self.project()]);
    }

    /// The same, with trust in these directories.
    pub(crate) fn prepare_claude_for(&self, trusted: &[PathBuf]) {
        let trust = |dir: &PathBuf| {
            let project = json!({ "hasTrustDialogAccepted": true, "hasCompletedProjectOnboarding": true, "allowedTools": [] });
            (dir.canonicalize().unwrap().to_str().unwrap().to_owned(), project)
        };
        let projects: serde_json::Map<String, Value> = trusted.iter().map(trust).collect();
        let state = json!({
            "hasCompletedOnboarding": true,
            "lastOnboardingVersion": "2.1.330",
            "theme": "dark",
            "numStartups": 10,
            "installMethod": "native",
            "autoUpdates": false,
            "bypassPermissionsModeAccepted": true,
            "customApiKeyResponses": { "approved": [&DUMMY_KEY[DUMMY_KEY.len() - 20..]], "rejected": [] },
            "projects": projects,
        });
        write_json(&self.home().join(".claude.json"), &state);
    }

    /// Writes the user's `~/.claude/settings.json`.
    pub(crate) fn claude_settings(&self, settings: &Value) {
        write_json(&self.home().join(".claude/settings.json"), settings);
    }

    /// Writes `.claude/settings.json` of the project.
    pub(crate) fn project_claude_settings(&self, settings: &Value) {
        write_json(&self.project().join(".claude/settings.json"), settings);
    }

    /// Logs in with a subscription: `~/.claude/.credentials.json` with [`DUMMY_OAUTH`], valid for a day.
    pub(crate) fn claude_login(&self) {
        let tomorrow = SystemTime::now() + Duration::from_hours(24);
        let expires_at = u64::try_from(tomorrow.duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
        let login = json!({ "claudeAiOauth": {
            "accessToken": DUMMY_OAUTH,
            "refreshToken": "sk-ant-ort01-sentrely-test-0000000000000000000000",
            "expiresAt": expires_at,
            "scopes": ["user:inference", "user:profile"],
            "subscriptionType": "max",
        }});
        write_json(&self.home().join(".claude/.credentials.json"), &login);
    }

    /// The message ids in all transcripts Claude Code wrote, subagents' too.
    pub(crate) fn transcript_message_ids(&self) -> std::collections::BTreeSet<String> {
        let mut dirs = vec![self.home().join(".claude/projects")];
        let mut ids = std::collections::BTreeSet::new();
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    dirs.push(path);
                } else if path.extension().is_some_and(|extension| extension == "jsonl") {
                    let rows = std::fs::read_to_string(path).unwrap();
                    let rows = rows.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
                    let answers = rows.filter(|row| row["type"] == "assistant");
                    ids.extend(answers.filter_map(|row| Some(row["message"]["id"].as_str()?.to_owned())));
                }
            }
        }
        ids
    }
}

/// Whether the screen shows Claude Code's input line, and not the choices of a dialog.
pub(crate) fn at_the_prompt(screen: &str) -> bool {
    let input = screen.lines().find_map(|line| line.strip_prefix('❯'));
    input.is_some_and(|rest| !rest.trim_start().starts_with(|first: char| first.is_ascii_digit()))
}

fn write_json(path: &Path, value: &Value) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, value.to_string()).unwrap();
}
