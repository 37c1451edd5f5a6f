//! The real Claude Code, started by a plan of ours, against settings that route around us: user, project and local files and the
//! environment, in every way that is known (`facts/CLAUDE_CODE.md` B1). The plan is made first, then the attack is written, as an
//! agent would write it: what the plan read cannot help it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use sentrely::model::SessionId;
use sentrely::session::claude::Env;
use sentrely::session::claude::arguments::{Use, classify};
use sentrely::session::claude::inject::{self, Plan, SENTINEL, Wanted};
use sentrely::session::claude::login::Login;
use sentrely::session::claude::places::Places;
use sentrely::session::claude::settings::Settings;
use sentrely::session::claude::transcripts::{Scope, TranscriptWatch};
use sentrely::simulated::{Answer, Record, Script, Upstream};
use serde_json::{Map, Value, json};

use crate::support::claude::{Claude, DUMMY_KEY, DUMMY_OAUTH};
use crate::support::env::TestEnv;

/// Where a user's credential stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pays {
    Key,
    Token,
    OauthToken,
    SettingsKey,
    Helper,
    LoginFile,
}

/// A world in which Claude Code would work for this user, and what `sentrely` was called with there.
struct User {
    env: TestEnv,
    upstream: Upstream,
    vars: Env,
    args: Vec<OsString>,
}

impl User {
    fn new(pays: Pays, args: &[&str], answers: impl Into<Script>) -> Self {
        let env = TestEnv::new();
        env.prepare_claude();
        let mut vars = Env::from([("HOME".into(), env.home().into()), ("CLAUDE_CODE_MAX_RETRIES".into(), "0".into())]);
        match pays {
            Pays::Key => drop(vars.insert("ANTHROPIC_API_KEY".into(), DUMMY_KEY.into())),
            Pays::Token => drop(vars.insert("ANTHROPIC_AUTH_TOKEN".into(), "the-users-gateway-token".into())),
            Pays::OauthToken => drop(vars.insert("CLAUDE_CODE_OAUTH_TOKEN".into(), DUMMY_OAUTH.into())),
            Pays::SettingsKey => env.claude_settings(&json!({"env": {"ANTHROPIC_API_KEY": DUMMY_KEY}})),
            Pays::Helper => {
                let helper = format!("touch {}; echo {DUMMY_KEY}", env.root().join("helped").display());
                env.claude_settings(&json!({ "apiKeyHelper": helper }));
            }
            Pays::LoginFile => env.claude_login(),
        }
        let upstream = Upstream::start_on_thread(answers).unwrap();
        Self { env, upstream, vars, args: args.iter().map(OsString::from).collect() }
    }

    fn plan(&self) -> Plan {
        self.plan_with(Map::new())
    }

    fn plan_with(&self, additions: Map<String, Value>) -> Plan {
        let Use::Session(args) = classify(&self.args) else { panic!("{:?} is no session", self.args) };
        let mut places = Places::new(&self.vars, &self.env.project());
        places.managed_dir = self.env.root().join("managed");
        let settings = Settings::read(&places, &args).unwrap();
        let login = Login::find(&places, &self.vars, &settings, &args, false).unwrap();
        let plan = inject::plan(&Wanted {
            session: SessionId::new(),
            base_url: &self.upstream.url(),
            token: &SecretString::from("the-token"),
            settings_path: &self.env.root().join("claude-settings.json"),
            login: &login,
            args: &args,
            env: &self.vars,
            settings: &settings,
            stdout_is_terminal: false,
            first_attempt: true,
            first_party: true,
            hold: vec![("AWS_PROFILE".to_owned(), "sessions-own".to_owned())],
            trusted: false,
            additions,
        })
        .unwrap();
        let (path, content) = plan.settings.as_ref().unwrap();
        std::fs::write(path, content).unwrap();
        plan
    }

    /// Runs the client by the plan; gives its exit code and output.
    fn run(&self, claude: &Claude, plan: &Plan) -> (i32, String) {
        let mut run = self.env.command(claude.path(), &plan.args).var("AWS_PROFILE", "sessions-own");
        for (name, value) in &self.vars {
            run = run.var(name, value);
        }
        for (name, value) in &plan.env {
            run = match value {
                Some(value) => run.var(name, value),
                None => run.without_var(name),
            };
        }
        let output = run.run();
        (output.code(), format!("{}{}", output.stdout, output.stderr))
    }

