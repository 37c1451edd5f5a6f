//! The session's AWS identity against a strict double of STS, the real AWS CLI and moto.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use aws_credential_types::Credentials;
use jiff::{SignedDuration, Timestamp};
use secrecy::ExposeSecret;
use sentrely::aws::{
    AwsError, CallerKind, Delivery, DeliveryKind, Lease, LeaseEvent, LeaseRequest, Source, caller, child_variables, scrub,
};
use sentrely::model::SessionId;
use serde_json::json;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::support::aws::moto::{Moto, ROLE_IN_MOTO};
use crate::support::aws::{DEVELOPER, ROLE, StrictSts, ask_endpoint, aws_cli, wait_until_gone};
use crate::support::components::VENV;
use crate::support::env::TestEnv;
use crate::support::run::{Running, wait_until};

const SESSION: &str = "9f3a12cd-0000-4000-8000-000000000001";
const SESSION_NAME: &str = "9f3a12cd-0000-4000-8000-000000000001-ana";
const SESSION_ARN: &str = "arn:aws:sts::111122223333:assumed-role/sentrely-agent/9f3a12cd-0000-4000-8000-000000000001-ana";

fn source(sts: &StrictSts, credentials: Credentials) -> Source {
    Source { region: Some("eu-central-1".into()), endpoint_url: Some(sts.url().into()), credentials: Some(credentials), profile: None }
}

fn request(sts: &StrictSts) -> LeaseRequest {
    LeaseRequest {
        role_arn: ROLE.into(),
        session: SESSION.parse::<SessionId>().unwrap(),
        developer: "ana".into(),
        project: "github.com/acme/shop".into(),
        duration: None,
        external_id: None,
        delivery: DeliveryKind::Endpoint,
        source: source(sts, sts.developer()),
    }
}

fn endpoint(lease: &Lease) -> (String, String) {
    match lease.delivery() {
        Delivery::Endpoint { uri, token } => (uri.clone(), token.expose_secret().to_owned()),
        other => panic!("{other:?}"),
    }
}

fn ask(lease: &Lease) -> (u16, serde_json::Value) {
    let (uri, token) = endpoint(lease);
    ask_endpoint(&uri, &token)
}

async fn next(events: &mut UnboundedReceiver<LeaseEvent>) -> LeaseEvent {
    tokio::time::timeout(Duration::from_secs(20), events.recv()).await.unwrap().unwrap()
}

async fn next_key(events: &mut UnboundedReceiver<LeaseEvent>) -> String {
    match next(events).await {
        LeaseEvent::Minted { access_key_id, .. } => access_key_id,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_role_is_assumed_with_name_source_identity_and_three_transitive_tags() {
    let sts = StrictSts::start();
    let mut lease = Lease::start(request(&sts)).await.unwrap();
    let mints = sts.mints();
    let [mint] = &mints[..] else { panic!("{mints:?}") };
    assert_eq!(
        (mint.params["RoleArn"].as_str(), mint.params["RoleSessionName"].as_str(), mint.params["SourceIdentity"].as_str()),
        (ROLE, SESSION_NAME, "ana"),
    );
    let tags = [("sentrely:developer", "ana"), ("sentrely:project", "github.com/acme/shop"), ("sentrely:session", SESSION)];
    assert_eq!(mint.tags(), BTreeMap::from(tags.map(|(key, value)| (key.to_owned(), value.to_owned()))));
    assert_eq!(mint.transitive_keys(), tags.map(|(key, _)| key));
    assert_eq!((lease.role_session_name(), lease.role_session_arn(), lease.region()), (SESSION_NAME, SESSION_ARN, Some("eu-central-1")));
    let mut events = lease.events().unwrap();
    assert_eq!(
        events.try_recv().unwrap(),
        LeaseEvent::Minted { access_key_id: "ASIAMINTED000001".into(), expires_at: lease.expires_at().unwrap() }
    );
    assert!(lease.events().is_none());
}

#[tokio::test]
async fn names_that_aws_would_refuse_are_brought_into_its_character_sets() {
    let sts = StrictSts::start();
    let developer = "Ana O'Neil (платформа) <ana#1@example.com>".to_owned();
    let project = "shop #1 🛒 \u{94d} grün".to_owned();
    let lease = Lease::start(LeaseRequest { developer, project, ..request(&sts) }).await.unwrap();
    assert_eq!(lease.role_session_name(), format!("{SESSION}-Ana-O-Neil--------------ana"));
    let mint = &sts.mints()[0];
    assert_eq!(mint.params["SourceIdentity"], "Ana-O-Neil--------------ana-1@example.com-");
    assert_eq!(mint.tags()["sentrely:developer"], mint.params["SourceIdentity"]);
    assert_eq!(mint.tags()["sentrely:project"], "shop -1 - - grün");
}

#[tokio::test]
async fn each_permission_that_is_missing_refuses_the_session_and_is_named() {
    for action in ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"] {
        let sts = StrictSts::start();
        sts.forbid(action);
        let error = Lease::start(request(&sts)).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "call sts:AssumeRole: {action} is not allowed: User: {DEVELOPER} is not authorized to perform: {action} on resource: {ROLE}"
            ),
        );
        assert!(error.hint().unwrap().contains(action), "{error:?}");
    }
}

