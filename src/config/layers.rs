//! Merging: who may say what, and who has the last word.
//!
//! The property everything here serves: whatever a project's file says, no limit ends up looser than without it, except one that neither
//! the user nor the policy nor a default set (`an_agent_cannot_loosen_anything` in the tests).

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use toml::Spanned;
use toml::de::DeValue;

use super::file::{Entry, File, invalid, unknown_key};
use super::schema::{KEYS, Key, ProjectRule, nearest};
use super::setting::{Raw, Shape};
use super::{Config, ConfigError, Place};

/// What the project's file is called.
const PROJECT_FILE: &str = "sentrely.toml";

/// Short names of variables that people set often.
const SHORT_VARIABLES: [(&str, &str); 2] = [("SENTRELY_BUDGET", "budget.limits"), ("SENTRELY_TIMEOUT", "run.timeout")];

/// Variables with our prefix that are no configuration. Those that begin with `SENTRELY_TEST_` are none either.
const OTHER_VARIABLES: [&str; 5] = ["SENTRELY_STATE_DIR", "SENTRELY_WALL_DIR", "SENTRELY_RUN_ID", "SENTRELY_SESSION", "SENTRELY_LOG"];

/// A value that came by the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// The dotted key it sets.
    pub key: String,
    /// The value's text. Several for one list key add up; otherwise the last holds.
    pub value: String,
    /// What the user typed: `--timeout`.
    pub flag: String,
}

/// Where configuration is looked for.
#[derive(Debug, Clone)]
pub struct Loader {
    /// The machine's policy; nothing sentrely offers changes this path but a test's own loader.
    pub policy_path: PathBuf,
    /// The user's file, where a home is known.
    pub user_path: Option<PathBuf>,
    /// The folder of the project's `sentrely.toml`, if there is a project.
    pub project_dir: Option<PathBuf>,
    /// The environment; only `SENTRELY_*` and `HOME` are looked at. An empty variable counts as unset.
    pub env: Vec<(String, String)>,
    /// The command line, in its order.
    pub flags: Vec<Flag>,
}

/// A configuration and how it came to be.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What holds.
    pub config: Config,
    /// Where each value comes from.
    pub origins: Origins,
    /// The files that were there, in the order of the layers.
    pub files_read: Vec<PathBuf>,
    /// What was asked for, before the policy clamped it.
    pub asked: Config,
    /// Who asked for it.
    pub asked_origins: Origins,
    /// What the policy alone says; where it says nothing, the default.
    pub policy: Config,
}

/// Who set a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody.
    Default,
    /// The machine's policy.
    Policy(PathBuf),
    /// The user's file.
    User(PathBuf),
    /// The project's file.
    Project(PathBuf),
    /// An environment variable.
    Env(String),
    /// A flag.
    Flag(String),
}

/// A value that was asked for and did not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clamp {
    /// What was asked for.
    pub value: Json,
    /// Who asked.
    pub origin: Origin,
}

/// A value's history, as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sourced {
    /// Whose value holds.
    pub origin: Origin,
    /// What a policy, or the rule for project files, kept from holding. The last such, if there were several.
    pub clamped_from: Option<Clamp>,
}

/// Where each value comes from, by dotted key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origins(BTreeMap<&'static str, Sourced>);

impl Flag {
    /// `KEY=VALUE`, as `--config` takes it.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let flag = "--config".to_owned();
        match text.split_once('=') {
            Some((key, value)) => Ok(Self { key: key.trim().to_owned(), value: value.trim().to_owned(), flag }),
            None => Err(ConfigError::Syntax { place: Place::Flag(flag), message: format!("expected KEY=VALUE, found `{text}`") }),
        }
    }
}

