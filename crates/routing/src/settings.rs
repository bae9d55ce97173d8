//! What operators can set, with the defaults and why they are what they are.
//!
//! Every struct refuses unknown keys, and [`PolicySettings::validate`](crate::PolicySettings::validate) or
//! [`HealthSettings::validate`] refuses values out of range before anything changes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Coefficients, reported::STALE_AFTER};

/// A setting that cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SettingsError {
    /// No policy has this name.
    #[error("unknown policy `{name}`: use one of {known}")]
    UnknownPolicy {
        /// As it was written.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// A number outside its range.
    #[error("`{key}` is {value}: it must be {rule}")]
    OutOfRange {
        /// The key.
        key: &'static str,
        /// As it was written.
        value: String,
        /// What is accepted.
        rule: &'static str,
    },
}

/// Refuses `value` unless `accepted`.
pub(crate) fn check(
    accepted: bool,
    key: &'static str,
    value: impl Copy + ToString,
    rule: &'static str,
) -> Result<(), SettingsError> {
    if accepted { Ok(()) } else { Err(SettingsError::OutOfRange { key, value: value.to_string(), rule }) }
}

/// Which text `prefix_hash` hashes.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PrefixKey {
    /// The first message of the user, which stays the same through a conversation. As KubeAI.
    #[default]
    FirstUserMessage,
    /// The whole rendered prompt, system message and tools included.
    WholePrompt,
}

/// `prefix_hash`. Names and defaults of the first three are KubeAI's.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct PrefixHashSettings {
    /// A replica takes at most this share of the mean load before requests overflow; at least 100.
    #[serde(alias = "mean_load_factor")]
    pub load_factor_percent: u32,
    /// Points on the ring per unit of weight. 256 hold the busiest of eight replicas within 8 % of the mean.
    #[serde(alias = "replication")]
    pub virtual_nodes: u32,
    /// Characters of the text that count.
    #[serde(alias = "prefix_char_length")]
    pub prefix_chars: usize,
    /// The text.
    pub key: PrefixKey,
    /// Below this many requests a replica is never full. At 3 requests each, the bound alone sends a third of
    /// all keys away from their home; a batch of 8 costs an engine hardly more than one of 3.
    pub minimum_load: u64,
    /// KubeAI's very ring, key, walk and bound, for a fleet that both serve: no separator in hashed names, no
    /// minimum load, overflow to the next point of the ring.
    pub exact_kubeai: bool,
}

impl Default for PrefixHashSettings {
    fn default() -> Self {
        Self {
            load_factor_percent: 125,
            virtual_nodes: 256,
            prefix_chars: 100,
            key: PrefixKey::default(),
            minimum_load: 8,
            exact_kubeai: false,
        }
    }
}

impl PrefixHashSettings {
    pub(crate) fn validate(&self) -> Result<(), SettingsError> {
        check_ring(self.load_factor_percent, self.virtual_nodes)?;
        check(self.prefix_chars > 0, "prefix_chars", self.prefix_chars, "at least 1")
    }
}

/// `session`: a consistent home for each session, by a header.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SessionSettings {
    /// Header names, any case; the first one that a request has is its session.
    pub headers: Vec<String>,
    /// As for `prefix_hash`.
    pub load_factor_percent: u32,
    /// As for `prefix_hash`.
    pub virtual_nodes: u32,
    /// As for `prefix_hash`.
    pub minimum_load: u64,
}

impl Default for SessionSettings {
    /// Routing keys come before session names, and those before correlation and user names. Request ids are not
    /// in the list: any proxy that adds one would scatter the session.
    fn default() -> Self {
        let headers = [
            "x-smg-routing-key",
            "routing-key",
            "x-session-id",
            "x-session-affinity",
            "x-dynamo-session-id",
            "x-correlation-id",
            "x-user-id",
        ];
        let hash = PrefixHashSettings::default();
        Self {
            headers: headers.map(String::from).into(),
            load_factor_percent: hash.load_factor_percent,
            virtual_nodes: hash.virtual_nodes,
            minimum_load: hash.minimum_load,
        }
    }
}

