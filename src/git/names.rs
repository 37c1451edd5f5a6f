//! Names: the session's branch, and patterns of branches.

/// The session's branch: `sentrely/<developer>/<slug>-<short id>`, always a valid git branch name.
///
/// Of an e-mail address only the part before the `@` is taken. What git or a file system could stumble over becomes `-`.
pub fn branch_name(developer: &str, slug: &str, short_id: &str) -> String {
    let local = developer.split('@').next().unwrap_or_default();
    let developer = component(local, 40).unwrap_or_else(|| "developer".to_owned());
    let last = match (component(slug, 60), component(short_id, 40)) {
        (Some(slug), Some(id)) => format!("{slug}-{id}"),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => "session".to_owned(),
    };
    // Two clean components joined can still end in ".lock", which git refuses.
    let last = last.strip_suffix(".lock").map_or(last.clone(), |stem| format!("{stem}-lock"));
    format!("sentrely/{developer}/{last}")
}

/// Whether `name` matches `pattern`, in which `*` stands for any text (`release/*`).
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(name) = name.strip_prefix(head) else { return false };
    (0..=name.len()).filter(|at| name.is_char_boundary(*at)).any(|at| matches(rest, &name[at..]))
}

/// Whether a change of the file `path` is one of what `pattern` names: it matches, or is a link or a submodule in the place of a folder above
/// that the pattern names before its first `*` (further on, any file of that level could be one).
pub(super) fn concerns(pattern: &str, path: &str) -> bool {
    let fixed = pattern.split('*').next().unwrap_or_default();
    matches(pattern, path) || fixed.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'))
}

fn component(text: &str, longest: usize) -> Option<String> {
    let mut out = String::new();
    for c in text.chars().map(|c| c.to_ascii_lowercase()) {
        let c = if c.is_ascii_alphanumeric() || matches!(c, '_' | '.') { c } else { '-' };
        let doubled = matches!(c, '-' | '.') && out.ends_with(['-', '.']);
        if !doubled && out.len() < longest {
            out.push(c);
        }
    }
    let mut out = out.trim_matches(['-', '.']).to_owned();
    while let Some(stem) = out.strip_suffix(".lock") {
        out = String::from(stem.trim_matches(['-', '.']));
    }
    (!out.is_empty()).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_address_gives_its_local_part_in_lower_case() {
        assert_eq!(
            branch_name("Ada.Lovelace+ci@Example.org", "Fix the Login!", "9f3a12cd"),
            "sentrely/ada.lovelace-ci/fix-the-login-9f3a12cd"
        );
    }

    #[test]
    fn nothing_usable_still_gives_a_name() {
        assert_eq!(branch_name("@", "...", ""), "sentrely/developer/session");
        assert_eq!(branch_name("日本", "é", "9f3a"), "sentrely/developer/9f3a");
    }

    #[test]
    fn patterns_match_whole_names() {
        assert!(matches("release/*", "release/1.2"));
        assert!(matches("main", "main"));
        assert!(!matches("main", "main2"));
        assert!(!matches("release/*", "releases"));
        assert!(matches("*-stable", "v1-stable"));
    }

    proptest! {
        #[test]
        fn every_name_is_a_valid_ref(developer in ".*", slug in ".*", id in ".{0,12}") {
            let name = branch_name(&developer, &slug, &id);
            prop_assert!(git2::Reference::is_valid_name(&format!("refs/heads/{name}")), "{name}");
            prop_assert!(!name.split('/').any(|part| part.strip_suffix(".lock").is_some() || part.starts_with('.')), "{name}");
        }

        #[test]
        fn names_with_awkward_endings_are_valid(developer in "[a.@/~^:?*\\[-]{0,9}(\\.lock){0,3}", slug in "[a.@{}\\\\ -]{0,9}(\\.lock){0,3}", id in "(\\.lock|[.-]){0,3}") {
            let name = branch_name(&developer, &slug, &id);
            prop_assert!(git2::Reference::is_valid_name(&format!("refs/heads/{name}")), "{name}");
        }
    }
}
