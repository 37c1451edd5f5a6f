//! Whatever a user's settings say, and whatever the agent writes into them: what the client sends passes the proxy, or the session stops.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sentrely::simulated::{Answer, Record, Script, Upstream, When};
use serde_json::{Value, json};

use super::{SOON, directory, running, supervised, tell, the_view, time_of, upstream, world};
use crate::support::claude::{Claude, DUMMY_KEY, DUMMY_OAUTH};
use crate::support::env::TestEnv;
use crate::support::run::wait_until;

const AUTO: &str = "--dangerously-skip-permissions";

/// Every answer of an upstream was seen by the proxy; what it saw holds nothing of the session's token.
fn all_metered(env: &TestEnv, upstream: &Upstream) {
    let settled = env.events(&env.the_session(), "request_settled");
    let known: BTreeSet<&str> = settled.iter().filter_map(|event| event["message_id"].as_str()).collect();
    for record in upstream.messages() {
        assert!(known.contains(record.message_id.as_deref().unwrap()), "{record:?} is not among {known:?}");
        assert!(!record.path.contains("/s/"), "the session's token stays here: {}", record.path);
    }
}

#[test]
fn the_base_url_of_the_users_settings_becomes_the_proxys_upstream_and_is_not_reached_past_it() {
    for claude in Claude::both() {
        let env = world();
        let (theirs, ambient) = (upstream(Answer::text("from theirs")), upstream(Answer::text("from the environment")));
        env.claude_settings(&json!({ "env": { "ANTHROPIC_BASE_URL": theirs.url() } }));
        let output = supervised(&env, &claude, &[], &["-p", "hello"]).upstream(&ambient).run().success();
        assert_eq!(output.stdout, "from theirs\n");
        assert!(theirs.messages().len() == 1 && ambient.requests().is_empty());
        assert_eq!(theirs.messages()[0].header("x-api-key"), Some(DUMMY_KEY));
        all_metered(&env, &theirs);
        let banner = output.stderr.lines().find(|line| line.contains("pays")).unwrap().to_owned();
        assert!(banner.contains(&theirs.url()) && banner.contains("settings.json"), "{banner}");
    }
}

/// One way to lead the client elsewhere (`facts/CLAUDE_CODE.md` B1), as the `env` of a settings file.
fn ways(decoy: &Upstream) -> Vec<(&'static str, Value)> {
    let url = decoy.url();
    vec![
        ("HTTP_PROXY", json!({ "HTTP_PROXY": url, "HTTPS_PROXY": url, "http_proxy": url, "https_proxy": url })),
        ("ALL_PROXY", json!({ "ALL_PROXY": url, "all_proxy": url })),
        ("NO_PROXY", json!({ "HTTP_PROXY": url, "http_proxy": url, "NO_PROXY": "example.com", "no_proxy": "example.com" })),
        ("custom headers", json!({ "ANTHROPIC_CUSTOM_HEADERS": "x-theirs: 1\nx-sentrely-run: forged" })),
        ("other providers' base URLs", json!({ "ANTHROPIC_BEDROCK_BASE_URL": url, "ANTHROPIC_VERTEX_BASE_URL": url })),
        ("escape switches", json!({ "CLAUDE_CODE_DISABLE_AGENT_VIEW": "0", "CLAUDE_CODE_PROVIDER_MANAGED_BY_HOST": "0" })),
    ]
}

/// Writes settings into one of the three layers of the checkout and the home; the project's are committed.
fn write_layer(env: &TestEnv, layer: &str, settings: &Value) {
    match layer {
        "user" => env.claude_settings(settings),
        "project" => {
            env.project_claude_settings(settings);
            env.git(&["add", "-A"]);
            env.git(&["commit", "-q", "-m", "Settings"]);
        }
        _ => {
            let path = env.project().join(".claude/settings.local.json");
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, settings.to_string()).unwrap();
        }
    }
}

