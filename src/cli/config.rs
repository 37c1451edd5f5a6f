//! `sentrely config`: every value, who set it and what was kept from holding; and the list of keys.

use std::io;

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::{Value as Json, json};

use crate::config::schema::{KEYS, Key, ProjectRule};
use crate::config::{Clamp, Loaded, Origin, Sourced};
use crate::meter::price::{ModelPrice, PriceTable, Rates};
use crate::session::price_table;

/// The version of this command's JSON documents.
const SCHEMA_VERSION: u32 = 1;

/// Show the configuration and where each value comes from
///
/// Layers, later over earlier: defaults, /etc/sentrely/policy.toml, ~/.config/sentrely/config.toml, the project's sentrely.toml, SENTRELY_<TABLE>_<KEY>
/// variables, flags. The policy has the last word; the project's file can only make things stricter, or set what nobody else set.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Args {
    /// List every key with its type, default and meaning
    #[arg(long)]
    pub schema: bool,

    /// List the price of every known model, in USD per million tokens
    #[arg(long, conflicts_with = "schema")]
    pub prices: bool,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Writes what `args` ask for to `out`. Secrets appear as references only.
pub fn run(args: &Args, loaded: &Loaded, out: &mut dyn io::Write) -> io::Result<()> {
    if args.prices {
        let table = price_table(&loaded.config);
        return if args.json { write_json(&prices_json(&table), out) } else { write_prices(&table, out) };
    }
    match (args.schema, args.json) {
        (true, true) => write_json(&schema_json(), out),
        (true, false) => write_schema(out),
        (false, true) => write_json(&values_json(loaded), out),
        (false, false) => write_values(loaded, out),
    }
}

fn write_values(loaded: &Loaded, out: &mut dyn io::Write) -> io::Result<()> {
    let mut table = columns(["KEY", "VALUE", "FROM"]);
    for key in KEYS {
        let sourced = loaded.origins.get(key.name);
        table.add_row([key.name.to_owned(), text(&key.show(&loaded.config)), from(sourced)]);
    }
    write_table(&table, out)
}

fn from(sourced: &Sourced) -> String {
    match &sourced.clamped_from {
        None => sourced.origin.to_string(),
        Some(Clamp { value, origin }) => format!("{} (clamped: {origin} asked for {})", sourced.origin, text(value)),
    }
}

fn values_json(loaded: &Loaded) -> Json {
    let values: Vec<Json> = KEYS
        .iter()
        .map(|key| {
            let sourced = loaded.origins.get(key.name);
            let clamp = sourced.clamped_from.as_ref();
            json!({
                "key": key.name,
                "value": key.show(&loaded.config),
                "origin": origin_json(&sourced.origin),
                "clamped_from": clamp.map(|clamp| json!({ "value": clamp.value, "origin": origin_json(&clamp.origin) })),
            })
        })
        .collect();
    json!({ "schema_version": SCHEMA_VERSION, "files": loaded.files_read, "values": values })
}

fn origin_json(origin: &Origin) -> Json {
    match origin {
        Origin::Default => json!({ "kind": "default" }),
        Origin::Policy(path) => json!({ "kind": "policy", "path": path }),
        Origin::User(path) => json!({ "kind": "user", "path": path }),
        Origin::Project(path) => json!({ "kind": "project", "path": path }),
        Origin::Env(name) => json!({ "kind": "env", "name": name }),
        Origin::Flag(name) => json!({ "kind": "flag", "name": name }),
    }
}

fn write_schema(out: &mut dyn io::Write) -> io::Result<()> {
    let mut table = columns(["KEY", "TYPE", "DEFAULT", "PROJECT FILE", "MEANING"]);
    for key in KEYS {
        table.add_row([key.name, key.kind, &text(&key.default()), project_word(key), key.doc]);
    }
    write_table(&table, out)
}

