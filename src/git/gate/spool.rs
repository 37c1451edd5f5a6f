//! Request bodies: taken whole into an unlinked file before anything is decided, so that git on the other end has said all it has to
//! say and listens. Bounded in size, with a deadline on every wait.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::io::AsyncWriteExt;

/// How long the client may be silent in the middle of a body.
const SILENCE: Duration = Duration::from_mins(2);

/// Why a body was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpoolError {
    #[error("the request is larger than {0} bytes")]
    TooLarge(u64),
    #[error("the client fell silent")]
    Silent,
    #[error("read the request")]
    Http(#[from] hyper::Error),
    #[error("store the request")]
    Io(#[from] io::Error),
}

/// Takes the whole body into an unlinked file in `directory`, rewound.
pub(super) async fn take(body: Incoming, directory: &Path, limit: u64) -> Result<File, SpoolError> {
    let mut file = tokio::fs::File::from_std(tempfile::tempfile_in(directory)?);
    let mut body = body;
    let mut taken: u64 = 0;
    while let Some(frame) = tokio::time::timeout(SILENCE, body.frame()).await.map_err(|_| SpoolError::Silent)? {
        let data = frame?.into_data().unwrap_or_else(|_| Bytes::new());
        taken += data.len() as u64;
        if taken > limit {
            return Err(SpoolError::TooLarge(limit));
        }
        file.write_all(&data).await?;
    }
    file.flush().await?;
    let mut file = file.into_std().await;
    file.rewind()?;
    Ok(file)
}

/// Unpacks a gzip body into another unlinked file. Blocking.
pub(super) fn gunzip(packed: File, directory: &Path, limit: u64) -> Result<File, SpoolError> {
    let mut plain = tempfile::tempfile_in(directory)?;
    let mut unpacked = flate2::read::MultiGzDecoder::new(io::BufReader::new(packed)).take(limit + 1);
    if io::copy(&mut unpacked, &mut plain)? > limit {
        return Err(SpoolError::TooLarge(limit));
    }
    plain.flush()?;
    plain.rewind()?;
    Ok(plain)
}

/// The first bytes of the file, which stays rewound.
pub(super) fn head(file: &mut File, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    Read::by_ref(file).take(limit).read_to_end(&mut bytes)?;
    file.rewind()?;
    Ok(bytes)
}
