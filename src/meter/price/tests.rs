//! What answers cost.

use super::*;

fn cost(model: &str, usage: Usage) -> String {
    let table = PriceTable::built_in().unwrap();
    table.find(model).unwrap().price.cost(&usage).to_string()
}

#[test]
fn every_kind_of_token_has_its_own_price() {
    let usage = Usage {
        input: 1_000_000,
        output: 1_000_000,
        cache_write_5m: 1_000_000,
        cache_write_1h: 1_000_000,
        cache_read: 1_000_000,
        ..Usage::default()
    };
    assert_eq!(cost("claude-opus-5-5", usage), "37.2");
    assert_eq!(cost("claude-sonnet-5-5", usage), "18.6");
}

#[test]
fn a_long_haiku_prompt_changes_every_rate_strictly_above_the_threshold() {
    let at = |prompt: u64| Usage { cache_read: prompt, output: 1_000, ..Usage::default() };
    assert_eq!(cost("claude-haiku-5-5", at(100_000)), "0.0015");
    assert_eq!(cost("claude-haiku-5-5", at(100_001)), "0.00750005");
}

#[test]
fn the_us_multiplier_is_exact_and_spares_web_searches() {
    let usage = Usage { cache_write_5m: 1, web_searches: 2, us_only: true, ..Usage::default() };
    assert_eq!(cost("claude-haiku-5-5", usage), "0.0200001375");
}

#[test]
fn fast_mode_has_rates_of_its_own() {
    let usage = Usage { output: 1_000_000, speed: Speed::Fast, ..Usage::default() };
    assert_eq!(cost("claude-opus-5-5", usage), "40");
    assert_eq!(cost("claude-opus-4-6", usage), "150");
    assert_eq!(cost("claude-sonnet-5-5", usage), "10");
    for (model, dollars) in [("claude-opus-5", "50"), ("claude-mythos-5-2", "80"), ("claude-fable-5-2", "80"), ("claude-opus-4-7", "150")] {
        assert_eq!(cost(model, usage), dollars, "{model}");
    }
}

fn turn(prompt: u64, output: u64) -> Part {
    Part { kind: PartKind::Message, model: None, usage: Usage { input: prompt, output, ..Usage::default() } }
}

fn bill(model: &str, usage: Usage, parts: Vec<Part>) -> Bill {
    let table = PriceTable::built_in().unwrap();
    Reported { usage, parts }.bill(&table.find(model).unwrap().price, &table, Place::FirstParty)
}

#[test]
fn an_answer_of_several_turns_is_priced_turn_by_turn_where_long_prompts_cost_more() {
    let usage = Usage { input: 150_000, output: 2_000, web_searches: 1, ..Usage::default() };
    let turns = || vec![turn(70_000, 1_000), turn(80_000, 1_000)];
    assert_eq!(bill("claude-haiku-5-5", usage, turns()).cost.to_string(), "0.026");
    assert_eq!(bill("claude-haiku-5-5", usage, vec![]).cost.to_string(), "0.09", "as one prompt it is long");
    assert_eq!(
        bill("claude-haiku-5-5", usage, vec![turn(70_000, 1_000)]).cost.to_string(),
        "0.09",
        "turns that do not add up do not count"
    );
    assert_eq!(bill("claude-opus-5-5", usage, turns()).cost, bill("claude-opus-5-5", usage, vec![]).cost);
    let billed = bill("claude-haiku-5-5", usage, turns()).usage;
    assert_eq!((billed.total(), billed.context()), (152_000, 80_000), "the last turn's prompt is what fills the context");
}

#[test]
fn hours_that_no_turn_claims_belong_to_the_first_turns_without_a_split() {
    let written = |five: u64, hour: u64| Usage { cache_write_5m: five, cache_write_1h: hour, ..Usage::default() };
    let part = |usage| Part { kind: PartKind::Message, model: None, usage };
    let parts = vec![part(written(60_000, 0)), part(written(60_000, 0))];
    // 60,000 for an hour at 0.20 and as many for five minutes at 0.125.
    assert_eq!(bill("claude-haiku-5-5", written(60_000, 60_000), parts).cost.to_string(), "0.0195");
}