fn schema_json() -> Json {
    let keys: Vec<Json> = KEYS
        .iter()
        .map(|key| {
            json!({
                "key": key.name,
                "type": key.kind,
                "default": key.default(),
                "project_file": project_word(key),
                "variable": key.variable(),
                "doc": key.doc,
            })
        })
        .collect();
    json!({ "schema_version": SCHEMA_VERSION, "keys": keys })
}

fn project_word(key: &Key) -> &'static str {
    match key.project {
        ProjectRule::Free => "if unset",
        ProjectRule::Stricter => "stricter only",
        ProjectRule::Never => "no",
    }
}

/// The rates that a model has, by what makes it have them.
fn kinds(price: &ModelPrice) -> Vec<(String, Rates)> {
    let mut kinds = vec![(if price.overridden { "your own" } else { "" }.to_owned(), price.rates)];
    kinds.extend(price.long.map(|(above, rates)| (format!("prompt above {above}"), rates)));
    kinds.extend(price.fast.map(|rates| ("fast mode".to_owned(), rates)));
    kinds
}

fn per_million(rates: &Rates) -> [String; 5] {
    let Rates { input, output, cache_write_5m, cache_write_1h, cache_read } = *rates;
    [input, output, cache_write_5m, cache_write_1h, cache_read].map(|rate| rate.times(1_000_000).to_string())
}

fn write_prices(prices: &PriceTable, out: &mut dyn io::Write) -> io::Result<()> {
    let mut table = columns(["MODEL", "IN", "OUT", "WRITE 5M", "WRITE 1H", "READ", ""]);
    for price in prices.models() {
        for (kind, rates) in kinds(price) {
            table.add_row(std::iter::once(price.name.clone()).chain(per_million(&rates)).chain([kind]));
        }
    }
    write_table(&table, out)?;
    writeln!(
        out,
        "\nUSD per million tokens, read on {}; a web search costs $0.01. An unknown model costs what the dearest of its family does.",
        prices.dated
    )
}

fn prices_json(prices: &PriceTable) -> Json {
    let rates = |rates: &Rates| {
        let [input, output, cache_write_5m, cache_write_1h, cache_read] = per_million(rates);
        json!({ "input": input, "output": output, "cache_write_5m": cache_write_5m, "cache_write_1h": cache_write_1h, "cache_read": cache_read })
    };
    let models: Vec<Json> = prices
        .models()
        .map(|price| {
            let long = price.long.map(|(above, long)| json!({ "above_prompt_tokens": above, "rates": rates(&long) }));
            json!({ "model": price.name, "rates": rates(&price.rates), "long": long, "fast": price.fast.as_ref().map(rates), "own": price.overridden })
        })
        .collect();
    json!({ "schema_version": SCHEMA_VERSION, "dated": prices.dated, "usd_per": 1_000_000, "models": models })
}

fn columns<const N: usize>(names: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(names);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// Without the blanks that a table leaves at the ends of its lines.
fn write_table(table: &Table, out: &mut dyn io::Write) -> io::Result<()> {
    table.lines().try_for_each(|line| writeln!(out, "{}", line.trim_end()))
}

fn write_json(document: &Json, out: &mut dyn io::Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, document)?;
    writeln!(out)
}

/// A value for people: as it could stand in a file, a dash when unset.
fn text(value: &Json) -> String {
    match value {
        Json::Null => "-".to_owned(),
        Json::String(text) => text.clone(),
        Json::Array(items) if items.is_empty() => "none".to_owned(),
        Json::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(", "),
        Json::Object(entries) if entries.is_empty() => "none".to_owned(),
        Json::Object(entries) => entries.iter().map(|(name, value)| format!("{name}: {}", nested(value))).collect::<Vec<_>>().join(", "),
        Json::Bool(_) | Json::Number(_) => value.to_string(),
    }
}

fn nested(value: &Json) -> String {
    if value.is_object() { format!("{{ {} }}", text(value)) } else { text(value) }
}
