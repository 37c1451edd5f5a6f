//! Bedrock's frames, with the checksums that their client looks at.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// One frame: its kind (`event` or `exception`), its type, its payload.
pub(crate) fn frame(kind: &str, name: &str, payload: &[u8]) -> Vec<u8> {
    let mut headers = Vec::new();
    for (header, value) in [(format!(":{kind}-type"), name), (":content-type".into(), "application/json"), (":message-type".into(), kind)] {
        headers.push(u8::try_from(header.len()).unwrap());
        headers.extend_from_slice(header.as_bytes());
        // A string.
        headers.push(7);
        headers.extend_from_slice(&u16::try_from(value.len()).unwrap().to_be_bytes());
        headers.extend_from_slice(value.as_bytes());
    }
    let length = u32::try_from(12 + headers.len() + payload.len() + 4).unwrap();
    let mut frame = [length.to_be_bytes(), u32::try_from(headers.len()).unwrap().to_be_bytes()].concat();
    frame.extend_from_slice(&crc32(&frame).to_be_bytes());
    frame.extend_from_slice(&headers);
    frame.extend_from_slice(payload);
    frame.extend_from_slice(&crc32(&frame).to_be_bytes());
    frame
}

/// A frame around an event of the Messages API, as Bedrock sends it: in base64, with some padding beside it.
pub(crate) fn event_frame(json: &str) -> Vec<u8> {
    frame("event", "chunk", format!(r#"{{"bytes":"{}","p":"abcdefghijkl"}}"#, STANDARD.encode(json)).as_bytes())
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 })
    })
}
