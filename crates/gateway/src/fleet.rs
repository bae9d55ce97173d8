//! The replicas as the gateway sees them: the router's replicas, each with its address and its counters.
//!
//! Both sides are keyed by the replica's id, so a replica that leaves and returns starts with nothing of its
//! former life, and one whose weight changes keeps everything.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use routing::{Health, PolicySettings, Replica, ReplicaSpec, Router, SettingsError};
use tls::ServerName;
use tokio::{
    sync::{Mutex as AsyncMutex, Notify},
    task::spawn_local,
};

use crate::{
    config::{EventSource, ReplicaConfig},
    metrics::ReplicaMetrics,
    security::{Secret, Security},
};

/// All replicas of the gateway.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) router: Arc<Router>,
    /// Ordered by id.
    backends: ArcSwap<Vec<Arc<Backend>>>,
    /// Every adapter that some replica is known to have.
    adapters: ArcSwap<BTreeSet<String>>,
    origin: Instant,
    /// Held by those who change something.
    changing: Mutex<()>,
    /// Told when the replicas have changed.
    pub(crate) changed: Notify,
}

/// Where a replica is, and what is counted for it.
#[derive(Debug)]
pub(crate) struct Backend {
    /// The replica's id.
    pub(crate) id: u64,
    /// `host:port` of its URL.
    pub(crate) authority: Box<str>,
    /// What its certificate must be for, if its URL is `https`.
    name: Option<ServerName<'static>>,
    /// The path of its URL, without a final slash; usually empty.
    pub(crate) path_prefix: Box<str>,
    /// What its name was last resolved to; empty before the first time.
    addresses: ArcSwap<Vec<SocketAddr>>,
    /// Held while its name is looked up.
    looking_up: Arc<AsyncMutex<()>>,
    /// Where it publishes what happens to its cache.
    pub(crate) kv_events: Option<EventSource>,
    pub(crate) metrics: ReplicaMetrics,
}

// === impl Fleet ===

impl Fleet {
    pub(crate) fn new(policy: PolicySettings, replicas: &[ReplicaConfig]) -> Result<Self, SettingsError> {
        let fleet = Self {
            router: Arc::new(Router::new(policy, specs(replicas))?),
            backends: ArcSwap::default(),
            adapters: ArcSwap::default(),
            origin: Instant::now(),
            changing: Mutex::new(()),
            changed: Notify::new(),
        };
        fleet.follow(&fleet.router.replicas(), replicas, false);
        Ok(fleet)
    }

    /// Changes the replicas. Those that stay keep their load, health and counters. Whatever replica a pick gives
    /// meanwhile has its backend: those that join have one before they can be picked, and those that leave keep
    /// theirs until they cannot.
    pub(crate) fn set_replicas(&self, configs: &[ReplicaConfig]) {
        let _changing = self.changing.lock();
        self.router.set_replicas_after(specs(configs), |replicas| self.follow(replicas, configs, true));
        self.follow(&self.router.replicas(), configs, false);
        self.changed.notify_waiters();
    }

    /// Has a backend for each of `replicas`, and where `keeps` for those before, too.
    fn follow(&self, replicas: &[Arc<Replica>], configs: &[ReplicaConfig], keeps: bool) {
        let old = self.backends.load();
        let by_url: HashMap<&str, &ReplicaConfig> =
            configs.iter().map(|config| (config.url.as_str(), config)).collect();
        let mut backends: BTreeMap<u64, Arc<Backend>> = replicas
            .iter()
            .filter_map(|replica| {
                let known = place(&old, replica.id).map(|place| Arc::clone(&old[place]));
                let new = || Some(Arc::new(Backend::new(replica.id, by_url.get(&*replica.spec.name)?)));
                Some((replica.id, known.or_else(new)?))
            })
            .collect();
        if keeps {
            backends.extend(old.iter().map(|backend| (backend.id, Arc::clone(backend))));
        }
        self.backends.store(Arc::new(backends.into_values().collect()));
        let adapters = replicas.iter().filter_map(|replica| replica.spec.adapters.as_ref()).flatten();
        self.adapters.store(Arc::new(adapters.cloned().collect()));
    }

    /// The time as routing counts it.
    pub(crate) fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// A moment as routing counts it.
    pub(crate) fn at(&self, moment: Instant) -> Duration {
        moment.saturating_duration_since(self.origin)
    }

    /// What the gateway knows of the replica with this id.
    pub(crate) fn backend(&self, id: u64) -> Option<Arc<Backend>> {
        let backends = self.backends.load();
        place(&backends, id).map(|place| Arc::clone(&backends[place]))
    }

    /// The replica with this id, as it is now.
    pub(crate) fn replica(&self, id: u64) -> Option<Arc<Replica>> {
        self.router.replicas().iter().find(|replica| replica.id == id).cloned()
    }

    /// Every replica with what the gateway knows of it, in the order of the configuration.
    pub(crate) fn members(&self) -> Vec<(Arc<Replica>, Arc<Backend>)> {
        let replicas = self.router.replicas();
        replicas.iter().filter_map(|replica| Some((Arc::clone(replica), self.backend(replica.id)?))).collect()
    }

