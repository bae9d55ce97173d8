//! How attempts end, and which of the ends speak for a replica.

use std::time::Duration;

/// How a request ended, as far as its replica is concerned.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Outcome {
    /// A complete answer, whatever the request asked for (4xx included: the replica works).
    Answered,
    /// 429: busy, not broken.
    Busy {
        /// The answer's `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// 500, 502, 503, 504.
    ServerError,
    /// Nothing listens, or the connection attempt timed out.
    ConnectFailed,
    /// The connection broke before the end of the answer.
    Broken,
    /// No byte within a time limit.
    TimedOut,
    /// The client went away in the middle of a good answer: the replica works, how long it would have been is not known.
    CutOff,
    /// The client went away before an answer: says nothing about the replica.
    Abandoned,
}

impl Outcome {
    /// Metric label and JSON value.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Busy { .. } => "busy",
            Self::ServerError => "server_error",
            Self::ConnectFailed => "connect_failed",
            Self::Broken => "broken",
            Self::TimedOut => "timed_out",
            Self::CutOff => "cut_off",
            Self::Abandoned => "abandoned",
        }
    }

    /// Whether it speaks for the replica; `None` where it says nothing.
    pub(crate) const fn good(self) -> Option<bool> {
        match self {
            Self::Answered | Self::CutOff => Some(true),
            Self::Abandoned => None,
            _ => Some(false),
        }
    }
}
