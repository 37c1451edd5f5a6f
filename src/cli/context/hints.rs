//! What stands out in a context, in sentences.

use super::bare;
use super::picture::Sized;
use crate::meter::anatomy::Kind;

/// A file that was read more than once stands out from so many percent on.
const READ_AGAIN: u64 = 10;
/// Any one file does.
const ONE_FILE: u64 = 20;
/// Definitions that nobody used do from so many tokens on.
const UNUSED: u64 = 1_000;
/// Memory files together.
const MEMORY: u64 = 10;
/// Images together.
const IMAGES: u64 = 15;
/// The output of one tool that names no files.
const ONE_TOOL: u64 = 40;

/// Of the parts, the largest first.
pub(super) fn hints(parts: &[Sized]) -> Vec<String> {
    let mut hints = Vec::new();
    let of = |kind: Kind| parts.iter().filter(move |part| part.kind == kind);
    for part in of(Kind::ToolResult) {
        match &part.path {
            Some(path) if part.count > 1 && part.percent >= READ_AGAIN => {
                hints.push(format!("{path} is {} % of the context, read {} times", part.percent, part.count));
            }
            Some(path) if part.percent >= ONE_FILE => hints.push(format!("{path} is {} % of the context", part.percent)),
            None if part.percent >= ONE_TOOL => {
                hints.push(format!("the output of {} is {} % of the context, {} calls", part.name, part.percent, part.count));
            }
            _ => {}
        }
    }
    for server in of(Kind::Mcp).filter(|server| server.calls == 0 && server.tokens >= UNUSED) {
        let definitions = if server.count == 1 { "definition" } else { "definitions" };
        let verb = if server.count == 1 { "costs" } else { "cost" };
        let were = if server.count == 1 { "was" } else { "were" };
        hints.push(format!(
            "{} MCP tool {definitions} of {} {verb} {} tokens and {were} never called",
            server.count,
            server.name,
            bare(server.tokens)
        ));
    }
    let together = |kind: Kind| of(kind).fold((0, 0), |(percent, count), part| (percent + part.percent, count + part.count));
    let ((memory, files), (images, pictures)) = (together(Kind::Memory), together(Kind::Image));
    if memory >= MEMORY {
        hints.push(format!("memory files are {memory} % of the context, {files} of them"));
    }
    if images >= IMAGES {
        hints.push(format!("images are {images} % of the context, {pictures} of them"));
    }
    hints
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(kind: Kind, name: &str, path: Option<&str>, count: u64, percent: u64) -> Sized {
        Sized { kind, name: name.into(), path: path.map(Into::into), bytes: 1, count, calls: 0, tokens: percent * 600, percent }
    }

    #[test]
    fn what_stands_out_is_said_and_nothing_else() {
        let parts = [
            part(Kind::ToolResult, "Read", Some("package-lock.json"), 3, 31),
            part(Kind::Mcp, "shop", None, 42, 30),
            Sized { calls: 1, ..part(Kind::Mcp, "wiki", None, 9, 30) },
            part(Kind::Memory, "CLAUDE.md", None, 1, 11),
            part(Kind::ToolResult, "Read", Some("src/main.rs"), 2, 4),
            part(Kind::ToolResult, "Bash", None, 12, 8),
            part(Kind::Mcp, "tiny", None, 1, 1),
        ];
        assert_eq!(
            hints(&parts),
            [
                "package-lock.json is 31 % of the context, read 3 times",
                "42 MCP tool definitions of shop cost 18k tokens and were never called",
                "memory files are 11 % of the context, 1 of them",
            ]
        );
        assert_eq!(hints(&[]), Vec::<String>::new());
    }
}
