//! What can be set, by file and by flag, each once.
//!
//! A [`Config`] is what was written; every part of it may be absent. Flags go over the file, the file over the
//! defaults, and the result is [`Settings`]. In a file the keys are those of the structs; the flag of a key is
//! named beside it. Unknown keys are errors, and every error of a file names its line, its column and its key.

mod certificates;
mod error;
mod reload;
mod sections;
mod units;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    num::NonZero,
    path::{Path, PathBuf},
    str::FromStr,
    thread,
    time::Duration,
};

use routing::{HealthSettings, PolicyName, PolicySettings, RetrySettings};
use serde::{Deserialize, Deserializer};

use crate::{DecisionLogSettings, TlsSettings};
pub use certificates::TlsConfig;
pub use error::ConfigError;
pub use sections::{CheckConfig, Checks, HealthConfig, LimitConfig, Limits, PolicyFlags, RetryConfig};
pub use units::{EventSource, ReplicaUrl, Seconds, ValueError};

fn policy_help() -> String {
    let names = PolicyName::ALL.map(PolicyName::label).join(", ");
    format!("Policy that picks a replica: {names} [default: {}]", PolicySettings::default().name().label())
}

/// What was written in a file or in flags.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address for clients [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// Address for operators: metrics, the fleet, changes [default: 127.0.0.1:8081].
    #[arg(long, value_name = "ADDRESS")]
    pub admin_listen: Option<SocketAddr>,
    /// Threads that serve clients [default: one per core].
    #[arg(long, value_name = "NUMBER")]
    pub threads: Option<NonZero<usize>>,
    /// Base URL of a replica; repeat it for each one.
    #[serde(deserialize_with = "or_default")]
    #[arg(long = "replica", value_name = "URL")]
    pub replicas: Vec<ReplicaConfig>,
    /// Policy that picks a replica.
    #[arg(long, value_name = "NAME", help = policy_help())]
    pub policy: Option<PolicySettings>,
    #[serde(skip)]
    #[command(flatten)]
    policy_flags: PolicyFlags,
    /// Seconds between two looks at the replicas' metrics pages; 0 for never [default: 1].
    #[arg(long, value_name = "SECONDS")]
    pub scrape_interval_s: Option<Seconds>,
    /// Port on which the replicas publish what happens to their prefix caches (vLLM's and SGLang's
    /// --kv-events-config); several replicas of one host use the ports after it, in order. A replica's own
    /// `kv_events` in the file goes over it.
    #[arg(long, value_name = "PORT")]
    pub kv_events_port: Option<NonZero<u16>>,
    /// Port on which they replay what was missed, likewise.
    #[arg(long, value_name = "PORT")]
    pub kv_events_replay_port: Option<NonZero<u16>>,
    /// Seconds that requests in progress may take to end after SIGTERM [default: 120].
    #[arg(long, value_name = "SECONDS")]
    pub drain_timeout_s: Option<Seconds>,
    /// Write routed requests to this file: hashes, lengths and times, no text; see `simulate replay`.
    #[arg(long, value_name = "FILE")]
    pub decision_log: Option<PathBuf>,
    /// MiB that the decision log may take, older files included [default: 1024].
    #[arg(long, value_name = "MIB")]
    pub decision_log_max_mib: Option<NonZero<u32>>,
    /// Secret that the hashes in the decision log are keyed with; give it to make the logs of several runs or
    /// balancers comparable [default: drawn at the start].
    #[arg(long, value_name = "TEXT", env = "EVENLOAD_DECISION_LOG_SALT", hide_env_values = true)]
    pub decision_log_salt: Option<String>,
    /// Which requests get a line in the log [default: errors].
    #[arg(long, value_name = "WHICH")]
    pub access_log: Option<AccessLog>,
    /// Least severity of what is logged [default: info].
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<LogLevel>,
    /// Form of log lines [default: text].
    #[arg(long, value_name = "FORM")]
    pub log_format: Option<LogFormat>,
    /// Sizes and times that clients and replicas must keep.
    #[serde(deserialize_with = "or_default")]
    #[command(flatten, next_help_heading = "Limits")]
    pub limits: LimitConfig,
    /// Active checks.
    #[serde(deserialize_with = "or_default")]
    #[command(flatten, next_help_heading = "Health")]
    pub checks: CheckConfig,
    /// What checks and failures lead to.
    #[serde(deserialize_with = "or_default")]
    #[command(flatten, next_help_heading = "Health")]
    pub health: HealthConfig,
    /// Repeating failed attempts.
    #[serde(deserialize_with = "or_default")]
    #[command(flatten, next_help_heading = "Retries")]
    pub retry: RetryConfig,
    /// Certificates: ours, and whose we trust.
    #[serde(deserialize_with = "or_default")]
    #[command(flatten, next_help_heading = "TLS")]
    pub tls: TlsConfig,
}

