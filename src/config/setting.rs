//! How a value is read from what somebody wrote, shown and tightened; and that for plain types. sentrely's own types are in `values`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::SignedDuration;
use serde_json::Value as Json;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A value as somebody wrote it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Raw<'a> {
    /// What was written.
    pub(super) value: &'a Spanned<DeValue<'a>>,
    /// From a variable or a flag: numbers and truth values come as text there.
    pub(super) loose: bool,
    /// What relative paths are relative to.
    pub(super) base: &'a Path,
    /// What `~/` stands for.
    pub(super) home: Option<&'a Path>,
}

/// Why a value cannot be taken, and which part of it is to blame.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) message: String,
    pub(super) hint: Option<String>,
    pub(super) span: Range<usize>,
}

/// How a text that is no TOML string is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// Always as the value itself.
    Scalar,
    /// As items between commas, or as TOML when it begins with `[`.
    List,
    /// As TOML.
    Table,
}

/// A type that a key can have.
pub(super) trait Setting: Clone + PartialEq {
    /// What `--schema` calls it.
    const KIND: &'static str;
    /// How a variable or a flag writes it.
    const SHAPE: Shape = Shape::Scalar;

    /// From what was written.
    fn read(raw: Raw<'_>) -> Result<Self, Problem>;

    /// For people and for JSON; reads back as itself where it is no secret.
    fn show(&self) -> Json;

    /// Makes this no looser than `ceiling`. For types without an order: the ceiling's value.
    fn tighten(&mut self, ceiling: &Self) {
        self.clone_from(ceiling);
    }
}

impl<'a> Raw<'a> {
    pub(super) fn with(self, value: &'a Spanned<DeValue<'a>>) -> Self {
        Self { value, ..self }
    }

    pub(super) fn problem(self, message: impl Into<String>) -> Problem {
        Problem { message: message.into(), hint: None, span: self.value.span() }
    }

    pub(super) fn wrong_type(self, expected: &str) -> Problem {
        self.problem(format!("expected {expected}, found {}", with_article(self.value.get_ref())))
    }

    pub(super) fn text(self, expected: &str) -> Result<&'a str, Problem> {
        self.value.get_ref().as_str().ok_or_else(|| self.wrong_type(expected))
    }

    /// Integers as they are written, so that nothing passes through a float.
    pub(super) fn number(self, expected: &str) -> Result<&'a str, Problem> {
        match self.value.get_ref() {
            DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str()),
            DeValue::String(text) if self.loose => Ok(text),
            _ => Err(self.wrong_type(expected)),
        }
    }

    pub(super) fn items(self, expected: &str) -> Result<Vec<Self>, Problem> {
        match self.value.get_ref() {
            DeValue::Array(items) => Ok(items.iter().map(|item| self.with(item)).collect()),
            _ => Err(self.wrong_type(expected)),
        }
    }

    pub(super) fn table(self, expected: &str) -> Result<&'a DeTable<'a>, Problem> {
        self.value.get_ref().as_table().ok_or_else(|| self.wrong_type(expected))
    }

    pub(super) fn path(self, expected: &str) -> Result<PathBuf, Problem> {
        let text = String::read(self).map_err(|problem| Problem { message: problem.message.replace(String::KIND, expected), ..problem })?;
        match text.strip_prefix("~/") {
            None => Ok(self.base.join(text)),
            Some(rest) => self.home.map(|home| home.join(rest)).ok_or_else(|| self.problem("`~` means nothing: HOME is not set")),
        }
    }
}

/// `a string`, `an integer`: never the value, which may be a secret in the wrong place.
fn with_article(value: &DeValue<'_>) -> String {
    let name = value.type_str();
    let article = if name.starts_with(['a', 'i']) { "an" } else { "a" };
    format!("{article} {name}")
}

impl<T: Setting> Setting for Option<T> {
    const KIND: &'static str = T::KIND;
    const SHAPE: Shape = T::SHAPE;

    fn read(raw: Raw<'_>) -> Result<Self, Problem> {
        T::read(raw).map(Some)
    }

    fn show(&self) -> Json {
        self.as_ref().map_or(Json::Null, T::show)
    }

    /// Unset is the loosest.
    fn tighten(&mut self, ceiling: &Self) {
        match (&mut *self, ceiling) {
            (_, None) => {}
            (None, Some(_)) => self.clone_from(ceiling),
            (Some(value), Some(ceiling)) => value.tighten(ceiling),
        }
    }
}

impl Setting for String {
    const KIND: &'static str = "text";

    fn read(raw: Raw<'_>) -> Result<Self, Problem> {
        let text = raw.text(Self::KIND)?;
        if text.trim().is_empty() {
            return Err(raw.problem("it is empty"));
        }
        if text.contains(char::is_control) {
            return Err(raw.problem("it holds control characters"));
        }
        Ok(text.to_owned())
    }

    fn show(&self) -> Json {
        Json::from(self.as_str())
    }
}

impl Setting for bool {
    const KIND: &'static str = "true or false";

    fn read(raw: Raw<'_>) -> Result<Self, Problem> {
        match raw.value.get_ref() {
            DeValue::Boolean(value) => Ok(*value),
            DeValue::String(text) if raw.loose => text.parse().map_err(|_| raw.problem(format!("expected true or false, found `{text}`"))),
            _ => Err(raw.wrong_type(Self::KIND)),
        }
    }

