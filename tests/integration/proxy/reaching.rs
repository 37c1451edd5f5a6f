//! The way to the upstream: TLS and companies' proxies.

use std::io::Write as _;

use sentrely::model::Usd;
use sentrely::proxy::ProxyEnv;

use crate::support::proxy::{Peer, Plan, REAL_KEY, ask, certificate, certificate_with, company_proxy, sse_answer, sse_events};

#[tokio::test]
async fn an_upstream_with_tls_is_trusted_by_the_extra_certificates_only() {
    let (tls, pem) = certificate();
    let upstream = Peer::start_tls(tls, |_| sse_answer(&sse_events("msg_tls", 100, 5, &["x"]))).await;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(pem.as_bytes()).unwrap();
    let url = format!("https://localhost:{}", upstream.address.port());
    let rig = Plan { extra_ca: Some(file.path().to_owned()), ..Plan::to(&url) }.start().await;
    let mut client = rig.client().await;
    for _ in 0..2 {
        let got = client.messages(&ask(true, 10)).await;
        assert_eq!((got.status, got.text()), (200, sse_events("msg_tls", 100, 5, &["x"])));
    }
    assert_eq!((upstream.connections(), rig.settled().len()), (1, 2));

    let missing = file.path().with_extension("missing");
    for (extra_ca, words) in [(None, ""), (Some(missing.clone()), missing.to_str().unwrap())] {
        let rig = Plan { extra_ca, ..Plan::to(&url) }.start().await;
        let got = rig.client().await.messages(&ask(true, 10)).await;
        assert_eq!((got.status, got.header("x-should-retry")), (502, Some("false")));
        assert!(got.message().starts_with(&format!("sentrely: cannot reach {url}: ")), "{}", got.message());
        assert!(got.message().contains("certificate") && got.message().contains(words), "{}", got.message());
        assert_eq!(rig.settled()[0].cost, Usd::ZERO);
    }
}

/// As `openssl req -x509` marks what it makes.
fn as_an_authority(params: &mut rcgen::CertificateParams) {
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
}

#[tokio::test]
async fn a_server_may_show_an_authoritys_certificate_that_the_extra_file_holds_and_no_other() {
    let named = certificate_with(as_an_authority);
    let expired = certificate_with(|params| {
        as_an_authority(params);
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    });
    let elsewhere = certificate_with(|params| {
        as_an_authority(params);
        params.subject_alt_names = vec![rcgen::SanType::DnsName("elsewhere.example".try_into().unwrap())];
    });
    let stranger = certificate_with(as_an_authority);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for (_, pem) in [&named, &expired, &elsewhere] {
        file.write_all(pem.as_bytes()).unwrap();
    }
    for ((tls, _), why) in
        [(named, None), (expired, Some("expired")), (elsewhere, Some("not valid for name")), (stranger, Some("CaUsedAsEndEntity"))]
    {
        let upstream = Peer::start_tls(tls, |_| sse_answer(&sse_events("m", 100, 5, &["x"]))).await;
        let url = format!("https://localhost:{}", upstream.address.port());
        let rig = Plan { extra_ca: Some(file.path().to_owned()), ..Plan::to(&url) }.start().await;
        let got = rig.client().await.messages(&ask(true, 10)).await;
        match why {
            None => assert_eq!(got.status, 200, "{}", got.message()),
            Some(why) => {
                assert_eq!((got.status, upstream.seen().len()), (502, 0));
                assert!(got.message().contains(why), "{why}: {}", got.message());
            }
        }
    }
}

#[tokio::test]
async fn the_companys_proxy_is_used_unless_no_proxy_names_the_upstream() {
    let (tls, pem) = certificate();
    let upstream = Peer::start_tls(tls, |_| sse_answer(&sse_events("m", 100, 5, &["x"]))).await;
    let (company, heads) = company_proxy().await;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(pem.as_bytes()).unwrap();
    let url = format!("https://localhost:{}", upstream.address.port());
    let through = ProxyEnv { https: Some(format!("http://user:secret@{company}")), ..ProxyEnv::default() };
    let past = ProxyEnv { no: Some("localhost".into()), ..through.clone() };
    for (proxy_env, expected) in [(past, 0), (through, 1)] {
        let rig = Plan { extra_ca: Some(file.path().to_owned()), proxy_env, ..Plan::to(&url) }.start().await;
        assert_eq!(rig.client().await.messages(&ask(true, 10)).await.status, 200);
        assert_eq!(heads.lock().unwrap().len(), expected);
    }
    let head = heads.lock().unwrap()[0].clone();
    assert!(head.starts_with(&format!("CONNECT localhost:{}", upstream.address.port())), "{head}");
    assert!(head.to_lowercase().contains("proxy-authorization: basic dxnlcjpzzwnyzxq="), "{head}");
    assert!(!head.contains(REAL_KEY));
}

#[tokio::test]
async fn a_plain_upstream_is_asked_through_the_companys_proxy_by_its_whole_url() {
    let upstream = Peer::start(|_| sse_answer(&sse_events("m", 100, 5, &["x"]))).await;
    let (company, heads) = company_proxy().await;
    let proxy_env = ProxyEnv { http: Some(format!("http://{company}")), ..ProxyEnv::default() };
    let rig = Plan { proxy_env, ..Plan::to(&upstream.url()) }.start().await;
    let mut client = rig.client().await;
    assert_eq!(client.messages(&ask(true, 10)).await.status, 200);
    assert!(heads.lock().unwrap()[0].starts_with(&format!("POST {}/v1/messages?beta=true HTTP/1.1\r\n", upstream.url())));
    assert_eq!(upstream.seen()[0].line(), "POST /v1/messages?beta=true HTTP/1.1");

    let dead = ProxyEnv { http: Some("http://127.0.0.1:1".into()), ..ProxyEnv::default() };
    let rig = Plan { proxy_env: dead, ..Plan::to(&upstream.url()) }.start().await;
    let got = rig.client().await.messages(&ask(true, 10)).await;
    assert_eq!(got.message(), format!("sentrely: cannot reach {} through the proxy 127.0.0.1:1: connection refused", upstream.url()));
}
