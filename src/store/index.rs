//! `index.jsonl`: one line an ended session, so that old sessions are known without their directories.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::replace;
use crate::model::{SessionId, SessionView};

const FILE_NAME: &str = "index.jsonl";

/// Appends an ended session, under a lock: several sessions end at once.
pub fn append_to_index(state: &Path, view: &SessionView) -> io::Result<()> {
    let file = locked(state)?;
    let mut line = serde_json::to_vec(view)?;
    line.push(b'\n');
    (&file).write_all(&line)
}

/// All ended sessions; of a resumed one the last line counts. Lines that cannot be read are passed over.
pub fn read_index(state: &Path) -> io::Result<Vec<SessionView>> {
    match File::open(state.join(FILE_NAME)) {
        Ok(file) => read(&file).map(|(views, _)| views),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Leaves one line a session, of those that `keeps` wants. The file is replaced, never cut; left alone where nothing would go, or
/// where a line cannot be read: a newer version may have written it.
pub fn compact_index(state: &Path, keeps: impl Fn(&SessionView) -> bool) -> io::Result<()> {
    // Nobody appends meanwhile; whoever waits for this lock finds another file behind the name, and takes that.
    let file = locked(state)?;
    let (views, lines) = read(&File::open(state.join(FILE_NAME))?)?;
    let Lines { all, unreadable } = lines;
    let kept: Vec<&SessionView> = views.iter().filter(|view| keeps(view)).collect();
    if unreadable > 0 || kept.len() == all {
        return Ok(());
    }
    let mut content = Vec::new();
    for view in kept {
        serde_json::to_writer(&mut content, view)?;
        content.push(b'\n');
    }
    let replaced = replace(&state.join(FILE_NAME), &content);
    drop(file);
    replaced
}

struct Lines {
    all: usize,
    unreadable: usize,
}

fn read(file: &File) -> io::Result<(Vec<SessionView>, Lines)> {
    let (mut views, mut places): (Vec<SessionView>, HashMap<SessionId, usize>) = (Vec::new(), HashMap::new());
    let mut lines = Lines { all: 0, unreadable: 0 };
    for line in BufReader::new(file).lines() {
        lines.all += 1;
        let Ok(view) = serde_json::from_str::<SessionView>(&line?) else {
            lines.unreadable += 1;
            continue;
        };
        if let Some(place) = places.get(&view.id) {
            views[*place] = view;
        } else {
            places.insert(view.id, views.len());
            views.push(view);
        }
    }
    Ok((views, lines))
}

/// The file that has the name, locked.
fn locked(state: &Path) -> io::Result<File> {
    let path = state.join(FILE_NAME);
    loop {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
        file.lock()?;
        let (ours, named) = (file.metadata()?, std::fs::metadata(&path));
        if named.is_ok_and(|named| (named.dev(), named.ino()) == (ours.dev(), ours.ino())) {
            return Ok(file);
        }
    }
}
