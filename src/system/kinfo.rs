//! The forms in which macOS tells of processes: the records of `kern.proc` (`struct kinfo_proc` of `<sys/sysctl.h>`), what `kern.procargs2`
//! answers, and `struct proc_uniqidentifierinfo` of libproc. Taken apart by bytes, so that nothing but what is read has to be right.

use super::{Lineage, Process};

/// The size of a record, on Apple's processors and on Intel's.
const SIZE: usize = 648;
// Where in it things stand.
const START_SECONDS: usize = 0;
const START_MICROSECONDS: usize = 8;
const STATE: usize = 36;
const PID: usize = 40;
const IGNORED_SIGNALS: usize = 232;
const COMM: usize = 243;
const COMM_SIZE: usize = 17;
const PARENT: usize = 560;
const GROUP: usize = 564;

/// The processes of an answer; `session_of` is asked for what the records do not say.
pub(super) fn processes(answer: &[u8], session_of: impl Fn(i32) -> i32) -> Vec<Process> {
    answer.chunks_exact(SIZE).filter_map(|record| process(record, &session_of)).collect()
}

fn process(record: &[u8], session_of: impl Fn(i32) -> i32) -> Option<Process> {
    let number = |at: usize| Some(i32::from_ne_bytes(record.get(at..at + 4)?.try_into().ok()?));
    let seconds = u64::from_ne_bytes(record.get(START_SECONDS..START_SECONDS + 8)?.try_into().ok()?);
    let microseconds = u64::try_from(number(START_MICROSECONDS)?).ok()?;
    let comm = record.get(COMM..COMM + COMM_SIZE)?;
    let comm = comm.split(|byte| *byte == 0).next().unwrap_or_default();
    let pid = number(PID)?;
    Some(Process {
        pid,
        comm: String::from_utf8_lossy(comm).into_owned(),
        // SIDL, SRUN, SSLEEP, SSTOP, SZOMB
        state: match record.get(STATE)? {
            1 => 'I',
            2 => 'R',
            3 => 'S',
            4 => 'T',
            5 => 'Z',
            _ => '?',
        },
        parent: number(PARENT)?,
        group: number(GROUP)?,
        session: session_of(pid),
        threads: 1,
        start: seconds.checked_mul(1_000_000)?.checked_add(microseconds)?,
    })
}

/// Of the first process of an answer, bit n-1 for signal n.
pub(super) fn ignored_signals(answer: &[u8]) -> Option<u64> {
    let record = answer.get(..SIZE)?;
    Some(u32::from_ne_bytes(record.get(IGNORED_SIGNALS..IGNORED_SIGNALS + 4)?.try_into().ok()?).into())
}

/// The size of `struct proc_uniqidentifierinfo`.
pub(super) const LINEAGE_SIZE: usize = 56;

/// A program's 16 bytes, the process's own number, that of the process that forked it, and what is not needed.
pub(super) fn lineage(answer: &[u8; LINEAGE_SIZE]) -> Option<Lineage> {
    let (own, rest) = answer.get(16..)?.split_first_chunk()?;
    let (parent, _) = rest.split_first_chunk()?;
    Some(Lineage { own: u64::from_ne_bytes(*own), parent: u64::from_ne_bytes(*parent) })
}

/// What a process was started with.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Arguments {
    /// Each ended by a NUL.
    pub(super) command_line: Vec<u8>,
    /// Each ended by a NUL. Empty where the system keeps it to itself, as it does of its own programs.
    pub(super) environment: Vec<u8>,
}

/// The number of arguments, the program's path, NULs up to the next word, the arguments, the environment up to an empty entry.
pub(super) fn arguments(answer: &[u8]) -> Option<Arguments> {
    let (count, rest) = answer.split_first_chunk()?;
    let count = usize::try_from(i32::from_ne_bytes(*count)).ok()?;
    let path_end = rest.iter().position(|byte| *byte == 0)?;
    let rest = rest.get(path_end..)?;
    let padding = rest.iter().take_while(|byte| **byte == 0).count();
    let mut words = rest.get(padding..)?.split_inclusive(|byte| *byte == 0);
    let command_line = words.by_ref().take(count).collect::<Vec<_>>().concat();
    let environment = words.take_while(|word| word.len() > 1 && word.ends_with(&[0])).collect::<Vec<_>>().concat();
    Some(Arguments { command_line, environment })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(pid: i32, parent: i32, group: i32, state: u8, comm: &[u8]) -> Vec<u8> {
        let mut record = vec![0xa5; SIZE];
        let mut put = |at: usize, bytes: &[u8]| record[at..at + bytes.len()].copy_from_slice(bytes);
        put(START_SECONDS, &1_795_000_000_u64.to_ne_bytes());
        put(START_MICROSECONDS, &250_000_i32.to_ne_bytes());
        put(STATE, &[state]);
        put(PID, &pid.to_ne_bytes());
        put(COMM, &[0; COMM_SIZE]);
        put(COMM, comm);
        put(IGNORED_SIGNALS, &0b11_u32.to_ne_bytes());
        put(PARENT, &parent.to_ne_bytes());
        put(GROUP, &group.to_ne_bytes());
        record
    }

    #[test]
    fn every_whole_record_is_a_process() {
        let mut answer = [record(4242, 1, 4240, 3, b"node"), record(7, 4242, 7, 5, b"a (b) c")].concat();
        answer.extend_from_slice(&[0; 100]);
        let expected = |pid, comm: &str, state, parent, group| Process {
            pid,
            comm: comm.into(),
            state,
            parent,
            group,
            session: pid + 1,
            threads: 1,
            start: 1_795_000_000_250_000,
        };
        let found = processes(&answer, |pid| pid + 1);
        assert_eq!(found, [expected(4242, "node", 'S', 1, 4240), expected(7, "a (b) c", 'Z', 4242, 7)]);
        assert!(found[1].is_dead() && !found[0].is_dead());
        assert_eq!((ignored_signals(&answer), ignored_signals(&answer[..100])), (Some(0b11), None));
    }

    #[test]
    fn own_number_and_parents_follow_the_programs() {
        let mut answer = [0xa5; LINEAGE_SIZE];
        answer[16..24].copy_from_slice(&70_001_u64.to_ne_bytes());
        answer[24..32].copy_from_slice(&69_999_u64.to_ne_bytes());
        assert_eq!(lineage(&answer), Some(Lineage { own: 70_001, parent: 69_999 }));
    }

    #[test]
    fn arguments_end_by_their_number_and_the_environment_at_the_empty_entry() {
        let mut answer = 3_i32.to_ne_bytes().to_vec();
        answer.extend_from_slice(b"/usr/bin/env\0\0\0\0env\0\0A=1\0PATH=/bin\0MARK=x y\0\0executable_path=/usr/bin/env\0");
        let expected = Arguments { command_line: b"env\0\0A=1\0".to_vec(), environment: b"PATH=/bin\0MARK=x y\0".to_vec() };
        assert_eq!(arguments(&answer), Some(expected));
        // A program of the system's: its environment is not told.
        let mut answer = 1_i32.to_ne_bytes().to_vec();
        answer.extend_from_slice(b"/bin/sh\0\0sh\0");
        assert_eq!(arguments(&answer), Some(Arguments { command_line: b"sh\0".to_vec(), environment: Vec::new() }));
    }

    proptest! {
        #[test]
        fn no_answer_is_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let _ = arguments(&bytes);
            prop_assert_eq!(processes(&bytes, |_| 0).len() <= bytes.len() / SIZE, true);
        }
    }
}
