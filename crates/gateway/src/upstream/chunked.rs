//! The chunked transfer coding, taken off a response as it arrives.
//!
//! Promise: data comes out as slices of the read buffer, in order, as soon as a byte of it is there; the end is
//! reported only after the last chunk and its trailers, so a body that breaks off is never taken for a whole
//! one. Sizes, extensions and trailers are limited (RFC 9112, 7.1). It does no I/O.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;

use super::head;

/// Bytes of one chunk-size line, its extensions included.
const MAX_SIZE_LINE: usize = 16 * 1024;
/// Bytes of all trailers together.
const MAX_TRAILERS: usize = 16 * 1024;
/// Hexadecimal digits of a chunk size that cannot overflow.
const MAX_SIZE_DIGITS: usize = 15;

/// Where in the coding the next byte belongs.
#[derive(Debug, Default)]
pub(crate) struct ChunkedDecoder {
    state: State,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Size,
    Data(u64),
    DataEnd,
    Trailers,
    End,
}

/// What the bytes so far give.
#[derive(Debug)]
pub(crate) enum Step {
    /// Body bytes.
    Data(Bytes),
    /// Nothing more without more bytes.
    More,
    /// The body is complete.
    End(Option<HeaderMap>),
}

/// The bytes are not this coding.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("invalid chunked coding: {0}")]
pub(crate) struct InvalidChunk(&'static str);

// === impl ChunkedDecoder ===

impl ChunkedDecoder {
    /// Takes the next piece off the front of `buffer`.
    pub(crate) fn next(&mut self, buffer: &mut BytesMut) -> Result<Step, InvalidChunk> {
        loop {
            match self.state {
                State::Size => {
                    let Some(end) = memchr::memchr(b'\n', buffer) else {
                        return more_below(MAX_SIZE_LINE, buffer, "a chunk-size line is too long");
                    };
                    if end > MAX_SIZE_LINE {
                        return Err(InvalidChunk("a chunk-size line is too long"));
                    }
                    let size = chunk_size(&buffer[..end])?;
                    buffer.advance(end + 1);
                    self.state = if size == 0 { State::Trailers } else { State::Data(size) };
                }
                State::Data(left) => {
                    if buffer.is_empty() {
                        return Ok(Step::More);
                    }
                    let length = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
                    let left = left - length as u64;
                    self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
                    return Ok(Step::Data(buffer.split_to(length).freeze()));
                }
                State::DataEnd => {
                    let line_end = b"\r\n";
                    let seen = buffer.len().min(line_end.len());
                    if buffer[..seen] != line_end[..seen] {
                        return Err(InvalidChunk("chunk data is longer than its size says"));
                    }
                    if seen < line_end.len() {
                        return Ok(Step::More);
                    }
                    buffer.advance(line_end.len());
                    self.state = State::Size;
                }
                State::Trailers => {
                    let Some(length) = trailers_length(buffer) else {
                        return more_below(MAX_TRAILERS, buffer, "the trailers are too long");
                    };
                    if length > MAX_TRAILERS {
                        return Err(InvalidChunk("the trailers are too long"));
                    }
                    let bytes = buffer.split_to(length).freeze();
                    self.state = State::End;
                    let trailers = (length > b"\r\n".len()).then(|| head::parse_fields(&bytes));
                    return match trailers.transpose() {
                        Ok(trailers) => Ok(Step::End(trailers)),
                        Err(_) => Err(InvalidChunk("the trailers are malformed")),
                    };
                }
                State::End => return Ok(Step::End(None)),
            }
        }
    }
}

fn more_below(limit: usize, buffer: &BytesMut, message: &'static str) -> Result<Step, InvalidChunk> {
    if buffer.len() > limit { Err(InvalidChunk(message)) } else { Ok(Step::More) }
}

/// Reads `size [;extensions] CR`.
fn chunk_size(line: &[u8]) -> Result<u64, InvalidChunk> {
    let line = line.strip_suffix(b"\r").ok_or(InvalidChunk("a chunk-size line ends without CR"))?;
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    if digits == 0 || digits > MAX_SIZE_DIGITS {
        return Err(InvalidChunk("a chunk size is not a hexadecimal number of 1 to 15 digits"));
    }
    let rest = line[digits..].trim_ascii_start();
    if !(rest.is_empty() || rest.starts_with(b";")) || rest.contains(&b'\r') {
        return Err(InvalidChunk("a chunk size is followed by something that is not an extension"));
    }
    Ok(line[..digits]
        .iter()
        .fold(0, |size, &digit| size << 4 | u64::from((digit as char).to_digit(16).unwrap_or_default())))
}

/// The length of the trailer section with its empty line, once that is there.
fn trailers_length(buffer: &[u8]) -> Option<usize> {
    let mut start = 0;
    loop {
        let end = start + memchr::memchr(b'\n', &buffer[start..])?;
        if matches!(&buffer[start..end], b"" | b"\r") {
            return Some(end + 1);
        }
        start = end + 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(pieces: &[&[u8]]) -> Result<(Vec<u8>, bool, BytesMut), InvalidChunk> {
        let (mut decoder, mut buffer, mut body) = (ChunkedDecoder::default(), BytesMut::new(), Vec::new());
        for piece in pieces {
            buffer.extend_from_slice(piece);
            loop {
                match decoder.next(&mut buffer)? {
                    Step::Data(data) => body.extend_from_slice(&data),
                    Step::More => break,
                    Step::End(_) => return Ok((body, true, buffer)),
                }
            }
        }
        Ok((body, false, buffer))
    }

    #[test]
    fn reads_chunks_extensions_and_trailers() {
        let mut buffer = BytesMut::from(&b"5;a=\"b\"\r\nhello\r\n0\r\nX-A: 1\r\n\r\nrest"[..]);
        let mut decoder = ChunkedDecoder::default();
        assert!(matches!(decoder.next(&mut buffer), Ok(Step::Data(data)) if data == "hello"));
        let Ok(Step::End(Some(trailers))) = decoder.next(&mut buffer) else { panic!() };
        assert_eq!(trailers["x-a"], "1");
        assert_eq!(&buffer[..], b"rest");
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
            prop_assert!(ended && rest.is_empty());
            let (_, ended, _) = decode(&[&wire[..wire.len() - 1]]).unwrap();
            prop_assert!(!ended, "a body without its last byte is not whole");
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&[&bytes]);
        }
    }
}
