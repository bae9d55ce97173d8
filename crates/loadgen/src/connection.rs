//! One connection to a target.

use std::{io, net::SocketAddr, time::Duration};

use crate::{exchange::Exchange, wire::Wire};

/// A wire, and the request it carries.
pub(crate) struct Connection {
    pub(crate) wire: Wire,
    /// Tells it from other connections in the same place of the thread's table.
    pub(crate) serial: u64,
    pub(crate) target: u16,
    pub(crate) address: SocketAddr,
    pub(crate) opened: Duration,
    pub(crate) is_open: bool,
    pub(crate) exchange: Option<Box<Exchange>>,
}

impl Connection {
    /// Whether connecting has succeeded. Called when something has happened on the socket.
    pub(crate) fn check_open(&mut self) -> io::Result<bool> {
        self.is_open = self.wire.is_ready()?;
        Ok(self.is_open)
    }

    /// Whether a request waits for room in the kernel.
    pub(crate) fn has_to_write(&mut self) -> bool {
        self.exchange.as_ref().is_some_and(|exchange| !exchange.is_written())
    }
}
