//! A client that shows every byte it gets.

use std::fmt::Write as _;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::wire::{headers_of, read_body, read_head};
use super::{TOKEN, soon};

/// What a client got.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// The body came to its end, rather than the connection.
    pub(crate) complete: bool,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        headers_of(&self.head, name).first().copied()
    }

    /// The message of an error in the API's form.
    pub(crate) fn message(&self) -> String {
        let value: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not an API error: {self:?}"));
        assert_eq!(value["type"], "error");
        value["error"]["message"].as_str().unwrap().to_owned()
    }
}

/// A client with one connection.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
    address: SocketAddr,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new(), address }
    }

    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Writes a request; `path` goes behind the session's prefix.
    pub(crate) async fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) {
        let mut head = format!("{method} /s/{TOKEN}{path} HTTP/1.1\r\nHost: {}\r\n", self.address);
        for (name, value) in headers {
            write!(head, "{name}: {value}\r\n").unwrap();
        }
        if !body.is_empty() || method == "POST" {
            write!(head, "Content-Length: {}\r\n", body.len()).unwrap();
        }
        head += "\r\n";
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body);
        self.write(bytes).await;
    }

    pub(crate) async fn head(&mut self) -> String {
        soon("the answer's head", read_head(&mut self.stream, &mut self.buffer))
            .await
            .unwrap()
            .expect("the connection ended without an answer")
    }

    pub(crate) async fn answer(&mut self) -> Answer {
        self.answer_to("GET").await
    }

    pub(crate) async fn answer_to(&mut self, method: &str) -> Answer {
        let head = self.head().await;
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let (body, complete) = if method == "HEAD" || status == 204 || status == 304 {
            (Vec::new(), true)
        } else {
            soon("the answer's body", read_body(&mut self.stream, &mut self.buffer, &head, true)).await.unwrap()
        };
        Answer { status, head, body, complete }
    }

    /// Bytes as they come, until `wanted` stands in them.
    pub(crate) async fn read_until(&mut self, wanted: &str) -> String {
        loop {
            let text = String::from_utf8_lossy(&self.buffer).into_owned();
            if text.contains(wanted) {
                return text;
            }
            let count = soon(wanted, self.stream.read_buf(&mut self.buffer)).await.unwrap();
            assert!(count > 0, "the connection ended before {wanted:?}: {text:?}");
        }
    }

    /// What has come, raw; nothing at the connection's end.
    pub(crate) async fn read_some(&mut self) -> Vec<u8> {
        if self.buffer.is_empty() {
            self.buffer.reserve(64 * 1024);
            soon("more of the answer", self.stream.read_buf(&mut self.buffer)).await.unwrap();
        }
        std::mem::take(&mut self.buffer)
    }

    /// Everything until the connection ends.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        while soon("the connection's end", self.stream.read_buf(&mut self.buffer)).await.unwrap_or(0) > 0 {}
        std::mem::take(&mut self.buffer)
    }

    pub(crate) async fn messages(&mut self, body: &str) -> Answer {
        self.request("POST", "/v1/messages?beta=true", &[("content-type", "application/json"), ("x-api-key", "dummy")], body.as_bytes())
            .await;
        self.answer().await
    }
}
