//! The append-only journal of a session: one JSON line an event, each with the hash of the line before (invariant I5).
//!
//! One write(2) a record, so a crash leaves whole lines and at most one torn one, which the next attempt cuts off: a record counts
//! once its newline is on disk. The journal is written to the page cache at once and synced at the end of the session.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use crate::model::{Event, Record};

/// What is read of a journal's end to find its last record.
const TAIL: usize = 2048;

/// The journal as its one writer, the holder of the session's lock, has it.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    seq: u64,
    prev: String,
}

/// Why the journal cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file system refused.
    #[error("write the journal {path}")]
    Write {
        /// Which journal.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file system refused.
    #[error("read the journal {path}")]
    Read {
        /// Which journal.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A record could not be put into words.
    #[error("encode a journal record")]
    Encode(#[from] serde_json::Error),
}

/// Where a journal's chain is broken.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ChainError {
    /// A line is not a record.
    #[error("line {line} is not a journal record")]
    NotARecord {
        /// Counted from 1.
        line: u64,
    },
    /// A line's hash of its predecessor, or its number, is wrong: something before it was changed, removed or added.
    #[error("line {line} does not follow the line before it: the journal was changed after it was written")]
    Broken {
        /// Counted from 1.
        line: u64,
    },
}

impl Journal {
    /// Opens (or begins) the journal at `path` and returns what it holds. A torn last line is cut off.
    pub fn open(path: &Path) -> Result<(Self, Vec<Record>), JournalError> {
        let read = |source| JournalError::Read { path: path.to_owned(), source };
        let write = |source| JournalError::Write { path: path.to_owned(), source };
        let content = match std::fs::read(path) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(read(error)),
        };
        let whole = content.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(write)?;
        if whole < content.len() {
            file.set_len(whole as u64).map_err(write)?;
        }
        let (mut records, mut prev) = (Vec::new(), "0".repeat(64));
        for line in content[..whole].split_inclusive(|byte| *byte == b'\n').map(trim_newline) {
            prev = hash(line);
            records.extend(serde_json::from_slice::<Record>(line));
        }
        let seq = records.last().map_or(0, |record| record.seq);
        Ok((Self { file, path: path.to_owned(), seq, prev }, records))
    }

    /// Appends one event; when this returns it is out of this process's hands.
    pub fn append(&mut self, event: Event, at: Timestamp) -> Result<Record, JournalError> {
        let record = Record { v: 1, seq: self.seq + 1, at, prev: self.prev.clone(), event };
        let mut line = serde_json::to_vec(&record)?;
        let digest = hash(&line);
        line.push(b'\n');
        self.file.write_all(&line).map_err(|source| JournalError::Write { path: self.path.clone(), source })?;
        (self.seq, self.prev) = (record.seq, digest);
        Ok(record)
    }

    /// Whether it still has a name in the file system.
    pub fn is_there(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        self.file.metadata().is_ok_and(|meta| meta.nlink() > 0)
    }

    /// Brings everything written so far onto the disk itself.
    pub fn sync(&self) -> Result<(), JournalError> {
        self.file.sync_data().map_err(|source| JournalError::Write { path: self.path.clone(), source })
    }
}

/// Reads all whole records of a journal that somebody else may be writing.
pub fn read_journal(path: &Path) -> Result<Vec<Record>, JournalError> {
    let content = std::fs::read(path).map_err(|source| JournalError::Read { path: path.to_owned(), source })?;
    Ok(content.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
}

/// The last whole record of a journal, without reading the rest; `None` if there is none, or it is so long that all has to be read.
pub fn last_record(path: &Path) -> Result<Option<Record>, JournalError> {
    let read = |source| JournalError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(read)?;
    let length = file.metadata().map_err(read)?.len();
    let mut tail = [0; TAIL];
    let begin = length.saturating_sub(TAIL as u64);
    let count = file.read_at(&mut tail, begin).map_err(read)?;
    let whole = tail[..count].iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
    let line = match tail[..whole].iter().rposition(|byte| *byte == b'\n') {
        Some(before) => &tail[before + 1..whole],
        None if begin == 0 => &tail[..whole],
        None => return Ok(None),
    };
    Ok(serde_json::from_slice(line).ok())
}

/// Checks the chain of hashes; returns the number of records and the last line's hash.
pub fn verify_journal(content: &[u8]) -> Result<(u64, String), ChainError> {
    let (mut count, mut prev) = (0, "0".repeat(64));
    for line in content.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")).map(trim_newline) {
        count += 1;
        let record: Record = serde_json::from_slice(line).map_err(|_| ChainError::NotARecord { line: count })?;
        if record.prev != prev || record.seq != count {
            return Err(ChainError::Broken { line: count });
        }
        prev = hash(line);
    }
    Ok((count, prev))
}

