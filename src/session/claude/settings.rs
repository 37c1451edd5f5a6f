//! The settings layers Claude Code itself would read, read the way it reads them: strict JSON, and a file that is invalid
//! counts for nothing.
//!
//! Precedence (measured): managed, `--settings`, local, project, user, and only then the process environment. Of several
//! `--settings` the last counts alone. The client drops the whole of an invalid `--settings` and goes on; we refuse to
//! start, since what we merge into it would be dropped with it.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::Env;
use super::arguments::SessionArgs;
use super::places::Places;
use super::schema;

/// A settings layer, the strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The administrator's.
    Managed,
    /// `--settings`.
    Flag,
    /// `.claude/settings.local.json`.
    Local,
    /// `.claude/settings.json`.
    Project,
    /// `~/.claude/settings.json`.
    User,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The environment of the `sentrely` command.
    Environment,
    /// A settings layer; no path for inline `--settings`.
    Settings(Source, Option<PathBuf>),
    /// The client's own state file, `~/.claude.json`.
    State(PathBuf),
    /// sentrely's own configuration: the key's name there.
    Config(&'static str),
}

impl Origin {
    /// Whether a file of the repository said it: within the agent's reach, and in a clone of somebody else's project from the start.
    pub const fn is_project(&self) -> bool {
        matches!(self, Self::Settings(Source::Project | Source::Local, _))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment => f.write_str("the environment"),
            Self::Settings(_, Some(path)) | Self::State(path) => path.display().fmt(f),
            Self::Settings(_, None) => f.write_str("--settings"),
            Self::Config(key) => f.write_str(key),
        }
    }
}

/// One layer that applies.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// Which.
    pub source: Source,
    /// Its file; none for inline JSON.
    pub path: Option<PathBuf>,
    /// Its content.
    pub values: Map<String, Value>,
}

/// All layers that apply.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    /// The strongest first. A layer can have several files (`managed-settings.d`, the repository's and the folder's local settings).
    pub layers: Vec<Layer>,
    /// Files that the client ignores because they are invalid, in words for the user.
    pub notices: Vec<String>,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SettingsError {
    /// The client would fail on it, or drop the whole of it, and our injection with it.
    #[error("use --settings {value}: {why}")]
    Flag {
        /// As given; inline JSON is shortened.
        value: String,
        /// What is wrong.
        why: String,
    },
    /// Not a list of user, project, local.
    #[error("use --setting-sources {0}: it names none of user, project, local")]
    Sources(String),
}

impl SettingsError {
    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Flag { .. } => Some(
                "correct it, or leave --settings out; Claude Code would ignore all of it, and sentrely's own settings with it".to_owned(),
            ),
            Self::Sources(_) => Some("for example --setting-sources user,project".to_owned()),
        }
    }
}

impl Settings {
    /// Reads every layer that applies to these arguments.
    pub fn read(places: &Places, args: &SessionArgs) -> Result<Self, SettingsError> {
        let sources = sources(args)?;
        let mut settings = Self::default();
        for path in managed_files(&places.managed_dir) {
            settings.add(Source::Managed, path);
        }
        if let Some(value) = args.settings.last() {
            settings.layers.extend(flag(value, &places.cwd)?);
        }
        if sources.contains(&Source::Local) {
            let root = repository(&places.cwd).filter(|root| *root != places.cwd);
            for dir in std::iter::once(places.cwd.clone()).chain(root) {
                settings.add(Source::Local, dir.join(".claude/settings.local.json"));
            }
        }
        if sources.contains(&Source::Project) {
            settings.add(Source::Project, places.cwd.join(".claude/settings.json"));
        }
        if sources.contains(&Source::User) {
            settings.add(Source::User, places.config_dir.join("settings.json"));
        }
        Ok(settings)
    }

