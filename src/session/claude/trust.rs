//! Which folders the user has trusted in Claude Code, as the client itself records it.

use std::path::Path;

use serde_json::Value;

/// Whether the user's trust covers `dir`: given to it, or to a folder above it. `state_file` is the client's `~/.claude.json`; what cannot
/// be read there is no trust.
pub fn covers(state_file: &Path, dir: &Path) -> bool {
    let Some(state) = fs_err::read(state_file).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok()) else { return false };
    // The client records real paths.
    let Ok(dir) = fs_err::canonicalize(dir) else { return false };
    let given = |dir: &Path| dir.to_str().is_some_and(|dir| state["projects"][dir]["hasTrustDialogAccepted"] == Value::Bool(true));
    dir.ancestors().any(given)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn trust_covers_the_folder_it_was_given_to_and_what_is_below() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let (shop, other, state) = (root.join("shop"), root.join("other"), root.join(".claude.json"));
        std::fs::create_dir_all(shop.join("sub")).unwrap();
        std::fs::create_dir_all(&other).unwrap();
        assert!(!covers(&state, &shop), "no file");
        let projects = json!({ "projects": {
            (shop.to_str().unwrap()): { "hasTrustDialogAccepted": true },
            (other.to_str().unwrap()): { "hasTrustDialogAccepted": false },
        }});
        std::fs::write(&state, projects.to_string()).unwrap();
        assert!(covers(&state, &shop) && covers(&state, &shop.join("sub")));
        assert!(!covers(&state, &other) && !covers(&state, &root) && !covers(&state, &root.join("missing")));
        std::fs::write(&state, "{").unwrap();
        assert!(!covers(&state, &shop));
    }
}
