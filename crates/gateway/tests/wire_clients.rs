//! Slow and hostile clients: rows 26 to 30 of the acceptance table.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{
    net::TcpStream,
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use routing::HealthState;
use support::{Client, Gateway, PATIENCE, STREAM_HEAD, Upstream, chat, chunk, eventually, post, reset};

#[test]
fn w26_slow_heads_are_cut_off_in_total_time() {
    let upstream = Upstream::fine();
    let gateway = Gateway::with(&[upstream.address], |settings| {
        settings.limits.header_timeout = Duration::from_millis(300);
    });
    let mut slow: Vec<Client> = (0..50).map(|_| gateway.client()).collect();
    for _ in 0..20 {
        // A byte now and then must not buy time.
        for client in &mut slow {
            client.try_write("G");
        }
        thread::sleep(Duration::from_millis(30));
    }
    for client in &mut slow {
        let last = client.read_all();
        assert!(last.is_empty() || last.starts_with(b"HTTP/1.1 408 "), "{last:?}");
    }
    gateway.expect_errors("header_timeout", 50);
    assert_eq!(gateway.ask(chat()).status, 200);
    assert_eq!(upstream.requests().len(), 1);
    gateway.settle();
}

#[test]
fn w26_a_head_that_breaks_off_is_told_so_and_silence_is_not() {
    let gateway = Gateway::with(&[Upstream::fine().address], |settings| {
        settings.limits.header_timeout = Duration::from_millis(300);
        settings.limits.idle_timeout = Duration::from_millis(600);
    });
    assert_eq!(gateway.client().read_all(), b"", "whoever asked nothing is told nothing");
    gateway.expect_errors("header_timeout", 0);
    let mut client = gateway.client();
    client.write("GET /v1/models HTT");
    let answer = client.answer();
    assert_eq!((answer.status, answer.code().as_str()), (408, "header_timeout"));
    assert_eq!(client.read_some(), None);
    gateway.expect_errors("header_timeout", 1);
    assert_eq!(gateway.metric("evenload_requests_total{replica=\"\",code=\"4xx\"}"), 1.0);
    gateway.settle();
}

#[test]
fn w26_idle_connections_have_their_own_limit() {
    let gateway = Gateway::with(&[Upstream::fine().address], |settings| {
        settings.limits.header_timeout = Duration::from_millis(100);
        settings.limits.idle_timeout = Duration::from_millis(600);
    });
    let mut client = gateway.client();
    client.write(chat());
    client.answer();
    // Longer than the time for a head, shorter than that for idleness.
    thread::sleep(Duration::from_millis(300));
    client.write(chat());
    assert_eq!(client.answer().status, 200);
    assert_eq!(client.read_some(), None, "closed in the end, without a word");
    gateway.settle();
}

#[test]
fn w27_slow_bodies_hold_no_replica() {
    let upstream = Upstream::fine();
    let gateway = Gateway::with(&[upstream.address], |settings| {
        settings.limits.body_timeout = Duration::from_millis(300);
    });
    let mut client = gateway.client();
    client.write("POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n");
    for _ in 0..20 {
        client.try_write("a");
        thread::sleep(Duration::from_millis(30));
        assert_eq!(gateway.0.router().replicas()[0].load.requests(), 0);
    }
    let answer = client.answer();
    assert_eq!((answer.status, answer.code().as_str()), (408, "body_timeout"));
    assert_eq!(upstream.requests().len(), 0);
    gateway.settle();
}

#[test]
fn w28_a_client_that_does_not_read_holds_the_replica_back() {
    let (progress, written) = mpsc::channel();
    let progress = Mutex::new(progress);
    let upstream = Upstream::new(move |conn| {
        conn.read_request();
        conn.write(STREAM_HEAD);
        conn.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        let piece = chunk(&"a".repeat(60_000));
        let mut sent = 0usize;
        while sent < 1 << 30 && std::io::Write::write_all(&mut conn.stream, piece.as_bytes()).is_ok() {
            sent += piece.len();
        }
        progress.lock().unwrap().send(sent).unwrap();
        while conn.read_request().is_some() {}
    });
    let gateway = Gateway::with(&[upstream.address], |settings| {
        settings.limits.stream_timeout = Duration::from_millis(1500);
    });
    let mut client = gateway.client();
    client.write(chat());
    let sent = written.recv_timeout(PATIENCE).unwrap();
    assert!(sent < 64 << 20, "{sent} bytes were taken for a client that reads nothing");
    gateway.expect_errors("client_stalled", 1);
    gateway.settle();
}

/// What a client does to leave.
#[derive(Clone, Copy, Debug)]
enum Leave {
    Close,
    Reset,
    HalfClose,
}

/// Where the replica is when the client leaves.
#[derive(Clone, Copy, Debug)]
enum At {
    Head,
    Stream,
}

#[test]
fn w29_a_client_that_leaves_cancels_its_request() {
    for at in [At::Head, At::Stream] {
        for leave in [Leave::Close, Leave::Reset, Leave::HalfClose] {
            for stray in ["", "\r\n", "GET /pipelined HTTP/1.1\r\nHost: a\r\n\r\n"] {
                leaves(at, leave, stray);
            }
        }
    }
}

