//! What fills a conversation's context: the body of a request taken apart into named sizes. Pure.
//!
//! Nothing of what a body says is kept: only kinds, names of tools and MCP servers, paths of files and sizes (invariant I6). The API says how
//! many tokens a prompt has as a whole; [`Anatomy::tokens`] shares them out by the bytes of text, so their sum is the API's own number and each
//! part's an estimate.
//!
//! The recognisable forms are those of Claude Code 2.1.197 and 2.1.330 (measured); what is not recognised counts by its role, and a body that
//! is no request counts as unknown rather than as something.

mod blocks;
mod memory;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use self::blocks::{Content, Definition, each, mcp_server, weight};

/// Tokens of an image whose size is not known: the most that one has.
const TOKENS_PER_IMAGE: u64 = 1_600;
/// Names in a body are of the client's making: so many parts are told apart, what is beyond them is one part of its kind.
const MAX_PARTS: usize = 2_000;
/// Calls of tools that are remembered, to know what their results belong to.
const MAX_CALLS: usize = 100_000;
/// A longer name is cut.
const MAX_NAME: usize = 300;
/// What parts without a place of their own are called.
const OTHERS: &str = "(others)";

/// What kind of thing fills the context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The system prompt, and what the client adds to the conversation by itself: environment, skills, reminders.
    System,
    /// Definitions of the client's own tools.
    Tools,
    /// Definitions of an MCP server's tools; the name is the server's.
    Mcp,
    /// A memory file (`CLAUDE.md` and what it imports); the name is its path.
    Memory,
    /// What the user said.
    User,
    /// What the model said and thought.
    Assistant,
    /// The input of a tool's calls; the name is the tool's.
    ToolCall,
    /// What a tool gave; the name is the tool's.
    ToolResult,
    /// Images and documents.
    Image,
}

/// One part of a context.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// What it is.
    pub kind: Kind,
    /// Which: a tool, a server, a file; empty where there is only one.
    pub name: String,
    /// The file that a call, a result or an image is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Bytes of text.
    pub bytes: u64,
    /// Tokens that do not come from text: images and documents.
    #[serde(default)]
    pub fixed_tokens: u64,
    /// How many there are: definitions, results, messages.
    pub count: u64,
    /// For definitions: calls of these tools, now and before the conversation was compacted.
    #[serde(default)]
    pub calls: u64,
}

/// A request's body taken apart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anatomy {
    /// Bytes of the body.
    pub body_bytes: u64,
    /// Its parts, by kind and name.
    pub parts: Vec<Part>,
}

/// The body is no request that could be taken apart.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("take the request apart: {0}")]
pub struct Unknown(String);

/// The fields of a request that fill the context. What else it holds is settings.
#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow, default)]
    system: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tools: Option<&'a RawValue>,
    #[serde(borrow)]
    messages: &'a RawValue,
}

impl Anatomy {
    /// Takes a body apart.
    ///
    /// # Errors
    /// It is no JSON object with a list of messages.
    pub fn of(body: &[u8]) -> Result<Self, Unknown> {
        let unknown = |error: serde_json::Error| Unknown(error.to_string());
        let parsed: Body<'_> = serde_json::from_slice(body).map_err(unknown)?;
        let mut taking = Taking::default();
        // Messages first: they say which deferred tools were loaded.
        taking.messages(parsed.messages).map_err(unknown)?;
        if let Some(system) = parsed.system {
            taking.system(system);
        }
        if let Some(tools) = parsed.tools {
            taking.definitions(tools);
        }
        Ok(Self { body_bytes: body.len() as u64, parts: taking.parts() })
    }

    /// The same, knowing what was seen earlier in the session: calls that a compaction has swept away still count.
    #[must_use]
    pub fn after(mut self, earlier: &Self) -> Self {
        let before: BTreeMap<(Kind, &str), u64> = earlier.parts.iter().map(|part| ((part.kind, part.name.as_str()), part.calls)).collect();
        for part in self.parts.iter_mut().filter(|part| matches!(part.kind, Kind::Tools | Kind::Mcp)) {
            part.calls = part.calls.max(before.get(&(part.kind, part.name.as_str())).copied().unwrap_or(0));
        }
        self
    }

    /// The prompt's tokens shared out to the parts, in their order. The sum is `prompt`, unless there are no parts at all.
    pub fn tokens(&self, prompt: u64) -> Vec<u64> {
        let fixed: u64 = self.parts.iter().map(|part| part.fixed_tokens).sum();
        let text: u64 = self.parts.iter().map(|part| part.bytes).sum();
        if text == 0 || fixed >= prompt {
            return share_out(prompt, self.parts.iter().map(|part| part.fixed_tokens.max(u64::from(fixed == 0))));
        }
        let shares = share_out(prompt - fixed, self.parts.iter().map(|part| part.bytes));
        shares.into_iter().zip(&self.parts).map(|(share, part)| share + part.fixed_tokens).collect()
    }
}

