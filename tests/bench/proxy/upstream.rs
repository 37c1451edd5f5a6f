//! The upstream of the bench: answers every request with 200 events, at once or paced, over plain TCP and over TLS.

use std::path::Path;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::load::{EVENTS, PACE, STAMP, now_nanos};

/// Serves until standard input ends. Prints the two ports, plain and TLS, and writes the certificate to `pem`.
pub(crate) async fn serve(pem: &Path) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    std::fs::write(pem, made.cert.pem()).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let secure = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{} {}", plain.local_addr().unwrap().port(), secure.local_addr().unwrap().port());
    tokio::spawn(async move {
        loop {
            let (stream, _) = plain.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            tokio::spawn(connection(stream));
        }
    });
    tokio::spawn(async move {
        loop {
            let (stream, _) = secure.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move { connection(acceptor.accept(stream).await.unwrap()).await });
        }
    });
    crate::contender::until_stdin_ends().await;
}

async fn connection(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let burst = burst();
    let mut buffer = Vec::with_capacity(256 * 1024);
    loop {
        let end = loop {
            if let Some(end) = memchr::memmem::find(&buffer, b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
        };
        let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
        let length: usize = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
        let mut missing = (end + length).saturating_sub(buffer.len());
        while missing > 0 {
            buffer.clear();
            let count = stream.read_buf(&mut buffer).await.unwrap_or(0);
            if count == 0 {
                return;
            }
            missing = missing.saturating_sub(count);
        }
        buffer.clear();
        let sent = if head.contains("paced http/1.1") { paced(&mut stream).await } else { stream.write_all(&burst).await };
        // A contender that is stopped closes its connections; TLS needs the flush.
        if sent.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

const HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\nrequest-id: req_bench\r\n\r\n";
const BEGIN: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_bench\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"claude-opus-5-5\",\"content\":[],\"usage\":{\"input_tokens\":25000,\"output_tokens\":1}}}\n\nevent: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n";
const END: &str = "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\nevent: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\",\"stop_sequence\":null},\"usage\":{\"output_tokens\":1000}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";

fn event(text: &str) -> String {
    format!(
        "event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{{\"type\":\"text_delta\",\"text\":\"{text}\"}}}}\n\n"
    )
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

fn burst() -> Vec<u8> {
    let mut answer = HEAD.to_owned() + &chunk(BEGIN);
    for _ in 0..EVENTS {
        answer += &chunk(&event(" a piece of generated text"));
    }
    (answer + &chunk(END) + "0\r\n\r\n").into_bytes()
}

async fn paced(stream: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
    stream.write_all((HEAD.to_owned() + &chunk(BEGIN)).as_bytes()).await?;
    let mut ticks = tokio::time::interval(PACE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for _ in 0..EVENTS {
        ticks.tick().await;
        let stamp = format!("{}{:020}", String::from_utf8_lossy(STAMP), now_nanos());
        stream.write_all(chunk(&event(&stamp)).as_bytes()).await?;
        stream.flush().await?;
    }
    stream.write_all((chunk(END) + "0\r\n\r\n").as_bytes()).await
}
