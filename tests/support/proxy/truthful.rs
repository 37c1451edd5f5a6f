//! An upstream that generates: it knows what every piece of its answers is in tokens, reports that, and remembers what it wrote. What was
//! written is generated, whether or not anybody has read it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sentrely::model::Usd;
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A model that answers, with pico-dollars a token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Model {
    pub(crate) name: &'static str,
    pub(crate) fast: bool,
    pub(crate) input: u64,
    pub(crate) output: u64,
}

impl Model {
    pub(crate) const OPUS: Self = Self { name: "claude-opus-5-5", fast: false, input: 4_000_000, output: 20_000_000 };
    /// The one of which the highest speed is assumed: 1,000 tokens a second.
    pub(crate) const FASTEST: Self = Self { name: "claude-haiku-5-5", fast: true, input: 100_000, output: 500_000 };
}

impl Default for Model {
    fn default() -> Self {
        Self::OPUS
    }
}

/// A kind of text, with the number of tokens that the published vocabulary makes of it (`src/meter/weigh.rs`).
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Kind {
    pub(crate) name: String,
    pub(crate) tokens: u64,
    pub(crate) text: String,
}

/// All kinds of text that are measured.
pub(crate) fn kinds() -> Vec<Kind> {
    include_str!("../../../src/meter/weigh_samples.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

impl Kind {
    /// So many bytes of it at least, in pieces of about so many, each with its tokens.
    pub(crate) fn pieces(&self, bytes: usize, piece: usize) -> Vec<(String, u64)> {
        let (mut pieces, mut text) = (Vec::new(), String::new());
        let (mut all, mut told) = (0, 0);
        for character in self.text.chars().cycle() {
            text.push(character);
            all += character.len_utf8();
            if text.len() >= piece {
                let tokens = all as u64 * self.tokens / self.text.len() as u64;
                pieces.push((std::mem::take(&mut text), tokens - told));
                told = tokens;
                if all >= bytes {
                    break;
                }
            }
        }
        pieces
    }
}

/// An answer to be given.
#[derive(Debug, Clone, Default)]
pub(crate) struct Generated {
    /// Tokens of the prompt.
    pub(crate) prompt: u64,
    /// Text with its tokens.
    pub(crate) pieces: Vec<(String, u64)>,
    /// Between the pieces.
    pub(crate) pace: Duration,
    /// Thinks so many tokens first, in silence, at so many a second.
    pub(crate) silence: Option<(u64, u64)>,
    pub(crate) model: Model,
}

/// What became of one request.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) id: String,
    pub(crate) prompt: u64,
    /// Tokens generated so far.
    pub(crate) output: u64,
    /// The last report was written.
    pub(crate) reported: bool,
    pub(crate) model: Model,
}

/// Everything that was asked and generated.
#[derive(Default)]
pub(crate) struct Truth(Mutex<Vec<Told>>);

impl Truth {
    pub(crate) fn all(&self) -> Vec<Told> {
        self.0.lock().unwrap().clone()
    }

    /// What it costs at list price.
    pub(crate) fn cost(&self) -> Usd {
        Usd::from_pico(self.all().iter().map(Told::pico).sum())
    }

    fn change(&self, index: usize, change: impl FnOnce(&mut Told)) {
        change(&mut self.0.lock().unwrap()[index]);
    }
}

impl Told {
    pub(crate) const fn pico(&self) -> u64 {
        self.prompt * self.model.input + self.output * self.model.output
    }
}

type Plan = Arc<dyn Fn(usize, &[u8]) -> Generated + Send + Sync>;

/// Answers each request as `plan` says, given its number and body; where to find it.
pub(crate) async fn truthful(truth: &Arc<Truth>, plan: impl Fn(usize, &[u8]) -> Generated + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (truth, plan): (_, Plan) = (Arc::clone(truth), Arc::new(plan));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, Arc::clone(&truth), Arc::clone(&plan)));
        }
    });
    url
}

async fn serve(mut stream: TcpStream, truth: Arc<Truth>, plan: Plan) {
    stream.set_nodelay(true).unwrap();
    while let Some(body) = request(&mut stream).await {
        // Nobody listens any more: the answer ends there.
        if answer(&mut stream, &truth, &plan, &body).await.is_none() {
            return;
        }
    }
}

