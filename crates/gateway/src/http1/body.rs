//! What is left of a response's body, whatever tells its end.

use super::{
    chunked::{ChunkedDecoder, InvalidChunk, Progress},
    fields::Fields,
    response::Framing,
};

/// What is left of a body.
#[derive(Debug)]
pub(crate) enum Remaining {
    Length(u64),
    Chunked(ChunkedDecoder),
    UntilClose,
}

// === impl Remaining ===

impl Remaining {
    pub(crate) fn of(framing: Framing) -> Self {
        match framing {
            Framing::None => Self::Length(0),
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(ChunkedDecoder::default()),
            Framing::UntilClose => Self::UntilClose,
        }
    }

    /// Whether nothing can come, before anything has.
    pub(crate) fn is_nothing(&self) -> bool {
        matches!(self, Self::Length(0))
    }

    /// Reads `bytes`, which follow those of the last call, and gives the data in them to `data`.
    pub(crate) fn read(
        &mut self,
        bytes: &[u8],
        mut data: impl FnMut(&[u8]),
    ) -> Result<Progress, InvalidChunk> {
        let used = match self {
            Self::Length(left) => {
                let used = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left -= used as u64;
                used
            }
            Self::Chunked(decoder) => return decoder.read(bytes, data),
            Self::UntilClose => bytes.len(),
        };
        if used > 0 {
            data(&bytes[..used]);
        }
        Ok(Progress { used, over: self.is_nothing() })
    }

    /// Whether the end of the connection is a regular end.
    pub(crate) fn may_close(&self) -> bool {
        matches!(self, Self::UntilClose)
    }

    /// The fields after the body.
    pub(crate) fn trailers(&self) -> Option<&Fields> {
        match self {
            Self::Chunked(decoder) => Some(decoder.trailers()),
            Self::Length(_) | Self::UntilClose => None,
        }
    }
}
