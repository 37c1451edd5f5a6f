//! A journal read as it grows: only whole lines, each once.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::JournalError;
use crate::model::Record;

/// A reader that remembers where it was.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    offset: u64,
}

/// One line of a journal: as it stands there, and what it says.
#[derive(Debug)]
pub struct Line {
    pub text: String,
    pub record: Record,
}

impl Tail {
    /// From the journal's beginning.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), offset: 0 }
    }

    /// The records that were added since the last call. A journal that does not exist yet has none; lines that are no records are
    /// passed over (`--verify` is what finds them).
    pub fn read_new(&mut self) -> Result<Vec<Line>, JournalError> {
        let content = self.read_from_offset().map_err(|source| JournalError::Read { path: self.path.clone(), source })?;
        let whole = content.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        self.offset += whole as u64;
        let lines = content[..whole].split(|byte| *byte == b'\n');
        Ok(lines
            .filter_map(|line| {
                let record = serde_json::from_slice(line).ok()?;
                Some(Line { text: String::from_utf8_lossy(line).into_owned(), record })
            })
            .collect())
    }

    fn read_from_offset(&self) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(content),
            Err(error) => return Err(error),
        };
        file.seek(SeekFrom::Start(self.offset))?;
        file.read_to_end(&mut content)?;
        Ok(content)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::model::Event;
    use crate::store::Journal;

    #[test]
    fn every_whole_line_is_read_once_and_a_torn_one_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let mut tail = Tail::new(&path);
        assert!(tail.read_new().unwrap().is_empty());
        let (mut journal, _) = Journal::open(&path).unwrap();
        journal.append(Event::ChildStarted { pid: 1, start: None, cgroup: None, mounts: None }, Timestamp::UNIX_EPOCH).unwrap();
        let whole = std::fs::read(&path).unwrap();
        journal.append(Event::ChildStarted { pid: 2, start: None, cgroup: None, mounts: None }, Timestamp::UNIX_EPOCH).unwrap();
        let both = std::fs::read(&path).unwrap();
        std::fs::write(&path, &both[..whole.len() + 10]).unwrap();
        let pids = |lines: Vec<Line>| lines.iter().map(|line| line.record.event.clone()).collect::<Vec<_>>();
        assert_eq!(pids(tail.read_new().unwrap()), [Event::ChildStarted { pid: 1, start: None, cgroup: None, mounts: None }]);
        std::fs::write(&path, &both).unwrap();
        assert_eq!(pids(tail.read_new().unwrap()), [Event::ChildStarted { pid: 2, start: None, cgroup: None, mounts: None }]);
        assert!(tail.read_new().unwrap().is_empty());
    }
}
