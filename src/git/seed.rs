//! What a fresh clone is given: objects by alternates, refs, a little configuration, hooks. And the collector beside it.
//!
//! Everything here happens before the agent has seen the clone, except [`renew_config`], which puts a new file in the place of one.

use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use git2::{Config, Repository, RepositoryInitOptions};

use super::checkout::Target;
use super::cli::{Git, REMOTE};
use super::settle::settle;
use super::within::Within;
use super::{Checkout, GitError, Oddity, filters};

/// Keys that may come along from the developer's own configuration file: none of them runs anything.
const SAFE_KEYS: [&str; 8] =
    ["user.name", "user.email", "core.autocrlf", "core.eol", "core.safecrlf", "core.longpaths", "pull.rebase", "i18n.commitencoding"];
/// Keys by which a repository says how its file system behaves: the collector must agree with the clone.
const FILE_SYSTEM_KEYS: [&str; 7] =
    ["core.filemode", "core.symlinks", "core.ignorecase", "core.precomposeunicode", "core.autocrlf", "core.eol", "core.safecrlf"];
const MOST_HOOK_FILES: usize = 2000;
/// A configuration file has a few kilobytes.
const LARGEST_CONFIG: u64 = 1024 * 1024;
const INCLUDE: &[u8] = b"[include";
const FIRST_CONFIG: &str = "config.first";

/// An empty repository with HEAD on `branch`. No templates: they could hold hooks that nobody asked for.
pub(super) fn init(checkout: &Checkout, root: &Path, branch: &str) -> Result<(), GitError> {
    if checkout.library_can_open() {
        let mut options = RepositoryInitOptions::new();
        options.external_template(false).no_reinit(true);
        Repository::init_opts(root, &options).map_err(GitError::library(format!("create {}", root.display())))?;
    } else {
        let format = format!("--object-format={}", object_format(checkout));
        checkout.git(format!("create {}", root.display())).args(["init", "--quiet", "--template=", &format]).args([root]).output()?;
    }
    write(&root.join(".git/HEAD"), format!("ref: refs/heads/{branch}\n").as_bytes())
}

/// Objects of the developer's repository by reference; and what belongs to them.
pub(super) fn share_objects(checkout: &Checkout, git_dir: &Path) -> Result<(), GitError> {
    let info = git_dir.join("info");
    fs_err::create_dir_all(&info).map_err(GitError::io("create", &info))?;
    lend_objects(git_dir, &[&checkout.common_dir.join("objects")])?;
    copy_if_there(&checkout.common_dir.join("shallow"), &git_dir.join("shallow"))?;
    for file in ["exclude", "attributes"] {
        copy_if_there(&checkout.common_dir.join("info").join(file), &info.join(file))?;
    }
    copy_if_there(&checkout.git_dir.join("info/sparse-checkout"), &info.join("sparse-checkout"))
}

/// Lets the repository at `git_dir` read the objects in `stores`.
pub(super) fn lend_objects(git_dir: &Path, stores: &[&Path]) -> Result<(), GitError> {
    let info = git_dir.join("objects/info");
    fs_err::create_dir_all(&info).map_err(GitError::io("create", &info))?;
    let mut lines = Vec::new();
    for store in stores {
        lines.extend_from_slice(store.as_os_str().as_encoded_bytes());
        lines.push(b'\n');
    }
    write(&info.join("alternates"), &lines)
}

/// All refs at once: as a `packed-refs` file, which every git reads, whatever the number.
pub(super) fn write_refs(git_dir: &Path, refs: &[(String, Target)]) -> Result<(), GitError> {
    let mut ids: Vec<_> =
        refs.iter().filter_map(|(name, target)| if let Target::Id(id) = target { Some((name, id)) } else { None }).collect();
    ids.sort();
    let mut packed = String::new();
    for (name, id) in ids {
        packed.extend([id, " ", name, "\n"]);
    }
    write(&git_dir.join("packed-refs"), packed.as_bytes())?;
    for (name, target) in refs {
        let Target::Symbolic(target) = target else { continue };
        let path = git_dir.join(name);
        if let Some(parent) = path.parent() {
            fs_err::create_dir_all(parent).map_err(GitError::io("create", parent))?;
        }
        write(&path, format!("ref: {target}\n").as_bytes())?;
    }
    Ok(())
}