/// Shares `whole` out by weight, exactly: what rounding leaves goes to those who lost most by it.
fn share_out(whole: u64, weights: impl Iterator<Item = u64>) -> Vec<u64> {
    let weights: Vec<u64> = weights.collect();
    let sum: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
    if sum == 0 {
        return weights;
    }
    let exact = |weight: u64| u128::from(whole) * u128::from(weight);
    let mut shares: Vec<u64> = weights.iter().map(|weight| u64::try_from(exact(*weight) / sum).unwrap_or(u64::MAX)).collect();
    let left = whole - shares.iter().sum::<u64>();
    let mut by_loss: Vec<usize> = (0..weights.len()).collect();
    by_loss.sort_by_key(|at| std::cmp::Reverse(exact(weights[*at]) % sum));
    for at in by_loss.into_iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
        shares[at] += 1;
    }
    shares
}

/// Taking one body apart.
#[derive(Default)]
struct Taking<'a> {
    parts: BTreeMap<(Kind, String, Option<String>), Sums>,
    /// What the calls of tools were, by their ids.
    calls: HashMap<&'a str, Call<'a>>,
    /// How often each tool was called.
    called: BTreeMap<String, u64>,
    /// Deferred tools that the conversation has loaded.
    loaded: BTreeSet<String>,
    /// The file that the client has read because the user named it, before its content comes.
    attached: Option<String>,
}

#[derive(Clone, Copy, Default)]
struct Sums {
    bytes: u64,
    fixed_tokens: u64,
    count: u64,
    calls: u64,
}

/// A tool's call.
#[derive(Clone)]
struct Call<'a> {
    tool: &'a str,
    path: Option<String>,
}

impl<'a> Taking<'a> {
    fn parts(self) -> Vec<Part> {
        let part = |((kind, name, path), sums): ((Kind, String, Option<String>), Sums)| Part {
            kind,
            name,
            path,
            bytes: sums.bytes,
            fixed_tokens: sums.fixed_tokens,
            count: sums.count,
            calls: sums.calls,
        };
        self.parts.into_iter().map(part).collect()
    }

    fn add(&mut self, kind: Kind, name: &str, path: Option<&str>, bytes: u64) -> &mut Sums {
        let mut key = (kind, cut(name), path.map(cut));
        if self.parts.len() >= MAX_PARTS && !self.parts.contains_key(&key) {
            key = (kind, OTHERS.to_owned(), None);
        }
        let sums = self.parts.entry(key).or_default();
        sums.bytes += bytes;
        sums.count += 1;
        sums
    }

    fn image(&mut self, path: Option<&str>, tokens: u64) {
        self.add(Kind::Image, "", path, 0).fixed_tokens += tokens;
    }

    fn system(&mut self, system: &'a RawValue) {
        if system.get().starts_with('[') {
            let counted = each(system, |block: &RawValue| {
                let content = Content::of(block);
                let bytes = content.text.map_or_else(|| weight(block), weight);
                self.add(Kind::System, "prompt", None, bytes);
            });
            if counted.is_ok() {
                return;
            }
        }
        self.add(Kind::System, "prompt", None, weight(system));
    }

    fn definitions(&mut self, tools: &'a RawValue) {
        // A list that cannot be read on stays counted up to there: the API would not have taken it.
        let _ = each(tools, |raw: &RawValue| {
            let definition = Definition::of(raw);
            let name = definition.name.as_deref().unwrap_or_default();
            // The model sees nothing of a deferred tool before it is loaded.
            if definition.deferred && !self.loaded.contains(name) {
                return;
            }
            let called = self.called.get(name).copied().unwrap_or(0);
            let sums = match mcp_server(name) {
                Some(server) => self.add(Kind::Mcp, server, None, weight(raw)),
                None => self.add(Kind::Tools, "", None, weight(raw)),
            };
            sums.calls += called;
        });
    }
}

/// A name of bearable length. Of a path the end says more.
fn cut(name: &str) -> String {
    if name.len() <= MAX_NAME {
        return name.to_owned();
    }
    let from = (name.len() - MAX_NAME..name.len()).find(|at| name.is_char_boundary(*at)).unwrap_or(name.len());
    format!("…{}", &name[from..])
}

#[cfg(test)]
mod tests;