    fn add(&mut self, source: Source, path: PathBuf) {
        // In the home directory the user's file and the project's are the same one.
        if self.layers.iter().any(|layer| layer.path.as_ref() == Some(&path)) {
            return;
        }
        match fs_err::read_to_string(&path).map_err(|error| error.kind()) {
            Ok(text) => match parse(&text).and_then(|values| schema::check(&values).map(|()| values)) {
                Ok(values) => self.layers.push(Layer { source, path: Some(path), values }),
                Err(why) => self.notices.push(format!("Claude Code ignores {}: {why}", path.display())),
            },
            Err(io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(kind) => self.notices.push(format!("Claude Code ignores {}: {kind}", path.display())),
        }
    }

    /// A top-level key, from the strongest layer that has it.
    pub fn key(&self, name: &str) -> Option<(&Value, Origin)> {
        self.layers.iter().find_map(|layer| Some((layer.values.get(name)?, layer.origin())))
    }

    /// `env.<name>` as text, from the strongest layer that has it; it may be empty.
    pub fn env(&self, name: &str) -> Option<(String, Origin)> {
        self.layers.iter().find_map(|layer| Some((layer.env(name)?, layer.origin())))
    }

    /// The value the client sees: settings beat the process environment. Empty counts as unset, also when it hides a set one.
    pub fn effective(&self, env: &Env, name: &str) -> Option<(String, Origin)> {
        self.env(name)
            .or_else(|| Some((env.get(OsStr::new(name))?.to_str()?.to_owned(), Origin::Environment)))
            .filter(|(value, _)| !value.is_empty())
    }

    /// The whole environment as the client sees it: what its helpers and hooks run with.
    pub fn applied(&self, env: &Env) -> Env {
        let mut applied = env.clone();
        let names: BTreeSet<&String> =
            self.layers.iter().filter_map(|layer| layer.values.get("env")?.as_object()).flat_map(Map::keys).collect();
        for name in names {
            if let Some((value, _)) = self.env(name) {
                applied.insert(OsString::from(name), OsString::from(value));
            }
        }
        applied
    }

    /// The administrator's files, the strongest first.
    pub fn managed(&self) -> impl Iterator<Item = &Layer> {
        self.layers.iter().filter(|layer| layer.source == Source::Managed)
    }

    /// The content of the `--settings` that counts.
    pub fn flag(&self) -> Option<&Map<String, Value>> {
        self.layers.iter().find(|layer| layer.source == Source::Flag).map(|layer| &layer.values)
    }
}

impl Layer {
    /// Where its values come from.
    pub fn origin(&self) -> Origin {
        Origin::Settings(self.source, self.path.clone())
    }

