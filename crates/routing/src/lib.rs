//! Which replica serves a request: policies, load accounting, health and retry budget.
//!
//! The balancer, the simulator and the load generator's `--url-strategy` all route with this code. It is pure:
//! no I/O, no clock, no global randomness. `now` is a [`Duration`](std::time::Duration) since an origin of the
//! caller's choice, and the generator is an argument.
//!
//! A [`Router`] holds the replicas of one pool and the policy in force. [`Router::pick`] chooses a replica and
//! returns a [`Pick`] with a [`Lease`]; the lease holds the request's share of the replica's load until it is
//! dropped, on every path. Policies read loads without locks, so two picks at once can see the same room: bounds
//! are soft by the number of picks under way, and never wrong for longer than one pick.

mod arrivals;
mod bounded_hash;
mod candidates;
mod coefficients;
mod engine_caches;
mod experience;
mod explain;
mod health;
mod lease;
mod outcome;
mod outputs;
mod pick;
mod policy;
mod prefix_aware;
mod prefix_index;
mod query;
mod replica;
mod reported;
mod retry;
mod ring;
mod router;
mod seconds;
mod settings;
mod silence;
mod snapshot;
mod views;

pub use coefficients::Coefficients;
pub use health::{Health, HealthState};
pub use lease::Lease;
pub use outcome::Outcome;
pub use pick::{Considered, Exclusion, Explanation, NoReplica, Pick, PickReason};
pub use policy::{Needs, PolicyName, PolicySettings, PrefixNeed};
pub use prefix_aware::Cost;
pub use query::Query;
pub use replica::{Load, LoadSnapshot, PredictionSnapshot, Replica, ReplicaSpec};
pub use reported::{EngineReport, Reported};
pub use retry::{ActiveRequest, Attempt, NoRetry, Retry, RetryBudget, RetrySettings, may_retry};
pub use ring::{prefix_key, session_key};
pub use router::Router;
pub use settings::{
    HealthSettings, LeastQueueSettings, PrefixAwareSettings, PrefixHashSettings, PrefixKey, SessionSettings,
    SettingsError,
};
