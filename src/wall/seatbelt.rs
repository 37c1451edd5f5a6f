//! The wall of macOS: a Seatbelt profile with the policy of the other walls, for `sandbox-exec`. **Untested**: it was written from the
//! documentation of others and has never been run.
//!
//! Like the lower wall of Linux it cannot put a copy in place of the home: what is not named is read-only, and no copy-on-write makes up for
//! that. Of several rules that match, the last one counts, so the narrow ones stand below the wide ones.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// What the profile says, as paths without symbolic links: the kernel compares real ones (`/private/tmp`, not `/tmp`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Policy {
    /// May be written: temporary directories, caches, the working copy, Claude Code's data.
    pub(super) writable: Vec<PathBuf>,
    /// May be read only, though it lies in something writable: the checkout.
    pub(super) read_only: Vec<PathBuf>,
    /// The state directory: nothing of it is seen but the own session.
    pub(super) state: PathBuf,
    /// The own session's directory, to be seen and not changed.
    pub(super) session: Option<PathBuf>,
    /// The working copy in it.
    pub(super) work: Vec<PathBuf>,
    /// Neither read, written nor connected to: credential files, and what of the own session is nobody's business.
    pub(super) hidden: Vec<PathBuf>,
    /// Sockets that act with the user's rights.
    pub(super) sockets: Vec<PathBuf>,
}

/// Below the home directory, what tools write all the time and nobody runs.
#[cfg(target_os = "macos")]
pub(super) const WRITABLE_IN_HOME: &[&str] = &[".cache", "Library/Caches", ".npm", ".cargo/registry", ".cargo/git", ".claude.json"];
/// Below Claude Code's configuration directory, besides its data.
#[cfg(target_os = "macos")]
pub(super) const WRITABLE_OF_CLAUDE: &[&str] =
    &["shell-snapshots", "session-env", "backups", "statsig", "debug", "cache", "telemetry", "paste-cache"];

/// Services of the system that give out what lies in the keychain.
const KEYCHAIN: [&str; 4] = ["com.apple.SecurityServer", "com.apple.securityd", "com.apple.securityd.xpc", "com.apple.secd"];
/// Where every program writes.
const ALWAYS_WRITABLE: [&str; 4] = ["/dev", "/private/tmp", "/private/var/tmp", "/private/var/folders"];

/// The text.
pub(super) fn profile(policy: &Policy) -> String {
    let mut text = String::from("(version 1)\n(allow default)\n");
    let mut rule = |rule: &str, paths: &[PathBuf]| {
        if !paths.is_empty() {
            let filters = paths.iter().map(|path| format!("\n  (subpath {})", quoted(path))).collect::<Vec<_>>().concat();
            let _ = writeln!(text, "({rule}{filters})");
        }
    };
    rule("deny file-write*", &[PathBuf::from("/")]);
    rule("allow file-write*", &ALWAYS_WRITABLE.map(PathBuf::from));
    rule("allow file-write*", &policy.writable);
    rule("deny file-write*", &policy.read_only);
    rule("deny file-read* file-write*", std::slice::from_ref(&policy.state));
    rule("allow file-read*", policy.session.as_slice());
    rule("allow file-read* file-write*", &policy.work);
    rule("deny file-read* file-write*", &policy.hidden);
    // To connect to a socket is neither to read nor to write its file: sentrely's own, and those of agents of keys, lie in these.
    let within = std::iter::once(&policy.state).chain(&policy.hidden).map(|path| ("subpath", path));
    let exactly = policy.sockets.iter().map(|path| ("path-literal", path));
    let filters = within.chain(exactly).map(|(how, path)| format!("\n  (remote unix-socket ({how} {}))", quoted(path)));
    let _ = writeln!(text, "(deny network-outbound{})", filters.collect::<Vec<_>>().concat());
    let services = KEYCHAIN.map(|name| format!("\n  (global-name \"{name}\")")).concat();
    let _ = writeln!(text, "(deny mach-lookup{services})");
    text.push_str("(deny signal)\n(allow signal (target same-sandbox))\n");
    text.push_str("(deny process-info*)\n(allow process-info* (target same-sandbox))\n");
    text
}

