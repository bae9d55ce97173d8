//! Connections: accepted, served one request after the other, closed or reset.

use std::{cell::Cell, io, pin::pin, rc::Rc, time::Duration};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use super::{pages, replica::Replica, server::listen};

/// Pause after the system had no socket for us.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
/// A refusal ends by listening again; this long after the port was found taken, the next attempt.
const LISTEN_PAUSE: Duration = Duration::from_millis(20);

/// What a request may ask of its connection.
#[derive(Debug, Default)]
pub(crate) struct Link(Cell<bool>);

impl Link {
    /// The connection ends with a reset.
    pub(crate) fn reset_on_close(&self) {
        self.0.set(true);
    }
}

/// Accepts connections for ever.
pub(crate) async fn accept(replica: Rc<Replica>, mut listener: TcpListener) -> io::Result<()> {
    let address = listener.local_addr()?;
    loop {
        tokio::select! {
            accepted = next(&listener) => match accepted {
                Ok(stream) => drop(tokio::task::spawn_local(serve(replica.clone(), stream))),
                Err(error) => {
                    tracing::warn!(%address, %error, "no connection could be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            time = replica.refusal() => {
                drop(listener);
                tokio::time::sleep(time).await;
                listener = loop {
                    match listen(address).and_then(TcpListener::from_std) {
                        Ok(listener) => break listener,
                        Err(error) => {
                            tracing::warn!(%address, %error, "cannot listen again yet");
                            tokio::time::sleep(LISTEN_PAUSE).await;
                        }
                    }
                };
            }
        }
    }
}

/// The next connection, told to send small writes at once: else a token may wait 40 ms for an acknowledgement.
async fn next(listener: &TcpListener) -> io::Result<TcpStream> {
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn serve(replica: Rc<Replica>, stream: TcpStream) {
    let link = Rc::new(Link::default());
    let service = {
        let link = link.clone();
        service_fn(move |request| pages::answer(replica.clone(), link.clone(), request))
    };
    // One flat write a token is cheaper than a gathered one.
    let mut connection = http1::Builder::new().writev(false).serve_connection(TokioIo::new(stream), service);
    if let Err(error) = pin!(&mut connection).await {
        tracing::debug!(%error, "a connection broke");
    }
    if link.0.get() {
        // Dropping the socket then sends a reset.
        let _ = connection.into_parts().io.into_inner().set_zero_linger();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_connections_do_not_wait_to_fill_segments() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let _client =
                TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
            let accepted = next(&listener).await.expect("a connection");
            assert!(accepted.nodelay().expect("the flag"));
        });
    }
}
