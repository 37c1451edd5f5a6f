//! Claude Code's argument list, read as the client reads it: is this a session, and which of its flags concern us?
//!
//! The tables are the client's own (2.1.330): which options take a value, which take one only if the next word is none of the
//! options, which take words up to the next option. An option the tables do not know is left to the client, and then no word
//! behind it is taken for a subcommand: a session that is supervised too much costs nothing, one that is not is unmetered.

use std::ffi::{OsStr, OsString};

/// What a `claude` command line is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Use {
    /// It talks to the model: sentrely supervises it.
    Session(SessionArgs),
    /// It never talks to the model here: run it as it is.
    PassThrough {
        /// For the one line that says so.
        why: String,
    },
    /// It would leave the supervised tree or the machine.
    Refuse {
        /// What it would do.
        why: String,
        /// What to do instead.
        hint: String,
    },
}

/// The flags of a session that concern sentrely, and the argument list without the ones it replaces.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the client's, and they are independent")]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionArgs {
    /// `-p`/`--print` was given. (The client is also non-interactive when stdout is not a terminal: [`SessionArgs::interactive`].)
    pub print: bool,
    /// `-c`/`--continue`.
    pub continues: bool,
    /// `-r`/`--resume`: with the id or name behind it, if there is one.
    pub resume: Option<Option<String>>,
    /// `--from-pr`.
    pub from_pr: bool,
    /// `--fork-session`.
    pub forks: bool,
    /// The user's own `--session-id`.
    pub session_id: Option<String>,
    /// Every `--settings` value in order; the client uses the last one alone.
    pub settings: Vec<String>,
    /// `--setting-sources`, as given.
    pub setting_sources: Option<String>,
    /// `--model`.
    pub model: Option<String>,
    /// `-w`/`--worktree`: the client works in a git worktree of its own, below the working directory's `.claude/worktrees`.
    pub worktree: bool,
    /// `--bare`: no hooks, and a key or `apiKeyHelper` of `--settings` as the only credentials.
    pub bare: bool,
    /// `--safe-mode`: hooks and all customisation off.
    pub safe_mode: bool,
    /// `--restricted`: user, project and local settings are not read.
    pub restricted: bool,
    /// `--no-session-persistence`: no transcripts are written, so they cannot be checked against the proxy.
    pub no_transcripts: bool,
    /// The arguments without any `--settings`.
    pub rest: Vec<OsString>,
}

impl SessionArgs {
    /// A new conversation whose id we may choose.
    pub const fn fresh(&self) -> bool {
        !self.continues && self.resume.is_none() && !self.from_pr && !self.forks && self.session_id.is_none()
    }

    /// Whether the client will draw its full-screen interface.
    pub const fn interactive(&self, stdout_is_terminal: bool) -> bool {
        !self.print && stdout_is_terminal
    }
}

/// Reads a `claude` argument list (without the program itself).
pub fn classify(args: &[OsString]) -> Use {
    let mut session = SessionArgs::default();
    let mut all_known = true;
    let mut words = Words { args, next: 0 };
    let mut seen_word = false;
    while let Some(arg) = words.take() {
        let Some(text) = arg.to_str() else {
            session.rest.push(arg.clone());
            continue;
        };
        if text == "--" {
            session.rest.push(arg.clone());
            session.rest.extend(words.remaining().iter().cloned());
            if !seen_word && all_known {
                let behind = words.remaining().get(1..).unwrap_or_default();
                let decided = words.remaining().first().and_then(|word| subcommand(word.to_str()?, behind));
                return decided.unwrap_or(Use::Session(session));
            }
            break;
        }
        if !is_option(text) {
            session.rest.push(arg.clone());
            if !seen_word && all_known {
                seen_word = true;
                if let Some(decided) = subcommand(text, words.remaining()) {
                    return decided;
                }
            }
            continue;
        }
        let start = words.next - 1;
        let read = words.read(text);
        for (name, value) in &read.options {
            if let Some(decided) = refused(name, *value) {
                return decided;
            }
            session.note(name, *value);
            all_known &= shape(name).is_some();
        }
        if read.options.iter().any(|(name, _)| matches!(*name, "--help" | "-h" | "--version" | "-v" | "-V")) {
            return Use::PassThrough { why: "it only prints help or the version".to_owned() };
        }
        if read.options.first().is_none_or(|(name, _)| *name != "--settings") {
            session.rest.extend(args[start..words.next].iter().cloned());
        }
    }
    Use::Session(session)
}

