//! The act of the long answer: cut in the middle where it reaches the budget, with its numbers.

use anyhow::Context;

use super::acts::{Running, journal_of};
use super::stage::Stage;
use super::{Checks, tell};
use crate::model::{EXIT_BUDGET, Event, SessionView, Usd};
use crate::simulated::{Answer, Block, Outcome};

/// What asks for the long answer.
pub(super) const PROMPT: &str = "write and do not stop";
const LIMIT: &str = "0.05";
/// What the simulated model writes over and over, and the tokens of it as the published vocabulary counts them.
const SENTENCE: &str = "The meter counts every byte of this answer while it streams, and the proxy cuts it where the limit is reached. ";
const SENTENCE_TOKENS: u64 = 23;
/// 23,000 tokens, or 0.46 dollars: nine times the limit.
const SENTENCES: usize = 1_000;

/// The long answer, an event a sentence.
pub(super) fn long_answer() -> Answer {
    let mut answer = Answer::default().event_every(std::time::Duration::from_millis(8));
    answer.content.push(Block::Text { text: SENTENCE.repeat(SENTENCES), events: SENTENCES as u64 });
    answer.usage.output = SENTENCES as u64 * SENTENCE_TOKENS;
    answer
}

/// Act 4: an answer that would cost nine times the budget.
pub(super) fn cut(stage: &Stage, checks: &mut Checks) -> anyhow::Result<()> {
    let before = stage.upstream.messages().len();
    tell("$ sentrely run --budget 0.05usd -- agent        (one answer, which would cost $0.46)");
    let binary = stage.binary.to_string_lossy().into_owned();
    let budget = format!("{LIMIT}usd");
    let mut run = Running::start(stage.sentrely(&["run", "--budget", &budget, "--", &binary, "demo", "--play", "talker"]))?;
    let (view, dir) = Running::session(stage)?;
    let code = run.wait()?;

    let journal = journal_of(&dir)?;
    let view = SessionView::fold(&journal).unwrap_or(view);
    let answers = stage.upstream.messages().split_off(before);
    let answer = answers.first().context("find the long answer in the upstream's log")?;
    // Every event is as long as the others; what comes before them is counted as one more.
    let event = format!(
        "event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{{\"text\":\"{SENTENCE}\",\"type\":\"text_delta\"}}}}\n\n"
    );
    let tokens = answer.answer_bytes / event.len() as u64 * SENTENCE_TOKENS;
    let limit: Usd = LIMIT.parse()?;
    let generated: Usd = "0.0004".parse::<Usd>()? + "0.00002".parse::<Usd>()?.times(tokens);
    let lost = journal.iter().any(|record| matches!(record.event, Event::RequestSettled { lost: true, .. }));
    let numbers = format!(
        "limit {}, booked ${}, generated ${generated} ({tokens} tokens of {})",
        limit.show(),
        view.cost_usd,
        SENTENCES as u64 * SENTENCE_TOKENS
    );
    tell(&numbers);
    checks.that(
        "an answer was cut in the middle where it reached the budget: by the upstream's own log no more than a cent above it was generated",
        answers.len() == 1
            && lost
            && answer.outcome == Some(Outcome::ClientGone)
            && code == i32::from(EXIT_BUDGET)
            && generated <= limit + "0.01".parse()?
            && generated.percent_of(limit) >= 75
            && view.cost_usd >= generated.saturating_sub("0.01".parse()?),
        numbers,
    );
    Ok(())
}
