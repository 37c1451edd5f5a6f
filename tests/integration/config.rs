//! Configuration: layers, clamps, errors with their place, and what `sentrely config` shows.

use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use sentrely::cli::config::{Args, run};
use sentrely::config::schema::{KEYS, Key, ProjectRule};
use sentrely::config::{Clamp, Config, ConfigError, Flag, Loaded, Loader, OnBudget, Origin, SecretRef, WallMode, Workspace};
use sentrely::model::{Limit, Usd};
use tempfile::TempDir;

/// A machine with nothing configured.
struct Machine {
    dir: TempDir,
    env: Vec<(String, String)>,
    flags: Vec<Flag>,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("project")).unwrap();
        Self { dir, env: Vec::new(), flags: Vec::new() }
    }

    fn policy(self, text: &str) -> Self {
        self.file("policy.toml", text)
    }

    fn user(self, text: &str) -> Self {
        self.file("config.toml", text)
    }

    fn project(self, text: &str) -> Self {
        self.file("project/sentrely.toml", text)
    }

    fn file(self, name: &str, text: &str) -> Self {
        std::fs::write(self.path(name), text).unwrap();
        self
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    fn flag(mut self, flag: &str, key: &str, value: &str) -> Self {
        self.flags.push(Flag { key: key.to_owned(), value: value.to_owned(), flag: flag.to_owned() });
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn try_load(&self) -> Result<Loaded, ConfigError> {
        let loader = Loader {
            policy_path: self.path("policy.toml"),
            user_path: Some(self.path("config.toml")),
            project_dir: Some(self.path("project")),
            env: self.env.clone(),
            flags: self.flags.clone(),
        };
        loader.load()
    }

    fn load(&self) -> Loaded {
        self.try_load().unwrap()
    }

    /// The error and its hint, with the machine's folder left out.
    fn error(&self) -> (String, String) {
        let error = self.try_load().unwrap_err();
        let root = format!("{}/", self.dir.path().display());
        (error.to_string().replace(&root, ""), error.hint().unwrap_or_default())
    }
}

fn usd(text: &str) -> Limit {
    Limit::Usd(text.parse().unwrap())
}

fn shown(args: &Args, loaded: &Loaded) -> String {
    let mut out = Vec::new();
    run(args, loaded, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn with_nothing_configured_the_defaults_hold_and_say_so() {
    let loaded = Machine::new().load();
    assert_eq!(loaded.config, Config::default());
    assert_eq!(loaded.files_read, Vec::<PathBuf>::new());
    for key in KEYS {
        assert_eq!(loaded.origins.get(key.name).origin, Origin::Default, "{}", key.name);
    }
}

#[test]
fn each_layer_goes_before_the_one_below_it_and_is_named_as_the_origin() {
    let mut machine = Machine::new();
    let expect = |machine: Machine, seconds: u64, origin: Origin| {
        let loaded = machine.load();
        assert_eq!(loaded.config.run.timeout, Some(Duration::from_secs(seconds)));
        assert_eq!(loaded.origins.get("run.timeout").origin, origin);
        machine
    };
    machine = machine.project("run.timeout = '10m'");
    let file = machine.path("project/sentrely.toml");
    machine = expect(machine, 600, Origin::Project(file));
    machine = machine.user("run.timeout = '5m'");
    let file = machine.path("config.toml");
    machine = expect(machine, 300, Origin::User(file));
    machine = expect(machine.env("SENTRELY_TIMEOUT", "1h 30m"), 5_400, Origin::Env("SENTRELY_TIMEOUT".into()));
    machine = expect(machine.flag("--timeout", "run.timeout", "2h"), 7_200, Origin::Flag("--timeout".into()));
    machine = machine.policy("run.timeout = '1m'");
    let file = machine.path("policy.toml");
    machine = expect(machine, 60, Origin::Policy(file));
    let clamp = machine.load().origins.get("run.timeout").clamped_from.clone();
    assert_eq!(clamp, Some(Clamp { value: "2h".into(), origin: Origin::Flag("--timeout".into()) }));
    assert_eq!(machine.load().files_read, ["policy.toml", "config.toml", "project/sentrely.toml"].map(|name| machine.path(name)));
}

#[test]
fn every_kind_of_value_is_read_from_a_file() {
    let machine = Machine::new().env("HOME", "/home/ada").user(
        r#"
        [run]
        developer = "ada@example.com"
        workspace = "in-place"
        name = "fix-login"
        grace = "500ms"
        [budget]
        limits = ["5usd", "2Mtok"]
        on_budget = "refuse"
        alert_at = [90, 10]
        [aws]
        role = "arn:aws:iam::123456789012:role/agents/reader"
        duration = "15m"
        [git]
        wip_commit = false
        [env]
        pass = ["NPM_TOKEN"]
        set = { LANG = "C" }
        [upstream]
        base_url = "https://gateway.example.com/v1/"
        api_key = { command = ["pass", "show", "key"] }
        extra_ca = "~/ca.pem"
        [prices."claude-x"]
        input = 0.1
        output = 15
        cache_read = "0.000001"
        [store]
        keep_days = 7
        "#,
    );
    let config = machine.load().config;
    assert_eq!(config.run.workspace, Workspace::InPlace);
    assert_eq!(config.run.name.unwrap().as_str(), "fix-login");
    assert_eq!(config.run.grace, Duration::from_millis(500));
    assert_eq!(config.budget.limits, [usd("5"), Limit::Tokens(2_000_000)]);
    assert_eq!(config.budget.on_budget, OnBudget::Refuse);
    assert_eq!(config.budget.alert_at, [10, 90]);
    assert_eq!(config.aws.duration, Duration::from_mins(15));
    assert!(!config.git.wip_commit);
    assert_eq!(config.env.set.get("LANG").map(String::as_str), Some("C"));
    assert_eq!(config.upstream.base_url.as_deref(), Some("https://gateway.example.com/v1"));
    assert_eq!(config.upstream.api_key, Some(SecretRef::Command(["pass", "show", "key"].map(str::to_owned).to_vec())));
    assert_eq!(config.upstream.extra_ca.as_deref(), Some(Path::new("/home/ada/ca.pem")));
    let price = config.prices["claude-x"];
    assert_eq!(price.input, Some(Usd::from_pico(100_000_000_000)));
    assert_eq!(price.output, Some("15".parse().unwrap()));
    assert_eq!(price.cache_read, Some(Usd::from_pico(1_000_000)));
    assert_eq!(price.cache_write_1h, None);
    assert_eq!(config.store.keep_days, 7);
}

#[test]
fn variables_and_flags_take_plain_text_and_toml_for_what_has_parts() {
    let machine = Machine::new()
        .env("SENTRELY_BUDGET", "5usd, 2Mtok")
        .env("SENTRELY_STORE_KEEP_DAYS", "3")
        .env("SENTRELY_GIT_WIP_COMMIT", "false")
        .env("SENTRELY_RUN_DEVELOPER", "")
        .env("SENTRELY_STATE_DIR", "/elsewhere")
        .env("SENTRELY_RUN_ID", "9f3a")
        .env("SENTRELY_TEST_COMPONENTS", "require")
        .flag("--config", "budget.alert_at", "[25, 75]")
        .flag("--config", "upstream.api_key", "{ env = \"KEY\" }")
        .flag("--wall", "wall.mode", "off")
        .flag("--wall", "wall.mode", "require");
    let config = machine.load().config;
    assert_eq!(config.budget.limits, [usd("5"), Limit::Tokens(2_000_000)]);
    assert_eq!(config.budget.alert_at, [25, 75]);
    assert_eq!(config.store.keep_days, 3);
    assert!(!config.git.wip_commit);
    assert_eq!(config.run.developer, None);
    assert_eq!(config.upstream.api_key, Some(SecretRef::Env("KEY".into())));
    assert_eq!(config.wall.mode, WallMode::Require);

    let twice = Machine::new().flag("--budget", "budget.limits", "5usd").flag("--budget", "budget.limits", "1Mtok");
    assert_eq!(twice.load().config.budget.limits, [usd("5"), Limit::Tokens(1_000_000)]);
    let flag = Flag { key: "run.name".into(), value: "a=b".into(), flag: "--config".into() };
    assert_eq!(Flag::parse("run.name = a=b").unwrap(), flag);
    assert_eq!(Flag::parse("run.name").unwrap_err().to_string(), "read --config: expected KEY=VALUE, found `run.name`");
}

#[test]
fn what_is_wrong_is_named_with_its_place_and_what_to_write() {
    let user = |text: &str| Machine::new().user(text).error();
    assert_eq!(
        user("[run]\ntimeot = '2h'"),
        ("read config.toml:2:1: unknown key `run.timeot`".into(), "did you mean `run.timeout`?".into())
    );
    assert_eq!(user("[run]\ntimeout = 30").0, "read config.toml:2:11: expected a duration like 45s, 90m or 2h, found an integer");
    assert_eq!(user("run.timeout = '30'").0, "read config.toml:1:15: read `30` as a duration: expected one like 45s, 90m or 2h");
    assert_eq!(user("run.timeout = 'PT2H'").0, "read config.toml:1:15: read `PT2H` as a duration: expected one like 45s, 90m or 2h");
    assert_eq!(user("run.timeout = '-5m'").0, "read config.toml:1:15: read `-5m` as a duration: it is negative");
    assert_eq!(user("run.timeout = '0s'").0, "read config.toml:1:15: expected a time limit above zero");
    assert_eq!(user("[budget]\nlimits = ['1Mtok', '-5usd']").0, "read config.toml:2:20: read `-5` as an amount: it is negative");
    assert_eq!(user("budget.limits = ['1usd', '2usd']").0, "read config.toml:1:26: `2usd` is a second limit of the same unit");
    assert_eq!(user("budget.alert_at = [50, 101]").0, "read config.toml:1:24: expected a percent from 1 to 100, found 101");
    assert_eq!(
        user("wall.mode = 'of'"),
        ("read config.toml:1:13: expected \"auto\", \"require\" or \"off\", found `of`".into(), "did you mean `off`?".into())
    );
    assert_eq!(user("billing.expect = 'subscripton'").1, "did you mean `subscription`?");
    assert_eq!(user("git.wip_commit = 'true'").0, "read config.toml:1:18: expected true or false, found a string");
    assert!(user("run.name = 'Fix It'").0.contains("small letters, digits and single dashes"));
    assert!(user("aws.role = 'admin'").0.contains("expected an ARN like"));
    assert!(user("aws.region = 'x.evil.example'").0.contains("is no region"));
    assert!(user("aws.duration = '5m'").0.contains("from 15m to 12h"));
    assert!(user("git.base = '--upload-pack=x'").0.contains("is no revision"));
    assert!(user("upstream.base_url = 'gateway'").0.contains("expected one like https://"));
    assert_eq!(user("[prices.'x']\ninptu = 3"), ("read config.toml:2:1: unknown rate `inptu`".into(), "did you mean `input`?".into()));
    assert!(user("[prices.'x']\ninput = 1e-3").0.contains("expected a number like 5 or 0.50"));
    assert!(user("[prices.'x']\ninput = 0.0000001").0.contains("at most 6 decimals"));
    assert!(user("store.keep_days = 0").0.contains("at least 1 day"));
    assert!(user("[run\n").0.starts_with("read config.toml:1:"));

    let env = Machine::new().env("SENTRELY_BUGDET", "5usd").error();
    assert_eq!(env, ("read SENTRELY_BUGDET: unknown variable `SENTRELY_BUGDET`".into(), "did you mean `SENTRELY_BUDGET`?".into()));
    assert_eq!(
        Machine::new().env("SENTRELY_TIMEOUT", "soon").error().0,
        "read SENTRELY_TIMEOUT: read `soon` as a duration: expected one like 45s, 90m or 2h"
    );
    assert!(Machine::new().env("SENTRELY_TIMEOUT", "1h").env("SENTRELY_RUN_TIMEOUT", "2h").error().0.contains("unset one"));
    let flag = Machine::new().flag("--budget", "budget.limits", "5eur").error();
    assert_eq!(flag.0, "read --budget: read `5eur` as a budget: expected dollars like 5usd, tokens like 2Mtok or requests like 200req");
    assert_eq!(Machine::new().flag("--config", "wal.mode", "off").error().1, "did you mean `wall.mode`?");
}

#[test]
fn a_secret_written_in_the_open_is_refused_without_repeating_it() {
    let (message, _) = Machine::new().user("[upstream]\napi_key = 'sk-ant-1'").error();
    assert_eq!(
        message,
        "read config.toml:2:11: expected a reference: { env = \"NAME\" }, { file = \"path\" } or { command = [\"program\", ..] }, found a string"
    );
    let (message, _) = Machine::new().user("[upstream]\nbase_url = 'https://ada:sk-ant-1@gateway.example.com'").error();
    assert_eq!(message, "read config.toml:2:12: read the base URL: it holds credentials: use upstream.api_key");
    let machine = Machine::new().user("[env]\nset = { TOKEN = 'sk-ant-1' }\n[upstream]\napi_key = { file = 'key' }");
    for args in [Args::default(), Args { json: true, ..Args::default() }] {
        let text = shown(&args, &machine.load());
        assert!(!text.contains("sk-ant-1"), "{text}");
        assert!(text.contains("TOKEN"), "{text}");
    }
    assert_eq!(machine.load().config.upstream.api_key, Some(SecretRef::File(machine.path("key"))));
}

#[test]
fn the_project_cannot_touch_what_belongs_to_people() {
    for key in KEYS.iter().filter(|key| key.project == ProjectRule::Never) {
        let value = match key.name {
            "prices" => "prices.x.input = '0'".to_owned(),
            "store.keep_days" => "store.keep_days = 1".to_owned(),
            "store.keep_sessions" => "store.keep_sessions = 1".to_owned(),
            "env.set" => "env.set = { A = 'b' }".to_owned(),
            "upstream.api_key" => "upstream.api_key = { command = ['touch', '/tmp/owned'] }".to_owned(),
            "loops.within" => "loops.within = '1m'".to_owned(),
            "git.token" | "alerts.webhook" | "slack.webhook" => format!("{} = {{ env = 'A' }}", key.name),
            "git.force" | "git.pr" | "git.watch_remote" | "wall.sudo" | "wall.docker" | "wall.x11" | "wall.private_tmp"
            | "wall.pid_namespace" => {
                format!("{} = true", key.name)
            }
            "aws.allowed_roles" | "env.pass" | "run.keep" | "wall.share" | "wall.allow_read" | "wall.hosts" => {
                format!("{} = ['A']", key.name)
            }
            name => format!("{name} = 'https://evil.example'"),
        };
        let (message, hint) = Machine::new().project(&value).error();
        let expected = format!("`{}` cannot be set by the project, whose file is within the agent's reach", key.name);
        assert_eq!(message.split_once(": ").map(|(_, rest)| rest), Some(expected.as_str()));
        assert!(hint.contains("config.toml"));
        Machine::new().user(&value).try_load().unwrap();
    }
}

#[test]
fn the_project_tightens_and_what_it_asks_beyond_that_is_set_aside() {
    let machine = Machine::new().user("[budget]\nlimits = ['5usd']\n[git]\nbase = 'develop'").project(
        "[run]\nworkspace = 'none'\n[budget]\nlimits = ['9usd', '1Mtok']\n[git]\nbase = 'evil'\nprotected = ['prod']\n[wall]\nmode = 'off'",
    );
    let loaded = machine.load();
    let project = Origin::Project(machine.path("project/sentrely.toml"));
    assert_eq!(loaded.config.budget.limits, [usd("5"), Limit::Tokens(1_000_000)]);
    assert_eq!(loaded.config.git.base.as_deref(), Some("develop"));
    assert_eq!(loaded.config.git.protected, ["prod", "main", "master", "release/*"]);
    assert_eq!(loaded.config.wall.mode, WallMode::Auto);
    assert_eq!(loaded.config.run.workspace, Workspace::Clone);
    let wall = loaded.origins.get("wall.mode");
    assert_eq!(wall.origin, Origin::Default);
    assert_eq!(wall.clamped_from, Some(Clamp { value: "off".into(), origin: project.clone() }));
    let clamped: Vec<&str> = loaded.origins.clamped().map(|(key, _, _)| key).collect();
    assert_eq!(clamped, ["budget.limits", "git.base", "git.protected", "run.workspace", "wall.mode"]);
    assert_eq!(loaded.origins.get("git.base").origin, Origin::User(machine.path("config.toml")));
}

#[test]
fn a_role_from_the_project_must_be_allowed_and_a_policy_binds_everyone() {
    const ROLE: &str = "aws.role = 'arn:aws:iam::123456789012:role/agents/reader'";
    let (message, hint) = Machine::new().project(ROLE).error();
    assert_eq!(
        message,
        "read project/sentrely.toml:1:12: the role arn:aws:iam::123456789012:role/agents/reader is not in [aws] allowed_roles"
    );
    assert!(hint.contains("allowed_roles = [\"arn:aws:iam::123456789012:role/agents/reader\"]"), "{hint}");
    let allow = "aws.allowed_roles = ['arn:aws:iam::123456789012:role/agents/*']";
    assert!(Machine::new().user(allow).project(ROLE).load().config.aws.role.is_some());
    assert!(Machine::new().user("aws.allowed_roles = ['*/agents']").project(ROLE).try_load().is_err());

    // A person may name any role, unless the policy has a list.
    assert!(Machine::new().user(ROLE).load().config.aws.role.is_some());
    let other = "arn:aws:iam::123456789012:role/admin";
    let bound = Machine::new().policy(allow).flag("--role", "aws.role", other);
    assert_eq!(bound.error().0, format!("read --role: the role {other} is not in [aws] allowed_roles"));
    // Nor may a user widen the policy's list.
    assert!(Machine::new().policy(allow).user("aws.allowed_roles = ['*']").flag("--role", "aws.role", other).try_load().is_err());
    // The policy's own role needs no list.
    let fixed = Machine::new().policy(ROLE).flag("--role", "aws.role", other).load();
    assert_eq!(fixed.config.aws.role.as_deref(), Some("arn:aws:iam::123456789012:role/agents/reader"));
}

#[test]
fn a_policy_that_cannot_be_read_is_an_error_not_an_absence() {
    let machine = Machine::new();
    std::fs::create_dir(machine.path("policy.toml")).unwrap();
    assert_eq!(machine.error().0, "read policy.toml");
}

#[test]
fn config_shows_each_value_with_its_origin_and_what_was_clamped() {
    let machine = Machine::new().policy("budget.limits = ['5usd']").flag("--budget", "budget.limits", "10usd");
    let text = shown(&Args::default(), &machine.load());
    let line = |key: &str| text.lines().find(|line| line.starts_with(key)).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(line("KEY"), "KEY VALUE FROM");
    assert_eq!(line("run.grace"), "run.grace 2s default");
    assert_eq!(line("run.name"), "run.name - default");
    let policy = machine.path("policy.toml");
    assert_eq!(line("budget.limits"), format!("budget.limits 5usd {} (clamped: --budget asked for 10usd)", policy.display()));
    assert_eq!(text.lines().count(), KEYS.len() + 1);

    let json: serde_json::Value = serde_json::from_str(&shown(&Args { json: true, ..Args::default() }, &machine.load())).unwrap();
    assert_eq!(json["schema_version"], 1);
    assert_eq!(json["files"], serde_json::json!([policy]));
    let limits = json["values"].as_array().unwrap().iter().find(|value| value["key"] == "budget.limits").unwrap();
    let expected = serde_json::json!({
        "key": "budget.limits",
        "value": ["5usd"],
        "origin": { "kind": "policy", "path": policy },
        "clamped_from": { "value": ["10usd"], "origin": { "kind": "flag", "name": "--budget" } },
    });
    assert_eq!(*limits, expected);
}

#[test]
fn the_schema_lists_every_key_and_every_default_reads_back() {
    let loaded = Machine::new().load();
    let text = shown(&Args { schema: true, ..Args::default() }, &loaded);
    let json: serde_json::Value = serde_json::from_str(&shown(&Args { schema: true, json: true, ..Args::default() }, &loaded)).unwrap();
    assert_eq!(json["keys"].as_array().map(Vec::len), Some(KEYS.len()));
    for key in KEYS {
        assert!(text.contains(key.name), "{}", key.name);
        let default = key.default();
        let empty = default.is_null() || default.as_array().is_some_and(Vec::is_empty) || default.is_object();
        if !empty {
            let written = Machine::new().flag("--config", key.name, &default.as_str().map_or(default.to_string(), str::to_owned)).load();
            assert_eq!(key.show(&written.config), default, "{}", key.name);
        }
    }
}

/// One `key = value` line for every key that a project may set, each there or not.
fn any_file() -> impl Strategy<Value = String> {
    let choice = |key: &'static str, values: &'static [&'static str]| {
        proptest::option::of(proptest::sample::select(values))
            .prop_map(move |value| value.map_or(String::new(), |value| format!("{key} = {value}\n")))
    };
    let amount = || proptest::option::of(0_u32..100);
    let limits = (amount(), amount(), amount()).prop_map(|(dollars, tokens, requests)| {
        let of = |count: Option<u32>, unit: &str| count.map(|count| format!("'{count}{unit}'"));
        let items: Vec<String> = [of(dollars, "usd"), of(tokens, "tok"), of(requests, "req")].into_iter().flatten().collect();
        if items.is_empty() { String::new() } else { format!("budget.limits = [{}]\n", items.join(", ")) }
    });
    let seconds = |key: &'static str, range: std::ops::Range<u32>| {
        proptest::option::of(range).prop_map(move |count| count.map_or(String::new(), |count| format!("{key} = '{count}s'\n")))
    };
    let words = (
        choice("run.workspace", &["'clone'", "'in-place'", "'none'"]),
        choice("budget.on_budget", &["'stop'", "'refuse'"]),
        choice("budget.unknown_models", &["'estimate'", "'refuse'"]),
        choice("aws.delivery", &["'endpoint'", "'env'"]),
        choice("aws.on_credentials_lost", &["'stop'", "'continue'"]),
        choice("wall.mode", &["'auto'", "'require'", "'off'"]),
        choice("wall.network", &["'open'", "'services'"]),
        choice("git.protected", &["[]", "['main']", "['prod', 'x/*']"]),
        choice("budget.alert_at", &["[]", "[50]", "[10, 99]"]),
        choice("loops.idle_spend", &["'1usd'", "'9usd'", "'90usd'"]),
        choice("git.push", &["'auto'", "'hold'", "'direct'"]),
    )
        .prop_map(|(a, b, c, d, e, f, g, h, i, j, k)| [a, b, c, d, e, f, g, h, i, j, k].concat());
    let free = (
        choice("git.base", &["'one'", "'two'"]),
        choice("git.wip_commit", &["true", "false"]),
        choice("git.include", &["[]", "['.env']", "['.env', 'config/']"]),
        choice("run.project", &["'one'", "'two'"]),
        choice("aws.region", &["'eu-west-1'", "'us-east-1'"]),
        choice("billing.expect", &["'key'", "'subscription'"]),
    )
        .prop_map(|(a, b, c, d, e, f)| [a, b, c, d, e, f].concat());
    let times = (
        seconds("run.timeout", 1..100),
        seconds("run.grace", 0..10),
        seconds("aws.duration", 900..5_000),
        seconds("git.collect_every", 1..1_000),
        choice("budget.day", &["{ developer = '5usd' }", "{ developer = '9usd', machine = '3usd' }", "{ project = '1usd' }"]),
        choice("budget.month", &["{ machine = '5usd' }", "{ developer = '50usd', machine = '30usd' }"]),
    )
        .prop_map(|(a, b, c, d, e, f)| [a, b, c, d, e, f].concat());
    (limits, words, free, times).prop_map(|(a, b, c, d)| [a, b, c, d].concat())
}

/// The keys in which `config` is looser than `bound`, by comparisons of this test's own.
fn looser(config: &Config, bound: &Config) -> Vec<&'static str> {
    let limit = |config: &Config, kind: fn(&Limit) -> Option<u128>| config.budget.limits.iter().find_map(kind).unwrap_or(u128::MAX);
    let dollars = |limit: &Limit| if let Limit::Usd(amount) = limit { Some(u128::from(amount.pico())) } else { None };
    let tokens = |limit: &Limit| if let Limit::Tokens(count) = limit { Some(u128::from(*count)) } else { None };
    let requests = |limit: &Limit| if let Limit::Requests(count) = limit { Some(u128::from(*count)) } else { None };
    let timeout = |config: &Config| config.run.timeout.unwrap_or(Duration::MAX);
    let shared = |of: fn(&Config) -> Option<Usd>| of(config).unwrap_or(Usd::MAX) > of(bound).unwrap_or(Usd::MAX);
    let checks = [
        ("day of the developer", shared(|config| config.budget.day.developer)),
        ("day of the project", shared(|config| config.budget.day.project)),
        ("day of the machine", shared(|config| config.budget.day.machine)),
        ("month of the developer", shared(|config| config.budget.month.developer)),
        ("month of the machine", shared(|config| config.budget.month.machine)),
        ("dollars", limit(config, dollars) > limit(bound, dollars)),
        ("tokens", limit(config, tokens) > limit(bound, tokens)),
        ("requests", limit(config, requests) > limit(bound, requests)),
        ("timeout", timeout(config) > timeout(bound)),
        ("grace", config.run.grace > bound.run.grace),
        ("duration", config.aws.duration > bound.aws.duration),
        ("collect_every", config.git.collect_every > bound.git.collect_every),
        ("workspace", config.run.workspace < bound.run.workspace),
        ("on_budget", config.budget.on_budget < bound.budget.on_budget),
        ("unknown_models", config.budget.unknown_models < bound.budget.unknown_models),
        ("delivery", config.aws.delivery < bound.aws.delivery),
        ("on_credentials_lost", config.aws.on_credentials_lost < bound.aws.on_credentials_lost),
        ("wall", config.wall.mode < bound.wall.mode),
        ("network", config.wall.network < bound.wall.network),
        ("idle_spend", config.loops.idle_spend > bound.loops.idle_spend),
        ("protected", bound.git.protected.iter().any(|branch| !config.git.protected.contains(branch))),
        ("push", config.git.push < bound.git.push),
        ("alert_at", bound.budget.alert_at.iter().any(|percent| !config.budget.alert_at.contains(percent))),
    ];
    checks.into_iter().filter(|(_, looser)| *looser).map(|(name, _)| name).collect()
}

fn differing<'a>(left: &'a Config, right: &'a Config, keys: impl Iterator<Item = &'static Key> + 'a) -> Vec<&'static str> {
    keys.filter(|key| key.show(left) != key.show(right)).map(|key| key.name).collect()
}

#[test]
fn protected_branches_of_every_layer_add_up() {
    let machine = Machine::new().policy("[git]\nprotected = ['live']").user("[git]\nprotected = ['prod', 'main']");
    let loaded = machine.flag("--config", "git.protected", "demo").load();
    let mut protected = loaded.config.git.protected;
    protected.sort();
    assert_eq!(protected, ["demo", "live", "main", "master", "prod", "release/*"]);
}

proptest! {
    #[test]
    fn an_agent_cannot_loosen_anything(policy in any_file(), user in any_file(), project in any_file()) {
        let machine = Machine::new().policy(&policy).user(&user);
        let without = machine.load();
        let with = machine.project(&project).load();
        prop_assert_eq!(looser(&with.config, &without.config), Vec::<&str>::new());
        let held = KEYS.iter().filter(|key| key.project == ProjectRule::Free && without.origins.get(key.name).origin != Origin::Default);
        prop_assert_eq!(differing(&with.config, &without.config, held), Vec::<&str>::new());
    }

    #[test]
    fn nobody_gets_past_the_policy(policy in any_file(), user in any_file(), project in any_file(), flags in any_file()) {
        let alone = Machine::new().policy(&policy).load();
        let mut machine = Machine::new().policy(&policy).user(&user).project(&project);
        for line in flags.lines() {
            let (key, value) = line.split_once(" = ").unwrap();
            machine = machine.flag("--config", key, value.trim_matches('\''));
        }
        let all = machine.load();
        // Only what the policy sets is its business; its other values are defaults, which anyone may change.
        let mut bound = all.config.clone();
        let set: Vec<&'static Key> = KEYS.iter().filter(|key| matches!(alone.origins.get(key.name).origin, Origin::Policy(_))).collect();
        for key in &set {
            copy(key.name, &mut bound, &alone.config);
        }
        prop_assert_eq!(looser(&all.config, &bound), Vec::<&str>::new());
        let fixed = set.into_iter().filter(|key| key.project != ProjectRule::Stricter);
        prop_assert_eq!(differing(&all.config, &alone.config, fixed), Vec::<&str>::new());
    }
}

fn copy(key: &str, to: &mut Config, from: &Config) {
    match key {
        "budget.limits" => to.budget.limits.clone_from(&from.budget.limits),
        "budget.day" => to.budget.day = from.budget.day,
        "budget.month" => to.budget.month = from.budget.month,
        "run.timeout" => to.run.timeout = from.run.timeout,
        "run.grace" => to.run.grace = from.run.grace,
        "aws.duration" => to.aws.duration = from.aws.duration,
        "git.collect_every" => to.git.collect_every = from.git.collect_every,
        "run.workspace" => to.run.workspace = from.run.workspace,
        "budget.on_budget" => to.budget.on_budget = from.budget.on_budget,
        "budget.unknown_models" => to.budget.unknown_models = from.budget.unknown_models,
        "aws.delivery" => to.aws.delivery = from.aws.delivery,
        "aws.on_credentials_lost" => to.aws.on_credentials_lost = from.aws.on_credentials_lost,
        "wall.mode" => to.wall.mode = from.wall.mode,
        "wall.network" => to.wall.network = from.wall.network,
        "git.protected" => to.git.protected.clone_from(&from.git.protected),
        "git.push" => to.git.push = from.git.push,
        "budget.alert_at" => to.budget.alert_at.clone_from(&from.budget.alert_at),
        "loops.idle_spend" => to.loops.idle_spend = from.loops.idle_spend,
        _ => {}
    }
}

#[test]
fn the_prices_are_shown_with_all_their_tiers_and_the_users_own_in_place() {
    let env = crate::support::env::TestEnv::new();
    let dir = env.home().join(".config/sentrely");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(
        dir.join("config.toml"),
        "[prices.\"claude-opus-5-5\"]\ninput = 2\noutput = 10\ncache_write_5m = 2.5\ncache_write_1h = 4\ncache_read = 0.1\n",
    )
    .unwrap();
    let shown = env.sentrely(&["config", "--prices"]).run().success().stdout;
    let rows: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(rows.contains(&vec!["claude-opus-5-5", "2", "10", "2.5", "4", "0.1", "your", "own"]), "{shown}");
    assert!(rows.contains(&vec!["claude-opus-5-5", "4", "20", "5", "8", "0.2", "fast", "mode"]), "{shown}");
    assert!(rows.contains(&vec!["claude-haiku-5-5", "0.5", "2.5", "0.625", "1", "0.05", "prompt", "above", "100000"]), "{shown}");
    assert!(shown.ends_with("An unknown model costs what the dearest of its family does.\n"), "{shown}");
    let json = env.sentrely(&["config", "--prices", "--json"]).run().success().json();
    assert_eq!(json["schema_version"], 1);
    let models = json["models"].as_array().unwrap();
    let opus = models.iter().find(|model| model["model"] == "claude-opus-5-5").unwrap();
    assert_eq!((&opus["own"], &opus["rates"]["output"], &opus["fast"]["output"]), (&true.into(), &"10".into(), &"20".into()));
    assert_eq!((models.len() > 25, json["usd_per"].as_u64(), json["dated"].is_string()), (true, Some(1_000_000), true));
}

#[test]
fn limits_that_sessions_share_are_clamped_one_by_one_and_the_project_only_lowers_them() {
    let machine = Machine::new()
        .policy("[budget.day]\ndeveloper = '20usd'\nmachine = '100usd'")
        .user("[budget]\nday = { developer = '50usd', project = '30usd' }")
        .project("[budget.day]\ndeveloper = '10usd'\nproject = '40usd'\n[budget.month]\nproject = '300usd'")
        .env("SENTRELY_BUDGET_MONTH", "{ machine = '900usd' }");
    let usd = |text: &str| Some(text.parse::<Usd>().unwrap());
    let loaded = machine.load();
    let day = loaded.config.budget.day;
    assert_eq!((day.developer, day.project, day.machine), (usd("10"), usd("30"), usd("100")));
    let month = loaded.config.budget.month;
    assert_eq!((month.developer, month.project, month.machine), (None, None, usd("900")));
    // Without the project's file the policy has the last word.
    let clamped =
        Machine::new().policy("budget.day = { developer = '20usd' }").flag("--config", "budget.day", "{ developer = '90usd' }").load();
    assert_eq!(clamped.config.budget.day.developer, usd("20"));
    let json = Key::find("budget.day").unwrap().show(&clamped.config);
    assert_eq!(json, serde_json::json!({ "developer": "20usd" }));
    let (error, hint) = Machine::new().user("[budget.day]\nteam = '1usd'").error();
    assert_eq!(error, "read config.toml:2:1: `team` shares no limit: expected developer, project or machine");
    assert!(hint.starts_with("budget.day takes table of amounts like { developer = "), "{hint}");
    let (error, _) = Machine::new().user("[budget.day]\nproject = '2Mtok'").error();
    assert!(error.contains("read `2Mtok` as an amount: expected dollars like 5usd"), "{error}");
}