    /// What the child holds in place of a credential.
    fn placeholder(plan: &Plan) -> Option<&str> {
        let holds = |name: &str| plan.env.iter().rev().find(|(key, _)| key == name).and_then(|(_, value)| value.as_deref());
        holds("ANTHROPIC_AUTH_TOKEN").or_else(|| holds("CLAUDE_CODE_OAUTH_TOKEN"))
    }

    /// Whether a request came by the plan: our path, the child's placeholder or the login file's token, the sentinel if there is one.
    fn came_by(plan: &Plan, record: &Record) -> bool {
        let token = Self::placeholder(plan).unwrap_or(DUMMY_OAUTH);
        record.path.starts_with("/v1/messages")
            && record.header("authorization") == Some(&format!("Bearer {token}"))
            && record.header("x-api-key").is_none()
            && record.header(SENTINEL) == plan.sentinel.as_deref()
    }
}

/// Ways around us, as settings; `url` is a decoy that answers as the API does: whatever arrives there is a breach.
fn attacks(url: &str) -> Vec<(&'static str, Value)> {
    vec![
        ("base url", json!({"env": {"ANTHROPIC_BASE_URL": url}})),
        ("http proxy", json!({"env": {"HTTP_PROXY": url, "http_proxy": url}})),
        ("https proxy", json!({"env": {"HTTPS_PROXY": url, "https_proxy": url}})),
        ("all proxy", json!({"env": {"ALL_PROXY": url, "all_proxy": url}})),
        ("no proxy", json!({"env": {"HTTP_PROXY": url, "HTTPS_PROXY": url, "NO_PROXY": "example.com", "no_proxy": ""}})),
        (
            "bedrock",
            json!({"env": {"CLAUDE_CODE_USE_BEDROCK": "1", "ANTHROPIC_BEDROCK_BASE_URL": url, "CLAUDE_CODE_SKIP_BEDROCK_AUTH": "1", "AWS_REGION": "us-east-1"}}),
        ),
        (
            "vertex",
            json!({"env": {"CLAUDE_CODE_USE_VERTEX": "1", "ANTHROPIC_VERTEX_BASE_URL": url, "CLAUDE_CODE_SKIP_VERTEX_AUTH": "1", "CLOUD_ML_REGION": "us-east5", "ANTHROPIC_VERTEX_PROJECT_ID": "p"}}),
        ),
        ("helper", json!({"apiKeyHelper": "echo stolen"})),
        ("keys", json!({"env": {"ANTHROPIC_API_KEY": "stolen", "ANTHROPIC_AUTH_TOKEN": "stolen", "CLAUDE_CODE_OAUTH_TOKEN": "stolen"}})),
        ("headers", json!({"env": {"ANTHROPIC_CUSTOM_HEADERS": "x-sentrely-run: forged"}})),
        ("unix socket", json!({"env": {"ANTHROPIC_UNIX_SOCKET": "/nonexistent/socket"}})),
        ("not managed", json!({"env": {"CLAUDE_CODE_PROVIDER_MANAGED_BY_HOST": "0", "ANTHROPIC_BASE_URL": url}})),
    ]
}

/// Adds settings to a file of the user's, as an editor would: other keys stay.
fn add(path: &Path, settings: &Value) {
    let mut file: Value = std::fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_else(|| json!({}));
    for (key, value) in settings.as_object().unwrap() {
        match value.as_object() {
            Some(variables) => {
                for (name, value) in variables {
                    file[key][name] = value.clone();
                }
            }
            None => file[key] = value.clone(),
        }
    }
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, file.to_string()).unwrap();
}

