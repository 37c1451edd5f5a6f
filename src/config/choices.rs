//! What a key may be set to, where that is one of a few words or a name.

use std::fmt;

/// `run.workspace`. The greater, the more it keeps the agent away from the developer's checkout.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Workspace {
    /// The folder as it is, no branch.
    None,
    /// A fresh branch in the developer's checkout.
    InPlace,
    /// A fresh branch in a clone of its own that is seen at the checkout's path.
    SamePath,
    /// A fresh branch in a clone of its own.
    #[default]
    Clone,
}

/// `budget.on_budget`. The greater is the stricter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OnBudget {
    /// Requests are refused; the session stays open and goes on when the limit is raised.
    Refuse,
    /// The session is stopped, its work saved.
    #[default]
    Stop,
}

/// `context.on_limit`. The greater is the stricter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OnContext {
    /// People and the model are told.
    #[default]
    Warn,
    /// The session is stopped, its work saved.
    Stop,
}

/// `budget.unknown_models`. The greater is the stricter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UnknownModels {
    /// Charged at the dearest rate that could apply, and marked as estimated.
    #[default]
    Estimate,
    /// Their requests are refused.
    Refuse,
}

/// `billing.expect`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Payer {
    /// An Anthropic key, or a gateway's token.
    Key,
    /// A Claude subscription.
    Subscription,
    /// An AWS account, through Bedrock.
    Bedrock,
    /// A Google Cloud project, through Vertex.
    Vertex,
}

/// `aws.delivery`. The greater is the stricter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Delivery {
    /// As variables, fixed at the start: for tools that know no endpoint.
    Env,
    /// From an endpoint that is renewed and can be closed.
    #[default]
    Endpoint,
}

/// `aws.on_credentials_lost`. The greater is the stricter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OnCredentialsLost {
    /// The session goes on without AWS.
    Continue,
    /// The session is stopped.
    #[default]
    Stop,
}

/// `git.push`. The greater is the stricter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Push {
    /// What passes the gate goes to the remote at once.
    Direct,
    /// On a terminal it is held, elsewhere, as in CI, it goes on.
    #[default]
    Auto,
    /// It is held on this machine until a person sends it.
    Hold,
}

/// `wall.mode`. The greater is the stricter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WallMode {
    /// None.
    Off,
    /// As much as this machine offers; the banner says how much that is.
    #[default]
    Auto,
    /// The full wall or no session.
    Require,
}

/// `wall.network`. The greater is the stricter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Network {
    /// As the machine's.
    #[default]
    Open,
    /// sentrely's own services, and through one of them a list of hosts.
    Services,
}

/// A name that can stand in a branch: lower-case letters, digits and single dashes inside, at most 40 characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slug(String);

impl Slug {
    /// `text` itself, or `None` if it is no slug.
    pub fn new(text: &str) -> Option<Self> {
        let known = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        let shaped = !text.is_empty() && text.len() <= 40 && !text.starts_with('-') && !text.ends_with('-') && !text.contains("--");
        (known && shaped).then(|| Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Slug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
