//! Single requests beside a run: is the server ready, what does its metrics page say, how far away is it.
//!
//! Blocking, on connections of their own, which are closed after the answer. They are for threads that do not send:
//! nothing here touches the run's connections or its clock. A page has at most [`PAGE_BYTES`].

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use protocol::{Endpoint, header_problem};
use tls::StreamOwned;

use crate::{
    Targets,
    chunked::Chunked,
    request_head::{joined, operation_path},
    target::Target,
};

/// vLLM's metrics pages have 100 to 300 KB.
const PAGE_BYTES: u64 = 16 << 20;
const HEADER_LIMIT: usize = 128;

/// A request beside the run.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// `GET` or `POST`.
    pub method: &'a str,
    /// What of the target is asked for.
    pub path: AskPath<'a>,
    /// JSON; empty where there is none.
    pub body: &'a [u8],
    /// Further headers.
    pub headers: &'a [(String, String)],
    /// Time limit for all of it.
    pub timeout: Duration,
}

/// A path of a target.
#[derive(Clone, Copy, Debug)]
pub enum AskPath<'a> {
    /// The URL as it was given.
    Given,
    /// After the base URL.
    Below(&'a str),
    /// Where a run's requests go: the path of an operation, or [the user's own](crate::Options::path).
    Operation(Endpoint, Option<&'a str>),
}

/// Its answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// The whole body.
    pub body: Vec<u8>,
}

/// Ends what goes on beside a run.
#[derive(Debug, Default)]
pub struct Stop {
    stopped: Mutex<bool>,
    changed: Condvar,
}

// === impl Ask ===

impl<'a> Ask<'a> {
    /// Reads a page.
    pub fn get(path: &'a str, timeout: Duration) -> Self {
        Self { method: "GET", path: AskPath::Below(path), body: &[], headers: &[], timeout }
    }

    /// Asks the target for `self`, at the first of its addresses that takes the connection.
    ///
    /// # Errors
    /// One line that says what failed. An error status is an answer.
    pub fn send(&self, targets: &Targets, target: u16) -> Result<Reply, String> {
        if let Some((name, why)) =
            self.headers.iter().find_map(|(name, value)| Some((name, header_problem(name, value)?)))
        {
            return Err(format!("header {name:?}: {why}"));
        }
        let target = targets.get(target);
        let until = Instant::now() + self.timeout;
        let socket = connect(target, until)?;
        let path = match self.path {
            AskPath::Given => joined(target.path(), ""),
            AskPath::Below(path) => joined(target.prefix(), path),
            AskPath::Operation(endpoint, own) => operation_path(target, endpoint, own),
        };
        let path = path.concat();
        let mut request = format!(
            "{} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n",
            self.method,
            target.authority()
        );
        if !self.body.is_empty() {
            request += "Content-Type: application/json\r\n";
        }
        for (name, value) in self.headers {
            request += &format!("{name}: {value}\r\n");
        }
        request += &format!("Content-Length: {}\r\n\r\n", self.body.len());
        let mut bytes = request.into_bytes();
        bytes.extend_from_slice(self.body);
        limit(&socket, until)?;
        match target.secure() {
            None => talk(socket, &bytes, |socket| limit(socket, until)),
            Some(secure) => {
                let session = secure.session().map_err(|error| error.to_string())?;
                talk(StreamOwned::new(session, socket), &bytes, |stream| limit(&stream.sock, until))
            }
        }
    }
}

/// Sends a request and reads the reply.
fn talk<S: Read + Write>(
    mut stream: S,
    request: &[u8],
    limit: impl Fn(&S) -> Result<(), String>,
) -> Result<Reply, String> {
    stream.write_all(request).and_then(|()| stream.flush()).map_err(|error| said(&error))?;
    read_reply(stream, limit)
}

/// What went wrong, in words.
fn said(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "no answer in time".to_owned(),
        io::ErrorKind::UnexpectedEof => "the connection was closed inside the answer".to_owned(),
        _ => tls::explain(error),
    }
}

fn connect(target: &Target, until: Instant) -> Result<TcpStream, String> {
    let mut failure = "no address took the connection".to_owned();
    for attempt in 0.. {
        let Some(address) = target.address(attempt).map_err(ToOwned::to_owned)? else { break };
        match TcpStream::connect_timeout(&address, left(until)?) {
            Ok(socket) => return Ok(socket),
            Err(error) => failure = format!("{address}: {error}"),
        }
    }
    Err(failure)
}

fn left(until: Instant) -> Result<Duration, String> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err("no answer in time".to_owned()) } else { Ok(left) }
}

/// Bounds the next read and write.
fn limit(socket: &TcpStream, until: Instant) -> Result<(), String> {
    let left = left(until)?;
    socket
        .set_read_timeout(Some(left))
        .and_then(|()| socket.set_write_timeout(Some(left)))
        .map_err(|error| error.to_string())
}

fn read_reply<S: Read>(mut stream: S, limit: impl Fn(&S) -> Result<(), String>) -> Result<Reply, String> {
    let (mut bytes, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        if let Some(reply) = parse(&bytes, false)? {
            return Ok(reply);
        }
        if bytes.len() as u64 > PAGE_BYTES {
            return Err(format!("an answer over {} MiB", PAGE_BYTES >> 20));
        }
        limit(&stream)?;
        match stream.read(&mut buffer) {
            Ok(0) => {
                return parse(&bytes, true)?.ok_or_else(|| said(&io::ErrorKind::UnexpectedEof.into()));
            }
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(said(&error)),
        }
    }
}

