//! What of a home directory and a machine is nobody's business in a session: credential files, and sockets of programs that act with the
//! user's rights.
//!
//! The list is finite: what it does not name can be read. Three formats are read themselves: without a secret in it such a file is left alone.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Below the home directory; files and directories alike.
const IN_HOME: &[&str] = &[
    // git and forges
    ".git-credentials",
    ".config/git/credentials",
    ".netrc",
    "_netrc",
    ".config/gh",
    ".config/glab-cli",
    ".config/hub",
    ".config/tea",
    // clouds and clusters
    ".aws",
    ".azure",
    ".config/gcloud",
    ".kube",
    ".oci",
    ".config/doctl",
    ".config/scw",
    ".config/hcloud",
    ".config/linode-cli",
    ".config/fly",
    ".fly",
    ".config/netlify",
    ".netlify",
    ".vercel",
    ".local/share/com.vercel.cli",
    ".config/.wrangler",
    ".wrangler",
    ".config/configstore",
    ".config/heroku",
    ".databrickscfg",
    ".snowflake",
    ".boto",
    ".s3cfg",
    ".s3cmd",
    ".config/rclone",
    ".mc",
    ".terraform.d/credentials.tfrc.json",
    ".terraformrc",
    ".pulumi/credentials.json",
    ".config/stripe",
    ".config/ngrok",
    ".ngrok2",
    ".config/sops",
    ".config/age",
    ".age",
    ".vault-token",
    // package registries
    ".pypirc",
    ".cargo/credentials",
    ".cargo/credentials.toml",
    ".gem/credentials",
    ".config/composer/auth.json",
    ".composer/auth.json",
    ".m2/settings.xml",
    ".m2/settings-security.xml",
    ".config/containers/auth.json",
    ".nuget/NuGet/NuGet.Config",
    ".config/NuGet/NuGet.Config",
    ".yarnrc.yml",
    // databases
    ".pgpass",
    ".my.cnf",
    ".mylogin.cnf",
    ".config/redis",
    ".dbshell",
    // keys, password stores, browsers
    ".gnupg/private-keys-v1.d",
    ".gnupg/secring.gpg",
    ".password-store",
    ".local/share/keyrings",
    ".local/share/kwalletd",
    ".config/op",
    ".1password",
    ".config/Bitwarden",
    ".config/Bitwarden CLI",
    ".config/keepassxc",
    ".mozilla",
    ".thunderbird",
    ".config/google-chrome",
    ".config/google-chrome-beta",
    ".config/chromium",
    ".config/BraveSoftware",
    ".config/microsoft-edge",
    ".config/vivaldi",
    ".config/opera",
    ".electrum",
    ".bitcoin",
    ".ethereum",
    ".config/solana",
    // other assistants and chat
    ".codex/auth.json",
    ".gemini/oauth_creds.json",
    ".config/github-copilot",
    ".config/Slack",
    ".config/discord",
    ".config/Signal",
    ".huggingface/token",
    ".cache/huggingface/token",
    ".config/openai",
];

/// Of known format, left alone while no secret is in them.
const OF_KNOWN_FORMAT: &[&str] = &[".npmrc", ".config/pip/pip.conf", ".pip/pip.conf", ".docker/config.json"];

/// Folders of the lists above that a variable may put elsewhere.
const MOVED: [(&str, &str); 10] = [
    ("XDG_CONFIG_HOME", ".config"),
    ("XDG_DATA_HOME", ".local/share"),
    ("XDG_CACHE_HOME", ".cache"),
    ("CARGO_HOME", ".cargo"),
    ("CODEX_HOME", ".codex"),
    ("COMPOSER_HOME", ".config/composer"),
    ("DOCKER_CONFIG", ".docker"),
    ("GNUPGHOME", ".gnupg"),
    ("HF_HOME", ".cache/huggingface"),
    ("PULUMI_HOME", ".pulumi"),
];