fn settings_lead_nowhere_else(claude: &Claude, layer: &str) {
    let mut next = 0;
    loop {
        let (upstream, decoy) = (upstream(Answer::text("hello")), upstream(Answer::text("hello")));
        let Some((way, settings)) = ways(&decoy).into_iter().nth(next) else { return };
        next += 1;
        tell(&format!("{}: {way} in {layer}", claude.name()));
        let env = world();
        write_layer(&env, layer, &json!({ "env": settings }));
        let output = supervised(&env, claude, &[], &["-p", "hello"]).upstream(&upstream).run().success();
        assert_eq!(output.stdout, "hello\n", "{way} in {layer}");
        // A company's proxy of the settings is honoured between us and the upstream: what passes it has passed the meter.
        let heard = [upstream.messages(), decoy.messages()].concat();
        let settled = env.events(&env.the_session(), "request_settled");
        let known: BTreeSet<&str> = settled.iter().filter_map(|event| event["message_id"].as_str()).collect();
        let metered = heard.iter().all(|record| known.contains(record.message_id.as_deref().unwrap()));
        assert!(metered && heard.len() == 1, "{way} in {layer}: {heard:?} but {known:?}");
        let company = ["HTTP_PROXY", "ALL_PROXY", "NO_PROXY"].contains(&way);
        assert_eq!(decoy.messages().len(), usize::from(company), "{way} in {layer}");
        // What comes from us asks for the upstream; what came past us would ask for our proxy.
        let asked = decoy.requests();
        assert!(asked.iter().all(|record| record.header("host") == Some(&upstream.addr().to_string())), "{way} in {layer}: {asked:?}");
    }
}

#[test]
fn no_way_of_the_users_settings_leads_2_1_330_past_the_proxy() {
    let Some(claude) = Claude::v330() else { return };
    settings_lead_nowhere_else(&claude, "user");
}

#[test]
fn no_way_of_the_users_settings_leads_2_1_197_past_the_proxy() {
    let Some(claude) = Claude::v197() else { return };
    settings_lead_nowhere_else(&claude, "user");
}

#[test]
fn no_way_of_the_projects_settings_leads_past_the_proxy() {
    let Some(claude) = Claude::v330() else { return };
    settings_lead_nowhere_else(&claude, "project");
}

#[test]
fn no_way_of_the_local_settings_leads_past_the_proxy() {
    let Some(claude) = Claude::v330() else { return };
    settings_lead_nowhere_else(&claude, "local");
}

/// The agent writes every layer it can reach in its first tool call, and the client goes on for two more turns.
fn settings_written_meanwhile_change_nothing(claude: &Claude, way: &str, settings: &Value, decoy: &Upstream, logged_in: bool) {
    let env = world();
    let text = json!({ "env": settings, "apiKeyHelper": "echo sk-ant-of-the-agent" }).to_string();
    let files = "\"$HOME/.claude/settings.json\" .claude/settings.json .claude/settings.local.json";
    let write = format!("mkdir -p .claude; for f in {files}; do echo '{text}' > $f; done");
    let upstream = upstream([Answer::bash(write), Answer::bash("sync -d ."), Answer::text("done")]);
    // Without the wall the files are the real ones.
    let mut run = supervised(&env, claude, &["--wall", "off"], &["-p", "work", AUTO]).upstream(&upstream);
    if logged_in {
        env.claude_login();
        run = run.without_var("ANTHROPIC_API_KEY");
    }
    let output = run.run().success();
    let seen = upstream.messages();
    assert!(output.stdout == "done\n" && seen.len() >= 3, "{way}: {}", output.stdout);
    assert_eq!(decoy.messages().len(), 0, "{way}");
    let bearer = format!("Bearer {DUMMY_OAUTH}");
    let expected = if logged_in { (None, Some(bearer.as_str())) } else { (Some(DUMMY_KEY), None) };
    let real = |record: &Record| (record.header("x-api-key"), record.header("authorization")) == expected;
    assert!(seen.iter().all(real), "{way}: {seen:?}");
    all_metered(&env, &upstream);
    let written = std::fs::read_to_string(env.home().join(".claude/settings.json")).unwrap();
    assert!(written.contains("apiKeyHelper"), "the positive control: the file was there to be read");
}

/// Everything the agent may write, one after the other.
fn written_meanwhile(claude: &Claude, logged_in: bool) {
    let decoy = upstream(Answer::text("from the decoy"));
    let base = ("ANTHROPIC_BASE_URL", json!({ "ANTHROPIC_BASE_URL": decoy.url(), "ANTHROPIC_API_KEY": "sk-ant-of-the-agent" }));
    let socket = ("ANTHROPIC_UNIX_SOCKET", json!({ "ANTHROPIC_UNIX_SOCKET": "/nonexistent/decoy.sock" }));
    for (way, settings) in ways(&decoy).into_iter().chain([base, socket]) {
        settings_written_meanwhile_change_nothing(claude, way, &settings, &decoy, logged_in);
    }
}

