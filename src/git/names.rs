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

/// Whether a change of `path` is one of what `pattern` names: it matches, or stands in the place of a folder above; and so may, behind the
/// pattern's first `*`, whatever `leads` elsewhere: a link or a submodule.
pub(super) fn concerns(pattern: &str, path: &str, leads: bool) -> bool {
    let fixed = pattern.split('*').next().unwrap_or_default();
    let above = fixed.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
    matches(pattern, path) || above || (leads && pattern.contains('*') && path.starts_with(fixed))
}

/// The paths that `--raw -z` of git-log and git-diff tells, each with whether it is a link or a submodule now. What else is told is passed on.
pub(super) fn raw_paths<'a>(told: &'a str, mut other: impl FnMut(&'a str)) -> Vec<(&'a str, bool)> {
    let mut parts = told.split('\0').map(|part| part.trim_start_matches('\n'));
    let mut paths = Vec::new();
    while let Some(part) = parts.next() {
        // `:100644 120000 <id> <id> T`, with a colon and a mode more for each further parent of a merge.
        let Some(modes) = part.strip_prefix(':') else {
            other(part);
            continue;
        };
        let parents = 1 + modes.bytes().take_while(|byte| *byte == b':').count();
        let mode = modes.trim_start_matches(':').split(' ').nth(parents).unwrap_or_default();
        paths.extend(parts.next().map(|path| (path, ["120000", "160000"].contains(&mode))));
    }
    paths
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
    fn a_link_is_held_where_it_could_lead_to_what_is_held_and_a_file_only_by_its_own_name() {
        let pattern = "services/*/Dockerfile";
        assert!(concerns(pattern, "services/api/Dockerfile", false) && concerns(pattern, "services", false));
        assert!(concerns(pattern, "services/api", true) && concerns(pattern, "services/deep/api", true));
        assert!(!concerns(pattern, "services/api", false) && !concerns(pattern, "other/api", true));
        assert!(!concerns("ci/run", "ci/other", true) && concerns("ci/run", "ci", false));
    }

    #[test]
    fn what_git_tells_of_paths_is_read_with_what_they_are_also_of_merges() {
        let id = "e69de29";
        let told = format!(
            "\n:100644 100644 {id} {id} M\0a\tb\0:000000 120000 {id} {id} A\0link\0:120000 100644 {id} {id} T\0file\0\n::100644 100644 160000 {id} {id} {id} MM\0sub\01\t2\ta\tb\0"
        );
        let mut others = Vec::new();
        let paths = raw_paths(&told, |other| others.push(other));
        assert_eq!(paths, [("a\tb", false), ("link", true), ("file", false), ("sub", true)]);
        assert_eq!(others, ["1\t2\ta\tb", ""]);
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
