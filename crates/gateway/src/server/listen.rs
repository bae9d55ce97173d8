//! Listening sockets: one for each thread on the same port, and the loop that accepts.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    rc::Rc,
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{net::TcpListener, task::spawn_local, time::sleep};

use super::connection;
use crate::worker::Worker;

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 4096;
/// Time until bytes that a client does not acknowledge mean that it is gone, as when its cable is pulled.
const UNACKNOWLEDGED_LIMIT: Duration = Duration::from_secs(60);
/// First pause after an accept that failed for want of something; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Time between two warnings that say the same.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// Opens `count` sockets on one address. Port 0 lets the system choose one port for all of them.
///
/// # Errors
/// When the address is in use, by whatever process.
pub(crate) fn bind(address: SocketAddr, count: usize) -> io::Result<Vec<StdListener>> {
    if address.port() != 0 {
        // Sockets that share a port would also share it with another evenload, silently. This one does not.
        let alone = socket(address)?;
        alone.bind(&address.into())?;
    }
    let mut address = address;
    let mut listeners: Vec<StdListener> = Vec::with_capacity(count);
    for _ in 0..count {
        let socket = socket(address)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let listener = StdListener::from(socket);
        address = listener.local_addr()?;
        listeners.push(listener);
    }
    Ok(listeners)
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_LIMIT))?; // Accepted sockets inherit it.
    Ok(socket)
}

/// Accepts until it is aborted. Out of file descriptors or memory it pauses, so that it does not spin.
pub(crate) async fn accept(worker: Rc<Worker>, listener: TcpListener) {
    let metrics = &worker.shared.metrics;
    let mut pause = FIRST_PAUSE;
    let mut warned: Option<Instant> = None;
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                pause = FIRST_PAUSE;
                metrics.connections_accepted.add(1);
                spawn_local(connection::drive(Rc::clone(&worker), stream, address));
            }
            Err(error) if is_about_one_connection(&error) => metrics.accept_errors.add(1),
            Err(error) => {
                metrics.accept_errors.add(1);
                if warned.is_none_or(|then| then.elapsed() >= WARNING_INTERVAL) {
                    warned = Some(Instant::now());
                    tracing::warn!(%error, "cannot accept connections");
                }
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// Allows this process as many open files as it may have: every stream needs two.
pub(crate) fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, ?current, "cannot raise the limit of open files");
    }
}
