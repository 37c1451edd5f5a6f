//! `sentrely.toml.example` says what is true: it loads, its defaults are the defaults, and no key is missing.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up should fail loudly")]

use std::path::Path;

use sentrely::config::schema::{KEYS, Key, ProjectRule};
use sentrely::config::{Config, Loaded, Loader};

fn example() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("sentrely.toml.example")).unwrap()
}

/// The example with its commented-out settings in force.
fn uncommented(text: &str) -> String {
    let setting = |line: &str| line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase())).map(str::to_owned);
    text.lines().map(|line| setting(line).unwrap_or_else(|| line.to_owned()) + "\n").collect()
}

fn load(project: &str) -> Loaded {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("sentrely.toml"), project).unwrap();
    let user = dir.path().join("config.toml");
    std::fs::write(&user, "[aws]\nallowed_roles = ['arn:aws:iam::123456789012:role/agents/*']").unwrap();
    let loader = Loader {
        policy_path: dir.path().join("policy.toml"),
        user_path: Some(user),
        project_dir: Some(dir.path().to_owned()),
        env: Vec::new(),
        flags: Vec::new(),
    };
    loader.load().unwrap()
}

fn own_name(key: &Key) -> &str {
    key.name.split_once('.').map_or(key.name, |(_, own)| own)
}

#[test]
fn as_it_stands_the_example_changes_nothing() {
    let mut config = load(&example()).config;
    config.aws.allowed_roles.clear();
    assert_eq!(config, Config::default());
}

#[test]
fn uncommented_the_example_sets_every_key_that_a_project_may_set() {
    let text = uncommented(&example());
    let table: toml::Table = toml::from_str(&text).unwrap();
    for key in KEYS.iter().filter(|key| key.project != ProjectRule::Never) {
        let set = table.get(key.table()).and_then(|keys| keys.get(own_name(key)));
        assert!(set.is_some(), "{} is missing", key.name);
    }
    let loaded = load(&text);
    assert_eq!(loaded.origins.clamped().count(), 0);
}

#[test]
fn what_the_example_gives_as_a_default_is_the_default() {
    let loaded = load(&uncommented(&example()));
    for key in KEYS.iter().filter(|key| key.project != ProjectRule::Never) {
        let default = key.default();
        let unset = default.is_null() || default.as_array().is_some_and(Vec::is_empty);
        let shown = key.show(&loaded.config);
        assert!(if unset { shown != default } else { shown == default }, "{}: {shown}", key.name);
    }
}

#[test]
fn the_example_says_where_the_other_keys_go() {
    let text = example();
    let (_, elsewhere) = text.split_once("is refused here").unwrap();
    for key in KEYS.iter().filter(|key| key.project == ProjectRule::Never) {
        assert!(elsewhere.lines().any(|line| line.split_whitespace().nth(1) == Some(key.name)), "{} is missing", key.name);
    }
}

#[test]
fn a_key_that_is_missing_would_be_found() {
    let text = uncommented(&example().replace("#grace", "# grace"));
    let table: toml::Table = toml::from_str(&text).unwrap();
    assert!(table["run"].get("grace").is_none());
    assert!(table["run"].get("timeout").is_some());
}