impl SessionSettings {
    pub(crate) fn validate(&self) -> Result<(), SettingsError> {
        check_ring(self.load_factor_percent, self.virtual_nodes)?;
        check(!self.headers.is_empty(), "headers", "empty", "a list of at least one header name")?;
        let is_name = |name: &str| {
            !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
        };
        self.headers
            .iter()
            .try_for_each(|name| check(is_name(name), "headers", name, "names that a header can have"))
    }
}

fn check_ring(load_factor_percent: u32, virtual_nodes: u32) -> Result<(), SettingsError> {
    let factor_fits = (100..=100_000).contains(&load_factor_percent);
    check(factor_fits, "load_factor_percent", load_factor_percent, "from 100 to 100000")?;
    check((1..=65_536).contains(&virtual_nodes), "virtual_nodes", virtual_nodes, "from 1 to 65536")
}

/// `least_queue`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct LeastQueueSettings {
    /// What an engine reported is forgotten after this time.
    #[serde(rename = "stale_after_s", with = "crate::seconds")]
    pub stale_after: Duration,
}

impl Default for LeastQueueSettings {
    fn default() -> Self {
        Self { stale_after: STALE_AFTER }
    }
}

/// `prefix_aware`. The formula is in the head of its module; every weight is a plain number.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct PrefixAwareSettings {
    /// What an engine's step costs, before anything is learned.
    #[serde(deserialize_with = "crate::silence::deserialize")]
    pub engine: Coefficients,
    /// Learn it from the times of answers.
    pub learn: bool,
    /// Balancers that share the replicas without talking to one another, this one included.
    pub balancers: u32,
    /// How much a prefill costs each sequence that it delays, as a share of what it costs its own request.
    pub interference: f64,
    /// Weight of the prefills that wait ahead.
    pub queue_weight: f64,
    /// Weight of what the request and the sequences beside it slow one another while both run.
    pub decode_weight: f64,
    /// Weight of the work that waits ahead.
    pub wait_weight: f64,
    /// Weight of what it takes in a cache that is full and seen to be short.
    pub memory_weight: f64,
    /// What the home of an unknown prefix is worth, as a share of its prefill; by default 0.3, more for more
    /// balancers.
    pub home_weight: Option<f64>,
    /// A prompt of which more than this share is known somewhere has no home; by default 0.2, more for more
    /// balancers.
    pub home_threshold: Option<f64>,
    /// Safety net: a replica may have this times its share of the outstanding work ...
    pub work_factor: f64,
    /// ... and this many mean requests on top,
    pub work_slack: f64,
    /// this times its share of the requests ...
    pub request_factor: f64,
    /// ... and this many on top.
    pub request_slack: f64,
    /// A prefix that so many different ones follow is taken to be everywhere; by default as many as there are
    /// replicas, from 4 to 64, and as a replica's share of all conversations.
    pub common_followers: Option<u32>,
    /// What an engine reported is forgotten after this time.
    #[serde(rename = "stale_after_s", with = "crate::seconds")]
    pub stale_after: Duration,
    /// Length of a replica's history, as a multiple of its engine's cache.
    pub history_factor: f64,
    /// Memory for all histories.
    pub index_bytes: usize,
}

impl Default for PrefixAwareSettings {
    fn default() -> Self {
        Self {
            engine: Coefficients::default(),
            learn: true,
            balancers: 1,
            interference: 0.5,
            queue_weight: 0.4,
            decode_weight: 3.2,
            wait_weight: 1.0,
            memory_weight: 200.0,
            home_weight: None,
            home_threshold: None,
            work_factor: 1.5,
            work_slack: 16.0,
            request_factor: 3.0,
            request_slack: 16.0,
            common_followers: None,
            stale_after: STALE_AFTER,
            history_factor: 2.0,
            index_bytes: 256 << 20,
        }
    }
}

/// Far beyond what makes sense; costs stay numbers.
const MOST_WEIGHT: f64 = 1e6;

