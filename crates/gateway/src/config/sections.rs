//! The sections of the configuration: each row is a key of the file, its flag, its field, its type and its help.

use std::{collections::BTreeSet, fmt, num::NonZero, time::Duration};

use routing::{HealthSettings, PolicyName, PolicySettings, PrefixKey, RetrySettings};
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::{ConfigError, EventSource, ReplicaConfig, ReplicaUrl, Seconds, units::EventAddress};

/// What the help calls a value of a type.
fn value_name(kind: &str) -> &'static str {
    match kind {
        "Seconds" => "SECONDS",
        "String" => "TEXT",
        _ => "NUMBER",
    }
}

macro_rules! section {
    ($(#[$meta:meta])* $config:ident for $settings:ty {
        $($key:ident $flag:literal $field:ident : $kind:ty, $help:literal;)*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Deserialize, clap::Args)]
        #[serde(default, deny_unknown_fields)]
        pub struct $config {
            $(
                #[doc = $help]
                #[arg(long = $flag, help = $help, value_name = value_name(stringify!($kind)))]
                pub $key: Option<$kind>,
            )*
        }

        impl $config {
            /// The settings, with defaults for what is not said.
            pub fn resolve(&self) -> $settings {
                let mut settings = <$settings>::default();
                $(
                    if let Some(value) = self.$key.clone() {
                        settings.$field = value.into();
                    }
                )*
                settings
            }

            pub(super) fn over(self, under: Self) -> Self {
                Self { $($key: self.$key.or(under.$key),)* }
            }

            /// The keys in which the two differ.
            pub(super) fn differing(settings: &$settings, other: &$settings) -> Vec<&'static str> {
                let rows = [$((stringify!($key), settings.$field != other.$field)),*];
                rows.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
            }

            /// The help of each flag, with the default that is in force.
            #[cfg(test)]
            pub(super) fn helps() -> Vec<(&'static str, String)> {
                let settings = <$settings>::default();
                vec![$(($help, format!("{:?}", settings.$field)),)*]
            }
        }
    };
}

/// Sizes and times that clients and replicas must keep.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Bytes of a request body.
    pub max_body: u64,
    /// Bytes of a request head.
    pub max_header: NonZero<u32>,
    /// Bytes of request bodies held at once, over all requests.
    pub max_buffered: u64,
    /// From the first byte of a request to the end of its head.
    pub header_timeout: Duration,
    /// In which at least 1 KiB of a body must arrive, or its rest.
    pub body_timeout: Duration,
    /// Between requests.
    pub idle_timeout: Duration,
    /// To connect to a replica.
    pub connect_timeout: Duration,
    /// From the request to the head of its response.
    pub response_timeout: Duration,
    /// Between two parts of a response.
    pub stream_timeout: Duration,
    /// That an unused connection to a replica is kept.
    pub upstream_idle: Duration,
    /// That a client may go on sending after its last answer.
    pub lingering: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body: 64 << 20,
            max_header: NonZero::new(64 << 10).unwrap_or(NonZero::<u32>::MAX),
            max_buffered: 1 << 30,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            connect_timeout: Duration::from_secs(2),
            response_timeout: Duration::from_secs(600),
            stream_timeout: Duration::from_secs(120),
            upstream_idle: Duration::from_secs(4),
            lingering: Duration::from_secs(5),
        }
    }
}

section! {
    /// Sizes and times that clients and replicas must keep, as they are written.
    LimitConfig for Limits {
        max_body_bytes "max-body-bytes" max_body: u64, "Bytes of a request body; more is refused [default: 67108864]";
        max_header_bytes "max-header-bytes" max_header: NonZero<u32>,
            "Bytes of a request head; more is refused [default: 65536]";
        max_buffered_bytes "max-buffered-bytes" max_buffered: u64,
            "Bytes of all request bodies held at once; more is refused [default: 1073741824]";
        header_timeout_s "header-timeout-s" header_timeout: Seconds,
            "Seconds for the head of a request to arrive [default: 10]";
        body_timeout_s "body-timeout-s" body_timeout: Seconds,
            "Seconds for the next KiB of a request body to arrive [default: 30]";
        idle_timeout_s "idle-timeout-s" idle_timeout: Seconds,
            "Seconds that a client's connection may be idle, before its first request too [default: 75]";
        connect_timeout_s "connect-timeout-s" connect_timeout: Seconds,
            "Seconds to connect to a replica, over all its addresses [default: 2]";
        response_timeout_s "response-timeout-s" response_timeout: Seconds,
            "Seconds for a response to begin; without streaming that is the whole generation [default: 600]";
        stream_timeout_s "stream-timeout-s" stream_timeout: Seconds,
            "Seconds between two parts of a response, in either direction [default: 120]";
        upstream_idle_s "upstream-idle-s" upstream_idle: Seconds,
            "Seconds that an idle connection to a replica is kept; must be less than the engine's own limit [default: 4]";
        lingering_s "lingering-s" lingering: Seconds,
            "Seconds that a client may go on sending after an answer that closes its connection [default: 5]";
    }
}

