//! `ledger-2026-11.jsonl`: what sessions have spent of the limits that they share in a month, and what they hold.
//!
//! Every session reads the file on its own and follows it. What is new is read before the lock is taken, and under it only the last
//! lines: who holds the lock has it for a look, a decision and one write(2). A crash in between leaves at most one torn line, which the next
//! who has the lock cuts off; the lock goes with the process. Who cannot get it within [`PATIENCE`] (its holder was stopped, say) is told so
//! and spends nothing.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::civil::Date;

use super::replace;
use crate::meter::ledger::{Entry, Ledger};

/// How long the lock is waited for: a session that waits does nothing else.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks at a lock that is taken, at first and at most.
const LOOKS: (Duration, Duration) = (Duration::from_micros(20), Duration::from_millis(1));
/// A ledger that is at least so long is written anew when a session begins, if that makes it a quarter or less: all but the last line of each
/// session's day says nothing any more.
const LONG: u64 = 1024 * 1024;
/// What is read at once.
const PIECE: usize = 256 * 1024;

/// A month's ledger, read up to some line.
#[derive(Debug)]
pub struct LedgerFile {
    path: PathBuf,
    file: File,
    /// So much of it is folded: whole lines.
    read: u64,
    lines: u64,
    ledger: Ledger,
}

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file system refused.
    #[error("use the shared ledger {path}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A line is none that this version knows.
    #[error("read the shared ledger {path}: line {line} is none that this version knows")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
    },
    /// Somebody holds the lock.
    #[error("lock the shared ledger {path}: another process has held it for {} s", PATIENCE.as_secs())]
    Busy {
        /// Which.
        path: PathBuf,
    },
}

impl LedgerError {
    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => Some("free some disk space".to_owned()),
            Self::Io { .. } => None,
            Self::Unreadable { path, .. } => Some(format!(
                "a newer sentrely may have written it; moved away (mv {0} {0}.old) it is made anew from the journals",
                path.display()
            )),
            Self::Busy { .. } => Some("is a session stopped (Ctrl-Z) at an unlucky moment? fg continues it".to_owned()),
        }
    }

    /// Whether it may be otherwise in a moment.
    pub const fn is_busy(&self) -> bool {
        matches!(self, Self::Busy { .. })
    }
}

/// Where the ledger of the month of `day` is.
fn path_of(state: &Path, day: Date) -> PathBuf {
    state.join(format!("ledger-{:04}-{:02}.jsonl", day.year(), day.month()))
}

impl LedgerFile {
    /// The ledger of the month of `day`; begun, if there is none.
    pub fn open(state: &Path, day: Date) -> Result<Self, LedgerError> {
        Self::at(path_of(state, day), true).and_then(|found| {
            // It was made if it was not there.
            found.ok_or_else(|| LedgerError::Io { path: path_of(state, day), source: io::ErrorKind::NotFound.into() })
        })
    }

    /// The ledger of the month of `day`, if there is one.
    pub fn find(state: &Path, day: Date) -> Result<Option<Self>, LedgerError> {
        Self::at(path_of(state, day), false)
    }