/// The clone's configuration file: the safe part of the developer's, and no credential.
pub(super) fn configure(checkout: &Checkout, git_dir: &Path, notices: &mut Vec<String>) -> Result<(), GitError> {
    let file = git_dir.join("config");
    let mut config = open_config(&file)?;
    let mut set =
        |key: &str, value: &str| config.set_str(key, value).map_err(GitError::library(format!("set {key} in {}", file.display())));
    for key in SAFE_KEYS {
        if let Some(value) = checkout.config_text(key) {
            set(key, &value)?;
        }
    }
    set("push.autoSetupRemote", "true")?; // a plain `git push` goes to the session's branch
    if is_true(checkout.config_text("commit.gpgsign")) {
        notices.push("commits of the session are not signed (commit.gpgsign is off in it)".to_owned());
    }
    // Signing would ask for the developer's key, and a signed push needs a server that takes certificates.
    for key in ["commit.gpgsign", "tag.gpgsign", "push.gpgsign"] {
        set(key, "false")?;
    }
    if checkout.oddities.contains(&Oddity::Sparse) {
        set("core.sparseCheckout", "true")?;
        if let Some(value) = checkout.config_text("core.sparsecheckoutcone") {
            set("core.sparseCheckoutCone", &value)?;
        }
    }
    for (key, value) in filter_drivers(checkout)? {
        set(&key, &value)?;
    }
    Ok(())
}

/// Makes the gate the clone's only remote URL, and sees that no credential helper is asked for it.
pub(super) fn point_at_gate(file: &Path, remote: &str, gate_url: Option<&str>) -> Result<(), GitError> {
    let mut config = open_config(file)?;
    let failed = |key: &str| GitError::library(format!("set {key} in {}", file.display()));
    let Some(url) = gate_url else {
        for key in ["url", "pushurl"] {
            let key = format!("remote.{remote}.{key}");
            if config.get_entry(&key).is_ok() {
                config.remove_multivar(&key, ".*").map_err(failed(&key))?;
            }
        }
        return Ok(());
    };
    let fetch = format!("+refs/heads/*:refs/remotes/{remote}/*");
    // proxy: an HTTP_PROXY of the environment must not stand between the clone and the loopback.
    for (key, value) in [("url", url), ("pushurl", url), ("fetch", &fetch), ("proxy", "")] {
        let key = format!("remote.{remote}.{key}");
        if config.get_entry(&key).is_ok() {
            config.remove_multivar(&key, ".*").map_err(failed(&key))?;
        }
        config.set_str(&key, value).map_err(failed(&key))?;
    }
    // Before what the project's .lfsconfig says: the server that it names asks for a credential. The gate keeps no locks.
    let lfs = format!("{url}/info/lfs");
    for (key, value) in [("lfs.url".to_owned(), lfs.as_str()), (format!("lfs.{lfs}.locksverify"), "false")] {
        config.set_str(&key, value).map_err(failed(&key))?;
    }
    config.set_str("credential.helper", "").map_err(failed("credential.helper")) // empty: forgets every helper named before
}

/// Keeps a fresh clone's configuration where no agent reaches it, for [`renew_config`].
pub(super) fn keep_config(git_dir: &Path, state: &Path) -> Result<(), GitError> {
    copy_if_there(&git_dir.join("config"), &state.join(FIRST_CONFIG))
}

/// As [`point_at_gate`], in a clone that an agent had. libgit2 would follow a link in the file's place, and whatever the file includes: so
/// a copy of ours is edited, and put in its place. What the agent set stays; `false` if it could not be read plainly, and the
/// configuration is as it was in the beginning.
pub(super) fn renew_config(git_dir: &Path, state: &Path, remote: &str, gate_url: Option<&str>) -> Result<bool, GitError> {
    let within = Within::open(git_dir)?;
    let fresh = state.join("config.new");
    let renewed = |content: &[u8]| {
        write(&fresh, content)?;
        point_at_gate(&fresh, remote, gate_url)?;
        fs_err::read(&fresh).map_err(GitError::io("read", &fresh))
    };
    let theirs = within.read("config", LARGEST_CONFIG).ok().flatten().filter(|content| !includes_others(content));
    let (content, kept) = if let Some(content) = theirs.and_then(|content| renewed(&content).ok()) {
        (content, true)
    } else {
        let first = state.join(FIRST_CONFIG);
        (renewed(&fs_err::read(&first).map_err(GitError::io("read", &first))?)?, false)
    };
    within.replace("config", &content)?;
    let _ = fs_err::remove_file(&fresh);
    Ok(kept)
}