#[tokio::test]
async fn a_role_arn_that_is_none_is_refused_before_anything_is_sent() {
    let sts = StrictSts::start();
    let error = Lease::start(LeaseRequest { role_arn: "sentrely-agent".into(), ..request(&sts) }).await.unwrap_err();
    assert_eq!(error.to_string(), "read `sentrely-agent` as the ARN of a role");
    assert!(error.hint().unwrap().starts_with("expected arn:aws:iam::"));
    assert_eq!(sts.requests(), []);
}

#[tokio::test]
async fn an_external_id_is_sent_when_the_trust_asks_for_it() {
    let sts = StrictSts::start();
    sts.require_external_id("partner-7");
    assert!(matches!(Lease::start(request(&sts)).await, Err(AwsError::Denied { action: Some(action), .. }) if action == "sts:AssumeRole"));
    Lease::start(LeaseRequest { external_id: Some("partner-7".into()), ..request(&sts) }).await.unwrap();
}

#[tokio::test]
async fn a_chained_role_is_asked_for_an_hour_and_an_unchained_one_for_what_was_configured() {
    let sts = StrictSts::start();
    sts.set_max_session(12 * 3600);
    let duration = Some(Duration::from_hours(8));
    let person = sts.sign_in("arn:aws:sts::111122223333:assumed-role/AWSReservedSSO_Developer_0123456789abcdef/ana");
    let chained = LeaseRequest { source: source(&sts, person), duration, ..request(&sts) };
    Lease::start(chained).await.unwrap();
    let lease = Lease::start(LeaseRequest { duration, ..request(&sts) }).await.unwrap();
    let asked: Vec<_> = sts.mints().iter().map(|mint| mint.params["DurationSeconds"].clone()).collect();
    assert_eq!(asked, ["3600", "28800"]);
    let left = lease.expires_at().unwrap().duration_since(Timestamp::now());
    assert!(left > SignedDuration::from_hours(7), "{left:?}");
}

#[tokio::test]
async fn a_duration_beyond_the_roles_maximum_says_what_to_change() {
    let sts = StrictSts::start();
    let error = Lease::start(LeaseRequest { duration: Some(Duration::from_hours(2)), ..request(&sts) }).await.unwrap_err();
    assert!(error.to_string().contains("exceeds the MaxSessionDuration"), "{error}");
    assert!(error.hint().unwrap().contains("lower `duration`"));
}

#[tokio::test]
async fn the_endpoint_vends_what_was_minted_and_tells_a_minute() {
    let sts = StrictSts::start();
    let lease = Lease::start(request(&sts)).await.unwrap();
    let before = Timestamp::now();
    let (status, body) = ask(&lease);
    let told: Timestamp = body["Expiration"].as_str().unwrap().parse().unwrap();
    assert!((58..=61).contains(&told.duration_since(before).as_secs()), "{told}");
    assert_eq!(
        (status, &body["AccessKeyId"], &body["SecretAccessKey"], &body["Token"]),
        (200, &"ASIAMINTED000001".into(), &"minted-secret-1".into(), &"minted-token-1".into()),
    );
    let (uri, _) = endpoint(&lease);
    let (status, body) = ask_endpoint(&uri, "wrong");
    assert_eq!((status, &body["code"]), (401, &"BadToken".into()));
}

