//! The load generator: clients that send one request after the other and look at the clock.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Stands before the time at which the upstream sent an event, in nanoseconds, 20 digits.
pub(crate) const STAMP: &[u8] = b"@at";
pub(crate) const EVENTS: usize = 200;
pub(crate) const PACE: Duration = Duration::from_millis(5);

/// What is asked of a contender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Load {
    /// 100 KB request, 200 events at once.
    Burst,
    /// 100 KB request, 200 events, one every 5 ms.
    Paced,
    /// 1 MB request, 200 events at once.
    Megabyte,
    /// 1 MB request, 200 events, one every 5 ms.
    MegabytePaced,
    /// 2 KB request, 200 events at once.
    Small,
    /// 2 KB request, 200 events, one every 5 ms.
    SmallPaced,
}

/// What the clients saw; medians over all requests.
pub(crate) struct Outcome {
    pub(crate) requests: usize,
    /// From the request's first byte to the answer's.
    pub(crate) first_byte_ms: f64,
    /// From an event's sending to its arrival.
    pub(crate) event_ms: f64,
}

impl Load {
    pub(crate) const ALL: [Self; 4] = [Self::Burst, Self::Paced, Self::Megabyte, Self::MegabytePaced];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Burst => "burst",
            Self::Paced => "paced",
            Self::Megabyte => "1mb",
            Self::MegabytePaced => "1mb-paced",
            Self::Small => "small",
            Self::SmallPaced => "small-paced",
        }
    }

    pub(crate) const fn describe(self) -> &'static str {
        match self {
            Self::Burst => "burst: 100 KB request, 200 events at once",
            Self::Paced => "paced: 100 KB request, 200 events, one every 5 ms",
            Self::Megabyte => "1mb: 1 MB request, 200 events at once",
            Self::MegabytePaced => "1mb-paced: 1 MB request, 200 events, one every 5 ms",
            Self::Small => "small: 2 KB request, 200 events at once",
            Self::SmallPaced => "small-paced: 2 KB request, 200 events, one every 5 ms",
        }
    }

    pub(crate) const fn is_paced(self) -> bool {
        matches!(self, Self::Paced | Self::MegabytePaced | Self::SmallPaced)
    }

    const fn body_bytes(self) -> usize {
        match self {
            Self::Burst | Self::Paced => 100_000,
            Self::Megabyte | Self::MegabytePaced => 1_000_000,
            Self::Small | Self::SmallPaced => 2_000,
        }
    }

    /// Requests of each connection: enough for the CPU time to be measurable, few enough for a run of minutes.
    const fn requests(self, connections: usize) -> usize {
        match (self, connections) {
            (Self::Paced | Self::MegabytePaced | Self::SmallPaced, _) => 2,
            (Self::Burst | Self::Small, 1) => 600,
            (Self::Megabyte, 1) => 200,
            (Self::Burst | Self::Small, many) => 1_800 / many,
            (Self::Megabyte, many) => 480 / many,
        }
    }
}

/// When the connections of a paced load begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begin {
    /// At one moment, so that their events come together.
    Together,
    /// Evenly over the time between two events, as streams that know nothing of each other.
    Apart,
}

/// Puts the load on the contender at `address` and waits for the last answer.
pub(crate) fn run(load: Load, connections: usize, address: SocketAddr, path: &str) -> Outcome {
    run_from(Begin::Together, load, connections, address, path)
}

/// The same, from such a begin.
pub(crate) fn run_from(begin: Begin, load: Load, connections: usize, address: SocketAddr, path: &str) -> Outcome {
    let request = request(load, address, path);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let clients = (0..connections).map(|number| {
            let wait = if begin == Begin::Apart {
                PACE / u32::try_from(connections).unwrap() * u32::try_from(number).unwrap()
            } else {
                Duration::ZERO
            };
            let client = client(load.requests(connections), address, request.clone());
            tokio::spawn(async move {
                // The timer counts in whole milliseconds.
                let start = Instant::now();
                while start.elapsed() < wait {
                    tokio::task::yield_now().await;
                }
                client.await
            })
        });
        let clients: Vec<_> = clients.collect();
        let (mut first_bytes, mut events) = (Vec::new(), Vec::new());
        for client in clients {
            let (more_first_bytes, more_events) = client.await.unwrap();
            first_bytes.extend(more_first_bytes);
            events.extend(more_events);
        }
        Outcome { requests: first_bytes.len(), first_byte_ms: middle(&mut first_bytes), event_ms: middle(&mut events) }
    })
}

fn middle(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// A conversation as Claude Code sends it, posted to `path`: many strings of some length, with escapes.
pub(crate) fn request(load: Load, address: SocketAddr, path: &str) -> Vec<u8> {
    let text =
        "fn main() {\\n    println!(\\\"hello, world\\\");\\n}\\n// a comment of some length to make it look like code\\n".repeat(12);
    let mut messages = String::new();
    while messages.len() < load.body_bytes() - 300 {
        let rest = load.body_bytes() - 300 - messages.len();
        let piece = if rest < text.len() { "x".repeat(rest) } else { text.clone() };
        let comma = if messages.is_empty() { "" } else { "," };
        write!(messages, "{comma}{{\"role\":\"user\",\"content\":[{{\"type\":\"text\",\"text\":\"{piece}\"}}]}}").unwrap();
    }
    let body = format!("{{\"model\":\"claude-opus-5-5\",\"messages\":[{messages}],\"max_tokens\":32000,\"stream\":true}}");
    let head = format!(
        "POST {path}?load={} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nx-api-key: dummy\r\nanthropic-version: 2023-06-01\r\n\
         User-Agent: claude-cli/2.1.330 (external, cli)\r\nX-Claude-Code-Session-Id: 00000000-0000-4000-8000-000000000000\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
         Content-Length: {}\r\n\r\n",
        load.name(),
        body.len()
    );
    [head.into_bytes(), body.into_bytes()].concat()
}

async fn client(requests: usize, address: SocketAddr, request: Vec<u8>) -> (Vec<f64>, Vec<f64>) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut first_bytes, mut events) = (Vec::new(), Vec::new());
    let mut answer = Vec::with_capacity(256 * 1024);
    for _ in 0..requests {
        answer.clear();
        let begin = Instant::now();
        stream.write_all(&request).await.unwrap();
        let mut searched = 0;
        loop {
            let count = stream.read_buf(&mut answer).await.unwrap();
            assert!(count > 0, "the contender closed the connection: {}", String::from_utf8_lossy(&answer));
            if answer.len() == count {
                first_bytes.push(begin.elapsed().as_secs_f64() * 1_000.0);
                assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
            }
            while let Some(at) = memchr::memmem::find(&answer[searched..], STAMP).map(|at| searched + at + STAMP.len()) {
                let Some(stamp) = answer.get(at..at + 20) else { break };
                let sent: u64 = std::str::from_utf8(stamp).unwrap().parse().unwrap();
                events.push(now_nanos().saturating_sub(sent) as f64 / 1e6);
                searched = at + 20;
            }
            if answer.ends_with(b"0\r\n\r\n") {
                break;
            }
        }
    }
    (first_bytes, events)
}

/// The time that two processes of one machine agree on.
pub(crate) fn now_nanos() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}
