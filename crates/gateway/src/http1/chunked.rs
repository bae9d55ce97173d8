//! The chunked transfer coding, taken off a body as it arrives.
//!
//! Promise: data comes out as slices of what came in, in order, as soon as a byte of it is there; the end is
//! reported only after the last chunk and its trailers, so a body that breaks off is never taken for a whole
//! one. Sizes, extensions and trailers are limited (RFC 9112, 7.1). Nothing is kept between two calls but where
//! the next byte belongs, and the trailers.

use bytes::Bytes;

use super::fields::{Fields, MAX_FIELDS, Places};

/// Bytes of one chunk-size line, its extensions included.
const MAX_SIZE_LINE: u32 = 16 * 1024;
/// Bytes of all trailers together.
const MAX_TRAILERS: usize = 16 * 1024;
/// Hexadecimal digits of a chunk size that cannot overflow.
const MAX_SIZE_DIGITS: u32 = 15;

/// Where in the coding the next byte belongs.
#[derive(Debug, Default)]
pub(crate) struct ChunkedDecoder {
    state: State,
    /// Bytes of the present size line.
    line: u32,
    trailer_bytes: Vec<u8>,
    trailers: Fields,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Size { size: u64, digits: u32 },
    AfterSize(u64),
    Extension(u64),
    SizeEnd(u64),
    Data(u64),
    DataReturn,
    DataEnd,
    Trailers,
    End,
}

/// How far a call came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Progress {
    /// Bytes that belong to the body; fewer than were given only at its end.
    pub(crate) used: usize,
    /// Whether the body is complete.
    pub(crate) over: bool,
}

