//! What one request, and one streamed chunk, cost the load generator in CPU time.
//!
//! Starts the simplest server there is (in a process of its own), sends for a few seconds, and divides the CPU
//! time of the generator's threads, as the kernel's scheduler counts it, by requests and chunks. Wall-clock rates
//! say little on a busy machine, CPU time does.
//!
//! ```text
//! cargo run --release -p loadgen --example cost -- unary    # whole answers, closed loop
//! cargo run --release -p loadgen --example cost -- burst    # 30 chunks in one write, closed loop
//! cargo run --release -p loadgen --example cost -- paced    # 30 chunks/s a stream, 2,000 streams at once
//! cargo run --release -p loadgen --example cost -- open     # whole answers, 2,000 requests/s
//! ```
//! A second argument is the number of sending threads; a third, `plain`, leaves the kernel's time stamps out.
#![allow(clippy::unwrap_used, reason = "a measuring script stops at the first trouble")]

use std::{
    collections::VecDeque,
    env,
    io::{BufRead, BufReader, Read, Write},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use loadgen::{Control, Options, Targets, ThreadRole};
use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};
use protocol::Endpoint;
use workload::{
    Arrival, BodyOptions, Limits, Phase, PhaseKind, Plan, Prompt, Request, Session, Turn, write_body,
};

const CHUNKS: usize = 30;
const CHUNK_GAP: Duration = Duration::from_micros(33_333);
const SECONDS: u64 = 5;
const LISTENER: Token = Token(usize::MAX);

fn main() {
    let mode = env::args().nth(1).unwrap_or_default();
    match (mode.as_str(), env::args().nth(2).as_deref()) {
        (_, Some("serve")) => serve(&mode),
        ("unary" | "burst" | "paced" | "open", threads) => {
            let mut server = Command::new(env::current_exe().unwrap())
                .args([&mode, "serve"])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut address = String::new();
            BufReader::new(server.stdout.take().unwrap()).read_line(&mut address).unwrap();
            measure(&mode, address.trim(), threads.map_or(1, |threads| threads.parse().unwrap()));
            server.kill().unwrap();
            server.wait().unwrap();
        }
        _ => eprintln!("usage: cost unary|burst|paced|open [THREADS [plain]]"),
    }
}

fn measure(mode: &str, address: &str, threads: usize) {
    let prompt: Arc<str> = "Say something nice about load generators. ".repeat(24).into();
    let stream = mode == "burst" || mode == "paced";
    let gap = if mode == "open" { Duration::from_micros(500) } else { Duration::ZERO };
    let turn = move || {
        let prompt = Prompt::Text(prompt.clone());
        Turn::from(Request {
            stream,
            output_tokens: Some(CHUNKS as u32),
            ..Request::new(Endpoint::Completions, "m", prompt)
        })
    };
    let arrivals = (0..).map(move |id| Arrival {
        at: gap * id as u32,
        session: Session { id, turns: vec![turn()], target: None },
    });
    let limits = Limits {
        concurrency: match mode {
            "open" => None,
            "paced" => Some(2000),
            _ => Some(64),
        },
        duration: Some(Duration::from_secs(SECONDS)),
        ..Limits::default()
    };
    let plan = Plan {
        phases: vec![Phase {
            name: mode.to_owned(),
            kind: PhaseKind::Measured,
            limits,
            closed_loop: mode != "open",
            target_rate: None,
            expected_requests: None,
            arrivals: Box::new(arrivals),
        }],
    };
    let body = BodyOptions::default();
    let render = Arc::new(move |request: &Request, history: &[_], out: &mut Vec<u8>| {
        write_body(request, history, &body, out);
    });
    let kernel_stamps = env::args().nth(3).as_deref() != Some("plain");
    let options = Options { threads, kernel_stamps, ..Options::new(render) };
    let (mut requests, mut chunks, mut failed) = (0u64, 0u64, 0u64);
    let summary =
        loadgen::run(plan, &Targets::resolve([address]).unwrap(), &options, &Control::new(), |record, _| {
            requests += 1;
            chunks += record.chunks.len() as u64;
            failed += u64::from(!record.outcome.is_success());
        })
        .unwrap();

    let client = &summary.client;
    let cpu = |role| -> f64 {
        client
            .threads
            .iter()
            .filter(|thread| thread.role == role)
            .map(|thread| thread.cpu.as_secs_f64() * 1e6)
            .sum()
    };
    let (io, planner, collector) =
        (cpu(ThreadRole::Io), cpu(ThreadRole::Planner), cpu(ThreadRole::Collector));
    let seconds = summary.duration.as_secs_f64();
    let micros =
        |distribution: &report::Distribution, percent| distribution.percentile(percent).unwrap_or(0.0) / 1e3;
    println!(
        "mode {mode}, {threads} sending thread(s): {requests} requests ({failed} failed), {chunks} chunks in {seconds:.2} s"
    );
    println!(
        "CPU us/request: sending {:.2}, planning {:.2}, collecting {:.2}; us/chunk: sending {:.2}",
        io / requests as f64,
        planner / requests as f64,
        collector / requests as f64,
        io / chunks as f64,
    );
    println!(
        "per core-second of the sending thread: {:.0} requests, {:.0} chunks; {:.2} chunks a read",
        requests as f64 / io * 1e6,
        chunks as f64 / io * 1e6,
        client.payload_events as f64 / client.payload_reads.max(1) as f64,
    );
    for (name, distribution) in [
        ("schedule lag", &client.schedule_lag),
        ("dispatch lag", &client.dispatch_lag),
        ("loop stall", &client.loop_stall),
        ("receive lag", &client.receive_lag),
    ] {
        let [p50, p99, max] = [50.0, 99.0, 100.0].map(|percent| micros(distribution, percent));
        println!("{name} us: p50 {p50:.1}, p99 {p99:.1}, max {max:.1}");
    }
    for thread in client.threads.iter().filter(|thread| thread.role == ThreadRole::Io) {
        println!(
            "sending thread: {:.0} % CPU, {:.0} % waiting for a core",
            thread.cpu_share * 100.0,
            thread.wait_share * 100.0
        );
    }
    let memory = std::fs::read_to_string("/proc/self/status").unwrap();
    println!("{}", memory.lines().find(|line| line.starts_with("VmHWM")).unwrap());
}

