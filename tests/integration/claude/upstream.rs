//! Where the client's requests go, and how they get there: who says so, TLS, and a company's proxy on the way.

use sentrely::simulated::Answer;
use serde_json::json;

use super::{supervised, upstream, world};
use crate::support::claude::{Claude, DUMMY_KEY};
use crate::support::env::TestEnv;
use crate::support::proxy::{certificate, certificate_with, company_proxy, on_a_thread, tls_before};
use crate::support::run::Run;

const CERTIFICATES: &str = "NODE_EXTRA_CA_CERTS";

/// `sentrely run -- claude -p hi` with an upstream at that port, over TLS.
fn over_tls<'e>(env: &'e TestEnv, claude: &Claude, port: u16) -> Run<'e> {
    supervised(env, claude, &[], &["-p", "hi"])
        .var("ANTHROPIC_BASE_URL", format!("https://localhost:{port}"))
        .var("ANTHROPIC_API_KEY", DUMMY_KEY)
        .var("CLAUDE_CODE_MAX_RETRIES", "0")
}

#[test]
fn an_upstream_with_tls_is_trusted_by_the_certificates_that_the_environment_or_the_clients_settings_name() {
    let Some(claude) = Claude::v330() else { return };
    let authority = |params: &mut rcgen::CertificateParams| params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    for (place, marked) in [("environment", false), ("settings", false), ("settings", true), ("nowhere", false)] {
        let env = world();
        let upstream = upstream(Answer::text("hello"));
        let (tls, pem) = if marked { certificate_with(authority) } else { certificate() };
        let port = on_a_thread(tls_before(upstream.addr(), tls)).port();
        let file = env.root().join("company.pem");
        std::fs::write(&file, pem).unwrap();
        let mut run = over_tls(&env, &claude, port);
        match place {
            "environment" => run = run.var(CERTIFICATES, &file),
            "settings" => env.claude_settings(&json!({ "env": { CERTIFICATES: file } })),
            _ => {}
        }
        let output = run.run();
        let said = format!("{place}: {}{}", output.stdout, output.stderr);
        if place == "nowhere" {
            assert_eq!((output.code(), upstream.requests().len()), (1, 0), "{said}");
            assert!(output.stdout.contains(&format!("cannot reach https://localhost:{port}")) && said.contains("certificate"), "{said}");
        } else {
            assert_eq!((output.code(), output.stdout.as_str(), upstream.messages().len()), (0, "hello\n", 1), "{said}");
            assert_eq!(upstream.messages()[0].header("x-api-key"), Some(DUMMY_KEY));
        }
    }
}

#[test]
fn a_companys_proxy_that_the_environment_or_the_clients_settings_name_is_used_upstream() {
    let Some(claude) = Claude::v330() else { return };
    for in_settings in [false, true] {
        let env = world();
        let upstream = upstream(Answer::text("hello"));
        let (tls, pem) = certificate();
        let port = on_a_thread(tls_before(upstream.addr(), tls)).port();
        let (company, heads) = on_a_thread(company_proxy());
        let file = env.root().join("company.pem");
        std::fs::write(&file, pem).unwrap();
        let mut run = over_tls(&env, &claude, port).var(CERTIFICATES, &file);
        let proxy = format!("http://user:secret@{company}");
        if in_settings {
            env.claude_settings(&json!({ "env": { "HTTPS_PROXY": proxy } }));
        } else {
            run = run.var("HTTPS_PROXY", proxy);
        }
        let output = run.run().success();
        assert_eq!((output.stdout.as_str(), upstream.messages().len()), ("hello\n", 1), "{}", output.stderr);
        let heads = heads.lock().unwrap().clone();
        let ours = heads.iter().filter(|head| head.starts_with(&format!("CONNECT localhost:{port} "))).count();
        assert_eq!((ours, heads.len()), (1, 1), "nothing else went there, and nothing past it: {heads:?}");
        assert!(heads[0].to_lowercase().contains("proxy-authorization: basic dxnlcjpzzwnyzxq="), "{heads:?}");
        assert!(!heads[0].contains(DUMMY_KEY), "{heads:?}");
    }
}

#[test]
fn the_clients_settings_go_before_the_environment_and_that_before_the_configuration() {
    const KEYS: [&str; 3] =
        ["sk-ant-api03-of-the-settings-0001", "sk-ant-api03-of-the-environment-0002", "sk-ant-api03-of-the-config-0003"];
    let Some(claude) = Claude::v330() else { return };
    for first in 0..KEYS.len() {
        let env = world();
        let upstreams = KEYS.map(|_| upstream(Answer::text("hello")));
        let config = env.home().join(".config/sentrely");
        std::fs::create_dir_all(&config).unwrap();
        let text = format!("[upstream]\nbase_url = \"{}\"\napi_key = {{ env = \"COMPANYS_KEY\" }}\n", upstreams[2].url());
        std::fs::write(config.join("config.toml"), text).unwrap();
        let mut run = supervised(&env, &claude, &[], &["-p", "hi"]).var("COMPANYS_KEY", KEYS[2]);
        if first <= 1 {
            run = run.var("ANTHROPIC_BASE_URL", upstreams[1].url()).var("ANTHROPIC_API_KEY", KEYS[1]);
        }
        if first == 0 {
            let own = json!({ "ANTHROPIC_BASE_URL": upstreams[0].url(), "ANTHROPIC_API_KEY": KEYS[0] });
            env.claude_settings(&json!({ "env": own }));
        }
        let output = run.run().success();
        assert_eq!(output.stdout, "hello\n", "{}", output.stderr);
        let asked = upstreams.each_ref().map(|upstream| upstream.requests().len());
        assert_eq!(asked, [0, 1, 2].map(|at| usize::from(at == first)), "{}", output.stderr);
        assert_eq!(upstreams[first].messages()[0].header("x-api-key"), Some(KEYS[first]));
        let from = ["settings.json)", "(from the environment)", "(from [upstream] base_url)"][first];
        let pays = format!("API key …000{}, to {}", first + 1, upstreams[first].url());
        assert!(output.stderr.contains(&pays) && output.stderr.contains(from), "{}", output.stderr);
    }
}

#[test]
fn what_nobody_names_goes_to_the_public_api() {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    let output = supervised(&env, &claude, &["--dry-run"], &["-p", "hi"]).var("ANTHROPIC_API_KEY", DUMMY_KEY).run().success();
    assert!(
        output.stderr.contains(&format!("API key …{}, to https://api.anthropic.com\n", &DUMMY_KEY[DUMMY_KEY.len() - 4..])),
        "{}",
        output.stderr
    );
}

#[test]
fn a_configured_key_that_is_not_expected_to_pay_is_named_by_its_place() {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    let config = env.home().join(".config/sentrely");
    std::fs::create_dir_all(&config).unwrap();
    std::fs::write(config.join("config.toml"), "[upstream]\napi_key = { env = \"COMPANYS_KEY\" }\n").unwrap();
    let run = supervised(&env, &claude, &["--config", "billing.expect=subscription"], &["-p", "hi"]).var("COMPANYS_KEY", DUMMY_KEY);
    let output = run.run().exits(125);
    assert!(output.stderr.contains("hint: what is there is an API key in [upstream] api_key; log in as expected"), "{}", output.stderr);
}
