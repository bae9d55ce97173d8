//! Listening sockets: one for each thread on the same port, and the loop that accepts.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    rc::Rc,
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    task::spawn_local,
    time::sleep,
};

use super::connection;
use crate::worker::Worker;

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 4096;
/// Least time until bytes that a client does not acknowledge mean that it is gone, as when its cable is pulled. The
/// kernel cannot tell that from a client that does not read, which may take as long as the time between two parts
/// of an answer, and shall then be told from others by whoever writes to it: hence the margin.
const UNACKNOWLEDGED_LIMIT: Duration = Duration::from_secs(60);
const UNACKNOWLEDGED_MARGIN: Duration = Duration::from_secs(30);
/// The kernel's own, in milliseconds.
const LONGEST_UNACKNOWLEDGED: Duration = Duration::from_millis(i32::MAX as u64);
/// First pause after an accept that failed for want of something; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Time between two warnings that say the same.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// Opens `count` sockets on one address. Port 0 lets the system choose one port for all of them. Clients of theirs may
/// stop reading for `patience` without being taken for gone.
///
/// # Errors
/// When the address is in use, by whatever process.
pub(crate) fn bind(address: SocketAddr, count: usize, patience: Duration) -> io::Result<Vec<StdListener>> {
    if address.port() != 0 {
        // Sockets that share a port would also share it with another evenload, silently. This one does not.
        let alone = socket(address, patience)?;
        alone.bind(&address.into())?;
    }
    let mut address = address;
    let mut listeners: Vec<StdListener> = Vec::with_capacity(count);
    for _ in 0..count {
        let socket = socket(address, patience)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let listener = StdListener::from(socket);
        address = listener.local_addr()?;
        listeners.push(listener);
    }
    Ok(listeners)
}

fn socket(address: SocketAddr, patience: Duration) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    #[cfg(target_os = "linux")]
    {
        let limit = UNACKNOWLEDGED_LIMIT.max(patience.saturating_add(UNACKNOWLEDGED_MARGIN));
        // Accepted sockets inherit it.
        socket.set_tcp_user_timeout(Some(limit.min(LONGEST_UNACKNOWLEDGED)))?;
    }
    Ok(socket)
}

/// Accepts for ever. Out of file descriptors or memory it pauses, so that it does not spin.
pub(crate) async fn accept(worker: &Rc<Worker>, listener: &TcpListener) {
    let metrics = &worker.shared.metrics;
    let mut pause = FIRST_PAUSE;
    let mut warned: Option<Instant> = None;
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                pause = FIRST_PAUSE;
                serve(worker, stream, address);
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

/// Accepts what the kernel holds, which would be reset otherwise, and closes the socket.
pub(crate) fn accept_rest(worker: &Rc<Worker>, listener: TcpListener) -> io::Result<()> {
    let listener = listener.into_std()?;
    // More than the kernel holds come only while this goes on.
    for _ in 0..BACKLOG {
        match listener.accept() {
            Ok((stream, address)) => {
                stream.set_nonblocking(true)?;
                serve(worker, TcpStream::from_std(stream)?, address);
            }
            Err(error) if is_about_one_connection(&error) => worker.shared.metrics.accept_errors.add(1),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn serve(worker: &Rc<Worker>, stream: TcpStream, address: SocketAddr) {
    worker.shared.metrics.connections_accepted.add(1);
    spawn_local(connection::drive(worker.list(), stream, address));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn a_client_that_does_not_read_is_not_gone_before_its_time() {
        let seconds = Duration::from_secs;
        let century = seconds(100 * 365 * 86_400);
        for (patience, limit) in
            [(seconds(1), seconds(60)), (seconds(600), seconds(630)), (century, LONGEST_UNACKNOWLEDGED)]
        {
            let listener = bind(([127, 0, 0, 1], 0).into(), 1, patience).unwrap().remove(0);
            let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            listener.set_nonblocking(false).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            assert_eq!(socket2::SockRef::from(&accepted).tcp_user_timeout().unwrap(), Some(limit));
        }
    }
}
