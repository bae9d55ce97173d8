//! Whether a client has left that has sent more than is read ahead.
//!
//! Its bytes stay in the kernel, so no read comes to their end. The connection's own readiness cannot be waited for
//! either: it is readable all along, and who forgets that never reads those bytes. A second descriptor of the same
//! socket has a readiness of its own, which may be forgotten.

use std::{
    io,
    os::fd::AsFd,
    pin::pin,
    task::{Context, Poll, ready},
};

use tokio::{io::Interest, net::TcpStream};

/// Waits for the end of what a peer sends, past whatever it has sent before.
#[derive(Debug)]
pub(super) struct HangUp(TcpStream);

impl HangUp {
    pub(super) fn of(socket: &TcpStream) -> io::Result<Self> {
        Ok(Self(TcpStream::from_std(socket.as_fd().try_clone_to_owned()?.into())?))
    }

    /// Ready when the peer has closed its side, or all of it.
    pub(super) fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        while ready!(self.0.poll_read_ready(context)).is_ok() {
            match ready!(pin!(self.0.ready(Interest::READABLE)).poll(context)) {
                Ok(ready) if !ready.is_read_closed() => {
                    let forget = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
                    let _ = self.0.try_io(Interest::READABLE, forget);
                }
                _ => break,
            }
        }
        Poll::Ready(())
    }
}
