//! One configuration file: read once, walked key by key, every value with its place.

use std::io::{self, Read as _};
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::printable;
use super::schema::{KEYS, Key, nearest};
use super::setting::Problem;
use super::{ConfigError, Place};

/// No configuration is larger; the project's file could be anything.
const MAX_BYTES: u64 = 1024 * 1024;

/// A file's text.
#[derive(Debug)]
pub(super) struct File {
    pub(super) path: PathBuf,
    text: String,
}

/// One key of a file.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub(super) key: &'static Key,
    /// Where the key's name stands.
    pub(super) name: Range<usize>,
    pub(super) value: Spanned<DeValue<'a>>,
}

impl File {
    /// `None` where there is no such file.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, ConfigError> {
        match read(path) {
            Ok(text) => Ok(Some(Self { path: path.to_owned(), text })),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
        }
    }

    /// The folder that its relative paths start from.
    pub(super) fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    /// Every key, checked against the schema.
    pub(super) fn entries(&self) -> Result<Vec<Entry<'_>>, ConfigError> {
        let tables = DeTable::parse(&self.text).map_err(|error| ConfigError::Syntax {
            place: self.place(error.span().map_or(0, |span| span.start)),
            message: printable(error.message()),
        })?;
        let mut entries = Vec::new();
        for (table, value) in tables.into_inner() {
            if let Some(key) = Key::find(table.get_ref()) {
                entries.push(Entry { key, name: table.span(), value });
                continue;
            }
            if !KEYS.iter().any(|key| key.table() == table.get_ref()) {
                return Err(self.unknown_table(&table));
            }
            let span = value.span();
            let DeValue::Table(keys) = value.into_inner() else {
                let message = format!("`{0}` is a table: write [{0}]", table.get_ref());
                return Err(ConfigError::Syntax { place: self.place(span.start), message });
            };
            for (name, value) in keys {
                let dotted = format!("{}.{}", table.get_ref(), name.get_ref());
                let key = Key::find(&dotted).ok_or_else(|| unknown_key(self.place(name.span().start), &dotted))?;
                entries.push(Entry { key, name: name.span(), value });
            }
        }
        Ok(entries)
    }

    /// Line and column of a byte of the text, both from 1.
    pub(super) fn place(&self, offset: usize) -> Place {
        let before = self.text.get(..offset).unwrap_or(&self.text);
        let start = before.rfind('\n').map_or(0, |end| end + 1);
        let column = before.get(start..).map_or(0, |line| line.chars().count()) + 1;
        Place::File { path: self.path.clone(), line: before.matches('\n').count() + 1, column }
    }

    /// The error for a value of this file.
    pub(super) fn invalid(&self, key: &'static Key, problem: Problem) -> ConfigError {
        invalid(self.place(problem.span.start), key, problem)
    }

    fn unknown_table(&self, table: &Spanned<toml::de::DeString<'_>>) -> ConfigError {
        let name = table.get_ref();
        // `timeout = "2h"` above the first table is the likelier slip when a key has that name.
        let key = KEYS.iter().find(|key| key.name.split_once('.').is_some_and(|(_, own)| own == name));
        let suggestion = key
            .map_or_else(|| nearest(name, KEYS.iter().map(Key::table)).map(|table| format!("[{table}]")), |key| Some(key.name.to_owned()));
        ConfigError::Unknown { place: self.place(table.span().start), what: "table", name: printable(name), suggestion }
    }
}

/// The error for a dotted name that is no key: suggests a key of the same table first, then one of the same name elsewhere.
pub(super) fn unknown_key(place: Place, dotted: &str) -> ConfigError {
    let (table, own) = dotted.split_once('.').unwrap_or(("", dotted));
    let own_name = |key: &'static Key| key.name.split_once('.').map(|(_, own)| own);
    let beside = KEYS.iter().filter(|key| key.table() == table).filter_map(own_name);
    let suggestion = nearest(own, beside)
        .map(|own| format!("{table}.{own}"))
        .or_else(|| KEYS.iter().find(|key| own_name(key) == Some(own)).map(|key| key.name.to_owned()))
        .or_else(|| nearest(dotted, KEYS.iter().map(|key| key.name)).map(str::to_owned));
    ConfigError::Unknown { place, what: "key", name: printable(dotted), suggestion }
}

/// The error for a value.
pub(super) fn invalid(place: Place, key: &'static Key, problem: Problem) -> ConfigError {
    ConfigError::Invalid {
        place,
        key: key.name,
        message: printable(&problem.message),
        hint: problem.hint.or_else(|| Some(format!("{} takes {}", key.name, key.kind))),
    }
}

/// Regular files only: opening a fifo that an agent left there would wait for ever.
fn read(path: &Path) -> io::Result<String> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if metadata.len() > MAX_BYTES {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> File {
        File { path: "/p/sentrely.toml".into(), text: text.to_owned() }
    }

    fn error(text: &str) -> (String, Option<String>) {
        let error = file(text).entries().unwrap_err();
        (error.to_string(), error.hint())
    }

    #[test]
    fn an_unknown_key_is_placed_and_the_nearest_one_named() {
        assert_eq!(
            error("# ä\n[run]\n  timout = \"2h\"\n"),
            ("read /p/sentrely.toml:3:3: unknown key `run.timout`".into(), Some("did you mean `run.timeout`?".into()))
        );
        assert_eq!(
            error("[budget]\ntimeout = \"2h\""),
            ("read /p/sentrely.toml:2:1: unknown key `budget.timeout`".into(), Some("did you mean `run.timeout`?".into()))
        );
        assert_eq!(
            error("[bugdet]\nlimits = []"),
            ("read /p/sentrely.toml:1:2: unknown table `bugdet`".into(), Some("did you mean `[budget]`?".into()))
        );
        assert_eq!(error("timeout = '2h'").1, Some("did you mean `run.timeout`?".into()));
        assert_eq!(error("[zzzzzz]").1, Some("`sentrely config --schema` lists what can be set".into()));
        assert_eq!(error("run = 1").0, "read /p/sentrely.toml:1:7: `run` is a table: write [run]");
    }

    #[test]
    fn broken_toml_is_placed_and_its_text_is_not_repeated() {
        let (message, _) = error("[upstream]\nbase_url = \"sk-secret\n");
        assert!(message.starts_with("read /p/sentrely.toml:2:"), "{message}");
        assert!(!message.contains("sk-secret"), "{message}");
    }

    #[test]
    fn a_name_cannot_write_on_the_terminal() {
        let (message, _) = error("[run]\n\"\\u001b[2J\" = 1");
        assert_eq!(message, "read /p/sentrely.toml:2:1: unknown key `run.\\u{1b}[2J`");
    }

    #[test]
    fn what_is_no_regular_file_is_refused_and_what_is_missing_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("sentrely.toml");
        assert!(File::open(&fifo).unwrap().is_none());
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        assert!(matches!(File::open(&fifo), Err(ConfigError::Read { .. })));
    }
}