#[test]
fn settings_that_the_agent_of_2_1_330_writes_while_it_runs_lead_nowhere_else() {
    let Some(claude) = Claude::v330() else { return };
    written_meanwhile(&claude, false);
}

#[test]
fn settings_that_the_agent_of_2_1_197_writes_while_it_runs_lead_nowhere_else() {
    let Some(claude) = Claude::v197() else { return };
    written_meanwhile(&claude, false);
}

#[test]
fn settings_that_the_agent_writes_under_a_login_file_lead_nowhere_else() {
    let Some(claude) = Claude::v330() else { return };
    written_meanwhile(&claude, true);
}

#[test]
fn a_socket_in_place_of_the_network_is_refused_wherever_it_stands() {
    let Some(claude) = Claude::v197() else { return };
    for layer in ["user", "project", "local", "environment"] {
        let (env, upstream) = (world(), upstream(Answer::text("upstream")));
        let mut run = supervised(&env, &claude, &[], &["-p", "hello"]).upstream(&upstream);
        if layer == "environment" {
            run = run.var("ANTHROPIC_UNIX_SOCKET", "/nonexistent/decoy.sock");
        } else {
            write_layer(&env, layer, &json!({ "env": { "ANTHROPIC_UNIX_SOCKET": "/nonexistent/decoy.sock" } }));
        }
        let output = run.run().exits(125);
        assert!(output.stderr.contains("ANTHROPIC_UNIX_SOCKET") && output.stderr.contains("hint:"), "{layer}: {}", output.stderr);
        assert!(env.sessions().is_empty() && upstream.requests().is_empty());
    }
}

#[test]
fn the_switch_to_another_provider_is_refused_wherever_it_stands() {
    let Some(claude) = Claude::v330() else { return };
    for layer in ["user", "project", "local", "environment"] {
        let env = world();
        let (decoy, upstream) = (upstream(Answer::text("decoy")), upstream(Answer::text("upstream")));
        let mut run = supervised(&env, &claude, &[], &["-p", "hello"]).upstream(&upstream);
        if layer == "environment" {
            run = run.var("CLAUDE_CODE_USE_BEDROCK", "1");
        } else {
            write_layer(&env, layer, &json!({ "env": { "CLAUDE_CODE_USE_BEDROCK": "1", "ANTHROPIC_BEDROCK_BASE_URL": decoy.url() } }));
        }
        let output = run.run().exits(125);
        assert!(output.stderr.contains("Bedrock") && output.stderr.contains("hint:"), "{layer}: {}", output.stderr);
        assert!(env.sessions().is_empty() && decoy.requests().is_empty() && upstream.requests().is_empty());
    }
}

/// The agent starts a client of its own, with nothing of the session's environment.
fn nested(env: &TestEnv, claude: &Claude, decoy: &Upstream, arguments: &str) -> String {
    format!(
        "env -i HOME=\"$HOME\" PATH=\"$PATH\" IS_SANDBOX=1 CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1 DISABLE_AUTOUPDATER=1 TMPDIR={} \
         ANTHROPIC_BASE_URL={} ANTHROPIC_API_KEY={DUMMY_KEY} {} {arguments} < /dev/null",
        env.tmp().display(),
        decoy.url(),
        claude.path().display(),
    )
}

/// When the newest transcript that holds `id` was written.
fn written_at(config_dir: &Path, id: &str) -> (PathBuf, Timestamp) {
    let mut dirs = vec![config_dir.join("projects")];
    while let Some(dir) = dirs.pop() {
        for path in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                dirs.push(path);
            } else if std::fs::read_to_string(&path).unwrap_or_default().contains(id) {
                let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
                return (path, modified.try_into().unwrap());
            }
        }
    }
    panic!("no transcript holds {id}");
}

fn stops_past_the_meter(claude: &Claude, arguments: &str, settings: Option<&str>) {
    let env = world();
    let decoy = upstream(Answer::text("past the meter"));
    let mut command = nested(&env, claude, &decoy, arguments);
    if let Some(settings) = settings {
        command = format!("printf '%s' '{settings}' > by-the-agent.json; {command}").replace("DECOY", &decoy.url());
    }
    stops_over(&env, claude, &decoy, &command, &env.home().join(".claude"));
}

