//! What to serve, and how.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use protocol::kv_events::EventFormat;

use super::{Adapter, FixedTimes};
use crate::{InvalidProfile, Profile};

/// Settings of a fleet of simulated engines.
#[derive(Clone, Debug)]
pub struct Config {
    /// The engine.
    pub profile: Profile,
    /// How many of them.
    pub replicas: u16,
    /// Where to listen.
    pub host: IpAddr,
    /// Port of the first replica; the others follow. With 0 the system chooses one for each.
    pub port: u16,
    /// Threads that share the replicas.
    pub threads: usize,
    /// Every step takes this many times less than the profile says.
    pub speedup: f64,
    /// Names of the model. The first is the one in metrics.
    pub model_names: Vec<String>,
    /// Adapters that are loaded from the start.
    pub adapters: Vec<Adapter>,
    /// Where the model ends its answers by itself, unless told to ignore the end: about after so many tokens,
    /// half as many to half as many again, by the prompt. Without it, answers run to their `max_tokens`, and
    /// chat answers without one end after 256 tokens.
    pub output_tokens: Option<u32>,
    /// Not ready until this long after the start.
    pub startup_delay: Duration,
    /// Larger request bodies are refused.
    pub max_body_bytes: usize,
    /// Answer at these times instead of by the profile: no batch, no queue, no memory.
    pub fixed_times: Option<FixedTimes>,
    /// Whether what happens to the prefix caches is published.
    pub kv_events: Option<KvEvents>,
}

/// Where and how what happens to the prefix caches is published.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct KvEvents {
    /// Port of the first replica's publisher; the others follow. With 0 the system chooses one for each.
    pub port: u16,
    /// The same for the sockets that replay what was published before.
    pub replay_port: u16,
    /// Whose messages they are like.
    pub format: EventFormat,
}

/// What is wrong with a [`Config`].
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum InvalidConfig {
    /// The profile's numbers.
    #[error(transparent)]
    Profile(#[from] InvalidProfile),
    /// A speed-up that is none.
    #[error("speedup must be a number above 0, not {0}")]
    Speedup(f64),
    /// Nothing to serve.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
    /// One name for two.
    #[error("{0:?} is the name of two models or adapters: name each one once")]
    Duplicate(String),
    /// No name to call the model by.
    #[error("the model needs a name that is not empty")]
    NoName,
    /// Consecutive ports run out.
    #[error("{replicas} consecutive ports from {port} on go beyond 65535: choose a lower port, or port 0")]
    Ports {
        /// The first.
        port: u16,
        /// How many.
        replicas: u16,
    },
}

impl Config {
    /// One replica of `profile` on a port of 127.0.0.1 that the system chooses.
    pub fn new(profile: Profile) -> Self {
        let model = match profile.name.as_str() {
            "l4-llama-3.1-8b-fp8" => "llama-3.1-8b-instruct-fp8-l4",
            _ => "llama-3.1-8b-instruct",
        };
        Self {
            profile,
            replicas: 1,
            host: Ipv4Addr::LOCALHOST.into(),
            port: 0,
            threads: 1,
            speedup: 1.0,
            model_names: vec![model.to_owned()],
            adapters: Vec::new(),
            output_tokens: None,
            startup_delay: Duration::ZERO,
            max_body_bytes: 64 << 20,
            fixed_times: None,
            kv_events: None,
        }
    }

    /// Says what is wrong with the settings.
    pub fn check(&self) -> Result<(), InvalidConfig> {
        self.profile.check()?;
        if !(self.speedup > 0.0 && self.speedup.is_finite()) {
            return Err(InvalidConfig::Speedup(self.speedup));
        }
        for (name, count) in [
            ("replicas", self.replicas.into()),
            ("threads", self.threads),
            ("max_body_bytes", self.max_body_bytes),
            ("output_tokens", self.output_tokens.map_or(1, |tokens| tokens as usize)),
        ] {
            if count == 0 {
                return Err(InvalidConfig::Zero(name));
            }
        }
        if self.model_names.is_empty() || self.model_names.iter().any(String::is_empty) {
            return Err(InvalidConfig::NoName);
        }
        let mut names = BTreeSet::new();
        let adapters = self.adapters.iter().map(|adapter| &adapter.name);
        if let Some(name) = self.model_names.iter().chain(adapters).find(|name| !names.insert(*name)) {
            return Err(InvalidConfig::Duplicate(name.clone()));
        }
        let events = self.kv_events.map_or([0; 2], |events| [events.port, events.replay_port]);
        for port in [self.port, events[0], events[1]] {
            if port != 0 && port.checked_add(self.replicas - 1).is_none() {
                return Err(InvalidConfig::Ports { port, replicas: self.replicas });
            }
        }
        Ok(())
    }
}