/// Active checks of the replicas.
#[derive(Clone, Debug, PartialEq)]
pub struct Checks {
    /// Asked with GET; 2xx passes.
    pub path: String,
    /// Between two checks, plus or minus a fifth; zero for no checks.
    pub interval: Duration,
    /// Between two checks while the last results and the state disagree.
    pub fast_interval: Duration,
    /// For one check.
    pub timeout: Duration,
}

impl Default for Checks {
    fn default() -> Self {
        Self {
            path: "/health".into(),
            interval: Duration::from_secs(5),
            fast_interval: Duration::from_secs(1),
            timeout: Duration::from_secs(3),
        }
    }
}

section! {
    /// Active checks, as they are written.
    CheckConfig for Checks {
        path "check-path" path: String, "Path of the health check [default: /health]";
        interval_s "check-interval-s" interval: Seconds,
            "Seconds between two health checks of a replica; 0 for none [default: 5]";
        fast_interval_s "check-fast-interval-s" fast_interval: Seconds,
            "Seconds between two checks of a replica whose state may be about to change [default: 1]";
        timeout_s "check-timeout-s" timeout: Seconds, "Seconds for a check to be answered [default: 3]";
    }
}

section! {
    /// What checks and failures lead to, as it is written.
    HealthConfig for HealthSettings {
        rise "health-rise" rise: u32, "Passed checks in a row until an unhealthy replica is healthy [default: 2]";
        fall "health-fall" fall: u32, "Failed checks in a row until a replica is unhealthy [default: 3]";
        consecutive_failures "health-consecutive-failures" consecutive_failures: u32,
            "Failed requests in a row until a replica is ejected [default: 5]";
        success_percent "health-success-percent" success_percent: u32,
            "A replica is ejected when a smaller share of its requests succeeds [default: 80]";
        window_s "health-window-s" window: Seconds, "Seconds of requests that this share is taken of [default: 30]";
        minimum_results "health-minimum-results" minimum_results: u32,
            "Requests in that time before the share counts [default: 20]";
        ejection_s "health-ejection-s" ejection: Seconds,
            "Seconds of the first ejection; each next one is twice as long [default: 5]";
        ejection_cap_s "health-ejection-cap-s" ejection_cap: Seconds,
            "Seconds of the longest ejection [default: 300]";
        busy_cap_s "health-busy-cap-s" busy_cap: Seconds,
            "Seconds that a replica's Retry-After can keep requests away at most [default: 60]";
        slow_start_s "health-slow-start-s" slow_start: Seconds,
            "Seconds until a new or recovered replica has its full share; 0 for at once [default: 30]";
    }
}

section! {
    /// Repeating failed attempts, as it is written.
    RetryConfig for RetrySettings {
        retries "retries" retries: u32, "Attempts after the first, each on another replica [default: 2]";
        budget_percent "retry-budget-percent" budget_percent: u32,
            "Retries under way, as a share of the requests under way [default: 20]";
        budget_floor "retry-budget-floor" budget_floor: u64, "Retries under way that are always allowed [default: 3]";
        after_sending "retry-after-sending" after_sending: bool,
            "Repeat also what an engine may have seen, after 429, 500, 502, 503, 504 or a broken connection [default: false]";
    }
}

/// Flags for the settings of a policy; in a file these are written under the policy's name.
#[derive(Clone, Debug, Default, PartialEq, clap::Args)]
#[command(next_help_heading = "Policy settings")]
pub struct PolicyFlags {
    /// Percent of the mean load that a replica takes before prefix_hash overflows [default: 125]
    #[arg(long, value_name = "PERCENT")]
    prefix_hash_load_factor: Option<u32>,
    /// Points of a replica on the ring of prefix_hash [default: 256]
    #[arg(long, value_name = "NUMBER")]
    prefix_hash_virtual_nodes: Option<u32>,
    /// Characters of the text that prefix_hash hashes [default: 100]
    #[arg(long, value_name = "NUMBER")]
    prefix_hash_chars: Option<usize>,
    /// Text that prefix_hash hashes [default: first-user-message]
    #[arg(long, value_enum, value_name = "TEXT")]
    prefix_hash_key: Option<KeyText>,
    /// Requests below which a replica is never full for prefix_hash [default: 8]
    #[arg(long, value_name = "NUMBER")]
    prefix_hash_minimum_load: Option<u64>,
    /// Make prefix_hash pick exactly as KubeAI would
    #[arg(long)]
    prefix_hash_exact_kubeai: bool,
    /// Balancers that share the replicas without talking to one another, this one included, for prefix_aware [default: 1]
    #[arg(long, value_name = "NUMBER")]
    balancers: Option<u32>,
    /// Header that names the session for the policy session; repeat it for more, in order
    #[arg(long = "session-header", value_name = "NAME")]
    session_headers: Vec<String>,
}