/// The reply, once it is whole.
fn parse(bytes: &[u8], ended: bool) -> Result<Option<Reply>, String> {
    let mut headers = [httparse::EMPTY_HEADER; HEADER_LIMIT];
    let mut head = httparse::Response::new(&mut headers);
    let parsed = head.parse(bytes).map_err(|error| format!("not an HTTP response: {error}"))?;
    let httparse::Status::Complete(start) = parsed else { return Ok(None) };
    let status = head.code.unwrap_or(0);
    let value = |name: &str| {
        head.headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name))
            .map(|header| header.value.trim_ascii())
    };
    let mut rest = &bytes[start..];
    if value("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case(b"chunked")) {
        let (mut chunked, mut body) = (Chunked::default(), Vec::new());
        loop {
            let data = chunked.next(&mut rest).map_err(|error| error.to_string())?;
            if data.is_empty() {
                return Ok(chunked.is_done().then_some(Reply { status, body }));
            }
            body.extend_from_slice(data);
        }
    }
    let length =
        value("content-length").and_then(|length| std::str::from_utf8(length).ok()?.parse::<usize>().ok());
    Ok(match length {
        Some(length) => rest.get(..length).map(|body| Reply { status, body: body.to_vec() }),
        None => ended.then(|| Reply { status, body: rest.to_vec() }),
    })
}

impl Targets {
    /// The time to open a connection to a target: one round trip.
    ///
    /// # Errors
    /// One line that says what failed.
    pub fn round_trip(&self, target: u16, timeout: Duration) -> Result<Duration, String> {
        let begin = Instant::now();
        connect(self.get(target), begin + timeout)?;
        Ok(begin.elapsed())
    }
}

// === impl Stop ===

impl Stop {
    /// Ends all that waits for it.
    pub fn stop(&self) {
        *self.stopped.lock() = true;
        self.changed.notify_all();
    }

    /// Waits. True if it was stopped.
    pub fn wait(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        let mut stopped = self.stopped.lock();
        while !*stopped && !self.changed.wait_until(&mut stopped, until).timed_out() {}
        *stopped
    }

    /// Does something at once and then at every interval, until it is stopped or says that it is done.
    pub fn every(&self, interval: Duration, mut work: impl FnMut() -> bool) {
        let mut next = Instant::now();
        while work() {
            next = (next + interval).max(Instant::now());
            if self.wait(next.saturating_duration_since(Instant::now())) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A server that gives one connection this answer, and hands over what it got.
    fn answered(answer: &'static str) -> (Targets, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/base/v1", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let (mut got, mut buffer) = (String::new(), [0; 4096]);
            while !got.contains("\r\n\r\n") {
                let count = socket.read(&mut buffer).unwrap();
                got += std::str::from_utf8(&buffer[..count]).unwrap();
            }
            socket.write_all(answer.as_bytes()).unwrap();
            got
        });
        (Targets::resolve([url]).unwrap(), server)
    }

    #[test]
    fn a_page_is_read_however_it_ends() {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npage",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\npa\r\n2\r\nge\r\n0\r\n\r\n",
            "HTTP/1.0 200 OK\r\n\r\npage",
        ] {
            let (targets, server) = answered(answer);
            let reply = Ask::get("/metrics", Duration::from_secs(20)).send(&targets, 0).unwrap();
            assert_eq!(reply, Reply { status: 200, body: b"page".to_vec() }, "{answer}");
            assert!(server.join().unwrap().starts_with("GET /base/metrics HTTP/1.1\r\nHost: 127.0.0.1:"));
        }
    }

    #[test]
    fn a_path_is_that_of_the_run() {
        let own = |path| AskPath::Operation(Endpoint::ChatCompletions, path);
        for (path, expected) in [
            (own(None), "/base/v1/chat/completions"),
            (own(Some("v1/chat/completions")), "/base/v1/chat/completions"),
            (own(Some("")), "/base/v1"),
            (AskPath::Given, "/base/v1"),
            (AskPath::Below("reset"), "/base/reset"),
        ] {
            let (targets, server) = answered("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            let ask = Ask { path, ..Ask::get("", Duration::from_secs(20)) };
            assert_eq!(ask.send(&targets, 0).unwrap().status, 200);
            assert!(server.join().unwrap().starts_with(&format!("GET {expected} HTTP/1.1")), "{expected}");
        }
    }

    #[test]
    fn what_goes_wrong_is_said() {
        let (targets, server) = answered("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npage");
        let get = |timeout| Ask::get("/metrics", timeout).send(&targets, 0);
        assert_eq!(get(Duration::from_secs(20)).unwrap_err(), "the connection was closed inside the answer");
        server.join().unwrap();
        assert!(get(Duration::from_secs(20)).unwrap_err().contains("refused"));
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let targets = Targets::resolve([silent.local_addr().unwrap().to_string()]).unwrap();
        assert_eq!(
            Ask::get("/", Duration::from_millis(30)).send(&targets, 0).unwrap_err(),
            "no answer in time"
        );
        assert!(targets.round_trip(0, Duration::from_secs(20)).is_ok());
    }

    #[test]
    fn a_header_that_would_break_the_message_is_not_sent() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let targets = Targets::resolve([silent.local_addr().unwrap().to_string()]).unwrap();
        let headers = [("x-team".to_owned(), "a\r\nx-other: b".to_owned())];
        let ask = Ask { headers: &headers, ..Ask::get("/", Duration::from_secs(20)) };
        assert!(ask.send(&targets, 0).unwrap_err().starts_with("header \"x-team\": "));
    }

    #[test]
    fn a_stop_ends_the_waiting() {
        let (stop, mut times) = (Stop::default(), 0);
        stop.every(Duration::ZERO, || {
            times += 1;
            times < 3
        });
        assert_eq!(times, 3);
        stop.stop();
        stop.every(Duration::from_secs(1000), || {
            times += 1;
            true
        });
        assert_eq!(times, 4);
    }
}
