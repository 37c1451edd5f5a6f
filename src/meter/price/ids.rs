//! A model's id in all its forms: the API's own, dated, with a window, and as the clouds write it.

/// Where a request is answered. The clouds have prices of their own for some models, and regional endpoints cost more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Place {
    /// The API itself, or a gateway to it.
    #[default]
    FirstParty,
    /// Amazon Bedrock; whether in one region is told by the id's prefix.
    Bedrock,
    /// Google Vertex AI.
    Vertex {
        /// Any location but `global`.
        regional: bool,
    },
}

/// What a model's id says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Id<'a> {
    /// The bare name: `claude-sonnet-4-5-20250929`.
    pub(super) name: &'a str,
    /// Where it is answered.
    pub(super) place: Place,
    /// In percent of the list price (facts/PRICES.md, ids).
    pub(super) percent: u64,
}

/// What Bedrock's Mantle endpoints cost in percent. They speak the Messages API itself and call their models as Bedrock does, without region
/// and version; a gateway that writes ids so is counted as one.
const MANTLE: u64 = 110;

/// Regions of Bedrock that stand before an id, and what they cost in percent. `global.` and none at all cost the list price.
const REGIONS: [(&str, u64); 6] = [("us-gov.", 120), ("us.", 110), ("eu.", 110), ("apac.", 110), ("au.", 110), ("jp.", 110)];

impl<'a> Id<'a> {
    /// Reads an id that was asked for at `place`.
    pub(super) fn read(id: &'a str, place: Place) -> Self {
        let id = id.trim();
        // `arn:aws:bedrock:…:inference-profile/us.anthropic.…`; a gateway's `bedrock/us.anthropic.…` and `anthropic/…`.
        let id = id.rsplit_once('/').map_or(id, |(_, rest)| rest);
        let id = strip_window(id);
        let (mut place, mut percent) = (place, 100);
        let name = if let Some((before, rest)) = id.rsplit_once("anthropic.") {
            let mantle = place == Place::FirstParty && id.starts_with("anthropic.") && strip_version(rest) == rest;
            place = Place::Bedrock;
            percent = REGIONS.iter().find(|(region, _)| before == *region).map_or(100, |(_, percent)| *percent);
            if mantle {
                percent = MANTLE;
            }
            rest
        } else {
            id
        };
        if let Place::Vertex { regional: true } = place {
            percent = 110;
        }
        let name = name.split_once('@').map_or(name, |(name, _)| name);
        Self { name: strip_version(name), place, percent }
    }

    /// The name without a date or `-latest`.
    pub(super) fn undated(&self) -> &'a str {
        match self.name.rsplit_once('-') {
            Some((name, end)) if end == "latest" || (end.len() == 8 && end.bytes().all(|byte| byte.is_ascii_digit())) => name,
            _ => self.name,
        }
    }
}

/// `[1m]`, `[2m]`, in either case.
fn strip_window(id: &str) -> &str {
    match id.rsplit_once('[') {
        Some((name, "1m]" | "2m]" | "1M]" | "2M]")) => name,
        _ => id,
    }
}

/// Bedrock's `-v1:0`, `-v1`, `:0`.
fn strip_version(id: &str) -> &str {
    let id = id.split_once(':').map_or(id, |(name, _)| name);
    match id.rsplit_once("-v") {
        Some((name, version)) if !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => id,
    }
}