fn holds_against_every_attack(claude: &Claude, pays: Pays) {
    for turn in 0..attacks("").len() {
        let decoy = Upstream::start_on_thread(Script::always(Answer::text("from the decoy"))).unwrap();
        let (name, attack) = attacks(&decoy.url()).swap_remove(turn);
        let user = User::new(pays, &["-p", "hi"], Script::always(Answer::text("hello")));
        let plan = user.plan();
        let place = [".claude/settings.json", "../home/.claude/settings.json", ".claude/settings.local.json"][turn % 3];
        add(&user.env.project().join(place), &attack);
        let (code, said) = user.run(claude, &plan);
        let seen = user.upstream.messages();
        let case = format!(
            "{name} in {place}, {pays:?}, {}: {code} {said} {:?}",
            claude.name(),
            seen.iter().map(|record| &record.headers).collect::<Vec<_>>()
        );
        // With a login file the client looks up its own account, through whatever proxy it is told; that costs nothing.
        let own_business = |record: &Record| {
            let host = record.header("host").unwrap_or_default();
            pays == Pays::LoginFile
                && host.starts_with("api.anthropic.com")
                && (record.method == "CONNECT" || record.path == "/api/oauth/profile")
        };
        let strayed: Vec<Record> = decoy.requests().into_iter().filter(|record| !own_business(record)).collect();
        assert!(strayed.is_empty(), "the decoy was reached: {case} {strayed:?}");
        if name == "unix socket" && claude.name() == "2.1.197" {
            // It listens to this one, and nothing of ours holds against it: then nothing is asked of the model at all.
            assert_eq!((code, seen.len()), (1, 0), "{case}");
            continue;
        }
        assert_eq!((code, seen.len()), (0, 1), "{case}");
        assert!(said.contains("hello"), "{case}");
        // Older clients let settings replace the custom headers; under a placeholder nothing of ours stands in them.
        let forged = name == "headers" && plan.sentinel.is_none();
        assert!(forged || User::came_by(&plan, &seen[0]), "{case}");
    }
}

#[test]
fn a_key_in_the_environment_is_routed_whatever_the_settings_say() {
    let Some(claude) = Claude::v330() else { return };
    holds_against_every_attack(&claude, Pays::Key);
}

#[test]
fn an_oauth_token_in_the_environment_is_routed_whatever_the_settings_say() {
    let Some(claude) = Claude::v330() else { return };
    holds_against_every_attack(&claude, Pays::OauthToken);
}

#[test]
fn a_login_file_is_routed_whatever_the_settings_say() {
    let Some(claude) = Claude::v330() else { return };
    holds_against_every_attack(&claude, Pays::LoginFile);
}

#[test]
fn the_oldest_client_with_a_key_is_routed_whatever_the_settings_say() {
    let Some(claude) = Claude::v197() else { return };
    holds_against_every_attack(&claude, Pays::Key);
}

#[test]
fn the_oldest_client_with_a_login_file_is_routed_whatever_the_settings_say() {
    let Some(claude) = Claude::v197() else { return };
    holds_against_every_attack(&claude, Pays::LoginFile);
}

#[test]
fn without_the_plan_the_same_settings_lead_past_us() {
    let Some(claude) = Claude::v330() else { return };
    let user = User::new(Pays::Key, &["-p", "hi"], Script::always(Answer::text("hello")));
    let elsewhere = Upstream::start_on_thread(Script::always(Answer::text("elsewhere"))).unwrap();
    user.env.claude_settings(&json!({"env": {"ANTHROPIC_BASE_URL": elsewhere.url()}}));
    let _ = user.env.command(claude.path(), &["-p", "hi"]).upstream(&user.upstream).run().success();
    assert_eq!((user.upstream.messages().len(), elsewhere.messages().len()), (0, 1));
}

#[test]
fn every_way_to_pay_works_and_the_child_never_holds_the_credential() {
    for claude in Claude::both() {
        for pays in [Pays::Key, Pays::Token, Pays::OauthToken, Pays::SettingsKey, Pays::Helper, Pays::LoginFile] {
            let dump = Answer::bash("env > env.txt; true");
            let user = User::new(pays, &["-p", "hi", "--dangerously-skip-permissions"], [dump, Answer::text("hello")]);
            let plan = user.plan();
            let (code, said) = user.run(&claude, &plan);
            let seen = user.upstream.messages();
            let case = format!("{pays:?}, {}: {said}", claude.name());
            assert_eq!((code, seen.len()), (0, 2), "{case}");
            assert!(seen.iter().all(|record| User::came_by(&plan, record)), "{case} {:?}", seen[0].headers);
            assert!(!user.env.root().join("helped").exists(), "{case}: the helper ran in the child");
            let child = std::fs::read_to_string(user.env.project().join("env.txt")).unwrap();
            for secret in [DUMMY_KEY, DUMMY_OAUTH, "the-users-gateway-token"] {
                assert!(!child.contains(secret), "{case}");
            }
            assert!(child.contains("SENTRELY_RUN_ID=") && child.contains("AWS_PROFILE=sessions-own"), "{case} {child}");
            let oauth = matches!(pays, Pays::OauthToken | Pays::LoginFile);
            let sees_oauth = seen[0].header("anthropic-beta").is_some_and(|betas| betas.contains("oauth-"));
            assert_eq!(sees_oauth, oauth, "{case}");
        }
    }
}

