//! Takes the chunked transfer coding off a body, as its bytes arrive.
//!
//! The input may be cut anywhere. Data is handed out where it lies, never copied; chunk extensions and trailers
//! are skipped. A bare LF ends a line as CRLF does, since servers that write it exist. Memory: none but the
//! counters here; a size line or a trailer section over [`LINE_LIMIT`] bytes is an error.

/// Longest size line, and longest trailer section, in bytes.
const LINE_LIMIT: usize = 16 << 10;

/// Where in the coding the next byte lies.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum At {
    #[default]
    SizeStart,
    Size,
    Extension,
    Data,
    /// After a chunk's data, before its line end.
    DataEnd,
    /// At the start of a trailer line; the empty one ends the body.
    TrailerStart,
    Trailer,
    End,
}

/// The decoder of one body.
#[derive(Debug, Default)]
pub(crate) struct Chunked {
    at: At,
    /// Bytes of data left in the chunk.
    left: u64,
    line_bytes: usize,
}

/// The coding is broken in a way that leaves the end of the body unknown.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("broken chunked coding: {0}")]
pub(crate) struct ChunkedError(&'static str);

impl Chunked {
    /// Whether the last chunk and its trailers have been read.
    pub(crate) fn is_done(&self) -> bool {
        self.at == At::End
    }

    /// Takes bytes off the front of `input` and returns the next piece of data; empty when all of `input` is
    /// used up or the body is done. What follows the body stays in `input`.
    pub(crate) fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<&'a [u8], ChunkedError> {
        while let Some((&byte, rest)) = input.split_first() {
            match self.at {
                At::Data => {
                    let size = usize::try_from(self.left).unwrap_or(usize::MAX).min(input.len());
                    let (data, rest) = input.split_at(size);
                    self.left -= size as u64;
                    if self.left == 0 {
                        self.at = At::DataEnd;
                    }
                    *input = rest;
                    return Ok(data);
                }
                At::End => break,
                _ => {
                    *input = rest;
                    self.step(byte)?;
                }
            }
        }
        Ok(&[])
    }

    fn step(&mut self, byte: u8) -> Result<(), ChunkedError> {
        self.line_bytes += 1;
        if self.line_bytes > LINE_LIMIT {
            return Err(ChunkedError("a line is too long"));
        }
        match (self.at, byte) {
            (At::SizeStart | At::Size, _) if byte.is_ascii_hexdigit() => {
                let digit = (byte as char).to_digit(16).unwrap_or(0);
                let left = self.left.checked_mul(16).ok_or(ChunkedError("a chunk size is too large"))?;
                (self.left, self.at) = (left + u64::from(digit), At::Size);
            }
            (At::SizeStart, _) => return Err(ChunkedError("a chunk size is missing")),
            (At::Size | At::Extension, b'\n') => self.size_read(),
            (At::Size, b'\r' | b' ' | b'\t') | (At::TrailerStart, b'\r') => {}
            (At::Size, b';') => self.at = At::Extension,
            (At::Size, _) => return Err(ChunkedError("a chunk size is not hexadecimal")),
            (At::DataEnd, b'\n') => (self.at, self.line_bytes) = (At::SizeStart, 0),
            (At::DataEnd, b'\r') if self.line_bytes == 1 => {}
            (At::DataEnd, _) => return Err(ChunkedError("a chunk is longer than its size")),
            (At::TrailerStart, b'\n') => self.at = At::End,
            (At::Trailer, b'\n') => self.at = At::TrailerStart,
            (At::TrailerStart, _) => self.at = At::Trailer,
            (At::Extension | At::Trailer | At::Data | At::End, _) => {}
        }
        Ok(())
    }

    fn size_read(&mut self) {
        self.at = if self.left == 0 { At::TrailerStart } else { At::Data };
        self.line_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds `input` in pieces that end at `cuts`; returns the data, what was left over, and whether it was done.
    fn decode(input: &[u8], cuts: &[usize]) -> Result<(Vec<u8>, Vec<u8>, bool), ChunkedError> {
        let mut decoder = Chunked::default();
        let (mut data, mut left_over, mut from) = (Vec::new(), Vec::new(), 0);
        for to in cuts.iter().map(|cut| (*cut).clamp(0, input.len())).chain([input.len()]) {
            let mut piece = &input[from.min(to)..to];
            from = from.max(to);
            loop {
                let got = decoder.next(&mut piece)?;
                if got.is_empty() {
                    break;
                }
                data.extend_from_slice(got);
            }
            left_over.extend_from_slice(piece);
        }
        Ok((data, left_over, decoder.is_done()))
    }

    fn encode(chunks: &[Vec<u8>], extension: &str, trailer: &str, newline: &str) -> Vec<u8> {
        let mut out = Vec::new();
        for chunk in chunks {
            out.extend_from_slice(format!("{:X}{extension}{newline}", chunk.len()).as_bytes());
            out.extend_from_slice(chunk);
            out.extend_from_slice(newline.as_bytes());
        }
        out.extend_from_slice(format!("000{newline}{trailer}{newline}").as_bytes());
        out
    }

    #[test]
    fn every_single_cut_gives_the_same_data() {
        let coded = encode(&[b"hello".to_vec(), vec![b'x'; 300]], ";a=\"b\"", "X-T: 1\r\n", "\r\n");
        let expected = [b"hello".as_slice(), &[b'x'; 300]].concat();
        let with_next = [coded.as_slice(), b"HTTP/1.1"].concat();
        for cut in 0..=with_next.len() {
            assert_eq!(decode(&with_next, &[cut]).unwrap(), (expected.clone(), b"HTTP/1.1".to_vec(), true));
        }
    }

    #[test]
    fn a_body_that_stops_early_is_not_done() {
        let coded = encode(&[b"hello".to_vec()], "", "", "\r\n");
        for end in 0..coded.len() {
            assert!(!decode(&coded[..end], &[]).unwrap().2, "cut at {end}");
        }
    }

    #[test]
    fn broken_codings_are_errors() {
        for (input, what) in [
            ("\r\n", "missing"),
            ("-1\r\n", "missing"),
            ("5g\r\n", "hexadecimal"),
            ("1\r\nab\r\n", "longer"),
            ("11111111111111111\r\n", "large"),
        ] {
            assert!(decode(input.as_bytes(), &[]).unwrap_err().to_string().contains(what), "{input:?}");
        }
        let endless = [b"1;".as_slice(), &vec![b'a'; LINE_LIMIT]].concat();
        assert!(decode(&endless, &[]).unwrap_err().to_string().contains("too long"));
    }

    proptest! {
        #[test]
        fn any_chunks_cut_anywhere_come_back(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..80), 0..8),
            cuts in prop::collection::vec(0..800usize, 0..12),
            bare in any::<bool>(),
        ) {
            let coded = encode(&chunks, "", "", if bare { "\n" } else { "\r\n" });
            let mut cuts = cuts;
            cuts.sort_unstable();
            prop_assert_eq!(decode(&coded, &cuts).unwrap(), (chunks.concat(), Vec::new(), true));
        }

        #[test]
        fn no_input_panics(input in prop::collection::vec(any::<u8>(), 0..300), cut in 0..300usize) {
            let whole = decode(&input, &[]);
            prop_assert_eq!(decode(&input, &[cut]).is_ok(), whole.is_ok());
        }
    }
}