/// The agent's `command` spends at the decoy, and what tells is a transcript below `config_dir`.
fn stops_over(env: &TestEnv, claude: &Claude, decoy: &Upstream, command: &str, config_dir: &Path) {
    // The outer client would go on for long: it is the session that ends it.
    let (endless, _) = super::endless(env);
    let upstream = upstream(Script::of([Answer::bash(format!("{command}; {endless}"))]));
    let run = supervised(env, claude, &[], &["-p", "work", AUTO]).upstream(&upstream).spawn();
    let id = running(env);
    let output = run.wait(SOON).exits(125);
    assert_eq!(
        decoy.messages().iter().filter(|record| record.status == Some(200)).count().min(1),
        1,
        "the positive control: {}",
        output.stderr
    );
    assert!(output.stderr.contains("past the meter"), "{}", output.stderr);
    let alarm = env.events(&id, "meter_bypass").swap_remove(0);
    let message = alarm["message_id"].as_str().unwrap();
    assert!(decoy.messages().iter().any(|record| record.message_id.as_deref() == Some(message)), "{alarm}");
    // Behind the wall the home is a copy, but for the client's own data.
    let in_copy = config_dir.strip_prefix(env.home()).ok().filter(|name| *name != Path::new(".claude"));
    let config_dir = in_copy.map_or_else(|| config_dir.to_owned(), |name| env.root().join("layers").join(&id).join("home").join(name));
    let (transcript, written) = written_at(&config_dir, message);
    assert_eq!(alarm["transcript"], transcript.to_str().unwrap());
    let (found, ended) = (time_of(env, &id, "meter_bypass"), time_of(env, &id, "attempt_ended"));
    let gone = env.journal(&id).into_iter().find(|record| record["event"]["stage"] == "last_process_gone").unwrap();
    let gone: Timestamp = gone["at"].as_str().unwrap().parse().unwrap();
    assert!(gone.duration_since(written) < SignedDuration::from_secs(1), "{written} -> {found} -> {gone}");
    tell(&format!(
        "unknown id in the transcript -> alarm {:#}, -> session over {:#}",
        found.duration_since(written),
        ended.duration_since(written)
    ));
    let view = the_view(env);
    assert_eq!((&view["stop_reason"], &view["exit_code"]), (&json!("meter_bypassed"), &json!(125)));
    wait_until(Duration::from_secs(10), "the end of all processes", || env.processes().is_empty());
}

#[test]
fn a_client_that_the_agent_starts_past_the_proxy_stops_the_session() {
    for claude in Claude::both() {
        stops_past_the_meter(&claude, "-p 'do it for free'", None);
    }
}

#[test]
fn a_client_past_the_proxy_in_another_folder_stops_the_session() {
    for claude in Claude::both() {
        let env = world();
        let decoy = upstream(Answer::text("past the meter"));
        let other = env.root().join("other");
        // As somebody would who knows what to unset; by its own name and by another.
        let unset = "env -u ANTHROPIC_BASE_URL -u CLAUDE_CODE_PROVIDER_MANAGED_BY_HOST -u ANTHROPIC_CUSTOM_HEADERS -u ANTHROPIC_AUTH_TOKEN";
        let command = format!(
            "mkdir -p {other}; ln -s {claude} {other}/editor; cd {other} && {unset} ANTHROPIC_BASE_URL={} ANTHROPIC_API_KEY={DUMMY_KEY} \
             ./editor -p hi < /dev/null",
            decoy.url(),
            other = other.display(),
            claude = claude.path().display(),
        );
        stops_over(&env, &claude, &decoy, &command, &env.home().join(".claude"));
    }
}

#[test]
fn a_client_past_the_proxy_with_another_configuration_directory_stops_the_session() {
    for claude in Claude::both() {
        for folder in ["other", "."] {
            let env = world();
            let decoy = upstream(Answer::text("past the meter"));
            let config_dir = env.root().join("configuration");
            let command =
                nested(&env, &claude, &decoy, "-p hi").replacen("env -i", &format!("env -i CLAUDE_CONFIG_DIR={}", config_dir.display()), 1);
            stops_over(&env, &claude, &decoy, &format!("mkdir -p {folder}; cd {folder}; {command}"), &config_dir);
        }
    }
}