/// Text that `prefix_hash` hashes.
#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
enum KeyText {
    /// The first message of the user, as KubeAI does
    FirstUserMessage,
    /// The whole prompt, system message and tools included
    WholePrompt,
}

pub(super) struct ReplicaVisitor;

// === impl PolicyFlags ===

impl PolicyFlags {
    /// Writes the flags into the policy that they belong to.
    pub(super) fn apply(&self, policy: &mut PolicySettings) -> Result<(), ConfigError> {
        let chosen = policy.name();
        let foreign = |flag, policy| Err(ConfigError::ForeignFlag { flag, policy, chosen });
        let prefix_hash = [
            ("prefix-hash-load-factor", self.prefix_hash_load_factor.is_some()),
            ("prefix-hash-virtual-nodes", self.prefix_hash_virtual_nodes.is_some()),
            ("prefix-hash-chars", self.prefix_hash_chars.is_some()),
            ("prefix-hash-key", self.prefix_hash_key.is_some()),
            ("prefix-hash-minimum-load", self.prefix_hash_minimum_load.is_some()),
            ("prefix-hash-exact-kubeai", self.prefix_hash_exact_kubeai),
        ];
        if let PolicySettings::PrefixHash(settings) = policy {
            set(&mut settings.load_factor_percent, self.prefix_hash_load_factor);
            set(&mut settings.virtual_nodes, self.prefix_hash_virtual_nodes);
            set(&mut settings.prefix_chars, self.prefix_hash_chars);
            set(&mut settings.minimum_load, self.prefix_hash_minimum_load);
            set(&mut settings.key, self.prefix_hash_key.map(PrefixKey::from));
            settings.exact_kubeai |= self.prefix_hash_exact_kubeai;
        } else if let Some((flag, _)) = prefix_hash.into_iter().find(|(_, given)| *given) {
            return foreign(flag, PolicyName::PrefixHash);
        }
        match policy {
            PolicySettings::PrefixAware(settings) => set(&mut settings.balancers, self.balancers),
            _ if self.balancers.is_some() => return foreign("balancers", PolicyName::PrefixAware),
            _ => {}
        }
        match policy {
            PolicySettings::Session(settings) if !self.session_headers.is_empty() => {
                settings.headers.clone_from(&self.session_headers);
            }
            PolicySettings::Session(_) => {}
            _ if !self.session_headers.is_empty() => return foreign("session-header", PolicyName::Session),
            _ => {}
        }
        Ok(())
    }
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

impl From<KeyText> for PrefixKey {
    fn from(text: KeyText) -> Self {
        match text {
            KeyText::FirstUserMessage => Self::FirstUserMessage,
            KeyText::WholePrompt => Self::WholePrompt,
        }
    }
}

// === impl ReplicaVisitor ===

impl<'de> Visitor<'de> for ReplicaVisitor {
    type Value = ReplicaConfig;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(
            "a replica's URL, or a map with `url`, `weight`, `adapters`, `kv_events` and `kv_events_replay`",
        )
    }

    fn visit_str<E: Error>(self, url: &str) -> Result<ReplicaConfig, E> {
        url.parse().map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ReplicaConfig, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Written {
            url: ReplicaUrl,
            #[serde(default = "one", deserialize_with = "at_least_one")]
            weight: u32,
            adapters: Option<BTreeSet<String>>,
            kv_events: Option<EventAddress>,
            kv_events_replay: Option<EventAddress>,
        }
        let written = Written::deserialize(MapAccessDeserializer::new(map))?;
        let Written { url, weight, adapters, kv_events, kv_events_replay } = written;
        let kv_events = match (kv_events, kv_events_replay) {
            (None, Some(_)) => return Err(A::Error::custom("kv_events_replay needs kv_events")),
            (publisher, replay) => publisher.map(|EventAddress(publisher)| EventSource {
                publisher,
                replay: replay.map(|address| address.0),
            }),
        };
        Ok(ReplicaConfig { url, weight, adapters, kv_events })
    }
}

fn one() -> u32 {
    1
}

fn at_least_one<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    Option::<NonZero<u32>>::deserialize(deserializer).map(|weight| weight.map_or(1, NonZero::get))
}