    /// `env.<name>` as text; numbers and booleans count as the client counts them, other values do not.
    pub fn env(&self, name: &str) -> Option<String> {
        match self.values.get("env")?.get(name)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(flag) => Some(flag.to_string()),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }
}

/// How the client reads a switch: `1`, `true`, `yes`, `on`.
pub fn is_true(value: &str) -> bool {
    matches!(value.trim().to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on")
}

fn sources(args: &SessionArgs) -> Result<Vec<Source>, SettingsError> {
    if args.restricted {
        return Ok(Vec::new());
    }
    let Some(list) = &args.setting_sources else { return Ok(vec![Source::User, Source::Project, Source::Local]) };
    list.split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(|name| match name {
            "user" => Ok(Source::User),
            "project" => Ok(Source::Project),
            "local" => Ok(Source::Local),
            _ => Err(SettingsError::Sources(list.clone())),
        })
        .collect()
}

/// Drop-ins come after the main file, the later name the stronger: strongest first here.
fn managed_files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs_err::read_dir(dir.join("managed-settings.d"))
        .map(|entries| entries.flatten().map(|entry| entry.path()).filter(|path| path.extension() == Some(OsStr::new("json"))).collect())
        .unwrap_or_default();
    files.sort();
    files.reverse();
    files.push(dir.join("managed-settings.json"));
    files
}

/// The root of the repository around `dir`.
fn repository(dir: &Path) -> Option<PathBuf> {
    dir.ancestors().find(|dir| dir.join(".git").exists()).map(Path::to_path_buf)
}

/// The user's `--settings`: JSON when it begins with a brace, else a file; empty is none.
fn flag(value: &str, cwd: &Path) -> Result<Option<Layer>, SettingsError> {
    let fail = |why: String| SettingsError::Flag { value: shorten(value), why };
    if value.trim().is_empty() {
        return Ok(None);
    }
    let (text, path) = if value.trim_start().starts_with('{') {
        (value.to_owned(), None)
    } else {
        let path = cwd.join(value);
        let is_file = fs_err::metadata(&path).map_err(|error| fail(error.kind().to_string()))?.is_file();
        if !is_file {
            return Err(fail("it is not a regular file".to_owned()));
        }
        (fs_err::read_to_string(&path).map_err(|error| fail(error.kind().to_string()))?, Some(path))
    };
    let values = parse(&text).map_err(fail)?;
    schema::check_strictly(&values).map_err(fail)?;
    Ok(Some(Layer { source: Source::Flag, path, values }))
}

/// Strict JSON with an optional byte order mark; an object.
fn parse(text: &str) -> Result<Map<String, Value>, String> {
    match serde_json::from_str(text.trim_start_matches('\u{feff}')) {
        Ok(Value::Object(values)) => Ok(values),
        Ok(_) => Err("it is not a JSON object".to_owned()),
        Err(error) => Err(format!("it is not strict JSON ({error})")),
    }
}

fn shorten(value: &str) -> String {
    if value.chars().count() <= 60 { value.to_owned() } else { format!("{}…", value.chars().take(60).collect::<String>()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct World {
        dir: tempfile::TempDir,
        places: Places,
    }

    fn world(files: &[(&str, &str)]) -> World {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for (name, text) in files {
            std::fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            std::fs::write(at(name), text).unwrap();
        }
        std::fs::create_dir_all(at("home/work/sub")).unwrap();
        let places = Places {
            home: at("home"),
            config_dir: at("home/.claude"),
            cwd: at("home/work"),
            managed_dir: at("managed"),
            state_file: at("home/.claude.json"),
        };
        World { dir, places }
    }

    const ALL: &[(&str, &str)] = &[
        ("managed/managed-settings.json", r#"{"env":{"A":"managed","B":"managed"}}"#),
        ("managed/managed-settings.d/10.json", r#"{"env":{"A":"drop-in"}}"#),
        ("home/work/.claude/settings.local.json", r#"{"env":{"A":"l","B":"l","C":"l","D":"local"}}"#),
        ("home/work/.claude/settings.json", r#"{"env":{"C":"p","D":"p","E":"project"}}"#),
        ("home/.claude/settings.json", r#"{"env":{"E":"u","F":7,"G":""},"apiKeyHelper":"x"}"#),
    ];

    fn read(world: &World, args: &SessionArgs) -> Settings {
        Settings::read(&world.places, args).unwrap()
    }

    #[test]
    fn each_layer_hides_the_weaker_ones_and_all_hide_the_environment() {
        let world = world(ALL);
        let args = SessionArgs {
            settings: vec!["{\"env\":{\"C\":\"lost\"}}".into(), " {\"env\":{\"C\":\"flag\"}}".into()],
            ..SessionArgs::default()
        };
        let settings = read(&world, &args);
        let env = Env::from([("E".into(), "env".into()), ("G".into(), "env".into()), ("H".into(), "env".into())]);
        let seen = |name: &str| settings.effective(&env, name).map(|(value, _)| value);
        let all: Vec<_> = ["A", "B", "C", "D", "E", "F", "G", "H"].into_iter().map(seen).collect();
        let expected = ["drop-in", "managed", "flag", "local", "project", "7", "", "env"]
            .map(|text| Some(text.to_owned()).filter(|text| !text.is_empty()));
        assert_eq!(all, expected);
        assert_eq!(
            settings.key("apiKeyHelper").unwrap().1,
            Origin::Settings(Source::User, Some(world.dir.path().join("home/.claude/settings.json")))
        );
        assert_eq!(settings.applied(&env).get(OsStr::new("F")), Some(&OsString::from("7")));
    }

    #[test]
    fn setting_sources_and_restricted_leave_layers_out_but_never_the_managed_ones() {
        let world = world(ALL);
        let layers = |args: SessionArgs| read(&world, &args).layers.iter().map(|layer| layer.source).collect::<Vec<_>>();
        let chosen = |list: &str| layers(SessionArgs { setting_sources: Some(list.to_owned()), ..SessionArgs::default() });
        assert_eq!(chosen("user"), [Source::Managed, Source::Managed, Source::User]);
        assert_eq!(chosen("project, local"), [Source::Managed, Source::Managed, Source::Local, Source::Project]);
        assert_eq!(chosen(""), [Source::Managed, Source::Managed]);
        assert_eq!(layers(SessionArgs { restricted: true, ..SessionArgs::default() }), [Source::Managed, Source::Managed]);
        let wrong = SessionArgs { setting_sources: Some("user,all".into()), ..SessionArgs::default() };
        assert_eq!(Settings::read(&world.places, &wrong), Err(SettingsError::Sources("user,all".into())));
    }

    #[test]
    fn a_file_with_comments_or_a_value_of_the_wrong_type_counts_for_nothing_and_is_named() {
        for text in
            ["{ // no\n\"env\":{\"A\":\"1\"}}", "{\"env\":{\"A\":\"1\"},}", "{\"env\":{\"A\":\"1\"},\"cleanupPeriodDays\":\"bad\"}", "[]"]
        {
            let world = world(&[("home/.claude/settings.json", text)]);
            let settings = read(&world, &SessionArgs::default());
            assert_eq!(settings.env("A"), None, "{text}");
            assert!(settings.notices[0].contains("home/.claude/settings.json"), "{text}");
        }
        let marked = world(&[("home/.claude/settings.json", "\u{feff}{\"env\":{\"A\":true}}")]);
        assert_eq!(read(&marked, &SessionArgs::default()).env("A").unwrap().0, "true");
    }

    #[test]
    fn a_settings_flag_that_claude_would_drop_is_an_error_that_names_it() {
        let world = world(&[("home/work/bad.json", "{\"a\":1,}"), ("home/work/good.json", "{\"a\":1}")]);
        let error =
            |value: &str| Settings::read(&world.places, &SessionArgs { settings: vec![value.into()], ..SessionArgs::default() }).err();
        assert_eq!(error("good.json"), None);
        assert_eq!(error(""), None);
        for value in [
            "bad.json",
            "none.json",
            "{broken",
            "/dev/stdin",
            "~/x.json",
            "{\"env\":[]}",
            "{\"hooks\":{\"Stop\":[{\"hooks\":[{\"type\":\"nosuch\"}]}]}}",
        ] {
            let said = error(value).unwrap_or_else(|| panic!("{value} was taken")).to_string();
            assert!(said.starts_with("use --settings "), "{said}");
        }
    }

    #[test]
    fn local_settings_of_the_repository_count_below_those_of_the_folder() {
        let mut world = world(&[
            ("home/work/.git/HEAD", ""),
            ("home/work/.claude/settings.local.json", r#"{"env":{"A":"root","B":"root"}}"#),
            ("home/work/sub/.claude/settings.local.json", r#"{"env":{"A":"sub"}}"#),
        ]);
        world.places.cwd = world.places.cwd.join("sub");
        let settings = read(&world, &SessionArgs::default());
        assert_eq!(["A", "B"].map(|name| settings.env(name).unwrap().0), ["sub", "root"]);
    }

    #[test]
    fn a_switch_is_read_as_the_client_reads_it() {
        assert!(["1", "true", "YES", " on "].iter().all(|value| is_true(value)));
        assert!(!["", "0", "false", "2", "off"].iter().any(|value| is_true(value)));
    }
}