#[tokio::test]
async fn credentials_are_renewed_before_they_expire() {
    let sts = StrictSts::start();
    sts.set_life(Duration::from_secs(6));
    let mut lease = Lease::start(request(&sts)).await.unwrap();
    let mut events = lease.events().unwrap();
    let LeaseEvent::Minted { expires_at: first_end, .. } = next(&mut events).await else { panic!() };
    assert_eq!(next_key(&mut events).await, "ASIAMINTED000002");
    assert!(Timestamp::now() < first_end);
    assert_eq!(ask(&lease).1["AccessKeyId"], "ASIAMINTED000002");
    let mints = sts.mints();
    assert_eq!((mints[1].params == mints[0].params, mints[1].access_key_id.as_str()), (true, "AKIADEVELOPER"));
}

#[tokio::test]
async fn a_renewal_that_fails_is_told_and_tried_again_until_it_works() {
    let sts = StrictSts::start();
    sts.set_life(Duration::from_secs(8));
    let mut lease = Lease::start(request(&sts)).await.unwrap();
    let mut events = lease.events().unwrap();
    sts.forbid("sts:TagSession");
    assert_eq!(next_key(&mut events).await, "ASIAMINTED000001");
    match next(&mut events).await {
        LeaseEvent::RenewalFailed { why, until } => assert!(why.contains("sts:TagSession") && Some(until) == lease.expires_at(), "{why}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(ask(&lease).0, 200);
    sts.allow("sts:TagSession");
    assert_eq!(next_key(&mut events).await, "ASIAMINTED000002");
}

#[tokio::test]
async fn a_lease_that_cannot_be_renewed_is_lost_when_its_credentials_expire() {
    let sts = StrictSts::start();
    sts.set_life(Duration::from_secs(5));
    let mut lease = Lease::start(request(&sts)).await.unwrap();
    let mut events = lease.events().unwrap();
    let end = lease.expires_at().unwrap();
    sts.forbid("sts:AssumeRole");
    next_key(&mut events).await;
    assert!(matches!(next(&mut events).await, LeaseEvent::RenewalFailed { until, .. } if until == end));
    let LeaseEvent::Lost { why } = next(&mut events).await else { panic!() };
    assert!(why.contains("sts:AssumeRole is not allowed"), "{why}");
    assert!(Timestamp::now() >= end);
    let (status, body) = ask(&lease);
    assert_eq!((status, &body["code"]), (403, &"CredentialsLost".into()));
    assert!(body["message"].as_str().unwrap().contains("sts:AssumeRole is not allowed"), "{body}");
    assert_eq!(lease.expires_at(), None);
    assert_eq!(events.recv().await, None);
}

#[tokio::test]
async fn a_closed_lease_answers_403_at_once_and_asks_sts_no_more() {
    let sts = StrictSts::start();
    let mut lease = Lease::start(request(&sts)).await.unwrap();
    let mut events = lease.events().unwrap();
    next_key(&mut events).await;
    lease.close();
    let (status, body) = ask(&lease);
    assert_eq!((status, &body["code"]), (403, &"SessionEnded".into()));
    assert_eq!(body["message"], "sentrely: session 9f3a12cd has ended and its AWS credentials are withdrawn");
    // The keeper has gone: nobody can send an event, or renew, any more.
    assert_eq!(tokio::time::timeout(Duration::from_secs(20), events.recv()).await, Ok(None));
    assert_eq!(sts.mints().len(), 1);
    let (uri, _) = endpoint(&lease);
    drop(lease);
    wait_until_gone(&uri);
}

#[tokio::test]
async fn static_variables_are_given_to_what_cannot_reach_the_endpoint() {
    let sts = StrictSts::start();
    sts.set_life(Duration::from_secs(2));
    let mut lease = Lease::start(LeaseRequest { delivery: DeliveryKind::Env, ..request(&sts) }).await.unwrap();
    let home = tempfile::tempdir().unwrap();
    let given: BTreeMap<_, _> = child_variables(lease.delivery(), home.path(), lease.region()).unwrap().into_iter().collect();
    let value = |name: &str| given[&OsString::from(name)].to_str().unwrap();
    assert_eq!(
        [value("AWS_ACCESS_KEY_ID"), value("AWS_SECRET_ACCESS_KEY"), value("AWS_SESSION_TOKEN"), value("AWS_DEFAULT_REGION")],
        ["ASIAMINTED000001", "minted-secret-1", "minted-token-1", "eu-central-1"],
    );
    let mut events = lease.events().unwrap();
    next_key(&mut events).await;
    assert!(matches!(next(&mut events).await, LeaseEvent::Lost { why } if why.contains("cannot be renewed")));
    assert_eq!(sts.mints().len(), 1);
}

#[tokio::test]
async fn the_caller_is_who_sts_says() {
    let sts = StrictSts::start();
    let ana = caller(&source(&sts, sts.developer())).await.unwrap();
    assert_eq!((ana.arn.as_str(), ana.developer(), &ana.kind), (DEVELOPER, Some("ana"), &CallerKind::User));
    let person = sts.sign_in("arn:aws:sts::111122223333:assumed-role/AWSReservedSSO_Developer_0123456789abcdef/bob@example.com");
    let bob = caller(&source(&sts, person)).await.unwrap();
    assert_eq!((bob.developer(), &bob.kind), (Some("bob@example.com"), &CallerKind::IdentityCenter { permission_set: "Developer".into() }));
}

#[tokio::test]
async fn a_login_that_has_expired_says_how_to_sign_in() {
    let sts = StrictSts::start();
    let mut lease = Lease::start(request(&sts)).await.unwrap();
    let key = next_key(&mut lease.events().unwrap()).await;
    let expired = Credentials::new(key, "minted-secret-1", Some("minted-token-1".into()), None, "test");
    sts.advance(Duration::from_secs(3601));
    let error = caller(&source(&sts, expired)).await.unwrap_err();
    assert_eq!(error.to_string(), "call sts:GetCallerIdentity: ExpiredToken: The security token included in the request is expired");
    assert!(error.hint().unwrap().contains("aws sso login"));
}

#[tokio::test]
async fn a_wrong_secret_and_an_sts_that_is_not_there_are_told_apart() {
    let sts = StrictSts::start();
    let forged = Credentials::new("AKIADEVELOPER", "guess", None, None, "test");
    let error = caller(&source(&sts, forged)).await.unwrap_err();
    assert!(matches!(&error, AwsError::Refused { code, .. } if code == "SignatureDoesNotMatch"), "{error:?}");
    let nowhere = Source { endpoint_url: Some("http://127.0.0.1:1".into()), ..source(&sts, sts.developer()) };
    let error = caller(&nowhere).await.unwrap_err();
    assert!(error.chain().starts_with("reach STS for sts:GetCallerIdentity: "), "{}", error.chain());
    assert!(error.hint().unwrap().contains("AWS_ENDPOINT_URL_STS"));
}

/// Asks who is calling with this process's own environment. Other tests run it in a process of its own.
#[test]
#[ignore = "run by other tests in an environment of their own"]
fn print_the_caller_of_this_environment() {
    let source = Source { profile: std::env::var("TEST_PROFILE").ok(), ..Source::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answer = runtime.block_on(async {
        let mut asked = std::pin::pin!(caller(&source));
        loop {
            tokio::select! {
                answer = &mut asked => break answer,
                () = tokio::time::sleep(Duration::from_millis(5)) => reap_children_of_this_thread(),
            }
        }
    });
    match answer {
        Ok(caller) => print_line(&format!("caller: {}", caller.arn)),
        Err(error) => print_line(&format!("error: {} / hint: {}", error.chain(), error.hint().unwrap_or_default())),
    }
}

/// What the session's reaper does all the time; it must never take a `credential_process` from the SDK.
#[cfg(target_os = "linux")]
fn reap_children_of_this_thread() {
    use nix::sys::wait::{WaitPidFlag, waitpid};
    let found = waitpid(None, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WNOTHREAD));
    assert_eq!(found, Err(nix::errno::Errno::ECHILD));
}

#[cfg(not(target_os = "linux"))]
fn reap_children_of_this_thread() {}

#[expect(clippy::print_stdout, reason = "the test that started this process reads it")]
fn print_line(line: &str) {
    println!("{line}");
}

/// Runs the test above with exactly these variables, and gives the line it printed.
fn caller_with(home: &Path, vars: &[(String, String)]) -> String {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "aws::print_the_caller_of_this_environment", "--ignored", "--nocapture"]);
    let done = child.env_clear().env("HOME", home).env("PATH", "/usr/bin:/bin").envs(vars.iter().cloned()).output().unwrap();
    let printed = String::from_utf8(done.stdout).unwrap();
    let line = printed
        .lines()
        .find_map(|line| line.split_once("caller: ").or_else(|| line.split_once("error: ")).map(|(_, rest)| rest.to_owned()));
    line.unwrap_or_else(|| panic!("{printed}\n{}", String::from_utf8_lossy(&done.stderr)))
}

