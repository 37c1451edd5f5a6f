//! The Python programs that tests run against: pinned, in a virtual environment under `target/`, installed on first use. A test that wants one
//! asks for [`VENV`](super::components::VENV) first.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// What is installed. A change of a pin makes a new environment.
const PINS: [&str; 4] = ["moto[server]==5.2.5", "awscli==1.46.3", "schemathesis==4.32.5", "anthropic==2.14.0"];

/// The path of a program of the environment, such as `aws` or `moto_server`.
pub(crate) fn program(name: &str) -> PathBuf {
    static ENVIRONMENT: OnceLock<PathBuf> = OnceLock::new();
    ENVIRONMENT.get_or_init(install).join("bin").join(name)
}

/// Several test processes may want it at once: one installs, the others wait for the lock.
fn install() -> PathBuf {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python");
    let is_complete = |environment: &Path| fs::read_to_string(environment.join("installed")).is_ok_and(|found| found == PINS.join("\n"));
    // Without the lock, which another user cannot take.
    if is_complete(&home.join("venv")) {
        return home.join("venv");
    }
    fs::create_dir_all(&home).unwrap();
    let lock = File::create(home.join("lock")).unwrap();
    lock.lock().unwrap();
    let environment = home.join("venv");
    if is_complete(&environment) {
        return environment;
    }
    if environment.exists() {
        fs::remove_dir_all(&environment).unwrap();
    }
    run(Command::new("python3").args(["-m", "venv"]).arg(&environment));
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    run(Command::new(environment.join("bin/python")).args(pip).args(PINS));
    // Written last: an installation that was broken off is done again.
    fs::write(environment.join("installed"), PINS.join("\n")).unwrap();
    environment
}

fn run(command: &mut Command) {
    let done =
        command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; the tests need python3 with venv (Debian: python3-venv)"));
    assert!(done.status.success(), "{command:?}: {}\n{}", done.status, String::from_utf8_lossy(&done.stderr));
}
