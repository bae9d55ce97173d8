//! One connection to a target.
//!
//! Reads can ask the kernel when it received what they return. The difference is how much too late this side saw
//! it, on top of the network: the true error of a time stamp. Of several segments in one read, the kernel gives
//! the time of the last. The stamps are those of the wall clock, so a step of that clock shows in them.

use std::{
    io::{self, IoSliceMut, Read},
    net::SocketAddr,
    os::fd::AsRawFd,
    time::{Duration, SystemTime},
};

use mio::{Interest, Registry, Token, net::TcpStream};
use nix::sys::{
    socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt::ReceiveTimestampns},
    time::TimeSpec,
};

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
    /// Room for the kernel's time stamp, if it gives one.
    stamp: Option<Vec<u8>>,
    pub(crate) exchange: Option<Box<Exchange>>,
}

/// What a read gave.
#[derive(Debug)]
pub(crate) enum Received {
    /// Bytes.
    Bytes {
        /// How many.
        count: usize,
        /// There may be more.
        more: bool,
        /// How long they had been in the kernel, where it says.
        waited: Option<Duration>,
    },
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
        kernel_stamps: bool,
    ) -> io::Result<Self> {
        let mut socket = TcpStream::connect(address)?;
        registry.register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
        // A kernel that gives no stamps gives reads without them.
        let stamped = kernel_stamps && setsockopt(&socket, ReceiveTimestampns, &true).is_ok();
        let stamp = stamped.then(|| nix::cmsg_space!(TimeSpec));
        Ok(Self { socket, serial, target, address, opened: now, is_open: false, stamp, exchange: None })
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

    /// Whether a request waits for room in the kernel.
    pub(crate) fn has_to_write(&mut self) -> bool {
        self.exchange.as_ref().is_some_and(|exchange| !exchange.is_written())
    }

    /// Reads once. A read that does not fill the buffer has emptied the socket, unless its end has been announced.
    pub(crate) fn read(&mut self, buffer: &mut [u8], end_announced: bool) -> Received {
        loop {
            let got = match &mut self.stamp {
                Some(stamp) => read_stamped(&self.socket, buffer, stamp),
                None => self.socket.read(buffer).map(|count| (count, None)),
            };
            return match got {
                Ok((0, _)) => Received::End,
                Ok((count, waited)) => {
                    Received::Bytes { count, more: end_announced || count == buffer.len(), waited }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Received::Nothing,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Received::Broken(error),
            };
        }
    }
}

#[expect(clippy::ptr_arg, reason = "the system call writes into the spare capacity")]
fn read_stamped(
    socket: &TcpStream,
    buffer: &mut [u8],
    stamp: &mut Vec<u8>,
) -> io::Result<(usize, Option<Duration>)> {
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(stamp), MsgFlags::empty())?;
    let received = message.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::ScmTimestampns(at) => Some(Duration::from(at)),
        _ => None,
    });
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    Ok((message.bytes, received.map(|received| now.saturating_sub(received))))
}
