//! Small GETs to replicas, beside the data path: health checks and metrics pages.

use std::{future::poll_fn, io, net::SocketAddr, time::Duration};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use tokio::{net::TcpStream, time::timeout};

use crate::{
    fleet::Backend,
    http1::body::Remaining,
    security::{self, Security},
    upstream::connection::{Connection, Outgoing},
    wire::{Wire, is_own_want},
};

/// Room for one read.
const ROOM_BYTES: usize = 16 * 1024;

/// Why a probe got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    #[error("no answer in time")]
    TimedOut,
    #[error("the name {0} cannot be resolved")]
    Unresolved(Box<str>),
    #[error("cannot connect: {}", security::explain(.0))]
    Connect(io::Error),
    /// It says nothing about the replica.
    #[error("evenload has no room for another socket ({0}); raise the limit of open files")]
    OwnWant(io::Error),
    #[error("{0}")]
    Answer(String),
    #[error("the answer exceeds {0} bytes")]
    TooLarge(usize),
}

/// GETs `path` on a fresh connection and reads the whole answer.
pub(crate) async fn get(
    security: &Security,
    backend: &Backend,
    path: &str,
    limit: Duration,
    most_bytes: usize,
) -> Result<(StatusCode, Bytes), ProbeError> {
    timeout(limit, ask(security, backend, "GET", path, Bytes::new(), limit, most_bytes))
        .await
        .unwrap_or(Err(ProbeError::TimedOut))
}

/// POSTs JSON to `path` on a fresh connection and reads the whole answer.
pub(crate) async fn post(
    security: &Security,
    backend: &Backend,
    path: &str,
    body: Bytes,
    limit: Duration,
    most_bytes: usize,
) -> Result<(StatusCode, Bytes), ProbeError> {
    timeout(limit, ask(security, backend, "POST", path, body, limit, most_bytes))
        .await
        .unwrap_or(Err(ProbeError::TimedOut))
}

/// Connects to the first of the addresses that accepts; none of the `others` takes longer than `part`.
async fn connect(others: &[SocketAddr], last: SocketAddr, part: Duration) -> io::Result<TcpStream> {
    for &address in others {
        if let Ok(Ok(stream)) = timeout(part, TcpStream::connect(address)).await {
            return Ok(stream);
        }
    }
    TcpStream::connect(last).await
}

async fn ask(
    security: &Security,
    backend: &Backend,
    method: &str,
    path: &str,
    body: Bytes,
    limit: Duration,
    most_bytes: usize,
) -> Result<(StatusCode, Bytes), ProbeError> {
    backend.resolve().await;
    let addresses = backend.addresses();
    let Some((last, others)) = addresses.split_last() else {
        return Err(ProbeError::Unresolved(backend.authority.clone()));
    };
    let part = limit / addresses.len() as u32;
    let wiring =
        async { Wire::connect(connect(others, *last, part).await?, backend.secret(security)?).await };
    let mut connection = Connection::new(wiring.await.map_err(|error| match is_own_want(&error) {
        true => ProbeError::OwnWant(error),
        false => ProbeError::Connect(error),
    })?);
    let content = match body.len() {
        0 => String::new(),
        length => format!("content-type: application/json\r\ncontent-length: {length}\r\n"),
    };
    let head = format!(
        "{method} {}{path} HTTP/1.1\r\nhost: {}\r\nuser-agent: evenload\r\naccept: */*\r\n{content}connection: close\r\n\r\n",
        backend.path_prefix, backend.authority
    );
    let mut request = Outgoing::new(head.into(), &body);
    let mut room = vec![0; ROOM_BYTES];
    let head = loop {
        let head = poll_fn(|context| connection.poll_exchange(context, &mut request, false, &mut room))
            .await
            .map_err(|error| ProbeError::Answer(error.to_string()))?;
        if !head.is_interim() {
            break head;
        }
    };
    let mut remaining = Remaining::of(head.framing);
    let mut body = BytesMut::new();
    let mut over = remaining.is_nothing();
    while !over {
        over = poll_fn(|context| {
            connection.poll_body(context, &mut remaining, &mut room, |data| body.extend_from_slice(data))
        })
        .await
        .map_err(|error| ProbeError::Answer(error.to_string()))?;
        if body.len() > most_bytes {
            return Err(ProbeError::TooLarge(most_bytes));
        }
    }
    Ok((head.status, body.freeze()))
}
