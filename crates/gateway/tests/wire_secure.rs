//! TLS on both sides: two gateways, one behind the other, with TLS between them, so that what goes in at the front and
//! comes out at the back is bytes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::PathBuf,
    sync::mpsc,
    time::Duration,
};

use gateway::Settings;
use parking_lot::Mutex;
use support::{Client, Gateway, STREAM_HEAD, Upstream, chat, chunk, eventually, post};
use tempfile::TempDir;
use tls::{ClientConnection, ClientSettings, Identity, StreamOwned, server_name};

/// A certificate for this machine, in files.
struct Certificate {
    identity: Identity,
    _folder: TempDir,
}

impl Certificate {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made =
            rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        let [certificates, key] = ["a.pem", "a.key"].map(|name| folder.path().join(name));
        fs::write(&certificates, made.cert.pem()).unwrap();
        fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        Self { identity: Identity { certificates, key }, _folder: folder }
    }

    fn trusted(&self) -> Option<PathBuf> {
        Some(self.identity.certificates.clone())
    }
}

/// Speaks TLS to clients.
fn back(upstream: &Upstream, certificate: &Certificate) -> Gateway {
    Gateway::with(&[upstream.address], |settings| settings.tls.identity = Some(certificate.identity.clone()))
}

/// Speaks TLS to `back`.
fn front(back: &Gateway, change: impl FnOnce(&mut Settings)) -> Gateway {
    let url = format!("https://{}", back.0.address());
    Gateway::with(&[], |settings| {
        settings.replicas = vec![url.parse().unwrap()];
        change(settings);
    })
}

/// Both, the second behind the first.
fn chain(upstream: &Upstream) -> (Gateway, Gateway) {
    let certificate = Certificate::new();
    let back = back(upstream, &certificate);
    let front = front(&back, |settings| settings.tls.replicas.authorities = certificate.trusted());
    (front, back)
}

