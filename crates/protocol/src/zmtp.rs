//! ZMTP 3, the wire protocol of ZeroMQ, as far as engines' cache events need it.
//!
//! A [`Link`] is one end of one TCP connection, without the connection: bytes that arrived go in, whole messages
//! come out, and what is to be sent is asked for. It speaks version 3.0 with the NULL mechanism (no
//! authentication), as `PUB`, `SUB`, `ROUTER` or `DEALER`; peers of versions 3.0 and 3.1 understand it. A message
//! is a list of frames; messages have a limit in bytes and in frames. No timing: who waits decides how long.
//!
//! Why by hand: it is two hundred lines, it allocates what it is sent and no more, and it runs on the threads
//! that are there; the ready-made sockets bring their own tasks, queues and reconnection rules, which are the
//! very things that have to be under control here.

/// Bytes of a greeting.
const GREETING_BYTES: usize = 64;
const SIGNATURE: [u8; 10] = [0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f];
const VERSION: [u8; 2] = [3, 0];
const MECHANISM: &[u8] = b"NULL";
const READY: &[u8] = b"\x05READY";
const ERROR: &[u8] = b"\x05ERROR";
const PING: &[u8] = b"\x04PING";
const PONG: &[u8] = b"\x04PONG";
const SUBSCRIBE: &[u8] = b"\x09SUBSCRIBE";
const CANCEL: &[u8] = b"\x06CANCEL";
/// Frames of a message; those of cache events have three, and an empty one in front at most.
const MOST_FRAMES: usize = 16;
/// Bytes of a ping's context, after its time to live.
const PING_TTL_BYTES: usize = 2;

const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;
const KNOWN_FLAGS: u8 = MORE | LONG | COMMAND;

/// What a socket is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SocketKind {
    /// Sends to all who subscribed.
    Pub,
    /// Receives what it subscribed to.
    Sub,
    /// Answers many.
    Router,
    /// Asks one, and may ask again before the answer.
    Dealer,
}

/// Something that the peer said.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Incoming {
    /// The peer is ready; messages may be sent.
    Ready,
    /// A message, frame by frame.
    Message(Vec<Vec<u8>>),
    /// From a subscriber: it wants what starts with this topic. Empty means everything.
    Subscribe(Vec<u8>),
    /// From a subscriber: it does not want that any more.
    Cancel(Vec<u8>),
}

/// Why a connection cannot go on.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ZmtpError {
    /// Another protocol, or an old version of this one.
    #[error("the peer does not speak ZMTP 3: is the port right?")]
    NotZmtp,
    /// The peer wants authentication.
    #[error("the peer asks for the security mechanism {0}; only NULL is spoken here")]
    Mechanism(String),
    /// Two sockets that do not go together.
    #[error("the peer is a {0} socket, which does not go with this one: are the ports exchanged?")]
    Kind(String),
    /// The peer refused.
    #[error("the peer refused: {0}")]
    Refused(String),
    /// A message is larger than allowed.
    #[error("a message of more than {0} bytes")]
    TooLarge(usize),
    /// Bytes that mean nothing.
    #[error("a frame that cannot be: {0}")]
    Frame(&'static str),
}

/// One end of a connection.
#[derive(Debug)]
pub struct Link {
    kind: SocketKind,
    stage: Stage,
    /// What arrived and is not yet understood, from `start` on.
    input: Vec<u8>,
    start: usize,
    output: Vec<u8>,
    frames: Vec<Vec<u8>>,
    limit: usize,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    Greeting,
    Handshake,
    Messages,
}

impl SocketKind {
    const fn name(self) -> &'static [u8] {
        match self {
            Self::Pub => b"PUB",
            Self::Sub => b"SUB",
            Self::Router => b"ROUTER",
            Self::Dealer => b"DEALER",
        }
    }

    /// Whether a socket of this kind may talk to one of that name.
    fn goes_with(self, peer: &[u8]) -> bool {
        let peers: &[&[u8]] = match self {
            Self::Pub => &[b"SUB", b"XSUB"],
            Self::Sub => &[b"PUB", b"XPUB"],
            Self::Router => &[b"REQ", b"DEALER", b"ROUTER"],
            Self::Dealer => &[b"REP", b"DEALER", b"ROUTER"],
        };
        peers.contains(&peer)
    }
}

