//! A strict double of STS, and what the tests use beside it: a way to ask the endpoint, the real AWS CLI, moto.
//!
//! moto drops tags and source identity, takes any length and character and never expires anything. This double knows the
//! rules of facts/AWS.md section 1 that the session's identity stands on: SigV4 is verified, parameters are checked for
//! length and character set, a role's trust must allow sts:AssumeRole, sts:TagSession and sts:SetSourceIdentity each, a
//! chained role gets an hour at most, credentials expire by a clock that tests move, errors come in AWS's XML.

pub(crate) mod moto;
mod rules;
mod sigv4;
mod wire;

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_credential_types::Credentials;
use jiff::SignedDuration;

use self::rules::{Principal, Role, World};
use super::python;

/// The account of everything in the double.
pub(crate) const ACCOUNT: &str = "111122223333";
/// The role that the double knows.
pub(crate) const ROLE: &str = "arn:aws:iam::111122223333:role/sentrely-agent";
/// The developer whose key [`StrictSts::developer`] gives.
pub(crate) const DEVELOPER: &str = "arn:aws:iam::111122223333:user/ana";

const PATIENCE: Duration = Duration::from_mins(1);

/// One call as the double saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    /// `AssumeRole` or `GetCallerIdentity`.
    pub(crate) action: String,
    /// The access key id it was signed with.
    pub(crate) access_key_id: String,
    /// Every parameter but `Action` and `Version`.
    pub(crate) params: BTreeMap<String, String>,
    /// The error code, if it was refused.
    pub(crate) refused: Option<String>,
}

impl Seen {
    /// The session tags.
    pub(crate) fn tags(&self) -> BTreeMap<String, String> {
        rules::tags(&self.params).into_iter().collect()
    }

    /// The keys of the tags that are handed on along a chain, sorted.
    pub(crate) fn transitive_keys(&self) -> Vec<String> {
        let mut keys = rules::transitive_keys(&self.params);
        keys.sort();
        keys
    }
}

/// The running double. It stops when dropped.
pub(crate) struct StrictSts {
    url: String,
    world: Arc<Mutex<World>>,
    _server: wire::Server,
}

impl StrictSts {
    /// Starts it on a loopback port, with one developer (an IAM user) and one role whose trust allows all that is needed.
    pub(crate) fn start() -> Self {
        let roles = HashMap::from([(ROLE.to_owned(), Role::default())]);
        let principals = HashMap::from([("AKIADEVELOPER".to_owned(), Principal::user(DEVELOPER, "developer-secret"))]);
        let world = Arc::new(Mutex::new(World::new(principals, roles)));
        let (server, url) = wire::Server::start(Arc::clone(&world));
        Self { url, world, _server: server }
    }

    /// What goes into `AWS_ENDPOINT_URL_STS`.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Every call so far.
    pub(crate) fn requests(&self) -> Vec<Seen> {
        self.world.lock().unwrap().seen.clone()
    }

    /// Every `AssumeRole` so far.
    pub(crate) fn mints(&self) -> Vec<Seen> {
        self.requests().into_iter().filter(|seen| seen.action == "AssumeRole").collect()
    }

    /// The developer's long-lived key.
    pub(crate) fn developer(&self) -> Credentials {
        let secret = self.world.lock().unwrap().principals["AKIADEVELOPER"].secret.clone();
        Credentials::new("AKIADEVELOPER", secret, None, None, "test")
    }

    /// Temporary credentials of any principal, such as an Identity Center session.
    pub(crate) fn sign_in(&self, arn: &str) -> Credentials {
        let is_role_session = arn.contains(":assumed-role/");
        let principal = Principal { token: Some("signed-in".to_owned()), is_role_session, ..Principal::user(arn, "temporary-secret") };
        let mut world = self.world.lock().unwrap();
        let id = format!("ASIASIGNEDIN{}", world.principals.len());
        world.principals.insert(id.clone(), principal);
        Credentials::new(id, "temporary-secret", Some("signed-in".to_owned()), None, "test")
    }

    /// The variables of a developer's shell that make any program use the double.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        [
            ("AWS_ENDPOINT_URL_STS", self.url()),
            ("AWS_ACCESS_KEY_ID", "AKIADEVELOPER"),
            ("AWS_SECRET_ACCESS_KEY", "developer-secret"),
            ("AWS_REGION", "eu-central-1"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    /// Takes an action out of the role's trust.
    pub(crate) fn forbid(&self, action: &str) {
        self.change_role(|role| {
            role.allowed.remove(action);
        });
    }

    /// Puts an action back into the role's trust.
    pub(crate) fn allow(&self, action: &str) {
        self.change_role(|role| {
            role.allowed.insert(action.to_owned());
        });
    }

    /// Makes the role's trust ask for an external id.
    pub(crate) fn require_external_id(&self, id: &str) {
        self.change_role(|role| role.external_id = Some(id.to_owned()));
    }

    /// Sets the role's maximum session duration.
    pub(crate) fn set_max_session(&self, seconds: i64) {
        self.change_role(|role| role.max_session_seconds = seconds);
    }

    /// Makes credentials live less than STS's least, so that a test sees their whole life.
    pub(crate) fn set_life(&self, life: Duration) {
        self.change(|world| world.life = Some(SignedDuration::try_from(life).unwrap()));
    }

    /// Moves the clock by which credentials expire.
    pub(crate) fn advance(&self, by: Duration) {
        self.change(|world| world.clock_ahead += SignedDuration::try_from(by).unwrap());
    }

    fn change_role(&self, change: impl FnOnce(&mut Role)) {
        self.change(|world| change(world.roles.get_mut(ROLE).unwrap()));
    }

    fn change(&self, change: impl FnOnce(&mut World)) {
        change(&mut self.world.lock().unwrap());
    }
}

/// What a container-credentials endpoint answers: status and JSON.
pub(crate) fn ask_endpoint(uri: &str, token: &str) -> (u16, serde_json::Value) {
    let (status, body) = wire::get(uri, token).unwrap();
    (status, serde_json::from_str(&body).unwrap())
}

/// Waits until nothing listens at the endpoint any more.
pub(crate) fn wait_until_gone(uri: &str) {
    let deadline = Instant::now() + PATIENCE;
    while wire::get(uri, "").is_ok() {
        assert!(Instant::now() < deadline, "{uri} still answers");
        std::thread::yield_now();
    }
}

/// Runs the real AWS CLI with exactly this environment and home.
pub(crate) fn aws_cli(environment: &[(OsString, OsString)], home: &Path, args: &[&str]) -> Output {
    let vars = environment.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()));
    Command::new(python::program("aws")).args(args).env_clear().envs(vars).env("HOME", home).output().unwrap()
}