impl SessionArgs {
    fn note(&mut self, name: &str, value: Option<&str>) {
        let owned = || value.unwrap_or_default().to_owned();
        match name {
            "-p" | "--print" => self.print = true,
            "-c" | "--continue" => self.continues = true,
            "-r" | "--resume" => self.resume = Some(value.map(str::to_owned)),
            "--from-pr" => self.from_pr = true,
            "--fork-session" => self.forks = true,
            "--session-id" => self.session_id = Some(owned()),
            "--settings" => self.settings.push(owned()),
            "--setting-sources" => self.setting_sources = Some(owned()),
            "--model" => self.model = Some(owned()),
            "-w" | "--worktree" => self.worktree = true,
            "--bare" => self.bare = true,
            "--safe-mode" => self.safe_mode = true,
            "--restricted" => self.restricted = true,
            "--no-session-persistence" => self.no_transcripts = true,
            _ => {}
        }
    }
}

/// How an option takes its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Flag,
    /// The next word, whatever it is.
    One,
    /// The next word, unless it is an option.
    Maybe,
    /// The next word, and all behind it up to the next option.
    Many,
}

const FLAGS: &str = "\
    -d2e --debug-to-stderr --verbose -p --print --bare --safe-mode --init --init-only --maintenance --include-hook-events \
    --include-partial-messages --forward-subagent-text --session-mirror --await-claim --hold-repository-while-parked \
    --await-initialize --managed-settings-in-initialize --dangerously-skip-permissions --allow-dangerously-skip-permissions \
    --replay-user-messages --host-auth-is-org-sign-in --enable-auth-status --restricted --allow-other-models \
    --exclude-dynamic-system-prompt-sections --include-unsupported-models -c --continue --fork-session --deep-link-origin \
    --no-session-persistence --reply-on-resume --ide --desktop --strict-mcp-config --disable-slash-commands --chrome --no-chrome \
    --tmux --enable-auto-mode --bg --background --agents-view-if-allowed --brief --ax-screen-reader --plan-mode-required --hard-fail \
    -h --help -v -V --version";

const ONE: &str = "\
    --prefill --prefill-b64 --deep-link-repo --deep-link-last-fetch --deep-link-cwd-b64 --handle-uri --settings --managed-settings \
    --initialize-fields --setting-sources --client-data-url --watch-artifact --watch-artifact-no-autoreact --team-name --agent-id \
    --agent-name --agent-color --parent-session-id --lead-verify-key --agent-type --model --agent --routine --effort --fast-mode \
    --permission-mode --inherit-permission-mode --proactivity --debug-file --system-prompt --system-prompt-file --append-system-prompt \
    --append-system-prompt-file --system-prompt-snapshot --append-subagent-system-prompt --append-subagent-system-prompt-file \
    --plan-mode-instructions --permission-prompt-tool --permission-prompts --json-schema --fallback-model --advisor --agents --name -n \
    --plugin-dir --plugin-dir-no-mcp --plugin-url --remote-control-session-name-prefix --exec -m --sdk-url --thinking \
    --thinking-display --max-thinking-tokens --max-turns --max-budget-usd --task-budget --autocompact --rewind-files \
    --resume-session-at --resume-drops-turn --workload --output-format --input-format --teammate-mode --messaging-socket-path \
    --session-id --environment --pool --ref --on-branch --correlation-id --metadata --forward-home-settings --project-config-root \
    --attach-serve --runner-declares --session-began-as-copy";

const MANY: &str = "\
    --allowedTools --allowed-tools --disallowedTools --disallowed-tools --tools --add-dir --mcp-config --betas --file --channels \
    --dangerously-load-development-channels";

const MAYBE: &str = "\
    -d --debug -r --resume --from-pr -w --worktree --teleport --cloud --remote --project --remote-control --rc --prompt-suggestions";

fn shape(name: &str) -> Option<Shape> {
    [(FLAGS, Shape::Flag), (ONE, Shape::One), (MANY, Shape::Many), (MAYBE, Shape::Maybe)]
        .into_iter()
        .find_map(|(names, shape)| names.split_ascii_whitespace().any(|known| known == name).then_some(shape))
}

fn is_option(word: &str) -> bool {
    word.len() > 1 && word.starts_with('-')
}

/// A cursor over the argument list.
struct Words<'a> {
    args: &'a [OsString],
    next: usize,
}

/// One option word, taken apart: a cluster of short flags gives several.
struct Read<'a> {
    options: Vec<(&'a str, Option<&'a str>)>,
}

