//! Scripted servers on real sockets, and short ways to write plans.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::Duration,
};

use loadgen::{AnswerText, Control, Options, RunSummary, Targets};
use protocol::Endpoint;
use report::Record;
use workload::{
    Arrival, BodyOptions, Limits, Phase, PhaseKind, Plan, Prompt, Request, Session, Turn, write_body,
};

/// No test waits longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A request as a server received it.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) head: String,
    pub(crate) body: String,
    /// Number of the connection, and of the request on it.
    pub(crate) connection: usize,
    pub(crate) nth: usize,
    under_way: Arc<UnderWay>,
}

/// Requests that a server has received and not answered to the end.
#[derive(Debug, Default)]
struct UnderWay {
    now: AtomicUsize,
    peak: AtomicUsize,
}

impl Received {
    /// The last byte of the answer is about to be sent. After it the client may start another request at once.
    pub(crate) fn ends(&self) {
        self.under_way.now.fetch_sub(1, SeqCst);
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

/// A server whose answers are a closure. False from the closure closes the connection.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    under_way: Arc<UnderWay>,
}

impl Server {
    pub(crate) fn start(answer: impl Fn(&Received, &mut TcpStream) -> bool + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let received = Arc::new(Mutex::new(Vec::new()));
        let under_way = Arc::<UnderWay>::default();
        let server = Self { address, received: received.clone(), under_way: under_way.clone() };
        let answer = Arc::new(answer);
        thread::spawn(move || {
            for (connection, socket) in listener.incoming().enumerate() {
                let (answer, received) = (answer.clone(), received.clone());
                let under_way = under_way.clone();
                thread::spawn(move || {
                    let mut socket = socket.unwrap();
                    socket.set_nodelay(true).unwrap();
                    let mut nth = 0;
                    while let Some((head, body)) = read_request(&mut socket) {
                        let request = Received { head, body, connection, nth, under_way: under_way.clone() };
                        received.lock().unwrap().push(request.clone());
                        under_way.peak.fetch_max(under_way.now.fetch_add(1, SeqCst) + 1, SeqCst);
                        if !answer(&request, &mut socket) {
                            return;
                        }
                        nth += 1;
                    }
                });
            }
        });
        server
    }

    /// A server that streams `tokens` tokens to everyone at once.
    pub(crate) fn streaming(tokens: usize) -> Self {
        Self::start(move |_, socket| socket.write_all(chunked_stream(tokens).as_bytes()).is_ok())
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The requests as they come.
    pub(crate) fn log(&self) -> Arc<Mutex<Vec<Received>>> {
        self.received.clone()
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    /// The most requests under way at once, for servers that say when an answer ends.
    pub(crate) fn peak(&self) -> usize {
        self.under_way.peak.load(SeqCst)
    }
}

pub(crate) fn read_request(socket: &mut impl Read) -> Option<(String, String)> {
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
            let length: usize = length.parse().unwrap();
            while bytes.len() < end + 4 + length {
                match socket.read(&mut piece) {
                    Ok(got @ 1..) => bytes.extend_from_slice(&piece[..got]),
                    _ => return None,
                }
            }
            return Some((head, String::from_utf8(bytes[end + 4..].to_vec()).unwrap()));
        }
        match socket.read(&mut piece) {
            Ok(got @ 1..) => bytes.extend_from_slice(&piece[..got]),
            _ => return None,
        }
    }
}

pub(crate) const STREAM_HEAD: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

pub(crate) fn token_event(text: &str) -> String {
    format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n")
}

pub(crate) fn http_chunk(data: &str) -> String {
    format!("{:x}\r\n{data}\r\n", data.len())
}

/// A whole streamed answer of tokens `t0 t1 ...`.
pub(crate) fn chunked_stream(tokens: usize) -> String {
    let mut out = STREAM_HEAD.to_owned();
    for token in 0..tokens {
        out += &http_chunk(&token_event(&format!("t{token} ")));
    }
    let usage = format!("{{\"prompt_tokens\":7,\"completion_tokens\":{tokens}}}");
    out += &http_chunk(&format!("data: {{\"choices\":[],\"usage\":{usage}}}\n\n"));
    out + &http_chunk("data: [DONE]\n\n") + "0\r\n\r\n"
}

pub(crate) fn json_answer(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

pub(crate) fn chat(text: impl Into<Arc<str>>) -> Request {
    Request::new(Endpoint::ChatCompletions, "model", Prompt::Text(text.into()))
}

pub(crate) fn session(id: u64, turns: impl IntoIterator<Item = impl Into<Turn>>) -> Session {
    Session { id, turns: turns.into_iter().map(Into::into).collect(), target: None }
}

/// `count` sessions of one turn each, one every `gap`.
pub(crate) fn singles(count: u64, gap: Duration) -> Vec<Arrival> {
    (0..count)
        .map(|id| Arrival { at: gap * id as u32, session: session(id, [chat(format!("prompt {id}"))]) })
        .collect()
}

/// A closed loop where there is a limit on sessions.
pub(crate) fn phase(limits: Limits, arrivals: Vec<Arrival>) -> Phase {
    Phase {
        name: "test".to_owned(),
        kind: PhaseKind::Measured,
        closed_loop: limits.concurrency.is_some(),
        limits,
        target_rate: None,
        expected_requests: Some(arrivals.len() as u64),
        arrivals: Box::new(arrivals.into_iter()),
    }
}

pub(crate) fn plan(limits: Limits, arrivals: Vec<Arrival>) -> Plan {
    Plan { phases: vec![phase(limits, arrivals)] }
}

pub(crate) fn options() -> Options {
    let body = BodyOptions { include_usage: true, ..BodyOptions::default() };
    Options::new(Arc::new(move |request, history, out| write_body(request, history, &body, out)))
}

/// A run that has ended.
pub(crate) struct Ran {
    pub(crate) summary: RunSummary,
    /// In the order of the plan.
    pub(crate) records: Vec<Record>,
    pub(crate) texts: Vec<Option<AnswerText>>,
    pub(crate) control: Arc<Control>,
}

/// Carries out a plan; fails the test if that takes too long.
pub(crate) fn run(plan: Plan, urls: &[String], options: Options) -> Ran {
    run_with(plan, urls, options, Arc::default())
}

pub(crate) fn run_with(plan: Plan, urls: &[String], options: Options, control: Arc<Control>) -> Ran {
    run_against(plan, Targets::resolve(urls).unwrap(), options, control)
}

pub(crate) fn run_against(plan: Plan, targets: Targets, options: Options, control: Arc<Control>) -> Ran {
    let (done, ended) = mpsc::channel();
    let shared = control.clone();
    thread::spawn(move || {
        let mut records = Vec::new();
        let summary =
            loadgen::run(plan, &targets, &options, &shared, |record, text| records.push((record, text)));
        done.send((summary, records)).unwrap();
    });
    let (summary, mut records) = ended.recv_timeout(PATIENCE).expect("the run hangs");
    records.sort_by_key(|(record, _)| (record.phase, record.index));
    let (records, texts) = records.into_iter().unzip();
    assert_eq!(control.progress().in_flight, 0);
    Ran { summary: summary.unwrap(), records, texts, control }
}

pub(crate) fn kinds(ran: &Ran) -> Vec<&'static str> {
    ran.records.iter().map(|record| record.outcome.kind()).collect()
}

/// Waits until `condition` holds.
pub(crate) fn until(condition: impl Fn() -> bool) {
    for _ in 0..PATIENCE.as_millis() {
        if condition() {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
    panic!("waited in vain");
}