impl PrefixAwareSettings {
    pub(crate) fn validate(&self) -> Result<(), SettingsError> {
        self.engine.validate()?;
        check((1..=4096).contains(&self.balancers), "balancers", self.balancers, "from 1 to 4096")?;
        for (key, value) in [
            ("interference", self.interference),
            ("queue_weight", self.queue_weight),
            ("decode_weight", self.decode_weight),
            ("wait_weight", self.wait_weight),
            ("memory_weight", self.memory_weight),
            ("home_weight", self.home_weight.unwrap_or_default()),
            ("home_threshold", self.home_threshold.unwrap_or_default()),
            ("work_slack", self.work_slack),
            ("request_slack", self.request_slack),
            ("history_factor", self.history_factor),
        ] {
            check((0.0..=MOST_WEIGHT).contains(&value), key, value, "from 0 to 1000000")?;
        }
        for (key, value) in [("work_factor", self.work_factor), ("request_factor", self.request_factor)] {
            check((1.0..=MOST_WEIGHT).contains(&value), key, value, "from 1 to 1000000")?;
        }
        check(self.common_followers != Some(0), "common_followers", 0, "at least 1")?;
        check(self.index_bytes >= 1 << 20, "index_bytes", self.index_bytes, "at least 1048576")
    }
}

/// When a replica counts as healthy. Percentages made for hundreds of hosts are wrong for two to sixteen
/// GPUs, so the rules count.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct HealthSettings {
    /// A replica gets no request before its first passed check, but for one that joins a running pool in which no other
    /// can serve: that one until its first check has failed. Set by those who check.
    #[serde(skip)]
    pub wait_for_check: bool,
    /// Passed checks in a row until an unhealthy replica is healthy; one suffices the first time.
    pub rise: u32,
    /// Failed checks in a row until a healthy replica is unhealthy.
    pub fall: u32,
    /// Failed requests in a row until a replica is ejected.
    pub consecutive_failures: u32,
    /// A replica is ejected when fewer of its requests succeed.
    pub success_percent: u32,
    /// ... of those within this time
    #[serde(rename = "window_s", with = "crate::seconds")]
    pub window: Duration,
    /// ... once there are as many.
    pub minimum_results: u32,
    /// Length of the first ejection. Each next one is twice as long, with equal jitter.
    #[serde(rename = "ejection_s", with = "crate::seconds")]
    pub ejection: Duration,
    /// Longest ejection; a replica that did well for as long starts over with the shortest.
    #[serde(rename = "ejection_cap_s", with = "crate::seconds")]
    pub ejection_cap: Duration,
    /// A busy replica is avoided for as long as its `Retry-After` asks, up to this.
    #[serde(rename = "busy_cap_s", with = "crate::seconds")]
    pub busy_cap: Duration,
    /// A replica that joins or recovers reaches its full weight after this time; 0 switches it off.
    #[serde(rename = "slow_start_s", with = "crate::seconds")]
    pub slow_start: Duration,
}

impl Default for HealthSettings {
    fn default() -> Self {
        Self {
            wait_for_check: false,
            rise: 2,
            fall: 3,
            consecutive_failures: 5,
            success_percent: 80,
            window: Duration::from_secs(30),
            minimum_results: 20,
            ejection: Duration::from_secs(5),
            ejection_cap: Duration::from_secs(300),
            busy_cap: Duration::from_secs(60),
            slow_start: Duration::from_secs(30),
        }
    }
}

impl HealthSettings {
    /// Refuses values that cannot be used.
    pub fn validate(&self) -> Result<(), SettingsError> {
        check(self.rise > 0, "rise", self.rise, "at least 1")?;
        check(self.fall > 0, "fall", self.fall, "at least 1")?;
        check(self.consecutive_failures > 0, "consecutive_failures", 0, "at least 1")?;
        check(self.success_percent <= 100, "success_percent", self.success_percent, "from 0 to 100")?;
        check(self.minimum_results > 0, "minimum_results", 0, "at least 1")?;
        check(!self.window.is_zero(), "window_s", 0, "more than 0")?;
        check(!self.ejection.is_zero(), "ejection_s", 0, "more than 0")?;
        let ordered = self.ejection <= self.ejection_cap;
        check(ordered, "ejection_cap_s", self.ejection_cap.as_secs_f64(), "at least `ejection_s`")
    }
}