#[test]
fn the_developers_own_credentials_are_found_the_way_the_aws_cli_finds_them() {
    let sts = StrictSts::start();
    let person = "arn:aws:sts::111122223333:assumed-role/AWSReservedSSO_Developer_0123456789abcdef/ana@example.com";
    let key = sts.sign_in(person);
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join(".aws")).unwrap();
    let process = format!(
        r#"sleep 0.1; echo '{{"Version":1,"AccessKeyId":"{}","SecretAccessKey":"{}","SessionToken":"{}"}}'"#,
        key.access_key_id(),
        key.secret_access_key(),
        key.session_token().unwrap(),
    );
    let script = home.path().join("credentials.sh");
    fs::write(&script, process).unwrap();
    let config = format!(
        "[profile person]\nregion = eu-west-1\ncredential_process = sh {}\n[profile broken]\ncredential_process = false\n",
        script.display()
    );
    fs::write(home.path().join(".aws/config"), config).unwrap();
    let with_keys = sts.environment();
    let without_keys: Vec<_> = with_keys.iter().filter(|(name, _)| !name.contains("KEY")).cloned().collect();
    let and = |vars: &[(String, String)], name: &str, value: &str| [vars, &[(name.to_owned(), value.to_owned())]].concat();

    assert_eq!(caller_with(home.path(), &with_keys), DEVELOPER);
    assert_eq!(caller_with(home.path(), &and(&without_keys, "AWS_PROFILE", "person")), person);
    // As with the CLI: a profile named to us beats keys in the environment.
    assert_eq!(caller_with(home.path(), &and(&with_keys, "TEST_PROFILE", "person")), person);

    let none = caller_with(home.path(), &without_keys);
    assert!(none.starts_with("find AWS credentials of the developer: ") && none.contains("hint: sign in (`aws sso login`)"), "{none}");
    let broken = caller_with(home.path(), &and(&without_keys, "AWS_PROFILE", "broken"));
    assert!(
        broken.starts_with("load the developer's AWS credentials: ") && broken.contains("hint: check `aws sts get-caller-identity`"),
        "{broken}"
    );
}