    /// Whether a replica's cache events come from elsewhere than it says there.
    pub(crate) fn follows_other_events(&self, configs: &[ReplicaConfig]) -> bool {
        self.members().iter().any(|(replica, backend)| {
            let mut named = configs.iter().filter(|config| config.url.as_str() == &*replica.spec.name);
            named.any(|config| config.kv_events != backend.kv_events)
        })
    }

    /// Whether `model` names an adapter of some replica.
    pub(crate) fn has_adapter(&self, model: &str) -> bool {
        self.adapters.load().contains(model)
    }

    /// Whether some replica says which adapters it has.
    pub(crate) fn has_adapters(&self) -> bool {
        !self.adapters.load().is_empty()
    }

    /// Whether some replica takes requests now.
    pub(crate) fn is_ready(&self) -> bool {
        let now = self.now();
        let takes = |health: &Health| health.eligible(now) || health.is_untried(now);
        self.router.replicas().iter().any(|replica| takes(&replica.health))
    }
}

fn place(backends: &[Arc<Backend>], id: u64) -> Option<usize> {
    backends.binary_search_by_key(&id, |backend| backend.id).ok()
}

fn specs(replicas: &[ReplicaConfig]) -> Vec<ReplicaSpec> {
    replicas
        .iter()
        .map(|replica| ReplicaSpec {
            name: replica.url.as_str().into(),
            weight: replica.weight,
            adapters: replica.adapters.clone(),
        })
        .collect()
}

// === impl Backend ===

impl Backend {
    pub(crate) fn new(id: u64, config: &ReplicaConfig) -> Self {
        let authority = config.url.authority();
        Self {
            id,
            authority: authority.into(),
            name: config.url.secure_name(),
            path_prefix: config.url.path_prefix().into(),
            addresses: ArcSwap::from_pointee(authority.parse().into_iter().collect()),
            looking_up: Arc::default(),
            kv_events: config.kv_events.clone(),
            metrics: ReplicaMetrics::default(),
        }
    }

    /// Where to connect, the best first; empty while its name has not been resolved.
    pub(crate) fn addresses(&self) -> Arc<Vec<SocketAddr>> {
        self.addresses.load_full()
    }

    /// Stands for a look-up that nobody answers.
    #[cfg(test)]
    pub(crate) fn look_up_in_vain(&self) -> tokio::sync::OwnedMutexGuard<()> {
        Arc::clone(&self.looking_up).try_lock_owned().expect("nobody looks it up")
    }

    #[cfg(test)]
    pub(crate) fn set_addresses(&self, addresses: Vec<SocketAddr>) {
        self.addresses.store(Arc::new(addresses));
    }

    /// How to meet it under TLS, if its URL says so.
    pub(crate) fn secret(&self, security: &Security) -> io::Result<Option<Secret>> {
        self.name.as_ref().map(|name| security.of_replica(name)).transpose()
    }

    /// Whether its URL names it, and holds no address.
    pub(crate) fn has_name(&self) -> bool {
        self.authority.parse::<SocketAddr>().is_err()
    }

    /// Looks its name up again, unless its URL holds an address already. Keeps the last answer on failure. Whoever
    /// stops waiting does not stop the look-up, and there is one at a time: a name server that is silent takes seconds
    /// and a thread for each.
    pub(crate) async fn resolve(self: &Arc<Self>) {
        if !self.has_name() {
            return;
        }
        match Arc::clone(&self.looking_up).try_lock_owned() {
            Ok(held) => {
                let backend = Arc::clone(self);
                let look_up = spawn_local(async move {
                    backend.look_up().await;
                    drop(held);
                });
                // It can fail only with the runtime, at the end.
                let _ = look_up.await;
            }
            Err(_) => drop(self.looking_up.lock().await),
        }
    }

    async fn look_up(&self) {
        match tokio::net::lookup_host(&*self.authority).await {
            Ok(found) => {
                let found: Vec<SocketAddr> = found.collect();
                if !found.is_empty() && found != **self.addresses.load() {
                    self.addresses.store(Arc::new(found));
                }
            }
            Err(error) => tracing::debug!(replica = %self.authority, %error, "name not resolved"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    use super::*;

    #[test]
    fn a_replica_that_can_be_picked_has_its_backend() {
        let configs: Vec<ReplicaConfig> =
            (1..500).map(|port| format!("http://127.0.0.1:{port}").parse().unwrap()).collect();
        let fleet = Fleet::new("random".parse().unwrap(), &configs[..1]).unwrap();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let missing = scope.spawn(|| {
                let mut missing = 0;
                while !over.load(SeqCst) {
                    // Nobody leaves here: whoever was in the pool still is.
                    let replicas = fleet.router.replicas();
                    missing += replicas.iter().filter(|replica| fleet.backend(replica.id).is_none()).count();
                }
                missing
            });
            for count in (1..configs.len()).step_by(5) {
                fleet.set_replicas(&configs[..count]);
            }
            over.store(true, SeqCst);
            assert_eq!(missing.join().unwrap(), 0);
        });
        fleet.set_replicas(&configs[..2]);
        assert_eq!((fleet.backends.load().len(), fleet.members().len()), (2, 2), "the others are dropped");
    }
}
