use secrecy::ExposeSecret;
use serde_json::json;

use super::super::settings::{Layer, Source};
use super::*;

struct Case {
    login: Login,
    args: SessionArgs,
    env: Env,
    settings: Settings,
    additions: Map<String, Value>,
    first_attempt: bool,
}

impl Case {
    fn new(login: Login) -> Self {
        let args = SessionArgs { print: true, rest: vec!["-p".into(), "hi".into()], ..SessionArgs::default() };
        Self { login, args, env: Env::new(), settings: Settings::default(), additions: Map::new(), first_attempt: true }
    }

    fn with(mut self, source: Source, values: &Value) -> Self {
        let path = (source != Source::Flag).then(|| PathBuf::from("/settings.json"));
        self.settings.layers.push(Layer { source, path, values: values.as_object().unwrap().clone() });
        self
    }

    fn plan(&self) -> Plan {
        plan(&Wanted {
            session: "9f3a12cd-0000-4000-8000-000000000001".parse().unwrap(),
            base_url: "http://127.0.0.1:4711/s/tok",
            token: &SecretString::from("tok"),
            settings_path: Path::new("/session/claude-settings.json"),
            login: &self.login,
            args: &self.args,
            env: &self.env,
            settings: &self.settings,
            stdout_is_terminal: true,
            first_attempt: self.first_attempt,
            first_party: false,
            hold: vec![("GIT_CONFIG_COUNT".to_owned(), "1".to_owned())],
            trusted: false,
            additions: self.additions.clone(),
        })
        .unwrap()
    }
}

fn key(origin: Origin) -> Login {
    Login::ApiKey { key: "sk-real".to_owned().into(), origin }
}

fn variable<'p>(plan: &'p Plan, name: &str) -> Option<&'p str> {
    plan.env.iter().rev().find(|(key, _)| key == name).and_then(|(_, value)| value.as_deref())
}

fn merged(plan: &Plan) -> Value {
    serde_json::from_slice(&plan.settings.as_ref().unwrap().1).unwrap()
}

#[test]
fn a_known_credential_is_replaced_by_a_placeholder_in_the_host_managed_mode() {
    let plan = Case::new(key(Origin::Environment)).plan();
    assert_eq!(variable(&plan, "CLAUDE_CODE_PROVIDER_MANAGED_BY_HOST"), Some("1"));
    assert_eq!(variable(&plan, "ANTHROPIC_BASE_URL"), Some("http://127.0.0.1:4711/s/tok"));
    assert!(plan.env.contains(&("ANTHROPIC_API_KEY".to_owned(), None)));
    assert!(variable(&plan, "ANTHROPIC_AUTH_TOKEN").is_some_and(|token| token.starts_with("ey") && token.split('.').count() == 3));
    assert!(matches!(&plan.credential, Credential::ApiKey(real) if real.expose_secret() == "sk-real"));
    assert_eq!((plan.sentinel.as_deref(), plan.refusal_unified), (None, true));
    assert!(!format!("{plan:?}{}", merged(&plan)).contains("sk-real"));
}

#[test]
fn a_login_file_stays_the_clients_and_the_merged_settings_carry_the_route_and_the_sentinel() {
    let case = Case::new(Login::LoginFile).with(Source::User, &json!({"env": {"ANTHROPIC_CUSTOM_HEADERS": "x-mine: 1"}}));
    let plan = case.plan();
    let env = &merged(&plan)["env"];
    let sentinel = plan.sentinel.clone().unwrap();
    assert_eq!(env["ANTHROPIC_CUSTOM_HEADERS"], format!("x-mine: 1\nx-sentrely-run: {sentinel}"));
    assert_eq!(env["ANTHROPIC_BASE_URL"], "http://127.0.0.1:4711/s/tok");
    assert_eq!((&env["ANTHROPIC_API_KEY"], &env["CLAUDE_CODE_USE_BEDROCK"]), (&json!(""), &json!("0")));
    assert_eq!(env["GIT_CONFIG_COUNT"], "1");
    assert!(plan.env.contains(&("CLAUDE_CODE_PROVIDER_MANAGED_BY_HOST".to_owned(), None)));
    assert!(plan.env.iter().all(|(name, value)| !CREDENTIALS.contains(&name.as_str()) || value.is_none()));
    assert!(matches!(plan.credential, Credential::PassThrough));
}

#[test]
fn headers_that_an_administrator_set_take_the_sentinels_place() {
    let case = Case::new(Login::LoginFile).with(Source::Managed, &json!({"env": {"ANTHROPIC_CUSTOM_HEADERS": "x-admin: 1"}}));
    let plan = case.plan();
    assert_eq!((plan.sentinel.clone(), merged(&plan)["env"].get("ANTHROPIC_CUSTOM_HEADERS")), (None, None));
}

