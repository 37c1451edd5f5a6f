//! An LFS server beside a bare repository: the batch API and a folder of content. Whoever asks has been let in already.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Response, StatusCode};
use serde_json::{Value, json};

/// The answer, if the path is one of an LFS server: `/<repository>/info/lfs/objects/batch` and, for content, `/<repository>/content/<oid>`.
pub(crate) fn answer(root: &Path, host: &str, method: &Method, path: &str, body: &[u8]) -> Option<Response<Full<Bytes>>> {
    let (repository, rest) = path.trim_start_matches('/').split_once('/')?;
    let place = |oid: &str| root.join(repository).join("content").join(oid);
    let said = |status: StatusCode, body: Vec<u8>| {
        let kind = "application/vnd.git-lfs+json";
        Some(Response::builder().status(status).header("content-type", kind).body(Full::from(body)).unwrap())
    };
    match (method, rest, rest.strip_prefix("content/")) {
        (&Method::POST, "info/lfs/objects/batch", _) => {
            let asked: Value = serde_json::from_slice(body).unwrap();
            let way = asked["operation"].as_str().unwrap();
            let judge = |object: &Value| {
                let (oid, there) = (object["oid"].as_str().unwrap(), place(object["oid"].as_str().unwrap()).exists());
                let mut judged = json!({ "oid": oid, "size": object["size"] });
                if way == "download" && !there {
                    judged["error"] = json!({ "code": 404, "message": "not here" });
                } else if way == "download" || !there {
                    judged["actions"] = json!({ way: { "href": format!("http://{host}/{repository}/content/{oid}") } });
                }
                judged
            };
            let objects: Vec<Value> = asked["objects"].as_array().unwrap().iter().map(judge).collect();
            said(StatusCode::OK, json!({ "transfer": "basic", "objects": objects }).to_string().into_bytes())
        }
        (&Method::PUT, _, Some(oid)) => {
            fs::create_dir_all(place("x").parent().unwrap()).unwrap();
            fs::write(place(oid), body).unwrap();
            said(StatusCode::OK, Vec::new())
        }
        (&Method::GET, _, Some(oid)) => match fs::read(place(oid)) {
            Ok(content) => said(StatusCode::OK, content),
            Err(_) => said(StatusCode::NOT_FOUND, Vec::new()),
        },
        (_, rest, _) if rest.starts_with("info/lfs/") => said(StatusCode::NOT_IMPLEMENTED, Vec::new()),
        _ => None,
    }
}