impl Loader {
    /// Looks where sentrely looks: `/etc/sentrely/policy.toml`, `$XDG_CONFIG_HOME/sentrely/config.toml`, `<project_dir>/sentrely.toml`, this
    /// process's environment.
    pub fn new(project_dir: Option<PathBuf>, flags: Vec<Flag>) -> Self {
        let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        let env: Vec<(String, String)> = std::env::vars_os().map(|(name, value)| (lossy(name), lossy(value))).collect();
        let folder = variable(&env, "XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let folder = folder.or_else(|| variable(&env, "HOME").map(|home| Path::new(home).join(".config")));
        Self {
            policy_path: PathBuf::from("/etc/sentrely/policy.toml"),
            user_path: folder.map(|folder| folder.join("sentrely/config.toml")),
            project_dir,
            env,
            flags,
        }
    }

    /// Reads every layer once and merges them.
    pub fn load(&self) -> Result<Loaded, ConfigError> {
        let mut merge = Merge::new(variable(&self.env, "HOME").map(Path::new));
        let mut files_read = Vec::new();
        if let Some(file) = File::open(&self.policy_path)? {
            merge.file(&file, &Origin::Policy(file.path.clone()))?;
            files_read.push(file.path);
        }
        let policy = merge.clone();
        if let Some(file) = self.user_path.as_deref().map(File::open).transpose()?.flatten() {
            merge.file(&file, &Origin::User(file.path.clone()))?;
            files_read.push(file.path);
        }
        let project = self.project_dir.as_ref().map(|dir| dir.join(PROJECT_FILE));
        if let Some(file) = project.as_deref().map(File::open).transpose()?.flatten() {
            merge.project(&file)?;
            files_read.push(file.path);
        }
        merge.variables(&self.env)?;
        merge.flags(&self.flags)?;
        let (asked, asked_origins) = (merge.config.clone(), Origins(merge.origins.clone()));
        merge.clamp(&policy);
        merge.check_role()?;
        Ok(Loaded { config: merge.config, origins: Origins(merge.origins), files_read, asked, asked_origins, policy: policy.config })
    }
}

/// The configuration so far.
#[derive(Debug, Clone)]
struct Merge<'a> {
    config: Config,
    origins: BTreeMap<&'static str, Sourced>,
    home: Option<&'a Path>,
    /// Where the role in force is written.
    role_place: Option<Place>,
}

impl<'a> Merge<'a> {
    fn new(home: Option<&'a Path>) -> Self {
        let origins = KEYS.iter().map(|key| (key.name, Sourced { origin: Origin::Default, clamped_from: None }));
        Self { config: Config::default(), origins: origins.collect(), home, role_place: None }
    }

    fn origin(&self, key: &Key) -> &Origin {
        self.origins.get(key.name).map_or(&Origin::Default, |sourced| &sourced.origin)
    }

    fn set_origin(&mut self, key: &Key, origin: Origin, clamped_from: Option<Clamp>) {
        self.origins.insert(key.name, Sourced { origin, clamped_from });
    }

    /// A layer that people wrote: its values replace what was there.
    fn file(&mut self, file: &File, origin: &Origin) -> Result<(), ConfigError> {
        for entry in file.entries()? {
            let wanted = self.read(file, &entry)?;
            let before = std::mem::replace(&mut self.config, wanted);
            if entry.key.adds_up() {
                entry.key.limit(&mut self.config, &before);
            }
            self.set_origin(entry.key, origin.clone(), None);
            if entry.key.name == "aws.role" {
                self.role_place = Some(file.place(entry.value.span().start));
            }
        }
        Ok(())
    }

    /// The project's layer: sets what neither user nor policy set, tightens the rest.
    fn project(&mut self, file: &File) -> Result<(), ConfigError> {
        for entry in file.entries()? {
            let key = entry.key;
            if key.project == ProjectRule::Never {
                return Err(ConfigError::NotForProject { place: file.place(entry.name.start), key: key.name });
            }
            let mut wanted = self.read(file, &entry)?;
            let asked = key.show(&wanted);
            if key.project == ProjectRule::Stricter || *self.origin(key) != Origin::Default {
                key.limit(&mut wanted, &self.config);
            }
            let (before, after) = (key.show(&self.config), key.show(&wanted));
            let origin = Origin::Project(file.path.clone());
            let clamp = (asked != after).then(|| Clamp { value: asked, origin: origin.clone() });
            if before == after {
                let held = self.origin(key).clone();
                self.set_origin(key, held, clamp);
            } else {
                self.set_origin(key, origin, clamp);
                if key.name == "aws.role" {
                    self.role_place = Some(file.place(entry.value.span().start));
                }
            }
            self.config = wanted;
        }
        Ok(())
    }