impl Link {
    /// A new connection; no message may have more than `limit` bytes. The greeting is ready to be sent.
    pub fn new(kind: SocketKind, limit: usize) -> Self {
        let mut output = Vec::with_capacity(2 * GREETING_BYTES);
        output.extend(SIGNATURE);
        output.extend(VERSION);
        output.extend(MECHANISM);
        output.resize(GREETING_BYTES, 0);
        let mut ready = READY.to_vec();
        property(&mut ready, b"Socket-Type", kind.name());
        if matches!(kind, SocketKind::Dealer) {
            property(&mut ready, b"Identity", b"");
        }
        frame(&mut output, COMMAND, &ready);
        Self { kind, stage: Stage::Greeting, input: Vec::new(), start: 0, output, frames: Vec::new(), limit }
    }

    /// Puts a message with these frames into the output.
    pub fn send(&mut self, frames: &[&[u8]]) {
        message(&mut self.output, frames);
    }

    /// Subscribes to what starts with `topic`.
    pub fn subscribe(&mut self, topic: &[u8]) {
        frame(&mut self.output, 0, &[b"\x01", topic].concat());
    }

    /// What is to be sent; the caller takes it away.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Takes bytes that arrived.
    pub fn receive(&mut self, bytes: &[u8]) {
        if self.start > 0 && self.start == self.input.len() {
            self.input.clear();
            self.start = 0;
        } else if self.start > self.input.len() / 2 {
            self.input.drain(..self.start);
            self.start = 0;
        }
        self.input.extend_from_slice(bytes);
    }

    /// What the peer said next, if all of it is here. After an error the connection is to be closed.
    pub fn poll(&mut self) -> Result<Option<Incoming>, ZmtpError> {
        if self.stage == Stage::Greeting && !self.greeting()? {
            return Ok(None);
        }
        while let Some((flags, body)) = self.next_frame()? {
            if flags & COMMAND != 0 {
                if let Some(incoming) = self.command(&body)? {
                    return Ok(Some(incoming));
                }
                continue;
            }
            if self.stage != Stage::Messages {
                return Err(ZmtpError::Frame("a message before READY"));
            }
            if self.frames.len() == MOST_FRAMES {
                return Err(ZmtpError::Frame("one more than a message may have"));
            }
            self.frames.push(body);
            if flags & MORE == 0 {
                let mut frames = std::mem::take(&mut self.frames);
                return Ok(Some(match (self.kind, frames.as_slice()) {
                    (SocketKind::Pub, [only]) if only.first() == Some(&1) => {
                        Incoming::Subscribe(frames.remove(0).split_off(1))
                    }
                    (SocketKind::Pub, [only]) if only.first() == Some(&0) => {
                        Incoming::Cancel(frames.remove(0).split_off(1))
                    }
                    _ => Incoming::Message(frames),
                }));
            }
        }
        Ok(None)
    }

    /// Reads the peer's greeting, once it is whole.
    fn greeting(&mut self) -> Result<bool, ZmtpError> {
        let input = &self.input[self.start..];
        let differs = |place: usize, byte: u8| input.get(place).is_some_and(|found| *found != byte);
        if differs(0, SIGNATURE[0])
            || differs(9, SIGNATURE[9])
            || input.get(10).is_some_and(|major| *major < 3)
        {
            return Err(ZmtpError::NotZmtp);
        }
        let Some(greeting) = input.get(..GREETING_BYTES) else { return Ok(false) };
        let mechanism = greeting[12..32].split(|byte| *byte == 0).next().unwrap_or_default();
        if mechanism != MECHANISM {
            return Err(ZmtpError::Mechanism(text(mechanism)));
        }
        self.start += GREETING_BYTES;
        self.stage = Stage::Handshake;
        Ok(true)
    }

