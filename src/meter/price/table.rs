//! The prices of all models: a dated table in the binary, and the user's own entries in front of it.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::ids::{Id, Place};
use super::{Found, ModelPrice, Rates};
use crate::model::Usd;

/// The prices of all models.
#[derive(Debug, Clone, Default)]
pub struct PriceTable {
    /// The day the built-in table was read.
    pub dated: String,
    models: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    price: ModelPrice,
    /// Rates of long prompts that only these clouds have.
    cloud_long: Option<(Vec<Cloud>, u64, Rates)>,
    /// A cloud's regional endpoint costs as much as any other.
    same_everywhere: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Cloud {
    Bedrock,
    Vertex,
}

const FAMILIES: [&str; 5] = ["opus", "sonnet", "haiku", "fable", "mythos"];

/// Why a price table is not usable.
#[derive(Debug, thiserror::Error)]
#[error("read the built-in price table")]
pub struct PriceError(#[from] toml::de::Error);

#[derive(Deserialize)]
struct TableFile {
    dated: String,
    models: BTreeMap<String, ModelFile>,
}

#[derive(Deserialize)]
struct ModelFile {
    #[serde(default)]
    also: Vec<String>,
    #[serde(flatten)]
    rates: RatesFile,
    fast: Option<RatesFile>,
    long_above: Option<u64>,
    long: Option<RatesFile>,
    window: Option<u64>,
    #[serde(default)]
    window_1m_beta: bool,
    #[serde(default)]
    cloud_long_at: Vec<Cloud>,
    cloud_long_above: Option<u64>,
    cloud_long: Option<RatesFile>,
    #[serde(default)]
    same_everywhere: bool,
}

#[derive(Deserialize)]
struct RatesFile {
    input: Usd,
    output: Usd,
    cache_write_5m: Usd,
    cache_write_1h: Usd,
    cache_read: Usd,
}

impl From<RatesFile> for Rates {
    fn from(file: RatesFile) -> Self {
        Self::per_million(file.input, file.output, file.cache_write_5m, file.cache_write_1h, file.cache_read)
    }
}

impl PriceTable {
    /// The table in the binary.
    pub fn built_in() -> Result<Self, PriceError> {
        let file: TableFile = toml::from_str(include_str!("table.toml"))?;
        let mut models = BTreeMap::new();
        for (name, model) in file.models {
            let price = ModelPrice {
                name: name.clone(),
                rates: model.rates.into(),
                fast: model.fast.map(Into::into),
                long: model.long_above.zip(model.long.map(Into::into)),
                window: model.window,
                window_1m_beta: model.window_1m_beta,
                overridden: false,
                percent: 100,
            };
            let cloud_long = model.cloud_long_above.zip(model.cloud_long).map(|(above, rates)| (model.cloud_long_at, above, rates.into()));
            let entry = Entry { price, cloud_long, same_everywhere: model.same_everywhere };
            for alias in model.also {
                models.insert(alias.clone(), Entry { price: ModelPrice { name: alias, ..entry.price.clone() }, ..entry.clone() });
            }
            models.insert(name, entry);
        }
        Ok(Self { dated: file.dated, models })
    }

    /// Puts the user's own price in place of the built-in one; window and size stay. What fast mode and a long prompt cost more than the
    /// ordinary, of the model as it is known, they cost more of the user's price too: it would be cheaper there than it is otherwise.
    pub fn set(&mut self, model: &str, rates: Rates) {
        let name = model.to_owned();
        let id = Id::read(model, Place::FirstParty);
        let known = [model, id.name, id.undated()].into_iter().find_map(|name| self.models.get(name));
        let entry = if let Some(Entry { price: known, cloud_long, .. }) = known {
            let as_before = |tier: Rates| rates.in_proportion(&known.rates, &tier);
            let price = ModelPrice {
                name,
                rates,
                fast: known.fast.map(as_before),
                long: known.long.map(|(above, tier)| (above, as_before(tier))),
                overridden: true,
                ..known.clone()
            };
            let cloud_long = cloud_long.as_ref().map(|(at, above, tier)| (at.clone(), *above, as_before(*tier)));
            Entry { price, cloud_long, same_everywhere: true }
        } else {
            let price =
                ModelPrice { name, rates, fast: None, long: None, window: None, window_1m_beta: false, overridden: true, percent: 100 };
            Entry { price, cloud_long: None, same_everywhere: true }
        };
        self.models.insert(model.to_owned(), entry);
    }

    /// All entries by name.
    pub fn models(&self) -> impl Iterator<Item = &ModelPrice> {
        self.models.values().map(|entry| &entry.price)
    }

    /// The price of `model` at the API itself, in any form of its id.
    pub fn find(&self, model: &str) -> Option<Found> {
        self.find_at(model, Place::FirstParty)
    }

    /// The price of `model` at that place, in any form of its id. The user's own entries cost the same in every region; a full id goes
    /// before the bare name.
    pub fn find_at(&self, model: &str, place: Place) -> Option<Found> {
        let id = Id::read(model, place);
        let known = [model, id.name, id.undated()].into_iter().find_map(|name| self.models.get(name));
        let estimated = known.is_none();
        let entry = known.or_else(|| self.dearest_like(id.name))?;
        let mut price = entry.price.clone();
        price.percent = if entry.same_everywhere { 100 } else { id.percent };
        let cloud = match id.place {
            Place::FirstParty => None,
            Place::Bedrock => Some(Cloud::Bedrock),
            Place::Vertex { .. } => Some(Cloud::Vertex),
        };
        if let (Some(cloud), Some((at, above, rates))) = (cloud, &entry.cloud_long)
            && at.contains(&cloud)
        {
            price.long = Some((*above, *rates));
        }
        Some(Found { price, estimated })
    }

    /// The dearest of the family, else of all.
    fn dearest_like(&self, id: &str) -> Option<&Entry> {
        let built_in = || self.models.values().filter(|entry| !entry.price.overridden);
        let dearest = |family: &str| {
            built_in()
                .filter(|entry| entry.price.name.contains(family))
                .max_by_key(|entry| (entry.price.rates.output, entry.price.rates.input))
        };
        let id = id.to_ascii_lowercase();
        FAMILIES.into_iter().find(|family| id.contains(family)).and_then(dearest).or_else(|| dearest(""))
    }
}