    /// The configuration with one more value.
    fn read(&self, file: &File, entry: &Entry<'_>) -> Result<Config, ConfigError> {
        let mut config = self.config.clone();
        let raw = Raw { value: &entry.value, loose: false, base: file.folder(), home: self.home };
        entry.key.set(&mut config, raw).map_err(|problem| file.invalid(entry.key, problem))?;
        Ok(config)
    }

    fn variables(&mut self, env: &[(String, String)]) -> Result<(), ConfigError> {
        let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
        for (name, value) in env.iter().filter(|(name, value)| is_ours(name) && !value.is_empty()) {
            let place = || Place::Env(name.clone());
            let Some(key) = variable_key(name) else { return Err(unknown_variable(name)) };
            if let Some(other) = seen.insert(key.name, name) {
                let message = format!("{other} is set too and means the same: unset one");
                return Err(ConfigError::Invalid { place: place(), key: key.name, message, hint: None });
            }
            self.text(key, value, place(), Origin::Env(name.clone()))?;
        }
        Ok(())
    }

    fn flags(&mut self, flags: &[Flag]) -> Result<(), ConfigError> {
        for (index, flag) in flags.iter().enumerate() {
            let place = Place::Flag(flag.flag.clone());
            let key = Key::find(&flag.key).ok_or_else(|| unknown_key(place.clone(), &flag.key))?;
            let same = |other: &&Flag| other.key == flag.key;
            if key.shape == Shape::List {
                if flags.iter().take(index).any(|other| same(&other)) {
                    continue;
                }
                let values: Vec<&str> = flags.iter().filter(same).map(|flag| flag.value.as_str()).collect();
                self.text(key, &values.join(","), place, Origin::Flag(flag.flag.clone()))?;
            } else {
                self.text(key, &flag.value, place, Origin::Flag(flag.flag.clone()))?;
            }
        }
        Ok(())
    }

    /// A value that came as text.
    fn text(&mut self, key: &'static Key, text: &str, place: Place, origin: Origin) -> Result<(), ConfigError> {
        let as_toml = match key.shape {
            Shape::Scalar => false,
            Shape::List => text.trim_start().starts_with('['),
            Shape::Table => true,
        };
        let value = if as_toml {
            DeValue::parse(text).map_err(|error| ConfigError::Syntax { place: place.clone(), message: error.message().to_owned() })?
        } else {
            Spanned::new(0..text.len(), DeValue::String(text.into()))
        };
        // Empty: whatever path is given is relative to where sentrely was started.
        let raw = Raw { value: &value, loose: true, base: Path::new(""), home: self.home };
        let before = key.adds_up().then(|| self.config.clone());
        key.set(&mut self.config, raw).map_err(|problem| invalid(place.clone(), key, problem))?;
        if let Some(before) = before {
            key.limit(&mut self.config, &before);
        }
        self.set_origin(key, origin, None);
        if key.name == "aws.role" {
            self.role_place = Some(place);
        }
        Ok(())
    }

    /// The last word: nothing is looser than the policy.
    fn clamp(&mut self, policy: &Self) {
        for key in KEYS.iter().filter(|key| matches!(policy.origin(key), Origin::Policy(_))) {
            let asked = key.show(&self.config);
            let before = self.config.clone();
            key.limit(&mut self.config, &policy.config);
            // Values are compared, not what is shown of them: that leaves out what may be secret.
            if self.config != before {
                let clamp = Clamp { value: asked, origin: self.origin(key).clone() };
                let origin = policy.origin(key).clone();
                self.set_origin(key, origin, Some(clamp));
                if key.name == "aws.role" {
                    self.role_place.clone_from(&policy.role_place);
                }
            }
        }
    }

