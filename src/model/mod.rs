//! The vocabulary: plain data that every layer speaks. No I/O, no clock, no async.

mod burn;
mod context;
mod details;
mod document;
mod event;
#[cfg(test)]
pub(crate) mod fixture;
mod id;
mod limit;
mod money;
mod outcome;
mod proof;
mod quota;
mod shared;
mod spending;
mod stop;
mod time_limit;
mod usage;
mod view;

pub use burn::{show_duration, time_to_limit};
pub use context::{ContextView, SeenBy, ThreadView, believable_window, percent_of_window, thrash_words};
pub use details::{Attempt, Details, LAST_PROCESS_GONE, Push, Refusal, Stage, Stop, limits_set};
pub use document::{SCHEMA_VERSION, SessionDocument, SessionJson, SessionList};
pub use event::{Event, Record};
pub use id::{IdError, RequestId, SessionId};
pub use limit::{Limit, LimitChange, LimitError, LimitKind, Spent};
pub use money::{Usd, UsdError};
pub use outcome::{Kept, Outcome, Rung, Survivor, SurvivorReason};
pub use proof::{HeldKey, Proof};
pub use quota::{Quota, QuotaWindow, quota_used};
pub use shared::{Period, Scope, Share, SharedLimit, utc_day};
pub use spending::{NOT_BILLED, bare_count, billing_changed, unbilled};
pub use stop::{EXIT_BUDGET, EXIT_FAILED_PROMISE, EXIT_KILLED, EXIT_POLICY, EXIT_TIME_LIMIT, StopReason};
pub use time_limit::{show_time_limit, time_used};
pub use usage::{Speed, Thread, Usage};
pub use view::{AwsView, Billing, BillingKind, BudgetView, DeveloperSource, SessionState, SessionView, Tokens, Workspace};
