//! How the configuration's own types are read, shown and tightened: names, limits, prices, secrets, words.

use std::collections::BTreeMap;

use serde_json::Value as Json;
use toml::de::DeValue;

use super::schema::nearest;
use super::setting::{Problem, Raw, Setting, Shape, read_list};
use super::{
    Delivery, Network, OnBudget, OnContext, OnCredentialsLost, Payer, Percent, Price, Push, SecretRef, SharedLimits, Slug, Strict,
    UnknownModels, WallMode, Workspace,
};
use crate::model::{Limit, LimitError, Usd, UsdError};

impl Setting for Slug {
    const KIND: &'static str = "name of small letters, digits and dashes";

    fn read(raw: Raw<'_>) -> Result<Self, Problem> {
        let text = raw.text("a name")?;
        let bad = || raw.problem(format!("read `{text}` as a name: expected at most 40 small letters, digits and single dashes"));
        Self::new(text).ok_or_else(bad)
    }

    fn show(&self) -> Json {
        Json::from(self.as_str())
    }
}

impl Setting for Usd {
    const KIND: &'static str = "amount of dollars like 5usd";

    fn read(raw: Raw<'_>) -> Result<Self, Problem> {
        let text = raw.text("an amount of dollars like 5usd")?;
        match text.parse::<Limit>() {
            Ok(Limit::Usd(amount)) => Ok(amount),
            Ok(_) => Err(raw.problem(format!("read `{text}` as an amount: expected dollars like 5usd"))),
            Err(error) => Err(raw.problem(error.to_string())),
        }
    }

    fn show(&self) -> Json {
        Json::from(format!("{self}usd"))
    }

    /// An amount that may be tightened is one at which something is done.
    fn tighten(&mut self, ceiling: &Self) {
        *self = (*self).min(*ceiling);
    }
}

impl Setting for Vec<Limit> {
    const KIND: &'static str = "list of limits like 5usd, 2Mtok or 200req";
    const SHAPE: Shape = Shape::List;

    fn read(raw: Raw<'_>) -> Result<Self, Problem> {
        let mut limits = Self::new();
        read_list(raw, Self::KIND, |item| {
            let text = item.text("a limit like 5usd, 2Mtok or 200req")?;
            let limit: Limit = text.parse().map_err(|error: LimitError| item.problem(error.to_string()))?;
            if limits.iter().any(|known| known.kind() == limit.kind()) {
                return Err(item.problem(format!("`{text}` is a second limit of the same unit")));
            }
            limits.push(limit);
            Ok(())
        })?;
        Ok(limits)
    }

    fn show(&self) -> Json {
        self.iter().map(|limit| limit.typed()).collect()
    }

    /// The lower limit of each unit; a unit without a limit is unlimited.
    fn tighten(&mut self, ceiling: &Self) {
        for bound in ceiling {
            match self.iter_mut().find(|limit| limit.kind() == bound.kind()) {
                Some(limit) => *limit = limit.tighter(*bound),
                None => self.push(*bound),
            }
        }
    }
}

/// The shared limits by name.
#[expect(clippy::type_complexity, reason = "a name and where it goes")]
const SCOPES: [(&str, fn(&mut SharedLimits) -> &mut Option<Usd>); 3] =
    [("developer", |limits| &mut limits.developer), ("project", |limits| &mut limits.project), ("machine", |limits| &mut limits.machine)];

impl Setting for SharedLimits {
    const KIND: &'static str = "table of amounts like { developer = \"20usd\", project = \"50usd\", machine = \"100usd\" }";
    const SHAPE: Shape = Shape::Table;

    fn read(raw: Raw<'_>) -> Result<Self, Problem> {
        let mut limits = Self::default();
        for (name, value) in raw.table(&format!("a {}", Self::KIND))? {
            let Some((_, limit)) = SCOPES.iter().find(|(known, _)| *known == name.get_ref()) else {
                let hint = nearest(name.get_ref(), SCOPES.iter().map(|(known, _)| *known)).map(|known| format!("did you mean `{known}`?"));
                let message = format!("`{}` shares no limit: expected developer, project or machine", name.get_ref());
                return Err(Problem { message, hint, span: name.span() });
            };
            *limit(&mut limits) = Some(Usd::read(raw.with(value))?);
        }
        Ok(limits)
    }