fn leaves(at: At, leave: Leave, stray: &str) {
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let upstream = Upstream::new(move |conn| {
        conn.read_request();
        if matches!(at, At::Stream) {
            conn.write(STREAM_HEAD);
            conn.write(chunk("data: 1\n\n"));
        }
        tell.lock().unwrap().send(false).unwrap();
        let closed = conn.is_closed_by_peer();
        tell.lock().unwrap().send(closed).unwrap();
    });
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.client();
    client.write(chat());
    told.recv_timeout(PATIENCE).unwrap();
    if matches!(at, At::Stream) {
        client.read_until(b"data: 1\n\n\r\n");
    }
    client.write(stray);
    thread::sleep(Duration::from_millis(10));
    match leave {
        Leave::Close => drop(client),
        Leave::Reset => {
            reset(&client.stream);
            drop(client);
        }
        Leave::HalfClose => {
            client.half_close();
            client.read_all();
        }
    }
    assert_eq!(told.recv_timeout(PATIENCE), Ok(true), "{at:?} {leave:?} {stray:?}");
    gateway.settle();
    gateway.expect_errors("client_gone", 1);
    assert_eq!(upstream.requests().len(), 1);
    let health = gateway.0.router().replicas()[0].health.eligible(Duration::from_secs(1));
    assert!(health, "that says nothing about the replica");
}

#[test]
fn w29_an_answer_that_was_not_heard_out_teaches_nothing_of_lengths() {
    let upstream = Upstream::new(|conn| {
        conn.read_request();
        conn.write(STREAM_HEAD);
        conn.write(chunk("data: 1\n\n"));
        conn.is_closed_by_peer();
    });
    let gateway = Gateway::before(&upstream);
    let expected = || {
        let mut client = gateway.client();
        client.write(chat());
        client.read_until(b"data: 1\n\n\r\n");
        let tokens = gateway.0.router().replicas()[0].load.snapshot().output_tokens;
        drop(client);
        gateway.settle();
        tokens
    };
    let first = expected();
    for _ in 0..40 {
        assert_eq!(expected(), first);
    }
}

/// The head of a stream of events that cannot be read.
const HIDDEN: &str = "HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream\r\nContent-Encoding: gzip\r\n\
                      Transfer-Encoding: chunked\r\n\r\n";

#[test]
fn w29_a_replica_works_whose_streams_are_cut_off() {
    cut_streams_off(false);
    cut_streams_off(true);
}

fn cut_streams_off(hidden: bool) {
    let upstream = Upstream::new(|conn| {
        while let Some(request) = conn.read_request() {
            match &*request.body {
                b"fail" => conn.write("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"),
                b"stream" => conn.write(format!("{STREAM_HEAD}{}", chunk("data: 1\n\n"))),
                b"hidden stream" => conn.write(format!("{HIDDEN}{}", chunk("gzip"))),
                b"hidden" => conn.write(HIDDEN),
                _ => conn.write(STREAM_HEAD),
            }
        }
    });
    let gateway = Gateway::with(&[upstream.address], |settings| {
        settings.health.consecutive_failures = 2;
        settings.health.minimum_results = 1000;
    });
    let state = || gateway.0.router().replicas()[0].health.state(Duration::from_secs(1));
    let fail = || {
        assert_eq!(gateway.ask(post("fail")).status, 500);
        gateway.settle();
    };
    let cut_off_after = |body: &str, text: &str| {
        let mut client = gateway.client();
        client.write(post(body));
        client.read_until(text.as_bytes());
        drop(client);
        gateway.settle();
    };
    for _ in 0..3 {
        fail();
        cut_off_after("stream", "data: 1\n\n");
        fail();
        cut_off_after("hidden stream", "gzip");
    }
    fail();
    assert_eq!(state(), HealthState::Unknown);
    cut_off_after(if hidden { "hidden" } else { "only the head" }, "\r\n\r\n");
    fail();
    assert_eq!(state(), HealthState::Ejected, "engines send the head before they begin");
}

#[test]
fn w29_who_leaves_after_the_last_event_has_heard_the_answer_out() {
    for last in [
        "data: [DONE]\n\n",
        "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
        "data: {\"type\":\"response.completed\",\"response\":{}}\n\n",
    ] {
        let upstream = Upstream::new(move |conn| {
            while let Some(request) = conn.read_request() {
                if request.head.starts_with("GET") {
                    conn.is_closed_by_peer();
                    return;
                }
                conn.write(STREAM_HEAD);
                conn.write(chunk(&"data: 1\n\n".repeat(500)));
                // The end of the body comes later than the client waits.
                conn.write(chunk(last));
            }
        });
        let gateway = Gateway::before(&upstream);
        for _ in 0..20 {
            let mut client = gateway.client();
            client.write(chat());
            client.read_until(last.as_bytes());
            drop(client);
            gateway.settle();
        }
        assert_eq!(gateway.metric("evenload_errors_total{reason=\"client_gone\"}"), 0.0, "{last}");
        let mut client = gateway.client();
        client.write("GET /held HTTP/1.1\r\nHost: a\r\n\r\n");
        let load = || gateway.0.router().replicas()[0].load.snapshot();
        eventually("it is at the replica", || load().requests == 1);
        assert!(load().output_tokens.abs_diff(500) < 50, "{:?}", load());
        drop(client);
        gateway.settle();
    }
}