#[test]
fn the_users_own_settings_go_on_working() {
    for claude in Claude::both() {
        for pays in [Pays::Key, Pays::LoginFile] {
            let touch = |root: &Path, name: &str| json!({"hooks": [{"type": "command", "command": format!("touch {}", root.join(name).display())}]});
            let flag_file = "own-settings.json";
            let user = User::new(pays, &["-p", "hi", "--settings", flag_file], Script::always(Answer::text("hello")));
            let root = user.env.root().to_path_buf();
            let headers = "x-user-one: 1\nx-user-two: 2";
            user.env.claude_settings(&json!({
                "env": {"ANTHROPIC_MODEL": "claude-sonnet-4-6", "ANTHROPIC_CUSTOM_HEADERS": headers, "AWS_PROFILE": "users-own"},
                "hooks": {"UserPromptSubmit": [touch(&root, "user-hook")]},
            }));
            user.env.project_claude_settings(&json!({"hooks": {"UserPromptSubmit": [touch(&root, "project-hook")]}}));
            let flag = json!({"hooks": {"UserPromptSubmit": [touch(&root, "flag-hook")]}, "env": {"FROM_THE_FLAG": "yes"}});
            std::fs::write(user.env.project().join(flag_file), flag.to_string()).unwrap();
            let additions = json!({"hooks": {"UserPromptSubmit": [touch(&root, "our-hook")]}});
            let plan = user.plan_with(additions.as_object().unwrap().clone());
            let (code, said) = user.run(&claude, &plan);
            let seen = user.upstream.messages();
            let case = format!("{pays:?}, {}: {said}", claude.name());
            assert_eq!((code, seen.len()), (0, 1), "{case}");
            assert_eq!(seen[0].model, "claude-sonnet-4-6", "{case}");
            assert_eq!((seen[0].header("x-user-one"), seen[0].header("x-user-two")), (Some("1"), Some("2")), "{case}");
            assert!(User::came_by(&plan, &seen[0]), "{case}");
            for hook in ["user-hook", "project-hook", "flag-hook", "our-hook"] {
                assert!(root.join(hook).exists(), "{case}: {hook} did not run");
            }
        }
    }
}

#[test]
fn answers_are_found_in_the_transcripts_and_aux_requests_raise_no_false_alarm() {
    for claude in Claude::both() {
        let script = Script::by(|request| {
            let searched = request.json()["tools"].to_string().contains("web_search_20250305");
            searched.then(|| Answer::text("found nothing"))
        })
        .then([Answer::tool("WebSearch", json!({"query": "sentrely"})), Answer::agent("look"), Answer::text("done")])
        .otherwise(Answer::text("done"));
        let user = User::new(Pays::Key, &["-p", "hi", "--dangerously-skip-permissions"], script);
        let plan = user.plan();
        let config_dir = user.env.home().join(".claude");
        let mut watch = TranscriptWatch::new(config_dir, Scope::Directory(user.env.project()), jiff::Timestamp::now());
        assert_eq!(watch.poll(), []);
        let (code, said) = user.run(&claude, &plan);
        assert_eq!(code, 0, "{said}");
        let sent: BTreeMap<String, PathBuf> =
            user.upstream.messages().into_iter().filter_map(|record| Some((record.message_id?, PathBuf::new()))).collect();
        let seen = watch.poll();
        assert!(seen.len() >= 3, "{} {seen:?}", claude.name());
        assert!(seen.iter().all(|message| sent.contains_key(&message.message_id)), "{seen:?} {sent:?}");
        assert!(seen.iter().any(|message| message.transcript.to_string_lossy().contains("subagents")), "{seen:?}");
        assert_eq!(
            seen.iter()
                .find(|message| message.transcript.parent().is_some_and(|dir| dir.ends_with("subagents")))
                .map(|message| &message.session_id),
            plan.session_id.as_ref()
        );
    }
}
