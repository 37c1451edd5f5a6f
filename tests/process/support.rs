//! What these tests share with the integration tests.

#[path = "../support/components.rs"]
#[expect(dead_code, unused_imports, reason = "it has more users there")]
pub(crate) mod components;
