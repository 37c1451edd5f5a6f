//! Answers of Bedrock: `application/vnd.amazon.eventstream`, binary frames whose payload holds an event of the Messages API in base64.
//!
//! A frame is: its length and its headers' length (4 bytes each, big-endian), a checksum of both, the headers, the payload, a checksum.
//! The checksums are the client's affair; a frame that cannot be read makes the answer one that is booked at its ceiling.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::anthropic::{Decoder, Signal};

/// The longest frame that is taken apart; Bedrock's own limit is 16 MB, an event has a few hundred bytes.
const MAX_FRAME: usize = 1024 * 1024;
const PRELUDE: usize = 12;
const CHECKSUM: usize = 4;

/// A push parser for frames.
#[derive(Debug, Default)]
pub(super) struct Frames {
    held: Vec<u8>,
    broken: bool,
    events: Decoder,
}

#[derive(Deserialize)]
struct Payload {
    bytes: String,
}

impl Frames {
    /// Reads some more bytes.
    pub(super) fn feed(&mut self, bytes: &[u8], out: &mut impl FnMut(Signal)) {
        if self.broken {
            return;
        }
        self.held.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(length) = length(&self.held[at..]) {
            if !(PRELUDE + CHECKSUM..=MAX_FRAME).contains(&length) {
                self.broken = true;
                out(Signal::Malformed("a frame of an impossible length"));
                break;
            }
            let Some(frame) = self.held.get(at..at + length) else { break };
            read(frame, &mut self.events, out);
            at += length;
        }
        self.held.drain(..at);
    }

    /// Tells what was generated and not told yet.
    pub(super) fn tell_generated(&mut self, out: &mut impl FnMut(Signal)) {
        self.events.tell_generated(out);
    }

    /// Whether the bytes so far end within a frame.
    pub(super) const fn within_event(&self) -> bool {
        !self.held.is_empty()
    }
}

fn length(bytes: &[u8]) -> Option<usize> {
    Some(u32::from_be_bytes(*bytes.first_chunk()?) as usize)
}

fn read(frame: &[u8], events: &mut Decoder, out: &mut impl FnMut(Signal)) {
    let headers = length(&frame[4..]).unwrap_or(usize::MAX);
    let start = PRELUDE.saturating_add(headers);
    let payload = frame.get(start..frame.len() - CHECKSUM);
    if payload.is_some() && memchr::memmem::find(&frame[PRELUDE..start], b"xception").is_some() {
        events.tell_generated(out);
        out(Signal::Failed);
        return;
    }
    let event = payload.and_then(|payload| STANDARD.decode(serde_json::from_slice::<Payload>(payload).ok()?.bytes).ok());
    match event {
        Some(event) => events.read_bare(&event, out),
        None => out(Signal::Malformed("a frame that cannot be read")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::meter::Text;

    /// One frame around an event, as Bedrock sends it; the checksums are not looked at.
    fn frame(kind: &str, payload: &str) -> Vec<u8> {
        let mut headers = Vec::new();
        for (name, value) in [(":event-type", kind), (":content-type", "application/json"), (":message-type", "event")] {
            headers.push(u8::try_from(name.len()).unwrap());
            headers.extend_from_slice(name.as_bytes());
            headers.push(7);
            headers.extend_from_slice(&u16::try_from(value.len()).unwrap().to_be_bytes());
            headers.extend_from_slice(value.as_bytes());
        }
        let length = u32::try_from(PRELUDE + headers.len() + payload.len() + CHECKSUM).unwrap();
        [&length.to_be_bytes()[..], &u32::try_from(headers.len()).unwrap().to_be_bytes(), &[0; 4], &headers, payload.as_bytes(), &[0; 4]]
            .concat()
    }

    fn event(json: &str) -> Vec<u8> {
        frame("chunk", &format!(r#"{{"bytes":"{}","p":"abcdefgh"}}"#, STANDARD.encode(json)))
    }

    fn signals(pieces: &[&[u8]]) -> Vec<Signal> {
        let (mut frames, mut signals) = (Frames::default(), Vec::new());
        for piece in pieces {
            frames.feed(piece, &mut |signal| signals.push(signal));
        }
        signals
    }

    proptest! {
        #[test]
        fn events_are_read_from_frames_in_any_chunking(cuts in prop::collection::vec(1_usize..60, 0..40)) {
            let stream = [
                event(r#"{"type":"message_start","message":{"id":"msg_1","usage":{"input_tokens":3,"output_tokens":1}}}"#),
                event(r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"hello"}}"#),
                event(r#"{"type":"message_stop","amazon-bedrock-invocationMetrics":{"inputTokenCount":3}}"#),
            ]
            .concat();
            let mut pieces = Vec::new();
            let mut rest = &stream[..];
            for cut in cuts {
                let (piece, behind) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = behind;
            }
            pieces.push(rest);
            let found = signals(&pieces);
            prop_assert!(matches!(&found[..], [Signal::Started { id: Some(_), usage: Some(_), .. }, Signal::Delta(text), Signal::Stopped] if *text == Text::of("hello")), "{found:?}");
        }

        #[test]
        fn it_never_fails_by_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            signals(&[&bytes, &bytes]);
            signals(&[&[0, 0, 0, 40, 0, 0, 0, 200], &bytes]);
        }
    }

    #[test]
    fn what_cannot_be_read_is_malformed_and_an_exception_is_a_failure() {
        assert_eq!(signals(&[&frame("throttlingException", "{}")]), [Signal::Failed]);
        assert!(matches!(signals(&[&frame("chunk", r#"{"bytes":"?"}"#)])[..], [Signal::Malformed(_)]));
        assert!(matches!(signals(&[&[0xff; 20]])[..], [Signal::Malformed(_)]));
    }
}
