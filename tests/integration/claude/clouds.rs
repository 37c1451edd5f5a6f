//! Models that a cloud serves: Vertex end to end, Bedrock not yet.

use sentrely::simulated::Answer;
use serde_json::json;

use super::{supervised, the_view, upstream, usd, world};
use crate::support::claude::Claude;
use crate::support::env::TestEnv;
use crate::support::run::Run;

const ARGS: [&str; 5] = ["-p", "work", "--model", "claude-opus-5-5", "--dangerously-skip-permissions"];

fn on_vertex<'e>(env: &'e TestEnv, claude: &Claude, flags: &[&str], upstream: &sentrely::simulated::Upstream) -> Run<'e> {
    supervised(env, claude, flags, &ARGS)
        .var("CLAUDE_CODE_USE_VERTEX", "1")
        .var("CLAUDE_CODE_SKIP_VERTEX_AUTH", "1")
        .var("ANTHROPIC_VERTEX_BASE_URL", format!("{}/v1", upstream.url()))
        .var("ANTHROPIC_VERTEX_PROJECT_ID", "a-project")
        .var("CLOUD_ML_REGION", "us-east5")
}

#[test]
fn claude_on_vertex_is_metered_at_the_regions_price_and_stopped_at_its_budget() {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    // $0.40 at the API itself, $0.44 in a region.
    let answers = ["one", "two", "three"].map(|word| Answer::bash(format!("echo {word} >> turns.txt")).costing(usd("0.40")));
    let upstream = upstream(answers);
    let output = on_vertex(&env, &claude, &["--budget", "1usd"], &upstream).run().exits(121);
    let seen: Vec<_> = upstream.requests().into_iter().filter(|record| record.path.contains("Predict")).collect();
    assert_eq!(seen.len(), 2, "{}\n{}", output.stdout, output.stderr);
    let path = "/v1/projects/a-project/locations/us-east5/publishers/anthropic/models/claude-opus-5-5:streamRawPredict";
    assert!(seen.iter().all(|record| record.path.starts_with(path) && record.model == "claude-opus-5-5" && record.stream), "{seen:?}");
    let view = the_view(&env);
    assert_eq!((&view["cost_usd"], &view["cost_estimated"]), (&json!("0.88"), &json!(false)));
    assert_eq!((&view["billing"]["kind"], &view["stop_reason"]), (&json!("vertex"), &json!("budget_reached")));
    assert!(output.stderr.contains("Google Cloud project, through Vertex"), "{}", output.stderr);
    assert!(output.stdout.contains("sentrely: ") && output.stdout.contains("$1.00"), "{}", output.stdout);
}

#[test]
fn claude_on_bedrock_is_refused_with_what_is_missing() {
    let Some(claude) = Claude::v330() else { return };
    let env = world();
    let output = supervised(&env, &claude, &[], &ARGS).var("CLAUDE_CODE_USE_BEDROCK", "1").var("AWS_REGION", "us-east-1").run().exits(125);
    assert!(output.stderr.contains("Bedrock mode") && output.stderr.contains("signed with your AWS keys"), "{}", output.stderr);
}

const SWITCH: &str = "CLAUDE_CODE_USE_FOUNDRY";

#[test]
fn claude_on_foundry_is_refused_before_anything_is_made() {
    let Some(claude) = Claude::v330() else { return };
    for in_settings in [false, true] {
        let env = world();
        let upstream = upstream(Answer::text("never"));
        let mut run = supervised(&env, &claude, &[], &ARGS).upstream(&upstream);
        let mut place = "the environment".to_owned();
        if in_settings {
            env.claude_settings(&json!({ "env": { SWITCH: "1" } }));
            place = env.home().join(".claude/settings.json").display().to_string();
        } else {
            run = run.var(SWITCH, "1");
        }
        let output = run.run().exits(125);
        let said = format!("meter Claude Code's Foundry mode ({SWITCH} is set in {place})");
        assert!(output.stderr.contains(&said), "{}", output.stderr);
        assert!(output.stderr.contains(&format!("hint: unset {SWITCH} to use the Anthropic API")), "{}", output.stderr);
        assert_eq!((env.sessions().len(), upstream.requests().len()), (0, 0));
    }
}