#[test]
fn what_an_advisor_and_a_compaction_used_is_billed_besides() {
    let extra = |kind, model: Option<&str>| Part {
        kind,
        model: model.map(str::to_owned),
        usage: Usage { input: 10_000, output: 100, ..Usage::default() },
    };
    let usage = Usage { input: 1_000, output: 10, us_only: true, ..Usage::default() };
    let parts = vec![extra(PartKind::Advisor, Some("claude-opus-5-5")), extra(PartKind::Compaction, None)];
    let bill = bill("claude-sonnet-5-5", usage, parts);
    // 0.0021 + 0.042 + 0.021, in the US.
    assert_eq!((bill.cost.to_string().as_str(), bill.estimated), ("0.07161", false));
    assert_eq!((bill.usage.total(), bill.usage.context()), (21_210, 1_000));
    assert!(self::bill("claude-sonnet-5-5", usage, vec![extra(PartKind::Advisor, Some("claude-next"))]).estimated);
}

#[test]
fn an_answer_that_another_model_took_over_costs_the_dearer_way_to_reckon() {
    let part = |kind, model: &str| Part { kind, model: Some(model.into()), ..turn(1_000_000, 0) };
    let parts = vec![part(PartKind::Message, "claude-opus-5-5"), part(PartKind::Fallback, "claude-opus-4-1")];
    let usage = Usage { input: 1_000_000, ..Usage::default() };
    assert_eq!(bill("claude-opus-5-5", usage, parts).cost.to_string(), "19");
}

#[test]
fn regional_endpoints_of_the_clouds_cost_more_and_so_do_their_long_prompts() {
    let table = PriceTable::built_in().unwrap();
    let cost = |id: &str, place: Place, prompt: u64| {
        let found = table.find_at(id, place).unwrap();
        assert!(!found.estimated, "{id}");
        found.price.cost(&Usage { input: prompt, ..Usage::default() }).to_string()
    };
    let vertex = |regional| Place::Vertex { regional };
    for (id, place, prompt, dollars) in [
        ("claude-sonnet-4-5@20250929", vertex(false), 100_000, "0.3"),
        ("claude-sonnet-4-5@20250929", vertex(true), 100_000, "0.33"),
        ("claude-sonnet-4-5@20250929", vertex(true), 300_000, "1.98"),
        ("claude-sonnet-4-5", Place::FirstParty, 300_000, "0.9"),
        ("claude-sonnet-4@20250514", vertex(true), 300_000, "0.9"),
        ("anthropic.claude-sonnet-4-20250514-v1:0", Place::Bedrock, 300_000, "1.8"),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", Place::FirstParty, 100_000, "0.33"),
        ("global.anthropic.claude-haiku-4-5-20251001-v1:0", Place::Bedrock, 100_000, "0.1"),
        ("us-gov.anthropic.claude-haiku-4-5-20251001-v1:0", Place::Bedrock, 100_000, "0.12"),
        ("claude-opus-5-5@default", vertex(true), 100_000, "0.44"),
        // Mantle's ids look like Bedrock's.
        ("anthropic.claude-opus-5-5", Place::FirstParty, 100_000, "0.44"),
        ("anthropic.claude-opus-5-5", Place::Bedrock, 100_000, "0.4"),
    ] {
        assert_eq!(cost(id, place, prompt), dollars, "{id} {place:?} {prompt}");
    }
}

#[test]
fn ids_are_recognised_in_every_form() {
    let table = PriceTable::built_in().unwrap();
    for (id, name) in [
        ("claude-sonnet-4-5-20250929", "claude-sonnet-4-5"),
        ("claude-opus-4-20250514", "claude-opus-4"),
        ("claude-sonnet-4-5[1m]", "claude-sonnet-4-5"),
        ("us.anthropic.claude-haiku-4-5-20251001-v1:0", "claude-haiku-4-5"),
        ("arn:aws:bedrock:us-east-1:1:inference-profile/us.anthropic.claude-opus-5-5", "claude-opus-5-5"),
        ("claude-haiku-4-5@20251001", "claude-haiku-4-5"),
        ("claude-3-5-haiku-latest", "claude-3-5-haiku"),
        ("claude-opus-5-5[1M]", "claude-opus-5-5"),
        ("claude-sonnet-4-5@20250929[1m]", "claude-sonnet-4-5"),
        ("claude-opus-5-5@default", "claude-opus-5-5"),
        ("us-gov.anthropic.claude-sonnet-4-6", "claude-sonnet-4-6"),
        ("anthropic.claude-opus-4-20250514-v1:0", "claude-opus-4"),
        ("eu.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4-5"),
        ("bedrock/jp.anthropic.claude-haiku-4-5-20251001-v1:0", "claude-haiku-4-5"),
        ("anthropic/claude-sonnet-5-5", "claude-sonnet-5-5"),
        ("claude-3-5-sonnet-20241022", "claude-3-5-sonnet"),
        ("us.anthropic.claude-3-7-sonnet-20250219-v1:0", "claude-3-7-sonnet"),
    ] {
        let found = table.find(id).unwrap();
        assert_eq!((found.price.name.as_str(), found.estimated), (name, false), "{id}");
    }
}

