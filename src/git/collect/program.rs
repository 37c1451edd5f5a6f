//! The collector by git's plumbing, for repositories that libgit2 cannot read or would store unfiltered.
//!
//! `GIT_DIR` is always the supervisor's collector, whose configuration the agent cannot write; the clone is only its work tree. Of git
//! only commands are used that look into no nested repository's configuration (`status` and `diff` would). The collector's attributes keep
//! git from running filters; [`Filters`] runs those that the developer has.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::super::cli::Git;
use super::super::filters::{self, Cleaned, Filters, open_beneath};
use super::super::{Checkout, GitError, seed};
use super::{Collector, Difference, Entry, Snapshot, admit, name_submodule};

/// A repository of the supervisor's, worked on by the git program.
pub(super) struct Program {
    checkout: Checkout,
    git_dir: PathBuf,
    filters: Filters,
}

impl Program {
    pub(super) fn new(checkout: &Checkout, git_dir: PathBuf, filters: Filters) -> Self {
        Self { checkout: checkout.clone(), git_dir, filters }
    }

    fn git(&self, doing: impl Into<String>) -> Git<'_> {
        let git = Git::new(doing, &self.checkout.env, &self.git_dir).env("GIT_DIR", &self.git_dir).env("GIT_NO_LAZY_FETCH", "1");
        git.args(["-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "core.untrackedCache=false"])
    }

    fn on_files(&self, root: &Path, doing: impl Into<String>) -> Git<'_> {
        let git = Git::new(doing, &self.checkout.env, root).env("GIT_DIR", &self.git_dir).env("GIT_WORK_TREE", root);
        let git = git.env("GIT_INDEX_FILE", self.git_dir.join("wip.index")).env("GIT_NO_LAZY_FETCH", "1");
        git.args([
            "-c",
            "core.bare=false",
            "-c",
            "core.hooksPath=/dev/null",
            "-c",
            "core.fsmonitor=false",
            "-c",
            "core.untrackedCache=false",
        ])
    }

    /// Which of `paths` have a filter set, asked of a repository of ours in which filters are not switched off. Nothing is run for it.
    fn filtered(&self, root: &Path, paths: &[Vec<u8>]) -> Result<Vec<(PathBuf, String)>, GitError> {
        let asked = self.git_dir.with_file_name("attributes.git");
        if !asked.join("HEAD").is_file() {
            seed::bare_repository(&self.checkout, &asked)?;
            seed::lend_objects(&asked, &[&self.git_dir.join("objects")])?;
        }
        let own = fs_err::read(self.checkout.common_dir.join("info/attributes")).unwrap_or_default();
        seed::write(&asked.join("info/attributes"), &own)?;
        let git = self.on_files(root, "look for filters").env("GIT_DIR", &asked).args(["check-attr", "-z", "--stdin", "filter"]);
        Ok(filters::named(&git.input(&paths.join(&0))?.output()?))
    }

    /// Puts a file into the index as the developer's filter makes it; `None` if the filter does nothing.
    fn add_filtered(&self, root: &Path, path: &Path, name: &str, entries: &[Staged]) -> Result<Option<Done>, GitError> {
        let Some(driver) = self.filters.driver(name)? else { return Ok(None) };
        let Some(content) = open_beneath(root, path) else { return Ok(None) };
        let executable = content.metadata().is_ok_and(|meta| meta.permissions().mode() & 0o100 != 0);
        let bytes = match self.filters.clean(driver, path.as_os_str().as_encoded_bytes(), content)? {
            Cleaned::AsIs => return Ok(None),
            Cleaned::Failed => return Ok(Some(if driver.required { Done::Refused } else { Done::AsItIs })),
            Cleaned::Bytes(bytes) => bytes,
        };
        let doing = "store a filtered file";
        let git = self.on_files(root, doing).args(["hash-object", "-w", "--stdin", "--path"]).args([path]);
        let id = git.input(&bytes)?.text()?;
        let known = entries.iter().find(|entry| entry.path == path.as_os_str().as_encoded_bytes()).map(|entry| entry.executable);
        let trusts_mode =
            self.git(doing).args(["config", "--type=bool", "--get", "core.filemode"]).text().map_or(true, |said| said != "false");
        let executable = if trusts_mode { executable } else { known.unwrap_or(false) };
        let line =
            [format!("{} {id}\t", if executable { "100755" } else { "100644" }).as_bytes(), path.as_os_str().as_encoded_bytes(), b"\0"]
                .concat();
        self.on_files(root, doing).args(["update-index", "-z", "--add", "--index-info"]).input(&line)?.output()?;
        Ok(Some(Done::Added))
    }
}

/// What became of a file with a filter.
enum Done {
    Added,
    /// It may not be stored unfiltered.
    Refused,
    AsItIs,
}

impl Collector for Program {
    fn has_commit(&self, id: &str) -> bool {
        self.git("look for a commit").args(["cat-file", "-e", &format!("{id}^{{commit}}")]).run().is_ok_and(|ended| ended.success)
    }