/// A connection of the server: the bytes of a request that have come, and the chunks still to be sent.
struct Peer {
    socket: TcpStream,
    got: Vec<u8>,
    chunks_left: usize,
}

fn serve(mode: &str) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    println!("{}", listener.local_addr().unwrap());
    listener.set_nonblocking(true).unwrap();
    let mut listener = TcpListener::from_std(listener);
    let mut poll = Poll::new().unwrap();
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE).unwrap();
    let (mut events, mut peers, mut due) = (Events::with_capacity(1024), Vec::<Peer>::new(), VecDeque::new());
    let answers = Answers::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let wait = due.front().map(|(at, _): &(Instant, usize)| at.saturating_duration_since(Instant::now()));
        poll.poll(&mut events, wait).unwrap();
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut socket, _)) = listener.accept() {
                    socket.set_nodelay(true).unwrap();
                    poll.registry().register(&mut socket, Token(peers.len()), Interest::READABLE).unwrap();
                    peers.push(Peer { socket, got: Vec::new(), chunks_left: 0 });
                }
                continue;
            }
            let peer = &mut peers[event.token().0];
            while let Ok(bytes @ 1..) = peer.socket.read(&mut buffer) {
                peer.got.extend_from_slice(&buffer[..bytes]);
            }
            if is_complete(&peer.got) {
                peer.got.clear();
                match mode {
                    "burst" => peer.say(&answers.stream),
                    "paced" => {
                        peer.say(&answers.stream_head);
                        peer.chunks_left = CHUNKS;
                        due.push_back((Instant::now() + CHUNK_GAP, event.token().0));
                    }
                    _ => peer.say(&answers.whole),
                }
            }
        }
        while let Some((at, place)) = due.front().copied().filter(|(at, _)| *at <= Instant::now()) {
            due.pop_front();
            let peer = &mut peers[place];
            peer.chunks_left -= 1;
            peer.say(&answers.chunk);
            match peer.chunks_left {
                0 => peer.say(&answers.stream_end),
                _ => due.push_back((at + CHUNK_GAP, place)),
            }
        }
    }
}

impl Peer {
    fn say(&mut self, bytes: &[u8]) {
        // A client that has left is of no interest.
        let _ = self.socket.write(bytes);
    }
}

struct Answers {
    whole: Vec<u8>,
    stream: Vec<u8>,
    stream_head: Vec<u8>,
    chunk: Vec<u8>,
    stream_end: Vec<u8>,
}

impl Answers {
    fn new() -> Self {
        let body = r#"{"id":"cmpl-1","object":"text_completion","choices":[{"index":0,"text":"nice","finish_reason":"stop"}],"usage":{"prompt_tokens":250,"completion_tokens":30,"total_tokens":280}}"#;
        let whole = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let stream_head =
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
                .to_vec();
        let chunk = http_chunk(
            "data: {\"id\":\"cmpl-1a2b3c4d5e6f\",\"object\":\"text_completion\",\"created\":1700000000,\"model\":\"m\",\
             \"choices\":[{\"index\":0,\"text\":\" word\",\"logprobs\":null,\"finish_reason\":null}]}\n\n",
        );
        let stream_end = [http_chunk("data: [DONE]\n\n"), b"0\r\n\r\n".to_vec()].concat();
        let stream = [stream_head.clone(), chunk.repeat(CHUNKS), stream_end.clone()].concat();
        Self { whole: whole.into_bytes(), stream, stream_head, chunk, stream_end }
    }
}

fn http_chunk(data: &str) -> Vec<u8> {
    format!("{:x}\r\n{data}\r\n", data.len()).into_bytes()
}

/// Whether a request has come to its end, by its `Content-Length`.
fn is_complete(got: &[u8]) -> bool {
    let Some(end) = got.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let head = std::str::from_utf8(&got[..end]).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
    got.len() >= end + 4 + length.parse::<usize>().unwrap()
}