/// Files that a variable names, with the name that tells their format, if that is known.
const NAMED: [(&str, &str); 8] = [
    ("NPM_CONFIG_USERCONFIG", ".npmrc"),
    ("npm_config_userconfig", ".npmrc"),
    ("PIP_CONFIG_FILE", "pip.conf"),
    ("BOTO_CONFIG", ""),
    ("HF_TOKEN_PATH", ""),
    ("REGISTRY_AUTH_FILE", ""),
    ("TF_CLI_CONFIG_FILE", ""),
    ("MYSQL_TEST_LOGIN_FILE", ""),
];

/// Sockets that make whoever reaches them root.
pub(super) const DOCKER_SOCKETS: &[&str] = &[
    "/run/docker.sock",
    "/var/run/docker.sock",
    "/run/containerd/containerd.sock",
    "/run/podman/podman.sock",
    "/run/crio/crio.sock",
    "/run/buildkit/buildkitd.sock",
    "/run/k3s/containerd/containerd.sock",
    "/var/lib/incus/unix.socket",
    "/var/lib/lxd/unix.socket",
    "/var/snap/lxd/common/lxd/unix.socket",
    "/run/libvirt",
];

/// Sockets of the system's managers.
const SYSTEM_SOCKETS: &[&str] =
    &["/run/dbus/system_bus_socket", "/run/systemd/private", "/run/snapd.socket", "/run/fwupd", "/run/cloud-init"];

/// What of a public kind lies beside the keys in `~/.ssh`.
fn is_public(name: &str) -> bool {
    matches!(name, "config" | "authorized_keys" | "environment" | "rc")
        || name.starts_with("known_hosts")
        || Path::new(name).extension().is_some_and(|ext| ext == "pub")
}

/// The files and directories of the list that are there, without those in `allowed`.
pub(super) fn files(home: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = IN_HOME.iter().map(|name| home.join(name)).filter(|path| path.symlink_metadata().is_ok()).collect();
    found.extend(OF_KNOWN_FORMAT.iter().map(|name| home.join(name)).filter(|path| holds_secret(path, path)));
    found.extend(keys(&home.join(".ssh")));
    found
}

/// Those that lie where a variable says: `variable` gives its value, if that is an absolute path.
pub fn named_by(variable: impl Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for (name, usual) in MOVED {
        let Some(folder) = variable(name) else { continue };
        let below = |name: &&str| Path::new(name).strip_prefix(usual).ok().map(|rest| folder.join(rest));
        found.extend(IN_HOME.iter().filter_map(below).filter(|path| path.symlink_metadata().is_ok()));
        found.extend(OF_KNOWN_FORMAT.iter().filter_map(below).filter(|path| holds_secret(path, path)));
    }
    for (name, format) in NAMED {
        // Often it is /dev/null.
        let Some(file) = variable(name).filter(|path| path.is_file()) else { continue };
        found.extend(Some(file).filter(|file| format.is_empty() || holds_secret(file, Path::new(format))));
    }
    found
}

/// Whether there is such a file, and it is not known to be free of secrets: what cannot be read as text is not.
fn holds_secret(path: &Path, format: &Path) -> bool {
    match fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Ok(content) => std::str::from_utf8(&content).map_or(true, |text| redacted(format, text).is_none_or(|redacted| redacted != text)),
        Err(_) => true,
    }
}

fn keys(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let secret = |entry: &fs::DirEntry| {
        let (Ok(kind), name) = (entry.file_type(), entry.file_name()) else { return false };
        // Multiplexing sockets are logged in already.
        let looked_at = kind.is_file() || kind.is_symlink() || kind.is_socket();
        looked_at && !name.to_str().is_some_and(is_public)
    };
    entries.flatten().filter(secret).map(|entry| entry.path()).collect()
}

/// Sockets of the machine that are there and listen for more than one program's orders, docker's apart.
pub(super) fn sockets(user: u32) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = SYSTEM_SOCKETS.iter().map(PathBuf::from).filter(|path| path.exists()).collect();
    found.extend(own_sockets(&fs::read_to_string("/proc/net/unix").unwrap_or_default(), user));
    found
}

/// At most so many sockets of one's own: each costs a mount.
const MOST: usize = 64;