fn trim_newline(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\n").unwrap_or(line)
}

fn hash(line: &[u8]) -> String {
    Sha256::digest(line).iter().fold(String::with_capacity(64), |mut hex, byte| {
        use std::fmt::Write;
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn notice(what: &str) -> Event {
        Event::Notice { what: what.to_owned() }
    }

    fn written(events: &[&str]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let (mut journal, _) = Journal::open(&path).unwrap();
        for event in events {
            journal.append(notice(event), Timestamp::UNIX_EPOCH).unwrap();
        }
        (dir, path)
    }

    #[test]
    fn a_journal_goes_on_where_it_ended_and_its_chain_holds() {
        let (_dir, path) = written(&["a", "b"]);
        let (mut journal, records) = Journal::open(&path).unwrap();
        assert_eq!(records.len(), 2);
        journal.append(notice("c"), Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(verify_journal(&std::fs::read(&path).unwrap()).unwrap().0, 3);
    }

    #[test]
    fn the_last_record_is_found_in_a_short_a_long_and_a_torn_journal() {
        let last = |events: &[&str], torn: &str| {
            let (_dir, path) = written(events);
            OpenOptions::new().append(true).open(&path).unwrap().write_all(torn.as_bytes()).unwrap();
            last_record(&path).unwrap().map(|record| record.event)
        };
        let long = "x".repeat(TAIL / 2);
        assert_eq!(last(&["a"], ""), Some(notice("a")));
        assert_eq!(last(&[&long, &long, "b"], ""), Some(notice("b")));
        assert_eq!(last(&[&long, &long, &long], "{\"v\":"), Some(notice(&long)));
        assert_eq!(last(&["a", &long.repeat(2)], ""), None, "too long for a look at the end");
        assert_eq!(last(&[], ""), None);
        assert_eq!(last(&[], "{\"v\":"), None);
    }

    #[test]
    fn a_torn_last_line_is_cut_off() {
        let (_dir, path) = written(&["a", "b"]);
        let mut content = std::fs::read(&path).unwrap();
        content.truncate(content.len() - 5);
        std::fs::write(&path, content).unwrap();
        let (mut journal, records) = Journal::open(&path).unwrap();
        assert_eq!(records.len(), 1);
        journal.append(notice("c"), Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(verify_journal(&std::fs::read(&path).unwrap()).unwrap().0, 2);
    }

    #[test]
    fn a_full_disk_is_an_error_that_names_the_journal() {
        let path = PathBuf::from("/dev/full");
        let file = OpenOptions::new().append(true).open(&path).unwrap();
        let mut journal = Journal { file, path, seq: 0, prev: String::new() };
        let error = journal.append(notice("a"), Timestamp::UNIX_EPOCH).unwrap_err();
        assert_eq!(error.to_string(), "write the journal /dev/full");
    }

    proptest! {
        #[test]
        fn any_change_of_an_earlier_line_is_found(at in 0usize..400, to in any::<u8>()) {
            let (_dir, path) = written(&["first", "second", "third"]);
            let mut content = std::fs::read(&path).unwrap();
            let last_line = content[..content.len() - 1].iter().rposition(|b| *b == b'\n').unwrap();
            let at = at % last_line;
            prop_assume!(content[at] != to && content[at] != b'\n');
            content[at] = to;
            prop_assert!(verify_journal(&content).is_err());
        }
    }
}
