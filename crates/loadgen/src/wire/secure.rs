//! TLS between a socket that never blocks and HTTP.

use std::io::{self, ErrorKind, IoSlice, Read, Write};

use tls::ClientConnection;

use super::{Received, Socket};
use crate::target::SecureTarget;

/// One side of a TLS connection.
pub(super) struct Secure {
    session: ClientConnection,
    /// Bytes that are decrypted and not taken yet.
    plain: usize,
    /// The server has said that it will send no more.
    ended: bool,
}

impl Secure {
    pub(super) fn new(target: &SecureTarget) -> io::Result<Self> {
        Ok(Self { session: target.session()?, plain: 0, ended: false })
    }

    /// Goes on with the handshake. True when it is over.
    pub(super) fn shake_hands(&mut self, socket: &mut Socket) -> io::Result<bool> {
        loop {
            match self.flush(socket) {
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                _ if !self.session.is_handshaking() => return Ok(true),
                _ => {}
            }
            match self.take_in(socket) {
                Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "closed in the TLS handshake")),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) fn receive(
        &mut self,
        socket: &mut Socket,
        buffer: &mut [u8],
        end_announced: bool,
    ) -> Received {
        while self.plain == 0 {
            if self.ended {
                return Received::End;
            }
            match self.take_in(socket) {
                // Anyone on the way could end it so.
                Ok(0) => {
                    return Received::Broken(io::Error::new(ErrorKind::UnexpectedEof, "cut off under TLS"));
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Received::Nothing,
                Err(error) => return Received::Broken(error),
            }
        }
        match self.session.reader().read(buffer) {
            Ok(count) => {
                self.plain = self.plain.saturating_sub(count);
                let more = self.plain > 0 || self.ended || socket.filled || end_announced;
                Received::Bytes { count, more, waited: socket.waited }
            }
            Err(error) => Received::Broken(error),
        }
    }

    /// Encrypts as much as it has room for; what the kernel does not take now goes with the next flush.
    pub(super) fn write_vectored(&mut self, socket: &mut Socket, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.flush(socket)?;
        let count = self.session.writer().write_vectored(parts)?;
        match self.flush(socket) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(count),
        }
    }

    pub(super) fn flush(&mut self, socket: &mut Socket) -> io::Result<()> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut socket.stream) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Reads from the socket and decrypts. Returns how many bytes came; 0 is the end of the connection.
    fn take_in(&mut self, socket: &mut Socket) -> io::Result<usize> {
        let count = self.session.read_tls(socket)?;
        match self.session.process_new_packets() {
            Ok(state) => {
                self.plain = state.plaintext_bytes_to_read();
                self.ended = state.peer_has_closed();
                Ok(count)
            }
            Err(error) => {
                // The server is told why, if it listens.
                let _ = self.flush(socket);
                Err(io::Error::new(ErrorKind::InvalidData, error))
            }
        }
    }
}