#[test]
fn sts_is_reached_through_the_users_proxy_and_without_a_region() {
    let sts = StrictSts::start();
    let home = tempfile::tempdir().unwrap();
    let vars = sts.environment();
    let and = |more: &[(&str, &str)]| {
        [vars.clone(), more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()].concat()
    };
    let dead = ("HTTP_PROXY", "http://127.0.0.1:1");
    let through_nothing = caller_with(home.path(), &and(&[dead]));
    assert!(through_nothing.starts_with("reach STS for sts:GetCallerIdentity: "), "{through_nothing}");
    assert_eq!(caller_with(home.path(), &and(&[dead, ("NO_PROXY", "127.0.0.1")])), DEVELOPER);
    let no_bundle = caller_with(home.path(), &and(&[("AWS_CA_BUNDLE", "/nonexistent/ca.pem")]));
    assert!(no_bundle.starts_with("use `/nonexistent/ca.pem`: No such file"), "{no_bundle}");
    let no_region: Vec<_> = vars.iter().filter(|(name, _)| name != "AWS_REGION").cloned().collect();
    assert_eq!(caller_with(home.path(), &no_region), DEVELOPER);
}

/// A home with an administrator's key, as developers have it, and the environment that a child would get.
struct Child {
    home: tempfile::TempDir,
    vars: Vec<(OsString, OsString)>,
}