/// Sockets that programs of this user listen on in the places where such programs put them: agents of keys, editors, terminal multiplexers,
/// file watchers. The window system's stay: without them nothing can be pasted.
fn own_sockets(table: &str, user: u32) -> Vec<PathBuf> {
    let listens = |line: &&str| line.split_ascii_whitespace().nth(3).is_some_and(|flags| flags == "00010000");
    let paths = table.lines().filter(listens).filter_map(|line| line.split_ascii_whitespace().nth(7)).filter(|path| path.starts_with('/'));
    let is_own = |path: &PathBuf| fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket() && meta.uid() == user);
    let acts = |path: &&str| {
        let name = path.rsplit('/').next().unwrap_or_default();
        let about_keys = [
            "agent",
            "S.gpg",
            "tmux",
            "screen",
            "emacs",
            "nvim",
            "watchman",
            "docker",
            "podman",
            "keyring",
            "kitty",
            "wezterm",
            "vscode-ipc",
            "code-",
        ];
        path.starts_with("/tmp/ssh-") || about_keys.iter().any(|known| path.contains(known) || name.contains(known))
    };
    let mut found: Vec<PathBuf> = paths.filter(acts).map(PathBuf::from).filter(is_own).collect();
    found.sort();
    found.dedup();
    found.truncate(MOST);
    found
}

/// The content without its secrets, for the formats that are known by their names; `None` for others.
pub(super) fn redacted(path: &Path, content: &str) -> Option<String> {
    match path.file_name()?.to_str()? {
        ".npmrc" => Some(without_lines(content, |line| {
            let key = line.split('=').next().unwrap_or_default().trim_matches([' ', '\t', '"', '\'']).to_ascii_lowercase();
            let key = key.rsplit(':').next().unwrap_or_default().trim_start_matches('_');
            matches!(key, "authtoken" | "auth" | "password" | "username" | "email" | "keyfile" | "certfile" | "key" | "cert")
                || has_login(line)
        })),
        "pip.conf" => Some(without_lines(content, has_login)),
        "config.json" => {
            let mut value: serde_json::Value = serde_json::from_str(content).ok()?;
            let before = value.clone();
            for key in ["auths", "HttpHeaders"] {
                // An entry without a login says only that the login is in a helper.
                if let Some(table) = value.get_mut(key).and_then(serde_json::Value::as_object_mut) {
                    table.values_mut().for_each(|entry| {
                        if entry.as_object().is_none_or(|entry| !entry.is_empty()) {
                            *entry = serde_json::json!({});
                        }
                    });
                }
            }
            without_logins(&mut value);
            if value == before { Some(content.to_owned()) } else { serde_json::to_string_pretty(&value).ok() }
        }
        _ => None,
    }
}

/// A file that the user lets a session read.
pub(super) struct Granted {
    /// The user's name for it.
    pub(super) name: PathBuf,
    /// Itself, whatever links the user named it by.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "only the full wall puts something in a file's place"))]
    pub(super) path: PathBuf,
    /// What there is to be read in place of its content, where that holds secrets of a known format.
    pub(super) instead: Option<String>,
}

/// Those that are there. The name that the user gave, or the one it leads to, tells the format.
pub(super) fn granted(names: &[PathBuf]) -> Vec<Granted> {
    let one = |name: &PathBuf| {
        let path = name.canonicalize().ok()?;
        let text = fs::read_to_string(&path).ok();
        let instead = text.and_then(|text| redacted(name, &text).or_else(|| redacted(&path, &text)).filter(|redacted| *redacted != text));
        Some(Granted { name: name.clone(), path, instead })
    };
    names.iter().filter_map(one).collect()
}

/// The places by which these names lead where they lead: what they end at, and every link on the way. Each lies in a folder without links; a
/// name that leads nowhere has none.
pub(super) fn ways<'a>(names: impl IntoIterator<Item = &'a PathBuf>) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = names.into_iter().filter(|name| name.exists()).flat_map(|name| way(name)).collect();
    found.sort();
    found.dedup();
    found
}