#[test]
fn bodies_pass_whole_both_ways() {
    let text = "x".repeat(3 << 20);
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
    let upstream = Upstream::answering(answer);
    let (front, back) = chain(&upstream);
    let body = format!(r#"{{"model":"m","prompt":"{}"}}"#, "y".repeat(5 << 20));
    let answer = front.ask(post(&body));
    assert_eq!((answer.status, answer.whole), (200, true));
    assert!(answer.text() == text && upstream.requests()[0].body == body.as_bytes());
    front.settle();
    back.settle();
}

#[test]
fn streams_are_passed_on_as_they_come_over_connections_that_serve_again() {
    let (go_on, next) = mpsc::channel();
    let next = Mutex::new(next);
    let upstream = Upstream::new(move |conn| {
        while conn.read_request().is_some() {
            conn.write(STREAM_HEAD);
            conn.write(chunk("data: one\n\n"));
            // The second is sent when the first has come out at the other end.
            if next.lock().recv().is_ok() {
                conn.write(chunk("data: two\n\n") + "0\r\n\r\n");
            }
        }
    });
    let (front, back) = chain(&upstream);
    let mut client = front.client();
    for _ in 0..5 {
        client.write(chat());
        client.read_until(b"data: one\n\n");
        go_on.send(()).unwrap();
        client.read_until(b"0\r\n\r\n");
    }
    assert_eq!(back.metric("evenload_client_connections_accepted_total"), 1.0);
    front.settle();
    back.settle();
}

#[test]
fn a_client_that_leaves_is_noticed_at_the_other_end() {
    let (closed, was_closed) = mpsc::channel();
    let closed = Mutex::new(closed);
    let upstream = Upstream::new(move |conn| {
        conn.read_request();
        conn.write(STREAM_HEAD);
        conn.write(chunk("data: one\n\n"));
        closed.lock().send(conn.is_closed_by_peer()).unwrap();
    });
    let (front, back) = chain(&upstream);
    let mut client = front.client();
    client.write(chat());
    client.read_until(b"data: one\n\n");
    drop(client);
    assert!(was_closed.recv_timeout(support::PATIENCE).unwrap());
    front.settle();
    back.settle();
}

#[test]
fn a_stream_that_breaks_off_looks_broken() {
    let upstream = Upstream::new(|conn| {
        conn.read_request();
        conn.write(STREAM_HEAD);
        conn.write(chunk("data: one\n\n"));
    });
    let (front, _back) = chain(&upstream);
    let answer = front.ask(chat());
    assert_eq!((answer.status, answer.whole), (200, false));
    assert_eq!(answer.text(), "data: one\n\n");
}

#[test]
fn a_connection_that_leaves_http_goes_on_under_tls() {
    let upstream = Upstream::new(|conn| {
        conn.read_request();
        conn.write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\n");
        let mut bytes = [0; 64];
        while let Ok(length @ 1..) = conn.stream.read(&mut bytes) {
            conn.write(&bytes[..length]);
        }
    });
    let (front, _back) = chain(&upstream);
    let mut client = front.client();
    client.write("GET /echo HTTP/1.1\r\nHost: a\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\n");
    client.read_until(b"\r\n\r\n");
    for word in ["one", "two"] {
        client.write(word);
        client.read_until(word.as_bytes());
    }
}

#[test]
fn a_replica_that_nobody_vouches_for_gets_no_request() {
    let (upstream, certificate) = (Upstream::fine(), Certificate::new());
    let back = back(&upstream, &certificate);
    let stranger = Certificate::new();
    let distrusting = front(&back, |settings| settings.tls.replicas.authorities = stranger.trusted());
    let answer = distrusting.ask(chat());
    assert_eq!((answer.status, answer.code().as_str()), (503, "connect_failed"));
    assert!(upstream.requests().is_empty());
    eventually("counted", || back.metric("evenload_failed_handshakes_total") >= 1.0);
    let careless = front(&back, |settings| settings.tls.replicas.insecure = true);
    assert_eq!(careless.ask(chat()).status, 200);
}

#[test]
fn whom_to_trust_can_change_while_it_runs() {
    let (upstream, certificate) = (Upstream::fine(), Certificate::new());
    let back = back(&upstream, &certificate);
    let front = Gateway::over(&[Upstream::nobody()]);
    let url = format!("https://{}", back.0.address());
    let mut settings = Settings::new(vec![url.parse().unwrap()]).unwrap();
    settings.policy = "random".parse().unwrap();
    settings.health.slow_start = Duration::ZERO;
    settings.tls.replicas.authorities = Some("/missing.pem".into());
    let error = front.0.apply(&settings).unwrap_err().to_string();
    assert!(error.starts_with("/missing.pem: "), "{error}");
    let policy = front.0.router().policy().name().label();
    assert_eq!((policy, front.ask(chat()).status), ("prefix_aware", 503), "nothing has changed");
    settings.tls.replicas.authorities = certificate.trusted();
    front.0.apply(&settings).unwrap();
    assert_eq!(front.ask(chat()).status, 200);
}

#[test]
fn clients_are_told_apart_by_their_scheme() {
    let (upstream, certificate) = (Upstream::fine(), Certificate::new());
    let back = back(&upstream, &certificate);
    let settings = ClientSettings { authorities: certificate.trusted(), ..ClientSettings::default() };
    let connection =
        ClientConnection::new(settings.load().unwrap(), server_name("localhost").unwrap()).unwrap();
    let socket = TcpStream::connect(back.0.address()).unwrap();
    let mut stream = StreamOwned::new(connection, socket);
    stream.write_all(chat().as_bytes()).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    assert_eq!(upstream.requests()[0].field("x-forwarded-proto").as_deref(), Some("https"));

    let mut plain = Client::to(back.0.address());
    plain.write(chat());
    let said = plain.read_all();
    assert!(!said.starts_with(b"HTTP"), "an alert at most");
    eventually("counted", || back.metric("evenload_failed_handshakes_total") == 1.0);
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn a_handshake_that_hangs_is_ended() {
    let (upstream, certificate) = (Upstream::fine(), Certificate::new());
    let gateway = Gateway::with(&[upstream.address], |settings| {
        settings.tls.identity = Some(certificate.identity.clone());
        settings.limits.header_timeout = Duration::from_millis(100);
    });
    // The beginning of a record that never ends.
    for said in [&b""[..], &b"\x16\x03\x01\x02"[..]] {
        let mut silent = gateway.client();
        silent.write(said);
        assert_eq!(silent.read_all(), b"");
    }
    eventually("counted", || gateway.metric("evenload_failed_handshakes_total") == 2.0);
    gateway.settle();
}

#[test]
fn a_certificate_that_cannot_be_used_is_said_at_the_start() {
    let certificate = Certificate::new();
    let mut settings = Settings::new(vec!["http://127.0.0.1:1".parse().unwrap()]).unwrap();
    settings.listen = "127.0.0.1:0".parse().unwrap();
    settings.admin_listen = settings.listen;
    settings.tls.identity = Some(Identity { key: "/missing.key".into(), ..certificate.identity.clone() });
    let error = gateway::start(settings).err().unwrap().to_string();
    assert!(error.starts_with("/missing.key: "), "{error}");
}
