//! The load balancer: clients on one side, replicas of an inference server on the other.
//!
//! [`start`] takes [`Settings`] and returns a [`Handle`]; the gateway runs on threads of its own until it is shut
//! down. Each serving thread has its own listener on the shared port, its own connections to replicas, and all
//! tasks of the requests it accepted; what is shared is balancing state in atomics. [`run`] is the same as a
//! program: signals end it, and its configuration file is followed.
//!
//! What it promises to clients and replicas:
//! - bodies and end-to-end fields are forwarded as they came, to the byte; a stream is passed on as it comes;
//! - a client that leaves cancels its request at the replica, at every stage;
//! - a stream that breaks off looks broken to the client, never complete;
//! - nothing that an engine may have seen is repeated elsewhere, unless the operator chose so, and there only where a
//!   kept connection closed as idle ones do.
//!
//! It speaks TLS to clients if it has a certificate, and to replicas whose URL is `https`. It does not speak HTTP/2.
//! Informational answers (1xx) go on to clients of HTTP/1.1, but for 100, which it gives its clients itself.

mod admin;
mod config;
mod decision_log;
mod error;
mod fleet;
mod flight;
mod forward;
mod http1;
mod kv_events;
mod lifecycle;
mod metrics;
mod probe;
mod relay;
mod security;
mod server;
mod shared;
mod signals;
mod upstream;
mod watch;
mod wire;
mod worker;

pub use config::{
    AccessLog, CheckConfig, Checks, Config, ConfigError, EventSource, HealthConfig, LimitConfig, Limits,
    LogFormat, LogLevel, PolicyFlags, ReplicaConfig, ReplicaUrl, RetryConfig, Seconds, Settings, TlsConfig,
    ValueError,
};
pub use decision_log::DecisionLogSettings;
pub use error::Reason;
pub use lifecycle::{Handle, StartError, start};
pub use security::TlsSettings;
pub use signals::{ConfigFile, run};
