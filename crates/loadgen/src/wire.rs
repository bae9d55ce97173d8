//! The bytes of one connection, as they are or under TLS.
//!
//! Reads can ask the kernel when it received what they return. The difference is how much too late this side saw
//! it, on top of the network: the true error of a time stamp. Of several segments in one read, the kernel gives
//! the time of the last. The stamps are those of the wall clock, so a step of that clock shows in them.

mod secure;

use std::{
    io::{self, IoSlice, IoSliceMut, Read, Write},
    net::SocketAddr,
    os::fd::AsRawFd,
    time::{Duration, SystemTime},
};

use mio::{Interest, Registry, Token, net::TcpStream};
use nix::sys::{
    socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt::ReceiveTimestampns},
    time::TimeSpec,
};

use crate::target::Target;
use secure::Secure;

/// A socket, and what lies between it and HTTP.
pub(crate) struct Wire {
    socket: Socket,
    secure: Option<Box<Secure>>,
}

/// A socket whose reads say how long the bytes had been in the kernel.
struct Socket {
    stream: TcpStream,
    /// Room for the kernel's time stamp, if it gives one.
    stamp: Option<Vec<u8>>,
    /// Of the last read: whether there may be more, and the wait, where the kernel says.
    filled: bool,
    waited: Option<Duration>,
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

// === impl Wire ===

impl Wire {
    /// Starts to connect. The registry tells when that is done.
    pub(crate) fn connect(
        registry: &Registry,
        token: Token,
        address: SocketAddr,
        target: &Target,
        kernel_stamps: bool,
    ) -> io::Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        // A kernel that gives no stamps gives reads without them.
        let stamped = kernel_stamps && setsockopt(&stream, ReceiveTimestampns, &true).is_ok();
        let stamp = stamped.then(|| nix::cmsg_space!(TimeSpec));
        let secure = target.secure().map(Secure::new).transpose()?.map(Box::new);
        Ok(Self { socket: Socket { stream, stamp, filled: false, waited: None }, secure })
    }

    /// Whether it can carry a request: connected, and under TLS both sides have said who they are. Called when
    /// something has happened on the socket.
    pub(crate) fn is_ready(&mut self) -> io::Result<bool> {
        if let Some(error) = self.socket.stream.take_error()? {
            return Err(error);
        }
        match self.socket.stream.peer_addr() {
            // Without it, a request of several segments may wait 40 ms for an acknowledgement.
            Ok(_) => self.socket.stream.set_nodelay(true)?,
            Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(false),
            Err(error) => return Err(error),
        }
        self.secure.as_mut().map_or(Ok(true), |secure| secure.shake_hands(&mut self.socket))
    }

    /// Reads once. A read that does not fill the buffer has emptied the socket, unless its end has been announced.
    pub(crate) fn receive(&mut self, buffer: &mut [u8], end_announced: bool) -> Received {
        if let Some(secure) = &mut self.secure {
            return secure.receive(&mut self.socket, buffer, end_announced);
        }
        match self.socket.read(buffer) {
            Ok(0) => Received::End,
            Ok(count) => {
                let Socket { filled, waited, .. } = self.socket;
                Received::Bytes { count, more: end_announced || filled, waited }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Received::Nothing,
            Err(error) => Received::Broken(error),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match &mut self.secure {
            Some(secure) => secure.write_vectored(&mut self.socket, parts),
            None => self.socket.stream.write_vectored(parts),
        }
    }

    /// Ready when the kernel has all that was written.
    fn flush(&mut self) -> io::Result<()> {
        self.secure.as_mut().map_or(Ok(()), |secure| secure.flush(&mut self.socket))
    }
}

// === impl Socket ===

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let got = match &mut self.stamp {
                Some(stamp) => read_stamped(&self.stream, buffer, stamp),
                None => self.stream.read(buffer).map(|count| (count, None)),
            };
            return match got {
                Ok((count, waited)) => {
                    (self.filled, self.waited) = (count == buffer.len(), waited);
                    Ok(count)
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
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
