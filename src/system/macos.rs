//! macOS: sysctl(3), as ps(1) does, and libproc. **Untested.**
//!
//! The table of processes is one answer, and tells of other users' processes too (libproc does not).

#![expect(unsafe_code, reason = "system calls that neither std nor nix wraps; every block says why it is sound")]

use std::ffi::{CStr, OsStr, c_int};
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr::null_mut;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::unistd::{Pid, getsid};

use super::kinfo::{self, Arguments};
use super::{Lineage, Process};

/// `kern.argmax`: more than that no process was started with.
const LONGEST_ARGUMENTS: usize = 1 << 20;
/// `MAXPATHLEN` four times over, as libproc asks for.
const LONGEST_PATH: usize = 4096;
/// How often an answer that grew meanwhile is asked for again.
const TRIES: u32 = 10;

pub(super) fn read(pid: i32) -> Option<Process> {
    kinfo::processes(&record(pid)?, session_of).into_iter().find(|process| process.pid == pid)
}

fn record(pid: i32) -> Option<Vec<u8>> {
    ask(&[libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_PID, pid]).ok()
}

pub(super) fn processes() -> Vec<Process> {
    let answer = ask(&[libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_ALL]).unwrap_or_default();
    kinfo::processes(&answer, session_of)
}

fn session_of(pid: i32) -> i32 {
    getsid(Some(Pid::from_raw(pid))).map_or(0, Pid::as_raw)
}

/// `PROC_PIDUNIQIDENTIFIERINFO`, which stands in no public header and has not changed in ten years.
const LINEAGE: c_int = 17;

pub(super) fn lineage(pid: i32) -> Option<Lineage> {
    let mut answer = [0_u8; kinfo::LINEAGE_SIZE];
    let size = c_int::try_from(kinfo::LINEAGE_SIZE).ok()?;
    // SAFETY: the buffer has as many writable bytes as are told.
    let written = unsafe { libc::proc_pidinfo(pid, LINEAGE, 0, answer.as_mut_ptr().cast(), size) };
    if written == size { kinfo::lineage(&answer) } else { None }
}

pub(super) fn pids() -> impl Iterator<Item = i32> {
    processes().into_iter().map(|process| process.pid)
}

pub(super) const fn newest() -> Option<i32> {
    None
}

pub(super) fn ages() -> Option<impl Fn(u64) -> Duration> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some(move |start: u64| now.saturating_sub(Duration::from_micros(start)))
}

pub(super) fn executable(pid: i32) -> Option<PathBuf> {
    let mut path = vec![0_u8; LONGEST_PATH];
    // SAFETY: the buffer has as many writable bytes as are told.
    let length = unsafe { libc::proc_pidpath(pid, path.as_mut_ptr().cast(), u32::try_from(LONGEST_PATH).ok()?) };
    path.truncate(usize::try_from(length).ok().filter(|length| *length > 0)?);
    Some(PathBuf::from(OsStr::from_bytes(&path)))
}

pub(super) fn command_line(pid: i32) -> Option<Vec<u8>> {
    Some(arguments(pid)?.command_line)
}

pub(super) fn environment(pid: i32) -> Option<Vec<u8>> {
    Some(arguments(pid)?.environment)
}

fn arguments(pid: i32) -> Option<Arguments> {
    // Its size cannot be asked for beforehand.
    kinfo::arguments(&answer_within(&[libc::CTL_KERN, libc::KERN_PROCARGS2, pid], LONGEST_ARGUMENTS).ok()?)
}

pub(super) fn ignored_signals(pid: i32) -> Option<u64> {
    kinfo::ignored_signals(&record(pid)?)
}

pub(super) fn working_directory(pid: i32) -> Option<PathBuf> {
    let mut info = MaybeUninit::<libc::proc_vnodepathinfo>::zeroed();
    let size = c_int::try_from(size_of::<libc::proc_vnodepathinfo>()).ok()?;
    // SAFETY: the buffer has as many writable bytes as are told.
    let written = unsafe { libc::proc_pidinfo(pid, libc::PROC_PIDVNODEPATHINFO, 0, info.as_mut_ptr().cast(), size) };
    if written != size {
        return None;
    }
    // SAFETY: all of it was zeroed and then written; it consists of numbers, for which every pattern of bits is a value.
    let info = unsafe { info.assume_init() };
    let path: Vec<u8> = info.pvi_cdir.vip_path.iter().flatten().map(|byte| byte.cast_unsigned()).collect();
    let path = CStr::from_bytes_until_nul(&path).ok().filter(|path| !path.is_empty())?;
    Some(PathBuf::from(OsStr::from_bytes(path.to_bytes())))
}

pub(super) fn resolved_for(_pid: i32, path: &Path) -> Option<PathBuf> {
    path.canonicalize().ok()
}

pub(super) fn boot_id() -> Option<String> {
    let mut id = [0_u8; 64];
    let mut length = id.len();
    // SAFETY: the name ends with a NUL, and the buffer has as many writable bytes as `length` says.
    let done = unsafe { libc::sysctlbyname(c"kern.bootsessionuuid".as_ptr(), id.as_mut_ptr().cast(), &raw mut length, null_mut(), 0) };
    if done != 0 {
        return None;
    }
    CStr::from_bytes_until_nul(id.get(..length)?).ok()?.to_str().ok().map(str::to_owned)
}

/// The answer to a question whose answer's size is told beforehand, and may grow until it is given.
fn ask(name: &[c_int]) -> io::Result<Vec<u8>> {
    let mut room = size_told(name)?;
    for _ in 0..TRIES {
        room += room / 4 + 4096;
        match answer_within(name, room) {
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => {}
            answer => return answer,
        }
    }
    Err(io::Error::from_raw_os_error(libc::ENOMEM))
}

fn size_told(name: &[c_int]) -> io::Result<usize> {
    let (mut name, mut size) = (name.to_vec(), 0);
    let parts = libc::c_uint::try_from(name.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: `name` has that many parts; without a buffer only the size is written.
    let done = unsafe { libc::sysctl(name.as_mut_ptr(), parts, null_mut(), &raw mut size, null_mut(), 0) };
    if done == 0 { Ok(size) } else { Err(io::Error::last_os_error()) }
}

fn answer_within(name: &[c_int], room: usize) -> io::Result<Vec<u8>> {
    let (mut name, mut answer, mut size) = (name.to_vec(), vec![0_u8; room], room);
    let parts = libc::c_uint::try_from(name.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: `name` has that many parts, and the buffer has as many writable bytes as `size` says.
    let done = unsafe { libc::sysctl(name.as_mut_ptr(), parts, answer.as_mut_ptr().cast(), &raw mut size, null_mut(), 0) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    answer.truncate(size);
    Ok(answer)
}