#[test]
fn an_unknown_model_costs_what_the_dearest_of_its_family_does() {
    let table = PriceTable::built_in().unwrap();
    let sonnet = table.find("claude-sonnet-9").unwrap();
    assert!(sonnet.estimated && sonnet.price.rates.output == Usd::from_pico(15_000_000));
    let other = table.find("gpt-x").unwrap();
    assert!(other.estimated && other.price.rates.output == Usd::from_pico(75_000_000));
}

#[test]
fn the_users_price_wins() {
    let mut table = PriceTable::built_in().unwrap();
    let amount = |text: &str| text.parse::<Usd>().unwrap();
    table.set("house-model", Rates::per_million(amount("1"), amount("2"), amount("1"), amount("1"), amount("0.1")));
    let found = table.find("house-model").unwrap();
    assert!(!found.estimated);
    assert_eq!(found.price.cost(&Usage { output: 1_000_000, ..Usage::default() }).to_string(), "2");
    // A profile of one's own says nothing about the model in it: the user does.
    let profile = "arn:aws:bedrock:us-east-1:1:application-inference-profile/abc";
    assert!(table.find(profile).unwrap().estimated);
    table.set(profile, Rates::per_million(amount("3"), amount("15"), amount("1"), amount("1"), amount("0.1")));
    assert!(!table.find(profile).unwrap().estimated);
    assert!(table.find("claude-opus-99").unwrap().price.rates.output > amount("0.00007"), "the dearest known, not the user's");
}

#[test]
fn the_users_price_is_no_cheaper_in_fast_mode_or_for_a_long_prompt() {
    let mut table = PriceTable::built_in().unwrap();
    let amount = |text: &str| text.parse::<Usd>().unwrap();
    let half = |input: &str, output: &str| Rates::per_million(amount(input), amount(output), amount("1"), amount("1"), amount("0.1"));
    table.set("claude-opus-5-5", half("2", "10"));
    table.set("claude-haiku-5-5", half("0.05", "0.25"));
    table.set("claude-sonnet-4-5", half("1.5", "7.5"));
    let cost = |model: &str, place: Place, usage: Usage| table.find_at(model, place).unwrap().price.cost(&usage).to_string();
    let output = Usage { output: 1_000_000, ..Usage::default() };
    assert_eq!(cost("claude-opus-5-5[1m]", Place::FirstParty, output), "10");
    assert_eq!(cost("claude-opus-5-5", Place::FirstParty, Usage { speed: Speed::Fast, ..output }), "20");
    let prompt = |tokens: u64| Usage { input: tokens, ..Usage::default() };
    assert_eq!(cost("claude-haiku-5-5", Place::FirstParty, prompt(100_000)), "0.005");
    assert_eq!(cost("claude-haiku-5-5", Place::FirstParty, prompt(100_001)), "0.02500025");
    assert_eq!(cost("claude-sonnet-4-5@20250929", Place::Vertex { regional: true }, prompt(300_000)), "0.9", "the same in every region");
}

#[test]
fn a_beta_widens_the_window_of_the_models_that_have_it_and_a_price_of_ones_own_changes_no_window() {
    let mut table = PriceTable::built_in().unwrap();
    let window = |table: &PriceTable, model: &str, betas: &str| table.find(model).unwrap().price.window_with(betas);
    let betas = "claude-code-20250219,context-1m-2025-08-07,interleaved-thinking-2025-05-14";
    let amount = |text: &str| text.parse::<Usd>().unwrap();
    for own in [false, true] {
        for model in ["claude-sonnet-4-5-20250929", "claude-sonnet-4-6", "claude-sonnet-4-5"] {
            assert_eq!((window(&table, model, ""), window(&table, model, betas)), (Some(200_000), Some(1_000_000)), "{model} {own}");
        }
        assert_eq!(window(&table, "claude-haiku-4-5", betas), Some(200_000), "not of others");
        assert_eq!(window(&table, "claude-opus-5-5", ""), Some(1_000_000), "nor where it is a million anyway");
        table.set("claude-sonnet-4-5", Rates::per_million(amount("1"), amount("2"), amount("1"), amount("1"), amount("0.1")));
    }
}
