//! One connection to a target.

use std::{
    io::{self, Read},
    net::SocketAddr,
    time::Duration,
};

use mio::{Interest, Registry, Token, net::TcpStream};

use crate::exchange::Exchange;

/// A socket, and the request it carries.
pub(crate) struct Connection {
    pub(crate) socket: TcpStream,
    /// Tells it from other connections in the same place of the thread's table.
    pub(crate) serial: u64,
    pub(crate) target: u16,
    pub(crate) address: SocketAddr,
    pub(crate) opened: Duration,
    pub(crate) is_open: bool,
    pub(crate) exchange: Option<Box<Exchange>>,
}

/// What a read gave.
#[derive(Debug)]
pub(crate) enum Received {
    /// Bytes; whether there may be more.
    Bytes(usize, bool),
    /// Nothing now.
    Nothing,
    /// The other side will send no more.
    End,
    /// The connection is broken.
    Broken(io::Error),
}

impl Connection {
    /// Starts to connect. The registry tells when that is done.
    pub(crate) fn open(
        registry: &Registry,
        token: Token,
        address: SocketAddr,
        target: u16,
        serial: u64,
        now: Duration,
    ) -> io::Result<Self> {
        let mut socket = TcpStream::connect(address)?;
        registry.register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self { socket, serial, target, address, opened: now, is_open: false, exchange: None })
    }

    /// Whether connecting has succeeded. Called when the socket has become writable.
    pub(crate) fn check_open(&mut self) -> io::Result<bool> {
        if let Some(error) = self.socket.take_error()? {
            return Err(error);
        }
        match self.socket.peer_addr() {
            Ok(_) => {
                // Without it, a request of several segments may wait 40 ms for an acknowledgement.
                self.socket.set_nodelay(true)?;
                self.is_open = true;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads once. A read that does not fill the buffer has emptied the socket, unless its end has been announced.
    pub(crate) fn read(&mut self, buffer: &mut [u8], end_announced: bool) -> Received {
        loop {
            return match self.socket.read(buffer) {
                Ok(0) => Received::End,
                Ok(bytes) => Received::Bytes(bytes, end_announced || bytes == buffer.len()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Received::Nothing,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Received::Broken(error),
            };
        }
    }
}
