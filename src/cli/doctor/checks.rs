//! What sentrely itself stands on: its records, its configuration, git, the prices, an AWS identity to begin with.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::{Check, Surroundings};
use crate::cli::load_config;
use crate::meter::price::PriceTable;
use crate::session::claude::{program, variable};
use crate::store::StateDir;

/// Below this much free space a warning, a tenth of it: no session.
const FREE_SPACE: u64 = 1 << 30;
/// The oldest git that has what the working copies need.
const OLDEST_GIT: [u32; 3] = [2, 30, 0];
/// Older prices may be wrong.
const PRICES_AGE_DAYS: i32 = 90;
/// How long a program may take to tell its version.
const VERSION_TIME: Duration = Duration::from_secs(10);

pub(super) fn state_directory(at: &Surroundings) -> Check {
    const NAME: &str = "state directory";
    let opened = StateDir::locate(|name| variable(&at.env, name).map(str::to_owned)).and_then(|path| StateDir::open(&path));
    let state = match opened {
        Ok(state) => state,
        Err(error) => return Check::fail(NAME, format!("{:#}", anyhow::Error::from(error)), None),
    };
    let path = state.path().display();
    if let Err(error) = tempfile::tempfile_in(state.path()) {
        return Check::fail(
            NAME,
            format!("{path} cannot be written: {error}"),
            Some("set SENTRELY_STATE_DIR to a directory of yours".into()),
        );
    }
    if state.kill_all_file().symlink_metadata().is_ok() {
        let file = state.kill_all_file();
        return Check::warn(
            NAME,
            format!("{} exists: it stops every session and refuses new ones", file.display()),
            format!("rm {}", file.display()),
        );
    }
    let Ok(free) = nix::sys::statvfs::statvfs(state.path()).map(|fs| wide(fs.blocks_available()).saturating_mul(wide(fs.fragment_size())))
    else {
        return Check::warn(NAME, format!("{path}: its free space is unknown"), "a full disk ends sessions");
    };
    let what = format!("{path}, private, {} free", bytes(free));
    match free {
        0..0x0666_6666 => {
            Check::fail(NAME, what, Some("free some disk space: a session whose journal cannot be written is stopped".into()))
        }
        free if free < FREE_SPACE => Check::warn(NAME, what, "free some disk space: a session whose journal cannot be written is stopped"),
        _ => Check::ok(NAME, what),
    }
}

pub(super) fn configuration(_at: &Surroundings) -> Check {
    const NAME: &str = "configuration";
    match load_config(Vec::new()) {
        Ok(loaded) if loaded.files_read.is_empty() => Check::ok(NAME, "no files, the defaults hold"),
        Ok(loaded) => {
            let files: Vec<String> = loaded.files_read.iter().map(|path| path.display().to_string()).collect();
            Check::ok(NAME, files.join(", "))
        }
        Err(failure) => Check::fail(NAME, format!("{:#}", failure.error), failure.hint),
    }
}

pub(super) fn git(at: &Surroundings) -> Check {
    const NAME: &str = "git";
    let install = "install git 2.30 or newer".to_owned();
    let Ok(found) = program::resolve(OsStr::new("git"), &at.env, &at.cwd) else {
        return Check::fail(NAME, "not found on PATH", Some(install));
    };
    match version_of(&found.path) {
        Ok(text) => match version(&text) {
            Some(known) if known < OLDEST_GIT => Check::fail(NAME, format!("{text} is too old"), Some(install)),
            Some(_) => Check::ok(NAME, text),
            None => Check::warn(NAME, format!("{text}: its version is unknown"), install),
        },
        Err(why) => Check::fail(NAME, format!("{}: {why}", found.path.display()), Some(install)),
    }
}

pub(super) fn prices(at: &Surroundings) -> Check {
    const NAME: &str = "prices";
    let table = match PriceTable::built_in() {
        Ok(table) => table,
        Err(error) => return Check::fail(NAME, error.to_string(), None),
    };
    let today = at.now.to_zoned(TimeZone::UTC).date();
    let age = table.dated.parse::<Date>().ok().and_then(|dated| Some(today.since(dated).ok()?.get_days()));
    let what = format!("{} models, as of {}", table.models().count(), table.dated);
    match age {
        Some(days) if days <= PRICES_AGE_DAYS => Check::ok(NAME, what),
        _ => Check::warn(NAME, what, "they may have changed since: update sentrely, or set [prices] in the configuration"),
    }
}

