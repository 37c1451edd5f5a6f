//! `[wall] network = "services"`: what a session reaches then, and how its programs find the way.
//!
//! It has a network of its own. On the same ports of 127.0.0.1 as outside are the model's proxy, the push gate and the endpoint of AWS
//! credentials; on [`FILTER_PORT`] is the filter, to which the usual proxy variables lead.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::chronicle::Chronicle;
use super::claude::login::Login;
use super::environment::{Env, text};
use super::prepare::Prepared;
use super::{RunError, RunRequest};
use crate::model::Event;
use crate::wall::{Arriving, Denied, Egress, HostList};
use crate::{aws, config};

/// Where the filter is inside: nothing else of ours is ever there.
const FILTER_PORT: u16 = 3128;
/// So many refused hosts are written down, each once.
const MOST_RECORDED: usize = 200;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where Claude Code renews its own login.
const LOGIN_HOSTS: [&str; 2] = ["console.anthropic.com", "platform.claude.com"];
/// Where it gets its Google token.
const GOOGLE_HOSTS: [&str; 2] = ["oauth2.googleapis.com", "sts.googleapis.com"];
/// The services behind an AWS identity.
const AWS_HOST: &str = "*.amazonaws.com";

/// Files of the user's in which package managers are told of other registries. Behind the full wall no session changes them.
const REGISTRY_FILES: [&str; 8] = [
    ".npmrc",
    ".yarnrc",
    ".yarnrc.yml",
    ".config/pip/pip.conf",
    ".pip/pip.conf",
    ".config/uv/uv.toml",
    ".cargo/config.toml",
    ".cargo/config",
];
const REGISTRY_VARIABLES: [&str; 8] = [
    "npm_config_registry",
    "NPM_CONFIG_REGISTRY",
    "YARN_NPM_REGISTRY_SERVER",
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "UV_DEFAULT_INDEX",
    "UV_INDEX_URL",
    "GOPROXY",
];

/// Which hosts lie behind the filter; `None` where the network is open.
///
/// # Errors
/// `wall.hosts` holds something that is no host.
pub(super) fn hosts(request: &RunRequest) -> Result<Option<HostList>, RunError> {
    let wall = &request.config.wall;
    if wall.network == config::Network::Open {
        return Ok(None);
    }
    let mut hosts = HostList::parse(&wall.hosts).map_err(|error| {
        RunError::new(error, Some("correct [wall] hosts; `defaults` stands for the built-in package registries and forges".to_owned()))
    })?;
    if wall.hosts.iter().any(|entry| entry == "defaults") {
        for host in own_registries(&request.env) {
            hosts.add(&host);
        }
    }
    if request.config.aws.role.is_some() {
        hosts.add(AWS_HOST);
    }
    Ok(Some(hosts))
}

/// The hosts of all URLs in the user's own settings of package managers.
fn own_registries(env: &Env) -> BTreeSet<String> {
    let home = text(env, "HOME").map(Path::new);
    let files = home.iter().flat_map(|home| REGISTRY_FILES.iter().filter_map(|name| fs::read_to_string(home.join(name)).ok()));
    let variables = REGISTRY_VARIABLES.iter().filter_map(|name| text(env, name).map(str::to_owned));
    files.chain(variables).flat_map(|text| hosts_in(&text).collect::<Vec<_>>()).collect()
}

/// `host` or `host:port` of each URL.
fn hosts_in(text: &str) -> impl Iterator<Item = String> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with(['#', ';']));
    let urls = lines.flat_map(|line| line.match_indices("://").map(move |(at, _)| (&line[..at], &line[at + 3..])));
    urls.filter_map(|(before, rest)| {
        let authority = rest.split(|c: char| c == '/' || c == '"' || c == '\'' || c == ',' || c.is_whitespace()).next()?;
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let is_web = before.ends_with("http") || before.ends_with("https");
        (is_web && !host.is_empty()).then(|| host.to_owned())
    })
}

/// What a session with services alone has.
pub(super) struct Cut {
    hosts: HostList,
    /// Of the services, as outside.
    ports: Vec<u16>,
}