/// Whether a configuration may lead to other files. In doubt it does.
fn includes_others(content: &[u8]) -> bool {
    content.to_ascii_lowercase().windows(INCLUDE.len()).any(|part| part == INCLUDE)
}

/// Files of the branch, by git with every hook and every filter switched off: `state` is where filters are run. (libgit2 takes three times
/// the CPU for it, and knows no filter.)
pub(super) fn check_out(checkout: &Checkout, root: &Path, branch: &str, state: &Path, notices: &mut Vec<String>) -> Result<(), GitError> {
    let doing = format!("check out {branch}");
    let promisor = promisor(checkout);
    if let Some(promisor) = &promisor {
        promise(&root.join(".git/config"), promisor, &checkout.config_text(&format!("remote.{promisor}.url")).unwrap_or_default())?;
    }
    let begun = SystemTime::now();
    let by_git = || {
        let git = Git::new(doing, &checkout.env, root).args(["-c", "core.hooksPath=/dev/null", "-c", "advice.detachedHead=false"]);
        let git = git.args(["-c", "core.fsmonitor=false", "-c", "submodule.recurse=false"]);
        git.args(["checkout", "--quiet", "--force", branch, "--"]).within(REMOTE).output().map(drop)
    };
    let rewritten = if checkout.needs_git() {
        filters::smudge(checkout, root, state, notices, by_git)?
    } else {
        filters::without(root, by_git).map(|()| Vec::new())?
    };
    settle(root, begun, &rewritten);
    Ok(())
}

/// The remote of a partial clone that has the objects which are not here.
fn promisor(checkout: &Checkout) -> Option<String> {
    if !checkout.oddities.contains(&Oddity::Partial) {
        return None;
    }
    let named = checkout.config_text("extensions.partialclone");
    named.or_else(|| checkout.remote().map(|remote| remote.name))
}

/// Lets git fetch what is missing, when it needs it, from `url`. A clone's files come from the remote itself, by the developer's git; from
/// then on the gate stands there.
pub(super) fn promise(file: &Path, remote: &str, url: &str) -> Result<(), GitError> {
    let mut config = open_config(file)?;
    let keys = [
        ("core.repositoryformatversion".to_owned(), "1"),
        ("extensions.partialClone".to_owned(), remote),
        (format!("remote.{remote}.promisor"), "true"),
        (format!("remote.{remote}.partialclonefilter"), "blob:none"),
        (format!("remote.{remote}.url"), url),
    ];
    for (key, value) in keys {
        config.set_str(&key, value).map_err(GitError::library(format!("set {key} in {}", file.display())))?;
    }
    Ok(())
}

/// The developer's hooks (husky, pre-commit, lefthook), so that the agent's commits meet the project's checks.
pub(super) fn copy_hooks(checkout: &Checkout, root: &Path, notices: &mut Vec<String>) -> Result<(), GitError> {
    let mut left = MOST_HOOK_FILES;
    match checkout.config_text("core.hookspath").map(PathBuf::from) {
        None => copy_tree(&checkout.common_dir.join("hooks"), &root.join(".git/hooks"), &mut left)?,
        Some(path) if path.is_relative() && path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) => {
            let file = root.join(".git/config");
            let text = path.to_string_lossy();
            open_config(&file)?
                .set_str("core.hooksPath", &text)
                .map_err(GitError::library(format!("set core.hooksPath in {}", file.display())))?;
            // Tracked hooks are there already; generated ones (husky's `_`) are not.
            copy_tree(&checkout.root.join(&path), &root.join(&path), &mut left)?;
        }
        // An absolute path works from the clone as well if it stands in a global file; a local one is the checkout's own affair.
        Some(_) => {}
    }
    if left == 0 {
        notices.push("not all git hooks were copied: there are too many files beside them".to_owned());
    }
    Ok(())
}

