//! The bytes of one connection, to a client or to a replica: as they are, or under TLS.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use tls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::security::Secret;

/// A connected socket. Small writes go out at once: without that, every event waits up to 40 ms.
#[derive(Debug)]
pub(crate) enum Wire {
    Plain(TcpStream),
    Secure(Box<Secure>),
}

/// A socket under TLS.
#[derive(Debug)]
pub(crate) struct Secure {
    stream: TlsStream<TcpStream>,
    /// Bytes of the write in progress that are encrypted, and not all with the kernel.
    taken: usize,
}

impl Secure {
    fn new(stream: impl Into<TlsStream<TcpStream>>) -> Box<Self> {
        Box::new(Self { stream: stream.into(), taken: 0 })
    }
}

/// Whether it is this process or this machine that has no room for another socket: that says nothing about the other end.
pub(crate) fn is_own_want(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

// === impl Wire ===

impl Wire {
    /// Takes a client's connection, under TLS if there is a `config`; the client has until `limit` to agree.
    pub(crate) async fn accept(
        stream: TcpStream,
        config: Option<Arc<ServerConfig>>,
        limit: Duration,
    ) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(match config {
            None => Self::Plain(stream),
            Some(config) => {
                // A handshake is large, and plain connections must not hold the room for one.
                let handshake = Box::pin(timeout(limit, TlsAcceptor::from(config).accept(stream)));
                Self::Secure(Secure::new(handshake.await??))
            }
        })
    }

    /// Makes use of a connection to a replica, under TLS if it has a name to prove.
    pub(crate) async fn connect(stream: TcpStream, secret: Option<Secret>) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(match secret {
            None => Self::Plain(stream),
            Some((config, name)) => {
                let handshake = Box::pin(TlsConnector::from(config).connect(name, stream));
                Self::Secure(Secure::new(handshake.await?))
            }
        })
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Secure(secure) => secure.stream.get_ref().0,
        }
    }

    /// Whether it is open and nothing has come. Costs no system call unless something happened.
    pub(crate) fn is_quiet(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        match self {
            Self::Plain(stream) => match stream.poll_read_ready(&mut context) {
                Poll::Pending => true,
                Poll::Ready(_) => {
                    let probe = stream.try_read(&mut [0]);
                    matches!(probe, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
                }
            },
            // What has come may be the server's own business, as tickets are.
            Self::Secure(secure) => {
                let mut room = [0];
                Pin::new(&mut secure.stream)
                    .poll_read(&mut context, &mut ReadBuf::new(&mut room))
                    .is_pending()
            }
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Secure(secure) => Pin::new(&mut secure.stream).poll_read(context, buffer),
        }
    }
}

/// What was written is with the kernel, so that nothing is left to flush. A write that has to wait must be called again
/// with the same bytes, and may be with more.
impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Secure(secure) => {
                let mut stream = Pin::new(&mut secure.stream);
                if secure.taken == 0 {
                    secure.taken = ready!(stream.as_mut().poll_write(context, bytes))?;
                }
                ready!(stream.poll_flush(context))?;
                Poll::Ready(Ok(std::mem::take(&mut secure.taken)))
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Secure(secure) => Pin::new(&mut secure.stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_writes_are_not_held_back() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (accepted, _) = listener.accept().await.unwrap();
            assert!(!stream.nodelay().unwrap() && !accepted.nodelay().unwrap());
            let wires =
                [Wire::connect(stream, None).await, Wire::accept(accepted, None, Duration::ZERO).await];
            assert!(wires.into_iter().all(|wire| wire.unwrap().socket().nodelay().unwrap()));
        });
    }
}