    fn commits_among(&self, ids: Vec<String>) -> Result<Vec<String>, GitError> {
        let asked = ids.join("\n") + "\n";
        let answers =
            self.git("look for commits").args(["cat-file", "--batch-check=%(objectname) %(objecttype)"]).input(asked.as_bytes())?.text()?;
        Ok(answers.lines().filter_map(|line| line.strip_suffix(" commit")).map(str::to_owned).collect())
    }

    fn own_commits(&self, tip: &str, known: &[String]) -> Result<usize, GitError> {
        let revisions = std::iter::once(tip.to_owned()).chain(known.iter().map(|id| format!("^{id}"))).collect::<Vec<_>>().join("\n");
        let git = self.git(format!("count the commits of {tip}")).args(["rev-list", "--count", "--ignore-missing", "--stdin"]);
        let said = git.input(revisions.as_bytes())?.text()?;
        said.parse().map_err(|_| GitError::Git { doing: "count commits".to_owned(), said })
    }

    fn snapshot(&self, root: &Path, index: Option<&Path>, parent: Option<&str>) -> Result<Snapshot, GitError> {
        let doing = || format!("save uncommitted work of {}", root.display());
        let staged = || self.on_files(root, doing()).args(["ls-files", "-z", "--stage"]);
        let mut entries = if index.is_some() { staged().output().ok() } else { None };
        if entries.is_none() {
            // No index, or one that cannot be read: every file is compared by content.
            let _ = fs_err::remove_file(self.git_dir.join("wip.index"));
            let from = parent.map_or_else(|| vec!["read-tree", "--empty"], |parent| vec!["read-tree", parent]);
            self.on_files(root, doing()).args(from).output()?;
            entries = Some(staged().output()?);
        }
        let entries: Vec<Staged> = entries.unwrap_or_default().split(|byte| *byte == 0).filter_map(Staged::parse).collect();
        let listing = ["ls-files", "-z", "--others", "--modified", "--deleted", "--exclude-standard"];
        let listed = self.on_files(root, doing()).args(listing).output()?;
        let mut changed: Vec<Vec<u8>> = entries.iter().filter(|entry| entry.in_conflict).map(|entry| entry.path.clone()).collect();
        changed.extend(listed.split(|byte| *byte == 0).filter(|path| !path.is_empty()).map(<[u8]>::to_vec));
        changed.sort();
        changed.dedup();
        let filtered = self.filtered(root, &changed)?;
        let (mut left_out, mut unfiltered) = (Vec::new(), Vec::new());
        let mut taken = Vec::new();
        for path in changed {
            let name = path.strip_suffix(b"/").unwrap_or(&path);
            if entries.iter().any(|entry| entry.submodule && entry.path == name) {
                name_submodule(root, name, &mut left_out);
                continue;
            }
            let file = os_path(&path);
            if !admit(root, &file, &mut left_out) {
                continue;
            }
            let filter = filtered.iter().find(|(filtered, _)| *filtered == file);
            if let Some((_, name)) = filter
                && let Some(done) = self.add_filtered(root, &file, name, &entries)?
            {
                match done {
                    Done::Added => continue,
                    Done::Refused => {
                        left_out.push(file.to_string_lossy().into_owned());
                        continue;
                    }
                    Done::AsItIs => unfiltered.push((file.to_string_lossy().into_owned(), name.clone())),
                }
            }
            taken.extend_from_slice(&path);
            taken.push(0);
        }
        self.on_files(root, doing()).args(["update-index", "-z", "--add", "--remove", "--replace", "--stdin"]).input(&taken)?.output()?;
        let tree = self.on_files(root, doing()).args(["write-tree"]).text()?;
        let differs = match parent {
            Some(parent) => self.git(doing()).args(["rev-parse", "--verify", &format!("{parent}^{{tree}}")]).text()? != tree,
            None => !self.git(doing()).args(["ls-tree", &tree]).output()?.is_empty(),
        };
        Ok(Snapshot { tree, differs, left_out, unfiltered })
    }

    fn diff(&self, from: Option<&str>, to: Option<&str>) -> Result<Vec<Difference>, GitError> {
        let doing = "compare the state of the files";
        let empty = || self.git(doing).args(["hash-object", "-w", "-t", "tree", "/dev/null"]).text();
        let tree = |id: Option<&str>| id.map_or_else(empty, |id| Ok(id.to_owned()));
        let git = self.git(doing).args(["diff-tree", "-r", "-z", "--raw", "--no-renames", "--no-abbrev"]);
        let listed = git.args([tree(from)?, tree(to)?]).output()?;
        let mut fields = listed.split(|byte| *byte == 0);
        let mut found = Vec::new();
        while let (Some(facts), Some(path)) = (fields.next(), fields.next()) {
            // `:<mode> <mode> <id> <id> <letter>`
            let facts = String::from_utf8_lossy(facts).into_owned();
            let facts: Vec<&str> = facts.trim_start_matches(':').split(' ').collect();
            let entry = |mode: usize, id: usize| {
                let mode = u32::from_str_radix(facts.get(mode)?, 8).ok().filter(|mode| *mode != 0)?;
                Some(Entry { mode, id: (*facts.get(id)?).to_owned() })
            };
            found.push(Difference { path: path.to_vec(), from: entry(0, 2), to: entry(1, 3) });
        }
        Ok(found)
    }