    /// A project's role must be allowed by someone, and any role but the policy's own by the policy, if it has a list.
    fn check_role(&self) -> Result<(), ConfigError> {
        let Some(role) = &self.config.aws.role else { return Ok(()) };
        let origin_of = |name: &str| self.origins.get(name).map_or(&Origin::Default, |sourced| &sourced.origin);
        let by_policy = matches!(origin_of("aws.allowed_roles"), Origin::Policy(_));
        let bound = match origin_of("aws.role") {
            Origin::Policy(_) => false,
            Origin::Project(_) => true,
            Origin::Default | Origin::User(_) | Origin::Env(_) | Origin::Flag(_) => by_policy,
        };
        if !bound || role_matches(role, &self.config.aws.allowed_roles) {
            return Ok(());
        }
        let place = self.role_place.clone().unwrap_or_else(|| Place::Flag("aws.role".to_owned()));
        Err(ConfigError::RoleNotAllowed { place, role: role.clone(), by_policy })
    }
}

impl Origins {
    /// Where the value of the dotted `key` comes from; a default where there is no such key.
    pub fn get(&self, key: &str) -> &Sourced {
        static DEFAULT: Sourced = Sourced { origin: Origin::Default, clamped_from: None };
        self.0.get(key).unwrap_or(&DEFAULT)
    }

    /// The keys whose values were clamped.
    pub fn clamped(&self) -> impl Iterator<Item = (&'static str, &Sourced, &Clamp)> {
        self.0.iter().filter_map(|(key, sourced)| sourced.clamped_from.as_ref().map(|clamp| (*key, sourced, clamp)))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Policy(path) | Self::User(path) | Self::Project(path) => path.display().fmt(f),
            Self::Env(name) | Self::Flag(name) => f.write_str(name),
        }
    }
}

/// Whether a pattern (`*` any text, `?` one character) of `allowed` matches the whole of `role`.
pub fn role_matches(role: &str, allowed: &[String]) -> bool {
    allowed.iter().any(|pattern| glob(pattern.as_bytes(), role.as_bytes()))
}

/// Linear in practice: after a mismatch only the last `*` is tried again.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut retry) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p, t));
                p += 1;
            }
            Some(c) if *c == b'?' || text.get(t) == Some(c) => {
                p += 1;
                t += 1;
            }
            _ => match retry {
                Some((star, from)) => {
                    retry = Some((star, from + 1));
                    p = star + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).is_some_and(|rest| rest.iter().all(|c| *c == b'*'))
}

fn variable<'a>(env: &'a [(String, String)], name: &str) -> Option<&'a str> {
    env.iter().find(|(known, value)| known == name && !value.is_empty()).map(|(_, value)| value.as_str())
}

fn is_ours(name: &str) -> bool {
    name.starts_with("SENTRELY_") && !name.starts_with("SENTRELY_TEST_") && !OTHER_VARIABLES.contains(&name)
}

fn variable_key(name: &str) -> Option<&'static Key> {
    match SHORT_VARIABLES.iter().find(|(short, _)| *short == name) {
        Some((_, key)) => Key::find(key),
        None => KEYS.iter().find(|key| key.variable() == name),
    }
}

/// An unknown variable is an error, not silence: `SENTRELY_BUGDET` must not leave a session without a limit.
fn unknown_variable(name: &str) -> ConfigError {
    let full: Vec<String> = KEYS.iter().map(Key::variable).collect();
    let known = full.iter().map(String::as_str).chain(SHORT_VARIABLES.iter().map(|(short, _)| *short));
    // `nearest` compares in lower case.
    let known: Vec<String> = known.chain(OTHER_VARIABLES).map(str::to_lowercase).collect();
    let suggestion = nearest(name, known.iter().map(String::as_str)).map(str::to_uppercase);
    ConfigError::Unknown { place: Place::Env(name.to_owned()), what: "variable", name: name.to_owned(), suggestion }
}