/// The bytes are not this coding.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("invalid chunked coding: {0}")]
pub(crate) struct InvalidChunk(&'static str);

// === impl State ===

impl Default for State {
    fn default() -> Self {
        Self::Size { size: 0, digits: 0 }
    }
}

// === impl ChunkedDecoder ===

impl ChunkedDecoder {
    /// Reads `bytes`, which follow those of the last call, and gives the data in them to `data`.
    pub(crate) fn read(
        &mut self,
        bytes: &[u8],
        mut data: impl FnMut(&[u8]),
    ) -> Result<Progress, InvalidChunk> {
        let mut used = 0;
        while used < bytes.len() {
            if let State::Data(left) = self.state {
                let there = bytes.len() - used;
                let length = usize::try_from(left).map_or(there, |left| left.min(there));
                data(&bytes[used..used + length]);
                used += length;
                let left = left - length as u64;
                self.state = if left == 0 { State::DataReturn } else { State::Data(left) };
                continue;
            }
            if let State::End = self.state {
                break;
            }
            self.state = self.step(bytes[used])?;
            used += 1;
        }
        Ok(Progress { used, over: matches!(self.state, State::End) })
    }

    /// The fields after the last chunk, once the body is complete.
    pub(crate) fn trailers(&self) -> &Fields {
        &self.trailers
    }

    fn step(&mut self, byte: u8) -> Result<State, InvalidChunk> {
        if !matches!(self.state, State::Trailers) {
            self.line += 1;
            if self.line > MAX_SIZE_LINE {
                return Err(InvalidChunk("a chunk-size line is too long"));
            }
        }
        Ok(match (self.state, byte) {
            (State::Size { size, digits }, byte) if byte.is_ascii_hexdigit() && digits < MAX_SIZE_DIGITS => {
                let digit = (byte as char).to_digit(16).unwrap_or_default();
                State::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }
            }
            (State::Size { size, digits: 1.. } | State::AfterSize(size) | State::Extension(size), b'\r') => {
                State::SizeEnd(size)
            }
            (State::Size { size, digits: 1.. } | State::AfterSize(size), b' ' | b'\t') => {
                State::AfterSize(size)
            }
            (State::Size { size, digits: 1.. } | State::AfterSize(size), b';') => State::Extension(size),
            (State::Size { .. }, _) => {
                return Err(InvalidChunk("a chunk size is not a hexadecimal number of 1 to 15 digits"));
            }
            (State::Extension(size), byte) if byte != b'\n' => State::Extension(size),
            (State::SizeEnd(size), b'\n') => {
                self.line = 0;
                if size == 0 { State::Trailers } else { State::Data(size) }
            }
            (State::AfterSize(_) | State::Extension(_) | State::SizeEnd(_), _) => {
                return Err(InvalidChunk("a chunk size is followed by something that is not an extension"));
            }
            (State::DataReturn, b'\r') => State::DataEnd,
            (State::DataEnd, b'\n') => {
                self.line = 0;
                State::default()
            }
            (State::DataReturn | State::DataEnd, _) => {
                return Err(InvalidChunk("chunk data is longer than its size says"));
            }
            (State::Trailers, byte) => self.read_trailer(byte)?,
            (State::Data(_) | State::End, _) => self.state,
        })
    }

    fn read_trailer(&mut self, byte: u8) -> Result<State, InvalidChunk> {
        let bytes = &mut self.trailer_bytes;
        bytes.push(byte);
        if bytes.len() > MAX_TRAILERS {
            return Err(InvalidChunk("the trailers are too long"));
        }
        if matches!(&bytes[..], b"\n" | b"\r\n") {
            return Ok(State::End);
        }
        if !(bytes.ends_with(b"\n\n") || bytes.ends_with(b"\n\r\n")) {
            return Ok(State::Trailers);
        }
        let bytes = Bytes::from(std::mem::take(bytes));
        let mut parsed = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let Ok(httparse::Status::Complete((_, parsed))) = httparse::parse_headers(&bytes, &mut parsed) else {
            return Err(InvalidChunk("the trailers are malformed"));
        };
        let places = Places::of(&bytes, parsed);
        self.trailers = places.in_bytes(bytes);
        Ok(State::End)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The body, whether it is whole, and how many bytes of the last piece follow it.
    fn decode(pieces: &[&[u8]]) -> Result<(Vec<u8>, bool, usize), InvalidChunk> {
        let (mut decoder, mut body) = (ChunkedDecoder::default(), Vec::new());
        let mut last = (false, 0);
        for piece in pieces {
            let Progress { used, over } = decoder.read(piece, |data| body.extend_from_slice(data))?;
            assert!(over || used == piece.len());
            last = (over, piece.len() - used);
        }
        Ok((body, last.0, last.1))
    }

    #[test]
    fn reads_chunks_extensions_and_trailers() {
        let mut decoder = ChunkedDecoder::default();
        let mut body = Vec::new();
        let bytes = b"5;a=\"b\"\r\nhello\r\n0\r\nX-A: 1\r\n\r\nrest";
        let progress = decoder.read(bytes, |data| body.extend_from_slice(data)).unwrap();
        assert_eq!(progress, Progress { used: bytes.len() - b"rest".len(), over: true });
        assert_eq!((&body[..], decoder.trailers().get("x-a")), (&b"hello"[..], Some(&b"1"[..])));
    }

    #[test]
    fn refuses_what_could_be_read_in_two_ways() {
        for bad in [
            &b"0x5\r\nhello\r\n"[..],
            b"+5\r\nhello\r\n",
            b"5 5\r\nhello\r\n",
            b"0_2e\r\n",
            b"\r\nhello",
            b"5\nhello\r\n",
            b"10000000000000000\r\n",
            b"5\r\nhelloX\n",
            b"0\r\nnot a field\r\n\r\n",
        ] {
            assert!(decode(&[bad]).is_err(), "{:?}", bad.escape_ascii().to_string());
        }
    }

    #[test]
    fn size_lines_and_trailers_are_limited() {
        let long = vec![b'a'; 20 * 1024];
        assert!(decode(&[b"5;", &long]).is_err());
        assert!(decode(&[b"0\r\nx: ", &long]).is_err());
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_body(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
            cuts in prop::collection::vec(0usize..300, 0..8),
        ) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut % (wire.len() + 1)).collect();
            cuts.extend([0, wire.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &wire[cut[0]..cut[1]]).collect();
            let (body, ended, rest) = decode(&pieces).unwrap();
            prop_assert_eq!(body, chunks.concat());
            prop_assert!(ended && rest == 0);
            let (_, ended, _) = decode(&[&wire[..wire.len() - 1]]).unwrap();
            prop_assert!(!ended, "a body without its last byte is not whole");
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&[&bytes]);
        }
    }
}