    fn show(&self) -> Json {
        let mut limits = *self;
        let set = SCOPES.iter().filter_map(|(name, limit)| limit(&mut limits).map(|limit| ((*name).to_owned(), Setting::show(&limit))));
        let set: serde_json::Map<_, _> = set.collect();
        if set.is_empty() { Json::Null } else { Json::Object(set) }
    }

    /// The lower of each; unset is the loosest.
    fn tighten(&mut self, ceiling: &Self) {
        let mut ceiling = *ceiling;
        for (_, limit) in SCOPES {
            limit(self).tighten(limit(&mut ceiling));
        }
    }
}

impl Setting for BTreeMap<String, Price> {
    const KIND: &'static str = "table of prices by model, in USD per million tokens";
    const SHAPE: Shape = Shape::Table;

    fn read(raw: Raw<'_>) -> Result<Self, Problem> {
        let table = raw.table("a table by model, like [prices.\"claude-sonnet-5\"]")?;
        table.iter().map(|(model, price)| Ok((model.get_ref().to_string(), read_price(raw.with(price))?))).collect()
    }

    fn show(&self) -> Json {
        let models = self.iter().map(|(model, price)| {
            let mut price = *price;
            let rates = PRICE_FIELDS
                .iter()
                .filter_map(|(name, rate)| rate(&mut price).map(|rate| ((*name).to_owned(), Json::from(rate.to_string()))));
            (model.clone(), Json::Object(rates.collect()))
        });
        Json::Object(models.collect())
    }
}

/// The rates of `[prices."model"]` by name.
#[expect(clippy::type_complexity, reason = "a name and where it goes")]
const PRICE_FIELDS: [(&str, fn(&mut Price) -> &mut Option<Usd>); 5] = [
    ("input", |price| &mut price.input),
    ("output", |price| &mut price.output),
    ("cache_write_5m", |price| &mut price.cache_write_5m),
    ("cache_write_1h", |price| &mut price.cache_write_1h),
    ("cache_read", |price| &mut price.cache_read),
];

fn read_price(raw: Raw<'_>) -> Result<Price, Problem> {
    let mut price = Price::default();
    for (name, value) in raw.table("a table of rates")? {
        let Some((_, rate)) = PRICE_FIELDS.iter().find(|(known, _)| *known == name.get_ref()) else {
            let hint =
                nearest(name.get_ref(), PRICE_FIELDS.iter().map(|(known, _)| *known)).map(|known| format!("did you mean `{known}`?"));
            return Err(Problem { message: format!("unknown rate `{}`", name.get_ref()), hint, span: name.span() });
        };
        *rate(&mut price) = Some(read_rate(raw.with(value))?);
    }
    if price == Price::default() {
        return Err(raw.problem("expected at least one rate: input, output, cache_write_5m, cache_write_1h or cache_read"));
    }
    Ok(price)
}

/// The decimal text is taken as it stands: 0.1 is not a binary number.
fn read_rate(raw: Raw<'_>) -> Result<Usd, Problem> {
    let text = match raw.value.get_ref() {
        DeValue::Float(number) => number.as_str(),
        DeValue::String(text) => text,
        _ => raw.number("an amount like 3 or \"0.30\"")?,
    };
    let rate: Usd = text.parse().map_err(|error: UsdError| raw.problem(error.to_string()))?;
    if rate.pico().is_multiple_of(1_000_000) {
        Ok(rate)
    } else {
        Err(raw.problem(format!("`{text}` USD per million tokens is finer than a pico-dollar a token: write at most 6 decimals")))
    }
}

impl Setting for SecretRef {
    const KIND: &'static str = "{ env = \"NAME\" }, { file = \"path\" } or { command = [\"program\", ..] }";
    const SHAPE: Shape = Shape::Table;