fn way(name: &Path) -> Vec<PathBuf> {
    let steps = |path: &Path| -> Vec<PathBuf> { path.components().rev().map(|part| PathBuf::from(part.as_os_str())).collect() };
    let (mut found, mut at, mut rest) = (Vec::new(), PathBuf::from("/"), steps(name));
    while let Some(part) = rest.pop() {
        match part.to_str() {
            Some(".") => continue,
            Some("..") => {
                at.pop();
                continue;
            }
            // The kernel follows no more, so it changes while we look.
            _ if found.len() > 40 => break,
            _ => {}
        }
        // An absolute one starts again.
        let next = at.join(part);
        match fs::read_link(&next) {
            Ok(target) => {
                found.push(next);
                rest.extend(steps(&target));
            }
            Err(_) => at = next,
        }
    }
    found.push(at);
    found
}

/// What of a hidden place is still to be hidden when something in it may be read: its neighbours. `granted` are [`ways`].
///
/// A link in it is left as it is: what it leads to lies elsewhere and is open by its own name, or hidden by it.
pub(super) fn around(hidden: PathBuf, granted: &[PathBuf]) -> Vec<PathBuf> {
    if granted.contains(&hidden) {
        return Vec::new();
    }
    if !granted.iter().any(|granted| granted.starts_with(&hidden)) {
        return vec![hidden];
    }
    let entries = fs::read_dir(&hidden).into_iter().flatten().flatten();
    let own = entries.filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_symlink()));
    own.flat_map(|entry| around(entry.path(), granted)).collect()
}

fn without_lines(content: &str, secret: impl Fn(&str) -> bool) -> String {
    // A line that was switched off may hold what still opens something.
    content.split_inclusive('\n').filter(|line| !secret(line.trim_start().trim_start_matches(['#', ';']))).collect()
}

/// Takes out every text with a login in an address: those of proxies.
fn without_logins(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) if has_login(text) => *value = serde_json::Value::Null,
        serde_json::Value::Array(values) => values.iter_mut().for_each(without_logins),
        serde_json::Value::Object(table) => {
            table.values_mut().for_each(without_logins);
            table.retain(|_, value| !value.is_null());
        }
        _ => {}
    }
}

/// `https://user:password@host`
fn has_login(line: &str) -> bool {
    line.split("://").skip(1).any(|rest| rest.split(['/', ' ', '\n']).next().is_some_and(|host| host.contains('@')))
}

