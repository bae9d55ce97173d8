//! Small requests to replicas, beside the data path: health checks, metrics pages, prompts to be told in tokens.
//!
//! A name is looked up first, in time of its own: a name server that is silent does not keep a replica whose address is
//! known from being asked.

use std::{future::poll_fn, io, net::SocketAddr, sync::Arc, time::Duration};

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
/// This part of the time for an answer is waited for a newer address where one is known, and all of it otherwise.
const KNOWN_SHARE: u32 = 4;

/// Why a probe got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    #[error("no answer in time")]
    TimedOut,
    #[error("the name {0} cannot be resolved")]
    Unresolved(Box<str>),
    #[error("the name {0} was not resolved in time: the name server is slow or silent")]
    SlowName(Box<str>),
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

/// What to ask, and how much to read of the answer.
struct Question<'a> {
    method: &'static str,
    path: &'a str,
    body: Bytes,
    most_bytes: usize,
}

/// GETs `path` on a fresh connection and reads the whole answer.
pub(crate) async fn get(
    security: &Security,
    backend: &Arc<Backend>,
    path: &str,
    limit: Duration,
    most_bytes: usize,
) -> Result<(StatusCode, Bytes), ProbeError> {
    let question = Question { method: "GET", path, body: Bytes::new(), most_bytes };
    ask(security, backend, question, limit).await
}

/// POSTs JSON to `path` on a fresh connection and reads the whole answer.
pub(crate) async fn post(
    security: &Security,
    backend: &Arc<Backend>,
    path: &str,
    body: Bytes,
    limit: Duration,
    most_bytes: usize,
) -> Result<(StatusCode, Bytes), ProbeError> {
    let question = Question { method: "POST", path, body, most_bytes };
    ask(security, backend, question, limit).await
}

async fn ask(
    security: &Security,
    backend: &Arc<Backend>,
    question: Question<'_>,
    limit: Duration,
) -> Result<(StatusCode, Bytes), ProbeError> {
    let addresses = addresses(backend, limit).await?;
    let answer = timeout(limit, ask_at(&addresses, security, backend, question, limit)).await;
    answer.unwrap_or(Err(ProbeError::TimedOut))
}

/// Where the replica is now, or was when its name was resolved last.
async fn addresses(backend: &Arc<Backend>, limit: Duration) -> Result<Arc<Vec<SocketAddr>>, ProbeError> {
    let share = if backend.addresses().is_empty() { 1 } else { KNOWN_SHARE };
    let looked_up = timeout(limit / share, backend.resolve()).await;
    let (addresses, name) = (backend.addresses(), || backend.authority.clone());
    match looked_up {
        _ if !addresses.is_empty() => Ok(addresses),
        Ok(()) => Err(ProbeError::Unresolved(name())),
        Err(_) => Err(ProbeError::SlowName(name())),
    }
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

async fn ask_at(
    addresses: &[SocketAddr],
    security: &Security,
    backend: &Backend,
    question: Question<'_>,
    limit: Duration,
) -> Result<(StatusCode, Bytes), ProbeError> {
    let Some((last, others)) = addresses.split_last() else {
        return Err(ProbeError::Unresolved(backend.authority.clone()));
    };
    let Question { method, path, body, most_bytes } = question;
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use tokio::runtime::{Builder, LocalOptions};

    use super::*;
    use crate::Settings;

    #[test]
    fn a_silent_name_server_does_not_hide_a_replica_whose_address_is_known() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 1024]);
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        });
        let settings = Settings::new(vec!["http://a".parse().unwrap()]).unwrap();
        let security = Security::new(&settings).unwrap();
        let backend = Arc::new(Backend::new(1, &"http://replica.example:8000".parse().unwrap()));
        let _silent = backend.look_up_in_vain();
        let runtime =
            Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
        let check = |limit| runtime.block_on(get(&security, &backend, "/health", limit, 1024));
        let error = check(Duration::from_millis(10)).unwrap_err().to_string();
        assert!(error.contains("replica.example:8000 was not resolved in time"), "{error}");
        backend.set_addresses(vec![address]);
        assert_eq!(check(Duration::from_secs(2)).unwrap().0, StatusCode::OK);
    }
}
