//! Starting and ending a gateway: its listeners, its threads, and the order in which they stop.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    path::PathBuf,
    rc::Rc,
    sync::Arc,
    thread::{self, JoinHandle},
};

use routing::{PolicySettings, Router, SettingsError};
use tokio::{
    net::TcpListener,
    runtime::{Builder, LocalOptions, LocalRuntime},
    sync::mpsc,
    task::spawn_local,
    time::timeout,
};

use crate::{
    Settings, admin,
    config::ConfigError,
    decision_log::DecisionLog,
    kv_events, server,
    shared::{Shared, Stage},
    watch,
    worker::Worker,
};

/// A running gateway. Dropping it ends the gateway at once.
#[derive(Debug)]
pub struct Handle {
    address: SocketAddr,
    admin_address: SocketAddr,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A thread or its runtime cannot be made.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// The decision log cannot be written.
    #[error("cannot write the decision log {}", path.display())]
    DecisionLog {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The settings cannot be used.
    #[error(transparent)]
    Settings(#[from] ConfigError),
}

/// Starts a gateway on threads of its own. Both its addresses can be connected to when this returns; replicas
/// need not be up. The first requests are answered when every replica was checked once, or after a second.
pub fn start(settings: Settings) -> Result<Handle, StartError> {
    settings.validate()?;
    server::raise_file_limit();
    let listen = |address, count| {
        server::bind(address, count, settings.limits.stream_timeout)
            .map_err(|source| StartError::Listen { address, source })
    };
    let listeners = listen(settings.listen, settings.threads.get())?;
    let admin_listener = listen(settings.admin_listen, 1)?.remove(0);
    let address_of = |listener: &StdListener| listener.local_addr().map_err(StartError::Thread);
    let (address, admin_address) = (address_of(&listeners[0])?, address_of(&admin_listener)?);
    let mut shared = Shared::new(settings)?;
    if let Some(settings) = &shared.settings.decision_log {
        let log = DecisionLog::open(settings);
        shared.decision_log =
            Some(log.map_err(|source| StartError::DecisionLog { path: settings.path.clone(), source })?);
    }
    let shared = Arc::new(shared);
    let mut handle = Handle { address, admin_address, shared, threads: Vec::new() };
    let (alive, ended) = mpsc::channel::<()>(1);
    for (number, listener) in listeners.into_iter().enumerate() {
        let (shared, alive) = (Arc::clone(&handle.shared), alive.clone());
        handle.spawn(format!("serve-{number}"), move |runtime| {
            let worker = Rc::new(Worker::new(shared, number));
            runtime.block_on(async {
                match TcpListener::from_std(listener) {
                    Ok(listener) => worker.run(listener).await,
                    Err(error) => tracing::error!(%error, "cannot serve"),
                }
            });
            drop(alive);
        })?;
    }
    drop(alive);
    let shared = Arc::clone(&handle.shared);
    handle
        .spawn("control".into(), move |runtime| runtime.block_on(control(shared, admin_listener, ended)))?;
    Ok(handle)
}

/// The thread beside the data path: operators, health checks, metrics pages, and the end of the drain time.
async fn control(shared: Arc<Shared>, listener: StdListener, mut workers_ended: mpsc::Receiver<()>) {
    spawn_local(watch::watch(Arc::clone(&shared)));
    spawn_local(kv_events::watch(Arc::clone(&shared)));
    match TcpListener::from_std(listener) {
        Ok(listener) => {
            let routes = admin::routes(Arc::clone(&shared));
            spawn_local(async move { axum::serve(listener, routes).await });
        }
        Err(error) => tracing::error!(%error, "cannot serve operators"),
    }
    let mut stage = shared.stage.subscribe();
    // The sender lives in `shared`, so waiting cannot fail.
    let _ = stage.wait_for(|&stage| stage >= Stage::Draining).await;
    let drain_timeout = shared.in_force.load().drain_timeout;
    if timeout(drain_timeout, workers_ended.recv()).await.is_err() {
        tracing::warn!(requests = shared.budget.active(), "the drain time is over; requests are cut off");
        shared.advance(Stage::Ending);
        workers_ended.recv().await;
    }
}

// === impl Handle ===

impl Handle {
    fn spawn(
        &mut self,
        name: String,
        run: impl FnOnce(&LocalRuntime) + Send + 'static,
    ) -> Result<(), StartError> {
        let spawned = thread::Builder::new().name(name).spawn(move || {
            match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
                Ok(runtime) => {
                    run(&runtime);
                    // Names that are being looked up cannot be told to stop, and nobody waits for them.
                    runtime.shutdown_background();
                }
                Err(error) => tracing::error!(%error, "cannot make a runtime"),
            }
        });
        self.threads.push(spawned.map_err(StartError::Thread)?);
        Ok(())
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where operators connect.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// The replicas and their loads.
    pub fn router(&self) -> &Arc<Router> {
        &self.shared.fleet.router
    }

    /// Requests between their head and the last byte of their answer.
    pub fn in_flight(&self) -> u64 {
        self.shared.budget.active()
    }

    /// Changes the policy from the next pick on.
    pub fn set_policy(&self, policy: PolicySettings) -> Result<(), SettingsError> {
        self.shared.fleet.router.set_policy(policy)
    }

    /// Takes over the parts of `settings` that can change at run time, and logs which changes have to wait for the
    /// next start. Replicas that stay keep their load.
    pub fn apply(&self, settings: &Settings) -> Result<(), ConfigError> {
        settings.validate()?;
        let shared = &self.shared;
        let (settings, mut waiting) = settings.taken_over(&shared.settings);
        shared.security.trust(&settings)?;
        // A policy that was set meanwhile by other means stays, unless the change is about the policy.
        if settings.policy != shared.in_force.load().policy {
            shared.fleet.router.set_policy(settings.policy.clone())?;
        }
        shared.fleet.router.set_health(settings.health.clone())?;
        shared.fleet.set_replicas(&settings.replicas);
        if shared.fleet.follows_other_events(&settings.replicas) {
            waiting.push("kv_events of a replica that stays".to_owned());
        }
        shared.in_force.store(Arc::new(settings));
        shared.applied.send_replace(());
        if !waiting.is_empty() {
            tracing::warn!(keys = waiting.join(", "), "these changes wait for the next start");
        }
        Ok(())
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Lets requests in progress end, for as long as the drain time; nothing new is accepted.
    pub fn drain(&self) {
        self.shared.advance(Stage::Draining);
    }

    /// Ends everything now.
    pub fn end(&self) {
        self.shared.advance(Stage::Draining);
        self.shared.advance(Stage::Ending);
    }

    /// Whether the gateway has ended.
    pub fn is_over(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Waits for the end; something else must bring it about.
    pub fn join(mut self) {
        self.join_threads();
    }

    /// Drains and waits for the end.
    pub fn shutdown(self) {
        self.drain();
        self.join();
    }

    fn join_threads(&mut self) {
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the gateway panicked");
            }
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.end();
        self.join_threads();
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, sync::mpsc, time::Duration};

    use super::*;

    #[test]
    fn what_blocks_a_thread_aside_does_not_hold_up_the_end() {
        let settings = Settings::new(vec!["http://127.0.0.1:1".parse().unwrap()]).unwrap();
        let address = (Ipv4Addr::LOCALHOST, 0).into();
        let shared = Arc::new(Shared::new(settings).unwrap());
        let mut handle = Handle { address, admin_address: address, shared, threads: Vec::new() };
        let (release, held) = mpsc::channel::<()>();
        let (begin, begun) = mpsc::channel();
        // As a look-up of a name whose server does not answer does.
        let look_up = move || {
            begin.send(()).unwrap();
            let _ = held.recv();
        };
        let run = move |runtime: &LocalRuntime| {
            runtime.block_on(async { drop(tokio::task::spawn_blocking(look_up)) });
            begun.recv().unwrap();
        };
        handle.spawn("test".into(), run).unwrap();
        for _ in 0..1000 {
            if handle.is_over() {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        assert!(handle.is_over());
        drop(release);
    }
}