impl<'a> Words<'a> {
    fn take(&mut self) -> Option<&'a OsString> {
        let arg = self.args.get(self.next)?;
        self.next += 1;
        Some(arg)
    }

    fn remaining(&self) -> &'a [OsString] {
        &self.args[self.next..]
    }

    fn take_value(&mut self) -> Option<&'a str> {
        self.take().and_then(|value| value.to_str())
    }

    fn next_is_value(&self) -> bool {
        self.args.get(self.next).is_some_and(|word| !word.to_str().is_some_and(is_option))
    }

    /// Takes `option` apart and its value words off the list.
    fn read(&mut self, option: &'a str) -> Read<'a> {
        if let Some((name, value)) = option.split_once('=').filter(|_| option.starts_with("--")) {
            return Read { options: vec![(name, Some(value))] };
        }
        if let Some(shape) = shape(option) {
            return Read { options: vec![(option, self.value(shape))] };
        }
        if option.starts_with("--") {
            return Read { options: vec![(option, None)] };
        }
        let mut options = Vec::new();
        let mut rest = &option[1..];
        while let Some(letter) = rest.chars().next() {
            rest = &rest[letter.len_utf8()..];
            let Some((name, shape)) = short(letter) else {
                options.push((option, None));
                break;
            };
            match shape {
                Shape::Flag => options.push((name, None)),
                Shape::One | Shape::Maybe | Shape::Many if !rest.is_empty() => {
                    options.push((name, Some(rest)));
                    break;
                }
                Shape::One | Shape::Maybe | Shape::Many => options.push((name, self.value(shape))),
            }
        }
        Read { options }
    }

    fn value(&mut self, shape: Shape) -> Option<&'a str> {
        match shape {
            Shape::Flag => None,
            Shape::One => self.take_value(),
            Shape::Maybe => self.next_is_value().then(|| self.take_value()).flatten(),
            Shape::Many => {
                let first = self.take_value();
                while self.next_is_value() {
                    self.next += 1;
                }
                first
            }
        }
    }
}

/// Short options as they may stand in a cluster (`-pc`, `-rID`).
fn short(letter: char) -> Option<(&'static str, Shape)> {
    let name = match letter {
        'p' => "-p",
        'c' => "-c",
        'd' => "-d",
        'r' => "-r",
        'n' => "-n",
        'w' => "-w",
        'm' => "-m",
        'h' => "-h",
        'v' => "-v",
        'V' => "-V",
        _ => return None,
    };
    Some((name, shape(name)?))
}

const BACKGROUND: &str = "start it in the foreground under sentrely, in a terminal (or tmux window) of its own";
const ELSEWHERE: &str = "run it without sentrely: nothing on this machine can meter or stop it";
const HOST: &str = "start the program that uses this flag under sentrely instead, if it honours ANTHROPIC_BASE_URL";

/// Options that take the session out of the tree, off the machine, or give its settings a source that beats ours.
fn refused(name: &str, value: Option<&str>) -> Option<Use> {
    let (why, hint) = match name {
        "--bg" | "--background" | "--routine" | "--exec" => {
            ("runs in a background daemon, outside the supervised process tree", BACKGROUND)
        }
        "--tmux" => ("runs under the tmux server, outside the supervised process tree", BACKGROUND),
        "--teammate-mode" if value != Some("in-process") => {
            ("starts teammates in terminal panes, outside the supervised process tree", "use --teammate-mode in-process")
        }
        "--desktop" | "--handle-uri" => ("opens another application, outside the supervised process tree", BACKGROUND),
        "--cloud" | "--remote" | "--teleport" | "--environment" | "--pool" | "--attach-serve" | "--project" => {
            ("works with a session on another machine", ELSEWHERE)
        }
        "--remote-control" | "--rc" | "--sdk-url" => ("hands the session's control to another machine", "leave it out"),
        "--managed-settings" | "--managed-settings-in-initialize" | "--initialize-fields" | "--client-data-url" | "--await-claim" => {
            ("gives Claude Code settings that beat sentrely's", HOST)
        }
        "--daemon-worker" | "--bg-spare" | "--bg-pty-host" | "--preload" => {
            ("is one of Claude Code's own background processes", BACKGROUND)
        }
        _ => return None,
    };
    Some(Use::Refuse { why: format!("`claude {name}` {why}"), hint: hint.to_owned() })
}