/// Whether a repository's configuration holds a credential: then it is hidden, though git in the checkout goes without its settings.
pub fn config_holds_credential(config: &Path) -> bool {
    fs::read_to_string(config)
        .is_ok_and(|text| text.lines().any(|line| has_login(line) || line.to_ascii_lowercase().contains("extraheader")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_with_tokens_are_taken_out_and_the_rest_stays_as_it_is() {
        let npm = "registry=https://npm.corp.example/\n//npm.corp.example/:_authToken=abc\n; _authToken is elsewhere\nalways-auth=true\n_password = x\n\
                   @corp:registry=https://u:p@npm.corp.example/\n;//old.example/:_authToken=abc\n\"//q.example/:_authToken\" = abc\n";
        assert_eq!(
            redacted(Path::new("/h/.npmrc"), npm).unwrap(),
            "registry=https://npm.corp.example/\n; _authToken is elsewhere\nalways-auth=true\n"
        );
        let pip = "[global]\nindex-url = https://u:p@pypi.corp.example/simple\n# index-url = https://old@pypi.corp.example/\ntimeout = 5\n";
        assert_eq!(redacted(Path::new("/h/.config/pip/pip.conf"), pip).unwrap(), "[global]\ntimeout = 5\n");
        let docker = r#"{"auths":{"a.example":{"auth":"eA=="},"b.example":{}},"credsStore":"desktop","proxies":{"default":{"httpProxy":"http://u:p@proxy","noProxy":"localhost"}}}"#;
        let value: serde_json::Value = serde_json::from_str(&redacted(Path::new("/h/.docker/config.json"), docker).unwrap()).unwrap();
        assert_eq!(
            value,
            serde_json::json!({ "auths": { "a.example": {}, "b.example": {} }, "credsStore": "desktop",
            "proxies": { "default": { "noProxy": "localhost" } } })
        );
        assert_eq!(redacted(Path::new("/h/.pgpass"), "x"), None);
    }

    #[test]
    fn a_file_of_known_format_without_a_secret_is_left_alone_and_of_ssh_only_what_is_public() {
        let home = tempfile::tempdir().unwrap();
        let put = |name: &str, content: &str| {
            let path = home.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        put(".npmrc", "registry=https://r.example/\n");
        put(".config/pip/pip.conf", "[global]\nindex-url = https://u:p@r.example/\n");
        put(".ssh/id_ed25519", "k");
        put(".ssh/id_ed25519.pub", "k");
        put(".ssh/known_hosts", "k");
        put(".ssh/work.pem", "k");
        put(".aws/config", "");
        let mut found: Vec<String> =
            files(home.path()).iter().map(|path| path.strip_prefix(home.path()).unwrap().display().to_string()).collect();
        found.sort();
        assert_eq!(found, [".aws", ".config/pip/pip.conf", ".ssh/id_ed25519", ".ssh/work.pem"]);
    }

    #[test]
    fn around_a_grant_the_neighbours_are_hidden_and_no_link_is_followed() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().canonicalize().unwrap();
        let put = |name: &str| {
            let path = home.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "k").unwrap();
        };
        for name in [".kube/config", ".kube/token", ".kube/cache/a", ".aws/credentials", "projects/main.rs", "dotfiles/aws/config"] {
            put(name);
        }
        symlink(".", home.join(".kube/self")).unwrap();
        symlink("../projects", home.join(".kube/work")).unwrap();
        symlink("../dotfiles/aws/config", home.join(".aws/config")).unwrap();
        symlink(home.join("dotfiles"), home.join(".aws/folder")).unwrap();
        let hidden = |folder: &str, granted: &str| {
            let mut found = around(home.join(folder), &ways([&home.join(granted)]));
            found.sort();
            let relative = found.iter().map(|path| path.strip_prefix(&home).unwrap().display().to_string());
            relative.collect::<Vec<_>>()
        };
        assert_eq!(hidden(".kube", ".kube/config"), [".kube/cache", ".kube/token"]);
        assert_eq!(hidden(".kube", ".kube/self/self/config"), [".kube/cache", ".kube/token"]);
        assert_eq!(hidden(".aws", ".aws/config"), [".aws/credentials"], "granted by the name of a link");
        assert_eq!(hidden(".aws", ".aws/folder/aws/config"), [".aws/credentials"], "by a link on the way");
        assert_eq!(hidden(".aws", "dotfiles/aws/config"), [".aws"], "by the name of what the link leads to: no word of .aws");
        assert_eq!(hidden(".aws", ".aws"), Vec::<String>::new());
        assert_eq!(hidden(".aws", ".aws/missing"), [".aws"]);
    }

    #[test]
    fn what_variables_put_elsewhere_is_found_there() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, content: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        put("config/gh/hosts.yml", "k");
        put("config/pip/pip.conf", "[global]\nindex-url = https://u:p@r.example/\n");
        put("cargo/credentials.toml", "k");
        put("docker/config.json", "{}");
        put("npm/userconfig", "//r.example/:_authToken=k\n");
        put("pip/plain", "[global]\ntimeout = 5\n");
        let variable = |name: &str| {
            let at = match name {
                "XDG_CONFIG_HOME" => "config",
                "CARGO_HOME" => "cargo",
                "DOCKER_CONFIG" => "docker",
                "NPM_CONFIG_USERCONFIG" => "npm/userconfig",
                "PIP_CONFIG_FILE" => "pip/plain",
                "TF_CLI_CONFIG_FILE" => return Some(PathBuf::from("/dev/null")),
                _ => return None,
            };
            Some(dir.path().join(at))
        };
        let found: Vec<PathBuf> = named_by(variable).iter().map(|path| path.strip_prefix(dir.path()).unwrap().to_owned()).collect();
        let expected = ["config/gh", "config/pip/pip.conf", "cargo/credentials.toml", "npm/userconfig"];
        assert_eq!(found, expected.map(PathBuf::from));
    }
}
