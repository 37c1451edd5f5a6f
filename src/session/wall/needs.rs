//! What the wall has to know of the machine: what the session works in, what of it is shared, and what is hidden.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::super::claude::places::Places;
use super::super::environment::{Env, text};
use super::super::prepare::Prepared;
use super::super::workplace::Workplace;
use super::super::{RunRequest, same_path};
use crate::config::{self, SecretRef};
use crate::git::Checkout;
use crate::model::Workspace;
use crate::wall::{Over, Request, config_holds_credential, named_by};

/// What there is of Claude Code's that is data and nothing else: the session's is the real one.
const CLAUDE_DATA: [&str; 6] = ["projects", "file-history", "todos", "plans", "tasks", "sessions"];
/// The same, as files: only where they are there already.
const CLAUDE_FILES: [&str; 2] = ["history.jsonl", ".credentials.json"];

/// The client would make these itself, but in the copy.
pub(super) fn make_claude_data(prepared: &Prepared) {
    let dir = config_dir(&prepared.request);
    if prepared.claude.is_some() || dir.is_dir() {
        for name in CLAUDE_DATA {
            use std::os::unix::fs::DirBuilderExt;
            // One that cannot be made is copy-on-write like all else.
            let _ = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir.join(name));
        }
    }
}

pub(super) fn config_dir(request: &RunRequest) -> PathBuf {
    Places::new(&request.env, &request.cwd).config_dir
}

/// What the session needs of the machine; before it is made without its own directory.
pub(super) fn needs(request: &RunRequest, workspace: Workspace, checkout: Option<&Checkout>, workplace: Option<&Workplace>) -> Request {
    let env = &request.env;
    let places = Places::new(env, &request.cwd);
    let state = request.state.path().to_owned();
    let mut read_write: Vec<PathBuf> = CLAUDE_DATA.iter().chain(&CLAUDE_FILES).map(|name| places.config_dir.join(name)).collect();
    read_write.extend(request.config.wall.share.iter().cloned());
    let mut read_only = vec![places.config_dir.join("ide")];
    let repository: Vec<PathBuf> = match checkout {
        Some(checkout) => vec![checkout.root.clone(), checkout.git_dir.clone(), checkout.common_dir.clone()],
        None => around(&request.cwd),
    };
    let mut hidden = named_by_variables(env, &request.config.wall);
    match workspace {
        Workspace::Clone => {
            let configs = repository.iter().map(|dir| dir.join("config")).filter(|config| config_holds_credential(config));
            hidden.extend(configs);
            read_only.extend(outermost(repository));
        }
        // What lies in the checkout is under the clone, what its git has elsewhere is not.
        Workspace::SamePath => {
            let root = checkout.map_or(&request.cwd, |checkout| &checkout.root);
            let elsewhere: Vec<PathBuf> = repository.iter().filter(|dir| !dir.starts_with(root)).cloned().collect();
            hidden.extend(elsewhere.iter().map(|dir| dir.join("config")).filter(|config| config_holds_credential(config)));
            read_only.extend(outermost(elsewhere));
        }
        Workspace::InPlace => read_write.extend(outermost(checkout.map_or(repository, |checkout| around(&checkout.root)))),
        Workspace::None => read_write.extend(outermost(repository)),
    }
    if let (Workspace::Clone | Workspace::SamePath, Some(checkout)) = (workspace, checkout) {
        // A remote that is a folder asks for no credential. Not one that the home, the state or the checkout lie in.
        let remotes = checkout.local_remotes().into_iter().map(|(_, place)| place);
        let around = |place: &PathBuf| [&places.home, &state, &checkout.root].into_iter().any(|inner| inner.starts_with(place));
        read_only.extend(remotes.filter(|place| !around(place)));
    }
    if let Some(SecretRef::File(path)) = &request.config.upstream.api_key {
        hidden.push(path.clone());
    }
    let mut over = None;
    let mut read_only_at = Vec::new();
    let session = workplace.map(|workplace| workplace.dir.path().to_owned());
    if let Some(session) = &session {
        hidden.extend(["lock", "journal.jsonl", "control.sock", "debug.log", "git", "gate.git"].map(|name| session.join(name)));
        match (workspace, checkout, workplace.and_then(|workplace| workplace.copy.as_ref())) {
            (Workspace::SamePath, Some(checkout), Some(copy)) => {
                hidden.extend([session.join("work"), same_path::work(session)]);
                read_only_at.push((checkout.common_dir.join("objects"), same_path::objects(session)));
                over = Some(Over { target: checkout.root.clone(), layer: Some((copy.root.clone(), same_path::work(session))) });
            }
            _ => read_write.push(session.join("work")),
        }
    } else if let (Workspace::SamePath, Some(checkout)) = (workspace, checkout) {
        over = Some(Over { target: checkout.root.clone(), layer: None });
    }
    Request {
        home: places.home,
        copy_on_write: vec![places.config_dir],
        read_only,
        read_write,
        state,
        session,
        hidden,
        runtime_dir: text(env, "XDG_RUNTIME_DIR").map(PathBuf::from),
        cwd: workplace.map_or_else(|| request.cwd.clone(), |workplace| workplace.cwd.clone()),
        allow_read: request.config.wall.allow_read.clone(),
        docker: request.config.wall.docker,
        private_tmp: request.config.wall.private_tmp,
        kept_sockets: kept_sockets(env, &request.config.wall),
        over,
        read_only_at,
    }
}

