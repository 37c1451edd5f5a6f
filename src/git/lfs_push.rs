//! Files of git-lfs that a push needs: before the pointers go to the remote their content goes to its LFS server, by the developer's own
//! git-lfs, in the developer's checkout. Without that a push would leave pointers to nothing.

use super::cli::{Git, REMOTE, Running};
use super::filters::lfs::{Pointer, Store};
use super::remote::one_line;
use super::{Checkout, GitError, Remote};

/// Ids on one command line.
const AT_ONCE: usize = 200;

/// The pointers among what leads to `new` and to none of `known` (revisions and options of `rev-list`).
pub(super) fn pointers<'a>(git: impl Fn() -> Git<'a>, new: &str, known: &[String]) -> Result<Vec<Pointer>, GitError> {
    // Pointers are small: what is larger is not even named.
    let listing = git().args(["rev-list", "--objects", "--no-object-names", "--filter=blob:limit=1k", new, "--not"]).args(known);
    let listed = listing.args(["--"]).output()?;
    let sorted = git().args(["cat-file", "--batch-check=%(objecttype) %(objectname)"]).input(&listed)?.text()?;
    let blobs: Vec<&str> = sorted.lines().filter_map(|line| line.strip_prefix("blob ")).collect();
    if blobs.is_empty() {
        return Ok(Vec::new());
    }
    let contents = git().args(["cat-file", "--batch"]).input((blobs.join("\n") + "\n").as_bytes())?.output()?;
    let mut found: Vec<Pointer> = batch(&contents).filter_map(Pointer::parse).collect();
    found.sort();
    found.dedup();
    Ok(found)
}

/// Sees that the remote's LFS server has all of them.
pub(super) fn upload(checkout: &Checkout, remote: &Remote, pointers: &[Pointer], running: &Running) -> Result<(), GitError> {
    let doing = format!("push files of git-lfs to {}", remote.name);
    let store = Store::of(checkout);
    if let Some(missing) = pointers.iter().find(|pointer| !store.has(pointer)) {
        let said = format!("the content of {} ({} bytes) is not on this machine", missing.oid, missing.size);
        return Err(GitError::Lfs { doing, said });
    }
    for some in pointers.chunks(AT_ONCE) {
        let git = checkout.git(&doing).args(["lfs", "push", "--object-id", "--", &remote.name]);
        let ended = git.args(some.iter().map(|pointer| &pointer.oid)).within(REMOTE).cut_by(running).run()?;
        if !ended.success {
            let said = [&String::from_utf8_lossy(&ended.stdout), ended.stderr.as_str()].concat();
            let last = said.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("nothing");
            return Err(GitError::Lfs { doing, said: remote.redact(&one_line(last)) });
        }
    }
    Ok(())
}

/// The contents in what `cat-file --batch` says: a line `<id> <kind> <size>`, so many bytes, a newline.
fn batch(said: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = said;
    std::iter::from_fn(move || {
        let end = memchr::memchr(b'\n', rest)?;
        let size: usize = std::str::from_utf8(&rest[..end]).ok()?.rsplit(' ').next()?.parse().ok()?;
        let content = rest.get(end + 1..end + 1 + size)?;
        rest = rest.get(end + 2 + size..).unwrap_or_default();
        Some(content)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_told_apart_by_their_sizes() {
        let said = b"1a blob 3\na\nb\n2b blob 0\n\n3c blob 2\nxy\n";
        assert_eq!(batch(said).collect::<Vec<_>>(), [&b"a\nb"[..], b"", b"xy"]);
    }
}
