//! The LFS side of the gate (git-lfs, docs/api/batch.md): what the agent's git-lfs uploads waits in the quarantine for the push that needs
//! it; what it asks for is the developer's, or is fetched by the developer's git-lfs.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::super::GitError;
use super::super::cli::REMOTE;
use super::super::filters::lfs::{Pointer, Store, is_oid};
use super::http::{GateBody, LARGEST_PUSH, REPOSITORY, Server, blocking, in_words, plain, spooled};
use super::quarantine::Quarantine;

const JSON: &str = "application/vnd.git-lfs+json";
/// A list of more objects is not read.
const LONGEST_BATCH: u64 = 8 * 1024 * 1024;
const PIECE: usize = 256 * 1024;

#[derive(Deserialize)]
struct Asked {
    operation: String,
    objects: Vec<Object>,
}

#[derive(Deserialize)]
struct Object {
    oid: String,
    size: u64,
}

#[derive(Serialize)]
struct Answer {
    transfer: &'static str,
    objects: Vec<Judged>,
}

#[derive(Serialize)]
struct Judged {
    oid: String,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    actions: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<serde_json::Value>,
}

/// Answers what is below `info/lfs/`.
pub(super) async fn answer(server: &Arc<Server>, rest: &str, request: Request<Incoming>) -> Response<GateBody> {
    match (request.method(), rest.strip_prefix("objects/")) {
        (&Method::POST, Some("batch")) => batch(server, request).await,
        (&Method::PUT, Some(place)) => match pointer(place) {
            Some(pointer) => take(server, pointer, request).await,
            None => plain(StatusCode::UNPROCESSABLE_ENTITY, "not the name of an object\n"),
        },
        (&Method::GET, Some(place)) => match pointer(place) {
            Some(pointer) => give(server, pointer).await,
            None => plain(StatusCode::NOT_FOUND, "not the name of an object\n"),
        },
        _ => plain(StatusCode::NOT_IMPLEMENTED, "the gate keeps no locks\n"),
    }
}

/// `<oid>/<size>`.
fn pointer(place: &str) -> Option<Pointer> {
    let (oid, size) = place.split_once('/')?;
    Some(Pointer { oid: Some(oid).filter(|oid| is_oid(oid))?.to_owned(), size: size.parse().ok()? })
}

async fn batch(server: &Arc<Server>, request: Request<Incoming>) -> Response<GateBody> {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default().to_owned();
    let mut body = match spooled(server, request, LONGEST_BATCH).await {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    let mut text = Vec::new();
    let asked = body.read_to_end(&mut text).ok().and_then(|_| serde_json::from_slice::<Asked>(&text).ok());
    let Some(asked) = asked else { return plain(StatusCode::UNPROCESSABLE_ENTITY, "not a batch of git-lfs\n") };
    let at = format!("http://{host}/{}/{REPOSITORY}/info/lfs/objects", server.nonce);
    let judge = |Object { oid, size }: Object| {
        let pointer = Pointer { oid: oid.clone(), size };
        let href = serde_json::json!({ "href": format!("{at}/{oid}/{size}") });
        let (actions, error) = match asked.operation.as_str() {
            _ if !is_oid(&oid) => (None, Some(serde_json::json!({ "code": 422, "message": "not a SHA-256" }))),
            "upload" if server.quarantine.lfs().iter().any(|store| store.has(&pointer)) => (None, None),
            way => (Some(serde_json::json!({ way: href })), None),
        };
        Judged { oid, size, actions, error }
    };
    let answer = Answer { transfer: "basic", objects: asked.objects.into_iter().map(judge).collect() };
    json(&answer)
}

async fn take(server: &Arc<Server>, pointer: Pointer, request: Request<Incoming>) -> Response<GateBody> {
    let mut content = match spooled(server, request, LARGEST_PUSH).await {
        Ok(content) => content,
        Err(refused) => return refused,
    };
    let stored = blocking(server, move |server| server.quarantine.take_lfs(&mut content, &pointer));
    match stored.await {
        Ok(true) => plain(StatusCode::OK, ""),
        Ok(false) => plain(StatusCode::UNPROCESSABLE_ENTITY, "the content is not what its name says\n"),
        Err(error) => plain(StatusCode::INSUFFICIENT_STORAGE, &format!("sentrely: {}\n", in_words(&error))),
    }
}

async fn give(server: &Arc<Server>, pointer: Pointer) -> Response<GateBody> {
    let found = blocking(server, move |server| server.quarantine.find_lfs(&pointer));
    let file = match found.await {
        Ok(file) => file,
        Err(error) => return plain(StatusCode::NOT_FOUND, &format!("sentrely: {}\n", in_words(&error))),
    };
    let (sender, receiver) = mpsc::channel(4);
    // Ends with the file, or when the reader goes away.
    drop(spawn_blocking(move || pump(file, &sender)));
    let mut response = Response::new(GateBody::Stream(receiver));
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/octet-stream"));
    response
}

fn pump(mut file: File, sender: &mpsc::Sender<std::io::Result<Bytes>>) {
    let mut buffer = vec![0; PIECE];
    loop {
        let piece = match file.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => Ok(Bytes::copy_from_slice(&buffer[..count])),
            Err(error) => Err(error),
        };
        let over = piece.is_err();
        if sender.blocking_send(piece).is_err() || over {
            return;
        }
    }
}