impl Child {
    fn new(sts_url: &str, delivery: &Delivery, region: Option<&str>) -> Self {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join(".aws")).unwrap();
        let admin = "aws_access_key_id = AKIADEVELOPER\naws_secret_access_key = developer-secret\n";
        fs::write(home.path().join(".aws/credentials"), format!("[default]\n{admin}[admin]\n{admin}")).unwrap();
        let developers = [
            ("AWS_ENDPOINT_URL_STS", sts_url),
            ("AWS_ACCESS_KEY_ID", "AKIADEVELOPER"),
            ("AWS_SECRET_ACCESS_KEY", "developer-secret"),
            ("AWS_PROFILE", "admin"),
            ("AWS_MAX_ATTEMPTS", "2"),
            ("PATH", "/usr/bin:/bin"),
        ];
        let mut vars = scrub(developers.map(|(name, value)| (name.into(), value.into())));
        vars.extend(child_variables(delivery, home.path(), region).unwrap());
        Self { home, vars }
    }

    fn aws(&self, args: &[&str]) -> Output {
        aws_cli(&self.vars, self.home.path(), args)
    }

    /// The ARN that the CLI prints, or what it complains of.
    fn whoami(&self, more: &[&str]) -> Result<String, String> {
        let done = self.aws(&[&["sts", "get-caller-identity", "--query", "Arn", "--output", "text"], more].concat());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if done.status.success() { Ok(text(&done.stdout)) } else { Err(text(&done.stderr)) }
    }
}

#[tokio::test]
async fn the_real_aws_cli_is_the_session_and_never_the_developer() {
    crate::needs!(VENV);
    let sts = StrictSts::start();
    let lease = Lease::start(request(&sts)).await.unwrap();
    let child = Child::new(sts.url(), lease.delivery(), lease.region());
    assert_eq!(child.whoami(&[]), Ok(SESSION_ARN.to_owned()));
    let as_admin = child.whoami(&["--profile", "admin"]).unwrap_err();
    assert!(as_admin.contains("The config profile (admin) could not be found"), "{as_admin}");
    lease.close();
    let refused = child.whoami(&[]).unwrap_err();
    assert!(refused.contains("sentrely: session 9f3a12cd has ended and its AWS credentials are withdrawn"), "{refused}");
    // What STS saw: the lease as the developer, the CLI as the session, nothing else.
    let seen: Vec<_> = sts.requests().into_iter().map(|seen| (seen.action, seen.access_key_id)).collect();
    let pair = |action: &str, key: &str| (action.to_owned(), key.to_owned());
    assert_eq!(seen, [pair("AssumeRole", "AKIADEVELOPER"), pair("GetCallerIdentity", "ASIAMINTED000001")]);
}

#[test]
fn without_a_role_the_real_aws_cli_finds_no_credentials() {
    crate::needs!(VENV);
    let sts = StrictSts::start();
    let child = Child::new(sts.url(), &Delivery::None, None);
    let refused = child.whoami(&["--region", "eu-central-1"]).unwrap_err();
    assert!(refused.contains("Unable to locate credentials"), "{refused}");
    assert_eq!(sts.requests(), []);
}

#[tokio::test]
async fn a_server_nobody_here_wrote_takes_our_calls() {
    crate::needs!(VENV);
    let (moto, sts) = (Moto::start(), StrictSts::start());
    let source = Source {
        region: Some("us-east-1".into()),
        endpoint_url: Some(moto.url().into()),
        credentials: Some(moto.developer()),
        profile: None,
    };
    assert_eq!(caller(&source).await.unwrap().developer(), Some("ana"));
    let lease = Lease::start(LeaseRequest { role_arn: ROLE_IN_MOTO.into(), source: source.clone(), ..request(&sts) }).await.unwrap();
    let child = Child::new(moto.url(), lease.delivery(), lease.region());
    assert_eq!(child.whoami(&[]), Ok(SESSION_ARN.replace("111122223333", "123456789012")));
    let forged = Source { credentials: Some(Credentials::new(moto.developer().access_key_id(), "guess", None, None, "test")), ..source };
    let error = Lease::start(LeaseRequest { role_arn: ROLE_IN_MOTO.into(), source: forged, ..request(&sts) }).await.unwrap_err();
    assert!(matches!(error, AwsError::Refused { .. }), "{error:?}");
    assert_eq!(sts.requests(), []);
}