    fn with(&self, tree: &str, entries: &[(Vec<u8>, Option<Entry>)]) -> Result<String, GitError> {
        let git = || self.git("leave out what was there before").env("GIT_INDEX_FILE", self.git_dir.join("tree.index"));
        let _ = fs_err::remove_file(self.git_dir.join("tree.index"));
        git().args(["read-tree", tree]).output()?;
        let none = "0".repeat(tree.len());
        let line = |path: &[u8], entry: Option<&Entry>| {
            let facts = entry.map_or_else(|| format!("0 {none}\t"), |entry| format!("{:o} {}\t", entry.mode, entry.id));
            [facts.as_bytes(), path, b"\0"].concat()
        };
        let removed = entries.iter().filter(|(_, entry)| entry.is_none()).map(|(path, _)| line(path, None));
        let set = entries.iter().filter(|(_, entry)| entry.is_some()).map(|(path, entry)| line(path, entry.as_ref()));
        let lines: Vec<u8> = removed.chain(set).flatten().collect();
        git().args(["update-index", "-z", "--index-info"]).input(&lines)?.output()?;
        git().args(["write-tree"]).text()
    }

    fn is_commit_of(&self, id: &str, tree: &str, parent: Option<&str>) -> bool {
        let said = self.git("look at a commit").args(["show", "--no-patch", "--format=%T %P", id]).text();
        said.is_ok_and(|said| said.trim() == format!("{tree} {}", parent.unwrap_or_default()).trim())
    }

    fn commit(&self, tree: &str, parent: Option<&str>, message: &str, author: (&str, &str)) -> Result<String, GitError> {
        let mut git = self.git("commit uncommitted work");
        for role in ["AUTHOR", "COMMITTER"] {
            git = git.env(format!("GIT_{role}_NAME"), author.0).env(format!("GIT_{role}_EMAIL"), author.1);
        }
        git = git.args(["commit-tree", tree, "-m", message]);
        if let Some(parent) = parent {
            git = git.args(["-p", parent]);
        }
        git.text()
    }

    fn landed(&self, branch: &str) -> Option<String> {
        self.git("look for a branch").args(["rev-parse", "--verify", "--quiet", &format!("refs/sentrely/landed/{branch}")]).text().ok()
    }

    fn land(&self, checkout: &Checkout, id: &str, branch: &str, current: Option<&str>, _known: &[String]) -> Result<(), GitError> {
        let doing = || format!("bring {branch} into {}", checkout.root.display());
        let (from, ours) = (format!("refs/sentrely/landing/{branch}"), format!("refs/sentrely/collected/{branch}"));
        self.git(doing()).args(["update-ref", &from, id]).output()?;
        let quiet = [
            "core.hooksPath=/dev/null",
            "gc.auto=0",
            "maintenance.auto=false",
            "fetch.writeCommitGraph=false",
            "fetch.prune=false",
            "protocol.file.allow=always",
        ];
        let git = quiet.iter().fold(checkout.git(doing()), |git, setting| git.args(["-c", setting]));
        let git = git.args(["fetch", "--quiet", "--no-write-fetch-head", "--no-tags", "--no-recurse-submodules"]);
        git.args([self.git_dir.as_os_str()]).args([format!("+{from}:{ours}")]).output()?;
        // By way of a ref of our own, so that the branch is set only if it still holds what it was seen to hold.
        let zero = "0".repeat(id.len());
        let set = format!("update refs/heads/{branch} {id} {}\ndelete {ours}\n", current.unwrap_or(&zero));
        let git = checkout.git(doing()).args(["-c", "core.hooksPath=/dev/null", "update-ref", "-m", "sentrely: collected", "--stdin"]);
        git.input(set.as_bytes())?.output()?;
        self.git(doing()).args(["update-ref", &format!("refs/sentrely/landed/{branch}"), id]).output().map(drop)
    }
}

/// A line of `ls-files --stage`: `<mode> <id> <stage>\t<path>`.
struct Staged {
    path: Vec<u8>,
    submodule: bool,
    executable: bool,
    in_conflict: bool,
}

impl Staged {
    fn parse(line: &[u8]) -> Option<Self> {
        let tab = line.iter().position(|byte| *byte == b'\t')?;
        let (facts, path) = (&line[..tab], &line[tab + 1..]);
        Some(Self {
            path: path.to_vec(),
            submodule: facts.starts_with(b"160000 "),
            executable: facts.starts_with(b"100755 "),
            in_conflict: facts.last() != Some(&b'0'),
        })
    }
}

fn os_path(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}