fn json(answer: &Answer) -> Response<GateBody> {
    let text = serde_json::to_string(answer).unwrap_or_default();
    let mut response = plain(StatusCode::OK, &text);
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(JSON));
    response
}

impl Quarantine {
    /// Where content may lie: our own store, then the developer's.
    fn lfs(&self) -> [Store; 2] {
        [Store::at(&self.path.join("lfs")), Store::of(&self.checkout)]
    }

    /// `false`: it is not what its name says.
    fn take_lfs(&self, content: &mut File, pointer: &Pointer) -> Result<bool, GitError> {
        let [ours, _] = self.lfs();
        ours.put(content, Some(pointer)).map(|put| put.is_some()).map_err(GitError::io("store a file of git-lfs in", ours.path()))
    }

    fn find_lfs(&self, pointer: &Pointer) -> Result<File, GitError> {
        if let Some(file) = self.lfs().iter().find_map(|store| store.open(pointer)) {
            return Ok(file);
        }
        // In the developer's checkout, with its configuration: it knows the server and has the credential.
        let doing = "fetch a file of git-lfs";
        let smudge = self.checkout.git(doing).args(["lfs", "smudge"]).input(pointer.text().as_bytes())?;
        let mut file = tempfile::tempfile().map_err(GitError::io("create a temporary file in", std::env::temp_dir()))?;
        let ended = smudge.within(REMOTE).cut_by(&self.running).stream(|bytes| std::io::Write::write_all(&mut file, bytes))?;
        let whole = file.metadata().is_ok_and(|meta| meta.len() == pointer.size);
        if !ended.success || !whole {
            let said =
                format!("{} is not to be had: {}", pointer.oid, self.upstream.redact(&super::super::cli::telling_line(&ended.stderr)));
            return Err(GitError::Lfs { doing: doing.to_owned(), said });
        }
        std::io::Seek::rewind(&mut file).map_err(GitError::io("read again from", std::env::temp_dir()))?;
        Ok(file)
    }

    /// Puts what a push needs where the developer's git-lfs finds it.
    pub(super) fn hand_over_lfs(&self, pointers: &[Pointer]) -> Result<(), GitError> {
        let [ours, developers] = self.lfs();
        for pointer in pointers.iter().filter(|pointer| !developers.has(pointer)) {
            let Some(mut content) = ours.open(pointer) else { continue };
            developers.put(&mut content, Some(pointer)).map_err(GitError::io("store a file of git-lfs in", developers.path()))?;
        }
        Ok(())
    }
}