/// A replica in the configuration: its URL, or its URL and more.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplicaConfig {
    /// Where it is.
    pub url: ReplicaUrl,
    /// Its share of traffic relative to the others.
    pub weight: u32,
    /// The adapters it serves; any may be tried where this is not said.
    pub adapters: Option<BTreeSet<String>>,
    /// Where it publishes what happens to its prefix cache, if it does.
    pub kv_events: Option<EventSource>,
}

/// Which requests get a line in the log.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum AccessLog {
    /// None.
    Off,
    /// Those that got no whole answer, or a 5xx.
    #[default]
    Errors,
    /// All.
    All,
}

/// Least severity of what is logged. The gateway emits `tracing` events; the program that runs it writes them.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// What needs somebody.
    Error,
    /// What may need somebody.
    Warn,
    /// Changes of state.
    #[default]
    Info,
    /// Why a request went wrong.
    Debug,
    /// Everything.
    Trace,
}

/// Form of log lines.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What a gateway runs with.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Address for clients; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Address for operators.
    pub admin_listen: SocketAddr,
    /// Threads that serve clients.
    pub threads: NonZero<usize>,
    /// The replicas at the start.
    pub replicas: Vec<ReplicaConfig>,
    /// The policy at the start.
    pub policy: PolicySettings,
    /// Time between two looks at the replicas' metrics pages; zero for never.
    pub scrape_interval: Duration,
    /// Time that requests in progress may take to end at shutdown.
    pub drain_timeout: Duration,
    /// Where routed requests are kept, if they are.
    pub decision_log: Option<DecisionLogSettings>,
    /// Which requests get a line in the log.
    pub access_log: AccessLog,
    /// Least severity of what is logged.
    pub log_level: LogLevel,
    /// Form of log lines.
    pub log_format: LogFormat,
    /// Sizes and times.
    pub limits: Limits,
    /// Active checks.
    pub checks: Checks,
    /// What checks and failures lead to.
    pub health: HealthSettings,
    /// Repeating failed attempts.
    pub retry: RetrySettings,
    /// Certificates: ours, and whose we trust.
    pub tls: TlsSettings,
}

/// A key without a value, as when all that stands under it is commented out, says nothing.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

// === impl Config ===

impl Config {
    /// Reads the text of a file; `path` is its name in errors.
    pub fn from_yaml(text: &str, path: &Path) -> Result<Self, ConfigError> {
        if text.lines().all(|line| line.trim_start().is_empty() || line.trim_start().starts_with('#')) {
            return Ok(Self::default());
        }
        let options = serde_saphyr::options! { with_snippet: false };
        let mut track = serde_path_to_error::Track::new();
        let read = serde_saphyr::with_deserializer_from_str_with_options(text, options, |deserializer| {
            Self::deserialize(serde_path_to_error::Deserializer::new(deserializer, &mut track))
        });
        read.map_err(|error| {
            let location = error.location();
            let (line, column) = location.map_or((1, 1), |location| (location.line(), location.column()));
            let formatter = serde_saphyr::UserMessageFormatter;
            let message = serde_saphyr::MessageFormatter::format_message(&formatter, &error);
            let keys = track.path().to_string();
            let message = match keys.rsplit('.').next() {
                // Of an unknown key that is said already.
                Some(key) if !key.is_empty() && !message.contains(key) => format!("`{keys}`: {message}"),
                _ => message.into_owned(),
            };
            ConfigError::Parse { path: path.into(), line, column, message }
        })
    }

    /// These words, and where they are silent, those of `under`.
    #[must_use]
    pub fn over(self, under: Self) -> Self {
        Self {
            listen: self.listen.or(under.listen),
            admin_listen: self.admin_listen.or(under.admin_listen),
            threads: self.threads.or(under.threads),
            replicas: if self.replicas.is_empty() { under.replicas } else { self.replicas },
            policy: self.policy.or(under.policy),
            policy_flags: self.policy_flags,
            scrape_interval_s: self.scrape_interval_s.or(under.scrape_interval_s),
            kv_events_port: self.kv_events_port.or(under.kv_events_port),
            kv_events_replay_port: self.kv_events_replay_port.or(under.kv_events_replay_port),
            drain_timeout_s: self.drain_timeout_s.or(under.drain_timeout_s),
            decision_log: self.decision_log.or(under.decision_log),
            decision_log_max_mib: self.decision_log_max_mib.or(under.decision_log_max_mib),
            decision_log_salt: self.decision_log_salt.or(under.decision_log_salt),
            access_log: self.access_log.or(under.access_log),
            log_level: self.log_level.or(under.log_level),
            log_format: self.log_format.or(under.log_format),
            limits: self.limits.over(under.limits),
            checks: self.checks.over(under.checks),
            health: self.health.over(under.health),
            retry: self.retry.over(under.retry),
            tls: self.tls.over(under.tls),
        }
    }

