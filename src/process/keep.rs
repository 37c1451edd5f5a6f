//! What may go on running after a normal exit: build daemons that the next build would have to start again (`run.keep`).
//!
//! They are known by the executable that runs, not by a name that a process gives itself. A program could still be a copy under such a name:
//! so nothing is ever kept when a session is *stopped*, whatever stops it, and what is kept is said in the summary. What a kept process
//! has started is ended unless it is on the list itself.

use std::path::Path;

use crate::system::{Process, command_line, executable};

/// The main class of Gradle's daemon; its executable is some `java`.
const GRADLE: &[u8] = b"org.gradle.launcher.daemon.bootstrap.GradleDaemon";
/// How Bazel's server calls itself, followed by the workspace's name; its executable is the `java` that Bazel brings along.
const BAZEL: &[u8] = b"bazel(";

/// The names of those to be kept. `Keep::default()` keeps nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keep(Vec<String>);

impl Keep {
    /// Programs by the name of their executable; `gradle` and `bazel` mean the Java programs that those leave behind.
    pub fn new(names: &[String]) -> Self {
        Self(names.to_vec())
    }

    /// The name on the list that `process` goes by.
    pub(super) fn matching(&self, process: &Process) -> Option<&str> {
        if self.0.is_empty() {
            return None;
        }
        self.named(&executable(process.pid)?, &command_line(process.pid))
    }

    fn named(&self, executable: &Path, command_line: &[u8]) -> Option<&str> {
        let file = executable.file_name()?.to_str()?;
        // It was updated or removed since it was started.
        let file = file.strip_suffix(" (deleted)").unwrap_or(file);
        let mut words = command_line.split(|byte| *byte == 0);
        self.0.iter().map(String::as_str).find(|name| match *name {
            "gradle" if file == "java" => words.clone().any(|word| word == GRADLE),
            "bazel" if file == "java" => words.next().is_some_and(|word| word.starts_with(BAZEL)),
            name => file == name,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_known_by_their_executable_and_java_by_what_it_runs() {
        let keep = Keep::new(&["gradle", "bazel", "sccache", "watchman"].map(str::to_owned));
        let named = |executable: &str, command_line: &str| keep.named(Path::new(executable), command_line.as_bytes()).map(str::to_owned);
        assert_eq!(named("/home/ana/.cargo/bin/sccache", "/bin/anything\0"), Some("sccache".into()));
        assert_eq!(named("/usr/bin/watchman (deleted)", "watchman\0"), Some("watchman".into()));
        let gradle = "/usr/bin/java\0-Xmx2g\0org.gradle.launcher.daemon.bootstrap.GradleDaemon\09.1\0";
        assert_eq!(named("/usr/lib/jvm/21/bin/java", gradle), Some("gradle".into()));
        assert_eq!(named("/home/ana/.cache/bazel/jdk/bin/java", "bazel(shop)\0-Xverify:none\0"), Some("bazel".into()));
        // What it calls itself does not count, nor does a script's interpreter.
        assert_eq!(named("/usr/bin/python3", "sccache\0"), None);
        assert_eq!(named("/usr/bin/node", "bazel(shop)\0"), None);
        assert_eq!(named("/usr/lib/jvm/21/bin/java", "java\0-jar\0server.jar\0"), None);
        assert_eq!(Keep::default().named(Path::new("/usr/bin/sccache"), b"sccache\0"), None);
    }
}
