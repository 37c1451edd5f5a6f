//! The collector by git's plumbing, for repositories that libgit2 cannot read or would store unfiltered.
//!
//! `GIT_DIR` is always the supervisor's collector, whose configuration the agent cannot write, and the work tree is the [`Shadow`]. The
//! collector's attributes keep git from running filters; [`Filters`] runs those that the developer has.

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::super::cli::{Git, telling_line};
use super::super::filters::{self, Cleaned, Filters, open_beneath};
use super::super::within::Within;
use super::super::{Checkout, GitError, seed};
use super::files::{self, Kind, Put, Shadow, Tracked, os_path};
use super::library::Library;
use super::view::LARGE;
use super::{Collector, Difference, Entry, Snapshot};

/// So many files lie in the shadow at a time.
const AT_ONCE: usize = 100;

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
        let git = git.args(["-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "core.untrackedCache=false"]);
        git.args(["-c", &streamed()])
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

impl Program {
    fn ignored(&self, shadow: &Path, paths: &[Vec<u8>]) -> Result<HashSet<Vec<u8>>, GitError> {
        let doing = "ask what is ignored";
        let git = self.on_files(shadow, doing).args(["check-ignore", "-z", "--stdin", "--no-index"]);
        let ended = git.input(&paths.join(&0))?.run()?;
        if !ended.success && ended.code != Some(1) {
            return Err(GitError::Git { doing: doing.to_owned(), said: telling_line(&ended.stderr) });
        }
        Ok(ended.stdout.split(|byte| *byte == 0).filter(|path| !path.is_empty()).map(<[u8]>::to_vec).collect())
    }

    fn add_link(&self, shadow: &Path, path: &[u8], target: &Path) -> Result<(), GitError> {
        let git = || self.on_files(shadow, "save a link");
        let id = git().args(["hash-object", "-w", "--no-filters", "--stdin"]).input(target.as_os_str().as_encoded_bytes())?.text()?;
        let line = [format!("120000 {id}\t").as_bytes(), path, b"\0"].concat();
        git().args(["update-index", "-z", "--add", "--index-info"]).input(&line)?.output().map(drop)
    }

    /// Makes the index say of these paths what the shadow says.
    fn update_index(&self, shadow: &Path, paths: &[Vec<u8>]) -> Result<(), GitError> {
        if paths.is_empty() {
            return Ok(());
        }
        let git = self.on_files(shadow, "save uncommitted work");
        let git = git.args(["update-index", "-z", "--add", "--remove", "--replace", "--stdin"]);
        git.input(&[&paths.join(&0)[..], b"\0"].concat())?.output().map(drop)
    }
}

/// The setting by which git does not read into memory what is large.
fn streamed() -> String {
    format!("core.bigFileThreshold={LARGE}")
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

    fn snapshot(&self, root: &Within, index: Option<&Path>, parent: Option<&str>) -> Result<Snapshot, GitError> {
        let doing = || format!("save uncommitted work of {}", root.path().display());
        let mut shadow = Shadow::new(root, self.git_dir.with_file_name("shadow"))?;
        let top = shadow.path().to_owned();
        let staged = || self.on_files(&top, doing()).args(["ls-files", "-z", "-t", "--stage"]);
        // Of an index that libgit2 does not understand every file is compared by content.
        let stats = index.and_then(|file| git2::Index::open(file).ok()).map(|index| Library::known(&index)).unwrap_or_default();
        let mut entries = if index.is_some() { staged().output().ok() } else { None };
        let written = index.filter(|_| entries.is_some()).and_then(files::written);
        if entries.is_none() {
            // No index, or one that cannot be read.
            let _ = fs_err::remove_file(self.git_dir.join("wip.index"));
            let from = parent.map_or_else(|| vec!["read-tree", "--empty"], |parent| vec!["read-tree", parent]);
            self.on_files(&top, doing()).args(from).output()?;
            entries = Some(staged().output()?);
        }
        let entries: Vec<Staged> = entries.unwrap_or_default().split(|byte| *byte == 0).filter_map(Staged::parse).collect();
        let stat = |path: &[u8]| stats.get(path).and_then(|tracked| tracked.stat.clone()).filter(|_| written.is_some());
        let known = entries.iter().map(|entry| (entry.path.clone(), Tracked { kind: entry.kind, stat: stat(&entry.path) })).collect();
        let look = shadow.look(&known, written, &|paths| self.ignored(&top, paths))?;
        let (mut left_out, mut unfiltered) = (look.left_out, Vec::new());
        // What is named here and does not lie in the shadow is removed.
        let in_conflict = |path: &&Vec<u8>| known.get(*path).is_some_and(|tracked| tracked.kind == Kind::InConflict);
        let named = left_out.iter().map(|path| path.as_bytes().to_vec()).filter(|path| in_conflict(&path));
        let gone: Vec<Vec<u8>> = look.removed.into_iter().chain(named).collect();
        self.update_index(&top, &gone)?;
        for batch in look.changed.chunks(AT_ONCE) {
            let mut taken = Vec::new();
            for path in batch {
                match shadow.put(path) {
                    Put::Done | Put::Gone => taken.push(path.clone()),
                    Put::Link(target) => self.add_link(&top, path, &target)?,
                    Put::Refused => {
                        left_out.push(files::text(path));
                        taken.extend(Some(path.clone()).filter(|path| in_conflict(&path)));
                    }
                }
            }
            for (file, name) in self.filtered(&top, &taken)? {
                let name_of = || file.to_string_lossy().into_owned();
                match self.add_filtered(&top, &file, &name, &entries)? {
                    None => continue,
                    Some(Done::AsItIs) => {
                        unfiltered.push((name_of(), name));
                        continue;
                    }
                    Some(Done::Refused) => left_out.push(name_of()),
                    Some(Done::Added) => {}
                }
                taken.retain(|path| os_path(path) != file);
            }
            self.update_index(&top, &taken)?;
            for path in batch {
                shadow.clear(path);
            }
        }
        let tree = self.on_files(&top, doing()).args(["write-tree"]).text()?;
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
            "fetch.unpackLimit=1", // older gits unpack what is large in memory
            &streamed(),
        ];
        let git = quiet.iter().fold(checkout.git(doing()), |git, setting| git.args(["-c", setting]));
        let git = git.args(["fetch", "--quiet", "--no-write-fetch-head", "--no-tags", "--no-recurse-submodules"]);
        // The other side gets no settings of this one.
        let git = git.args([format!("--upload-pack=git -c {} -c pack.windowMemory=64m upload-pack", streamed())]);
        git.args([self.git_dir.as_os_str()]).args([format!("+{from}:{ours}")]).output()?;
        // By way of a ref of our own, so that the branch is set only if it still holds what it was seen to hold.
        let zero = "0".repeat(id.len());
        let set = format!("update refs/heads/{branch} {id} {}\ndelete {ours}\n", current.unwrap_or(&zero));
        let git = checkout.git(doing()).args(["-c", "core.hooksPath=/dev/null", "update-ref", "-m", "sentrely: collected", "--stdin"]);
        git.input(set.as_bytes())?.output()?;
        self.git(doing()).args(["update-ref", &format!("refs/sentrely/landed/{branch}"), id]).output().map(drop)
    }
}

/// A line of `ls-files -t --stage`: `<tag> <mode> <id> <stage>\t<path>`.
struct Staged {
    path: Vec<u8>,
    kind: Kind,
    executable: bool,
}

impl Staged {
    fn parse(line: &[u8]) -> Option<Self> {
        let tab = line.iter().position(|byte| *byte == b'\t')?;
        let (facts, path) = (&line[..tab], &line[tab + 1..]);
        let mode = facts.get(2..)?;
        let kind = match (facts.first(), facts.last()) {
            (_, Some(b'1'..=b'3')) => Kind::InConflict,
            _ if mode.starts_with(b"160000 ") => Kind::Submodule,
            (Some(b'S'), _) => Kind::NotHere,
            _ => Kind::File,
        };
        Some(Self { path: path.to_vec(), kind, executable: mode.starts_with(b"100755 ") })
    }
}