    fn read(raw: Raw<'_>) -> Result<Self, Problem> {
        const EXPECTED: &str = "a reference: { env = \"NAME\" }, { file = \"path\" } or { command = [\"program\", ..] }";
        let table = raw.table(EXPECTED)?;
        let mut entries = table.iter();
        let (Some((name, value)), None) = (entries.next(), entries.next()) else {
            return Err(raw.problem(format!("expected {EXPECTED}")));
        };
        let raw = raw.with(value);
        match &**name.get_ref() {
            "env" => String::read(raw).map(Self::Env),
            "file" => raw.path("a path").map(Self::File),
            "command" => {
                let words: Vec<String> =
                    raw.items("a list: the program and its arguments")?.into_iter().map(String::read).collect::<Result<_, _>>()?;
                if words.is_empty() { Err(raw.problem("it is empty")) } else { Ok(Self::Command(words)) }
            }
            _ => Err(Problem { message: format!("expected {EXPECTED}"), hint: None, span: name.span() }),
        }
    }

    fn show(&self) -> Json {
        Json::from(self.to_string())
    }
}

impl Setting for Percent {
    const KIND: &'static str = "percent from 1 to 100";

    fn read(raw: Raw<'_>) -> Result<Self, Problem> {
        match u32::read(raw)? {
            percent @ 1..=100 => Ok(Self(percent)),
            other => Err(raw.problem(format!("expected a percent from 1 to 100, found {other}"))),
        }
    }

    fn show(&self) -> Json {
        Json::from(self.0)
    }

    fn tighten(&mut self, ceiling: &Self) {
        *self = (*self).min(*ceiling);
    }
}

impl Setting for Strict {
    const KIND: &'static str = bool::KIND;

    fn read(raw: Raw<'_>) -> Result<Self, Problem> {
        bool::read(raw).map(Self)
    }

    fn show(&self) -> Json {
        Json::from(self.0)
    }

    fn tighten(&mut self, ceiling: &Self) {
        *self = (*self).max(*ceiling);
    }
}

/// A type whose values are words, in the order of strictness.
macro_rules! words {
    ($type:ident, $kind:literal, $($word:literal => $value:ident),+) => {
        impl Setting for $type {
            const KIND: &'static str = $kind;

            fn read(raw: Raw<'_>) -> Result<Self, Problem> {
                let text = raw.text($kind)?;
                match text {
                    $($word => Ok(Self::$value),)+
                    _ => Err(Problem { hint: unknown_word(text, &[$($word),+]), ..raw.problem(format!("expected {}, found `{text}`", $kind)) }),
                }
            }

            fn show(&self) -> Json {
                Json::from(match self { $(Self::$value => $word),+ })
            }

            fn tighten(&mut self, ceiling: &Self) {
                *self = (*self).max(*ceiling);
            }
        }
    };
}

words!(Workspace, "\"clone\", \"same-path\", \"in-place\" or \"none\"", "none" => None, "in-place" => InPlace, "same-path" => SamePath, "clone" => Clone);
words!(OnBudget, "\"stop\" or \"refuse\"", "refuse" => Refuse, "stop" => Stop);
words!(OnContext, "\"warn\" or \"stop\"", "warn" => Warn, "stop" => Stop);
words!(Payer, "\"key\", \"subscription\", \"bedrock\" or \"vertex\"", "key" => Key, "subscription" => Subscription, "bedrock" => Bedrock, "vertex" => Vertex);
words!(UnknownModels, "\"estimate\" or \"refuse\"", "estimate" => Estimate, "refuse" => Refuse);
words!(Delivery, "\"endpoint\" or \"env\"", "env" => Env, "endpoint" => Endpoint);
words!(OnCredentialsLost, "\"stop\" or \"continue\"", "continue" => Continue, "stop" => Stop);
words!(Network, "\"open\" or \"services\"", "open" => Open, "services" => Services);
words!(Push, "\"auto\", \"hold\" or \"direct\"", "direct" => Direct, "auto" => Auto, "hold" => Hold);
words!(WallMode, "\"auto\", \"require\" or \"off\"", "off" => Off, "auto" => Auto, "require" => Require);

fn unknown_word(text: &str, known: &[&'static str]) -> Option<String> {
    nearest(text, known.iter().copied()).map(|word| format!("did you mean `{word}`?"))
}