/// Without those that lie in another one.
fn outermost(mut paths: Vec<PathBuf>) -> Vec<PathBuf> {
    paths.sort();
    let mut kept: Vec<PathBuf> = Vec::new();
    for path in paths {
        if !kept.last().is_some_and(|last| path.starts_with(last)) {
            kept.push(path);
        }
    }
    kept
}

/// The folder as it is: the repository around it if there is one, with what a linked worktree or a submodule has elsewhere.
///
/// An earlier session may have written the `.git` file: it opens only what points back to the folder, or belongs to a repository around it.
fn around(cwd: &Path) -> Vec<PathBuf> {
    let Some(top) = cwd.ancestors().find(|dir| dir.join(".git").exists()) else { return vec![cwd.to_owned()] };
    let mut dirs = vec![top.to_owned()];
    let pointed = fs::read_to_string(top.join(".git")).ok();
    if let Some(dir) = pointed.as_deref().and_then(|text| text.trim().strip_prefix("gitdir: ")) {
        let Ok(git_dir) = top.join(dir).canonicalize() else { return dirs };
        let points_back = || {
            let back = fs::read_to_string(git_dir.join("gitdir")).ok()?;
            git_dir.join(back.trim()).canonicalize().ok()
        };
        let is_worktree = points_back().is_some_and(|back| Some(back) == top.join(".git").canonicalize().ok());
        let around = |dir: &Path| dir.parent().and_then(|dir| dir.join(".git/modules").canonicalize().ok());
        if is_worktree && git_dir.parent().is_some_and(|dir| dir.ends_with("worktrees")) {
            dirs.extend(git_dir.ancestors().nth(2).map(Path::to_owned));
        } else if top.ancestors().filter_map(around).any(|modules| git_dir.starts_with(modules)) {
            dirs.push(git_dir);
        }
    }
    dirs
}

/// The socket that an address in a variable leads to.
fn socket_of(env: &Env, name: &str) -> Option<PathBuf> {
    let address = text(env, name)?;
    let path = address.strip_prefix("unix:path=").or_else(|| address.strip_prefix("unix://"))?;
    path.split(',').next().map(PathBuf::from)
}

