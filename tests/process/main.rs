//! The process tests that need real supervisors: the guardian must fork before any thread exists, and the kernel gives orphans
//! to a process's main thread, while a test of the standard harness is a thread beside others. So this binary has a runner of its
//! own, and starts itself again as the supervisor (`supervise ...`, see [`supervisor`]).
//!
//! Arguments as for the standard harness, as far as they make sense here: filters, `--exact`, `--list`; others are ignored.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up should fail loudly")]
#![expect(clippy::print_stdout, reason = "it is the test runner")]

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

pub(crate) type Test = (&'static str, fn());

/// Names the functions as tests.
macro_rules! tests {
    ($($test:ident),* $(,)?) => {
        pub(crate) const TESTS: &[$crate::Test] = &[$((concat!(module_path!(), "::", stringify!($test)), $test)),*];
    };
}

mod guardian;
mod pty;
mod run;
mod supervisor;
mod support;
mod tree;
mod zoo;

/// Tests wait more than they compute.
const AT_ONCE: usize = 3;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if args.first().is_some_and(|first| first == "supervise") {
        return supervisor::main(&args[1..]);
    }
    let args: Vec<String> = args.into_iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let has = |option: &str| args.iter().any(|arg| arg == option);
    let filters: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |name: &str| {
        filters.is_empty() || filters.iter().any(|filter| if has("--exact") { name == *filter } else { name.contains(*filter) })
    };
    let name = |test: &Test| test.0.strip_prefix("process::").unwrap_or(test.0).to_owned();
    let tests: Vec<&Test> = [tree::TESTS, guardian::TESTS, pty::TESTS, zoo::TESTS].into_iter().flatten().collect();
    let tests: Vec<&Test> = tests.into_iter().filter(|test| wanted(&name(test))).collect();
    if has("--list") {
        for test in tests {
            println!("{}: test", name(test));
        }
        return ExitCode::SUCCESS;
    }

    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(test) = tests.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // A thread of its own: its name is what a panic and the table of skips tell.
                    let thread = std::thread::Builder::new().name(name(test));
                    let passed = thread.spawn(test.1).unwrap().join().is_ok();
                    println!("test {} ... {}", name(test), if passed { "ok" } else { "FAILED" });
                    if !passed {
                        failed.lock().unwrap().push(name(test));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    let result = if failed.is_empty() { "ok" } else { "FAILED" };
    println!("\ntest result: {result}. {} passed; {} failed\n", tests.len() - failed.len(), failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(101) }
}
