//! Threads, listeners, start and stop.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    thread::{self, JoinHandle},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    runtime::{Builder, LocalOptions, LocalRuntime},
    sync::watch,
};

use protocol::zmtp::SocketKind;

use super::{
    Config, InvalidConfig, connection::accept, publisher::Publisher, replica::Replica, timer::Timer,
};

/// Connections that wait to be accepted; load generators open thousands at once.
const BACKLOG: i32 = 4096;

/// Running engines. Dropping it stops them.
#[derive(Debug)]
pub struct Fleet {
    addresses: Vec<SocketAddr>,
    kv_events: Vec<[SocketAddr; 2]>,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

/// Why no engine was started.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The settings cannot work.
    #[error(transparent)]
    Config(#[from] InvalidConfig),
    /// A port cannot be had.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// No thread or event loop could be made.
    #[error("cannot start a thread of the engine: {0}")]
    Thread(#[source] io::Error),
}

/// What one replica listens on.
#[derive(Debug)]
struct Sockets {
    http: TcpListener,
    /// The publisher of cache events, and their replay.
    events: Option<[TcpListener; 2]>,
}

/// Starts the engines and returns when all of them accept connections.
pub fn serve(config: Config) -> Result<Fleet, ServeError> {
    config.check()?;
    let listeners = (0..config.replicas)
        .map(|replica| {
            let http = bind(&config, config.port, replica)?;
            let Some(events) = config.kv_events else { return Ok((http, None)) };
            let publisher = bind(&config, events.port, replica)?;
            Ok((http, Some([publisher, bind(&config, events.replay_port, replica)?])))
        })
        .collect::<Result<Vec<_>, ServeError>>()?;
    let addresses = listeners.iter().map(|((address, _), _)| *address).collect();
    let events = listeners.iter().filter_map(|(_, events)| events.as_ref());
    let kv_events = events.map(|[publisher, replay]| [publisher.0, replay.0]).collect();
    let (stop, stopped) = watch::channel(false);
    let count = config.threads.min(listeners.len());
    let config = Arc::new(config);
    let mut shares: Vec<Vec<Sockets>> = (0..count).map(|_| Vec::new()).collect();
    for (place, ((_, http), events)) in listeners.into_iter().enumerate() {
        let events = events.map(|[(_, publisher), (_, replay)]| [publisher, replay]);
        shares[place % count].push(Sockets { http, events });
    }
    let mut fleet = Fleet { addresses, kv_events, stop, threads: Vec::with_capacity(count) };
    for share in shares {
        let (config, stopped) = (config.clone(), stopped.clone());
        let (report, reported) = std::sync::mpsc::sync_channel(1);
        let thread = thread::Builder::new()
            .name("engine".into())
            .spawn(move || match start(&config, share) {
                Ok(runtime) => {
                    let _ = report.send(Ok(()));
                    runtime.block_on(wait(stopped));
                }
                Err(error) => drop(report.send(Err(error))),
            })
            .map_err(ServeError::Thread)?;
        fleet.threads.push(thread);
        let started = reported.recv().unwrap_or_else(|gone| Err(io::Error::other(gone)));
        started.map_err(ServeError::Thread)?;
    }
    Ok(fleet)
}

impl Fleet {
    /// Where the replicas listen, in order.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where the replicas publish what happens to their caches, and where they replay it, in order; empty where
    /// they do not.
    pub fn kv_events(&self) -> &[[SocketAddr; 2]] {
        &self.kv_events
    }

    /// Stops all engines at once and waits for their threads. Connections are closed as they are.
    pub fn shutdown(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        self.stop.send_replace(true);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the engine panicked");
            }
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Listens for one replica on its port after `first`, or on any where that is 0.
fn bind(config: &Config, first: u16, replica: u16) -> Result<(SocketAddr, TcpListener), ServeError> {
    let port = if first == 0 { 0 } else { first + replica };
    let address = SocketAddr::new(config.host, port);
    let listener = listen(address).map_err(|source| ServeError::Listen { address, source })?;
    let address = listener.local_addr().map_err(|source| ServeError::Listen { address, source })?;
    Ok((address, listener))
}

/// A listening socket that does not block.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// One thread's engines.
fn start(config: &Arc<Config>, replicas: Vec<Sockets>) -> io::Result<LocalRuntime> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let started = runtime.block_on(async {
        for Sockets { http, events } in replicas {
            let listener = tokio::net::TcpListener::from_std(http)?;
            let format = config.kv_events.map(|events| events.format).unwrap_or_default();
            let publisher = events.is_some().then(|| Publisher::new(format));
            if let (Some(publisher), Some(sockets)) = (&publisher, events) {
                for (kind, socket) in [SocketKind::Pub, SocketKind::Router].into_iter().zip(sockets) {
                    let socket = tokio::net::TcpListener::from_std(socket)?;
                    tokio::task::spawn_local(publisher.clone().accept(kind, socket));
                }
            }
            let replica = Replica::new(config.clone(), publisher);
            let timer = Timer::new()?;
            tokio::task::spawn_local(watch_over("engine", replica.clone().run(timer)));
            tokio::task::spawn_local(watch_over("listener", accept(replica, listener)));
        }
        Ok(())
    });
    started.map(|()| runtime)
}

/// Runs a task that has no end of its own.
async fn watch_over(what: &str, task: impl Future<Output = io::Result<()>>) {
    if let Err(error) = task.await {
        tracing::error!(%error, "the {what} stopped");
    }
}

async fn wait(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop too.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}