#[test]
fn w29_a_client_that_leaves_much_behind_is_noticed() {
    for leave in [Leave::Close, Leave::Reset, Leave::HalfClose] {
        let (tell, told) = mpsc::channel();
        let tell = Mutex::new(tell);
        let upstream = Upstream::new(move |conn| {
            conn.read_request();
            tell.lock().unwrap().send(false).unwrap();
            let closed = conn.is_closed_by_peer();
            tell.lock().unwrap().send(closed).unwrap();
        });
        let gateway = Gateway::before(&upstream);
        let mut client = gateway.client();
        client.write(chat());
        told.recv_timeout(PATIENCE).unwrap();
        // More than is read ahead, in pieces.
        client.write(post(&"a".repeat(70_000)));
        thread::sleep(Duration::from_millis(20));
        client.write("b".repeat(70_000));
        match leave {
            Leave::Close => drop(client),
            Leave::Reset => {
                reset(&client.stream);
                drop(client);
            }
            Leave::HalfClose => client.half_close(),
        }
        assert_eq!(told.recv_timeout(PATIENCE), Ok(true), "{leave:?}");
        gateway.settle();
        gateway.expect_errors("client_gone", 1);
    }
}

#[test]
fn w29_much_that_is_sent_ahead_is_served() {
    let upstream = Upstream::new(|conn| {
        while conn.read_request().is_some() {
            thread::sleep(Duration::from_millis(50));
            conn.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
        }
    });
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.client();
    let long = post(&"a".repeat(100_000));
    client.write([chat(), long.clone(), long.clone(), chat()].concat());
    for _ in 0..4 {
        assert_eq!(client.answer().status, 200);
    }
    client.half_close();
    assert_eq!(client.read_some(), None);
    gateway.settle();
}

#[test]
fn w29_a_client_may_leave_during_the_connect() {
    // A full backlog: the kernel drops the SYN, and the connect hangs.
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let _fill: Vec<_> =
        (0..3).map(|_| TcpStream::connect_timeout(&address, Duration::from_millis(50))).collect();
    let gateway = Gateway::with(&[address], |settings| settings.limits.connect_timeout = PATIENCE);
    let mut client = gateway.client();
    client.write(chat());
    eventually("the request is at the replica", || gateway.0.router().replicas()[0].load.requests() == 1);
    drop(client);
    gateway.settle();
    gateway.expect_errors("client_gone", 1);
}

#[test]
fn w29_a_client_may_leave_during_its_body() {
    let gateway = Gateway::before(&Upstream::fine());
    let mut client = gateway.client();
    client.write("POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\nhalf");
    eventually("the request is under way", || gateway.0.in_flight() == 1);
    drop(client);
    gateway.settle();
    assert_eq!(gateway.metric("evenload_buffered_body_bytes"), 0.0);
}

#[test]
fn buffered_bodies_are_limited_in_all() {
    let upstream = Upstream::fine();
    let gateway = Gateway::with(&[upstream.address], |settings| settings.limits.max_buffered = 10_000);
    let mut clients: Vec<Client> = (0..3).map(|_| gateway.client()).collect();
    for client in &mut clients {
        client.write("POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n");
        client.write("a".repeat(4000));
        thread::sleep(Duration::from_millis(20));
    }
    let answer = clients[2].answer();
    assert_eq!((answer.status, answer.code().as_str()), (503, "buffer_full"));
    assert_eq!(answer.field("retry-after").as_deref(), Some("1"));
    clients[0].write("a".repeat(1000));
    assert_eq!(clients[0].answer().status, 200);
    drop(clients);
    gateway.settle();
    eventually("no bytes held", || gateway.metric("evenload_buffered_body_bytes") == 0.0);
}

#[test]
fn many_streams_share_one_thread() {
    let upstream = Upstream::new(|conn| {
        while conn.read_request().is_some() {
            conn.write(STREAM_HEAD);
            for number in 0..20 {
                conn.write(chunk(&format!("data: {number}\n\n")));
            }
            conn.write("0\r\n\r\n");
        }
    });
    let gateway = Arc::new(Gateway::before(&upstream));
    let expected: String = (0..20).map(|number| format!("data: {number}\n\n")).collect();
    let threads: Vec<_> = (0..16)
        .map(|_| {
            let (gateway, expected) = (Arc::clone(&gateway), expected.clone());
            thread::spawn(move || {
                let mut client = gateway.client();
                for _ in 0..20 {
                    client.write(post(r#"{"model":"m","stream":true,"messages":[]}"#));
                    let answer = client.answer();
                    assert_eq!((answer.text(), answer.whole), (expected.clone(), true));
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    gateway.settle();
    let replica = format!("{{replica=\"http://{}\",code=\"2xx\"}}", upstream.address);
    assert_eq!(gateway.metric(&format!("evenload_requests_total{replica}")), 320.0);
}
