//! The names a session carries in AWS, brought into AWS's character sets and lengths (facts/AWS.md section 1).
//!
//! Pure. What AWS does not take becomes `-`; the raw values stay in sentrely's own journal.

use crate::model::SessionId;

/// Tag that names the developer; equal to the source identity, which a trust policy may insist on.
pub const TAG_DEVELOPER: &str = "sentrely:developer";
/// Tag that names the project.
pub const TAG_PROJECT: &str = "sentrely:project";
/// Tag that names the session: what a revoker denies by.
pub const TAG_SESSION: &str = "sentrely:session";

/// What stands for a name of which nothing is left.
const NOBODY: &str = "unknown";

/// `<uuid>-<developer, cut to 27>`: at most 64 characters, which is STS's limit, and the whole id comes first.
pub fn role_session_name(session: SessionId, developer: &str) -> String {
    let developer: String = source_identity(developer).chars().take(27).collect();
    format!("{session}-{developer}")
}

/// The developer as a source identity: 2 to 64 ASCII letters, digits and `_.+=@-`.
///
/// STS would take a comma too, but a tag's value may not hold one, and the developer's tag must equal the source identity.
pub fn source_identity(developer: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.+=@-".contains(c);
    let mut name: String = developer.trim().chars().map(|c| if allowed(c) { c } else { '-' }).take(64).collect();
    if name.is_empty() {
        NOBODY.clone_into(&mut name);
    }
    if name.len() == 1 {
        name.push('-');
    }
    name
}

/// A tag's value: 1 to 256 letters, digits, spaces and `_.:/=+-@`; never beginning with the reserved `aws:`.
pub fn tag_value(text: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.:/=+-@ ".contains(c) || is_letter_beyond_ascii(c);
    let mut value: String = text.trim().chars().map(|c| if allowed(c) { c } else { '-' }).take(256).collect();
    if value.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("aws:")) {
        value.replace_range(3..4, "-");
    }
    // Cutting may have left a space at the end.
    match value.trim_end() {
        "" => NOBODY.to_owned(),
        trimmed => trimmed.to_owned(),
    }
}

/// A part of `\p{L}`: blocks of letters without marks. The standard library's `is_alphabetic` also holds combining vowel
/// signs, which STS refuses, and one refused character refuses the session.
fn is_letter_beyond_ascii(c: char) -> bool {
    let letters = matches!(c,
        '\u{C0}'..='\u{24F}' | '\u{386}'..='\u{3FF}' | '\u{400}'..='\u{481}' | '\u{48A}'..='\u{52F}'
        | '\u{5D0}'..='\u{5EA}' | '\u{3041}'..='\u{3096}' | '\u{30A1}'..='\u{30FA}' | '\u{4E00}'..='\u{9FFF}' | '\u{AC00}'..='\u{D7A3}');
    letters && c.is_alphabetic()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn session() -> SessionId {
        "9f3a12cd-0000-4000-8000-000000000001".parse().unwrap()
    }

    #[test]
    fn ordinary_names_are_kept_as_they_are() {
        assert_eq!(role_session_name(session(), "ana@example.com"), "9f3a12cd-0000-4000-8000-000000000001-ana@example.com");
        assert_eq!(source_identity("ana+dev@example.com"), "ana+dev@example.com");
        assert_eq!(tag_value("github.com/acme/shop front"), "github.com/acme/shop front");
        assert_eq!(tag_value("Größe 日本 проект"), "Größe 日本 проект");
    }

    #[test]
    fn what_aws_does_not_take_becomes_a_dash() {
        assert_eq!(source_identity("Ana O'Neil (ops)"), "Ana-O-Neil--ops-");
        assert_eq!(source_identity("aws:ana"), "aws-ana");
        assert_eq!(source_identity("Lovelace, Ada"), "Lovelace--Ada");
        assert_eq!(source_identity("a"), "a-");
        assert_eq!(source_identity("  "), "unknown");
        assert_eq!(tag_value("shop#2 'beta'"), "shop-2 -beta-");
        assert_eq!(tag_value("AWS:x"), "AWS-x");
        assert_eq!(tag_value("\u{94d}\u{345}"), "--");
        assert_eq!(tag_value(""), "unknown");
    }

    #[test]
    fn a_long_developer_is_cut_and_the_session_id_is_not() {
        let name = role_session_name(session(), &"x".repeat(100));
        assert_eq!(name, format!("9f3a12cd-0000-4000-8000-000000000001-{}", "x".repeat(27)));
    }

    proptest! {
        #[test]
        fn every_developer_makes_a_valid_session_name_and_source_identity(developer in any::<String>()) {
            let ok = |text: &str| (2..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.+=@-".contains(&b));
            let name = role_session_name(session(), &developer);
            prop_assert!(ok(&name), "{}", name);
            prop_assert!(name.starts_with("9f3a12cd-0000-4000-8000-000000000001-"));
            prop_assert!(ok(&source_identity(&developer)));
        }

        #[test]
        fn a_developer_is_the_same_in_tag_and_source_identity(developer in any::<String>()) {
            let identity = source_identity(&developer);
            prop_assert_eq!(tag_value(&identity), identity);
        }

        #[test]
        fn every_text_makes_a_valid_tag_value(text in any::<String>()) {
            let value = tag_value(&text);
            prop_assert!((1..=256).contains(&value.chars().count()));
            prop_assert!(!value.to_lowercase().starts_with("aws:"));
            prop_assert!(value.chars().all(|c| c.is_alphanumeric() || "_.:/=+-@ ".contains(c)), "{}", value);
            prop_assert_eq!(tag_value(&value), value);
        }
    }
}