/// A session with a role whose credentials live for seconds and cannot be renewed any more; returned once the command runs.
fn losing(env: &TestEnv, sts: &StrictSts, flags: &[&str], command: &str) -> (Running, String) {
    sts.set_life(Duration::from_secs(10));
    let words = [&["run", "--role", ROLE, "--wall", "off"], flags, &["--", "sh", "-c", command]].concat();
    let run = sts.environment().into_iter().fold(env.sentrely(&words), |run, (name, value)| run.var(name, value)).spawn();
    wait_until(SOON, "the command", || env.root().join("began").exists());
    sts.forbid("sts:AssumeRole");
    (run, env.the_session())
}

const SOON: Duration = Duration::from_mins(1);

#[test]
fn a_session_whose_credentials_are_lost_is_stopped_with_125() {
    let (env, sts) = (TestEnv::new(), StrictSts::start());
    let (run, id) = losing(&env, &sts, &[], &format!("echo work > work.txt; touch {}; sleep 300", env.root().join("began").display()));
    let output = run.wait(SOON).exits(125);
    assert!(output.stderr.contains("its AWS identity was lost"), "{}", output.stderr);
    let view = env.ls_json()["sessions"][0].take();
    assert_eq!((&view["stop_reason"], &view["state"]), (&json!("credentials_lost"), &json!("stopped")));
    assert_eq!(env.git(&["show", &format!("{}:work.txt", view["branch"].as_str().unwrap())]), "work", "its work is saved");
    assert!(env.processes().is_empty() && !env.events(&id, "stop_requested").is_empty());
}

#[test]
fn a_session_that_may_go_on_without_aws_does_and_the_record_says_so() {
    let (env, sts) = (TestEnv::new(), StrictSts::start());
    let (began, go) = (env.root().join("began"), env.root().join("go"));
    nix::unistd::mkfifo(&go, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let command = format!("touch {}; read -r _ < {}; echo went on", began.display(), go.display());
    let (run, id) = losing(&env, &sts, &["--config", "aws.on_credentials_lost=continue"], &command);
    wait_until(SOON, "the record of the loss", || !env.events(&id, "aws_lost").is_empty());
    fs::write(&go, "\n").unwrap();
    let output = run.wait(SOON).success();
    assert_eq!(output.stdout, "went on\n");
    assert_eq!(env.ls_json()["sessions"][0]["stop_reason"], json!("child_exited"));
}

#[test]
fn the_example_policies_are_valid_and_within_iams_limits() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/iam");
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let policy: serde_json::Value = serde_json::from_str(&text).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(policy["Version"], "2012-10-17", "{name}");
        let is_trust = name.starts_with("trust-");
        for statement in policy["Statement"].as_array().unwrap() {
            assert!(statement["Action"].is_string() || statement["Action"].is_array(), "{name}");
            assert!(["Allow", "Deny"].map(Into::into).contains(&statement["Effect"]), "{name}");
            assert_eq!((statement["Principal"].is_null(), statement["Resource"].is_null()), (!is_trust, is_trust), "{name}");
            let sid = statement["Sid"].as_str().unwrap();
            assert!(sid.bytes().all(|b| b.is_ascii_alphanumeric()), "{sid}");
        }
        if is_trust {
            assert!(policy.to_string().len() <= 2048, "{name}");
            let keys = ["sentrely:developer", "sentrely:project", "sentrely:session"];
            assert_eq!(policy["Statement"][0]["Condition"]["ForAllValues:StringEquals"]["aws:TagKeys"], serde_json::json!(keys), "{name}");
        }
        names.push(name);
    }
    names.sort();
    assert_eq!(
        names,
        ["agent-guardrails.json", "developer-min.json", "revoke-one-session.json", "revoker.json", "trust-iam-user.json", "trust-sso.json"]
    );
}

#[test]
fn there_is_one_tls_stack_and_it_is_ring() {
    let lock = include_str!("../../Cargo.lock");
    for unwanted in ["aws-lc-rs", "aws-lc-sys", "openssl", "openssl-sys", "native-tls", "s2n-tls"] {
        assert!(!lock.contains(&format!("name = \"{unwanted}\"\n")), "{unwanted}");
    }
    for (crate_name, count) in [("ring", 1), ("rustls", 1), ("hyper", 1)] {
        assert_eq!(lock.matches(&format!("name = \"{crate_name}\"\n")).count(), count, "{crate_name}");
    }
}
