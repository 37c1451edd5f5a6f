//! What stands between a company's developers and the world: a proxy, and a certificate of its own.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::wire::read_head;

/// A certificate for `127.0.0.1` and `localhost`, as a server's configuration and as PEM.
pub(crate) fn certificate() -> (Arc<rustls::ServerConfig>, String) {
    certificate_with(|_| {})
}

/// The same, but for what `change` makes of it.
pub(crate) fn certificate_with(change: impl FnOnce(&mut rcgen::CertificateParams)) -> (Arc<rustls::ServerConfig>, String) {
    let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    change(&mut params);
    let signing_key = rcgen::KeyPair::generate().unwrap();
    let made = params.self_signed(&signing_key).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.der().clone()], key)
        .unwrap();
    (Arc::new(config), made.pem())
}

/// A company's proxy: takes `CONNECT` and requests in absolute form. Gives its address and the request lines it saw.
pub(crate) async fn company_proxy() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heads: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = Arc::clone(&heads);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                let mut buffer = Vec::new();
                let Ok(Some(head)) = read_head(&mut client, &mut buffer).await else { return };
                log.lock().unwrap().push(head.clone());
                let target = head.split(' ').nth(1).unwrap().to_owned();
                let authority = target.strip_prefix("http://").unwrap_or(&target).split('/').next().unwrap().to_owned();
                let mut upstream = TcpStream::connect(&authority).await.unwrap();
                if head.starts_with("CONNECT ") {
                    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
                } else {
                    let origin_form = head.replacen(&format!("http://{authority}"), "", 1);
                    upstream.write_all(origin_form.as_bytes()).await.unwrap();
                }
                upstream.write_all(&buffer).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
            });
        }
    });
    (address, heads)
}

/// TLS in front of a plain server. Gives where it listens.
pub(crate) async fn tls_before(server: SocketAddr, tls: Arc<rustls::ServerConfig>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let acceptor = tokio_rustls::TlsAcceptor::from(tls);
        while let Ok((client, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // Who does not trust the certificate goes away.
                let Ok(mut client) = acceptor.accept(client).await else { return };
                let mut server = TcpStream::connect(server).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    address
}

/// Starts one of these on a thread of its own, for tests without a runtime.
pub(crate) fn on_a_thread<T: Send + 'static>(start: impl Future<Output = T> + Send + 'static) -> T {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            tell.send(start.await).unwrap();
            std::future::pending::<()>().await;
        });
    });
    told.recv().unwrap()
}
