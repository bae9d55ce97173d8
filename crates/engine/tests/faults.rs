//! Faults on demand, as a client sees them.

mod support;

use std::{
    io::{BufReader, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use engine::{Config, FixedTimes};
use serde_json::json;
use support::{Reply, events, get, post, quick, receive, send, start, state, until};

fn ask(address: SocketAddr, fault: &str, stream: bool) -> TcpStream {
    let body = json!({"prompt": "x", "max_tokens": 6, "stream": stream}).to_string();
    send(address, "POST", "/v1/completions", &format!("x-sim-fault: {fault}\r\n"), &body)
}

fn answer(address: SocketAddr, fault: &str) -> std::io::Result<Reply> {
    receive(ask(address, fault, true))
}

/// Reads a stream until it breaks: how many events came, and how it broke.
fn broken(stream: TcpStream) -> (usize, ErrorKind) {
    let mut reader = BufReader::new(stream);
    support::read_head(&mut reader).expect("a head");
    let mut count = 0;
    loop {
        match support::read_chunk(&mut reader) {
            Ok(Some(_)) => count += 1,
            Ok(None) => panic!("the stream ended in good order"),
            Err(error) => return (count, error.kind()),
        }
    }
}

#[test]
fn a_status_is_given_instead_of_an_answer() {
    let (_fleet, address) = start(quick());
    let reply = answer(address, "status=503").expect("an answer");
    assert_eq!(reply.status, 503);
    assert!(reply.head.contains("retry-after: 1"), "{}", reply.head);
    assert_eq!(reply.json()["error"]["code"], 503);
    assert_eq!(answer(address, "explode").expect("an answer").status, 400);
    assert_eq!(answer(address, "delay=30").expect("an answer").status, 200);
}

#[test]
fn a_connection_is_reset_before_the_head() {
    let (_fleet, address) = start(quick());
    let error = answer(address, "reset_before_headers").err().expect("no answer");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn streams_break_after_the_tokens_that_they_are_told_to() {
    let (_fleet, address) = start(quick());
    assert_eq!(broken(ask(address, "reset_after_tokens=3", true)).1, ErrorKind::ConnectionReset);
    assert_eq!(broken(ask(address, "truncate=3", true)), (3, ErrorKind::UnexpectedEof));
    assert_eq!(broken(ask(address, "truncate=0", true)), (0, ErrorKind::UnexpectedEof));
    until(address, "nothing left", |state| state["requests"] == json!(0));
    assert_eq!(state(address)["aborted"], 3);
}

/// The length that an answer announces.
fn announced(reply: &Reply) -> usize {
    let length = reply.head.lines().find_map(|line| line.strip_prefix("content-length: "));
    length.and_then(|length| length.parse().ok()).expect("a length")
}

#[test]
fn answers_in_one_piece_go_wrong_as_a_whole() {
    let (_fleet, address) = start(quick());
    for (path, body, tokens) in [
        ("/v1/completions", json!({"prompt": "x", "max_tokens": 6}), 2),
        ("/v1/embeddings", json!({"input": ["x", "y"]}), 0),
    ] {
        let ask = |fault: &str| {
            let header = format!("x-sim-fault: {fault}={tokens}\r\n");
            receive(send(address, "POST", path, &header, &body.to_string()))
        };
        let failed = ask("error").expect("an answer");
        assert_eq!((failed.status, failed.json()["error"]["code"].clone()), (500, json!(500)), "{path}");
        let cut = ask("truncate").expect("a head");
        assert_eq!(
            (cut.status, cut.body.len()),
            (200, announced(&cut) / 2),
            "{path}: half of what was announced"
        );
        assert!(cut.text().starts_with("{\"id\":"), "{path}: {}", cut.text());
        let ended = ask("end").expect("an answer");
        assert_eq!(ended.body.len(), announced(&ended), "{path}: in good order");
        assert!(serde_json::from_slice::<serde_json::Value>(&ended.body).is_err(), "{path}: but not whole");
        let malformed = ask("malformed").expect("an answer");
        assert_eq!((malformed.status, malformed.text().as_str()), (200, "{\"id\":"), "{path}");
        let reset = ask("reset_after_tokens").err().expect("no answer");
        assert_eq!(reset.kind(), ErrorKind::ConnectionReset, "{path}");
    }
    let later = receive(ask(address, "error=6", false)).expect("an answer");
    assert_eq!(later.status, 200, "an answer of six tokens ends before");
    until(address, "nothing left", |state| state["requests"] == json!(0));
}

#[test]
fn a_reset_that_did_not_come_is_not_left_to_the_next_request() {
    let (_fleet, address) = start(quick());
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(support::PATIENCE)).expect("a time limit");
    let late = "x-sim-fault: reset_after_tokens=100\r\n";
    assert_eq!(in_two_steps(&mut stream, "POST /v1/completions", late), 200);
    let body = json!({"prompt": "x", "max_tokens": 6, "stream": true}).to_string();
    let length = body.len();
    write!(
        stream,
        "POST /v1/completions HTTP/1.1\r\nhost: test\r\nx-sim-fault: truncate=3\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .expect("a request sent");
    assert_eq!(broken(stream).1, ErrorKind::UnexpectedEof);
}

#[test]
fn a_client_that_leaves_a_hung_request_is_let_go() {
    let (_fleet, address) = start(quick());
    let body = json!({"prompt": "x".repeat(60_000)}).to_string();
    let mut stream = send(address, "POST", "/v1/completions", "x-sim-fault: hang\r\n", &body);
    stream.shutdown(Shutdown::Write).expect("no more from here");
    assert_eq!(stream.read(&mut [0]).expect("closed on the other side, too"), 0);
}

/// Sends a request whose body comes after its head, and reads the answer's status.
fn in_two_steps(stream: &mut TcpStream, line: &str, header: &str) -> u16 {
    const BODY: &str = r#"{"prompt": "x", "max_tokens": 1}"#;
    write!(stream, "{line} HTTP/1.1\r\nhost: test\r\n{header}content-length: {}\r\n\r\n", BODY.len())
        .expect("a head sent");
    // An answer that does not wait for the body is here by then.
    std::thread::sleep(Duration::from_millis(30));
    stream.write_all(BODY.as_bytes()).expect("a body sent");
    let mut reader = BufReader::new(stream);
    let head = support::read_head(&mut reader).expect("an answer");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    let mut body = vec![0; announced(&Reply { status, head, body: Vec::new() })];
    reader.read_exact(&mut body).expect("a body");
    status
}

#[test]
fn an_error_leaves_the_connection_as_it_was() {
    let (_ready, ready) = start(quick());
    let (_starting, starting) = start(Config { startup_delay: Duration::from_secs(3600), ..quick() });
    for (address, line, header, status) in [
        (ready, "POST /v1/completions", "x-sim-fault: status=503\r\n", 503),
        (ready, "POST /v1/completions", "x-sim-fault: explode\r\n", 400),
        (ready, "POST /v1/nothing", "", 404),
        (ready, "POST /health", "", 405),
        (starting, "POST /v1/completions", "", 503),
    ] {
        let mut stream = TcpStream::connect(address).expect("a connection");
        stream.set_read_timeout(Some(support::PATIENCE)).expect("a time limit");
        for _ in 0..3 {
            assert_eq!(in_two_steps(&mut stream, line, header), status, "{line} {header}");
        }
    }
}

#[test]
fn streams_go_wrong_in_other_ways() {
    let (_fleet, address) = start(quick());
    let ended = events(&answer(address, "end=2").expect("an answer"));
    assert_eq!(ended.len(), 2, "neither the rest nor [DONE]");
    let failed = events(&answer(address, "error=2").expect("an answer"));
    assert!(failed[2].contains("EngineCore"), "{failed:?}");
    assert_eq!(failed.len(), 4);
    let malformed = events(&answer(address, "malformed=2").expect("an answer"));
    assert_eq!(malformed.len(), 6 + 2);
    assert!(serde_json::from_str::<serde_json::Value>(&malformed[2]).is_err());
}

#[test]
fn the_lateness_of_steps_is_counted_anew_when_asked() {
    let (_fleet, address) = start(quick());
    answer(address, "end=2").expect("an answer");
    assert!(state(address)["step_lag"]["max_ms"].as_f64() > Some(0.0));
    assert_eq!(post(address, "/sim/reset_lag", &json!({})).status, 200);
    assert_eq!(state(address)["step_lag"]["max_ms"], json!(0.0));
}

#[test]
fn a_stalled_stream_and_a_hung_request_stay_open() {
    let (_fleet, address) = start(quick());
    for (fault, bytes) in [("stall=2", true), ("hang", false)] {
        let mut stream = ask(address, fault, true);
        if bytes {
            until(address, "the rest of it generated", |state| state["finished"] == json!(1));
        }
        stream.set_read_timeout(Some(Duration::from_millis(150))).expect("a time limit");
        let mut all = Vec::new();
        let error = stream.read_to_end(&mut all).expect_err("still open");
        assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{fault}: {error}");
        let text = String::from_utf8(all).expect("text");
        assert_eq!(text.matches("data: ").count(), if bytes { 2 } else { 0 }, "{fault}: {text}");
    }
}

#[test]
fn a_plan_hits_the_requests_to_come_and_is_over_after_its_count() {
    let (_fleet, address) = start(quick());
    let plan = json!({"fault": "status=500", "count": 2});
    assert_eq!(post(address, "/sim/fault", &plan).status, 200);
    assert_eq!(get(address, "/health").status, 200, "only requests that generate");
    let body = json!({"prompt": "x"});
    assert_eq!([(); 3].map(|()| post(address, "/v1/completions", &body).status), [500, 500, 200]);
    let everywhere = json!({"fault": "status=502", "every_path": true});
    post(address, "/sim/fault", &everywhere);
    assert_eq!(get(address, "/metrics").status, 502);
    post(address, "/sim/fault", &json!({"fault": "none"}));
    assert_eq!(get(address, "/metrics").status, 200);
    for order in [
        json!({"fault": "explode"}),
        json!({"fault": "hang", "count": 0}),
        json!({"fault": "hang", "probability": 5}),
        json!({"fault": "slow=3", "count": 2}),
    ] {
        assert_eq!(post(address, "/sim/fault", &order).status, 400, "{order}");
    }
    assert_eq!(state(address)["slowdown"], 1.0);
    assert_eq!(post(address, "/v1/completions", &body).status, 200, "none of it befell anything");
}

#[test]
fn fixed_times_are_stretched_like_steps() {
    let minute = Duration::from_secs(60);
    let fixed = FixedTimes { first_token: minute, between_tokens: minute };
    let (_fleet, address) = start(Config { fixed_times: Some(fixed), ..quick() });
    assert_eq!(post(address, "/sim/fault", &json!({"fault": "slow=0.01"})).status, 200);
    let reply = post(address, "/v1/completions", &json!({"prompt": "x", "max_tokens": 2}));
    assert_eq!(reply.status, 200, "after two hundredths of a minute, not after two minutes");
}

#[test]
fn a_replica_can_be_unhealthy_slow_or_deaf() {
    let (_fleet, address) = start(quick());
    post(address, "/sim/fault", &json!({"fault": "health_down"}));
    assert_eq!(get(address, "/health").status, 503);
    assert_eq!(post(address, "/v1/completions", &json!({"prompt": "x"})).status, 200);
    assert_eq!(post(address, "/sim/fault", &json!({"fault": "slow=8"})).json()["slowdown"], 8.0);
    post(address, "/sim/fault", &json!({"fault": "none"}));
    assert_eq!(get(address, "/health").status, 200);
    assert_eq!(state(address)["slowdown"], 1.0);

    post(address, "/sim/fault", &json!({"fault": "refuse=300"}));
    let refused = (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(1));
        TcpStream::connect(address).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
    assert!(refused);
    let again = (0..1000).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        TcpStream::connect(address).is_ok()
    });
    assert!(again, "it listens again");
}

#[test]
fn nothing_is_ready_before_the_start_up_delay_is_over() {
    let (_fleet, address) = start(Config { startup_delay: Duration::from_secs(3600), ..quick() });
    assert_eq!(get(address, "/health").status, 503);
    assert_eq!(post(address, "/v1/completions", &json!({"prompt": "x"})).status, 503);
    assert_eq!(state(address)["requests"], 0);
}