    fn next_frame(&mut self) -> Result<Option<(u8, Vec<u8>)>, ZmtpError> {
        let input = &self.input[self.start..];
        let Some(&flags) = input.first() else { return Ok(None) };
        if flags & !KNOWN_FLAGS != 0 || flags & (COMMAND | MORE) == COMMAND | MORE {
            return Err(ZmtpError::Frame("unknown flags"));
        }
        let (length, head) = if flags & LONG == 0 {
            let Some(&length) = input.get(1) else { return Ok(None) };
            (u64::from(length), 2)
        } else {
            let Some(length) = input.get(1..9) else { return Ok(None) };
            (length.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)), 9)
        };
        let held: usize = self.frames.iter().map(|frame| frame.len() + size_of::<Vec<u8>>()).sum();
        let room = self.limit.saturating_sub(held);
        let length = usize::try_from(length).ok().filter(|length| *length <= room);
        let Some(length) = length else { return Err(ZmtpError::TooLarge(self.limit)) };
        let Some(body) = input.get(head..head + length) else { return Ok(None) };
        let body = body.to_vec();
        self.start += head + length;
        Ok(Some((flags, body)))
    }

    fn command(&mut self, body: &[u8]) -> Result<Option<Incoming>, ZmtpError> {
        if let Some(mut properties) = body.strip_prefix(READY) {
            let mut peer = None;
            while let Some((name, value, rest)) = split_property(properties) {
                if name.eq_ignore_ascii_case(b"Socket-Type") {
                    peer = Some(value);
                }
                properties = rest;
            }
            let peer = peer.unwrap_or_default();
            if !self.kind.goes_with(peer) {
                return Err(ZmtpError::Kind(text(peer)));
            }
            self.stage = Stage::Messages;
            return Ok(Some(Incoming::Ready));
        }
        if let Some(reason) = body.strip_prefix(ERROR) {
            return Err(ZmtpError::Refused(text(reason.get(1..).unwrap_or_default())));
        }
        if let Some(context) = body.strip_prefix(PING).and_then(|rest| rest.get(PING_TTL_BYTES..)) {
            let pong = [PONG, context].concat();
            frame(&mut self.output, COMMAND, &pong);
        } else if self.kind == SocketKind::Pub {
            if let Some(topic) = body.strip_prefix(SUBSCRIBE) {
                return Ok(Some(Incoming::Subscribe(topic.to_vec())));
            }
            if let Some(topic) = body.strip_prefix(CANCEL) {
                return Ok(Some(Incoming::Cancel(topic.to_vec())));
            }
        }
        Ok(None)
    }
}

/// Appends a message with these frames as it stands on the wire.
pub fn message(output: &mut Vec<u8>, frames: &[&[u8]]) {
    for (place, body) in frames.iter().enumerate() {
        frame(output, if place + 1 < frames.len() { MORE } else { 0 }, body);
    }
}

fn frame(output: &mut Vec<u8>, flags: u8, body: &[u8]) {
    match u8::try_from(body.len()) {
        Ok(length) => output.extend([flags, length]),
        Err(_) => {
            output.push(flags | LONG);
            output.extend((body.len() as u64).to_be_bytes());
        }
    }
    output.extend_from_slice(body);
}

/// Appends a property of a command; names and values are short.
fn property(command: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    command.push(name.len() as u8);
    command.extend_from_slice(name);
    command.extend((value.len() as u32).to_be_bytes());
    command.extend_from_slice(value);
}

fn split_property(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (&length, rest) = bytes.split_first()?;
    let (name, rest) = rest.split_at_checked(length.into())?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (value, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    Some((name, value, rest))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(64)]).into_owned()
}

#[cfg(test)]
mod tests;