/// What the first word of the list stands for, when it is not a prompt.
fn subcommand(word: &str, behind: &[OsString]) -> Option<Use> {
    let (why, hint) = match word {
        "mcp" | "doctor" | "update" | "upgrade" | "install" | "auth" | "setup-token" | "import" | "purge" | "gateway" => {
            return Some(Use::PassThrough { why: format!("`claude {word}` does not ask the model") });
        }
        "plugin" | "plugins" | "auto-mode" => {
            let asks = |name: &str| behind.first().is_some_and(|next| next == OsStr::new(name));
            if (word == "auto-mode" && asks("critique")) || (word != "auto-mode" && asks("eval")) {
                ("asks the model from processes of its own", "run it without sentrely; it is not metered")
            } else {
                return Some(Use::PassThrough { why: format!("`claude {word}` does not ask the model") });
            }
        }
        "agents" | "attach" | "logs" | "respawn" | "rm" | "stop" | "kill" | "daemon" => {
            ("belongs to Claude Code's background sessions, which live outside the supervised process tree", BACKGROUND)
        }
        "remote-control" | "rc" | "remote" | "sync" | "bridge" => ("hands this machine's sessions to another one", ELSEWHERE),
        "ultrareview" => ("runs on another machine", ELSEWHERE),
        _ => return None,
    };
    Some(Use::Refuse { why: format!("`claude {word}` {why}"), hint: hint.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    fn session(words: &[&str]) -> SessionArgs {
        match classify(&list(words)) {
            Use::Session(args) => args,
            other => panic!("{words:?} is {other:?}"),
        }
    }

    #[test]
    fn a_word_that_is_no_subcommand_is_a_prompt() {
        for words in [&["fix the bug"][..], &["config", "list"], &["usage"], &["-p", "hello"], &[], &["-"], &["fix", "mcp"]] {
            assert_eq!(session(words).rest, list(words));
        }
    }

    #[test]
    fn subcommands_that_do_not_ask_the_model_pass_through_also_behind_options() {
        for words in [
            &["mcp", "list"][..],
            &["--version"],
            &["-v"],
            &["-p", "--help"],
            &["--model", "opus", "doctor"],
            &["--allowedTools", "Bash", "Edit", "--verbose", "plugin", "list"],
            &["auth", "status"],
            &["auto-mode", "defaults"],
            &["setup-token"],
        ] {
            assert!(matches!(classify(&list(words)), Use::PassThrough { .. }), "{words:?}");
        }
    }

    #[test]
    fn what_leaves_the_tree_or_the_machine_is_refused_wherever_it_stands() {
        for words in [
            &["--bg", "hello"][..],
            &["-p", "hello", "--background"],
            &["agents"],
            &["attach", "abc"],
            &["--model", "opus", "stop", "abc"],
            &["daemon", "run"],
            &["remote-control"],
            &["--remote-control"],
            &["-w", "x", "--tmux=classic"],
            &["--cloud", "do it"],
            &["--teleport=abc"],
            &["ultrareview"],
            &["plugin", "eval", "x"],
            &["auto-mode", "critique"],
            &["--managed-settings", "{}"],
            &["--teammate-mode", "tmux"],
            &["--teammate-mode=auto"],
            &["--dangerously-skip-permissions", "daemon", "run"],
        ] {
            assert!(matches!(classify(&list(words)), Use::Refuse { .. }), "{words:?}");
        }
    }

    #[test]
    fn a_value_is_never_taken_for_a_subcommand_or_an_option() {
        for words in [
            &["--append-system-prompt", "mcp", "-p", "hi"][..],
            &["--name", "doctor"],
            &["-n", "stop"],
            &["--resume", "mcp"],
            &["--append-system-prompt", "--bg", "hello"],
            &["--add-dir", "a", "mcp", "--", "hello"],
            &["-w", "agents", "hello"],
        ] {
            assert_eq!(session(words).rest, list(words));
        }
    }

    #[test]
    fn behind_an_option_the_tables_do_not_know_nothing_is_a_subcommand() {
        assert_eq!(session(&["--new-option", "mcp", "list"]).rest, list(&["--new-option", "mcp", "list"]));
    }

    #[test]
    fn the_flags_that_concern_us_are_read_in_every_spelling() {
        let args =
            session(&["-pc", "--settings", "a.json", "--settings={}", "--setting-sources", "user", "--model=opus", "-w", "--bare", "hi"]);
        assert_eq!(
            args,
            SessionArgs {
                print: true,
                continues: true,
                settings: vec!["a.json".to_owned(), "{}".to_owned()],
                setting_sources: Some("user".to_owned()),
                model: Some("opus".to_owned()),
                worktree: true,
                bare: true,
                rest: list(&["-pc", "--setting-sources", "user", "--model=opus", "-w", "--bare", "hi"]),
                ..SessionArgs::default()
            }
        );
        assert!(!args.fresh());
    }

    #[test]
    fn only_a_new_conversation_without_an_id_is_fresh() {
        assert!(session(&["-p", "hi"]).fresh());
        for words in [
            &["-c"][..],
            &["-r"],
            &["-rabc"],
            &["--resume", "abc"],
            &["--session-id", "abc"],
            &["--fork-session", "-c"],
            &["--from-pr", "12"],
        ] {
            assert!(!session(words).fresh(), "{words:?}");
        }
        assert_eq!(session(&["-rabc"]).resume, Some(Some("abc".to_owned())));
        assert_eq!(session(&["-r", "--verbose"]).resume, Some(None));
    }

    #[test]
    fn a_settings_option_behind_a_double_dash_is_prompt_text() {
        let args = session(&["-p", "--", "--settings", "x"]);
        assert_eq!((args.settings.len(), args.rest.len()), (0, 4));
    }
}
