//! One connection that speaks ZMTP.

use std::{io, time::Duration};

use protocol::zmtp::{Incoming, Link, SocketKind, ZmtpError};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Bytes of a message; a batch for the longest prompts has less than one MiB.
const MOST_MESSAGE_BYTES: usize = 16 << 20;
/// For the connection and the handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// An engine that is gone without a word is noticed after about twice as long.
const KEEPALIVE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    link: Link,
    input: Vec<u8>,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum SocketError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Protocol(#[from] ZmtpError),
    #[error("the engine closed the connection")]
    Closed,
    #[error("no answer in time")]
    TimedOut,
}

impl Socket {
    /// Connects to `host:port`, as a socket of this kind, and shakes hands.
    pub(super) async fn connect(address: &str, kind: SocketKind) -> Result<Self, SocketError> {
        let connecting = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 4);
            SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
            let link = Link::new(kind, MOST_MESSAGE_BYTES);
            let mut socket = Self { stream, link, input: Vec::with_capacity(64 << 10) };
            while socket.incoming().await? != Incoming::Ready {}
            Ok(socket)
        };
        timeout(CONNECT_TIMEOUT, connecting).await.unwrap_or(Err(SocketError::TimedOut))
    }

    /// Subscribes to everything; it is sent with the next read.
    pub(super) fn subscribe(&mut self) {
        self.link.subscribe(b"");
    }

    /// Sends a message; it goes out with the next read.
    pub(super) fn send(&mut self, frames: &[&[u8]]) {
        self.link.send(frames);
    }

    /// The next message. May be dropped and called again: nothing is lost.
    pub(super) async fn message(&mut self) -> Result<Vec<Vec<u8>>, SocketError> {
        loop {
            if let Incoming::Message(frames) = self.incoming().await? {
                return Ok(frames);
            }
        }
    }

    async fn incoming(&mut self) -> Result<Incoming, SocketError> {
        loop {
            if let Some(incoming) = self.link.poll()? {
                return Ok(incoming);
            }
            while !self.link.output().is_empty() {
                let written = self.stream.write(self.link.output()).await?;
                self.link.output().drain(..written);
            }
            self.input.clear();
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(SocketError::Closed);
            }
            self.link.receive(&self.input);
        }
    }
}