async fn request(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut request = Vec::new();
    let body_at = loop {
        if let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut request).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&request[..body_at]).to_ascii_lowercase();
    let length: usize = head.split("content-length: ").nth(1)?.split("\r\n").next()?.parse().ok()?;
    while request.len() < body_at + length {
        if stream.read_buf(&mut request).await.ok()? == 0 {
            return None;
        }
    }
    Some(request.split_off(body_at))
}

async fn answer(stream: &mut TcpStream, truth: &Truth, plan: &Plan, body: &[u8]) -> Option<()> {
    let (number, id) = {
        let mut all = truth.0.lock().unwrap();
        let id = format!("msg_{}", all.len());
        all.push(Told { id: id.clone(), prompt: 0, output: 0, reported: false, model: Model::OPUS });
        (all.len() - 1, id)
    };
    let Generated { prompt, pieces, pace, silence, model } = plan(number, body);
    truth.change(number, |told| (told.prompt, told.model) = (prompt, model));
    let seed = number as u64;
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let (name, speed) = (model.name, if model.fast { ",\"speed\":\"fast\"" } else { "" });
    let start = format!(
        "event: message_start\ndata: {{\"type\":\"message_start\",\"message\":{{\"id\":\"{id}\",\"model\":\"{name}\",\"usage\":{{\"input_tokens\":{prompt},\"output_tokens\":0{speed}}}}}}}\n\n"
    );
    write(stream, format!("{head}{}", chunked(&start)).as_bytes(), seed).await?;
    let mut index = 0;
    if let Some((tokens, speed)) = silence {
        let block = "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}}\n\n";
        write(stream, chunked(block).as_bytes(), seed).await?;
        // As fast as it says, however late this task has its turn.
        let begin = Instant::now();
        let mut thought = 0;
        while thought < tokens {
            tokio::time::sleep(Duration::from_millis(10)).await;
            thought = tokens.min(u64::try_from(begin.elapsed().as_millis()).unwrap() * speed / 1_000);
            truth.change(number, |told| told.output = thought);
            listens(stream)?;
        }
        let stop = "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n";
        write(stream, chunked(stop).as_bytes(), seed).await?;
        index = 1;
    }
    let block = format!(
        "event: content_block_start\ndata: {{\"type\":\"content_block_start\",\"index\":{index},\"content_block\":{{\"type\":\"text\",\"text\":\"\"}}}}\n\n"
    );
    write(stream, chunked(&block).as_bytes(), seed).await?;
    for (count, (text, tokens)) in pieces.iter().enumerate() {
        let text = serde_json::to_string(text).unwrap();
        let delta = format!(
            "event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":{index},\"delta\":{{\"type\":\"text_delta\",\"text\":{text}}}}}\n\n"
        );
        truth.change(number, |told| told.output += tokens);
        write(stream, chunked(&delta).as_bytes(), seed + count as u64).await?;
        if pace.is_zero() {
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(pace).await;
        }
    }
    let mut output = 0;
    truth.change(number, |told| {
        told.reported = true;
        output = told.output;
    });
    let end = format!(
        "event: content_block_stop\ndata: {{\"type\":\"content_block_stop\",\"index\":{index}}}\n\n\
         event: message_delta\ndata: {{\"type\":\"message_delta\",\"delta\":{{\"stop_reason\":\"end_turn\"}},\"usage\":{{\"output_tokens\":{output}}}}}\n\n\
         event: message_stop\ndata: {{\"type\":\"message_stop\"}}\n\n"
    );
    write(stream, format!("{}0\r\n\r\n", chunked(&end)).as_bytes(), seed).await
}

fn chunked(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

/// Writes in two pieces, cut anywhere.
async fn write(stream: &mut TcpStream, bytes: &[u8], seed: u64) -> Option<()> {
    let (first, second) = bytes.split_at(usize::try_from(seed * 7_919).unwrap() % bytes.len());
    stream.write_all(first).await.ok()?;
    stream.write_all(second).await.ok()?;
    listens(stream)
}

/// A connection that was closed is one that nobody reads, though the first writes after it still succeed.
fn listens(stream: &TcpStream) -> Option<()> {
    match stream.try_read(&mut [0]) {
        Ok(0) => None,
        Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => None,
        _ => Some(()),
    }
}