#[test]
fn models_and_headers_of_the_settings_are_lifted_into_the_environment_of_the_host_managed_mode() {
    let settings =
        json!({"env": {"ANTHROPIC_MODEL": "m", "ANTHROPIC_DEFAULT_HAIKU_MODEL": "h", "ANTHROPIC_CUSTOM_HEADERS": "x: 1", "OTHER": "o"}});
    let plan = Case::new(key(Origin::Environment)).with(Source::User, &settings).plan();
    let lifted =
        ["ANTHROPIC_MODEL", "ANTHROPIC_DEFAULT_HAIKU_MODEL", "ANTHROPIC_CUSTOM_HEADERS", "OTHER"].map(|name| variable(&plan, name));
    assert_eq!(lifted, [Some("m"), Some("h"), Some("x: 1"), None]);
}

#[test]
fn loopback_is_spared_from_every_proxy_and_the_users_list_is_kept() {
    assert_eq!(without_proxy(None), "127.0.0.1,localhost");
    assert_eq!(without_proxy(Some("intern.example")), "intern.example,127.0.0.1,localhost");
    assert_eq!(without_proxy(Some("*")), "*");
    assert_eq!(without_proxy(Some("localhost,127.0.0.1")), "localhost,127.0.0.1");
    let plan = Case::new(key(Origin::Environment)).with(Source::User, &json!({"env": {"no_proxy": "a"}})).plan();
    let lists = ["NO_PROXY", "no_proxy"].map(|name| (variable(&plan, name).map(str::to_owned), merged(&plan)["env"][name].clone()));
    let both = "a,127.0.0.1,localhost";
    assert_eq!(lists, [(Some(both.to_owned()), json!(both)), (Some(both.to_owned()), json!(both))]);
}

#[test]
fn our_id_is_given_to_a_new_conversation_of_the_first_attempt_only() {
    let mut case = Case::new(key(Origin::Environment));
    let id = "9f3a12cd-0000-4000-8000-000000000001";
    let words = |list: &[&str]| list.iter().map(OsString::from).collect::<Vec<_>>();
    assert_eq!(case.plan().args, words(&["--settings", "/session/claude-settings.json", "--session-id", id, "-p", "hi"]));
    assert_eq!(case.plan().session_id.as_deref(), Some(id));
    case.first_attempt = false;
    assert_eq!(case.plan().args, words(&["--settings", "/session/claude-settings.json", "-p", "hi"]));
    case.first_attempt = true;
    case.args.continues = true;
    assert_eq!(case.plan().session_id, None);
}

#[test]
fn what_is_switched_off_depends_on_the_mode_and_is_said() {
    let mut case = Case::new(key(Origin::Environment)).with(Source::User, &json!({"teammateMode": "tmux"}));
    let plan = case.plan();
    assert_eq!(plan.off.len(), 3, "{:?}", plan.off);
    assert_eq!((merged(&plan)["teammateMode"].clone(), merged(&plan)["disableAgentView"].clone()), (json!("in-process"), json!(true)));
    assert_eq!(variable(&plan, "CLAUDE_CODE_DISABLE_CRON"), Some("1"));
    case.args.print = false;
    assert_eq!((case.plan().off.len(), variable(&case.plan(), "CLAUDE_CODE_DISABLE_CRON")), (3, None));
}

#[test]
fn hooks_that_the_user_switched_off_stay_off_and_it_is_said() {
    let mut case = Case::new(key(Origin::Environment)).with(Source::User, &json!({"disableAllHooks": true}));
    case.additions = json!({"hooks": {"Stop": [{"hooks": [{"type": "command", "command": "x"}]}]}}).as_object().unwrap().clone();
    let plan = case.plan();
    assert!(merged(&plan).get("disableAllHooks").is_none() && plan.notices[0].contains("hooks are switched off"));
}

#[test]
fn a_credential_in_a_file_is_said_to_be_within_the_agents_reach() {
    let plan = Case::new(key(Origin::Settings(Source::User, Some("/home/me/.claude/settings.json".into())))).plan();
    assert_eq!(plan.notices, ["the API key stands in /home/me/.claude/settings.json, where the agent can read it"]);
    assert!(Case::new(key(Origin::Environment)).plan().notices.is_empty());
}

#[test]
fn the_helper_runs_in_the_supervisor_and_never_in_the_child() {
    let helper = super::super::login::Helper { command: "vault read".to_owned(), ttl: Duration::from_mins(5) };
    let login = Login::Helper { helper, api_key: None, token: None, origin: Origin::Settings(Source::User, None) };
    let plan = Case::new(login).with(Source::User, &json!({"apiKeyHelper": "vault read"})).plan();
    assert_eq!(merged(&plan)["apiKeyHelper"], "");
    assert!(matches!(plan.credential, Credential::Helper { ref command, bearer: None, api_key: None, .. } if command == "vault read"));
}
