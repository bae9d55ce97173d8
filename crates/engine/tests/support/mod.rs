//! A client that knows just enough HTTP/1.1, and engines that are quick.

#![allow(dead_code, reason = "each test file uses its part")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use engine::{Config, Fleet, Profile, serve};
use serde_json::Value;

/// Longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("UTF-8")
    }
}

/// One engine with steps of 2 ms.
pub(crate) fn quick() -> Config {
    Config::new(Profile {
        step_base_s: 2e-3,
        per_sequence_s: 0.0,
        per_context_token_s: 0.0,
        per_prefill_token_s: 0.0,
        ..Profile::l4()
    })
}

pub(crate) fn start(config: Config) -> (Fleet, SocketAddr) {
    let fleet = serve(config).expect("an engine");
    let address = fleet.addresses()[0];
    (fleet, address)
}

/// Sends a request on a connection of its own.
pub(crate) fn send(address: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    )
    .expect("a request sent");
    stream
}

/// Reads a whole answer; the error of a connection that broke.
pub(crate) fn receive(stream: TcpStream) -> std::io::Result<Reply> {
    let mut reader = BufReader::new(stream);
    let head = read_head(&mut reader)?;
    let mut body = Vec::new();
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        while let Some(chunk) = read_chunk(&mut reader)? {
            body.extend(chunk);
        }
    } else {
        reader.read_to_end(&mut body)?;
    }
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default();
    Ok(Reply { status, head, body })
}

pub(crate) fn read_head(reader: &mut impl BufRead) -> std::io::Result<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(head)
}

/// The next chunk of a chunked body; none after the last.
pub(crate) fn read_chunk(reader: &mut impl BufRead) -> std::io::Result<Option<Vec<u8>>> {
    let mut size = String::new();
    if reader.read_line(&mut size)? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let size = usize::from_str_radix(size.trim(), 16).map_err(std::io::Error::other)?;
    let mut chunk = vec![0; size + 2];
    reader.read_exact(&mut chunk)?;
    chunk.truncate(size);
    Ok((size > 0).then_some(chunk))
}

pub(crate) fn get(address: SocketAddr, path: &str) -> Reply {
    receive(send(address, "GET", path, "", "")).expect("an answer")
}

pub(crate) fn post(address: SocketAddr, path: &str, body: &Value) -> Reply {
    receive(send(address, "POST", path, "", &body.to_string())).expect("an answer")
}

/// The data of all events of a stream.
pub(crate) fn events(reply: &Reply) -> Vec<String> {
    let data = |event: &str| event.lines().find_map(|line| line.strip_prefix("data: ").map(str::to_owned));
    reply.text().split_terminator("\n\n").map(|event| data(event).expect("a data line")).collect()
}

/// A metrics page must have this line.
pub(crate) fn has_metric(page: &str, name: &str, labels: &str, value: &str) {
    let line = format!("{name}{{{labels}}} {value}");
    assert!(page.lines().any(|found| found == line), "{line}\n{page}");
}

pub(crate) fn state(address: SocketAddr) -> Value {
    get(address, "/sim/state").json()
}

/// Waits until `/sim/state` is as it should be.
pub(crate) fn until(address: SocketAddr, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let state = state(address);
        if is_so(&state) {
            return state;
        }
        assert!(begun.elapsed() < PATIENCE, "not seen: {what}; {state}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
