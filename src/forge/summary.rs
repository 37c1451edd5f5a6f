//! What a pull request says about the session it comes from: a section of Markdown between two markers.
//!
//! The section is written anew each time; what people write around it stays. Subjects and file names come from the agent: they stand
//! in code, where they can mention nobody, close no issue and load no image.

use std::fmt::Write as _;

use crate::model::SessionId;

/// More commits or files than this are counted, not listed.
const MOST_LINES: usize = 50;
/// A listed line is cut after so many characters.
const LONGEST_LINE: usize = 160;
const END: &str = "<!-- sentrely:end -->";

/// What is known of the session, in words.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Why it was stopped, if it did not end by itself: said first.
    pub stopped: Option<String>,
    /// Further lines: what and the value.
    pub lines: Vec<(&'static str, String)>,
    /// Refused pushes and requests, each in words.
    pub denials: Vec<String>,
    /// How many commits there are.
    pub commit_count: usize,
    /// Short id and subject of the first of them.
    pub commits: Vec<(String, String)>,
    /// Path and changed lines of every file.
    pub files: Vec<(String, Option<(u64, u64)>)>,
}

/// The section for a session, markers included.
pub fn section(session: SessionId, facts: &Facts) -> String {
    let mut out = format!("{}\n", begin(session));
    if let Some(stopped) = &facts.stopped {
        let _ = write!(out, "> **This session was stopped before it was done:** {}\n\n", code(stopped));
    }
    for (what, value) in &facts.lines {
        let _ = writeln!(out, "- {what}: {}", code(value));
    }
    let (added, removed) = facts.files.iter().filter_map(|(_, lines)| *lines).fold((0, 0), |sum, lines| (sum.0 + lines.0, sum.1 + lines.1));
    let (commits, files) = (counted(facts.commit_count, "commit"), counted(facts.files.len(), "file"));
    let _ = write!(out, "\n**{commits}, {files} changed, +{added} −{removed}**\n\n");
    let commits: Vec<String> = facts.commits.iter().map(|(id, subject)| format!("{id} {subject}")).collect();
    out += &block(&commits, facts.commit_count);
    let files = facts.files.iter().map(|(path, lines)| match lines {
        Some((added, removed)) => format!("{path} | +{added} -{removed}"),
        None => format!("{path} | binary"),
    });
    out += &block(&files.collect::<Vec<_>>(), facts.files.len());
    if !facts.denials.is_empty() {
        out += "\n**Refused to the session**\n\n";
        out += &block(&facts.denials, facts.denials.len());
    }
    out + END
}

/// `body` with the section of this session put in its place, or at its end.
pub fn put(body: &str, session: SessionId, section: &str) -> String {
    let begin = begin(session);
    if let Some(from) = body.find(&begin)
        && let Some(length) = body[from..].find(END)
    {
        return format!("{}{section}{}", &body[..from], &body[from + length + END.len()..]);
    }
    if body.trim().is_empty() { section.to_owned() } else { format!("{}\n\n{section}", body.trim_end()) }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn begin(session: SessionId) -> String {
    format!("<!-- sentrely:begin id={session} -->")
}

/// One line without control characters, cut where it is endless.
fn line(text: &str) -> String {
    // A marker within the section would end it too early the next time.
    let clean: String = text.replace("<!--", "<! --").chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let clean = clean.trim();
    if clean.chars().count() <= LONGEST_LINE { clean.to_owned() } else { clean.chars().take(LONGEST_LINE - 1).chain(['…']).collect() }
}

/// The longest run of backticks in the text.
fn ticks(text: &str) -> usize {
    text.split(|c| c != '`').map(str::len).max().unwrap_or_default()
}

/// A code span, whatever the text holds.
fn code(text: &str) -> String {
    let text = line(text);
    let fence = "`".repeat(ticks(&text) + 1);
    if text.contains('`') { format!("{fence} {text} {fence}") } else { format!("{fence}{text}{fence}") }
}

/// A code block of at most [`MOST_LINES`] lines, whatever they hold.
fn block(lines: &[String], all: usize) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let mut shown: Vec<String> = lines.iter().take(MOST_LINES).map(|text| line(text)).collect();
    if all > shown.len() {
        shown.push(format!("… and {} more", all - shown.len()));
    }
    let fence = "`".repeat(shown.iter().map(|text| ticks(text)).max().unwrap_or_default().max(2) + 1);
    format!("{fence}text\n{}\n{fence}\n", shown.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id() -> SessionId {
        "44f8835b-2232-46e1-b0dc-aa2044faca21".parse().unwrap()
    }

    #[test]
    fn a_stopped_session_says_so_first_and_everything_of_the_agent_stands_in_code() {
        let facts = Facts {
            stopped: Some("its budget of $5.00 was reached".into()),
            lines: vec![("session", "44f8835b".into())],
            denials: vec!["push of main".into()],
            commit_count: 2,
            commits: vec![("abc1234".into(), "Fix @everyone, closes #1 ```".into()), ("def5678".into(), "More".into())],
            files: vec![("src/a.rs".into(), Some((3, 1))), ("logo.png".into(), None)],
        };
        insta::assert_snapshot!(section(id(), &facts), @r"
        <!-- sentrely:begin id=44f8835b-2232-46e1-b0dc-aa2044faca21 -->
        > **This session was stopped before it was done:** `its budget of $5.00 was reached`

        - session: `44f8835b`

        **2 commits, 2 files changed, +3 −1**

        ````text
        abc1234 Fix @everyone, closes #1 ```
        def5678 More
        ````
        ```text
        src/a.rs | +3 -1
        logo.png | binary
        ```

        **Refused to the session**

        ```text
        push of main
        ```
        <!-- sentrely:end -->
        ");
    }

    #[test]
    fn what_people_wrote_around_the_section_stays() {
        let (first, second) = (section(id(), &Facts::default()), section(id(), &Facts { commit_count: 3, ..Facts::default() }));
        let body = put("Please review.\n", id(), &first);
        let body = format!("{body}\n\nLooks good.");
        let body = put(&body, id(), &second);
        assert!(body.starts_with("Please review.\n\n<!-- sentrely:begin") && body.ends_with("\n\nLooks good."), "{body}");
        assert!(body.contains("**3 commits") && !body.contains("**0 commits"));
        assert_eq!(put(&body, id(), &second), body);
    }

    proptest! {
        /// Nothing the agent wrote gets out of its code span or block.
        #[test]
        fn code_stays_code(text in "[`~a-z \n\r\t<>!-]{0,60}") {
            let span = code(&text);
            let fence = span.len() - span.trim_start_matches('`').len();
            prop_assert!(text.trim().is_empty() || ticks(span[fence..span.len() - fence].trim()) < fence.max(1));
            prop_assert!(!span.contains('\n'));
            let listed = block(&[text], 1);
            let fence = listed.lines().next().unwrap().trim_end_matches("text");
            prop_assert_eq!(listed.lines().filter(|line| line.starts_with(fence)).count(), 2);
        }

        /// The section is found again, whatever stands around it.
        #[test]
        fn putting_twice_is_putting_once(before in "[a-z\n<!-]{0,40}", after in "[a-z\n<!-]{0,40}") {
            let section = section(id(), &Facts::default());
            let body = format!("{}\n{after}", put(&before, id(), &section));
            prop_assert_eq!(put(&body, id(), &section), body);
        }
    }
}