/// What stays of the runtime directory and of a `/tmp` that is replaced: docker's sockets, where they are granted, and the X server with the key to
/// it, where that is.
pub(in super::super) fn kept_sockets(env: &Env, wall: &config::Wall) -> Vec<PathBuf> {
    let mut kept = Vec::new();
    if wall.x11 {
        kept.push(PathBuf::from(X_SERVERS));
        kept.extend(text(env, "XAUTHORITY").map(PathBuf::from));
    }
    if wall.docker {
        let runtime = text(env, "XDG_RUNTIME_DIR").map(Path::new);
        kept.extend(runtime.into_iter().flat_map(|dir| ["docker.sock", "podman/podman.sock"].map(|name| dir.join(name))));
        kept.extend(socket_of(env, "DOCKER_HOST"));
    }
    kept
}

/// Where X servers put their sockets.
const X_SERVERS: &str = "/tmp/.X11-unix";

/// Credential files and sockets that the environment names, and the X server.
pub(in super::super) fn named_by_variables(env: &Env, wall: &config::Wall) -> Vec<PathBuf> {
    let path =
        |name: &str| env.get(OsStr::new(name)).filter(|value| !value.is_empty()).map(PathBuf::from).filter(|path| path.is_absolute());
    let mut found: Vec<PathBuf> = [
        "SSH_AUTH_SOCK",
        "AWS_SHARED_CREDENTIALS_FILE",
        "AWS_CONFIG_FILE",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "CLOUDSDK_CONFIG",
        "AZURE_CONFIG_DIR",
        "GH_CONFIG_DIR",
        "NETRC",
        "VAULT_TOKEN_PATH",
        "PGPASSFILE",
    ]
    .into_iter()
    .filter_map(path)
    .collect();
    found.extend(named_by(path));
    found.extend(env.get(OsStr::new("KUBECONFIG")).into_iter().flat_map(std::env::split_paths));
    found.extend(socket_of(env, "DBUS_SESSION_BUS_ADDRESS"));
    if !wall.docker {
        found.extend(socket_of(env, "DOCKER_HOST"));
    }
    // Kerberos tickets: sessions of a login have names that begin with the user's number.
    found.extend(text(env, "KRB5CCNAME").map(|name| PathBuf::from(name.trim_start_matches("FILE:").trim_start_matches("DIR:"))));
    let own = format!("krb5cc_{}", nix::unistd::getuid());
    let tickets = fs::read_dir("/tmp").into_iter().flatten().flatten().filter(|entry| {
        let rest = entry.file_name().to_str().and_then(|name| name.strip_prefix(&own).map(str::to_owned));
        rest.is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_digit()))
    });
    found.extend(tickets.map(|entry| entry.path()));
    found.retain(|path| path.is_absolute());
    if !wall.x11 {
        found.extend(path("XAUTHORITY").or_else(|| path("HOME").map(|home| home.join(".Xauthority"))));
        // Those that are there: the session may start one of its own.
        found.extend(fs::read_dir(X_SERVERS).into_iter().flatten().flatten().map(|entry| entry.path()));
    }
    // Where `actions/checkout` leaves what it pushes with.
    let temp = path("RUNNER_TEMP").and_then(|dir| fs::read_dir(dir).ok());
    let credentials =
        temp.into_iter().flatten().flatten().filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"git-credentials-"));
    found.extend(credentials.map(|entry| entry.path()));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_git_file_opens_only_what_points_back_to_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let (main, tree, foreign) = (root.join("main/.git"), root.join("tree"), root.join("secrets"));
        let own = main.join("worktrees/tree");
        for dir in [&own, &tree, &foreign] {
            fs::create_dir_all(dir).unwrap();
        }
        fs::write(own.join("commondir"), "../..\n").unwrap();
        fs::write(own.join("gitdir"), format!("{}\n", tree.join(".git").display())).unwrap();
        fs::write(tree.join(".git"), format!("gitdir: {}\n", own.display())).unwrap();
        assert_eq!(around(&tree), [tree.clone(), main.clone()]);
        for planted in [&foreign, &main] {
            fs::write(tree.join(".git"), format!("gitdir: {}\n", planted.display())).unwrap();
            assert_eq!(around(&tree), std::slice::from_ref(&tree));
        }
    }
}