/// Looks only at the environment and at files: no network, no helper program.
pub(super) fn aws(at: &Surroundings) -> Check {
    const NAME: &str = "AWS";
    let set = ["AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI"]
        .into_iter()
        .chain(["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"])
        .filter(|name| variable(&at.env, name).is_some());
    let file = |name: &str, usual: &str| variable(&at.env, name).map_or_else(|| at.places.home.join(usual), PathBuf::from);
    let files = [file("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials"), file("AWS_CONFIG_FILE", ".aws/config")];
    let present = files.iter().filter(|path| path.is_file()).map(|path| path.display().to_string());
    let sources: Vec<String> = set.map(str::to_owned).chain(present).collect();
    let role = load_config(Vec::new()).ok().and_then(|loaded| loaded.config.aws.role);
    match (role, sources.is_empty()) {
        (Some(role), true) => Check::warn(
            NAME,
            format!("role {role}, but no credentials to assume it with are set or on file"),
            "log in (`aws sso login`), or set AWS_PROFILE; an instance's own role needs neither",
        ),
        (Some(role), false) => Check::ok(NAME, format!("role {role}, assumed with {}", sources.join(", "))),
        (None, true) => Check::ok(NAME, "no role configured and no credentials here: sessions have no AWS"),
        (None, false) => {
            Check::ok(NAME, format!("no role configured: sessions have no AWS, what is here ({}) is withheld", sources.join(", ")))
        }
    }
}

/// What `program --version` prints first.
pub(super) fn version_of(program: &Path) -> Result<String, String> {
    let mut command = Command::new(program);
    command.arg("--version").env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1");
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().map_err(|error| error.to_string())?;
    let deadline = Instant::now() + VERSION_TIME;
    // A version is shorter than a pipe's buffer, so nothing blocks while nobody reads.
    let status = loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) => break status,
            None if Instant::now() >= deadline => {
                let _ = child.kill();
                let _ = child.wait();
                return Err("it did not tell its version in time".to_owned());
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let mut text = String::new();
    if let Some(out) = child.stdout.take() {
        let _ = out.take(4096).read_to_string(&mut text);
    }
    match text.lines().next().map(str::trim) {
        Some(line) if status.success() && !line.is_empty() => Ok(line.to_owned()),
        _ => Err(format!("`--version` failed ({status})")),
    }
}

/// The first `1.2.3` in a text; `1.2` counts as `1.2.0`.
pub(super) fn version(text: &str) -> Option<[u32; 3]> {
    text.split(|c: char| c.is_whitespace()).find_map(|part| {
        let mut numbers = part.split('.').map(|number| number.split(|c: char| !c.is_ascii_digit()).next().unwrap_or("").parse().ok());
        Some([numbers.next()??, numbers.next()??, numbers.next().flatten().unwrap_or(0)])
    })
}

/// The system's counts have a width of their own on each platform.
fn wide(count: impl Into<u64>) -> u64 {
    count.into()
}

fn bytes(count: u64) -> String {
    let tenths = |unit: u64| (u128::from(count) * 10 / u128::from(unit), 10);
    let (unit, name) = if count >= 1 << 30 { (1 << 30, "GiB") } else { (1 << 20, "MiB") };
    let (number, base) = tenths(unit);
    format!("{}.{} {name}", number / base, number % base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_print() {
        assert_eq!(version("git version 2.39.5"), Some([2, 39, 5]));
        assert_eq!(version("git version 2.39.3 (Apple Git-146)"), Some([2, 39, 3]));
        assert_eq!(version("2.1.330 (Claude Code)"), Some([2, 1, 330]));
        assert_eq!(version("git version 2.47.windows.1"), Some([2, 47, 0]));
        assert_eq!(version("no version"), None);
    }

    #[test]
    fn space_is_told_in_one_unit() {
        assert_eq!([bytes(1 << 30), bytes(3 << 29), bytes(5 << 20)], ["1.0 GiB", "1.5 GiB", "5.0 MiB"]);
    }
}