    /// Fills what is not said with the defaults, and refuses what cannot be used.
    pub fn resolve(&self) -> Result<Settings, ConfigError> {
        let mut policy = self.policy.clone().unwrap_or_default();
        self.policy_flags.apply(&mut policy)?;
        let checks = self.checks.resolve();
        let settings = Settings {
            listen: self.listen.unwrap_or_else(|| (Ipv4Addr::LOCALHOST, 8080).into()),
            admin_listen: self.admin_listen.unwrap_or_else(|| (Ipv4Addr::LOCALHOST, 8081).into()),
            threads: self
                .threads
                .unwrap_or_else(|| thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN)),
            replicas: self.replicas_with_events()?,
            policy,
            scrape_interval: self.scrape_interval_s.map_or(Duration::from_secs(1), Duration::from),
            drain_timeout: self.drain_timeout_s.map_or(Duration::from_secs(120), Duration::from),
            decision_log: self.decision_log.clone().map(|path| DecisionLogSettings {
                path,
                max_bytes: u64::from(self.decision_log_max_mib.map_or(1024, NonZero::get)) << 20,
                salt: self.decision_log_salt.clone(),
            }),
            access_log: self.access_log.unwrap_or_default(),
            log_level: self.log_level.unwrap_or_default(),
            log_format: self.log_format.unwrap_or_default(),
            limits: self.limits.resolve(),
            health: HealthSettings { wait_for_check: !checks.interval.is_zero(), ..self.health.resolve() },
            checks,
            retry: self.retry.resolve(),
            tls: self.tls.resolve()?,
        };
        settings.validate()?;
        Ok(settings)
    }

    /// The replicas, with the ports of their cache events.
    fn replicas_with_events(&self) -> Result<Vec<ReplicaConfig>, ConfigError> {
        let mut replicas = self.replicas.clone();
        let Some(first) = self.kv_events_port else {
            return match self.kv_events_replay_port {
                Some(_) => Err(ConfigError::NoEventsPort),
                None => Ok(replicas),
            };
        };
        let mut on_host: BTreeMap<String, u16> = BTreeMap::new();
        for replica in &mut replicas {
            let authority = replica.url.authority();
            let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host).to_owned();
            let before = on_host.entry(host.clone()).or_default();
            let address = |first: NonZero<u16>| {
                let port = first.checked_add(*before).ok_or(ConfigError::EventsPorts(first))?;
                Ok::<Box<str>, ConfigError>(format!("{host}:{port}").into())
            };
            if replica.kv_events.is_none() {
                let replay = self.kv_events_replay_port.map(address).transpose()?;
                replica.kv_events = Some(EventSource { publisher: address(first)?, replay });
            }
            *before += 1;
        }
        Ok(replicas)
    }
}

// === impl Settings ===

impl Settings {
    /// Defaults for these replicas.
    pub fn new(replicas: Vec<ReplicaConfig>) -> Result<Self, ConfigError> {
        Config { replicas, ..Config::default() }.resolve()
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        if self.replicas.is_empty() {
            return Err(ConfigError::NoReplicas);
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = self.replicas.iter().find(|replica| !seen.insert(replica.url.place())) {
            return Err(ConfigError::Twice(twice.url.clone()));
        }
        let (limits, checks) = (&self.limits, &self.checks);
        for (key, is_zero) in [
            ("limits.max_body_bytes", limits.max_body == 0),
            ("limits.max_buffered_bytes", limits.max_buffered == 0),
            ("limits.header_timeout_s", limits.header_timeout.is_zero()),
            ("limits.body_timeout_s", limits.body_timeout.is_zero()),
            ("limits.idle_timeout_s", limits.idle_timeout.is_zero()),
            ("limits.connect_timeout_s", limits.connect_timeout.is_zero()),
            ("limits.response_timeout_s", limits.response_timeout.is_zero()),
            ("limits.stream_timeout_s", limits.stream_timeout.is_zero()),
            ("checks.fast_interval_s", checks.fast_interval.is_zero()),
            ("checks.timeout_s", checks.timeout.is_zero()),
        ] {
            if is_zero {
                return Err(ConfigError::Zero(key));
            }
        }
        if !checks.path.starts_with('/') || !checks.path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ConfigError::CheckPath(checks.path.clone()));
        }
        self.policy.validate()?;
        self.health.validate()?;
        self.retry.validate()?;
        Ok(())
    }
}

// === impl ReplicaConfig ===

impl ReplicaConfig {
    /// A replica of weight 1.
    pub fn new(url: ReplicaUrl) -> Self {
        Self { url, weight: 1, adapters: None, kv_events: None }
    }
}

impl FromStr for ReplicaConfig {
    type Err = ValueError;

    fn from_str(url: &str) -> Result<Self, ValueError> {
        url.parse().map(Self::new)
    }
}

impl<'de> Deserialize<'de> for ReplicaConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(sections::ReplicaVisitor)
    }
}

#[cfg(test)]
mod tests;