    fn show(&self) -> Json {
        Json::from(*self)
    }
}

impl Setting for u32 {
    const KIND: &'static str = "whole number";

    fn read(raw: Raw<'_>) -> Result<Self, Problem> {
        let text = raw.number("a whole number")?;
        text.parse().map_err(|_| raw.problem(format!("expected a whole number from 0 up, found `{text}`")))
    }

    fn show(&self) -> Json {
        Json::from(*self)
    }

    /// Numbers that may be tightened are counts at which something is done: the sooner, the stricter.
    fn tighten(&mut self, ceiling: &Self) {
        *self = (*self).min(*ceiling);
    }
}

impl Setting for Duration {
    const KIND: &'static str = "duration like 45s, 90m or 2h";

    fn read(raw: Raw<'_>) -> Result<Self, Problem> {
        let text = raw.text("a duration like 45s, 90m or 2h")?;
        let bad = || raw.problem(format!("read `{text}` as a duration: expected one like 45s, 90m or 2h"));
        // The ISO form (PT2H), which the parser takes too, would be a second way to say the same.
        if !text.trim_start().starts_with(|c: char| c.is_ascii_digit() || c == '-') {
            return Err(bad());
        }
        let signed: SignedDuration = text.trim().parse().map_err(|_| bad())?;
        Self::try_from(signed).map_err(|_| raw.problem(format!("read `{text}` as a duration: it is negative")))
    }

    fn show(&self) -> Json {
        Json::from(SignedDuration::try_from(*self).map_or_else(|_| format!("{}s", self.as_secs()), |duration| format!("{duration:#}")))
    }

    fn tighten(&mut self, ceiling: &Self) {
        *self = (*self).min(*ceiling);
    }
}

impl Setting for PathBuf {
    const KIND: &'static str = "path";

    fn read(raw: Raw<'_>) -> Result<Self, Problem> {
        raw.path(Self::KIND)
    }

    fn show(&self) -> Json {
        Json::from(self.display().to_string())
    }
}

/// One text stands for its items between commas: what variables and flags have instead of lists, and a convenience in files.
pub(super) fn read_list<T>(raw: Raw<'_>, kind: &str, mut item: impl FnMut(Raw<'_>) -> Result<T, Problem>) -> Result<Vec<T>, Problem> {
    let DeValue::String(text) = raw.value.get_ref() else {
        return raw.items(&format!("a {kind}"))?.into_iter().map(item).collect();
    };
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts.map(|part| item(raw.with(&Spanned::new(raw.value.span(), DeValue::String(part.into()))))).collect()
}

impl Setting for Vec<String> {
    const KIND: &'static str = "list of texts";
    const SHAPE: Shape = Shape::List;

    fn read(raw: Raw<'_>) -> Result<Self, Problem> {
        read_list(raw, Self::KIND, String::read)
    }

    fn show(&self) -> Json {
        Json::from(self.as_slice())
    }

    /// More is stricter: only lists of what is forbidden are ever tightened.
    fn tighten(&mut self, ceiling: &Self) {
        let missing: Self = ceiling.iter().filter(|item| !self.contains(item)).cloned().collect();
        self.extend(missing);
    }
}

impl Setting for Vec<PathBuf> {
    const KIND: &'static str = "list of paths";
    const SHAPE: Shape = Shape::List;

    fn read(raw: Raw<'_>) -> Result<Self, Problem> {
        read_list(raw, Self::KIND, PathBuf::read)
    }

    fn show(&self) -> Json {
        self.iter().map(|path| Json::from(path.to_string_lossy())).collect::<Vec<_>>().into()
    }
}

impl Setting for Vec<u32> {
    const KIND: &'static str = "list of percents";
    const SHAPE: Shape = Shape::List;

    fn read(raw: Raw<'_>) -> Result<Self, Problem> {
        let mut percents = read_list(raw, Self::KIND, |item| {
            let percent = u32::read(Raw { loose: item.loose || raw.value.get_ref().is_str(), ..item })?;
            if (1..=100).contains(&percent) {
                Ok(percent)
            } else {
                Err(item.problem(format!("expected a percent from 1 to 100, found {percent}")))
            }
        })?;
        percents.sort_unstable();
        percents.dedup();
        Ok(percents)
    }

    fn show(&self) -> Json {
        Json::from(self.as_slice())
    }

    /// More warnings are stricter.
    fn tighten(&mut self, ceiling: &Self) {
        self.extend(ceiling);
        self.sort_unstable();
        self.dedup();
    }
}

impl Setting for BTreeMap<String, String> {
    const KIND: &'static str = "table of texts";
    const SHAPE: Shape = Shape::Table;

    fn read(raw: Raw<'_>) -> Result<Self, Problem> {
        let table = raw.table("a table of texts")?;
        table.iter().map(|(name, value)| Ok((name.get_ref().to_string(), raw.with(value).text("text")?.to_owned()))).collect()
    }

    /// Names only: a value set for the child may well be a secret.
    fn show(&self) -> Json {
        self.keys().map(|name| (name.clone(), Json::from("(set)"))).collect::<serde_json::Map<_, _>>().into()
    }
}