/// As a string of the profile's language, in which nothing ends it early.
fn quoted(path: &Path) -> String {
    let mut text = String::from("\"");
    for c in path.to_string_lossy().chars() {
        if matches!(c, '"' | '\\') {
            text.push('\\');
        }
        text.push(c);
    }
    text + "\""
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy() -> Policy {
        let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect();
        Policy {
            writable: paths(&["/Users/ana/.npm", "/Users/ana/.claude/projects"]),
            read_only: paths(&["/Users/ana/shop"]),
            state: "/Users/ana/.local/state/sentrely".into(),
            session: Some("/Users/ana/.local/state/sentrely/sessions/x".into()),
            work: paths(&["/Users/ana/.local/state/sentrely/sessions/x/work"]),
            hidden: paths(&["/Users/ana/.aws", "/Users/ana/.local/state/sentrely/sessions/x/lock"]),
            sockets: paths(&["/private/var/run/docker.sock"]),
        }
    }

    #[test]
    fn the_profile_says_what_the_policy_says_the_narrow_below_the_wide() {
        let expected = r#"(version 1)
(allow default)
(deny file-write*
  (subpath "/"))
(allow file-write*
  (subpath "/dev")
  (subpath "/private/tmp")
  (subpath "/private/var/tmp")
  (subpath "/private/var/folders"))
(allow file-write*
  (subpath "/Users/ana/.npm")
  (subpath "/Users/ana/.claude/projects"))
(deny file-write*
  (subpath "/Users/ana/shop"))
(deny file-read* file-write*
  (subpath "/Users/ana/.local/state/sentrely"))
(allow file-read*
  (subpath "/Users/ana/.local/state/sentrely/sessions/x"))
(allow file-read* file-write*
  (subpath "/Users/ana/.local/state/sentrely/sessions/x/work"))
(deny file-read* file-write*
  (subpath "/Users/ana/.aws")
  (subpath "/Users/ana/.local/state/sentrely/sessions/x/lock"))
(deny network-outbound
  (remote unix-socket (subpath "/Users/ana/.local/state/sentrely"))
  (remote unix-socket (subpath "/Users/ana/.aws"))
  (remote unix-socket (subpath "/Users/ana/.local/state/sentrely/sessions/x/lock"))
  (remote unix-socket (path-literal "/private/var/run/docker.sock")))
(deny mach-lookup
  (global-name "com.apple.SecurityServer")
  (global-name "com.apple.securityd")
  (global-name "com.apple.securityd.xpc")
  (global-name "com.apple.secd"))
(deny signal)
(allow signal (target same-sandbox))
(deny process-info*)
(allow process-info* (target same-sandbox))
"#;
        assert_eq!(profile(&policy()), expected);
        let bare = profile(&Policy { state: "/s".into(), ..Policy::default() });
        assert!(!bare.contains("path-literal") && bare.matches("(allow file-write*").count() == 1, "{bare}");
    }

    proptest! {
        #[test]
        fn no_path_ends_its_rule(name in "[ -~]{1,30}") {
            let text = profile(&Policy { hidden: vec![PathBuf::from("/").join(&name)], ..policy() });
            // Outside of strings every bracket is closed again.
            let (mut depth, mut inside, mut escaped) = (0_i32, false, false);
            for c in text.chars() {
                match c {
                    _ if escaped => escaped = false,
                    '\\' if inside => escaped = true,
                    '"' => inside = !inside,
                    '(' if !inside => depth += 1,
                    ')' if !inside => depth -= 1,
                    _ => {}
                }
                prop_assert!(depth >= 0);
            }
            prop_assert!(depth == 0 && !inside);
            prop_assert_eq!(text.lines().count(), profile(&policy()).lines().count() - 2);
        }
    }
}
