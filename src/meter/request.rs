//! What is asked of the meter, and what it answers.

use std::fmt;

use jiff::Timestamp;

use super::estimate::Shape;
use super::ledger::Lack;
use super::price::Place;
use crate::model::{Limit, LimitKind, RequestId, Thread, Usage, Usd};

/// What the meter is asked for.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The conversation.
    pub thread: Thread,
    /// The model, as the request names it.
    pub model: String,
    /// What its body looks like.
    pub shape: Shape,
    /// Whether the answer is streamed: only then can it be cut in time.
    pub streamed: bool,
    /// `max_tokens`: how long the answer can become.
    pub max_tokens: u64,
    /// The `anthropic-beta` values, for the context window.
    pub betas: String,
    /// Where it is answered.
    pub place: Place,
}

/// Why a request is refused. Its text is what the client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It does not fit what is left of a limit.
    Budget {
        /// The limit.
        limit: Limit,
        /// Spent and held.
        used: String,
        /// What the request would have cost at least.
        forecast: String,
    },
    /// A limit that other sessions share does not cover it.
    Uncovered(Uncovered),
    /// The model has no price and policy refuses such.
    UnknownModel(String),
    /// The client repeats a streamed request whose answer was lost, and does not want it streamed: it could not be cut in time.
    UnstreamedRepeat,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Budget { limit: limit @ Limit::Requests(_), .. } => write!(f, "the budget of {limit} is used up"),
            Self::Budget { limit, used, forecast } => {
                write!(f, "the budget of {limit} does not cover this request: {used} spent, it needs about {forecast}")
            }
            Self::Uncovered(why) => why.fmt(f),
            Self::UnknownModel(model) => write!(f, "no price is known for model {model}"),
            Self::UnstreamedRepeat => {
                write!(
                    f,
                    "the answer broke off, and its repeat without streaming is not sent: it could not be cut at the budget. Ask again"
                )
            }
        }
    }
}

/// How far a session comes with what is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// All that it has booked and that is under way.
    pub total: Usd,
    /// By how much it may grow before somebody looks again.
    pub margin: Usd,
    /// A request that was not sent yet is in it; else only answers that run.
    pub begins: bool,
    /// When.
    pub now: Timestamp,
}

/// Why what is under way is not covered by the limits that sessions share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uncovered {
    /// A limit is reached.
    Lack(Lack),
    /// What others spend cannot be told, so nothing may be spent.
    Unknown(String),
}

impl fmt::Display for Uncovered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lack(lack) => lack.fmt(f),
            Self::Unknown(why) => write!(f, "{why}, so nothing more may be spent"),
        }
    }
}

/// A share of a limit that was passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Crossing {
    /// The limit.
    pub limit: LimitKind,
    /// The share in percent.
    pub percent: u32,
}

/// One request's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// Which.
    pub request: RequestId,
    /// Its conversation.
    pub thread: Thread,
    /// The model that answered.
    pub model: String,
    /// What it used.
    pub usage: Usage,
    /// What that costs.
    pub cost: Usd,
    /// What the requests that are still under way come to.
    pub under_way: Usd,
    /// The price is a guess.
    pub estimated: bool,
    /// The answer was lost: booked is the most that it may have cost.
    pub lost: bool,
    /// The answer's id.
    pub message_id: Option<String>,
    /// The model's context window; `None` where it is not known.
    pub window: Option<u64>,
    /// Shares of limits that this passed.
    pub crossed: Vec<Crossing>,
    /// A limit that what is booked is now above, if the request cost anything. A limit used up exactly is not passed: it refuses
    /// the next request.
    pub limit_passed: Option<Limit>,
}

/// Whether an answer may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Continue,
    /// A limit is reached by what is booked and running: cut it.
    Cut,
}