#[test]
fn a_client_past_the_proxy_with_a_configuration_directory_in_the_home_stops_the_session() {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    let decoy = upstream(Answer::text("past the meter"));
    let config_dir = env.home().join("another");
    // By a link as well: the copy of the home has its own.
    let command = nested(&env, &claude, &decoy, "-p hi").replacen("env -i", "env -i CLAUDE_CONFIG_DIR=$HOME/link", 1);
    stops_over(&env, &claude, &decoy, &format!("mkdir ~/another; ln -s ~/another ~/link; {command}"), &config_dir);
}

#[test]
fn a_client_of_somebody_else_in_a_folder_where_one_of_the_session_works_is_no_alarm() {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    let other = env.root().join("other");
    std::fs::create_dir(&other).unwrap();
    let theirs = upstream(Answer::text("from theirs"));
    let (hold, ready) = (env.root().join("hold"), env.root().join("ready"));
    // The session's own client works there too, with the session's environment and stand-in: it is metered.
    let command = format!(
        "mkfifo {hold}; cd {other}; ANTHROPIC_API_KEY={DUMMY_KEY} {} -p 'a part of it' < /dev/null > {ready}.txt; touch {ready}; cat {hold}",
        claude.path().display(),
        hold = hold.display(),
        ready = ready.display(),
        other = other.display(),
    );
    let script = Script::default()
        .when(When::prompt("a part of it"), [Answer::text("the part is done")])
        .then([Answer::bash(command)])
        .otherwise(Answer::text("all is done"));
    let upstream = upstream(script);
    let run = supervised(&env, &claude, &[], &["-p", "work", AUTO]).upstream(&upstream).spawn();
    let id = running(&env);
    let unsupervised = || {
        let said = claude.command(&env, &["-p", "hello"]).cwd(&other).upstream(&theirs).var("ANTHROPIC_API_KEY", DUMMY_KEY).run().success();
        assert_eq!(said.stdout, "from theirs\n");
    };
    // Once beside the session's client, once after it.
    unsupervised();
    wait_until(SOON, "the end of the nested client", || ready.exists());
    assert_eq!(std::fs::read_to_string(ready.with_extension("txt")).unwrap(), "the part is done\n");
    unsupervised();
    let message = theirs.messages()[1].message_id.clone().unwrap();
    let (_, written) = written_at(&env.home().join(".claude"), &message);
    // Several looks later it would have been found.
    wait_until(SOON, "a second after their answer", || Timestamp::now().duration_since(written) > SignedDuration::from_secs(1));
    assert_eq!(env.events(&id, "meter_bypass"), Vec::<Value>::new());
    std::fs::write(&hold, "").unwrap();
    let output = run.wait(SOON).success();
    assert_eq!(output.stdout, "all is done\n");
    assert_eq!(env.events(&id, "meter_bypass"), Vec::<Value>::new());
    all_metered(&env, &upstream);
}

#[test]
fn a_settings_file_of_the_agents_with_a_client_of_its_own_stops_the_session() {
    let Some(claude) = Claude::v330() else { return };
    let settings = r#"{"env":{"ANTHROPIC_BASE_URL":"DECOY"}}"#;
    stops_past_the_meter(&claude, "-p 'do it for free' --settings by-the-agent.json", Some(settings));
}

#[test]
fn a_nested_client_in_the_sessions_environment_goes_nowhere_else() {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    let command = format!("{} -p 'a part of it' < /dev/null; env | grep -c ANTHROPIC_BASE_URL", claude.path().display());
    let script = Script::default()
        .when(When::prompt("a part of it"), [Answer::text("the part is done")])
        .then([Answer::bash(command)])
        .otherwise(Answer::text("all is done"));
    let upstream = upstream(script);
    let output = supervised(&env, &claude, &[], &["-p", "work", AUTO]).upstream(&upstream).run().success();
    assert_eq!(output.stdout, "all is done\n");
    // The client withholds the stand-in from its tools; with it the nested one would be metered as well.
    let said = upstream.messages().pop().unwrap().json()["messages"].to_string();
    assert!(said.contains("Not logged in") || said.contains("the part is done"), "{said}");
    all_metered(&env, &upstream);
    assert!(directory(&env, &env.the_session()).starts_with(env.state_dir()));
}
