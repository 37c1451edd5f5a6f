//! The one place that writes to the terminal: data to stdout, talk to stderr, colour with meaning and never alone.
//!
//! Colour is for terminals; `NO_COLOR`, `CLICOLOR_FORCE` and `TERM=dumb` have their usual meaning.

use std::io::{self, BufRead, IsTerminal, Write};
use std::ops::ControlFlow;

use comfy_table::{ContentArrangement, Table, presets};
use owo_colors::{OwoColorize, Style};

use super::failure::Failure;

/// What the colours mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// Plain.
    Plain,
    /// Of lesser weight.
    Dim,
    /// As it should be.
    Good,
    /// Worth a look.
    Warn,
    /// Wrong.
    Bad,
    /// A heading.
    Bold,
}

/// Puts `text` into its colour. The stream strips it where colour is not wanted (`NO_COLOR`, pipes, `TERM=dumb`).
pub fn paint(text: &str, tone: Tone) -> String {
    let style = match tone {
        Tone::Plain => return text.to_owned(),
        Tone::Dim => Style::new().dimmed(),
        Tone::Good => Style::new().green(),
        Tone::Warn => Style::new().yellow(),
        Tone::Bad => Style::new().red(),
        Tone::Bold => Style::new().bold(),
    };
    text.style(style).to_string()
}

/// One line of talk (or several), on stderr. A closed stderr is no reason to stop.
pub fn say(line: &str) {
    let mut out = io::stderr().lock();
    // In one write, so that nobody else's words come between; an `anstream` would write it piece by piece.
    let text = toned(line, anstream::AutoStream::choice(&out));
    let _ = out.write_all(text.as_bytes());
}

/// The same in place of what is drawn on the line, on a terminal that can redraw: that is no colour, and needed without colours too.
pub fn say_over(line: &str) {
    let mut out = io::stderr().lock();
    let text = format!("\r\x1b[2K{}", toned(line, anstream::AutoStream::choice(&out)));
    let _ = out.write_all(text.as_bytes());
}

fn toned(line: &str, choice: anstream::ColorChoice) -> String {
    match choice {
        anstream::ColorChoice::Never => format!("{}\n", anstream::adapter::strip_str(line)),
        _ => format!("{line}\n"),
    }
}

/// What failed and what can be done about it, on stderr.
pub fn report(failure: &Failure) {
    let what = format!("{:#}", failure.error);
    say(&format!("{} {}", paint("failed to", Tone::Bad), printable(&what)));
    if let Some(hint) = &failure.hint {
        say(&format!("\n{} {}", paint("hint:", Tone::Bold), printable(hint)));
    }
}

/// Errors quote what others wrote; their line breaks may stay.
fn printable(text: &str) -> String {
    text.lines().map(super::words::clean).collect::<Vec<_>>().join("\n")
}

/// Data, on stdout. A reader that went away (`| head`) is not an error.
pub fn print(text: &str) -> io::Result<()> {
    print_more(text).map(|_| ())
}

/// The same for those who have more to print: `Break` once nobody reads any more.
pub fn print_more(text: &str) -> io::Result<ControlFlow<()>> {
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(error),
    }
}

/// One JSON document on stdout.
pub fn print_json<T: serde::Serialize>(document: &T) -> io::Result<()> {
    let mut text = serde_json::to_string_pretty(document)?;
    text.push('\n');
    print(&text)
}

/// Asks a yes-or-no question on the terminal; `true` only for a yes.
pub fn confirm(question: &str) -> bool {
    let _ = write!(anstream::stderr().lock(), "{question} [y/N] ");
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).is_ok() && matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")
}

/// Whether stderr is a terminal that can redraw a line.
pub fn can_redraw() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Rows under a header, without borders. The cells of `painted` (a column's index) get the tone that is given with each row.
pub fn table<const N: usize>(header: [&str; N], rows: Vec<([String; N], Tone)>, painted: usize) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
    let tones: Vec<(Tone, String)> = rows.iter().map(|(cells, tone)| (*tone, cells[painted].clone())).collect();
    for (cells, _) in rows {
        table.add_row(cells);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    // The table measures plain text, so colour comes last: into the column that begins at the same place in every line.
    let start: usize = table.column_max_content_widths().iter().take(painted).map(|width| usize::from(*width) + 2).sum();
    let mut text = String::new();
    for (at, line) in table.lines().enumerate() {
        let line = line.trim_end();
        match at.checked_sub(1).and_then(|row| tones.get(row)) {
            None => text.push_str(&paint(line, Tone::Dim)),
            Some((tone, cell)) => text.push_str(&paint_at(line, start, cell, *tone)),
        }
        text.push('\n');
    }
    text
}

fn paint_at(line: &str, start: usize, cell: &str, tone: Tone) -> String {
    let parts = line.get(..start).zip(line.get(start..).and_then(|rest| rest.strip_prefix(cell)));
    parts.map_or_else(|| line.to_owned(), |(before, after)| format!("{before}{}{after}", paint(cell, tone)))
}