/// The supervisor's bare repository beside the clone. Written by hand: a repository is four files, and no git needs to agree.
pub(super) fn make_collector(checkout: &Checkout, collector: &Path, clone_git_dir: &Path) -> Result<(), GitError> {
    if collector.join("HEAD").is_file() {
        return Ok(()); // a clone that was made again keeps what was collected before
    }
    bare_repository(checkout, collector)?;
    let clone = open_config(&clone_git_dir.join("config"))?.snapshot().map_err(GitError::library("read the clone's configuration"))?;
    let file = collector.join("config");
    let mut config = open_config(&file)?;
    let mut set =
        |key: &str, value: &str| config.set_str(key, value).map_err(GitError::library(format!("set {key} in {}", file.display())));
    for key in FILE_SYSTEM_KEYS {
        if let Ok(value) = clone.get_str(key) {
            set(key, value)?;
        }
    }
    lend_objects(collector, &[&checkout.common_dir.join("objects")])
}

/// An empty bare repository of the same object format as the developer's, with the same shallow boundary and excludes.
pub(super) fn bare_repository(checkout: &Checkout, at: &Path) -> Result<(), GitError> {
    for directory in ["objects/info", "objects/pack", "refs/heads", "refs/tags", "info", "hooks"] {
        let directory = at.join(directory);
        fs_err::create_dir_all(&directory).map_err(GitError::io("create", &directory))?;
    }
    let sha256 = object_format(checkout) == "sha256";
    let format = if sha256 {
        "\trepositoryformatversion = 1\n\tbare = true\n[extensions]\n\tobjectformat = sha256\n"
    } else {
        "\trepositoryformatversion = 0\n\tbare = true\n"
    };
    write(&at.join("config"), format!("[core]\n{format}").as_bytes())?;
    copy_if_there(&checkout.common_dir.join("shallow"), &at.join("shallow"))?;
    copy_if_there(&checkout.common_dir.join("info/exclude"), &at.join("info/exclude"))?;
    // Last: its presence says that the rest is there.
    write(&at.join("HEAD"), b"ref: refs/heads/main\n")
}

pub(super) fn object_format(checkout: &Checkout) -> &'static str {
    if checkout.oddities.contains(&Oddity::Sha256) { "sha256" } else { "sha1" }
}

pub(super) fn open_config(file: &Path) -> Result<Config, GitError> {
    Config::open(file).map_err(GitError::library(format!("read {}", file.display())))
}

pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), GitError> {
    fs_err::write(path, bytes).map_err(GitError::io("write", path))
}

/// Filters that the developer's *repository* configures (git-crypt); global ones apply by themselves.
fn filter_drivers(checkout: &Checkout) -> Result<Vec<(String, String)>, GitError> {
    if !checkout.oddities.contains(&Oddity::Filters) {
        return Ok(Vec::new());
    }
    let config = open_config(&checkout.common_dir.join("config"))?;
    let mut found = Vec::new();
    let mut entries = config.entries(Some("filter\\..*")).map_err(GitError::library("read filters"))?;
    while let Some(entry) = entries.next() {
        if let Ok(entry) = entry
            && let (Ok(name), Ok(value)) = (entry.name(), entry.value())
        {
            found.push((name.to_owned(), value.to_owned()));
        }
    }
    Ok(found)
}

fn is_true(value: Option<String>) -> bool {
    value.is_some_and(|value| matches!(value.to_ascii_lowercase().as_str(), "true" | "yes" | "on" | "1"))
}

fn copy_if_there(from: &Path, to: &Path) -> Result<(), GitError> {
    if from.is_file() {
        fs_err::copy(from, to).map_err(GitError::io("copy", from))?;
    }
    Ok(())
}

fn copy_tree(from: &Path, to: &Path, left: &mut usize) -> Result<(), GitError> {
    let Ok(entries) = fs_err::read_dir(from) else { return Ok(()) };
    for entry in entries.flatten() {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let is_sample = source.extension().is_some_and(|extension| extension == "sample");
        if is_sample || *left == 0 || target.exists() {
            continue;
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            copy_tree(&source, &target, left)?;
        } else if source.is_file() {
            *left -= 1;
            fs_err::create_dir_all(to).map_err(GitError::io("create", to))?;
            fs_err::copy(&source, &target).map_err(GitError::io("copy", &source))?;
        }
    }
    Ok(())
}
