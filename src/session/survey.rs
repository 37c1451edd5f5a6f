//! What wall a session would get on this machine, for `sentrely doctor`.

use std::path::{Path, PathBuf};

use super::claude::places::Places;
use super::environment::{Env, text};
use super::wall::{OPEN_FILES, OPEN_FULL, OPEN_SCOPE, kept_sockets, listed, named_by_variables, tried};
use crate::config::{self, WallMode};
use crate::wall::{Request, Scope, Wall};

/// What was found.
pub struct Survey {
    /// What would be in force.
    pub words: String,
    /// Whether it is the full wall.
    pub full: bool,
    /// What would be hidden, every file and socket of it.
    pub hidden: Vec<PathBuf>,
    /// What would stay open.
    pub open: String,
}

impl Survey {
    /// All of it on one line.
    pub fn tell(&self) -> String {
        let hidden = if self.hidden.is_empty() { "nothing that is there".to_owned() } else { listed(&self.hidden) };
        format!("{}; open: {}; hidden: {hidden}", self.words, self.open)
    }
}

/// Tries the wall out, with no session and no checkout.
pub fn survey(env: &Env, cwd: &Path, wall: &config::Wall, state: &Path) -> Survey {
    let places = Places::new(env, cwd);
    let network = match wall.network {
        config::Network::Open => "the network",
        config::Network::Services => "the hosts of wall.hosts",
    };
    let found = |words: String, full, hidden, open: &str| Survey { words, full, hidden, open: format!("{network}; {open}") };
    if wall.mode == WallMode::Off {
        return found("off (wall.mode)".to_owned(), false, Vec::new(), OPEN_SCOPE);
    }
    let request = Request {
        home: places.home,
        copy_on_write: vec![places.config_dir.clone()],
        state: state.to_owned(),
        hidden: named_by_variables(env, wall),
        runtime_dir: text(env, "XDG_RUNTIME_DIR").map(PathBuf::from),
        cwd: cwd.to_owned(),
        allow_read: wall.allow_read.clone(),
        docker: wall.docker,
        private_tmp: wall.private_tmp,
        kept_sockets: kept_sockets(env, wall),
        ..Request::default()
    };
    let why = match tried(env, &request, wall) {
        Ok(tried) => {
            let rest = "home copy-on-write, credential files and sockets hidden, setuid programs powerless, typing into the terminal and limits of \
                        other processes refused";
            let hidden = tried.hidden().to_vec();
            return if tried.has_scope() {
                found(format!("full: {rest}, signals and tracing kept inside"), true, hidden, OPEN_FULL)
            } else {
                let open = format!("signals to your other processes; {OPEN_FULL}");
                found(format!("full but for signals (Landlock scopes need Linux 6.12): {rest}"), false, hidden, &open)
            };
        }
        Err(refused) => refused,
    };
    match Wall::allow_list(&request, &[places.config_dir], wall.sudo) {
        Ok(lower) => found(format!("degraded ({why}): files by {}", Wall::LOWER), false, lower.hidden().to_vec(), OPEN_FILES),
        Err(_) if Scope::new().is_ok() => found(format!("lowest ({why}): {}", Scope::KEEPS), false, Vec::new(), OPEN_SCOPE),
        Err(_) => found(format!("none ({why}, and no Landlock)"), false, Vec::new(), OPEN_SCOPE),
    }
}
