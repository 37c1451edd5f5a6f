//! No test: the last of the test programs prints which tests were skipped on this machine, and why (see `support/components.rs`).
#![expect(clippy::print_stdout, reason = "it is what it is for")]

use std::path::Path;

fn main() {
    let table = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap_or(Path::new("target")).join("skipped-tests.txt");
    let rows = std::fs::read_to_string(table).unwrap_or_default();
    let rows: Vec<(&str, &str)> = rows.lines().filter_map(|row| row.split_once(" | ")).collect();
    // A list of the tests is asked for, or one test: then this is not the end of the suite.
    if std::env::args().len() > 1 {
        return;
    }
    if rows.is_empty() {
        println!("\nno test was skipped\n");
        return;
    }
    let width = rows.iter().map(|(test, _)| test.len()).max().unwrap_or(0);
    println!("\n{} tests were skipped, because this machine lacks what they need:\n", rows.len());
    for (test, why) in rows {
        println!("  {test:<width$}  {why}");
    }
    println!();
}