    fn at(path: PathBuf, make: bool) -> Result<Option<Self>, LedgerError> {
        let file = match OpenOptions::new().read(true).append(true).create(make).mode(0o600).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !make => return Ok(None),
            Err(source) => return Err(LedgerError::Io { path, source }),
        };
        let mut ledger = Self { path, file, read: 0, lines: 0, ledger: Ledger::default() };
        ledger.catch_up()?;
        Ok(Some(ledger))
    }

    /// What it says, as far as it was read.
    pub const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Reads what others have added. Without the lock: a line that is being written is read when it is whole.
    pub fn catch_up(&mut self) -> Result<(), LedgerError> {
        let length = self.file.metadata().map_err(|source| self.failed(source))?.len();
        let (mut rest, mut at, mut lines) = (Vec::new(), self.read, self.lines);
        while at < length {
            let begin = rest.len();
            rest.resize(begin + PIECE.min(usize::try_from(length - at).unwrap_or(PIECE)), 0);
            let count = self.file.read_at(&mut rest[begin..], at).map_err(|source| self.failed(source))?;
            rest.truncate(begin + count);
            if count == 0 {
                break;
            }
            at += count as u64;
            let whole = memchr::memrchr(b'\n', &rest).map_or(0, |end| end + 1);
            for line in rest[..whole].split_inclusive(|byte| *byte == b'\n') {
                lines += 1;
                let known = serde_json::from_slice::<Entry>(line).is_ok_and(|entry| self.ledger.apply(entry).is_ok());
                if !known {
                    return Err(LedgerError::Unreadable { path: self.path.clone(), line: lines });
                }
            }
            (self.read, self.lines) = (self.read + whole as u64, lines);
            rest.drain(..whole);
        }
        Ok(())
    }

    /// Decides on the ledger as it is at that moment, and writes the lines that come of it; nobody else writes in between.
    pub fn update<T>(&mut self, decide: impl FnOnce(&Ledger) -> (Vec<Entry>, T)) -> Result<T, LedgerError> {
        self.catch_up()?;
        self.lock()?;
        let done = self.update_locked(decide);
        // It goes with the file at the latest.
        let _ = self.file.unlock();
        done
    }

    /// Writes a long ledger anew, with what is still worth something. The file is replaced, never cut: whoever waits for its lock finds that
    /// another one has the name.
    pub fn compact(&mut self) -> Result<(), LedgerError> {
        if self.read < LONG {
            return Ok(());
        }
        self.lock()?;
        let done = self.compact_locked();
        let _ = self.file.unlock();
        if done? && let Some(now) = Self::at(self.path.clone(), true)? {
            *self = now;
        }
        Ok(())
    }

    fn compact_locked(&mut self) -> Result<bool, LedgerError> {
        self.catch_up()?;
        let text = self.text(&self.ledger.lines())?;
        if text.len() as u64 > self.read / 4 {
            return Ok(false);
        }
        replace(&self.path, &text).map_err(|source| self.failed(source))?;
        Ok(true)
    }

    fn text(&self, entries: &[Entry]) -> Result<Vec<u8>, LedgerError> {
        let mut text = Vec::with_capacity(entries.len() * 160);
        for entry in entries {
            serde_json::to_writer(&mut text, entry).map_err(|error| self.failed(error.into()))?;
            text.push(b'\n');
        }
        Ok(text)
    }

    fn update_locked<T>(&mut self, decide: impl FnOnce(&Ledger) -> (Vec<Entry>, T)) -> Result<T, LedgerError> {
        self.catch_up()?;
        let (entries, decided) = decide(&self.ledger);
        if entries.is_empty() {
            return Ok(decided);
        }
        let text = self.text(&entries)?;
        let length = self.file.metadata().map_err(|source| self.failed(source))?.len();
        if length != self.read {
            // Only what a crash tore is behind the last whole line.
            self.file.set_len(self.read).map_err(|source| self.failed(source))?;
        }
        if let Err(source) = (&self.file).write_all(&text) {
            // A full disk takes half a line.
            let _ = self.file.set_len(self.read);
            return Err(self.failed(source));
        }
        for entry in entries {
            // Whoever decides names nobody that the ledger does not know.
            self.ledger.apply(entry).map_err(|_| LedgerError::Unreadable { path: self.path.clone(), line: self.lines + 1 })?;
            self.lines += 1;
        }
        self.read += text.len() as u64;
        Ok(decided)
    }

    /// Locks the file that has the name: somebody may have moved it away.
    fn lock(&mut self) -> Result<(), LedgerError> {
        let begin = Instant::now();
        let (mut pause, longest) = LOOKS;
        loop {
            match self.file.try_lock() {
                Ok(()) => {
                    let (ours, named) = (self.file.metadata().map_err(|source| self.failed(source))?, std::fs::metadata(&self.path));
                    if named.is_ok_and(|named| (named.dev(), named.ino()) == (ours.dev(), ours.ino())) && ours.len() >= self.read {
                        return Ok(());
                    }
                    if let Some(now) = Self::at(self.path.clone(), true)? {
                        *self = now;
                    }
                }
                Err(TryLockError::WouldBlock) if begin.elapsed() < PATIENCE => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(longest);
                }
                Err(TryLockError::WouldBlock) => return Err(LedgerError::Busy { path: self.path.clone() }),
                Err(TryLockError::Error(source)) => return Err(self.failed(source)),
            }
        }
    }

    fn failed(&self, source: io::Error) -> LedgerError {
        LedgerError::Io { path: self.path.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::ledger::{Member, Need};
    use crate::model::{Period, Scope, SessionId, Share, SharedLimit, Usd};

    fn day() -> Date {
        jiff::civil::date(2026, 11, 29)
    }

    fn member() -> Member {
        Member { session: SessionId::new(), developer: "ana".into(), project: "shop".into(), host: "vm".into() }
    }

    fn at(member: &Member, spent: u64) -> Entry {
        Entry::At { session: member.session, day: day(), spent: Usd::from_pico(spent), held: Usd::ZERO }
    }

    fn spent(file: &LedgerFile, member: &Member) -> u64 {
        file.ledger().spent(member, Share { scope: Scope::Machine, period: Period::Month }, day()).pico()
    }

    fn write(file: &mut LedgerFile, entries: Vec<Entry>) {
        file.update(|_| (entries, ())).unwrap();
    }

    #[test]
    fn what_one_writes_another_reads_and_a_torn_line_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let (mut one, ana) = (LedgerFile::open(dir.path(), day()).unwrap(), member());
        let mut other = LedgerFile::open(dir.path(), day()).unwrap();
        write(&mut one, vec![Entry::Member(ana.clone()), at(&ana, 5)]);
        let path = dir.path().join("ledger-2026-11.jsonl");
        let torn = |text: &[u8]| OpenOptions::new().append(true).open(&path).unwrap().write_all(text).unwrap();
        torn(b"{\"kind\":\"at\",\"sess");
        other.catch_up().unwrap();
        assert_eq!(spent(&other, &ana), 5);
        write(&mut other, vec![at(&ana, 7)]);
        one.catch_up().unwrap();
        assert_eq!(spent(&one, &ana), 7);
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 3);
    }

    #[test]
    fn a_line_that_nobody_knows_is_named_and_nothing_is_written_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = LedgerFile::open(dir.path(), day()).unwrap();
        write(&mut file, vec![Entry::Complete]);
        let path = dir.path().join("ledger-2026-11.jsonl");
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"kind\":\"later\"}\n").unwrap();
        let error = file.update(|_| (vec![Entry::Complete], ())).unwrap_err();
        let words = format!("read the shared ledger {}: line 2 is none that this version knows", path.display());
        assert_eq!(error.to_string(), words);
        assert!(error.hint().unwrap().contains("made anew from the journals"));
        assert!(LedgerFile::open(dir.path(), day()).is_err());
        // Moved away, as the hint says, another one takes its place.
        std::fs::rename(&path, dir.path().join("old")).unwrap();
        assert!(!LedgerFile::open(dir.path(), day()).unwrap().ledger().is_complete());
    }

    #[test]
    fn a_ledger_that_was_moved_away_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (mut file, ana) = (LedgerFile::open(dir.path(), day()).unwrap(), member());
        write(&mut file, vec![Entry::Member(ana.clone()), at(&ana, 5)]);
        std::fs::rename(dir.path().join("ledger-2026-11.jsonl"), dir.path().join("old")).unwrap();
        assert!(!file.update(|ledger| (vec![], ledger.knows(ana.session))).unwrap());
    }

    #[test]
    fn a_long_ledger_is_written_anew_and_those_who_follow_it_go_on_in_the_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let (mut file, ana, bea) = (LedgerFile::open(dir.path(), day()).unwrap(), member(), member());
        let mut other = LedgerFile::open(dir.path(), day()).unwrap();
        write(&mut file, vec![Entry::Member(ana.clone()), Entry::Complete]);
        let line = at(&ana, 1_000_000_000_000);
        write(&mut file, vec![line; 12_000]);
        other.catch_up().unwrap();
        let path = dir.path().join("ledger-2026-11.jsonl");
        let length = || std::fs::metadata(&path).unwrap().len();
        assert!(length() > LONG, "{}", length());
        file.compact().unwrap();
        assert!(length() < 1_000, "{}", length());
        assert!(file.ledger().is_complete());
        write(&mut file, vec![at(&ana, 5)]);
        write(&mut other, vec![Entry::Member(bea.clone()), at(&bea, 2)]);
        file.catch_up().unwrap();
        assert_eq!((spent(&file, &ana), spent(&other, &ana)), (7, 7));
        // A short one stays as it is.
        let before = length();
        file.compact().unwrap();
        assert_eq!(length(), before);
    }

    #[test]
    fn a_full_disk_is_an_error_that_names_the_ledger() {
        let (path, ledger) = (PathBuf::from("/dev/full"), Ledger::default());
        let file = OpenOptions::new().append(true).open(&path).unwrap();
        let mut file = LedgerFile { path, file, read: 0, lines: 0, ledger };
        let error = file.update_locked(|_| (vec![Entry::Complete], ())).unwrap_err();
        assert_eq!(error.to_string(), "use the shared ledger /dev/full");
        assert_eq!(error.hint().as_deref(), Some("free some disk space"));
    }

    #[test]
    fn a_lock_that_another_process_keeps_is_not_waited_for_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = LedgerFile::open(dir.path(), day()).unwrap();
        let held = File::open(dir.path().join("ledger-2026-11.jsonl")).unwrap();
        held.lock().unwrap();
        let error = file.update(|_| (vec![Entry::Complete], ())).unwrap_err();
        assert!(error.is_busy(), "{error}");
        held.unlock().unwrap();
        file.update(|_| (vec![Entry::Complete], ())).unwrap();
    }

    #[test]
    fn twelve_writers_at_once_never_pass_a_limit() {
        let dir = tempfile::tempdir().unwrap();
        let limit = SharedLimit { share: Share { scope: Scope::Developer, period: Period::Day }, amount: Usd::from_pico(1_000) };
        let write = |_: usize| {
            let (mut file, ana) = (LedgerFile::open(dir.path(), day()).unwrap(), member());
            let mut booked = 0;
            file.update(|_| (vec![Entry::Member(ana.clone())], ())).unwrap();
            loop {
                let need = Need { under_way: Usd::from_pico(3), margin: Usd::ZERO };
                let granted = file.update(|ledger| match ledger.grant(&ana, &[limit], day(), need) {
                    Ok(held) => (vec![Entry::At { session: ana.session, day: day(), spent: Usd::from_pico(booked), held }], true),
                    Err(_) => (vec![], false),
                });
                if !granted.unwrap() {
                    break booked;
                }
                booked += 3;
                file.update(|_| (vec![at(&ana, booked)], ())).unwrap();
            }
        };
        let booked: u64 = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..12).map(|number| scope.spawn(move || write(number))).collect();
            writers.into_iter().map(|writer| writer.join().unwrap()).sum()
        });
        // What one takes ahead of its need may be refused to another, who does not ask again.
        assert!(booked <= 1_000 && booked > 0, "{booked}");
        let file = LedgerFile::open(dir.path(), day()).unwrap();
        assert_eq!((spent(&file, &member()), file.ledger().holders()), (booked, vec![]));
    }
}
