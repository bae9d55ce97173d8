//! Why a configuration cannot be used.

use std::{num::NonZero, path::PathBuf};

use routing::{PolicyName, SettingsError};
use tls::TlsError;

use super::ReplicaUrl;

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file does not say what it should.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line of the fault, from 1.
        line: u64,
        /// Column of the fault, from 1.
        column: u64,
        /// What is wrong.
        message: String,
    },
    /// A balancer needs something to balance.
    #[error("no replicas: name at least one with --replica http://host:port or under `replicas` in the file")]
    NoReplicas,
    /// The same replica twice.
    #[error("the replica {0} is named twice, maybe in another spelling: give it a weight instead")]
    Twice(ReplicaUrl),
    /// A flag of one policy beside another policy.
    #[error("--{flag} belongs to the policy {policy}, but the policy is {chosen}")]
    ForeignFlag {
        /// The flag.
        flag: &'static str,
        /// Its policy.
        policy: PolicyName,
        /// The policy in force.
        chosen: PolicyName,
    },
    /// A port for replays, and none for events.
    #[error("kv_events_replay_port needs kv_events_port: what is published there is what is replayed")]
    NoEventsPort,
    /// More replicas on a host than ports.
    #[error(
        "the ports after kv_events_port or kv_events_replay_port {0} go beyond 65535: choose a lower one"
    )]
    EventsPorts(NonZero<u16>),
    /// A limit that nothing could keep.
    #[error("`{0}` is 0, which no request could keep: it must be more, and may be large")]
    Zero(&'static str),
    /// Not a path to ask for.
    #[error("`checks.path` is `{0}`: it must begin with / and have no spaces, as /health does")]
    CheckPath(String),
    /// A certificate without its key, or a key without its certificate.
    #[error("tls.{0} and tls.{1} go together: give both or none")]
    HalfIdentity(&'static str, &'static str),
    /// A file of certificates that cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A value out of range.
    #[error(transparent)]
    Value(#[from] SettingsError),
}
