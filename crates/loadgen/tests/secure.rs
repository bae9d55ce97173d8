//! Targets behind `https`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use common::{
    chat, chunked_stream, http_chunk, json_answer, kinds, options, phase, read_request, run_against, session,
    singles, token_event, until,
};
use loadgen::{Ask, ClientSettings, Control, Identity, Targets};
use report::Outcome;
use tempfile::TempDir;
use tls::{ServerConnection, StreamOwned};
use workload::{Arrival, Limits, Plan};

type Stream = StreamOwned<ServerConnection, TcpStream>;

/// A server for `localhost` whose answers are a closure: false closes the connection.
struct SecureServer {
    address: SocketAddr,
    folder: TempDir,
}

impl SecureServer {
    fn start(answer: impl Fn(&str, &mut Stream) -> bool + Send + Sync + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made =
            rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        let identity = Identity {
            certificates: folder.path().join("server.pem"),
            key: folder.path().join("server.key"),
        };
        std::fs::write(&identity.certificates, made.cert.pem()).unwrap();
        std::fs::write(&identity.key, made.signing_key.serialize_pem()).unwrap();
        let config = identity.server().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let answer = Arc::new(answer);
        thread::spawn(move || {
            for socket in listener.incoming() {
                let socket = socket.unwrap();
                socket.set_nodelay(true).unwrap();
                let session = ServerConnection::new(config.clone()).unwrap();
                let mut stream = StreamOwned::new(session, socket);
                let answer = answer.clone();
                thread::spawn(move || {
                    while let Some((_, body)) = read_request(&mut stream) {
                        let stays = answer(&body, &mut stream);
                        let _ = stream.flush();
                        if !stays {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, folder }
    }

    fn authorities(&self) -> Option<PathBuf> {
        Some(self.folder.path().join("server.pem"))
    }

    fn targets(&self) -> Targets {
        let settings = ClientSettings { authorities: self.authorities(), ..ClientSettings::default() };
        Targets::resolve_with([format!("https://localhost:{}", self.address.port())], &settings).unwrap()
    }
}

fn plan(arrivals: Vec<Arrival>) -> Plan {
    Plan { phases: vec![phase(Limits::default(), arrivals)] }
}

#[test]
fn tokens_are_timed_as_they_come_and_connections_serve_again() {
    let control = Arc::new(Control::new());
    let (client, answered) = (control.clone(), AtomicU64::new(0));
    let server = SecureServer::start(move |_, stream| {
        let whole = chunked_stream(5);
        let first = whole.find("t1").unwrap();
        stream.write_all(&whole.as_bytes()[..first]).unwrap();
        stream.flush().unwrap();
        // The rest when the first event has been seen.
        let before = answered.fetch_add(5, SeqCst);
        until(|| client.progress().tokens > before);
        stream.write_all(&whole.as_bytes()[first..]).is_ok()
    });
    let turns = [chat("first"), chat("second"), chat("third")];
    let arrivals = vec![Arrival { at: Duration::ZERO, session: session(0, turns) }];
    let mut options = options();
    options.kernel_stamps = true;
    let ran = run_against(plan(arrivals), server.targets(), options, control);
    assert_eq!(kinds(&ran), ["success"; 3]);
    let reused: Vec<bool> = ran.records.iter().map(|record| record.connection_reused).collect();
    assert_eq!(reused, [false, true, true]);
    assert!(ran.records[0].connect.is_some() && ran.records[1].connect.is_none());
    for record in &ran.records {
        assert_eq!((record.chunks.len(), record.output_tokens.tokens), (5, 5));
        assert!(record.chunks[0].at < record.chunks[1].at, "the first was not kept for the second");
        assert!(record.sent <= record.written && record.written < record.headers);
    }
}

#[test]
fn long_prompts_and_long_answers_pass_whole() {
    // More than the buffers of both sides and of the kernel between them.
    let server = SecureServer::start(|body, stream| {
        let text = format!("{} {}", body.len(), "x".repeat(3 << 20));
        let body = format!("{{\"choices\":[{{\"message\":{{\"content\":\"{text}\"}}}}]}}");
        stream.write_all(json_answer("200 OK", &body).as_bytes()).is_ok()
    });
    let mut request = chat("y".repeat(8 << 20));
    request.stream = false;
    let mut options = options();
    options.keep_answers = true;
    let arrivals = vec![Arrival { at: Duration::ZERO, session: session(0, [request]) }];
    let ran = run_against(plan(arrivals), server.targets(), options, Arc::default());
    assert_eq!(kinds(&ran), ["success"]);
    let said = ran.texts[0].as_ref().unwrap().text.as_str();
    let (length, rest) = said.split_once(' ').unwrap();
    assert_eq!(length.parse::<u32>().unwrap(), ran.records[0].request_bytes);
    assert_eq!(rest.len(), 3 << 20);
}

#[test]
fn many_requests_at_once_are_all_answered() {
    let server = SecureServer::start(|_, stream| stream.write_all(chunked_stream(3).as_bytes()).is_ok());
    let mut options = options();
    options.threads = 2;
    let ran = run_against(
        plan(singles(200, Duration::from_micros(200))),
        server.targets(),
        options,
        Arc::default(),
    );
    assert_eq!(kinds(&ran), ["success"; 200]);
}

#[test]
fn a_server_that_nobody_vouches_for_gets_no_request() {
    let server = SecureServer::start(|_, stream| stream.write_all(chunked_stream(1).as_bytes()).is_ok());
    let url = format!("https://127.0.0.1:{}", server.address.port());
    let other = SecureServer::start(|_, _| false);
    let distrusting = ClientSettings { authorities: other.authorities(), ..ClientSettings::default() };
    let targets = Targets::resolve_with([&url], &distrusting).unwrap();
    let ran = run_against(plan(singles(1, Duration::ZERO)), targets, options(), Arc::default());
    let Outcome::Connect(why) = &ran.records[0].outcome else { panic!("{:?}", ran.records[0].outcome) };
    assert!(why.contains("certificate"), "{why}");
    assert_eq!(ran.records[0].sent, None);
    let insecure = ClientSettings { insecure: true, ..ClientSettings::default() };
    let targets = Targets::resolve_with([&url], &insecure).unwrap();
    let ran = run_against(plan(singles(1, Duration::ZERO)), targets, options(), Arc::default());
    assert_eq!(kinds(&ran), ["success"]);
}

#[test]
fn an_answer_that_is_cut_off_is_broken() {
    let server = SecureServer::start(|_, stream| {
        let head = common::STREAM_HEAD.to_owned() + &http_chunk(&token_event("half"));
        stream.write_all(head.as_bytes()).unwrap();
        stream.flush().unwrap();
        false
    });
    let ran =
        run_against(plan(singles(2, Duration::from_millis(5))), server.targets(), options(), Arc::default());
    assert_eq!(kinds(&ran), ["broken"; 2]);
    assert_eq!(ran.records[0].chunks.len(), 1, "what was measured is kept");
}

#[test]
fn a_plain_server_is_no_secure_one() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let settings = ClientSettings { insecure: true, ..ClientSettings::default() };
    thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            let _ = socket.read(&mut [0; 512]);
            let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let targets = Targets::resolve_with([&url], &settings).unwrap();
    let ask = Ask::get("/metrics", Duration::from_secs(20)).send(&targets, 0);
    assert!(ask.unwrap_err().contains("corrupt"), "not TLS");
    let ran = run_against(plan(singles(1, Duration::ZERO)), targets, options(), Arc::default());
    assert_eq!(kinds(&ran), ["connect"]);
}

#[test]
fn pages_beside_a_run_are_read_too() {
    let server = SecureServer::start(|_, stream| {
        stream.write_all(json_answer("200 OK", "page").as_bytes()).unwrap();
        false
    });
    let reply = Ask::get("/metrics", Duration::from_secs(20)).send(&server.targets(), 0).unwrap();
    assert_eq!((reply.status, &*reply.body), (200, &b"page"[..]));
}
