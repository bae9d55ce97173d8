//! The body of a response, as it comes off its connection.

use std::{
    io,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;

use super::{
    chunked::{ChunkedDecoder, InvalidChunk, Step},
    connection::Connection,
    head::{Framing, ResponseHead},
};

/// What is left of a body.
#[derive(Debug)]
pub(crate) enum Remaining {
    Length(u64),
    Chunked(ChunkedDecoder),
    UntilClose,
}

/// A piece of a body.
#[derive(Debug)]
pub(crate) enum Piece {
    Data(Bytes),
    End(Option<HeaderMap>),
}

/// Why a body stopped before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the connection closed inside the body")]
    Closed,
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    #[error(transparent)]
    Invalid(#[from] InvalidChunk),
}

// === impl Remaining ===

impl Remaining {
    pub(crate) fn of(head: &ResponseHead) -> Self {
        match head.framing {
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(ChunkedDecoder::default()),
            Framing::UntilClose => Self::UntilClose,
        }
    }

    /// Whether nothing more can come.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self, Self::Length(0))
    }

    /// The length, where it is known.
    pub(crate) fn exact(&self) -> Option<u64> {
        match self {
            Self::Length(length) => Some(*length),
            Self::Chunked(_) | Self::UntilClose => None,
        }
    }

    /// The next piece; reads from the connection only when its buffer has none.
    pub(crate) fn poll_next(
        &mut self,
        connection: &mut Connection,
        context: &mut Context<'_>,
    ) -> Poll<Result<Piece, BodyError>> {
        loop {
            match self {
                Self::Length(0) => return Poll::Ready(Ok(Piece::End(None))),
                Self::Length(left) if !connection.buffer.is_empty() => {
                    let there = connection.buffer.len();
                    let length = usize::try_from(*left).map_or(there, |left| left.min(there));
                    *left -= length as u64;
                    return Poll::Ready(Ok(Piece::Data(connection.buffer.split_to(length).freeze())));
                }
                Self::UntilClose if !connection.buffer.is_empty() => {
                    return Poll::Ready(Ok(Piece::Data(connection.buffer.split().freeze())));
                }
                Self::Chunked(decoder) => match decoder.next(&mut connection.buffer)? {
                    Step::Data(data) => return Poll::Ready(Ok(Piece::Data(data))),
                    Step::End(trailers) => return Poll::Ready(Ok(Piece::End(trailers))),
                    Step::More => {}
                },
                Self::Length(_) | Self::UntilClose => {}
            }
            if ready!(connection.poll_fill(context))? == 0 {
                return match self {
                    Self::UntilClose => Poll::Ready(Ok(Piece::End(None))),
                    Self::Length(_) | Self::Chunked(_) => Poll::Ready(Err(BodyError::Closed)),
                };
            }
        }
    }
}
