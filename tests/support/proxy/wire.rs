//! HTTP/1.1 as far as the tests need it: heads, and bodies by length or chunks.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

pub(super) fn headers_of<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    head.lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .filter(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
        .collect()
}

/// A request's or an answer's head with its empty line; `None` at the end of the connection.
pub(super) async fn read_head(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> io::Result<Option<String>> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head: Vec<u8> = buffer.drain(..end + 4).collect();
            return Ok(Some(String::from_utf8_lossy(&head).into_owned()));
        }
        if stream.read_buf(buffer).await? == 0 {
            return if buffer.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
    }
}

/// A body by `Content-Length` or chunks, without the framing, and whether it came to its end; without either an answer goes on until the
/// connection ends.
pub(super) async fn read_body(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
    head: &str,
    is_answer: bool,
) -> io::Result<(Vec<u8>, bool)> {
    let mut body = Vec::new();
    if headers_of(head, "transfer-encoding").iter().any(|value| value.eq_ignore_ascii_case("chunked")) {
        loop {
            let Some(line) = take_line(stream, buffer).await? else { return Ok((body, false)) };
            let size = usize::from_str_radix(line.split(';').next().unwrap_or("").trim(), 16).map_err(io::Error::other)?;
            if size == 0 {
                // Trailers, if any, and the empty line.
                while take_line(stream, buffer).await?.is_some_and(|line| !line.is_empty()) {}
                return Ok((body, true));
            }
            if !take(stream, buffer, size, &mut body).await? || take_line(stream, buffer).await?.is_none() {
                return Ok((body, false));
            }
        }
    }
    if let Some(length) = headers_of(head, "content-length").first() {
        let complete = take(stream, buffer, length.parse().map_err(io::Error::other)?, &mut body).await?;
        return Ok((body, complete));
    }
    if is_answer {
        while !buffer.is_empty() || stream.read_buf(buffer).await? > 0 {
            body.append(buffer);
        }
    }
    Ok((body, true))
}

async fn take(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>, size: usize, body: &mut Vec<u8>) -> io::Result<bool> {
    let end = body.len() + size;
    loop {
        let missing = end - body.len();
        let count = missing.min(buffer.len());
        body.extend(buffer.drain(..count));
        if body.len() == end {
            return Ok(true);
        }
        match stream.read_buf(buffer).await {
            Ok(0) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(false),
            Ok(_) => {}
            Err(error) => return Err(error),
        }
    }
}

async fn take_line(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> io::Result<Option<String>> {
    loop {
        if let Some(end) = buffer.windows(2).position(|window| window == b"\r\n") {
            let line: Vec<u8> = buffer.drain(..end + 2).take(end).collect();
            return Ok(Some(String::from_utf8_lossy(&line).into_owned()));
        }
        match stream.read_buf(buffer).await {
            Ok(0) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Ok(_) => {}
            Err(error) => return Err(error),
        }
    }
}
