//! The proxy between real sockets: what goes through unchanged, what is refused, what is cut, and that all of it is booked.

mod asking;
mod bedrock;
mod clients;
mod cost;
mod credentials;
mod cutting;
mod failing;
mod load;
mod passing;
mod reaching;
mod refusing;
mod silent;
mod telling;

use sentrely::model::Usd;
use sha2::{Digest, Sha256};

fn usd(text: &str) -> Usd {
    text.parse().unwrap()
}

fn digest(bytes: &[u8]) -> Vec<u8> {
    Sha256::digest(bytes).to_vec()
}

/// Bytes that are not text, with everything in them that a careless proxy would change.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_le_bytes()[5]
        })
        .collect()
}

/// A request's body in a form that no serialiser would write: odd spaces, escapes, unknown fields, key order.
fn odd_body(filler: usize) -> String {
    format!(
        "{{ \"safeguards\" : [ {{\"x\":1.0e+1}} ],\"messages\":[{{\"content\":\"\\u00e9\\/{}\",\"role\":\"user\"}}] ,\n\t\"stream\": true,\"max_tokens\":100, \"model\":\"claude-opus-5-5\"}}\r\n",
        "a\\nb ".repeat(filler)
    )
}
