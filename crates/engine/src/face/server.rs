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

use super::{Config, InvalidConfig, connection::accept, replica::Replica, timer::Timer};

/// Connections that wait to be accepted; load generators open thousands at once.
const BACKLOG: i32 = 4096;

/// Running engines. Dropping it stops them.
#[derive(Debug)]
pub struct Fleet {
    addresses: Vec<SocketAddr>,
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

/// Starts the engines and returns when all of them accept connections.
pub fn serve(config: Config) -> Result<Fleet, ServeError> {
    config.check()?;
    let listeners = (0..config.replicas)
        .map(|replica| {
            let port = if config.port == 0 { 0 } else { config.port + replica };
            let address = SocketAddr::new(config.host, port);
            let listener = listen(address).map_err(|source| ServeError::Listen { address, source })?;
            let address = listener.local_addr().map_err(|source| ServeError::Listen { address, source })?;
            Ok((address, listener))
        })
        .collect::<Result<Vec<_>, ServeError>>()?;
    let addresses = listeners.iter().map(|(address, _)| *address).collect();
    let (stop, stopped) = watch::channel(false);
    let count = config.threads.min(listeners.len());
    let config = Arc::new(config);
    let mut shares: Vec<Vec<TcpListener>> = (0..count).map(|_| Vec::new()).collect();
    for (place, (_, listener)) in listeners.into_iter().enumerate() {
        shares[place % count].push(listener);
    }
    let mut fleet = Fleet { addresses, stop, threads: Vec::with_capacity(count) };
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
fn start(config: &Arc<Config>, listeners: Vec<TcpListener>) -> io::Result<LocalRuntime> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let started = runtime.block_on(async {
        for listener in listeners {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let replica = Replica::new(config.clone());
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
