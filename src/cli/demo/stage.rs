//! The demo's temporary world: a home, a repository, a bare origin, a state directory, the simulated upstream.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use tempfile::TempDir;

use crate::model::SessionView;
use crate::simulated::{Answer, Script, Upstream, When};
use crate::store::{SessionDir, StateDir};

/// A key that must never reach the agent: the bait of the demo.
pub(super) const BAIT_AWS_KEY: &str = "AKIADEMODEMODEMODEMO";
/// The model key that must never reach the agent.
pub(super) const BAIT_MODEL_KEY: &str = "sk-ant-demo-0000000000000000000000-not-a-real-key";

/// The temporary world; gone when dropped.
pub(super) struct Stage {
    root: TempDir,
    pub(super) upstream: Upstream,
    pub(super) binary: PathBuf,
}

impl Stage {
    pub(super) fn build() -> anyhow::Result<Self> {
        let root = tempfile::Builder::new().prefix("sentrely-demo-").tempdir().context("make a temporary directory")?;
        let turn = "0.1".parse().context("read the price of a turn")?;
        let script = Script::default().whenever(When::prompt(super::cut::PROMPT), super::cut::long_answer()).otherwise(Answer::turn(turn));
        let upstream = Upstream::start_on_thread(script).context("start the simulated upstream")?;
        let binary = std::env::current_exe().context("find the sentrely binary")?;
        let stage = Self { root, upstream, binary };
        for dir in ["home", "state", "tmp"] {
            fs::create_dir(stage.path(dir)).with_context(|| format!("make {dir}"))?;
        }
        stage.make_repository().context("make the repository (is git installed?)")?;
        Ok(stage)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn make_repository(&self) -> anyhow::Result<()> {
        let (origin, shop) = (self.path("origin.git"), self.path("shop"));
        self.git(self.root.path(), &["init", "-q", "--bare", "-b", "main", &origin.to_string_lossy()])?;
        self.git(self.root.path(), &["init", "-q", "-b", "main", &shop.to_string_lossy()])?;
        self.git(&shop, &["config", "user.name", "Demo Developer"])?;
        self.git(&shop, &["config", "user.email", "demo@example.com"])?;
        fs::write(shop.join("README.md"), "# shop\n").context("write README.md")?;
        self.git(&shop, &["add", "-A"])?;
        self.git(&shop, &["commit", "-q", "-m", "Begin"])?;
        self.git(&shop, &["remote", "add", "origin", &origin.to_string_lossy()])?;
        self.git(&shop, &["push", "-q", "origin", "main"])?;
        Ok(())
    }

    /// Runs git in the temporary world; its output.
    pub(super) fn git(&self, dir: &Path, args: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new("git");
        let output = self.clean(command.args(args).current_dir(dir)).output().context("run git")?;
        if !output.status.success() {
            bail!("git {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// What `reference` of the bare origin points to, if it exists.
    pub(super) fn origin_ref(&self, reference: &str) -> Option<String> {
        self.git(&self.path("origin.git"), &["rev-parse", "--verify", "--quiet", reference]).ok()
    }

    /// The sentrely binary itself, in this world, with the bait in its environment.
    pub(super) fn sentrely(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        self.clean(command.args(args).current_dir(self.path("shop")))
            .env("ANTHROPIC_BASE_URL", self.upstream.url())
            .env("ANTHROPIC_API_KEY", BAIT_MODEL_KEY)
            .env("AWS_ACCESS_KEY_ID", BAIT_AWS_KEY)
            .env("AWS_SECRET_ACCESS_KEY", "demo-secret-that-must-stay-out")
            .stdin(Stdio::null());
        command
    }

    fn clean<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/local/bin:/usr/bin:/bin"));
        command
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.path("home"))
            .env("TMPDIR", self.path("tmp"))
            .env("SENTRELY_STATE_DIR", self.path("state"))
            .env("SENTRELY_WALL_DIR", self.path("layers"))
            .env("USER", "demo")
            .env("LC_ALL", "C")
            .env("GIT_CONFIG_NOSYSTEM", "1")
    }

    /// The session that was started last, once it has a record.
    pub(super) fn newest_session(&self) -> Option<(SessionView, SessionDir)> {
        let state = StateDir::open(&self.path("state")).ok()?;
        let view = state.sessions().ok()?.into_iter().next()?;
        let dir = state.session(view.id);
        Some((view, dir))
    }
}