impl Cut {
    /// For the session as it is made; `None` where the network is open.
    pub(super) fn of(prepared: &Prepared, proxy: SocketAddr, gate: Option<&str>, aws: Option<&aws::Delivery>) -> Option<Self> {
        let mut hosts = prepared.wall.hosts.clone()?;
        let more: &[&str] = match &prepared.login {
            Login::LoginFile => &LOGIN_HOSTS,
            Login::Vertex { .. } => &GOOGLE_HOSTS,
            _ => &[],
        };
        for host in more {
            hosts.add(host);
        }
        let endpoint = match aws {
            Some(aws::Delivery::Endpoint { uri, .. }) => Some(uri.as_str()),
            _ => None,
        };
        let port = |url: &str| url.parse::<http::Uri>().ok()?.port_u16();
        let ports = [Some(proxy.port()), gate.and_then(port), endpoint.and_then(port)];
        Some(Self { hosts, ports: ports.into_iter().flatten().collect() })
    }

    /// The doors that are wanted inside; the filter's is the last.
    pub(super) fn doors(&self) -> Vec<u16> {
        self.ports.iter().copied().chain([FILTER_PORT]).collect()
    }

    /// Opens them.
    pub(super) fn open(self, arriving: Arriving, chronicle: Chronicle) -> std::io::Result<Vec<JoinHandle<()>>> {
        let mut doors: Vec<StdListener> = arriving.take()?;
        let missing = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        let filter = TcpListener::from_std(doors.pop().ok_or_else(missing)?)?;
        let mut tasks = Vec::new();
        for (door, port) in doors.into_iter().zip(self.ports) {
            tasks.push(tokio::spawn(relay(TcpListener::from_std(door)?, port)));
        }
        let told = Mutex::new(BTreeSet::new());
        let on_denied = move |host: &str, why: Denied| {
            let is_new = told.lock().is_ok_and(|mut told| told.len() < MOST_RECORDED && told.insert(host.to_owned()));
            if is_new {
                // A lost journal has told the session already.
                let _ = chronicle.record(Event::HostRefused { host: host.to_owned(), why: why.to_string() });
            }
        };
        tasks.push(tokio::spawn(Egress::new(self.hosts, std::sync::Arc::new(on_denied)).serve(filter)));
        Ok(tasks)
    }
}

/// Variables by which programs find the filter. What a user's settings say of them must not go before them: it would lead nowhere.
pub(super) fn variables() -> Vec<(String, String)> {
    let filter = format!("http://127.0.0.1:{FILTER_PORT}");
    let both = |name: &str| [name.to_owned(), name.to_lowercase()];
    let mut set: Vec<(String, String)> =
        ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"].iter().flat_map(|name| both(name)).map(|name| (name, filter.clone())).collect();
    // No more than that: whatever else a list of the user's spares the proxy would not be reached at all.
    set.extend(both("NO_PROXY").map(|name| (name, "127.0.0.1,localhost,::1".to_owned())));
    // Node's own clients heed the variables above only when told so.
    set.push(("NODE_USE_ENV_PROXY".to_owned(), "1".to_owned()));
    set
}

/// Puts them into an environment.
pub(super) fn set_in(env: &mut Env) {
    for (name, value) in variables() {
        env.insert(OsString::from(name), OsString::from(value));
    }
    env.remove(OsStr::new("FTP_PROXY"));
    env.remove(OsStr::new("ftp_proxy"));
}

/// Carries connections of the inside to the same port of the outside.
async fn relay(door: TcpListener, port: u16) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = door.accept() => match accepted {
                Ok((inside, _)) => {
                    connections.spawn(carry(inside, (Ipv4Addr::LOCALHOST, port).into()));
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
            Some(_ended) = connections.join_next() => {}
        }
    }
}

async fn carry(mut inside: TcpStream, to: SocketAddr) {
    let Ok(mut outside) = TcpStream::connect(to).await else { return };
    // Events of a stream are small and must not wait for each other.
    let _ = (inside.set_nodelay(true), outside.set_nodelay(true));
    let _ = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_own_registries_are_found_in_every_form_and_comments_are_not() {
        let text = "registry=https://npm.corp.example/\n# https://old.example/\n@a:registry=https://u:p@b.example:8443/x\n\
                    index-url = \"https://pypi.corp.example/simple\"\nindex = 'sparse+http://crates.corp.example:8080/index/'\ngit+ssh://git.example/x\n\
                    GOPROXY=https://go.corp.example,direct\n";
        let found: Vec<String> = hosts_in(text).collect();
        assert_eq!(found, ["npm.corp.example", "b.example:8443", "pypi.corp.example", "crates.corp.example:8080", "go.corp.example"]);
    }
}
