//! A gateway between raw sockets: what is sent and seen is bytes, so that bad ones can be, too.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use gateway::{Handle, ReplicaConfig, Settings};

/// Longest that any step of a test may take.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A scripted replica.
pub struct Upstream {
    pub address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<Request>>>,
}

/// One connection to a scripted replica.
pub struct Conn {
    pub stream: TcpStream,
    /// From 0, in the order of their coming.
    pub number: usize,
    requests: Arc<Mutex<Vec<Request>>>,
    rest: Vec<u8>,
}

/// A request as a replica saw it.
#[derive(Clone, Debug)]
pub struct Request {
    pub head: String,
    pub body: Vec<u8>,
}

/// A client's connection.
pub struct Client {
    pub stream: TcpStream,
    rest: Vec<u8>,
}

/// An answer as a client saw it.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
    /// Whether the body came to its proper end.
    pub whole: bool,
}

/// A gateway under test.
pub struct Gateway(pub Handle);

impl Upstream {
    /// A replica that plays `script` on each connection.
    pub fn new(script: impl Fn(&mut Conn) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (accepted, requests) = (Arc::<AtomicUsize>::default(), Arc::<Mutex<Vec<Request>>>::default());
        let (count, log, script) = (Arc::clone(&accepted), Arc::clone(&requests), Arc::new(script));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                stream.set_nodelay(true).unwrap();
                let number = count.fetch_add(1, SeqCst);
                let mut conn = Conn { stream, number, requests: Arc::clone(&log), rest: Vec::new() };
                let script = Arc::clone(&script);
                thread::spawn(move || script(&mut conn));
            }
        });
        Self { address, accepted, requests }
    }

    /// A replica that answers every request with `answer`.
    pub fn answering(answer: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        Self::new(move |conn| {
            while conn.read_request().is_some() {
                conn.write(answer.as_ref());
            }
        })
    }

    /// A replica that answers `{}`.
    pub fn fine() -> Self {
        Self::answering("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
    }

    /// An address at which nothing listens.
    pub fn nobody() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    pub fn accepted(&self) -> usize {
        self.accepted.load(SeqCst)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

impl Conn {
    /// The next request; `None` when the gateway has closed the connection.
    pub fn read_request(&mut self) -> Option<Request> {
        let end = loop {
            if let Some(end) = find(&self.rest, b"\r\n\r\n") {
                break end + 4;
            }
            self.fill()?;
        };
        let head = String::from_utf8_lossy(&self.rest[..end]).into_owned();
        let length: usize = field(&head, "content-length").map_or(0, |length| length.parse().unwrap());
        while self.rest.len() < end + length {
            self.fill()?;
        }
        let body = self.rest[end..end + length].to_vec();
        self.rest.drain(..end + length);
        let request = Request { head, body };
        self.requests.lock().unwrap().push(request.clone());
        Some(request)
    }

    fn fill(&mut self) -> Option<()> {
        let mut bytes = [0; 65536];
        match self.stream.read(&mut bytes) {
            Ok(length @ 1..) => {
                self.rest.extend_from_slice(&bytes[..length]);
                Some(())
            }
            _ => None,
        }
    }

    pub fn write(&mut self, bytes: impl AsRef<[u8]>) {
        // A gateway that has gone away is for the test to notice.
        let _ = self.stream.write_all(bytes.as_ref());
    }

    /// Waits until the gateway closes the connection; false if it does not.
    pub fn is_closed_by_peer(&mut self) -> bool {
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        match self.stream.read(&mut [0; 1024]) {
            Ok(0) => true,
            Ok(_) => false,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }

    /// Closes with a reset.
    pub fn reset(self_: &mut Self) {
        reset(&self_.stream);
    }
}

/// Makes the close of `stream` a reset.
pub fn reset(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
}

impl Request {
    pub fn field(&self, name: &str) -> Option<String> {
        field(&self.head, name)
    }

    /// The field lines, without the request line.
    pub fn fields(&self) -> Vec<&str> {
        self.head.lines().skip(1).filter(|line| !line.is_empty()).collect()
    }
}

/// The value of the first field `name` in a head.
pub fn field(head: &str, name: &str) -> Option<String> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}

impl Gateway {
    pub fn over(replicas: &[SocketAddr]) -> Self {
        Self::with(replicas, |_| {})
    }

    pub fn before(upstream: &Upstream) -> Self {
        Self::over(&[upstream.address])
    }

    /// A gateway with one thread and no checks, so that scripted replicas see requests only.
    pub fn with(replicas: &[SocketAddr], change: impl FnOnce(&mut Settings)) -> Self {
        let placeholder = vec![ReplicaConfig::new("http://a".parse().unwrap())];
        let mut settings = Settings::new(placeholder).unwrap();
        settings.replicas = replicas
            .iter()
            .map(|address| ReplicaConfig::new(format!("http://{address}").parse().unwrap()))
            .collect();
        settings.listen = "127.0.0.1:0".parse().unwrap();
        settings.admin_listen = "127.0.0.1:0".parse().unwrap();
        settings.threads = std::num::NonZero::<usize>::MIN;
        settings.checks.interval = Duration::ZERO;
        settings.health.wait_for_check = false;
        settings.scrape_interval = Duration::ZERO;
        change(&mut settings);
        Self(gateway::start(settings).unwrap())
    }

    pub fn client(&self) -> Client {
        Client::to(self.0.address())
    }

    /// Sends one request on a connection of its own and reads the answer.
    pub fn ask(&self, request: impl AsRef<[u8]>) -> Answer {
        let mut client = self.client();
        client.write(request);
        client.answer()
    }

    pub fn admin(&self, request: impl AsRef<[u8]>) -> Answer {
        let mut client = Client::to(self.0.admin_address());
        client.write(request);
        client.answer()
    }

    /// The value of a metric, by its name with labels.
    pub fn metric(&self, name: &str) -> f64 {
        let page = self.admin("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
        let page = String::from_utf8(page.body).unwrap();
        page.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
            .unwrap_or_else(|| panic!("no {name} in\n{page}"))
    }

    /// Waits until the counter of an error reason has this value.
    pub fn expect_errors(&self, reason: &str, count: usize) {
        let name = format!("evenload_errors_total{{reason=\"{reason}\"}}");
        eventually(&format!("{name} is {count}"), || self.metric(&name) == count as f64);
    }

    /// Waits until nothing is in progress and every load is zero.
    pub fn settle(&self) {
        eventually("nothing in flight", || {
            let replicas = self.0.router().replicas();
            let idle = replicas.iter().all(|replica| {
                let load = replica.load.snapshot();
                load.requests == 0
                    && load.pending_tokens() == 0
                    && load.prompt_tokens == 0
                    && load.waiting == 0
            });
            self.0.in_flight() == 0 && idle
        });
    }
}

/// Waits until `condition` holds.
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

impl Client {
    pub fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, rest: Vec::new() }
    }

    pub fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    pub fn try_write(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// The next bytes; `None` at the end of the connection.
    pub fn read_some(&mut self) -> Option<Vec<u8>> {
        if !self.rest.is_empty() {
            return Some(std::mem::take(&mut self.rest));
        }
        let mut bytes = [0; 65536];
        match self.stream.read(&mut bytes) {
            Ok(0) => None,
            Ok(length) => Some(bytes[..length].to_vec()),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Reads until `text` has come, and gives everything up to its end.
    pub fn read_until(&mut self, text: &[u8]) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.rest);
        loop {
            if let Some(start) = find(&bytes, text) {
                self.rest = bytes.split_off(start + text.len());
                return bytes;
            }
            let more = self.read_some();
            let so_far = String::from_utf8_lossy(&bytes).into_owned();
            bytes.extend(more.unwrap_or_else(|| panic!("closed after {so_far:?}")));
        }
    }

    /// Everything up to the end of the connection.
    pub fn read_all(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Some(more) = self.read_some() {
            bytes.extend(more);
        }
        bytes
    }

    pub fn half_close(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Reads one answer to a request that was not HEAD.
    pub fn answer(&mut self) -> Answer {
        self.answer_to("GET")
    }

    pub fn answer_to(&mut self, method: &str) -> Answer {
        let head = String::from_utf8(self.read_until(b"\r\n\r\n")).unwrap();
        let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
        let (mut body, mut whole) = (Vec::new(), true);
        let chunked = field(&head, "transfer-encoding").is_some();
        let length = field(&head, "content-length").map(|length| length.parse::<usize>().unwrap());
        if method == "HEAD" || matches!(status, 204 | 304) || status < 200 {
        } else if chunked {
            loop {
                let Some((size, data)) = self.chunk() else {
                    whole = false;
                    break;
                };
                if size == 0 {
                    break;
                }
                body.extend(data);
            }
        } else {
            while length.is_none_or(|length| body.len() < length) {
                match self.read_some() {
                    Some(more) => body.extend(more),
                    None => {
                        whole = length.is_none();
                        break;
                    }
                }
            }
            if let Some(length) = length.filter(|&length| length < body.len()) {
                self.rest = body.split_off(length);
            }
        }
        Answer { status, head, body, whole }
    }

    /// One chunk of a chunked body; `None` when the connection ends inside it.
    fn chunk(&mut self) -> Option<(usize, Vec<u8>)> {
        let line = self.take_through(b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
        if size == 0 {
            while self.take_through(b"\r\n")? != b"\r\n" {}
            return Some((0, Vec::new()));
        }
        while self.rest.len() < size + 2 {
            let mut kept = std::mem::take(&mut self.rest);
            kept.extend(self.read_some()?);
            self.rest = kept;
        }
        let data = self.rest[..size].to_vec();
        assert_eq!(&self.rest[size..size + 2], b"\r\n");
        self.rest.drain(..size + 2);
        Some((size, data))
    }

    fn take_through(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(start) = find(&self.rest, end) {
                return Some(self.rest.drain(..start + end.len()).collect());
            }
            let mut kept = std::mem::take(&mut self.rest);
            kept.extend(self.read_some()?);
            self.rest = kept;
        }
    }
}

impl Answer {
    pub fn field(&self, name: &str) -> Option<String> {
        field(&self.head, name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The `code` of an error body.
    pub fn code(&self) -> String {
        let body: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        body["error"]["code"].as_str().unwrap().to_owned()
    }
}

/// A POST of `body` as a chat request.
pub fn post(body: &str) -> String {
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// A small chat request.
pub fn chat() -> String {
    post(r#"{"model":"m","messages":[{"role":"user","content":"hello"}],"max_tokens":5}"#)
}

/// The head of a chunked event stream.
pub const STREAM_HEAD: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

/// One chunk.
pub fn chunk(data: &str) -> String {
    format!("{:x}\r\n{data}\r\n", data.len())
}

pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
