//! What of the machine is to be treated as missing, so that each lower tier can be tested on a machine that has the higher ones:
//! `SENTRELY_TEST_HIDE=cgroups,landlock,namespaces`.
//!
//! It can only take away, and only for whoever starts sentrely: it is read from sentrely's own environment before the child exists, no
//! file can set it, and the banner says what is hidden.

/// The variable.
const VARIABLE: &str = "SENTRELY_TEST_HIDE";

/// What is hidden.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hidden {
    /// No cgroup of the session's own.
    pub cgroups: bool,
    /// No Landlock.
    pub landlock: bool,
    /// No namespaces.
    pub namespaces: bool,
}

impl Hidden {
    /// As this process's environment says.
    pub fn here() -> Self {
        Self::parse(&std::env::var(VARIABLE).unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let has = |word: &str| text.split(',').any(|given| given.trim() == word);
        Self { cgroups: has("cgroups"), landlock: has("landlock"), namespaces: has("namespaces") }
    }

    /// The words for it; empty if nothing is hidden.
    pub fn names(self) -> Vec<&'static str> {
        let all = [(self.cgroups, "cgroups"), (self.landlock, "landlock"), (self.namespaces, "namespaces")];
        all.into_iter().filter_map(|(hidden, name)| hidden.then_some(name)).collect()
    }

    /// What the banner says of it.
    pub fn notice(self) -> Option<String> {
        let names = self.names();
        (!names.is_empty()).then(|| format!("{VARIABLE} hides {} of this machine: it is weaker than it could be", names.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_words_hide_something() {
        assert_eq!(Hidden::parse("cgroups, landlock"), Hidden { cgroups: true, landlock: true, namespaces: false });
        assert_eq!(Hidden::parse("cgroup,all,"), Hidden::default());
        assert_eq!(Hidden::default().notice(), None);
        assert!(Hidden::parse("namespaces").notice().unwrap().contains("hides namespaces"));
    }
}
